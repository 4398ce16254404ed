//! Rolls observations up into samples: the readings of one report interval become one value a metric, as the metric
//! table says. Holds nothing but the open interval and, for counters, the last reading. Judges nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::metric::{Metric, Point, Rollup, Value};
use super::record::{Reading, Sample};
use super::time::Mono;

/// How many metric-and-label pairs one interval holds: a machine with a thousand interfaces must not eat the memory.
pub const SERIES_MAX: usize = 1024;

/// After so many intervals without a reading a counter's last value is forgotten: its interface is gone.
const COUNTER_IDLE_INTERVALS: u8 = 3;

type Series = (Metric, Option<Box<str>>);

/// The open interval.
#[derive(Debug)]
pub struct Vitals {
    since: Mono,
    open: BTreeMap<Series, Cell>,
    counters: BTreeMap<Series, Counter>,
    charge: Option<f64>,
    discharging: bool,
    refused: u64,
}

#[derive(Debug)]
struct Cell {
    value: Value,
    range: Option<(f64, f64)>,
}

#[derive(Debug)]
struct Counter {
    last: u64,
    idle_intervals: u8,
}

impl Vitals {
    /// Begins the first interval.
    #[must_use]
    pub const fn new(now: Mono) -> Self {
        Self {
            since: now,
            open: BTreeMap::new(),
            counters: BTreeMap::new(),
            charge: None,
            discharging: false,
            refused: 0,
        }
    }

    /// Takes the readings of one round.
    pub fn observe(&mut self, points: Vec<Point>) {
        let discharged = self.discharged(&points);
        for point in points {
            self.take(point);
        }
        if let Some(pct) = discharged {
            self.take(Point::new(Metric::BatteryDischarged, pct));
        }
    }

    /// Takes one reading.
    pub fn take(&mut self, point: Point) {
        let series = (point.metric, point.label);
        if !self.open.contains_key(&series) && self.open.len() >= SERIES_MAX {
            self.refused = self.refused.saturating_add(1);
            return;
        }
        let value = match point.metric.rollup() {
            Rollup::Counter => match self.growth(&series, &point.value) {
                Some(growth) => growth,
                None => return,
            },
            Rollup::Gauge | Rollup::Last | Rollup::Sum => point.value,
        };
        let Some(cell) = self.open.get_mut(&series) else {
            let range = number_of_gauge(series.0, &value).map(|n| (n, n));
            self.open.insert(series, Cell { value, range });
            return;
        };
        match series.0.rollup() {
            Rollup::Gauge | Rollup::Last => {
                if let (Some((low, high)), Some(n)) = (&mut cell.range, number_of_gauge(series.0, &value)) {
                    *low = low.min(n);
                    *high = high.max(n);
                }
                cell.value = value;
            }
            Rollup::Sum | Rollup::Counter => cell.value = sum(&cell.value, &value),
        }
    }

    /// The last value of a metric in the open interval.
    #[must_use]
    pub fn last(&self, metric: Metric) -> Option<&Value> {
        self.open.get(&(metric, None)).map(|cell| &cell.value)
    }

    /// Series in the open interval.
    #[must_use]
    pub fn series(&self) -> usize {
        self.open.len()
    }

    /// Readings that were turned away at [`SERIES_MAX`] since it was last asked.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// Length of the open interval so far.
    #[must_use]
    pub fn open_for(&self, now: Mono) -> Duration {
        now.since(self.since)
    }

    /// Closes the interval. `None` if nothing was observed in it.
    pub fn report(&mut self, now: Mono) -> Option<Sample> {
        let interval = now.since(self.since);
        self.since = now;
        let readings: Vec<Reading> =
            std::mem::take(&mut self.open).into_iter().map(|(series, cell)| reading(series, cell)).collect();
        self.counters.retain(|_, counter| {
            counter.idle_intervals += 1;
            counter.idle_intervals <= COUNTER_IDLE_INTERVALS
        });
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        (!readings.is_empty()).then_some(Sample { interval_ms, readings })
    }

    /// A counter's growth since its last reading; `None` at its first. One that fell was restarted from zero.
    fn growth(&mut self, series: &Series, value: &Value) -> Option<Value> {
        let &Value::Count(count) = value else { return None };
        let before = self.counters.insert(series.clone(), Counter { last: count, idle_intervals: 0 })?;
        Some(Value::Count(count.checked_sub(before.last).unwrap_or(count)))
    }

    /// What the battery lost since the last round, counted only while it says that it is discharging.
    fn discharged(&mut self, points: &[Point]) -> Option<f64> {
        let find = |metric| points.iter().find(|p| p.metric == metric).map(|p| &p.value);
        if let Some(Value::Text(state)) = find(Metric::BatteryState) {
            self.discharging = &**state == "discharging";
        }
        let charge = find(Metric::BatteryChargePct)?.number()?;
        let before = self.charge.replace(charge)?;
        Some(if self.discharging { (before - charge).max(0.0) } else { 0.0 })
    }
}

fn number_of_gauge(metric: Metric, value: &Value) -> Option<f64> {
    if metric.rollup() == Rollup::Gauge { value.number() } else { None }
}

fn sum(left: &Value, right: &Value) -> Value {
    match (left, right) {
        (Value::Count(a), Value::Count(b)) => Value::Count(a.saturating_add(*b)),
        _ => Value::Float(left.number().unwrap_or(0.0) + right.number().unwrap_or(0.0)),
    }
}

fn reading((metric, label): Series, cell: Cell) -> Reading {
    #[expect(clippy::float_cmp, reason = "both are copies of readings: equal means the same reading")]
    let range = cell.range.filter(|(low, high)| low != high);
    Reading { metric: metric.number(), label, value: cell.value, range }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(pct: f64, state: &str) -> Vec<Point> {
        vec![Point::new(Metric::BatteryChargePct, pct), Point::new(Metric::BatteryState, state)]
    }

    fn find(sample: &Sample, metric: Metric) -> &Reading {
        sample.readings.iter().find(|r| r.metric == metric.number()).unwrap()
    }

    #[test]
    fn a_gauge_reports_its_last_value_and_its_range_where_that_differs() {
        let mut vitals = Vitals::new(Mono(0));
        for volt in [12.1, 11.8, 12.0] {
            vitals.take(Point::new(Metric::BatteryVoltage, volt));
        }
        vitals.take(Point::new(Metric::HostLoad1, 0.5));
        let sample = vitals.report(Mono(60_000)).unwrap();
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
        assert!(vitals.report(Mono(1)).is_none(), "one reading of a counter says nothing yet");
        vitals.take(rx(1_500));
        vitals.take(rx(1_700));
        assert_eq!(find(&vitals.report(Mono(2)).unwrap(), Metric::LinkRxBytes).value, Value::Count(700));
        vitals.take(rx(40));
        assert_eq!(find(&vitals.report(Mono(3)).unwrap(), Metric::LinkRxBytes).value, Value::Count(40));
    }

    #[test]
    fn discharge_is_counted_only_while_discharging() {
        let mut vitals = Vitals::new(Mono(0));
        for (pct, state) in [(80.0, "discharging"), (78.5, "discharging"), (77.0, "charging"), (79.0, "charging")] {
            vitals.observe(charge(pct, state));
        }
        assert_eq!(find(&vitals.report(Mono(1)).unwrap(), Metric::BatteryDischarged).value, Value::Float(1.5));
    }

    #[test]
    fn what_was_not_observed_in_an_interval_is_left_out_of_it() {
        let mut vitals = Vitals::new(Mono(0));
        vitals.take(Point::new(Metric::HostLoad1, 1.0));
        assert!(vitals.report(Mono(1)).is_some());
        assert!(vitals.report(Mono(2)).is_none());
    }

    #[test]
    fn series_are_bounded_and_the_surplus_is_counted() {
        let mut vitals = Vitals::new(Mono(0));
        for n in 0..SERIES_MAX + 5 {
            vitals.take(Point::labelled(Metric::InterfaceUp, &format!("if{n}"), true));
        }
        assert_eq!(vitals.take_refused(), 5);
        assert_eq!(vitals.report(Mono(1)).unwrap().readings.len(), SERIES_MAX);
    }
}
