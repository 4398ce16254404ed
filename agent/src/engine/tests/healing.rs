//! Ladders through the whole engine: what is tried, in which order, how often, and what a crash makes of it.

use std::time::Duration;

use serde_json::json;

use super::world::{World, config_with, outcome, puts, restart};
use crate::config::CheckedConfig;
use crate::engine::io::{Act, ActOutcome, ActStatus, Input};
use crate::engine::metric::Metric;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Memory is full: restart the app, then reboot.
pub(super) const LADDER: &str = r#"
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
fn an_alarm_that_clears_where_nothing_could_be_begun_is_not_called_healed() {
    for reason in ["no_such_unit", "unit_failed"] {
        let mut world = world();
        world.acts_succeed = false;
        memory(&mut world, 95.0);
        let (id, _) = world.acts.pop().unwrap();
        let failed = ActOutcome { reason: Some(reason.into()), ..outcome(ActStatus::Failed) };
        world.input(Input::ActDone { id, outcome: failed });
        memory(&mut world, 50.0);
        world.advance(MINUTE);
        let is_healed = told(&world).iter().any(|(name, _)| name == "healed");
        assert_eq!(is_healed, reason == "unit_failed", "{reason}: {:?}", told(&world));
    }
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

#[test]
fn before_the_clock_is_set_a_ladder_begins_at_its_first_step_whenever_it_was_climbed_last() {
    let once = restart("app.service");
    let mut world = world();
    memory(&mut world, 95.0);
    memory(&mut world, 50.0);
    world.advance(2 * HOUR);
    world.now.wall.trusted = false;
    world.reboot();
    memory(&mut world, 95.0);
    assert_eq!(world.acted, [once.clone(), once.clone()]);
    // That it came back within the hour is known of this boot, and where the clock is set.
    for (steps, trusted) in [(1, false), (2, true)] {
        let mut world = self::world();
        memory(&mut world, 95.0);
        memory(&mut world, 50.0);
        world.now.wall.trusted = trusted;
        world.reboot();
        for pct in [95.0, 50.0, 95.0] {
            memory(&mut world, pct);
            world.advance(11 * MINUTE);
        }
        let first = [once.clone(), once.clone(), Act::Reboot];
        assert_eq!(world.acted, first[steps - 1..], "with a clock that is trusted: {trusted}");
    }
}

#[test]
fn before_the_clock_is_set_a_ladder_that_ran_out_is_climbed_and_told_again() {
    let mut world = up_for_long(config_with(&one_step()));
    let exhausted = |world: &World| told(world).iter().filter(|(name, _)| name == "ladder_exhausted").count();
    memory(&mut world, 95.0);
    world.advance(MINUTE);
    memory(&mut world, 50.0);
    assert_eq!((world.acted.len(), exhausted(&world)), (1, 1));
    world.now.wall.trusted = false;
    world.reboot();
    memory(&mut world, 95.0);
    world.advance(MINUTE);
    assert_eq!((world.acted.len(), exhausted(&world)), (2, 2));
}

#[test]
fn without_a_clock_boots_that_lasted_are_no_loop_and_short_ones_are() {
    for (lasts, refused) in [(HOUR, false), (MINUTE, true)] {
        let mut world = World::with(config_with(LADDER));
        world.now.wall.trusted = false;
        for _ in 0..4 {
            world.advance(lasts);
            world.reboot();
        }
        memory(&mut world, 95.0);
        let told = told(&world);
        assert_eq!(told.contains(&("restart_unit".into(), "REJECTED".into())), refused, "{lasts:?}: {told:?}");
        assert_eq!(world.acted.is_empty(), refused, "{lasts:?}");
        let audit =
            world.got.iter().find(|got| got.body["name"] == "boot_loop").map(|got| &got.body["audit"]["detail"]);
        assert_eq!(audit, refused.then(|| json!("4 boots, none of them up for 30 min")).as_ref());
    }
}

#[test]
fn without_a_clock_a_boot_that_lasted_is_none_of_the_four_of_a_loop_that_begins_after_it() {
    for (short, refused) in [(3, false), (4, true)] {
        let mut world = World::with(config_with(LADDER));
        world.now.wall.trusted = false;
        world.advance(HOUR);
        // It is the same boot, and lasts, whoever asks.
        world.crash();
        world.advance(MINUTE);
        for _ in 0..short {
            world.reboot();
            world.advance(MINUTE);
        }
        memory(&mut world, 95.0);
        let told = told(&world);
        assert_eq!(told.contains(&("restart_unit".into(), "REJECTED".into())), refused, "{short} boots: {told:?}");
    }
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
fn a_rehearsal_of_a_ladder_that_ends_with_a_look_stays_one_and_is_climbed_once_it_is_meant() {
    let steps = "{ do = \"restart_unit\", unit = \"app.service\", settle = \"10s\" }, \
                 { do = \"collect_diagnostics\", settle = \"60s\" }";
    let meant = config_with(&ladder("", steps));
    let mut rehearsed = meant.clone();
    rehearsed.remediation.dry_run = true;
    for (clears, starts) in [(false, false), (false, true), (true, false)] {
        let mut world = up_for_long(rehearsed.clone());
        memory(&mut world, 95.0);
        world.advance(MINUTE / 2);
        if clears {
            // While its last step settles; it comes back within the hour.
            memory(&mut world, 50.0);
        }
        world.advance(2 * MINUTE);
        let mut said = vec![("restart_unit", "REJECTED"), ("collect_diagnostics", "REJECTED")];
        said.extend((!clears).then_some(("ladder_exhausted", "EXHAUSTED")));
        assert!(is(&told(&world), &said), "clears: {clears}: {:?}", told(&world));
        assert_eq!(world.acted, []);
        // What the fleet orders needs no leave, and is done.
        world.command("d-1", "collect_diagnostics", json!({}), 1);
        world.settle();
        assert_eq!(world.acted, [Act::CollectDiagnostics]);

        world.config = meant.clone();
        if starts {
            world.crash();
        } else {
            world.input(Input::Reconfigure(Box::new(meant.clone())));
        }
        memory(&mut world, 95.0);
        world.advance(10 * SECOND);
        assert_eq!(world.acted.get(1), Some(&restart("app.service")), "clears: {clears}, starts: {starts}");
    }
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
    world.cancel_all_late();
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
        world.stall_store_at(|op| puts(op, "remedy/full"));
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
