//! A disk of some MiB that can be filled up, or be found read-only: a tmpfs, or an ext4 in a file on a loop device.
#![allow(dead_code, unreachable_pub, reason = "each user of it uses its part")]

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Gone when it is dropped.
pub struct TinyDisk {
    mounted: TempDir,
    /// The device, and what holds its bytes, where that isn't memory.
    image: Option<(LoopDevice, TempDir)>,
}

/// Free for others when it is dropped.
struct LoopDevice(PathBuf);

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

impl TinyDisk {
    pub fn mount(mib: u64) -> Option<Self> {
        Self::mount_with(&format!("size={mib}m"))
    }

    /// `None` is told: nobody may mount here.
    pub fn mount_with(size: &str) -> Option<Self> {
        Self::mount_at(&["-t", "tmpfs", "-o", size, "tmpfs"], None)
    }

    /// With blocks of 4 KiB, as on a gateway's flash. `None` is told.
    pub fn ext4(mib: u64) -> Option<Self> {
        Self::ext4_with(mib, 512, &[])
    }

    /// The same as a file system that can't allocate ahead (fallocate(2)), of a disk with sectors of this size.
    pub fn ext4_without_extents(mib: u64, sector_bytes: u64) -> Option<Self> {
        Self::ext4_with(mib, sector_bytes, &["-O", "^extent,^64bit,^metadata_csum"])
    }

    fn ext4_with(mib: u64, sector_bytes: u64, features: &[&str]) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let image = dir.path().join("image");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0"])
            .args(features)
            .arg(&image)
            .output();
        if !made.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: a disk of ext4 needs mkfs.ext4 (Debian's e2fsprogs)");
            return None;
        }
        let sector_bytes = format!("--sector-size={sector_bytes}");
        let found = Command::new("losetup").args(["--find", "--show", &sector_bytes]).arg(&image).output();
        let Some(found) = found.ok().filter(|output| output.status.success()) else {
            eprintln!("SKIPPED: a disk in a file needs the right to set up a loop device");
            return None;
        };
        let name = String::from_utf8(found.stdout).unwrap();
        Self::mount_at(&[name.trim()], Some((LoopDevice(name.trim().into()), dir)))
    }

    fn mount_at(what: &[&str], image: Option<(LoopDevice, TempDir)>) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let mounted = Command::new("mount").args(what).arg(dir.path()).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: a disk of its own needs the right to mount one: mount {}", what.join(" "));
            return None;
        }
        Some(Self { mounted: dir, image })
    }

    pub fn path(&self) -> &Path {
        self.mounted.path()
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
