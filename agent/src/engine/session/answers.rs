//! What the broker makes of what was sent: it took it, refuses it, or hangs up over it. What it took is done with. What
//! it refuses is sent again after a wait, for as long as it may be for the topic; a record is set aside only where it
//! is for the record, because the broker says so or takes others: so nothing waits for ever behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::sending::MESSAGE_BYTES_MAX;
use crate::engine::Engine;
use crate::engine::io::LogLevel;
use crate::engine::link::{Cargo, Unanswered, advice};
use crate::engine::packet::AckReason;
use crate::engine::record::Class;
use crate::engine::time::{Mono, Now};

/// How long what the broker is to keep is left out: nothing waits behind that, and it may be refused for ever.
const RETAINED_PAUSE: Duration = Duration::from_secs(300);
/// A record that the broker refused so often while it took others, or however short it was made, is set aside.
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
    /// It was too large: next time it has no more.
    bytes_max: Option<usize>,
}

impl Refused {
    /// How often the message that begins with this record has been refused, with this time; `too_large`: with so many
    /// bytes, for that reason.
    fn again(&mut self, leaf: &'static str, class: Class, first: u64, too_large: Option<usize>) -> u8 {
        let new = Refusals { leaf, times: 0, others_taken: true, bytes_max: None };
        let refusals = self.0.entry((class, first)).or_insert(new);
        if std::mem::take(&mut refusals.others_taken) || too_large.is_some() {
            refusals.times = refusals.times.saturating_add(1);
        }
        refusals.bytes_max = too_large.map(|bytes| bytes / 2).or(refusals.bytes_max);
        refusals.times
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
        self.0.get(&(class, first))?.bytes_max
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
        }
        if !reason.is_taken() {
            self.log_refusal(cargo.leaf(), reason, bytes);
            self.answered_though_refused(&cargo);
        }
        let Cargo::Records { leaf, class, seqs } = cargo else { return self.answered_retained(now, &cargo, reason) };
        let first = seqs.first().copied().unwrap_or_default();
        if reason.is_taken() || reason == AckReason::TooLarge {
            self.session.flow.topics.taken(leaf);
        }
        match reason {
            AckReason::Success | AckReason::NoMatchingSubscribers => {
                for seq in seqs {
                    self.session.refused.forget(class, seq);
                    self.outbox.acknowledged(class, seq);
                    self.session.suspects.answered(class, seq, self.outbox.has_passed(class, seq));
                }
                self.session.refused.other_taken(leaf);
                self.session.length.taken(now.mono);
            }
            // CONNACK said nothing of it: mosquitto's message_size_limit. Each sample may fit in a message of its own …
            AckReason::TooLarge if seqs.len() > 1 => {
                self.session.length.refused(now.mono, bytes);
                self.outbox.rewind(class, first);
            }
            // … and how a command ended is told without all that it printed.
            AckReason::TooLarge => {
                if class == Class::Results && !self.is_final(leaf, class, first, Some(bytes)) {
                    self.outbox.rewind(class, first);
                } else {
                    self.set_aside(class, &seqs, "too_large");
                }
            }
            AckReason::PayloadFormatInvalid | AckReason::Other(_) if self.is_final(leaf, class, first, None) => {
                // The broker took others there.
                self.session.flow.topics.taken(leaf);
                let is_format = reason == AckReason::PayloadFormatInvalid;
                self.set_aside(class, &seqs, if is_format { "payload_format_invalid" } else { "refused" });
            }
            // That is for the topic, or may be: no record is given up for it.
            AckReason::NotAuthorized
            | AckReason::TopicNameInvalid
            | AckReason::PayloadFormatInvalid
            | AckReason::QuotaExceeded
            | AckReason::Other(_) => {
                self.outbox.rewind(class, first);
                self.session.flow.topics.refused(now.mono, leaf, reason);
            }
        }
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
        match reason {
            _ if reason.is_for_now() => self.say_later(now, cargo),
            // It would be as large the next time: not at each change, nor at each connection.
            AckReason::TooLarge => {
                self.session.suspects.refused_retained(cargo);
                self.leave_out(now, cargo);
            }
            _ => {}
        }
    }

    /// Counts a refusal of the message that begins with this record, and says whether it was the last.
    fn is_final(&mut self, leaf: &'static str, class: Class, first: u64, too_large: Option<usize>) -> bool {
        let is_final = self.session.refused.again(leaf, class, first, too_large) >= REFUSALS_MAX;
        self.session.refused.bound(|class, first| !self.outbox.is_behind(class, first));
        // What is to be sent again anyway, because one before it was refused, waits for its own turn.
        is_final && self.outbox.is_in_flight(class, first)
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
