//! Boots out of a release that don't come are still due where the agent is started again in the same boot.

use std::collections::BTreeSet;

use serde_json::json;

use super::super::world::{Got, World, outcome};
use super::{MINUTE, SECOND, boots_back, told};
use crate::engine::io::{Act, ActOutcome, ActStatus, Input};
use crate::engine::metric::Metric;

/// What became of the release that was left but the boots: what was done, and what the fleet was told.
fn others(world: &World) -> (Vec<Act>, Vec<String>) {
    let acts = world.acted.iter().filter(|act| !matches!(act, Act::Reboot)).cloned().collect();
    (acts, told(world))
}

/// How often the fleet was told that no boot is tried any more.
fn given_up(world: &World) -> usize {
    let detail = |got: &&Got| got.body["remediation"]["detail"].as_str().is_some_and(|text| text.contains("not again"));
    world.got.iter().filter(detail).map(|got| got.body["seq"].as_u64()).collect::<BTreeSet<_>>().len()
}

#[test]
fn a_boot_out_of_a_release_is_tried_again_where_the_agent_was_started_anew_and_not_for_ever() {
    // Every other time the agent is killed in its goodbye: also in its last one, or not in that.
    for killed in [0, 1] {
        let (mut world, mut id) = boots_back();
        let expected = others(&world);
        world.set(Metric::HostMemUsed, Some(50.0));
        let mut tries = 1;
        for turn in 0..10 {
            if turn % 2 != killed {
                world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
                world.advance(MINUTE);
            }
            world.crash();
            world.advance(9 * MINUTE);
            assert_eq!(world.acts, []);
            world.advance(2 * MINUTE);
            let Some((again, act)) = world.acts.pop() else { break };
            assert_eq!((act, given_up(&world)), (Act::Reboot, 0));
            (id, tries) = (again, tries + 1);
        }
        for _ in 0..2 {
            assert_eq!((tries, given_up(&world)), (5, 1));
            assert_eq!(others(&world), expected, "it was left: it is neither kept nor good");
            world.crash();
            world.advance(11 * MINUTE);
        }
    }
}

#[test]
fn after_the_red_button_no_start_of_the_agent_tries_to_boot_out_of_a_release() {
    let (mut world, id) = boots_back();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Failed) });
    world.advance(MINUTE);
    world.command("stop", "cancel_all", json!({}), 1);
    world.settle();
    let expected = others(&world);
    world.set(Metric::HostMemUsed, Some(50.0));
    world.crash();
    world.advance(60 * MINUTE);
    assert_eq!((world.acts.clone(), others(&world), given_up(&world)), (vec![], expected, 0));
}

#[test]
fn the_red_button_writes_nothing_of_a_release_that_is_not_being_left() {
    let mut world = super::world();
    super::runs(&mut world, "2.0");
    world.advance(MINUTE);
    let before = world.store.written.get("release/app").copied();
    world.command("stop", "cancel_all", json!({}), 1);
    world.settle();
    assert_eq!((world.statuses("stop").last().unwrap().as_str(), before.is_some()), ("SUCCEEDED", true));
    assert_eq!(world.store.written.get("release/app").copied(), before);
}

#[test]
fn a_boot_out_of_a_release_that_somebody_held_off_is_not_counted_over_starts() {
    let (mut world, mut id) = boots_back();
    for _ in 0..8 {
        let inhibited = ActOutcome { reason: Some("inhibited".into()), ..outcome(ActStatus::Rejected) };
        world.input(Input::ActDone { id, outcome: inhibited });
        world.crash();
        world.advance(11 * MINUTE);
        (id, _) = world.acts.pop().unwrap();
    }
}

#[test]
fn an_agent_that_is_killed_in_its_goodbye_before_a_boot_says_nothing_of_the_release_that_comes_back() {
    let (mut world, _) = boots_back();
    for _ in 0..6 {
        world.advance(10 * SECOND);
        world.crash();
    }
    world.reboot();
    let kept = |world: &World| world.got.iter().any(|got| got.body["name"] == "release_kept");
    world.advance(9 * MINUTE);
    assert!(!kept(&world), "it has the time to prove good");
    world.advance(2 * MINUTE);
    assert!(kept(&world));
}
