//! A gateway as it is shipped: the units of systemd/, the daemon without rights, root's helper behind its socket, and
//! the quarantine's boot unit, on a real systemd that is rebooted, crashed and cut off.
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

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use common::operator::{claims, wrong_tokens};
use common::process::Process;
use common::{Message, Operator, PREFIX, World, tool};
use machine::{HERE, Machine, Network};

const DEVICE: &str = "gw-lab";
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
    /// Booted and online, with this configuration and this policy over what all tests have. `None` where there can be
    /// no machine.
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
        let [program, helper] = [common::agent::program(), common::agent::helper()].map(|it| it.into_string().unwrap());
        site.machine.boot(&[(&program, "/usr/bin/fieldmedic"), (&helper, "/usr/libexec/fieldmedic-act")]);
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
        Self::with_releases(LADDER, POLICY, "exec sleep infinity")
    }

    /// The same; of the releases of the application 2.0 runs, and fails, and 1.0 does this.
    fn with_releases(config: &str, policy: &str, older: &str) -> Option<Self> {
        Self::with(config, policy, |machine| {
            for (release, text) in [("1.0", older), ("2.0", "sleep 0.2; exit 1")] {
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

    /// Name and status of each remedy that was told, in order, each once.
    fn remedies(&self) -> Vec<(String, String)> {
        let messages = self.world.fleet.so_far();
        let remedies = messages.iter().filter(|message| message.body["type"] == "remediation").map(|message| {
            let text = |json: &Json| json.as_str().unwrap_or_default().to_owned();
            let body = &message.body;
            (body["seq"].as_u64().unwrap(), (text(&body["name"]), text(&body["remediation"]["status"])))
        });
        // Numbers rise over boots, and what came twice has one.
        remedies.collect::<BTreeMap<_, _>>().into_values().collect()
    }

    fn order(&self, name: &str, args: Json) -> String {
        self.world.order(DEVICE, name, args)
    }

    /// Sends a command; its end.
    fn command(&self, name: &str, args: Json, status: &str) -> Json {
        self.world.fleet.result(&self.order(name, args), status)
    }

    /// Waits for so many more samples.
    fn let_pass(&self, samples: usize) {
        for _ in 0..samples {
            self.world.fleet.sample_since(self.world.fleet.mark(), DEVICE, "another sample", |_| true);
        }
    }

    /// Orders something and takes the power away so long after; how it ended for the fleet.
    fn cut(&self, name: &str, args: Json, after: Duration) -> (String, Json) {
        let seen = self.world.fleet.mark();
        let id = self.order(name, args);
        // This is the moment at which the power goes.
        thread::sleep(after);
        self.machine.crash();
        self.world.fleet.presence(seen, DEVICE, true);
        let end =
            self.world.fleet.wait_for(&format!("the end of {name}, cut off {after:?} after it was sent"), |message| {
                let open = ["QUEUED", "IN_PROGRESS"].iter().any(|open| message.body["status"] == *open);
                message.leaf() == "results" && message.body["command_id"] == *id && !open
            });
        (end.body["status"].as_str().unwrap().to_owned(), end.body)
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
    let result = site.command("restart_unit", json!({"unit": "ssh.service"}), "REJECTED");
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
fn a_reboot_that_root_orders_is_announced_too_and_a_stop_is_none() {
    let Some(site) = Site::new("", "") else { return };
    let goodbye = |mark: usize| {
        let message = site
            .world
            .fleet
            .wait_since(mark, "the goodbye", |message| message.leaf() == "presence" && message.body["online"] == false);
        message.body["reason"].clone()
    };
    let mark = site.world.fleet.mark();
    site.machine.say(&["systemctl", "stop", "fieldmedic.service"]);
    assert_eq!(goodbye(mark), "stopped");
    site.machine.say(&["systemctl", "start", "fieldmedic.service"]);
    site.world.fleet.presence(mark, DEVICE, true);
    let (mark, boots) = (site.world.fleet.mark(), site.machine.boots());
    site.machine.run(&["systemctl", "reboot"]);
    assert_eq!(goodbye(mark), "rebooting");
    site.machine.wait_for_boot(boots);
    let event = site.world.fleet.wait_since(mark, "what the next boot says of it", |message| {
        message.leaf() == "events" && message.body["name"] == "rebooted"
    });
    assert_eq!(event.body["reboot"]["reason"], "user", "{event:?}");
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
fn what_nothing_heals_goes_through_all_its_remedies_once_and_ends_in_quarantine_without_a_loop() {
    // Both releases are bad.
    const LADDER: &str = r#"
[[rules]]
name = "app-fails"
metric = "errors.unit_failures"
above = 0
clear_for = "1h"
remedy = "heal"
[[ladders]]
name = "heal"
steps = [
  { do = "restart_unit", unit = "app.service", settle = "1s" },
  { do = "reboot", settle = "1s" },
  { do = "rollback", target = "app", settle = "1s" },
  { do = "quarantine", level = "restrict", settle = "1s" },
]
[rollback.app]
kind = "slots"
dir = "/opt/app"
trial = "1h"
"#;
    const POLICY: &str = "[local]\nactions = [\"restart_unit\", \"reboot\", \"rollback\", \"quarantine\"]\n\
                          [rollback.app]\nkind = \"slots\"\ndir = \"/opt/app\"\nunits = [\"app.service\"]\n";
    let Some(site) = Site::with_releases(LADDER, POLICY, "sleep 0.2; exit 1") else { return };
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
    const LADDER: &str = r#"
[[rules]]
name = "up"
metric = "host.uptime_s"
above = 0
remedy = "boot"
[[ladders]]
name = "boot"
steps = [ { do = "reboot", settle = "1s" }, { do = "quarantine", level = "restrict" } ]
"#;
    let file = "/run/fieldmedic/inhibit";
    let Some(site) = Site::with(LADDER, "[local]\nactions = [\"reboot\", \"quarantine\"]", |machine| {
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
    let refusal = |mark: usize, text: &str| {
        site.world.fleet.wait_since(mark, &format!("the ladder to be refused: {text}"), |message| {
            message.body["remediation"]["reason"] == "inhibited" && message.body.to_string().contains(text)
        })
    };
    refusal(0, "somebody is at work");
    // The agent dies; what somebody has put into its directory stays.
    let (mark, pid) = (site.world.fleet.mark(), machine.show("fieldmedic.service", "MainPID"));
    machine.say(&["kill", "-KILL", &pid]);
    refusal(mark, "somebody is at work");
    assert_eq!(machine.say(&["cat", file]), "somebody is at work");

    let mark = site.world.fleet.mark();
    machine.say(&["systemctl", "start", "update.service"]);
    // The agent looks with each round.
    site.let_pass(2);
    let refused = site.command("reboot", json!({}), "REJECTED");
    assert_eq!(refused["reason"], "inhibited", "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("flashing"), "{refused}");
    // A ladder that was told of one inhibition waits; the next is told by the agent that is started anew.
    machine.say(&["rm", file]);
    machine.say(&["systemctl", "restart", "fieldmedic.service"]);
    refusal(mark, "updater inhibits it: flashing");
    assert!(!site.rules().contains("fieldmedic"), "a ladder doesn't go past somebody's wish");
    let boots = machine.boots();
    machine.say(&["systemctl", "stop", "update.service"]);
    machine.say(&["systemctl", "restart", "fieldmedic.service"]);
    machine.wait_for_boot(boots);
}

#[test]
fn a_hostile_operator_is_refused_with_the_reason_and_costs_little() {
    let Some(site) = Site::new("", "") else { return };
    let (machine, operator, before) =
        (&site.machine, &site.world.operator, site.machine.show("app.service", "MainPID"));
    let restart = || claims(DEVICE, "restart_unit", json!({"unit": "app.service"}));
    let mut tokens: Vec<(&str, String)> =
        wrong_tokens(operator, restart).into_iter().map(|wrong| (wrong.reason, wrong.token)).collect();
    tokens.push(("malformed", "{}".repeat(1_000)));
    let mut unheard_of = restart();
    unheard_of["cmd"] = json!({"name": "drop-tables", "args": {"all": true}});
    tokens.push(("unknown_command", operator.sign(&unheard_of)));
    for (reason, token) in &tokens {
        let mark = site.world.fleet.mark();
        site.world.deliver(DEVICE, token);
        site.world.fleet.wait_since(mark, &format!("a refusal as {reason}"), |message| {
            message.leaf() == "results" && message.body["reason"] == *reason && message.body["status"] == "REJECTED"
        });
        site.world.fleet.wait_since(mark, &format!("the audit of {reason}"), |message| {
            message.body["type"] == "audit" && message.body["audit"]["reason"] == *reason
        });
    }
    // A genuine one that is recorded and sent again, and another one under its id.
    let genuine = claims(DEVICE, "ping", json!({}));
    let token = operator.sign(&genuine);
    for times in 1..=3 {
        site.world.deliver(DEVICE, &token);
        site.world.fleet.results(genuine["jti"].as_str().unwrap(), "SUCCEEDED", times);
    }
    let mut other = restart();
    other["jti"] = genuine["jti"].clone();
    site.world.deliver(DEVICE, &operator.sign(&other));
    site.world.fleet.wait_for("the replay to be refused", |message| {
        message.leaf() == "results"
            && message.body["command_id"] == genuine["jti"]
            && message.body["reason"] == "replayed"
    });

    // And a siege by all of them, in volleys that the broker's queue holds.
    const VOLLEYS: usize = 6;
    let spent = || machine.show("fieldmedic.service", "CPUUsageNSec").parse::<u64>().unwrap();
    let volley: String = (0..900).map(|n| format!("{}\n", tokens[n % tokens.len()].1)).collect();
    let sent = VOLLEYS * volley.lines().count();
    // What is genuine and was refused once is answered from the ledger, and counts no more.
    const COUNTED: [&str; 4] = ["bad_signature", "unknown_key", "wrong_audience", "too_large"];
    let counted = (0..900).filter(|n| COUNTED.contains(&tokens[n % tokens.len()].0)).count();
    let (mark, cpu, began) = (site.world.fleet.mark(), spent(), Instant::now());
    for volleys in 1..=VOLLEYS {
        site.world.broker.publish_lines(&format!("{PREFIX}/{DEVICE}/commands"), &volley);
        site.world.fleet.wait_all(common::SOON * 2, "all of them to be counted", |messages| {
            let samples = messages[mark..].iter().flat_map(Message::samples);
            let counts = samples.filter_map(|sample| sample["agent"]["commands_refused"].as_object());
            let sum: u64 = counts
                .flatten()
                .filter(|(reason, _)| COUNTED.contains(&reason.as_str()))
                .filter_map(|(_, n)| n.as_u64())
                .sum();
            (sum >= (volleys * counted) as u64).then_some(())
        });
    }
    let (took, cost_ms) = (began.elapsed().as_secs_f64(), (spent() - cpu) as f64 / 1e6);
    println!(
        "{sent} hostile commands in {took:.1} s, {:.0} a second: {:.0} us of CPU each, {:.1} % of one processor",
        sent as f64 / took,
        cost_ms * 1_000.0 / sent as f64,
        cost_ms / took / 10.0,
    );
    let told = site.world.fleet.so_far()[mark..].iter().filter(|message| message.body["type"] == "audit").count();
    assert!(told < sent / 10, "{told} events for {sent} messages");
    site.command("ping", json!({}), "SUCCEEDED");
    assert_eq!(machine.show("app.service", "MainPID"), before, "nothing of it was done");
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
    machine.until("the watchdog", || machine.journal("fieldmedic.service").contains("Watchdog timeout"));
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
        machine.until(&what, || machine.show("fieldmedic-rescue.timer", "ActiveState") == state);
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
    machine.until("a second rescue", || rescues() >= 2);
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
    machine.until("the rescue's timer to begin", || timer("ActiveState") == "active");
    assert_eq!(machine.show("fieldmedic.service", "NRestarts"), "0");
    assert_eq!(machine.show("fieldmedic.service", "Result"), "exit-code");
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
            machine.until("host0 to be about to go down", || machine.file("/var/begun").exists());
            site.command("cancel", json!({"command_id": id}), "SUCCEEDED");
            assert!(!is_down(), "the cancel came too late");
        }
        machine.until("host0 to be down", is_down);
        if what == "loses its helper" {
            machine.say(&["kill", "-KILL", &machine.show("fieldmedic-act.service", "MainPID")]);
        }
        machine.until("host0 to be up again", || !is_down());
        site.command("ping", json!({}), "SUCCEEDED");
        let end = site.world.fleet.wait_for(&format!("the end of one that {what}"), |message| {
            message.leaf() == "results" && message.body["command_id"] == id && message.body["status"] != "IN_PROGRESS"
        });
        assert_eq!(end.body["status"], status, "one that {what}: {end:?}");
    }
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
    let told = site.remedies();
    let begun: Vec<&str> =
        told.iter().filter(|(_, status)| status != "SUCCEEDED").map(|(name, _)| name.as_str()).collect();
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
    let runs = |mark: &str| {
        let runs = site.machine.run(&["grep", "-cxF", mark, "/var/marks"]);
        String::from_utf8_lossy(&runs.stdout).trim().parse::<u32>().unwrap_or(0)
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
        let runs = runs(&mark);
        assert!(runs <= 1, "{mark}: {runs} runs");
        assert!(end.body["status"] != "SUCCEEDED" || runs == 1, "{mark}: {end:?}, {runs} runs");
    }
    // And where nothing comes in between it does run.
    site.command("run", json!({"runbook": "mark", "args": ["uncut"]}), "SUCCEEDED");
    assert_eq!(runs("uncut"), 1);
}

#[test]
fn every_remedy_is_done_at_most_once_whenever_the_power_goes_and_its_status_is_true() {
    const MOMENTS_MS: [u64; 6] = [0, 15, 40, 80, 160, 320];
    const CONFIG: &str = "[rollback.app]\nkind = \"slots\"\ndir = \"/opt/app\"\ntrial = \"1h\"\n\
                          [remediation.budget]\nrestart_unit = \"50/1h\"\nreboot = \"50/1h\"\nrollback = \"50/1h\"";
    const POLICY: &str = "[rollback.app]\nkind = \"slots\"\ndir = \"/opt/app\"\n\
                          [budget]\nrestart_unit = \"50/1h\"\nreboot = \"50/1h\"\nrollback = \"50/1h\"";
    let Some(site) = Site::with_releases(CONFIG, POLICY, "") else { return };
    let machine = &site.machine;
    let app = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo started >>/var/starts'\n";
    machine.write("/etc/systemd/system/app.service", app);
    machine.say(&["rm", "-f", "/var/starts"]);
    machine.crash();
    let before_all = machine.boots();
    let restarts = || {
        let starts = machine.say(&["cat", "/var/starts"]).lines().count();
        starts - usize::try_from(machine.boots() - before_all + 1).unwrap()
    };
    let current = || machine.say(&["readlink", "/opt/app/current"]);
    let release_2_0 = || {
        machine.say(&["ln", "-sfn", "releases/2.0", "/opt/app/current"]);
        machine.say(&["ln", "-sfn", "releases/1.0", "/opt/app/previous"]);
        machine.say(&["rm", "-f", "/opt/app/.fieldmedic.json"]);
    };
    let mut ends: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for moment_ms in MOMENTS_MS {
        let moment = Duration::from_millis(moment_ms);
        let mut ended = |name: &'static str, status: &str| *ends.entry((name, status.to_owned())).or_default() += 1;

        let before = restarts();
        let (status, end) = site.cut("restart_unit", json!({"unit": "app.service"}), moment);
        let done = restarts() - before;
        assert!(done <= 1 && (status != "SUCCEEDED" || done == 1), "restart_unit, {moment_ms} ms: {end}, {done} times");
        ended("restart_unit", &status);

        release_2_0();
        let (status, end) = site.cut("rollback", json!({"target": "app"}), moment);
        let now = current();
        assert!(
            now == "releases/1.0" || (now == "releases/2.0" && status != "SUCCEEDED"),
            "rollback, {moment_ms} ms: {end}, and it is {now}"
        );
        ended("rollback", &status);

        for (name, args, succeeded) in
            [("quarantine", json!({"level": "restrict"}), "restrict"), ("release", json!({}), "none")]
        {
            let (status, _) = site.cut(name, args, moment);
            // What was cut off leaves the gateway as it was, or shut; what is said of it is what is in force.
            machine.until("presence to say what is in force", || {
                let messages = site.world.fleet.so_far();
                let says =
                    messages.iter().rfind(|message| message.leaf() == "presence" && message.body["online"] == true);
                let says = says.unwrap().body["quarantine"].clone();
                let in_force = if site.rules().contains("fieldmedic_quarantine") { "restrict" } else { "none" };
                says == in_force && (status != "SUCCEEDED" || says == succeeded)
            });
            ended(name, &status);
        }
        if site.rules().contains("fieldmedic_quarantine") {
            site.command("release", json!({}), "SUCCEEDED");
        }

        let (seen, boots) = (site.world.fleet.mark(), machine.boots());
        let (status, end) = site.cut("reboot", json!({}), moment);
        assert_eq!(status, "SUCCEEDED", "{moment_ms} ms: it was another boot, whoever brought it about: {end}");
        let done = machine.boots() - boots;
        assert!(done <= 2, "reboot, {moment_ms} ms: {done} boots");
        site.world.fleet.presence(seen, DEVICE, true);
        site.let_pass(3);
        assert_eq!(machine.boots() - boots, done, "reboot, {moment_ms} ms: once and no more");
        ended("reboot", &status);
    }
    println!("how remedies ended that were cut off: {ends:?}");
    let wrong = ends.keys().find(|(name, status)| match status.as_str() {
        "SUCCEEDED" | "INTERRUPTED" | "FAILED" => false,
        // It waited for the look at the rules that each start begins with, and was never begun.
        "CANCELED" => *name != "release",
        _ => true,
    });
    assert_eq!(wrong, None, "{ends:?}");

    // Never to act at all would be at most once, too: each is done once where nothing comes in between.
    let before = restarts();
    site.command("restart_unit", json!({"unit": "app.service"}), "SUCCEEDED");
    assert_eq!(restarts() - before, 1);
    release_2_0();
    site.command("rollback", json!({"target": "app"}), "SUCCEEDED");
    assert_eq!(current(), "releases/1.0");
    site.command("quarantine", json!({"level": "restrict"}), "SUCCEEDED");
    assert!(site.rules().contains("fieldmedic_quarantine"));
    site.command("release", json!({}), "SUCCEEDED");
    assert!(!site.rules().contains("fieldmedic_quarantine"));
    let before = machine.boots();
    let id = site.order("reboot", json!({}));
    machine.wait_for_boot(before);
    site.world.fleet.result(&id, "SUCCEEDED");
    site.let_pass(3);
    assert_eq!(machine.boots() - before, 1);
}
