//! The append-only log of one class: segments that are written once, read in order and deleted whole, and a cursor.
//! Records go to the newest segment through a bounded buffer; they are durable after [`Log::commit`] and gone after
//! [`Log::trim`] or [`Log::evict`]. Memory doesn't grow with the number of records: of each segment only its bounds and
//! counts are kept. The log must not decide what to keep: it deletes only what it is told to.

mod delete;
mod file;
mod inspect;
mod open;
mod read;
#[cfg(test)]
mod tests;
mod trail;
mod writer;

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

pub use self::inspect::LogSummary;
pub(super) use self::inspect::{export, inspect};
use self::trail::Trail;
use self::writer::Writer;
use super::cursor::{Cursor, Found, Mark, Position};
use super::disk::{self, Attempt};
use super::segment::{FRAME_BYTES, HEADER_BYTES, RECORD_BYTES_MAX};
use super::unreadable::Opening;
use super::waiting::Waiting;
use crate::engine::io::{LogRange, StoreFault, StoreLoss};
use crate::engine::record::Class;

/// What is held back before it is written to the file; a commit writes it in any case.
pub(crate) const WRITE_BUFFER_BYTES: usize = 64 * 1024;
/// A newest segment that is done with is deleted from this size on; below it the deleting costs more than it gives.
pub(crate) const DRAINED_BYTES_MIN: u64 = 64 * 1024;
/// After so many commits that no move of the cursor followed, it is written for its mark: as seldom as the wear asks
/// for, as often as the end of the log is worth. A result or an event is seldom and worth a page of its own; while the
/// broker acknowledges, the cursor is written for that in any case.
pub(crate) const fn mark_commits(class: Class) -> u32 {
    match class {
        Class::Results | Class::Events => 1,
        Class::Telemetry | Class::Thinned | Class::Hourly => 16,
    }
}
/// After so many looks into a segment that the disk refused, each of them seconds after the one before, what is refused
/// is gone for good.
const REFUSALS_MAX: u32 = 8;
/// And after so many where nothing of the segment can be read.
const WAITS_MAX: u32 = 60;
const SUFFIX: &str = "seg";
const CURSOR_FILE: &str = "cursor";

/// What [`Log::read`] found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Page {
    pub(super) records: Vec<(u64, Bytes)>,
    /// Records that turned out to be lost since the last look.
    pub(super) damaged: u64,
}

/// What [`Log::evict`] gave up: records not yet trimmed, their first seq and their last. Zeros if there were none.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Evicted {
    pub(super) records: u64,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// One segment, as far as memory goes.
#[derive(Debug, Clone, Copy)]
struct Segment {
    /// The seq that names its file; no record in it has a lower one.
    first: u64,
    last: u64,
    /// Records that check, trimmed or not.
    records: u64,
    /// Its size, what is still in the buffer included.
    bytes: u64,
}

/// Where the first record that is not yet trimmed lies. Always in the oldest segment.
#[derive(Debug, Clone, Copy)]
struct Head {
    offset: u64,
    /// Records of the segment before it.
    trimmed: u64,
    /// Its seq; `None` if the segment holds none.
    first_live: Option<u64>,
}

const HEAD_UNKNOWN: Head = Head { offset: HEADER_BYTES, trimmed: 0, first_live: None };

/// Where a read ended: all records of `segment` before `offset` have seqs up to `below`.
#[derive(Debug, Clone, Copy)]
struct ReadHint {
    segment: u64,
    offset: u64,
    below: u64,
}

/// The log of one class.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    segment_bytes: u64,
    /// See [`mark_commits`].
    mark_commits: u32,
    /// Oldest first. The last one is being appended to if there is a writer.
    segments: VecDeque<Segment>,
    writer: Option<Writer>,
    cursor: Cursor,
    head: Head,
    hint: Option<ReadHint>,
    /// The segment that was looked into last, by its first seq: a backlog is read page by page. Never one that is
    /// deleted, whose room it would keep.
    looked_into: Option<(u64, File)>,
    /// The records read last, each followed by the next one of the log: what is read is soon to be trimmed, and need
    /// not be read again for that.
    trail: Trail,
    /// Highest seq ever.
    last: u64,
    next_nth: u32,
    /// The last durable record, the nth that follows it, the segment in which it lies, and how much of that is durable.
    durable_last: u64,
    durable_nth: u32,
    durable_in: (u64, u64),
    /// Commits since the cursor was last written.
    unmarked: u32,
    /// Records that were missing when it was opened, as far as it knows of itself.
    missing: u64,
    /// Records found to be lost that no read has told of yet.
    damaged: u64,
    /// Given up and counted, by an eviction that then failed to delete them.
    untold: Evicted,
    /// Segments in which what the disk refuses to read is gone for good.
    dead: BTreeSet<u64>,
    /// Looks that the disk refused since a page could be read.
    refusals: u32,
    set_aside_bytes: u64,
    written_bytes: u64,
}

impl Log {
    /// Opens the log in `dir`, made if there is none. What was damaged is told.
    pub(super) fn open(
        dir: &Path,
        segment_bytes: u64,
        mark_commits: u32,
        opening: &mut Opening,
    ) -> Result<Self, StoreFault> {
        disk::claim_dir(dir, segment_bytes, opening).attempt(|| format!("make directory {}", dir.display()))?;
        let path = dir.join(CURSOR_FILE);
        let existed = path.exists();
        let (cursor, found) =
            open::open_cursor(&path, existed, segment_bytes, opening).attempt(|| format!("open {}", path.display()))?;
        let mut log = Self {
            dir: dir.to_owned(),
            segment_bytes,
            mark_commits,
            segments: VecDeque::new(),
            writer: None,
            last: cursor.position().highest,
            cursor,
            head: HEAD_UNKNOWN,
            hint: None,
            looked_into: None,
            trail: Trail::default(),
            next_nth: 0,
            durable_last: 0,
            durable_nth: 0,
            durable_in: (0, 0),
            unmarked: 0,
            missing: 0,
            damaged: 0,
            untold: Evicted::default(),
            dead: BTreeSet::new(),
            refusals: 0,
            set_aside_bytes: 0,
            written_bytes: 0,
        };
        log.recover(opening).attempt(|| format!("read the segments in {}", dir.display()))?;
        let trouble = match found {
            Found::Whole => None,
            Found::Half => {
                Some("a half of it is damaged; what was sent may be sent again, and what is lost not counted")
            }
            Found::Nothing if existed || !log.segments.is_empty() => {
                Some("unreadable, begun anew; what was sent already may be sent again")
            }
            Found::Nothing => None,
        };
        opening.losses.extend(trouble.map(|trouble| {
            let what = format!("{}: {trouble}", path.display());
            StoreLoss { what, records: 0, state_lost: false }
        }));
        Ok(log)
    }

    /// Adds a record to the newest segment, or to a new one if that is full.
    pub(super) fn append(&mut self, seq: u64, body: &[u8]) -> Result<(), StoreFault> {
        let refused = |why: String| StoreFault::Io { what: format!("append to {}: {why}", self.dir.display()) };
        if body.len() > RECORD_BYTES_MAX {
            return Err(refused(format!("record {seq} is {} B, the limit is {RECORD_BYTES_MAX} B", body.len())));
        }
        if seq <= self.last {
            return Err(refused(format!("record {seq} is not above {}, the last one", self.last)));
        }
        self.append_frame(seq, body).attempt(|| format!("append record {seq} to {}", self.dir.display()))
    }

    /// fdatasync of what was appended, and of the directory if there is a new segment. Nothing to do costs nothing.
    pub(super) fn commit(&mut self) -> Result<(), StoreFault> {
        self.sync().attempt(|| format!("commit {}", self.dir.display()))
    }

    /// Says what is in the log, so that damage to its end is counted to the record when it is opened again, and leaves
    /// no room behind it: its files may be copied where room takes as much as data.
    pub(super) fn finish(&mut self) -> Result<(), StoreFault> {
        if let Some(writer) = &mut self.writer {
            writer.give_room_back();
        }
        self.mark().attempt(|| format!("mark {}", self.dir.display()))
    }

    /// Records from `from` on, oldest first: up to `records_max`, and up to `bytes_max` but at least one. Trimmed ones
    /// are never given.
    pub(super) fn read(&mut self, from: u64, records_max: usize, bytes_max: usize) -> Result<Page, StoreFault> {
        self.read_page(from, records_max, bytes_max).attempt(|| format!("read from {}", self.dir.display()))
    }

    /// Moves the cursor and deletes the segments that are done with.
    pub(super) fn trim(&mut self, upto: u64) -> Result<(), StoreFault> {
        self.trim_to(upto).attempt(|| format!("trim {} up to {upto}", self.dir.display()))
    }

    /// Deletes the oldest segment. What it gives up is counted for good before it is gone.
    pub(super) fn evict(&mut self) -> Result<Evicted, StoreFault> {
        self.evict_oldest().attempt(|| format!("evict the oldest segment of {}", self.dir.display()))
    }

    pub(super) fn range(&self) -> LogRange {
        LogRange {
            first: self.head.first_live.unwrap_or(0),
            last: self.last,
            records: self.records(),
            evicted: self.cursor.position().evicted,
        }
    }

    /// Records that it told of as missing when it was opened.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    /// It has held records up to this seq, of which it doesn't know itself: its cursor says so as soon as it moves.
    pub(super) fn has_held(&mut self, upto: u64) {
        self.last = self.last.max(upto);
    }

    /// What of it a power cut can't take.
    pub(super) fn waiting(&self) -> Waiting {
        Waiting { records: self.mark_of(self.records()).live, last: self.durable_last }
    }

    /// Records not yet trimmed.
    pub(super) fn records(&self) -> u64 {
        let acked = self.acked();
        let live = |segment: &&Segment| segment.last > acked;
        let records: u64 = self.segments.iter().filter(live).map(|segment| segment.records).sum();
        let trimmed = self.segments.front().filter(live).map_or(0, |_| self.head.trimmed);
        records.saturating_sub(trimmed)
    }

    /// Bytes of all segments, those set aside included.
    pub(super) fn bytes(&self) -> u64 {
        self.set_aside_bytes + self.segments.iter().map(|segment| segment.bytes).sum::<u64>()
    }

    pub(super) fn segments(&self) -> u32 {
        u32::try_from(self.segments.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes + self.cursor.written_bytes()
    }

    // Appending.

    fn append_frame(&mut self, seq: u64, body: &[u8]) -> io::Result<()> {
        let frame_bytes = FRAME_BYTES + body.len();
        if self.segments.back().is_some_and(|newest| newest.bytes + frame_bytes as u64 > self.segment_bytes) {
            self.seal()?;
        }
        if self.writer.is_none() {
            self.begin(seq)?;
        }
        if self.writer.as_ref().is_some_and(|writer| writer.is_full_for(frame_bytes)) {
            self.flush()?;
        }
        let (Some(writer), Some(newest)) = (self.writer.as_mut(), self.segments.back_mut()) else {
            return Err(io::Error::other("there is no segment to append to"));
        };
        writer.push(newest.first, seq, self.next_nth, body);
        let at = newest.bytes;
        newest.bytes += frame_bytes as u64;
        newest.records += 1;
        newest.last = seq;
        self.last = seq;
        self.next_nth = self.next_nth.wrapping_add(1);
        if self.segments.len() == 1 && self.head.first_live.is_none() {
            self.head.offset = at;
            self.head.first_live = Some(seq);
        }
        Ok(())
    }

    /// Ends the newest segment: once another follows, nothing of it may be missing.
    fn seal(&mut self) -> io::Result<()> {
        self.sync()?;
        if let Some(mut writer) = self.writer.take() {
            writer.give_room_back();
        }
        // It may have been done with for long, and stayed only because it was appended to.
        self.delete_done()
    }

    fn begin(&mut self, first: u64) -> io::Result<()> {
        self.writer = Some(Writer::create(&self.path(first), self.next_nth, self.segment_bytes)?);
        self.segments.push_back(Segment { first, last: self.last, records: 0, bytes: HEADER_BYTES });
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(writer) = self.writer.as_mut() else { return Ok(()) };
        self.written_bytes += writer.flush()?;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        let Some(writer) = self.writer.as_mut() else { return Ok(()) };
        if writer.sync_data()? {
            self.unmarked += 1;
        }
        writer.list_in(&self.dir)?;
        self.all_durable();
        if self.unmarked >= self.mark_commits {
            self.mark()?;
        }
        Ok(())
    }

    fn all_durable(&mut self) {
        // Not of records that it only has held once.
        self.durable_last = self.segments.back().map_or(self.last, |newest| newest.last);
        self.durable_nth = self.next_nth;
        self.durable_in = self.end();
    }

    /// Where the log ends: in which segment, and how far into it.
    fn end(&self) -> (u64, u64) {
        self.segments.back().map_or(self.durable_in, |newest| (newest.first, newest.bytes))
    }

    /// Writes down how many records there should be. It waits for no sync: until one comes the mark before it counts.
    fn mark(&mut self) -> io::Result<()> {
        self.move_to(Position { highest: self.last, ..self.cursor.position() }, self.records())
    }

    /// Moves the cursor to where `live` records lie above it.
    fn move_to(&mut self, position: Position, live: u64) -> io::Result<()> {
        self.unmarked = 0;
        self.cursor.put(Position { mark: Some(self.mark_of(live)), ..position })
    }

    /// What of `live` records, the last ones of the log, a power cut can't take.
    fn mark_of(&self, live: u64) -> Mark {
        let volatile = u64::from(self.next_nth.wrapping_sub(self.durable_nth));
        // Where none is live, what isn't durable was acknowledged.
        let (segment, end) = if live == 0 { self.end() } else { self.durable_in };
        let (live, nth) = match (live.checked_sub(volatile), u32::try_from(live)) {
            (None, Ok(live)) => (0, self.next_nth.wrapping_sub(live)),
            (durable, _) => (durable.unwrap_or(0), self.durable_nth),
        };
        Mark { live, nth, segment, end }
    }

    fn acked(&self) -> u64 {
        self.cursor.position().acked
    }

    fn path(&self, first: u64) -> PathBuf {
        segment_path(&self.dir, first)
    }
}

fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.{SUFFIX}"))
}

/// The first seqs of the files with this suffix, in order. Files that are named otherwise are none of ours.
fn names_with(dir: &Path, suffix: &str) -> io::Result<Vec<u64>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = PathBuf::from(entry?.file_name());
        if name.extension().is_some_and(|extension| extension == suffix) {
            names.extend(name.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok()));
        }
    }
    names.sort_unstable();
    Ok(names)
}
