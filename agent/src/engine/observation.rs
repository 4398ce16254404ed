//! What collectors hand to the engine: raw readings, each with nothing decided yet.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::metric::Point;
use super::time::{BootId, Mono, Unix};
use crate::words::words;

/// The readings of one round of collection.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// What was read.
    pub points: Vec<Point>,
    /// What could not be read: costs that field and a counter, never the sample.
    pub faults: Vec<Fault>,
    /// Why nothing may be done automatically, where somebody has said so.
    pub inhibited: Option<String>,
    /// Who keeps the machine from being shut down, and why.
    pub blocked: Option<String>,
    /// The releases that run, of what can be rolled back.
    pub releases: Vec<Release>,
    /// Who listens and who is connected, where a rule asks for it.
    pub sockets: Option<Sockets>,
}

/// The sockets of the gateway, but the agent's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sockets {
    /// What is listened on, such as `tcp 0.0.0.0:22`.
    pub listeners: Vec<String>,
    /// Addresses that are connected, either way.
    pub peers: Vec<String>,
}

/// Something about the gateway or its agent that somebody should mend before it does harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a fixed word.
    pub check: &'static str,
    /// Which of them: a file, a unit, a disk.
    pub subject: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

/// What a look at the gateway and its agent found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audited {
    /// The worst first.
    pub findings: Vec<Finding>,
    /// What nobody could look at this time: what was found of it before stands.
    pub unseen: Vec<Unseen>,
}

/// A check for which nobody could look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// Which.
    pub check: &'static str,
    /// At which of what it looks at; `None`: at none, or not at everything.
    pub subject: Option<String>,
}

impl Unseen {
    /// Nobody could look at everything for this check.
    #[must_use]
    pub const fn all(check: &'static str) -> Self {
        Self { check, subject: None }
    }

    /// Nobody could look at this one.
    #[must_use]
    pub fn one(check: &'static str, subject: impl Into<String>) -> Self {
        Self { check, subject: Some(subject.into()) }
    }
}

/// What the kernel kept of how the boot before ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndSigns {
    /// Records of crashes, each by what tells it from others; also those of long ago.
    pub panics: Vec<String>,
    /// The watchdog reset the machine.
    pub watchdog: bool,
}

/// What an act's target begins with where it works on a release.
pub(super) const RELEASE: &str = "release:";

/// A release that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Of what: a `[rollback.NAME]`.
    pub target: String,
    /// Its name; a slot's, where that is what there is.
    pub name: String,
}

/// The release that runs, among these, of what an act works on.
#[must_use]
pub fn running<'a>(releases: &'a [Release], act_target: &str) -> Option<&'a str> {
    let target = act_target.strip_prefix(RELEASE)?;
    releases.iter().find(|release| release.target == target).map(|release| release.name.as_str())
}

/// A file that was missing where it should be, said nonsense, or hangs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file or call.
    pub source: String,
    /// What was wrong, for the log.
    pub what: String,
}

/// Severity in syslog's words (RFC 5424, section 6.2.1); lower is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
#[repr(u8)]
pub enum Severity {
    /// System is unusable.
    #[n(0)]
    Emergency = 0,
    /// Action must be taken at once.
    #[n(1)]
    Alert = 1,
    /// Critical conditions.
    #[n(2)]
    Critical = 2,
    /// Error conditions.
    #[n(3)]
    Error = 3,
    /// Warning conditions.
    #[n(4)]
    Warning = 4,
    /// Normal but significant.
    #[n(5)]
    Notice = 5,
    /// Informational.
    #[n(6)]
    Info = 6,
    /// Debug-level.
    #[n(7)]
    Debug = 7,
}

impl Severity {
    /// Every severity, worst first.
    pub const ALL: [Self; 8] = [
        Self::Emergency,
        Self::Alert,
        Self::Critical,
        Self::Error,
        Self::Warning,
        Self::Notice,
        Self::Info,
        Self::Debug,
    ];

    /// The word of the contract.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Emergency => "emergency",
            Self::Alert => "alert",
            Self::Critical => "critical",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// From the journal's PRIORITY or the kernel's level.
    #[must_use]
    pub fn from_level(level: u8) -> Option<Self> {
        Self::ALL.get(usize::from(level)).copied()
    }

    /// From a word, as the contract, journalctl and syslog.conf write them (`err` and `error`, `warn`, `crit`, …).
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "emergency" | "emerg" | "panic" => Self::Emergency,
            "alert" => Self::Alert,
            "critical" | "crit" => Self::Critical,
            "error" | "err" => Self::Error,
            "warning" | "warn" => Self::Warning,
            "notice" => Self::Notice,
            "info" => Self::Info,
            "debug" => Self::Debug,
            _ => return None,
        })
    }
}

words! {
    /// Where an error line came from.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
    #[cbor(index_only)]
    ErrorSource {
        /// A service's line in the journal.
        #[n(0)]
        Journal "journal",
        /// The kernel.
        #[n(1)]
        Kernel "kernel",
        /// systemd-coredump.
        #[n(2)]
        Coredump "coredump",
        /// An application, over the local socket.
        #[n(3)]
        App "app",
    }
}

/// What kind of failure a line tells of, where it tells of one that is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Any other line.
    Plain,
    /// A systemd unit failed.
    UnitFailure,
    /// systemd starts a unit again by itself. Only counted: what it ended of was told.
    UnitRestart,
    /// The OOM killer took a process.
    OomKill,
    /// A process dumped core.
    Coredump,
    /// A line of an application was not taken, and this one says so. Counted as refused, and not as a line.
    Refusal,
}

/// One line at or above the severity that is collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorLine {
    /// How bad.
    pub severity: Severity,
    /// Where it came from.
    pub source: ErrorSource,
    /// What is counted.
    pub kind: ErrorKind,
    /// The text, cut at a bound.
    pub message: String,
    /// systemd unit.
    pub unit: Option<String>,
    /// What a program calls itself in the journal; only where no unit is known.
    pub identifier: Option<String>,
    /// Executable.
    pub exe: Option<String>,
    /// Signal that ended a process.
    pub signal: Option<String>,
    /// Boot that it was written in; `None`: this one.
    pub boot: Option<BootId>,
    /// When, since that boot.
    pub mono: Option<Mono>,
    /// When, by the writer's wall clock.
    pub wall: Option<Unix>,
}

/// A batch of lines, with the place up to which the source was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorBatch {
    /// In the order of the source.
    pub lines: Vec<ErrorLine>,
    /// Lines that were lost or passed over before they could be read.
    pub missed: u64,
    /// The journal's cursor after the last line.
    pub cursor: Option<String>,
    /// Lines of applications that were not taken.
    pub refused: Refused,
    /// The journal, or the kernel's log, can't be read until the next batch of it.
    pub is_unread: bool,
}

words! {
    /// Why a line of an application was not taken.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    Refusal {
        /// It can't be read.
        Malformed "malformed",
        /// It is longer than the bound.
        TooLong "too_long",
        /// Its sender says more than it may.
        Rate "rate",
        /// The agent has no room for more at the moment.
        Busy "busy",
    }
}

/// How many lines of applications were not taken, by why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused(BTreeMap<Refusal, u64>);

impl Refused {
    /// Counts some more.
    pub fn count(&mut self, refusal: Refusal, lines: u64) {
        if lines > 0 {
            *self.0.entry(refusal).or_default() += lines;
        }
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(refusal, lines)| self.count(*refusal, *lines));
    }

    /// What was counted.
    pub fn iter(&self) -> impl Iterator<Item = (Refusal, u64)> {
        self.0.iter().map(|(refusal, lines)| (*refusal, *lines))
    }

    /// Whether nothing was refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
