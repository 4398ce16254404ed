//! The collectors on made trees of known values.
#![expect(clippy::disallowed_methods, reason = "makes the trees")]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::config::{ClockTrust, Collect, CollectBattery, CollectErrors, CollectHost, CollectLink};
use crate::engine::io::{EffectId, Input};
use crate::engine::metric::{Content, Point, Value};
use crate::engine::observation::Severity;
use crate::engine::time::{Mono, Now, Unix, Wall};

/// Writes each text to its path below `root`, with the directories that it needs.
pub(crate) fn write_tree(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

const BATTERY: &[(&str, &str)] = &[
    ("sys/class/power_supply/AC/type", "Mains\n"),
    ("sys/class/power_supply/AC/online", "0\n"),
    ("sys/class/power_supply/BAT0/type", "Battery\n"),
    ("sys/class/power_supply/BAT0/present", "1\n"),
    ("sys/class/power_supply/BAT0/status", "Discharging\n"),
    ("sys/class/power_supply/BAT0/capacity", "73\n"),
    ("sys/class/power_supply/BAT0/voltage_now", "11850000\n"),
    ("sys/class/power_supply/BAT0/current_now", "500000\n"),
    ("sys/class/power_supply/BAT0/temp", "-52\n"),
    ("sys/class/power_supply/BAT0/charge_now", "2000000\n"),
    ("sys/class/power_supply/BAT0/charge_full", "3600000\n"),
    ("sys/class/power_supply/BAT0/charge_full_design", "4000000\n"),
    ("sys/class/power_supply/BAT0/cycle_count", "312\n"),
];

const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
    wwan0\t00000000\t01020304\t0003\t0\t0\t700\t00000000\t0\t0\t0\n\
    eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
    eth0\t000200C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";

const LINKS: &[(&str, &str)] = &[
    ("proc/net/route", ROUTE),
    ("sys/class/net/eth0/type", "1\n"),
    ("sys/class/net/eth0/uevent", "INTERFACE=eth0\nIFINDEX=2\n"),
    ("sys/class/net/eth0/operstate", "up\n"),
    ("sys/class/net/eth0/carrier_changes", "3\n"),
    ("sys/class/net/eth0/statistics/rx_bytes", "123456789012\n"),
    ("sys/class/net/eth0/statistics/tx_bytes", "42\n"),
    ("sys/class/net/wwan0/type", "65534\n"),
    ("sys/class/net/wwan0/uevent", "DEVTYPE=wwan\nINTERFACE=wwan0\n"),
    ("sys/class/net/wwan0/operstate", "unknown\n"),
    ("sys/class/net/wwan0/carrier", "1\n"),
    ("sys/class/net/wwan0/statistics/rx_bytes", "7\n"),
];

const HOST: &[(&str, &str)] = &[
    ("proc/stat", "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 100 0 100 700 100 0 0 0 0 0\n"),
    ("proc/loadavg", "0.52 0.58 0.59 1/123 4567\n"),
    ("proc/uptime", "12345.67 23456.78\n"),
    (
        "proc/meminfo",
        "MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable:  250 kB\nSwapTotal: 400 kB\nSwapFree: 300 kB\n",
    ),
    ("proc/pressure/cpu", "some avg10=1.00 avg60=2.50 avg300=3.00 total=1\n"),
    ("proc/pressure/io", "some avg10=0.00 avg60=0.04 avg300=0.13 total=2\nfull avg10=9 avg60=9 avg300=9 total=2\n"),
    ("sys/block/mmcblk0/device/life_time", "0x02 0x03\n"),
    ("sys/block/mmcblk0boot0/device/life_time", "0x0b 0x0b\n"),
    ("sys/class/thermal/thermal_zone0/temp", "41500\n"),
    ("sys/class/thermal/thermal_zone1/temp", "48250\n"),
    ("sys/class/thermal/cooling_device0/cur_state", "0\n"),
];

/// A tree in a directory of its own.
struct Made {
    dir: TempDir,
    config: Collect,
}

impl Made {
    fn new(parts: &[&[(&str, &str)]]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for part in parts {
            write_tree(dir.path(), part);
        }
        let config = Collect {
            root: dir.path().to_owned(),
            battery: CollectBattery { enabled: true, supply: String::new() },
            link: CollectLink { enabled: true, interfaces: Vec::new(), monthly_budget: BTreeMap::new() },
            errors: CollectErrors {
                enabled: false,
                min_severity: Severity::Error,
                units: Vec::new(),
                max_clusters: 1,
                bucket: std::time::Duration::from_secs(60),
                app_socket: None,
            },
            host: CollectHost { enabled: true, mounts: vec![PathBuf::from("/")] },
        };
        Self { dir, config }
    }

    fn battery() -> Self {
        let mut made = Self::new(&[BATTERY]);
        made.config.link.enabled = false;
        made.config.host.enabled = false;
        made
    }

    fn link() -> Self {
        let mut made = Self::new(&[LINKS]);
        made.config.battery.enabled = false;
        made.config.host.enabled = false;
        made
    }

    fn host() -> Self {
        let mut made = Self::new(&[HOST]);
        made.config.battery.enabled = false;
        made.config.link.enabled = false;
        made
    }

    fn write(&self, path: &str, text: &str) {
        write_tree(self.dir.path(), &[(path, text)]);
    }

    fn supply(&self, file: &str, text: &str) {
        self.write(&format!("sys/class/power_supply/BAT0/{file}"), text);
    }

    fn remove(&self, path: &str) {
        let path = self.dir.path().join(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    fn observe(&self) -> Observation {
        let seen = Collectors::new(&self.config).observe(reading());
        seen.points.iter().for_each(as_the_table_says);
        seen
    }
}

/// Rules are held against the table of metrics before a gateway ever reads one.
fn as_the_table_says(Point { metric, value, .. }: &Point) {
    let fits = match (metric.content(), value) {
        (Content::Number, Value::Float(_) | Value::Count(_))
        | (Content::Flag, Value::Flag(_))
        | (Content::Text, Value::Text(_)) => true,
        (Content::Words(words), Value::Text(word)) => words.contains(&&**word),
        _ => false,
    };
    let lies_within = |(low, high)| value.number().is_some_and(|number| (low..=high).contains(&number));
    assert!(fits && metric.range().is_none_or(lies_within), "{metric} is {value:?}");
}

fn reading() -> ClockReading {
    let now = Now { mono: Mono(1_000), wall: Wall { unix: Unix(0), trusted: false } };
    ClockReading { now, synced: false }
}

fn labelled(observation: &Observation, metric: Metric, label: Option<&str>) -> Option<Value> {
    let mut points = observation.points.iter().filter(|p| p.metric == metric && p.label.as_deref() == label);
    let value = points.next().map(|point| point.value.clone());
    assert_eq!(points.next(), None, "{metric} {label:?} stands twice");
    value
}

fn value(observation: &Observation, metric: Metric) -> Option<Value> {
    labelled(observation, metric, None)
}

fn number(observation: &Observation, metric: Metric) -> Option<f64> {
    value(observation, metric).map(|value| value.number().unwrap())
}

fn near(observation: &Observation, metric: Metric, expected: f64) {
    let found = number(observation, metric).unwrap_or_else(|| panic!("no {metric} in {observation:?}"));
    assert!((found - expected).abs() < 1e-6, "{metric} is {found}, not {expected}");
}

/// The sources of the faults.
fn faulty(observation: &Observation) -> Vec<&str> {
    observation.faults.iter().map(|fault| fault.source.as_str()).collect()
}

#[test]
fn every_field_of_a_battery_is_read_in_the_units_of_the_contract() {
    let seen = Made::battery().observe();
    assert_eq!(value(&seen, Metric::BatteryPresent), Some(true.into()));
    assert_eq!(value(&seen, Metric::BatterySupply), Some("BAT0".into()));
    assert_eq!(value(&seen, Metric::BatteryState), Some("discharging".into()));
    assert_eq!(value(&seen, Metric::BatteryExternalPower), Some(false.into()));
    assert_eq!(value(&seen, Metric::BatteryCycles), Some(312_u64.into()));
    near(&seen, Metric::BatteryChargePct, 73.0);
    near(&seen, Metric::BatteryVoltage, 11.85);
    near(&seen, Metric::BatteryCurrent, -0.5);
    near(&seen, Metric::BatteryPower, -5.925);
    near(&seen, Metric::BatteryTemperature, -5.2);
    near(&seen, Metric::BatteryTimeToEmpty, 4.0 * 3600.0);
    near(&seen, Metric::BatteryHealth, 90.0);
    assert_eq!(seen.faults, []);
}

#[test]
fn a_file_that_says_nonsense_costs_only_its_field() {
    for nonsense in ["abc", "", "-1", "101", "NaN", "1e400", "73%", "\u{fffd}"] {
        let made = Made::battery();
        let whole = made.observe();
        made.supply("capacity", nonsense);
        let seen = made.observe();
        assert_eq!(faulty(&seen), ["/sys/class/power_supply/BAT0/capacity"], "{nonsense:?}");
        let left: Vec<_> =
            whole.points.iter().filter(|p| p.metric != Metric::BatteryChargePct && !own(p.metric)).collect();
        let found: Vec<_> = seen.points.iter().filter(|p| !own(p.metric)).collect();
        assert_eq!(found, left, "{nonsense:?}");
    }
}

/// Metrics of the agent itself differ from one round to the next.
fn own(metric: Metric) -> bool {
    matches!(metric, Metric::AgentRss | Metric::AgentCpu | Metric::AgentThreads | Metric::AgentStoreWritten)
}

#[test]
fn a_fault_quotes_what_the_file_said_and_what_was_wanted() {
    let made = Made::battery();
    made.supply("capacity", "abc\n");
    assert_eq!(made.observe().faults[0].what, r#"says "abc", which is not a number from 0 to 100"#);
}

#[test]
fn a_file_that_can_not_be_read_is_a_fault_and_one_that_is_not_there_is_none() {
    let made = Made::battery();
    made.remove("sys/class/power_supply/BAT0/temp");
    assert_eq!(faulty(&made.observe()), Vec::<&str>::new());
    fs::create_dir(made.dir.path().join("sys/class/power_supply/BAT0/temp")).unwrap();
    let seen = made.observe();
    assert_eq!(faulty(&seen), ["/sys/class/power_supply/BAT0/temp"]);
    assert_eq!(value(&seen, Metric::BatteryTemperature), None);
}

#[test]
fn a_supply_that_vanishes_after_it_was_listed_is_a_fault_and_the_rest_is_told() {
    let made = Made::battery();
    fs::create_dir(made.dir.path().join("sys/class/power_supply/AAA")).unwrap();
    let seen = made.observe();
    assert_eq!(faulty(&seen), ["/sys/class/power_supply/AAA/type"]);
    near(&seen, Metric::BatteryChargePct, 73.0);
}

#[test]
fn a_battery_is_said_to_be_missing_only_where_all_supplies_could_be_read() {
    let made = Made::battery();
    made.remove("sys/class/power_supply/BAT0");
    assert_eq!(value(&made.observe(), Metric::BatteryPresent), Some(false.into()));
    fs::create_dir(made.dir.path().join("sys/class/power_supply/AAA")).unwrap();
    assert_eq!(value(&made.observe(), Metric::BatteryPresent), None, "it may be this one");
}

#[test]
fn the_signs_follow_the_status_whatever_the_driver_thinks() {
    for (status, driver, expected) in [
        ("Charging", "500000", 0.5),
        ("Charging", "-500000", 0.5),
        ("Discharging", "500000", -0.5),
        ("Discharging", "-500000", -0.5),
        ("Full", "-500000", -0.5),
        ("Unknown", "500000", 0.5),
        ("Not charging", "0", 0.0),
    ] {
        let made = Made::battery();
        made.supply("status", status);
        made.supply("current_now", driver);
        near(&made.observe(), Metric::BatteryCurrent, expected);
    }
}

#[test]
fn without_a_capacity_the_charge_comes_from_charge_and_then_from_energy() {
    let made = Made::battery();
    made.remove("sys/class/power_supply/BAT0/capacity");
    near(&made.observe(), Metric::BatteryChargePct, 2.0 / 3.6 * 100.0);
    made.remove("sys/class/power_supply/BAT0/charge_now");
    made.supply("energy_now", "30000000");
    made.supply("energy_full", "40000000");
    near(&made.observe(), Metric::BatteryChargePct, 75.0);
}

#[test]
fn a_gauge_that_counts_past_an_aged_full_is_full_and_one_far_past_it_is_wrong() {
    let made = Made::battery();
    made.remove("sys/class/power_supply/BAT0/capacity");
    made.supply("charge_now", "3700000");
    near(&made.observe(), Metric::BatteryChargePct, 100.0);
    made.supply("charge_now", "9000000");
    let seen = made.observe();
    assert_eq!(number(&seen, Metric::BatteryChargePct), None);
    assert_eq!(faulty(&seen), ["/sys/class/power_supply/BAT0/charge_now"]);
}

#[test]
fn a_full_charge_of_zero_is_a_fault_and_not_a_division() {
    let made = Made::battery();
    made.remove("sys/class/power_supply/BAT0/capacity");
    made.supply("charge_full", "0");
    let seen = made.observe();
    assert_eq!(number(&seen, Metric::BatteryChargePct), None);
    assert_eq!(faulty(&seen)[0], "/sys/class/power_supply/BAT0/charge_now");
}

#[test]
fn a_full_charge_of_zero_is_no_health_and_leaves_it_to_the_energy() {
    let made = Made::battery();
    made.supply("charge_full", "0");
    let seen = made.observe();
    assert_eq!((number(&seen, Metric::BatteryHealth), seen.faults.as_slice()), (None, &[][..]));
    made.supply("energy_full", "30000000");
    made.supply("energy_full_design", "40000000");
    near(&made.observe(), Metric::BatteryHealth, 75.0);
}

#[test]
fn time_to_empty_is_the_drivers_own_before_an_estimate_and_nothing_while_charging() {
    let made = Made::battery();
    made.supply("time_to_empty_now", "7260");
    near(&made.observe(), Metric::BatteryTimeToEmpty, 7260.0);
    made.supply("status", "Charging");
    assert_eq!(number(&made.observe(), Metric::BatteryTimeToEmpty), None);
}

#[test]
fn time_to_empty_comes_from_energy_where_there_is_no_charge() {
    let made = Made::battery();
    made.remove("sys/class/power_supply/BAT0/charge_now");
    made.supply("power_now", "6000000");
    made.supply("energy_now", "30000000");
    near(&made.observe(), Metric::BatteryTimeToEmpty, 5.0 * 3600.0);
}

#[test]
fn no_current_is_no_end_rather_than_an_endless_one() {
    let made = Made::battery();
    made.supply("current_now", "0");
    let seen = made.observe();
    assert_eq!(number(&seen, Metric::BatteryTimeToEmpty), None);
    assert_eq!(seen.faults, []);
}

#[test]
fn a_cycle_count_of_zero_means_that_it_is_not_known() {
    let made = Made::battery();
    made.supply("cycle_count", "0");
    assert_eq!(value(&made.observe(), Metric::BatteryCycles), None);
}

#[test]
fn a_battery_that_is_out_is_told_and_not_measured() {
    let made = Made::battery();
    made.supply("present", "0");
    let seen = made.observe();
    assert_eq!(value(&seen, Metric::BatteryPresent), Some(false.into()));
    assert_eq!(number(&seen, Metric::BatteryChargePct), None);
}

#[test]
fn a_gateway_without_a_battery_says_so_and_nothing_else() {
    let made = Made::battery();
    made.remove("sys/class/power_supply");
    let seen = made.observe();
    let points: Vec<_> = seen.points.iter().filter(|point| !own(point.metric)).collect();
    assert_eq!(points, [&Point::new(Metric::BatteryPresent, false)]);
    assert_eq!(seen.faults, []);
}

#[test]
fn the_battery_of_a_mouse_is_not_the_gateways() {
    let made = Made::battery();
    made.write("sys/class/power_supply/AA_mouse/type", "Battery\n");
    made.write("sys/class/power_supply/AA_mouse/scope", "Device\n");
    made.write("sys/class/power_supply/AA_mouse/capacity", "5\n");
    near(&made.observe(), Metric::BatteryChargePct, 73.0);
}

#[test]
fn of_several_batteries_the_first_that_is_in_its_bay_is_told_and_a_ups_is_one_too() {
    let made = Made::battery();
    made.write("sys/class/power_supply/BAT1/type", "Battery\n");
    made.write("sys/class/power_supply/BAT1/capacity", "12\n");
    made.write("sys/class/power_supply/ups/type", "UPS\n");
    made.write("sys/class/power_supply/ups/capacity", "99\n");
    let told =
        |made: &Made| (value(&made.observe(), Metric::BatterySupply), value(&made.observe(), Metric::BatteryPresent));
    let present = |supply: &str| (Some(supply.into()), Some(true.into()));
    assert_eq!(told(&made), present("BAT0"));
    made.supply("present", "0\n");
    assert_eq!(told(&made), present("BAT1"));
    made.remove("sys/class/power_supply/BAT1");
    assert_eq!(told(&made), present("ups"));
    made.write("sys/class/power_supply/ups/present", "0\n");
    assert_eq!(told(&made), (Some("BAT0".into()), Some(false.into())));
}

#[test]
fn a_wireless_charger_that_is_online_is_external_power() {
    let made = Made::battery();
    made.write("sys/class/power_supply/wlc/type", "Wireless\n");
    made.write("sys/class/power_supply/wlc/online", "1\n");
    assert_eq!(value(&made.observe(), Metric::BatteryExternalPower), Some(true.into()));
}

#[test]
fn the_supply_that_is_named_is_the_one_that_is_read() {
    let mut made = Made::battery();
    made.write("sys/class/power_supply/BAT1/type", "Battery\n");
    made.write("sys/class/power_supply/BAT1/capacity", "12\n");
    made.config.battery.supply = "BAT1".to_owned();
    near(&made.observe(), Metric::BatteryChargePct, 12.0);
    made.config.battery.supply = "BAT9".to_owned();
    let seen = made.observe();
    assert_eq!(value(&seen, Metric::BatteryPresent), Some(false.into()));
    assert_eq!(faulty(&seen), ["/sys/class/power_supply/BAT9"]);
}

#[test]
fn any_source_that_is_online_is_external_power_and_one_that_can_not_be_read_leaves_it_open() {
    let made = Made::battery();
    made.write("sys/class/power_supply/usb/type", "USB_PD\n");
    made.write("sys/class/power_supply/usb/online", "2\n");
    assert_eq!(value(&made.observe(), Metric::BatteryExternalPower), Some(true.into()));
    made.write("sys/class/power_supply/usb/online", "yes\n");
    assert_eq!(value(&made.observe(), Metric::BatteryExternalPower), None);
}

#[test]
fn the_default_route_with_the_lowest_metric_is_the_link() {
    let seen = Made::link().observe();
    assert_eq!(value(&seen, Metric::LinkInterface), Some("eth0".into()));
    assert_eq!(value(&seen, Metric::LinkType), Some("ethernet".into()));
    assert_eq!(value(&seen, Metric::LinkUp), Some(true.into()));
    assert_eq!(value(&seen, Metric::LinkRxBytes), Some(123_456_789_012_u64.into()));
    assert_eq!(value(&seen, Metric::LinkCarrierChanges), Some(3_u64.into()));
    assert_eq!(value(&seen, Metric::LinkRxErrors), None);
    assert_eq!(seen.faults, []);
}

#[test]
fn where_interfaces_are_named_one_of_them_is_the_link() {
    let mut made = Made::link();
    let link_of = |made: &mut Made, named: &[&str]| {
        made.config.link.interfaces = named.iter().map(|name| (*name).to_owned()).collect();
        let seen = made.observe();
        (value(&seen, Metric::LinkInterface), value(&seen, Metric::LinkUp))
    };
    assert_eq!(link_of(&mut made, &["wwan0", "eth0"]), (Some("eth0".into()), Some(true.into())), "it has the route");
    assert_eq!(link_of(&mut made, &["wwan0"]), (Some("wwan0".into()), Some(true.into())), "it has a route, too");
    made.write("proc/net/route", ROUTE.lines().next().unwrap());
    assert_eq!(
        link_of(&mut made, &["gone0", "wwan0"]),
        (Some("wwan0".into()), Some(false.into())),
        "its route is gone"
    );
    assert_eq!(labelled(&made.observe(), Metric::InterfaceUp, Some("wwan0")), Some(true.into()));
    assert_eq!(link_of(&mut made, &["gone0"]), (None, Some(false.into())));
    assert_eq!(link_of(&mut made, &[]), (None, Some(false.into())), "none has a route");
}

#[test]
fn every_interface_that_carries_a_route_is_told_by_name() {
    let seen = Made::link().observe();
    assert_eq!(labelled(&seen, Metric::InterfaceType, Some("wwan0")), Some("cellular".into()));
    assert_eq!(labelled(&seen, Metric::InterfaceUp, Some("wwan0")), Some(true.into()));
    assert_eq!(labelled(&seen, Metric::InterfaceRxBytes, Some("wwan0")), Some(7_u64.into()));
    assert_eq!(labelled(&seen, Metric::InterfaceTxBytes, Some("eth0")), Some(42_u64.into()));
}

#[test]
fn of_many_interfaces_those_with_a_budget_are_told_before_others() {
    let mut made = Made::link();
    made.config.link.monthly_budget.insert("wwan0".to_owned(), 1);
    made.config.link.interfaces = (0..40).map(|n| format!("br{n}")).collect();
    let seen = made.observe();
    assert_eq!(labelled(&seen, Metric::InterfaceUp, Some("wwan0")), Some(true.into()));
    assert_eq!(faulty(&seen), ["/sys/class/net"], "the others are too many");
}

#[test]
fn of_many_interfaces_the_one_with_the_default_route_is_told_before_others() {
    let mut made = default_route_by("wwan9", &[("carrier", "1\n")]);
    made.config.link.interfaces = (0..40).map(|n| format!("br{n}")).chain(["wwan9".to_owned()]).collect();
    let seen = made.observe();
    assert_eq!(labelled(&seen, Metric::InterfaceUp, Some("wwan9")), Some(true.into()));
    assert_eq!(faulty(&seen), ["/sys/class/net"], "the others are too many");
}

/// An interface with the default route, and what it says of itself.
fn default_route_by(name: &str, files: &[(&str, &str)]) -> Made {
    let made = Made::link();
    made.write("proc/net/route", &ROUTE.replace("eth0\t00000000", &format!("{name}\t00000000")));
    for (file, text) in files.iter().chain(&[("operstate", "up\n"), ("type", "1\n")]) {
        made.write(&format!("sys/class/net/{name}/{file}"), text);
    }
    made
}

#[test]
fn what_is_made_of_other_interfaces_has_the_type_of_what_carries_it_and_tells_its_kind() {
    for (name, kind, file, text) in [
        ("br0", "bridge", "uevent", "DEVTYPE=bridge\nINTERFACE=br0\n"),
        ("br0", "bridge", "bridge/bridge_id", "8000.020000000001\n"),
        ("bond0", "bond", "uevent", "DEVTYPE=bond\n"),
        ("bond0", "bond", "bonding/mode", "active-backup 1\n"),
        ("wwan0.7", "vlan", "uevent", "DEVTYPE=vlan\n"),
    ] {
        let made = default_route_by(name, &[(file, text), ("lower_aaa/operstate", ""), ("lower_wwan0/operstate", "")]);
        made.write("sys/class/net/aaa/operstate", "down\n");
        made.write("sys/class/net/aaa/type", "1\n");
        let seen = made.observe();
        assert_eq!(value(&seen, Metric::LinkInterface), Some(name.into()));
        assert_eq!(value(&seen, Metric::LinkType), Some("cellular".into()), "{name} by {file}");
        assert_eq!(labelled(&seen, Metric::InterfaceKind, Some(name)), Some(kind.into()), "{name} by {file}");
        assert_eq!(labelled(&seen, Metric::InterfaceType, Some(name)), Some("cellular".into()), "{name} by {file}");
        assert_eq!(seen.faults, [], "{name} by {file}");
    }
}

#[test]
fn a_vpn_is_told_as_one_and_never_taken_for_ethernet() {
    for (file, text, hardware) in
        [("uevent", "DEVTYPE=wireguard\n", "65534"), ("tun_flags", "0x1001", "65534"), ("tun_flags", "0x1002", "1")]
    {
        let made = default_route_by("vpn0", &[(file, text)]);
        made.write("sys/class/net/vpn0/type", hardware);
        let seen = made.observe();
        assert_eq!(value(&seen, Metric::LinkInterface), Some("vpn0".into()));
        assert_eq!(value(&seen, Metric::LinkType), None, "{file} says {text}");
        assert_eq!(value(&seen, Metric::LinkUp), Some(true.into()), "{file} says {text}");
        assert_eq!(labelled(&seen, Metric::InterfaceKind, Some("vpn0")), Some("vpn".into()), "{file} says {text}");
        assert_eq!(labelled(&seen, Metric::InterfaceKind, Some("wwan0")), None, "a modem is hardware");
    }
}

#[test]
fn interfaces_that_carry_each_other_in_a_circle_are_a_fault_and_no_hang() {
    let made = default_route_by("br0", &[("bridge/bridge_id", ""), ("lower_br1/operstate", "")]);
    for (file, text) in [("bridge/bridge_id", ""), ("lower_br0/operstate", ""), ("operstate", "up\n")] {
        made.write(&format!("sys/class/net/br1/{file}"), text);
    }
    let seen = made.observe();
    assert_eq!(value(&seen, Metric::LinkType), None);
    assert_eq!(faulty(&seen), ["/sys/class/net/br0"]);
}

#[test]
fn without_a_default_route_the_link_is_none_and_down() {
    let made = Made::link();
    made.write("proc/net/route", "Iface\tDestination\n");
    let seen = made.observe();
    assert_eq!(value(&seen, Metric::LinkType), Some("none".into()));
    assert_eq!(value(&seen, Metric::LinkUp), Some(false.into()));
    assert_eq!(value(&seen, Metric::LinkInterface), None);
}

#[test]
fn a_route_that_leads_nowhere_is_no_link() {
    let made = Made::link();
    let nowhere = "*\t00000000\t00000000\t0001\t0\t0\t4000000\t00000000\t0\t0\t0\n\
                   *\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n";
    made.write("proc/net/route", &format!("Iface\tDestination\n{nowhere}"));
    let seen = made.observe();
    assert_eq!(value(&seen, Metric::LinkType), Some("none".into()));
    assert_eq!(labelled(&seen, Metric::InterfaceUp, Some("*")), None);
    assert_eq!(seen.faults, []);
}

#[test]
fn a_reload_does_not_tell_again_what_the_process_wrote_before() {
    // Beside the program: /tmp need not be on a disk, and memory wears nothing.
    let program = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
    let written = || number(&Made::host().observe(), Metric::AgentStoreWritten).unwrap_or(0.0);
    written();
    let path = dir.path().join("much");
    fs::write(&path, vec![7; 8 << 20]).unwrap();
    rustix::fs::sync();
    written();
    // Other tests of this process write, too, but not so much.
    assert!(written() < 8e6);
}

#[test]
fn a_default_route_of_ipv6_counts_where_ipv4_has_none_and_link_local_routes_lead_nowhere() {
    let made = Made::link();
    made.remove("proc/net/route");
    let zero = "0".repeat(32);
    let table = format!(
        "fe80{:0>28} 40 {zero} 00 {zero} 00000100 00000002 00000000 00000001 ifb0\n\
         {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n\
         {zero} 00 {zero} 00 fd{:0>30} 00000400 00000002 00000000 00000003 wwan0\n",
        "", "1"
    );
    made.write("proc/net/ipv6_route", &table);
    let seen = made.observe();
    assert_eq!(value(&seen, Metric::LinkInterface), Some("wwan0".into()));
    assert_eq!(value(&seen, Metric::LinkType), Some("cellular".into()));
    assert_eq!(labelled(&seen, Metric::InterfaceUp, Some("ifb0")), None);
    assert_eq!(seen.faults, []);
}

#[test]
fn a_routing_table_that_can_not_be_understood_is_not_a_link_that_is_down() {
    let made = Made::link();
    made.write("proc/net/route", "Iface\nwhat is this\n");
    let seen = made.observe();
    assert_eq!(value(&seen, Metric::LinkUp), None);
    assert_eq!(faulty(&seen), ["/proc/net/route"]);
}

#[test]
fn a_route_by_an_interface_that_no_kernel_would_name_so_is_nonsense() {
    for name in ["../../etc", "eth\0", "eth0\u{1b}[2J", "..", "an-interface-too-long"] {
        let made = Made::link();
        made.write("proc/net/route", &ROUTE.replace("wwan0", name).replace("eth0", name));
        let seen = made.observe();
        assert_eq!(value(&seen, Metric::LinkUp), None, "{name:?}");
        assert_eq!(faulty(&seen), ["/proc/net/route"; 3], "{name:?}: each of its lines");
    }
}

#[test]
fn a_wireless_interface_is_known_by_any_of_its_signs() {
    for (file, text) in [("uevent", "DEVTYPE=wlan\nINTERFACE=wlp1s0\n"), ("phy80211/name", "phy0"), ("wireless/x", "")]
    {
        let made = default_route_by("wlp1s0", &[(file, text)]);
        assert_eq!(value(&made.observe(), Metric::LinkType), Some("wifi".into()), "{file}");
    }
}

#[test]
fn a_wireless_interface_has_a_level_in_dbm_unless_its_driver_only_knows_a_quality() {
    let header = "Inter-| sta-|   Quality        |   Discarded packets\n face | tus | link level noise |\n";
    let made = Made::link();
    made.write("sys/class/net/eth0/phy80211/name", "phy0");
    made.write("proc/net/wireless", &format!("{header} eth0: 0000   54.  -56.  -256        0      0\n"));
    let seen = made.observe();
    assert_eq!(value(&seen, Metric::LinkType), Some("wifi".into()));
    near(&seen, Metric::LinkRssi, -56.0);
    made.write("proc/net/wireless", &format!("{header} eth0: 0000   54.  70.  0        0      0\n"));
    let seen = made.observe();
    assert_eq!(number(&seen, Metric::LinkRssi), None);
    assert_eq!(seen.faults, []);
}

#[test]
fn a_named_interface_that_is_gone_is_down_and_loopback_is_never_told() {
    let mut made = Made::link();
    made.config.link.interfaces = vec!["lo".to_owned(), "wwan7".to_owned()];
    made.write("sys/class/net/lo/operstate", "unknown\n");
    let seen = made.observe();
    assert_eq!(labelled(&seen, Metric::InterfaceUp, Some("wwan7")), Some(false.into()));
    assert_eq!(labelled(&seen, Metric::InterfaceUp, Some("eth0")), None);
    assert!(!seen.points.iter().any(|point| point.label.as_deref() == Some("lo")));
}

#[test]
fn an_interface_that_vanishes_after_its_route_was_read_is_down_and_costs_its_fields_and_not_the_round() {
    let made = Made::link();
    made.remove("sys/class/net/eth0");
    let seen = made.observe();
    assert_eq!(value(&seen, Metric::LinkInterface), Some("eth0".into()));
    assert_eq!(value(&seen, Metric::LinkUp), Some(false.into()));
    assert_eq!(faulty(&seen), ["/sys/class/net/eth0/type"]);
    assert_eq!(labelled(&seen, Metric::InterfaceUp, Some("eth0")), Some(false.into()));
}

#[test]
fn the_host_is_read_from_its_root() {
    let seen = Made::host().observe();
    near(&seen, Metric::HostLoad1, 0.52);
    near(&seen, Metric::HostUptime, 12_345.67);
    near(&seen, Metric::HostMemUsed, 75.0);
    near(&seen, Metric::HostMemAvailable, 256_000.0);
    near(&seen, Metric::HostSwapUsed, 25.0);
    near(&seen, Metric::HostTemperature, 48.25);
    near(&seen, Metric::HostFlashLife, 30.0);
    near(&seen, Metric::HostPsiCpu, 2.5);
    near(&seen, Metric::HostPsiIo, 0.04);
    assert_eq!(number(&seen, Metric::HostPsiMemory), None);
    assert_eq!(value(&seen, Metric::HostClockSynced), Some(false.into()));
    assert_eq!(seen.faults, []);
}

#[test]
fn the_processors_load_is_that_between_two_rounds() {
    let made = Made::host();
    let mut collectors = Collectors::new(&made.config);
    assert_eq!(number(&collectors.observe(reading()), Metric::HostCpu), None);
    made.write("proc/stat", "cpu  150 0 100 850 100 0 0 0 0 0\n");
    near(&collectors.observe(reading()), Metric::HostCpu, 25.0);
    made.write("proc/stat", "cpu  1 0 1 1 1 0 0 0 0 0\n");
    assert_eq!(number(&collectors.observe(reading()), Metric::HostCpu), None, "counters that went backwards");
}

#[test]
fn a_disk_is_counted_like_df_and_a_mount_that_is_missing_is_a_fault() {
    let mut made = Made::host();
    made.config.host.mounts.push(PathBuf::from("/data"));
    let seen = made.observe();
    let stat = rustix::fs::statvfs(made.dir.path()).unwrap();
    let used = labelled(&seen, Metric::HostDiskUsed, Some("/")).unwrap().number().unwrap();
    assert!((0.0..=100.0).contains(&used), "{used} % used");
    let free = labelled(&seen, Metric::HostDiskFree, Some("/")).unwrap().number().unwrap();
    let whole = Value::from(stat.f_blocks * stat.f_frsize).number().unwrap();
    assert!(free > 0.0 && free <= whole, "{free} B free of {whole} B");
    assert_eq!(faulty(&seen), ["/data"]);
}

#[test]
fn a_host_without_swap_flash_and_sensors_leaves_them_out() {
    let made = Made::host();
    made.remove("sys");
    made.remove("proc/pressure");
    made.write("proc/meminfo", "MemTotal:  1000 kB\nMemAvailable:  250 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n");
    let seen = made.observe();
    for metric in [Metric::HostSwapUsed, Metric::HostFlashLife, Metric::HostTemperature, Metric::HostPsiCpu] {
        assert_eq!(number(&seen, metric), None, "{metric}");
    }
    assert_eq!(seen.faults, []);
}

/// What 32 bits can't hold: an interface counts that in an hour, jiffies do in 500 days.
#[test]
fn counters_past_32_bits_are_read_whole() {
    const PAST: u64 = u32::MAX as u64 + 700;
    let mut made = Made::new(&[LINKS, HOST]);
    made.config.battery.enabled = false;
    made.write("sys/class/net/eth0/statistics/rx_bytes", &format!("{PAST}\n"));
    made.write("proc/meminfo", "MemTotal: 6442450944 kB\nMemAvailable: 4831838208 kB\n");
    made.write("proc/uptime", &format!("{PAST}.25 1.00\n"));
    let busy_and_idle = |busy: u64, idle: u64| format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\n");
    made.write("proc/stat", &busy_and_idle(u64::from(u32::MAX) - 100, PAST * 9));
    let mut collectors = Collectors::new(&made.config);
    let seen = collectors.observe(reading());
    assert_eq!(value(&seen, Metric::LinkRxBytes), Some(PAST.into()));
    near(&seen, Metric::HostMemAvailable, 4_831_838_208.0 * 1024.0);
    near(&seen, Metric::HostMemUsed, 25.0);
    near(&seen, Metric::HostUptime, 4_294_967_995.25);
    assert_eq!(seen.faults, []);
    made.write("proc/stat", &busy_and_idle(u64::from(u32::MAX) + 100, PAST * 9 + 600));
    near(&collectors.observe(reading()), Metric::HostCpu, 25.0);
}

#[test]
fn a_kernel_without_an_estimate_of_what_is_available_has_no_share_in_use() {
    // Before 3.14.
    let made = Made::host();
    made.write("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 10 kB\nCached: 500 kB\n");
    let seen = made.observe();
    assert_eq!((number(&seen, Metric::HostMemUsed), number(&seen, Metric::HostMemAvailable)), (None, None));
    assert_eq!(seen.faults, []);
}

#[test]
fn worn_out_flash_is_told_past_its_end_and_a_reserved_step_is_a_fault() {
    let made = Made::host();
    for (life, expected) in [("0x00 0x00", None), ("0x01 0x00", Some(10.0)), ("0x0a 0x0b", Some(110.0))] {
        made.write("sys/block/mmcblk0/device/life_time", life);
        assert_eq!(number(&made.observe(), Metric::HostFlashLife), expected, "{life}");
    }
    made.write("sys/block/mmcblk0/device/life_time", "0x0c 0x01");
    assert_eq!(faulty(&made.observe()), ["/sys/block/mmcblk0/device/life_time"]);
}

#[test]
fn a_voltage_that_is_critically_low_is_told_and_nothing_where_no_chip_watches_for_it() {
    let made = Made::host();
    made.write("sys/class/hwmon/hwmon0/in0_input", "3300\n");
    assert_eq!(value(&made.observe(), Metric::HostUndervoltage), None);
    made.write("sys/class/hwmon/hwmon0/in1_lcrit_alarm", "0\n");
    assert_eq!(value(&made.observe(), Metric::HostUndervoltage), Some(false.into()));
    made.write("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "yes\n");
    assert_eq!(value(&made.observe(), Metric::HostUndervoltage), None, "it may be the one that is low");
    made.write("sys/class/hwmon/hwmon2/in0_lcrit_alarm", "1\n");
    assert_eq!(value(&made.observe(), Metric::HostUndervoltage), Some(true.into()));
}

#[test]
fn without_a_thermal_zone_the_hottest_is_that_of_the_hwmon_chips() {
    let made = Made::host();
    for (file, mc) in [("hwmon0/temp1_input", "51000"), ("hwmon1/temp2_input", "63500"), ("hwmon1/temp2_max", "99000")]
    {
        made.write(&format!("sys/class/hwmon/{file}"), mc);
    }
    near(&made.observe(), Metric::HostTemperature, 48.25);
    made.remove("sys/class/thermal");
    near(&made.observe(), Metric::HostTemperature, 63.5);
}

#[test]
fn a_sensor_that_says_nonsense_leaves_the_hottest_to_the_others() {
    let made = Made::host();
    made.write("sys/class/thermal/thermal_zone1/temp", "-274000\n");
    let seen = made.observe();
    near(&seen, Metric::HostTemperature, 41.5);
    assert_eq!(faulty(&seen), ["/sys/class/thermal/thermal_zone1/temp"]);
}

#[test]
fn a_collector_that_is_off_reads_nothing() {
    let mut made = Made::new(&[BATTERY, LINKS, HOST]);
    made.config.battery.enabled = false;
    made.config.link.enabled = false;
    made.config.host.enabled = false;
    let seen = made.observe();
    assert_eq!(seen.points.iter().find(|point| !own(point.metric)), None);
}

#[test]
fn the_agent_tells_what_it_uses_itself_whatever_the_root_is() {
    let made = Made::new(&[]);
    let mut collectors = Collectors::new(&made.config);
    collectors.observe(reading());
    let seen = collectors.observe(reading());
    assert!(number(&seen, Metric::AgentRss).unwrap() > 1e5);
    assert!(number(&seen, Metric::AgentThreads).unwrap() >= 1.0);
    assert!(number(&seen, Metric::AgentCpu).unwrap() >= 0.0);
}

#[test]
fn this_machine_is_read_without_a_point_twice() {
    let mut config = Made::new(&[]).config;
    config.root = PathBuf::from("/");
    let mut collectors = Collectors::new(&config);
    collectors.observe(reading());
    let seen = collectors.observe(reading());
    for metric in [Metric::HostMemUsed, Metric::HostUptime, Metric::LinkType, Metric::BatteryPresent] {
        assert!(value(&seen, metric).is_some(), "no {metric} in {seen:?}");
    }
    for point in &seen.points {
        assert_eq!(point.label.is_some(), point.metric.has_label(), "{point:?}");
        labelled(&seen, point.metric, point.label.as_deref());
    }
}

#[test]
fn a_file_without_end_is_given_up_at_its_bound() {
    let made = Made::host();
    made.write("proc/loadavg", &"1".repeat(2 << 20));
    let seen = made.observe();
    assert_eq!(faulty(&seen), ["/proc/loadavg"]);
    assert_eq!(number(&seen, Metric::HostLoad1), None);
}

#[test]
fn the_wall_clock_is_trusted_when_it_was_set_or_the_configuration_says_so() {
    let made = Made::new(&[]);
    let untrusted = clock::Clock::new(ClockTrust::Kernel, made.dir.path()).read();
    assert!(!untrusted.synced && !untrusted.now.wall.trusted);
    let always = clock::Clock::new(ClockTrust::Always, made.dir.path()).read();
    assert!(!always.synced && always.now.wall.trusted);
    let mut changed = clock::Clock::new(ClockTrust::Kernel, made.dir.path());
    changed.set_trust(ClockTrust::Always);
    assert!(changed.now().wall.trusted);
    made.write("run/systemd/timesync/synchronized", "");
    let synced = clock::Clock::new(ClockTrust::Kernel, made.dir.path()).read();
    assert!(synced.synced && synced.now.wall.trusted);
}

#[test]
fn time_since_boot_never_runs_backwards() {
    let mut clock = clock::Clock::new(ClockTrust::Kernel, Path::new("/"));
    let first = clock.now();
    assert!(first.mono > Mono(0));
    assert!(clock.now().mono >= first.mono);
}

#[test]
fn the_boot_id_is_read_and_a_wrong_one_refused() {
    let made = Made::new(&[]);
    let path = "proc/sys/kernel/random/boot_id";
    assert_eq!(clock::boot_id(made.dir.path()).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    made.write(path, "4f0d4f6e-3f63-4b9e-9c06-6bb7c6a8a0a1\n");
    assert_eq!(clock::boot_id(made.dir.path()).unwrap().to_string(), "4f0d4f6e-3f63-4b9e-9c06-6bb7c6a8a0a1");
    made.write(path, "none\n");
    assert_eq!(clock::boot_id(made.dir.path()).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}

#[test]
fn the_worker_answers_each_round_it_takes_on_and_refuses_what_it_can_not_hold() {
    let made = Made::battery();
    // A FIFO that nobody writes to: whoever opens it hangs, like a driver that doesn't answer.
    let fifo = made.dir.path().join("sys/class/power_supply/BAT0/capacity");
    fs::remove_file(&fifo).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();

    let (inputs, mut answers) = tokio::sync::mpsc::channel(4);
    let worker = worker::Worker::spawn(Collectors::new(&made.config), inputs).unwrap();
    let mut taken = 0;
    let refused = loop {
        match worker.request(EffectId(taken), reading()) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, worker::RequestError::Busy);
    assert!((1..=2).contains(&taken), "{taken} rounds were taken on");

    for id in 0..taken {
        fs::write(&fifo, "55\n").unwrap();
        let Some(Input::Observed { id: answered, result: Ok(seen) }) = answers.blocking_recv() else { panic!() };
        assert_eq!(answered, EffectId(id));
        near(&seen, Metric::BatteryChargePct, 55.0);
    }
}

proptest! {
    #[test]
    fn no_text_whatever_makes_a_collector_fail(text in ".{0,60}", which in 0..BATTERY.len() + LINKS.len() + HOST.len()) {
        let made = Made::new(&[BATTERY, LINKS, HOST]);
        let path = BATTERY.iter().chain(LINKS).chain(HOST).nth(which).unwrap().0;
        made.write(path, &text);
        let seen = made.observe();
        prop_assert!(seen.points.iter().all(|point| point.value.number().is_none_or(f64::is_finite)));
    }
}
