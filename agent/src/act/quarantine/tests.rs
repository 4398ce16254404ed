#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "gateways are network namespaces here, their neighbours threads in others"
)]

use fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_uid};

use super::*;
use crate::act::rollback::Rollbacks;
use crate::act::units::Manager;
use crate::act::{Actor, Order};
use crate::config::RollbackKind;
use crate::engine::io::Trigger;

mod leaving;

const GATEWAY: &str = "10.78.0.1";
const BROKER: &str = "10.78.0.2";
/// Another address of the broker's machine: where it moves to, and where others are.
const ELSEWHERE: &str = "10.78.0.3";
const PORT: u16 = 1883;
const AGENT: u32 = 4242;
const INTRUDER: u32 = 4343;

/// A gateway and its neighbour, each in a network namespace of its own, with a cable between them.
struct World {
    gateway: String,
    neighbour: String,
    dir: tempfile::TempDir,
}

impl World {
    /// `None`, loudly, where this isn't root's or the machine lacks the tools: then nothing is shown.
    fn new() -> Option<Self> {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() || Loader::find() == Loader::None {
            eprintln!("SKIPPED: a quarantine is tried out by root, with nft and ip");
            return None;
        }
        let id = format!("{}-{}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        let (gateway, neighbour) = (format!("fmq-{id}-g"), format!("fmq-{id}-n"));
        if !can_make_namespaces(&gateway) {
            return None;
        }
        let world = Self { gateway, neighbour, dir: tempfile::tempdir().unwrap() };
        let (g, n) = (world.gateway.as_str(), world.neighbour.as_str());
        for namespace in [g, n] {
            ip(&["netns", "add", namespace]);
        }
        ip(&["-n", g, "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", n]);
        for (namespace, device, addresses) in [(g, "up0", &[GATEWAY][..]), (n, "down0", &[BROKER, ELSEWHERE])] {
            for address in addresses {
                ip(&["-n", namespace, "address", "add", &format!("{address}/24"), "dev", device]);
            }
            ip(&["-n", namespace, "link", "set", device, "up"]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        Some(world)
    }

    /// As an agent of this gateway does it: nft, in the gateway's namespace.
    fn quarantine(&self) -> Quarantine {
        let nft = self.dir.path().join("nft");
        fs::write(&nft, format!("#!/bin/sh\nexec ip netns exec {} nft \"$@\"\n", self.gateway)).unwrap();
        fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).unwrap();
        Quarantine::new(self.dir.path().join("state"), Loader::Nft(nft), AGENT)
    }

    fn gateway<T: Send + 'static>(&self, uid: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.gateway, uid, work)
    }

    fn neighbour<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.neighbour, 0, work)
    }

    /// Whether somebody on the gateway reaches who listens there.
    fn reaches(&self, uid: u32, address: &str, port: u16) -> bool {
        let address = at(address, port);
        self.gateway(uid, move || connect(address))
    }

    /// Whether the neighbour reaches who listens on the gateway, when it comes from this address.
    fn is_reached(&self, port: u16) -> bool {
        self.neighbour(move || connect(at(GATEWAY, port)))
    }

    fn rules(&self) -> String {
        let args = ["netns", "exec", &self.gateway, "nft", "list", "ruleset"];
        String::from_utf8(Command::new("ip").args(args).output().unwrap().stdout).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for namespace in [&self.gateway, &self.neighbour] {
            ip(&["netns", "delete", namespace]);
        }
    }
}

/// Whether this machine lets a test have a network namespace with a firewall; says loudly if not.
fn can_make_namespaces(name: &str) -> bool {
    let try_it = |args: &[&str]| {
        let output = Command::new("ip").args(args).output().unwrap();
        if !output.status.success() {
            eprintln!("SKIPPED: ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        output.status.success()
    };
    let tables = ["netns", "exec", name, "nft", "add", "table", "inet", "tried"];
    let can = try_it(&["netns", "add", name]) && try_it(&tables);
    let _ = Command::new("ip").args(["netns", "delete", name]).output();
    can
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
}

/// Namespaces and ids belong to threads: the one that changes them ends.
fn inside<T: Send + 'static>(namespace: &str, uid: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = File::open(Path::new("/run/netns").join(namespace)).unwrap();
    let work = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        if uid != 0 {
            set_thread_uid(rustix::process::Uid::from_raw(uid)).unwrap();
        }
        work()
    };
    thread::spawn(work).join().unwrap()
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
}

fn connect(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok()
}

fn listen(address: &str, port: u16) -> TcpListener {
    TcpListener::bind(at(address, port)).unwrap()
}

fn terms(brokers: &[&str], hosts: &[&str]) -> Terms {
    let broker = brokers.iter().map(|address| at(address, PORT)).collect();
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    Terms { broker, port: PORT, hosts, ..Terms::default() }
}

fn is_done(outcome: &ActOutcome) {
    assert_eq!(outcome.status, ActStatus::Succeeded, "{outcome:?}");
}

#[tokio::test]
async fn restricted_only_the_agent_reaches_the_broker_and_released_all_is_as_before() {
    let Some(world) = World::new() else { return };
    let (quarantine, before) = (world.quarantine(), world.rules());
    let (broker, other, service) = (
        world.neighbour(|| listen(BROKER, PORT)),
        world.neighbour(|| listen(BROKER, 80)),
        world.gateway(0, || listen(GATEWAY, 8080)),
    );
    let seen = || {
        let out = [(AGENT, PORT), (INTRUDER, PORT), (AGENT, 80), (0, 80)];
        (out.map(|(uid, port)| world.reaches(uid, BROKER, port)), world.is_reached(8080))
    };
    assert_eq!(seen(), ([true; 4], true));
    is_done(&quarantine.enter(QuarantineLevel::Restrict, terms(&[BROKER], &[])).await);
    assert_eq!(seen(), ([true, false, false, false], false));
    assert!(quarantine.in_force().is_some());
    is_done(&quarantine.leave().await);
    assert_eq!((seen(), world.rules()), (([true; 4], true), before));
    assert!(quarantine.in_force().is_none());
    drop((broker, other, service));
}

#[tokio::test]
async fn hosts_that_are_allowed_come_in_when_it_is_restricted_and_not_when_it_is_isolated() {
    let Some(world) = World::new() else { return };
    let quarantine = world.quarantine();
    let (other, service) = (world.neighbour(|| listen(BROKER, 80)), world.gateway(0, || listen(GATEWAY, 8080)));
    let hosts = terms(&[ELSEWHERE], &["10.78.0.2/31"]);
    is_done(&quarantine.enter(QuarantineLevel::Restrict, hosts.clone()).await);
    assert_eq!((world.reaches(INTRUDER, BROKER, 80), world.is_reached(8080)), (true, true));
    assert!(!world.rules().contains("hook forward"), "what others send through it is no concern of restrict's");
    is_done(&quarantine.enter(QuarantineLevel::Isolate, hosts).await);
    assert_eq!((world.reaches(INTRUDER, BROKER, 80), world.is_reached(8080)), (true, false));
    assert!(world.rules().contains("hook forward"), "{}", world.rules());
    drop((other, service));
}

#[tokio::test]
async fn isolated_a_bridge_forwards_nothing_and_where_no_rule_can_stop_it_that_is_told() {
    let Some(world) = World::new() else { return };
    let (quarantine, before) = (world.quarantine(), world.rules());
    is_done(&quarantine.enter(QuarantineLevel::Restrict, terms(&[BROKER], &[])).await);
    assert!(!world.rules().contains(BRIDGE_TABLE), "{}", world.rules());
    is_done(&quarantine.enter(QuarantineLevel::Isolate, terms(&[BROKER], &[])).await);
    assert!(world.rules().contains(&format!("table {BRIDGE_TABLE}")), "{}", world.rules());
    is_done(&quarantine.leave().await);
    assert_eq!(world.rules(), before);

    // As of a kernel that has no such rules.
    let nft = fs::read_to_string(world.dir.path().join("nft")).unwrap();
    let nft = nft.replacen('\n', "\ncase \"$*\" in *bridge*) echo 'not supported' && exit 1 ;; esac\n", 1);
    fs::write(world.dir.path().join("nft"), nft).unwrap();
    let Quarantine { dir, loader, uid, .. } = quarantine;
    let quarantine = Quarantine { interfaces: world.dir.path().join("net"), ..Quarantine::new(dir, loader, uid) };
    for (interface, reason) in [("eth0/queues", None), ("br0/bridge", Some("degraded"))] {
        fs::create_dir_all(quarantine.interfaces.join(interface)).unwrap();
        let outcome = quarantine.enter(QuarantineLevel::Isolate, terms(&[BROKER], &[])).await;
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Succeeded, reason), "{outcome:?}");
        let told = outcome.detail.unwrap().contains("what bridges forward goes on: nft: exit code 1: not supported");
        assert_eq!(told, reason.is_some());
    }
    is_done(&quarantine.leave().await);
    assert_eq!(world.rules(), before);
}

#[tokio::test]
async fn a_broker_that_moves_is_reached_and_what_is_open_to_the_old_one_stays_open() {
    let Some(world) = World::new() else { return };
    let quarantine = world.quarantine();
    let (old, new) = (world.neighbour(|| listen(BROKER, PORT)), world.neighbour(|| listen(ELSEWHERE, PORT)));
    is_done(&quarantine.enter(QuarantineLevel::Isolate, terms(&[BROKER], &[])).await);
    let mut link = world.gateway(AGENT, || TcpStream::connect(at(BROKER, PORT)).unwrap());
    let (mut peer, _) = old.accept().unwrap();
    assert!(!world.reaches(AGENT, ELSEWHERE, PORT));
    is_done(&quarantine.refresh(QuarantineLevel::Isolate, false, terms(&[ELSEWHERE], &[])).await);
    assert!(world.reaches(AGENT, ELSEWHERE, PORT));
    link.write_all(b"still here").unwrap();
    let mut said = [0; 10];
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    peer.read_exact(&mut said).unwrap();
    // A name server that doesn't answer changes nothing.
    is_done(&quarantine.refresh(QuarantineLevel::Isolate, false, terms(&[], &[])).await);
    assert!(world.reaches(AGENT, ELSEWHERE, PORT) && world.reaches(AGENT, BROKER, PORT));
    drop(new);
}

#[tokio::test]
async fn widened_the_agent_reaches_the_brokers_port_anywhere_and_nobody_else_does() {
    let Some(world) = World::new() else { return };
    let quarantine = world.quarantine();
    let moved = world.neighbour(|| listen(ELSEWHERE, PORT));
    is_done(&quarantine.enter(QuarantineLevel::Restrict, terms(&[BROKER], &[])).await);
    assert!(!world.reaches(AGENT, ELSEWHERE, PORT));
    is_done(&quarantine.refresh(QuarantineLevel::Restrict, true, terms(&[BROKER], &[])).await);
    assert_eq!([AGENT, INTRUDER].map(|uid| world.reaches(uid, ELSEWHERE, PORT)), [true, false]);
    is_done(&quarantine.refresh(QuarantineLevel::Restrict, false, terms(&[BROKER], &[])).await);
    assert!(!world.reaches(AGENT, ELSEWHERE, PORT));
    drop(moved);
}

#[tokio::test]
async fn what_is_saved_can_be_loaded_without_an_agent_and_is_never_loosened_by_a_refresh() {
    let Some(world) = World::new() else { return };
    let quarantine = world.quarantine();
    let broker = world.neighbour(|| listen(BROKER, PORT));
    is_done(&quarantine.enter(QuarantineLevel::Isolate, terms(&[BROKER], &[])).await);
    let before = world.rules();
    is_done(&world.quarantine().refresh(QuarantineLevel::Observe, false, terms(&[BROKER], &[])).await);
    assert_eq!(world.rules(), before);
    // As the boot unit does it, on an empty ruleset.
    ip(&["netns", "exec", &world.gateway, "nft", "flush", "ruleset"]);
    for file in [RULES_FILE, BRIDGE_FILE] {
        let saved = world.dir.path().join("state").join(file);
        ip(&["netns", "exec", &world.gateway, "nft", "-f", saved.to_str().unwrap()]);
    }
    assert_eq!(world.rules(), before);
    drop(broker);
}

#[tokio::test]
async fn a_level_that_is_less_than_the_one_in_force_loosens_nothing_whoever_asks() {
    let Some(world) = World::new() else { return };
    // Two that know nothing of each other, as an agent that has lost its state doesn't know of the one before.
    is_done(&world.quarantine().enter(QuarantineLevel::Isolate, terms(&[BROKER], &[])).await);
    let before = world.rules();
    for level in [QuarantineLevel::Observe, QuarantineLevel::Restrict] {
        let quarantine = world.quarantine();
        let outcome = quarantine.enter(level, terms(&[BROKER], &[])).await;
        is_done(&outcome);
        assert_eq!(outcome.quarantine, Some(QuarantineLevel::Isolate));
        let detail = outcome.detail.unwrap();
        assert!(detail.contains("isolate is in force") && detail.contains(BROKER), "{level}: {detail}");
        assert_eq!((world.rules(), quarantine.in_force()), (before.clone(), Some(QuarantineLevel::Isolate)), "{level}");
    }
    is_done(&world.quarantine().leave().await);
    assert_eq!(world.quarantine().in_force(), None);
}

#[tokio::test]
async fn root_on_the_console_ends_it_and_no_refresh_brings_it_back() {
    let Some(world) = World::new() else { return };
    let (agents, roots) = (world.quarantine(), world.quarantine());
    is_done(&agents.enter(QuarantineLevel::Isolate, terms(&[BROKER], &[])).await);
    is_done(&roots.leave_by_hand().await);
    let outcome = agents.refresh(QuarantineLevel::Isolate, false, terms(&[BROKER], &[])).await;
    assert_eq!(outcome.reason.as_deref(), Some("not_in_force"), "{outcome:?}");
    assert!(!world.rules().contains("fieldmedic") && agents.in_force().is_none());
    assert!(
        agents.why_none().contains("release --local"),
        "root's helper tells it before it asks: {}",
        agents.why_none()
    );
    is_done(&agents.enter(QuarantineLevel::Restrict, terms(&[BROKER], &[])).await);
    assert!(world.rules().contains("fieldmedic"));
}

#[tokio::test]
async fn a_change_waits_until_another_process_has_done_its_own_and_leaves_its_files_alone() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let quarantine = Quarantine::new(state.clone(), Loader::None, AGENT);
    is_done(&quarantine.enter(QuarantineLevel::Observe, terms(&[BROKER], &[])).await);
    let theirs = File::options().write(true).open(state.join("quarantine.lock")).unwrap();
    rustix::fs::flock(&theirs, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut leaving = std::pin::pin!(quarantine.leave_by_hand());
    tokio::select! {
        biased;
        outcome = &mut leaving => panic!("it did not wait: {outcome:?}"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(quarantine.in_force(), Some(QuarantineLevel::Observe));
    // What they are in the middle of writing.
    fs::write(state.join("quarantine.nft.new"), "").unwrap();
    drop(theirs);
    is_done(&leaving.await);
    assert!(quarantine.in_force().is_none() && state.join("quarantine.nft.new").exists());
}

#[tokio::test]
async fn what_root_ends_while_it_is_put_in_force_is_over_and_no_rule_of_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (nft, log, roots) = (dir.path().join("nft"), dir.path().join("log"), dir.path().join("ended"));
    // Root doesn't wait for it any more, and is done before the rules are loaded.
    let script = format!(
        "#!/bin/sh\necho \"$*\" >> {}\n[ \"$1\" != -f ] || [ ! -e {roots} ] || cp {roots} {}\n",
        log.display(),
        state.join(STATE_FILE).display(),
        roots = roots.display(),
    );
    fs::write(&nft, script).unwrap();
    fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).unwrap();
    let quarantine = Quarantine::new(state.clone(), Loader::Nft(nft), AGENT);
    is_done(&quarantine.enter(QuarantineLevel::Isolate, terms(&[BROKER], &[])).await);
    fs::write(&roots, serde_json::to_vec(&mark(ENDED)).unwrap()).unwrap();
    for is_entered in [false, true] {
        let terms = terms(&[BROKER, ELSEWHERE], &[]);
        let outcome = if is_entered {
            quarantine.enter(QuarantineLevel::Isolate, terms).await
        } else {
            quarantine.refresh(QuarantineLevel::Isolate, false, terms).await
        };
        assert_eq!(outcome.reason.as_deref(), Some("not_in_force"), "{outcome:?}");
        let called = fs::read_to_string(&log).unwrap();
        assert!(called.lines().last().unwrap().ends_with(&format!("delete table {TABLE}")), "{called}");
        assert!(quarantine.in_force().is_none() && !state.join(RULES_FILE).exists());
    }
}

#[tokio::test]
async fn a_state_that_can_not_be_read_counts_as_in_force_and_is_written_anew() {
    let Some(world) = World::new() else { return };
    let quarantine = world.quarantine();
    is_done(&quarantine.enter(QuarantineLevel::Restrict, terms(&[BROKER], &[])).await);
    let state = world.dir.path().join("state").join(STATE_FILE);
    fs::write(&state, "{\"level\":").unwrap();
    assert_eq!(quarantine.in_force(), Some(QuarantineLevel::Restrict));
    is_done(&quarantine.refresh(QuarantineLevel::Restrict, false, terms(&[BROKER], &[])).await);
    assert!(quarantine.saved().unwrap().level().is_some());
}

#[tokio::test]
async fn without_a_firewall_and_units_to_stop_nothing_is_in_force_and_that_is_told_as_failed() {
    let dir = tempfile::tempdir().unwrap();
    let quarantine = Quarantine::new(dir.path().join("state"), Loader::None, AGENT);
    for before in [None, Some(QuarantineLevel::Observe)] {
        if let Some(level) = before {
            is_done(&quarantine.enter(level, terms(&[BROKER], &[])).await);
        }
        let outcome = quarantine.enter(QuarantineLevel::Isolate, terms(&[BROKER], &[])).await;
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some("nft_failed")), "{outcome:?}");
        let detail = outcome.detail.unwrap();
        assert!(detail.contains("install nftables") && detail.contains("no unit was stopped"), "{detail}");
        assert_eq!(quarantine.in_force(), before);
        assert!(!dir.path().join("state").join(RULES_FILE).exists());
    }
    is_done(&quarantine.leave().await);
}

#[test]
fn a_unit_stays_stopped_as_long_as_a_level_is_in_force_that_stops_it() {
    let dir = tempfile::tempdir().unwrap();
    let quarantine = Quarantine::new(dir.path().to_owned(), Loader::None, AGENT);
    let stay = || {
        let stopped = quarantine.keeps_stopped();
        ["app.service", "other.service"].map(|unit| stopped.contains(&UnitName::parse(unit).unwrap()))
    };
    assert_eq!(stay(), [false, false]);
    for (level, stays) in [("observe", false), ("restrict", true), ("isolate", true)] {
        let terms = Terms { stop: units(&["app.service"]), ..Terms::default() };
        quarantine.save(&Saved { level: level.into(), terms, ..Saved::default() }).unwrap();
        assert_eq!(stay(), [stays, false], "{level}");
    }
}

#[tokio::test]
async fn without_a_helper_nothing_starts_a_unit_that_stays_stopped_either_whatever_the_configuration_says() {
    const KEPT: &str = "fieldmedic-no-such-unit.service";
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("goes-back");
    let script = "#!/bin/sh\ntouch \"$(dirname \"$0\")/gone-back\"\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let rollback = Rollback {
        kind: RollbackKind::Command { argv: vec![program.to_str().unwrap().into()] },
        units: units(&["other.service", KEPT]),
        settle: Duration::ZERO,
        trial: Duration::ZERO,
    };
    let quarantine = || Quarantine::new(dir.path().join("state"), Loader::None, AGENT);
    let actor = Actor::new(Manager::Systemd, dir.path().join("none"))
        .with_rollbacks(Rollbacks::new([("app".to_owned(), rollback)].into(), false, None))
        .with_quarantine(quarantine());
    let acts =
        || [Act::RestartUnit { unit: units(&[KEPT]).remove(0) }, Act::Rollback { target: "app".into(), to: None }];
    for (level, is_kept) in [("restrict", true), ("isolate", true), ("observe", false)] {
        let terms = Terms { stop: units(&[KEPT]), ..terms(&[BROKER], &[]) };
        quarantine().save(&Saved { level: level.into(), terms, ..Saved::default() }).unwrap();
        for act in acts() {
            let order = Order::new(act, Trigger::Rule("hot".into()), None, Duration::from_secs(20));
            let (_keep, canceled) = oneshot::channel();
            let outcome = actor.perform(order, canceled, |_| ()).await;
            let is_refused = outcome.status == ActStatus::Rejected && outcome.reason.as_deref() == Some("quarantined");
            assert_eq!(is_refused, is_kept, "{level}: {outcome:?}");
        }
        assert_eq!(dir.path().join("gone-back").exists(), !is_kept, "{level}");
    }
}

#[tokio::test]
async fn a_refresh_says_whether_units_are_kept_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let quarantine = Quarantine::new(dir.path().join("state"), Loader::None, AGENT);
    for (level, stop, kept) in
        [("restrict", &["a.service"][..], true), ("restrict", &[], false), ("observe", &[], false)]
    {
        let saved =
            Saved { level: level.into(), terms: Terms { stop: units(stop), ..terms(&[], &[]) }, ..Saved::default() };
        quarantine.save(&saved).unwrap();
        let level = saved.level().unwrap();
        let outcome = quarantine.refresh(level, false, terms(&[BROKER], &[])).await;
        assert_eq!((outcome.quarantine, outcome.keeps_stopped), (Some(level), kept), "{outcome:?}");
    }
}

#[test]
fn units_that_are_stopped_again_are_told_where_there_is_no_firewall_too() {
    let stopped = vec![UnitName::parse("app.service").unwrap()];
    let degraded = Some("install nftables".to_owned());
    let saved = Saved { stopped: stopped.clone(), degraded, ..Saved::default() };
    let again = stopped_again(outcome(QuarantineLevel::Restrict, &saved, None), &stopped);
    let is_degraded = again.reason.as_deref() == Some("degraded");
    assert_eq!((again.status, again.stopped_again, is_degraded), (ActStatus::Succeeded, true, true), "{again:?}");
    let detail = again.detail.unwrap();
    assert!(detail.contains("install nftables") && detail.ends_with("stopped again: app.service"), "{detail}");
}

#[test]
fn of_many_units_that_are_stopped_the_first_are_named_and_how_many_more_there_are() {
    let stopped: Vec<_> = (0..200).map(|number| UnitName::parse(&format!("app-{number}.service")).unwrap()).collect();
    let saved = Saved { stopped: stopped.clone(), ..Saved::default() };
    let again = stopped_again(outcome(QuarantineLevel::Restrict, &saved, None), &stopped);
    let detail = again.detail.unwrap();
    let named = "app-7.service, 192 more";
    assert!(detail.matches(named).count() == 2 && detail.ends_with(named), "{detail}");
}

fn units(names: &[&str]) -> Vec<UnitName> {
    names.iter().map(|name| UnitName::parse(name).unwrap()).collect()
}

#[test]
fn what_is_to_stay_stopped_does_whoever_wants_fewer_and_more_is_added_once() {
    let terms = |stop: &[&str]| Terms { stop: units(stop), ..terms(&[BROKER], &[]) };
    for (level, wanted, stopped) in [
        ("restrict", &[][..], &["a.service", "b.service"][..]),
        ("isolate", &["b.service"], &["a.service", "b.service"]),
        ("isolate", &["c.service", "b.service", "c.service"], &["a.service", "b.service", "c.service"]),
        // Nothing was.
        ("observe", &["b.service"], &["b.service"]),
    ] {
        let before = Saved { level: level.into(), terms: terms(&["a.service", "b.service"]), ..Saved::default() };
        assert_eq!(with_older(terms(wanted), &before).stop, units(stopped), "{level}");
    }
}

#[test]
fn addresses_that_are_found_again_keep_their_order_and_new_ones_go_first() {
    let (old, new) = (terms(&[BROKER, ELSEWHERE], &["192.0.2.1", "192.0.2.2"]), "10.78.0.4");
    let before = Saved { level: "restrict".into(), terms: old.clone(), ..Saved::default() };
    assert_eq!(with_older(terms(&[ELSEWHERE, BROKER], &["192.0.2.2", "192.0.2.1"]), &before), old);
    assert_eq!(with_older(terms(&[ELSEWHERE], &["192.0.2.1", "192.0.2.2"]), &before), old);
    let moved = with_older(terms(&[new, ELSEWHERE], &["192.0.2.2", "192.0.2.2"]), &before);
    assert_eq!(moved, terms(&[new, ELSEWHERE, BROKER], &["192.0.2.2", "192.0.2.2"]), "no host stays that is gone");
}

#[tokio::test]
async fn a_refresh_that_finds_all_as_it_was_writes_nothing_though_not_all_of_it_is_in_force() {
    // As without a right to the firewall, and as of a kernel that has no rules for bridges.
    for (refused, why) in [("*", "the network is as it was"), ("*bridge*", "what bridges forward goes on")] {
        let dir = tempfile::tempdir().unwrap();
        let nft = dir.path().join("nft");
        fs::write(&nft, format!("#!/bin/sh\ncase \"$*\" in {refused}) exit 1 ;; esac\n")).unwrap();
        fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).unwrap();
        let interfaces = dir.path().join("net");
        fs::create_dir_all(interfaces.join("br0/bridge")).unwrap();
        let state = dir.path().join("state");
        let quarantine = Quarantine { interfaces, ..Quarantine::new(state.clone(), Loader::Nft(nft), AGENT) };
        let stopped = units(&["fieldmedic-no-such-unit.service"]);
        let terms = |brokers: &[&str]| Terms { stop: stopped.clone(), ..terms(brokers, &[]) };
        let level = QuarantineLevel::Isolate;
        let saved = Saved { level: level.word().into(), stopped: stopped.clone(), ..Saved::default() };
        quarantine.save(&saved).unwrap();
        quarantine.refresh(level, false, terms(&[BROKER, ELSEWHERE])).await;
        // As long as they are open, no other file is the same.
        let open = || [STATE_FILE, RULES_FILE, BRIDGE_FILE].map(|name| File::open(state.join(name)).unwrap());
        let inodes = |files: &[File; 3]| files.each_ref().map(|file| rustix::fs::fstat(file).unwrap().st_ino);
        let before = open();
        for brokers in [[ELSEWHERE, BROKER], [BROKER, ELSEWHERE]] {
            let outcome = quarantine.refresh(level, false, terms(&brokers)).await;
            is_done(&outcome);
            assert!(outcome.detail.unwrap().contains(why));
            assert_eq!(inodes(&open()), inodes(&before), "{why}");
        }
    }
}

#[test]
fn every_level_is_a_ruleset_that_nft_takes_whatever_the_terms() {
    let Loader::Nft(nft) = Loader::find() else {
        eprintln!("SKIPPED: there is no nft here");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(RULES_FILE);
    let empty = terms(&[], &[]);
    let much = terms(&[BROKER, ELSEWHERE, "2001:db8::1"], &["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32", "::1"]);
    for (terms, wide) in [(&empty, false), (&much, false), (&much, true)] {
        for level in [QuarantineLevel::Restrict, QuarantineLevel::Isolate] {
            let rules = ruleset::render(level, wide, terms, AGENT).unwrap() + &ruleset::render_bridge(level);
            fs::write(&file, &rules).unwrap();
            let output = Command::new(&nft).args(["--check", "-f"]).arg(&file).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            // Who isn't root may not even ask the kernel, but nft has read it by then.
            assert!(output.status.success() || said.contains("Operation not permitted"), "{said}\n{rules}");
        }
    }
    assert_eq!(ruleset::render(QuarantineLevel::Observe, true, &much, AGENT), None);
}
