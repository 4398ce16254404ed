//! The records of a lane that go before older ones: the newest alarms. The store has them in their order like all others, and
//! gives them once more when it comes to them: what was taken over by then is not sent again. Until they are answered a
//! copy is held here, as many as [`AHEAD_MAX`]; older ones have to wait for their turn.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

/// Records of a lane that may go before older ones, and those that were answered before older ones were.
const AHEAD_MAX: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Not yet answered.
    waiting: BTreeMap<u64, Bytes>,
    /// Answered, while something older is not.
    passed: BTreeSet<u64>,
}

impl Ahead {
    /// A record that is to go before older ones.
    pub(super) fn insert(&mut self, seq: u64, bytes: Bytes, inflight: &BTreeSet<u64>) {
        self.waiting.insert(seq, bytes);
        if self.waiting.len() > AHEAD_MAX {
            // Of what is on its way the answer is waited for.
            let oldest = self.waiting.keys().find(|seq| !inflight.contains(seq)).copied();
            oldest.and_then(|oldest| self.waiting.remove(&oldest));
        }
    }

    /// The newest that is not on its way and `may_go`.
    pub(super) fn newest(&self, inflight: &BTreeSet<u64>, may_go: impl Fn(u64) -> bool) -> Option<(u64, Bytes)> {
        let on_the_way = self.waiting.keys().filter(|seq| inflight.contains(seq)).count();
        // Each may have to be remembered, and that has a bound.
        if self.passed.len() + on_the_way >= AHEAD_MAX {
            return None;
        }
        let newest = self.waiting.iter().rev().find(|(seq, _)| !inflight.contains(seq) && may_go(**seq));
        newest.map(|(seq, bytes)| (*seq, bytes.clone()))
    }

    /// Whether it is yet to be answered.
    pub(super) fn holds(&self, seq: u64) -> bool {
        self.waiting.contains_key(&seq)
    }

    /// One of these was answered; `passed` if something older was not.
    pub(super) fn answered(&mut self, seq: u64, passed: bool) {
        self.waiting.remove(&seq);
        if passed {
            self.passed.insert(seq);
        }
    }

    /// The last of those that were answered before something older, below `oldest` if there is anything older left.
    pub(super) fn last_passed(&self, oldest: Option<u64>) -> Option<u64> {
        self.passed.range(..oldest.unwrap_or(u64::MAX)).next_back().copied()
    }

    /// Whether it was answered before something older.
    pub(super) fn has_passed(&self, seq: u64) -> bool {
        self.passed.contains(&seq)
    }

    /// These have to wait for their turn, if it still comes.
    pub(super) fn forget(&mut self, is_gone: impl Fn(u64) -> bool) {
        self.waiting.retain(|seq, _| !is_gone(*seq));
    }

    /// The store has nothing up to here any more. Gives how many of it had been answered.
    pub(super) fn trimmed(&mut self, upto: u64) -> usize {
        let later = self.passed.split_off(&upto.saturating_add(1));
        std::mem::replace(&mut self.passed, later).len()
    }

    /// How much it holds in memory, and the bound.
    pub(super) fn bound(&self) -> (usize, usize) {
        (self.waiting.len().max(self.passed.len()), AHEAD_MAX)
    }
}
