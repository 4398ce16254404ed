//! What a start makes of the run before: a journal that was lost, a beginning that the disk refused, and for how long
//! the gateway was down.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::healing::world;
use super::world::{START, World, puts};
use crate::engine::io::{Input, StopReason, StoreFault, StoreOp};
use crate::engine::keyed::STATE_LOST_KEY;
use crate::engine::observation::ErrorBatch;
use crate::engine::time::{Unix, Wall};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn what_is_refused_after_a_lost_journal_is_told_by_the_date_of_the_loss_and_not_by_a_wrong_clock() {
    for wrong in [0, 4_000_000_000_000] {
        let mut world = world();
        let right = world.now.wall;
        world.command("p-1", "ping", json!({}), 1);
        world.settle();
        world.store.state.clear();
        world.now.wall = Wall { unix: Unix(wrong), trusted: false };
        world.crash();
        world.advance(10 * SECOND);
        let since = Unix(right.unix.0 + 60_000);
        world.now.wall = Wall { unix: since, trusted: true };
        world.advance(10 * SECOND);
        // The broker brings the first again, and there is a new one.
        let issued = right.unix.0 / 1_000;
        world.claims(json!({"jti": "p-2", "iat": issued, "exp": issued + 600, "cmd": {"name": "ping", "args": {}}}), 2);
        world.settle();
        world.command("p-3", "ping", json!({}), 3);
        world.settle();
        world.advance(5 * SECOND);
        assert_eq!(world.results("p-2").last().unwrap()["reason"], "replayed", "{wrong}");
        assert_eq!(world.statuses("p-3").last().unwrap(), "SUCCEEDED", "{wrong}");
    }
}

#[test]
fn a_lost_journal_leaves_no_budget_even_if_the_agent_dies_before_it_has_written_that() {
    let mut world = world();
    world.store.state.clear();
    world.now.mono.0 += 1_000;
    world.start_unwritten();
    world.crash();
    world.advance(2 * SECOND);
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    assert!(world.acted.is_empty());
    assert_eq!(world.results("r-1").last().unwrap()["reason"], "budget_spent");
}

#[test]
fn a_loss_that_another_opening_found_first_is_taken_note_of_once() {
    let mut world = world();
    world.store.state.insert(STATE_LOST_KEY.to_owned(), Bytes::from_static(b"begun anew"));
    world.crash();
    world.advance(2 * SECOND);
    assert!(!world.store.state.contains_key(STATE_LOST_KEY));
    for id in ["r-1", "r-2"] {
        world.command(id, "restart_unit", json!({"unit": "app.service"}), 1);
        world.settle();
        let refused = world.results(id);
        let detail = refused.last().unwrap()["detail"].as_str().unwrap().to_owned();
        assert_eq!(refused.last().unwrap()["reason"], "budget_spent");
        assert!(detail.starts_with("the store's state was lost") && detail.contains("; again in 59m "), "{detail}");
        world.crash();
        world.advance(2 * SECOND);
    }
}

#[test]
fn a_run_whose_beginning_the_disk_refused_is_no_continuation_of_the_one_before() {
    let mut world = world();
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(20 * SECOND);
    let is_mark = |op: &StoreOp| puts(op, "run");
    world.refuse(is_mark, StoreFault::NoSpace { what: "put".into() });
    world.reboot();
    world.advance(MINUTE);
    world.refuse_nothing();
    world.advance(MINUTE);
    let reasons = |world: &World| {
        let told = world.got.iter().filter(|got| got.body["name"] == "rebooted");
        let told: BTreeMap<u64, String> = told
            .map(|got| (got.body["seq"].as_u64().unwrap(), got.body["reboot"]["reason"].as_str().unwrap().to_owned()))
            .collect();
        told.into_values().collect::<Vec<_>>()
    };
    assert_eq!(reasons(&world), ["user"]);
    let seqs = world.seqs();
    world.reboot();
    world.advance(MINUTE);
    assert_eq!(reasons(&world), ["user", "power_loss"]);
    let last = seqs.iter().max().unwrap();
    let since = world.seqs().into_iter().filter(|seq| seq > last).count();
    assert!(world.seqs().len() - seqs.len() <= since, "no number is used twice");
}

/// Seconds, as the fleet was told them.
fn assert_down_for(world: &World, seconds: RangeInclusive<u64>) {
    let rebooted = world.got.iter().find(|got| got.body["name"] == "rebooted").unwrap();
    let downtime = rebooted.body["reboot"]["downtime_s"].as_u64();
    assert!(downtime.is_some_and(|s| seconds.contains(&s)), "{rebooted:?}");
}

#[test]
fn for_how_long_the_gateway_was_down_is_told_by_a_clock_that_was_set_after_its_start() {
    let mut world = world();
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(20 * SECOND);
    world.cut();
    world.now.wall = Wall { unix: Unix(world.now.wall.unix.0 + 90_000), trusted: false };
    world.reboot();
    world.advance(10 * SECOND);
    world.now.wall.trusted = true;
    world.broker_up = true;
    world.advance(5 * MINUTE);
    assert_down_for(&world, 90..=111);
}

/// The last sign of life is a sample's trim.
#[test]
fn for_how_long_a_gateway_was_without_power_is_told_to_about_a_sample() {
    let mut world = world();
    world.advance(5 * MINUTE);
    world.cut();
    world.now.wall.unix = Unix(world.now.wall.unix.0 + 90_000);
    world.reboot();
    world.broker_up = true;
    world.advance(MINUTE);
    // The boot itself took half a second of it.
    assert_down_for(&world, 89..=150);
}

#[test]
fn for_how_long_a_gateway_was_without_power_is_not_told_where_its_clock_was_never_set() {
    let mut world = world();
    world.now.wall = Wall { unix: Unix(1_000), trusted: false };
    world.boot = 9;
    world.reboot();
    world.advance(5 * MINUTE);
    world.cut();
    world.reboot();
    world.now.wall = Wall { unix: START, trusted: true };
    world.got.clear();
    world.broker_up = true;
    world.advance(MINUTE);
    let rebooted = world.got.iter().rfind(|got| got.body["name"] == "rebooted").unwrap();
    assert_eq!(rebooted.body["reboot"].get("downtime_s"), None, "{rebooted:?}");
}

/// A container has a boot id of its own, and its host's clock since boot.
#[test]
fn for_how_long_a_container_was_down_is_told_although_its_clock_since_boot_went_on() {
    let mut world = world();
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(20 * SECOND);
    world.cut();
    let host = world.now.mono;
    world.now.wall.unix = Unix(world.now.wall.unix.0 + 90_000);
    world.reboot_at(host.after(90 * SECOND));
    world.broker_up = true;
    world.advance(5 * MINUTE);
    assert_down_for(&world, 90..=111);
}

#[test]
fn a_first_run_that_crashes_before_its_first_interval_is_over_leaves_where_the_next_one_reads_on() {
    let mut world = World::new();
    for cursor in ["present", "later"] {
        world.input(Input::Errors(ErrorBatch { cursor: Some(cursor.into()), ..ErrorBatch::default() }));
    }
    world.crash();
    assert_eq!(world.engine.error_cursor(), Some("present"));
}
