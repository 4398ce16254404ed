//! What the outbox may take of the disk, and what is given up where it takes more: the oldest segment, one at a time,
//! until the store's numbers are within the limits. Gives up nothing whose deletion would free nothing, and nothing
//! more urgent than that for which room is made. What is thinned out before it comes to that is [`super::thinning`]'s.

use super::Outbox;
use super::lane::Lane;
use crate::engine::effects::{Effects, Purpose};
use crate::engine::io::{LogLevel, StoreFault, StoreOp, StoreReply, StoreStats};
use crate::engine::record::Class;
use crate::engine::time::Mono;

/// What the outbox may hold even where the disk is short of free space, or the keyed state takes all that it may:
/// enough for live records to get through. Giving them up would free next to nothing, and make the agent mute.
const LIVE_BYTES: u64 = 256 * 1024;
/// By how much the keyed state's files grow at a time: a segment of sled.
const STATE_STEP_BYTES: u64 = 512 * 1024;
/// What files take beside what is in them (room made ready for what comes next, the cursors), and no more than this part
/// of a small store.
const FILES_BYTES: u64 = 512 * 1024;
const FILES_SHARE: u64 = 8;
/// And live records no more than this: the state and its reserve, where they are largest, leave the smallest store
/// hardly more.
const LIVE_SHARE: u64 = 12;

impl Outbox {
    /// Takes note of how the store stands, and makes room where a limit is crossed.
    pub fn stats(&mut self, stats: StoreStats, effects: &mut Effects) {
        self.stats = stats;
        self.make_room(effects);
    }

    /// Whether the disk has less free space than is to be kept free.
    #[must_use]
    pub const fn is_short_of_space(&self) -> bool {
        self.stats.free_bytes < self.limits.min_free_bytes
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
        self.retry_now(now);
        let not_lost = self.lane(class).evicted(&(first..=last));
        self.losses.name(class, first..=last, not_lost.seqs);
        let gone = records.saturating_sub(not_lost.spared + not_lost.arrived);
        self.losses.account(class, gone + not_lost.arrived);
        if not_lost.arrived > 0 {
            self.losses.save_again();
        }
        self.losses.lose(class, "quota", gone, first..=last);
        if gone > 0 {
            let word = class.word();
            let text =
                format!("store: gave up {gone} {word} records of seq {first} to {last} to stay within its limits");
            effects.log(LogLevel::Warn, text);
        }
    }

    /// What the logs may take: the limit, without the keyed state and what files take beside what is in them.
    pub(super) fn room(&self) -> u64 {
        let beside = FILES_BYTES.min(self.limits.max_bytes / FILES_SHARE);
        let room = self.limits.max_bytes.saturating_sub(self.stats.state_bytes).saturating_sub(beside);
        room.max(LIVE_BYTES.min(self.limits.max_bytes / LIVE_SHARE))
    }

    /// Whether it is time to make room, so that the store itself doesn't take what is to be kept free.
    const fn nears_shortage(&self) -> bool {
        let yet_to_take = LIVE_BYTES.saturating_sub(self.stats.outbox_bytes);
        let min = self.limits.min_free_bytes;
        min > 0 && self.stats.free_bytes < min.saturating_add(yet_to_take).saturating_add(STATE_STEP_BYTES)
    }

    /// One segment at a time, until the numbers that come back with it are within the limits.
    pub(super) fn make_room(&mut self, effects: &mut Effects) {
        let worth_it = self.stats.outbox_bytes > LIVE_BYTES;
        if self.stats.outbox_bytes > self.room() || (self.nears_shortage() && worth_it) {
            self.evict(None, effects);
        }
        self.thin(effects);
    }

    /// The oldest samples go first, the coarsest class before the finer. Events and results go only where no samples
    /// are left, and only for something at least as urgent: on a disk that others have filled they would all be given
    /// up for nothing. `for_class`: what the disk has no room for; `None`: the limits are crossed.
    pub(super) fn evict(&mut self, for_class: Option<Class>, effects: &mut Effects) {
        if self.evicting || self.rest_until.is_some() || self.thinning.is_busy() {
            return;
        }
        let Some(class) = self.next_to_go(for_class) else { return };
        self.evicting = true;
        effects.store(Purpose::Evict { class }, StoreOp::Evict { class });
    }

    /// Of which class the oldest go first, for the sake of this one. What is in a log's buffer only can still be sent
    /// from there: to give it up would make no room. The only segment of a log that has no samples also holds what the
    /// room is wanted for.
    fn next_to_go(&self, for_class: Option<Class>) -> Option<Class> {
        let least = for_class.map_or(Class::Results, |class| class.min(Class::Telemetry));
        let mut classes = Class::ALL.into_iter().rev().take_while(|class| *class >= least);
        let StoreStats { records, segments, .. } = self.stats;
        let is_on_disk = |lane: &Lane| lane.oldest().is_some_and(|oldest| oldest <= lane.committed);
        let is_wanted = |class: &Class| Some(*class) == for_class && !class.has_samples() && *class.of(&segments) <= 1;
        classes.find(|class| *class.of(&records) > 0 && is_on_disk(class.of(&self.lanes)) && !is_wanted(class))
    }
}
