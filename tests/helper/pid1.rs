//! A system bus of the test's own, by dbus-daemon, with systemd's interface (org.freedesktop.systemd1(5)) on it, as far as
//! restarting a unit takes it.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use zbus::connection::{Builder, Connection};
use zbus::object_server::SignalEmitter;
use zbus::zvariant::OwnedObjectPath;

use super::common::process::{Process, tool};

const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/app_2eservice";

/// Everybody may do everything: it is nobody's bus but ours.
const BUS_CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=DIR/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>"#;

pub struct Pid1 {
    address: String,
    restarted: Arc<Mutex<Vec<String>>>,
    _systemd: Connection,
    _bus: Process,
    _dir: TempDir,
}

impl Pid1 {
    pub async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let config = dir.path().join("bus.conf");
        std::fs::write(&config, BUS_CONFIG.replace("DIR", &dir.path().display().to_string())).unwrap();
        let mut daemon = tool("dbus-daemon");
        daemon.args(["--nofork", "--nopidfile", "--print-address", "--config-file"]).arg(config);
        let mut bus = Process::start("dbus-daemon", daemon.stdout(Stdio::piped()));
        // It is said when it listens.
        let mut address = String::new();
        BufReader::new(bus.stdout()).read_line(&mut address).unwrap();
        let address = address.trim().to_owned();

        let restarted = Arc::default();
        let systemd = Builder::address(address.as_str())
            .unwrap()
            .serve_at("/org/freedesktop/systemd1", Manager(Arc::clone(&restarted)))
            .unwrap()
            .serve_at(UNIT_PATH, Unit)
            .unwrap()
            .serve_at(UNIT_PATH, Service)
            .unwrap()
            .name("org.freedesktop.systemd1")
            .unwrap()
            .build()
            .await
            .unwrap();
        Self { address, restarted, _systemd: systemd, _bus: bus, _dir: dir }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn restarted(&self) -> Vec<String> {
        self.restarted.lock().unwrap().clone()
    }
}

struct Manager(Arc<Mutex<Vec<String>>>);

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self) {}

    fn load_unit(&self, _name: &str) -> OwnedObjectPath {
        path(UNIT_PATH)
    }

    async fn restart_unit(
        &self,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        name: String,
        _mode: String,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        let job = path("/org/freedesktop/systemd1/job/1");
        self.0.lock().unwrap().push(name.clone());
        Self::job_removed(&emitter, 1, job.clone(), &name, "done").await?;
        Ok(job)
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

struct Unit;

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn load_state(&self) -> &str {
        "loaded"
    }

    #[zbus(property)]
    fn active_state(&self) -> &str {
        "active"
    }

    #[zbus(property)]
    fn sub_state(&self) -> &str {
        "running"
    }
}

struct Service;

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl Service {
    #[zbus(property, name = "Type")]
    fn kind(&self) -> &str {
        "simple"
    }

    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> u32 {
        7
    }

    #[zbus(property)]
    fn result(&self) -> &str {
        "success"
    }

    #[zbus(property)]
    fn exec_main_status(&self) -> i32 {
        0
    }

    #[zbus(property, name = "NRestarts")]
    fn n_restarts(&self) -> u32 {
        0
    }
}

fn path(text: &str) -> OwnedObjectPath {
    OwnedObjectPath::try_from(text).unwrap()
}
