//! What a battery, and the power beside it, tell of themselves.

use super::*;

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
fn a_supply_that_vanishes_after_it_was_listed_is_a_fault_and_the_rest_is_told() {
    let made = Made::battery();
    fs::create_dir(made.dir.path().join("sys/class/power_supply/AAA")).unwrap();
    let seen = made.observe();
    assert_eq!(faulty(&seen), ["/sys/class/power_supply/AAA/type"]);
    near(&seen, Metric::BatteryChargePct, 73.0);
}

#[test]
fn a_battery_that_is_plugged_in_again_is_told_again() {
    let made = Made::battery();
    let mut collectors = Collectors::new(&made.config);
    let bay = made.dir.path().join("sys/class/power_supply/BAT0");
    let aside = made.dir.path().join("aside");
    let mut charge = || {
        let seen = collectors.observe(reading());
        assert_eq!(seen.faults, []);
        (value(&seen, Metric::BatteryPresent), number(&seen, Metric::BatteryChargePct))
    };
    assert_eq!(charge(), (Some(true.into()), Some(73.0)));
    fs::rename(&bay, &aside).unwrap();
    assert_eq!(charge(), (Some(false.into()), None));
    fs::rename(&aside, &bay).unwrap();
    assert_eq!(charge(), (Some(true.into()), Some(73.0)));
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
        ("Not charging", "0", 0.0),
    ] {
        let made = Made::battery();
        made.supply("status", status);
        made.supply("current_now", driver);
        near(&made.observe(), Metric::BatteryCurrent, expected);
    }
}

#[test]
fn no_current_and_no_power_is_told_where_the_status_gives_no_direction() {
    for status in ["Full", "Not charging", "Unknown", "Wibble", ""] {
        for driver in ["500000", "-500000"] {
            for power in [None, Some(driver)] {
                let made = Made::battery();
                made.supply("status", status);
                made.supply("current_now", driver);
                if let Some(power) = power {
                    made.supply("power_now", power);
                }
                let seen = made.observe();
                let told = (number(&seen, Metric::BatteryCurrent), number(&seen, Metric::BatteryPower));
                assert_eq!(told, (None, None), "{status} {driver} {power:?}");
            }
        }
    }
    let made = Made::battery();
    made.remove("sys/class/power_supply/BAT0/status");
    assert_eq!(number(&made.observe(), Metric::BatteryCurrent), None);
}

#[test]
fn a_battery_without_any_voltage_is_a_fault_and_no_power_comes_of_it() {
    let made = Made::battery();
    made.supply("voltage_now", "0");
    let seen = made.observe();
    assert_eq!((number(&seen, Metric::BatteryVoltage), number(&seen, Metric::BatteryPower)), (None, None));
    assert_eq!(faulty(&seen), ["/sys/class/power_supply/BAT0/voltage_now"]);
    near(&seen, Metric::BatteryCurrent, -0.5);
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
    assert_eq!(number(&seen, Metric::BatteryTimeToEmpty), None, "nothing is reckoned from it");
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
    made.supply("charge_full", "3000000");
    made.supply("charge_full_design", "0");
    let seen = made.observe();
    near(&seen, Metric::BatteryHealth, 75.0);
    assert_eq!(seen.faults, []);
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
fn a_gauge_that_knows_no_time_to_empty_and_says_zero_leaves_it_to_the_charge() {
    let made = Made::battery();
    made.supply("time_to_empty_now", "0");
    near(&made.observe(), Metric::BatteryTimeToEmpty, 4.0 * 3600.0);
    made.supply("charge_now", "0");
    near(&made.observe(), Metric::BatteryTimeToEmpty, 0.0);
    made.remove("sys/class/power_supply/BAT0/charge_now");
    assert_eq!(number(&made.observe(), Metric::BatteryTimeToEmpty), None);
}

#[test]
fn time_to_empty_comes_from_energy_where_there_is_no_charge() {
    let made = Made::battery();
    made.remove("sys/class/power_supply/BAT0/charge_now");
    made.supply("power_now", "6000000");
    made.supply("energy_now", "30000000");
    near(&made.observe(), Metric::BatteryTimeToEmpty, 5.0 * 3600.0);
    made.supply("energy_full", "15000000");
    assert_eq!(number(&made.observe(), Metric::BatteryTimeToEmpty), None, "it holds twice what goes in");
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
    made.write("sys/class/power_supply/ups/present", "yes\n");
    assert_eq!(told(&made), (Some("ups".into()), None), "that none is there would be a guess");
    made.supply("present", "1\n");
    made.write("sys/class/power_supply/AAA/type", "Battery\n");
    made.write("sys/class/power_supply/AAA/present", "yes\n");
    assert_eq!(told(&made), present("BAT0"));
}

#[test]
fn a_charger_of_another_kind_that_is_online_is_external_power() {
    for kind in ["Wireless", "BrickID"] {
        let made = Made::battery();
        made.write("sys/class/power_supply/wlc/type", kind);
        made.write("sys/class/power_supply/wlc/online", "1\n");
        assert_eq!(value(&made.observe(), Metric::BatteryExternalPower), Some(true.into()), "{kind}");
    }
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
