//! Sends what may be sent, in the order of the contract: presence, attributes, results, events, telemetry. Makes each
//! message as long as the link carries and the broker takes, leaves out for now what is longer all the same, and sets
//! aside what is no message at all. Whether the broker took it is seen when it answers.

use std::time::Duration;

use bytes::Bytes;

use super::PassedOver;
use crate::config::Encoding;
use crate::engine::Engine;
use crate::engine::io::LogLevel;
use crate::engine::link::{Cargo, WINDOW_MAX};
use crate::engine::observation::Severity;
use crate::engine::outbox::READ_LOW_WATER;
use crate::engine::packet::Publish;
use crate::engine::record::{Body, Class, CommandResult, Event, EventKind, Record};
use crate::engine::status::DrainStatus;
use crate::engine::time::Now;
use crate::wire::telemetry::TelemetryMessage;

/// Samples that travel in one message.
const SAMPLES_PER_MESSAGE_MAX: usize = READ_LOW_WATER;
/// Bytes of samples that travel in one message, if it has more than one: what a link of 10 kbit/s carries in the time
/// between two pings. Some brokers take no larger ones, and say so only in MQTT 5.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Attributes are sent at most this often …
const ATTRIBUTES_PAUSE: Duration = Duration::from_secs(10);
/// … but so many changes at once, where none was sent for as many pauses.
const ATTRIBUTES_AT_ONCE: u32 = 3;

impl Engine {
    /// Sends what may be sent, in the order of the contract, while the window has room; then reads ahead.
    pub(in crate::engine) fn pump(&mut self, now: Now) {
        self.session.flow.topics.poll(now.mono);
        self.tell_drain(now);
        while self.send_what_may_go(now) {
            // Only now: what lies behind it was to have its turn, and shows whether the broker takes that. Each time a
            // topic closes, or some of it is set aside.
            for passed in std::mem::take(&mut self.session.passed) {
                self.withhold(now, &passed);
            }
        }
        if self.link.is_online() {
            for class in Class::ALL {
                self.outbox.fill(class, &mut self.effects);
            }
        }
    }

    /// True if something of it was passed over.
    fn send_what_may_go(&mut self, now: Now) -> bool {
        while self.session.passed.len() < WINDOW_MAX
            && self.session.has_room(&self.link)
            && self.session.flow.is_allowed(now.mono)
            && self.send_next(now)
        {}
        !self.session.passed.is_empty()
    }

    /// Says the last word of presence, where there is somebody to hear it.
    pub(in crate::engine) fn say_offline(&mut self, now: Now, reason: &str) {
        if self.link.is_online() {
            let payload = self.presence(now, Some(reason));
            self.publish_retained(now, payload, Cargo::Presence);
        }
    }

    /// Tells the fleet how a backlog goes: its own samples go out last, and come when it is over.
    fn tell_drain(&mut self, now: Now) {
        let Some((drain, remaining)) = self.session.flow.take_told(now.mono, &self.outbox) else { return };
        let told = DrainStatus::new(drain, remaining, now);
        let name = if remaining == 0 {
            let took_s = now.mono.since(drain.since).as_secs_f64();
            let text = format!("outbox: {} samples that had waited were sent in {took_s:.1} s", drain.of);
            self.effects.log(LogLevel::Info, text);
            "drained"
        } else {
            "draining"
        };
        let event = Event::new(Severity::Info, EventKind::Lifecycle, name)
            .group("drain")
            .with("of_records", told.of_records)
            .with("remaining_records", told.remaining_records)
            .with("elapsed_s", told.elapsed_s)
            .with_some("left_s", told.left_s.filter(|_| remaining > 0));
        self.record_event(now, event);
    }

    /// Sends one message. False if there is none to send now.
    fn send_next(&mut self, now: Now) -> bool {
        // A goodbye that was said is the last word.
        let may_say = self.stopping.is_none() && self.session.presence_at.is_none_or(|at| at <= now.mono);
        if may_say && std::mem::take(&mut self.session.presence_due) {
            let payload = self.presence(now, None);
            self.publish_retained(now, payload, Cargo::Presence);
            return true;
        }
        if self.attributes.is_changed() && self.session.attributes_at.is_none_or(|at| at <= now.mono) {
            self.send_attributes(now);
            return true;
        }
        self.send_record(now, Class::Results) || self.send_record(now, Class::Events) || self.send_telemetry(now)
    }

    fn send_attributes(&mut self, now: Now) {
        self.attributes.sent();
        let kept = now.mono.before(ATTRIBUTES_PAUSE * (ATTRIBUTES_AT_ONCE - 1));
        let from = self.session.attributes_at.unwrap_or_default().max(kept);
        self.session.attributes_at = Some(from.after(ATTRIBUTES_PAUSE));
        let seq = self.seqs.next();
        let fixed = self.identity.facts.iter().chain(&self.config.device.attributes);
        let mut dynamic = self.attributes.dynamic(self.quarantine.word());
        if self.quarantine.is_degraded() {
            dynamic.insert("quarantine_degraded".into(), true.into());
        }
        let at = self.timeline.stamp(now.mono);
        let payload = self.speaker().attributes(seq, at, fixed, dynamic, &self.config.device.groups);
        self.publish_retained(now, payload, Cargo::Attributes);
    }

    /// Sends the next result or event: first what goes before older ones.
    fn send_record(&mut self, now: Now, class: Class) -> bool {
        let topics = &self.session.flow.topics;
        // Among the results lie events too: those of the audit.
        let leaves: &[&str] = if class == Class::Results { &["results", "events"] } else { &["events"] };
        if !leaves.iter().any(|leaf| topics.is_open(leaf)) {
            return false;
        }
        // What can't be read waits for no topic: it is set aside.
        let may_go = |stored: &Bytes| Record::leaf_of(stored).is_none_or(|leaf| topics.is_open(leaf));
        let Some((seq, bytes)) = self.outbox.next_of(class, may_go) else { return false };
        if !self.session.flow.take_ration(now.mono, class, seq) {
            return false;
        }
        self.outbox.sent_next(class, seq);
        let Some(mut record) = self.decode(class, seq, &bytes) else { return true };
        let leaf = record.body.leaf();
        if self.session.refused.sits_out(class, seq) {
            self.pass_over(PassedOver { leaf, class, seq });
            return true;
        }
        let mut payload = self.speaker().record(seq, &record);
        // How a command ended has to be told, by less of what it printed if need be: first its output goes, then its
        // detail.
        for _ in 0..2 {
            let Body::Result(result @ CommandResult { part: None, .. }) = &mut record.body else { break };
            let refused = self.session.refused.bytes_max(class, seq).unwrap_or(usize::MAX);
            let surplus = self.surplus(&payload, leaf).max(payload.len().saturating_sub(refused));
            if surplus == 0 {
                break;
            }
            result.shorten(surplus);
            payload = self.speaker().record(seq, &record);
        }
        self.send_records(now, leaf, payload, class, vec![seq]);
        true
    }

    /// Sends the next samples in one message: of one boot, as many as fit.
    fn send_telemetry(&mut self, now: Now) -> bool {
        let (class, upto) = self.session.flow.samples_next(&self.outbox);
        // Samples of one interval travel in one message: the last of them may just be on its way from the store.
        if !self.session.flow.topics.is_open("telemetry") || self.outbox.is_filling(class, upto) {
            return false;
        }
        let Some((first, stored)) = self.outbox.ready(class, upto).next() else { return false };
        let stored = stored.clone();
        if !self.session.flow.take_ration(now.mono, class, first) {
            return false;
        }
        if self.session.refused.sits_out(class, first) {
            self.outbox.sent(class, 1);
            self.pass_over(PassedOver { leaf: "telemetry", class, seq: first });
            return true;
        }
        let alone = self.session.suspects.is_careful() || self.session.refused.holds(class, first);
        let most = if alone { 1 } else { SAMPLES_PER_MESSAGE_MAX };
        let (payload, seqs) = self.telemetry_message(class, upto, most);
        if seqs.is_empty() {
            self.outbox.sent(class, 1);
            self.unreadable(class, first, &stored);
            return true;
        }
        self.session.sample_bytes = payload.len() / seqs.len().max(1);
        self.outbox.sent(class, seqs.len());
        self.send_records(now, "telemetry", payload, class, seqs);
        true
    }

    /// As many of the next samples as a message takes, `most` of them, and at least one; compressed if the config says
    /// so. None of them if the first can't be read.
    fn telemetry_message(&self, class: Class, upto: u64, most: usize) -> (Vec<u8>, Vec<u64>) {
        match self.config.telemetry.encoding {
            Encoding::Json => {
                let (message, seqs) = self.telemetry_json(class, upto, most, self.message_bytes_max());
                (message.finish(), seqs)
            }
            // How much is left of it is known when it is done: the last message tells how many samples to try.
            Encoding::JsonZstd => {
                let guess = self.message_bytes_max() / self.session.sample_bytes.max(1);
                let mut most = guess.clamp(1, most);
                loop {
                    let (message, seqs) = self.telemetry_json(class, upto, most, usize::MAX);
                    let payload = crate::wire::payload::compress(message.finish());
                    if seqs.len() <= 1 || payload.len() <= self.message_bytes_max() {
                        return (payload, seqs);
                    }
                    most = seqs.len() / 2;
                }
            }
        }
    }

    fn telemetry_json(
        &self,
        class: Class,
        upto: u64,
        most: usize,
        bytes_max: usize,
    ) -> (TelemetryMessage<'_>, Vec<u64>) {
        let mut message = TelemetryMessage::new(self.speaker());
        let mut seqs = Vec::with_capacity(most);
        for (seq, stored) in self.outbox.ready(class, upto).take(most) {
            // One of another boot begins the next message, and so does one that can't be read: it is set aside there.
            if !matches!(message.push(seq, stored), Ok(true)) {
                break;
            }
            if !seqs.is_empty() && message.bytes() > bytes_max {
                message.pop();
                break;
            }
            seqs.push(seq);
        }
        (message, seqs)
    }

    /// The longest payload of more than one sample: what the link carries and the broker takes.
    fn message_bytes_max(&self) -> usize {
        let overhead = self.topic_len("telemetry") + Publish::OVERHEAD_MAX;
        let most = self.session.message_bytes_max().unwrap_or(MESSAGE_BYTES_MAX).min(MESSAGE_BYTES_MAX);
        self.link.packet_max().saturating_sub(overhead).min(most)
    }

    /// Sends records that were taken from the outbox, but not what the broker would hang up on.
    fn send_records(&mut self, now: Now, leaf: &'static str, payload: Vec<u8>, class: Class, seqs: Vec<u64>) {
        if self.fits(&payload, leaf) {
            self.counters.duplicates += u64::from(seqs.iter().any(|seq| self.outbox.was_sent(class, *seq)));
            self.session.flow.topics.sent(leaf);
            self.publish(now, payload, false, Cargo::Records { leaf, class, seqs });
            return;
        }
        let (len, max) = (payload.len(), self.link.packet_max());
        self.log_once(format!(
            "broker: takes {max} B, a record of {len} B for {leaf} waits: raise that limit; it is set aside where \
             others go on that topic meanwhile"
        ));
        for seq in seqs {
            self.pass_over(PassedOver { leaf, class, seq });
        }
    }

    fn pass_over(&mut self, passed: PassedOver) {
        // It takes nothing from those behind it.
        self.session.flow.give_back(passed.class, passed.seq);
        self.session.passed.push(passed);
    }

    /// Says what is not stored, or leaves it out where the broker would hang up on it: each connection would end so.
    fn publish_retained(&mut self, now: Now, payload: Vec<u8>, cargo: Cargo) {
        let leaf = cargo.leaf();
        if self.fits(&payload, leaf) {
            self.publish(now, payload, true, cargo);
            return;
        }
        let (len, max) = (payload.len(), self.link.packet_max());
        self.session.denied.too_large(leaf);
        self.log_once(format!("broker: takes {max} B, {leaf} of {len} B is left out: raise that limit"));
    }

    fn publish(&mut self, now: Now, payload: Vec<u8>, retain: bool, cargo: Cargo) {
        self.counters.publishes += 1;
        let topic = self.topic(cargo.leaf());
        self.session.flow.spend(topic.len() + payload.len() + Publish::OVERHEAD_MAX);
        self.link.publish(now.mono, topic, payload, retain, cargo, &mut self.effects);
    }

    fn fits(&self, payload: &[u8], leaf: &str) -> bool {
        self.surplus(payload, leaf) == 0
    }

    /// How many bytes the message is too long for the broker.
    fn surplus(&self, payload: &[u8], leaf: &str) -> usize {
        (payload.len() + self.topic_len(leaf) + Publish::OVERHEAD_MAX).saturating_sub(self.link.packet_max())
    }

    fn topic_len(&self, leaf: &str) -> usize {
        self.config.mqtt.topic_prefix.len() + 1 + self.config.device.id.as_str().len() + 1 + leaf.len()
    }

    fn decode(&mut self, class: Class, seq: u64, stored: &Bytes) -> Option<Record> {
        let record = Record::decode(stored).ok();
        if record.is_none() {
            self.unreadable(class, seq, stored);
        }
        record
    }

    /// A newer version wrote it, before this one was rolled back to: damage is found by the store's checksums.
    fn unreadable(&mut self, class: Class, seq: u64, stored: &Bytes) {
        let why = Record::decode(stored).err().map_or_else(|| "not of its log".to_owned(), |error| error.to_string());
        self.effects.log(LogLevel::Error, format!("store: record {seq} is set aside: {why}"));
        self.outbox.set_aside(class, seq, "unreadable");
    }
}
