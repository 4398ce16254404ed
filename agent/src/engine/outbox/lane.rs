//! One log's place in the sending. A record is made; it is held in memory, or handed to the store and durable; it is
//! read ahead, so that it is ready; it is in flight; and answered or given up it is done with, so that its space may be
//! given back. What of a log the store doesn't have, or has deleted while it was ready or in flight, is known here too.
//! A lane must not ask the store for anything, and counts nothing as lost: it tells the outbox what there is to ask and
//! to count.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::ops::RangeInclusive;

use bytes::Bytes;

use super::ahead::{Ahead, Haste};
use super::order::{self, Inflight};
use super::{READ_AHEAD, READ_BYTES_MAX, READ_LOW_WATER};
use crate::engine::io::LogRange;

/// Records of a log that may lie in its buffer only: more have come through it.
const BUFFERED_MAX: usize = 4_096;
/// Acknowledged records that may wait before space is given back. A crash sends them once more, as it does what is
/// under way, which can be as many; and each time wakes the store's thread, and the engine for its answer.
const TRIM_BATCH: u64 = 256;
/// How many of them are remembered where the log fails to give it back: of more, an eviction counts the rest as
/// dropped.
pub(super) const ANSWERED_MAX: usize = 4_096;

/// One log's place in the sending.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Highest seq of a record that was made.
    pub(super) made: u64,
    /// Highest seq handed to the store.
    pub(super) appended: u64,
    /// Highest seq that is durable.
    pub(super) committed: u64,
    /// What the log took since then, perhaps no further than into its buffer.
    buffered: VecDeque<u64>,
    /// Highest seq that may be sent: a durable one, unless the store fails. Then what it was given goes out before it
    /// is durable, because a full disk must not make the agent mute.
    pub(super) open: u64,
    volatile: BTreeMap<u64, Volatile>,
    /// The next read begins here.
    pub(super) next_read: u64,
    /// Where the read that is under way begins, and what was open when it was asked for: of what came later it says
    /// nothing.
    reading: Option<(u64, u64)>,
    pub(super) ready: VecDeque<(u64, Bytes)>,
    /// What goes before all that.
    pub(super) ahead: Ahead,
    pub(super) inflight: Inflight,
    /// Were in flight, and have to be sent again: a window's worth for each lane that they came through.
    pub(super) again: BTreeSet<u64>,
    /// Evicted from the store while they were ready or in flight: what memory holds of them is all there is.
    spared: BTreeSet<u64>,
    /// Highest seq acknowledged or given up.
    done: u64,
    done_since_trim: u64,
    /// Which they are, until the log is known to have deleted them: an eviction that comes first counts them as well.
    pub(super) answered: Vec<u64>,
    /// What the store was asked to trim up to.
    trimmed: u64,
    /// It is time to give space back.
    trim_due: bool,
    /// The store refused to.
    trim_failed: bool,
    /// Damage was met while it was read.
    pub(super) met_damage: bool,
}

/// A record that only memory holds.
#[derive(Debug)]
pub(super) struct Volatile {
    bytes: Bytes,
    why: Why,
    /// It went out under its number: under another one a reader could not tell that it is the same.
    pub(super) was_sent: bool,
    /// The broker took it over while it was on its way into the store.
    pub(super) was_answered: bool,
}

impl Volatile {
    const fn new(bytes: Bytes, why: Why, was_sent: bool) -> Self {
        Self { bytes, why, was_sent, was_answered: false }
    }

    fn is_to_be_tried(&self) -> bool {
        self.why == Why::Refused && !self.was_sent
    }
}

/// Why the store doesn't have a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The broker may have it before it would have to be durable: then the flash is spared.
    Live,
    /// It is on its way there.
    Storing,
    /// The store refused it.
    Refused,
}

/// What an acknowledgement means beyond the lane.
#[derive(Debug)]
pub(super) struct Answered {
    /// It was the last of what is held in memory because it need not be durable yet.
    pub(super) none_held: bool,
    /// The store had evicted it: what it counted as gone has arrived.
    pub(super) was_spared: bool,
    /// Of such records none is left.
    pub(super) none_spared: bool,
}

/// Of the records that the store evicted: those that are not lost.
#[derive(Debug)]
pub(super) struct NotLost {
    /// All of them but what went ahead of others.
    pub(super) seqs: BTreeSet<u64>,
    /// Still ready or in flight.
    pub(super) spared: u64,
    /// Answered before.
    pub(super) arrived: u64,
}

impl Lane {
    pub(super) fn new(range: LogRange) -> Self {
        Self {
            made: range.last,
            appended: range.last,
            committed: range.last,
            open: range.last,
            next_read: if range.records == 0 { range.last + 1 } else { range.first },
            ..Self::default()
        }
    }

    // Storing.

    /// Holds a record in memory that need not be durable yet.
    pub(super) fn hold(&mut self, seq: u64, bytes: Bytes) {
        self.volatile.insert(seq, Volatile::new(bytes, Why::Live, false));
        self.made = seq;
        self.open = seq;
        self.next_read = seq + 1;
        self.feed();
    }

    /// What is held in memory is on its way into the store from now on.
    pub(super) fn take_held(&mut self) -> Vec<(u64, Bytes)> {
        let held = self.volatile.iter_mut().filter(|(_, held)| held.why == Why::Live);
        held.map(|(seq, held)| {
            held.why = Why::Storing;
            (*seq, held.bytes.clone())
        })
        .collect()
    }

    /// Whether anything waits to be given to the store again.
    pub(super) fn has_unsent_refused(&self) -> bool {
        self.volatile.values().any(Volatile::is_to_be_tried)
    }

    /// What the store refused and was never sent: to be given to it again.
    pub(super) fn take_unsent(&mut self) -> impl Iterator<Item = (u64, Bytes)> + use<> {
        let (unsent, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            mem::take(&mut self.volatile).into_iter().partition(|(_, held)| held.is_to_be_tried());
        self.volatile = others;
        self.ready.retain(|(seq, _)| !unsent.contains_key(seq));
        unsent.into_iter().map(|(seq, held)| (seq, held.bytes))
    }

    /// The log took a record.
    pub(super) fn stored(&mut self, seq: u64) {
        if self.volatile.remove(&seq).is_some_and(|held| held.was_answered) {
            self.remember_answered(seq);
        }
        self.buffered.push_back(seq);
        self.buffered.drain(..self.buffered.len().saturating_sub(BUFFERED_MAX));
    }

    /// The store refused a record. Gives what memory held of it.
    pub(super) fn refused(&mut self, seq: u64) -> Option<Volatile> {
        self.ahead.forget(|other| other == seq);
        self.volatile.remove(&seq)
    }

    /// Keeps in memory what the store refused.
    pub(super) fn keep_refused(&mut self, seq: u64, bytes: Bytes, was_sent: bool) {
        self.volatile.insert(seq, Volatile::new(bytes, Why::Refused, was_sent));
        let all_read = self.is_all_read();
        // Not yet behind it with reading: a queue that was full may hold older ones that are still to be stored.
        self.open = self.open.max(seq);
        if all_read {
            self.feed();
        }
    }

    /// All up to here is durable.
    pub(super) fn committed_upto(&mut self, upto: u64) {
        self.committed = self.committed.max(upto);
        self.open = self.open.max(upto);
        let still = self.buffered.partition_point(|seq| *seq <= upto);
        self.buffered.drain(..still);
    }

    /// Records that only memory holds.
    pub(super) fn volatile(&self) -> usize {
        self.volatile.len()
    }

    /// Records that the store refused.
    pub(super) fn refused_count(&self) -> usize {
        self.volatile.values().filter(|held| held.why == Why::Refused).count()
    }

    /// Records that are lost if the log's buffer is.
    pub(super) fn lost_with_buffer(&self) -> usize {
        self.buffered.iter().filter(|seq| **seq > self.done && !self.ahead.has_passed(**seq)).count()
    }

    /// Whether a crash can't take a record any more: it is durable, or the broker has it.
    pub(super) fn is_safe(&self, seq: u64) -> bool {
        seq <= self.committed && !self.volatile.contains_key(&seq)
    }

    /// The same, also of what the store may never have had.
    pub(super) fn is_told(&self, seq: u64) -> bool {
        let is_done = seq <= self.committed.max(self.done) || self.ahead.has_passed(seq);
        is_done && !self.volatile.contains_key(&seq)
    }

    // Reading ahead.

    pub(super) fn has_unread(&self) -> bool {
        self.next_read <= self.open
    }

    /// Whether there is nothing to be read, nor just being read.
    pub(super) fn is_all_read(&self) -> bool {
        !self.has_unread() && self.reading.is_none()
    }

    /// Whether something is yet to be sent for the first time on this connection.
    pub(super) fn has_unsent(&self) -> bool {
        self.has_unread() || !self.ready.is_empty()
    }

    /// Whether everything was sent and acknowledged.
    pub(super) fn is_drained(&self) -> bool {
        self.open == self.made && !self.has_unread() && self.ready.is_empty() && self.inflight.is_empty()
    }

    /// Whether nothing of it is on its way, and all that is to be read of it lies in the store.
    pub(super) fn is_at_rest(&self) -> bool {
        let idle = self.reading.is_none() && self.ready.is_empty() && self.inflight.is_empty();
        // What the store has refused has a number of its own, and waits for its answer however long that takes.
        let elsewhere = self.volatile.values().all(|held| held.why == Why::Refused && held.was_sent);
        idle && elsewhere && self.has_unread()
    }

    /// Where a read is to begin, if it is time for one: it is under way from now on.
    pub(super) fn begin_read(&mut self) -> Option<u64> {
        if self.reading.is_some() || self.is_filled() || !self.has_unread() {
            return None;
        }
        self.reading = Some((self.next_read, self.open));
        // Together they wake the store's thread once.
        self.trim_due |= self.done_since_trim >= TRIM_BATCH / 2;
        Some(self.next_read)
    }

    /// No read is under way any more. Gives what the one that was had asked for.
    pub(super) fn end_read(&mut self) -> (u64, u64) {
        self.reading.take().unwrap_or_default()
    }

    /// Whether reading has gone back behind a page since it was asked for.
    pub(super) const fn was_rewound(&self, (from, _): (u64, u64)) -> bool {
        self.next_read < from
    }

    /// What is not gone though the store may not have it: of a page, in memory, or with the broker.
    pub(super) fn there(&self, records: &[(u64, Bytes)]) -> BTreeSet<u64> {
        let read = records.iter().map(|(seq, _)| *seq);
        let held = self.volatile.keys().chain(&self.spared).copied();
        read.chain(held).chain(self.ahead.known()).collect()
    }

    /// Takes a page that was asked for, and gives the seqs that it speaks of. A page of an older reading that was
    /// rewound meanwhile is thrown away.
    pub(super) fn take_page(
        &mut self,
        (from, asked_upto): (u64, u64),
        records: Vec<(u64, Bytes)>,
    ) -> RangeInclusive<u64> {
        let (next_read, open) = (self.next_read, self.open);
        // An empty page of a range that was open: what was there is gone, or only memory has it. Go on behind it.
        let last = records.iter().rfind(|(seq, _)| *seq <= open).map_or(asked_upto, |(seq, _)| *seq);
        // To take it would be to pass over what the rewinding went back for.
        if self.was_rewound((from, asked_upto)) {
            return from..=last;
        }
        for (seq, bytes) in records {
            if seq >= next_read && seq <= open {
                self.put_ready(seq, bytes);
            }
        }
        self.next_read = self.next_read.max(last + 1);
        if !self.has_unread() {
            self.feed();
        }
        from..=last
    }

    /// Whether enough was read ahead: in number, or in bytes where a message is there.
    fn is_filled(&self) -> bool {
        let bytes = || self.ready.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let count = self.ready.len();
        count >= READ_AHEAD || (count >= READ_LOW_WATER && bytes() >= READ_BYTES_MAX)
    }

    /// Lets what only memory holds take its place among what is ready.
    pub(super) fn feed(&mut self) {
        let held = mem::take(&mut self.volatile);
        for (seq, held) in held.iter().filter(|(_, held)| !held.was_answered) {
            self.put_ready(*seq, held.bytes.clone());
        }
        self.volatile = held;
    }

    /// In its place, once: the store may give again what memory gave before.
    fn put_ready(&mut self, seq: u64, bytes: Bytes) {
        if self.ahead.has_passed(seq) {
            self.done = self.done.max(seq);
            self.trim_due |= self.inflight.is_empty();
        } else if let (Err(at), false) = (self.place(seq), self.inflight.contains(seq)) {
            order::put(&mut self.ready, at, (seq, bytes));
        }
    }

    /// Where a record is among what is ready, or else where it belongs.
    fn place(&self, seq: u64) -> Result<usize, usize> {
        order::place(&self.ready, seq, |(other, _)| *other)
    }

    // Sending.

    /// A record is to be sent before older ones.
    pub(super) fn put_ahead(&mut self, seq: u64, haste: Haste, bytes: Bytes) {
        self.ahead.insert(seq, haste, bytes, &self.inflight);
    }

    /// What goes next of those that `may_go`: of what goes ahead and is durable, else the oldest that was read. If that
    /// may not, a durable one behind it goes ahead.
    pub(super) fn next(&self, may_go: impl Fn(&Bytes) -> bool) -> Option<(u64, Bytes)> {
        let is_durable = |seq: u64| seq <= self.committed;
        let ahead = self.ahead.next(&self.inflight, |seq, bytes| is_durable(seq) && may_go(bytes));
        let next = ahead.or_else(|| self.ready.front().filter(|(_, bytes)| may_go(bytes)).cloned());
        if next.is_some() || !self.ahead.has_room(&self.inflight) {
            return next;
        }
        let mut behind = self.ready.iter().skip(1).take_while(|(seq, _)| is_durable(*seq));
        behind.find(|(_, bytes)| may_go(bytes)).cloned()
    }

    /// A record is on its way, whether or not it was ready.
    pub(super) fn sent(&mut self, seq: u64) {
        if let Some((at, (_, bytes))) = self.place(seq).ok().and_then(|at| Some((at, self.ready.remove(at)?))) {
            if at > 0 && !self.ahead.holds(seq) {
                self.put_ahead(seq, Haste::Live, bytes);
            }
        }
        self.note_sent(seq);
    }

    /// The first so many of those that are ready are on their way.
    pub(super) fn sent_ready(&mut self, records: usize) {
        for _ in 0..records {
            let Some((seq, _)) = self.ready.pop_front() else { break };
            self.note_sent(seq);
        }
    }

    fn note_sent(&mut self, seq: u64) {
        self.inflight.insert(seq);
        if let Some(volatile) = self.volatile.get_mut(&seq) {
            volatile.was_sent = true;
        }
    }

    /// The broker took a record over; `None` if it was not on its way.
    pub(super) fn acknowledged(&mut self, seq: u64) -> Option<Answered> {
        if !self.inflight.remove(seq) {
            return None;
        }
        self.again.remove(&seq);
        let held = self.volatile.get_mut(&seq);
        let why = held.map(|held| {
            held.was_answered = true;
            held.why
        });
        // What is on its way into the store is remembered until it is there, or was refused.
        if why != Some(Why::Storing) {
            self.volatile.remove(&seq);
        }
        let was_held = why == Some(Why::Live);
        // The log will come to it yet, unless the store gave it up.
        let is_unread = || self.oldest().is_some_and(|oldest| oldest <= seq);
        let passed = self.ahead.holds(seq) && !self.spared.contains(&seq) && is_unread();
        self.ahead.answered(seq, passed);
        if !passed {
            self.done = self.done.max(seq);
        }
        // With the last of what it went before, a record that went ahead is done with too.
        let went_ahead = self.ahead.last_passed(|| self.oldest()).filter(|last| *last > self.done);
        if let Some(last) = went_ahead {
            self.done = last;
            self.done_since_trim += 1;
        }
        // What the store never had needs no trimming there.
        self.done_since_trim += u64::from(!was_held);
        let was_spared = self.spared.remove(&seq);
        if why.is_none() && !passed && !was_spared {
            self.remember_answered(seq);
        }
        let all_answered = self.inflight.is_empty() && self.done_since_trim > 0;
        self.trim_due |= self.done_since_trim >= TRIM_BATCH || all_answered;
        let none_held = was_held && self.volatile.is_empty();
        Some(Answered { none_held, was_spared, none_spared: self.spared.is_empty() })
    }

    /// A record in flight has to be sent again, and with it, in order, all that came after it. Gives those that can't
    /// be.
    pub(super) fn rewind(&mut self, seq: u64) -> BTreeSet<u64> {
        // What was done with otherwise meanwhile will not be.
        self.again.retain(|other| *other > self.done);
        self.again.extend(self.inflight.split_off(seq));
        // If it went ahead, older ones are still waiting.
        self.ready.retain(|(other, _)| *other < seq);
        self.next_read = seq.min(self.next_read);
        // An answer out of order may have come for a later one: that does not answer for those before it.
        self.done = self.done.min(seq.saturating_sub(1));
        self.answered.retain(|other| *other < seq);
        // The store can't give these a second time, unless they are still on their way. Some may have arrived: better
        // counted twice than not at all.
        let (inflight, ready) = (&self.inflight, &self.ready);
        let is_here = |seq: &u64| inflight.contains(*seq) || ready.iter().any(|(other, _)| other == seq);
        let (spared, gone): (BTreeSet<u64>, BTreeSet<u64>) = mem::take(&mut self.spared).into_iter().partition(is_here);
        self.spared = spared;
        self.ahead.forget(|seq| gone.contains(&seq));
        gone
    }

    /// The lowest that is yet to be sent or answered.
    pub(super) fn oldest(&self) -> Option<u64> {
        let unread = self.has_unread().then_some(self.next_read);
        self.oldest_taken().into_iter().chain(unread).min()
    }

    /// The same of those that were read already.
    pub(super) fn oldest_taken(&self) -> Option<u64> {
        self.inflight.first().into_iter().chain(self.ready.front().map(|(seq, _)| *seq)).min()
    }

    /// The log has a record that was answered, and will have it until it is trimmed.
    fn remember_answered(&mut self, seq: u64) {
        if self.answered.len() < ANSWERED_MAX {
            self.answered.push(seq);
        }
    }

    // Giving space back.

    /// Up to where the store is to trim, if it is time to.
    pub(super) fn begin_trim(&mut self) -> Option<u64> {
        if !self.trim_due {
            return None;
        }
        let upto = self.trimmable();
        if upto <= self.trimmed {
            return None;
        }
        // What is done with above something that isn't yet is trimmed when that is: perhaps nothing else will ask.
        self.trim_due = upto < self.done;
        self.done_since_trim = 0;
        self.trimmed = upto;
        self.ahead.trimmed(upto);
        Some(upto)
    }

    /// The log has deleted what lay up to here.
    pub(super) fn trimmed_upto(&mut self, upto: u64) {
        self.answered.retain(|seq| *seq > upto);
    }

    /// The log could not delete it: [`Lane::trim_again`] is when to ask once more.
    pub(super) fn trim_failed(&mut self) {
        self.trim_failed = true;
        self.trim_due = false;
        self.trimmed = 0;
    }

    /// A trim that failed is due again.
    pub(super) fn trim_again(&mut self) {
        self.trim_due |= mem::take(&mut self.trim_failed);
    }

    /// What lies unread up to here is done with: others have taken its place. Gives which of them were sent.
    pub(super) fn replaced(&mut self, upto: u64) -> BTreeSet<u64> {
        self.next_read = self.next_read.max(upto + 1);
        self.done = self.done.max(upto);
        self.done_since_trim += 1;
        self.trim_due = true;
        let later = self.again.split_off(&(upto + 1));
        mem::replace(&mut self.again, later)
    }

    /// The log has deleted these to make room.
    pub(super) fn evicted(&mut self, range: &RangeInclusive<u64>) -> NotLost {
        let on_the_way = self.inflight.iter().chain(self.ready.iter().map(|(seq, _)| seq));
        // What only memory holds lay between them, and not in the log: the store answers in order.
        let was_stored = |seq: &&u64| range.contains(*seq) && !self.volatile.contains_key(seq);
        let spared: Vec<u64> = on_the_way.filter(was_stored).copied().collect();
        self.next_read = self.next_read.max(range.end().saturating_add(1));
        let inflight = &self.inflight;
        self.ahead.forget(|seq| range.contains(&seq) && !inflight.contains(seq));
        let answered: Vec<u64> = self.answered.iter().filter(|seq| range.contains(seq)).copied().collect();
        self.answered.retain(|seq| !range.contains(seq));
        let arrived = (self.ahead.trimmed(*range.end()) + answered.len()) as u64;
        let seqs = spared.iter().copied().chain(answered).collect();
        let not_lost = NotLost { seqs, spared: spared.len() as u64, arrived };
        self.spared.extend(spared);
        not_lost
    }

    /// Everything up to here may be deleted: what lies below the lowest that is yet to be sent or answered. What only
    /// memory holds may have gone out before what the store could not read.
    fn trimmable(&self) -> u64 {
        self.oldest().map_or(self.done, |oldest| oldest.saturating_sub(1).min(self.done))
    }
}
