//! The machine around the agent: battery, links, units, releases, memory, error lines. It answers a round of collection
//! as the real collectors would, carries out acts, and changes by itself as time goes by. It knows nothing of the
//! agent.

mod host;
mod lines;
mod links;
mod moved;
mod power;
mod units;

use std::collections::BTreeMap;
use std::time::Duration;

use super::dice::Dice;
use super::network::millis;
use super::scenario::{FaultKind, HostWorld, ReleaseWorld, Scenario};
use crate::audit;
use crate::config::{CheckedConfig, Collect, QuarantineLevel, RollbackKind, UnitName};
use crate::engine::io::{Act, ActOutcome, ActStatus, Ending};
use crate::engine::metric::{Metric, Point};
use crate::engine::observation::{self, Audited, ErrorBatch, Observation};
use crate::engine::time::BootId;
use crate::helper::Policy;
use lines::Lines;
use links::Link;
pub use moved::Unmoved;
pub(super) use moved::unmoved;
use power::Battery;
use units::{Units, What};

/// How long acts take that no scenario says more of.
const LINK_TAKES: Duration = Duration::from_secs(4);
const ROLLBACK_TAKES: Duration = Duration::from_secs(10);
const RUNBOOK_TAKES: Duration = Duration::from_secs(5);
const OTHER_TAKES: Duration = Duration::from_secs(1);
/// How often a link that is taken down and up finds a cell again.
const LINK_HEALS: f64 = 0.3;
/// Memory beyond which the kernel kills the process that has most.
const OOM_PCT: f64 = 98.0;

/// The machine.
#[derive(Debug)]
pub(super) struct Gateway {
    host: HostWorld,
    /// What its collectors are told to read.
    collect: Collect,
    links: Vec<Link>,
    dice: Dice,
    battery: Option<Battery>,
    units: Units,
    releases: Vec<Release>,
    lines: Lines,
    booted_at: u64,
    /// It has lived up to then.
    at: u64,
    up: bool,
    calm: bool,
    day_offset_ms: u64,
    /// Faults that last.
    faults: Vec<FaultKind>,
    /// Acts that have begun, by the world's token.
    begun: BTreeMap<u64, Act>,
    /// What a quarantine stops.
    stop_units: Vec<UnitName>,
    /// The one in force, over boots and whatever the agent forgets.
    quarantine: Option<QuarantineLevel>,
    disk: Option<Space>,
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
    /// The agent can tell which one runs: what a program of the integrator's does, it doesn't say.
    is_told: bool,
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
    /// The same, with no unit stopped that root's policy doesn't let be stopped.
    pub(super) fn under(mut self, policy: Option<&Policy>) -> Self {
        self.stop_units.retain(|unit| policy.is_none_or(|policy| policy.lets_stop(unit)));
        self
    }

    pub(super) fn new(scenario: &Scenario, config: &CheckedConfig, mut dice: Dice) -> Self {
        let is_told = |target: &String| {
            let kind = config.rollback.get(target).map(|rollback| &rollback.kind);
            kind.is_some_and(|kind| matches!(kind, RollbackKind::Slots { .. } | RollbackKind::Rauc))
        };
        let releases = scenario.releases.iter().map(|world| Release {
            running: world.running.clone(),
            previous: world.previous.clone(),
            update_at: world.update.as_ref().map(|(_, at)| millis(*at)),
            is_told: is_told(&world.target),
            world: world.clone(),
        });
        let day_ms = 86_400_000;
        Self {
            host: scenario.host.clone(),
            collect: config.collect.clone(),
            battery: scenario.battery.clone().map(|world| Battery::new(world, dice.fork())),
            units: Units::new(&scenario.units, dice.fork()),
            releases: releases.collect(),
            lines: Lines::new(&scenario.errors, &config.collect.errors, dice.fork()),
            booted_at: 0,
            at: 0,
            up: false,
            calm: false,
            day_offset_ms: u64::try_from(scenario.starts.0.rem_euclid(day_ms)).unwrap_or(0),
            faults: Vec::new(),
            begun: BTreeMap::new(),
            stop_units: config.quarantine.stopped().cloned().collect(),
            quarantine: None,
            disk: None,
            links: scenario.links.iter().map(|world| Link::new(world, &mut dice)).collect(),
            dice,
        }
    }

    /// Lives up to a time.
    pub(super) fn advance(&mut self, at: u64) {
        if let Some(battery) = &mut self.battery {
            battery.advance(at, self.day_offset_ms, self.up);
        }
        let passed = at.saturating_sub(self.at);
        self.at = self.at.max(at);
        if let Some(link) = self.links.iter_mut().filter(|_| self.up).find(|link| link.is_covered()) {
            link.carried(passed);
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
        for (unit, what) in self.units.advance(at) {
            match what {
                What::Failed => self.lines.unit_failed(at, &unit),
                What::Restarted => self.lines.unit_restarted(at, &unit),
            }
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
        let gap = self.links.iter().filter_map(Link::next_change).min();
        let power = self.battery.as_ref().map(Battery::next_look);
        let running = [
            self.units.next_change(),
            self.lines.next_due(),
            self.releases.iter().filter_map(|release| release.update_at).min(),
        ];
        let running = running.into_iter().flatten().min().filter(|_| self.up);
        [gap, power, running].into_iter().flatten().min()
    }

    /// A round of the collectors that the configuration has. `synced`: what the kernel says of its clock.
    pub(super) fn observe(&mut self, at: u64, synced: bool) -> Observation {
        let mut points = Vec::with_capacity(64);
        let temperature_c = self.temperature_c(at);
        match &mut self.battery {
            _ if !self.collect.battery.enabled => {}
            Some(battery) => battery.observe(temperature_c, &mut points),
            None => points.push(Point::new(Metric::BatteryPresent, false)),
        }
        if self.collect.link.enabled {
            links::observe(&self.links, &self.collect.link, &mut self.dice, &mut points);
        }
        if self.collect.host.enabled {
            self.observe_host(at, synced, &mut points);
        }
        host::observe_agent(&mut points);
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
        Observation { points, releases: self.told_releases(), ..Observation::default() }
    }

    /// What an auditor would say of it, with this configuration.
    pub(super) fn audit(
        &mut self,
        at: u64,
        synced: bool,
        config: &CheckedConfig,
        refused: Option<&[String]>,
    ) -> Audited {
        let seen = self.observe(at, synced);
        let failed = self.units.failed().map(ToString::to_string).collect();
        audit::judge(config, &seen, &Ok(failed), refused)
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
                    outcome: ActOutcome::failed(Ending::NoSuchUnit, format!("systemd knows no unit {unit}")),
                },
            },
            Act::Rollback { target, .. } if self.release(target).is_none() => {
                let detail = format!("there is no release directory for {target}");
                Performed { takes: OTHER_TAKES, outcome: ActOutcome::failed(Ending::NoSuchTarget, detail) }
            }
            Act::Rollback { .. } => done(ROLLBACK_TAKES, "back to the release before"),
            Act::RestartLink { interface } => {
                if self.links.iter().any(|link| link.world.interface == *interface) {
                    return done(LINK_TAKES, "down and up");
                }
                let detail = format!("there is no interface {interface}");
                Performed { takes: OTHER_TAKES, outcome: ActOutcome::failed(Ending::NoSuchInterface, detail) }
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
                    link.heal(at);
                }
            }
            Some(Act::Rollback { target, to }) => self.roll_back(at, &target, to),
            Some(Act::Quarantine { level }) => self.quarantine(at, level),
            Some(Act::Refresh { level, .. }) => self.quarantine(at, Some(level)),
            Some(Act::Run { .. } | Act::Reboot | Act::MarkGood { .. } | Act::CollectDiagnostics | Act::SavePower)
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
        self.at = at;
        self.links.iter_mut().for_each(Link::booted);
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

    /// The releases that run, of what says so.
    pub(super) fn told_releases(&self) -> Vec<observation::Release> {
        let release = |Release { world, running, .. }: &Release| observation::Release {
            target: world.target.clone(),
            name: running.clone(),
        };
        self.releases.iter().filter(|release| release.is_told).map(release).collect()
    }

    /// The release that runs.
    pub(super) fn firmware(&self) -> Option<String> {
        self.releases.first().map(|release| release.running.clone())
    }

    /// The quarantine in force.
    pub(super) const fn quarantined(&self) -> Option<QuarantineLevel> {
        self.quarantine
    }

    /// How an act has ended that put a quarantine in force, or in force again: with the level that is.
    pub(super) fn naming_level(&self, act: &Act, outcome: ActOutcome) -> ActOutcome {
        let puts_in_force = matches!(act, Act::Quarantine { level: Some(_) } | Act::Refresh { .. });
        if !puts_in_force || outcome.status != ActStatus::Succeeded {
            return outcome;
        }
        let keeps_stopped = self.quarantine > Some(QuarantineLevel::Observe) && !self.stop_units.is_empty();
        ActOutcome { quarantine: self.quarantine, keeps_stopped, ..outcome }
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

    /// From here on nothing goes wrong by chance, and there is power: a machine that stays off can't show that it comes
    /// back.
    pub(super) fn calm(&mut self, at: u64) {
        self.calm = true;
        self.battery.iter_mut().for_each(Battery::nurse);
        self.units.calm();
        self.links.iter_mut().for_each(|link| link.calm(at));
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
    /// Only leaving loosens.
    fn quarantine(&mut self, at: u64, level: Option<QuarantineLevel>) {
        self.quarantine = level.map(|level| self.quarantine.map_or(level, |now| now.max(level)));
        let stops = matches!(self.quarantine, Some(QuarantineLevel::Restrict | QuarantineLevel::Isolate));
        for unit in &self.stop_units {
            if stops { self.units.stop(unit) } else { self.units.let_go(at, unit) }
        }
    }
}

#[cfg(test)]
mod tests;
