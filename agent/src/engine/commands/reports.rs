//! What is told of a command: how far it is, and how it ended. The end is journaled first and told from there, and it
//! counts as told only when the outbox has the report where a crash can't take it; what either of them lost is tried
//! again, and what the outbox gave up is owed until it has it again. An end that is not on the disk must not be told:
//! after a crash it might be told otherwise.

use std::collections::{BTreeSet, VecDeque};

use super::entry::put;
use super::{Commands, Step};
use crate::engine::effects::Purpose;
use crate::engine::io::{EffectId, StoreFault};
use crate::engine::outbox::Gone;
use crate::engine::record::{CommandResult, Status};
use crate::engine::time::Mono;
use crate::wire::CommandId;

/// Progress is told in steps of at least this.
const PROGRESS_STEP_PCT: u8 = 5;
/// Answers to what is not remembered that wait for room in the outbox: what comes beyond that is put there at once, for
/// better or worse.
const ANSWERS_MAX: usize = 512;

/// What somebody waits for, and the outbox doesn't have.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// Commands whose end it has given up: as many as are remembered.
    ends: BTreeSet<CommandId>,
    /// Answers that only memory holds, because what they answer is not remembered.
    answers: VecDeque<CommandResult>,
}

impl Owed {
    /// Takes an answer that waits for room, or gives it back.
    pub(super) fn hold(&mut self, answer: CommandResult) -> Option<CommandResult> {
        if self.answers.len() >= ANSWERS_MAX {
            return Some(answer);
        }
        self.answers.push_back(answer);
        None
    }

    /// How many answers wait, and the bound.
    pub(super) fn bound(&self) -> (usize, usize) {
        (self.answers.len(), ANSWERS_MAX)
    }
}

/// Commands whose end the journal has to be given again, all at the same time.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    ids: BTreeSet<CommandId>,
    /// Set as long as there are any.
    retry_at: Option<Mono>,
}

impl Unwritten {
    /// One more.
    pub(super) fn insert(&mut self, now: Mono, id: CommandId) {
        self.ids.insert(id);
        self.retry_at.get_or_insert(now.after(StoreFault::RETRY_AFTER));
    }

    /// When they are due.
    pub(super) const fn retry_at(&self) -> Option<Mono> {
        self.retry_at
    }

    /// All of them, once they are due.
    pub(super) fn take_due(&mut self, now: Mono) -> BTreeSet<CommandId> {
        match self.retry_at.take_if(|at| *at <= now) {
            Some(_) => std::mem::take(&mut self.ids),
            None => BTreeSet::new(),
        }
    }
}

impl Commands {
    /// An act says how far it is.
    pub fn progressed(&mut self, effect: EffectId, percent: u8) {
        let Some(id) = self.running.get(&effect).cloned() else { return };
        let Some(entry) = self.ledger.get_mut(&id) else { return };
        let percent = percent.min(100);
        if percent < entry.progress_pct.saturating_add(PROGRESS_STEP_PCT)
            && (percent != 100 || entry.progress_pct == 100)
        {
            return;
        }
        entry.progress_pct = percent;
        let mut result = entry.stored.result(&id);
        result.progress_pct = Some(percent);
        self.steps.push_back(Step::Report(result));
    }

    /// What is remembered of a command was given this seq: once that is safe, its end needn't be told again after a
    /// crash.
    pub fn reported_as(&mut self, id: &str, seq: u64) {
        let Some(id) = CommandId::parse(id) else { return };
        if let Some(entry) = self.ledger.get_mut(&id) {
            if entry.stored.status.is_terminal() {
                entry.report_seq = Some(seq);
            }
        }
    }

    /// A report was stored under another seq after the store had refused it.
    pub fn renumbered(&mut self, old: u64, new: u64) {
        if let Some(entry) = self.ledger.values_mut().find(|entry| entry.report_seq == Some(old)) {
            entry.report_seq = Some(new);
        }
    }

    /// More of the outbox's results are where a crash can't take them.
    pub fn results_safe(&mut self, is_safe: impl Fn(u64) -> bool) {
        let mut entries = Vec::new();
        for (id, entry) in self.ledger.iter_mut().filter(|(_, entry)| !entry.stored.reported) {
            if entry.report_seq.is_some_and(&is_safe) {
                entry.stored.reported = true;
                entry.stored.seq = entry.report_seq;
                entries.push(put(id, &entry.stored));
            }
        }
        if !entries.is_empty() {
            self.steps.push_back(Step::Journal(Purpose::Note, entries));
        }
    }

    /// The outbox has given up results: what ended with them is told again, were it by the next start.
    pub fn reports_gone(&mut self, gone: &Gone) {
        for (id, entry) in &mut self.ledger {
            if !entry.report_seq.is_some_and(|seq| gone.holds(seq)) {
                continue;
            }
            entry.report_seq = None;
            entry.stored.seq = None;
            self.owed.ends.insert(id.clone());
            if std::mem::take(&mut entry.stored.reported) {
                let entries = vec![put(id, &entry.stored)];
                self.steps.push_back(Step::Journal(Purpose::Outcome(id.clone()), entries));
            }
        }
    }

    /// The same of so many before this start, of which a crash kept us from hearing: the last ones below this seq.
    pub fn reports_gone_unheard(&mut self, records: u64, below: u64) {
        let known = self.ledger.values().filter_map(|entry| entry.report_seq);
        let mut seqs: Vec<u64> = known.filter(|seq| *seq < below).collect();
        seqs.sort_unstable();
        let first = seqs.len().saturating_sub(usize::try_from(records).unwrap_or(usize::MAX));
        if let (Some(first), Some(last)) = (seqs.get(first), seqs.last()) {
            self.reports_gone(&Gone::all(*first..=*last));
        }
    }

    /// Puts so many of the answers that wait into the outbox.
    pub fn tell_answers(&mut self, room: usize) {
        let answers = &mut self.owed.answers;
        self.steps.extend(answers.drain(..room.min(answers.len())).map(Step::Answer));
    }

    /// Whether there are any.
    #[must_use]
    pub fn owes_answers(&self) -> bool {
        !self.owed.answers.is_empty()
    }

    /// Tells again the ends that are owed, as long as there is room for so many results.
    pub fn tell_owed(&mut self, room: usize) {
        for _ in 0..room {
            let Some(id) = self.owed.ends.pop_first() else { return };
            if let Some(entry) = self.ledger.get(&id).filter(|entry| entry.report_seq.is_none()) {
                self.steps.push_back(Step::Report(entry.stored.result(&id)));
            }
        }
    }

    /// Whether an end that is on the disk is yet to be told for the first time.
    pub(super) fn is_untold(&self, id: &CommandId) -> bool {
        let entry = self.ledger.get(id);
        !self.owed.ends.contains(id) && entry.is_some_and(|entry| entry.report_seq.is_none() && !entry.stored.reported)
    }

    /// The outcome is known: journal it, then report it.
    pub(super) fn finish(&mut self, id: &CommandId, status: Status, reason: Option<&str>, detail: Option<&str>) {
        let Some(entry) = self.ledger.get_mut(id) else { return };
        entry.end(status, reason, detail);
        self.journal_end(id);
    }

    /// It is told once this is on the disk.
    pub(super) fn journal_end(&mut self, id: &CommandId) {
        let Some(entry) = self.ledger.get_mut(id) else { return };
        entry.ending = true;
        let entries = vec![put(id, &entry.stored)];
        self.steps.push_back(Step::Journal(Purpose::Outcome(id.clone()), entries));
    }

    pub(super) fn report(&mut self, id: &CommandId) {
        let Some(entry) = self.ledger.get_mut(id) else { return };
        let mut result = entry.stored.result(id);
        if let Some(output) = entry.output.take() {
            result.output = Some(output);
        }
        let remedy = entry.remediation(id);
        self.steps.push_back(Step::Report(result));
        self.steps.extend(remedy.map(Step::Tell));
    }

    /// Gives the journal again what it could not take.
    pub(super) fn journal_again(&mut self, now: Mono) {
        for id in self.unwritten.take_due(now) {
            let Some(entry) = self.ledger.get(&id) else { continue };
            let entries = vec![put(&id, &entry.stored)];
            self.steps.push_back(Step::Journal(Purpose::Outcome(id), entries));
        }
    }
}
