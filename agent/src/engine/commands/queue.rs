//! Commands that wait: for whatever works on their target, as one of a group for their turn, or where somebody kept the
//! machine up for a new look at the gateway; and a reboot, for its delay. Each is judged once more before it begins, in
//! the order in which they came; each may be canceled, and so may one that has begun. Accepts no new ones.

use super::entry::{Entry, put};
use super::judge::needs_look;
use super::{Commands, Facts, Step, intent};
use crate::engine::admission::Refusal;
use crate::engine::command::Command;
use crate::engine::effects::Purpose;
use crate::engine::io::{Act, EffectId};
use crate::engine::reboot::{LOOK_MAX, left_by};
use crate::engine::record::Status;
use crate::engine::time::Mono;
use crate::wire::{CommandId, Reason};

/// What is told of one that a command took back in time.
const UNBEGUN: &str = "canceled before it began";

impl Commands {
    /// What waits, and whose target is free now, begins. What has expired meanwhile, or can't be afforded, ends.
    pub fn begin_queued(&mut self, facts: Facts<'_>) {
        if facts.stopping {
            return;
        }
        for id in std::mem::take(&mut self.queue) {
            let Some(entry) = self.ledger.get_mut(&id) else { continue };
            let Some(act) = entry.act().cloned() else { continue };
            entry.begins_at.take_if(|at| *at <= facts.now.mono);
            let Some(entry) = self.ledger.get(&id) else { continue };
            if !entry.durable || entry.begins_at.is_some() || self.target_is_taken(facts, &act) {
                self.queue.push_back(id);
            } else if !entry.looked_for && needs_look(facts, &act) {
                let Some(entry) = self.ledger.get_mut(&id) else { continue };
                (entry.looked_for, entry.begins_at) = (true, Some(facts.now.mono.after(LOOK_MAX)));
                self.queue.push_back(id);
                self.steps.push_back(Step::Look);
            } else if entry.has_expired(facts) {
                self.refuse_waiting(facts, &id, (Reason::Expired, "expired while it was queued".into()));
            } else if let Err(refusal) = self.admit_waiting(facts, entry) {
                self.refuse_waiting(facts, &id, refusal);
            } else {
                self.begin(facts, &id, &act);
            }
        }
    }

    /// The time of a reboot has come: whether the goodbye begins. One that a command orders is judged as what waits in
    /// the queue; what else reboots was judged before.
    pub fn reboot_is_due(&mut self, facts: Facts<'_>, effect: EffectId) -> bool {
        let Some(id) = self.running.get(&effect).cloned() else { return true };
        let is_reboot = |entry: &&Entry| matches!(entry.command, Some(Command::Reboot { .. }));
        let Some(entry) = self.ledger.get(&id).filter(is_reboot) else { return true };
        if let Err(refusal) = self.admit_waiting(facts, entry) {
            self.running.remove(&effect);
            self.unspend(&id);
            self.refuse_waiting(facts, &id, refusal);
            return false;
        }
        if let Some(entry) = self.ledger.get_mut(&id) {
            entry.stored.unannounced = false;
            let entries = vec![put(&id, &entry.stored)];
            self.steps.push_back(Step::Journal(Purpose::Note, entries));
        }
        true
    }

    /// When those that wait for their own turn begin.
    pub(super) fn turns(&self) -> impl Iterator<Item = Mono> + '_ {
        self.queue.iter().filter_map(|id| self.ledger.get(id)?.begins_at)
    }

    /// True if it was queued or under way. What is not durable by then was received after the command that takes it
    /// back, which is: the store answers in the order of receipt. That one goes its way.
    pub(super) fn cancel(&mut self, id: &CommandId) -> bool {
        if self.ledger.get(id).is_none_or(|entry| !entry.durable) {
            return false;
        }
        if let Some(place) = self.queue.iter().position(|queued| queued == id) {
            self.queue.remove(place);
            self.finish(id, Status::Canceled, Some(Reason::Canceled.word()), Some(UNBEGUN));
            return true;
        }
        let Some(effect) = self.running.iter().find(|(_, running)| *running == id).map(|(effect, _)| *effect) else {
            return self.cancel_unbegun(id);
        };
        self.steps.push_back(Step::Stop(effect));
        true
    }

    /// Whether a command that takes others back is on its way into the journal.
    #[must_use]
    pub fn is_canceling(&self) -> bool {
        let takes_back = |entry: &Entry| matches!(entry.command, Some(Command::Cancel(_) | Command::CancelAll));
        self.ledger.values().any(takes_back)
    }

    /// It waited, and is not begun.
    fn refuse_waiting(&mut self, facts: Facts<'_>, id: &CommandId, (reason, detail): Refusal) {
        self.note_refusal_of(facts.now.mono, id, reason.word(), &detail);
        self.finish(id, Status::Rejected, Some(reason.word()), Some(&detail));
    }

    fn begin(&mut self, facts: Facts<'_>, id: &CommandId, act: &Act) {
        let (spent, spending) = self.spend(facts, act).unzip();
        let Some(entry) = self.ledger.get_mut(id) else { return };
        entry.spending = spending;
        entry.stored.status = Status::InProgress;
        entry.stored.detail = None;
        entry.stored.boot = Some(facts.timeline.boot());
        entry.stored.leaves = left_by(facts.releases, act);
        let mut entries = vec![put(id, &entry.stored)];
        entries.extend(spent);
        entries.extend(intent(facts, id, act));
        self.steps.push_back(Step::Journal(Purpose::Begun(id.clone()), entries));
    }

    /// That it begins is on its way into the journal: it does not once that is done.
    fn cancel_unbegun(&mut self, id: &CommandId) -> bool {
        if self.ledger.get(id).and_then(Entry::act).is_none() {
            return false;
        }
        self.unspend(id);
        self.finish(id, Status::Canceled, Some(Reason::Canceled.word()), Some(UNBEGUN));
        true
    }
}
