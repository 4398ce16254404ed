//! What the flash is written with, by the kernel's own books (`write_bytes` of /proc/PID/io), beside the bytes of the
//! data. The agent runs with rates sixty times those of the defaults, and everything else in proportion: a sample is
//! committed alone, as it is when one is made a minute.

use std::process::Stdio;
use std::time::Duration;

use crate::common::process::Process;
use crate::common::{Access, Broker, Fleet, Gateway, cost};
use crate::report::{Goal, Report};

/// Looked at after the start is over, for as long as a sample a second takes to be many.
const WARM_UP: Duration = Duration::from_secs(5);
const WATCHED: Duration = Duration::from_secs(40);
const MINUTES_OF_A_DAY: f64 = 1_440.0;
/// The ratio at the default commit interval, where nothing is acknowledged before it is due.
pub const BROKER_AWAY: &str = "flash bytes per byte of data, broker away";

pub fn run(report: &mut Report) {
    let broker = Broker::start(Access::Open);
    let fleet = Fleet::watch(&broker);
    let nobody = "mqtt://127.0.0.1:9";
    let stored = |gateway: &Gateway| status(gateway, "/outbox/records/telemetry");
    let arrived = |_: &Gateway| fleet.so_far().iter().map(|message| message.samples().len() as u64).sum();
    let offline = measure(nobody, "500ms", stored);
    let sample_bytes = offline.stored as f64 / offline.samples;
    let mut tell = |name: &str, measured: &Measured| {
        let a_day = measured.written as f64 / measured.samples * MINUTES_OF_A_DAY / 1024.0;
        report.figure(&format!("flash written a day, {name}"), a_day, "KiB", None);
        let ratio = measured.written as f64 / (measured.samples * sample_bytes);
        report.figure(&format!("flash bytes per byte of data, {name}"), ratio, "B/B", Some(Goal::AtMost(2.0)));
    };
    tell("connected", &measure(&broker.url(), "500ms", arrived));
    tell("broker away", &offline);
    tell("broker away, commit each 10 samples", &measure(nobody, "10s", stored));
    report.note(&format!("  a sample is {sample_bytes:.0} B in the store, a page of the file system 4,096 B"));
}

struct Measured {
    samples: f64,
    written: u64,
    /// What the outbox grew by.
    stored: u64,
}

fn measure(url: &str, commit_interval: &str, samples: impl Fn(&Gateway) -> u64) -> Measured {
    let gateway = Gateway::new("gw-wear", url).with(&format!(
        "[mqtt.reconnect]\nmin = \"1s\"\nmax = \"5m\"\n[store]\ncommit_interval = \"{commit_interval}\"\n[telemetry]\n\
         sample_interval = \"500ms\"\nreport_interval = \"1s\"\npublish_interval = \"1s\"\n"
    ));
    let process = Process::start("agent", gateway.command("run").stdout(Stdio::null()));
    std::thread::sleep(WARM_UP);
    let bytes = || status(&gateway, "/outbox/bytes");
    let (samples_before, stored, written) = (samples(&gateway), bytes(), cost::io(process.id(), "write_bytes"));
    std::thread::sleep(WATCHED);
    let written = cost::io(process.id(), "write_bytes") - written;
    let samples = samples(&gateway) - samples_before;
    assert!(samples > 0, "no sample was made: {:?}", process.log.so_far());
    Measured { samples: samples as f64, written, stored: bytes().saturating_sub(stored) }
}

fn status(gateway: &Gateway, pointer: &str) -> u64 {
    let status: serde_json::Value = serde_json::from_slice(&gateway.status().stdout).unwrap();
    status.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("no {pointer}: {status}"))
}
