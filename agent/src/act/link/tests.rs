#![expect(clippy::disallowed_methods, reason = "gateways are network namespaces here")]

use std::future::pending;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A gateway in a network namespace of its own, with an uplink whose other end is in the namespace too.
struct Gateway {
    namespace: String,
    dir: tempfile::TempDir,
}

impl Gateway {
    /// `None`, loudly, where this isn't root's or the machine lacks the tools: then nothing is shown.
    fn new() -> Option<Self> {
        static GATEWAYS: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() || Links::find().is_none() {
            eprintln!("SKIPPED: interfaces are restarted by root, with ip");
            return None;
        }
        let namespace = format!("fml-{}-{}", std::process::id(), GATEWAYS.fetch_add(1, Ordering::Relaxed));
        let added = Command::new("ip").args(["netns", "add", &namespace]).output().unwrap();
        if !added.status.success() {
            eprintln!("SKIPPED: no network namespace: {}", String::from_utf8_lossy(&added.stderr));
            return None;
        }
        let gateway = Self { namespace, dir: tempfile::tempdir().unwrap() };
        gateway.ip("link add wwan0 type veth peer name mast");
        gateway.ip("address add 10.79.0.1/24 dev wwan0");
        gateway.ip("-6 address add 2001:db8::1/64 dev wwan0 nodad");
        for device in ["lo", "wwan0", "mast"] {
            gateway.ip(&format!("link set dev {device} up"));
        }
        gateway.ip("route add default via 10.79.0.254 dev wwan0 metric 100 src 10.79.0.1");
        gateway.ip("route add 198.51.100.0/24 via 10.79.0.253 dev wwan0");
        gateway.ip("-6 route add default via 2001:db8::fe dev wwan0");
        Some(gateway)
    }

    /// `/sys` of the namespace is what `ip netns exec` mounts: here, the one file that is looked at is copied out of
    /// it.
    fn links(&self, fails_to: &str) -> Links {
        let ip = self.dir.path().join("ip");
        let sys = self.dir.path().join("sys/class/net");
        let text = format!(
            r#"#!/bin/sh
echo "$*" >> {log}
if [ "$*" = "{fails_to}" ] && [ "$(grep -cxe "{fails_to}" {log})" -lt 3 ]; then echo "no such luck" >&2; exit 2; fi
ip -n {namespace} "$@" || exit
[ "$2 $4" != "set wwan0" ] || ip -n {namespace} link set dev wwan0.7 "$5" 2> /dev/null
[ "$2" != set ] || ip netns exec {namespace} cat /sys/class/net/wwan0/operstate > {sys}/wwan0/operstate
"#,
            log = self.dir.path().join("log").display(),
            namespace = self.namespace,
            sys = sys.display(),
        );
        fs::write(&ip, text).unwrap();
        fs::set_permissions(&ip, fs::Permissions::from_mode(0o755)).unwrap();
        for (device, flags) in [("wwan0", "0x1003"), ("lo", "0x9")] {
            fs::create_dir_all(sys.join(device)).unwrap();
            fs::write(sys.join(device).join("flags"), flags).unwrap();
        }
        let conf = self.dir.path().join("proc/sys/net/ipv6/conf/wwan0");
        fs::create_dir_all(&conf).unwrap();
        fs::write(conf.join("keep_addr_on_down"), "0\n").unwrap();
        Links { ip, root: self.dir.path().to_owned(), carrier_max: Duration::from_secs(2) }
    }

    fn ip(&self, line: &str) -> String {
        let args: Vec<&str> = ["-n", &self.namespace].into_iter().chain(line.split(' ')).collect();
        run(&args)
    }

    fn state(&self) -> [String; 3] {
        let sorted = |text: String| {
            let mut lines: Vec<String> = text.lines().map(str::trim_end).map(str::to_owned).collect();
            lines.sort();
            lines.join("\n")
        };
        [
            sorted(self.ip("route show")),
            sorted(self.ip("-6 route show default")),
            sorted(self.ip("-brief link show wwan0")),
        ]
    }

    fn keeps_addresses(&self) -> String {
        fs::read_to_string(self.dir.path().join("proc/sys/net/ipv6/conf/wwan0/keep_addr_on_down")).unwrap()
    }

    fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("set")).map(str::to_owned).collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        run(&["netns", "delete", &self.namespace]);
    }
}

fn run(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn restarted(links: &Links, interface: &str) -> ActOutcome {
    links.restart(interface, || (), pending()).await
}

const DOWN: &str = "link set dev wwan0 down";
const UP: &str = "link set dev wwan0 up";

#[tokio::test]
async fn an_interface_goes_down_and_comes_up_with_the_routes_that_it_had() {
    let Some(gateway) = Gateway::new() else { return };
    let links = gateway.links("");
    let mut before = gateway.state();
    let outcome = restarted(&links, "wwan0").await;
    assert_eq!(outcome.status, ActStatus::Succeeded, "{outcome:?}");
    assert_eq!(gateway.calls(), [DOWN, UP]);
    let mut after = gateway.state();
    // Without the kernel's flag (here a file that nobody reads) the IPv6 address is gone, and its route with it.
    before[1].clear();
    after[1].clear();
    assert_eq!((before, gateway.keeps_addresses()), (after, "0".to_owned()));
}

#[tokio::test]
async fn a_gateway_that_is_a_route_itself_and_routes_of_other_tables_are_put_back() {
    let Some(gateway) = Gateway::new() else { return };
    let links = gateway.links("");
    for line in [
        "route flush dev wwan0",
        "address flush dev wwan0",
        "address add 10.80.0.1/32 dev wwan0",
        "route add 10.80.0.254 dev wwan0 scope link",
        "route add default via 10.80.0.254 dev wwan0",
        "route add default via 10.80.0.254 dev wwan0 table 100",
    ] {
        gateway.ip(line);
    }
    let routes = || ["route show", "route show table 100"].map(|line| gateway.ip(line));
    let before = routes();
    let outcome = restarted(&links, "wwan0").await;
    assert_eq!((outcome.status, routes()), (ActStatus::Succeeded, before), "{outcome:?}");
}

#[tokio::test]
async fn routes_of_several_ways_and_neighbours_that_somebody_has_set_are_put_back() {
    let Some(gateway) = Gateway::new() else { return };
    let links = gateway.links("");
    for line in [
        "route flush dev wwan0 proto boot",
        "-6 route delete default",
        "route add default nexthop via 10.79.0.254 dev wwan0 weight 1 nexthop via 10.79.0.253 dev wwan0 weight 2",
        "route add 203.0.113.0/24 table 100 nexthop via 10.79.0.252 dev wwan0 nexthop via 10.79.0.251 dev wwan0",
        "neigh add 10.79.0.77 lladdr 02:00:00:00:00:4d dev wwan0 nud permanent",
    ] {
        gateway.ip(line);
    }
    let set = || ["route show", "route show table 100", "neigh show nud permanent"].map(|line| gateway.ip(line));
    let before = set();
    assert!(before[0].contains("weight 2") && before[1].contains("nexthop") && before[2].contains("PERMANENT"));
    let outcome = restarted(&links, "wwan0").await;
    assert_eq!((outcome.status, set()), (ActStatus::Succeeded, before), "{outcome:?}");
    assert!(outcome.detail.as_ref().unwrap().ends_with("routes put back: 2"), "{outcome:?}");
}

#[tokio::test]
async fn routes_by_the_vlans_on_it_which_go_down_with_it_are_put_back_too() {
    let Some(gateway) = Gateway::new() else { return };
    let links = gateway.links("");
    for line in [
        "route delete default",
        "-6 route delete default",
        // Not each kernel makes a VLAN: this one is taken down and up with the link below as the kernel does it.
        "link add wwan0.7 type veth peer name switch",
        "link set dev switch up",
        "address add 10.81.0.1/24 dev wwan0.7",
        "link set dev wwan0.7 up",
        "route add default via 10.81.0.254 dev wwan0.7",
    ] {
        gateway.ip(line);
    }
    // As the kernel links them; the one that lies on itself it wouldn't.
    for (lower, upper) in [("wwan0", "wwan0.7"), ("wwan0.7", "wwan0")] {
        fs::create_dir_all(gateway.dir.path().join("sys/class/net").join(lower).join(format!("upper_{upper}")))
            .unwrap();
    }
    let before = gateway.ip("route show");
    let outcome = restarted(&links, "wwan0").await;
    assert_eq!((outcome.status, gateway.ip("route show")), (ActStatus::Succeeded, before), "{outcome:?}");
}

#[tokio::test]
async fn what_a_router_advertises_is_left_to_it_and_no_loss() {
    let Some(gateway) = Gateway::new() else { return };
    let links = gateway.links("");
    gateway.ip("route flush dev wwan0");
    for line in [
        "-6 route delete default",
        "-6 route add default via fe80::1 dev wwan0 proto ra metric 1024 expires 1800",
        "-6 route add 2001:db8:1::/64 dev wwan0 metric 256 expires 1800",
    ] {
        gateway.ip(line);
    }
    let outcome = restarted(&links, "wwan0").await;
    assert_eq!(outcome.status, ActStatus::Succeeded, "{outcome:?}");
    assert!(outcome.detail.unwrap().ends_with("routes put back: 0"));
}

#[tokio::test]
async fn without_any_of_its_default_routes_it_is_no_success() {
    let Some(gateway) = Gateway::new() else { return };
    gateway.ip("-6 route delete default");
    let lost = "-4 route replace default via 10.79.0.254 src 10.79.0.1 metric 100 dev wwan0";
    let outcome = restarted(&gateway.links(lost), "wwan0").await;
    assert_eq!(outcome.reason.as_deref(), Some("link_down"), "{outcome:?}");
    assert!(outcome.detail.unwrap().contains("could not be put back: default via 10.79.0.254"));
}

#[tokio::test]
async fn what_can_not_be_brought_up_at_once_is_tried_until_it_can_be() {
    let Some(gateway) = Gateway::new() else { return };
    let links = gateway.links(UP);
    let outcome = restarted(&links, "wwan0").await;
    assert_eq!(outcome.status, ActStatus::Succeeded, "{outcome:?}");
    assert_eq!(gateway.calls(), [DOWN, UP, UP, UP]);
}

#[tokio::test]
async fn what_can_not_be_taken_down_is_up_all_the_same() {
    let Some(gateway) = Gateway::new() else { return };
    let before = gateway.state();
    let outcome = restarted(&gateway.links(DOWN), "wwan0").await;
    assert_eq!(outcome.reason.as_deref(), Some("link_failed"), "{outcome:?}");
    assert!(outcome.detail.unwrap().contains("no such luck"));
    assert_eq!((gateway.calls(), gateway.state()), (vec![DOWN.to_owned(), UP.to_owned()], before));
}

#[tokio::test]
async fn a_link_without_a_carrier_is_no_success() {
    let Some(gateway) = Gateway::new() else { return };
    let links = gateway.links("");
    gateway.ip("link set dev mast down");
    let outcome = restarted(&links, "wwan0").await;
    assert_eq!(outcome.reason.as_deref(), Some("link_down"), "{outcome:?}");
}

#[tokio::test]
async fn a_carrier_that_stays_away_is_waited_for_as_long_as_somebody_wants_to_and_the_link_is_up_by_then() {
    let Some(gateway) = Gateway::new() else { return };
    let links = Links { carrier_max: Duration::from_secs(600), ..gateway.links("") };
    gateway.ip("link set dev mast down");
    let moment = Duration::from_millis(1);
    for (within, is_canceled, status) in
        [(moment, false, ActStatus::TimedOut), (Duration::from_secs(600), true, ActStatus::Canceled)]
    {
        fs::remove_file(gateway.dir.path().join("log")).ok();
        let (is_up, (cancel, canceled)) = (Notify::new(), oneshot::channel());
        let _keep = if is_canceled { cancel.send(()).map(|()| None).unwrap() } else { Some(cancel) };
        let restart = links.restart("wwan0", || is_up.notify_one(), pending());
        let outcome =
            timeout(Duration::from_secs(60), wait_for(restart, "wwan0", &is_up, (Instant::now(), within), canceled))
                .await;
        assert_eq!(outcome.map(|outcome| outcome.status), Ok(status));
        assert_eq!(gateway.calls(), [DOWN, UP]);
        assert!(gateway.ip("route show default").contains("10.79.0.254"));
    }
}

#[tokio::test]
async fn loopback_and_what_is_not_there_are_left_alone() {
    let Some(gateway) = Gateway::new() else { return };
    let links = gateway.links("");
    for (interface, reason) in [("lo", "not_supported"), ("wwan9", "no_such_interface")] {
        assert_eq!(restarted(&links, interface).await.reason.as_deref(), Some(reason));
    }
    assert_eq!(gateway.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn nobody_waits_longer_than_wanted_for_who_manages_an_interface() {
    for (within, is_canceled, status) in
        [(Duration::from_millis(1), false, ActStatus::TimedOut), (Duration::from_secs(600), true, ActStatus::Canceled)]
    {
        let (cancel, mut canceled) = oneshot::channel();
        let _keep = if is_canceled { cancel.send(()).map(|()| None).unwrap() } else { Some(cancel) };
        let outcome = before(pending::<()>(), "wwan0", within, &mut canceled).await.unwrap_err();
        assert_eq!(outcome.status, status);
    }
}

#[tokio::test]
async fn what_finding_out_who_manages_an_interface_took_is_not_waited_for_again() {
    let within = Duration::from_secs(600);
    let (is_up, (_keep, canceled)) = (Notify::new(), oneshot::channel());
    is_up.notify_one();
    let waiting = wait_for(pending(), "wwan0", &is_up, (Instant::now() - within, within), canceled);
    let outcome = timeout(Duration::from_secs(60), waiting).await;
    assert_eq!(outcome.map(|outcome| outcome.status), Ok(ActStatus::TimedOut));
}

#[test]
fn a_routes_state_is_no_part_of_what_is_put_back() {
    let line = "default via 10.0.2.2 proto dhcp src 10.0.2.15 metric 100 linkdown onlink ";
    let expected = "default via 10.0.2.2 proto dhcp src 10.0.2.15 metric 100 onlink dev wwan0";
    assert_eq!(words(line, "wwan0").join(" "), expected);
}
