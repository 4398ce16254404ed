//! stand-in
use super::dice::Dice;
use super::scenario::{FaultKind, Scenario};
use crate::config::CheckedConfig;
use crate::engine::io::*;
use crate::engine::metric::{Metric, Point};
use crate::engine::observation::{ErrorBatch, Observation};
use std::time::Duration;
pub struct Gateway {
    #[allow(dead_code, reason = "x")]
    dice: Dice,
    rx: u64,
}
pub struct Performed {
    pub takes: Duration,
    pub outcome: ActOutcome,
}
impl Gateway {
    pub fn new(_: &Scenario, _: &CheckedConfig, dice: Dice) -> Self {
        Self { dice, rx: 0 }
    }
    pub fn advance(&mut self, _: u64) {}
    pub fn next_change(&self) -> Option<u64> {
        None
    }
    pub fn observe(&mut self, _: u64) -> Observation {
        self.rx += 1000;
        Observation {
            points: vec![
                Point::new(Metric::LinkUp, true),
                Point::new(Metric::LinkType, "ethernet"),
                Point::new(Metric::LinkRxBytes, self.rx),
                Point::new(Metric::HostCpu, 5.0),
                Point::new(Metric::HostLoad1, 0.1),
                Point::new(Metric::HostMemUsed, 30.0),
            ],
            faults: vec![],
        }
    }
    pub fn take_errors(&mut self, _: u64) -> Option<ErrorBatch> {
        None
    }
    pub fn read_errors_from(&mut self, _: Option<&str>) {}
    pub fn act(&mut self, _: u64, _: u64, _: &Act, _: &Trigger) -> Performed {
        Performed { takes: Duration::from_secs(3), outcome: ActOutcome::succeeded("done") }
    }
    pub fn finish(&mut self, _: u64, _: u64) {}
    pub fn abandon(&mut self, _: u64, _: u64) {}
    pub fn booted(&mut self, _: u64) {}
    pub fn powered(&self) -> bool {
        true
    }
    pub fn link_up(&self) -> bool {
        true
    }
    pub fn firmware(&self) -> Option<String> {
        None
    }
    pub fn battery(&self) -> Option<(f64, &'static str)> {
        None
    }
    pub fn begin_fault(&mut self, _: u64, _: &FaultKind) {}
    pub fn end_fault(&mut self, _: u64, _: &FaultKind) {}
    pub fn calm(&mut self, _: u64) {}
}
