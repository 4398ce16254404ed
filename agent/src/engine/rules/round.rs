//! What a rule is judged by: a round of collection, or a report interval that closed; and which of the two a metric is
//! judged in. What is missing is never a zero, but for what the agent itself counts. Says nothing of good and bad.

use std::time::Duration;

use super::detector::Seen;
use crate::config::Anomaly;
use crate::engine::metric::{Metric, Value};
use crate::engine::observation::Observation;
use crate::engine::record::Sample;

/// What the agent adds to a sample when its interval closes, beside counts: no round of collection holds these.
pub(in crate::engine) const OWN_GAUGES: [Metric; 7] = [
    Metric::AgentVersion,
    Metric::AgentOutboxRecords,
    Metric::AgentOutboxBytes,
    Metric::AgentDropped,
    Metric::AgentDrainRemaining,
    Metric::LinkBrokerRtt,
    Metric::LinkDns,
];

/// What there is to judge.
#[derive(Debug, Clone, Copy)]
pub enum Round<'a> {
    /// A round of collection; `None` if it brought no readings.
    Observed(Option<&'a Observation>),
    /// A report interval that ran its whole length.
    Reported(&'a Sample),
}

impl Round<'_> {
    /// Whether this kind of round is where the metric is judged.
    pub(super) fn holds(&self, metric: Metric) -> bool {
        let at_report = metric.is_counted() || OWN_GAUGES.contains(&metric);
        at_report == matches!(self, Self::Reported(_))
    }

    /// The reading; `None` if there is none, or it is no number where it should be one.
    pub(super) fn find(&self, metric: Metric, label: Option<&str>) -> Option<Value> {
        let value = match self {
            Self::Observed(observation) => (*observation)?
                .points
                .iter()
                .rfind(|point| point.metric == metric && point.label.as_deref() == label)
                .map(|point| point.value.clone()),
            Self::Reported(sample) => reported(sample, metric, label),
        };
        value.filter(|value| value.number().is_none_or(f64::is_finite))
    }

    /// What a detector judges, but for what is counted.
    pub(super) fn seen(&self, kind: Anomaly, metric: Metric, label: Option<&str>) -> Option<Seen<'_>> {
        match (kind, self) {
            (Anomaly::NewListener, Self::Observed(seen)) => Some(Seen::Names(&(*seen)?.sockets.as_ref()?.listeners)),
            (Anomaly::NewPeer, Self::Observed(seen)) => Some(Seen::Names(&(*seen)?.sockets.as_ref()?.peers)),
            (Anomaly::NewListener | Anomaly::NewPeer, Self::Reported(_)) => None,
            _ => Some(Seen::Number(self.find(metric, label)?.number()?)),
        }
    }

    /// How long the interval was, in seconds.
    pub(super) fn interval_s(&self) -> Option<f64> {
        let Self::Reported(sample) = self else { return None };
        let interval = Duration::from_millis(sample.interval_ms).as_secs_f64();
        (interval > 0.0).then_some(interval)
    }
}

fn reported(sample: &Sample, metric: Metric, label: Option<&str>) -> Option<Value> {
    let find = |metric: Metric, label: Option<&str>| {
        let mut readings = sample.readings.iter();
        readings.find(|reading| reading.metric == metric && reading.label.as_deref() == label)
    };
    if let Some(reading) = find(metric, label) {
        return Some(reading.value.clone());
    }
    // The agent counts these itself, and leaves out what didn't happen: that none was counted is known, not missing.
    let is_known = match metric {
        Metric::AgentDropped | Metric::AgentRefused | Metric::AgentCommandsRefused | Metric::AgentImplausible => true,
        Metric::ErrorsBySeverity | Metric::ErrorsKernelClass | Metric::ErrorsAppRefused => {
            find(Metric::ErrorsCount, None).is_some()
        }
        _ => false,
    };
    is_known.then_some(Value::Count(0))
}
