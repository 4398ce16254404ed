//! What a ladder goes by: what was read since its last step, and what the configuration wants now.

use std::time::Duration;

use serde_json::json;

use super::healing::{memory, up_for_long as world};
use super::invariants::error_batch;
use super::world::{World, config_with, outcome, restart};
use crate::config::CheckedConfig;
use crate::engine::io::{Act, ActOutcome, ActStatus, Input};
use crate::engine::metric::Metric;
use crate::engine::observation::ErrorSource;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

const STEPS: &str = r#"
    [[ladders]]
    name = "free"
    steps = [ { do = "restart_unit", unit = "app.service", settle = "30s" }, { do = "reboot", settle = "60s" } ]
    [[ladders]]
    name = "other"
    steps = [ { do = "restart_unit", unit = "other.service", settle = "30s" }, { do = "reboot", settle = "60s" } ]
"#;

fn rule(name: &str, test: &str, remedy: &str) -> String {
    let remedy = if remedy.is_empty() { String::new() } else { format!("remedy = \"{remedy}\"") };
    format!("[[rules]]\nname = \"{name}\"\n{test}\n{remedy}\n")
}

/// Memory above 90 %, and the ladder for it.
fn full(remedy: &str) -> String {
    rule("full", "metric = \"host.mem_used_pct\"\nabove = 90\nclear_below = 80", remedy)
}

fn config(rules: &str) -> CheckedConfig {
    config_with(&format!("{STEPS}{rules}"))
}

/// The ids of the remedies that the fleet was told of, each once.
fn ids(world: &World) -> Vec<String> {
    let ids = world.got.iter().filter_map(|got| got.body["remediation"]["id"].as_str());
    let mut ids: Vec<_> = ids.filter(|id| !id.is_empty()).map(str::to_owned).collect();
    ids.sort();
    ids.dedup();
    ids
}

/// Errors are judged when their interval closes, every ten minutes.
fn counting() -> World {
    let mut config = config(&rule("errors", "metric = \"errors.count\"\nabove = 0", "free"));
    config.telemetry.report_interval = 10 * MINUTE;
    world(config)
}

#[test]
fn what_is_counted_is_looked_at_when_it_was_counted_again() {
    for crashes in [false, true] {
        let mut world = counting();
        world.input(Input::Errors(error_batch("boom")));
        world.advance(10 * MINUTE);
        assert_eq!(world.acted, [restart("app.service")]);
        if crashes {
            world.crash();
            world.input(Input::Errors(Default::default()));
        }
        world.advance(HOUR);
        assert_eq!(world.acted.len(), 1, "crashes: {crashes}: the next interval had no error");
    }
    let mut world = counting();
    for _ in 0..9 {
        world.input(Input::Errors(error_batch("boom")));
        world.advance(5 * MINUTE);
    }
    assert_eq!(world.acted, [restart("app.service"), Act::Reboot], "and here it had one");
}

#[test]
fn after_a_start_an_application_that_says_nothing_is_well_where_nobody_else_says_anything() {
    let mut world = counting();
    let mut batch = error_batch("boom");
    (batch.cursor, batch.lines[0].source) = (None, ErrorSource::App);
    world.input(Input::Errors(batch));
    world.advance(10 * MINUTE);
    assert_eq!(world.acted, [restart("app.service")]);
    world.crash();
    world.advance(HOUR);
    assert_eq!(world.acted.len(), 1, "the next interval had no error");
    let healed = world.got.iter().filter(|got| got.body["name"] == "healed").count();
    assert_eq!(healed, 1);
}

#[test]
fn a_rate_is_known_when_enough_was_read_after_the_step() {
    let test = "metric = \"host.mem_used_pct\"\nrate_above = 0.1";
    let mut world = world(config_with(&format!("{}{}", STEPS.replace("30s", "5s"), rule("leak", test, "free"))));
    let leaks = |world: &mut World, seconds: std::ops::Range<u32>, until: u32| {
        for second in seconds {
            world.set(Metric::HostMemUsed, Some(10.0 + f64::from(second.min(until)) * 0.5));
            world.advance(SECOND);
        }
    };
    leaks(&mut world, 0..20, 20);
    assert_eq!(world.acted, [restart("app.service")]);
    // When it has settled most of what the rate is taken over lies before the step.
    leaks(&mut world, 20..140, 20);
    assert_eq!(world.acted.len(), 1, "it has stopped");
    leaks(&mut world, 140..300, 300);
    assert_eq!(world.acted.last(), Some(&Act::Reboot), "and begun again");
}

#[test]
fn what_somebody_refused_is_not_tried_for_a_rule_that_wants_another_ladder() {
    let mut world = world(config(&full("free")));
    world.acts_succeed = false;
    memory(&mut world, 95.0);
    world.input(Input::Reconfigure(Box::new(config(&full("other")))));
    world.acts_succeed = true;
    let (id, _) = world.acts.pop().unwrap();
    let outcome = ActOutcome { reason: Some("inhibited".into()), ..outcome(ActStatus::Failed) };
    world.input(Input::ActDone { id, outcome });
    world.advance(10 * SECOND);
    assert_eq!(world.acted, [restart("app.service"), restart("other.service")]);
}

#[test]
fn a_step_that_never_began_is_the_next_when_the_alarm_comes_back() {
    let mut world = world(config(&full("free")));
    memory(&mut world, 95.0);
    world.inhibited = Some("somebody works here".into());
    world.advance(MINUTE);
    memory(&mut world, 50.0);
    world.inhibited = None;
    world.advance(MINUTE);
    memory(&mut world, 95.0);
    assert_eq!(world.acted, [restart("app.service"), Act::Reboot]);
}

#[test]
fn an_alarm_that_is_about_to_be_cleared_is_waited_for() {
    let mut world = world(config(&full("free").replace("clear_below = 80", "clear_below = 80\nclear_for = \"5m\"")));
    memory(&mut world, 95.0);
    memory(&mut world, 50.0);
    world.advance(HOUR);
    assert_eq!(world.acted, [restart("app.service")]);
}

#[test]
fn a_sensor_that_has_gone_holds_no_ladder_back_for_long() {
    let mut world = world(config(&full("free")));
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance_until(MINUTE, |world| !world.acted.is_empty());
    world.set(Metric::HostMemUsed, None::<f64>);
    world.advance(2 * MINUTE);
    assert_eq!(world.acted, [restart("app.service"), Act::Reboot]);
}

#[test]
fn a_ladder_that_a_rule_no_longer_names_goes_no_further() {
    let others = rule("load", "metric = \"host.load1\"\nabove = 90", "free");
    let mut world = world(config(&format!("{}{others}", full("free"))));
    memory(&mut world, 95.0);
    assert_eq!(world.acted, [restart("app.service")]);
    world.input(Input::Reconfigure(Box::new(config(&format!("{}{others}", full(""))))));
    world.advance(HOUR);
    assert_eq!(world.acted.len(), 1);
    // Named again while the alarm stands, it begins with its first step, and under another number.
    world.input(Input::Reconfigure(Box::new(config(&format!("{}{others}", full("free"))))));
    world.advance(10 * SECOND);
    assert_eq!(world.acted.last(), Some(&restart("app.service")));
    assert_eq!((world.acted.len(), ids(&world)), (2, vec!["full-1".to_owned(), "full-2".to_owned()]));
}

#[test]
fn a_rule_that_names_another_ladder_climbs_that_one_from_its_first_step() {
    for state in ["acting", "settling", "cleared", "crashed"] {
        let mut world = world(config(&full("free")));
        world.acts_succeed = state != "acting";
        memory(&mut world, 95.0);
        assert_eq!(world.acted, [restart("app.service")]);
        if state == "cleared" {
            memory(&mut world, 50.0);
        }
        // At a reload, or because the agent starts with another configuration.
        if state != "crashed" {
            world.input(Input::Reconfigure(Box::new(config(&full("other")))));
        }
        world.acts_succeed = true;
        if let Some((id, _)) = world.acts.pop() {
            let outcome = outcome(ActStatus::Succeeded);
            world.input(Input::ActDone { id, outcome });
        }
        if state == "crashed" {
            world.config = config(&full("other"));
            world.crash();
        }
        memory(&mut world, 95.0);
        world.advance(10 * SECOND);
        assert_eq!(world.acted, [restart("app.service"), restart("other.service")], "{state}");
    }
}

#[test]
fn what_was_only_rehearsed_counts_as_not_tried() {
    for crashes in [false, true] {
        let mut rehearsed = config(&full("free"));
        rehearsed.remediation.dry_run = true;
        let mut world = world(rehearsed);
        memory(&mut world, 95.0);
        world.advance(35 * SECOND);
        assert_eq!(world.acted, []);
        if crashes {
            world.crash();
        }
        // In the middle of the rehearsal, with the alarm standing.
        world.input(Input::Reconfigure(Box::new(config(&full("free")))));
        world.advance(10 * SECOND);
        assert_eq!(world.acted, [restart("app.service")], "crashes: {crashes}");
    }
}

#[test]
fn a_step_that_saves_power_and_was_canceled_before_it_began_slows_nothing_down() {
    const SLOW: &str = "[[ladders]]\nname = \"slow\"\nsteps = [ { do = \"save_power\", sample = \"60s\" } ]\n";
    for waits in [true, false] {
        let mut world = world(config_with(&format!("{SLOW}{}", full("slow"))));
        if waits {
            world.inhibited = Some("somebody works here".into());
        } else {
            world.cancel_all_late();
        }
        memory(&mut world, 95.0);
        if waits {
            world.command("stop", "cancel_all", json!({}), 1);
        } else {
            world.store_answers();
        }
        world.advance(10 * SECOND);
        let before = world.rounds;
        world.advance(10 * MINUTE);
        assert!(world.rounds - before >= 599, "waits: {waits}: {} rounds", world.rounds - before);
    }
}
