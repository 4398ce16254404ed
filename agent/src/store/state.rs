//! The keyed state: the journal, budgets, alarms, cursors and anchors, in sled. sled 0.34 by itself neither syncs nor
//! survives every crash, so this module wraps it in guards, each of which stands for a failure that was reproduced:
//! a commit is flush and fdatasync, a value carries its own checksum, every call may panic, and after any error the
//! database is dropped and opened anew before the next try. It must not hold large values, and it never lets what can't
//! be read pass as empty: a state that is lost is set aside and said to be lost.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use super::disk::{self, Attempt};
use crate::engine::io::{StoreFault, StoreLoss};

/// Longest value. From 5 KiB on, with the checksum, sled's recovery was seen to panic after power cuts.
pub const STATE_VALUE_BYTES_MAX: usize = 5 * 1024 - CHECKSUM_BYTES - 1;
const CHECKSUM_BYTES: usize = 4;
const CACHE_BYTES: u64 = 1024 * 1024;
/// Held back for the day the disk is full: sled needs room even to open, and to delete.
const RESERVE_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// And never more than this part of what the store may take: it counts into that.
const RESERVE_SHARE: u64 = 2;
/// The reserve is made only where so many times its size is free: on a disk just freed it would take the room again.
pub(crate) const RESERVE_FREE_FACTOR: u64 = 4;
/// A call is made once more after the database was opened anew.
const ATTEMPTS: usize = 2;
/// What sled writes for a commit beside keys and values: 2,000 commits of 300 B wrote 2.5 MB.
pub(crate) const COMMIT_OVERHEAD_BYTES: u64 = 950;

/// How often a locked database is tried again, and after which pause: two seconds in all.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

const DIR: &str = "state";
const DIR_DAMAGED: &str = "state.damaged";
const RESERVE_FILE: &str = "reserve";

type Entries = BTreeMap<String, Bytes>;

/// The open state.
#[derive(Debug)]
pub(super) struct State {
    root: PathBuf,
    reserve_bytes: u64,
    /// `None` after an error, until the next call opens it anew.
    db: Option<Db>,
    bytes: u64,
    damaged_bytes: u64,
    written_bytes: u64,
}

#[derive(Debug)]
struct Db {
    db: sled::Db,
    /// Our own descriptor of sled's file: sled calls sync_file_range, which is no promise.
    file: File,
}

/// Why sled did not do it.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Sled(#[from] sled::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("sled panicked: {0}")]
    Panicked(String),
    #[error("{0} entries that can't be read")]
    Unreadable(usize),
}

/// How much is held back of what a store may take.
pub(crate) const fn reserve_bytes(max_bytes: u64) -> u64 {
    let share = max_bytes / RESERVE_SHARE;
    if share < RESERVE_BYTES_MAX { share } else { RESERVE_BYTES_MAX }
}

impl State {
    /// Opens the state below `root` and reads all of it. A damaged one is set aside as `state.damaged` (replacing an
    /// earlier one), and begun anew with what of it could be read; `losses` tells so.
    pub(super) fn open(
        root: &Path,
        reserve_bytes: u64,
        losses: &mut Vec<StoreLoss>,
    ) -> Result<(Self, Entries), StoreFault> {
        let mut state =
            Self { root: root.to_owned(), reserve_bytes, db: None, bytes: 0, damaged_bytes: 0, written_bytes: 0 };
        let entries = match state.open_and_load() {
            Ok((entries, 0)) => entries,
            Ok((entries, unreadable)) => {
                state.begin_anew(&entries, &Trouble::Unreadable(unreadable), losses)?;
                entries
            }
            Err(trouble) if state.is_damage(&trouble) => {
                state.begin_anew(&Entries::new(), &trouble, losses)?;
                Entries::new()
            }
            Err(trouble) => return Err(state.fault("open", &trouble)),
        };
        state.make_reserve();
        state.measure();
        Ok((state, entries))
    }

    /// Writes all entries or none, durably. `None` deletes.
    pub(super) fn put(&mut self, entries: &[(String, Option<Bytes>)]) -> Result<(), StoreFault> {
        let too_long = |value: &Option<Bytes>| value.as_ref().is_some_and(|value| value.len() > STATE_VALUE_BYTES_MAX);
        if let Some((key, value)) = entries.iter().find(|(_, value)| too_long(value)) {
            let len = value.as_ref().map_or(0, Bytes::len);
            let what = format!("put {key} into the state: value is {len} B, the limit is {STATE_VALUE_BYTES_MAX} B");
            return Err(StoreFault::Io { what });
        }
        self.commit(entries)?;
        self.written_bytes += COMMIT_OVERHEAD_BYTES;
        self.written_bytes +=
            entries.iter().map(|(key, value)| (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64).sum::<u64>();
        self.make_reserve();
        self.measure();
        Ok(())
    }

    /// Bytes on disk, the reserve and what was set aside included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes + self.damaged_bytes
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    fn commit(&mut self, entries: &[(String, Option<Bytes>)]) -> Result<(), StoreFault> {
        let mut attempt = 1;
        loop {
            let Err(trouble) = self.try_commit(entries) else { return Ok(()) };
            // After an error nothing that this handle says can be relied on, not even what it reads.
            self.close();
            if attempt == ATTEMPTS {
                return Err(self.fault("put into", &trouble));
            }
            attempt += 1;
        }
    }

    fn try_commit(&mut self, entries: &[(String, Option<Bytes>)]) -> Result<(), Trouble> {
        if self.db.is_none() {
            self.db = Some(self.open_db()?);
        }
        let Some(db) = &self.db else { return Ok(()) };
        let mut batch = sled::Batch::default();
        for (key, value) in entries {
            match value {
                Some(value) => batch.insert(key.as_bytes(), encode(key, value)),
                None => batch.remove(key.as_bytes()),
            }
        }
        guarded(|| {
            db.db.apply_batch(batch)?;
            db.db.flush()?;
            Ok(db.file.sync_data()?)
        })
    }

    /// Opens sled and reads everything; gives also how many entries could not be read.
    fn open_and_load(&mut self) -> Result<(Entries, usize), Trouble> {
        let db = self.open_db()?;
        let loaded = guarded(|| Ok(load(&db.db)));
        self.db = Some(db);
        loaded
    }

    /// Opens sled, with the reserve given up if the disk is too full for it.
    fn open_db(&self) -> Result<Db, Trouble> {
        let dir = self.dir();
        match open_db(&dir) {
            Err(_) if self.free_bytes() < self.reserve_bytes && self.reserve().exists() => {
                disk::remove(&self.reserve())?;
                open_db(&dir)
            }
            other => other,
        }
    }

    /// Sets the directory aside and begins a new one with the entries that are left.
    fn begin_anew(
        &mut self,
        entries: &Entries,
        trouble: &Trouble,
        losses: &mut Vec<StoreLoss>,
    ) -> Result<(), StoreFault> {
        self.close();
        let (dir, aside) = (self.dir(), self.root.join(DIR_DAMAGED));
        let set_aside = || -> io::Result<()> {
            if aside.is_dir() {
                fs::remove_dir_all(&aside)?;
            }
            fs::rename(&dir, &aside)?;
            disk::sync_dir(&self.root)
        };
        set_aside().attempt(|| format!("set {} aside", dir.display()))?;
        let what = format!(
            "{}: {trouble}; set aside as {}, begun anew with {} entries",
            dir.display(),
            aside.display(),
            entries.len()
        );
        losses.push(StoreLoss { what, records: 0, state_lost: true });
        let entries: Vec<_> = entries.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        self.commit(&entries)
    }

    /// Whether to give the state up. What a full disk, a missing right or another holder causes is none of its fault.
    fn is_damage(&self, trouble: &Trouble) -> bool {
        let spared = |error: &io::Error| {
            disk::is_no_space(error)
                || matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::OutOfMemory
                )
        };
        match trouble {
            Trouble::Sled(sled::Error::Io(error)) | Trouble::Io(error) if spared(error) => false,
            held if is_lock(held) => false,
            // sled panics as well when it has no room; a state that is fine must not be given up for that.
            Trouble::Panicked(_) => self.free_bytes() >= self.reserve_bytes,
            _ => true,
        }
    }

    fn close(&mut self) {
        if let Some(db) = self.db.take() {
            // sled flushes when it is dropped, and may panic there as anywhere.
            let _ = guarded(move || {
                drop(db);
                Ok(())
            });
        }
    }

    fn fault(&self, verb: &str, trouble: &Trouble) -> StoreFault {
        let what = format!("{verb} the state in {}", self.dir().display());
        match trouble {
            Trouble::Sled(sled::Error::Io(error)) | Trouble::Io(error) => disk::fault(what, error),
            other => StoreFault::Io { what: format!("{what}: {other}") },
        }
    }

    fn dir(&self) -> PathBuf {
        self.root.join(DIR)
    }

    fn reserve(&self) -> PathBuf {
        self.root.join(RESERVE_FILE)
    }

    fn free_bytes(&self) -> u64 {
        free_bytes(&self.root).unwrap_or(0)
    }

    /// Makes the reserve if there is none and there is plenty of room. Without it the agent works as well, until the disk
    /// is full; so a failure is no more than that.
    fn make_reserve(&self) {
        let reserve = self.reserve();
        if reserve.exists() || self.free_bytes() < self.reserve_bytes * RESERVE_FREE_FACTOR {
            return;
        }
        if write_reserve(&reserve, self.reserve_bytes).is_err() {
            let _ = disk::remove(&reserve);
        }
    }

    fn measure(&mut self) {
        let reserve = fs::metadata(self.reserve()).map_or(0, |metadata| metadata.len());
        self.bytes = reserve + disk::tree_bytes(&self.dir());
        self.damaged_bytes = disk::tree_bytes(&self.root.join(DIR_DAMAGED));
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.close();
    }
}

/// Bytes free for us on the file system that holds `path` (statvfs(3), f_bavail: not what is reserved for root).
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Runs a call of sled's; its panic is an error like any other.
fn guarded<T>(call: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    panic::catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a word");
        Err(Trouble::Panicked(text.to_owned()))
    })
}

fn open_db(dir: &Path) -> Result<Db, Trouble> {
    disk::make_dir(dir)?;
    remove_torn_snapshots(dir)?;
    let db = open_sled(dir)?;
    // sled syncs neither its own directory nor its configuration: after a power cut both could be missing.
    File::open(dir.join("conf"))?.sync_all()?;
    disk::sync_dir(&dir.join("blobs"))?;
    disk::sync_dir(dir)?;
    disk::sync_dir(disk::parent(dir))?;
    let file = OpenOptions::new().read(true).write(true).open(dir.join("db"))?;
    Ok(Db { db, file })
}

/// A database that was just dropped may be locked a moment longer: by a thread of sled's own that hasn't ended, or by a
/// process that was forked and hasn't yet become another program.
fn open_sled(dir: &Path) -> Result<sled::Db, Trouble> {
    let mut tries = 1;
    loop {
        let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        match guarded(|| Ok(config.open()?)) {
            Err(trouble) if is_lock(&trouble) && tries < LOCK_TRIES => std::thread::sleep(LOCK_PAUSE),
            other => return other,
        }
        tries += 1;
    }
}

/// A snapshot that a crash left half-written makes sled refuse the state for good.
fn remove_torn_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            disk::remove(&path)?;
        }
    }
    Ok(())
}

/// Whether sled found its file locked. It tells so only in words; 0.34.7 is its last release of this line.
fn is_lock(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Sled(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock"))
}

/// Reads all entries, and counts those that can't be. Over a bad page sled's iterator gives the same error for ever: what
/// lies behind it is read from the other end.
fn load(db: &sled::Db) -> (Entries, usize) {
    let mut entries = Entries::new();
    let mut unreadable = 0;
    let forward = take(db.iter(), &mut entries, &mut unreadable);
    if !forward {
        unreadable += 1;
        take(db.iter().rev(), &mut entries, &mut unreadable);
    }
    (entries, unreadable)
}

/// Takes entries up to the first error or to one that is known; `false` after an error.
fn take(
    items: impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>,
    entries: &mut Entries,
    unreadable: &mut usize,
) -> bool {
    for item in items {
        let Ok((key, value)) = item else { return false };
        match decode(&key, &value) {
            Some((key, _)) if entries.contains_key(&key) => return true,
            Some((key, value)) => drop(entries.insert(key, value)),
            None => *unreadable += 1,
        }
    }
    true
}

fn encode(key: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = checksum(key.as_bytes(), value).to_le_bytes().to_vec();
    bytes.extend_from_slice(value);
    bytes
}

fn decode(key: &[u8], stored: &[u8]) -> Option<(String, Bytes)> {
    let (crc, value) = stored.split_first_chunk::<CHECKSUM_BYTES>()?;
    let key = std::str::from_utf8(key).ok()?;
    (u32::from_le_bytes(*crc) == checksum(key.as_bytes(), value))
        .then(|| (key.to_owned(), Bytes::copy_from_slice(value)))
}

/// The key is covered too: a value that turns up under another one is damage.
fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

fn write_reserve(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&incompressible(usize::try_from(bytes).unwrap_or(0)))?;
    file.sync_all()?;
    disk::sync_dir(disk::parent(path))
}

/// xorshift64: file systems for raw flash compress, and a reserve of zeros would hold nothing back.
fn incompressible(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut word = 0x9E37_79B9_7F4A_7C15_u64;
    while bytes.len() < len {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
