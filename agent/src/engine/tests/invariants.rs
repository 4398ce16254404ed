//! Properties that hold whatever happens: for any order of inputs the engine comes to rest, never asks to be woken in
//! the past, and says the same when the same is done to it again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::json;

use super::alarms::{LOW, alarms};
use super::world::{Answers, START, Which, World, config_with, outcome, restart};
use crate::config::{CheckedConfig, UnitName};
use crate::engine::io::{ActStatus, Input, LinkFaultKind, StoreFault, StoreOp};
use crate::engine::metric::Metric;
use crate::engine::observation::{ErrorBatch, ErrorKind, ErrorLine, ErrorSource, Severity};
use crate::engine::packet::AckReason;
use crate::engine::record::Class;

pub(super) fn error_batch(message: &str) -> ErrorBatch {
    let line = ErrorLine {
        severity: Severity::Error,
        source: ErrorSource::Journal,
        kind: ErrorKind::Plain,
        message: message.to_owned(),
        unit: None,
        identifier: None,
        exe: None,
        signal: None,
        boot: None,
        mono: None,
        wall: None,
    };
    ErrorBatch { lines: vec![line], cursor: Some(message.to_owned()), ..ErrorBatch::default() }
}

/// So many commands there are, each with a unit of its own: what it did is told apart from what another did.
const COMMANDS: u8 = 8;
/// Some come when their time is over.
const VALID_FOR_S: i64 = 120;

fn command_id(n: u8) -> String {
    format!("c-{n}")
}

fn unit(n: u8) -> String {
    format!("unit-{n}.service")
}

/// Nothing but what the fleet and the operator do, and what the engine itself is to promise, keeps an act back.
fn generous() -> CheckedConfig {
    let mut config = config_with(&format!("[remediation.budget]\nrestart_unit = \"100/1h\"\n{LOW}"));
    config.remediation.units.extend((0..COMMANDS).map(|n| UnitName::parse(&unit(n)).unwrap()));
    config
}

#[derive(Debug, Clone)]
enum Blow {
    Pass(u16),
    Crash,
    Reboot,
    Cut,
    Heal,
    Drop,
    DiskFull,
    DiskWell,
    StoreStalls,
    StoreAnswers,
    StoreRefuses(u8),
    Error(u8),
    Command(u8),
    ActsHang(bool),
    ActsEnd,
    Withhold(bool),
    Answers(usize),
    ClockLost,
    ClockSet,
    Charge(bool),
}

fn blow() -> impl Strategy<Value = Blow> {
    prop_oneof![
        6 => (1..20_000_u16).prop_map(Blow::Pass),
        1 => Just(Blow::Crash),
        1 => Just(Blow::Reboot),
        1 => Just(Blow::Cut),
        2 => Just(Blow::Heal),
        1 => Just(Blow::Drop),
        1 => Just(Blow::DiskFull),
        2 => Just(Blow::DiskWell),
        1 => Just(Blow::StoreStalls),
        2 => Just(Blow::StoreAnswers),
        1 => (0..4_u8).prop_map(Blow::StoreRefuses),
        2 => (0..5_u8).prop_map(Blow::Error),
        3 => (0..COMMANDS).prop_map(Blow::Command),
        1 => any::<bool>().prop_map(Blow::ActsHang),
        1 => Just(Blow::ActsEnd),
        1 => any::<bool>().prop_map(Blow::Withhold),
        1 => (0..ANSWERS.len()).prop_map(Blow::Answers),
        1 => Just(Blow::ClockLost),
        1 => Just(Blow::ClockSet),
        3 => any::<bool>().prop_map(Blow::Charge),
    ]
}

fn strike(world: &mut World, blow: &Blow, n: usize) {
    match blow {
        Blow::Pass(ms) => world.advance(Duration::from_millis((*ms).into())),
        Blow::Crash => world.crash(),
        Blow::Reboot => world.reboot(),
        Blow::Cut => world.cut(),
        Blow::Heal => world.broker_up = true,
        Blow::Drop => world.drop_connection(LinkFaultKind::Server),
        Blow::DiskFull => world.store.fault = Some(StoreFault::NoSpace { what: "append".into() }),
        Blow::DiskWell => {
            world.store.fault = None;
            world.refuse_nothing();
        }
        Blow::StoreStalls => world.stall_store_at(|_| true),
        Blow::StoreAnswers => world.store_answers(),
        Blow::StoreRefuses(kind) => world.refuse(some_operation(*kind), StoreFault::Busy),
        Blow::Error(kind) => world.input(Input::Errors(error_batch(&format!("kind {}", char::from(b'a' + kind))))),
        Blow::Command(id) if world.is_connected() => {
            // What comes twice is the same to the letter, as a broker delivers it.
            let (iat, cmd) = (START.0 / 1000, json!({"name": "restart_unit", "args": {"unit": unit(*id)}}));
            let claims = json!({"jti": command_id(*id), "iat": iat, "exp": iat + VALID_FOR_S, "cmd": cmd});
            world.claims(claims, pkid(n));
            world.settle();
        }
        Blow::Command(_) => {}
        Blow::ActsHang(hang) => world.acts_succeed = !hang,
        Blow::ActsEnd => end_acts(world),
        Blow::Withhold(on) => world.withhold_acks = *on,
        Blow::Answers(nth) => world.answers(ANSWERS[*nth]),
        Blow::ClockLost => world.now.wall.trusted = false,
        Blow::ClockSet => world.now.wall.trusted = true,
        Blow::Charge(low) => world.set(Metric::BatteryChargePct, Some(if *low { 5.0 } else { 80.0 })),
    }
}

/// How a broker answers that says nothing against a record: it takes all, or refuses a topic, or all of them.
const ANSWERS: [Answers; 5] = [
    |_, _| None,
    |topic, _| topic.ends_with("/results").then_some(AckReason::NotAuthorized),
    |topic, _| topic.ends_with("/events").then_some(AckReason::NotAuthorized),
    |topic, _| topic.ends_with("/telemetry").then_some(AckReason::TopicNameInvalid),
    |_, _| Some(AckReason::Other(0x80)),
];

/// Each delivery has a number of its own.
fn pkid(n: usize) -> u16 {
    u16::try_from(n + 1).unwrap()
}

fn end_acts(world: &mut World) {
    for (id, _) in std::mem::take(&mut world.acts) {
        world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    }
}

fn some_operation(kind: u8) -> Which {
    match kind {
        0 => |op| matches!(op, StoreOp::Put { .. }),
        1 => |op| matches!(op, StoreOp::Trim { .. }),
        2 => |op| matches!(op, StoreOp::Read { .. }),
        _ => |op| matches!(op, StoreOp::Commit),
    }
}

/// After any history nothing is lost or done twice, and the engine comes to rest.
fn all_holds(blows: &[Blow]) -> Result<(), TestCaseError> {
    let mut world = World::with(generous());
    let mut sent = BTreeMap::new();
    let (mut refused, mut forgot) = (false, false);
    for (n, blow) in blows.iter().enumerate() {
        refused |= matches!(blow, Blow::StoreRefuses(0));
        // The store has said that it didn't take an alarm's state, or has still to say so.
        let is_unsaved = !world.engine.unsaved_alarms.is_empty() || (refused && world.store_is_late());
        forgot |= is_unsaved && matches!(blow, Blow::Crash | Blow::Reboot);
        if let Blow::Command(id) = blow {
            sent.insert(pkid(n), *id);
        }
        strike(&mut world, blow, n);
        let deadline = world.engine.poll_deadline();
        prop_assert!(deadline.is_none_or(|at| at > world.now.mono), "asks to be woken in the past after {blow:?}");
    }
    // The faults end: then the outbox drains and every command ends.
    world.store.fault = None;
    world.refuse_nothing();
    world.store_answers();
    world.broker_up = true;
    world.withhold_acks = false;
    world.answers(ANSWERS[0]);
    world.acts_succeed = true;
    end_acts(&mut world);
    world.answer_all();
    let was_refused = blows.iter().any(|blow| matches!(blow, Blow::Answers(nth) if *nth > 0));
    world.advance(Duration::from_secs(if was_refused { 420 } else { 120 }));
    let mut kept = world.taken_seqs();
    kept.extend(Class::ALL.into_iter().flat_map(|class| world.stored(class)));
    let gone: BTreeSet<u64> = world.store.durable.difference(&kept).copied().collect();
    let lost: Vec<&u64> = gone.difference(&world.store.given_up).collect();
    prop_assert!(lost.is_empty(), "on the disk once, and gone: {lost:?}");
    let counted: u64 = world.engine.dropped().values().sum();
    let is_counted = counted >= gone.len() as u64;
    prop_assert!(is_counted, "{} records were given up, and {counted} are counted", gone.len());
    for id in 0..COMMANDS {
        let statuses = world.statuses(&command_id(id));
        let is_end = |status: &&String| !matches!(status.as_str(), "QUEUED" | "IN_PROGRESS");
        let ends: BTreeSet<&String> = statuses.iter().filter(is_end).collect();
        let done = world.acted.iter().filter(|act| **act == restart(&unit(id))).count();
        prop_assert!(done <= 1, "{} was done {done} times: {statuses:?}", command_id(id));
        prop_assert!(statuses.is_empty() || ends.len() == 1, "not one end of {}: {statuses:?}", command_id(id));
        prop_assert!(done == 1 || !ends.contains(&"SUCCEEDED".to_owned()), "{} was not done", command_id(id));
        let is_acknowledged = world.acked_commands.iter().any(|pkid| sent.get(pkid) == Some(&id));
        // A result that was evicted is counted, and not told again before it is asked for.
        let is_told = ends.len() == 1 || *Class::Results.of(&world.store.evicted) > 0;
        prop_assert!(!is_acknowledged || is_told, "{} is acknowledged: {statuses:?}", command_id(id));
    }
    // A disk that refuses an event at first lets a later one pass it: then a crash can hide that it is gone. And one
    // that takes an alarm's event, but not its state until the agent dies, leaves nobody to tell that it was cleared.
    if !forgot && !blows.iter().any(|blow| matches!(blow, Blow::DiskFull)) {
        let heard = alarms(&world).last().is_some_and(|event| event["alarm"]["state"] == "raised");
        let stands = !world.engine.status(world.now).alarms.is_empty();
        prop_assert_eq!(heard, stands, "what the fleet heard last of the alarm, and how it stands");
    }
    let left = world.engine.status(world.now).outbox.records;
    let waiting: u64 = left.values().filter_map(serde_json::Value::as_u64).sum();
    prop_assert!(waiting <= 2, "still waiting: {left:?}");
    Ok(())
}

#[test]
fn records_that_only_memory_holds_are_not_taken_for_those_that_were_evicted_around_them() {
    use Blow::{Command, Cut, DiskFull, Drop, Pass, StoreStalls};
    all_holds(&[Drop, StoreStalls, Pass(1_000), Command(0), DiskFull, Drop, Cut]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_lost_or_done_twice_and_the_engine_comes_to_rest(blows in prop::collection::vec(blow(), 1..40)) {
        all_holds(&blows)?;
    }

    #[test]
    fn the_same_blows_give_the_same_messages(blows in prop::collection::vec(blow(), 1..20)) {
        let run = || {
            let mut world = World::with(generous());
            for (n, blow) in blows.iter().enumerate() {
                strike(&mut world, blow, n);
            }
            world.got.iter().map(|got| format!("{} {}", got.topic, got.body)).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}
