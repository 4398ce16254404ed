//! What is mounted where, and how full it is: /proc/self/mountinfo (proc_pid_mountinfo(5)) and statvfs(3). A path on
//! which nothing is mounted has no numbers: they would be another file system's. The root's is the only one that is
//! waited for ([`super::asked`]).

use std::path::Path;

use rustix::fs::{StatVfs, statvfs};

use super::asked::Asked;
use super::round::Round;

pub(crate) const MOUNTINFO: &str = "proc/self/mountinfo";
static ASKED: Asked = Asked::new();

/// How the file system that is mounted at `label` stands; `None` with a fault where there is none, or no answer.
pub(super) fn stat(round: &mut Round<'_>, label: &str) -> Option<StatVfs> {
    let path = round.path(label);
    let stat = if label == "/" {
        statvfs(&path).map_err(|error| format!("statvfs: {error}"))
    } else {
        // A tree that stands for the gateway has files of the kernel, and mounts nothing.
        let mounted = if path == Path::new(label) { is_mounted(round, label) } else { Ok(()) };
        mounted.and_then(|()| ask(&path))
    };
    stat.map_err(|why| round.fault(label, why)).ok()
}

fn ask(path: &Path) -> Result<StatVfs, String> {
    match ASKED.ask(path, |path| statvfs(path)) {
        Ok(answer) => answer.map_err(|error| format!("statvfs: {error}")),
        Err(why) => Err(format!("statvfs: {why}")),
    }
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
pub(crate) struct Mount<'a> {
    root: &'a str,
    pub(crate) at: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) source: &'a str,
    /// Those of the file system itself: what a unit may not write to is read-only by those of the mount, which only say
    /// how it is seen from here.
    options: &'a str,
}

impl<'a> Mount<'a> {
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        let mut fields = file_system.split(' ');
        Some(Self { root, at, kind: fields.next()?, source: fields.next()?, options: fields.next()? })
    }

    /// Whether nobody can write to it.
    pub(crate) fn is_read_only(&self) -> bool {
        self.options.split(',').any(|option| option == "ro")
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
}
