//! One log of the simulated disk: segments, a write buffer and a cursor, with the rules of the real one about what is
//! in the process, in the page cache or on the flash, and so about what a kill or a power cut leaves. It must not be
//! cleverer than the real one: where that writes, syncs or deletes, this does, and nowhere else.

use std::collections::VecDeque;

use bytes::Bytes;

use super::super::dice::Dice;
use crate::engine::io::{LogRange, StoreFault, StoreLoss};
use crate::engine::record::Class;
use crate::store::{
    CURSOR_BYTES, DRAINED_BYTES_MIN, FRAME_BYTES, HEADER_BYTES, RECORD_BYTES_MAX, WRITE_BUFFER_BYTES, mark_commits,
};

/// Records that lie on one bad patch of flash, at most.
const DAMAGED_RECORDS_MAX: u64 = 40;
/// What a frame takes beside its body.
const FRAME: u64 = FRAME_BYTES as u64;

/// Records, their first seq and their last; zeros if there were none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Evicted {
    pub(super) records: u64,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Records, and how many were found to be lost since the last look.
pub(super) type Page = (Vec<(u64, Bytes)>, u64);

/// What the cursor file says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    acked: u64,
    highest: u64,
    evicted: u64,
}

#[derive(Debug, Clone)]
struct Stored {
    seq: u64,
    bytes: Bytes,
    /// Where its frame ends in the segment.
    end: u64,
}

/// Where records were, and are no more.
#[derive(Debug, Clone, Copy)]
struct Hole {
    /// The first record behind it.
    before: u64,
    records: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Segment {
    first: u64,
    records: Vec<Stored>,
    bytes: u64,
    holes: Vec<Hole>,
    /// Records lost to holes that no look has noticed yet: they are counted as if they were there.
    unnoticed: u64,
}

impl Segment {
    fn last(&self) -> u64 {
        self.records.last().map_or(self.first, |stored| stored.seq)
    }

    /// How many it is thought to hold.
    fn count(&self) -> u64 {
        self.records.len() as u64 + self.unnoticed
    }
}

/// What a crash leaves of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    /// How much of the newest segment.
    pub(super) bytes: u64,
    /// The cursor is where it was last moved to; else where it was last synced.
    pub(super) cursor: bool,
}

/// The log of one class.
#[derive(Debug)]
pub(super) struct Log {
    class: Class,
    segment_bytes: u64,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// The newest segment is appended to.
    appending: bool,
    /// How much of the newest segment is in its file; the rest is in the process.
    written: u64,
    /// How much of it is on the flash.
    synced: u64,
    /// How many of its records those are.
    durable: usize,
    cursor: Position,
    cursor_synced: Position,
    /// How many records of the oldest segment are done with.
    done: usize,
    last: u64,
    /// Of all segments.
    count: u64,
    bytes: u64,
    damaged: u64,
    untold: Evicted,
    /// Commits since the cursor was last moved.
    unmarked: u32,
    written_bytes: u64,
    newly_durable: Vec<u64>,
}

impl Log {
    /// An empty one.
    pub(super) fn new(class: Class, segment_bytes: u64) -> Self {
        Self {
            class,
            segment_bytes,
            segments: VecDeque::new(),
            appending: false,
            written: 0,
            synced: 0,
            durable: 0,
            cursor: Position::default(),
            cursor_synced: Position::default(),
            done: 0,
            last: 0,
            count: 0,
            bytes: 0,
            damaged: 0,
            untold: Evicted::default(),
            unmarked: 0,
            written_bytes: CURSOR_BYTES as u64,
            newly_durable: Vec::new(),
        }
    }

    pub(super) fn append(&mut self, seq: u64, bytes: Bytes, free: u64) -> Result<(), StoreFault> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(self.refused(&format!("record {seq} is {} B, the limit is {RECORD_BYTES_MAX} B", bytes.len())));
        }
        if seq <= self.last {
            return Err(self.refused(&format!("record {seq} is not above {}, the last one", self.last)));
        }
        let frame = FRAME + bytes.len() as u64;
        if self.segments.back().is_some_and(|newest| newest.bytes + frame > self.segment_bytes) {
            self.sync(free)?;
            self.appending = false;
            self.delete_done();
        }
        if !self.appending {
            self.begin(seq);
        }
        if self.buffered() > HEADER_BYTES && self.buffered() + frame > WRITE_BUFFER_BYTES as u64 {
            self.flush(free)?;
        }
        if let Some(newest) = self.segments.back_mut() {
            newest.bytes += frame;
            newest.records.push(Stored { seq, bytes, end: newest.bytes });
        }
        self.bytes += frame;
        self.count += 1;
        self.last = seq;
        Ok(())
    }

    /// Everything appended so far becomes durable.
    pub(super) fn sync(&mut self, free: u64) -> Result<(), StoreFault> {
        self.flush(free)?;
        if self.appending && self.synced < self.written {
            self.synced = self.written;
            self.unmarked += 1;
        }
        self.all_durable();
        if self.unmarked >= mark_commits(self.class) {
            let position = Position { highest: self.last, ..self.cursor };
            // Of a log with nothing in it the mark said the same before, and is not written again.
            if position != self.cursor || position.acked < self.last {
                self.move_to(position);
            }
            self.unmarked = 0;
        }
        Ok(())
    }

    pub(super) fn read(&mut self, from: u64, records_max: usize, bytes_max: usize) -> Page {
        let from = from.max(self.cursor.acked.saturating_add(1));
        let mut page: Vec<(u64, Bytes)> = Vec::new();
        let mut len = 0;
        let mut index = self.segments.partition_point(|segment| segment.last() < from);
        while let Some(segment) = self.segments.get(index) {
            let start = segment.records.partition_point(|stored| stored.seq < from);
            let mut full = false;
            for stored in segment.records.iter().skip(start) {
                full = page.len() >= records_max || (!page.is_empty() && len + stored.bytes.len() > bytes_max);
                if full {
                    break;
                }
                len += stored.bytes.len();
                page.push((stored.seq, stored.bytes.clone()));
            }
            let passed = page.last().map_or(0, |(seq, _)| *seq);
            if segment.holes.iter().any(|hole| hole.before <= passed) {
                self.notice(index);
            }
            if full {
                break;
            }
            index += 1;
        }
        (page, std::mem::take(&mut self.damaged))
    }

    pub(super) fn trim(&mut self, upto: u64) {
        let upto = upto.min(self.last);
        if upto > self.cursor.acked {
            self.move_to(Position { acked: upto, highest: self.last, ..self.cursor });
            self.delete_done();
            self.advance();
        }
    }

    /// Moves the cursor behind the oldest segment and counts what it held; it is still there.
    pub(super) fn give_up_oldest(&mut self) {
        let Some(oldest) = self.segments.front() else { return };
        let (last, records) = (oldest.last(), oldest.count().saturating_sub(self.done as u64));
        if last <= self.cursor.acked {
            return;
        }
        if let (Some(first), 1..) = (oldest.records.get(self.done), records) {
            let first = if self.untold.records > 0 { self.untold.first } else { first.seq };
            self.untold = Evicted { records: self.untold.records + records, first, last };
        }
        let evicted = self.cursor.evicted + records;
        self.move_to(Position { acked: last, highest: self.last, evicted });
    }

    /// Gives up the oldest segment.
    pub(super) fn evict(&mut self) -> Evicted {
        if self.segments.len() == 1 && self.appending && self.written == 0 {
            return std::mem::take(&mut self.untold);
        }
        self.give_up_oldest();
        self.delete_oldest();
        self.advance();
        std::mem::take(&mut self.untold)
    }

    /// Some records of a random segment are gone. Never the last of a segment: nothing would show that it was there.
    /// `false` if there is none that could go.
    pub(super) fn damage(&mut self, dice: &mut Dice) -> bool {
        let count = self.segments.len();
        let start = to_index(dice.below(count as u64));
        let hit = (0..count).map(|n| (start + n) % count).find_map(|index| {
            let from = if index == 0 { self.done } else { 0 };
            let upto = if index + 1 == count { self.durable } else { self.segments.get(index)?.records.len() };
            let room = upto.checked_sub(from + 1).filter(|room| *room > 0)? as u64;
            Some((index, from as u64, room))
        });
        let Some((index, from, room)) = hit else { return false };
        let records = 1 + dice.below(room.min(DAMAGED_RECORDS_MAX));
        let at = to_index(from + dice.below(room - records + 1));
        if let Some(segment) = self.segments.get_mut(index) {
            let gone = segment.records.drain(at..at + to_index(records));
            let bytes = gone.map(|stored| FRAME + stored.bytes.len() as u64).sum();
            let before = segment.records.get(at).map_or(u64::MAX, |stored| stored.seq);
            segment.holes.push(Hole { before, records, bytes });
            segment.unnoticed += records;
        }
        if index + 1 == count {
            self.durable -= to_index(records);
        }
        true
    }

    /// The process is gone; what is `left` is opened again. What was damaged is added to `losses`.
    pub(super) fn reopen(&mut self, left: Left, losses: &mut Vec<StoreLoss>) {
        if !left.cursor {
            self.cursor = self.cursor_synced;
        }
        self.cursor_synced = self.cursor;
        self.cut(left.bytes);
        self.last = self.cursor.highest.max(self.segments.back().map_or(0, Segment::last));
        for segment in &mut self.segments {
            segment.unnoticed = 0;
            losses.extend(loss(self.class, segment, self.cursor.acked));
        }
        self.count = self.segments.iter().map(Segment::count).sum();
        self.bytes = self.segments.iter().map(|segment| segment.bytes).sum();
        (self.untold, self.unmarked, self.written_bytes) = (Evicted::default(), 0, 0);
        self.all_durable();
        self.delete_done();
        self.advance();
        self.damaged = 0;
    }

    /// What a kill leaves: all that was written, in the page cache if need be.
    pub(super) fn left_by_kill(&self) -> Left {
        Left { bytes: self.written, cursor: true }
    }

    /// What a power cut leaves: of what was not synced, perhaps the beginning.
    pub(super) fn left_by_power_cut(&self, dice: &mut Dice) -> Left {
        let unsynced = self.unsynced_ends().count() as u64;
        let kept = to_index(dice.below(unsynced + 1));
        let bytes = kept.checked_sub(1).and_then(|n| self.unsynced_ends().nth(n)).unwrap_or(self.synced);
        Left { bytes, cursor: dice.happens(0.5) }
    }

    /// Where the records end that are written but not synced.
    pub(super) fn unsynced_ends(&self) -> impl Iterator<Item = u64> {
        let newest = self.segments.back().into_iter().flat_map(|newest| &newest.records);
        newest.skip(self.durable).map(|stored| stored.end).take_while(|end| *end <= self.written)
    }

    pub(super) fn range(&self) -> LogRange {
        let first = self.live().next().map_or(0, |(seq, _)| seq);
        LogRange { first, last: self.last, records: self.records(), evicted: self.cursor.evicted }
    }

    /// Records not yet trimmed.
    pub(super) fn records(&self) -> u64 {
        self.count.saturating_sub(self.done as u64)
    }

    pub(super) fn holds(&self, seq: u64) -> bool {
        if seq <= self.cursor.acked {
            return false;
        }
        let index = self.segments.partition_point(|segment| segment.last() < seq);
        self.segments
            .get(index)
            .is_some_and(|segment| segment.records.binary_search_by_key(&seq, |stored| stored.seq).is_ok())
    }

    /// What is not yet trimmed, oldest first.
    pub(super) fn live(&self) -> impl Iterator<Item = (u64, &Bytes)> {
        let stored = self.segments.iter().flat_map(|segment| &segment.records);
        stored
            .skip(self.done)
            .map(|stored| (stored.seq, &stored.bytes))
            .skip_while(|(seq, _)| *seq <= self.cursor.acked)
    }

    /// The same, without what a power cut might take.
    pub(super) fn durable(&self) -> impl Iterator<Item = (u64, &Bytes)> {
        let volatile = self.segments.back().map_or(0, |newest| newest.records.len() - self.durable);
        let stored: usize = self.segments.iter().map(|segment| segment.records.len()).sum();
        let durable = stored - volatile;
        self.live().take(durable.saturating_sub(self.done))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What of [`Log::bytes`] is not in a file yet.
    pub(super) fn buffered(&self) -> u64 {
        self.segments.back().filter(|_| self.appending).map_or(0, |newest| newest.bytes - self.written)
    }

    pub(super) fn segments(&self) -> u32 {
        u32::try_from(self.segments.len()).unwrap_or(u32::MAX)
    }

    /// Since it was opened.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    pub(super) fn take_newly_durable(&mut self) -> impl Iterator<Item = (Class, u64)> {
        let class = self.class;
        self.newly_durable.drain(..).map(move |seq| (class, seq))
    }

    #[cfg(test)]
    pub(super) fn synced(&self) -> u64 {
        self.synced
    }

    #[cfg(test)]
    pub(super) fn cursor_is_synced(&self) -> bool {
        self.cursor == self.cursor_synced
    }

    /// The seq that names the newest segment.
    #[cfg(test)]
    pub(super) fn newest(&self) -> Option<u64> {
        self.segments.back().map(|newest| newest.first)
    }

    fn begin(&mut self, first: u64) {
        self.segments.push_back(Segment { first, bytes: HEADER_BYTES, ..Segment::default() });
        self.bytes += HEADER_BYTES;
        (self.appending, self.written, self.synced, self.durable) = (true, 0, 0, 0);
    }

    fn flush(&mut self, free: u64) -> Result<(), StoreFault> {
        let buffered = self.buffered();
        if buffered > free {
            let what = format!("write {buffered} B to the log of {}", self.class.word());
            return Err(StoreFault::NoSpace { what });
        }
        self.written += buffered;
        self.written_bytes += buffered;
        Ok(())
    }

    fn all_durable(&mut self) {
        let Some(newest) = self.segments.back() else { return };
        self.newly_durable.extend(newest.records.iter().skip(self.durable).map(|stored| stored.seq));
        self.durable = newest.records.len();
    }

    fn move_to(&mut self, position: Position) {
        self.unmarked = 0;
        self.cursor = position;
        self.written_bytes += CURSOR_BYTES as u64;
    }

    fn delete_done(&mut self) {
        while self.segments.front().is_some_and(|oldest| self.is_done(oldest)) {
            self.delete_oldest();
        }
    }

    fn is_done(&self, oldest: &Segment) -> bool {
        let appended_to = self.segments.len() == 1 && self.appending;
        oldest.last() <= self.cursor.acked && (!appended_to || oldest.bytes >= DRAINED_BYTES_MIN)
    }

    /// The cursor is synced before a segment goes.
    fn delete_oldest(&mut self) {
        let Some(oldest) = self.segments.pop_front() else { return };
        self.cursor_synced = self.cursor;
        self.count -= oldest.count();
        self.bytes -= oldest.bytes;
        self.done = 0;
        if self.segments.is_empty() {
            (self.appending, self.written, self.synced, self.durable) = (false, 0, 0, 0);
        }
    }

    fn advance(&mut self) {
        let acked = self.cursor.acked;
        self.done =
            self.segments.front().map_or(0, |oldest| oldest.records.partition_point(|stored| stored.seq <= acked));
        if self.done > 0 {
            self.notice(0);
        }
    }

    /// A segment was looked at: what it lost is known now.
    fn notice(&mut self, index: usize) {
        let Some(segment) = self.segments.get_mut(index) else { return };
        let lost = std::mem::take(&mut segment.unnoticed);
        self.damaged += lost;
        self.count -= lost;
    }

    /// Takes from the newest segment what lies behind `bytes`.
    fn cut(&mut self, bytes: u64) {
        let Some(newest) = self.segments.back_mut() else { return };
        if self.appending {
            newest.records.retain(|stored| stored.end <= bytes);
            let last = newest.records.last().map_or(0, |stored| stored.seq);
            newest.holes.retain(|hole| hole.before <= last);
            newest.bytes = newest.records.last().map_or(0, |stored| stored.end);
            self.durable = self.durable.min(newest.records.len());
        } else {
            self.durable = newest.records.len();
        }
        (self.written, self.synced) = (newest.bytes, newest.bytes);
        self.appending = !newest.records.is_empty();
        if newest.records.is_empty() {
            self.segments.pop_back();
            self.durable = self.segments.back().map_or(0, |newest| newest.records.len());
        }
    }

    fn refused(&self, why: &str) -> StoreFault {
        StoreFault::Io { what: format!("append to the log of {}: {why}", self.class.word()) }
    }
}

/// What is told of a segment with holes. A hole before a record that was acknowledged costs nothing.
fn loss(class: Class, segment: &Segment, acked: u64) -> Option<StoreLoss> {
    let bytes: u64 = segment.holes.iter().map(|hole| hole.bytes).sum();
    let records = segment.holes.iter().filter(|hole| hole.before > acked).map(|hole| hole.records).sum();
    let name = format!("{}/{:020}.seg", class.word(), segment.first);
    let what = format!("{name}: {bytes} B damaged and passed over, {records} records missing");
    (bytes > 0).then_some(StoreLoss { what, records, state_lost: false })
}

fn to_index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
