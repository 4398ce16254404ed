//! What a commit of one sample writes to a disk: on ext4 with the blocks that gateways have, in a file on a loop device
//! whose own counter tells what arrived. Beside it a plain log, which grows with each commit.

use std::fs::{self, File};
use std::io::Write as _;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fieldmedic::engine::io::StoreOp;
use fieldmedic::engine::record::Class;
use fieldmedic::store::Store;

use crate::million::large;
use crate::tiny_disk::TinyDisk;
use crate::{child, child_dir, cost};

const TEST: &str = "wear::a_commit_of_one_sample_writes_less_than_twice_its_bytes";
const DISK_MIB: u64 = 64;
const COMMITS: u64 = 128;
/// Of a gateway at the defaults: six observations in a report.
const SAMPLE_BYTES: usize = 1_400;
/// By the kernel's count of what the process sent to the disk.
const SENT_MAX: f64 = 2.0;
/// Of what arrives there for the plain log: most of that is the file system's own.
const ARRIVED_MAX: f64 = 0.6;

#[test]
fn a_commit_of_one_sample_writes_less_than_twice_its_bytes() {
    if let Some(dir) = child_dir() {
        return measure(&dir);
    }
    let Some(disk) = TinyDisk::ext4(DISK_MIB) else { return };
    let output = child(TEST, disk.path()).output().expect("start the one that commits");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// In a process of its own, for the sake of its counter.
fn measure(dir: &Path) {
    let (mut store, _) = Store::open(&large(dir)).expect("open");
    let ours = Written::by(dir, || commit_each(&mut store, 1..=COMMITS));
    let plain = Written::by(dir, || plain_log(dir));
    for (name, written) in [("store", &ours), ("plain log", &plain)] {
        let Written { sent, arrived } = written;
        println!("{name}: for a byte of data {sent:.2} B were sent to the disk, and {arrived:.2} B arrived there");
    }
    assert!(ours.sent <= SENT_MAX, "{:.2} B were sent to the disk for a byte of data", ours.sent);
    let ratio = ours.arrived / plain.arrived;
    assert!(ratio <= ARRIVED_MAX, "{ratio:.2} of what arrives at the disk for a plain log");
}

/// Bytes for a byte of data.
struct Written {
    /// By the kernel's books of the process.
    sent: f64,
    /// By those of the disk, with what the file system writes for itself.
    arrived: f64,
}

impl Written {
    fn by(dir: &Path, write: impl FnOnce()) -> Self {
        let device = loop_device(dir);
        let look = || {
            rustix::fs::sync();
            (cost::io(std::process::id(), "write_bytes"), sent_to(&device))
        };
        let before = look();
        write();
        let after = look();
        let data = (COMMITS * SAMPLE_BYTES as u64) as f64;
        Self { sent: (after.0 - before.0) as f64 / data, arrived: (after.1 - before.1) as f64 / data }
    }
}

fn commit_each(store: &mut Store, seqs: RangeInclusive<u64>) {
    for seq in seqs {
        let bytes = Bytes::from(vec![b'x'; SAMPLE_BYTES]);
        store.apply(StoreOp::Append { class: Class::Telemetry, seq, bytes }).expect("append");
        store.apply(StoreOp::Commit).expect("commit");
    }
}

fn plain_log(dir: &Path) {
    let mut file = File::create_new(dir.join("plain")).unwrap();
    for _ in 0..COMMITS {
        file.write_all(&[b'x'; SAMPLE_BYTES]).unwrap();
        file.sync_data().unwrap();
    }
}

/// Below /sys/block, of what is mounted there.
fn loop_device(mounted: &Path) -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(1).is_some_and(|dir| Path::new(dir) == mounted));
    let device = line.and_then(|line| line.split(' ').next()).expect("it is mounted");
    Path::new("/sys/block").join(Path::new(device).file_name().unwrap())
}

/// Bytes that were written to the device: sectors of 512 B, the seventh field of its stat (Documentation/block/stat).
fn sent_to(device: &Path) -> u64 {
    let stat = fs::read_to_string(device.join("stat")).unwrap();
    stat.split_whitespace().nth(6).unwrap().parse::<u64>().unwrap() * 512
}

#[test]
fn where_no_room_is_made_ahead_and_sectors_are_large_a_log_is_written_all_the_same() {
    const RECORDS: u64 = 10;
    const FRAME_BYTES: u64 = 25 + SAMPLE_BYTES as u64;
    for sector_bytes in [512, 4096] {
        let Some(disk) = TinyDisk::ext4_without_extents(DISK_MIB, sector_bytes) else { return };
        for round in 0..3 {
            let (mut store, recovered) = Store::open(&large(disk.path())).expect("open");
            assert_eq!(recovered.losses, [], "sectors of {sector_bytes} B");
            assert_eq!(recovered.logs[Class::Telemetry as usize].records, round * RECORDS);
            commit_each(&mut store, round * RECORDS + 1..=(round + 1) * RECORDS);
            // Not closed, as after a kill.
            drop(store);
        }
        let segment = disk.path().join("store/outbox/telemetry/00000000000000000001.seg");
        let data_bytes = 20 + 3 * RECORDS * FRAME_BYTES;
        // Whole sectors where the kernel takes those, past the page cache.
        let written_bytes = if sector_bytes == 512 { data_bytes.next_multiple_of(512) } else { data_bytes };
        assert_eq!(fs::metadata(segment).unwrap().len(), written_bytes, "sectors of {sector_bytes} B");
    }
}
