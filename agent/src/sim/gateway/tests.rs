use super::super::scenario::{BatteryWorld, ErrorsWorld, LinkWorld, Recurring, UnitWorld};
use super::super::tests::{configured, quiet};
use super::*;
use crate::engine::metric::Value;

const HOUR: u64 = 3_600_000;
const BOOT: BootId = BootId([1; 16]);

fn battery() -> BatteryWorld {
    BatteryWorld {
        capacity_wh: 100.0,
        charge_pct: 80.0,
        load_w: 2.0,
        sun_w: 10.0,
        daylight: Duration::from_secs(8 * 3_600),
        sky: (0.5, 0.5),
        mains_w: 0.0,
        off_pct: 5.0,
        on_pct: 20.0,
    }
}

fn app() -> UnitWorld {
    UnitWorld {
        unit: UnitName::parse("app.service").unwrap(),
        fails: None,
        hangs: false,
        restart_heals: 1.0,
        restarts_itself: None,
        leaks_pct_per_hour: 0.0,
        starts_in: Duration::from_secs(2),
    }
}

fn gateway(change: impl FnOnce(&mut Scenario)) -> Gateway {
    told("", change)
}

/// A gateway with lines of its own in the configuration.
fn told(config: &str, change: impl FnOnce(&mut Scenario)) -> Gateway {
    let mut scenario = quiet();
    change(&mut scenario);
    let plan = configured(scenario, config);
    let mut gateway = Gateway::new(&plan.scenario, &plan.config, Dice::new(1, "gateway"));
    gateway.booted(0, BOOT);
    gateway
}

fn value(gateway: &mut Gateway, at: u64, metric: Metric) -> Option<Value> {
    gateway.advance(at);
    gateway.observe(at, true).points.into_iter().find(|point| point.metric == metric).map(|point| point.value)
}

#[test]
fn what_the_sun_gives_and_the_load_takes_is_what_the_battery_has() {
    let mut gateway = gateway(|scenario| scenario.battery = Some(battery()));
    // From noon to noon: half a sky of ten watts over eight hours is 2/pi of 5 W x 8 h = 25.5 Wh; the load takes 48 Wh.
    gateway.advance(24 * HOUR);
    let (charge, _) = gateway.battery().unwrap();
    assert!((charge - (80.0 + 25.5 - 48.0)).abs() < 1.0, "{charge:.1} %");
}

#[test]
fn a_battery_without_sun_goes_off_and_comes_back_once_it_is_charged_again() {
    let mut gateway = gateway(|scenario| scenario.battery = Some(battery()));
    gateway.begin_fault(0, &FaultKind::NoPower);
    gateway.advance(37 * HOUR);
    assert!(gateway.powered());
    gateway.advance(38 * HOUR);
    assert!(!gateway.powered(), "75 Wh at 2 W last 37.5 h");
    gateway.went_down();
    gateway.end_fault(38 * HOUR, &FaultKind::NoPower);
    gateway.advance(7 * 24 * HOUR);
    assert!(gateway.powered());
}

#[test]
fn a_unit_fails_with_a_line_and_stays_down_until_it_is_restarted() {
    let mut gateway = gateway(|scenario| scenario.units = vec![app()]);
    gateway.begin_fault(HOUR, &FaultKind::UnitFails { unit: app().unit });
    gateway.advance(HOUR);
    let batch = gateway.take_errors(HOUR).unwrap();
    assert_eq!(batch.lines.iter().filter(|line| line.kind == observation::ErrorKind::UnitFailure).count(), 1);
    assert_eq!(gateway.next_change(), None, "nothing starts it");
    let performed = gateway.act(1, &Act::RestartUnit { unit: app().unit });
    assert_eq!(performed.takes, Duration::from_secs(2));
    gateway.finish(HOUR + 2_000, 1);
    gateway.advance(9 * HOUR);
    assert!(gateway.take_errors(9 * HOUR).is_none());
}

#[test]
fn a_bad_release_fails_over_and_over_until_it_is_rolled_back() {
    let mut gateway = gateway(|scenario| {
        scenario.units = vec![UnitWorld { restarts_itself: Some(Duration::from_secs(5)), ..app() }];
        scenario.releases = vec![ReleaseWorld {
            target: "firmware".into(),
            running: "2.0.10".into(),
            previous: "2.0.9".into(),
            unit: app().unit,
            bad: vec!["2.0.11".into()],
            update: Some(("2.0.11".into(), Duration::from_secs(3_600))),
        }];
    });
    gateway.advance(HOUR - 1);
    assert_eq!((gateway.firmware().unwrap().as_str(), gateway.take_errors(HOUR - 1)), ("2.0.10", None));
    for minute in 0..10 {
        gateway.advance(HOUR + minute * 60_000);
    }
    assert!(gateway.take_errors(HOUR + 600_000).unwrap().lines.len() >= 10);
    gateway.act(1, &Act::Rollback { target: "firmware".into(), to: None });
    gateway.finish(2 * HOUR, 1);
    gateway.take_errors(2 * HOUR);
    gateway.advance(3 * HOUR);
    assert_eq!((gateway.firmware().unwrap().as_str(), gateway.take_errors(3 * HOUR)), ("2.0.10", None));
}

#[test]
fn leaked_memory_comes_back_with_a_restart_and_too_much_of_it_is_killed() {
    let mut gateway = gateway(|scenario| scenario.units = vec![UnitWorld { leaks_pct_per_hour: 10.0, ..app() }]);
    let used = |gateway: &mut Gateway, at| value(gateway, at, Metric::HostMemUsed).unwrap().number().unwrap();
    assert!((used(&mut gateway, 3 * HOUR) - 70.0).abs() < 0.1);
    gateway.act(1, &Act::RestartUnit { unit: app().unit });
    gateway.finish(3 * HOUR, 1);
    assert!((used(&mut gateway, 3 * HOUR) - 40.0).abs() < 0.1);
    assert!((used(&mut gateway, 9 * HOUR) - 40.0).abs() < 0.1, "killed at 98 %");
    let kinds: Vec<_> = gateway.take_errors(9 * HOUR).unwrap().lines.into_iter().map(|line| line.kind).collect();
    assert!(kinds.contains(&observation::ErrorKind::OomKill), "{kinds:?}");
}

#[test]
fn coverage_comes_and_goes_and_the_calm_ends_it() {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let mut gateway = gateway(|scenario| {
        let gaps = Recurring { every: minutes(60), lasts: (minutes(1), minutes(10)) };
        scenario.links[0].gaps = Some(gaps);
    });
    let mut changes = 0;
    let mut at = 0;
    while let Some(next) = gateway.next_change().filter(|next| *next < 24 * HOUR) {
        (changes, at) = (changes + 1, next);
        gateway.advance(at);
    }
    assert!((20..80).contains(&changes), "{changes} changes in a day");
    gateway.calm(at);
    gateway.advance(at + 1);
    assert!(gateway.route().is_some() && gateway.next_change().is_none());
}

#[test]
fn lines_are_read_again_from_a_cursor_and_what_was_rotated_away_is_missed() {
    let mut gateway = gateway(|scenario| scenario.errors = ErrorsWorld { per_hour: 60.0, kinds: 3 });
    let first = gateway.take_errors(HOUR).unwrap();
    gateway.take_errors(2 * HOUR);
    gateway.read_errors_from(first.cursor.as_deref());
    let again = gateway.take_errors(2 * HOUR).unwrap();
    assert!(again.lines[0].mono > first.lines.last().unwrap().mono);
    let storm = FaultKind::ErrorStorm { per_second: 100, kinds: 5, severity: observation::Severity::Error };
    gateway.begin_fault(2 * HOUR, &storm);
    gateway.advance(2 * HOUR + 60_000);
    assert!(gateway.take_errors(2 * HOUR + 60_000).unwrap().missed > 1_000);
}

#[test]
fn sensors_lie_and_vanish_only_while_the_fault_lasts() {
    let mut gateway = gateway(|scenario| scenario.battery = Some(battery()));
    let lie = FaultKind::SensorLies { metric: "battery.charge_pct".into(), value: 3.0 };
    let gone = FaultKind::SensorGone { metric: "battery.".into() };
    gateway.begin_fault(0, &lie);
    assert_eq!(value(&mut gateway, 1_000, Metric::BatteryChargePct), Some(Value::Float(3.0)));
    gateway.begin_fault(0, &gone);
    assert_eq!(value(&mut gateway, 2_000, Metric::BatteryVoltage), None);
    gateway.end_fault(3_000, &gone);
    gateway.end_fault(3_000, &lie);
    assert_eq!(value(&mut gateway, 4_000, Metric::BatteryChargePct), Some(Value::Float(80.0)));
}

#[test]
fn a_quarantine_keeps_what_it_stops_down_over_boots_and_until_it_is_left() {
    let mut gateway = gateway(|scenario| scenario.units = vec![UnitWorld { leaks_pct_per_hour: 10.0, ..app() }]);
    gateway.stop_units = vec![app().unit];
    let level = |level| Act::Quarantine { level };
    gateway.act(1, &level(Some(QuarantineLevel::Restrict)));
    gateway.finish(HOUR, 1);
    let used = |gateway: &mut Gateway, at| value(gateway, at, Metric::HostMemUsed).unwrap().number().unwrap();
    let before = used(&mut gateway, HOUR);
    gateway.went_down();
    gateway.booted(2 * HOUR, BOOT);
    assert!((used(&mut gateway, 9 * HOUR) - before).abs() < 0.1, "what is stopped leaks nothing");
    gateway.act(2, &level(None));
    gateway.finish(9 * HOUR, 2);
    assert!(used(&mut gateway, 12 * HOUR) > before + 25.0, "it runs again");
}

#[test]
fn what_a_quarantine_is_to_keep_runs_on_in_it() {
    let config = "[quarantine]\nstop_units = [\"app.service\"]\nkeep_units = [\"app.service\"]\n";
    let mut gateway = told(config, |scenario| scenario.units = vec![UnitWorld { leaks_pct_per_hour: 10.0, ..app() }]);
    gateway.act(1, &Act::Quarantine { level: Some(QuarantineLevel::Restrict) });
    gateway.finish(0, 1);
    let used = value(&mut gateway, 3 * HOUR, Metric::HostMemUsed).unwrap().number().unwrap();
    assert!((used - 70.0).abs() < 0.1, "it leaks on: {used} %");
}

#[test]
fn what_is_put_in_force_again_stops_what_was_started_and_loosens_nothing() {
    let mut gateway = gateway(|scenario| scenario.units = vec![UnitWorld { leaks_pct_per_hour: 10.0, ..app() }]);
    gateway.stop_units = vec![app().unit];
    let refresh = Act::Refresh { level: QuarantineLevel::Restrict, wide: false };
    let acts =
        [Act::Quarantine { level: Some(QuarantineLevel::Isolate) }, Act::RestartUnit { unit: app().unit }, refresh];
    for (token, act) in (1..).zip(acts) {
        gateway.act(token, &act);
        gateway.finish(HOUR, token);
    }
    assert_eq!(gateway.quarantined(), Some(QuarantineLevel::Isolate));
    let mut used = |at| value(&mut gateway, at, Metric::HostMemUsed).unwrap().number().unwrap();
    let (before, after) = (used(2 * HOUR), used(5 * HOUR));
    assert!((after - before).abs() < 0.1, "what is stopped leaks nothing: {before} %, {after} %");
}

#[test]
fn what_is_put_in_force_ends_with_the_level_that_is_and_whether_units_stay_stopped() {
    let mut gateway = gateway(|scenario| scenario.units = vec![app()]);
    gateway.stop_units = vec![app().unit];
    let mut ended = |act: Act, outcome: ActOutcome| {
        gateway.act(1, &act);
        gateway.finish(HOUR, 1);
        let ActOutcome { quarantine, keeps_stopped, .. } = gateway.naming_level(&act, outcome);
        (quarantine, keeps_stopped)
    };
    let done = || ActOutcome::succeeded("done");
    let level = |level| Act::Quarantine { level };
    let [observe, isolate] = [QuarantineLevel::Observe, QuarantineLevel::Isolate];
    let refresh = Act::Refresh { level: observe, wide: false };
    assert_eq!(ended(level(Some(observe)), done()), (Some(observe), false));
    assert_eq!(ended(level(Some(isolate)), done()), (Some(isolate), true));
    assert_eq!(ended(refresh.clone(), done()), (Some(isolate), true), "only leaving loosens");
    assert_eq!(ended(refresh, ActOutcome::canceled("by a command")), (None, false));
    assert_eq!(ended(level(None), done()), (None, false));
}

#[test]
fn the_releases_that_run_are_observed() {
    let running = |config: &str, at| {
        let mut gateway = told(config, |scenario| {
            scenario.releases = vec![ReleaseWorld {
                target: "firmware".into(),
                running: "2.0.10".into(),
                previous: "2.0.9".into(),
                unit: app().unit,
                bad: vec![],
                update: Some(("2.0.11".into(), Duration::from_secs(3_600))),
            }];
        });
        gateway.advance(at);
        gateway.observe(at, true).releases.into_iter().map(|release| (release.target, release.name)).collect::<Vec<_>>()
    };
    let slots = "[rollback.firmware]\nkind = \"slots\"\ndir = \"/opt/app\"";
    assert_eq!(running(slots, HOUR - 1), [("firmware".to_owned(), "2.0.10".to_owned())]);
    assert_eq!(running(slots, HOUR), [("firmware".to_owned(), "2.0.11".to_owned())]);
    let command = "[rollback.firmware]\nkind = \"command\"\nargv = [\"/usr/bin/back\"]";
    for untold in [command, ""] {
        assert_eq!(running(untold, HOUR), [], "{untold}: no collector could tell");
    }
}

#[test]
fn what_the_configuration_does_not_have_collected_is_not_read() {
    let groups = |config: &str| {
        let mut gateway = told(config, |scenario| {
            scenario.battery = Some(battery());
            scenario.errors = ErrorsWorld { per_hour: 60.0, kinds: 3 };
        });
        gateway.disk_is(1 << 30, 1 << 29);
        let lines = gateway.take_errors(HOUR).is_some();
        let points = gateway.observe(HOUR, true).points;
        let reads = |group: &str| points.iter().any(|point| point.metric.path().starts_with(group));
        let read = ["battery.", "link.", "host."].map(|group| (group, reads(group)));
        [read.as_slice(), &[("errors.", lines)]]
            .concat()
            .into_iter()
            .filter(|(_, read)| *read)
            .map(|(group, _)| group)
            .collect()
    };
    let all: Vec<&str> = groups("");
    assert_eq!(all, ["battery.", "link.", "host.", "errors."]);
    for group in all {
        let name = group.trim_end_matches('.');
        let left = groups(&format!("[collect.{name}]\nenabled = false\n"));
        assert!(left.len() == 3 && !left.contains(&group), "{left:?} without {name}");
    }
}

#[test]
fn of_the_interfaces_those_are_told_that_the_configuration_names() {
    let links = |config: &str| {
        let mut gateway = told(config, |scenario| {
            let wwan = LinkWorld { interface: "wwan0".into(), kind: "cellular".into(), rssi_dbm: None, gaps: None };
            scenario.links.push(wwan);
        });
        gateway.advance(1_000_000);
        let points = gateway.observe(1_000_000, true).points;
        let find = |metric: Metric, label: Option<&str>| {
            let point = points.iter().find(|point| point.metric == metric && point.label.as_deref() == label);
            point.map(|point| point.value.clone())
        };
        let bytes = |name: &str| find(Metric::InterfaceRxBytes, Some(name));
        (find(Metric::LinkInterface, None), bytes("eth0"), bytes("wwan0"), find(Metric::InterfaceUp, Some("wlan0")))
    };
    let (eth0, wwan0) = (Some("eth0".into()), Some("wwan0".into()));
    let (all, none): (Option<Value>, Option<Value>) = (Some(200_000_u64.into()), Some(0_u64.into()));
    assert_eq!(links(""), (eth0, all.clone(), none.clone(), None), "what passes passes over the one with the route");
    let named = "[collect.link]\ninterfaces = [\"wwan0\", \"wlan0\"]\n";
    assert_eq!(links(named), (wwan0.clone(), None, none.clone(), Some(false.into())), "one that isn't there is down");
    let budget = format!("{named}[collect.link.monthly_budget]\neth0 = \"1GiB\"\n");
    assert_eq!(links(&budget), (wwan0, all, none, Some(false.into())), "data is counted of what has a budget");
}

#[test]
fn lines_are_read_of_the_severity_and_the_units_that_the_configuration_names() {
    let kinds = |config: &str| {
        let mut gateway = told(config, |scenario| {
            scenario.errors = ErrorsWorld { per_hour: 60.0, kinds: 1 };
            let restarts = Some(Duration::from_secs(5));
            scenario.units = vec![UnitWorld { restarts_itself: restarts, leaks_pct_per_hour: 30.0, ..app() }];
        });
        gateway.begin_fault(HOUR, &FaultKind::UnitFails { unit: app().unit });
        gateway.advance(4 * HOUR);
        let lines = gateway.take_errors(4 * HOUR).map(|batch| batch.lines).unwrap_or_default();
        let has = |kind| lines.iter().any(|line| line.kind == kind);
        use observation::ErrorKind::{OomKill, Plain, UnitFailure, UnitRestart};
        [Plain, UnitFailure, UnitRestart, OomKill].map(has)
    };
    assert_eq!(kinds(""), [true; 4]);
    let severest = "[collect.errors]\nmin_severity = \"emerg\"\n";
    assert_eq!(kinds(severest), [false, true, true, true], "what is counted apart is taken at any severity");
    let units = |unit: &str| format!("[collect.errors]\nunits = [\"{unit}\"]\n");
    assert_eq!(kinds(&units("app.service")), [false, true, true, true]);
    assert_eq!(kinds(&units("sensor-0.service")), [true, false, false, false]);
}

#[test]
fn a_metric_that_is_said_to_move_moves_and_another_one_stands_still() {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let mut scenario = quiet();
    scenario.battery = Some(BatteryWorld { mains_w: 1.0, ..battery() });
    scenario.units = vec![UnitWorld { leaks_pct_per_hour: 20.0, ..app() }];
    scenario.links[0].gaps = Some(Recurring { every: minutes(20), lasts: (minutes(5), minutes(10)) });
    for (interface, kind) in [("wlan0", "wifi"), ("wwan0", "cellular")] {
        let gaps = scenario.links[0].gaps;
        scenario.links.push(LinkWorld { interface: interface.into(), kind: kind.into(), rssi_dbm: Some(-80.0), gaps });
    }
    let plan = configured(scenario, "[collect.host]\nmounts = [\"/\", \"/data\"]\n");
    let mut gateway = Gateway::new(&plan.scenario, &plan.config, Dice::new(1, "gateway"));
    gateway.booted(0, BOOT);
    let mut seen: BTreeMap<(Metric, Option<String>), Vec<Value>> = BTreeMap::new();
    for at in (0..48 * HOUR).step_by(60_000) {
        if at == 24 * HOUR {
            gateway.begin_fault(at, &FaultKind::NoPower);
        }
        gateway.advance(at);
        gateway.disk_is(1 << 30, (1 << 29) - at);
        for point in gateway.observe(at, at > HOUR).points {
            let values = seen.entry((point.metric, point.label.map(String::from))).or_default();
            if !values.contains(&point.value) && values.len() < 3 {
                values.push(point.value);
            }
        }
    }
    for ((metric, label), values) in &seen {
        let (said, name) = (moved::moved(&plan.scenario, &plan.config, *metric, label.as_deref()), metric.path());
        // Of what goes by a label no sensor lies.
        let still = if label.is_some() { moved::Moved::Never } else { moved::Moved::ByALie };
        let expected = if values.len() > 1 { moved::Moved::Yes } else { still };
        assert_eq!(said, expected, "{name} {label:?} {values:?}");
    }
    // What the engine makes of readings and of its own doings, and a collector has no point of.
    let made = |metric: &Metric| {
        let (path, of_the_link) = (metric.path(), ["broker_rtt_ms", "connected_s", "expected_s", "reconnects"]);
        path.starts_with("errors.")
            || path.starts_with("agent.")
            || of_the_link.iter().any(|field| path == format!("link.{field}"))
            || ["time_to_empty_s", "discharged_pct", "drain_pct_h"]
                .iter()
                .any(|field| path == format!("battery.{field}"))
    };
    for metric in Metric::ALL.iter().filter(|metric| !metric.has_label() && !made(metric)) {
        let is_read = seen.contains_key(&(*metric, None));
        let said = moved::moved(&plan.scenario, &plan.config, *metric, None);
        assert_eq!(said != moved::Moved::Never, is_read, "{metric}");
    }
}

#[test]
fn a_rule_that_nothing_here_can_raise_is_named_unless_a_sensor_lies_about_its_metric() {
    let rule =
        |name: &str, metric: &str, test: &str| format!("[[rules]]\nname = \"{name}\"\nmetric = \"{metric}\"\n{test}\n");
    let rules = [
        rule("flaky", "link.rx_errors", "above = 3"),
        rule("worn", "host.flash_life_used_pct", "above = 80"),
        rule("port", "host.listeners", "anomaly = \"new_listener\""),
        rule("empty", "battery.charge_pct", "below = 10"),
        rule("gone", "battery.charge_pct", "missing_for = \"1h\""),
        rule("hot", "host.temperature_c", "above = 80"),
    ];
    let mut scenario = quiet();
    let lie = FaultKind::SensorLies { metric: "host.flash_life_used_pct".into(), value: 90.0 };
    scenario.faults = vec![super::super::tests::lasting(lie, Duration::from_secs(60), Duration::from_secs(60))];
    let plan = configured(scenario, &rules.concat());
    let named: Vec<String> =
        unmoved(&plan.scenario, &plan.config).into_iter().map(|it| format!("{} {}", it.rule, it.metric)).collect();
    assert_eq!(named, ["flaky link.rx_errors", "port host.listeners", "empty battery.charge_pct"]);
}

#[test]
fn of_two_faults_of_a_kind_the_first_to_end_leaves_the_other() {
    let storm = |per_second| FaultKind::ErrorStorm { per_second, kinds: 1, severity: observation::Severity::Error };
    let mut gateway = gateway(|scenario| scenario.battery = Some(battery()));
    for fault in [FaultKind::NoPower, FaultKind::NoPower, storm(1), storm(2)] {
        gateway.begin_fault(0, &fault);
    }
    gateway.end_fault(1_000, &storm(2));
    gateway.end_fault(1_000, &FaultKind::NoPower);
    gateway.take_errors(1_000);
    assert_eq!(gateway.take_errors(11_000).unwrap().lines.len(), 10, "a line a second");
    // 75 Wh at 2 W last 37.5 h; the sun of two days would have given another 50 Wh.
    gateway.advance(38 * HOUR);
    assert!(!gateway.powered());
    gateway.end_fault(38 * HOUR, &FaultKind::NoPower);
    gateway.end_fault(38 * HOUR, &storm(1));
    while gateway.take_errors(38 * HOUR).is_some() {}
    gateway.went_down();
    gateway.advance(7 * 24 * HOUR);
    assert!(gateway.powered() && gateway.take_errors(7 * 24 * HOUR).is_none());
}

#[test]
fn during_a_gap_the_next_link_carries_the_route_and_each_is_told_by_name() {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let mut gateway = gateway(|scenario| {
        scenario.links[0].gaps = Some(Recurring { every: minutes(60), lasts: (minutes(5), minutes(10)) });
        scenario.links.push(LinkWorld {
            interface: "wwan0".into(),
            kind: "cellular".into(),
            rssi_dbm: None,
            gaps: None,
        });
    });
    let text =
        |gateway: &mut Gateway, at, metric| value(gateway, at, metric).map(|value| format!("{value:?}")).unwrap();
    assert!(text(&mut gateway, 0, Metric::LinkInterface).contains("eth0"));
    while gateway.route() == Some(0) {
        let at = gateway.next_change().unwrap();
        gateway.advance(at);
    }
    let at = gateway.next_change().unwrap() - 1;
    assert!(text(&mut gateway, at, Metric::LinkInterface).contains("wwan0"));
    let up: Vec<_> =
        gateway.observe(at, true).points.into_iter().filter(|point| point.metric == Metric::InterfaceUp).collect();
    assert_eq!(up, [("eth0", false), ("wwan0", true)].map(|(name, up)| Point::labelled(Metric::InterfaceUp, name, up)));
    gateway.advance(at + 1);
    assert_eq!(gateway.route(), Some(0), "back on the first");
}

#[test]
fn what_does_not_exist_is_not_restarted() {
    let mut gateway = gateway(|_| ());
    let failed = gateway.act(1, &Act::RestartLink { interface: "wlan7".into() }).outcome;
    assert_eq!(failed.reason.as_deref(), Some("no_such_interface"));
    let performed = gateway.act(2, &Act::RestartLink { interface: "eth0".into() });
    assert_eq!(performed.takes, LINK_TAKES);
}

#[test]
fn a_machine_that_is_off_writes_no_lines_and_each_line_names_its_boot() {
    let mut gateway = gateway(|scenario| scenario.errors = ErrorsWorld { per_hour: 60.0, kinds: 3 });
    let first = gateway.take_errors(HOUR).unwrap();
    gateway.went_down();
    assert_eq!(gateway.take_errors(3 * HOUR), None);
    let next = BootId([2; 16]);
    gateway.booted(3 * HOUR, next);
    assert_eq!(gateway.take_errors(3 * HOUR), None);
    let second = gateway.take_errors(4 * HOUR).unwrap();
    assert!(first.lines.iter().all(|line| line.boot == Some(BOOT)));
    assert!(second.lines.iter().all(|line| line.boot == Some(next) && line.mono.unwrap().0 > 0));
    assert!((30..90).contains(&second.lines.len()), "{} lines of an hour", second.lines.len());
}

#[test]
fn a_unit_that_a_quarantine_stopped_runs_once_it_is_restarted() {
    let mut gateway = gateway(|scenario| scenario.units = vec![UnitWorld { leaks_pct_per_hour: 10.0, ..app() }]);
    gateway.stop_units = vec![app().unit];
    gateway.act(1, &Act::Quarantine { level: Some(QuarantineLevel::Restrict) });
    gateway.finish(0, 1);
    assert_eq!(gateway.act(2, &Act::RestartUnit { unit: app().unit }).outcome.detail.as_deref(), Some("active"));
    gateway.finish(HOUR, 2);
    let used = value(&mut gateway, 2 * HOUR, Metric::HostMemUsed).unwrap().number().unwrap();
    assert!((used - 50.0).abs() < 0.1, "it leaks again: {used} %");
}
