//! Promise 2, the part that the fleet sees: each command that was accepted reaches one terminal status.

use std::collections::{BTreeMap, BTreeSet};

use super::super::report::Promise;
use super::Findings;

/// Statuses after which nothing more comes.
const OPEN: [&str; 2] = ["QUEUED", "IN_PROGRESS"];

/// A command that was journaled before its journal was lost may be acknowledged so much later, over a slow link.
const ACKNOWLEDGED_WITHIN_MS: u64 = 60_000;

/// Follows each command.
#[derive(Debug, Default)]
pub(in crate::sim) struct Commands {
    /// By id: when it was written to the journal.
    accepted: BTreeMap<String, u64>,
    /// By id: the terminal statuses that the fleet saw.
    ended: BTreeMap<String, BTreeSet<String>>,
    /// Genuine ones that the broker has for the agent, and the agent has not acknowledged, by id: when they were
    /// published, and when they expire.
    owed: BTreeMap<String, (u64, u64)>,
    /// The agent has subscribed in the session that the broker has for it: what is published is kept from then on.
    subscribed: bool,
    /// Results were given up for room: a status may be among them.
    results_evicted: bool,
    /// The journal was lost then: what was under way in it can't be known.
    journal_lost_at: Option<u64>,
}

impl Commands {
    /// A genuine command is at the broker.
    pub(in crate::sim) fn published(&mut self, at: u64, id: &str, expires_at: u64) {
        self.owed.entry(id.to_owned()).or_insert((at, expires_at));
    }

    /// The broker made a session anew, which nothing is kept in until the agent subscribes.
    pub(in crate::sim) const fn session_made(&mut self) {
        self.subscribed = false;
    }

    /// The agent subscribes: to what is published from now on, unless its session had kept what was before.
    pub(in crate::sim) fn subscribed(&mut self) {
        if !self.subscribed {
            self.not_kept();
        }
        self.subscribed = true;
    }

    /// The broker keeps nothing that was published before: it has no session for it.
    pub(in crate::sim) fn not_kept(&mut self) {
        self.owed.clear();
    }

    /// A command is in the journal, durable.
    pub(in crate::sim) fn accepted(&mut self, at: u64, id: &str) {
        self.owed.remove(id);
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

    pub(in crate::sim) const fn journal_lost(&mut self, at: u64) {
        self.journal_lost_at = Some(at);
    }

    /// Whether the journal has known it from then on. What was replayed after a loss is refused under an id that had
    /// ended.
    fn is_known_since(&self, accepted_at: u64) -> bool {
        self.journal_lost_at.is_none_or(|lost_at| accepted_at > lost_at + ACKNOWLEDGED_WITHIN_MS)
    }

    /// At the end: none ended twice.
    pub(in crate::sim) fn judge(&self, at: u64, findings: &mut Findings) {
        for (id, _) in self.accepted.iter().filter(|(_, since)| self.is_known_since(**since)) {
            if let Some(statuses) = self.ended.get(id).filter(|statuses| statuses.len() > 1) {
                findings.note(Promise::TerminalStatus, at, format!("command {id} ended as {statuses:?}"));
            }
        }
    }

    /// At the end of the calm: each that was accepted so long ago has ended, and none that was valid all the time still
    /// waits at the broker.
    pub(in crate::sim) fn judge_ended(&self, at: u64, before: u64, findings: &mut Findings) {
        let mut excused = 0;
        for (id, since) in self.accepted.iter().filter(|(id, since)| **since < before && !self.ended.contains_key(*id))
        {
            if self.results_evicted || !self.is_known_since(*since) {
                excused += 1;
                continue;
            }
            let what = format!("command {id} was accepted at {} s and never ended for the fleet", since / 1_000);
            findings.note(Promise::TerminalStatus, at, what);
        }
        if excused > 0 {
            let why = format!("{excused} commands ended with the journal, or with results that were given up for room");
            findings.leave_open(Promise::TerminalStatus, why);
        }
        for (id, (since, _)) in self.owed.iter().filter(|(_, (since, expires_at))| *since < before && *expires_at > at)
        {
            let what = format!("command {id} is at the broker since {} s, valid, and was never taken", since / 1_000);
            findings.note(Promise::TerminalStatus, at, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(commands: &Commands) -> (usize, usize) {
        let mut findings = Findings::default();
        commands.judge(1_000_000, &mut findings);
        commands.judge_ended(1_000_000, 500_000, &mut findings);
        let (broken, open) = findings.into_parts();
        (broken.len(), open.len())
    }

    #[test]
    fn a_command_that_nobody_took_is_told_if_it_is_still_valid_and_the_broker_has_it() {
        let mut commands = Commands::default();
        commands.published(1_000, "expired", 900_000);
        commands.published(600_000, "young", 2_000_000);
        assert_eq!(judged(&commands), (0, 0));
        commands.published(1_000, "stuck", 2_000_000);
        assert_eq!(judged(&commands), (1, 0));
        commands.not_kept();
        assert_eq!(judged(&commands), (0, 0));
    }

    #[test]
    fn what_a_session_kept_is_owed_also_to_an_agent_that_subscribes_once_more() {
        let mut commands = Commands::default();
        commands.published(1_000, "before any session", 2_000_000);
        commands.subscribed();
        assert_eq!(judged(&commands), (0, 0));
        commands.published(2_000, "kept", 2_000_000);
        commands.subscribed();
        assert_eq!(judged(&commands), (1, 0));
        commands.session_made();
        commands.published(3_000, "before its subscription", 2_000_000);
        commands.subscribed();
        assert_eq!(judged(&commands), (0, 0));
    }

    #[test]
    fn a_journal_that_was_lost_excuses_only_what_was_in_it() {
        let mut commands = Commands::default();
        commands.accepted(1_000, "before");
        commands.journal_lost(2_000);
        assert_eq!(judged(&commands), (0, 1), "told as not judged");
        commands.accepted(70_000, "after");
        assert_eq!(judged(&commands), (1, 1));
        commands.told("after", "SUCCEEDED");
        assert_eq!(judged(&commands), (0, 1));
        commands.told("after", "FAILED");
        assert_eq!(judged(&commands), (1, 1));
    }
}
