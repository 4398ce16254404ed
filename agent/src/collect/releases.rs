//! Which release runs, of what can be rolled back: the name of the directory that `current` leads to, or led to when
//! its units were last restarted, or RAUC's booted slot (`rauc.slot=` of the kernel's command line, as its boot
//! integration sets it). A program of the integrator's doesn't say.

use std::collections::BTreeMap;

use super::asked::Asked;
use super::clock;
use super::round::Round;
use crate::act::rollback::running_slot;
use crate::config::{Rollback, RollbackKind};
use crate::engine::observation::Release;

const CMDLINE: &str = "proc/cmdline";
const BOOTED: &str = "rauc.slot=";

/// Releases may lie on a disk of their own, and the agent has to say that this one hangs.
static ASKED: Asked = Asked::new();

/// What can be told of these targets.
pub(super) fn collect(targets: &BTreeMap<String, Rollback>, round: &mut Round<'_>) -> Vec<Release> {
    let mut releases = Vec::new();
    for (target, Rollback { kind, .. }) in targets {
        let name = match kind {
            RollbackKind::Slots { dir } => {
                let root = round.path("");
                let running = ASKED.ask(dir, move |dir| running_slot(dir, clock::this_boot(&root).ok()));
                running.unwrap_or_else(|why| {
                    round.fault(&dir.to_string_lossy(), why);
                    None
                })
            }
            RollbackKind::Rauc => booted(round),
            RollbackKind::Command { .. } => None,
        };
        releases.extend(name.map(|name| Release { target: target.clone(), name }));
    }
    releases
}

fn booted(round: &mut Round<'_>) -> Option<String> {
    let cmdline = round.text(CMDLINE).ok()??;
    booted_slot(&cmdline).map(str::to_owned)
}

/// RAUC's slot in the kernel's command line; none where its boot integration had nothing to put there.
pub(crate) fn booted_slot(cmdline: &str) -> Option<&str> {
    cmdline.split_whitespace().filter_map(|word| word.strip_prefix(BOOTED)).find(|slot| !slot.is_empty())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a gateway's files are made here")]

    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    fn target(kind: RollbackKind) -> Rollback {
        Rollback { kind, units: vec![], settle: Duration::ZERO, trial: Duration::ZERO }
    }

    #[test]
    fn releases_are_named_where_that_can_be_told() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("app");
        fs::create_dir_all(dir.join("releases/2.0")).unwrap();
        symlink("releases/2.0", dir.join("current")).unwrap();
        fs::create_dir_all(root.path().join("proc")).unwrap();
        fs::write(root.path().join(CMDLINE), "console=ttyS0 rauc.slot=A root=/dev/mmcblk0p2\n").unwrap();
        let targets = BTreeMap::from([
            ("app".to_owned(), target(RollbackKind::Slots { dir })),
            ("broken".to_owned(), target(RollbackKind::Slots { dir: root.path().join("nowhere") })),
            ("firmware".to_owned(), target(RollbackKind::Rauc)),
            ("modem".to_owned(), target(RollbackKind::Command { argv: vec!["/bin/true".into()] })),
        ]);
        let mut round = Round::new(root.path());
        let found = collect(&targets, &mut round);
        let found: Vec<_> = found.iter().map(|release| (release.target.as_str(), release.name.as_str())).collect();
        assert_eq!(found, [("app", "2.0"), ("firmware", "A")]);
        for cmdline in ["quiet", "quiet rauc.slot= ro"] {
            fs::write(root.path().join(CMDLINE), cmdline).unwrap();
            assert_eq!(collect(&targets, &mut Round::new(root.path())).len(), 1, "{cmdline}");
        }
    }
}
