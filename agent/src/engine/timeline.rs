//! Turns "so long after that boot" into dates, and says how late it is at least when the clock can't be believed. Keeps
//! one anchor a boot, so that a record made before the clock was set gets its date when it is sent after it was.

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::Stamp;
use super::time::{Anchor, BootId, Mono, Now, Unix};

/// How many boots are remembered. A record from an older one is sent with `time` null.
const ANCHORS_MAX: usize = 64;

/// A clock that was stepped by less than this since its anchor was saved isn't worth a write.
const ANCHOR_STEP: Duration = Duration::from_secs(1);

/// A trusted clock that goes back by more than this was wrong, or is: it is told.
const SET_BACK: Duration = Duration::from_secs(10);

/// The saved floor may lag behind by this much: what a reboot without a clock may forget.
const FLOOR_LAG: Duration = Duration::from_secs(3600);

/// A claim that lies further ahead of a trusted clock was wrong: whoever signed had a wrong clock. As `max_clock_skew`
/// is by default: an hour would be the commonest mistake.
pub const CLAIM_AHEAD_S: i64 = 300;

/// Dates for stamps, and the floor under the present.
#[derive(Debug)]
pub struct Timeline {
    boot: BootId,
    anchors: BTreeMap<BootId, Anchor>,
    built: Unix,
    /// When this boot began, or a time later than that.
    booted: Mono,
    /// When this run began.
    began: Mono,
    /// The last time that a trusted clock said: the present, while there is one. It goes back with the clock.
    floor: Unix,
    floor_saved: Unix,
    /// And the newest verified `iat` says so, which a trusted clock may disprove.
    claimed: Option<Unix>,
}

/// What is to be saved of a timeline.
#[derive(Debug, PartialEq, Eq)]
pub struct Saved {
    /// The anchor of this boot.
    pub anchor: Option<Anchor>,
    /// The floor.
    pub floor: Unix,
    /// The newest verified `iat`.
    pub claimed: Option<Unix>,
    /// Boots to be forgotten.
    pub forget: Vec<BootId>,
    /// The clock was ahead until now, by so much.
    pub set_back: Option<Duration>,
}

impl Timeline {
    /// Starts with what was saved; `build_time` is when this program was built.
    #[must_use]
    pub fn new(boot: BootId, anchors: BTreeMap<BootId, Anchor>, floor: Option<Unix>, build_time: Unix) -> Self {
        let saved = floor.unwrap_or(build_time);
        let (built, floor) = (build_time, saved.max(build_time));
        Self { boot, anchors, built, booted: Mono(0), began: Mono(0), floor, floor_saved: saved, claimed: None }
    }

    /// The same, of a run that began then.
    #[must_use]
    pub fn begun_at(self, began: Mono) -> Self {
        Self { began, ..self }
    }

    /// The same, in a boot of which no more is certain than that it had begun by then.
    #[must_use]
    pub fn booted_by(self, booted: Mono) -> Self {
        Self { booted, ..self }
    }

    /// The same, with the newest verified `iat` that was saved.
    #[must_use]
    pub fn with_claim(self, claimed: Option<Unix>) -> Self {
        Self { claimed, ..self }
    }

    /// The boot that runs.
    #[must_use]
    pub const fn boot(&self) -> BootId {
        self.boot
    }

    /// `mono` in this boot.
    #[must_use]
    pub const fn stamp(&self, mono: Mono) -> Stamp {
        Stamp { boot: self.boot, mono }
    }

    /// Learns from the clock. Some: what should be saved now.
    pub fn observe(&mut self, now: Now) -> Option<Saved> {
        let anchor = Anchor::of(now)?;
        let known = std::mem::replace(&mut self.floor, now.wall.unix.max(self.built));
        let back = Duration::from_millis(u64::try_from(known.0.saturating_sub(now.wall.unix.0)).unwrap_or(0));
        let set_back = Some(back).filter(|back| *back > SET_BACK);
        let step = self.anchors.get(&self.boot).map(|old| old.0.0.abs_diff(anchor.0.0));
        let stepped = step.is_none_or(|ms| u128::from(ms) >= ANCHOR_STEP.as_millis());
        if stepped {
            self.anchors.insert(self.boot, anchor);
        }
        let lag = self.floor.0.abs_diff(self.floor_saved.0);
        let ahead = |claimed: &mut Unix| claimed.0.saturating_sub(now.wall.unix.0) / 1000 > CLAIM_AHEAD_S;
        let disproved = self.claimed.take_if(ahead).is_some();
        let is_due = stepped || disproved || set_back.is_some() || u128::from(lag) >= FLOOR_LAG.as_millis();
        is_due.then(|| Saved { set_back, ..self.save() })
    }

    /// A command that proved genuine was issued at `iat`: it can't be earlier than that.
    pub fn claim(&mut self, iat: Unix) {
        self.claimed = self.claimed.max(Some(iat));
    }

    /// What should be kept over a restart.
    pub fn save(&mut self) -> Saved {
        self.floor_saved = self.floor;
        let anchor = self.anchors.get(&self.boot).copied();
        Saved { anchor, floor: self.floor, claimed: self.claimed, forget: self.forget(), set_back: None }
    }

    /// The date of a stamp; `None` where the clock was never trusted in that boot.
    #[must_use]
    pub fn date(&self, stamp: Stamp) -> Option<Unix> {
        Some(self.anchor(stamp.boot)?.date(stamp.mono))
    }

    /// What dates the stamps of a boot; `None` where the clock was never trusted in it.
    #[must_use]
    pub fn anchor(&self, boot: BootId) -> Option<Anchor> {
        self.anchors.get(&boot).copied()
    }

    /// The lowest that the present can be, where no clock is trusted.
    #[must_use]
    pub fn floor(&self) -> Unix {
        self.claimed.map_or(self.floor, |claimed| self.floor.max(claimed))
    }

    /// The same, without what was only claimed, and without what this clock denies: it was set back since, to a time
    /// that can be right.
    #[must_use]
    pub fn proven(&self, now: Now) -> Unix {
        let is_denied = (self.built..self.floor).contains(&now.wall.unix);
        if is_denied { self.built } else { self.floor }
    }

    /// Whether that is by a command's word.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        self.claimed.is_some_and(|claimed| claimed > self.floor)
    }

    /// When this run began; `None` where the clock was never trusted in this boot.
    #[must_use]
    pub fn began(&self) -> Option<Unix> {
        self.date(self.stamp(self.began))
    }

    /// The latest that this boot can have begun.
    #[must_use]
    pub const fn booted(&self) -> Stamp {
        self.stamp(self.booted)
    }

    /// How long this boot has lasted, at least.
    #[must_use]
    pub fn uptime(&self, now: Now) -> Duration {
        now.mono.since(self.booted)
    }

    /// How long ago a stamp was, at least: where that can't be told, and was in another boot, it is the time since this
    /// one.
    #[must_use]
    pub fn age(&self, stamp: Stamp, now: Now) -> Duration {
        self.known_age(stamp, now).unwrap_or_else(|| self.uptime(now))
    }

    /// How long ago a stamp was: exact within this boot; by the dates where both boots have an anchor. `None` where
    /// one has none, or they say that it is yet to come.
    #[must_use]
    pub fn known_age(&self, stamp: Stamp, now: Now) -> Option<Duration> {
        if stamp.boot == self.boot {
            return Some(now.mono.since(stamp.mono));
        }
        let (then, present) = (self.date(stamp)?, self.date(self.stamp(now.mono))?);
        Some(Duration::from_millis(u64::try_from(present.0.saturating_sub(then.0)).ok()?))
    }

    /// A stamp by which an age can be told at the next boot, too: of one of another boot's that the clock never dated,
    /// or dated ahead of the present, no more is known than that it was before this boot.
    #[must_use]
    pub fn settled(&self, stamp: Stamp) -> Stamp {
        let booted = self.booted();
        if stamp.boot == self.boot || self.date(booted).is_none() {
            return stamp;
        }
        let is_known = self.date(stamp).is_some_and(|date| date <= self.floor);
        if is_known { stamp } else { booted }
    }

    fn forget(&mut self) -> Vec<BootId> {
        let mut oldest: Vec<(Anchor, BootId)> = self
            .anchors
            .iter()
            .filter(|(boot, _)| **boot != self.boot)
            .map(|(boot, anchor)| (*anchor, *boot))
            .collect();
        oldest.sort_unstable_by_key(|(anchor, boot)| (anchor.0, *boot));
        let surplus = self.anchors.len().saturating_sub(ANCHORS_MAX);
        let forgotten: Vec<BootId> = oldest.into_iter().take(surplus).map(|(_, boot)| boot).collect();
        for boot in &forgotten {
            self.anchors.remove(boot);
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::time::Wall;

    const BUILT: Unix = Unix(1_700_000_000_000);

    fn boot(n: u8) -> BootId {
        BootId([n; 16])
    }

    fn at(mono: u64, unix: i64, trusted: bool) -> Now {
        Now { mono: Mono(mono), wall: Wall { unix: Unix(unix), trusted } }
    }

    #[test]
    fn a_stamp_from_before_the_clock_was_set_gets_its_date_once_it_is() {
        let mut timeline = Timeline::new(boot(1), BTreeMap::new(), None, BUILT);
        let early = timeline.stamp(Mono(1_000));
        assert_eq!(timeline.observe(at(2_000, 2_000, false)), None);
        assert_eq!(timeline.date(early), None);
        assert!(timeline.observe(at(10_000, 1_800_000_010_000, true)).is_some());
        assert_eq!(timeline.date(early), Some(Unix(1_800_000_001_000)));
    }

    #[test]
    fn what_was_claimed_counts_until_a_trusted_clock_disproves_it() {
        let (present, wrong) = (Unix(1_800_000_000_000), Unix(1_900_000_000_000));
        let mut timeline = Timeline::new(boot(1), BTreeMap::new(), None, BUILT);
        timeline.claim(wrong);
        timeline.claim(present);
        assert_eq!(timeline.observe(at(0, present.0, false)), None);
        assert_eq!((timeline.floor(), timeline.proven(at(0, 0, false))), (wrong, BUILT));
        let saved = timeline.save();
        assert_eq!((saved.floor, saved.claimed), (BUILT, Some(wrong)));

        let mut timeline = Timeline::new(boot(2), BTreeMap::new(), Some(saved.floor), BUILT).with_claim(saved.claimed);
        assert_eq!(timeline.floor(), wrong);
        let saved = timeline.observe(at(0, present.0, true)).unwrap();
        assert_eq!((saved.floor, saved.claimed, timeline.floor()), (present, None, present));
        // As signers' clocks differ.
        timeline.claim(Unix(present.0 + 60_000));
        timeline.observe(at(1, present.0 + 1, true));
        assert_eq!(timeline.floor(), Unix(present.0 + 60_000));
    }

    #[test]
    fn a_time_that_was_ahead_counts_until_a_trusted_clock_says_otherwise_and_is_told() {
        const YEAR_MS: i64 = 365 * 86_400_000;
        let present = 1_800_000_000_000;
        let mut timeline = Timeline::new(boot(1), BTreeMap::new(), None, BUILT);
        timeline.observe(at(0, present + YEAR_MS, true));
        let ahead = Unix(present + YEAR_MS);
        for (unix, proven) in [(0, ahead), (present, BUILT), (ahead.0, ahead)] {
            let now = at(1, unix, false);
            assert_eq!(timeline.observe(now), None);
            assert_eq!((timeline.floor(), timeline.proven(now)), (ahead, proven), "a clock that reads {unix}");
        }
        let saved = timeline.save();
        let mut timeline = Timeline::new(boot(1), BTreeMap::new(), Some(saved.floor), BUILT);
        assert_eq!(timeline.floor(), ahead);
        let saved = timeline.observe(at(0, present, true)).unwrap();
        assert_eq!((timeline.floor(), saved.floor), (Unix(present), Unix(present)));
        assert_eq!(saved.set_back, Some(Duration::from_millis(YEAR_MS.unsigned_abs())));
        assert_eq!(timeline.observe(at(1, present + 1, true)), None);
    }

    #[test]
    fn a_stamp_of_an_older_boot_is_dated_by_that_boots_anchor() {
        let anchors = BTreeMap::from([(boot(1), Anchor(Unix(5_000)))]);
        let timeline = Timeline::new(boot(2), anchors, None, BUILT);
        assert_eq!(timeline.date(Stamp { boot: boot(1), mono: Mono(7) }), Some(Unix(5_007)));
        assert_eq!(timeline.date(Stamp { boot: boot(9), mono: Mono(7) }), None);
    }

    #[test]
    fn age_over_a_reboot_without_a_clock_is_at_least_the_uptime() {
        let timeline = Timeline::new(boot(2), BTreeMap::new(), None, BUILT);
        let old = Stamp { boot: boot(1), mono: Mono(99_000) };
        let now = at(4_000, 0, false);
        assert_eq!((timeline.age(old, now), timeline.known_age(old, now)), (Duration::from_secs(4), None));
    }

    #[test]
    fn age_over_a_reboot_is_by_the_dates_where_both_boots_have_them_and_do_not_contradict() {
        let old = Stamp { boot: boot(1), mono: Mono(1_000) };
        for (began, age_s) in [(2_000, 5), (900_000, 60)] {
            let anchors = BTreeMap::from([(boot(1), Anchor(Unix(BUILT.0 + began)))]);
            let mut timeline = Timeline::new(boot(2), anchors, None, BUILT);
            let now = at(60_000, BUILT.0 + 8_000, true);
            timeline.observe(now);
            assert_eq!(timeline.age(old, now), Duration::from_secs(age_s), "that boot began at {began}");
        }
    }

    #[test]
    fn anchors_are_bounded_and_the_oldest_boot_is_forgotten_first() {
        let anchors = (0..100).map(|n| (boot(n), Anchor(Unix(i64::from(n) * 1_000)))).collect();
        let mut timeline = Timeline::new(boot(200), anchors, None, BUILT);
        let saved = timeline.observe(at(0, 1_800_000_000_000, true)).unwrap();
        assert_eq!(saved.forget.len(), 101 - ANCHORS_MAX);
        assert!(saved.forget.contains(&boot(0)) && !saved.forget.contains(&boot(99)));
    }
}
