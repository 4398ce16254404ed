//! Detectors of anomalies: each learns what is usual of one metric, and says of a reading how odd it is. What is
//! learned is bounded, a few KiB at most, and kept over restarts. Nothing is learned of what is odd, or while the alarm
//! stands; an alarm that has stood for long enough is the new usual, and is learned from its beginning: the alarm ends
//! when enough of that is known, however long it takes. Says nothing until it knows enough; decides nothing of alarms.
//!
//! Warm-up → Usual → Odd → Usual, or → stood too long → Warm-up.

mod drift;
mod novelty;
mod seasonal;
mod spike;
mod surge;

use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::Verdict;
use crate::config::Anomaly;
use crate::engine::keyed::encode;
use crate::engine::metric::{Metric, Value};
use crate::engine::time::{Mono, Unix};

use drift::Drift;
use novelty::Novelty;
use seasonal::Seasonal;
use spike::Spike;
use surge::Surge;

/// A standard deviation in median absolute deviations, where the noise is normal.
const SIGMA_IN_MADS: f64 = 1.4826;
/// No scatter is taken for smaller than this share of what it scatters around.
const SCATTER_MIN_SHARE: f64 = 0.01;
/// What is learned of a series in steps of this length, where single readings say too little.
const BUCKET: Duration = Duration::from_secs(300);

/// What there is to judge.
#[derive(Debug, Clone, Copy)]
pub(super) enum Seen<'a> {
    /// A reading.
    Number(f64),
    /// What is counted, a minute.
    PerMinute(f64),
    /// Names of what is there.
    Names(&'a [String]),
}

/// When, and whether the alarm stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) mono: Mono,
    /// `None` while the clock isn't to be trusted.
    pub(super) wall: Option<Unix>,
    pub(super) stands: bool,
}

/// What a detector says of a reading.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    /// What was judged: the reading, the mean of some, or the names that are new.
    pub(super) value: Value,
    /// Beyond which it is odd, in the metric's unit.
    pub(super) threshold: Value,
}

/// One detector, with what it has learned.
#[derive(Debug)]
pub(super) struct Detector {
    metric: Metric,
    /// The metric as the config names it: what was learned of one says nothing of another.
    path: String,
    learned: Learned,
    /// Since when the alarm has stood in this run.
    stands_since: Option<Mono>,
    /// How long it had stood before.
    stood: Duration,
    /// It has stood for too long, and what is usual now is not yet known.
    relearns: bool,
}

/// What is kept of a detector.
#[derive(Debug, Encode, Decode)]
struct Saved {
    #[n(0)]
    metric: String,
    #[n(1)]
    learned: Learned,
    /// How long the alarm has stood: a gateway that restarts every night has it usual all the same some day.
    #[n(2)]
    #[cbor(default)]
    stood_ms: u64,
    #[n(3)]
    #[cbor(default)]
    relearns: bool,
}

#[derive(Debug, Clone, PartialEq, Encode, Decode)]
enum Learned {
    #[n(0)]
    Spike(#[n(0)] Spike),
    #[n(1)]
    Drift(#[n(0)] Drift),
    #[n(2)]
    Surge(#[n(0)] Surge),
    #[n(3)]
    Seasonal(#[n(0)] Seasonal),
    #[n(4)]
    Novelty(#[n(0)] Novelty),
}

impl Detector {
    pub(super) fn new(kind: Anomaly, metric: Metric, path: &str) -> Self {
        let learned = Learned::nothing(kind);
        Self { metric, path: path.to_owned(), learned, stands_since: None, stood: Duration::ZERO, relearns: false }
    }

    /// Goes on with what [`Detector::save`] gave; begins anew where that is of another metric or kind, or is damaged.
    pub(super) fn restore(&mut self, saved: &[u8]) -> bool {
        let of_this_kind = |learned: &Learned| std::mem::discriminant(learned) == std::mem::discriminant(&self.learned);
        let saved = minicbor::decode::<Saved>(saved).ok().filter(|saved| saved.metric == self.path);
        match saved.filter(|saved| of_this_kind(&saved.learned) && saved.learned.is_sound()) {
            Some(Saved { learned, stood_ms, relearns, .. }) => {
                self.learned = learned;
                (self.stood, self.relearns) = (Duration::from_millis(stood_ms), relearns);
                true
            }
            None => false,
        }
    }

    pub(super) fn save(&self, now: Mono) -> Bytes {
        let stood_ms = u64::try_from(self.stands_for(now).as_millis()).unwrap_or(u64::MAX);
        let (metric, learned) = (self.path.clone(), self.learned.clone());
        encode(&Saved { metric, learned, stood_ms, relearns: self.relearns })
    }

    fn stands_for(&self, now: Mono) -> Duration {
        self.stood.saturating_add(self.stands_since.map_or(Duration::ZERO, |since| now.since(since)))
    }

    /// `None`: there is nothing to say yet.
    pub(super) fn judge(&mut self, kind: Anomaly, seen: Seen<'_>, at: Moment) -> Option<Finding> {
        if at.stands {
            self.stands_since.get_or_insert(at.mono);
            if !self.relearns && self.stands_for(at.mono) >= usual_after(kind) {
                (self.learned, self.relearns) = (Learned::nothing(kind), true);
            }
        } else {
            (self.stands_since, self.stood, self.relearns) = (None, Duration::ZERO, false);
        }
        let finding = self.look(seen, at);
        if self.relearns && finding.is_some() {
            (self.stands_since, self.stood, self.relearns) = (Some(at.mono), Duration::ZERO, false);
        }
        finding
    }

    fn look(&mut self, seen: Seen<'_>, at: Moment) -> Option<Finding> {
        let resolution = resolution(self.metric);
        match (&mut self.learned, seen) {
            (Learned::Spike(spike), Seen::Number(x) | Seen::PerMinute(x)) => spike.judge(x, resolution, at),
            (Learned::Drift(drift), Seen::Number(x) | Seen::PerMinute(x)) => drift.judge(x, resolution, at),
            (Learned::Seasonal(seasonal), Seen::Number(x) | Seen::PerMinute(x)) => seasonal.judge(x, resolution, at),
            (Learned::Surge(surge), Seen::PerMinute(x)) => surge.judge(x, at),
            (Learned::Novelty(novelty), Seen::Names(names)) => novelty.judge(names, at),
            _ => None,
        }
    }
}

impl Learned {
    fn nothing(kind: Anomaly) -> Self {
        match kind {
            Anomaly::Spike => Self::Spike(Spike::default()),
            Anomaly::Drift => Self::Drift(Drift::default()),
            Anomaly::Surge => Self::Surge(Surge::default()),
            Anomaly::Seasonal => Self::Seasonal(Seasonal::default()),
            Anomaly::NewListener | Anomaly::NewPeer => Self::Novelty(Novelty::default()),
        }
    }

    /// Whether it is what this version could have written.
    fn is_sound(&self) -> bool {
        match self {
            Self::Spike(spike) => spike.is_sound(),
            Self::Drift(drift) => drift.is_sound(),
            Self::Surge(surge) => surge.is_sound(),
            Self::Seasonal(seasonal) => seasonal.is_sound(),
            Self::Novelty(novelty) => novelty.is_sound(),
        }
    }
}

/// After how long what was odd is usual.
const fn usual_after(kind: Anomaly) -> Duration {
    const HOUR: u64 = 3_600;
    Duration::from_secs(match kind {
        Anomaly::Spike => HOUR,
        Anomaly::Drift | Anomaly::Surge | Anomaly::NewListener | Anomaly::NewPeer => 24 * HOUR,
        Anomaly::Seasonal => 7 * 24 * HOUR,
    })
}

/// What two readings of a quiet sensor may well differ by: without it a change by one step of a value that never
/// changed would be infinitely odd.
fn resolution(metric: Metric) -> f64 {
    match metric.unit() {
        "%" | "dBm" | "dB" => 1.0,
        "Cel" => 0.5,
        "V" | "A" => 0.05,
        "W" => 0.2,
        "s" => 5.0,
        "ms" => 5.0,
        "By" => 65_536.0,
        _ => 0.5,
    }
}

/// Where readings are, and how far they scatter: median, and median absolute deviation as a standard deviation.
fn robust(readings: &[f64], resolution: f64) -> Option<(f64, f64)> {
    let center = median(readings.iter().copied())?;
    let mad = median(readings.iter().map(|x| (x - center).abs()))?;
    Some((center, scatter(mad * SIGMA_IN_MADS, center, resolution)))
}

fn scatter(sigma: f64, center: f64, resolution: f64) -> f64 {
    sigma.max(center.abs() * SCATTER_MIN_SHARE).max(resolution)
}

fn median(numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let mut numbers: Vec<f64> = numbers.collect();
    let middle = numbers.len() / 2;
    if numbers.is_empty() {
        return None;
    }
    let (_, median, _) = numbers.select_nth_unstable_by(middle, f64::total_cmp);
    Some(*median)
}

/// How odd a score is: odd beyond one limit, usual below the other.
fn verdict(score: f64, odd: f64, usual: f64) -> Verdict {
    if score > odd {
        Verdict::Bad
    } else if score < usual {
        Verdict::Good
    } else {
        Verdict::Between
    }
}

/// Readings of one stretch of time.
#[derive(Debug, Clone, Default, PartialEq)]
struct Bucket {
    since: Option<Mono>,
    sum: f64,
    readings: u32,
}

impl Bucket {
    /// Takes a reading; the mean of the bucket that it closes. One that nobody filled for long is begun anew.
    fn add(&mut self, now: Mono, reading: f64) -> Option<f64> {
        let since = *self.since.get_or_insert(now);
        let age = now.since(since);
        let mean =
            (age >= BUCKET && age < BUCKET * 24 && self.readings > 0).then(|| self.sum / f64::from(self.readings));
        if age >= BUCKET {
            *self = Self { since: Some(now), sum: 0.0, readings: 0 };
        }
        self.sum += reading;
        self.readings += 1;
        mean
    }
}

fn all_finite<'a>(numbers: impl IntoIterator<Item = &'a f64>) -> bool {
    numbers.into_iter().all(|number| number.is_finite())
}

#[cfg(test)]
mod tests;
