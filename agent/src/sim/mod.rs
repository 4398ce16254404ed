//! The simulated world: the same engine that runs on a gateway, with a clock, a disk, a network, a broker, a battery
//! and a gateway around it that are all simulated and seeded, so that a run is a scenario, a configuration and a seed.
//! What is promised is checked from outside while it runs. Nothing here reads a clock, rolls its own dice or does I/O.

mod agenda;
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
mod plan;
pub mod planted;
pub mod report;
pub mod scenario;
mod shrink;
#[cfg(test)]
mod tests;
mod world;

pub use fleet::{Return, fleet};
pub use gateway::Unmoved;
use plan::run_in_full;
pub use plan::{Plan, run, unmoved};
pub use shrink::{Shrunk, shrink};
