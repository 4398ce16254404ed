//! The append-only log of one class: segments that are written once, read in order and deleted whole, and a cursor.
//! Records go to the newest segment through a bounded buffer; they are durable after [`Log::commit`] and gone after
//! [`Log::trim`] or [`Log::evict`]. Memory doesn't grow with the number of records: of each segment only its bounds and
//! counts are kept. The log must not decide what to keep: it deletes only what it is told to.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::cursor::{self, Cursor, Found, Mark, Position};
use super::disk::{self, Attempt};
use super::segment::{
    self, FRAME_BYTES, Frames, HEADER_BYTES, HEADER_LEN, Header, RECORD_BYTES_MAX, Source, Step, Survey,
};
use crate::engine::io::{LogRange, StoreFault, StoreLoss};

/// What is held back before it is written to the file; a commit writes it in any case.
pub(crate) const WRITE_BUFFER_BYTES: usize = 64 * 1024;
/// A newest segment that is done with is deleted from this size on; below it the deleting costs more than it gives.
pub(crate) const DRAINED_BYTES_MIN: u64 = 64 * 1024;
/// Segments that are kept beside the log, of each kind; older ones go.
const SET_ASIDE_MAX: usize = 2;
/// After so many commits that no move of the cursor followed, it is written for its mark: as seldom as the wear asks for, as
/// often as the end of the log is worth.
pub(crate) const MARK_COMMITS: u32 = 16;
const SUFFIX: &str = "seg";
/// Written by a newer agent.
const SUFFIX_NEWER: &str = "newer";
const SUFFIX_DAMAGED: &str = "damaged";
const CURSOR_FILE: &str = "cursor";
/// Records read and not yet trimmed of which it is known where they lie: more than are ever on their way at once.
const TRAIL_MAX: usize = 2_048;

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

/// The newest segment's file while it is appended to.
#[derive(Debug)]
struct Writer {
    file: File,
    /// Frames that are not in the file yet.
    buffer: Vec<u8>,
    /// How much is in the file.
    written: u64,
    /// How much of that is on disk for certain.
    synced: u64,
    /// A sync failed: the kernel may take pages for clean that never reached the disk.
    suspect: bool,
    /// The directory doesn't hold the file for certain.
    unlisted: bool,
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

/// A record that was read, and where its frame begins.
#[derive(Debug, Clone, Copy)]
struct Read {
    segment: u64,
    offset: u64,
    seq: u64,
}

/// The log of one class.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    segment_bytes: u64,
    /// Oldest first. The last one is being appended to if there is a writer.
    segments: VecDeque<Segment>,
    writer: Option<Writer>,
    cursor: Cursor,
    head: Head,
    hint: Option<ReadHint>,
    /// The records read last, each followed by the next one of the log: what is read is soon to be trimmed, and need not
    /// be read again for that.
    trail: VecDeque<Read>,
    /// Highest seq ever.
    last: u64,
    next_nth: u32,
    /// The nth that follows the last durable record.
    durable_nth: u32,
    /// Commits since the cursor was last written.
    unmarked: u32,
    /// Records found to be lost that no read has told of yet.
    damaged: u64,
    /// Given up and counted, by an eviction that then failed to delete them.
    untold: Evicted,
    set_aside_bytes: u64,
    written_bytes: u64,
}

impl Log {
    /// Opens the log in `dir`, made if there is none. What was damaged is added to `losses`.
    pub(super) fn open(dir: &Path, segment_bytes: u64, losses: &mut Vec<StoreLoss>) -> Result<Self, StoreFault> {
        disk::claim_dir(dir, segment_bytes, losses).attempt(|| format!("make directory {}", dir.display()))?;
        let path = dir.join(CURSOR_FILE);
        let existed = path.exists();
        let (cursor, found) =
            open_cursor(&path, existed, segment_bytes, losses).attempt(|| format!("open {}", path.display()))?;
        let mut log = Self {
            dir: dir.to_owned(),
            segment_bytes,
            segments: VecDeque::new(),
            writer: None,
            last: cursor.position().highest,
            cursor,
            head: HEAD_UNKNOWN,
            hint: None,
            trail: VecDeque::new(),
            next_nth: 0,
            durable_nth: 0,
            unmarked: 0,
            damaged: 0,
            untold: Evicted::default(),
            set_aside_bytes: 0,
            written_bytes: 0,
        };
        log.recover(losses).attempt(|| format!("read the segments in {}", dir.display()))?;
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
        losses.extend(trouble.map(|trouble| {
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

    /// Says what is in the log, so that damage to its end is counted to the record when it is opened again.
    pub(super) fn finish(&mut self) -> Result<(), StoreFault> {
        self.mark().attempt(|| format!("mark {}", self.dir.display()))
    }

    /// Records from `from` on, oldest first: up to `records_max`, and up to `bytes_max` but at least one. Trimmed ones are
    /// never given.
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

    // Opening.

    fn recover(&mut self, losses: &mut Vec<StoreLoss>) -> io::Result<()> {
        let mut expected = None;
        let mut gaps = 0;
        let names = names_with(&self.dir, SUFFIX)?;
        for (index, first) in names.iter().copied().enumerate() {
            let newest = index + 1 == names.len();
            let Some(found) = self.take_in(first, expected, newest, losses)? else { continue };
            expected = found.next_nth;
            gaps += found.lost;
        }
        self.bound_set_aside()?;
        let mark = self.cursor.position().mark;
        self.next_nth = expected.or(mark.map(|mark| mark.nth)).unwrap_or(0);
        if let Some(mark) = mark {
            // What was durable had its nth, and nothing else may ever have the same.
            self.next_nth = self.next_nth.wrapping_add(segment::nth_after(mark.nth, self.next_nth));
        }
        self.durable_nth = self.next_nth;
        self.delete_done()?;
        self.count_again(0)?;
        // What was found damaged here is in `losses`; what the count found short was acknowledged before.
        self.damaged = 0;
        let lost = mark.map_or(gaps, |mark| self.missing_since(mark));
        if lost > 0 {
            // In words that stay the same until the mark moves, and no longer: a loss that is found again is told once.
            let since = mark.map(|mark| format!(" since record {} of this log", mark.nth)).unwrap_or_default();
            let what = format!("{}: {lost} records lost to damage{since}", self.dir.display());
            losses.push(StoreLoss { what, records: lost, state_lost: false });
        }
        Ok(())
    }

    /// How many of the durable records are not there: those above the cursor when it was marked, and those that followed.
    fn missing_since(&self, mark: Mark) -> u64 {
        let followed = segment::nth_after(self.next_nth, mark.nth);
        (mark.live + u64::from(followed)).saturating_sub(self.records())
    }

    /// Takes in a segment, as far as it can be read; `None` if nothing of it can.
    fn take_in(
        &mut self,
        first: u64,
        expected: Option<u32>,
        newest: bool,
        losses: &mut Vec<StoreLoss>,
    ) -> io::Result<Option<Survey>> {
        let path = self.path(first);
        let read = open_segment(&path).and_then(|(file, writable)| {
            let len = file.metadata()?.len();
            let source = Source { file: &file, written: len, tail: &[] };
            let found = segment::survey(source, first, self.acked(), expected)?;
            Ok((file, writable, len, found))
        });
        let (file, writable, len, found) = match read {
            Ok(read) => read,
            Err(error) if disk::is_passing(&error) => return Err(error),
            Err(error) => {
                losses.push(self.set_aside(first, SUFFIX_DAMAGED, &format!("can't be read ({error})"))?);
                return Ok(None);
            }
        };
        if let Header::Newer { version } = found.header {
            let why = format!("written by a newer agent (format {version})");
            losses.push(self.set_aside(first, SUFFIX_NEWER, &why)?);
            return Ok(None);
        }
        let damaged = found.damaged_bytes > 0 || (found.torn && !newest);
        if found.records == 0 {
            if damaged {
                losses.push(self.set_aside(first, SUFFIX_DAMAGED, "damaged, no record in it can be read")?);
            } else {
                disk::remove(&path)?;
            }
            return Ok(Some(found));
        }
        if damaged {
            losses.extend(self.keep_evidence(first, found.damaged_bytes.max(len - found.good_end)));
        }
        let resumed = newest && writable && !damaged;
        self.adopt(first, &found, if resumed { found.good_end } else { len });
        if newest {
            // What was read may be in the page cache only; from here on it counts as stored.
            file.sync_data()?;
            disk::sync_dir(&self.dir)?;
        }
        if resumed {
            self.resume(file, len, found.good_end)?;
        }
        Ok(Some(found))
    }

    fn adopt(&mut self, first: u64, found: &Survey, bytes: u64) {
        let last = found.last.unwrap_or(first);
        self.segments.push_back(Segment { first, last, records: found.records, bytes });
        self.last = self.last.max(last);
    }

    /// Goes on appending to the newest segment, after what of it is good: behind an append that never finished.
    fn resume(&mut self, file: File, len: u64, good_end: u64) -> io::Result<()> {
        if good_end < len {
            file.set_len(good_end)?;
            file.sync_data()?;
        }
        self.writer = Some(Writer {
            file,
            buffer: Vec::new(),
            written: good_end,
            synced: good_end,
            suspect: false,
            unlisted: false,
        });
        Ok(())
    }

    /// Takes a segment that is of no use out of the way.
    fn set_aside(&self, first: u64, suffix: &str, why: &str) -> io::Result<StoreLoss> {
        let (from, to) = (self.path(first), self.aside(first, suffix));
        disk::remove_all(&to)?;
        fs::rename(&from, &to)?;
        let what = format!("{}: {why}, set aside", to.display());
        Ok(StoreLoss { what, records: 0, state_lost: false })
    }

    /// Sees to it that a damaged segment can be looked into after the good records in it were sent. It is told of when that
    /// is done first, or each time where the file system knows no second name for a file.
    fn keep_evidence(&self, first: u64, damaged_bytes: u64) -> Option<StoreLoss> {
        let (from, to) = (self.path(first), self.aside(first, SUFFIX_DAMAGED));
        if fs::hard_link(&from, &to).is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            return None;
        }
        let what = format!("{}: {damaged_bytes} B damaged and passed over", from.display());
        Some(StoreLoss { what, records: 0, state_lost: false })
    }

    /// Deletes the oldest of what is set aside, beyond [`SET_ASIDE_MAX`] of a kind.
    fn bound_set_aside(&mut self) -> io::Result<()> {
        for suffix in [SUFFIX_NEWER, SUFFIX_DAMAGED] {
            let names = names_with(&self.dir, suffix)?;
            let surplus = names.len().saturating_sub(SET_ASIDE_MAX);
            for (index, first) in names.into_iter().enumerate() {
                let path = self.aside(first, suffix);
                // What belongs to another user may not let itself be deleted: it does no harm but for its size.
                if index < surplus && disk::remove_all(&path).is_ok() {
                    continue;
                }
                self.set_aside_bytes += fs::metadata(&path).map_or(0, |metadata| metadata.len());
            }
        }
        Ok(())
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
        // The first frame of a segment stays in the buffer in any case: a segment always holds the record that names it.
        let buffered = self.writer.as_ref().map_or(0, |writer| writer.buffer.len());
        if buffered > HEADER_LEN && buffered + frame_bytes > WRITE_BUFFER_BYTES {
            self.flush()?;
        }
        let (Some(writer), Some(newest)) = (self.writer.as_mut(), self.segments.back_mut()) else {
            return Err(io::Error::other("there is no segment to append to"));
        };
        segment::encode_frame(&mut writer.buffer, newest.first, seq, self.next_nth, body);
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
        self.writer = None;
        // It may have been done with for long, and stayed only because it was appended to.
        self.delete_done()
    }

    fn begin(&mut self, first: u64) -> io::Result<()> {
        let path = self.path(first);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let buffer = segment::encode_header(self.next_nth);
        self.writer = Some(Writer { file, buffer, written: 0, synced: 0, suspect: false, unlisted: true });
        self.segments.push_back(Segment { first, last: self.last, records: 0, bytes: HEADER_BYTES });
        Ok(())
    }

    /// Writes the buffer to the file. What doesn't fit on the disk stays in the buffer, so that nothing is lost once there
    /// is room again.
    fn flush(&mut self) -> io::Result<()> {
        let Some(writer) = self.writer.as_mut() else { return Ok(()) };
        if writer.buffer.is_empty() {
            return Ok(());
        }
        if let Err(error) = writer.file.write_all_at(&writer.buffer, writer.written) {
            // Half a frame only takes room. If even this fails the next write goes over it.
            let _ = writer.file.set_len(writer.written);
            return Err(error);
        }
        writer.written += writer.buffer.len() as u64;
        self.written_bytes += writer.buffer.len() as u64;
        writer.buffer.clear();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        let Some(writer) = self.writer.as_mut() else { return Ok(()) };
        if writer.synced < writer.written {
            if writer.suspect {
                rewrite(&writer.file, writer.synced, writer.written)?;
            }
            writer.suspect = true;
            writer.file.sync_data()?;
            writer.suspect = false;
            writer.synced = writer.written;
            self.unmarked += 1;
        }
        if writer.unlisted {
            disk::sync_dir(&self.dir)?;
            writer.unlisted = false;
        }
        self.durable_nth = self.next_nth;
        if self.unmarked >= MARK_COMMITS {
            self.mark()?;
        }
        Ok(())
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
        match (live.checked_sub(volatile), u32::try_from(live)) {
            (None, Ok(live)) => Mark { live: 0, nth: self.next_nth.wrapping_sub(live) },
            (durable, _) => Mark { live: durable.unwrap_or(0), nth: self.durable_nth },
        }
    }

    // Reading.

    fn read_page(&mut self, from: u64, records_max: usize, bytes_max: usize) -> io::Result<Page> {
        let from = from.max(self.acked().saturating_add(1));
        let mut wanted = Wanted { from, records_max, bytes_max, ..Wanted::default() };
        let start = self.segments.partition_point(|segment| segment.last < from);
        for index in start..self.segments.len() {
            let Some(segment) = self.segments.get(index).copied() else { break };
            let (offset, above) = self.start_of(segment, from);
            if index == start && self.hint.is_none_or(|hint| (hint.segment, hint.offset) != (segment.first, offset)) {
                self.trail.clear();
            }
            let before = wanted.records.len();
            let end = self
                .look(segment, |source| wanted.collect(Frames::new(source, segment.first, offset, above)))?
                .unwrap_or(Walked { offset, damaged: true, skipped: false, full: false });
            if end.damaged {
                self.count_again(index)?;
            }
            self.follow(&end, segment.first, wanted.records.get(before..).unwrap_or_default());
            if let Some(last) = wanted.records.last() {
                self.hint = Some(ReadHint { segment: segment.first, offset: end.offset, below: last.seq });
            }
            if end.full {
                break;
            }
        }
        // Told with this page, and by the next opening once more if no trim or commit has moved the mark by then: were it moved
        // here, a crash before the count is saved would leave them uncounted.
        let damaged = std::mem::take(&mut self.damaged);
        Ok(Page { records: wanted.finish(), damaged })
    }

    /// A known frame at or before the first one wanted, and the seq that it lies above.
    fn start_of(&self, segment: Segment, from: u64) -> (u64, u64) {
        let start = segment.first.saturating_sub(1);
        match self.hint {
            Some(hint) if hint.segment == segment.first && hint.below < from => (hint.offset, hint.below),
            _ if self.segments.front().is_some_and(|oldest| oldest.first == segment.first) => {
                (self.head.offset, self.head.first_live.map_or(start, |first| first - 1))
            }
            _ => (HEADER_BYTES, start),
        }
    }

    /// Notes where the records of a page lie, if they follow those that were noted before.
    fn follow(&mut self, walked: &Walked, segment: u64, found: &[FoundRecord]) {
        if walked.skipped {
            self.trail.clear();
        }
        self.trail.extend(found.iter().map(|found| Read { segment, offset: found.offset, seq: found.seq }));
        let surplus = self.trail.len().saturating_sub(TRAIL_MAX);
        self.trail.drain(..surplus);
    }

    /// From the trail, where the first record above `upto` lies, if it begins where the head of this segment is.
    fn next_on_trail(&self, segment: u64, head: Head, upto: u64) -> Option<Head> {
        let first = self.trail.iter().position(|read| (read.segment, read.offset) == (segment, head.offset))?;
        let passed = self.trail.range(first..).take_while(|read| read.segment == segment && read.seq <= upto).count();
        let next = self.trail.get(first + passed).filter(|next| next.segment == segment)?;
        Some(Head { offset: next.offset, trimmed: head.trimmed + passed as u64, first_live: Some(next.seq) })
    }

    /// Lets `look` see the bytes of a segment; `None` if its file is gone.
    fn look<T>(&self, segment: Segment, look: impl FnOnce(Source<'_>) -> io::Result<T>) -> io::Result<Option<T>> {
        let newest = self.segments.back().is_some_and(|newest| newest.first == segment.first);
        if let (true, Some(writer)) = (newest, &self.writer) {
            return look(Source { file: &writer.file, written: writer.written, tail: &writer.buffer }).map(Some);
        }
        match File::open(self.path(segment.first)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(file) => look(Source { file: &file, written: segment.bytes, tail: &[] }).map(Some),
        }
    }

    /// After damage was met: counts what is left of a segment, and what was lost since it was last counted.
    fn count_again(&mut self, index: usize) -> io::Result<()> {
        let Some(segment) = self.segments.get(index).copied() else { return Ok(()) };
        let acked = self.acked();
        let found = self.look(segment, |source| segment::survey(source, segment.first, acked, None))?;
        let (records, trimmed) = found.map_or((0, 0), |found| (found.records, found.trimmed));
        let trimmed_before = if index == 0 { self.head.trimmed } else { 0 };
        self.damaged += segment.records.saturating_sub(trimmed_before).saturating_sub(records - trimmed);
        if let Some(segment) = self.segments.get_mut(index) {
            segment.records = records;
        }
        if index == 0 {
            self.head = head_of(segment, found);
        }
        self.trail.clear();
        Ok(())
    }

    // Deleting.

    fn trim_to(&mut self, upto: u64) -> io::Result<()> {
        // Beyond the last seq the cursor would hide what is yet to come.
        let upto = upto.min(self.last);
        if upto <= self.acked() {
            return Ok(());
        }
        let (index, head) = self.locate(upto)?;
        let live: u64 = self.segments.range(index..).map(|segment| segment.records).sum();
        let position = Position { acked: upto, highest: self.last, ..self.cursor.position() };
        self.move_to(position, live.saturating_sub(head.trimmed))?;
        self.trail.drain(..self.trail.partition_point(|read| read.seq <= upto));
        let count = self.segments.len();
        self.delete_done()?;
        if index == count {
            return self.advance_head();
        }
        self.head = head;
        Ok(())
    }

    /// Where the first record above `upto` lies: the index of its segment, and what the head will be there.
    fn locate(&mut self, upto: u64) -> io::Result<(usize, Head)> {
        let index = self.segments.partition_point(|segment| segment.last <= upto);
        let Some(segment) = self.segments.get(index).copied() else { return Ok((index, HEAD_UNKNOWN)) };
        let head = if index == 0 { self.head } else { HEAD_UNKNOWN };
        if head.first_live.is_some_and(|first| first > upto) {
            return Ok((index, head));
        }
        if let Some(head) = self.next_on_trail(segment.first, head, upto) {
            return Ok((index, head));
        }
        let above = head.first_live.unwrap_or(segment.first).saturating_sub(1);
        let next = self.look(segment, |source| {
            next_live(Frames::new(source, segment.first, head.offset, above), upto, head.trimmed)
        })?;
        if let Some(head) = next.flatten() {
            return Ok((index, head));
        }
        self.count_again(index)?;
        let found = self.look(segment, |source| segment::survey(source, segment.first, upto, None))?;
        Ok((index, head_of(segment, found)))
    }

    fn evict_oldest(&mut self) -> io::Result<Evicted> {
        let Some(oldest) = self.segments.front().copied() else { return Ok(std::mem::take(&mut self.untold)) };
        if self.segments.len() == 1 && self.writer.as_ref().is_some_and(|writer| writer.written == 0) {
            // All of it is in memory: to give it up would make no room.
            return Ok(std::mem::take(&mut self.untold));
        }
        if oldest.last > self.acked() {
            self.give_up(oldest)?;
        }
        // It is given up for its room, of which there may be enough then.
        self.delete_oldest(disk::remove)?;
        self.advance_head()?;
        Ok(std::mem::take(&mut self.untold))
    }

    /// Moves the cursor behind a segment, and counts with the same write what it held: a crash leaves both or neither.
    fn give_up(&mut self, oldest: Segment) -> io::Result<()> {
        let records = oldest.records.saturating_sub(self.head.trimmed);
        let evicted = self.cursor.position().evicted + records;
        let live = self.records().saturating_sub(records);
        self.move_to(Position { acked: oldest.last, highest: self.last, evicted, mark: None }, live)?;
        if let (Some(first), 1..) = (self.head.first_live, records) {
            let first = if self.untold.records > 0 { self.untold.first } else { first };
            self.untold = Evicted { records: self.untold.records + records, first, last: oldest.last };
        }
        Ok(())
    }

    fn delete_done(&mut self) -> io::Result<()> {
        while self.segments.front().is_some_and(|oldest| self.is_done(*oldest)) {
            self.delete_oldest(disk::remove_unhurried)?;
        }
        Ok(())
    }

    fn is_done(&self, oldest: Segment) -> bool {
        let appended_to = self.segments.len() == 1 && self.writer.is_some();
        oldest.last <= self.acked() && (!appended_to || oldest.bytes >= DRAINED_BYTES_MIN)
    }

    fn delete_oldest(&mut self, remove: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let Some(oldest) = self.segments.front().copied() else { return Ok(()) };
        // The cursor first: it alone keeps the highest seq once the segment is gone.
        self.cursor.sync()?;
        remove(&self.path(oldest.first))?;
        self.segments.pop_front();
        if self.segments.is_empty() {
            self.writer = None;
        }
        self.head = HEAD_UNKNOWN;
        Ok(())
    }

    /// Finds the first record above the cursor, from where it was before.
    fn advance_head(&mut self) -> io::Result<()> {
        let acked = self.acked();
        let Some(oldest) = self.segments.front().copied() else {
            self.head = HEAD_UNKNOWN;
            return Ok(());
        };
        if oldest.last <= acked {
            self.head = Head { offset: oldest.bytes, trimmed: oldest.records, first_live: None };
            return Ok(());
        }
        let (_, head) = self.locate(acked)?;
        self.head = head;
        Ok(())
    }

    fn acked(&self) -> u64 {
        self.cursor.position().acked
    }

    fn path(&self, first: u64) -> PathBuf {
        segment_path(&self.dir, first)
    }

    fn aside(&self, first: u64, suffix: &str) -> PathBuf {
        self.dir.join(format!("{first:020}.{suffix}"))
    }
}

/// Opens the cursor; what can't be one is taken out of the way.
fn open_cursor(
    path: &Path,
    existed: bool,
    aside_bytes_max: u64,
    losses: &mut Vec<StoreLoss>,
) -> io::Result<(Cursor, Found)> {
    // Only of a log that is made now is it certain that there is nothing.
    let is_new = !existed && names_with(disk::parent(path), SUFFIX)?.is_empty();
    let begin = Position { mark: is_new.then(Mark::default), ..Position::default() };
    match Cursor::open(path, begin) {
        Err(error) if !disk::is_passing(&error) => {
            losses.push(disk::set_aside(path, aside_bytes_max, &error.to_string())?);
            Cursor::open(path, begin)
        }
        other => other,
    }
}

/// Opens a segment to append to it, or else to read it at least; the flag tells which.
fn open_segment(path: &Path) -> io::Result<(File, bool)> {
    let (file, writable) = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => (file, true),
        Err(_) => (File::open(path)?, false),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    Ok((file, writable))
}

/// A page in the making.
#[derive(Default)]
struct Wanted {
    from: u64,
    records_max: usize,
    bytes_max: usize,
    /// Length of the bodies so far.
    bytes: usize,
    records: Vec<FoundRecord>,
}

/// A record of a page, and where its frame begins in its segment.
struct FoundRecord {
    seq: u64,
    offset: u64,
    body: Bytes,
}

/// How a walk through a segment ended.
struct Walked {
    /// The first frame that is not in the page.
    offset: u64,
    damaged: bool,
    /// Records lay in the way that aren't in the page.
    skipped: bool,
    full: bool,
}

impl Wanted {
    fn collect(&mut self, mut frames: Frames<'_>) -> io::Result<Walked> {
        let (mut damaged, mut skipped) = (false, false);
        loop {
            let offset = frames.offset();
            match frames.step()? {
                Step::Record { seq, .. } if seq < self.from => skipped = true,
                Step::Record { body, .. } if self.is_full_for(&body) => {
                    return Ok(Walked { offset, damaged, skipped, full: true });
                }
                Step::Record { seq, body, .. } => {
                    self.bytes += body.len();
                    self.records.push(FoundRecord { seq, offset, body });
                }
                Step::Damaged { .. } | Step::Torn { .. } => damaged = true,
                Step::End => return Ok(Walked { offset, damaged, skipped, full: false }),
            }
        }
    }

    fn is_full_for(&self, body: &[u8]) -> bool {
        let bytes = self.bytes + body.len();
        self.records.len() >= self.records_max || (!self.records.is_empty() && bytes > self.bytes_max)
    }

    fn finish(self) -> Vec<(u64, Bytes)> {
        self.records.into_iter().map(|found| (found.seq, found.body)).collect()
    }
}

/// The head of a segment in which a survey found so much; `None` if its file is gone.
fn head_of(segment: Segment, found: Option<Survey>) -> Head {
    let (first_live, offset) =
        found.and_then(|found| found.first_live).map_or((None, segment.bytes), |(seq, offset)| (Some(seq), offset));
    Head { offset, trimmed: found.map_or(0, |found| found.trimmed), first_live }
}

/// The first record above `acked`; `None` where damage makes the count uncertain.
fn next_live(mut frames: Frames<'_>, acked: u64, mut trimmed: u64) -> io::Result<Option<Head>> {
    loop {
        let offset = frames.offset();
        match frames.step()? {
            Step::Record { seq, .. } if seq > acked => {
                return Ok(Some(Head { offset, trimmed, first_live: Some(seq) }));
            }
            Step::Record { .. } => trimmed += 1,
            Step::Damaged { .. } | Step::Torn { .. } | Step::End => return Ok(None),
        }
    }
}

/// Reads bytes back and writes them where they are, so that the next sync takes them up again.
fn rewrite(file: &File, from: u64, to: u64) -> io::Result<()> {
    let mut chunk = vec![0; WRITE_BUFFER_BYTES];
    let mut at = from;
    while at < to {
        let len = usize::try_from(to - at).map_or(chunk.len(), |left| left.min(chunk.len()));
        let bytes = chunk.get_mut(..len).unwrap_or_default();
        file.read_exact_at(bytes, at)?;
        file.write_all_at(bytes, at)?;
        at += len as u64;
    }
    Ok(())
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

/// What lies in one log, for a human.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSummary {
    /// The records not yet trimmed.
    pub range: LogRange,
    /// Bytes of all segments.
    pub bytes: u64,
    /// How many segments.
    pub segments: u32,
    /// Records that damage took.
    pub damaged: u64,
}

/// The segments of a log that may have vanished: one without its directory is empty.
fn segments_in(dir: &Path) -> io::Result<Vec<u64>> {
    match names_with(dir, SUFFIX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// Reads a log that another process may be writing; changes nothing.
pub(super) fn inspect(dir: &Path) -> io::Result<LogSummary> {
    let position = cursor::peek(&dir.join(CURSOR_FILE))?.unwrap_or_default();
    let mut summary = LogSummary::default();
    summary.range.last = position.highest;
    summary.range.evicted = position.evicted;
    let mut expected = None;
    for first in segments_in(dir)? {
        let file = match File::open(segment_path(dir, first)) {
            // Trimmed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let written = file.metadata()?.len();
        let found = segment::survey(Source { file: &file, written, tail: &[] }, first, position.acked, expected)?;
        expected = found.next_nth;
        summary.bytes += written;
        summary.segments += 1;
        summary.damaged += found.lost;
        summary.range.records += found.records - found.trimmed;
        summary.range.last = summary.range.last.max(found.last.unwrap_or(0));
        if let (0, Some((seq, _))) = (summary.range.first, found.first_live) {
            summary.range.first = seq;
        }
    }
    Ok(summary)
}

/// Shows the records of a log that are not yet trimmed, and says how many damage took; changes nothing.
pub(super) fn export(dir: &Path, mut show: impl FnMut(u64, &[u8])) -> io::Result<u64> {
    let acked = cursor::peek(&dir.join(CURSOR_FILE))?.unwrap_or_default().acked;
    for first in segments_in(dir)? {
        let file = match File::open(segment_path(dir, first)) {
            // Trimmed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let written = file.metadata()?.len();
        segment::visit(Source { file: &file, written, tail: &[] }, first, |seq, body| {
            if seq > acked {
                show(seq, body);
            }
        })?;
    }
    Ok(inspect(dir)?.damaged)
}
