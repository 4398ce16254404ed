//! What is published is MQTT, within what the broker takes, and is sent until it is acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::broker::{Case, Heard};
use super::common::{Gateway, PREFIX, SOON};
use super::packet::{self, Packet, Publish};

/// A publish is given up on after 30 s without a PUBACK, and the slowest link that is waited for may write as long
/// again.
const UNACKED_BOUND: Duration = Duration::from_secs(120);
/// How long is looked for what must not come.
const WATCHED: Duration = Duration::from_secs(4);
/// AWS IoT Core: slashes in a topic, and its bytes.
pub const SLASHES_MAX: usize = 7;
pub const TOPIC_MAX: usize = 256;

/// The numbers of the records in a message.
pub fn seqs(publish: &Publish) -> Vec<u64> {
    let body = publish.json();
    match body["samples"].as_array() {
        Some(samples) => samples.iter().map(|sample| sample["seq"].as_u64().unwrap()).collect(),
        None => vec![body["seq"].as_u64().unwrap()],
    }
}

pub fn is_record(publish: &Publish) -> bool {
    matches!(publish.leaf(), "telemetry" | "events" | "results")
}

#[test]
fn what_is_published_is_acknowledged_once_and_not_sent_again() {
    let case = Case::new("MQTT publish");
    let broker = case.broker();
    let _agent = Gateway::new("gw-publish", &broker.url()).start();
    let mut seen = BTreeSet::new();
    for session_present in [false, true] {
        let mut conn = broker.welcome(session_present);
        let mut samples = 0;
        conn.until("three messages of telemetry", |packet| {
            let Packet::Publish(publish) = packet else { return None };
            assert_eq!((publish.qos, publish.dup), (1, false), "{publish:?}");
            if is_record(publish) {
                assert!(!publish.retain);
                let new = seqs(publish).into_iter().all(|seq| seen.insert(seq));
                assert!(new, "acknowledged, and sent again: {publish:?}");
            }
            samples += usize::from(publish.leaf() == "telemetry");
            (samples == 3).then_some(())
        });
        conn.close();
    }
}

#[test]
fn without_a_puback_the_connection_is_dead_and_the_records_come_again() {
    let case = Case::new("MQTT publish retry: no PUBACK");
    let (broker, _agent, mut conn) = case.greeted("gw-unacked");
    conn.until_publish("telemetry", |_| true);
    conn.manners.puback = false;
    let withheld: BTreeSet<u64> = conn
        .until_closed(UNACKED_BOUND)
        .iter()
        .filter_map(|packet| if let Packet::Publish(publish) = packet { Some(publish) } else { None })
        .filter(|publish| is_record(publish))
        .flat_map(seqs)
        .collect();
    assert!(!withheld.is_empty());

    let mut missing = withheld;
    broker.welcome(true).until("what was not acknowledged", |packet| {
        if let Packet::Publish(publish) = packet {
            seqs(publish).iter().for_each(|seq| {
                missing.remove(seq);
            });
        }
        missing.is_empty().then_some(())
    });
}

#[test]
fn no_more_is_under_way_than_the_broker_takes() {
    const RECEIVE_MAX: usize = 2;
    let case = Case::new("MQTT 5 flow control: Receive Maximum");
    let broker = case.broker();
    let _agent = Gateway::new("gw-window", &broker.url()).start();
    let limit = u16::try_from(RECEIVE_MAX).unwrap();
    let mut conn = broker.welcome_with(false, &packet::short(packet::RECEIVE_MAX, limit));
    conn.manners.puback = false;
    let mut unacked = BTreeMap::new();
    // Presence, attributes and events wait: more than fits.
    for round in 0..6 {
        while unacked.len() < RECEIVE_MAX {
            let (pkid, topic) = conn.until("a PUBLISH", |packet| match packet {
                Packet::Publish(publish) => Some((publish.pkid, publish.topic.clone())),
                _ => None,
            });
            assert!(unacked.insert(pkid, topic).is_none(), "packet id {pkid} is in use");
        }
        if round == 0 {
            assert_eq!(next_publish(&mut conn), None, "over Receive Maximum; unacknowledged: {unacked:?}");
        }
        let (pkid, _) = unacked.pop_first().unwrap();
        conn.send(&packet::puback(pkid));
    }
}

/// The next PUBLISH, if there is one while it is watched.
fn next_publish(conn: &mut super::broker::Conn) -> Option<Publish> {
    loop {
        match conn.hear(WATCHED) {
            Heard::Packet(Packet::Publish(publish), _) => return Some(publish),
            Heard::Packet(packet, _) => conn.answer(&packet),
            Heard::Closed => panic!("closed over a full window"),
            Heard::Silence => return None,
        }
    }
}

#[test]
fn no_packet_is_larger_than_the_broker_takes() {
    // Enough for presence and small events, too little for telemetry and attributes.
    const PACKET_MAX: u32 = 400;
    let case = Case::new("MQTT 5 Maximum Packet Size");
    let broker = case.broker();
    let site = "x".repeat(300);
    let gateway = Gateway::new("gw-small", &broker.url()).with(&format!("[device.attributes]\nsite = \"{site}\""));
    let _agent = gateway.start();
    let mut conn = broker.welcome_with(false, &packet::long(packet::PACKET_MAX, PACKET_MAX));
    let mut too_large = Vec::new();
    let mut presence = 0;
    let until = Instant::now() + WATCHED;
    loop {
        match conn.hear(until.saturating_duration_since(Instant::now())) {
            Heard::Packet(packet, len) => {
                conn.answer(&packet);
                presence += usize::from(matches!(&packet, Packet::Publish(publish) if publish.leaf() == "presence"));
                if len > PACKET_MAX as usize {
                    too_large.push(format!("{len} B: {packet:?}"));
                }
            }
            Heard::Closed => panic!("closed"),
            Heard::Silence => break,
        }
    }
    assert!(too_large.is_empty(), "over {PACKET_MAX} B: {too_large:?}");
    assert_eq!(presence, 1, "what fits is still sent");
}

#[test]
fn an_answer_that_refuses_costs_no_more_than_what_it_refuses_whatever_its_code() {
    let case = Case::new("MQTT 5 reason codes of PUBACK and SUBACK, known or not");
    let (_broker, _agent, mut conn) = case.greeted("gw-codes");
    conn.manners.suback = false;
    // 0x95 is too large and 0x87 not authorized. A reason string and a user property, a property that the standard
    // doesn't have, no properties at all; codes that it doesn't have.
    let too_large = [&[0x95, 12][..], b"\x1f\0\x02no", b"\x26\0\x01a\0\x01b"].concat();
    let mut refusals = BTreeMap::from([
        ("presence", vec![&[0xff][..]]),
        ("attributes", vec![&[0x9e, 0]]),
        ("telemetry", vec![&[0x87, 2, 0x7d, 1], &[0x95], &too_large]),
    ]);
    let (mut refused, mut waits) = (BTreeSet::new(), BTreeSet::new());
    // What was refused alone comes again, whatever the code was: the broker may be wrong about all of its topic.
    while refusals.values().any(|codes| !codes.is_empty()) || !waits.is_empty() {
        let Heard::Packet(packet, _) = conn.hear(SOON) else { panic!("closed, or silent, over {refused:?}") };
        let Packet::Publish(publish) = &packet else {
            if let Packet::Subscribe { pkid, .. } = &packet {
                conn.send(&packet::suback(conn.level, *pkid, &[0xfe]));
            }
            conn.answer(&packet);
            continue;
        };
        let message = publish.json();
        let samples = message["samples"].as_array().into_iter().flatten();
        let seqs = samples.clone().filter_map(|sample| sample["seq"].as_u64());
        if let Some(code) = refusals.get_mut(publish.leaf()).and_then(Vec::pop) {
            conn.send(&packet::framed(0x40, &[&publish.pkid.to_be_bytes()[..], code].concat()));
            refused.insert(publish.topic.clone());
            waits.extend(seqs);
            continue;
        }
        conn.answer(&packet);
        waits.retain(|seq| !seqs.clone().any(|taken| taken == *seq));
        let dropped: Vec<&Json> = samples.map(|sample| &sample["agent"]["dropped"]).collect();
        assert!(dropped.iter().all(|dropped| dropped.is_null()), "{dropped:?}");
    }
    assert_eq!(refused.len(), 3, "{refused:?}");
}

#[test]
fn topics_keep_within_what_aws_takes_with_the_longest_of_names() {
    let case = Case::new("MQTT topics: depth and length");
    let broker = case.broker();
    let device = "d".repeat(128);
    let _agent = Gateway::new(&device, &broker.url()).start();
    let mut conn = broker.accept();
    let will = conn.read_connect().will.unwrap().topic;
    conn.send(&packet::connack(conn.level, false, 0, &[]));
    let mut topics = BTreeSet::from([will]);
    let mut wanted = BTreeSet::from(["commands", "telemetry", "events", "attributes", "presence"]);
    conn.until("a packet on each topic", |packet| {
        match packet {
            Packet::Publish(publish) => topics.insert(publish.topic.clone()),
            Packet::Subscribe { filters, .. } => topics.insert(filters[0].0.clone()),
            _ => false,
        };
        wanted.retain(|leaf| !topics.iter().any(|topic| topic.ends_with(leaf)));
        wanted.is_empty().then_some(())
    });
    for topic in topics {
        assert!(topic.starts_with(&format!("{PREFIX}/{device}/")), "{topic}");
        assert!(topic.matches('/').count() <= SLASHES_MAX && topic.len() <= TOPIC_MAX, "{topic}");
    }
}

#[test]
fn what_was_cut_before_its_puback_comes_again_and_nothing_else_does() {
    const CUTS: usize = 4;
    let case = Case::new("MQTT intermittent connectivity");
    let broker = case.broker();
    let _agent = Gateway::new("gw-cuts", &broker.url()).start();
    let (mut acked, mut withheld) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..CUTS {
        let mut conn = broker.welcome(true);
        let mut samples = 0;
        conn.until("what is due, and telemetry", |packet| {
            let Packet::Publish(publish) = packet else { return None };
            for seq in seqs(publish).into_iter().filter(|_| is_record(publish)) {
                withheld.remove(&seq);
                assert!(acked.insert(seq), "acknowledged, and sent again: {publish:?}");
            }
            samples += usize::from(publish.leaf() == "telemetry");
            (samples >= 2 && withheld.is_empty()).then_some(())
        });
        conn.manners.puback = false;
        withheld = seqs(&conn.until_publish("telemetry", |_| true)).into_iter().collect();
        conn.close();
    }
}
