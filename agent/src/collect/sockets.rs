//! Who listens and who is connected, from the kernel's tables of TCP and UDP sockets (proc_pid_net(5), `/proc/net/tcp`
//! and its like). The agent's own sockets don't count: that it talks to its broker is no news. Loopback is a listener's
//! address like any other, and nobody's peer.
#![expect(clippy::disallowed_methods, reason = "collectors read files")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::round::Round;
use crate::engine::metric::Metric;
use crate::engine::observation::Sockets;
use crate::gather::gather;

const TABLES: [(&str, Protocol); 4] = [
    ("proc/net/tcp", Protocol::Tcp),
    ("proc/net/tcp6", Protocol::Tcp),
    ("proc/net/udp", Protocol::Udp),
    ("proc/net/udp6", Protocol::Udp),
];
/// What the kernel gives to sockets that didn't ask for a port: two numbers, from and to.
const EPHEMERAL: &str = "proc/sys/net/ipv4/ip_local_port_range";
const EPHEMERAL_DEFAULT: u16 = 32_768;
const OWN_FDS: &str = "/proc/self/fd";

// include/net/tcp_states.h, which UDP's table uses too.
const ESTABLISHED: u8 = 0x01;
const CLOSE: u8 = 0x07;
const LISTEN: u8 = 0x0a;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

/// One line of a table.
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    inode: u64,
}

/// Reads the tables that there are; a kernel without IPv6 has two of them. `None` where none can be read.
pub(super) fn collect(round: &mut Round<'_>) -> Option<Sockets> {
    collect_by(round, own_inodes)
}

fn collect_by(round: &mut Round<'_>, own_inodes: impl Fn() -> BTreeSet<u64>) -> Option<Sockets> {
    let mut own = own_inodes();
    let ephemeral = ephemeral_from(round);
    let mut listeners = BTreeSet::new();
    let mut peers = BTreeSet::new();
    let mut tables = Vec::new();
    for (file, protocol) in TABLES {
        // Of what can't be read whole nobody knows who is missing.
        if let Some(table) = round.text(file).ok()? {
            tables.push((file, protocol, table));
        }
    }
    // What another thread has opened meanwhile is in the tables, and so is what it has closed.
    own.append(&mut own_inodes());
    for (file, protocol, table) in &tables {
        // The first line says what the columns are.
        for line in table.lines().skip(1) {
            let Some(socket) = parse(line) else {
                round.nonsense(file, line, "a line of the kernel's table of sockets");
                continue;
            };
            if own.contains(&socket.inode) {
                continue;
            }
            let remote = socket.remote.ip().to_canonical();
            match (*protocol, socket.state) {
                (Protocol::Tcp, LISTEN) => drop(listeners.insert(format!("tcp {}", socket.local))),
                // A client that waits for an answer looks like a server, but for its port.
                (Protocol::Udp, CLOSE) if socket.local.port() < ephemeral => {
                    listeners.insert(format!("udp {}", socket.local));
                }
                (_, ESTABLISHED) if !remote.is_loopback() => drop(peers.insert(remote.to_string())),
                _ => {}
            }
        }
    }
    if tables.is_empty() {
        round.fault("proc/net/tcp", "missing");
        return None;
    }
    round.point(Metric::HostListeners, listeners.len() as u64);
    round.point(Metric::HostPeers, peers.len() as u64);
    Some(Sockets { listeners: listeners.into_iter().collect(), peers: peers.into_iter().collect() })
}

/// `sl: local remote st tx:rx tr:when retrnsmt uid timeout inode …`
fn parse(line: &str) -> Option<Socket> {
    let mut fields = line.split_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let remote = address(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    Some(Socket { local, remote, state, inode })
}

/// `0100007F:1F90`: words of the address as the machine has them in memory, and the port as a number.
pub(crate) fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (n, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(n * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn ephemeral_from(round: &mut Round<'_>) -> u16 {
    let range = round.text(EPHEMERAL).ok().flatten().unwrap_or_default();
    range.split_whitespace().next().and_then(|from| from.parse().ok()).unwrap_or(EPHEMERAL_DEFAULT)
}

/// The agent's own, whatever the collectors' root is.
fn own_inodes() -> BTreeSet<u64> {
    let Ok(entries) = fs::read_dir(OWN_FDS) else { return BTreeSet::new() };
    let inode =
        |target: std::path::PathBuf| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok();
    gather(entries.flatten().filter_map(|entry| inode(fs::read_link(entry.path()).ok()?)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::collect::tests::write_tree;

    /// Words as this machine has them.
    fn v4(a: u8, b: u8, c: u8, d: u8) -> String {
        format!("{:08X}", u32::from_ne_bytes([a, b, c, d]))
    }

    fn line(local: &str, remote: &str, state: &str, inode: u64) -> String {
        format!(
            "   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 100 0\n"
        )
    }

    #[test]
    fn listeners_and_peers_are_told_as_the_kernels_tables_have_them() {
        let tree = tempfile::tempdir().unwrap();
        let any = format!("{}:0000", v4(0, 0, 0, 0));
        let tcp = [
            "  sl  local_address rem_address   st\n".to_owned(),
            line(&format!("{}:0016", v4(0, 0, 0, 0)), &any, "0A", 1),
            line(&format!("{}:0016", v4(10, 0, 0, 2)), &format!("{}:C000", v4(192, 0, 2, 7)), "01", 2),
            line(&format!("{}:1F90", v4(127, 0, 0, 1)), &format!("{}:C001", v4(127, 0, 0, 1)), "01", 3),
        ];
        write_tree(tree.path(), &[("proc/net/tcp", &tcp.concat())]);
        let mapped = format!("0000000000000000{}{}:0050", v4(0, 0, 0xff, 0xff), v4(198, 51, 100, 9));
        let six = format!("{}:1F91", "0".repeat(32));
        let none = format!("{}:0000", "0".repeat(32));
        let tcp6 = ["head\n".to_owned(), line(&six, &none, "0A", 4), line(&six, &mapped, "01", 5)];
        let udp = |port: &str| line(&format!("{}:{port}", v4(0, 0, 0, 0)), &any, "07", 6);
        let udp = ["head\n".to_owned(), udp("0043"), udp("9C40")];
        write_tree(tree.path(), &[("proc/net/tcp6", &tcp6.concat()), ("proc/net/udp", &udp.concat())]);
        let mut round = Round::new(tree.path());
        let sockets = collect(&mut round).unwrap();
        assert_eq!(sockets.listeners, ["tcp 0.0.0.0:22", "tcp [::]:8081", "udp 0.0.0.0:67"]);
        assert_eq!(sockets.peers, ["192.0.2.7", "198.51.100.9"]);
        let words = [v4(0x20, 1, 0xd, 0xb8), v4(0, 0, 0, 0), v4(0, 0, 0, 0), v4(0, 0, 0, 1)].concat();
        assert_eq!(address(&format!("{words}:0016")).unwrap().to_string(), "[2001:db8::1]:22");
        assert_eq!(round.finish().faults, []);
    }

    #[test]
    fn what_the_agent_opens_or_closes_while_the_tables_are_read_is_still_its_own() {
        let tree = tempfile::tempdir().unwrap();
        let to = |host, inode| {
            line(&format!("{}:C000", v4(10, 0, 0, 2)), &format!("{}:075B", v4(192, 0, 2, host)), "01", inode)
        };
        write_tree(tree.path(), &[("proc/net/tcp", &["head\n".to_owned(), to(1, 11), to(2, 12), to(3, 13)].concat())]);
        let looks = std::cell::Cell::new(0);
        let own = || BTreeSet::from([11 + looks.replace(looks.get() + 1)]);
        let sockets = collect_by(&mut Round::new(tree.path()), own).unwrap();
        assert_eq!(sockets.peers, ["192.0.2.3"]);
    }

    #[test]
    fn nonsense_in_a_table_costs_its_line_and_a_kernel_without_tables_everything() {
        let tree = tempfile::tempdir().unwrap();
        let mut round = Round::new(tree.path());
        assert_eq!(collect(&mut round), None);
        assert_eq!(round.finish().faults.len(), 1);
        let good = line(&format!("{}:0016", v4(0, 0, 0, 0)), &format!("{}:0000", v4(0, 0, 0, 0)), "0A", 1);
        for bad in ["x", "0: zz:16 00:0 0A", "   0: 0100007F:1F90", "0: 0100007F:1F90 00000000:0000 0A a b c d e f"] {
            write_tree(tree.path(), &[("proc/net/tcp", &format!("head\n{bad}\n{good}"))]);
            let mut round = Round::new(tree.path());
            assert_eq!(collect(&mut round).unwrap().listeners, ["tcp 0.0.0.0:22"], "{bad}");
            assert_eq!(round.finish().faults.len(), 1, "{bad}");
        }
    }

    #[test]
    fn on_a_real_kernel_the_agents_own_sockets_do_not_count() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let listens = |line: &str| parse(line).is_some_and(|it| it.state == LISTEN && it.local == address);
        assert!(table.lines().skip(1).any(listens), "the kernel has it");
        let root = std::path::Path::new("/");
        let sockets = collect(&mut Round::new(root)).unwrap();
        assert!(!sockets.listeners.contains(&format!("tcp {address}")), "{:?}", sockets.listeners);
    }
}
