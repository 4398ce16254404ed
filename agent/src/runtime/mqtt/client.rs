//! A small client for one purpose at a time: `fieldmedic send`, the demo's viewer, tests. It keeps its session in
//! memory and never reconnects; the agent's own session, which loses nothing, is the engine's and not this.
#![expect(clippy::disallowed_methods, reason = "a shell: it waits with bounds and keeps its own ping timer")]

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::codec::Codec;
use super::incoming::Incoming;
use super::tell;
use super::transport::{self, Stream, Target};
use crate::engine::io::{LinkFault, LinkFaultKind};
use crate::engine::link::faults;
use crate::engine::packet::{AckReason, ConnAck, Connect, ConnectCode, Packet, Publish, Version};

/// How long the broker may take to answer a packet, and to take one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Announced keep-alive, in seconds.
const KEEP_ALIVE_S: u16 = 30;
const KEEP_ALIVE: Duration = Duration::from_secs(KEEP_ALIVE_S as u64);
/// Messages that may wait for [`Client::next_message`] while an answer is awaited.
const BACKLOG_MAX: usize = 4096;
/// The largest packet that is taken; a larger publish is acknowledged and skipped.
const PACKET_MAX: u32 = 1024 * 1024;

/// User name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, …)", self.username)
    }
}

/// A connected client.
#[derive(Debug)]
pub struct Client {
    version: Version,
    stream: Stream,
    incoming: Incoming,
    codec: Codec,
    output: BytesMut,
    backlog: VecDeque<Publish>,
    skipped: u64,
    next_pkid: u16,
    /// When to ask whether the broker is there, or, where that was asked, when its answer is overdue.
    ping_at: Instant,
    ping_open: bool,
}

impl Client {
    /// Connects with MQTT 5, and with 3.1.1 where the broker doesn't know 5.
    ///
    /// # Errors
    /// What the transport says, `Refused` with the broker's reason, or `KeepAlive` where it doesn't answer.
    pub async fn connect(
        target: &Arc<Target>,
        client_id: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Self, LinkFault> {
        Self::resume(target, client_id, credentials, Duration::ZERO).await
    }

    /// The same, with a session that the broker keeps for so long after the connection is lost: what is published to
    /// its subscriptions meanwhile comes with the next connection of that name.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn resume(
        target: &Arc<Target>,
        client_id: &str,
        credentials: Option<&Credentials>,
        keep: Duration,
    ) -> Result<Self, LinkFault> {
        let first = match Self::connect_as(Version::V5, target, client_id, credentials, keep).await? {
            Greeting::Welcome(client) => return Ok(*client),
            Greeting::OtherVersion(fault) => fault,
        };
        match Self::connect_as(Version::V311, target, client_id, credentials, keep).await? {
            Greeting::Welcome(client) => Ok(*client),
            Greeting::OtherVersion(_) => Err(first),
        }
    }

    /// The protocol that is spoken.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Messages that were larger than this client takes.
    #[must_use]
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Subscribes to all `filters` with QoS 1.
    ///
    /// # Errors
    /// `Refused` where the broker grants not all of them; otherwise the connection is gone.
    pub async fn subscribe(&mut self, filters: &[&str]) -> Result<(), LinkFault> {
        let pkid = self.take_pkid();
        let wanted = filters.iter().map(|filter| ((*filter).to_owned(), 1)).collect();
        self.queue(&Packet::Subscribe { pkid, filters: wanted, identifier: None })?;
        let granted = self
            .answer("subscription", |packet| match packet {
                Packet::SubAck { pkid: found, granted } if *found == pkid => Some(granted.clone()),
                _ => None,
            })
            .await?;
        match filters.iter().zip(granted).find(|(_, granted)| granted.is_err()) {
            Some((filter, _)) => Err(refused(format!("the broker refuses the subscription to {filter}"))),
            None => Ok(()),
        }
    }

    /// Publishes with QoS 1 and waits for the acknowledgement.
    ///
    /// # Errors
    /// The connection is gone, or the broker doesn't answer.
    pub async fn publish(&mut self, topic: &str, payload: Bytes, retain: bool) -> Result<AckReason, LinkFault> {
        let pkid = self.take_pkid();
        let publish = Publish { topic: topic.to_owned(), payload, qos: 1, retain, dup: false, pkid, properties: None };
        self.queue(&Packet::Publish(publish))?;
        self.answer("message", |packet| match packet {
            Packet::PubAck { pkid: found, reason } if *found == pkid => Some(*reason),
            _ => None,
        })
        .await
    }

    /// The next message. Its acknowledgement goes out with the next call of any kind. Keeps the connection alive while
    /// it waits. Its future may be dropped at any point (in a `select!`): nothing is lost, and no packet is torn.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn next_message(&mut self) -> Result<Publish, LinkFault> {
        loop {
            if let Some(message) = self.backlog.pop_front() {
                return Ok(message);
            }
            if Instant::now() >= self.ping_at {
                self.ping()?;
            }
            if let Ok(packet) = timeout_at(self.ping_at, self.next_packet()).await {
                self.take(packet?)?;
            }
        }
    }

    /// Says goodbye, so that no will is published, and closes.
    ///
    /// # Errors
    /// The connection was gone before that.
    pub async fn disconnect(mut self) -> Result<(), LinkFault> {
        self.queue(&Packet::Disconnect { reason: "normal".to_owned(), session_expiry_s: None })?;
        match timeout(ANSWER_TIMEOUT, self.flush()).await {
            Ok(flushed) => flushed?,
            Err(_) => return Err(unanswered("goodbye")),
        }
        self.stream.shutdown().await.map_err(|error| self.incoming.fault_of(&error))
    }

    async fn connect_as(
        version: Version,
        target: &Arc<Target>,
        client_id: &str,
        credentials: Option<&Credentials>,
        keep: Duration,
    ) -> Result<Greeting, LinkFault> {
        tracing::info!("broker: connecting to {} by MQTT {}", target.url(), version.word());
        let stream = transport::open(target).await?;
        let mut client = Self {
            version,
            stream,
            incoming: Incoming::new(target, version, PACKET_MAX as usize),
            codec: Codec::new(version, PACKET_MAX as usize),
            output: BytesMut::new(),
            backlog: VecDeque::new(),
            skipped: 0,
            next_pkid: 1,
            ping_at: Instant::now() + KEEP_ALIVE,
            ping_open: false,
        };
        client.queue(&connect(version, client_id, credentials, keep))?;
        let answer = match timeout(ANSWER_TIMEOUT, client.next_packet()).await {
            Ok(answer) => answer,
            Err(_) => return Err(unanswered("greeting")),
        };
        match answer {
            Ok(Packet::ConnAck(ack)) => client.greeted(ack, credentials.is_some()),
            Ok(_) => {
                let detail = "the broker's first packet is not a CONNACK".to_owned();
                Err(LinkFault::new(LinkFaultKind::Protocol, detail))
            }
            // A broker of 3.1.1 may close on a version that it doesn't know, without a word.
            Err(fault) if fault.kind == LinkFaultKind::Server => Ok(Greeting::OtherVersion(fault)),
            Err(fault) => Err(fault),
        }
    }

    fn greeted(self, ack: ConnAck, named: bool) -> Result<Greeting, LinkFault> {
        match ack.code {
            ConnectCode::Success => Ok(Greeting::Welcome(Box::new(self))),
            ConnectCode::UnsupportedVersion => {
                let detail = "the broker speaks neither MQTT 5 nor 3.1.1".to_owned();
                Ok(Greeting::OtherVersion(refused(detail)))
            }
            code @ (ConnectCode::BadCredentials | ConnectCode::NotAuthorized) => {
                Err(refused(faults::refusal(&code, named)))
            }
            // The id is none that was configured, and there is no will.
            code => Err(refused(code.to_string())),
        }
    }

    /// Waits for the packet in which `wanted` finds something; messages that come before it are kept.
    async fn answer<T>(&mut self, what: &str, wanted: impl Fn(&Packet) -> Option<T>) -> Result<T, LinkFault> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let Ok(packet) = timeout_at(deadline, self.next_packet()).await else { return Err(unanswered(what)) };
            let packet = packet?;
            match wanted(&packet) {
                Some(found) => return Ok(found),
                None => self.take(packet)?,
            }
        }
    }

    /// Cancel-safe: all progress is in `self`.
    async fn next_packet(&mut self) -> Result<Packet, LinkFault> {
        self.flush().await?;
        let packet = self.incoming.next(&mut self.stream).await?;
        tell("received", &packet);
        Ok(packet)
    }

    async fn flush(&mut self) -> Result<(), LinkFault> {
        let written = self.stream.write_all_buf(&mut self.output).await;
        written.map_err(|error| self.incoming.fault_of(&error))?;
        self.stream.flush().await.map_err(|error| self.incoming.fault_of(&error))
    }

    fn take(&mut self, packet: Packet) -> Result<(), LinkFault> {
        match packet {
            Packet::Publish(publish) => {
                if self.backlog.len() >= BACKLOG_MAX {
                    let detail = format!("{BACKLOG_MAX} messages came in that nobody read");
                    return Err(LinkFault::new(LinkFaultKind::Stalled, detail));
                }
                self.acknowledge(publish.pkid)?;
                self.backlog.push_back(publish);
                Ok(())
            }
            Packet::Oversize { pkid, .. } => {
                self.skipped += 1;
                self.acknowledge(pkid)
            }
            Packet::PingResp => {
                self.ping_open = false;
                self.ping_at = Instant::now() + KEEP_ALIVE;
                Ok(())
            }
            Packet::Disconnect { reason, .. } => {
                let detail = format!("the broker closed the connection: {reason}");
                Err(LinkFault::new(LinkFaultKind::Server, detail))
            }
            // An answer that came after its deadline.
            _ => Ok(()),
        }
    }

    fn acknowledge(&mut self, pkid: u16) -> Result<(), LinkFault> {
        if pkid == 0 {
            return Ok(());
        }
        self.queue(&Packet::PubAck { pkid, reason: AckReason::Success })
    }

    fn ping(&mut self) -> Result<(), LinkFault> {
        if self.ping_open {
            return Err(unanswered("ping"));
        }
        self.ping_open = true;
        self.ping_at = Instant::now() + ANSWER_TIMEOUT;
        self.queue(&Packet::PingReq)
    }

    fn queue(&mut self, packet: &Packet) -> Result<(), LinkFault> {
        tell("sent", packet);
        Ok(self.codec.encode(packet, &mut self.output)?)
    }

    fn take_pkid(&mut self) -> u16 {
        let pkid = self.next_pkid;
        self.next_pkid = pkid.checked_add(1).unwrap_or(1);
        pkid
    }
}

/// How a broker received us.
enum Greeting {
    Welcome(Box<Client>),
    OtherVersion(LinkFault),
}

fn connect(version: Version, client_id: &str, credentials: Option<&Credentials>, keep: Duration) -> Packet {
    Packet::Connect(Box::new(Connect {
        version,
        client_id: client_id.to_owned(),
        clean_start: keep.is_zero(),
        keep_alive_s: KEEP_ALIVE_S,
        username: credentials.map(|known| known.username.clone()),
        password: credentials.map(|known| known.password.clone()),
        will: None,
        will_delay_s: 0,
        session_expiry_s: u32::try_from(keep.as_secs()).unwrap_or(u32::MAX),
        packet_max: PACKET_MAX,
        receive_max: u16::MAX,
    }))
}

fn unanswered(what: &str) -> LinkFault {
    let detail = format!("the broker did not answer this {what} within {ANSWER_TIMEOUT:?}");
    LinkFault::new(LinkFaultKind::KeepAlive, detail)
}

fn refused(detail: String) -> LinkFault {
    LinkFault::new(LinkFaultKind::Refused, detail)
}
