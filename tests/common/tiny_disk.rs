//! A disk that can be filled up, or be found read-only: a tmpfs of some MiB.
#![allow(dead_code, unreachable_pub, reason = "each user of it uses its part")]

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// Gone when it is dropped.
pub struct TinyDisk(TempDir);

impl TinyDisk {
    pub fn mount(mib: u64) -> Option<Self> {
        Self::mount_with(&format!("size={mib}m"))
    }

    /// `None` is told: nobody may mount here.
    pub fn mount_with(size: &str) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(dir.path()).output();
        let disk = mounted.is_ok_and(|output| output.status.success()).then_some(Self(dir));
        if disk.is_none() {
            eprintln!("SKIPPED: a disk to fill needs the right to mount a tmpfs");
        }
        disk
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all bytes that are left.
    pub fn fill(&self) {
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).open(self.path().join("filler")).expect("make the filler");
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    /// Takes all inodes that are left.
    pub fn fill_inodes(&self, round: u32) {
        let _ = (0..).try_for_each(|nth| File::create(self.path().join(format!("{round}-{nth}"))).map(drop));
    }

    /// Gives back what was taken by [`TinyDisk::fill`].
    pub fn empty(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }

    /// Lets nobody write on it any more, or again. While a file on it is open for writing it can't be done.
    pub fn set_read_only(&self, read_only: bool) {
        let mode = if read_only { "remount,ro" } else { "remount,rw" };
        let done = Command::new("mount").args(["-o", mode]).arg(self.path()).output().unwrap();
        assert!(done.status.success(), "mount -o {mode}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}
