//! The end of a log that no record follows.

use super::*;

/// What flash reads as that was erased and not written since.
const ERASED: u8 = 0xFF;

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
    let head = start..start + HEAD_LEN;
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
fn an_end_that_was_erased_is_counted_by_the_room_that_it_took() {
    for same_boot in [false, true] {
        for lost in 1..=14 {
            let dir = dir();
            let path = killed_after(&dir, 15);
            let erased: usize = (16 - lost..=15).map(frame_bytes).sum();
            damage(&path, |bytes| {
                let start = bytes.len() - erased;
                bytes[start..].fill(ERASED);
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
fn of_a_segment_that_was_erased_as_a_whole_one_record_is_known_where_nothing_tells_of_more() {
    let dir = dir();
    let path = killed_after(&dir, 15);
    damage(&path, |bytes| bytes.fill(ERASED));
    assert_eq!(told(&open(&dir).1), 1);
}

#[test]
fn an_end_of_zeros_is_what_never_arrived_but_for_what_the_mark_counted() {
    for commits in [15, 16] {
        let dir = dir();
        let mut log = filled(&dir, 1..=1);
        for seq in 2..=commits {
            log.append(seq, &body(seq)).expect("append");
            log.commit().expect("commit");
        }
        drop(log);
        let zeroed: usize = (11..=commits).map(frame_bytes).sum();
        damage(&only_segment(&dir), |bytes| {
            let start = bytes.len() - zeroed;
            bytes[start..].fill(0);
        });
        let (mut log, losses) = open(&dir);
        assert_eq!(told(&losses), if commits == u64::from(SELDOM) { 6 } else { 0 }, "{losses:?}");
        log.append(17, &body(17)).expect("append goes on");
        assert_eq!(seqs(&mut log), (1..=10).chain([17]).collect::<Vec<_>>());
    }
}

#[test]
fn room_is_made_ahead_used_up_and_given_back() {
    let dir = dir();
    let len = || fs::metadata(segment_path(dir.path(), 1)).expect("the segment").len();
    let (mut log, _) = open(&dir);
    for seq in 1..=10 {
        log.append(seq, &body(seq)).expect("append");
        log.commit().expect("commit");
        assert_eq!((len() % 4096, log.bytes()), (0, data_bytes(1..=seq)), "room, and it isn't counted");
    }
    drop(log);
    let before = len();
    let (mut log, losses) = open(&dir);
    assert_eq!((losses, len()), (Vec::new(), before), "it is no damage, and stays");
    log.append(11, &body(11)).expect("append");
    log.commit().expect("commit");
    assert_eq!(seqs(&mut log), (1..=11).collect::<Vec<_>>());
    log.finish().expect("finish");
    assert_eq!(len(), data_bytes(1..=11), "none is left by a log that is closed");
    log.append(12, &[7; 60_000]).expect("append");
    log.append(13, &[7; 60_000]).expect("append to the next one");
    assert_eq!(len(), data_bytes(1..=11) + 60_000 + FRAME_BYTES as u64, "nor by a segment that is full");
}

fn data_bytes(seqs: RangeInclusive<u64>) -> u64 {
    HEADER_BYTES + seqs.map(|seq| frame_bytes(seq) as u64).sum::<u64>()
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
        bytes[start..].fill(ERASED);
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
        let expected = u64::from(!lens.contains(&len) && len.next_multiple_of(4096) - len >= HEAD_LEN);
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
