//! Between the agent and the broker: connections as they come and go, packets as they arrive, and what the fleet sees
//! of them.

use std::time::Duration;

use super::super::check::{self, Message, Truth};
use super::super::network::{self, Fate, Way, millis};
use super::super::planted::Planted;
use super::super::report::What;
use super::super::scenario::{Flaw, When};
use super::{Event, FaultKind, World};
use crate::broker::{Broker, BrokerOutput, ConnId, Settings};
use crate::engine::io::{EffectId, Input, LinkFault, LinkFaultKind};
use crate::engine::packet::{AckReason, ConnAck, Connect, ConnectCode, Packet, Publish, Version};
use crate::engine::time::{Mono, Unix};

/// The operator's own connection to the broker: it never breaks.
const OPERATOR: ConnId = ConnId(0);
/// A try to open a connection over a path that swallows packets ends after this, as in the runtime.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which an acknowledgement was lost breaks within this.
const BREAKS_WITHIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));
/// A replayed message comes again after this.
const REPLAYED_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(6 * 3_600));
/// Records begun within this after the clock was set need no date yet.
const CLOCK_SETTLES_MS: u64 = 60_000;
/// Messages of the operator that wait for a broker that is down.
const UNSENT_MAX: usize = 10_000;
/// Where the will and other messages without a record of their own go.
const UNRECORDED: [&str; 2] = ["/presence", "/attributes"];

impl World<'_> {
    /// The agent wants a connection.
    pub(super) fn connect(&mut self, id: EffectId) {
        self.watch.retries.tried(self.at, &mut self.watch.findings);
        self.diary.summary.tries += 1;
        self.history.tries.push(self.at);
        let latency = millis(self.network.latency());
        let swallows = self.is_active(|fault| matches!(fault, FaultKind::HalfOpen)) || !self.network.is_covered();
        let refused =
            self.is_active(|fault| matches!(fault, FaultKind::Cut | FaultKind::BrokerDown | FaultKind::BrokerForgets));
        if swallows || refused {
            let takes = if swallows { millis(OPEN_TIMEOUT) } else { 2 * latency };
            let detail = if swallows { "connect: timed out" } else { "connect: refused" };
            let fault = LinkFault::new(LinkFaultKind::Tcp, detail);
            self.agenda.enter(self.at + takes, Event::Unreachable(self.life, id, fault));
            return;
        }
        let conn = self.network.open();
        self.agenda.enter(self.at + 2 * latency, Event::Opened(self.life, id, conn));
    }

    pub(super) fn opened(&mut self, life: u64, id: EffectId, conn: ConnId) {
        if life != self.life || !self.network.is_open(conn) {
            self.network.close(conn);
            if life == self.life {
                let fault = LinkFault::new(LinkFaultKind::Tcp, "connect: reset");
                self.link_down(id, fault);
            }
            return;
        }
        self.broker.connected(Mono(self.at), conn);
        self.plan_broker();
        if let Some(agent) = &mut self.agent {
            agent.link = Some((id, conn));
            agent.inbox.push_back(Input::LinkUp { id, lookup: None, password: None });
        }
    }

    /// The agent learns that a connection is gone, or never came about.
    pub(super) fn link_down(&mut self, id: EffectId, fault: LinkFault) {
        let fraction = match self.planted {
            Some(Planted::NoJitter) => 1.0,
            Some(Planted::WildDice) => fastrand::f64(),
            _ => self.dice.fraction(),
        };
        let Some(agent) = &mut self.agent else { return };
        let retry_in = agent.backoff.draw(fraction);
        if agent.link.is_some_and(|(link, _)| link == id) {
            agent.link = None;
        }
        agent.inbox.push_back(Input::LinkDown { id, fault, retry_in });
        self.watch.retries.waits(self.at, retry_in, &mut self.watch.findings);
    }

    pub(super) fn send_up(&mut self, id: EffectId, packet: Packet) {
        let Some((link, conn)) = self.agent.as_ref().and_then(|agent| agent.link) else { return };
        if link != id {
            return;
        }
        self.diary.summary.sent_bytes += network::len(&packet) as u64;
        if let (Some(Planted::TrimBeforeAck), Packet::Publish(publish)) = (self.planted, &packet) {
            let early = Packet::PubAck { pkid: publish.pkid, reason: AckReason::Success };
            if let Some(agent) = &mut self.agent {
                agent.inbox.push_back(Input::Packet { id, packet: early });
            }
        }
        if let Fate::Arrives(at, packet) = self.network.send(self.at, conn, Way::Up, packet) {
            self.agenda.enter(at, Event::Up(conn, packet));
        }
    }

    /// The agent closes its connection.
    pub(super) fn close(&mut self, id: EffectId) {
        if let Some((_, conn)) = self.agent.as_ref().and_then(|agent| agent.link).filter(|(link, _)| *link == id) {
            self.leave(conn);
        }
        self.link_down(id, LinkFault::new(LinkFaultKind::Local, "closed"));
    }

    /// The agent's end is gone; the broker learns of it once all that was sent has arrived.
    pub(super) fn leave(&mut self, conn: ConnId) {
        let last = self.network.send(self.at, conn, Way::Up, Packet::PingReq);
        if let Fate::Arrives(at, _) = last {
            self.agenda.enter(at, Event::BrokerLoses(conn));
        }
    }

    pub(super) fn broker_loses(&mut self, conn: ConnId) {
        self.network.close(conn);
        self.broker.disconnected(Mono(self.at), conn, false);
        self.plan_broker();
        self.drain_broker();
    }

    pub(super) fn agent_loses(&mut self, conn: ConnId, fault: LinkFault) {
        self.network.close(conn);
        if let Some((id, _)) = self.agent.as_ref().and_then(|agent| agent.link).filter(|(_, ours)| *ours == conn) {
            self.link_down(id, fault);
        }
    }

    /// Cuts a connection: both ends learn of it, what is under way is lost.
    pub(super) fn cut(&mut self, conn: ConnId) {
        if !self.network.is_open(conn) {
            return;
        }
        self.network.close(conn);
        self.broker.disconnected(Mono(self.at), conn, false);
        let fault = LinkFault::new(LinkFaultKind::Server, "connection reset");
        self.agent_loses(conn, fault);
        self.plan_broker();
        self.drain_broker();
    }

    /// The connection that the agent has, if it has one.
    pub(super) fn connection(&self) -> Option<ConnId> {
        self.agent.as_ref().and_then(|agent| agent.link).map(|(_, conn)| conn)
    }

    pub(super) fn arrives_at_broker(&mut self, conn: ConnId, mut packet: Packet) {
        if !self.network.is_open(conn) {
            return;
        }
        if let Packet::Connect(connect) = &mut packet {
            // A broker keeps no session for longer than it is set up to, whatever a client asks for.
            let kept_s = u32::try_from(self.scenario.network.session_expiry.as_secs()).unwrap_or(u32::MAX);
            connect.session_expiry_s = connect.session_expiry_s.min(kept_s);
        }
        match &packet {
            Packet::Connect(_) if self.is_active(|fault| matches!(fault, FaultKind::BrokerRefuses)) => {
                return self.refuse(conn);
            }
            Packet::Publish(publish) => {
                if self.is_too_much() {
                    return self.cut(conn);
                }
                self.fleet_gets(publish);
            }
            Packet::Subscribe { .. } => self.watch.commands.subscribed(),
            Packet::PubAck { pkid, .. } => {
                if let Some(id) = self.delivered.remove(&(conn, *pkid)) {
                    self.accepted(&id);
                }
            }
            _ => {}
        }
        let connects = matches!(packet, Packet::Connect(_) | Packet::Disconnect { .. });
        self.broker.receive(Mono(self.at), conn, packet);
        if connects {
            self.plan_broker();
        }
        self.drain_broker();
    }

    pub(super) fn arrives_at_agent(&mut self, conn: ConnId, packet: Packet) {
        let Some(agent) = &mut self.agent else { return };
        let Some((id, _)) = agent.link.filter(|(_, ours)| *ours == conn) else { return };
        if self.planted == Some(Planted::TrimBeforeAck) && matches!(packet, Packet::PubAck { .. }) {
            return;
        }
        if let Packet::ConnAck(ack) = &packet {
            self.session_present = ack.session_present;
        }
        agent.unread.push_back(Input::Packet { id, packet });
    }

    /// What the broker has to say, on its way.
    pub(super) fn drain_broker(&mut self) {
        while let Some((conn, output)) = self.broker.poll_output() {
            if conn == OPERATOR {
                if let BrokerOutput::Packet(Packet::PubAck { reason, .. }) = output {
                    self.order_reached = reason == AckReason::Success;
                }
                continue;
            }
            match output {
                BrokerOutput::Packet(packet) => self.send_down(conn, packet),
                BrokerOutput::Close => {
                    let fault = LinkFault::new(LinkFaultKind::Server, "closed by the broker");
                    if let Fate::Arrives(at, _) = self.network.send(self.at, conn, Way::Down, Packet::PingResp) {
                        self.agenda.enter(at, Event::AgentLoses(conn, fault));
                    }
                }
            }
        }
    }

    fn send_down(&mut self, conn: ConnId, packet: Packet) {
        let chance = |fault: &FaultKind| match (fault, &packet) {
            (FaultKind::AcksLost { probability }, Packet::PubAck { .. })
            | (FaultKind::Duplicates { probability }, Packet::Publish(_)) => *probability,
            _ => 0.0,
        };
        let probability = self.active.values().map(|active| chance(&active.kind)).fold(0.0, f64::max);
        let strikes = probability > 0.0 && self.dice.happens(probability);
        match packet {
            Packet::PubAck { .. } if strikes => {
                let (low, high) = BREAKS_WITHIN;
                let at = self.at + millis(self.dice.between(low, high));
                let fault = LinkFault::new(LinkFaultKind::Server, "connection reset");
                self.agenda.enter(at, Event::AgentLoses(conn, fault));
                self.agenda.enter(at, Event::BrokerLoses(conn));
            }
            Packet::Publish(publish) => {
                if let Some(id) = self.cloud.id_of(&publish.payload) {
                    self.delivered.insert((conn, publish.pkid), id);
                }
                if strikes {
                    let again = Publish { dup: true, ..publish.clone() };
                    self.deliver(conn, Packet::Publish(again));
                }
                self.deliver(conn, Packet::Publish(publish));
            }
            other => {
                if matches!(&other, Packet::ConnAck(ack) if ack.code == ConnectCode::Success && !ack.session_present) {
                    self.watch.commands.session_made();
                }
                self.deliver(conn, other);
            }
        }
    }

    fn deliver(&mut self, conn: ConnId, packet: Packet) {
        if let Fate::Arrives(at, packet) = self.network.send(self.at, conn, Way::Down, packet) {
            self.agenda.enter(at, Event::Down(conn, packet));
        }
    }

    /// CONNECT is answered with "server busy".
    fn refuse(&mut self, conn: ConnId) {
        let code = ConnectCode::ServerUnavailable;
        let busy = ConnAck {
            session_present: false,
            code,
            receive_max: 1,
            packet_max: None,
            keep_alive_s: None,
            qos_max: 1,
            retains: true,
            assigned_id: None,
        };
        self.deliver(conn, Packet::ConnAck(busy));
        self.broker.disconnected(Mono(self.at), conn, true);
        let fault = LinkFault::new(LinkFaultKind::Server, "closed by the broker");
        if let Fate::Arrives(at, _) = self.network.send(self.at, conn, Way::Down, Packet::PingResp) {
            self.agenda.enter(at, Event::AgentLoses(conn, fault));
        }
    }

    /// Whether the broker closes the connection because of one publish more in this second.
    fn is_too_much(&mut self) -> bool {
        let limit = self.active.values().find_map(|active| match &active.kind {
            FaultKind::Throttle { per_second } => Some(*per_second),
            _ => None,
        });
        if let Some(limit) = limit {
            let second = self.at / 1_000;
            let (when, count) = &mut self.throttle;
            *count = if *when == second { *count + 1 } else { 1 };
            *when = second;
            if *count > limit {
                return true;
            }
        }
        false
    }

    /// The broker has taken over a message.
    fn fleet_gets(&mut self, publish: &Publish) {
        self.diary.summary.messages += 1;
        let json = check::json(&publish.payload);
        let Some(message) = Message::parse(&json) else { return };
        let recorded = !UNRECORDED.iter().any(|topic| publish.topic.ends_with(topic));
        for record in message.records() {
            let truth = self.true_time(record.boot, Mono(record.mono_ms));
            let unix_ms = |at: u64| self.clock.true_date(at).0;
            let truth = Truth {
                boot: truth.map(|(boot, _)| boot),
                unix_ms: unix_ms(truth.map_or(0, |(_, at)| at)),
                now_ms: unix_ms(self.at),
                made_at: truth.map_or(0, |(_, at)| at),
                trusts_any_clock: self.trusts_any_clock(),
                // A record that is begun as the clock is set may not know it yet.
                clock_known_since: self.times.clock_known_since.map(|since| since + CLOCK_SETTLES_MS),
            };
            self.watch.dates.got(self.at, record, truth, &mut self.watch.findings);
            if recorded {
                self.watch.records.got(record.seq);
            }
        }
        if let (Some(id), Some(status)) = (&message.command_id, &message.status) {
            self.watch.commands.told(id, status);
        }
        if let Some(nonce) = &message.nonce {
            self.cloud.saw_nonce(nonce);
        }
    }

    /// A broker that has just begun knows the operator.
    pub(super) fn connect_operator(&mut self) {
        let now = Mono(self.at);
        self.broker.connected(now, OPERATOR);
        let connect = Connect {
            version: Version::V5,
            client_id: "operator".into(),
            clean_start: true,
            keep_alive_s: 0,
            username: None,
            password: None,
            will: None,
            will_delay_s: 0,
            session_expiry_s: u32::MAX,
            packet_max: u32::MAX,
            receive_max: u16::MAX,
        };
        self.broker.receive(now, OPERATOR, Packet::Connect(Box::new(connect)));
        self.drain_broker();
    }

    /// The broker restarts and has forgotten everything.
    pub(super) fn forget_sessions(&mut self) {
        self.broker = Broker::new(Settings::default());
        self.delivered.clear();
        self.watch.commands.not_kept();
        self.connect_operator();
    }

    /// The broker is back: what the operator could not send goes out.
    pub(super) fn broker_is_back(&mut self) {
        for message in std::mem::take(&mut self.unsent) {
            self.publish_order(message);
        }
    }

    /// An order is due.
    pub(super) fn order(&mut self, index: usize) {
        let Some(order) = self.scenario.commands.get(index) else { return };
        self.history.orders.push((index, self.at));
        let date = Unix(self.clock.true_date(self.at).0);
        for _ in 0..order.burst.max(1) {
            let Some(message) = self.cloud.order(order, date) else { continue };
            if order.flaw == Some(Flaw::Replayed) {
                let (low, high) = REPLAYED_AFTER;
                if let Some(dice) = self.order_dice.get_mut(index) {
                    let at = self.at + millis(dice.between(low, high));
                    self.agenda.enter(at, Event::Replay(Box::new(message.clone())));
                }
            }
            self.publish_order(message);
        }
        if let When::Every(mean) = order.when {
            self.next_order(index, mean);
        }
    }

    /// When an order that comes at random comes next, if before the calm.
    pub(super) fn next_order(&mut self, index: usize, mean: Duration) {
        let Some(dice) = self.order_dice.get_mut(index) else { return };
        let at = self.at + millis(dice.until_next(mean));
        if at < self.calm_at {
            self.agenda.enter(at, Event::Order(index));
        }
    }

    pub(super) fn publish_order(&mut self, message: super::cloud::Message) {
        if self.is_active(|fault| matches!(fault, FaultKind::BrokerDown | FaultKind::BrokerForgets)) {
            if self.unsent.len() < UNSENT_MAX {
                self.unsent.push(message);
            }
            return;
        }
        self.diary.note(
            self.at,
            What::Ordered {
                id: message.id.clone(),
                command: message.command.clone(),
                flaw: message.flaw.map(Flaw::word),
            },
        );
        let publish = Publish {
            topic: message.topic.clone(),
            payload: message.payload.clone().into(),
            qos: 1,
            retain: false,
            dup: false,
            pkid: 1,
            properties: None,
        };
        self.cloud.remember(&message);
        self.order_reached = false;
        self.broker.receive(Mono(self.at), OPERATOR, Packet::Publish(publish));
        self.drain_broker();
        // What no session has subscribed to is gone at once.
        let kept = self.order_reached && self.cloud.id_of(&message.payload).is_some();
        if kept && message.flaw != Some(Flaw::Expired) {
            let left_ms = message.expires.0.saturating_sub(self.clock.true_date(self.at).0);
            let expires_at = self.at.saturating_add(u64::try_from(left_ms).unwrap_or(0));
            self.watch.commands.published(self.at, &message.id, expires_at);
        }
    }
}
