//! A disk that others have filled, or that can't be written to: what is live gets through all the same, also after a
//! kill, and what is lost is told.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value as Json, json};

use crate::common::agent::{export, seqs};
use crate::common::{Gateway, Message, PREFIX, SOON, TinyDisk, World};

const DEVICE: &str = "gw-disk";
const DISK_MIB: u64 = 8;
/// Samples that show that telemetry goes on.
const LIVE: usize = 5;
/// Samples given up that show that nothing was left to be done with them.
const GIVEN_UP: u64 = 10;
/// What a sample's times are rounded by.
const ROUNDED_MS: f64 = 2.0;
/// How long it may take to be told of what was given up: that is once a minute, and at the start.
const TOLD_BOUND: Duration = Duration::from_secs(120);
/// How long what waited in a store may take to come.
const DRAIN_BOUND: Duration = Duration::from_secs(60);

/// A gateway whose store is on this disk, and that soon has more samples than memory is there for.
fn gateway_on(disk: &TinyDisk, world: &World) -> Gateway {
    world.gateway(DEVICE).with(&format!(
        r#"
        [store]
        path = "{}/store"
        max_bytes = "4MiB"
        commit_interval = "50ms"
        [telemetry]
        sample_interval = "100ms"
        report_interval = "100ms"
        publish_interval = "100ms"
        "#,
        disk.path().display()
    ))
}

/// Waits for some samples that were made after this.
fn goes_on(world: &World, when: &str) {
    let now = now_ms();
    world.fleet.wait_all(SOON, &format!("telemetry to go on {when}"), |messages| {
        samples(messages).iter().filter(|sample| mono_ms(sample) > now).nth(LIVE - 1).map(|_| ())
    });
}

/// As `mono_ms` counts.
fn now_ms() -> u64 {
    u64::try_from(Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap().as_millis()).unwrap()
}

/// Waits until the fleet was told of each record that the store took none of, and looks at the samples up to this time:
/// no other is missing, as each begins where the one before it ended.
fn assert_each_hole_is_told(world: &World, upto_ms: u64) {
    let told = world.fleet.wait_all(TOLD_BOUND, "to be told of all that was given up", |messages| {
        let told = told(messages);
        let counted = samples(messages).last()?["agent"]["dropped"]["store_failed"].as_u64();
        (counted == Some(told.iter().map(|told| told.records).sum())).then_some(told)
    });
    let came = samples(&world.fleet.so_far()).into_iter().filter(|sample| mono_ms(sample) <= upto_ms);
    let came: BTreeMap<u64, Json> = came.map(|sample| (sample["seq"].as_u64().unwrap(), sample)).collect();
    let mut holes = 0;
    for ((earlier, sample), (later, next)) in came.iter().zip(came.iter().skip(1)) {
        let spans_ms = next["interval_s"].as_f64().unwrap() * 1_000.0;
        if (mono_ms(next) - mono_ms(sample)) as f64 > spans_ms + ROUNDED_MS {
            holes += 1;
            let is_told = told.iter().any(|told| told.seqs.start() < later && earlier < told.seqs.end());
            assert!(is_told, "nothing is told of what is missing from {sample} to {next}: {told:#?}");
        }
    }
    assert!(holes > 0, "nothing is missing: {told:#?}");
}

/// Records that the store took none of, as the fleet was told.
#[derive(Debug)]
struct Told {
    records: u64,
    seqs: RangeInclusive<u64>,
}

fn told(messages: &[Message]) -> Vec<Told> {
    let audits = messages.iter().filter(|message| message.body["name"] == "records_dropped");
    let audits = audits.map(|message| &message.body["audit"]).filter(|audit| audit["reason"] == "store_failed");
    let number = |audit: &Json, key: &str| audit[key].as_u64().unwrap();
    audits
        .map(|audit| Told {
            records: number(audit, "records"),
            seqs: number(audit, "first_seq")..=number(audit, "last_seq"),
        })
        .collect()
}

fn samples(messages: &[Message]) -> Vec<Json> {
    let topic = format!("{PREFIX}/{DEVICE}/telemetry");
    messages.iter().filter(|message| message.topic == topic).flat_map(Message::samples).cloned().collect()
}

fn mono_ms(sample: &Json) -> u64 {
    sample["mono_ms"].as_u64().unwrap()
}

/// Takes the broker away until there are so many samples in the store or, where it takes none, until some are given up.
fn outage(world: &mut World, gateway: &Gateway, what: &str, is_over: impl Fn(&Json) -> bool) {
    world.broker.stop();
    gateway.wait_for_status(what, |status| status["broker"]["online"] == false && is_over(&status["outbox"]));
}

#[test]
fn on_a_full_disk_live_telemetry_and_commands_go_on_also_after_a_kill_and_what_is_given_up_is_told() {
    let Some(disk) = TinyDisk::mount(DISK_MIB) else { return };
    let mut world = World::new();
    let gateway = gateway_on(&disk, &world);
    let agent = world.online(&gateway);
    disk.fill();
    goes_on(&world, "on a full disk");

    outage(&mut world, &gateway, "samples to be given up", |outbox| {
        outbox["dropped"]["store_failed"].as_u64() >= Some(GIVEN_UP)
    });
    world.broker.resume();
    goes_on(&world, "after an outage on a full disk");
    let killed_ms = now_ms();
    agent.kill9();
    let _agent = world.online(&gateway);
    goes_on(&world, "on a full disk after a kill");
    let id = world.order(DEVICE, "ping", json!({}));
    world.fleet.result(&id, "SUCCEEDED");
    assert_each_hole_is_told(&world, killed_ms);

    disk.empty();
    outage(&mut world, &gateway, "samples to be stored again", |outbox| {
        outbox["records"]["telemetry"].as_u64() >= Some(GIVEN_UP)
    });
    let stored = seqs(&export(&disk.path().join("store")));
    world.broker.resume();
    world.fleet.wait_for_records(DRAIN_BOUND, &stored);
}

#[test]
fn on_a_read_only_disk_live_telemetry_goes_on_also_after_a_kill_and_what_was_stored_before_arrives_after_it() {
    let Some(disk) = TinyDisk::mount(DISK_MIB) else { return };
    let mut world = World::new();
    let gateway = gateway_on(&disk, &world);
    let agent = world.online(&gateway);
    outage(&mut world, &gateway, "samples to be stored", |outbox| {
        outbox["records"]["telemetry"].as_u64() >= Some(GIVEN_UP)
    });
    agent.kill9();
    let stored = seqs(&export(&disk.path().join("store")));

    disk.set_read_only(true);
    world.broker.resume();
    for run in 1..=2 {
        let mark = world.fleet.mark();
        let agent = world.online(&gateway);
        let lost =
            world.fleet.wait_since(mark, "the loss to be told", |message| message.body["name"] == "store_damaged");
        assert!(lost.body.to_string().contains("Read-only file system"), "{lost:?}");
        goes_on(&world, &format!("on a read-only disk, run {run}"));
        if run == 2 {
            disk.set_read_only(false);
            // It is started again by what has started it.
            let (code, log) = agent.wait();
            assert_eq!(code, Some(1), "{log:#?}");
        }
    }
    let _agent = world.online(&gateway);
    world.fleet.wait_for_records(DRAIN_BOUND, &stored);
    goes_on(&world, "on a disk that can be written to again");
}
