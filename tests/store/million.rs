//! A long outage's worth of records.

use std::fs::{self, File};
use std::io::{BufReader, Read as _};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fieldmedic::engine::io::StoreOp;
use fieldmedic::engine::record::Class;
use fieldmedic::store::{Store, StoreSettings};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use crate::{child, child_dir, cost};

const RECORDS: u64 = 1_000_000;
const RECORD_BYTES: usize = 60;
/// Of a segment's header and of what stands before each body, the length of that at byte 4 (store::segment).
const HEADER_BYTES: usize = 20;
const HEAD_BYTES: usize = 24;
/// How much is read at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// By how much opening may raise the peak of the process.
const GROWTH_MAX_BYTES: u64 = 4 << 20;
/// How often each byte may be read: the log's once, and a few of the state and of the disk's books.
const READ_MAX: f64 = 1.1;
/// Times the processor's time of a plain loop over the same frames, built as the store is. It takes twice that; a
/// release on a gateway of 2 GHz so an eighth of a second for a million records, and with this well under one.
const RATIO_MAX: f64 = 4.0;
/// The best of so many loops counts: what else the machine does can only make one longer.
const LOOPS: u32 = 3;
const TEST: &str = "million::a_million_records_are_opened_in_a_few_loops_time_read_once_and_take_no_memory";

#[test]
fn a_million_records_are_opened_in_a_few_loops_time_read_once_and_take_no_memory() {
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

pub(crate) fn large(dir: &Path) -> StoreSettings {
    StoreSettings { path: dir.join("store"), max_bytes: 1 << 30 }
}

fn open_and_measure(dir: &Path) {
    let ((bytes, sum), looping) = (0..LOOPS)
        .map(|_| timed(|| sum_up(&dir.join("store/outbox/telemetry"))))
        .min_by_key(|(_, took)| *took)
        .unwrap();
    // A store with nothing in it: sled's threads and buffers are not what grows with the records.
    let other = TempDir::new().unwrap();
    drop(Store::open(&large(other.path())).expect("open an empty one"));
    let us = std::process::id();
    let (peak, read) = (cost::status_bytes(us, "VmHWM"), cost::io(us, "rchar"));
    let ((_store, recovered), opening) = timed(|| Store::open(&large(dir)).expect("open"));
    let (grown, read) = (cost::status_bytes(us, "VmHWM") - peak, cost::io(us, "rchar") - read);
    let (ratio, times_read) = (opening.as_secs_f64() / looping.as_secs_f64(), read as f64 / bytes as f64);
    println!(
        "opened {RECORDS} records in {opening:.2?} of the processor's time; a loop over their {} MiB took \
         {looping:.2?} (sum {sum:08x}): {ratio:.1} times as long; each byte was read {times_read:.2} times; the peak \
         of memory rose by {} KiB",
        bytes >> 20,
        grown >> 10
    );
    assert_eq!(recovered.logs[Class::Telemetry as usize].records, RECORDS);
    assert_eq!(recovered.losses, []);
    assert!(grown <= GROWTH_MAX_BYTES, "opening took {grown} B more");
    assert!(times_read <= READ_MAX, "opening read {read} B, {times_read:.2} times what is there");
    assert!(ratio <= RATIO_MAX, "opening took {ratio:.1} times as long as a loop over the frames");
}

/// With the time that the processor took for it: that of others on the machine is not in it.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let spent = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap();
    let began = spent();
    let done = work();
    (done, spent() - began)
}

/// What anyone must do who looks for records: go from one to the next, and sum each up. Their bytes, and the sum.
fn sum_up(dir: &Path) -> (u64, u32) {
    let (mut bytes, mut sum) = (0, 0);
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_none_or(|suffix| suffix != "seg") {
            continue;
        }
        let mut file = BufReader::with_capacity(CHUNK_BYTES, File::open(path).unwrap());
        let (mut header, mut head, mut body) = ([0; HEADER_BYTES], [0; HEAD_BYTES], Vec::new());
        file.read_exact(&mut header).unwrap();
        bytes += header.len() as u64;
        while file.read_exact(&mut head).is_ok() {
            // And the byte that ends the frame.
            body.resize(u32::from_le_bytes(head[4..8].try_into().unwrap()) as usize + 1, 0);
            if file.read_exact(&mut body).is_err() {
                break; // room, behind the last one
            }
            sum = crc32c::crc32c_append(crc32c::crc32c_append(sum, &head), &body);
            bytes += (head.len() + body.len()) as u64;
        }
    }
    (bytes, sum)
}
