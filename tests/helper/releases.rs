//! Rollbacks of releases in directories that are cut off, or can't be done, and what the next start of the helper makes
//! of them.

use std::os::unix::net::UnixListener;
use std::path::Path;

use fieldmedic::act::rollback::running_slot;
use fieldmedic::collect::clock::this_boot;
use serde_json::json;

use super::common;
use super::pid1::Pid1;
use super::released;
use super::world::{World, ordered_by_rule};

/// A rollback whose helper is killed when `current` leads to release 1, and its unit has not been restarted. What runs,
/// in this boot; and for as long as it is kept, a bus that lets nobody in, by its address.
fn cut_off(world: &World) -> (impl Fn() -> String, (UnixListener, String)) {
    let dir = world.releases(&["1", "2"], &["app.service"]);
    let bus = UnixListener::bind(world.file("mute")).unwrap();
    let address = format!("unix:path={}", world.file("mute").display());
    let helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", &address)]);
    let _asking = world.send(&ordered_by_rule("rollback", &json!({"target": "app", "to": null})));
    common::until("the switch to be complete", || {
        std::fs::read_link(dir.join("previous")).is_ok_and(|release| release == Path::new("releases/2"))
    });
    drop(helper);
    assert_eq!(std::fs::read_link(dir.join("current")).unwrap(), Path::new("releases/1"));
    let boot = this_boot(Path::new("/")).ok();
    let runs = move || running_slot(&dir, boot).unwrap();
    assert_eq!(runs(), "2");
    (runs, (bus, address))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_that_a_kill_kept_from_being_restarted_are_by_the_next_start_and_once() {
    let world = World::new();
    let (runs, (_mute, address)) = cut_off(&world);
    let helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", &address)]);
    let good = world.ask(&ordered_by_rule("mark_good", &json!({"target": "app"})));
    assert_eq!((&good["status"], &good["reason"]), (&json!("FAILED"), &json!("unit_failed")), "{good}");
    drop(helper);

    let pid1 = Pid1::start().await;
    let due = world.file("app/.fieldmedic.due");
    let note = std::fs::read_link(&due).unwrap();
    for said in ["app.service is active (running), pid 7", "app.service was started since"] {
        let helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", pid1.address())]);
        world.wait_for_log(&helper, &format!("rollback of app: 1 runs; {said}"));
        assert_eq!(
            (pid1.restarted(), runs(), due.is_symlink()),
            (vec!["app.service".to_owned()], "1".to_owned(), false)
        );
        let good = world.ask(&ordered_by_rule("mark_good", &json!({"target": "app"})));
        assert_eq!(good["detail"], "1 is good");
        drop(helper);
        // As where it is killed again before it could forget it.
        std::os::unix::fs::symlink(&note, &due).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_helper_says_at_once_how_a_rollback_ended_that_a_reboot_cuts_off() {
    let world = World::new();
    let dir = world.releases(&["1", "2"], &["app.service"]);
    let pid1 = Pid1::start().await;
    pid1.go_down();
    let _helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", pid1.address())]);
    let end = world.ask(&ordered_by_rule("rollback", &json!({"target": "app", "to": null})));
    assert_eq!((&end["status"], &end["reason"]), (&json!("FAILED"), &json!("unit_failed")), "{end}");
    assert_eq!(std::fs::read_link(dir.join("current")).unwrap(), Path::new("releases/1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_that_could_not_be_restarted_run_what_they_ran_until_the_next_start() {
    let world = World::new();
    let dir = world.releases(&["1", "2"], &["app.service"]);
    let no_bus = format!("unix:path={}", world.file("none").display());
    let helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", &no_bus)]);
    let end = world.ask(&ordered_by_rule("rollback", &json!({"target": "app", "to": null})));
    assert_eq!((&end["status"], &end["reason"]), (&json!("FAILED"), &json!("unit_failed")), "{end}");
    let boot = this_boot(Path::new("/")).ok();
    assert_eq!(running_slot(&dir, boot).as_deref(), Some("2"), "{end}");
    let good = world.ask(&ordered_by_rule("mark_good", &json!({"target": "app"})));
    assert_eq!((&good["status"], &good["reason"]), (&json!("FAILED"), &json!("unit_failed")), "{good}");
    drop(helper);

    let pid1 = Pid1::start().await;
    let helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", pid1.address())]);
    world.wait_for_log(&helper, "rollback of app: 1 runs; app.service is active (running), pid 7");
    assert_eq!((pid1.restarted(), running_slot(&dir, boot).as_deref()), (vec!["app.service".to_owned()], Some("1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_that_a_quarantine_keeps_stopped_are_not_started_to_complete_a_rollback() {
    let world = World::new();
    let (runs, (_mute, _)) = cut_off(&world);
    world.in_quarantine("restrict", &["app.service"]);
    let pid1 = Pid1::start().await;
    let helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", pid1.address())]);
    world.wait_for_log(&helper, "rollback of app: 1 runs");
    assert_eq!((pid1.restarted(), runs().as_str()), (vec![], "1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_that_another_boot_has_started_are_not_restarted() {
    let world = World::new();
    let (_, (_mute, _)) = cut_off(&world);
    let pid1 = Pid1::start().await;
    let another = [("DBUS_SYSTEM_BUS_ADDRESS", pid1.address()), ("FIELDMEDIC_BOOT_ID", &"7".repeat(32))];
    let _helper = world.start_in(&another);
    let due = world.file("app/.fieldmedic.due");
    common::until("what is due no more to be forgotten", || !due.is_symlink());
    let good = world.ask(&ordered_by_rule("mark_good", &json!({"target": "app"})));
    assert_eq!((&good["detail"], pid1.restarted()), (&json!("1 is good"), vec![]));
}

#[test]
fn releases_that_the_sandbox_keeps_from_being_written_are_told_of_and_cost_nothing() {
    let world = World::new();
    let (current, order) = released(&world);
    let app = world.file("app");
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can mount");
        return;
    }
    let helper = world.start_without_write_access_to(&app);
    let told = format!("{0}: nothing can be written: Read-only file system", app.display());
    world.wait_for_log(&helper, &format!("[rollback.app] could not go back as it is: {told}"));
    let end = world.ask(&order);
    assert_eq!((&end["status"], &end["reason"]), (&json!("REJECTED"), &json!("not_supported")), "{end}");
    let cure = format!("or fieldmedic-act.service lacks a drop-in with ReadWritePaths={}", app.display());
    let detail = end["detail"].as_str().unwrap();
    assert!(detail.starts_with(&told) && detail.ends_with(&cure), "{detail}");
    drop(helper);
    assert_eq!((current().as_str(), app.join(".fieldmedic.json").exists()), ("releases/2", false));
    // Its one of the hour is left.
    let _helper = world.start();
    let end = world.ask(&order);
    assert_eq!((&end["status"], current().as_str()), (&json!("SUCCEEDED"), "releases/1"), "{end}");
}
