//! What the fuzz targets call (`fuzz/`), and a test that calls it for some thousand seeded inputs wherever the tests
//! run: bytes from outside go through the agent's own parsers, and on into the engine as on a gateway. Each function
//! panics if a promise is broken. No part of the agent.
#![expect(clippy::disallowed_methods, reason = "the files of a made gateway are written here")]

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::collect::clock::ClockReading;
use crate::collect::errors::{MESSAGE_BYTES_MAX, parsers};
use crate::collect::{Collectors, of_modem_answer};
use crate::config;
use crate::engine::incidents::{Incidents, Settings};
use crate::engine::metric::Value;
use crate::engine::observation::{ErrorBatch, ErrorLine, Observation, Severity};
use crate::engine::record::{Body, Record, Stamp};
use crate::engine::time::{BootId, Mono, Now, Unix, Wall};

/// Bytes of an input that are looked at: more only takes longer.
const INPUT_BYTES_MAX: usize = 32 * 1024;

/// A line of `journalctl --output=json`.
pub fn journal_line(bytes: &[u8]) {
    tell(parsers::journal_line(input(bytes)).into_iter().collect());
}

/// A record of /dev/kmsg.
pub fn kernel_record(bytes: &[u8]) {
    tell(parsers::kernel_record(input(bytes)).into_iter().collect());
}

/// A datagram of an application.
pub fn app_datagram(bytes: &[u8]) {
    tell(parsers::app_datagram(input(bytes)));
}

/// The body of ModemManager's answer over D-Bus.
pub fn modem_answer(bytes: &[u8]) {
    check(&of_modem_answer(input(bytes)));
}

/// The files of /sys and /proc: each takes the next line of the input. `dir` is a directory of the caller's.
///
/// # Errors
/// `dir` can't be written to.
pub fn sysfs(dir: &Path, bytes: &[u8]) -> io::Result<()> {
    const FILES: [&str; 24] = [
        "sys/class/power_supply/BAT0/type",
        "sys/class/power_supply/BAT0/present",
        "sys/class/power_supply/BAT0/status",
        "sys/class/power_supply/BAT0/capacity",
        "sys/class/power_supply/BAT0/voltage_now",
        "sys/class/power_supply/BAT0/current_now",
        "sys/class/power_supply/BAT0/charge_now",
        "sys/class/power_supply/BAT0/charge_full",
        "sys/class/power_supply/BAT0/charge_full_design",
        "sys/class/power_supply/BAT0/temp",
        "sys/class/power_supply/BAT0/cycle_count",
        "sys/class/net/eth0/type",
        "sys/class/net/eth0/operstate",
        "sys/class/net/eth0/carrier",
        "sys/class/net/eth0/statistics/rx_bytes",
        "sys/class/thermal/thermal_zone0/temp",
        "sys/block/mmcblk0/device/life_time",
        "proc/stat",
        "proc/meminfo",
        "proc/loadavg",
        "proc/uptime",
        "proc/net/route",
        "proc/net/wireless",
        "proc/pressure/memory",
    ];
    let mut parts = input(bytes).split(|byte| *byte == b'\n');
    for file in FILES {
        let path = dir.join(file);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // Two lines fit into one file where the input says so.
        let text: Vec<u8> =
            parts.next().unwrap_or_default().iter().map(|b| if *b == 0x1e { b'\n' } else { *b }).collect();
        fs::write(path, text)?;
    }
    let config = dir.join("agent.toml");
    fs::write(&config, format!("[mqtt]\nurl = \"mqtt://127.0.0.1\"\n[collect]\nroot = \"{}\"\n", dir.display()))?;
    let Ok(loaded) = config::load(&[config]) else {
        return Err(io::Error::other(format!("no configuration with a root of {}", dir.display())));
    };

    let mut collectors = Collectors::new(&loaded.config.collect);
    let now = Now { mono: Mono(1), wall: Wall { unix: Unix(0), trusted: false } };
    // Twice: some values are what changed in between.
    for _ in 0..2 {
        let observation = collectors.observe(ClockReading { now, synced: false });
        check(&observation);
    }
    Ok(())
}

/// What every observation promises.
fn check(observation: &Observation) {
    const TEXT_BYTES_MAX: usize = 4 * 1024;
    for point in &observation.points {
        let is_sound = match &point.value {
            Value::Float(value) => value.is_finite(),
            Value::Text(text) => text.len() <= TEXT_BYTES_MAX && !text.contains(char::is_control),
            Value::Count(_) | Value::Flag(_) => true,
        };
        assert!(is_sound, "{point:?} is no number that JSON has, or a text that nobody should be shown");
        assert_eq!(point.label.is_some(), point.metric.has_label(), "{point:?}");
    }
}

fn input(bytes: &[u8]) -> &[u8] {
    bytes.get(..INPUT_BYTES_MAX).unwrap_or(bytes)
}

/// Hands lines to the engine's incidents, and holds the events against what every event promises.
fn tell(lines: Vec<ErrorLine>) {
    const EVENT_BYTES_MAX: usize = 8 * 1024;
    let lines_count = lines.len() as u64;
    let mut incidents =
        Incidents::new(Settings { max_clusters: 4, min_severity: Severity::Debug, bucket: Duration::from_secs(60) });
    for line in &lines {
        let len = line.message.len();
        assert!(len <= MESSAGE_BYTES_MAX, "a message of {len} B");
    }
    let at = Stamp { boot: BootId([1; 16]), mono: Mono(1) };
    let mut events = incidents.take(at, ErrorBatch { lines, ..ErrorBatch::default() });
    assert!(incidents.clusters() <= 4, "{} clusters", incidents.clusters());
    incidents.close_buckets(Mono(2));
    events.extend(incidents.poll(Mono(2), usize::MAX));
    assert!(events.len() as u64 <= lines_count, "{} events of {lines_count} lines", events.len());
    for event in events {
        let record = Record { at, body: Body::Event(event) };
        let stored = record.encode();
        assert!(stored.len() <= EVENT_BYTES_MAX, "a record of {} B", stored.len());
        assert!(Record::decode(&stored).is_ok_and(|read| read == record), "not read back: {record:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Mutated inputs a target.
    const ROUNDS: u64 = 3_000;
    /// A round of the collectors writes and reads some fifty files.
    const ROUNDS_OF_FILES: u64 = 60;

    /// Says what the input was if a target panics with it.
    struct Witness<'a> {
        target: &'a str,
        seed: Option<u64>,
        input: &'a [u8],
    }

    impl Drop for Witness<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let input = self.input.escape_ascii();
                eprintln!("{} fails with seed {:?}, and with this input: b\"{input}\"", self.target, self.seed);
            }
        }
    }

    /// The inputs that are kept for a target.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let mut files: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", dir.display());
        files.iter().map(|file| fs::read(file).unwrap()).collect()
    }

    fn run(target: &str, rounds: u64, call: impl Fn(&[u8])) {
        let corpus = corpus(target);
        for input in &corpus {
            let _witness = Witness { target, seed: None, input };
            call(input);
        }
        for seed in 0..rounds {
            let input = mutated(&corpus, &mut fastrand::Rng::with_seed(seed));
            let _witness = Witness { target, seed: Some(seed), input: &input };
            call(&input);
        }
    }

    /// One of the corpus after some of what a fuzzer does; or, now and then, noise.
    fn mutated(corpus: &[Vec<u8>], dice: &mut fastrand::Rng) -> Vec<u8> {
        const TELLING: [&[u8]; 14] = [
            b"\0",
            b"\n",
            b"\"",
            b"\\",
            b"\\u0000",
            b"{",
            b"[",
            b",",
            b"-9223372036854775808",
            b"18446744073709551616",
            b"1e999",
            b"\xff\xfe",
            "\u{2028}\u{10ffff}".as_bytes(),
            b"/../",
        ];
        if dice.u8(..) < 8 {
            return (0..dice.usize(..2_000)).map(|_| dice.u8(..)).collect();
        }
        let mut input = corpus[dice.usize(..corpus.len())].clone();
        for _ in 0..=dice.usize(..6) {
            let at = dice.usize(..=input.len());
            let end = dice.usize(at..=(at + 64).min(input.len()));
            match dice.u8(..6) {
                0 => drop(input.splice(at..at, TELLING[dice.usize(..TELLING.len())].iter().copied())),
                1 => drop(input.drain(at..end)),
                2 if at < input.len() => input[at] ^= 1 << dice.u8(..8),
                3 => {
                    let part: Vec<u8> = input[at..end].to_vec();
                    let times = if dice.u8(..) < 4 { 4_000 } else { 3 };
                    let repeated = part.repeat(times);
                    drop(input.splice(at..at, repeated.into_iter().take(20_000)));
                }
                4 => input.truncate(at),
                _ => {
                    let other = &corpus[dice.usize(..corpus.len())];
                    let from = dice.usize(..=other.len());
                    input.truncate(at);
                    input.extend_from_slice(&other[from..]);
                }
            }
        }
        input
    }

    #[test]
    fn no_line_of_a_journal_whatever_breaks_a_promise() {
        run("journal_line", ROUNDS, journal_line);
    }

    #[test]
    fn no_record_of_a_kernels_log_whatever_breaks_a_promise() {
        run("kernel_record", ROUNDS, kernel_record);
    }

    #[test]
    fn no_datagram_of_an_application_whatever_breaks_a_promise() {
        run("app_datagram", ROUNDS, app_datagram);
    }

    #[test]
    fn no_answer_of_modem_manager_whatever_breaks_a_promise() {
        run("modem_answer", ROUNDS, modem_answer);
    }

    #[test]
    fn no_file_of_the_kernels_whatever_it_says_breaks_a_promise() {
        let dir = tempfile::tempdir().unwrap();
        run("sysfs", ROUNDS_OF_FILES, |input| sysfs(dir.path(), input).unwrap());
    }

    #[test]
    fn what_is_kept_for_a_target_reaches_what_it_is_kept_for() {
        let lines =
            |target: &str, read: fn(&[u8]) -> usize| corpus(target).iter().map(|input| read(input)).sum::<usize>();
        assert!(lines("journal_line", |input| parsers::journal_line(input).iter().count()) >= 4);
        assert!(lines("kernel_record", |input| parsers::kernel_record(input).iter().count()) >= 4);
        assert!(lines("app_datagram", |input| parsers::app_datagram(input).len()) >= 4);
        assert!(lines("modem_answer", |input| of_modem_answer(input).points.len()) >= 8);
    }
}
