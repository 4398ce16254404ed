//! What the kernel kept of how the boot before ended: records of a panic in pstore
//! (Documentation/admin-guide/ramoops.rst; systemd-pstore(8) moves them to the disk), and the watchdog's word that it
//! reset the machine (Documentation/watchdog/watchdog-api.rst). Read once, at the start; what it means is the engine's
//! business.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "reads what the kernel kept")]

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};

use crate::engine::observation::EndSigns;

const PSTORES: [&str; 2] = ["sys/fs/pstore", "var/lib/systemd/pstore"];
/// systemd-pstore makes a directory for the crash, and one below it for its parts.
const DEPTH_MAX: usize = 3;
/// The most that is looked at; a store of the kernel's has room for fewer.
const RECORDS_MAX: usize = 64;
/// Of one directory.
const ENTRIES_MAX: usize = 4_096;
const RECORD_BYTES_MAX: u64 = 64 << 10;
/// Why the kernel wrote a record that tells of no crash (kmsg_dump_reason_str): with `printk.always_kmsg_dump`; or of
/// an oops, after which it may go on for weeks. One that it doesn't survive is a panic too, with a record of its own.
const HARMLESS: [&str; 3] = ["Shutdown#", "Emergency#", "Oops#"];
const WATCHDOGS: &str = "sys/class/watchdog";
/// WDIOF_CARDRESET, include/uapi/linux/watchdog.h.
const CARD_RESET: u32 = 0x20;

/// Looks for them below `root`. What can't be read is as good as not there: it needs root, mostly.
#[must_use]
pub fn signs(root: &Path) -> EndSigns {
    let mut files = Vec::new();
    for dir in PSTORES {
        find(&root.join(dir), DEPTH_MAX, &mut files);
    }
    let mut panics: Vec<String> = files.iter().filter_map(|file| panic(file)).collect();
    panics.sort_unstable();
    panics.dedup();
    EndSigns { panics, watchdog: watchdog_reset(&root.join(WATCHDOGS)) }
}

fn find(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut entries: Vec<_> = entries.flatten().take(ENTRIES_MAX).collect();
    // EFI's and systemd's names are times: the newest are those that can be news. Others have but a few places.
    entries.sort_unstable_by_key(|entry| Reverse(entry.file_name()));
    for entry in entries {
        if files.len() >= RECORDS_MAX {
            return;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 1 => find(&entry.path(), depth - 1, files),
            Ok(kind) if kind.is_file() && entry.file_name().as_encoded_bytes().starts_with(b"dmesg-") => {
                files.push(entry.path());
            }
            _ => {}
        }
    }
}

/// What a record of a crash is known by: its content, since it is moved; its path where only root may read it.
fn panic(file: &Path) -> Option<String> {
    let mut content = Vec::new();
    match File::open(file).and_then(|file| file.take(RECORD_BYTES_MAX).read_to_end(&mut content)) {
        Ok(_) if HARMLESS.iter().any(|reason| content.starts_with(reason.as_bytes())) => None,
        Ok(_) => {
            let digest = digest(&SHA256, &content);
            Some(digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
        }
        Err(_) => Some(file.display().to_string()),
    }
}

fn watchdog_reset(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| {
        let status = fs::read_to_string(entry.path().join("bootstatus")).ok();
        status.and_then(|text| text.trim().parse::<u32>().ok()).is_some_and(|flags| flags & CARD_RESET != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn nothing_is_seen_where_nothing_was_kept() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(signs(root.path()), EndSigns::default());
        write(root.path(), "sys/class/watchdog/watchdog0/bootstatus", "0\n");
        write(root.path(), "sys/fs/pstore/console-ramoops-0", "the console of the boot before");
        write(root.path(), "sys/fs/pstore/dmesg-ramoops-0", "Shutdown#1 Part1\n");
        write(root.path(), "sys/fs/pstore/dmesg-ramoops-1", "Oops#1 Part1\n");
        assert_eq!(signs(root.path()), EndSigns::default());
    }

    #[test]
    fn a_panic_is_the_same_one_after_systemd_has_moved_it() {
        let root = tempfile::tempdir().unwrap();
        let text = "Panic#1 Part1\n<0>[  12.3] Kernel panic - not syncing: VFS: Unable to mount root fs\n";
        write(root.path(), "sys/fs/pstore/dmesg-efi-169000000001001", text);
        let before = signs(root.path());
        assert_eq!(before.panics.len(), 1);
        fs::remove_dir_all(root.path().join("sys/fs/pstore")).unwrap();
        write(root.path(), "var/lib/systemd/pstore/1690000000/001/dmesg-efi-169000000001001", text);
        assert_eq!(signs(root.path()), before);
        write(root.path(), "sys/fs/pstore/dmesg-efi-179000000001001", "Panic#1 Part1\nanother one\n");
        assert_eq!(signs(root.path()).panics.len(), 2);
    }

    #[test]
    fn the_watchdogs_reset_is_one_flag_of_several() {
        let root = tempfile::tempdir().unwrap();
        for (flags, reset) in [("32\n", true), ("16\n", false), ("33\n", true), ("nonsense", false)] {
            write(root.path(), "sys/class/watchdog/watchdog1/bootstatus", flags);
            assert_eq!(signs(root.path()).watchdog, reset, "{flags}");
        }
    }

    #[test]
    fn no_more_than_the_bound_is_looked_at() {
        let root = tempfile::tempdir().unwrap();
        for n in 0..100 {
            write(root.path(), &format!("sys/fs/pstore/dmesg-efi-{n}"), &format!("Panic#1 Part{n}\n"));
        }
        let before = signs(root.path());
        assert_eq!(before.panics.len(), RECORDS_MAX);
        write(root.path(), "sys/fs/pstore/dmesg-efi-99-9", "Panic#1 Part1\nthe newest\n");
        let new: Vec<_> =
            signs(root.path()).panics.into_iter().filter(|panic| !before.panics.contains(panic)).collect();
        assert_eq!(new.len(), 1, "the newest are those that are looked at");
    }
}
