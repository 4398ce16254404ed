//! A battery, and what charges it: sun by day, mains where there are any. Energy in, energy out, in steps of some
//! minutes.

use std::time::Duration;

use super::super::dice::Dice;
use super::super::scenario::BatteryWorld;
use crate::engine::metric::{Metric, Point};

/// A step of the energy balance: the sun moves little in it.
const STEP_MS: u64 = 300_000;
const DAY_MS: u64 = 86_400_000;
/// What a machine that is off still draws, as a share of its load: the charger and the clock.
const OFF_SHARE: f64 = 0.01;
/// A charger ends at this.
const FULL_PCT: f64 = 99.5;
/// Twelve volts: three lithium cells, from empty to full, and what a watt moves that.
const EMPTY_V: f64 = 10.2;
const FULL_V: f64 = 12.6;
const SAG_V_PER_W: f64 = 0.01;

/// The battery.
#[derive(Debug)]
pub(super) struct Battery {
    world: BatteryWorld,
    dice: Dice,
    stored_wh: f64,
    at: u64,
    /// When it is to be looked at, though nobody asks: observing it doesn't put that off.
    next_look: u64,
    /// What flows in (or out, below zero) now.
    flow_w: f64,
    /// How much of the sun gets through today: the day, and the share.
    sky: (u64, f64),
    cut_off: bool,
    /// Somebody stands by with a charger: the charge doesn't stay below `on_pct`.
    nursed: bool,
    /// It fell below `off_pct`, and is not yet above `on_pct` again.
    exhausted: bool,
}

impl Battery {
    pub(super) fn new(world: BatteryWorld, dice: Dice) -> Self {
        let stored_wh = world.capacity_wh * world.charge_pct / 100.0;
        Self {
            world,
            dice,
            stored_wh,
            at: 0,
            next_look: STEP_MS,
            flow_w: 0.0,
            sky: (u64::MAX, 0.0),
            cut_off: false,
            nursed: false,
            exhausted: false,
        }
    }

    /// Lives up to a time. `day_offset_ms`: the time of day at the begin.
    pub(super) fn advance(&mut self, at: u64, day_offset_ms: u64, on: bool) {
        while self.at < at {
            let step = (at - self.at).min(STEP_MS);
            let middle = self.at + step / 2 + day_offset_ms;
            let load = self.world.load_w * if on { 1.0 } else { OFF_SHARE };
            self.flow_w = self.sources(middle) - load;
            #[expect(clippy::cast_precision_loss, reason = "minutes")]
            let hours = step as f64 / 3_600_000.0;
            self.stored_wh = (self.stored_wh + self.flow_w * hours).clamp(0.0, self.world.capacity_wh);
            self.at += step;
        }
        if self.nursed {
            self.stored_wh = self.stored_wh.max(self.world.capacity_wh * self.world.on_pct / 100.0);
            self.exhausted = false;
            return;
        }
        let charge = self.charge_pct();
        if charge <= self.world.off_pct {
            self.exhausted = true;
        } else if charge >= self.world.on_pct {
            self.exhausted = false;
        }
    }

    /// When it should be looked at again, though nobody asks.
    pub(super) const fn next_look(&self) -> u64 {
        self.next_look
    }

    /// It was looked at.
    pub(super) const fn looked(&mut self, at: u64) {
        self.next_look = (at / STEP_MS + 1) * STEP_MS;
    }

    /// From here on it always carries the machine.
    pub(super) const fn nurse(&mut self) {
        self.nursed = true;
    }

    /// Whether the machine can run from it.
    pub(super) const fn carries(&self) -> bool {
        !self.exhausted
    }

    /// Mains and sun fail, or come back.
    pub(super) const fn cut_off(&mut self, cut_off: bool) {
        self.cut_off = cut_off;
    }

    pub(super) fn charge_pct(&self) -> f64 {
        self.stored_wh * 100.0 / self.world.capacity_wh
    }

    /// In the kernel's words.
    pub(super) fn state(&self) -> &'static str {
        if self.flow_w < 0.0 {
            "discharging"
        } else if self.charge_pct() >= FULL_PCT {
            "full"
        } else {
            "charging"
        }
    }

    /// What the kernel's power_supply class would say: whole percents, hundredths of a volt. All but its name: a
    /// reading of a battery that goes by one is believed only if a battery can come to it, and here sensors lie.
    pub(super) fn observe(&mut self, temperature_c: f64, points: &mut Vec<Point>) {
        let share = self.charge_pct() / 100.0;
        let volts = EMPTY_V + (FULL_V - EMPTY_V) * share + SAG_V_PER_W * self.flow_w + self.dice.normal() * 0.01;
        points.push(Point::new(Metric::BatteryPresent, true));
        points.push(Point::new(Metric::BatteryChargePct, (share * 100.0).round()));
        points.push(Point::new(Metric::BatteryState, self.state()));
        points.push(Point::new(Metric::BatteryVoltage, (volts * 100.0).round() / 100.0));
        points.push(Point::new(Metric::BatteryPower, (self.flow_w * 100.0).round() / 100.0));
        points.push(Point::new(Metric::BatteryCurrent, (self.flow_w / volts * 100.0).round() / 100.0));
        points.push(Point::new(Metric::BatteryTemperature, temperature_c.round()));
        points.push(Point::new(Metric::BatteryHealth, 97.0));
        points.push(Point::new(Metric::BatteryCycles, 40_u64));
        if self.world.mains_w > 0.0 {
            points.push(Point::new(Metric::BatteryExternalPower, !self.cut_off));
        }
    }

    fn sources(&mut self, time: u64) -> f64 {
        if self.cut_off {
            return 0.0;
        }
        let day = time / DAY_MS;
        if self.sky.0 != day {
            let (low, high) = self.world.sky;
            self.sky = (day, low + (high - low) * self.dice.fraction());
        }
        self.world.mains_w + self.world.sun_w * self.sky.1 * daylight(time, self.world.daylight)
    }
}

/// How high the sun stands, from 0 to 1: half a sine around noon.
pub(super) fn daylight(time: u64, lasts: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a day")]
    let hour = (time % DAY_MS) as f64 / 3_600_000.0;
    let hours = lasts.as_secs_f64() / 3_600.0;
    let since_rise = hour - (12.0 - hours / 2.0);
    if hours <= 0.0 || !(0.0..hours).contains(&since_rise) {
        return 0.0;
    }
    libm::sin(std::f64::consts::PI * since_rise / hours)
}
