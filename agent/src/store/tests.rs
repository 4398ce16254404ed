mod full;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::{CWD, Mode, mkfifoat};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::unreadable::testing::{heal, refuse_where};
use super::*;
use crate::engine::io::{EffectId, Input, LogRange};
use crate::engine::outbox::{Limits, Outbox};
use crate::engine::time::Unix;

const ALL: usize = usize::MAX;

pub(super) fn settings(dir: &Path) -> StoreSettings {
    StoreSettings { path: dir.join("store"), max_bytes: 4 * 1024 * 1024 }
}

pub(super) fn open(dir: &Path) -> (Store, Recovered) {
    Store::open(&settings(dir)).expect("the store opens")
}

pub(super) fn temp() -> TempDir {
    TempDir::new().expect("a temporary directory")
}

/// Changes what a file holds.
pub(super) fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("read");
    change(&mut bytes);
    fs::write(path, bytes).expect("write");
}

pub(super) fn append(class: Class, seq: u64, len: usize) -> StoreOp {
    StoreOp::Append { class, seq, bytes: body(seq, len) }
}

fn body(seq: u64, len: usize) -> Bytes {
    Bytes::from(seq.to_le_bytes().repeat(len / 8 + 1))
}

fn read_all(store: &mut Store, class: Class) -> Vec<(u64, Bytes)> {
    let op = StoreOp::Read { class, from: 0, records_max: ALL, bytes_max: ALL };
    let StoreReply::Page { records, damaged } = store.apply(op).expect("read") else { panic!("a page") };
    assert_eq!(damaged, 0);
    records
}

#[test]
fn when_it_was_last_written_is_told_as_of_before_it_was_opened() {
    let dir = temp();
    let (mut store, recovered) = open(dir.path());
    assert_eq!(recovered.written_at, None);
    store.apply(append(Class::Events, 1, 10)).expect("append");
    store.apply(StoreOp::Commit).expect("commit");
    drop(store);
    let path = settings(dir.path()).path;
    let files = [OUTBOX_DIR, state::DIR].map(|dir| disk::files_below(&path.join(dir), 8)).concat();
    for (n, (file, _)) in files.iter().enumerate() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(n as u64 + 1);
        File::open(file).and_then(|file| file.set_modified(at)).expect("date a file");
    }
    let last_ms = i64::try_from(files.len() * 1_000).expect("few files");
    assert_eq!(open(dir.path()).1.written_at, Some(Unix(last_ms)));
}

#[test]
fn the_classes_have_logs_of_their_own_and_the_state_is_beside_them() {
    let dir = temp();
    let (mut store, recovered) = open(dir.path());
    assert_eq!((recovered.logs, recovered.losses), ([LogRange::default(); Class::COUNT], Vec::new()));
    store.apply(append(Class::Results, 1, 10)).expect("append");
    store.apply(append(Class::Telemetry, 2, 10)).expect("append");
    store.apply(StoreOp::Commit).expect("commit");
    store.apply(StoreOp::Put { entries: vec![("k".into(), Some(Bytes::from("v")))] }).expect("put");
    drop(store);
    let (mut store, recovered) = open(dir.path());
    assert_eq!(recovered.logs[Class::Telemetry as usize], LogRange { first: 2, last: 2, records: 1, evicted: 0 });
    assert_eq!(recovered.state, [("k".to_owned(), Bytes::from("v"))]);
    assert_eq!(recovered.stats.records, [1, 0, 1, 0, 0]);
    assert_eq!(read_all(&mut store, Class::Results), [(1, body(1, 10))]);
    assert!(read_all(&mut store, Class::Events).is_empty());
    let summary = inspect(&settings(dir.path()).path).expect("inspect");
    assert_eq!(summary.map(|(_, summary)| summary.expect("a log").range.records), [1, 0, 1, 0, 0]);
}

/// The outbox of an agent that starts on this store, having saved that so many evicted telemetry records are accounted
/// for.
fn outbox(recovered: &Recovered, accounted: u64) -> Outbox {
    let limits = Limits { max_bytes: 1024 * 1024, min_free_bytes: 0, commit_interval: Duration::from_secs(1) };
    Outbox::new(limits, recovered, BTreeMap::new(), [0, 0, accounted, 0, 0])
}

#[test]
fn an_eviction_that_the_agent_never_heard_of_is_counted_when_it_starts_again() {
    let dir = temp();
    let (mut store, _) = open(dir.path());
    for seq in 1..=500 {
        store.apply(append(Class::Telemetry, seq, 300)).expect("append");
    }
    store.apply(StoreOp::Commit).expect("commit");
    let evicted = store.apply(StoreOp::Evict { class: Class::Telemetry }).expect("evict");
    let StoreReply::Evicted { records: gone @ 1.., .. } = evicted else { panic!("{evicted:?}") };
    drop(store);
    let (_store, recovered) = open(dir.path());
    let mut outbox_after = outbox(&recovered, 0);
    assert_eq!(outbox_after.dropped().get("quota"), Some(&gone));
    assert_eq!(outbox_after.records() + gone, 500, "neither lost nor counted twice");
    let accounted = outbox_after.dropped_to_save().map(|(_, accounted)| accounted);
    assert_eq!(accounted, Some([0, 0, gone, 0, 0]));
    assert!(outbox(&recovered, gone).dropped().is_empty(), "what was saved is not counted again");
}

#[test]
fn what_is_made_is_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = temp();
    let (_store, _) = open(dir.path());
    let path = settings(dir.path()).path;
    for (name, mode) in [("", 0o700), ("outbox/events", 0o700), ("lock", 0o600), ("outbox/events/cursor", 0o600)] {
        let found = fs::metadata(path.join(name)).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name:?} has mode {found:o}");
    }
}

#[test]
fn a_store_in_use_is_refused_with_the_pid_of_its_holder() {
    let dir = temp();
    let (store, _) = open(dir.path());
    let error = Store::open(&settings(dir.path())).expect_err("in use");
    let path = settings(dir.path()).path;
    let expected = format!("another fieldmedic (pid {}) uses the store at {}", std::process::id(), path.display());
    assert_eq!(error.to_string(), expected);
    drop(store);
    open(dir.path());
}

#[test]
fn a_lock_that_is_left_with_a_child_of_a_killed_agent_is_waited_for() {
    let dir = temp();
    drop(open(dir.path()));
    let lock = OpenOptions::new().write(true).open(dir.path().join("store/lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    // flock(2): it is held by whoever has the open file, which is the child alone once this line is over.
    let mut child = Command::new("sleep").arg("0.3").stdin(lock).spawn().unwrap();
    open(dir.path());
    child.wait().unwrap();
}

#[test]
fn a_path_that_is_a_file_or_belongs_to_another_is_refused_plainly() {
    let dir = temp();
    let path = settings(dir.path()).path;
    fs::write(&path, b"").expect("write");
    let error = Store::open(&settings(dir.path())).expect_err("a file");
    assert_eq!(error.to_string(), format!("the store's path {} is not a directory", path.display()));
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: giving a directory to another user takes root");
        return;
    }
    fs::remove_file(&path).expect("remove");
    fs::create_dir(&path).expect("make");
    std::os::unix::fs::chown(&path, Some(12345), None).expect("chown");
    let error = Store::open(&settings(dir.path())).expect_err("not ours");
    assert!(error.to_string().contains("belongs to uid 12345, and this process runs as uid 0"), "{error}");
}

/// Events in many segments, and a state.
pub(super) fn stored(dir: &Path) {
    let (mut store, _) = open(dir);
    for seq in 1..=500 {
        store.apply(append(Class::Events, seq, 1000)).expect("append");
    }
    store.apply(StoreOp::Put { entries: vec![("k".into(), Some(Bytes::from("v")))] }).expect("put");
    store.close().expect("close");
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "seg")
}

#[test]
fn a_disk_that_refuses_all_reads_for_a_while_costs_nothing() {
    let dir = temp();
    stored(dir.path());
    let refusals: [fn(&Path, u64) -> bool; 3] =
        [|_, _| true, |path, _| is_segment(path), |path, at| is_segment(path) && at >= 65_536];
    for refusal in refusals {
        refuse_where(refusal);
        let refused = Store::open(&settings(dir.path()));
        heal();
        assert!(matches!(refused, Err(OpenError::Fault(_))), "{refused:?}");
        let (mut store, recovered) = open(dir.path());
        assert_eq!(recovered.losses, []);
        assert_eq!((read_all(&mut store, Class::Events).len(), recovered.state.len()), (500, 1));
    }
}

#[test]
fn a_single_hole_is_a_dead_block_and_costs_its_records() {
    let dir = temp();
    stored(dir.path());
    refuse_where(|path, at| path.ends_with("00000000000000000001.seg") && (16_384..20_480).contains(&at));
    let (_store, recovered) = open(dir.path());
    heal();
    let lost: u64 = recovered.losses.iter().map(|loss| loss.records).sum();
    assert!((4..=6).contains(&lost), "{:?}", recovered.losses);
}

#[test]
fn what_the_disk_refuses_for_too_long_is_taken_for_dead_and_the_rest_is_taken_up() {
    let dir = temp();
    stored(dir.path());
    let path = settings(dir.path()).path;
    refuse_where(|path, _| path.ends_with("00000000000000000001.seg"));
    let error = Store::open(&settings(dir.path())).expect_err("it may pass");
    let (mut absent, _) = Absent::new(settings(dir.path()), &error);
    let tries = (1..).find(|_| absent.next_look().find().is_some()).expect("it isn't waited for for ever");
    assert_eq!(tries, 30);
    let (mut store, recovered) = open(dir.path());
    let lost: u64 = recovered.losses.iter().map(|loss| loss.records).sum();
    assert!(lost > 50, "{:?}", recovered.losses);
    assert_eq!(read_all(&mut store, Class::Events).len() as u64 + lost, 500);
    heal();
    drop(store);
    open(dir.path());
    assert!(!path.join("unreadable").exists(), "what isn't there any more is forgotten");
}

#[test]
fn after_a_kill_a_log_that_lost_its_end_counts_every_result_and_event_in_it() {
    for class in [Class::Results, Class::Events] {
        for cut in [true, false] {
            let dir = temp();
            let (mut store, _) = open(dir.path());
            for seq in 1..=31 {
                store.apply(append(class, seq, 300)).expect("append");
                store.apply(StoreOp::Commit).expect("commit");
            }
            // Not closed, as after a kill.
            drop(store);
            let path = log_dir(&settings(dir.path()).path, class).join("00000000000000000001.seg");
            damage(&path, |bytes| {
                let half = bytes.len() / 2;
                if cut { bytes.truncate(half) } else { bytes[half..].fill(0) }
            });
            let (mut store, recovered) = open(dir.path());
            let lost: u64 = recovered.losses.iter().map(|loss| loss.records).sum();
            assert_eq!(read_all(&mut store, class).len() as u64 + lost, 31, "cut: {cut}: {:?}", recovered.losses);
        }
    }
}

#[test]
fn damage_time_and_again_does_not_take_the_room_of_the_records() {
    let dir = temp();
    let settings = StoreSettings { path: dir.path().join("store"), max_bytes: 1024 * 1024 };
    let mut seq = 0;
    for round in 0..8 {
        let (mut store, _) = Store::open(&settings).expect("open");
        for _ in 0..300 {
            seq += 1;
            store.apply(append(Class::Events, seq, 1000)).expect("append");
        }
        store.apply(StoreOp::Commit).expect("commit");
        store.apply(StoreOp::Put { entries: vec![("k".into(), Some(body(seq, 2000)))] }).expect("put");
        drop(store);
        let files = fs::read_dir(settings.path.join("outbox/events")).expect("list").flatten().map(|file| file.path());
        files.filter(|path| is_segment(path)).for_each(|path| damage(&path, |bytes| bytes.fill(b'?')));
        damage(&settings.path.join("state/db"), |bytes| bytes.fill(b'?'));
        let (store, _) = Store::open(&settings).expect("open");
        let (stats, bytes) = (store.stats(), disk::tree_bytes(&settings.path));
        assert!(bytes <= settings.max_bytes, "round {round}: {bytes} B");
        let to_come = (512 * 1024_u64).saturating_sub(disk::tree_bytes(&settings.path.join("state")));
        let counted = stats.outbox_bytes + stats.state_bytes;
        assert!(counted <= bytes + to_come, "round {round}: {stats:?}, and {bytes} B");
    }
}

#[test]
fn a_restart_takes_no_room_that_was_not_reckoned_with() {
    let dir = temp();
    let settings = StoreSettings { path: dir.path().join("store"), max_bytes: 1024 * 1024 };
    let counted = [(); 3].map(|()| {
        let (mut store, _) = Store::open(&settings).expect("open");
        store.apply(StoreOp::Put { entries: vec![("k".into(), Some(body(1, 300)))] }).expect("put");
        store.stats().state_bytes
    });
    assert!(counted.iter().all(|bytes| bytes.abs_diff(counted[0]) < 4096), "{counted:?}");
}

/// Bytes of the segments of all logs and of what lies beside them: a file with two names takes its room once.
fn bytes_taken(settings: &StoreSettings) -> u64 {
    let files = disk::files_below(&settings.path.join(OUTBOX_DIR), 8).into_iter();
    let files = files.filter(|(path, _)| !path.ends_with("cursor"));
    let by_inode: BTreeMap<u64, u64> =
        files.map(|(path, bytes)| (fs::metadata(path).expect("it is there").ino(), bytes)).collect();
    by_inode.into_values().sum()
}

#[test]
fn evidence_takes_no_room_until_its_segment_is_deleted() {
    let dir = temp();
    let settings = settings(dir.path());
    let (mut store, _) = open(dir.path());
    for seq in 1..=900 {
        store.apply(append(Class::Events, seq, 1000)).expect("append");
    }
    store.close().expect("close");
    let events = settings.path.join("outbox/events");
    let first = fs::read_dir(&events).expect("list").flatten().map(|file| file.path()).filter(|path| is_segment(path));
    damage(&first.min().expect("a segment"), |bytes| bytes[5_000] ^= 1);
    let (mut store, recovered) = open(dir.path());
    assert_eq!(recovered.losses.iter().map(|loss| loss.records).sum::<u64>(), 1, "{:?}", recovered.losses);
    assert_eq!(disk::files_below(&events, 1).iter().filter(|(path, _)| disk::is_aside(path)).count(), 1);
    assert_eq!(store.stats().outbox_bytes, bytes_taken(&settings), "while the segment is there");
    store.apply(StoreOp::Trim { class: Class::Events, upto: 800 }).expect("trim");
    assert!(bytes_taken(&settings) > SEGMENT_BYTES_MIN, "the evidence is kept");
    assert_eq!(store.stats().outbox_bytes, bytes_taken(&settings), "when the segment is gone");
    drop(store);
    assert_eq!(open(dir.path()).1.stats.outbox_bytes, bytes_taken(&settings), "and in the next run");
}

#[test]
fn a_log_that_vanished_is_counted_by_what_the_state_knows_of_it_until_it_holds_records_again() {
    let dir = temp();
    let (mut store, _) = open(dir.path());
    let put = || StoreOp::Put { entries: vec![("k".into(), Some(Bytes::from("v")))] };
    for seq in 1..=7 {
        store.apply(append(Class::Telemetry, seq, 10)).expect("append");
        store.apply(StoreOp::Commit).expect("commit");
    }
    store.apply(StoreOp::Trim { class: Class::Telemetry, upto: 2 }).expect("trim");
    store.apply(append(Class::Telemetry, 8, 10)).expect("append, and not commit");
    store.apply(put()).expect("put");
    drop(store);
    fs::remove_dir_all(settings(dir.path()).path.join("outbox/telemetry")).expect("take it away");
    let (store, first) = open(dir.path());
    assert_eq!(first.losses.iter().map(|loss| loss.records).collect::<Vec<_>>(), [5]);
    assert!(first.losses[0].what.contains("up to seq 7"), "{:?}", first.losses);
    assert_eq!(first.state, [("k".to_owned(), Bytes::from("v"))], "it is no entry of the engine's");
    drop(store);
    let (mut store, again) = open(dir.path());
    assert_eq!(again.losses, first.losses, "the start that found it may have been killed");
    store.apply(put()).expect("put");
    drop(store);
    let (mut store, again) = open(dir.path());
    assert_eq!(again.losses, first.losses, "also after it has put something else");
    store.apply(append(Class::Telemetry, 9, 10)).expect("append");
    store.apply(StoreOp::Commit).expect("commit");
    store.apply(put()).expect("put");
    drop(store);
    assert_eq!(open(dir.path()).1.losses, []);
}

/// What may be left of a log's end.
type Ruin = fn(&Path);

#[test]
fn a_log_that_lost_its_end_after_many_short_runs_is_counted_by_what_the_state_knows_of_it() {
    const RUNS: u64 = 5;
    const COMMITS: u64 = 12;
    let put = || StoreOp::Put { entries: vec![("k".into(), Some(Bytes::from("v")))] };
    let class = Class::Telemetry;
    let ruins: [(&str, Ruin); 3] = [
        ("gone", |path| fs::remove_file(path).expect("remove")),
        ("zeroed", |path| damage(path, |bytes| bytes.fill(0))),
        // Behind the data there is room.
        ("halved", |path| damage(path, |bytes| bytes.truncate(bytes.iter().filter(|byte| **byte != 0).count() / 2))),
    ];
    for (ruin, apply) in ruins {
        let dir = temp();
        // The broker acknowledged the first: the cursor knows of it.
        let (mut store, _) = open(dir.path());
        store.apply(append(class, 1, 300)).expect("append");
        store.apply(StoreOp::Commit).expect("commit");
        store.apply(StoreOp::Trim { class, upto: 1 }).expect("trim");
        drop(store);
        for run in 0..RUNS {
            let (mut store, _) = open(dir.path());
            store.apply(put()).expect("put, as each start does");
            for nth in 0..COMMITS {
                store.apply(append(class, 2 + run * COMMITS + nth, 300)).expect("append");
                store.apply(StoreOp::Commit).expect("commit");
            }
            // Not closed, as after a kill.
            drop(store);
        }
        apply(&log_dir(&settings(dir.path()).path, class).join("00000000000000000001.seg"));
        let (store, first) = open(dir.path());
        let told = |recovered: &Recovered| recovered.losses.iter().map(|loss| loss.records).sum::<u64>();
        let accounted = told(&first) + store.stats().records[class as usize];
        let range = (RUNS - 1) * COMMITS..=RUNS * COMMITS;
        assert!(range.contains(&accounted), "{ruin}: {accounted}, {:?}", first.losses);
        assert!(first.logs[class as usize].last > *range.start(), "{ruin}: its numbers were used");
        drop(store);
        let (mut store, again) = open(dir.path());
        let words = |recovered: &Recovered| -> BTreeSet<String> {
            let counting = recovered.losses.iter().filter(|loss| loss.records > 0);
            counting.map(|loss| loss.what.clone()).collect()
        };
        // Whoever found it may have been killed, or have told it; what could not be read is out of the way by now.
        let (first, again) = (words(&first), words(&again));
        assert!(!again.is_empty() && again.is_subset(&first), "{ruin}: {again:?}, {first:?}");
        store.apply(put()).expect("put");
        store.apply(append(class, 100, 300)).expect("append");
        store.apply(StoreOp::Commit).expect("commit");
        store.apply(put()).expect("put");
        store.close().expect("close");
        assert_eq!(told(&open(dir.path()).1), 0, "{ruin}: and once");
    }
}

#[test]
fn a_log_that_vanished_of_which_nothing_is_known_is_told() {
    let dir = temp();
    let (mut store, _) = open(dir.path());
    store.apply(StoreOp::Put { entries: vec![("k".into(), None)] }).expect("put");
    drop(store);
    let path = settings(dir.path()).path;
    fs::remove_dir_all(path.join("outbox/events")).expect("take it away");
    fs::remove_dir_all(path.join(state::DIR)).expect("take it away");
    let losses = open(dir.path()).1.losses;
    assert!(losses.iter().any(|loss| loss.what.contains("events: vanished; how many")), "{losses:?}");
}

#[test]
fn a_pipe_in_place_of_a_file_is_not_waited_for() {
    let files = ["boot", "unreadable", "lock", "reserve", "state.image", "state.generation", "state/conf", "state/db"];
    for file in files.into_iter().chain(["outbox/events/cursor", "outbox/events/00000000000000000001.seg"]) {
        let dir = temp();
        stored(dir.path());
        let pipe = settings(dir.path()).path.join(file);
        disk::remove_all(&pipe).expect("remove");
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).expect("make a pipe");
        let records = export(&settings(dir.path()).path, |_, _, _| {}).expect("there is an outbox");
        assert!(records.iter().all(|(class, log)| log.is_ok() || *class == Class::Events), "{file}: {records:?}");
        let (mut store, recovered) = open(dir.path());
        store.apply(StoreOp::Put { entries: vec![("k".into(), None)] }).expect("a store that works");
        let costs_state = ["state/db", "state.generation"].contains(&file);
        assert_eq!(recovered.losses.iter().any(|loss| loss.state_lost), costs_state, "{file}: {recovered:?}");
    }
}

#[test]
fn every_operation_is_answered_once_in_order_and_closing_does_the_rest() {
    let dir = temp();
    let (store, _) = open(dir.path());
    let (tx, mut rx) = mpsc::channel(STORE_QUEUE_MAX * 2);
    let handle = StoreHandle::spawn(store, tx).expect("spawn");
    let mut submitted = Vec::new();
    for id in 0..100 {
        let op = if id % 2 == 0 { append(Class::Events, id + 1, 300) } else { StoreOp::Commit };
        handle.submit(EffectId(id), op).expect("there is room");
        submitted.push(id);
    }
    handle.submit(EffectId(100), append(Class::Events, 1000, 300)).expect("there is room");
    handle.close();
    let mut answered = Vec::new();
    while let Ok(Input::Store { id, result, stats }) = rx.try_recv() {
        result.expect("done");
        assert!(stats.free_bytes > 0);
        answered.push(id.0);
    }
    assert_eq!(answered, (0..=100).collect::<Vec<_>>());
    let (_store, recovered) = open(dir.path());
    assert_eq!(recovered.stats.records[Class::Events as usize], 51, "closing commits what no commit followed");
}

#[test]
fn a_full_queue_refuses_at_once_and_loses_nothing_that_it_took() {
    let dir = temp();
    let (store, _) = open(dir.path());
    let (tx, mut rx) = mpsc::channel(1);
    let handle = StoreHandle::spawn(store, tx).expect("spawn");
    let mut taken = 0;
    // Nobody reads the answers, so the thread stands still and the queue fills.
    let fault = loop {
        match handle.submit(EffectId(taken), StoreOp::Commit) {
            Ok(()) => taken += 1,
            Err(fault) => break fault,
        }
        assert!(taken < 3 * STORE_QUEUE_MAX as u64, "the queue has no bound");
    };
    assert_eq!(fault, StoreFault::Busy);
    let reader = std::thread::spawn(move || std::iter::from_fn(|| rx.blocking_recv()).count() as u64);
    handle.close();
    assert_eq!(reader.join().expect("the reader"), taken);
}

#[test]
fn commits_that_wait_behind_a_commit_share_its_sync() {
    let dir = temp();
    let (store, _) = open(dir.path());
    let mut backing = store.into();
    let (queue, jobs) = std::sync::mpsc::sync_channel(STORE_QUEUE_MAX);
    for id in 1..=50 {
        queue.send((EffectId(id * 2), append(Class::Events, id, 8))).expect("queue");
        queue.send((EffectId(id * 2 + 1), StoreOp::Commit)).expect("queue");
    }
    queue.send((EffectId(999), StoreOp::Trim { class: Class::Events, upto: 3 })).expect("queue");
    let (answers, following) = thread::work_together(&mut backing, (EffectId(1), StoreOp::Commit), &jobs);
    assert_eq!(answers.len(), 101, "one answer each");
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
    assert_eq!(following.expect("the job that is no append").0, EffectId(999));
    drop(backing);
    assert_eq!(open(dir.path()).1.stats.records[Class::Events as usize], 50);
}

#[test]
fn a_store_whose_state_is_written_anew_was_not_taken_away() {
    let dir = temp();
    let mut backing: Backing = open(dir.path()).0.into();
    let state = settings(dir.path()).path.join(state::DIR);
    let (mut before, mut written_anew) = (0, 0);
    for round in 0..600 {
        let entries = vec![(format!("cmd/{}", round % 10), Some(Bytes::from("x".repeat(4_000))))];
        // Its inode is not given to the next one, which would hide it.
        let _held = File::open(&state).expect("open");
        assert_eq!(backing.apply(StoreOp::Put { entries }), Ok(StoreReply::Put), "round {round}");
        let bytes = disk::tree_bytes(&state);
        written_anew += usize::from(bytes < before / 2);
        before = bytes;
    }
    assert!(written_anew > 1, "{written_anew} times");
    let Backing::Store(store) = backing else { panic!("it is there") };
    assert!(store.is_in_place());
}
