//! Bugs that can be planted, to see that the checkers find them. Each is a lie told at the engine's boundary, so that
//! engine and lie together behave like an agent with that bug; the engine's code stays as it is.

use super::report::Promise;
use crate::words::words;

words! {
    /// A bug to plant.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    Planted {
        /// The store says that a commit or a put is durable when it isn't: commands are acknowledged before they are.
        AckBeforeCommit "ack-before-commit",
        /// The ledger of commands is forgotten over a restart.
        DedupeForgotten "dedupe-forgotten",
        /// Budgets are forgotten over a restart.
        BudgetInMemory "budget-in-memory",
        /// A publish counts as acknowledged when it is sent.
        TrimBeforeAck "trim-before-ack",
        /// Age is measured by the wall clock.
        WallClockAge "wall-clock-age",
        /// The agent waits for the whole ceiling before each try.
        NoJitter "no-jitter",
        /// Nothing is ever given up for room.
        NeverEvicts "never-evicts",
        /// The outcome of an action gets lost.
        OutcomeLost "outcome-lost",
        /// What the config allows is not asked.
        AllowsAll "allows-all",
        /// Whoever signs a command, it is obeyed.
        SignatureIgnored "signature-ignored",
        /// A command is obeyed when it has expired.
        ExpiryIgnored "expiry-ignored",
        /// Chance that no seed governs.
        WildDice "wild-dice",
        /// The queue to the store takes whatever comes.
        NoQueueBound "no-queue-bound",
    }
}

impl Planted {
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
