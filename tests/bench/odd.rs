//! How soon detectors of anomalies find what is odd, and how often they find what isn't: on made months with a day, a
//! week and noise in them, in which anomalies with a label stand. Beside each the limit that somebody would have set
//! who had seen the first week: a tenth of its range above or below it. A month has thirty days; what the first three
//! weeks say is not counted, because a detector learns in them.

use std::time::Duration;

use fieldmedic::config::{Anomaly, Rule, RuleTest};
use fieldmedic::engine::metric::{Metric, Point};
use fieldmedic::engine::observation::{Observation, Severity};
use fieldmedic::engine::record::{Reading, Sample, Stamp};
use fieldmedic::engine::rules::{Round, Rules};
use fieldmedic::engine::time::{BootId, Mono, Unix};
use fieldmedic::sim::dice::Dice;

use crate::report::{Goal, Report};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const LEARNING: u64 = 21 * DAY;
/// Three weeks to learn in, and two months that count.
const LASTS: u64 = LEARNING + 60 * DAY;
const SEEDS: u64 = 6;
/// One anomaly in two days, so that each begins with an alarm that is cleared.
const ANOMALY_EVERY: u64 = 2 * DAY;

/// A series, and what is odd in it.
struct Series {
    kind: Anomaly,
    metric: Metric,
    /// Rounds are so far apart: readings, or reports of a count.
    every_ms: u64,
    /// How long an anomaly lasts.
    odd_ms: u64,
    usual: fn(&mut Noise, u64) -> f64,
    /// What is added so long after the anomaly's beginning.
    odd: fn(u64) -> f64,
}

/// Noise with a memory, as that of a sensor has.
struct Noise {
    dice: Dice,
    memory: f64,
}

impl Noise {
    fn next(&mut self, memory: f64) -> f64 {
        self.memory = memory * self.memory + (1.0 - memory * memory).sqrt() * self.dice.normal();
        self.memory
    }

    fn poisson(&mut self, mean: f64) -> f64 {
        let (mut count, mut product) = (0.0, self.dice.fraction());
        while product > (-mean).exp() {
            count += 1.0;
            product *= self.dice.fraction();
        }
        count
    }
}

fn day(ms: u64) -> f64 {
    (ms as f64 / DAY as f64 * std::f64::consts::TAU).sin()
}

fn office(ms: u64) -> bool {
    ms / DAY % 7 < 5 && (8..17).contains(&(ms / HOUR % 24))
}

fn series() -> [Series; 4] {
    [
        Series {
            kind: Anomaly::Spike,
            metric: Metric::HostTemperature,
            every_ms: 10_000,
            odd_ms: 60_000,
            usual: |noise, ms| 45.0 + 8.0 * day(ms) + noise.next(0.9) * 0.7,
            odd: |_| 10.0,
        },
        Series {
            kind: Anomaly::Drift,
            metric: Metric::HostMemUsed,
            every_ms: 10_000,
            odd_ms: 12 * HOUR,
            usual: |noise, ms| 40.0 + 4.0 * day(ms) + noise.next(0.99) * 2.0,
            // A leak of a percent an hour.
            odd: |since| since as f64 / HOUR as f64,
        },
        Series {
            kind: Anomaly::Surge,
            metric: Metric::ErrorsCount,
            every_ms: 60_000,
            odd_ms: 600_000,
            usual: |noise, ms| noise.poisson(if office(ms) { 3.0 } else { 0.5 }),
            odd: |_| 20.0,
        },
        Series {
            kind: Anomaly::Seasonal,
            metric: Metric::HostCpu,
            every_ms: 10_000,
            odd_ms: HOUR,
            usual: |noise, ms| (if office(ms) { 60.0 } else { 12.0 }) + noise.next(0.9) * 4.0,
            // At night, and less than on any working day.
            odd: |_| 35.0,
        },
    ]
}

/// What a rule said of a series.
#[derive(Default)]
struct Said {
    labelled: u64,
    found: u64,
    delays_s: Vec<f64>,
    false_alarms: u64,
}

pub fn run(report: &mut Report) {
    let months = SEEDS as f64 * (LASTS - LEARNING) as f64 / (30 * DAY) as f64;
    report.note(&format!("anomalies: {months:.0} device-months of made series a detector, an anomaly in two days"));
    for series in series() {
        let (mut detector, mut limit) = (Said::default(), Said::default());
        for seed in 1..=SEEDS {
            series.judge(seed, RuleTest::Anomaly(series.kind), &mut detector);
            series.judge(seed, RuleTest::Above(series.limit(seed)), &mut limit);
        }
        let share = |said: &Said| said.found as f64 / said.labelled as f64;
        let name = series.kind.word();
        report.figure(&format!("{name}: found"), share(&detector), "of the anomalies", Some(Goal::AtLeast(0.95)));
        report.figure(&format!("{name}: found by the limit"), share(&limit), "of the anomalies", None);
        let per_month = |said: &Said| said.false_alarms as f64 / months;
        report.figure(&format!("{name}: false alarms"), per_month(&detector), "a month", Some(Goal::AtMost(1.0)));
        report.figure(&format!("{name}: false alarms of the limit"), per_month(&limit), "a month", None);
        report.figure(&format!("{name}: delay, median"), detector.median_delay_s(), "s", None);
    }
}

impl Series {
    /// When the anomaly of this stretch of two days began, if it has: at night, by chance.
    fn anomaly(&self, ms: u64) -> Option<u64> {
        let since = ms.checked_sub(LEARNING)? % ANOMALY_EVERY;
        let begins = 20 * HOUR + 30 * 60_000;
        (begins..begins + self.odd_ms).contains(&since).then(|| since - begins)
    }

    fn noise(&self, seed: u64) -> Noise {
        Noise { dice: Dice::new(seed, self.kind.word()), memory: 0.0 }
    }

    /// What somebody would set who had seen the first week.
    fn limit(&self, seed: u64) -> f64 {
        let mut noise = self.noise(seed);
        let week = (0..7 * DAY).step_by(usize::try_from(self.every_ms).unwrap());
        let (low, high) = week
            .map(|ms| (self.usual)(&mut noise, ms))
            .fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
        high + (high - low) / 10.0
    }

    fn judge(&self, seed: u64, test: RuleTest, said: &mut Said) {
        let mut rules = Rules::new(&[self.rule(test)], stamp(0), &[], 0).0;
        let mut noise = self.noise(seed);
        let mut found_this_one = false;
        for ms in (0..LASTS).step_by(usize::try_from(self.every_ms).unwrap()) {
            let anomaly = self.anomaly(ms);
            let reading = (self.usual)(&mut noise, ms) + anomaly.map_or(0.0, self.odd);
            if anomaly == Some(0) {
                said.labelled += 1;
                found_this_one = false;
            }
            if !self.raises(&mut rules, ms, reading) || ms < LEARNING {
                continue;
            }
            match anomaly {
                Some(since) if !found_this_one => {
                    found_this_one = true;
                    said.found += 1;
                    said.delays_s.push(since as f64 / 1_000.0);
                }
                Some(_) => {}
                None => said.false_alarms += 1,
            }
        }
    }

    fn raises(&self, rules: &mut Rules, ms: u64, reading: f64) -> bool {
        let interval = Duration::from_millis(self.every_ms);
        let wall = Some(Unix(i64::try_from(ms).unwrap()));
        let changes = if self.kind == Anomaly::Surge {
            let value = reading.into();
            let count = Reading { metric: self.metric, label: None, value, range: None };
            let sample = Sample { interval_ms: self.every_ms, readings: vec![count] };
            rules.judge(stamp(ms), wall, interval, interval, Round::Reported(&sample))
        } else {
            let points = vec![Point::new(self.metric, reading)];
            let observation = Observation { points, ..Observation::default() };
            rules.judge(stamp(ms), wall, interval, interval, Round::Observed(Some(&observation)))
        };
        changes.iter().any(|change| change.raised)
    }

    fn rule(&self, test: RuleTest) -> Rule {
        Rule {
            name: "odd".into(),
            metric: self.metric.path().into(),
            test,
            hold: Duration::ZERO,
            share: None,
            clear_above: None,
            clear_below: None,
            clear_for: Some(Duration::from_secs(300)),
            severity: Severity::Warning,
            remedy: None,
        }
    }
}

impl Said {
    fn median_delay_s(&mut self) -> f64 {
        self.delays_s.sort_by(f64::total_cmp);
        self.delays_s.get(self.delays_s.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

fn stamp(ms: u64) -> Stamp {
    Stamp { boot: BootId([1; 16]), mono: Mono(ms) }
}
