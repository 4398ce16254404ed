//! What rules and commands heal, and where that ends: ladders within root's policy, inhibitions, a rollback, an uplink.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::common::operator::claims;
use crate::common::until;
use crate::machine::{HERE, Machine};
use crate::site::{APP_PORT, DEVICE, Site};

/// What is climbed while the application fails, and where its releases are.
fn app_fails(clear_for: &str, steps: &str) -> String {
    format!(
        r#"
[[rules]]
name = "app-fails"
metric = "errors.unit_failures"
above = 0
clear_for = "{clear_for}"
remedy = "heal"
[[ladders]]
name = "heal"
steps = [{steps}
]
[rollback.app]
kind = "slots"
dir = "/opt/app"
trial = "1h"
"#
    )
}

/// What is climbed as soon as the agent has looked at the gateway.
fn at_once(steps: &str) -> String {
    format!(
        r#"
[[rules]]
name = "up"
metric = "host.uptime_s"
above = 0
remedy = "ladder"
[[ladders]]
name = "ladder"
steps = [ {steps} ]
"#
    )
}

/// Root's word on it: what rules may do, and that a rollback restarts the application.
fn app_policy(actions: &str) -> String {
    format!(
        "[local]\nactions = [{actions}]\n\
         [rollback.app]\nkind = \"slots\"\ndir = \"/opt/app\"\nunits = [\"app.service\"]\n"
    )
}

#[test]
fn a_ladder_restarts_the_unit_and_then_shuts_the_gateway_off_where_roots_policy_lets_rules_do_so() {
    let ladder = at_once(
        r#"
  { do = "restart_unit", unit = "app.service", settle = "1s" },
  { do = "quarantine", level = "restrict", settle = "1s" },"#,
    );
    let Some(site) = Site::new(&ladder, "[local]\nactions = [\"restart_unit\", \"quarantine\"]") else { return };
    let told = |name: &str, status: &str| {
        site.world.fleet.wait_for(&format!("{name} to be {status}"), |message| {
            message.body["type"] == "remediation"
                && message.body["name"] == name
                && message.body["remediation"]["status"] == status
        })
    };
    told("restart_unit", "SUCCEEDED");
    told("quarantine", "SUCCEEDED");
    told("ladder_exhausted", "EXHAUSTED");
    assert!(site.rules().contains("fieldmedic_quarantine"));
    assert!(!site.network.reaches(APP_PORT));
}

#[test]
fn what_nothing_heals_goes_through_all_its_remedies_once_and_ends_in_quarantine_without_a_loop() {
    // Both releases are bad.
    let ladder = app_fails(
        "1h",
        r#"
  { do = "restart_unit", unit = "app.service", settle = "1s" },
  { do = "reboot", settle = "1s" },
  { do = "rollback", target = "app", settle = "1s" },
  { do = "quarantine", level = "restrict", settle = "1s" },"#,
    );
    let policy = app_policy("\"restart_unit\", \"reboot\", \"rollback\", \"quarantine\"");
    let Some(site) = Site::with_releases(&ladder, &policy, "sleep 0.2; exit 1") else { return };
    site.world.fleet.wait_for("the ladder to have run out", |message| message.body["name"] == "ladder_exhausted");
    let tried: Vec<String> =
        site.remedies().into_iter().filter(|(_, status)| status == "IN_PROGRESS").map(|(name, _)| name).collect();
    assert_eq!(tried, ["restart_unit", "reboot", "rollback", "quarantine"]);
    assert_eq!(
        (site.machine.boots(), site.machine.say(&["readlink", "/opt/app/current"]).as_str()),
        (2, "releases/1.0")
    );
    assert!(site.rules().contains("fieldmedic_quarantine") && !site.network.reaches(APP_PORT));
    // The alarm stands, the application goes on failing, and after another boot as well nothing is tried anew.
    let (mark, boots) = (site.world.fleet.mark(), site.machine.boots());
    site.machine.run(&["systemctl", "reboot"]);
    site.machine.wait_for_boot(boots);
    site.says(mark, "restrict");
    site.let_pass(5);
    let again = site.remedies().into_iter().filter(|(_, status)| status == "IN_PROGRESS").count();
    assert_eq!((again, site.machine.boots()), (4, boots + 1));
}

#[test]
fn what_somebody_inhibits_is_not_rebooted_and_an_inhibit_file_outlives_the_agent() {
    let ladder = at_once(r#"{ do = "reboot", settle = "1s" }, { do = "quarantine", level = "restrict" }"#);
    let file = "/run/fieldmedic/inhibit";
    let Some(site) = Site::with(&ladder, "[local]\nactions = [\"reboot\", \"quarantine\"]", |machine| {
        machine.write("/etc/systemd/system/update.service", "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/usr/bin/systemd-inhibit --what=shutdown --mode=block --who=updater --why=flashing sh -c 'systemd-notify --ready; exec sleep infinity'\n");
        // Before the agent has looked for the first time.
        machine.write(
            "/usr/lib/tmpfiles.d/inhibit.conf",
            &format!("d /run/fieldmedic 0755 root root\nf {file} 0644 root root - somebody is at work\n"),
        );
    }) else {
        return;
    };
    let machine = &site.machine;
    let is_back = |mark: usize| {
        site.world.fleet.wait_since(mark, "the agent to be back", |message| message.body["name"] == "started");
        // It looks with each round.
        site.let_pass(2);
    };
    site.world.fleet.wait_for("the ladder to be refused", |message| {
        message.body["remediation"]["reason"] == "inhibited" && message.body.to_string().contains("somebody is at work")
    });
    // The agent dies; what somebody has put into its directory stays.
    let (mark, pid) = (site.world.fleet.mark(), machine.show("fieldmedic.service", "MainPID"));
    machine.say(&["kill", "-KILL", &pid]);
    is_back(mark);
    assert_eq!(machine.say(&["cat", file]), "somebody is at work");

    machine.say(&["systemctl", "start", "update.service"]);
    site.let_pass(2);
    let inhibited = || {
        let refused = site.command("reboot", json!({}), "REJECTED");
        assert_eq!(refused["reason"], "inhibited", "{refused}");
        assert!(refused["detail"].as_str().unwrap().contains("flashing"), "{refused}");
    };
    inhibited();
    // A ladder that was refused waits; an agent that is started anew asks at once, and says no second time that it may
    // not.
    let (mark, boots) = (site.world.fleet.mark(), machine.boots());
    machine.say(&["rm", file]);
    machine.say(&["systemctl", "restart", "fieldmedic.service"]);
    is_back(mark);
    inhibited();
    assert!(!site.rules().contains("fieldmedic"), "a ladder doesn't go past somebody's wish");
    assert_eq!(machine.boots(), boots);
    machine.say(&["systemctl", "stop", "update.service"]);
    machine.say(&["systemctl", "restart", "fieldmedic.service"]);
    machine.wait_for_boot(boots);
}

#[test]
fn a_ladder_reboots_once_and_where_that_does_not_help_it_ends_and_does_not_loop() {
    // A unit that fails at each boot.
    const LADDER: &str = r#"
[[rules]]
name = "broken"
metric = "errors.unit_failures"
above = 0
clear_for = "1h"
remedy = "boot"
[[ladders]]
name = "boot"
steps = [ { do = "reboot", settle = "1s" } ]
"#;
    let Some(site) = Site::new(LADDER, "[local]\nactions = [\"reboot\"]") else { return };
    site.machine.say(&["systemctl", "reset-failed"]);
    site.machine.run(&["systemctl", "start", "broken.service"]);
    for (name, status) in [("reboot", "SUCCEEDED"), ("ladder_exhausted", "EXHAUSTED")] {
        site.world.fleet.wait_for(&format!("{name} to be {status}"), |message| {
            message.body["name"] == name && message.body["remediation"]["status"] == status
        });
    }
    assert_eq!(site.machine.boots(), 2);
}

#[test]
fn what_root_lets_no_rule_do_is_refused_to_a_ladder() {
    let ladder = at_once(r#"{ do = "restart_unit", unit = "app.service", settle = "1s" }"#);
    let Some(site) = Site::new(&ladder, "") else { return };
    let before = site.machine.show("app.service", "MainPID");
    site.world.fleet.wait_for("the refusal", |message| {
        message.body["name"] == "restart_unit" && message.body["remediation"]["reason"] == "not_allowed"
    });
    assert_eq!(site.machine.show("app.service", "MainPID"), before);
}

#[test]
fn the_uplink_is_restarted_by_a_unit_of_its_own_and_the_agent_is_back_over_it() {
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    machine.say(&["ip", "route", "add", "default", "via", HERE, "dev", "host0"]);
    let result = site.command("restart_link", json!({"interface": "host0"}), "SUCCEEDED");
    assert!(result["detail"].as_str().unwrap().contains("routes put back: 1"), "{result}");
    assert!(machine.say(&["ip", "route", "show", "default"]).contains(HERE));
    // Root's policy names no other.
    assert_eq!(site.command("restart_link", json!({"interface": "lo"}), "REJECTED")["reason"], "not_allowed");
}

#[test]
fn an_uplink_that_is_down_comes_up_again_whatever_becomes_of_who_wanted_it() {
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    let is_down = || !machine.say(&["ip", "link", "show", "host0"]).contains(",UP");
    // A wish to cancel comes by way of the link itself: it has to be there before that goes down, and after it was
    // begun.
    machine.say(&["rm", "/usr/sbin/ip"]);
    let script = "#!/bin/sh\ncase \"$*\" in *' down') if mv /var/slow /var/begun; then sleep 5; fi ;; esac\nexec /bin/ip \"$@\"\n";
    machine.write("/usr/sbin/ip", script);
    fs::set_permissions(machine.file("/usr/sbin/ip"), fs::Permissions::from_mode(0o755)).unwrap();
    // Its time is over while the link is down; it is canceled before that; the helper dies then.
    // None of this ends what PID 1 does, and but for the last it is told as it ended.
    for (what, status) in [("runs out", "SUCCEEDED"), ("is canceled", "SUCCEEDED"), ("loses its helper", "INTERRUPTED")]
    {
        let mut order = claims(DEVICE, "restart_link", json!({"interface": "host0"}));
        if what == "runs out" {
            order["cmd"]["timeout_s"] = json!(1);
        }
        if what == "is canceled" {
            machine.write("/var/slow", "");
        }
        let id = order["jti"].as_str().unwrap();
        site.world.deliver(DEVICE, &site.world.operator.sign(&order));
        if what == "is canceled" {
            site.world.fleet.result(id, "IN_PROGRESS");
            until("host0 to be about to go down", || machine.file("/var/begun").exists());
            site.command("cancel", json!({"command_id": id}), "SUCCEEDED");
            assert!(!is_down(), "the cancel came too late");
        }
        until("host0 to be down", is_down);
        if what == "loses its helper" {
            machine.say(&["kill", "-KILL", &machine.show("fieldmedic-act.service", "MainPID")]);
        }
        until("host0 to be up again", || !is_down());
        site.command("ping", json!({}), "SUCCEEDED");
        let end = site.world.fleet.wait_for(&format!("the end of one that {what}"), |message| {
            message.leaf() == "results" && message.body["command_id"] == id && message.body["status"] != "IN_PROGRESS"
        });
        assert_eq!(end.body["status"], status, "one that {what}: {end:?}");
    }
}

#[test]
fn a_unit_that_crashed_or_hangs_is_restarted_and_one_that_is_not_there_is_told() {
    // systemd itself would start it no second time.
    let limit = "[Unit]\nStartLimitIntervalSec=1d\nStartLimitBurst=1\n";
    let limited = |machine: &Machine| machine.write("/etc/systemd/system/app.service.d/limit.conf", limit);
    let Some(site) = Site::with("", "", limited) else { return };
    let machine = &site.machine;
    machine.say(&["systemctl", "kill", "--signal=SEGV", "app.service"]);
    until("app.service to have crashed", || machine.show("app.service", "ActiveState") == "failed");
    for state in ["failed", "active"] {
        assert_eq!(machine.show("app.service", "ActiveState"), state);
        site.command("restart_unit", json!({"unit": "app.service"}), "SUCCEEDED");
    }
    assert_eq!(machine.show("app.service", "ActiveState"), "active");

    machine.say(&["systemctl", "start", "hangs.service"]);
    let before = machine.show("hangs.service", "MainPID");
    site.command("restart_unit", json!({"unit": "hangs.service"}), "SUCCEEDED");
    assert_ne!(machine.show("hangs.service", "MainPID"), before);

    assert_eq!(site.command("restart_unit", json!({"unit": "absent.service"}), "FAILED")["reason"], "no_such_unit");
}

#[test]
fn an_application_that_no_restart_heals_is_rolled_back_and_that_heals_it() {
    let ladder = app_fails(
        "3s",
        r#"
  { do = "restart_unit", unit = "app.service", settle = "2s" },
  { do = "restart_unit", unit = "app.service", settle = "2s" },
  { do = "rollback", target = "app", settle = "10s" },"#,
    );
    let policy = app_policy("\"restart_unit\", \"rollback\"");
    let Some(site) = Site::with_releases(&ladder, &policy, "exec sleep infinity") else { return };
    site.world.fleet.wait_for("it to be healed", |message| {
        message.body["type"] == "remediation" && message.body["name"] == "healed"
    });
    let told = site.remedies();
    let begun = told.iter().filter(|(name, status)| status == "IN_PROGRESS" || name == "healed");
    let begun: Vec<&str> = begun.map(|(name, _)| name.as_str()).collect();
    assert_eq!(begun, ["restart_unit", "restart_unit", "rollback", "healed"], "{told:?}");
    for end in [("restart_unit", "FAILED"), ("rollback", "SUCCEEDED")] {
        let end = (end.0.to_owned(), end.1.to_owned());
        assert!(told.contains(&end), "{end:?} of {told:?}");
    }
    assert_eq!(site.machine.say(&["readlink", "/opt/app/current"]), "releases/1.0");
    assert_eq!(site.machine.show("app.service", "ActiveState"), "active");
}

#[test]
fn an_application_that_a_killed_helper_did_not_restart_is_by_the_next_one_and_good_only_then() {
    let config = "[rollback.app]\nkind = \"slots\"\ndir = \"/opt/app\"\ntrial = \"1h\"\nsettle = \"1s\"";
    let policy = app_policy("\"rollback\"");
    let Some(site) = Site::with_releases(config, &policy, "exec sleep infinity") else { return };
    let machine = &site.machine;
    // The release that runs is one that nobody else would restart.
    machine.write("/opt/app/releases/2.0/run", "#!/bin/sh\nexec sleep infinity\n");
    machine.say(&["systemctl", "restart", "app.service"]);
    let app = || machine.show("app.service", "MainPID");
    let (before, mark) = (app(), site.world.fleet.mark());
    let bus = machine.show("dbus.service", "MainPID");
    // Nobody restarts anything without it.
    machine.say(&["kill", "-STOP", &bus]);
    let id = site.order("rollback", json!({"target": "app"}));
    until("the switch", || machine.run(&["readlink", "/opt/app/previous"]).stdout == b"releases/2.0\n");
    machine.say(&["kill", "-KILL", &machine.show("fieldmedic-act.service", "MainPID")]);
    site.world.fleet.result(&id, "INTERRUPTED");
    site.let_pass(3);
    let told = |name: &str| {
        let so_far = site.world.fleet.so_far();
        so_far.iter().skip(mark).any(|message| message.body["name"] == name)
    };
    assert_eq!((app(), told("release_on_trial"), told("release_good")), (before.clone(), false, false));
    machine.say(&["kill", "-CONT", &bus]);
    let tried = site.world.fleet.wait_since(mark, "1.0 to be on trial", |message| {
        message.body["name"] == "release_on_trial" && message.body["release"]["name"] == "1.0"
    });
    let after = app();
    assert_ne!(after, before, "{tried:?}");
    site.world.fleet.wait_since(mark, "1.0 to be good", |message| message.body["name"] == "release_good");
    // As where it is killed before it has forgotten that.
    machine.say(&["kill", "-KILL", &machine.show("fieldmedic-act.service", "MainPID")]);
    site.command("mark_good", json!({"target": "app"}), "SUCCEEDED");
    assert_eq!(app(), after);
}
