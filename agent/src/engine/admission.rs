//! May it be done? One policy for what the fleet commands and what the gateway's own rules want: what the config
//! allows, what the gateway has means for, its battery, its uptime, the budget. Pure: says yes, or why not; changes
//! nothing.

use std::time::Duration;

use super::budget::Ledger;
use super::command::is_release_dir;
use super::commands::{Careful, Facts};
use super::io::Act;
use super::metric::{Metric, Point, Value, find};
use super::time::Mono;
use crate::config::{CheckedConfig, RollbackKind, human};
use crate::wire::Reason;

/// A reading of the battery counts for so many rounds of collection.
const READING_HOLDS: u32 = 5;

/// What is known of the power supply.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Power {
    /// When it was last looked at.
    pub at: Option<Mono>,
    /// There is a battery.
    pub present: bool,
    /// Its charge in percent, where it was read.
    pub charge_pct: Option<f64>,
    /// External power, where it was read.
    pub external: Option<bool>,
}

/// Why not, and what a human wants to know about it.
pub type Refusal = (Reason, String);

impl Power {
    /// What a round of collection says of it.
    #[must_use]
    pub fn read(now: Mono, points: &[Point]) -> Self {
        let flag = |metric| find(points, metric).and_then(Value::flag);
        let charge_pct = find(points, Metric::BatteryChargePct).and_then(Value::number).filter(|pct| pct.is_finite());
        Self {
            at: Some(now),
            // A gauge that can't be read is no empty bay.
            present: flag(Metric::BatteryPresent) != Some(false) || charge_pct.is_some(),
            charge_pct,
            external: flag(Metric::BatteryExternalPower),
        }
    }
}

/// What never changes while the config doesn't: asked first, so that a hopeless act costs nothing.
///
/// # Errors
/// Why not.
pub fn permitted(facts: Facts<'_>, act: &Act) -> Result<(), Refusal> {
    let action = act.action();
    let remediation = &facts.config.remediation;
    if act.needs_leave() && !remediation.allow.contains(&action) {
        return Err((Reason::NotAllowed, format!("{action} is not in remediation.allow")));
    }
    match act {
        Act::RestartUnit { unit } if !remediation.units.contains(unit) => {
            return Err((Reason::NotAllowed, format!("{unit} is not in remediation.units")));
        }
        Act::Rollback { target, .. } | Act::MarkGood { target } if !facts.config.rollback.contains_key(target) => {
            let why =
                format!("there is no [rollback.{target}] in the configuration in force: a new one takes a restart");
            return Err((Reason::NotAllowed, why));
        }
        Act::Rollback { target, to: Some(to) } if is_slots(facts.config, target) && !is_release_dir(to) => {
            return Err((Reason::Malformed, format!("args.to {to:?} is no plain name of a release's directory")));
        }
        _ => {}
    }
    if act == &Act::SavePower || facts.able.contains(&action) {
        return Ok(());
    }
    if !facts.withheld.contains(&action) {
        return Err((Reason::NotSupported, format!("this gateway has no means to {action}")));
    }
    if !act.needs_leave() {
        return Ok(());
    }
    let detail = format!(
        "root's policy.toml did not allow {action} when the agent read it last: add it to [allow] actions there, then \
         systemctl reload fieldmedic"
    );
    Err((Reason::NotSupported, detail))
}

/// What time can mend: who keeps the machine up, the battery, and the budget.
///
/// # Errors
/// Why not now.
pub fn affordable(facts: Facts<'_>, budgets: &Ledger, careful: Careful, act: &Act) -> Result<(), Refusal> {
    unhindered(facts, act)?;
    let action = act.action();
    let Facts { timeline, now, config, .. } = facts;
    let Some(limit) = config.remediation.budget.get(&action).filter(|_| act.spends()) else { return Ok(()) };
    let left = budgets.room_in(action, limit, timeline, now);
    if left == Some(Duration::ZERO) {
        return Ok(());
    }
    let seconds = |left: Duration| left.as_secs().saturating_add(u64::from(left.subsec_nanos() > 0));
    let again = left.map(|left| format!("; again in {}", human(Duration::from_secs(seconds(left)))));
    let lost = budgets.was_lost(action, timeline, careful);
    let lost = if lost { "the store's state was lost, so that all of it counts as spent: " } else { "" };
    let (count, window) = (limit.count, human(limit.window));
    let detail = format!("{lost}{count} times within {window} is the limit{}", again.unwrap_or_default());
    Err((Reason::BudgetSpent, detail))
}

/// The same of what has spent its budget already.
///
/// # Errors
/// Why not now.
pub fn unhindered(facts: Facts<'_>, act: &Act) -> Result<(), Refusal> {
    if let Some(who) = facts.blocked.filter(|_| takes_a_boot(facts.config, act)) {
        return Err((Reason::Inhibited, who.to_owned()));
    }
    if matches!(act, Act::Reboot | Act::Rollback { .. }) {
        powered(facts)?;
    }
    Ok(())
}

/// Whether it is done at all, or only said.
///
/// # Errors
/// What would have been done.
pub fn rehearsed(facts: Facts<'_>, act: &Act) -> Result<(), Refusal> {
    if facts.config.remediation.dry_run {
        return Err((Reason::DryRun, format!("would have done: {}", act.target())));
    }
    Ok(())
}

/// What holds for the gateway's own rules only: a gateway that fails at boot must stay reachable.
///
/// # Errors
/// Why not yet.
pub fn settled(facts: Facts<'_>, act: &Act) -> Result<(), Refusal> {
    let uptime = facts.timeline.uptime(facts.now);
    let wanted = facts.config.remediation.min_uptime;
    if matches!(act, Act::Reboot | Act::Rollback { .. }) && uptime < wanted {
        let detail = format!("up for {} s, remediation.min_uptime is {} s", uptime.as_secs(), wanted.as_secs());
        return Err((Reason::MinUptime, detail));
    }
    Ok(())
}

/// Whether the machine has to go down for it. A program of the integrator's says so only when it is done.
pub fn takes_a_boot(config: &CheckedConfig, act: &Act) -> bool {
    match act {
        Act::Reboot => true,
        Act::Rollback { target, .. } => config.rollback.get(target).is_some_and(|it| it.kind == RollbackKind::Rauc),
        _ => false,
    }
}

fn is_slots(config: &CheckedConfig, target: &str) -> bool {
    config.rollback.get(target).is_some_and(|it| matches!(it.kind, RollbackKind::Slots { .. }))
}

/// A gateway that dies on the way up is a truck roll.
fn powered(facts: Facts<'_>) -> Result<(), Refusal> {
    let Facts { now, config, power, sampled_every, .. } = facts;
    let least = config.remediation.min_battery_pct;
    let low = |detail: String| Err((Reason::LowBattery, detail));
    if !config.collect.battery.enabled || least <= 0.0 {
        return Ok(());
    }
    let holds = sampled_every.saturating_mul(READING_HOLDS);
    if power.at.is_none_or(|at| now.mono.since(at) > holds) {
        return low("the power supply was not read lately".into());
    }
    if !power.present || power.external == Some(true) {
        return Ok(());
    }
    match power.charge_pct {
        Some(charge) if charge >= least => Ok(()),
        Some(charge) => {
            let external = if power.external.is_none() { "; external power unknown" } else { "" };
            low(format!("{charge:.0} %, remediation.min_battery_pct is {least} %{external}"))
        }
        None => low("there is a battery, and its charge isn't known".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_that_can_not_be_read_is_no_empty_bay() {
        let read = |points: &[Point]| Power::read(Mono(0), points).present;
        assert!(read(&[Point::new(Metric::BatterySupply, "BAT0")]));
        assert!(read(&[]), "nobody knows what there is");
        assert!(read(&[Point::new(Metric::BatteryPresent, true)]));
        assert!(!read(&[Point::new(Metric::BatteryPresent, false)]));
    }
}
