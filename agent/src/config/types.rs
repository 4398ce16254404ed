//! The sections of a configuration, as they stand once everything was checked. Plain data: how it is read from files is
//! [`super::read`]'s business, what makes a single value right is [`super::values`]'s.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::doubts;
use super::values::{
    Action, Anomaly, AttributeValue, BrokerLimits, BrokerUrl, Budget, ClockTrust, DeviceId, Encoding, MqttVersion,
    QuarantineLevel, Share, TrustedKey, UnitName,
};
use crate::engine::observation::Severity;

/// A configuration in which every value was checked. Field names are the keys of `configs/agent.toml`.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct CheckedConfig {
    pub device: Device,
    pub mqtt: Mqtt,
    pub store: Store,
    pub telemetry: Telemetry,
    pub clock: Clock,
    pub collect: Collect,
    pub rules: Vec<Rule>,
    pub ladders: BTreeMap<String, Vec<Step>>,
    pub remediation: Remediation,
    pub rollback: BTreeMap<String, Rollback>,
    pub quarantine: Quarantine,
    pub runbooks: Runbooks,
    pub commands: Commands,
    pub local: Local,
}

impl CheckedConfig {
    /// The rules that can be raised. One that can't has no alarm either: nothing would ever clear it.
    pub fn rules_in_force(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| doubts::never_raised(rule, &self.collect).is_none())
    }

    /// What the ladder of a rule rolls back, if what it tries before doesn't help.
    pub(crate) fn rolled_back_by(&self, rule: &Rule) -> impl Iterator<Item = &str> {
        let steps = rule.remedy.as_ref().and_then(|remedy| self.ladders.get(remedy)).into_iter().flatten();
        steps.filter_map(|step| match &step.remedy {
            Remedy::Rollback { target } => Some(target.as_str()),
            _ => None,
        })
    }
}

/// Who this gateway is.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Device {
    pub id: DeviceId,
    pub groups: Vec<String>,
    pub attributes: BTreeMap<String, AttributeValue>,
}

/// The broker and how to talk to it.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Mqtt {
    pub url: BrokerUrl,
    pub topic_prefix: String,
    pub version: MqttVersion,
    pub limits: BrokerLimits,
    pub keep_alive: Duration,
    pub inflight_max: u16,
    pub username: String,
    pub password_file: Option<PathBuf>,
    pub tls: Tls,
    pub reconnect: Reconnect,
    pub drain: Drain,
}

/// TLS files; `None` for a CA means the roots of the system.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Tls {
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub alpn: Vec<String>,
}

/// Full-jitter exponential backoff.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Reconnect {
    pub min: Duration,
    pub max: Duration,
    pub stable_after: Duration,
}

/// What a backlog may use.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Drain {
    pub publishes_per_second: u32,
}

/// The local store.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Store {
    pub path: PathBuf,
    pub max_bytes: u64,
    pub min_free_bytes: u64,
    pub commit_interval: Duration,
}

/// Rates.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Telemetry {
    pub sample_interval: Duration,
    pub report_interval: Duration,
    pub publish_interval: Duration,
    pub encoding: Encoding,
}

/// When the wall clock may be believed.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Clock {
    pub trust: ClockTrust,
}

/// Collectors.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Collect {
    pub root: PathBuf,
    pub battery: CollectBattery,
    pub link: CollectLink,
    pub errors: CollectErrors,
    pub host: CollectHost,
}

/// Battery collector.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct CollectBattery {
    pub enabled: bool,
    pub supply: String,
}

/// Link collector.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct CollectLink {
    pub enabled: bool,
    pub interfaces: Vec<String>,
    pub monthly_budget: BTreeMap<String, u64>,
}

/// Error collector.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct CollectErrors {
    pub enabled: bool,
    pub min_severity: Severity,
    pub units: Vec<UnitName>,
    pub max_clusters: usize,
    pub bucket: Duration,
    pub app_socket: Option<PathBuf>,
}

/// Host collector.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct CollectHost {
    pub enabled: bool,
    pub mounts: Vec<PathBuf>,
}

/// A local threshold.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Rule {
    pub name: String,
    pub metric: String,
    pub test: RuleTest,
    pub hold: Duration,
    pub share: Option<Share>,
    pub clear_above: Option<f64>,
    pub clear_below: Option<f64>,
    pub clear_for: Option<Duration>,
    pub severity: Severity,
    pub remedy: Option<String>,
}

/// What may be done to the gateway.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Remediation {
    pub dry_run: bool,
    pub allow: Vec<Action>,
    pub units: Vec<UnitName>,
    pub min_uptime: Duration,
    pub min_battery_pct: f64,
    pub group_spread: Duration,
    pub budget: BTreeMap<Action, Budget>,
}

/// What stays alive in quarantine.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Quarantine {
    pub keep_units: Vec<UnitName>,
    pub stop_units: Vec<UnitName>,
    pub allow_hosts: Vec<String>,
    pub lockout_after: Duration,
    pub sample_interval: Duration,
}

impl Quarantine {
    /// Addresses and networks of others that stay in reach.
    pub(crate) const HOSTS_MAX: usize = 64;

    /// Units that are stopped, and stay so. What is to be kept is not, and neither is the agent itself.
    pub fn stopped(&self) -> impl Iterator<Item = &UnitName> {
        self.stop_units.iter().filter(|unit| !self.keep_units.contains(unit) && !Self::is_own(unit))
    }

    /// Whether a unit is a part of the agent.
    pub(super) fn is_own(unit: &UnitName) -> bool {
        unit.as_str().starts_with("fieldmedic")
    }
}

/// Root-owned executables that `run` may name.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Runbooks {
    pub dir: PathBuf,
}

/// Who may command.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Commands {
    pub trusted_keys: Vec<TrustedKey>,
    pub require_signature: bool,
    pub max_clock_skew: Duration,
}

/// The local socket.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Local {
    pub socket: PathBuf,
}

/// What a rule compares.
#[derive(Debug, Clone, PartialEq)]
pub enum RuleTest {
    /// Lower than.
    Below(f64),
    /// Higher than.
    Above(f64),
    /// The same as; numbers, words and flags.
    Equals(AttributeValue),
    /// No reading for that long.
    MissingFor(Duration),
    /// Rises faster than this a second.
    RateAbove(f64),
    /// Rises slower, or falls faster, than this a second.
    RateBelow(f64),
    /// What a detector finds odd.
    Anomaly(Anomaly),
}

/// One step of a ladder.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What to do, with its arguments.
    pub remedy: Remedy,
    /// How long to wait before looking whether it helped.
    pub settle: Duration,
}

/// A remedy with its arguments.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the arguments are those of the command of the same name")]
pub enum Remedy {
    RestartUnit { unit: UnitName },
    RestartLink { interface: String },
    Reboot,
    Rollback { target: String },
    Quarantine { level: QuarantineLevel },
    Run { runbook: String, args: Vec<String> },
    CollectDiagnostics,
    SavePower(Slowness),
}

/// How far apart things are while power is saved; never less than otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in [telemetry]")]
pub struct Slowness {
    pub sample: Duration,
    pub report: Duration,
    pub publish: Duration,
}

impl Remedy {
    /// The action that has to be allowed, and whose budget it spends.
    #[must_use]
    pub const fn action(&self) -> Action {
        match self {
            Self::RestartUnit { .. } => Action::RestartUnit,
            Self::RestartLink { .. } => Action::RestartLink,
            Self::Reboot => Action::Reboot,
            Self::Rollback { .. } => Action::Rollback,
            Self::Quarantine { .. } => Action::Quarantine,
            Self::Run { .. } => Action::Run,
            Self::CollectDiagnostics => Action::CollectDiagnostics,
            Self::SavePower(_) => Action::SavePower,
        }
    }
}

/// What can be rolled back.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "configs/agent.toml says what each key means, and a test holds it against this")]
pub struct Rollback {
    pub kind: RollbackKind,
    pub units: Vec<UnitName>,
    pub settle: Duration,
    pub trial: Duration,
}

/// Where a rollback target's releases live.
#[derive(Debug, Clone, PartialEq)]
pub enum RollbackKind {
    /// RAUC's slots.
    Rauc,
    /// `releases/NAME`, with links `current` and `previous`.
    Slots {
        /// The directory that holds them.
        dir: PathBuf,
    },
    /// A program of one's own.
    Command {
        /// argv; never a shell.
        argv: Vec<String>,
    },
}
