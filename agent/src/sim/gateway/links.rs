//! The ways out: coverage that comes and goes, and what a kernel and a modem would say of each interface, of those that
//! the configuration chooses. Which of them the agent's packets go over is the world's business, whatever is told of
//! them here.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::dice::Dice;
use super::super::network::millis;
use super::super::scenario::LinkWorld;
use crate::config::CollectLink;
use crate::engine::metric::{Metric, Point};

/// Bytes a second that come over the link with the route, besides the agent's; a quarter of that goes out.
const TRAFFIC: u64 = 200;
/// The weakest and the strongest RSRP: no signal at all, and all of it.
const RSRP_DBM: (f64, f64) = (-140.0, -70.0);

/// A way out: the first that has coverage carries the route.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) world: LinkWorld,
    gap: Gap,
    /// Of this boot: how long it carried the route, and how often its coverage came or went.
    carried_ms: u64,
    carrier_changes: u64,
}

/// What it waits for: the end of a gap, or the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    /// Always covered.
    Never,
    /// The next begins then.
    Next(u64),
    /// This one ends then.
    Until(u64),
}

impl Link {
    pub(super) fn new(world: &LinkWorld, dice: &mut Dice) -> Self {
        let mut link = Self { world: world.clone(), gap: Gap::Never, carried_ms: 0, carrier_changes: 0 };
        link.wait(0, false, dice);
        link
    }

    pub(super) const fn is_covered(&self) -> bool {
        !matches!(self.gap, Gap::Until(_))
    }

    /// When its coverage changes.
    pub(super) const fn next_change(&self) -> Option<u64> {
        match self.gap {
            Gap::Never => None,
            Gap::Next(at) | Gap::Until(at) => Some(at),
        }
    }

    pub(super) fn advance(&mut self, at: u64, calm: bool, dice: &mut Dice) {
        match self.gap {
            Gap::Next(due) if due <= at => {
                let (low, high) = self.world.gaps.map_or((Duration::ZERO, Duration::ZERO), |gaps| gaps.lasts);
                self.gap = Gap::Until(at + millis(dice.between(low, high)).max(1_000));
                self.carrier_changes += 1;
            }
            Gap::Until(due) if due <= at => {
                self.wait(at, calm, dice);
                self.carrier_changes += 1;
            }
            _ => {}
        }
    }

    /// It has carried the route for so much longer.
    pub(super) const fn carried(&mut self, ms: u64) {
        self.carried_ms = self.carried_ms.saturating_add(ms);
    }

    /// The machine came up: the kernel counts anew.
    pub(super) const fn booted(&mut self) {
        (self.carried_ms, self.carrier_changes) = (0, 0);
    }

    /// A gap ends now.
    pub(super) const fn heal(&mut self, at: u64) {
        self.gap = Gap::Until(at);
    }

    /// From here on there are no gaps.
    pub(super) const fn calm(&mut self, at: u64) {
        self.gap = if self.is_covered() { Gap::Never } else { Gap::Until(at) };
    }

    /// For the next gap.
    fn wait(&mut self, at: u64, calm: bool, dice: &mut Dice) {
        self.gap = match self.world.gaps.filter(|_| !calm) {
            Some(gaps) => Gap::Next(at + millis(dice.until_next(gaps.every)).max(1_000)),
            None => Gap::Never,
        };
    }

    fn is_modem(&self) -> bool {
        self.world.kind == "cellular"
    }

    /// As the kernel counts them: the readings of [`Metric::LINK_COUNTERS`]. Nothing in this world goes wrong on a
    /// wire.
    const fn counters(&self) -> [u64; 7] {
        let rx_bytes = self.carried_ms * TRAFFIC / 1_000;
        [rx_bytes, rx_bytes / 4, 0, 0, 0, 0, self.carrier_changes]
    }

    fn observe(&self, dice: &mut Dice, points: &mut Vec<Point>) {
        let up = self.is_covered();
        points.push(Point::new(Metric::LinkInterface, self.world.interface.as_str()));
        points.push(Point::new(Metric::LinkType, self.world.kind.as_str()));
        points.push(Point::new(Metric::LinkUp, up));
        if let Some(best) = self.world.rssi_dbm.filter(|_| up) {
            let dbm = (best - 4.0 + dice.normal() * 2.0).round();
            if self.is_modem() {
                observe_signal(dbm, points);
            } else {
                points.push(Point::new(Metric::LinkRssi, dbm));
            }
        }
        if self.is_modem() {
            points.push(Point::new(Metric::LinkRat, "lte"));
            points.push(Point::new(Metric::LinkOperator, "Simulated"));
            points.push(Point::new(Metric::LinkRegistration, if up { "home" } else { "searching" }));
        }
        let counters = Metric::LINK_COUNTERS.into_iter().zip(self.counters());
        points.extend(counters.map(|((metric, _), count)| Point::new(metric, count)));
    }

    fn observe_by_name(&self, points: &mut Vec<Point>) {
        let (name, up) = (self.world.interface.as_str(), self.is_covered());
        points.push(Point::labelled(Metric::InterfaceType, name, self.world.kind.as_str()));
        points.push(Point::labelled(Metric::InterfaceUp, name, up));
        if let Some(best) = self.world.rssi_dbm.filter(|_| up && self.world.kind == "wifi") {
            points.push(Point::labelled(Metric::InterfaceRssi, name, best.round()));
        }
        let counters = Metric::LINK_COUNTERS.into_iter().zip(self.counters());
        points.extend(counters.map(|((_, metric), count)| Point::labelled(metric, name, count)));
    }
}

/// A round of the link's collector: the link with the route, and each that is chosen by its name.
pub(super) fn observe(links: &[Link], config: &CollectLink, dice: &mut Dice, points: &mut Vec<Point>) {
    let named = &config.interfaces;
    let find = |name: &String| links.iter().find(|link| link.world.interface == *name);
    let chosen = || links.iter().filter(|link| named.is_empty() || named.contains(&link.world.interface));
    // One that is named is told of without a route, too.
    let without_route = || named.iter().find_map(find);
    match chosen().find(|link| link.is_covered()).or_else(without_route) {
        Some(link) => link.observe(dice, points),
        None => {
            points.push(Point::new(Metric::LinkType, "none"));
            points.push(Point::new(Metric::LinkUp, false));
        }
    }
    let names: BTreeSet<&String> =
        chosen().map(|link| &link.world.interface).chain(named).chain(config.monthly_budget.keys()).collect();
    for name in names {
        match find(name) {
            Some(link) => link.observe_by_name(points),
            None => points.push(Point::labelled(Metric::InterfaceUp, name, false)),
        }
    }
}

/// What ModemManager says of a signal: all of it follows from how much there is of it.
fn observe_signal(rsrp_dbm: f64, points: &mut Vec<Point>) {
    let (weakest, strongest) = RSRP_DBM;
    let share = ((rsrp_dbm - weakest) / (strongest - weakest)).clamp(0.0, 1.0);
    points.push(Point::new(Metric::LinkRsrp, rsrp_dbm));
    points.push(Point::new(Metric::LinkRsrq, (share * 14.0 - 19.0).round()));
    points.push(Point::new(Metric::LinkSinr, (share * 30.0 - 5.0).round()));
    points.push(Point::new(Metric::LinkSignalQuality, (share * 100.0).round()));
}
