//! The conversation with the broker: what is said over the link, and what comes of it. Joins the outbox to the link: a
//! record is taken from the one when the other has room, and deleted when the broker has acknowledged it. Here it
//! begins and ends, and here is what a connection says of itself; bytes and packets are the link's business.

mod answers;
mod denied;
mod flow;
mod sending;
mod subscriptions;
mod topics;

use std::ops::Range;
use std::time::Duration;

use super::Engine;
use super::attributes::Attributes;
use super::io::{EffectId, LinkFault, LinkFaultKind, LogLevel};
use super::link::{Cargo, Link, Signal};
use super::metric::{Metric, Point};
use super::observation::Severity;
use super::outbox::Outbox;
use super::packet::{Connect, PACKET_MAX_ANNOUNCED, Publish, RECEIVE_MAX};
use super::record::{Class, Event, EventKind, Stamp};
use super::suspect::Suspects;
use super::time::{Mono, Now};
use crate::text::head;
use crate::wire::payload::{Presence, Speaker};
use crate::wire::{Reason, Refusal, token};
use answers::{LengthMax, Refused};
use denied::Denied;
pub(super) use flow::Drain;
use flow::Flow;
pub(crate) use subscriptions::GRANTED_LESS;
use subscriptions::{Subscribed, Subscriptions};

/// How long the broker keeps our session, and with it the commands that wait for us, while we are away.
const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;
/// As much of a topic as is told where the broker made it up.
const TOPIC_BYTES_SHOWN_MAX: usize = 128;

/// A record that was too long to be sent: those behind it have their turn.
#[derive(Debug)]
struct PassedOver {
    leaf: &'static str,
    class: Class,
    seq: u64,
}

/// The engine's side of the conversation.
#[derive(Debug, Default)]
pub(super) struct Session {
    presence_due: bool,
    /// The broker refused it for now: not before that.
    presence_at: Option<Mono>,
    /// Number and time of this connection's first presence.
    presence_first: Option<(u64, Stamp)>,
    attributes_at: Option<Mono>,
    pub(super) flow: Flow,
    /// What a sample took in the last message: how many go into the next.
    sample_bytes: usize,
    length: LengthMax,
    refused: Refused,
    /// What was passed over, and is not yet judged: within one [`Engine::pump`] only.
    passed: Vec<PassedOver>,
    denied: Denied,
    suspects: Suspects,
    refusal_logged: bool,
    pub(super) subscriptions: Subscriptions,
    connections: u64,
    offline_since: Option<Mono>,
    connected: Duration,
    connected_from: Option<Mono>,
    rtt: Option<Duration>,
    /// How long the broker's name took to resolve.
    lookup: Option<Duration>,
    pub(super) last_fault: Option<LinkFault>,
}

impl Session {
    /// Begins with the filters that the broker's session had when they were last saved, and whether these are known to
    /// be all (`exact`).
    pub(super) fn new(subscribed: Subscribed, exact: bool) -> Self {
        Self { subscriptions: Subscriptions::new(subscribed, exact), ..Self::default() }
    }

    /// Presence says something else now.
    pub(super) const fn say_again(&mut self) {
        self.presence_due = true;
    }

    /// What the pace of attributes holds back is said now: the broker keeps it for as long as nobody says otherwise.
    pub(super) fn say_attributes_now(&mut self) {
        self.say_now(&Cargo::Attributes);
    }

    /// What the broker is to keep waits no longer, if there is something to say: but where it hangs up over that.
    fn say_now(&mut self, cargo: &Cargo) {
        match cargo {
            _ if self.suspects.is_left_out(cargo) => {}
            Cargo::Presence => self.presence_at = None,
            Cargo::Attributes => self.attributes_at = None,
            Cargo::Records { .. } => {}
        }
    }

    /// The broker, its limits or what it lets us do may be others by now.
    pub(super) fn try_refused(&mut self) {
        self.length = LengthMax::default();
        self.say_now(&Cargo::Presence);
        self.say_now(&Cargo::Attributes);
        self.flow.topics.try_again();
    }

    /// Why there is no connection, or what the broker refuses over one that stands.
    pub(super) fn fault(&self) -> Option<String> {
        self.last_fault.as_ref().map(|fault| fault.detail.clone()).or_else(|| {
            let refused = self.refused();
            (!refused.is_empty()).then(|| refused.join("; "))
        })
    }

    /// What the broker refuses of us, by its last answers: what we publish, and command topics. What it only grants
    /// less of comes last.
    pub(super) fn refused(&self) -> Vec<String> {
        [self.denied.fault(), self.subscriptions.fault()].into_iter().flatten().collect()
    }

    /// How long a message of samples is at most, where the broker refused a longer one.
    pub(super) const fn message_bytes_max(&self) -> Option<usize> {
        self.length.get()
    }

    /// Whether another publish may go out now.
    pub(super) fn has_room(&self, link: &Link) -> bool {
        link.has_room(self.suspects.is_careful())
    }

    /// When the pump, which has nothing to wait for but time, should be tried again. `stopping`: presence is said no
    /// more, but as the last word.
    pub(super) fn deadline(
        &self,
        link: &Link,
        outbox: &Outbox,
        attributes: &Attributes,
        stopping: bool,
    ) -> Option<Mono> {
        if !link.is_online() || !self.has_room(link) {
            return None;
        }
        if let Some(until) = self.flow.throttled_until() {
            return Some(until);
        }
        let presence = (self.presence_due && !stopping).then_some(self.presence_at).flatten();
        let attributes = attributes.is_changed().then_some(self.attributes_at).flatten();
        presence.into_iter().chain(attributes).chain(self.flow.next_at(outbox)).min()
    }

    /// The link's own metrics of the interval.
    pub(super) fn link_points(&mut self, now: Mono, link: &mut Link, reconnects: u64) -> Vec<Point> {
        if let Some(from) = self.connected_from {
            self.connected += link.stood_until(now).since(from);
            self.connected_from = Some(now);
        }
        let mut points = vec![
            Point::new(Metric::LinkConnected, std::mem::take(&mut self.connected).as_secs_f64()),
            Point::new(Metric::LinkExpected, link.take_expected(now).as_secs_f64()),
            Point::new(Metric::LinkReconnects, reconnects),
        ];
        if let Some(rtt) = self.rtt.take() {
            points.push(Point::new(Metric::LinkBrokerRtt, rtt.as_secs_f64() * 1000.0));
        }
        if let Some(lookup) = self.lookup.take() {
            points.push(Point::new(Metric::LinkDns, lookup.as_secs_f64() * 1000.0));
        }
        points
    }

    /// A connection was made, and the resolver took so long for it.
    pub(super) fn looked_up(&mut self, lookup: Option<Duration>) {
        self.lookup = lookup.or(self.lookup);
    }
}

impl Engine {
    pub(super) fn topic(&self, leaf: &str) -> String {
        [&self.config.mqtt.topic_prefix, self.config.device.id.as_str(), leaf].join("/")
    }

    /// The transport is up: say who we are, and leave the will.
    pub(super) fn greet(&mut self, now: Now, id: EffectId, password: Option<String>) {
        // What this connection says of itself is numbered first, so that to a reader of presence the will comes after
        // it; and dated so, because numbers and times go together.
        self.session.presence_first = Some((self.seqs.next(), self.timeline.stamp(now.mono)));
        let payload = self.presence(now, Some("lost"));
        let mqtt = &self.config.mqtt;
        let connect = Connect {
            version: self.link.version(),
            client_id: self.config.device.id.as_str().to_owned(),
            clean_start: false,
            keep_alive_s: u16::try_from(mqtt.keep_alive.as_secs()).unwrap_or(u16::MAX),
            username: (!mqtt.username.is_empty()).then(|| mqtt.username.clone()),
            password,
            will: Some(Publish {
                topic: self.topic("presence"),
                payload: payload.into(),
                qos: 1,
                retain: self.link.retains(),
                dup: false,
                pkid: 0,
                properties: None,
            }),
            will_delay_s: 0,
            session_expiry_s: SESSION_EXPIRY_S,
            packet_max: PACKET_MAX_ANNOUNCED,
            receive_max: RECEIVE_MAX,
        };
        self.link.up(now.mono, id, connect, &mut self.effects);
    }

    pub(super) fn presence(&mut self, now: Now, offline: Option<&str>) -> Vec<u8> {
        let first = self.session.presence_first.take_if(|_| offline.is_none());
        let (seq, at) = first.unwrap_or_else(|| (self.seqs.next(), self.timeline.stamp(now.mono)));
        let state = Presence {
            offline,
            agent: &self.identity.version,
            nonce: &self.identity.nonce,
            quarantine: self.quarantine.word(),
        };
        self.speaker().presence(seq, at, state)
    }

    /// The link has something to say.
    pub(super) fn signal(&mut self, now: Now, signal: Signal, retry_in: Duration) {
        self.session.rtt = self.link.take_rtt().or(self.session.rtt);
        match signal {
            Signal::Online { session_present } => self.online(now, session_present),
            Signal::Subscribed(withheld) => self.granted(now, withheld),
            Signal::Message(publish) => self.message(now, &publish),
            Signal::Oversize { pkid, topic, len } => {
                let refusal = Refusal {
                    reason: Reason::TooLarge,
                    claimed_id: None,
                    claimed_name: None,
                    detail: format!(
                        "a message of {len} B on {:?}; a command has at most {} B",
                        head(&topic, TOPIC_BYTES_SHOWN_MAX),
                        token::COMMAND_LEN_MAX
                    ),
                };
                self.with_commands(now, |commands, facts| commands.receive(facts, Err(refusal), pkid));
            }
            Signal::Answered { cargo, reason, bytes } => self.answered(now, cargo, reason, bytes),
            Signal::Down { fault, online, unanswered } => {
                self.suspect(now, unanswered);
                self.down(now, fault, online, retry_in);
            }
        }
    }

    fn speaker(&self) -> Speaker<'_> {
        Speaker { device: self.config.device.id.as_str(), timeline: &self.timeline }
    }

    fn online(&mut self, now: Now, session_present: bool) {
        let session = &mut self.session;
        session.connections += 1;
        session.presence_due = true;
        session.say_now(&Cargo::Presence);
        session.say_now(&Cargo::Attributes);
        session.refusal_logged = false;
        session.denied.connected();
        let kept_away = session.last_fault.take().map(|fault| fault.kind.word());
        self.outbox.connected();
        self.quarantine.connected(now.mono, true);
        self.changes.connected();
        session.connected_from = Some(now.mono);
        session.flow.connected(now.mono, &self.config.mqtt, &self.outbox);
        let offline = session.offline_since.take().map(|since| now.mono.since(since).as_secs_f64());
        self.counters.reconnects += u64::from(session.connections > 1);
        self.attributes.touch();
        self.subscribe(now, session_present);

        let version = self.link.version().word();
        let text = format!("broker: connected to {} with MQTT {version}", self.config.mqtt.url);
        self.effects.log(LogLevel::Info, text);
        if !self.link.retains() {
            let text = "broker: it keeps no retained messages: presence and attributes reach only who listens when they change";
            self.effects.log(LogLevel::Warn, text.to_owned());
        }
        let event = Event::new(Severity::Info, EventKind::Lifecycle, "connected")
            .group("link")
            .with("mqtt_version", version)
            .with("session_present", session_present)
            .with_some("offline_s", offline)
            .with_some("offline_reason", kept_away)
            .with_some("backlog_records", self.session.flow.drain().map(|drain| drain.of));
        self.record_event(now, event);
    }

    fn message(&mut self, now: Now, publish: &Publish) {
        if self.stopping.is_some() {
            // Not acknowledged, so that the broker brings it again: what began now would only be interrupted.
            return;
        }
        let pkid = if publish.qos == 0 { 0 } else { publish.pkid };
        let group = self.group_of(&publish.topic);
        let audience = token::Audience::of(&self.config.device);
        let verified = token::verify(&publish.payload, &audience, group, &self.config.commands);
        self.with_commands(now, |commands, facts| commands.receive(facts, verified, pkid));
        if let Some(issued_at) = self.commands.take_issued_at() {
            self.timeline.claim(issued_at);
        }
    }

    fn down(&mut self, now: Now, fault: LinkFault, online: Option<Range<Mono>>, retry_in: Duration) {
        let fault = if online.is_some() { self.blame_the_link(fault) } else { fault };
        self.outbox.rewind_all();
        self.outbox.store_held(now.mono, &mut self.effects);
        self.quarantine.connected(now.mono, false);
        self.commands.forget_packets();
        self.faults.down(&fault, retry_in, &mut self.effects);
        if let Some(online) = online {
            if let Some(from) = self.session.connected_from.take() {
                self.session.connected += online.end.since(from);
            }
            self.session.offline_since = Some(online.end);
            self.session.flow.disconnected();
            let expected = fault.kind == LinkFaultKind::Local;
            let severity = if expected { Severity::Info } else { Severity::Warning };
            let event = Event::new(severity, EventKind::Lifecycle, "disconnected")
                .group("link")
                .with("reason", fault.kind.word())
                .with("detail", fault.detail.as_str())
                .with("duration_s", online.end.since(online.start).as_secs_f64());
            self.record_event(now, event);
        }
        self.session.last_fault = Some(fault);
    }

    /// A connection that fell silent as its link went down: the broker is not to blame.
    fn blame_the_link(&self, fault: LinkFault) -> LinkFault {
        let is_silence = matches!(fault.kind, LinkFaultKind::KeepAlive | LinkFaultKind::Stalled);
        if !is_silence || !self.changes.is_link_lost() {
            return fault;
        }
        LinkFault::new(LinkFaultKind::LinkDown, format!("the gateway's link is down ({})", fault.detail))
    }
}
