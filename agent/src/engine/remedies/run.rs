//! One rule's ladder: what is remembered of it across starts, what is known besides in this run, which step and act its
//! configuration makes of that, and how either is told. Goes nowhere by itself: the ladders do that.

use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::config::{self, CheckedConfig, Remedy};
use crate::engine::io::{Act, EffectId};
use crate::engine::keyed::REMEDY_KEY;
use crate::engine::observation::Severity;
use crate::engine::record::{Event, EventKind, Stamp, Status};
use crate::engine::time::Mono;
use crate::wire::Reason;

/// What time can mend is asked again after this, and then at growing intervals up to the other.
pub(super) const AGAIN_FIRST: Duration = Duration::from_secs(60);
const AGAIN_LAST: Duration = Duration::from_secs(1_800);

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
}

impl Stored {
    pub(super) const fn new(climb: u64, step: u32, since: Stamp, ladder: String) -> Self {
        let state = State::Waiting;
        Self { climb, step, state, since, awaits_boot: false, canceled: false, ladder, dry: false, unbegun: false }
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
    pub(super) again: Duration,
    pub(super) told: Option<Reason>,
    pub(super) effect: Option<EffectId>,
    /// What is on its way into the journal, as it was admitted.
    pub(super) admitted: Option<Act>,
}

impl Run {
    pub(super) const fn new(stored: Stored, due: Option<Mono>, looks_after: Option<Mono>) -> Self {
        Self { stored, due, looks_after, again: AGAIN_FIRST, told: None, effect: None, admitted: None }
    }

    /// Whether this is what a rule of this name would climb now.
    pub(super) fn is_wanted(&self, rule: &str, config: &CheckedConfig) -> bool {
        let known = config.rules.iter().find(|known| known.name == rule);
        let ladder = known.and_then(|known| known.remedy.as_ref());
        ladder == Some(&self.stored.ladder) && config.ladders.contains_key(&self.stored.ladder)
    }

    /// It is asked for again later, each time after longer.
    pub(super) fn ask_later(&mut self, now: Mono) {
        self.due = Some(now.after(self.again));
        self.again = self.again.saturating_mul(2).min(AGAIN_LAST);
    }

    /// The present step; `None` above the last one.
    pub(super) fn step<'c>(&self, config: &'c CheckedConfig) -> Option<&'c config::Step> {
        config.ladders.get(&self.stored.ladder)?.get(usize::try_from(self.stored.step).ok()?)
    }

    /// What the present step does; `None` above the last one.
    pub(super) fn act(&self, config: &CheckedConfig) -> Option<Act> {
        Some(match self.step(config)?.remedy.clone() {
            Remedy::RestartUnit { unit } => Act::RestartUnit { unit },
            Remedy::RestartLink { interface } => Act::RestartLink { interface },
            Remedy::Reboot => Act::Reboot,
            Remedy::Rollback { target } => Act::Rollback { target, to: None },
            Remedy::Quarantine { level } => Act::Quarantine { level: Some(level) },
            Remedy::Run { runbook, args } => Act::Run { runbook, args },
            Remedy::CollectDiagnostics => Act::CollectDiagnostics,
            Remedy::SavePower(_) => Act::SavePower,
        })
    }

    /// The contract's `remediation` event of a step.
    pub(super) fn event(&self, rule: &str, act: &Act, status: Status, reason: Option<&str>) -> Event {
        let severity = if status.is_well() { Severity::Notice } else { Severity::Warning };
        Event::new(severity, EventKind::Remediation, act.action().word())
            .group("remediation")
            .with("id", format!("{rule}-{}", self.stored.climb).as_str())
            .with("trigger", format!("rule:{rule}").as_str())
            .with("ladder", self.stored.ladder.as_str())
            .with("step", u64::from(self.stored.step) + 1)
            .with("action", act.action().word())
            .with("target", act.target().as_str())
            .with("status", status.word())
            .with_some("reason", reason)
    }

    /// That a ladder goes no further, by somebody's will.
    pub(super) fn canceled(&self, rule: &str) -> Event {
        let event = self.ladder_event(rule, Severity::Notice, "ladder_canceled", "CANCELED");
        event.with("reason", Reason::Canceled.word())
    }

    /// The contract's `remediation` event of a ladder as a whole.
    pub(super) fn ladder_event(&self, rule: &str, severity: Severity, name: &str, status: &str) -> Event {
        Event::new(severity, EventKind::Remediation, name)
            .group("remediation")
            .with("id", format!("{rule}-{}", self.stored.climb).as_str())
            .with("trigger", format!("rule:{rule}").as_str())
            .with("ladder", self.stored.ladder.as_str())
            .with("status", status)
    }
}

pub(super) fn key(rule: &str) -> String {
    format!("{REMEDY_KEY}{rule}")
}
