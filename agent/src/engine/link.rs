//! The MQTT session as pure state: opening, greeting, packet ids, the window, acknowledgements in order, keep-alive and
//! the wait before the next try. Works for 3.1.1 and 5 alike. It doesn't know what is sent, only how much of it is under
//! way, and it never opens a socket.
//!
//! States: `Waiting` → `Opening` (transport) → `Greeting` (CONNECT sent) → `Online` → `Closing` → `Waiting`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::effects::Effects;
use super::io::{Effect, EffectId, LinkFault, LinkFaultKind, LogLevel};
use super::packet::{AckReason, ConnAck, Connect, ConnectCode, Packet, Publish, Version};
use super::record::Class;
use super::time::Mono;
use crate::config::MqttVersion;

/// How long the broker may take to answer CONNECT and SUBSCRIBE.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A publish that is unacknowledged for longer, once it can have been written, means that the connection is dead.
const UNACKED_MAX: Duration = Duration::from_secs(30);
/// How long it may be late because of the commands that are before it in the connection: each is a write to the disk.
const BEHIND_COMMANDS_MAX: Duration = Duration::from_secs(300);
/// The slowest link that is worth waiting for, 10 kbit/s with its overhead: what is queued before a publish may take so
/// long to be written. Without it such a link would be closed for ever over the same full window.
const SLOWEST_BYTES_PER_S: usize = 1_024;
/// Bytes of publishes under way: on a slow link, what is queued behind them waits for all of them.
const INFLIGHT_BYTES_MAX: usize = 64 * 1024;
/// The same while the broker answers quickly: it is kept busy while answers are on their way.
const INFLIGHT_BYTES_MAX_QUICK: usize = 256 * 1024;
/// An answer within that time is a quick one, if half of the lower bound was under way before it: all that is then under way
/// is so for less than a second.
const QUICK: Duration = Duration::from_millis(100);
/// Publishes under way, whatever config and broker allow: half of what the runtime queues for a connection, so that a
/// window sent at once is never taken for a stalled link.
pub const WINDOW_MAX: usize = 128;
/// How long to wait for the transport to close before asking for it again.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// A broker that closes without a word at the greeting twice running may not speak our version of MQTT.
const MUTE_CLOSES_MAX: u8 = 2;
/// One that spoke our version before may have been replaced by another: after so many closes the other version is tried.
const MUTE_ROW_MAX: u8 = 6;

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
        /// The lane.
        class: Class,
        /// Their numbers, in order.
        seqs: Vec<u64>,
    },
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

/// What the session tells the engine.
#[derive(Debug, PartialEq)]
pub enum Signal {
    /// The broker accepted us.
    Online {
        /// It still had our session: subscriptions and queued commands.
        session_present: bool,
    },
    /// Our filters are in force.
    Subscribed {
        /// Filters that the broker refused.
        refused: usize,
    },
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
    },
    /// The connection is gone.
    Down {
        /// Why.
        fault: LinkFault,
        /// How long it was online; `None`: it never was.
        online_for: Option<Duration>,
        /// What the broker had not answered when it closed the connection; `None` where another than the broker did.
        unanswered: Option<Unanswered>,
    },
}

/// What the config says about the connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Which versions may be spoken.
    pub version: MqttVersion,
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
    version: Version,
    mute_closes: u8,
    /// Closes without a word at the greeting since the version last worked.
    mute_row: u8,
    /// The older version is spoken because of such closes, and not because the broker said so.
    guessed: bool,
    /// Connections in a row that the broker accepted, and closed before they were stable.
    short_lives: u8,
    /// A broker has accepted us with this version in this run: a greeting that fails now has another cause.
    version_works: bool,
    /// The other version is to be tried, without waiting.
    retry_at_once: bool,
    /// The broker keeps retained messages, as far as is known.
    retains: bool,
    /// It refused a connection over a retained will.
    retain_refused: bool,
    /// Why we are closing: said instead of the transport's own words.
    closing: Option<LinkFault>,
    /// What was unanswered then, if the broker asked for it.
    unanswered: Option<Unanswered>,
    /// Only one publish at a time.
    careful: bool,
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
    Closing { id: EffectId, since: Mono, was_online_since: Option<Mono> },
}

#[derive(Debug)]
struct Online {
    id: EffectId,
    since: Mono,
    stable: bool,
    last_in: Mono,
    last_out: Mono,
    /// When a command came last.
    commanded: Option<Mono>,
    ping: Option<Mono>,
    keep_alive: Duration,
    receive_max: usize,
    packet_max: usize,
    inflight: BTreeMap<u16, Inflight>,
    inflight_bytes: usize,
    /// It has answered a publish.
    answered: bool,
    /// Answers come quickly also where much is under way.
    quick: bool,
    subscribing: Option<(u16, Mono)>,
    /// Commands in order of receipt; true once durable. MQTT wants their PUBACKs in this order.
    commands: VecDeque<(u16, bool)>,
    rtt: Option<Duration>,
}

#[derive(Debug)]
struct Inflight {
    cargo: Cargo,
    since: Mono,
    /// When its answer is overdue.
    due: Mono,
    bytes: usize,
    /// Bytes under way when it was sent, with its own.
    bytes_then: usize,
}

impl Link {
    /// A link that does nothing until [`Link::release`].
    #[must_use]
    pub fn new(settings: Settings, now: Mono) -> Self {
        let version = if settings.version == MqttVersion::V311 { Version::V311 } else { Version::V5 };
        Self {
            settings,
            state: State::Held,
            version,
            mute_closes: 0,
            mute_row: 0,
            guessed: false,
            short_lives: 0,
            version_works: false,
            retry_at_once: false,
            retains: true,
            retain_refused: false,
            closing: None,
            unanswered: None,
            careful: false,
            wanted: false,
            next_pkid: 0,
            expected_since: now,
        }
    }

    /// Takes over new settings; keep-alive holds from the next connection on.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Whether only one publish at a time may be under way.
    pub fn set_careful(&mut self, careful: bool) {
        self.careful = careful;
    }

    /// From now on a connection is wanted.
    pub fn release(&mut self, now: Mono) {
        self.wanted = true;
        if matches!(self.state, State::Held) {
            self.state = State::Waiting { until: now };
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
        self.version
    }

    /// When the next try is due, while waiting for it.
    #[must_use]
    pub const fn retry_at(&self) -> Option<Mono> {
        if let State::Waiting { until } = self.state { Some(until) } else { None }
    }

    /// Since when the broker has accepted us.
    #[must_use]
    pub fn online_since(&self) -> Option<Mono> {
        if let State::Online(online) = &self.state { Some(online.since) } else { None }
    }

    /// The last round trip to the broker, once.
    pub fn take_rtt(&mut self) -> Option<Duration> {
        if let State::Online(online) = &mut self.state { online.rtt.take() } else { None }
    }

    /// The largest packet that the broker takes.
    #[must_use]
    pub fn packet_max(&self) -> usize {
        if let State::Online(online) = &self.state { online.packet_max } else { usize::MAX }
    }

    /// Whether the broker keeps retained messages: true until it says otherwise.
    #[must_use]
    pub const fn retains(&self) -> bool {
        self.retains
    }

    /// Publishes that are under way.
    #[must_use]
    pub fn inflight(&self) -> usize {
        if let State::Online(online) = &self.state { online.inflight.len() } else { 0 }
    }

    /// Whether another publish may go out now. The bytes under way may go over their bound by one message.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let State::Online(online) = &self.state else { return false };
        let most = if self.careful { 1 } else { WINDOW_MAX };
        let window = usize::from(self.settings.inflight_max).min(online.receive_max).min(most);
        let bytes_max = if online.quick { INFLIGHT_BYTES_MAX_QUICK } else { INFLIGHT_BYTES_MAX };
        online.inflight.len() < window && online.inflight_bytes < bytes_max
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
        let bytes = payload.len() + topic.len();
        online.inflight_bytes += bytes;
        let writing = Duration::from_secs((online.inflight_bytes / SLOWEST_BYTES_PER_S) as u64);
        let due = now.after(writing + UNACKED_MAX);
        let bytes_then = online.inflight_bytes;
        online.inflight.insert(pkid, Inflight { cargo, since: now, due, bytes, bytes_then });
        online.last_out = now;
        let retain = retain && self.retains;
        let publish = Publish { topic, payload: payload.into(), qos: 1, retain, dup: false, pkid, properties: None };
        effects.push(Effect::Send { id: online.id, packet: Packet::Publish(publish) });
    }

    /// Asks for our command topics.
    pub fn subscribe(&mut self, now: Mono, filters: Vec<(String, u8)>, effects: &mut Effects) {
        let pkid = self.fresh_pkid();
        let State::Online(online) = &mut self.state else { return };
        online.subscribing = Some((pkid, now));
        online.last_out = now;
        effects.push(Effect::Send { id: online.id, packet: Packet::Subscribe { pkid, filters, identifier: None } });
    }

    /// Takes topics back that an older session was subscribed to.
    pub fn unsubscribe(&mut self, now: Mono, filters: Vec<String>, effects: &mut Effects) {
        let pkid = self.fresh_pkid();
        let State::Online(online) = &mut self.state else { return };
        online.last_out = now;
        effects.push(Effect::Send { id: online.id, packet: Packet::Unsubscribe { pkid, filters } });
    }

    /// A command was dealt with so far that it may be acknowledged. PUBACKs go out in order of receipt.
    pub fn acknowledge(&mut self, now: Mono, pkid: u16, effects: &mut Effects) {
        let State::Online(online) = &mut self.state else { return };
        if let Some(entry) = online.commands.iter_mut().find(|(id, done)| *id == pkid && !done) {
            entry.1 = true;
        }
        while let Some((pkid, true)) = online.commands.front().copied() {
            online.commands.pop_front();
            online.last_out = now;
            let packet = Packet::PubAck { pkid, reason: AckReason::Success };
            effects.push(Effect::Send { id: online.id, packet });
        }
    }

    /// Says goodbye (the broker then discards the will) and closes.
    pub fn disconnect(&mut self, now: Mono, effects: &mut Effects) {
        if let State::Online(online) = &self.state {
            let packet = Packet::Disconnect { reason: "normal".into(), session_expiry_s: None };
            effects.push(Effect::Send { id: online.id, packet });
        }
        self.close(now, LinkFaultKind::Local, "closed by the agent".into(), effects);
    }

    /// Does what is due. True when the connection has just proved stable.
    pub fn poll(&mut self, now: Mono, effects: &mut Effects) -> bool {
        let mut proved_stable = false;
        match &mut self.state {
            State::Waiting { until } if *until <= now => {
                let id = effects.fresh_id();
                effects.push(Effect::Connect { id, version: self.version });
                self.state = State::Opening { id };
            }
            State::Greeting { since, .. } if now.since(*since) >= ANSWER_MAX => {
                self.close(now, LinkFaultKind::KeepAlive, overdue("CONNACK", ANSWER_MAX), effects);
            }
            State::Closing { id, since, .. } if now.since(*since) >= CLOSE_MAX => {
                // The runtime completes every connect; this repeats the request should it have been lost in a full queue.
                let id = *id;
                *since = now;
                effects.push(Effect::Close { id });
            }
            State::Online(online) => {
                if !online.stable && now.since(online.since) >= self.settings.stable_after {
                    online.stable = true;
                    proved_stable = true;
                    // It may have been another broker that refused.
                    self.retain_refused = false;
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
            State::Online(online) => {
                let stable = (!online.stable).then(|| online.since.after(self.settings.stable_after));
                stable.into_iter().chain(online.deadline()).min()
            }
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
        let online_since = match &self.state {
            State::Opening { id: ours } | State::Greeting { id: ours, .. } if *ours == id => None,
            State::Online(online) if online.id == id => Some(online.since),
            State::Closing { id: ours, was_online_since, .. } if *ours == id => *was_online_since,
            _ => return None,
        };
        let greeting = matches!(self.state, State::Greeting { .. });
        let fault = self.closing.take().unwrap_or(fault);
        if fault.kind == LinkFaultKind::Server {
            self.note_unanswered();
        }
        let unanswered = self.unanswered.take();
        if greeting {
            self.doubt_version(fault.kind);
        } else if online_since.is_some() && std::mem::take(&mut self.guessed) {
            // Whoever hung up on 5 may have been a balancer whose broker was away: it is asked again.
            self.version = Version::V5;
            self.version_works = false;
        }
        let fault = self.explain(fault);
        let wait = if std::mem::take(&mut self.retry_at_once) { Duration::ZERO } else { retry_in };
        self.state = if self.wanted { State::Waiting { until: now.after(wait) } } else { State::Held };
        Some(Signal::Down { fault, online_for: online_since.map(|since| now.since(since)), unanswered })
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
            State::Online(online) if online.id == id => {
                online.last_in = now;
                match online.packet(now, packet) {
                    Ok(signal) => signal,
                    Err((kind, what)) => {
                        self.close(now, kind, what, effects);
                        None
                    }
                }
            }
            _ => None,
        }
    }

    /// Seconds since this was last asked in which a connection was wanted.
    pub fn take_expected(&mut self, now: Mono) -> Duration {
        let expected = if matches!(self.state, State::Held) { Duration::ZERO } else { now.since(self.expected_since) };
        self.expected_since = now;
        expected
    }

    fn greeted(&mut self, now: Mono, id: EffectId, ack: ConnAck, effects: &mut Effects) -> Option<Signal> {
        if ack.code != ConnectCode::Success {
            match ack.code {
                ConnectCode::UnsupportedVersion => self.speak_other_version(),
                // At once, but not in a circle, with a will that it may take.
                ConnectCode::RetainNotSupported => {
                    self.retry_at_once = std::mem::take(&mut self.retains);
                    self.retain_refused = true;
                }
                _ => {}
            }
            self.close(now, LinkFaultKind::Refused, refusal(&ack.code), effects);
            return None;
        }
        if ack.qos_max == 0 {
            let what = "the broker takes nothing above QoS 0: it would acknowledge no record";
            self.close(now, LinkFaultKind::Refused, what.into(), effects);
            return None;
        }
        self.mute_closes = 0;
        self.mute_row = 0;
        self.version_works = true;
        let retained_before = std::mem::replace(&mut self.retains, ack.retains && !self.retain_refused);
        if self.retains && !retained_before {
            self.retry_at_once = true;
            let why = "the broker keeps retained messages now, so the will has to be one";
            self.close(now, LinkFaultKind::Local, why.into(), effects);
            return None;
        }
        let keep_alive = ack.keep_alive_s.map_or(self.settings.keep_alive, |s| Duration::from_secs(s.into()));
        self.state = State::Online(Box::new(Online {
            id,
            since: now,
            stable: false,
            last_in: now,
            last_out: now,
            commanded: None,
            ping: None,
            keep_alive,
            receive_max: usize::from(ack.receive_max).max(1),
            packet_max: ack
                .packet_max
                .and_then(|max| usize::try_from(max).ok())
                .map_or(self.settings.packet_max, |max| max.min(self.settings.packet_max)),
            inflight: BTreeMap::new(),
            inflight_bytes: 0,
            answered: false,
            quick: false,
            subscribing: None,
            commands: VecDeque::new(),
            rtt: None,
        }));
        Some(Signal::Online { session_present: ack.session_present })
    }

    /// A broker that closes young connections without a word has, more often than not, another client of that name.
    fn explain(&mut self, fault: LinkFault) -> LinkFault {
        if matches!(self.state, State::Opening { .. }) {
            // Not even a transport: the broker itself was away, and that is why it closed.
            self.short_lives = 0;
        }
        let young = matches!(&self.state, State::Online(online) if !online.stable);
        if fault.kind != LinkFaultKind::Server || !young {
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

    /// A broker that was replaced by one of the other version hangs up as a broken one does, only each time.
    fn doubt_version(&mut self, fault: LinkFaultKind) {
        if self.version_works && fault == LinkFaultKind::Server {
            self.mute_row = self.mute_row.saturating_add(1);
            self.version_works = self.mute_row < MUTE_ROW_MAX;
        }
        if !self.version_works {
            self.consider_other_version(fault);
        }
    }

    /// A broker that speaks only the other version may answer our greeting with a packet that isn't of ours, or hang up.
    fn consider_other_version(&mut self, fault: LinkFaultKind) {
        match fault {
            LinkFaultKind::Protocol => self.mute_closes = MUTE_CLOSES_MAX,
            LinkFaultKind::Server => self.mute_closes = self.mute_closes.saturating_add(1),
            _ => {}
        }
        if self.mute_closes >= MUTE_CLOSES_MAX {
            self.speak_other_version();
            self.guessed = fault == LinkFaultKind::Server && self.version == Version::V311;
        }
    }

    /// The way back counts too: a balancer whose broker is down hangs up on both, and then 5 may be the one that works.
    fn speak_other_version(&mut self) {
        if self.settings.version == MqttVersion::Auto {
            // At once only for the older: a broker that takes neither must not be asked in a circle without a pause.
            self.retry_at_once = self.version == Version::V5;
            self.version = if self.version == Version::V5 { Version::V311 } else { Version::V5 };
            self.version_works = false;
        }
        self.mute_closes = 0;
    }

    fn close(&mut self, now: Mono, kind: LinkFaultKind, detail: String, effects: &mut Effects) {
        let (id, was_online_since) = match &self.state {
            State::Opening { id } | State::Greeting { id, .. } => (*id, None),
            State::Online(online) => (online.id, Some(online.since)),
            State::Held | State::Waiting { .. } | State::Closing { .. } => return,
        };
        if kind == LinkFaultKind::Server {
            self.note_unanswered();
        }
        self.closing = Some(LinkFault::new(kind, detail));
        self.state = State::Closing { id, since: now, was_online_since };
        effects.push(Effect::Close { id });
    }

    fn note_unanswered(&mut self) {
        let State::Online(online) = &self.state else { return };
        let first = online.inflight.values().min_by_key(|inflight| inflight.since);
        self.unanswered = first.map(|first| Unanswered {
            cargo: first.cargo.clone(),
            alone: online.inflight.len() == 1,
            others_answered: online.answered,
        });
    }

    fn fresh_pkid(&mut self) -> u16 {
        let taken = |pkid: u16| match &self.state {
            State::Online(online) => {
                online.inflight.contains_key(&pkid) || online.subscribing.is_some_and(|(id, _)| id == pkid)
            }
            _ => false,
        };
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

impl Online {
    fn packet(&mut self, now: Mono, packet: Packet) -> Result<Option<Signal>, (LinkFaultKind, String)> {
        Ok(match packet {
            Packet::PubAck { pkid, reason } => self.answered(now, pkid, reason),
            Packet::Publish(publish) => {
                self.commanded = Some(now);
                if publish.qos > 0 {
                    self.take_command(publish.pkid);
                }
                Some(Signal::Message(publish))
            }
            Packet::Oversize { pkid, topic, len } => {
                self.commanded = Some(now);
                if pkid != 0 {
                    self.take_command(pkid);
                }
                Some(Signal::Oversize { pkid, topic, len })
            }
            Packet::SubAck { pkid, granted } => {
                if self.subscribing.is_none_or(|(ours, _)| ours != pkid) {
                    return Ok(None);
                }
                self.subscribing = None;
                Some(Signal::Subscribed { refused: granted.iter().filter(|qos| qos.is_err()).count() })
            }
            Packet::PingResp => {
                self.rtt = self.ping.take().map(|sent| now.since(sent));
                None
            }
            Packet::Disconnect { reason, .. } => return Err((LinkFaultKind::Server, server_disconnect(&reason))),
            Packet::UnsubAck { .. } => None,
            other => {
                return Err((
                    LinkFaultKind::Protocol,
                    format!("the broker sent {}, which a client never gets", other.name()),
                ));
            }
        })
    }

    /// A publish that is to be acknowledged later, in order. Bounded by the protocol: 65,535 ids of three bytes.
    fn take_command(&mut self, pkid: u16) {
        if self.commands.iter().all(|(id, _)| *id != pkid) {
            self.commands.push_back((pkid, false));
        }
    }

    fn answered(&mut self, now: Mono, pkid: u16, reason: AckReason) -> Option<Signal> {
        let Inflight { cargo, since, bytes, bytes_then, .. } = self.inflight.remove(&pkid)?;
        self.inflight_bytes = self.inflight_bytes.saturating_sub(bytes);
        let rtt = now.since(since);
        self.rtt = Some(rtt);
        self.answered = true;
        // That little is answered quickly says nothing of much.
        self.quick = rtt <= QUICK && (self.quick || bytes_then >= INFLIGHT_BYTES_MAX / 2);
        Some(Signal::Answered { cargo, reason })
    }

    /// Since when something has been overdue, in words.
    fn dead(&self, now: Mono) -> Option<String> {
        let silence_max = self.silence_max();
        if silence_max.is_some_and(|max| now.since(self.last_in) >= max) {
            return Some(format!("nothing came in for {} s (1.5 x keep-alive)", now.since(self.last_in).as_secs()));
        }
        if let Some((since, _)) = self.first_due().filter(|(_, due)| *due <= now) {
            return Some(overdue("PUBACK", now.since(since)));
        }
        if let Some((since, _)) = self.subscribing_due().filter(|(_, due)| *due <= now) {
            return Some(overdue("SUBACK", now.since(since)));
        }
        None
    }

    fn ping_if_due(&mut self, now: Mono, effects: &mut Effects) {
        if self.ping.is_none() && self.ping_at().is_some_and(|at| at <= now) {
            self.ping = Some(now);
            self.last_out = now;
            effects.push(Effect::Send { id: self.id, packet: Packet::PingReq });
        }
    }

    fn deadline(&self) -> Option<Mono> {
        let ping = if self.ping.is_none() { self.ping_at() } else { None };
        let silence = self.silence_max().map(|max| self.last_in.after(max));
        let unacked = self.first_due().map(|(_, due)| due);
        let subscribing = self.subscribing_due().map(|(_, due)| due);
        [ping, silence, unacked, subscribing].into_iter().flatten().min()
    }

    /// A ping is due when either side has been silent for a keep-alive: the broker wants to hear us, and we it.
    fn ping_at(&self) -> Option<Mono> {
        (!self.keep_alive.is_zero()).then(|| self.last_out.min(self.last_in).after(self.keep_alive))
    }

    fn silence_max(&self) -> Option<Duration> {
        (!self.keep_alive.is_zero()).then(|| self.keep_alive.mul_f32(1.5))
    }

    /// When the oldest publish was sent, and when its answer is overdue. Ids wrap, so it is found by time. The window keeps
    /// this short.
    fn first_due(&self) -> Option<(Mono, Mono)> {
        let first = self.inflight.values().min_by_key(|inflight| inflight.due)?;
        Some((first.since, self.due(first.since, first.due, UNACKED_MAX)))
    }

    /// The same for a subscription.
    fn subscribing_due(&self) -> Option<(Mono, Mono)> {
        let (_, since) = self.subscribing?;
        Some((since, self.due(since, since.after(ANSWER_MAX), ANSWER_MAX)))
    }

    /// An answer waits behind the commands that the broker sent before it, and those are taken from the connection only as
    /// fast as the disk is. A broker need not keep to [`RECEIVE_MAX`](super::packet::RECEIVE_MAX): mosquitto 2.0.11 doesn't.
    fn due(&self, since: Mono, due: Mono, wait: Duration) -> Mono {
        let behind = self.commanded.map(|at| at.after(wait).min(since.after(BEHIND_COMMANDS_MAX)));
        behind.map_or(due, |behind| due.max(behind))
    }
}

/// Says once what goes wrong with the connection, and again only when something else does: an outage of a month is one
/// line, not a million.
#[derive(Debug, Default)]
pub struct FaultLog {
    last: Option<LinkFault>,
}

impl FaultLog {
    /// A connection failed or ended.
    pub fn down(&mut self, fault: &LinkFault, retry_in: Duration, effects: &mut Effects) {
        if self.last.as_ref() == Some(fault) {
            effects.log(LogLevel::Debug, format!("broker: {} again; next try in {retry_in:.1?}", fault.kind.word()));
            return;
        }
        if fault.kind == LinkFaultKind::Local {
            effects.log(LogLevel::Info, format!("broker: {}", fault.detail));
            return;
        }
        effects
            .log(LogLevel::Warn, format!("broker: {} (retrying with backoff; repeats are not logged)", fault.detail));
        self.last = Some(fault.clone());
    }

    /// A connection proved stable: the next failure is news again.
    pub fn stable(&mut self) {
        self.last = None;
    }
}

fn overdue(what: &str, after: Duration) -> String {
    format!("no {what} within {} s", after.as_secs())
}

/// Why the broker said no, and what of the configuration to look at.
fn refusal(code: &ConnectCode) -> String {
    let advice = match code {
        ConnectCode::UnsupportedVersion => "set mqtt.version",
        ConnectCode::BadClientId => "check device.id",
        ConnectCode::BadCredentials => "check mqtt.username and mqtt.password_file",
        ConnectCode::NotAuthorized => "check its ACL, mqtt.username, mqtt.password_file or the client certificate",
        ConnectCode::RetainNotSupported => "trying without",
        ConnectCode::WillTopicInvalid => "check mqtt.topic_prefix",
        ConnectCode::Success | ConnectCode::ServerUnavailable | ConnectCode::Other(_) => return code.to_string(),
    };
    format!("{code}: {advice}")
}

fn server_disconnect(reason: &str) -> String {
    if reason.to_ascii_lowercase().contains("taken over") || reason.to_ascii_lowercase().contains("takenover") {
        return "another client connected with this device.id: ids must be unique in the fleet".into();
    }
    format!("the broker closed the connection: {reason}")
}
