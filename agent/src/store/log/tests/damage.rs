//! What is torn, flipped, zeroed, vanished or refused by the disk: it costs what it hit and no more, is told once, and
//! no wrong value comes back.

use super::*;

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
            bytes[end + HEAD_LEN..].fill(0xFF);
            let head = end + frame_bytes(8);
            let mut frame = Vec::new();
            segment::encode_frame(&mut frame, 1, 9, 8, &body(9));
            bytes[head..head + HEAD_LEN].copy_from_slice(&frame[..HEAD_LEN]);
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

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
