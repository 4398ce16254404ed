//! Ladders: what the gateway tries by itself when an alarm is raised. One run for each rule: a step is admitted,
//! journaled, acted, given time to settle, and looked at; if the alarm still stands, the next step's turn comes. A
//! ladder that ran out ends, and begins anew only after a time of health. Waiting → Acting → Settling → (Waiting for
//! the next step | Healed | Exhausted). Whether the alarm stands is the rules' business, what the act does the
//! runtime's.

mod boots;
mod run;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::Identity;
use super::admission::Refusal;
use super::again::{AGAIN_FIRST, time_mends};
use super::budget::Spending;
use super::io::{Act, ActOutcome, ActStatus, EffectId, Ending};
use super::keyed::{BOOTS_KEY, REMEDY_KEY, Write};
use super::observation::Severity;
use super::reboot::left_by;
use super::record::{Event, EventKind, Stamp, Status};
use super::time::{Mono, Now};
use super::timeline::Timeline;
use super::trial::Releases;
use crate::config::{CheckedConfig, Remedy, Rule, Slowness};
use crate::wire::Reason;
use boots::Boots;
use run::{Doing, Run, State, Stored, key};

/// Alarms whose ladders are climbed at the same time; the others wait.
pub const RUNS_MAX: usize = 16;
/// After so long without the alarm a ladder begins at its first step again; before, it goes on above the one that
/// helped.
const HEALTH: Duration = Duration::from_secs(3_600);
/// Something that the engine is to do for a ladder.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Tell what happened.
    Tell(Event),
    /// Write to the journal, spend the budget of the act with it, and come back when it is durable.
    Journal {
        /// The rule.
        rule: String,
        /// Its key, and what stands there.
        entry: Write,
        /// The act whose budget is spent.
        act: Act,
    },
    /// Write to the journal, and tell what goes with that; nothing waits for it.
    Note(Write, Vec<Event>),
    /// Act on the gateway.
    Act {
        /// The rule.
        rule: String,
        /// What.
        act: Act,
    },
}

/// What decisions are made from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The present.
    pub now: Now,
    /// Which ladders there are, and what climbs them.
    pub config: &'a CheckedConfig,
    /// Dates what is stored, and says how long ago it was.
    pub timeline: &'a Timeline,
    /// The agent is about to end: nothing begins.
    pub stopping: bool,
    /// The releases that run.
    pub(super) releases: &'a Releases,
}

impl Facts<'_> {
    fn stamp(self) -> Stamp {
        self.timeline.stamp(self.now.mono)
    }

    fn age(self, since: Stamp) -> Duration {
        self.timeline.age(since, self.now)
    }

    fn rule(&self, name: &str) -> Option<&Rule> {
        self.config.rules.iter().find(|rule| rule.name == name)
    }
}

/// All ladders.
#[derive(Debug, Default)]
pub struct Remedies {
    runs: BTreeMap<String, Run>,
    steps: VecDeque<Step>,
    boots: Boots,
}

impl Remedies {
    /// Starts with what the journal holds. A step that was under way is not known to have worked, and counts as done.
    #[must_use]
    pub fn new(
        facts: Facts<'_>,
        state: &[(String, Bytes)],
        identity: &Identity,
        is_raised: impl Fn(&str) -> bool,
    ) -> Self {
        let mut remedies = Self::default();
        for (key, value) in state {
            if key == BOOTS_KEY {
                remedies.boots = Boots::restore(value);
            } else if let Some(rule) = key.strip_prefix(REMEDY_KEY) {
                remedies.restore(facts, rule, value, identity, is_raised(rule));
            }
        }
        remedies.steps.extend(remedies.boots.count(facts).map(note_only));
        remedies
    }

    /// Time has passed.
    pub fn poll(&mut self, facts: Facts<'_>) {
        self.steps.extend(self.boots.outlast(facts).map(note_only));
    }

    /// What is to be done next.
    pub fn poll_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// When it is the next rule's turn.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.runs.values().filter_map(|run| run.due).min()
    }

    /// Ladders being climbed, and the bound.
    #[must_use]
    pub fn bounds(&self) -> (&'static str, usize, usize) {
        ("ladders being climbed", self.climbing(), RUNS_MAX)
    }

    /// What ladders are doing.
    pub fn acts(&self) -> impl Iterator<Item = Act> + '_ {
        self.runs.values().filter_map(|run| run.admitted.as_ref().or(run.begun.as_ref()).cloned())
    }

    /// An alarm with a ladder was raised.
    pub fn alarm_raised(&mut self, facts: Facts<'_>, rule: &str, ladder: &str) {
        let Some(metric) = facts.rule(rule).map(|known| known.metric.clone()) else { return };
        let climb = match self.runs.get_mut(rule) {
            Some(run) if run.stored.state != State::Healed => return,
            Some(run) if came_back_soon(facts, &run.stored, (ladder, &metric)) => {
                if run.go_on(facts) {
                    self.note(facts, rule);
                }
                return;
            }
            Some(run) => run.stored.climb + 1,
            None => 1,
        };
        let stored = Stored::new(climb, facts.stamp(), ladder.to_owned(), metric);
        self.runs.insert(rule.to_owned(), Run::new(stored, Some(facts.now.mono), None));
        self.note(facts, rule);
    }

    /// An alarm with a ladder stands that may not have been climbed yet: since before a start or another configuration.
    pub fn alarm_stands(&mut self, facts: Facts<'_>, rule: &str, ladder: &str) {
        if self.runs.get(rule).is_some_and(|run| run.stored.state != State::Healed) {
            return;
        }
        self.alarm_raised(facts, rule, ladder);
        if let Some(run) = self.runs.get_mut(rule) {
            run.looks_after = Some(facts.now.mono);
        }
    }

    /// An alarm was cleared.
    pub fn alarm_cleared(&mut self, facts: Facts<'_>, rule: &str) {
        let Some(run) = self.runs.get_mut(rule) else { return };
        match run.stored.state {
            // Its outcome is still to come; then it is looked at.
            State::Acting | State::Healed => return,
            State::Waiting => run.stored.unbegun = true,
            State::Settling | State::Exhausted => {}
        }
        self.healed(facts, rule);
    }

    /// A rule whose turn it is. Its turn is over once it was taken.
    #[must_use]
    pub fn next_due(&self, now: Mono) -> Option<String> {
        self.runs.iter().find(|(_, run)| run.due.is_some_and(|at| at <= now)).map(|(rule, _)| rule.clone())
    }

    /// By readings later than this it is decided what comes in a rule's turn.
    #[must_use]
    pub fn looks_after(&self, rule: &str) -> Option<Mono> {
        self.runs.get(rule)?.looks_after
    }

    /// A rule's turn comes then.
    pub fn put_off(&mut self, rule: &str, until: Mono) {
        if let Some(run) = self.runs.get_mut(rule) {
            run.due = Some(until);
        }
    }

    /// What was refused for this reason is not any more: those that wait because of it have their turn now.
    pub fn is_over(&mut self, now: Mono, reason: Reason) {
        for run in self.runs.values_mut().filter(|run| run.again.why() == Some(reason)) {
            run.ask_by(now);
        }
    }

    /// What a rule was refused is possible from then on: its turn comes no later.
    pub fn possible_at(&mut self, rule: &str, at: Mono) {
        if let Some(run) = self.runs.get_mut(rule) {
            run.ask_by(at);
        }
    }

    /// What a rule would do in its turn, if its admission has to be asked for.
    #[must_use]
    pub fn wanted(&self, rule: &str, config: &CheckedConfig) -> Option<Act> {
        let run = self.runs.get(rule).filter(|run| run.stored.state == State::Waiting)?;
        run.act(config)
    }

    /// It is a rule's turn. `verdict`: whether what it wants may be done now.
    pub fn take_turn(&mut self, facts: Facts<'_>, rule: &str, raised: bool, verdict: Result<(), Refusal>) {
        let Some(run) = self.runs.get_mut(rule) else { return };
        (run.due, run.looks_after) = (None, None);
        match run.stored.state {
            State::Waiting => self.try_step(facts, rule, verdict),
            State::Settling if raised => self.next_step(facts, rule),
            State::Settling => self.healed(facts, rule),
            State::Exhausted => self.note(facts, rule),
            State::Acting | State::Healed => {}
        }
    }

    /// The journal says that a step has begun, or could not be told. An act that is not begun after all.
    pub fn journaled(&mut self, facts: Facts<'_>, rule: &str, written: bool) -> Option<Act> {
        let run = self.runs.get_mut(rule).filter(|run| run.stored.state == State::Acting)?;
        let act = run.admitted.take()?;
        if run.stored.canceled {
            run.stored.unbegun = true;
            self.end(facts, rule, Vec::new());
            return Some(act);
        }
        if !run.is_wanted(rule, facts.config) {
            run.stored.state = State::Waiting;
            self.leave(facts, rule, Vec::new());
            return Some(act);
        }
        if !written {
            // It was not begun. The entry may be on disk all the same: then a crash counts this step as done.
            run.stored.state = State::Waiting;
            run.due = Some(facts.now.mono.after(AGAIN_FIRST));
            return Some(act);
        }
        if facts.stopping {
            // The next start begins it, if the alarm still stands.
            run.stored.state = State::Waiting;
            run.due = Some(facts.now.mono.after(AGAIN_FIRST));
            self.note(facts, rule);
            return Some(act);
        }
        if run.act(facts.config).as_ref() != Some(&act) {
            // The configuration was changed meanwhile: what the step is now has to be admitted first.
            run.stored.state = State::Waiting;
            run.due = Some(facts.now.mono);
            self.note(facts, rule);
            return Some(act);
        }
        // Else each refusal would need an end of it, and be told over and over.
        if !run.again.was_turned_down() {
            let event = run.event(rule, &act, Status::InProgress, None);
            self.steps.push_back(Step::Tell(event));
        }
        run.begun = Some(act.clone());
        self.steps.push_back(Step::Act { rule: rule.to_owned(), act });
        None
    }

    /// What the step that is on its way into the journal has spent.
    pub fn spent(&mut self, rule: &str, spending: Option<Spending>) {
        if let Some(run) = self.runs.get_mut(rule) {
            run.spending = spending;
        }
    }

    /// What a rule's step has spent that was not begun.
    pub fn take_spending(&mut self, rule: &str) -> Option<Spending> {
        self.runs.get_mut(rule)?.spending.take()
    }

    /// The same of an act.
    pub fn take_spending_of(&mut self, effect: EffectId) -> Option<Spending> {
        self.runs.values_mut().find(|run| run.effect == Some(effect))?.spending.take()
    }

    /// The act of a rule's step was handed to the runtime under this id.
    pub fn acting(&mut self, rule: &str, effect: EffectId) {
        if let Some(run) = self.runs.get_mut(rule) {
            run.effect = Some(effect);
        }
    }

    /// On whose account an act goes on: its trigger, the remedy's id and the step. `None`: it is not one of a ladder's.
    #[must_use]
    pub fn account(&self, act: EffectId) -> Option<String> {
        let (rule, run) = self.runs.iter().find(|(_, run)| run.effect == Some(act))?;
        Some(format!("{} ({}, step {})", run::trigger(rule), run.id(rule), run.stored.step + 1))
    }

    /// An act ended. False: it is not one of a ladder's.
    pub fn acted(&mut self, facts: Facts<'_>, effect: EffectId, outcome: &ActOutcome) -> bool {
        let Some((rule, run)) = self.runs.iter_mut().find(|(_, run)| run.effect == Some(effect)) else { return false };
        run.effect = None;
        let begun = run.begun.take();
        // A reboot that completes what is done is another matter: the step was begun, and is not begun again.
        let is_first = !run.stored.canceled && !run.stored.awaits_boot;
        if let Some(reason) = refusal(outcome).filter(|_| is_first) {
            // Nothing was done, by somebody's will: to take that for a step that didn't help would be worse than to
            // wait.
            let rule = rule.clone();
            run.stored.state = State::Waiting;
            run.again.turn_down();
            let is_wanted = run.is_wanted(&rule, facts.config);
            if let Some(act) = begun {
                let detail = outcome.detail.clone().unwrap_or_default();
                self.refused(facts, &rule, &act, (reason, detail));
            }
            if is_wanted {
                self.note(facts, &rule);
            } else {
                self.leave(facts, &rule, Vec::new());
            }
            return true;
        }
        let ended = begun.map(|act| {
            let event = run.event(rule, &act, outcome.status.status(), outcome.reason.as_deref());
            let detail = outcome.detail.as_deref().filter(|_| run.stored.awaits_boot);
            event.with_some("detail", detail)
        });
        let rule = rule.clone();
        self.settle(facts, &rule, begins_nothing(outcome), Vec::from_iter(ended));
        true
    }

    /// A command ends all that goes on: none goes a step further before its alarm has been cleared. Acts that are under
    /// way.
    pub fn cancel(&mut self, facts: Facts<'_>) -> Vec<EffectId> {
        let goes_on = |run: &Run| matches!(run.stored.state, State::Waiting | State::Acting | State::Settling);
        let rules: Vec<String> =
            self.runs.iter().filter(|(_, run)| goes_on(run)).map(|(rule, _)| rule.clone()).collect();
        let mut under_way = Vec::new();
        for rule in rules {
            let Some(run) = self.runs.get_mut(&rule) else { continue };
            run.stored.canceled = true;
            let canceled = vec![run.canceled(&rule, Reason::Canceled)];
            // One that is on its way into the journal ends when that is done, and one under way goes no further, were
            // it after a crash.
            match run.stored.state {
                State::Acting => {
                    under_way.extend(run.effect);
                    self.note_and_tell(facts, &rule, canceled);
                }
                state => {
                    run.stored.unbegun = state == State::Waiting;
                    self.end(facts, &rule, canceled);
                }
            }
        }
        under_way
    }

    /// What an act of a ladder's did is completed by a boot, which is the end of this other act. False: it is not one
    /// of a ladder's. `running`: which release of a target runs until then.
    pub fn awaits_boot<'a>(
        &mut self,
        act: EffectId,
        reboot: EffectId,
        running: impl FnOnce(&str) -> Option<&'a str>,
    ) -> bool {
        let Some((rule, run)) = self.runs.iter_mut().find(|(_, run)| run.effect == Some(act)) else { return false };
        run.effect = Some(reboot);
        run.stored.awaits_boot = true;
        run.stored.leaves = run.begun.as_ref().and_then(|act| running(&act.target())).map(Into::into);
        run.spending = None;
        let entry = run.entry(rule);
        self.steps.push_back(note_only(entry));
        true
    }

    /// How slow the agent is to be: as the last step of each ladder says that was done to save power, as long as its
    /// alarm stands. Of several each interval is the longest: another alarm never makes it do more.
    pub fn slowness(&self, config: &CheckedConfig) -> Option<Slowness> {
        let standing = self.runs.values().filter(|run| run.stored.state != State::Healed);
        let wanted = standing.filter_map(|run| {
            let step = usize::try_from(run.stored.saves?).ok()?;
            match config.ladders.get(&run.stored.ladder)?.get(step)?.remedy {
                Remedy::SavePower(slowness) => Some(slowness),
                _ => None,
            }
        });
        wanted.reduce(|one, other| Slowness {
            sample: one.sample.max(other.sample),
            report: one.report.max(other.report),
            publish: one.publish.max(other.publish),
        })
    }

    /// The store may not have what was noted: all of it is noted again. What is on its way into the journal is known
    /// when it is there.
    pub fn note_again(&mut self) {
        self.steps.push_back(note_only(self.boots.entry()));
        for (rule, run) in self.runs.iter_mut().filter(|(_, run)| run.admitted.is_none()) {
            self.steps.push_back(note_only(run.entry(rule)));
        }
    }

    /// Takes over a config: what its rules don't climb any more ends, and so does the rehearsal of what is to be real
    /// now. What is under way is waited for.
    pub fn reconfigure(&mut self, facts: Facts<'_>) {
        let is_over = |rule: &str, run: &Run| {
            let was_rehearsed = run.stored.dry && !facts.config.remediation.dry_run;
            let is_open = !matches!(run.stored.state, State::Acting | State::Healed);
            is_open && (was_rehearsed || !run.is_wanted(rule, facts.config))
        };
        let over = self.runs.iter().filter(|(rule, run)| is_over(rule, run)).map(|(rule, _)| rule.clone());
        for rule in over.collect::<Vec<String>>() {
            self.leave(facts, &rule, Vec::new());
        }
    }

    /// The configuration no longer wants this climb. Its number stays known: the next one has another.
    fn leave(&mut self, facts: Facts<'_>, rule: &str, mut told: Vec<Event>) {
        let Some(run) = self.runs.get_mut(rule) else { return };
        if matches!(run.stored.state, State::Waiting | State::Acting | State::Settling) {
            told.push(run.canceled(rule, Reason::ConfigChanged));
        }
        run.stored.unbegun |= run.stored.state == State::Waiting;
        run.enter(State::Healed, facts);
        run.looks_after = None;
        self.note_and_tell(facts, rule, told);
    }

    fn restore(&mut self, facts: Facts<'_>, rule: &str, value: &Bytes, identity: &Identity, raised: bool) {
        let known = facts.rule(rule).and_then(|known| Some((known.remedy.clone()?, known.metric.clone())));
        let stored = minicbor::decode::<Stored>(value).ok();
        // What is still open is told and ended, whatever the configuration wants by now.
        let Some(mut stored) = stored.filter(|stored| known.is_some() || stored.state != State::Healed) else {
            return self.steps.push_back(note_only((key(rule), None)));
        };
        let (ladder, metric) = known.unwrap_or_default();
        if stored.ladder.is_empty() {
            stored.ladder = ladder;
        }
        if stored.metric.is_empty() {
            stored.metric = metric;
        }
        let run = Run::new(stored, None, Some(facts.now.mono));
        let cut_off = Vec::from_iter(run.cut_off(rule, identity));
        let (state, is_wanted) = (run.stored.state, run.is_wanted(rule, facts.config));
        self.runs.insert(rule.to_owned(), run);
        match state {
            // What is not wanted any more ends with the look at the configuration that follows.
            _ if state != State::Acting && !is_wanted => {}
            State::Waiting if !raised => self.alarm_cleared(facts, rule),
            State::Waiting => self.put_off(rule, facts.now.mono),
            State::Acting | State::Settling => self.settle(facts, rule, false, cut_off),
            State::Exhausted if !raised => self.healed(facts, rule),
            State::Healed | State::Exhausted => {}
        }
    }

    fn try_step(&mut self, facts: Facts<'_>, rule: &str, verdict: Result<(), Refusal>) {
        let looping = self.boots.looping(facts);
        let crowded = self.climbing() >= RUNS_MAX;
        let Some(run) = self.runs.get_mut(rule) else { return };
        let Some(act) = run.act(facts.config) else { return self.exhausted(facts, rule) };
        let admitted = match looping {
            Some(detail) => Err((Reason::BootLoop, detail)),
            None if crowded => Err((Reason::Busy, format!("{RUNS_MAX} ladders are being climbed"))),
            None => verdict,
        };
        if let Err(refusal) = admitted {
            return self.refused(facts, rule, &act, refusal);
        }
        run.enter(State::Acting, facts);
        run.stored.dry = false;
        (run.stored.awaits_boot, run.stored.leaves) = (false, left_by(facts.releases, &act));
        run.stored.doing = Some(Doing::of(&act));
        run.admitted = Some(act.clone());
        let entry = run.entry(rule);
        self.steps.push_back(Step::Journal { rule: rule.to_owned(), entry, act });
    }

    fn refused(&mut self, facts: Facts<'_>, rule: &str, act: &Act, (reason, detail): Refusal) {
        let Some(run) = self.runs.get_mut(rule) else { return };
        if run.again.why() != Some(reason) {
            let event = run.event(rule, act, Status::Rejected, Some(reason.word())).with("detail", detail.as_str());
            self.steps.push_back(Step::Tell(event));
            if matches!(reason, Reason::BudgetSpent | Reason::BootLoop) {
                let audit = Event::new(Severity::Warning, EventKind::Audit, reason.word())
                    .with("trigger", run::trigger(rule).as_str())
                    .with("action", act.action().word())
                    .with("detail", detail.as_str());
                self.steps.push_back(Step::Tell(audit));
            }
        }
        match reason {
            // As much is in force already, or more.
            Reason::Quarantined if matches!(act, Act::Quarantine { .. }) => self.next_step(facts, rule),
            reason if time_mends(reason) => {
                run.due = Some(run.again.refused(facts.now.mono, reason));
                run.keep_refusal();
                self.note(facts, rule);
            }
            Reason::DryRun => {
                run.stored.dry = true;
                let settle = run.step(facts.config).map_or(Duration::ZERO, |step| step.settle);
                self.next_step(facts, rule);
                self.put_off(rule, facts.now.mono.after(settle));
            }
            _ => self.next_step(facts, rule),
        }
    }

    fn next_step(&mut self, facts: Facts<'_>, rule: &str) {
        let Some(run) = self.runs.get_mut(rule) else { return };
        run.stored.step += 1;
        run.enter(State::Waiting, facts);
        run.forget_refusals();
        run.due = Some(facts.now.mono);
        self.note(facts, rule);
    }

    /// `nothing_begun`: what was under way ended without having begun.
    fn settle(&mut self, facts: Facts<'_>, rule: &str, nothing_begun: bool, ended: Vec<Event>) {
        let Some(run) = self.runs.get_mut(rule) else { return };
        if run.stored.doing.as_ref().is_some_and(Doing::saves_power) {
            run.stored.saves = Some(run.stored.step);
        }
        if run.stored.canceled {
            return self.end(facts, rule, ended);
        }
        if !run.is_wanted(rule, facts.config) {
            return self.leave(facts, rule, ended);
        }
        if run.stored.state == State::Acting {
            run.stored.idle &= nothing_begun;
        }
        run.enter(State::Settling, facts);
        run.looks_after = Some(facts.now.mono);
        run.forget_refusals();
        let settle = run.step(facts.config).map_or(Duration::ZERO, |step| step.settle);
        run.due = Some(facts.now.mono.after(settle));
        self.note_and_tell(facts, rule, ended);
    }

    fn healed(&mut self, facts: Facts<'_>, rule: &str) {
        let Some(run) = self.runs.get_mut(rule) else { return };
        let helped = run.stored.state != State::Exhausted && !run.stored.dry && !run.stored.idle;
        run.enter(State::Healed, facts);
        let healed = helped.then(|| run.ladder_event(rule, Severity::Notice, "healed", "HEALED"));
        self.note_and_tell(facts, rule, Vec::from_iter(healed));
    }

    fn exhausted(&mut self, facts: Facts<'_>, rule: &str) {
        let Some(run) = self.runs.get_mut(rule) else { return };
        // A rehearsal wakes nobody, but shows that the ladder ends here.
        let severity = if run.stored.dry { Severity::Notice } else { Severity::Error };
        let event = run.ladder_event(rule, severity, "ladder_exhausted", "EXHAUSTED");
        let rehearsed = run.stored.dry.then(|| Reason::DryRun.word());
        (run.stored.exhausted, run.stored.unbegun) = (true, true);
        self.end(facts, rule, vec![event.with_some("reason", rehearsed)]);
    }

    /// It goes no further before its alarm has been cleared.
    fn end(&mut self, facts: Facts<'_>, rule: &str, told: Vec<Event>) {
        let Some(run) = self.runs.get_mut(rule) else { return };
        run.enter(State::Exhausted, facts);
        self.note_and_tell(facts, rule, told);
    }

    fn note(&mut self, facts: Facts<'_>, rule: &str) {
        self.note_and_tell(facts, rule, Vec::new());
    }

    /// What is told goes with what is written: told before, it would be told otherwise after a crash.
    fn note_and_tell(&mut self, facts: Facts<'_>, rule: &str, told: Vec<Event>) {
        let Some(run) = self.runs.get_mut(rule) else { return };
        if !told.is_empty() || !run.is_noted(facts) {
            let entry = run.entry(rule);
            self.steps.push_back(Step::Note(entry, told));
        }
    }

    fn climbing(&self) -> usize {
        self.runs.values().filter(|run| matches!(run.stored.state, State::Acting | State::Settling)).count()
    }
}

const fn note_only(entry: Write) -> Step {
    Step::Note(entry, Vec::new())
}

/// Whether an alarm that is raised again goes on with the climb before: it came back too soon, so what was tried last
/// didn't heal it.
fn came_back_soon(facts: Facts<'_>, before: &Stored, (ladder, metric): (&str, &str)) -> bool {
    // What was only rehearsed counts as tried in a rehearsal alone.
    let counts = !before.dry || facts.config.remediation.dry_run;
    // Where it can't be told, it was not: the step above may be a reboot, and the one below has helped before.
    let is_soon = facts.timeline.known_age(before.since, facts.now).is_some_and(|age| age < HEALTH);
    before.ladder == ladder && before.metric == metric && counts && is_soon
}

/// Whether nothing was done for what it has spent: by somebody's will, or because what it names isn't there. A mistyped
/// name must not cost the only try of a day.
#[must_use]
pub fn spends_nothing(outcome: &ActOutcome) -> bool {
    refusal(outcome).is_some() || begins_nothing(outcome)
}

/// Whether there was nothing to do it to: nothing was done.
fn begins_nothing(outcome: &ActOutcome) -> bool {
    let is_absent = matches!(
        outcome.ending(),
        Some(
            Ending::NoSuchUnit
                | Ending::NoSuchInterface
                | Ending::NoSuchTarget
                | Ending::NoSuchRunbook
                | Ending::RunbookRefused
                | Ending::NoSuchRelease
                | Ending::NoOtherRelease
                | Ending::NoCurrentRelease
        )
    );
    outcome.status == ActStatus::Failed && is_absent
}

/// Why whoever was to do it would not: nothing was done.
#[must_use]
pub fn refusal(outcome: &ActOutcome) -> Option<Reason> {
    let reason = outcome.reason.as_deref().and_then(Reason::parse);
    match outcome.status {
        // Root's own words for it are in the detail. A policy, or a file of users, that is just being replaced says
        // nothing of what root allows: a ladder that took it for a no would be climbed to its end within seconds.
        ActStatus::Rejected => match outcome.ending() {
            Some(Ending::PolicyUntrusted | Ending::PolicyWrong | Ending::PeerRefused) => Some(Reason::Busy),
            _ => Some(reason.unwrap_or(Reason::NotAllowed)),
        },
        // It may just be replaced by a newer one.
        ActStatus::Failed | ActStatus::TimedOut if outcome.ending() == Some(Ending::NoHelper) => Some(Reason::Busy),
        ActStatus::Failed => reason.filter(|reason| {
            matches!(reason, Reason::Inhibited | Reason::BudgetSpent | Reason::Busy | Reason::NotAllowed)
        }),
        ActStatus::Canceled if outcome.ending() == Some(Ending::TakenBack) => Some(Reason::Canceled),
        _ => None,
    }
}
