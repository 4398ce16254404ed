//! What is held back: by others at work, by a quarantine, by an agent that ends; and what a store that refuses makes of
//! it.

use std::time::Duration;

use serde_json::json;

use super::healing::{is, memory, told, up_for_long};
use super::world::{World, config_with, outcome, puts, restart};
use crate::engine::io::{Act, ActOutcome, ActStatus, Input, StopReason, StoreFault};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

fn world(steps: &str) -> World {
    up_for_long(config_with(&format!(
        "[[rules]]\nname = \"full\"\nmetric = \"host.mem_used_pct\"\nabove = 90\nclear_below = 80\nremedy = \"free\"\n\
         [[ladders]]\nname = \"free\"\nsteps = [ {steps} ]\n"
    )))
}

const RESTART: &str = "{ do = \"restart_unit\", unit = \"app.service\", settle = \"30s\" }";
const REBOOT: &str = "{ do = \"reboot\", settle = \"60s\" }";

fn was_told(world: &World, name: &str) -> bool {
    world.got.iter().any(|got| got.body["name"] == name)
}

fn order(world: &mut World, id: &str, name: &str, args: serde_json::Value) {
    world.command(id, name, args, 1);
    world.settle();
    world.advance(2 * SECOND);
}

#[test]
fn what_a_quarantine_forbids_is_waited_for_until_it_is_left() {
    let mut world = world(&format!("{RESTART}, {REBOOT}"));
    order(&mut world, "q-1", "quarantine", json!({"level": "isolate"}));
    memory(&mut world, 95.0);
    world.advance(6 * HOUR);
    assert!(!world.acted.contains(&restart("app.service")), "{:?}", world.acted);
    order(&mut world, "r-1", "release", json!({}));
    assert_eq!(world.acted.last(), Some(&restart("app.service")), "nothing is in its way any more");
    assert!(!was_told(&world, "ladder_exhausted"));
}

#[test]
fn a_ladder_does_not_wait_to_shut_what_is_shut_more_than_it_would() {
    let mut world = world("{ do = \"quarantine\", level = \"observe\", settle = \"30s\" }");
    order(&mut world, "q-1", "quarantine", json!({"level": "isolate"}));
    memory(&mut world, 95.0);
    world.advance(MINUTE);
    assert!(was_told(&world, "ladder_exhausted"));
}

#[test]
fn a_helper_out_of_reach_or_with_a_disk_that_fails_is_no_step_that_did_not_help() {
    for (status, reason) in [(ActStatus::Failed, "no_helper"), (ActStatus::Rejected, "store_failed")] {
        let mut world = world(RESTART);
        world.acts_succeed = false;
        memory(&mut world, 95.0);
        for times in 1..=3_usize {
            assert_eq!(world.acted, vec![restart("app.service"); times], "{reason}");
            let (id, _) = world.acts.pop().unwrap();
            world.input(Input::ActDone { id, outcome: ActOutcome { reason: Some(reason.into()), ..outcome(status) } });
            world.advance(5 * MINUTE);
        }
        assert!(!was_told(&world, "ladder_exhausted"), "{reason}");
    }
}

#[test]
fn a_step_that_roots_helper_refuses_time_after_time_is_told_once_and_then_with_how_it_ends() {
    let mut world = world(RESTART);
    world.acts_succeed = false;
    memory(&mut world, 95.0);
    for reason in ["budget_spent", "budget_spent", "budget_spent", "not_done"] {
        let (id, _) = world.acts.pop().unwrap();
        let status = if reason == "not_done" { ActStatus::Failed } else { ActStatus::Rejected };
        world.input(Input::ActDone { id, outcome: ActOutcome { reason: Some(reason.into()), ..outcome(status) } });
        world.advance(5 * MINUTE);
    }
    let told = told(&world);
    let steps = ["IN_PROGRESS", "REJECTED", "FAILED"].map(|status| ("restart_unit", status));
    assert!(is(&told[..3], &steps), "{told:?}");
    let audits = world.got.iter().filter(|got| got.body["type"] == "audit" && got.body["name"] == "budget_spent");
    assert_eq!(audits.count(), 1);
}

#[test]
fn a_ladder_reboots_over_nothing_that_changes_the_gateway_and_a_command_does() {
    let mut world = world(REBOOT);
    world.acts_succeed = false;
    order(&mut world, "u-1", "restart_unit", json!({"unit": "other.service"}));
    let (id, _) = world.acts.pop().unwrap();
    memory(&mut world, 95.0);
    world.advance(10 * MINUTE);
    assert_eq!(world.acts, []);
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    world.advance(30 * MINUTE);
    assert_eq!(world.acts.first().map(|(_, act)| act), Some(&Act::Reboot));

    let mut world = self::world(REBOOT);
    world.acts_succeed = false;
    order(&mut world, "u-1", "restart_unit", json!({"unit": "other.service"}));
    order(&mut world, "b-1", "reboot", json!({}));
    world.advance(10 * SECOND);
    assert_eq!(world.acts.last().map(|(_, act)| act), Some(&Act::Reboot));
}

#[test]
fn a_command_that_comes_into_the_journal_as_the_agent_ends_is_canceled_and_spends_nothing() {
    let mut world = up_for_long(config_with("[remediation.budget]\nrestart_unit = \"1/1h\""));
    world.stall_store_at(|op| puts(op, "cmd/u-1"));
    world.command("u-1", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.store_answers();
    world.advance(10 * SECOND);
    assert!(world.exited);
    assert_eq!(world.acted, []);
    world.crash();
    world.advance(10 * SECOND);
    assert_eq!(world.statuses("u-1").last().unwrap(), "CANCELED");
    order(&mut world, "u-2", "restart_unit", json!({"unit": "app.service"}));
    assert_eq!(world.acted, [restart("app.service")]);
}

#[test]
fn a_step_that_comes_into_the_journal_as_the_agent_ends_is_begun_by_the_next() {
    let mut world = world(&format!("{RESTART}, {REBOOT}"));
    world.stall_store_at(|op| puts(op, "remedy/full"));
    memory(&mut world, 95.0);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.store_answers();
    world.advance(10 * SECOND);
    assert!(world.exited);
    assert_eq!(world.acted, []);
    world.crash();
    world.advance(10 * SECOND);
    assert_eq!(world.acted, [restart("app.service")]);
    let statuses: Vec<_> = world.got.iter().map(|got| &got.body["remediation"]["status"]).collect();
    assert!(!statuses.contains(&&json!("INTERRUPTED")), "{statuses:?}");
}

#[test]
fn a_ladder_that_was_canceled_while_the_store_refused_stays_so_over_a_crash() {
    let mut world = world(&format!("{RESTART}, {REBOOT}"));
    memory(&mut world, 95.0);
    world.refuse(|op| puts(op, "remedy/full"), StoreFault::NoSpace { what: "put".into() });
    order(&mut world, "stop", "cancel_all", json!({}));
    world.refuse_nothing();
    world.advance(5 * SECOND);
    world.crash();
    world.advance(HOUR);
    assert_eq!(world.acted, [restart("app.service")]);
}
