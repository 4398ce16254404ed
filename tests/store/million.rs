//! A long outage's worth of records.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use fieldmedic::engine::io::StoreOp;
use fieldmedic::engine::record::Class;
use fieldmedic::store::{Store, StoreSettings};
use tempfile::TempDir;

use crate::{child, child_dir};

const RECORDS: u64 = 1_000_000;
const RECORD_BYTES: usize = 60;
/// By how much opening may raise the peak of the process, in KiB.
const GROWTH_MAX_KIB: u64 = 4 * 1024;
/// Times as long as reading the same bytes and summing them up. Unoptimised it takes about 20 times as long; a release
/// looks through a million records in an eighth of a second, twice what reading them takes.
const RATIO_MAX: f64 = 60.0;
const TEST: &str = "million::a_million_records_are_opened_in_a_few_readings_time_and_take_no_memory";

#[test]
fn a_million_records_are_opened_in_a_few_readings_time_and_take_no_memory() {
    if let Some(dir) = child_dir() {
        return open_and_measure(&dir);
    }
    // On a disk, as far as there is one: this is no test of the order of writes.
    let dir = TempDir::new().unwrap();
    let (mut store, _) = Store::open(&large(dir.path())).expect("open");
    let bytes = Bytes::from(vec![b'x'; RECORD_BYTES]);
    for seq in 1..=RECORDS {
        store.apply(StoreOp::Append { class: Class::Telemetry, seq, bytes: bytes.clone() }).expect("append");
    }
    store.close().expect("close");
    let output = child(TEST, dir.path()).output().expect("start the one that opens it");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn large(dir: &Path) -> StoreSettings {
    StoreSettings { path: dir.join("store"), max_bytes: 1 << 30 }
}

fn open_and_measure(dir: &Path) {
    let began = Instant::now();
    let (bytes, sum) = read_all(&dir.join("store/outbox/telemetry"));
    let reading = began.elapsed();
    // A store with nothing in it: sled's threads and buffers are not what grows with the records.
    let other = TempDir::new().unwrap();
    drop(Store::open(&large(other.path())).expect("open an empty one"));
    let before = peak_kib();
    let began = Instant::now();
    let (_store, recovered) = Store::open(&large(dir)).expect("open");
    let opening = began.elapsed();
    let grown = peak_kib() - before;
    let ratio = opening.as_secs_f64() / reading.as_secs_f64();
    println!(
        "opened {RECORDS} records in {opening:.2?}; reading their {} MiB took {reading:.2?} (sum {sum:08x}): {ratio:.1} \
         times as long; the peak of memory rose by {grown} KiB",
        bytes >> 20
    );
    assert_eq!(recovered.logs[Class::Telemetry as usize].records, RECORDS);
    assert_eq!(recovered.losses, []);
    assert!(grown <= GROWTH_MAX_KIB, "opening took {grown} KiB more");
    assert!(ratio <= RATIO_MAX, "opening took {ratio:.1} times as long as reading");
}

/// What anyone must do who reads the log: every byte, and its checksum.
fn read_all(dir: &Path) -> (u64, u32) {
    let (mut bytes, mut sum) = (0, 0);
    let mut chunk = vec![0; 64 * 1024];
    for entry in fs::read_dir(dir).unwrap() {
        let mut file = File::open(entry.unwrap().path()).unwrap();
        loop {
            let count = file.read(&mut chunk).unwrap();
            if count == 0 {
                break;
            }
            bytes += count as u64;
            sum = crc32c::crc32c_append(sum, &chunk[..count]);
        }
    }
    (bytes, sum)
}

/// VmHWM of proc_pid_status(5).
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
