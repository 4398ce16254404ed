//! A level that is odd for the hour of the week: each of the 168 hours (UTC) has a mean and a scatter of its own, over
//! means of five minutes. What is usual on Monday at nine is odd on Sunday at three. Says nothing of an hour that was
//! not seen in two weeks, nor without a clock that is to be trusted.

use minicbor::{Decode, Encode};

use super::{Bucket, Finding, Moment, scatter, verdict};

const HOURS: usize = 168;
const HOUR_MS: i64 = 3_600_000;
/// Means of an hour with which something is said of it: two weeks.
const MEANS_MIN: u8 = 24;
/// Means over which an hour's usual ages: four weeks.
const AGING: u8 = 48;
/// Of the mean absolute deviation, where the noise is normal.
const SIGMA_IN_DEVIATIONS: f64 = 1.2533;
/// Standard deviations.
const ODD: f64 = 6.0;
const USUAL: f64 = 3.0;

#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
pub(super) struct Seasonal {
    /// Empty, or one for each hour of the week.
    #[n(0)]
    hours: Vec<Hour>,
    #[cbor(skip)]
    bucket: Bucket,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Encode, Decode)]
#[cbor(array)]
struct Hour {
    #[n(0)]
    mean: f32,
    /// Mean absolute deviation from it.
    #[n(1)]
    deviation: f32,
    #[n(2)]
    means: u8,
}

impl Seasonal {
    pub(super) fn judge(&mut self, reading: f64, resolution: f64, at: Moment) -> Option<Finding> {
        let mean = self.bucket.add(at.mono, reading)?;
        let hour = usize::try_from(at.wall?.0.div_euclid(HOUR_MS).rem_euclid(168)).ok()?;
        self.hours.resize(HOURS, Hour::default());
        self.hours.get_mut(hour)?.judge(mean, resolution, at.stands)
    }

    pub(super) fn is_sound(&self) -> bool {
        let of_finite = |hour: &Hour| hour.mean.is_finite() && hour.deviation.is_finite();
        matches!(self.hours.len(), 0 | HOURS) && self.hours.iter().all(of_finite)
    }
}

impl Hour {
    fn judge(&mut self, reading: f64, resolution: f64, stands: bool) -> Option<Finding> {
        let (center, deviation) = (f64::from(self.mean), f64::from(self.deviation));
        let off = reading - center;
        let mut finding = None;
        if self.means >= MEANS_MIN {
            let sigma = scatter(deviation * SIGMA_IN_DEVIATIONS, center, resolution);
            let score = off.abs() / sigma;
            finding = Some(Finding {
                verdict: verdict(score, ODD, USUAL),
                value: reading.into(),
                threshold: (center + (ODD * sigma).copysign(off)).into(),
            });
            if stands || score > ODD {
                return finding;
            }
        }
        let weight = 1.0 / f64::from(self.means.saturating_add(1).min(AGING));
        let deviates = if self.means == 0 { 0.0 } else { off.abs() };
        self.mean = narrow(center + off * weight);
        self.deviation = narrow(deviation + (deviates - deviation) * weight);
        self.means = self.means.saturating_add(1).min(AGING);
        finding
    }
}

/// Half the space in the store, for a precision that no sensor has.
#[expect(clippy::cast_possible_truncation, reason = "seven digits are more than a sensor has")]
const fn narrow(number: f64) -> f32 {
    number as f32
}
