//! A level that creeps away from where it was for a day: two-sided CUSUM (Page, "Continuous inspection schemes", 1954)
//! over means of five minutes, against the day's median and scatter. What swings with the day stays within the
//! allowance. The day is a ring of its minutes, in which what was usual stays until it is usual again: without the
//! hours in which an alarm stood, the others would be taken for the day.

use minicbor::{Decode, Encode};

use super::{BUCKET, Bucket, Finding, Moment, robust, verdict};
use crate::engine::time::Mono;

/// Means that are compared with: a day. With less nothing is said: half of one has no night.
const MEANS: usize = 288;
/// What is taken for usual, in standard deviations. The crest of a sine lies at one of its own, with noise on it a
/// little higher.
const ALLOWANCE: f64 = 1.5;
/// A single mean adds no more than this: one outlier is no drift.
const SCORE_MAX: f64 = 4.0;
/// Sums. Three standard deviations beyond the day's median are odd in forty minutes.
const ODD: f64 = 12.0;
const USUAL: f64 = 6.0;
/// A sum grows no further, so that it is usual again within an hour of the level.
const SUM_MAX: f64 = 16.0;

#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
pub(super) struct Drift {
    /// A ring: the place of a time of the day is the same every day.
    #[n(0)]
    means: Vec<f64>,
    #[n(1)]
    rising: f64,
    #[n(2)]
    falling: f64,
    #[cbor(skip)]
    bucket: Bucket,
}

impl Drift {
    pub(super) fn judge(&mut self, reading: f64, resolution: f64, at: Moment) -> Option<Finding> {
        let mean = self.bucket.add(at.mono, reading)?;
        let mut finding = None;
        if self.means.len() >= MEANS {
            let (center, sigma) = robust(&self.means, resolution)?;
            let score = ((mean - center) / sigma).clamp(-SCORE_MAX, SCORE_MAX);
            self.rising = (self.rising + score - ALLOWANCE).clamp(0.0, SUM_MAX);
            self.falling = (self.falling - score - ALLOWANCE).clamp(0.0, SUM_MAX);
            let worst = self.rising.max(self.falling);
            let side = if self.rising >= self.falling { 1.0 } else { -1.0 };
            finding = Some(Finding {
                verdict: verdict(worst, ODD, USUAL),
                value: mean.into(),
                threshold: (center + side * ALLOWANCE * sigma).into(),
            });
            if at.stands || worst > ODD {
                return finding;
            }
        }
        match self.means.get_mut(place(at.mono)).filter(|_| finding.is_some()) {
            Some(usual) => *usual = mean,
            None => self.means.push(mean),
        }
        finding
    }

    pub(super) fn is_sound(&self) -> bool {
        let sums = [self.rising, self.falling];
        self.means.len() <= MEANS && super::all_finite(&self.means) && super::all_finite(&sums)
    }
}

/// Where in the ring a mean of this time belongs. A boot begins a day of its own: what it finds in its places is of
/// other hours, and goes with them within a day.
fn place(mono: Mono) -> usize {
    let buckets = mono.0 / u64::try_from(BUCKET.as_millis()).unwrap_or(u64::MAX);
    usize::try_from(buckets % MEANS as u64).unwrap_or(0)
}
