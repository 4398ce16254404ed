//! The life of a command: at most once through any crash, and one terminal status for each.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::world::{NONCE, World, config, config_with, outcome, restart};
use crate::config::DeviceId;
use crate::engine::io::{ActOutcome, ActStatus, Input, LinkFaultKind, LogLevel, StopReason, StoreFault, StoreOp};
use crate::engine::record::Class;

const SECOND: Duration = Duration::from_secs(1);

fn online() -> World {
    let mut world = World::new();
    world.advance(SECOND);
    world
}

fn reason(world: &World, id: &str) -> String {
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
fn cancel_takes_back_what_is_queued_and_stops_what_runs() {
    let mut world = online();
    world.acts_succeed = false;
    world.command("runs", "run", json!({"runbook": "fix", "args": ["a"]}), 1);
    world.command("waits", "run", json!({"runbook": "fix"}), 2);
    world.command("c-1", "cancel", json!({"command_id": "waits"}), 3);
    world.command("c-2", "cancel", json!({"command_id": "runs"}), 4);
    world.command("c-3", "cancel", json!({"command_id": "nobody"}), 5);
    world.settle();
    assert_eq!(world.statuses("waits"), ["QUEUED", "CANCELED"]);
    assert_eq!(world.statuses("runs"), ["IN_PROGRESS", "CANCELED"]);
    assert_eq!(world.statuses("c-2"), ["SUCCEEDED"]);
    assert_eq!((world.statuses("c-3"), reason(&world, "c-3")), (vec!["FAILED".to_owned()], "not_found".into()));
}

#[test]
fn what_is_canceled_while_it_is_on_its_way_to_the_disk_ends_once() {
    let mut world = online();
    world.acts_succeed = false;
    for pkid in 1..=5 {
        world.command(&format!("d-{pkid}"), "collect_diagnostics", json!({}), 2 * pkid);
        world.command(&format!("c-{pkid}"), "cancel_all", json!({}), 2 * pkid + 1);
    }
    world.settle();
    for pkid in 1..=5 {
        let ended = world.statuses(&format!("d-{pkid}")).into_iter().filter(|status| status == "CANCELED").count();
        assert_eq!(ended, 1, "d-{pkid}: {:?}", world.statuses(&format!("d-{pkid}")));
    }
}

#[test]
fn a_command_that_comes_again_is_not_answered_with_an_end_that_is_not_on_the_disk() {
    let mut world = online();
    world.acts_succeed = false;
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    world
        .stall_store_at(|op| matches!(op, StoreOp::Put { entries } if entries.iter().any(|(key, _)| key == "cmd/r-1")));
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
    world.settle();
    let reasons: Vec<String> = ["u", "m", "n", "r"].iter().map(|id| reason(&world, id)).collect();
    assert_eq!(reasons, ["not_allowed", "malformed", "malformed", "malformed"]);
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
fn time_is_judged_by_a_trusted_clock() {
    let mut world = online();
    let now = world.now.wall.unix.0 / 1000;
    let ping = json!({"name": "ping"});
    world.claims(json!({"jti": "old", "iat": now - 900, "exp": now - 1, "cmd": ping}), 1);
    world.claims(json!({"jti": "nbf", "nbf": now + 3_600, "exp": now + 7_200, "cmd": ping}), 2);
    world.claims(json!({"jti": "iat", "iat": now + 3_600, "exp": now + 7_200, "cmd": ping}), 3);
    world.claims(json!({"jti": "skew", "iat": now + 200, "exp": now + 7_200, "cmd": ping}), 4);
    world.settle();
    let reasons: Vec<String> = ["old", "nbf", "iat", "skew"].iter().map(|id| reason(&world, id)).collect();
    assert_eq!(reasons, ["expired", "not_yet_valid", "not_yet_valid", ""]);
}

#[test]
fn without_a_trusted_clock_only_the_nonce_lets_a_disruptive_command_in() {
    let mut world = online();
    world.now.wall.trusted = false;
    let restart = json!({"name": "restart_unit", "args": {"unit": "app.service"}});
    world.claims(json!({"jti": "bare", "cmd": restart}), 1);
    world.claims(json!({"jti": "stale", "nonce": "feedfeed", "cmd": restart}), 2);
    world.claims(json!({"jti": "fresh", "nonce": NONCE, "cmd": restart}), 3);
    world.claims(json!({"jti": "ping", "cmd": {"name": "ping"}}), 4);
    world.settle();
    let reasons: Vec<String> = ["bare", "stale", "fresh", "ping"].iter().map(|id| reason(&world, id)).collect();
    assert_eq!(reasons, ["clock_untrusted", "clock_untrusted", "", ""]);
    assert_eq!(world.acted.len(), 1);
}

#[test]
fn without_a_trusted_clock_what_is_valid_from_its_issue_on_is_valid() {
    let mut world = online();
    world.now.wall.trusted = false;
    let month = world.now.wall.unix.0 / 1000 + 30 * 86_400;
    let ping = |id: &str, nbf: i64| json!({"jti": id, "iat": month, "nbf": nbf, "exp": month + 7_200, "cmd": {"name": "ping"}});
    world.claims(ping("later", month + 3_600), 1);
    world.claims(ping("now", month), 2);
    world.settle();
    assert_eq!((reason(&world, "later"), reason(&world, "now")), ("not_yet_valid".into(), String::new()));
}

#[test]
fn without_a_clock_what_is_older_than_the_last_known_time_is_expired() {
    let mut world = online();
    let saved = world.now.wall.unix.0 / 1000;
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.now.wall = crate::engine::time::Wall { unix: crate::engine::time::Unix(0), trusted: false };
    world.reboot();
    world.advance(2 * SECOND);
    world.claims(
        json!({"jti": "old", "nonce": NONCE, "iat": saved - 900, "exp": saved - 60, "cmd": {"name": "ping"}}),
        1,
    );
    world.claims(json!({"jti": "new", "iat": saved, "exp": saved + 600, "cmd": {"name": "ping"}}), 2);
    world.settle();
    assert_eq!((reason(&world, "old"), world.statuses("new")), ("expired".into(), vec!["SUCCEEDED".to_owned()]));
}

#[test]
fn what_a_genuine_command_says_of_the_time_outlives_a_kill_and_not_a_clock_that_knows_better() {
    let mut world = online();
    let now = world.now.wall.unix.0 / 1000;
    let ping = |id: &str, from: i64| json!({"jti": id, "iat": from, "exp": from + 600, "cmd": {"name": "ping"}});
    world.now.wall.trusted = false;
    world.claims(ping("tomorrow", now + 86_400), 1);
    world.settle();
    world.crash();
    world.advance(2 * SECOND);
    world.claims(ping("today", now), 2);
    world.settle();
    assert_eq!((world.statuses("tomorrow"), reason(&world, "today")), (vec!["SUCCEEDED".to_owned()], "expired".into()));
    world.now.wall.trusted = true;
    world.claims(ping("now", now), 3);
    world.settle();
    assert_eq!(world.statuses("now"), ["SUCCEEDED"]);
}

#[test]
fn a_command_refused_by_a_clock_that_is_put_right_later_stays_refused() {
    let mut world = online();
    let now_s = world.now.wall.unix.0 / 1000;
    let claims = json!({"jti": "r-1", "iat": now_s, "exp": now_s + 600,
        "cmd": {"name": "restart_unit", "args": {"unit": "app.service"}}});
    world.now.wall.trusted = false;
    world.now.wall.unix.0 += 3 * 3_600_000;
    world.claims(claims.clone(), 1);
    world.settle();
    world.now.wall.unix.0 -= 3 * 3_600_000;
    world.now.wall.trusted = true;
    world.claims(claims, 2);
    world.settle();
    assert!(world.acted.is_empty());
    assert_eq!(world.statuses("r-1"), ["REJECTED", "REJECTED"]);
}

#[test]
fn a_burst_of_a_thousand_commands_gets_one_terminal_status_each() {
    let mut world = online();
    world.acts_succeed = false;
    for n in 0..1_000_u16 {
        world.command(&format!("b-{n}"), "restart_unit", json!({"unit": "app.service"}), n + 1);
    }
    world.settle();
    while let Some((id, _)) = world.acts.pop() {
        world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    }
    world.advance(60 * SECOND);
    for n in 0..1_000 {
        let statuses = world.statuses(&format!("b-{n}"));
        let terminal = statuses.iter().filter(|s| !matches!(s.as_str(), "QUEUED" | "IN_PROGRESS")).count();
        assert_eq!(terminal, 1, "b-{n}: {statuses:?}");
    }
}

#[test]
fn a_flood_of_garbage_is_told_in_part_and_counted_in_full() {
    let mut world = online();
    for pkid in 1..=1_000 {
        world.claims(json!({"jti": "not a valid id"}), pkid);
    }
    world.settle();
    world.advance(10 * SECOND);
    let told = world.got.iter().filter(|got| got.body["reason"] == "malformed").count();
    let counted: u64 = world
        .got
        .iter()
        .filter_map(|got| got.body["samples"].as_array())
        .flatten()
        .filter_map(|sample| sample["agent"]["commands_refused"]["malformed"].as_u64())
        .sum();
    assert!((1..=70).contains(&told), "{told} told");
    assert_eq!(counted, 1_000);
    assert_eq!(world.acked_commands.len(), 1_000);
}

#[test]
fn a_genuine_command_under_a_known_id_that_comes_over_and_over_is_told_in_part() {
    let mut world = online();
    world.command("x", "ping", json!({}), 1);
    world.settle();
    for pkid in 2..=500 {
        world.command("x", "cancel_all", json!({}), pkid);
    }
    world.settle();
    let told = world.results("x").iter().filter(|result| result["reason"] == "replayed").count();
    assert!((1..=70).contains(&told), "{told} told");
    assert_eq!(world.acked_commands.len(), 500);
}

#[test]
fn what_anybody_can_send_keeps_no_genuine_command_from_being_answered_again() {
    let mut world = online();
    for pkid in 1..=200 {
        world.claims(json!({"jti": "not a valid id"}), pkid);
    }
    let ping = json!({"jti": "x", "iat": 1_795_000_000, "exp": 1_795_000_900, "cmd": {"name": "ping"}});
    for pkid in 201..=210 {
        world.claims(ping.clone(), pkid);
        world.settle();
    }
    assert_eq!(world.statuses("x").len(), 10);
}

const LEDGER_FULL: u16 = 2_048;

/// Valid for as long as anybody can say.
fn for_ever(id: &str, issued_at: i64, name: &str, args: &Json) -> Json {
    json!({"jti": id, "iat": issued_at, "exp": 253_402_300_799_i64, "cmd": {"name": name, "args": args}})
}

/// An agent that remembers as many commands as it can, none of which ever expires, each a second older than the next.
/// The oldest has restarted the app.
fn full() -> (World, Json) {
    let mut world = online();
    let begin = world.now.wall.unix.0 / 1000 - 3_000;
    let oldest = for_ever("c-0", begin, "restart_unit", &json!({"unit": "app.service"}));
    world.claims(oldest.clone(), 1);
    for n in 1..LEDGER_FULL {
        world.claims(for_ever(&format!("c-{n}"), begin + i64::from(n), "ping", &json!({})), n + 1);
        world.settle();
    }
    world.advance(5 * SECOND);
    (world, oldest)
}

#[test]
fn a_full_ledger_takes_new_commands_and_what_it_forgets_for_them_is_not_run_again() {
    let (mut world, oldest) = full();
    let now = world.now.wall.unix.0 / 1000;
    for (pkid, name) in (1..).zip(["ping", "quarantine", "release", "cancel_all"]) {
        let args = if name == "quarantine" { json!({"level": "observe"}) } else { json!({}) };
        world.claims(for_ever(name, now, name, &args), pkid);
        world.settle();
        assert_eq!(world.statuses(name).last().unwrap(), "SUCCEEDED", "{name}");
    }
    world.advance(5 * SECOND);
    // What stood beside the oldest, issued in the same second, can't be told from what was forgotten.
    let same_second = for_ever("twin", oldest["iat"].as_i64().unwrap(), "ping", &json!({}));
    for _ in 0..2 {
        world.claims(oldest.clone(), 7);
        world.claims(same_second.clone(), 8);
        world.settle();
        assert_eq!((reason(&world, "c-0"), reason(&world, "twin")), ("replayed".into(), "replayed".into()));
        world.crash();
        world.advance(2 * SECOND);
    }
    assert_eq!(world.acted.iter().filter(|act| **act == restart("app.service")).count(), 1);
    // What is still known is answered by what is known.
    world.claims(for_ever("c-9", oldest["iat"].as_i64().unwrap() + 9, "ping", &json!({})), 9);
    world.settle();
    assert_eq!(world.statuses("c-9").last().unwrap(), "SUCCEEDED");
}

/// Crashes between each pair of steps of what makes room for a command.
#[test]
fn what_a_full_ledger_forgets_is_not_run_twice_wherever_the_agent_dies() {
    let (mut before, oldest) = full();
    before.crash();
    let state = before.store.state.clone();
    for crash_after in 0..12 {
        let mut world = online();
        world.store.state = state.clone();
        world.crash();
        world.advance(2 * SECOND);
        let newcomer =
            for_ever("new", oldest["iat"].as_i64().unwrap() + 4_000, "restart_unit", &json!({"unit": "other.service"}));
        world.now.wall.unix.0 += 2_000_000;
        world.claims(newcomer.clone(), 7);
        for _ in 0..crash_after {
            // Effect by effect: what is forgotten and what it is forgotten for are two writes.
            if !world.step_effect() && !world.step() {
                break;
            }
        }
        world.crash();
        world.advance(2 * SECOND);
        for again in [&oldest, &newcomer] {
            world.claims(again.clone(), 9);
            world.settle();
        }
        world.advance(2 * SECOND);
        assert!(!world.acted.contains(&restart("app.service")), "crash after {crash_after}");
        assert!(world.acted.len() <= 1, "crash after {crash_after}: {:?}", world.acted);
        let ends = world.statuses("new").into_iter().filter(|status| status != "IN_PROGRESS").collect::<BTreeSet<_>>();
        assert_eq!(ends.len(), 1, "crash after {crash_after}: {ends:?}");
    }
}

#[test]
fn whoever_finds_the_ledger_full_is_always_told_so() {
    const MORE: u16 = 200;
    let mut world = online();
    let now = world.now.wall.unix.0 / 1000;
    for n in 0..LEDGER_FULL + MORE {
        // All of one second: none of them is older than another.
        world.claims(for_ever(&format!("c-{n}"), now, "ping", &json!({})), n + 1);
        world.settle();
    }
    world.advance(10 * SECOND);
    let told = (0..MORE).filter(|n| {
        let results = world.results(&format!("c-{}", LEDGER_FULL + n));
        results.iter().any(|result| result["reason"] == "busy")
    });
    assert_eq!(told.count(), usize::from(MORE));
    world.claims(for_ever("later", now + 1, "cancel_all", &json!({})), 1);
    world.settle();
    assert_eq!(world.statuses("later"), ["SUCCEEDED"]);
}

#[test]
fn slow_runbooks_leave_hands_for_what_helps() {
    let mut world = online();
    world.acts_succeed = false;
    for n in 1..=8_u16 {
        world.command(&format!("r-{n}"), "run", json!({"runbook": format!("slow-{n}")}), n);
    }
    world.settle();
    assert_eq!(world.acted.len(), 6);
    let others = [
        ("restart_unit", json!({"unit": "app.service"})),
        ("reboot", json!({"delay_s": 60})),
        ("quarantine", json!({"level": "observe"})),
        ("collect_diagnostics", json!({})),
    ];
    for (name, args) in others {
        world.command(name, name, args, 9);
        world.settle();
        assert_eq!(world.statuses(name), ["IN_PROGRESS"], "{name}");
    }
    world.command("u-2", "restart_unit", json!({"unit": "other.service"}), 9);
    world.settle();
    assert_eq!(world.statuses("u-2"), ["QUEUED"], "all hands are full");
    let bounds = world.engine.bounds();
    assert!(bounds.iter().all(|(_, holds, bound)| holds <= bound), "{bounds:?}");
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
fn of_a_thousand_commands_at_once_each_has_exactly_one_end() {
    const COMMANDS: usize = 1_000;
    let mut world = online();
    for n in 0..COMMANDS {
        let (name, args) = match n % 4 {
            0 => ("ping", json!({})),
            1 => ("restart_unit", json!({"unit": "app.service"})),
            2 => ("restart_unit", json!({"unit": "other.service"})),
            _ => ("restart_unit", json!({"unit": "forbidden.service"})),
        };
        world.command(&format!("c-{n}"), name, args, u16::try_from(n + 1).unwrap());
    }
    world.settle();
    world.advance(2 * 60 * SECOND);
    let ends = |n: usize| {
        let statuses = world.statuses(&format!("c-{n}"));
        statuses.into_iter().filter(|status| status != "IN_PROGRESS" && status != "QUEUED").count()
    };
    let wrong: Vec<usize> = (0..COMMANDS).filter(|n| ends(*n) != 1).collect();
    assert!(wrong.is_empty(), "{} of {COMMANDS} have not exactly one end: {wrong:?}", wrong.len());
    let acked: BTreeSet<u16> = world.acked_commands.iter().copied().collect();
    assert_eq!(acked.len(), COMMANDS, "each is acknowledged to the broker");
}
