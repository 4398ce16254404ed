#![expect(clippy::disallowed_methods, reason = "holds the model against the real store, on a real file system")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::engine::io::LogRange;
use crate::store::{FRAME_BYTES, Store, StoreSettings};

/// Runs of the model test, each of up to [`ACTS_MAX`] acts: this many, or as many as the variable says.
const CASES: u32 = 24;
const CASES_VARIABLE: &str = "FIELDMEDIC_MODEL_CASES";
const ACTS_MAX: usize = 60;
/// How far the model's idea of sled's files may be off.
const STATE_TOLERANCE_BYTES: u64 = 600 * 1024;

fn world() -> DiskWorld {
    DiskWorld {
        bytes: 1 << 30,
        others_bytes: 100 << 20,
        others_grow_bytes: 0,
        commit: (Duration::from_millis(5), Duration::from_millis(40)),
    }
}

fn disk() -> Disk {
    Disk::new(&world(), 1 << 20, Dice::new(7, "disk"))
}

fn body(seq: u64, len: usize) -> Bytes {
    seq.to_le_bytes().into_iter().cycle().take(len).collect()
}

fn append(class: Class, seq: u64, len: usize) -> StoreOp {
    StoreOp::Append { class, seq, bytes: body(seq, len) }
}

fn read_all(class: Class) -> StoreOp {
    StoreOp::Read { class, from: 0, records_max: usize::MAX, bytes_max: usize::MAX }
}

fn put(key: &str, len: usize) -> StoreOp {
    StoreOp::Put { entries: vec![(key.to_owned(), Some(body(1, len)))] }
}

/// What the gateway's clock says, where nobody asks.
const NOW: Unix = Unix(0);

fn done(disk: &mut Disk, op: StoreOp) -> StoreReply {
    disk.apply(op, NOW).0.expect("the disk is well")
}

/// Telemetry of 300 B, committed.
fn filled(records: u64) -> Disk {
    let mut disk = disk();
    for seq in 1..=records {
        done(&mut disk, append(Class::Telemetry, seq, 300));
    }
    done(&mut disk, StoreOp::Commit);
    disk
}

fn stored(disk: &Disk) -> Vec<u64> {
    disk.stored(Class::Telemetry).map(|(seq, _)| seq).collect()
}

#[test]
fn a_kill_takes_what_was_still_in_the_process_and_a_clean_end_takes_nothing() {
    let mut disk = filled(10);
    done(&mut disk, append(Class::Telemetry, 11, 300));
    assert_eq!(disk.durable(Class::Telemetry).count(), 10);
    disk.crash(Crash::Process);
    assert_eq!(stored(&disk), (1..=10).collect::<Vec<_>>());
    done(&mut disk, append(Class::Telemetry, 12, 300));
    let recovered = disk.crash(Crash::Clean);
    assert_eq!(recovered.logs[Class::Telemetry as usize], LogRange { first: 1, last: 12, records: 11, evicted: 0 });
}

#[test]
fn when_it_was_last_written_is_told_by_the_clock_of_then() {
    let mut disk = disk();
    assert_eq!(disk.crash(Crash::Clean).written_at, None);
    for (op, now) in [append(Class::Events, 1, 300), StoreOp::Commit, read_all(Class::Events)].into_iter().zip(1..) {
        disk.apply(op, Unix(now)).0.expect("the disk is well");
    }
    assert_eq!(disk.crash(Crash::Power).written_at, Some(Unix(2)), "neither buffered nor read");
    disk.apply(put("run", 20), Unix(9)).0.expect("the disk is well");
    assert_eq!(disk.crash(Crash::Process).written_at, Some(Unix(9)));
}

#[test]
fn a_power_cut_leaves_what_was_committed_and_of_the_rest_only_a_beginning() {
    let mut survivors = BTreeSet::new();
    for seed in 0..50 {
        let mut disk = Disk::new(&world(), 16 << 20, Dice::new(seed, "disk"));
        for seq in 1..=300 {
            done(&mut disk, append(Class::Telemetry, seq, 1_000));
            if seq == 100 {
                done(&mut disk, StoreOp::Commit);
            }
        }
        disk.crash(Crash::Power);
        let left = stored(&disk);
        assert!(left.len() >= 100, "seed {seed}: {} of 100 committed records are left", left.len());
        assert_eq!(left, (1..=left.len() as u64).collect::<Vec<_>>(), "seed {seed}");
        survivors.insert(left.len());
    }
    assert!(survivors.len() > 10, "the same each time: {survivors:?}");
    assert!(survivors.last() < Some(&300), "what never left the process can't survive: {survivors:?}");
}

#[test]
fn a_trim_may_be_forgotten_by_a_power_cut_and_is_never_half_remembered() {
    let mut remembered = BTreeSet::new();
    for seed in 0..20 {
        let mut disk = Disk::new(&world(), 1 << 20, Dice::new(seed, "disk"));
        for seq in 1..=20 {
            done(&mut disk, append(Class::Telemetry, seq, 300));
        }
        done(&mut disk, StoreOp::Commit);
        done(&mut disk, StoreOp::Trim { class: Class::Telemetry, upto: 5 });
        done(&mut disk, StoreOp::Trim { class: Class::Telemetry, upto: 15 });
        remembered.insert(disk.crash(Crash::Power).logs[Class::Telemetry as usize].first);
    }
    assert_eq!(remembered, BTreeSet::from([1, 16]));
}

#[test]
fn each_record_is_told_once_when_it_becomes_durable() {
    let mut disk = disk();
    done(&mut disk, append(Class::Events, 1, 300));
    assert_eq!(disk.take_newly_durable(), []);
    done(&mut disk, StoreOp::Commit);
    done(&mut disk, append(Class::Telemetry, 2, 300));
    done(&mut disk, StoreOp::Commit);
    assert_eq!(disk.take_newly_durable(), [(Class::Events, 1), (Class::Telemetry, 2)]);
    done(&mut disk, append(Class::Telemetry, 3, 300));
    disk.crash(Crash::Clean);
    assert_eq!(disk.take_newly_durable(), [(Class::Telemetry, 3)]);
    // A full segment is synced when the next one begins.
    for seq in 4..=400 {
        done(&mut disk, append(Class::Telemetry, seq, 300));
    }
    let durable: Vec<u64> = disk.take_newly_durable().into_iter().map(|(_, seq)| seq).collect();
    assert_eq!(durable, (4..=*durable.last().expect("one segment")).collect::<Vec<_>>());
    assert!(durable.len() < 397, "the newest segment is not synced");
}

#[test]
fn a_full_disk_refuses_until_the_store_gives_something_up() {
    let mut disk = filled(1_000);
    disk.set_full(true);
    assert_eq!(disk.stats().free_bytes, 0);
    let reserve = disk.stats().state_bytes;
    let mut seq = 1_000;
    let refused = loop {
        seq += 1;
        let (result, _) = disk.apply(append(Class::Telemetry, seq, 300), NOW);
        if let Err(fault) = result {
            break fault;
        }
    };
    assert!(matches!(refused, StoreFault::NoSpace { .. }), "{refused}");
    assert!(disk.apply(StoreOp::Commit, NOW).0.is_err());
    done(&mut disk, put("journal", 300));
    assert_eq!(disk.stats().state_bytes, reserve, "the reserve gave the room for it, and not more");
    done(&mut disk, StoreOp::Evict { class: Class::Telemetry });
    done(&mut disk, append(Class::Telemetry, seq, 300));
    done(&mut disk, StoreOp::Commit);
    disk.set_full(false);
    assert!(disk.stats().free_bytes > 500 << 20, "{} B free", disk.stats().free_bytes);
}

#[test]
fn an_eviction_that_fails_half_way_is_counted_once() {
    let mut disk = filled(1_000);
    disk.set_errors(0.8);
    let mut told = 0;
    while disk.records() > 0 {
        if let (Ok(StoreReply::Evicted { records, .. }), _) =
            disk.apply(StoreOp::Evict { class: Class::Telemetry }, NOW)
        {
            told += records;
        }
    }
    assert_eq!(told, 1_000);
    disk.set_errors(0.0);
    assert_eq!(disk.crash(Crash::Process).logs[Class::Telemetry as usize].evicted, 1_000);
}

#[test]
fn damage_is_told_by_the_read_that_passes_over_it_and_by_every_opening() {
    let mut disk = filled(1_000);
    disk.damage(false);
    let lost = 1_000 - stored(&disk).len() as u64;
    assert!((1..=40).contains(&lost), "{lost} records lost");
    assert_eq!(disk.stats().records[Class::Telemetry as usize], 1_000, "nobody has looked yet");
    let StoreReply::Page { records, damaged } = done(&mut disk, read_all(Class::Telemetry)) else { panic!("a page") };
    assert_eq!((records.len() as u64, damaged), (1_000 - lost, lost));
    assert!(matches!(done(&mut disk, read_all(Class::Telemetry)), StoreReply::Page { damaged: 0, .. }));
    let losses = disk.crash(Crash::Process).losses;
    assert_eq!(losses.iter().map(|loss| loss.records).collect::<Vec<_>>(), [lost]);
    assert_eq!(disk.crash(Crash::Power).losses, losses, "the engine knows it by its words");
    assert_eq!(disk.records(), 1_000 - lost);
}

#[test]
fn a_lost_state_is_told_once_and_begun_anew() {
    let mut disk = disk();
    done(&mut disk, put("journal", 300));
    disk.damage(true);
    let recovered = disk.crash(Crash::Process);
    assert!(recovered.state.is_empty() && recovered.losses.iter().any(|loss| loss.state_lost), "{recovered:?}");
    done(&mut disk, put("journal", 300));
    let recovered = disk.crash(Crash::Power);
    assert_eq!((recovered.state.len(), recovered.losses.len()), (1, 0));
}

#[test]
fn a_slow_disk_takes_longer_and_others_take_room() {
    let mut disk = disk();
    assert!((Duration::from_millis(5)..=Duration::from_millis(40)).contains(&disk.commit_takes()));
    disk.set_slow(100.0);
    assert!(disk.commit_takes() >= Duration::from_millis(500));
    let free = disk.free_bytes();
    disk.others_use(world().others_bytes + 1_000);
    assert_eq!(disk.free_bytes(), free - 1_000);
    disk.others_use(u64::MAX);
    assert_eq!(disk.free_bytes(), 0);
}

#[derive(Debug, Clone)]
enum Act {
    Append { class: Class, count: u64, gap: u64, len: usize },
    Commit,
    Read { class: Class, part: u64, records_max: usize, bytes_max: usize },
    Trim { class: Class, part: u64 },
    Evict { class: Class },
    Put { entries: Vec<(u8, Option<usize>)> },
    Reopen { clean: bool },
    PowerCut { luck: [u64; Class::COUNT + 1], class: Class, burst: u64 },
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![1 => Just(Class::Results), 1 => Just(Class::Events), 3 => Just(Class::Telemetry)]
}

fn act() -> impl Strategy<Value = Act> {
    let len = prop_oneof![8 => 0..600_usize, 6 => 0..20_000_usize, 1 => Just(262_145)];
    let entry = (0..6_u8, proptest::option::of(prop_oneof![9 => 0..900_usize, 1 => Just(6_000)]));
    prop_oneof![
        8 => (class(), 1..60_u64, 0..3_u64, len).prop_map(|(class, count, gap, len)| Act::Append { class, count, gap, len }),
        3 => Just(Act::Commit),
        4 => (class(), 0..120_u64, 0..300_usize, 0..100_000_usize)
            .prop_map(|(class, part, records_max, bytes_max)| Act::Read { class, part, records_max, bytes_max }),
        3 => (class(), 0..120_u64).prop_map(|(class, part)| Act::Trim { class, part }),
        1 => class().prop_map(|class| Act::Evict { class }),
        2 => proptest::collection::vec(entry, 1..4).prop_map(|entries| Act::Put { entries }),
        1 => any::<bool>().prop_map(|clean| Act::Reopen { clean }),
        2 => (any::<[u64; Class::COUNT + 1]>(), class(), 0..40_u64)
            .prop_map(|(luck, class, burst)| Act::PowerCut { luck, class, burst }),
    ]
}

/// The real store and the model of it, side by side.
struct Pair {
    dir: TempDir,
    max_bytes: u64,
    real: Option<Store>,
    model: Disk,
    last: u64,
    /// The cursor files as they were last synced.
    cursors: BTreeMap<PathBuf, Vec<u8>>,
}

impl Pair {
    fn new(max_bytes: u64) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let model = Disk::new(&world(), max_bytes, Dice::new(1, "disk"));
        let mut pair = Self { dir, max_bytes, real: None, model, last: 0, cursors: BTreeMap::new() };
        pair.open_real();
        pair.keep_synced_cursors();
        pair
    }

    fn open_real(&mut self) -> Recovered {
        let settings = StoreSettings { path: self.dir.path().join("store"), max_bytes: self.max_bytes };
        let (store, recovered) = Store::open(&settings).expect("the store opens");
        self.real = Some(store);
        recovered
    }

    fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        let part_of = |last: u64, part: u64| last * part / 100;
        match act {
            Act::Append { class, count, gap, len } => {
                for _ in 0..*count {
                    // Without a gap it is refused.
                    self.last += gap;
                    self.apply(&append(*class, self.last, *len))?;
                }
                Ok(())
            }
            Act::Commit => self.apply(&StoreOp::Commit),
            Act::Read { class, part, records_max, bytes_max } => {
                let (from, records_max, bytes_max) = (part_of(self.last, *part), *records_max, *bytes_max);
                self.apply(&StoreOp::Read { class: *class, from, records_max, bytes_max })
            }
            Act::Trim { class, part } => self.apply(&StoreOp::Trim { class: *class, upto: part_of(self.last, *part) }),
            Act::Evict { class } => self.apply(&StoreOp::Evict { class: *class }),
            Act::Put { entries } => {
                let entry = |(key, len): &(u8, Option<usize>)| (format!("key/{key}"), len.map(|len| body(3, len)));
                self.apply(&StoreOp::Put { entries: entries.iter().map(entry).collect() })
            }
            Act::Reopen { clean: true } => {
                self.apply(&StoreOp::Commit)?;
                self.real = None;
                let model = self.model.crash(Crash::Clean);
                self.reopened(&model)
            }
            Act::Reopen { clean: false } => {
                self.real = None;
                let model = self.model.crash(Crash::Process);
                self.reopened(&model)
            }
            Act::PowerCut { luck, class, burst } => {
                // Else there is seldom anything that was written and not synced.
                for _ in 0..*burst {
                    self.last += 1;
                    self.apply(&append(*class, self.last, 9_000))?;
                }
                self.cut_power(*luck)
            }
        }
    }

    fn apply(&mut self, op: &StoreOp) -> Result<(), TestCaseError> {
        let real = self.real.as_mut().expect("open");
        let (expected, stats) = (real.apply(op.clone()), real.stats());
        let (found, model) = self.model.apply(op.clone(), NOW);
        match (&found, &expected) {
            (Err(_), Err(_)) => {}
            _ => prop_assert_eq!(&found, &expected, "{:?}", op),
        }
        self.keep_synced_cursors();
        agree(&model, &stats)
    }

    /// What lies behind the last sync of each log is cut off at a random place, and the cursor falls back or does not.
    fn cut_power(&mut self, luck: [u64; Class::COUNT + 1]) -> Result<(), TestCaseError> {
        self.real = None;
        let mut dice = Dice::new(luck[Class::COUNT], "cut");
        let left = std::array::from_fn(|n| {
            let log = &self.model.logs[n];
            let ends: Vec<u64> = log.unsynced_ends().collect();
            let kept = usize::try_from(luck[n] % (ends.len() as u64 + 1)).expect("few");
            let bytes = if kept == 0 { log.synced() } else { ends[kept - 1] };
            Left { bytes, cursor: dice.happens(0.5) }
        });
        for (class, left) in Class::ALL.into_iter().zip(&left) {
            let log = &self.model.logs[class as usize];
            let next = log.unsynced_ends().find(|end| *end > left.bytes);
            if let (Some(first), Some(next)) = (log.newest(), next) {
                let path = self.log_dir(class).join(format!("{first:020}.seg"));
                // Often within a header: of the segment, or of the frame.
                let within = if dice.happens(0.5) { next - left.bytes } else { FRAME_BYTES as u64 };
                let torn = left.bytes + dice.below(within);
                if torn == 0 && dice.happens(0.5) {
                    fs::remove_file(&path).expect("a file that the directory never held");
                } else {
                    OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(torn)).expect("cut");
                }
            }
            let cursor = self.log_dir(class).join("cursor");
            if !left.cursor {
                fs::write(&cursor, &self.cursors[&cursor]).expect("the cursor as it was synced");
            }
        }
        // After it comes another boot.
        let _ = fs::remove_file(self.dir.path().join("store/boot"));
        let model = self.model.reopen(left);
        self.reopened(&model)
    }

    fn reopened(&mut self, model: &Recovered) -> Result<(), TestCaseError> {
        let real = self.open_real();
        prop_assert_eq!(model.logs, real.logs);
        prop_assert_eq!(&model.state, &real.state);
        prop_assert_eq!(&model.losses, &real.losses);
        agree(&model.stats, &real.stats)?;
        self.keep_synced_cursors();
        for class in Class::ALL {
            self.apply(&read_all(class))?;
            let durable: Vec<u64> = self.model.durable(class).map(|(seq, _)| seq).collect();
            let stored: Vec<u64> = self.model.stored(class).map(|(seq, _)| seq).collect();
            prop_assert_eq!(durable, stored, "what was found when it was opened is durable");
        }
        Ok(())
    }

    fn keep_synced_cursors(&mut self) {
        for class in Class::ALL {
            let log = &self.model.logs[class as usize];
            let path = self.log_dir(class).join("cursor");
            if log.cursor_is_synced() {
                let bytes = fs::read(&path).expect("read the cursor");
                self.cursors.insert(path, bytes);
            }
        }
    }

    fn log_dir(&self, class: Class) -> PathBuf {
        self.dir.path().join("store/outbox").join(class.word())
    }
}

fn agree(model: &StoreStats, real: &StoreStats) -> Result<(), TestCaseError> {
    prop_assert_eq!(model.records, real.records);
    prop_assert_eq!(model.segments, real.segments);
    prop_assert_eq!(model.outbox_bytes, real.outbox_bytes);
    prop_assert_eq!(model.written_bytes, real.written_bytes);
    let off = model.state_bytes.abs_diff(real.state_bytes);
    prop_assert!(off <= STATE_TOLERANCE_BYTES, "state: {} B in the model, {} B", model.state_bytes, real.state_bytes);
    Ok(())
}

fn cases() -> u32 {
    std::env::var(CASES_VARIABLE).ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_them_the_real_store_and_its_model_say_the_same(
        large in any::<bool>(),
        acts in proptest::collection::vec(act(), 1..ACTS_MAX),
    ) {
        let mut pair = Pair::new(if large { 8 << 20 } else { 1 << 20 });
        for act in &acts {
            pair.act(act)?;
        }
    }
}
