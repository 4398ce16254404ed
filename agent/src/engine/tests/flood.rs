//! More commands than there is room for: bursts, garbage, and a ledger that is full. Each has its end, and nothing runs
//! twice for want of memory.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::commanding::{online, reason};
use super::world::{NONCE, World, outcome, restart};
use crate::engine::io::{ActStatus, Input};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_burst_of_a_thousand_commands_gets_one_terminal_status_each() {
    let mut world = online();
    world.acts_succeed = false;
    for n in 0..1_000_u16 {
        world.command(&format!("b-{n}"), "restart_unit", json!({"unit": "app.service"}), n + 1);
    }
    world.settle();
    while let Some((id, _)) = world.acts.pop() {
        world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    }
    world.advance(60 * SECOND);
    for n in 0..1_000 {
        let statuses = world.statuses(&format!("b-{n}"));
        let terminal = statuses.iter().filter(|s| !matches!(s.as_str(), "QUEUED" | "IN_PROGRESS")).count();
        assert_eq!(terminal, 1, "b-{n}: {statuses:?}");
    }
}

#[test]
fn of_a_thousand_commands_at_once_each_has_exactly_one_end() {
    const COMMANDS: usize = 1_000;
    let mut world = online();
    for n in 0..COMMANDS {
        let (name, args) = match n % 4 {
            0 => ("ping", json!({})),
            1 => ("restart_unit", json!({"unit": "app.service"})),
            2 => ("restart_unit", json!({"unit": "other.service"})),
            _ => ("restart_unit", json!({"unit": "forbidden.service"})),
        };
        world.command(&format!("c-{n}"), name, args, u16::try_from(n + 1).unwrap());
    }
    world.settle();
    world.advance(2 * 60 * SECOND);
    let ends = |n: usize| {
        let statuses = world.statuses(&format!("c-{n}"));
        statuses.into_iter().filter(|status| status != "IN_PROGRESS" && status != "QUEUED").count()
    };
    let wrong: Vec<usize> = (0..COMMANDS).filter(|n| ends(*n) != 1).collect();
    assert!(wrong.is_empty(), "{} of {COMMANDS} have not exactly one end: {wrong:?}", wrong.len());
    let acked: BTreeSet<u16> = world.acked_commands.iter().copied().collect();
    assert_eq!(acked.len(), COMMANDS, "each is acknowledged to the broker");
}

#[test]
fn slow_runbooks_leave_hands_for_what_helps() {
    let mut world = online();
    world.acts_succeed = false;
    for n in 1..=8_u16 {
        world.command(&format!("r-{n}"), "run", json!({"runbook": format!("slow-{n}")}), n);
    }
    world.settle();
    assert_eq!(world.acted.len(), 6);
    let others = [
        ("restart_unit", json!({"unit": "app.service"})),
        ("reboot", json!({"delay_s": 60})),
        ("quarantine", json!({"level": "observe"})),
        ("collect_diagnostics", json!({})),
    ];
    for (name, args) in others {
        world.command(name, name, args, 9);
        world.settle();
        assert_eq!(world.statuses(name), ["IN_PROGRESS"], "{name}");
    }
    world.command("u-2", "restart_unit", json!({"unit": "other.service"}), 9);
    world.settle();
    assert_eq!(world.statuses("u-2"), ["QUEUED"], "all hands are full");
    let bounds = world.engine.bounds();
    assert!(bounds.iter().all(|(_, holds, bound)| holds <= bound), "{bounds:?}");
}

#[test]
fn a_flood_of_garbage_is_told_in_part_and_counted_in_full() {
    let mut world = online();
    for pkid in 1..=1_000 {
        world.claims(json!({"jti": "not a valid id"}), pkid);
    }
    world.settle();
    world.advance(10 * SECOND);
    let told = world.got.iter().filter(|got| got.body["reason"] == "malformed").count();
    let counted: u64 = world
        .got
        .iter()
        .filter_map(|got| got.body["samples"].as_array())
        .flatten()
        .filter_map(|sample| sample["agent"]["commands_refused"]["malformed"].as_u64())
        .sum();
    assert!((1..=70).contains(&told), "{told} told");
    assert_eq!(counted, 1_000);
    assert_eq!(world.acked_commands.len(), 1_000);
}

#[test]
fn a_genuine_command_under_a_known_id_that_comes_over_and_over_is_told_in_part() {
    let mut world = online();
    world.command("x", "ping", json!({}), 1);
    world.settle();
    for pkid in 2..=500 {
        world.command("x", "cancel_all", json!({}), pkid);
    }
    world.settle();
    let told = world.results("x").iter().filter(|result| result["reason"] == "replayed").count();
    assert!((1..=70).contains(&told), "{told} told");
    assert_eq!(world.acked_commands.len(), 500);
}

#[test]
fn what_anybody_can_send_keeps_no_genuine_command_from_being_answered_again() {
    let mut world = online();
    for pkid in 1..=200 {
        world.claims(json!({"jti": "not a valid id"}), pkid);
    }
    let ping = json!({"jti": "x", "iat": 1_795_000_000, "exp": 1_795_000_900, "cmd": {"name": "ping"}});
    for pkid in 201..=210 {
        world.claims(ping.clone(), pkid);
        world.settle();
    }
    assert_eq!(world.statuses("x").len(), 10);
}

const LEDGER_FULL: u16 = 2_048;

/// Valid for as long as anybody can say.
fn for_ever(id: &str, issued_at: i64, name: &str, args: &Json) -> Json {
    json!({"jti": id, "iat": issued_at, "exp": 253_402_300_799_i64, "cmd": {"name": name, "args": args}})
}

/// An agent that remembers as many commands as it can, none of which ever expires, each a second older than the next.
/// The oldest has restarted the app.
fn full() -> (World, Json) {
    let mut world = online();
    let begin = world.now.wall.unix.0 / 1000 - 3_000;
    let oldest = for_ever("c-0", begin, "restart_unit", &json!({"unit": "app.service"}));
    world.claims(oldest.clone(), 1);
    for n in 1..LEDGER_FULL {
        world.claims(for_ever(&format!("c-{n}"), begin + i64::from(n), "ping", &json!({})), n + 1);
        world.settle();
    }
    world.advance(5 * SECOND);
    (world, oldest)
}

#[test]
fn a_full_ledger_takes_new_commands_and_what_it_forgets_for_them_is_not_run_again() {
    let (mut world, oldest) = full();
    let now = world.now.wall.unix.0 / 1000;
    for (pkid, name) in (1..).zip(["ping", "quarantine", "release", "cancel_all"]) {
        let args = if name == "quarantine" { json!({"level": "observe"}) } else { json!({}) };
        world.claims(for_ever(name, now, name, &args), pkid);
        world.settle();
        assert_eq!(world.statuses(name).last().unwrap(), "SUCCEEDED", "{name}");
    }
    world.advance(5 * SECOND);
    // What stood beside the oldest, issued in the same second, can't be told from what was forgotten.
    let same_second = for_ever("twin", oldest["iat"].as_i64().unwrap(), "ping", &json!({}));
    for _ in 0..2 {
        world.claims(oldest.clone(), 7);
        world.claims(same_second.clone(), 8);
        world.settle();
        assert_eq!((reason(&world, "c-0"), reason(&world, "twin")), ("replayed".into(), "replayed".into()));
        world.crash();
        world.advance(2 * SECOND);
    }
    assert_eq!(world.acted.iter().filter(|act| **act == restart("app.service")).count(), 1);
    // What is still known is answered by what is known.
    world.claims(for_ever("c-9", oldest["iat"].as_i64().unwrap() + 9, "ping", &json!({})), 9);
    world.settle();
    assert_eq!(world.statuses("c-9").last().unwrap(), "SUCCEEDED");
}

/// Crashes between each pair of steps of what makes room for a command.
#[test]
fn what_a_full_ledger_forgets_is_not_run_twice_wherever_the_agent_dies() {
    let (mut before, oldest) = full();
    before.crash();
    let state = before.store.state.clone();
    for crash_after in 0..12 {
        let mut world = online();
        world.store.state = state.clone();
        world.crash();
        world.advance(2 * SECOND);
        let newcomer =
            for_ever("new", oldest["iat"].as_i64().unwrap() + 4_000, "restart_unit", &json!({"unit": "other.service"}));
        world.now.wall.unix.0 += 2_000_000;
        world.claims(newcomer.clone(), 7);
        for _ in 0..crash_after {
            // Effect by effect: what is forgotten and what it is forgotten for are two writes.
            if !world.step_effect() && !world.step() {
                break;
            }
        }
        world.crash();
        world.advance(2 * SECOND);
        for again in [&oldest, &newcomer] {
            world.claims(again.clone(), 9);
            world.settle();
        }
        world.advance(2 * SECOND);
        assert!(!world.acted.contains(&restart("app.service")), "crash after {crash_after}");
        assert!(world.acted.len() <= 1, "crash after {crash_after}: {:?}", world.acted);
        let ends = world.statuses("new").into_iter().filter(|status| status != "IN_PROGRESS").collect::<BTreeSet<_>>();
        assert_eq!(ends.len(), 1, "crash after {crash_after}: {ends:?}");
    }
}

#[test]
fn whoever_finds_the_ledger_full_is_always_told_so() {
    const MORE: u16 = 200;
    let mut world = online();
    let now = world.now.wall.unix.0 / 1000;
    for n in 0..LEDGER_FULL + MORE {
        // All of one second: none of them is older than another.
        world.claims(for_ever(&format!("c-{n}"), now, "ping", &json!({})), n + 1);
        world.settle();
    }
    world.advance(10 * SECOND);
    let told = (0..MORE).filter(|n| {
        let results = world.results(&format!("c-{}", LEDGER_FULL + n));
        results.iter().any(|result| result["reason"] == "busy")
    });
    assert_eq!(told.count(), usize::from(MORE));
    world.claims(for_ever("later", now + 1, "cancel_all", &json!({})), 1);
    world.settle();
    assert_eq!(world.statuses("later"), ["SUCCEEDED"]);
}

#[test]
fn without_a_clock_one_signers_wrong_clock_makes_a_full_ledger_expire_nothing() {
    let mut world = online();
    let now = world.now.wall.unix.0 / 1000;
    world.now.wall.trusted = false;
    let ping = |id: String, iat: i64, exp: i64| json!({"jti": id, "iat": iat, "exp": exp, "nonce": NONCE, "cmd": {"name": "ping"}});
    for n in 0..LEDGER_FULL {
        world.claims(ping(format!("c-{n}"), now - 3_000 + i64::from(n), now + 3_600), n + 1);
        world.settle();
    }
    world.advance(5 * SECOND);
    world.claims(ping("ahead".into(), now + 172_800, now + 173_400), 1);
    world.settle();
    for id in ["first", "second"] {
        world.claims(ping(id.into(), now, now + 600), 2);
        world.settle();
        assert_eq!(world.statuses(id).last().unwrap(), "SUCCEEDED", "{:?}", world.results(id));
    }
}
