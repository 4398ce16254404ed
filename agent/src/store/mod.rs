//! The durable store: an outbox of append-only logs, one for each class, and a keyed state, below one directory that
//! one process holds. It does what a [`StoreOp`] says and reports how it stands; quotas, eviction and what to keep are
//! the engine's to decide. It must not lose what it called committed, and must not give a damaged byte for a good one.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the store is the shell that owns files and a thread"
)]

mod absent;
mod cursor;
pub(crate) mod disk;
mod log;
mod peek;
mod segment;
mod state;
mod thread;
mod unreadable;
mod waiting;

#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

pub use self::absent::{Absent, Found};
pub use self::log::LogSummary;
pub use self::segment::RECORD_BYTES_MAX;
pub use self::state::STATE_VALUE_BYTES_MAX;
pub use self::thread::{Backing, STORE_QUEUE_MAX, StoreHandle};

// What the simulated disk counts with too, so that the two can't drift apart.
pub(crate) use self::log::mark_commits;
#[cfg(feature = "simulate")]
pub(crate) use self::{
    cursor::CURSOR_BYTES,
    log::{DRAINED_BYTES_MIN, WRITE_BUFFER_BYTES},
    segment::{FRAME_BYTES, HEADER_BYTES},
    state::{COMMIT_OVERHEAD_BYTES, RESERVE_PART_BYTES, Room, reserve_bytes, reserve_to_hold},
    waiting::ENTRY_BYTES,
};

use self::disk::{Attempt, Place};
use self::log::Log;
use self::state::State;
use self::unreadable::Opening;
use self::waiting::Waiting;
use crate::engine::io::{Recovered, StoreFault, StoreLoss, StoreOp, StoreReply, StoreStats};
use crate::engine::record::Class;

const SEGMENT_BYTES_MAX: u64 = 1024 * 1024;
const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// Eviction gives up a segment at a time: of a small store one must not be a large part.
const SEGMENTS_PER_STORE: u64 = 16;
/// And what is set aside, in all, takes no more than this part.
const ASIDE_SHARE: u64 = 8;
const OUTBOX_DIR: &str = "outbox";
const LOCK_FILE: &str = "lock";
/// How long a lock that somebody holds is tried, and how far apart.
const LOCK_MAX: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Where the store lies and how large it is meant to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// Its directory; made, for the owner alone, if it isn't there.
    pub path: PathBuf,
    /// What the engine lets it grow to, in bytes: here it sets the size of a segment and of the reserve, when the state
    /// is written anew, and how much of what was damaged is kept.
    pub max_bytes: u64,
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error("another fieldmedic (pid {pid}) uses the store at {path}")]
    InUse {
        /// The store's directory.
        path: PathBuf,
        /// The holder, as it wrote it into the lock file; "unknown" if it didn't yet.
        pid: String,
    },
    /// Something else is in the way.
    #[error("the store's path {path} is not a directory")]
    NotADirectory {
        /// What the configuration names.
        path: PathBuf,
    },
    /// Files made there would not be readable for the owner, or are not for us.
    #[error("the store at {path} belongs to uid {owner}, and this process runs as uid {uid}")]
    WrongOwner {
        /// The store's directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        uid: u32,
    },
    /// Its files, or some of them, were deleted or moved away, and what is written to them is lost.
    #[error("the store at {path}, or a part of it, was taken away while it was in use")]
    TakenAway {
        /// Where it was.
        path: PathBuf,
    },
    /// The system refused, or the disk failed.
    #[error("open the store")]
    Fault(#[from] StoreFault),
}

/// What is free on the disk of a store, or where one is to be made.
///
/// # Errors
/// It could not be looked at.
pub(crate) fn free_bytes_at(path: &Path) -> io::Result<u64> {
    match (state::room(path), path.parent()) {
        (Err(error), Some(above)) if error.kind() == io::ErrorKind::NotFound => free_bytes_at(above),
        (room, _) => Ok(room?.free),
    }
}

/// The open store. What was not committed is lost when it is dropped.
#[derive(Debug)]
pub struct Store {
    settings: StoreSettings,
    logs: [Log; Class::COUNT],
    /// What the state said of them when it was opened.
    known: [Waiting; Class::COUNT],
    state: State,
    /// As of the last operation that was more than an append: those are many, and asking takes as long as they do.
    free_bytes: u64,
    /// What it works in: the lock, and the directories of logs and state.
    places: Vec<Place>,
    /// Last, so that it is dropped last.
    _lock: Lock,
}

impl Store {
    /// Opens the store or makes it, and tells what lies in it. Damage is no error: what can be saved is, and
    /// [`Recovered::losses`] tells the rest.
    ///
    /// # Errors
    /// [`OpenError`]: the directory is in use, not ours, not a directory, or can't be read or written; also just now.
    pub fn open(settings: &StoreSettings) -> Result<(Self, Recovered), OpenError> {
        Self::open_knowing(settings, None)
    }

    /// The same by whoever knows what waited in each log, and better than the state does.
    fn open_knowing(
        settings: &StoreSettings,
        waited: Option<[Waiting; Class::COUNT]>,
    ) -> Result<(Self, Recovered), OpenError> {
        let path = &settings.path;
        claim(path)?;
        disk::mend_rights(path);
        // Not the lock: a start that came no further has written that, too.
        let written_at =
            [OUTBOX_DIR, state::DIR].into_iter().filter_map(|dir| disk::last_written(&path.join(dir))).max();
        let mut opening = Opening::of(path);
        let lock = lock(path, segment_bytes(settings.max_bytes), &mut opening)?;
        let (mut logs, known, mut state, entries) = match open_parts(settings, waited, &mut opening) {
            Err(_) if opening.look_again(path) => {
                let opened = open_parts(settings, waited, &mut opening)?;
                opening.tell_once();
                opened
            }
            other => other?,
        };
        opening.tidy(path);
        opening.note_boot(path);
        // Before the engine gives up a record for the room that this takes.
        disk::bound_aside(path, aside_bytes_max(settings.max_bytes));
        for log in &mut logs {
            log.count_set_aside().attempt(|| format!("read what lies aside in {}", path.display()))?;
        }
        state.measure();
        let dirs = Class::ALL.map(|class| log_dir(path, class)).into_iter();
        let places = dirs.chain([path.join(LOCK_FILE)]).filter_map(Place::of).collect();
        let mut store = Self { settings: settings.clone(), logs, known, state, free_bytes: 0, places, _lock: lock };
        store.look_for_space();
        let recovered = Recovered {
            logs: Class::ALL.map(|class| class.of(&store.logs).range()),
            state: entries.into_iter().collect(),
            losses: opening.losses,
            stats: store.stats(),
            written_at,
            absent: false,
        };
        Ok((store, recovered))
    }

    /// Does one operation. A failed one has changed nothing that a reply vouched for, and can be tried again.
    ///
    /// # Errors
    /// [`StoreFault::NoSpace`] on a full disk, [`StoreFault::Io`] for anything else; never [`StoreFault::Busy`].
    pub fn apply(&mut self, op: StoreOp) -> Result<StoreReply, StoreFault> {
        let is_frequent = matches!(op, StoreOp::Append { .. } | StoreOp::Read { .. });
        let result = self.carry_out(op);
        if !is_frequent {
            self.look_for_space();
        }
        result
    }

    fn carry_out(&mut self, op: StoreOp) -> Result<StoreReply, StoreFault> {
        match op {
            StoreOp::Append { class, seq, bytes } => {
                class.of_mut(&mut self.logs).append(seq, &bytes).map(|()| StoreReply::Appended)
            }
            StoreOp::Commit => self.commit().map(|()| StoreReply::Committed),
            StoreOp::Read { class, from, records_max, bytes_max } => {
                let page = class.of_mut(&mut self.logs).read(from, records_max, bytes_max)?;
                Ok(StoreReply::Page { records: page.records, damaged: page.damaged })
            }
            StoreOp::Trim { class, upto } => class.of_mut(&mut self.logs).trim(upto).map(|()| StoreReply::Trimmed),
            StoreOp::Evict { class } => {
                let evicted = class.of_mut(&mut self.logs).evict()?;
                Ok(StoreReply::Evicted { records: evicted.records, first: evicted.first, last: evicted.last })
            }
            StoreOp::Put { mut entries } => {
                entries.push(waiting::entry(&self.waiting()));
                self.state.put(&entries).map(|()| StoreReply::Put)
            }
            StoreOp::Probe => Ok(StoreReply::Probed),
        }
    }

    /// Whether its files are where they were when it was opened, and not deleted, or elsewhere, with what is written to
    /// them, whole or in part.
    pub(super) fn is_in_place(&self) -> bool {
        self.places.iter().all(Place::is_there) && self.state.is_in_place()
    }

    /// What is durable of each log.
    fn waiting(&self) -> [Waiting; Class::COUNT] {
        waiting::of(&self.logs, &self.known)
    }

    /// What stands in for it once it is not in place any more, where so much `waited` in it. The state is told as well,
    /// if that is still there: whoever finds the rest gone may be another run.
    fn stand_in(&mut self, waited: [Waiting; Class::COUNT]) -> Absent {
        if self.state.is_in_place() {
            let _ = self.state.put(&[waiting::entry(&waited)]);
        }
        Absent::after(self.settings.clone(), waited)
    }

    /// Commits, and leaves a count by which the next opening knows the last record, too.
    ///
    /// # Errors
    /// Like [`Store::apply`]; what was committed is safe in any case.
    pub fn close(mut self) -> Result<(), StoreFault> {
        self.commit()?;
        self.logs.iter_mut().try_for_each(Log::finish)
    }

    /// How the store stands now.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            outbox_bytes: self.logs.iter().map(Log::bytes).sum(),
            state_bytes: self.state.bytes(),
            free_bytes: self.free_bytes,
            written_bytes: self.state.written_bytes() + self.logs.iter().map(Log::written_bytes).sum::<u64>(),
            records: Class::ALL.map(|class| class.of(&self.logs).records()),
            segments: Class::ALL.map(|class| class.of(&self.logs).segments()),
        }
    }

    fn look_for_space(&mut self) {
        // Where the file system doesn't tell, none is the careful answer.
        self.free_bytes = state::room(&self.settings.path).unwrap_or_default().free;
    }

    /// Every log is tried, so that one on a bad block doesn't hold up the others; the first failure is told.
    fn commit(&mut self) -> Result<(), StoreFault> {
        let mut outcome = Ok(());
        for log in &mut self.logs {
            outcome = outcome.and(log.commit());
        }
        outcome
    }
}

fn open_parts(
    settings: &StoreSettings,
    waited: Option<[Waiting; Class::COUNT]>,
    opening: &mut Opening,
) -> Result<([Log; Class::COUNT], [Waiting; Class::COUNT], State, state::Entries), StoreFault> {
    let path = &settings.path;
    let segment_bytes = segment_bytes(settings.max_bytes);
    let outbox = path.join(OUTBOX_DIR);
    disk::claim_dir(&outbox, segment_bytes, opening).attempt(|| format!("make directory {}", outbox.display()))?;
    let used = state::was_used(path);
    let vanished = Class::ALL.map(|class| used && !log_dir(path, class).exists());
    let mut open_log = |class| Log::open(&log_dir(path, class), segment_bytes, mark_commits(class), opening);
    let mut logs = [
        open_log(Class::Results)?,
        open_log(Class::Events)?,
        open_log(Class::Telemetry)?,
        open_log(Class::Thinned)?,
        open_log(Class::Hourly)?,
    ];
    let (state, mut entries) = State::open(path, settings.max_bytes, opening)?;
    let in_state = waiting::take(&mut entries);
    let known = waited.or(in_state);
    for class in Class::ALL {
        let dir = log_dir(path, class);
        let known = known.map(|known| *class.of(&known));
        // The state may not have heard of the last of it. Whoever had the store knows.
        let was_empty = waited.is_some_and(|waited| class.of(&waited).last == 0);
        let vanished = *class.of(&vanished) && !was_empty;
        let log = class.of_mut(&mut logs);
        opening.losses.extend(vanished_log(&dir, vanished, log, known));
        log.has_held(known.unwrap_or_default().last);
    }
    Ok((logs, known.unwrap_or_default(), state, entries))
}

/// What is told of a log that is gone as a whole, as its directory has `vanished`, or its end, as more is `known` of it
/// than it knows itself: that has not been trimmed since, or its cursor would tell of it. What the log has told of as
/// missing is not told twice.
fn vanished_log(dir: &Path, vanished: bool, log: &Log, known: Option<Waiting>) -> Option<StoreLoss> {
    let found = log.range();
    let is_known = known.is_some_and(|known| known.last > found.last);
    if !vanished && !is_known {
        return None;
    }
    let (records, what) = match known {
        Some(Waiting { last: 0, .. }) => (0, "it had held none when the state was last written".to_owned()),
        Some(Waiting { records, last }) => (
            records.saturating_sub(found.records).saturating_sub(log.missing()),
            format!(
                "{records} records waited in it when the state was last written, and it had held some up to seq {last}"
            ),
        ),
        None => (0, "how many records were in it is not known".to_owned()),
    };
    if records == 0 && log.missing() > 0 {
        return None;
    }
    // The directory may have been made by a start that ended before it was told.
    let what = match found.last {
        0 => format!("{}: vanished; {what}; begun anew", dir.display()),
        last => format!("{}: its end vanished; {what}; there are {} up to seq {last}", dir.display(), found.records),
    };
    Some(StoreLoss { what, records, state_lost: false })
}

/// What may be set aside, in a store that may grow to `max_bytes`.
pub(crate) const fn aside_bytes_max(max_bytes: u64) -> u64 {
    max_bytes / ASIDE_SHARE
}

/// The size at which a segment is full, in a store that may grow to `max_bytes`.
pub(crate) fn segment_bytes(max_bytes: u64) -> u64 {
    (max_bytes / SEGMENTS_PER_STORE).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
}

/// What came of reading each log: one that can't be read doesn't hide the others.
pub type OfEach<T> = [(Class, Result<T, StoreFault>); Class::COUNT];

/// Reads what lies in the outbox of a store, also of one in use; takes no lock and changes nothing. A log that has
/// vanished is an empty one.
///
/// # Errors
/// There is no outbox, or it can't be read.
pub fn inspect(path: &Path) -> Result<OfEach<LogSummary>, StoreFault> {
    of_each(path, |_, dir| log::inspect(dir))
}

/// Shows every record that waits in the outbox of a store, class by class and in order, also of a store in use; takes
/// no lock and changes nothing. What was written but not committed is shown too. Gives what damage took.
///
/// # Errors
/// There is no outbox, or it can't be read.
pub fn export(path: &Path, mut show: impl FnMut(Class, u64, &[u8])) -> Result<OfEach<LogSummary>, StoreFault> {
    of_each(path, |class, dir| log::export(dir, |seq, body| show(class, seq, body)))
}

/// Entries of a keyed state, and what of it is lost.
pub type Peeked = (Vec<(String, Bytes)>, Vec<StoreLoss>);

/// The keyed state of a store, as far as it can be read, and what of it can't be, also of a store in use; takes no lock
/// and changes nothing.
///
/// # Errors
/// There is none, or no room for a copy of it.
pub fn peek_state(path: &Path) -> Result<Peeked, StoreFault> {
    let (entries, losses) = peek::entries(path)?;
    Ok((entries.into_iter().collect(), losses))
}

/// Whether there is a store that may be read.
///
/// # Errors
/// There is none, it isn't ours to read, or the disk refuses to.
pub fn look_at(path: &Path) -> io::Result<()> {
    fs::read_dir(path.join(OUTBOX_DIR)).map(drop)
}

fn of_each<T>(path: &Path, mut read: impl FnMut(Class, &Path) -> io::Result<T>) -> Result<OfEach<T>, StoreFault> {
    look_at(path).attempt(|| format!("read {}", path.join(OUTBOX_DIR).display()))?;
    Ok(Class::ALL.map(|class| {
        let dir = log_dir(path, class);
        (class, read(class, &dir).attempt(|| format!("read {}", dir.display())))
    }))
}

fn log_dir(path: &Path, class: Class) -> PathBuf {
    path.join(OUTBOX_DIR).join(class.word())
}

/// Makes the directory, or sees to it that the one that is there is ours.
fn claim(path: &Path) -> Result<(), OpenError> {
    let reading = || format!("read {}", path.display());
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => return Err(OpenError::NotADirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk::make_dir(path).attempt(|| format!("make directory {}", path.display()))?;
        }
        _ => {}
    }
    let owner = fs::metadata(path).attempt(reading)?.uid();
    let uid = rustix::process::geteuid().as_raw();
    if owner != uid {
        return Err(OpenError::WrongOwner { path: path.to_owned(), owner, uid });
    }
    Ok(())
}

/// Takes the store for this process, for as long as the file is open (flock(2)).
fn lock(path: &Path, bytes_max: u64, opening: &mut Opening) -> Result<Lock, OpenError> {
    let file_path = path.join(LOCK_FILE);
    let locking = || format!("lock {}", file_path.display());
    let open = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&file_path)
    };
    let mut file = match open() {
        // No agent made this: who may run on this store is its owner, and so are the files of whoever holds it.
        Err(error) if !opening.is_passing(&file_path, &error) => {
            opening.losses.push(disk::set_aside(&file_path, bytes_max, &error.to_string()).attempt(locking)?);
            open().attempt(locking)?
        }
        other => other.attempt(locking)?,
    };
    match try_to_lock(&file) {
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let read = file.read_to_string(&mut pid).is_ok() && !pid.is_empty();
            let pid = if read { pid } else { "unknown".to_owned() };
            return Err(OpenError::InUse { path: path.to_owned(), pid });
        }
        other => other.attempt(locking)?,
    }
    // Only for the message above; on a full disk the lock holds without it.
    let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
    Ok(Lock(file))
}

/// Of an agent that was killed a child may hold the lock for a moment: forked, and not yet another program.
fn try_to_lock(file: &File) -> Result<(), Errno> {
    let give_up_at = Instant::now() + LOCK_MAX;
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < give_up_at => std::thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
}

#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process forked at this moment holds the file open until it becomes another program.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}
