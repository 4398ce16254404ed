//! What the flash is written with, by the kernel's own books (`write_bytes` of /proc/PID/io), beside the bytes of the
//! data: of gateways at the defaults, started together and watched for ten minutes once what a start writes is written.
//! A kernel with large folios (ext4 since Linux 6.16) counts the whole of one where it writes a page of it.
//!
//! Why it can't be less without a broker: a sample is safe within `commit_interval`, so each is synced alone, and that
//! writes whole pages: one, or two where it crosses a boundary. To pad it up to that would cost a third of the store's
//! room and spare the disk nothing: a page that is begun costs ext4 four more for itself than one that is gone on with.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::common::process::Process;
use crate::common::{Access, Broker, Fleet, Gateway, cost};
use crate::report::{Goal, Report};

/// The look at itself comes five minutes after the start, and its result is committed.
const WARM_UP: Duration = Duration::from_secs(330);
const WATCHED: Duration = Duration::from_secs(600);
const ERROR_EVERY: Duration = Duration::from_secs(20);
const NOBODY: &str = "mqtt://127.0.0.1:9";
const MINUTES_OF_A_DAY: f64 = 1_440.0;
const PAGE_BYTES: f64 = 4_096.0;
const RATIO_MAX: f64 = 2.0;
/// The ratio at the default commit interval, where nothing is acknowledged before it is due.
pub const BROKER_AWAY: &str = "flash bytes per byte of data, broker away";

pub fn run(report: &mut Report) {
    let broker = Broker::start(Access::Open);
    let fleet = Fleet::watch(&broker);
    let [connected, away, failing, seldom] = [
        Watched::start("gw-connected", &broker.url(), ""),
        Watched::start("gw-away", NOBODY, ""),
        Watched::start("gw-failing", NOBODY, ""),
        // Sixty times as fast: of a commit more or less in the time it makes no difference then.
        Watched::start(
            "gw-seldom",
            NOBODY,
            "[store]\ncommit_interval = \"10s\"\n[telemetry]\nsample_interval = \"500ms\"\nreport_interval = \"1s\"\n\
             publish_interval = \"1s\"\n",
        ),
    ];
    fail_for(&failing, WARM_UP);
    let arrived = || -> u64 { fleet.so_far().iter().map(|message| message.samples().len() as u64).sum() };
    let (arrived_before, before) = (arrived(), [&connected, &away, &failing, &seldom].map(Watched::look));
    fail_for(&failing, WATCHED);
    let after = [&connected, &away, &failing, &seldom].map(Watched::look);
    let [mut connected, away, failing, seldom] = std::array::from_fn(|nth| after[nth].since(&before[nth]));
    connected.samples = (arrived() - arrived_before) as f64;

    let sample_bytes = away.stored / away.samples;
    report
        .note(&format!("  a sample is {sample_bytes:.0} B in the store; without a broker there were {}", away.samples));
    let connected_ratio = connected.written / (connected.samples * sample_bytes);
    let away_ratio = away.written / away.stored;
    let a_day = |watched: &Measured| watched.written / watched.samples * MINUTES_OF_A_DAY / 1024.0;
    let ratio = |name: &str| format!("flash bytes per byte of data, {name}");
    let goal = Some(Goal::AtMost(RATIO_MAX));
    report.figure("flash written a day, connected", a_day(&connected), "KiB", None);
    report.figure(&ratio("connected"), connected_ratio, "B/B", goal);
    report.figure("flash written a day, broker away", a_day(&away), "KiB", None);
    report.figure(BROKER_AWAY, away_ratio, "B/B", goal);
    report.figure(&ratio("one page a sample"), PAGE_BYTES / sample_bytes, "B/B", None);
    let hours = 24.0 * (RATIO_MAX - connected_ratio) / (away_ratio - connected_ratio);
    report.figure("hours without a broker that bring a day to 2 B/B", hours.clamp(0.0, 24.0), "h", None);
    report.figure(&ratio("broker away, an error goes on"), failing.written / failing.stored, "B/B", None);
    report.figure(&ratio("broker away, commit each 10 samples"), seldom.written / seldom.stored, "B/B", goal);
}

/// A gateway that runs.
struct Watched {
    gateway: Gateway,
    process: Process,
}

/// What it has done so far, or within a time.
struct Measured {
    samples: f64,
    written: f64,
    /// What the outbox holds, or grew by.
    stored: f64,
}

impl Watched {
    /// At the defaults, on this machine, but with a kernel's log of its own: what else goes wrong here is none of its.
    fn start(device: &str, url: &str, more: &str) -> Self {
        let gateway = Gateway::new(device, url);
        let root = gateway.file("root");
        fs::create_dir_all(root.join("dev")).unwrap();
        File::create(root.join("dev/kmsg")).unwrap();
        for dir in ["etc", "proc", "sys"] {
            symlink(format!("/{dir}"), root.join(dir)).unwrap();
        }
        let gateway = gateway.with(&format!(
            "[mqtt.reconnect]\nmin = \"1s\"\nmax = \"5m\"\nstable_after = \"60s\"\n[store]\ncommit_interval = \"1s\"\n\
             [telemetry]\nsample_interval = \"10s\"\nreport_interval = \"60s\"\npublish_interval = \"60s\"\n\
             [collect]\nroot = \"{}\"\n[collect.errors]\nenabled = true\n",
            root.display()
        ));
        let gateway = gateway.with(more);
        let process = Process::start(device, gateway.command("run").stdout(Stdio::null()));
        Self { gateway, process }
    }

    fn look(&self) -> Measured {
        let status: serde_json::Value = serde_json::from_slice(&self.gateway.status().stdout)
            .unwrap_or_else(|error| panic!("no status: {error}; {:?}", self.process.log.so_far()));
        let number = |pointer: &str| {
            let number = status.pointer(pointer).and_then(serde_json::Value::as_u64);
            number.unwrap_or_else(|| panic!("no {pointer}: {status}")) as f64
        };
        Measured {
            samples: number("/outbox/records/telemetry"),
            written: cost::io(self.process.id(), "write_bytes") as f64,
            stored: number("/outbox/bytes"),
        }
    }
}

impl Measured {
    fn since(&self, before: &Self) -> Self {
        let samples = self.samples - before.samples;
        Self { samples, written: self.written - before.written, stored: self.stored - before.stored }
    }
}

/// Lets this pass while the kernel of one gateway writes an error now and then, the same each time.
fn fail_for(failing: &Watched, time: Duration) {
    let mut kmsg = File::options().append(true).open(failing.gateway.file("root/dev/kmsg")).unwrap();
    for _ in 0..time.as_secs() / ERROR_EVERY.as_secs() {
        let now = clock_gettime(ClockId::Monotonic);
        let (s, us) = (now.tv_sec, now.tv_nsec / 1_000);
        writeln!(kmsg, "3,{s},{s}{us:06},-;mmc0: Timeout waiting for hardware interrupt.").unwrap();
        std::thread::sleep(ERROR_EVERY);
    }
}
