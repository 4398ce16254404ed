//! Puts files in place: each whole or not at all, on disk before it has its name, and with its mode from the beginning.
//! Only a key has its name at once, so that of two that are made at a time one fails, and no half is left of each.

#![expect(clippy::disallowed_types, reason = "files are what this is for")]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::agent_user::{User, agent_user_for_root};
use crate::cli::keygen;
use crate::config;

/// For everybody to read.
const PUBLIC: u32 = 0o644;
/// For its owner alone.
const PRIVATE: u32 = 0o600;
/// For its owner, and for the agent to read.
const SHARED: u32 = 0o640;
/// A directory of those.
const SHARED_DIR: u32 = 0o750;
/// For everybody to pass through.
const PUBLIC_DIR: u32 = 0o755;

/// A file that is to be.
pub(super) struct Planned {
    pub(super) path: PathBuf,
    text: String,
    /// For the summary.
    pub(super) what: &'static str,
    /// Whoever has the other half, or obeys this one, has no other: nobody replaces it here.
    is_key: bool,
    mode: u32,
}

/// What came of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    New,
    /// It was there, and says the same.
    AsItWas,
}

impl Planned {
    pub(super) fn text(path: PathBuf, text: &str, what: &'static str) -> Self {
        Self { path, text: text.to_owned(), what, is_key: false, mode: PUBLIC }
    }

    pub(super) const fn is_private_key(&self) -> bool {
        self.is_key && self.mode == PRIVATE
    }

    pub(super) fn private_key(path: PathBuf, text: &str, what: &'static str) -> Self {
        Self { is_key: true, mode: PRIVATE, ..Self::text(path, text, what) }
    }

    pub(super) fn public_key(path: PathBuf, text: &str, what: &'static str) -> Self {
        Self { is_key: true, ..Self::text(path, text, what) }
    }

    /// What the agent has to read, and nobody else.
    pub(super) fn secret(path: PathBuf, text: &str, what: &'static str) -> Self {
        Self { mode: SHARED, ..Self::text(path, text, what) }
    }

    fn is_there(&self) -> bool {
        config::read_text(&self.path).is_ok_and(|text| text == self.text)
    }
}

/// Looks before anything is written.
///
/// # Errors
/// Files that say something else are in the way: keys, or others and `force` is not said.
pub(super) fn refuse_to_overwrite(plan: &[Planned], force: bool) -> anyhow::Result<()> {
    let in_the_way = |planned: &&Planned| planned.path.symlink_metadata().is_ok() && !planned.is_there();
    let (keys, others): (Vec<_>, Vec<_>) = plan.iter().filter(in_the_way).partition(|planned| planned.is_key);
    if !keys.is_empty() {
        bail!("{}; a key is never replaced: choose another name", refusal(&keys));
    }
    if !others.is_empty() && !force {
        let them = if others.len() == 1 { "it" } else { "them" };
        bail!("{}; --force replaces {them}", refusal(&others));
    }
    Ok(())
}

fn refusal(in_the_way: &[&Planned]) -> String {
    let (are, say) = if in_the_way.len() == 1 { ("is", "says") } else { ("are", "say") };
    let names: Vec<String> = in_the_way.iter().map(|planned| planned.path.display().to_string()).collect();
    format!("{} {are} there already, and {say} something else: nothing was written", names.join(" and "))
}

/// Puts all in place, in order.
///
/// # Errors
/// The first that can't be written; those before it stand.
pub(super) fn write(plan: Vec<Planned>, is_bench: bool) -> anyhow::Result<Vec<(Planned, Written)>> {
    let mut all = Vec::new();
    for planned in plan {
        let done = if planned.is_there() {
            Written::AsItWas
        } else {
            let path = planned.path.display();
            put(&planned, is_bench).with_context(|| format!("write {path} (as root, or elsewhere with --out DIR)"))?;
            Written::New
        };
        all.push((planned, done));
    }
    Ok(all)
}

fn put(Planned { path, text, mode, is_key, .. }: &Planned, is_bench: bool) -> anyhow::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { bail!("it has no name") };
    // Only root gives files away; without the agent's user, as on a bench, they are the caller's alone.
    let reader = agent_user_for_root().filter(|_| *mode == SHARED);
    make_dir(dir, *mode, reader, is_bench)?;
    if *is_key {
        keygen::create(path, text, *mode)?;
        return Ok(File::open(dir)?.sync_all()?);
    }
    let new = dir.join(format!(".{}.new", name.to_string_lossy()));
    // What a run that was cut off has left.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&new)?;
    file.write_all(text.as_bytes())?;
    if let Some(User { gid, .. }) = reader {
        chown(&new, None, Some(gid))?;
    }
    // Whatever the umask says.
    file.set_permissions(Permissions::from_mode(if *mode == SHARED && reader.is_none() { PRIVATE } else { *mode }))?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(File::open(dir)?.sync_all()?)
}

/// The directory of a file with this mode, and what is missing above it. On a gateway the agent passes through it as a
/// user of its own, whatever the umask says.
fn make_dir(dir: &Path, mode: u32, reader: Option<User>, is_bench: bool) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(above) = dir.parent() {
        make_dir(above, PUBLIC, None, is_bench)?;
    }
    match fs::create_dir(dir) {
        // Another was faster: its mode is the other's business.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => return Ok(()),
        made => made?,
    }
    if mode == SHARED {
        fs::set_permissions(dir, Permissions::from_mode(SHARED_DIR))?;
        if let Some(User { gid, .. }) = reader {
            chown(dir, None, Some(gid))?;
        }
    } else if !is_bench {
        fs::set_permissions(dir, Permissions::from_mode(PUBLIC_DIR))?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test looks at the files that were made")]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_another_has_made_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ops-1.key");
        let plan = || vec![Planned::private_key(path.clone(), "ours", "")];
        refuse_to_overwrite(&plan(), true).unwrap();
        fs::write(&path, "theirs").unwrap();
        let error = write(plan(), true).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("never overwritten"), "{error:#}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    }
}
