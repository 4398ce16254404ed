//! All chance of a simulated world, from one seed: the same seed gives the same draws. Each part of the world has its
//! own dice, so that one more draw in one part doesn't change the luck of the others.

use std::time::Duration;

use crate::engine::hash::hash;

/// Seeded dice.
#[derive(Debug, Clone)]
pub struct Dice(fastrand::Rng);

impl Dice {
    /// The dice of one part of a world.
    #[must_use]
    pub fn new(seed: u64, part: &str) -> Self {
        Self(fastrand::Rng::with_seed(seed ^ hash([part])))
    }

    /// From zero up to, but not, one.
    pub fn fraction(&mut self) -> f64 {
        self.0.f64()
    }

    /// Whether something with this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    /// From zero up to, but not, `bound`; zero if that is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.u64(0..bound) }
    }

    /// A length of time from `low` to `high`.
    pub fn between(&mut self, low: Duration, high: Duration) -> Duration {
        low + high.saturating_sub(low).mul_f64(self.fraction())
    }

    /// How long until the next of events that come at random, `mean` apart on average (a Poisson process).
    pub fn until_next(&mut self, mean: Duration) -> Duration {
        let draw = -libm::log(1.0 - self.fraction());
        Duration::try_from_secs_f64(mean.as_secs_f64() * draw).unwrap_or(Duration::MAX)
    }

    /// Around zero, with a standard deviation of one (the sum of twelve draws: no tails beyond six).
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.fraction()).sum::<f64>() - 6.0
    }

    /// Sixteen random bytes.
    pub fn bytes(&mut self) -> [u8; 16] {
        self.0.u128(..).to_le_bytes()
    }

    /// New dice, whose luck follows from these.
    pub fn fork(&mut self) -> Self {
        Self(self.0.fork())
    }
}
