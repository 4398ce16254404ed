//! A gateway as it is shipped: the units of systemd/, the daemon without rights, root's helper behind its socket, and the
//! quarantine's boot unit, on a real systemd that is rebooted, crashed and cut off.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test that can't be set up fails, and it may touch the system that the agent's engine must not"
)]

#[path = "../common/mod.rs"]
mod common;
mod machine;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value as Json, json};

use common::operator::claims;
use common::{Operator, World};
use machine::{HERE, Machine, Network};

const DEVICE: &str = "gw-lab";
const HELPER: &str = env!("CARGO_BIN_EXE_fieldmedic-act");
/// What the application of this gateway listens on.
const APP_PORT: u16 = 8080;

/// A gateway with an application, beside a broker, a fleet and an operator.
struct Site {
    machine: Machine,
    world: World,
    // Last: the others are in it.
    network: Network,
}

impl Site {
    /// Booted and online, with this configuration and this policy over what all tests have. `None` where there can be no
    /// machine.
    fn new(config: &str, policy: &str) -> Option<Self> {
        Self::with(config, policy, |_| ())
    }

    /// The same, with more on its disk.
    fn with(config: &str, policy: &str, more: impl FnOnce(&Machine)) -> Option<Self> {
        Machine::prepare()?;
        let network = Network::enter()?;
        let machine = Machine::new()?;
        let world = World::new();
        network.forward(world.broker.port());
        let mut site = Self { machine, world, network };
        site.install(config, policy);
        more(&site.machine);
        site.machine.boot(&[(common::agent::BINARY, "/usr/bin/fieldmedic"), (HELPER, "/usr/libexec/fieldmedic-act")]);
        site.world.fleet.presence(0, DEVICE, true);
        Some(site)
    }

    fn install(&self, config: &str, policy: &str) {
        let machine = &self.machine;
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
        for (from, to) in
            [("", "/etc/systemd/system"), ("sysusers.d", "/usr/lib/sysusers.d"), ("tmpfiles.d", "/usr/lib/tmpfiles.d")]
        {
            for entry in
                fs::read_dir(units.join(from)).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file())
            {
                let to = machine.file(to).join(entry.file_name());
                fs::copy(entry.path(), to).unwrap();
            }
        }
        machine.write("/usr/bin/fieldmedic", "");
        machine.write("/usr/libexec/fieldmedic-act", "");
        machine.enable("fieldmedic.service", "multi-user.target");
        machine.enable("fieldmedic-act.socket", "sockets.target");
        machine.enable("fieldmedic-quarantine.service", "sysinit.target");
        machine.write(
            "/etc/systemd/system/uplink.service",
            "[Unit]\nDescription=The machine's network\nDefaultDependencies=no\nAfter=network-pre.target\n\
             Before=network.target\nWants=network-pre.target\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
             ExecStart=/sbin/ip address add 10.77.0.2/24 dev host0\nExecStart=/sbin/ip link set host0 up\n",
        );
        machine.enable("uplink.service", "sysinit.target");
        machine.write(
            "/etc/systemd/system/app.service",
            "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n",
        );
        machine.write("/etc/systemd/system/broken.service", "[Service]\nExecStart=/bin/false\n");
        machine.write(
            "/etc/systemd/system/hangs.service",
            "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep infinity\nTimeoutStopSec=1s\n",
        );
        machine.write(
            "/etc/systemd/system/front.socket",
            &format!(
                "[Socket]\nListenStream={APP_PORT}\nAccept=yes\nMaxConnections=64\n[Install]\nWantedBy=sockets.target\n"
            ),
        );
        machine.write("/etc/systemd/system/front@.service", "[Service]\nExecStart=/bin/cat\nStandardInput=socket\n");
        for (unit, target) in [
            ("app.service", "multi-user.target"),
            ("broken.service", "multi-user.target"),
            ("front.socket", "sockets.target"),
        ] {
            machine.enable(unit, target);
        }
        fs::create_dir_all(machine.file("/etc/fieldmedic")).unwrap();
        fs::copy(self.world.operator.public_key(), machine.file("/etc/fieldmedic/ops-1.pub")).unwrap();
        let port = self.world.broker.port();
        machine.write(
            "/etc/fieldmedic/agent.toml",
            &format!(
                r#"
[device]
id = "{DEVICE}"
[mqtt]
url = "mqtt://{HERE}:{port}"
[mqtt.reconnect]
min = "100ms"
max = "1s"
[telemetry]
sample_interval = "500ms"
report_interval = "1s"
publish_interval = "1s"
[clock]
trust = "always"
[commands]
trusted_keys = ["ops-1.pub"]
[remediation]
units = ["app.service", "hangs.service", "absent.service", "ssh.service"]
min_uptime = "0s"
{config}"#
            ),
        );
        machine.write(
            "/etc/fieldmedic/policy.toml",
            &format!(
                r#"
[device]
id = "{DEVICE}"
[commands]
trusted_keys = ["ops-1.pub"]
[clock]
trust = "always"
[allow]
actions = ["restart_unit", "restart_link", "reboot", "quarantine", "rollback", "run"]
units = ["app.service", "hangs.service", "absent.service"]
interfaces = ["host0"]
runbooks = ["mark"]
[quarantine]
broker_ports = [{port}]
stop_units = ["app.service"]
{policy}"#
            ),
        );
    }

    /// A runbook, and releases of the application, of which the one that runs fails.
    fn new_with_bad_release() -> Option<Self> {
        const LADDER: &str = r#"
[[rules]]
name = "app-fails"
metric = "errors.unit_failures"
above = 0
clear_for = "3s"
remedy = "heal"
[[ladders]]
name = "heal"
steps = [
  { do = "restart_unit", unit = "app.service", settle = "2s" },
  { do = "restart_unit", unit = "app.service", settle = "2s" },
  { do = "rollback", target = "app", settle = "10s" },
]
[rollback.app]
kind = "slots"
dir = "/opt/app"
trial = "1h"
"#;
        const POLICY: &str = "[local]\nactions = [\"restart_unit\", \"rollback\"]\n\
                              [rollback.app]\nkind = \"slots\"\ndir = \"/opt/app\"\nunits = [\"app.service\"]\n";
        Self::with(LADDER, POLICY, |machine| {
            for (release, text) in [("1.0", "exec sleep infinity"), ("2.0", "sleep 0.2; exit 1")] {
                let program = format!("/opt/app/releases/{release}/run");
                machine.write(&program, &format!("#!/bin/sh\n{text}\n"));
                fs::set_permissions(machine.file(&program), fs::Permissions::from_mode(0o755)).unwrap();
            }
            symlink("releases/2.0", machine.file("/opt/app/current")).unwrap();
            symlink("releases/1.0", machine.file("/opt/app/previous")).unwrap();
            let app = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/opt/app/current/run\nRestart=always\nRestartSec=100ms\n";
            machine.write("/etc/systemd/system/app.service", app);
            let room = "[Service]\nReadWritePaths=/opt/app\n";
            machine.write("/etc/systemd/system/fieldmedic-act.service.d/app.conf", room);
        })
    }

    fn order(&self, name: &str, args: Json) -> String {
        self.world.order(DEVICE, name, args)
    }

    /// Sends a command; its end.
    fn command(&self, name: &str, args: Json, status: &str) -> Json {
        self.world.fleet.result(&self.order(name, args), status)
    }

    /// Waits for a presence that says this level.
    fn says(&self, mark: usize, level: &str) {
        self.world.fleet.wait_since(mark, &format!("presence to say {level}"), |message| {
            message.leaf() == "presence" && message.body["online"] == true && message.body["quarantine"] == level
        });
    }

    fn rules(&self) -> String {
        self.machine.say(&["nft", "list", "ruleset"])
    }
}

#[test]
fn the_daemon_has_no_rights_and_the_helper_restarts_what_roots_policy_names() {
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    let status = machine.say(&["cat", &format!("/proc/{}/status", machine.show("fieldmedic.service", "MainPID"))]);
    let line = |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    assert!(!line("Uid:").contains("\t0\t") && line("CapEff:").ends_with("\t0000000000000000"), "{status}");
    assert!(line("NoNewPrivs:").ends_with('1') && line("Seccomp:").ends_with('2'), "{status}");

    let before = machine.show("app.service", "MainPID");
    let result = site.command("restart_unit", json!({"unit": "app.service"}), "SUCCEEDED");
    let after = machine.show("app.service", "MainPID");
    assert_ne!(before, after);
    assert!(result["detail"].as_str().unwrap().contains(&after), "{result}");
    // The agent's configuration allows it, root doesn't.
    let result = site.command("restart_unit", json!({"unit": "ssh.service"}), "FAILED");
    assert_eq!(result["reason"], "not_allowed", "{result}");
    assert!(machine.journal("fieldmedic-act.service").contains("refused: not_allowed"));
}

#[test]
fn a_commanded_reboot_is_announced_done_and_told_by_the_next_boot() {
    let Some(site) = Site::new("", "") else { return };
    let (mark, boots) = (site.world.fleet.mark(), site.machine.boots());
    let boot = site.machine.say(&["cat", "/proc/sys/kernel/random/boot_id"]);
    let id = site.order("reboot", json!({}));
    site.world.fleet.wait_since(mark, "the goodbye", |message| {
        message.leaf() == "presence" && message.body["online"] == false && message.body["reason"] == "rebooting"
    });
    site.machine.wait_for_boot(boots);
    site.world.fleet.result(&id, "SUCCEEDED");
    assert_ne!(site.machine.say(&["cat", "/proc/sys/kernel/random/boot_id"]), boot);
    assert_eq!(site.machine.boots(), boots + 1);
}

#[test]
fn a_quarantine_cuts_the_gateway_off_from_all_but_the_broker_over_reboots_and_crashes_until_it_is_released() {
    let Some(site) = Site::new("[quarantine]\nstop_units = [\"app.service\"]", "") else { return };
    let (machine, network) = (&site.machine, &site.network);
    assert!(network.reaches(APP_PORT));
    let mark = site.world.fleet.mark();
    let result = site.command("quarantine", json!({"level": "isolate"}), "SUCCEEDED");
    assert!(result["detail"].as_str().unwrap().contains("stopped: app.service"), "{result}");
    site.says(mark, "isolate");
    assert!(!network.reaches(APP_PORT));
    assert_eq!(machine.show("app.service", "ActiveState"), "inactive");

    for end in ["crash", "reboot"] {
        let (mark, boots) = (site.world.fleet.mark(), machine.boots());
        if end == "crash" {
            machine.crash();
        } else {
            machine.run(&["systemctl", "reboot"]);
            machine.wait_for_boot(boots);
        }
        site.says(mark, "isolate");
        assert!(!network.reaches(APP_PORT), "after a {end}");
        // The rules were there before the network was.
        let since = |unit: &str| machine.show(unit, "ActiveEnterTimestampMonotonic").parse::<u64>().unwrap();
        assert!(since("fieldmedic-quarantine.service") <= since("uplink.service"), "after a {end}");
        // It was started at boot, and stopped again.
        machine.until("app.service to be stopped", || machine.show("app.service", "ActiveState") == "inactive");
    }
    assert_eq!(site.command("reboot", json!({}), "REJECTED")["reason"], "quarantined");
    let snapshot = site.command("collect_diagnostics", json!({}), "SUCCEEDED");
    assert!(snapshot["detail"].as_str().unwrap().contains("compressed"), "{snapshot}");

    let forged = claims(DEVICE, "release", json!({}));
    site.world.deliver(DEVICE, &Operator::new("ops-1").sign(&forged));
    site.world.fleet.wait_for("the forged release to be refused", |message| {
        message.body["command_id"] == forged["jti"] && message.body["reason"] == "bad_signature"
    });
    assert!(!network.reaches(APP_PORT) && site.rules().contains("fieldmedic"));

    let mark = site.world.fleet.mark();
    site.command("release", json!({}), "SUCCEEDED");
    site.says(mark, "none");
    assert!(network.reaches(APP_PORT));
    assert_eq!(machine.show("app.service", "ActiveState"), "active");
    assert!(!site.rules().contains("fieldmedic"));
    let (mark, boots) = (site.world.fleet.mark(), machine.boots());
    machine.run(&["systemctl", "reboot"]);
    machine.wait_for_boot(boots);
    site.says(mark, "none");
    assert!(network.reaches(APP_PORT));
}

#[test]
fn only_the_agent_reaches_the_broker_in_quarantine_and_root_on_the_console_ends_it() {
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    site.command("quarantine", json!({"level": "restrict"}), "SUCCEEDED");
    let port = site.world.broker.port();
    let connect = format!("exec 3<>/dev/tcp/{HERE}/{port}");
    let as_user = |user: &str| {
        machine
            .run(&["setpriv", "--reuid", user, "--clear-groups", "timeout", "2", "bash", "-c", &connect])
            .status
            .success()
    };
    assert!(as_user("fieldmedic"), "the agent's user reaches the broker");
    assert!(!as_user("nobody") && !as_user("root"), "and nobody else");

    let mark = site.world.fleet.mark();
    assert!(
        !machine
            .run(&["setpriv", "--reuid", "nobody", "--clear-groups", "fieldmedic", "release", "--local"])
            .status
            .success()
    );
    assert!(site.rules().contains("fieldmedic"));
    let said = machine.say(&["fieldmedic", "release", "--local"]);
    assert!(said.starts_with("released"), "{said}");
    assert!(!site.rules().contains("fieldmedic"));
    site.says(mark, "none");
    assert!(as_user("nobody"));
}

#[test]
fn a_ladder_restarts_the_unit_and_then_shuts_the_gateway_off_where_roots_policy_lets_rules_do_so() {
    const LADDER: &str = r#"
[[rules]]
name = "up"
metric = "host.uptime_s"
above = 0
remedy = "shut"
[[ladders]]
name = "shut"
steps = [ { do = "restart_unit", unit = "app.service", settle = "1s" }, { do = "quarantine", level = "restrict", settle = "1s" } ]
"#;
    let Some(site) = Site::new(LADDER, "[local]\nactions = [\"restart_unit\", \"quarantine\"]") else { return };
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
    const LADDER: &str = r#"
[[rules]]
name = "up"
metric = "host.uptime_s"
above = 0
remedy = "again"
[[ladders]]
name = "again"
steps = [ { do = "restart_unit", unit = "app.service", settle = "1s" } ]
"#;
    let Some(site) = Site::new(LADDER, "") else { return };
    let before = site.machine.show("app.service", "MainPID");
    site.world.fleet.wait_for("the refusal", |message| {
        message.body["name"] == "restart_unit" && message.body["remediation"]["reason"] == "not_allowed"
    });
    assert_eq!(site.machine.show("app.service", "MainPID"), before);
}

#[test]
fn an_agent_that_hangs_is_killed_by_the_watchdog_and_says_so_when_it_is_back() {
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    machine.say(&["mkdir", "-p", "/etc/systemd/system/fieldmedic.service.d"]);
    machine.say(&[
        "sh",
        "-c",
        "printf '[Service]\\nWatchdogSec=2s\\n' > /etc/systemd/system/fieldmedic.service.d/fast.conf",
    ]);
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
fn the_uplink_is_restarted_by_a_unit_of_its_own_and_the_agent_is_back_over_it() {
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    machine.say(&["ip", "route", "add", "default", "via", HERE, "dev", "host0"]);
    let result = site.command("restart_link", json!({"interface": "host0"}), "SUCCEEDED");
    assert!(result["detail"].as_str().unwrap().contains("routes put back: 1"), "{result}");
    assert!(machine.say(&["ip", "route", "show", "default"]).contains(HERE));
    // Root's policy names no other.
    assert_eq!(site.command("restart_link", json!({"interface": "lo"}), "FAILED")["reason"], "not_allowed");
}

#[test]
fn a_snapshot_of_a_confined_agent_names_what_has_failed_and_what_the_journal_says() {
    let Some(site) = Site::new("", "") else { return };
    let id = site.order("collect_diagnostics", json!({}));
    site.world.fleet.result(&id, "SUCCEEDED");
    let text = site.world.fleet.snapshot(&id);
    for word in ["broken.service failed", "addresses: ", "10.77.0.2", "Started", "app.service", "tcp"] {
        assert!(text.contains(word), "no {word} in {text}");
    }
}

#[test]
fn a_unit_that_crashed_or_hangs_is_restarted_and_one_that_is_not_there_is_told() {
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    machine.say(&["systemctl", "kill", "--signal=SEGV", "app.service"]);
    machine.until("app.service to have crashed", || machine.show("app.service", "ActiveState") == "failed");
    site.command("restart_unit", json!({"unit": "app.service"}), "SUCCEEDED");
    assert_eq!(machine.show("app.service", "ActiveState"), "active");

    machine.say(&["systemctl", "start", "hangs.service"]);
    let before = machine.show("hangs.service", "MainPID");
    site.command("restart_unit", json!({"unit": "hangs.service"}), "SUCCEEDED");
    assert_ne!(machine.show("hangs.service", "MainPID"), before);

    assert_eq!(site.command("restart_unit", json!({"unit": "absent.service"}), "FAILED")["reason"], "no_such_unit");
}

#[test]
fn an_application_that_no_restart_heals_is_rolled_back_and_that_heals_it() {
    let Some(site) = Site::new_with_bad_release() else { return };
    site.world.fleet.wait_for("it to be healed", |message| {
        message.body["type"] == "remediation" && message.body["name"] == "healed"
    });
    let mut told: Vec<(u64, String, String)> = site
        .world
        .fleet
        .so_far()
        .into_iter()
        .filter(|message| message.body["type"] == "remediation")
        .map(|message| {
            let text = |json: &Json| json.as_str().unwrap_or_default().to_owned();
            let body = &message.body;
            (body["seq"].as_u64().unwrap(), text(&body["name"]), text(&body["remediation"]["status"]))
        })
        .collect();
    told.sort();
    told.dedup();
    let begun: Vec<&str> =
        told.iter().filter(|(.., status)| status != "SUCCEEDED").map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(begun, ["restart_unit", "restart_unit", "rollback", "healed"], "{told:?}");
    assert_eq!(site.machine.say(&["readlink", "/opt/app/current"]), "releases/1.0");
    assert_eq!(site.machine.show("app.service", "ActiveState"), "active");
}

#[test]
fn a_runbook_runs_at_most_once_whenever_the_power_goes_and_its_status_is_told() {
    let Some(site) = Site::with("", "", |machine| {
        machine.write("/etc/fieldmedic/runbooks/mark", "#!/bin/sh\necho \"$1\" >> /var/marks\nsleep 0.3\n");
        fs::set_permissions(machine.file("/etc/fieldmedic/runbooks/mark"), fs::Permissions::from_mode(0o755)).unwrap();
    }) else {
        return;
    };
    for moment_ms in [0, 20, 50, 100, 200, 400] {
        let mark = format!("after-{moment_ms}-$HOME-$$-ms");
        let seen = site.world.fleet.mark();
        let id = site.order("run", json!({"runbook": "mark", "args": [mark]}));
        // This is the moment at which the power goes.
        thread::sleep(Duration::from_millis(moment_ms));
        site.machine.crash();
        site.world.fleet.presence(seen, DEVICE, true);
        let end = site.world.fleet.wait_for(&format!("the end of {id}"), |message| {
            message.body["command_id"] == *id && message.body["status"] != "IN_PROGRESS" && message.leaf() == "results"
        });
        let runs = site.machine.run(&["grep", "-cxF", &mark, "/var/marks"]);
        let runs = String::from_utf8_lossy(&runs.stdout).trim().parse::<u32>().unwrap_or(0);
        assert!(runs <= 1, "{mark}: {runs} runs");
        assert!(end.body["status"] != "SUCCEEDED" || runs == 1, "{mark}: {end:?}, {runs} runs");
    }
}
