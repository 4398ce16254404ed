//! A site as configs/fleet has it: mosquitto with that configuration and those ACLs, of which only ports and paths are
//! changed and a door for a watcher is added, gateways with certificates, and the consumer and the signer that are
//! shipped.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::common::broker::free_port;
use crate::common::process::{Process, output_of};
use crate::common::software::mosquitto;
use crate::common::{Authority, Fleet, Gateway, Key, Operator, PREFIX, tool};

/// Debian's, which its packages of modules are for.
const PYTHON: &str = "/usr/bin/python3";
const MODULES: &str = "paho.mqtt.client, zstandard, jwt, cryptography";
/// Who is known by a password, which is the name once more.
const PEOPLE: [&str; 3] = ["reader", "operator", "admin"];

/// A file below configs/.
pub fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(file).canonicalize().unwrap()
}

/// Records by device, kind and number, and how often each is there.
pub type Stored = BTreeMap<(String, String, u64), usize>;

pub struct Site {
    pub operator: Operator,
    dir: TempDir,
    authority: Authority,
    gateways: String,
    people: String,
    watchers: String,
    broker: Option<Process>,
}

impl Site {
    /// `None`, loudly, where there is nothing to run consumer and signer with.
    pub fn new() -> Option<Self> {
        let found = Command::new(PYTHON).args(["-c", &format!("import {MODULES}")]).output();
        if !found.is_ok_and(|output| output.status.success()) {
            println!("SKIPPED: {PYTHON} has not all of {MODULES}: tests/run installs them");
            return None;
        }
        let authority = Authority::new("CA of the fleet");
        let dir = TempDir::new().unwrap();
        let mut site = Self {
            operator: Operator::new("ops-1"),
            dir,
            authority,
            gateways: free_port().to_string(),
            people: free_port().to_string(),
            watchers: free_port().to_string(),
            broker: None,
        };
        site.configure();
        site.start_broker();
        Some(site)
    }

    fn configure(&self) {
        let path = self.dir.path().display().to_string();
        let mut config = fs::read_to_string(shipped("fleet/mosquitto.conf")).unwrap();
        for (from, to) in [
            ("/etc/mosquitto/fieldmedic", path.clone()),
            ("/var/lib/mosquitto", path),
            ("listener 8883", format!("listener {} 127.0.0.1", self.gateways)),
            ("listener 8884", format!("listener {} 127.0.0.1", self.people)),
        ] {
            assert!(config.contains(from), "no {from} in {config}");
            config = config.replace(from, &to);
        }
        // Started by root it would give up root, and with it the right to write into this directory.
        let user = if rustix::process::geteuid().is_root() { "user root\n" } else { "" };
        let watchers = format!("listener {} 127.0.0.1\nallow_anonymous true\n", self.watchers);
        let config = format!("{config}\n{user}log_dest stderr\nlog_type all\n{watchers}");
        fs::write(self.file("mosquitto.conf"), config).unwrap();
        for acl in ["gateways.acl", "fleet.acl"] {
            fs::copy(shipped("fleet").join(acl), self.file(acl)).unwrap();
        }
        fs::write(self.file("gateways-ca.pem"), self.authority.pem()).unwrap();
        self.authority.issue(self.dir.path(), "server", &["127.0.0.1"], Key::Ec);
        fs::write(self.file("passwords"), "").unwrap();
        for name in PEOPLE {
            output_of(tool("mosquitto_passwd").arg("-b").arg(self.file("passwords")).args([name, name]));
            fs::write(self.file(&format!("{name}.password")), name).unwrap();
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn db(&self) -> PathBuf {
        self.file("fleet.db")
    }

    fn start_broker(&mut self) {
        self.broker = Some(mosquitto(&self.file("mosquitto.conf")));
    }

    pub fn restart_broker(&mut self) {
        if let Some(broker) = self.broker.take() {
            broker.signal(Signal::TERM);
            assert!(broker.wait().success());
        }
        self.start_broker();
    }

    /// Waits until the broker's log since its last start has a line with all of these.
    pub fn wait_for_broker(&self, parts: &[&str]) {
        let fits = |line: &String| parts.iter().all(|part| line.contains(part));
        let log = &self.broker.as_ref().unwrap().log;
        log.wait_since(0, &format!("a line with {parts:?}"), |lines| lines.iter().any(fits).then_some(()));
    }

    /// A gateway with a certificate of its own.
    pub fn gateway(&self, device: &str) -> Gateway {
        let [ca, cert, key] = self.certificate(device);
        Gateway::new(device, &format!("mqtts://127.0.0.1:{}", self.gateways)).trusting(&self.operator).with(&format!(
            "[mqtt.tls]\nca_file = {ca:?}\ncert_file = {cert:?}\nkey_file = {key:?}\n[mqtt]\nversion = \"5\""
        ))
    }

    /// The CA, a certificate with this name, and its key.
    fn certificate(&self, name: &str) -> [PathBuf; 3] {
        let (cert, key) = (self.file(&format!("{name}.pem")), self.file(&format!("{name}.key")));
        if !cert.exists() {
            self.authority.issue(self.dir.path(), name, &[name], Key::Ec);
        }
        [self.file("gateways-ca.pem"), cert, key]
    }

    /// A program of mosquitto's at the gateways' door, with this gateway's certificate.
    pub fn as_gateway(&self, program: &str, device: &str) -> Command {
        let [_, cert, key] = self.certificate(device);
        let mut command = self.without_certificate(program);
        command.arg("--cert").arg(cert).arg("--key").arg(key);
        command
    }

    /// The same with none.
    pub fn without_certificate(&self, program: &str) -> Command {
        let mut command = tool(program);
        command.args(["-h", "127.0.0.1", "-p", &self.gateways, "-q", "1"]);
        command.arg("--cafile").arg(self.file("gateways-ca.pem"));
        command
    }

    /// The same at the other door, by name and password.
    pub fn as_person(&self, program: &str, name: &str) -> Command {
        let mut command = tool(program);
        command.args(["-h", "127.0.0.1", "-p", &self.people, "-q", "1", "-u", name, "-P", name]);
        command.arg("--cafile").arg(self.file("gateways-ca.pem"));
        command
    }

    /// Publishes as a gateway.
    pub fn says(&self, device: &str, topic: &str, payload: &[u8]) {
        let file = self.file("payload");
        fs::write(&file, payload).unwrap();
        output_of(self.as_gateway("mosquitto_pub", device).args(["-t", topic]).arg("-f").arg(file));
    }

    /// A gateway's event of no more than its number.
    pub fn tells(&self, device: &str, seq: u64) {
        let event = json!({"v": 1, "device": device, "seq": seq, "time": null, "type": "lifecycle"});
        self.says(device, &format!("{PREFIX}/{device}/events"), event.to_string().as_bytes());
    }

    /// A watcher that is none of what is tested, by a door of its own: with TLS a stock mosquitto_sub may give up for
    /// good where the broker goes away.
    pub fn watch(&self) -> Fleet {
        Fleet::subscribe(&["-h", "127.0.0.1", "-p", &self.watchers, "-i", "watcher"])
    }

    /// consumer.py, which takes in what comes, and prints it into `printed`.
    pub fn consumer(&self) -> Process {
        let mut command = Command::new(PYTHON);
        command.arg(shipped("fleet/consumer.py")).arg("collect").arg("--db").arg(self.db());
        command.args(["--url", &format!("mqtts://127.0.0.1:{}", self.people), "--username", "reader"]);
        command.arg("--password-file").arg(self.file("reader.password"));
        command.arg("--ca-file").arg(self.file("gateways-ca.pem")).arg("--print");
        command.stdin(Stdio::null()).stdout(fs::File::create(self.file("printed")).unwrap());
        let consumer = Process::start("consumer.py", &mut command);
        let ready = |lines: &[String]| lines.iter().any(|line| line.ends_with("subscribed")).then_some(());
        consumer.log.wait_since(0, "the consumer's subscription", ready);
        consumer
    }

    /// A question to consumer.py, whose answers are JSON lines; and its exit code.
    pub fn ask(&self, question: &[&str]) -> (Vec<Json>, Option<i32>) {
        let mut command = Command::new(PYTHON);
        command.arg(shipped("fleet/consumer.py")).args(question).arg("--json").arg("--db").arg(self.db());
        let Output { status, stdout, stderr } = command.output().unwrap();
        assert!(stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
        let lines = String::from_utf8(stdout).unwrap();
        (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), status.code())
    }

    /// What a query of consumer.py's store gives, a line a row.
    pub fn query(&self, query: &str) -> Vec<String> {
        const SCRIPT: &str = "import sqlite3, sys\n\
            for row in sqlite3.connect(sys.argv[1], timeout=30).execute(sys.argv[2]): print(*row)";
        let output = output_of(Command::new(PYTHON).args(["-c", SCRIPT]).arg(self.db()).arg(query));
        String::from_utf8(output).unwrap().lines().map(str::to_owned).collect()
    }

    /// Keeps consumer.py from storing anything, for as long as this lives.
    pub fn lock(&self) -> Process {
        const SCRIPT: &str = "import sqlite3, sys, time\n\
            db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)\n\
            db.execute('BEGIN IMMEDIATE')\nprint('locked', file=sys.stderr, flush=True)\ntime.sleep(600)";
        let lock = Process::start("lock", Command::new(PYTHON).args(["-c", SCRIPT]).arg(self.db()));
        lock.log.wait_since(0, "the lock", |lines| (!lines.is_empty()).then_some(()));
        lock
    }

    /// Every record in consumer.py's store.
    pub fn stored(&self) -> Stored {
        let mut stored = Stored::new();
        for row in self.query("SELECT device, kind, seq FROM record") {
            let fields: Vec<&str> = row.split(' ').collect();
            *stored.entry((fields[0].to_owned(), fields[1].to_owned(), fields[2].parse().unwrap())).or_default() += 1;
        }
        stored
    }

    /// Signs a command by sign.py, and has the operator send it by the line that it prints.
    pub fn order(&self, audience: &str, words: &[&str]) -> String {
        let mut sign = Command::new(PYTHON);
        sign.arg(shipped("fleet/sign.py")).arg(self.operator.private_key()).args(["--aud", audience]).args(words);
        let Output { status, stdout, stderr } = sign.output().unwrap();
        let hint = String::from_utf8(stderr).unwrap();
        assert!(status.success(), "{hint}");
        let (id, line) = hint.trim().split_once(" is sent by: mosquitto_pub -V 5 -h BROKER -q 1 ").unwrap();
        let token = String::from_utf8(stdout).unwrap();
        assert!(line.ends_with(token.trim()), "{hint}");
        output_of(self.as_person("mosquitto_pub", "operator").args(["-V", "5"]).args(line.split(' ')));
        id.to_owned()
    }
}
