//! Ladders through the whole engine: what is tried, in which order, how often, and what a crash makes of it.

use std::time::Duration;

use serde_json::json;

use super::world::{World, config_with, outcome, restart};
use crate::config::{Action, CheckedConfig};
use crate::engine::io::{Act, ActOutcome, ActStatus, Input, StoreFault, StoreOp};
use crate::engine::metric::Metric;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Memory is full: restart the app, then reboot.
const LADDER: &str = r#"
    [[rules]]
    name = "full"
    metric = "host.mem_used_pct"
    above = 90
    clear_below = 80
    remedy = "free"
    [[ladders]]
    name = "free"
    steps = [ { do = "restart_unit", unit = "app.service", settle = "30s" }, { do = "reboot", settle = "60s" } ]
"#;

/// With a ladder for full memory, and up for long enough.
pub(super) fn world() -> World {
    up_for_long(config_with(LADDER))
}

/// A gateway that has been up for long enough.
pub(super) fn up_for_long(config: CheckedConfig) -> World {
    let mut world = World::with(config);
    world.set(Metric::BatteryExternalPower, Some(true));
    world.advance(11 * MINUTE);
    world
}

pub(super) fn memory(world: &mut World, pct: f64) {
    world.set(Metric::HostMemUsed, Some(pct));
    world.advance(3 * SECOND);
}

/// Action (or name) and status of each remediation event that the fleet got, each once.
pub(super) fn told(world: &World) -> Vec<(String, String)> {
    let mut told: Vec<(u64, String, String)> = world
        .got
        .iter()
        .filter(|got| got.body["type"] == "remediation")
        .map(|got| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            (got.body["seq"].as_u64().unwrap(), text(&got.body["name"]), text(&got.body["remediation"]["status"]))
        })
        .collect();
    told.sort();
    told.dedup();
    told.into_iter().map(|(_, name, status)| (name, status)).collect()
}

pub(super) fn is(told: &[(String, String)], expected: &[(&str, &str)]) -> bool {
    told.iter().map(|(name, status)| (name.as_str(), status.as_str())).eq(expected.iter().copied())
}

#[test]
fn a_step_that_helps_ends_the_ladder() {
    let mut world = world();
    memory(&mut world, 95.0);
    assert_eq!(world.acted, [restart("app.service")]);
    memory(&mut world, 50.0);
    world.advance(HOUR);
    assert_eq!(world.acted.len(), 1);
    let steps = [("restart_unit", "IN_PROGRESS"), ("restart_unit", "SUCCEEDED"), ("healed", "HEALED")];
    assert!(is(&told(&world), &steps), "{:?}", told(&world));
}

#[test]
fn what_does_not_help_is_followed_by_the_next_step_and_the_last_by_the_end() {
    let mut world = world();
    memory(&mut world, 95.0);
    world.advance(MINUTE);
    assert_eq!(world.acted, [restart("app.service"), Act::Reboot]);
    world.reboot();
    world.advance(12 * HOUR);
    assert_eq!(world.acted.len(), 2, "a ladder that ran out is not climbed again");
    let told = told(&world);
    let tail = [("reboot", "IN_PROGRESS"), ("reboot", "SUCCEEDED"), ("ladder_exhausted", "EXHAUSTED")];
    assert!(is(&told[2..], &tail), "{told:?}");
}

#[test]
fn an_alarm_that_comes_back_soon_goes_on_above_the_step_that_seemed_to_help() {
    let mut world = world();
    for pct in [95.0, 50.0, 95.0] {
        memory(&mut world, pct);
        world.advance(MINUTE / 2);
    }
    assert_eq!(world.acted, [restart("app.service"), Act::Reboot]);
}

#[test]
fn after_an_hour_of_health_a_ladder_begins_at_its_first_step() {
    let mut world = world();
    memory(&mut world, 95.0);
    memory(&mut world, 50.0);
    world.advance(2 * HOUR);
    memory(&mut world, 95.0);
    assert_eq!(world.acted, [restart("app.service"), restart("app.service")]);
}

/// Raises the alarm and clears it so many times, within six seconds each.
fn flap(world: &mut World, times: u32) {
    for _ in 0..times {
        memory(world, 95.0);
        memory(world, 50.0);
    }
}

fn notes(world: &World) -> u64 {
    world.store.written.get("remedy/full").copied().unwrap_or_default()
}

/// A rule for full memory, and the ladder that it climbs.
pub(super) fn ladder(clears: &str, steps: &str) -> String {
    format!(
        "[[rules]]\nname = \"full\"\nmetric = \"host.mem_used_pct\"\nabove = 90\n{clears}\nremedy = \"heal\"\n\
         [[ladders]]\nname = \"heal\"\nsteps = [ {steps} ]\n"
    )
}

fn one_step() -> String {
    ladder("clear_below = 80", "{ do = \"restart_unit\", unit = \"app.service\", settle = \"30s\" }")
}

#[test]
fn an_alarm_that_flaps_has_its_ladder_climbed_and_told_once() {
    let mut world = up_for_long(config_with(&one_step()));
    let once = [
        ("restart_unit", "IN_PROGRESS"),
        ("restart_unit", "SUCCEEDED"),
        ("healed", "HEALED"),
        ("ladder_exhausted", "EXHAUSTED"),
    ];
    flap(&mut world, 200);
    assert!(is(&told(&world), &once), "{:?}", told(&world));
    assert!(notes(&world) < 12, "{} notes of one climb within 20 minutes", notes(&world));
    // Raised and cleared, before a crash and after it.
    for (pct, holds) in [(95.0, 2 * HOUR), (50.0, HOUR / 2)] {
        memory(&mut world, pct);
        world.advance(holds);
        world.crash();
        world.advance(MINUTE);
        flap(&mut world, 10);
        assert!(is(&told(&world), &once), "{pct} %: {:?}", told(&world));
        memory(&mut world, pct);
    }
    world.advance(2 * HOUR);
    memory(&mut world, 95.0);
    assert_eq!(world.acted.len(), 2, "after an hour of health it is climbed again");
    let last = world.got.iter().rfind(|got| got.body["type"] == "remediation").unwrap();
    assert_eq!(last.body["remediation"]["id"], "full-2");
}

#[test]
fn a_rehearsal_is_told_once_however_often_the_alarm_flaps() {
    let mut config = config_with(LADDER);
    config.remediation.dry_run = true;
    let mut world = up_for_long(config);
    flap(&mut world, 100);
    let rehearsed = [("restart_unit", "REJECTED"), ("reboot", "REJECTED"), ("ladder_exhausted", "EXHAUSTED")];
    assert!(is(&told(&world), &rehearsed), "{:?}", told(&world));
    assert!(notes(&world) < 12, "{} notes within 10 minutes", notes(&world));
    // And it counts as nothing once it is meant.
    world.input(Input::Reconfigure(Box::new(config_with(LADDER))));
    memory(&mut world, 95.0);
    assert_eq!(world.acted, [restart("app.service")]);
}

#[test]
fn what_time_can_mend_is_told_once_and_not_tried_more_often_where_the_alarm_flaps() {
    let steps = "{ do = \"collect_diagnostics\", settle = \"1s\" }, { do = \"reboot\", settle = \"60s\" }";
    let mut config = config_with(&ladder("", steps));
    config.remediation.min_uptime = 2 * HOUR;
    let mut world = up_for_long(config);
    flap(&mut world, 400);
    let once = [
        ("collect_diagnostics", "IN_PROGRESS"),
        ("collect_diagnostics", "SUCCEEDED"),
        ("reboot", "REJECTED"),
        ("healed", "HEALED"),
    ];
    assert!(is(&told(&world), &once), "{:?}", told(&world));
    assert!(notes(&world) < 30, "{} notes within 40 minutes", notes(&world));
    memory(&mut world, 95.0);
    world.advance(2 * HOUR);
    assert_eq!(world.acted.last(), Some(&Act::Reboot));
}

#[test]
fn while_somebody_inhibits_it_nothing_is_done_by_itself_and_then_it_is() {
    let mut world = world();
    world.inhibited = Some("the fitter is at the pump".into());
    memory(&mut world, 95.0);
    world.advance(HOUR);
    assert_eq!(world.acted, []);
    let refusal = world.got.iter().find(|got| got.body["remediation"]["reason"] == "inhibited").unwrap();
    assert!(refusal.body.to_string().contains("the fitter is at the pump"), "{refusal:?}");
    world.inhibited = None;
    world.advance(2 * SECOND);
    assert_eq!(world.acted.first(), Some(&restart("app.service")), "once the fitter is gone nothing is waited for");
}

#[test]
fn an_agent_that_starts_looks_before_it_goes_on_with_a_ladder() {
    let mut world = world();
    world.inhibited = Some("the fitter is at the pump".into());
    memory(&mut world, 95.0);
    world.advance(HOUR);
    world.got.clear();
    for _ in 0..3 {
        world.crash();
        world.advance(10 * MINUTE);
    }
    assert_eq!(world.acted, []);
    let refusals: Vec<_> = world.got.iter().map(|got| &got.body["remediation"]["reason"]).collect();
    assert!(refusals.iter().all(|reason| reason.is_null() || *reason == "inhibited"), "{refusals:?}");
}

#[test]
fn a_command_is_done_whatever_inhibits_the_agents_own_remedies() {
    let mut world = world();
    world.inhibited = Some("the fitter is at the pump".into());
    world.advance(MINUTE);
    world.command("r", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    assert_eq!(world.acted, [restart("app.service")]);
}

#[test]
fn while_somebody_keeps_the_machine_up_no_ladder_reboots_it_nor_goes_past_that_and_a_command_is_refused() {
    let steps = "{ do = \"reboot\", settle = \"60s\" }, { do = \"quarantine\", level = \"restrict\" }";
    let mut world = World::with(config_with(&ladder("", steps)));
    world.set(Metric::BatteryExternalPower, Some(true));
    world.blocked = Some("updater inhibits it: writing the other slot".into());
    world.advance(11 * MINUTE);
    memory(&mut world, 95.0);
    world.advance(2 * HOUR);
    world.command("b-1", "reboot", json!({}), 1);
    world.settle();
    assert_eq!(world.acted, []);
    assert!(is(&told(&world), &[("reboot", "REJECTED")]), "{:?}", told(&world));
    let refused = world.results("b-1").pop().unwrap();
    assert_eq!((&refused["status"], &refused["reason"]), (&json!("REJECTED"), &json!("inhibited")));
    assert!(refused["detail"].as_str().unwrap().contains("writing the other slot"), "{refused}");
    world.blocked = None;
    world.advance(10 * SECOND);
    assert_eq!(world.acted.first(), Some(&Act::Reboot));
}

#[test]
fn a_reboot_that_somebody_blocked_at_the_last_moment_is_waited_for_and_not_gone_past() {
    let mut world = world();
    world.acts_succeed = false;
    memory(&mut world, 95.0);
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    world.advance(MINUTE);
    let (id, act) = world.acts.pop().unwrap();
    assert_eq!(act, Act::Reboot);
    world.blocked = Some("updater inhibits it".into());
    let blocked = ActOutcome { reason: Some("inhibited".into()), ..outcome(ActStatus::Failed) };
    world.input(Input::ActDone { id, outcome: blocked });
    world.advance(HOUR);
    assert!(world.acts.is_empty(), "{:?}", world.acts);
    let told = told(&world);
    assert_eq!(told.last(), Some(&("reboot".into(), "REJECTED".into())), "{told:?}");
    world.blocked = None;
    world.advance(HOUR);
    assert_eq!(world.acts.last().map(|(_, act)| act), Some(&Act::Reboot), "{told:?}");
}

#[test]
fn what_roots_helper_refuses_is_no_step_that_did_not_help() {
    let mut world = world();
    world.acts_succeed = false;
    memory(&mut world, 95.0);
    for times in 1..=3_usize {
        assert_eq!(world.acted, vec![restart("app.service"); times]);
        let (id, _) = world.acts.pop().unwrap();
        let refused = ActOutcome { reason: Some("budget_spent".into()), ..outcome(ActStatus::Failed) };
        world.input(Input::ActDone { id, outcome: refused });
        // Asked again after one minute, after two, and so on.
        world.advance(MINUTE * (1 << (times - 1)));
        world.advance(10 * SECOND);
    }
    assert_eq!(world.acted, vec![restart("app.service"); 4]);
    assert_eq!(told(&world)[1], ("restart_unit".into(), "REJECTED".into()));
}

/// Crashes after each effect of a ladder's first step.
#[test]
fn a_step_is_not_run_twice_wherever_the_agent_dies() {
    for effects in 0..60 {
        let mut world = world();
        world.set(Metric::HostMemUsed, Some(95.0));
        let wake = world.now.mono.after(SECOND);
        world.now.mono = wake;
        world.enqueue(Input::Wake);
        for _ in 0..effects {
            if !world.step_effect() && !world.step() {
                break;
            }
        }
        world.crash();
        world.advance(20 * SECOND);
        let restarts = world.acted.iter().filter(|act| **act == restart("app.service")).count();
        assert!(restarts <= 1, "crash after {effects}: {restarts} restarts");
        world.advance(10 * MINUTE);
        let told = told(&world);
        assert!(restarts == 1 || told.iter().any(|(_, status)| status == "INTERRUPTED"), "{effects}: {told:?}");
    }
}

#[test]
fn no_reboot_before_min_uptime_nor_on_an_empty_battery() {
    let mut world = World::with(config_with(LADDER));
    world.set(Metric::BatteryChargePct, Some(12.0));
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(9 * MINUTE);
    assert_eq!(world.acted, [restart("app.service")], "up for less than ten minutes");
    world.advance(2 * HOUR);
    assert_eq!(world.acted.len(), 1, "12 % without external power");
    world.set(Metric::BatteryChargePct, Some(60.0));
    world.advance(HOUR);
    assert_eq!(world.acted.last(), Some(&Act::Reboot));
    let rejected = told(&world).into_iter().filter(|(_, status)| status == "REJECTED").count();
    assert_eq!(rejected, 2, "each reason is told once");
}

#[test]
fn four_boots_within_half_an_hour_and_nothing_is_done() {
    let mut world = world();
    for _ in 0..3 {
        world.reboot();
        world.advance(MINUTE);
    }
    memory(&mut world, 95.0);
    world.advance(10 * MINUTE);
    assert!(world.acted.is_empty(), "{:?}", world.acted);
    world.advance(HOUR);
    assert_eq!(world.acted.first(), Some(&restart("app.service")));
}

#[test]
fn a_ladder_and_a_command_share_the_budget() {
    let mut world = world();
    for n in 0..5_u16 {
        world.command(&format!("r-{n}"), "restart_unit", json!({"unit": "app.service"}), n + 1);
        world.settle();
    }
    memory(&mut world, 95.0);
    assert_eq!(world.acted.len(), 5);
    let audits = world.got.iter().filter(|got| got.body["name"] == "budget_spent").count();
    assert_eq!(audits, 1);
}

#[test]
fn a_budget_that_has_room_again_is_not_left_waiting() {
    let mut world = world();
    for n in 0..5_u16 {
        world.command(&format!("r-{n}"), "restart_unit", json!({"unit": "app.service"}), n + 1);
        world.settle();
    }
    memory(&mut world, 95.0);
    world.advance(HOUR - 10 * SECOND);
    assert_eq!(world.acted.len(), 5);
    world.advance(10 * SECOND);
    assert_eq!(world.acted.len(), 6);
}

#[test]
fn a_dry_run_tells_what_it_would_have_done_and_does_nothing() {
    let mut config = config_with(LADDER);
    config.remediation.dry_run = true;
    let mut world = World::with(config);
    world.advance(11 * MINUTE);
    memory(&mut world, 95.0);
    world.advance(HOUR);
    assert!(world.acted.is_empty());
    // Each step in its turn, and that nothing comes after them: the rehearsal of a whole ladder, which wakes nobody.
    let rehearsed = [("restart_unit", "REJECTED"), ("reboot", "REJECTED"), ("ladder_exhausted", "EXHAUSTED")];
    assert!(is(&told(&world), &rehearsed), "{:?}", told(&world));
    let events: Vec<_> = world.got.iter().filter(|got| got.body["type"] == "remediation").collect();
    assert!(events.iter().all(|got| got.body["remediation"]["reason"] == "dry_run"));
    assert_eq!(events.last().unwrap().body["severity"], "notice");
    // Nothing of that has helped.
    memory(&mut world, 50.0);
    world.advance(MINUTE);
    assert_eq!(told(&world).len(), 3, "{:?}", told(&world));
}

#[test]
fn what_a_command_does_is_told_as_a_remedy_of_its_own_and_a_dry_run_in_the_same_words() {
    let mut world = world();
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
    world.command("p-1", "ping", json!({}), 2);
    world.settle();
    assert!(is(&told(&world), &[("restart_unit", "IN_PROGRESS"), ("restart_unit", "SUCCEEDED")]), "{:?}", told(&world));
    let event = world.got.iter().rfind(|got| got.body["type"] == "remediation").unwrap();
    let expected = json!({"id": "r-1", "trigger": "command:r-1", "action": "restart_unit",
        "target": "unit:app.service", "status": "SUCCEEDED"});
    assert_eq!(event.body["remediation"], expected);

    let mut config = config_with(LADDER);
    config.remediation.dry_run = true;
    let mut world = World::with(config);
    world.advance(SECOND);
    world.command("r-2", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    let event = world.got.iter().find(|got| got.body["type"] == "remediation").unwrap();
    let expected = json!({"id": "r-2", "trigger": "command:r-2", "action": "restart_unit", "status": "REJECTED",
        "reason": "dry_run", "detail": "would have done: unit:app.service"});
    assert_eq!((world.acted.len(), &event.body["remediation"]), (0, &expected));
}

#[test]
fn what_a_crash_interrupted_is_told_as_a_remedy_too() {
    let mut world = world();
    world.acts_succeed = false;
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    world.crash();
    world.advance(5 * SECOND);
    assert!(
        is(&told(&world), &[("restart_unit", "IN_PROGRESS"), ("restart_unit", "INTERRUPTED")]),
        "{:?}",
        told(&world)
    );
}

#[test]
fn the_red_button_stops_what_a_ladder_does_and_its_next_steps_until_the_alarm_has_been_cleared() {
    // While its step runs, while that settles, and while it waits for the end of an inhibition.
    for case in ["acting", "settling", "waiting"] {
        let mut world = world();
        world.acts_succeed = case == "settling";
        if case == "waiting" {
            world.inhibited = Some("somebody works here".into());
        }
        memory(&mut world, 95.0);
        let begun = world.acted.len();
        assert_eq!(begun, usize::from(case != "waiting"), "{case}");
        world.inhibited = None;
        world.command("stop", "cancel_all", json!({}), 1);
        world.settle();
        world.acts_succeed = true;
        world.advance(2 * HOUR);
        assert_eq!((world.acted.len(), world.acts.len()), (begun, 0), "{case}: {:?}", world.acted);
        let told_so = told(&world);
        assert!(told_so.contains(&("ladder_canceled".into(), "CANCELED".into())), "{case}: {told_so:?}");
        if case == "acting" {
            assert!(told_so.contains(&("restart_unit".into(), "CANCELED".into())), "{told_so:?}");
        }
        memory(&mut world, 50.0);
        world.advance(2 * HOUR);
        memory(&mut world, 95.0);
        assert_eq!(world.acted.len(), begun + 1, "{case}: a new alarm is a new ladder");
    }
}

#[test]
fn the_red_button_reaches_a_step_that_is_on_its_way_into_the_journal() {
    let mut world = world();
    // The store works in order: the button is on the disk before the step is.
    world.stall_store_at(
        |op| matches!(op, StoreOp::Put { entries } if entries.iter().any(|(key, _)| key == "cmd/stop")),
    );
    world.command("stop", "cancel_all", json!({}), 1);
    world.settle();
    memory(&mut world, 95.0);
    assert!(world.store_is_late() && world.acted.is_empty());
    world.store_answers();
    world.advance(HOUR);
    assert_eq!(world.acted, []);
}

#[test]
fn the_red_button_holds_over_a_crash_of_what_it_stopped() {
    let mut world = world();
    world.acts_succeed = false;
    memory(&mut world, 95.0);
    world.be_deaf_to_cancels();
    world.command("stop", "cancel_all", json!({}), 1);
    world.settle();
    world.crash();
    world.acts_succeed = true;
    world.advance(2 * HOUR);
    assert_eq!(world.acted, [restart("app.service")], "no step further");
}

#[test]
fn a_step_that_a_new_configuration_has_changed_is_admitted_anew() {
    // The ladder is one step shorter, or does something else, when the journal has its answer.
    for steps in ["{ do = \"restart_unit\", unit = \"other.service\" }", "{ do = \"reboot\" }"] {
        let mut world = world();
        world.stall_store_at(
            |op| matches!(op, StoreOp::Put { entries } if entries.iter().any(|(key, _)| key == "remedy/full")),
        );
        memory(&mut world, 95.0);
        assert!(world.store_is_late() && world.acted.is_empty());
        let changed = format!("{}steps = [ {steps} ]", LADDER.split_once("steps").unwrap().0);
        let mut config = config_with(&changed);
        config.remediation.dry_run = true;
        world.input(Input::Reconfigure(Box::new(config)));
        world.store_answers();
        world.advance(HOUR);
        assert_eq!(world.acted, [], "{steps}: a dry run does nothing");
        assert!(told(&world).contains(&("ladder_exhausted".into(), "EXHAUSTED".into())), "{:?}", told(&world));
    }
}

/// Rounds of collection and telemetry messages of the next ten minutes.
fn pace(world: &mut World) -> (usize, usize) {
    let count = |world: &World| {
        let messages: Vec<_> = world.got.iter().filter(|got| got.topic.ends_with("telemetry")).collect();
        (world.rounds, messages.len())
    };
    let before = count(world);
    world.advance(10 * MINUTE);
    let after = count(world);
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn where_power_is_short_the_agent_does_less_by_levels_and_comes_back() {
    const LEVELS: &str = r#"
        [[rules]]
        name = "low"
        metric = "battery.charge_pct"
        below = 20
        clear_above = 30
        remedy = "save"
        [[ladders]]
        name = "save"
        steps = [
          { do = "save_power", sample = "10s", report = "60s", publish = "2m", settle = "20m" },
          { do = "save_power", sample = "60s", report = "5m", publish = "10m", settle = "20m" },
        ]
    "#;
    let mut world = World::with(config_with(LEVELS));
    world.advance(MINUTE);
    let usual = pace(&mut world);
    assert!(usual.0 >= 599 && usual.1 >= 299, "{usual:?}");
    world.set(Metric::BatteryChargePct, Some(15.0));
    world.advance(5 * MINUTE);
    let first = pace(&mut world);
    assert!((59..=61).contains(&first.0) && (4..=6).contains(&first.1), "{first:?}");
    world.advance(10 * MINUTE);
    let second = pace(&mut world);
    assert!((9..=11).contains(&second.0) && second.1 <= 2, "{second:?}");
    // It holds over a crash, and when the ladder has run out.
    world.crash();
    world.advance(30 * MINUTE);
    assert_eq!(pace(&mut world).0, second.0);
    world.set(Metric::BatteryChargePct, Some(80.0));
    world.advance(3 * MINUTE);
    let back = pace(&mut world);
    assert!(back.0 >= 599 && back.1 >= 299, "{back:?}");
    assert_eq!(world.acted, [], "nothing was done to the gateway");
}

#[test]
fn a_rehearsal_says_that_power_would_be_saved_and_saves_none() {
    const LOOKS: &str = r#"
        [[rules]]
        name = "low"
        metric = "battery.charge_pct"
        below = 20
        remedy = "save"
        [[ladders]]
        name = "save"
        steps = [ { do = "save_power", sample = "60s", settle = "10s" }, { do = "collect_diagnostics", settle = "10m" } ]
    "#;
    let mut config = config_with(LOOKS);
    config.remediation.dry_run = true;
    let mut world = World::with(config);
    world.set(Metric::BatteryChargePct, Some(15.0));
    world.advance(2 * MINUTE);
    let usual = pace(&mut world);
    assert!(usual.0 >= 599 && usual.1 >= 299, "{usual:?}");
    let first = world.got.iter().find(|got| got.body["type"] == "remediation").unwrap();
    let said = &first.body["remediation"];
    assert_eq!(
        (&said["action"], &said["status"], &said["reason"]),
        (&json!("save_power"), &json!("REJECTED"), &json!("dry_run"))
    );
}

#[test]
fn the_ladder_that_saves_power_need_not_be_written_down() {
    const RULE: &str =
        "[[rules]]\nname = \"low\"\nmetric = \"battery.charge_pct\"\nbelow = 20\nremedy = \"save-power\"";
    let mut world = World::with(config_with(RULE));
    world.set(Metric::BatteryChargePct, Some(15.0));
    world.advance(2 * MINUTE);
    assert!(pace(&mut world).0 <= 11);
    assert!(is(&told(&world), &[("save_power", "IN_PROGRESS"), ("save_power", "SUCCEEDED")]), "{:?}", told(&world));
}

/// Each action once.
const ONCE: &str = r#"
    [remediation.budget]
    restart_unit = "1/1h"
    reboot = "1/24h"
"#;

fn refused(reason: &str) -> ActOutcome {
    ActOutcome { reason: Some(reason.into()), ..outcome(ActStatus::Rejected) }
}

#[test]
fn a_step_that_was_inhibited_as_it_began_spends_nothing() {
    let mut world = up_for_long(config_with(&format!("{LADDER}{ONCE}")));
    world.acts_succeed = false;
    memory(&mut world, 95.0);
    for tries in 1..=3 {
        let (id, act) = world.acts.pop().expect("it is tried again within the hour");
        assert_eq!((act, world.acted.len()), (restart("app.service"), tries));
        world.input(Input::ActDone { id, outcome: refused("inhibited") });
        world.advance(5 * MINUTE);
    }
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    memory(&mut world, 50.0);
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    assert_eq!(world.results("r-1").last().unwrap()["reason"], "budget_spent", "it was done then");
}

#[test]
fn a_command_that_was_refused_as_it_began_or_taken_back_before_spends_nothing() {
    let mut world = up_for_long(config_with(ONCE));
    world.acts_succeed = false;
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: refused("not_allowed") });
    world.command("b-1", "reboot", json!({"delay_s": 60}), 2);
    world.settle();
    world.command("c-1", "cancel", json!({"command_id": "b-1"}), 3);
    world.settle();
    world.refuse(
        |op| matches!(op, StoreOp::Put { entries } if entries.iter().any(|(key, _)| key == "cmd/r-2")),
        StoreFault::Busy,
    );
    world.command("r-2", "restart_unit", json!({"unit": "app.service"}), 4);
    world.settle();
    world.refuse_nothing();
    world.acts_succeed = true;
    world.crash();
    world.advance(2 * SECOND);
    world.command("r-3", "restart_unit", json!({"unit": "app.service"}), 5);
    world.settle();
    world.command("b-3", "reboot", json!({}), 6);
    world.settle();
    world.advance(10 * SECOND);
    assert_eq!(world.acted, [restart("app.service"), restart("app.service"), Act::Reboot]);
    world.reboot();
    world.advance(11 * MINUTE);
    for (id, name, args) in [("r-4", "restart_unit", json!({"unit": "app.service"})), ("b-4", "reboot", json!({}))] {
        world.command(id, name, args, 7);
        world.settle();
        assert_eq!(world.results(id).last().unwrap()["reason"], "budget_spent", "{id}");
    }
}

#[test]
fn what_is_canceled_while_it_runs_has_spent() {
    let mut world = up_for_long(config_with(ONCE));
    world.acts_succeed = false;
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Canceled) });
    world.command("r-2", "restart_unit", json!({"unit": "app.service"}), 2);
    world.settle();
    assert_eq!(world.results("r-2").last().unwrap()["reason"], "budget_spent");
}

/// Crashes between each pair of steps of an act that is refused as it begins, and what is given back of it.
#[test]
fn no_crash_makes_more_of_a_budget_than_it_has() {
    for crash_after in 0..24 {
        let mut world = World::with(config_with(ONCE));
        world.advance(SECOND);
        world.acts_succeed = false;
        world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
        let mut refusals = 1;
        for _ in 0..crash_after {
            if !world.step_effect() && !world.step() {
                if let Some((id, _)) = world.acts.pop() {
                    world.enqueue(Input::ActDone { id, outcome: refused("inhibited") });
                    refusals = 0;
                }
            }
        }
        let begun = world.acted.len();
        world.crash();
        world.acts_succeed = true;
        world.advance(2 * SECOND);
        for id in ["r-2", "r-3"] {
            world.command(id, "restart_unit", json!({"unit": "app.service"}), 2);
            world.settle();
            world.advance(2 * SECOND);
        }
        let done = world.acted.len() - begun + begun * refusals;
        assert!(done <= 1, "{done} times, crash after {crash_after}: {:?}", world.acted);
    }
}

#[test]
fn a_stop_that_is_taken_back_where_the_store_refused_twice_leaves_the_agent_careful() {
    let mut config = config_with("");
    config.remediation.budget.remove(&Action::Reboot);
    let mut world = up_for_long(config);
    let issued = world.now.wall.unix.0 / 1_000;
    // The journal is lost without a word of it: the records say so.
    world.store.state.clear();
    let is_mark = |op: &StoreOp| matches!(op, StoreOp::Put { entries } if entries.iter().any(|(key, _)| key == "run"));
    world.refuse(is_mark, StoreFault::NoSpace { what: "put".into() });
    world.advance(MINUTE);
    world.crash();
    world.advance(10 * SECOND);
    world.command("b-1", "reboot", json!({}), 1);
    world.settle();
    world.advance(10 * SECOND);
    assert_eq!(world.acted, [Act::Reboot]);
    world.refuse_nothing();
    world.advance(3 * MINUTE);
    assert_eq!(world.results("b-1").last().unwrap()["reason"], "same_boot", "the machine stayed up");
    world.crash();
    world.advance(10 * SECOND);
    let args = json!({"unit": "app.service"});
    let claims =
        json!({"jti": "old", "iat": issued, "exp": issued + 6_000, "cmd": {"name": "restart_unit", "args": args}});
    world.claims(claims, 2);
    world.settle();
    assert_eq!(world.results("old").last().unwrap()["reason"], "replayed");
}

#[test]
fn a_step_that_another_act_is_in_the_way_of_names_that_and_begins_when_it_has_ended() {
    let ladder = ladder("", "{ do = \"rollback\", target = \"firmware\", settle = \"30s\" }");
    let targets =
        "[rollback.firmware]\nkind = \"rauc\"\n[rollback.modem]\nkind = \"command\"\nargv = [\"/usr/bin/back\"]\n";
    let mut world = World::with(config_with(&format!("{targets}{ladder}")));
    world.set(Metric::BatteryExternalPower, Some(true));
    world.advance(11 * MINUTE);
    world.acts_succeed = false;
    world.command("m", "mark_good", json!({"target": "modem"}), 1);
    world.settle();
    memory(&mut world, 95.0);
    let mark = Act::MarkGood { target: "modem".into() };
    assert_eq!(world.acted, std::slice::from_ref(&mark));
    let refused = world.got.iter().find(|got| got.body["remediation"]["reason"] == "busy").unwrap();
    let detail = refused.body["remediation"]["detail"].as_str().unwrap();
    assert!(detail.contains("mark_good of release:modem"), "{detail}");
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    world.advance(2 * SECOND);
    assert_eq!(world.acted, [mark, Act::Rollback { target: "firmware".into(), to: None }]);
}

#[test]
fn two_ladders_that_are_due_at_once_do_not_share_the_last_try() {
    let rule = |name: &str| {
        format!("[[rules]]\nname = \"{name}\"\nmetric = \"host.mem_used_pct\"\nabove = 90\nremedy = \"{name}\"\n")
    };
    let ladder = |name: &str| {
        format!("[[ladders]]\nname = \"{name}\"\nsteps = [{{ do = \"restart_unit\", unit = \"{name}.service\" }}]\n")
    };
    let budget = "[remediation.budget]\nrestart_unit = \"1/1h\"\n";
    let names = ["app", "other"];
    let config = names.iter().map(|name| rule(name) + &ladder(name)).collect::<String>() + budget;
    let mut world = World::with(config_with(&config));
    world.advance(MINUTE);
    memory(&mut world, 95.0);
    world.advance(10 * MINUTE);
    assert_eq!(world.acted.len(), 1, "{:?}", world.acted);
}
