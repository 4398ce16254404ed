//! A clock that the kernel called synchronised, or that is always trusted, was ahead for a while: what was known by it
//! locks nobody out, and nothing runs twice because of it.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::commanding::{online, reason};
use super::world::{NONCE, START, World, config_with, restart};
use crate::config::Action;
use crate::engine::io::{Input, LogLevel, StopReason};
use crate::engine::metric::Metric;
use crate::engine::time::{Unix, Wall};

const SECOND: Duration = Duration::from_secs(1);
const YEAR_S: i64 = 365 * 86_400;

impl World {
    fn step_clock(&mut self, by_s: i64) {
        self.now.wall.unix.0 += by_s * 1_000;
        self.input(Input::Wake);
    }

    fn now_s(&self) -> i64 {
        self.now.wall.unix.0 / 1_000
    }
}

/// A restart of the app, issued then and valid for ten minutes.
fn order(id: &str, iat: i64) -> Json {
    let restart = json!({"name": "restart_unit", "args": {"unit": "app.service"}});
    json!({"jti": id, "iat": iat, "exp": iat + 600, "cmd": restart})
}

fn with_nonce(mut claims: Json) -> Json {
    claims["nonce"] = NONCE.into();
    claims
}

#[test]
fn a_synchronised_clock_that_was_ahead_for_ten_seconds_locks_nobody_out_once_it_is_right() {
    for ahead_s in [20 * 60, YEAR_S, 30 * YEAR_S] {
        let mut world = online();
        world.config.remediation.budget.remove(&Action::RestartUnit);
        world.input(Input::Reconfigure(Box::new(world.config.clone())));
        world.step_clock(ahead_s);
        world.claims(order("too-late", world.now_s() - ahead_s), 1);
        world.claims(order("ahead", world.now_s()), 2);
        world.advance(10 * SECOND);
        assert_eq!((reason(&world, "too-late"), reason(&world, "ahead")), ("expired".into(), String::new()));
        world.step_clock(-ahead_s);
        for n in 0..3 {
            let id = format!("back-{n}");
            world.claims(order(&id, world.now_s()), 3);
            // What ran does not run again, now or when its time has come.
            world.claims(order("ahead", world.now_s() + ahead_s), 4);
            world.settle();
            assert_eq!(world.statuses(&id).last().unwrap(), "SUCCEEDED", "{ahead_s} s: {:?}", world.results(&id));
            world.crash();
            world.advance(15 * SECOND);
        }
        assert_eq!(world.acted.len(), 4, "{ahead_s} s");
        let told = |(level, text): &&(LogLevel, String)| *level == LogLevel::Warn && text.contains("was ahead by");
        assert_eq!(world.log.iter().filter(told).count(), 1, "{:?}", world.log);
    }
}

#[test]
fn a_clock_that_was_ahead_when_the_agent_last_ran_locks_nobody_out_of_the_next_run() {
    let mut world = online();
    world.step_clock(YEAR_S);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.now.wall.unix.0 -= YEAR_S * 1_000;
    world.reboot();
    world.advance(2 * SECOND);
    world.claims(order("back", world.now_s()), 1);
    world.settle();
    assert_eq!(world.statuses("back").last().unwrap(), "SUCCEEDED", "{:?}", world.results("back"));
}

#[test]
fn where_no_clock_is_trusted_any_more_the_nonce_counts_more_than_a_time_that_was_set_back() {
    for crash in [false, true] {
        let mut world = online();
        world.step_clock(YEAR_S);
        world.now.wall.trusted = false;
        world.step_clock(-YEAR_S);
        if crash {
            world.crash();
            world.advance(2 * SECOND);
        }
        let now = world.now_s();
        world.claims(order("bare", now), 1);
        world.claims(with_nonce(order("fresh", now)), 2);
        world.settle();
        assert_eq!(world.statuses("fresh").last().unwrap(), "SUCCEEDED", "{:?}", world.results("fresh"));
        assert_eq!(reason(&world, "bare"), "expired");
        let detail = world.results("bare").last().unwrap()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("last time that was known here") && detail.contains("nonce"), "{detail}");
        // By a clock that has only gone on since it is as before.
        world.now.wall = Wall { unix: Unix(START.0 + (YEAR_S + 3_600) * 1_000), trusted: false };
        world.claims(with_nonce(order("late", now + 1)), 3);
        world.settle();
        assert_eq!(reason(&world, "late"), "expired");
    }
}

#[test]
fn what_a_full_ledger_forgot_by_a_clock_that_was_ahead_is_not_run_again_and_others_are_obeyed() {
    const LEDGER_FULL: u16 = 2_048;
    let mut world = online();
    let now = world.now_s();
    let done = order("done", now);
    world.claims(done.clone(), 1);
    for n in 1..LEDGER_FULL {
        world.claims(json!({"jti": format!("c-{n}"), "iat": now, "cmd": {"name": "ping"}}), n + 1);
        world.settle();
    }
    world.advance(5 * SECOND);
    world.step_clock(YEAR_S);
    let remembered = world.store.state.keys().filter(|key| key.starts_with("cmd/")).count();
    world.claims(order("ahead", world.now_s()), 1);
    world.settle();
    assert_eq!(remembered, usize::from(LEDGER_FULL));
    assert_eq!(world.store.state.keys().filter(|key| key.starts_with("cmd/")).count(), 1, "all the others had expired");
    world.step_clock(-YEAR_S);
    for n in 0..2 {
        world.claims(done.clone(), 2);
        let id = format!("new-{n}");
        world.claims(json!({"jti": id, "cmd": {"name": "ping"}}), 3);
        world.settle();
        assert_eq!((reason(&world, "done"), world.statuses(&id)), ("replayed".into(), vec!["SUCCEEDED".to_owned()]));
        world.crash();
        world.advance(5 * SECOND);
    }
    assert_eq!(world.acted, [restart("app.service"), restart("app.service")], "done and ahead, each once");
}

#[test]
fn a_journal_that_was_lost_while_the_clock_was_ahead_has_nothing_refused_that_was_issued_since() {
    let mut world = online();
    let lost = order("lost", world.now_s());
    world.claims(lost.clone(), 1);
    world.advance(5 * SECOND);
    world.step_clock(YEAR_S);
    world.store.state.clear();
    world.crash();
    world.advance(5 * SECOND);
    world.claims(order("ahead", world.now_s() - 10), 2);
    world.settle();
    assert_eq!(reason(&world, "ahead"), "replayed");
    world.step_clock(-YEAR_S);
    for n in 0..2 {
        let id = format!("ping-{n}");
        world.claims(json!({"jti": id, "cmd": {"name": "ping"}}), 3);
        world.claims(lost.clone(), 4);
        world.settle();
        assert_eq!((reason(&world, &id), reason(&world, "lost")), (String::new(), "replayed".into()));
        world.crash();
        world.advance(5 * SECOND);
    }
    assert_eq!(world.acted.len(), 1);
}

/// What the gateway does, and what the fleet hears of it.
fn a_day_with(jumps: bool) -> (Vec<String>, usize) {
    let ladder = r#"
        [[rules]]
        name = "hot"
        metric = "host.temperature_c"
        above = 70
        for = "30s"
        remedy = "cool"
        [[ladders]]
        name = "cool"
        steps = [{ do = "restart_unit", unit = "app.service", settle = "1m" }]
        [remediation.budget]
        restart_unit = "2/1h"
    "#;
    let mut world = World::with(config_with(ladder));
    world.advance(SECOND);
    let valid = |id: &str, name: &str, args: Json| {
        let (iat, exp) = (START.0 / 1_000 - 60, START.0 / 1_000 + 2 * YEAR_S);
        json!({"jti": id, "iat": iat, "exp": exp, "cmd": {"name": name, "args": args}})
    };
    world.claims(valid("rates", "set_intervals", json!({"sample": "5s", "report": "10s", "for": "3m"})), 1);
    world.claims(valid("observe", "quarantine", json!({"level": "observe"})), 2);
    world.claims(valid("reboot", "reboot", json!({"delay_s": 3_000})), 3);
    for minute in 0..120 {
        if jumps && minute % 50 == 1 {
            world.step_clock(YEAR_S);
        }
        world.set(Metric::HostTemperature, Some(if minute % 10 < 5 { 90.0 } else { 40.0 }));
        world.advance(Duration::from_secs(60));
        if minute == 60 {
            world.claims(valid("restart", "restart_unit", json!({"unit": "other.service"})), 4);
            world.settle();
        }
        if jumps && minute % 50 == 1 {
            world.step_clock(-YEAR_S);
        }
    }
    let told = world.got.iter().filter(|got| !got.topic.ends_with("/telemetry"));
    let words =
        told.map(|got| ["name", "command_id", "status", "reason"].map(|key| got.body[key].to_string()).join(" "));
    (words.chain([format!("{:?}", world.acted)]).collect(), world.rounds)
}

#[test]
fn a_clock_that_was_a_year_ahead_for_a_minute_changes_nothing_but_dates() {
    assert_eq!(a_day_with(true), a_day_with(false));
}
