//! The engine's outgoing queue, and its memory of what each completion will mean. Decides nothing.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::io::{Effect, EffectId, LogLevel, StoreOp};
use super::keyed::Write;
use super::record::Class;
use crate::wire::CommandId;

/// Completions that can be outstanding: the runtime's queue to the store holds 256 operations and refuses the rest at
/// once, and [`HELD_MAX`] wait here; beside them there are one round of collection, a few acts, and what one input
/// gives rise to.
pub const PENDING_MAX: usize = 1_024;
/// Operations that are handed to the store before the first of them is answered. The next ones wait here for their
/// turn: in the runtime's queue they would be refused once it is full, and the answers to a burst may give rise to
/// hundreds at once.
pub const STORE_AT_ONCE: usize = 128;
/// Operations that may wait here. More than that are handed on, and may be refused.
pub const HELD_MAX: usize = 384;

/// What an effect was for: kept until its completion comes.
#[derive(Debug, Clone, PartialEq)]
pub enum Purpose {
    /// A round of collection.
    Observe,
    /// A look at the gateway and the agent themselves.
    Audit,
    /// A record on its way into the outbox.
    Append {
        /// Its log.
        class: Class,
        /// Its number.
        seq: u64,
        /// Kept, so that it can be tried again once room was made.
        bytes: Bytes,
    },
    /// Makes durable what was appended.
    Commit {
        /// The highest seq appended before it, per class.
        upto: [u64; Class::COUNT],
    },
    /// Fills a lane's read-ahead.
    Read {
        /// Its log.
        class: Class,
    },
    /// Shows what is to be thinned out.
    ThinRead,
    /// A sample made of several on its way into the outbox.
    ThinAppend {
        /// Its number.
        seq: u64,
    },
    /// What the next start knows this run by (that it has begun, or ends as it should), and what goes with that.
    RunMark,
    /// Gives space back.
    Trim {
        /// The log that is cut.
        class: Class,
        /// The highest seq that goes.
        upto: u64,
    },
    /// Makes room.
    Evict {
        /// The log that pays for it.
        class: Class,
    },
    /// A command was accepted: nothing may happen before this is durable.
    Accepted(CommandId),
    /// A queued command begins.
    Begun(CommandId),
    /// A command's outcome, before it is reported.
    Outcome(CommandId),
    /// The numbers up to this one may be used for messages that are not stored.
    Reserve {
        /// The new end of the reserved block.
        upto: u64,
    },
    /// An alarm as the fleet is told of it.
    Alarm {
        /// Its key.
        key: String,
        /// Kept, so that it can be written again.
        value: Bytes,
    },
    /// Something for which nothing waits: a level, a ladder, an anchor, the journal's cursor. Where it fails, what the
    /// parts know by then is noted again with the next sample.
    Note,
    /// A step of a ladder begins: the rule that it is for.
    Remedy(String),
    /// A release is to be left: what it is one of.
    Trial(String),
    /// A sign of life.
    Probe,
    /// An action on the gateway.
    Act,
}

/// The queue of effects.
#[derive(Debug, Default)]
pub struct Effects {
    queue: VecDeque<Effect>,
    last_id: u64,
    pending: BTreeMap<EffectId, Purpose>,
    /// For the store, after those that it has: in their order.
    held: VecDeque<Effect>,
    /// Handed to the store, and not answered.
    at_store: usize,
    /// Nothing waits any more.
    closing: bool,
}

impl Effects {
    /// The next effect to carry out.
    pub fn poll(&mut self) -> Option<Effect> {
        loop {
            let may_go = self.at_store < STORE_AT_ONCE || self.held.len() > HELD_MAX || self.closing;
            let next = if may_go { self.held.pop_front() } else { None };
            if let Some(effect) = next {
                self.at_store += 1;
                return Some(effect);
            }
            match self.queue.pop_front()? {
                effect @ Effect::Store { .. } => self.held.push_back(effect),
                effect => return Some(effect),
            }
        }
    }

    /// The end is near: who hands on what is left to the store waits for no answer.
    pub const fn close(&mut self) {
        self.closing = true;
    }

    /// There is no end after all.
    pub const fn reopen(&mut self) {
        self.closing = false;
    }

    /// Queues an effect that has no completion.
    pub fn push(&mut self, effect: Effect) {
        self.queue.push_back(effect);
    }

    /// Queues an effect that has one.
    pub fn push_for(&mut self, purpose: Purpose, effect: impl FnOnce(EffectId) -> Effect) -> EffectId {
        let id = self.fresh_id();
        self.pending.insert(id, purpose);
        self.queue.push_back(effect(id));
        id
    }

    /// Queues work for the store.
    pub fn store(&mut self, purpose: Purpose, op: StoreOp) {
        self.push_for(purpose, |id| Effect::Store { id, op });
    }

    /// Queues writes of keyed state.
    pub fn put(&mut self, purpose: Purpose, entries: Vec<Write>) {
        self.store(purpose, StoreOp::Put { entries });
    }

    /// Queues a line for the log.
    pub fn log(&mut self, level: LogLevel, text: impl Into<String>) {
        self.queue.push_back(Effect::Log { level, text: text.into() });
    }

    /// Completions that are outstanding.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// An id for an effect whose completions are matched by its owner.
    pub fn fresh_id(&mut self) -> EffectId {
        self.last_id += 1;
        EffectId(self.last_id)
    }

    /// The store has answered: what the operation was for, as in [`Effects::complete`].
    pub fn stored(&mut self, id: EffectId) -> Option<Purpose> {
        let purpose = self.complete(id)?;
        self.at_store = self.at_store.saturating_sub(1);
        Some(purpose)
    }

    /// What collectors still answer counts no more: they are gone.
    pub fn forget_rounds(&mut self) {
        self.pending.retain(|_, pending| *pending != Purpose::Observe);
    }

    /// What the completed effect was for. `None` for one that is not ours, or was completed before.
    pub fn complete(&mut self, id: EffectId) -> Option<Purpose> {
        self.pending.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(effects: &mut Effects) -> Vec<Effect> {
        std::iter::from_fn(|| effects.poll()).collect()
    }

    fn stores(effects: &[Effect]) -> Vec<EffectId> {
        effects
            .iter()
            .filter_map(|effect| if let Effect::Store { id, .. } = effect { Some(*id) } else { None })
            .collect()
    }

    fn ask(effects: &mut Effects, operations: usize) {
        for _ in 0..operations {
            effects.store(Purpose::Note, StoreOp::Commit);
        }
    }

    #[test]
    fn the_store_is_given_a_burst_little_by_little_and_in_order_and_nothing_else_waits_for_it() {
        let mut effects = Effects::default();
        ask(&mut effects, 300);
        effects.log(LogLevel::Info, "not held up");
        let first = all(&mut effects);
        let mut given = stores(&first);
        assert_eq!((given.len(), first.len()), (STORE_AT_ONCE, STORE_AT_ONCE + 1));
        while given.len() < 300 {
            let answered = given[given.len() - STORE_AT_ONCE];
            assert_eq!(effects.stored(answered), Some(Purpose::Note));
            assert_eq!(effects.stored(answered), None, "an answer counts once");
            let next = stores(&all(&mut effects));
            assert_eq!(next.len(), 1);
            given.extend(next);
        }
        assert!(given.is_sorted());
    }

    #[test]
    fn what_waits_for_the_store_has_a_bound() {
        let mut effects = Effects::default();
        ask(&mut effects, 2 * (STORE_AT_ONCE + HELD_MAX));
        assert_eq!(stores(&all(&mut effects)).len(), 2 * STORE_AT_ONCE + HELD_MAX);
    }

    #[test]
    fn at_the_end_the_store_is_given_all_of_it() {
        let mut effects = Effects::default();
        ask(&mut effects, 300);
        assert_eq!(stores(&all(&mut effects)).len(), STORE_AT_ONCE);
        effects.close();
        effects.push(Effect::Exit);
        let last = all(&mut effects);
        assert_eq!(stores(&last).len(), 300 - STORE_AT_ONCE);
        assert_eq!(last.last(), Some(&Effect::Exit));
    }
}
