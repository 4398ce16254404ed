//! A reading far from where the latest ones are: robust z-score by the median absolute deviation (Iglewicz and Hoaglin,
//! "How to detect and handle outliers", 1993). A sensor that jumps, a processor that runs away; not what comes slowly.

use minicbor::{Decode, Encode};

use super::{Finding, Moment, robust, verdict};

/// Readings that are compared with: twenty minutes at the default interval.
const READINGS_MAX: usize = 120;
/// With fewer nothing is said.
const READINGS_MIN: usize = 60;
/// Standard deviations. Single readings are judged, thousands a day, of sensors whose noise has long tails.
const ODD: f64 = 8.0;
const USUAL: f64 = 4.0;

#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
pub(super) struct Spike {
    /// Oldest first.
    #[n(0)]
    readings: Vec<f64>,
}

impl Spike {
    pub(super) fn judge(&mut self, reading: f64, resolution: f64, at: Moment) -> Option<Finding> {
        let mut finding = None;
        if self.readings.len() >= READINGS_MIN {
            let (center, sigma) = robust(&self.readings, resolution)?;
            let score = (reading - center).abs() / sigma;
            finding = Some(Finding {
                verdict: verdict(score, ODD, USUAL),
                value: reading.into(),
                threshold: (center + (ODD * sigma).copysign(reading - center)).into(),
            });
            if at.stands || score > ODD {
                return finding;
            }
        }
        if self.readings.len() >= READINGS_MAX {
            self.readings.remove(0);
        }
        self.readings.push(reading);
        finding
    }

    pub(super) fn is_sound(&self) -> bool {
        self.readings.len() <= READINGS_MAX && super::all_finite(&self.readings)
    }
}
