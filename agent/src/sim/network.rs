//! The way between the agent and the broker: TCP connections as their ends see them. What is sent arrives in order,
//! after a latency and no faster than the bandwidth; where there is no coverage it waits, as TCP's retransmissions do;
//! where the path has forgotten the connection (half-open) it is gone for good. Says when a packet arrives; delivers
//! nothing itself.

use std::collections::BTreeMap;
use std::time::Duration;

use super::dice::Dice;
use super::scenario::NetworkWorld;
use crate::broker::ConnId;
use crate::engine::packet::Packet;

/// What a packet has beside topic and payload, roughly: headers of MQTT.
const PACKET_OVERHEAD: usize = 8;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To the broker.
    Up,
    /// To the agent.
    Down,
}

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrives at this time.
    Arrives(u64, Packet),
    /// It waits for coverage, or is lost.
    Nothing,
}

/// The network.
#[derive(Debug)]
pub(super) struct Network {
    world: NetworkWorld,
    dice: Dice,
    covered: bool,
    /// Latency is so many times what it is.
    slow: f64,
    connections: BTreeMap<ConnId, Connection>,
    last: u64,
}

#[derive(Debug, Default)]
struct Connection {
    /// Nothing arrives any more, and nobody is told.
    dead: bool,
    /// What was sent last arrives then, up and down.
    arrives: [u64; 2],
    /// Sent while there was no coverage.
    held: Vec<(Way, Packet)>,
}

impl Network {
    pub(super) const fn new(world: NetworkWorld, dice: Dice) -> Self {
        Self { world, dice, covered: true, slow: 1.0, connections: BTreeMap::new(), last: 0 }
    }

    /// A connection is opened.
    pub(super) fn open(&mut self) -> ConnId {
        self.last += 1;
        let conn = ConnId(self.last);
        self.connections.insert(conn, Connection::default());
        conn
    }

    /// It is closed, or was cut: what is under way on it is lost.
    pub(super) fn close(&mut self, conn: ConnId) {
        self.connections.remove(&conn);
    }

    /// Whether packets still arrive on it.
    pub(super) fn is_open(&self, conn: ConnId) -> bool {
        self.connections.get(&conn).is_some_and(|connection| !connection.dead)
    }

    pub(super) const fn is_covered(&self) -> bool {
        self.covered
    }

    pub(super) const fn set_slow(&mut self, times: f64) {
        self.slow = times;
    }

    /// The path forgets all connections: what is sent from now on vanishes.
    pub(super) fn forget(&mut self) {
        self.connections.values_mut().for_each(|connection| connection.dead = true);
    }

    /// How long one way takes now.
    pub(super) fn latency(&mut self) -> Duration {
        let (low, high) = self.world.latency;
        self.dice.between(low, high).mul_f64(self.slow)
    }

    /// Coverage is lost, or comes back: then what waited is on its way again.
    pub(super) fn set_covered(&mut self, now: u64, covered: bool) -> Vec<(ConnId, Way, Fate)> {
        self.covered = covered;
        if !covered {
            return Vec::new();
        }
        let held: Vec<(ConnId, Way, Packet)> = self
            .connections
            .iter_mut()
            .flat_map(|(conn, connection)| connection.held.drain(..).map(|(way, packet)| (*conn, way, packet)))
            .collect();
        held.into_iter().map(|(conn, way, packet)| (conn, way, self.send(now, conn, way, packet))).collect()
    }

    /// A packet is sent.
    pub(super) fn send(&mut self, now: u64, conn: ConnId, way: Way, packet: Packet) -> Fate {
        let latency = millis(self.latency());
        let takes = self.world.bandwidth.map_or(0, |rate| (len(&packet) as u64).saturating_mul(1_000) / rate.max(1));
        let covered = self.covered;
        let Some(connection) = self.connections.get_mut(&conn).filter(|connection| !connection.dead) else {
            return Fate::Nothing;
        };
        if !covered {
            connection.held.push((way, packet));
            return Fate::Nothing;
        }
        let [up, down] = &mut connection.arrives;
        let before = if way == Way::Up { up } else { down };
        let at = (now + latency).max(*before + takes);
        *before = at;
        Fate::Arrives(at, packet)
    }
}

/// Length on the wire, near enough for bandwidth and figures.
pub(super) fn len(packet: &Packet) -> usize {
    match packet {
        Packet::Publish(publish) => publish.topic.len() + publish.payload.len() + PACKET_OVERHEAD,
        Packet::Connect(connect) => {
            connect.client_id.len() + connect.will.as_ref().map_or(0, |will| will.topic.len() + will.payload.len()) + 32
        }
        Packet::Subscribe { filters, .. } => filters.iter().map(|(filter, _)| filter.len() + 3).sum::<usize>() + 6,
        _ => PACKET_OVERHEAD / 2,
    }
}

/// Milliseconds of a length of time.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(bandwidth: Option<u64>) -> Network {
        let latency = (Duration::from_millis(20), Duration::from_millis(80));
        let world = NetworkWorld { latency, bandwidth, session_expiry: Duration::from_secs(3_600) };
        Network::new(world, Dice::new(1, "network"))
    }

    fn arrival(fate: &Fate) -> u64 {
        match fate {
            Fate::Arrives(at, _) => *at,
            Fate::Nothing => panic!("nothing arrives"),
        }
    }

    #[test]
    fn packets_arrive_in_the_order_of_sending_whatever_their_latency() {
        let mut network = network(None);
        let conn = network.open();
        let arrivals: Vec<u64> =
            (0..100).map(|n| arrival(&network.send(1_000 + n, conn, Way::Up, Packet::PingReq))).collect();
        assert!(arrivals.is_sorted(), "{arrivals:?}");
        assert!(arrivals[0] >= 1_020 && arrivals[99] <= 1_180, "{arrivals:?}");
    }

    #[test]
    fn without_coverage_packets_wait_and_arrive_when_it_is_back() {
        let mut network = network(None);
        let conn = network.open();
        network.set_covered(0, false);
        assert_eq!(network.send(5, conn, Way::Down, Packet::PingResp), Fate::Nothing);
        let late = network.set_covered(60_000, true);
        assert_eq!(late.len(), 1);
        assert!(arrival(&late[0].2) >= 60_020);
    }

    #[test]
    fn a_forgotten_connection_swallows_what_is_sent_and_a_new_one_does_not() {
        let mut network = network(None);
        let old = network.open();
        network.forget();
        assert_eq!(network.send(5, old, Way::Up, Packet::PingReq), Fate::Nothing);
        let new = network.open();
        assert!(network.is_open(new) && !network.is_open(old));
    }
}
