//! Error lines, kept as a journal keeps them: an agent reads behind its cursor, and one that died before its cursor was
//! durable reads them again. The journal is bounded; what was rotated away unread is counted as missed.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::dice::Dice;
use super::super::network::millis;
use super::super::scenario::ErrorsWorld;
use crate::collect::errors::is_wanted;
use crate::config::{CollectErrors, UnitName};
use crate::engine::observation::{ErrorBatch, ErrorKind, ErrorLine, ErrorSource, Severity};
use crate::engine::time::{BootId, Mono};

/// Lines that the journal keeps.
const KEPT_MAX: usize = 4_096;
/// Lines in one batch, as the real reader gives them.
const BATCH_MAX: usize = 256;
const CURSOR: &str = "sim=";

/// The journal.
#[derive(Debug)]
pub(super) struct Lines {
    world: ErrorsWorld,
    config: CollectErrors,
    dice: Dice,
    kept: VecDeque<ErrorLine>,
    /// Number of the first that is kept.
    first: u64,
    /// Number of the next that is to be read.
    next: u64,
    /// The next ordinary line comes then.
    due: Option<u64>,
    /// Floods: each has its own lines.
    storms: Vec<Storm>,
    boot: Option<BootId>,
    booted_at: u64,
}

#[derive(Debug)]
struct Storm {
    per_second: u32,
    kinds: u32,
    severity: Severity,
    next_second: u64,
}

impl Storm {
    fn next(storm: &&mut Self) -> u64 {
        storm.next_second
    }
}

impl Lines {
    pub(super) fn new(world: &ErrorsWorld, config: &CollectErrors, dice: Dice) -> Self {
        let mut lines = Self {
            world: world.clone(),
            config: config.clone(),
            dice,
            kept: VecDeque::new(),
            first: 0,
            next: 0,
            due: None,
            storms: Vec::new(),
            boot: None,
            booted_at: 0,
        };
        lines.due = lines.next_ordinary(0);
        lines
    }

    /// The machine came up: while it was off nothing was written.
    pub(super) fn booted(&mut self, at: u64, boot: BootId) {
        (self.booted_at, self.boot) = (at, Some(boot));
        if self.due.is_some_and(|due| due < at) {
            self.due = self.next_ordinary(at);
        }
        for storm in &mut self.storms {
            storm.next_second = storm.next_second.max(at);
        }
    }

    /// Writes what is due.
    pub(super) fn advance(&mut self, at: u64) {
        while let Some(due) = self.due.filter(|due| *due <= at) {
            let kind = self.dice.below(u64::from(self.world.kinds.max(1)));
            let text = format!("sensor {kind} did not answer: I/O error");
            self.write(due, Severity::Error, ErrorKind::Plain, text, Some(format!("sensor-{kind}.service")));
            self.due = self.next_ordinary(due);
        }
        while let Some(storm) = self.storms.iter_mut().filter(|storm| storm.next_second <= at).min_by_key(Storm::next) {
            let (second, count, kinds, severity) = (storm.next_second, storm.per_second, storm.kinds, storm.severity);
            storm.next_second += 1_000;
            for n in 0..count {
                let text = format!("request failed in handler {}", n % kinds.max(1));
                self.write(second, severity, ErrorKind::Plain, text, Some("storm.service".to_owned()));
            }
        }
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.storms.iter().map(|storm| storm.next_second).chain(self.due).min()
    }

    pub(super) fn storm_begins(&mut self, at: u64, per_second: u32, kinds: u32, severity: Severity) {
        self.storms.push(Storm { per_second, kinds, severity, next_second: at });
    }

    pub(super) fn storm_ends(&mut self, per_second: u32, kinds: u32, severity: Severity) {
        let is = |storm: &Storm| (storm.per_second, storm.kinds, storm.severity) == (per_second, kinds, severity);
        if let Some(index) = self.storms.iter().position(is) {
            self.storms.remove(index);
        }
    }

    pub(super) fn unit_failed(&mut self, at: u64, unit: &UnitName) {
        let text = format!("{unit}: Main process exited, code=exited, status=1/FAILURE");
        self.write(at, Severity::Error, ErrorKind::UnitFailure, text, Some(unit.to_string()));
    }

    pub(super) fn unit_restarted(&mut self, at: u64, unit: &UnitName) {
        let text = format!("{unit}: Scheduled restart job, restart counter is at 1.");
        self.write(at, Severity::Info, ErrorKind::UnitRestart, text, Some(unit.to_string()));
    }

    /// The kernel says it of a process, systemd of a unit, which is read where units are named.
    pub(super) fn oom_kill(&mut self, at: u64, unit: &UnitName) {
        if self.config.units.is_empty() {
            let text = format!("Out of memory: Killed process 4242 ({unit})");
            self.write(at, Severity::Error, ErrorKind::OomKill, text, None);
        } else {
            let text = format!("{unit}: A process of this unit has been killed by the OOM killer.");
            self.write(at, Severity::Notice, ErrorKind::OomKill, text, Some(unit.to_string()));
        }
    }

    /// What was not read yet.
    pub(super) fn take(&mut self) -> Option<ErrorBatch> {
        let missed = self.first.saturating_sub(self.next);
        let from = usize::try_from(self.next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let lines: Vec<ErrorLine> = self.kept.iter().skip(from).take(BATCH_MAX).cloned().collect();
        if lines.is_empty() && missed == 0 {
            return None;
        }
        self.next += missed + lines.len() as u64;
        Some(ErrorBatch { lines, missed, cursor: Some(format!("{CURSOR}{}", self.next)), ..ErrorBatch::default() })
    }

    /// Reading goes on behind this cursor; without one, from now on.
    pub(super) fn seek(&mut self, cursor: Option<&str>) {
        let end = self.first + self.kept.len() as u64;
        let number = cursor.and_then(|cursor| cursor.strip_prefix(CURSOR)?.parse().ok());
        self.next = number.unwrap_or(end).min(end);
    }

    fn write(&mut self, at: u64, severity: Severity, kind: ErrorKind, message: String, unit: Option<String>) {
        let source = if unit.is_some() { ErrorSource::Journal } else { ErrorSource::Kernel };
        let mono = Some(Mono(at.saturating_sub(self.booted_at)));
        let (boot, wall) = (self.boot, None);
        let (identifier, exe, signal) = (None, None, None);
        let line = ErrorLine { severity, source, kind, message, unit, identifier, exe, signal, boot, mono, wall };
        let CollectErrors { enabled, min_severity, units, .. } = &self.config;
        let is_chosen = units.is_empty()
            || line.unit.as_ref().is_some_and(|unit| units.iter().any(|chosen| chosen.as_str() == unit));
        if !enabled || !is_chosen || !is_wanted(&line, *min_severity) {
            return;
        }
        self.kept.push_back(line);
        if self.kept.len() > KEPT_MAX {
            self.kept.pop_front();
            self.first += 1;
        }
    }

    fn next_ordinary(&mut self, at: u64) -> Option<u64> {
        (self.world.per_hour > 0.0).then(|| {
            let mean = Duration::from_secs_f64(3_600.0 / self.world.per_hour);
            at + millis(self.dice.until_next(mean)).max(1)
        })
    }
}
