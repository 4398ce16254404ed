//! Quarantine: entered and left as ordered, in force over everything in between, and never the agent's own grave.

mod found;

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value as Json, json};

use super::world::{World, config_with, outcome, puts};
use crate::config::{Action, QuarantineLevel};
use crate::engine::io::{Act, ActOutcome, ActStatus, EffectId, Input, StoreFault};
use crate::engine::keyed::QUARANTINE_KEY;
use crate::engine::metric::Metric;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn online() -> World {
    let mut world = World::new();
    world.advance(SECOND);
    world
}

fn order(world: &mut World, id: &str, name: &str, args: Json) {
    world.command(id, name, args, 1);
    world.settle();
    world.advance(11 * SECOND);
}

/// A world in which command `q-1` is putting this level in force, and its act.
fn entering(level: &str) -> (World, EffectId) {
    let mut world = online();
    world.acts_succeed = false;
    order(&mut world, "q-1", "quarantine", json!({"level": level}));
    let (id, _) = world.acts.pop().unwrap();
    (world, id)
}

/// The level that presence and attributes said last.
fn level(world: &World) -> (String, String) {
    let last = |leaf: &str| world.got.iter().rev().find(|got| got.topic.ends_with(leaf)).unwrap();
    let word = |json: &Json| json.as_str().unwrap().to_owned();
    (word(&last("presence").body["quarantine"]), word(&last("attributes").body["dynamic"]["quarantine"]))
}

fn reason(world: &World, id: &str) -> String {
    world.results(id).last().unwrap()["reason"].as_str().unwrap_or("").to_owned()
}

fn audits(world: &World, name: &str) -> usize {
    world.got.iter().filter(|got| got.body["type"] == "audit" && got.body["name"] == name).count()
}

fn triggers<'a>(world: &'a World, name: &str) -> Vec<&'a str> {
    let audits = world.got.iter().filter(|got| got.body["type"] == "audit" && got.body["name"] == name);
    audits.map(|got| got.body["audit"]["trigger"].as_str().unwrap()).collect()
}

fn refreshes(world: &World) -> Vec<&Act> {
    world.acted.iter().filter(|act| matches!(act, Act::Refresh { .. })).collect()
}

fn not_in_force() -> ActOutcome {
    ActOutcome { reason: Some("not_in_force".into()), ..outcome(ActStatus::Failed) }
}

fn both(word: &str) -> (String, String) {
    (word.into(), word.into())
}

#[test]
fn a_command_enters_quarantine_and_release_leaves_it_and_everybody_is_told() {
    let mut world = online();
    assert_eq!(level(&world), both("none"));
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    assert_eq!(world.statuses("q-1").last().unwrap(), "SUCCEEDED");
    assert_eq!((level(&world), audits(&world, "quarantine_entered")), (both("restrict"), 1));
    order(&mut world, "r-1", "release", json!({}));
    assert_eq!(world.statuses("r-1").last().unwrap(), "SUCCEEDED");
    assert_eq!((level(&world), audits(&world, "quarantine_left")), (both("none"), 1));
}

#[test]
fn what_was_left_is_not_entered_again_where_nothing_is_in_force() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "isolate"}));
    order(&mut world, "r-1", "release", json!({}));
    world.store.state.clear();
    world.crash();
    world.advance(11 * SECOND);
    assert_eq!(level(&world), both("none"));
}

#[test]
fn a_release_waits_for_the_refresh_that_is_under_way() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    world.acts_succeed = false;
    world.crash();
    world.advance(2 * SECOND);
    let (refresh, act) = world.acts.pop().unwrap();
    assert!(matches!(act, Act::Refresh { .. }), "{act:?}");
    order(&mut world, "r-1", "release", json!({}));
    assert!(world.acts.is_empty(), "it would be undone: {:?}", world.acts);
    world.acts_succeed = true;
    world.input(Input::ActDone { id: refresh, outcome: outcome(ActStatus::Succeeded) });
    world.advance(2 * SECOND);
    assert_eq!(world.statuses("r-1").last().unwrap(), "SUCCEEDED");
    assert_eq!(level(&world), both("none"));
}

#[test]
fn a_quarantine_that_was_canceled_before_it_began_is_not_in_the_journal() {
    const CUT: &str = r#"
        [[rules]]
        name = "full"
        metric = "host.mem_used_pct"
        above = 90
        remedy = "cut"
        [[ladders]]
        name = "cut"
        steps = [ { do = "quarantine", level = "isolate" } ]
    "#;
    let mut world = World::with(config_with(CUT));
    world.advance(11 * MINUTE);
    // The store works in order: the button is on the disk before the step is.
    world.cancel_all_late();
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(3 * SECOND);
    assert!(world.store_is_late());
    world.store_answers();
    world.advance(2 * SECOND);
    world.crash();
    world.advance(15 * SECOND);
    assert_eq!((level(&world), world.acted.len()), (both("none"), 0));
}

#[test]
fn quarantine_holds_over_a_crash_and_a_reboot_and_its_rules_are_put_in_force_again() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "isolate"}));
    for restart in [World::crash, World::reboot] {
        world.acted.clear();
        restart(&mut world);
        world.advance(15 * SECOND);
        assert_eq!(level(&world), both("isolate"));
        assert_eq!(refreshes(&world)[0], &Act::Refresh { level: QuarantineLevel::Isolate, wide: false });
    }
}

#[test]
fn an_entry_of_the_journal_that_can_not_be_read_is_no_way_out() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    let key = QUARANTINE_KEY;
    assert!(world.store.state.insert(key.to_owned(), Bytes::from_static(b"of a newer version")).is_some());
    world.crash();
    world.advance(10 * SECOND);
    assert_eq!(level(&world), both("restrict"));
    order(&mut world, "r-1", "release", json!({}));
    assert_eq!(level(&world), both("none"));
}

#[test]
fn a_crash_while_it_is_entered_leaves_the_gateway_shut_and_one_while_it_is_left_too() {
    let mut world = online();
    world.acts_succeed = false;
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    world.acts_succeed = true;
    world.crash();
    world.advance(15 * SECOND);
    assert_eq!(level(&world), both("restrict"));
    world.acts_succeed = false;
    order(&mut world, "r-1", "release", json!({}));
    world.crash();
    world.acts_succeed = true;
    world.advance(15 * SECOND);
    assert_eq!((level(&world), world.statuses("r-1").last().unwrap().as_str()), (both("restrict"), "INTERRUPTED"));
}

#[test]
fn what_is_said_of_a_quarantine_at_length_keeps_no_entry_of_the_journal_from_being_written() {
    let (mut world, id) = entering("restrict");
    let detail = Some("x".repeat(10_000));
    world.input(Input::ActDone { id, outcome: ActOutcome { detail, ..outcome(ActStatus::Succeeded) } });
    world.advance(SECOND);
    let audit = world.got.iter().find(|got| got.body["name"] == "quarantine_entered").unwrap();
    assert_eq!(audit.body["audit"]["detail"].as_str().unwrap().len(), 2_048);
    assert_eq!(audits(&world, "quarantine_entered"), 1);
}

#[test]
fn what_could_not_be_put_in_force_is_not_in_force_after_the_next_start_either() {
    let mut world = online();
    world.acts_succeed = false;
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    let (id, _) = world.acts[0].clone();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
    world.advance(SECOND);
    world.crash();
    world.advance(15 * SECOND);
    assert_eq!((level(&world), world.statuses("q-1").last().unwrap().as_str()), (both("none"), "FAILED"));
}

#[test]
fn a_quarantine_that_a_crash_kept_from_being_told_is_told_once_it_is_seen_and_a_snapshot_is_taken() {
    for was_told in [false, true] {
        let (mut world, id) = entering("restrict");
        if was_told {
            world.input(Input::ActDone { id, outcome: outcome(ActStatus::TimedOut) });
            world.advance(SECOND);
        }
        world.acts_succeed = true;
        world.in_force = Some(QuarantineLevel::Restrict);
        for _ in 0..2 {
            world.crash();
            world.advance(15 * SECOND);
            assert_eq!(triggers(&world, "quarantine_entered"), ["command:q-1"], "told before: {was_told}");
        }
        let snapshots = world.acted.iter().filter(|act| **act == Act::CollectDiagnostics).count();
        // One that the crash cut off is taken again.
        assert_eq!(snapshots, 1 + usize::from(was_told), "told before: {was_told}");
    }
}

#[test]
fn what_is_in_force_already_is_not_entered_anew_and_stays_who_ordered_its() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    order(&mut world, "q-2", "quarantine", json!({"level": "restrict"}));
    assert_eq!(world.statuses("q-2").last().unwrap(), "SUCCEEDED");
    world.acts_succeed = false;
    order(&mut world, "q-3", "quarantine", json!({"level": "restrict"}));
    world.acts_succeed = true;
    world.crash();
    world.advance(15 * SECOND);
    assert_eq!(triggers(&world, "quarantine_entered"), ["command:q-1"]);
    order(&mut world, "q-4", "quarantine", json!({"level": "isolate"}));
    assert_eq!(triggers(&world, "quarantine_entered"), ["command:q-1", "command:q-4"]);
    let snapshots = world.acted.iter().filter(|act| **act == Act::CollectDiagnostics).count();
    assert_eq!(snapshots, 2);
}

#[test]
fn one_that_roots_helper_did_not_begin_is_told_by_nobody_as_entered() {
    let (mut world, id) = entering("restrict");
    world.input(Input::ActDone { id, outcome: ActOutcome::not_begun("the helper hangs") });
    world.advance(11 * SECOND);
    assert_eq!((level(&world), audits(&world, "quarantine_entered")), (both("none"), 0));
    assert_eq!(
        (world.statuses("q-1").last().unwrap().as_str(), reason(&world, "q-1")),
        ("TIMED_OUT", "no_helper".into())
    );
    world.crash();
    world.advance(11 * SECOND);
    assert_eq!((level(&world), world.acts.len()), (both("none"), 0));
}

/// What attributes said last of how much of it is in force.
fn is_degraded(world: &World) -> bool {
    let last = world.got.iter().rev().find(|got| got.topic.ends_with("attributes")).unwrap();
    last.body["dynamic"]["quarantine_degraded"] == true
}

#[test]
fn what_is_in_force_in_part_is_shown_as_that_and_tried_again_within_seconds_and_then_less_often() {
    let degraded = || {
        let (reason, detail) = (Some("degraded".into()), Some("the network is as it was: no nft".into()));
        ActOutcome { reason, detail, ..outcome(ActStatus::Succeeded) }
    };
    let mut world = online();
    world.acts_succeed = false;
    world.command("q-1", "quarantine", json!({"level": "restrict"}), 1);
    world.settle();
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: degraded() });
    for wait in [5, 10, 20, 40] {
        world.acts.clear();
        world.advance(Duration::from_secs(wait - 1));
        assert_eq!(refreshes_under_way(&world), [], "after less than {wait} s");
        world.advance(SECOND);
        let [id] = refreshes_under_way(&world)[..] else { panic!("none after {wait} s: {:?}", world.acts) };
        world.input(Input::ActDone { id, outcome: degraded() });
    }
    world.acts.clear();
    world.advance(50 * SECOND);
    assert_eq!(refreshes_under_way(&world), []);
    assert_eq!((level(&world), is_degraded(&world)), (both("restrict"), true));
    let told = |world: &World| world.engine.status(world.now).quarantine_detail;
    assert_eq!(told(&world).as_deref(), Some("the network is as it was: no nft"));
    world.acts_succeed = true;
    world.advance(15 * MINUTE);
    assert_eq!((level(&world), is_degraded(&world), told(&world)), (both("restrict"), false, None));
}

fn refreshes_under_way(world: &World) -> Vec<EffectId> {
    world.acts.iter().filter(|(_, act)| matches!(act, Act::Refresh { .. })).map(|(id, _)| *id).collect()
}

#[test]
fn what_root_does_not_allow_is_told_with_what_to_do_and_a_release_is_taken_all_the_same() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    let actions = [Action::RestartUnit].into();
    let (withheld, quarantine) = ([Action::Quarantine, Action::Reboot].into(), Some(QuarantineLevel::Restrict));
    world.input(Input::Able { actions, withheld, quarantine });
    for (id, name) in [("b-1", "reboot"), ("b-2", "run")] {
        order(&mut world, id, name, if name == "run" { json!({"runbook": "fix"}) } else { json!({}) });
        assert_eq!(reason(&world, id), "not_supported");
    }
    let detail = |id: &str| world.results(id).last().unwrap()["detail"].as_str().unwrap().to_owned();
    assert!(detail("b-1").contains("policy.toml did not allow reboot"), "{}", detail("b-1"));
    assert!(detail("b-2").contains("no means to run"), "{}", detail("b-2"));
    order(&mut world, "r-1", "release", json!({}));
    assert_eq!((world.statuses("r-1").last().unwrap().as_str(), level(&world)), ("SUCCEEDED", both("none")));
}

#[test]
fn isolated_a_gateway_takes_ping_diagnostics_and_release_and_nothing_else() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "isolate"}));
    let refused = [
        ("restart_unit", json!({"unit": "app.service"})),
        ("set_intervals", json!({"sample": "1s", "for": "1m"})),
        ("quarantine", json!({"level": "restrict"})),
        ("cancel_all", json!({})),
    ];
    for (name, args) in refused {
        order(&mut world, name, name, args);
        assert_eq!((world.statuses(name), reason(&world, name)), (vec!["REJECTED".into()], "quarantined".into()));
    }
    for name in ["ping", "collect_diagnostics", "release"] {
        order(&mut world, name, name, json!({}));
        assert_eq!(world.statuses(name).last().unwrap(), "SUCCEEDED", "{name}");
    }
    order(&mut world, "again", "restart_unit", json!({"unit": "app.service"}));
    assert_eq!(world.statuses("again").last().unwrap(), "SUCCEEDED");
}

#[test]
fn a_quarantine_is_tightened_by_command_and_loosened_by_release_only() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "observe"}));
    order(&mut world, "q-2", "quarantine", json!({"level": "restrict"}));
    assert_eq!(level(&world), both("restrict"));
    order(&mut world, "q-3", "quarantine", json!({"level": "observe"}));
    assert_eq!((world.statuses("q-3"), level(&world)), (vec!["REJECTED".to_owned()], both("restrict")));
}

#[test]
fn a_unit_that_a_quarantine_keeps_stopped_is_restarted_only_where_it_is_observed_or_left() {
    let stop = "stop_units = [\"app.service\", \"other.service\"]\nkeep_units = [\"other.service\"]";
    let mut world = World::with(config_with(&format!("[quarantine]\n{stop}")));
    world.advance(SECOND);
    let mut restart = |id: &str, level: &str, unit: &str| {
        let (name, args) =
            if level == "none" { ("release", json!({})) } else { ("quarantine", json!({"level": level})) };
        order(&mut world, &format!("{id}-before"), name, args);
        order(&mut world, id, "restart_unit", json!({"unit": unit}));
        (world.statuses(id).pop().unwrap(), reason(&world, id))
    };
    let (done, forbidden) =
        (("SUCCEEDED".to_owned(), String::new()), ("REJECTED".to_owned(), "quarantined".to_owned()));
    assert_eq!(restart("r-1", "observe", "app.service"), done);
    assert_eq!(restart("r-2", "restrict", "app.service"), forbidden);
    assert_eq!(restart("r-3", "restrict", "other.service"), done);
    assert_eq!(restart("r-4", "none", "app.service"), done);
}

#[test]
fn rules_that_may_keep_the_broker_out_of_reach_are_widened_and_narrowed_again() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    world.cut();
    world.advance(59 * MINUTE);
    assert!(refreshes(&world).len() >= 50, "the broker's addresses are looked up while it is away");
    assert!(refreshes(&world).iter().all(|act| matches!(act, Act::Refresh { wide: false, .. })));
    world.advance(3 * MINUTE);
    assert_eq!(*refreshes(&world).last().unwrap(), &Act::Refresh { level: QuarantineLevel::Restrict, wide: true });
    world.broker_up = true;
    world.advance(12 * MINUTE);
    assert_eq!(triggers(&world, "quarantine_widened"), ["command:q-1"]);
    assert_eq!(*refreshes(&world).last().unwrap(), &Act::Refresh { level: QuarantineLevel::Restrict, wide: false });
    assert_eq!(triggers(&world, "quarantine_narrowed"), ["command:q-1"]);
}

#[test]
fn rules_that_root_took_away_on_the_console_end_the_quarantine() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    world.retry_in = 5 * MINUTE;
    world.cut();
    world.advance(MINUTE);
    world.acts_succeed = false;
    world.input(Input::LookAtQuarantine);
    world.advance(SECOND);
    let (id, act) = world.acts.last().unwrap().clone();
    assert!(matches!(act, Act::Refresh { .. }));
    world.broker_up = true;
    world.input(Input::ActDone { id, outcome: not_in_force() });
    // The broker, which they kept out of reach, is tried at once.
    world.advance(11 * SECOND);
    assert_eq!((level(&world), audits(&world, "quarantine_left")), (both("none"), 1));
}

#[test]
fn a_snapshot_comes_in_parts_before_its_command_ends_also_through_an_outage() {
    let mut world = online();
    world.acts_succeed = false;
    order(&mut world, "d-1", "collect_diagnostics", json!({}));
    let (id, _) = world.acts[0].clone();
    let snapshot: Vec<u8> = (0..30_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    world.cut();
    let done = ActOutcome { attachment: Some(snapshot.clone().into()), ..outcome(ActStatus::Succeeded) };
    world.input(Input::ActDone { id, outcome: done });
    world.advance(SECOND);
    world.crash();
    world.broker_up = true;
    world.advance(15 * SECOND);
    let results = world.results("d-1");
    let parts: Vec<&&Json> = results.iter().filter(|result| result["parts"].is_u64()).collect();
    let numbers: Vec<u64> = parts.iter().map(|part| part["part"].as_u64().unwrap()).collect();
    assert_eq!((numbers, parts[0]["parts"].as_u64()), (vec![1, 2, 3, 4], Some(4)));
    let text: String = parts.iter().map(|part| part["output"].as_str().unwrap()).collect();
    assert_eq!(base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).unwrap(), snapshot);
    assert_eq!(world.statuses("d-1").last().unwrap(), "SUCCEEDED");
}

#[test]
fn the_snapshot_that_a_quarantine_takes_is_no_later_status_of_the_command_that_entered_it() {
    let (mut world, id) = entering("observe");
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    let (id, act) = world.acts.pop().unwrap();
    assert_eq!(act, Act::CollectDiagnostics);
    let attachment = Some(b"a snapshot".as_slice().into());
    world.input(Input::ActDone { id, outcome: ActOutcome { attachment, ..outcome(ActStatus::Succeeded) } });
    world.advance(SECOND);
    assert_eq!(world.statuses("q-1"), ["IN_PROGRESS", "SUCCEEDED"]);
    let part = world.got.iter().find(|got| got.body["part"] == 1).unwrap();
    assert_eq!((&part.body["command_id"], &part.body["detail"]), (&Json::Null, &"taken because of command:q-1".into()));
}

#[test]
fn snapshots_that_a_ladder_takes_say_whose_they_are_and_are_told_apart() {
    const LOOK: &str = r#"
        [[rules]]
        name = "full"
        metric = "host.mem_used_pct"
        above = 90
        remedy = "look"
        [[ladders]]
        name = "look"
        steps = [
            { do = "collect_diagnostics", settle = "1s" },
            { do = "quarantine", level = "observe", settle = "1s" },
            { do = "collect_diagnostics", settle = "1s" },
        ]
    "#;
    let mut world = World::with(config_with(LOOK));
    world.acts_succeed = false;
    world.set(Metric::HostMemUsed, Some(95.0));
    for _ in 0..6 {
        world.advance(5 * SECOND);
        for (id, act) in std::mem::take(&mut world.acts) {
            let attachment = (act == Act::CollectDiagnostics).then(|| b"a snapshot".as_slice().into());
            world.input(Input::ActDone { id, outcome: ActOutcome { attachment, ..outcome(ActStatus::Succeeded) } });
        }
    }
    let parts = world.got.iter().filter(|got| got.body["part"] == 1);
    let details: Vec<&str> = parts.map(|got| got.body["detail"].as_str().unwrap()).collect();
    let expected = [1, 2, 3].map(|step| format!("taken because of rule:full (full-1, step {step})"));
    assert_eq!(details, expected);
}

#[test]
fn what_disrupts_the_gateway_as_a_whole_is_done_one_at_a_time() {
    let mut world = online();
    world.acts_succeed = false;
    order(&mut world, "l-1", "restart_link", json!({"interface": "eth0"}));
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    order(&mut world, "u-1", "restart_unit", json!({"unit": "app.service"}));
    assert_eq!(world.acts.len(), 2, "{:?}", world.acts);
    assert_eq!(world.statuses("q-1"), ["QUEUED"]);
    let (id, _) = world.acts[0].clone();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    assert_eq!(world.statuses("q-1"), ["QUEUED", "IN_PROGRESS"]);
}

fn stopped_again() -> ActOutcome {
    let detail = Some("started meanwhile and stopped again: app.service".to_owned());
    ActOutcome { stopped_again: true, detail, ..outcome(ActStatus::Succeeded) }
}

#[test]
fn units_that_are_to_stay_stopped_are_looked_at_every_minute_and_told_once_an_hour_with_how_often() {
    let mut world = World::with(config_with("[quarantine]\nstop_units = [\"app.service\"]"));
    world.advance(SECOND);
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    world.acts_succeed = false;
    for _ in 0..70 {
        world.advance(MINUTE);
        let looks = world.acts.iter().filter(|(_, act)| matches!(act, Act::Refresh { .. }));
        let looks: Vec<_> = looks.map(|(id, _)| *id).collect();
        assert_eq!(looks.len(), 1);
        world.acts.clear();
        world.input(Input::ActDone { id: looks[0], outcome: stopped_again() });
    }
    world.advance(11 * SECOND);
    let told = world.got.iter().filter(|got| got.body["name"] == "quarantine_units_stopped");
    let counts: Vec<_> = told.map(|got| got.body["audit"]["count"].as_u64().unwrap()).collect();
    assert_eq!((counts, triggers(&world, "quarantine_units_stopped")), (vec![1, 60], vec!["command:q-1"; 2]));
}

#[test]
fn units_that_are_kept_stopped_are_looked_at_every_minute_though_the_configuration_names_none() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    world.acts_succeed = false;
    // What is known of it is gone with the process.
    world.crash();
    world.advance(11 * SECOND);
    for keeps_stopped in [true, true, true, false, false] {
        let [id] = refreshes_under_way(&world)[..] else { panic!("none within a minute: {:?}", world.acts) };
        world.acts.clear();
        let quarantine = Some(QuarantineLevel::Restrict);
        let ended = ActOutcome { quarantine, keeps_stopped, ..outcome(ActStatus::Succeeded) };
        world.input(Input::ActDone { id, outcome: ended });
        world.advance(MINUTE);
    }
    assert_eq!(refreshes_under_way(&world), [], "none is kept any more");
}

#[test]
fn after_a_restart_what_is_in_force_in_part_is_told_though_units_are_stopped_again() {
    let mut world = World::with(config_with("[quarantine]\nstop_units = [\"app.service\"]"));
    world.advance(SECOND);
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    world.acts_succeed = false;
    world.crash();
    world.advance(SECOND);
    for wait in [5, 10] {
        let [id] = refreshes_under_way(&world)[..] else { panic!("none before {wait} s: {:?}", world.acts) };
        world.acts.clear();
        let outcome = ActOutcome { reason: Some("degraded".into()), ..stopped_again() };
        world.input(Input::ActDone { id, outcome });
        world.advance(Duration::from_secs(wait));
    }
    assert!(is_degraded(&world));
    let [id] = refreshes_under_way(&world)[..] else { panic!("none: {:?}", world.acts) };
    world.input(Input::ActDone { id, outcome: stopped_again() });
    world.advance(11 * SECOND);
    assert!(!is_degraded(&world), "as long as units are stopped again, too");
    assert_eq!(audits(&world, "quarantine_units_stopped"), 1, "and that is told");
}

#[test]
fn rules_that_could_not_be_put_in_force_again_are_tried_within_a_minute() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    world.acts_succeed = false;
    world.input(Input::LookAtQuarantine);
    world.advance(SECOND);
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
    world.advance(61 * SECOND);
    assert!(matches!(world.acts.pop(), Some((_, Act::Refresh { .. }))));
}

#[test]
fn rules_are_not_put_in_force_again_behind_the_back_of_a_release_that_is_on_its_way() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    world.acted.clear();
    world.stall_store_at(|op| puts(op, "cmd/r-1"));
    world.command("r-1", "release", json!({}), 1);
    world.settle();
    world.input(Input::LookAtQuarantine);
    world.advance(MINUTE);
    world.store_answers();
    world.advance(11 * SECOND);
    assert_eq!(world.acted, [Act::Quarantine { level: None }]);
    assert_eq!((level(&world), audits(&world, "quarantine_left")), (both("none"), 1));
}

#[test]
fn that_a_gateway_was_let_out_is_told_once_the_journal_says_it() {
    for (recovers, status, found) in [(true, "SUCCEEDED", "none"), (false, "INTERRUPTED", "restrict")] {
        let mut world = online();
        order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
        world.refuse(|op| puts(op, QUARANTINE_KEY), StoreFault::NoSpace { what: "put".into() });
        order(&mut world, "r-1", "release", json!({}));
        assert_eq!(world.statuses("r-1").last().unwrap(), "IN_PROGRESS");
        if recovers {
            world.refuse_nothing();
            world.advance(MINUTE);
        }
        world.crash();
        world.refuse_nothing();
        world.advance(11 * SECOND);
        assert_eq!((world.statuses("r-1").last().unwrap().as_str(), level(&world)), (status, both(found)));
    }
}

#[test]
fn that_root_has_let_a_gateway_out_is_noted_again_where_the_store_refused_it() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    world.acts_succeed = false;
    world.refuse(|op| puts(op, QUARANTINE_KEY), StoreFault::NoSpace { what: "put".into() });
    world.input(Input::LookAtQuarantine);
    world.advance(SECOND);
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: not_in_force() });
    world.refuse_nothing();
    world.advance(11 * SECOND);
    world.crash();
    world.advance(11 * SECOND);
    assert_eq!((level(&world), world.acts.len()), (both("none"), 0));
}
