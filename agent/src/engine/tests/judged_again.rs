//! What waits, in the queue or for its delay, is judged once more before it begins: by the keys, the groups, the
//! configuration, the battery and the quarantine of that moment.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::commanding::reason;
use super::healing::{ladder, memory, up_for_long};
use super::world::{World, config, config_with, outcome};
use crate::config::{Action, Budget, CheckedConfig, TrustedKey};
use crate::engine::io::{Act, ActStatus, Input};
use crate::engine::metric::Metric;
use crate::wire::keys::SigningKey;
use crate::wire::token;

const SECOND: Duration = Duration::from_secs(1);

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32]).unwrap()
}

/// A configuration in which `ops-1` is this key.
fn trusting(seed: u8) -> CheckedConfig {
    let mut config = config();
    config.commands.trusted_keys = vec![TrustedKey { kid: "ops-1".into(), public_key: key(seed).public() }];
    config
}

/// As `ops-1` signs it, with this key.
fn signed(seed: u8) -> impl FnOnce(&Json) -> String {
    move |claims| token::sign(&serde_json::from_value(claims.clone()).unwrap(), "ops-1", &key(seed)).unwrap()
}

type Reload = fn(&mut CheckedConfig);

fn reload(world: &mut World, change: impl FnOnce(&mut CheckedConfig)) {
    let mut config = world.config.clone();
    change(&mut config);
    world.input(Input::Reconfigure(Box::new(config)));
}

#[test]
fn what_waits_and_nobody_vouches_for_any_more_is_refused_in_the_word_of_one_that_comes_then() {
    let cases: [(&str, bool, Reload, &str); 4] = [
        ("gw-1", true, |config| config.commands.trusted_keys.clear(), "unknown_key"),
        ("gw-1", true, |config| *config = trusting(2), "bad_signature"),
        ("gw-1", false, |config| config.commands.require_signature = true, "malformed"),
        ("group:canary", true, |config| config.device.groups.clear(), "wrong_audience"),
    ];
    for (aud, is_signed, change, expected) in cases {
        let mut world = World::with(trusting(1));
        world.advance(SECOND);
        world.acts_succeed = false;
        let run = json!({"name": "run", "args": {"runbook": "fix"}});
        for (id, cmd) in [("runs", run.clone()), ("waits", run)] {
            let claims = json!({"jti": id, "aud": aud, "cmd": cmd});
            if is_signed {
                world.written(claims, signed(1), 1);
            } else {
                world.claims(claims, 1);
            }
            world.settle();
        }
        assert_eq!(world.statuses("waits"), ["QUEUED"]);
        reload(&mut world, change);
        let (id, _) = world.acts[0].clone();
        world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
        assert_eq!(world.statuses("runs").last().unwrap(), "SUCCEEDED", "what had begun goes on");
        assert_eq!((world.statuses("waits"), reason(&world, "waits")), (both("QUEUED", "REJECTED"), expected.into()));
        assert_eq!(world.acted.len(), 1, "{expected}");
        assert_eq!(world.tokens, [is_signed], "who verifies it again is given what was signed, and nothing else");
    }
}

/// Brings something about that forbids a reboot, or takes it back.
type Change = fn(&mut World, bool);

fn charge(world: &mut World, is_low: bool) {
    world.set(Metric::BatteryChargePct, Some(if is_low { 5.0 } else { 80.0 }));
}

fn isolation(world: &mut World, is_on: bool) {
    let (id, name, args) =
        if is_on { ("q-1", "quarantine", json!({"level": "isolate"})) } else { ("r-1", "release", json!({})) };
    world.command(id, name, args, 2);
    world.settle();
}

#[test]
fn a_reboot_is_judged_again_when_its_delay_is_over_and_has_spent_nothing_where_it_is_refused() {
    let cases: [(Change, &str); 6] = [
        (
            |world, is_on| {
                reload(world, |config| config.remediation.allow.retain(|action| !is_on || *action != Action::Reboot));
            },
            "not_allowed",
        ),
        (|world, is_on| reload(world, |config| config.remediation.dry_run = is_on), "dry_run"),
        (|world, is_on| reload(world, |config| config.commands.require_signature = is_on), "malformed"),
        (charge, "low_battery"),
        (isolation, "quarantined"),
        (|world, is_on| world.blocked = is_on.then(|| "an update".into()), "inhibited"),
    ];
    for (change, expected) in cases {
        let mut config = config();
        let budget = Budget { count: 1, window: Duration::from_secs(24 * 3_600) };
        config.remediation.budget.insert(Action::Reboot, budget);
        let mut world = World::with(config);
        world.advance(SECOND);
        world.command("b-1", "reboot", json!({"delay_s": 60}), 1);
        world.settle();
        change(&mut world, true);
        world.advance(61 * SECOND);
        assert!(!world.acted.contains(&Act::Reboot), "{expected}");
        assert_eq!((world.statuses("b-1"), reason(&world, "b-1")), (both("IN_PROGRESS", "REJECTED"), expected.into()));
        change(&mut world, false);
        world.command("c-1", "cancel", json!({"command_id": "b-1"}), 4);
        world.settle();
        assert_eq!(reason(&world, "c-1"), "not_found", "{expected}");
        world.advance(11 * SECOND);
        world.command("b-3", "reboot", json!({"delay_s": 10}), 3);
        world.advance(30 * SECOND);
        assert_eq!(world.acted.last(), Some(&Act::Reboot), "{expected}: {:?}", world.results("b-3"));
    }
}

#[test]
fn what_waits_for_a_reboot_has_its_turn_as_soon_as_that_is_refused() {
    let mut world = World::with(config_with("[rollback.firmware]\nkind = \"rauc\""));
    world.advance(SECOND);
    world.command("b-1", "reboot", json!({"delay_s": 60}), 1);
    world.command("r-1", "rollback", json!({"target": "firmware"}), 2);
    world.settle();
    assert_eq!((world.statuses("b-1"), world.statuses("r-1")), (vec!["IN_PROGRESS".into()], vec!["QUEUED".into()]));
    reload(&mut world, |config| config.remediation.allow.retain(|action| *action != Action::Reboot));
    world.advance(61 * SECOND);
    assert_eq!(reason(&world, "b-1"), "not_allowed");
    assert_eq!(world.acted, [Act::Rollback { target: "firmware".into(), to: None }]);

    let mut world = up_for_long(config_with(&ladder("", "{ do = \"reboot\" }")));
    world.command("b-1", "reboot", json!({"delay_s": 60}), 1);
    world.advance(40 * SECOND);
    memory(&mut world, 95.0);
    reload(&mut world, |config| config.commands.require_signature = true);
    world.advance(15 * SECOND);
    assert_eq!((world.statuses("b-1"), world.acted.len()), (vec!["IN_PROGRESS".into()], 0));
    world.advance(10 * SECOND);
    assert_eq!((reason(&world, "b-1"), &*world.acted), ("malformed".to_owned(), &[Act::Reboot][..]));
}

#[test]
fn what_is_refused_when_its_turn_comes_is_audited_as_what_is_refused_at_once() {
    let mut config = config();
    let budget = Budget { count: 2, window: Duration::from_secs(3_600) };
    config.remediation.budget.insert(Action::Run, budget);
    let mut world = World::with(config);
    world.advance(SECOND);
    for (id, pkid) in [("r-1", 1), ("r-2", 2), ("r-3", 3)] {
        world.command(id, "run", json!({"runbook": "fix"}), pkid);
    }
    world.settle();
    world.command("r-4", "run", json!({"runbook": "fix"}), 4);
    world.advance(5 * SECOND);
    let refused = |id: &str| -> Vec<Json> {
        let audits = world.got.iter().filter(|got| got.body["name"] == "command_refused");
        audits.map(|got| got.body["audit"].clone()).filter(|audit| audit["command_id"] == id).collect()
    };
    assert_eq!((world.statuses("r-3"), world.acted.len()), (both("QUEUED", "REJECTED"), 2));
    for id in ["r-3", "r-4"] {
        let audits = refused(id);
        assert_eq!(audits.len(), 1, "{id}: {audits:?}");
        assert_eq!((&audits[0]["reason"], &audits[0]["command"]), (&json!("budget_spent"), &json!("run")));
    }
}

fn both(first: &str, last: &str) -> Vec<String> {
    vec![first.into(), last.into()]
}
