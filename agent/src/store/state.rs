//! The keyed state: the journal, budgets, alarms, cursors and anchors, in sled. sled 0.34 by itself neither syncs nor
//! survives every crash, so this module wraps it in guards, each of which stands for a failure that was reproduced: a
//! commit is flush and fdatasync, and one of many changes is written by way of a plain file; a value carries its own
//! checksum, every call may panic, and after any error the database is dropped and opened anew before the next try;
//! where only our sync failed it is kept, and its file written again. With each write goes a tally of all entries, and
//! the number of the last write stands in a file outside of sled: so an entry that vanished and a state that fell back
//! to what it was before are noticed. It must not hold large values, and it never lets what can't be read pass as empty:
//! a state that is lost is set aside and said to be lost.

mod db;
mod generation;
mod kept;
mod load;
mod pool;
mod reserve;
mod rewrite;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use self::db::{Db, Opened, Trouble, is_lock, let_go, open_db, open_kept, remove_expendable};
pub(super) use self::generation::{GENERATION_FILE, was_used};
use self::generation::{Generation, Last};
pub(super) use self::kept::KEPT_DIR;
use self::pool::POOL;
use self::reserve::Reserve;
#[cfg(feature = "simulate")]
pub(crate) use self::reserve::{RESERVE_PART_BYTES, reserve_to_hold};
pub(crate) use self::reserve::{Room, reserve_bytes};
pub(super) use self::rewrite::IMAGE_FILE;
use self::tally::CHECKSUM_BYTES;
use super::disk::{self, Attempt, Place};
use super::unreadable::{self, Opening};
use crate::engine::io::{StoreFault, StoreLoss};
use crate::engine::keyed::STATE_LOST_KEY;

/// Longest value. From 5 KiB on, with the checksum, sled's recovery was seen to panic after power cuts.
pub const STATE_VALUE_BYTES_MAX: usize = 5 * 1024 - CHECKSUM_BYTES - 1;
/// A call is made once more after the database was opened anew.
const ATTEMPTS: usize = 2;
/// What sled writes for a commit beside keys and values: 2,000 commits of 300 B wrote 2.5 MB.
pub(crate) const COMMIT_OVERHEAD_BYTES: u64 = 950;

pub(super) const DIR: &str = "state";

pub(super) type Entries = BTreeMap<String, Bytes>;

/// The open state.
#[derive(Debug)]
pub(super) struct State {
    root: PathBuf,
    /// What the whole store may take.
    max_bytes: u64,
    /// From this size of sled's file on it is looked whether the state is to be written anew.
    look_at_bytes: u64,
    /// Whether what the disk refuses to read is gone for good.
    dead: bool,
    /// It is thrown away when it has been read.
    is_copy: bool,
    /// `None` after an error, until the next call opens it anew.
    db: Option<Db>,
    /// Where its directory was when the database was opened; `None` before that, and where we ourselves left none.
    place: Option<Place>,
    generation: Generation,
    reserve: Reserve,
    bytes: u64,
    damaged_bytes: u64,
    written_bytes: u64,
}

impl State {
    /// Opens the state below `root` and reads all of it. A damaged one is set aside as `state.damaged` (replacing an
    /// earlier one), and begun anew with what of it could be read, which is told.
    pub(super) fn open(root: &Path, max_bytes: u64, opening: &mut Opening) -> Result<(Self, Entries), StoreFault> {
        let mut state = Self::closed(root, max_bytes, opening)?;
        let entries = state.take_up(opening);
        if entries.is_ok() {
            state.rewrite_if_overgrown();
        }
        // Also where it did not open: that is tried again, and needs room then.
        state.reserve.keep(state.disk());
        let entries = entries?;
        state.measure();
        Ok((state, entries))
    }

    /// All that can be read of a copy, for which nothing is held back, and of which no copy is kept.
    pub(super) fn read_copy(root: &Path, max_bytes: u64, opening: &mut Opening) -> Result<Entries, StoreFault> {
        let mut state = Self::closed(root, max_bytes, opening)?;
        state.is_copy = true;
        state.take_up(opening)
    }

    fn closed(root: &Path, max_bytes: u64, opening: &Opening) -> Result<Self, StoreFault> {
        let path = root.join(GENERATION_FILE);
        let generation =
            Generation::open(&path, opening.is_dead(&path)).attempt(|| format!("read {}", path.display()))?;
        Ok(Self {
            root: root.to_owned(),
            max_bytes,
            look_at_bytes: rewrite::worth_a_look_bytes(max_bytes),
            dead: opening.is_dead_below(&root.join(DIR)) || opening.is_dead(&root.join(IMAGE_FILE)),
            is_copy: false,
            db: None,
            place: None,
            generation,
            reserve: Reserve::new(reserve::path_in(root), reserve_bytes(max_bytes)),
            bytes: 0,
            damaged_bytes: 0,
            written_bytes: 0,
        })
    }

    /// Opens the database, or begins it anew where it is damaged.
    fn take_up(&mut self, opening: &mut Opening) -> Result<Entries, StoreFault> {
        match self.open_salvaging() {
            Ok(opened) => {
                let trouble = opened.trouble(self.generation.last);
                self.db = Some(opened.db);
                if let Some(trouble) = trouble {
                    self.begin_anew(&opened.entries, &trouble, opening)?;
                }
                if let Some(what) = opened.entries.get(STATE_LOST_KEY) {
                    let what = String::from_utf8_lossy(what).into_owned();
                    opening.losses.push(StoreLoss { what, records: 0, state_lost: true });
                }
                Ok(opened.entries)
            }
            Err(trouble) if self.is_damage(&trouble) && !self.is_out_of_room(&trouble) => {
                self.begin_anew(&Entries::new(), &trouble, opening)?;
                Ok(Entries::new())
            }
            Err(trouble) => Err(self.fault("open", &trouble)),
        }
    }

    /// Writes all entries or none, durably. `None` deletes.
    pub(super) fn put(&mut self, entries: &[(String, Option<Bytes>)]) -> Result<(), StoreFault> {
        let too_long = |value: &Option<Bytes>| value.as_ref().is_some_and(|value| value.len() > STATE_VALUE_BYTES_MAX);
        if let Some((key, value)) = entries.iter().find(|(_, value)| too_long(value)) {
            let len = value.as_ref().map_or(0, Bytes::len);
            let what = format!("put {key} into the state: value is {len} B, the limit is {STATE_VALUE_BYTES_MAX} B");
            return Err(StoreFault::Io { what });
        }
        let committed = self.commit(entries);
        if committed.is_ok() {
            self.rewrite_if_overgrown();
        }
        self.reserve.keep(self.disk());
        self.measure();
        committed?;
        self.written_bytes += COMMIT_OVERHEAD_BYTES;
        self.written_bytes +=
            entries.iter().map(|(key, value)| (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64).sum::<u64>();
        Ok(())
    }

    /// Bytes on disk, the reserve, what was set aside and what sled is sure to take included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes + self.damaged_bytes
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    fn commit(&mut self, entries: &[(String, Option<Bytes>)]) -> Result<(), StoreFault> {
        // Before anything is handed to sled, which flushes when it is closed, too.
        POOL.prepare().map_err(|error| self.fault("put into", &Trouble::NoThreads(error)))?;
        let mut attempt = 1;
        loop {
            let Err(trouble) = self.try_commit(entries) else { return Ok(()) };
            if !self.db.as_ref().is_some_and(|db| db.suspect) {
                // After an error of sled's nothing that this handle says can be relied on, not even what it reads.
                self.close();
                if self.lacks_room(&trouble) {
                    self.reserve.give();
                }
            }
            if attempt == ATTEMPTS {
                return Err(self.fault("put into", &trouble));
            }
            attempt += 1;
        }
    }

    fn try_commit(&mut self, entries: &[(String, Option<Bytes>)]) -> Result<(), Trouble> {
        if self.db.is_none() {
            let mut opened = self.open_db()?;
            if opened.trouble(self.generation.last).is_some() {
                // What stood in it is still known to who puts. The next opening must notice all the same, and begin
                // anew: from here on the tally is carried on wrong.
                opened.db.tally.sum = opened.db.tally.sum.wrapping_add(1);
            }
            self.db = Some(opened.db);
        }
        let dir = self.dir();
        let Some(db) = self.db.as_mut() else { return Ok(()) };
        db.mend(&dir)?;
        let last = if let Last::Known(last) = self.generation.last { last } else { 0 };
        let generation = db.tally.generation.max(last) + 1;
        let changes = db.take_into_tally(entries, generation);
        if !(rewrite::are_many(&changes) && self.commit_anew(&changes)?) {
            self.db.as_mut().map_or(Ok(()), |db| db.apply(changes))?;
        }
        self.generation.put(generation);
        Ok(())
    }

    /// Opens the state. Where that fails, once more without what sled can do without: its snapshots, which repeat what
    /// stands in the log, and its configuration, which is the default one.
    fn open_salvaging(&mut self) -> Result<Opened, Trouble> {
        match self.open_db() {
            Err(trouble) if self.is_salvageable(&trouble) && !self.is_out_of_room(&trouble) => {
                remove_expendable(&self.dir())?;
                // What went wrong first is the better thing to tell.
                self.open_db().map_err(|_| trouble)
            }
            other => other,
        }
    }

    /// Opens sled and reads everything, with as much of the reserve given as that needs on a full disk. Its directory
    /// may be another one then, by our own doing.
    fn open_db(&mut self) -> Result<Opened, Trouble> {
        let was_in_place = self.is_in_place();
        let mut opened = self.try_open_db();
        while opened.as_ref().is_err_and(|trouble| self.lacks_room(trouble)) && self.reserve.give() {
            opened = self.try_open_db();
        }
        if was_in_place {
            self.place = Place::of(self.dir());
        }
        opened
    }

    /// Whether its directory is where it was, and not somebody else's or deleted.
    pub(super) fn is_in_place(&self) -> bool {
        self.place.as_ref().is_none_or(Place::is_there)
    }

    fn try_open_db(&self) -> Result<Opened, Trouble> {
        match rewrite::finish(&self.root, self.dead)? {
            Some(db) => Opened::of(db, &self.dir()),
            None if self.is_copy => open_db(&self.dir(), self.dead),
            None => open_kept(&self.dir(), self.dead, self.reserve.bytes_max()),
        }
    }

    /// Sets the directory aside and begins a new one with the entries that are left.
    fn begin_anew(&mut self, entries: &Entries, trouble: &Trouble, opening: &mut Opening) -> Result<(), StoreFault> {
        self.close();
        self.place = None;
        let dir = self.dir();
        let aside_bytes_max = super::aside_bytes_max(self.max_bytes) / 2;
        let set_aside = disk::set_aside(&dir, aside_bytes_max, &trouble.to_string())
            .attempt(|| format!("set {} aside", dir.display()))?;
        let what = format!("{}, begun anew with {} entries", set_aside.what, entries.len());
        // The new one has fallen back from nothing.
        self.generation.last = Last::Known(0);
        let mark: Bytes = what.as_bytes().iter().take(STATE_VALUE_BYTES_MAX).copied().collect();
        let left = entries.iter().filter(|(key, _)| *key != STATE_LOST_KEY);
        let left = left.map(|(key, value)| (key.clone(), Some(value.clone())));
        let entries: Vec<_> = left.chain([(STATE_LOST_KEY.to_owned(), Some(mark))]).collect();
        opening.losses.push(StoreLoss { what, records: 0, state_lost: true });
        self.commit(&entries)
    }

    /// Whether to give the state up. What a full disk, one that is to be waited for or another holder causes is none of
    /// its fault; nor is anything while all of it is in the image.
    fn is_damage(&self, trouble: &Trouble) -> bool {
        match trouble {
            _ if rewrite::is_unfinished(&self.root) => false,
            Trouble::NoThreads(_) => false,
            Trouble::Sled(sled::Error::Io(error)) | Trouble::Io(error) if disk::is_passing(error) => false,
            Trouble::Io(error) if unreadable::is_refusal(error) => self.dead,
            other => !is_lock(other),
        }
    }

    /// Whether less of sled's files may be opened. Those of another version of sled may not.
    fn is_salvageable(&self, trouble: &Trouble) -> bool {
        self.is_damage(trouble) && !matches!(trouble, Trouble::Sled(sled::Error::Unsupported(_)))
    }

    /// sled panics as well when it has no room; a state that is fine must not be given up for that.
    fn is_out_of_room(&self, trouble: &Trouble) -> bool {
        matches!(trouble, Trouble::Panicked(_)) && self.lacks_room(trouble)
    }

    /// Whether room may be all that is missing: the error says so, or hardly any is free. The number of free bytes
    /// shows neither that a quota is spent nor that there are no inodes.
    fn lacks_room(&self, trouble: &Trouble) -> bool {
        trouble.is_no_space() || self.free_bytes() < self.reserve.bytes_max()
    }

    fn close(&mut self) {
        self.db.take().into_iter().for_each(let_go);
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

    fn free_bytes(&self) -> u64 {
        self.disk().free
    }

    /// Where the file system doesn't tell, there is none: that is the careful answer.
    fn disk(&self) -> Room {
        room(&self.root).unwrap_or_default()
    }

    pub(super) fn measure(&mut self) {
        // Of one that is new sled's file is small, and takes a segment when it is opened again: not for records until
        // then.
        let dir = disk::tree_bytes(&self.dir()).max(rewrite::SLED_SEGMENT_BYTES);
        self.bytes = self.reserve.bytes() + dir + disk::tree_bytes(&self.root.join(IMAGE_FILE));
        self.damaged_bytes = disk::aside_bytes(&self.dir());
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.close();
    }
}

/// The room on the file system that holds `path` (statvfs(3); free is f_bavail: not what is reserved for root).
pub(super) fn room(path: &Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(path)?;
    let [free, size] = [stat.f_bavail, stat.f_blocks].map(|blocks| blocks.saturating_mul(stat.f_frsize));
    Ok(Room { free, size })
}
