//! Ladders and another configuration: what it no longer wants goes no further, and what is under way is told to its
//! end.

use std::time::Duration;

use serde_json::Value as Json;

use super::alarms::{BATTERY_OFF, LOW};
use super::healing::{ladder, memory, told, up_for_long};
use super::world::{World, config_with, outcome, restart};
use crate::engine::io::{Act, ActOutcome, ActStatus, Input};
use crate::engine::metric::Metric;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

const STEPS: &str = "{ do = \"restart_unit\", unit = \"other.service\", settle = \"30s\" }, \
                     { do = \"restart_unit\", unit = \"app.service\", settle = \"30s\" }, { do = \"reboot\" }";

fn reload(world: &mut World, text: &str) {
    world.config = config_with(text);
    world.input(Input::Reconfigure(Box::new(world.config.clone())));
}

/// Why ladders were canceled, as the fleet was told.
fn canceled(world: &World) -> Vec<&Json> {
    let of_ladders = world.got.iter().filter(|got| got.body["name"] == "ladder_canceled");
    of_ladders.map(|got| &got.body["remediation"]["reason"]).collect()
}

#[test]
fn a_ladder_whose_alarm_can_not_be_raised_any_more_is_climbed_no_further() {
    let save_power = "save_power\", sample = \"60s\", report = \"60s\", publish = \"60s";
    for first in ["restart_unit\", unit = \"app.service", save_power] {
        let steps = format!("{{ do = \"{first}\", settle = \"30s\" }}, {{ do = \"reboot\" }}");
        let text = format!("{LOW}remedy = \"l\"\n[[ladders]]\nname = \"l\"\nsteps = [ {steps} ]\n");
        for end in [World::crash, |world: &mut World| world.input(Input::Reconfigure(Box::new(world.config.clone())))] {
            let mut world = up_for_long(config_with(&text));
            world.set(Metric::BatteryChargePct, Some(5.0));
            world.advance(3 * SECOND);
            let done = told(&world);
            assert_eq!(done.last().unwrap().1, "SUCCEEDED", "{first}: {done:?}");
            let begun = world.acted.len();
            world.config = config_with(&format!("{text}{BATTERY_OFF}"));
            end(&mut world);
            let rounds = world.rounds;
            world.advance(HOUR);
            assert!(world.rounds > rounds + 3_000, "{first}: {} rounds in an hour", world.rounds - rounds);
            assert_eq!(world.acted.len(), begun, "{first}: {:?}", world.acted);
            assert_eq!(told(&world)[done.len()..], [("ladder_canceled".into(), "CANCELED".into())], "{first}");
            assert_eq!(canceled(&world), ["config_changed"], "{first}");
        }
    }
}

#[test]
fn how_a_step_ended_is_told_also_where_its_ladder_is_gone_or_ends_below_it_by_then() {
    let begun = [("restart_unit", "IN_PROGRESS"), ("restart_unit", "SUCCEEDED"), ("restart_unit", "IN_PROGRESS")];
    let busy = ActOutcome { reason: Some("busy".into()), ..outcome(ActStatus::Failed) };
    let short = ladder("", "{ do = \"restart_unit\", unit = \"other.service\" }");
    let gone = ("ladder_canceled", "CANCELED");
    for (text, ended, tail) in [
        ("", outcome(ActStatus::Succeeded), [("restart_unit", "SUCCEEDED"), gone]),
        ("", outcome(ActStatus::Failed), [("restart_unit", "FAILED"), gone]),
        ("", busy, [("restart_unit", "REJECTED"), gone]),
        (&*short, outcome(ActStatus::Failed), [("restart_unit", "FAILED"), ("ladder_exhausted", "EXHAUSTED")]),
    ] {
        let mut world = up_for_long(config_with(&ladder("", STEPS)));
        memory(&mut world, 95.0);
        world.acts_succeed = false;
        world.advance(40 * SECOND);
        let (id, act) = world.acts.pop().unwrap();
        assert_eq!(act, restart("app.service"));
        reload(&mut world, text);
        world.command("u", "restart_unit", serde_json::json!({"unit": "app.service"}), 1);
        world.settle();
        assert_eq!(world.statuses("u"), ["QUEUED"], "its unit is being restarted");
        world.input(Input::ActDone { id, outcome: ended });
        world.advance(10 * SECOND);
        let by_rule = world.got.iter().filter(|got| got.body["remediation"]["trigger"] == "rule:full");
        let told: Vec<_> = by_rule
            .map(|got| [&got.body["name"], &got.body["remediation"]["status"]].map(|word| word.as_str().unwrap()))
            .collect();
        let expected: Vec<_> = begun.into_iter().chain(tail).map(|(name, status)| [name, status]).collect();
        assert_eq!(told, expected);
        assert!(canceled(&world).iter().all(|reason| *reason == "config_changed"));
        assert!(!world.acted.contains(&Act::Reboot));
    }
}

#[test]
fn a_sample_comes_each_minute_however_often_the_configuration_is_loaded_anew() {
    let mut world = World::with(config_with(""));
    for n in 0..12 {
        let telemetry = &mut world.config.telemetry;
        telemetry.sample_interval = (5 + 5 * (n % 2)) * SECOND;
        (telemetry.report_interval, telemetry.publish_interval) = (60 * SECOND, 60 * SECOND);
        world.input(Input::Reconfigure(Box::new(world.config.clone())));
        world.advance(20 * SECOND);
    }
    let samples = world.got.iter().filter_map(|got| got.body["samples"].as_array()).flatten().count();
    assert!((3..=5).contains(&samples), "{samples} samples within four minutes");
}
