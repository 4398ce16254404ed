//! A bound on how often something may happen. Pure: time comes in by argument.

use std::time::Duration;

use crate::engine::time::Mono;

/// Lets so many through at once, and then one in so long (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug)]
pub(crate) struct Bucket {
    burst: u32,
    every: Duration,
    /// When the last of those that were let through is paid for.
    paid: Mono,
}

impl Bucket {
    pub(crate) const fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, paid: Mono(0) }
    }

    /// Whether it is as good as new: what was let through is paid for.
    pub(crate) fn is_full(&self, now: Mono) -> bool {
        self.paid <= now
    }

    /// Whether one may pass now.
    pub(crate) fn take(&mut self, now: Mono) -> bool {
        let paid = self.paid.max(now).after(self.every);
        let passes = paid.since(now) <= self.every * self.burst;
        if passes {
            self.paid = paid;
        }
        passes
    }
}
