//! Reads pages of a log: from the newest frame that is known to lie before what is wanted, over damage, and up to a
//! limit of records and bytes. Damage that is met is counted at once, so that the next page tells of it. It changes no
//! file, and gives nothing that was trimmed.

use std::fs::File;
use std::io;

use bytes::Bytes;

use super::delete::head_of;
use super::trail::Read;
use super::{Log, Page, REFUSALS_MAX, ReadHint, Segment, WAITS_MAX};
use crate::store::segment::{self, Frames, HEADER_BYTES, Source, Step};
use crate::store::unreadable;

impl Log {
    pub(super) fn read_page(&mut self, from: u64, records_max: usize, bytes_max: usize) -> io::Result<Page> {
        let from = from.max(self.acked().saturating_add(1));
        let mut wanted = Wanted { from, records_max, bytes_max, ..Wanted::default() };
        let mut refused = false;
        let start = self.segments.partition_point(|segment| segment.last < from);
        for index in start..self.segments.len() {
            let Some(segment) = self.segments.get(index).copied() else { break };
            let (offset, above) = self.start_of(segment, from);
            if index == start && self.hint.is_none_or(|hint| (hint.segment, hint.offset) != (segment.first, offset)) {
                self.trail.clear();
            }
            let before = wanted.records.len();
            let walked = self.look(segment, |source| wanted.collect(Frames::new(source, segment.first, offset, above)));
            let end = match walked {
                // What was read before it is given: else it would be read again with each look, and no look be the
                // last.
                Err(error) if unreadable::is_refusal(&error) && before > 0 => {
                    wanted.records.truncate(before);
                    refused = true;
                    break;
                }
                other => other?.unwrap_or(Walked { offset, damaged: true, skipped: false, full: false }),
            };
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
        // Told with this page, and by the next opening once more if no trim or commit has moved the mark by then: were
        // it moved here, a crash before the count is saved would leave them uncounted.
        let damaged = std::mem::take(&mut self.damaged);
        if !refused {
            self.refusals = 0;
        }
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
    }

    /// Lets `look` see the bytes of a segment; `None` if its file is gone. What the disk refuses to read fails, for
    /// whoever asks to ask again; until it was refused so often that it is taken for dead.
    pub(super) fn look<T>(
        &mut self,
        segment: Segment,
        look: impl FnOnce(Source<'_>) -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        let seen = self.look_once(segment, look);
        if seen.as_ref().is_err_and(unreadable::is_refusal) {
            self.refusals += 1;
            // Where not a byte of it can be read it is more likely the disk than the file.
            let patience = if unreadable::is_whole(&self.path(segment.first)) { WAITS_MAX } else { REFUSALS_MAX };
            if self.refusals >= patience {
                self.refusals = 0;
                self.dead.insert(segment.first);
            }
        }
        seen
    }

    fn look_once<T>(
        &mut self,
        segment: Segment,
        look: impl FnOnce(Source<'_>) -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        let dead = self.dead.contains(&segment.first);
        let newest = self.segments.back().is_some_and(|newest| newest.first == segment.first);
        if let (true, Some(writer)) = (newest, &self.writer) {
            return look(writer.source(dead)).map(Some);
        }
        let file = match self.looked_into.take().filter(|(first, _)| *first == segment.first) {
            Some((_, file)) => file,
            None => match File::open(self.path(segment.first)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?,
            },
        };
        // Opened anew where it fails: what has come back may be another disk.
        let seen = look(Source { file: &file, written: segment.bytes, tail: &[], dead })?;
        self.looked_into = Some((segment.first, file));
        Ok(Some(seen))
    }

    /// After damage was met: counts what is left of a segment, and what was lost since it was last counted.
    pub(super) fn count_again(&mut self, index: usize) -> io::Result<()> {
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
