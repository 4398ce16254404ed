//! What is held back for the day the disk is full: sled needs room even to open, and to delete. It is given to the disk
//! in parts, and what the state did not take of them is held again at once: whoever fills the disk takes all that is
//! free, and the next start needs room as well. sled also makes a file when it opens: an inode of its own is held, too.
//! It must not take the room of a disk that was just freed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::store::disk;

pub(super) const RESERVE_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// And of a store that would be half filled by that only this part: the state beside it may take half a MiB.
const SMALL_RESERVE_SHARE: u64 = 4;
/// It grows only to this part of what is free: on a disk just freed it would take the room again.
const FREE_SHARE: u64 = 4;
/// And to less than all of it only where so much of the disk is free: it is a small one then, and not one that others
/// have filled.
const SMALL_DISK_SHARE: u64 = 2;
/// How much is given at a time.
pub(crate) const RESERVE_PART_BYTES: u64 = super::rewrite::SLED_SEGMENT_BYTES;

/// How much room a disk has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Room {
    /// Bytes that are free for us.
    pub(crate) free: u64,
    /// Bytes in all.
    pub(crate) size: u64,
}

/// The reserve of one state.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    /// An empty file, for its inode: the first file that sled makes keeps that of `path` for good.
    inode: PathBuf,
    bytes_max: u64,
    /// Given to the disk, and not yet held again.
    given: u64,
}

/// How much is held back of what a store may take.
pub(crate) const fn reserve_bytes(max_bytes: u64) -> u64 {
    if max_bytes < 2 * RESERVE_BYTES_MAX { max_bytes / SMALL_RESERVE_SHARE } else { RESERVE_BYTES_MAX }
}

/// How much to hold of `bytes_max`, where `held` bytes are, some were `given`, and the disk has this room.
pub(crate) fn reserve_to_hold(held: u64, given: u64, disk: Room, bytes_max: u64) -> u64 {
    let back = held + given.min(disk.free);
    let share = (held + disk.free) / FREE_SHARE;
    let grown = match share {
        share if share >= bytes_max => bytes_max,
        // By whole parts: not a little each time that a little more is free.
        share if disk.free >= disk.size / SMALL_DISK_SHARE => share - share % RESERVE_PART_BYTES,
        _ => 0,
    };
    back.max(grown).min(bytes_max)
}

impl Reserve {
    pub(super) fn new(path: PathBuf, bytes_max: u64) -> Self {
        Self { inode: path.with_extension("inode"), path, bytes_max, given: 0 }
    }

    /// How much is held; 0 where there is no reserve.
    pub(super) fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// The most that is held.
    pub(super) const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Gives a part to the disk, the inode last. False: there is none left.
    pub(super) fn give(&mut self) -> bool {
        let held = self.bytes().min(self.bytes_max);
        let part = held.min(RESERVE_PART_BYTES);
        if part == 0 {
            return fs::remove_file(&self.inode).is_ok();
        }
        // Where a quota is spent btrfs refuses to cut a file, and deletes it all the same.
        let given = self.cut(held - part).map(|()| part).or_else(|_| self.cut(0).map(|()| held)).unwrap_or(0);
        self.given += given;
        given > 0
    }

    /// Holds again what was given and is still free, and more where there is plenty. Without it the agent works as
    /// well, until the disk is full; so a failure is no more than that.
    pub(super) fn keep(&mut self, disk: Room) {
        let held = self.bytes();
        let hold = reserve_to_hold(held, std::mem::take(&mut self.given), disk, self.bytes_max);
        if hold < held {
            // The store may take less than it might when this was made.
            let _ = self.cut(hold);
        } else if hold > held {
            let _ = self.grow(held, hold);
        }
        if !self.inode.exists() {
            let _ = Self::open(&self.inode);
        }
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return disk::remove_all(&self.path);
        }
        OpenOptions::new().write(true).open(&self.path)?.set_len(bytes)
    }

    /// What of it fits on the disk is held.
    fn grow(&self, from: u64, to: u64) -> io::Result<()> {
        let file = Self::open(&self.path)?;
        file.write_all_at(&incompressible(usize::try_from(to - from).unwrap_or(0)), from)?;
        file.sync_all()?;
        disk::sync_dir(disk::parent(&self.path))
    }

    fn open(path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NONBLOCK);
        // Of a pipe that lies there instead nobody waits for a reader: it can't be opened then.
        options.open(path)
    }
}

/// Where the reserve of the state below `root` lies.
pub(super) fn path_in(root: &Path) -> PathBuf {
    root.join("reserve")
}

/// File systems for raw flash compress, and a reserve of zeros would hold nothing back.
fn incompressible(len: usize) -> Vec<u8> {
    const SEED: u64 = 1;
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(SEED).fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// A disk that nobody else has written to.
    const fn empty(bytes: u64) -> Room {
        Room { free: bytes, size: bytes }
    }

    /// One of which so much is left.
    const fn filled(free: u64) -> Room {
        Room { free, size: 256 * MIB }
    }

    #[test]
    fn the_reserve_of_a_small_store_leaves_room_for_records() {
        assert_eq!(reserve_bytes(64 << 20), RESERVE_BYTES_MAX);
        assert_eq!(reserve_bytes(1 << 20), 256 << 10);
    }

    #[test]
    fn of_a_small_disk_a_smaller_part_is_held_and_none_of_one_that_is_nearly_full() {
        let held_of = |disk| reserve_to_hold(0, 0, disk, 2 * MIB) / 1024;
        assert_eq!([1, 2, 6, 8, 100].map(|mib| held_of(empty(mib * MIB))), [0, 512, 1536, 2048, 2048]);
        assert_eq!([1, 5, 7, 8].map(|mib| held_of(filled(mib * MIB))), [0, 0, 0, 2048]);
        assert_eq!(reserve_to_hold(MIB, 0, filled(0), 2 * MIB), MIB, "what is held stays held");
    }

    #[test]
    fn what_was_given_and_not_used_is_held_again_however_full_the_disk_is() {
        assert_eq!(reserve_to_hold(MIB, MIB, filled(300_000), 2 * MIB), MIB + 300_000);
        assert_eq!(reserve_to_hold(MIB, 300_000, filled(MIB), 2 * MIB), MIB + 300_000);
    }

    #[test]
    fn it_is_given_in_parts_until_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::new(path_in(dir.path()), 5 * MIB / 4);
        reserve.keep(empty(100 * MIB));
        let given = [(); 5].map(|()| (reserve.give(), reserve.bytes() / 1024));
        assert_eq!(given, [(true, 768), (true, 256), (true, 0), (true, 0), (false, 0)], "the inode is the last part");
        reserve.keep(filled(MIB));
        assert_eq!(reserve.bytes(), MIB, "what is left of it is held again");
    }

    #[test]
    fn a_reserve_that_can_not_be_cut_is_given_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::new(path_in(dir.path()), 2 * MIB);
        fs::create_dir(path_in(dir.path())).unwrap();
        fs::write(path_in(dir.path()).join("what can't be cut"), "is deleted").unwrap();
        assert!(reserve.give());
        assert!(!path_in(dir.path()).exists());
    }

    #[test]
    fn a_reserve_made_for_a_larger_store_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::new(path_in(dir.path()), 2 * MIB);
        reserve.keep(empty(100 * MIB));
        assert_eq!(reserve.bytes(), 2 * MIB);
        let mut smaller = Reserve::new(path_in(dir.path()), MIB / 4);
        smaller.keep(filled(0));
        assert_eq!(smaller.bytes(), MIB / 4);
    }

    #[test]
    fn a_reserve_made_for_a_smaller_store_grows_where_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        Reserve::new(path_in(dir.path()), MIB / 4).keep(empty(100 * MIB));
        let mut larger = Reserve::new(path_in(dir.path()), 2 * MIB);
        assert_eq!([0, 100 * MIB].map(|free| (larger.keep(filled(free)), larger.bytes()).1), [MIB / 4, 2 * MIB]);
    }
}
