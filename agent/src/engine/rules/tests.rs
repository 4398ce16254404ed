use super::watch::{RATE_READINGS_MAX, RATE_READINGS_MIN};
use super::*;
use crate::config::{Anomaly, AttributeValue, RuleTest, Share};
use crate::engine::metric::{Metric, Point, Value};
use crate::engine::observation::Observation;
use crate::engine::record::{Body, EventKind, Field, Reading, Sample};
use crate::engine::time::BootId;

const INTERVAL: Duration = Duration::from_secs(10);
const REPORT: Duration = Duration::from_secs(60);

fn at(s: u64) -> Stamp {
    Stamp { boot: BootId([1; 16]), mono: Mono(s * 1000) }
}

fn rule(metric: &str, test: RuleTest) -> Rule {
    Rule {
        name: "r".into(),
        metric: metric.into(),
        test,
        hold: Duration::ZERO,
        share: None,
        clear_above: None,
        clear_below: None,
        clear_for: None,
        severity: Severity::Critical,
        remedy: Some("heal".into()),
    }
}

fn rules(rule: Rule) -> Rules {
    Rules::new(&[rule], at(0), &[], 0).0
}

/// One round of collection at `s` seconds.
fn observe(rules: &mut Rules, s: u64, points: &[Point]) -> Vec<Change> {
    let observation = Observation { points: points.to_vec(), ..Observation::default() };
    rules.judge(at(s), None, INTERVAL, REPORT, Round::Observed(Some(&observation)))
}

/// What each round said: + raised, - cleared, . nothing.
fn charge(rules: &mut Rules, from_s: u64, readings: &[Option<f64>]) -> String {
    let mut said = String::new();
    for (n, reading) in (0..).zip(readings) {
        let points: Vec<Point> = reading.iter().map(|pct| Point::new(Metric::BatteryChargePct, *pct)).collect();
        let changes = observe(rules, from_s + 10 * n, &points);
        said.push(match changes.as_slice() {
            [] => '.',
            [change] if change.raised => '+',
            [_] => '-',
            _ => '?',
        });
    }
    said
}

fn sample(interval_s: u64, readings: &[(Metric, Option<&str>, u64)]) -> Sample {
    let reading = |(metric, label, count): &(Metric, Option<&str>, u64)| Reading {
        metric: *metric,
        label: label.map(Into::into),
        value: Value::Count(*count),
        range: None,
    };
    Sample { interval_ms: interval_s * 1000, readings: readings.iter().map(reading).collect() }
}

fn report(rules: &mut Rules, s: u64, sample: &Sample) -> Vec<Change> {
    rules.judge(at(s), None, REPORT, REPORT, Round::Reported(sample))
}

const LOW: Option<f64> = Some(5.0);
const FINE: Option<f64> = Some(80.0);

#[test]
fn an_alarm_says_what_crossed_which_limit_and_since_when() {
    let mut rules = rules(Rule { hold: INTERVAL, ..rule("battery.charge_pct", RuleTest::Below(10.0)) });
    assert_eq!(charge(&mut rules, 10, &[LOW]), ".");
    let [change] = &observe(&mut rules, 20, &[Point::new(Metric::BatteryChargePct, 4.0)])[..] else { panic!() };
    let said = (change.rule.as_str(), change.severity, change.remedy.as_deref(), change.raised);
    assert_eq!(said, ("r", Severity::Critical, Some("heal"), true));
    let expected = Event::new(Severity::Critical, EventKind::Alarm, "r")
        .with("rule", "r")
        .with("state", "raised")
        .with("metric", "battery.charge_pct")
        .with("value", 4.0)
        .with("threshold", 10.0)
        .with("since", at(10))
        .with("detector", "threshold");
    assert_eq!(change.event.as_ref(), Some(&expected));
}

#[test]
fn a_limit_is_crossed_only_beyond_it() {
    for (test, reading, raised) in [
        (RuleTest::Below(10.0), 10.0, false),
        (RuleTest::Below(10.0), 9.9, true),
        (RuleTest::Above(10.0), 10.0, false),
        (RuleTest::Above(10.0), 10.1, true),
        (RuleTest::Equals(AttributeValue::Integer(10)), 10.0, true),
        (RuleTest::Equals(AttributeValue::Integer(10)), 10.1, false),
    ] {
        let mut rules = rules(rule("battery.charge_pct", test.clone()));
        charge(&mut rules, 0, &[Some(reading)]);
        assert_eq!(rules.is_raised("r"), raised, "{test:?} of {reading}");
    }
}

#[test]
fn words_and_flags_are_equal_to_themselves() {
    for (metric, wanted, reading, raised) in [
        ("battery.state", AttributeValue::Text("discharging".into()), Value::from("discharging"), true),
        ("battery.state", AttributeValue::Text("discharging".into()), Value::from("full"), false),
        ("battery.state", AttributeValue::Integer(0), Value::from("full"), false),
        ("link.interfaces.eth0.up", AttributeValue::Flag(false), Value::from(false), true),
        ("link.interfaces.eth0.up", AttributeValue::Integer(0), Value::from(false), true),
    ] {
        let mut rules = rules(rule(metric, RuleTest::Equals(wanted.clone())));
        let (metric, label) = Metric::find(metric).unwrap();
        let point = Point { metric, label: label.map(Into::into), value: reading.clone() };
        let other = Point { label: Some("wlan0".into()), value: Value::from("other"), ..point.clone() };
        observe(&mut rules, 0, &[point, other]);
        assert_eq!(rules.is_raised("r"), raised, "{wanted:?} and {reading:?}");
    }
}

#[test]
fn an_alarm_is_raised_only_when_its_test_held_throughout() {
    let hold = Duration::from_secs(30);
    let mut rules = rules(Rule { hold, ..rule("battery.charge_pct", RuleTest::Below(10.0)) });
    assert_eq!(charge(&mut rules, 0, &[LOW, LOW, FINE, LOW, LOW, LOW, LOW]), "......+");
}

#[test]
fn a_round_that_comes_early_by_less_than_half_an_interval_costs_no_whole_one() {
    let hold = Duration::from_secs(30);
    let raised_at = |rule: Rule, readings: &[(u64, Option<f64>)]| {
        let mut rules = rules(rule);
        let raised = readings.iter().find(|(ms, reading)| {
            let points = reading.iter().map(|pct| Point::new(Metric::BatteryChargePct, *pct)).collect();
            let observation = Observation { points, ..Observation::default() };
            let now = Stamp { mono: Mono(*ms), ..at(0) };
            !rules.judge(now, None, INTERVAL, REPORT, Round::Observed(Some(&observation))).is_empty()
        });
        raised.map(|(ms, _)| *ms)
    };
    let low = |hold| Rule { hold, ..rule("battery.charge_pct", RuleTest::Below(10.0)) };
    let early = [10_003, 20_002, 30_001, 40_002, 50_000].map(|ms| (ms, LOW));
    assert_eq!(raised_at(low(hold), &early), Some(40_002));
    let half = [10_000, 20_000, 30_000, 35_000, 40_000].map(|ms| (ms, LOW));
    assert_eq!(raised_at(low(hold), &half), Some(40_000));
    assert_eq!(raised_at(low(Duration::from_secs(1)), &early), Some(20_002), "one round is no second");
    let missing = rule("battery.charge_pct", RuleTest::MissingFor(hold));
    let gone = early.map(|(ms, _)| (ms, (ms < 20_000).then_some(80.0)));
    assert_eq!(raised_at(missing, &gone), Some(40_002));
}

#[test]
fn what_is_missing_neither_raises_nor_clears() {
    let mut below = rules(rule("battery.charge_pct", RuleTest::Below(10.0)));
    assert_eq!(charge(&mut below, 0, &[None, None, LOW, None, None, None, None, None, FINE]), "..+.....-");
    let mut nonsense = rules(rule("battery.charge_pct", RuleTest::Below(10.0)));
    assert_eq!(charge(&mut nonsense, 0, &[Some(f64::NAN), LOW, Some(f64::NAN), Some(f64::INFINITY)]), ".+..");
}

#[test]
fn the_clock_of_an_alarm_runs_on_over_a_short_gap_and_begins_anew_after_a_long_one() {
    let hold = Duration::from_secs(50);
    let below = || rules(Rule { hold, ..rule("battery.charge_pct", RuleTest::Below(10.0)) });
    assert_eq!(charge(&mut below(), 0, &[LOW, None, None, LOW, LOW, LOW]), ".....+");
    assert_eq!(charge(&mut below(), 0, &[LOW, None, None, None, LOW, LOW, LOW]), ".......");
    let mut asleep = below();
    charge(&mut asleep, 0, &[LOW]);
    assert_eq!(charge(&mut asleep, 3_600, &[LOW, LOW]), "..", "an hour of sleep is not an hour below the limit");
}

#[test]
fn an_alarm_clears_beyond_its_clear_level_only_and_after_its_time() {
    let mut rules = rules(Rule {
        clear_above: Some(15.0),
        clear_for: Some(Duration::from_secs(20)),
        ..rule("battery.charge_pct", RuleTest::Below(10.0))
    });
    let readings = [5.0, 12.0, 15.0, 16.0, 17.0, 14.0, 16.0, 16.0, 16.0].map(Some);
    assert_eq!(charge(&mut rules, 0, &readings), "+.......-");
}

#[test]
fn a_cleared_alarm_names_the_limit_that_raised_it() {
    let mut rules = rules(Rule { clear_below: Some(75.0), ..rule("host.temperature_c", RuleTest::Above(85.0)) });
    let round = |rules: &mut Rules, s, celsius: f64| observe(rules, s, &[Point::new(Metric::HostTemperature, celsius)]);
    assert_eq!(round(&mut rules, 0, 90.0).len(), 1);
    assert_eq!(round(&mut rules, 10, 80.0), []);
    let event = round(&mut rules, 20, 74.0).remove(0).event.unwrap();
    assert_eq!(event.field("state"), Some(&"cleared".into()));
    assert_eq!(event.field("threshold"), Some(&85.0.into()));
    assert_eq!(event.field("since"), Some(&at(0).into()), "how long it stood can be told from the one event");
    assert_eq!(event.severity, Severity::Notice);
}

#[test]
fn missing_for_is_raised_by_rounds_without_a_reading_and_cleared_by_one() {
    let mut rules = rules(rule("battery.charge_pct", RuleTest::MissingFor(Duration::from_secs(30))));
    assert_eq!(charge(&mut rules, 10, &[FINE, None, None, None, None, FINE]), "...+.-");
    let changes = charge(&mut rules, 70, &[Some(f64::NAN), None, None]);
    assert_eq!(changes, "..+", "nonsense is no reading");
}

#[test]
fn what_is_missing_is_so_since_its_last_reading() {
    let mut rules = rules(rule("battery.charge_pct", RuleTest::MissingFor(Duration::from_secs(30))));
    assert_eq!(charge(&mut rules, 10, &[FINE, FINE, None, None, None]), "....+");
    assert_eq!(rules.raised().map(|alarm| alarm.since).collect::<Vec<_>>(), [at(20)]);
}

#[test]
fn a_sensor_is_not_missing_while_nobody_looked() {
    let mut rules = rules(rule("battery.charge_pct", RuleTest::MissingFor(Duration::from_secs(60))));
    assert_eq!(charge(&mut rules, 10, &[FINE]), ".");
    assert_eq!(charge(&mut rules, 7_200, &[None, None, FINE]), "...");
}

#[test]
fn a_rate_is_a_rise_a_second_over_many_readings() {
    let mut rules = rules(rule("host.mem_used_pct", RuleTest::RateAbove(0.05)));
    let mut raised_at = None;
    for n in 0..RATE_READINGS_MAX as u64 * 3 {
        // A leak of 0.08 % a second under noise of 2 % between neighbours, and a wrong reading now and then.
        let noise = if n % 2 == 0 { 1.0 } else { -1.0 };
        let number = if n % 10 == 7 { 0.0 } else { 20.0 + 0.8 * n as f64 + noise };
        if let [change] = &observe(&mut rules, n * 10, &[Point::new(Metric::HostMemUsed, number)])[..] {
            assert!(change.raised && raised_at.is_none(), "flutters at reading {n}");
            let Some(Field::Value(Value::Float(rate))) = change.event.as_ref().unwrap().field("value") else {
                panic!()
            };
            assert!((0.05..0.1).contains(rate), "{rate} % a second");
            raised_at = Some(n + 1);
        }
    }
    let readings = raised_at.unwrap();
    assert!((RATE_READINGS_MIN as u64..=RATE_READINGS_MAX as u64).contains(&readings), "after {readings}");
}

#[test]
fn noise_without_a_trend_makes_no_rate() {
    for test in [RuleTest::RateAbove(0.05), RuleTest::RateBelow(-0.05)] {
        let mut rules = rules(rule("host.mem_used_pct", test.clone()));
        for n in 0..200_u64 {
            let number = if n % 2 == 0 { 41.0 } else { 39.0 };
            assert_eq!(observe(&mut rules, n * 10, &[Point::new(Metric::HostMemUsed, number)]), [], "{test:?} at {n}");
        }
    }
}

#[test]
fn a_rate_is_not_taken_over_a_gap() {
    let mut rules = rules(rule("battery.charge_pct", RuleTest::RateBelow(-0.01)));
    assert!(!charge(&mut rules, 0, &[FINE; 20]).contains('+'));
    // It slept, and the battery was half empty when it woke: nothing says how fast that went.
    assert_eq!(charge(&mut rules, 600, &[Some(40.0); 20]), ".".repeat(20));
    let falling: Vec<Option<f64>> = (0..20).map(|n| Some(40.0 - 0.2 * f64::from(n))).collect();
    assert!(charge(&mut rules, 800, &falling).contains('+'));
}

#[test]
fn counts_are_judged_by_the_interval_and_their_rates_by_the_second() {
    let mut failures = rules(rule("errors.unit_failures", RuleTest::Above(2.0)));
    for (s, count, said) in [(60, 2, None), (120, 3, Some(true)), (180, 0, Some(false))] {
        let changes = report(&mut failures, s, &sample(60, &[(Metric::ErrorsUnitFailures, None, count)]));
        assert_eq!(changes.first().map(|change| change.raised), said, "{count} failures");
    }
    let mut traffic = rules(rule("link.interfaces.wwan0.rx_bytes", RuleTest::RateAbove(1_000.0)));
    let wwan = |bytes| sample(60, &[(Metric::InterfaceRxBytes, Some("wwan0"), bytes)]);
    assert_eq!(report(&mut traffic, 60, &wwan(60_000)), []);
    assert_eq!(report(&mut traffic, 120, &wwan(60_001)).len(), 1);
    // A round of collection has only the counter itself, which says nothing of the interval.
    let counter = Point::labelled(Metric::InterfaceRxBytes, "wwan0", 1_u64);
    assert_eq!(observe(&mut traffic, 130, &[counter]), []);
}

#[test]
fn a_count_that_the_agent_leaves_out_is_none_and_one_that_it_does_not_keep_is_missing() {
    let parts = [
        ("errors.by_severity.critical", Metric::ErrorsBySeverity, "critical"),
        ("errors.kernel_by_class.oom", Metric::ErrorsKernelClass, "oom"),
        ("errors.app_refused.rate", Metric::ErrorsAppRefused, "rate"),
    ];
    for (path, metric, label) in parts {
        let mut errors = rules(rule(path, RuleTest::Above(0.0)));
        let counted = sample(60, &[(Metric::ErrorsCount, None, 1), (metric, Some(label), 1)]);
        assert_eq!(report(&mut errors, 60, &counted).len(), 1, "{path}");
        assert_eq!(report(&mut errors, 120, &sample(60, &[])), [], "{path}: errors aren't collected");
        assert_eq!(report(&mut errors, 180, &sample(60, &[(Metric::ErrorsCount, None, 0)])).len(), 1, "{path}");
    }
    let mut implausible = rules(rule("agent.implausible_readings", RuleTest::Above(0.0)));
    assert_eq!(report(&mut implausible, 60, &sample(60, &[(Metric::AgentImplausible, None, 1)])).len(), 1);
    assert_eq!(report(&mut implausible, 120, &sample(60, &[])).len(), 1);
    let mut traffic = rules(rule("link.rx_bytes", RuleTest::Below(1.0)));
    assert_eq!(report(&mut traffic, 60, &sample(60, &[])), []);
}

#[test]
fn an_alarm_that_flaps_stands_for_the_fleet_until_it_is_quiet() {
    let mut rules = rules(rule("battery.charge_pct", RuleTest::Below(10.0)));
    let (mut told, mut changes) = (Vec::new(), 0);
    for n in 0..100 {
        let reading = if n % 2 == 0 { 5.0 } else { 80.0 };
        for change in observe(&mut rules, n * 10, &[Point::new(Metric::BatteryChargePct, reading)]) {
            changes += 1;
            told.extend(change.event);
        }
        assert_eq!(rules.poll(at(n * 10).mono), []);
    }
    assert_eq!((changes, told.len()), (100, EVENTS_PER_HOUR_MAX - 1), "those who act on alarms see each change");
    assert_eq!(rules.take_untold(), 100 - told.len() as u64);
    assert_eq!(told.last().unwrap().field("state"), Some(&"raised".into()));
    assert!(!rules.is_raised("r") && rules.raised().count() == 1);
    // The hour of the first two events is over: there is room to tell that it cleared, and that it was raised again.
    let deadline = rules.deadline().unwrap();
    assert_eq!(deadline, at(3_600).mono);
    let late = rules.poll(deadline);
    assert_eq!(late.len(), 1);
    assert_eq!(late[0].field("state"), Some(&"cleared".into()));
    assert_eq!((rules.raised().count(), rules.deadline()), (0, None));
}

fn stored(rule: &str, seq: u64, event: &Event) -> (String, Bytes) {
    let record = Record { at: at(7), body: Body::Event(event.clone()) };
    entry(rule, seq, &record)
}

fn events_of(rule: &Rule) -> [Event; 2] {
    let mut rules = rules(rule.clone());
    [4.0, 80.0].map(|pct| {
        let mut changes = observe(&mut rules, 7, &[Point::new(Metric::BatteryChargePct, pct)]);
        changes.remove(0).event.unwrap()
    })
}

#[test]
fn a_raised_alarm_stays_raised_over_a_restart_until_a_reading_says_otherwise() {
    let rule = rule("battery.charge_pct", RuleTest::Below(10.0));
    let [raised, _] = events_of(&rule);
    let (mut rules, leftovers) = Rules::new(&[rule], at(0), &[stored("r", 5, &raised)], 5);
    let told: Vec<u64> = leftovers.told.iter().map(|(seq, _)| *seq).collect();
    assert_eq!((told, leftovers.again, leftovers.cleared, leftovers.forget), (vec![5], vec![], vec![], vec![]));
    assert_eq!(rules.raised().map(|alarm| (alarm.rule, alarm.since)).collect::<Vec<_>>(), [("r", at(7))]);
    assert_eq!(charge(&mut rules, 10, &[None, LOW, LOW, FINE]), "...-");
}

#[test]
fn a_missing_sensor_that_raised_an_alarm_is_still_missing_after_a_restart() {
    let rule = rule("battery.charge_pct", RuleTest::MissingFor(Duration::from_secs(30)));
    let mut before = rules(rule.clone());
    let event = observe(&mut before, 30, &[]).remove(0).event.unwrap();
    let (mut rules, _) = Rules::new(&[rule], at(0), &[stored("r", 5, &event)], 5);
    assert_eq!(charge(&mut rules, 10, &[None, None, None, None, FINE]), "....-");
}

#[test]
fn what_a_restart_leaves_behind_is_told_once_or_forgotten() {
    let here = rule("battery.charge_pct", RuleTest::Below(10.0));
    let [raised, cleared] = events_of(&here);
    let elsewhere = rule("host.load1", RuleTest::Above(1.0));
    // (rules, event, its number, highest number in the log) -> (told again, cleared, forgotten, raised)
    let cases = [
        (&here, &raised, 5, 5, (0, 0, 0, true)),
        (&here, &raised, 6, 5, (1, 0, 0, true)),
        (&here, &cleared, 5, 5, (0, 0, 1, false)),
        (&here, &cleared, 6, 5, (1, 0, 0, false)),
        (&elsewhere, &raised, 5, 5, (0, 1, 0, false)),
        (&elsewhere, &raised, 6, 5, (0, 0, 1, false)),
    ];
    for (rule, event, seq, last, expected) in cases {
        let (rules, left) = Rules::new(std::slice::from_ref(rule), at(0), &[stored("r", seq, event)], last);
        let found = (left.again.len(), left.cleared.len(), left.forget.len(), rules.is_raised("r"));
        assert_eq!(found, expected, "{} {seq} of {last}: {:?}", rule.metric, event.field("state"));
        for ended in left.cleared {
            let said = ["reason", "threshold", "detector"].map(|key| ended.field(key).cloned().unwrap());
            assert_eq!(said, ["rule_removed".into(), 10.0.into(), "threshold".into()]);
        }
    }
}

#[test]
fn a_stored_alarm_that_is_damaged_is_forgotten() {
    let rule = rule("battery.charge_pct", RuleTest::Below(10.0));
    let (rules, leftovers) = Rules::new(&[rule], at(0), &[("alarm/r".into(), Bytes::from_static(b"\xff\x00"))], 5);
    assert_eq!((rules.is_raised("r"), leftovers.forget), (false, vec!["alarm/r".to_owned()]));
}

#[test]
fn rules_that_stay_keep_their_state_and_the_alarms_of_others_end() {
    let slow = Rule { hold: Duration::from_secs(20), ..rule("battery.charge_pct", RuleTest::Below(10.0)) };
    let load = Rule { name: "load".into(), ..rule("host.load1", RuleTest::Above(1.0)) };
    let mut rules = Rules::new(&[slow.clone(), load.clone()], at(0), &[], 0).0;
    let low = [Point::new(Metric::BatteryChargePct, 5.0), Point::new(Metric::HostLoad1, 2.0)];
    assert_eq!(observe(&mut rules, 0, &low).len(), 1);
    observe(&mut rules, 10, &low);

    let louder = Rule { severity: Severity::Emergency, ..slow };
    let changes = rules.reconfigure(&[louder], at(15));
    let [change] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!((change.rule.as_str(), change.raised), ("load", false));
    let ended = change.event.as_ref().unwrap();
    let said = ["reason", "value", "threshold", "detector"].map(|key| ended.field(key).cloned().unwrap());
    assert_eq!(said, ["rule_removed".into(), 2.0.into(), 1.0.into(), "threshold".into()]);
    let changes = observe(&mut rules, 20, &low);
    assert_eq!(changes.iter().map(|c| (c.raised, c.severity)).collect::<Vec<_>>(), [(true, Severity::Emergency)]);

    let other_limit = rule("battery.charge_pct", RuleTest::Below(3.0));
    let other_limit = Rule { severity: Severity::Emergency, ..other_limit };
    assert_eq!(
        rules.reconfigure(std::slice::from_ref(&other_limit), at(25)),
        [],
        "an alarm stands until a reading says otherwise"
    );
    let milder = Rule { severity: Severity::Notice, ..other_limit };
    let changes = rules.reconfigure(std::slice::from_ref(&milder), at(26));
    let [change] = changes.as_slice() else { panic!("{changes:?}") };
    let told = change.event.as_ref().unwrap();
    assert_eq!((change.raised, told.severity, told.field("state")), (true, Severity::Notice, Some(&"raised".into())));
    assert_eq!(rules.reconfigure(&[milder], at(27)), []);
    assert_eq!(observe(&mut rules, 30, &low).iter().map(|c| c.raised).collect::<Vec<_>>(), [false]);
}

#[test]
fn so_many_of_the_last_readings_raise_it_wherever_they_stand_and_what_is_missing_is_none_of_them() {
    let share = Some(Share { of: 3, readings: 5 });
    let low = || Rule { share, clear_above: Some(15.0), ..rule("battery.charge_pct", RuleTest::Below(10.0)) };
    let (bad, good) = (Some(5.0), Some(20.0));
    assert_eq!(charge(&mut rules(low()), 10, &[bad, good, bad, good, bad]), "....+");
    assert_eq!(charge(&mut rules(low()), 10, &[bad, good, good, bad, good, bad, good, bad]), ".......+");
    assert_eq!(charge(&mut rules(low()), 10, &[bad, None, bad, None, bad]), "....+");
    assert_eq!(charge(&mut rules(low()), 10, &[bad, bad, good, good, good, bad, bad]), ".......");
    // It clears as ever, and begins to count anew.
    assert_eq!(charge(&mut rules(low()), 10, &[bad, bad, bad, good, bad, bad, bad]), "..+-..+");
}

#[test]
fn readings_of_before_a_gap_do_not_count() {
    let share = Some(Share { of: 2, readings: 4 });
    let mut rules = rules(Rule { share, ..rule("battery.charge_pct", RuleTest::Below(10.0)) });
    assert_eq!(charge(&mut rules, 10, &[Some(5.0)]), ".");
    assert_eq!(charge(&mut rules, 600, &[Some(5.0), Some(20.0), Some(5.0)]), "..+");
}

#[test]
fn what_is_counted_in_shorter_intervals_is_added_up_for_its_limit() {
    let failures = |counts: &[u64]| {
        let mut rules = rules(rule("errors.unit_failures", RuleTest::Above(2.0)));
        let mut raised = Vec::new();
        for (n, count) in (1..).zip(counts) {
            report(&mut rules, n * 20, &sample(20, &[(Metric::ErrorsUnitFailures, None, *count)]));
            raised.push(rules.is_raised("r"));
        }
        raised
    };
    assert_eq!(failures(&[1, 0, 1, 2, 0, 0]), [false; 6], "none of these minutes has more than two");
    assert_eq!(failures(&[1, 1, 1]), [false, false, true]);
    assert_eq!(failures(&[3, 0, 0, 0, 0, 0]), [false, false, true, true, true, false]);
}

#[test]
fn an_alarm_that_a_whole_minute_clears_is_cleared_by_three_parts_of_it() {
    let offline = Rule { clear_above: Some(30.0), ..rule("link.connected_s", RuleTest::Below(10.0)) };
    let mut rules = rules(offline);
    let connected = |rules: &mut Rules, s: u64, of: u64, connected: u64| {
        report(rules, s, &sample(of, &[(Metric::LinkConnected, None, connected)]));
        rules.is_raised("r")
    };
    assert!(connected(&mut rules, 60, 60, 0));
    assert_eq!([80, 100, 120].map(|s| connected(&mut rules, s, 20, 20)), [true, true, false]);
}

#[test]
fn what_is_counted_in_a_longer_interval_is_brought_down_to_its_limit() {
    let mut rules = rules(rule("errors.unit_failures", RuleTest::Above(2.0)));
    let hour = |rules: &mut Rules, n: u64, count: u64| {
        report(rules, n * 3_600, &sample(3_600, &[(Metric::ErrorsUnitFailures, None, count)]))
    };
    assert_eq!(hour(&mut rules, 1, 8), []);
    let [change] = &hour(&mut rules, 2, 180)[..] else { panic!() };
    let value = change.event.as_ref().and_then(|event| event.field("value"));
    assert_eq!(value, Some(&Field::Value(Value::Float(3.0))));
    for (interval_s, count, raised) in [(55, 2, false), (62, 3, true)] {
        let mut rules = self::rules(rule("errors.unit_failures", RuleTest::Above(2.0)));
        report(&mut rules, 60, &sample(interval_s, &[(Metric::ErrorsUnitFailures, None, count)]));
        assert_eq!(rules.is_raised("r"), raised, "a report that is a little early or late is as good");
    }
}

#[test]
fn what_is_learned_is_written_more_often_while_the_alarm_stands() {
    let hot = Rule { name: "hot".into(), ..rule("host.temperature_c", RuleTest::Anomaly(Anomaly::Spike)) };
    let calm = Rule { name: "calm".into(), ..rule("host.load1", RuleTest::Anomaly(Anomaly::Spike)) };
    let (mut rules, _) = Rules::new(&[hot, calm], at(0), &[], 0);
    let mut round = |s: u64, temperature: f64| {
        observe(&mut rules, s, &[Point::new(Metric::HostTemperature, temperature), Point::new(Metric::HostLoad1, 0.1)]);
        rules.learned_due(at(s).mono).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    let quiet: Vec<_> = (1..=540).flat_map(|n| round(n * 10, 45.0)).collect();
    assert_eq!(quiet, [""; 0], "for an hour and a half");
    let standing: Vec<_> = (541..=730).flat_map(|n| round(n * 10, 90.0)).collect();
    assert_eq!(standing, [format!("{LEARNED_KEY}hot")]);
}

#[test]
fn a_rate_of_what_is_counted_in_shorter_intervals_is_taken_over_as_many_as_it_is_meant_for() {
    let slow = |bytes: fn(u64) -> u64| {
        let mut rules = rules(rule("link.rx_bytes", RuleTest::RateBelow(10.0)));
        let seconds = 1..=120;
        let mut said = seconds.map(|s| report(&mut rules, s, &sample(1, &[(Metric::LinkRxBytes, None, bytes(s))])));
        said.position(|changes| !changes.is_empty()).map(|n| n + 1)
    };
    assert_eq!(slow(|s| if s % 40 == 0 { 2_000 } else { 0 }), None, "a second without traffic is no dead link");
    assert_eq!(slow(|_| 9), Some(45), "three parts of a minute are as good as a whole one");
    let mut rules = rules(rule("link.rx_bytes", RuleTest::RateBelow(10.0)));
    let cut_short = sample(50, &[(Metric::LinkRxBytes, None, 550)]);
    assert_eq!(report(&mut rules, 50, &cut_short), [], "11 a second, whatever it were in a minute");
}

#[test]
fn a_count_equals_what_it_is_in_a_whole_interval() {
    let mut rules = rules(rule("link.rx_bytes", RuleTest::Equals(AttributeValue::Integer(0))));
    let mut second = |s: u64, bytes| report(&mut rules, s, &sample(1, &[(Metric::LinkRxBytes, None, bytes)])).len();
    assert_eq!((1..=120).map(|s| second(s, u64::from(s % 40 == 0))).sum::<usize>(), 0);
    assert_eq!((121..=180).map(|s| second(s, 0)).sum::<usize>(), 1);
}

/// What a detector says of a count that was none for two hours of minutes, and is then reported each second.
fn surge(report_interval: Duration, counts: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut rules = rules(rule("errors.count", RuleTest::Anomaly(Anomaly::Surge)));
    let mut judge = |s: u64, interval_s: u64, over: Duration, count: u64| {
        let sample = sample(interval_s, &[(Metric::ErrorsCount, None, count)]);
        rules.judge(at(s), None, over, over, Round::Reported(&sample)).len()
    };
    assert_eq!((1..=120).map(|n| judge(n * 60, 60, REPORT, 0)).sum::<usize>(), 0);
    (1..).zip(counts).filter(|(s, count)| judge(7_200 + s, 1, report_interval, *count) > 0).map(|(s, _)| s).collect()
}

#[test]
fn a_line_in_a_second_is_no_surge_of_sixty_a_minute() {
    // For a while, and as the configuration has it.
    for report_interval in [REPORT, Duration::from_secs(1)] {
        assert_eq!(surge(report_interval, (0..120).map(|s| u64::from(s % 30 == 7))), [0; 0], "{report_interval:?}");
        assert_eq!(surge(report_interval, (0..45).map(|_| 1)), [45], "{report_interval:?}");
    }
}

#[test]
fn a_rate_is_taken_over_as_long_a_time_however_often_a_quarantine_samples() {
    let raised_at = |pct: fn(u64) -> f64| {
        let mut rules = rules(rule("battery.charge_pct", RuleTest::RateBelow(-0.02)));
        let rounds = (0..600).step_by(2);
        let mut said = rounds.map(|s| (s, observe(&mut rules, s, &[Point::new(Metric::BatteryChargePct, pct(s))])));
        said.find(|(_, changes)| !changes.is_empty()).map(|(s, _)| s)
    };
    assert_eq!(raised_at(|s| if s < 300 { 80.0 } else { 79.0 }), None, "one step of a gauge of whole percents");
    let found = raised_at(|s| (80.0 - 0.03 * s as f64).round()).unwrap();
    assert!((100..300).contains(&found), "after {found} s");
}
