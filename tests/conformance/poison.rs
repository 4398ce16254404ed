//! A server that hangs up on one certain message, each time: the record in it is set aside and told, and what waited
//! behind it arrives.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde_json::Value as Json;

use super::broker::{Broker, Case, Heard};
use super::common::backlog::fill;
use super::common::{Gateway, SOON};
use super::packet::{Packet, Publish};
use super::publishing::seqs;

/// Samples that wait: more than one message of them.
const STORED: u64 = 150;
/// How often the server hangs up, at least and at most: three times over the record alone is the proof; before that it
/// may have been another in its message, or the link.
const HANGS_UP: RangeInclusive<usize> = 3..=6;

/// Plays the server until it `is_over`; how often it has hung up.
fn hang_up(broker: &Broker, is_poison: impl Fn(&Publish) -> bool, mut is_over: impl FnMut(&Publish) -> bool) -> usize {
    for hung_up in 0.. {
        let mut conn = broker.welcome(hung_up > 0);
        assert!(hung_up <= *HANGS_UP.end(), "it comes again and again");
        loop {
            let Heard::Packet(packet, _) = conn.hear(SOON) else { panic!("closed, or silent, after {hung_up} times") };
            if let Packet::Publish(publish) = &packet {
                if is_poison(publish) {
                    break;
                }
                if is_over(publish) {
                    return hung_up;
                }
            }
            conn.answer(&packet);
        }
        conn.close();
    }
    unreachable!("it ends with what is over, or fails");
}

/// What a message says of records that were given up.
fn told(publish: &Publish) -> Option<Json> {
    if publish.leaf() != "events" {
        return None;
    }
    Some(publish.json()).filter(|body| body["name"] == "records_dropped").map(|mut body| body["audit"].take())
}

fn assert_told_of(told: &Json, class: &str, seq: u64) {
    let expected = serde_json::json!({
        "reason": "poison", "class": class, "records": 1, "first_seq": seq, "last_seq": seq,
    });
    assert_eq!(*told, expected);
}

fn assert_a_sample_is_set_aside(case: &Case, version: &str) {
    let broker = case.broker();
    let gateway = Gateway::new("gw-poison", &broker.url()).with(&format!("[mqtt]\nversion = \"{version}\""));
    let mut missing: BTreeSet<u64> = fill(&gateway.store(), STORED);
    let poison = *missing.iter().nth(missing.len() / 2).unwrap();
    missing.remove(&poison);
    let _agent = gateway.start();
    let has_it = |publish: &Publish| publish.leaf() == "telemetry" && seqs(publish).contains(&poison);
    let (mut event, mut counted) = (None, Json::Null);
    let hung_up = hang_up(&broker, has_it, |publish| {
        event = event.take().or_else(|| told(publish));
        if publish.leaf() == "telemetry" {
            missing.retain(|seq| !seqs(publish).contains(seq));
            let dropped = &publish.json()["samples"][0]["agent"]["dropped"];
            counted = if dropped.is_null() { counted.take() } else { dropped.clone() };
        }
        missing.is_empty() && event.is_some() && !counted.is_null()
    });
    assert!(HANGS_UP.contains(&hung_up), "set aside after {hung_up} times");
    assert_told_of(&event.unwrap(), "telemetry", poison);
    assert_eq!(counted, serde_json::json!({"poison": 1}));
}

#[test]
fn a_sample_that_the_server_hangs_up_on_is_set_aside_and_told_and_the_rest_arrives() {
    let case = Case::new("MQTT poison: the server closes over one sample");
    assert_a_sample_is_set_aside(&case, "5");
}

#[test]
fn a_sample_that_a_server_of_the_older_protocol_hangs_up_on_is_set_aside_too() {
    let case = Case::new("MQTT poison: the server closes over one sample, MQTT 3.1.1");
    assert_a_sample_is_set_aside(&case, "3.1.1");
}

#[test]
fn an_event_that_the_server_hangs_up_on_is_set_aside_and_told_and_what_comes_after_it_arrives() {
    let case = Case::new("MQTT poison: the server closes over one event");
    let broker = case.broker();
    let _agent = Gateway::new("gw-poison", &broker.url()).start();
    let poison = std::cell::Cell::new(0);
    let is_poison = |publish: &Publish| {
        let found = publish.leaf() == "events" && publish.json()["name"] == "started";
        if found {
            poison.set(seqs(publish)[0]);
        }
        found
    };
    let (mut event, mut connected, mut samples) = (None, 0, 0);
    let hung_up = hang_up(&broker, is_poison, |publish| {
        event = event.take().or_else(|| told(publish));
        connected += usize::from(publish.leaf() == "events" && publish.json()["name"] == "connected");
        samples += usize::from(publish.leaf() == "telemetry");
        event.is_some() && connected > 0 && samples > 0
    });
    assert!(HANGS_UP.contains(&hung_up), "set aside after {hung_up} times");
    assert_told_of(&event.unwrap(), "events", poison.get());
}
