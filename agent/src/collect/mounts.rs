//! What is mounted where, and how full it is: /proc/self/mountinfo (proc_pid_mountinfo(5)) and statvfs(3). A path on
//! which nothing is mounted has no numbers: they would be another file system's. A file system whose server or card is
//! gone answers never, so each but the root's is asked on a thread that may hang without anybody else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{StatVfs, statvfs};

use super::round::Round;

const MOUNTINFO: &str = "proc/self/mountinfo";
/// How long a file system may take to answer. A disk that has to spin up takes longer, and has answered by the next
/// round.
const PATIENCE: Duration = Duration::from_secs(1);

/// File systems that were asked and have not answered yet: once each, whoever asks.
static ASKED: Mutex<BTreeMap<PathBuf, Receiver<rustix::io::Result<StatVfs>>>> = Mutex::new(BTreeMap::new());

/// How the file system that is mounted at `label` stands; `None` with a fault where there is none, or no answer.
pub(super) fn stat(round: &mut Round<'_>, label: &str) -> Option<StatVfs> {
    let path = round.path(label);
    let stat = if label == "/" {
        statvfs(&path).map_err(|error| format!("statvfs: {error}"))
    } else {
        // A tree that stands for the gateway has files of the kernel, and mounts nothing.
        let mounted = if path == Path::new(label) { is_mounted(round, label) } else { Ok(()) };
        mounted.and_then(|()| ask(path))
    };
    stat.map_err(|why| round.fault(label, why)).ok()
}

fn ask(path: PathBuf) -> Result<StatVfs, String> {
    let pending = asked().remove(&path);
    let answer = match pending {
        // Who didn't answer then costs no other round its time.
        Some(answer) => answer.try_recv().map_err(|error| (answer, error == TryRecvError::Empty)),
        None => {
            let (sender, answer) = sync_channel(1);
            let at = path.clone();
            let ask = move || drop(sender.send(statvfs(&at)));
            let started = thread::Builder::new().name("statvfs".to_owned()).spawn(ask);
            started.map_err(|error| format!("start a thread: {error}"))?;
            answer.recv_timeout(PATIENCE).map_err(|error| (answer, error == RecvTimeoutError::Timeout))
        }
    };
    match answer {
        Ok(stat) => stat.map_err(|error| format!("statvfs: {error}")),
        Err((answer, true)) => {
            asked().insert(path, answer);
            Err("statvfs: no answer".to_owned())
        }
        Err((_, false)) => Err("statvfs: its thread ended".to_owned()),
    }
}

fn asked() -> MutexGuard<'static, BTreeMap<PathBuf, Receiver<rustix::io::Result<StatVfs>>>> {
    ASKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a file system that can be asked is mounted at `at`. Without the kernel's table it is believed.
fn is_mounted(round: &mut Round<'_>, at: &str) -> Result<(), String> {
    let Ok(Some(table)) = round.text(MOUNTINFO) else { return Ok(()) };
    let at = if at.len() > 1 { at.trim_end_matches('/') } else { at };
    let mut mounts = table.lines().filter_map(Mount::parse);
    // What was mounted last lies above the others.
    match mounts.rfind(|mount| unescape(mount.at) == at) {
        None => Err("nothing is mounted there".to_owned()),
        Some(Mount { kind: "autofs", .. }) => Err("is not mounted before somebody looks into it".to_owned()),
        // What systemd puts over a directory that a service may not see (ProtectHome=, InaccessiblePaths=).
        Some(mount) if mount.root.starts_with("/systemd/inaccessible/") => {
            Err("is hidden from this service by its unit".to_owned())
        }
        Some(_) => Ok(()),
    }
}

/// `ID PARENT MAJOR:MINOR ROOT AT OPTIONS TAGS… - KIND SOURCE OPTIONS`.
struct Mount<'a> {
    root: &'a str,
    at: &'a str,
    kind: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        Some(Self { root: fields.next()?, at: fields.next()?, kind: file_system.split(' ').next()? })
    }
}

/// A path of a table of mounts, where blanks and the like are written in octal (getmntent(3)).
pub(crate) fn unescape(path: &str) -> String {
    const ESCAPES: [(&str, &str); 4] = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    // The backslash is the last: what it would make is no escape.
    ESCAPES.iter().fold(path.to_owned(), |path, (escape, plain)| path.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::tests::write_tree;

    /// Below a made root, whose mountinfo is what is asked.
    fn mounted(table: &str, at: &str) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        write_tree(dir.path(), &[(MOUNTINFO, table)]);
        is_mounted(&mut Round::new(dir.path()), at)
    }

    const TABLE: &str = "\
22 1 179:2 / / rw,relatime shared:1 - ext4 /dev/mmcblk0p2 rw
30 22 179:3 / /data rw,noatime shared:2 - ext4 /dev/mmcblk0p3 rw
31 22 0:40 / /mnt/usb\\040stick rw - vfat /dev/sda1 rw
32 22 0:41 / /mnt/nas rw shared:9 - autofs systemd-1 rw
33 22 0:25 /systemd/inaccessible/dir /home ro,nosuid master:5 - tmpfs tmpfs rw
";

    #[test]
    fn only_what_is_mounted_and_can_be_asked_has_numbers() {
        for at in ["/data", "/data/", "/mnt/usb stick"] {
            assert_eq!(mounted(TABLE, at), Ok(()), "{at}");
        }
        for (at, why) in [("/backup", "nothing"), ("/mnt/nas", "before somebody looks"), ("/home", "hidden")] {
            assert!(mounted(TABLE, at).is_err_and(|said| said.contains(why)), "{at}");
        }
        let above = format!("{TABLE}34 32 0:50 / /mnt/nas rw - nfs4 nas:/x rw\n");
        assert_eq!(mounted(&above, "/mnt/nas"), Ok(()), "it was looked into");
        assert_eq!(mounted("nonsense\n", "/data"), Err("nothing is mounted there".to_owned()));
    }

    #[test]
    fn a_file_system_that_does_not_answer_is_asked_once_and_heard_when_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let (answer, waits) = sync_channel(1);
        asked().insert(dir.path().to_owned(), waits);
        let ask = || ask(dir.path().to_owned()).map(|stat| stat.f_blocks);
        assert_eq!(ask(), Err("statvfs: no answer".to_owned()));
        answer.send(Err(rustix::io::Errno::IO)).unwrap();
        assert!(ask().is_err_and(|why| why.contains("statvfs: Input/output error")));
        assert!(ask().is_ok_and(|blocks| blocks > 0), "asked anew");
    }
}
