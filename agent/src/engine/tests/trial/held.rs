//! Releases on trial while a quarantine is in force, which says nothing of them; boots out of one while none may be.

use serde_json::json;

use super::super::healing::told;
use super::super::world::{World, config_with, outcome};
use super::{CONFIG, MINUTE, SECOND, boots_back, leave, mark, refusals, runs, world};
use crate::engine::io::{Act, ActOutcome, ActStatus, Input};
use crate::engine::metric::Metric;

/// What was done about releases.
fn done(world: &World) -> Vec<Act> {
    world.acted.iter().filter(|act| **act == leave() || **act == mark()).cloned().collect()
}

fn enter(world: &mut World, level: &str) {
    world.command("q", "quarantine", json!({"level": level}), 7);
    world.settle();
    assert_eq!(world.statuses("q").last().unwrap(), "SUCCEEDED");
}

#[test]
fn no_release_is_judged_in_a_quarantine_and_its_trial_begins_anew_after_it() {
    let (healthy, bad) = ((50.0, vec![mark()]), (95.0, vec![leave()]));
    for (level, crashes, (used, expected)) in [
        ("observe", false, healthy.clone()),
        ("observe", false, bad.clone()),
        ("restrict", false, healthy),
        ("restrict", false, bad.clone()),
        ("isolate", true, bad),
    ] {
        let mut world = world();
        runs(&mut world, "2.0");
        world.advance(MINUTE);
        enter(&mut world, level);
        world.set(Metric::HostMemUsed, Some(used));
        world.advance(30 * MINUTE);
        if level == "observe" {
            assert_eq!(done(&world), expected, "{level} restricts nothing");
            continue;
        }
        if crashes {
            world.crash();
        }
        world.advance(30 * MINUTE);
        assert_eq!(done(&world), [], "{level}: {used} % used");
        world.command("r", "release", json!({}), 8);
        world.settle();
        // Good after two minutes, left after ten.
        world.advance(if used > 90.0 { 9 * MINUTE } else { 110 * SECOND });
        assert_eq!(done(&world), [], "{level}: {used} % used");
        world.advance(2 * MINUTE);
        assert_eq!(done(&world), expected, "{level}: {used} % used");
    }
}

#[test]
fn a_rollback_that_roots_policy_refuses_each_time_is_not_told_to_begin_each_time() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.acts_succeed = false;
    world.advance(11 * MINUTE);
    for tries in 1..=4 {
        let (id, act) = world.acts.pop().expect("it is tried again within half an hour");
        assert_eq!((act, world.acted.len()), (leave(), tries));
        let refused = ActOutcome { reason: Some("not_allowed".into()), ..outcome(ActStatus::Rejected) };
        world.input(Input::ActDone { id, outcome: refused });
        world.advance(31 * MINUTE);
    }
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    world.advance(MINUTE);
    assert_eq!(statuses(&world), ["IN_PROGRESS", "REJECTED", "SUCCEEDED"]);
}

/// What the fleet was told of what was done about a release, each once.
fn statuses(world: &World) -> Vec<String> {
    told(world).into_iter().map(|(_, status)| status).collect()
}

#[test]
fn a_rollback_that_begins_has_an_end_where_root_refuses_it_for_what_the_agent_did_before() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.acts_succeed = false;
    world.inhibited = Some("an update is under way".into());
    world.advance(11 * MINUTE);
    world.inhibited = None;
    for _ in 0..3 {
        world.advance(31 * MINUTE);
        let (id, act) = world.acts.pop().expect("it is tried again within half an hour");
        assert_eq!(act, leave());
        let refused = ActOutcome { reason: Some("inhibited".into()), ..outcome(ActStatus::Rejected) };
        world.input(Input::ActDone { id, outcome: refused });
    }
    assert_eq!(statuses(&world), ["REJECTED", "IN_PROGRESS", "REJECTED"]);
}

#[test]
fn a_rollback_does_not_start_what_a_quarantine_keeps_stopped() {
    let stops = "[quarantine]\nstop_units = [\"app.service\"]";
    let units = CONFIG.replace("settle", "units = [\"app.service\"]\nsettle");
    let mut world = World::with(config_with(&format!("{units}{stops}")));
    world.set(Metric::BatteryExternalPower, Some(true));
    runs(&mut world, "1.0");
    world.advance(30 * MINUTE);
    enter(&mut world, "restrict");
    world.command("b-1", "rollback", json!({"target": "app"}), 1);
    world.settle();
    assert_eq!(world.results("b-1").last().unwrap()["reason"], "quarantined");
    world.command("r", "release", json!({}), 2);
    world.settle();
    world.command("b-2", "rollback", json!({"target": "app"}), 3);
    world.settle();
    assert_eq!((done(&world), world.statuses("b-2").last().unwrap().as_str()), (vec![leave()], "SUCCEEDED"));
}

fn boots(world: &World) -> usize {
    world.acted.iter().filter(|act| **act == Act::Reboot).count()
}

#[test]
fn a_boot_out_of_a_release_waits_until_an_isolation_is_left() {
    let (mut world, id) = boots_back();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
    world.advance(MINUTE);
    world.acts_succeed = true;
    enter(&mut world, "isolate");
    world.advance(60 * MINUTE);
    assert_eq!((boots(&world), refusals(&world)), (1, vec![("reboot".into(), "quarantined".into())]));
    world.command("r", "release", json!({}), 8);
    world.settle();
    world.advance(MINUTE);
    assert_eq!(boots(&world), 2);
}

#[test]
fn a_boot_out_of_a_release_waits_for_the_end_of_a_dry_run_whatever_else_would_forbid_another() {
    let (mut world, id) = boots_back();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
    world.advance(MINUTE);
    let mut config = config_with(CONFIG);
    // What it was paid for is not asked again.
    config.remediation.allow.clear();
    config.remediation.dry_run = true;
    world.input(Input::Reconfigure(Box::new(config.clone())));
    world.advance(60 * MINUTE);
    assert_eq!((boots(&world), refusals(&world)), (1, vec![("reboot".into(), "dry_run".into())]));
    config.remediation.dry_run = false;
    world.input(Input::Reconfigure(Box::new(config)));
    assert!(world.advance_until(31 * MINUTE, |world| boots(world) == 2), "{:?}", world.acted);
}
