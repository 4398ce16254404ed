//! The life of a command: at most once through any crash, and one terminal status for each.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value as Json, json};

use super::world::{World, config, config_with, outcome, puts, restart};
use crate::config::DeviceId;
use crate::engine::io::{ActOutcome, ActStatus, Input, LinkFaultKind, LogLevel, StopReason, StoreFault, StoreOp};
use crate::engine::keyed::FORGOTTEN_KEY;
use crate::engine::record::Class;

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn online() -> World {
    let mut world = World::new();
    world.advance(SECOND);
    world
}

/// Of the last result; empty where it has none.
pub(super) fn reason(world: &World, id: &str) -> String {
    world.results(id).last().unwrap_or_else(|| panic!("no result for {id}"))["reason"].as_str().unwrap_or("").to_owned()
}

#[test]
fn a_configuration_that_gives_up_signatures_is_warned_of_when_it_is_taken_over() {
    let mut signed = config();
    signed.commands.require_signature = true;
    let mut world = World::with(signed);
    let warned = |world: &World| {
        world.log.iter().filter(|(level, text)| *level == LogLevel::Warn && text.contains("require_signature")).count()
    };
    assert_eq!(warned(&world), 0);
    world.input(Input::Reconfigure(Box::new(config())));
    assert_eq!(warned(&world), 1, "{:?}", world.log);
    world.input(Input::Reconfigure(Box::new(config_with("[clock]\ntrust = \"always\"\n"))));
    assert_eq!(warned(&world), 1, "{:?}", world.log);
}

#[test]
fn a_ping_is_acknowledged_and_answered() {
    let mut world = online();
    world.command("p-1", "ping", json!({}), 7);
    world.settle();
    assert_eq!(world.statuses("p-1"), ["SUCCEEDED"]);
    assert_eq!(world.acked_commands, [7]);
}

#[test]
fn nothing_is_done_or_acknowledged_before_the_command_is_durable() {
    let mut world = online();
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 7);
    // The packet is handled; the journal has been asked but has not answered.
    world.step();
    assert!(world.acted.is_empty() && world.acked_commands.is_empty());
    world.settle();
    assert_eq!(world.acted, [restart("app.service")]);
    assert_eq!(world.statuses("r-1"), ["IN_PROGRESS", "SUCCEEDED"]);
}

#[test]
fn where_it_can_not_be_read_which_commands_were_forgotten_all_that_was_issued_before_is_refused() {
    let mut world = online();
    let restart = json!({"name": "restart_unit", "args": {"unit": "app.service"}});
    let order = |world: &mut World, id: &str, iat: i64| {
        world.claims(json!({"jti": id, "iat": iat, "exp": iat + 600, "cmd": restart}), 1);
        world.settle();
    };
    let now_s = |world: &World| world.now.wall.unix.0 / 1000;
    let before = now_s(&world);
    world.advance(10 * SECOND);
    world.store.state.insert(FORGOTTEN_KEY.to_owned(), Bytes::from_static(b"another form"));
    world.crash();
    world.advance(10 * SECOND);
    order(&mut world, "before", before);
    assert_eq!((reason(&world, "before"), world.acted.len()), ("replayed".into(), 0));
    let since = now_s(&world);
    order(&mut world, "after", since);
    world.advance(10 * SECOND);
    world.crash();
    world.advance(10 * SECOND);
    order(&mut world, "since", since);
    order(&mut world, "still", before);
    assert_eq!((reason(&world, "still"), world.acted.len()), ("replayed".into(), 2), "{:?}", world.results("since"));
}

#[test]
fn a_command_that_cannot_be_journaled_is_refused_and_not_run() {
    let mut world = online();
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 7);
    world.store.fault = Some(StoreFault::Io { what: "put".into() });
    world.settle();
    world.store.fault = None;
    world.advance(20 * SECOND);
    assert!(world.acted.is_empty());
    assert_eq!((world.statuses("r-1"), reason(&world, "r-1")), (vec!["REJECTED".to_owned()], "store_failed".into()));
}

#[test]
fn a_command_that_comes_twice_acts_once_and_is_answered_twice() {
    let mut world = online();
    for pkid in [7, 8] {
        world.command("r-1", "restart_unit", json!({"unit": "app.service"}), pkid);
        world.settle();
    }
    assert_eq!(world.acted.len(), 1);
    assert_eq!(world.statuses("r-1"), ["IN_PROGRESS", "SUCCEEDED", "SUCCEEDED"]);
    assert_eq!(world.acked_commands, [7, 8]);
}

/// Under two numbers it would look like two: nothing in a result but its seq tells a repetition from another end.
#[test]
fn a_result_that_the_store_was_too_busy_for_is_told_under_one_number_and_after_a_crash_no_more() {
    let mut world = online();
    world.refuse(|op| matches!(op, StoreOp::Append { class: Class::Results, .. }), StoreFault::Busy);
    world.command("x", "ping", json!({}), 7);
    world.settle();
    world.refuse_nothing();
    world.advance(60 * SECOND);
    let seqs = |world: &World| -> BTreeSet<u64> {
        world.results("x").iter().map(|body| body["seq"].as_u64().unwrap()).collect()
    };
    let told = seqs(&world);
    assert_eq!((told.len(), world.statuses("x").first().map(String::as_str)), (1, Some("SUCCEEDED")), "{told:?}");
    world.crash();
    world.advance(60 * SECOND);
    assert_eq!(seqs(&world), told);
}

/// While the broker is away nothing has gone out under the first number, so that the store can take it under another.
#[test]
fn a_result_that_the_store_took_under_another_number_is_told_once_over_a_crash() {
    let mut world = online();
    world.refuse(|op| matches!(op, StoreOp::Append { class: Class::Results, .. }), StoreFault::Busy);
    world.command("x", "ping", json!({}), 7);
    world.cut();
    world.settle();
    assert_eq!(world.statuses("x").len(), 0);
    world.refuse_nothing();
    world.advance(60 * SECOND);
    for _ in 0..2 {
        world.crash();
        world.broker_up = true;
        world.advance(60 * SECOND);
    }
    assert_eq!(world.statuses("x"), ["SUCCEEDED"]);
}

#[test]
fn a_result_that_the_store_refuses_over_and_over_is_told_after_a_crash() {
    let mut world = online();
    world.refuse(|op| matches!(op, StoreOp::Append { class: Class::Results, .. }), StoreFault::Busy);
    world.command("x", "ping", json!({}), 7);
    world.cut();
    world.advance(60 * SECOND);
    world.refuse_nothing();
    world.crash();
    world.broker_up = true;
    world.advance(60 * SECOND);
    assert_eq!(world.statuses("x"), ["SUCCEEDED"]);
}

#[test]
fn a_result_that_the_store_refuses_until_the_agent_ends_is_told_by_the_next_start() {
    for reason in [StopReason::Stopped, StopReason::Rebooting] {
        let mut world = online();
        world.refuse(|op| matches!(op, StoreOp::Append { class: Class::Results, .. }), StoreFault::Busy);
        world.command("x", "ping", json!({}), 7);
        world.cut();
        world.advance(7 * SECOND);
        world.input(Input::Stop { reason });
        world.advance(10 * SECOND);
        assert!(world.statuses("x").is_empty());
        world.refuse_nothing();
        world.crash();
        world.broker_up = true;
        world.advance(60 * SECOND);
        assert_eq!(world.statuses("x"), ["SUCCEEDED"], "{reason:?}");
    }
}

#[test]
fn a_known_command_that_is_signed_anew_is_answered_with_its_result() {
    let mut world = online();
    let cmd = json!({"name": "restart_unit", "args": {"unit": "app.service"}});
    world.claims(json!({"jti": "x", "cmd": cmd}), 1);
    world.settle();
    world.advance(60 * SECOND);
    let end = world.results("x").last().unwrap()["detail"].clone();
    world.claims(json!({"jti": "x", "cmd": cmd}), 2);
    world.settle();
    let told = world.statuses("x").into_iter().filter(|status| status == "SUCCEEDED").count();
    assert_eq!((world.acted.len(), told), (1, 2), "{:?}", world.statuses("x"));
    assert_eq!(world.results("x").last().unwrap()["detail"], end);
}

#[test]
fn another_command_under_a_known_id_is_refused_as_replayed() {
    let mut world = online();
    world.command("x", "ping", json!({}), 1);
    world.settle();
    world.command("x", "restart_unit", json!({"unit": "app.service"}), 2);
    world.settle();
    assert!(world.acted.is_empty());
    assert_eq!(reason(&world, "x"), "replayed");
}

/// Crashes between each pair of steps of a command's life, and has the broker deliver it again.
#[test]
fn a_command_replayed_after_a_crash_at_any_step_is_not_run_twice() {
    for crash_after in 0..12 {
        let mut world = online();
        let claims = json!({"jti": "r-1", "iat": 1_795_000_000, "exp": 1_795_000_900,
            "cmd": {"name": "restart_unit", "args": {"unit": "app.service"}}});
        world.claims(claims.clone(), 7);
        for _ in 0..crash_after {
            world.step();
        }
        let acknowledged = !world.acked_commands.is_empty();
        world.crash();
        world.advance(2 * SECOND);
        if !acknowledged {
            world.claims(claims, 9);
            world.settle();
        }
        world.advance(2 * SECOND);
        let terminal: Vec<String> = world.statuses("r-1").into_iter().filter(|s| s != "IN_PROGRESS").collect();
        assert!(world.acted.len() <= 1, "crash after {crash_after}: ran {} times", world.acted.len());
        assert!(!terminal.is_empty(), "crash after {crash_after}: no terminal status");
        assert!(terminal.iter().all(|s| *s == terminal[0]), "crash after {crash_after}: {terminal:?}");
        if world.acted.is_empty() {
            assert_ne!(terminal[0], "SUCCEEDED", "crash after {crash_after}");
        }
    }
}

#[test]
fn acknowledgements_go_out_in_the_order_of_receipt() {
    let mut world = online();
    world.command("a", "restart_unit", json!({"unit": "app.service"}), 11);
    world.command("b", "bogus", json!({}), 12);
    world.command("c", "ping", json!({}), 13);
    world.settle();
    assert_eq!(world.acked_commands, [11, 12, 13]);
}

#[test]
fn a_slow_command_holds_up_no_other_but_the_next_on_its_target() {
    let mut world = online();
    world.acts_succeed = false;
    world.command("slow", "restart_unit", json!({"unit": "app.service"}), 1);
    world.command("same", "restart_unit", json!({"unit": "app.service"}), 2);
    world.command("other", "restart_unit", json!({"unit": "other.service"}), 3);
    world.command("ping", "ping", json!({}), 4);
    world.settle();
    assert_eq!(world.acted, [restart("app.service"), restart("other.service")]);
    assert_eq!(world.statuses("same"), ["QUEUED"]);
    assert_eq!(world.statuses("ping"), ["SUCCEEDED"]);
    let (id, _) = world.acts[0].clone();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
    assert_eq!(world.statuses("slow"), ["IN_PROGRESS", "FAILED"]);
    assert_eq!(world.statuses("same"), ["QUEUED", "IN_PROGRESS"]);
}

#[test]
fn a_command_that_comes_again_is_not_answered_with_an_end_that_is_not_on_the_disk() {
    let mut world = online();
    world.acts_succeed = false;
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    world.stall_store_at(|op| puts(op, "cmd/r-1"));
    let (id, _) = world.acts[0].clone();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 2);
    world.settle();
    assert!(world.store_is_late());
    assert_eq!(world.statuses("r-1"), ["IN_PROGRESS"]);
    assert_eq!(world.acked_commands, [1, 2]);
    world.store_answers();
    world.settle();
    assert_eq!(world.statuses("r-1"), ["IN_PROGRESS", "SUCCEEDED"]);
}

#[test]
fn what_was_under_way_at_a_crash_is_interrupted_and_what_waited_is_canceled() {
    let mut world = online();
    world.acts_succeed = false;
    world.command("runs", "restart_unit", json!({"unit": "app.service"}), 1);
    world.command("waits", "restart_unit", json!({"unit": "app.service"}), 2);
    world.settle();
    world.reboot();
    world.advance(2 * SECOND);
    assert_eq!(world.statuses("runs"), ["IN_PROGRESS", "INTERRUPTED"]);
    assert_eq!(world.statuses("waits"), ["QUEUED", "CANCELED"]);
    assert_eq!(world.acted.len(), 1);
}

#[test]
fn a_command_that_cannot_begin_does_not_hold_up_the_next() {
    let mut world = online();
    world.acts_succeed = false;
    for (pkid, id) in [(1, "first"), (2, "second"), (3, "third")] {
        world.command(id, "restart_unit", json!({"unit": "app.service"}), pkid);
    }
    world.settle();
    let (id, _) = world.acts[0].clone();
    world.enqueue(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    // The outcome of the first and the beginning of the second are to be journaled now: neither can be.
    world.store.fault = Some(StoreFault::Io { what: "put".into() });
    world.step();
    world.step();
    world.store.fault = None;
    world.advance(20 * SECOND);
    let ran: Vec<bool> = ["first", "second", "third"]
        .iter()
        .map(|id| world.statuses(id).iter().any(|status| status == "IN_PROGRESS"))
        .collect();
    assert_eq!(ran, [true, false, true], "{:?}", world.statuses("second"));
}

#[test]
fn what_the_config_does_not_allow_is_refused() {
    let mut world = online();
    world.command("u", "restart_unit", json!({"unit": "ssh.service"}), 1);
    world.command("m", "restart_unit", json!({"unit": "../../etc/passwd"}), 2);
    world.command("n", "restart_unit", json!({}), 3);
    world.command("r", "run", json!({"runbook": "../evil"}), 4);
    world.command("h", "run", json!({"runbook": "-x"}), 5);
    world.settle();
    let reasons: Vec<String> = ["u", "m", "n", "r", "h"].iter().map(|id| reason(&world, id)).collect();
    assert_eq!(reasons, ["not_allowed", "malformed", "malformed", "malformed", "malformed"]);
    let hidden = world.results("h").pop().unwrap();
    assert!(hidden["detail"].as_str().unwrap().contains("with a letter or digit first"), "{hidden}");
    assert!(world.acted.is_empty());
}

#[test]
fn a_command_that_there_is_not_is_told_so_however_it_is_spelt() {
    let mut world = online();
    for (id, name) in [("a", "format_disk"), ("b", "format-disk"), ("c", "Ping"), ("d", "reboot2"), ("e", "rm -rf /")] {
        world.command(id, name, json!({"disk": "sda"}), 1);
        world.settle();
        assert_eq!((world.statuses(id), reason(&world, id)), (vec!["REJECTED".into()], "unknown_command".into()));
    }
}

#[test]
fn a_budget_is_not_refilled_by_a_crash() {
    let mut world = online();
    for n in 0..5_u16 {
        world.command(&format!("r-{n}"), "restart_unit", json!({"unit": "app.service"}), n + 1);
        world.settle();
    }
    world.crash();
    world.advance(2 * SECOND);
    world.command("r-5", "restart_unit", json!({"unit": "app.service"}), 9);
    world.settle();
    assert_eq!((world.acted.len(), reason(&world, "r-5")), (5, "budget_spent".into()));
}

#[test]
fn a_command_in_flight_when_the_link_breaks_is_answered_on_the_next_connection() {
    let mut world = online();
    world.acts_succeed = false;
    let claims = json!({"jti": "r-1", "iat": 1_795_000_000, "exp": 1_795_000_900,
        "cmd": {"name": "restart_unit", "args": {"unit": "app.service"}}});
    world.claims(claims.clone(), 7);
    world.settle();
    world.drop_connection(LinkFaultKind::Server);
    let (id, _) = world.acts[0].clone();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    world.advance(5 * SECOND);
    world.claims(claims, 3);
    world.settle();
    assert_eq!(world.acted.len(), 1);
    assert_eq!(world.statuses("r-1").last().unwrap(), "SUCCEEDED");
}

#[test]
fn what_a_runbook_printed_is_reported_whole_and_remembered_in_part() {
    let mut world = online();
    world.acts_succeed = false;
    let claims = json!({"jti": "r-1", "iat": 1_795_000_000, "exp": 1_795_000_900,
        "cmd": {"name": "run", "args": {"runbook": "fix"}}});
    world.claims(claims.clone(), 1);
    world.settle();
    let (id, _) = world.acts[0].clone();
    let output = Some(format!("{}the end", "x".repeat(8_000)));
    world.input(Input::ActDone { id, outcome: ActOutcome { output, ..outcome(ActStatus::Succeeded) } });
    world.claims(claims, 2);
    world.settle();
    let ends: Vec<&str> = world.results("r-1").iter().filter_map(|body| body["output"].as_str()).collect();
    assert_eq!(ends.len(), 2);
    assert_eq!(ends[0].len(), 8_007);
    assert!(ends[1].len() < 4_096 && ends[1].ends_with("the end"), "{} B", ends[1].len());
    assert!(ends[1].starts_with("… 5959 B before this"), "{}", ends[1]);
}

#[test]
fn how_a_command_ended_is_told_by_less_of_its_output_where_the_broker_takes_no_more() {
    const PACKET_MAX: u32 = 1_500;
    for (id, output, detail, told) in [
        ("plain", "x".repeat(8_000), None, "the end"),
        ("escaped", "\u{1}\"".repeat(4_000), None, "the end"),
        ("lines", "\r\n".repeat(4_000), None, "the end"),
        ("wide", "\u{fc}\u{20ac}".repeat(4_000), None, "the end"),
        ("both", "x".repeat(800), Some("y".repeat(1_300)), ""),
        ("detail", String::new(), Some("\u{20ac}".repeat(4_000)), ""),
    ] {
        let mut world = online();
        world.drop_connection(LinkFaultKind::Server);
        world.packet_max = Some(PACKET_MAX);
        world.advance(10 * SECOND);
        world.acts_succeed = false;
        world.claims(
            json!({"jti": id, "iat": 1_795_000_000, "exp": 1_795_000_900,
                "cmd": {"name": "run", "args": {"runbook": "fix"}}}),
            1,
        );
        world.settle();
        let (act, _) = world.acts[0].clone();
        let output = Some(output).filter(|output| !output.is_empty()).map(|output| output + "the end");
        let ended = ActOutcome { output, detail, ..outcome(ActStatus::Failed) };
        world.input(Input::ActDone { id: act, outcome: ended });
        world.settle();
        let results = world.results(id);
        let end = results.last().unwrap();
        assert_eq!(end["status"], "FAILED", "{id}: {results:?}");
        assert!(end.to_string().len() < PACKET_MAX as usize && end.to_string().len() > 1_000, "{id}: {end}");
        assert!(end["output"].as_str().unwrap_or_default().ends_with(told), "{id}: {end}");
        let says_so = end["output"].as_str().is_some_and(|output| output.contains("more than the broker takes"));
        assert_eq!(says_so, !told.is_empty(), "{id}: {end}");
    }
}

#[test]
fn other_intervals_hold_for_a_while() {
    let mut world = online();
    world.command("i", "set_intervals", json!({"sample": "1s", "report": "1s", "publish": "1s", "for": "10s"}), 1);
    world.settle();
    assert_eq!(world.statuses("i"), ["SUCCEEDED"]);
    let telemetry = |world: &World| world.got.iter().filter(|got| got.topic.ends_with("telemetry")).count();
    let before = telemetry(&world);
    world.advance(9 * SECOND);
    assert!(telemetry(&world) - before >= 8);
}

#[test]
fn intervals_that_are_not_named_follow_those_that_are() {
    let mut world = online();
    world.command("i", "set_intervals", json!({"publish": "2s", "for": "30s"}), 1);
    world.settle();
    assert_eq!(world.statuses("i"), ["SUCCEEDED"]);
    assert_eq!(world.results("i")[0]["detail"], "sample 1s, report 2s, publish 2s, for 30s");
    let samples = |world: &World| {
        let messages = world.got.iter().filter(|got| got.topic.ends_with("telemetry"));
        messages.map(|got| got.body["samples"].as_array().unwrap().len()).sum::<usize>()
    };
    let before = samples(&world);
    world.advance(20 * SECOND);
    assert!(samples(&world) - before >= 9, "{} in 20 s", samples(&world) - before);
}

#[test]
fn other_intervals_hold_for_an_hour_where_nobody_says_for_how_long() {
    let mut world = online();
    world.command("i", "set_intervals", json!({"publish": 10}), 1);
    world.settle();
    assert_eq!(world.statuses("i"), ["SUCCEEDED"]);
    let telemetry = |world: &mut World| {
        let count = |world: &World| world.got.iter().filter(|got| got.topic.ends_with("telemetry")).count();
        let before = count(world);
        world.advance(60 * SECOND);
        count(world) - before
    };
    assert!((5..=7).contains(&telemetry(&mut world)));
    world.advance(58 * 60 * SECOND);
    assert!((5..=7).contains(&telemetry(&mut world)));
    world.advance(60 * SECOND);
    assert!(telemetry(&mut world) >= 29);
}

/// Orders a group to do that; when it began, in seconds after that, if it did within eleven minutes.
fn group_begins(device: &str, id: &str, name: &str, args: Json) -> Option<u64> {
    let mut config = config_with("[rollback.app]\nkind = \"rauc\"");
    config.device.id = DeviceId::parse(device).unwrap();
    let mut world = World::with(config);
    world.advance(SECOND);
    world.acts_succeed = false;
    let ordered = world.now.mono;
    let cmd = json!({"name": name, "args": args});
    let exp = world.now.wall.unix.0 / 1_000 + 1_300;
    world.claims(json!({"jti": id, "aud": "group:canary", "exp": exp, "cmd": cmd}), 1);
    world.settle();
    let began = !world.acted.is_empty() || world.advance_until(660 * SECOND, |world| !world.acted.is_empty());
    began.then(|| world.now.mono.since(ordered).as_secs())
}

#[test]
fn what_takes_a_whole_group_off_the_air_begins_on_each_gateway_at_another_time() {
    let mut began: Vec<u64> = (0..8)
        .map(|n| group_begins(&format!("gw-{n}"), "b-1", "reboot", json!({})).expect("it begins within ten minutes"))
        .collect();
    assert!(began.iter().all(|s| *s <= 600), "{began:?}");
    began.sort_unstable();
    began.dedup();
    assert!(began.len() >= 6 && began[began.len() - 1] - began[0] > 120, "{began:?}");
    // The same gateway has the same turn.
    let again = [(); 2].map(|()| group_begins("gw-3", "b-1", "rollback", json!({"target": "app"})));
    assert!(again[0].is_some() && again[0] == again[1], "{again:?}");
}

#[test]
fn what_is_to_be_now_or_disturbs_nobody_else_is_done_by_a_group_at_once() {
    for (name, args) in [
        ("reboot", json!({"now": true})),
        ("reboot", json!({"delay_s": 0})),
        ("restart_link", json!({"interface": "eth0", "now": true})),
        ("restart_unit", json!({"unit": "app.service"})),
        ("quarantine", json!({"level": "restrict"})),
    ] {
        let began = group_begins("gw-3", "b-1", name, args.clone());
        assert!(began.is_some_and(|s| s <= 10), "{name} {args}: {began:?}");
    }
}

#[test]
fn one_of_a_group_that_waits_for_its_turn_says_so_can_be_canceled_and_is_not_begun_after_a_crash() {
    for end in ["cancel", "crash"] {
        let mut world = online();
        let reboot = json!({"jti": "b-1", "aud": "group:canary", "cmd": {"name": "reboot", "args": {}}});
        world.claims(reboot, 1);
        world.settle();
        assert_eq!(world.statuses("b-1"), ["QUEUED"]);
        let detail = world.results("b-1")[0]["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("one of a group: begins in"), "{detail}");
        if end == "cancel" {
            world.command("c-1", "cancel", json!({"command_id": "b-1"}), 2);
            world.settle();
        } else {
            world.crash();
        }
        world.advance(700 * SECOND);
        assert_eq!((world.statuses("b-1"), world.acted.len()), (vec!["QUEUED".into(), "CANCELED".into()], 0), "{end}");
    }
}

#[test]
fn arguments_that_a_command_does_not_take_or_that_contradict_each_other_are_refused_by_name() {
    let mut world = online();
    let cases = [
        ("ping", json!({"deep": true}), "args.deep: ping takes no arguments"),
        (
            "restart_unit",
            json!({"unit": "app.service", "timeout": 5}),
            "args.timeout is unknown; restart_unit takes unit",
        ),
        ("set_intervals", json!({"sample": "2h", "for": "1m"}), "args.sample is 2h, 1h is the most"),
        (
            "set_intervals",
            json!({"sample": "1m", "publish": "1s", "for": "1m"}),
            "args.publish is 1s, shorter than args.sample, 1m",
        ),
    ];
    for (n, (name, args, expected)) in cases.into_iter().enumerate() {
        let id = format!("c-{n}");
        world.command(&id, name, args, 1);
        world.settle();
        let result = world.results(&id).pop().unwrap();
        assert_eq!((&result["status"], &result["reason"]), (&json!("REJECTED"), &json!("malformed")));
        assert!(result["detail"].as_str().unwrap().contains(expected), "{result}");
    }
}

#[test]
fn what_the_gateway_has_no_means_for_is_refused() {
    let mut world = online();
    world.command("m-1", "rollback", json!({"target": "firmware"}), 1);
    world.settle();
    assert_eq!(world.results("m-1")[0]["reason"], "not_allowed", "there is no [rollback.firmware]");
}

#[test]
fn a_command_that_came_twice_before_it_was_durable_is_acknowledged_twice() {
    let mut world = online();
    let claims = json!({"jti": "r-1", "iat": 1_795_000_000, "exp": 1_795_009_000,
        "cmd": {"name": "restart_unit", "args": {"unit": "app.service"}}});
    world.claims(claims.clone(), 7);
    world.claims(claims, 8);
    world.command("p-1", "ping", json!({}), 9);
    world.settle();
    assert_eq!(world.acked_commands, [7, 8, 9], "or no acknowledgement would ever go out again");
    assert_eq!(world.acted.len(), 1);
}
