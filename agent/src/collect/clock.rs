//! The clocks, read here and nowhere else: CLOCK_BOOTTIME for order and age, CLOCK_REALTIME for dates, whether the
//! latter was set from outside, and the boot id. Never corrects a clock, and never waits for one.
#![expect(clippy::disallowed_methods, reason = "this is where time is read")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::config::ClockTrust;
use crate::engine::time::{BootId, Mono, Now, Unix, Wall};

/// systemd-timesyncd makes this file when it has set the clock in this boot (systemd-timesyncd.service(8)); it counts
/// even where the kernel has not been told, or has not heard of it for long, unless somebody else has set the clock
/// meanwhile.
const SYNCHRONIZED: &str = "run/systemd/timesync/synchronized";
/// By whoever starts this process: in a container a sandbox may uncover the id of another kernel's boot.
const BOOT_ID_TOLD: &str = "FIELDMEDIC_BOOT_ID";
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";
/// A clock that goes otherwise than time by more than this from one look to the next was set.
const STEP_MS: u64 = 10_000;
/// How long an answer about the synchronisation holds.
const SYNC_CHECK_MS: u64 = 1_000;

/// One reading of the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// For the engine.
    pub now: Now,
    /// Whether the wall clock was set from outside, whatever the configuration says about trusting it.
    pub synced: bool,
}

/// Reads the clocks.
#[derive(Debug)]
pub struct Clock {
    trust: ClockTrust,
    marker: PathBuf,
    checked: Option<(Mono, bool)>,
    /// A time at which it was set from outside: what it says now has to follow from that.
    set: Option<(Mono, Unix)>,
}

impl Clock {
    /// A clock that trusts as `trust` says; `root` as in `collect.root`.
    #[must_use]
    pub fn new(trust: ClockTrust, root: &Path) -> Self {
        Self { trust, marker: root.join(SYNCHRONIZED), checked: None, set: None }
    }

    /// Trusts otherwise from now on.
    pub fn set_trust(&mut self, trust: ClockTrust) {
        self.trust = trust;
    }

    /// This instant.
    pub fn now(&mut self) -> Now {
        self.read().now
    }

    /// This instant, and what is known about the wall clock.
    pub fn read(&mut self) -> ClockReading {
        let mono = boottime();
        let unix = realtime();
        let synced = self.synced(mono, unix);
        let trusted = synced || self.trust == ClockTrust::Always;
        ClockReading { now: Now { mono, wall: Wall { unix, trusted } }, synced }
    }

    fn synced(&mut self, mono: Mono, unix: Unix) -> bool {
        if let Some((at, synced)) = self.checked {
            if mono.since(at) < Duration::from_millis(SYNC_CHECK_MS) {
                return synced;
            }
        }
        let synced = kernel_says_synchronised() || (self.marker.exists() && self.has_gone_on(mono, unix));
        if synced {
            self.set = Some((mono, unix));
        }
        self.checked = Some((mono, synced));
        synced
    }

    /// Whether the wall clock has only gone on since it was last known to be set.
    fn has_gone_on(&self, mono: Mono, unix: Unix) -> bool {
        let drift = |(then, date): (Mono, Unix)| {
            let passed = i64::try_from(mono.since(then).as_millis()).unwrap_or(i64::MAX);
            unix.0.saturating_sub(date.0).abs_diff(passed)
        };
        self.set.map(drift).is_none_or(|drift| drift <= STEP_MS)
    }
}

/// The boot's id as [`boot_id`] says it, or that of the kernel that runs: a tree that stands in for /sys and /proc need
/// not have one.
///
/// # Errors
/// Neither file can be read, or that of the kernel holds no boot id (`InvalidData`).
pub fn this_boot(root: &Path) -> io::Result<BootId> {
    boot_id(root).or_else(|_| boot_id(Path::new("/")))
}

/// When this program was built (build.rs): the present can't be earlier, whatever a clock says.
pub(crate) fn built() -> Unix {
    Unix::of_seconds(env!("FIELDMEDIC_BUILD_EPOCH_S").parse().unwrap_or(0))
}

/// The boot's id: the one that this process was told in its environment, or the kernel's below `root`.
///
/// # Errors
/// The file can't be read, or holds no boot id (`InvalidData`).
pub fn boot_id(root: &Path) -> io::Result<BootId> {
    if let Some(told) = std::env::var(BOOT_ID_TOLD).ok().and_then(|id| BootId::parse(&id)) {
        return Ok(told);
    }
    let path = root.join(BOOT_ID);
    let annotate = |kind, what: &dyn std::fmt::Display| io::Error::new(kind, format!("{}: {what}", path.display()));
    let text = fs::read_to_string(&path).map_err(|error| annotate(error.kind(), &error))?;
    BootId::parse(&text).ok_or_else(|| annotate(io::ErrorKind::InvalidData, &"not a boot id"))
}

/// adjtimex(2) with nothing to change: STA_UNSYNC is clear once a time daemon (chrony, ntpd, timesyncd, a PTP or GPS
/// daemon) has set the clock and keeps it. An error counts as no.
#[expect(unsafe_code, reason = "neither rustix nor nix wraps adjtimex(2)")]
fn kernel_says_synchronised() -> bool {
    // SAFETY: `timex` is a plain C struct of integers, for which all zeros are valid, and `modes` 0 makes the call a
    // read; the pointer is to a live local of the right type.
    let (state, status) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        let state = libc::adjtimex(&raw mut timex);
        (state, timex.status)
    };
    state != -1 && state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0
}

/// How long this boot was suspended: what CLOCK_MONOTONIC, which the journal and the kernel stamp with, left out.
pub(super) fn suspended() -> Duration {
    let monotonic = milliseconds(clock_gettime(ClockId::Monotonic));
    Duration::from_millis(boottime().0.saturating_sub(u64::try_from(monotonic).unwrap_or(0)))
}

/// CLOCK_BOOTTIME alone: the same in all processes of a boot.
pub(crate) fn boottime() -> Mono {
    Mono(u64::try_from(milliseconds(clock_gettime(ClockId::Boottime))).unwrap_or(0))
}

/// CLOCK_MONOTONIC in microseconds, as systemd dates what it starts.
pub(crate) fn monotonic_us() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1_000)).unwrap_or(0)
}

/// What the wall clock says, whether or not it may be believed.
pub(crate) fn realtime() -> Unix {
    Unix(milliseconds(clock_gettime(ClockId::Realtime)))
}

fn milliseconds(time: Timespec) -> i64 {
    time.tv_sec.saturating_mul(1_000).saturating_add(time.tv_nsec / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_timesyncd_once_set_is_believed_until_somebody_else_sets_it() {
        let mut clock = Clock::new(ClockTrust::Kernel, Path::new("/nonexistent"));
        assert!(clock.has_gone_on(Mono(1), Unix(1)), "nothing is known to compare with");
        clock.set = Some((Mono(1_000), Unix(1_700_000_000_000)));
        assert!(
            clock.has_gone_on(Mono(86_401_000), Unix(1_700_086_401_500)),
            "a day later, and a second and a half off"
        );
        for wrong in [2_080_000_000_000, 0, i64::MAX, i64::MIN] {
            assert!(!clock.has_gone_on(Mono(2_000), Unix(wrong)), "{wrong}");
        }
    }
}
