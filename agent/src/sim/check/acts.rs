//! Promises 2 and 3, the part that the gateway feels: a command acts at most once, and nothing is done that config,
//! budget, uptime, battery or quarantine forbid. Budgets are counted here by true time, which the agent can't know.

use std::collections::{BTreeMap, BTreeSet};

use super::super::report::Promise;
use super::super::scenario::Flaw;
use super::Findings;
use crate::config::{Action, CheckedConfig, QuarantineLevel};
use crate::engine::io::{Act, ActOutcome, ActStatus, Trigger};
use crate::engine::keyed::{QUARANTINE_KEY, Write};
use crate::engine::metric::{Metric, Point, Value, find};
use crate::engine::record::{Body, CommandResult, Record, Status};
use crate::engine::time::Mono;

/// Two readings in a row must say the same before an act is held against them: one may be on its way to the engine.
const READINGS: usize = 2;

/// A budget is spent when that is journaled; on a slow disk the act begins so much later at most.
const JOURNALING_MS: u64 = 120_000;

/// Why an act has `FAILED` that had nothing to work on: nothing was done, by the contract (`HEALED`, `budget_spent`).
pub(in crate::sim) const NOT_THERE: [&str; 8] = [
    "no_such_unit",
    "no_such_interface",
    "no_such_target",
    "no_such_runbook",
    "no_such_release",
    "no_other_release",
    "no_current_release",
    "runbook_refused",
];

/// Counts acts, and holds each against what is allowed.
#[derive(Debug)]
pub(in crate::sim) struct Acts {
    config: CheckedConfig,
    /// How often each command did each kind of act.
    done: BTreeMap<(String, Action), u32>,
    /// True times of acts, by action.
    times: BTreeMap<Action, Vec<u64>>,
    /// When those under way began that spend something.
    under_way: Vec<(u64, Act)>,
    /// The last readings said that there is too little charge.
    low: [bool; READINGS],
    /// The level that is in force, as the gateway has it.
    level: Option<QuarantineLevel>,
    /// The releases that the fleet was told of as done.
    releases: BTreeSet<String>,
    /// The fleet was told that the gateway is let out, and nobody has ordered it to be shut since.
    let_out: bool,
    /// When it was last ordered to be shut, or let out.
    shut: Mono,
    /// The agent has said that it stops.
    stopping: bool,
    /// The machine stayed up then, and the agent went on.
    resumed: Mono,
    /// The journal was lost then: what ran before can't be known.
    journal_lost_at: Option<u64>,
}

/// When an act begins.
#[derive(Debug, Clone, Copy)]
pub(in crate::sim) struct Moment {
    /// True time.
    pub(in crate::sim) at: u64,
    /// Since boot.
    pub(in crate::sim) uptime_ms: u64,
}

impl Acts {
    pub(in crate::sim) fn new(config: &CheckedConfig) -> Self {
        Self {
            config: config.clone(),
            done: BTreeMap::new(),
            times: BTreeMap::new(),
            under_way: Vec::new(),
            low: [false; READINGS],
            level: None,
            releases: BTreeSet::new(),
            let_out: false,
            shut: Mono(0),
            stopping: false,
            resumed: Mono(0),
            journal_lost_at: None,
        }
    }

    /// What the agent could know of the battery.
    pub(in crate::sim) fn observed(&mut self, points: &[Point]) {
        let charge = find(points, Metric::BatteryChargePct).and_then(Value::number);
        let external = matches!(find(points, Metric::BatteryExternalPower), Some(Value::Flag(true)));
        let low = charge.is_some_and(|pct| pct < self.config.remediation.min_battery_pct) && !external;
        self.low.rotate_right(1);
        if let Some(newest) = self.low.first_mut() {
            *newest = low;
        }
    }

    /// An agent starts.
    pub(in crate::sim) fn started(&mut self) {
        (self.stopping, self.resumed, self.shut) = (false, Mono(0), Mono(0));
        // What becomes of what the one before began is told to nobody: that stays spent.
        self.under_way.clear();
    }

    /// The agent makes a record.
    pub(in crate::sim) fn recorded(&mut self, record: &Record) {
        match &record.body {
            // One that the store had refused may come late.
            Body::Event(event) if &*event.name == "stopping" => self.stopping = record.at.mono > self.resumed,
            Body::Result(CommandResult {
                command: Some(command),
                command_id: Some(id),
                status: Status::Succeeded,
                ..
            }) if **command == *"release" => {
                // It may be told again after a crash, and late where the store had refused it.
                self.let_out |= self.releases.insert(id.to_string()) && record.at.mono > self.shut;
            }
            _ => {}
        }
    }

    /// The agent journals these. An order to shut the gateway holds from then on: where the act doesn't come to it, the
    /// next start looks whether it did.
    pub(in crate::sim) fn journaled(&mut self, uptime_ms: u64, entries: &[Write]) {
        if entries.iter().any(|(key, value)| key == QUARANTINE_KEY && value.is_some()) {
            (self.let_out, self.shut) = (false, Mono(uptime_ms));
        }
    }

    /// An act has ended on the gateway.
    pub(in crate::sim) fn ended(&mut self, uptime_ms: u64, act: &Act, outcome: &ActOutcome) {
        let status = outcome.status;
        let place = self.under_way.iter().position(|(_, other)| other == act);
        if let Some((began, _)) = place.map(|at| self.under_way.remove(at)).filter(|_| gives_back(outcome)) {
            // Others may have begun since: theirs stays spent.
            let times = self.times.entry(act.action()).or_default();
            if let Some(at) = times.iter().position(|at| *at == began) {
                times.remove(at);
            }
        }
        match act {
            Act::Quarantine { level } if status == ActStatus::Succeeded => self.level = *level,
            Act::Reboot if status != ActStatus::Succeeded => {
                (self.stopping, self.resumed) = (false, Mono(uptime_ms));
            }
            _ => {}
        }
    }

    pub(in crate::sim) fn journal_lost(&mut self, at: u64) {
        self.journal_lost_at = Some(at);
        self.let_out = false;
        // How much was spent can't be known, so all of it was.
        for (action, budget) in &self.config.remediation.budget {
            let count = usize::try_from(budget.count).unwrap_or(0);
            self.times.insert(*action, vec![at; count]);
        }
    }

    /// The agent lets something be done to the gateway while others are `under_way`. `flaw`: what is wrong with the
    /// command that wants it.
    pub(in crate::sim) fn begun(
        &mut self,
        moment: Moment,
        act: &Act,
        trigger: &Trigger,
        flaw: Option<Flaw>,
        under_way: &[Act],
        findings: &mut Findings,
    ) {
        let action = act.action();
        let name = act_name(act);
        if let Trigger::Command(id) = trigger {
            let times = self.done.entry((id.as_str().to_owned(), action)).or_default();
            *times += 1;
            if *times > 1 && self.journal_lost_at.is_none() {
                let what = format!("command {id} did {name} {times} times");
                findings.note(Promise::AtMostOnce, moment.at, what);
            }
        }
        if let Some(flaw @ (Flaw::Forged | Flaw::Expired | Flaw::Misaddressed)) = flaw {
            let what = format!("{name} for {trigger}: the command is {}", flaw.word());
            findings.note(Promise::NothingForbidden, moment.at, what);
        }
        let why = self.forbidden(moment, act, trigger).or_else(|| self.untimely(act, under_way));
        if let Some(why) = why {
            findings.note(Promise::NothingForbidden, moment.at, format!("{name} for {trigger}: {why}"));
        }
        if act.shuts() {
            (self.let_out, self.shut) = (false, Mono(moment.uptime_ms));
        }
        if act.spends() {
            self.times.entry(action).or_default().push(moment.at);
            // The end of one before may be lost.
            self.under_way.retain(|(_, other)| other != act);
            self.under_way.push((moment.at, act.clone()));
        }
    }

    fn forbidden(&self, moment: Moment, act: &Act, trigger: &Trigger) -> Option<String> {
        let remediation = &self.config.remediation;
        let action = act.action();
        let automatic = trigger.is_automatic();
        let grave = matches!(act, Act::Reboot | Act::Rollback { .. });
        if remediation.dry_run && (act.needs_leave() || matches!(trigger, Trigger::Rule(_))) {
            return Some("remediation.dry_run is set".into());
        }
        if act.needs_leave() && !remediation.allow.contains(&action) {
            return Some("it is not in remediation.allow".into());
        }
        if let Act::RestartUnit { unit } = act {
            if !remediation.units.contains(unit) {
                return Some(format!("{unit} is not in remediation.units"));
            }
        }
        if automatic && grave && u128::from(moment.uptime_ms) < remediation.min_uptime.as_millis() {
            return Some(format!(
                "{} s after boot, min_uptime is {:?}",
                moment.uptime_ms / 1_000,
                remediation.min_uptime
            ));
        }
        if grave && self.low.iter().all(|low| *low) {
            return Some(format!("the charge is below {} % without external power", remediation.min_battery_pct));
        }
        let helps = matches!(act, Act::Quarantine { .. } | Act::Refresh { .. } | Act::CollectDiagnostics);
        if self.level == Some(QuarantineLevel::Isolate) && !helps {
            return Some("the gateway is isolated".into());
        }
        self.over_budget(moment.at, act)
    }

    fn untimely(&self, act: &Act, under_way: &[Act]) -> Option<String> {
        if act.changes() && *act != Act::Reboot && self.stopping {
            return Some("the agent has said that it stops".into());
        }
        if matches!(act, Act::Refresh { .. }) && self.let_out {
            return Some("the fleet was told that the gateway is let out".into());
        }
        let other = under_way.iter().find(|other| other.changes() && other.target() == act.target())?;
        Some(format!("{} is under way", act_name(other)))
    }

    fn over_budget(&self, at: u64, act: &Act) -> Option<String> {
        let budget = self.config.remediation.budget.get(&act.action()).filter(|_| act.spends())?;
        let window = u64::try_from(budget.window.as_millis()).unwrap_or(u64::MAX);
        let times = self.times.get(&act.action())?;
        let window = window.saturating_sub(JOURNALING_MS);
        let spent = times.iter().filter(|then| at.saturating_sub(**then) < window).count();
        (spent >= usize::try_from(budget.count).unwrap_or(usize::MAX))
            .then(|| format!("{spent} within {:?}, the budget is {budget}", budget.window))
    }
}

/// What spends nothing by the contract (`budget_spent`): what was refused, and what names something that isn't there.
/// Said here once more, because what the engine takes for that is what is to be checked.
fn gives_back(outcome: &ActOutcome) -> bool {
    let refused = ["inhibited", "budget_spent", "busy", "not_allowed", "no_helper"];
    let reason = outcome.reason.as_deref().unwrap_or_default();
    match outcome.status {
        ActStatus::Rejected => true,
        ActStatus::Failed => refused.contains(&reason) || NOT_THERE.contains(&reason),
        ActStatus::TimedOut => reason == "no_helper",
        ActStatus::Canceled => reason == "taken_back",
        _ => false,
    }
}

fn act_name(act: &Act) -> String {
    format!("{} ({})", act.action(), act.target())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::{Ending, Own};
    use crate::engine::record::Stamp;
    use crate::engine::time::BootId;
    use crate::sim::tests::{configured, quiet};

    fn with_budget(rollback: &str) -> CheckedConfig {
        configured(quiet(), &format!("[remediation.budget]\nrollback = {rollback:?}")).config
    }

    #[test]
    fn what_names_something_that_is_not_there_spends_no_budget_and_what_is_done_does() {
        let mut acts = Acts::new(&with_budget("1/24h"));
        let act = Act::Rollback { target: "app".into(), to: None };
        let mut over = Vec::new();
        for (at, ending) in [(0, Some(Ending::NoOtherRelease)), (1, None), (2, None)] {
            let (moment, mut findings) = (Moment { at, uptime_ms: 1 << 40 }, Findings::default());
            acts.begun(moment, &act, &Trigger::Rule("hot".into()), None, &[], &mut findings);
            let failed = |ending| ActOutcome::failed(ending, "nothing was done");
            acts.ended(1 << 40, &act, &ending.map_or_else(|| ActOutcome::succeeded("1.0"), failed));
            over.extend(findings.into_parts().0.into_iter().map(|broken| (at, broken.what)));
        }
        let expected = "rollback (release:app) for rule:hot: 1 within 86400s, the budget is 1/24h";
        assert_eq!(over, [(2, expected.to_owned())]);
    }

    #[test]
    fn a_quarantine_that_is_journaled_may_be_looked_at_though_its_act_never_began() {
        let broken = |entry: Option<&'static [u8]>| {
            let (mut acts, mut findings) = (Acts::new(&with_budget("1/24h")), Findings::default());
            let result = CommandResult::bare("r-1", "release", Status::Succeeded);
            let at = Stamp { boot: BootId([1; 16]), mono: Mono(1_000) };
            acts.recorded(&Record { at, body: Body::Result(result) });
            acts.journaled(2_000, &[(QUARANTINE_KEY.to_owned(), entry.map(Into::into))]);
            let look = Act::Refresh { level: QuarantineLevel::Observe, wide: false };
            let moment = Moment { at: 3_000, uptime_ms: 3_000 };
            acts.begun(moment, &look, &Trigger::Own(Own::Quarantine), None, &[], &mut findings);
            findings.into_parts().0.len()
        };
        assert_eq!(broken(None), 1, "it was let out, and nobody has ordered otherwise");
        assert_eq!(broken(Some(b"as ordered")), 0);
    }

    #[test]
    fn what_spends_nothing_gives_back_its_own_time_and_not_that_of_what_began_later() {
        let mut acts = Acts::new(&with_budget("2/24h"));
        let [first, second] = ["app", "os"].map(|target| Act::Rollback { target: target.into(), to: None });
        for (at, act) in [(1, &first), (2, &second)] {
            let trigger = Trigger::Rule("hot".into());
            acts.begun(Moment { at, uptime_ms: 1 << 40 }, act, &trigger, None, &[], &mut Findings::default());
        }
        acts.ended(1 << 40, &first, &ActOutcome::failed(Ending::NoOtherRelease, "nothing was done"));
        assert_eq!(acts.times[&Action::Rollback], [2]);
        acts.ended(1 << 40, &second, &ActOutcome::succeeded("1.0"));
        assert_eq!((&acts.times[&Action::Rollback][..], acts.under_way.len()), (&[2][..], 0));
    }
}
