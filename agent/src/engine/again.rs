//! When what time can mend is asked for again: at growing intervals, or as soon as what it was refused for is over.
//! What is asked for, and what ends what it was refused for, is known elsewhere.

use std::time::Duration;

use super::time::Mono;
use crate::wire::Reason;

/// After the first refusal.
pub(super) const AGAIN_FIRST: Duration = Duration::from_secs(60);
const AGAIN_LAST: Duration = Duration::from_secs(1_800);

/// Whether it is worth asking again for what was refused for this.
pub(super) const fn time_mends(why: Reason) -> bool {
    matches!(
        why,
        Reason::MinUptime
            | Reason::LowBattery
            | Reason::Inhibited
            | Reason::Busy
            | Reason::BudgetSpent
            | Reason::BootLoop
            | Reason::StoreFailed
            | Reason::Quarantined
    )
}

/// One thing that is wanted, and may be refused time after time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Again {
    /// How long is waited after the next refusal.
    wait: Duration,
    /// It isn't asked for before this.
    at: Option<Mono>,
    /// Why it was refused last.
    why: Option<Reason>,
    /// It was let pass once, and whoever was to do it refused it.
    turned_down: bool,
}

impl Again {
    /// Nothing was refused yet.
    pub(super) const fn new() -> Self {
        Self { wait: AGAIN_FIRST, at: None, why: None, turned_down: false }
    }

    /// What was refused, and told, before the agent started: it is asked for at once.
    pub(super) const fn restore(why: Option<Reason>, turned_down: bool) -> Self {
        Self { why, turned_down, ..Self::new() }
    }

    /// It was refused for this: when to ask again; the time after that after longer.
    pub(super) fn refused(&mut self, now: Mono, why: Reason) -> Mono {
        let at = now.after(self.wait);
        self.wait = self.wait.saturating_mul(2).min(AGAIN_LAST);
        (self.at, self.why) = (Some(at), Some(why));
        at
    }

    /// It is not asked for before then, though nobody has refused it.
    pub(super) const fn put_off(&mut self, until: Mono) {
        self.at = Some(until);
    }

    /// It is possible from then on.
    pub(super) fn possible_at(&mut self, at: Mono) {
        self.at = self.at.map(|before| before.min(at));
    }

    /// Why it was refused last.
    pub(super) const fn why(&self) -> Option<Reason> {
        self.why
    }

    /// It was let pass, and whoever is to do it refuses it. The first time that is news, whatever it is for.
    pub(super) const fn turn_down(&mut self) {
        if !self.turned_down {
            (self.why, self.turned_down) = (None, true);
        }
    }

    /// Whether it may well be refused once it was let pass: it was before.
    pub(super) const fn was_turned_down(&self) -> bool {
        self.turned_down
    }

    /// Whether it may be asked for.
    pub(super) fn is_due(&self, now: Mono) -> bool {
        self.at.is_none_or(|at| at <= now)
    }

    /// When that is asked for which is wanted at this time.
    pub(super) fn earliest(&self, wanted: Mono) -> Mono {
        self.at.map_or(wanted, |at| at.max(wanted))
    }
}
