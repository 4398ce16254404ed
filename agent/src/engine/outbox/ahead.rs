//! The records of a lane that go before older ones: the newest alarms, and what is new beside a backlog. The store has
//! them in their order like all others, and gives them once more when it comes to them: what was taken over by then is
//! not sent again. Until they are answered a copy is held here, as many as [`AHEAD_MAX`]; older ones have to wait for
//! their turn.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::order::Inflight;

/// Records of a lane that may go before older ones, and those that were answered before older ones were.
const AHEAD_MAX: usize = 32;

/// Why a record goes before older ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// It is of an alarm: the newest goes first.
    Alarm,
    /// It was made while a backlog is being sent: the oldest goes first, after all alarms.
    Live,
}

#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Not yet answered.
    waiting: BTreeMap<u64, (Haste, Bytes)>,
    /// Answered, while something older is not.
    passed: BTreeSet<u64>,
}

impl Ahead {
    /// A record that is to go before older ones.
    pub(super) fn insert(&mut self, seq: u64, haste: Haste, bytes: Bytes, inflight: &Inflight) {
        self.waiting.insert(seq, (haste, bytes));
        if self.waiting.len() > AHEAD_MAX {
            // Of what is on its way the answer is waited for.
            let mut waiting = self.waiting.iter().filter(|(seq, _)| !inflight.contains(**seq));
            let oldest = waiting.clone().find(|(_, (haste, _))| *haste == Haste::Live).or_else(|| waiting.next());
            let oldest = oldest.map(|(seq, _)| *seq);
            oldest.and_then(|oldest| self.waiting.remove(&oldest));
        }
    }

    /// What goes next of those that are not on their way and `may_go`.
    pub(super) fn next(&self, inflight: &Inflight, may_go: impl Fn(u64, &Bytes) -> bool) -> Option<(u64, Bytes)> {
        // What is merely new leaves half of what can be remembered to the alarms.
        let taken = self.taken(inflight);
        if taken >= AHEAD_MAX {
            return None;
        }
        let may_go = |seq: u64, bytes: &Bytes| !inflight.contains(seq) && may_go(seq, bytes);
        let mut waiting = self.waiting.iter().filter(|(seq, (_, bytes))| may_go(**seq, bytes));
        let alarm = waiting.clone().rfind(|(_, (haste, _))| *haste == Haste::Alarm);
        let next = alarm.or_else(|| waiting.next().filter(|_| taken < AHEAD_MAX / 2));
        next.map(|(seq, (_, bytes))| (*seq, bytes.clone()))
    }

    /// Whether one more may go.
    pub(super) fn has_room(&self, inflight: &Inflight) -> bool {
        self.taken(inflight) < AHEAD_MAX
    }

    /// So many have gone, of which each may have to be remembered: that has a bound.
    fn taken(&self, inflight: &Inflight) -> usize {
        self.passed.len() + self.waiting.keys().filter(|seq| inflight.contains(**seq)).count()
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
    pub(super) fn last_passed(&self, oldest: impl Fn() -> Option<u64>) -> Option<u64> {
        // Asked of each record of a backlog, before which hardly any ever went.
        if self.passed.is_empty() {
            return None;
        }
        self.passed.range(..oldest().unwrap_or(u64::MAX)).next_back().copied()
    }

    /// Whether it was answered before something older.
    pub(super) fn has_passed(&self, seq: u64) -> bool {
        self.passed.contains(&seq)
    }

    /// Those that were answered before older ones, or will be: of them a copy is held here.
    pub(super) fn known(&self) -> impl Iterator<Item = u64> + '_ {
        self.waiting.keys().chain(&self.passed).copied()
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
