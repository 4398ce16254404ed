//! Files that the agent obeys or keeps secret: who else could have written or read them, and what runs out.
#![expect(clippy::disallowed_methods, reason = "it looks at files")]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;

use super::finding;
use crate::act::program;
use crate::act::rollback::unfit_slots;
use crate::agent_user::{User, agent_user};
use crate::config::{CheckedConfig, Remedy, RollbackKind};
use crate::engine::observation::{Finding, Severity};
use crate::engine::time::Unix;
use crate::gather::gather;
use crate::runtime::mqtt::transport;

/// Write access of anybody but the owner and the group, stat(2).
const WRITABLE_BY_OTHERS: u32 = 0o002;
/// Runbooks that are looked at.
const RUNBOOKS_MAX: usize = 256;
/// Directories that everybody writes to and in which only a file's owner may replace it, such as /tmp.
const STICKY: u32 = 0o1000;

/// What is wrong with the broker's certificates, keys and password.
pub(super) const TLS_FILES: &str = "tls_files";

/// What is wrong with the files that TLS takes. Of one that `is_barred` from whoever asks alone nobody knows.
pub(super) fn tls_files(
    config: &CheckedConfig,
    now: Option<Unix>,
    agent: Option<User>,
    is_barred: impl Fn(&Path) -> bool,
    found: &mut Vec<Finding>,
) {
    let unreadable = agent.map(|agent| transport::unreadable(&config.mqtt, agent)).unwrap_or_default();
    for mut doubt in transport::examine(&config.mqtt, now).into_iter().chain(unreadable) {
        let file = transport::named_by(&config.mqtt, doubt.key);
        let unseen = file.filter(|file| doubt.severity <= Severity::Error && is_barred(file));
        let advice = if let Some(file) = unseen {
            doubt.severity = Severity::Warning;
            doubt.detail = format!("{}: this user may not read {}: it was not looked at", doubt.key, file.display());
            "run this as root (sudo fieldmedic audit), or as the user whom the agent runs as"
        } else if file.is_some_and(transport::is_handed_over) {
            "put right what LoadCredential= in the unit takes it from, then systemctl restart fieldmedic"
        } else {
            "put it right in its place: a file that was replaced is taken up without a restart"
        };
        found.push(finding(doubt.severity, TLS_FILES, doubt.key, doubt.detail, advice));
    }
}

/// `agent`: whom the agent runs as, where that is somebody else.
pub(super) fn look(config: &CheckedConfig, files: &[PathBuf], agent: Option<User>, found: &mut Vec<Finding>) {
    for path in files {
        if let Some(why) = agent.and_then(|agent| agent.barred_from_public(path)) {
            let subject = path.display().to_string();
            let advice = "until then the agent ends with exit code 2 when it starts, and refuses a reload";
            found.push(finding(Severity::Error, "config_unreadable", subject, why, advice));
        }
    }
    let runbooks = fs::read_dir(&config.runbooks.dir).into_iter().flatten().flatten();
    let runbooks = runbooks.take(RUNBOOKS_MAX).map(|entry| entry.path());
    let obeyed = files.iter().cloned().chain([config.runbooks.dir.clone()]).chain(runbooks);
    for path in obeyed {
        if let Some(open) = writable(&path) {
            let what = format!("{} can be written by every user of this gateway", open.display());
            let advice = format!("chmod o-w {}", open.display());
            found.push(finding(Severity::Critical, "writable_by_others", path.display().to_string(), what, &advice));
        }
    }
    wanted_runbooks(config, found);
    rollbacks(config, found);
}

/// Whether a file can't be read by whoever runs this, who isn't the agent's user.
pub(super) fn bars_a_stranger(file: &Path) -> bool {
    is_denied(file, Access::READ_OK)
        && agent_user().is_none_or(|agent| agent.uid != rustix::process::geteuid().as_raw())
}

fn is_denied(path: &Path, how: Access) -> bool {
    rustix::fs::access(path, how) == Err(Errno::ACCESS)
}

/// What a rollback will want to run, or to go back from.
fn rollbacks(config: &CheckedConfig, found: &mut Vec<Finding>) {
    for (target, rollback) in &config.rollback {
        let mut severity = Severity::Error;
        let (path, what, advice) = match &rollback.kind {
            RollbackKind::Command { argv } => {
                let Some(program) = argv.first().map(Path::new) else { continue };
                let Some(wrong) = unfit(program, program::unfit_by_links(program)) else { continue };
                let advice = "put it there as root, executable, and writable by nobody else".to_owned();
                (program, format!("[rollback.{target}] runs it, and it can't be run: {wrong}"), advice)
            }
            RollbackKind::Slots { dir } => {
                let Some(wrong) = unfit_slots(dir) else { continue };
                let shown = dir.display();
                let (what, advice) = if is_denied(&dir.join("current"), Access::EXISTS) {
                    // Root's helper sees it.
                    severity = Severity::Warning;
                    ("this user may not look there", format!("let the agent's user into {shown} and {shown}/releases"))
                } else {
                    let advice = format!("put releases into {shown}/releases/NAME, and link {shown}/current to one");
                    ("can't go back from there", advice)
                };
                (dir.as_path(), format!("[rollback.{target}]: {what}: {wrong}"), advice)
            }
            RollbackKind::Rauc => continue,
        };
        found.push(finding(severity, "rollback_unfit", path.display().to_string(), what, &advice));
    }
}

fn unfit(path: &Path, looked: io::Result<Option<String>>) -> Option<String> {
    looked.unwrap_or_else(|error| Some(format!("{}: {error}", path.display())))
}

/// What a ladder will want to run: found out now, and not at night.
fn wanted_runbooks(config: &CheckedConfig, found: &mut Vec<Finding>) {
    let named = config.ladders.values().flatten().filter_map(|step| match &step.remedy {
        Remedy::Run { runbook, .. } => Some(config.runbooks.dir.join(runbook)),
        _ => None,
    });
    for path in gather::<BTreeSet<_>, _>(named) {
        let Some(wrong) = unfit(&path, program::unfit(&path)) else { continue };
        let what = format!("a ladder runs it, and it can't be run: {wrong}");
        let advice = "put it there as root, executable, and writable by nobody else; or take it out of the ladder";
        found.push(finding(Severity::Error, "runbook_unfit", path.display().to_string(), what, advice));
    }
}

/// What of this path everybody may change: itself, or the directory that holds it. A link is what it leads to.
fn writable(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let mode = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.mode());
    if mode(&path)? & WRITABLE_BY_OTHERS != 0 {
        return Some(path);
    }
    let dir = path.parent()?;
    let of_dir = mode(dir)?;
    (of_dir & WRITABLE_BY_OTHERS != 0 && of_dir & STICKY == 0).then(|| dir.to_owned())
}
