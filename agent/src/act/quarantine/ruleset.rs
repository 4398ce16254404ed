//! The text of the firewall's rules (nft(8)): one table of our own, replaced in one transaction, which drops both ways
//! whatever the level doesn't leave in reach. Nothing but parsed addresses, ports and numbers goes into it. Loads
//! nothing.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::terms::Terms;
use crate::config::{Network, QuarantineLevel};

/// The table's family and name.
pub const TABLE: &str = "inet fieldmedic_quarantine";

/// The same for what bridges forward, which never comes by the other one: a family that not each kernel has.
pub const BRIDGE_TABLE: &str = "bridge fieldmedic_quarantine";

/// Before other firewalls' filters (priority 0): whatever they accept is dropped here.
const PRIORITY: i16 = -150;

/// What the rules begin with, before their level.
const HEAD: &str = "# fieldmedic: ";

/// What bridges may still forward at a level: under `isolate` nothing.
#[must_use]
pub fn render_bridge(level: QuarantineLevel) -> String {
    let table = if level == QuarantineLevel::Isolate {
        format!(
            "table {BRIDGE_TABLE} {{\n  chain forward {{\n    type filter hook forward priority -200; policy drop;\n    \
             counter\n  }}\n}}\n"
        )
    } else {
        String::new()
    };
    format!("{HEAD}{level}. See quarantine.nft.\nadd table {BRIDGE_TABLE}\ndelete table {BRIDGE_TABLE}\n{table}")
}

/// The level whose rules these are.
#[must_use]
pub fn level_of(rules: &str) -> Option<QuarantineLevel> {
    QuarantineLevel::parse(rules.strip_prefix(HEAD)?.split('.').next()?)
}

/// The rules for a level; none for one that leaves the network alone.
///
/// `uid` is the only one that reaches the broker, so that what was taken over beside the agent can't talk to it. `wide`
/// lets it reach any address at the broker's port. Under `isolate` nothing is forwarded, and nobody may begin to talk
/// to the gateway; under `restrict` the hosts of the terms may.
#[must_use]
pub fn render(level: QuarantineLevel, wide: bool, terms: &Terms, uid: u32) -> Option<String> {
    if level == QuarantineLevel::Observe {
        return None;
    }
    let isolated = level == QuarantineLevel::Isolate;
    let begun_there = if isolated { "ct state established,related " } else { "" };
    let port = terms.port;
    let (wide_out, wide_in) = if wide {
        (
            format!("    meta skuid {uid} tcp dport {port} accept\n"),
            format!("    tcp sport {port} ct state established accept\n"),
        )
    } else {
        (String::new(), String::new())
    };
    let forward = if isolated {
        format!(
            "  chain forward {{\n    type filter hook forward priority {PRIORITY}; policy drop;\n    counter\n  }}\n"
        )
    } else {
        String::new()
    };
    let sets = sets(terms);
    Some(format!(
        r#"{HEAD}{level}. Replaced and removed by fieldmedic; `fieldmedic release --local` is the way out.
add table {TABLE}
delete table {TABLE}
table {TABLE} {{
{sets}  chain output {{
    type filter hook output priority {PRIORITY}; policy drop;
    oifname "lo" accept
    meta skuid {uid} ip daddr . tcp dport @broker4 accept
    meta skuid {uid} ip6 daddr . tcp dport @broker6 accept
{wide_out}    ip daddr @hosts4 accept
    ip6 daddr @hosts6 accept
    meta l4proto {{ tcp, udp }} th dport 53 accept
    udp dport 123 accept
    udp sport 68 udp dport 67 accept
    udp sport 546 udp dport 547 accept
    icmpv6 type {{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report }} accept
    counter reject with icmpx type admin-prohibited
  }}
  chain input {{
    type filter hook input priority {PRIORITY}; policy drop;
    iifname "lo" accept
    ip saddr . tcp sport @broker4 ct state established accept
    ip6 saddr . tcp sport @broker6 ct state established accept
{wide_in}    ip saddr @hosts4 {begun_there}accept
    ip6 saddr @hosts6 {begun_there}accept
    meta l4proto {{ tcp, udp }} th sport 53 ct state established accept
    udp sport 123 ct state established accept
    udp sport 67 udp dport 68 accept
    udp sport 547 udp dport 546 accept
    icmpv6 type {{ nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query }} accept
    icmp type {{ destination-unreachable, time-exceeded }} ct state related accept
    icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded }} ct state related accept
    counter
  }}
{forward}}}
"#
    ))
}

fn sets(terms: &Terms) -> String {
    let brokers = |v4: bool| {
        let of_family = terms.broker.iter().filter(move |address| address.is_ipv4() == v4);
        of_family.map(|address: &SocketAddr| format!("{} . {}", address.ip(), address.port())).collect::<Vec<_>>()
    };
    let hosts = |v4: bool| {
        let of_family = terms.hosts.iter().filter(move |network| network.is_v4() == v4);
        of_family.map(Network::to_string).collect::<Vec<_>>()
    };
    let mut text = String::new();
    for (name, kind, elements) in [
        ("broker4", "type ipv4_addr . inet_service;", brokers(true)),
        ("broker6", "type ipv6_addr . inet_service;", brokers(false)),
        // Networks may lie in each other.
        ("hosts4", "type ipv4_addr; flags interval; auto-merge;", hosts(true)),
        ("hosts6", "type ipv6_addr; flags interval; auto-merge;", hosts(false)),
    ] {
        let elements = match elements.as_slice() {
            [] => String::new(),
            some => format!(" elements = {{ {} }}", some.join(", ")),
        };
        // Writing to a String can't fail.
        let _ = writeln!(text, "  set {name} {{ {kind}{elements} }}");
    }
    text
}
