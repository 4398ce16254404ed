//! `seq`: no number stands for two messages, whatever the agent, its clock and its store live through.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::world::{World, puts};
use crate::engine::io::{Input, LinkFaultKind, StopReason, StoreFault, StoreOp};
use crate::engine::keyed::STATE_LOST_KEY;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn no_seq_is_used_twice_over_crashes_and_reboots() {
    let mut world = World::new();
    for n in 0..20 {
        world.advance(3 * SECOND);
        if n % 3 == 0 { world.reboot() } else { world.crash() }
    }
    world.advance(10 * SECOND);
    assert_no_seq_stands_for_two_messages(&world);
}

fn assert_no_seq_stands_for_two_messages(world: &World) {
    let mut seen = BTreeMap::new();
    for got in &world.got {
        let seq = got.body["seq"].as_u64().unwrap();
        let text = got.body.to_string();
        if let Some(other) = seen.insert(seq, text.clone()) {
            // A record that is sent again is the same record; dates may have been mended.
            assert_eq!(other, text, "seq {seq} stands for two messages");
        }
    }
}

#[test]
fn no_seq_is_used_twice_when_the_keyed_state_is_lost() {
    let mut world = World::new();
    world.store.state.clear();
    world.crash();
    world.advance(10 * SECOND);
    assert_no_seq_stands_for_two_messages(&world);
}

#[test]
fn no_seq_is_used_twice_when_numbers_could_not_be_reserved() {
    let mut world = World::new();
    let reserves = |op: &StoreOp| puts(op, "seq");
    world.refuse(reserves, StoreFault::Io { what: "write the state".into() });
    // More numbers than one block has.
    world.advance(2_400 * SECOND);
    world.drop_connection(LinkFaultKind::Server);
    world.advance(1_100 * MILLISECOND);
    world.refuse_nothing();
    world.crash();
    world.advance(10 * SECOND);
    assert_no_seq_stands_for_two_messages(&world);
}

#[test]
fn no_seq_is_used_twice_when_nothing_could_be_stored() {
    let mut world = World::new();
    world.advance(10 * SECOND);
    world.refuse(|op| !matches!(op, StoreOp::Probe), StoreFault::Io { what: "a disk that is gone".into() });
    // More numbers than one block has.
    world.advance(2_400 * SECOND);
    world.refuse_nothing();
    world.crash();
    world.advance(10 * SECOND);
    assert_no_seq_stands_for_two_messages(&world);
}

#[test]
fn no_seq_is_used_twice_when_the_state_has_fallen_back_to_the_end_of_an_earlier_run() {
    let mut world = World::new();
    world.advance(60 * SECOND);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(10 * SECOND);
    let before = (world.store.state.clone(), world.store.logs.clone());
    world.crash();
    world.advance(60 * SECOND);
    (world.store.state, world.store.logs) = before;
    // As the store marks it then.
    world.store.state.insert(STATE_LOST_KEY.to_owned(), Bytes::new());
    world.crash();
    world.advance(60 * SECOND);
    assert_no_seq_stands_for_two_messages(&world);
}

#[test]
fn a_run_that_ended_well_leaves_no_numbers_out() {
    let mut world = World::new();
    world.advance(60 * SECOND);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(10 * SECOND);
    let last = world.got.iter().filter_map(|got| got.body["seq"].as_u64()).max().unwrap();
    world.crash();
    world.advance(10 * SECOND);
    let next = world.got.iter().filter_map(|got| got.body["seq"].as_u64()).max().unwrap();
    assert!((last + 1..last + 4_096).contains(&next), "{last}, {next}");
    assert_no_seq_stands_for_two_messages(&world);
}

#[test]
fn numbers_that_could_not_be_reserved_are_reserved_later() {
    let mut world = World::new();
    let reserved = |world: &World| world.store.state.get("seq").cloned();
    let before = reserved(&world);
    world.refuse(|op| matches!(op, StoreOp::Put { .. }), StoreFault::Busy);
    world.advance(2_400 * SECOND);
    world.refuse_nothing();
    world.advance(10 * SECOND);
    assert_ne!(reserved(&world), before);
}
