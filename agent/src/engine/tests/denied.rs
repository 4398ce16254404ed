//! A broker that refuses what is sent for a while: that says nothing of the records, so they wait, and the topics that
//! it takes don't wait for the others. What it refuses while it takes the rest is set aside.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::invariants::error_batch;
use super::world::{Got, World};
use crate::engine::io::{Input, LinkFaultKind};
use crate::engine::observation::Severity;
use crate::engine::packet::AckReason;
use crate::engine::record::{Class, Event, EventKind};

const SECOND: Duration = Duration::from_secs(1);
/// The longest that a topic waits, and what then goes out.
const MENDED: Duration = Duration::from_secs(360);

fn on<'w>(world: &'w World, leaf: &str) -> impl Iterator<Item = &'w Got> {
    world.got.iter().filter(move |got| got.topic.ends_with(leaf))
}

/// Seqs that the broker took on a topic, each time that it did.
fn taken_on(world: &World, leaf: &str) -> Vec<u64> {
    on(world, leaf).filter(|got| got.taken).flat_map(Got::seqs).collect()
}

fn audit(world: &mut World, name: &str) {
    let event = Event::new(Severity::Notice, EventKind::Audit, name);
    world.engine.record_event(world.now, event);
    world.advance(2 * SECOND);
}

fn names_taken(world: &World) -> Vec<&str> {
    on(world, "/events").filter(|got| got.taken).filter_map(|got| got.body["name"].as_str()).collect()
}

#[test]
fn two_minutes_of_a_broker_that_denies_everything_lose_nothing_of_a_backlog() {
    for (reason, restart) in [
        (AckReason::NotAuthorized, false),
        (AckReason::NotAuthorized, true),
        (AckReason::TopicNameInvalid, false),
        (AckReason::PayloadFormatInvalid, false),
        (AckReason::Other(0x80), false),
    ] {
        let mut world = World::new();
        world.cut();
        world.advance(3_000 * SECOND);
        let waiting: BTreeSet<u64> = Class::ALL.into_iter().flat_map(|class| world.stored(class)).collect();
        assert!(waiting.len() > 1_400, "{}", waiting.len());
        world.got.clear();
        world.ack_reason = reason;
        world.broker_up = true;
        world.advance(20 * SECOND);
        world.command("p-1", "ping", json!({}), 1);
        world.advance(100 * SECOND);
        if restart {
            world.crash();
            world.advance(20 * SECOND);
        }
        // A window at first, and then few: at 10, 30 and 70 s.
        assert!(on(&world, "/telemetry").count() < 200, "{reason}: {}", on(&world, "/telemetry").count());
        assert!(world.taken_seqs().is_empty());
        world.ack_reason = AckReason::Success;
        world.advance(MENDED);
        let taken = world.taken_seqs();
        let lost: Vec<_> = waiting.difference(&taken).collect();
        assert!(lost.is_empty() && world.engine.dropped().is_empty(), "{reason}: {lost:?}");
        let samples = taken_on(&world, "/telemetry");
        assert!(samples.is_sorted(), "{reason}: {samples:?}");
        let ends = on(&world, "/results").filter(|got| got.taken && got.body["status"] == "SUCCEEDED");
        assert_eq!(ends.count(), 1, "{reason}");
    }
}

#[test]
fn a_broker_that_goes_on_denying_is_asked_less_and_less_often() {
    let mut world = World::new();
    world.cut();
    world.advance(3_000 * SECOND);
    world.ack_reason = AckReason::NotAuthorized;
    world.broker_up = true;
    world.advance(600 * SECOND);
    let tried = |world: &World| ["/telemetry", "/events"].map(|leaf| on(world, leaf).count());
    let at_first = tried(&world);
    world.advance(3_600 * SECOND);
    let then = tried(&world);
    for (before, after) in at_first.into_iter().zip(then) {
        assert!((10..=13).contains(&(after - before)), "{at_first:?}, an hour later {then:?}");
    }
    // Also over connections: it may be hanging up each time.
    for _ in 0..10 {
        world.drop_connection(LinkFaultKind::Server);
        world.advance(15 * SECOND);
    }
    let dropped = tried(&world);
    for (before, after) in then.into_iter().zip(dropped) {
        assert!(after - before <= 1, "{then:?}, and {dropped:?} over ten connections");
    }
    assert!(world.engine.dropped().is_empty(), "{:?}", world.engine.dropped());
}

#[test]
fn results_do_not_wait_where_events_are_denied_nor_what_is_audited_where_results_are() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    world.answers(|topic, _| topic.ends_with("/events").then_some(AckReason::NotAuthorized));
    audit(&mut world, "first");
    for n in 1..=4 {
        world.command(&format!("p-{n}"), "ping", json!({}), n);
        world.advance(SECOND);
        assert_eq!(on(&world, "/results").filter(|got| got.taken).count(), usize::from(n), "results");
        audit(&mut world, "next");
    }
    world.answers(|_, _| None);
    world.advance(MENDED);
    let results = taken_on(&world, "/results");
    assert_eq!(results.len(), 4, "once each: {results:?}");
    assert_eq!(names_taken(&world).iter().filter(|name| ["first", "next"].contains(name)).count(), 5);

    world.answers(|topic, _| topic.ends_with("/results").then_some(AckReason::NotAuthorized));
    world.command("p-5", "ping", json!({}), 5);
    let told = |world: &World| names_taken(world).iter().filter(|name| **name == "later").count();
    for n in 1..=30 {
        audit(&mut world, "later");
        assert_eq!(told(&world), n);
    }
    for _ in 0..10 {
        audit(&mut world, "later");
    }
    assert!(told(&world) < 40, "as many as can be remembered: {}", told(&world));
    let samples = taken_on(&world, "/telemetry").len();
    world.answers(|_, _| None);
    world.advance(MENDED);
    assert!(taken_on(&world, "/telemetry").len() > samples + 100);
    assert_eq!(on(&world, "/results").filter(|got| got.taken).count(), 5);
    let laters: BTreeSet<u64> = on(&world, "/events")
        .filter(|got| got.taken && got.body["name"] == "later")
        .filter_map(|got| got.body["seq"].as_u64())
        .collect();
    assert_eq!(laters.len(), 40);
    // Twice only what was under way with a result that was tried.
    assert!(told(&world) <= 46, "{}", told(&world));
    assert!(world.engine.dropped().is_empty(), "{:?}", world.engine.dropped());
    assert!(world.stored(Class::Results).len() <= 1, "{:?}", world.stored(Class::Results));
}

#[test]
fn what_the_broker_refuses_is_not_what_it_hangs_up_over() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    let before = world.connects;
    world.hang_up_over_topics(&["/events"]);
    world.input(Input::Errors(error_batch("boom")));
    // Twice: it is suspected, and not set aside yet.
    assert!(world.advance_until(20 * SECOND, |world| world.connects == before + 2));
    world.hang_up_over_topics(&[]);
    world.got.clear();
    world.answers(|topic, _| topic.ends_with("/events").then_some(AckReason::NotAuthorized));
    world.advance(20 * SECOND);
    assert!(names_taken(&world).is_empty() && on(&world, "/events").count() > 0);
    world.withhold_acks = true;
    world.advance(10 * SECOND);
    assert!(world.unanswered() > 1, "only {} at a time", world.unanswered());
}

#[test]
fn what_the_broker_refuses_while_it_takes_the_rest_is_set_aside() {
    for (reason, word) in
        [(AckReason::Other(0x80), "refused"), (AckReason::PayloadFormatInvalid, "payload_format_invalid")]
    {
        let mut world = World::new();
        world.advance(SECOND);
        world.ack_reason = reason;
        for name in ["alpha", "beta", "gamma"] {
            world.input(Input::Errors(error_batch(name)));
        }
        world.advance(1_200 * SECOND);
        assert!(world.engine.dropped().is_empty(), "it takes none: {:?}", world.engine.dropped());
        world.ack_reason = AckReason::Success;
        if reason == AckReason::Other(0x80) {
            world.answers(|_, body| {
                ["alpha", "beta"].contains(&body["name"].as_str()?).then_some(AckReason::Other(0x80))
            });
        } else {
            world.answers(|_, body| {
                ["alpha", "beta"].contains(&body["name"].as_str()?).then_some(AckReason::PayloadFormatInvalid)
            });
        }
        world.advance(MENDED);
        world.advance(120 * SECOND);
        assert_eq!(world.engine.dropped().get(word), Some(&2), "{:?}", world.engine.dropped());
        assert!(names_taken(&world).contains(&"gamma"), "{:?}", names_taken(&world));
        // Each at least five times, ten seconds apart.
        let tried = on(&world, "/events").filter(|got| got.body["name"] == "alpha").count();
        assert!((8..20).contains(&tried), "{tried}");
    }
}

#[test]
fn what_the_broker_is_to_keep_and_denies_is_said_again_after_a_while_at_a_reload_or_when_it_takes_another() {
    for reason in [AckReason::NotAuthorized, AckReason::TopicNameInvalid, AckReason::PayloadFormatInvalid] {
        for mended_by in ["a while", "a reload", "another topic"] {
            let mut world = World::new();
            world.ack_reason = reason;
            world.drop_connection(LinkFaultKind::Server);
            world.got.clear();
            world.advance(5 * SECOND);
            let taken = |world: &World, leaf: &str| on(world, leaf).filter(|got| got.taken).count();
            assert_eq!([taken(&world, "/presence"), taken(&world, "/attributes")], [0, 0]);
            if mended_by == "another topic" {
                world.ack_reason = AckReason::Success;
                audit(&mut world, "taken");
                // Events wait for ten seconds at most.
                world.advance(20 * SECOND);
            } else {
                world.advance(100 * SECOND);
                assert!(on(&world, "/presence").count() < 3, "not again and again");
                world.answers(|topic, _| {
                    let is_kept = topic.ends_with("/presence") || topic.ends_with("/attributes");
                    is_kept.then_some(AckReason::Success)
                });
                if mended_by == "a reload" {
                    world.input(Input::Reconfigure(Box::new(world.config.clone())));
                    world.advance(SECOND);
                } else {
                    world.advance(210 * SECOND);
                }
            }
            let counts = [taken(&world, "/presence"), taken(&world, "/attributes")];
            assert!(counts.iter().all(|count| *count > 0), "{reason}, {mended_by}: {counts:?}");
            assert!(world.engine.session.refused().iter().all(|text| !text.contains("presence")), "{mended_by}");
        }
    }
}
