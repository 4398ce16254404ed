//! Bugs that can be planted, to see that the checkers find them. Each is a lie told at the engine's boundary, so that
//! engine and lie together behave like an agent with that bug; the engine's code stays as it is.

use super::report::Promise;

/// A bug to plant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// The store says that a commit or a put is durable when it isn't: commands are acknowledged before they are.
    AckBeforeCommit,
    /// The ledger of commands is forgotten over a restart.
    DedupeForgotten,
    /// Budgets are forgotten over a restart.
    BudgetInMemory,
    /// A publish counts as acknowledged when it is sent.
    TrimBeforeAck,
    /// Age is measured by the wall clock.
    WallClockAge,
    /// The agent waits for the whole ceiling before each try.
    NoJitter,
    /// Nothing is ever given up for room.
    NeverEvicts,
    /// The outcome of an action gets lost.
    OutcomeLost,
    /// What the config allows is not asked.
    AllowsAll,
    /// Whoever signs a command, it is obeyed.
    SignatureIgnored,
    /// A command is obeyed when it has expired.
    ExpiryIgnored,
    /// Chance that no seed governs.
    WildDice,
    /// The queue to the store takes whatever comes.
    NoQueueBound,
}

impl Planted {
    /// Every bug.
    pub const ALL: &[Self] = &[
        Self::AckBeforeCommit,
        Self::DedupeForgotten,
        Self::BudgetInMemory,
        Self::TrimBeforeAck,
        Self::WallClockAge,
        Self::NoJitter,
        Self::NeverEvicts,
        Self::OutcomeLost,
        Self::AllowsAll,
        Self::SignatureIgnored,
        Self::ExpiryIgnored,
        Self::WildDice,
        Self::NoQueueBound,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::AckBeforeCommit => "ack-before-commit",
            Self::DedupeForgotten => "dedupe-forgotten",
            Self::BudgetInMemory => "budget-in-memory",
            Self::TrimBeforeAck => "trim-before-ack",
            Self::WallClockAge => "wall-clock-age",
            Self::NoJitter => "no-jitter",
            Self::NeverEvicts => "never-evicts",
            Self::OutcomeLost => "outcome-lost",
            Self::AllowsAll => "allows-all",
            Self::SignatureIgnored => "signature-ignored",
            Self::ExpiryIgnored => "expiry-ignored",
            Self::WildDice => "wild-dice",
            Self::NoQueueBound => "no-queue-bound",
        }
    }

    /// The bug of this name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| bug.word() == word)
    }

    /// The promises that it breaks: a checker of one of these has to find it.
    #[must_use]
    pub const fn breaks(self) -> &'static [Promise] {
        match self {
            Self::AckBeforeCommit => &[Promise::NothingLost, Promise::TerminalStatus],
            Self::DedupeForgotten => &[Promise::AtMostOnce],
            Self::BudgetInMemory | Self::AllowsAll | Self::SignatureIgnored | Self::ExpiryIgnored => {
                &[Promise::NothingForbidden]
            }
            Self::TrimBeforeAck => &[Promise::NothingLost],
            Self::WallClockAge => &[Promise::TimeOrder],
            Self::NoJitter => &[Promise::SpreadRetries],
            Self::NeverEvicts => &[Promise::BoundedDisk],
            Self::OutcomeLost => &[Promise::TerminalStatus],
            Self::WildDice => &[Promise::SameTrace],
            Self::NoQueueBound => &[Promise::BoundedMemory],
        }
    }
}
