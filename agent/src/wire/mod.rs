//! The contract's payloads and the signature check. Pure: bytes in, values out; whether the time is right is judged by
//! the engine, which knows how far the clock can be trusted.

pub mod date;
pub mod keys;
pub mod payload;
pub mod readings;
pub mod telemetry;
pub mod token;

use std::borrow::Cow;
use std::fmt;

use crate::words::words;

/// Text from outside as others may be shown it: a line ends with `\n`, also where it was `\r\n`, as a modem's do, and
/// each other control character but tabs becomes U+FFFD.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(is_obeyed) {
        return text.into();
    }
    text.replace("\r\n", "\n").replace(is_obeyed, "\u{fffd}").into()
}

/// A command's id (`jti`): 1 to 64 of `A-Z a-z 0-9 _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(String);

impl CommandId {
    /// The most bytes in an id.
    pub const LEN_MAX: usize = 64;

    /// Takes a text that has the form of an id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=Self::LEN_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        fits.then(|| Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A command whose signature, audience and form were checked. Holding one is the proof; time was not judged yet.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedCommand {
    /// `jti`.
    pub id: CommandId,
    /// Key id that signed it; `None` where signatures are not required and there was none.
    pub kid: Option<String>,
    /// Addressed to a group rather than to this device.
    pub group: Option<String>,
    /// `iat`, seconds since 1970.
    pub issued_at: i64,
    /// `exp`.
    pub expires_at: i64,
    /// `nbf`.
    pub not_before: Option<i64>,
    /// The presence message's nonce: proof of freshness where the clock is not trusted.
    pub nonce: Option<String>,
    /// `cmd.name`.
    pub name: String,
    /// `cmd.args`.
    pub args: serde_json::Map<String, serde_json::Value>,
    /// `cmd.timeout_s`.
    pub timeout_s: Option<u64>,
    /// SHA-256 of `cmd`: tells a command that comes again, perhaps signed anew, from another under the same id.
    pub digest: [u8; 32],
    /// The message as it was received: for those who trust nobody's word that it was verified, or not for long.
    pub message: Box<str>,
}

impl VerifiedCommand {
    /// The message, where it is signed.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.kid.is_some().then_some(&self.message)
    }
}

/// A message on a command topic that is not a command to obey.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The id that it claims, where it has the form of one. Not proven to be anybody's.
    pub claimed_id: Option<CommandId>,
    /// The command's name that it claims.
    pub claimed_name: Option<String>,
    /// For the audit: what exactly was wrong.
    pub detail: String,
}

words! {
    /// Why a command was refused or failed: the contract's fixed words.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    Reason {
        /// The signature is not that of the key named.
        BadSignature "bad_signature",
        /// No trusted key has that kid.
        UnknownKey "unknown_key",
        /// Its exp has passed.
        Expired "expired",
        /// Its nbf or iat lies ahead.
        NotYetValid "not_yet_valid",
        /// Addressed to another device or group.
        WrongAudience "wrong_audience",
        /// The id was used by another command, or is too old to be known.
        Replayed "replayed",
        /// Not a token, or a claim is missing or has the wrong form.
        Malformed "malformed",
        /// Over 32 KiB.
        TooLarge "too_large",
        /// This version has no such command.
        UnknownCommand "unknown_command",
        /// The config doesn't allow it.
        NotAllowed "not_allowed",
        /// Its budget for this window is spent.
        BudgetSpent "budget_spent",
        /// Battery under remediation.min_battery_pct and no external power.
        LowBattery "low_battery",
        /// Up for less than remediation.min_uptime.
        MinUptime "min_uptime",
        /// Quarantine forbids it.
        Quarantined "quarantined",
        /// Too many commands at once.
        Busy "busy",
        /// Disruptive, and neither the clock nor a nonce proves that it is fresh.
        ClockUntrusted "clock_untrusted",
        /// An inhibitor is in force.
        Inhibited "inhibited",
        /// Canceled by a later command.
        Canceled "canceled",
        /// It ran into its deadline.
        Timeout "timeout",
        /// The agent or the gateway stopped while it ran; what came of it can't be known.
        Interrupted "interrupted",
        /// The journal could not be written, so it was not begun.
        StoreFailed "store_failed",
        /// This gateway has no means for it.
        NotSupported "not_supported",
        /// The machine was told to reboot, and the same boot goes on.
        SameBoot "same_boot",
        /// It is done, and the next boot completes it.
        NeedsReboot "needs_reboot",
        /// Too many boots of late: nothing is done automatically.
        BootLoop "boot_loop",
        /// The configuration in force doesn't want it any more.
        ConfigChanged "config_changed",
        /// remediation.dry_run is on: nothing was done.
        DryRun "dry_run",
    }
}
