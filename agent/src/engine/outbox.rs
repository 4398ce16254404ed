//! The durable send queue: a lane for each of the store's logs. Decides what is appended,
//! when it is committed, what is read ahead, what may be trimmed and what is given up for room; and what stays in memory,
//! because the broker takes it sooner than it would have to be durable, or because the store refuses it. Sends nothing
//! itself, and trims only what was acknowledged or is counted as dropped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;

use self::ahead::Ahead;
pub use self::thinning::REASON as THINNED;
use self::thinning::Thinning;
use super::effects::{Effects, Purpose};
use super::io::{LogLevel, LogRange, Recovered, StoreFault, StoreOp, StoreReply, StoreStats};
use super::record::{Class, Record};
use super::time::Mono;

/// Records read ahead of sending, per lane.
const READ_RECORDS_MAX: usize = 256;
/// Bytes read ahead of sending, per lane.
const READ_BYTES_MAX: usize = 128 * 1024;
/// What travels in one message is read before it is sent.
pub(super) const READ_LOW_WATER: usize = 60;
/// A lane is read ahead again when it holds fewer records than this: the store reads the next while the link writes these.
const READ_AHEAD: usize = 3 * READ_LOW_WATER;
/// Records of a log that may lie in its buffer only: more have come through it.
const BUFFERED_MAX: usize = 4_096;
/// What the outbox may hold even where the disk is short of free space: enough for live records to get through. Giving
/// them up would free next to nothing, and make the agent mute.
const LIVE_BYTES: u64 = 256 * 1024;
/// What files take beside what is in them (their last blocks, the cursors), and no more than this part of a small
/// store.
const FILES_BYTES: u64 = 128 * 1024;
const FILES_SHARE: u64 = 8;
/// Acknowledged records that may wait before space is given back.
const TRIM_BATCH: u64 = 64;
/// How many of them are remembered where the log fails to give it back: of more, an eviction counts the rest as dropped.
const ANSWERED_MAX: usize = 4_096;
/// Records that only memory holds, until they are sent or the store takes them.
const VOLATILE_RECORDS_MAX: usize = 64;
/// What was given up is told at most this often.
const LOST_PAUSE: Duration = Duration::from_secs(60);

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
    evicting: bool,
    retry_at: Option<Mono>,
    /// When what is held in memory has to be stored.
    store_at: Option<Mono>,
    trim_at: Option<Mono>,
    /// The store failed to read or to make room: it is left alone until then.
    rest_until: Option<Mono>,
    /// By reason, since the store was made: a total, because the sample that carries it may be given up too.
    dropped: BTreeMap<String, u64>,
    /// Of the records that the store ever evicted, per class: how many are counted as dropped, or were acknowledged after
    /// all. The rest are still on their way, from memory alone.
    accounted: [u64; Class::COUNT],
    dropped_saved: bool,
    /// What was given up since it was last told, by class and reason.
    lost: BTreeMap<(Class, &'static str), Lost>,
    /// When it may be told again.
    lost_at: Mono,
    last_fault: Option<StoreFault>,
    /// The last commit failed.
    commit_failed: bool,
    /// The link stands.
    online: bool,
    thinning: Thinning,
}

/// Records of one class that were given up for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// How many.
    pub records: u64,
    /// The lowest seq among them.
    pub first: u64,
    /// The highest; not all between them need be lost.
    pub last: u64,
}

/// A record that only memory holds.
#[derive(Debug)]
struct Volatile {
    bytes: Bytes,
    why: Why,
    /// It went out under its number: under another one a reader could not tell that it is the same.
    was_sent: bool,
    /// The broker took it over while it was on its way into the store.
    was_answered: bool,
}

impl Volatile {
    const fn new(bytes: Bytes, why: Why, was_sent: bool) -> Self {
        Self { bytes, why, was_sent, was_answered: false }
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

/// One log's place in the sending.
#[derive(Debug, Default)]
struct Lane {
    /// Highest seq of a record that was made.
    made: u64,
    /// Highest seq handed to the store.
    appended: u64,
    /// Highest seq that is durable.
    committed: u64,
    /// What the log took since then, perhaps no further than into its buffer.
    buffered: VecDeque<u64>,
    /// Highest seq that may be sent: a durable one, unless the store fails. Then what it was given goes out before it is
    /// durable, because a full disk must not make the agent mute.
    open: u64,
    volatile: BTreeMap<u64, Volatile>,
    /// The next read begins here.
    next_read: u64,
    /// Where the read that is under way begins, and what was open when it was asked for: of what came later it says
    /// nothing.
    reading: Option<(u64, u64)>,
    ready: VecDeque<(u64, Bytes)>,
    /// What goes before all that.
    ahead: Ahead,
    inflight: BTreeSet<u64>,
    /// Evicted from the store while they were ready or in flight: what memory holds of them is all there is.
    spared: BTreeSet<u64>,
    /// Highest seq acknowledged or given up.
    done: u64,
    done_since_trim: u64,
    /// Which they are, until the log is known to have deleted them: an eviction that comes first counts them as well.
    answered: Vec<u64>,
    /// What the store was asked to trim up to.
    trimmed: u64,
    /// It is time to give space back.
    trim_due: bool,
    /// The store refused to.
    trim_failed: bool,
}

impl Lane {
    fn new(range: LogRange) -> Self {
        Self {
            made: range.last,
            appended: range.last,
            committed: range.last,
            open: range.last,
            next_read: if range.records == 0 { range.last + 1 } else { range.first },
            ..Self::default()
        }
    }

    /// Everything up to here may be deleted: what lies below the lowest that is yet to be sent or answered. What only
    /// memory holds may have gone out before what the store could not read.
    fn trimmable(&self) -> u64 {
        self.oldest().map_or(self.done, |oldest| oldest.saturating_sub(1).min(self.done))
    }

    /// The lowest that is yet to be sent or answered.
    fn oldest(&self) -> Option<u64> {
        let unread = self.has_unread().then_some(self.next_read);
        self.oldest_taken().into_iter().chain(unread).min()
    }

    /// The same of those that were read already.
    fn oldest_taken(&self) -> Option<u64> {
        self.inflight.first().into_iter().chain(self.ready.front().map(|(seq, _)| seq)).min().copied()
    }

    fn has_unread(&self) -> bool {
        self.next_read <= self.open
    }

    /// Whether enough was read ahead: in number, or in bytes where a message is there.
    fn is_filled(&self) -> bool {
        let bytes = || self.ready.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let count = self.ready.len();
        count >= READ_AHEAD || (count >= READ_LOW_WATER && bytes() >= READ_BYTES_MAX)
    }

    /// Lets what only memory holds take its place among what is ready.
    fn feed(&mut self) {
        let held = mem::take(&mut self.volatile);
        for (seq, held) in held.iter().filter(|(_, held)| !held.was_answered) {
            self.put_ready(*seq, held.bytes.clone());
        }
        self.volatile = held;
    }

    /// Where a record is among what is ready, or else where it belongs.
    fn place(&self, seq: u64) -> Result<usize, usize> {
        match (self.ready.front(), self.ready.back()) {
            // A backlog comes and goes in order: this is what each of its records is asked.
            (Some((first, _)), _) if *first == seq => Ok(0),
            (_, Some((last, _))) if *last < seq => Err(self.ready.len()),
            _ => self.ready.binary_search_by_key(&seq, |(other, _)| *other),
        }
    }

    /// In its place, once: the store may give again what memory gave before.
    fn put_ready(&mut self, seq: u64, bytes: Bytes) {
        if self.ahead.has_passed(seq) {
            self.done = self.done.max(seq);
            self.trim_due |= self.inflight.is_empty();
        } else if let (Err(at), false) = (self.place(seq), self.inflight.contains(&seq)) {
            self.ready.insert(at, (seq, bytes));
        }
    }

    /// A record is on its way, whether or not it was ready.
    fn sent(&mut self, seq: u64) {
        if let Ok(at) = self.place(seq) {
            self.ready.remove(at);
        }
        self.inflight.insert(seq);
        if let Some(volatile) = self.volatile.get_mut(&seq) {
            volatile.was_sent = true;
        }
    }

    /// The log has a record that was answered, and will have it until it is trimmed.
    fn remember_answered(&mut self, seq: u64) {
        if self.answered.len() < ANSWERED_MAX {
            self.answered.push(seq);
        }
    }

    /// What goes next: the newest of what goes ahead and is durable, else the oldest that was read.
    fn next(&self) -> Option<(u64, Bytes)> {
        self.ahead.newest(&self.inflight, |seq| seq <= self.committed).or_else(|| self.ready.front().cloned())
    }
}

impl Outbox {
    /// Starts with what the store holds, and with what was given up before: the total by reason, and how much of what the
    /// store evicted is in it. What it evicted beyond that, a crash kept from being counted: it is counted now.
    #[must_use]
    pub fn new(
        limits: Limits,
        recovered: &Recovered,
        dropped: BTreeMap<String, u64>,
        accounted: [u64; Class::COUNT],
    ) -> Self {
        let evicted = recovered.logs.map(|log| log.evicted);
        let uncounted = evicted.iter().zip(accounted).map(|(evicted, counted)| evicted.saturating_sub(counted)).sum();
        let mut outbox = Self {
            limits,
            lanes: recovered.logs.map(Lane::new),
            stats: recovered.stats,
            commit_at: None,
            evicting: false,
            retry_at: None,
            store_at: None,
            trim_at: None,
            rest_until: None,
            dropped,
            // Also where it is less: the cursor of a log was lost, and it counts from zero again.
            accounted: evicted,
            dropped_saved: evicted == accounted,
            lost: BTreeMap::new(),
            lost_at: Mono(0),
            last_fault: None,
            commit_failed: false,
            online: false,
            thinning: Thinning::default(),
        };
        outbox.count_dropped("quota", uncounted);
        outbox
    }

    /// Hands a record to the store. It is committed within the commit interval: what can't wait that long is followed
    /// by an [`Outbox::commit`].
    pub fn append(&mut self, now: Mono, seq: u64, record: &Record, effects: &mut Effects) {
        self.append_bytes(now, seq, record.class(), record.encode(), effects);
    }

    /// The same for a record that is sent before older ones of its class as soon as it is durable.
    pub fn append_ahead(&mut self, now: Mono, seq: u64, record: &Record, effects: &mut Effects) {
        let (class, bytes) = (record.class(), record.encode());
        let lane = self.lane(class);
        lane.ahead.insert(seq, bytes.clone(), &lane.inflight);
        self.append_bytes(now, seq, class, bytes, effects);
    }

    /// A record that the log may have had before this start is sent before older ones, if it is still there.
    pub fn hurry(&mut self, seq: u64, record: &Record) {
        let lane = self.lane(record.class());
        if (lane.next_read..=lane.open).contains(&seq) {
            lane.ahead.insert(seq, record.encode(), &lane.inflight);
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

    /// Gives the store what is held in memory: its time is over, the link is gone, or the agent ends. It has to be durable
    /// as early as if the store had had it from the beginning.
    pub fn store_held(&mut self, now: Mono, effects: &mut Effects) {
        let Some(due) = self.store_at.take() else { return };
        for class in Class::ALL {
            let lane = self.lane(class);
            let held = lane.volatile.iter_mut().filter(|(_, held)| held.why == Why::Live);
            let held: Vec<(u64, Bytes)> = held
                .map(|(seq, held)| {
                    held.why = Why::Storing;
                    (*seq, held.bytes.clone())
                })
                .collect();
            for (seq, bytes) in held {
                self.submit(now, seq, class, bytes, effects);
            }
        }
        self.commit_at = self.commit_at.map(|at| at.min(due));
    }

    fn can_hold(&self) -> bool {
        let lane = Class::Telemetry.of(&self.lanes);
        let older = Class::SAMPLES.into_iter().filter(|class| *class != Class::Telemetry);
        if older.into_iter().any(|class| self.has_unsent(class)) {
            return false;
        }
        // What waits in the store goes first, and what is on its way there: it would be passed over.
        let is_drained = !lane.has_unread() && lane.reading.is_none() && lane.open == lane.made;
        is_drained && self.last_fault.is_none() && self.volatile() < VOLATILE_RECORDS_MAX
    }

    fn hold(&mut self, now: Mono, seq: u64, bytes: Bytes) {
        let commit_interval = self.limits.commit_interval;
        let lane = self.lane(Class::Telemetry);
        lane.volatile.insert(seq, Volatile::new(bytes, Why::Live, false));
        lane.made = seq;
        lane.open = seq;
        lane.next_read = seq + 1;
        lane.feed();
        self.store_at.get_or_insert(now.after(commit_interval));
    }

    /// Makes everything appended so far durable.
    pub fn commit(&mut self, effects: &mut Effects) {
        self.commit_at = None;
        let upto = Class::ALL.map(|class| class.of(&self.lanes).appended);
        effects.store(Purpose::Commit { upto }, StoreOp::Commit);
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
                for (seq, bytes) in self.take_unsent(class) {
                    self.append_bytes(now, renumber(seq), class, bytes, effects);
                }
            }
            self.commit(effects);
        }
        if self.trim_at.is_some_and(|at| at <= now) {
            self.trim_at = None;
            for lane in &mut self.lanes {
                lane.trim_due |= mem::take(&mut lane.trim_failed);
            }
        }
    }

    /// When [`Outbox::poll`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let retry = self.retry_at.filter(|_| !self.evicting);
        let lost = (!self.lost.is_empty()).then_some(self.lost_at);
        [self.commit_at, self.store_at, retry, self.trim_at, self.rest_until, lost].into_iter().flatten().min()
    }

    /// Keeps the read-ahead of a lane filled.
    pub fn fill(&mut self, class: Class, effects: &mut Effects) {
        let resting = self.rest_until.is_some();
        // While nothing can be made durable what is there twice is sent twice, rather than not at all.
        let thinned = self.thinning.holds(class) || (self.is_half_thinned(class) && !self.commit_failed);
        let lane = self.lane(class);
        if resting || thinned || lane.reading.is_some() || lane.is_filled() || !lane.has_unread() {
            return;
        }
        let from = lane.next_read;
        lane.reading = Some((from, lane.open));
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

    /// Whether the disk has less free space than is to be kept free.
    #[must_use]
    pub const fn is_short_of_space(&self) -> bool {
        self.stats.free_bytes < self.limits.min_free_bytes
    }

    /// The first record that [`Outbox::ready`] showed is on its way.
    pub fn sent(&mut self, class: Class) {
        let lane = self.lane(class);
        if let Some((seq, _)) = lane.ready.front() {
            lane.sent(*seq);
        }
    }

    /// The record of a class that goes next: from now on it is on its way.
    pub fn send_next(&mut self, class: Class) -> Option<(u64, Bytes)> {
        let lane = self.lane(class);
        let (seq, bytes) = lane.next()?;
        lane.sent(seq);
        Some((seq, bytes))
    }

    /// Whether a record was answered while older ones of its class are not.
    #[must_use]
    pub fn has_passed(&self, class: Class, seq: u64) -> bool {
        class.of(&self.lanes).ahead.has_passed(seq)
    }

    /// Whether a record was sent and is not yet answered, nor to be sent again.
    #[must_use]
    pub fn is_in_flight(&self, class: Class, seq: u64) -> bool {
        class.of(&self.lanes).inflight.contains(&seq)
    }

    /// The broker took a record over.
    pub fn acknowledged(&mut self, class: Class, seq: u64) {
        let lane = self.lane(class);
        if !lane.inflight.remove(&seq) {
            return;
        }
        let held = lane.volatile.get_mut(&seq);
        let why = held.map(|held| {
            held.was_answered = true;
            held.why
        });
        // What is on its way into the store is remembered until it is there, or was refused.
        if why != Some(Why::Storing) {
            lane.volatile.remove(&seq);
        }
        let was_held = why == Some(Why::Live);
        let none_held = lane.volatile.is_empty();
        // The log will come to it yet, unless the store gave it up.
        let is_unread = || lane.oldest().is_some_and(|oldest| oldest <= seq);
        let passed = lane.ahead.holds(seq) && !lane.spared.contains(&seq) && is_unread();
        lane.ahead.answered(seq, passed);
        if !passed {
            lane.done = lane.done.max(seq);
        }
        // With the last of what it went before, a record that went ahead is done with too.
        let went_ahead = lane.ahead.last_passed(lane.oldest()).filter(|last| *last > lane.done);
        if let Some(last) = went_ahead {
            lane.done = last;
            lane.done_since_trim += 1;
        }
        // What the store never had needs no trimming there.
        lane.done_since_trim += u64::from(!was_held);
        let was_spared = lane.spared.remove(&seq);
        if why.is_none() && !passed && !was_spared {
            lane.remember_answered(seq);
        }
        let none_left = lane.spared.is_empty();
        let all_answered = lane.inflight.is_empty() && lane.done_since_trim > 0;
        lane.trim_due |= lane.done_since_trim >= TRIM_BATCH || all_answered;
        if was_held && none_held {
            self.store_at = None;
        }
        if was_spared {
            self.account(class, 1);
            // Saved once, not with each of them: a crash before it counts some as dropped that did arrive.
            self.dropped_saved &= !none_left;
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
            self.lose(class, reason, 1, seq..=seq);
        }
        self.acknowledged(class, seq);
    }

    /// Gives back the space of what is done with. To be called after what was dropped is on its way into the store: a crash
    /// between the two counts a record that is sent again, the other way round one would be gone and not counted.
    pub fn trim(&mut self, effects: &mut Effects) {
        for class in Class::ALL {
            let lane = self.lane(class);
            if !lane.trim_due {
                continue;
            }
            let upto = lane.trimmable();
            if upto <= lane.trimmed {
                continue;
            }
            // What is done with above something that isn't yet is trimmed when that is: perhaps nothing else will ask.
            lane.trim_due = upto < lane.done;
            lane.done_since_trim = 0;
            lane.trimmed = upto;
            lane.ahead.trimmed(upto);
            effects.store(Purpose::Trim { class, upto }, StoreOp::Trim { class, upto });
        }
    }

    /// A record in flight has to be sent again, and with it, in order, all that came after it.
    pub fn rewind(&mut self, class: Class, seq: u64) {
        let lane = self.lane(class);
        lane.inflight.retain(|other| *other < seq);
        // If it went ahead, older ones are still waiting.
        lane.ready.retain(|(other, _)| *other < seq);
        lane.next_read = seq.min(lane.next_read);
        // An answer out of order may have come for a later one: that does not answer for those before it.
        lane.done = lane.done.min(seq.saturating_sub(1));
        lane.answered.retain(|other| *other < seq);
        // The store can't give these a second time, unless they are still on their way. Some may have arrived: better
        // counted twice than not at all.
        let (inflight, ready) = (&lane.inflight, &lane.ready);
        let is_here = |seq: &u64| inflight.contains(seq) || ready.iter().any(|(other, _)| other == seq);
        let (spared, gone): (BTreeSet<u64>, BTreeSet<u64>) = mem::take(&mut lane.spared).into_iter().partition(is_here);
        lane.spared = spared;
        lane.ahead.forget(|seq| gone.contains(&seq));
        let (Some(first), Some(last)) = (gone.first(), gone.last()) else { return };
        self.account(class, gone.len() as u64);
        self.lose(class, "quota", gone.len() as u64, *first..=*last);
    }

    /// The broker has accepted us.
    pub const fn connected(&mut self) {
        self.online = true;
    }

    /// The connection is gone: everything in flight has to be sent again.
    pub fn rewind_all(&mut self) -> u64 {
        self.online = false;
        let mut again = 0;
        for class in Class::ALL {
            let lane = self.lane(class);
            again += lane.inflight.len() as u64;
            if let Some(oldest) = lane.oldest_taken() {
                self.rewind(class, oldest);
            }
        }
        again
    }

    /// Takes note of how the store stands, and makes room where a limit is crossed.
    pub fn stats(&mut self, stats: StoreStats, effects: &mut Effects) {
        self.stats = stats;
        self.make_room(effects);
    }

    /// An append ended. False: the record is given up.
    pub fn appended(
        &mut self,
        now: Mono,
        (class, seq, bytes): (Class, u64, Bytes),
        fault: Option<StoreFault>,
        effects: &mut Effects,
    ) -> bool {
        let held = self.lane(class).volatile.remove(&seq);
        let Some(fault) = fault else {
            let lane = self.lane(class);
            if held.is_some_and(|held| held.was_answered) {
                lane.remember_answered(seq);
            }
            let buffered = &mut lane.buffered;
            buffered.push_back(seq);
            buffered.drain(..buffered.len().saturating_sub(BUFFERED_MAX));
            // It may have come no further than a buffer.
            if !self.commit_failed {
                self.recovered(effects);
            }
            return true;
        };
        self.report(&fault, effects);
        self.lane(class).ahead.forget(|other| other == seq);
        if held.as_ref().is_some_and(|held| held.was_answered) {
            return true;
        }
        let was_sent = held.is_some_and(|held| held.was_sent);
        if self.volatile() >= VOLATILE_RECORDS_MAX {
            self.lose(class, "store_failed", 1, seq..=seq);
            return false;
        }
        let lane = self.lane(class);
        lane.volatile.insert(seq, Volatile::new(bytes, Why::Refused, was_sent));
        let all_read = !lane.has_unread() && lane.reading.is_none();
        // Not yet behind it with reading: a queue that was full may hold older ones that are still to be stored.
        lane.open = lane.open.max(seq);
        if all_read {
            lane.feed();
        }
        self.retry_at = Some(now.after(StoreFault::RETRY_AFTER));
        if matches!(fault, StoreFault::NoSpace { .. }) {
            self.evict(class, effects);
        }
        true
    }

    /// A commit ended.
    pub fn committed(
        &mut self,
        now: Mono,
        upto: [u64; Class::COUNT],
        fault: Option<&StoreFault>,
        effects: &mut Effects,
    ) {
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
                self.evict(class, effects);
            }
            return;
        }
        if mem::take(&mut self.commit_failed) {
            self.recovered(effects);
        }
        for (lane, upto) in self.lanes.iter_mut().zip(upto) {
            lane.committed = lane.committed.max(upto);
            lane.open = lane.open.max(upto);
            let still = lane.buffered.partition_point(|seq| *seq <= upto);
            lane.buffered.drain(..still);
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
            self.lane(class).answered.retain(|seq| *seq > upto);
            return;
        };
        self.report(fault, effects);
        let lane = self.lane(class);
        lane.trim_failed = true;
        lane.trim_due = false;
        lane.trimmed = 0;
        self.trim_at = Some(now.after(StoreFault::RETRY_AFTER));
    }

    /// A read ended. A page of an older reading that was rewound meanwhile is thrown away.
    pub fn page(&mut self, now: Mono, class: Class, result: Result<StoreReply, StoreFault>, effects: &mut Effects) {
        let lane = self.lane(class);
        let (from, asked_upto) = lane.reading.take().unwrap_or_default();
        match result {
            // To take it would be to pass over what the rewinding went back for.
            Ok(StoreReply::Page { damaged, .. }) if lane.next_read < from => {
                let last = lane.open;
                self.lose(class, "corrupt", damaged, from..=last);
            }
            Ok(StoreReply::Page { records, damaged }) => {
                let next_read = lane.next_read;
                let (open, mut last) = (lane.open, None);
                for (seq, bytes) in records {
                    if seq >= next_read && seq <= open {
                        last = Some(seq);
                        lane.put_ready(seq, bytes);
                    }
                }
                // An empty page of a range that was open: what was there is gone, or only memory has it. Go on behind it.
                let last = last.unwrap_or(asked_upto);
                lane.next_read = lane.next_read.max(last + 1);
                if !lane.has_unread() {
                    lane.feed();
                }
                self.lose(class, "corrupt", damaged, from..=last);
            }
            Ok(_) => {}
            Err(fault) => {
                lane.feed();
                self.report(&fault, effects);
                self.rest_until = Some(now.after(StoreFault::RETRY_AFTER));
            }
        }
    }

    /// An eviction ended.
    pub fn evicted(&mut self, now: Mono, class: Class, result: Result<StoreReply, StoreFault>, effects: &mut Effects) {
        self.evicting = false;
        // Where nothing went there is no more room than before.
        let Ok(StoreReply::Evicted { records, first, last: last @ 1.. }) = result else {
            self.rest_until = Some(now.after(StoreFault::RETRY_AFTER));
            return;
        };
        // There is room now: what waits for it needn't wait longer.
        self.retry_at = self.retry_at.map(|at| at.min(now));
        let lane = self.lane(class);
        let on_the_way = lane.inflight.iter().chain(lane.ready.iter().map(|(seq, _)| seq));
        // What only memory holds lay between them, and not in the log: the store answers in order.
        let was_stored = |seq: &&u64| (first..=last).contains(*seq) && !lane.volatile.contains_key(seq);
        let spared: Vec<u64> = on_the_way.filter(was_stored).copied().collect();
        lane.next_read = lane.next_read.max(last.saturating_add(1));
        let inflight = &lane.inflight;
        lane.ahead.forget(|seq| (first..=last).contains(&seq) && !inflight.contains(&seq));
        let untrimmed = lane.answered.len();
        lane.answered.retain(|seq| !(first..=last).contains(seq));
        let arrived = (lane.ahead.trimmed(last) + untrimmed - lane.answered.len()) as u64;
        let gone = records.saturating_sub(spared.len() as u64 + arrived);
        lane.spared.extend(spared);
        self.account(class, gone + arrived);
        self.dropped_saved &= arrived == 0;
        self.lose(class, "quota", gone, first..=last);
        if gone > 0 {
            let word = class.word();
            let text =
                format!("store: gave up {gone} {word} records of seq {first} to {last} to stay within its limits");
            effects.log(LogLevel::Warn, text);
        }
    }

    /// Counts records that were given up.
    pub fn count_dropped(&mut self, reason: &'static str, records: u64) {
        if records > 0 {
            *self.dropped.entry(reason.to_owned()).or_default() += records;
            self.dropped_saved = false;
        }
    }

    /// What was thinned out since this was last asked.
    pub const fn take_thinned(&mut self) -> Option<Lost> {
        self.thinning.take_thinned()
    }

    /// What was given up since this was last asked, by class and reason; nothing if that was just now, or if what is told
    /// now would be lost as well.
    pub fn take_lost(&mut self, now: Mono, online: bool) -> BTreeMap<(Class, &'static str), Lost> {
        if self.lost.is_empty() || now < self.lost_at {
            return BTreeMap::new();
        }
        self.lost_at = now.after(LOST_PAUSE);
        self.take_all_lost(online)
    }

    /// The same, whenever that was.
    pub fn take_all_lost(&mut self, online: bool) -> BTreeMap<(Class, &'static str), Lost> {
        if self.last_fault.is_some() && !online {
            return BTreeMap::new();
        }
        mem::take(&mut self.lost)
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
        &self.dropped
    }

    /// The same, and how much of what the store evicted is in it, if something changed since it was last asked: to be saved
    /// together.
    pub fn dropped_to_save(&mut self) -> Option<(&BTreeMap<String, u64>, [u64; Class::COUNT])> {
        (!mem::replace(&mut self.dropped_saved, true)).then_some((&self.dropped, self.accounted))
    }

    /// They could not be saved.
    pub fn save_dropped_again(&mut self) {
        self.dropped_saved = false;
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
        self.lanes.iter().map(|lane| lane.volatile.len()).sum()
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
        let lane = class.of(&self.lanes);
        seq <= lane.committed && !lane.volatile.contains_key(&seq)
    }

    /// Whether something of a class is yet to be sent for the first time on this connection.
    #[must_use]
    pub fn has_unsent(&self, class: Class) -> bool {
        let lane = class.of(&self.lanes);
        lane.has_unread() || !lane.ready.is_empty()
    }

    /// Whether everything of a class was sent and acknowledged.
    #[must_use]
    pub fn is_drained(&self, class: Class) -> bool {
        let lane = class.of(&self.lanes);
        lane.open == lane.made && !lane.has_unread() && lane.ready.is_empty() && lane.inflight.is_empty()
    }

    /// Why the store doesn't work, if it doesn't.
    #[must_use]
    pub const fn fault(&self) -> Option<&StoreFault> {
        self.last_fault.as_ref()
    }

    fn append_bytes(&mut self, now: Mono, seq: u64, class: Class, bytes: Bytes, effects: &mut Effects) {
        if class == Class::Telemetry {
            // What is held is older: a log takes its records in order.
            self.store_held(now, effects);
        }
        self.lane(class).made = seq;
        self.submit(now, seq, class, bytes, effects);
    }

    fn submit(&mut self, now: Mono, seq: u64, class: Class, bytes: Bytes, effects: &mut Effects) {
        let commit_interval = self.limits.commit_interval;
        let lane = self.lane(class);
        lane.appended = seq;
        if lane.next_read == 0 {
            lane.next_read = seq;
        }
        effects.store(Purpose::Append { class, seq, bytes: bytes.clone() }, StoreOp::Append { class, seq, bytes });
        self.commit_at.get_or_insert(now.after(commit_interval));
    }

    /// What the store refused and was never sent: to be given to it again.
    fn take_unsent(&mut self, class: Class) -> impl Iterator<Item = (u64, Bytes)> + use<> {
        let lane = self.lane(class);
        let (unsent, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            mem::take(&mut lane.volatile).into_iter().partition(|(_, held)| held.why == Why::Refused && !held.was_sent);
        lane.volatile = others;
        lane.ready.retain(|(seq, _)| !unsent.contains_key(seq));
        unsent.into_iter().map(|(seq, held)| (seq, held.bytes))
    }

    /// Counts what the store refused: at the end it goes with the memory that holds it. A result among it is told again out
    /// of the journal, so it stays here and isn't taken for safe: better counted and told than neither.
    pub fn count_refused(&mut self) {
        let held = self.lanes.iter().flat_map(|lane| lane.volatile.values());
        let refused = held.filter(|held| held.why == Why::Refused).count();
        // Nor does what the log took reach a disk that takes no commit.
        let lost_with_buffer =
            |lane: &Lane| lane.buffered.iter().filter(|seq| **seq > lane.done && !lane.ahead.has_passed(**seq)).count();
        let buffered = if self.commit_failed { self.lanes.iter().map(lost_with_buffer).sum() } else { 0 };
        self.count_dropped("store_failed", (refused + buffered) as u64);
    }

    /// Counts records that were given up, and remembers which to tell.
    fn lose(&mut self, class: Class, reason: &'static str, records: u64, range: RangeInclusive<u64>) {
        if records == 0 {
            return;
        }
        self.count_dropped(reason, records);
        let (first, last) = range.into_inner();
        let lost = self.lost.entry((class, reason)).or_insert(Lost { records: 0, first, last });
        *lost = Lost { records: lost.records + records, first: lost.first.min(first), last: lost.last.max(last) };
    }

    /// What the logs may take: the limit, without the keyed state and what files take beside what is in them.
    fn room(&self) -> u64 {
        let beside = FILES_BYTES.min(self.limits.max_bytes / FILES_SHARE);
        self.limits.max_bytes.saturating_sub(self.stats.state_bytes).saturating_sub(beside)
    }

    /// One segment at a time, until the numbers that come back with it are within the limits.
    fn make_room(&mut self, effects: &mut Effects) {
        let worth_it = self.stats.outbox_bytes > LIVE_BYTES;
        if self.stats.outbox_bytes > self.room() || (self.is_short_of_space() && worth_it) {
            self.evict(Class::Results, effects);
        }
        self.thin(effects);
    }

    /// The oldest samples go first, the coarsest class before the finer. Events and results go only where no samples are left,
    /// and only for something at least as urgent: on a disk that others have filled they would all be given up for nothing.
    fn evict(&mut self, for_class: Class, effects: &mut Effects) {
        if self.evicting || self.rest_until.is_some() || self.thinning.is_busy() {
            return;
        }
        let Some(class) = self.next_to_go(for_class) else { return };
        self.evicting = true;
        effects.store(Purpose::Evict { class }, StoreOp::Evict { class });
    }

    /// Of which class the oldest go first, for the sake of this one. What is in a log's buffer only can still be sent from
    /// there: to give it up would make no room.
    fn next_to_go(&self, for_class: Class) -> Option<Class> {
        let for_class = if for_class.has_samples() { Class::Telemetry } else { for_class };
        let mut classes = Class::ALL.into_iter().rev().take_while(|class| *class >= for_class);
        let records = self.stats.records;
        let is_on_disk = |lane: &Lane| lane.oldest().is_some_and(|oldest| oldest <= lane.committed);
        classes.find(|class| *class.of(&records) > 0 && is_on_disk(class.of(&self.lanes)))
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

    fn account(&mut self, class: Class, records: u64) {
        *class.of_mut(&mut self.accounted) += records;
    }

    const fn lane(&mut self, class: Class) -> &mut Lane {
        class.of_mut(&mut self.lanes)
    }
}

mod ahead;
mod thinning;

#[cfg(test)]
mod tests;
