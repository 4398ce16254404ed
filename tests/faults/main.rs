//! Ten thousand stored samples on their way through a link that breaks again and again, to a real broker: none is
//! missing, and what comes again is no more than what was under way when the link broke. Commands go the other way:
//! each takes effect once, and is answered.
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

use serde_json::json;

use common::backlog::fill;
use common::{Chance, Gateway, Message, PREFIX, World};
use proxy::{Fault, Proxy};

/// Samples that wait in the store when the agent starts.
const RECORDS: u64 = 10_000;
/// Commands that wait in the broker when it does.
const ORDERS: usize = 30;
const DEVICE: &str = "gw-faults";
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
    let (gateway, stored) = cut_off(&world, version);
    let order = |number| world.order(DEVICE, "run", json!({"runbook": "act", "args": [format!("{number}")]}));
    let orders: Vec<String> = (0..ORDERS).map(order).collect();

    let began = Instant::now();
    let gateway = gateway.with(&format!("[mqtt]\nurl = \"{}\"", proxy.url()));
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
    assert_each_acted_once(&world, &gateway, &orders);
    let errors: Vec<String> = agent.log().so_far().into_iter().filter(|line| line.contains("ERROR ")).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// A gateway that the broker knows, and that has stored a week's samples since; their numbers.
fn cut_off(world: &World, version: &str) -> (Gateway, BTreeSet<u64>) {
    let gateway = world.gateway(DEVICE).with(EAGER).with(&format!("[mqtt]\nversion = \"{version}\""));
    gateway.runbook("act", &format!("echo $1 >> {}", gateway.file("acted").display()));
    // It asks for its commands before it says that it is there.
    let agent = world.online(&gateway);
    assert_eq!(agent.sigterm(), Some(0));
    let stored = fill(&gateway.store(), RECORDS);
    (gateway, stored)
}

fn assert_each_acted_once(world: &World, gateway: &Gateway, orders: &[String]) {
    for id in orders {
        world.fleet.result(id, "SUCCEEDED");
    }
    let acted = std::fs::read_to_string(gateway.file("acted")).unwrap();
    let mut acted: Vec<usize> = acted.lines().map(|number| number.parse().unwrap()).collect();
    acted.sort_unstable();
    assert_eq!(acted, (0..orders.len()).collect::<Vec<_>>(), "each command takes effect once");
}

/// How often the samples went back to ones that had come before, and how many came again each time. A broker passes on
/// in order, so each is a connection that began where the one before it had not been acknowledged.
fn rewinds(messages: &[Message]) -> Vec<usize> {
    let topic = format!("{PREFIX}/{DEVICE}/telemetry");
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
