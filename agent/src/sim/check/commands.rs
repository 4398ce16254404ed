//! Promise 2, the part that the fleet sees: each command that was accepted reaches one terminal status.

use std::collections::{BTreeMap, BTreeSet};

use super::super::report::Promise;
use super::Findings;

/// Statuses after which nothing more comes.
const OPEN: [&str; 2] = ["QUEUED", "IN_PROGRESS"];

/// Follows each command.
#[derive(Debug, Default)]
pub(in crate::sim) struct Commands {
    /// By id: when it was written to the journal.
    accepted: BTreeMap<String, u64>,
    /// By id: the terminal statuses that the fleet saw.
    ended: BTreeMap<String, BTreeSet<String>>,
    /// Results were given up for room: a status may be among them.
    results_evicted: bool,
    /// The journal was lost: what was under way in it can't be known.
    journal_lost: bool,
}

impl Commands {
    /// A command is in the journal, durable.
    pub(in crate::sim) fn accepted(&mut self, at: u64, id: &str) {
        if !self.accepted.contains_key(id) {
            self.accepted.insert(id.to_owned(), at);
        }
    }

    /// The fleet saw a status.
    pub(in crate::sim) fn told(&mut self, id: &str, status: &str) {
        if !OPEN.contains(&status) {
            self.ended.entry(id.to_owned()).or_default().insert(status.to_owned());
        }
    }

    pub(in crate::sim) const fn results_evicted(&mut self) {
        self.results_evicted = true;
    }

    pub(in crate::sim) const fn journal_lost(&mut self) {
        self.journal_lost = true;
    }

    /// At the end: none ended twice.
    pub(in crate::sim) fn judge(&self, at: u64, findings: &mut Findings) {
        // What was replayed after the journal was lost is refused under an id that had ended.
        if self.journal_lost {
            return;
        }
        for (id, statuses) in self.ended.iter().filter(|(id, _)| self.accepted.contains_key(*id)) {
            if statuses.len() > 1 {
                findings.note(Promise::TerminalStatus, at, format!("command {id} ended as {statuses:?}"));
            }
        }
    }

    /// At the end of the calm: each that was accepted so long ago has ended.
    pub(in crate::sim) fn judge_ended(&self, at: u64, before: u64, findings: &mut Findings) {
        if self.results_evicted || self.journal_lost {
            return;
        }
        for (id, since) in self.accepted.iter().filter(|(_, since)| **since < before) {
            if !self.ended.contains_key(id) {
                let what = format!("command {id} was accepted at {} s and never ended for the fleet", since / 1_000);
                findings.note(Promise::TerminalStatus, at, what);
            }
        }
    }
}
