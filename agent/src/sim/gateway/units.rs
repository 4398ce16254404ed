//! systemd units that fail, hang, leak, and start again: by systemd's own doing or because somebody restarts them.

use std::time::Duration;

use super::super::dice::Dice;
use super::super::network::millis;
use super::super::scenario::UnitWorld;
use crate::config::UnitName;

/// A unit that a restart did not heal, or that runs a bad release, fails again within this.
const SICK_FAILS_WITHIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// The units.
#[derive(Debug)]
pub(super) struct Units {
    units: Vec<Unit>,
    dice: Dice,
    calm: bool,
}

/// What a unit does by itself, and systemd writes into the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// It failed.
    Failed,
    /// systemd starts it again.
    Restarted,
}

#[derive(Debug)]
struct Unit {
    world: UnitWorld,
    up: bool,
    /// What it runs is bad: no restart heals it.
    bad: bool,
    /// What happens next by itself: it fails while it is up, systemd starts it while it is down.
    changes_at: Option<u64>,
    leaks_since: u64,
    /// A quarantine keeps it down.
    stopped: bool,
}

impl Units {
    pub(super) fn new(worlds: &[UnitWorld], dice: Dice) -> Self {
        let unit = |world: &UnitWorld| Unit {
            world: world.clone(),
            up: false,
            bad: false,
            changes_at: None,
            leaks_since: 0,
            stopped: false,
        };
        Self { units: worlds.iter().map(unit).collect(), dice, calm: false }
    }

    /// The machine came up.
    pub(super) fn start_all(&mut self, at: u64) {
        for unit in &mut self.units {
            unit.start(at, &mut self.dice, self.calm, true);
        }
    }

    /// Lives up to a time; what units did on the way, as often as they did. Of one that hangs nobody learns that.
    pub(super) fn advance(&mut self, at: u64) -> Vec<(UnitName, What)> {
        let mut done = Vec::new();
        for unit in &mut self.units {
            while let Some(due) = unit.changes_at.filter(|due| *due <= at) {
                let what = if unit.up { What::Failed } else { What::Restarted };
                match what {
                    What::Failed => unit.fail(due),
                    What::Restarted => unit.start(due, &mut self.dice, self.calm, false),
                }
                if what == What::Restarted || !unit.world.hangs {
                    done.push((unit.world.unit.clone(), what));
                }
            }
        }
        done
    }

    /// Those that are down and that nobody stopped.
    pub(super) fn failed(&self) -> impl Iterator<Item = &UnitName> {
        self.units.iter().filter(|unit| !unit.up && !unit.stopped).map(|unit| &unit.world.unit)
    }

    pub(super) fn next_change(&self) -> Option<u64> {
        self.units.iter().filter_map(|unit| unit.changes_at).min()
    }

    /// Somebody restarts it. A hundred percent of what it leaked comes back.
    pub(super) fn restart(&mut self, at: u64, name: &UnitName) {
        let (dice, calm) = (&mut self.dice, self.calm);
        if let Some(unit) = self.units.iter_mut().find(|unit| unit.world.unit == *name) {
            unit.start(at, dice, calm, false);
        }
    }

    /// Somebody has systemd restart it, which also starts what a quarantine has stopped.
    pub(super) fn restart_by_order(&mut self, at: u64, name: &UnitName) {
        self.units.iter_mut().filter(|unit| unit.world.unit == *name).for_each(|unit| unit.stopped = false);
        self.restart(at, name);
    }

    /// It fails now.
    pub(super) fn fail(&mut self, at: u64, name: &UnitName) {
        if let Some(unit) = self.units.iter_mut().find(|unit| unit.world.unit == *name && !unit.stopped) {
            unit.changes_at = Some(at);
            unit.up = true;
        }
    }

    /// It goes down, and stays so until it is let go.
    pub(super) fn stop(&mut self, name: &UnitName) {
        for unit in self.units.iter_mut().filter(|unit| unit.world.unit == *name) {
            (unit.stopped, unit.up, unit.changes_at) = (true, false, None);
        }
    }

    /// It is started again, if it was stopped.
    pub(super) fn let_go(&mut self, at: u64, name: &UnitName) {
        let (dice, calm) = (&mut self.dice, self.calm);
        for unit in self.units.iter_mut().filter(|unit| unit.world.unit == *name && unit.stopped) {
            unit.stopped = false;
            unit.start(at, dice, calm, true);
        }
    }

    /// What it runs is bad, or good again.
    pub(super) fn set_bad(&mut self, name: &UnitName, bad: bool, at: u64) {
        for unit in self.units.iter_mut().filter(|unit| unit.world.unit == *name && unit.bad != bad) {
            unit.bad = bad;
            if bad && unit.up {
                unit.changes_at = Some(at + millis(SICK_FAILS_WITHIN.0));
            }
        }
    }

    /// How long a restart takes; `None`: there is no such unit.
    pub(super) fn starts_in(&self, name: &UnitName) -> Option<Duration> {
        self.units.iter().find(|unit| unit.world.unit == *name).map(|unit| unit.world.starts_in)
    }

    pub(super) fn leaked_pct(&self, at: u64) -> f64 {
        self.units.iter().map(|unit| unit.leaked_pct(at)).sum()
    }

    /// The unit that has leaked most.
    pub(super) fn biggest(&self, at: u64) -> Option<UnitName> {
        let leaking = self.units.iter().filter(|unit| unit.leaked_pct(at) > 0.0);
        let most = leaking.max_by(|a, b| a.leaked_pct(at).total_cmp(&b.leaked_pct(at)));
        most.map(|unit| unit.world.unit.clone())
    }

    /// From here on none fails by chance.
    pub(super) fn calm(&mut self) {
        self.calm = true;
        for unit in self.units.iter_mut().filter(|unit| unit.up && !unit.bad) {
            unit.changes_at = None;
        }
    }
}

impl Unit {
    fn fail(&mut self, at: u64) {
        self.up = false;
        self.changes_at = self.world.restarts_itself.map(|after| at + millis(after).max(1));
    }

    fn start(&mut self, at: u64, dice: &mut Dice, calm: bool, fresh: bool) {
        if self.stopped {
            return;
        }
        self.up = true;
        self.leaks_since = at;
        let sick = self.bad || (!fresh && !calm && !dice.happens(self.world.restart_heals));
        let (low, high) = SICK_FAILS_WITHIN;
        self.changes_at = if sick {
            Some(at + millis(dice.between(low, high)))
        } else {
            self.world.fails.filter(|_| !calm).map(|mean| at + millis(dice.until_next(mean)).max(1_000))
        };
    }

    fn leaked_pct(&self, at: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a year")]
        let hours = at.saturating_sub(self.leaks_since) as f64 / 3_600_000.0;
        if self.stopped { 0.0 } else { hours * self.world.leaks_pct_per_hour }
    }
}
