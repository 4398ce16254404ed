//! A connection that stands: what is under way in it and how much more may be, the broker's packets, acknowledgements
//! of commands in order, keep-alive, and when an answer is overdue. Opens and closes nothing: it says that it is dead.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use super::faults::{overdue, server_disconnect};
use super::{ANSWER_MAX, Cargo, Settings, Signal, Unanswered, Withheld};
use crate::engine::effects::Effects;
use crate::engine::io::{Effect, EffectId, LinkFaultKind};
use crate::engine::packet::{AckReason, ConnAck, Packet, Publish};
use crate::engine::time::Mono;

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
/// An answer within that time is a quick one, if half of the lower bound was under way before it: all that is then
/// under way is so for less than a second.
const QUICK: Duration = Duration::from_millis(100);

/// A connection that the broker accepted.
#[derive(Debug)]
pub(super) struct Online {
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
    /// How it answered the last publish.
    answer: Option<AckReason>,
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

impl Online {
    /// One that begins with the broker's answer to our greeting.
    pub(super) fn new(id: EffectId, now: Mono, ack: &ConnAck, settings: &Settings) -> Self {
        Self {
            id,
            since: now,
            stable: false,
            last_in: now,
            last_out: now,
            commanded: None,
            ping: None,
            keep_alive: ack.keep_alive_s.map_or(settings.keep_alive, |s| Duration::from_secs(s.into())),
            receive_max: usize::from(ack.receive_max).max(1),
            packet_max: ack
                .packet_max
                .and_then(|max| usize::try_from(max).ok())
                .map_or(settings.packet_max, |max| max.min(settings.packet_max)),
            inflight: BTreeMap::new(),
            inflight_bytes: 0,
            answer: None,
            quick: false,
            subscribing: None,
            commands: VecDeque::new(),
            rtt: None,
        }
    }

    pub(super) const fn id(&self) -> EffectId {
        self.id
    }

    pub(super) const fn since(&self) -> Mono {
        self.since
    }

    /// From when until when it stood. What is silent for too long was no connection any more: where the gateway was
    /// suspended meanwhile, that is found long after.
    pub(super) fn stood(&self, now: Mono) -> Range<Mono> {
        let until = self.silence_max().map_or(now, |max| self.last_in.after(max).min(now));
        self.since..until
    }

    /// The largest packet that the broker takes.
    pub(super) const fn packet_max(&self) -> usize {
        self.packet_max
    }

    /// Whether it has proved stable.
    pub(super) const fn is_stable(&self) -> bool {
        self.stable
    }

    /// Why it refused the last publish that it answered, if it did.
    pub(super) fn refusal(&self) -> Option<AckReason> {
        self.answer.filter(|reason| !reason.is_taken())
    }

    /// Publishes that are under way.
    pub(super) fn inflight(&self) -> usize {
        self.inflight.len()
    }

    /// The last round trip, once.
    pub(super) const fn take_rtt(&mut self) -> Option<Duration> {
        self.rtt.take()
    }

    /// Whether another publish may go out, where so many may be under way as far as we are concerned.
    pub(super) fn has_room(&self, window_max: usize) -> bool {
        let window = window_max.min(self.receive_max);
        let bytes_max = if self.quick { INFLIGHT_BYTES_MAX_QUICK } else { INFLIGHT_BYTES_MAX };
        self.inflight.len() < window && self.inflight_bytes < bytes_max
    }

    /// Whether an answer to this packet id is still to come.
    pub(super) fn awaits(&self, pkid: u16) -> bool {
        self.inflight.contains_key(&pkid) || self.subscribing.is_some_and(|(id, _)| id == pkid)
    }

    /// What was sent first of what is under way, if anything is.
    pub(super) fn unanswered(&self) -> Option<Unanswered> {
        let first = self.inflight.values().min_by_key(|inflight| inflight.since)?;
        Some(Unanswered {
            cargo: first.cargo.clone(),
            alone: self.inflight.len() == 1,
            others_answered: self.answer.is_some(),
        })
    }

    /// Sends a QoS 1 publish under a packet id that is free.
    pub(super) fn publish(&mut self, now: Mono, publish: Publish, cargo: Cargo, effects: &mut Effects) {
        let bytes = publish.payload.len() + publish.topic.len();
        self.inflight_bytes += bytes;
        let writing = Duration::from_secs((self.inflight_bytes / SLOWEST_BYTES_PER_S) as u64);
        let due = now.after(writing + UNACKED_MAX);
        let bytes_then = self.inflight_bytes;
        self.inflight.insert(publish.pkid, Inflight { cargo, since: now, due, bytes, bytes_then });
        self.send(now, Packet::Publish(publish), effects);
    }

    /// Asks for topics, under a packet id that is free.
    pub(super) fn subscribe(&mut self, now: Mono, pkid: u16, filters: Vec<(String, u8)>, effects: &mut Effects) {
        self.subscribing = Some((pkid, now));
        self.send(now, Packet::Subscribe { pkid, filters, identifier: None }, effects);
    }

    /// A command may be acknowledged: it is as soon as those before it are.
    pub(super) fn acknowledge(&mut self, now: Mono, pkid: u16, effects: &mut Effects) {
        if let Some(entry) = self.commands.iter_mut().find(|(id, done)| *id == pkid && !done) {
            entry.1 = true;
        }
        while let Some((pkid, true)) = self.commands.front().copied() {
            self.commands.pop_front();
            self.send(now, Packet::PubAck { pkid, reason: AckReason::Success }, effects);
        }
    }

    /// Sends what nothing is remembered of.
    pub(super) fn send(&mut self, now: Mono, packet: Packet, effects: &mut Effects) {
        self.last_out = now;
        effects.push(Effect::Send { id: self.id, packet });
    }

    /// True when it has just proved stable.
    pub(super) fn proves_stable(&mut self, now: Mono, after: Duration) -> bool {
        let proves = !self.stable && now.since(self.since) >= after;
        self.stable |= proves;
        proves
    }

    /// Takes a packet; an error says why the connection is to be closed.
    pub(super) fn packet(&mut self, now: Mono, packet: Packet) -> Result<Option<Signal>, (LinkFaultKind, String)> {
        self.last_in = now;
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
                let mut withheld = Withheld::default();
                for qos in granted {
                    match qos {
                        Err(_) => withheld.refused += 1,
                        Ok(0) => withheld.qos_0 += 1,
                        Ok(_) => {}
                    }
                }
                Some(Signal::Subscribed(withheld))
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
                    format!("the broker sent {}, which nothing here asked for", other.name()),
                ));
            }
        })
    }

    /// Since when something has been overdue, in words.
    pub(super) fn dead(&self, now: Mono) -> Option<String> {
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

    pub(super) fn ping_if_due(&mut self, now: Mono, effects: &mut Effects) {
        if self.ping.is_none() && self.ping_at().is_some_and(|at| at <= now) {
            self.ping = Some(now);
            self.send(now, Packet::PingReq, effects);
        }
    }

    /// When something is due; `stable_after` as for [`Online::proves_stable`].
    pub(super) fn deadline(&self, stable_after: Duration) -> Option<Mono> {
        let stable = (!self.stable).then(|| self.since.after(stable_after));
        let ping = if self.ping.is_none() { self.ping_at() } else { None };
        let silence = self.silence_max().map(|max| self.last_in.after(max));
        let unacked = self.first_due().map(|(_, due)| due);
        let subscribing = self.subscribing_due().map(|(_, due)| due);
        [stable, ping, silence, unacked, subscribing].into_iter().flatten().min()
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
        self.answer = Some(reason);
        // That little is answered quickly says nothing of much.
        self.quick = rtt <= QUICK && (self.quick || bytes_then >= INFLIGHT_BYTES_MAX / 2);
        Some(Signal::Answered { cargo, reason, bytes })
    }

    /// A ping is due when either side has been silent for a keep-alive: the broker wants to hear us, and we it.
    fn ping_at(&self) -> Option<Mono> {
        (!self.keep_alive.is_zero()).then(|| self.last_out.min(self.last_in).after(self.keep_alive))
    }

    fn silence_max(&self) -> Option<Duration> {
        (!self.keep_alive.is_zero()).then(|| self.keep_alive.mul_f32(1.5))
    }

    /// When the oldest publish was sent, and when its answer is overdue. Ids wrap, so it is found by time. The window
    /// keeps this short.
    fn first_due(&self) -> Option<(Mono, Mono)> {
        let first = self.inflight.values().min_by_key(|inflight| inflight.due)?;
        Some((first.since, self.due(first.since, first.due, UNACKED_MAX)))
    }

    /// The same for a subscription.
    fn subscribing_due(&self) -> Option<(Mono, Mono)> {
        let (_, since) = self.subscribing?;
        Some((since, self.due(since, since.after(ANSWER_MAX), ANSWER_MAX)))
    }

    /// An answer waits behind the commands that the broker sent before it, and those are taken from the connection only
    /// as fast as the disk is. A broker need not keep to [`RECEIVE_MAX`](crate::engine::packet::RECEIVE_MAX): mosquitto
    /// 2.0.11 doesn't.
    fn due(&self, since: Mono, due: Mono, wait: Duration) -> Mono {
        let behind = self.commanded.map(|at| at.after(wait).min(since.after(BEHIND_COMMANDS_MAX)));
        behind.map_or(due, |behind| due.max(behind))
    }
}
