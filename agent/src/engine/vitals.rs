//! Rolls observations up into samples: the readings of one report interval become one value a metric, as the metric
//! table says. Holds nothing but the open interval and, for counters, the last reading. Judges nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::metric::{Metric, Point, Rollup, Value, find};
use super::record::{Reading, Sample};
use super::time::Mono;

/// How many metric-and-label pairs one interval holds: a machine with a thousand interfaces must not eat the memory.
pub const SERIES_MAX: usize = 1024;

/// A gauge that rises by less while the battery discharges has corrected itself, and was not charged.
const FLUTTER_PCT: f64 = 5.0;

/// After so many intervals without a reading a counter's last value is forgotten: its interface is gone. Not before so
/// long a time: reports may come faster than rounds of collection end.
const COUNTER_IDLE_INTERVALS: u32 = 3;
const COUNTER_IDLE_MIN: Duration = Duration::from_secs(180);

/// The open interval.
#[derive(Debug)]
pub struct Vitals {
    since: Mono,
    /// Metrics without label, by their number: nearly all readings are of these.
    plain: Vec<Option<Cell>>,
    labelled: BTreeMap<(Metric, Box<str>), Cell>,
    /// Series with a value in this interval.
    open: usize,
    charge: Option<f64>,
    discharging: bool,
    /// Whose counters the link's are.
    interface: Option<Box<str>>,
    refused: u64,
}

/// What is kept of one series.
#[derive(Debug, Default)]
struct Cell {
    value: Option<Value>,
    range: Option<(f64, f64)>,
    /// The last reading of a counter, and for how long there was none.
    count: Option<(u64, Duration)>,
}

impl Vitals {
    /// Begins the first interval.
    #[must_use]
    pub const fn new(now: Mono) -> Self {
        Self {
            since: now,
            plain: Vec::new(),
            labelled: BTreeMap::new(),
            open: 0,
            charge: None,
            discharging: false,
            interface: None,
            refused: 0,
        }
    }

    /// Takes the readings of one round.
    pub fn observe(&mut self, points: Vec<Point>) {
        let discharged = self.discharged(&points);
        self.follow_link(&points);
        for point in points {
            self.take(point);
        }
        if let Some(pct) = discharged {
            self.take(Point::new(Metric::BatteryDischarged, pct));
        }
    }

    /// Takes one reading.
    pub fn take(&mut self, point: Point) {
        let full = self.open >= SERIES_MAX;
        let cell = match point.label {
            None => {
                let number = usize::from(point.metric.number());
                if self.plain.len() <= number {
                    self.plain.resize_with(number + 1, || None);
                }
                let Some(slot) = self.plain.get_mut(number) else { return };
                slot.get_or_insert_default()
            }
            Some(label) => {
                let series = (point.metric, label);
                let crowded = full || self.labelled.len() >= SERIES_MAX;
                if crowded && !self.labelled.contains_key(&series) {
                    self.refused = self.refused.saturating_add(1);
                    return;
                }
                self.labelled.entry(series).or_default()
            }
        };
        if full && cell.value.is_none() {
            self.refused = self.refused.saturating_add(1);
            return;
        }
        self.open += usize::from(cell.take(point.metric, point.value));
    }

    /// The next charge is another battery's: the difference to the last one is no discharge.
    pub const fn forget_charge(&mut self) {
        self.charge = None;
    }

    /// The last value of a metric in the open interval.
    #[must_use]
    pub fn last(&self, metric: Metric) -> Option<&Value> {
        self.plain.get(usize::from(metric.number()))?.as_ref()?.value.as_ref()
    }

    /// Series in the open interval.
    #[must_use]
    pub const fn series(&self) -> usize {
        self.open
    }

    /// Readings that were turned away at [`SERIES_MAX`] since it was last asked.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// Closes the interval.
    pub fn report(&mut self, now: Mono) -> Sample {
        let interval = now.since(self.since);
        self.since = now;
        let mut readings = Vec::with_capacity(self.open);
        for metric in Metric::ALL {
            let cell = self.plain.get_mut(usize::from(metric.number())).and_then(Option::as_mut);
            readings.extend(cell.and_then(|cell| cell.close(interval, *metric, None)));
        }
        for ((metric, label), cell) in &mut self.labelled {
            readings.extend(cell.close(interval, *metric, Some(label)));
        }
        readings.sort_unstable_by(Reading::in_order);
        self.open = 0;
        let idle_max = interval.saturating_mul(COUNTER_IDLE_INTERVALS).max(COUNTER_IDLE_MIN);
        self.plain.iter_mut().for_each(|cell| drop(cell.take_if(|cell| cell.is_idle(idle_max))));
        self.labelled.retain(|_, cell| !cell.is_idle(idle_max));
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        Sample { interval_ms, readings }
    }

    /// Where another interface is the link now, the link's counters grow from what that one's were.
    fn follow_link(&mut self, points: &[Point]) {
        let Some(Value::Text(name)) = find(points, Metric::LinkInterface) else { return };
        if self.interface.as_ref() == Some(name) {
            return;
        }
        for (link, interface) in Metric::LINK_COUNTERS {
            let count = self.labelled.get(&(interface, name.clone())).and_then(|cell| cell.count);
            if let Some(Some(cell)) = self.plain.get_mut(usize::from(link.number())) {
                cell.count = count;
            }
        }
        self.interface = Some(name.clone());
    }

    /// What the battery lost since the last round, counted only while it says that it is discharging, and only below
    /// where it was: a gauge that flutters discharges nothing.
    fn discharged(&mut self, points: &[Point]) -> Option<f64> {
        if let Some(Value::Text(state)) = find(points, Metric::BatteryState) {
            self.discharging = &**state == "discharging";
        }
        let charge = find(points, Metric::BatteryChargePct)?.number()?;
        let flutters = |lowest: f64| self.discharging && (0.0..FLUTTER_PCT).contains(&(charge - lowest));
        let lowest = self.charge.filter(|lowest| flutters(*lowest)).unwrap_or(charge);
        let before = self.charge.replace(lowest)?;
        Some(if self.discharging { (before - charge).max(0.0) } else { 0.0 })
    }
}

impl Cell {
    /// Takes a reading; whether it is the first of the interval.
    fn take(&mut self, metric: Metric, value: Value) -> bool {
        let rollup = metric.rollup();
        let value = match rollup {
            Rollup::Counter => match self.growth(&value) {
                Some(growth) => growth,
                None => return false,
            },
            Rollup::Gauge | Rollup::Last | Rollup::Sum => value,
        };
        let Some(before) = &mut self.value else {
            self.range = number_of_gauge(metric, &value).map(|n| (n, n));
            self.value = Some(value);
            return true;
        };
        match rollup {
            Rollup::Gauge | Rollup::Last => {
                if let (Some((low, high)), Some(n)) = (&mut self.range, number_of_gauge(metric, &value)) {
                    *low = low.min(n);
                    *high = high.max(n);
                }
                *before = value;
            }
            Rollup::Sum | Rollup::Counter => *before = sum(before, &value),
        }
        false
    }

    /// A counter's growth since its last reading; `None` at its first. One that fell was restarted from zero.
    fn growth(&mut self, value: &Value) -> Option<Value> {
        let &Value::Count(count) = value else { return None };
        let (before, _) = self.count.replace((count, Duration::ZERO))?;
        Some(Value::Count(count.checked_sub(before).unwrap_or(count)))
    }

    /// What it says at the end of an interval.
    fn close(&mut self, interval: Duration, metric: Metric, label: Option<&str>) -> Option<Reading> {
        // Where there was a reading, nobody knows how early in the interval the last one came.
        let silent = if self.value.is_some() { interval.min(COUNTER_IDLE_MIN) } else { interval };
        self.count = self.count.map(|(count, idle)| (count, idle.saturating_add(silent)));
        #[expect(clippy::float_cmp, reason = "both are copies of readings: equal means the same reading")]
        let range = self.range.take().filter(|(low, high)| low != high);
        Some(Reading { metric, label: label.map(Into::into), value: self.value.take()?, range })
    }

    /// Whether nothing has to be kept of it.
    fn is_idle(&self, idle_max: Duration) -> bool {
        self.count.is_none_or(|(_, idle)| idle > idle_max)
    }
}

fn number_of_gauge(metric: Metric, value: &Value) -> Option<f64> {
    if metric.rollup() == Rollup::Gauge { value.number() } else { None }
}

/// Two amounts together.
pub(super) fn sum(left: &Value, right: &Value) -> Value {
    match (left, right) {
        (Value::Count(a), Value::Count(b)) => Value::Count(a.saturating_add(*b)),
        _ => Value::Float(left.number().unwrap_or(0.0) + right.number().unwrap_or(0.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(pct: f64, state: &str) -> Vec<Point> {
        vec![Point::new(Metric::BatteryChargePct, pct), Point::new(Metric::BatteryState, state)]
    }

    fn find(sample: &Sample, metric: Metric) -> &Reading {
        sample.readings.iter().find(|r| r.metric == metric).unwrap()
    }

    #[test]
    fn a_gauge_reports_its_last_value_and_its_range_where_that_differs() {
        let mut vitals = Vitals::new(Mono(0));
        for volt in [12.1, 11.8, 12.0] {
            vitals.take(Point::new(Metric::BatteryVoltage, volt));
        }
        vitals.take(Point::new(Metric::HostLoad1, 0.5));
        let sample = vitals.report(Mono(60_000));
        assert_eq!(sample.interval_ms, 60_000);
        assert_eq!(find(&sample, Metric::BatteryVoltage).value, Value::Float(12.0));
        assert_eq!(find(&sample, Metric::BatteryVoltage).range, Some((11.8, 12.1)));
        assert_eq!(find(&sample, Metric::HostLoad1).range, None);
    }

    #[test]
    fn a_counter_reports_growth_over_intervals_and_survives_its_restart() {
        let mut vitals = Vitals::new(Mono(0));
        let rx = |n: u64| Point::new(Metric::LinkRxBytes, n);
        vitals.take(rx(1_000));
        assert!(vitals.report(Mono(1)).readings.is_empty(), "one reading of a counter says nothing yet");
        vitals.take(rx(1_500));
        vitals.take(rx(1_700));
        assert_eq!(find(&vitals.report(Mono(2)), Metric::LinkRxBytes).value, Value::Count(700));
        vitals.take(rx(40));
        assert_eq!(find(&vitals.report(Mono(3)), Metric::LinkRxBytes).value, Value::Count(40));
    }

    #[test]
    fn a_counter_outlives_reports_that_come_faster_than_its_readings_and_is_forgotten_when_none_comes() {
        let mut vitals = Vitals::new(Mono(0));
        let mut read = |count: u64, idle: std::ops::Range<u64>, interval_ms: u64| {
            vitals.take(Point::new(Metric::LinkRxBytes, count));
            let samples = idle.map(|n| vitals.report(Mono(n * interval_ms)));
            samples.flat_map(|sample| sample.readings).map(|reading| reading.value).collect::<Vec<_>>()
        };
        // A round takes ten seconds, and a report comes each second.
        assert_eq!(read(100, 1..11, 1_000), []);
        assert_eq!(read(150, 11..21, 1_000), [Value::Count(50)]);
        // Then one comes each minute, and no round for five of them.
        assert_eq!(read(170, 1..6, 60_000), [Value::Count(20)]);
        assert_eq!(read(190, 6..7, 60_000), []);
        assert_eq!(read(195, 7..8, 60_000), [Value::Count(5)]);
        // Of reports that come less often three are waited for.
        assert_eq!(read(200, 1..4, 3_600_000), [Value::Count(5)]);
        assert_eq!(read(203, 4..5, 3_600_000), [Value::Count(3)]);
        assert_eq!(read(204, 5..9, 3_600_000), [Value::Count(1)]);
        assert_eq!(read(205, 9..10, 3_600_000), []);
    }

    #[test]
    fn a_gauge_that_flutters_discharges_nothing_and_one_that_was_charged_begins_anew() {
        let discharged = |charges: &[(f64, &str)]| {
            let mut vitals = Vitals::new(Mono(0));
            charges.iter().for_each(|(pct, state)| vitals.observe(charge(*pct, state)));
            find(&vitals.report(Mono(1)), Metric::BatteryDischarged).value.number().unwrap()
        };
        let [high, low] = [(57.0, "discharging"), (56.0, "discharging")];
        assert_eq!(discharged(&[high, low, high, low, high, low, (55.0, "discharging")]), 2.0);
        assert_eq!(discharged(&[high, low, (57.0, "charging"), high, low]), 2.0, "it was charged");
        assert_eq!(
            discharged(&[high, low, (70.0, "discharging"), (69.0, "discharging")]),
            2.0,
            "it was charged unseen"
        );
    }

    #[test]
    fn a_link_that_becomes_another_interface_goes_on_with_that_ones_counters() {
        let mut vitals = Vitals::new(Mono(0));
        let round = |link: &str, [eth0, wlan0]: [u64; 2]| {
            let rx = if link == "eth0" { eth0 } else { wlan0 };
            vec![
                Point::new(Metric::LinkInterface, link),
                Point::new(Metric::LinkRxBytes, rx),
                Point::labelled(Metric::InterfaceRxBytes, "eth0", eth0),
                Point::labelled(Metric::InterfaceRxBytes, "wlan0", wlan0),
            ]
        };
        vitals.observe(round("eth0", [1_000, 5_000_000]));
        vitals.observe(round("eth0", [1_100, 5_000_200]));
        vitals.observe(round("wlan0", [1_100, 5_000_500]));
        vitals.observe(round("eth0", [1_103, 5_000_500]));
        let sample = vitals.report(Mono(1));
        assert_eq!(find(&sample, Metric::LinkRxBytes).value, Value::Count(100 + 300 + 3));
    }

    #[test]
    fn one_that_was_not_told_by_name_begins_anew_when_it_becomes_the_link() {
        let mut vitals = Vitals::new(Mono(0));
        for (link, rx) in [("eth0", 1_000_u64), ("ppp0", 7_000_000), ("ppp0", 7_000_040)] {
            vitals.observe(vec![Point::new(Metric::LinkInterface, link), Point::new(Metric::LinkRxBytes, rx)]);
        }
        assert_eq!(find(&vitals.report(Mono(1)), Metric::LinkRxBytes).value, Value::Count(40));
    }

    #[test]
    fn discharge_is_counted_only_while_discharging() {
        let mut vitals = Vitals::new(Mono(0));
        for (pct, state) in [(80.0, "discharging"), (78.5, "discharging"), (77.0, "charging"), (79.0, "charging")] {
            vitals.observe(charge(pct, state));
        }
        assert_eq!(find(&vitals.report(Mono(1)), Metric::BatteryDischarged).value, Value::Float(1.5));
    }

    #[test]
    fn what_was_not_observed_in_an_interval_is_left_out_of_it() {
        let mut vitals = Vitals::new(Mono(0));
        vitals.take(Point::new(Metric::HostLoad1, 1.0));
        assert!(!vitals.report(Mono(1)).readings.is_empty());
        assert!(vitals.report(Mono(2)).readings.is_empty());
    }

    #[test]
    fn series_are_bounded_and_the_surplus_is_counted() {
        let mut vitals = Vitals::new(Mono(0));
        for n in 0..SERIES_MAX + 5 {
            vitals.take(Point::labelled(Metric::InterfaceUp, &format!("if{n}"), true));
        }
        assert_eq!(vitals.take_refused(), 5);
        assert_eq!(vitals.report(Mono(1)).readings.len(), SERIES_MAX);
    }
}
