//! Numbers for messages. The store knows those of the records in it; so that a crash can't use one twice for a message
//! that is not stored, it is told of blocks of them in advance, and the next run begins after the last that may have
//! been used. Gives no number back.

use super::Engine;
use super::effects::Purpose;
use super::io::{Recovered, StoreFault};
use super::keyed::{SEQ_KEY, Write, write};
use super::time::{Mono, Now, Unix};

/// Numbers taken in advance for messages that are not stored, so that a crash can't use one twice.
const SEQ_BLOCK: u64 = 1_024;
/// How many may be left when the next block is taken.
const SEQ_LOW: u64 = 256;
/// Numbers left out where it isn't known how many were used: more than a run uses up.
const SEQ_SKIP: u64 = 1 << 32;
/// Where nothing tells which numbers were used they are taken from the clock: more than are used up in a millisecond.
const SEQS_PER_MS: u64 = 1_024;
/// Where there is no clock either they are drawn from as many as a fortnight has.
const UNCLOCKED_MASK: u64 = (1 << 40) - 1;

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

/// What is known of the numbers that were used.
pub(super) struct Used {
    reserved: u64,
    stored: u64,
    /// The last run has said at its end which it had used.
    told: bool,
    /// There was none.
    is_first: bool,
}

impl Used {
    /// By the end of the numbers that were taken in advance, and what the logs hold.
    pub(super) fn of(reserved: Option<u64>, recovered: &Recovered, told: bool) -> Self {
        Self {
            reserved: reserved.unwrap_or(0),
            stored: recovered.logs.iter().map(|log| log.last).max().unwrap_or(0),
            told,
            is_first: recovered.state.is_empty() && recovered.losses.is_empty(),
        }
    }

    /// The highest number that may have been used. A run that was cut off may have gone beyond all that is known: on a
    /// disk that takes nothing, messages go out all the same.
    pub(super) fn last(&self, by_clock: u64) -> u64 {
        let known = self.reserved.max(self.stored);
        match known {
            0 if self.is_first => 0,
            _ if self.told => known,
            _ => known.saturating_add(SEQ_SKIP).max(by_clock),
        }
    }
}

/// Above all that were used before now, and still exact in a reader that keeps numbers as floats (2^53).
pub(super) fn last_by_clock(present: Unix) -> u64 {
    u64::try_from(present.0).unwrap_or(0).saturating_mul(SEQS_PER_MS)
}

/// The same where no store remembers what was used.
pub(super) fn last_unstored(now: Now, by_clock: u64, nonce: &str) -> u64 {
    if now.wall.trusted {
        return by_clock;
    }
    // A clock that begins in 1970 at each boot gives each the same numbers, and nothing remembers them.
    by_clock + (drawn(nonce) & UNCLOCKED_MASK)
}

/// 64 bits of the nonce.
fn drawn(nonce: &str) -> u64 {
    nonce.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_above_all_that_may_have_been_used() {
        const CLOCK: u64 = 1_795_000_000_000 * SEQS_PER_MS;
        let cases = [
            // A first start; one after a stop; one after a power cut, by a right clock and by one that begins in 1970.
            ((0, 0, false, true), CLOCK, 0),
            ((2_048, 2_040, true, false), CLOCK, 2_048),
            ((2_048, 2_040, false, false), CLOCK, CLOCK),
            ((2_048, 2_040, false, false), 0, 2_048 + SEQ_SKIP),
            // The state is lost; and so is all else.
            ((0, 2_040, false, false), 0, 2_040 + SEQ_SKIP),
            ((0, 0, false, false), CLOCK, CLOCK),
        ];
        for ((reserved, stored, told, is_first), by_clock, last) in cases {
            let used = Used { reserved, stored, told, is_first };
            assert_eq!(used.last(by_clock), last, "{reserved} reserved, {stored} stored, told: {told}");
        }
    }
}
