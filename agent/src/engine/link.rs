//! The MQTT session as pure state: opening, greeting, packet ids, the window, acknowledgements in order, keep-alive and
//! the wait before the next try. Works for 3.1.1 and 5 alike. It doesn't know what is sent, only how much of it is
//! under way, and it never opens a socket. Here is what becomes of a connection; what goes on in one that stands is in
//! `online`, what was found out of the broker's version in `dialect`.
//!
//! States: `Held` (none is wanted) → `Waiting` → `Opening` (transport) → `Greeting` (CONNECT sent) → `Online` →
//! `Closing` → `Waiting`, or `Held`.

mod dialect;
pub(crate) mod faults;
mod online;

use std::ops::Range;
use std::time::Duration;

use minicbor::{Decode, Encode};

use self::dialect::{Dialect, Will};
pub use self::faults::{FaultLog, advice};
use self::faults::{overdue, refusal};
use self::online::Online;
use super::effects::Effects;
use super::io::{Effect, EffectId, LinkFault, LinkFaultKind};
use super::packet::{AckReason, ConnAck, Connect, ConnectCode, Packet, Publish, Version};
use super::record::Class;
use super::time::Mono;
use crate::config::MqttVersion;

/// How long the broker may take to answer CONNECT and SUBSCRIBE.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Publishes under way, whatever config and broker allow: half of what the runtime queues for a connection, so that a
/// window sent at once is never taken for a stalled link.
pub const WINDOW_MAX: usize = 128;
/// How long to wait for the transport to close before asking for it again.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// After so many connections that did not live long, the device id is suspected.
const SHORT_LIVES_MAX: u8 = 2;

/// What is under way in a PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cargo {
    /// The presence message.
    Presence,
    /// The attributes message.
    Attributes,
    /// Records of one lane.
    Records {
        /// The last word of their topic: not all of a lane have the same.
        leaf: &'static str,
        /// The lane.
        class: Class,
        /// Their numbers, in order.
        seqs: Vec<u64>,
    },
}

impl Cargo {
    /// The last word of its topic.
    #[must_use]
    pub const fn leaf(&self) -> &'static str {
        match self {
            Self::Presence => "presence",
            Self::Attributes => "attributes",
            Self::Records { leaf, .. } => leaf,
        }
    }
}

/// What was under way when a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// The publish that was sent first.
    pub cargo: Cargo,
    /// Nothing else was under way.
    pub alone: bool,
    /// The broker had answered other publishes on this connection.
    pub others_answered: bool,
}

/// How many of our filters the broker did not put in force as asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct Withheld {
    /// It refused them.
    #[n(0)]
    pub refused: u32,
    /// It granted QoS 0: what comes on them may be lost on the way.
    #[n(1)]
    pub qos_0: u32,
}

/// What the session tells the engine.
#[derive(Debug, PartialEq)]
pub enum Signal {
    /// The broker accepted us.
    Online {
        /// It still had our session: subscriptions and queued commands.
        session_present: bool,
    },
    /// The broker answered for some of our filters.
    Subscribed(Withheld),
    /// A message on a topic that we subscribed to.
    Message(Publish),
    /// A message that was too long to be taken in.
    Oversize {
        /// What to acknowledge; 0: nothing.
        pkid: u16,
        /// Where it was sent.
        topic: String,
        /// Its length.
        len: usize,
    },
    /// The broker answered a publish.
    Answered {
        /// What it carried.
        cargo: Cargo,
        /// What became of it.
        reason: AckReason,
        /// Bytes of its topic and payload.
        bytes: usize,
    },
    /// The connection is gone.
    Down {
        /// Why.
        fault: LinkFault,
        /// From when until when it was online; `None`: it never was.
        online: Option<Range<Mono>>,
        /// What the broker had not answered when it closed the connection; `None` where another than the broker did.
        unanswered: Option<Unanswered>,
    },
}

/// What the config says about the connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Which versions may be spoken.
    pub version: MqttVersion,
    /// We have a user name.
    pub named: bool,
    /// Our keep-alive.
    pub keep_alive: Duration,
    /// Our own limit on unacknowledged publishes.
    pub inflight_max: u16,
    /// The largest packet that the broker takes as far as is known, in bytes; it may announce less.
    pub packet_max: usize,
    /// Online for so long: the backoff begins anew.
    pub stable_after: Duration,
}

/// The session.
#[derive(Debug)]
pub struct Link {
    settings: Settings,
    state: State,
    dialect: Dialect,
    /// Connections in a row that the broker accepted, and closed before they were stable.
    short_lives: u8,
    /// Why we are closing: said instead of the transport's own words.
    closing: Option<LinkFault>,
    /// What was unanswered then, if the broker asked for it.
    unanswered: Option<Unanswered>,
    /// After the present connection there is to be another.
    wanted: bool,
    /// Packet ids go on over reconnects, so that a late answer is never taken for a new one's.
    next_pkid: u16,
    expected_since: Mono,
}

#[derive(Debug)]
enum State {
    Held,
    Waiting { until: Mono },
    Opening { id: EffectId },
    Greeting { id: EffectId, since: Mono },
    Online(Box<Online>),
    Closing { id: EffectId, since: Mono, was_online: Option<Range<Mono>> },
}

impl Link {
    /// A link that does nothing until [`Link::release`].
    #[must_use]
    pub fn new(settings: Settings, now: Mono) -> Self {
        Self {
            dialect: Dialect::new(settings.version),
            settings,
            state: State::Held,
            short_lives: 0,
            closing: None,
            unanswered: None,
            wanted: false,
            next_pkid: 0,
            expected_since: now,
        }
    }

    /// Takes over new settings; keep-alive holds from the next connection on.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// From now on a connection is wanted.
    pub fn release(&mut self, now: Mono) {
        self.wanted = true;
        if matches!(self.state, State::Held) {
            self.state = State::Waiting { until: now };
        }
    }

    /// A way to the broker may have opened: it is tried now, whatever was to be waited for.
    pub fn hurry(&mut self, now: Mono) {
        if let State::Waiting { until } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// No connection is wanted any more: one that stands or closes is the last, until [`Link::release`].
    pub fn hold(&mut self) {
        self.wanted = false;
        if matches!(self.state, State::Waiting { .. }) {
            self.state = State::Held;
        }
    }

    /// Whether the broker has accepted us.
    #[must_use]
    pub const fn is_online(&self) -> bool {
        matches!(self.state, State::Online(_))
    }

    /// Whether there is no connection and none under way.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        matches!(self.state, State::Held | State::Waiting { .. })
    }

    /// The version spoken, or to be spoken next.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.dialect.version()
    }

    /// When the next try is due, while waiting for it.
    #[must_use]
    pub const fn retry_at(&self) -> Option<Mono> {
        if let State::Waiting { until } = self.state { Some(until) } else { None }
    }

    /// Since when the broker has accepted us.
    #[must_use]
    pub fn online_since(&self) -> Option<Mono> {
        if let State::Online(online) = &self.state { Some(online.since()) } else { None }
    }

    /// The last round trip to the broker, once.
    pub fn take_rtt(&mut self) -> Option<Duration> {
        if let State::Online(online) = &mut self.state { online.take_rtt() } else { None }
    }

    /// The largest packet that the broker takes.
    #[must_use]
    pub fn packet_max(&self) -> usize {
        if let State::Online(online) = &self.state { online.packet_max() } else { usize::MAX }
    }

    /// Whether the broker keeps retained messages: true until it says otherwise.
    #[must_use]
    pub const fn retains(&self) -> bool {
        self.dialect.retains()
    }

    /// Publishes that are under way.
    #[must_use]
    pub fn inflight(&self) -> usize {
        if let State::Online(online) = &self.state { online.inflight() } else { 0 }
    }

    /// Whether another publish may go out now; `careful`: while none is under way. The bytes under way may go over
    /// their bound by one message.
    #[must_use]
    pub fn has_room(&self, careful: bool) -> bool {
        let State::Online(online) = &self.state else { return false };
        let most = if careful { 1 } else { WINDOW_MAX };
        online.has_room(usize::from(self.settings.inflight_max).min(most))
    }

    /// Sends a QoS 1 publish; its answer comes as [`Signal::Answered`].
    pub fn publish(
        &mut self,
        now: Mono,
        topic: String,
        payload: Vec<u8>,
        retain: bool,
        cargo: Cargo,
        effects: &mut Effects,
    ) {
        let pkid = self.fresh_pkid();
        let State::Online(online) = &mut self.state else { return };
        let retain = retain && self.dialect.retains();
        let publish = Publish { topic, payload: payload.into(), qos: 1, retain, dup: false, pkid, properties: None };
        online.publish(now, publish, cargo, effects);
    }

    /// Asks for our command topics.
    pub fn subscribe(&mut self, now: Mono, filters: Vec<(String, u8)>, effects: &mut Effects) {
        let pkid = self.fresh_pkid();
        let State::Online(online) = &mut self.state else { return };
        online.subscribe(now, pkid, filters, effects);
    }

    /// Takes topics back that an older session was subscribed to.
    pub fn unsubscribe(&mut self, now: Mono, filters: Vec<String>, effects: &mut Effects) {
        let pkid = self.fresh_pkid();
        let State::Online(online) = &mut self.state else { return };
        online.send(now, Packet::Unsubscribe { pkid, filters }, effects);
    }

    /// A command was dealt with so far that it may be acknowledged. PUBACKs go out in order of receipt.
    pub fn acknowledge(&mut self, now: Mono, pkid: u16, effects: &mut Effects) {
        let State::Online(online) = &mut self.state else { return };
        online.acknowledge(now, pkid, effects);
    }

    /// Says goodbye (the broker then discards the will) and closes.
    pub fn disconnect(&mut self, now: Mono, effects: &mut Effects) {
        if let State::Online(online) = &self.state {
            effects.push(goodbye(online.id()));
        }
        self.close(now, LinkFaultKind::Local, "closed by the agent".into(), effects);
    }

    /// Does what is due. True when the connection has just proved stable.
    pub fn poll(&mut self, now: Mono, effects: &mut Effects) -> bool {
        let mut proved_stable = false;
        match &mut self.state {
            State::Waiting { until } if *until <= now => {
                let id = effects.fresh_id();
                effects.push(Effect::Connect { id, version: self.dialect.version() });
                self.state = State::Opening { id };
            }
            State::Greeting { since, .. } if now.since(*since) >= ANSWER_MAX => {
                self.close(now, LinkFaultKind::KeepAlive, overdue("CONNACK", ANSWER_MAX), effects);
            }
            State::Closing { id, since, .. } if now.since(*since) >= CLOSE_MAX => {
                // The runtime completes every connect; this repeats the request should it have been lost in a full
                // queue.
                let id = *id;
                *since = now;
                effects.push(Effect::Close { id });
            }
            State::Online(online) => {
                if online.proves_stable(now, self.settings.stable_after) {
                    proved_stable = true;
                    self.dialect.proved_stable();
                    self.short_lives = 0;
                    effects.push(Effect::BackoffReset);
                }
                match online.dead(now) {
                    Some(what) => self.close(now, LinkFaultKind::KeepAlive, what, effects),
                    None => online.ping_if_due(now, effects),
                }
            }
            State::Held
            | State::Waiting { .. }
            | State::Opening { .. }
            | State::Greeting { .. }
            | State::Closing { .. } => {}
        }
        proved_stable
    }

    /// When [`Link::poll`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        match &self.state {
            State::Held | State::Opening { .. } => None,
            State::Waiting { until } => Some(*until),
            State::Greeting { since, .. } => Some(since.after(ANSWER_MAX)),
            State::Closing { since, .. } => Some(since.after(CLOSE_MAX)),
            State::Online(online) => online.deadline(self.settings.stable_after),
        }
    }

    /// The transport is up: greet.
    pub fn up(&mut self, now: Mono, id: EffectId, connect: Connect, effects: &mut Effects) {
        if !matches!(self.state, State::Opening { id: ours } if ours == id) {
            return;
        }
        self.state = State::Greeting { id, since: now };
        effects.push(Effect::Send { id, packet: Packet::Connect(Box::new(connect)) });
    }

    /// The transport is gone, or never came up.
    pub fn down(&mut self, now: Mono, id: EffectId, fault: LinkFault, retry_in: Duration) -> Option<Signal> {
        let online = match &self.state {
            State::Opening { id: ours } | State::Greeting { id: ours, .. } if *ours == id => None,
            State::Online(online) if online.id() == id => Some(online.stood(now)),
            State::Closing { id: ours, was_online, .. } if *ours == id => was_online.clone(),
            _ => return None,
        };
        let greeting = matches!(self.state, State::Greeting { .. });
        let fault = self.closing.take().unwrap_or(fault);
        if fault.kind == LinkFaultKind::Server {
            self.note_unanswered();
        }
        let unanswered = self.unanswered.take();
        if greeting {
            self.dialect.greeting_failed(fault.kind, self.settings.version);
        } else if online.is_some() {
            self.dialect.was_online();
        }
        let fault = self.explain(fault);
        let wait = if self.dialect.take_retry_at_once() { Duration::ZERO } else { retry_in };
        self.state = if self.wanted { State::Waiting { until: now.after(wait) } } else { State::Held };
        Some(Signal::Down { fault, online, unanswered })
    }

    /// A packet came in.
    pub fn packet(&mut self, now: Mono, id: EffectId, packet: Packet, effects: &mut Effects) -> Option<Signal> {
        match &mut self.state {
            State::Greeting { id: ours, .. } if *ours == id => match packet {
                Packet::ConnAck(ack) => self.greeted(now, id, ack, effects),
                other => {
                    let what = format!("the broker sent {} before CONNACK", other.name());
                    self.close(now, LinkFaultKind::Protocol, what, effects);
                    None
                }
            },
            State::Online(online) if online.id() == id => match online.packet(now, packet) {
                Ok(signal) => signal,
                Err((kind, what)) => {
                    self.close(now, kind, what, effects);
                    None
                }
            },
            _ => None,
        }
    }

    /// Until when the connection stood that is there: `now`, unless it is one that is yet to be found dead.
    #[must_use]
    pub fn stood_until(&self, now: Mono) -> Mono {
        if let State::Online(online) = &self.state { online.stood(now).end } else { now }
    }

    /// For how long a connection was wanted since this was last asked.
    pub fn take_expected(&mut self, now: Mono) -> Duration {
        let expected = if matches!(self.state, State::Held) { Duration::ZERO } else { now.since(self.expected_since) };
        self.expected_since = now;
        expected
    }

    fn greeted(&mut self, now: Mono, id: EffectId, ack: ConnAck, effects: &mut Effects) -> Option<Signal> {
        if ack.code != ConnectCode::Success {
            self.dialect.refused(&ack.code, self.settings.version);
            self.close(now, LinkFaultKind::Refused, refusal(&ack.code, self.settings.named), effects);
            return None;
        }
        if ack.packet_max == Some(0) {
            let what = "the broker takes packets of at most 0 B, which MQTT forbids: nothing could be sent to it";
            self.close(now, LinkFaultKind::Protocol, what.into(), effects);
            return None;
        }
        if ack.qos_max == 0 {
            let what = "the broker takes nothing above QoS 0: it would acknowledge no record";
            self.close(now, LinkFaultKind::Refused, what.into(), effects);
            return None;
        }
        if self.dialect.accepted(ack.retains) == Will::IsToBeRetained {
            let why = "the broker may keep retained messages, so the will is to be one";
            effects.push(goodbye(id));
            self.close(now, LinkFaultKind::Local, why.into(), effects);
            return None;
        }
        self.state = State::Online(Box::new(Online::new(id, now, &ack, &self.settings)));
        Some(Signal::Online { session_present: ack.session_present })
    }

    /// One that refuses a publish and then hangs up has said why. A broker that closes young connections without a word
    /// has, more often than not, another client of that name.
    fn explain(&mut self, fault: LinkFault) -> LinkFault {
        if matches!(self.state, State::Opening { .. }) {
            // Not even a transport: the broker itself was away, and that is why it closed.
            self.short_lives = 0;
        }
        let State::Online(online) = &self.state else { return fault };
        if fault.kind != LinkFaultKind::Server {
            return fault;
        }
        if let Some(reason) = online.refusal() {
            let detail =
                format!("the broker refused a publish ({reason}) and closed the connection: {}", advice(reason));
            return LinkFault { detail, ..fault };
        }
        if online.is_stable() {
            return fault;
        }
        self.short_lives = self.short_lives.saturating_add(1);
        if self.short_lives < SHORT_LIVES_MAX {
            return fault;
        }
        let detail =
            "the broker closes each connection soon after accepting it: does another client use this device.id?";
        LinkFault { detail: detail.into(), ..fault }
    }

    fn close(&mut self, now: Mono, kind: LinkFaultKind, detail: String, effects: &mut Effects) {
        let (id, was_online) = match &self.state {
            State::Opening { id } | State::Greeting { id, .. } => (*id, None),
            State::Online(online) => (online.id(), Some(online.stood(now))),
            State::Held | State::Waiting { .. } | State::Closing { .. } => return,
        };
        if kind == LinkFaultKind::Server {
            self.note_unanswered();
        }
        self.closing = Some(LinkFault::new(kind, detail));
        self.state = State::Closing { id, since: now, was_online };
        effects.push(Effect::Close { id });
    }

    fn note_unanswered(&mut self) {
        let State::Online(online) = &self.state else { return };
        self.unanswered = online.unanswered();
    }

    fn fresh_pkid(&mut self) -> u16 {
        let taken = |pkid: u16| matches!(&self.state, State::Online(online) if online.awaits(pkid));
        let mut pkid = self.next_pkid;
        loop {
            // At most `WINDOW_MAX` ids and a few are taken, so this ends.
            pkid = pkid.checked_add(1).unwrap_or(1);
            if !taken(pkid) {
                break;
            }
        }
        self.next_pkid = pkid;
        pkid
    }
}

/// After it the broker discards the will.
fn goodbye(id: EffectId) -> Effect {
    Effect::Send { id, packet: Packet::Disconnect { reason: "normal".into(), session_expiry_s: None } }
}
