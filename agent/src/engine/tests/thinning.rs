//! A long outage: what it leaves of the samples, whatever happens on the way.

use std::time::Duration;

use serde_json::Value as Json;

use super::world::{World, config_with};
use crate::engine::io::{Input, LinkFaultKind, StopReason, StoreFault, StoreOp};
use crate::engine::record::Class;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// A gateway without a broker, with room for about seventy of its samples.
fn cut_off() -> World {
    let mut config = config_with("");
    config.telemetry.sample_interval = MINUTE;
    config.telemetry.report_interval = MINUTE;
    config.telemetry.publish_interval = MINUTE;
    config.store.max_bytes = 28 * 1024;
    let mut world = World::with(config);
    world.cut();
    world
}

/// When each sample that the fleet got began and ended, in seconds since boot, in the order of arrival.
fn spans(world: &World) -> Vec<(u64, u64)> {
    let samples = world.got.iter().filter_map(|got| got.body["samples"].as_array()).flatten();
    let span = |sample: &Json| {
        let end = sample["mono_ms"].as_u64().unwrap() / 1_000;
        let interval = Duration::from_secs_f64(sample["interval_s"].as_f64().unwrap());
        (end - interval.as_secs(), end)
    };
    samples.map(span).collect()
}

fn dropped(world: &World, reason: &str) -> u64 {
    world.engine.outbox.dropped().get(reason).copied().unwrap_or(0)
}

fn back_online(world: &mut World) {
    world.broker_up = true;
    world.advance(20 * MINUTE);
}

/// The longest time that no sample tells of.
fn longest_gap(spans: &[(u64, u64)]) -> u64 {
    let mut spans = spans.to_vec();
    spans.sort_unstable();
    let (mut covered, mut gap) = (spans[0].1, 0);
    for (from, to) in spans {
        gap = gap.max(from.saturating_sub(covered));
        covered = covered.max(to);
    }
    gap
}

#[test]
fn a_long_outage_leaves_a_picture_of_all_of_it_and_the_older_the_coarser() {
    let mut world = cut_off();
    world.advance(30 * HOUR);
    let made = world.store.appended[Class::Telemetry as usize];
    back_online(&mut world);
    let spans = spans(&world);
    assert_eq!(dropped(&world, "quota"), 0, "thinned only");
    assert_eq!(longest_gap(&spans), 0, "{spans:?}");
    assert!(spans[0].0 <= 60, "begins with the outage: {spans:?}");
    assert!(spans.is_sorted(), "the oldest first: {spans:?}");
    let lengths: Vec<u64> = spans.iter().map(|(from, to)| to - from).collect();
    assert!(lengths.is_sorted_by(|older, newer| older >= newer), "the older the coarser: {lengths:?}");
    for length in [3_600, 600, 60] {
        assert!(lengths.contains(&length), "none of {length} s: {lengths:?}");
    }
    let kept = spans.len() as u64 - 20;
    assert!((made..=made + 2).contains(&(kept + dropped(&world, "thinned"))), "{kept} of {made}");
}

#[test]
fn what_was_thinned_out_is_told_once_when_the_outage_is_over() {
    let mut world = cut_off();
    world.advance(12 * HOUR);
    back_online(&mut world);
    let told: Vec<&Json> =
        world.got.iter().map(|got| &got.body["audit"]).filter(|audit| audit["reason"] == "thinned").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["records"].as_u64(), Some(dropped(&world, "thinned")));
    assert!(told[0]["first_seq"].as_u64() < told[0]["last_seq"].as_u64(), "{told:?}");
}

#[test]
fn an_agent_that_ends_in_the_middle_of_an_outage_leaves_word_of_what_was_given_up() {
    for (stops, ends) in [(true, 1), (false, 1), (false, 5)] {
        let mut world = cut_off();
        for _ in 0..ends {
            world.advance(12 * HOUR);
            if stops {
                world.input(Input::Stop { reason: StopReason::Stopped });
                world.advance(MINUTE);
            }
            world.crash();
        }
        back_online(&mut world);
        let told = |reason: &str| {
            let told = world.got.iter().map(|got| &got.body["audit"]).filter(|audit| audit["reason"] == reason);
            told.filter_map(|audit| audit["records"].as_u64()).collect::<Vec<_>>()
        };
        assert_eq!(told("thinned"), [dropped(&world, "thinned")], "stops: {stops}, ends: {ends}");
        assert_eq!(told("quota").iter().sum::<u64>(), dropped(&world, "quota"), "stops: {stops}, ends: {ends}");
        // What was told is not told once more.
        let before = world.got.len();
        world.crash();
        world.advance(20 * MINUTE);
        let again: Vec<&Json> = world.got[before..].iter().map(|got| &got.body["audit"]).collect();
        assert!(again.iter().all(|audit| audit["records"].is_null()), "stops: {stops}, ends: {ends}: {again:?}");
    }
}

#[test]
fn wherever_the_agent_is_killed_while_it_thins_no_time_is_left_out() {
    // Each third, which comes to every kind of effect: a run takes hours of the simulated world.
    for kill_at in (0..150).step_by(3) {
        let mut world = cut_off();
        let thins = world.advance_until(4 * HOUR, |world| !world.stored(Class::Thinned).is_empty());
        assert!(thins, "nothing was thinned");
        let effects = std::cell::Cell::new(0);
        world.advance_until(HOUR, |_| effects.replace(effects.get() + 1) == kill_at);
        world.crash();
        world.advance(6 * HOUR);
        back_online(&mut world);
        let spans = spans(&world);
        // The interval that was open at the kill, and a sample that was not yet durable.
        assert!(longest_gap(&spans) <= 150, "killed after {kill_at} effects: {} s are missing", longest_gap(&spans));
        let made = world.store.appended[Class::Telemetry as usize];
        let counted = spans.len() as u64 + dropped(&world, "thinned");
        assert!(counted >= made, "killed after {kill_at} effects: {counted} counted of {made}");
    }
}

#[test]
fn a_store_that_fails_while_it_is_thinned_loses_nothing_by_it() {
    for (n, which) in [
        |op: &StoreOp| matches!(op, StoreOp::Append { class: Class::Thinned, .. }),
        |op: &StoreOp| matches!(op, StoreOp::Read { .. }),
        |op: &StoreOp| matches!(op, StoreOp::Commit),
        |op: &StoreOp| matches!(op, StoreOp::Trim { .. }),
    ]
    .into_iter()
    .enumerate()
    {
        let mut world = cut_off();
        assert!(world.advance_until(4 * HOUR, |world| !world.stored(Class::Thinned).is_empty()));
        world.refuse(which, StoreFault::Io { what: "EIO".into() });
        world.advance(10 * MINUTE);
        world.refuse_nothing();
        world.advance(6 * HOUR);
        back_online(&mut world);
        assert_eq!(longest_gap(&spans(&world)), 0, "operation {n} fails: {:?}", spans(&world));
    }
}

#[test]
fn a_disk_that_others_fill_within_a_step_is_given_room_and_the_agent_is_not_mute() {
    let mut world = cut_off();
    let thins = world.advance_until(12 * HOUR, |world| !world.stored(Class::Thinned).is_empty());
    assert!(thins, "nothing was thinned");
    // What was made is in the log's buffer; the commit finds the disk full until something is given up.
    let count = |world: &World| Class::ALL.iter().map(|class| world.stored(*class).len() as u64).sum::<u64>();
    let records = count(&world);
    world.commits_fit(records - 20);
    world.advance(HOUR);
    let left = count(&world);
    assert!(left <= records, "{left} of {records}: nothing is given up");
    assert!(dropped(&world, "quota") > 0);
    let before = world.got.len();
    back_online(&mut world);
    assert!(world.got[before..].iter().filter(|got| got.topic.ends_with("/telemetry")).count() > 1);
    assert_eq!(world.stored(Class::Telemetry), [0; 0]);
}

#[test]
fn a_disk_that_takes_no_commit_at_all_leaves_what_is_half_thinned_to_be_sent() {
    let mut world = cut_off();
    let thins = world.advance_until(12 * HOUR, |world| !world.stored(Class::Thinned).is_empty());
    assert!(thins, "nothing was thinned");
    world.refuse(|op| *op == StoreOp::Commit, StoreFault::Io { what: "sync the log".into() });
    world.advance(MINUTE);
    let waiting = world.stored(Class::Telemetry).len();
    assert!(waiting > 20, "{waiting}");
    back_online(&mut world);
    let came: usize = world.got.iter().filter_map(|got| got.body["samples"].as_array()).map(Vec::len).sum();
    assert!(came >= waiting, "{came} of {waiting} samples came");
}

#[test]
fn what_a_broken_connection_had_brought_is_not_brought_again_within_a_thinned_sample() {
    let mut world = cut_off();
    // No whole groups of ten.
    for minutes in [25, 13] {
        world.advance(minutes * MINUTE);
        (world.withhold_acks, world.broker_up) = (true, true);
        let before = world.samples().len();
        assert!(world.advance_until(MINUTE, |world| world.samples().len() > before + 20), "they are on their way");
        (world.withhold_acks, world.broker_up) = (false, false);
        world.drop_connection(LinkFaultKind::Tcp);
    }
    world.advance(12 * HOUR);
    back_online(&mut world);
    assert!(dropped(&world, "thinned") > 0);
    let mut seen = std::collections::BTreeSet::new();
    let samples = world.got.iter().filter_map(|got| got.body["samples"].as_array()).flatten();
    let is_new: Vec<bool> = samples.map(|sample| seen.insert(sample["seq"].as_u64().unwrap())).collect();
    let mut kept: Vec<_> = spans(&world).into_iter().zip(is_new).filter(|(_, is_new)| *is_new).collect();
    kept.sort_unstable();
    let twice = kept.windows(2).find(|pair| pair[1].0.0 < pair[0].0.1);
    assert_eq!(twice, None, "told twice, to a reader that drops the seqs it has seen");
    assert_eq!(longest_gap(&spans(&world)), 0);
}

#[test]
fn a_link_that_comes_and_goes_gets_everything() {
    let mut world = cut_off();
    for round in 0..40 {
        world.cut();
        world.advance(2 * HOUR);
        world.broker_up = true;
        let effects = std::cell::Cell::new(0);
        world.advance_until(20 * MINUTE, |_| effects.replace(effects.get() + 1) == 10 + 3 * round);
    }
    back_online(&mut world);
    assert_eq!(longest_gap(&spans(&world)), 0, "{:?}", spans(&world));
    assert_eq!(dropped(&world, "quota"), 0);
    assert!(dropped(&world, "thinned") > 0);
}
