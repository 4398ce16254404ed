//! Rules through the whole engine: what the fleet is told of an alarm, through crashes, reboots and new configurations.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;

use super::world::{World, config_with};
use crate::engine::io::{Input, LinkFaultKind, StopReason, StoreFault};
use crate::engine::metric::{Metric, Rollup};
use crate::engine::observation::{ErrorBatch, ErrorKind, ErrorLine};
use crate::engine::record::Class;
use crate::engine::time::{BootId, Mono};

const SECOND: Duration = Duration::from_secs(1);
pub(super) const LOW: &str = r#"
    [[rules]]
    name = "low"
    metric = "battery.charge_pct"
    below = 10
    clear_above = 15
    severity = "critical"
"#;

/// Nobody reads the battery.
pub(super) const BATTERY_OFF: &str = "[collect.battery]\nenabled = false\n";

fn world(rules: &str) -> World {
    let mut world = World::with(config_with(rules));
    world.advance(SECOND);
    world
}

/// The alarm events that the fleet got, each once: a reader drops what it has seen, by `seq`.
pub(super) fn alarms(world: &World) -> Vec<&Json> {
    let events = world.got.iter().filter(|got| got.body["type"] == "alarm");
    let unique: BTreeMap<u64, &Json> = events.map(|got| (got.body["seq"].as_u64().unwrap(), &got.body)).collect();
    unique.into_values().collect()
}

fn states(world: &World) -> Vec<&str> {
    alarms(world).iter().map(|event| event["alarm"]["state"].as_str().unwrap()).collect()
}

fn dynamic(world: &World) -> &Json {
    &world.got.iter().rfind(|got| got.topic.ends_with("/attributes")).unwrap().body["dynamic"]
}

#[test]
fn an_alarm_reaches_the_fleet_with_its_reading_and_is_cleared_beyond_the_clear_level() {
    let mut world = world(LOW);
    for (pct, said) in [(9.0, 1), (12.0, 1), (16.0, 2)] {
        world.set(Metric::BatteryChargePct, Some(pct));
        world.advance(2 * SECOND);
        assert_eq!(alarms(&world).len(), said, "at {pct} %");
    }
    let [raised, cleared] = alarms(&world)[..] else { panic!() };
    assert_eq!((&raised["severity"], &raised["name"]), (&"critical".into(), &"low".into()));
    let alarm = serde_json::json!({"rule": "low", "state": "raised", "metric": "battery.charge_pct", "value": 9.0,
        "threshold": 10.0, "since": raised["alarm"]["since"], "detector": "threshold"});
    assert_eq!(raised["alarm"], alarm);
    assert!(raised["alarm"]["since"].is_string());
    assert_eq!((&cleared["severity"], &cleared["alarm"]["value"]), (&"notice".into(), &16.0.into()));
}

#[test]
fn a_single_impossible_charge_raises_nothing_and_one_that_the_next_reading_agrees_with_does() {
    let mut world = world(LOW);
    let read_once = |world: &mut World, pct: f64| {
        world.set(Metric::BatteryChargePct, Some(pct));
        let rounds = world.rounds;
        assert!(world.advance_until(60 * SECOND, |world| world.rounds > rounds));
    };
    world.set(Metric::BatterySupply, Some("BAT0"));
    for (pct, raised) in [(80.0, 0), (3.0, 0), (79.0, 0), (3.0, 0), (3.0, 1)] {
        read_once(&mut world, pct);
        world.settle();
        assert_eq!(alarms(&world).len(), raised, "at {pct} %");
    }
    world.advance(5 * SECOND);
    let told = world.got.iter().filter(|got| got.body["name"] == "battery_implausible").count();
    assert_eq!(told, 2, "once for each time that it was in doubt");
}

#[test]
fn a_stop_says_what_the_pace_of_the_attributes_has_held_back() {
    let mut world = world(LOW);
    let mut flaps = [(9.0, "critical"), (16.0, "ok")].into_iter().cycle().take(8);
    let held_back = flaps.find(|(pct, health)| {
        world.set(Metric::BatteryChargePct, Some(*pct));
        world.advance(2 * SECOND);
        dynamic(&world)["health"] != *health
    });
    let (_, health) = held_back.expect("one of so many is held back");
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(5 * SECOND);
    assert!(world.exited);
    assert_eq!(dynamic(&world)["health"], health);
    assert_eq!(world.got.last().unwrap().body["reason"], "stopped");
}

#[test]
fn alarms_that_stand_are_shown_in_the_attributes_and_in_the_status() {
    let mut world = world(&format!("{LOW}{HOT}"));
    let shown = |world: &World| (dynamic(world)["health"].clone(), dynamic(world)["alarms"].clone());
    assert_eq!(shown(&world), ("ok".into(), serde_json::json!([])));
    world.set(Metric::HostLoad1, Some(5.0));
    world.advance(15 * SECOND);
    assert_eq!(shown(&world), ("degraded".into(), serde_json::json!(["hot"])));
    world.set(Metric::BatteryChargePct, Some(5.0));
    world.advance(15 * SECOND);
    assert_eq!(shown(&world), ("critical".into(), serde_json::json!(["hot", "low"])));
    let status = world.engine.status(world.now);
    let listed: Vec<_> = status.alarms.iter().map(|alarm| (alarm.rule.as_str(), alarm.severity)).collect();
    assert_eq!(listed, [("hot", "warning"), ("low", "critical")]);
    assert!(status.alarms.iter().all(|alarm| alarm.since.is_some()), "{:?}", status.alarms);
}

const HOT: &str = "[[rules]]\nname = \"hot\"\nmetric = \"host.load1\"\nabove = 4\n";

/// Away from the broker, one alarm after the other: low, hot, and low no more.
fn alarms_of_an_outage() -> World {
    let mut world = world(&format!("{LOW}{HOT}"));
    world.cut();
    for (metric, value) in [(Metric::BatteryChargePct, 5.0), (Metric::HostLoad1, 5.0), (Metric::BatteryChargePct, 50.0)]
    {
        world.set(metric, Some(value));
        world.advance(15 * SECOND);
    }
    world.got.clear();
    world
}

/// The events in the order in which they came, each with the state of its alarm.
fn told(world: &World) -> Vec<(u64, String)> {
    let events = world.got.iter().filter(|got| got.topic.ends_with("/events"));
    let words =
        |body: &Json| [&body["name"], &body["alarm"]["state"]].map(|word| word.as_str().unwrap_or("").to_owned());
    events.map(|got| (got.body["seq"].as_u64().unwrap(), words(&got.body).join(" ").trim().to_owned())).collect()
}

#[test]
fn after_an_outage_the_newest_alarm_comes_first_and_each_event_once() {
    let mut world = alarms_of_an_outage();
    world.broker_up = true;
    world.advance(60 * SECOND);
    let told = told(&world);
    let (alarms, others) = told.split_at(3);
    let alarms: Vec<&str> = alarms.iter().map(|(_, words)| words.as_str()).collect();
    assert_eq!(alarms, ["low cleared", "hot raised", "low raised"]);
    // Then what had waited, and that it is back: few enough to come in their order.
    let at = |name: &str| others.iter().position(|(_, words)| words == name).unwrap();
    assert!(at("disconnected") < at("connected"), "{others:?}");
    assert!(others.is_sorted() && others.iter().all(|(_, words)| !words.contains("raised")), "{others:?}");
    assert_eq!(world.stored(Class::Events), [0; 0], "what went ahead is trimmed with the rest");
}

#[test]
fn an_alarm_that_went_ahead_of_what_was_read_already_is_done_with_when_that_is() {
    let mut world = world(LOW);
    world.withhold_acks = true;
    world.drop_connection(LinkFaultKind::Server);
    world.advance(10 * SECOND);
    world.set(Metric::BatteryChargePct, Some(5.0));
    world.advance(5 * SECOND);
    // The newest is answered first, then all before it.
    while world.unanswered() > 0 {
        world.answer_nth(world.unanswered() - 1);
        world.settle();
    }
    world.withhold_acks = false;
    world.answer_all();
    world.advance(20 * SECOND);
    assert!(told(&world).iter().any(|(_, words)| words == "low raised"), "{:?}", told(&world));
    assert_eq!(world.stored(Class::Events), [0; 0]);
}

#[test]
fn the_newest_alarms_come_first_after_a_reboot_too() {
    let mut world = alarms_of_an_outage();
    world.reboot();
    world.advance(5 * SECOND);
    world.broker_up = true;
    world.advance(60 * SECOND);
    let told = told(&world);
    // Of each alarm the state has the last event; those before it come in their turn.
    assert_eq!([&*told[0].1, &*told[1].1], ["low cleared", "hot raised"], "{told:?}");
    assert!(told[2..].is_sorted() && told[2..].iter().any(|(_, words)| words == "low raised"), "{told:?}");
    assert_eq!(world.stored(Class::Events), [0; 0]);
}

#[test]
fn a_sensor_that_vanishes_leaves_its_alarm_standing_and_raises_only_missing_for() {
    let gone = "[[rules]]\nname = \"gone\"\nmetric = \"battery.charge_pct\"\nmissing_for = \"10s\"\n";
    let mut world = world(&format!("{LOW}{gone}"));
    world.set(Metric::BatteryChargePct, Some(5.0));
    world.advance(3 * SECOND);
    world.set(Metric::BatteryChargePct, None::<f64>);
    world.advance(30 * SECOND);
    let told: Vec<_> = alarms(&world).iter().map(|event| (&event["name"], &event["alarm"]["state"])).collect();
    assert_eq!(told, [(&"low".into(), &"raised".into()), (&"gone".into(), &"raised".into())]);
    assert!(alarms(&world)[1]["alarm"].get("value").is_none(), "what is missing has no value");
}

#[test]
fn collectors_that_hang_are_readings_that_are_missing() {
    let gone = "[[rules]]\nname = \"gone\"\nmetric = \"battery.charge_pct\"\nmissing_for = \"10s\"\n";
    for answer in [false, true] {
        let mut world = world(gone);
        world.set(Metric::BatteryChargePct, Some(50.0));
        world.advance(3 * SECOND);
        // They say that they are busy, or nothing at all.
        world.collectors_hang = answer;
        world.collectors_hang(!answer);
        world.advance(15 * SECOND);
        assert_eq!(states(&world), ["raised"], "{answer}");
    }
}

#[test]
fn what_the_agent_knows_of_itself_is_judged_when_its_interval_closes() {
    let rules = "[[rules]]\nname = \"rounds\"\nmetric = \"agent.refused.observe_one_at_a_time\"\nabove = 0\n\
        [[rules]]\nname = \"backlog\"\nmetric = \"agent.outbox_records\"\nabove = 20\n";
    let mut world = world(rules);
    world.collectors_hang = true;
    world.advance(4 * SECOND);
    world.collectors_hang = false;
    world.advance(4 * SECOND);
    world.cut();
    world.advance(120 * SECOND);
    world.broker_up = true;
    world.advance(60 * SECOND);
    let told: Vec<_> =
        alarms(&world).iter().map(|event| (event["name"].as_str(), event["alarm"]["state"].as_str())).collect();
    let pair = |name| [(Some(name), Some("raised")), (Some(name), Some("cleared"))];
    assert_eq!(told, [pair("rounds"), pair("backlog")].concat());
}

/// A gauge of the agent's own that is not in the table of the rules would never be judged.
#[test]
fn the_agents_own_gauges_are_those_that_rules_expect_at_the_report() {
    let mut world = World::new();
    world.advance(10 * SECOND);
    world.store.fault = Some(StoreFault::Io { what: "append".into() });
    world.advance(200 * SECOND);
    let now = world.now;
    world.engine.session.looked_up(Some(SECOND));
    world.engine.outbox.count_dropped("quota", 1);
    for point in world.engine.agent_points(now) {
        let counted = matches!(point.metric.rollup(), Rollup::Sum | Rollup::Counter);
        assert!(counted || crate::engine::rules::OWN_GAUGES.contains(&point.metric), "{}", point.metric);
    }
}

/// Crashes after each effect around the raise and around the clear.
#[test]
fn a_crash_neither_loses_nor_repeats_what_the_fleet_is_told_of_an_alarm() {
    for crash_after in 0..60 {
        let mut world = world(LOW);
        let mut effects = 0;
        for pct in [5.0, 50.0] {
            world.set(Metric::BatteryChargePct, Some(pct));
            world.now.mono = world.now.mono.after(SECOND);
            world.enqueue(Input::Wake);
            // Effect by effect, input by input, until all is said; in between the power goes once.
            while effects <= crash_after {
                if !world.step_effect() && !world.step() {
                    break;
                }
                effects += 1;
            }
            if effects == crash_after + 1 {
                effects += 1;
                if crash_after % 2 == 0 { world.crash() } else { world.reboot() }
            }
            world.advance(5 * SECOND);
        }
        assert_eq!(states(&world), ["raised", "cleared"], "crash after {crash_after} effects and inputs");
        let events = world.got.iter().filter(|got| got.body["type"].is_string());
        let boots: BTreeMap<_, _> =
            events.map(|got| (got.body["seq"].as_u64(), got.body["boot"].to_string())).collect();
        assert!(boots.values().is_sorted(), "crash after {crash_after}: {boots:?}");
        world.crash();
        world.advance(5 * SECOND);
        assert_eq!(states(&world), ["raised", "cleared"], "and one more, after {crash_after}");
    }
}

#[test]
fn an_alarm_that_could_not_be_stored_is_stored_later_and_cleared_after_a_restart() {
    let mut world = world(LOW);
    world.set(Metric::BatteryChargePct, Some(5.0));
    world.store.fault = Some(StoreFault::NoSpace { what: "put".into() });
    world.advance(2 * SECOND);
    world.store.fault = None;
    world.advance(10 * SECOND);
    assert_eq!(states(&world), ["raised"]);
    world.set(Metric::BatteryChargePct, Some(50.0));
    world.crash();
    world.advance(5 * SECOND);
    // It was told from memory while nothing could be stored: that it was is not known after the crash.
    assert_eq!(states(&world), ["raised", "raised", "cleared"]);
}

#[test]
fn a_raised_alarm_survives_restart_and_reboot() {
    let mut world = world(LOW);
    world.set(Metric::BatteryChargePct, Some(5.0));
    world.advance(2 * SECOND);
    world.set(Metric::BatteryChargePct, None::<f64>);
    for _ in 0..2 {
        world.got.retain(|got| got.body["type"] == "alarm");
        world.reboot();
        world.advance(12 * SECOND);
        assert_eq!((states(&world), &dynamic(&world)["health"]), (vec!["raised"], &"critical".into()));
        world.crash();
    }
    world.set(Metric::BatteryChargePct, Some(50.0));
    world.advance(2 * SECOND);
    assert_eq!(states(&world), ["raised", "cleared"]);
}

#[test]
fn an_alarm_whose_rule_is_gone_or_can_not_be_raised_is_cleared_at_the_next_start_and_at_a_reload() {
    let ends = |rules: &str, end: fn(&mut World)| {
        let mut world = world(LOW);
        world.set(Metric::BatteryChargePct, Some(5.0));
        world.advance(2 * SECOND);
        world.config = config_with(rules);
        end(&mut world);
        world.advance(15 * SECOND);
        assert_eq!(states(&world), ["raised", "cleared"]);
        assert_eq!(alarms(&world)[1]["alarm"]["reason"], "rule_removed");
        assert_eq!(dynamic(&world)["health"], "ok");
        world.crash();
        world.crash();
        world.advance(5 * SECOND);
        assert_eq!(states(&world).len(), 2, "told once");
        assert!(world.store.state.keys().all(|key| !key.starts_with("alarm/")), "{:?}", world.store.state.keys());
    };
    for rules in ["", &format!("{LOW}{BATTERY_OFF}")] {
        ends(rules, World::crash);
        ends(rules, |world| world.input(Input::Reconfigure(Box::new(world.config.clone()))));
    }
}

#[test]
fn what_nobody_collects_is_missing() {
    let rule = "[[rules]]\nname = \"gone\"\nmetric = \"battery.charge_pct\"\nmissing_for = \"5s\"\n";
    let mut world = world(rule);
    world.set(Metric::BatteryChargePct, None::<f64>);
    world.input(Input::Reconfigure(Box::new(config_with(&format!("{rule}{BATTERY_OFF}")))));
    world.advance(15 * SECOND);
    assert_eq!(states(&world), ["raised"]);
}

#[test]
fn what_a_collector_told_is_no_attribute_once_it_is_switched_off() {
    let mut world = world("");
    world.set(Metric::BatteryChargePct, Some(50.0));
    world.set(Metric::LinkType, Some("wifi"));
    world.advance(15 * SECOND);
    let shown = |world: &World| ["battery_band", "link_type"].map(|key| dynamic(world).get(key).cloned());
    assert_eq!(shown(&world), [Some("50-75".into()), Some("wifi".into())]);
    world.config.collect.battery.enabled = false;
    world.config.collect.link.enabled = false;
    world.input(Input::Reconfigure(Box::new(world.config.clone())));
    world.advance(15 * SECOND);
    assert_eq!(shown(&world), [None, None]);
}

#[test]
fn a_stop_does_not_clear_what_its_short_interval_did_not_count() {
    let busy = "[[rules]]\nname = \"errors\"\nmetric = \"errors.count\"\nabove = 0\n";
    let mut world = world(busy);
    world.input(Input::Errors(super::invariants::error_batch("boom")));
    world.advance(Duration::from_millis(1_200));
    assert_eq!(states(&world), ["raised"]);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(5 * SECOND);
    assert!(world.exited);
    assert_eq!(states(&world), ["raised"]);
}

#[test]
fn an_alarm_that_flaps_does_not_fill_the_outbox_and_what_is_not_told_is_counted() {
    let mut world = world(LOW);
    for n in 0..300 {
        world.set(Metric::BatteryChargePct, Some(if n % 2 == 0 { 5.0 } else { 50.0 }));
        world.advance(SECOND);
    }
    world.advance(5 * SECOND);
    let told = alarms(&world).len();
    let untold: u64 = world
        .got
        .iter()
        .filter_map(|got| got.body["samples"].as_array())
        .flatten()
        .filter_map(|sample| sample["agent"]["refused"]["alarm_events_max"].as_u64())
        .sum();
    assert!(told <= crate::engine::rules::EVENTS_PER_HOUR_MAX, "{told} events");
    assert_eq!(told as u64 + untold, 300);
    assert_eq!(states(&world).last(), Some(&"raised"));
    world.advance(3_700 * SECOND);
    assert_eq!(states(&world).last(), Some(&"cleared"), "it was quiet for an hour");
}

#[test]
fn what_a_detector_learned_outlives_the_agent_and_its_alarm_says_how_it_was_found() {
    let odd = "[[rules]]\nname = \"odd\"\nmetric = \"host.load1\"\nanomaly = \"spike\"\n";
    let mut world = world(odd);
    world.set(Metric::HostLoad1, Some(1.0));
    world.advance(7 * 3_600 * SECOND);
    world.crash();
    world.set(Metric::HostLoad1, Some(1e3));
    world.advance(60 * SECOND);
    let [event] = alarms(&world)[..] else { panic!("{:#?}", alarms(&world)) };
    let said = ["detector", "value", "threshold"].map(|key| event["alarm"][key].clone());
    assert_eq!(Json::from(said.to_vec()), serde_json::json!(["spike", 1e3, 5.0]));
}

#[test]
fn what_was_learned_for_a_rule_that_is_gone_is_forgotten() {
    let odd = "[[rules]]\nname = \"odd\"\nmetric = \"host.load1\"\nanomaly = \"spike\"\n";
    let mut world = world(odd);
    world.set(Metric::HostLoad1, Some(1.0));
    world.advance(7 * 3_600 * SECOND);
    assert!(world.store.state.contains_key("learned/odd"), "it is written from time to time");
    world.config = config_with(LOW);
    world.crash();
    assert!(!world.store.state.contains_key("learned/odd"));
}

/// Three units have failed, in this boot or an earlier one, so long after it began.
fn failures(boot: Option<u8>, mono: Mono) -> ErrorBatch {
    let batch = super::invariants::error_batch("app.service: Failed with result 'timeout'.");
    let boot = boot.map(|n| BootId([n; 16]));
    let line = |line: &ErrorLine| ErrorLine { kind: ErrorKind::UnitFailure, boot, mono: Some(mono), ..line.clone() };
    ErrorBatch { lines: batch.lines.iter().map(line).cycle().take(3).collect(), ..batch }
}

#[test]
fn what_failed_in_an_earlier_boot_or_long_before_the_run_is_told_and_is_not_of_its_first_interval() {
    const FAILS: &str = "[[rules]]\nname = \"fails\"\nmetric = \"errors.unit_failures\"\nabove = 2\n";
    for (what, came_up, boot, at, judged) in [
        ("as the machine went down", Some(Mono(500)), Some(1), Mono(601_000), false),
        ("before the agent began, in this boot", Some(Mono(500)), None, Mono(100), true),
        ("minutes before the agent came up", Some(Mono(240_000)), None, Mono(1_000), true),
        ("an hour before somebody started the agent", Some(Mono(3_600_000)), None, Mono(1_000), false),
        ("while no agent ran", None, None, Mono(300_000), false),
        ("just before the agent began", None, None, Mono(600_500), true),
    ] {
        let mut world = world(FAILS);
        world.advance(599 * SECOND);
        match came_up {
            Some(mono) => world.reboot_at(mono),
            None => world.crash(),
        }
        world.input(Input::Errors(failures(boot, at)));
        world.advance(180 * SECOND);
        let counts = world.got.iter().filter_map(|got| got.body["error"]["count"].as_u64());
        assert_eq!(counts.sum::<u64>(), 3, "{what}");
        assert_eq!(states(&world).first(), judged.then_some(&"raised"), "{what}");
    }
}

#[test]
fn an_alarm_that_stands_is_told_anew_by_a_start_that_finds_another_severity_of_its_rule() {
    let mut world = world(LOW);
    world.set(Metric::BatteryChargePct, Some(5.0));
    world.advance(2 * SECOND);
    world.config = config_with(&LOW.replace("critical", "warning"));
    for _ in 0..2 {
        world.crash();
        world.advance(15 * SECOND);
    }
    let told: Vec<_> = alarms(&world).iter().map(|event| (&event["severity"], &event["alarm"])).collect();
    let [(critical, before), (warning, after)] = told[..] else { panic!("{told:#?}") };
    assert_eq!((critical, warning), (&"critical".into(), &"warning".into()));
    assert_eq!((&before["state"], after), (&"raised".into(), before), "nothing else has changed");
    assert_eq!(
        (&dynamic(&world)["health"], &dynamic(&world)["alarms"]),
        (&"degraded".into(), &serde_json::json!(["low"]))
    );
}
