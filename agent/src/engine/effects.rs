//! The engine's outgoing queue, and its memory of what each completion will mean. Decides nothing.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::io::{Effect, EffectId, LogLevel, StoreOp};
use super::record::Class;
use crate::wire::CommandId;

/// Completions that can be outstanding: the runtime's queue to the store holds 256 operations and refuses the rest at once;
/// beside them there are one round of collection, a few acts, and what one input gives rise to.
pub const PENDING_MAX: usize = 1_024;

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
    /// Gives space back.
    Trim {
        /// The log that is cut.
        class: Class,
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
    /// State whose loss costs little: anchors, the journal's cursor.
    Bookkeeping,
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
}

impl Effects {
    /// The next effect to carry out.
    pub fn poll(&mut self) -> Option<Effect> {
        self.queue.pop_front()
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
    pub fn put(&mut self, purpose: Purpose, entries: Vec<(String, Option<Bytes>)>) {
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

    /// What the completed effect was for. `None` for one that is not ours, or was completed before.
    pub fn complete(&mut self, id: EffectId) -> Option<Purpose> {
        self.pending.remove(&id)
    }
}
