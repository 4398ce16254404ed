//! Ladders and another configuration: what it no longer wants goes no further, and what is under way is told to its
//! end.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::alarms::{BATTERY_OFF, LOW};
use super::healing::{ladder, memory, told, up_for_long};
use super::invariants::error_batch;
use super::world::{World, config_with, outcome, puts, restart};
use crate::config::{Action, AttributeValue, changes};
use crate::engine::io::{Act, ActOutcome, ActStatus, Input, StoreFault};
use crate::engine::metric::{Metric, Point};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
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
        world.command("u", "restart_unit", json!({"unit": "app.service"}), 1);
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
fn a_step_that_was_cut_off_is_judged_as_what_was_begun_whatever_the_configuration_has_in_its_place_by_now() {
    let restart = &*ladder("", "{ do = \"restart_unit\", unit = \"app.service\" }");
    let reboot = &*ladder("", "{ do = \"reboot\" }");
    for (begun, by_now, ended) in [
        (restart, reboot, ["restart_unit", "unit:app.service", "INTERRUPTED"]),
        (restart, "", ["restart_unit", "unit:app.service", "INTERRUPTED"]),
        (reboot, restart, ["reboot", "gateway", "SUCCEEDED"]),
    ] {
        let mut world = up_for_long(config_with(begun));
        world.acts_succeed = false;
        memory(&mut world, 95.0);
        world.config = config_with(by_now);
        world.got.clear();
        world.reboot();
        world.advance(10 * SECOND);
        let told = world.got.iter().filter(|got| got.body["remediation"]["action"].is_string());
        let told: Vec<_> = told
            .map(|got| ["action", "target", "status"].map(|field| &got.body["remediation"][field]))
            .filter(|[_, _, status]| *status != "IN_PROGRESS")
            .collect();
        assert_eq!(told, [ended], "{begun}, then {by_now}");
    }
}

#[test]
fn a_step_that_saves_no_power_slows_nothing_down_where_by_its_end_one_that_does_is_in_its_place() {
    let mut world = up_for_long(config_with(&ladder("", STEPS)));
    world.acts_succeed = false;
    memory(&mut world, 95.0);
    let save_power = "{ do = \"save_power\", sample = \"60s\", report = \"60s\", publish = \"60s\" }";
    reload(&mut world, &ladder("", save_power));
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    let rounds = world.rounds;
    world.advance(60 * SECOND);
    assert!(world.rounds > rounds + 50, "{} rounds in a minute", world.rounds - rounds);
}

#[test]
fn what_is_told_as_taken_over_is_what_is_in_force_and_the_rest_needs_a_restart() {
    let mut world = World::with(config_with(""));
    world.advance(2 * SECOND);
    let mut wanted = config_with(LOW);
    wanted.device.groups = vec!["other".into()];
    wanted.device.attributes.insert("a".into(), AttributeValue::Integer(1));
    (wanted.mqtt.inflight_max, wanted.mqtt.keep_alive) = (10, 45 * SECOND);
    wanted.mqtt.reconnect.max = HOUR;
    wanted.collect.root = "/elsewhere".into();
    wanted.collect.host.enabled = false;
    wanted.collect.errors.app_socket = None;
    wanted.store.path = "/elsewhere".into();
    wanted.quarantine.sample_interval = 5 * SECOND;
    wanted.quarantine.stop_units = wanted.remediation.units.clone();
    wanted.remediation.budget.remove(&Action::Reboot);
    world.input(Input::Reconfigure(Box::new(wanted.clone())));
    world.advance(2 * SECOND);
    let told = world.got.iter().find(|got| got.body["name"] == "config_changed").unwrap();
    let live = [
        "collect.host.enabled",
        "device.attributes.a",
        "device.groups",
        "mqtt.inflight_max",
        "mqtt.reconnect.max",
        "quarantine.sample_interval",
        "remediation.budget.reboot",
        "rules.low",
    ];
    let waiting =
        ["collect.errors.app_socket", "collect.root", "mqtt.keep_alive", "quarantine.stop_units", "store.path"];
    assert_eq!(told.body["config"], json!({"taken_over": live, "needs_restart": waiting}));
    assert_eq!(changes(world.engine.config(), &wanted), waiting.map(Box::from));
}

#[test]
fn what_only_a_restart_takes_over_is_remembered_and_named_by_who_is_refused() {
    let two = "[rollback.two]\nkind = \"rauc\"\n";
    let mut world = up_for_long(config_with(""));
    let waiting = |world: &World| world.engine.status(world.now).needs_restart;
    world.input(Input::Reconfigure(Box::new(config_with(two))));
    assert_eq!(waiting(&world), ["rollback.two".into()]);
    world.command("c", "mark_good", serde_json::json!({"target": "two"}), 1);
    world.settle();
    let refused = world.got.iter().rfind(|got| got.body["command_id"] == "c").unwrap();
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.ends_with("[rollback.two] in the configuration in force: a new one takes a restart"), "{detail}");
    world.input(Input::Reconfigure(Box::new(config_with(""))));
    assert_eq!(waiting(&world), []);
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

#[test]
fn what_the_collectors_from_before_a_reload_still_say_is_not_taken_for_the_present() {
    for by_now in ["", LOW] {
        let budget = "[collect.link.monthly_budget]\nwwan0 = \"1GiB\"\n";
        let mut world = World::with(config_with(budget));
        let count = |world: &mut World, bytes: u64| {
            world.points = [Metric::InterfaceRxBytes, Metric::InterfaceTxBytes]
                .map(|metric| Point::labelled(metric, "wwan0", bytes))
                .into();
        };
        count(&mut world, 5_000_000);
        world.advance(3 * SECOND);
        world.collectors_hang(true);
        world.advance(3 * SECOND);
        world.collectors_hang(false);
        count(&mut world, 6_000_000);
        let rounds = world.rounds;
        reload(&mut world, &format!("{budget}{by_now}"));
        assert_eq!(world.rounds, rounds + 1, "the new ones look at once");
        count(&mut world, 5_000_100);
        world.hung_rounds_end();
        count(&mut world, 7_000_000);
        world.advance(5 * SECOND);
        let samples = world.got.iter().filter_map(|got| got.body["samples"].as_array()).flatten();
        let used = samples.last().map(|sample| &sample["link"]["interfaces"]["wwan0"]["month_bytes"]);
        assert_eq!(used, Some(&json!(4_000_000)));
    }
}

#[test]
fn where_errors_are_not_collected_for_a_while_nothing_of_that_time_is_read() {
    for start in [World::crash, |world: &mut World| world.input(Input::Reconfigure(Box::new(world.config.clone())))] {
        let mut world = World::with(config_with(""));
        world.input(Input::Errors(error_batch("boom")));
        world.advance(5 * SECOND);
        assert!(world.engine.error_cursor().is_some());
        for enabled in [false, true] {
            world.config.collect.errors.enabled = enabled;
            start(&mut world);
            world.advance(5 * SECOND);
            assert_eq!(world.engine.error_cursor(), None, "collected: {enabled}");
        }
        world.crash();
        assert_eq!(world.engine.error_cursor(), None);
    }
}

#[test]
fn how_far_errors_were_read_is_forgotten_also_where_the_store_refuses_that_at_first() {
    let mut world = World::with(config_with(""));
    world.input(Input::Errors(error_batch("boom")));
    world.advance(5 * SECOND);
    world.refuse(|op| puts(op, "cursor"), StoreFault::Busy);
    world.config.collect.errors.enabled = false;
    world.input(Input::Reconfigure(Box::new(world.config.clone())));
    world.advance(5 * SECOND);
    world.refuse_nothing();
    world.advance(5 * SECOND);
    world.config.collect.errors.enabled = true;
    world.crash();
    assert_eq!(world.engine.error_cursor(), None);
}

#[test]
fn a_ladder_whose_rule_watches_something_else_by_now_has_healed_nothing() {
    let step = "{ do = \"restart_unit\", unit = \"app.service\", settle = \"30s\" }, { do = \"reboot\" }";
    let text = ladder("clear_below = 80", step);
    for start in [World::crash, |world: &mut World| world.input(Input::Reconfigure(Box::new(world.config.clone())))] {
        for acting in [false, true] {
            let mut world = up_for_long(config_with(&text));
            world.acts_succeed = !acting;
            memory(&mut world, 95.0);
            world.config = config_with(&text.replace("host.mem_used_pct", "host.swap_used_pct"));
            start(&mut world);
            if let Some((id, _)) = world.acts.pop() {
                world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
            }
            world.acts_succeed = true;
            world.set(Metric::HostSwapUsed, Some(1.0));
            world.advance(2 * MINUTE);
            let last = told(&world).pop().unwrap();
            assert_eq!(last, ("ladder_canceled".into(), "CANCELED".into()), "acting: {acting}; {:?}", told(&world));
            assert_eq!(canceled(&world), ["config_changed"]);
            // And what it watches now has a climb of its own.
            world.set(Metric::HostSwapUsed, Some(95.0));
            world.advance(5 * SECOND);
            assert_eq!(world.acted, [restart("app.service"), restart("app.service")]);
            let begun = world.got.iter().rfind(|got| got.body["type"] == "remediation").unwrap();
            assert_eq!(begun.body["remediation"]["id"], "full-2");
        }
    }
}

#[test]
fn a_ladder_whose_rule_a_start_finds_gone_ends_as_by_a_reload_and_keeps_its_number() {
    let text = &*ladder("", "{ do = \"restart_unit\", unit = \"app.service\", settle = \"30s\" }, { do = \"reboot\" }");
    let alarm_only = &*text.replace("remedy = \"heal\"", "");
    for by_now in ["", alarm_only] {
        for acting in [false, true] {
            let mut world = up_for_long(config_with(text));
            world.acts_succeed = !acting;
            memory(&mut world, 95.0);
            world.config = config_with(by_now);
            world.crash();
            world.advance(10 * SECOND);
            let told = told(&world);
            let last = told.last().unwrap();
            assert_eq!(*last, ("ladder_canceled".into(), "CANCELED".into()), "acting: {acting}; {told:?}");
            assert_eq!(canceled(&world), ["config_changed"]);
            assert_eq!(told.contains(&("restart_unit".into(), "INTERRUPTED".into())), acting, "{told:?}");
            world.acts_succeed = true;
            memory(&mut world, 50.0);
            world.advance(HOUR);
            reload(&mut world, text);
            memory(&mut world, 95.0);
            let begun = world.got.iter().rfind(|got| got.body["type"] == "remediation").unwrap();
            assert_eq!(begun.body["remediation"]["id"], "full-2");
        }
    }
}
