//! What the broker keeps for one client id, connected or not: subscriptions, the bounded queue, what is in flight. It
//! decides nothing about connections.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::topic;
use super::{BrokerOutput, ConnId, Counts};
use crate::engine::packet::{Packet, Properties, Publish, SubscribeRefusal};
use crate::engine::time::Mono;

/// Unacknowledged publishes towards one client: mosquitto's default.
pub const INFLIGHT_MAX: usize = 20;
/// Messages that wait for one client.
pub const QUEUE_MAX: usize = 10_000;
/// Bytes of messages that wait for one client.
pub const QUEUE_BYTES_MAX: usize = 8 << 20;
/// Subscriptions of one client: AWS IoT Core's limit.
pub const FILTERS_MAX: usize = 50;

/// What a subscription asks for (MQTT 5, 3.8.3.1).
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) qos: u8,
    /// Not what this client published itself.
    no_local: bool,
    /// Messages keep the retain flag with which they were published.
    pub(super) as_published: bool,
    retained: RetainHandling,
}

/// When the retained messages are sent.
#[derive(Debug, Clone, Copy)]
enum RetainHandling {
    Always,
    IfNew,
    Never,
}

impl Options {
    /// At most QoS 1 is granted.
    fn of(byte: u8) -> Self {
        let retained = match byte >> 4 & 3 {
            0 => RetainHandling::Always,
            1 => RetainHandling::IfNew,
            _ => RetainHandling::Never,
        };
        Self { qos: (byte & 3).min(1), no_local: byte & 4 != 0, as_published: byte & 8 != 0, retained }
    }

    pub(super) const fn hears(self, own: bool) -> bool {
        !(own && self.no_local)
    }

    /// Where two subscriptions overlap, the one copy is as good as the better of them would have it.
    fn or(self, other: Self) -> Self {
        Self { qos: self.qos.max(other.qos), as_published: self.as_published || other.as_published, ..self }
    }
}

/// A subscription that was taken.
pub(super) struct Granted {
    pub(super) options: Options,
    /// The retained messages are to be sent now.
    pub(super) wants_retained: bool,
}

/// A client's session.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) connection: Option<ConnId>,
    /// When its last connection ended.
    pub(super) away_since: Mono,
    pub(super) expiry_s: u32,
    /// When it ends, while nobody is connected.
    pub(super) expires: Option<Mono>,
    pub(super) will: Option<Publish>,
    pub(super) will_delay_s: u32,
    /// When the will is published, while nobody is connected.
    pub(super) will_due: Option<Mono>,
    pub(super) packet_max: usize,
    pub(super) receive_max: usize,
    /// QoS 2 publishes that were taken over and not yet released.
    pub(super) unreleased: BTreeSet<u16>,
    filters: BTreeMap<String, Options>,
    queue: VecDeque<Message>,
    queue_bytes: usize,
    inflight: VecDeque<InFlight>,
    last_pkid: u16,
}

/// A message that waits for its subscriber.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) publish: Publish,
    /// When it is of no use any more.
    expires: Option<Mono>,
}

impl Message {
    pub(super) fn new(now: Mono, publish: Publish) -> Self {
        let expiry_s = publish.properties.as_ref().and_then(|properties| properties.expiry_s);
        Self { publish, expires: expiry_s.map(|expiry_s| now.after(Duration::from_secs(expiry_s.into()))) }
    }

    pub(super) fn len(&self) -> usize {
        let Publish { topic, payload, properties, .. } = &self.publish;
        topic.len() + payload.len() + properties.as_deref().map_or(0, properties_len) + Publish::OVERHEAD_MAX
    }

    pub(super) fn is_expired(&self, now: Mono) -> bool {
        self.expires.is_some_and(|expires| expires < now)
    }

    /// As one subscriber gets it.
    pub(super) fn copy(&self, qos_max: u8, retain: bool) -> Self {
        let publish =
            Publish { qos: self.publish.qos.min(qos_max), retain, dup: false, pkid: 0, ..self.publish.clone() };
        Self { publish, expires: self.expires }
    }

    /// As it is sent: it says for how long it is of use from now on (3.3.2.3.3).
    fn packet(&self, now: Mono) -> BrokerOutput {
        let mut publish = self.publish.clone();
        if let (Some(expires), Some(properties)) = (self.expires, &mut publish.properties) {
            let left_s = expires.since(now).as_millis().div_ceil(1000);
            Arc::make_mut(properties).expiry_s = Some(u32::try_from(left_s).unwrap_or(u32::MAX));
        }
        BrokerOutput::Packet(Packet::Publish(publish))
    }
}

/// A message that was sent and not yet acknowledged.
#[derive(Debug)]
struct InFlight {
    message: Message,
    /// Sent on this connection; otherwise on an earlier one only.
    is_out: bool,
}

/// Where what a session does ends.
pub(super) struct Sink<'a> {
    pub(super) now: Mono,
    pub(super) outputs: &'a mut VecDeque<(ConnId, BrokerOutput)>,
    pub(super) counts: &'a mut Counts,
}

impl Session {
    /// When its will is published if nobody comes back.
    pub(super) fn next_will(&self) -> Option<Mono> {
        self.will_due.filter(|_| self.connection.is_none() && self.will.is_some())
    }

    /// Subscribes; what was granted.
    pub(super) fn subscribe(&mut self, filter: &str, options: u8) -> Result<Granted, SubscribeRefusal> {
        if topic::is_shared(filter) {
            return Err(SubscribeRefusal::SharedNotSupported);
        }
        if !topic::is_filter(filter) {
            return Err(SubscribeRefusal::FilterInvalid);
        }
        if self.filters.len() >= FILTERS_MAX && !self.filters.contains_key(filter) {
            return Err(SubscribeRefusal::QuotaExceeded);
        }
        let options = Options::of(options);
        let is_new = self.filters.insert(filter.to_owned(), options).is_none();
        let wants_retained = match options.retained {
            RetainHandling::Always => true,
            RetainHandling::IfNew => is_new,
            RetainHandling::Never => false,
        };
        Ok(Granted { options, wants_retained })
    }

    pub(super) fn unsubscribe(&mut self, filter: &str) -> bool {
        self.filters.remove(filter).is_some()
    }

    /// How this session is subscribed to `name`; `own`: it published the message itself.
    pub(super) fn wants(&self, name: &str, own: bool) -> Option<Options> {
        let matching =
            self.filters.iter().filter(|(filter, options)| options.hears(own) && topic::matches(filter, name));
        matching.map(|(_, options)| *options).reduce(Options::or)
    }

    /// Sends or queues a message, or counts why not.
    pub(super) fn deliver(&mut self, message: Message, sink: &mut Sink<'_>) {
        let len = message.len();
        if len > self.packet_max {
            sink.counts.dropped_too_large += 1;
            return;
        }
        if message.publish.qos == 0 {
            match self.connection {
                Some(conn) => sink.outputs.push_back((conn, message.packet(sink.now))),
                None => sink.counts.dropped_offline += 1,
            }
            return;
        }
        // What is of no use any more must not take the place of what is.
        while self.queue.front().is_some_and(|oldest| oldest.is_expired(sink.now)) {
            self.next(sink);
        }
        if self.queue.len() >= QUEUE_MAX || self.queue_bytes + len > QUEUE_BYTES_MAX {
            sink.counts.dropped_queue_full += 1;
            return;
        }
        self.queue_bytes += len;
        self.queue.push_back(message);
        self.pump(sink);
    }

    /// A PUBACK came; one that nobody waits for is ignored.
    pub(super) fn acknowledged(&mut self, pkid: u16, sink: &mut Sink<'_>) {
        self.inflight.retain(|sent| sent.message.publish.pkid != pkid);
        self.pump(sink);
    }

    /// After a reconnect: what was in flight again, in order and marked, then what waited. This connection may take
    /// less than the one before it: what is too large for it is dropped as it would have been then.
    pub(super) fn resume(&mut self, sink: &mut Sink<'_>) {
        let before = self.inflight.len();
        self.inflight.retain(|sent| sent.message.len() <= self.packet_max);
        sink.counts.dropped_too_large += (before - self.inflight.len()) as u64;
        self.inflight.iter_mut().for_each(|sent| sent.is_out = false);
        self.pump(sink);
    }

    /// Sends as much as this connection takes at a time.
    fn pump(&mut self, sink: &mut Sink<'_>) {
        let Some(conn) = self.connection else { return };
        let window = INFLIGHT_MAX.min(self.receive_max);
        let mut out = self.inflight.iter().filter(|sent| sent.is_out).count();
        for again in self.inflight.iter_mut().filter(|sent| !sent.is_out).take(window.saturating_sub(out)) {
            again.is_out = true;
            again.message.publish.dup = true;
            sink.counts.redelivered += 1;
            sink.outputs.push_back((conn, again.message.packet(sink.now)));
            out += 1;
        }
        while out < window && self.inflight.len() < INFLIGHT_MAX && !self.queue.is_empty() {
            let Some(mut message) = self.next(sink) else { continue };
            message.publish.pkid = self.take_pkid();
            sink.outputs.push_back((conn, message.packet(sink.now)));
            self.inflight.push_back(InFlight { message, is_out: true });
            out += 1;
        }
    }

    /// Takes the oldest message off the queue; `None` where there is none, or it can't be sent any more.
    fn next(&mut self, sink: &mut Sink<'_>) -> Option<Message> {
        let message = self.queue.pop_front()?;
        let len = message.len();
        self.queue_bytes -= len;
        if message.is_expired(sink.now) {
            sink.counts.dropped_expired += 1;
            return None;
        }
        if len > self.packet_max {
            sink.counts.dropped_too_large += 1;
            return None;
        }
        Some(message)
    }

    /// The next packet id that is not in flight; ends because at most [`INFLIGHT_MAX`] are.
    fn take_pkid(&mut self) -> u16 {
        loop {
            self.last_pkid = self.last_pkid.checked_add(1).unwrap_or(1);
            if self.inflight.iter().all(|sent| sent.message.publish.pkid != self.last_pkid) {
                return self.last_pkid;
            }
        }
    }
}

/// On the wire: an identifier each, a length in front of each text, and what their whole length takes beyond a byte.
fn properties_len(properties: &Properties) -> usize {
    let text = |len: Option<usize>| len.map_or(0, |len| 3 + len);
    3 + properties.expiry_s.map_or(0, |_| 5)
        + properties.payload_format.map_or(0, |_| 2)
        + text(properties.response_topic.as_ref().map(String::len))
        + text(properties.correlation_data.as_ref().map(Bytes::len))
        + text(properties.content_type.as_ref().map(String::len))
        + properties.user.iter().map(|(key, value)| 5 + key.len() + value.len()).sum::<usize>()
}
