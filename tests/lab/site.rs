//! A gateway as it is shipped, with an application on it, in a network with a broker, a fleet and an operator: what all
//! tests here begin with, and what they say to it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value as Json;

use crate::common::{self, World};
use crate::machine::{HERE, Machine, Network};

pub(crate) const DEVICE: &str = "gw-lab";
/// What the application of this gateway listens on.
pub(crate) const APP_PORT: u16 = 8080;

/// A gateway with an application, beside a broker, a fleet and an operator.
pub(crate) struct Site {
    pub(crate) machine: Machine,
    pub(crate) world: World,
    // Last: the others are in it.
    pub(crate) network: Network,
}

impl Site {
    /// Booted and online, with this configuration and this policy over what all tests have. `None` where there can be
    /// no machine.
    pub(crate) fn new(config: &str, policy: &str) -> Option<Self> {
        Self::with(config, policy, |_| ())
    }

    /// The same, with more on its disk.
    pub(crate) fn with(config: &str, policy: &str, more: impl FnOnce(&Machine)) -> Option<Self> {
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
        self.install_agent();
        self.install_application();
        self.configure(config, policy);
    }

    /// Its units, for programs that are bound over these.
    fn install_agent(&self) {
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
    }

    /// The machine's network, and units that work, fail or hang.
    fn install_application(&self) {
        let machine = &self.machine;
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
    }

    fn configure(&self, config: &str, policy: &str) {
        let machine = &self.machine;
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

    /// Of the releases of the application 2.0 runs, and fails, and 1.0 does this.
    pub(crate) fn with_releases(config: &str, policy: &str, older: &str) -> Option<Self> {
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
    pub(crate) fn remedies(&self) -> Vec<(String, String)> {
        let messages = self.world.fleet.so_far();
        let remedies = messages.iter().filter(|message| message.body["type"] == "remediation").map(|message| {
            let text = |json: &Json| json.as_str().unwrap_or_default().to_owned();
            let body = &message.body;
            (body["seq"].as_u64().unwrap(), (text(&body["name"]), text(&body["remediation"]["status"])))
        });
        // Numbers rise over boots, and what came twice has one.
        remedies.collect::<BTreeMap<_, _>>().into_values().collect()
    }

    pub(crate) fn order(&self, name: &str, args: Json) -> String {
        self.world.order(DEVICE, name, args)
    }

    /// Sends a command; its end.
    pub(crate) fn command(&self, name: &str, args: Json, status: &str) -> Json {
        self.world.fleet.result(&self.order(name, args), status)
    }

    /// Waits for so many more samples.
    pub(crate) fn let_pass(&self, samples: usize) {
        for _ in 0..samples {
            self.world.fleet.sample_since(self.world.fleet.mark(), DEVICE, "another sample", |_| true);
        }
    }

    /// Orders something and takes the power away so long after; how it ended for the fleet.
    pub(crate) fn cut(&self, name: &str, args: Json, after: Duration) -> (String, Json) {
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
    pub(crate) fn says(&self, mark: usize, level: &str) {
        self.world.fleet.wait_since(mark, &format!("presence to say {level}"), |message| {
            message.leaf() == "presence" && message.body["online"] == true && message.body["quarantine"] == level
        });
    }

    pub(crate) fn rules(&self) -> String {
        self.machine.say(&["nft", "list", "ruleset"])
    }
}
