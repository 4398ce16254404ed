//! The simulated disk: the store's operations, answered as the real store answers them, in memory and without cost.
//! What was appended is in the process, then in the page cache, then on the flash; a crash takes what it takes, and the
//! dice say how much of the rest. It fails when it is told to. It must not promise more than the real store does: a
//! model test runs both through the same operations.

mod log;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use self::log::{Left, Log};
use super::dice::Dice;
use super::scenario::DiskWorld;
use crate::engine::io::{Recovered, StoreFault, StoreLoss, StoreOp, StoreReply, StoreStats};
use crate::engine::record::Class;
use crate::engine::time::Unix;
use crate::store::{
    COMMIT_OVERHEAD_BYTES, ENTRY_BYTES, RESERVE_PART_BYTES, Room, STATE_VALUE_BYTES_MAX, reserve_bytes,
    reserve_to_hold, segment_bytes,
};

/// How much the state's file grows by a write, beside what is written: measured with sled 0.34.
const STATE_GROWTH_BYTES: u64 = 150;
/// Where it stops to grow: sled uses its segments of 512 KiB again.
const STATE_FILE_BYTES: u64 = 512 * 1024;

/// How the store's process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// As it should: what was appended is committed.
    Clean,
    /// kill -9: what was written survives, what was still in the process is gone.
    Process,
    /// The power goes: what was not synced may be gone too, from its end on.
    Power,
}

/// The disk of one gateway, and the store on it.
#[derive(Debug)]
pub struct Disk {
    logs: [Log; Class::COUNT],
    state: State,
    dice: Dice,
    commit: (Duration, Duration),
    bytes: u64,
    others_bytes: u64,
    /// What takes all that was free while the disk is full.
    hog_bytes: Option<u64>,
    errors: f64,
    slow: f64,
    most_bytes: u64,
    /// Written before the store was opened this time.
    written_before: u64,
    /// When something was last written, by the gateway's clock.
    written_at: Option<Unix>,
}

/// The keyed state.
#[derive(Debug)]
struct State {
    entries: BTreeMap<String, Bytes>,
    file_bytes: u64,
    set_aside_bytes: u64,
    /// How much is held back of the most.
    reserve: u64,
    reserve_bytes_max: u64,
    damaged: bool,
    written_bytes: u64,
}

impl Disk {
    /// A disk with a store on it that was never used, and that may grow to `max_bytes`.
    #[must_use]
    pub fn new(settings: &DiskWorld, max_bytes: u64, dice: Dice) -> Self {
        let mut disk = Self {
            logs: Class::ALL.map(|class| Log::new(class, segment_bytes(max_bytes))),
            state: State {
                entries: BTreeMap::new(),
                file_bytes: 0,
                set_aside_bytes: 0,
                reserve: 0,
                reserve_bytes_max: reserve_bytes(max_bytes),
                damaged: false,
                written_bytes: 0,
            },
            dice,
            commit: settings.commit,
            bytes: settings.bytes,
            others_bytes: settings.others_bytes,
            hog_bytes: None,
            errors: 0.0,
            slow: 1.0,
            most_bytes: 0,
            written_before: 0,
            written_at: None,
        };
        disk.hold_reserve(0);
        disk
    }

    /// Does one operation when the gateway's clock says `now`, and tells how the store stands after it.
    pub fn apply(&mut self, op: StoreOp, now: Unix) -> (Result<StoreReply, StoreFault>, StoreStats) {
        let written = self.written_since_open();
        let result =
            if self.errors > 0.0 && self.dice.happens(self.errors) { Err(self.fail(op)) } else { self.carry_out(op) };
        self.most_bytes = self.most_bytes.max(self.used_bytes());
        if self.written_since_open() > written {
            self.written_at = Some(now);
        }
        (result, self.stats())
    }

    /// How long an operation takes that reaches the flash: commit, put, evict. The others take no time.
    pub fn commit_takes(&mut self) -> Duration {
        let (low, high) = self.commit;
        let takes = self.dice.between(low, high);
        Duration::try_from_secs_f64(takes.as_secs_f64() * self.slow).unwrap_or(Duration::MAX)
    }

    /// The store's process ends, and another opens what is left.
    pub fn crash(&mut self, kind: Crash) -> Recovered {
        if kind == Crash::Clean {
            // What doesn't fit is lost: nobody is left to be told.
            let _ = self.sync_all();
        }
        let dice = &mut self.dice;
        let left = self.logs.each_ref().map(|log| match kind {
            Crash::Clean | Crash::Process => log.left_by_kill(),
            Crash::Power => log.left_by_power_cut(dice),
        });
        self.reopen(left)
    }

    /// No space is left, but for what the store itself gives back.
    pub fn set_full(&mut self, full: bool) {
        if full != self.hog_bytes.is_some() {
            self.hog_bytes = full.then(|| self.free_bytes());
        }
    }

    /// Each operation fails with this probability.
    pub fn set_errors(&mut self, probability: f64) {
        self.errors = probability;
    }

    /// What reaches the flash takes this many times as long.
    pub fn set_slow(&mut self, times: f64) {
        self.slow = times;
    }

    /// Flash cells go bad: some records of one segment are lost, which is noticed when they are read or when the store
    /// is opened the next time. With `state` the keyed state will be found to be lost as well.
    pub fn damage(&mut self, state: bool) {
        self.state.damaged |= state;
        let first = usize::try_from(self.dice.below(Class::COUNT as u64)).unwrap_or(0);
        let (before, from) = self.logs.split_at_mut(first);
        // The first that has something to lose, beginning with a random one.
        let _ = from.iter_mut().chain(before).any(|log| log.damage(&mut self.dice));
    }

    /// So many bytes are used by others now.
    pub fn others_use(&mut self, bytes: u64) {
        self.others_bytes = bytes;
    }

    /// How the store stands.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            outbox_bytes: self.logs.iter().map(Log::bytes).sum(),
            state_bytes: self.state.bytes(),
            free_bytes: self.free_bytes(),
            written_bytes: self.written_since_open(),
            records: self.logs.each_ref().map(Log::records),
            segments: self.logs.each_ref().map(Log::segments),
        }
    }

    /// Bytes that are free.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let buffered: u64 = self.logs.iter().map(Log::buffered).sum();
        let others = self.others_bytes.saturating_add(self.hog_bytes.unwrap_or(0));
        self.bytes.saturating_sub(others).saturating_sub(self.used_bytes() - buffered)
    }

    /// Bytes that the store uses.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.logs.iter().map(Log::bytes).sum::<u64>() + self.state.bytes()
    }

    /// The most that it ever used.
    #[must_use]
    pub const fn most_bytes(&self) -> u64 {
        self.most_bytes
    }

    /// Bytes written to the flash in all.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written_before + self.written_since_open()
    }

    /// Records that became durable since this was last asked. To be asked after every operation and crash: they are
    /// kept until then.
    pub fn take_newly_durable(&mut self) -> Vec<(Class, u64)> {
        self.logs.iter_mut().flat_map(Log::take_newly_durable).collect()
    }

    /// Whether a record lies in the store, not yet trimmed.
    #[must_use]
    pub fn holds(&self, class: Class, seq: u64) -> bool {
        class.of(&self.logs).holds(seq)
    }

    /// Records that lie in the store, not yet trimmed.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.logs.iter().map(Log::records).sum()
    }

    /// These records, oldest first.
    pub fn stored(&self, class: Class) -> impl Iterator<Item = (u64, &Bytes)> {
        class.of(&self.logs).live()
    }

    /// Those of them that no power cut takes.
    pub fn durable(&self, class: Class) -> impl Iterator<Item = (u64, &Bytes)> {
        class.of(&self.logs).durable()
    }

    fn carry_out(&mut self, op: StoreOp) -> Result<StoreReply, StoreFault> {
        match op {
            StoreOp::Append { class, seq, bytes } => {
                let free = self.free_bytes();
                class.of_mut(&mut self.logs).append(seq, bytes, free).map(|()| StoreReply::Appended)
            }
            StoreOp::Commit => self.sync_all().map(|()| StoreReply::Committed),
            StoreOp::Read { class, from, records_max, bytes_max } => {
                let (records, damaged) = class.of_mut(&mut self.logs).read(from, records_max, bytes_max);
                Ok(StoreReply::Page { records, damaged })
            }
            StoreOp::Trim { class, upto } => {
                class.of_mut(&mut self.logs).trim(upto);
                Ok(StoreReply::Trimmed)
            }
            StoreOp::Evict { class } => {
                let evicted = class.of_mut(&mut self.logs).evict();
                Ok(StoreReply::Evicted { records: evicted.records, first: evicted.first, last: evicted.last })
            }
            StoreOp::Put { entries } => self.put(entries).map(|()| StoreReply::Put),
            StoreOp::Probe => Ok(StoreReply::Probed),
        }
    }

    /// Fails, and as the real store may have done half of it.
    fn fail(&mut self, op: StoreOp) -> StoreFault {
        let half = self.dice.happens(0.5);
        let what = match op {
            StoreOp::Append { .. } => "append",
            StoreOp::Commit => "commit",
            StoreOp::Read { .. } => "read",
            StoreOp::Trim { .. } => "trim",
            StoreOp::Evict { class } => {
                if half {
                    class.of_mut(&mut self.logs).give_up_oldest();
                }
                "evict"
            }
            StoreOp::Put { entries } => {
                if half {
                    // Written, and then the sync failed: it may turn up all the same.
                    let _ = self.put(entries);
                }
                "put"
            }
            StoreOp::Probe => "probe",
        };
        StoreFault::Io { what: format!("{what}: Input/output error (os error 5)") }
    }

    /// Every log is tried; the first failure is told.
    fn sync_all(&mut self) -> Result<(), StoreFault> {
        let mut outcome = Ok(());
        for class in Class::ALL {
            let free = self.free_bytes();
            outcome = outcome.and(class.of_mut(&mut self.logs).sync(free));
        }
        outcome
    }

    fn put(&mut self, entries: Vec<(String, Option<Bytes>)>) -> Result<(), StoreFault> {
        let value_len = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        if let Some((key, value)) = entries.iter().find(|(_, value)| value_len(value) > STATE_VALUE_BYTES_MAX) {
            let len = value_len(value);
            let what = format!("put {key} into the state: value is {len} B, the limit is {STATE_VALUE_BYTES_MAX} B");
            return Err(StoreFault::Io { what });
        }
        let len = entries.iter().map(|(key, value)| key.len() + value_len(value)).sum::<usize>() + ENTRY_BYTES;
        let len = len as u64;
        let grows = (len + STATE_GROWTH_BYTES).min(STATE_FILE_BYTES.saturating_sub(self.state.file_bytes));
        let mut given = 0;
        while grows > self.free_bytes() && self.state.reserve > 0 {
            // The reserve is for this.
            let part = self.state.reserve.min(RESERVE_PART_BYTES);
            self.state.reserve -= part;
            given += part;
        }
        if grows > self.free_bytes() {
            self.hold_reserve(given);
            return Err(StoreFault::NoSpace { what: "put into the state".to_owned() });
        }
        self.state.file_bytes += grows;
        self.state.written_bytes += len + COMMIT_OVERHEAD_BYTES;
        for (key, value) in entries {
            match value {
                Some(value) => drop(self.state.entries.insert(key, value)),
                None => drop(self.state.entries.remove(&key)),
            }
        }
        self.hold_reserve(given);
        Ok(())
    }

    fn hold_reserve(&mut self, given: u64) {
        let (held, most) = (self.state.reserve, self.state.reserve_bytes_max);
        let room = Room { free: self.free_bytes(), size: self.bytes };
        self.state.reserve = reserve_to_hold(held, given, room, most);
    }

    fn reopen(&mut self, left: [Left; Class::COUNT]) -> Recovered {
        self.written_before = self.written_bytes();
        let mut losses = Vec::new();
        for (log, left) in self.logs.iter_mut().zip(left) {
            log.reopen(left, &mut losses);
        }
        losses.extend(self.state.reopen());
        self.hold_reserve(0);
        Recovered {
            logs: self.logs.each_ref().map(Log::range),
            state: self.state.entries.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            losses,
            stats: self.stats(),
            written_at: self.written_at,
            absent: false,
        }
    }

    fn written_since_open(&self) -> u64 {
        self.state.written_bytes + self.logs.iter().map(Log::written_bytes).sum::<u64>()
    }
}

impl State {
    fn bytes(&self) -> u64 {
        self.file_bytes + self.set_aside_bytes + self.reserve
    }

    fn reopen(&mut self) -> Option<StoreLoss> {
        self.written_bytes = 0;
        if !std::mem::take(&mut self.damaged) {
            return None;
        }
        self.set_aside_bytes = std::mem::take(&mut self.file_bytes);
        self.entries.clear();
        let what = "state: damaged; set aside as state.damaged, begun anew with 0 entries".to_owned();
        Some(StoreLoss { what, records: 0, state_lost: true })
    }
}
