//! Promises 4 and 5: the store stays within its limits, and so does everything in memory that can grow.

use std::time::Duration;

use super::super::report::Promise;
use super::Findings;
use crate::engine::io::StoreStats;

/// The limit is looked at when a commit is done: what was appended in between, and the segment that has begun, may be
/// over.
const SLACK_BYTES: u64 = 64 * 1024;
/// What a store may keep however short the disk is.
const LIVE_BYTES: u64 = 512 * 1024;
/// How long it may take until space is given back: a store that fails is asked again only now and then.
const MAKES_ROOM_WITHIN: Duration = Duration::from_secs(120);

/// Watches sizes.
#[derive(Debug)]
pub(in crate::sim) struct Limits {
    max_bytes: u64,
    min_free_bytes: u64,
    /// Since when free space is short while there is something to give up.
    short_since: Option<u64>,
    most_bytes: u64,
}

impl Limits {
    pub(in crate::sim) const fn new(max_bytes: u64, min_free_bytes: u64) -> Self {
        Self { max_bytes, min_free_bytes, short_since: None, most_bytes: 0 }
    }

    pub(in crate::sim) const fn most_bytes(&self) -> u64 {
        self.most_bytes
    }

    /// How the store stands; `works`: nobody keeps it from making room on the disk. How much it takes itself is its own
    /// doing, whatever the disk does.
    pub(in crate::sim) fn store(&mut self, at: u64, stats: &StoreStats, works: bool, findings: &mut Findings) {
        let used = stats.outbox_bytes + stats.state_bytes;
        self.most_bytes = self.most_bytes.max(used);
        if used > self.max_bytes + SLACK_BYTES {
            let what = format!("the store takes {used} B, its limit is {} B", self.max_bytes);
            findings.note(Promise::BoundedDisk, at, what);
        }
        let short = stats.free_bytes < self.min_free_bytes && stats.outbox_bytes > LIVE_BYTES && works;
        if !short {
            self.short_since = None;
            return;
        }
        let since = *self.short_since.get_or_insert(at);
        if u128::from(at - since) > MAKES_ROOM_WITHIN.as_millis() {
            let what = format!(
                "{} B are free, {} B should be, and the outbox keeps {} B for {} s",
                stats.free_bytes,
                self.min_free_bytes,
                stats.outbox_bytes,
                (at - since) / 1_000
            );
            findings.note(Promise::BoundedDisk, at, what);
        }
    }

    /// How full something in memory is.
    pub(in crate::sim) fn memory(at: u64, name: &str, holds: usize, bound: usize, findings: &mut Findings) {
        if holds > bound {
            findings.note(Promise::BoundedMemory, at, format!("{name} holds {holds}, its bound is {bound}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_takes_more_than_it_may_is_told_though_the_disk_fails() {
        let mut limits = Limits::new(1_000_000, 0);
        let mut findings = Findings::default();
        let stats = |outbox_bytes| StoreStats { outbox_bytes, ..StoreStats::default() };
        limits.store(0, &stats(1_000_000 + SLACK_BYTES), false, &mut findings);
        limits.store(1, &stats(1_000_001 + SLACK_BYTES), false, &mut findings);
        let (broken, _) = findings.into_parts();
        assert_eq!(broken.iter().map(|broken| broken.at_ms).collect::<Vec<_>>(), [1]);
    }
}
