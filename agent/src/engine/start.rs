//! How the engine begins: from what the store holds, which is all that it knows of its former lives.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::admission::Power;
use super::attributes::Attributes;
use super::battery::Battery;
use super::changes::Changes;
use super::commands::{Careful, Commands, Forgotten};
use super::data_use::DataUse;
use super::effects::{Effects, Purpose};
use super::errors::Cursor;
use super::incidents::{self, Incidents, Unsaid};
use super::io::{LogLevel, Recovered, StoreLoss};
use super::keyed::{
    ACCOUNTED_KEY, ANCHOR_KEY, AUDIT_KEY, BOOTED_KEY, CAREFUL_KEY, CAREFUL_SINCE_KEY, CLAIM_KEY, CRASHES_KEY,
    CURSOR_KEY, DATA_KEY, DROPPED_KEY, FLOOR_KEY, FORGOTTEN_KEY, LOSSES_KEY, LOST_KEY, OPEN_KEY, RUN_KEY, SEQ_KEY,
    STATE_LOST_KEY, SUBSCRIBED_KEY, UNTOLD_KEY, Write, encode, write,
};
use super::link::{self, FaultLog, Link};
use super::numbers::{Seqs, Used, last_by_clock, last_unstored};
use super::observation::Severity;
use super::outbox::{Limits, Outbox};
use super::pace::Pace;
use super::quarantine::Quarantine;
use super::ration;
use super::recent::Recent;
use super::record::{Class, Event, EventKind, Field, Stamp};
use super::remedies::{self, Remedies};
use super::report::{Counters, Written};
use super::rules::{Leftovers, Rules};
use super::self_audit::SelfAudit;
use super::session::Session;
use super::time::{Anchor, BootId, Mono, Now, Unix};
use super::timeline::{Saved, Timeline};
use super::trial::Releases;
use super::vitals::Vitals;
use super::{Engine, Identity, handover};
use crate::config::{self, CheckedConfig};
use crate::gather::gather;

/// Losses that are remembered as told: their texts must fit into one value of the store.
const LOSSES_MAX: usize = 8;
/// How long the first round of collection is waited for: a collector that hangs must not keep the gateway off the air.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// And how long until ladders go on without: one that waited for ever would be no help where a collector hangs.
const HEAL_BLINDLY_AFTER: Duration = Duration::from_secs(600);
/// How long before an agent that comes up with the machine something may have failed that is of its first interval.
const COMING_UP: Duration = Duration::from_secs(300);
/// The service manager's word for a service that it killed because it had not said that it lives.
const WATCHDOG: &str = "watchdog";

/// What is remembered of the run before.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Run {
    /// When it ended, if it said goodbye; else when it began.
    #[n(0)]
    pub(super) at: Stamp,
    /// It ended as it should.
    #[n(1)]
    pub(super) clean: bool,
    /// It told the machine to reboot, for this reason: the contract's word.
    #[n(2)]
    pub(super) reboot: Option<Box<str>>,
}

/// How the run before ended.
struct Before {
    run: Run,
    /// When it last wrote to the store.
    written_at: Option<Unix>,
    /// The kernel has kept a crash since it began.
    crashed: bool,
}

/// What of the keyed state dates the stamps of each boot.
pub(crate) fn anchors<'a>(entries: impl Iterator<Item = (&'a str, &'a Bytes)>) -> BTreeMap<BootId, Anchor> {
    gather(entries.filter_map(|(key, value)| {
        let boot = BootId::parse(key.strip_prefix(ANCHOR_KEY)?)?;
        Some((boot, minicbor::decode(value).ok()?))
    }))
}

pub(super) fn anchor_key(boot: BootId) -> String {
    format!("{ANCHOR_KEY}{boot}")
}

/// What is kept of how late it is at least.
pub(super) fn floors(saved: &Saved) -> [Write; 2] {
    [write(FLOOR_KEY, &saved.floor), (CLAIM_KEY.to_owned(), saved.claimed.map(|claimed| encode(&claimed)))]
}

/// The store's limits in the outbox's terms.
pub(super) fn limits(config: &CheckedConfig) -> Limits {
    Limits {
        max_bytes: config.store.max_bytes,
        min_free_bytes: config.store.min_free_bytes,
        commit_interval: config.store.commit_interval,
    }
}

pub(super) fn link_settings(config: &CheckedConfig) -> link::Settings {
    let (packet_max, inflight_max) = ration::known_bounds(config.mqtt.limits);
    link::Settings {
        version: config.mqtt.version,
        named: !config.mqtt.username.is_empty(),
        keep_alive: config.mqtt.keep_alive,
        inflight_max: config.mqtt.inflight_max.min(inflight_max),
        packet_max,
        stable_after: config.mqtt.reconnect.stable_after,
    }
}

pub(super) fn incident_settings(config: &config::CollectErrors) -> incidents::Settings {
    incidents::Settings { max_clusters: config.max_clusters, min_severity: config.min_severity, bucket: config.bucket }
}

/// What was counted and not told, as far as it says something of this configuration.
fn unsaid(config: &config::CollectErrors, saved: Option<Unsaid>) -> Unsaid {
    let saved = saved.unwrap_or_default();
    if config.enabled && config.app_socket.is_some() { saved } else { saved.unheard() }
}

/// What stands in the store of how careful the agent is.
fn careful_entries(careful: Careful) -> [Write; 2] {
    let before = careful.before.map(|before| encode(&before));
    let since = careful.since.map(|since| encode(&since));
    [(CAREFUL_KEY.to_owned(), before), (CAREFUL_SINCE_KEY.to_owned(), since)]
}

impl Engine {
    /// The clock can be trusted: the moment from which commands are obeyed has a date now.
    pub(super) fn date_careful(&mut self) {
        if let Some(careful) = self.commands.date_careful(&self.timeline) {
            self.effects.put(Purpose::Note, careful_entries(careful).into());
        }
    }

    /// Begins: with a config that was checked, and with what the store holds.
    #[must_use]
    pub fn new(now: Now, config: CheckedConfig, identity: Identity, recovered: Recovered) -> Self {
        let now = now.doubted_before(identity.build_time);
        let recovered = handover::with_untold(recovered);
        let state = State::of(&recovered);
        let mut timeline = Timeline::new(identity.boot, state.anchors(), state.read(FLOOR_KEY), identity.build_time)
            .with_claim(state.read(CLAIM_KEY))
            .begun_at(now.mono);
        let run: Option<Run> = state.read(RUN_KEY);
        let booted_by = state.booted_by(run.as_ref(), identity.boot, now);
        timeline = timeline.booted_by(booted_by);
        let saved = timeline.observe(now);
        let careful = state.careful(&recovered, &timeline, now);
        let was_clean = run.as_ref().is_some_and(|run| run.clean);
        // What failed while the agent was restarted counts, or while the machine came up.
        let is_first = run.as_ref().is_none_or(|run| run.at.boot != identity.boot);
        let counted_before = config.telemetry.report_interval.max(if is_first { COMING_UP } else { Duration::ZERO });
        let by_clock = last_by_clock(timeline.floor().max(now.wall.unix));
        let last = if recovered.absent {
            last_unstored(now, by_clock, &identity.nonce)
        } else {
            // A state that has fallen back tells of the end of an earlier run.
            Used::of(state.read(SEQ_KEY), &recovered, was_clean && !state.is_lost(&recovered)).last(by_clock)
        };
        let dropped = state.read(DROPPED_KEY);
        let accounted: [u64; Class::COUNT] = state.read(ACCOUNTED_KEY).unwrap_or_default();
        let events_last = Class::Events.of(&recovered.logs).last;
        let stamp = timeline.stamp(now.mono);
        let (rules, leftovers) = Rules::new(config.rules_in_force(), stamp, &recovered.state, events_last);
        let releases = Releases::restore(&recovered.state, stamp);
        let facts = remedies::Facts { now, config: &config, timeline: &timeline, stopping: false, releases: &releases };
        let remedies = Remedies::new(facts, &recovered.state, &identity, |rule| rules.is_raised(rule));
        let session = Session::new(state.read(SUBSCRIBED_KEY).unwrap_or_default(), was_clean);
        let (quarantine, found) = Quarantine::restore(now, stamp, &recovered.state, identity.quarantine);

        let mut engine = Self {
            effects: Effects::default(),
            seqs: Seqs::after(last),
            vitals: Vitals::new(now.mono),
            battery: Battery::default(),
            changes: Changes::default(),
            data_use: DataUse::new(now.mono, identity.boot, state.read(DATA_KEY)),
            self_audit: SelfAudit::new(now.mono, state.read(AUDIT_KEY)),
            recent: Recent::default(),
            incidents: Incidents::restore(
                incident_settings(&config.collect.errors),
                stamp,
                unsaid(&config.collect.errors, state.read(OPEN_KEY)),
            )
            .counting_from(now.mono.before(counted_before)),
            rules,
            unsaved_alarms: BTreeMap::new(),
            outbox: Outbox::new(limits(&config), &recovered, dropped.unwrap_or_default(), accounted),
            link: Link::new(link_settings(&config), now.mono),
            faults: FaultLog::default(),
            store_faults: BTreeMap::new(),
            session,
            commands: Commands::new(&recovered.state, careful, &identity).with_no_store(recovered.absent),
            remedies,
            reboot: None,
            quarantine,
            releases,
            snapshots: BTreeMap::new(),
            telling: BTreeMap::new(),
            power: Power::default(),
            needs_restart: Vec::new(),
            inhibited: None,
            blocked: None,
            looks_until: Some(now.mono.after(LOOK_MAX)),
            heals_from: Some(now.mono.after(HEAL_BLINDLY_AFTER)),
            attributes: Attributes::new(identity.version.clone(), identity.firmware.clone()),
            pace: Pace::new(now.mono, &config.telemetry),
            stopping: None,
            proving_alive: false,
            cursor: Cursor::kept(state.text(CURSOR_KEY), state.entries.get(OPEN_KEY).copied().cloned()),
            unsaved: false,
            passed_over: 0,
            beginning: None,
            last_sample: None,
            is_unstored: recovered.absent,
            told_losses: state.read(LOSSES_KEY).unwrap_or_default(),
            counters: Counters::default(),
            written: Written::default(),
            timeline,
            identity,
            config,
        };
        if let Some(saved) = saved {
            engine.save_timeline(&saved);
        }
        let results = Class::Results.of(&recovered.logs);
        let unheard = results.evicted.saturating_sub(*Class::Results.of(&accounted));
        let kept_from = if results.records == 0 { results.last.saturating_add(1) } else { results.first };
        engine.commands.reports_gone_unheard(unheard, kept_from);
        let mut first = vec![write(BOOTED_KEY, &engine.timeline.booted())];
        if careful != Careful::default() {
            first.extend(careful_entries(careful));
        }
        if state.is_lost(&recovered) {
            // How much was spent can't be known, so all of it was.
            first.extend(engine.with_commands(now, Commands::exhaust_budgets));
            first.push((STATE_LOST_KEY.to_owned(), None));
        }
        if state.has_unreadable_forgotten() {
            // What it covered is older than `careful` says from now on.
            first.push((FORGOTTEN_KEY.to_owned(), None));
        }
        engine.keep_pace(now);
        // The configuration may have changed since.
        engine.with_remedies(now, Remedies::reconfigure);
        engine.resume_remedies(now);
        engine.forget_unread();
        let (crashed, entry) = engine.crashes_since(state.read(CRASHES_KEY));
        first.extend(entry);
        let before = run.map(|run| Before { run, written_at: recovered.written_at, crashed });
        engine.begin(now, before, first, (&recovered, &state), leftovers);
        if let (Some(entry), Some(event)) = (found.entry, found.event) {
            engine.record_with(now, entry, vec![event]);
            engine.advance(now);
        }
        engine
    }

    /// Tells what happened since the last run, and marks this one as begun.
    fn begin(
        &mut self,
        now: Now,
        before: Option<Before>,
        first: Vec<Write>,
        (recovered, state): (&Recovered, &State<'_>),
        mut alarms: Leftovers,
    ) {
        let run = Run { at: self.timeline.stamp(now.mono), clean: false, reboot: None };
        // All in one: if the agent dies before it is durable, the next start finds the state as this one did.
        let mut entries = vec![write(RUN_KEY, &run)];
        entries.extend(first);
        if let Some(before) = &before {
            let (watched, crashed) = self.last_watch_of(before);
            entries.extend(self.go_on_with_trials(now, watched, crashed));
        }
        self.put_beginning(entries);

        self.warn_of_unsigned();
        // Before all that is of this boot, as it is of one before.
        self.tell_again(now, state, &recovered.logs);
        self.tell_alarm_records(now, std::mem::take(&mut alarms.again));
        self.outbox.owe(state.read(LOST_KEY).unwrap_or_default());
        self.tell_losses(now, &recovered.losses, state.entries.contains_key(UNTOLD_KEY));
        if let Some(before) = before.as_ref().filter(|before| before.run.at.boot != self.timeline.boot()) {
            let event = self.rebooted(now, before);
            self.record_event(now, event);
        }
        let is_first = !state.is_lost(recovered);
        let started = self.started(before.as_ref().map(|before| &before.run), is_first);
        self.record_event(now, started);
        self.begin_alarms(now, alarms);
        self.advance(now);
    }

    /// Where whoever may publish commands this gateway, its log says so.
    pub(super) fn warn_of_unsigned(&mut self) {
        if !self.config.commands.require_signature {
            let text = "commands.require_signature is off: whoever may publish to the broker commands this gateway, \
                        but for what root's helper does";
            self.effects.log(LogLevel::Warn, text);
        }
    }

    /// Writes that this run has begun, and what follows from how the one before ended.
    pub(super) fn put_beginning(&mut self, entries: Vec<Write>) {
        self.effects.put(Purpose::RunMark, entries.clone());
        self.beginning = Some(entries);
    }

    /// The same once more, where the store refused it: without it the next start would take the run before for this
    /// one.
    pub(super) fn begin_again(&mut self) {
        if let Some(entries) = self.take_beginning() {
            self.put_beginning(entries);
        }
    }

    /// What of that is still to be written, but for the mark of the run.
    pub(super) fn left_of_beginning(&mut self) -> Vec<Write> {
        self.take_beginning().into_iter().flatten().filter(|(key, _)| key != RUN_KEY).collect()
    }

    fn take_beginning(&mut self) -> Option<Vec<Write>> {
        let mut entries = self.beginning.take()?;
        // It may have a date by now, and more may be known of a release.
        let later = careful_entries(self.commands.careful()).into_iter().chain(self.releases.entries());
        let later: Vec<Write> = later.collect();
        for (key, value) in &mut entries {
            if let Some((_, now)) = later.iter().find(|(known, _)| known == key) {
                value.clone_from(now);
            }
        }
        Some(entries)
    }

    /// What ended the run before is told with the beginning of this one: it could not tell that itself. Where nothing
    /// is known of one, this `is_first`, or what knew of it is lost, or can't be read now.
    fn started(&self, before: Option<&Run>, is_first: bool) -> Event {
        let hung = self.identity.ended_as.as_deref() == Some(WATCHDOG);
        let after = match before {
            None if is_first => "first start",
            Some(run) if run.clean => "stop",
            _ if hung => WATCHDOG,
            None => "unknown",
            Some(_) => "crash or power cut",
        };
        Event::new(if hung { Severity::Error } else { Severity::Info }, EventKind::Lifecycle, "started")
            .group("agent")
            .with("version", self.identity.version.as_str())
            .with("after", after)
            .with_some("service_result", self.identity.ended_as.as_deref().filter(|word| *word != "success"))
    }

    /// A damaged segment is found anew at each start until it is sent and deleted: told and counted once. `is_untold`:
    /// some of them are in the store for this start to tell.
    fn tell_losses(&mut self, now: Now, losses: &[StoreLoss], is_untold: bool) {
        let remembered = remembered(losses.iter());
        if remembered == self.told_losses && !is_untold {
            return;
        }
        let told = std::mem::replace(&mut self.told_losses, remembered);
        for loss in losses.iter().filter(|loss| !told.contains(&loss.what)) {
            self.effects.log(LogLevel::Error, format!("store: {}", loss.what));
            self.outbox.count_dropped("corrupt", loss.records);
            let event = Event::new(Severity::Error, EventKind::Audit, "store_damaged")
                .with("detail", loss.what.as_str())
                .with("records_lost", loss.records)
                .with("state_lost", loss.state_lost);
            self.record_event(now, event);
        }
        // The count first: a crash between the two counts them twice, and the other way round never.
        self.save_dropped();
        self.save_told_losses(is_untold);
    }

    /// Which losses are told, and that none in the store `was_untold`.
    pub(super) fn save_told_losses(&mut self, was_untold: bool) {
        let mut entries = vec![write(LOSSES_KEY, &self.told_losses)];
        entries.extend(was_untold.then(|| (UNTOLD_KEY.to_owned(), None)));
        self.effects.put(Purpose::Note, entries);
    }

    /// Why the machine went down, in the contract's words, and what says so where nobody announced it.
    fn end_of<'a>(&self, Before { run, crashed, .. }: &'a Before) -> (&'a str, Option<&'static str>) {
        match &run.reboot {
            Some(reason) => (reason, None),
            None if *crashed => ("kernel_panic", Some("pstore")),
            // A run that said goodbye was stopped by somebody.
            None if run.clean => ("user", None),
            None if self.identity.end_signs.watchdog => ("watchdog", Some("bootstatus")),
            // A hard reset looks the same.
            None => ("power_loss", Some("cut_off")),
        }
    }

    /// Whether the kernel has kept a crash that it had not when the agent was started before, and what of it is to be
    /// remembered.
    fn crashes_since(&self, known: Option<Vec<String>>) -> (bool, Option<Write>) {
        let (kept, known) = (&self.identity.end_signs.panics, known.unwrap_or_default());
        let crashed = kept.iter().any(|record| !known.contains(record));
        let value = (!kept.is_empty()).then(|| encode(kept));
        (crashed, (*kept != known).then(|| (CRASHES_KEY.to_owned(), value)))
    }

    /// When a run ended; of one that was cut off when it last wrote something: nobody knows any better. `None` if its
    /// clock was never set.
    fn end_at(&self, Before { run, written_at, .. }: &Before) -> Option<Stamp> {
        if run.clean {
            return Some(run.at);
        }
        let began = self.timeline.date(run.at)?;
        let ran_ms = u64::try_from((*written_at)?.0.checked_sub(began.0)?).ok()?;
        Some(Stamp { mono: run.at.mono.after(Duration::from_millis(ran_ms)), ..run.at })
    }

    /// Until when a run watched, and whether it crashed or hung, or the machine did. A power cut says nothing of what
    /// ran.
    fn last_watch_of(&self, before: &Before) -> (Mono, bool) {
        let run = &before.run;
        let watched = self.end_at(before).unwrap_or(run.at);
        let is_same_boot = run.at.boot == self.timeline.boot();
        let machine_did = || matches!(self.end_of(before).0, "kernel_panic" | WATCHDOG);
        (watched.mono, if is_same_boot { !run.clean } else { machine_did() })
    }

    /// Another boot id means another boot, whatever the clock says.
    fn rebooted(&self, now: Now, before: &Before) -> Event {
        let (reason, evidence) = self.end_of(before);
        let went_down = self.end_at(before);
        let before = &before.run;
        let booted = self.timeline.stamp(Mono(0));
        // By what the clock says when this is sent: after a boot it is mostly not set yet. In a container the clock
        // since boot is its host's, and goes on over a reboot: there it is until this start.
        let started = self.timeline.stamp(now.mono);
        let downtime = went_down.map(|from| Field::Passed { from, to: booted, or: Some(started) });
        let severity = match reason {
            "kernel_panic" | "watchdog" => Severity::Error,
            "power_loss" => Severity::Warning,
            _ => Severity::Notice,
        };
        Event::new(severity, EventKind::Lifecycle, "rebooted")
            .group("reboot")
            .with("reason", reason)
            .with_some("evidence", evidence)
            .with("previous_boot", &*before.at.boot.to_string())
            .with_some("downtime_s", downtime)
    }
}

/// What is remembered of losses that are told: those that count records first, as they would be counted again.
pub(super) fn remembered<'a>(losses: impl Iterator<Item = &'a StoreLoss>) -> Vec<String> {
    let (counting, others): (Vec<_>, Vec<_>) = losses.partition(|loss| loss.records > 0);
    counting.iter().chain(&others).take(LOSSES_MAX).map(|loss| loss.what.clone()).collect()
}

/// The keyed state, read by key. What can't be read counts as not there; its loss shows as the default.
pub(super) struct State<'a> {
    pub(super) entries: BTreeMap<&'a str, &'a Bytes>,
}

impl<'a> State<'a> {
    pub(super) fn of(recovered: &'a Recovered) -> Self {
        Self { entries: gather(recovered.state.iter().map(|(key, value)| (key.as_str(), value))) }
    }

    pub(super) fn read<T: for<'b> Decode<'b, ()>>(&self, key: &str) -> Option<T> {
        minicbor::decode(self.entries.get(key)?).ok()
    }

    fn text(&self, key: &str) -> Option<String> {
        String::from_utf8(self.entries.get(key)?.to_vec()).ok()
    }

    /// By when this boot had begun: at zero where its clock began with it. In a container that is its host's, and goes
    /// on over a reboot: where it has not gone back since another boot, no more is certain than that the first run of
    /// this one came after it began.
    fn booted_by(&self, before: Option<&Run>, boot: BootId, now: Now) -> Mono {
        let known = self.read::<Stamp>(BOOTED_KEY).filter(|known| known.boot == boot).map(|known| known.mono);
        let goes_on = before.is_some_and(|run| run.at.boot != boot && run.at.mono < now.mono);
        known.unwrap_or(if goes_on { now.mono } else { Mono(0) })
    }

    fn anchors(&self) -> BTreeMap<BootId, Anchor> {
        anchors(self.entries.iter().map(|(key, value)| (*key, *value)))
    }

    /// Whether the journal was lost: just now, or before a start that died before it had written anything, or for as
    /// long as there is no store. Records without the mark that each start makes were written by an agent whose state
    /// is gone.
    pub(super) fn is_lost(&self, recovered: &Recovered) -> bool {
        let marked = self.entries.contains_key(RUN_KEY);
        let has_records = recovered.logs.iter().any(|log| log.last > 0);
        let is_told = recovered.losses.iter().any(|loss| loss.state_lost);
        recovered.absent || is_told || self.entries.contains_key(STATE_LOST_KEY) || (!marked && has_records)
    }

    /// Whether it can't be told which commands were forgotten: another version wrote that in another form.
    fn has_unreadable_forgotten(&self) -> bool {
        self.entries.contains_key(FORGOTTEN_KEY) && self.read::<Forgotten>(FORGOTTEN_KEY).is_none()
    }

    /// Since when commands are obeyed again, if the journal was lost, or what tells of the commands that it has
    /// forgotten: what was issued before may have run already.
    fn careful(&self, recovered: &Recovered, timeline: &Timeline, now: Now) -> Careful {
        match self.is_lost(recovered) || self.has_unreadable_forgotten() {
            false => Careful { before: self.read(CAREFUL_KEY), since: self.read(CAREFUL_SINCE_KEY) },
            true if now.wall.trusted => Careful { before: Some(now.wall.unix), since: None },
            true => {
                // What was salvaged may say more than a clock that isn't set.
                let before = self.read(CAREFUL_KEY).max(Some(timeline.floor()));
                Careful { before, since: Some(timeline.stamp(now.mono)) }
            }
        }
    }
}
