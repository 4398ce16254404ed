//! A system bus of the test's own with systemd's interface (org.freedesktop.systemd1(5)) on it, as far as restarting
//! units and the machine takes it, and stopping what a quarantine stops, logind's inhibitors, and RAUC's interface, as
//! far as going back does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::time::{ClockId, clock_gettime};
use zbus::connection::{Builder, Connection};
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{OwnedObjectPath, Value};

use super::common::Bus;

const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/app_2eservice";

/// When a unit was active last that has failed, in microseconds since boot; `None`: it has not.
type Failed = Arc<Mutex<Option<u64>>>;

pub struct Pid1 {
    bus: Bus,
    restarted: Arc<Mutex<Vec<String>>>,
    inhibited: Arc<AtomicBool>,
    goes_down: Arc<AtomicBool>,
    starts_late: Arc<AtomicBool>,
    failed: Failed,
    _systemd: Connection,
}

impl Pid1 {
    pub async fn start() -> Self {
        let bus = Bus::start();
        let (restarted, started_us) = (Arc::default(), Arc::default());
        let (inhibited, failed, goes_down) = (Arc::default(), Failed::default(), Arc::<AtomicBool>::default());
        let starts_late = Arc::<AtomicBool>::default();
        let manager = Manager {
            restarted: Arc::clone(&restarted),
            started_us: Arc::clone(&started_us),
            goes_down: Arc::clone(&goes_down),
            starts_late: Arc::clone(&starts_late),
        };
        let systemd = Builder::address(bus.address())
            .unwrap()
            .serve_at("/org/freedesktop/systemd1", manager)
            .unwrap()
            .serve_at(UNIT_PATH, Unit(started_us, Arc::clone(&failed)))
            .unwrap()
            .serve_at(UNIT_PATH, Service)
            .unwrap()
            .serve_at("/org/freedesktop/login1", Login(Arc::clone(&restarted), Arc::clone(&inhibited)))
            .unwrap()
            .serve_at("/", Rauc)
            .unwrap()
            .name("org.freedesktop.systemd1")
            .unwrap()
            .name("org.freedesktop.login1")
            .unwrap()
            .name("de.pengutronix.rauc")
            .unwrap()
            .build()
            .await
            .unwrap();
        Self { bus, restarted, inhibited, goes_down, starts_late, failed, _systemd: systemd }
    }

    pub fn address(&self) -> &str {
        self.bus.address()
    }

    /// From now on somebody keeps the machine up, or nobody does any more.
    pub fn inhibit(&self, inhibited: bool) {
        self.inhibited.store(inhibited, Ordering::Relaxed);
    }

    /// From now on the machine is about to reboot: no unit is restarted any more.
    pub fn go_down(&self) {
        self.goes_down.store(true, Ordering::Relaxed);
    }

    /// From now on what is started isn't up within the time that it has for that.
    pub fn start_late(&self) {
        self.starts_late.store(true, Ordering::Relaxed);
    }

    /// From now on all units have failed, and were active last then: 0 is never.
    pub fn fail(&self, active_us: u64) {
        *self.failed.lock().unwrap() = Some(active_us);
    }

    /// What was restarted, or started.
    pub fn restarted(&self) -> Vec<String> {
        self.restarted.lock().unwrap().clone()
    }
}

/// What was restarted, and whether somebody keeps the machine up.
struct Login(Arc<Mutex<Vec<String>>>, Arc<AtomicBool>);

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Login {
    fn reboot(&self, _interactive: bool) {
        self.0.lock().unwrap().push("reboot.target".into());
    }

    fn list_inhibitors(&self) -> Vec<(String, String, String, String, u32, u32)> {
        let word = |word: &str| word.to_owned();
        let updater = (word("shutdown"), word("updater"), word("it writes a slot"), word("block"), 0, 1);
        if self.1.load(Ordering::Relaxed) { vec![updater] } else { vec![] }
    }
}

struct Manager {
    restarted: Arc<Mutex<Vec<String>>>,
    /// When the unit was restarted last.
    started_us: Arc<AtomicU64>,
    goes_down: Arc<AtomicBool>,
    starts_late: Arc<AtomicBool>,
}

type ListedJob = (u32, String, String, String, OwnedObjectPath, OwnedObjectPath);

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self) {}

    fn load_unit(&self, _name: &str) -> OwnedObjectPath {
        path(UNIT_PATH)
    }

    async fn start_unit(
        &self,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        name: String,
        _mode: String,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        self.restarted.lock().unwrap().push(name.clone());
        let result = if self.starts_late.load(Ordering::Relaxed) { "timeout" } else { "done" };
        ended(&emitter, &name, result).await
    }

    fn reset_failed_unit(&self, _name: &str) {}

    fn list_jobs(&self) -> Vec<ListedJob> {
        let word = |word: &str| word.to_owned();
        let (job, unit) = (path("/org/freedesktop/systemd1/job/9"), path("/org/freedesktop/systemd1/unit/reboot"));
        let reboot = (9, word("reboot.target"), word("start"), word("waiting"), job, unit);
        if self.goes_down.load(Ordering::Relaxed) { vec![reboot] } else { vec![] }
    }

    async fn stop_unit(
        &self,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        name: String,
        _mode: String,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        ended(&emitter, &name, "done").await
    }

    async fn reload_or_restart_unit(
        &self,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        name: String,
        _mode: String,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        ended(&emitter, &name, "done").await
    }

    async fn restart_unit(
        &self,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        name: String,
        _mode: String,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        if self.goes_down.load(Ordering::Relaxed) {
            return ended(&emitter, &name, "canceled").await;
        }
        self.restarted.lock().unwrap().push(name.clone());
        let now = clock_gettime(ClockId::Monotonic);
        let now_us = u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1_000).unwrap();
        self.started_us.store(now_us, Ordering::Relaxed);
        ended(&emitter, &name, "done").await
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

/// A job that is over before the answer is sent.
async fn ended(emitter: &SignalEmitter<'_>, name: &str, result: &str) -> zbus::fdo::Result<OwnedObjectPath> {
    let job = path("/org/freedesktop/systemd1/job/1");
    Manager::job_removed(emitter, 1, job.clone(), name, result).await?;
    Ok(job)
}

/// Two slots, both good; the first is booted.
struct Rauc;

#[zbus::interface(name = "de.pengutronix.rauc.Installer")]
impl Rauc {
    fn get_slot_status(&self) -> Vec<(String, BTreeMap<String, Value<'static>>)> {
        let slot = |name: &str, bootname: &'static str, state: &'static str| {
            let entries = [("class", "rootfs"), ("bootname", bootname), ("state", state), ("boot-status", "good")];
            (name.to_owned(), entries.map(|(key, value)| (key.to_owned(), Value::from(value))).into())
        };
        vec![slot("rootfs.0", "A", "booted"), slot("rootfs.1", "B", "inactive")]
    }

    fn mark(&self, _state: String, slot_identifier: String) -> (String, String) {
        (slot_identifier, "marked".into())
    }
}

/// When it was started last, and how it has failed.
struct Unit(Arc<AtomicU64>, Failed);

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn load_state(&self) -> &str {
        "loaded"
    }

    #[zbus(property)]
    fn inactive_exit_timestamp_monotonic(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[zbus(property)]
    fn active_state(&self) -> &str {
        if self.1.lock().unwrap().is_some() { "failed" } else { "active" }
    }

    #[zbus(property)]
    fn active_enter_timestamp_monotonic(&self) -> u64 {
        self.1.lock().unwrap().unwrap_or(1)
    }

    #[zbus(property)]
    fn sub_state(&self) -> &str {
        "running"
    }
}

struct Service;

/// Path, argv, whether its failure is passed over, when it began and ended, pid, code and status.
type Executed = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl Service {
    #[zbus(property, name = "Type")]
    fn kind(&self) -> &str {
        "simple"
    }

    /// Of a unit that has failed: systemd has run none of them.
    #[zbus(property)]
    fn exec_stop(&self) -> Vec<Executed> {
        vec![("/usr/sbin/nft".into(), vec!["nft".into()], false, 0, 0, 0, 0, 0, 0, 0)]
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
