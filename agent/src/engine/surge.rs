//! Whether a cluster of errors comes far more often than it used to. Its rate is held against a baseline of its own
//! that ages, bucket by bucket, those without a line included. A surge is told once: the baseline hardly moves while it
//! lasts, and it is over when the rate has come down, or when it has become the rule. A cluster that is new has no
//! baseline; that it is new was told already. A rule's `surge` (`rules/detector`) looks at a metric over a week; this
//! one is small enough for each cluster to have one.

/// Weight of the newest bucket in the baseline: it has forgotten half after some six buckets.
const AGING: f64 = 0.11;
/// The same while a surge lasts: what goes on for an hour of one-minute buckets is half way to being the rule.
const AGING_IN_SURGE: f64 = 0.011;
/// Buckets since the first line before anything is judged.
const WARM_UP_BUCKETS: u32 = 5;
/// A surge is at least so many times the baseline,
const FACTOR: f64 = 4.0;
/// and by so many standard deviations above it, were the lines independent of each other (Poisson: the root of the
/// mean),
const DEVIATIONS: f64 = 6.0;
/// and no fewer lines than this: three where there was one a day are no surge.
const LINES_MIN: f64 = 10.0;
/// It is over below so many times the baseline. Lower than [`FACTOR`], so that it isn't told again at each dip.
const OVER_FACTOR: f64 = 2.0;
/// Empty buckets that are counted one by one; after more the baseline is as good as zero.
const EMPTY_MAX: u64 = 128;

/// The baseline of one cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Baseline {
    per_bucket: f64,
    buckets: u32,
    in_surge: bool,
}

impl Baseline {
    /// Takes over a bucket that ended with `lines`, after `empty` ones without; whether a surge begins with it.
    pub(super) fn take(&mut self, empty: u64, lines: u64) -> bool {
        for _ in 0..empty.min(EMPTY_MAX) {
            self.learn(0.0);
        }
        // Precise to 2^53.
        #[expect(clippy::cast_precision_loss, reason = "a count of lines within a bucket")]
        let lines = lines as f64;
        let begins = !self.in_surge && self.is_far_above(lines);
        self.in_surge |= begins;
        self.learn(lines);
        begins
    }

    /// Lines that are usual in a bucket, to a tenth.
    pub(super) fn per_bucket(&self) -> f64 {
        (self.per_bucket * 10.0).round() / 10.0
    }

    fn is_far_above(&self, lines: f64) -> bool {
        let limit = (self.per_bucket * FACTOR).max(self.per_bucket + DEVIATIONS * self.per_bucket.sqrt());
        self.buckets >= WARM_UP_BUCKETS && lines >= LINES_MIN && lines > limit
    }

    fn learn(&mut self, lines: f64) {
        if self.in_surge && lines <= (self.per_bucket * OVER_FACTOR).max(LINES_MIN / 2.0) {
            self.in_surge = false;
        }
        let usual = if self.in_surge { AGING_IN_SURGE } else { AGING };
        // In the beginning it is the plain mean, so that the first bucket doesn't weigh for longer than others.
        self.buckets = self.buckets.saturating_add(1);
        let weight = if self.in_surge { usual } else { usual.max(1.0 / f64::from(self.buckets)) };
        self.per_bucket += weight * (lines - self.per_bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator that is the same each time (xorshift64*).
    struct Noise(u64);

    impl Noise {
        /// Lines of a bucket when each of `of` chances gives one with this probability in thousandths.
        fn lines(&mut self, of: u32, thousandths: u64) -> u64 {
            let mut lines = 0;
            for _ in 0..of {
                self.0 ^= self.0 >> 12;
                self.0 ^= self.0 << 25;
                self.0 ^= self.0 >> 27;
                lines += u64::from((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % 1000 < thousandths);
            }
            lines
        }
    }

    fn surges(baseline: &mut Baseline, buckets: impl IntoIterator<Item = u64>) -> usize {
        buckets.into_iter().filter(|lines| baseline.take(0, *lines)).count()
    }

    #[test]
    fn steady_noise_of_any_rate_is_never_a_surge() {
        for (of, thousandths) in [(10, 1), (10, 50), (20, 100), (50, 200), (100, 500), (1_000, 300)] {
            for seed in 1..=20 {
                let mut noise = Noise(seed);
                // A week of minutes.
                let week = std::iter::repeat_with(move || noise.lines(of, thousandths)).take(7 * 24 * 60);
                let false_alarms = surges(&mut Baseline::default(), week);
                assert_eq!(false_alarms, 0, "{of} chances of {thousandths}/1000, seed {seed}");
            }
        }
    }

    #[test]
    fn a_rate_far_above_its_own_is_told_once_and_again_when_it_comes_again() {
        let mut baseline = Baseline::default();
        assert_eq!(surges(&mut baseline, [5; 60]), 0);
        assert!(baseline.take(0, 100), "twenty times the baseline of 5: {baseline:?}");
        assert_eq!(surges(&mut baseline, [100, 90, 60, 120]), 0, "it lasts: {baseline:?}");
        assert_eq!(surges(&mut baseline, [5; 10]), 0, "it is over");
        assert!(baseline.take(0, 100), "another one: {baseline:?}");
    }

    #[test]
    fn a_surge_that_stays_becomes_the_rule() {
        let mut baseline = Baseline::default();
        assert_eq!(surges(&mut baseline, [5; 60]), 0);
        assert_eq!(surges(&mut baseline, [100; 600]), 1);
        assert_eq!(surges(&mut baseline, [100; 60]), 0);
        assert!(baseline.take(0, 1_000), "far above the new rate: {baseline:?}");
    }

    #[test]
    fn what_is_new_or_little_is_no_surge() {
        assert_eq!(surges(&mut Baseline::default(), [10_000; WARM_UP_BUCKETS as usize]), 0, "it is new");
        let mut rare = Baseline::default();
        assert_eq!(surges(&mut rare, [1; 10]), 0);
        assert!(!rare.take(1_000, 9), "{rare:?}");
        assert!(rare.take(1_000, 10), "once a day, and ten in a minute: {rare:?}");
    }
}
