//! What is told with a change of the state is told once, wherever a crash comes between the two.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::healing::{memory, up_for_long};
use super::world::{World, config_with};
use crate::config::QuarantineLevel;
use crate::engine::io::{Act, Input, StopReason, StoreFault, StoreOp};
use crate::engine::metric::Metric;
use crate::engine::record::Class;

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
    for by_rule in [false, true] {
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
            let snapshots = |world: &World| world.acted.iter().filter(|act| **act == Act::CollectDiagnostics).count();
            assert_eq!(snapshots(&world) > 0, is_in_force, "by_rule {by_rule}, after {effects} effects: no snapshot");
            if !crashed {
                assert!(effects > 30, "by_rule {by_rule}: {effects}");
                let before = snapshots(&world);
                world.in_force = Some(QuarantineLevel::Observe);
                world.crash();
                world.advance(MINUTE);
                assert_eq!(snapshots(&world), before, "by_rule {by_rule}: there was one");
                break;
            }
        }
    }
}

/// An order is obeyed, and the log takes nothing of what is told of it. `unheard`: nor does the broker answer.
fn in_quarantine_that_the_log_refuses(unheard: bool) -> World {
    let mut world = World::new();
    world.advance(5 * SECOND);
    world.refuse(|op| matches!(op, StoreOp::Append { class: Class::Results, .. }), StoreFault::Busy);
    world.withhold_acks = unheard;
    world.command("q-1", "quarantine", json!({"level": "observe"}), 1);
    world.advance(MINUTE);
    world
}

#[test]
fn what_the_log_takes_at_no_start_is_told_again_at_some_of_them_and_then_counted() {
    let mut world = in_quarantine_that_the_log_refuses(true);
    let told = |world: &World| -> BTreeSet<u64> {
        let entered = world.got.iter().filter(|got| got.body["name"] == "quarantine_entered");
        entered.filter_map(|got| got.body["seq"].as_u64()).collect()
    };
    let counted = |world: &World| world.engine.dropped().get("store_failed").copied().unwrap_or(0);
    for _ in 0..6 {
        assert_eq!(counted(&world), 0, "{:?}", told(&world));
        world.in_force = Some(QuarantineLevel::Observe);
        world.crash();
        world.advance(MINUTE);
        if counted(&world) > 0 {
            break;
        }
    }
    assert_eq!((told(&world).len(), counted(&world)), (4, 1));
}

#[test]
fn what_the_log_refused_and_the_broker_has_is_not_told_again_after_a_stop() {
    let mut world = in_quarantine_that_the_log_refuses(false);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(10 * SECOND);
    assert!(world.exited);
    world.in_force = Some(QuarantineLevel::Observe);
    world.crash();
    world.advance(MINUTE);
    assert_eq!(told(&world, "quarantine_entered").len(), 1);
}

#[test]
fn what_an_earlier_boot_told_is_told_again_before_all_that_is_of_this_one() {
    let mut world = in_quarantine_that_the_log_refuses(true);
    world.refuse_nothing();
    world.withhold_acks = false;
    world.in_force = Some(QuarantineLevel::Observe);
    world.got.clear();
    world.reboot();
    world.advance(MINUTE);
    let seq = |name: &str| world.got.iter().find(|got| got.body["name"] == name).unwrap().body["seq"].as_u64();
    assert!(seq("quarantine_entered") < seq("rebooted").min(seq("started")), "{:?}", world.got);
}
