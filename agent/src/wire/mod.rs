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
    /// SHA-256 of the claims: tells a redelivery from another command under the same id.
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

macro_rules! reasons {
    ($( $name:ident $word:literal $meaning:literal; )*) => {
        /// Why a command was refused or failed: the contract's fixed words.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $( #[doc = $meaning] $name, )* }
        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[ $( Self::$name, )* ];
            /// The word of the contract.
            #[must_use]
            pub const fn word(self) -> &'static str { match self { $( Self::$name => $word, )* } }
            /// The reason with this word.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> { match word { $( $word => Some(Self::$name), )* _ => None } }
        }
    };
}

reasons! {
    BadSignature "bad_signature" "The signature is not that of the key named.";
    UnknownKey "unknown_key" "No trusted key has that kid.";
    Expired "expired" "Its exp has passed.";
    NotYetValid "not_yet_valid" "Its nbf or iat lies ahead.";
    WrongAudience "wrong_audience" "Addressed to another device or group.";
    Replayed "replayed" "The id was used by another command, or is too old to be known.";
    Malformed "malformed" "Not a token, or a claim is missing or has the wrong form.";
    TooLarge "too_large" "Over 32 KiB.";
    UnknownCommand "unknown_command" "This version has no such command.";
    NotAllowed "not_allowed" "The config doesn't allow it.";
    BudgetSpent "budget_spent" "Its budget for this window is spent.";
    LowBattery "low_battery" "Battery under remediation.min_battery_pct and no external power.";
    MinUptime "min_uptime" "Up for less than remediation.min_uptime.";
    Quarantined "quarantined" "Quarantine forbids it.";
    Busy "busy" "Too many commands at once.";
    ClockUntrusted "clock_untrusted" "Disruptive, and neither the clock nor a nonce proves that it is fresh.";
    Inhibited "inhibited" "An inhibitor is in force.";
    Canceled "canceled" "Canceled by a later command.";
    Timeout "timeout" "It ran into its deadline.";
    Interrupted "interrupted" "The agent or the gateway stopped while it ran; what came of it can't be known.";
    StoreFailed "store_failed" "The journal could not be written, so it was not begun.";
    NotSupported "not_supported" "This gateway has no means for it.";
    SameBoot "same_boot" "The machine was told to reboot, and the same boot goes on.";
    NeedsReboot "needs_reboot" "It is done, and the next boot completes it.";
    BootLoop "boot_loop" "Too many boots of late: nothing is done automatically.";
    ConfigChanged "config_changed" "The configuration in force doesn't want it any more.";
    DryRun "dry_run" "remediation.dry_run is on: nothing was done.";
}
