//! What goes into the engine and what comes out of it. Every [`Effect`] that carries an [`EffectId`] of its own ends in
//! exactly one completion input with that id, also when the runtime refused it because a queue was full; those of
//! `Send`, `Close` and `CancelAct` are another one's, whose completion stays the only one.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::keyed::Write;
use super::observation::{Audited, ErrorBatch, Observation};
pub use super::outcome::{ActOutcome, ActStatus, Ending};
use super::packet::{Packet, Version};
use super::record::Class;
use super::time::Unix;
use crate::config::{Action, CheckedConfig, QuarantineLevel, UnitName};
use crate::wire::CommandId;
use crate::words::words;

/// Ties a completion to its effect. Never reused within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId(pub u64);

/// Something that happened outside.
#[derive(Debug)]
pub enum Input {
    /// The deadline that `poll_deadline()` named has come, or may have.
    Wake,
    /// Readings that [`Effect::Observe`] asked for.
    Observed {
        /// The effect's id.
        id: EffectId,
        /// `Err`: why there are none (the collectors hang, or are still busy).
        result: Result<Observation, String>,
    },
    /// What [`Effect::Audit`] found.
    Audited {
        /// The effect's id.
        id: EffectId,
        /// `Err`: why nobody could look.
        result: Result<Audited, String>,
    },
    /// New error lines.
    Errors(ErrorBatch),
    /// The store did, or could not do, what was asked.
    Store {
        /// The effect's id.
        id: EffectId,
        /// What came of it.
        result: Result<StoreReply, StoreFault>,
        /// How the store stands after it.
        stats: StoreStats,
    },
    /// The transport is up (TCP, and TLS where it is used); nothing was said on it yet.
    LinkUp {
        /// The effect's id.
        id: EffectId,
        /// How long the broker's name took to resolve, where it has one.
        lookup: Option<Duration>,
        /// The password for the broker, where it wants one.
        password: Option<String>,
    },
    /// The transport could not be opened, or is gone. Comes once for each [`Effect::Connect`].
    LinkDown {
        /// The effect's id.
        id: EffectId,
        /// Why.
        fault: LinkFault,
        /// How long to wait before the next try: a draw of the runtime's backoff (chance comes in by argument).
        retry_in: Duration,
    },
    /// A packet arrived on the connection.
    Packet {
        /// Which connection: the id of its [`Effect::Connect`]. What belongs to an older one is ignored.
        id: EffectId,
        /// The packet.
        packet: Packet,
    },
    /// An action ended.
    ActDone {
        /// The effect's id.
        id: EffectId,
        /// How.
        outcome: ActOutcome,
    },
    /// A running action reports how far it is.
    ActProgress {
        /// The effect's id.
        id: EffectId,
        /// 0 to 100.
        percent: u8,
    },
    /// Another configuration was checked and is to be taken over (SIGHUP).
    Reconfigure(Box<CheckedConfig>),
    /// A configuration that was to be taken over has mistakes: the running one stays in force.
    ConfigRefused {
        /// How many.
        errors: u64,
        /// The first, with its file and line.
        first: String,
    },
    /// Root's helper was asked again what it may do: as [`super::Identity`] says it at the start.
    Able {
        /// What there are means for, and leave.
        actions: BTreeSet<Action>,
        /// What there are means for, and root's policy doesn't allow.
        withheld: BTreeSet<Action>,
        /// The quarantine that was in force then.
        quarantine: Option<QuarantineLevel>,
    },
    /// Root may have ended the quarantine on the console: its rules are to be looked at.
    LookAtQuarantine,
    /// The service manager's watchdog wants a sign of life.
    ProveAlive,
    /// Stop: SIGTERM or Ctrl-C. The engine says goodbye and then emits [`Effect::Exit`].
    Stop {
        /// Goes into the presence message.
        reason: StopReason,
    },
}

/// Why the agent stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody has stopped it.
    Stopped,
    /// The agent has the machine rebooted.
    Rebooting,
    /// Somebody else has the machine rebooted.
    RebootedByOthers,
}

impl StopReason {
    /// The word of the contract's presence message.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Rebooting | Self::RebootedByOthers => "rebooting",
        }
    }
}

/// Something to be done outside.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Run all collectors once.
    Observe {
        /// Comes back in [`Input::Observed`].
        id: EffectId,
    },
    /// Look for what is wrong with the gateway and the agent themselves.
    Audit {
        /// Comes back in [`Input::Audited`].
        id: EffectId,
        /// What the broker refuses of us, in words; `None` where there is no connection: nobody can say.
        refused: Option<Vec<String>>,
    },
    /// Work for the store.
    Store {
        /// Comes back in [`Input::Store`].
        id: EffectId,
        /// What to do.
        op: StoreOp,
    },
    /// Open a connection to the broker.
    Connect {
        /// Comes back in [`Input::LinkUp`] (perhaps) and [`Input::LinkDown`] (always, once).
        id: EffectId,
        /// The protocol that will be spoken: the codec needs to know.
        version: Version,
    },
    /// Write a packet to the connection. No completion: the acknowledgement is a packet, its absence a
    /// [`Input::LinkDown`].
    Send {
        /// The connection.
        id: EffectId,
        /// The packet.
        packet: Packet,
    },
    /// Close the connection once what was sent is written.
    Close {
        /// The connection.
        id: EffectId,
    },
    /// The connection proved stable: start the backoff from its beginning.
    BackoffReset,
    /// Act on the gateway.
    Act {
        /// Comes back in [`Input::ActDone`].
        id: EffectId,
        /// What to do.
        act: Act,
        /// Who wants it.
        trigger: Trigger,
        /// The command as it was signed, where it was one: root's helper trusts nothing else.
        token: Option<Box<str>>,
        /// When to give up.
        timeout: Duration,
    },
    /// Stop an action, with its whole process group. Its [`Input::ActDone`] still comes.
    CancelAct {
        /// The action.
        id: EffectId,
    },
    /// A line for the log: what a human on the console should know.
    Log {
        /// How loud.
        level: LogLevel,
        /// What.
        text: String,
    },
    /// Tell the service manager's watchdog: what [`Input::ProveAlive`] asked for has been to the store and back.
    Alive,
    /// Everything is said and stored: the process may end.
    Exit,
}

/// How loud a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "tracing's levels")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// Work for the store.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreOp {
    /// Adds a record to the outbox. It is durable only after a [`StoreOp::Commit`].
    Append {
        /// Which log.
        class: Class,
        /// Its sequence number: greater than any before it in this class.
        seq: u64,
        /// Its encoded form.
        bytes: Bytes,
    },
    /// fdatasync of what was appended so far, all classes.
    Commit,
    /// Reads records in order, from the first whose seq is at least `from`.
    Read {
        /// Which log.
        class: Class,
        /// Lowest seq wanted.
        from: u64,
        /// Stop after this many records.
        records_max: usize,
        /// Stop before this many bytes (but give at least one record).
        bytes_max: usize,
    },
    /// Everything up to `upto` (inclusive) was acknowledged or given up: it may be deleted.
    Trim {
        /// Which log.
        class: Class,
        /// Highest seq that is done with.
        upto: u64,
    },
    /// Gives up the oldest segment of a class, to make room.
    Evict {
        /// Which log.
        class: Class,
    },
    /// Writes keyed state, all or nothing; durable when it is completed.
    Put {
        /// `None` deletes.
        entries: Vec<Write>,
    },
    /// Changes nothing: its answer shows that the store comes to the end of what is asked of it.
    Probe,
}

/// What the store did.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreReply {
    /// The record is written (not yet durable).
    Appended,
    /// Everything appended before this operation is durable.
    Committed,
    /// Records, oldest first; damaged ones were passed over.
    Page {
        /// seq and encoded form.
        records: Vec<(u64, Bytes)>,
        /// Records in the range that were lost to damage (counted once, by the read that passes over them).
        damaged: u64,
    },
    /// The cursor has moved.
    Trimmed,
    /// A segment is gone.
    Evicted {
        /// How many records that were not yet done with.
        records: u64,
        /// Their first seq.
        first: u64,
        /// Their last seq.
        last: u64,
    },
    /// The state is durable.
    Put,
    /// It is still there.
    Probed,
}

/// Why the store could not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreFault {
    /// The runtime's queue to the store was full.
    #[error("the queue to the store is full")]
    Busy,
    /// No space on the device, or a quota of the file system.
    #[error("{what}: no space left")]
    NoSpace {
        /// What was attempted, on what.
        what: String,
    },
    /// Any other failure.
    #[error("{what}")]
    Io {
        /// What was attempted, on what, and the system's error.
        what: String,
    },
}

impl StoreFault {
    /// How long to wait before asking a store that failed again.
    pub const RETRY_AFTER: Duration = Duration::from_secs(5);
}

/// How the store stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes on disk of all outbox logs.
    pub outbox_bytes: u64,
    /// Bytes on disk of the keyed state, and what it is sure to take.
    pub state_bytes: u64,
    /// Bytes free for us on the file system (f_bavail).
    pub free_bytes: u64,
    /// Bytes handed to the disk since the store was opened.
    pub written_bytes: u64,
    /// Records not yet trimmed, per class ([`Class::of`]).
    pub records: [u64; Class::COUNT],
    /// Segments per class.
    pub segments: [u32; Class::COUNT],
}

/// Why a connection ended or never came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFault {
    /// A fixed word.
    pub kind: LinkFaultKind,
    /// For the log: what is wrong and what to do about it.
    pub detail: String,
}

impl LinkFault {
    /// A fault of this kind, in these words.
    #[must_use]
    pub fn new(kind: LinkFaultKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

words! {
    /// At which layer a connection failed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    LinkFaultKind {
        /// The name has no address.
        Dns "dns",
        /// No TCP connection: refused, unreachable, timed out.
        Tcp "tcp",
        /// The handshake, or an alert after it.
        Tls "tls",
        /// The broker said no to CONNECT, or there is no password to log in with.
        Refused "refused",
        /// Nothing came in for 1.5 keep-alives, or an answer was overdue.
        KeepAlive "keep_alive",
        /// The broker closed it.
        Server "server",
        /// The peer broke the protocol.
        Protocol "protocol",
        /// A write could not progress.
        Stalled "stalled",
        /// It fell silent, and the gateway's link is down.
        LinkDown "link_down",
        /// We closed it.
        Local "local",
    }
}

/// An action on the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Restart a systemd unit, and wait until it is active or failed.
    RestartUnit {
        /// The unit.
        unit: UnitName,
    },
    /// Run a root-owned runbook.
    Run {
        /// Name of a file in the directory of runbooks: no separators, no leading dot.
        runbook: String,
        /// Arguments, handed over as they are.
        args: Vec<String>,
    },
    /// Take a network interface down and up again.
    RestartLink {
        /// Its name.
        interface: String,
    },
    /// Restart the machine. Ends in a completion only where it failed: what came of it is known by the next boot.
    Reboot,
    /// Go back to an earlier release.
    Rollback {
        /// A `[rollback.NAME]` of the config.
        target: String,
        /// The release to go to; `None`: the one before.
        to: Option<String>,
    },
    /// Make the running release the good one.
    MarkGood {
        /// A `[rollback.NAME]` of the config.
        target: String,
    },
    /// Cut the gateway off from all but those who can help it, or let it back.
    Quarantine {
        /// How far; `None`: leave quarantine.
        level: Option<QuarantineLevel>,
    },
    /// Load the rules of the quarantine in force again: the broker's addresses may be others now.
    Refresh {
        /// The level in force.
        level: QuarantineLevel,
        /// Let the agent reach any address on the broker's port.
        wide: bool,
    },
    /// Take a snapshot for the one who has to find out what is wrong.
    CollectDiagnostics,
    /// Samples and sends less, for as long as the ladder stands there that wants it: the engine does that itself.
    SavePower,
}

/// Who wants an action.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trigger {
    /// A command of the fleet.
    Command(CommandId),
    /// A rule of the gateway's own, by its name.
    Rule(String),
    /// Nobody but the agent. It is told as a rule is, and still is none: one that a user gives the same name is a rule.
    Own(Own),
}

words! {
    /// What the agent does of its own accord.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    Own {
        /// Keeps the rules of a quarantine in force, and takes the snapshot that follows its beginning.
        Quarantine "quarantine",
        /// Reboots, because that completes what was done.
        Rollback "rollback",
        /// Marks a release that works as the good one, and leaves one that doesn't.
        Trial "trial",
    }
}

impl Trigger {
    /// Whether nobody has commanded it.
    #[must_use]
    pub const fn is_automatic(&self) -> bool {
        !matches!(self, Self::Command(_))
    }

    /// Whether it is an automatic remedy, which whoever inhibits those holds off: not what goes on with something that
    /// is in force or done already.
    #[must_use]
    pub const fn is_remedy(&self) -> bool {
        matches!(self, Self::Rule(_) | Self::Own(Own::Trial))
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(id) => write!(f, "command:{id}"),
            Self::Rule(name) => write!(f, "rule:{name}"),
            Self::Own(own) => write!(f, "rule:{}", own.word()),
        }
    }
}

/// What the store found when it was opened: the engine starts from this.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    /// What lies in each log ([`Class::of`]).
    pub logs: [LogRange; Class::COUNT],
    /// The keyed state, whole.
    pub state: Vec<(String, Bytes)>,
    /// What was damaged: each becomes an event.
    pub losses: Vec<StoreLoss>,
    /// How the store stands.
    pub stats: StoreStats,
    /// When something was last written to it before this, by the clock of then.
    pub written_at: Option<Unix>,
    /// There is no store: it could not be opened.
    pub absent: bool,
}

/// The records of one log that are not yet trimmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogRange {
    /// seq of the first; 0 if there is none.
    pub first: u64,
    /// The highest seq that this log ever held as far as it knows (kept over trims); 0 if it never held any.
    pub last: u64,
    /// How many there are.
    pub records: u64,
    /// How many were given up by [`StoreOp::Evict`] since the log was made: durable before they are gone.
    pub evicted: u64,
}

/// Something that was lost to damage.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StoreLoss {
    /// What, where, and what was done about it.
    #[n(0)]
    pub what: String,
    /// Records lost, where it can be known.
    #[n(1)]
    pub records: u64,
    /// The keyed state was lost as a whole: what was commanded before can't be known.
    #[n(2)]
    pub state_lost: bool,
}
