//! The Debian package on a booted Debian: installed, configured, upgraded with a store that is full of records,
//! removed, installed again and purged, beside a real broker that it reaches with a key that its user can't read.
//!
//! What is packed are the programs that tests have: built for debugging, with all features, by cargo alone. With
//! FIELDMEDIC_DEB, the path of a package for this machine, it is that one (in tests/nightly what `systemd/package`
//! ships), and its programs have to say what they are made of. The older version is the same one, saying that it is
//! older.
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
#[allow(dead_code, reason = "the lab uses more of it")]
#[path = "../lab/machine.rs"]
mod machine;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value as Json, json};

use common::backlog::fill;
use common::pki::Key;
use common::process::output_of;
use common::{Access, Broker, World, until};
use machine::{HERE, Machine, Network};

const DEVICE: &str = "gw-package";
/// A package that was made elsewhere.
const READY_MADE: &str = "FIELDMEDIC_DEB";
/// What is packed else: the programs as tests have them, a hundred megabytes of symbols less.
const PROGRAMS: [(&str, &str); 2] =
    [("fieldmedic", env!("CARGO_BIN_EXE_fieldmedic")), ("fieldmedic-act", env!("CARGO_BIN_EXE_fieldmedic-act"))];
/// The features that those were built with.
const FEATURES: &str = "default";
const OLD: &str = "0.0.9-1";
/// Samples that the store holds when the package is upgraded.
const RECORDS: u64 = 5_000;
/// How long it may take until all have come.
const BOUND: Duration = Duration::from_secs(120);
const CONFIG: &str = "/etc/fieldmedic/agent.toml";
const POLICY: &str = "/etc/fieldmedic/policy.toml";
const STATE: [&str; 3] = ["/etc/fieldmedic", "/var/lib/fieldmedic", "/var/lib/fieldmedic-act"];

/// A package, and the same once more that says that it is older.
struct Packages {
    old: PathBuf,
    new: PathBuf,
}

impl Packages {
    /// Made once, for all tests. `None`, loudly, where there is nothing to make them with.
    fn make() -> Option<&'static Self> {
        static MADE: OnceLock<Packages> = OnceLock::new();
        let has_cargo_deb = || Command::new("cargo").args(["deb", "--version"]).output();
        if ready_made().is_none() && !has_cargo_deb().is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: there is no cargo-deb here: tests/run installs it");
            return None;
        }
        Some(MADE.get_or_init(Self::pack))
    }

    fn pack() -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package");
        // Of the run before.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let old = dir.join("old");
        let new = ready_made().unwrap_or_else(|| Self::pack_debug(&dir));
        output_of(Command::new("dpkg-deb").arg("--raw-extract").arg(&new).arg(&old));
        let control = fs::read_to_string(old.join("DEBIAN/control")).unwrap();
        let version = control.lines().find(|line| line.starts_with("Version: ")).unwrap();
        fs::write(old.join("DEBIAN/control"), control.replace(version, &format!("Version: {OLD}"))).unwrap();
        let packed = dir.join("old.deb");
        let build = ["-Zgzip", "-z1", "--root-owner-group", "--build"];
        output_of(Command::new("dpkg-deb").args(build).arg(&old).arg(&packed));
        Self { old: packed, new }
    }

    fn pack_debug(dir: &Path) -> PathBuf {
        let (release, out) = (dir.join("release"), dir.join("out"));
        fs::create_dir(&release).unwrap();
        for (name, program) in PROGRAMS {
            output_of(Command::new("strip").arg("-o").arg(release.join(name)).arg(program));
        }
        let mut package = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/package"));
        output_of(package.args(["--features", FEATURES]).arg("--built").arg(dir).arg("--out").arg(&out));
        fs::read_dir(&out).unwrap().next().unwrap().unwrap().path()
    }
}

fn ready_made() -> Option<PathBuf> {
    std::env::var_os(READY_MADE).map(PathBuf::from)
}

/// A Debian with both packages on its disk, and a broker that takes nobody without a certificate.
struct Site {
    machine: Machine,
    world: World,
    // Last: the others are in it.
    _network: Network,
}

impl Site {
    fn new() -> Option<Self> {
        Machine::prepare()?;
        let packages = Packages::make()?;
        let network = Network::enter()?;
        let mut machine = Machine::new()?;
        // The fleet first: a mosquitto that is told to end before it has met anybody may not hear it.
        let mut world = World::around(Broker::start(Access::MutualTls));
        let broker = &mut world.broker;
        broker.stop();
        broker.authority().issue(&broker.file(""), "server", &[HERE, "127.0.0.1"], Key::Ec);
        broker.resume();
        network.forward(broker.port());
        machine.write(
            "/etc/systemd/system/uplink.service",
            "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
             ExecStart=/sbin/ip address add 10.77.0.2/24 dev host0\nExecStart=/sbin/ip link set host0 up\n",
        );
        machine.enable("uplink.service", "multi-user.target");
        for (package, name) in [(&packages.old, "old"), (&packages.new, "new")] {
            fs::copy(package, machine.file(&format!("/root/{name}.deb"))).unwrap();
        }
        machine.boot(&[]);
        Some(Self { machine, world, _network: network })
    }

    /// Puts the keys where the unit takes them from, and has `fieldmedic init` make the configuration; what that says.
    fn configure(&self) -> String {
        let machine = &self.machine;
        for name in ["ca.pem", "client.pem"] {
            fs::copy(self.world.broker.file(name), machine.file(&format!("/etc/fieldmedic/{name}"))).unwrap();
        }
        fs::copy(self.world.broker.file("client.key"), machine.file("/etc/fieldmedic/secrets/tls.key")).unwrap();
        machine.say(&["chmod", "0600", "/etc/fieldmedic/secrets/tls.key"]);
        fs::copy(self.world.operator.public_key(), machine.file("/etc/fieldmedic/ops-1.pub")).unwrap();
        let url = format!("mqtts://{HERE}:{}", self.world.broker.port());
        let mut init = vec!["fieldmedic", "init", "--yes", "--no-check", "--url", &url, "--id", DEVICE];
        init.extend(["--ca", "/etc/fieldmedic/ca.pem", "--cert", "/etc/fieldmedic/client.pem"]);
        init.extend(["--key", "/run/credentials/fieldmedic.service/tls.key"]);
        init.extend(["--trusted-key", "/etc/fieldmedic/ops-1.pub"]);
        machine.say(&init);
        let made = fs::read_to_string(machine.file(CONFIG)).unwrap();
        let config = made
            + "[mqtt.reconnect]\nmin = \"100ms\"\nmax = \"1s\"\n[telemetry]\nsample_interval = \"500ms\"\n\
               report_interval = \"1s\"\npublish_interval = \"1s\"\n[clock]\ntrust = \"always\"\n";
        machine.write(CONFIG, &config);
        let policy = fs::read_to_string(machine.file(POLICY)).unwrap();
        let policy = policy.replacen("actions = []", "actions = [\"quarantine\"]", 1);
        machine.write(POLICY, &(policy + "[clock]\ntrust = \"always\"\n"));
        config
    }

    fn is_enabled(&self, unit: &str) -> bool {
        self.machine.run(&["systemctl", "is-enabled", unit]).status.success()
    }

    /// Waits until the agent says that it holds as many records.
    fn holds(&self, records: u64) {
        until(&format!("the store to hold {records} records"), || {
            let status = self.machine.run(&["fieldmedic", "status", "--json"]);
            let status: Json = serde_json::from_slice(&status.stdout).unwrap_or_default();
            status["outbox"]["records"]["telemetry"].as_u64().is_some_and(|held| held >= records)
        });
    }

    /// Fills the store of an agent that doesn't run; the numbers of what it holds.
    fn fill(&self) -> BTreeSet<u64> {
        // Whoever opens a store has to be its owner.
        let own = |owner: &str| self.machine.say(&["chown", "-R", owner, "/var/lib/fieldmedic/store"]);
        own("root:root");
        let stored = fill(&self.machine.file("/var/lib/fieldmedic/store"), RECORDS);
        own("fieldmedic:fieldmedic");
        stored
    }

    fn answers(&self) {
        self.world.fleet.result(&self.world.order(DEVICE, "ping", json!({})), "SUCCEEDED");
    }
}

#[test]
fn a_package_is_installed_upgraded_with_a_full_store_removed_and_purged_and_nothing_is_lost() {
    let Some(mut site) = Site::new() else { return };
    let said = site.machine.say(&["dpkg", "--install", "/root/old.deb"]);
    assert!(said.contains("it has no configuration: fieldmedic init makes one"), "{said}");
    for unit in ["fieldmedic.service", "fieldmedic-act.socket", "fieldmedic-quarantine.service"] {
        assert!(site.is_enabled(unit), "{unit}");
    }
    // As the next boot does: nothing fails for want of a configuration.
    site.machine.say(&["systemctl", "start", "fieldmedic.service"]);
    assert_eq!(site.machine.show("fieldmedic.service", "ActiveState"), "inactive");
    assert_eq!(site.machine.show("fieldmedic-act.socket", "ActiveState"), "active");

    let config = site.configure();
    site.machine.say(&["/usr/libexec/fieldmedic-act", "--check"]);
    site.machine.say(&["systemctl", "start", "fieldmedic.service"]);
    site.world.fleet.presence(0, DEVICE, true);
    site.world.fleet.sample_since(0, DEVICE, "a sample", |sample| sample["host"].is_object());
    site.answers();
    let key = ["setpriv", "--reuid", "fieldmedic", "--clear-groups", "cat", "/etc/fieldmedic/secrets/tls.key"];
    assert!(!site.machine.run(&key).status.success(), "the agent's user reads the key on the disk");

    site.machine.say(&["systemctl", "stop", "fieldmedic.service"]);
    let stored = site.fill();
    site.world.broker.stop();
    site.machine.say(&["systemctl", "start", "fieldmedic.service"]);
    site.holds(RECORDS);
    let before = site.machine.show("fieldmedic.service", "MainPID");
    site.machine.say(&["dpkg", "--install", "/root/new.deb"]);
    assert_ne!(site.machine.show("fieldmedic.service", "MainPID"), before);
    assert_eq!(fs::read_to_string(site.machine.file(CONFIG)).unwrap(), config);
    site.holds(RECORDS);
    let mark = site.world.fleet.mark();
    site.world.broker.resume();
    site.world.fleet.presence(mark, DEVICE, true);
    site.world.fleet.wait_for_records(BOUND, &stored);
    site.answers();
    upgrade_with_a_wrong_configuration(&site);
    upgrade_under_a_runbook(&site);
    remove_and_purge(&site);
}

/// An agent that runs well is not restarted into a mistake, in whichever file that is, and not said to stand still.
fn upgrade_with_a_wrong_configuration(site: &Site) {
    let machine = &site.machine;
    let (drop_in, second) = ("/etc/systemd/system/fieldmedic.service.d/site.conf", "/etc/fieldmedic/site.toml");
    let start = format!("/usr/bin/fieldmedic run --config {CONFIG} --config {second}");
    machine.write(drop_in, &format!("[Service]\nExecStart=\nExecStart={start}\n"));
    machine.write(second, "[telemetry]\nsample_intervall = \"1s\"\n");
    let agent = || machine.show("fieldmedic.service", "MainPID");
    let before = agent();
    let said = machine.say(&["dpkg", "--install", "/root/new.deb"]);
    let told = format!(
        "fieldmedic runs on in its old version: its configuration is wrong: fieldmedic check --config {CONFIG} \
         --config {second} says where; then: systemctl restart fieldmedic"
    );
    assert!(said.contains(&told) && !said.contains("not started"), "{said}");
    assert_eq!(agent(), before);

    // The same files, put right, are taken up with the version.
    machine.write(second, "[telemetry]\nsample_interval = \"1s\"\n");
    let mark = site.world.fleet.mark();
    machine.say(&["dpkg", "--install", "/root/new.deb"]);
    assert_ne!(agent(), before);
    site.world.fleet.presence(mark, DEVICE, true);
    fs::remove_dir_all(machine.file(drop_in).parent().unwrap()).unwrap();
    machine.say(&["systemctl", "daemon-reload"]);
}

/// What a runbook is in the middle of goes on, also where that is the upgrade.
fn upgrade_under_a_runbook(site: &Site) {
    let machine = &site.machine;
    let runs = || ["fieldmedic-act.service", "fieldmedic.service"].map(|unit| machine.show(unit, "MainPID"));
    let book = ["systemd-run", "--no-block", "--unit=fieldmedic-runbook-0", "--property=Type=oneshot"];
    let until_told = ["sh", "-c", "until [ -e /run/over ]; do sleep 0.1; done"];
    machine.say(&[&book[..], &until_told[..]].concat());
    let before = runs();
    let said = machine.say(&["dpkg", "--install", "/root/new.deb"]);
    assert!(said.contains("restarted when the runbook that runs is over"), "{said}");
    assert_eq!(runs(), before);
    let mark = site.world.fleet.mark();
    machine.say(&["touch", "/run/over"]);
    site.world.fleet.presence(mark, DEVICE, true);
    let after = runs();
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?}, {after:?}");
}

fn remove_and_purge(site: &Site) {
    let (machine, fleet) = (&site.machine, &site.world.fleet);
    let is_there = |path: &&str| machine.file(path).exists();
    let cut_off = site.world.order(DEVICE, "quarantine", json!({"level": "restrict"}));
    fleet.result(&cut_off, "SUCCEEDED");
    let rules = || machine.say(&["nft", "list", "tables"]);
    assert!(rules().contains("fieldmedic"));
    let mark = fleet.mark();
    machine.say(&["dpkg", "--remove", "fieldmedic"]);
    assert_eq!(fleet.presence(mark, DEVICE, false).body["reason"], "stopped");
    assert_eq!(rules(), "", "a removal ends a quarantine");
    assert!(STATE.iter().all(is_there), "a removal keeps configuration and store");
    assert!(!machine.run(&["systemctl", "cat", "fieldmedic.service"]).status.success());

    let mark = fleet.mark();
    machine.say(&["dpkg", "--install", "/root/new.deb"]);
    assert_eq!(fleet.presence(mark, DEVICE, true).body["quarantine"], "none");
    let states = || ["fieldmedic.service", "fieldmedic-act.socket"].map(|unit| machine.show(unit, "ActiveState"));
    for stopped in ["fieldmedic-act.socket", "fieldmedic.service"] {
        machine.say(&["systemctl", "stop", stopped]);
        let before = states();
        machine.say(&["dpkg", "--install", "/root/new.deb"]);
        assert_eq!(states(), before, "an upgrade starts nothing that was stopped");
    }
    for (script, step) in [("prerm", "remove"), ("postinst", "abort-remove")] {
        machine.say(&[&format!("/var/lib/dpkg/info/fieldmedic.{script}"), step]);
    }
    assert_eq!(states(), ["inactive", "inactive"], "nor does a removal that is taken back");
    machine.say(&["dpkg", "--purge", "fieldmedic"]);
    let left: Vec<_> = STATE.iter().filter(|path| is_there(path)).collect();
    assert!(left.is_empty(), "{left:?}");
    machine.say(&["id", "fieldmedic"]);
    let dir =
        ["/etc/systemd", "/run/fieldmedic", "/run/fieldmedic.stopped", "/run/fieldmedic-act.sock", "/run/credentials"];
    let links = machine.run(&[&["find"], &dir[..], &["-name", "*fieldmedic*"]].concat());
    assert_eq!(String::from_utf8_lossy(&links.stdout), "");
    assert_eq!(machine.say(&["systemctl", "list-units", "--failed", "--quiet", "--plain", "--no-legend"]), "");
}

#[test]
fn a_package_brings_pages_and_completions_and_no_file_that_an_upgrade_would_ask_about() {
    let Some(packages) = Packages::make() else { return };
    let ask = |what: &str| {
        let output = output_of(Command::new("dpkg-deb").arg(what).arg(&packages.new));
        String::from_utf8(output).unwrap()
    };
    let files = ask("--contents");
    for path in [
        "usr/share/man/man1/fieldmedic.1.gz",
        "usr/share/man/man1/fieldmedic-send.1.gz",
        "usr/share/man/man8/fieldmedic-act.8.gz",
        "usr/share/bash-completion/completions/fieldmedic",
        "usr/share/zsh/vendor-completions/_fieldmedic",
        "usr/share/fish/vendor_completions.d/fieldmedic.fish",
        "usr/lib/systemd/system/fieldmedic-rescue.timer",
        "usr/share/fieldmedic/agent.toml",
        "usr/share/fieldmedic/fleet/consumer.py",
        "usr/share/fieldmedic/fleet/gateways.acl",
        "usr/share/fieldmedic/fleet/mosquitto.conf",
        "usr/share/fieldmedic/runbooks/free-space",
        "usr/share/doc/fieldmedic/copyright",
        "usr/share/doc/fieldmedic/LICENSE-APACHE",
        "usr/share/doc/fieldmedic/changelog.gz",
        "usr/share/doc/fieldmedic/operations.md.gz",
        "usr/share/doc/fieldmedic/third-party-licences.gz",
    ] {
        assert!(files.lines().any(|line| line.ends_with(&format!(" ./{path}"))), "no {path} in {files}");
    }
    assert!(files.lines().all(|line| line.contains(" 0/0 ") || line.contains(" root/root ")), "{files}");
    assert!(!files.contains(" ./etc"), "{files}");
    let info = ask("--info");
    assert!(info.contains("libc6 (>= 2.34)") && !info.contains("conffiles"), "{info}");
}

#[test]
fn a_package_says_itself_what_its_programs_are_made_of_and_by_which_licences() {
    let Some(packages) = Packages::make() else { return };
    let dir = tempfile::tempdir().unwrap();
    output_of(Command::new("dpkg-deb").arg("--extract").arg(&packages.new).arg(dir.path()));
    let licences = dir.path().join("usr/share/doc/fieldmedic/third-party-licences.gz");
    let licences = String::from_utf8(output_of(Command::new("zcat").arg(licences))).unwrap();
    for expected in ["\nsled v", "\nring v", "Permission is hereby granted"] {
        assert!(licences.contains(expected), "no {expected:?} in {licences:.4000}");
    }
    if ready_made().is_none() {
        eprintln!("the programs are those of tests, which cargo-auditable has not built: their SBOM is not looked for");
        return;
    }
    for program in ["usr/bin/fieldmedic", "usr/libexec/fieldmedic-act"] {
        let sections = output_of(Command::new("readelf").args(["--sections", "--wide"]).arg(dir.path().join(program)));
        assert!(String::from_utf8_lossy(&sections).contains(" .dep-v0 "), "{program} has no SBOM");
    }
}
