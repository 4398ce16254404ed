//! A trial's time is what somebody watched: neither a suspend nor a time without an agent is any, and what never lets
//! the agent watch for long enough is left all the same.

use std::time::Duration;

use serde_json::json;

use super::super::world::{World, config_with};
use super::{CONFIG, MINUTE, SECOND, leave, mark, runs, told, world, world_of};
use crate::engine::io::{Input, StopReason};
use crate::engine::metric::Metric;

/// Time passes, and nobody is there.
fn passes(world: &mut World, by: Duration) {
    world.now.mono = world.now.mono.after(by);
    world.now.wall.unix.0 += i64::try_from(by.as_millis()).unwrap();
}

fn suspended(world: &mut World, by: Duration) {
    passes(world, by);
    world.input(Input::Wake);
}

fn killed(world: &mut World, by: Duration) {
    passes(world, by);
    world.crash();
}

fn stopped(world: &mut World, by: Duration) {
    world.input(Input::Stop { reason: StopReason::Stopped });
    assert!(world.exited);
    killed(world, by);
}

type Away = fn(&mut World, Duration);

const AWAY: [(&str, Away); 3] = [("suspended", suspended), ("killed", killed), ("stopped", stopped)];

#[test]
fn a_healthy_release_is_not_left_because_its_trial_went_by_without_anybody_watching() {
    for (how, away) in AWAY {
        let mut world = world();
        runs(&mut world, "2.0");
        world.advance(50 * SECOND);
        away(&mut world, 60 * MINUTE);
        world.advance(60 * SECOND);
        assert_eq!(world.acted, [], "{how}");
        world.advance(2 * MINUTE);
        assert_eq!(world.acted, [mark()], "{how}");
    }
}

#[test]
fn a_suspend_is_no_time_of_health() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.advance(80 * SECOND);
    suspended(&mut world, 60 * MINUTE);
    world.advance(30 * SECOND);
    assert_eq!(world.acted, []);
    world.advance(20 * SECOND);
    assert_eq!(world.acted, [mark()]);
}

#[test]
fn a_bad_release_is_left_once_it_was_watched_for_its_trial_in_all() {
    for (how, away) in AWAY {
        let mut world = world();
        runs(&mut world, "2.0");
        world.set(Metric::HostMemUsed, Some(95.0));
        for _ in 0..3 {
            world.advance(3 * MINUTE);
            away(&mut world, 30 * MINUTE);
        }
        assert_eq!(world.acted, [], "{how}");
        world.advance(2 * MINUTE + 10 * SECOND);
        assert_eq!(world.acted, [leave()], "{how}");
    }
}

#[test]
fn a_release_has_time_to_prove_good_after_each_start() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(9 * MINUTE + 50 * SECOND);
    world.set(Metric::HostMemUsed, Some(50.0));
    stopped(&mut world, SECOND);
    world.advance(3 * MINUTE);
    assert_eq!(world.acted, [mark()]);
}

#[test]
fn a_release_in_which_the_agent_never_lives_to_judge_it_is_left_after_its_fifth_crash() {
    let mut world = world();
    runs(&mut world, "2.0");
    for crash in 0..5 {
        world.advance(20 * SECOND);
        assert_eq!(world.acted, [], "after {crash}");
        world.crash();
    }
    world.advance(5 * SECOND);
    assert_eq!(world.acted, [leave()]);
    assert_eq!(told(&world), ["release_on_trial 2.0", "release_bad 2.0"]);
}

#[test]
fn neither_who_restarts_the_agent_nor_a_power_cut_speaks_against_a_release() {
    let power_cut: Away = |world, by| {
        world.now.wall.unix.0 += i64::try_from(by.as_millis()).unwrap();
        world.reboot();
    };
    for (how, away) in [("stopped", stopped as Away), ("power cut", power_cut)] {
        let mut world = world();
        runs(&mut world, "2.0");
        for _ in 0..20 {
            world.advance(20 * SECOND);
            away(&mut world, 15 * MINUTE);
        }
        assert_eq!(world.acted, [], "{how}");
        world.advance(130 * SECOND);
        assert_eq!(world.acted, [mark()], "{how}");
    }
}

#[test]
fn a_release_under_which_the_machine_hangs_again_and_again_is_left() {
    let mut world = world_of(&CONFIG.replace("2m", "20m").replace("10m", "1h"));
    runs(&mut world, "2.0");
    world.end_signs.watchdog = true;
    for hang in 0..5 {
        world.advance(15 * MINUTE);
        assert_eq!(world.acted, [], "after {hang}");
        world.reboot();
    }
    world.advance(15 * MINUTE);
    assert_eq!(world.acted, [leave()]);
}

#[test]
fn a_release_under_which_the_machine_does_not_stay_up_for_much_longer_than_it_has_to_is_left() {
    let mut world = world_of(&CONFIG.replace("2m", "20m").replace("10m", "1h"));
    runs(&mut world, "2.0");
    world.end_signs.watchdog = true;
    for hang in 0..5 {
        world.advance(11 * MINUTE);
        assert_eq!(world.acted, [], "after {hang}");
        world.reboot();
    }
    world.advance(9 * MINUTE);
    assert_eq!(world.acted, [], "min_uptime holds");
    world.advance(2 * MINUTE);
    assert_eq!(world.acted, [leave()]);
}

#[test]
fn a_release_that_makes_a_boot_loop_is_left_while_no_ladder_does_anything() {
    let more = r#"
        [[rules]]
        name = "slow"
        metric = "host.load1"
        above = 4
        remedy = "heal"
        [[ladders]]
        name = "heal"
        steps = [{ do = "restart_unit", unit = "app.service", settle = "30s" }]
    "#;
    let mut config = config_with(&format!("{}{more}", CONFIG.replace("2m", "20m").replace("10m", "1h")));
    config.remediation.min_uptime = 2 * MINUTE;
    let mut world = World::with(config);
    world.set(Metric::BatteryExternalPower, Some(true));
    runs(&mut world, "1.0");
    world.advance(30 * MINUTE);
    runs(&mut world, "2.0");
    world.end_signs.watchdog = true;
    for _ in 0..5 {
        world.advance(MINUTE);
        world.reboot();
    }
    world.set(Metric::HostLoad1, Some(9.0));
    world.advance(3 * MINUTE);
    assert!(world.got.iter().any(|got| got.body["name"] == "boot_loop"));
    assert_eq!(world.acted, [leave()]);
}

#[test]
fn that_a_run_crashed_in_a_trial_is_written_with_the_mark_of_the_next_run() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.advance(20 * SECOND);
    let marks = |world: &World| world.store.written.get("run").copied();
    for _ in 0..4 {
        world.start_unwritten();
        let before = marks(&world);
        // Nothing else gets to the disk before the next crash.
        while marks(&world) == before {
            assert!(world.step_effect(), "the mark is not written");
        }
    }
    world.crash();
    world.advance(5 * SECOND);
    assert_eq!(world.acted, [leave()]);
}

#[test]
fn crashes_in_a_quarantine_are_not_the_releases() {
    let mut world = world();
    runs(&mut world, "2.0");
    world.advance(10 * SECOND);
    world.command("q", "quarantine", json!({"level": "restrict"}), 7);
    world.settle();
    for _ in 0..10 {
        world.advance(20 * SECOND);
        world.crash();
    }
    world.advance(20 * SECOND);
    world.acted.clear();
    world.command("r", "release", json!({}), 8);
    world.settle();
    world.advance(3 * MINUTE);
    assert!(world.acted.ends_with(&[mark()]) && !world.acted.contains(&leave()), "{:?}", world.acted);
}
