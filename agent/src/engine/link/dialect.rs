//! What the broker speaks, as far as is known: the version of MQTT, and whether it keeps retained messages. Both are
//! found out by asking: what a broker refuses, or hangs up on, is tried otherwise, at once where that can't go in a
//! circle. Knows no connection: it is told how each greeting went.

use crate::config::MqttVersion;
use crate::engine::io::LinkFaultKind;
use crate::engine::packet::{ConnectCode, Version};

/// A broker that closes without a word at the greeting twice running may not speak our version of MQTT.
const MUTE_CLOSES_MAX: u8 = 2;
/// One that spoke our version before may have been replaced by another: after so many closes the other version is
/// tried.
const MUTE_ROW_MAX: u8 = 6;

/// What we speak next, and why.
#[derive(Debug)]
pub(super) struct Dialect {
    version: Version,
    /// A broker has accepted us with this version in this run: a greeting that fails now has another cause.
    version_works: bool,
    mute_closes: u8,
    /// Closes without a word at the greeting since the version last worked.
    mute_row: u8,
    /// The older version is spoken because of such closes, and not because the broker said so.
    guessed: bool,
    /// The broker keeps retained messages, as far as is known.
    retains: bool,
    /// It refused a connection over a retained will.
    retain_refused: bool,
    /// The same in 3.1.1, which has no word for it: the broker just hangs up.
    unsaid: Unsaid,
    /// The other version, or another will, is to be tried without waiting.
    retry_at_once: bool,
}

/// Whether a broker of 3.1.1 that hangs up on our greeting does so over the will, which is to be retained. It is
/// certain only when it takes us without, and hangs up again on the same greeting with it: a broker that was just away
/// must not cost the fleet its retained presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsaid {
    /// Not known to.
    No,
    /// The next greeting leaves a will that is not to be retained.
    Tried,
    /// It took that one; the next leaves a retained will again.
    Suspected,
    /// It did.
    Certain,
}

/// How a greeting that the broker accepted left our will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Will {
    /// As it should be.
    IsRight,
    /// It is not a retained message, and can be one now: the next greeting goes out without waiting.
    IsToBeRetained,
}

impl Dialect {
    /// Nothing is known yet.
    pub(super) const fn new(wanted: MqttVersion) -> Self {
        Self {
            version: if matches!(wanted, MqttVersion::V311) { Version::V311 } else { Version::V5 },
            version_works: false,
            mute_closes: 0,
            mute_row: 0,
            guessed: false,
            retains: true,
            retain_refused: false,
            unsaid: Unsaid::No,
            retry_at_once: false,
        }
    }

    pub(super) const fn version(&self) -> Version {
        self.version
    }

    /// Whether the broker keeps retained messages: true until it says otherwise.
    pub(super) const fn retains(&self) -> bool {
        self.retains
    }

    /// Whether the next greeting is to go out without waiting; asked once.
    pub(super) const fn take_retry_at_once(&mut self) -> bool {
        std::mem::replace(&mut self.retry_at_once, false)
    }

    /// The broker accepted our greeting, and says whether it keeps retained messages.
    pub(super) const fn accepted(&mut self, retains: bool) -> Will {
        self.mute_closes = 0;
        self.mute_row = 0;
        self.version_works = true;
        self.unsaid = match self.unsaid {
            Unsaid::No | Unsaid::Suspected => Unsaid::No,
            Unsaid::Tried => Unsaid::Suspected,
            Unsaid::Certain => Unsaid::Certain,
        };
        let retained_before = std::mem::replace(&mut self.retains, retains && !self.retain_refused);
        if self.retains && !retained_before {
            self.retry_at_once = true;
            return Will::IsToBeRetained;
        }
        Will::IsRight
    }

    /// The broker refused our greeting. `wanted`: what the config lets us speak.
    pub(super) fn refused(&mut self, code: &ConnectCode, wanted: MqttVersion) {
        match code {
            ConnectCode::UnsupportedVersion => self.speak_other_version(wanted),
            // At once, but not in a circle, with a will that it may take.
            ConnectCode::RetainNotSupported => {
                self.retry_at_once = std::mem::take(&mut self.retains);
                self.retain_refused = true;
            }
            _ => {}
        }
    }

    /// A broker that was replaced by one of the other version hangs up as a broken one does, only each time.
    pub(super) fn greeting_failed(&mut self, fault: LinkFaultKind, wanted: MqttVersion) {
        if fault == LinkFaultKind::Server && self.unsaid == Unsaid::Suspected {
            self.unsaid = Unsaid::Certain;
            (self.retains, self.retain_refused, self.retry_at_once) = (false, true, true);
            return;
        }
        if self.version_works && fault == LinkFaultKind::Server {
            self.mute_row = self.mute_row.saturating_add(1);
            self.version_works = self.mute_row < MUTE_ROW_MAX;
        }
        if !self.version_works {
            self.consider_other_version(fault, wanted);
        }
    }

    /// A connection ended that the broker had accepted.
    pub(super) const fn was_online(&mut self) {
        if std::mem::replace(&mut self.guessed, false) {
            // Whoever hung up on 5 may have been a balancer whose broker was away: it is asked again.
            self.version = Version::V5;
            self.version_works = false;
        }
    }

    /// A connection proved stable.
    pub(super) const fn proved_stable(&mut self) {
        // It may have been another broker that refused.
        self.retain_refused = false;
        if matches!(self.unsaid, Unsaid::Certain) {
            self.unsaid = Unsaid::Tried;
        }
    }

    /// A broker that speaks only the other version may answer our greeting with a packet that isn't of ours, or hang
    /// up.
    fn consider_other_version(&mut self, fault: LinkFaultKind, wanted: MqttVersion) {
        match fault {
            LinkFaultKind::Protocol => self.mute_closes = MUTE_CLOSES_MAX,
            LinkFaultKind::Server => self.mute_closes = self.mute_closes.saturating_add(1),
            _ => {}
        }
        if self.mute_closes >= MUTE_CLOSES_MAX {
            let is_mute = fault == LinkFaultKind::Server && self.version == Version::V311;
            if is_mute && self.unsaid == Unsaid::No && self.retains {
                (self.unsaid, self.retains) = (Unsaid::Tried, false);
                return;
            }
            if self.unsaid == Unsaid::Tried {
                (self.unsaid, self.retains) = (Unsaid::No, true);
            }
            self.speak_other_version(wanted);
            self.guessed = fault == LinkFaultKind::Server && self.version == Version::V311;
        }
    }

    /// The way back counts too: a balancer whose broker is down hangs up on both, and then 5 may be the one that works.
    fn speak_other_version(&mut self, wanted: MqttVersion) {
        if wanted == MqttVersion::Auto {
            // At once only for the older: a broker that takes neither must not be asked in a circle without a pause.
            self.retry_at_once = self.version == Version::V5;
            self.version = if self.version == Version::V5 { Version::V311 } else { Version::V5 };
            self.version_works = false;
        }
        self.mute_closes = 0;
    }
}
