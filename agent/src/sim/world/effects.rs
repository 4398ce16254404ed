//! What the engine wants, carried out as the runtime would: one completion for each effect that has an id, in the order
//! in which a store's thread and a gateway would answer.

use std::time::Duration;

use super::super::check;
use super::super::gateway::Performed;
use super::super::network::millis;
use super::super::planted::Planted;
use super::super::report::Promise;
use super::{Doing, Event, World};
use crate::act::quarantine::terms::Source;
use crate::engine::io::{
    Act, ActOutcome, ActStatus, Effect, EffectId, Ending, Input, StoreFault, StoreOp, StoreReply, StoreStats, Trigger,
};
use crate::engine::record::{Class, Record};
use crate::store::STORE_QUEUE_MAX;
use crate::wire::CommandId;

const DAY_MS: u128 = 86_400_000;
/// How much later a store that lies about its commits gets round to them.
const LIE: Duration = Duration::from_secs(5);

impl World<'_> {
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Observe { id } => self.observe(id),
            Effect::Audit { id, refused } => self.audit(id, refused.as_deref()),
            Effect::Store { id, op } => self.store(id, op),
            Effect::Connect { id, .. } => self.connect(id),
            Effect::Send { id, packet } => self.send_up(id, packet),
            Effect::Close { id } => self.close(id),
            Effect::BackoffReset => {
                self.watch.retries.reset();
                if let Some(agent) = &mut self.agent {
                    agent.backoff.reset();
                }
            }
            Effect::Act { id, act, trigger, timeout, .. } => self.act(id, act, trigger, timeout),
            Effect::CancelAct { id } => self.cancel_act(id),
            Effect::Exit => {
                if let Some(agent) = &mut self.agent {
                    agent.exited = true;
                }
            }
            Effect::Log { .. } | Effect::Alive => {}
        }
    }

    /// The store has done what it was at.
    pub(super) fn store_done(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        agent.store_busy = false;
        self.do_first();
        self.pump_store();
    }

    /// Carries out an operation on the disk; what became durable is shown to the checkers.
    pub(super) fn apply(&mut self, op: StoreOp) -> (Result<StoreReply, StoreFault>, StoreStats) {
        let evicts = match &op {
            StoreOp::Evict { class } => Some(*class),
            _ => None,
        };
        let results = |stats: &StoreStats| *Class::Results.of(&stats.records);
        let before = (evicts == Some(Class::Results)).then(|| results(&self.disk.stats()));
        let (result, stats) = if evicts.is_some() && self.planted == Some(Planted::NeverEvicts) {
            (Ok(StoreReply::Evicted { records: 0, first: 0, last: 0 }), self.disk.stats())
        } else {
            let now = self.clock.now(self.at, self.network.is_covered());
            self.disk.apply(op, now.wall.unix)
        };
        if result.is_err() {
            self.watch.dates.refused(self.at);
        }
        // Also one that fails may have given something up.
        if before.is_some_and(|before| results(&stats) < before) {
            self.watch.commands.results_evicted();
        }
        self.note_durable();
        let works = !self.is_active(|fault| {
            use super::FaultKind::{DiskErrors, DiskFull, DiskSlow};
            matches!(fault, DiskErrors { .. } | DiskFull | DiskSlow { .. })
        });
        self.watch.limits.store(self.at, &stats, works, &mut self.watch.findings);
        (result, stats)
    }

    /// Shows what became durable to the checkers.
    pub(super) fn note_durable(&mut self) {
        for (class, seq) in self.disk.take_newly_durable() {
            self.watch.records.durable(self.at, class, seq);
        }
    }

    /// An action has ended on the gateway, whether or not anybody waits for it.
    pub(super) fn act_ends(&mut self, token: u64) {
        let Some(doing) = self.doing.remove(&token) else { return };
        let outcome = doing.outcome;
        let canceled = outcome.status == ActStatus::Canceled;
        let reboots = doing.act == Act::Reboot && outcome.status == ActStatus::Succeeded;
        if canceled {
            self.gateway.abandon(token);
        } else {
            self.gateway.finish(self.at, token);
        }
        let outcome = self.gateway.naming_level(&doing.act, outcome);
        self.watch.acts.ended(self.uptime_ms(), &doing.act, &outcome);
        let (action, target) = (doing.act.word(), doing.act.target());
        self.diary.acted(self.at, action, &target, &doing.trigger.to_string(), outcome.status);
        if reboots {
            if matches!(doing.trigger, Trigger::Command(_)) {
                self.left_alone_since = None;
            }
            return self.reboot_machine();
        }
        if self.planted == Some(Planted::OutcomeLost) && self.dice.happens(0.3) {
            return;
        }
        if let Some(agent) = self.agent.as_mut().filter(|_| doing.life == self.life) {
            agent.acts.remove(&doing.id);
            agent.inbox.push_back(Input::ActDone { id: doing.id, outcome });
        }
    }

    fn audit(&mut self, id: EffectId, refused: Option<&[String]>) {
        self.gateway.advance(self.at);
        let synced = self.is_synced();
        let Some(agent) = &mut self.agent else { return };
        let audited = self.gateway.audit(self.at, synced, agent.engine.config(), refused);
        agent.inbox.push_back(Input::Audited { id, result: Ok(audited) });
    }

    fn observe(&mut self, id: EffectId) {
        self.gateway.advance(self.at);
        self.fill_disk();
        let synced = self.is_synced();
        let observation = self.gateway.observe(self.at, synced);
        self.watch.acts.observed(&observation.points);
        if let Some((charge_pct, state)) = self.gateway.battery() {
            self.diary.battery(self.at, charge_pct, state);
        }
        let errors = self.gateway.take_errors(self.at);
        let Some(agent) = &mut self.agent else { return };
        agent.inbox.push_back(Input::Observed { id, result: Ok(observation) });
        if let Some(batch) = errors {
            agent.inbox.push_back(Input::Errors(batch));
        }
    }

    /// Since boot.
    fn uptime_ms(&self) -> u64 {
        self.at.saturating_sub(self.clock.booted_at())
    }

    /// What the kernel says of its clock.
    fn is_synced(&mut self) -> bool {
        self.clock.now(self.at, self.network.is_covered()).wall.trusted
    }

    /// Others use the disk too, and the gateway measures what is left.
    fn fill_disk(&mut self) {
        let world = &self.scenario.disk;
        let grown = u128::from(world.others_grow_bytes) * u128::from(self.at) / DAY_MS;
        let others = world.others_bytes.saturating_add(u64::try_from(grown).unwrap_or(u64::MAX));
        self.disk.others_use(others);
        self.gateway.disk_is(world.bytes, self.disk.stats().free_bytes);
    }

    fn store(&mut self, id: EffectId, op: StoreOp) {
        if let StoreOp::Append { class, bytes, .. } = &op {
            self.diary.summary.records += 1;
            if !class.has_samples() {
                if let Ok(record) = Record::decode(bytes) {
                    self.diary.record(self.at, &record);
                    self.watch.acts.recorded(&record);
                }
            }
        }
        if let StoreOp::Put { entries } = &op {
            self.watch.acts.journaled(self.uptime_ms(), entries);
        }
        let lies = self.planted == Some(Planted::AckBeforeCommit);
        let boundless = self.planted == Some(Planted::NoQueueBound);
        let Some(agent) = &mut self.agent else { return };
        if agent.store.len() >= STORE_QUEUE_MAX && !boundless {
            let stats = self.disk.stats();
            self.watch.dates.refused(self.at);
            agent.inbox.push_back(Input::Store { id, result: Err(StoreFault::Busy), stats });
            return;
        }
        if lies {
            let early = match &op {
                StoreOp::Commit => Some(StoreReply::Committed),
                StoreOp::Put { .. } => Some(StoreReply::Put),
                _ => None,
            };
            if let Some(reply) = early {
                agent.inbox.push_back(Input::Store { id, result: Ok(reply), stats: self.disk.stats() });
            }
        }
        agent.store.push_back((id, op));
        self.pump_store();
    }

    /// The store works through its queue: what needs no sync at once, the rest in its time.
    fn pump_store(&mut self) {
        loop {
            let Some(agent) = &mut self.agent else { return };
            if agent.store_busy {
                return;
            }
            let Some((_, op)) = agent.store.front() else { return };
            let syncs = matches!(op, StoreOp::Commit | StoreOp::Put { .. } | StoreOp::Evict { .. });
            if !syncs {
                self.do_first();
                continue;
            }
            agent.store_busy = true;
            let mut takes = self.disk.commit_takes();
            if self.planted == Some(Planted::AckBeforeCommit) {
                takes += LIE;
            }
            self.agenda.enter(self.at + millis(takes), Event::StoreDone(self.life));
            return;
        }
    }

    /// Carries out the first of the queue, and answers.
    fn do_first(&mut self) {
        let Some((id, op)) = self.agent.as_mut().and_then(|agent| agent.store.pop_front()) else { return };
        let told_before =
            self.planted == Some(Planted::AckBeforeCommit) && matches!(op, StoreOp::Commit | StoreOp::Put { .. });
        let (result, stats) = self.apply(op);
        if told_before {
            return;
        }
        if let Some(agent) = &mut self.agent {
            agent.inbox.push_back(Input::Store { id, result, stats });
        }
    }

    pub(super) fn act(&mut self, id: EffectId, act: Act, trigger: Trigger, timeout: Duration) {
        let moment = check::ActMoment { at: self.at, uptime_ms: self.uptime_ms() };
        let flaw = match &trigger {
            Trigger::Command(id) => self.cloud.flaw_of(id.as_str()),
            Trigger::Rule(_) | Trigger::Own(_) => None,
        };
        let under_way = self.doing.values().filter(|doing| doing.life == self.life);
        let under_way: Vec<Act> = under_way.map(|doing| doing.act.clone()).collect();
        self.watch.acts.begun(moment, &act, &trigger, flaw, &under_way, &mut self.watch.findings);
        self.last_token += 1;
        let token = self.last_token;
        let performed = match self.refused(&act, &trigger) {
            Some(outcome) => Performed { takes: Duration::ZERO, outcome },
            None => {
                let Performed { takes, outcome } = self.gateway.act(token, &self.as_root_does(&act));
                Performed { takes, outcome: self.in_part(&act, outcome) }
            }
        };
        let outcome = if performed.takes > timeout {
            ActOutcome::timed_out(format!("not done after {timeout:?}"))
        } else {
            performed.outcome
        };
        self.agenda.enter(self.at + millis(performed.takes.min(timeout)), Event::ActEnds(token));
        self.doing.insert(token, Doing { life: self.life, id, act, trigger, outcome });
        if let Some(agent) = &mut self.agent {
            agent.acts.insert(id, token);
        }
    }

    /// What root's helper says where its policy doesn't let it pass. A snapshot is taken without asking root.
    fn refused(&self, act: &Act, trigger: &Trigger) -> Option<ActOutcome> {
        let policy = self.policy.filter(|_| *act != Act::CollectDiagnostics)?;
        if matches!(act, Act::Refresh { .. }) && self.gateway.quarantined().is_none() {
            return Some(ActOutcome::rejected(Ending::NotInForce, "there is no quarantine to be put in force again"));
        }
        let lets = policy.lets(act, trigger);
        let judged = if lets.is_ok() && act.cuts_off(self.gateway.quarantined()) {
            policy.keeps_broker(&Source::of(&self.config))
        } else {
            lets
        };
        let refusal = judged.err()?;
        Some(ActOutcome::rejected(refusal.reason.to_owned(), refusal.detail))
    }

    /// The act as root's helper takes it: what keeps a quarantine up doesn't tighten it.
    fn as_root_does(&self, act: &Act) -> Act {
        match (act, self.gateway.quarantined().filter(|_| self.policy.is_some())) {
            (Act::Refresh { level, wide }, Some(in_force)) => {
                Act::Refresh { level: (*level).min(in_force), wide: *wide }
            }
            _ => act.clone(),
        }
    }

    /// How a quarantine ends of which it leaves something out.
    fn in_part(&self, act: &Act, outcome: ActOutcome) -> ActOutcome {
        if outcome.status != ActStatus::Succeeded || !act.cuts_off(self.gateway.quarantined()) {
            return outcome;
        }
        let left_out = self.policy.and_then(|policy| policy.leaves_out(&Source::of(&self.config)));
        let Some(left_out) = left_out else { return outcome };
        ActOutcome { detail: Some(left_out), ..outcome }.but(Ending::Degraded)
    }

    fn cancel_act(&mut self, id: EffectId) {
        let Some(token) = self.agent.as_ref().and_then(|agent| agent.acts.get(&id).copied()) else { return };
        if let Some(doing) = self.doing.get_mut(&token) {
            doing.outcome = ActOutcome::canceled("canceled by a command");
        }
        self.agenda.enter(self.at, Event::ActEnds(token));
    }

    /// The fleet's side of a command: the agent has acknowledged it, so it is responsible for it.
    pub(super) fn accepted(&mut self, id: &str) {
        if CommandId::parse(id).is_none() {
            self.watch.findings.note(Promise::TerminalStatus, self.at, format!("an id that is none: {id:?}"));
        }
        self.watch.commands.accepted(self.at, id);
    }
}
