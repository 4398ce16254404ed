//! What a snapshot says of the network: interfaces, addresses, routes, name servers, and sockets, all from the kernel's
//! own files. Nothing is asked over the network.

#![expect(clippy::disallowed_methods, reason = "directories are read here")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::Read;
use super::files::{file, table};
use crate::collect::sockets::address;

/// Interfaces, addresses, routes and listening sockets that are named, of each.
const NAMED_MAX: usize = 100;

/// Interfaces (/sys/class/net), addresses, IPv4 routes and name servers.
pub(super) fn network(root: &Path) -> Read {
    let dir = root.join("sys/class/net");
    let entries = fs::read_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    let mut lines: Vec<String> = names.iter().take(NAMED_MAX).map(|name| interface(root, name)).collect();
    lines.extend(more(names.len()));
    lines.push(format!("addresses: {}", named(addresses(root)).join(", ")));
    lines.push("-- routes".into());
    match table(root, "proc/net/route") {
        Ok(routes) => {
            lines.extend(named(routes.text.lines().filter_map(route).collect()).into_iter().chain(routes.more));
        }
        Err(why) => lines.push(format!("({why})")),
    }
    let servers = file(root, "etc/resolv.conf").unwrap_or_else(|why| format!("({why})"));
    lines.push(format!("-- name servers\n{}", servers.trim_end()));
    Ok(lines.join("\n"))
}

fn interface(root: &Path, name: &str) -> String {
    let look = |leaf: &str| {
        let text = file(root, &format!("sys/class/net/{name}/{leaf}"));
        text.map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned())
    };
    format!(
        "{name}: {}, mtu {}, {} B in with {} errors, {} B out with {} errors",
        look("operstate"),
        look("mtu"),
        look("statistics/rx_bytes"),
        look("statistics/rx_errors"),
        look("statistics/tx_bytes"),
        look("statistics/tx_errors"),
    )
}

/// Of this machine: /proc/net/fib_trie, where a local address stands above its `/32 host LOCAL`, and
/// /proc/net/if_inet6.
fn addresses(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut last = "";
    let trie = table(root, "proc/net/fib_trie").map(|table| table.text).unwrap_or_default();
    for line in trie.lines() {
        if let Some(address) = line.trim().strip_prefix("|-- ") {
            last = address;
        } else if line.contains("/32 host LOCAL") && !last.is_empty() {
            found.push(last.to_owned());
        }
    }
    // The trie is there once for each of the tables.
    found.sort_unstable();
    found.dedup();
    let inet6 = table(root, "proc/net/if_inet6").map(|table| table.text).unwrap_or_default();
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let address = u128::from_str_radix(words.next()?, 16).ok()?;
        Some(format!("{} ({})", Ipv6Addr::from(address), words.last()?))
    };
    found.extend(inet6.lines().filter_map(of_line));
    found
}

/// A line of /proc/net/route (net/ipv4/fib_trie.c); none of the one that names its columns.
fn route(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [interface, to, via, _flags, _references, _use, metric, mask, ..] = words.as_slice() else { return None };
    let (to, via, mask) = (ipv4(to)?, ipv4(via)?, ipv4(mask)?);
    let to = match mask.to_bits().leading_ones() {
        0 => "default".to_owned(),
        bits => format!("{to}/{bits}"),
    };
    let via = if via.is_unspecified() { String::new() } else { format!(" via {via}") };
    Some(format!("{to}{via} dev {interface} metric {metric}"))
}

/// Sockets (proc_net(5)): how many are in which state, and which listen.
pub(super) fn sockets(root: &Path) -> Read {
    const LISTEN: &str = "0A";
    // A UDP socket without a peer.
    const CLOSE: &str = "07";
    let mut lines = Vec::new();
    for (name, listens) in [("tcp", LISTEN), ("tcp6", LISTEN), ("udp", CLOSE), ("udp6", CLOSE)] {
        let table = match table(root, &format!("proc/net/{name}")) {
            Ok(table) => table,
            Err(why) => {
                lines.push(format!("{name}: ({why})"));
                continue;
            }
        };
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        let mut listeners = Vec::new();
        for line in table.text.lines().skip(1) {
            let mut words = line.split_whitespace().skip(1);
            let (Some(local), Some(_), Some(state)) = (words.next(), words.next(), words.next()) else { continue };
            *states.entry(state_word(state)).or_default() += 1;
            if state == listens {
                listeners.push(address(local).map_or_else(|| local.to_owned(), |address| address.to_string()));
            }
        }
        let states = states.into_iter().map(|(state, count)| format!("{count} {state}"));
        lines.push(format!("{name}: {}", states.collect::<Vec<_>>().join(", ")));
        if !listeners.is_empty() {
            lines.push(format!("{name} listens: {}", named(listeners).join(", ")));
        }
        lines.extend(table.more);
    }
    Ok(lines.join("\n"))
}

/// The first of them, and how many more there are.
fn named(mut all: Vec<String>) -> Vec<String> {
    let more = more(all.len());
    all.truncate(NAMED_MAX);
    all.extend(more);
    all
}

fn more(count: usize) -> Option<String> {
    (count > NAMED_MAX).then(|| format!("({} more)", count - NAMED_MAX))
}

/// The kernel's include/net/tcp_states.h.
fn state_word(state: &str) -> &str {
    const WORDS: [(&str, &str); 11] = [
        ("01", "established"),
        ("02", "syn-sent"),
        ("03", "syn-recv"),
        ("04", "fin-wait-1"),
        ("05", "fin-wait-2"),
        ("06", "time-wait"),
        ("07", "close"),
        ("08", "close-wait"),
        ("09", "last-ack"),
        ("0A", "listen"),
        ("0B", "closing"),
    ];
    // Whatever else stands there is not worth a count of its own.
    WORDS.iter().find(|(code, _)| *code == state).map_or("in no known state", |(_, word)| word)
}

/// 32 bits in this machine's order.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    u32::from_str_radix(text, 16).ok().map(|bits| Ipv4Addr::from(bits.to_ne_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_told_as_people_write_them() {
        // As the kernel writes them on a machine of either order.
        let hex = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let line = |to, via, mask| format!("eth0\t{}\t{}\t0003\t0\t0\t100\t{}\t0\t0\t0", hex(to), hex(via), hex(mask));
        assert_eq!(route(&line([0; 4], [192, 0, 2, 1], [0; 4])).unwrap(), "default via 192.0.2.1 dev eth0 metric 100");
        let route_of_net = route(&line([10, 0, 0, 0], [0; 4], [255, 0, 0, 0])).unwrap();
        assert_eq!(route_of_net, "10.0.0.0/8 dev eth0 metric 100");
        assert_eq!(route("Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT"), None);
    }

    #[test]
    fn what_is_not_named_is_counted() {
        let names = named((0..NAMED_MAX + 3).map(|at| at.to_string()).collect());
        assert_eq!((names.len(), names.last().unwrap().as_str()), (NAMED_MAX + 1, "(3 more)"));
        assert_eq!(named((0..NAMED_MAX).map(|at| at.to_string()).collect()).len(), NAMED_MAX);
    }
}
