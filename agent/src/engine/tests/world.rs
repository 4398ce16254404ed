//! The smallest world that an engine can live in. It crashes, reboots and loses its broker when it is told to.

mod trouble;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::Value as Json;

use self::trouble::Trouble;
pub(super) use self::trouble::{Answers, Which, puts};
use super::store::MemStore;
use crate::config::{CheckedConfig, QuarantineLevel, UnitName};
use crate::engine::io::{
    Act, ActOutcome, ActStatus, Effect, EffectId, Input, LinkFault, LinkFaultKind, LogLevel, Recovered,
};
use crate::engine::metric::{Metric, Point, Value};
use crate::engine::observation::{Audited, EndSigns, Finding, Observation, Release};
use crate::engine::packet::{AckReason, ConnAck, Connect, ConnectCode, Packet, Publish, Version};
use crate::engine::record::Class;
use crate::engine::time::{BootId, Mono, Now, Unix, Wall};
use crate::engine::{Engine, Identity};

pub(super) const START: Unix = Unix(1_795_000_000_000);
pub(super) const NONCE: &str = "00112233445566778899aabbccddeeff";

/// A message as the fleet got it.
#[derive(Debug, Clone)]
pub(super) struct Got {
    pub(super) topic: String,
    pub(super) body: Json,
    pkid: u16,
    /// The broker said so. Of one that it did not answer, the agent can't know that it has come.
    pub(super) taken: bool,
}

impl Got {
    pub(super) fn seqs(&self) -> Vec<u64> {
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
    /// Whether each came with the command as it was signed.
    pub(super) tokens: Vec<bool>,
    /// How long the last of them may take.
    pub(super) acts_within: Duration,
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
    /// What each look was told that the broker refuses.
    pub(super) refused: Vec<Option<Vec<String>>>,
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
        let mut store = MemStore::roomy();
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
            tokens: Vec::new(),
            acts_within: Duration::ZERO,
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
            refused: Vec::new(),
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
        self.trouble.hung_rounds.clear();
        let ended_as = self.ended_as.take();
        let found = identity(self.boot, self.end_signs.clone());
        let identity = Identity { ended_as, quarantine: self.in_force, releases: self.releases.clone(), ..found };
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
        self.start_from(recovered);
    }

    /// The agent starts from this, whatever the store holds.
    pub(super) fn start_from(&mut self, recovered: Recovered) {
        self.queue.clear();
        self.connection = None;
        self.engine = self.engine_from(recovered);
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

    pub(super) fn claims(&mut self, claims: Json, pkid: u16) {
        self.written(claims, Json::to_string, pkid);
    }

    /// The same, as this writes it.
    pub(super) fn written(&mut self, mut claims: Json, write: impl FnOnce(&Json) -> String, pkid: u16) {
        let now_s = self.now.wall.unix.0 / 1000;
        for (key, value) in [("aud", "gw-1".into()), ("iat", now_s.into()), ("exp", (now_s + 600).into())] {
            claims.as_object_mut().unwrap().entry(key).or_insert(value);
        }
        let id = self.connection.expect("a connection to command over");
        let group = claims["aud"].as_str().and_then(|aud| aud.strip_prefix("group:"));
        let whose = group.map_or_else(|| "gw-1".to_owned(), |group| format!("groups/{group}"));
        let publish = Publish {
            topic: format!("fieldmedic/{whose}/commands"),
            payload: write(&claims).into(),
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

    /// Those of which the agent was told that they were taken.
    pub(super) fn taken_seqs(&self) -> BTreeSet<u64> {
        self.got.iter().filter(|got| got.taken).flat_map(Got::seqs).collect()
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

    /// What runs, for an act that marks it.
    fn marked_by(&self, act: &Act) -> Option<Box<str>> {
        let Act::MarkGood { target } = act else { return None };
        self.releases.iter().find(|release| release.target == *target).map(|release| release.name.as_str().into())
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Observe { id } if self.trouble.collectors_hang => self.trouble.hung_rounds.push(id),
            Effect::Observe { id } => {
                self.rounds += 1;
                let (points, inhibited, blocked) = (self.points.clone(), self.inhibited.clone(), self.blocked.clone());
                let releases = self.releases.clone();
                let readings = Observation { points, inhibited, blocked, releases, ..Observation::default() };
                let result = if self.collectors_hang { Err("busy".to_owned()) } else { Ok(readings) };
                self.queue.push_back(Input::Observed { id, result });
            }
            Effect::Audit { id, refused } => {
                self.refused.push(refused);
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
                    self.queue.push_back(Input::LinkDown { id, fault, retry_in: self.retry_in });
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
            Effect::Act { id, act, token, timeout, .. } => {
                self.acts_within = timeout;
                self.acted.push(act.clone());
                self.tokens.push(token.is_some());
                if self.acts_succeed {
                    let outcome = ActOutcome { release: self.marked_by(&act), ..outcome(ActStatus::Succeeded) };
                    self.queue.push_back(Input::ActDone { id, outcome });
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
            Packet::Connect(connect) if self.hangs_up_at(&connect) => {
                self.hang_up(id);
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
                if self.trouble.takes_bytes.is_some_and(|most| publish.payload.len() > most) {
                    self.trouble.too_long.push(publish.topic);
                    let packet = Packet::PubAck { pkid: publish.pkid, reason: AckReason::TooLarge };
                    self.queue.push_back(Input::Packet { id, packet });
                    if self.trouble.hangs_up_over_length {
                        self.hang_up(id);
                    }
                    return;
                }
                let body: Json = serde_json::from_slice(&publish.payload).unwrap();
                let is_disliked = self.trouble.hangs_up_over_topics.iter().any(|leaf| publish.topic.ends_with(leaf));
                if is_disliked || self.trouble.hangs_up_over.is_some_and(|seq| holds(&body, seq)) {
                    self.unanswered.clear();
                    return self.hang_up(id);
                }
                self.got.push(Got { topic: publish.topic, body, pkid: publish.pkid, taken: false });
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
                let granted = vec![self.trouble.grants.unwrap_or(Ok(1)); filters.len()];
                self.queue.push_back(Input::Packet { id, packet: Packet::SubAck { pkid, granted } });
            }
            Packet::PingReq => self.queue.push_back(Input::Packet { id, packet: Packet::PingResp }),
            _ => {}
        }
    }

    fn hang_up(&mut self, id: EffectId) {
        self.connection = None;
        let (fault, retry_in) = (fault(LinkFaultKind::Server), Duration::from_secs(1));
        self.queue.push_back(Input::LinkDown { id, fault, retry_in });
    }

    /// In 3.1.1 there is no word for what is wrong with a will.
    fn hangs_up_at(&self, connect: &Connect) -> bool {
        let is_retained = connect.will.as_ref().is_some_and(|will| will.retain);
        let is_unsayable = connect.version == Version::V311 && self.trouble.retains_nothing.is_some() && is_retained;
        is_unsayable || self.trouble.hangs_up_on.contains(&connect.version)
    }

    fn answer(&mut self, pkid: u16) {
        let Some(id) = self.connection else { return };
        let mut reason = self.ack_reason;
        if let Some(got) = self.got.iter_mut().rfind(|got| got.pkid == pkid) {
            reason = self.trouble.answers.and_then(|answers| answers(&got.topic, &got.body)).unwrap_or(reason);
            got.taken = reason.is_taken();
        }
        let packet = Packet::PubAck { pkid, reason };
        self.queue.push_back(Input::Packet { id, packet });
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
    ActOutcome { status, detail: None, ..ActOutcome::succeeded("") }
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
        withheld: BTreeSet::new(),
        quarantine: None,
        releases: Vec::new(),
    }
}
