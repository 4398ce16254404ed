//! A model of an MQTT broker, 3.1.1 and 5: the other end of the engine's session in simulations, and, behind a loopback
//! socket ([`serve`]), the demo's broker. Sessions, takeover, wills, retained messages, QoS 0 and 1, and QoS 2 taken in
//! from guests (handed on as QoS 1). Like the engine it is pure: time and packets come in by argument, packets go out
//! through [`Broker::poll_output`]. It must do no I/O, and it must not grow without bound: what it gives up is counted.

pub mod serve;
mod session;
mod topic;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub use session::{FILTERS_MAX, INFLIGHT_MAX, QUEUE_BYTES_MAX, QUEUE_MAX};

use crate::engine::packet::{AckReason, ConnAck, Connect, ConnectCode, Packet, Publish, SubscribeRefusal, Version};
use crate::engine::time::Mono;
use session::{Granted, Message, Session, Sink};

/// Sessions, of connected clients and kept ones together.
pub const SESSIONS_MAX: usize = 128;
/// Retained messages.
pub const RETAINED_MAX: usize = 1024;
/// Bytes of retained messages.
pub const RETAINED_BYTES_MAX: usize = 8 << 20;
/// How long a connection may take to say CONNECT.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection, named by the shell. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// What goes out on a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum BrokerOutput {
    /// Send this.
    Packet(Packet),
    /// Close, once what was sent is written. The model has forgotten the connection already.
    Close,
}

/// How the broker behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The user name and password that everyone must give; `None` lets everyone in.
    pub login: Option<(String, String)>,
    /// The largest packet that it takes, in bytes; announced on MQTT 5.
    pub packet_max: u32,
    /// How many unacknowledged publishes it takes; announced on MQTT 5.
    pub receive_max: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { login: None, packet_max: 256 * 1024, receive_max: 64 }
    }
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages published by clients and as wills.
    pub published: u64,
    /// Messages sent once more after a reconnect.
    pub redelivered: u64,
    /// QoS 1 messages lost to [`QUEUE_MAX`] or [`QUEUE_BYTES_MAX`].
    pub dropped_queue_full: u64,
    /// Messages larger than a subscriber takes.
    pub dropped_too_large: u64,
    /// QoS 0 messages for a session without a connection.
    pub dropped_offline: u64,
    /// Messages whose time was over before they could be sent.
    pub dropped_expired: u64,
    /// Retained messages not kept because of [`RETAINED_MAX`] or [`RETAINED_BYTES_MAX`].
    pub dropped_retained: u64,
    /// Sessions given up for new ones because of [`SESSIONS_MAX`], with all that waited in them.
    pub evicted_sessions: u64,
    /// Connections turned away.
    pub refused: u64,
}

/// The broker.
#[derive(Debug)]
pub struct Broker {
    settings: Settings,
    connections: BTreeMap<ConnId, Connection>,
    sessions: BTreeMap<String, Session>,
    retained: BTreeMap<String, Retained>,
    retained_bytes: usize,
    outputs: VecDeque<(ConnId, BrokerOutput)>,
    counts: Counts,
    anonymous: u64,
}

/// A retained message.
#[derive(Debug)]
struct Retained {
    message: Message,
    /// The client id that published it.
    from: String,
}

#[derive(Debug)]
struct Connection {
    /// `None` until CONNECT.
    client: Option<Client>,
    /// How long it may be silent; `None`: for ever.
    silence_max: Option<Duration>,
    deadline: Option<Mono>,
}

#[derive(Debug, Clone)]
struct Client {
    id: String,
    version: Version,
}

impl Broker {
    /// An empty broker.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            connections: BTreeMap::new(),
            sessions: BTreeMap::new(),
            retained: BTreeMap::new(),
            retained_bytes: 0,
            outputs: VecDeque::new(),
            counts: Counts::default(),
            anonymous: 0,
        }
    }

    /// What happened since the start.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// A connection was opened.
    pub fn connected(&mut self, now: Mono, conn: ConnId) {
        let silence_max = Some(CONNECT_TIMEOUT);
        self.connections
            .insert(conn, Connection { client: None, silence_max, deadline: Some(now.after(CONNECT_TIMEOUT)) });
    }

    /// A packet came in. What belongs to a forgotten connection is ignored.
    pub fn receive(&mut self, now: Mono, conn: ConnId, packet: Packet) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        match (connection.client.clone(), packet) {
            (None, Packet::Connect(connect)) => self.accept(now, conn, *connect),
            (None, _) => self.kick(now, conn, "protocol error"),
            (Some(client), packet) => {
                connection.deadline = connection.silence_max.map(|silence| now.after(silence));
                self.serve(now, conn, &client, packet);
            }
        }
    }

    /// The connection is gone. `graceful`: by a DISCONNECT, so that the will is not published.
    pub fn disconnected(&mut self, now: Mono, conn: ConnId, graceful: bool) {
        let Some(Connection { client: Some(client), .. }) = self.connections.remove(&conn) else { return };
        let Some(session) = self.sessions.get_mut(&client.id) else { return };
        session.connection = None;
        session.away_since = now;
        session.will.take_if(|_| graceful);
        // A will is published when the session ends, at the latest (3.1.3.2.2).
        session.will_due = Some(now.after(seconds(session.will_delay_s.min(session.expiry_s))));
        match session.expiry_s {
            0 => self.end_session(now, &client.id),
            u32::MAX => session.expires = None,
            expiry_s => session.expires = Some(now.after(seconds(expiry_s))),
        }
        self.publish_wills(now);
    }

    /// Forgets a session. Its will, where it still waits, is published.
    fn end_session(&mut self, now: Mono, id: &str) {
        if let Some(will) = self.sessions.remove(id).and_then(|session| session.will) {
            self.route(now, id, &will);
        }
    }

    /// Publishes the wills of those who have been away for long enough.
    fn publish_wills(&mut self, now: Mono) {
        let due = |session: &Session| session.next_will().is_some_and(|at| at <= now);
        let ids: Vec<String> =
            self.sessions.iter().filter(|(_, session)| due(session)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            if let Some(will) = self.sessions.get_mut(&id).and_then(|session| session.will.take()) {
                self.route(now, &id, &will);
            }
        }
    }

    /// Time has passed: ends silent connections and sessions that expired.
    pub fn wake(&mut self, now: Mono) {
        let due = |deadline: Option<Mono>| deadline.is_some_and(|deadline| deadline <= now);
        let silent: Vec<ConnId> =
            self.connections.iter().filter(|(_, connection)| due(connection.deadline)).map(|(conn, _)| *conn).collect();
        for conn in silent {
            self.kick(now, conn, "keep alive timeout");
        }
        self.publish_wills(now);
        self.sessions.retain(|_, session| session.connection.is_some() || !due(session.expires));
    }

    /// When [`Broker::wake`] has something to do.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Mono> {
        let silent = self.connections.values().filter_map(|connection| connection.deadline);
        let kept = self.sessions.values().filter(|session| session.connection.is_none());
        silent.chain(kept.flat_map(|session| [session.expires, session.next_will()]).flatten()).min()
    }

    /// What is to be done on a connection next. To be drained after each call: what one call leaves here is bounded by
    /// the bounds of sessions, windows and retained messages.
    pub fn poll_output(&mut self) -> Option<(ConnId, BrokerOutput)> {
        self.outputs.pop_front()
    }

    fn accept(&mut self, now: Mono, conn: ConnId, connect: Connect) {
        let login = connect.username.clone().zip(connect.password.clone());
        if self.settings.login.is_some() && self.settings.login != login {
            return self.refuse(conn, ConnectCode::BadCredentials);
        }
        if connect.client_id.is_empty() && connect.version == Version::V311 && !connect.clean_start {
            return self.refuse(conn, ConnectCode::BadClientId);
        }
        if connect.will.as_ref().is_some_and(|will| !names_topics(will)) {
            // 3.1.1 has no code for it.
            return match connect.version {
                Version::V5 => self.refuse(conn, ConnectCode::WillTopicInvalid),
                Version::V311 => self.turn_away(conn),
            };
        }
        let assigned = connect.client_id.is_empty().then(|| self.free_id());
        let id = assigned.clone().unwrap_or(connect.client_id);
        if let Some(old) = self.sessions.get(&id).and_then(|session| session.connection) {
            self.kick(now, old, "session taken over");
        }
        if connect.clean_start {
            self.end_session(now, &id);
        }
        let session_present = self.sessions.contains_key(&id);
        if !session_present && self.sessions.len() >= SESSIONS_MAX && !self.evict_session(now) {
            return self.refuse(conn, ConnectCode::ServerUnavailable);
        }
        let keep_alive = u64::from(connect.keep_alive_s);
        let silence_max = (keep_alive > 0).then(|| Duration::from_millis(keep_alive * 1500));
        self.connections.insert(
            conn,
            Connection {
                client: Some(Client { id: id.clone(), version: connect.version }),
                silence_max,
                deadline: silence_max.map(|silence| now.after(silence)),
            },
        );
        let session = self.sessions.entry(id).or_default();
        session.connection = Some(conn);
        session.expires = None;
        session.expiry_s = connect.session_expiry_s;
        session.will = connect.will;
        session.will_delay_s = connect.will_delay_s;
        session.packet_max = usize::try_from(connect.packet_max).unwrap_or(usize::MAX);
        session.receive_max = usize::from(connect.receive_max);
        let mut ack = greeting(&self.settings, session_present, ConnectCode::Success);
        ack.assigned_id = assigned;
        self.outputs.push_back((conn, BrokerOutput::Packet(Packet::ConnAck(ack))));
        session.resume(&mut Sink { now, outputs: &mut self.outputs, counts: &mut self.counts });
    }

    /// Gives up the session that was left alone for the longest time: those of 3.1.1 never expire. False if each is in
    /// use.
    fn evict_session(&mut self, now: Mono) -> bool {
        let away = self.sessions.iter().filter(|(_, session)| session.connection.is_none());
        let longest = away.min_by_key(|(_, session)| session.away_since).map(|(id, _)| id.clone());
        let Some(id) = longest else { return false };
        self.end_session(now, &id);
        self.counts.evicted_sessions += 1;
        true
    }

    /// An id for a client without one (3.1.3.1), which must not get it into the session of another. Ends because at
    /// most [`SESSIONS_MAX`] are in use.
    fn free_id(&mut self) -> String {
        loop {
            self.anonymous += 1;
            let id = format!("anonymous-{}", self.anonymous);
            if !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }

    fn refuse(&mut self, conn: ConnId, code: ConnectCode) {
        let ack = greeting(&self.settings, false, code);
        self.send(conn, Packet::ConnAck(ack));
        self.turn_away(conn);
    }

    fn turn_away(&mut self, conn: ConnId) {
        self.counts.refused += 1;
        self.connections.remove(&conn);
        self.outputs.push_back((conn, BrokerOutput::Close));
    }

    /// Ends a connection from this side; its will is published.
    fn kick(&mut self, now: Mono, conn: ConnId, reason: &str) {
        let client = self.connections.get(&conn).and_then(|connection| connection.client.as_ref());
        // 3.1.1 has no DISCONNECT from a broker.
        if client.is_some_and(|client| client.version == Version::V5) {
            self.send(conn, Packet::Disconnect { reason: reason.to_owned(), session_expiry_s: None });
        }
        self.outputs.push_back((conn, BrokerOutput::Close));
        self.disconnected(now, conn, false);
    }

    fn serve(&mut self, now: Mono, conn: ConnId, client: &Client, packet: Packet) {
        match packet {
            Packet::Publish(publish) => self.publish(now, conn, client, &publish),
            Packet::PubAck { pkid, .. } => {
                if let Some(session) = self.sessions.get_mut(&client.id) {
                    let mut sink = Sink { now, outputs: &mut self.outputs, counts: &mut self.counts };
                    session.acknowledged(pkid, &mut sink);
                }
            }
            Packet::PubRel { pkid } => {
                if let Some(session) = self.sessions.get_mut(&client.id) {
                    session.unreleased.remove(&pkid);
                }
                self.send(conn, Packet::PubComp { pkid });
            }
            Packet::Subscribe { pkid, filters, identifier: None } => self.subscribe(now, conn, client, pkid, &filters),
            Packet::Subscribe { pkid, filters, identifier: Some(_) } => {
                let granted = vec![Err(SubscribeRefusal::IdentifierNotSupported); filters.len()];
                self.send(conn, Packet::SubAck { pkid, granted });
            }
            Packet::Unsubscribe { pkid, filters } => {
                let mut session = self.sessions.get_mut(&client.id);
                let mut unsubscribe =
                    |filter: &String| session.as_mut().is_some_and(|session| session.unsubscribe(filter));
                let existed = filters.iter().map(&mut unsubscribe).collect();
                self.send(conn, Packet::UnsubAck { pkid, existed });
            }
            Packet::PingReq => self.send(conn, Packet::PingResp),
            Packet::Disconnect { reason, session_expiry_s } => {
                self.goodbye(now, conn, client, &reason, session_expiry_s);
            }
            Packet::Oversize { .. } => self.kick(now, conn, "packet too large"),
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::PubRec { .. }
            | Packet::PubComp { .. }
            | Packet::SubAck { .. }
            | Packet::UnsubAck { .. }
            | Packet::PingResp => self.kick(now, conn, "protocol error"),
        }
    }

    fn goodbye(&mut self, now: Mono, conn: ConnId, client: &Client, reason: &str, expiry_s: Option<u32>) {
        if let (Some(expiry_s), Some(session)) = (expiry_s, self.sessions.get_mut(&client.id)) {
            // A session that was to end with its connection can't be asked to stay (3.14.2.2.2).
            if session.expiry_s == 0 && expiry_s > 0 {
                return self.kick(now, conn, "protocol error");
            }
            session.expiry_s = expiry_s;
        }
        self.outputs.push_back((conn, BrokerOutput::Close));
        self.disconnected(now, conn, reason == "normal" || reason.starts_with("normal: "));
    }

    fn publish(&mut self, now: Mono, conn: ConnId, client: &Client, publish: &Publish) {
        if !names_topics(publish) {
            return self.kick(now, conn, "topic name invalid");
        }
        let &Publish { qos, pkid, .. } = publish;
        match qos {
            0 => {
                self.route(now, &client.id, publish);
            }
            1 => {
                let reached = self.route(now, &client.id, publish);
                let reason = if reached == 0 { AckReason::NoMatchingSubscribers } else { AckReason::Success };
                self.send(conn, Packet::PubAck { pkid, reason });
            }
            _ => self.publish_once(now, conn, client, publish),
        }
    }

    /// QoS 2: routed when it first comes, not again until its id is released.
    fn publish_once(&mut self, now: Mono, conn: ConnId, client: &Client, publish: &Publish) {
        let Some(session) = self.sessions.get_mut(&client.id) else { return };
        let pkid = publish.pkid;
        let known = session.unreleased.contains(&pkid);
        if !known && session.unreleased.len() >= usize::from(self.settings.receive_max) {
            return self.kick(now, conn, "receive maximum exceeded");
        }
        session.unreleased.insert(pkid);
        if !known {
            self.route(now, &client.id, publish);
        }
        self.send(conn, Packet::PubRec { pkid });
    }

    /// Hands a message to all who want it; how many these are.
    fn route(&mut self, now: Mono, from: &str, publish: &Publish) -> usize {
        self.counts.published += 1;
        let message = Message::new(now, publish.clone());
        let mut reached = 0;
        let mut sink = Sink { now, outputs: &mut self.outputs, counts: &mut self.counts };
        for (id, session) in &mut self.sessions {
            let Some(wanted) = session.wants(&publish.topic, id == from) else { continue };
            reached += 1;
            session.deliver(message.copy(wanted.qos, publish.retain && wanted.as_published), &mut sink);
        }
        if publish.retain {
            self.retain(now, from, message);
        }
        reached
    }

    /// What is replaced goes in any case: an older message than the last one misleads more than none.
    fn retain(&mut self, now: Mono, from: &str, message: Message) {
        let topic = message.publish.topic.clone();
        if let Some(old) = self.retained.remove(&topic) {
            self.retained_bytes -= old.message.len();
        }
        if message.publish.payload.is_empty() {
            return;
        }
        let len = message.len();
        if !self.can_retain(len) {
            self.drop_expired(now);
        }
        if !self.can_retain(len) {
            self.counts.dropped_retained += 1;
            return;
        }
        self.retained_bytes += len;
        self.retained.insert(topic, Retained { message, from: from.to_owned() });
    }

    fn can_retain(&self, len: usize) -> bool {
        self.retained.len() < RETAINED_MAX && self.retained_bytes + len <= RETAINED_BYTES_MAX
    }

    fn drop_expired(&mut self, now: Mono) {
        self.retained.retain(|_, kept| !kept.message.is_expired(now));
        self.retained_bytes = self.retained.values().map(|kept| kept.message.len()).sum();
    }

    fn subscribe(&mut self, now: Mono, conn: ConnId, client: &Client, pkid: u16, filters: &[(String, u8)]) {
        self.drop_expired(now);
        let Some(session) = self.sessions.get_mut(&client.id) else { return };
        let taken: Vec<_> = filters.iter().map(|(filter, options)| session.subscribe(filter, *options)).collect();
        let granted = taken
            .iter()
            .map(|taken| taken.as_ref().map(|taken| taken.options.qos).map_err(|refusal| *refusal))
            .collect();
        self.outputs.push_back((conn, BrokerOutput::Packet(Packet::SubAck { pkid, granted })));
        let mut sink = Sink { now, outputs: &mut self.outputs, counts: &mut self.counts };
        for ((filter, _), taken) in filters.iter().zip(taken) {
            let Ok(Granted { options, wants_retained: true }) = taken else { continue };
            let matching = self.retained.values().filter(|kept| topic::matches(filter, &kept.message.publish.topic));
            for kept in matching.filter(|kept| options.hears(kept.from == client.id)) {
                session.deliver(kept.message.copy(options.qos, true), &mut sink);
            }
        }
    }

    fn send(&mut self, conn: ConnId, packet: Packet) {
        self.outputs.push_back((conn, BrokerOutput::Packet(packet)));
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

/// Whether a message can be published where it is to go, and answered where it says.
fn names_topics(publish: &Publish) -> bool {
    let answers = publish.properties.as_ref().and_then(|properties| properties.response_topic.as_deref());
    topic::is_name(&publish.topic) && answers.is_none_or(topic::is_name)
}

fn greeting(settings: &Settings, session_present: bool, code: ConnectCode) -> ConnAck {
    ConnAck {
        session_present,
        code,
        receive_max: settings.receive_max,
        packet_max: Some(settings.packet_max),
        keep_alive_s: None,
        qos_max: 2,
        retains: true,
        assigned_id: None,
    }
}
