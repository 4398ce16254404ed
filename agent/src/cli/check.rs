//! `fieldmedic check`: says what is wrong with a configuration, or which one is in force. It starts nothing and opens
//! nothing but the files it is given and the certificates, keys and password that they name. What is wrong with those,
//! and with the directories that they name, is only a warning: the machine that checks need not be the gateway.

use std::io::{self, Write};
use std::path::PathBuf;

use super::logging::Loudness;
use super::{BAD_USAGE, DONE, FAILED};
use crate::agent_user::{User, agent_user_for_root};
use crate::collect::clock;
use crate::config::{self, Loaded, Problem};
use crate::runtime::mqtt::transport;

/// Checks the configuration that these files make together. Exit code 0, with the effective configuration on stdout and
/// warnings on stderr; or 2, with every error on stderr as `FILE:LINE: message`.
#[must_use]
pub(super) fn run(files: &[PathBuf], loudness: Loudness) -> u8 {
    let warns = !loudness.is_errors_only();
    check(files, warns, &mut io::stdout().lock(), &mut io::stderr().lock()).unwrap_or(FAILED)
}

fn check(files: &[PathBuf], warns: bool, out: &mut impl Write, err: &mut impl Write) -> io::Result<u8> {
    match config::load(files) {
        Ok(loaded) => {
            if warns {
                warn(&loaded.warnings, err)?;
                warn(&doubtful_files(files, &loaded), err)?;
            }
            out.write_all(loaded.config.to_toml().as_bytes())?;
            out.flush()?;
            Ok(DONE)
        }
        Err(errors) => refuse(&errors, "configuration", err),
    }
}

fn doubtful_files(files: &[PathBuf], loaded: &Loaded) -> Vec<Problem> {
    let mqtt = &loaded.config.mqtt;
    let mut doubts = transport::examine(mqtt, Some(clock::realtime()));
    let mut unreadable = Vec::new();
    if let Some(user) = agent_user_for_root() {
        doubts.extend(transport::unreadable(mqtt, user));
        unreadable = unreadable_to(user, files, loaded);
    }
    let of_files = doubts.iter().filter_map(|doubt| loaded.doubt(doubt.key, &doubt.detail));
    let root = &loaded.config.collect.root;
    let no_root = || format!("there is no directory {} here: without it nothing is collected", root.display());
    let of_root = (!root.is_dir()).then(no_root).and_then(|why| loaded.doubt("collect.root", &why));
    let store = &loaded.config.store.path;
    let no_store = || format!("{} is a file here: the store needs a directory of its own", store.display());
    let is_taken = store.exists() && !store.is_dir();
    let of_store = is_taken.then(no_store).and_then(|why| loaded.doubt("store.path", &why));
    unreadable.into_iter().chain(of_store).chain(of_root).chain(of_files).collect()
}

/// Files that were read here, and that the agent would not start with: root reads everything.
fn unreadable_to(user: User, files: &[PathBuf], loaded: &Loaded) -> Vec<Problem> {
    let whole = |file: &PathBuf| {
        let message = user.barred_from_public(file)?;
        Some(Problem { file: file.clone(), line: 1, column: 1, key: String::new(), message })
    };
    let of_keys = loaded.key_files.iter().filter_map(|file| user.barred_from_public(file));
    let of_keys = of_keys.filter_map(|why| loaded.doubt("commands.trusted_keys", &why));
    files.iter().filter_map(whole).chain(of_keys).collect()
}

/// Says what is doubtful, a line each.
pub(super) fn warn(warnings: &[Problem], err: &mut impl Write) -> io::Result<()> {
    for Problem { file, line, message, .. } in warnings {
        writeln!(err, "{}:{line}: warning: {message}", file.display())?;
    }
    Ok(())
}

/// Says everything that is wrong with it, a line each, and gives the exit code.
pub(super) fn refuse(errors: &[Problem], what: &str, err: &mut impl Write) -> io::Result<u8> {
    for error in errors {
        writeln!(err, "{error}")?;
    }
    writeln!(err, "{}: this {what} can't be used", config::counted(errors))?;
    Ok(BAD_USAGE)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "makes the files that are checked")]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::wire::keys::{SigningKey, public_pem};

    fn checked(text: &str) -> (u8, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        std::fs::write(&file, text).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(&[file], true, &mut out, &mut err).unwrap();
        let here = format!("{}/", dir.path().display());
        let plain = |bytes| String::from_utf8(bytes).unwrap().replace(&here, "");
        (code, plain(out), plain(err))
    }

    #[test]
    fn a_good_config_is_printed_whole_on_stdout_and_its_warnings_on_stderr() {
        let (code, out, err) = checked("[device]\nid = \"gw-1\"\n[mqtt]\nurl = \"mqtt://broker\"\n[commands]\n");

        assert_eq!(code, DONE);
        assert!(out.starts_with("[device]\nid = \"gw-1\"\n"), "{out}");
        assert!(out.contains("keep_alive = \"30s\"\n"), "{out}");
        assert!(err.starts_with("agent.toml:5: warning: commands.trusted_keys: is empty"), "{err}");
    }

    #[test]
    fn a_file_that_the_agents_user_can_not_read_is_warned_of_where_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let (file, key) = (dir.path().join("agent.toml"), dir.path().join("ops-1.pub"));
        std::fs::write(&file, "[mqtt]\nurl = \"mqtt://broker\"\n[commands]\ntrusted_keys = [\"ops-1.pub\"]\n").unwrap();
        std::fs::write(&key, SigningKey::from_seed([1; 32]).map(|key| public_pem(key.public())).unwrap()).unwrap();
        let told = |modes: [u32; 2]| {
            for (file, mode) in [&file, &key].into_iter().zip(modes) {
                std::fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
            }
            let stranger = User { uid: 4_000_000, gid: 4_000_001 };
            let files = std::slice::from_ref(&file);
            let told = unreadable_to(stranger, files, &config::load(files).unwrap());
            told.into_iter().map(|problem| (problem.line, problem.message)).collect::<Vec<_>>()
        };
        assert_eq!(told([0o644, 0o644]), []);
        let [(1, of_file), (4, of_key)] = &told([0o600, 0o600])[..] else { panic!("{:?}", told([0o600, 0o600])) };
        assert!(of_file.ends_with("agent.toml") && of_file.contains(": chmod a+r /"), "{of_file}");
        assert!(of_key.starts_with("commands.trusted_keys: the agent, as user fieldmedic, can't read "), "{of_key}");
    }

    #[test]
    fn files_that_are_not_there_are_warned_of_at_the_keys_that_name_them_and_the_config_is_still_good() {
        let tls = "[mqtt.tls]\nca_file = \"/no/ca\"\ncert_file = \"/no/cert\"\nkey_file = \"/no/key\"\n";
        let user = "username = \"gw\"\npassword_file = \"/no/password\"\n";
        let (code, out, err) = checked(&format!("[mqtt]\nurl = \"mqtts://broker\"\n{user}{tls}"));

        assert_eq!(code, DONE);
        assert!(out.contains("ca_file = \"/no/ca\""), "{out}");
        let gone =
            |what: &str, path: &str| format!("{what} {path} can't be used: No such file or directory (os error 2)");
        let expected = [
            format!("agent.toml:6: warning: mqtt.tls.ca_file: {}", gone("the CA file", "/no/ca")),
            format!("agent.toml:7: warning: mqtt.tls.cert_file: {}", gone("the certificate", "/no/cert")),
            format!("agent.toml:8: warning: mqtt.tls.key_file: {}", gone("the key", "/no/key")),
            format!("agent.toml:4: warning: mqtt.password_file: {}", gone("the password", "/no/password")),
        ];
        let told: Vec<&str> = err.lines().filter(|line| line.contains("/no/")).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn a_root_that_is_not_there_and_a_store_that_is_a_file_are_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let paths = format!("[store]\npath = {file:?}\n[collect]\nroot = \"/nonexist\"\n");
        let (code, _, err) = checked(&format!("[mqtt]\nurl = \"mqtt://broker\"\n{paths}"));
        assert_eq!(code, DONE);
        for expected in
            [":4: warning: store.path: /", ":6: warning: collect.root: there is no directory /nonexist here"]
        {
            assert!(err.contains(expected), "{err}");
        }
    }

    #[test]
    fn a_bad_config_prints_nothing_on_stdout_and_each_error_with_its_line_on_stderr() {
        let (code, out, err) = checked("[mqtt]\nkeep_alife = \"30s\"\n");

        assert_eq!((code, out.as_str()), (BAD_USAGE, ""));
        let lines: Vec<&str> = err.lines().collect();
        assert_eq!(
            lines,
            [
                "agent.toml:1: mqtt.url: is missing and has no default; set it, for example url = \"mqtt://127.0.0.1:1883\"",
                "agent.toml:2: unknown key \"mqtt.keep_alife\"; did you mean \"keep_alive\"?",
                "2 errors: this configuration can't be used",
            ]
        );
    }
}
