//! The broker's side of one connection at a time, packet by packet: a test says what is answered and what is withheld.
//! All that goes over the wire is written down, and shown by the case that fails.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::common::{self, Agent, Gateway, SOON};
use super::packet::{self, Connect, Packet, Publish, V5};

/// Connections that may wait to be looked at; more than any case lets come.
const CONNECTIONS_MAX: usize = 64;
/// Lines of the wire that a failed case shows.
const LINES_SHOWN: usize = 80;
/// The end of a payload is cut off in what is written down.
const LINE_MAX: usize = 300;
/// What a SUBACK grants.
const QOS_1: u8 = 1;
/// Between two bytes, where they go one by one: so that they don't meet again in one read of the agent's.
const BYTE_EVERY: Duration = Duration::from_micros(300);

/// One case of the suite. Says how it ended when it goes out of scope, and on failure, before that, what went over the
/// wire.
pub struct Case {
    wire: Wire,
    _named: common::Case,
}

/// What went over the wire, line by line.
#[derive(Clone)]
struct Wire {
    began: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Wire {
    fn note(&self, broker: u16, line: &str) {
        let line: String = line.chars().take(LINE_MAX).collect();
        let at = self.began.elapsed().as_secs_f64();
        // A case that fails on one thread is still to be told from another.
        let mut lines = self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.push(format!("{at:8.3} :{broker} {line}"));
    }
}

impl Case {
    pub fn new(name: &'static str) -> Self {
        Self { wire: Wire { began: Instant::now(), lines: Arc::default() }, _named: common::Case::new(name) }
    }

    /// Begins to listen on a port of its own.
    pub fn broker(&self) -> Broker {
        Broker::on(TcpListener::bind("127.0.0.1:0").unwrap(), self.wire.clone())
    }

    /// The same, with an agent that has come there, and its connection.
    pub fn greeted(&self, device: &str) -> (Broker, Agent, Conn) {
        let broker = self.broker();
        let agent = Gateway::new(device, &broker.url()).start();
        let conn = broker.welcome(false);
        (broker, agent, conn)
    }

    /// Begins to listen on this port.
    pub fn broker_on(&self, port: u16) -> Broker {
        Broker::on(TcpListener::bind(("127.0.0.1", port)).unwrap(), self.wire.clone())
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let lines = self.wire.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let hidden = lines.len().saturating_sub(LINES_SHOWN);
        println!("On the wire, after {hidden} lines:\n{}", lines[hidden..].join("\n"));
    }
}

/// A port on loopback, and the connections that came to it.
pub struct Broker {
    port: u16,
    incoming: Receiver<(TcpStream, Instant)>,
    wire: Wire,
}

impl Broker {
    fn on(listener: TcpListener, wire: Wire) -> Self {
        let port = listener.local_addr().unwrap().port();
        let (sender, incoming) = sync_channel(CONNECTIONS_MAX);
        // Accepts on a thread of its own, so that a connection's time doesn't depend on what the case is busy with. It
        // ends with the first connection after the case has.
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if sender.send((stream, Instant::now())).is_err() {
                    break;
                }
            }
        });
        Self { port, incoming, wire }
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// The next connection.
    pub fn accept(&self) -> Conn {
        self.accept_within(SOON)
    }

    pub fn accept_within(&self, bound: Duration) -> Conn {
        let Ok((stream, accepted)) = self.incoming.recv_timeout(bound) else {
            panic!("no connection came within {bound:?}");
        };
        stream.set_nodelay(true).unwrap();
        self.wire.note(self.port, "-- connection");
        Conn {
            stream,
            accepted,
            level: V5,
            input: Vec::new(),
            manners: Manners::default(),
            wire: self.wire.clone(),
            port: self.port,
        }
    }

    /// The next connection, with its CONNECT read and accepted.
    pub fn welcome(&self, session_present: bool) -> Conn {
        self.welcome_with(session_present, &[])
    }

    /// The same, with properties of MQTT 5 in CONNACK.
    pub fn welcome_with(&self, session_present: bool, properties: &[u8]) -> Conn {
        let mut conn = self.accept();
        conn.read_connect();
        conn.send(&packet::connack(conn.level, session_present, 0, properties));
        conn
    }
}

/// What is answered unasked for.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    pub puback: bool,
    pub suback: bool,
    pub pingresp: bool,
    /// Bytes go one by one, in both directions.
    pub byte_by_byte: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Self { puback: true, suback: true, pingresp: true, byte_by_byte: false }
    }
}

/// What came next.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Packet(Packet, usize),
    Closed,
    Silence,
}

/// One connection.
pub struct Conn {
    stream: TcpStream,
    pub accepted: Instant,
    pub level: u8,
    input: Vec<u8>,
    pub manners: Manners,
    wire: Wire,
    port: u16,
}

impl Conn {
    /// The first packet, which must be a CONNECT, and sets the version for what follows.
    pub fn read_connect(&mut self) -> Connect {
        match self.hear(SOON) {
            Heard::Packet(Packet::Connect(connect), _) => {
                self.level = connect.level;
                *connect
            }
            other => panic!("CONNECT must be first: {other:?}"),
        }
    }

    /// Answers with good manners until a packet is found, which is answered too.
    pub fn until<T>(&mut self, what: &str, find: impl FnMut(&Packet) -> Option<T>) -> T {
        self.until_within(SOON, what, find)
    }

    pub fn until_within<T>(&mut self, bound: Duration, what: &str, mut find: impl FnMut(&Packet) -> Option<T>) -> T {
        let deadline = Instant::now() + bound;
        loop {
            match self.hear(deadline.saturating_duration_since(Instant::now())) {
                Heard::Packet(packet, _) => {
                    self.answer(&packet);
                    if let Some(found) = find(&packet) {
                        return found;
                    }
                }
                Heard::Closed => panic!("closed by the agent instead of {what}"),
                Heard::Silence => panic!("waited {bound:?} for {what}"),
            }
        }
    }

    /// Waits for a PUBLISH whose last topic level is this.
    pub fn until_publish(&mut self, leaf: &str, fits: impl Fn(&serde_json::Value) -> bool) -> Publish {
        self.until(&format!("a PUBLISH to …/{leaf}"), |packet| match packet {
            Packet::Publish(publish) if publish.leaf() == leaf && fits(&publish.json()) => Some(publish.clone()),
            _ => None,
        })
    }

    /// Waits for the SUBSCRIBE; its filters.
    pub fn until_subscribe(&mut self) -> Vec<(String, u8)> {
        self.until("SUBSCRIBE", |packet| match packet {
            Packet::Subscribe { filters, .. } => Some(filters.clone()),
            _ => None,
        })
    }

    /// Answers with good manners until the agent closes; what it sent till then.
    pub fn until_closed(&mut self, bound: Duration) -> Vec<Packet> {
        let deadline = Instant::now() + bound;
        let mut heard = Vec::new();
        loop {
            match self.hear(deadline.saturating_duration_since(Instant::now())) {
                Heard::Packet(packet, _) => {
                    self.answer(&packet);
                    heard.push(packet);
                }
                Heard::Closed => return heard,
                Heard::Silence => panic!("the agent kept a connection for {bound:?} that it must give up"),
            }
        }
    }

    /// The next packet, unanswered. What can't be read as MQTT fails the case.
    pub fn hear(&mut self, bound: Duration) -> Heard {
        let deadline = Instant::now() + bound;
        loop {
            match packet::read(self.level, &self.input) {
                Ok(Some((packet, len))) => {
                    self.input.drain(..len);
                    self.wire.note(self.port, &format!("<- {}", words(&packet)));
                    return Heard::Packet(packet, len);
                }
                Ok(None) => {}
                Err(error) => panic!("garbage from the agent: {error}: {:02x?}", self.input),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Heard::Silence;
            }
            match self.read_some(left) {
                Some(0) => {
                    assert!(self.input.is_empty(), "closed in the middle of a packet: {:02x?}", self.input);
                    self.wire.note(self.port, "<- closed");
                    return Heard::Closed;
                }
                Some(_) => {}
                None => return Heard::Silence,
            }
        }
    }

    /// `None`: nothing came.
    fn read_some(&mut self, bound: Duration) -> Option<usize> {
        self.stream.set_read_timeout(Some(bound)).unwrap();
        let mut room = [0; 16 * 1024];
        let room = if self.manners.byte_by_byte { &mut room[..1] } else { &mut room[..] };
        match self.stream.read(room) {
            Ok(len) => {
                self.input.extend_from_slice(&room[..len]);
                Some(len)
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => None,
            // Closed with bytes of ours unread: that is a reset.
            Err(_) => Some(0),
        }
    }

    pub fn answer(&mut self, packet: &Packet) {
        let level = self.level;
        match packet {
            Packet::Publish(Publish { pkid, qos: 1, .. }) if self.manners.puback => self.send(&packet::puback(*pkid)),
            Packet::Subscribe { pkid, filters } if self.manners.suback => {
                self.send(&packet::suback(level, *pkid, &vec![QOS_1; filters.len()]));
            }
            Packet::Unsubscribe { pkid, filters } => self.send(&packet::unsuback(level, *pkid, filters.len())),
            Packet::PingReq if self.manners.pingresp => self.send(&packet::PINGRESP),
            _ => {}
        }
    }

    /// Sends bytes. An agent that is gone meanwhile is found out by the next read.
    pub fn send(&mut self, bytes: &[u8]) {
        self.wire.note(self.port, &format!("-> {:02x?}", &bytes[..bytes.len().min(32)]));
        if !self.manners.byte_by_byte {
            let _ = self.stream.write_all(bytes);
            return;
        }
        for byte in bytes {
            let _ = self.stream.write_all(&[*byte]);
            std::thread::sleep(BYTE_EVERY);
        }
    }

    /// Delivers a message at QoS 1.
    pub fn deliver(&mut self, pkid: u16, topic: &str, payload: &[u8]) {
        self.send(&packet::message(self.level, pkid, false, topic, payload));
    }

    /// Closes without a word of MQTT, when the agent has read what was sent to it before.
    pub fn close(mut self) {
        self.wire.note(self.port, "-> closed");
        self.manners = Manners { puback: false, suback: false, pingresp: false, ..self.manners };
        let _ = self.stream.shutdown(Shutdown::Write);
        self.until_closed(SOON);
    }
}

fn words(packet: &Packet) -> String {
    let Packet::Publish(publish) = packet else { return format!("{packet:?}") };
    let Publish { topic, payload, qos, retain, dup, pkid } = publish;
    let flags = [("retain", retain), ("dup", dup)].map(|(name, set)| if *set { name } else { "" }).join(" ");
    format!("Publish {pkid} QoS {qos} {flags} {topic} {}", String::from_utf8_lossy(payload))
}
