//! The gateway's clocks: monotonic time that begins anew at each boot, and a wall clock that may start in 1970, be set
//! late, drift and jump. The world knows the true time besides, and so can say of any date whether it is right.

use super::dice::Dice;
use super::network::millis;
use super::scenario::ClockWorld;
use crate::engine::time::{BootId, Mono, Now, Unix, Wall};

/// How often NTP corrects a clock that it has set: the daemons' usual poll, at its slowest.
const CORRECTED_EVERY_MS: u64 = 1_024_000;

/// The clocks.
#[derive(Debug)]
pub(super) struct Clock {
    world: ClockWorld,
    starts: Unix,
    dice: Dice,
    /// Each boot, with the true time of its begin.
    boots: Vec<(BootId, u64)>,
    /// The wall clock was right, or set, or jumped, at this true time: it was off by so much then.
    off_ms: i64,
    off_since: u64,
    /// Since when NTP may set it: the network has to be there.
    asks_since: u64,
    synced: bool,
    /// A fault keeps the kernel from calling it synchronised.
    unsynced: bool,
}

impl Clock {
    pub(super) const fn new(world: ClockWorld, starts: Unix, dice: Dice) -> Self {
        Self {
            world,
            starts,
            dice,
            boots: Vec::new(),
            off_ms: 0,
            off_since: 0,
            asks_since: 0,
            synced: false,
            unsynced: false,
        }
    }

    /// The machine boots.
    pub(super) fn boot(&mut self, at: u64) -> BootId {
        let id = BootId(self.dice.bytes());
        self.boots.push((id, at));
        self.off_ms = match self.world.boots_at {
            Some(date) => date.0.saturating_sub(self.true_date(at).0),
            None => self.off_now(at),
        };
        self.off_since = at;
        self.asks_since = at;
        self.synced = false;
        id
    }

    /// How many boots there were.
    pub(super) fn boots(&self) -> u32 {
        u32::try_from(self.boots.len()).unwrap_or(u32::MAX)
    }

    /// The present boot.
    pub(super) fn boot_id(&self) -> BootId {
        self.boots.last().map_or(BootId([0; 16]), |(id, _)| *id)
    }

    /// True time of its begin.
    pub(super) fn booted_at(&self) -> u64 {
        self.boots.last().map_or(0, |(_, at)| *at)
    }

    /// What the gateway's clocks say.
    pub(super) fn now(&mut self, at: u64, network_up: bool) -> Now {
        self.follow_ntp(at, network_up);
        let unix = Unix(self.true_date(at).0.saturating_add(self.off_now(at)));
        let mono = Mono(at.saturating_sub(self.booted_at()));
        Now { mono, wall: Wall { unix, trusted: self.synced && !self.unsynced } }
    }

    /// The wall clock is set by hand: the kernel no longer calls it synchronised, until NTP has put it right
    /// (settimeofday(2) sets STA_UNSYNC).
    pub(super) fn jump(&mut self, at: u64, by_s: i64) {
        self.off_ms = self.off_now(at).saturating_add(by_s.saturating_mul(1_000));
        self.off_since = at;
        self.asks_since = at;
        self.synced = false;
    }

    pub(super) const fn set_unsynced(&mut self, unsynced: bool) {
        self.unsynced = unsynced;
    }

    /// The date, as nobody on the gateway knows it.
    pub(super) fn true_date(&self, at: u64) -> Unix {
        Unix(self.starts.0.saturating_add(i64::try_from(at).unwrap_or(i64::MAX)))
    }

    /// When it was so long after a boot: which boot (1 is the first), and the true time. `None` for one that never was.
    pub(super) fn true_time(&self, boot: BootId, mono: Mono) -> Option<(u32, u64)> {
        let index = self.boots.iter().rposition(|(id, _)| *id == boot)?;
        let (_, began) = self.boots.get(index)?;
        Some((u32::try_from(index + 1).unwrap_or(u32::MAX), began.saturating_add(mono.0)))
    }

    /// What an agent that measures age by the wall clock takes for the time since boot.
    pub(super) fn wall_since_boot(&self, now: Now) -> Mono {
        let booted = match self.world.boots_at {
            Some(date) => date,
            None => self.true_date(self.booted_at()),
        };
        Mono(u64::try_from(now.wall.unix.0.saturating_sub(booted.0)).unwrap_or(0))
    }

    fn off_now(&self, at: u64) -> i64 {
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "milliseconds of a year")]
        let drifted = (at.saturating_sub(self.off_since) as f64 * self.world.drift_ppm / 1e6) as i64;
        self.off_ms.saturating_add(drifted)
    }

    fn follow_ntp(&mut self, at: u64, network_up: bool) {
        let Some(set_after) = self.world.set_after else { return };
        if !network_up {
            return;
        }
        let due = if self.synced { CORRECTED_EVERY_MS } else { millis(set_after) };
        let since = if self.synced { self.off_since } else { self.asks_since };
        if at.saturating_sub(since) >= due {
            self.off_ms = 0;
            self.off_since = at;
            self.synced = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DAY: u64 = 86_400_000;

    fn clock(boots_at: Option<Unix>, set_after: Option<Duration>) -> Clock {
        let world = ClockWorld { boots_at, set_after, drift_ppm: 50.0 };
        Clock::new(world, Unix(1_768_435_200_000), Dice::new(1, "clock"))
    }

    #[test]
    fn a_clock_without_a_battery_starts_in_1970_and_is_trusted_once_it_was_set() {
        let mut clock = clock(Some(Unix(0)), Some(Duration::from_secs(60)));
        clock.boot(5_000);
        assert_eq!(clock.now(6_000, true).wall, Wall { unix: Unix(1_000), trusted: false });
        assert!(!clock.now(70_000, false).wall.trusted, "without network there is no NTP");
        assert_eq!(clock.now(70_000, true).wall, Wall { unix: clock.true_date(70_000), trusted: true });
    }

    #[test]
    fn a_clock_that_ntp_keeps_is_never_off_by_a_second() {
        let mut clock = clock(None, Some(Duration::from_secs(60)));
        clock.boot(0);
        for at in (0..10 * DAY).step_by(600_000).skip(1) {
            let off = clock.now(at, true).wall.unix.0 - clock.true_date(at).0;
            assert!(off.abs() < 1_000, "{off} ms at {at}");
        }
    }

    #[test]
    fn a_jump_costs_the_trust_and_a_reboot_begins_the_time_anew() {
        let mut clock = clock(None, Some(Duration::from_secs(60)));
        let first = clock.boot(0);
        assert!(clock.now(DAY, true).wall.trusted);
        clock.jump(DAY, -7_200);
        let now = clock.now(DAY + 1_000, true);
        assert!(!now.wall.trusted && now.wall.unix < clock.true_date(DAY - 7_000_000));
        assert!(clock.now(DAY + 60_000, true).wall.trusted);
        clock.boot(2 * DAY);
        assert_eq!(clock.now(2 * DAY + 5, false).mono, Mono(5));
        assert_eq!(clock.true_time(first, Mono(7)), Some((1, 7)));
        assert_eq!(clock.true_time(BootId([9; 16]), Mono(7)), None);
    }
}
