//! The intervals between tries to reach the broker: the backoff crate's, set so that each is drawn from zero to the
//! present ceiling (full jitter), and the ceiling doubles. When to begin anew is the engine's decision.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

use crate::config::Reconnect;

/// Full-jitter exponential backoff.
pub(super) struct FullJitter(ExponentialBackoff);

impl FullJitter {
    /// From `min` (the first ceiling) to `max`.
    pub(super) fn new(reconnect: &Reconnect) -> Self {
        // A randomization of 1 draws from 0 to twice the interval: so the interval is half of the ceiling.
        let mut backoff = ExponentialBackoff {
            initial_interval: reconnect.min / 2,
            max_interval: reconnect.max / 2,
            multiplier: 2.0,
            randomization_factor: 1.0,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        backoff.reset();
        Self(backoff)
    }

    /// The next interval.
    pub(super) fn draw(&mut self) -> Duration {
        // `None` only with a `max_elapsed_time`.
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// Begins anew.
    pub(super) fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_fill_the_whole_range_below_a_ceiling_that_doubles_to_its_maximum() {
        let reconnect =
            Reconnect { min: Duration::from_secs(1), max: Duration::from_secs(64), stable_after: Duration::ZERO };
        for n in 0..10_u32 {
            let ceiling = Duration::from_secs(2_u64.pow(n).min(64));
            let draws: Vec<Duration> = (0..400)
                .map(|_| {
                    let mut backoff = FullJitter::new(&reconnect);
                    for _ in 0..n {
                        backoff.draw();
                    }
                    backoff.draw()
                })
                .collect();
            let (low, high) = (draws.iter().min().unwrap(), draws.iter().max().unwrap());
            assert!(*high <= ceiling + Duration::from_millis(1), "draw {n}: {high:?} over {ceiling:?}");
            assert!(*high > ceiling / 2 && *low < ceiling / 10, "draw {n}: only {low:?} to {high:?} below {ceiling:?}");
        }
    }
}
