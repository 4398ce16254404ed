//! From sample to broker: nothing is lost, nothing is sent before it is durable, nothing is deleted before its PUBACK.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use super::world::{Got, World};
use crate::config::AttributeValue;
use crate::engine::io::{Input, LinkFaultKind, StopReason, StoreFault, StoreOp};
use crate::engine::metric::Metric;
use crate::engine::observation::{EndSigns, ErrorBatch, Finding, Severity};
use crate::engine::packet::{AckReason, Version};
use crate::engine::record::Class;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

fn leafs(world: &World) -> Vec<&str> {
    world.got.iter().map(|got| got.topic.rsplit('/').next().unwrap()).collect()
}

#[test]
fn a_reboot_that_nobody_announced_is_told_by_what_the_kernel_kept() {
    let mut world = World::new();
    let mut reboot = |panics: &[&str], watchdog: bool| {
        world.end_signs = EndSigns { panics: panics.iter().map(|id| (*id).to_owned()).collect(), watchdog };
        world.reboot();
        world.advance(Duration::from_secs(5));
        let last = world.got.iter().rev().find(|got| got.body["name"] == "rebooted").unwrap();
        format!("{}: {}", last.body["severity"].as_str().unwrap(), last.body["reboot"]["reason"].as_str().unwrap())
    };
    assert_eq!(reboot(&[], false), "warning: power_loss");
    assert_eq!(reboot(&["aa"], true), "error: kernel_panic", "what panicked is reset by the watchdog");
    assert_eq!(reboot(&["aa"], false), "warning: power_loss", "a panic of long ago that nobody cleared away");
    assert_eq!(reboot(&["aa"], true), "error: watchdog");
    assert_eq!(reboot(&["aa", "bb"], false), "error: kernel_panic");
    assert_eq!(reboot(&[], false), "warning: power_loss");
    assert_eq!(reboot(&["aa"], false), "error: kernel_panic", "forgotten with the record");
}

#[test]
fn a_samples_readings_are_of_its_end() {
    let mut world = World::new();
    for _ in 0..8 {
        let next = world.now.mono.after(SECOND);
        world.set(Metric::HostUptime, Some(next.0 as f64 / 1_000.0));
        world.advance(SECOND);
    }
    let telemetry = world.got.iter().filter(|got| got.topic.ends_with("/telemetry"));
    let samples: Vec<_> = telemetry.flat_map(|got| got.body["samples"].as_array().unwrap()).collect();
    let ages = samples.iter().map(|s| s["mono_ms"].as_f64().unwrap() / 1e3 - s["host"]["uptime_s"].as_f64().unwrap());
    assert_eq!(ages.collect::<Vec<_>>(), [0.0; 4], "{samples:?}");
}

#[test]
fn a_connection_that_falls_silent_as_its_link_goes_down_is_told_so() {
    let mut world = World::new();
    let mut reason = |before: Option<bool>, after: Option<bool>, kind: LinkFaultKind| {
        for up in [before, after] {
            world.set(Metric::LinkUp, up);
            let rounds = world.rounds;
            assert!(world.advance_until(60 * SECOND, |world| world.rounds > rounds));
        }
        world.drop_connection(kind);
        world.advance(5 * SECOND);
        let last = world.got.iter().rev().find(|got| got.body["name"] == "disconnected").unwrap();
        last.body["link"]["reason"].as_str().unwrap().to_owned()
    };
    let (up, down) = (Some(true), Some(false));
    assert_eq!(reason(up, down, LinkFaultKind::KeepAlive), "link_down");
    assert_eq!(reason(up, up, LinkFaultKind::KeepAlive), "keep_alive");
    assert_eq!(reason(up, down, LinkFaultKind::Server), "server", "what spoke was there");
    assert_eq!(reason(down, down, LinkFaultKind::Stalled), "stalled", "it never went over that link");
    assert_eq!(reason(None, None, LinkFaultKind::KeepAlive), "keep_alive");
}

#[test]
fn a_connection_after_an_outage_tells_what_had_kept_it_away() {
    let mut world = World::new();
    world.advance(SECOND);
    world.broker_up = false;
    world.drop_connection(LinkFaultKind::Server);
    world.advance(10 * SECOND);
    world.broker_up = true;
    world.advance(10 * SECOND);
    let told: Vec<&serde_json::Value> =
        world.got.iter().filter(|got| got.body["name"] == "connected").map(|got| &got.body["link"]).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0]["offline_reason"], serde_json::Value::Null, "nothing had");
    assert_eq!(told[1]["offline_reason"], "tcp", "the connection was lost otherwise: {told:?}");
}

#[test]
fn how_long_the_brokers_name_took_is_told_once_for_each_connection() {
    let mut world = World::new();
    world.advance(SECOND);
    world.lookup = Some(Duration::from_millis(250));
    world.drop_connection(LinkFaultKind::Server);
    world.advance(Duration::from_secs(130));
    let told: Vec<&serde_json::Value> = world
        .got
        .iter()
        .filter_map(|got| got.body["samples"].as_array())
        .flatten()
        .map(|sample| &sample["link"]["dns_ms"])
        .filter(|told| !told.is_null())
        .collect();
    assert_eq!(told, [&serde_json::json!(250.0)]);
}

#[test]
fn what_an_audit_found_reaches_the_fleet_once_and_again_when_it_is_gone() {
    let mut world = World::new();
    let (what, advice) = ("/var is 97 % full".to_owned(), "make room".to_owned());
    let full = Finding { check: "disk_full", subject: "/var".to_owned(), severity: Severity::Warning, what, advice };
    world.findings = vec![full];
    let told = |world: &World| -> Vec<String> {
        let audits = world.got.iter().filter(|got| !got.body["audit"].is_null());
        audits.map(|got| format!("{} {}", got.body["name"], got.body["audit"]["state"])).collect()
    };
    world.advance(Duration::from_secs(400));
    assert_eq!(told(&world), [r#""audit_finding" "found""#, r#""self_audit" null"#]);
    world.crash();
    world.findings.clear();
    world.advance(Duration::from_secs(400));
    let after = told(&world).split_off(2);
    assert_eq!(after, [r#""audit_finding" "gone""#, r#""self_audit" null"#]);
}

#[test]
fn presence_and_attributes_are_said_first_then_events_then_telemetry() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    assert_eq!(leafs(&world)[..4], ["presence", "attributes", "events", "events"], "{:?}", world.got);
    assert!(leafs(&world).contains(&"telemetry"));
    assert_eq!(world.got[0].body["online"], true);
}

#[test]
fn what_was_measured_while_offline_arrives_afterwards_in_order_and_once() {
    let mut world = World::new();
    world.cut();
    world.advance(600 * SECOND);
    world.broker_up = true;
    world.advance(60 * SECOND);
    let telemetry: Vec<u64> = world
        .got
        .iter()
        .filter_map(|got| got.body["samples"].as_array())
        .flatten()
        .map(|sample| sample["seq"].as_u64().unwrap())
        .collect();
    assert!(telemetry.len() >= 300, "{} samples", telemetry.len());
    assert!(telemetry.is_sorted(), "oldest first");
    let unique: BTreeSet<u64> = telemetry.iter().copied().collect();
    assert_eq!(unique.len(), telemetry.len());
}

#[test]
fn nothing_is_deleted_before_its_puback() {
    let mut world = World::new();
    world.got.clear();
    world.withhold_acks = true;
    world.advance(20 * SECOND);
    let sent: BTreeSet<u64> = world.seqs().into_iter().collect();
    // The commit interval: what was sent just now may be lost by a power cut.
    world.advance(1_200 * MILLISECOND);
    world.withhold_acks = false;
    let before = world.got.len();
    world.crash();
    world.advance(20 * SECOND);
    let again: BTreeSet<u64> = world.got[before..]
        .iter()
        .flat_map(|got| got.body["samples"].as_array().cloned().unwrap_or_else(|| vec![got.body.clone()]))
        .map(|body| body["seq"].as_u64().unwrap())
        .collect();
    let unstored: BTreeSet<u64> = world.got[..before]
        .iter()
        .filter(|got| got.topic.ends_with("presence") || got.topic.ends_with("attributes"))
        .map(|got| got.body["seq"].as_u64().unwrap())
        .collect();
    let missing: Vec<&u64> = sent.difference(&again).filter(|seq| !unstored.contains(seq)).collect();
    assert!(missing.is_empty(), "sent without PUBACK and not sent again: {missing:?}");
}

#[test]
fn no_seq_is_used_twice_over_crashes_and_reboots() {
    let mut world = World::new();
    for n in 0..20 {
        world.advance(3 * SECOND);
        if n % 3 == 0 { world.reboot() } else { world.crash() }
    }
    world.advance(10 * SECOND);
    assert_no_seq_stands_for_two_messages(&world);
}

fn assert_no_seq_stands_for_two_messages(world: &World) {
    let mut seen = BTreeMap::new();
    for got in &world.got {
        let seq = got.body["seq"].as_u64().unwrap();
        let text = got.body.to_string();
        if let Some(other) = seen.insert(seq, text.clone()) {
            // A record that is sent again is the same record; dates may have been mended.
            assert_eq!(other, text, "seq {seq} stands for two messages");
        }
    }
}

#[test]
fn the_window_is_the_smaller_of_ours_and_the_brokers() {
    let mut world = World::new();
    world.withhold_acks = true;
    world.cut();
    world.advance(60 * SECOND);
    for n in 0..30 {
        world.config.device.attributes.clear();
        world.input(Input::Errors(super::invariants::error_batch(&format!("failure {}", char::from(b'a' + n)))));
    }
    world.receive_max = 5;
    world.broker_up = true;
    world.advance(2 * SECOND);
    assert_eq!(world.unanswered(), 5);
}

#[test]
fn a_connection_without_puback_is_given_up_and_its_records_are_sent_again() {
    let mut world = World::new();
    world.advance(SECOND);
    world.withhold_acks = true;
    world.advance(40 * SECOND);
    assert!(world.connects >= 2, "{} connects", world.connects);
}

/// The one looks like the other, but for what comes in between.
#[test]
fn a_broker_that_is_restarted_twice_is_not_taken_for_one_whose_client_has_a_twin() {
    for restarted in [false, true] {
        let mut world = World::new();
        for _ in 0..3 {
            world.broker_up = !restarted;
            world.advance(5 * SECOND);
            world.broker_up = true;
            world.advance(5 * SECOND);
            world.drop_connection(LinkFaultKind::Server);
        }
        world.advance(5 * SECOND);
        let said = |got: &Got| got.body["link"]["detail"].as_str().is_some_and(|detail| detail.contains("device.id"));
        assert_eq!(world.got.iter().any(said), !restarted);
    }
}

#[test]
fn backoff_is_reset_by_a_stable_connection_only() {
    let mut world = World::new();
    world.advance(50 * SECOND);
    assert_eq!(world.backoff_resets, 0);
    world.drop_connection(LinkFaultKind::Server);
    world.advance(50 * SECOND);
    assert_eq!(world.backoff_resets, 0, "50 s twice is not 60 s once");
    world.advance(20 * SECOND);
    assert_eq!(world.backoff_resets, 1);
}

#[test]
fn a_session_that_the_broker_kept_is_not_subscribed_to_again() {
    let mut world = World::new();
    world.advance(SECOND);
    world.drop_connection(LinkFaultKind::Server);
    world.advance(5 * SECOND);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(20 * SECOND);
    world.crash();
    world.advance(5 * SECOND);
    assert_eq!(world.subscribes, 1);
    assert_eq!(world.connects, 3);
}

#[test]
fn an_agent_that_was_cut_off_as_the_broker_had_forgotten_it_is_not_deaf_in_the_session_that_it_left() {
    let mut world = World::new();
    world.advance(SECOND);
    world.forget_session();
    world.lose_subscribes(true);
    world.refuse(|op| matches!(op, StoreOp::Put { .. }), StoreFault::Busy);
    world.drop_connection(LinkFaultKind::Server);
    world.advance(5 * SECOND);
    assert!(world.is_connected());
    world.refuse_nothing();
    world.lose_subscribes(false);
    world.crash();
    world.advance(5 * SECOND);
    assert_eq!(world.subscribes, 2);
}

#[test]
fn a_new_session_whose_subscription_was_lost_is_subscribed_to_when_it_was_kept() {
    for restart in [false, true] {
        let mut world = World::new();
        world.advance(SECOND);
        world.forget_session();
        world.lose_subscribes(true);
        world.drop_connection(LinkFaultKind::Server);
        world.advance(5 * SECOND);
        assert!(world.is_connected());
        world.lose_subscribes(false);
        if restart {
            world.crash();
        } else {
            world.drop_connection(LinkFaultKind::Server);
        }
        world.advance(5 * SECOND);
        assert_eq!(world.subscribes, 2, "deaf; restarted: {restart}");
    }
}

#[test]
fn topics_that_the_broker_refused_are_asked_for_again_at_the_next_connection() {
    let mut world = World::new();
    world.advance(SECOND);
    world.forget_session();
    world.grant_nothing(true);
    for asked in 2..4 {
        world.drop_connection(LinkFaultKind::Server);
        world.advance(5 * SECOND);
        assert_eq!(world.subscribes, asked);
    }
    world.grant_nothing(false);
    for _ in 0..2 {
        world.drop_connection(LinkFaultKind::Server);
        world.advance(5 * SECOND);
    }
    assert_eq!(world.subscribes, 4, "granted at last, and kept");
}

#[test]
fn groups_that_come_and_go_before_the_broker_has_answered_are_asked_for_again() {
    let mut world = World::new();
    world.advance(SECOND);
    world.lose_subscribes(true);
    let before = world.config.clone();
    let mut other = before.clone();
    other.device.groups = vec!["other".into()];
    world.input(Input::Reconfigure(Box::new(other)));
    world.lose_subscribes(false);
    world.input(Input::Reconfigure(Box::new(before)));
    assert_eq!(world.subscribes, 2);
}

#[test]
fn presence_and_attributes_that_the_broker_refused_for_now_are_said_again_but_not_often() {
    let mut world = World::new();
    world.ack_reason = AckReason::QuotaExceeded;
    world.drop_connection(LinkFaultKind::Server);
    world.advance(5 * SECOND);
    world.ack_reason = AckReason::Success;
    let said = |world: &World, leaf: &str| world.got.iter().filter(|got| got.topic.ends_with(leaf)).count();
    let before = ["/presence", "/attributes"].map(|leaf| said(&world, leaf));
    world.advance(60 * SECOND);
    assert_eq!(["/presence", "/attributes"].map(|leaf| said(&world, leaf)), before, "not at once");
    world.advance(600 * SECOND);
    assert_eq!(["/presence", "/attributes"].map(|leaf| said(&world, leaf)), before.map(|count| count + 1));
}

#[test]
fn what_the_broker_denies_is_set_aside_and_counted() {
    let mut world = World::new();
    world.ack_reason = AckReason::NotAuthorized;
    world.advance(10 * SECOND);
    world.ack_reason = AckReason::Success;
    world.advance(10 * SECOND);
    let dropped: u64 = world
        .got
        .iter()
        .filter_map(|got| got.body["samples"].as_array())
        .flatten()
        .filter_map(|sample| sample["agent"]["dropped"]["not_authorized"].as_u64())
        .max()
        .unwrap_or(0);
    assert!(dropped > 0);
}

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

#[test]
fn what_is_set_aside_is_counted_before_it_is_deleted_wherever_the_agent_is_killed() {
    for kill_at in 0..120 {
        let mut world = World::new();
        world.cut();
        // With the commit interval of the last sample.
        world.advance(10 * SECOND + 1_200 * MILLISECOND);
        let stored = world.engine.status(world.now).outbox.records;
        let stored = stored["telemetry"].as_u64().unwrap();
        world.ack_reason = AckReason::NotAuthorized;
        world.broker_up = true;
        let effects = std::cell::Cell::new(0);
        world.advance_until(20 * SECOND, |_| effects.replace(effects.get() + 1) == kill_at);
        world.broker_up = false;
        world.crash();
        let left = world.engine.status(world.now).outbox.records["telemetry"].as_u64().unwrap();
        let counted = dropped(&world, "not_authorized");
        assert!(
            left + counted >= stored,
            "killed after {kill_at} effects: {left} left and {counted} counted of {stored}"
        );
    }
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
fn a_stop_tells_goodbye_and_exits_even_without_a_broker() {
    let mut world = World::new();
    world.advance(3 * SECOND);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(SECOND);
    assert!(world.exited);
    let last = world.got.last().unwrap();
    assert_eq!((&last.body["online"], &last.body["reason"]), (&false.into(), &"stopped".into()));

    let mut alone = World::new();
    alone.cut();
    alone.input(Input::Stop { reason: StopReason::Stopped });
    alone.advance(10 * SECOND);
    assert!(alone.exited);
}

#[test]
fn a_record_made_before_the_clock_was_set_gets_its_time_when_it_is_sent_after() {
    let mut world = World::new();
    world.now.wall = crate::engine::time::Wall { unix: crate::engine::time::Unix(1_000), trusted: false };
    world.boot = 9;
    world.reboot();
    world.cut();
    world.advance(10 * SECOND);
    world.now.wall = crate::engine::time::Wall { unix: super::world::START, trusted: true };
    world.got.clear();
    world.broker_up = true;
    world.advance(10 * SECOND);
    let undated = world.got.iter().filter(|got| got.body["time"].is_null()).count();
    assert_eq!(undated, 0, "{:#?}", world.got);
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

/// Messages that carry what an earlier one has carried.
fn sent_again(world: &World) -> u64 {
    let mut seen = BTreeSet::new();
    let mut again = 0;
    for got in world.got.iter().filter(|got| !got.topic.ends_with("presence") && !got.topic.ends_with("attributes")) {
        let samples = got.body["samples"].as_array().into_iter().flatten();
        let seqs: Vec<u64> = samples.chain([&got.body]).filter_map(|record| record["seq"].as_u64()).collect();
        again += u64::from(seqs.iter().any(|seq| seen.contains(seq)));
        seen.extend(seqs);
    }
    again
}

#[test]
fn duplicates_are_messages_that_were_sent_again_and_not_the_records_in_them() {
    let mut world = after_an_outage(1_200 * SECOND, |world| world.withhold_acks = true);
    world.advance(10 * SECOND);
    world.drop_connection(LinkFaultKind::Server);
    world.withhold_acks = false;
    world.advance(120 * SECOND);
    let samples = world.got.iter().filter_map(|got| got.body["samples"].as_array()).flatten();
    let told: u64 = samples.filter_map(|sample| sample["agent"]["duplicates"].as_u64()).sum();
    assert_eq!(told, sent_again(&world));
    assert!(told > 0);
}

#[test]
fn a_backlog_of_events_goes_by_its_ration_and_what_is_new_goes_before_it() {
    const EVENTS: usize = 60;
    let mut config = super::world::config();
    config.mqtt.drain.publishes_per_second = 2;
    let mut world = World::with(config);
    world.cut();
    let words = |n: usize| ["pump", "valve", "fan", "door"][n % 4].to_owned() + &"x".repeat(n / 4);
    for n in 0..EVENTS {
        world.input(Input::Errors(super::invariants::error_batch(&format!("no answer of {}", words(n)))));
        world.advance(10 * SECOND);
    }
    world.got.clear();
    world.broker_up = true;
    assert!(world.advance_until(10 * SECOND, World::is_connected));
    world.advance(SECOND);
    world.input(Input::Errors(super::invariants::error_batch("the newest")));
    world.advance(5 * SECOND);
    let names = |world: &World| -> Vec<String> {
        let events = world.got.iter().filter(|got| got.topic.ends_with("/events"));
        events.map(|got| got.body["name"].as_str().unwrap().to_owned()).collect()
    };
    let at_first = names(&world);
    assert!((4..20).contains(&at_first.len()), "{at_first:?}");
    for new in ["connected", "the newest"] {
        assert!(at_first.iter().position(|name| name == new).is_some_and(|at| at < 8), "{new}: {at_first:?}");
    }
    world.advance(120 * SECOND);
    let told = names(&world);
    for n in 0..EVENTS {
        let name = format!("no answer of {}", words(n));
        assert_eq!(told.iter().filter(|told| **told == name).count(), 1, "{name}: {told:?}");
    }
    assert_eq!(told.iter().filter(|told| *told == "the newest").count(), 1, "{told:?}");
}

#[test]
fn the_samples_of_one_publish_interval_travel_in_one_message() {
    let mut config = super::world::config();
    config.telemetry.publish_interval = 6 * SECOND;
    let mut world = World::with(config);
    world.advance(61 * SECOND);
    let sizes: Vec<usize> = world.got.iter().filter_map(|got| got.body["samples"].as_array()).map(Vec::len).collect();
    assert_eq!(sizes, [3; 10]);
}

fn is_telemetry_read(op: &StoreOp) -> bool {
    matches!(op, StoreOp::Read { class: Class::Telemetry, .. })
}

/// A world that was offline for so long, and is online again with a backlog.
fn after_an_outage(outage: Duration, prepare: impl FnOnce(&mut World)) -> World {
    let mut world = World::new();
    world.cut();
    world.advance(outage);
    world.got.clear();
    prepare(&mut world);
    world.broker_up = true;
    world
}

#[test]
fn a_page_that_comes_after_the_connection_broke_does_not_hide_what_was_in_flight() {
    let mut world = after_an_outage(1_200 * SECOND, |world| world.withhold_acks = true);
    world.advance(5 * SECOND);
    // The first page is on its way to the broker, the second with the store, when the connection breaks.
    world.stall_store_at(is_telemetry_read);
    while !world.store_is_late() {
        world.answer_nth(0);
        world.advance(SECOND);
    }
    // Those sent last are those in flight: the answers came in order.
    world.got.drain(..world.got.len() - world.unanswered());
    let in_flight = world.samples();
    assert!(!in_flight.is_empty());
    world.drop_connection(LinkFaultKind::Server);
    world.store_answers();
    world.withhold_acks = false;
    world.got.clear();
    world.advance(60 * SECOND);
    let again: BTreeSet<u64> = world.samples().into_iter().collect();
    let lost: Vec<&u64> = in_flight.iter().filter(|seq| !again.contains(seq)).collect();
    assert!(lost.is_empty(), "deleted without an acknowledgement: {lost:?}");
}

#[test]
fn an_answer_out_of_order_does_not_delete_what_was_sent_before_it() {
    let mut world = World::new();
    world.withhold_acks = true;
    let before = world.got.len();
    for word in ["alpha", "beta", "gamma", "delta"] {
        world.input(Input::Errors(super::invariants::error_batch(word)));
    }
    let sent = world.seqs().split_off(before);
    assert_eq!(sent.len(), 4);
    world.answer_nth(3);
    world.drop_connection(LinkFaultKind::Tcp);
    // One message fits into the window now, behind what is new; it is answered, and then the power goes.
    world.receive_max = 4;
    world.advance(1_100 * MILLISECOND);
    let first = world.got.iter().rposition(|got| got.body["seq"] == sent[0]).expect("the oldest is sent again");
    world.answer_nth(first - (world.got.len() - world.unanswered()));
    world.crash();
    let stored = world.stored(Class::Events);
    assert!(stored.contains(&sent[1]) && stored.contains(&sent[2]), "of {sent:?} the store has {stored:?}");
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
    world.input(Input::Errors(super::invariants::error_batch("disk failed")));
    assert!(!world.stored(Class::Events).is_empty(), "events were sent, and could not be deleted");
    world.refuse_nothing();
    world.advance(10 * SECOND);
    assert_eq!(world.stored(Class::Events), [0; 0], "sent again by the next start");
}

#[test]
fn a_backlog_drains_over_a_link_of_ten_kbit_a_second() {
    let mut world = after_an_outage(1_200 * SECOND, |world| {
        world.withhold_acks = true;
        world.packet_max = None;
    });
    let before = world.stored(Class::Telemetry);
    world.advance(2 * SECOND);
    let connects = world.connects;
    while world.unanswered() > 0 && world.stored(Class::Telemetry).first() <= before.last() {
        let oldest = &world.got[world.got.len() - world.unanswered()];
        let bytes = oldest.body.to_string().len() as u64;
        world.advance(Duration::from_millis(bytes * 1_000 / 1_250));
        assert_eq!(world.connects, connects, "given up with {bytes} B under way, and begun again");
        world.answer_nth(0);
    }
    let got: BTreeSet<u64> = world.samples().into_iter().collect();
    assert!(before.iter().all(|seq| got.contains(seq)));
}

/// A world that comes online with as large a backlog as is ever under way, and a broker that answers only when told to.
fn with_much_to_send() -> World {
    after_an_outage(4 * 3_600 * SECOND, |world| {
        world.withhold_acks = true;
        world.packet_max = None;
        world.config.mqtt.drain.publishes_per_second = 1_000;
        world.config.mqtt.inflight_max = 100;
        world.input(Input::Reconfigure(Box::new(world.config.clone())));
    })
}

/// Bytes of the payloads that are not yet answered.
fn under_way(world: &World) -> usize {
    world.got[world.got.len() - world.unanswered()..].iter().map(|got| got.body.to_string().len()).sum()
}

#[test]
fn a_quick_answer_to_little_is_no_reason_to_send_much() {
    let mut world = with_much_to_send();
    world.advance_until(2 * SECOND, |world| world.unanswered() > 0);
    assert!(under_way(&world) < 16 * 1024, "{} B", under_way(&world));
    world.answer_nth(0);
    world.advance(2 * SECOND);
    assert!((48 * 1024..96 * 1024).contains(&under_way(&world)), "{} B", under_way(&world));
}

#[test]
fn more_is_under_way_while_the_broker_answers_quickly_and_no_more_once_it_is_slow() {
    let mut world = with_much_to_send();
    world.advance(2 * SECOND);
    let at_first = under_way(&world);
    assert!((48 * 1024..96 * 1024).contains(&at_first), "{at_first} B");

    // Presence and attributes are among them.
    for _ in 0..6 {
        world.answer_nth(0);
    }
    // One that was sent in their place, at once.
    world.answer_nth(world.unanswered() - 1);
    world.advance(SECOND);
    let quick = under_way(&world);
    assert!((200 * 1024..300 * 1024).contains(&quick), "{quick} B");

    while under_way(&world) > at_first {
        world.answer_nth(0);
        world.advance(SECOND);
    }
    assert!(under_way(&world) > 0, "nothing was left to send");
}

#[test]
fn records_of_one_window_that_the_broker_keeps_refusing_are_all_set_aside() {
    let mut world = World::new();
    world.advance(SECOND);
    world.ack_reason = AckReason::Unspecified;
    world.input(Input::Errors(super::invariants::error_batch("alpha")));
    world.input(Input::Errors(super::invariants::error_batch("beta")));
    world.advance(120 * SECOND);
    assert!(world.engine.dropped().get("refused") >= Some(&2), "{:?}", world.engine.dropped());
    world.ack_reason = AckReason::Success;
    world.got.clear();
    world.advance(30 * SECOND);
    let names: Vec<&str> = world.got.iter().filter_map(|got| got.body["name"].as_str()).collect();
    assert!(!names.contains(&"alpha") && !names.contains(&"beta"), "{names:?}");
}

#[test]
fn telemetry_over_the_brokers_quota_does_not_hold_up_events_and_results() {
    let mut world = World::new();
    world.withhold_acks = true;
    world.advance(3 * SECOND);
    assert_eq!(world.samples().len(), 1);
    world.ack_reason = AckReason::QuotaExceeded;
    world.answer_all();
    world.ack_reason = AckReason::Success;
    world.withhold_acks = false;
    world.command("p-1", "ping", serde_json::json!({}), 7);
    world.settle();
    assert_eq!(world.statuses("p-1"), ["SUCCEEDED"], "without waiting");
    world.advance(5 * SECOND);
    assert_eq!(world.samples().len(), 1, "telemetry waits");
    world.advance(10 * SECOND);
    assert!(world.samples().len() > 5);
}

#[test]
fn no_seq_is_used_twice_when_the_keyed_state_is_lost() {
    let mut world = World::new();
    world.store.state.clear();
    world.crash();
    world.advance(10 * SECOND);
    assert_no_seq_stands_for_two_messages(&world);
}

#[test]
fn no_seq_is_used_twice_when_numbers_could_not_be_reserved() {
    let mut world = World::new();
    let reserves = |op: &StoreOp| matches!(op, StoreOp::Put { entries } if entries.iter().any(|(key, _)| key == "seq"));
    world.refuse(reserves, StoreFault::Io { what: "write the state".into() });
    // More numbers than one block has.
    world.advance(2_400 * SECOND);
    world.drop_connection(LinkFaultKind::Server);
    world.advance(1_100 * MILLISECOND);
    world.refuse_nothing();
    world.crash();
    world.advance(10 * SECOND);
    assert_no_seq_stands_for_two_messages(&world);
}

#[test]
fn no_seq_is_used_twice_when_nothing_could_be_stored() {
    let mut world = World::new();
    world.advance(10 * SECOND);
    world.refuse(|op| !matches!(op, StoreOp::Probe), StoreFault::Io { what: "a disk that is gone".into() });
    // More numbers than one block has.
    world.advance(2_400 * SECOND);
    world.refuse_nothing();
    world.crash();
    world.advance(10 * SECOND);
    assert_no_seq_stands_for_two_messages(&world);
}

#[test]
fn a_run_that_ended_well_leaves_no_numbers_out() {
    let mut world = World::new();
    world.advance(60 * SECOND);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(10 * SECOND);
    let last = world.got.iter().filter_map(|got| got.body["seq"].as_u64()).max().unwrap();
    world.crash();
    world.advance(10 * SECOND);
    let next = world.got.iter().filter_map(|got| got.body["seq"].as_u64()).max().unwrap();
    assert!((last + 1..last + 4_096).contains(&next), "{last}, {next}");
    assert_no_seq_stands_for_two_messages(&world);
}

#[test]
fn numbers_that_could_not_be_reserved_are_reserved_later() {
    let mut world = World::new();
    let reserved = |world: &World| world.store.state.get("seq").cloned();
    let before = reserved(&world);
    world.refuse(|op| matches!(op, StoreOp::Put { .. }), StoreFault::Busy);
    world.advance(2_400 * SECOND);
    world.refuse_nothing();
    world.advance(10 * SECOND);
    assert_ne!(reserved(&world), before);
}

#[test]
fn an_agent_that_has_said_goodbye_does_not_connect_again() {
    let mut world = World::new();
    // Until a new block of numbers is wanted, which the store answers late.
    world.stall_store_at(|op| matches!(op, StoreOp::Put { entries } if entries.iter().any(|(key, _)| key == "seq")));
    while !world.store_is_late() {
        world.advance(10 * SECOND);
    }
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(10 * SECOND);
    let connects = world.connects;
    world.store_answers();
    world.advance(10 * SECOND);
    assert_eq!(world.connects, connects);
}

#[test]
fn a_goodbye_is_the_last_word_also_where_the_dice_say_to_connect_at_once() {
    let mut world = World::new();
    world.retry_in = Duration::ZERO;
    world.advance(3 * SECOND);
    let connects = world.connects;
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(SECOND);
    assert_eq!((world.exited, world.connects), (true, connects));
}

#[test]
fn a_stop_that_waits_for_the_broker_sleeps_meanwhile() {
    let mut world = World::new();
    world.advance(SECOND);
    world.withhold_acks = true;
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(1_500 * MILLISECOND);
    assert!(!world.exited, "it still waits");
    assert!(world.engine.poll_deadline() > Some(world.now.mono), "{:?}", world.engine.poll_deadline());
}

#[test]
fn a_backlog_whose_next_page_is_late_is_waited_for_asleep() {
    let mut world = after_an_outage(1_200 * SECOND, |_| {});
    world.stall_store_at(|op| matches!(op, StoreOp::Read { class: Class::Telemetry, from, .. } if *from > 100));
    world.advance(10 * SECOND);
    assert!(world.store_is_late() && !world.samples().is_empty());
    assert!(world.engine.poll_deadline() > Some(world.now.mono), "{:?}", world.engine.poll_deadline());
}

/// 400 errors, no two alike: at most 60 a minute are told at once.
fn errors_of_many_kinds(world: &mut World) {
    for minute in 0..8 {
        for n in 0..50_u8 {
            world.input(Input::Errors(super::invariants::error_batch(&nth_error(minute, n))));
        }
        world.advance(61 * SECOND);
    }
}

/// Digits are masked in a cluster's template; letters are not.
fn nth_error(minute: u8, n: u8) -> String {
    let letter = |n: u8| char::from(b'a' + n % 25);
    format!("w{}{}{}", letter(minute), letter(n / 25), letter(n))
}

#[test]
fn a_window_never_fills_the_connections_queue() {
    let mut config = super::world::config();
    config.mqtt.inflight_max = u16::MAX;
    let mut world = World::with(config);
    world.receive_max = u16::MAX;
    world.cut();
    errors_of_many_kinds(&mut world);
    world.withhold_acks = true;
    world.broker_up = true;
    world.advance(5 * SECOND);
    let queue = crate::runtime::mqtt::link::LINK_QUEUE_MAX;
    assert!((100..=queue / 2).contains(&world.unanswered()), "{} of {queue}", world.unanswered());
}

#[test]
fn counts_that_are_due_all_at_once_are_not_too_many_for_the_stores_queue() {
    let mut config = super::world::config();
    config.collect.errors.bucket = 3_600 * SECOND;
    let mut world = World::with(config);
    errors_of_many_kinds(&mut world);
    for minute in 0..8 {
        for n in 0..50 {
            world.input(Input::Errors(super::invariants::error_batch(&nth_error(minute, n))));
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
fn a_stop_tells_what_the_open_buckets_counted() {
    for online in [true, false] {
        let mut world = World::new();
        for _ in 0..3 {
            world.input(Input::Errors(super::invariants::error_batch("boom")));
        }
        if !online {
            world.cut();
        }
        world.input(Input::Stop { reason: StopReason::Stopped });
        world.advance(SECOND);
        assert!(world.exited);
        world.broker_up = true;
        world.crash();
        world.advance(SECOND);
        let counts = world.got.iter().filter(|got| got.body["error"]["count"] == 2).count();
        assert_eq!(counts, 1, "online: {online}");
    }
}

#[test]
fn a_stop_while_the_broker_greets_leaves_no_presence_that_says_online() {
    let mut world = World::new();
    world.cut();
    world.got.clear();
    world.hold_connack();
    world.broker_up = true;
    world.advance(1_500 * MILLISECOND);
    world.stall_store_at(|_| true);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.give_connack();
    world.store_answers();
    world.advance(10 * SECOND);
    assert!(world.exited);
    let last = world.got.iter().rfind(|got| got.topic.ends_with("presence"));
    assert!(last.is_none_or(|got| got.body["online"] == false), "{last:?}");
}

#[test]
fn a_sample_whose_publish_tick_falls_into_an_earlier_commit_goes_out_with_its_own() {
    let mut config = super::world::config();
    config.telemetry.publish_interval = 60 * SECOND;
    config.telemetry.report_interval = 60 * SECOND;
    let mut world = World::with(config);
    world.advance(59 * SECOND);
    // An event's commit is under way when the sample is made and its publish tick comes.
    world.stall_store_at(|op| *op == StoreOp::Commit);
    world.input(Input::Errors(super::invariants::error_batch("boom")));
    world.advance(SECOND);
    world.store_answers();
    world.advance(5 * SECOND);
    assert_eq!(world.samples().len(), 1);
}

#[test]
fn each_error_line_is_counted_once_whenever_the_agent_dies() {
    const LINES: usize = 24;
    // One that repeats, and now and then another one, whose event moves the saved cursor past what repeated.
    let text =
        |n: usize| if n % 8 == 5 { format!("failure {}", ["alpha", "beta", "gamma"][n / 8]) } else { "boom".into() };
    for dies_after in 0..=LINES {
        let mut world = World::new();
        world.advance(SECOND);
        let mut next = 0;
        let mut dead = false;
        while next < LINES {
            if next == dies_after && !dead {
                world.crash();
                dead = true;
                next = world.engine.error_cursor().map_or(0, |cursor| cursor.parse::<usize>().unwrap() + 1);
                continue;
            }
            let cursor = Some(next.to_string());
            world.input(Input::Errors(ErrorBatch { cursor, ..super::invariants::error_batch(&text(next)) }));
            world.advance(5 * SECOND);
            next += 1;
        }
        world.advance(180 * SECOND);
        let errors = world.got.iter().map(|got| &got.body).filter(|body| body["type"] == "error");
        let counts: BTreeMap<u64, u64> =
            errors.map(|body| (body["seq"].as_u64().unwrap(), body["error"]["count"].as_u64().unwrap())).collect();
        assert_eq!(counts.values().sum::<u64>(), LINES as u64, "died after {dies_after} lines");
    }
}

#[test]
fn what_an_application_said_is_counted_though_it_can_not_be_read_again() {
    let mut world = World::new();
    world.advance(SECOND);
    for _ in 0..3 {
        world.input(Input::Errors(ErrorBatch { cursor: None, ..super::invariants::error_batch("boom") }));
    }
    // A sample is made.
    world.advance(5 * SECOND);
    world.crash();
    world.advance(180 * SECOND);
    let counts = world.got.iter().filter_map(|got| got.body["error"]["count"].as_u64());
    assert_eq!(counts.collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn what_could_not_be_saved_is_saved_later() {
    let mut world = World::new();
    world.refuse(|op| matches!(op, StoreOp::Put { .. }), StoreFault::Busy);
    world.ack_reason = AckReason::NotAuthorized;
    world.input(Input::Errors(super::invariants::error_batch("boom")));
    world.ack_reason = AckReason::Success;
    world.advance(SECOND);
    world.refuse_nothing();
    // A sample is made meanwhile, and nothing more is given up or read.
    world.advance(3 * SECOND);
    assert_eq!(world.store.state.get("cursor").map(|cursor| &**cursor), Some(&b"boom"[..]));
    let dropped = world.engine.dropped().clone();
    world.crash();
    assert!(dropped.contains_key("not_authorized") && *world.engine.dropped() == dropped, "{dropped:?}");
}

#[test]
fn a_broker_that_takes_only_version_5_is_found_again_after_its_balancer_hung_up() {
    let mut world = World::new();
    world.hang_up_on(&[Version::V5, Version::V311]);
    world.crash();
    world.advance(20 * SECOND);
    assert!(!world.is_connected());
    world.hang_up_on(&[Version::V311]);
    world.advance(20 * SECOND);
    assert!(world.is_connected(), "{} connects", world.connects);

    let before = world.connects;
    world.hang_up_on(&[Version::V5, Version::V311]);
    world.crash();
    world.advance(60 * SECOND);
    assert!(world.connects - before < 100, "{} connects in a minute with a pause of 1 s", world.connects - before);
}

#[test]
fn a_broker_that_takes_only_version_3_1_1_is_found() {
    let mut world = World::new();
    world.hang_up_on(&[Version::V5]);
    world.crash();
    world.advance(5 * SECOND);
    assert!(world.is_connected());
}

#[test]
fn version_5_is_tried_again_after_a_connection_in_the_older_one_that_was_only_guessed_at() {
    let mut world = World::new();
    world.hang_up_on(&[Version::V5]);
    world.crash();
    world.advance(5 * SECOND);
    assert_eq!((world.is_connected(), world.engine.link.version()), (true, Version::V311));
    world.hang_up_on(&[]);
    world.drop_connection(LinkFaultKind::Server);
    world.advance(5 * SECOND);
    assert_eq!((world.is_connected(), world.engine.link.version()), (true, Version::V5));
}

#[test]
fn a_broker_that_is_replaced_by_one_of_version_3_1_1_is_found_while_the_agent_runs() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    world.hang_up_on(&[Version::V5]);
    world.drop_connection(LinkFaultKind::Server);
    world.advance(60 * SECOND);
    assert_eq!((world.is_connected(), world.engine.link.version()), (true, Version::V311));
}

#[test]
fn a_reload_ends_the_wait_for_a_round_that_hangs() {
    let mut world = World::new();
    world.collectors_hang(true);
    world.advance(5 * SECOND);
    world.collectors_hang(false);
    world.advance(5 * SECOND);
    let is_blind = |world: &World| {
        world
            .got
            .iter()
            .rfind(|got| got.topic.ends_with("telemetry"))
            .is_some_and(|got| got.body["samples"][0]["battery"].is_null())
    };
    assert!(is_blind(&world));
    world.input(Input::Reconfigure(Box::new(world.config.clone())));
    world.advance(5 * SECOND);
    assert!(!is_blind(&world));
}

#[test]
fn another_ration_for_the_backlog_holds_at_once() {
    let mut config = super::world::config();
    config.mqtt.drain.publishes_per_second = 1;
    config.telemetry.publish_interval = 3_600 * SECOND;
    let mut world = World::with(config);
    world.packet_max = Some(1_024);
    world.cut();
    world.advance(1_200 * SECOND);
    world.broker_up = true;
    world.advance(5 * SECOND);
    let slowly = world.samples().len();
    assert!((1..100).contains(&slowly), "{slowly} samples");
    let mut faster = world.config.clone();
    faster.mqtt.drain.publishes_per_second = 200;
    world.input(Input::Reconfigure(Box::new(faster)));
    world.advance(5 * SECOND);
    assert!(world.samples().len() > 500, "{} samples, {slowly} of them before", world.samples().len());
}

#[test]
fn attributes_that_are_larger_than_the_broker_takes_are_left_out() {
    const PACKET_MAX: u32 = 1_024;
    let mut config = super::world::config();
    config.device.attributes.insert("site".into(), AttributeValue::Text("x".repeat(PACKET_MAX as usize)));
    let mut world = World::with(config);
    world.drop_connection(LinkFaultKind::Server);
    world.packet_max = Some(PACKET_MAX);
    world.got.clear();
    world.advance(30 * SECOND);
    let leafs = leafs(&world);
    assert!(leafs.contains(&"presence") && leafs.contains(&"telemetry"), "{leafs:?}");
    assert!(!leafs.contains(&"attributes"), "{leafs:?}");
}

/// They wait behind the commands in the connection, and those are read as fast as the disk takes them.
#[test]
fn answers_that_are_late_behind_commands_cost_no_connection_unless_they_never_come() {
    let greetings = |world: &World| world.got.iter().filter(|got| got.topic.ends_with("/presence")).count();
    for (commands, lost) in [(20, false), (40, true)] {
        let mut world = World::new();
        world.advance(5 * SECOND);
        world.withhold_acks = true;
        let before = greetings(&world);
        for n in 0..commands {
            world.command(&format!("c-{n}"), "ping", json!({}), n + 1);
            world.advance(10 * SECOND);
        }
        assert_eq!(greetings(&world) > before, lost, "after {commands} commands");
        let before = greetings(&world);
        world.advance(40 * SECOND);
        assert!(greetings(&world) > before, "nothing comes any more: the broker is dead");
    }
}
