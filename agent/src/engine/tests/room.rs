//! Where the disk is full, or fails: what is given up is counted, and what is live gets through all the same.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::invariants::error_batch;
use super::sending::{errors_of_many_kinds, leafs, nth_error};
use super::world::World;
use crate::engine::io::{Input, StoreFault, StoreOp};
use crate::engine::record::Class;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn over_its_quota_the_oldest_telemetry_goes_first_and_is_counted() {
    let mut config = super::world::config();
    config.store.max_bytes = 8 * 1024;
    let mut world = World::with(config);
    world.cut();
    world.advance(900 * SECOND);
    world.broker_up = true;
    world.advance(60 * SECOND);
    let dropped: u64 = world
        .got
        .iter()
        .filter_map(|got| got.body["samples"].as_array())
        .flatten()
        .filter_map(|sample| sample["agent"]["dropped"].as_object())
        .map(|dropped| dropped.values().filter_map(serde_json::Value::as_u64).sum())
        .max()
        .unwrap_or(0);
    let samples = world.got.iter().filter_map(|got| got.body["samples"].as_array()).map(Vec::len).sum::<usize>() as u64;
    // One sample each 2 s; those of the last seconds may still be on their way.
    assert!((478..=480).contains(&(dropped + samples)), "{dropped} dropped and {samples} received of 480");
    assert!(leafs(&world).iter().filter(|leaf| **leaf == "events").count() >= 3, "events are kept");
}

fn dropped(world: &World, reason: &str) -> u64 {
    world.engine.outbox.dropped().get(reason).copied().unwrap_or(0)
}

#[test]
fn what_was_evicted_is_counted_also_when_the_agent_is_killed_before_it_hears_of_it() {
    let mut config = super::world::config();
    config.store.max_bytes = 8 * 1024;
    let mut world = World::with(config);
    world.cut();
    for crash in 1..=10 {
        let before: u64 = world.store.evicted.iter().sum();
        let evicts = world.advance_until(900 * SECOND, |world| world.store.evicted.iter().sum::<u64>() > before);
        assert!(evicts, "nothing evicted before crash {crash}");
        world.crash();
        assert_eq!(dropped(&world, "quota"), world.store.evicted.iter().sum::<u64>(), "after crash {crash}");
    }
    world.advance(900 * SECOND);
    assert_eq!(dropped(&world, "quota"), world.store.evicted.iter().sum::<u64>());
}

/// One event is too long for the broker, which takes others, and will be set aside when it is refused once more.
fn one_refusal_before_it_is_set_aside() -> World {
    let mut world = World::new();
    world.advance(5 * SECOND);
    world.take_bytes(1_200);
    world.input(Input::Errors(error_batch(&"long ".repeat(200))));
    for second in 0..35 {
        world.input(Input::Errors(error_batch(&format!("short {}", "x".repeat(second)))));
        world.advance(SECOND);
    }
    assert_eq!(dropped(&world, "too_large"), 0);
    world
}

#[test]
fn what_is_set_aside_is_counted_before_it_is_deleted_wherever_the_agent_is_killed() {
    let mut ends = BTreeSet::new();
    for kill_at in 0..120 {
        let mut world = one_refusal_before_it_is_set_aside();
        world.input(Input::Errors(error_batch("the last")));
        let effects = Cell::new(0);
        world.advance_until(20 * SECOND, |_| effects.replace(effects.get() + 1) == kill_at);
        world.crash();
        world.take_bytes(usize::MAX);
        world.advance(60 * SECOND);
        let is_long = |text: &str| text.starts_with("long");
        let arrived =
            world.got.iter().any(|got| got.taken && got.body["error"]["exemplar"].as_str().is_some_and(is_long));
        let counted = dropped(&world, "too_large");
        assert!(arrived || counted == 1, "killed after {kill_at} effects: neither came nor is counted");
        ends.insert(counted);
    }
    assert_eq!(ends, BTreeSet::from([0, 1]), "killed before and after");
}

#[test]
fn a_store_that_fails_for_a_while_loses_nothing_that_fits_in_memory() {
    let mut world = World::new();
    world.advance(2 * SECOND);
    world.store.fault = Some(StoreFault::NoSpace { what: "append to the log".into() });
    world.advance(20 * SECOND);
    world.store.fault = None;
    world.advance(30 * SECOND);
    let samples = world.got.iter().filter_map(|got| got.body["samples"].as_array()).map(Vec::len).sum::<usize>();
    assert!((25..=26).contains(&samples), "{samples} samples of 26");
}

#[test]
fn what_a_disk_refused_for_a_while_is_sent_before_what_came_after_it() {
    let mut world = World::new();
    world.advance(2 * SECOND);
    world.cut();
    world.advance(4 * SECOND);
    world.got.clear();
    world.refuse(
        |op| matches!(op, StoreOp::Append { .. } | StoreOp::Commit),
        StoreFault::NoSpace { what: "append to the log".into() },
    );
    world.advance(9 * SECOND);
    world.refuse_nothing();
    // The next try is seconds away, and samples come meanwhile.
    world.advance(20 * SECOND);
    world.broker_up = true;
    world.advance(60 * SECOND);
    let samples = world.got.iter().filter_map(|got| got.body["samples"].as_array()).flatten();
    let order: Vec<_> =
        samples.map(|sample| [&sample["mono_ms"], &sample["seq"]].map(|it| it.as_u64().unwrap())).collect();
    assert!(order.len() >= 40, "{}: nothing is lost", order.len());
    assert!(order.windows(2).all(|pair| pair[0][0] < pair[1][0] && pair[0][1] < pair[1][1]), "{order:?}");
}

#[test]
fn a_disk_that_is_short_of_space_does_not_make_the_agent_mute() {
    let mut world = World::new();
    world.store.free_bytes = 1;
    world.advance(20 * SECOND);
    world.command("p-1", "ping", serde_json::json!({}), 7);
    world.advance(10 * SECOND);
    assert_eq!(world.statuses("p-1"), ["SUCCEEDED"]);
    let samples = world.got.iter().filter_map(|got| got.body["samples"].as_array()).map(Vec::len).sum::<usize>();
    assert!(samples >= 14, "{samples} samples of 15");
    let attributes = world.got.iter().rfind(|got| got.topic.ends_with("attributes")).unwrap();
    assert_eq!(attributes.body["dynamic"]["health"], "degraded");
}

#[test]
fn a_keyed_state_that_takes_all_room_costs_no_result() {
    let mut world = World::new();
    world.store.state_bytes = 2 * world.config.store.max_bytes;
    world.advance(20 * SECOND);
    world.command("p-1", "ping", json!({}), 7);
    world.advance(10 * SECOND);
    assert_eq!(world.statuses("p-1"), ["SUCCEEDED"]);
    assert_eq!(world.store.given_up, BTreeSet::new(), "none of it would have made the state smaller");
}

#[test]
fn the_store_does_not_take_what_is_to_be_kept_free() {
    const DISK: u64 = 33 << 20;
    let mut world = World::new();
    let min_free = world.config.store.min_free_bytes;
    world.cut();
    let mut lowest = DISK;
    while world.store.given_up.is_empty() {
        // Nobody else writes: what the log has is what the disk has less.
        world.store.free_bytes = DISK - world.store.bytes();
        lowest = lowest.min(world.store.free_bytes);
        assert!(lowest >= min_free, "{lowest} B are free of {min_free}");
        world.advance(60 * SECOND);
    }
}

#[test]
fn a_disk_that_is_full_only_at_the_commit_gives_up_the_oldest_and_keeps_the_newest() {
    let mut world = World::new();
    world.cut();
    // What is appended stays in a buffer, and says nothing of the full disk.
    world.commits_fit(30);
    world.advance(120 * SECOND);
    assert!(world.engine.dropped().contains_key("quota"), "{:?}", world.engine.dropped());
    let newest = world.stored(Class::Telemetry).last().copied();
    world.crash();
    let kept = world.stored(Class::Telemetry).last().copied();
    assert!(
        kept.is_some() && kept >= newest.map(|seq| seq - 5),
        "of the samples up to {newest:?} only {kept:?} is kept"
    );
}

#[test]
fn on_a_disk_that_is_full_at_each_commit_what_happens_live_is_sent_all_the_same() {
    let mut world = World::new();
    world.advance(60 * SECOND);
    let before = world.samples().len();
    world.commits_fit(0);
    world.command("c-1", "ping", serde_json::json!({}), 1);
    world.advance(120 * SECOND);
    assert_eq!(world.statuses("c-1"), ["SUCCEEDED"]);
    assert!(world.samples().len() > before + 10, "{} samples, {before} before", world.samples().len());
    assert_eq!(world.engine.dropped().get("quota"), None, "{:?}", world.engine.dropped());
}

#[test]
fn a_trim_that_the_store_refused_is_asked_for_again() {
    let mut world = World::new();
    world.refuse(|op| matches!(op, StoreOp::Trim { .. }), StoreFault::Busy);
    world.input(Input::Errors(error_batch("disk failed")));
    assert!(!world.stored(Class::Events).is_empty(), "events were sent, and could not be deleted");
    world.refuse_nothing();
    world.advance(10 * SECOND);
    assert_eq!(world.stored(Class::Events), [0; 0], "sent again by the next start");
}

#[test]
fn counts_that_are_due_all_at_once_are_not_too_many_for_the_stores_queue() {
    let mut config = super::world::config();
    config.collect.errors.bucket = 3_600 * SECOND;
    let mut world = World::with(config);
    errors_of_many_kinds(&mut world);
    for minute in 0..8 {
        for n in 0..50 {
            world.input(Input::Errors(nth_error(minute, n)));
        }
    }
    world.bound_store_queue(crate::store::STORE_QUEUE_MAX);
    world.got.clear();
    // The gateway was suspended: all buckets have ended.
    world.now.mono = world.now.mono.after(7_200 * SECOND);
    world.input(Input::Wake);
    world.advance(10 * SECOND);
    assert_eq!(world.engine.dropped().get("store_failed"), None);
    let counts = world.got.iter().filter(|got| got.body["error"]["count"] == 1).count();
    assert_eq!(counts, 400);
}

#[test]
fn what_could_not_be_saved_is_saved_later() {
    let mut world = one_refusal_before_it_is_set_aside();
    world.refuse(|op| matches!(op, StoreOp::Put { .. }), StoreFault::Busy);
    world.input(Input::Errors(error_batch("boom")));
    assert!(world.advance_until(20 * SECOND, |world| world.engine.dropped().contains_key("too_large")));
    world.refuse_nothing();
    // A sample is made meanwhile, and nothing more is given up or read.
    world.advance(3 * SECOND);
    assert_eq!(world.store.state.get("cursor").map(|cursor| &**cursor), Some(&b"boom"[..]));
    let dropped = world.engine.dropped().clone();
    world.crash();
    assert!(dropped.contains_key("too_large") && *world.engine.dropped() == dropped, "{dropped:?}");
}
