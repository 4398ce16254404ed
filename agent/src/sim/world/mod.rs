//! The event loop of a simulated world: one gateway with its agent, its network, its broker and its operator, in
//! virtual time. It carries out what the engine wants as the runtime would, makes happen what the scenario says, and
//! shows both to the checkers. Time goes from one event to the next: nothing is polled.

mod effects;
mod faults;
mod link;
mod machine;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::BTreeMap;
use std::time::Duration;

use super::Plan;
use super::agenda::Agenda;
use super::check::{Acts, Commands, Dates, Findings, Limits, Records, Retries};
use super::clock::Clock;
use super::cloud::{self, Cloud};
use super::diary::Diary;
use super::dice::Dice;
use super::disk::Disk;
use super::gateway::Gateway;
use super::network::{Network, millis};
use super::planted::Planted;
use super::report::{Promise, Run};
use super::scenario::{FaultKind, Scenario};
use crate::broker::{Broker, ConnId, Settings};
use crate::config::{CheckedConfig, ClockTrust, Telemetry};
use crate::engine::io::{Act, EffectId, LinkFault, Recovered, Trigger};
use crate::engine::packet::Packet;
use crate::engine::time::{Mono, Now};
use crate::helper::Policy;
use crate::wire::keys::KeyError;
use machine::Agent;
use trace::Trace;

/// Records and commands younger than this at the end of the calm may still be under way, with the defaults of the
/// config.
const SETTLES_WITHIN_MS: u64 = 30 * 60 * 1_000;
/// Of that, what a command or a drain takes by itself, however soon there is a session.
const DRAINS_WITHIN: Duration = Duration::from_secs(15 * 60);
/// Turns at one instant, after which the engine is found to spin.
const TURNS_MAX: u32 = 20_000;

/// Something that is to come.
#[derive(Debug)]
enum Event {
    /// The operation that the store works on is done, in this life of the agent.
    StoreDone(u64),
    /// A packet arrives at the broker.
    Up(ConnId, Packet),
    /// A packet arrives at the agent.
    Down(ConnId, Packet),
    /// A connection comes about, for this effect of this life.
    Opened(u64, EffectId, ConnId),
    /// It doesn't.
    Unreachable(u64, EffectId, LinkFault),
    /// The agent finds its connection closed.
    AgentLoses(ConnId, LinkFault),
    /// The broker finds a connection closed.
    BrokerLoses(ConnId),
    /// An action ends.
    ActEnds(u64),
    /// The next of a fault begins.
    FaultBegins(usize),
    /// One that lasted ends.
    FaultEnds(u64),
    /// The operator sends what this order says.
    Order(usize),
    /// It sends a message once more.
    Replay(Box<cloud::Message>),
    /// The machine is up, if power has not failed since it began to boot.
    Booted(u64),
    /// systemd starts the agent.
    AgentStarts,
    /// The agent dies now, if it lives this life and has not died at a step before.
    AgentDies(u64, Death),
    /// The power that came on as this one fails now, if it has not failed before.
    PowerFails(u64, &'static str),
    /// From here on nothing befalls the gateway any more.
    Calm,
}

/// How an agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// kill -9.
    Killed,
    /// The power is gone; the battery is too low, or somebody pulled the plug.
    Power(&'static str),
}

/// An action under way.
#[derive(Debug)]
struct Doing {
    life: u64,
    id: EffectId,
    act: Act,
    trigger: Trigger,
    /// How it will end.
    outcome: crate::engine::io::ActOutcome,
}

/// A fault that lasts.
#[derive(Debug)]
struct Active {
    /// Which of the scenario's.
    index: usize,
    kind: FaultKind,
}

/// All that checks.
struct Watch {
    findings: Findings,
    records: Records,
    commands: Commands,
    acts: Acts,
    dates: Dates,
    limits: Limits,
    retries: Retries,
}

/// A world.
pub(super) struct World<'a> {
    scenario: &'a Scenario,
    config: CheckedConfig,
    policy: Option<&'a Policy>,
    planted: Option<Planted>,
    /// True time, in milliseconds since the begin.
    at: u64,
    calm_at: u64,
    end: u64,
    /// Until when the agent last sent seldomer than the configuration says, to save power or because a command said so,
    /// and how seldom at most.
    seldom: (u64, Duration),
    agenda: Agenda<Event>,
    clock: Clock,
    disk: Disk,
    gateway: Gateway,
    network: Network,
    /// The link that carried the route last.
    route: Option<usize>,
    broker: Broker,
    cloud: Cloud,
    unsent: Vec<cloud::Message>,
    /// Commands on their way to the agent, by connection and packet id: which.
    delivered: BTreeMap<(ConnId, u16), String>,
    agent: Option<Agent>,
    /// How many agents there were: what belongs to an older one is ignored.
    life: u64,
    /// How the last of them ended.
    last_end: Option<&'static str>,
    recovered: Option<Recovered>,
    /// Since when nothing from outside (a fault, a command that reboots) has ended the agent or its machine; ends of
    /// its own don't count. `None`: something has, and no agent was started since.
    left_alone_since: Option<u64>,
    machine_up: bool,
    /// How often power came on or failed: what was begun on other power is void. It is on in [`Times::powered_since`].
    power: u64,
    /// The machine comes up again once the agent has said goodbye.
    reboots: bool,
    doing: BTreeMap<u64, Doing>,
    last_token: u64,
    /// Faults that last, by the number of their occurrence.
    active: BTreeMap<u64, Active>,
    last_occurrence: u64,
    throttle: (u64, u32),
    /// The operator's last message went into a session.
    order_reached: bool,
    fault_dice: Vec<Dice>,
    order_dice: Vec<Dice>,
    dice: Dice,
    watch: Watch,
    diary: Diary,
    trace: Trace,
    times: Times,
    history: History,
    looks: u32,
    broker_wakes_at: u64,
    /// What the last CONNACK said.
    session_present: bool,
}

/// What happened when: enough to make it happen again, without the dice.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Faults: which, when, for how long.
    pub(super) faults: Vec<(usize, u64, u64)>,
    /// Orders: which, when.
    pub(super) orders: Vec<(usize, u64)>,
    /// Tries to connect.
    pub(super) tries: Vec<u64>,
    /// Sessions that came about.
    pub(super) sessions: Vec<u64>,
}

/// How long what has lasted.
#[derive(Debug, Default)]
struct Times {
    powered_since: Option<u64>,
    powered_ms: u64,
    runs_since: Option<u64>,
    runs_ms: u64,
    online_since: Option<u64>,
    online_ms: u64,
    offline_since: Option<u64>,
    /// Since when the agent that runs knows the date.
    clock_known_since: Option<u64>,
    /// There was a session until then.
    online_until: u64,
    sent_before: u64,
}

impl<'a> World<'a> {
    /// A world in which nothing has happened yet.
    ///
    /// # Errors
    /// Never, for keys made of 32 random bytes.
    pub(super) fn new(plan: &'a Plan, seed: u64) -> Result<Self, KeyError> {
        let planted = plan.planted;
        let scenario = &plan.scenario;
        let part = |name: &str| Dice::new(seed, name);
        let cloud = Cloud::new(&plan.config, planted, part("cloud"))?;
        let mut config = plan.config.clone();
        config.commands.trusted_keys.push(cloud.key());
        let told = if planted == Some(Planted::AllowsAll) { allow_all(&config) } else { config.clone() };
        let numbered = |kind: &str, n: usize| Dice::new(seed, &format!("{kind} {n}"));
        let end = millis(scenario.lasts);
        Ok(Self {
            at: 0,
            calm_at: end.saturating_sub(millis(scenario.calm)),
            end,
            seldom: (0, Duration::ZERO),
            agenda: Agenda::new(),
            clock: Clock::new(scenario.clock.clone(), scenario.starts, part("clock")),
            disk: Disk::new(&scenario.disk, config.store.max_bytes, part("disk")),
            gateway: Gateway::new(scenario, &config, part("gateway")).under(plan.policy.as_ref()),
            network: Network::new(scenario.network.clone(), part("network")),
            route: None,
            broker: Broker::new(Settings::default()),
            cloud,
            unsent: Vec::new(),
            delivered: BTreeMap::new(),
            agent: None,
            life: 0,
            last_end: None,
            recovered: None,
            left_alone_since: None,
            machine_up: false,
            power: 0,
            reboots: false,
            doing: BTreeMap::new(),
            last_token: 0,
            active: BTreeMap::new(),
            last_occurrence: 0,
            throttle: (0, 0),
            order_reached: false,
            fault_dice: scenario
                .faults
                .iter()
                .map(|fault| part(&format!("fault {} {:?}", fault.name, fault.when)))
                .collect(),
            order_dice: (0..scenario.commands.len()).map(|n| numbered("order", n)).collect(),
            dice: part("world"),
            watch: Watch {
                findings: Findings::default(),
                records: Records::default(),
                commands: Commands::default(),
                acts: Acts::new(&config),
                dates: Dates::default(),
                limits: Limits::new(config.store.max_bytes, config.store.min_free_bytes),
                retries: Retries::new(&config.mqtt.reconnect),
            },
            diary: Diary::new(scenario, &plan.config.rules),
            trace: Trace::default(),
            times: Times::default(),
            history: History::default(),
            looks: 0,
            broker_wakes_at: 0,
            session_present: false,
            scenario,
            config: told,
            policy: plan.policy.as_ref(),
            planted,
        })
    }

    /// Lives until the end.
    pub(super) fn run(mut self, seed: u64) -> (Run, History) {
        self.connect_operator();
        self.plan_faults();
        self.agenda.enter(self.calm_at, Event::Calm);
        self.follow_power();
        while self.at < self.end {
            self.settle();
            self.at = self.next_at().clamp(self.at, self.end);
            self.due();
        }
        self.settle();
        self.judge();
        self.conclude(seed)
    }

    /// Everything that is due at this instant.
    fn due(&mut self) {
        while let Some(event) = self.agenda.take_due(self.at) {
            self.happen(event);
            self.settle();
        }
        if self.gateway.next_change().is_some_and(|at| at <= self.at) {
            self.gateway_changed();
        }
        if self.broker_wakes_at <= self.at {
            self.broker.wake(Mono(self.at));
            self.drain_broker();
            self.plan_broker();
        }
        self.wake_agent();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::StoreDone(life) if life == self.life => self.store_done(),
            Event::Up(conn, packet) => self.arrives_at_broker(conn, packet),
            Event::Down(conn, packet) => self.arrives_at_agent(conn, packet),
            Event::Opened(life, id, conn) => self.opened(life, id, conn),
            Event::Unreachable(life, id, fault) if life == self.life => self.link_down(id, fault),
            Event::AgentLoses(conn, fault) => self.agent_loses(conn, fault),
            Event::BrokerLoses(conn) => self.broker_loses(conn),
            Event::ActEnds(token) => self.act_ends(token),
            Event::FaultBegins(index) => self.fault_begins(index),
            Event::FaultEnds(occurrence) => self.fault_ends(occurrence),
            Event::Order(index) => self.order(index),
            Event::Replay(message) => self.publish_order(*message),
            Event::Booted(power) => self.booted(power),
            Event::AgentStarts => self.start_agent(),
            Event::PowerFails(power, why) if power == self.power => self.lose_power(why),
            Event::AgentDies(life, death) if life == self.life => self.die(death),
            Event::Calm => self.calm(),
            Event::StoreDone(_) | Event::Unreachable(..) | Event::AgentDies(..) | Event::PowerFails(..) => {}
        }
    }

    /// When something happens next.
    fn next_at(&self) -> u64 {
        let parts = [self.agenda.next_at(), self.wake_at(), self.gateway.next_change(), Some(self.broker_wakes_at)];
        parts.into_iter().flatten().min().unwrap_or(self.end)
    }

    /// When the broker has something to do by itself. Packets only put it off, so it is asked again when that time has
    /// come, or when connections come and go.
    fn plan_broker(&mut self) {
        self.broker_wakes_at = self.broker.poll_deadline().map_or(u64::MAX, |deadline| deadline.0);
    }

    /// The time as the agent is told it.
    fn now(&mut self) -> Now {
        let mut now = self.clock.now(self.at, self.network.is_covered());
        now.wall.trusted |= self.trusts_any_clock();
        if now.doubted_before(machine::BUILT).wall.trusted && self.agent.is_some() {
            self.times.clock_known_since.get_or_insert(self.at);
        }
        if self.planted == Some(Planted::WallClockAge) {
            now.mono = self.clock.wall_since_boot(now);
        }
        now
    }

    /// The configuration believes the wall clock, whatever the kernel says of it.
    fn trusts_any_clock(&self) -> bool {
        self.config.clock.trust == ClockTrust::Always
    }

    fn is_active(&self, which: impl Fn(&FaultKind) -> bool) -> bool {
        self.active.values().any(|active| which(&active.kind))
    }

    /// What can only be judged at the end.
    fn judge(&mut self) {
        let (at, disk) = (self.at, &self.disk);
        let is_stored = |class, seq| disk.holds(class, seq);
        let settles_ms = self.settles_ms();
        let unsettled = self.unsettled(settles_ms);
        let quiet_since = self.times.online_until.max(self.calm_at).max(self.left_alone_since.unwrap_or(0));
        let found = self.recovered.iter().flat_map(|recovered| &recovered.losses).map(|loss| loss.records).sum();
        let Watch { findings, records, commands, dates, .. } = &mut self.watch;
        let summary = &self.diary.summary;
        records.judge(at, is_stored, &summary.dropped, found, findings);
        // One that dies may have counted what the next counts again.
        if summary.crashes == 0 && found == 0 {
            let in_flight = u64::from(self.config.mqtt.inflight_max);
            let unanswered = in_flight.saturating_mul(summary.connects + 1);
            records.judge_counts(at, is_stored, &summary.dropped, unanswered, findings);
        }
        commands.judge(at, findings);
        dates.judge(findings);
        let not_followed = self.cloud.not_followed();
        if not_followed > 0 {
            let why = format!("{not_followed} commands were more than are followed");
            findings.leave_open(Promise::TerminalStatus, why);
        }
        let flaws_not_followed = self.cloud.flaws_not_followed();
        if flaws_not_followed > 0 {
            let why = format!("{flaws_not_followed} flawed commands were more than are followed");
            findings.leave_open(Promise::NothingForbidden, why);
        }
        if self.broker.counts().dropped_queue_full > 0 {
            commands.not_kept();
        }
        if let Some(why) = unsettled {
            findings.leave_open(Promise::TerminalStatus, why.clone());
            findings.leave_open(Promise::Liveness, why);
            return;
        }
        let settled = at.saturating_sub(settles_ms);
        records.judge_drained(at, settled, is_stored, findings);
        commands.judge_ended(at, settled, findings);
        if self.times.online_since.is_none() && quiet_since <= settled {
            let quiet_s = at.saturating_sub(quiet_since) / 1_000;
            let what = format!("there is no session with the broker for {quiet_s} s, and nothing is in its way");
            findings.note(Promise::Liveness, at, what);
        }
    }

    /// Why it can't be asked of the agent that all is worked off; `None`: it can. That the agent, or a ladder of its
    /// own, restarts over and over is no reason.
    fn unsettled(&self, settles_ms: u64) -> Option<String> {
        let since = |at: u64| self.at.saturating_sub(at);
        let short = |of: &str, ms: u64| {
            format!("{of} {} s before the end, and {} s may be needed", ms / 1_000, settles_ms / 1_000)
        };
        if since(self.calm_at) < settles_ms {
            return Some(short("the calm began", since(self.calm_at)));
        }
        if self.times.powered_since.is_none() {
            return Some("the machine has no power".to_owned());
        }
        match self.left_alone_since.map(since) {
            None => return Some("the machine or the agent is on its way up".to_owned()),
            Some(ms) if ms < settles_ms => return Some(short("the agent was started again from outside", ms)),
            Some(_) => {}
        }
        (!self.network.is_covered()).then(|| "the link has no coverage".to_owned())
    }

    /// See [`settles_within`]: what has waited while the agent sent seldom may still be under way for a time after
    /// that.
    fn settles_ms(&self) -> u64 {
        let usual = settles_within(&self.config, self.sends_within());
        let (until, sends_within) = self.seldom;
        let is_of_late = self.at.saturating_sub(until) < usual;
        if is_of_late { usual.max(settles_within(&self.config, sends_within)) } else { usual }
    }

    /// After how long at most what is measured is sent, as the configuration says.
    fn sends_within(&self) -> Duration {
        let Telemetry { report_interval, publish_interval, .. } = self.config.telemetry;
        report_interval + publish_interval
    }

    /// Closes the figures.
    fn conclude(mut self, seed: u64) -> (Run, History) {
        self.times.close(self.at);
        if let Some(agent) = &self.agent {
            self.diary.dropped(self.at, agent.engine.dropped());
        }
        let lasted = self.at.max(1);
        let pct = |part: u64, of: u64| {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of a year")]
            let share = part as f64 * 100.0 / of.max(1) as f64;
            share
        };
        let summary = &mut self.diary.summary;
        summary.lasted_s = lasted / 1_000;
        summary.powered_pct = pct(self.times.powered_ms, lasted);
        summary.uptime_pct = pct(self.times.runs_ms, self.times.powered_ms);
        summary.connected_pct = pct(self.times.online_ms, self.times.runs_ms);
        summary.duplicates = self.watch.records.duplicates();
        summary.waiting = self.disk.records();
        summary.flash_bytes = self.disk.written_bytes();
        summary.store_max_bytes = self.watch.limits.most_bytes();
        let (timeline, summary, unmet) = self.diary.into_parts();
        let (broken, not_judged) = self.watch.findings.into_parts();
        let run = Run { seed, trace_hash: self.trace.hash(), timeline, summary, broken, not_judged, unmet };
        (run, self.history)
    }
}

impl Times {
    fn close(&mut self, at: u64) {
        for (since, total) in [
            (&mut self.powered_since, &mut self.powered_ms),
            (&mut self.runs_since, &mut self.runs_ms),
            (&mut self.online_since, &mut self.online_ms),
        ] {
            *total += since.take().map_or(0, |since| at.saturating_sub(since));
        }
    }
}

/// How long it may take until all is worked off once nothing is in the way: the longest that a try to connect waits,
/// twice, a connection that has to be found dead before, the next publish, and a drain.
fn settles_within(config: &CheckedConfig, sends_within: Duration) -> u64 {
    let mqtt = &config.mqtt;
    let needed = 2 * mqtt.reconnect.max + 2 * mqtt.keep_alive + sends_within + DRAINS_WITHIN;
    millis(needed).max(SETTLES_WITHIN_MS)
}

/// A config that forbids nothing: what the planted bug tells the agent.
fn allow_all(config: &CheckedConfig) -> CheckedConfig {
    let mut config = config.clone();
    config.remediation.allow = crate::config::Action::ALL.to_vec();
    config.remediation.budget.clear();
    config.remediation.min_uptime = Duration::ZERO;
    config.remediation.min_battery_pct = 0.0;
    config
}

/// How full what can grow in memory is.
fn look_at_memory(at: u64, agent: &Agent, findings: &mut Findings) {
    for (name, holds, bound) in agent.engine.bounds() {
        Limits::memory(at, name, holds, bound, findings);
    }
    Limits::memory(at, "the queue to the store", agent.store.len(), crate::store::STORE_QUEUE_MAX, findings);
}
