//! From sample to broker: nothing is lost, nothing is sent before it is durable, nothing is deleted before its PUBACK.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::world::World;
use crate::config::AttributeValue;
use crate::engine::io::{Input, LinkFaultKind, LogLevel, StopReason, StoreOp};
use crate::engine::metric::Metric;
use crate::engine::observation::{EndSigns, ErrorBatch, Finding, Severity};
use crate::engine::packet::AckReason;
use crate::engine::record::Class;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

pub(super) fn leafs(world: &World) -> Vec<&str> {
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
fn of_a_gateway_that_is_offline_no_look_is_told_what_the_broker_refuses() {
    for (online, refused) in [(true, Some(Vec::new())), (false, None)] {
        let mut world = World::new();
        world.advance(10 * SECOND);
        if !online {
            world.cut();
        }
        world.advance(Duration::from_secs(400));
        assert_eq!(world.refused, [refused]);
    }
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
fn a_backlog_whose_next_page_is_late_is_waited_for_asleep() {
    let mut world = after_an_outage(1_200 * SECOND, |_| {});
    world.stall_store_at(|op| matches!(op, StoreOp::Read { class: Class::Telemetry, from, .. } if *from > 100));
    world.advance(10 * SECOND);
    assert!(world.store_is_late() && !world.samples().is_empty());
    assert!(world.engine.poll_deadline() > Some(world.now.mono), "{:?}", world.engine.poll_deadline());
}

/// 400 errors, no two alike: at most 60 a minute are told at once, and 30 of one program.
pub(super) fn errors_of_many_kinds(world: &mut World) {
    for minute in 0..8 {
        for n in 0..50_u8 {
            world.input(Input::Errors(nth_error(minute, n)));
        }
        world.advance(61 * SECOND);
    }
}

/// Digits are masked in a cluster's template; letters are not.
pub(super) fn nth_error(minute: u8, n: u8) -> ErrorBatch {
    let letter = |n: u8| char::from(b'a' + n % 25);
    let mut batch = super::invariants::error_batch(&format!("w{}{}{}", letter(minute), letter(n / 25), letter(n)));
    batch.lines[0].identifier = Some(if n % 2 == 0 { "pump".into() } else { "valve".into() });
    batch
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

#[test]
fn records_that_are_larger_than_the_broker_takes_wait_and_are_logged_once_a_connection() {
    let mut world = World::new();
    world.packet_max = Some(150);
    for connection in 1..3 {
        world.drop_connection(LinkFaultKind::Server);
        world.advance(30 * SECOND);
        let said = world.log.iter().filter(|(level, _)| *level == LogLevel::Error).count();
        assert_eq!(said, connection, "{:?}", world.log);
    }
    assert!(world.engine.dropped().is_empty(), "{:?}", world.engine.dropped());
}
