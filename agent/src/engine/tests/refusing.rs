//! What keeps the gateway from what would heal it: who inhibits that, the battery, the uptime, boot after boot, the
//! budget, a dry run; and what is spent where it was refused.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::healing::{LADDER, is, ladder, memory, told, up_for_long, world};
use super::world::{World, config_with, outcome, puts, restart};
use crate::config::{Action, Budget};
use crate::engine::io::{Act, ActOutcome, ActStatus, Ending, Input, StoreFault, StoreOp};
use crate::engine::metric::Metric;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn while_somebody_inhibits_it_nothing_is_done_by_itself_and_then_it_is() {
    let mut world = world();
    world.inhibited = Some("the fitter is at the pump".into());
    memory(&mut world, 95.0);
    world.advance(HOUR);
    assert_eq!(world.acted, []);
    let refusal = world.got.iter().find(|got| got.body["remediation"]["reason"] == "inhibited").unwrap();
    assert!(refusal.body.to_string().contains("the fitter is at the pump"), "{refusal:?}");
    world.inhibited = None;
    world.advance(2 * SECOND);
    assert_eq!(world.acted.first(), Some(&restart("app.service")), "once the fitter is gone nothing is waited for");
}

#[test]
fn a_command_is_done_whatever_inhibits_the_agents_own_remedies() {
    let mut world = world();
    world.inhibited = Some("the fitter is at the pump".into());
    world.advance(MINUTE);
    world.command("r", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    assert_eq!(world.acted, [restart("app.service")]);
}

#[test]
fn while_somebody_keeps_the_machine_up_no_ladder_reboots_it_nor_goes_past_that_and_a_command_is_refused() {
    let steps = "{ do = \"reboot\", settle = \"60s\" }, { do = \"quarantine\", level = \"restrict\" }";
    let mut world = World::with(config_with(&ladder("", steps)));
    world.set(Metric::BatteryExternalPower, Some(true));
    world.blocked = Some("updater inhibits it: writing the other slot".into());
    world.advance(11 * MINUTE);
    memory(&mut world, 95.0);
    world.advance(2 * HOUR);
    assert!(is(&told(&world), &[("reboot", "REJECTED")]), "{:?}", told(&world));
    world.command("b-1", "reboot", json!({}), 1);
    world.advance(3 * SECOND);
    assert_eq!(world.acted, []);
    let refused = world.results("b-1").pop().unwrap();
    assert_eq!((&refused["status"], &refused["reason"]), (&json!("REJECTED"), &json!("inhibited")));
    assert!(refused["detail"].as_str().unwrap().contains("writing the other slot"), "{refused}");
    world.blocked = None;
    world.advance(10 * SECOND);
    assert_eq!(world.acted.first(), Some(&Act::Reboot));
}

#[test]
fn a_command_is_not_refused_for_who_kept_the_machine_up_until_it_came() {
    for (command, args, act) in [
        ("reboot", json!({}), Act::Reboot),
        ("rollback", json!({"target": "firmware"}), Act::Rollback { target: "firmware".into(), to: None }),
    ] {
        let mut world = World::with(config_with("[rollback.firmware]\nkind = \"rauc\""));
        world.blocked = Some("updater inhibits it".into());
        world.advance(11 * SECOND);
        world.command("b-1", command, args.clone(), 1);
        world.advance(3 * SECOND);
        let refused = world.results("b-1").pop().unwrap();
        assert_eq!((&refused["status"], &refused["reason"]), (&json!("REJECTED"), &json!("inhibited")), "{command}");
        world.blocked = None;
        // No round of collection has ended since.
        world.command("b-2", command, args, 2);
        world.advance(3 * SECOND);
        assert_eq!(world.acted, [act], "{command}: {:?}", world.results("b-2"));
    }
}

#[test]
fn a_reboot_that_somebody_blocked_at_the_last_moment_is_waited_for_and_not_gone_past() {
    let mut world = world();
    world.acts_succeed = false;
    memory(&mut world, 95.0);
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    world.advance(MINUTE);
    let (id, act) = world.acts.pop().unwrap();
    assert_eq!(act, Act::Reboot);
    world.blocked = Some("updater inhibits it".into());
    let blocked = ActOutcome { reason: Some("inhibited".into()), ..outcome(ActStatus::Failed) };
    world.input(Input::ActDone { id, outcome: blocked });
    world.advance(HOUR);
    assert!(world.acts.is_empty(), "{:?}", world.acts);
    let told = told(&world);
    assert_eq!(told.last(), Some(&("reboot".into(), "REJECTED".into())), "{told:?}");
    world.blocked = None;
    world.advance(HOUR);
    assert_eq!(world.acts.last().map(|(_, act)| act), Some(&Act::Reboot), "{told:?}");
}

#[test]
fn a_policy_of_roots_that_can_not_be_used_for_a_while_costs_a_ladder_no_step() {
    for word in [Ending::PolicyUntrusted, Ending::PolicyWrong, Ending::PeerRefused] {
        let mut world = world();
        world.acts_succeed = false;
        memory(&mut world, 95.0);
        for times in 1..=3_usize {
            assert_eq!(world.acted, vec![restart("app.service"); times], "{word}");
            let (id, _) = world.acts.pop().unwrap();
            world.input(Input::ActDone { id, outcome: ActOutcome::rejected(word, "policy: it is being written") });
            world.advance(MINUTE * (1 << (times - 1)) + 10 * SECOND);
        }
        let (id, _) = world.acts.pop().unwrap();
        world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
        memory(&mut world, 50.0);
        let steps = ["IN_PROGRESS", "REJECTED", "SUCCEEDED"].map(|status| ("restart_unit", status));
        let told = told(&world);
        assert!(is(&told, &[&steps[..], &[("healed", "HEALED")]].concat()), "{word}: {told:?}");
        let refused = world.got.iter().find(|got| got.body["remediation"]["status"] == "REJECTED").unwrap();
        let remediation = &refused.body["remediation"];
        let (reason, detail) = (&remediation["reason"], &remediation["detail"]);
        assert_eq!((reason, detail), (&json!("busy"), &json!("policy: it is being written")), "{}", refused.body);
    }
}

#[test]
fn what_roots_helper_refuses_is_no_step_that_did_not_help() {
    let mut world = world();
    world.acts_succeed = false;
    memory(&mut world, 95.0);
    for times in 1..=3_usize {
        assert_eq!(world.acted, vec![restart("app.service"); times]);
        let (id, _) = world.acts.pop().unwrap();
        let refused = ActOutcome { reason: Some("budget_spent".into()), ..outcome(ActStatus::Failed) };
        world.input(Input::ActDone { id, outcome: refused });
        // Asked again after one minute, after two, and so on.
        world.advance(MINUTE * (1 << (times - 1)));
        world.advance(10 * SECOND);
    }
    assert_eq!(world.acted, vec![restart("app.service"); 4]);
    assert_eq!(told(&world)[1], ("restart_unit".into(), "REJECTED".into()));
}

#[test]
fn no_reboot_before_min_uptime_nor_on_an_empty_battery() {
    let mut world = World::with(config_with(LADDER));
    world.set(Metric::BatteryChargePct, Some(12.0));
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance(9 * MINUTE);
    assert_eq!(world.acted, [restart("app.service")], "up for less than ten minutes");
    world.advance(2 * HOUR);
    assert_eq!(world.acted.len(), 1, "12 % without external power");
    let low = "12 %, remediation.min_battery_pct is 15 %";
    for (id, external, detail) in
        [("a", None, format!("{low}; external power unknown")), ("b", Some(false), low.into())]
    {
        world.set(Metric::BatteryExternalPower, external);
        world.advance(10 * SECOND);
        world.command(id, "reboot", json!({}), 1);
        world.settle();
        assert_eq!(world.results(id).last().unwrap()["detail"], detail);
    }
    world.set(Metric::BatteryChargePct, Some(60.0));
    world.advance(HOUR);
    assert_eq!(world.acted.last(), Some(&Act::Reboot));
    let rejected = told(&world).into_iter().filter(|(_, status)| status == "REJECTED").count();
    assert_eq!(rejected, 2, "each reason is told once");
}

#[test]
fn a_refusal_is_told_once_however_often_the_agent_starts() {
    // By the agent's own budget, by its uptime, and by root's helper.
    for reason in ["budget_spent", "min_uptime", "inhibited"] {
        let mut config = config_with(&format!("{LADDER}{ONCE}"));
        if reason == "min_uptime" {
            config.remediation.min_uptime = 12 * HOUR;
        }
        let mut world = up_for_long(config);
        if reason == "budget_spent" {
            world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
            world.settle();
        }
        world.acts_succeed = reason != "inhibited";
        memory(&mut world, 95.0);
        world.advance(MINUTE);
        for _ in 0..4 {
            if let Some((id, _)) = world.acts.pop() {
                world.input(Input::ActDone { id, outcome: refused(reason) });
            }
            world.advance(5 * SECOND);
            world.crash();
            world.advance(5 * SECOND);
        }
        let events: Vec<_> = world.got.iter().map(|got| &got.body).collect();
        let rejected = events.iter().filter(|body| body["remediation"]["reason"] == reason);
        let ids: BTreeSet<_> = rejected.map(|body| body["seq"].as_u64()).collect();
        assert_eq!(ids.len(), 1, "{reason}: {:?}", told(&world));
        let audits: BTreeSet<_> =
            events.iter().filter(|body| body["name"] == reason).map(|body| body["seq"].as_u64()).collect();
        assert_eq!(audits.len(), usize::from(reason == "budget_spent"), "{reason}");
    }
}

#[test]
fn four_boots_within_half_an_hour_and_nothing_is_done() {
    let mut world = world();
    for _ in 0..3 {
        world.reboot();
        world.advance(MINUTE);
    }
    memory(&mut world, 95.0);
    world.advance(10 * MINUTE);
    assert!(world.acted.is_empty(), "{:?}", world.acted);
    world.advance(HOUR);
    assert_eq!(world.acted.first(), Some(&restart("app.service")));
}

#[test]
fn a_ladder_and_a_command_share_the_budget() {
    let mut world = world();
    for n in 0..5_u16 {
        world.command(&format!("r-{n}"), "restart_unit", json!({"unit": "app.service"}), n + 1);
        world.settle();
    }
    memory(&mut world, 95.0);
    assert_eq!(world.acted.len(), 5);
    let audits = world.got.iter().filter(|got| got.body["name"] == "budget_spent").count();
    assert_eq!(audits, 1);
}

#[test]
fn a_budget_that_has_room_again_is_not_left_waiting() {
    let mut world = world();
    for n in 0..5_u16 {
        world.command(&format!("r-{n}"), "restart_unit", json!({"unit": "app.service"}), n + 1);
        world.settle();
    }
    memory(&mut world, 95.0);
    world.advance(HOUR - 10 * SECOND);
    assert_eq!(world.acted.len(), 5);
    world.advance(10 * SECOND);
    assert_eq!(world.acted.len(), 6);
}

#[test]
fn what_a_reload_gives_way_to_is_not_left_waiting() {
    for reason in ["budget_spent", "min_uptime", "low_battery"] {
        let mut config = config_with(LADDER);
        config.remediation.budget.insert(Action::Reboot, Budget { count: 1, window: 24 * HOUR });
        config.remediation.min_uptime = if reason == "min_uptime" { 24 * HOUR } else { Duration::ZERO };
        let mut world = up_for_long(config);
        if reason == "budget_spent" {
            world.command("r-1", "reboot", json!({}), 1);
            world.settle();
            world.reboot();
        }
        if reason == "low_battery" {
            world.set(Metric::BatteryExternalPower, Some(false));
            world.set(Metric::BatteryChargePct, Some(10.0));
        }
        memory(&mut world, 95.0);
        world.advance(3 * HOUR);
        let refused = world.got.iter().any(|got| got.body["remediation"]["reason"] == reason);
        assert!(refused && world.acted.last() == Some(&restart("app.service")), "{reason}: {:?}", world.acted);
        let mut wanted = world.config.clone();
        match reason {
            "budget_spent" => wanted.remediation.budget.get_mut(&Action::Reboot).unwrap().count = 5,
            "min_uptime" => wanted.remediation.min_uptime = Duration::ZERO,
            _ => wanted.remediation.min_battery_pct = 5.0,
        }
        world.input(Input::Reconfigure(Box::new(wanted)));
        world.advance(SECOND);
        assert_eq!(world.acted.last(), Some(&Act::Reboot), "{reason}");
    }
}

#[test]
fn a_dry_run_tells_what_it_would_have_done_and_does_nothing() {
    let mut config = config_with(LADDER);
    config.remediation.dry_run = true;
    let mut world = World::with(config);
    world.advance(11 * MINUTE);
    memory(&mut world, 95.0);
    world.advance(HOUR);
    assert!(world.acted.is_empty());
    // Each step in its turn, and that nothing comes after them: the rehearsal of a whole ladder, which wakes nobody.
    let rehearsed = [("restart_unit", "REJECTED"), ("reboot", "REJECTED"), ("ladder_exhausted", "EXHAUSTED")];
    assert!(is(&told(&world), &rehearsed), "{:?}", told(&world));
    let events: Vec<_> = world.got.iter().filter(|got| got.body["type"] == "remediation").collect();
    assert!(events.iter().all(|got| got.body["remediation"]["reason"] == "dry_run"));
    assert_eq!(events.last().unwrap().body["severity"], "notice");
    // Nothing of that has helped.
    memory(&mut world, 50.0);
    world.advance(MINUTE);
    assert_eq!(told(&world).len(), 3, "{:?}", told(&world));
}

/// Each action once.
const ONCE: &str = r#"
    [remediation.budget]
    restart_unit = "1/1h"
    reboot = "1/24h"
"#;

fn refused(reason: &str) -> ActOutcome {
    ActOutcome { reason: Some(reason.into()), ..outcome(ActStatus::Rejected) }
}

#[test]
fn a_step_that_was_inhibited_as_it_began_spends_nothing() {
    let mut world = up_for_long(config_with(&format!("{LADDER}{ONCE}")));
    world.acts_succeed = false;
    memory(&mut world, 95.0);
    for tries in 1..=3 {
        let (id, act) = world.acts.pop().expect("it is tried again within the hour");
        assert_eq!((act, world.acted.len()), (restart("app.service"), tries));
        world.input(Input::ActDone { id, outcome: refused("inhibited") });
        world.advance(5 * MINUTE);
    }
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    memory(&mut world, 50.0);
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    assert_eq!(world.results("r-1").last().unwrap()["reason"], "budget_spent", "it was done then");
}

#[test]
fn a_command_that_was_refused_as_it_began_or_taken_back_before_spends_nothing() {
    let mut world = up_for_long(config_with(ONCE));
    world.acts_succeed = false;
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: refused("not_allowed") });
    world.command("b-1", "reboot", json!({"delay_s": 60}), 2);
    world.settle();
    world.command("c-1", "cancel", json!({"command_id": "b-1"}), 3);
    world.settle();
    world.refuse(|op| puts(op, "cmd/r-2"), StoreFault::Busy);
    world.command("r-2", "restart_unit", json!({"unit": "app.service"}), 4);
    world.settle();
    world.refuse_nothing();
    world.acts_succeed = true;
    world.crash();
    world.advance(2 * SECOND);
    world.command("r-3", "restart_unit", json!({"unit": "app.service"}), 5);
    world.settle();
    world.command("b-3", "reboot", json!({}), 6);
    world.settle();
    world.advance(10 * SECOND);
    assert_eq!(world.acted, [restart("app.service"), restart("app.service"), Act::Reboot]);
    world.reboot();
    world.advance(11 * MINUTE);
    for (id, name, args) in [("r-4", "restart_unit", json!({"unit": "app.service"})), ("b-4", "reboot", json!({}))] {
        world.command(id, name, args, 7);
        world.settle();
        assert_eq!(world.results(id).last().unwrap()["reason"], "budget_spent", "{id}");
    }
}

#[test]
fn what_names_something_that_is_not_there_spends_nothing_and_what_was_begun_and_failed_does() {
    let mut world = up_for_long(config_with(ONCE));
    world.acts_succeed = false;
    for (id, reason) in [("r-1", "no_such_unit"), ("r-2", "no_such_unit"), ("r-3", "unit_failed")] {
        world.command(id, "restart_unit", json!({"unit": "app.service"}), 1);
        world.settle();
        let (act, _) = world.acts.pop().unwrap_or_else(|| panic!("{id}: {:?}", world.results(id)));
        let failed = ActOutcome { reason: Some(reason.into()), ..outcome(ActStatus::Failed) };
        world.input(Input::ActDone { id: act, outcome: failed });
    }
    world.command("r-4", "restart_unit", json!({"unit": "app.service"}), 2);
    world.settle();
    assert_eq!(world.results("r-4").last().unwrap()["reason"], "budget_spent");
}

#[test]
fn what_leads_out_of_the_directory_of_releases_is_malformed_and_begins_nothing() {
    let (slots, command) = ("kind = \"slots\"\ndir = \"/opt/app\"", "kind = \"command\"\nargv = [\"/bin/back\"]");
    let config =
        format!("[remediation.budget]\nrollback = \"2/24h\"\n[rollback.app]\n{slots}\n[rollback.image]\n{command}");
    let mut world = up_for_long(config_with(&config));
    for (id, target, to, reason) in [
        ("up", "app", "../x", json!("malformed")),
        ("hidden", "app", ".x", json!("malformed")),
        ("below", "app", "x/y", json!("malformed")),
        ("plain", "app", "1.0-rc.1", json!(null)),
        ("path", "image", "registry/app:1.0", json!(null)),
    ] {
        world.command(id, "rollback", json!({"target": target, "to": to, "now": true}), 1);
        world.settle();
        assert_eq!(world.results(id).last().unwrap()["reason"], reason, "{to}");
    }
    assert_eq!(world.acted.len(), 2, "{:?}", world.acted);
}

#[test]
fn what_roots_helper_refuses_of_a_command_is_told_and_counted_as_what_the_agent_refuses() {
    let mut world = up_for_long(config_with(""));
    world.acts_succeed = false;
    for (id, reason) in [("r-1", "budget_spent"), ("r-2", "unknown_key"), ("r-3", "wrong_act")] {
        world.command(id, "restart_unit", json!({"unit": "app.service"}), 1);
        world.settle();
        let (act, _) = world.acts.pop().unwrap();
        world.input(Input::ActDone { id: act, outcome: refused(reason) });
    }
    world.advance(2 * MINUTE);
    let audits = world.got.iter().filter(|got| got.body["name"] == "command_refused");
    let told: Vec<_> = audits.map(|got| &got.body["audit"]).collect();
    let told: Vec<_> = told.iter().map(|audit| (&audit["command_id"], &audit["reason"], &audit["command"])).collect();
    let name = json!("restart_unit");
    let expected = [("r-1", "budget_spent"), ("r-2", "unknown_key"), ("r-3", "wrong_act")];
    let expected = expected.map(|(id, reason)| (json!(id), json!(reason)));
    assert!(told.iter().copied().eq(expected.iter().map(|(id, reason)| (id, reason, &name))), "{told:?}");
    let samples = world.got.iter().filter_map(|got| got.body["samples"].as_array()).flatten();
    let counts = samples.map(|sample| &sample["agent"]["commands_refused"]);
    let counted = json!({"budget_spent": 1, "not_allowed": 1, "unknown_key": 1});
    assert!(counts.clone().any(|counts| *counts == counted), "{:?}", counts.collect::<Vec<_>>());
}

#[test]
fn what_is_canceled_before_whoever_does_it_has_begun_is_canceled_and_spends_nothing() {
    let mut world = up_for_long(config_with(ONCE));
    world.acts_succeed = false;
    for (id, times) in [("r-1", 1), ("r-2", 2)] {
        world.command(id, "restart_unit", json!({"unit": "app.service"}), 1);
        world.settle();
        assert_eq!(world.acted.len(), times, "{:?}", world.results(id));
        let (act, _) = world.acts.pop().unwrap();
        world.input(Input::ActDone { id: act, outcome: ActOutcome::taken_back("it waited for its turn") });
        let end = world.results(id).last().copied().unwrap();
        assert_eq!((&end["status"], &end["reason"]), (&"CANCELED".into(), &"canceled".into()), "{end}");
    }
}

#[test]
fn what_is_canceled_while_it_runs_has_spent() {
    let mut world = up_for_long(config_with(ONCE));
    world.acts_succeed = false;
    world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
    world.settle();
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Canceled) });
    world.command("r-2", "restart_unit", json!({"unit": "app.service"}), 2);
    world.settle();
    assert_eq!(world.results("r-2").last().unwrap()["reason"], "budget_spent");
}

/// Crashes between each pair of steps of an act that is refused as it begins, and what is given back of it.
#[test]
fn no_crash_makes_more_of_a_budget_than_it_has() {
    for crash_after in 0..24 {
        let mut world = World::with(config_with(ONCE));
        world.advance(SECOND);
        world.acts_succeed = false;
        world.command("r-1", "restart_unit", json!({"unit": "app.service"}), 1);
        let mut refusals = 1;
        for _ in 0..crash_after {
            if !world.step_effect() && !world.step() {
                if let Some((id, _)) = world.acts.pop() {
                    world.enqueue(Input::ActDone { id, outcome: refused("inhibited") });
                    refusals = 0;
                }
            }
        }
        let begun = world.acted.len();
        world.crash();
        world.acts_succeed = true;
        world.advance(2 * SECOND);
        for id in ["r-2", "r-3"] {
            world.command(id, "restart_unit", json!({"unit": "app.service"}), 2);
            world.settle();
            world.advance(2 * SECOND);
        }
        let done = world.acted.len() - begun + begun * refusals;
        assert!(done <= 1, "{done} times, crash after {crash_after}: {:?}", world.acted);
    }
}

#[test]
fn a_stop_that_is_taken_back_where_the_store_refused_twice_leaves_the_agent_careful() {
    let mut config = config_with("");
    config.remediation.budget.remove(&Action::Reboot);
    let mut world = up_for_long(config);
    let issued = world.now.wall.unix.0 / 1_000;
    // The journal is lost without a word of it: the records say so.
    world.store.state.clear();
    let is_mark = |op: &StoreOp| puts(op, "run");
    world.refuse(is_mark, StoreFault::NoSpace { what: "put".into() });
    world.advance(MINUTE);
    world.crash();
    world.advance(10 * SECOND);
    world.command("b-1", "reboot", json!({}), 1);
    world.settle();
    world.advance(10 * SECOND);
    assert_eq!(world.acted, [Act::Reboot]);
    world.refuse_nothing();
    world.advance(3 * MINUTE);
    assert_eq!(world.results("b-1").last().unwrap()["reason"], "same_boot", "the machine stayed up");
    world.crash();
    world.advance(10 * SECOND);
    let args = json!({"unit": "app.service"});
    let claims =
        json!({"jti": "old", "iat": issued, "exp": issued + 6_000, "cmd": {"name": "restart_unit", "args": args}});
    world.claims(claims, 2);
    world.settle();
    assert_eq!(world.results("old").last().unwrap()["reason"], "replayed");
}

#[test]
fn a_step_that_another_act_is_in_the_way_of_names_that_and_begins_when_it_has_ended() {
    let ladder = ladder("", "{ do = \"rollback\", target = \"firmware\", settle = \"30s\" }");
    let targets =
        "[rollback.firmware]\nkind = \"rauc\"\n[rollback.modem]\nkind = \"command\"\nargv = [\"/usr/bin/back\"]\n";
    let mut world = World::with(config_with(&format!("{targets}{ladder}")));
    world.set(Metric::BatteryExternalPower, Some(true));
    world.advance(11 * MINUTE);
    world.acts_succeed = false;
    world.command("m", "mark_good", json!({"target": "modem"}), 1);
    world.settle();
    memory(&mut world, 95.0);
    let mark = Act::MarkGood { target: "modem".into() };
    assert_eq!(world.acted, std::slice::from_ref(&mark));
    let refused = world.got.iter().find(|got| got.body["remediation"]["reason"] == "busy").unwrap();
    let detail = refused.body["remediation"]["detail"].as_str().unwrap();
    assert!(detail.contains("mark_good of release:modem"), "{detail}");
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    world.advance(2 * SECOND);
    assert_eq!(world.acted, [mark, Act::Rollback { target: "firmware".into(), to: None }]);
}

#[test]
fn two_ladders_that_are_due_at_once_do_not_share_the_last_try() {
    let rule = |name: &str| {
        format!("[[rules]]\nname = \"{name}\"\nmetric = \"host.mem_used_pct\"\nabove = 90\nremedy = \"{name}\"\n")
    };
    let ladder = |name: &str| {
        format!("[[ladders]]\nname = \"{name}\"\nsteps = [{{ do = \"restart_unit\", unit = \"{name}.service\" }}]\n")
    };
    let budget = "[remediation.budget]\nrestart_unit = \"1/1h\"\n";
    let names = ["app", "other"];
    let config = names.iter().map(|name| rule(name) + &ladder(name)).collect::<String>() + budget;
    let mut world = World::with(config_with(&config));
    world.advance(MINUTE);
    memory(&mut world, 95.0);
    world.advance(10 * MINUTE);
    assert_eq!(world.acted.len(), 1, "{:?}", world.acted);
}
