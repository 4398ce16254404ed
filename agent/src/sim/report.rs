//! What came of a run: its timeline, its figures, and which promises and expectations were broken. Plain data for those
//! who show it; the checkers and the world fill it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::engine::outbox::THINNED;
use crate::words::words;

/// Everything that one run has to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What it can be replayed by.
    pub seed: u64,
    /// Over all that passed the engine's boundary: the same config, scenario and seed give the same.
    pub trace_hash: u64,
    /// What happened, in order; empty where it was not asked for.
    pub timeline: Vec<Moment>,
    /// Its figures.
    pub summary: Summary,
    /// Promises that were broken: a bug of the agent's.
    pub broken: Vec<Broken>,
    /// Promises of which this run can't show whether they were held.
    pub not_judged: Vec<NotJudged>,
    /// Expectations that were not met: what the scenario's author wants of the config.
    pub unmet: Vec<Unmet>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moment {
    /// Milliseconds since the begin of the run, by the true clock.
    pub at_ms: u64,
    /// The boot: 1 is the first.
    pub boot: u32,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What can happen, as the timeline shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields say it")]
pub enum What {
    /// The machine came up.
    Booted { boot_id: String },
    /// The agent began, after this.
    Started { after: &'static str },
    /// The agent ended: stopped, crash, power cut, brown-out, reboot.
    Ended { how: &'static str },
    /// A fault of the scenario began.
    FaultBegan { name: String, detail: String },
    /// It ended.
    FaultEnded { name: String },
    /// The battery's charge passed a tenth, or its state changed.
    Battery { charge_pct: f64, state: String },
    /// A session with the broker began.
    Connected { session_present: bool, after_s: Option<u64> },
    /// It ended.
    Disconnected { reason: String, lasted_s: u64, sent: u64 },
    /// An alarm was raised or cleared.
    Alarm { rule: String, raised: bool, severity: &'static str, value: Option<String>, threshold: Option<String> },
    /// A remedy was begun, ended, refused or found to have helped.
    Remedy { id: String, trigger: String, action: String, status: String, reason: Option<String> },
    /// The operator sent a command.
    Ordered { id: String, command: String, flaw: Option<&'static str> },
    /// The agent reported a command's status.
    Result { id: Option<String>, command: Option<String>, status: &'static str, reason: Option<String> },
    /// Something was done to the gateway.
    Acted { action: String, target: String, trigger: String, status: &'static str },
    /// Another event that the agent recorded: lifecycle, audit, the first of an error cluster.
    Event { kind: &'static str, name: String, severity: &'static str, detail: String },
    /// Records were given up.
    Dropped { reason: String, records: u64 },
}

/// Figures of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How long it was.
    pub lasted_s: u64,
    /// How long the machine had power, in percent.
    pub powered_pct: f64,
    /// How long the agent ran, in percent of the time with power.
    pub uptime_pct: f64,
    /// How long it had a session with the broker, in percent of its uptime.
    pub connected_pct: f64,
    /// The lowest charge, where there is a battery.
    pub charge_min_pct: Option<f64>,
    /// Machine starts, the first not counted.
    pub reboots: u64,
    /// Times that the agent ended without a goodbye.
    pub crashes: u64,
    /// Sessions with the broker.
    pub connects: u64,
    /// Tries to connect.
    pub tries: u64,
    /// Alarms raised, by rule.
    pub alarms: BTreeMap<String, u64>,
    /// Alarms that stand at the end.
    pub standing: Vec<String>,
    /// Actions tried, by action and how they ended.
    pub remedies: BTreeMap<String, BTreeMap<String, u64>>,
    /// Commands by name and the status in which they ended.
    pub commands: BTreeMap<String, BTreeMap<String, u64>>,
    /// Events by name.
    pub events: BTreeMap<String, u64>,
    /// Messages that the broker got.
    pub messages: u64,
    /// Bytes of those, as on the wire (MQTT, without TLS and TCP).
    pub sent_bytes: u64,
    /// Records that the broker got more than once.
    pub duplicates: u64,
    /// Records that the agent stored: those that the broker had before it was time for that are not among them.
    pub records: u64,
    /// Records given up, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Records that still wait at the end.
    pub waiting: u64,
    /// Bytes written to the flash.
    pub flash_bytes: u64,
    /// The most that the store took on disk.
    pub store_max_bytes: u64,
    /// Moments that came after as many as a timeline keeps: they are counted, and not in it.
    pub moments_not_kept: u64,
}

words! {
    /// A figure that an expectation can be about.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    #[expect(missing_docs, reason = "the names of the summary's figures")]
    Measure {
        PoweredPct "powered_pct",
        UptimePct "uptime_pct",
        ConnectedPct "connected_pct",
        ChargeMinPct "charge_min_pct",
        Reboots "reboots",
        Crashes "crashes",
        Connects "connects",
        Tries "tries",
        Messages "messages",
        SentBytes "sent_bytes",
        Duplicates "duplicates",
        Records "records",
        Dropped "dropped",
        Thinned "thinned",
        Waiting "waiting",
        FlashBytes "flash_bytes",
        FlashBytesPerDay "flash_bytes_per_day",
        SentBytesPerDay "sent_bytes_per_day",
        StoreMaxBytes "store_max_bytes",
    }
}

impl Measure {
    /// Its value; `None` where there is none, as of a battery that isn't there.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "figures far below 2^53")]
    pub fn value(self, summary: &Summary) -> Option<f64> {
        let per_day = |bytes: u64| bytes as f64 * 86_400.0 / summary.lasted_s.max(1) as f64;
        let thinned = summary.dropped.get(THINNED).copied().unwrap_or(0);
        Some(match self {
            Self::PoweredPct => summary.powered_pct,
            Self::UptimePct => summary.uptime_pct,
            Self::ConnectedPct => summary.connected_pct,
            Self::ChargeMinPct => return summary.charge_min_pct,
            Self::Reboots => summary.reboots as f64,
            Self::Crashes => summary.crashes as f64,
            Self::Connects => summary.connects as f64,
            Self::Tries => summary.tries as f64,
            Self::Messages => summary.messages as f64,
            Self::SentBytes => summary.sent_bytes as f64,
            Self::Duplicates => summary.duplicates as f64,
            Self::Records => summary.records as f64,
            Self::Dropped => (summary.dropped.values().sum::<u64>() - thinned) as f64,
            Self::Thinned => thinned as f64,
            Self::Waiting => summary.waiting as f64,
            Self::FlashBytes => summary.flash_bytes as f64,
            Self::FlashBytesPerDay => per_day(summary.flash_bytes),
            Self::SentBytesPerDay => per_day(summary.sent_bytes),
            Self::StoreMaxBytes => summary.store_max_bytes as f64,
        })
    }
}

/// The promises that are checked. The words stand in messages and in the docs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// Each durable record is acknowledged by the broker, still stored, or counted as dropped.
    NothingLost,
    /// A command takes effect at most once.
    AtMostOnce,
    /// Each accepted command reaches one terminal status that the fleet sees.
    TerminalStatus,
    /// Nothing is done that config, budget, uptime, battery or quarantine forbid.
    NothingForbidden,
    /// The store stays within its limits.
    BoundedDisk,
    /// Every bound in memory is kept.
    BoundedMemory,
    /// Dates are right, and order is kept, whatever the clock does.
    TimeOrder,
    /// Tries to connect are spread, and never hammer.
    SpreadRetries,
    /// The same seed gives the same trace.
    SameTrace,
    /// Once faults end, the outbox drains, commands end, alarms clear or stand for a reason.
    Liveness,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Which.
    pub promise: Promise,
    /// When it was found, in milliseconds since the begin.
    pub at_ms: u64,
    /// What was found, with its numbers.
    pub what: String,
}

/// A promise that was not judged, or not as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotJudged {
    /// Which.
    pub promise: Promise,
    /// What kept it from being judged.
    pub why: String,
}

/// An expectation that was not met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unmet {
    /// As it is written in the scenario.
    pub expectation: String,
    /// What was found instead.
    pub found: String,
}

impl Run {
    /// A run that could not begin.
    pub(super) fn failed(seed: u64, why: &str) -> Self {
        let broken = Broken { promise: Promise::Liveness, at_ms: 0, what: why.to_owned() };
        Self {
            seed,
            trace_hash: 0,
            timeline: Vec::new(),
            summary: Summary::default(),
            broken: vec![broken],
            not_judged: Vec::new(),
            unmet: Vec::new(),
        }
    }
}

impl Summary {
    /// How long the run was.
    #[must_use]
    pub const fn lasted(&self) -> Duration {
        Duration::from_secs(self.lasted_s)
    }
}
