//! Chance that one number repeats.

pub struct Chance(fastrand::Rng);

impl Chance {
    /// The seed of this run: 1, or what the environment says. Printed with the command that repeats it.
    pub fn of_this_run(filter: &str) -> Self {
        let seed = std::env::var("FIELDMEDIC_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        println!("seed {seed}: FIELDMEDIC_TEST_SEED={seed} tests/run e2e {filter} repeats these moments");
        Self(fastrand::Rng::with_seed(seed))
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.u64(..bound)
    }

    /// Puts them into any order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        self.0.shuffle(items);
    }
}
