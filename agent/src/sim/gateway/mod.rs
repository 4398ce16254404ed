//! The machine around the agent: battery, links, units, releases, memory, error lines. It answers a round of collection as
//! the real collectors would, carries out acts, and changes by itself as time goes by. It knows nothing of the agent.

mod lines;
mod power;
mod units;

use std::collections::BTreeMap;
use std::time::Duration;

use super::dice::Dice;
use super::network::millis;
use super::scenario::{FaultKind, HostWorld, LinkWorld, ReleaseWorld, Scenario};
use crate::audit;
use crate::config::{CheckedConfig, QuarantineLevel, UnitName};
use crate::engine::io::{Act, ActOutcome};
use crate::engine::metric::{Metric, Point};
use crate::engine::observation::{self, ErrorBatch, Finding, Observation};
use crate::engine::time::BootId;
use lines::Lines;
use power::Battery;
use units::Units;

/// How long acts take that no scenario says more of.
const LINK_TAKES: Duration = Duration::from_secs(4);
const ROLLBACK_TAKES: Duration = Duration::from_secs(10);
const RUNBOOK_TAKES: Duration = Duration::from_secs(5);
const OTHER_TAKES: Duration = Duration::from_secs(1);
/// How often a link that is taken down and up finds a cell again.
const LINK_HEALS: f64 = 0.3;
/// Memory beyond which the kernel kills the process that has most.
const OOM_PCT: f64 = 98.0;
/// Nights are colder by this.
const NIGHT_COLDER_C: f64 = 15.0;
/// Bytes a second that pass over the link besides the agent's.
const TRAFFIC: u64 = 200;

/// The machine.
#[derive(Debug)]
pub(super) struct Gateway {
    host: HostWorld,
    links: Vec<Link>,
    dice: Dice,
    battery: Option<Battery>,
    units: Units,
    releases: Vec<Release>,
    lines: Lines,
    booted_at: u64,
    up: bool,
    calm: bool,
    day_offset_ms: u64,
    /// Faults that last.
    faults: Vec<FaultKind>,
    /// Acts that have begun, by the world's token.
    begun: BTreeMap<u64, Act>,
    /// What a quarantine stops.
    stop_units: Vec<UnitName>,
    disk: Option<Space>,
}

/// A way out: the first that has coverage carries the route.
#[derive(Debug)]
struct Link {
    world: LinkWorld,
    /// What it waits for: the end of a gap, or the next.
    gap: Gap,
}

/// A file system.
#[derive(Debug, Clone, Copy)]
struct Space {
    bytes: u64,
    free: u64,
}

#[derive(Debug)]
struct Release {
    world: ReleaseWorld,
    running: String,
    previous: String,
    update_at: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    /// Always covered.
    Never,
    /// The next begins then.
    Next(u64),
    /// This one ends then.
    Until(u64),
}

/// An act that has begun.
#[derive(Debug)]
pub(super) struct Performed {
    /// How long it takes.
    pub(super) takes: Duration,
    /// How it will end if nobody cancels it.
    pub(super) outcome: ActOutcome,
}

impl Gateway {
    pub(super) fn new(scenario: &Scenario, config: &CheckedConfig, mut dice: Dice) -> Self {
        let releases = scenario.releases.iter().map(|world| Release {
            running: world.running.clone(),
            previous: world.previous.clone(),
            update_at: world.update.as_ref().map(|(_, at)| millis(*at)),
            world: world.clone(),
        });
        let day_ms = 86_400_000;
        let mut gateway = Self {
            host: scenario.host.clone(),
            links: scenario.links.iter().map(|world| Link { world: world.clone(), gap: Gap::Never }).collect(),
            battery: scenario.battery.clone().map(|world| Battery::new(world, dice.fork())),
            units: Units::new(&scenario.units, dice.fork()),
            releases: releases.collect(),
            lines: Lines::new(&scenario.errors, config.collect.errors.min_severity, dice.fork()),
            booted_at: 0,
            up: false,
            calm: false,
            day_offset_ms: u64::try_from(scenario.starts.0.rem_euclid(day_ms)).unwrap_or(0),
            faults: Vec::new(),
            begun: BTreeMap::new(),
            stop_units: config.quarantine.stop_units.clone(),
            disk: None,
            dice,
        };
        let Self { links, dice, .. } = &mut gateway;
        links.iter_mut().for_each(|link| link.wait(0, false, dice));
        gateway
    }

    /// Lives up to a time.
    pub(super) fn advance(&mut self, at: u64) {
        if let Some(battery) = &mut self.battery {
            battery.advance(at, self.day_offset_ms, self.up);
        }
        let (dice, calm) = (&mut self.dice, self.calm);
        self.links.iter_mut().for_each(|link| link.advance(at, calm, dice));
        if !self.up {
            return;
        }
        for release in &mut self.releases {
            if release.update_at.is_some_and(|due| due <= at) {
                release.update_at = None;
                if let Some((to, _)) = &release.world.update {
                    release.previous = std::mem::replace(&mut release.running, to.clone());
                    self.units.restart(at, &release.world.unit);
                }
            }
            self.units.set_bad(&release.world.unit, release.world.bad.contains(&release.running), at);
        }
        let failed = self.units.advance(at);
        for unit in failed {
            self.lines.unit_failed(at, &unit);
        }
        if self.mem_used_pct(at) > OOM_PCT {
            if let Some(unit) = self.units.biggest(at) {
                self.lines.oom_kill(at, &unit);
                self.lines.unit_failed(at, &unit);
                self.units.restart(at, &unit);
            }
        }
        self.lines.advance(at);
    }

    /// Somebody looks at what has changed.
    pub(super) fn look(&mut self, at: u64) {
        self.advance(at);
        self.battery.iter_mut().for_each(|battery| battery.looked(at));
    }

    /// When something changes by itself that somebody could see.
    pub(super) fn next_change(&self) -> Option<u64> {
        let gap = self.links.iter().filter_map(|link| match link.gap {
            Gap::Never => None,
            Gap::Next(at) | Gap::Until(at) => Some(at),
        });
        let gap = gap.min();
        let power = self.battery.as_ref().map(Battery::next_look);
        let running = [
            self.units.next_change(),
            self.lines.next_due(),
            self.releases.iter().filter_map(|release| release.update_at).min(),
        ];
        let running = running.into_iter().flatten().min().filter(|_| self.up);
        [gap, power, running].into_iter().flatten().min()
    }

    /// A round of collection.
    pub(super) fn observe(&mut self, at: u64) -> Observation {
        let mut points = Vec::with_capacity(32);
        match &mut self.battery {
            Some(battery) => battery.observe(&mut points),
            None => points.push(Point::new(Metric::BatteryPresent, false)),
        }
        self.observe_links(at, &mut points);
        self.observe_host(at, &mut points);
        for fault in &self.faults {
            match fault {
                FaultKind::SensorGone { metric } => {
                    points.retain(|point| {
                        let path = point.metric.path();
                        if metric.ends_with('.') { !path.starts_with(metric.as_str()) } else { path != metric }
                    });
                }
                FaultKind::SensorLies { metric, value } => {
                    for point in points.iter_mut().filter(|point| point.metric.path() == metric) {
                        point.value = (*value).into();
                    }
                }
                _ => {}
            }
        }
        let release = |Release { world, running, .. }: &Release| observation::Release {
            target: world.target.clone(),
            name: running.clone(),
        };
        Observation { points, releases: self.releases.iter().map(release).collect(), ..Observation::default() }
    }

    /// What an auditor would say of it, with this configuration.
    pub(super) fn audit(&mut self, at: u64, config: &CheckedConfig) -> Vec<Finding> {
        let seen = self.observe(at);
        let failed = self.units.failed().map(ToString::to_string).collect();
        audit::judge(config, &seen, &Ok(failed))
    }

    /// Lines that are due and were not read yet.
    pub(super) fn take_errors(&mut self, at: u64) -> Option<ErrorBatch> {
        if self.up {
            self.lines.advance(at);
        }
        self.lines.take()
    }

    /// An agent begins to read behind this cursor.
    pub(super) fn read_errors_from(&mut self, cursor: Option<&str>) {
        self.lines.seek(cursor);
    }

    /// An act begins.
    pub(super) fn act(&mut self, token: u64, act: &Act) -> Performed {
        self.begun.insert(token, act.clone());
        let done = |takes, what: &str| Performed { takes, outcome: ActOutcome::succeeded(what) };
        match act {
            Act::RestartUnit { unit } => match self.units.starts_in(unit) {
                Some(takes) => done(takes, "active"),
                None => Performed {
                    takes: OTHER_TAKES,
                    outcome: ActOutcome::failed("no_such_unit", format!("systemd knows no unit {unit}")),
                },
            },
            Act::Rollback { target, .. } if self.release(target).is_none() => {
                let detail = format!("there is no release directory for {target}");
                Performed { takes: OTHER_TAKES, outcome: ActOutcome::failed("no_such_target", detail) }
            }
            Act::Rollback { .. } => done(ROLLBACK_TAKES, "back to the release before"),
            Act::RestartLink { interface } => {
                if self.links.iter().any(|link| link.world.interface == *interface) {
                    return done(LINK_TAKES, "down and up");
                }
                let detail = format!("there is no interface {interface}");
                Performed { takes: OTHER_TAKES, outcome: ActOutcome::failed("no_such_interface", detail) }
            }
            Act::Run { .. } => done(RUNBOOK_TAKES, "exit code 0"),
            Act::Reboot
            | Act::MarkGood { .. }
            | Act::Quarantine { .. }
            | Act::Refresh { .. }
            | Act::CollectDiagnostics
            | Act::SavePower => done(OTHER_TAKES, "done"),
        }
    }

    /// An act takes effect.
    pub(super) fn finish(&mut self, at: u64, token: u64) {
        match self.begun.remove(&token) {
            Some(Act::RestartUnit { unit }) => self.units.restart_by_order(at, &unit),
            Some(Act::RestartLink { interface }) => {
                let dice = &mut self.dice;
                let link = self.links.iter_mut().find(|link| link.world.interface == interface);
                if let Some(link) = link.filter(|link| !link.is_covered() && dice.happens(LINK_HEALS)) {
                    link.gap = Gap::Until(at);
                }
            }
            Some(Act::Rollback { target, to }) => self.roll_back(at, &target, to),
            Some(Act::Quarantine { level }) => self.quarantine(at, level),
            Some(
                Act::Run { .. }
                | Act::Reboot
                | Act::MarkGood { .. }
                | Act::Refresh { .. }
                | Act::CollectDiagnostics
                | Act::SavePower,
            )
            | None => {}
        }
    }

    /// An act ends without an effect: it was canceled, or the machine went down.
    pub(super) fn abandon(&mut self, token: u64) {
        self.begun.remove(&token);
    }

    /// The machine comes up.
    pub(super) fn booted(&mut self, at: u64, boot: BootId) {
        self.up = true;
        self.booted_at = at;
        self.units.start_all(at);
        self.lines.booted(at, boot);
    }

    /// The machine goes down.
    pub(super) fn went_down(&mut self) {
        self.up = false;
        self.begun.clear();
    }

    /// Whether there is power for it.
    pub(super) fn powered(&self) -> bool {
        self.battery.as_ref().is_none_or(Battery::carries)
    }

    /// The link that carries the route, by its place: the first that has coverage.
    pub(super) fn route(&self) -> Option<usize> {
        self.links.iter().position(Link::is_covered)
    }

    /// The release that runs.
    pub(super) fn firmware(&self) -> Option<String> {
        self.releases.first().map(|release| release.running.clone())
    }

    /// The battery as it is: charge and state.
    pub(super) fn battery(&self) -> Option<(f64, &'static str)> {
        self.battery.as_ref().map(|battery| (battery.charge_pct(), battery.state()))
    }

    /// How full the disk is, as the world knows it.
    pub(super) const fn disk_is(&mut self, bytes: u64, free: u64) {
        self.disk = Some(Space { bytes, free });
    }

    pub(super) fn begin_fault(&mut self, at: u64, kind: &FaultKind) {
        self.advance(at);
        match kind {
            FaultKind::UnitFails { unit } => self.units.fail(at, unit),
            FaultKind::ErrorStorm { per_second, kinds, severity } => {
                self.lines.storm_begins(at, *per_second, *kinds, *severity);
            }
            FaultKind::NoPower
            | FaultKind::SensorLies { .. }
            | FaultKind::SensorGone { .. }
            | FaultKind::MemoryPressure { .. }
            | FaultKind::Heat { .. } => self.faults.push(kind.clone()),
            _ => {}
        }
        self.follow_mains();
    }

    pub(super) fn end_fault(&mut self, at: u64, kind: &FaultKind) {
        self.advance(at);
        match kind {
            FaultKind::ErrorStorm { per_second, kinds, severity } => {
                self.lines.storm_ends(*per_second, *kinds, *severity);
            }
            _ => {
                if let Some(index) = self.faults.iter().position(|fault| fault == kind) {
                    self.faults.remove(index);
                }
            }
        }
        self.follow_mains();
    }

    /// Mains and sun are gone for as long as one fault says so.
    fn follow_mains(&mut self) {
        let cut_off = self.faults.contains(&FaultKind::NoPower);
        self.battery.iter_mut().for_each(|battery| battery.cut_off(cut_off));
    }

    /// From here on nothing goes wrong by chance, and there is power: a machine that stays off can't show that it comes back.
    pub(super) fn calm(&mut self, at: u64) {
        self.calm = true;
        self.battery.iter_mut().for_each(Battery::nurse);
        self.units.calm();
        for link in &mut self.links {
            link.gap = if link.is_covered() { Gap::Never } else { Gap::Until(at) };
        }
    }

    fn observe_links(&mut self, at: u64, points: &mut Vec<Point>) {
        self.observe_interfaces(points);
        let route = self.route();
        let up = route.is_some();
        let seconds = at.saturating_sub(self.booted_at) / 1_000;
        let Some(Link { world: link, .. }) = self.links.get(route.unwrap_or(0)) else { return };
        points.push(Point::new(Metric::LinkType, if up { link.kind.as_str() } else { "none" }));
        points.push(Point::new(Metric::LinkUp, up));
        if !up {
            return;
        }
        points.push(Point::new(Metric::LinkInterface, link.interface.as_str()));
        if let Some(best) = link.rssi_dbm {
            let rssi = (best - 4.0 + self.dice.normal() * 2.0).round();
            let metric = if link.kind == "cellular" { Metric::LinkRsrp } else { Metric::LinkRssi };
            points.push(Point::new(metric, rssi));
        }
        points.push(Point::new(Metric::LinkRxBytes, seconds * TRAFFIC));
        points.push(Point::new(Metric::LinkTxBytes, seconds * TRAFFIC / 4));
    }

    /// Each by its name, where there are more than one: else it would say the same twice.
    fn observe_interfaces(&mut self, points: &mut Vec<Point>) {
        for link in self.links.iter().filter(|_| self.links.len() > 1) {
            let (name, up) = (link.world.interface.as_str(), link.is_covered());
            points.push(Point::labelled(Metric::InterfaceType, name, link.world.kind.as_str()));
            points.push(Point::labelled(Metric::InterfaceUp, name, up));
            if let Some(best) = link.world.rssi_dbm.filter(|_| up && link.world.kind == "wifi") {
                points.push(Point::labelled(Metric::InterfaceRssi, name, best.round()));
            }
        }
    }

    fn observe_host(&mut self, at: u64, points: &mut Vec<Point>) {
        let cpu = (self.host.cpu_pct + self.dice.normal() * 2.0).clamp(0.0, 100.0);
        let mem = self.mem_used_pct(at);
        let heat: f64 =
            self.faults.iter().map(|fault| if let FaultKind::Heat { by_c } = fault { *by_c } else { 0.0 }).sum();
        let noon = power::daylight(at + self.day_offset_ms, Duration::from_secs(12 * 3_600));
        let temperature = self.host.temperature_c - NIGHT_COLDER_C * (1.0 - noon) + heat;
        points.push(Point::new(Metric::HostCpu, tenths(cpu)));
        points.push(Point::new(Metric::HostLoad1, tenths(cpu / 50.0)));
        points.push(Point::new(Metric::HostMemUsed, tenths(mem)));
        points.push(Point::new(Metric::HostTemperature, temperature.round()));
        if let Some(Space { bytes, free }) = self.disk {
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            let used = (bytes.saturating_sub(free)) as f64 * 100.0 / bytes.max(1) as f64;
            points.push(Point::labelled(Metric::HostDiskUsed, "/", tenths(used)));
            points.push(Point::labelled(Metric::HostDiskFree, "/", free));
        }
    }

    fn mem_used_pct(&self, at: u64) -> f64 {
        let pressure: f64 = self
            .faults
            .iter()
            .map(|fault| if let FaultKind::MemoryPressure { pct } = fault { *pct } else { 0.0 })
            .sum();
        (self.host.mem_used_pct + pressure + self.units.leaked_pct(at)).clamp(0.0, 100.0)
    }

    fn release(&self, target: &str) -> Option<&Release> {
        self.releases.iter().find(|release| release.world.target == target)
    }

    fn roll_back(&mut self, at: u64, target: &str, to: Option<String>) {
        let Some(release) = self.releases.iter_mut().find(|release| release.world.target == target) else { return };
        let to = to.unwrap_or_else(|| release.previous.clone());
        release.previous = std::mem::replace(&mut release.running, to);
        let bad = release.world.bad.contains(&release.running);
        self.units.set_bad(&release.world.unit, bad, at);
        self.units.restart(at, &release.world.unit);
    }

    /// The broker stays within reach, and there is nothing else to reach in this world: what shows is what is stopped.
    fn quarantine(&mut self, at: u64, level: Option<QuarantineLevel>) {
        let stops = matches!(level, Some(QuarantineLevel::Restrict | QuarantineLevel::Isolate));
        for unit in &self.stop_units {
            if stops { self.units.stop(unit) } else { self.units.let_go(at, unit) }
        }
    }
}

impl Link {
    const fn is_covered(&self) -> bool {
        !matches!(self.gap, Gap::Until(_))
    }

    /// For the next gap.
    fn wait(&mut self, at: u64, calm: bool, dice: &mut Dice) {
        self.gap = match self.world.gaps.filter(|_| !calm) {
            Some(gaps) => Gap::Next(at + millis(dice.until_next(gaps.every)).max(1_000)),
            None => Gap::Never,
        };
    }

    fn advance(&mut self, at: u64, calm: bool, dice: &mut Dice) {
        match self.gap {
            Gap::Next(due) if due <= at => {
                let (low, high) = self.world.gaps.map_or((Duration::ZERO, Duration::ZERO), |gaps| gaps.lasts);
                self.gap = Gap::Until(at + millis(dice.between(low, high)).max(1_000));
            }
            Gap::Until(due) if due <= at => self.wait(at, calm, dice),
            _ => {}
        }
    }
}

/// What sensors resolve.
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests;
