//! One gateway's files, and the built agent that runs on them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value as Json;
use tempfile::TempDir;

use super::SOON;
use super::operator::Operator;
use super::process::{Process, Stream};
use super::tree::Tree;

/// The program under test: the one that was built with this test, unless FIELDMEDIC_PROGRAM names another
/// (`tests/arm`).
pub fn program() -> OsString {
    std::env::var_os("FIELDMEDIC_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_fieldmedic").into())
}

/// The root helper; FIELDMEDIC_HELPER names another.
pub fn helper() -> OsString {
    std::env::var_os("FIELDMEDIC_HELPER").unwrap_or_else(|| env!("CARGO_BIN_EXE_fieldmedic-act").into())
}

/// A gateway: its configuration, store, socket and runbooks. It may be started many times.
pub struct Gateway {
    dir: Arc<TempDir>,
    device: String,
    overlays: u32,
}

impl Gateway {
    /// With rates that suit a test, and errors and host read from this machine.
    pub fn new(device: &str, url: &str) -> Self {
        let gateway = Self { dir: Arc::new(TempDir::new().unwrap()), device: device.to_owned(), overlays: 0 };
        fs::create_dir(gateway.file("runbooks")).unwrap();
        let dir = gateway.dir.path().display().to_string();
        gateway.with(&format!(
            r#"
            [device]
            id = "{device}"
            [mqtt]
            url = "{url}"
            [mqtt.reconnect]
            min = "100ms"
            max = "1s"
            stable_after = "2s"
            [store]
            path = "{dir}/store"
            min_free_bytes = "1MiB"
            commit_interval = "100ms"
            [telemetry]
            sample_interval = "500ms"
            report_interval = "1s"
            publish_interval = "1s"
            [clock]
            trust = "always"
            [collect.errors]
            enabled = false
            [runbooks]
            dir = "{dir}/runbooks"
            [local]
            socket = "{dir}/agent.sock"
            "#
        ))
    }

    /// Lets the operator command it.
    pub fn trusting(self, operator: &Operator) -> Self {
        let key = operator.public_key();
        self.with(&format!("[commands]\ntrusted_keys = [\"{}\"]", key.display()))
    }

    /// Lets it measure a made gateway instead of this machine, errors included.
    pub fn measuring(self, tree: &Tree) -> Self {
        let root = tree.root().display();
        self.with(&format!("[collect]\nroot = \"{root}\"\n[collect.errors]\nenabled = true\nbucket = \"1s\""))
    }

    /// Puts more configuration over what is there: one file more, later ones win.
    pub fn with(mut self, toml: &str) -> Self {
        fs::write(self.file(&format!("{:02}.toml", self.overlays)), toml).unwrap();
        self.overlays += 1;
        self
    }

    pub fn device(&self) -> &str {
        &self.device
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.file("store")
    }

    /// Puts a runbook in place: a script for sh.
    pub fn runbook(&self, name: &str, script: &str) {
        let path = self.file("runbooks").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    /// A subcommand with this gateway's configuration.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(program());
        command.arg(subcommand);
        for number in 0..self.overlays {
            command.arg("--config").arg(self.file(&format!("{number:02}.toml")));
        }
        // A journal stream of the shell that runs the tests is not this agent's.
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command
    }

    /// Starts the agent.
    pub fn start(&self) -> Agent {
        self.start_in(&[])
    }

    /// The same, with more in its environment.
    pub fn start_in(&self, environment: &[(&str, &Path)]) -> Agent {
        let mut command = self.command("run");
        command.envs(environment.iter().copied()).stdout(Stdio::null());
        let process = Process::start(&self.device, &mut command);
        Agent { process, _dir: Arc::clone(&self.dir) }
    }

    /// `fieldmedic status --json`, run to its end.
    pub fn status(&self) -> Output {
        self.command("status").arg("--json").output().unwrap()
    }

    /// Waits until the running agent's status is as wanted. A status has to be asked for: it doesn't announce itself.
    pub fn wait_for_status(&self, what: &str, fits: impl Fn(&Json) -> bool) -> Json {
        const ASK_EVERY: Duration = Duration::from_millis(20);
        let deadline = Instant::now() + SOON;
        loop {
            let answer = self.status();
            let status: Json = serde_json::from_slice(&answer.stdout).unwrap_or_default();
            if answer.status.success() && fits(&status) {
                return status;
            }
            if Instant::now() > deadline {
                let said = String::from_utf8_lossy(&answer.stderr);
                panic!("{}: waited {SOON:?} for {what}; {}: {status:#} {said}", self.device, answer.status);
            }
            std::thread::sleep(ASK_EVERY);
        }
    }
}

/// A running agent.
pub struct Agent {
    process: Process,
    /// Its files stay as long as it runs, also when the test has let go of the gateway.
    _dir: Arc<TempDir>,
}

impl Agent {
    pub fn log(&self) -> &Stream<String> {
        &self.process.log
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The first line of its log that contains the text.
    pub fn wait_for_log(&self, text: &str) -> String {
        let find = |lines: &[String]| lines.iter().find(|line| line.contains(text)).cloned();
        self.log().wait_since(0, &format!("a line with {text:?}"), find)
    }

    /// A power cut as a process can have it.
    pub fn kill9(self) {
        drop(self);
    }

    /// Asks it to stop; its exit code.
    pub fn sigterm(self) -> Option<i32> {
        self.process.signal(Signal::TERM);
        self.process.wait().code()
    }

    /// Holds it up where it is, until [`Agent::thaw`].
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Asks it to read its configuration again.
    pub fn hangup(&self) {
        self.process.signal(Signal::HUP);
    }

    /// Waits until it ends by itself; its exit code and its log.
    pub fn wait(self) -> (Option<i32>, Vec<String>) {
        let ended = self.log().wait_end(SOON);
        let lines = self.log().so_far();
        assert!(ended, "still running: {lines:#?}");
        (self.process.wait().code(), lines)
    }
}

/// The records in the outbox of a store, as `fieldmedic store export` prints them.
pub fn export(store: &Path) -> Vec<Json> {
    let output = super::process::output_of(Command::new(program()).args(["store", "export", "--path"]).arg(store));
    let text = String::from_utf8(output).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The numbers of exported records.
pub fn seqs(exported: &[Json]) -> BTreeSet<u64> {
    exported.iter().map(|record| record["seq"].as_u64().unwrap_or_else(|| panic!("no seq in {record}"))).collect()
}
