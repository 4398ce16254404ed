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
mod loss;
mod proxy;

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use serde_json::json;

use common::backlog::fill;
use common::{Agent, Chance, Gateway, Message, PREFIX, World};
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
    let gateway = cut_off(&world, version);
    let stored = fill(&gateway.store(), RECORDS);
    let order = |number| world.order(DEVICE, "run", json!({"runbook": "act", "args": [format!("{number}")]}));
    let orders: Vec<String> = (0..ORDERS).map(order).collect();

    let gateway = gateway.with(&format!("[mqtt]\nurl = \"{}\"", proxy.url()));
    let agent = gateway.start();
    let came = Came::wait_for(&world, &stored);
    let ends = proxy.ends();
    println!("MQTT {version}: {came}; {ends:?}");
    came.assert_no_more_again_than_the_window(proxy.connections());
    assert!(ends.len() == Fault::ALL.len(), "not every fault was met: {ends:?}");
    assert_each_acted_once(&world, &gateway, &orders);
    assert_no_error(&agent);
}

/// A gateway that the broker knows, and that is off.
fn cut_off(world: &World, version: &str) -> Gateway {
    let gateway = world.gateway(DEVICE).with(EAGER).with(&format!("[mqtt]\nversion = \"{version}\""));
    gateway.runbook("act", &format!("echo $1 >> {}", gateway.file("acted").display()));
    // It asks for its commands before it says that it is there.
    let agent = world.online(&gateway);
    assert_eq!(agent.sigterm(), Some(0));
    gateway
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

fn assert_no_error(agent: &Agent) {
    let errors: Vec<String> = agent.log().so_far().into_iter().filter(|line| line.contains("ERROR ")).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// How what was stored has come.
struct Came {
    stored: usize,
    took: Duration,
    /// Those that came once more than they should have.
    again: usize,
    rewinds: Vec<usize>,
    most_in_message: usize,
}

impl Came {
    /// Waits until all of it has.
    fn wait_for(world: &World, stored: &BTreeSet<u64>) -> Self {
        let began = Instant::now();
        let came = world.fleet.wait_for_records(BOUND, stored);
        let messages = world.fleet.so_far();
        Self {
            stored: stored.len(),
            took: began.elapsed(),
            again: came.values().map(|count| count - 1).sum(),
            rewinds: rewinds(&messages),
            most_in_message: messages.iter().map(|message| message.records().len()).max().unwrap_or(0),
        }
    }

    fn assert_no_more_again_than_the_window(&self, connections: u64) {
        let rewinds = &self.rewinds;
        assert!(rewinds.len() as u64 <= connections, "{} times back, {connections} connections", rewinds.len());
        let (worst, window) = (self.worst(), WINDOW * self.most_in_message);
        assert!(worst <= window, "{worst} came again after one cut, the window is {window} records: {rewinds:?}");
    }

    fn worst(&self) -> usize {
        self.rewinds.iter().max().copied().unwrap_or(0)
    }
}

impl fmt::Display for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stored, took, again, most_in_message, .. } = self;
        write!(
            f,
            "{stored} stored and none is missing after {took:.1?}; {again} came again, at most {} after one cut, up to \
             {most_in_message} in a message",
            self.worst()
        )
    }
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
