//! What is said over the link, and in which order: presence, attributes, results, events, telemetry. Joins the outbox to
//! the link: a record is taken from the one when the other has room, and deleted when the broker has acknowledged it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::Engine;
use super::attributes::Attributes;
use super::effects::Purpose;
use super::io::{EffectId, LinkFault, LinkFaultKind, LogLevel};
use super::keyed::{SUBSCRIBED_KEY, write};
use super::link::{Cargo, Link, Signal, Unanswered};
use super::metric::{Metric, Point};
use super::observation::Severity;
use super::outbox::{Outbox, READ_LOW_WATER};
use super::packet::{AckReason, Connect, PACKET_MAX_ANNOUNCED, Publish, RECEIVE_MAX};
use super::ration::{Allowance, Ration};
use super::record::{Body, Class, CommandResult, Event, EventKind, Record, Stamp};
use super::suspect::Suspects;
use super::time::{Mono, Now};
use crate::config::Encoding;
use crate::wire::payload::{Presence, Speaker};
use crate::wire::telemetry::TelemetryMessage;
use crate::wire::{Reason, Refusal, token};

/// Samples that travel in one message.
const SAMPLES_PER_MESSAGE_MAX: usize = READ_LOW_WATER;
/// Bytes of samples that travel in one message, if it has more than one: what a link of 10 kbit/s carries in the time
/// between two pings. Some brokers take no larger ones, and say so only in MQTT 5.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a message's topic and header beside its payload.
const PUBLISH_OVERHEAD: usize = 16;
/// How long the broker keeps our session, and with it the commands that wait for us, while we are away.
const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;
/// How long to wait when the broker says that we are over its quota, or won't say what is wrong.
const QUOTA_PAUSE: Duration = Duration::from_secs(10);
/// The same for what the broker is to keep: nothing waits behind that, and it may be refused for ever.
const RETAINED_PAUSE: Duration = Duration::from_secs(300);
/// A record that the broker refused so often without saying why is set aside.
const REFUSALS_MAX: u8 = 5;
/// Refused messages whose refusals are counted: the newest of more begin anew, until the older are set aside.
const REFUSED_MAX: usize = 64;
/// Command topics asked for in one packet: AWS IoT Core takes no more.
const FILTERS_PER_SUBSCRIBE_MAX: usize = 8;
/// A backlog smaller than that is gone before anybody could look.
const DRAIN_WORTH_TELLING: u64 = 60;
/// Attributes are sent at most this often …
const ATTRIBUTES_PAUSE: Duration = Duration::from_secs(10);
/// … but so many changes at once, where none was sent for as many pauses.
const ATTRIBUTES_AT_ONCE: u32 = 3;

/// A backlog that is being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drain {
    /// Samples that waited when the connection came up.
    pub(super) of: u64,
    /// When it did.
    pub(super) since: Mono,
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
    /// Telemetry up to here may be sent: up to the last publish tick, or to what waited when the connection came up.
    telemetry_upto: u64,
    /// Telemetry up to here is a backlog, and is rationed.
    backlog_upto: u64,
    /// How the backlog of this connection goes; `None` once it is sent.
    drain: Option<Drain>,
    /// A publish tick has come: telemetry up to here goes out once it may be sent.
    publish_due: Option<u64>,
    /// What a sample took in the last message: how many go into the next.
    sample_bytes: usize,
    ration: Ration,
    /// What the broker allows this connection, where it is known to allow only so much.
    allowance: Option<Allowance>,
    /// It allows nothing before that.
    throttled_until: Option<Mono>,
    /// Filters that are yet to be subscribed to, and how many of those before were refused.
    unsubscribed: Vec<(String, u8)>,
    refused_filters: usize,
    /// Classes that wait, because the broker refused one of theirs for now.
    paused_until: [Option<Mono>; Class::COUNT],
    /// The messages that the broker refused without saying why, by their first record, and how often.
    refused: BTreeMap<(Class, u64), u8>,
    suspects: Suspects,
    refusal_logged: bool,
    /// The filters that were asked for last.
    wanted: Vec<String>,
    subscribed: Subscribed,
    connections: u64,
    offline_since: Option<Mono>,
    connected: Duration,
    connected_from: Option<Mono>,
    rtt: Option<Duration>,
    /// How long the broker's name took to resolve.
    lookup: Option<Duration>,
    pub(super) last_fault: Option<LinkFault>,
}

/// What is known of the filters that the broker's session has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Subscribed {
    /// No others than these.
    #[n(0)]
    filters: Vec<String>,
    /// All of them. Not while an answer is awaited: a link that breaks meanwhile leaves a session that is kept, and deaf.
    #[n(1)]
    all: bool,
}

impl Session {
    /// Begins with the filters that the broker's session had when they were last saved. A run that was cut off may have found
    /// that the broker has forgotten it, and died before that was saved: the session that it left then is kept, and deaf. So
    /// only after a goodbye (`exact`) is it known to have them all.
    pub(super) fn new(mut subscribed: Subscribed, exact: bool) -> Self {
        subscribed.all &= exact;
        Self { subscribed, ..Self::default() }
    }

    /// A publish tick has come: what was made before it may go out when the outbox opens it. A tick before that is over
    /// changes nothing: with a store slower than the ticks, none would ever be over.
    pub(super) fn publish_due(&mut self, outbox: &Outbox) {
        self.publish_due.get_or_insert(outbox.made_upto(Class::Telemetry));
    }

    /// A commit has ended, or what is due needs none. It may have been an earlier one: what is due waits for its own.
    pub(super) fn committed(&mut self, outbox: &Outbox) {
        let sendable = outbox.sendable(Class::Telemetry);
        if self.publish_due.take_if(|upto| *upto <= sendable).is_some() {
            self.telemetry_upto = sendable;
        }
    }

    /// Presence says something else now.
    pub(super) const fn say_again(&mut self) {
        self.presence_due = true;
    }

    /// What a backlog may use, from now on.
    pub(super) fn set_ration(&mut self, per_second: u32) {
        self.ration.set_rate(per_second);
    }

    /// When the pump, which has nothing to wait for but time, should be tried again.
    pub(super) fn deadline(&self, link: &Link, outbox: &Outbox, attributes: &Attributes) -> Option<Mono> {
        if !link.is_online() || !link.has_room() {
            return None;
        }
        if self.throttled_until.is_some() {
            return self.throttled_until;
        }
        let presence = self.presence_due.then_some(self.presence_at).flatten();
        let attributes = attributes.is_changed().then_some(self.attributes_at).flatten();
        let (class, upto) = self.samples_next(outbox);
        let first = outbox.ready(class, upto).next().map(|(seq, _)| seq);
        // What waits for a page is tried again when the page comes.
        let waits = self.is_paused(class) || outbox.is_filling(class, upto);
        let rationed = !waits && first.is_some_and(|seq| seq <= self.backlog_upto);
        let ration = rationed.then(|| self.ration.next_at());
        presence.into_iter().chain(attributes).chain(ration).chain(self.paused_until.into_iter().flatten()).min()
    }

    /// Whose samples come next, and up to which seq they may go out: the oldest first.
    fn samples_next(&self, outbox: &Outbox) -> (Class, u64) {
        let class = Class::SAMPLES.into_iter().find(|class| outbox.has_unsent(*class)).unwrap_or(Class::Telemetry);
        (class, if class == Class::Telemetry { self.telemetry_upto } else { outbox.sendable(class) })
    }

    /// Whether the broker allows another publish now.
    fn is_allowed(&mut self, now: Mono) -> bool {
        self.throttled_until =
            self.allowance.as_mut().and_then(|allowance| (!allowance.is_open(now)).then(|| allowance.next_at()));
        self.throttled_until.is_none()
    }

    const fn is_paused(&self, class: Class) -> bool {
        class.of(&self.paused_until).is_some()
    }

    const fn pause(&mut self, class: Class, until: Mono) {
        *class.of_mut(&mut self.paused_until) = Some(until);
    }

    /// How often the message that begins with this record has been refused, with this time.
    fn refused_again(&mut self, class: Class, first: u64) -> u8 {
        let times = self.refused.entry((class, first)).or_default();
        *times = times.saturating_add(1);
        let times = *times;
        if self.refused.len() > REFUSED_MAX {
            self.refused.pop_last();
        }
        times
    }

    pub(super) const fn drain(&self) -> Option<Drain> {
        self.drain
    }

    pub(super) fn drain_remaining(&self, outbox: &Outbox) -> u64 {
        let is_behind = |class: Class| outbox.is_behind(class, outbox.made_upto(class).min(self.backlog_upto));
        if !Class::SAMPLES.into_iter().any(is_behind) {
            return 0;
        }
        Class::SAMPLES.iter().map(|class| class.of(&outbox.store_stats().records)).sum()
    }

    /// The link's own metrics of the interval.
    pub(super) fn link_points(&mut self, now: Mono, link: &mut Link, reconnects: u64) -> Vec<Point> {
        if let Some(from) = self.connected_from {
            self.connected += now.since(from);
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
        format!("{}/{}/{leaf}", self.config.mqtt.topic_prefix, self.config.device.id.as_str())
    }

    fn topic_len(&self, leaf: &str) -> usize {
        self.config.mqtt.topic_prefix.len() + 1 + self.config.device.id.as_str().len() + 1 + leaf.len()
    }

    fn filters(&self) -> Vec<String> {
        let prefix = &self.config.mqtt.topic_prefix;
        let groups = self.config.device.groups.iter().map(|group| format!("{prefix}/groups/{group}/commands"));
        std::iter::once(self.topic("commands")).chain(groups).collect()
    }

    /// The transport is up: say who we are, and leave the will.
    pub(super) fn greet(&mut self, now: Now, id: EffectId, password: Option<String>) {
        // What this connection says of itself is numbered first, so that to a reader of presence the will comes after it; and
        // dated so, because numbers and times go together.
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

    fn speaker(&self) -> Speaker<'_> {
        Speaker { device: self.config.device.id.as_str(), timeline: &self.timeline }
    }

    /// The link has something to say.
    pub(super) fn signal(&mut self, now: Now, signal: Signal, retry_in: Duration) {
        self.session.rtt = self.link.take_rtt().or(self.session.rtt);
        match signal {
            Signal::Online { session_present } => self.online(now, session_present),
            Signal::Subscribed { refused } => self.granted(now, refused),
            Signal::Message(publish) => self.message(now, &publish),
            Signal::Oversize { pkid, topic, len } => {
                let refusal = Refusal {
                    reason: Reason::TooLarge,
                    claimed_id: None,
                    claimed_name: None,
                    detail: format!(
                        "a message of {len} B on {topic}; a command has at most {} B",
                        token::COMMAND_LEN_MAX
                    ),
                };
                self.with_commands(now, |commands, facts| commands.receive(facts, Err(refusal), pkid));
            }
            Signal::Answered { cargo, reason } => self.answered(now, cargo, reason),
            Signal::Down { fault, online_for, unanswered } => {
                self.suspect(unanswered);
                self.down(now, fault, online_for, retry_in);
            }
        }
    }

    fn online(&mut self, now: Now, session_present: bool) {
        let session = &mut self.session;
        session.connections += 1;
        session.presence_due = true;
        session.presence_at = None;
        session.paused_until = [None; Class::COUNT];
        session.refusal_logged = false;
        let kept_away = session.last_fault.take().map(|fault| fault.kind.word());
        self.outbox.connected();
        self.releases.reached_broker();
        self.quarantine.connected(now.mono, true);
        self.changes.connected();
        session.connected_from = Some(now.mono);
        session.telemetry_upto = self.outbox.sendable(Class::Telemetry);
        session.backlog_upto = session.telemetry_upto;
        let waiting = session.drain_remaining(&self.outbox);
        session.drain = (waiting > 0).then_some(Drain { of: waiting, since: now.mono });
        session.ration = Ration::new(now.mono, self.config.mqtt.drain.publishes_per_second);
        session.allowance = Allowance::new(self.config.mqtt.limits, now.mono);
        let offline = session.offline_since.take().map(|since| now.mono.since(since).as_secs_f64());
        self.counters.reconnects += u64::from(session.connections > 1);
        self.attributes.touch();
        self.session.attributes_at = None;
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
            .with_some("offline_reason", kept_away);
        self.record_event(now, event);
    }

    /// Subscribes, unless the broker kept a session that is known to have all our filters: there it would only cost.
    pub(super) fn subscribe(&mut self, now: Now, session_present: bool) {
        let filters = self.filters();
        let known = std::mem::take(&mut self.session.subscribed);
        if session_present && known.all && known.filters == filters {
            self.session.subscribed = known;
            return;
        }
        let mut stale = if session_present { known.filters } else { Vec::new() };
        stale.retain(|old| !filters.contains(old));
        if !stale.is_empty() {
            self.link.unsubscribe(now.mono, stale.clone(), &mut self.effects);
        }
        self.save_subscribed(Subscribed { filters: [filters.clone(), stale].concat(), all: false });
        self.session.unsubscribed = filters.iter().map(|filter| (filter.clone(), 1)).collect();
        self.session.wanted = filters;
        self.session.refused_filters = 0;
        self.subscribe_next(now);
    }

    fn subscribe_next(&mut self, now: Now) {
        let rest = self.session.unsubscribed.len().min(FILTERS_PER_SUBSCRIBE_MAX);
        let filters = self.session.unsubscribed.drain(..rest).collect();
        self.link.subscribe(now.mono, filters, &mut self.effects);
    }

    /// The broker answered for some of our filters.
    fn granted(&mut self, now: Now, refused: usize) {
        self.session.refused_filters += refused;
        if !self.session.unsubscribed.is_empty() {
            return self.subscribe_next(now);
        }
        match self.session.refused_filters {
            0 => {
                let filters = std::mem::take(&mut self.session.wanted);
                self.save_subscribed(Subscribed { filters, all: true });
            }
            // They are asked for again at the next connection.
            refused => {
                let text = format!("broker: it refuses {refused} of our command topics: check its ACL");
                self.effects.log(LogLevel::Error, text);
            }
        }
    }

    fn save_subscribed(&mut self, subscribed: Subscribed) {
        let entry = write(SUBSCRIBED_KEY, &subscribed);
        self.session.subscribed = subscribed;
        self.effects.put(Purpose::Bookkeeping, vec![entry]);
    }

    fn message(&mut self, now: Now, publish: &Publish) {
        if self.stopping.is_some() {
            // Not acknowledged, so that the broker brings it again: what began now would only be interrupted.
            return;
        }
        let pkid = if publish.qos == 0 { 0 } else { publish.pkid };
        let group = self.group_of(&publish.topic);
        let audience = token::Audience { device: self.config.device.id.as_str(), groups: &self.config.device.groups };
        let verified = token::verify(&publish.payload, &audience, group, &self.config.commands);
        self.with_commands(now, |commands, facts| commands.receive(facts, verified, pkid));
        let (issued_at, passed) = self.commands.take_times();
        if let Some(issued_at) = issued_at {
            self.timeline.claim(issued_at);
        }
        if let Some(passed) = passed {
            self.timeline.raise_floor(passed);
        }
    }

    /// The group that a command topic belongs to; `None` for the device's own.
    fn group_of<'t>(&self, topic: &'t str) -> Option<&'t str> {
        topic.strip_prefix(&*self.config.mqtt.topic_prefix)?.strip_prefix("/groups/")?.strip_suffix("/commands")
    }

    fn answered(&mut self, now: Now, cargo: Cargo, reason: AckReason) {
        let Cargo::Records { class, seqs } = cargo else {
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
                    self.session.refused.remove(&(class, seq));
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
                let is_final = self.session.refused_again(class, first) >= REFUSALS_MAX;
                // What is to be sent again anyway, because one before it was refused, waits for its own turn.
                if is_final && self.outbox.is_in_flight(class, first) {
                    self.set_aside(class, &seqs, "refused", reason);
                } else {
                    self.try_later(now, class, &seqs, reason);
                }
            }
        }
    }

    /// What the broker keeps of us is as old as the last that it took: it is said again, as a record would be sent again.
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
            self.session.refused.remove(&(class, *seq));
            self.outbox.set_aside(class, *seq, why);
        }
    }

    fn try_later(&mut self, now: Now, class: Class, seqs: &[u64], reason: AckReason) {
        self.log_refusal(reason);
        if let Some(first) = seqs.first() {
            self.outbox.rewind(class, *first);
        }
        self.session.pause(class, now.mono.after(QUOTA_PAUSE));
    }

    fn log_refusal(&mut self, reason: AckReason) {
        self.log_once(format!("broker: it refuses a publish with {reason:?}: check its ACL for our topics"));
    }

    /// Once a connection: a broker that denies everything must not fill the log.
    fn log_once(&mut self, text: String) {
        if !std::mem::replace(&mut self.session.refusal_logged, true) {
            self.effects.log(LogLevel::Error, text);
        }
    }

    /// The broker closed the connection: perhaps it dislikes what it had not answered yet.
    fn suspect(&mut self, unanswered: Option<Unanswered>) {
        let found = unanswered.and_then(|unanswered| self.session.suspects.closed_over(&unanswered));
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

    fn down(&mut self, now: Now, fault: LinkFault, online_for: Option<Duration>, retry_in: Duration) {
        let fault = if online_for.is_some() { self.blame_the_link(fault) } else { fault };
        let again = self.outbox.rewind_all();
        self.outbox.store_held(now.mono, &mut self.effects);
        self.quarantine.connected(now.mono, false);
        self.counters.duplicates += again;
        self.commands.forget_packets();
        self.faults.down(&fault, retry_in, &mut self.effects);
        if let Some(online_for) = online_for {
            if let Some(from) = self.session.connected_from.take() {
                self.session.connected += now.mono.since(from);
            }
            self.session.offline_since = Some(now.mono);
            self.session.drain = None;
            let expected = fault.kind == LinkFaultKind::Local;
            let severity = if expected { Severity::Info } else { Severity::Warning };
            let event = Event::new(severity, EventKind::Lifecycle, "disconnected")
                .group("link")
                .with("reason", fault.kind.word())
                .with("detail", fault.detail.as_str())
                .with("duration_s", online_for.as_secs_f64());
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

    /// Sends what may be sent, in the order of the contract, while the window has room; then reads ahead.
    pub(super) fn pump(&mut self, now: Now) {
        for paused in &mut self.session.paused_until {
            paused.take_if(|until| *until <= now.mono);
        }
        self.finish_drain(now);
        while self.link.has_room() && self.session.is_allowed(now.mono) && self.send_next(now) {}
        if self.link.is_online() {
            for class in Class::ALL {
                self.outbox.fill(class, &mut self.effects);
            }
        }
    }

    /// Says when the backlog is sent.
    fn finish_drain(&mut self, now: Now) {
        if self.session.drain.is_none() || self.session.drain_remaining(&self.outbox) > 0 {
            return;
        }
        if let Some(Drain { of, since }) = self.session.drain.take().filter(|drain| drain.of >= DRAIN_WORTH_TELLING) {
            let took_s = now.mono.since(since).as_secs_f64();
            self.effects
                .log(LogLevel::Info, format!("outbox: {of} samples that had waited were sent in {took_s:.1} s"));
        }
    }

    /// Sends one message. False if there is none to send now.
    fn send_next(&mut self, now: Now) -> bool {
        // A goodbye that was said is the last word.
        let may_say = self.stopping.is_none() && self.session.presence_at.is_none_or(|at| at <= now.mono);
        if may_say && std::mem::take(&mut self.session.presence_due) {
            let payload = self.presence(now, None);
            self.publish_retained(now, "presence", payload, Cargo::Presence);
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
        let dynamic = self.attributes.dynamic(self.quarantine.word());
        let at = self.timeline.stamp(now.mono);
        let payload = self.speaker().attributes(seq, at, fixed, dynamic, &self.config.device.groups);
        self.publish_retained(now, "attributes", payload, Cargo::Attributes);
    }

    /// Sends the next result or event: of alarms the newest first.
    fn send_record(&mut self, now: Now, class: Class) -> bool {
        if self.session.is_paused(class) {
            return false;
        }
        let Some((seq, bytes)) = self.outbox.send_next(class) else { return false };
        let Some(mut record) = self.decode(class, seq, &bytes) else { return true };
        // Among the results lie events too: those of the audit.
        let leaf = if matches!(record.body, Body::Result(_)) { "results" } else { "events" };
        let mut payload = self.speaker().record(seq, &record);
        // How a command ended has to be told, by less of what it printed if need be: first its output goes, then its detail.
        for _ in 0..2 {
            let Body::Result(result @ CommandResult { part: None, .. }) = &mut record.body else { break };
            let surplus = self.surplus(&payload, leaf);
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
        let (class, upto) = self.session.samples_next(&self.outbox);
        // Samples of one interval travel in one message: the last of them may just be on its way from the store.
        if self.session.is_paused(class) || self.outbox.is_filling(class, upto) {
            return false;
        }
        let Some((first, stored)) = self.outbox.ready(class, upto).next() else { return false };
        let stored = stored.clone();
        if first <= self.session.backlog_upto && !self.session.ration.take(now.mono) {
            return false;
        }
        let (payload, seqs) = self.telemetry_message(class, upto);
        if seqs.is_empty() {
            self.outbox.sent(class);
            self.unreadable(class, first, &stored);
            return true;
        }
        self.session.sample_bytes = payload.len() / seqs.len().max(1);
        for _ in &seqs {
            self.outbox.sent(class);
        }
        self.send_records(now, "telemetry", payload, class, seqs);
        true
    }

    /// As many of the next samples as a message takes, and at least one; compressed if the config says so. None of them if
    /// the first can't be read.
    fn telemetry_message(&self, class: Class, upto: u64) -> (Vec<u8>, Vec<u64>) {
        match self.config.telemetry.encoding {
            Encoding::Json => {
                let (message, seqs) = self.telemetry_json(class, upto, self.samples_max(), self.message_bytes_max());
                (message.finish(), seqs)
            }
            // How much is left of it is known when it is done: the last message tells how many samples to try.
            Encoding::JsonZstd => {
                let guess = self.message_bytes_max() / self.session.sample_bytes.max(1);
                let mut most = guess.clamp(1, self.samples_max());
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

    fn samples_max(&self) -> usize {
        if self.session.suspects.is_careful() { 1 } else { SAMPLES_PER_MESSAGE_MAX }
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
        let overhead = self.topic_len("telemetry") + PUBLISH_OVERHEAD;
        self.link.packet_max().saturating_sub(overhead).min(MESSAGE_BYTES_MAX)
    }

    fn fits(&self, payload: &[u8], leaf: &str) -> bool {
        self.surplus(payload, leaf) == 0
    }

    /// How many bytes the message is too long for the broker.
    fn surplus(&self, payload: &[u8], leaf: &str) -> usize {
        (payload.len() + self.topic_len(leaf) + PUBLISH_OVERHEAD).saturating_sub(self.link.packet_max())
    }

    /// Sends records that were taken from the outbox, or sets them aside where the broker would hang up on them.
    fn send_records(&mut self, now: Now, leaf: &str, payload: Vec<u8>, class: Class, seqs: Vec<u64>) {
        if self.fits(&payload, leaf) {
            self.publish(now, leaf, payload, false, Cargo::Records { class, seqs });
            return;
        }
        let (len, max) = (payload.len(), self.link.packet_max());
        self.effects.log(LogLevel::Error, format!("broker: takes {max} B, a record of {len} B is set aside"));
        for seq in seqs {
            self.outbox.set_aside(class, seq, "too_large");
        }
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

    /// Says what is not stored, or leaves it out where the broker would hang up on it: each connection would end so.
    fn publish_retained(&mut self, now: Now, leaf: &str, payload: Vec<u8>, cargo: Cargo) {
        if self.fits(&payload, leaf) {
            self.publish(now, leaf, payload, true, cargo);
            return;
        }
        let (len, max) = (payload.len(), self.link.packet_max());
        self.log_once(format!("broker: takes {max} B, {leaf} of {len} B is left out"));
    }

    fn publish(&mut self, now: Now, leaf: &str, payload: Vec<u8>, retain: bool, cargo: Cargo) {
        self.counters.publishes += 1;
        let topic = self.topic(leaf);
        if let Some(allowance) = &mut self.session.allowance {
            allowance.spend(topic.len() + payload.len() + PUBLISH_OVERHEAD);
        }
        self.link.publish(now.mono, topic, payload, retain, cargo, &mut self.effects);
    }

    /// Says the last word of presence, where there is somebody to hear it.
    pub(super) fn say_offline(&mut self, now: Now, reason: &str) {
        if self.link.is_online() {
            let payload = self.presence(now, Some(reason));
            self.publish_retained(now, "presence", payload, Cargo::Presence);
        }
    }
}
