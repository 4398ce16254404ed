//! Where the records lie that were read last: what is read is soon to be trimmed, and need not be read again for that.
//! Each is followed by the next one of the log; whoever reads elsewhere, or meets damage, clears it first. It must not
//! guess: of what it doesn't know it gives nothing, and the log is read.

use std::collections::VecDeque;

use super::Head;

/// Records read and not yet trimmed of which it is known where they lie: more than are ever on their way at once.
const TRAIL_MAX: usize = 2_048;

/// A record that was read, and where its frame begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) seq: u64,
}

/// The records read last.
#[derive(Debug, Default)]
pub(super) struct Trail(VecDeque<Read>);

impl Trail {
    /// Records that follow those that were noted before.
    pub(super) fn extend(&mut self, reads: impl Iterator<Item = Read>) {
        self.0.extend(reads);
        let surplus = self.0.len().saturating_sub(TRAIL_MAX);
        self.0.drain(..surplus);
    }

    /// Where the first record above `upto` lies, if it begins where the head of this segment is.
    pub(super) fn next(&self, segment: u64, head: Head, upto: u64) -> Option<Head> {
        let first = self.0.iter().position(|read| (read.segment, read.offset) == (segment, head.offset))?;
        let passed = self.0.range(first..).take_while(|read| read.segment == segment && read.seq <= upto).count();
        let next = self.0.get(first + passed).filter(|next| next.segment == segment)?;
        Some(Head { offset: next.offset, trimmed: head.trimmed + passed as u64, first_live: Some(next.seq) })
    }

    /// Records up to here are trimmed.
    pub(super) fn trimmed(&mut self, upto: u64) {
        self.0.drain(..self.0.partition_point(|read| read.seq <= upto));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
