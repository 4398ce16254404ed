//! What is stored: records in three classes, each encoded as CBOR with numbered fields, so that an older or newer agent
//! reads what it knows and skips the rest. Wall-clock time is not stored but worked out at sending ([`super::time`]).

/// The outbox's logs, in the order in which they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Class {
    /// Status of commands, and audit events.
    Results = 0,
    /// Alarms, errors, lifecycle and remediation.
    Events = 1,
    /// Samples.
    Telemetry = 2,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// All, the most urgent first.
    pub const ALL: [Self; Self::COUNT] = [Self::Results, Self::Events, Self::Telemetry];

    /// The name of its directory in the store, and its word in the agent's own telemetry.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Results => "results",
            Self::Events => "events",
            Self::Telemetry => "telemetry",
        }
    }
}
