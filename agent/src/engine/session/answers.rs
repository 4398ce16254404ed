//! What the broker makes of what was sent: it took it, refuses it, or hangs up over it. What it took is done with. What
//! it refuses is sent again after a wait, for as long as it may be for the topic; a record is set aside only where it
//! is for the record, because the broker says so or takes others: so nothing waits for ever behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::PassedOver;
use super::sending::MESSAGE_BYTES_MAX;
use crate::engine::Engine;
use crate::engine::io::LogLevel;
use crate::engine::link::{Cargo, Unanswered, advice};
use crate::engine::packet::AckReason;
use crate::engine::record::Class;
use crate::engine::time::{Mono, Now};

/// How long what the broker is to keep is left out: nothing waits behind that, and it may be refused for ever.
const RETAINED_PAUSE: Duration = Duration::from_secs(300);
/// A record that the broker refused so often while it took others is set aside.
const REFUSALS_MAX: u8 = 5;
/// Refused messages whose refusals are counted: the newest of more begin anew, until the older are done with.
const REFUSED_MAX: usize = 64;

/// A broker that refused a message as too large is given one of twice the length again after so long: its limit may
/// have been raised. Not sooner, since it may hang up over it.
const LONGER_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// How long messages of samples are, where the broker refused a longer one as too large. It holds over connections,
/// because such a broker may hang up as well.
#[derive(Debug, Default)]
pub(super) struct LengthMax(Option<(usize, Mono)>);

impl LengthMax {
    /// In bytes.
    pub(super) const fn get(&self) -> Option<usize> {
        match self.0 {
            Some((bytes, _)) => Some(bytes),
            None => None,
        }
    }

    /// One of so many bytes was refused.
    fn refused(&mut self, now: Mono, bytes: usize) {
        self.0 = Some((self.get().unwrap_or(usize::MAX).min(bytes / 2), now));
    }

    /// One that was sent was taken.
    fn taken(&mut self, now: Mono) {
        if let Some((bytes, _)) = self.0.filter(|(_, since)| now.since(*since) >= LONGER_AFTER) {
            let longer = bytes.saturating_mul(2);
            self.0 = (longer < MESSAGE_BYTES_MAX).then_some((longer, now));
        }
    }
}

/// The messages that the broker refused, perhaps for what is in them, by their first record.
#[derive(Debug, Default)]
pub(super) struct Refused(BTreeMap<(Class, u64), Refusals>);

/// How one was refused.
#[derive(Debug)]
struct Refusals {
    leaf: &'static str,
    /// How often that counted.
    times: u8,
    /// Another record was taken on its topic since then. A broker that takes none proves nothing against one.
    others_taken: bool,
    /// It was too large with so many bytes.
    too_large: Option<usize>,
    /// It was too large, and can't be shorter: next time those behind it go without it. A broker may hang up over it,
    /// and would take none of them.
    sits_out: bool,
}

impl Refused {
    /// How often the message that begins with this record has been refused, with this time.
    fn again(&mut self, leaf: &'static str, class: Class, first: u64) -> u8 {
        let refusals = self.of(leaf, class, first);
        if std::mem::take(&mut refusals.others_taken) {
            refusals.times = refusals.times.saturating_add(1);
        }
        refusals.times
    }

    /// It was too large with so many bytes: whether it gets shorter. Where it hasn't, it is whole again when its topic
    /// has waited: then the broker may take more.
    fn gets_shorter(&mut self, leaf: &'static str, class: Class, first: u64, bytes: usize) -> bool {
        let refusals = self.of(leaf, class, first);
        refusals.too_large = Some(bytes).filter(|bytes| refusals.too_large.is_none_or(|before| *bytes < before));
        refusals.too_large.is_some()
    }

    fn of(&mut self, leaf: &'static str, class: Class, first: u64) -> &mut Refusals {
        let new = Refusals { leaf, times: 0, others_taken: true, too_large: None, sits_out: false };
        self.0.entry((class, first)).or_insert(new)
    }

    /// Keeps within its bound, of those that are not yet done with.
    fn bound(&mut self, is_done: impl Fn(Class, u64) -> bool) {
        if self.0.len() > REFUSED_MAX {
            self.0.retain(|(class, first), _| !is_done(*class, *first));
        }
        while self.0.len() > REFUSED_MAX {
            self.0.pop_last();
        }
    }

    /// Something that is none of these was taken on a topic.
    fn other_taken(&mut self, leaf: &str) {
        for refusals in self.0.values_mut().filter(|refusals| refusals.leaf == leaf) {
            refusals.others_taken = true;
        }
    }

    /// How long the message that begins with this record may be, where it was too large.
    pub(super) fn bytes_max(&self, class: Class, first: u64) -> Option<usize> {
        self.0.get(&(class, first))?.too_large.map(|bytes| bytes / 2)
    }

    /// Whether the message that begins with this record is left out this time: only once, then it is sent again.
    pub(super) fn sits_out(&mut self, class: Class, first: u64) -> bool {
        self.0.get_mut(&(class, first)).is_some_and(|refusals| std::mem::take(&mut refusals.sits_out))
    }

    /// Whether it is one that was refused.
    pub(super) fn holds(&self, class: Class, first: u64) -> bool {
        self.0.contains_key(&(class, first))
    }

    /// It was taken, or set aside.
    fn forget(&mut self, class: Class, seq: u64) {
        self.0.remove(&(class, seq));
    }
}

impl Engine {
    pub(super) fn answered(&mut self, now: Now, cargo: Cargo, reason: AckReason, bytes: usize) {
        for again in self.session.denied.answered(cargo.leaf(), reason) {
            self.say(&again);
            self.session.say_now(&again);
        }
        if !reason.is_taken() {
            self.log_refusal(cargo.leaf(), reason, bytes);
            self.answered_though_refused(&cargo);
        }
        let Cargo::Records { leaf, class, seqs } = cargo else { return self.answered_retained(now, &cargo, reason) };
        let first = seqs.first().copied().unwrap_or_default();
        match reason {
            AckReason::Success | AckReason::NoMatchingSubscribers => {
                self.session.flow.topics.taken(leaf);
                for seq in seqs {
                    self.session.refused.forget(class, seq);
                    self.outbox.acknowledged(class, seq);
                    self.session.suspects.answered(class, seq, self.outbox.has_passed(class, seq));
                }
                self.session.refused.other_taken(leaf);
                self.session.length.taken(now.mono);
            }
            // CONNACK said nothing of it: mosquitto's message_size_limit. Each sample may fit in a message of its own.
            AckReason::TooLarge if seqs.len() > 1 => {
                self.session.flow.topics.shortened(leaf);
                self.session.length.refused(now.mono, bytes);
                self.outbox.rewind(class, first);
            }
            // It is sent again anyway, because one before it was refused: then it is seen whether it has to be shorter.
            AckReason::TooLarge if leaf == "results" && !self.outbox.is_in_flight(class, first) => {}
            // How a command ended is told without all that it printed.
            AckReason::TooLarge if leaf == "results" && self.gets_shorter(leaf, class, first, bytes) => {
                self.session.flow.topics.shortened(leaf);
                self.outbox.rewind(class, first);
            }
            _ => {
                if self.is_to_wait(leaf, class, &seqs, reason) {
                    self.session.flow.topics.refused(now.mono, leaf, reason);
                    if let Some(refusals) = self.session.refused.0.get_mut(&(class, first)) {
                        refusals.sits_out = reason == AckReason::TooLarge;
                    }
                }
            }
        }
    }

    /// What was not sent at all, because it is too long for the broker by its own word, or was last time: that is as if
    /// it had been refused now.
    pub(super) fn withhold(&mut self, now: Now, passed: &PassedOver) {
        let PassedOver { leaf, class, seq } = *passed;
        if self.is_to_wait(leaf, class, &[seq], AckReason::TooLarge) {
            self.session.flow.topics.withheld(now.mono, leaf);
        }
    }

    /// Whether what was refused is sent again once its topic has waited. No record is given up for what is for the
    /// topic, or may be.
    fn is_to_wait(&mut self, leaf: &'static str, class: Class, seqs: &[u64], reason: AckReason) -> bool {
        let first = seqs.first().copied().unwrap_or_default();
        if reason.is_of_the_record() && self.is_final(leaf, class, first) {
            // The broker took others there.
            self.session.flow.topics.taken(leaf);
            let why = match reason {
                AckReason::TooLarge => "too_large",
                AckReason::PayloadFormatInvalid => "payload_format_invalid",
                _ => "refused",
            };
            self.set_aside(class, seqs, why);
            return false;
        }
        if reason == AckReason::TooLarge {
            self.session.denied.too_large(leaf);
        }
        self.outbox.rewind(class, first);
        true
    }

    /// What the broker answers it does not hang up over. Of what is older than a record that went ahead that says
    /// nothing.
    fn answered_though_refused(&mut self, cargo: &Cargo) {
        let Cargo::Records { class, seqs, .. } = cargo else { return };
        let passed = seqs.first().is_some_and(|first| self.outbox.is_behind(*class, first.saturating_sub(1)));
        for seq in seqs {
            self.session.suspects.answered(*class, *seq, passed);
        }
    }

    fn answered_retained(&mut self, now: Now, cargo: &Cargo, reason: AckReason) {
        self.session.suspects.answered_retained(cargo);
        if reason == AckReason::TooLarge {
            // It would be as large the next time: not at each change, nor at each connection.
            self.session.denied.too_large(cargo.leaf());
            self.session.suspects.refused_retained(cargo);
        }
        if !reason.is_taken() {
            self.say_later(now, cargo);
        }
    }

    /// Counts a refusal of the message that begins with this record, and says whether it was the last.
    fn is_final(&mut self, leaf: &'static str, class: Class, first: u64) -> bool {
        let is_final = self.session.refused.again(leaf, class, first) >= REFUSALS_MAX;
        self.session.refused.bound(|class, first| !self.outbox.is_behind(class, first));
        // What is to be sent again anyway, because one before it was refused, waits for its own turn.
        is_final && self.outbox.is_in_flight(class, first)
    }

    /// Whether what was too large can be told in fewer bytes.
    fn gets_shorter(&mut self, leaf: &'static str, class: Class, first: u64, bytes: usize) -> bool {
        let refused = &mut self.session.refused;
        let shorter = refused.gets_shorter(leaf, class, first, bytes);
        refused.bound(|class, first| !self.outbox.is_behind(class, first));
        // Of more than can be remembered the newest would be tried as it is, again and again.
        shorter && refused.bytes_max(class, first).is_some()
    }

    /// The broker closed the connection: perhaps it dislikes what it had not answered yet.
    pub(super) fn suspect(&mut self, now: Now, unanswered: Option<Unanswered>) {
        let Some(unanswered) = unanswered else { return };
        if self.session.suspects.closed_over_retained(&unanswered) {
            let what = unanswered.cargo.leaf();
            let pause_s = RETAINED_PAUSE.as_secs();
            let text = format!(
                "broker: closes the connection each time over {what}: it is left out for {pause_s} s (check its ACL, and \
                 that it takes retained messages)"
            );
            self.effects.log(LogLevel::Error, text);
            self.say_later(now, &unanswered.cargo);
        }
        let found = self.session.suspects.closed_over(&unanswered);
        if let Some((class, seq)) = found {
            let text = format!(
                "broker: closes the connection each time over record {seq} ({}): it is set aside",
                class.word()
            );
            self.effects.log(LogLevel::Error, text);
            self.outbox.set_aside(class, seq, "poison");
        }
    }

    /// What the broker keeps of us is as old as the last that it took: it is said again, as a record would be sent
    /// again.
    fn say_later(&mut self, now: Now, cargo: &Cargo) {
        self.say(cargo);
        self.leave_out(now, cargo);
    }

    fn say(&mut self, cargo: &Cargo) {
        if matches!(cargo, Cargo::Presence) {
            self.session.presence_due = true;
        } else {
            self.attributes.touch();
        }
    }

    /// Not before a pause, whatever there is to say meanwhile.
    fn leave_out(&mut self, now: Now, cargo: &Cargo) {
        let at = Some(now.mono.after(RETAINED_PAUSE));
        if matches!(cargo, Cargo::Presence) {
            self.session.presence_at = at;
        } else {
            self.session.attributes_at = self.session.attributes_at.max(at);
        }
    }

    fn set_aside(&mut self, class: Class, seqs: &[u64], why: &'static str) {
        for seq in seqs {
            self.session.refused.forget(class, *seq);
            self.outbox.set_aside(class, *seq, why);
        }
    }

    fn log_refusal(&mut self, leaf: &str, reason: AckReason, bytes: usize) {
        let (topic, advice) = (self.topic(leaf), advice(reason));
        self.log_once(format!("broker: it refuses a publish of {bytes} B on {topic} ({reason}): {advice}"));
    }

    /// Once a connection: a broker that denies everything must not fill the log.
    pub(super) fn log_once(&mut self, text: String) {
        if !std::mem::replace(&mut self.session.refusal_logged, true) {
            self.effects.log(LogLevel::Error, text);
        }
    }
}
