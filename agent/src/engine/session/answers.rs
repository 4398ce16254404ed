//! What the broker makes of what was sent: it took it, refuses it for good or for now, or hangs up over it. What it
//! took is done with; what it refuses is set aside, or sent again after a pause; nothing waits for ever behind what it
//! won't take.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::Engine;
use crate::engine::io::LogLevel;
use crate::engine::link::{Cargo, Unanswered};
use crate::engine::packet::AckReason;
use crate::engine::record::Class;
use crate::engine::time::Now;

/// How long to wait when the broker says that we are over its quota, or won't say what is wrong.
const QUOTA_PAUSE: Duration = Duration::from_secs(10);
/// The same for what the broker is to keep: nothing waits behind that, and it may be refused for ever.
const RETAINED_PAUSE: Duration = Duration::from_secs(300);
/// A record that the broker refused so often without saying why is set aside.
const REFUSALS_MAX: u8 = 5;
/// Refused messages whose refusals are counted: the newest of more begin anew, until the older are set aside.
const REFUSED_MAX: usize = 64;

/// The messages that the broker refused without saying why, by their first record, and how often.
#[derive(Debug, Default)]
pub(super) struct Refused(BTreeMap<(Class, u64), u8>);

impl Refused {
    /// How often the message that begins with this record has been refused, with this time.
    fn again(&mut self, class: Class, first: u64) -> u8 {
        let times = self.0.entry((class, first)).or_default();
        *times = times.saturating_add(1);
        let times = *times;
        if self.0.len() > REFUSED_MAX {
            self.0.pop_last();
        }
        times
    }

    /// It was taken, or set aside.
    fn forget(&mut self, class: Class, seq: u64) {
        self.0.remove(&(class, seq));
    }
}

impl Engine {
    pub(super) fn answered(&mut self, now: Now, cargo: Cargo, reason: AckReason) {
        let Cargo::Records { class, seqs } = cargo else {
            self.session.suspects.answered_retained(&cargo);
            self.link.set_careful(self.session.suspects.is_careful());
            if !matches!(reason, AckReason::Success | AckReason::NoMatchingSubscribers) {
                self.log_refusal(reason);
            }
            if matches!(reason, AckReason::QuotaExceeded | AckReason::Unspecified) {
                self.say_later(now, &cargo);
            }
            return;
        };
        match reason {
            AckReason::Success | AckReason::NoMatchingSubscribers => {
                for seq in seqs {
                    self.session.refused.forget(class, seq);
                    self.outbox.acknowledged(class, seq);
                    self.session.suspects.answered(class, seq, self.outbox.has_passed(class, seq));
                }
                self.link.set_careful(self.session.suspects.is_careful());
            }
            AckReason::NotAuthorized => self.set_aside(class, &seqs, "not_authorized", reason),
            AckReason::TopicNameInvalid => self.set_aside(class, &seqs, "topic_name_invalid", reason),
            AckReason::PayloadFormatInvalid => self.set_aside(class, &seqs, "payload_format_invalid", reason),
            AckReason::QuotaExceeded => self.try_later(now, class, &seqs, reason),
            AckReason::Unspecified => {
                let first = seqs.first().copied().unwrap_or_default();
                let is_final = self.session.refused.again(class, first) >= REFUSALS_MAX;
                // What is to be sent again anyway, because one before it was refused, waits for its own turn.
                if is_final && self.outbox.is_in_flight(class, first) {
                    self.set_aside(class, &seqs, "refused", reason);
                } else {
                    self.try_later(now, class, &seqs, reason);
                }
            }
        }
    }

    /// The broker closed the connection: perhaps it dislikes what it had not answered yet.
    pub(super) fn suspect(&mut self, now: Now, unanswered: Option<Unanswered>) {
        let Some(unanswered) = unanswered else { return };
        if self.session.suspects.closed_over_retained(&unanswered) {
            let what = if unanswered.cargo == Cargo::Presence { "presence" } else { "attributes" };
            let pause_s = RETAINED_PAUSE.as_secs();
            let text = format!(
                "broker: closes the connection each time over {what}: it is left out for {pause_s} s (check its ACL, and \
                 that it takes retained messages)"
            );
            self.effects.log(LogLevel::Error, text);
            self.say_later(now, &unanswered.cargo);
        }
        let found = self.session.suspects.closed_over(&unanswered);
        self.link.set_careful(self.session.suspects.is_careful());
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
        let at = Some(now.mono.after(RETAINED_PAUSE));
        if matches!(cargo, Cargo::Presence) {
            (self.session.presence_due, self.session.presence_at) = (true, at);
        } else {
            self.attributes.touch();
            self.session.attributes_at = self.session.attributes_at.max(at);
        }
    }

    fn set_aside(&mut self, class: Class, seqs: &[u64], why: &'static str, reason: AckReason) {
        self.log_refusal(reason);
        for seq in seqs {
            self.session.refused.forget(class, *seq);
            self.outbox.set_aside(class, *seq, why);
        }
    }

    fn try_later(&mut self, now: Now, class: Class, seqs: &[u64], reason: AckReason) {
        self.log_refusal(reason);
        if let Some(first) = seqs.first() {
            self.outbox.rewind(class, *first);
        }
        self.session.flow.pause(class, now.mono.after(QUOTA_PAUSE));
    }

    fn log_refusal(&mut self, reason: AckReason) {
        self.log_once(format!("broker: it refuses a publish with {reason:?}: check its ACL for our topics"));
    }

    /// Once a connection: a broker that denies everything must not fill the log.
    pub(super) fn log_once(&mut self, text: String) {
        if !std::mem::replace(&mut self.session.refusal_logged, true) {
            self.effects.log(LogLevel::Error, text);
        }
    }
}
