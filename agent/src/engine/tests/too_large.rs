//! A broker that takes less than it says: what fits goes on, what doesn't is counted and told.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::invariants::error_batch;
use super::world::{World, config, outcome};
use crate::config::AttributeValue;
use crate::engine::io::{ActOutcome, ActStatus, Input, LinkFaultKind};
use crate::engine::record::Class;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// Two samples fit in it, and no event with a text of full length.
const TAKEN: usize = 1_200;

/// Lines of the log about a length.
fn told(world: &World) -> usize {
    world.log.iter().filter(|(_, text)| text.contains("packet too large")).count()
}

/// A backlog, and a broker that comes back and takes it so. How often it was connected to before.
fn back_with_a_backlog(world: &mut World, takes: fn(&mut World, usize)) -> u32 {
    world.cut();
    world.advance(400 * SECOND);
    takes(world, TAKEN);
    world.got.clear();
    world.broker_up = true;
    world.connects
}

#[test]
fn a_backlog_goes_in_messages_that_are_short_enough() {
    let mut world = World::new();
    let before = back_with_a_backlog(&mut world, World::take_bytes);
    world.advance(60 * SECOND);
    let samples: BTreeSet<u64> = world.samples().into_iter().collect();
    assert!(samples.len() > 200, "{} samples", samples.len());
    assert!(world.engine.dropped().is_empty(), "{:?}", world.engine.dropped());
    // What a window holds may be refused at each halving, and no more.
    assert!(world.too_long("telemetry") < 60, "{} times", world.too_long("telemetry"));
    assert_eq!((world.connects - before, told(&world)), (1, 1));
}

#[test]
fn an_event_that_is_too_long_among_others_is_set_aside_after_five_tries_and_told() {
    for (is_announced, hangs_up) in [(false, false), (false, true), (true, false)] {
        let mut world = World::new();
        if is_announced {
            world.packet_max = Some(u32::try_from(TAKEN).unwrap());
            world.drop_connection(LinkFaultKind::Server);
            world.advance(5 * SECOND);
        } else if hangs_up {
            world.take_bytes_or_hang_up(TAKEN);
        } else {
            world.take_bytes(TAKEN);
        }
        let before = world.connects;
        world.input(Input::Errors(error_batch(&"long ".repeat(200))));
        for second in 0..90 {
            world.input(Input::Errors(error_batch(&format!("short {}", "x".repeat(second)))));
            world.advance(SECOND);
            // It has been tried at 0, 10, 20 and 30 s.
            assert!(second > 30 || world.engine.dropped().is_empty(), "after {second} s");
        }
        world.advance(120 * SECOND);
        // Every other time without it.
        let asked = if is_announced { 0..=0 } else { 2..=5 };
        assert!(asked.contains(&world.too_long("events")), "{} times", world.too_long("events"));
        assert_eq!(world.engine.dropped().get("too_large"), Some(&1), "{:?}", world.engine.dropped());
        let events = || world.got.iter().filter(|got| got.taken).map(|got| &got.body);
        let short =
            events().filter_map(|body| body["error"]["exemplar"].as_str().filter(|text| text.contains("short")));
        assert!(short.collect::<BTreeSet<_>>().len() > 10);
        let lost: Vec<_> = events().filter(|body| body["name"] == "records_dropped").collect();
        assert!(lost.len() == 1 && lost[0]["audit"]["reason"] == "too_large", "{lost:?}");
        assert_eq!(world.engine.session.fault(), None);
        assert!(world.connects - before <= if hangs_up { 6 } else { 0 }, "{} connections", world.connects - before);
    }
}

#[test]
fn a_broker_that_takes_hardly_anything_for_a_while_loses_nothing_and_the_fault_says_it() {
    const HARDLY: usize = 150;
    for is_announced in [false, true] {
        let mut world = World::new();
        world.advance(5 * SECOND);
        world.cut();
        world.advance(1_000 * SECOND);
        let waiting: BTreeSet<u64> = Class::ALL.into_iter().flat_map(|class| world.stored(class)).collect();
        assert!(waiting.len() > 100, "{}", waiting.len());
        if is_announced {
            world.packet_max = Some(u32::try_from(HARDLY).unwrap());
        } else {
            world.take_bytes(HARDLY);
        }
        world.broker_up = true;
        world.advance(20 * SECOND);
        world.acts_succeed = false;
        world.command("r-1", "run", json!({"runbook": "fix"}), 1);
        world.settle();
        let (id, _) = world.acts[0].clone();
        let output = Some("x".repeat(8_000));
        world.input(Input::ActDone { id, outcome: ActOutcome { output, ..outcome(ActStatus::Succeeded) } });
        world.got.clear();
        let long = ["telemetry", "events", "results"].map(|leaf| world.too_long(leaf));
        world.advance(3_600 * SECOND);
        assert!(world.engine.dropped().is_empty() && world.got.is_empty(), "{:?}", world.engine.dropped());
        let fault = world.engine.session.fault().unwrap_or_default();
        for leaf in ["telemetry", "events", "results"] {
            assert!(fault.contains(leaf) && fault.contains("packet too large"), "{fault}");
        }
        for (before, leaf) in long.into_iter().zip(["telemetry", "events", "results"]) {
            // Every five minutes a few, and a result by halves.
            let asked = world.too_long(leaf) - before;
            assert!(asked <= if is_announced { 0 } else { 400 }, "{leaf}: {asked} times within an hour");
        }
        world.packet_max = None;
        world.take_bytes(usize::MAX);
        if is_announced {
            world.drop_connection(LinkFaultKind::Server);
        }
        world.advance(400 * SECOND);
        let lost: Vec<_> = waiting.difference(&world.taken_seqs()).copied().collect();
        assert!(lost.is_empty() && world.engine.dropped().is_empty(), "{lost:?}");
        let fault = world.engine.session.fault().unwrap_or_default();
        assert!(["telemetry", "events", "results"].iter().all(|leaf| !fault.contains(leaf)), "{fault}");
        let end = world.results("r-1").pop().unwrap();
        assert_eq!((&end["status"], end["output"].as_str().map(str::len)), (&json!("SUCCEEDED"), Some(8_000)));
    }
}

#[test]
fn a_broker_that_takes_packets_of_nothing_breaks_the_protocol_and_nothing_is_lost_over_it() {
    let mut world = World::new();
    world.cut();
    world.advance(400 * SECOND);
    let waiting: BTreeSet<u64> = Class::ALL.into_iter().flat_map(|class| world.stored(class)).collect();
    world.packet_max = Some(0);
    world.got.clear();
    world.broker_up = true;
    world.advance(60 * SECOND);
    assert!(world.got.is_empty() && world.engine.dropped().is_empty(), "{:?}", world.engine.dropped());
    let fault = world.engine.session.fault().unwrap_or_default();
    assert!(fault.contains("at most 0 B"), "{fault}");
    world.packet_max = None;
    world.advance(400 * SECOND);
    let taken = world.taken_seqs();
    assert!(waiting.iter().all(|seq| taken.contains(seq)) && world.engine.dropped().is_empty());
}

#[test]
fn how_a_command_ended_is_told_by_less_of_its_output() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    world.acts_succeed = false;
    world.take_bytes(TAKEN);
    world.command("r-1", "run", json!({"runbook": "fix"}), 1);
    world.settle();
    let (id, _) = world.acts[0].clone();
    let output = Some(format!("{}the end", "x".repeat(8_000)));
    world.input(Input::ActDone { id, outcome: ActOutcome { output, ..outcome(ActStatus::Succeeded) } });
    world.advance(SECOND);
    let results = world.results("r-1");
    let end = results.last().unwrap();
    assert_eq!(end["status"], "SUCCEEDED", "{results:?}");
    assert!(end["output"].as_str().unwrap().ends_with("the end"), "{end}");
    assert!(world.engine.dropped().is_empty(), "{:?}", world.engine.dropped());
}

#[test]
fn attributes_that_are_too_long_are_left_out_for_a_while() {
    let mut config = config();
    config.device.attributes.insert("site".into(), AttributeValue::Text("x".repeat(TAKEN)));
    let mut world = World::with(config);
    world.take_bytes(TAKEN);
    world.drop_connection(LinkFaultKind::Server);
    for load in 0..20 {
        world.set(crate::engine::metric::Metric::BatteryChargePct, Some(f64::from(load % 2) * 90.0));
        world.advance(12 * SECOND);
    }
    assert_eq!(world.too_long("attributes"), 1, "in four minutes of changes");
    world.advance(120 * SECOND);
    assert_eq!(world.too_long("attributes"), 2, "what changed meanwhile is tried later");
    assert!(world.samples().len() > 100);
}

#[test]
fn a_broker_that_hangs_up_on_what_it_refuses_is_not_asked_again_at_each_connection() {
    let mut config = config();
    config.device.attributes.insert("site".into(), AttributeValue::Text("x".repeat(TAKEN)));
    let mut world = World::with(config);
    let before = back_with_a_backlog(&mut world, World::take_bytes_or_hang_up);
    world.advance(120 * SECOND);
    assert_eq!(world.too_long("attributes"), 1);
    assert!(world.connects - before < 10, "{} connections", world.connects - before);
    assert!(world.samples().len() > 200, "{} samples", world.samples().len());
    assert!(world.engine.dropped().is_empty(), "{:?}", world.engine.dropped());
}

#[test]
fn a_broker_whose_limit_was_raised_is_given_longer_messages_after_a_reload_or_a_day() {
    const LIMIT_RAISED: usize = 64 * 1024;
    let most = |world: &World| world.engine.status(world.now).broker.message_bytes_max;
    for reload in [true, false] {
        let mut world = World::new();
        back_with_a_backlog(&mut world, World::take_bytes);
        world.advance(60 * SECOND);
        let learned = most(&world).unwrap();
        assert!(learned <= TAKEN, "{learned}");
        let pass = |world: &mut World, hours: u32| {
            world.now.mono = world.now.mono.after(hours * HOUR);
            world.advance(60 * SECOND);
        };
        pass(&mut world, 12);
        assert_eq!(most(&world), Some(learned), "it is not asked again and again");
        world.take_bytes(LIMIT_RAISED);
        if reload {
            world.input(Input::Reconfigure(Box::new(world.config.clone())));
        } else {
            pass(&mut world, 12);
            assert_eq!(most(&world), Some(2 * learned));
            (0..8).for_each(|_| pass(&mut world, 24));
        }
        assert_eq!(most(&world), None);
    }
}
