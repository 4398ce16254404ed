//! The machine and the agent's process on it: power, boots, starts, and every way in which an agent can end. What is
//! lost then is what a real disk and a real kernel would lose.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::super::disk::Crash;
use super::super::network::millis;
use super::super::planted::Planted;
use super::super::report::{Promise, What};
use super::{Death, Event, FaultKind, TURNS_MAX, World, look_at_memory};
use crate::broker::ConnId;
use crate::config::Action;
use crate::engine::io::{EffectId, Input, StopReason, StoreOp};
use crate::engine::observation::{EndSigns, ErrorBatch};
use crate::engine::time::{Mono, Now, Unix};
use crate::engine::{Engine, Identity};
use crate::runtime::STORE_BACKLOG_MAX;
use crate::runtime::retry::FullJitter;

/// systemd starts a service that died again after this (RestartSec of the unit).
const RESTART_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// From the order to reboot until the machine is down.
const GOES_DOWN_IN: Duration = Duration::from_secs(5);
/// A kill that is to strike between two steps strikes within so many.
const STEPS: u64 = 60;
/// At the latest after this, if there are no more steps.
const STRIKES_WITHIN: Duration = Duration::from_secs(5);
/// Memory is looked at after so many instants: what grows without bound is still there then.
const MEMORY_EVERY: u32 = 64;
/// When this agent was built: nothing in a scenario is earlier.
pub(super) const BUILT: Unix = Unix(1_735_689_600_000);

/// The agent's process.
pub(super) struct Agent {
    pub(super) engine: Engine,
    pub(super) backoff: FullJitter,
    pub(super) inbox: VecDeque<Input>,
    /// What came over the link, and is not read while the store has too much to do.
    pub(super) unread: VecDeque<Input>,
    /// The queue to the store has no bound: a planted bug.
    boundless: bool,
    /// What the store has not answered yet.
    pub(super) store: VecDeque<(EffectId, StoreOp)>,
    /// The first of them is at work.
    pub(super) store_busy: bool,
    pub(super) link: Option<(EffectId, ConnId)>,
    pub(super) acts: BTreeMap<EffectId, u64>,
    /// It dies after so many more steps.
    dies_in: Option<(u64, Death)>,
    /// The end of a clean stop.
    pub(super) exited: bool,
    turns: (u64, u32),
    /// When it wants to be woken, in true time.
    wake_at: Option<u64>,
}

impl Agent {
    /// What is to be handled next, as the runtime would take it.
    fn next_input(&mut self) -> Option<Input> {
        let reads = self.boundless || self.store.len() < STORE_BACKLOG_MAX;
        self.inbox.pop_front().or_else(|| if reads { self.unread.pop_front() } else { None })
    }
}

impl World<'_> {
    /// Power comes, for the first time or again, if the battery allows it and no cut lasts. The ways in which it goes
    /// have a time of their own each.
    pub(super) fn follow_power(&mut self) {
        let cut = self.is_active(|fault| matches!(fault, FaultKind::PowerCut));
        if cut || !self.gateway.powered() || self.times.powered_since.is_some() {
            return;
        }
        self.times.powered_since = Some(self.at);
        self.power += 1;
        self.agenda.enter(self.at + millis(self.scenario.host.boot), Event::Booted(self.power));
    }

    /// The power is gone now. It is back at once where what took it is over: a cut strikes some steps after its begin.
    pub(super) fn lose_power(&mut self, why: &'static str) {
        if self.agent.is_some() {
            return self.die(Death::Power(why));
        }
        self.power_gone();
    }

    fn power_gone(&mut self) {
        self.left_alone_since = None;
        self.power += 1;
        let since = self.times.powered_since.take();
        self.times.powered_ms += since.map_or(0, |since| self.at.saturating_sub(since));
        // It boots when power is back, not by itself.
        self.reboots = false;
        self.machine_down();
        self.follow_power();
    }

    pub(super) fn booted(&mut self, power: u64) {
        if self.machine_up || power != self.power {
            return;
        }
        self.machine_up = true;
        let boot = self.clock.boot(self.at);
        self.gateway.booted(self.at, boot);
        let count = self.clock.boots();
        self.diary.boot(count);
        self.diary.summary.reboots = u64::from(count.saturating_sub(1));
        self.diary.note(self.at, What::Booted { boot_id: boot.to_string() });
        self.agenda.enter(self.at + 1_000, Event::AgentStarts);
    }

    pub(super) fn start_agent(&mut self) {
        if !self.machine_up || self.agent.is_some() {
            return;
        }
        let mut recovered = self.recovered.take().unwrap_or_else(|| self.disk.crash(Crash::Clean));
        if recovered.losses.iter().any(|loss| loss.state_lost) {
            self.watch.commands.journal_lost(self.at);
            self.watch.acts.journal_lost(self.at);
        }
        self.watch.acts.started();
        let forgets = |prefix: &'static str| move |(key, _): &(String, bytes::Bytes)| !key.starts_with(prefix);
        match self.planted {
            Some(Planted::DedupeForgotten) => recovered.state.retain(forgets("cmd/")),
            Some(Planted::BudgetInMemory) => recovered.state.retain(forgets("budget/")),
            _ => {}
        }
        let nonce = u128::from_le_bytes(self.dice.bytes());
        let identity = Identity {
            boot: self.clock.boot_id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build_time: BUILT,
            end_signs: EndSigns::default(),
            ended_as: None,
            nonce: format!("{nonce:032x}"),
            facts: BTreeMap::new(),
            firmware: self.gateway.firmware(),
            able: Action::ALL.iter().copied().collect(),
            withheld: BTreeSet::new(),
            quarantine: self.gateway.quarantined(),
            releases: self.gateway.told_releases(),
        };
        self.left_alone_since.get_or_insert(self.at);
        self.times.clock_known_since = None;
        self.life += 1;
        let now = self.now();
        let after = self.last_end.unwrap_or("installation");
        self.diary.note(self.at, What::Started { after });
        self.times.runs_since = Some(self.at);
        let mut engine = Engine::new(now, self.config.clone(), identity, recovered);
        let boundless = self.planted == Some(Planted::NoQueueBound);
        if boundless {
            engine.hold_nothing_back();
        }
        self.watch.retries.started(self.at);
        self.gateway.read_errors_from(engine.error_cursor());
        self.agent = Some(Agent {
            backoff: FullJitter::new(&self.config.mqtt.reconnect),
            engine,
            // The errors' source says that it is read.
            inbox: VecDeque::from([Input::Errors(ErrorBatch::default())]),
            unread: VecDeque::new(),
            boundless,
            store: VecDeque::new(),
            store_busy: false,
            link: None,
            acts: BTreeMap::new(),
            dies_in: None,
            exited: false,
            turns: (0, 0),
            wake_at: None,
        });
    }

    /// When the agent wants to be woken, in true time.
    pub(super) fn wake_at(&self) -> Option<u64> {
        self.agent.as_ref()?.wake_at
    }

    /// Wakes the agent if its deadline has come.
    pub(super) fn wake_agent(&mut self) {
        if self.wake_at().is_none_or(|at| at > self.at) {
            return;
        }
        let at = self.at;
        let Some(agent) = &mut self.agent else { return };
        let (when, turns) = &mut agent.turns;
        *turns = if *when == at { *turns + 1 } else { 0 };
        *when = at;
        if *turns > TURNS_MAX {
            let what = format!("the engine asked {TURNS_MAX} times to be woken at the same instant");
            self.watch.findings.note(Promise::Liveness, at, what);
            self.end = self.at;
            return;
        }
        agent.inbox.push_back(Input::Wake);
    }

    /// Until nobody has anything to say at this instant.
    pub(super) fn settle(&mut self) {
        let mut moved = false;
        loop {
            while let Some(effect) = self.agent.as_mut().and_then(|agent| agent.engine.poll_effect()) {
                moved = true;
                self.trace.effect(&effect);
                self.carry_out(effect);
            }
            let Some(input) = self.agent.as_mut().and_then(Agent::next_input) else { break };
            if self.strikes() {
                return;
            }
            moved = true;
            self.trace.input(self.at, &input);
            let now: Now = self.now();
            if let Some(agent) = &mut self.agent {
                agent.engine.handle(now, input);
            }
        }
        if moved {
            self.plan_waking();
            self.look();
        }
        if self.agent.as_ref().is_some_and(|agent| agent.exited) {
            self.ended();
        }
    }

    fn plan_waking(&mut self) {
        let booted = self.clock.booted_at();
        let wall_clock = self.planted == Some(Planted::WallClockAge);
        let at = self.at;
        let Some(agent) = &mut self.agent else { return };
        let deadline = agent.engine.poll_deadline();
        // By the wall clock nobody can say when that is: it is asked again each second.
        agent.wake_at =
            deadline.map(|mono| if wall_clock { at + 1_000 } else { booted.saturating_add(mono.0).max(at) });
    }

    /// The agent is killed between two of the steps that come.
    pub(super) fn strike_soon(&mut self, death: Death) {
        let steps = self.dice.below(STEPS);
        let latest = self.at + millis(self.dice.between(Duration::ZERO, STRIKES_WITHIN));
        let event = match death {
            Death::Killed => Event::AgentDies(self.life, death),
            // It fails also where the agent has ended before.
            Death::Power(why) => Event::PowerFails(self.power, why),
        };
        self.agenda.enter(latest, event);
        if let Some(agent) = &mut self.agent {
            agent.dies_in = Some((steps, death));
        }
    }

    /// The agent ends without a goodbye.
    pub(super) fn die(&mut self, death: Death) {
        let Some(mut agent) = self.agent.take() else { return };
        self.left_alone_since = None;
        self.life += 1;
        let crash = match death {
            Death::Killed => Crash::Process,
            Death::Power(_) => Crash::Power,
        };
        // What was handed to the store may have been carried out in part.
        let done = self.dice.below(agent.store.len() as u64 + 1);
        for (_, op) in agent.store.drain(..).take(usize::try_from(done).unwrap_or(0)) {
            // Nobody is left to be told.
            let _ = self.apply(op);
        }
        self.diary.dropped(self.at, agent.engine.dropped());
        self.recovered = Some(self.disk.crash(crash));
        self.note_durable();
        self.diary.summary.crashes += 1;
        self.went(match death {
            Death::Killed => "killed",
            Death::Power(why) => why,
        });
        if let Some((_, conn)) = agent.link {
            match death {
                Death::Killed => self.leave(conn),
                Death::Power(_) => self.network.forget(),
            }
        }
        match death {
            Death::Killed => {
                let (low, high) = RESTART_AFTER;
                let again = self.at + millis(self.dice.between(low, high));
                self.agenda.enter(again, Event::AgentStarts);
            }
            Death::Power(_) => self.power_gone(),
        }
    }

    /// The agent has said goodbye and ended.
    fn ended(&mut self) {
        let Some(mut agent) = self.agent.take() else { return };
        self.life += 1;
        for (_, op) in agent.store.drain(..) {
            let _ = self.apply(op);
        }
        self.diary.dropped(self.at, agent.engine.dropped());
        self.recovered = Some(self.disk.crash(Crash::Clean));
        self.note_durable();
        if let Some((_, conn)) = agent.link {
            self.leave(conn);
        }
        self.went("stopped");
        if self.reboots {
            self.machine_down();
        } else {
            self.agenda.enter(self.at + 1_000, Event::AgentStarts);
        }
    }

    /// The machine is off, or on its way through a reboot: then it comes up by itself.
    pub(super) fn machine_down(&mut self) {
        self.machine_up = false;
        self.gateway.went_down();
        // What was under way on the gateway ends with it.
        for token in std::mem::take(&mut self.doing).into_keys() {
            self.gateway.abandon(token);
        }
        if std::mem::take(&mut self.reboots) {
            let at = self.at + millis(GOES_DOWN_IN) + millis(self.scenario.host.boot);
            self.agenda.enter(at, Event::Booted(self.power));
        }
    }

    /// The machine was told to reboot, by somebody who waits for the agent's goodbye.
    pub(super) fn reboot_machine(&mut self) {
        self.reboots = true;
        match &mut self.agent {
            Some(agent) => agent.inbox.push_back(Input::Stop { reason: StopReason::Stopped }),
            None => self.machine_down(),
        }
    }

    fn went(&mut self, how: &'static str) {
        self.last_end = Some(how);
        self.diary.note(self.at, What::Ended { how });
        let at = self.at;
        if self.times.online_since.is_some() {
            self.times.online_until = at;
        }
        for (since, total) in [
            (&mut self.times.runs_since, &mut self.times.runs_ms),
            (&mut self.times.online_since, &mut self.times.online_ms),
        ] {
            *total += since.take().map_or(0, |since| at.saturating_sub(since));
        }
    }

    /// Whether the step at which the agent is to die has come.
    fn strikes(&mut self) -> bool {
        let Some((steps, death)) = self.agent.as_mut().and_then(|agent| agent.dies_in.as_mut()) else { return false };
        if *steps > 0 {
            *steps -= 1;
            return false;
        }
        let death = *death;
        self.die(death);
        true
    }

    /// What the checkers and the diary want to see after each instant.
    fn look(&mut self) {
        let Some(agent) = &self.agent else { return };
        self.looks = self.looks.wrapping_add(1);
        if self.looks % MEMORY_EVERY == 0 {
            look_at_memory(self.at, agent, &mut self.watch.findings);
        }
        let sends_within = agent.engine.sends_within();
        if sends_within > self.sends_within() {
            self.seldom = (self.at, self.seldom.1.max(sends_within));
        }
        let online = agent.engine.is_online();
        match (online, self.times.online_since) {
            (true, None) => {
                let after_s = self.times.offline_since.take().map(|since| self.at.saturating_sub(since) / 1_000);
                self.times.online_since = Some(self.at);
                self.times.sent_before = self.diary.summary.sent_bytes;
                self.diary.summary.connects += 1;
                self.history.sessions.push(self.at);
                self.diary.note(self.at, What::Connected { session_present: self.session_present, after_s });
            }
            (false, Some(since)) => {
                self.times.online_since = None;
                self.times.online_until = self.at;
                self.times.online_ms += self.at.saturating_sub(since);
                self.times.offline_since = Some(self.at);
                let sent = self.diary.summary.sent_bytes.saturating_sub(self.times.sent_before);
                let lasted_s = self.at.saturating_sub(since) / 1_000;
                let reason = agent.engine.last_fault().unwrap_or("local").to_owned();
                self.diary.note(self.at, What::Disconnected { reason, lasted_s, sent });
            }
            _ => {}
        }
        self.diary.dropped(self.at, agent.engine.dropped());
    }

    /// When something was since boot, in true time; `None` for a boot that never was.
    pub(super) fn true_time(&self, boot: &str, mono: Mono) -> Option<(u32, u64)> {
        let boot = crate::engine::time::BootId::parse(boot)?;
        self.clock.true_time(boot, mono)
    }
}
