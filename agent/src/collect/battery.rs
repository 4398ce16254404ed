//! The battery, from `/sys/class/power_supply` as Documentation/ABI/testing/sysfs-class-power describes it: the first
//! Battery or UPS that is there (or the one named in the configuration), and whether power comes from outside. Units
//! become V, A, W, °C and seconds; drivers disagree on signs, so those follow the status, and where it gives no
//! direction only a zero is told. Estimates nothing that the driver gives itself.

use super::round::{Faulted, Reading, Round};
use crate::config::CollectBattery;
use crate::engine::metric::Metric;

pub(super) const SUPPLIES: &str = "sys/class/power_supply";
/// µ of V, A, W, Ah and Wh: a thousand of any of them is beyond every gateway.
const MICRO_MAX: f64 = 1e9;
/// A gauge counts a little past a `charge_full` that has aged; past this it is nonsense.
const OVERCHARGE_MAX_PCT: f64 = 110.0;
/// New cells exceed their design a little.
const HEALTH_MAX_PCT: f64 = 150.0;
/// Tenths of a degree Celsius.
const TEMPERATURE_DC: std::ops::RangeInclusive<f64> = -1000.0..=2000.0;
/// A year: what runs longer than that doesn't run empty.
const TIME_TO_EMPTY_MAX_S: f64 = 365.0 * 86_400.0;
const CYCLES_MAX: u64 = 1_000_000;

/// One directory of the class.
struct Supply {
    name: String,
    kind: String,
    /// Powers a peripheral (a mouse, a headset) and not this gateway.
    of_device: bool,
}

/// `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Charging,
    Discharging,
    Full,
    NotCharging,
    Unknown,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Charging => "charging",
            Self::Discharging => "discharging",
            Self::Full => "full",
            Self::NotCharging => "not_charging",
            Self::Unknown => "unknown",
        }
    }

    /// Charging is positive, whatever sign the driver chose. The ABI has it so, too, for current_now; but ACPI gives a
    /// magnitude, and bq27xxx gave the opposite before Linux 5.13: without a direction only the sign of 0 is known.
    fn direct(self, amount: f64) -> Option<f64> {
        match self {
            Self::Charging => Some(amount.abs()),
            Self::Discharging => Some(-amount.abs()),
            Self::Full | Self::NotCharging | Self::Unknown => Some(amount).filter(|amount| *amount == 0.0),
        }
    }
}

/// Reads the battery and the external power into `round`.
pub(super) fn collect(config: &CollectBattery, round: &mut Round<'_>) {
    let faults = round.faults();
    let supplies = supplies(round);
    let is_known = round.faults() == faults;
    let external_power = external_power(round, &supplies);
    round.reading(Metric::BatteryExternalPower, external_power);

    let Some(supply) = choose(config, &supplies, round) else {
        if !config.supply.is_empty() {
            round.fault(&format!("{SUPPLIES}/{}", config.supply), "missing: collect.battery.supply names it");
        }
        if is_known {
            round.point(Metric::BatteryPresent, false);
        }
        return;
    };
    round.point(Metric::BatterySupply, supply.name.as_str());
    let mut battery = Battery { dir: format!("{SUPPLIES}/{}", supply.name), round };
    match battery.number("present", 0..=1) {
        Ok(Some(0)) => battery.round.point(Metric::BatteryPresent, false),
        Err(Faulted) => battery.measure(),
        // Drivers of batteries that can't be taken out have no such file.
        Ok(_) => {
            battery.round.point(Metric::BatteryPresent, true);
            battery.measure();
        }
    }
}

fn supplies(round: &mut Round<'_>) -> Vec<Supply> {
    let mut supplies = Vec::new();
    for name in round.names(SUPPLIES) {
        let Ok(kind) = round.required(&format!("{SUPPLIES}/{name}/type")) else { continue };
        let scope = round.text(&format!("{SUPPLIES}/{name}/scope"));
        let of_device = matches!(scope, Ok(Some(scope)) if scope == "Device");
        supplies.push(Supply { name, kind, of_device });
    }
    supplies
}

/// The one that is named; else the first that is in its bay, or of which nobody can tell, or that isn't.
fn choose<'a>(config: &CollectBattery, supplies: &'a [Supply], round: &mut Round<'_>) -> Option<&'a Supply> {
    if !config.supply.is_empty() {
        return supplies.iter().find(|supply| supply.name == config.supply);
    }
    let is_battery = |supply: &&Supply| !supply.of_device && matches!(supply.kind.as_str(), "Battery" | "UPS");
    supplies.iter().filter(is_battery).min_by_key(|supply| {
        match round.number(&format!("{SUPPLIES}/{}/present", supply.name), 0..=1) {
            Ok(None | Some(1..)) => 0,
            Err(Faulted) => 1,
            Ok(Some(_)) => 2,
        }
    })
}

/// Whether any source other than a battery is online; nothing where there is none to ask.
fn external_power(round: &mut Round<'_>, supplies: &[Supply]) -> Reading<bool> {
    let mut answer = Ok(None);
    for supply in supplies.iter().filter(|supply| is_external(supply)) {
        // 0 offline, 1 online at a fixed voltage, 2 online at a programmable one.
        match round.number(&format!("{SUPPLIES}/{}/online", supply.name), 0..=2) {
            Ok(Some(0)) if answer == Ok(None) => answer = Ok(Some(false)),
            Ok(Some(1..)) => return Ok(Some(true)),
            Ok(_) => {}
            // The one that can't be read may be the one that is online: "no power" would be a guess.
            Err(Faulted) => answer = Err(Faulted),
        }
    }
    answer
}

/// Kernels before 4.20 have types like `USB_DCP` and `USB_PD`; `BrickID` is Apple's charger.
fn is_external(supply: &Supply) -> bool {
    let kind = supply.kind.as_str();
    !supply.of_device && (matches!(kind, "Mains" | "Wireless" | "BrickID") || kind.starts_with("USB"))
}

/// The supply that was chosen.
struct Battery<'r, 'a> {
    dir: String,
    round: &'r mut Round<'a>,
}

impl Battery<'_, '_> {
    fn measure(&mut self) {
        let state = self.state();
        let direction = state.ok().flatten().unwrap_or(State::Unknown);
        // A battery that is there has some.
        let voltage = self.micro("voltage_now", 1.0);
        let current = self.micro("current_now", -MICRO_MAX).map(|a| a.and_then(|a| direction.direct(a)));
        let power = self.power(direction, voltage, current);
        let charge = self.charge();
        let temperature = self.number("temp", TEMPERATURE_DC);
        let time_to_empty = self.time_to_empty(direction, current, power);
        let health = self.health();
        let cycles = self.number("cycle_count", 0..=CYCLES_MAX);

        let round = &mut *self.round;
        round.reading(Metric::BatteryState, state.map(|state| state.map(State::word)));
        round.reading(Metric::BatteryChargePct, charge);
        round.reading(Metric::BatteryVoltage, voltage);
        round.reading(Metric::BatteryCurrent, current);
        round.reading(Metric::BatteryPower, power);
        round.reading(Metric::BatteryTemperature, temperature.map(|dc| dc.map(|dc| dc / 10.0)));
        round.reading(Metric::BatteryTimeToEmpty, time_to_empty);
        round.reading(Metric::BatteryHealth, health);
        // The ABI: 0 means that the count is not available.
        round.reading(Metric::BatteryCycles, cycles.map(|cycles| cycles.filter(|cycles| *cycles > 0)));
    }

    fn state(&mut self) -> Reading<State> {
        let file = self.file("status");
        let Some(text) = self.round.text(&file)? else { return Ok(None) };
        Ok(Some(match text.as_str() {
            "Charging" => State::Charging,
            "Discharging" => State::Discharging,
            "Full" => State::Full,
            "Not charging" => State::NotCharging,
            "Unknown" => State::Unknown,
            _ => {
                self.round.nonsense(&file, &text, "a status of the kernel's ABI");
                State::Unknown
            }
        }))
    }

    /// In percent. A `capacity` that says nonsense is not papered over by the next source.
    fn charge(&mut self) -> Reading<f64> {
        if let Some(pct) = self.number("capacity", 0.0..=100.0)? {
            return Ok(Some(pct));
        }
        let pct = match self.ratio("charge_now", "charge_full", OVERCHARGE_MAX_PCT)? {
            None => self.ratio("energy_now", "energy_full", OVERCHARGE_MAX_PCT)?,
            some => some,
        };
        Ok(pct.map(|pct| pct.min(100.0)))
    }

    /// In percent. A gauge that has not learned yet what is full says 0, as does one that was never told its design.
    fn health(&mut self) -> Reading<f64> {
        for (full, design) in [("charge_full", "charge_full_design"), ("energy_full", "energy_full_design")] {
            if self.micro(design, 0.0)? == Some(0.0) {
                continue;
            }
            if let Some(pct) = self.ratio(full, design, HEALTH_MAX_PCT)?.filter(|pct| *pct > 0.0) {
                return Ok(Some(pct));
            }
        }
        Ok(None)
    }

    /// In watts, with the current's sign.
    fn power(&mut self, direction: State, voltage: Reading<f64>, current: Reading<f64>) -> Reading<f64> {
        if let Some(power) = self.micro("power_now", -MICRO_MAX)? {
            return Ok(direction.direct(power));
        }
        let (Some(voltage), Some(current)) = (voltage?, current?) else { return Ok(None) };
        Ok(Some(voltage * current))
    }

    /// In seconds; only while it may run empty at all.
    fn time_to_empty(&mut self, direction: State, current: Reading<f64>, power: Reading<f64>) -> Reading<f64> {
        if matches!(direction, State::Charging | State::Full | State::NotCharging) {
            return Ok(None);
        }
        match self.number("time_to_empty_now", 0.0..=TIME_TO_EMPTY_MAX_S)? {
            // Of a gauge that doesn't know; of a battery that is empty the charge says as much.
            None | Some(0.0) => {}
            some => return Ok(some),
        }
        if direction != State::Discharging {
            return Ok(None);
        }
        let hours = match (self.left("charge_now", "charge_full")?, current?) {
            (Some(charge), Some(current)) => charge / current.abs(),
            _ => match (self.left("energy_now", "energy_full")?, power?) {
                (Some(energy), Some(power)) => energy / power.abs(),
                _ => return Ok(None),
            },
        };
        // No current means no end, and 0/0 is not a number.
        Ok(Some(hours * 3600.0).filter(|seconds| (0.0..=TIME_TO_EMPTY_MAX_S).contains(seconds)))
    }

    /// What is left in it; a fault where that is more than what goes in.
    fn left(&mut self, part: &str, whole: &str) -> Reading<f64> {
        if matches!(self.micro(whole, 0.0), Ok(Some(full)) if full > 0.0) {
            self.ratio(part, whole, OVERCHARGE_MAX_PCT)?;
        }
        self.micro(part, 0.0)
    }

    /// `part` of `whole` in percent; `None` where either is missing.
    fn ratio(&mut self, part: &str, whole: &str, max_pct: f64) -> Reading<f64> {
        let (Some(amount), Some(full)) = (self.micro(part, 0.0)?, self.micro(whole, 0.0)?) else { return Ok(None) };
        let pct = amount / full * 100.0;
        if (0.0..=max_pct).contains(&pct) {
            return Ok(Some(pct));
        }
        let what = format!("is {amount} where {whole} is {full}: {pct:.0} %");
        let file = self.file(part);
        Err(self.round.fault(&file, what))
    }

    /// A value in millionths, at least `min` of them, as one in whole units.
    fn micro(&mut self, file: &str, min: f64) -> Reading<f64> {
        Ok(self.number(file, min..=MICRO_MAX)?.map(|micro| micro / 1e6))
    }

    fn number<T>(&mut self, file: &str, plausible: std::ops::RangeInclusive<T>) -> Reading<T>
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display,
    {
        let file = self.file(file);
        self.round.number(&file, plausible)
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }
}
