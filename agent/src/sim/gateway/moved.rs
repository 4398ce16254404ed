//! Which metrics something in this world moves. A rule on another one has nothing to judge here, and that it was never
//! raised says nothing of a gateway.

use serde::Serialize;

use crate::config::{CheckedConfig, RuleTest};
use crate::engine::metric::Metric;
use crate::sim::scenario::{FaultKind, LinkWorld, Scenario};

/// A rule that nothing in this world can raise, and the metric that it watches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unmoved {
    /// The rule's name.
    pub rule: String,
    /// As it names it.
    pub metric: String,
}

/// What a world does to a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// It changes by itself, or by a fault.
    Yes,
    /// It is read, and always the same, unless its sensor lies.
    ByALie,
    /// It isn't read.
    Never,
}

/// The rules whose metric stands still, of those that wait for it to move.
pub(in crate::sim) fn unmoved(scenario: &Scenario, config: &CheckedConfig) -> Vec<Unmoved> {
    let lies = |metric: &str| {
        scenario
            .faults
            .iter()
            .any(|fault| matches!(&fault.kind, FaultKind::SensorLies { metric: it, .. } if it == metric))
    };
    let stands_still = |metric: &str| {
        Metric::find(metric).is_some_and(|(found, label)| match moved(scenario, config, found, label) {
            Moved::Yes => false,
            Moved::ByALie => !lies(metric),
            Moved::Never => true,
        })
    };
    let judges = config.rules.iter().filter(|rule| !matches!(rule.test, RuleTest::MissingFor(_)));
    let still = judges.filter(|rule| stands_still(&rule.metric));
    still.map(|rule| Unmoved { rule: rule.name.clone(), metric: rule.metric.clone() }).collect()
}

pub(super) fn moved(scenario: &Scenario, config: &CheckedConfig, metric: Metric, label: Option<&str>) -> Moved {
    let collect = &config.collect;
    let is_in = |group: &str| metric.path().starts_with(group);
    let is_off = (is_in("battery.") && !collect.battery.enabled)
        || (is_in("link.") && !collect.link.enabled)
        || (is_in("errors.") && !collect.errors.enabled)
        || (is_in("host.") && !collect.host.enabled);
    if is_off {
        return Moved::Never;
    }
    if is_in("battery.") {
        return of_battery(scenario, metric);
    }
    if is_in("link.interfaces.") {
        return label.map_or(Moved::Never, |name| of_interface(scenario, config, metric, name));
    }
    match metric {
        Metric::HostDiskUsed | Metric::HostDiskFree => {
            let is_mount = |label| collect.host.mounts.iter().any(|mount| mount.to_string_lossy() == label);
            if label.is_some_and(is_mount) { Moved::Yes } else { Moved::Never }
        }
        // Of what goes by a label no sensor lies.
        Metric::HostDiskInodes => Moved::Never,
        Metric::ErrorsKernelClass if label != Some("oom") => Moved::Never,
        // No connection of this world looks up a name, nothing dumps core, and no application reports anything.
        Metric::LinkDns | Metric::ErrorsCoredumps | Metric::ErrorsAppRefused => Moved::Never,
        // There are no sockets but the agent's, no file is unreadable, and no charge implausible.
        Metric::HostListeners | Metric::HostPeers | Metric::AgentCollectFaults | Metric::AgentImplausible => {
            Moved::Never
        }
        _ if is_in("link.") => of_link(scenario, metric),
        Metric::HostFlashLife
        | Metric::HostPsiIo
        | Metric::HostUndervoltage
        | Metric::AgentRss
        | Metric::AgentCpu
        | Metric::AgentThreads
        | Metric::AgentVersion => Moved::ByALie,
        _ => Moved::Yes,
    }
}

fn of_battery(scenario: &Scenario, metric: Metric) -> Moved {
    let Some(battery) = &scenario.battery else {
        return if metric == Metric::BatteryPresent { Moved::ByALie } else { Moved::Never };
    };
    match metric {
        Metric::BatterySupply => Moved::Never,
        Metric::BatteryExternalPower if battery.mains_w <= 0.0 => Moved::Never,
        Metric::BatteryPresent | Metric::BatteryHealth | Metric::BatteryCycles => Moved::ByALie,
        _ => Moved::Yes,
    }
}

fn of_link(scenario: &Scenario, metric: Metric) -> Moved {
    let has = |which: fn(&LinkWorld) -> bool| scenario.links.iter().any(which);
    let when = |there: bool, moved: Moved| if there { moved } else { Moved::Never };
    match metric {
        Metric::LinkRssi => when(has(|link| link.rssi_dbm.is_some() && link.kind != "cellular"), Moved::Yes),
        Metric::LinkRsrp | Metric::LinkRsrq | Metric::LinkSinr | Metric::LinkSignalQuality => {
            when(has(|link| link.rssi_dbm.is_some() && link.kind == "cellular"), Moved::Yes)
        }
        Metric::LinkRat | Metric::LinkOperator | Metric::LinkRegistration => {
            when(has(|link| link.kind == "cellular"), Moved::ByALie)
        }
        Metric::LinkRxErrors | Metric::LinkTxErrors | Metric::LinkRxDropped | Metric::LinkTxDropped => Moved::ByALie,
        _ => Moved::Yes,
    }
}

fn of_interface(scenario: &Scenario, config: &CheckedConfig, metric: Metric, name: &str) -> Moved {
    let link = &config.collect.link;
    let has_budget = link.monthly_budget.contains_key(name);
    let is_chosen = link.interfaces.is_empty() || has_budget || link.interfaces.iter().any(|it| it == name);
    let Some(world) = scenario.links.iter().find(|world| world.interface == name && is_chosen) else {
        return Moved::Never;
    };
    match metric {
        Metric::InterfaceMonthBytes | Metric::InterfaceBudgetUsed if has_budget => Moved::Yes,
        Metric::InterfaceUp if world.gaps.is_some() => Moved::Yes,
        Metric::InterfaceRxBytes | Metric::InterfaceTxBytes | Metric::InterfaceCarrierChanges => Moved::Yes,
        _ => Moved::Never,
    }
}
