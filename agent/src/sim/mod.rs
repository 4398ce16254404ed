//! The simulated world: the same engine that runs on a gateway, with a clock, a disk, a network, a broker, a battery and a
//! gateway around it that are all simulated and seeded, so that a run is a scenario, a configuration and a seed. What is
//! promised is checked from outside while it runs. Nothing here reads a clock, rolls its own dice or does I/O, but for
//! [`broker::serve`], which puts the broker's model behind a socket for the demo. The demo alone has no use for the rest.

#[cfg(feature = "simulate")]
mod agenda;
pub mod broker;
#[cfg(feature = "simulate")]
mod check;
#[cfg(feature = "simulate")]
mod clock;
#[cfg(feature = "simulate")]
mod cloud;
#[cfg(feature = "simulate")]
mod diary;
#[cfg(feature = "simulate")]
pub mod dice;
#[cfg(feature = "simulate")]
pub mod disk;
#[cfg(feature = "simulate")]
mod expect;
#[cfg(feature = "simulate")]
mod fleet;
#[cfg(feature = "simulate")]
mod gateway;
#[cfg(feature = "simulate")]
mod network;
#[cfg(feature = "simulate")]
mod plan;
#[cfg(feature = "simulate")]
pub mod planted;
#[cfg(feature = "simulate")]
pub mod report;
#[cfg(feature = "simulate")]
pub mod scenario;
#[cfg(feature = "simulate")]
mod shrink;
#[cfg(test)]
#[cfg(feature = "simulate")]
mod tests;
#[cfg(feature = "simulate")]
mod world;

#[cfg(feature = "simulate")]
pub use fleet::{Return, fleet};
#[cfg(feature = "simulate")]
use plan::run_in_full;
#[cfg(feature = "simulate")]
pub use plan::{Plan, run};
#[cfg(feature = "simulate")]
pub use shrink::{Shrunk, shrink};
