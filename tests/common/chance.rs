//! Chance that one number repeats.

/// A small generator (splitmix64).
pub struct Chance(u64);

impl Chance {
    /// The seed of this run: 1, or what the environment says. Printed with the command that repeats it.
    pub fn of_this_run(filter: &str) -> Self {
        let seed = std::env::var("FIELDMEDIC_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        println!("seed {seed}: FIELDMEDIC_TEST_SEED={seed} tests/run e2e {filter} repeats these moments");
        Self(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Puts them into any order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).unwrap();
            items.swap(last, other);
        }
    }
}
