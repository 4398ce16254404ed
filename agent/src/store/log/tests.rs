use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::open::SUFFIX_NEWER;
use super::*;
use crate::store::segment::{self, HEADER_LEN};
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

fn only_segment(dir: &TempDir) -> PathBuf {
    let names = names_with(dir.path(), SUFFIX).expect("list");
    assert_eq!(names.len(), 1, "one segment expected: {names:?}");
    segment_path(dir.path(), names[0])
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
fn a_torn_tail_costs_only_the_record_that_was_torn_wherever_it_was_torn() {
    let dir = dir();
    drop(filled(&dir, 1..=3));
    let path = only_segment(&dir);
    let whole = fs::read(&path).expect("read the segment");
    for kept in whole.len() - frame_bytes(3)..whole.len() {
        fs::write(&path, &whole[..kept]).expect("tear it");
        let (mut log, losses) = open(&dir);
        assert_eq!(losses, [], "torn at {kept}: an append that was never committed is no loss");
        assert_eq!(seqs(&mut log), [1, 2], "torn at {kept}");
        log.append(3, &body(3)).expect("append goes on");
        log.commit().expect("commit");
        drop(log);
        assert_eq!(seqs(&mut open(&dir).0), [1, 2, 3], "torn at {kept}, after going on");
    }
}

#[test]
fn a_segment_that_was_torn_as_it_began_is_no_loss() {
    let dir = dir();
    drop(filled(&dir, 1..=3));
    for len in 0..HEADER_LEN {
        let header = segment::encode_header(3);
        fs::write(segment_path(dir.path(), 4), &header[..len]).expect("the power goes");
        let (mut log, losses) = open(&dir);
        assert_eq!(losses, [], "torn at {len}: nothing in it was ever committed");
        assert_eq!(seqs(&mut log), [1, 2, 3]);
    }
}

#[test]
fn a_flipped_bit_costs_exactly_its_record_and_is_told_with_its_number() {
    let dir = dir();
    drop(filled(&dir, 1..=9));
    let path = only_segment(&dir);
    let whole = fs::read(&path).expect("read the segment");
    let start = usize::try_from(HEADER_BYTES).expect("small") + (1..=4).map(frame_bytes).sum::<usize>();
    for at in start..start + frame_bytes(5) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).expect("damage it");
        let (mut log, losses) = open(&dir);
        assert_eq!(losses.iter().map(|loss| loss.records).sum::<u64>(), 1, "bit at {at}: {losses:?}");
        assert_eq!(seqs(&mut log), [1, 2, 3, 4, 6, 7, 8, 9], "bit at {at}");
        assert_eq!(log.records(), 8);
    }
}

#[test]
fn a_damaged_header_costs_no_record() {
    let dir = dir();
    drop(filled(&dir, 1..=9));
    let path = only_segment(&dir);
    damage(&path, |bytes| bytes[9] ^= 0xFF);
    let (mut log, losses) = open(&dir);
    assert_eq!(losses.len(), 1);
    assert_eq!(losses[0].records, 0);
    assert_eq!(seqs(&mut log).len(), 9);
}

#[test]
fn what_was_acknowledged_before_a_reopen_is_not_taken_for_damage() {
    let dir = dir();
    let mut log = filled(&dir, 1..=9);
    log.trim(6).expect("trim");
    drop(log);
    let (mut log, losses) = open(&dir);
    let page = log.read(0, ALL, ALL).expect("read");
    assert_eq!((page.damaged, page.records.len(), losses.len()), (0, 3, 0), "{losses:?}");
}

#[test]
fn a_zeroed_page_in_any_segment_is_counted_to_the_record() {
    let dir = dir();
    let mut log = filled(&dir, 1..=2000);
    assert!(log.segments() >= 3, "the test needs several segments, not {}", log.segments());
    let first = log.segments[1].first;
    let before = seqs(&mut log).len();
    drop(log);
    let path = segment_path(dir.path(), first);
    damage(&path, |bytes| bytes[8192..12288].fill(0));
    let (mut log, losses) = open(&dir);
    let left = seqs(&mut log).len();
    let told = losses.iter().map(|loss| loss.records).sum::<u64>();
    assert!(left < before);
    assert_eq!(told, (before - left) as u64, "{losses:?}");
}

#[test]
fn a_segment_that_lost_its_end_or_vanished_is_counted_by_the_next_one() {
    for vanish in [false, true] {
        let dir = dir();
        let mut log = filled(&dir, 1..=2000);
        let first = log.segments[1].first;
        let before = seqs(&mut log).len();
        drop(log);
        let path = segment_path(dir.path(), first);
        if vanish {
            fs::remove_file(&path).expect("remove it");
        } else {
            OpenOptions::new().write(true).open(&path).expect("open").set_len(20_000).expect("cut it");
        }
        let (mut log, losses) = open(&dir);
        let left = seqs(&mut log).len();
        assert_eq!(losses.iter().map(|loss| loss.records).sum::<u64>(), (before - left) as u64, "vanish: {vanish}");
    }
}

#[test]
fn damage_that_comes_while_the_log_is_open_is_told_once_by_the_read_that_meets_it() {
    let dir = dir();
    let mut log = filled(&dir, 1..=9);
    let path = only_segment(&dir);
    let at = usize::try_from(HEADER_BYTES).expect("small") + frame_bytes(1) + frame_bytes(2) + 30;
    damage(&path, |bytes| bytes[at] ^= 4);
    let page = log.read(1, ALL, ALL).expect("read");
    assert_eq!(page.records.iter().map(|record| record.0).collect::<Vec<_>>(), [1, 2, 4, 5, 6, 7, 8, 9]);
    assert_eq!(page.damaged, 1);
    assert_eq!(log.read(1, ALL, ALL).expect("read").damaged, 0, "told already");
    log.trim(4).expect("trim over the damage");
    assert_eq!(log.records(), 5);
    assert_eq!(log.range().first, 5);
}

#[test]
fn what_the_disk_refuses_to_read_for_a_while_is_asked_for_again_and_nothing_is_lost() {
    let dir = dir();
    let mut log = filled(&dir, 1..=900);
    refuse_where(|path, _| path.extension().is_some_and(|extension| extension == SUFFIX));
    for _ in 1..WAITS_MAX {
        let fault = log.read(0, ALL, ALL).expect_err("the disk refuses").to_string();
        assert!(fault.contains("Input/output error"), "{fault}");
    }
    heal();
    let page = log.read(0, ALL, ALL).expect("it reads again");
    assert_eq!((page.records.len(), page.damaged), (900, 0));
}

#[test]
fn what_the_disk_refuses_to_read_too_often_costs_its_records_and_no_other() {
    let dir = dir();
    let mut log = filled(&dir, 1..=900);
    refuse_where(|path, at| path.to_string_lossy().contains("0001.seg") && (16_384..20_480).contains(&at));
    let tries = (1..).find(|_| log.read(0, ALL, ALL).is_ok_and(|page| page.records.len() > 800)).expect("it goes on");
    heal();
    assert_eq!(tries, REFUSALS_MAX + 1);
}

/// Two segments, and the name of the second one's file.
fn filled_over_two_segments(dir: &TempDir) -> (Log, String, u64) {
    let log = filled(dir, 1..=1_200);
    let names = names_with(dir.path(), SUFFIX).expect("list");
    assert_eq!(names.len(), 2, "{names:?}");
    (log, format!("{:04}.{SUFFIX}", names[1]), names[1])
}

#[test]
fn what_lies_before_a_dead_block_is_given_and_the_block_is_given_up_in_the_end() {
    let dir = dir();
    let (mut log, second, _) = filled_over_two_segments(&dir);
    refuse_where(move |path, at| path.to_string_lossy().ends_with(&second) && (16_384..20_480).contains(&at));
    let (mut found, mut last, mut tries) = (0, 0, 0);
    while last < 1_200 && tries < 100 {
        tries += 1;
        let Ok(page) = log.read(last + 1, ALL, ALL) else { continue };
        found += page.records.len();
        last = page.records.last().map_or(last, |(seq, _)| *seq);
    }
    heal();
    assert!((1_100..1_200).contains(&found) && last == 1_200, "{found} records up to {last} with {tries} looks");
    assert!(tries <= REFUSALS_MAX + 2, "{tries} looks");
}

#[test]
fn an_eviction_beside_a_segment_that_the_disk_refuses_passes_over_nothing() {
    let dir = dir();
    let (mut log, second, first_of_second) = filled_over_two_segments(&dir);
    refuse_where(move |path, _| path.to_string_lossy().ends_with(&second));
    let evicted = log.evict().expect("there is room then");
    assert_eq!((evicted.first, evicted.last), (1, first_of_second - 1));
    log.append(1_201, &body(1_201)).expect("append");
    log.commit().expect("commit");
    heal();
    assert_eq!(seqs(&mut log), (first_of_second..=1_201).collect::<Vec<_>>());
}

#[test]
fn a_log_that_the_disk_refuses_to_read_does_not_open_and_is_whole_when_it_can_be_read() {
    let dir = dir();
    drop(filled(&dir, 1..=900));
    for name in ["0001.seg", "cursor"] {
        refuse_where(move |path, _| path.to_string_lossy().ends_with(name));
        Log::open(dir.path(), SEGMENT, SELDOM, &mut Opening::default()).expect_err(name);
        heal();
        let (mut log, losses) = open(&dir);
        assert_eq!((seqs(&mut log).len(), losses), (900, vec![]), "{name}");
    }
}

#[test]
fn a_segment_set_aside_counts_also_where_nothing_tells_how_many_records_it_held() {
    let dir = dir();
    drop(filled(&dir, 1..=3));
    damage(&only_segment(&dir), |bytes| bytes.fill(b'?'));
    damage(&dir.path().join(CURSOR_FILE), |bytes| bytes.fill(b'?'));
    let (_, losses) = open(&dir);
    assert_eq!(losses.iter().map(|loss| loss.records).sum::<u64>(), 1, "{losses:?}");
    assert!(losses.iter().any(|loss| loss.what.contains("how many records")), "{losses:?}");
    assert_eq!(open(&dir).1, [], "and once");
}

#[test]
fn damage_that_a_read_told_of_is_not_told_again_by_the_next_opening() {
    let dir = dir();
    let mut log = filled(&dir, 1..=9);
    let path = only_segment(&dir);
    let at = usize::try_from(HEADER_BYTES).expect("small") + frame_bytes(1) + frame_bytes(2) + 30;
    damage(&path, |bytes| bytes[at] ^= 4);
    assert_eq!(log.read(1, ALL, ALL).expect("read").damaged, 1);
    log.trim(1).expect("trim");
    drop(log);
    let (mut log, losses) = open(&dir);
    assert_eq!(losses.iter().map(|loss| loss.records).sum::<u64>(), 0, "{losses:?}");
    assert_eq!(seqs(&mut log), [2, 4, 5, 6, 7, 8, 9]);
    log.trim(4).expect("trim over the damage");
    assert_eq!(log.read(1, ALL, ALL).expect("read").damaged, 0, "what was acknowledged is no damage");
}

#[test]
fn what_opening_found_damaged_is_told_in_the_same_words_until_the_log_moves_and_then_no_more() {
    let dir = dir();
    drop(filled(&dir, 1..=9));
    let path = only_segment(&dir);
    damage(&path, |bytes| {
        let at = bytes.len() - frame_bytes(9) - 5;
        bytes[at] ^= 4;
    });
    let told = |losses: Vec<StoreLoss>| losses.into_iter().filter(|loss| loss.records > 0).collect::<Vec<_>>();
    let first = told(open(&dir).1);
    assert_eq!(first.iter().map(|loss| loss.records).sum::<u64>(), 1, "{first:?}");
    let (mut log, losses) = open(&dir);
    assert_eq!(told(losses), first);
    log.append(10, &body(10)).expect("append");
    log.commit().expect("commit");
    drop(log);
    let (mut log, losses) = open(&dir);
    assert_eq!(told(losses), first);
    log.trim(3).expect("trim");
    drop(log);
    assert_eq!(told(open(&dir).1), [], "counted once");
}

#[test]
fn an_end_that_is_cut_off_is_counted_by_the_mark_and_a_damaged_one_by_its_ruins() {
    for cut in [false, true] {
        let dir = dir();
        let mut log = filled(&dir, 1..=9);
        if cut {
            log.mark().expect("mark");
        }
        drop(log);
        let path = only_segment(&dir);
        let mut bytes = fs::read(&path).expect("read the segment");
        let end = bytes.len() - frame_bytes(8) - frame_bytes(9);
        if cut {
            bytes.truncate(end);
        } else {
            bytes[end + FRAME_BYTES..].fill(0xFF);
            let head = end + frame_bytes(8);
            let mut frame = Vec::new();
            segment::encode_frame(&mut frame, 1, 9, 8, &body(9));
            bytes[head..head + FRAME_BYTES].copy_from_slice(&frame[..FRAME_BYTES]);
        }
        fs::write(&path, &bytes).expect("damage it");
        let (mut log, losses) = open(&dir);
        assert_eq!(losses.iter().map(|loss| loss.records).sum::<u64>(), 2, "cut: {cut}: {losses:?}");
        log.append(10, &body(10)).expect("append goes on");
        log.commit().expect("commit");
        assert_eq!(seqs(&mut log), [1, 2, 3, 4, 5, 6, 7, 10], "cut: {cut}");
        log.mark().expect("mark");
        drop(log);
        let (_log, losses) = open(&dir);
        assert_eq!(losses, [], "cut: {cut}");
    }
}

#[test]
fn a_log_whose_only_segment_vanished_counts_all_that_was_in_it() {
    let dir = dir();
    let mut log = filled(&dir, 1..=9);
    log.trim(2).expect("trim");
    drop(log);
    fs::remove_file(only_segment(&dir)).expect("remove it");
    assert_eq!(open(&dir).1.iter().map(|loss| loss.records).sum::<u64>(), 7);
}

#[test]
fn what_lies_in_the_way_of_a_segment_or_the_cursor_is_set_aside() {
    let dir = dir();
    let mut log = filled(&dir, 1..=2000);
    let (before, first) = (seqs(&mut log).len(), log.segments[1].first);
    log.mark().expect("mark");
    drop(log);
    for path in [segment_path(dir.path(), first), dir.path().join(CURSOR_FILE)] {
        fs::remove_file(&path).expect("remove it");
        fs::create_dir(&path).expect("put a directory there");
    }
    let (mut log, losses) = open(&dir);
    let left = seqs(&mut log).len();
    assert_eq!(losses.iter().map(|loss| loss.records).sum::<u64>(), (before - left) as u64, "{losses:?}");
    assert!(losses.iter().any(|loss| loss.what.contains("set aside as")), "{losses:?}");
}

#[test]
fn text_that_looks_like_a_frame_inside_a_damaged_record_is_not_taken_for_one() {
    let dir = dir();
    let (mut log, _) = open(&dir);
    let mut decoy = Vec::new();
    segment::encode_frame(&mut decoy, 777, 3, 2, b"not a record");
    log.append(1, &body(1)).expect("append");
    log.append(2, &decoy).expect("append");
    log.append(4, &body(4)).expect("append");
    log.commit().expect("commit");
    drop(log);
    let path = only_segment(&dir);
    // The frame around it.
    damage(&path, |bytes| bytes[usize::try_from(HEADER_BYTES).expect("small") + frame_bytes(1) + 20] ^= 1);
    assert_eq!(seqs(&mut open(&dir).0), [1, 4]);
}

#[test]
fn a_segment_of_a_newer_format_is_set_aside_and_told() {
    let dir = dir();
    drop(filled(&dir, 1..=3));
    let path = only_segment(&dir);
    let mut bytes = fs::read(&path).expect("read the segment");
    bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..16]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).expect("write");
    let (mut log, losses) = open(&dir);
    assert!(losses[0].what.contains("newer agent (format 2), set aside"), "{losses:?}");
    assert_eq!(seqs(&mut log), [0; 0]);
    assert_eq!(log.bytes(), bytes.len() as u64, "what is set aside still takes room");
    assert!(dir.path().join(format!("{:020}.newer", 1)).exists());
}

#[test]
fn segments_set_aside_do_not_pile_up() {
    let dir = dir();
    for first in 1..=7 {
        fs::write(dir.path().join(format!("{first:020}.newer")), b"x").expect("write");
    }
    let (log, _) = open(&dir);
    assert_eq!(names_with(dir.path(), SUFFIX_NEWER).expect("list"), [6, 7]);
    assert_eq!(log.bytes(), 2);
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
fn a_cursor_of_the_form_before_is_read_and_goes_on_in_the_new_one() {
    let dir = dir();
    drop(filled(&dir, 1..=2000));
    let path = dir.path().join(CURSOR_FILE);
    let mut bytes = vec![0; 8192];
    let mut slot = b"fmedcur\n".to_vec();
    for field in [7_u64, 100, 2000] {
        slot.extend_from_slice(&field.to_le_bytes());
    }
    slot.extend_from_slice(&crc32c::crc32c(&slot).to_le_bytes());
    bytes[4096..4096 + slot.len()].copy_from_slice(&slot);
    fs::write(&path, bytes).expect("write");
    let (mut log, losses) = open(&dir);
    assert_eq!(losses, []);
    assert_eq!(log.range(), LogRange { first: 101, last: 2000, records: 1900, evicted: 0 });
    let evicted = log.evict().expect("evict");
    drop(log);
    assert_eq!(open(&dir).0.range().evicted, evicted.records);
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

/// One step of the model test. Numbers are folded into what the log holds at that moment.
#[derive(Debug, Clone)]
enum Op {
    Append { gap: u64, len: usize },
    Commit,
    Read { from: u64, records_max: usize, bytes_max: usize },
    Trim { part: u64 },
    Evict,
    Kill,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (1..4_u64, 0..20_000_usize).prop_map(|(gap, len)| Op::Append { gap, len }),
        3 => Just(Op::Commit),
        4 => (0..200_u64, 0..20_usize, 0..60_000_usize)
            .prop_map(|(from, records_max, bytes_max)| Op::Read { from, records_max, bytes_max }),
        2 => (0..=120_u64).prop_map(|part| Op::Trim { part }),
        1 => Just(Op::Evict),
        2 => Just(Op::Kill),
    ]
}

/// What the log must hold: seq and length of body, whose bytes follow from the two.
#[derive(Debug, Default)]
struct Model {
    live: BTreeMap<u64, usize>,
    committed: u64,
    last: u64,
    evicted: u64,
}

fn bulk(seq: u64, len: usize) -> Vec<u8> {
    seq.to_le_bytes().into_iter().cycle().take(len).collect()
}

impl Model {
    fn page(&self, from: u64, records_max: usize, bytes_max: usize) -> Vec<(u64, Bytes)> {
        let mut bytes = 0;
        let mut page = Vec::new();
        for (&seq, &len) in self.live.range(from..) {
            if page.len() >= records_max || (!page.is_empty() && bytes + len > bytes_max) {
                break;
            }
            bytes += len;
            page.push((seq, Bytes::from(bulk(seq, len))));
        }
        page
    }

    fn step(&mut self, dir: &TempDir, log: &mut Log, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Append { gap, len } => {
                self.last += gap;
                log.append(self.last, &bulk(self.last, len)).expect("append");
                self.live.insert(self.last, len);
            }
            Op::Commit => {
                log.commit().expect("commit");
                self.committed = self.last;
            }
            Op::Read { from, records_max, bytes_max } => {
                let page = log.read(from, records_max, bytes_max).expect("read");
                prop_assert_eq!(page, Page { records: self.page(from, records_max, bytes_max), damaged: 0 });
            }
            Op::Trim { part } => {
                let upto = self.last * part / 100;
                log.trim(upto).expect("trim");
                self.live.retain(|seq, _| *seq > upto);
            }
            Op::Evict => {
                let evicted = log.evict().expect("evict");
                let gone: Vec<u64> = self.live.range(..=evicted.last).map(|(seq, _)| *seq).collect();
                prop_assert_eq!(gone.len() as u64, evicted.records);
                prop_assert_eq!(gone.first().copied().unwrap_or(0), evicted.first);
                prop_assert_eq!(gone.last().copied().unwrap_or(0), evicted.last);
                prop_assert!(self.live.is_empty() || self.live.len() > gone.len() || log.segments() == 0);
                self.live.retain(|seq, _| *seq > evicted.last);
                self.evicted += evicted.records;
            }
            Op::Kill => self.kill(dir, log)?,
        }
        let first = self.live.keys().next().copied().unwrap_or(0);
        let range = LogRange { first, last: self.last, records: self.live.len() as u64, evicted: self.evicted };
        prop_assert_eq!(log.range(), range);
        Ok(())
    }

    /// What was not committed may be there or not, but only from the end.
    fn kill(&mut self, dir: &TempDir, log: &mut Log) -> Result<(), TestCaseError> {
        let (reopened, losses) = open(dir);
        *log = reopened;
        prop_assert_eq!(losses, []);
        let found: Vec<u64> = log.read(0, ALL, ALL).expect("read").records.into_iter().map(|(seq, _)| seq).collect();
        let kept: Vec<u64> = self.live.keys().copied().take(found.len()).collect();
        prop_assert_eq!(&found, &kept, "only what was appended last may be missing");
        self.live.retain(|seq, _| found.contains(seq) || *seq <= self.committed);
        self.last = log.range().last;
        self.committed = self.last;
        prop_assert_eq!(log.range().evicted, self.evicted, "what was given up is counted over a kill");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_it_the_log_holds_what_a_simple_model_holds(ops in proptest::collection::vec(op(), 1..120)) {
        let dir = dir();
        let (mut log, _) = open(&dir);
        let mut model = Model::default();
        for op in ops {
            model.step(&dir, &mut log, &op)?;
        }
    }

    #[test]
    fn whatever_is_damaged_no_wrong_value_comes_back_and_opening_succeeds(
        damage in proptest::collection::vec((0..99_usize, 0..65_000_usize, 1..5000_usize, any::<u8>()), 1..6),
    ) {
        let dir = dir();
        drop(filled(&dir, 1..=1200));
        for (segment, start, len, byte) in damage {
            let names = names_with(dir.path(), SUFFIX).expect("list");
            let path = segment_path(dir.path(), names[segment % names.len()]);
            let mut bytes = fs::read(&path).expect("read");
            let start = start.min(bytes.len());
            let end = (start + len).min(bytes.len());
            bytes[start..end].fill(byte);
            fs::write(&path, bytes).expect("damage");
        }
        let (mut log, _) = open(&dir);
        let left = seqs(&mut log);
        prop_assert!(left.windows(2).all(|pair| pair[0] < pair[1]));
        log.append(5000, &body(5000)).expect("append goes on");
        log.commit().expect("commit");
        drop(log);
        let (mut log, _) = open(&dir);
        prop_assert_eq!(seqs(&mut log), left.into_iter().chain([5000]).collect::<Vec<_>>());
    }
}
