//! Other brokers, and brokers that forget: whatever the broker keeps over a restart, the agent loses nothing that it
//! had stored, and is commanded again as soon as it is back.
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
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value as Json, json};

use common::agent::{export, seqs};
use common::backlog::fill;
use common::broker::{LEAVES, SHORT_BYTES};
use common::process::output_of;
use common::{Access, Agent, Broker, Gateway, Message, Software, Tree, World, fast, tool};

/// Samples that wait when the broker comes back, at least.
const BACKLOG: u64 = 50;
/// Samples of an earlier boot, whose drain takes seconds.
const OLD_SAMPLES: u64 = 6_000;
/// After how many of them the broker goes: some acknowledgements have arrived by then whatever the broker delays them
/// for, since no more than a window's worth of samples is ever under way.
const OLD_SAMPLES_FIRST: usize = 1_500;
/// What is too long for a broker is tried so often, at most: attributes and an event once, samples and a result at half
/// their length each time.
const REFUSALS_MAX: usize = 16;
/// How long a backlog may take to arrive.
const DRAIN_BOUND: Duration = Duration::from_secs(60);

/// Messages of a backlog a second: a drain that can be watched.
const DRAIN: u32 = 10;

/// An agent that is online, and has answered a command.
fn obedient(world: &World, gateway: &Gateway) -> Agent {
    let agent = world.online(gateway);
    obeys(world, gateway);
    agent
}

fn obeys(world: &World, gateway: &Gateway) {
    let id = world.order(gateway.device(), "ping", json!({}));
    world.fleet.result(&id, "SUCCEEDED");
}

/// What the next event of that name tells of the connection.
fn connected(world: &World, mark: usize) -> Json {
    let fits = |message: &Message| message.leaf() == "events" && message.body["name"] == "connected";
    world.fleet.wait_since(mark, "the event of a connection", fits).body["link"].clone()
}

/// Waits until enough is stored that no broker has; what is stored then.
fn backlog(gateway: &Gateway) -> BTreeSet<u64> {
    gateway.wait_for_status("a backlog", |status| {
        status["broker"]["online"] == false
            && status["outbox"]["records"]["telemetry"].as_u64().is_some_and(|records| records >= BACKLOG)
    });
    seqs(&export(&gateway.store()))
}

#[test]
fn what_a_brokers_acl_denies_for_a_while_arrives_once_it_is_put_right() {
    let world = World::around(Broker::start(Access::ByAcl));
    let gateway = world.gateway("gw-acl").with(&fast(DRAIN));
    let agent = obedient(&world, &gateway);
    world.broker.allow(&LEAVES[..4]);
    gateway.wait_for_status("a topic that is denied", |status| {
        let waiting = status["outbox"]["records"]["telemetry"].as_u64().is_some_and(|records| records >= BACKLOG);
        waiting && status["broker"]["online"] == true
    });
    obeys(&world, &gateway);
    let stored = seqs(&export(&gateway.store()));
    world.broker.allow(&LEAVES);
    agent.hangup();
    arrives(&world, &stored);
    gateway.wait_for_status("nothing that is denied, nor given up", |status| {
        status["broker"]["fault"].is_null() && status["outbox"]["dropped"].is_null()
    });
}

fn arrives(world: &World, stored: &BTreeSet<u64>) {
    let came = world.fleet.wait_for_records(DRAIN_BOUND, stored);
    let again: usize = stored.iter().filter_map(|seq| came.get(seq)).map(|count| count - 1).sum();
    println!("{}: {} records waited, all came, {again} of them again", world.broker.name(), stored.len());
}

/// Takes the broker away while the agent publishes; one that would lose some of that, while the agent holds its breath.
fn take_away(software: Software, world: &mut World, agent: &Agent) {
    if software.loses_over_its_end() {
        agent.freeze();
        world.fleet.hears(&world.broker);
    }
    world.broker.stop();
    agent.thaw();
}

/// Brings it back, before the agent where the fleet would else miss something.
fn bring_back(software: Software, world: &mut World, agent: Option<&Agent>) {
    if !software.loses_over_its_end() {
        return world.broker.resume();
    }
    agent.into_iter().for_each(Agent::freeze);
    world.broker.resume();
    world.fleet.hears(&world.broker);
    agent.into_iter().for_each(Agent::thaw);
}

/// Everything that is asked of a broker that keeps its sessions.
fn a_round_with(software: Software) {
    if !software.is_installed() {
        return;
    }
    let mut world = World::around(Broker::of(software));
    let gateway = world.gateway("gw-round").with(&fast(DRAIN));
    let agent = obedient(&world, &gateway);
    world.fleet.sample_since(0, "gw-round", "a sample", |_| true);
    println!("{}: MQTT {}", software.name(), connected(&world, 0)["mqtt_version"]);

    take_away(software, &mut world, &agent);
    let stored = backlog(&gateway);
    bring_back(software, &mut world, Some(&agent));
    arrives(&world, &stored);
    obeys(&world, &gateway);

    assert_eq!(agent.sigterm(), Some(0));
    let id = world.order("gw-round", "ping", json!({}));
    world.broker.stop();
    bring_back(software, &mut world, None);
    let stored = fill(&gateway.store(), OLD_SAMPLES);
    let mark = world.fleet.mark();
    let agent = gateway.start();
    world.fleet.result(&id, "SUCCEEDED");
    let within: BTreeSet<u64> = stored.iter().copied().skip(OLD_SAMPLES_FIRST).collect();
    world.fleet.sample_since(mark, "gw-round", "the drain to be under way", |sample| {
        sample["seq"].as_u64().is_some_and(|seq| within.contains(&seq))
    });
    take_away(software, &mut world, &agent);
    let left = backlog(&gateway).intersection(&stored).count();
    assert!((1..stored.len()).contains(&left), "the broker went while {left} of {} were left", stored.len());
    bring_back(software, &mut world, Some(&agent));
    arrives(&world, &stored);
}

#[test]
fn mosquitto_is_restarted_and_nothing_is_missing() {
    a_round_with(Software::Mosquitto);
}

#[test]
fn rabbitmq_is_restarted_and_nothing_is_missing() {
    a_round_with(Software::RabbitMq);
}

#[test]
fn nats_is_restarted_and_nothing_is_missing() {
    a_round_with(Software::Nats);
}

#[test]
fn a_broker_that_forgot_everything_over_its_restart_is_subscribed_to_anew_and_gets_what_it_had_not_taken() {
    let mut world = World::around(Broker::of(Software::ForgetfulMosquitto));
    let gateway = world.gateway("gw-forgotten").with(&fast(DRAIN));
    let agent = obedient(&world, &gateway);

    world.broker.stop();
    let stored = backlog(&gateway);
    // What nobody subscribes to is gone when such a broker has acknowledged it: the fleet has to be there first.
    agent.freeze();
    world.broker.resume();
    world.broker.log().wait_since(0, "the fleet to subscribe again", |lines| {
        lines.iter().any(|line| line.ends_with("Sending SUBACK to fleet")).then_some(())
    });
    agent.thaw();
    arrives(&world, &stored);
    obeys(&world, &gateway);
}

#[test]
fn a_session_that_the_broker_dropped_while_it_ran_is_made_anew() {
    let world = World::new();
    let gateway = world.gateway("gw-dropped").with(&fast(DRAIN));
    let _agent = obedient(&world, &gateway);

    connected(&world, 0);
    // A clean session under its id: the broker closes the agent's connection and forgets its session, subscription and
    // all.
    let mark = world.fleet.mark();
    let port = world.broker.fleet_port().to_string();
    let mut usurper = tool("mosquitto_pub");
    usurper.args(["-h", "127.0.0.1", "-p", &port, "-i", "gw-dropped", "-q", "1", "-t", "usurped", "-n"]);
    output_of(usurper.stdout(Stdio::null()));

    let link = connected(&world, mark);
    assert_eq!(link["session_present"], false, "{link}");
    obeys(&world, &gateway);
}

#[test]
fn a_mosquitto_that_takes_only_short_messages_and_never_said_so_gets_all_that_fits() {
    let world = World::around(Broker::start(Access::OpenToShortMessages));
    let tree = Tree::new();
    let site = "x".repeat(SHORT_BYTES);
    // Twenty samples in a message are too many, one is not.
    let gateway = world.gateway("gw-short").measuring(&tree).with(&fast(DRAIN)).with(&format!(
        "[telemetry]\npublish_interval = \"2s\"\n[collect.link]\nenabled = false\n[collect.host]\nenabled = false\n\
         [device.attributes]\nsite = \"{site}\"\n[remediation]\nallow = [\"run\"]"
    ));
    gateway.runbook("chatty", "head -c 8000 /dev/zero | tr '\\0' x; echo the end");
    let _agent = obedient(&world, &gateway);

    tree.kernel_says(3, 1, &"long ".repeat(200));
    tree.kernel_says(3, 2, "short");
    let fits = |message: &Message| message.leaf() == "events" && message.body["error"]["exemplar"] == "short";
    world.fleet.wait_for("what lies behind one that is too long", fits);

    let id = world.order("gw-short", "run", json!({"runbook": "chatty"}));
    let result = world.fleet.result(&id, "SUCCEEDED");
    assert!(result["output"].as_str().is_some_and(|output| output.trim_end().ends_with("the end")), "{result}");

    let mark = world.fleet.mark();
    let sample = world.fleet.sample_since(mark, "gw-short", "a sample", |sample| !sample["agent"].is_null());
    assert!(sample["agent"]["dropped"].is_null(), "{sample}");
    assert!(world.fleet.so_far().iter().all(|message| message.leaf() != "attributes"));
    // mosquitto 2.0.11 hangs up on what it refuses, if it has max_queued_messages 0: that is once for each length
    // tried.
    assert!(world.broker.accepted("gw-short") <= REFUSALS_MAX, "{} connections", world.broker.accepted("gw-short"));
}
