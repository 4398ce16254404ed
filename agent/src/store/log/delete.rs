//! Gives the space of a log back: moves the cursor behind what was trimmed or is given up, and deletes the segments
//! that are done with, oldest first. The cursor goes before the file, and with it, in one write, the count of what is
//! given up. It must not delete a segment that holds a record above the cursor.

use std::io;

use super::open::SUFFIX_DAMAGED;
use super::writer::Writer;
use super::{DRAINED_BYTES_MIN, Evicted, HEAD_UNKNOWN, Head, Log, Segment};
use crate::store::cursor::Position;
use crate::store::disk;
use crate::store::segment::{self, Frames, HEADER_BYTES, Step, Survey};
use crate::store::unreadable;

impl Log {
    pub(super) fn trim_to(&mut self, upto: u64) -> io::Result<()> {
        // Beyond the last seq the cursor would hide what is yet to come.
        let upto = upto.min(self.last);
        if upto <= self.acked() {
            return Ok(());
        }
        let (index, head) = self.locate(upto)?;
        let live: u64 = self.segments.range(index..).map(|segment| segment.records).sum();
        let position = Position { acked: upto, highest: self.last, ..self.cursor.position() };
        self.move_to(position, live.saturating_sub(head.trimmed))?;
        self.trail.trimmed(upto);
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
        if let Some(head) = self.trail.next(segment.first, head, upto) {
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

    pub(super) fn evict_oldest(&mut self) -> io::Result<Evicted> {
        let Some(oldest) = self.segments.front().copied() else { return Ok(std::mem::take(&mut self.untold)) };
        if self.segments.len() == 1 && self.writer.as_ref().is_some_and(Writer::is_unwritten) {
            // All of it is in memory: to give it up would make no room.
            return Ok(std::mem::take(&mut self.untold));
        }
        if oldest.last > self.acked() {
            self.give_up(oldest)?;
        }
        // It is given up for its room, of which there may be enough then.
        self.delete_oldest()?;
        match self.advance_head() {
            // Done it is, and to be asked again would give up one more. Nothing of the next one is acknowledged: it is
            // named for its first record.
            Err(error) if unreadable::is_refusal(&error) => {
                let first_live = self.segments.front().map(|next| next.first);
                self.head = Head { offset: HEADER_BYTES, trimmed: 0, first_live };
            }
            other => other?,
        }
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

    pub(super) fn delete_done(&mut self) -> io::Result<()> {
        while self.segments.front().is_some_and(|oldest| self.is_done(*oldest)) {
            self.delete_oldest()?;
        }
        Ok(())
    }

    fn is_done(&self, oldest: Segment) -> bool {
        let appended_to = self.segments.len() == 1 && self.writer.is_some();
        oldest.last <= self.acked() && (!appended_to || oldest.bytes >= DRAINED_BYTES_MIN)
    }

    fn delete_oldest(&mut self) -> io::Result<()> {
        let Some(oldest) = self.segments.front().copied() else { return Ok(()) };
        // The cursor first: it alone keeps the highest seq once the segment is gone.
        self.cursor.sync()?;
        self.looked_into.take_if(|(first, _)| *first == oldest.first);
        let evidence = self.aside(oldest.first, SUFFIX_DAMAGED);
        let is_kept = disk::has_other_names(&evidence);
        disk::remove(&self.path(oldest.first))?;
        self.segments.pop_front();
        if is_kept {
            self.set_aside_bytes += disk::tree_bytes(&evidence);
        }
        self.dead.remove(&oldest.first);
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
}

/// The head of a segment in which a survey found so much; `None` if its file is gone.
pub(super) fn head_of(segment: Segment, found: Option<Survey>) -> Head {
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
