//! One rule's ladder: what is remembered of it across starts, what is known besides in this run, which step and act its
//! configuration makes of that, and how either is told. Goes nowhere by itself: the ladders do that.

use std::time::Duration;

use minicbor::{Decode, Encode};

use super::Facts;
use crate::config::{self, Action, CheckedConfig};
use crate::engine::Identity;
use crate::engine::again::Again;
use crate::engine::budget::Spending;
use crate::engine::io::{Act, EffectId, Trigger};
use crate::engine::keyed::{REMEDY_KEY, Write, write};
use crate::engine::observation::Severity;
use crate::engine::reboot::CutOff;
use crate::engine::record::{Event, Stamp, Status};
use crate::engine::time::Mono;
use crate::wire::Reason;

/// What stands in the journal may be older than what is known by this, where nothing else has changed: an alarm that
/// flaps must not wear the flash, and after a start its ladder begins anew that much sooner.
const NOTED_FOR: Duration = Duration::from_secs(600);

/// What is remembered of a rule's ladder.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Stored {
    /// Counts the times that this ladder was begun: the remedy's id is the rule's name and this.
    #[n(0)]
    pub(super) climb: u64,
    /// The step that is tried or was tried last, from 0.
    #[n(1)]
    pub(super) step: u32,
    #[n(2)]
    pub(super) state: State,
    /// When that began.
    #[n(3)]
    pub(super) since: Stamp,
    /// The step is done, and the next boot completes it.
    #[n(4)]
    #[cbor(default)]
    pub(super) awaits_boot: bool,
    /// A command has ended it: what is under way is its last step.
    #[n(5)]
    #[cbor(default)]
    pub(super) canceled: bool,
    /// The ladder that is climbed: another one begins at its own first step.
    #[n(6)]
    #[cbor(default)]
    pub(super) ladder: String,
    /// Nothing is done in a dry run, so nothing that it tells can have helped, or counts as tried.
    #[n(7)]
    #[cbor(default)]
    pub(super) dry: bool,
    /// It was ended before the step was begun.
    #[n(8)]
    #[cbor(default)]
    pub(super) unbegun: bool,
    /// Nothing was done since the alarm was raised: there is nothing that can have helped.
    #[n(9)]
    #[cbor(default)]
    pub(super) idle: bool,
    /// That it ran out was told, which it is once a climb.
    #[n(10)]
    #[cbor(default)]
    pub(super) exhausted: bool,
    /// The step, from 0, that saved power last.
    #[n(11)]
    #[cbor(default)]
    pub(super) saves: Option<u32>,
    /// The release that the step is to leave, where it is known.
    #[n(12)]
    #[cbor(default)]
    pub(super) leaves: Option<Box<str>>,
    /// What the step does that was begun last, whatever the configuration makes of it by now.
    #[n(13)]
    #[cbor(default)]
    pub(super) doing: Option<Doing>,
    /// What the rule watches: of something else it is another alarm.
    #[n(14)]
    #[cbor(default)]
    pub(super) metric: String,
    /// Why the step was refused last, which was told, and whether it was by whoever was to do it.
    #[n(15)]
    #[cbor(default)]
    refused: Option<Box<str>>,
    #[n(16)]
    #[cbor(default)]
    turned_down: bool,
}

/// What a step does, in the contract's words.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Doing {
    #[n(0)]
    action: Box<str>,
    /// What it works on.
    #[n(1)]
    target: Box<str>,
}

impl Doing {
    pub(super) fn of(act: &Act) -> Self {
        Self { action: act.action().word().into(), target: act.target().into() }
    }

    pub(super) fn saves_power(&self) -> bool {
        *self.action == *Action::SavePower.word()
    }
}

impl Stored {
    /// A climb that begins at the first step.
    pub(super) const fn new(climb: u64, since: Stamp, ladder: String, metric: String) -> Self {
        Self {
            climb,
            step: 0,
            state: State::Waiting,
            since,
            awaits_boot: false,
            canceled: false,
            ladder,
            dry: false,
            unbegun: false,
            idle: true,
            exhausted: false,
            saves: None,
            leaves: None,
            doing: None,
            metric,
            refused: None,
            turned_down: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(super) enum State {
    /// The step is to be begun.
    #[n(0)]
    Waiting,
    /// It was begun: it is not begun again, whatever happens.
    #[n(1)]
    Acting,
    /// It was done, and is given time.
    #[n(2)]
    Settling,
    /// The alarm was cleared.
    #[n(3)]
    Healed,
    /// All steps were tried, and the alarm stands.
    #[n(4)]
    Exhausted,
}

/// A rule's ladder in this run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) stored: Stored,
    /// When something is due: a try, or the end of settling.
    pub(super) due: Option<Mono>,
    /// What comes then is decided by what was read later than this.
    pub(super) looks_after: Option<Mono>,
    /// What was refused waits for this, were the alarm cleared and raised again meanwhile.
    pub(super) again: Again,
    pub(super) effect: Option<EffectId>,
    /// What is on its way into the journal, as it was admitted.
    pub(super) admitted: Option<Act>,
    /// What is under way, whatever the configuration makes of the step by now.
    pub(super) begun: Option<Act>,
    /// What one or the other has spent.
    pub(super) spending: Option<Spending>,
    /// What was written of it last.
    noted: Option<Stored>,
}

impl Run {
    pub(super) fn new(stored: Stored, due: Option<Mono>, looks_after: Option<Mono>) -> Self {
        let refused = stored.refused.as_deref().and_then(Reason::parse);
        Self {
            again: Again::restore(refused, stored.turned_down),
            stored,
            due,
            looks_after,
            effect: None,
            admitted: None,
            begun: None,
            spending: None,
            noted: None,
        }
    }

    /// What is to be written of it.
    pub(super) fn entry(&mut self, rule: &str) -> Write {
        self.noted = Some(self.stored.clone());
        write(key(rule), &self.stored)
    }

    /// Whether all of it but the last few minutes was written already.
    pub(super) fn is_noted(&self, facts: Facts<'_>) -> bool {
        let Some(noted) = &self.noted else { return false };
        let is_same = Stored { since: self.stored.since, ..noted.clone() } == self.stored;
        is_same && facts.age(noted.since).saturating_sub(facts.age(self.stored.since)) < NOTED_FOR
    }

    /// The alarm came back: next is what comes after the step that seemed to help, or what waits for its turn. True if
    /// that is to be noted at once: what nothing comes of soon is noted when its turn has come.
    pub(super) fn go_on(&mut self, facts: Facts<'_>) -> bool {
        self.looks_after = None;
        if self.stored.exhausted && self.step(facts.config).is_none() {
            self.stored.state = State::Exhausted;
            self.due = Some(facts.now.mono.after(NOTED_FOR));
            return false;
        }
        if !self.stored.unbegun {
            self.stored.step += 1;
            self.forget_refusals();
        }
        let Stored { climb, step, ladder, dry, saves, metric, refused, turned_down, .. } = self.stored.clone();
        let anew = Stored::new(climb, facts.stamp(), ladder, metric);
        self.stored = Stored { step, dry, saves, refused, turned_down, ..anew };
        self.due = Some(self.again.earliest(facts.now.mono));
        self.again.is_due(facts.now.mono)
    }

    /// It is in this state from now on, and nothing is due.
    pub(super) fn enter(&mut self, state: State, facts: Facts<'_>) {
        (self.stored.state, self.stored.since, self.due) = (state, facts.stamp(), None);
    }

    /// Another step: what was refused before says nothing of it.
    pub(super) fn forget_refusals(&mut self) {
        self.again = Again::new();
        self.keep_refusal();
    }

    /// What was told of a refusal is told over a start, too: the next agent tells it no more.
    pub(super) fn keep_refusal(&mut self) {
        self.stored.refused = self.again.why().map(|why| why.word().into());
        self.stored.turned_down = self.again.was_turned_down();
    }

    /// Whether this is what a rule of this name would climb now.
    pub(super) fn is_wanted(&self, rule: &str, config: &CheckedConfig) -> bool {
        let Stored { ladder, metric, .. } = &self.stored;
        let known = config.rules_in_force().find(|known| known.name == rule);
        let is_its = known.is_some_and(|known| known.remedy.as_ref() == Some(ladder) && known.metric == *metric);
        is_its && config.ladders.contains_key(ladder)
    }

    /// What was refused is asked for no later than then.
    pub(super) fn ask_by(&mut self, at: Mono) {
        self.again.possible_at(at);
        if self.stored.state == State::Waiting {
            self.due = self.due.map(|due| due.min(at));
        }
    }

    /// The present step; `None` above the last one.
    pub(super) fn step<'c>(&self, config: &'c CheckedConfig) -> Option<&'c config::Step> {
        config.ladders.get(&self.stored.ladder)?.get(usize::try_from(self.stored.step).ok()?)
    }

    /// What the present step does; `None` above the last one.
    pub(super) fn act(&self, config: &CheckedConfig) -> Option<Act> {
        Some(Act::of(&self.step(config)?.remedy))
    }

    /// How the step ended that was under way when the agent stopped.
    pub(super) fn cut_off(&self, rule: &str, identity: &Identity) -> Option<Event> {
        let doing = self.stored.doing.as_ref().filter(|_| self.stored.state == State::Acting)?;
        let cut_off = CutOff {
            name: &doing.action,
            target: Some(&doing.target),
            is_done: self.stored.awaits_boot,
            leaves: self.stored.leaves.as_deref(),
            is_other_boot: self.stored.since.boot != identity.boot,
        };
        let (status, reason, detail) = cut_off.judge(identity);
        Some(self.told(rule, doing, status, reason).with("detail", detail.as_str()))
    }

    /// The remedy's id.
    pub(super) fn id(&self, rule: &str) -> String {
        format!("{rule}-{}", self.stored.climb)
    }

    /// The contract's `remediation` event of a step.
    pub(super) fn event(&self, rule: &str, act: &Act, status: Status, reason: Option<&str>) -> Event {
        self.told(rule, &Doing::of(act), status, reason)
    }

    fn told(&self, rule: &str, doing: &Doing, status: Status, reason: Option<&str>) -> Event {
        self.remediation(rule, status.severity(), &doing.action)
            .with("step", u64::from(self.stored.step) + 1)
            .with("action", &*doing.action)
            .with("target", &*doing.target)
            .with("status", status.word())
            .with_some("reason", reason)
    }

    /// That a ladder goes no further, by somebody's will.
    pub(super) fn canceled(&self, rule: &str, by: Reason) -> Event {
        let event = self.ladder_event(rule, Severity::Notice, "ladder_canceled", "CANCELED");
        event.with("reason", by.word())
    }

    /// The contract's `remediation` event of a ladder as a whole.
    pub(super) fn ladder_event(&self, rule: &str, severity: Severity, name: &str, status: &str) -> Event {
        self.remediation(rule, severity, name).with("status", status)
    }

    fn remediation(&self, rule: &str, severity: Severity, name: &str) -> Event {
        let event = Event::remediation(severity, name, &self.id(rule), &trigger(rule));
        event.with("ladder", self.stored.ladder.as_str())
    }
}

/// The contract's word for whoever climbs this rule's ladder.
pub(super) fn trigger(rule: &str) -> String {
    Trigger::Rule(rule.to_owned()).to_string()
}

pub(super) fn key(rule: &str) -> String {
    format!("{REMEDY_KEY}{rule}")
}
