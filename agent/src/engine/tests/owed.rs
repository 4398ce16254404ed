//! A disk that is full while commands run: how each of them ended is told all the same, once there is room or by the
//! next start at the latest.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::commanding::online;
use super::world::{Which, World, config, outcome, restart};
use crate::engine::commands::{AHEAD_MAX, LEDGER_MAX};
use crate::engine::io::{ActStatus, Input, StopReason, StoreFault, StoreOp};
use crate::engine::record::Class;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Longer than the store is left alone after it has failed.
const A_WHILE: Duration = Duration::from_secs(12);
const PINGS: u16 = 200;
const BURST: u16 = 200;

fn full() -> StoreFault {
    StoreFault::NoSpace { what: "append to the log".into() }
}

/// Every terminal status of a command that the fleet got, with repetitions.
fn ends(world: &World, id: &str) -> Vec<String> {
    let statuses = world.statuses(id).into_iter();
    statuses.filter(|status| !matches!(status.as_str(), "QUEUED" | "IN_PROGRESS")).collect()
}

fn is_log(op: &StoreOp) -> bool {
    matches!(op, StoreOp::Append { .. } | StoreOp::Commit | StoreOp::Trim { .. })
}

/// Ways in which a disk is full: for all but the keyed state, for each commit, for everything.
const FULL: [Which; 3] = [is_log, |op| *op == StoreOp::Commit, |op| !matches!(op, StoreOp::Read { .. })];

#[test]
fn a_disk_that_is_full_from_any_step_of_a_command_on_leaves_it_one_end_that_is_told_once_there_is_room() {
    for (which, restarts) in FULL.into_iter().flat_map(|which| [(which, false), (which, true)]) {
        for full_from in 0.. {
            let mut world = online();
            world.command("c-1", "restart_unit", json!({"unit": "app.service"}), 7);
            let steps = (0..full_from).take_while(|_| world.step_effect() || world.step()).count();
            world.refuse(which, full());
            world.settle();
            world.advance(A_WHILE);
            if restarts {
                world.crash();
                world.advance(A_WHILE);
            }
            world.refuse_nothing();
            world.advance(A_WHILE);
            if !world.acked_commands.contains(&7) {
                // The broker brings it again.
                world.command("c-1", "restart_unit", json!({"unit": "app.service"}), 7);
                world.advance(A_WHILE);
            }
            let ends: BTreeSet<String> = ends(&world, "c-1").into_iter().collect();
            assert_eq!(ends.len(), 1, "full from {full_from}, restarts: {restarts}: {:?}", world.results("c-1"));
            assert!(world.acted.iter().filter(|act| **act == restart("app.service")).count() <= 1);
            if steps < full_from {
                break;
            }
        }
    }
}

#[test]
fn what_is_answered_to_another_command_of_the_same_id_does_not_stand_for_the_end_that_the_disk_does_not_take_yet() {
    let mut world = online();
    world.acts_succeed = false;
    world.command("c-1", "restart_unit", json!({"unit": "app.service"}), 7);
    world.settle();
    world.refuse(|op| matches!(op, StoreOp::Put { .. }), full());
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    world.command("c-1", "restart_unit", json!({"unit": "other.service"}), 8);
    world.settle();
    assert_eq!(
        (ends(&world, "c-1"), world.results("c-1")[1]["reason"].as_str()),
        (vec!["REJECTED".into()], Some("replayed"))
    );
    world.refuse_nothing();
    for _ in 0..2 {
        world.advance(A_WHILE);
        assert_eq!(ends(&world, "c-1"), ["REJECTED", "SUCCEEDED"]);
        world.crash();
    }
}

/// A store so small that the ends of so many commands don't fit, and a broker that answers for none of them.
fn overfull() -> World {
    let mut config = config();
    config.store.max_bytes = 8 * 1024;
    let mut world = World::with(config);
    world.advance(SECOND);
    world.withhold_acks = true;
    for n in 0..PINGS {
        world.command(&format!("p-{n}"), "ping", json!({}), n + 1);
    }
    world
}

fn untold(world: &World) -> Vec<u16> {
    let told = |n: &u16| ends(world, &format!("p-{n}")).iter().any(|status| status == "SUCCEEDED");
    (0..PINGS).filter(|n| !told(n)).collect()
}

/// Ends that the log of results had, and gave up for room.
fn given_up(world: &World) -> u64 {
    world.store.evicted[Class::Results as usize]
}

#[test]
fn ends_that_were_given_up_for_room_are_told_again_over_the_next_connection() {
    let mut world = overfull();
    world.advance(5 * SECOND);
    world.cut();
    world.advance(MINUTE);
    let evicted = given_up(&world);
    world.advance(5 * MINUTE);
    assert!(evicted >= 50 && !untold(&world).is_empty(), "{evicted}: some have to be told again");
    assert!(given_up(&world) < evicted + 30, "told again while nobody listens they would only push out each other");
    (world.withhold_acks, world.broker_up) = (false, true);
    world.advance(2 * MINUTE);
    assert_eq!(untold(&world), [0; 0]);
}

#[test]
fn ends_that_were_given_up_for_room_are_told_by_the_next_start_wherever_the_agent_was_killed() {
    let mut killed = 0;
    loop {
        let mut world = overfull();
        let seen = std::cell::Cell::new(0);
        let found = world.advance_until(5 * SECOND, |world| {
            seen.set(seen.get() + u32::from(given_up(world) > 0));
            seen.get() > killed
        });
        if !found {
            break;
        }
        world.cut();
        (world.withhold_acks, world.broker_up) = (false, true);
        world.crash();
        world.advance(2 * MINUTE);
        let journaled = |n: &u16| world.acked_commands.contains(&(n + 1));
        let untold: Vec<u16> = untold(&world).into_iter().filter(journaled).collect();
        assert_eq!(untold, [0; 0], "killed {killed} effects after the first was given up");
        killed += 1 + killed / 4;
    }
    assert!(killed > 50, "{killed}");
}

#[test]
fn of_a_burst_on_a_full_disk_each_command_is_answered_while_it_is_full() {
    for which in [is_log, |op: &StoreOp| *op == StoreOp::Commit] {
        let mut world = online();
        world.acts_succeed = false;
        world.refuse(which, full());
        for n in 0..300_u16 {
            let (name, args) =
                if n % 3 == 0 { ("ping", json!({})) } else { ("restart_unit", json!({"unit": "app.service"})) };
            world.command(&format!("b-{n}"), name, args, n + 1);
        }
        world.settle();
        world.advance(MINUTE);
        while let Some((id, _)) = world.acts.pop() {
            world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
        }
        world.advance(MINUTE);
        let unanswered: Vec<u16> = (0..300).filter(|n| ends(&world, &format!("b-{n}")).len() != 1).collect();
        assert_eq!(unanswered, [0; 0], "{:?}", world.engine.dropped());
        let busy = (0..300).filter(|n| world.results(&format!("b-{n}")).iter().any(|it| it["reason"] == "busy"));
        assert_eq!(busy.count(), 200 - 1 - crate::engine::commands::QUEUE_MAX);
        let bounds = world.engine.bounds();
        assert!(bounds.iter().all(|(_, holds, bound)| holds <= bound), "{bounds:?}");
    }
}

/// A gateway that remembers as many commands as it can, none of which can be forgotten, and a broker that answers for
/// nothing from now on.
fn full_ledger() -> World {
    let mut world = online();
    for n in 0..u16::try_from(LEDGER_MAX).unwrap() {
        world.claims(ping(&world, &format!("c-{n}")), n + 1);
        world.settle();
    }
    world.withhold_acks = true;
    world
}

fn ping(world: &World, id: &str) -> Json {
    json!({"jti": id, "iat": world.now.wall.unix.0 / 1_000, "cmd": {"name": "ping"}})
}

fn burst(world: &mut World) {
    for n in 0..BURST {
        world.claims(ping(world, &format!("b-{n}")), n + 1);
    }
    world.settle();
}

fn unanswered(world: &World) -> Vec<u16> {
    (0..BURST).filter(|n| ends(world, &format!("b-{n}")) != ["REJECTED"]).collect()
}

#[test]
fn a_signer_whose_clock_is_ahead_leaves_room_for_the_others() {
    let mut world = online();
    let two_days_on = world.now.wall.unix.0 / 1_000 + 2 * 86_400;
    for n in 0..LEDGER_MAX {
        let mut ahead = ping(&world, &format!("a-{n}"));
        (ahead["iat"], ahead["exp"]) = (two_days_on.into(), (two_days_on + 600).into());
        world.claims(ahead, 1);
        world.settle();
    }
    world.advance(A_WHILE);
    let remembered = world.engine.bounds().into_iter().find(|it| it.0 == "commands remembered").unwrap().1;
    assert_eq!(remembered, AHEAD_MAX);
    let mut ahead = ping(&world, "answered");
    (ahead["iat"], ahead["exp"]) = (two_days_on.into(), (two_days_on + 600).into());
    world.claims(ahead, 7);
    world.advance(SECOND);
    assert_eq!(ends(&world, "answered"), ["REJECTED"]);
    assert!(world.acked_commands.contains(&7));
    for n in 0..u16::try_from(LEDGER_MAX).unwrap() {
        world.claims(ping(&world, &format!("c-{n}")), n + 1);
        world.advance(SECOND);
        assert_eq!(ends(&world, &format!("c-{n}")), ["SUCCEEDED"], "{n}");
    }
}

#[test]
fn what_finds_the_ledger_full_is_answered_over_a_crash_where_the_disk_is_well() {
    let mut world = full_ledger();
    burst(&mut world);
    assert!(unanswered(&world).len() > 100, "{:?}", unanswered(&world));
    world.withhold_acks = false;
    world.crash();
    world.advance(MINUTE);
    let unanswered: Vec<u16> = (0..BURST).filter(|n| ends(&world, &format!("b-{n}")).is_empty()).collect();
    assert_eq!(unanswered, [0; 0]);
}

#[test]
fn what_finds_the_ledger_full_while_the_disk_is_full_is_put_there_before_the_agent_ends() {
    let mut world = full_ledger();
    let held = |world: &World| world.engine.bounds().into_iter().find(|it| it.0.starts_with("answers")).unwrap().1;
    world.refuse(is_log, full());
    world.claims(ping(&world, "c-0"), 1);
    world.settle();
    burst(&mut world);
    world.cut();
    assert_eq!(held(&world), usize::from(BURST));
    world.refuse_nothing();
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(10 * SECOND);
    assert!(world.exited && held(&world) == 0, "{}", held(&world));
    (world.withhold_acks, world.broker_up) = (false, true);
    world.crash();
    world.advance(MINUTE);
    assert_eq!(unanswered(&world), [0; 0]);
}
