//! Releases on trial: kept when they prove good, left once when they don't.

mod held;
mod unbooted;
mod watched;

use std::time::Duration;

use super::world::{World, config_with, outcome, puts, restart};
use crate::engine::io::{Act, ActOutcome, ActStatus, EffectId, Input, StoreFault, StoreOp};
use crate::engine::metric::Metric;
use crate::engine::observation::Release;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

const CONFIG: &str = r#"
    [rollback.app]
    kind = "slots"
    dir = "/opt/app"
    settle = "2m"
    trial = "10m"
    [remediation.budget]
    rollback = "3/24h"
    [[rules]]
    name = "full"
    metric = "host.mem_used_pct"
    above = 90
    severity = "critical"
"#;

/// Release 1.0 has run for long.
fn world() -> World {
    world_of(CONFIG)
}

fn world_of(config: &str) -> World {
    let mut world = World::with(config_with(config));
    world.set(Metric::BatteryExternalPower, Some(true));
    runs(&mut world, "1.0");
    world.advance(30 * MINUTE);
    assert_eq!((told(&world), world.acted.len()), (vec![], 0));
    world
}

fn runs(world: &mut World, name: &str) {
    world.releases = vec![Release { target: "app".into(), name: name.into() }];
}

/// What the fleet was told of releases, each once.
fn told(world: &World) -> Vec<String> {
    let mut told = Vec::new();
    for got in world.got.iter().filter(|got| got.body["release"].is_object()) {
        let text = format!("{} {}", got.body["name"].as_str().unwrap(), got.body["release"]["name"].as_str().unwrap());
        if !told.contains(&text) {
            told.push(text);
        }
    }
    told
}

fn leave() -> Act {
    Act::Rollback { target: "app".into(), to: None }
}

fn mark() -> Act {
    Act::MarkGood { target: "app".into() }
}

#[test]
fn a_new_release_is_good_once_nothing_spoke_against_it_for_settle() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.advance(MINUTE);
    assert_eq!((told(&world), world.acted.len()), (vec!["release_on_trial 2.0".into()], 0));
    world.advance(90 * SECOND);
    assert_eq!(world.acted, [mark()]);
    world.advance(60 * MINUTE);
    assert_eq!((told(&world), world.acted.len()), (vec!["release_on_trial 2.0".into(), "release_good 2.0".into()], 1));
}

#[test]
fn a_release_that_root_does_not_let_be_marked_is_told_once_and_tried_again() {
    let mut world = world();
    world.acts_succeed = false;
    for release in ["2.0", "3.0"] {
        runs(&mut world, release);
        for _ in 0..3 {
            world.advance(15 * MINUTE);
            for (id, act) in std::mem::take(&mut world.acts) {
                assert_eq!(act, mark());
                let refused = ActOutcome { reason: Some("not_allowed".into()), ..outcome(ActStatus::Failed) };
                world.input(Input::ActDone { id, outcome: refused });
            }
        }
    }
    world.advance(MINUTE);
    assert!(world.acted.len() >= 6, "{:?}", world.acted);
    let remedies = world.got.iter().map(|got| &got.body["remediation"]).filter(|remedy| remedy.is_object());
    let told: Vec<_> = remedies.map(|remedy| (&remedy["action"], &remedy["status"], &remedy["reason"])).collect();
    assert_eq!(told, [(&"mark_good".into(), &"REJECTED".into(), &"not_allowed".into()); 2], "once of each");
}

#[test]
fn a_trial_that_follows_another_one_at_once_is_no_longer() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.advance(3 * MINUTE);
    assert_eq!(world.acted, [mark()]);
    runs(&mut world, "3.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(11 * MINUTE);
    assert_eq!(world.acted, [mark(), leave()]);
}

#[test]
fn a_release_with_a_critical_alarm_is_left_once_and_the_one_before_is_as_good_as_it_was() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(9 * MINUTE);
    assert_eq!(world.acted, []);
    world.advance(2 * MINUTE);
    assert_eq!(world.acted, [leave()]);
    let tried: Vec<_> = world.got.iter().filter(|got| got.body["type"] == "remediation").collect();
    let expected = ["IN_PROGRESS", "SUCCEEDED"].map(|status| {
        serde_json::json!({"id": "trial-app", "trigger": "rule:trial", "action": "rollback", "target": "release:app",
            "status": status})
    });
    assert_eq!(tried.iter().map(|got| got.body["remediation"].clone()).collect::<Vec<_>>(), expected);
    runs(&mut world, "1.0");
    world.advance(60 * MINUTE);
    assert_eq!(told(&world), ["release_on_trial 2.0", "release_bad 2.0", "release_back 1.0"]);
    assert_eq!(world.acted.len(), 1);
}

#[test]
fn what_keeps_a_bad_release_is_waited_for_at_growing_intervals_and_no_longer_than_it_lasts() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.set(Metric::BatteryExternalPower, Some(false));
    world.set(Metric::BatteryChargePct, Some(5.0));
    world.advance(10 * MINUTE + 30 * SECOND);
    assert_eq!(world.acted, []);
    // Asked after 10, 11 and 13 minutes.
    world.set(Metric::BatteryChargePct, Some(80.0));
    world.advance(MINUTE);
    assert_eq!(world.acted, [leave()]);

    let mut world = self::world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.inhibited = Some("somebody works here".into());
    world.advance(60 * MINUTE);
    assert_eq!(world.acted, []);
    world.inhibited = None;
    world.advance(2 * SECOND);
    assert_eq!(world.acted, [leave()]);
}

#[test]
fn the_red_button_reaches_a_release_that_is_about_to_be_left() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(9 * MINUTE);
    // The store works in order: the button is on the disk before the intent is.
    world.cancel_all_late();
    world.advance(2 * MINUTE);
    assert!(world.store_is_late() && world.acted.is_empty());
    world.store_answers();
    world.advance(60 * MINUTE);
    assert_eq!(world.acted, []);
    let canceled = world.got.iter().filter(|got| got.body["remediation"]["reason"] == "canceled");
    let told: Vec<_> = canceled.map(|got| got.body["remediation"]["detail"].clone()).collect();
    assert_eq!(told, ["a command took it back"]);
}

#[test]
fn a_release_that_is_gone_before_the_journal_knows_that_it_is_to_be_left_is_not_left() {
    for (next, events) in [("1.0", "release_back 1.0"), ("3.0", "release_on_trial 3.0")] {
        let mut world = world_of(&CONFIG.replace("3/24h", "1/24h"));
        runs(&mut world, "2.0");
        world.set(Metric::HostMemUsed, Some(95.0));
        world.advance(9 * MINUTE);
        world.stall_store_at(|op| puts(op, "release/app"));
        world.advance(90 * SECOND);
        assert!(world.store_is_late());
        runs(&mut world, next);
        world.advance(20 * SECOND);
        world.store_answers();
        world.advance(MINUTE);
        assert_eq!((told(&world), world.acted.len()), (vec!["release_on_trial 2.0".to_owned(), events.into()], 0));
        world.command("one", "rollback", serde_json::json!({"target": "app"}), 1);
        world.settle();
        assert_eq!(world.acted, [leave()], "nothing was spent");
    }
}

#[test]
fn a_rollback_that_somebody_held_off_at_the_last_moment_is_still_to_come() {
    let mut world = world();
    world.acts_succeed = false;
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(11 * MINUTE);
    let (id, act) = world.acts.pop().unwrap();
    assert_eq!(act, leave());
    world.input(Input::ActDone {
        id,
        outcome: ActOutcome { reason: Some("inhibited".into()), ..outcome(ActStatus::Failed) },
    });
    world.acts_succeed = true;
    world.advance(60 * MINUTE);
    assert_eq!(world.acted, [leave(), leave()]);
    let bad = world.got.iter().filter(|got| got.body["name"] == "release_bad");
    let seqs: std::collections::BTreeSet<_> = bad.map(|got| got.body["seq"].as_u64()).collect();
    assert_eq!(seqs.len(), 1, "it is as bad as it was");
}

#[test]
fn a_release_that_a_ladder_is_about_to_leave_is_not_good() {
    let ladder = r#"
        [[rules]]
        name = "slow"
        metric = "host.load1"
        above = 4
        remedy = "back"
        [[ladders]]
        name = "back"
        steps = [{ do = "collect_diagnostics", settle = "24h" }, { do = "rollback", target = "app" }]
    "#;
    let mut world = World::with(config_with(&format!("{CONFIG}{ladder}")));
    runs(&mut world, "1.0");
    world.advance(30 * MINUTE);
    runs(&mut world, "2.0");
    world.set(Metric::HostLoad1, Some(9.0));
    world.advance(5 * MINUTE);
    assert_eq!(world.acted, [Act::CollectDiagnostics], "it is no critical alarm, and yet");
    world.set(Metric::HostLoad1, Some(0.1));
    world.advance(150 * SECOND);
    assert_eq!(world.acted, [Act::CollectDiagnostics, mark()]);
}

#[test]
fn where_going_back_did_not_help_nothing_goes_back_and_forth() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(11 * MINUTE);
    // Somebody has cleared 1.0 away: 0.9 is what there was.
    runs(&mut world, "0.9");
    world.advance(60 * MINUTE);
    assert_eq!(world.acted, [leave()]);
    assert_eq!(told(&world), ["release_on_trial 2.0", "release_bad 2.0", "release_on_trial 0.9", "release_kept 0.9"]);
}

#[test]
fn without_the_broker_no_release_is_good() {
    let mut world = world();
    world.broker_up = false;
    world.crash();
    runs(&mut world, "2.0");
    world.advance(9 * MINUTE);
    assert_eq!(world.acted, []);
    world.advance(2 * MINUTE);
    assert_eq!(world.acted, [leave()]);
}

#[test]
fn a_release_that_cuts_the_gateway_off_is_left_and_one_that_an_outage_comes_after_is_good() {
    for (cut_after, done) in [(Duration::ZERO, leave()), (20 * SECOND, leave()), (90 * SECOND, mark())] {
        let mut world = world();
        runs(&mut world, "2.0");
        world.advance(cut_after);
        // Packets go nowhere: nobody tells the agent so.
        (world.withhold_acks, world.broker_up) = (true, false);
        world.advance(11 * MINUTE);
        assert_eq!(world.acted, [done], "cut off after {cut_after:?}");
    }
}

#[test]
fn a_release_that_can_not_be_read_is_not_judged_by_the_time_of_another_boot() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(MINUTE);
    // The disk that the releases are on does not come.
    world.releases.clear();
    world.reboot();
    world.advance(60 * MINUTE);
    assert_eq!(world.acted, []);
    runs(&mut world, "2.0");
    world.advance(9 * MINUTE);
    assert_eq!(world.acted, []);
    world.advance(2 * MINUTE);
    assert_eq!(world.acted, [leave()]);
}

#[test]
fn a_release_is_not_left_twice_wherever_the_agent_dies() {
    for effects in 0..40 {
        let mut world = world();
        runs(&mut world, "2.0");
        world.set(Metric::HostMemUsed, Some(95.0));
        world.advance(10 * MINUTE - 2 * SECOND);
        world.acts_succeed = false;
        for _ in 0..effects {
            if !world.step_effect() && !world.step() {
                world.advance(SECOND);
            }
        }
        world.crash();
        world.acts_succeed = true;
        world.advance(30 * MINUTE);
        let left = world.acted.iter().filter(|act| **act == leave()).count();
        assert!(left <= 1, "{left} times, cut off after {effects} effects");
    }
}

#[test]
fn a_release_is_not_left_while_that_can_not_be_journaled() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(9 * MINUTE);
    world.refuse(|op| matches!(op, StoreOp::Put { .. }), StoreFault::Busy);
    world.advance(5 * MINUTE);
    assert_eq!(world.acted, []);
    world.refuse_nothing();
    world.advance(15 * MINUTE);
    assert_eq!(world.acted, [leave()]);
}

#[test]
fn two_releases_that_are_good_at_the_same_time_are_marked_one_after_the_other_and_nothing_is_said_of_that() {
    let mut world = World::with(config_with(&format!(
        "{CONFIG}[rollback.modem]\nkind = \"slots\"\ndir = \"/opt/modem\"\nsettle = \"2m\"\ntrial = \"10m\""
    )));
    let runs = |world: &mut World, name: &str| {
        world.releases = ["app", "modem"].map(|target| Release { target: target.into(), name: name.into() }).into();
    };
    runs(&mut world, "1.0");
    world.advance(30 * MINUTE);
    runs(&mut world, "2.0");
    world.acts_succeed = false;
    world.advance(5 * MINUTE);
    assert_eq!(world.acted, [mark()]);
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    world.advance(15 * SECOND);
    assert_eq!(world.acted, [mark(), Act::MarkGood { target: "modem".into() }]);
    assert!(!world.got.iter().any(|got| got.body["remediation"]["reason"] == "busy"));
}

#[test]
fn while_a_release_is_left_no_command_reboots_the_gateway() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.acts_succeed = false;
    world.advance(11 * MINUTE);
    assert_eq!(world.acted, [leave()]);
    world.command("b-1", "reboot", serde_json::json!({}), 1);
    world.settle();
    world.advance(SECOND);
    assert_eq!((world.acted.clone(), world.statuses("b-1")), (vec![leave()], vec!["QUEUED".to_owned()]));
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    world.advance(5 * SECOND);
    assert_eq!(world.acted, [leave(), Act::Reboot]);
}

#[test]
fn a_command_ends_the_trial_by_marking_the_release() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(MINUTE);
    world.command("m", "mark_good", serde_json::json!({"target": "app"}), 1);
    world.settle();
    world.advance(60 * MINUTE);
    assert_eq!((world.acted.clone(), world.statuses("m").last().unwrap().as_str()), (vec![mark()], "SUCCEEDED"));
    assert_eq!(told(&world), ["release_on_trial 2.0", "release_good 2.0"]);
}

#[test]
fn a_release_that_a_command_marks_before_it_was_looked_at_is_good_and_no_other() {
    let mut world = world();
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(3 * SECOND);
    // Of the good one it says nothing new.
    world.command("m-1", "mark_good", serde_json::json!({"target": "app"}), 1);
    world.settle();
    runs(&mut world, "2.0");
    world.command("m-2", "mark_good", serde_json::json!({"target": "app"}), 2);
    world.settle();
    assert_eq!((world.statuses("m-2").last().unwrap().as_str(), told(&world)), ("SUCCEEDED", vec![]));
    world.advance(60 * MINUTE);
    assert_eq!((world.acted.clone(), told(&world)), (vec![mark(), mark()], vec!["release_good 2.0".into()]));
    for (name, marked) in [("3.0", None), ("4.0", Some("5.0"))] {
        if let Some(marked) = marked {
            // It runs for so short a time that nobody looks.
            runs(&mut world, marked);
            world.command("m-3", "mark_good", serde_json::json!({"target": "app"}), 3);
            world.settle();
        }
        runs(&mut world, name);
        world.advance(MINUTE);
        assert_eq!(told(&world).last().unwrap(), &format!("release_on_trial {name}"));
    }
}

#[test]
fn a_mark_of_the_agents_own_is_for_the_release_that_it_has_watched() {
    let mut world = world();
    world.acts_succeed = false;
    runs(&mut world, "2.0");
    world.advance(3 * MINUTE);
    let (id, act) = world.acts.pop().unwrap();
    assert_eq!(act, mark());
    // Whoever installs the next one is quicker.
    runs(&mut world, "3.0");
    let marked = ActOutcome { release: Some("3.0".into()), ..outcome(ActStatus::Succeeded) };
    world.input(Input::ActDone { id, outcome: marked });
    world.advance(MINUTE);
    assert_eq!(told(&world), ["release_on_trial 2.0", "release_on_trial 3.0"]);
}

#[test]
fn a_release_that_was_left_and_that_the_next_boot_runs_again_is_told() {
    for (runs_then, failed) in [("2.0", 1), ("1.0", 0)] {
        let (mut world, _) = boots_back();
        runs(&mut world, runs_then);
        for _ in 0..2 {
            world.reboot();
            world.advance(MINUTE);
        }
        let told = world.got.iter().filter(|got| got.body["remediation"]["reason"] == "rollback_failed");
        let seqs: std::collections::BTreeSet<_> = told.map(|got| got.body["seq"].as_u64()).collect();
        assert_eq!(seqs.len(), failed, "{runs_then} runs");
    }
}

#[test]
fn a_rollback_that_the_red_button_took_back_or_somebody_held_off_spends_nothing() {
    let mut world = world_of(&CONFIG.replace("3/24h", "1/24h"));
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(9 * MINUTE);
    world.cancel_all_late();
    world.advance(2 * MINUTE);
    world.store_answers();
    world.advance(MINUTE);
    assert_eq!(world.acted, []);
    world.acts_succeed = false;
    world.command("one", "rollback", serde_json::json!({"target": "app"}), 2);
    world.settle();
    let (id, _) = world.acts.pop().expect("nothing was spent");
    let inhibited = ActOutcome { reason: Some("inhibited".into()), ..outcome(ActStatus::Rejected) };
    world.input(Input::ActDone { id, outcome: inhibited });
    world.command("other", "rollback", serde_json::json!({"target": "app"}), 3);
    world.settle();
    assert_eq!(world.acted, [leave(), leave()]);
}

#[test]
fn a_rollback_that_was_done_stays_spent_whatever_becomes_of_the_next_mark() {
    let mut world = world_of(&CONFIG.replace("3/24h", "1/24h"));
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(11 * MINUTE);
    runs(&mut world, "0.9");
    world.set(Metric::HostMemUsed, Some(50.0));
    world.acts_succeed = false;
    world.advance(11 * MINUTE);
    assert_eq!(world.acted, [leave(), mark()]);
    let (id, _) = world.acts.pop().unwrap();
    let refused = ActOutcome { reason: Some("not_allowed".into()), ..outcome(ActStatus::Rejected) };
    world.input(Input::ActDone { id, outcome: refused });
    world.command("one", "rollback", serde_json::json!({"target": "app"}), 1);
    world.settle();
    assert_eq!(world.results("one").last().unwrap()["reason"], "budget_spent");
}

/// Reason of each refusal of a release's act that the fleet was told of, each once.
fn refusals(world: &World) -> Vec<(String, String)> {
    let mut told = std::collections::BTreeMap::new();
    for got in world.got.iter().filter(|got| got.body["remediation"]["status"] == "REJECTED") {
        let text = |key: &str| got.body["remediation"][key].as_str().unwrap().to_owned();
        told.insert(got.body["seq"].as_u64(), (text("action"), text("reason")));
    }
    told.into_values().collect()
}

#[test]
fn what_keeps_a_release_from_being_left_by_turns_is_told_once_each() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    let file = Some("an update is under way".to_owned());
    for turn in 0..6 {
        world.inhibited = file.clone().filter(|_| turn % 2 == 0);
        world.set(Metric::BatteryExternalPower, Some(false));
        world.set(Metric::BatteryPresent, Some(true));
        world.set(Metric::BatteryChargePct, Some(5.0));
        world.advance(11 * MINUTE);
    }
    let told = refusals(&world);
    assert_eq!(told, [("rollback".into(), "inhibited".into()), ("rollback".into(), "low_battery".into())]);
}

#[test]
fn that_a_release_stays_is_told_once_also_where_it_can_not_be_marked_between() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(11 * MINUTE);
    runs(&mut world, "0.9");
    world.advance(11 * MINUTE);
    let mut config = config_with(CONFIG);
    config.remediation.dry_run = true;
    config.remediation.allow.clear();
    world.input(Input::Reconfigure(Box::new(config)));
    for _ in 0..3 {
        world.set(Metric::HostMemUsed, Some(50.0));
        world.advance(15 * MINUTE);
        world.set(Metric::HostMemUsed, Some(95.0));
        world.advance(15 * MINUTE);
    }
    let kept = world.got.iter().filter(|got| got.body["name"] == "release_kept");
    let seqs: std::collections::BTreeSet<_> = kept.map(|got| got.body["seq"].as_u64()).collect();
    assert_eq!(seqs.len(), 1);
    assert!(!refusals(&world).is_empty(), "it could not be marked");
}

/// A release was left, and the machine is about to be restarted for that: the reboot under way.
fn boots_back() -> (World, EffectId) {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.acts_succeed = false;
    world.advance(11 * MINUTE);
    let (id, act) = world.acts.pop().unwrap();
    assert_eq!(act, leave());
    let needs_reboot = ActOutcome { reason: Some("needs_reboot".into()), ..outcome(ActStatus::Succeeded) };
    world.input(Input::ActDone { id, outcome: needs_reboot });
    world.advance(10 * SECOND);
    let (id, act) = world.acts.pop().unwrap();
    assert_eq!(act, Act::Reboot);
    (world, id)
}

#[test]
fn a_boot_that_is_to_complete_leaving_a_release_and_does_not_come_is_told_and_tried_again() {
    let (mut world, mut id) = boots_back();
    for _ in 0..3 {
        world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
        world.advance(9 * MINUTE);
        assert_eq!(world.acts, []);
        world.advance(2 * MINUTE);
        let (again, act) = world.acts.pop().unwrap();
        assert_eq!(act, Act::Reboot);
        id = again;
    }
    let told: Vec<_> = world.got.iter().filter(|got| got.body["remediation"]["status"] == "FAILED").collect();
    let [failed] = told[..] else { panic!("{told:?}") };
    assert_eq!((&failed.body["name"], &failed.body["remediation"]["id"]), (&"reboot".into(), &"trial-app".into()));
    assert!(!world.got.iter().any(|got| got.body["name"] == "release_kept"), "it was left");
}

#[test]
fn a_boot_out_of_a_release_that_never_comes_is_not_tried_for_ever() {
    let (mut world, mut id) = boots_back();
    let mut tries = 1;
    for _ in 0..10 {
        world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
        world.advance(11 * MINUTE);
        let Some((again, _)) = world.acts.pop() else { break };
        (id, tries) = (again, tries + 1);
    }
    assert_eq!(tries, 5);
    assert!(world.engine.poll_deadline() > Some(world.now.mono), "{:?}", world.engine.poll_deadline());
    let last = world.got.iter().rfind(|got| got.body["remediation"]["status"] == "FAILED").unwrap();
    let told = last.body["remediation"]["detail"].as_str().unwrap();
    assert_eq!(told, "tried 5 times, and not again: it is done, and waits for a boot");
    assert!(!world.got.iter().any(|got| got.body["name"] == "release_kept"), "it was left");
}

#[test]
fn a_boot_out_of_a_release_is_tried_for_as_long_as_somebody_is_in_its_way_and_more_and_more_seldom() {
    let (mut world, mut id) = boots_back();
    let mut waited = Vec::new();
    for _ in 0..10 {
        let inhibited = ActOutcome { reason: Some("inhibited".into()), ..outcome(ActStatus::Rejected) };
        world.input(Input::ActDone { id, outcome: inhibited });
        let minutes = (1..=60).find(|_| {
            world.advance(MINUTE);
            !world.acts.is_empty()
        });
        waited.extend(minutes);
        (id, _) = world.acts.pop().unwrap();
    }
    assert_eq!(waited, [1, 2, 4, 8, 16, 30, 30, 30, 30, 30], "minutes");
}

#[test]
fn the_red_button_ends_the_tries_to_boot_out_of_a_release() {
    let (mut world, id) = boots_back();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
    world.advance(MINUTE);
    world.command("stop", "cancel_all", serde_json::json!({}), 1);
    world.settle();
    world.advance(60 * MINUTE);
    assert_eq!(world.acts, []);
}

#[test]
fn a_release_that_is_marked_good_while_a_boot_out_of_it_is_due_is_not_booted_out_of() {
    let (mut world, id) = boots_back();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
    world.advance(MINUTE);
    world.acts_succeed = true;
    world.command("m", "mark_good", serde_json::json!({"target": "app"}), 1);
    world.settle();
    assert_eq!(world.statuses("m").last().unwrap(), "SUCCEEDED");
    let before = world.acted.len();
    world.advance(60 * MINUTE);
    assert_eq!(world.acted.len(), before, "{:?}", world.acted);
}

#[test]
fn a_boot_out_of_a_release_stays_due_where_that_can_not_be_marked_and_not_where_it_is_called_off_meanwhile() {
    for is_called_off in [false, true] {
        let (mut world, id) = boots_back();
        world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
        world.advance(MINUTE);
        world.command("m", "mark_good", serde_json::json!({"target": "app"}), 1);
        world.settle();
        let (id, act) = world.acts[0].clone();
        assert_eq!(act, mark());
        if is_called_off {
            world.command("stop", "cancel_all", serde_json::json!({}), 2);
        } else {
            world.acts.clear();
            world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
        }
        world.advance(60 * MINUTE);
        assert_eq!(world.acts.iter().any(|(_, act)| *act == Act::Reboot), !is_called_off, "{:?}", world.acts);
    }
}

#[test]
fn a_boot_that_is_tried_again_waits_for_what_is_under_way() {
    let (mut world, id) = boots_back();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
    world.advance(9 * MINUTE);
    world.command("r", "restart_unit", serde_json::json!({"unit": "app.service"}), 1);
    world.settle();
    let (first, act) = world.acts.pop().unwrap();
    assert_eq!(act, restart("app.service"));
    world.advance(MINUTE + 20 * SECOND);
    assert_eq!(world.acts, [], "the restart goes on");
    world.input(Input::ActDone { id: first, outcome: outcome(ActStatus::Succeeded) });
    world.advance(MINUTE);
    assert_eq!(world.acts.pop().map(|(_, act)| act), Some(Act::Reboot));
}
