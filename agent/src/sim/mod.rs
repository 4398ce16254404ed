//! The simulated world: the same engine that runs on a gateway, with a clock, a disk, a network, a broker, a battery and a
//! gateway around it that are all simulated and seeded, so that a run is a scenario, a configuration and a seed. What is
//! promised is checked from outside while it runs. Nothing here reads a clock, rolls its own dice or does I/O, but for
//! [`broker::serve`], which puts the broker's model behind a socket for the demo.

mod agenda;
pub mod broker;
mod check;
mod clock;
mod cloud;
mod diary;
pub mod dice;
pub mod disk;
mod expect;
mod fleet;
mod gateway;
mod network;
pub mod planted;
pub mod report;
pub mod scenario;
mod shrink;
#[cfg(test)]
mod tests;
mod world;

use crate::config::CheckedConfig;
pub use fleet::{Return, fleet};
use planted::Planted;
use report::{Broken, Promise, Run};
use scenario::Scenario;
pub use shrink::{Shrunk, shrink};
use world::{History, World};

/// What is simulated: a gateway with this configuration, in this world.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The world.
    pub scenario: Scenario,
    /// The agent's configuration.
    pub config: CheckedConfig,
    /// A bug that the agent is given, to see that the checkers find it.
    pub planted: Option<Planted>,
}

/// So many seeds apart, a run is made twice.
const TWICE_EVERY: u64 = 16;

/// Runs one gateway through a scenario. One seed of sixteen is run twice, to see that it comes to the same.
#[must_use]
pub fn run(plan: &Plan, seed: u64) -> Run {
    let (mut run, _) = run_in_full(plan, seed);
    if seed % TWICE_EVERY == 1 {
        let (again, _) = run_in_full(plan, seed);
        if again.trace_hash != run.trace_hash {
            let what = format!("run again, the trace is {:016x}, not {:016x}", again.trace_hash, run.trace_hash);
            run.broken.push(Broken { promise: Promise::SameTrace, at_ms: 0, what });
        }
    }
    run
}

/// A run, with what happened when.
fn run_in_full(plan: &Plan, seed: u64) -> (Run, History) {
    match World::new(plan, seed) {
        Ok(world) => world.run(seed),
        Err(error) => (Run::failed(seed, &error.to_string()), History::default()),
    }
}
