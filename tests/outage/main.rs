//! The broker goes and comes back, the agent is killed at any moment: what was stored arrives, in order, and what came
//! twice is counted.
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

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;

use common::agent::{export, seqs};
use common::{Agent, Chance, Gateway, Message, PREFIX, SOON, World, fast, tool};

/// How often the agent is killed.
const KILLS: usize = 50;
/// An agent lives this long, at least and at most, before it is killed.
const LIFE_MS: std::ops::RangeInclusive<u64> = 20..=1_200;
/// How long the backlog of all lives may take to arrive.
const DRAIN_BOUND: Duration = Duration::from_secs(180);

/// Messages of a backlog a second: as many as can be had.
const DRAIN: u32 = 1000;

#[test]
fn what_is_stored_while_the_broker_is_away_arrives_in_order_when_it_is_back() {
    let mut world = World::new();
    let gateway = world.gateway("gw-outage").with(&fast(DRAIN));
    let _agent = world.online(&gateway);

    world.broker.stop();
    gateway.wait_for_status("a backlog", |status| {
        status["broker"]["online"] == false
            && status["outbox"]["records"]["telemetry"].as_u64().is_some_and(|records| records >= 20)
    });
    let stored = seqs(&export(&gateway.store()));
    assert!(stored.len() >= 20, "{stored:?}");
    world.broker.resume();

    world.fleet.wait_for_records(DRAIN_BOUND, &stored);
    let order = telemetry_order(&world.fleet.so_far(), "gw-outage");
    assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "telemetry comes oldest first: {order:?}");
    gateway.wait_for_status("the outbox to drain", |status| {
        status["broker"]["online"] == true
            && status["outbox"]["records"]["telemetry"].as_u64().is_some_and(|records| records < 20)
    });
}

/// The samples' seqs in the order in which each came first.
fn telemetry_order(messages: &[Message], device: &str) -> Vec<u64> {
    let topic = format!("{PREFIX}/{device}/telemetry");
    let mut seen = BTreeSet::new();
    messages
        .iter()
        .filter(|message| message.topic == topic)
        .flat_map(Message::samples)
        .filter_map(|sample| sample["seq"].as_u64())
        .filter(|seq| seen.insert(*seq))
        .collect()
}

#[test]
fn an_agent_that_starts_without_a_broker_keeps_everything_until_there_is_one() {
    let mut world = World::new();
    let gateway = world.gateway("gw-early").with(&fast(DRAIN));
    world.broker.stop();
    let agent = gateway.start();
    gateway.wait_for_status("a backlog", |status| {
        status["outbox"]["records"]["telemetry"].as_u64().is_some_and(|records| records >= 10)
    });
    agent.kill9();
    let stored = seqs(&export(&gateway.store()));

    world.broker.resume();
    let _agent = gateway.start();
    world.fleet.wait_for_records(DRAIN_BOUND, &stored);
}

#[test]
fn fifty_kills_with_the_broker_coming_and_going_lose_nothing_that_was_stored() {
    let mut chance = Chance::of_this_run("fifty_kills");
    let mut world = World::new();
    let gateway = world.gateway("gw-kills").with(&fast(DRAIN));
    let mut stored = BTreeSet::new();

    for kill in 1..=KILLS {
        let agent = gateway.start();
        let life_ms = LIFE_MS.start() + chance.below(LIFE_MS.end() - LIFE_MS.start());
        let first_ms = chance.below(life_ms);
        lives(&agent, first_ms);
        if chance.below(3) == 0 {
            if world.broker.is_up() { world.broker.stop() } else { world.broker.resume() }
        }
        lives(&agent, life_ms - first_ms);
        let errors: Vec<String> = agent.log().so_far().into_iter().filter(|line| line.contains("ERROR ")).collect();
        assert!(errors.is_empty(), "before kill {kill}: {errors:#?}");
        agent.kill9();
        stored.extend(seqs(&snapshot(&gateway)));
    }
    assert!(stored.len() >= KILLS, "so few records prove nothing: {}", stored.len());

    if !world.broker.is_up() {
        world.broker.resume();
    }
    let _agent = world.online(&gateway);
    let came = world.fleet.wait_for_records(DRAIN_BOUND, &stored);
    let duplicates: usize = came.values().map(|count| count - 1).sum();
    println!("{} records stored, {} came, {duplicates} of them again, none is missing", stored.len(), came.len());

    let mark = world.fleet.mark();
    let sample = world.fleet.sample_since(mark, "gw-kills", "a sample after it all", |_| true);
    assert_eq!(sample["agent"]["dropped"], Json::Null, "{sample:#}");
}

/// Lets it run for so long, which it must survive.
fn lives(agent: &Agent, ms: u64) {
    let ended = agent.log().wait_end(Duration::from_millis(ms));
    assert!(!ended, "it ended by itself: {:#?}", agent.log().so_far());
}

/// What is in the store of a dead agent, read from a copy, as a forensic examiner would.
fn snapshot(gateway: &Gateway) -> Vec<Json> {
    let store = gateway.store();
    if !store.join("outbox").exists() {
        // Killed before it had made one.
        return Vec::new();
    }
    let copy = tempfile::TempDir::new().unwrap();
    copy_all(&store, copy.path());
    export(copy.path())
}

fn copy_all(from: &Path, to: &Path) {
    let status = tool("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(status.success(), "cp -a {}: {status}", from.display());
}

#[test]
fn a_result_that_no_broker_took_arrives_after_a_kill() {
    let mut world = World::new();
    let gateway = world.gateway("gw-result").with("[telemetry]\nreport_interval = \"1h\"\npublish_interval = \"1h\"");
    gateway.runbook("wait", &format!("while ! [ -e {} ]; do sleep 0.05; done", gateway.file("go").display()));
    let agent = world.online(&gateway);
    let id = world.order("gw-result", "run", serde_json::json!({"runbook": "wait"}));
    world.fleet.result(&id, "IN_PROGRESS");

    world.broker.stop();
    std::fs::write(gateway.file("go"), "").unwrap();
    gateway.wait_for_status("the runbook to end", |status| status["commands_open"] == 0);
    agent.kill9();
    world.broker.resume();
    let _agent = gateway.start();
    world.fleet.result(&id, "SUCCEEDED");
    world.fleet.wait_all(SOON, "the agent to be online again", |messages| {
        messages.iter().filter(|message| message.body["online"] == true).nth(1).map(|_| ())
    });
}
