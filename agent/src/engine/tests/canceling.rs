//! Commands that take others back: what was received before them, and nothing else.

use std::time::Duration;

use serde_json::json;

use super::commanding::{online, reason};
use super::world::{outcome, puts, restart};
use crate::engine::io::{ActStatus, Input, StoreFault};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn cancel_takes_back_what_is_queued_and_stops_what_runs() {
    let mut world = online();
    world.acts_succeed = false;
    world.command("runs", "run", json!({"runbook": "fix", "args": ["a"]}), 1);
    world.command("waits", "run", json!({"runbook": "fix"}), 2);
    world.command("c-1", "cancel", json!({"command_id": "waits"}), 3);
    world.command("c-2", "cancel", json!({"command_id": "runs"}), 4);
    world.command("c-3", "cancel", json!({"command_id": "nobody"}), 5);
    world.settle();
    assert_eq!(world.statuses("waits"), ["QUEUED", "CANCELED"]);
    assert_eq!(world.statuses("runs"), ["IN_PROGRESS", "CANCELED"]);
    assert_eq!(world.statuses("c-2"), ["SUCCEEDED"]);
    assert_eq!((world.statuses("c-3"), reason(&world, "c-3")), (vec!["FAILED".to_owned()], "not_found".into()));
}

#[test]
fn what_is_canceled_while_it_is_on_its_way_to_the_disk_ends_once() {
    let mut world = online();
    world.acts_succeed = false;
    for pkid in 1..=5 {
        world.command(&format!("d-{pkid}"), "collect_diagnostics", json!({}), 2 * pkid);
        world.command(&format!("c-{pkid}"), "cancel_all", json!({}), 2 * pkid + 1);
    }
    world.settle();
    for pkid in 1..=5 {
        let ended = world.statuses(&format!("d-{pkid}")).into_iter().filter(|status| status == "CANCELED").count();
        assert_eq!(ended, 1, "d-{pkid}: {:?}", world.statuses(&format!("d-{pkid}")));
    }
}

#[test]
fn what_is_canceled_before_the_journal_refuses_its_beginning_is_told_as_canceled() {
    let mut world = online();
    world.acts_succeed = false;
    for (id, pkid) in [("runs", 1), ("waits", 2)] {
        world.command(id, "restart_unit", json!({"unit": "app.service"}), pkid);
    }
    world.settle();
    world.stall_store_at(|op| puts(op, "cmd/c-1"));
    world.command("c-1", "cancel", json!({"command_id": "waits"}), 3);
    world.settle();
    world.refuse(|op| puts(op, "cmd/waits"), StoreFault::Busy);
    let (id, _) = world.acts[0].clone();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    world.refuse_nothing();
    world.store_answers();
    assert_eq!(world.statuses("waits"), ["QUEUED", "CANCELED"]);
    assert_eq!(world.statuses("c-1"), ["SUCCEEDED"]);
}

#[test]
fn the_red_button_leaves_alone_what_was_received_after_it() {
    let mut world = online();
    world.acts_succeed = false;
    world.command("runs", "restart_unit", json!({"unit": "app.service"}), 1);
    world.command("waits", "restart_unit", json!({"unit": "app.service"}), 2);
    world.command("stop", "cancel_all", json!({}), 3);
    world.command("again", "restart_unit", json!({"unit": "app.service"}), 4);
    world.command("other", "restart_unit", json!({"unit": "other.service"}), 5);
    world.command("q-1", "quarantine", json!({"level": "observe"}), 6);
    world.settle();
    assert_eq!(world.results("stop")[0]["detail"].as_str().map(|detail| detail.starts_with("2 commands")), Some(true));
    assert_eq!(world.statuses("runs"), ["IN_PROGRESS", "CANCELED"]);
    assert_eq!(world.statuses("waits"), ["QUEUED", "CANCELED"]);
    assert_eq!(world.statuses("again"), ["QUEUED", "IN_PROGRESS"], "once its target is free");
    assert_eq!(
        (world.statuses("other"), world.statuses("q-1")),
        (vec!["IN_PROGRESS".into()], vec!["IN_PROGRESS".into()])
    );
}

#[test]
fn the_red_button_leaves_alone_what_comes_again_behind_it_after_a_crash() {
    let mut world = online();
    world.acts_succeed = false;
    world.command("stop", "cancel_all", json!({}), 1);
    world.command("later", "restart_unit", json!({"unit": "app.service"}), 2);
    while !world.store.state.contains_key("cmd/stop") {
        assert!(world.step());
    }
    assert!(!world.store.state.contains_key("cmd/later"));
    world.crash();
    world.advance(SECOND);
    world.command("later", "restart_unit", json!({"unit": "app.service"}), 3);
    world.settle();
    assert_eq!((world.statuses("later"), world.acted.len()), (vec!["IN_PROGRESS".into()], 1));
}

#[test]
fn what_is_received_after_a_cancel_of_its_id_runs() {
    let mut world = online();
    world.command("c-1", "cancel", json!({"command_id": "later"}), 1);
    world.command("later", "restart_unit", json!({"unit": "app.service"}), 2);
    world.settle();
    assert_eq!((world.statuses("c-1"), reason(&world, "c-1")), (vec!["FAILED".into()], "not_found".into()));
    assert_eq!(world.statuses("later"), ["IN_PROGRESS", "SUCCEEDED"]);
    assert_eq!(world.acted, [restart("app.service")]);
}
