//! The durable send queue: a lane for each of the store's logs (`lane`), the account of what was given up (`losses`),
//! and what is done where the disk is full (`room`, `thinning`). Decides what is appended, when it is committed, what
//! is read ahead, what may be trimmed and what is given up for room; and what stays in memory, because the broker takes
//! it sooner than it would have to be durable, or because the store refuses it. Sends nothing itself, and trims only
//! what was acknowledged or is counted as dropped.

mod ahead;
mod lane;
mod losses;
mod order;
mod room;
#[cfg(test)]
mod tests;
mod thinning;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use bytes::Bytes;

pub use self::ahead::Haste;
use self::lane::Lane;
use self::losses::Losses;
pub use self::losses::{Gone, Lost, THINNED, Untold, add_untold};
use self::thinning::Thinning;
use super::effects::{Effects, Purpose};
use super::io::{LogLevel, Recovered, StoreFault, StoreOp, StoreReply, StoreStats};
use super::record::{Class, Record};
use super::time::Mono;

/// Records read ahead of sending, per lane.
const READ_RECORDS_MAX: usize = 256;
/// Bytes read ahead of sending, per lane.
const READ_BYTES_MAX: usize = 256 * 1024;
/// What travels in one message is read before it is sent.
pub(super) const READ_LOW_WATER: usize = 60;
/// A lane is read ahead again when it holds fewer records than this: the store reads the next while the link writes
/// these.
const READ_AHEAD: usize = 3 * READ_LOW_WATER;
/// Records that only memory holds, until they are sent or the store takes them.
const VOLATILE_RECORDS_MAX: usize = 64;

/// The limits that the config sets.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Outbox and keyed state together.
    pub max_bytes: u64,
    /// What must stay free on the file system.
    pub min_free_bytes: u64,
    /// The longest that a telemetry record waits to become durable.
    pub commit_interval: Duration,
}

/// The outbox.
#[derive(Debug)]
pub struct Outbox {
    limits: Limits,
    lanes: [Lane; Class::COUNT],
    stats: StoreStats,
    commit_at: Option<Mono>,
    /// Records handed to the store of which it has not said yet that it took them.
    appending: usize,
    /// Commits of which it has not said yet how they ended.
    committing: usize,
    evicting: bool,
    retry_at: Option<Mono>,
    /// When what is held in memory has to be stored.
    store_at: Option<Mono>,
    trim_at: Option<Mono>,
    /// The store failed to read or to make room: it is left alone until then.
    rest_until: Option<Mono>,
    losses: Losses,
    last_fault: Option<StoreFault>,
    /// The last commit failed.
    commit_failed: bool,
    /// The link stands.
    online: bool,
    thinning: Thinning,
}

impl Outbox {
    /// Starts with what the store holds, and with what was given up before: the total by reason, and how much of what
    /// the store evicted is in it. What it evicted beyond that, a crash kept from being counted: it is counted now.
    #[must_use]
    pub fn new(
        limits: Limits,
        recovered: &Recovered,
        dropped: BTreeMap<String, u64>,
        accounted: [u64; Class::COUNT],
    ) -> Self {
        Self {
            limits,
            lanes: recovered.logs.map(Lane::new),
            stats: recovered.stats,
            commit_at: None,
            appending: 0,
            committing: 0,
            evicting: false,
            retry_at: None,
            store_at: None,
            trim_at: None,
            rest_until: None,
            losses: Losses::new(recovered.logs.map(|log| log.evicted), dropped, accounted),
            last_fault: None,
            commit_failed: false,
            online: false,
            thinning: Thinning::default(),
        }
    }

    /// Hands a record to the store. It is committed within the commit interval: what can't wait that long is followed
    /// by an [`Outbox::commit`].
    pub fn append(&mut self, now: Mono, seq: u64, record: &Record, effects: &mut Effects) {
        self.append_bytes(now, seq, record.class(), record.encode(), effects);
    }

    /// The same for a record that is sent before older ones of its class as soon as it is durable.
    pub fn append_ahead(&mut self, now: Mono, seq: u64, haste: Haste, record: &Record, effects: &mut Effects) {
        let (class, bytes) = (record.class(), record.encode());
        self.lane(class).put_ahead(seq, haste, bytes.clone());
        self.append_bytes(now, seq, class, bytes, effects);
    }

    /// A record that the log may have had before this start is sent before older ones, if it is still there.
    pub fn hurry(&mut self, seq: u64, record: &Record) {
        let lane = self.lane(record.class());
        if (lane.next_read..=lane.open).contains(&seq) {
            lane.put_ahead(seq, Haste::Alarm, record.encode());
        }
    }

    /// Takes a sample over a link that stands. It is held in memory for as long as it need not be durable: mostly the
    /// broker acknowledges it before, and it never wears the flash.
    pub fn append_live(&mut self, now: Mono, seq: u64, sample: &Record, effects: &mut Effects) {
        if self.can_hold() {
            self.hold(now, seq, sample.encode());
        } else {
            self.append(now, seq, sample, effects);
        }
    }

    /// Gives the store what is held in memory: its time is over, the link is gone, or the agent ends. It has to be
    /// durable as early as if the store had had it from the beginning.
    pub fn store_held(&mut self, now: Mono, effects: &mut Effects) {
        let Some(due) = self.store_at.take() else { return };
        for class in Class::ALL {
            for (seq, bytes) in self.lane(class).take_held() {
                self.submit(now, seq, class, bytes, effects);
            }
        }
        self.commit_at = self.commit_at.map(|at| at.min(due));
    }

    /// Makes everything appended so far durable.
    pub fn commit(&mut self, effects: &mut Effects) {
        self.commit_at = None;
        self.committing += 1;
        let upto = Class::ALL.map(|class| class.of(&self.lanes).appended);
        effects.store(Purpose::Commit { upto }, StoreOp::Commit);
    }

    /// What the store refused is given to it once more now: later there is nobody to do so.
    pub fn retry_now(&mut self, now: Mono) {
        self.retry_at = self.retry_at.map(|at| at.min(now));
    }

    /// Whether the store has said of all that it was given what came of it, and none of it is to be tried again at
    /// once.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.appending == 0 && self.committing == 0 && !self.evicting
    }

    /// Does what is due. `renumber` gives a record that is tried again another number.
    pub fn poll(&mut self, now: Mono, mut renumber: impl FnMut(u64) -> u64, effects: &mut Effects) {
        if self.rest_until.is_some_and(|until| until <= now) {
            self.rest_until = None;
            self.make_room(effects);
        }
        if self.store_at.is_some_and(|at| at <= now) {
            self.store_held(now, effects);
        }
        if self.commit_at.is_some_and(|at| at <= now) {
            self.commit(effects);
        }
        if self.retry_at.is_some_and(|at| at <= now) && !self.evicting {
            self.retry_at = None;
            for class in Class::ALL {
                for (seq, bytes) in self.lane(class).take_unsent() {
                    self.append_bytes(now, renumber(seq), class, bytes, effects);
                }
            }
            self.commit(effects);
        }
        if self.trim_at.is_some_and(|at| at <= now) {
            self.trim_at = None;
            self.lanes.iter_mut().for_each(Lane::trim_again);
        }
    }

    /// When [`Outbox::poll`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let retry = self.retry_at.filter(|_| !self.evicting);
        let lost = self.losses.deadline();
        [self.commit_at, self.store_at, retry, self.trim_at, self.rest_until, lost].into_iter().flatten().min()
    }

    /// Keeps the read-ahead of a lane filled.
    pub fn fill(&mut self, class: Class, effects: &mut Effects) {
        let resting = self.rest_until.is_some();
        // While nothing can be made durable what is there twice is sent twice, rather than not at all.
        let thinned = self.thinning.holds(class) || (self.is_half_thinned(class) && !self.commit_failed);
        if resting || thinned {
            return;
        }
        let Some(from) = self.lane(class).begin_read() else { return };
        let op = StoreOp::Read { class, from, records_max: READ_RECORDS_MAX, bytes_max: READ_BYTES_MAX };
        effects.store(Purpose::Read { class }, op);
    }

    /// The records of a lane that were read already, in order, up to a seq.
    pub fn ready(&self, class: Class, upto: u64) -> impl Iterator<Item = (u64, &Bytes)> {
        let ready = class.of(&self.lanes).ready.iter();
        ready.map(|(seq, bytes)| (*seq, bytes)).take_while(move |(seq, _)| *seq <= upto)
    }

    /// Whether more that may be sent with what is ready is still being read.
    #[must_use]
    pub fn is_filling(&self, class: Class, upto: u64) -> bool {
        let lane = class.of(&self.lanes);
        self.rest_until.is_none() && lane.ready.len() < READ_LOW_WATER && lane.next_read <= lane.open.min(upto)
    }

    /// The first so many records that [`Outbox::ready`] showed are on their way.
    pub fn sent(&mut self, class: Class, records: usize) {
        self.lane(class).sent_ready(records);
    }

    /// The record of a class that goes next.
    #[must_use]
    pub fn next(&self, class: Class) -> Option<(u64, Bytes)> {
        self.next_of(class, |_| true)
    }

    /// The same of those that `may_go`: what may not is left behind, as far as that can be remembered.
    pub fn next_of(&self, class: Class, may_go: impl Fn(&Bytes) -> bool) -> Option<(u64, Bytes)> {
        class.of(&self.lanes).next(may_go)
    }

    /// That record is on its way.
    pub fn sent_next(&mut self, class: Class, seq: u64) {
        self.lane(class).sent(seq);
    }

    /// Whether a record was sent before on a connection that broke, or was refused for then, and is yet to be answered.
    #[must_use]
    pub fn was_sent(&self, class: Class, seq: u64) -> bool {
        class.of(&self.lanes).again.contains(&seq)
    }

    /// Whether a record was answered while older ones of its class are not.
    #[must_use]
    pub fn has_passed(&self, class: Class, seq: u64) -> bool {
        class.of(&self.lanes).ahead.has_passed(seq)
    }

    /// Whether a record was sent and is not yet answered, nor to be sent again.
    #[must_use]
    pub fn is_in_flight(&self, class: Class, seq: u64) -> bool {
        class.of(&self.lanes).inflight.contains(seq)
    }

    /// The broker took a record over.
    pub fn acknowledged(&mut self, class: Class, seq: u64) {
        let Some(answered) = self.lane(class).acknowledged(seq) else { return };
        if answered.none_held {
            self.store_at = None;
        }
        if answered.was_spared {
            self.losses.account(class, 1);
            // Saved once, not with each of them: a crash before it counts some as dropped that did arrive.
            if answered.none_spared {
                self.losses.save_again();
            }
        }
    }

    /// A record in flight is given up, and counted. One that is to be sent again is not: its next answer decides.
    pub fn set_aside(&mut self, class: Class, seq: u64, reason: &'static str) {
        if !self.is_in_flight(class, seq) {
            return;
        }
        if class == Class::Results {
            // It would be told in the same lane, and be refused for the same reason, for ever.
            self.count_dropped(reason, 1);
        } else {
            self.losses.lose(class, reason, 1, seq..=seq);
        }
        self.acknowledged(class, seq);
    }

    /// Gives back the space of what is done with. To be called after what was dropped is on its way into the store: a
    /// crash between the two counts a record that is sent again, the other way round one would be gone and not counted.
    pub fn trim(&mut self, effects: &mut Effects) {
        for class in Class::ALL {
            let Some(upto) = self.lane(class).begin_trim() else { continue };
            effects.store(Purpose::Trim { class, upto }, StoreOp::Trim { class, upto });
        }
    }

    /// A record in flight has to be sent again, and with it, in order, all that came after it.
    pub fn rewind(&mut self, class: Class, seq: u64) {
        let gone = self.lane(class).rewind(seq);
        let (Some(first), Some(last)) = (gone.first(), gone.last()) else { return };
        self.losses.account(class, gone.len() as u64);
        self.losses.lose(class, "quota", gone.len() as u64, *first..=*last);
        for seq in gone {
            self.losses.name(class, seq..=seq, BTreeSet::new());
        }
    }

    /// The broker has accepted us.
    pub const fn connected(&mut self) {
        self.online = true;
    }

    /// The connection is gone: everything in flight has to be sent again.
    pub fn rewind_all(&mut self) {
        self.online = false;
        for class in Class::ALL {
            if let Some(oldest) = self.lane(class).oldest_taken() {
                self.rewind(class, oldest);
            }
        }
    }

    /// An append ended.
    pub fn appended(
        &mut self,
        now: Mono,
        (class, seq, bytes): (Class, u64, Bytes),
        fault: Option<StoreFault>,
        effects: &mut Effects,
    ) {
        self.appending = self.appending.saturating_sub(1);
        let Some(fault) = fault else {
            self.lane(class).stored(seq);
            // It may have come no further than a buffer.
            if !self.commit_failed {
                self.recovered(effects);
            }
            return;
        };
        self.report(&fault, effects);
        let held = self.lane(class).refused(seq);
        if held.as_ref().is_some_and(|held| held.was_answered) {
            return;
        }
        let was_sent = held.is_some_and(|held| held.was_sent);
        if self.volatile() >= VOLATILE_RECORDS_MAX {
            self.losses.lose(class, "store_failed", 1, seq..=seq);
            return self.losses.name(class, seq..=seq, BTreeSet::new());
        }
        self.lane(class).keep_refused(seq, bytes, was_sent);
        self.retry_at = Some(now.after(StoreFault::RETRY_AFTER));
        if matches!(fault, StoreFault::NoSpace { .. }) {
            self.evict(Some(class), effects);
        }
    }

    /// A commit ended.
    pub fn committed(
        &mut self,
        now: Mono,
        upto: [u64; Class::COUNT],
        fault: Option<&StoreFault>,
        effects: &mut Effects,
    ) {
        self.committing = self.committing.saturating_sub(1);
        if let Some(fault) = fault {
            self.report(fault, effects);
            self.commit_at = Some(now.after(StoreFault::RETRY_AFTER));
            self.commit_failed = true;
            self.thinning.commit_failed();
            if !matches!(fault, StoreFault::Busy) {
                for (lane, upto) in self.lanes.iter_mut().zip(upto) {
                    lane.open = lane.open.max(upto);
                }
            }
            if matches!(fault, StoreFault::NoSpace { .. }) {
                // A small append succeeds in the log's buffer: here is the first that a full disk is heard of.
                let waits = |class: &Class| class.of(&self.lanes).committed < *class.of(&upto);
                let class = Class::ALL.into_iter().find(waits).unwrap_or(Class::Telemetry);
                self.evict(Some(class), effects);
            }
            return;
        }
        if mem::take(&mut self.commit_failed) {
            self.recovered(effects);
        }
        for (lane, upto) in self.lanes.iter_mut().zip(upto) {
            lane.committed_upto(upto);
        }
        self.thin_committed(effects);
    }

    /// A trim ended. One that failed is repeated even if no acknowledgement comes after it: the next start would send
    /// its records again.
    pub fn trimmed(
        &mut self,
        now: Mono,
        (class, upto): (Class, u64),
        fault: Option<&StoreFault>,
        effects: &mut Effects,
    ) {
        let Some(fault) = fault else {
            return self.lane(class).trimmed_upto(upto);
        };
        self.report(fault, effects);
        self.lane(class).trim_failed();
        self.trim_at = Some(now.after(StoreFault::RETRY_AFTER));
    }

    /// A read ended.
    pub fn page(&mut self, now: Mono, class: Class, result: Result<StoreReply, StoreFault>, effects: &mut Effects) {
        let lane = self.lane(class);
        let asked = lane.end_read();
        match result {
            Ok(StoreReply::Page { records, damaged }) => {
                lane.met_damage |= damaged > 0;
                // It is counted once, with the first page of its segment; the holes that it leaves are seen here and
                // there from then on, and are named where no page of before a rewind is thrown away.
                let is_taken = !lane.was_rewound(asked);
                let is_named = class == Class::Results && lane.met_damage && is_taken;
                let there = is_named.then(|| lane.there(&records));
                let range = lane.take_page(asked, records);
                self.losses.lose(class, "corrupt", damaged, range.clone());
                if let Some(there) = there {
                    self.losses.name(class, range, there);
                }
            }
            Ok(_) => {}
            Err(fault) => {
                lane.feed();
                self.report(&fault, effects);
                self.rest_until = Some(now.after(StoreFault::RETRY_AFTER));
            }
        }
    }

    /// Counts records that were given up.
    pub fn count_dropped(&mut self, reason: &'static str, records: u64) {
        self.losses.count(reason, records);
    }

    /// Counts what the store refused: at the end it goes with the memory that holds it. A result among it is told again
    /// out of the journal, so it stays here and isn't taken for safe: better counted and told than neither.
    pub fn count_refused(&mut self) {
        let refused: usize = self.lanes.iter().map(Lane::refused_count).sum();
        self.count_dropped("store_failed", (refused + self.buffered()) as u64);
    }

    /// What the log took, and a disk that takes no commit has not.
    fn buffered(&self) -> usize {
        if self.commit_failed { self.lanes.iter().map(Lane::lost_with_buffer).sum() } else { 0 }
    }

    /// The results that were given up since this was last asked.
    pub fn take_gone(&mut self) -> Vec<Gone> {
        self.losses.take_gone()
    }

    /// So many results can be told again with hope: there is somebody to hear them, none waits before them, and the
    /// store need not take them.
    #[must_use]
    pub fn room_to_tell_again(&self) -> usize {
        let is_open = self.online && self.is_drained(Class::Results);
        if is_open { VOLATILE_RECORDS_MAX.saturating_sub(self.volatile()) / 2 } else { 0 }
    }

    /// So many results that nothing else has can be put here: if the store refused them all, memory would hold them. To
    /// one that is known to fail they are given as [`Outbox::room_to_tell_again`] says.
    #[must_use]
    pub fn room_for_answers(&self) -> usize {
        if self.last_fault.is_some() {
            return self.room_to_tell_again();
        }
        (VOLATILE_RECORDS_MAX / 2).saturating_sub(self.volatile() + self.appending)
    }

    /// What was thinned out since this was last asked.
    pub fn take_thinned(&mut self) -> Untold {
        self.losses.take_thinned()
    }

    /// What was given up since this was last asked; nothing if that was just now, or if what is told now would be lost
    /// as well.
    pub fn take_lost(&mut self, now: Mono, online: bool) -> Untold {
        let would_be_lost = self.last_fault.is_some() && !online;
        if !self.losses.begin_telling(now) || would_be_lost { Untold::new() } else { self.losses.take_lost() }
    }

    /// What was given up, or thinned out, and is yet to be told: to be saved with what was given up in all.
    #[must_use]
    pub fn untold(&self) -> Untold {
        self.losses.untold()
    }

    /// Begins with what the run before has saved of that.
    pub fn owe(&mut self, untold: Untold) {
        self.losses.owe(untold);
    }

    /// What it holds in memory: a name, how much, and the bound.
    #[must_use]
    pub fn bounds(&self) -> [(&'static str, usize, usize); 3] {
        let ready = self.lanes.iter().map(|lane| lane.ready.len()).max().unwrap_or(0);
        let (ahead, ahead_max) = Class::Events.of(&self.lanes).ahead.bound();
        [
            ("records read ahead in a lane", ready, READ_RECORDS_MAX + READ_AHEAD),
            ("records that go before older ones", ahead, ahead_max),
            ("records that only memory holds", self.volatile(), VOLATILE_RECORDS_MAX),
        ]
    }

    /// What was given up since the store was made, by reason.
    #[must_use]
    pub const fn dropped(&self) -> &BTreeMap<String, u64> {
        self.losses.dropped()
    }

    /// The same, and how much of what the store evicted is in it, if something changed since it was last asked: to be
    /// saved together.
    pub fn dropped_to_save(&mut self) -> Option<(&BTreeMap<String, u64>, [u64; Class::COUNT])> {
        self.losses.dropped_to_save()
    }

    /// How much of what the store evicted is in what was given up, by class.
    #[must_use]
    pub const fn accounted(&self) -> [u64; Class::COUNT] {
        self.losses.accounted()
    }

    /// They could not be saved.
    pub fn save_dropped_again(&mut self) {
        self.losses.save_again();
    }

    /// Whether records up to this seq still wait for their acknowledgement.
    #[must_use]
    pub fn is_behind(&self, class: Class, upto: u64) -> bool {
        class.of(&self.lanes).oldest().is_some_and(|oldest| oldest <= upto)
    }

    /// Records not yet acknowledged.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.stats.records.iter().sum::<u64>() + self.volatile() as u64
    }

    /// Records that only memory holds: the store refused them, or it isn't time yet to store them.
    #[must_use]
    pub fn volatile(&self) -> usize {
        self.lanes.iter().map(Lane::volatile).sum()
    }

    /// Records that a crash would take with it: these, and those that the log has taken while it fails.
    #[must_use]
    pub fn in_memory_only(&self) -> usize {
        self.volatile() + self.buffered()
    }

    /// How the store stands.
    #[must_use]
    pub const fn store_stats(&self) -> &StoreStats {
        &self.stats
    }

    /// The highest seq of a lane that was made.
    #[must_use]
    pub const fn made_upto(&self, class: Class) -> u64 {
        class.of(&self.lanes).made
    }

    /// The highest seq of a lane that may be sent.
    #[must_use]
    pub const fn sendable(&self, class: Class) -> u64 {
        class.of(&self.lanes).open
    }

    /// Whether a crash can't take a record any more: it is durable, or the broker has it.
    #[must_use]
    pub fn is_safe(&self, class: Class, seq: u64) -> bool {
        class.of(&self.lanes).is_safe(seq)
    }

    /// The same, also of what came no further than to the broker.
    #[must_use]
    pub fn is_told(&self, class: Class, seq: u64) -> bool {
        class.of(&self.lanes).is_told(seq)
    }

    /// Whether something of a class is yet to be sent for the first time on this connection.
    #[must_use]
    pub fn has_unsent(&self, class: Class) -> bool {
        class.of(&self.lanes).has_unsent()
    }

    /// Whether everything of a class was sent and acknowledged.
    #[must_use]
    pub fn is_drained(&self, class: Class) -> bool {
        class.of(&self.lanes).is_drained()
    }

    /// Why the store doesn't work, if it doesn't.
    #[must_use]
    pub const fn fault(&self) -> Option<&StoreFault> {
        self.last_fault.as_ref()
    }

    fn can_hold(&self) -> bool {
        let lane = Class::Telemetry.of(&self.lanes);
        let older = Class::SAMPLES.into_iter().filter(|class| *class != Class::Telemetry);
        if older.into_iter().any(|class| self.has_unsent(class)) {
            return false;
        }
        // What waits in the store goes first, and what is on its way there: it would be passed over.
        let is_drained = lane.is_all_read() && lane.open == lane.made;
        is_drained && self.last_fault.is_none() && self.volatile() < VOLATILE_RECORDS_MAX
    }

    fn hold(&mut self, now: Mono, seq: u64, bytes: Bytes) {
        self.lane(Class::Telemetry).hold(seq, bytes);
        self.store_at.get_or_insert(now.after(self.limits.commit_interval));
    }

    fn append_bytes(&mut self, now: Mono, seq: u64, class: Class, bytes: Bytes, effects: &mut Effects) {
        if class == Class::Telemetry {
            // What is held is older: a log takes its records in order.
            self.store_held(now, effects);
            // So is what the store has refused. It gets a later number when it is tried again, and this one with it.
            if self.lane(class).has_unsent_refused() && self.volatile() < VOLATILE_RECORDS_MAX {
                let lane = self.lane(class);
                lane.made = seq;
                return lane.keep_refused(seq, bytes, false);
            }
        }
        self.lane(class).made = seq;
        self.submit(now, seq, class, bytes, effects);
    }

    fn submit(&mut self, now: Mono, seq: u64, class: Class, bytes: Bytes, effects: &mut Effects) {
        let lane = self.lane(class);
        lane.appended = seq;
        if lane.next_read == 0 {
            lane.next_read = seq;
        }
        self.appending += 1;
        effects.store(Purpose::Append { class, seq, bytes: bytes.clone() }, StoreOp::Append { class, seq, bytes });
        self.commit_at.get_or_insert(now.after(self.limits.commit_interval));
    }

    /// One line when the store begins to fail, and one when it is well again: not one a record.
    fn report(&mut self, fault: &StoreFault, effects: &mut Effects) {
        // The text names the record.
        if self.last_fault.as_ref().map(mem::discriminant) != Some(mem::discriminant(fault)) {
            effects.log(
                LogLevel::Error,
                format!("store: {fault}; what can't be stored is sent from memory, or counted as dropped"),
            );
            self.last_fault = Some(fault.clone());
        }
    }

    fn recovered(&mut self, effects: &mut Effects) {
        if self.last_fault.take().is_some() {
            effects.log(LogLevel::Info, "store: works again");
        }
    }

    const fn lane(&mut self, class: Class) -> &mut Lane {
        class.of_mut(&mut self.lanes)
    }
}
