//! A ladder whose steps save power: the agent itself does less, and comes back.

use std::time::Duration;

use serde_json::json;

use super::healing::{is, told};
use super::world::{World, config_with};
use crate::engine::metric::Metric;

const MINUTE: Duration = Duration::from_secs(60);

/// Rounds of collection and telemetry messages of the next ten minutes.
fn pace(world: &mut World) -> (usize, usize) {
    let count = |world: &World| {
        let messages: Vec<_> = world.got.iter().filter(|got| got.topic.ends_with("telemetry")).collect();
        (world.rounds, messages.len())
    };
    let before = count(world);
    world.advance(10 * MINUTE);
    let after = count(world);
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn where_power_is_short_the_agent_does_less_by_levels_and_comes_back() {
    const LEVELS: &str = r#"
        [[rules]]
        name = "low"
        metric = "battery.charge_pct"
        below = 20
        clear_above = 30
        remedy = "save"
        [[ladders]]
        name = "save"
        steps = [
          { do = "save_power", sample = "10s", report = "60s", publish = "2m", settle = "20m" },
          { do = "save_power", sample = "60s", report = "5m", publish = "10m", settle = "20m" },
        ]
    "#;
    let mut world = World::with(config_with(LEVELS));
    world.advance(MINUTE);
    let usual = pace(&mut world);
    assert!(usual.0 >= 599 && usual.1 >= 299, "{usual:?}");
    world.set(Metric::BatteryChargePct, Some(15.0));
    world.advance(5 * MINUTE);
    let first = pace(&mut world);
    assert!((59..=61).contains(&first.0) && (4..=6).contains(&first.1), "{first:?}");
    world.advance(10 * MINUTE);
    let second = pace(&mut world);
    assert!((9..=11).contains(&second.0) && second.1 <= 2, "{second:?}");
    // It holds over a crash, and when the ladder has run out.
    world.crash();
    world.advance(30 * MINUTE);
    assert_eq!(pace(&mut world).0, second.0);
    world.set(Metric::BatteryChargePct, Some(80.0));
    world.advance(3 * MINUTE);
    let back = pace(&mut world);
    assert!(back.0 >= 599 && back.1 >= 299, "{back:?}");
    assert_eq!(world.acted, [], "nothing was done to the gateway");
}

#[test]
fn a_second_alarm_that_saves_power_makes_the_agent_do_no_more_than_the_first() {
    const BOTH: &str = r#"
        [[rules]]
        name = "low"
        metric = "battery.charge_pct"
        below = 20
        remedy = "save"
        [[rules]]
        name = "hot"
        metric = "host.temperature_c"
        above = 85
        remedy = "cool"
        [[ladders]]
        name = "save"
        steps = [ { do = "save_power", sample = "60s", report = "2m", publish = "2m", settle = "20m" } ]
        [[ladders]]
        name = "cool"
        steps = [ { do = "save_power", sample = "10s", report = "10s", publish = "5m" } ]
    "#;
    let mut world = World::with(config_with(BOTH));
    world.set(Metric::BatteryChargePct, Some(15.0));
    world.advance(5 * MINUTE);
    let one = pace(&mut world);
    assert!((9..=11).contains(&one.0) && (4..=6).contains(&one.1), "{one:?}");
    world.set(Metric::HostTemperature, Some(90.0));
    world.advance(10 * MINUTE);
    let both = pace(&mut world);
    assert!((9..=11).contains(&both.0) && both.1 <= 3, "{both:?}");
}

#[test]
fn a_rehearsal_says_that_power_would_be_saved_and_saves_none() {
    const LOOKS: &str = r#"
        [[rules]]
        name = "low"
        metric = "battery.charge_pct"
        below = 20
        remedy = "save"
        [[ladders]]
        name = "save"
        steps = [ { do = "save_power", sample = "60s", settle = "10s" }, { do = "collect_diagnostics", settle = "10m" } ]
    "#;
    let mut config = config_with(LOOKS);
    config.remediation.dry_run = true;
    let mut world = World::with(config);
    world.set(Metric::BatteryChargePct, Some(15.0));
    world.advance(2 * MINUTE);
    let usual = pace(&mut world);
    assert!(usual.0 >= 599 && usual.1 >= 299, "{usual:?}");
    let first = world.got.iter().find(|got| got.body["type"] == "remediation").unwrap();
    let said = &first.body["remediation"];
    assert_eq!(
        (&said["action"], &said["status"], &said["reason"]),
        (&json!("save_power"), &json!("REJECTED"), &json!("dry_run"))
    );
}

#[test]
fn the_ladder_that_saves_power_need_not_be_written_down() {
    const RULE: &str =
        "[[rules]]\nname = \"low\"\nmetric = \"battery.charge_pct\"\nbelow = 20\nremedy = \"save-power\"";
    let mut world = World::with(config_with(RULE));
    world.set(Metric::BatteryChargePct, Some(15.0));
    world.advance(2 * MINUTE);
    assert!(pace(&mut world).0 <= 11);
    assert!(is(&told(&world), &[("save_power", "IN_PROGRESS"), ("save_power", "SUCCEEDED")]), "{:?}", told(&world));
}
