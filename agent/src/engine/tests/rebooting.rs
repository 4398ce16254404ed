//! A reboot from its order to the word of the next boot, what a boot completes (a rollback), and what becomes of
//! everything else while the agent ends.

use std::time::Duration;

use serde_json::json;

use super::healing::{is, ladder, memory, told, world};
use super::invariants::error_batch;
use super::world::{Got, World, config_with, outcome, puts, restart};
use crate::engine::io::{Act, ActOutcome, ActStatus, EffectId, Input, StopReason, StoreFault};
use crate::engine::metric::Metric;
use crate::engine::observation::{ErrorBatch, Release};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn a_reboot_says_goodbye_first_and_is_told_by_the_next_boot() {
    let mut world = world();
    world.command("b-1", "reboot", json!({"delay_s": 30}), 1);
    world.settle();
    world.advance(20 * SECOND);
    assert!(world.acted.is_empty(), "it waits for its delay");
    world.advance(30 * SECOND);
    assert_eq!(world.acted, [Act::Reboot]);
    let presence = world.got.iter().rfind(|got| got.topic.ends_with("/presence")).unwrap();
    assert_eq!((&presence.body["online"], &presence.body["reason"]), (&false.into(), &"rebooting".into()));
    assert!(!world.exited, "it waits to be stopped");
    world.input(Input::Stop { reason: StopReason::Stopped });
    assert!(world.exited);
    world.reboot();
    world.advance(5 * SECOND);
    assert_eq!(world.statuses("b-1"), ["IN_PROGRESS", "SUCCEEDED"]);
    let rebooted = world.got.iter().find(|got| got.body["name"] == "rebooted").unwrap();
    assert_eq!(rebooted.body["reboot"]["reason"], "commanded");
    let remedies: Vec<_> = world.got.iter().filter(|got| got.body["type"] == "remediation").collect();
    assert_eq!(told(&world).len(), 2);
    assert!(remedies.iter().all(|got| got.body["remediation"]["target"] == "gateway"), "{remedies:?}");
}

#[test]
fn whoever_keeps_the_machine_up_by_the_time_of_the_goodbye_keeps_it_from_being_said() {
    let mut world = world();
    world.blocked = Some("updater inhibits it".into());
    // No round of collection has ended since.
    world.command("b-1", "reboot", json!({}), 1);
    world.settle();
    assert_eq!(world.statuses("b-1"), ["IN_PROGRESS", "REJECTED"]);
    assert_eq!(world.results("b-1")[1]["reason"], "inhibited");
    world.blocked = None;
    world.advance(2 * SECOND);
    world.blocked = Some("updater inhibits it".into());
    world.command("b-2", "reboot", json!({"delay_s": 5}), 2);
    world.advance(20 * SECOND);
    assert!(world.is_connected() && !world.acted.contains(&Act::Reboot), "{:?}", world.acted);
    let offline = world.got.iter().filter(|got| got.topic.ends_with("/presence") && got.body["online"] == false);
    assert_eq!(offline.count(), 0);
    world.blocked = None;
    world.advance(2 * SECOND);
    world.command("b-3", "reboot", json!({}), 3);
    world.settle();
    assert_eq!(world.acted.last(), Some(&Act::Reboot));
}

#[test]
fn a_ladders_reboot_that_somebody_blocks_after_it_was_admitted_says_no_goodbye_and_is_tried_again() {
    let mut world = World::with(config_with(&ladder("", "{ do = \"reboot\", settle = \"60s\" }")));
    world.set(Metric::BatteryExternalPower, Some(true));
    world.advance(11 * MINUTE);
    world.stall_store_at(|op| puts(op, "remedy/full"));
    world.set(Metric::HostMemUsed, Some(95.0));
    world.advance_until(3 * SECOND, World::store_is_late);
    world.blocked = Some("updater inhibits it".into());
    world.store_answers();
    world.advance(MINUTE);
    assert!(world.is_connected() && world.acted.is_empty(), "{:?}", world.acted);
    world.blocked = None;
    world.advance(HOUR);
    assert_eq!(world.acted.first(), Some(&Act::Reboot));
}

#[test]
fn collectors_that_hang_hold_up_no_reboot_for_long() {
    let mut world = world();
    world.collectors_hang(true);
    world.command("b-1", "reboot", json!({}), 1);
    world.advance(10 * SECOND);
    assert_eq!(world.acted, [Act::Reboot]);
}

#[test]
fn a_reboot_that_waits_for_its_time_holds_up_no_quarantine_and_then_waits_for_its_end() {
    let mut world = world();
    world.acts_succeed = false;
    world.command("b-1", "reboot", json!({"delay_s": 30}), 1);
    world.command("q-1", "quarantine", json!({"level": "restrict"}), 2);
    world.command("u-1", "restart_unit", json!({"unit": "app.service"}), 3);
    world.command("b-2", "reboot", json!({}), 4);
    world.command("l-1", "restart_link", json!({"interface": "eth0"}), 5);
    world.settle();
    assert!(world.acted.contains(&restart("app.service")), "{:?}", world.acted);
    let quarantine = world.acts.iter().find(|(_, act)| act.shuts());
    let (shut, _) = quarantine.cloned().expect("a quarantine under way");
    assert_eq!((world.statuses("b-2"), world.statuses("l-1")), (vec!["QUEUED".into()], vec!["QUEUED".into()]));
    world.advance(MINUTE);
    assert!(world.is_connected() && world.acted.len() == 2, "one at a time: {:?}", world.acted);
    world.input(Input::ActDone { id: shut, outcome: outcome(ActStatus::Succeeded) });
    world.advance(10 * SECOND);
    assert_eq!(world.acted.last(), Some(&Act::Reboot));
}

#[test]
fn a_machine_that_does_not_go_down_gets_its_agent_back() {
    let mut world = world();
    world.command("b-1", "reboot", json!({}), 1);
    world.settle();
    world.advance(5 * SECOND);
    assert_eq!(world.acted, [Act::Reboot]);
    world.advance(5 * MINUTE);
    assert!(world.is_connected());
    assert_eq!(world.statuses("b-1"), ["IN_PROGRESS", "FAILED"]);
    let presence = world.got.iter().rfind(|got| got.topic.ends_with("/presence")).unwrap();
    assert_eq!(presence.body["online"], true);
}

#[test]
fn a_gateway_that_nobody_tells_to_go_down_is_back_within_the_commands_time_and_seconds_at_most() {
    for (timeout_s, within) in [(4, 4 * SECOND), (86_400, 10 * SECOND)] {
        let mut world = world();
        world.acts_succeed = false;
        world.claims(json!({"jti": "b-1", "cmd": {"name": "reboot", "args": {}, "timeout_s": timeout_s}}), 1);
        world.settle();
        world.advance(5 * SECOND);
        assert!(!world.is_connected());
        let (id, act) = world.acts.pop().unwrap();
        assert_eq!((act, world.acts_within), (Act::Reboot, within));
        world.input(Input::ActDone { id, outcome: ActOutcome::not_begun("the helper hangs") });
        world.advance(5 * SECOND);
        assert!(world.is_connected());
        assert_eq!(world.statuses("b-1"), ["IN_PROGRESS", "TIMED_OUT"]);
    }
}

#[test]
fn the_same_boot_after_a_reboot_was_ordered_is_a_failure() {
    let mut world = world();
    world.command("b-1", "reboot", json!({}), 1);
    world.settle();
    world.crash();
    world.advance(5 * SECOND);
    let last = world.results("b-1").last().map(|body| body["reason"].clone());
    assert_eq!(last, Some("same_boot".into()));
}

#[test]
fn a_reboot_that_waits_can_be_canceled() {
    let mut world = world();
    world.command("b-1", "reboot", json!({"delay_s": 60}), 1);
    world.settle();
    world.command("c-1", "cancel", json!({"command_id": "b-1"}), 2);
    world.settle();
    world.advance(5 * MINUTE);
    assert!(world.acted.is_empty());
    assert_eq!(world.statuses("b-1"), ["IN_PROGRESS", "CANCELED"]);
}

#[test]
fn a_reboot_whose_time_comes_while_a_command_that_takes_it_back_is_on_its_way_to_the_disk_is_taken_back() {
    for (name, args) in [("cancel", json!({"command_id": "b-1"})), ("cancel_all", json!({}))] {
        for is_stored in [true, false] {
            let mut world = world();
            world.command("b-1", "reboot", json!({"delay_s": 60}), 1);
            world.settle();
            world.advance(59 * SECOND);
            world.stall_store_at(|op| puts(op, "cmd/c-1"));
            if !is_stored {
                world.refuse(|op| puts(op, "cmd/c-1"), StoreFault::Busy);
            }
            world.command("c-1", name, args.clone(), 2);
            world.advance(20 * SECOND);
            assert!(world.is_connected() && world.acted.is_empty(), "{name}: {:?}", world.acted);
            world.refuse_nothing();
            world.store_answers();
            world.advance(20 * SECOND);
            if is_stored {
                assert_eq!(
                    (world.statuses("c-1"), world.statuses("b-1").pop()),
                    (vec!["SUCCEEDED".into()], Some("CANCELED".into()))
                );
            } else {
                // Whoever is told that it wasn't begun has not taken it back.
                assert_eq!(
                    (world.acted.clone(), world.statuses("c-1")),
                    (vec![Act::Reboot], vec!["REJECTED".into()]),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn an_agent_that_ends_while_a_reboot_waits_does_not_order_it_and_says_that_it_had_not_begun() {
    for is_stopped in [true, false] {
        let mut world = world();
        world.command("b-1", "reboot", json!({"delay_s": 3600}), 1);
        world.settle();
        if is_stopped {
            world.input(Input::Stop { reason: StopReason::Stopped });
            world.advance(10 * SECOND);
            assert!(world.exited);
        }
        world.crash();
        world.advance(2 * HOUR);
        assert!(world.acted.is_empty(), "{:?}", world.acted);
        assert_eq!(world.statuses("b-1"), ["IN_PROGRESS", "CANCELED"]);
        assert_eq!(world.results("b-1").last().unwrap()["reason"], "interrupted");
    }
}

#[test]
fn a_gateway_that_boots_by_itself_while_a_reboot_waits_has_rebooted() {
    let mut world = world();
    world.command("b-1", "reboot", json!({"delay_s": 3600}), 1);
    world.settle();
    world.reboot();
    world.advance(2 * HOUR);
    assert!(world.acted.is_empty(), "{:?}", world.acted);
    assert_eq!(world.statuses("b-1"), ["IN_PROGRESS", "SUCCEEDED"]);
}

#[test]
fn a_gateway_that_is_looked_at_less_often_can_still_be_rebooted() {
    let mut world = world();
    world.command("i-1", "set_intervals", json!({"sample": "10m", "for": "1h"}), 1);
    world.settle();
    world.advance(9 * MINUTE);
    world.command("b-1", "reboot", json!({}), 2);
    world.settle();
    world.advance(5 * SECOND);
    assert_eq!((world.acted.clone(), world.statuses("b-1")), (vec![Act::Reboot], vec!["IN_PROGRESS".into()]));
}

/// A ladder of one rollback, whose act ends as one that a boot completes.
fn rolled_back() -> World {
    let (mut world, id) = rolling_back();
    world.acts_succeed = true;
    world.input(Input::ActDone { id, outcome: needs_reboot() });
    world.advance(2 * SECOND);
    world
}

/// A ladder's rollback has begun.
fn rolling_back() -> (World, EffectId) {
    rolling_back_from(None)
}

/// The same in this slot, if the agent knows it.
fn rolling_back_from(slot: Option<&str>) -> (World, EffectId) {
    let ladder = ladder("", "{ do = \"rollback\", target = \"firmware\", settle = \"30s\" }");
    let config = config_with(&format!("[rollback.firmware]\nkind = \"rauc\"\n{ladder}"));
    let mut world = World::with(config);
    world.set(Metric::BatteryExternalPower, Some(true));
    world.advance(11 * MINUTE);
    slot.into_iter().for_each(|slot| runs(&mut world, slot));
    world.acts_succeed = false;
    memory(&mut world, 95.0);
    let (id, _) = world.acts.pop().unwrap();
    (world, id)
}

fn needs_reboot() -> ActOutcome {
    ActOutcome { reason: Some("needs_reboot".into()), ..outcome(ActStatus::Succeeded) }
}

#[test]
fn a_rollback_that_takes_a_boot_reboots_and_succeeds_with_the_next() {
    let mut world = rolled_back();
    assert_eq!(world.acted, [Act::Rollback { target: "firmware".into(), to: None }, Act::Reboot]);
    world.reboot();
    world.advance(10 * SECOND);
    let steps = [("rollback", "IN_PROGRESS"), ("rollback", "SUCCEEDED")];
    assert!(is(&told(&world), &steps), "{:?}", told(&world));
}

#[test]
fn a_rollback_whose_boot_never_came_has_failed() {
    let mut world = rolled_back();
    world.crash();
    world.advance(10 * SECOND);
    let told = told(&world);
    assert!(told.contains(&("rollback".into(), "FAILED".into())), "{told:?}");
}

/// A command "r" has rolled the firmware back, and the boot that completes it is ordered.
fn roll_back_by_command(world: &mut World) {
    world.acts_succeed = false;
    world.command("r", "rollback", json!({"target": "firmware"}), 1);
    world.settle();
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: needs_reboot() });
    world.advance(2 * SECOND);
}

#[test]
fn a_command_to_roll_back_is_judged_by_the_next_boot_too() {
    for (boots, status) in [(true, "SUCCEEDED"), (false, "FAILED")] {
        let mut world = World::with(config_with("[rollback.firmware]\nkind = \"rauc\""));
        world.advance(SECOND);
        roll_back_by_command(&mut world);
        assert_eq!(world.statuses("r"), ["IN_PROGRESS"]);
        if boots {
            world.reboot();
        } else {
            world.crash();
        }
        world.advance(10 * SECOND);
        assert_eq!(world.statuses("r").last().unwrap(), status);
        let waits = "it is done, and waits for a boot: the agent was started again in the same boot";
        assert_eq!(world.results("r").last().unwrap()["detail"] == waits, !boots);
        let rebooted = world.got.iter().find(|got| got.body["name"] == "rebooted");
        let reason = rebooted.map(|got| got.body["reboot"]["reason"].clone());
        assert_eq!(reason, boots.then(|| "commanded".into()));
    }
}

/// This slot of the firmware runs.
fn runs(world: &mut World, slot: &str) {
    let release = |target: &str, name: &str| Release { target: target.into(), name: name.into() };
    // Of something else an A runs all the time.
    world.releases = vec![release("app", "A"), release("firmware", slot)];
    world.advance(2 * SECOND);
}

#[test]
fn a_rollback_whose_boot_comes_up_in_what_it_was_to_leave_has_failed() {
    for (slot, status) in [("A", "FAILED"), ("B", "SUCCEEDED")] {
        let mut world = World::with(config_with("[rollback.firmware]\nkind = \"rauc\""));
        runs(&mut world, "A");
        roll_back_by_command(&mut world);
        runs(&mut world, slot);
        world.reboot();
        world.advance(10 * SECOND);
        assert_eq!(world.statuses("r"), ["IN_PROGRESS", status], "{slot}");
        let result = world.results("r").pop().unwrap();
        let failed = ("rollback_failed".into(), "this is another boot, and A runs again".into());
        assert_eq!((result["reason"].clone(), result["detail"].clone()) == failed, slot == "A", "{result}");

        let (mut world, id) = rolling_back();
        runs(&mut world, "A");
        world.acts_succeed = true;
        world.input(Input::ActDone { id, outcome: needs_reboot() });
        world.advance(2 * SECOND);
        runs(&mut world, slot);
        world.reboot();
        world.advance(10 * SECOND);
        assert!(is(&told(&world), &[("rollback", "IN_PROGRESS"), ("rollback", status)]), "{slot}: {:?}", told(&world));
    }
}

#[test]
fn a_rollback_that_was_cut_off_is_judged_by_what_another_boot_runs_and_by_that_alone() {
    let unknown = "the agent stopped while it was under way; what came of it can't be known";
    for (boots, to, slot, status, detail) in [
        (true, None, Some("B"), "SUCCEEDED", "this is another boot".to_owned()),
        (true, Some("B"), Some("A"), "FAILED", "this is another boot, and A runs again".to_owned()),
        (true, Some("A"), Some("A"), "INTERRUPTED", format!("{unknown}; A runs now")),
        (true, None, None, "INTERRUPTED", unknown.to_owned()),
        (false, None, Some("B"), "INTERRUPTED", format!("{unknown}; B runs now")),
        (false, None, Some("A"), "INTERRUPTED", format!("{unknown}; A runs now")),
    ] {
        let mut args = json!({"target": "firmware"});
        to.into_iter().for_each(|to| args["to"] = json!(to));
        for waits in [false, true] {
            let budget = "[remediation.budget]\nrollback = \"2/1h\"";
            let mut world = World::with(config_with(&format!("[rollback.firmware]\nkind = \"rauc\"\n{budget}")));
            runs(&mut world, "A");
            world.acts_succeed = false;
            world.command("before", "rollback", args.clone(), 1);
            world.settle();
            let mut id = "before";
            if waits {
                id = "r";
                world.command(id, "rollback", args.clone(), 2);
                world.settle();
                let (act, _) = world.acts.pop().unwrap();
                world.input(Input::ActDone { id: act, outcome: outcome(ActStatus::Failed) });
                world.settle();
            }
            world.releases.clear();
            slot.into_iter().for_each(|slot| runs(&mut world, slot));
            if boots {
                world.reboot();
            } else {
                world.crash();
            }
            world.advance(10 * SECOND);
            let result = world.results(id).pop().unwrap();
            assert_eq!((&result["status"], &result["detail"]), (&json!(status), &json!(detail)), "{slot:?}, {waits}");
        }
    }
}

#[test]
fn a_ladders_rollback_that_was_cut_off_is_judged_as_a_commands() {
    for (boots, known, slot, status) in [
        (true, Some("A"), "B", "SUCCEEDED"),
        (true, Some("A"), "A", "FAILED"),
        (true, None, "B", "INTERRUPTED"),
        (false, Some("A"), "B", "INTERRUPTED"),
    ] {
        let (mut world, _) = rolling_back_from(known);
        runs(&mut world, slot);
        if boots {
            world.reboot();
        } else {
            world.crash();
        }
        world.advance(10 * SECOND);
        assert!(is(&told(&world), &[("rollback", "IN_PROGRESS"), ("rollback", status)]), "{slot}: {:?}", told(&world));
    }
}

#[test]
fn a_release_that_was_not_read_since_the_agent_started_is_not_known_to_be_the_one_that_is_left() {
    let mut world = World::with(config_with("[rollback.firmware]\nkind = \"rauc\""));
    runs(&mut world, "A");
    world.releases.clear();
    world.crash();
    world.advance(2 * SECOND);
    roll_back_by_command(&mut world);
    runs(&mut world, "A");
    world.reboot();
    world.advance(10 * SECOND);
    assert_eq!(world.statuses("r").last().unwrap(), "SUCCEEDED", "another boot is what tells");
}

#[test]
fn a_rollback_whose_completing_reboot_is_refused_is_not_begun_again() {
    let (mut world, id) = rolling_back();
    world.input(Input::ActDone { id, outcome: needs_reboot() });
    world.advance(10 * SECOND);
    let (id, act) = world.acts.pop().unwrap();
    assert_eq!(act, Act::Reboot);
    world.input(Input::ActDone {
        id,
        outcome: ActOutcome { reason: Some("inhibited".into()), ..outcome(ActStatus::Failed) },
    });
    world.advance(2 * HOUR);
    assert_eq!(world.acted, [Act::Rollback { target: "firmware".into(), to: None }, Act::Reboot]);
    assert!(told(&world).contains(&("rollback".into(), "FAILED".into())), "{:?}", told(&world));
    let failed = world.got.iter().find(|got| got.body["remediation"]["status"] == "FAILED").unwrap();
    assert_eq!(failed.body["remediation"]["detail"], "it is done, and waits for a boot");
}

#[test]
fn what_comes_while_the_agent_ends_is_left_to_the_broker_for_the_next_start() {
    let mut world = world();
    let now_s = world.now.wall.unix.0 / 1_000;
    let claims = json!({"jti": "r-1", "iat": now_s, "exp": now_s + 600,
        "cmd": {"name": "restart_unit", "args": {"unit": "app.service"}}});
    world.withhold_acks = true;
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.claims(claims.clone(), 7);
    world.settle();
    assert!(world.acted.is_empty() && world.acked_commands.is_empty(), "{:?}", world.acted);
    world.withhold_acks = false;
    world.crash();
    world.advance(2 * SECOND);
    world.claims(claims, 8);
    world.settle();
    assert_eq!((world.acted.len(), world.statuses("r-1")), (1, vec!["IN_PROGRESS".into(), "SUCCEEDED".into()]));
}

#[test]
fn nothing_that_waited_begins_while_the_agent_ends() {
    let mut world = world();
    world.acts_succeed = false;
    for (id, pkid) in [("runs", 1), ("waits", 2)] {
        world.command(id, "restart_unit", json!({"unit": "app.service"}), pkid);
    }
    world.settle();
    world.withhold_acks = true;
    world.input(Input::Stop { reason: StopReason::Stopped });
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    assert_eq!(world.acted.len(), 1);
    world.withhold_acks = false;
    world.crash();
    world.advance(5 * SECOND);
    assert_eq!(world.statuses("waits").last().unwrap(), "CANCELED");
    assert_eq!(world.statuses("runs").last().unwrap(), "SUCCEEDED");
}

#[test]
fn a_rollback_that_ends_while_somebody_stops_the_agent_neither_reboots_the_machine_nor_takes_the_stop_back() {
    for reboots_first in [false, true] {
        let mut world = World::with(config_with("[rollback.firmware]\nkind = \"rauc\""));
        world.advance(SECOND);
        world.acts_succeed = false;
        world.command("r", "rollback", json!({"target": "firmware"}), 1);
        world.settle();
        let (id, _) = world.acts.pop().unwrap();
        world.withhold_acks = true;
        if reboots_first {
            world.engine.stop(world.now, StopReason::Rebooting);
        }
        world.input(Input::Stop { reason: StopReason::Stopped });
        world.advance(SECOND);
        assert!(!world.exited, "the broker is slow to answer");
        world.input(Input::ActDone { id, outcome: needs_reboot() });
        world.advance(10 * SECOND);
        assert!(world.exited && world.acts.is_empty(), "{:?}", world.acted);
        let presence = world.got.iter().rfind(|got| got.topic.ends_with("/presence")).unwrap();
        assert_eq!((&presence.body["online"], &presence.body["reason"]), (&false.into(), &"stopped".into()));
        world.withhold_acks = false;
        world.crash();
        world.advance(10 * SECOND);
        assert!(!world.acted.contains(&Act::Reboot), "{:?}", world.acted);
        let end = world.results("r").pop().unwrap();
        let waits = "it is done, and waits for a boot: the agent was started again in the same boot";
        assert_eq!((&end["status"], &end["detail"]), (&"FAILED".into(), &waits.into()));
    }
}

#[test]
fn error_lines_of_a_goodbye_that_was_taken_back_are_counted() {
    let mut world = world();
    world.input(Input::Errors(ErrorBatch::default()));
    world.command("b-1", "reboot", json!({}), 1);
    world.advance(SECOND);
    world.input(Input::Errors(error_batch("the disk is full")));
    world.advance(5 * MINUTE);
    assert_eq!(world.results("b-1").last().unwrap()["status"], "FAILED");
    let suppressed = |got: &&Got| {
        got.body["samples"]
            .as_array()
            .is_some_and(|samples| samples.iter().any(|sample| sample["errors"]["suppressed"] == 1))
    };
    assert!(world.got.iter().any(|got| suppressed(&got)));
}
