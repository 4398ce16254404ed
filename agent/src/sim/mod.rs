//! The simulated world: the same engine that runs on a gateway, with a clock, a disk, a network, a broker, a battery and a
//! gateway around it that are all simulated and seeded, so that a run is a scenario, a configuration and a seed. What is
//! promised is checked from outside while it runs. Nothing here reads a clock, rolls its own dice or does I/O, but for
//! [`broker::serve`], which puts the broker's model behind a socket for the demo.

mod agenda;
pub mod broker;
mod check;
pub mod clock;
mod cloud;
mod diary;
pub mod dice;
pub mod disk;
pub mod expect;
mod fleet;
pub mod gateway;
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
use report::Run;
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
}

/// Runs one gateway through a scenario.
#[must_use]
pub fn run(plan: &Plan, seed: u64) -> Run {
    run_planted(plan, seed, None)
}

/// The same, with an agent that has a bug: to see that the checkers find it.
#[must_use]
pub fn run_planted(plan: &Plan, seed: u64, planted: Option<Planted>) -> Run {
    run_in_full(plan, seed, planted).0
}

/// The same, with what happened when.
fn run_in_full(plan: &Plan, seed: u64, planted: Option<Planted>) -> (Run, History) {
    match World::new(plan, seed, planted) {
        Ok(world) => world.run(seed),
        Err(error) => (Run::failed(seed, &error.to_string()), History::default()),
    }
}
