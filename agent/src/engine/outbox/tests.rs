use std::ops::RangeInclusive;

use super::ahead::Ahead;
use super::lane::ANSWERED_MAX;
use super::order::Inflight;
use super::*;
use crate::engine::io::{Effect, LogRange};
use crate::engine::observation::Severity;
use crate::engine::record::{Body, Event, EventKind, Stamp};
use crate::engine::time::BootId;

const CLASS: Class = Class::Telemetry;

fn outbox(evicted: u64, accounted: u64) -> Outbox {
    holding(400, evicted, accounted)
}

fn holding(records: u64, evicted: u64, accounted: u64) -> Outbox {
    let mut recovered = Recovered::default();
    recovered.logs[CLASS as usize] = LogRange { first: 1, last: records, records, evicted };
    let limits = Limits { max_bytes: 1 << 20, min_free_bytes: 0, commit_interval: Duration::from_secs(1) };
    Outbox::new(limits, &recovered, BTreeMap::new(), [0, 0, accounted, 0, 0])
}

fn page(seqs: RangeInclusive<u64>) -> Result<StoreReply, StoreFault> {
    Ok(StoreReply::Page { records: seqs.map(|seq| (seq, Bytes::from_static(b"x"))).collect(), damaged: 0 })
}

fn ops(effects: &mut Effects) -> Vec<StoreOp> {
    let stores = std::iter::from_fn(|| effects.poll());
    stores.filter_map(|effect| if let Effect::Store { op, .. } = effect { Some(op) } else { None }).collect()
}

fn quota(outbox: &Outbox) -> u64 {
    outbox.dropped().get("quota").copied().unwrap_or(0)
}

#[test]
fn the_smallest_store_stays_within_its_limit_with_the_state_and_its_reserve() {
    let (mut outbox, mut effects) = (outbox(0, 0), Effects::default());
    // Of sled a segment and its small files, or as much more as is let grow before it is written anew; and the reserve.
    for state_bytes in [528 * 1024, 600 * 1024].map(|bytes| bytes + (256 << 10)) {
        outbox.stats(StoreStats { state_bytes, free_bytes: 1 << 30, ..StoreStats::default() }, &mut effects);
        // Beside them what files take of whole blocks.
        let in_all = state_bytes + outbox.room() + Class::COUNT as u64 * 8192 + 8 * 4096;
        assert!(in_all <= 1 << 20, "{in_all} B");
    }
}

/// Records 1 to 20 read ahead, ten of them in flight, and then all up to 100 evicted.
fn evicted_while_sending() -> (Outbox, Effects) {
    let (mut outbox, mut effects) = (outbox(0, 0), Effects::default());
    outbox.fill(CLASS, &mut effects);
    outbox.page(Mono(0), CLASS, page(1..=20), &mut effects);
    outbox.sent(CLASS, 10);
    outbox.evicted(Mono(0), CLASS, Ok(StoreReply::Evicted { records: 100, first: 1, last: 100 }), &mut effects);
    (outbox, effects)
}

#[test]
fn a_page_that_was_asked_for_before_a_rewind_does_not_skip_what_has_to_be_sent_again() {
    let (mut outbox, mut effects) = (outbox(0, 0), Effects::default());
    outbox.fill(CLASS, &mut effects);
    outbox.page(Mono(0), CLASS, page(1..=50), &mut effects);
    outbox.sent(CLASS, 20);
    outbox.fill(CLASS, &mut effects);
    outbox.rewind_all();
    outbox.page(Mono(0), CLASS, page(51..=100), &mut effects);
    assert_eq!(outbox.ready(CLASS, u64::MAX).count(), 0, "1 to 50 come first");
    ops(&mut effects);
    outbox.fill(CLASS, &mut effects);
    assert!(matches!(ops(&mut effects)[..], [StoreOp::Read { from: 1, .. }]));
}

/// Results 1 to 400 in the store.
fn results() -> Outbox {
    let mut recovered = Recovered::default();
    recovered.logs[Class::Results as usize] = LogRange { first: 1, last: 400, records: 400, evicted: 0 };
    let limits = Limits { max_bytes: 1 << 20, min_free_bytes: 0, commit_interval: Duration::from_secs(1) };
    Outbox::new(limits, &recovered, BTreeMap::new(), [0; Class::COUNT])
}

/// These and no others are named as gone.
fn assert_gone(outbox: &mut Outbox, gone: &[u64]) {
    let named = outbox.take_gone();
    let named: Vec<u64> = (1..=400).filter(|seq| named.iter().any(|named| named.holds(*seq))).collect();
    assert_eq!(named, gone);
}

/// A page of these, but for one.
fn torn(seqs: RangeInclusive<u64>, hole: u64, damaged: u64) -> Result<StoreReply, StoreFault> {
    let records = seqs.filter(|seq| *seq != hole).map(|seq| (seq, Bytes::from_static(b"x"))).collect();
    Ok(StoreReply::Page { records, damaged })
}

#[test]
fn of_a_damaged_page_that_was_asked_for_before_a_rewind_what_is_gone_is_named_when_it_is_read_again() {
    let (mut outbox, mut effects) = (results(), Effects::default());
    outbox.fill(Class::Results, &mut effects);
    outbox.page(Mono(0), Class::Results, page(1..=50), &mut effects);
    outbox.sent(Class::Results, 20);
    outbox.fill(Class::Results, &mut effects);
    outbox.rewind_all();
    outbox.page(Mono(0), Class::Results, torn(51..=100, 60, 1), &mut effects);
    assert_gone(&mut outbox, &[]);
    for (first, hole) in [(1, 0), (51, 60)] {
        outbox.fill(Class::Results, &mut effects);
        outbox.page(Mono(0), Class::Results, torn(first..=first + 49, hole, 0), &mut effects);
        outbox.sent(Class::Results, 50);
    }
    assert_gone(&mut outbox, &[60]);
}

#[test]
fn a_result_that_damage_took_behind_the_page_that_counts_it_is_named_with_the_next_one() {
    let (mut outbox, mut effects) = (results(), Effects::default());
    outbox.fill(Class::Results, &mut effects);
    outbox.page(Mono(0), Class::Results, torn(1..=50, 0, 1), &mut effects);
    assert_gone(&mut outbox, &[]);
    outbox.sent(Class::Results, 50);
    outbox.fill(Class::Results, &mut effects);
    outbox.page(Mono(0), Class::Results, torn(51..=100, 51, 0), &mut effects);
    assert_gone(&mut outbox, &[51]);
}

#[test]
fn a_result_that_goes_ahead_is_not_named_as_gone_where_damage_took_the_stores_copy_of_it() {
    let (mut outbox, mut effects) = (results(), Effects::default());
    outbox.lane(Class::Results).put_ahead(30, Haste::Live, Bytes::from_static(b"x"));
    outbox.fill(Class::Results, &mut effects);
    let records = (1..=50).filter(|seq| *seq != 20 && *seq != 30).map(|seq| (seq, Bytes::from_static(b"x"))).collect();
    outbox.page(Mono(0), Class::Results, Ok(StoreReply::Page { records, damaged: 2 }), &mut effects);
    assert_gone(&mut outbox, &[20]);
}

#[test]
fn what_the_store_evicted_and_a_crash_kept_from_being_counted_is_counted_at_the_start() {
    let mut late = outbox(150, 100);
    assert_eq!(quota(&late), 50);
    assert_eq!(late.dropped_to_save().map(|(_, accounted)| accounted), Some([0, 0, 150, 0, 0]));
    let mut in_time = outbox(150, 150);
    assert_eq!((quota(&in_time), in_time.dropped_to_save()), (0, None));
}

#[test]
fn a_log_that_counts_from_zero_again_is_followed() {
    let mut outbox = outbox(30, 150);
    assert_eq!(quota(&outbox), 0);
    assert_eq!(
        outbox.dropped_to_save().map(|(_, accounted)| accounted),
        Some([0, 0, 30, 0, 0]),
        "the next 120 are no secret"
    );
}

#[test]
fn evicted_records_that_are_on_their_way_count_as_dropped_only_once_they_can_no_longer_arrive() {
    let (mut outbox, mut effects) = evicted_while_sending();
    assert_eq!(quota(&outbox), 80);
    assert_eq!(
        outbox.dropped_to_save().map(|(_, accounted)| accounted),
        Some([0, 0, 80, 0, 0]),
        "a crash would cost twenty more"
    );
    for seq in 1..=5 {
        outbox.acknowledged(CLASS, seq);
    }
    outbox.rewind_all();
    assert_eq!(quota(&outbox), 95, "five arrived; the rest is neither in the store nor in memory");
    assert_eq!(outbox.dropped_to_save().map(|(_, accounted)| accounted), Some([0, 0, 100, 0, 0]));
    outbox.fill(CLASS, &mut effects);
    outbox.page(Mono(0), CLASS, page(101..=110), &mut effects);
    outbox.sent(CLASS, 10);
    outbox.rewind_all();
    assert_eq!(quota(&outbox), 95, "these are in the store still");
}

#[test]
fn that_all_evicted_records_arrived_after_all_is_saved_once() {
    let (mut outbox, _) = evicted_while_sending();
    outbox.dropped_to_save();
    outbox.sent(CLASS, 10);
    for seq in 1..=19 {
        outbox.acknowledged(CLASS, seq);
        assert_eq!(outbox.dropped_to_save(), None, "a write for each would wear the flash");
    }
    outbox.acknowledged(CLASS, 20);
    assert_eq!(outbox.dropped_to_save().map(|(_, accounted)| accounted), Some([0, 0, 100, 0, 0]));
    assert_eq!(quota(&outbox), 80);
}

const EVENTS: Class = Class::Events;

/// Events 1 to 20 in the store, of which 20 goes ahead.
fn one_in_a_hurry() -> (Outbox, Effects) {
    let mut recovered = Recovered::default();
    recovered.logs[EVENTS as usize] = LogRange { first: 1, last: 20, records: 20, evicted: 0 };
    let limits = Limits { max_bytes: 1 << 20, min_free_bytes: 0, commit_interval: Duration::from_secs(1) };
    let mut outbox = Outbox::new(limits, &recovered, BTreeMap::new(), [0; Class::COUNT]);
    let event = Event::new(Severity::Warning, EventKind::Alarm, "hot");
    let at = Stamp { boot: BootId([1; 16]), mono: Mono(5) };
    outbox.hurry(20, &Record { at, body: Body::Event(event) });
    (outbox, Effects::default())
}

fn send_next(outbox: &mut Outbox) -> Option<u64> {
    let (seq, _) = outbox.next(EVENTS)?;
    outbox.sent_next(EVENTS, seq);
    Some(seq)
}

/// Sends all that there is, and gives the numbers in the order of sending.
fn send_events(outbox: &mut Outbox) -> Vec<u64> {
    std::iter::from_fn(|| send_next(outbox)).collect()
}

fn read(outbox: &mut Outbox, effects: &mut Effects) {
    outbox.fill(EVENTS, effects);
    let from = ops(effects).iter().find_map(|op| if let StoreOp::Read { from, .. } = op { Some(*from) } else { None });
    if let Some(from) = from {
        outbox.page(Mono(0), EVENTS, page(from..=20), effects);
    }
}

fn trims(outbox: &mut Outbox, effects: &mut Effects) -> Option<u64> {
    outbox.trim(effects);
    ops(effects).iter().find_map(|op| if let StoreOp::Trim { upto, .. } = op { Some(*upto) } else { None })
}

#[test]
fn space_is_given_back_together_with_the_next_look_for_records() {
    let (mut outbox, mut effects) = (outbox(0, 0), Effects::default());
    outbox.fill(CLASS, &mut effects);
    outbox.page(Mono(0), CLASS, page(1..=200), &mut effects);
    outbox.sent(CLASS, 160);
    for seq in 1..=150 {
        outbox.acknowledged(CLASS, seq);
    }
    assert_eq!(trims(&mut outbox, &mut effects), None, "by itself it isn't worth waking the store");
    outbox.fill(CLASS, &mut effects);
    assert_eq!(trims(&mut outbox, &mut effects), Some(150));
}

#[test]
fn what_was_answered_ahead_is_not_sent_again_and_keeps_nothing_older_from_it() {
    let (mut outbox, mut effects) = one_in_a_hurry();
    assert_eq!(send_events(&mut outbox), [20], "nothing else was read yet");
    read(&mut outbox, &mut effects);
    assert_eq!(send_next(&mut outbox), Some(1));
    outbox.acknowledged(EVENTS, 20);
    assert!(outbox.has_passed(EVENTS, 20) && outbox.is_behind(EVENTS, 1));
    assert_eq!(trims(&mut outbox, &mut effects), None, "1 to 19 are still to come");
    outbox.rewind_all();
    read(&mut outbox, &mut effects);
    let sent = send_events(&mut outbox);
    assert_eq!(sent, Vec::from_iter(1..=19));
    for seq in sent {
        outbox.acknowledged(EVENTS, seq);
    }
    assert!(outbox.is_drained(EVENTS));
    assert_eq!(trims(&mut outbox, &mut effects), Some(20));
    assert!(!outbox.has_passed(EVENTS, 20), "it is gone, and need not be remembered");
}

#[test]
fn what_went_ahead_and_was_not_answered_goes_ahead_again_and_takes_nothing_with_it() {
    let (mut outbox, mut effects) = one_in_a_hurry();
    read(&mut outbox, &mut effects);
    assert_eq!(send_next(&mut outbox), Some(20));
    outbox.rewind_all();
    read(&mut outbox, &mut effects);
    assert_eq!(send_events(&mut outbox), Vec::from_iter([20].into_iter().chain(1..=19)));
}

#[test]
fn an_eviction_counts_what_was_answered_ahead_as_arrived() {
    let (mut outbox, mut effects) = one_in_a_hurry();
    send_next(&mut outbox);
    outbox.acknowledged(EVENTS, 20);
    outbox.evicted(Mono(0), EVENTS, Ok(StoreReply::Evicted { records: 20, first: 1, last: 20 }), &mut effects);
    assert_eq!(quota(&outbox), 19);
    let (mut outbox, mut effects) = one_in_a_hurry();
    outbox.evicted(Mono(0), EVENTS, Ok(StoreReply::Evicted { records: 20, first: 1, last: 20 }), &mut effects);
    assert_eq!((quota(&outbox), send_events(&mut outbox).len()), (20, 0), "counted, so it isn't sent");
}

#[test]
fn what_went_ahead_as_the_next_that_is_read_is_not_sent_twice() {
    let (mut outbox, mut effects) = one_in_a_hurry();
    read(&mut outbox, &mut effects);
    for seq in send_events(&mut outbox).into_iter().filter(|seq| *seq < 20) {
        outbox.acknowledged(EVENTS, seq);
    }
    outbox.rewind_all();
    assert_eq!(send_events(&mut outbox), [20]);
    outbox.acknowledged(EVENTS, 20);
    read(&mut outbox, &mut effects);
    assert_eq!(send_events(&mut outbox), [0; 0], "the page came after the answer");
    assert_eq!(trims(&mut outbox, &mut effects), Some(20));
}

#[test]
fn an_eviction_after_another_counts_what_it_took() {
    let (mut outbox, mut effects) = one_in_a_hurry();
    send_next(&mut outbox);
    outbox.evicted(Mono(0), EVENTS, Ok(StoreReply::Evicted { records: 15, first: 6, last: 20 }), &mut effects);
    outbox.acknowledged(EVENTS, 20);
    assert_eq!(quota(&outbox), 14, "20 was spared, and came");
    outbox.evicted(Mono(0), EVENTS, Ok(StoreReply::Evicted { records: 20, first: 21, last: 40 }), &mut effects);
    assert_eq!(quota(&outbox), 34);
}

/// Records 1 to 20 read ahead and sent, of which the first ten are answered.
fn half_answered() -> (Outbox, Effects) {
    let (mut outbox, mut effects) = (outbox(0, 0), Effects::default());
    outbox.fill(CLASS, &mut effects);
    outbox.page(Mono(0), CLASS, page(1..=20), &mut effects);
    outbox.sent(CLASS, 20);
    for seq in 1..=10 {
        outbox.acknowledged(CLASS, seq);
    }
    (outbox, effects)
}

#[test]
fn an_eviction_counts_what_was_answered_and_is_not_yet_trimmed_as_arrived() {
    let (mut outbox, mut effects) = half_answered();
    outbox.evicted(Mono(0), CLASS, Ok(StoreReply::Evicted { records: 15, first: 1, last: 15 }), &mut effects);
    assert_eq!(quota(&outbox), 0, "ten arrived, and five are on their way");
    assert_eq!(outbox.dropped_to_save().map(|(_, accounted)| accounted), Some([0, 0, 10, 0, 0]));
    outbox.evicted(Mono(0), CLASS, Ok(StoreReply::Evicted { records: 100, first: 21, last: 120 }), &mut effects);
    assert_eq!(quota(&outbox), 100, "each of them once");
}

#[test]
fn an_eviction_after_a_trim_counts_nothing_of_what_that_deleted() {
    let (mut outbox, mut effects) = half_answered();
    outbox.trimmed(Mono(0), (CLASS, 8), None, &mut effects);
    outbox.evicted(Mono(0), CLASS, Ok(StoreReply::Evicted { records: 92, first: 9, last: 100 }), &mut effects);
    assert_eq!(quota(&outbox), 80, "9 and 10 arrived, and ten are on their way");
}

#[test]
fn what_is_sent_again_because_an_answer_for_an_earlier_one_never_came_is_not_taken_for_answered() {
    let (mut outbox, mut effects) = half_answered();
    outbox.acknowledged(CLASS, 15);
    outbox.rewind_all();
    outbox.evicted(Mono(0), CLASS, Ok(StoreReply::Evicted { records: 20, first: 1, last: 20 }), &mut effects);
    assert_eq!(quota(&outbox), 10);
}

#[test]
fn a_log_that_is_never_trimmed_makes_nobody_remember_it_all() {
    let (mut outbox, mut effects) = (holding(10_000, 0, 0), Effects::default());
    for first in (1..10_000).step_by(200) {
        outbox.fill(CLASS, &mut effects);
        outbox.page(Mono(0), CLASS, page(first..=first + 199), &mut effects);
        outbox.sent(CLASS, 200);
        for seq in first..first + 200 {
            outbox.acknowledged(CLASS, seq);
        }
    }
    assert_eq!(outbox.lanes[CLASS as usize].answered.len(), ANSWERED_MAX);
}

#[test]
fn what_is_merely_new_leaves_an_alarm_the_way_past_a_backlog() {
    let (mut ahead, inflight) = (Ahead::default(), Inflight::default());
    for seq in 1..=100 {
        ahead.insert(seq, Haste::Live, Bytes::new(), &inflight);
        if let Some((seq, _)) = ahead.next(&inflight, |_, _| true) {
            ahead.answered(seq, true);
        }
    }
    assert_eq!(ahead.next(&inflight, |_, _| true), None, "the backlog first");
    ahead.insert(101, Haste::Alarm, Bytes::new(), &inflight);
    assert_eq!(ahead.next(&inflight, |_, _| true).map(|(seq, _)| seq), Some(101));
}

#[test]
fn as_many_go_ahead_as_can_be_remembered_and_each_answer_is_waited_for() {
    let (mut ahead, mut inflight) = (Ahead::default(), Inflight::default());
    for seq in 1..=1_000 {
        ahead.insert(seq, Haste::Alarm, Bytes::new(), &inflight);
        while let Some((seq, _)) = ahead.next(&inflight, |_, _| true) {
            inflight.insert(seq);
        }
        let answer = inflight.first().filter(|first| seq % 10 == 0 && inflight.remove(*first));
        if let Some(answered) = answer {
            assert!(ahead.holds(answered));
            ahead.answered(answered, true);
        }
        let (held, most) = ahead.bound();
        assert!(held <= most, "{held} of {most}");
    }
    assert_eq!(ahead.trimmed(1_000), 32, "passed, and none of them forgotten");
}
