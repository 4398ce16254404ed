mod damage;
mod ending;
mod model;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::open::SUFFIX_NEWER;
use super::*;
use crate::store::segment::{self, HEAD_LEN, HEADER_LEN};
use crate::store::tests::damage;
use crate::store::unreadable::testing::{heal, refuse_where};

const SEGMENT: u64 = 64 * 1024;
const ALL: usize = usize::MAX;
/// Commits for a mark.
const SELDOM: u32 = 16;

fn dir() -> TempDir {
    TempDir::new().expect("a temporary directory")
}

fn open(dir: &TempDir) -> (Log, Vec<StoreLoss>) {
    let mut opening = Opening::default();
    let log = Log::open(dir.path(), SEGMENT, SELDOM, &mut opening).expect("the log opens");
    (log, opening.losses)
}

fn body(seq: u64) -> Vec<u8> {
    format!("{{\"seq\":{seq},\"charge_pct\":{}}}", seq % 100).repeat(3).into_bytes()
}

fn filled(dir: &TempDir, seqs: RangeInclusive<u64>) -> Log {
    let (mut log, _) = open(dir);
    for seq in seqs {
        log.append(seq, &body(seq)).expect("append");
    }
    log.commit().expect("commit");
    log
}

fn seqs(log: &mut Log) -> Vec<u64> {
    let page = log.read(0, ALL, ALL).expect("read");
    for (seq, bytes) in &page.records {
        assert_eq!(bytes, &body(*seq), "record {seq} came back as another value");
    }
    page.records.into_iter().map(|(seq, _)| seq).collect()
}

/// Without the room behind its data, so that its end is the file's.
fn only_segment(dir: &TempDir) -> PathBuf {
    let names = names_with(dir.path(), SUFFIX).expect("list");
    assert_eq!(names.len(), 1, "one segment expected: {names:?}");
    let path = segment_path(dir.path(), names[0]);
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("open the segment");
    file.set_len(segment::data_end(&file, false).expect("read it")).expect("cut the room off");
    path
}

fn frame_bytes(seq: u64) -> usize {
    FRAME_BYTES + body(seq).len()
}

#[test]
fn records_come_back_in_order_and_within_the_limits_asked_for() {
    let dir = dir();
    let mut log = filled(&dir, 1..=9);
    assert_eq!(seqs(&mut log), (1..=9).collect::<Vec<_>>());
    let page = log.read(4, 3, ALL).expect("read");
    assert_eq!(page.records.iter().map(|record| record.0).collect::<Vec<_>>(), [4, 5, 6]);
    let page = log.read(7, ALL, body(7).len() * 2).expect("read");
    assert_eq!(page.records.iter().map(|record| record.0).collect::<Vec<_>>(), [7, 8]);
    let page = log.read(9, ALL, 0).expect("read");
    assert_eq!(page.records.len(), 1, "at least one record, however small the limit");
}

#[test]
fn a_record_is_readable_before_it_is_written_to_the_file() {
    let dir = dir();
    let (mut log, _) = open(&dir);
    let before = log.written_bytes();
    log.append(1, &body(1)).expect("append");
    assert_eq!(seqs(&mut log), [1]);
    assert_eq!(log.written_bytes(), before, "an append alone must not write");
}

#[test]
fn a_commit_with_nothing_new_writes_nothing() {
    let dir = dir();
    let mut log = filled(&dir, 1..=3);
    let before = log.written_bytes();
    log.commit().expect("commit");
    assert_eq!(log.written_bytes(), before);
}

#[test]
fn a_record_too_long_or_out_of_order_is_refused_and_changes_nothing() {
    let dir = dir();
    let mut log = filled(&dir, 1..=5);
    let too_long = log.append(6, &vec![0; RECORD_BYTES_MAX + 1]).expect_err("too long");
    assert!(too_long.to_string().contains("262145 B, the limit is 262144 B"), "{too_long}");
    let twice = log.append(5, &body(5)).expect_err("out of order");
    assert!(twice.to_string().contains("record 5 is not above 5"), "{twice}");
    assert_eq!(seqs(&mut log), [1, 2, 3, 4, 5]);
    log.append(6, &vec![7; RECORD_BYTES_MAX]).expect("the longest record fits");
}

#[test]
fn the_highest_seq_outlasts_the_trimming_of_everything() {
    let dir = dir();
    let mut log = filled(&dir, 1..=2000);
    log.trim(2000).expect("trim");
    assert_eq!(log.records(), 0);
    drop(log);
    let (mut log, _) = open(&dir);
    log.evict().expect("evict what is left");
    drop(log);
    assert!(names_with(dir.path(), SUFFIX).expect("list").is_empty(), "nothing is left");
    let (mut log, losses) = open(&dir);
    assert_eq!(losses, []);
    assert_eq!(log.range(), LogRange { first: 0, last: 2000, records: 0, evicted: 0 });
    assert!(log.append(2000, b"again").is_err(), "a seq must never come twice");
    log.append(2001, &body(2001)).expect("append");
    assert_eq!(seqs(&mut log), [2001]);
}

#[test]
fn trimming_deletes_the_segments_that_are_done_with_and_the_newest_once_it_is_drained() {
    let dir = dir();
    let mut log = filled(&dir, 1..=2000);
    let (segments, second) = (log.segments(), log.segments[1].first);
    log.trim(second - 1).expect("trim");
    assert_eq!(log.segments(), segments - 1);
    assert_eq!(log.range().first, second);
    log.trim(2000).expect("trim");
    assert!(log.segments() <= 1);
    assert!(log.bytes() < DRAINED_BYTES_MIN, "{} B left of a drained log", log.bytes());
}

#[test]
fn what_was_read_is_trimmed_without_being_read_again() {
    let dir = dir();
    let mut log = filled(&dir, 1..=40);
    log.read(0, 20, ALL).expect("read");
    log.read(21, 10, ALL).expect("read on");
    // Whoever looked at them once more would find that they are no records now.
    let ruined = OpenOptions::new().write(true).open(only_segment(&dir)).expect("open the segment");
    ruined.write_all_at(&vec![0; 25 * frame_bytes(1)], HEADER_BYTES).expect("overwrite it");
    for upto in [7, 15, 25] {
        log.trim(upto).expect("trim");
        assert_eq!((log.range().first, log.records()), (upto + 1, 40 - upto));
    }
    assert_eq!(seqs(&mut log), (26..=40).collect::<Vec<_>>());
    assert_eq!(log.read(0, ALL, ALL).expect("read").damaged, 0);
}

#[test]
fn a_trim_beyond_the_last_record_does_not_hide_what_comes_later() {
    let dir = dir();
    let mut log = filled(&dir, 1..=3);
    log.trim(1000).expect("trim");
    log.append(10, &body(10)).expect("append");
    assert_eq!(seqs(&mut log), [10]);
    assert_eq!(log.range(), LogRange { first: 10, last: 10, records: 1, evicted: 0 });
}

#[test]
fn eviction_gives_up_the_oldest_segment_and_says_which_records_that_were() {
    let dir = dir();
    let mut log = filled(&dir, 1..=2000);
    let second = log.segments[1].first;
    log.trim(10).expect("trim");
    let evicted = log.evict().expect("evict");
    assert_eq!(evicted, Evicted { records: second - 11, first: 11, last: second - 1 });
    assert_eq!(seqs(&mut log).first(), Some(&second));
}

#[test]
fn a_segment_that_is_being_read_gives_its_room_back_when_it_is_deleted() {
    let dir = dir();
    let mut log = filled(&dir, 1..=2000);
    let oldest = segment_path(dir.path(), log.segments[0].first).display().to_string();
    let is_held = || {
        let mut open = fs::read_dir("/proc/self/fd").expect("list").map(|entry| entry.expect("an entry").path());
        // A file that is deleted is called so behind its path.
        open.any(|entry| fs::read_link(entry).is_ok_and(|file| file.to_string_lossy().starts_with(&oldest)))
    };
    log.read(0, 10, ALL).expect("read");
    assert!(is_held(), "it is opened again for each page");
    log.evict().expect("evict");
    assert!(!is_held(), "its blocks are not free");
}

#[test]
fn eviction_of_the_only_segment_takes_what_is_not_even_written_yet() {
    let dir = dir();
    let mut log = filled(&dir, 1..=3);
    log.append(4, &body(4)).expect("append");
    assert_eq!(log.evict().expect("evict"), Evicted { records: 4, first: 1, last: 4 });
    assert_eq!(log.evict().expect("evict nothing"), Evicted::default());
    log.append(5, &body(5)).expect("append");
    log.commit().expect("commit");
    drop(log);
    assert_eq!(seqs(&mut open(&dir).0), [5]);
}

#[test]
fn what_is_in_memory_only_is_not_evicted_as_that_would_make_no_room() {
    let dir = dir();
    let mut log = open(&dir).0;
    log.append(1, &body(1)).expect("append");
    assert_eq!(log.evict().expect("evict nothing"), Evicted::default());
    log.commit().expect("commit");
    assert_eq!(seqs(&mut log), [1]);
}

#[test]
fn what_was_evicted_is_counted_before_it_is_gone_and_over_every_reopening() {
    let dir = dir();
    let mut log = filled(&dir, 1..=2000);
    log.trim(10).expect("trim");
    let first = log.evict().expect("evict");
    assert_eq!(log.range().evicted, first.records);
    drop(log);
    let (mut log, _) = open(&dir);
    assert_eq!(log.range().evicted, first.records, "no commit and no goodbye came in between");
    let second = log.evict().expect("evict");
    log.trim(2000).expect("trim");
    drop(log);
    let range = open(&dir).0.range();
    assert_eq!(range.evicted, first.records + second.records, "what was acknowledged is not among it: {range:?}");
    assert_eq!(inspect(dir.path()).expect("inspect").range.evicted, range.evicted);
}

#[test]
fn an_eviction_that_fails_half_way_is_told_and_counted_once() {
    let dir = dir();
    let mut log = filled(&dir, 1..=2000);
    let oldest = log.segments[0];
    let (path, aside) = (segment_path(dir.path(), oldest.first), dir.path().join("aside"));
    fs::rename(&path, &aside).expect("move it away");
    fs::create_dir(&path).expect("what can't be unlinked");
    log.evict().expect_err("a directory can't be unlinked");
    log.evict().expect_err("nor the second time");
    assert_eq!(log.range().evicted, oldest.records);
    fs::remove_dir(&path).expect("remove");
    fs::rename(&aside, &path).expect("move it back");
    let told = log.evict().expect("evict");
    assert_eq!(told, Evicted { records: oldest.records, first: 1, last: oldest.last });
    assert_eq!(log.range().evicted, oldest.records);
    drop(log);
    let range = open(&dir).0.range();
    assert_eq!((range.evicted, range.first), (oldest.records, oldest.last + 1));
}

#[test]
fn a_torn_cursor_write_leaves_the_position_before_it() {
    let dir = dir();
    let mut log = filled(&dir, 1..=2000);
    let second = log.segments[1].first;
    log.trim(second - 1).expect("trim a segment: the cursor is synced");
    log.trim(second + 9).expect("trim within a segment: it is not");
    let slot = log.cursor.slot_offset();
    drop(log);
    let path = dir.path().join(CURSOR_FILE);
    let mut bytes = fs::read(&path).expect("read the cursor");
    bytes[slot + 20] ^= 0xFF;
    fs::write(&path, &bytes).expect("tear it");
    let (mut log, losses) = open(&dir);
    assert!(losses.len() == 1 && losses[0].records == 0, "{losses:?}");
    assert!(losses[0].what.contains("a half of it is damaged"), "{losses:?}");
    assert_eq!(seqs(&mut log).first(), Some(&second), "what was sent comes again, and no more than that");
}

#[test]
fn a_cursor_lost_as_a_whole_is_told_and_costs_duplicates_only() {
    let dir = dir();
    let mut log = filled(&dir, 1..=9);
    log.trim(5).expect("trim");
    drop(log);
    fs::write(dir.path().join(CURSOR_FILE), [0xAA; 5000]).expect("destroy it");
    let (mut log, losses) = open(&dir);
    assert_eq!(losses.len(), 1);
    assert!(losses[0].what.contains("may be sent again"), "{losses:?}");
    assert_eq!(seqs(&mut log).len(), 9);
}

#[test]
fn a_cursor_destroyed_when_there_is_nothing_else_left_is_told_too() {
    let dir = dir();
    drop(open(&dir));
    fs::write(dir.path().join(CURSOR_FILE), [0xAA; 9000]).expect("destroy it");
    assert_eq!(open(&dir).1.len(), 1, "the highest seq is lost, and someone must know");
    assert_eq!(open(&dir).1.len(), 0, "told once");
}

#[test]
fn a_record_larger_than_a_segment_gets_one_of_its_own() {
    let dir = dir();
    let mut log = filled(&dir, 1..=3);
    let large = vec![b'x'; RECORD_BYTES_MAX];
    log.append(4, &large).expect("append");
    log.append(5, &body(5)).expect("append");
    log.commit().expect("commit");
    assert_eq!(log.segments(), 3);
    drop(log);
    let (mut log, losses) = open(&dir);
    assert_eq!(losses, []);
    let page = log.read(4, ALL, ALL).expect("read");
    assert_eq!(page.records, [(4, Bytes::from(large)), (5, Bytes::from(body(5)))]);
}

#[test]
fn a_million_records_take_no_memory_each() {
    let dir = dir();
    let mut log = Log::open(dir.path(), 1024 * 1024, SELDOM, &mut Opening::default()).expect("open");
    for seq in 1..=1_000_000 {
        log.append(seq, b"").expect("append");
    }
    log.commit().expect("commit");
    assert_eq!(log.records(), 1_000_000);
    assert!(log.segments.capacity() < 64, "{} entries kept", log.segments.capacity());
    assert!(log.writer.as_ref().expect("a writer").buffer.capacity() <= 2 * WRITE_BUFFER_BYTES);
    log.trim(999_990).expect("trim");
    assert_eq!(log.records(), 10);
}

#[test]
fn after_a_failed_sync_the_same_bytes_are_written_again() {
    let dir = dir();
    let mut log = filled(&dir, 1..=3);
    log.append(4, &body(4)).expect("append");
    log.flush().expect("flush");
    log.writer.as_mut().expect("a writer").suspect = true;
    log.commit().expect("commit");
    assert!(!log.writer.as_ref().expect("a writer").suspect);
    drop(log);
    assert_eq!(seqs(&mut open(&dir).0), [1, 2, 3, 4]);
}

#[test]
fn inspecting_a_log_in_use_tells_what_is_written_and_changes_nothing() {
    let dir = dir();
    let mut log = filled(&dir, 1..=2000);
    log.trim(10).expect("trim");
    let before = fs::read(dir.path().join(CURSOR_FILE)).expect("read the cursor");
    let summary = inspect(dir.path()).expect("inspect");
    assert_eq!(summary.range, log.range());
    assert_eq!((summary.bytes, summary.segments, summary.damaged), (log.bytes(), log.segments(), 0));
    assert_eq!(fs::read(dir.path().join(CURSOR_FILE)).expect("read the cursor"), before);
}
