//! Links, from `/sys/class/net` (Documentation/ABI/testing/sysfs-class-net), the kernel's routing tables and
//! `/proc/net/wireless`. Among the chosen interfaces the one that carries the default route is *the* link; each is also
//! told by name. Counters are handed over as the kernel counts them: growth is the engine's to work out. Loopback never
//! counts.

use std::collections::BTreeSet;

use super::round::{Faulted, Reading, Round};
use crate::config::{CollectLink, is_interface_name};
use crate::engine::metric::Metric;
use crate::gather::gather;

const LOOPBACK: &str = "lo";
const CELLULAR: &str = "cellular";
/// The most interfaces that are told by name; a gateway with more (containers, bridges) should name those that count.
const INTERFACES_MAX: usize = 32;
/// A VLAN on a bridge on a bond on a card, and then some.
const LAYERS_MAX: usize = 6;

// include/uapi/linux/route.h and ipv6_route.h.
const RTF_UP: u32 = 0x1;
const RTF_REJECT: u32 = 0x200;
const RTF_ANYCAST: u32 = 0x0010_0000;
const RTF_LOCAL: u32 = 0x8000_0000;

// include/uapi/linux/if_arp.h.
const ARPHRD_ETHER: u32 = 1;
const ARPHRD_PPP: u32 = 512;
const ARPHRD_RAWIP: u32 = 519;

/// dBm. Drivers that only know a relative quality give numbers from 0 up.
const RSSI_DBM: std::ops::RangeInclusive<f64> = -150.0..=255.0;

/// The files of [`Metric::LINK_COUNTERS`].
const COUNTERS: [&str; 7] = [
    "statistics/rx_bytes",
    "statistics/tx_bytes",
    "statistics/rx_errors",
    "statistics/tx_errors",
    "statistics/rx_dropped",
    "statistics/tx_dropped",
    "carrier_changes",
];

/// What the routing tables say.
#[derive(Default)]
struct Routes {
    /// The interfaces of default routes, the best first.
    defaults: Vec<String>,
    /// Every interface that leads somewhere.
    carriers: BTreeSet<String>,
    /// Part of the tables could not be read, so that "no default route" can't be told.
    incomplete: bool,
}

/// One line of a routing table.
struct Route<'a> {
    interface: &'a str,
    is_default: bool,
    metric: u32,
}

/// Reads every chosen interface, and the one with the default route, into `round`; the latter's name where it is a
/// modem's.
pub(super) fn collect(config: &CollectLink, round: &mut Round<'_>) -> Option<String> {
    let routes = routes(round);
    let mut modem = None;
    let the_link = the_link(config, &routes, round);
    if let Some(name) = &the_link {
        let leads_nowhere = !routes.incomplete && !routes.defaults.contains(name);
        modem = link(round, name, leads_nowhere).then(|| name.clone());
    } else if !routes.incomplete {
        round.point(Metric::LinkType, "none");
        round.point(Metric::LinkUp, false);
    }

    let mut chosen: BTreeSet<String> =
        if config.interfaces.is_empty() { routes.carriers } else { gather(config.interfaces.iter().cloned()) };
    chosen.retain(|name| !config.monthly_budget.contains_key(name));
    // First, as they may not be among those that are left out: their data would be counted as nothing.
    let mut first: Vec<String> = config.monthly_budget.keys().cloned().collect();
    // And the one that all the others depend on.
    first.extend(the_link.and_then(|name| chosen.take(&name)));
    let chosen: Vec<String> = first.into_iter().chain(chosen).collect();
    if chosen.len() > INTERFACES_MAX {
        round.fault("sys/class/net", format!("{} interfaces: only the first {INTERFACES_MAX} are told", chosen.len()));
    }
    for name in chosen.iter().filter(|name| *name != LOOPBACK).take(INTERFACES_MAX) {
        interface(round, name);
    }
    modem
}

/// The interface with the default route. Where interfaces are named, one of them: without a route the first that is up,
/// or else the first that is there.
fn the_link(config: &CollectLink, routes: &Routes, round: &mut Round<'_>) -> Option<String> {
    let named = &config.interfaces;
    let by_route = routes.defaults.iter().find(|name| named.is_empty() || named.contains(name));
    if by_route.is_some() {
        return by_route.cloned();
    }
    let there: Vec<&String> = named.iter().filter(|name| round.exists(&format!("sys/class/net/{name}"))).collect();
    let up = there.iter().find(|name| matches!(is_up(round, name), Ok(Some(true))));
    up.or(there.first()).map(|name| (*name).clone())
}

/// Whether it is a modem's. One without a default route is not up, whatever its carrier says.
fn link(round: &mut Round<'_>, name: &str, leads_nowhere: bool) -> bool {
    round.point(Metric::LinkInterface, name);
    let kind = link_type(round, name, 0);
    round.reading(Metric::LinkType, kind);
    let is_gone = !round.exists(&format!("sys/class/net/{name}"));
    let up = if leads_nowhere || is_gone { Ok(Some(false)) } else { is_up(round, name) };
    round.reading(Metric::LinkUp, up);
    let rssi = rssi_dbm(round, name);
    round.reading(Metric::LinkRssi, rssi);
    for (file, (metric, _)) in COUNTERS.into_iter().zip(Metric::LINK_COUNTERS) {
        let count = round.number(&format!("sys/class/net/{name}/{file}"), 0..=u64::MAX);
        round.reading(metric, count);
    }
    kind == Ok(Some(CELLULAR))
}

fn interface(round: &mut Round<'_>, name: &str) {
    // An interface that the configuration names and that is not there (a modem that fell off its bus) is down.
    if !round.exists(&format!("sys/class/net/{name}")) {
        round.labelled(Metric::InterfaceUp, name, false);
        return;
    }
    if let Ok(Some(kind)) = link_type(round, name, 0) {
        round.labelled(Metric::InterfaceType, name, kind);
    }
    if let Ok(Some(kind)) = virtual_kind(round, name) {
        round.labelled(Metric::InterfaceKind, name, kind.word());
    }
    if let Ok(Some(up)) = is_up(round, name) {
        round.labelled(Metric::InterfaceUp, name, up);
    }
    if let Ok(Some(rssi)) = rssi_dbm(round, name) {
        round.labelled(Metric::InterfaceRssi, name, rssi);
    }
    for (file, (_, metric)) in COUNTERS.into_iter().zip(Metric::LINK_COUNTERS) {
        if let Ok(Some(count)) = round.number(&format!("sys/class/net/{name}/{file}"), 0..=u64::MAX) {
            round.labelled(metric, name, count);
        }
    }
}

/// The contract's word for what an interface is; of one that is made of others, for what carries it. Nothing for a VPN:
/// what carries a tunnel is the routes' to say, packet by packet.
fn link_type(round: &mut Round<'_>, name: &str, depth: usize) -> Reading<&'static str> {
    match virtual_kind(round, name)? {
        None => hardware(round, name, depth),
        Some(Virtual::Vpn) => Ok(None),
        Some(_) if depth >= LAYERS_MAX => Err(round.fault(&format!("sys/class/net/{name}"), "stacked too high")),
        Some(_) => match carrier(round, name) {
            Some(lower) => link_type(round, &lower, depth + 1),
            None => Ok(None),
        },
    }
}

/// What an interface is that is no hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Virtual {
    Bridge,
    Bond,
    Vlan,
    Vpn,
}

impl Virtual {
    const fn word(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Bond => "bond",
            Self::Vlan => "vlan",
            Self::Vpn => "vpn",
        }
    }
}

/// By what the drivers say of themselves (SET_NETDEV_DEVTYPE), and by the files that only they have: a TAP has the type
/// of an ethernet card.
fn virtual_kind(round: &mut Round<'_>, name: &str) -> Reading<Virtual> {
    let dir = format!("sys/class/net/{name}");
    let uevent = round.text(&format!("{dir}/uevent"))?.unwrap_or_default();
    Ok(match uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE=")) {
        Some("bridge") => Some(Virtual::Bridge),
        Some("bond") => Some(Virtual::Bond),
        Some("vlan") => Some(Virtual::Vlan),
        Some("wireguard") => Some(Virtual::Vpn),
        _ if round.exists(&format!("{dir}/tun_flags")) => Some(Virtual::Vpn),
        _ if round.exists(&format!("{dir}/bridge")) => Some(Virtual::Bridge),
        _ if round.exists(&format!("{dir}/bonding")) => Some(Virtual::Bond),
        _ => None,
    })
}

/// The interface below: the first that is up, else the first. The kernel links each as `lower_NAME`.
fn carrier(round: &mut Round<'_>, name: &str) -> Option<String> {
    let entries = round.names(&format!("sys/class/net/{name}"));
    let lowers: Vec<&str> =
        entries.iter().filter_map(|entry| entry.strip_prefix("lower_")).take(INTERFACES_MAX).collect();
    let up = lowers.iter().find(|lower| matches!(is_up(round, lower), Ok(Some(true))));
    up.or(lowers.first()).map(|lower| (*lower).to_owned())
}

/// The interface that PPPoE goes over, where as many sessions are open as there are PPP interfaces: which session is
/// whose the kernel doesn't say.
fn pppoe_carrier(round: &mut Round<'_>) -> Reading<String> {
    let Some(table) = round.text("proc/net/pppoe")? else { return Ok(None) };
    let interfaces = round.names("sys/class/net").iter().filter(|name| name.starts_with("ppp")).count();
    // `Id Address Device`, below a heading (drivers/net/ppp/pppoe.c).
    let devices: Vec<&str> = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2)).collect();
    let device = devices.first().filter(|name| devices.len() >= interfaces && is_interface_name(name));
    Ok(device.map(|name| (*name).to_owned()))
}

/// What an interface of hardware is; of one that is none which anybody knows, what carries it.
fn hardware(round: &mut Round<'_>, name: &str, depth: usize) -> Reading<&'static str> {
    let dir = format!("sys/class/net/{name}");
    let file = format!("{dir}/type");
    let text = round.required(&file)?;
    let hardware = round.parse(&file, &text, 0..=u32::from(u16::MAX))?;
    let uevent = round.text(&format!("{dir}/uevent"))?.unwrap_or_default();
    let is_of = |devtype: &str| uevent.lines().any(|line| line.strip_prefix("DEVTYPE=") == Some(devtype));
    let is_modem = is_of("wwan") || name.starts_with("wwan");
    let (or_else, lower) = match hardware {
        _ if is_of("wlan") => ("wifi", None),
        _ if round.exists(&format!("{dir}/wireless")) || round.exists(&format!("{dir}/phy80211")) => ("wifi", None),
        _ if is_modem => (CELLULAR, None),
        ARPHRD_RAWIP => (CELLULAR, None),
        ARPHRD_ETHER => ("ethernet", None),
        ARPHRD_PPP if name.starts_with("ppp") => (CELLULAR, pppoe_carrier(round)?),
        // A channel of a modem's, say.
        _ => ("none", carrier(round, name)),
    };
    match lower {
        Some(lower) if depth < LAYERS_MAX => link_type(round, &lower, depth + 1),
        _ => Ok(Some(or_else)),
    }
}

/// RFC 2863's operational state. PPP and raw-IP modems never learn theirs: there the carrier tells.
fn is_up(round: &mut Round<'_>, name: &str) -> Reading<bool> {
    let file = format!("sys/class/net/{name}/operstate");
    let state = round.required(&file)?;
    match state.as_str() {
        "up" => Ok(Some(true)),
        "down" | "lowerlayerdown" | "dormant" | "notpresent" | "testing" => Ok(Some(false)),
        "unknown" => Ok(round.number(&format!("sys/class/net/{name}/carrier"), 0..=1)?.map(|carrier| carrier == 1)),
        _ => Err(round.nonsense(&file, &state, "an operational state of RFC 2863")),
    }
}

/// The signal's level in `/proc/net/wireless`: `wlan0: 0000   54.  -56.  -256  …` (status, quality, level, noise).
fn rssi_dbm(round: &mut Round<'_>, name: &str) -> Reading<f64> {
    const FILE: &str = "proc/net/wireless";
    let Some(table) = round.text(FILE)? else { return Ok(None) };
    let of_interface = |line: &str| {
        let (interface, rest) = line.split_once(':')?;
        (interface.trim() == name).then(|| rest.split_whitespace().nth(2).unwrap_or_default().to_owned())
    };
    let Some(level) = table.lines().find_map(of_interface) else { return Ok(None) };
    let dbm = round.parse(FILE, level.trim_end_matches('.'), RSSI_DBM)?;
    Ok(Some(dbm).filter(|dbm| *dbm < 0.0))
}

/// Both tables. Metrics of the two families don't compare: IPv6's default routes come after all of IPv4's.
fn routes(round: &mut Round<'_>) -> Routes {
    let mut routes = Routes::default();
    let v4 = table(round, "proc/net/route", 1, parse_v4, &mut routes);
    let v6 = table(round, "proc/net/ipv6_route", 0, parse_v6, &mut routes);
    if (v4, v6) == (Ok(None), Ok(None)) {
        round.fault("proc/net/route", "missing");
        routes.incomplete = true;
    }
    routes
}

type ParseRoute = fn(&str) -> Option<Option<Route<'_>>>;

/// Adds one table to `routes`; `Ok(None)` where the kernel doesn't have it.
fn table(
    round: &mut Round<'_>,
    file: &str,
    header_lines: usize,
    parse: ParseRoute,
    routes: &mut Routes,
) -> Reading<()> {
    let text = round.text(file).inspect_err(|Faulted| routes.incomplete = true)?;
    let Some(text) = text else { return Ok(None) };
    let mut defaults: Vec<Route<'_>> = Vec::new();
    for line in text.lines().skip(header_lines) {
        let Some(parsed) = parse(line) else {
            routes.incomplete = true;
            round.nonsense(file, line, "a route");
            continue;
        };
        let Some(route) = parsed.filter(|route| route.interface != LOOPBACK) else { continue };
        routes.carriers.insert(route.interface.to_owned());
        if route.is_default {
            // In the order of the file where they cost the same.
            let place = defaults.partition_point(|known| known.metric <= route.metric);
            defaults.insert(place, route);
        }
    }
    routes.defaults.extend(defaults.iter().map(|route| route.interface.to_owned()));
    Ok(Some(()))
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …` (net/ipv4/fib_trie.c). `Some(None)`: not in use.
fn parse_v4(line: &str) -> Option<Option<Route<'_>>> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [interface, destination, _gateway, flags, _refs, _use, metric, mask, ..] = fields.as_slice() else {
        return None;
    };
    // A route that leads nowhere (blackhole, throw) has no interface.
    if *interface == "*" {
        return Some(None);
    }
    if !is_interface_name(interface) {
        return None;
    }
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let destination = u32::from_str_radix(destination, 16).ok()?;
    let mask = u32::from_str_radix(mask, 16).ok()?;
    // A number without a sign, which older kernels print with one.
    let signed = || metric.parse::<i32>().ok().map(|metric| u32::from_ne_bytes(metric.to_ne_bytes()));
    let metric = metric.parse().ok().or_else(signed)?;
    let in_use = flags & RTF_UP != 0 && flags & RTF_REJECT == 0;
    Some(in_use.then_some(Route { interface, is_default: destination == 0 && mask == 0, metric }))
}

/// `dest plen src splen nexthop metric refs use flags iface` (net/ipv6/route.c). Link-local and multicast routes stand
/// on every interface that is up, and lead nowhere.
fn parse_v6(line: &str) -> Option<Option<Route<'_>>> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, prefix, _source, _splen, _next, metric, _refs, _use, flags, interface] = fields.as_slice() else {
        return None;
    };
    if !is_interface_name(interface) {
        return None;
    }
    let destination = u128::from_str_radix(destination, 16).ok()?;
    let prefix = u8::from_str_radix(prefix, 16).ok()?;
    let metric = u32::from_str_radix(metric, 16).ok()?;
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let address = std::net::Ipv6Addr::from(destination);
    let in_use = flags & RTF_UP != 0 && flags & (RTF_REJECT | RTF_LOCAL | RTF_ANYCAST) == 0;
    let leads_somewhere = !address.is_multicast() && !address.is_unicast_link_local();
    let route = Route { interface, is_default: destination == 0 && prefix == 0, metric };
    Some((in_use && leads_somewhere).then_some(route))
}
