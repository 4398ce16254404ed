//! The collectors on made trees of known values.
#![expect(clippy::disallowed_methods, reason = "makes the trees")]

mod battery;
mod host;
mod link;

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::config::{ClockTrust, Collect, CollectBattery, CollectErrors, CollectHost, CollectLink};
use crate::engine::io::{EffectId, Input};
use crate::engine::metric::{Content, Point, Value};
use crate::engine::observation::Severity;
use crate::engine::time::{Mono, Now, Unix, Wall};

/// Writes each text to its path below `root`, with the directories that it needs.
pub(crate) fn write_tree(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

const BATTERY: &[(&str, &str)] = &[
    ("sys/class/power_supply/AC/type", "Mains\n"),
    ("sys/class/power_supply/AC/online", "0\n"),
    ("sys/class/power_supply/BAT0/type", "Battery\n"),
    ("sys/class/power_supply/BAT0/present", "1\n"),
    ("sys/class/power_supply/BAT0/status", "Discharging\n"),
    ("sys/class/power_supply/BAT0/capacity", "73\n"),
    ("sys/class/power_supply/BAT0/voltage_now", "11850000\n"),
    ("sys/class/power_supply/BAT0/current_now", "500000\n"),
    ("sys/class/power_supply/BAT0/temp", "-52\n"),
    ("sys/class/power_supply/BAT0/charge_now", "2000000\n"),
    ("sys/class/power_supply/BAT0/charge_full", "3600000\n"),
    ("sys/class/power_supply/BAT0/charge_full_design", "4000000\n"),
    ("sys/class/power_supply/BAT0/cycle_count", "312\n"),
];

const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
    wwan0\t00000000\t01020304\t0003\t0\t0\t700\t00000000\t0\t0\t0\n\
    eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
    eth0\t000200C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";

const LINKS: &[(&str, &str)] = &[
    ("proc/net/route", ROUTE),
    ("sys/class/net/eth0/type", "1\n"),
    ("sys/class/net/eth0/uevent", "INTERFACE=eth0\nIFINDEX=2\n"),
    ("sys/class/net/eth0/operstate", "up\n"),
    ("sys/class/net/eth0/carrier_changes", "3\n"),
    ("sys/class/net/eth0/statistics/rx_bytes", "123456789012\n"),
    ("sys/class/net/eth0/statistics/tx_bytes", "42\n"),
    ("sys/class/net/wwan0/type", "65534\n"),
    ("sys/class/net/wwan0/uevent", "DEVTYPE=wwan\nINTERFACE=wwan0\n"),
    ("sys/class/net/wwan0/operstate", "unknown\n"),
    ("sys/class/net/wwan0/carrier", "1\n"),
    ("sys/class/net/wwan0/statistics/rx_bytes", "7\n"),
];

const HOST: &[(&str, &str)] = &[
    ("proc/stat", "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 100 0 100 700 100 0 0 0 0 0\n"),
    ("proc/loadavg", "0.52 0.58 0.59 1/123 4567\n"),
    ("proc/uptime", "12345.67 23456.78\n"),
    (
        "proc/meminfo",
        "MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable:  250 kB\nSwapTotal: 400 kB\nSwapFree: 300 kB\n",
    ),
    ("proc/pressure/cpu", "some avg10=1.00 avg60=2.50 avg300=3.00 total=1\n"),
    ("proc/pressure/io", "some avg10=0.00 avg60=0.04 avg300=0.13 total=2\nfull avg10=9 avg60=9 avg300=9 total=2\n"),
    ("sys/block/mmcblk0/device/life_time", "0x02 0x03\n"),
    ("sys/block/mmcblk0boot0/device/life_time", "0x0b 0x0b\n"),
    ("sys/class/thermal/thermal_zone0/temp", "41500\n"),
    ("sys/class/thermal/thermal_zone1/temp", "48250\n"),
    ("sys/class/thermal/cooling_device0/cur_state", "0\n"),
];

/// A tree in a directory of its own.
struct Made {
    dir: TempDir,
    config: Collect,
}

impl Made {
    fn new(parts: &[&[(&str, &str)]]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for part in parts {
            write_tree(dir.path(), part);
        }
        let config = Collect {
            root: dir.path().to_owned(),
            battery: CollectBattery { enabled: true, supply: String::new() },
            link: CollectLink { enabled: true, interfaces: Vec::new(), monthly_budget: BTreeMap::new() },
            errors: CollectErrors {
                enabled: false,
                min_severity: Severity::Error,
                units: Vec::new(),
                max_clusters: 1,
                bucket: std::time::Duration::from_secs(60),
                app_socket: None,
            },
            host: CollectHost { enabled: true, mounts: vec![PathBuf::from("/")] },
        };
        Self { dir, config }
    }

    fn battery() -> Self {
        let mut made = Self::new(&[BATTERY]);
        made.config.link.enabled = false;
        made.config.host.enabled = false;
        made
    }

    fn link() -> Self {
        let mut made = Self::new(&[LINKS]);
        made.config.battery.enabled = false;
        made.config.host.enabled = false;
        made
    }

    fn host() -> Self {
        let mut made = Self::new(&[HOST]);
        made.config.battery.enabled = false;
        made.config.link.enabled = false;
        made
    }

    fn write(&self, path: &str, text: &str) {
        write_tree(self.dir.path(), &[(path, text)]);
    }

    fn supply(&self, file: &str, text: &str) {
        self.write(&format!("sys/class/power_supply/BAT0/{file}"), text);
    }

    fn remove(&self, path: &str) {
        let path = self.dir.path().join(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    /// Makes of the file a FIFO that nobody writes to: whoever opens it hangs, as with a driver that doesn't answer.
    fn hang(&self, path: &str) -> PathBuf {
        let fifo = self.dir.path().join(path);
        fs::remove_file(&fifo).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        fifo
    }

    fn worker(&self, inputs: &tokio::sync::mpsc::Sender<Input>) -> worker::Worker {
        let config = self.config.clone();
        worker::Worker::spawn(move || Collectors::new(&config), inputs.clone()).unwrap()
    }

    fn observe(&self) -> Observation {
        let seen = Collectors::new(&self.config).observe(reading());
        seen.points.iter().for_each(as_the_table_says);
        seen
    }
}

/// Rules are held against the table of metrics before a gateway ever reads one.
fn as_the_table_says(Point { metric, value, .. }: &Point) {
    let fits = match (metric.content(), value) {
        (Content::Number, Value::Float(_) | Value::Count(_))
        | (Content::Flag, Value::Flag(_))
        | (Content::Text, Value::Text(_)) => true,
        (Content::Words(words), Value::Text(word)) => words.contains(&&**word),
        _ => false,
    };
    let lies_within = |(low, high)| value.number().is_some_and(|number| (low..=high).contains(&number));
    assert!(fits && metric.range().is_none_or(lies_within), "{metric} is {value:?}");
}

fn reading() -> ClockReading {
    let now = Now { mono: Mono(1_000), wall: Wall { unix: Unix(0), trusted: false } };
    ClockReading { now, synced: false }
}

fn labelled(observation: &Observation, metric: Metric, label: Option<&str>) -> Option<Value> {
    let mut points = observation.points.iter().filter(|p| p.metric == metric && p.label.as_deref() == label);
    let value = points.next().map(|point| point.value.clone());
    assert_eq!(points.next(), None, "{metric} {label:?} stands twice");
    value
}

fn value(observation: &Observation, metric: Metric) -> Option<Value> {
    labelled(observation, metric, None)
}

fn number(observation: &Observation, metric: Metric) -> Option<f64> {
    value(observation, metric).map(|value| value.number().unwrap())
}

fn near(observation: &Observation, metric: Metric, expected: f64) {
    let found = number(observation, metric).unwrap_or_else(|| panic!("no {metric} in {observation:?}"));
    assert!((found - expected).abs() < 1e-6, "{metric} is {found}, not {expected}");
}

/// The sources of the faults.
fn faulty(observation: &Observation) -> Vec<&str> {
    observation.faults.iter().map(|fault| fault.source.as_str()).collect()
}

#[test]
fn a_file_that_says_nonsense_costs_only_its_field() {
    for nonsense in ["abc", "", "-1", "101", "NaN", "1e400", "73%", "73\0", "\0\0\0", "\u{fffd}"] {
        let made = Made::battery();
        let whole = made.observe();
        made.supply("capacity", nonsense);
        let seen = made.observe();
        assert_eq!(faulty(&seen), ["/sys/class/power_supply/BAT0/capacity"], "{nonsense:?}");
        let left: Vec<_> =
            whole.points.iter().filter(|p| p.metric != Metric::BatteryChargePct && !own(p.metric)).collect();
        let found: Vec<_> = seen.points.iter().filter(|p| !own(p.metric)).collect();
        assert_eq!(found, left, "{nonsense:?}");
    }
}

/// Metrics of the agent itself differ from one round to the next.
fn own(metric: Metric) -> bool {
    matches!(metric, Metric::AgentRss | Metric::AgentCpu | Metric::AgentThreads | Metric::AgentStoreWritten)
}

#[test]
fn a_fault_quotes_what_the_file_said_and_what_was_wanted() {
    let made = Made::battery();
    made.supply("capacity", "abc\n");
    assert_eq!(made.observe().faults[0].what, r#"says "abc", which is not a number from 0 to 100"#);
}

#[test]
fn a_file_that_can_not_be_read_is_a_fault_and_one_that_is_not_there_is_none() {
    let made = Made::battery();
    made.remove("sys/class/power_supply/BAT0/temp");
    assert_eq!(faulty(&made.observe()), Vec::<&str>::new());
    fs::create_dir(made.dir.path().join("sys/class/power_supply/BAT0/temp")).unwrap();
    let seen = made.observe();
    assert_eq!(faulty(&seen), ["/sys/class/power_supply/BAT0/temp"]);
    assert_eq!(value(&seen, Metric::BatteryTemperature), None);
}

#[test]
fn a_reload_does_not_tell_again_what_the_process_wrote_before() {
    // Beside the program: /tmp need not be on a disk, and memory wears nothing.
    let program = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
    let written = || number(&Made::host().observe(), Metric::AgentStoreWritten).unwrap_or(0.0);
    written();
    let path = dir.path().join("much");
    fs::write(&path, vec![7; 8 << 20]).unwrap();
    rustix::fs::sync();
    written();
    // Other tests of this process write, too, but not so much.
    assert!(written() < 8e6);
}

/// What 32 bits can't hold: an interface counts that in an hour, jiffies do in 500 days.
#[test]
fn counters_past_32_bits_are_read_whole() {
    const PAST: u64 = u32::MAX as u64 + 700;
    let mut made = Made::new(&[LINKS, HOST]);
    made.config.battery.enabled = false;
    made.write("sys/class/net/eth0/statistics/rx_bytes", &format!("{PAST}\n"));
    made.write("proc/meminfo", "MemTotal: 6442450944 kB\nMemAvailable: 4831838208 kB\n");
    made.write("proc/uptime", &format!("{PAST}.25 1.00\n"));
    let busy_and_idle = |busy: u64, idle: u64| format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\n");
    made.write("proc/stat", &busy_and_idle(u64::from(u32::MAX) - 100, PAST * 9));
    let mut collectors = Collectors::new(&made.config);
    let seen = collectors.observe(reading());
    assert_eq!(value(&seen, Metric::LinkRxBytes), Some(PAST.into()));
    near(&seen, Metric::HostMemAvailable, 4_831_838_208.0 * 1024.0);
    near(&seen, Metric::HostMemUsed, 25.0);
    near(&seen, Metric::HostUptime, 4_294_967_995.25);
    assert_eq!(seen.faults, []);
    made.write("proc/stat", &busy_and_idle(u64::from(u32::MAX) + 100, PAST * 9 + 600));
    near(&collectors.observe(reading()), Metric::HostCpu, 25.0);
}

#[test]
fn a_collector_that_is_off_reads_nothing() {
    let mut made = Made::new(&[BATTERY, LINKS, HOST]);
    made.config.battery.enabled = false;
    made.config.link.enabled = false;
    made.config.host.enabled = false;
    let seen = made.observe();
    assert_eq!(seen.points.iter().find(|point| !own(point.metric)), None);
}

#[test]
fn the_agent_tells_what_it_uses_itself_whatever_the_root_is() {
    let made = Made::new(&[]);
    let mut collectors = Collectors::new(&made.config);
    collectors.observe(reading());
    let seen = collectors.observe(reading());
    assert!(number(&seen, Metric::AgentRss).unwrap() > 1e5);
    assert!(number(&seen, Metric::AgentThreads).unwrap() >= 1.0);
    assert!(number(&seen, Metric::AgentCpu).unwrap() >= 0.0);
}

#[test]
fn this_machine_is_read_without_a_point_twice() {
    let mut config = Made::new(&[]).config;
    config.root = PathBuf::from("/");
    let mut collectors = Collectors::new(&config);
    collectors.observe(reading());
    let seen = collectors.observe(reading());
    for metric in [Metric::HostMemUsed, Metric::HostUptime, Metric::LinkType, Metric::BatteryPresent] {
        assert!(value(&seen, metric).is_some(), "no {metric} in {seen:?}");
    }
    for point in &seen.points {
        assert_eq!(point.label.is_some(), point.metric.has_label(), "{point:?}");
        labelled(&seen, point.metric, point.label.as_deref());
    }
}

#[test]
fn a_file_without_end_is_given_up_at_its_bound() {
    let made = Made::host();
    made.write("proc/loadavg", &"1".repeat(2 << 20));
    let seen = made.observe();
    assert_eq!(faulty(&seen), ["/proc/loadavg"]);
    assert_eq!(number(&seen, Metric::HostLoad1), None);
}

#[test]
fn the_wall_clock_is_trusted_when_it_was_set_or_the_configuration_says_so() {
    let made = Made::new(&[]);
    let untrusted = clock::Clock::new(ClockTrust::Kernel, made.dir.path()).read();
    assert!(!untrusted.synced && !untrusted.now.wall.trusted);
    let always = clock::Clock::new(ClockTrust::Always, made.dir.path()).read();
    assert!(!always.synced && always.now.wall.trusted);
    let mut changed = clock::Clock::new(ClockTrust::Kernel, made.dir.path());
    changed.set_trust(ClockTrust::Always);
    assert!(changed.now().wall.trusted);
    made.write("run/systemd/timesync/synchronized", "");
    let synced = clock::Clock::new(ClockTrust::Kernel, made.dir.path()).read();
    assert!(synced.synced && synced.now.wall.trusted);
}

#[test]
fn time_since_boot_never_runs_backwards() {
    let mut clock = clock::Clock::new(ClockTrust::Kernel, Path::new("/"));
    let first = clock.now();
    assert!(first.mono > Mono(0));
    assert!(clock.now().mono >= first.mono);
}

#[test]
fn the_boot_id_is_read_and_a_wrong_one_refused() {
    let made = Made::new(&[]);
    let path = "proc/sys/kernel/random/boot_id";
    assert_eq!(clock::boot_id(made.dir.path()).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    made.write(path, "4f0d4f6e-3f63-4b9e-9c06-6bb7c6a8a0a1\n");
    assert_eq!(clock::boot_id(made.dir.path()).unwrap().to_string(), "4f0d4f6e-3f63-4b9e-9c06-6bb7c6a8a0a1");
    made.write(path, "none\n");
    assert_eq!(clock::boot_id(made.dir.path()).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}

#[test]
fn the_worker_answers_each_round_it_takes_on_and_refuses_what_it_can_not_hold() {
    let made = Made::battery();
    let fifo = made.hang("sys/class/power_supply/BAT0/capacity");
    let (inputs, mut answers) = tokio::sync::mpsc::channel(4);
    let mut worker = made.worker(&inputs);
    let mut taken = 0;
    let refused = loop {
        match worker.request(EffectId(taken), reading()) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, worker::RequestError::Busy);
    assert!((1..=2).contains(&taken), "{taken} rounds were taken on");

    for id in 0..taken {
        fs::write(&fifo, "55\n").unwrap();
        let Some(Input::Observed { id: answered, result: Ok(seen) }) = answers.blocking_recv() else { panic!() };
        assert_eq!(answered, EffectId(id));
        near(&seen, Metric::BatteryChargePct, 55.0);
    }
}

#[test]
fn what_hangs_costs_its_own_readings_and_one_thread_and_is_read_again_once_it_answers() {
    let made = Made::new(&[BATTERY, LINKS, HOST]);
    let hang = [
        ("sys/class/power_supply/BAT0/capacity", "73"),
        ("sys/class/net/eth0/statistics/rx_bytes", "1"),
        ("proc/stat", "cpu  1 0 1 1 1 0 0 0 0 0"),
        ("sys/class/thermal/thermal_zone1/temp", "48250"),
    ];
    let fifos = hang.map(|(file, _)| made.hang(file));
    let (inputs, mut answers) = tokio::sync::mpsc::channel(8);
    let later = || clock::boottime().after(std::time::Duration::from_secs(3_600));
    for (id, (file, _)) in (0..).zip(hang) {
        let mut worker = made.worker(&inputs);
        worker.request(EffectId(id), reading()).unwrap();
        while !hung::is_read(made.dir.path(), file) {
            std::thread::yield_now();
        }
        assert_eq!(worker.hung(clock::boottime()), None, "it may take its time");
        assert_eq!([worker.hung(later()), worker.hung(later())], [Some(EffectId(id)), None], "{file}");
    }
    let mut worker = made.worker(&inputs);
    let mut observe = |worker: &mut worker::Worker, id| {
        worker.request(EffectId(id), reading()).unwrap();
        // The rounds of those that hung come to their end, too, as late as it is.
        while let Some(input) = answers.blocking_recv() {
            match input {
                Input::Observed { id: answered, result: Ok(seen) } if answered == EffectId(id) => return seen,
                _ => {}
            }
        }
        unreachable!("the worker has ended")
    };
    for id in 4..6 {
        let seen = observe(&mut worker, id);
        assert_eq!(faulty(&seen), hang.map(|(file, _)| format!("/{file}")));
        assert!(seen.faults.iter().all(|fault| fault.what.starts_with("hangs, for ")), "{:?}", seen.faults);
        assert_eq!(number(&seen, Metric::BatteryVoltage), None, "it is the battery's, too");
        assert_eq!(value(&seen, Metric::BatteryPresent), None);
        assert_eq!(value(&seen, Metric::BatteryExternalPower), Some(false.into()), "the other supply says so");
        assert_eq!(value(&seen, Metric::LinkInterface), Some("eth0".into()));
        assert_eq!((value(&seen, Metric::LinkUp), labelled(&seen, Metric::InterfaceUp, Some("eth0"))), (None, None));
        assert_eq!(labelled(&seen, Metric::InterfaceUp, Some("wwan0")), Some(true.into()));
        near(&seen, Metric::HostTemperature, 41.5);
        near(&seen, Metric::HostMemUsed, 75.0);
    }
    for (fifo, (_, answer)) in fifos.iter().zip(hang) {
        let aside = fifo.with_extension("aside");
        fs::rename(fifo, &aside).unwrap();
        fs::write(fifo, answer).unwrap();
        fs::write(aside, answer).unwrap();
    }
    let back = (6..1_000_000).map(|id| observe(&mut worker, id)).find(|seen| seen.faults.is_empty()).unwrap();
    near(&back, Metric::BatteryChargePct, 73.0);
}

proptest! {
    #[test]
    fn no_text_whatever_makes_a_collector_fail(text in ".{0,60}", which in 0..BATTERY.len() + LINKS.len() + HOST.len()) {
        let made = Made::new(&[BATTERY, LINKS, HOST]);
        let path = BATTERY.iter().chain(LINKS).chain(HOST).nth(which).unwrap().0;
        made.write(path, &text);
        let seen = made.observe();
        prop_assert!(seen.points.iter().all(|point| point.value.number().is_none_or(f64::is_finite)));
    }
}
