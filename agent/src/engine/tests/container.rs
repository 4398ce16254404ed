//! A gateway in a container: it has a boot id of its own, and its host's clock since boot, which goes on over a reboot.

use std::time::Duration;

use serde_json::json;

use super::healing::{LADDER, memory, told};
use super::world::{World, config_with, restart};
use crate::config::{Action, Budget};
use crate::engine::time::Unix;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Whose host has been up for twelve hours.
fn world(trusted: bool) -> World {
    let mut config = config_with(LADDER);
    config.remediation.budget.insert(Action::RestartUnit, Budget { count: 1, window: HOUR });
    let mut world = World::with(config);
    world.now.wall.trusted = trusted;
    go_on(&mut world, 12 * HOUR);
    world
}

/// It is down for so long.
fn go_on(world: &mut World, down: Duration) {
    world.now.wall.unix = Unix(world.now.wall.unix.0 + i64::try_from(down.as_millis()).unwrap());
    world.reboot_at(world.now.mono.after(down));
    world.advance(5 * SECOND);
}

fn restart_app(world: &mut World, id: &str) -> String {
    let nonce = world.got.iter().rev().find_map(|got| got.body["nonce"].as_str()).unwrap().to_owned();
    let cmd = json!({"name": "restart_unit", "args": {"unit": "app.service"}});
    let exp = world.now.wall.unix.0 / 1_000 + 600;
    let claims = json!({"jti": id, "iat": exp - 600, "exp": exp, "nonce": nonce, "cmd": cmd});
    world.claims(claims, 1);
    world.settle();
    world.advance(SECOND);
    world.results(id).last().unwrap().get("reason").map_or("", |word| word.as_str().unwrap()).to_owned()
}

#[test]
fn a_reboot_of_a_container_refills_no_budget() {
    for trusted in [true, false] {
        let mut world = world(trusted);
        assert_eq!(restart_app(&mut world, "a"), "", "trusted: {trusted}");
        go_on(&mut world, 4 * SECOND);
        assert_eq!(restart_app(&mut world, "b"), "budget_spent", "trusted: {trusted}");
        // It is the same boot, however often the agent starts in it.
        world.advance(HOUR / 2);
        world.crash();
        world.advance(HOUR / 2);
        assert_eq!(restart_app(&mut world, "c"), "", "trusted: {trusted}");
    }
}

#[test]
fn what_no_clock_dated_is_not_as_old_as_the_boot_of_the_containers_host() {
    let mut world = world(false);
    assert_eq!(restart_app(&mut world, "a"), "");
    go_on(&mut world, 4 * SECOND);
    world.now.wall.trusted = true;
    world.advance(MINUTE);
    assert_eq!(restart_app(&mut world, "b"), "budget_spent");
}

#[test]
fn boots_of_a_container_are_a_loop_too_and_min_uptime_begins_with_each() {
    for (boots, done) in [(1, true), (4, false)] {
        let mut world = world(true);
        for _ in 1..boots {
            go_on(&mut world, 4 * SECOND);
        }
        memory(&mut world, 95.0);
        world.advance(5 * MINUTE);
        let told = told(&world);
        assert_eq!(world.acted == [restart("app.service")], done, "{boots} boots: {told:?}");
        assert_eq!(told.contains(&("reboot".into(), "REJECTED".into())), done, "{boots} boots: {told:?}");
    }
}
