//! Numbers for messages. The store knows those of the records in it; so that a crash can't use one twice for a message
//! that is not stored, it is told of blocks of them in advance, and the next run begins after the last. Gives no number
//! back.

use super::Engine;
use super::effects::Purpose;
use super::io::StoreFault;
use super::keyed::{SEQ_KEY, Write, write};
use super::time::{Mono, Now};

/// Numbers taken in advance for messages that are not stored, so that a crash can't use one twice.
const SEQ_BLOCK: u64 = 1_024;
/// How many may be left when the next block is taken.
const SEQ_LOW: u64 = 256;

/// Numbers for messages.
#[derive(Debug)]
pub(super) struct Seqs {
    last: u64,
    reserved: u64,
    reserving: bool,
    retry_at: Option<Mono>,
}

impl Seqs {
    /// They go on after the `last` that an earlier run may have used.
    pub(super) const fn after(last: u64) -> Self {
        Self { last, reserved: last, reserving: false, retry_at: None }
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The last that was used.
    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// The store was asked for the numbers up to this one.
    pub(super) fn reserved(&mut self, now: Mono, upto: u64, fault: Option<&StoreFault>) {
        self.reserving = false;
        match fault {
            None => self.reserved = self.reserved.max(upto),
            Some(_) => self.retry_at = Some(now.after(StoreFault::RETRY_AFTER)),
        }
    }

    /// The end of the numbers that this run uses, if it stops now: an entry for the store.
    pub(super) fn end(&self) -> Write {
        let upto = self.reserved.max(self.last + SEQ_LOW);
        write(SEQ_KEY, &upto)
    }

    /// The end of the next block, where it is to be asked for.
    fn reserve(&mut self, now: Mono) -> Option<u64> {
        let waits = self.retry_at.is_some_and(|at| at > now);
        if waits || self.reserving || self.last + SEQ_LOW < self.reserved {
            return None;
        }
        self.retry_at = None;
        self.reserving = true;
        Some(self.last + SEQ_BLOCK)
    }
}

impl Engine {
    pub(super) fn reserve_seqs(&mut self, now: Now) {
        if let Some(upto) = self.seqs.reserve(now.mono) {
            let entry = write(SEQ_KEY, &upto);
            self.effects.put(Purpose::Reserve { upto }, vec![entry]);
        }
    }
}
