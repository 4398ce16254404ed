//! The dynamic attributes by which a fleet is cut: coarse words with a deadband, so that a value at the edge of a band
//! doesn't make a message a minute. Says when they changed; sending them is the engine's business.

use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use super::metric::{Metric, Value};
use super::observation::Severity;
use super::rules::Alarm;
use super::time::Mono;
use super::vitals::Vitals;

/// Upper ends of the battery's bands in percent.
const BAND_ENDS: [f64; 4] = [10.0, 25.0, 50.0, 75.0];
const BANDS: [&str; 5] = ["0-10", "10-25", "25-50", "50-75", "75-100"];
/// How far, in percent, the charge must leave its band before the band changes.
const BAND_DEADBAND_PCT: f64 = 2.0;
/// The agent's own trouble is over once there was none for so long.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// The dynamic attributes.
#[derive(Debug, Default)]
pub struct Attributes {
    battery_band: Option<usize>,
    link_type: Option<String>,
    degraded: bool,
    /// Since when nothing speaks for that any more.
    well_since: Option<Mono>,
    /// Alarms that stand, by name.
    alarms: Vec<String>,
    /// One of them is critical or worse.
    critical: bool,
    firmware: Option<String>,
    agent: String,
    changed: bool,
}

impl Attributes {
    /// What is known at the start.
    #[must_use]
    pub fn new(agent: String, firmware: Option<String>) -> Self {
        Self { agent, firmware, changed: true, ..Self::default() }
    }

    /// Looks at the readings of the open interval, of the battery and of the link; `None`: its collector is off, so
    /// that what it said before is no longer known.
    pub fn observe(&mut self, battery: Option<&Vitals>, link: Option<&Vitals>) {
        let charge = battery.and_then(|vitals| vitals.last(Metric::BatteryChargePct)).and_then(Value::number);
        if let Some(charge) = charge {
            let band = next_band(self.battery_band, charge);
            self.changed |= self.battery_band != Some(band);
            self.battery_band = Some(band);
        } else if battery.is_none_or(|vitals| vitals.last(Metric::BatteryPresent) == Some(&Value::Flag(false))) {
            self.changed |= self.battery_band.take().is_some();
        }
        match link.map(|vitals| vitals.last(Metric::LinkType)) {
            Some(Some(Value::Text(kind))) if self.link_type.as_deref() != Some(kind) => {
                self.link_type = Some(kind.to_string());
                self.changed = true;
            }
            Some(_) => {}
            None => self.changed |= self.link_type.take().is_some(),
        }
    }

    /// Whether the agent itself can't do all of its work: said at once, and taken back when that has lasted.
    pub fn set_degraded(&mut self, now: Mono, degraded: bool) {
        if degraded {
            self.well_since = None;
        } else if now.since(*self.well_since.get_or_insert(now)) < WELL_AFTER {
            return;
        }
        self.changed |= self.degraded != degraded;
        self.degraded = degraded;
    }

    /// The alarms that stand.
    pub fn set_alarms<'a>(&mut self, alarms: impl Iterator<Item = Alarm<'a>>) {
        let (names, severities): (Vec<String>, Vec<Severity>) =
            alarms.map(|alarm| (alarm.rule.to_owned(), alarm.severity)).unzip();
        let critical = severities.iter().any(|severity| *severity <= Severity::Critical);
        self.changed |= self.alarms != names || self.critical != critical;
        (self.alarms, self.critical) = (names, critical);
    }

    /// They are to be sent (again).
    pub fn touch(&mut self) {
        self.changed = true;
    }

    /// Whether they changed since they were last sent.
    #[must_use]
    pub const fn is_changed(&self) -> bool {
        self.changed
    }

    /// They are on their way.
    pub fn sent(&mut self) {
        self.changed = false;
    }

    /// The contract's `dynamic`.
    #[must_use]
    pub fn dynamic(&self, quarantine: &str) -> Map<String, Json> {
        let mut map = Map::new();
        if let Some(band) = self.battery_band.and_then(|band| BANDS.get(band)) {
            map.insert("battery_band".into(), json!(band));
        }
        if let Some(link) = &self.link_type {
            map.insert("link_type".into(), json!(link));
        }
        map.insert("health".into(), json!(self.health()));
        map.insert("alarms".into(), json!(self.alarms));
        map.insert("quarantine".into(), json!(quarantine));
        if let Some(firmware) = &self.firmware {
            map.insert("firmware".into(), json!(firmware));
        }
        map.insert("agent".into(), json!(self.agent));
        map
    }

    fn health(&self) -> &'static str {
        if self.critical {
            "critical"
        } else if self.degraded || !self.alarms.is_empty() {
            "degraded"
        } else {
            "ok"
        }
    }
}

/// The band of a charge; the one that it was in holds until the charge is clearly out of it. Where it has passed over a
/// whole one it is.
fn next_band(before: Option<usize>, charge: f64) -> usize {
    let band = |charge: f64| BAND_ENDS.iter().filter(|end| charge >= **end).count();
    match before {
        Some(before) if band(charge).abs_diff(before) > 1 => band(charge),
        Some(before) if band(charge) > before => before.max(band(charge - BAND_DEADBAND_PCT)),
        Some(before) => before.min(band(charge + BAND_DEADBAND_PCT)),
        None => band(charge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::metric::Point;

    fn seen(attributes: &mut Attributes, charge: f64) -> bool {
        let mut vitals = Vitals::new(Mono(0));
        vitals.take(Point::new(Metric::BatteryChargePct, charge));
        attributes.observe(Some(&vitals), None);
        let changed = attributes.is_changed();
        attributes.sent();
        changed
    }

    #[test]
    fn a_charge_that_swings_around_the_edge_of_a_band_changes_nothing() {
        let mut attributes = Attributes::new("0".into(), None);
        assert!(seen(&mut attributes, 50.4));
        for charge in [49.9, 50.1, 48.5, 51.0] {
            assert!(!seen(&mut attributes, charge), "{charge}");
        }
        assert!(seen(&mut attributes, 47.9));
        assert_eq!(attributes.dynamic("none")["battery_band"], "25-50");
        assert!(!seen(&mut attributes, 51.9));
        assert!(seen(&mut attributes, 52.0));
    }

    #[test]
    fn a_charge_that_jumps_over_a_band_is_in_the_one_where_it_arrives() {
        let mut attributes = Attributes::new("0".into(), None);
        for (charge, band) in [(80.0, "75-100"), (9.0, "0-10"), (50.0, "50-75"), (26.0, "25-50"), (76.0, "75-100")] {
            seen(&mut attributes, charge);
            assert_eq!(attributes.dynamic("none")["battery_band"], band, "{charge}");
        }
    }

    #[test]
    fn trouble_that_comes_and_goes_is_said_once_and_taken_back_after_a_minute_without() {
        let mut attributes = Attributes::new("0".into(), None);
        let mut said = |s: u64, degraded: bool| {
            attributes.sent();
            attributes.set_degraded(Mono(s * 1_000), degraded);
            (attributes.is_changed(), attributes.health())
        };
        assert_eq!(said(0, false), (false, "ok"));
        assert_eq!(said(1, true), (true, "degraded"));
        for s in 2..60 {
            assert_eq!(said(s, s % 20 == 0), (false, "degraded"), "at {s} s");
        }
        assert_eq!(said(100, false), (false, "degraded"), "of 40 to 41 s");
        assert_eq!(said(101, false), (true, "ok"));
    }

    #[test]
    fn a_battery_that_was_taken_out_has_no_charge_and_a_silent_gauge_the_last_one() {
        let mut attributes = Attributes::new("1.2.3".into(), None);
        let mut seen = |points: Vec<Point>| {
            let mut vitals = Vitals::new(Mono(0));
            points.into_iter().for_each(|point| vitals.take(point));
            attributes.observe(Some(&vitals), None);
            attributes.dynamic("none").get("battery_band").cloned()
        };
        let there = |is: bool| Point::new(Metric::BatteryPresent, is);
        assert_eq!(seen(vec![there(true), Point::new(Metric::BatteryChargePct, 80.0)]), Some("75-100".into()));
        assert_eq!(seen(vec![there(true)]), Some("75-100".into()));
        assert_eq!(seen(vec![there(false)]), None);
    }

    #[test]
    fn what_a_gateway_does_not_have_is_left_out() {
        let dynamic = Attributes::new("1.2.3".into(), None).dynamic("none");
        let keys: Vec<&String> = dynamic.keys().collect();
        assert_eq!(keys, ["agent", "alarms", "health", "quarantine"]);
    }
}
