//! Who is there: presence by will and by goodbye, the nonce, attributes, and the lifecycle that the events tell.
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

use serde_json::json;

use common::broker::{Access, Broker};
use common::{Fleet, PREFIX, Tree, World};

#[test]
fn an_agent_that_is_killed_is_reported_lost_by_its_will() {
    let world = World::new();
    let (agent, online) = world.announced(&world.gateway("gw-will"));
    assert_eq!(online.body["quarantine"], "none", "{online:?}");
    assert_eq!(online.body["agent"], env!("CARGO_PKG_VERSION"), "{online:?}");

    let mark = world.fleet.mark();
    agent.kill9();
    let lost = world.fleet.presence(mark, "gw-will", false);
    assert_eq!(lost.body["reason"], "lost", "{lost:?}");
    assert_eq!(lost.body["nonce"], online.body["nonce"], "{lost:?}");
}

#[test]
fn a_broker_without_retained_messages_hears_of_a_gateway_all_the_same() {
    let world = World::around(Broker::start(Access::OpenWithoutRetain));
    let agent = world.online(&world.gateway("gw-fleeting"));
    world.fleet.wait_for("its attributes", |message| message.leaf() == "attributes");
    let mark = world.fleet.mark();
    agent.kill9();
    let lost = world.fleet.presence(mark, "gw-fleeting", false);
    assert_eq!(lost.body["reason"], "lost", "{lost:?}");
    let refusals = world.broker.log().so_far().iter().filter(|line| line.contains("retain not supported")).count();
    assert_eq!(refusals, 1, "it is asked for a retained will once");
}

#[test]
fn a_broker_that_hangs_up_over_retained_messages_without_a_word_hears_of_a_gateway_all_the_same() {
    let world = World::around(Broker::start(Access::OpenWithoutRetain));
    let agent = world.gateway("gw-unsaid").with("[mqtt]\nversion = \"3.1.1\"").start();
    world.fleet.wait_for("its attributes", |message| message.leaf() == "attributes");
    let presence = |message: &&common::Message| message.leaf() == "presence";
    let said: Vec<bool> =
        world.fleet.so_far().iter().filter(presence).map(|message| message.body["online"] == true).collect();
    assert_eq!(said, [true], "what was only tried leaves no will behind");
    let mark = world.fleet.mark();
    agent.kill9();
    let lost = world.fleet.presence(mark, "gw-unsaid", false);
    assert_eq!(lost.body["reason"], "lost", "{lost:?}");
}

#[test]
fn an_agent_that_is_stopped_says_goodbye_and_exits_with_zero() {
    let world = World::new();
    let agent = world.online(&world.gateway("gw-bye"));

    let mark = world.fleet.mark();
    assert_eq!(agent.sigterm(), Some(0));
    let stopped = world.fleet.presence(mark, "gw-bye", false);
    assert_eq!(stopped.body["reason"], "stopped", "{stopped:?}");
    world.fleet.wait_for("the stopping event", |message| message.body["name"] == "stopping");
    // A will would come when the broker sees the connection end, which it has by now.
    world.fence();
    let offline = |message: &common::Message| message.leaf() == "presence" && message.body["online"] == false;
    let said: Vec<common::Message> = world.fleet.so_far().into_iter().filter(offline).collect();
    assert_eq!(said.len(), 1, "a goodbye discards the will: {said:#?}");
}

#[test]
fn an_agent_stops_also_while_its_broker_is_away() {
    let mut world = World::new();
    let gateway = world.gateway("gw-alone");
    let agent = world.online(&gateway);
    world.broker.stop();
    gateway.wait_for_status("the loss of the broker", |status| status["broker"]["online"] == false);
    assert_eq!(agent.sigterm(), Some(0));
}

#[test]
fn each_start_has_a_nonce_of_its_own_and_presence_is_retained() {
    let world = World::new();
    let gateway = world.gateway("gw-nonce");
    let (agent, first) = world.announced(&gateway);
    let nonce = first.body["nonce"].as_str().unwrap_or_default();
    assert!(nonce.len() >= 22, "128 bits are 22 letters of base64 or more: {first:?}");
    assert_eq!(agent.sigterm(), Some(0));

    let (_agent, second) = world.announced(&gateway);
    assert_ne!(second.body["nonce"], first.body["nonce"]);
    assert!(second.body["seq"].as_u64() > first.body["seq"].as_u64(), "{first:?} {second:?}");

    let late = Fleet::watch_as(&world.broker, "latecomer");
    let retained = late.presence(0, "gw-nonce", true);
    assert!(retained.retained, "{retained:?}");
    assert_eq!(retained.body["nonce"], second.body["nonce"]);
}

#[test]
fn attributes_are_retained_and_cut_the_fleet_by_what_is_configured_and_what_is_measured() {
    let (world, tree) = (World::new(), Tree::new());
    let gateway = world
        .gateway("gw-attr")
        .measuring(&tree)
        .with("[device]\ngroups = [\"canary\"]\n[device.attributes]\nsite = \"plant-7\"\nrack = 4");
    let _agent = gateway.start();
    let attributes = world.fleet.wait_for("attributes with what was measured", |message| {
        message.leaf() == "attributes" && message.body["dynamic"]["battery_band"].is_string()
    });
    let fixed = &attributes.body["static"];
    assert_eq!((&fixed["site"], &fixed["rack"]), (&json!("plant-7"), &json!(4)), "{attributes:?}");
    assert_eq!(attributes.body["groups"], json!(["canary"]), "{attributes:?}");
    let dynamic = &attributes.body["dynamic"];
    let told = (&dynamic["link_type"], &dynamic["health"], &dynamic["quarantine"]);
    assert_eq!(told, (&json!("ethernet"), &json!("ok"), &json!("none")), "{attributes:?}");
    assert_eq!(dynamic["agent"], env!("CARGO_PKG_VERSION"), "{attributes:?}");

    let late = Fleet::watch_as(&world.broker, "latecomer");
    let topic = format!("{PREFIX}/gw-attr/attributes");
    late.wait_for("retained attributes", |message| message.topic == topic && message.retained);
}

#[test]
fn the_events_tell_the_agents_life() {
    let mut world = World::new();
    let gateway = world.gateway("gw-life");
    let agent = gateway.start();
    let lifecycle = |name: &'static str| {
        move |message: &common::Message| {
            message.leaf() == "events" && message.body["type"] == "lifecycle" && message.body["name"] == name
        }
    };
    world.fleet.wait_for("started", lifecycle("started"));
    world.fleet.wait_for("connected", lifecycle("connected"));

    world.broker.stop();
    gateway.wait_for_status("the loss of the broker", |status| status["broker"]["online"] == false);
    world.broker.resume();
    let disconnected = world.fleet.wait_for("disconnected", lifecycle("disconnected"));
    let link = &disconnected.body["link"];
    assert!(link["reason"].is_string(), "{disconnected:?}");
    assert!(link["duration_s"].as_f64().is_some_and(|seconds| seconds > 0.0), "{disconnected:?}");
    assert_eq!(agent.sigterm(), Some(0));
}
