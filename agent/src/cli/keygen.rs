//! `fieldmedic keygen`: makes a key pair for signing commands. Never overwrites one: the old key may be the last that a
//! fleet obeys.

#![expect(clippy::disallowed_methods, reason = "keys are made of random bytes, and written to files")]

use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::config::TrustedKey;
use crate::wire::keys::{SigningKey, private_pem, public_pem};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  fieldmedic keygen --out keys --kid ops-1\n\n\
    Keep NAME.key where commands are signed, and nowhere else; put NAME.pub on the gateways.")]
pub(super) struct KeygenArgs {
    /// The directory to write NAME.key and NAME.pub to; made if it isn't there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The key's id: the name of the files, and the kid in each command's header.
    #[arg(long, value_name = "NAME", default_value = "ops-1", value_parser = parse_kid)]
    kid: String,
}

pub(super) fn parse_kid(text: &str) -> Result<String, String> {
    if TrustedKey::is_kid(text) { Ok(text.to_owned()) } else { Err(TrustedKey::kid_expected()) }
}

/// A key pair's files.
pub(super) struct Pair {
    pub(super) private: PathBuf,
    pub(super) public: PathBuf,
    pub(super) trusted: TrustedKey,
}

pub(super) fn run(args: &KeygenArgs) -> anyhow::Result<()> {
    let pair = write_pair(&args.out, &args.kid)?;
    let (private, public) = (pair.private.display(), pair.public.display());
    let trusted = pair.trusted;
    writeln!(
        io::stdout().lock(),
        "private key  {private} (mode 0600)\npublic key   {public}\n\
         for the gateway's configuration:\n[commands]\ntrusted_keys = [\"{trusted}\"]"
    )
    .context("write to stdout")
}

/// Makes a pair and writes it: `KID.key`, readable for its owner only, and `KID.pub`.
pub(super) fn write_pair(dir: &Path, kid: &str) -> anyhow::Result<Pair> {
    let NewPair { private_pem, public_pem, trusted } = make_pair(kid).context("--kid")?;
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let (private, public) = (dir.join(format!("{kid}.key")), dir.join(format!("{kid}.pub")));
    if public.symlink_metadata().is_ok() {
        bail!("{} is there already: choose another --kid or --out", public.display());
    }
    create(&private, &private_pem, 0o600)?;
    if let Err(error) = create(&public, &public_pem, 0o644) {
        // Half a pair would only stand in the way of the next try. If it stays, that one says so.
        let _ = std::fs::remove_file(&private);
        return Err(error);
    }
    Ok(Pair { private, public, trusted })
}

/// A pair that stands in no file yet.
pub(super) struct NewPair {
    pub(super) private_pem: String,
    pub(super) public_pem: String,
    pub(super) trusted: TrustedKey,
}

/// Makes a pair.
pub(super) fn make_pair(kid: &str) -> anyhow::Result<NewPair> {
    pair_of(kid, private_pem(random()?))
}

/// The pair that a private key is one half of.
pub(super) fn pair_of(kid: &str, private_pem: String) -> anyhow::Result<NewPair> {
    let public_pem = public_pem(SigningKey::from_pem(&private_pem)?.public());
    if !TrustedKey::is_kid(kid) {
        bail!("found {kid:?}: {}", TrustedKey::kid_expected());
    }
    let trusted = TrustedKey::from_pem(kid, &public_pem)?;
    Ok(NewPair { private_pem, public_pem, trusted })
}

/// Random bytes from the kernel.
pub(super) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("the kernel gives no random bytes"))?;
    Ok(bytes)
}

/// Makes a file of a key, with this mode whatever the umask says.
pub(super) fn create(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("make {} (an existing key is never overwritten)", path.display()))?;
    let opened = file.set_permissions(Permissions::from_mode(mode));
    let written = opened.and_then(|()| file.write_all(text.as_bytes())).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written.with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_way_of_one_half_leaves_no_other_half() {
        let dir = tempfile::tempdir().unwrap();
        let public = dir.path().join("ops-1.pub");
        std::os::unix::fs::symlink("/nonexistent/ops-1.pub", &public).unwrap();
        let error = write_pair(dir.path(), "ops-1").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("ops-1.pub is there already"), "{error}");
        assert!(!dir.path().join("ops-1.key").exists());
        std::fs::remove_file(&public).unwrap();
        write_pair(dir.path(), "ops-1").unwrap();
    }
}
