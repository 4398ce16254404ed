//! What is done about releases on trial: what is due is asked for as anything automatic is, journaled where it leaves a
//! release, and told. Judges none itself: which wish is due is said by [`super::Releases`].

use std::time::Duration;

use super::{AGAIN, BOOTS_MAX, Course, KEPT, Seen, Speaks, TARGETS_MAX, Trial, Wish, given_up, leave, told, tried};
use crate::config::QuarantineLevel;
use crate::engine::Engine;
use crate::engine::again::{Again, time_mends};
use crate::engine::effects::Purpose;
use crate::engine::io::{Act, ActOutcome, ActStatus, EffectId, Own, Trigger};
use crate::engine::keyed::Write;
use crate::engine::observation::{Release, Severity};
use crate::engine::record::Status;
use crate::engine::remedies::refusal;
use crate::engine::rules::GAP_ROUNDS_MAX;
use crate::engine::time::{Mono, Now};
use crate::wire::Reason;

/// When to try again where there is another act to wait for.
const BUSY_FOR: Duration = Duration::from_secs(10);

impl Engine {
    /// The releases that run were read.
    pub(in crate::engine) fn see_releases(&mut self, now: Now, releases: &[Release]) {
        let at = self.timeline.stamp(now.mono);
        for release in releases.iter().take(TARGETS_MAX) {
            let Seen { changed, before, event } = self.releases.observe(at, release);
            // The word first: a crash between the two tells it twice, and the other way round never.
            if let Some(event) = event {
                self.record_event(now, event);
            }
            if changed {
                self.note_release(&release.target);
            }
            if let Course::Journaling { spending } = before {
                self.give_back(spending);
            }
        }
    }

    /// The agent is started again: until `watched` the run before watched what is on trial, and may have crashed then.
    /// What the journal is to say of that, with the mark of this run: a crash counts once, and is not forgotten.
    pub(in crate::engine) fn go_on_with_trials(&mut self, now: Now, watched: Mono, crashed: bool) -> Vec<Write> {
        let targets = self.releases.go_on(self.timeline.stamp(now.mono), watched, crashed);
        targets.iter().filter_map(|target| self.releases.entry(target)).collect()
    }

    /// A round of collection is due: what is on trial is watched. As with alarms, of what lies more than some rounds
    /// back nothing is known to have held since.
    pub(in crate::engine) fn watch_trials(&mut self, now: Now) {
        let (sampled_every, _) = self.pace.spacing(&self.config.telemetry);
        for target in self.releases.watch(now.mono, sampled_every.saturating_mul(GAP_ROUNDS_MAX), &self.config) {
            self.note_release(&target);
        }
    }

    /// That a release was left is completed by this reboot, and the next boot tells whether it was.
    pub(in crate::engine) fn trial_awaits_boot(&mut self, target: &str, reboot: EffectId) {
        self.releases.awaits_boot(target, reboot);
        self.note_release(target);
    }

    /// Does what is due about releases on trial. Unlike a ladder's step that is done in a boot loop, too: a release
    /// that makes one is what a trial is to find, and it is left once.
    pub(in crate::engine) fn poll_trials(&mut self, now: Now) {
        if self.stopping.is_some() {
            return;
        }
        let held = self.quarantine.level() > Some(QuarantineLevel::Observe);
        for target in self.releases.hold(self.timeline.stamp(now.mono), held) {
            self.note_release(&target);
        }
        // Nearly always: what speaks of one is a look at all rules, at each input.
        if !self.releases.targets.values().any(|target| target.trial().is_some()) {
            return;
        }
        let speaks = self.what_speaks_of_releases(now.mono);
        while let Some((target, wish)) = self.releases.wish(now.mono, &self.config, &speaks) {
            let act = match wish {
                Wish::MarkGood => Act::MarkGood { target: target.clone() },
                Wish::Leave => leave(&target),
                Wish::Boot => {
                    self.boot_again(now, &target);
                    continue;
                }
                Wish::Mourn => {
                    self.tell_release(now, KEPT, &target);
                    continue;
                }
            };
            let inhibited = self.inhibited.clone().filter(|_| wish == Wish::Leave);
            let verdict = match inhibited {
                Some(why) => Err((Reason::Inhibited, why)),
                None => self.with_commands(now, |commands, facts| commands.admit(facts, &act)),
            };
            match (verdict, wish) {
                // Another act is under way, as that of another target: a moment later there is room.
                (Err((Reason::Busy, _)), _) => self.put_trial_aside(now, &target),
                (Err((reason, detail)), _) => {
                    self.put_trial_off(now, &target, &act, reason, &detail);
                    self.try_once_possible(now, &target, &act, reason);
                }
                (Ok(()), Wish::Leave) => self.journal_leaving(now, target, &act),
                // What comes of it is noted where all marks are, whoever wants them.
                (Ok(()), _) => drop(self.order_for_trial(now, act)),
            }
        }
    }

    /// That a release is to be left is on the disk before it is done.
    fn journal_leaving(&mut self, now: Now, target: String, act: &Act) {
        let (spent, spending) = self.with_commands(now, |commands, facts| commands.spend(facts, act)).unzip();
        if let Some(known) = self.releases.targets.get_mut(&target) {
            known.course = Course::Journaling { spending };
            known.set_last_chance(true);
        }
        let entries = self.releases.entry(&target).into_iter().chain(spent).collect();
        self.effects.put(Purpose::Trial(target), entries);
    }

    /// The red button: what is on its way into the journal is not begun, and no boot is tried again.
    pub(in crate::engine) fn stay_on_trial(&mut self, now: Now) {
        let stays = self.releases.targets.iter_mut().map(|(target, known)| (target.clone(), known.stay()));
        for (target, (before, changed)) in stays.collect::<Vec<_>>() {
            if changed || matches!(before, Course::Journaling { .. }) {
                self.note_release(&target);
            }
            if let Course::Journaling { spending } = before {
                self.give_back(spending);
                // Its last chance is spent with that: whoever pressed the button doesn't want it tried again.
                let why = "a command took it back";
                self.put_trial_off(now, &target, &leave(&target), Reason::Canceled, why);
            }
        }
    }

    /// Tries again to complete that a release was left.
    fn boot_again(&mut self, now: Now, target: &str) {
        let verdict = match self.inhibited.clone() {
            Some(why) => Err((Reason::Inhibited, why)),
            None if self.is_rebooting() => Err((Reason::Busy, String::new())),
            None => self.with_commands(now, |commands, facts| commands.admit_completion(facts)),
        };
        match verdict {
            Err((Reason::Busy, _)) => self.put_trial_aside(now, target),
            Err((reason, detail)) => self.put_trial_off(now, target, &Act::Reboot, reason, &detail),
            Ok(()) => {
                let reboot = self.order_completion(now);
                self.trial_awaits_boot(target, reboot);
            }
        }
    }

    /// The machine stays up, if this was to complete that a release was left: it is told, and tried again some times.
    pub(in crate::engine) fn trial_not_booted(&mut self, now: Now, reboot: EffectId, outcome: &ActOutcome) {
        let mut targets = self.releases.targets.iter_mut();
        let booting = targets.find_map(|(target, known)| match known.course {
            Course::Booting { reboot: ours } if ours == reboot => Some((target.clone(), known)),
            _ => None,
        });
        let Some((target, known)) = booting else { return };
        known.course = Course::Watched;
        known.again.put_off(now.mono.after(AGAIN));
        let Some(trial) = &mut known.stored.trial else { return };
        let refused = refusal(outcome);
        // As with a ladder's step: what was refused for what time can mend was not tried.
        trial.boots = trial.boots.saturating_sub(refused.is_some_and(time_mends).into());
        let failed = trial.boots;
        match refused {
            _ if failed >= BOOTS_MAX => {
                trial.given_up = true;
                let event = given_up(&target, failed).with_some("reason", outcome.reason.as_deref());
                self.record_event(now, event);
                self.note_release(&target);
            }
            Some(reason) => {
                let detail = outcome.detail.as_deref().unwrap_or_default();
                self.put_trial_off(now, &target, &Act::Reboot, reason, detail);
                self.note_release(&target);
            }
            None if known.told.insert((Wish::Boot, None)) => {
                self.tell_tried(now, &Act::Reboot, &target, Status::Failed, outcome);
            }
            None => {}
        }
    }

    /// What has spent its budget is tried again when that has room, and what came too soon after the boot when it does
    /// not any more, if that is sooner: a machine that goes down again and again may not be up for much longer.
    fn try_once_possible(&mut self, now: Now, target: &str, act: &Act, reason: Reason) {
        let possible_at = match reason {
            Reason::BudgetSpent => self.with_commands(now, |commands, facts| commands.room_at(facts, act)),
            Reason::MinUptime => Some(self.timeline.booted().mono.after(self.config.remediation.min_uptime)),
            _ => None,
        };
        if let (Some(known), Some(at)) = (self.releases.targets.get_mut(target), possible_at) {
            known.again.possible_at(at);
        }
    }

    fn what_speaks_of_releases(&self, now: Mono) -> Speaks {
        let critical = self.rules.raised().any(|alarm| alarm.severity <= Severity::Critical);
        let standing = self.config.rules.iter().filter(|rule| self.rules.is_raised(&rule.name));
        let targets = standing.flat_map(|rule| self.config.rolled_back_by(rule)).map(str::to_owned).collect();
        let reached = self.link.is_online().then(|| self.link.stood_until(now));
        Speaks { reached, critical, targets }
    }

    /// That a release is to be left is in the journal, or could not be written.
    pub(in crate::engine) fn trial_journaled(&mut self, now: Now, target: &str, written: bool) {
        let Some(known) = self.releases.targets.get_mut(target) else { return };
        // It may have been called off meanwhile.
        let Course::Journaling { spending } = known.course else { return };
        known.course = Course::Watched;
        let act = leave(target);
        let ends = self.stopping.is_some();
        if written && !ends {
            let (is_news, is_begun) = (known.told.insert((Wish::Leave, None)), !known.again.was_turned_down());
            if is_news {
                self.tell_release(now, "release_bad", target);
            }
            // Else each refusal would need an end of it, and be told over and over.
            if is_begun {
                self.record_event(now, tried(&act, target, Status::InProgress));
            }
            let id = self.order_for_trial(now, act);
            if let Some(known) = self.releases.targets.get_mut(target) {
                known.course = Course::Leaving { act: id, spending };
            }
            return;
        }
        known.set_last_chance(false);
        self.give_back(spending);
        if ends {
            // The next start leaves it.
            return self.note_release(target);
        }
        self.put_trial_off(now, target, &act, Reason::StoreFailed, "the journal could not be written");
    }

    /// An act ended. If it was the trial's own: of which target.
    pub(in crate::engine) fn trial_ended(&mut self, now: Now, id: EffectId, outcome: &ActOutcome) -> Option<String> {
        let mut targets = self.releases.targets.iter_mut();
        let (target, known) = targets.find(|(_, target)| target.course.act() == Some(id))?;
        let target = target.clone();
        let course = std::mem::take(&mut known.course);
        if refusal(outcome).is_none() {
            known.again = Again::new();
        }
        known.again.put_off(now.mono.after(AGAIN));
        let is_marked = matches!(course, Course::Marking { .. }) && outcome.status == ActStatus::Succeeded;
        let is_commanded = self.commands.of_act(id).is_some();
        if is_marked {
            // Whoever says so doesn't want it left any more.
            self.marked(now, &target, outcome.release.as_deref(), is_commanded);
        }
        if is_commanded {
            return None;
        }
        match course {
            Course::Leaving { .. } => self.leave_ended(now, &target, outcome),
            _ if !is_marked => self.mark_failed(now, &target, outcome),
            _ => {}
        }
        Some(target)
    }

    /// What was on trial is good, unless it is another that was marked: that runs by now, and the next look finds it.
    /// Who commands it has looked at that already.
    fn marked(&mut self, now: Now, target: &str, release: Option<&str>, is_commanded: bool) {
        let Some(known) = self.releases.targets.get_mut(target) else { return };
        if let Some(release) = release.filter(|release| *release != known.stored.running()) {
            known.marked = is_commanded.then(|| release.into());
        } else if let Some(Trial { release, .. }) = known.stored.trial.take() {
            known.stored.good = release;
            self.tell_release(now, "release_good", target);
            self.note_release(target);
        }
    }

    /// It is tried again for as long as it takes; that it doesn't work, such as for root's policy, is told once.
    fn mark_failed(&mut self, now: Now, target: &str, outcome: &ActOutcome) {
        let Some(known) = self.releases.targets.get_mut(target) else { return };
        if known.told.insert((Wish::MarkGood, None)) {
            let status = if refusal(outcome).is_some() { Status::Rejected } else { Status::Failed };
            self.tell_tried(now, &Act::MarkGood { target: target.to_owned() }, target, status, outcome);
        }
    }

    fn leave_ended(&mut self, now: Now, target: &str, outcome: &ActOutcome) {
        let act = leave(target);
        let Some(reason) = refusal(outcome) else {
            let status = if outcome.status == ActStatus::Succeeded { Status::Succeeded } else { Status::Failed };
            return self.tell_tried(now, &act, target, status, outcome);
        };
        // Nothing was done, by somebody's will: its chance is still to come.
        if let Some(known) = self.releases.targets.get_mut(target) {
            known.set_last_chance(false);
            if !known.again.was_turned_down() {
                // That it begins was told, and needs an end, also where the agent itself refused it for this before.
                known.told.remove(&(Wish::Leave, Some(reason)));
            }
            known.again.turn_down();
        }
        self.note_release(target);
        self.put_trial_off(now, target, &act, reason, outcome.detail.as_deref().unwrap_or_default());
    }

    fn tell_tried(&mut self, now: Now, act: &Act, target: &str, status: Status, outcome: &ActOutcome) {
        let event = tried(act, target, status)
            .with_some("reason", outcome.reason.as_deref())
            .with_some("detail", outcome.detail.as_deref());
        self.record_event(now, event);
    }

    fn order_for_trial(&mut self, now: Now, act: Act) -> EffectId {
        let timeout = act.default_timeout();
        self.order(now, act, Trigger::Own(Own::Trial), None, timeout)
    }

    fn put_trial_aside(&mut self, now: Now, target: &str) {
        if let Some(known) = self.releases.targets.get_mut(target) {
            known.again.put_off(now.mono.after(BUSY_FOR));
        }
    }

    fn put_trial_off(&mut self, now: Now, target: &str, act: &Act, reason: Reason, detail: &str) {
        let Some(known) = self.releases.targets.get_mut(target) else { return };
        known.again.refused(now.mono, reason);
        let wish = match act {
            Act::MarkGood { .. } => Wish::MarkGood,
            Act::Reboot => Wish::Boot,
            _ => Wish::Leave,
        };
        if known.told.insert((wish, Some(reason))) {
            let event = tried(act, target, Status::Rejected).with("reason", reason.word()).with("detail", detail);
            self.record_event(now, event);
        }
    }

    fn tell_release(&mut self, now: Now, name: &'static str, target: &str) {
        let Some(known) = self.releases.targets.get(target) else { return };
        let event = told(name, target, known.stored.running());
        self.record_event(now, event);
    }

    fn note_release(&mut self, target: &str) {
        if let Some(entry) = self.releases.entry(target) {
            self.effects.put(Purpose::Note, vec![entry]);
        }
    }
}
