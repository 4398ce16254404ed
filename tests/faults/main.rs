//! Ten thousand stored samples on their way through a link that breaks again and again, to a real broker: none is
//! missing, and what comes again is no more than what was under way when the link broke.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that can't be set up fails, and it may touch the system that the agent's engine must not"
)]

#[path = "../common/mod.rs"]
mod common;
mod proxy;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::backlog::fill;
use common::{Chance, Gateway, Message, PREFIX, World};
use proxy::{Fault, Proxy};

/// Samples that wait in the store when the agent starts.
const RECORDS: u64 = 10_000;
/// Publishes under way, as configured: below every other limit.
const WINDOW: usize = 4;
/// How long it may take until all have come.
const BOUND: Duration = Duration::from_secs(120);

/// Reconnects soon, notices silence as soon as may be configured, and is held back by nothing but the link.
const EAGER: &str = r#"
    [mqtt]
    keep_alive = "5s"
    inflight_max = 4
    [mqtt.reconnect]
    min = "50ms"
    max = "200ms"
    [mqtt.drain]
    publishes_per_second = 1000
"#;

#[test]
fn ten_thousand_records_get_through_every_fault_of_the_link_with_mqtt_5() {
    all_get_through("5");
}

#[test]
fn ten_thousand_records_get_through_every_fault_of_the_link_with_mqtt_311() {
    all_get_through("3.1.1");
}

fn all_get_through(version: &str) {
    let world = World::new();
    let proxy = Proxy::start(world.broker.port(), Chance::of_this_run("ten_thousand"));
    let gateway = Gateway::new("gw-faults", &proxy.url()).with(EAGER).with(&format!("[mqtt]\nversion = \"{version}\""));
    let stored = fill(&gateway.store(), RECORDS);

    let began = Instant::now();
    let agent = gateway.start();
    let came = world.fleet.wait_for_records(BOUND, &stored);
    let again: usize = came.values().map(|count| count - 1).sum();
    let (connections, ends) = (proxy.connections(), proxy.ends());
    let messages = world.fleet.so_far();
    let (rewinds, most_in_message) = (rewinds(&messages), most_in_message(&messages));
    let worst = rewinds.iter().max().copied().unwrap_or(0);
    println!(
        "MQTT {version}: {RECORDS} stored and none is missing after {:.1?}; {connections} connections, {ends:?}; {again} \
         came again, at most {worst} after one cut, up to {most_in_message} in a message",
        began.elapsed()
    );

    let window = WINDOW * most_in_message;
    assert!(ends.len() == Fault::ALL.len(), "not every fault was met: {ends:?}");
    assert!(rewinds.len() as u64 <= connections, "{} times back, {connections} connections", rewinds.len());
    assert!(worst <= window, "{worst} came again after one cut, the window is {window} records: {rewinds:?}");
    let errors: Vec<String> = agent.log().so_far().into_iter().filter(|line| line.contains("ERROR ")).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// How often the samples went back to ones that had come before, and how many came again each time. A broker passes on
/// in order, so each is a connection that began where the one before it had not been acknowledged.
fn rewinds(messages: &[Message]) -> Vec<usize> {
    let topic = format!("{PREFIX}/gw-faults/telemetry");
    let mut seen = BTreeSet::new();
    let mut last = 0;
    let mut rewinds = Vec::new();
    for sample in messages.iter().filter(|message| message.topic == topic).flat_map(Message::samples) {
        let seq = sample["seq"].as_u64().unwrap();
        if seq <= last {
            rewinds.push(0);
        }
        last = seq;
        if !seen.insert(seq) {
            *rewinds.last_mut().unwrap() += 1;
        }
    }
    rewinds
}

fn most_in_message(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.records().len()).max().unwrap_or(0)
}
