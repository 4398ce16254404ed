//! What AWS IoT Core takes on one connection, and doesn't announce: `mqtt.limits = "aws-iot"` holds each of it, as the
//! server sees it, while a backlog goes out as fast as may be.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::broker::{Case, Conn, Heard};
use super::common::backlog::fill;
use super::common::{Gateway, SOON};
use super::packet::{self, Packet, Publish};
use super::publishing::{SLASHES_MAX, TOPIC_MAX, is_record, seqs};

/// Bytes of a packet.
const PACKET_MAX: usize = 128 * 1024;
/// Publishes without a PUBACK.
const INFLIGHT_MAX: usize = 100;
/// In any second.
const PUBLISHES_MAX: usize = 100;
const BYTES_MAX: usize = 512 * 1024;
const SECOND: Duration = Duration::from_secs(1);
/// What waits: some seconds' worth, at both limits.
const STORED: u64 = 7_000;
/// Publishes that are looked at where they are small: two and a half seconds' worth.
const SMALL_PUBLISHES: usize = 200;
/// The server takes no larger ones then (MQTT 5): one sample each.
const SMALL_BYTES: u32 = 500;

/// When a publish came, and how long it was.
type Arrivals = Vec<(Instant, usize)>;

/// What is counted of the publishes of any second, at most.
fn busiest_second(arrivals: &Arrivals, counted: impl Fn(usize) -> usize) -> usize {
    let (mut most, mut sum, mut first) = (0, 0, 0);
    for (at, bytes) in arrivals {
        sum += counted(*bytes);
        while at.duration_since(arrivals[first].0) >= SECOND {
            sum -= counted(arrivals[first].1);
            first += 1;
        }
        most = most.max(sum);
    }
    most
}

/// Takes publishes, each held to what holds for one, until it is over.
fn take(conn: &mut Conn, mut is_over: impl FnMut(&Publish, usize) -> bool) -> Arrivals {
    let mut arrivals = Arrivals::new();
    loop {
        let Heard::Packet(packet, bytes) = conn.hear(SOON) else { panic!("closed, or silent: {}", arrivals.len()) };
        let at = Instant::now();
        conn.answer(&packet);
        assert!(bytes <= PACKET_MAX, "{bytes} B");
        let topics = match &packet {
            Packet::Publish(publish) => vec![&publish.topic],
            Packet::Subscribe { filters, .. } => filters.iter().map(|(filter, _)| filter).collect(),
            _ => Vec::new(),
        };
        for topic in topics {
            assert!(topic.matches('/').count() <= SLASHES_MAX && topic.len() <= TOPIC_MAX, "{topic}");
        }
        let Packet::Publish(publish) = packet else { continue };
        arrivals.push((at, bytes));
        if is_over(&publish, arrivals.len()) {
            return arrivals;
        }
    }
}

#[test]
fn each_limit_of_aws_holds_while_a_backlog_drains_as_fast_as_may_be() {
    let case = Case::new("AWS IoT Core: packet size, publishes and bytes a second, in flight, topics");
    let broker = case.broker();
    // All that would be more than AWS takes, where that isn't looked after. More attributes than go into a packet.
    let gateway = Gateway::new("gw-aws", &broker.url()).with(&format!(
        r#"
        [device]
        groups = ["canary"]
        [device.attributes]
        long = "{}"
        [mqtt]
        limits = "aws-iot"
        topic_prefix = "a/b/c/d"
        inflight_max = 1000
        [mqtt.reconnect]
        min = "1s"
        max = "2s"
        [mqtt.drain]
        publishes_per_second = 100000
        "#,
        "x".repeat(PACKET_MAX)
    ));
    let mut missing: BTreeSet<u64> = fill(&gateway.store(), STORED);
    let agent = gateway.start();

    let mut conn = broker.welcome_with(false, &packet::long(packet::PACKET_MAX, SMALL_BYTES));
    conn.manners.puback = false;
    let mut unanswered = Vec::new();
    let mut small = take(&mut conn, |publish, count| {
        unanswered.push(publish.clone());
        count == INFLIGHT_MAX
    });
    match conn.hear(SECOND) {
        Heard::Silence => {}
        other => panic!("over {INFLIGHT_MAX} in flight: {other:?}"),
    }
    let mut came = |publish: &Publish| {
        if is_record(publish) {
            seqs(publish).iter().for_each(|seq| {
                missing.remove(seq);
            });
        }
        missing.is_empty()
    };
    conn.manners.puback = true;
    for publish in unanswered {
        came(&publish);
        conn.answer(&Packet::Publish(publish));
    }
    small.extend(take(&mut conn, |publish, count| {
        came(publish);
        count == SMALL_PUBLISHES
    }));
    conn.close();

    let large = take(&mut broker.welcome(true), |publish, _| came(publish));
    agent.wait_for_log(&format!("takes {PACKET_MAX} B, attributes of"));
    let bytes = busiest_second(&large, |bytes| bytes);
    let publishes = busiest_second(&small, |_| 1);
    println!(
        "busiest second: {publishes} publishes, where {} were small; {bytes} B, where {} had {} KiB",
        small.len(),
        large.len(),
        large.iter().map(|(_, bytes)| bytes).sum::<usize>() >> 10
    );
    assert!(publishes <= PUBLISHES_MAX, "{publishes} publishes in a second");
    assert!(bytes <= BYTES_MAX, "{bytes} B in a second");
}
