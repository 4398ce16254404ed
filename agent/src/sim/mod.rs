//! The simulated world: a second shell around the same engine.

pub mod broker;
