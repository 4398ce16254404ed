//! Makes one sample of several that follow each other, by the same table that made each of them of its readings:
//! amounts are added up, gauges keep their last value and the range of all. Which samples belong together is not
//! decided here.

use std::collections::BTreeMap;

use super::{Body, Reading, Record, Sample, Stamp};
use crate::engine::metric::{Metric, Rollup};
use crate::engine::vitals::sum;

/// Samples being made one.
#[derive(Debug, Clone)]
pub struct Merged {
    /// When the last of them ended: the merged one is of that time.
    pub at: Stamp,
    /// How long all of them were.
    pub interval_ms: u64,
    readings: BTreeMap<(Metric, Option<Box<str>>), Reading>,
}

impl Merged {
    /// Begins with the first sample.
    #[must_use]
    pub fn new(at: Stamp, sample: Sample) -> Self {
        let mut merged = Self { at, interval_ms: 0, readings: BTreeMap::new() };
        merged.push(at, sample);
        merged
    }

    /// Adds the next one.
    pub fn push(&mut self, at: Stamp, sample: Sample) {
        self.at = at;
        self.interval_ms = self.interval_ms.saturating_add(sample.interval_ms);
        for reading in sample.readings {
            let series = (reading.metric, reading.label.clone());
            match self.readings.get_mut(&series) {
                Some(before) => join(before, reading),
                None => drop(self.readings.insert(series, reading)),
            }
        }
    }

    /// The one sample.
    #[must_use]
    pub fn finish(self) -> Record {
        let readings = self.readings.into_values().collect();
        Record { at: self.at, body: Body::Sample(Sample { interval_ms: self.interval_ms, readings }) }
    }
}

/// The later of two readings of a series into the earlier.
fn join(before: &mut Reading, after: Reading) {
    match before.metric.rollup() {
        Rollup::Counter | Rollup::Sum => before.value = sum(&before.value, &after.value),
        Rollup::Gauge => *before = Reading { range: span(before, &after), ..after },
        Rollup::Last => *before = after,
    }
}

/// The range of two gauges, where they differ.
fn span(before: &Reading, after: &Reading) -> Option<(f64, f64)> {
    let of = |reading: &Reading| reading.range.or_else(|| reading.value.number().map(|n| (n, n)));
    let ((low, high), (lower, higher)) = (of(before)?, of(after)?);
    let (low, high) = (low.min(lower), high.max(higher));
    (low < high).then_some((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::metric::Value;
    use crate::engine::time::{BootId, Mono};

    fn reading(metric: Metric, value: impl Into<Value>) -> Reading {
        Reading { metric, label: None, value: value.into(), range: None }
    }

    fn merged(samples: Vec<Vec<Reading>>) -> Sample {
        let stamp = |n: usize| Stamp { boot: BootId([1; 16]), mono: Mono(n as u64 * 60_000) };
        let mut samples = samples.into_iter().map(|readings| Sample { interval_ms: 60_000, readings }).enumerate();
        let (n, first) = samples.next().unwrap();
        let mut merged = Merged::new(stamp(n), first);
        samples.for_each(|(n, sample)| merged.push(stamp(n), sample));
        let Body::Sample(sample) = merged.finish().body else { panic!("a sample") };
        sample
    }

    fn find(sample: &Sample, metric: Metric) -> &Reading {
        sample.readings.iter().find(|reading| reading.metric == metric).unwrap()
    }

    #[test]
    fn amounts_are_added_up_and_gauges_keep_the_range_of_all() {
        let volts = |value: f64, range| Reading { range, ..reading(Metric::BatteryVoltage, value) };
        let sample = merged(vec![
            vec![volts(12.0, Some((11.0, 12.5))), reading(Metric::LinkRxBytes, 700_u64)],
            vec![volts(11.5, None), reading(Metric::LinkRxBytes, 40_u64), reading(Metric::ErrorsCount, 3_u64)],
            vec![volts(11.9, Some((11.9, 13.0))), reading(Metric::HostUptime, 180_u64)],
        ]);
        assert_eq!(sample.interval_ms, 180_000);
        let voltage = find(&sample, Metric::BatteryVoltage);
        assert_eq!((&voltage.value, voltage.range), (&Value::Float(11.9), Some((11.0, 13.0))));
        assert_eq!(find(&sample, Metric::LinkRxBytes).value, Value::Count(740));
        assert_eq!(find(&sample, Metric::ErrorsCount).value, Value::Count(3));
        assert_eq!(find(&sample, Metric::HostUptime).value, Value::Count(180));
    }

    #[test]
    fn a_gauge_that_stood_still_has_no_range() {
        let sample = merged(vec![vec![reading(Metric::HostLoad1, 0.5)], vec![reading(Metric::HostLoad1, 0.5)]]);
        assert_eq!(find(&sample, Metric::HostLoad1).range, None);
    }

    #[test]
    fn labels_are_series_of_their_own() {
        let disk =
            |label: &str, value: f64| Reading { label: Some(label.into()), ..reading(Metric::HostDiskUsed, value) };
        let sample =
            merged(vec![vec![disk("/", 40.0), disk("/data", 70.0)], vec![disk("/", 41.0), disk("/data", 71.0)]]);
        let disks: Vec<_> = sample.readings.iter().filter(|r| r.metric == Metric::HostDiskUsed).collect();
        assert_eq!(
            disks.iter().map(|disk| &disk.value).collect::<Vec<_>>(),
            [&Value::Float(41.0), &Value::Float(71.0)]
        );
    }
}
