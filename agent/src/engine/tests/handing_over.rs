//! A run that has no store, or none any more: what it leaves to the next one, and what that tells.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use minicbor::Decode;
use serde_json::json;

use super::store::MemStore;
use super::trouble::told;
use super::world::{World, config, identity, puts, restart};
use crate::engine::io::{Input, Recovered, StopReason, StoreFault, StoreLoss, StoreOp};
use crate::engine::keyed::{DROPPED_KEY, LOST_KEY, UNTOLD_KEY, encode};
use crate::engine::observation::EndSigns;
use crate::engine::outbox::{Lost, Untold};
use crate::engine::record::Class;
use crate::engine::time::{Mono, Now, Unix, Wall};
use crate::engine::{Engine, Identity};

const SECOND: Duration = Duration::from_secs(1);

fn gone() -> StoreFault {
    StoreFault::Io { what: "the store was taken away".into() }
}

fn vanished(records: u64) -> StoreLoss {
    StoreLoss { what: format!("telemetry: vanished; {records} records waited in it"), records, state_lost: false }
}

fn decode<T: for<'b> Decode<'b, ()>>(entries: &[(String, Bytes)], key: &str) -> T {
    let (_, value) = entries.iter().find(|(known, _)| known == key).unwrap();
    minicbor::decode(value).unwrap()
}

fn handed_over(engine: &Engine, found: &Recovered) -> Vec<(String, Bytes)> {
    engine.hand_over(found).into_iter().map(|(key, value)| (key, value.unwrap())).collect()
}

fn used(engine: &Engine, found: &Recovered) -> u64 {
    decode(&handed_over(engine, found), "seq")
}

#[test]
fn what_is_lost_with_a_store_that_is_taken_away_is_counted_and_told_once_by_the_next_start() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    world.cut();
    world.store.fault = Some(gone());
    world.advance(30 * SECOND);
    let held = world.engine.outbox.in_memory_only() as u64;
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(10 * SECOND);
    assert!(world.exited && held > 5, "{held}");
    let found = Recovered { losses: vec![vanished(12)], ..Recovered::default() };
    let entries = world.engine.hand_over(&found);
    world.store = MemStore::roomy();
    world.store.apply(StoreOp::Put { entries }).unwrap();
    world.got.clear();
    world.broker_up = true;
    world.crash();
    world.advance(5 * SECOND);
    let damaged: Vec<_> = told(&world, "store_damaged").iter().map(|event| event["audit"].clone()).collect();
    let [state, records] = &damaged[..] else { panic!("{damaged:?}") };
    assert_eq!((&records["records_lost"], &records["state_lost"]), (&12.into(), &false.into()));
    assert_eq!((&state["records_lost"], &state["state_lost"]), (&0.into(), &true.into()));
    assert_eq!(told(&world, "started")[0]["agent"]["after"], "unknown");
    let dropped = world.engine.dropped();
    assert_eq!(dropped.get("corrupt"), Some(&12), "{dropped:?}");
    assert!(dropped.get("store_failed") >= Some(&held), "{dropped:?} of {held}");
    assert!(!world.store.state.contains_key(UNTOLD_KEY));
    world.crash();
    world.advance(5 * SECOND);
    assert_eq!(told(&world, "store_damaged").len(), 2, "told once");
    assert_eq!(world.engine.dropped().get("corrupt"), Some(&12), "and counted once");
}

#[test]
fn damage_that_a_start_could_not_remember_as_told_is_counted_once_all_the_same() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    world.refuse(|op| puts(op, "losses"), StoreFault::Busy);
    for _ in 0..3 {
        let found = Recovered { losses: vec![vanished(3)], ..world.store.crash() };
        world.start_from(found);
        world.advance(5 * SECOND);
        world.refuse_nothing();
        world.advance(5 * SECOND);
    }
    assert_eq!((told(&world, "store_damaged").len(), world.engine.dropped().get("corrupt")), (1, Some(&3)));
}

#[test]
fn what_was_left_for_a_start_that_could_not_open_the_store_is_left_for_the_next() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    let entries = world.engine.hand_over(&Recovered { losses: vec![vanished(12)], ..Recovered::default() });
    world.store = MemStore::roomy();
    world.store.apply(StoreOp::Put { entries }).unwrap();
    world.engine = world.engine_from(Recovered { absent: true, ..Recovered::default() });
    let found = Recovered { losses: vec![vanished(3)], ..world.store.crash() };
    let entries = world.engine.hand_over(&found);
    world.store.apply(StoreOp::Put { entries }).unwrap();
    world.got.clear();
    world.crash();
    world.advance(5 * SECOND);
    let damaged = told(&world, "store_damaged");
    let damaged: BTreeSet<_> = damaged
        .iter()
        .map(|event| (event["audit"]["records_lost"].as_u64(), event["audit"]["state_lost"].as_bool()))
        .collect();
    let all = [(12, false), (3, false), (0, true)].map(|(records, state)| (Some(records), Some(state)));
    assert_eq!(damaged, all.into());
    assert_eq!(told(&world, "started")[0]["agent"]["after"], "unknown");
    assert_eq!(world.engine.dropped().get("corrupt"), Some(&15));
}

#[test]
fn damage_that_this_run_has_counted_is_not_counted_again_where_only_the_state_is_taken_away() {
    let mut world = World::new();
    let damaged = || vec![vanished(3)];
    world.start_from(Recovered { losses: damaged(), ..Recovered::default() });
    world.advance(5 * SECOND);
    assert_eq!(world.engine.dropped().get("corrupt"), Some(&3));
    let state = handed_over(&world.engine, &Recovered { losses: damaged(), ..Recovered::default() });
    world.got.clear();
    world.start_from(Recovered { losses: damaged(), state, ..Recovered::default() });
    world.advance(5 * SECOND);
    assert_eq!(world.engine.dropped().get("corrupt"), Some(&3), "counted once");
    let damaged = told(&world, "store_damaged");
    let [event] = &damaged[..] else { panic!("{damaged:?}") };
    assert_eq!(event["audit"]["state_lost"], true);
}

#[test]
fn what_makes_a_start_careful_is_never_cut_from_what_is_left_to_it() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    let long = |n: u64| StoreLoss { what: format!("{n}: {}", "x".repeat(1_000)), records: n, state_lost: false };
    let found = Recovered { losses: (1..9).map(long).collect(), ..Recovered::default() };
    let untold: Vec<(String, u64, bool)> = decode(&handed_over(&world.engine, &found), UNTOLD_KEY);
    assert!(untold.len() > 2 && untold[0].2, "{untold:?}");
}

#[test]
fn what_was_told_of_a_store_already_is_not_handed_over() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    let state = vec![("losses".to_owned(), encode(&vec![vanished(3).what])), ("run".to_owned(), Bytes::new())];
    let found = Recovered { losses: vec![vanished(3)], state, ..Recovered::default() };
    let entries = handed_over(&world.engine, &found);
    assert!(entries.iter().all(|(key, _)| key != UNTOLD_KEY), "{entries:?}");
}

#[test]
fn a_run_that_began_without_a_store_adds_what_it_gave_up_to_what_the_store_knows() {
    let mut world = World::new();
    let known = BTreeMap::from([("store_failed".to_owned(), 5_u64), ("quota".to_owned(), 7)]);
    let thinned = Lost { records: 5, first: 3, last: 30 };
    let untold = Untold::from([((Class::Telemetry, "thinned".to_owned()), thinned)]);
    let state = vec![(DROPPED_KEY.to_owned(), encode(&known)), (LOST_KEY.to_owned(), encode(&untold))];
    let found = Recovered { state, ..Recovered::default() };
    let absent = Recovered { absent: true, ..Recovered::default() };
    for (begun_with, total) in [(absent, 9), (found.clone(), 9)] {
        world.engine = world.engine_from(begun_with);
        world.engine.outbox.count_dropped("store_failed", 4);
        let dropped: BTreeMap<String, u64> = decode(&handed_over(&world.engine, &found), DROPPED_KEY);
        assert_eq!(dropped, BTreeMap::from([("store_failed".to_owned(), total), ("quota".to_owned(), 7)]));
        assert_eq!(decode::<Untold>(&handed_over(&world.engine, &found), LOST_KEY), untold);
    }
}

#[test]
fn a_start_that_has_no_store_claims_neither_to_be_the_first_nor_that_a_state_is_lost() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    world.got.clear();
    world.store.fault = Some(gone());
    let loss = StoreLoss { what: "open the store: Read-only file system".into(), records: 0, state_lost: false };
    world.start_from(Recovered { absent: true, losses: vec![loss], ..Recovered::default() });
    world.advance(5 * SECOND);
    let started = told(&world, "started");
    assert_eq!(started.first().map(|event| &event["agent"]["after"]), Some(&"unknown".into()), "{:?}", world.got);
    assert_eq!(told(&world, "store_damaged")[0]["audit"]["state_lost"], false);
}

#[test]
fn numbers_used_without_a_store_are_never_below_those_that_the_store_knows() {
    let mut world = World::new();
    world.advance(60 * SECOND);
    let found = world.store.crash();
    let absent = Recovered { absent: true, ..Recovered::default() };
    let engine = world.engine_from(absent);
    let last = used(&engine, &Recovered::default());
    assert!(last > decode::<u64>(&found.state, "seq"));
    let ahead = Recovered { state: vec![("seq".into(), encode(&(last + 7)))], ..found };
    assert_eq!(used(&engine, &ahead), last + 7);
}

#[test]
fn without_a_store_and_without_a_clock_each_start_draws_its_numbers() {
    let now = Now { mono: Mono(500), wall: Wall { unix: Unix(0), trusted: false } };
    let all: BTreeSet<u64> = ["0123", "89ab", "fedc"]
        .map(|digits| {
            let identity = Identity { nonce: digits.repeat(8), ..identity(1, EndSigns::default()) };
            let absent = Recovered { absent: true, ..Recovered::default() };
            used(&Engine::new(now, config(), identity, absent), &Recovered::default())
        })
        .into();
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|seq| *seq < 1 << 53), "exact as a float: {all:?}");
}

#[test]
fn commands_wait_for_a_store_that_is_absent_and_none_is_refused_or_done_twice() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    let app = restart("app.service");
    let iat = world.now.wall.unix.0 / 1_000;
    let send = |world: &mut World, id: &str, pkid| {
        let cmd = json!({"name": "restart_unit", "args": {"unit": "app.service"}});
        world.claims(json!({"jti": id, "iat": iat, "exp": iat + 600, "cmd": cmd}), pkid);
        world.advance(2 * SECOND);
    };
    send(&mut world, "done", 1);
    assert_eq!((world.acted.as_slice(), world.acked_commands.as_slice()), ([app.clone()].as_slice(), [1].as_slice()));

    let kept = world.store.crash();
    world.store.fault = Some(gone());
    world.got.clear();
    world.start_from(Recovered { absent: true, ..Recovered::default() });
    world.advance(5 * SECOND);
    send(&mut world, "done", 2);
    send(&mut world, "new", 3);
    let told: Vec<_> =
        world.got.iter().filter(|got| got.body["type"] == "audit" || got.topic.ends_with("results")).collect();
    assert!(told.is_empty() && world.acked_commands == [1], "{told:?}, {:?}", world.acked_commands);

    world.store.fault = None;
    world.start_from(kept);
    world.advance(5 * SECOND);
    send(&mut world, "done", 4);
    send(&mut world, "new", 5);
    assert_eq!(world.acted, [app.clone(), app], "each once");
    assert_eq!(world.acked_commands, [1, 4, 5]);
    for id in ["done", "new"] {
        assert_eq!(world.statuses(id).last().map(String::as_str), Some("SUCCEEDED"), "{id}");
    }
}
