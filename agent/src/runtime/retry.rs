//! The intervals between tries to reach the broker: a ceiling that the backoff crate doubles, and below it a draw that
//! comes in by argument (full jitter). When to begin anew is the engine's decision. The simulator draws from it too.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

use crate::config::Reconnect;

/// Full-jitter exponential backoff.
pub(crate) struct FullJitter(ExponentialBackoff);

impl FullJitter {
    /// From `min` (the first ceiling) to `max`.
    pub(crate) fn new(reconnect: &Reconnect) -> Self {
        let mut ceiling = ExponentialBackoff {
            initial_interval: reconnect.min,
            max_interval: reconnect.max,
            multiplier: 2.0,
            // The crate's own jitter is drawn where no seed reaches it.
            randomization_factor: 0.0,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        ceiling.reset();
        Self(ceiling)
    }

    /// The next interval: this fraction (0 to 1, evenly drawn) of the ceiling.
    pub(crate) fn draw(&mut self, fraction: f64) -> Duration {
        // `None` only with a `max_elapsed_time`.
        let ceiling = self.0.next_backoff().unwrap_or(self.0.max_interval);
        // Its jitter of nothing is still up to a nanosecond, rounded: enough to make two runs of one seed differ.
        let ceiling = Duration::from_micros(u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX));
        ceiling.mul_f64(fraction.clamp(0.0, 1.0))
    }

    /// Takes other bounds, and goes on from where it is.
    pub(crate) fn retune(&mut self, reconnect: &Reconnect) {
        let Reconnect { min, max, .. } = *reconnect;
        self.0.initial_interval = min;
        self.0.max_interval = max;
        self.0.current_interval = self.0.current_interval.min(max).max(min);
    }

    /// Begins anew.
    pub(crate) fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reconnect(min_s: u64, max_s: u64) -> Reconnect {
        let [min, max] = [min_s, max_s].map(Duration::from_secs);
        Reconnect { min, max, stable_after: Duration::ZERO }
    }

    #[test]
    fn the_ceiling_doubles_to_its_maximum() {
        let mut backoff = FullJitter::new(&reconnect(1, 50));
        let ceilings: Vec<u64> = (0..8).map(|_| backoff.draw(1.0).as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 32, 50, 50]);
        backoff.reset();
        assert_eq!(backoff.draw(1.0), Duration::from_secs(1));
    }

    #[test]
    fn other_bounds_do_not_begin_it_anew() {
        let mut backoff = FullJitter::new(&reconnect(1, 50));
        let mut after = |min_s, max_s| {
            backoff.draw(1.0);
            backoff.retune(&reconnect(min_s, max_s));
            backoff.draw(1.0).as_secs()
        };
        assert_eq!([after(1, 50), after(1, 60), after(1, 10), after(20, 60)], [2, 8, 10, 20]);
        backoff.reset();
        assert_eq!(backoff.draw(1.0), Duration::from_secs(20));
    }

    #[test]
    fn the_same_draw_gives_the_same_interval() {
        let mut backoff = FullJitter::new(&reconnect(300, 300));
        assert!((0..1_000_000).all(|_| backoff.draw(1.0) == Duration::from_secs(300)));
    }

    #[test]
    fn an_interval_is_the_drawn_fraction_of_the_ceiling() {
        let mut backoff = FullJitter::new(&reconnect(4, 64));
        assert_eq!([0.0, 0.5, 0.25].map(|fraction| backoff.draw(fraction).as_millis()), [0, 4_000, 4_000]);
    }
}
