//! What commands and ladders spend of their budgets: it is journaled with what it is spent on, and given back where
//! that was not begun.

use super::{Commands, Facts, Step};
use crate::config::{Action, Budget};
use crate::engine::budget::{Spending, Spent};
use crate::engine::effects::Purpose;
use crate::engine::io::{Act, EffectId};
use crate::engine::keyed::{BUDGET_KEY, Write, write};
use crate::engine::time::Mono;
use crate::engine::timeline::Timeline;
use crate::wire::CommandId;

impl Commands {
    /// Spends the budget of an act: what is to be journaled with it, and what can be given back.
    pub fn spend(&mut self, facts: Facts<'_>, act: &Act) -> Option<(Write, Spending)> {
        if !act.spends() {
            return None;
        }
        let action = act.action();
        let budget = facts.config.remediation.budget.get(&action);
        let (spent, spending) = self.budgets.spend(action, budget, facts.timeline, facts.now)?;
        Some((budget_entry(action, &spent), spending))
    }

    /// Gives back what an act has spent that was not done after all; what is returned is to be stored.
    pub fn give_back(&mut self, spending: Spending) -> Option<Write> {
        let (action, spent) = self.budgets.give_back(spending)?;
        Some(budget_entry(action, &spent))
    }

    /// What the act of a command has spent, which was not done.
    pub fn take_spending(&mut self, effect: EffectId) -> Option<Spending> {
        self.ledger.get_mut(self.running.get(&effect)?)?.spending.take()
    }

    /// When the budget of an act has room again; `None` where that isn't known.
    #[must_use]
    pub fn room_at(&self, facts: Facts<'_>, act: &Act) -> Option<Mono> {
        let budget = facts.config.remediation.budget.get(&act.action())?;
        Some(facts.now.mono.after(self.budgets.room_in(act.action(), budget, facts.timeline, facts.now)?))
    }

    /// Counts every budget as spent; what is returned is to be stored.
    pub fn exhaust_budgets(&mut self, facts: Facts<'_>) -> Vec<Write> {
        let spend = |(action, budget): (&Action, &Budget)| {
            budget_entry(*action, &self.budgets.exhaust(*action, budget, facts.timeline, facts.now))
        };
        facts.config.remediation.budget.iter().map(spend).collect()
    }

    /// Gives what was spent in other boots a date by which its age can be told, now that the clock can be trusted: what
    /// is to be saved.
    pub fn date_budgets(&mut self, timeline: &Timeline) -> Vec<Write> {
        self.budgets.settle(timeline).iter().map(|(action, spent)| budget_entry(*action, spent)).collect()
    }

    /// It was not begun: what it has spent is given back.
    pub(super) fn unspend(&mut self, id: &CommandId) {
        let spending = self.ledger.get_mut(id).and_then(|entry| entry.spending.take());
        if let Some(entry) = spending.and_then(|spending| self.give_back(spending)) {
            self.steps.push_back(Step::Journal(Purpose::Note, vec![entry]));
        }
    }
}

fn budget_entry(action: Action, spent: &Spent) -> Write {
    write(format!("{BUDGET_KEY}{}", action.word()), spent)
}
