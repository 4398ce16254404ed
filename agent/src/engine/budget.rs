//! How often a disruptive action may run: at most so many within a window. Spending is journaled with the command that
//! spends it, so that neither a crash nor a reboot refills it; what turns out not to have been done is given back after
//! that, so that a crash in between costs a try. Age is judged by boot id and monotonic time.

use std::collections::BTreeMap;
use std::time::Duration;

use minicbor::{Decode, Encode};

use super::commands::Careful;
use super::record::Stamp;
use super::time::Now;
use super::timeline::Timeline;
use crate::config::{Action, Budget};

/// Spendings remembered per action: no budget may be larger, the config's check sees to that.
pub const SPENT_MAX: usize = 128;
/// How far apart two dates of one moment are where the clock was set a little meanwhile.
const LOST_WITHIN_MS: u64 = 10_000;

/// What was spent of each budget.
#[derive(Debug, Default)]
pub struct Ledger {
    spent: BTreeMap<Action, Spent>,
}

/// The spendings of one action, oldest first: as it is stored.
#[derive(Debug, Default, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Spent(#[n(0)] Vec<Stamp>);

/// What an act has spent, for as long as it may turn out not to have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spending {
    action: Action,
    at: Stamp,
}

impl Ledger {
    /// Takes over what was stored for an action.
    pub fn restore(&mut self, action: Action, spent: Spent) {
        self.spent.insert(action, spent);
    }

    /// Dates anew what a clock that was wrong has dated ahead, or none has dated, or it would count as spent until
    /// then. What is returned is to be stored.
    pub fn settle(&mut self, timeline: &Timeline) -> Vec<(Action, Spent)> {
        let mut changed = Vec::new();
        for (action, spent) in &mut self.spent {
            let settled = Spent(spent.0.iter().map(|stamp| timeline.settled(*stamp)).collect());
            if settled != *spent {
                spent.clone_from(&settled);
                changed.push((*action, settled));
            }
        }
        changed
    }

    /// Spends all that a budget has: what was spent before can't be known.
    pub fn exhaust(&mut self, action: Action, budget: &Budget, timeline: &Timeline, now: Now) -> Spent {
        let count = usize::try_from(budget.count).unwrap_or(SPENT_MAX).min(SPENT_MAX);
        let spent = Spent(vec![timeline.stamp(now.mono); count]);
        self.spent.insert(action, spent.clone());
        spent
    }

    /// Whether what counts as spent is what [`Ledger::exhaust`] has spent when the journal was lost.
    #[must_use]
    pub fn was_lost(&self, action: Action, timeline: &Timeline, careful: Careful) -> bool {
        let is_then = |stamp: &Stamp| {
            let dates = timeline.date(*stamp).zip(careful.before);
            careful.since == Some(*stamp) || dates.is_some_and(|(date, loss)| date.0.abs_diff(loss.0) < LOST_WITHIN_MS)
        };
        self.spent.get(&action).is_some_and(|spent| spent.0.iter().any(is_then))
    }

    /// After how long there is something left; `None`: never.
    #[must_use]
    pub fn room_in(&self, action: Action, budget: &Budget, timeline: &Timeline, now: Now) -> Option<Duration> {
        let spent = self.spent.get(&action).map(|spent| spent.0.as_slice()).unwrap_or_default();
        let ages = spent.iter().map(|stamp| timeline.age(*stamp, now));
        let left = ages.filter_map(|age| budget.window.checked_sub(age).filter(|left| !left.is_zero()));
        let left: Vec<Duration> = left.collect();
        match left.len().checked_sub(usize::try_from(budget.count).unwrap_or(usize::MAX)) {
            None => Some(Duration::ZERO),
            // Oldest first: with this one there are fewer than the limit.
            Some(surplus) => left.get(surplus).copied(),
        }
    }

    /// Spends one; what is returned is to be stored. Actions without a budget aren't kept.
    pub fn spend(
        &mut self,
        action: Action,
        budget: Option<&Budget>,
        timeline: &Timeline,
        now: Now,
    ) -> Option<(Spent, Spending)> {
        let budget = budget?;
        let at = timeline.stamp(now.mono);
        let spent = self.spent.entry(action).or_default();
        spent.0.retain(|stamp| timeline.age(*stamp, now) < budget.window);
        spent.0.push(at);
        let surplus = spent.0.len().saturating_sub(SPENT_MAX.min(usize::try_from(budget.count).unwrap_or(SPENT_MAX)));
        spent.0.drain(..surplus);
        Some((spent.clone(), Spending { action, at }))
    }

    /// Takes a spending back: nothing was done for it. What is returned is to be stored.
    pub fn give_back(&mut self, spending: Spending) -> Option<(Action, Spent)> {
        let spent = self.spent.get_mut(&spending.action)?;
        let place = spent.0.iter().rposition(|stamp| *stamp == spending.at)?;
        spent.0.remove(place);
        Some((spending.action, spent.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::time::{BootId, Mono, Unix, Wall};

    const BUDGET: Budget = Budget { count: 2, window: Duration::from_secs(3600) };

    fn now(mono_s: u64) -> Now {
        Now { mono: Mono(mono_s * 1000), wall: Wall { unix: Unix(0), trusted: false } }
    }

    fn timeline(boot: u8) -> Timeline {
        Timeline::new(BootId([boot; 16]), BTreeMap::new(), None, Unix(0))
    }

    fn has_left(ledger: &Ledger, action: Action, timeline: &Timeline, now: Now) -> bool {
        ledger.room_in(action, &BUDGET, timeline, now) == Some(Duration::ZERO)
    }

    #[test]
    fn what_a_clock_that_was_a_year_ahead_dated_is_not_spent_for_that_year() {
        const YEAR_MS: i64 = 365 * 86_400_000;
        let by_clock = |mono_s: u64, unix: i64| Now { wall: Wall { unix: Unix(unix), trusted: true }, ..now(mono_s) };
        let (mut ledger, mut ahead) = (Ledger::default(), timeline(1));
        ahead.observe(by_clock(60, YEAR_MS));
        for s in [60, 61] {
            ledger.spend(Action::Rollback, Some(&BUDGET), &ahead, now(s));
        }
        let mut anchors: BTreeMap<_, _> =
            ahead.anchor(ahead.boot()).map(|anchor| (ahead.boot(), anchor)).into_iter().collect();
        // Each boot is up for a minute, and an hour passes until the next one.
        for boot in 2..5_u8 {
            let mut timeline = Timeline::new(BootId([boot; 16]), anchors.clone(), None, Unix(0));
            let now = by_clock(60, i64::from(boot) * 3_600_000);
            timeline.observe(now);
            let settled = ledger.settle(&timeline);
            assert_eq!(settled.len(), usize::from(boot == 2), "boot {boot}");
            assert_eq!(has_left(&ledger, Action::Rollback, &timeline, now), boot > 2, "boot {boot}");
            anchors.extend(timeline.anchor(timeline.boot()).map(|anchor| (timeline.boot(), anchor)));
        }
    }

    #[test]
    fn a_spent_budget_is_refilled_only_by_its_window() {
        let (mut ledger, timeline) = (Ledger::default(), timeline(1));
        for s in [0, 10] {
            assert!(has_left(&ledger, Action::RestartUnit, &timeline, now(s)));
            ledger.spend(Action::RestartUnit, Some(&BUDGET), &timeline, now(s));
        }
        assert!(!has_left(&ledger, Action::RestartUnit, &timeline, now(3_599)));
        let room_in = |s| ledger.room_in(Action::RestartUnit, &BUDGET, &timeline, now(s)).map(|left| left.as_secs());
        assert_eq!([room_in(10), room_in(3_599), room_in(3_600)], [Some(3_590), Some(1), Some(0)]);
        assert!(has_left(&ledger, Action::RestartUnit, &timeline, now(3_600)));
        assert!(has_left(&ledger, Action::Reboot, &timeline, now(0)), "each action has its own");
    }

    #[test]
    fn what_is_given_back_is_what_was_spent_then_and_once() {
        let (mut ledger, timeline) = (Ledger::default(), timeline(1));
        let spend = |ledger: &mut Ledger, s| ledger.spend(Action::Reboot, Some(&BUDGET), &timeline, now(s)).unwrap().1;
        let [first, _] = [0, 10].map(|s| spend(&mut ledger, s));
        let left = ledger.give_back(first).unwrap();
        assert_eq!(left, (Action::Reboot, Spent(vec![timeline.stamp(now(10).mono)])));
        assert_eq!(ledger.give_back(first), None);
        spend(&mut ledger, 20);
        assert!(!has_left(&ledger, Action::Reboot, &timeline, now(3_605)), "the second still counts");
    }

    #[test]
    fn a_reboot_does_not_refill_a_budget_when_no_clock_says_how_long_it_took() {
        let (mut before, mut after) = (Ledger::default(), Ledger::default());
        let spent = [1, 2].map(|s| before.spend(Action::Reboot, Some(&BUDGET), &timeline(1), now(s)));
        let stored = minicbor::to_vec(spent[1].clone().unwrap().0).unwrap();
        after.restore(Action::Reboot, minicbor::decode(&stored).unwrap());
        assert!(!has_left(&after, Action::Reboot, &timeline(2), now(60)));
        assert!(has_left(&after, Action::Reboot, &timeline(2), now(3_600)));
    }
}
