//! Reads a log from the outside, for a human: takes no lock, and changes nothing. The log may be in use meanwhile: what
//! vanishes while it is being read was trimmed.

use std::fs::File;
use std::io;
use std::path::Path;

use super::{CURSOR_FILE, SUFFIX, names_with, segment_path};
use crate::engine::io::LogRange;
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
    /// Records that damage took.
    pub damaged: u64,
}

/// Reads a log that another process may be writing; changes nothing.
pub(in crate::store) fn inspect(dir: &Path) -> io::Result<LogSummary> {
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
pub(in crate::store) fn export(dir: &Path, mut show: impl FnMut(u64, &[u8])) -> io::Result<u64> {
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

/// The segments of a log that may have vanished: one without its directory is empty.
fn segments_in(dir: &Path) -> io::Result<Vec<u64>> {
    match names_with(dir, SUFFIX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}
