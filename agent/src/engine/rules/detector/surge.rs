//! A count far above its own rate: of an exponentially aging mean and variance, so that what happens often may happen
//! more often, and what never happens is odd from five on. Only for what is counted, a minute.

use minicbor::{Decode, Encode};

use super::{Finding, Moment};
use crate::engine::rules::Verdict;

/// Counts over which the mean ages: a week of minutes. In less a quiet weekend would make Monday a surge.
const AGING: f64 = 10_080.0;
/// With fewer nothing is said.
const COUNTS_MIN: f64 = 60.0;
/// Standard deviations; the variance of a count is at least its mean (Poisson).
const ODD: f64 = 8.0;
const USUAL: f64 = 4.0;
/// Neither less than so many times the mean, nor fewer than so many, are a surge.
const TIMES_MIN: f64 = 3.0;
const COUNT_MIN: f64 = 5.0;

#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
pub(super) struct Surge {
    #[n(0)]
    counts: f64,
    #[n(1)]
    mean: f64,
    #[n(2)]
    variance: f64,
}

impl Surge {
    pub(super) fn judge(&mut self, count: f64, at: Moment) -> Option<Finding> {
        let sigma = self.variance.max(self.mean).sqrt();
        let limit = (self.mean + ODD * sigma).max(TIMES_MIN * self.mean).max(COUNT_MIN);
        let mut finding = None;
        if self.counts >= COUNTS_MIN {
            let usual = (self.mean + USUAL * sigma).max(COUNT_MIN);
            let verdict = match count {
                _ if count > limit => Verdict::Bad,
                _ if count < usual => Verdict::Good,
                _ => Verdict::Between,
            };
            finding = Some(Finding { verdict, value: count.into(), threshold: limit.into() });
            if at.stands || count > limit {
                return finding;
            }
        }
        self.counts = (self.counts + 1.0).min(AGING);
        let off = count - self.mean;
        self.mean += off / self.counts;
        self.variance += (off * (count - self.mean) - self.variance) / self.counts;
        finding
    }

    pub(super) fn is_sound(&self) -> bool {
        let Self { counts, mean, variance } = self;
        super::all_finite([counts, mean, variance]) && [counts, mean, variance].iter().all(|number| **number >= 0.0)
    }
}
