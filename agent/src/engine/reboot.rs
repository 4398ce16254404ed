//! A restart of the machine, for whoever wants it: it is waited for, the fleet is told, the agent says goodbye, and
//! only then the order is given. What came of it is known by the next boot's id; where the machine stays up, the agent
//! goes on as if nothing had been said. Here is also how any act is judged that was under way when the agent stopped:
//! it takes the boot's id for that. Decides nothing about who may have one.

use std::time::Duration;

use super::command::Name;
use super::commands::Commands;
use super::io::{Act, ActOutcome, Effect, EffectId, Ending, LogLevel, Own, StopReason, Trigger};
use super::keyed::{RUN_KEY, write};
use super::observation::running;
use super::record::Status;
use super::start::Run;
use super::time::{Mono, Now};
use super::trial::Releases;
use super::{Engine, Identity};
use crate::wire::Reason;

/// How long the machine may take to go down once it was told to.
pub(crate) const GOES_DOWN_WITHIN: Duration = Duration::from_secs(120);
/// How long the order may take to be taken: the goodbye is said, and a gateway that nobody tells to go down must be
/// back soon.
const ORDERED_WITHIN: Duration = Duration::from_secs(10);

/// How long a new look at the gateway, as before the goodbye, is waited for: where collectors hang a reboot may be what
/// helps, and what was read of the battery before that must not grow too old for it.
pub(super) const LOOK_MAX: Duration = Duration::from_secs(2);

/// A restart of the machine under way.
#[derive(Debug)]
pub(super) struct Reboot {
    pub(super) effect: EffectId,
    trigger: Trigger,
    token: Option<Box<str>>,
    /// How long the order may take.
    within: Duration,
    /// The goodbye begins then; `None`: it has begun.
    waits_until: Option<Mono>,
    look: Look,
    /// It completes what a command has done.
    commanded: bool,
}

/// A new look at the gateway before the goodbye, by which it is judged whether a restart is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// The time of the goodbye has not come.
    ToCome,
    UnderWay,
    Over,
}

/// What is to be told of what is done where the boot that completes it didn't come.
pub(super) fn waits_for_boot(why: Option<&str>) -> String {
    const DONE: &str = "it is done, and waits for a boot";
    why.map_or_else(|| DONE.to_owned(), |why| format!("{DONE}: {why}"))
}

/// What is to be told where the boot came that was to leave a release, and runs it again: a bootloader falls back to it
/// where it can't boot the other one.
pub(super) fn not_left(release: &str) -> String {
    format!("this is another boot, and {release} runs again")
}

/// The release that an act is to leave, where it is known; `None` where it goes to the one that runs.
pub(super) fn left_by(releases: &Releases, act: &Act) -> Option<Box<str>> {
    let Act::Rollback { to, .. } = act else { return None };
    let running = releases.running(&act.target()).filter(|running| to.as_deref() != Some(running));
    running.map(Into::into)
}

/// An act that was under way when the agent stopped, as it stands in the journal.
#[derive(Debug, Clone, Copy)]
pub(super) struct CutOff<'a> {
    /// The contract's word for it.
    pub(super) name: &'a str,
    /// What it works on.
    pub(super) target: Option<&'a str>,
    /// It is done, and a boot completes it.
    pub(super) is_done: bool,
    /// The release that it was to leave, where that is known.
    pub(super) leaves: Option<&'a str>,
    /// It began in another boot.
    pub(super) is_other_boot: bool,
}

impl CutOff<'_> {
    /// How it ended, with its reason and detail: what takes a boot is judged by the boot's id, a rollback by the
    /// release that another boot runs; the rest can't be known. In the same boot a rollback may still be under way, or
    /// units may not have come up from it.
    pub(super) fn judge(self, identity: &Identity) -> (Status, Option<&'static str>, String) {
        let name = Name::parse(self.name);
        let takes_boot = self.is_done || name == Some(Name::Reboot);
        let running = self.target.and_then(|target| running(&identity.releases, target));
        let judged = self.leaves.zip(running).filter(|_| self.is_other_boot);
        if let Some((left, _)) = judged.filter(|(left, running)| left == running) {
            return (Status::Failed, Some(Ending::RollbackFailed.word()), not_left(left));
        }
        if judged.is_some() || (takes_boot && self.is_other_boot) {
            return (Status::Succeeded, None, "this is another boot".to_owned());
        }
        if takes_boot {
            let detail = "the agent was started again in the same boot";
            let detail = if self.is_done { waits_for_boot(Some(detail)) } else { detail.to_owned() };
            return (Status::Failed, Some(Reason::SameBoot.word()), detail);
        }
        let found = match name {
            Some(Name::Rollback) => running.map(|name| format!("; {name} runs now")),
            Some(Name::Quarantine | Name::Release) => {
                identity.quarantine.map(|level| format!("; {level} is in force now"))
            }
            _ => None,
        };
        let detail = "the agent stopped while it was under way; what came of it can't be known".to_owned();
        (Status::Interrupted, Some(Reason::Interrupted.word()), detail + &found.unwrap_or_default())
    }
}

impl Reboot {
    /// What is to be told of one that didn't come: what it was to complete is done all the same.
    pub(super) fn undone(&self, detail: Option<String>) -> Option<String> {
        if self.trigger == Trigger::Own(Own::Rollback) { Some(waits_for_boot(detail.as_deref())) } else { detail }
    }
}

impl Engine {
    /// What was done takes a boot: the next one tells that it succeeded.
    pub(super) fn boot_into(&mut self, now: Now, act: EffectId, trial: Option<&str>) {
        let text = if self.stopping.is_some() {
            "what was done waits for a boot: the agent ends"
        } else {
            "the machine reboots: that completes what was done"
        };
        self.effects.log(LogLevel::Warn, text);
        let commanded = self.commands.of_act(act).is_some();
        let reboot = self.order_completion(now);
        if let Some(reboot) = &mut self.reboot {
            reboot.commanded = commanded;
        }
        let running = |target: &str| self.releases.running(target);
        if let Some(target) = trial {
            self.trial_awaits_boot(target, reboot);
        } else if !self.remedies.awaits_boot(act, reboot, running) {
            self.commands.awaits_boot(act, reboot, running);
        }
    }

    /// The machine is to be restarted because of what was done.
    pub(super) fn order_completion(&mut self, now: Now) -> EffectId {
        self.order_reboot(now, Trigger::Own(Own::Rollback), None, Duration::ZERO, None)
    }

    /// Whether the machine is to be restarted, now or after a while.
    pub(super) const fn is_rebooting(&self) -> bool {
        self.reboot.is_some()
    }

    /// The machine is to be restarted after a while; `within`: how long the order may then take at most, where somebody
    /// says so.
    pub(super) fn order_reboot(
        &mut self,
        now: Now,
        trigger: Trigger,
        token: Option<Box<str>>,
        delay: Duration,
        within: Option<Duration>,
    ) -> EffectId {
        let effect = self.effects.fresh_id();
        let commanded = !trigger.is_automatic();
        let within = within.map_or(ORDERED_WITHIN, |within| within.min(ORDERED_WITHIN));
        let waits_until = Some(now.mono.after(delay));
        self.reboot = Some(Reboot { effect, trigger, token, within, waits_until, look: Look::ToCome, commanded });
        effect
    }

    /// Takes a reboot back, whoever wanted it, if the goodbye has not begun.
    pub(super) fn cancel_reboot(&mut self, now: Now, effect: EffectId) -> bool {
        let Some(reboot) = self.reboot.take_if(|it| it.effect == effect && it.waits_until.is_some()) else {
            return false;
        };
        self.give_back_of(effect);
        let outcome = ActOutcome::canceled("canceled before the goodbye");
        self.acted(now, effect, ActOutcome { detail: reboot.undone(outcome.detail), ..outcome });
        true
    }

    /// When the goodbye is to begin; `None` also while that waits for a change of the quarantine, or for the journaling
    /// of what may take it back, and where there is a goodbye already: what ends meanwhile, and takes a boot, is no
    /// reason to go down by the way.
    pub(super) fn reboot_deadline(&self) -> Option<Mono> {
        let may_begin = self.stopping.is_none() && !self.quarantine_changes() && !self.commands.is_canceling();
        self.reboot_due_at().filter(|_| may_begin)
    }

    pub(super) fn reboot_due_at(&self) -> Option<Mono> {
        self.reboot.as_ref().and_then(|reboot| reboot.waits_until)
    }

    /// Begins the goodbye when its time has come, what it was ordered by still holds, no change of the quarantine that
    /// was begun before is under way, nobody is about to take it back, and nobody keeps the machine up: the gateway is
    /// looked at anew for that, or it would go off the air for a reboot that is refused then.
    pub(super) fn poll_reboot(&mut self, now: Now) {
        if self.reboot_deadline().is_none_or(|at| at > now.mono) {
            return;
        }
        let Some(reboot) = &mut self.reboot else { return };
        if reboot.look == Look::ToCome {
            reboot.look = Look::UnderWay;
            reboot.waits_until = Some(now.mono.after(LOOK_MAX));
            return self.pace.look_now(now.mono);
        }
        reboot.waits_until = None;
        let (effect, is_seen) = (reboot.effect, reboot.look == Look::Over);
        if self.with_commands(now, |commands, facts| commands.reboot_is_due(facts, effect)) {
            // Of a look that hangs nothing is known: whoever does it asks once more.
            if let Some(who) = self.blocked.clone().filter(|_| is_seen) {
                self.acted(now, effect, ActOutcome::failed(Reason::Inhibited, who));
                self.is_over(now, Reason::Busy);
                self.poll_remedies(now);
                return self.run_steps(now);
            }
            self.run_steps(now);
            return self.stop(now, StopReason::Rebooting);
        }
        self.reboot = None;
        // What waited for it needn't any longer.
        self.is_over(now, Reason::Busy);
        self.with_commands(now, Commands::begin_queued);
        self.run_steps(now);
    }

    /// A round of collection has ended, with readings or without: a reboot that waited for that waits no longer.
    pub(super) fn looked_for_reboot(&mut self, now: Now) {
        let Some(reboot) = self.reboot.as_mut().filter(|reboot| reboot.look == Look::UnderWay) else { return };
        reboot.look = Look::Over;
        if let Some(waits_until) = &mut reboot.waits_until {
            *waits_until = now.mono;
        }
    }

    /// Why the machine goes down, in the contract's word, if it is told to from here.
    pub(super) fn reboot_reason(&self) -> Option<&'static str> {
        self.reboot.as_ref().map(|reboot| if reboot.commanded { "commanded" } else { "remediation" })
    }

    /// Everything is said and stored: the order is given. False if there is none to give.
    pub(super) fn go_down(&mut self) -> bool {
        let Some(reboot) = &self.reboot else { return false };
        let (id, trigger, token) = (reboot.effect, reboot.trigger.clone(), reboot.token.clone());
        self.effects.push(Effect::Act { id, act: Act::Reboot, trigger, token, timeout: reboot.within });
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
        self.acted(now, effect, ActOutcome::failed(Reason::SameBoot, detail));
    }

    /// The agent stays: it takes back its goodbye.
    pub(super) fn resume(&mut self, now: Now) {
        self.reboot = None;
        if self.stopping.take().is_none() {
            return;
        }
        self.effects.log(LogLevel::Error, "the machine did not reboot: going on");
        self.effects.reopen();
        let run = Run { at: self.timeline.stamp(now.mono), clean: false, reboot: None };
        let left = self.left_of_beginning();
        self.put_beginning([vec![write(RUN_KEY, &run)], left].concat());
        let passed_over = std::mem::take(&mut self.passed_over);
        self.incidents.miss(passed_over);
        self.pace.restart(now.mono, &self.config.telemetry);
        self.link.release(now.mono);
    }
}
