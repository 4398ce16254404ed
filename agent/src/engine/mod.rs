//! The pure engine: every decision of the agent, and nothing else. No async, no I/O, no clock, no dice of its own:
//! `handle(now, input)`, then `poll_effect()` until it is empty, and `poll_deadline()` says when to wake it. Each of
//! its parts (vitals, incidents, rules, outbox, link, commands, remedies, quarantine) has its own state and changes
//! nobody else's: one may be shown another, to read it. What passes between them passes here and in the files that go
//! on with [`Engine`]: alarms, errors, handover, healing, numbers, reboot, reconfigure, recording, report, saving,
//! session, start, status, stop, trial. Below them is what they have in common: time, records, metrics, the keyed
//! state.

pub mod admission;
pub mod attributes;
pub mod budget;
pub mod command;
pub mod commands;
pub mod effects;
pub mod incidents;
pub mod io;
pub mod kernel;
pub mod keyed;
pub mod link;
pub mod metric;
pub mod observation;
pub mod outbox;
pub mod outcome;
pub mod packet;
pub mod record;
pub mod remedies;
pub mod rules;
pub mod status;
pub mod time;
pub mod timeline;
pub mod vitals;

mod again;
mod alarms;
mod battery;
mod changes;
mod data_use;
mod errors;
mod handover;
pub(crate) mod hash;
mod healing;
mod numbers;
mod pace;
mod quarantine;
mod ration;
mod reboot;
mod recent;
mod reconfigure;
mod recording;
mod report;
mod saving;
mod self_audit;
mod session;
mod start;
mod stop;
mod surge;
mod suspect;
mod template;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::config::{Action, AttributeValue, CheckedConfig, Collect, QuarantineLevel};
use admission::Power;
use attributes::Attributes;
use battery::Battery;
use changes::Changes;
use commands::{Commands, Step};
use data_use::DataUse;
use effects::{Effects, Purpose};
use errors::Cursor;
use incidents::Incidents;
use io::{Effect, EffectId, Input, LogLevel, StoreFault, StoreOp, StoreReply, Trigger};
use keyed::{AUDIT_KEY, Write};
use link::{FaultLog, Link};
use numbers::Seqs;
use observation::{Audited, EndSigns, Observation, Release};
use outbox::Outbox;
use pace::Pace;
use quarantine::Quarantine;
pub(crate) use reboot::GOES_DOWN_WITHIN;
use reboot::Reboot;
use recent::Recent;
use record::{Class, Record};
use remedies::Remedies;
use report::{Counters, Written};
use rules::{Round, Rules};
use self_audit::SelfAudit;
pub(crate) use session::GRANTED_LESS;
use session::Session;
pub(crate) use start::anchors;
use stop::Stopping;
use time::{BootId, Mono, Now, Unix};
use timeline::Timeline;
use trial::Releases;
use vitals::Vitals;

/// Who this agent is: what the runtime knows when it starts.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The kernel's boot id.
    pub boot: BootId,
    /// The agent's version.
    pub version: String,
    /// When it was built: the present can't be earlier.
    pub build_time: Unix,
    /// How the boot before ended, as far as the kernel says.
    pub end_signs: EndSigns,
    /// How the run before ended, as the service manager says, in its words (`$SERVICE_RESULT`, systemd.exec(5)).
    pub ended_as: Option<String>,
    /// 128 random bits in hexadecimal, new at each start.
    pub nonce: String,
    /// What the runtime found out about this gateway: os, kernel, arch, model.
    pub facts: BTreeMap<String, AttributeValue>,
    /// The firmware's version.
    pub firmware: Option<String>,
    /// What can be done here at all: an action for which this gateway has no means is refused before it is tried.
    pub able: BTreeSet<Action>,
    /// What there are means for, and root's policy doesn't allow.
    pub withheld: BTreeSet<Action>,
    /// The quarantine in force, as far as whoever put it in force says: the journal may have lost it.
    pub quarantine: Option<QuarantineLevel>,
    /// The releases that run, as far as that can be told: what a boot was to leave is among them, or was left.
    pub releases: Vec<Release>,
}

/// The engine.
#[derive(Debug)]
pub struct Engine {
    identity: Identity,
    config: CheckedConfig,
    effects: Effects,
    timeline: Timeline,
    seqs: Seqs,
    vitals: Vitals,
    battery: Battery,
    changes: Changes,
    data_use: DataUse,
    self_audit: SelfAudit,
    recent: Recent,
    incidents: Incidents,
    rules: Rules,
    /// Alarms that the store could not take, by key: at most one a rule.
    unsaved_alarms: BTreeMap<String, Bytes>,
    outbox: Outbox,
    link: Link,
    faults: FaultLog,
    /// What can't be stored at present, and why: said already.
    store_faults: BTreeMap<&'static str, StoreFault>,
    session: Session,
    commands: Commands,
    remedies: Remedies,
    reboot: Option<Reboot>,
    quarantine: Quarantine,
    releases: Releases,
    /// Snapshots that nobody ordered, under way, and on whose account.
    snapshots: BTreeMap<EffectId, String>,
    /// What is told with a change of the state and stands there, too: in which logs, under which numbers, by its key.
    telling: BTreeMap<String, Vec<(Class, u64)>>,
    power: Power,
    /// Keys of the configuration that was loaded last, and which only a restart takes over.
    needs_restart: Vec<Box<str>>,
    /// Why nothing may be done automatically.
    inhibited: Option<String>,
    /// Who keeps the machine up.
    blocked: Option<String>,
    /// Until then, or until the first round of collection has ended, the agent doesn't connect: commands would come,
    /// and what they are judged by isn't known yet.
    looks_until: Option<Mono>,
    /// Until then, or until a round has brought readings, no ladder is climbed and no release left. It lies later: a
    /// round may end without any.
    heals_from: Option<Mono>,
    attributes: Attributes,
    pace: Pace,
    stopping: Option<Stopping>,
    /// A sign of life is on its way through the store.
    proving_alive: bool,
    cursor: Cursor,
    /// Lines of errors that came while the agent stopped: lost, if it goes on after all.
    passed_over: u64,
    /// What the start writes, until that is durable.
    beginning: Option<Vec<Write>>,
    /// A note failed: what the parts know is noted again with the next sample.
    unsaved: bool,
    last_sample: Option<(u64, Record)>,
    /// It began without a store.
    is_unstored: bool,
    /// What the store had lost by then, and was told: by this run, or by one before it.
    told_losses: Vec<String>,
    counters: Counters,
    written: Written,
}

impl Engine {
    /// Takes an input, decides, and queues effects.
    pub fn handle(&mut self, now: Now, input: Input) {
        let now = now.doubted_before(self.identity.build_time);
        if let Some(saved) = self.timeline.observe(now) {
            self.save_timeline(&saved);
        }
        match input {
            Input::Wake => {}
            Input::Observed { id, result } => {
                if self.effects.complete(id).is_some() {
                    self.observed(now, result);
                }
            }
            Input::Audited { id, result } => {
                if self.effects.complete(id).is_some() {
                    self.audited(now, result);
                }
            }
            Input::Errors(batch) => self.errors(now, batch),
            Input::Store { id, result, stats } => {
                self.written.total = stats.written_bytes;
                self.counters.store_busy += u64::from(result == Err(StoreFault::Busy));
                if let Some(purpose) = self.effects.stored(id) {
                    self.stored(now, purpose, result);
                }
                self.outbox.stats(stats, &mut self.effects);
                let degraded = self.outbox.fault().is_some() || self.outbox.is_short_of_space();
                self.attributes.set_degraded(now.mono, degraded);
            }
            Input::LinkUp { id, lookup, password } => {
                self.session.looked_up(lookup);
                self.greet(now, id, password);
            }
            Input::LinkDown { id, fault, retry_in } => {
                if let Some(signal) = self.link.down(now.mono, id, fault, retry_in) {
                    self.signal(now, signal, retry_in);
                }
            }
            Input::Packet { id, packet } => {
                if let Some(signal) = self.link.packet(now.mono, id, packet, &mut self.effects) {
                    self.signal(now, signal, Duration::ZERO);
                }
            }
            Input::ActDone { id, outcome } => self.acted(now, id, outcome),
            Input::ActProgress { id, percent } => self.commands.progressed(id, percent),
            Input::Reconfigure(config) => self.reconfigure(now, &config),
            Input::Able { actions, withheld, quarantine } => {
                (self.identity.able, self.identity.withheld) = (actions, withheld);
                self.quarantine_told(now, quarantine);
            }
            Input::LookAtQuarantine => self.quarantine.look_again(now.mono),
            Input::ProveAlive => self.prove_alive(),
            Input::ConfigRefused { errors, first } => self.config_refused(now, errors, &first),
            Input::Stop { reason } => self.stop(now, reason),
        }
        self.advance(now);
    }

    /// The next effect to carry out.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.poll()
    }

    /// Hands every operation to the store at once, however many it has. A bug that the simulator plants.
    #[cfg(feature = "simulate")]
    pub(crate) const fn hold_nothing_back(&mut self) {
        self.effects.close();
    }

    /// After how long at most what is measured now is sent, at the present intervals. It is for the simulator.
    #[cfg(feature = "simulate")]
    pub(crate) fn sends_within(&self) -> Duration {
        let (_, report, publish) = self.pace.intervals(&self.config.telemetry);
        report + publish
    }

    /// When to call `handle` with [`Input::Wake`], if nothing else comes before.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Mono> {
        let (looked, heals) = (self.looks_until.is_none(), self.heals_from.is_none());
        let parts = [
            self.looks_until,
            self.heals_from,
            // A stop leaves the ticks undone: theirs would be a deadline in the past.
            self.stopping.is_none().then(|| self.pace.deadline()).flatten(),
            self.stopping.is_none().then(|| self.self_audit.deadline()).flatten(),
            self.has_room_for_counts().then(|| self.incidents.deadline()).flatten(),
            self.rules.deadline(),
            self.commands.deadline(self.stopping.is_some()),
            (heals && self.stopping.is_none()).then(|| self.remedies.deadline()).flatten(),
            self.reboot_deadline(),
            self.quarantine_deadline(),
            (heals && self.stopping.is_none()).then(|| self.releases.deadline(&self.config)).flatten(),
            self.outbox.deadline(),
            looked.then(|| self.link.deadline()).flatten(),
            self.session.deadline(&self.link, &self.outbox, &self.attributes, self.stopping.is_some()),
            self.stopping.as_ref().and_then(Stopping::deadline),
        ];
        parts.into_iter().flatten().min()
    }

    /// Whether there is a session with the broker.
    #[must_use]
    pub const fn is_online(&self) -> bool {
        self.link.is_online()
    }

    /// Why there is none, in a fixed word.
    #[must_use]
    pub fn last_fault(&self) -> Option<&'static str> {
        self.session.last_fault.as_ref().map(|fault| fault.kind.word())
    }

    /// Records that were given up since the store was made, by reason.
    #[must_use]
    pub const fn dropped(&self) -> &BTreeMap<String, u64> {
        self.outbox.dropped()
    }

    /// All that can grow: its name, how much it holds, and its bound.
    #[must_use]
    pub fn bounds(&self) -> Vec<(&'static str, usize, usize)> {
        let mut bounds = vec![
            ("effects that wait for their completion", self.effects.pending(), effects::PENDING_MAX),
            (
                "publishes in flight",
                self.link.inflight(),
                usize::from(self.config.mqtt.inflight_max).min(link::WINDOW_MAX),
            ),
            ("series of one interval", self.vitals.series(), vitals::SERIES_MAX),
            ("error clusters", self.incidents.clusters(), self.config.collect.errors.max_clusters),
        ];
        bounds.extend(self.outbox.bounds());
        bounds.extend(self.commands.bounds());
        bounds.push(self.remedies.bounds());
        bounds
    }

    /// Does all that is due.
    fn advance(&mut self, now: Now) {
        self.tick(now);
        self.tell_counts(now);
        self.poll_alarms(now);
        self.tell_lost(now);
        let (seqs, commands) = (&mut self.seqs, &mut self.commands);
        let renumber = |old| {
            let new = seqs.next();
            commands.renumbered(old, new);
            new
        };
        self.outbox.poll(now.mono, renumber, &mut self.effects);
        self.looks_until.take_if(|until| *until <= now.mono);
        self.heals_from.take_if(|from| *from <= now.mono);
        if self.looks_until.is_none() && self.link.poll(now.mono, &mut self.effects) {
            self.faults.stable();
        }
        self.with_commands(now, Commands::poll);
        if self.heals_from.is_none() {
            self.poll_remedies(now);
        }
        self.keep_pace(now);
        if self.heals_from.is_none() {
            self.poll_trials(now);
        }
        self.poll_quarantine(now);
        // Before what was given up is saved as counted: a crash between the two is noticed by that.
        for gone in self.outbox.take_gone() {
            self.commands.reports_gone(&gone);
        }
        if self.commands.owes_answers() {
            self.commands.tell_answers(self.outbox.room_for_answers());
        } else {
            self.commands.tell_owed(self.outbox.room_to_tell_again());
        }
        self.run_steps(now);
        self.poll_reboot(now);
        self.reserve_seqs(now);
        self.pump(now);
        self.save_dropped();
        self.outbox.trim(&mut self.effects);
        self.advance_stop(now);
    }

    fn observed(&mut self, now: Now, result: Result<Observation, String>) {
        self.pace.observed();
        self.looks_until = None;
        match result {
            Ok(mut observation) => {
                self.heals_from = None;
                self.counters.collect_faults += observation.faults.len() as u64;
                for fault in &observation.faults {
                    self.effects.log(LogLevel::Debug, format!("collect: {}: {}", fault.source, fault.what));
                }
                let sampled_every = self.pace.spacing(&self.config.telemetry).0;
                let findings = self.battery.look(now.mono, sampled_every, &mut observation.points);
                if findings.swapped {
                    self.vitals.forget_charge();
                }
                let mut events = self.changes.look(now.mono, &observation.points);
                events.extend(findings.event);
                let counted = self.data_use.look(now, &self.config.collect.link.monthly_budget, &observation.points);
                observation.points.extend(counted.points);
                events.extend(counted.events);
                self.record_events(now, events);
                self.note_power(now, &observation);
                self.note_inhibitors(now, &observation);
                self.see_releases(now, &observation.releases);
                self.judge(now, Round::Observed(Some(&observation)));
                self.vitals.observe(observation.points);
                let read = |is_on: bool| is_on.then_some(&self.vitals);
                let Collect { battery, link, .. } = &self.config.collect;
                self.attributes.observe(read(battery.enabled), read(link.enabled));
            }
            Err(why) => {
                self.effects.log(LogLevel::Warn, format!("collect: no readings this time: {why}"));
                self.miss_round(now);
            }
        }
        self.looked_for_reboot(now);
    }

    /// A round of the collectors gave no readings.
    fn miss_round(&mut self, now: Now) {
        self.counters.observe_busy += 1;
        self.judge(now, Round::Observed(None));
    }

    /// The store completed something.
    fn stored(&mut self, now: Now, purpose: Purpose, result: Result<StoreReply, StoreFault>) {
        let fault = result.as_ref().err().cloned();
        match purpose {
            Purpose::Append { class, seq, bytes } => {
                self.outbox.appended(now.mono, (class, seq, bytes), fault, &mut self.effects);
            }
            Purpose::Commit { upto } => {
                self.outbox.committed(now.mono, upto, fault.as_ref(), &mut self.effects);
                self.commands.results_safe(|seq| self.outbox.is_safe(Class::Results, seq));
                self.session.flow.committed(&self.outbox);
                self.forget_quarantine();
            }
            Purpose::ThinRead => self.outbox.thin_page(now.mono, result, &mut self.effects),
            Purpose::ThinAppend { seq } => {
                self.outbox.thin_stored(now.mono, seq, fault.as_ref(), &mut self.effects);
            }
            Purpose::Read { class } => self.outbox.page(now.mono, class, result, &mut self.effects),
            Purpose::Evict { class } => self.outbox.evicted(now.mono, class, result, &mut self.effects),
            Purpose::Accepted(_) | Purpose::Begun(_) | Purpose::Outcome(_) => {
                self.log_fault("journal", fault.as_ref());
                self.with_commands(now, |commands, facts| commands.journaled(facts, &purpose, fault.is_none()));
            }
            Purpose::Reserve { upto } => {
                self.log_fault("reserve message numbers", fault.as_ref());
                self.seqs.reserved(now.mono, upto, fault.as_ref());
                // A stop has put the link to rest, and it must stay there.
                if self.stopping.is_none() {
                    self.link.release(now.mono);
                }
            }
            Purpose::Trim { class, upto } => {
                self.outbox.trimmed(now.mono, (class, upto), fault.as_ref(), &mut self.effects);
            }
            Purpose::RunMark => {
                self.log_fault("bookkeeping", fault.as_ref());
                match fault {
                    None => self.beginning = None,
                    Some(_) => self.unsaved = true,
                }
            }
            Purpose::Note => {
                self.log_fault("bookkeeping", fault.as_ref());
                self.unsaved |= fault.is_some();
            }
            Purpose::Alarm { key, value } => {
                self.log_fault("alarm", fault.as_ref());
                self.alarm_stored(key, value, fault.is_none());
            }
            Purpose::Remedy(rule) => {
                self.log_fault("journal", fault.as_ref());
                let written = fault.is_none();
                let given_up = self.with_remedies(now, |remedies, facts| remedies.journaled(facts, &rule, written));
                if let Some(act) = given_up {
                    let spending = self.remedies.take_spending(&rule);
                    self.give_back(spending);
                    self.take_back(&act);
                    // The configuration may have wanted another ladder meanwhile.
                    self.resume_remedies(now);
                    // Its target is free.
                    self.with_commands(now, Commands::begin_queued);
                }
            }
            Purpose::Trial(target) => {
                self.log_fault("journal", fault.as_ref());
                self.trial_journaled(now, &target, fault.is_none());
                self.with_commands(now, Commands::begin_queued);
            }
            Purpose::Probe => {
                self.proving_alive = false;
                // A queue that was full, or a thread that is gone, is no sign of life.
                if result == Ok(StoreReply::Probed) {
                    self.effects.push(Effect::Alive);
                }
            }
            Purpose::Observe | Purpose::Audit | Purpose::Act => {}
        }
    }

    /// One sign of life at a time: more of them would only wait behind the first.
    fn prove_alive(&mut self) {
        if !std::mem::replace(&mut self.proving_alive, true) {
            self.effects.store(Purpose::Probe, StoreOp::Probe);
        }
    }

    /// Samples, reports and publishes when their time has come.
    fn tick(&mut self, now: Now) {
        if self.stopping.is_some() {
            return;
        }
        let due = self.pace.poll(now.mono, &self.config.telemetry);
        if due.report {
            self.report(now);
        }
        if due.observe || due.observe_overdue {
            self.watch_trials(now);
        }
        if due.observe {
            self.effects.push_for(Purpose::Observe, |id| Effect::Observe { id });
        }
        if self.self_audit.poll(now.mono) {
            let refused = self.link.is_online().then(|| self.session.refused());
            self.effects.push_for(Purpose::Audit, |id| Effect::Audit { id, refused });
        }
        if due.observe_overdue {
            // Collectors that hang give no answer.
            self.miss_round(now);
        }
        if due.publish {
            // What goes out now doesn't wait for its commit; offline each commit wears the flash for nobody.
            if self.link.is_online() {
                self.outbox.commit(&mut self.effects);
            }
            self.session.flow.publish_due(&self.outbox);
            self.session.flow.committed(&self.outbox);
        }
    }

    fn audited(&mut self, now: Now, result: Result<Audited, String>) {
        let audited = match result {
            Ok(audited) => audited,
            Err(why) => {
                self.self_audit.failed();
                return self.effects.log(LogLevel::Warn, format!("audit: nobody could look: {why}"));
            }
        };
        let told = self.self_audit.audited(&audited);
        self.record_events(now, told.events);
        if let Some(value) = told.saved {
            self.effects.put(Purpose::Note, vec![(AUDIT_KEY.to_owned(), value)]);
        }
    }

    /// Carries out what the commands decided.
    fn run_steps(&mut self, now: Now) {
        while let Some(step) = self.commands.poll_step() {
            match step {
                Step::Report(result) => self.record_report(now, result),
                Step::Answer(result) => self.record_result(now, result),
                Step::Tell(event) => self.record_event(now, event),
                Step::Acknowledge(pkid) => self.link.acknowledge(now.mono, pkid, &mut self.effects),
                Step::Journal(purpose, mut entries) => {
                    if matches!(&purpose, Purpose::Outcome(id) if self.commands.changes_quarantine(id)) {
                        entries.extend(self.quarantine_as_it_is());
                    }
                    self.effects.put(purpose, entries);
                }
                Step::Act(id, act, token, timeout) => {
                    let effect = self.order(now, act, Trigger::Command(id.clone()), token, timeout);
                    self.commands.acting(effect, id);
                }
                Step::Reboot { id, token, delay, within } => {
                    let effect = self.order_reboot(now, Trigger::Command(id.clone()), token, delay, within);
                    self.commands.acting(effect, id);
                    // What came meanwhile need not wait for one that waits itself.
                    self.with_commands(now, Commands::begin_queued);
                }
                Step::Look => self.pace.look_now(now.mono),
                Step::Stop(id) => self.stop_act(now, id),
                Step::StopLadders => self.stop_ladders(now),
                Step::Intervals(id, intervals) => {
                    self.pace.override_until(now.mono, intervals, &self.config.telemetry);
                    let detail = self.pace.told(&self.config.telemetry, intervals.hold);
                    self.commands.intervals_set(&id, &detail);
                }
                Step::Log(level, text) => self.effects.log(level, text),
            }
        }
    }
}
