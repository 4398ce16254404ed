//! What is told with a change of the state is told once, wherever a crash comes between the two.

use std::cell::Cell;
use std::time::Duration;

use serde_json::json;

use super::healing::{memory, up_for_long};
use super::world::{World, config_with};
use crate::config::QuarantineLevel;
use crate::engine::io::Act;
use crate::engine::metric::Metric;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// More effects than what is looked at here gives rise to.
const EFFECTS: usize = 200;

/// Lets this pass, but crashes after so many effects: whether it came to that.
fn crash_after(world: &mut World, effects: usize, by: Duration) -> bool {
    let done = Cell::new(0);
    let crashes = world.advance_until(by, |_| {
        done.set(done.get() + 1);
        done.get() == effects
    });
    if crashes {
        let is_ordered = world.acted.iter().any(|act| matches!(act, Act::Quarantine { .. }));
        world.in_force = is_ordered.then_some(QuarantineLevel::Observe);
        world.crash();
    }
    crashes
}

/// The events of this name. What was sent as the power was cut may have come, and not be in the log: it comes again.
fn told<'a>(world: &'a World, name: &str) -> Vec<&'a serde_json::Value> {
    let mut told: Vec<_> = world.got.iter().map(|got| &got.body).filter(|body| body["name"] == name).collect();
    told.sort_by_key(|body| body["seq"].as_u64());
    told.dedup_by(|a, b| ["name", "audit", "remediation", "boot", "mono_ms"].iter().all(|field| a[field] == b[field]));
    told
}

fn climbing(step: &str) -> World {
    let ladder = format!(
        r#"
        [[rules]]
        name = "full"
        metric = "host.mem_used_pct"
        above = 90
        remedy = "free"
        [[ladders]]
        name = "free"
        steps = [ {step} ]
        "#
    );
    up_for_long(config_with(&ladder))
}

#[test]
fn a_step_has_one_end_and_a_ladder_too_wherever_the_agent_is_killed() {
    for effects in 1..EFFECTS {
        let mut world = climbing(r#"{ do = "restart_unit", unit = "app.service", settle = "4s" }"#);
        world.set(Metric::HostMemUsed, Some(95.0));
        let crashed = crash_after(&mut world, effects, 9 * SECOND);
        memory(&mut world, 95.0);
        world.advance(MINUTE);
        let steps = told(&world, "restart_unit");
        let ends = steps.iter().filter(|body| body["remediation"]["status"] != "IN_PROGRESS").count();
        let over = told(&world, "ladder_exhausted").len();
        assert_eq!((ends, over), (1, 1), "after {effects} effects: {steps:?}");
        if !crashed {
            return assert!(effects > 30, "{effects}");
        }
    }
}

#[test]
fn a_quarantine_that_is_in_force_is_told_once_as_entered_wherever_the_agent_is_killed() {
    // From when it is told for good until its snapshot is begun.
    const EFFECTS_BETWEEN: usize = 3;
    for by_rule in [false, true] {
        let mut without_snapshot = Vec::new();
        for effects in 1..EFFECTS {
            let mut world = climbing(r#"{ do = "quarantine", level = "observe", settle = "4s" }"#);
            if by_rule {
                world.set(Metric::HostMemUsed, Some(95.0));
            } else {
                world.command("q-1", "quarantine", json!({"level": "observe"}), 1);
            }
            let crashed = crash_after(&mut world, effects, 9 * SECOND);
            world.advance(MINUTE);
            let told = told(&world, "quarantine_entered");
            let is_in_force = world.acted.iter().any(|act| matches!(act, Act::Quarantine { .. } | Act::Refresh { .. }));
            assert_eq!(told.len(), usize::from(is_in_force), "by_rule {by_rule}, after {effects} effects: {told:?}");
            if world.acted.contains(&Act::CollectDiagnostics) != is_in_force {
                without_snapshot.push(effects);
            }
            if !crashed {
                assert!(effects > 30, "by_rule {by_rule}: {effects}");
                assert!(without_snapshot.len() <= EFFECTS_BETWEEN, "by_rule {by_rule}: {without_snapshot:?}");
                assert!(!without_snapshot.contains(&effects), "by_rule {by_rule}: nobody was killed");
                break;
            }
        }
    }
}
