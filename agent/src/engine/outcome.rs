//! How an act ended, and the words for why. Whoever acts says them; what is told, tried again or given back goes by
//! them, which is decided elsewhere.

use super::record::Status;
use crate::config::QuarantineLevel;
use crate::wire::Reason;
use crate::words::words;

words! {
    /// Why an act ended as it did, where that is none of the reasons for which a command is refused ([`Reason`]).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[expect(missing_docs, reason = "the contract's words")]
    Ending {
        NoSuchUnit "no_such_unit",
        UnitNotLoaded "unit_not_loaded",
        UnitFailed "unit_failed",
        JobFailed "job_failed",
        NoSystemd "no_systemd",
        PermissionDenied "permission_denied",
        SystemdRefused "systemd_refused",
        NoSuchRunbook "no_such_runbook",
        RunbookRefused "runbook_refused",
        ExitCode "exit_code",
        Signal "signal",
        NoSuchInterface "no_such_interface",
        LinkFailed "link_failed",
        LinkDown "link_down",
        NoSuchTarget "no_such_target",
        NoSuchRelease "no_such_release",
        NoOtherRelease "no_other_release",
        NoCurrentRelease "no_current_release",
        RollbackFailed "rollback_failed",
        NftFailed "nft_failed",
        /// A quarantine that is in force in part: the network is as it was, or units go on.
        Degraded "degraded",
        /// Of a quarantine that somebody has ended: root, on the console.
        NotInForce "not_in_force",
        /// Root's helper is out of reach, or too slow to begin: nothing was done.
        NoHelper "no_helper",
        HelperLost "helper_lost",
        RateLimited "rate_limited",
        PeerRefused "peer_refused",
        PolicyUntrusted "policy_untrusted",
        PolicyWrong "policy_wrong",
        WrongAct "wrong_act",
        /// Canceled before it was begun: nothing was done. It is told as any other that was canceled.
        TakenBack "taken_back",
        InternalError "internal_error",
    }
}

/// Why, in a word.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "whose word it is")]
pub enum Why {
    Ending(Ending),
    Reason(Reason),
    /// As another process has said it.
    Said(String),
}

impl Why {
    /// The word.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::Ending(ending) => ending.word(),
            Self::Reason(reason) => reason.word(),
            Self::Said(word) => word,
        }
    }
}

impl From<Ending> for Why {
    fn from(ending: Ending) -> Self {
        Self::Ending(ending)
    }
}

impl From<Reason> for Why {
    fn from(reason: Reason) -> Self {
        Self::Reason(reason)
    }
}

impl From<String> for Why {
    fn from(said: String) -> Self {
        Self::Said(said)
    }
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActOutcome {
    /// In the words of a command's status.
    pub status: ActStatus,
    /// A fixed word where it did not succeed, or not in all: one of [`Ending`] or of [`Reason`], or one that a helper of
    /// another version has.
    pub reason: Option<String>,
    /// What a human wants to know.
    pub detail: Option<String>,
    /// The release that was marked as good, where releases have names.
    pub release: Option<Box<str>>,
    /// The quarantine that is in force after it, where it was to enter one or to keep one up, and that is known.
    pub quarantine: Option<QuarantineLevel>,
    /// Units that are to stay stopped had been started since they were, and are stopped again.
    pub stopped_again: bool,
    /// Units are to stay stopped for what is in force.
    pub keeps_stopped: bool,
    /// The tail of what it printed.
    pub output: Option<String>,
    /// What it brings home, compressed with zstd: it goes out in parts.
    pub attachment: Option<Box<[u8]>>,
}

/// How an action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the contract")]
pub enum ActStatus {
    Succeeded,
    Failed,
    /// Whoever was to do it would not: nothing was done.
    Rejected,
    TimedOut,
    Canceled,
    Interrupted,
}

impl ActOutcome {
    fn new(status: ActStatus, reason: Option<Why>, detail: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.map(|why| why.word().to_owned()),
            detail: Some(detail.into()),
            release: None,
            quarantine: None,
            stopped_again: false,
            keeps_stopped: false,
            output: None,
            attachment: None,
        }
    }

    /// It worked.
    #[must_use]
    pub fn succeeded(detail: impl Into<String>) -> Self {
        Self::new(ActStatus::Succeeded, None, detail)
    }

    /// It did not.
    #[must_use]
    pub fn failed(why: impl Into<Why>, detail: impl Into<String>) -> Self {
        Self::new(ActStatus::Failed, Some(why.into()), detail)
    }

    /// It was not begun: nothing was done.
    #[must_use]
    pub fn rejected(why: impl Into<Why>, detail: impl Into<String>) -> Self {
        Self::new(ActStatus::Rejected, Some(why.into()), detail)
    }

    /// It took too long.
    #[must_use]
    pub fn timed_out(detail: impl Into<String>) -> Self {
        Self::new(ActStatus::TimedOut, Some(Reason::Timeout.into()), detail)
    }

    /// Root's helper did not begin it in time: nothing was done, and nothing will be.
    #[must_use]
    pub fn not_begun(detail: impl Into<String>) -> Self {
        Self::new(ActStatus::TimedOut, Some(Ending::NoHelper.into()), detail)
    }

    /// Whoever did it is gone: what came of it can't be known.
    #[must_use]
    pub fn interrupted(why: impl Into<Why>, detail: impl Into<String>) -> Self {
        Self::new(ActStatus::Interrupted, Some(why.into()), detail)
    }

    /// It was canceled before it was begun: nothing was done, and it spends nothing.
    #[must_use]
    pub fn taken_back(detail: impl Into<String>) -> Self {
        Self::new(ActStatus::Canceled, Some(Ending::TakenBack.into()), detail)
    }

    /// It was stopped by a command.
    #[must_use]
    pub fn canceled(detail: impl Into<String>) -> Self {
        Self::new(ActStatus::Canceled, Some(Reason::Canceled.into()), detail)
    }

    /// It worked, with a word for what is to be known of that.
    #[must_use]
    pub fn but(self, why: impl Into<Why>) -> Self {
        Self { status: ActStatus::Succeeded, reason: Some(why.into().word().to_owned()), ..self }
    }

    /// Its word, where that is one of these.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.reason.as_deref().and_then(Ending::parse)
    }
}

impl ActStatus {
    /// The status of the command or the remedy whose act ended so.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Succeeded => Status::Succeeded,
            Self::Failed => Status::Failed,
            Self::Rejected => Status::Rejected,
            Self::TimedOut => Status::TimedOut,
            Self::Canceled => Status::Canceled,
            Self::Interrupted => Status::Interrupted,
        }
    }

    /// The same the other way; `None`: no act ends so.
    #[must_use]
    pub const fn of(status: Status) -> Option<Self> {
        Some(match status {
            Status::Queued | Status::InProgress => return None,
            Status::Succeeded => Self::Succeeded,
            Status::Failed => Self::Failed,
            Status::Rejected => Self::Rejected,
            Status::TimedOut => Self::TimedOut,
            Status::Canceled => Self::Canceled,
            Status::Interrupted => Self::Interrupted,
        })
    }
}
