//! Promise 1: a record that the store accepted is acknowledged by the broker, or counted as dropped, or still there.

use std::collections::{BTreeMap, BTreeSet};

use super::super::report::Promise;
use super::Findings;
use crate::engine::outbox::THINNED;
use crate::engine::record::Class;

/// Why the agent gives up a record that the store has not yet made durable: not the business of this promise.
const NEVER_STORED: [&str; 1] = ["store_failed"];

/// Why the agent gives up a record that the store has: what only memory held is not among these.
const GIVEN_UP: [&str; 2] = ["quota", THINNED];

/// Follows each durable record until the broker has it.
#[derive(Debug, Default)]
pub(in crate::sim) struct Records {
    /// Durable, and the broker has not got it.
    open: BTreeMap<u64, (Class, u64)>,
    got: BTreeSet<u64>,
    duplicates: u64,
}

impl Records {
    /// A record became durable.
    pub(in crate::sim) fn durable(&mut self, at: u64, class: Class, seq: u64) {
        if !self.got.contains(&seq) {
            self.open.insert(seq, (class, at));
        }
    }

    /// The broker got a record. False: not for the first time.
    pub(in crate::sim) fn got(&mut self, seq: u64) -> bool {
        let first = self.got.insert(seq);
        self.open.remove(&seq);
        self.duplicates += u64::from(!first);
        first
    }

    pub(in crate::sim) const fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// At the end: what is neither stored nor with the broker must have been counted. `found`: lost records that the
    /// next agent will be told of when it opens the store, and count.
    pub(in crate::sim) fn judge(
        &self,
        at: u64,
        is_stored: impl Fn(Class, u64) -> bool,
        dropped: &BTreeMap<String, u64>,
        found: u64,
        findings: &mut Findings,
    ) {
        let lost: Vec<u64> =
            self.open.iter().filter(|(seq, (class, _))| !is_stored(*class, **seq)).map(|(seq, _)| *seq).collect();
        let counted: u64 =
            dropped.iter().filter(|(reason, _)| !NEVER_STORED.contains(&reason.as_str())).map(|(_, n)| n).sum();
        let counted = counted + found;
        if lost.len() as u64 > counted {
            let first: Vec<u64> = lost.iter().take(5).copied().collect();
            let what = format!(
                "{} records were durable and are neither stored nor with the broker, {counted} are counted as dropped; \
                 the first are seq {first:?}",
                lost.len()
            );
            findings.note(Promise::NothingLost, at, what);
        }
    }

    /// At the end of a run in which no agent died: no more are counted as given up than there are that the broker
    /// hasn't got. `sent_unanswered`: so many may have reached the broker besides, and nobody was told.
    pub(in crate::sim) fn judge_counts(
        &self,
        at: u64,
        is_stored: impl Fn(Class, u64) -> bool,
        dropped: &BTreeMap<String, u64>,
        sent_unanswered: u64,
        findings: &mut Findings,
    ) {
        let gone = self.open.iter().filter(|(seq, (class, _))| !is_stored(*class, **seq)).count() as u64;
        let counted: u64 = GIVEN_UP.iter().filter_map(|reason| dropped.get(*reason)).sum();
        if counted > gone.saturating_add(sent_unanswered) {
            let what = format!(
                "{counted} records are counted as given up, {gone} are gone, and at most {sent_unanswered} can have \
                 reached the broker unnoticed"
            );
            findings.note(Promise::NothingLost, at, what);
        }
    }

    /// At the end of the calm: nothing that was durable so long ago may still wait.
    pub(in crate::sim) fn judge_drained(
        &self,
        at: u64,
        before: u64,
        is_stored: impl Fn(Class, u64) -> bool,
        findings: &mut Findings,
    ) {
        let waiting: Vec<u64> = self
            .open
            .iter()
            .filter(|(seq, (class, since))| *since < before && is_stored(*class, **seq))
            .map(|(seq, _)| *seq)
            .collect();
        if let Some(first) = waiting.first() {
            let what = format!(
                "{} records still wait though nothing was in their way for {} s; the first is seq {first}",
                waiting.len(),
                at.saturating_sub(before) / 1_000
            );
            findings.note(Promise::Liveness, at, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_of_more_than_is_gone_is_found_as_well_as_one_of_less() {
        let mut records = Records::default();
        (1..=10).for_each(|seq| records.durable(1_000, Class::Telemetry, seq));
        (1..=4).for_each(|seq| {
            records.got(seq);
        });
        let broken = |counted: u64| {
            let (mut findings, is_stored) = (Findings::default(), |_, seq| seq > 7);
            let dropped = BTreeMap::from([("quota".to_owned(), counted), ("store_failed".to_owned(), 50)]);
            records.judge(2_000, is_stored, &dropped, 0, &mut findings);
            records.judge_counts(2_000, is_stored, &dropped, 2, &mut findings);
            findings.into_parts().0.len()
        };
        // 5, 6 and 7 are gone.
        assert_eq!([2, 3, 5, 6].map(broken), [1, 0, 0, 1]);
    }
}
