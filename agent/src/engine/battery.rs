//! Holds what is said of the battery against what a battery can do. A charge that jumps further than any battery can in
//! the time is a sensor's fault: it is left out, counted, and told once, until another reading agrees with it (somebody
//! swapped the battery). From the charges that are believed it estimates the drain. Bounded: one charge in doubt, and
//! [`WINDOW_MAX`] of the past. It must not touch anything but the charge and what follows from it.

use std::collections::VecDeque;
use std::time::Duration;

use super::metric::{Metric, Point, Value, find};
use super::observation::Severity;
use super::record::{Event, EventKind};
use super::time::Mono;

/// A UPS that lasts for no more than some minutes drains at this, in percent a second; nothing charges faster.
const RATE_MAX_PCT_S: f64 = 0.5;
/// The gauge of a worn battery corrects itself by so much at once.
const JUMP_MAX_PCT: f64 = 25.0;
/// Readings agree with each other within this: gauges round to whole percents.
const AGREEMENT_PCT: f64 = 5.0;
/// A jump in which so many readings agree is real: the battery was swapped, or is dying. No more than it takes against
/// a single wrong reading, because an alarm for a low charge waits for it; a rule's own `for` is for more.
const BELIEVED_READINGS: u32 = 2;

/// Charges that the drain is estimated from, one in [`WINDOW_STEP`]: half an hour, in which whole percents make a
/// slope.
const WINDOW_MAX: usize = 30;
const WINDOW_STEP: Duration = Duration::from_secs(60);
/// Fewer say too little.
const WINDOW_MIN: usize = 6;
/// After so long without a reading, or so many rounds where those are rarer, what was before says nothing about now.
const WINDOW_GAP: Duration = Duration::from_secs(600);
const WINDOW_GAP_ROUNDS: u32 = 3;
/// A year: what runs longer than that doesn't run empty.
const TIME_TO_EMPTY_MAX_S: f64 = 365.0 * 86_400.0;

/// What is known of the battery.
#[derive(Debug, Default)]
pub(super) struct Battery {
    /// The supply that the rest is of.
    supply: Option<Box<str>>,
    believed: Option<(Mono, f64)>,
    doubt: Option<Doubt>,
    left_out: u64,
    window: VecDeque<(Mono, f64)>,
    /// In percent a second, of the window.
    drain: Option<f64>,
}

/// A charge that no battery can have come to.
#[derive(Debug)]
struct Doubt {
    last: (Mono, f64),
    readings: u32,
}

/// What became of a charge.
#[derive(Debug, PartialEq)]
enum Verdict {
    Plausible,
    /// Readings agree on it; what was before it is another battery's.
    Swapped,
    LeftOut {
        /// It is the first since a charge was believed.
        first: bool,
    },
}

/// What a round came to.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What is to be told.
    pub event: Option<Event>,
    /// The charge is another battery's: the difference to the last one is no discharge.
    pub swapped: bool,
}

impl Battery {
    /// Judges the charge of a round, and adds what follows from it.
    pub(super) fn look(&mut self, now: Mono, sampled_every: Duration, points: &mut Vec<Point>) -> Findings {
        let mut findings = Findings::default();
        let supply = find(points, Metric::BatterySupply).and_then(Value::text).map(Box::from);
        // One that was taken out may come back as another: a gauge goes on answering for the empty bay.
        let is_out = find(points, Metric::BatteryPresent) == Some(&Value::Flag(false));
        if supply != self.supply || is_out {
            *self = Self { supply, left_out: self.left_out, ..Self::default() };
            findings.swapped = true;
        }
        let Some(charge) = find(points, Metric::BatteryChargePct).and_then(Value::number) else { return findings };
        // Readings of who knows what can't be compared.
        if self.supply.is_some() {
            let before = self.believed;
            match self.judge(now, charge) {
                Verdict::Plausible => {}
                Verdict::Swapped => findings.swapped = true,
                Verdict::LeftOut { first } => {
                    self.left_out = self.left_out.saturating_add(1);
                    let follows = [Metric::BatteryChargePct, Metric::BatteryTimeToEmpty];
                    points.retain(|point| !follows.contains(&point.metric));
                    findings.event = before.filter(|_| first).map(|before| self.implausible(now, before, charge));
                    return findings;
                }
            }
        }
        self.estimate(now, sampled_every, charge, points);
        findings
    }

    /// Readings that were left out since it was last asked.
    pub(super) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }

    fn judge(&mut self, now: Mono, charge: f64) -> Verdict {
        if self.believed.is_none_or(|before| is_possible(before, now, charge, JUMP_MAX_PCT)) {
            self.believed = Some((now, charge));
            self.doubt = None;
            return Verdict::Plausible;
        }
        let first = self.doubt.is_none();
        match &mut self.doubt {
            Some(doubt) if is_possible(doubt.last, now, charge, AGREEMENT_PCT) => {
                doubt.last = (now, charge);
                doubt.readings = doubt.readings.saturating_add(1);
                if doubt.readings >= BELIEVED_READINGS {
                    self.believed = Some((now, charge));
                    self.doubt = None;
                    self.forget_drain();
                    return Verdict::Swapped;
                }
            }
            doubt => *doubt = Some(Doubt { last: (now, charge), readings: 1 }),
        }
        Verdict::LeftOut { first }
    }

    fn implausible(&self, now: Mono, (at, before): (Mono, f64), charge: f64) -> Event {
        Event::new(Severity::Warning, EventKind::Lifecycle, "battery_implausible")
            .group("battery")
            .with_some("supply", self.supply.as_deref())
            .with("charge_pct", before)
            .with("reading_pct", charge)
            .with("within_s", now.since(at).as_secs_f64())
    }

    /// Adds the drain, and the time to empty where the collector had none.
    fn estimate(&mut self, now: Mono, sampled_every: Duration, charge: f64, points: &mut Vec<Point>) {
        if find(points, Metric::BatteryState).and_then(Value::text) != Some("discharging") {
            self.forget_drain();
            return;
        }
        let since_last = self.window.back().map(|(at, _)| now.since(*at));
        if since_last.is_some_and(|gap| gap > WINDOW_GAP.max(sampled_every.saturating_mul(WINDOW_GAP_ROUNDS))) {
            self.forget_drain();
        }
        if since_last.is_none_or(|gap| gap >= WINDOW_STEP) {
            if self.window.len() >= WINDOW_MAX {
                self.window.pop_front();
            }
            self.window.push_back((now, charge));
            self.drain = slope(&self.window).map(|slope| -slope).filter(|drain| *drain > 0.0);
        }
        let Some(drain) = self.drain else { return };
        points.push(Point::new(Metric::BatteryDrain, drain * 3_600.0));
        let seconds = charge / drain;
        if find(points, Metric::BatteryTimeToEmpty).is_none() && (0.0..=TIME_TO_EMPTY_MAX_S).contains(&seconds) {
            points.push(Point::new(Metric::BatteryTimeToEmpty, seconds.round()));
        }
    }

    fn forget_drain(&mut self) {
        self.window.clear();
        self.drain = None;
    }
}

/// Whether a battery can have come from one charge to the other, where its gauge may be `slack` percent wrong.
fn is_possible((at, before): (Mono, f64), now: Mono, charge: f64, slack: f64) -> bool {
    (charge - before).abs() <= slack + RATE_MAX_PCT_S * now.since(at).as_secs_f64()
}

/// The median of the slopes between all pairs (Theil and Sen): up to 29 % of the charges may be nonsense. In percent a
/// second.
fn slope(window: &VecDeque<(Mono, f64)>) -> Option<f64> {
    if window.len() < WINDOW_MIN {
        return None;
    }
    let pairs = window.iter().enumerate().flat_map(|(n, from)| window.iter().skip(n + 1).map(move |to| (from, to)));
    let mut slopes: Vec<f64> = pairs
        .map(|(from, to)| (to.1 - from.1) / to.0.since(from.0).as_secs_f64())
        .filter(|slope| slope.is_finite())
        .collect();
    slopes.sort_unstable_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED_EVERY: Duration = Duration::from_secs(10);

    /// Rounds of a battery, seconds after its begin.
    struct Rounds(Battery);

    impl Rounds {
        fn new() -> Self {
            Self(Battery::default())
        }

        fn look(&mut self, second: u64, pct: f64, state: &str) -> (Vec<Point>, Findings) {
            let mut points = vec![
                Point::new(Metric::BatterySupply, "BAT0"),
                Point::new(Metric::BatteryState, state),
                Point::new(Metric::BatteryChargePct, pct),
            ];
            let findings = self.0.look(Mono(second * 1_000), SAMPLED_EVERY, &mut points);
            (points, findings)
        }

        fn is_believed(&mut self, second: u64, pct: f64) -> bool {
            find(&self.look(second, pct, "discharging").0, Metric::BatteryChargePct).is_some()
        }
    }

    fn number(points: &[Point], metric: Metric) -> Option<f64> {
        find(points, metric).and_then(Value::number)
    }

    #[test]
    fn a_jump_that_no_battery_can_make_is_left_out_counted_and_told_once() {
        let mut rounds = Rounds::new();
        assert!(rounds.is_believed(0, 80.0));
        let (points, findings) = rounds.look(1, 40.0, "discharging");
        assert_eq!(number(&points, Metric::BatteryChargePct), None);
        let event = findings.event.unwrap();
        assert_eq!(&*event.name, "battery_implausible");
        assert!(event.fields.contains(&("reading_pct".into(), 40.0.into())), "{event:?}");
        for (second, pct) in [(2, 3.0), (3, 45.0), (4, 3.0)] {
            let (points, findings) = rounds.look(second, pct, "discharging");
            assert_eq!((number(&points, Metric::BatteryChargePct), findings.event), (None, None), "{pct} %");
        }
        assert!(rounds.is_believed(5, 79.0), "the sensor is well again");
        assert_eq!((rounds.0.take_left_out(), rounds.0.take_left_out()), (4, 0));
    }

    #[test]
    fn a_battery_that_comes_back_may_be_another_one() {
        let mut rounds = Rounds::new();
        rounds.look(0, 90.0, "discharging");
        let mut out = vec![Point::new(Metric::BatterySupply, "BAT0"), Point::new(Metric::BatteryPresent, false)];
        assert!(rounds.0.look(Mono(10_000), SAMPLED_EVERY, &mut out).swapped);
        let (points, findings) = rounds.look(20, 20.0, "discharging");
        assert_eq!((number(&points, Metric::BatteryChargePct), findings.event), (Some(20.0), None), "at once");
    }

    #[test]
    fn what_a_battery_can_do_in_the_time_is_believed() {
        for (seconds, from, to) in
            [(1, 80.0, 60.0), (10, 80.0, 75.0), (10, 80.0, 85.0), (120, 80.0, 20.0), (3_600, 10.0, 100.0)]
        {
            let mut rounds = Rounds::new();
            assert!(rounds.is_believed(0, from));
            assert!(rounds.is_believed(seconds, to), "from {from} to {to} in {seconds} s");
        }
    }

    #[test]
    fn a_swapped_battery_is_believed_at_the_second_look_and_is_no_discharge() {
        let mut rounds = Rounds::new();
        assert!(rounds.is_believed(0, 100.0));
        assert!(!rounds.is_believed(1, 30.0));
        let (points, findings) = rounds.look(2, 30.0, "discharging");
        assert_eq!(number(&points, Metric::BatteryChargePct), Some(30.0));
        assert!(findings.swapped);
    }

    #[test]
    fn a_sensor_that_jumps_about_is_never_taken_for_a_swapped_battery() {
        let mut rounds = Rounds::new();
        assert!(rounds.is_believed(0, 50.0));
        for second in 1..=40 {
            let pct = if second % 2 == 0 { 0.0 } else { 100.0 };
            assert!(!rounds.is_believed(second, pct), "after {second} s");
        }
    }

    #[test]
    fn another_supply_is_another_battery() {
        let mut rounds = Rounds::new();
        assert!(rounds.is_believed(0, 90.0));
        let mut points = vec![Point::new(Metric::BatterySupply, "ups"), Point::new(Metric::BatteryChargePct, 10.0)];
        let findings = rounds.0.look(Mono(1_000), SAMPLED_EVERY, &mut points);
        assert!(findings.swapped && findings.event.is_none());
        assert_eq!(number(&points, Metric::BatteryChargePct), Some(10.0));
    }

    #[test]
    fn drain_and_time_to_empty_come_from_whole_percents_and_stand_against_outliers() {
        let mut rounds = Rounds::new();
        let mut last = Vec::new();
        // 12 % an hour, with a gauge that is 4 % off now and then.
        for minute in 0..60_u32 {
            let wrong = if minute % 7 == 3 { 4.0 } else { 0.0 };
            let pct = (90.0 - f64::from(minute) * 0.2).round() + wrong;
            last = rounds.look(u64::from(minute) * 60, pct, "discharging").0;
        }
        let drain = number(&last, Metric::BatteryDrain).unwrap();
        assert!((10.0..=14.0).contains(&drain), "{drain} % an hour");
        let hours = number(&last, Metric::BatteryTimeToEmpty).unwrap() / 3_600.0;
        assert!((5.5..=8.0).contains(&hours), "{hours} h for 78 %");
        assert!(rounds.0.window.len() <= WINDOW_MAX);
    }

    #[test]
    fn the_drivers_own_time_to_empty_is_kept_and_nothing_is_estimated_while_charging() {
        let mut rounds = Rounds::new();
        for minute in 0..20_u32 {
            rounds.look(u64::from(minute) * 60, 90.0 - f64::from(minute), "discharging");
        }
        let mut points = rounds.look(1_200, 70.0, "discharging").0;
        points.retain(|point| point.metric != Metric::BatteryTimeToEmpty && point.metric != Metric::BatteryDrain);
        points.push(Point::new(Metric::BatteryTimeToEmpty, 77.0));
        rounds.0.look(Mono(1_210_000), SAMPLED_EVERY, &mut points);
        assert_eq!(number(&points, Metric::BatteryTimeToEmpty), Some(77.0));
        assert!(number(&points, Metric::BatteryDrain).is_some());
        let charging = rounds.look(1_220, 70.0, "charging").0;
        assert_eq!(number(&charging, Metric::BatteryDrain), None);
        assert_eq!(number(&charging, Metric::BatteryTimeToEmpty), None);
        let again = rounds.look(1_230, 70.0, "discharging").0;
        assert_eq!(number(&again, Metric::BatteryDrain), None, "the window begins anew");
    }

    #[test]
    fn a_gateway_that_looks_rarely_knows_its_drain_too() {
        const EVERY: Duration = Duration::from_secs(1_800);
        let mut battery = Battery::default();
        let mut points = Vec::new();
        for round in 0..8_u32 {
            points = vec![
                Point::new(Metric::BatterySupply, "BAT0"),
                Point::new(Metric::BatteryState, "discharging"),
                Point::new(Metric::BatteryChargePct, 90.0 - 2.0 * f64::from(round)),
            ];
            battery.look(Mono(u64::from(round) * 1_800_000), EVERY, &mut points);
        }
        let drain = number(&points, Metric::BatteryDrain).unwrap();
        assert!((3.9..=4.1).contains(&drain), "{drain} % an hour");
    }
}
