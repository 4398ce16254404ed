//! Nonsense from the gateway's own files and from the broker, and disks that hang, are full or can't be written to, cost
//! what they touch, and nothing else.
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
mod disk;

use std::time::Instant;

use serde_json::json;

use common::broker::accepted_in;
use common::tree::{BATTERY, ETHERNET};
use common::{HungDisk, PREFIX, Tree, World};

/// What a broker may deliver at most that the agent must survive.
const HUGE_BYTES: usize = 10 << 20;
/// How much more memory it may hold afterwards: less than one huge message.
const RSS_GROWTH_MAX_BYTES: u64 = 8 << 20;

#[test]
fn a_file_that_says_nonsense_costs_only_its_field() {
    let (world, tree) = (World::new(), Tree::new());
    let _agent = world.gateway("gw-abc").measuring(&tree).start();
    let device = "gw-abc";
    world.fleet.sample_since(0, device, "a whole sample", |sample| sample["battery"]["charge_pct"] == 80.0);

    tree.write(&format!("{BATTERY}/capacity"), "abc");
    let sample = world.fleet.sample_since(0, device, "the field to be missing", |sample| {
        sample["battery"].is_object() && sample["battery"]["charge_pct"].is_null()
    });
    assert_eq!(sample["battery"]["voltage_v"], 12.1, "{sample:#}");
    assert_eq!(sample["link"]["up"], true, "{sample:#}");
    assert!(sample["agent"]["collect_faults"].as_u64().is_some_and(|faults| faults > 0), "{sample:#}");

    let mark = world.fleet.mark();
    tree.write(&format!("{BATTERY}/capacity"), "79");
    world.fleet.sample_since(mark, device, "the field to be back", |sample| {
        sample["battery"]["charge_pct"] == 79.0 && sample["agent"]["collect_faults"].as_u64().unwrap_or(0) == 0
    });
}

#[test]
fn a_file_that_disappears_costs_only_its_field() {
    let (world, tree) = (World::new(), Tree::new());
    let _agent = world.gateway("gw-gone").measuring(&tree).start();
    let device = "gw-gone";
    world.fleet.sample_since(0, device, "a whole sample", |sample| sample["link"]["type"] == "ethernet");

    tree.remove(&format!("{ETHERNET}/type"));
    let sample = world.fleet.sample_since(0, device, "the field to be missing", |sample| {
        sample["link"]["interface"] == "eth0" && sample["link"]["type"].is_null()
    });
    assert_eq!(sample["link"]["up"], true, "{sample:#}");
    assert_eq!(sample["battery"]["charge_pct"], 80.0, "{sample:#}");
    assert!(sample["agent"]["collect_faults"].as_u64().is_some_and(|faults| faults > 0), "{sample:#}");
}

#[test]
fn a_huge_command_and_binary_garbage_are_refused_and_nothing_else_suffers_on_mqtt_5() {
    garbage_is_survived("gw-huge5", "5");
}

#[test]
fn a_huge_command_and_binary_garbage_are_refused_and_nothing_else_suffers_on_mqtt_3() {
    garbage_is_survived("gw-huge3", "3.1.1");
}

fn garbage_is_survived(device: &str, version: &str) {
    let world = World::new();
    let agent = world.gateway(device).with(&format!("[mqtt]\nversion = \"{version}\"")).start();
    let rss = |sample: &serde_json::Value| sample["agent"]["rss_bytes"].as_u64().unwrap_or(u64::MAX);
    let before = rss(&world.fleet.sample_since(0, device, "a sample", |sample| sample["agent"].is_object()));

    let topic = format!("{PREFIX}/{device}/commands");
    world.broker.publish(&topic, &vec![b'x'; HUGE_BYTES]);
    let noise: Vec<u8> = (0..4_096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for garbage in [noise.as_slice(), b"", b"\x00", b"\xff\xfe{}", b"{\"cmd\":", b"a.b.c", b"..", &[b'['; 20_000]] {
        world.broker.publish(&topic, garbage);
    }
    let refused = |message: &common::Message| message.body["status"] == "REJECTED" && message.leaf() == "results";
    world.fleet.wait_for("garbage to be called malformed", |message| {
        refused(message) && message.body["reason"] == "malformed"
    });
    if version == "3.1.1" {
        // MQTT 5 lets the agent say how much it takes, and the broker keeps the rest to itself.
        world.fleet.wait_for("the huge message to be refused", |message| {
            refused(message) && message.body["reason"] == "too_large"
        });
    }

    let id = world.order(device, "ping", json!({}));
    world.fleet.result(&id, "SUCCEEDED");
    assert_eq!(world.broker.accepted(device), 1, "it is still the first connection");
    let mark = world.fleet.mark();
    let sample = world.fleet.sample_since(mark, device, "telemetry to go on", |sample| sample["agent"].is_object());
    let after = rss(&sample);
    assert!(after < before + RSS_GROWTH_MAX_BYTES, "{before} B of memory before the garbage, {after} B after it");
    world.fleet.sample_since(0, device, "the refusals to be counted", |sample| {
        sample["agent"]["commands_refused"]["malformed"].as_u64().is_some_and(|refused| refused > 0)
    });
    assert_eq!(agent.sigterm(), Some(0));
}

#[test]
fn a_flood_of_garbage_is_counted_and_a_ping_behind_it_is_answered() {
    const FLOOD: usize = 300;
    /// Refusals that are told one by one; then it is one a second.
    const TOLD_AT_ONCE: usize = 60;
    let world = World::new();
    let _agent = world.online(&world.gateway("gw-flood"));
    let flood = "no token at all\n".repeat(FLOOD);
    let began = Instant::now();
    world.broker.publish_lines(&format!("{PREFIX}/gw-flood/commands"), &flood);

    let id = world.order("gw-flood", "ping", json!({}));
    world.fleet.result(&id, "SUCCEEDED");
    let told = world.fleet.so_far().iter().filter(|message| message.body["status"] == "REJECTED").count();
    let most = TOLD_AT_ONCE + usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    assert!((1..=most).contains(&told), "{told} of {FLOOD} were answered, {most} may be: a flood in is a flood out");
    world.fleet.wait_all(common::SOON, "all of them to be counted", |messages| {
        let samples = messages.iter().flat_map(common::Message::samples);
        let counts = samples.filter_map(|sample| sample["agent"]["commands_refused"]["malformed"].as_u64());
        (counts.sum::<u64>() >= FLOOD as u64).then_some(())
    });
    assert_eq!(accepted_in(&world.broker.log().so_far(), "gw-flood"), 1);
}

#[test]
fn a_driver_that_hangs_costs_what_its_device_says_until_it_answers() {
    let (world, tree) = (World::new(), Tree::new());
    let device = "gw-hung-driver";
    let agent = world.gateway(device).measuring(&tree).start();
    world.fleet.sample_since(0, device, "a whole sample", |sample| sample["battery"]["charge_pct"] == 80.0);

    let capacity = format!("{BATTERY}/capacity");
    let hangs = tree.hang(&capacity);
    let sample = world.fleet.sample_since(world.fleet.mark(), device, "telemetry without a battery", |sample| {
        sample["battery"]["voltage_v"].is_null() && sample["agent"]["collect_faults"].as_u64() > Some(0)
    });
    assert_eq!(sample["link"]["up"], true, "{sample:#}");
    assert_eq!(sample["host"]["temperature_c"], 51.5, "{sample:#}");
    agent.wait_for_log(&format!("/{capacity} hangs, for 8 s"));

    tree.write(&capacity, "79");
    std::fs::write(hangs, "80").unwrap();
    world.fleet.sample_since(world.fleet.mark(), device, "the battery to be back", |sample| {
        sample["battery"]["charge_pct"] == 79.0 && sample["agent"]["collect_faults"].as_u64().unwrap_or(0) == 0
    });
}

#[test]
fn a_disk_that_hangs_under_releases_or_journal_keeps_no_agent_from_starting_measuring_and_stopping() {
    let (world, tree) = (World::new(), Tree::new());
    let device = "gw-hung";
    let gateway = world.gateway(device).measuring(&tree);
    let (app, journal) = (gateway.file("app"), tree.path("var/log/journal"));
    let gateway = gateway.with(&format!("[rollback.app]\nkind = \"slots\"\ndir = \"{}\"", app.display()));
    // Gone before the directories that they are in.
    let Some(_app) = HungDisk::at(&app) else { return };
    let Some(_journal) = HungDisk::at(&journal) else { return };
    let agent = gateway.start();
    world.fleet.sample_since(0, device, "a whole sample", |sample| {
        sample["battery"]["charge_pct"] == 80.0 && sample["agent"]["collect_faults"].as_u64() > Some(0)
    });
    let mark = world.fleet.mark();
    agent.hangup();
    world.fleet.sample_since(mark, device, "one after a reload", |sample| sample["battery"]["charge_pct"] == 80.0);
    assert_eq!(agent.sigterm(), Some(0));
}

#[test]
fn an_agent_whose_store_cannot_be_opened_is_seen_and_takes_it_up_when_it_can_be() {
    let world = World::new();
    let gateway = world.gateway("gw-nostore");
    std::fs::write(gateway.store(), "not a directory").unwrap();
    let agent = gateway.start();
    let lost = world.fleet.wait_for("the loss to be told", |message| message.body["name"] == "store_damaged");
    assert!(lost.body.to_string().contains("is not a directory"), "{lost:?}");
    world.fleet.sample_since(0, "gw-nostore", "a sample", |sample| sample["agent"].is_object());
    // What can't be journaled is neither obeyed nor acknowledged: the broker keeps it.
    let early = world.order("gw-nostore", "ping", json!({}));

    std::fs::remove_file(gateway.store()).unwrap();
    let (code, log) = agent.wait();
    assert_eq!(code, Some(1), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("can be used again")), "{log:#?}");
    let before: u64 = common::fleet::records(&world.fleet.so_far()).into_keys().max().unwrap();

    let (_agent, presence) = world.announced(&gateway);
    assert!(presence.body["seq"].as_u64() > Some(before), "{presence:?} comes after {before}");
    let late = world.order("gw-nostore", "ping", json!({}));
    for id in [early, late] {
        world.fleet.result(&id, "SUCCEEDED");
    }
}
