//! One open sled database, and the guards around its calls: what it opens, flushes and closes is synced, and its panics
//! are errors. Says what is wrong with what it opened, and leaves it to the state what is to be done about that.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::Entries;
use super::generation::Last;
use super::kept::Kept;
use super::load;
use super::pool::{self, POOL};
use super::tally::{TALLY_KEY, Tally, checksum, encode};
use crate::gather::gather;
use crate::store::{disk, unreadable};

/// sled's, below the state's directory.
pub(super) const DB_FILE: &str = "db";
const CACHE_BYTES: u64 = 1024 * 1024;

/// How often a locked database is tried again, and after which pause: two seconds in all.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// An entry's key, and what is to be stored; `None` deletes.
pub(super) type Change = (String, Option<Vec<u8>>);

/// The open database, and what is known of what is in it.
#[derive(Debug)]
pub(super) struct Db {
    pub(super) db: sled::Db,
    /// Our own descriptor of sled's file: sled calls sync_file_range, which is no promise.
    pub(super) file: File,
    /// A sync failed: the kernel may take pages for clean that never reached the disk.
    pub(super) suspect: bool,
    pub(super) tally: Tally,
    /// Of each entry that is there: what it adds to the tally.
    checksums: BTreeMap<String, u32>,
}

/// What opening the database gave.
pub(super) struct Opened {
    pub(super) db: Db,
    pub(super) entries: Entries,
    /// Entries that could not be read.
    unreadable: usize,
}

/// Why sled did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("start threads for sled: {0}")]
    NoThreads(io::Error),
    #[error(transparent)]
    Sled(#[from] sled::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("sled panicked: {0}")]
    Panicked(String),
    #[error("{0} entries that can't be read")]
    Unreadable(usize),
    #[error("{found} entries, and {expected} were written")]
    Incomplete { found: u64, expected: u64 },
    #[error("it has fallen back from write {last} to write {found}")]
    FellBack { found: u64, last: u64 },
    #[error("the number of its last write is lost, so it may have fallen back")]
    Unnumbered,
}

impl Trouble {
    /// Whether the system said that there is no space, a quota is spent, or files may not be so large.
    pub(super) fn is_no_space(&self) -> bool {
        match self {
            Self::Sled(sled::Error::Io(error)) | Self::Io(error) => disk::is_no_space(error),
            // The error that sled met stands in it, with its kind.
            Self::Panicked(text) => {
                ["StorageFull", "QuotaExceeded", "FileTooLarge"].iter().any(|kind| text.contains(kind))
            }
            _ => false,
        }
    }
}

impl Db {
    /// Sees to it, after a sync that failed, that all of the file is on disk. The database stays open meanwhile: when
    /// sled closes on such a disk it panics, and what it held in memory then is never freed.
    pub(super) fn mend(&mut self, dir: &Path) -> io::Result<()> {
        if !self.suspect {
            return Ok(());
        }
        let file = open_file(dir)?;
        // Nothing is written to a disk that still fails.
        file.sync_data()?;
        disk::rewrite(&file, 0, file.metadata()?.len())?;
        file.sync_data()?;
        self.file = file;
        self.suspect = false;
        Ok(())
    }

    /// The changes to the database that the write of this number makes, with the tally carried on over them.
    pub(super) fn take_into_tally(&mut self, entries: &[(String, Option<Bytes>)], generation: u64) -> Vec<Change> {
        let mut changes = Vec::with_capacity(entries.len() + 1);
        for (key, value) in entries {
            self.count(key, value.as_deref());
            changes.push((key.clone(), value.as_ref().map(|value| encode(key, value))));
        }
        self.tally.generation = generation;
        changes.push((TALLY_KEY.to_owned(), Some(encode(TALLY_KEY, &self.tally.encode()))));
        changes
    }

    /// Makes all changes or none, durably.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> Result<(), Trouble> {
        let mut batch = sled::Batch::default();
        for (key, stored) in changes {
            match stored {
                Some(stored) => batch.insert(key.into_bytes(), stored),
                None => batch.remove(key.into_bytes()),
            }
        }
        guarded(|| {
            self.db.apply_batch(batch)?;
            Ok(self.db.flush()?)
        })?;
        POOL.is_up();
        self.suspect = true;
        self.file.sync_data()?;
        self.suspect = false;
        Ok(())
    }

    /// Carries the tally on over one entry that is put, or deleted.
    fn count(&mut self, key: &str, value: Option<&[u8]>) {
        if let Some(old) = self.checksums.remove(key) {
            self.tally.entries = self.tally.entries.wrapping_sub(1);
            self.tally.sum = self.tally.sum.wrapping_sub(u64::from(old));
        }
        let Some(value) = value else { return };
        let new = checksum(key.as_bytes(), value);
        self.checksums.insert(key.to_owned(), new);
        self.tally.entries = self.tally.entries.wrapping_add(1);
        self.tally.sum = self.tally.sum.wrapping_add(u64::from(new));
    }
}

impl Opened {
    /// Reads all of a database that was just opened.
    pub(super) fn of(db: sled::Db, dir: &Path) -> Result<Self, Trouble> {
        let (db, (file, (mut entries, unreadable))) = held_through(db, |db| {
            sync_names(dir)?;
            Ok((open_file(dir)?, guarded(|| Ok(load::all(db)))?))
        })?;
        let tally = entries.remove(TALLY_KEY).and_then(|bytes| Tally::decode(&bytes));
        let checksums = gather(entries.iter().map(|(key, value)| (key.clone(), checksum(key.as_bytes(), value))));
        let db = Db { db, file, suspect: false, tally: tally.unwrap_or_default(), checksums };
        Ok(Self { db, entries, unreadable })
    }

    /// What is wrong with it, where the last write known of is the `last`.
    pub(super) fn trouble(&self, last: Last) -> Option<Trouble> {
        if self.unreadable > 0 {
            return Some(Trouble::Unreadable(self.unreadable));
        }
        let tally = self.db.tally;
        match last {
            Last::Damaged => return Some(Trouble::Unnumbered),
            Last::Missing if tally.generation > 0 => return Some(Trouble::Unnumbered),
            Last::Known(last) if tally.generation < last => {
                return Some(Trouble::FellBack { found: tally.generation, last });
            }
            _ => {}
        }
        if tally != Tally::of(&self.db.checksums, tally.generation) {
            return Some(Trouble::Incomplete { found: self.entries.len() as u64, expected: tally.entries });
        }
        None
    }
}

/// Drops what holds a database: sled flushes and syncs then, and may panic there as anywhere.
pub(super) fn let_go<T>(db: T) {
    let _ = guarded(move || {
        drop(db);
        Ok(())
    });
}

/// Does something with a database, and lets go of it where that fails.
pub(super) fn held_through<T>(
    db: sled::Db,
    step: impl FnOnce(&sled::Db) -> Result<T, Trouble>,
) -> Result<(sled::Db, T), Trouble> {
    match step(&db) {
        Ok(done) => Ok((db, done)),
        Err(trouble) => {
            let_go(db);
            Err(trouble)
        }
    }
}

/// Runs a call of sled's; its panic is an error like any other.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    // Any call may be the one that starts its threads.
    let _calm = pool::Calm::begin();
    panic::catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a word");
        Err(Trouble::Panicked(text.to_owned()))
    })
}

/// Opens sled with a copy of its files beside it. What it did to them without coming to an end is undone.
pub(super) fn open_kept(dir: &Path, dead: bool, spare_bytes: u64) -> Result<Opened, Trouble> {
    Kept::restore(dir)?;
    check_kinds(dir, disk::DEPTH_MAX)?;
    let kept = Kept::make(dir, spare_bytes)?;
    let opened = open_db(dir, dead);
    let Some(kept) = kept else { return opened };
    match opened {
        Ok(opened) => match opened.db.file.sync_data().and_then(|()| kept.forget()) {
            Ok(()) => Ok(opened),
            Err(error) => {
                let_go(opened.db);
                Err(error.into())
            }
        },
        Err(trouble) => {
            // What somebody else holds, sled has not touched, and the copy was made while it was in use.
            if is_lock(&trouble) {
                kept.forget()?;
            } else {
                Kept::restore(dir)?;
            }
            Err(trouble)
        }
    }
}

pub(super) fn open_db(dir: &Path, dead: bool) -> Result<Opened, Trouble> {
    disk::make_dir(dir)?;
    remove_torn_snapshots(dir)?;
    if !dead {
        // Here, because sled takes what it can't read for lost.
        unreadable::check_all_in(dir)?;
    }
    check_sync(&dir.join(DB_FILE))?;
    Opened::of(open_sled(dir)?, dir)
}

pub(super) fn remove_expendable(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == "conf" || name.starts_with("snap.") {
            disk::remove_all(&path)?;
        }
    }
    Ok(())
}

/// Fails where anything but files and directories lies among sled's: a pipe it would open, and wait for ever for
/// somebody to write to it.
fn check_kinds(dir: &Path, depth: u32) -> io::Result<()> {
    for path in disk::files_in(dir).map(|entry| entry.path()) {
        // As it is opened: behind a link.
        let Ok(found) = fs::metadata(&path) else { continue };
        if found.is_dir() && depth > 0 {
            check_kinds(&path, depth - 1)?;
        } else if !found.is_file() && !found.is_dir() {
            return Err(io::Error::other(format!("{} is not a regular file", path.display())));
        }
    }
    Ok(())
}

/// sled syncs neither its own directory nor its configuration: after a power cut both could be missing.
pub(super) fn sync_names(dir: &Path) -> io::Result<()> {
    File::open(dir.join("conf"))?.sync_all()?;
    disk::sync_dir(&dir.join("blobs"))?;
    disk::sync_dir(dir)?;
    disk::sync_dir(disk::parent(dir))
}

/// Our own descriptor of sled's file.
pub(super) fn open_file(dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(dir.join(DB_FILE))
}

/// Tries whether a file can be synced before sled is opened on it: when it closes it panics where it can't, and what it
/// held in memory then is never freed.
fn check_sync(path: &Path) -> io::Result<()> {
    // One that is not there yet, or is no file, sled tells of itself.
    File::open(path).map_or(Ok(()), |file| file.sync_data())
}

/// A database that was just dropped may be locked a moment longer: by a thread of sled's own that hasn't ended, or by a
/// process that was forked and hasn't yet become another program.
pub(super) fn open_sled(dir: &Path) -> Result<sled::Db, Trouble> {
    POOL.prepare().map_err(Trouble::NoThreads)?;
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
            disk::remove_all(&path)?;
        }
    }
    Ok(())
}

/// Whether sled found its file locked. It tells so only in words; 0.34.7 is its last release of this line.
pub(super) fn is_lock(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Sled(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock"))
}
