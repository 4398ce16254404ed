//! Reads a log from the outside, for a human: takes no lock, and changes nothing. The log may be in use meanwhile: what
//! vanishes while it is being read was trimmed.

use std::fs;
use std::io;
use std::path::Path;

use super::{CURSOR_FILE, SUFFIX, names_with, segment_path};
use crate::engine::io::LogRange;
use crate::plain_file;
use crate::store::cursor;
use crate::store::segment::{self, Source};

/// What lies in one log, for a human.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSummary {
    /// The records not yet trimmed.
    pub range: LogRange,
    /// Bytes of all segments.
    pub bytes: u64,
    /// How many segments.
    pub segments: u32,
    /// Records that damage took, as far as can be told: of a segment without a legible one, one at least.
    pub damaged: u64,
    /// Segments without a legible record.
    pub illegible: u32,
    /// What was acknowledged already can't be told from what waits: the cursor is there, and doesn't check.
    pub cursor_lost: bool,
}

/// Reads a log that another process may be writing; changes nothing.
pub(in crate::store) fn inspect(dir: &Path) -> io::Result<LogSummary> {
    let cursor = dir.join(CURSOR_FILE);
    let position = cursor::peek(&cursor)?;
    let cursor_lost =
        position.is_none() && fs::metadata(&cursor).is_ok_and(|found| found.len() > 0 || !found.is_file());
    let position = position.unwrap_or_default();
    let mut summary = LogSummary { cursor_lost, ..LogSummary::default() };
    summary.range.last = position.highest;
    summary.range.evicted = position.evicted;
    let mut expected = None;
    each_segment(dir, |first, source| {
        let found = segment::survey(source, first, position.acked, expected)?;
        expected = found.next_nth;
        summary.bytes += source.len();
        summary.segments += 1;
        let is_illegible = found.records == 0 && found.damaged_bytes > 0;
        summary.illegible += u32::from(is_illegible);
        summary.damaged += found.lost.max(is_illegible.into());
        summary.range.records += found.records - found.trimmed;
        summary.range.last = summary.range.last.max(found.last.unwrap_or(0));
        if let (0, Some((seq, _))) = (summary.range.first, found.first_live) {
            summary.range.first = seq;
        }
        Ok(())
    })?;
    Ok(summary)
}

/// Shows the records of a log that are not yet trimmed, and says what damage took; changes nothing.
pub(in crate::store) fn export(dir: &Path, mut show: impl FnMut(u64, &[u8])) -> io::Result<LogSummary> {
    let acked = cursor::peek(&dir.join(CURSOR_FILE))?.unwrap_or_default().acked;
    each_segment(dir, |first, source| {
        segment::visit(source, first, |seq, body| {
            if seq > acked {
                show(seq, body);
            }
        })
    })?;
    inspect(dir)
}

/// Lets `look` see the segments of a log, oldest first. What vanishes meanwhile was trimmed.
fn each_segment(dir: &Path, mut look: impl FnMut(u64, Source<'_>) -> io::Result<()>) -> io::Result<()> {
    for first in segments_in(dir)? {
        let file = match plain_file::open(&segment_path(dir, first)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let written = segment::data_end(&file, true)?;
        look(first, Source { file: &file, written, tail: &[], dead: true })?;
    }
    Ok(())
}

/// The segments of a log that may have vanished: one without its directory is empty.
fn segments_in(dir: &Path) -> io::Result<Vec<u64>> {
    match names_with(dir, SUFFIX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}
