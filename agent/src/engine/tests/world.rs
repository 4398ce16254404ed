//! The smallest world that an engine can live in. It crashes, reboots and loses its broker when it is told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value as Json;

use crate::config::{CheckedConfig, QuarantineLevel, UnitName};
use crate::engine::io::{
    Act, ActOutcome, ActStatus, Effect, EffectId, Input, LinkFault, LinkFaultKind, LogLevel, LogRange, Recovered,
    StoreFault, StoreOp, StoreReply, StoreStats,
};
use crate::engine::metric::{Metric, Point, Value};
use crate::engine::observation::{Audited, EndSigns, Finding, Observation, Release};
use crate::engine::packet::{AckReason, ConnAck, ConnectCode, Packet, Publish, SubscribeRefusal, Version};
use crate::engine::record::Class;
use crate::engine::time::{BootId, Mono, Now, Unix, Wall};
use crate::engine::{Engine, Identity};

pub(super) const START: Unix = Unix(1_795_000_000_000);
pub(super) const NONCE: &str = "00112233445566778899aabbccddeeff";

/// What a segment of the store holds.
const SEGMENT_RECORDS: usize = 10;

/// A store in memory: what was not committed is gone after a crash.
#[derive(Debug, Default)]
pub(super) struct MemStore {
    logs: [BTreeMap<u64, Bytes>; Class::COUNT],
    volatile: [BTreeSet<u64>; Class::COUNT],
    last: [u64; Class::COUNT],
    pub(super) evicted: [u64; Class::COUNT],
    durable_last: [u64; Class::COUNT],
    /// Every record that was ever on the disk, whatever became of it.
    pub(super) durable: BTreeSet<u64>,
    /// Those that were evicted.
    pub(super) given_up: BTreeSet<u64>,
    pub(super) commits: u64,
    /// Records that were ever appended.
    pub(super) appended: [u64; Class::COUNT],
    pub(super) state: BTreeMap<String, Bytes>,
    /// How often each key was written.
    pub(super) written: BTreeMap<String, u64>,
    pub(super) fault: Option<StoreFault>,
    pub(super) free_bytes: u64,
    pub(super) state_bytes: u64,
    written_at: Option<Unix>,
}

impl MemStore {
    fn apply(&mut self, op: StoreOp) -> Result<StoreReply, StoreFault> {
        if let Some(fault) = self.fault.as_ref().filter(|_| op != StoreOp::Probe) {
            return Err(fault.clone());
        }
        Ok(match op {
            StoreOp::Append { class, seq, bytes } => {
                let class = class as usize;
                assert!(seq > self.last[class], "seq {seq} after {} in class {class}", self.last[class]);
                self.last[class] = seq;
                self.appended[class] += 1;
                self.logs[class].insert(seq, bytes);
                self.volatile[class].insert(seq);
                StoreReply::Appended
            }
            StoreOp::Commit => {
                self.commits += 1;
                for volatile in &mut self.volatile {
                    self.durable.append(volatile);
                }
                self.durable_last = self.last;
                StoreReply::Committed
            }
            StoreOp::Read { class, from, records_max, .. } => {
                let records = self.logs[class as usize].range(from..).take(records_max);
                StoreReply::Page { records: records.map(|(seq, bytes)| (*seq, bytes.clone())).collect(), damaged: 0 }
            }
            StoreOp::Trim { class, upto } => {
                self.logs[class as usize].retain(|seq, _| *seq > upto);
                StoreReply::Trimmed
            }
            StoreOp::Evict { class } => {
                let gone: Vec<u64> = self.logs[class as usize].keys().take(SEGMENT_RECORDS).copied().collect();
                self.logs[class as usize].retain(|seq, _| !gone.contains(seq));
                self.evicted[class as usize] += gone.len() as u64;
                self.given_up.extend(&gone);
                let (first, last) = (gone.first().copied().unwrap_or(0), gone.last().copied().unwrap_or(0));
                StoreReply::Evicted { records: gone.len() as u64, first, last }
            }
            StoreOp::Put { entries } => {
                for (key, value) in entries {
                    *self.written.entry(key.clone()).or_default() += 1;
                    match value {
                        Some(value) => self.state.insert(key, value),
                        None => self.state.remove(&key),
                    };
                }
                StoreReply::Put
            }
            StoreOp::Probe => StoreReply::Probed,
        })
    }

    /// What the logs take.
    pub(super) fn bytes(&self) -> u64 {
        self.logs.iter().flat_map(BTreeMap::values).map(|bytes| bytes.len() as u64 + 20).sum()
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            outbox_bytes: self.bytes(),
            free_bytes: self.free_bytes,
            state_bytes: self.state_bytes,
            records: std::array::from_fn(|n| self.logs[n].len() as u64),
            segments: std::array::from_fn(|n| u32::try_from(self.logs[n].len().div_ceil(SEGMENT_RECORDS)).unwrap()),
            ..StoreStats::default()
        }
    }

    pub(super) fn crash(&mut self) -> Recovered {
        for (log, volatile) in self.logs.iter_mut().zip(&mut self.volatile) {
            log.retain(|seq, _| !volatile.contains(seq));
            volatile.clear();
        }
        self.last = self.durable_last;
        Recovered {
            logs: std::array::from_fn(|n| LogRange {
                first: self.logs[n].keys().next().copied().unwrap_or(0),
                last: self.last[n],
                records: self.logs[n].len() as u64,
                evicted: self.evicted[n],
            }),
            state: self.state.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            losses: Vec::new(),
            stats: self.stats(),
            written_at: self.written_at,
            absent: false,
        }
    }
}

/// A message as the fleet got it.
#[derive(Debug, Clone)]
pub(super) struct Got {
    pub(super) topic: String,
    pub(super) body: Json,
    pkid: u16,
    /// Of one that wasn't, the agent can't know that it has come.
    answered: bool,
}

impl Got {
    fn seqs(&self) -> Vec<u64> {
        match self.body["samples"].as_array() {
            Some(samples) => samples.iter().map(|sample| sample["seq"].as_u64().unwrap()).collect(),
            None => vec![self.body["seq"].as_u64().unwrap()],
        }
    }
}

pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) store: MemStore,
    pub(super) now: Now,
    pub(super) config: CheckedConfig,
    pub(super) boot: u8,
    /// The broker answers; else it is as if the cable were cut.
    pub(super) broker_up: bool,
    /// The broker takes publishes without answering.
    pub(super) withhold_acks: bool,
    pub(super) ack_reason: AckReason,
    pub(super) receive_max: u16,
    pub(super) packet_max: Option<u32>,
    pub(super) qos_max: u8,
    connection: Option<EffectId>,
    session: bool,
    pub(super) got: Vec<Got>,
    pub(super) acked_commands: Vec<u16>,
    pub(super) acts: Vec<(EffectId, Act)>,
    pub(super) acted: Vec<Act>,
    /// Acts end at once, and well.
    pub(super) acts_succeed: bool,
    pub(super) connects: u32,
    /// Whether the will of each connection was to be retained.
    pub(super) wills_retained: Vec<bool>,
    pub(super) subscribes: u32,
    pub(super) exited: bool,
    pub(super) signs_of_life: u32,
    pub(super) backoff_resets: u32,
    /// What every round of collection reads.
    pub(super) points: Vec<Point>,
    /// Rounds of collection.
    pub(super) rounds: usize,
    /// What the resolver takes for the next connections.
    pub(super) lookup: Option<Duration>,
    /// What the dice say for the next try, once the agent has closed a connection.
    pub(super) retry_in: Duration,
    /// What the kernel has kept of crashes.
    pub(super) end_signs: EndSigns,
    /// What systemd says of the next start's run before.
    pub(super) ended_as: Option<String>,
    /// The quarantine in force, as who put it in force says when the agent starts.
    pub(super) in_force: Option<QuarantineLevel>,
    /// What every look from now on finds.
    pub(super) findings: Vec<Finding>,
    /// The releases that run.
    pub(super) releases: Vec<Release>,
    /// What the inhibit file says, where there is one.
    pub(super) inhibited: Option<String>,
    /// Who keeps the machine up.
    pub(super) blocked: Option<String>,
    /// The collectors hang: there are no readings at all.
    pub(super) collectors_hang: bool,
    pub(super) log: Vec<(LogLevel, String)>,
    queue: VecDeque<Input>,
    unanswered: Vec<u16>,
    trouble: Trouble,
}

/// Picks operations of the store.
pub(super) type Which = fn(&StoreOp) -> bool;

/// How the store is slow, or fails at some operations and not at others.
#[derive(Debug, Default)]
struct Trouble {
    stalls_at: Option<Which>,
    /// Answers of an operation that stalled, and of all that came behind it.
    late: Vec<Input>,
    refuses: Option<(Which, StoreFault)>,
    collectors_hang: bool,
    /// Whoever takes the connection closes it without a word, when it is greeted in these versions.
    hangs_up_on: Vec<Version>,
    /// The broker leaves CONNECT unanswered, until it is told to answer.
    holds_connack: bool,
    connack: Option<Input>,
    /// Operations that the store's queue holds; one more is refused.
    queue_max: Option<usize>,
    /// The broker closes the connection over the message that holds this record.
    hangs_up_over: Option<u64>,
    /// What asks for topics does not reach the broker.
    loses_subscribes: bool,
    /// The broker grants no topic.
    grants_nothing: bool,
    /// Acts go on although they are canceled.
    deaf_to_cancels: bool,
    /// The broker has nothing to do with retained messages, and says so in CONNACK if this is true.
    retains_nothing: Option<bool>,
    /// While the logs hold more records than this, a commit finds the disk full.
    commits_fit: Option<u64>,
}

/// The defaults of the contract, with shorter intervals and one unit that may be restarted.
pub(super) fn config() -> CheckedConfig {
    config_with("")
}

/// The same, and more.
pub(super) fn config_with(more: &str) -> CheckedConfig {
    let text = r#"
        [device]
        id = "gw-1"
        groups = ["canary"]
        [mqtt]
        url = "mqtt://127.0.0.1"
        [telemetry]
        sample_interval = "1s"
        report_interval = "2s"
        publish_interval = "2s"
        [remediation]
        units = ["app.service", "other.service"]
        [commands]
        require_signature = false
    "#;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file.as_file(), format!("{text}{more}").as_bytes()).unwrap();
    crate::config::load(&[file.path().to_path_buf()]).unwrap().config
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(config())
    }

    pub(super) fn with(config: CheckedConfig) -> Self {
        let now = Now { mono: Mono(1_000), wall: Wall { unix: START, trusted: true } };
        let mut store = MemStore { free_bytes: u64::MAX, ..MemStore::default() };
        let recovered = store.crash();
        let engine = Engine::new(now, config.clone(), identity(1, EndSigns::default()), recovered);
        let mut world = Self {
            engine,
            store,
            now,
            config,
            boot: 1,
            broker_up: true,
            withhold_acks: false,
            ack_reason: AckReason::Success,
            receive_max: 20,
            packet_max: Some(16 * 1024),
            qos_max: 1,
            connection: None,
            session: false,
            got: Vec::new(),
            acked_commands: Vec::new(),
            acts: Vec::new(),
            acted: Vec::new(),
            acts_succeed: true,
            connects: 0,
            wills_retained: Vec::new(),
            subscribes: 0,
            exited: false,
            signs_of_life: 0,
            backoff_resets: 0,
            points: vec![Point::new(Metric::BatteryChargePct, 80.0), Point::new(Metric::HostLoad1, 0.1)],
            rounds: 0,
            lookup: None,
            retry_in: Duration::from_secs(1),
            end_signs: EndSigns::default(),
            ended_as: None,
            in_force: None,
            findings: Vec::new(),
            releases: Vec::new(),
            inhibited: None,
            blocked: None,
            collectors_hang: false,
            log: Vec::new(),
            queue: VecDeque::new(),
            unanswered: Vec::new(),
            trouble: Trouble::default(),
        };
        world.settle();
        world
    }

    /// kill -9 at this instant; the agent starts again.
    pub(super) fn crash(&mut self) {
        let recovered = self.store.crash();
        self.connection = None;
        self.queue.clear();
        self.acts.clear();
        self.unanswered.clear();
        self.trouble.late.clear();
        let ended_as = self.ended_as.take();
        let found = identity(self.boot, self.end_signs.clone());
        let identity = Identity { ended_as, quarantine: self.in_force, ..found };
        self.engine = Engine::new(self.now, self.config.clone(), identity, recovered);
        self.settle();
    }

    /// An agent that starts with this, beside the one that runs.
    pub(super) fn engine_from(&self, recovered: Recovered) -> Engine {
        Engine::new(self.now, self.config.clone(), identity(self.boot, self.end_signs.clone()), recovered)
    }

    /// The agent starts, and nothing of what it wants to write gets anywhere.
    pub(super) fn start_unwritten(&mut self) {
        let recovered = self.store.crash();
        self.queue.clear();
        self.connection = None;
        self.engine =
            Engine::new(self.now, self.config.clone(), identity(self.boot, self.end_signs.clone()), recovered);
    }

    pub(super) fn reboot(&mut self) {
        self.reboot_at(Mono(500));
    }

    /// With a clock since boot that begins there.
    pub(super) fn reboot_at(&mut self, mono: Mono) {
        self.boot += 1;
        self.now.mono = mono;
        self.crash();
    }

    pub(super) fn advance(&mut self, by: Duration) {
        let until = self.now.mono.after(by);
        while self.now.mono < until {
            let next = self.engine.poll_deadline().map_or(until, |at| at.min(until)).max(Mono(self.now.mono.0 + 1));
            let step = next.0 - self.now.mono.0;
            self.now.mono = next;
            self.now.wall.unix.0 += i64::try_from(step).unwrap();
            self.input(Input::Wake);
        }
    }

    /// Lets time pass, effect by effect, until something holds; `false` if it never does within `by`.
    pub(super) fn advance_until(&mut self, by: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let until = self.now.mono.after(by);
        while self.now.mono < until {
            let next = self.engine.poll_deadline().map_or(until, |at| at.min(until)).max(Mono(self.now.mono.0 + 1));
            self.now.wall.unix.0 += i64::try_from(next.0 - self.now.mono.0).unwrap();
            self.now.mono = next;
            self.enqueue(Input::Wake);
            while let Some(input) = self.queue.pop_front() {
                self.engine.handle(self.now, input);
                while let Some(effect) = self.engine.poll_effect() {
                    self.carry_out(effect);
                    if holds(self) {
                        return true;
                    }
                }
            }
        }
        false
    }

    pub(super) fn input(&mut self, input: Input) {
        self.queue.push_back(input);
        self.settle();
    }

    /// Until nobody has anything to say any more.
    pub(super) fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 100_000, "the engine and its world never come to rest");
            while let Some(effect) = self.engine.poll_effect() {
                self.carry_out(effect);
            }
            let Some(input) = self.queue.pop_front() else { return };
            self.engine.handle(self.now, input);
        }
    }

    /// One input, and none of what follows from it.
    pub(super) fn step(&mut self) -> bool {
        while let Some(effect) = self.engine.poll_effect() {
            self.carry_out(effect);
        }
        let Some(input) = self.queue.pop_front() else { return false };
        self.engine.handle(self.now, input);
        true
    }

    /// One effect, and none of what follows from it.
    pub(super) fn step_effect(&mut self) -> bool {
        let Some(effect) = self.engine.poll_effect() else { return false };
        self.carry_out(effect);
        true
    }

    /// Takes a reading for all rounds from now on; `None`: there is none any more.
    pub(super) fn set(&mut self, metric: Metric, value: Option<impl Into<Value>>) {
        self.points.retain(|point| point.metric != metric);
        self.points.extend(value.map(|value| Point::new(metric, value)));
    }

    pub(super) fn enqueue(&mut self, input: Input) {
        self.queue.push_back(input);
    }

    pub(super) fn cut(&mut self) {
        self.broker_up = false;
        self.drop_connection(LinkFaultKind::Server);
    }

    pub(super) fn drop_connection(&mut self, kind: LinkFaultKind) {
        self.unanswered.clear();
        if let Some(id) = self.connection.take() {
            self.input(Input::LinkDown { id, fault: fault(kind), retry_in: Duration::from_secs(1) });
        }
    }

    /// Publishes a command as plain JSON (the config doesn't ask for signatures).
    pub(super) fn command(&mut self, id: &str, name: &str, args: Json, pkid: u16) {
        self.claims(serde_json::json!({"jti": id, "cmd": {"name": name, "args": args}}), pkid);
    }

    pub(super) fn claims(&mut self, mut claims: Json, pkid: u16) {
        let now_s = self.now.wall.unix.0 / 1000;
        for (key, value) in [("aud", "gw-1".into()), ("iat", now_s.into()), ("exp", (now_s + 600).into())] {
            claims.as_object_mut().unwrap().entry(key).or_insert(value);
        }
        let id = self.connection.expect("a connection to command over");
        let group = claims["aud"].as_str().and_then(|aud| aud.strip_prefix("group:"));
        let whose = group.map_or_else(|| "gw-1".to_owned(), |group| format!("groups/{group}"));
        let publish = Publish {
            topic: format!("fieldmedic/{whose}/commands"),
            payload: claims.to_string().into(),
            qos: 1,
            retain: false,
            dup: false,
            pkid,
            properties: None,
        };
        self.enqueue(Input::Packet { id, packet: Packet::Publish(publish) });
    }

    /// Answers the publishes that were withheld.
    pub(super) fn answer_all(&mut self) {
        for pkid in std::mem::take(&mut self.unanswered) {
            self.answer(pkid);
        }
        self.settle();
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Statuses of a command, in the order in which the fleet got them.
    pub(super) fn statuses(&self, command_id: &str) -> Vec<String> {
        self.results(command_id).iter().map(|body| body["status"].as_str().unwrap().to_owned()).collect()
    }

    pub(super) fn results(&self, command_id: &str) -> Vec<&Json> {
        let results = self.got.iter().filter(|got| got.topic.ends_with("/results")).map(|got| &got.body);
        results.filter(|body| body["command_id"] == command_id).collect()
    }

    /// Every seq that the fleet got, samples each with their own.
    pub(super) fn seqs(&self) -> Vec<u64> {
        self.got.iter().flat_map(Got::seqs).collect()
    }

    /// Those of which the agent was told that they have come.
    pub(super) fn answered_seqs(&self) -> BTreeSet<u64> {
        self.got.iter().filter(|got| got.answered).flat_map(Got::seqs).collect()
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Observe { .. } if self.trouble.collectors_hang => {}
            Effect::Observe { id } => {
                self.rounds += 1;
                let (points, inhibited, blocked) = (self.points.clone(), self.inhibited.clone(), self.blocked.clone());
                let releases = self.releases.clone();
                let readings = Observation { points, inhibited, blocked, releases, ..Observation::default() };
                let result = if self.collectors_hang { Err("busy".to_owned()) } else { Ok(readings) };
                self.queue.push_back(Input::Observed { id, result });
            }
            Effect::Audit { id } => {
                self.queue.push_back(Input::Audited {
                    id,
                    result: Ok(Audited { findings: self.findings.clone(), unseen: Vec::new() }),
                });
            }
            Effect::Store { id, op } => {
                self.ask_store(id, op);
            }
            Effect::Connect { id, .. } => {
                self.connects += 1;
                if self.broker_up {
                    self.connection = Some(id);
                    self.queue.push_back(Input::LinkUp { id, lookup: self.lookup, password: None });
                } else {
                    let fault = fault(LinkFaultKind::Tcp);
                    self.queue.push_back(Input::LinkDown { id, fault, retry_in: Duration::from_secs(1) });
                }
            }
            Effect::Send { id, packet } if self.connection == Some(id) => self.receive(id, packet),
            Effect::Close { id } => {
                if self.connection == Some(id) {
                    self.connection = None;
                }
                self.queue.push_back(Input::LinkDown {
                    id,
                    fault: fault(LinkFaultKind::Local),
                    retry_in: self.retry_in,
                });
            }
            Effect::BackoffReset => self.backoff_resets += 1,
            Effect::Act { id, act, .. } => {
                self.acted.push(act.clone());
                if self.acts_succeed {
                    self.queue.push_back(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
                } else {
                    self.acts.push((id, act));
                }
            }
            Effect::CancelAct { .. } if self.trouble.deaf_to_cancels => {}
            Effect::CancelAct { id } => {
                self.acts.retain(|(other, _)| *other != id);
                self.queue.push_back(Input::ActDone { id, outcome: outcome(ActStatus::Canceled) });
            }
            Effect::Alive => self.signs_of_life += 1,
            Effect::Exit => self.exited = true,
            Effect::Log { level, text } => self.log.push((level, text)),
            Effect::Send { .. } => {}
        }
    }

    fn receive(&mut self, id: EffectId, packet: Packet) {
        match packet {
            Packet::Connect(connect) if self.trouble.hangs_up_on.contains(&connect.version) => {
                self.connection = None;
                let (fault, retry_in) = (fault(LinkFaultKind::Server), Duration::from_secs(1));
                self.queue.push_back(Input::LinkDown { id, fault, retry_in });
            }
            Packet::Connect(connect) => {
                self.wills_retained.push(connect.will.as_ref().is_some_and(|will| will.retain));
                let takes_will = self.trouble.retains_nothing.is_none() || connect.will.is_none_or(|will| !will.retain);
                let ack = ConnAck {
                    session_present: self.session,
                    code: if takes_will { ConnectCode::Success } else { ConnectCode::RetainNotSupported },
                    receive_max: self.receive_max,
                    packet_max: self.packet_max,
                    keep_alive_s: None,
                    qos_max: self.qos_max,
                    retains: self.trouble.retains_nothing != Some(true),
                    assigned_id: None,
                };
                self.session = true;
                self.answer_connect(Input::Packet { id, packet: Packet::ConnAck(ack) });
            }
            Packet::Publish(publish) => {
                assert!(
                    !publish.retain || self.trouble.retains_nothing.is_none(),
                    "{}: the broker would hang up",
                    publish.topic
                );
                let body: Json = serde_json::from_slice(&publish.payload).unwrap();
                if self.trouble.hangs_up_over.is_some_and(|seq| holds(&body, seq)) {
                    self.connection = None;
                    self.unanswered.clear();
                    let (fault, retry_in) = (fault(LinkFaultKind::Server), Duration::from_secs(1));
                    self.queue.push_back(Input::LinkDown { id, fault, retry_in });
                    return;
                }
                self.got.push(Got { topic: publish.topic, body, pkid: publish.pkid, answered: false });
                if self.withhold_acks {
                    self.unanswered.push(publish.pkid);
                } else {
                    self.answer(publish.pkid);
                }
            }
            Packet::PubAck { pkid, .. } => self.acked_commands.push(pkid),
            Packet::Subscribe { pkid, filters, .. } => {
                if self.trouble.loses_subscribes {
                    return;
                }
                self.subscribes += 1;
                let answer = if self.trouble.grants_nothing { Err(SubscribeRefusal::Unspecified) } else { Ok(1) };
                let granted = vec![answer; filters.len()];
                self.queue.push_back(Input::Packet { id, packet: Packet::SubAck { pkid, granted } });
            }
            Packet::PingReq => self.queue.push_back(Input::Packet { id, packet: Packet::PingResp }),
            _ => {}
        }
    }

    fn answer(&mut self, pkid: u16) {
        let Some(id) = self.connection else { return };
        if let Some(got) = self.got.iter_mut().rfind(|got| got.pkid == pkid) {
            got.answered = true;
        }
        let packet = Packet::PubAck { pkid, reason: self.ack_reason };
        self.queue.push_back(Input::Packet { id, packet });
    }
}

/// A store in trouble, and answers that come one at a time.
impl World {
    /// From the next operation of this kind on, the store answers only when it is told to.
    pub(super) fn stall_store_at(&mut self, which: Which) {
        self.trouble.stalls_at = Some(which);
    }

    /// Whether an answer of the store waits to be given.
    pub(super) fn store_is_late(&self) -> bool {
        !self.trouble.late.is_empty()
    }

    /// The store answers what waits, in order, and is fast again.
    pub(super) fn store_answers(&mut self) {
        self.trouble.stalls_at = None;
        self.queue.extend(std::mem::take(&mut self.trouble.late));
        self.settle();
    }

    /// Operations of this kind fail, and change nothing.
    pub(super) fn refuse(&mut self, which: Which, fault: StoreFault) {
        self.trouble.refuses = Some((which, fault));
    }

    /// The store's queue holds so many operations, and the engine's effects come faster than it works.
    pub(super) fn bound_store_queue(&mut self, operations: usize) {
        self.trouble.queue_max = Some(operations);
    }

    /// With more records than this in its logs, a commit finds the disk full.
    pub(super) fn commits_fit(&mut self, records: u64) {
        self.trouble.commits_fit = Some(records);
    }

    /// The broker closes the connection over each message that holds this record.
    pub(super) fn hang_up_over(&mut self, seq: u64) {
        self.trouble.hangs_up_over = Some(seq);
    }

    pub(super) fn refuse_nothing(&mut self) {
        self.trouble.refuses = None;
    }

    /// Answers one of the publishes that were withheld: the nth in the order of sending.
    pub(super) fn answer_nth(&mut self, nth: usize) {
        let pkid = self.unanswered.remove(nth);
        self.answer(pkid);
        self.settle();
    }

    /// Every sample that the fleet got, by its seq, with repetitions.
    pub(super) fn samples(&self) -> Vec<u64> {
        let samples = self.got.iter().filter_map(|got| got.body["samples"].as_array()).flatten();
        samples.map(|sample| sample["seq"].as_u64().unwrap()).collect()
    }

    /// The seqs of the records that the store holds.
    pub(super) fn stored(&self, class: Class) -> Vec<u64> {
        self.store.logs[class as usize].keys().copied().collect()
    }

    /// The store works in order: what comes behind an operation that stalls is late too.
    /// Rounds of collection that are begun now have no end.
    pub(super) fn collectors_hang(&mut self, hang: bool) {
        self.trouble.collectors_hang = hang;
    }

    /// A broker without retained messages, which says so when it takes a connection, or only when it refuses one.
    pub(super) fn retain_everything(&mut self) {
        self.trouble.retains_nothing = None;
    }

    pub(super) fn retain_nothing(&mut self, says_so: bool) {
        self.trouble.retains_nothing = Some(says_so);
    }

    pub(super) fn hang_up_on(&mut self, versions: &[Version]) {
        self.trouble.hangs_up_on = versions.to_vec();
    }

    /// The broker forgets the session, and with it what was subscribed to.
    pub(super) fn forget_session(&mut self) {
        self.session = false;
    }

    pub(super) fn lose_subscribes(&mut self, lose: bool) {
        self.trouble.loses_subscribes = lose;
    }

    pub(super) fn grant_nothing(&mut self, nothing: bool) {
        self.trouble.grants_nothing = nothing;
    }

    pub(super) fn be_deaf_to_cancels(&mut self) {
        self.trouble.deaf_to_cancels = true;
    }

    pub(super) fn hold_connack(&mut self) {
        self.trouble.holds_connack = true;
    }

    /// The broker answers the CONNECT that it has left unanswered.
    pub(super) fn give_connack(&mut self) {
        let connack = self.trouble.connack.take().expect("a CONNECT to answer");
        self.input(connack);
    }

    fn answer_connect(&mut self, connack: Input) {
        if self.trouble.holds_connack {
            self.trouble.connack = Some(connack);
        } else {
            self.queue.push_back(connack);
        }
    }

    fn ask_store(&mut self, id: EffectId, op: StoreOp) {
        let late = !self.trouble.late.is_empty() || self.trouble.stalls_at.is_some_and(|which| which(&op));
        if !matches!(op, StoreOp::Read { .. } | StoreOp::Probe) {
            self.store.written_at = Some(self.now.wall.unix);
        }
        let result = self.trouble_with(&op).map_or_else(|| self.store.apply(op), Err);
        let answer = Input::Store { id, result, stats: self.store.stats() };
        if late {
            self.trouble.late.push(answer);
        } else {
            self.queue.push_back(answer);
        }
    }

    fn trouble_with(&self, op: &StoreOp) -> Option<StoreFault> {
        let queued = self.queue.iter().filter(|input| matches!(input, Input::Store { .. })).count();
        if self.trouble.queue_max.is_some_and(|max| queued >= max) {
            return Some(StoreFault::Busy);
        }
        let records = self.store.stats().records.iter().sum::<u64>();
        if *op == StoreOp::Commit && self.trouble.commits_fit.is_some_and(|fit| records > fit) {
            return Some(StoreFault::NoSpace { what: "sync the log".into() });
        }
        self.trouble.refuses.as_ref().filter(|(which, _)| which(op)).map(|(_, fault)| fault.clone())
    }
}

/// Whether a message is this record, or has it among its samples.
fn holds(body: &Json, seq: u64) -> bool {
    let samples = body["samples"].as_array().map(Vec::as_slice).unwrap_or_default();
    body["seq"] == seq || samples.iter().any(|sample| sample["seq"] == seq)
}

pub(super) fn restart(unit: &str) -> Act {
    Act::RestartUnit { unit: UnitName::parse(unit).unwrap() }
}

pub(super) fn outcome(status: ActStatus) -> ActOutcome {
    ActOutcome { status, reason: None, detail: None, output: None, attachment: None }
}

fn fault(kind: LinkFaultKind) -> LinkFault {
    LinkFault::new(kind, kind.word())
}

pub(super) fn identity(boot: u8, end_signs: EndSigns) -> Identity {
    Identity {
        end_signs,
        ended_as: None,
        boot: BootId([boot; 16]),
        version: "0.0.0-test".into(),
        build_time: Unix(1_700_000_000_000),
        nonce: NONCE.into(),
        facts: BTreeMap::new(),
        firmware: None,
        able: crate::config::Action::ALL.iter().copied().collect(),
        quarantine: None,
    }
}
