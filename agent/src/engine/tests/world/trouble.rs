//! What goes wrong in the engine's world when it is told to: a store that is slow, busy or full, a broker that hangs
//! up, forgets or keeps silent, acts and collectors that don't end.

use serde_json::Value as Json;

use super::World;
use crate::engine::io::{EffectId, Input, StoreFault, StoreOp};
use crate::engine::observation::Observation;
use crate::engine::packet::{AckReason, SubscribeRefusal, Version};

/// Picks operations of the store.
pub(in crate::engine::tests) type Which = fn(&StoreOp) -> bool;

/// Whether an operation writes under this key.
pub(in crate::engine::tests) fn puts(op: &StoreOp, key: &str) -> bool {
    matches!(op, StoreOp::Put { entries } if entries.iter().any(|(written, _)| written == key))
}

/// What the broker answers to a message, by its topic and what is in it; `None`: what it answers to all.
pub(in crate::engine::tests) type Answers = fn(&str, &Json) -> Option<AckReason>;

/// How the store is slow, or fails at some operations and not at others.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    stalls_at: Option<Which>,
    /// Answers of an operation that stalled, and of all that came behind it.
    pub(super) late: Vec<Input>,
    refuses: Option<(Which, StoreFault)>,
    pub(super) collectors_hang: bool,
    /// Rounds that hang.
    pub(super) hung_rounds: Vec<EffectId>,
    /// Whoever takes the connection closes it without a word, when it is greeted in these versions.
    pub(super) hangs_up_on: Vec<Version>,
    /// The broker leaves CONNECT unanswered, until it is told to answer.
    holds_connack: bool,
    connack: Option<Input>,
    /// Operations that the store's queue holds; one more is refused.
    queue_max: Option<usize>,
    /// The broker closes the connection over the message that holds this record.
    pub(super) hangs_up_over: Option<u64>,
    /// And over each message of these topics.
    pub(super) hangs_up_over_topics: Vec<&'static str>,
    pub(super) answers: Option<Answers>,
    /// The broker refuses what is longer, and does not say so in CONNACK.
    pub(super) takes_bytes: Option<usize>,
    /// After that it hangs up.
    pub(super) hangs_up_over_length: bool,
    /// Topics of what it refused so.
    pub(super) too_long: Vec<String>,
    /// What asks for topics does not reach the broker.
    pub(super) loses_subscribes: bool,
    /// What the broker says to each topic that it is asked for, other than QoS 1.
    pub(super) grants: Option<Result<u8, SubscribeRefusal>>,
    /// Acts go on although they are canceled.
    pub(super) deaf_to_cancels: bool,
    /// The broker has nothing to do with retained messages, and says so in CONNACK if this is true.
    pub(super) retains_nothing: Option<bool>,
    /// While the logs hold more records than this, a commit finds the disk full.
    commits_fit: Option<u64>,
}

impl World {
    /// From the next operation of this kind on, the store answers only when it is told to.
    pub(in crate::engine::tests) fn stall_store_at(&mut self, which: Which) {
        self.trouble.stalls_at = Some(which);
    }

    /// The red button, as command `stop`: the store answers only when it is told to that it is written.
    pub(in crate::engine::tests) fn cancel_all_late(&mut self) {
        self.stall_store_at(|op| puts(op, "cmd/stop"));
        self.command("stop", "cancel_all", serde_json::json!({}), 1);
        self.settle();
    }

    /// Whether an answer of the store waits to be given.
    pub(in crate::engine::tests) fn store_is_late(&self) -> bool {
        !self.trouble.late.is_empty()
    }

    /// The store answers what waits, in order, and is fast again.
    pub(in crate::engine::tests) fn store_answers(&mut self) {
        self.trouble.stalls_at = None;
        self.queue.extend(std::mem::take(&mut self.trouble.late));
        self.settle();
    }

    /// Operations of this kind fail, and change nothing.
    pub(in crate::engine::tests) fn refuse(&mut self, which: Which, fault: StoreFault) {
        self.trouble.refuses = Some((which, fault));
    }

    pub(in crate::engine::tests) fn refuse_nothing(&mut self) {
        self.trouble.refuses = None;
    }

    /// The store's queue holds so many operations, and the engine's effects come faster than it works.
    pub(in crate::engine::tests) fn bound_store_queue(&mut self, operations: usize) {
        self.trouble.queue_max = Some(operations);
    }

    /// With more records than this in its logs, a commit finds the disk full.
    pub(in crate::engine::tests) fn commits_fit(&mut self, records: u64) {
        self.trouble.commits_fit = Some(records);
    }

    /// The broker closes the connection over each message that holds this record.
    pub(in crate::engine::tests) fn hang_up_over(&mut self, seq: u64) {
        self.trouble.hangs_up_over = Some(seq);
    }

    /// The broker closes the connection over each message of these topics.
    pub(in crate::engine::tests) fn hang_up_over_topics(&mut self, leaves: &[&'static str]) {
        self.trouble.hangs_up_over_topics = leaves.to_vec();
    }

    /// From now on the broker answers so.
    pub(in crate::engine::tests) fn answers(&mut self, answers: Answers) {
        self.trouble.answers = Some(answers);
    }

    /// The broker refuses each message whose payload is longer, and has never said so.
    pub(in crate::engine::tests) fn take_bytes(&mut self, most: usize) {
        self.trouble.takes_bytes = Some(most);
    }

    /// The same, and then it hangs up, as mosquitto does with `max_queued_messages 0`.
    pub(in crate::engine::tests) fn take_bytes_or_hang_up(&mut self, most: usize) {
        self.take_bytes(most);
        self.trouble.hangs_up_over_length = true;
    }

    /// How many messages of this topic it refused for their length.
    pub(in crate::engine::tests) fn too_long(&self, leaf: &str) -> usize {
        self.trouble.too_long.iter().filter(|topic| topic.ends_with(leaf)).count()
    }

    /// Answers one of the publishes that were withheld: the nth in the order of sending.
    pub(in crate::engine::tests) fn answer_nth(&mut self, nth: usize) {
        let pkid = self.unanswered.remove(nth);
        self.answer(pkid);
        self.settle();
    }

    /// Rounds of collection that are begun now have no end.
    pub(in crate::engine::tests) fn collectors_hang(&mut self, hang: bool) {
        self.trouble.collectors_hang = hang;
    }

    /// Those that hang end, with what is read in them.
    pub(in crate::engine::tests) fn hung_rounds_end(&mut self) {
        for id in std::mem::take(&mut self.trouble.hung_rounds) {
            let readings = Observation { points: self.points.clone(), ..Observation::default() };
            self.input(Input::Observed { id, result: Ok(readings) });
        }
    }

    /// A broker without retained messages, which says so when it takes a connection, or only when it refuses one.
    pub(in crate::engine::tests) fn retain_nothing(&mut self, says_so: bool) {
        self.trouble.retains_nothing = Some(says_so);
    }

    pub(in crate::engine::tests) fn retain_everything(&mut self) {
        self.trouble.retains_nothing = None;
    }

    pub(in crate::engine::tests) fn hang_up_on(&mut self, versions: &[Version]) {
        self.trouble.hangs_up_on = versions.to_vec();
    }

    /// The broker forgets the session, and with it what was subscribed to.
    pub(in crate::engine::tests) fn forget_session(&mut self) {
        self.session = false;
    }

    pub(in crate::engine::tests) fn lose_subscribes(&mut self, lose: bool) {
        self.trouble.loses_subscribes = lose;
    }

    /// The broker says this to each topic that it is asked for; `None`: it grants QoS 1.
    pub(in crate::engine::tests) fn grant(&mut self, grants: Option<Result<u8, SubscribeRefusal>>) {
        self.trouble.grants = grants;
    }

    pub(in crate::engine::tests) fn be_deaf_to_cancels(&mut self) {
        self.trouble.deaf_to_cancels = true;
    }

    pub(in crate::engine::tests) fn hold_connack(&mut self) {
        self.trouble.holds_connack = true;
    }

    /// The broker answers the CONNECT that it has left unanswered.
    pub(in crate::engine::tests) fn give_connack(&mut self) {
        let connack = self.trouble.connack.take().expect("a CONNECT to answer");
        self.input(connack);
    }

    pub(super) fn answer_connect(&mut self, connack: Input) {
        if self.trouble.holds_connack {
            self.trouble.connack = Some(connack);
        } else {
            self.queue.push_back(connack);
        }
    }

    /// The store works in order: what comes behind an operation that stalls is late too.
    pub(super) fn ask_store(&mut self, id: EffectId, op: StoreOp) {
        let late = !self.trouble.late.is_empty() || self.trouble.stalls_at.is_some_and(|which| which(&op));
        // What is appended is in memory until it is committed, and never written where it is acknowledged before.
        let is_written = match op {
            StoreOp::Read { .. } | StoreOp::Probe | StoreOp::Append { .. } | StoreOp::Trim { .. } => false,
            StoreOp::Commit => self.store.stats().records.iter().any(|records| *records > 0),
            _ => true,
        };
        if is_written {
            self.store.written_at = Some(self.now.wall.unix);
        }
        let result = self.trouble_with(&op).map_or_else(|| self.store.apply(op), Err);
        let answer = Input::Store { id, result, stats: self.store.stats() };
        if late {
            self.trouble.late.push(answer);
        } else {
            self.queue.push_back(answer);
        }
    }

    fn trouble_with(&self, op: &StoreOp) -> Option<StoreFault> {
        let queued = self.queue.iter().filter(|input| matches!(input, Input::Store { .. })).count();
        if self.trouble.queue_max.is_some_and(|max| queued >= max) {
            return Some(StoreFault::Busy);
        }
        let records = self.store.stats().records.iter().sum::<u64>();
        if *op == StoreOp::Commit && self.trouble.commits_fit.is_some_and(|fit| records > fit) {
            return Some(StoreFault::NoSpace { what: "sync the log".into() });
        }
        self.trouble.refuses.as_ref().filter(|(which, _)| which(op)).map(|(_, fault)| fault.clone())
    }
}
