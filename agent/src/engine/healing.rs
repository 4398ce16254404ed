//! Carries out what the ladders decided, and restarts the machine for whoever wants it: the intent is journaled, the fleet is
//! told, the agent says goodbye, and only then the order is given. What came of it is known by the next boot's id. Decides
//! nothing about remedies.

use std::time::Duration;

use super::Engine;
use super::admission::Power;
use super::commands::{self, Commands, Facts};
use super::effects::Purpose;
use super::io::{Act, ActOutcome, ActStatus, Effect, EffectId, LogLevel, Trigger};
use super::observation::Observation;
use super::remedies::Step;
use super::rules::Change;
use super::start::{RUN_KEY, Run};
use super::stop::REBOOTING;
use super::time::{Mono, Now};
use crate::wire::Reason;

/// How long the machine may take to go down once it was told to.
pub(super) const GOES_DOWN_WITHIN: Duration = Duration::from_secs(120);

/// A restart of the machine under way.
#[derive(Debug)]
pub(super) struct Reboot {
    effect: EffectId,
    trigger: Trigger,
    /// The goodbye begins then; `None`: it has begun.
    waits_until: Option<Mono>,
}

impl Engine {
    pub(super) fn with_commands<T>(&mut self, now: Now, call: impl FnOnce(&mut Commands, Facts<'_>) -> T) -> T {
        let busy = self.remedies.targets(&self.config);
        let facts = Facts {
            now,
            config: &self.config,
            timeline: &self.timeline,
            nonce: &self.identity.nonce,
            able: &self.identity.able,
            power: self.power,
            busy: &busy,
        };
        call(&mut self.commands, facts)
    }

    pub(super) fn note_power(&mut self, now: Now, observation: &Observation) {
        self.power = Power::read(now.mono, &observation.points);
    }

    /// Alarms that have a ladder begin to climb it, or come down.
    pub(super) fn take_remedies(&mut self, now: Now, changes: &[Change]) {
        for change in changes {
            match &change.remedy {
                Some(ladder) if change.raised => {
                    self.remedies.alarm_raised(now, &self.timeline, &change.rule, ladder);
                }
                _ if !change.raised => self.remedies.alarm_cleared(now, &self.timeline, &change.rule),
                _ => {}
            }
        }
    }

    /// An alarm that was stored before its ladder was: it is climbed now.
    pub(super) fn resume_remedies(&mut self, now: Now) {
        for rule in &self.config.rules {
            if let Some(ladder) = rule.remedy.as_ref().filter(|_| self.rules.is_raised(&rule.name)) {
                self.remedies.alarm_raised(now, &self.timeline, &rule.name, ladder);
            }
        }
    }

    /// Does what is due of the ladders, and carries out what they decided.
    pub(super) fn poll_remedies(&mut self, now: Now) {
        if self.stopping.is_none() {
            while let Some(rule) = self.remedies.next_due(now.mono) {
                let raised = self.rules.is_raised(&rule);
                let act = self.remedies.wanted(&rule, &self.config);
                let verdict = match &act {
                    Some(act) => self.with_commands(now, |commands, facts| commands.admit(facts, act)),
                    None => Ok(()),
                };
                self.remedies.take_turn(now, &self.config, &self.timeline, &rule, raised, verdict);
            }
        }
        while let Some(step) = self.remedies.poll_step() {
            match step {
                Step::Tell(event) => self.record_event(now, event),
                Step::Note(entry) => self.effects.put(Purpose::Bookkeeping, vec![entry]),
                Step::Journal { rule, entry, act } => {
                    let spent = self.with_commands(now, |commands, facts| commands.spend(facts, &act));
                    let entries = [Some(entry), spent].into_iter().flatten().collect();
                    self.effects.put(Purpose::Remedy(rule), entries);
                }
                Step::Act { rule, act: Act::Reboot } => {
                    let effect = self.order_reboot(now, Trigger::Rule(rule.clone()), Duration::ZERO);
                    self.remedies.acting(&rule, effect);
                }
                Step::Act { rule, act } => {
                    let (trigger, timeout) = (Trigger::Rule(rule.clone()), act.default_timeout());
                    let effect = |id| Effect::Act { id, act, trigger, timeout };
                    let effect = self.effects.push_for(Purpose::Act, effect);
                    self.remedies.acting(&rule, effect);
                }
            }
        }
    }

    /// An act ended, whoever wanted it.
    pub(super) fn acted(&mut self, now: Now, id: EffectId, outcome: ActOutcome) {
        self.effects.complete(id);
        if self.reboot.as_ref().is_some_and(|reboot| reboot.effect == id) {
            if outcome.status == ActStatus::Succeeded {
                // The machine goes down; the service manager will say when.
                return;
            }
            self.resume(now);
        }
        if !self.remedies.acted(now, &self.config, &self.timeline, id, &outcome) {
            self.with_commands(now, |commands, facts| commands.acted(facts, id, outcome));
            return;
        }
        // Its target is free.
        self.with_commands(now, Commands::begin_queued);
    }

    /// The machine is to be restarted after a while.
    pub(super) fn order_reboot(&mut self, now: Now, trigger: Trigger, delay: Duration) -> EffectId {
        let effect = self.effects.fresh_id();
        self.reboot = Some(Reboot { effect, trigger, waits_until: Some(now.mono.after(delay)) });
        effect
    }

    /// A command takes the restart back, if the goodbye has not begun.
    pub(super) fn cancel_reboot(&mut self, now: Now, effect: EffectId) -> bool {
        let waits = self.reboot.as_ref().is_some_and(|reboot| reboot.effect == effect && reboot.waits_until.is_some());
        if waits {
            self.reboot = None;
            let outcome = ActOutcome::canceled("canceled before the goodbye");
            self.with_commands(now, |commands, facts| commands.acted(facts, effect, outcome));
        }
        waits
    }

    /// When the goodbye is to begin.
    pub(super) fn reboot_deadline(&self) -> Option<Mono> {
        self.reboot.as_ref().and_then(|reboot| reboot.waits_until)
    }

    /// Begins the goodbye when its time has come.
    pub(super) fn poll_reboot(&mut self, now: Now) {
        if self.reboot_deadline().is_none_or(|at| at > now.mono) {
            return;
        }
        if let Some(reboot) = &mut self.reboot {
            reboot.waits_until = None;
        }
        self.stop(now, REBOOTING);
    }

    /// Why the machine goes down, in the contract's word, if it is told to from here.
    pub(super) fn reboot_reason(&self) -> Option<&'static str> {
        self.reboot.as_ref().map(|reboot| match reboot.trigger {
            Trigger::Command(_) => "commanded",
            Trigger::Rule(_) => "remediation",
        })
    }

    /// Everything is said and stored: the order is given. False if there is none to give.
    pub(super) fn go_down(&mut self) -> bool {
        let Some(reboot) = &self.reboot else { return false };
        let (id, trigger) = (reboot.effect, reboot.trigger.clone());
        self.effects.push(Effect::Act { id, act: Act::Reboot, trigger, timeout: GOES_DOWN_WITHIN });
        true
    }

    /// Somebody else stops the agent: the next boot will say whether the machine went down.
    pub(super) fn leave_reboot(&mut self) {
        self.reboot = None;
    }

    /// The machine was told to go down, and is still up.
    pub(super) fn still_up(&mut self, now: Now) {
        let Some(effect) = self.reboot.as_ref().map(|reboot| reboot.effect) else { return };
        let detail = format!("the machine did not go down within {} s", GOES_DOWN_WITHIN.as_secs());
        self.acted(now, effect, ActOutcome::failed(Reason::SameBoot.word(), detail));
    }

    /// The agent stays: it takes back its goodbye.
    fn resume(&mut self, now: Now) {
        self.reboot = None;
        if self.stopping.take().is_none() {
            return;
        }
        self.effects.log(LogLevel::Error, "the machine did not reboot: going on");
        let run = Run { at: self.timeline.stamp(now.mono), clean: false, reboot: None };
        self.effects.put(Purpose::Bookkeeping, vec![(RUN_KEY.to_owned(), Some(commands::encode(&run)))]);
        self.pace.restart(now.mono, &self.config.telemetry);
        self.link.release(now.mono);
    }
}
