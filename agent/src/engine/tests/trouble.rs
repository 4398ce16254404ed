//! A store that takes nothing, and a broker that can't stand one record: what can go on goes on, and what is given up
//! is told with its numbers. And the opposite of trouble: what the broker takes at once never wears the flash.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::{World, config};
use crate::config::MqttVersion;
use crate::engine::io::{Input, LinkFaultKind, StopReason, StoreFault, StoreOp};
use crate::engine::packet::Version;
use crate::engine::record::Class;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const MILLISECOND: Duration = Duration::from_millis(1);

fn full() -> StoreFault {
    StoreFault::NoSpace { what: "append to the log".into() }
}

fn read_only() -> StoreFault {
    StoreFault::Io { what: "append to the log: Read-only file system (os error 30)".into() }
}

pub(super) fn told<'w>(world: &'w World, name: &str) -> Vec<&'w serde_json::Value> {
    world.got.iter().map(|got| &got.body).filter(|body| body["name"] == name).collect()
}

#[test]
fn what_is_measured_goes_on_being_sent_while_the_store_takes_nothing() {
    for fault in [full(), read_only()] {
        let mut world = World::new();
        world.advance(4 * SECOND);
        let before = world.samples().len();
        world.store.fault = Some(fault.clone());
        world.advance(600 * SECOND);
        let sent = world.samples().len() - before;
        assert!(sent >= 298, "{sent} samples of 300 with {fault}");
        assert_eq!(world.engine.dropped().get("store_failed"), None, "{fault}");
    }
}

#[test]
fn a_commit_that_fails_does_not_hold_up_what_was_written_before_it() {
    let mut world = World::new();
    world.advance(4 * SECOND);
    let before = world.samples().len();
    world.refuse(|op| matches!(op, StoreOp::Commit), read_only());
    world.advance(60 * SECOND);
    let sent = world.samples().len() - before;
    assert!(sent >= 25, "{sent} samples of 30");
}

#[test]
fn what_only_memory_holds_comes_again_after_a_cut_and_under_the_same_number() {
    let mut world = World::new();
    world.advance(4 * SECOND);
    world.store.fault = Some(full());
    world.withhold_acks = true;
    world.advance(4 * SECOND);
    let sent = world.samples();
    world.withhold_acks = false;
    world.drop_connection(LinkFaultKind::Tcp);
    world.advance(30 * SECOND);
    world.store.fault = None;
    world.advance(20 * SECOND);
    let all = world.samples();
    for seq in sent.iter().rev().take(2) {
        assert_eq!(all.iter().filter(|other| *other == seq).count(), 2, "{seq} of {all:?}");
    }
    let unique: BTreeSet<u64> = all.iter().copied().collect();
    let dropped = world.engine.dropped();
    assert!((28..=30).contains(&unique.len()), "{} samples of 29: none under two numbers; {dropped:?}", unique.len());
}

#[test]
fn offline_with_a_store_that_takes_nothing_the_newest_beyond_the_bound_are_counted() {
    let mut world = World::new();
    world.advance(4 * SECOND);
    world.cut();
    world.store.fault = Some(full());
    world.advance(600 * SECOND);
    let dropped = world.engine.dropped().get("store_failed").copied().unwrap_or(0);
    world.store.fault = None;
    world.broker_up = true;
    world.advance(30 * SECOND);
    assert!(dropped > 200, "{dropped} of 300 don't fit in memory");
    let lost: u64 =
        told(&world, "records_dropped").iter().map(|event| event["audit"]["records"].as_u64().unwrap()).sum();
    assert_eq!(lost, world.engine.dropped()["store_failed"], "each loss is told once");
}

#[test]
fn an_eviction_is_told_with_its_class_reason_and_numbers() {
    let mut world = World::new();
    world.advance(4 * SECOND);
    world.cut();
    world.advance(20 * SECOND);
    let stored = world.stored(Class::Telemetry);
    world.refuse(|op| matches!(op, StoreOp::Append { class: Class::Telemetry, .. }), full());
    world.advance(3 * SECOND);
    world.refuse_nothing();
    world.broker_up = true;
    world.advance(90 * SECOND);
    let events = told(&world, "records_dropped");
    let [event] = events[..] else { panic!("{events:?} of {:?}", world.engine.dropped()) };
    let audit = &event["audit"];
    assert_eq!((&audit["reason"], &audit["class"]), (&"quota".into(), &"telemetry".into()));
    assert_eq!(audit["first_seq"].as_u64(), stored.first().copied(), "{audit}");
    assert!(audit["last_seq"].as_u64() >= audit["first_seq"].as_u64(), "{audit}");
}

#[test]
fn a_record_that_the_broker_hangs_up_on_is_set_aside_and_the_rest_arrives() {
    let mut world = World::new();
    world.advance(4 * SECOND);
    world.cut();
    world.advance(120 * SECOND);
    let stored = world.stored(Class::Telemetry);
    let poison = stored[stored.len() / 2];
    world.hang_up_over(poison);
    world.broker_up = true;
    world.connects = 0;
    world.advance(Duration::from_secs(300));
    let arrived = world.samples();
    let missing: Vec<u64> = stored.iter().filter(|seq| !arrived.contains(seq)).copied().collect();
    assert_eq!(missing, [poison], "of {stored:?}");
    assert_eq!(world.engine.dropped().get("poison"), Some(&1));
    let audit = &told(&world, "records_dropped")[0]["audit"];
    assert_eq!((&audit["reason"], &audit["first_seq"]), (&"poison".into(), &poison.into()));
    assert!(world.connects < 20, "{} connections", world.connects);
}

#[test]
fn a_broker_that_dies_again_and_again_costs_no_record() {
    let mut world = World::new();
    world.advance(4 * SECOND);
    for _ in 0..30 {
        world.withhold_acks = true;
        world.advance(3 * SECOND);
        world.cut();
        world.broker_up = true;
        world.advance(2 * SECOND);
    }
    world.withhold_acks = false;
    world.advance(60 * SECOND);
    assert!(world.engine.dropped().is_empty(), "{:?}", world.engine.dropped());
}

#[test]
fn a_broker_that_takes_only_qos_0_is_told_to_be_of_no_use() {
    let mut world = World::new();
    world.qos_max = 0;
    world.cut();
    world.broker_up = true;
    let before = world.got.len();
    world.advance(10 * SECOND);
    assert_eq!(world.got.len(), before, "nothing that could not be acknowledged was sent");
    assert!(world.log.iter().any(|(_, text)| text.contains("QoS 0")), "{:?}", world.log);
}

#[test]
fn a_broker_without_retained_messages_gets_presence_and_attributes_all_the_same() {
    // One that doesn't say so is believed otherwise once a connection was stable: it may be another one.
    for (says_so, lasts) in [(true, 90 * SECOND), (false, 20 * SECOND)] {
        let mut world = World::new();
        world.retain_nothing(says_so);
        for _ in 0..3 {
            world.cut();
            world.got.clear();
            world.broker_up = true;
            world.advance(lasts);
            let topics: Vec<&str> = world.got.iter().map(|got| got.topic.rsplit('/').next().unwrap()).collect();
            assert!(["presence", "attributes", "telemetry"].iter().all(|leaf| topics.contains(leaf)), "{topics:?}");
        }
        assert!(world.log.iter().any(|(_, text)| text.contains("retained messages")), "{:?}", world.log);
    }
}

#[test]
fn a_broker_of_the_older_version_that_hangs_up_over_a_retained_will_is_found_out() {
    let mut config = config();
    config.mqtt.version = MqttVersion::V311;
    let mut world = World::with(config);
    world.retain_nothing(false);
    // After a connection that was stable it may be another broker: that is soon found out.
    for tries in [5, 3] {
        let before = world.connects;
        if tries == 5 {
            world.crash();
        } else {
            world.drop_connection(LinkFaultKind::Server);
        }
        world.got.clear();
        world.advance(90 * SECOND);
        let topics: Vec<&str> = world.got.iter().map(|got| got.topic.rsplit('/').next().unwrap()).collect();
        assert!(["presence", "attributes", "telemetry"].iter().all(|leaf| topics.contains(leaf)), "{topics:?}");
        assert_eq!(world.connects - before, tries);
    }
    world.retain_everything();
    world.drop_connection(LinkFaultKind::Server);
    world.advance(10 * SECOND);
    assert_eq!((world.is_connected(), world.wills_retained.last()), (true, Some(&true)));
}

#[test]
fn a_broker_of_the_older_version_that_was_only_away_keeps_presence() {
    let mut config = config();
    config.mqtt.version = MqttVersion::V311;
    for closes in 1..6 {
        let mut world = World::with(config.clone());
        world.hang_up_on(&[Version::V311]);
        world.crash();
        let before = world.connects;
        assert!(world.advance_until(60 * SECOND, |world| world.connects - before >= closes), "{closes}");
        world.hang_up_on(&[]);
        world.advance(10 * SECOND);
        assert_eq!((world.is_connected(), world.wills_retained.last()), (true, Some(&true)), "{closes}");
    }
}

#[test]
fn a_will_that_was_not_to_be_retained_does_not_stand_beside_presence_that_is() {
    let mut world = World::new();
    world.retain_nothing(true);
    world.crash();
    // Until it is stable: then the broker may be another one.
    world.advance(90 * SECOND);
    assert!(world.is_connected());
    world.retain_everything();
    world.drop_connection(LinkFaultKind::Server);
    world.advance(10 * SECOND);
    assert_eq!((world.is_connected(), world.wills_retained.last()), (true, Some(&true)));
    let connects = world.connects;
    world.advance(60 * SECOND);
    assert_eq!(world.connects, connects);
}

/// So long without the broker, with one message a second for what waits then.
fn cut_off_with_a_slow_drain(outage: Duration) -> World {
    let mut config = config();
    config.mqtt.drain.publishes_per_second = 1;
    let mut world = World::with(config);
    world.advance(4 * SECOND);
    world.cut();
    world.advance(outage);
    world
}

#[test]
fn the_status_says_how_far_the_backlog_is_until_it_is_sent() {
    let mut world = cut_off_with_a_slow_drain(1_200 * SECOND);
    assert_eq!(
        world.engine.status(world.now).outbox.drain.map(|drain| drain.of_records),
        None,
        "nothing drains offline"
    );
    world.broker_up = true;
    world.advance(4 * SECOND);
    let drain = world.engine.status(world.now).outbox.drain.expect("600 samples at one message a second");
    assert!(drain.of_records >= 600 && drain.remaining_records < drain.of_records, "{drain:?}");
    assert!(drain.left_s.is_some_and(|left_s| left_s > 0), "{drain:?}");
    world.advance(300 * SECOND);
    assert!(world.engine.status(world.now).outbox.drain.is_none());
    assert!(world.log.iter().any(|(_, text)| text.contains("samples that had waited were sent in")), "{:?}", world.log);
}

#[test]
fn the_fleet_is_told_how_far_the_backlog_is_before_the_last_of_it_has_come() {
    let mut world = cut_off_with_a_slow_drain(18_000 * SECOND);
    world.broker_up = true;
    let before = world.got.len();
    let is_drained = |world: &World| world.got[before..].iter().any(|got| got.body["name"] == "drained");
    assert!(world.advance_until(1_200 * SECOND, is_drained));
    let got = &world.got[before..];
    let at = |name: &str| got.iter().position(|got| got.body["name"] == name).expect(name);
    assert_eq!(got[at("connected")].body["link"]["backlog_records"], got[at("drained")].body["drain"]["of_records"]);
    let told: Vec<_> = got.iter().filter(|got| got.body["name"] == "draining").map(|got| &got.body["drain"]).collect();
    let remaining: Vec<u64> = told.iter().map(|drain| drain["remaining_records"].as_u64().unwrap()).collect();
    assert!(remaining.len() >= 2 && remaining.is_sorted_by(|a, b| a > b), "{told:?}");
    assert!(told.iter().all(|drain| drain["left_s"].as_u64() > Some(0)), "{told:?}");
    let sent_after = got[at("draining")..at("drained")].iter().filter(|got| got.body["samples"].is_array()).count();
    assert!(sent_after > 0, "the first was told while samples still waited");
    assert_eq!(got[at("drained")].body["drain"]["remaining_records"], 0);
}

/// Appends of telemetry that the store has been asked for.
fn appends(world: &World) -> u64 {
    world.store.appended[Class::Telemetry as usize]
}

#[test]
fn what_the_broker_acknowledges_at_once_is_never_written_to_the_store() {
    let mut world = World::new();
    world.advance(4 * SECOND);
    let (before, sent) = (appends(&world), world.samples().len());
    world.advance(600 * SECOND);
    assert!(world.samples().len() >= sent + 299, "{} samples", world.samples().len() - sent);
    assert_eq!(appends(&world), before);
}

#[test]
fn what_the_broker_does_not_acknowledge_in_time_is_stored_and_comes_again_under_its_number() {
    let mut world = World::new();
    world.advance(4 * SECOND);
    world.withhold_acks = true;
    world.advance(6 * SECOND);
    let sent = world.samples();
    world.advance(1_200 * MILLISECOND);
    let waiting = &sent[sent.len() - 2..];
    assert!(waiting.iter().all(|seq| world.stored(Class::Telemetry).contains(seq)), "{waiting:?} of {sent:?}");
    world.withhold_acks = false;
    world.crash();
    world.advance(10 * SECOND);
    let all = world.samples();
    for seq in waiting {
        assert_eq!(all.iter().filter(|other| *other == seq).count(), 2, "{seq} of {all:?}");
    }
}

#[test]
fn what_is_held_when_the_link_breaks_or_the_agent_stops_is_stored() {
    for stop in [false, true] {
        let mut world = World::new();
        world.advance(4 * SECOND);
        world.withhold_acks = true;
        let made = world.samples().len();
        assert!(world.advance_until(3 * SECOND, |world| world.samples().len() > made));
        let last = *world.samples().last().unwrap();
        assert!(!world.stored(Class::Telemetry).contains(&last), "held");
        if stop {
            world.input(Input::Stop { reason: StopReason::Stopped });
        } else {
            world.drop_connection(LinkFaultKind::Tcp);
        }
        assert!(world.stored(Class::Telemetry).contains(&last), "stop: {stop}");
    }
}

#[test]
fn after_an_outage_the_backlog_goes_before_what_is_measured_now() {
    let mut world = World::new();
    world.advance(4 * SECOND);
    world.cut();
    world.advance(60 * SECOND);
    world.broker_up = true;
    world.advance(60 * SECOND);
    let seqs = world.samples();
    assert!(seqs.is_sorted(), "{seqs:?}");
    assert!(seqs.len() >= 61, "{} samples of 62", seqs.len());
}

#[test]
fn offline_the_store_commits_as_often_as_the_config_says_and_not_more() {
    let mut world = World::with(super::world::config_with("[store]\ncommit_interval = \"20s\"\n"));
    world.advance(4 * SECOND);
    world.cut();
    world.advance(30 * SECOND);
    let before = world.store.commits;
    world.advance(200 * SECOND);
    let commits = world.store.commits - before;
    assert!((8..=12).contains(&commits), "{commits} commits in ten commit intervals");
}

#[test]
fn a_sign_of_life_comes_only_after_all_that_the_store_was_asked_before() {
    let mut world = World::new();
    world.input(Input::ProveAlive);
    assert_eq!(world.signs_of_life, 1);
    world.stall_store_at(|op| matches!(op, StoreOp::Append { .. }));
    world.input(Input::Errors(super::invariants::error_batch("disk hangs")));
    for _ in 0..3 {
        world.input(Input::ProveAlive);
    }
    assert_eq!(world.signs_of_life, 1, "given while the store hangs");
    world.store_answers();
    assert_eq!(world.signs_of_life, 2, "three that were asked for meanwhile are one");
}

#[test]
fn a_store_that_takes_no_more_work_is_no_sign_of_life_and_one_that_is_full_is() {
    let mut world = World::new();
    world.refuse(|op| matches!(op, StoreOp::Probe), StoreFault::Busy);
    world.input(Input::ProveAlive);
    assert_eq!(world.signs_of_life, 0);
    world.refuse_nothing();
    world.store.fault = Some(full());
    world.input(Input::ProveAlive);
    assert_eq!(world.signs_of_life, 1);
}

#[test]
fn a_start_tells_what_ended_the_run_before() {
    let cases = [
        (None, "crash or power cut", "info"),
        (Some("oom-kill"), "crash or power cut", "info"),
        (Some("watchdog"), "watchdog", "error"),
    ];
    for (ended_as, after, severity) in cases {
        let mut world = World::new();
        world.advance(SECOND);
        world.ended_as = ended_as.map(str::to_owned);
        world.crash();
        world.advance(2 * SECOND);
        let started = *told(&world, "started").last().unwrap();
        assert_eq!((&started["agent"]["after"], &started["severity"]), (&after.into(), &severity.into()));
        assert_eq!(started["agent"]["service_result"].as_str(), ended_as);
    }
    let mut world = World::new();
    world.advance(SECOND);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.ended_as = Some("success".into());
    world.crash();
    world.advance(2 * SECOND);
    let started = *told(&world, "started").last().unwrap();
    assert_eq!((&started["agent"]["after"], started["agent"]["service_result"].is_null()), (&"stop".into(), true));
}

#[test]
fn what_came_no_further_than_a_logs_buffer_at_the_end_is_counted_as_dropped() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    world.cut();
    world.refuse(|op| *op == StoreOp::Commit, StoreFault::Io { what: "sync the log".into() });
    world.advance(60 * SECOND);
    let waiting = world.stored(Class::Telemetry).len() as u64;
    assert!(waiting > 5, "{waiting}");
    let shown = world.engine.status(world.now).outbox.volatile_records as u64;
    assert!(shown >= waiting, "status tells of {shown} of {waiting} that a crash would take");
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(10 * SECOND);
    let counted = world.engine.dropped().get("store_failed").copied();
    assert!(world.exited && counted >= Some(waiting), "{counted:?} of {waiting}");
}

#[test]
fn what_only_memory_holds_at_the_end_is_counted_as_dropped() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    world.cut();
    world.refuse(|op| matches!(op, StoreOp::Append { .. }), StoreFault::Busy);
    world.advance(60 * SECOND);
    let held = world.engine.outbox.volatile() as u64;
    assert!(held > 5, "{held}");
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(10 * SECOND);
    assert!(world.exited);
    let dropped = |world: &World| world.engine.dropped().get("store_failed").copied();
    let counted = dropped(&world);
    assert!(counted >= Some(held), "{counted:?} of {held}");
    world.refuse_nothing();
    world.crash();
    assert_eq!(dropped(&world), counted);
}

#[test]
fn what_the_store_refused_is_given_to_it_once_more_at_the_end() {
    for fault in [StoreFault::Busy, full()] {
        let mut world = World::new();
        world.advance(5 * SECOND);
        world.cut();
        world.refuse(|op| matches!(op, StoreOp::Append { .. }), fault.clone());
        world.advance(3 * SECOND);
        let (held, stored) = (world.engine.outbox.volatile(), world.stored(Class::Telemetry).len());
        assert!(held > 0, "{fault}");
        world.refuse_nothing();
        world.input(Input::Stop { reason: StopReason::Stopped });
        world.advance(2 * SECOND);
        assert!(world.exited, "{fault}");
        assert_eq!(world.engine.dropped().get("store_failed"), None, "{fault}");
        assert!(world.stored(Class::Telemetry).len() >= stored + held, "{fault}: {held} were held");
    }
}

#[test]
fn a_broker_that_hangs_up_over_presence_and_attributes_gets_all_else_and_these_again_after_a_while() {
    let mut world = World::new();
    world.advance(SECOND);
    world.hang_up_over_topics(&["/presence", "/attributes"]);
    world.drop_connection(LinkFaultKind::Server);
    world.advance(30 * SECOND);
    let (connects, samples) = (world.connects, world.samples().len());
    world.advance(4 * MINUTE);
    assert_eq!(world.connects, connects, "it has its peace for a time");
    assert!(world.samples().len() > samples + 50, "{samples}");
    let told = world.log.iter().filter(|(_, text)| text.contains("it is left out")).count();
    assert_eq!(told, 2, "{:?}", world.log);
    world.got.clear();
    world.hang_up_over_topics(&[]);
    world.advance(2 * MINUTE);
    for leaf in ["/presence", "/attributes"] {
        assert!(world.got.iter().any(|got| got.topic.ends_with(leaf)), "{leaf}");
    }
}
