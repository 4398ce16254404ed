//! A level that creeps away from where it was for a day: two-sided CUSUM (Page, "Continuous inspection schemes", 1954)
//! over means of five minutes, against the day's median and scatter. What swings with the day stays within the allowance.

use minicbor::{Decode, Encode};

use super::{Bucket, Finding, Moment, robust, verdict};

/// Means that are compared with: a day.
const MEANS_MAX: usize = 288;
/// With less than a whole day nothing is said: half of one has no night.
const MEANS_MIN: usize = 288;
/// What is taken for usual, in standard deviations. The scatter of a sine is such that its crest lies below one.
const ALLOWANCE: f64 = 1.0;
/// A single mean adds no more than this: one outlier is no drift.
const SCORE_MAX: f64 = 4.0;
/// Sums. Two standard deviations beyond the day's median are odd after an hour.
const ODD: f64 = 12.0;
const USUAL: f64 = 6.0;
/// A sum grows no further, so that it is usual again within an hour of the level.
const SUM_MAX: f64 = 16.0;

#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
pub(super) struct Drift {
    /// Oldest first.
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
        if self.means.len() >= MEANS_MIN {
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
            self.means.remove(0);
        }
        self.means.push(mean);
        finding
    }

    pub(super) fn is_sound(&self) -> bool {
        let sums = [self.rising, self.falling];
        self.means.len() <= MEANS_MAX && super::all_finite(&self.means) && super::all_finite(&sums)
    }
}
