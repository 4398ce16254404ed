//! The end of a log that no record follows.

use super::*;

/// What a process leaves that was killed after so many commits of a record each, none of them marked.
fn killed_after(dir: &TempDir, commits: u64) -> PathBuf {
    let (mut log, _) = open(dir);
    for seq in 1..=commits {
        log.append(seq, &body(seq)).expect("append");
        log.commit().expect("commit");
    }
    assert!(commits < u64::from(SELDOM), "the mark would tell");
    only_segment(dir)
}

/// Opens it in the boot in which it was written.
fn open_in_the_same_boot(dir: &TempDir) -> (Log, Vec<StoreLoss>) {
    let mut opening = Opening::default();
    opening.same_boot = true;
    let log = Log::open(dir.path(), SEGMENT, SELDOM, &mut opening).expect("the log opens");
    (log, opening.losses)
}

fn told(losses: &[StoreLoss]) -> u64 {
    losses.iter().map(|loss| loss.records).sum()
}

#[test]
fn a_flipped_bit_in_the_last_record_is_counted_wherever_it_is() {
    let dir = dir();
    let path = killed_after(&dir, 9);
    let whole = fs::read(&path).expect("read the segment");
    let start = whole.len() - frame_bytes(9);
    // Heads are what is counted by: a wrong one may say too much.
    let head = start..start + FRAME_BYTES;
    for bit in start * 8..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).expect("damage it");
        let (mut log, losses) = open_in_the_same_boot(&dir);
        let most = if head.contains(&(bit / 8)) { frame_bytes(9).div_ceil(FRAME_BYTES) as u64 } else { 1 };
        assert!((1..=most).contains(&told(&losses)), "bit {bit} of {}: {losses:?}", whole.len() * 8);
        assert_eq!(seqs(&mut log), (1..=8).collect::<Vec<_>>());
    }
}

#[test]
fn an_end_that_was_zeroed_is_counted_by_the_room_that_it_took() {
    for same_boot in [false, true] {
        for lost in 1..=14 {
            let dir = dir();
            let path = killed_after(&dir, 15);
            let zeroed: usize = (16 - lost..=15).map(frame_bytes).sum();
            damage(&path, |bytes| {
                let start = bytes.len() - zeroed;
                bytes[start..].fill(0);
            });
            let (mut log, losses) = if same_boot { open_in_the_same_boot(&dir) } else { open(&dir) };
            let found = told(&losses);
            assert!((lost..=lost + 1).contains(&found), "{found} told of {lost}: {losses:?}");
            let (_, again) = open(&dir);
            assert_eq!(again.iter().find(|loss| loss.records > 0), losses.iter().find(|loss| loss.records > 0));
            log.append(16, &body(16)).expect("append goes on");
            log.commit().expect("commit");
            drop(log);
            let (mut log, again) = open(&dir);
            assert_eq!(again.iter().find(|loss| loss.records > 0), losses.iter().find(|loss| loss.records > 0));
            assert_eq!(seqs(&mut log).len() as u64, 16 - lost);
            log.finish().expect("finish");
            drop(log);
            assert_eq!(told(&open(&dir).1), 0, "and once");
        }
    }
}

#[test]
fn of_a_segment_that_was_zeroed_as_a_whole_one_record_is_known_where_nothing_tells_of_more() {
    let dir = dir();
    let path = killed_after(&dir, 15);
    damage(&path, |bytes| bytes.fill(0));
    assert_eq!(told(&open(&dir).1), 1);
}

#[test]
fn what_the_mark_counted_is_not_guessed() {
    let dir = dir();
    let (mut log, _) = open(&dir);
    for seq in 1..=20 {
        log.append(seq, &vec![7; usize::try_from(seq * seq).expect("small")]).expect("append");
        log.commit().expect("commit");
    }
    drop(log);
    // The mark was set with the 16th; of the last four the room tells, which the largest ones took.
    let frames = |seqs: RangeInclusive<usize>| seqs.map(|seq| FRAME_BYTES + seq * seq).sum::<usize>();
    damage(&only_segment(&dir), |bytes| {
        let start = bytes.len() - frames(9..=20);
        bytes[start..].fill(0);
    });
    let mean = frames(1..=8) / 8;
    assert_eq!(told(&open(&dir).1), 16 - 8 + frames(17..=20).div_ceil(mean) as u64);
}

#[test]
fn a_torn_tail_is_damage_in_the_boot_that_wrote_it_but_where_a_kill_may_tear() {
    let dir = dir();
    let (mut log, _) = open(&dir);
    let mut lens = vec![HEADER_LEN];
    for seq in 1..=45 {
        log.append(seq, &body(seq)).expect("append");
        lens.push(lens.last().expect("one") + frame_bytes(seq));
    }
    // One commit: no mark.
    log.commit().expect("commit");
    drop(log);
    let path = only_segment(&dir);
    let whole = fs::read(&path).expect("read the segment");
    let (mut torn, mut excused) = (0, 0);
    for len in (whole.len() - 1_500..whole.len()).filter(|len| len % 11 == 0 || len % 4096 == 0) {
        fs::write(&path, &whole[..len]).expect("tear it");
        let kept = lens.iter().filter(|end| **end <= len).count() - 1;
        let (mut log, losses) = open_in_the_same_boot(&dir);
        assert_eq!(seqs(&mut log).len(), kept, "cut at {len}");
        let expected = u64::from(!lens.contains(&len) && len % 4096 != 0);
        assert_eq!(told(&losses), expected, "cut at {len}: {losses:?}");
        (torn, excused) = (torn + expected, excused + u32::from(len % 4096 == 0));
        log.append(100, &body(100)).expect("append goes on");
        log.commit().expect("commit");
        drop(log);
        assert_eq!(told(&open(&dir).1), expected, "cut at {len}, told in the next boot too, until the mark moves");
        for name in names_with(dir.path(), SUFFIX).expect("list").into_iter().filter(|name| *name > 1) {
            fs::remove_file(segment_path(dir.path(), name)).expect("begin anew");
        }
    }
    assert!(torn > 100 && excused == 1, "{torn} torn, {excused} excused");
}

#[test]
fn an_append_that_a_power_cut_tore_is_no_loss_in_the_next_boot() {
    let dir = dir();
    let path = killed_after(&dir, 9);
    damage(&path, |bytes| bytes.truncate(bytes.len() - 5));
    assert_eq!(open(&dir).1, []);
    assert_eq!(open_in_the_same_boot(&dir).1, [], "and it was taken away then");
}
