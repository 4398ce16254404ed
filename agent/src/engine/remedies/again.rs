//! When what time can mend is asked for again: at growing intervals. What is asked for, and whether something else makes
//! it possible before, is known elsewhere.

use std::time::Duration;

use crate::engine::time::Mono;

/// After the first refusal.
pub(super) const AGAIN_FIRST: Duration = Duration::from_secs(60);
const AGAIN_LAST: Duration = Duration::from_secs(1_800);

/// How long the next wait is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Again(Duration);

impl Again {
    /// Nothing was refused yet.
    pub(crate) const fn new() -> Self {
        Self(AGAIN_FIRST)
    }

    /// When to ask again; the time after that after longer.
    pub(crate) fn next(&mut self, now: Mono) -> Mono {
        let at = now.after(self.0);
        self.0 = self.0.saturating_mul(2).min(AGAIN_LAST);
        at
    }
}
