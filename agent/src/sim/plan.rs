//! One gateway through one scenario: a run, and whether it comes to the same twice.

use super::gateway::{self, Unmoved};
use super::planted::Planted;
use super::report::{Broken, Promise, Run};
use super::scenario::Scenario;
use super::world::{History, World};
use crate::config::CheckedConfig;
use crate::helper::Policy;

/// What is simulated: a gateway with this configuration, in this world.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The world.
    pub scenario: Scenario,
    /// The agent's configuration.
    pub config: CheckedConfig,
    /// Root's policy, by which its helper refuses what the agent wants; `None`: there is no helper, and nothing is
    /// refused. Its budgets and signatures are not asked for.
    pub policy: Option<Policy>,
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

/// The rules that nothing in this world can raise: that they weren't raised says nothing.
#[must_use]
pub fn unmoved(plan: &Plan) -> Vec<Unmoved> {
    gateway::unmoved(&plan.scenario, &plan.config)
}

/// A run, with what happened when.
pub(super) fn run_in_full(plan: &Plan, seed: u64) -> (Run, History) {
    match World::new(plan, seed) {
        Ok(world) => world.run(seed),
        Err(error) => (Run::failed(seed, &error.to_string()), History::default()),
    }
}
