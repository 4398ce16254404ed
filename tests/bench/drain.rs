//! How fast a backlog leaves the store for a real broker, what it costs, and in how much memory; beside it
//! `mosquitto_pub`, which has its messages in a file and keeps nothing.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fieldmedic::runtime::local::ask_status;
use rustix::process::Signal;
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::common::broker::free_port;
use crate::common::process::{Process, output_of};
use crate::common::software::mosquitto;
use crate::common::{Gateway, cost, tool};
use crate::report::{Goal, Report};
use crate::sample;

const RECORDS: u64 = 200_000;
const MANY_RECORDS: u64 = 1_000_000;
/// How long a drain may take before something is wrong.
const BOUND: Duration = Duration::from_secs(300);
/// Seldom enough to leave the agent its time, often enough for a figure of a drain that takes a second.
const ASK_EVERY: Duration = Duration::from_millis(25);

/// Of the 2 cores one is the broker's: nothing else runs meanwhile.
pub fn run(report: &mut Report) {
    report
        .note(&format!("drain: {RECORDS} samples as a gateway with a battery and a modem makes them, QoS 1, loopback"));
    for encoding in ["json", "json+zstd"] {
        let drained = drain(RECORDS, encoding);
        let bytes = drained.sent_bytes / drained.publishes;
        let pub_per_s = mosquitto_pub(drained.publishes, bytes);
        let took = drained.took.as_secs_f64();
        let name = |what: &str| format!("drain, {encoding}: {what}");
        // What compression costs is asked for by who turns it on: the goals are for what everybody has.
        let goal = |goal| (encoding == "json").then_some(goal);
        report.figure(&name("bytes a publish"), bytes as f64, "B", None);
        let publishes = drained.publishes as f64 / took;
        report.ratio(&name("publishes"), publishes, ("mosquitto_pub", pub_per_s), "/s", goal(Goal::AtLeast(0.8)));
        report.figure(&name("samples"), RECORDS as f64 / took, "/s", goal(Goal::AtLeast(200_000.0)));
        let cpu_us = drained.cpu.as_secs_f64() * 1e6 / RECORDS as f64;
        report.figure(&name("CPU a sample"), cpu_us, "us", goal(Goal::AtMost(2.0)));
    }
}

pub fn memory(report: &mut Report) {
    let idle = drain(1, "json").peak_bytes;
    let busy = drain(MANY_RECORDS, "json").peak_bytes;
    report.figure("memory at idle (VmHWM)", mib(idle), "MiB", None);
    let more = mib(busy.saturating_sub(idle));
    report.figure(&format!("memory to drain {MANY_RECORDS} records, more"), more, "MiB", Some(Goal::AtMost(4.0)));
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

struct Drained {
    took: Duration,
    cpu: Duration,
    publishes: u64,
    sent_bytes: u64,
    peak_bytes: u64,
}

/// Starts an agent on a filled store and times it from its connection on: what it costs to open the store is not what
/// it costs to drain it.
fn drain(records: u64, encoding: &str) -> Drained {
    let broker = Broker::start();
    let gateway = Gateway::new("gw-bench", &broker.url()).with(&format!(
        "[mqtt.drain]\npublishes_per_second = 100000\n[store]\nmax_bytes = \"{}B\"\n[telemetry]\n\
         sample_interval = \"10m\"\nreport_interval = \"10m\"\npublish_interval = \"10m\"\nencoding = \"{encoding}\"\n",
        sample::MAX_BYTES
    ));
    sample::fill(&gateway.store(), records);
    let agent = Process::start("agent", gateway.command("run").stdout(Stdio::null()));
    wait_until_connected(&agent);
    let (began, cpu) = (Instant::now(), cost::cpu(agent.id()));
    let socket = gateway.file("agent.sock");
    while backlog(&socket) > 0 {
        assert!(began.elapsed() < BOUND, "not drained: {:?}", agent.log.so_far());
        std::thread::sleep(ASK_EVERY);
    }
    let took = began.elapsed();
    let cpu = cost::cpu(agent.id()) - cpu;
    let peak_bytes = cost::status_bytes(agent.id(), "VmHWM");
    let (publishes, sent_bytes) = broker.received();
    Drained { took, cpu, publishes, sent_bytes, peak_bytes }
}

pub fn wait_until_connected(agent: &Process) {
    agent.log.wait_long(BOUND, "the agent to connect", |lines: &[String]| {
        lines.iter().any(|line| line.contains("broker: connected")).then_some(())
    });
}

/// Samples that the running agent has yet to get acknowledged.
pub fn backlog(socket: &Path) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(ask_status(socket)).unwrap();
    let status: Json = serde_json::from_str(&answer).unwrap();
    status["outbox"]["records"]["telemetry"].as_u64().unwrap()
}

/// What `mosquitto_pub` does with as many messages of the same length: messages a second, its start included.
fn mosquitto_pub(messages: u64, bytes: u64) -> f64 {
    let broker = Broker::start();
    let file = broker.dir.path().join("lines");
    let mut lines = BufWriter::new(File::create(&file).unwrap());
    let line = "x".repeat(usize::try_from(bytes).unwrap());
    for _ in 0..messages {
        writeln!(lines, "{line}").unwrap();
    }
    lines.into_inner().unwrap();
    let port = broker.port.to_string();
    let mut command = tool("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", "fieldmedic/gw-bench/telemetry", "-l"]);
    let began = Instant::now();
    output_of(command.stdin(File::open(&file).unwrap()));
    messages as f64 / began.elapsed().as_secs_f64()
}

/// A mosquitto as it comes, without a word in its log.
struct Broker {
    dir: TempDir,
    port: u16,
    process: Process,
}

impl Broker {
    fn start() -> Self {
        let (dir, port) = (TempDir::new().unwrap(), free_port());
        let config = dir.path().join("mosquitto.conf");
        std::fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\nsys_interval 1\n")).unwrap();
        let process = mosquitto(&config);
        Self { dir, port, process }
    }

    fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Messages, and bytes of their payloads, that it has taken in.
    fn received(&self) -> (u64, u64) {
        (self.count("messages"), self.count("bytes"))
    }

    /// From its own statistics, in the second issue that comes: the first may be older than what was just sent.
    fn count(&self, what: &str) -> u64 {
        let topic = format!("$SYS/broker/publish/{what}/received");
        let mut command = tool("mosquitto_sub");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-W", "5", "-C", "2", "-t", &topic]);
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        text.lines().last().and_then(|line| line.parse().ok()).unwrap_or_else(|| panic!("{topic}: {text:?}"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.process.signal(Signal::TERM);
    }
}
