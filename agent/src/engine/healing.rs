//! Carries out what the ladders decided, keeps a quarantine in force, and brings home what comes of each act, whoever
//! wanted it. Decides nothing about remedies, and restarts nothing itself: that is [`super::reboot`]'s.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Engine;
use super::admission::Power;
use super::budget::Spending;
use super::commands::{Commands, Facts};
use super::effects::Purpose;
use super::io::{Act, ActOutcome, ActStatus, Effect, EffectId, Ending, LogLevel, Own, Trigger};
use super::keyed::Write;
use super::observation::Observation;
use super::quarantine::{self, Aftermath};
use super::record::{CommandResult, Part, Status};
use super::remedies::{self, Remedies, Step};
use super::rules::{Change, Look};
use super::time::{Mono, Now};
use crate::config::QuarantineLevel;
use crate::wire::Reason;

/// Bytes of an attachment in one result: 12 KiB of text. A multiple of three, so that the texts of all can be joined.
const PART_BYTES: usize = 9 * 1024;

impl Engine {
    pub(super) fn with_commands<T>(&mut self, now: Now, call: impl FnOnce(&mut Commands, Facts<'_>) -> T) -> T {
        let mut busy: Vec<Act> = self.remedies.acts().collect();
        busy.extend(self.releases.acts());
        busy.extend(self.quarantine.acts());
        // Also one that completes what is done already.
        busy.extend(self.reboot.as_ref().map(|_| Act::Reboot));
        let facts = Facts {
            now,
            config: &self.config,
            timeline: &self.timeline,
            nonce: &self.identity.nonce,
            able: &self.identity.able,
            withheld: &self.identity.withheld,
            power: self.power,
            sampled_every: self.pace.spacing(&self.config.telemetry).0,
            blocked: self.blocked.as_deref(),
            quarantine: self.quarantine.level(),
            busy: &busy,
            reboot_waits: self.reboot_due_at().is_some_and(|at| at > now.mono),
            stopping: self.stopping.is_some(),
            releases: &self.releases,
        };
        call(&mut self.commands, facts)
    }

    pub(super) fn with_remedies<T>(
        &mut self,
        now: Now,
        call: impl FnOnce(&mut Remedies, remedies::Facts<'_>) -> T,
    ) -> T {
        let stopping = self.stopping.is_some();
        let (config, timeline, releases) = (&self.config, &self.timeline, &self.releases);
        let facts = remedies::Facts { now, config, timeline, stopping, releases };
        call(&mut self.remedies, facts)
    }

    pub(super) fn note_power(&mut self, now: Now, observation: &Observation) {
        self.power = Power::read(now.mono, &observation.points);
    }

    /// Alarms that have a ladder begin to climb it, or come down.
    pub(super) fn take_remedies(&mut self, now: Now, changes: &[Change]) {
        self.with_remedies(now, |remedies, facts| {
            for change in changes {
                match &change.remedy {
                    Some(ladder) if change.raised => remedies.alarm_raised(facts, &change.rule, ladder),
                    _ if !change.raised => remedies.alarm_cleared(facts, &change.rule),
                    _ => {}
                }
            }
        });
    }

    /// What a round of collection says of those who keep remedies from being done. Once they are gone there is no
    /// reason to wait.
    pub(super) fn note_inhibitors(&mut self, now: Now, observation: &Observation) {
        let is_gone = |before: &Option<String>, present: &Option<String>| before.is_some() && present.is_none();
        let is_over = is_gone(&self.inhibited, &observation.inhibited) || is_gone(&self.blocked, &observation.blocked);
        self.inhibited.clone_from(&observation.inhibited);
        self.blocked.clone_from(&observation.blocked);
        if is_over {
            self.is_over(now, Reason::Inhibited);
        }
    }

    /// What was refused for this reason is not any more.
    pub(super) fn is_over(&mut self, now: Now, reason: Reason) {
        self.remedies.is_over(now.mono, reason);
        self.releases.is_over(now.mono, reason);
    }

    /// Alarms that stand and whose ladders aren't being climbed: one that was stored before its ladder was, or has
    /// another ladder now.
    pub(super) fn resume_remedies(&mut self, now: Now) {
        let stopping = self.stopping.is_some();
        let (config, timeline, releases) = (&self.config, &self.timeline, &self.releases);
        let facts = remedies::Facts { now, config, timeline, stopping, releases };
        for rule in &self.config.rules {
            if let Some(ladder) = rule.remedy.as_ref().filter(|_| self.rules.is_raised(&rule.name)) {
                self.remedies.alarm_stands(facts, &rule.name, ladder);
            }
        }
    }

    /// Does what is due of the ladders, and carries out what they decided.
    pub(super) fn poll_remedies(&mut self, now: Now) {
        self.with_remedies(now, Remedies::poll);
        if self.stopping.is_none() {
            while let Some(rule) = self.remedies.next_due(now.mono) {
                let look = self.rules.look(now.mono, &rule, self.remedies.looks_after(&rule));
                if look == Look::Unsure {
                    let (sampled_every, _) = self.pace.spacing(&self.config.telemetry);
                    self.remedies.put_off(&rule, now.mono.after(sampled_every));
                    continue;
                }
                let raised = look == Look::Bad;
                let act = self.remedies.wanted(&rule, &self.config);
                let verdict = match (&act, &self.inhibited) {
                    (Some(_), Some(why)) => Err((Reason::Inhibited, why.clone())),
                    (Some(act), None) => self.with_commands(now, |commands, facts| commands.admit(facts, act)),
                    (None, _) => Ok(()),
                };
                let spent = act.filter(|_| matches!(verdict, Err((Reason::BudgetSpent, _))));
                let room_at =
                    spent.and_then(|act| self.with_commands(now, |commands, facts| commands.room_at(facts, &act)));
                self.with_remedies(now, |remedies, facts| remedies.take_turn(facts, &rule, raised, verdict));
                if let Some(at) = room_at {
                    self.remedies.possible_at(&rule, at);
                }
                // Before the next one is admitted: what this one spends isn't there for it.
                self.tell_remedies(now);
            }
        }
        self.tell_remedies(now);
    }

    /// Carries out what the ladders decided.
    fn tell_remedies(&mut self, now: Now) {
        while let Some(step) = self.remedies.poll_step() {
            match step {
                Step::Tell(event) => self.record_event(now, event),
                Step::Note(entry, events) => self.record_with(now, entry, events),
                Step::Journal { rule, entry, act } => {
                    let (spent, spending) =
                        self.with_commands(now, |commands, facts| commands.spend(facts, &act)).unzip();
                    self.remedies.spent(&rule, spending);
                    let by = Trigger::Rule(rule.clone());
                    let intent = quarantine::intent(&act, &by, self.timeline.stamp(now.mono), self.quarantine.level());
                    let entries = [Some(entry), spent, intent].into_iter().flatten().collect();
                    self.effects.put(Purpose::Remedy(rule), entries);
                }
                Step::Act { rule, act: Act::SavePower } => {
                    let effect = self.effects.fresh_id();
                    self.remedies.acting(&rule, effect);
                    let outcome = ActOutcome::succeeded("the agent samples and sends less");
                    self.with_remedies(now, |remedies, facts| remedies.acted(facts, effect, &outcome));
                }
                Step::Act { rule, act: Act::Reboot } => {
                    let effect = self.order_reboot(now, Trigger::Rule(rule.clone()), None, Duration::ZERO, None);
                    self.remedies.acting(&rule, effect);
                }
                Step::Act { rule, act } => {
                    let timeout = act.default_timeout();
                    let effect = self.order(now, act, Trigger::Rule(rule.clone()), None, timeout);
                    self.remedies.acting(&rule, effect);
                }
            }
        }
    }

    /// The red button, for what the gateway does by itself: what hasn't begun doesn't, and what can be stopped is.
    pub(super) fn stop_ladders(&mut self, now: Now) {
        let under_way = self.with_remedies(now, Remedies::cancel);
        let stopped: Vec<EffectId> = under_way.into_iter().chain(self.releases.leaving()).collect();
        self.stay_on_trial(now);
        for id in stopped {
            self.stop_act(now, id);
        }
        self.tell_remedies(now);
    }

    /// An act that the journal names is not begun after all: the journal says again what is.
    pub(super) fn take_back(&mut self, act: &Act) {
        let enters = matches!(act, Act::Quarantine { level: Some(_) });
        if let Some(entry) = self.quarantine_as_it_is().filter(|_| enters) {
            self.effects.put(Purpose::Note, vec![entry]);
        }
    }

    /// What was not done after all spends nothing.
    pub(super) fn give_back(&mut self, spending: Option<Spending>) {
        if let Some(entry) = spending.and_then(|spending| self.commands.give_back(spending)) {
            self.effects.put(Purpose::Note, vec![entry]);
        }
    }

    /// The same of an act that was handed over, whoever wanted it.
    pub(super) fn give_back_of(&mut self, act: EffectId) {
        let of_ladder = self.remedies.take_spending_of(act);
        let spending = of_ladder.or_else(|| self.commands.take_spending(act));
        let spending = spending.or_else(|| self.releases.take_spending_of(act));
        self.give_back(spending);
    }

    /// What the journal is to say of the quarantine. While that changes it is said by whoever changes it, before and
    /// after.
    pub(super) fn quarantine_as_it_is(&self) -> Option<Write> {
        (!self.quarantine_changes()).then(|| self.quarantine.entry())
    }

    /// The store may not have what was noted of the ladders, of releases and of the quarantine.
    pub(super) fn note_healing_again(&mut self) {
        self.remedies.note_again();
        let releases = self.releases.entries();
        if !releases.is_empty() {
            self.effects.put(Purpose::Note, releases);
        }
        match self.quarantine_as_it_is() {
            Some(entry) => self.effects.put(Purpose::Note, vec![entry]),
            None => self.unsaved = true,
        }
    }

    /// Hands an act to the runtime.
    pub(super) fn order(
        &mut self,
        now: Now,
        act: Act,
        trigger: Trigger,
        token: Option<Box<str>>,
        timeout: Duration,
    ) -> EffectId {
        let at = self.timeline.stamp(now.mono);
        let (what, by) = (act.clone(), trigger.clone());
        let effect = self.effects.push_for(Purpose::Act, |id| Effect::Act { id, act, trigger, token, timeout });
        self.quarantine.begun(effect, &what, &by, at);
        self.releases.begun(effect, &what);
        effect
    }

    /// Keeps the rules of a quarantine in force, and the broker within reach.
    pub(super) fn poll_quarantine(&mut self, now: Now) {
        // First what costs nothing to ask: this is asked with each input.
        if self.quarantine.deadline().is_none_or(|at| at > now.mono) || self.quarantine_deadline().is_none() {
            return;
        }
        let config = &self.config.quarantine;
        if let Some(act) = self.quarantine.upkeep(now.mono, config.lockout_after, !config.stop_units.is_empty()) {
            let timeout = act.default_timeout();
            self.order(now, act, Trigger::Own(Own::Quarantine), None, timeout);
        }
    }

    /// When that is due; `None` also while it changes: it would be put in force again behind the back of who leaves it.
    pub(super) fn quarantine_deadline(&self) -> Option<Mono> {
        self.quarantine.deadline().filter(|_| self.stopping.is_none() && !self.quarantine_changes())
    }

    /// Root's helper has said what is in force, perhaps before what was done since.
    pub(super) fn quarantine_told(&mut self, now: Now, in_force: Option<QuarantineLevel>) {
        let before = self.quarantine.level();
        self.quarantine.heard(now.mono, self.timeline.stamp(now.mono), in_force);
        if self.quarantine.level() != before {
            self.show_quarantine(now);
        }
    }

    /// It is another one than was said.
    fn show_quarantine(&mut self, now: Now) {
        self.session.say_again();
        self.attributes.touch();
        self.keep_pace(now);
    }

    /// What follows for the quarantine from the end of an act.
    fn quarantine_changed(&mut self, now: Now, id: EffectId, outcome: &ActOutcome) {
        let (was_degraded, before) = (self.quarantine.is_degraded(), self.quarantine.level());
        let at = self.timeline.stamp(now.mono);
        let Aftermath { event, entry, entered } = self.quarantine.ended(now.mono, at, id, outcome);
        if self.quarantine.is_degraded() != was_degraded {
            self.attributes.touch();
        }
        let Some(event) = event else {
            if let Some(entry) = entry {
                self.effects.put(Purpose::Note, vec![entry]);
            }
            return;
        };
        self.effects.log(LogLevel::Warn, format!("{}: {}", event.name, self.quarantine.word()));
        match entry {
            Some(entry) => self.record_with(now, entry, vec![event]),
            None => self.record_event(now, event),
        }
        self.show_quarantine(now);
        self.link.hurry(now.mono);
        if self.quarantine.level() < before {
            self.is_over(now, Reason::Quarantined);
        }
        if entered {
            let by = self.commands.of_act(id).map_or(Trigger::Own(Own::Quarantine), |id| Trigger::Command(id.clone()));
            let because = self.remedies.account(id).unwrap_or_else(|| self.quarantine.by().to_owned());
            self.take_snapshot(now, by, because);
        }
    }

    /// One that nobody ordered.
    pub(super) fn take_snapshot(&mut self, now: Now, by: Trigger, because: String) {
        let timeout = Act::CollectDiagnostics.default_timeout();
        let effect = self.order(now, Act::CollectDiagnostics, by, None, timeout);
        self.snapshots.insert(effect, because);
    }

    /// In quarantine the gateway is looked at more often, and where power is short less.
    pub(super) fn keep_pace(&mut self, now: Now) {
        self.pace.slow_down(now.mono, self.remedies.slowness(&self.config), &self.config.telemetry);
        let sample = self.quarantine.level().map(|_| self.config.quarantine.sample_interval);
        self.pace.hasten(now.mono, sample);
    }

    /// Cuts what an act brings home into results that each fit into a message.
    fn tell_attachment(&mut self, now: Now, id: EffectId, outcome: &mut ActOutcome) {
        let Some(attachment) = outcome.attachment.take() else { return };
        let command_id = self.commands.of_act(id).map(|id| id.as_str().into());
        // One that nobody ordered is not told as anybody's: the command that it follows from has ended by now.
        let because = self.snapshots.get(&id).cloned().or_else(|| self.remedies.account(id));
        let detail = because.map(|because| format!("taken because of {because}").into());
        for part in parts(&attachment, command_id, detail) {
            self.record_result(now, part);
        }
    }

    /// An act ended, whoever wanted it.
    pub(super) fn acted(&mut self, now: Now, id: EffectId, mut outcome: ActOutcome) {
        self.effects.complete(id);
        if remedies::spends_nothing(&outcome) {
            self.give_back_of(id);
        }
        if outcome.ending() == Some(Ending::TakenBack) {
            outcome.reason = Some(Reason::Canceled.word().to_owned());
        }
        if remedies::refusal(&outcome).is_none() {
            // What waited for it needn't any longer; for what was refused nobody can have waited for long.
            self.remedies.is_over(now.mono, Reason::Busy);
        }
        self.quarantine_changed(now, id, &outcome);
        self.tell_attachment(now, id, &mut outcome);
        if self.snapshots.remove(&id).is_some() {
            return self.forget_quarantine();
        }
        let was_trials = self.trial_ended(now, id, &outcome);
        if outcome.status == ActStatus::Succeeded && outcome.reason.as_deref() == Some(Reason::NeedsReboot.word()) {
            return self.boot_into(now, id, was_trials.as_deref());
        }
        if was_trials.is_some() {
            return self.with_commands(now, Commands::begin_queued);
        }
        if let Some(reboot) = self.reboot.as_ref().filter(|reboot| reboot.effect == id) {
            if outcome.status == ActStatus::Succeeded {
                // The machine goes down; the service manager will say when.
                return;
            }
            outcome.detail = reboot.undone(outcome.detail);
            self.resume(now);
            self.trial_not_booted(now, id, &outcome);
        }
        if !self.with_remedies(now, |remedies, facts| remedies.acted(facts, id, &outcome)) {
            self.with_commands(now, |commands, facts| commands.acted(facts, id, outcome));
            return;
        }
        // The configuration may have wanted another ladder meanwhile.
        self.resume_remedies(now);
        // Its target is free.
        self.with_commands(now, Commands::begin_queued);
    }

    /// A command stops what is being done: a reboot that still waits is taken back here, anything else by the runtime.
    pub(super) fn stop_act(&mut self, now: Now, id: EffectId) {
        if !self.cancel_reboot(now, id) {
            self.effects.push(Effect::CancelAct { id });
        }
    }

    /// Whether the gateway is being shut off, or let back, whoever wants that.
    pub(super) fn quarantine_changes(&self) -> bool {
        let by_ladders = self.remedies.acts().any(|act| act.shuts());
        by_ladders || self.commands.acts().any(Act::shuts) || self.quarantine.acts().any(|act| act.shuts())
    }
}

/// The parts of an attachment as results of a command that is still under way.
fn parts(
    attachment: &[u8],
    command_id: Option<Box<str>>,
    detail: Option<Box<str>>,
) -> impl Iterator<Item = CommandResult> {
    let chunks: Vec<String> = attachment.chunks(PART_BYTES).map(|chunk| STANDARD.encode(chunk)).collect();
    let of = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
    (1..).zip(chunks).map(move |(number, text)| CommandResult {
        command_id: command_id.clone(),
        command: Some("collect_diagnostics".into()),
        status: Status::InProgress,
        reason: None,
        detail: detail.clone(),
        output: Some(text.into()),
        progress_pct: None,
        part: Some(Part { number, of }),
    })
}
