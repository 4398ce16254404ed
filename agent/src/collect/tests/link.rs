//! Which interface carries the route out, what kind it is, and what each of them tells.

use super::*;

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
fn a_metric_that_an_older_kernel_prints_as_below_zero_is_the_largest() {
    let made = Made::link();
    for metric in ["-16769024", "4278198272"] {
        made.write("proc/net/route", &ROUTE.replace("\t100\t00000000", &format!("\t{metric}\t00000000")));
        let seen = made.observe();
        assert_eq!(value(&seen, Metric::LinkInterface), Some("wwan0".into()), "{metric}");
        assert_eq!(seen.faults, [], "{metric}");
    }
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
fn a_modem_is_cellular_whatever_its_interface_is_called() {
    for (name, hardware) in [("rmnet_data0", "519\n"), ("mhi_hwip0", "519\n"), ("qmimux0", "65534\n")] {
        let made = default_route_by(name, &[("lower_wwan0/operstate", "")]);
        made.write(&format!("sys/class/net/{name}/type"), hardware);
        let seen = made.observe();
        assert_eq!(value(&seen, Metric::LinkType), Some("cellular".into()), "{name}");
        assert_eq!(seen.faults, [], "{name}");
    }
}

#[test]
fn ppp_over_ethernet_is_no_modem_and_where_it_can_not_be_told_ppp_is_one() {
    const SESSION: &str = "Id       Address              Device\n01000000 02:00:00:00:00:01     eth0\n";
    for (table, others, kind) in [
        (Some(SESSION), &[][..], "ethernet"),
        (Some(SESSION), &["ppp1"], "cellular"),
        (Some("Id       Address              Device\n"), &[], "cellular"),
        (None, &[], "cellular"),
    ] {
        let made = default_route_by("ppp0", &[]);
        made.write("sys/class/net/ppp0/type", "512\n");
        if let Some(table) = table {
            made.write("proc/net/pppoe", table);
        }
        for other in others {
            made.write(&format!("sys/class/net/{other}/type"), "512\n");
        }
        let seen = made.observe();
        assert_eq!(value(&seen, Metric::LinkType), Some(kind.into()), "{table:?}, beside {others:?}");
        assert_eq!(seen.faults, []);
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
