//! An agent that hangs or can't start: what systemd makes of it, and what the fleet is told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::common::process::Process;
use crate::common::{tool, until};
use crate::machine::Machine;
use crate::site::{DEVICE, Site};

#[test]
fn an_agent_that_hangs_is_killed_by_the_watchdog_and_says_so_when_it_is_back() {
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    machine.write("/etc/systemd/system/fieldmedic.service.d/fast.conf", "[Service]\nWatchdogSec=2s\n");
    machine.say(&["systemctl", "daemon-reload"]);
    let mark = site.world.fleet.mark();
    machine.say(&["systemctl", "restart", "fieldmedic.service"]);
    // Online, it has noted that it runs.
    site.world.fleet.presence(mark, DEVICE, true);
    let before = machine.show("fieldmedic.service", "MainPID");
    let mark = site.world.fleet.mark();
    machine.say(&["kill", "-STOP", &before]);
    site.world.fleet.wait_since(mark, "the agent to come back", |message| {
        message.body["name"] == "started" && message.body["agent"]["after"] == "watchdog"
    });
    assert_ne!(machine.show("fieldmedic.service", "MainPID"), before);
    assert!(machine.journal("fieldmedic.service").contains("Watchdog timeout"));
}

#[test]
fn an_agent_whose_disk_hangs_is_killed_by_the_watchdog() {
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    machine.write("/etc/systemd/system/fieldmedic.service.d/fast.conf", "[Service]\nWatchdogSec=2s\n");
    machine.say(&["systemctl", "daemon-reload"]);
    let mark = site.world.fleet.mark();
    machine.say(&["systemctl", "restart", "fieldmedic.service"]);
    site.world.fleet.presence(mark, DEVICE, true);
    let before = machine.show("fieldmedic.service", "MainPID");
    let mark = site.world.fleet.mark();
    // All but the store's thread go on: messages are sent, and the clock is read.
    let mut hang = tool("strace");
    hang.args(["--output=/dev/null", "--trace=fdatasync", "--inject=fdatasync:delay_enter=600s"]);
    hang.arg(format!("--attach={}", machine.thread(&before, "store")));
    let hang = Process::start("strace", &mut hang);
    hang.log
        .wait_since(0, "the thread to be held", |lines| lines.iter().find(|line| line.contains("attached")).cloned());
    // What it never comes to the end of: the command is to be journaled.
    site.order("ping", json!({}));
    until("the watchdog", || machine.journal("fieldmedic.service").contains("Watchdog timeout"));
    // A thread that is held doesn't die either.
    drop(hang);
    site.world.fleet.wait_since(mark, "the agent to come back", |message| {
        message.body["name"] == "started" && message.body["agent"]["after"] == "watchdog"
    });
}

#[test]
fn an_agent_that_can_not_start_is_left_alone_and_tried_again_until_it_can() {
    const SECRET: &str = "/etc/fieldmedic/secrets/mqtt.password";
    let credential = |machine: &Machine| {
        let config = fs::read_to_string(machine.file("/etc/fieldmedic/agent.toml")).unwrap();
        let password = "[mqtt]\nusername = \"gateway\"\n\
                        password_file = \"/run/credentials/fieldmedic.service/mqtt.password\"";
        machine.write("/etc/fieldmedic/agent.toml", &config.replacen("[mqtt]", password, 1));
        machine.write(SECRET, "right\n");
        fs::set_permissions(machine.file(SECRET), fs::Permissions::from_mode(0o600)).unwrap();
    };
    let Some(site) = Site::with("", "", credential) else { return };
    let machine = &site.machine;
    let as_the_agent = |path: &str| machine.run(&["setpriv", "--reuid", "fieldmedic", "--clear-groups", "cat", path]);
    assert!(!as_the_agent(SECRET).status.success(), "the agent's user reads the secret on the disk");

    let in_an_hour = "[Timer]\nOnActiveSec=\nOnActiveSec=1h\nAccuracySec=1ms\n";
    machine.write(
        "/etc/systemd/system/fieldmedic.service.d/fast.conf",
        "[Unit]\nStartLimitBurst=3\n[Service]\nRestartSec=10ms\n",
    );
    machine.write("/etc/systemd/system/fieldmedic-rescue.timer.d/when.conf", in_an_hour);
    machine.say(&["systemctl", "daemon-reload"]);
    fs::remove_file(machine.file(SECRET)).unwrap();
    let timer_is = |state: &str| {
        let what = format!("the rescue's timer to be {state}");
        until(&what, || machine.show("fieldmedic-rescue.timer", "ActiveState") == state);
    };
    machine.run(&["systemctl", "restart", "fieldmedic.service"]);
    timer_is("active");
    let log = machine.journal("fieldmedic.service");
    assert!(log.contains("its first line is empty") && log.contains("Start request repeated too quickly"), "{log}");
    // Who stops it means it.
    machine.say(&["systemctl", "stop", "fieldmedic.service"]);
    timer_is("inactive");

    machine.write("/etc/systemd/system/fieldmedic-rescue.timer.d/when.conf", &in_an_hour.replace("1h", "100ms"));
    machine.say(&["systemctl", "daemon-reload"]);
    machine.say(&["systemctl", "reset-failed", "fieldmedic.service"]);
    let mark = site.world.fleet.mark();
    machine.run(&["systemctl", "start", "fieldmedic.service"]);
    let rescues = || machine.journal("fieldmedic-rescue.service").matches("it is tried again").count();
    until("a second rescue", || rescues() >= 2);
    machine.write(SECRET, "right\n");
    site.world.fleet.presence(mark, DEVICE, true);
    site.world.fleet.wait_since(mark, "the fleet to be told", |message| {
        message.body["type"] == "error" && message.body["error"]["unit"] == "fieldmedic-rescue.service"
    });
}

#[test]
fn a_wrong_configuration_is_not_tried_again_every_two_seconds() {
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    machine.write("/etc/fieldmedic/agent.toml", "mqtt = 1\n");
    machine.run(&["systemctl", "restart", "fieldmedic.service"]);
    let timer = |property: &str| machine.show("fieldmedic-rescue.timer", property);
    until("the rescue's timer to begin", || timer("ActiveState") == "active");
    assert_eq!(machine.show("fieldmedic.service", "NRestarts"), "0");
    assert_eq!(machine.show("fieldmedic.service", "Result"), "exit-code");
}

#[test]
fn a_configuration_that_only_root_can_read_is_told_to_root_before_a_restart_fails_over_it() {
    const CONFIG: &str = "/etc/fieldmedic/agent.toml";
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    fs::set_permissions(machine.file(CONFIG), fs::Permissions::from_mode(0o600)).unwrap();
    let can_not = format!("the agent, as user fieldmedic, can't read {CONFIG}: chmod a+r {CONFIG}");
    let checked = machine.say(&["fieldmedic", "check"]);
    assert!(checked.contains(&format!("{CONFIG}:1: warning: {can_not}")), "{checked}");
    let audited = machine.run(&["fieldmedic", "audit"]);
    let audited = String::from_utf8_lossy(&audited.stdout).into_owned();
    assert!(audited.contains(&format!("config_unreadable: {can_not}")), "{audited}");
    machine.run(&["systemctl", "restart", "fieldmedic.service"]);
    until("it to fail", || machine.show("fieldmedic.service", "Result") == "exit-code");
    let log = machine.journal("fieldmedic.service");
    assert!(log.contains(&format!("reading {CONFIG}: Permission denied (os error 13), as user fieldmedic")), "{log}");
}

#[test]
fn a_socket_that_an_agent_of_roots_has_left_is_replaced() {
    const SOCKET: &str = "/run/fieldmedic/agent.sock";
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    machine.say(&["systemctl", "stop", "fieldmedic.service"]);
    machine.write("/etc/fieldmedic/look.toml", "[store]\npath = \"/run/look\"\n");
    let configs = ["--config", "/etc/fieldmedic/agent.toml", "--config", "/etc/fieldmedic/look.toml"];
    machine.say(&[&["systemd-run", "--unit=look", "fieldmedic", "run"], &configs[..]].concat());
    until("root's agent to listen", || machine.run(&["fieldmedic", "status"]).status.success());
    machine.say(&["systemctl", "kill", "--signal=KILL", "look.service"]);
    until("it to be gone", || machine.show("look.service", "ActiveState") == "failed");
    machine.say(&["test", "-S", SOCKET]);
    machine.say(&["systemctl", "start", "fieldmedic.service"]);
    machine.say(&["fieldmedic", "status"]);
}
