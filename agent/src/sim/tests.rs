//! Whole runs in worlds of a few hours. Whole days of `mixed-faults`, with each bug that they can show planted, are run
//! by the program as it is built for release (tests/simulated).

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::planted::Planted;
use super::report::{Promise, What};
use super::scenario::{
    BatteryWorld, ClockWorld, DiskWorld, ErrorsWorld, Fault, FaultKind, HostWorld, LinkWorld, NetworkWorld, Scenario,
    When,
};
use super::*;
use crate::config;
use crate::engine::time::Unix;

pub(super) const HOUR: Duration = Duration::from_secs(3_600);
/// A seed that isn't run a second time to see whether it comes to the same: for what takes long.
const ONCE: u64 = 2;

pub(super) fn quiet() -> Scenario {
    let ms = Duration::from_millis;
    Scenario {
        name: "quiet".into(),
        about: String::new(),
        config: None,
        lasts: 12 * HOUR,
        calm: 2 * HOUR,
        starts: Unix(1_768_435_200_000),
        clock: ClockWorld { boots_at: None, set_after: Some(Duration::from_secs(60)), drift_ppm: 10.0 },
        disk: DiskWorld { bytes: 1 << 30, others_bytes: 100 << 20, others_grow_bytes: 0, commit: (ms(5), ms(40)) },
        network: NetworkWorld { latency: (ms(20), ms(80)), bandwidth: None, session_expiry: 24 * HOUR },
        battery: None,
        host: HostWorld { cpu_pct: 10.0, mem_used_pct: 40.0, temperature_c: 40.0, boot: Duration::from_secs(20) },
        links: vec![LinkWorld { interface: "eth0".into(), kind: "ethernet".into(), rssi_dbm: None, gaps: None }],
        units: vec![],
        releases: vec![],
        errors: ErrorsWorld { per_hour: 0.0, kinds: 1 },
        faults: vec![],
        commands: vec![],
        expect: vec![],
    }
}

pub(super) fn plan(scenario: Scenario) -> Plan {
    configured(scenario, "")
}

/// A plan with lines of its own in the configuration.
pub(super) fn configured(scenario: Scenario, more: &str) -> Plan {
    let text = format!(
        r#"
        [device]
        id = "gw-1"
        groups = ["sim"]
        [mqtt]
        url = "mqtt://127.0.0.1"
        [remediation]
        units = ["app.service", "other.service"]
        {more}"#
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file.as_file(), text.as_bytes()).unwrap();
    let config = config::load(&[PathBuf::from(file.path())]).unwrap().config;
    Plan { scenario, config, policy: None, planted: None }
}

/// A scenario of the repository, with the configuration beside it.
fn shipped(name: &str) -> Plan {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/scenarios");
    let scenario = scenario::load(&dir.join(format!("{name}.toml"))).unwrap();
    let config = config::load(&[dir.join("gateway.toml")]).unwrap().config;
    Plan { scenario, config, policy: None, planted: None }
}

/// So many at once, three times a minute.
pub(super) fn pings(burst: u32) -> scenario::Order {
    scenario::Order {
        name: "ping".into(),
        args: serde_json::Map::new(),
        when: When::Every(Duration::from_secs(20)),
        burst,
        group: None,
        expires: HOUR,
        nonce: false,
        flaw: None,
    }
}

pub(super) fn lasting(kind: FaultKind, at: Duration, lasts: Duration) -> Fault {
    Fault { name: kind.word().into(), kind, when: When::At(vec![at]), lasts: (lasts, lasts) }
}

/// The first of these seeds in which a bug is found, with the promises that it broke.
fn caught(plan: &Plan, bug: Planted, mut seeds: RangeInclusive<u64>) -> Option<(u64, Vec<Promise>)> {
    let plan = Plan { planted: Some(bug), ..plan.clone() };
    seeds.find_map(|seed| {
        let promises: Vec<Promise> = run(&plan, seed).broken.into_iter().map(|broken| broken.promise).collect();
        promises.iter().any(|promise| bug.breaks().contains(promise)).then_some((seed, promises))
    })
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_gives_another() {
    let plan = shipped("mixed-faults");
    let [one, again, other] = [7, 7, 8].map(|seed| run(&plan, seed));
    assert_eq!(one, again);
    assert_ne!(one.trace_hash, other.trace_hash);
}

#[test]
fn a_store_that_is_never_evicted_is_caught() {
    let mut scenario = quiet();
    (scenario.lasts, scenario.calm) = (3 * HOUR, HOUR / 2);
    scenario.faults.push(lasting(FaultKind::BrokerDown, HOUR / 4, 2 * HOUR));
    // Others have filled the disk: then nothing is thinned, for which there would have to be room.
    scenario.disk.others_bytes = scenario.disk.bytes - (8 << 20);
    let faster = "[store]\nmax_bytes = \"1MiB\"\nmin_free_bytes = \"32MiB\"\n[telemetry]\nsample_interval = \"4s\"\nreport_interval = \"4s\"";
    let plan = configured(scenario, faster);
    assert_eq!(run(&plan, ONCE).broken, []);
    assert!(caught(&plan, Planted::NeverEvicts, ONCE..=ONCE).is_some());
}

#[test]
fn a_queue_to_the_store_without_a_bound_is_caught() {
    let plan = shipped("slow-disk");
    assert_eq!(run(&plan, ONCE).broken, []);
    assert!(caught(&plan, Planted::NoQueueBound, ONCE..=5).is_some());
}

#[test]
fn the_shortest_history_keeps_only_what_is_needed() {
    let mut scenario = quiet();
    (scenario.lasts, scenario.calm) = (HOUR, HOUR / 4);
    // Results that are sent while packets vanish count as acknowledged, and never come.
    scenario.commands.push(pings(1));
    scenario.faults = (1..=12).map(|nth| lasting(FaultKind::HalfOpen, nth * HOUR / 20, HOUR / 60)).collect();
    let mut plan = plan(scenario);
    plan.planted = Some(Planted::TrimBeforeAck);
    let seed = caught(&plan, Planted::TrimBeforeAck, 1..=30).unwrap().0;
    let began = |timeline: &[report::Moment]| {
        timeline.iter().filter(|moment| matches!(moment.what, What::FaultBegan { .. })).count()
    };
    assert_eq!(began(&run(&plan, seed).timeline), 12);
    let shrunk = shrink(&plan, seed, Promise::NothingLost);
    assert!(began(&shrunk.timeline) <= 2, "{:?}", shrunk.left);
}

#[test]
fn a_fleet_comes_back_spread_over_the_ceiling() {
    let plan = plan(quiet());
    let came = fleet(&plan, 60, 1);
    let back_at = usize::try_from(came.back_at_s).unwrap();
    let sessions: u32 = came.sessions[back_at..].iter().sum();
    assert_eq!(sessions, 60, "all come back within the time that is looked at");
    let peak = came.tries[back_at..].iter().max().copied().unwrap();
    assert!(peak <= 6, "{peak} of 60 tried within one second");
    assert!(came.all_well(), "{came:?}");
}

#[test]
fn a_gateway_that_never_comes_back_and_a_broken_promise_are_told() {
    let mut scenario = quiet();
    // It lasts half an hour.
    scenario.battery = Some(BatteryWorld {
        capacity_wh: 1.0,
        charge_pct: 100.0,
        load_w: 2.0,
        sun_w: 0.0,
        daylight: HOUR,
        sky: (1.0, 1.0),
        mains_w: 0.0,
        off_pct: 2.0,
        on_pct: 10.0,
    });
    assert_eq!(fleet(&plan(scenario), 2, 7).missing, [7, 8]);
    let patient = fleet(&configured(quiet(), "[mqtt.reconnect]\nmax = \"1h\""), 8, 1);
    assert_eq!(patient.missing, Vec::<u64>::new(), "what the config makes them wait is looked at");
    let mut buggy = Plan { planted: Some(Planted::WallClockAge), ..plan(quiet()) };
    buggy.scenario.clock.boots_at = Some(Unix(0));
    let wrong = fleet(&buggy, 1, 3);
    assert!(wrong.broken.iter().any(|(seed, broken)| (*seed, broken.promise) == (3, Promise::TimeOrder)), "{wrong:?}");
}

#[test]
fn a_command_that_is_forged_expired_or_not_for_this_gateway_and_acts_is_caught() {
    let mut scenario = quiet();
    (scenario.lasts, scenario.calm) = (2 * HOUR, HOUR / 4);
    let restart = |flaw| scenario::Order {
        name: "restart_unit".into(),
        args: [("unit".to_owned(), "app.service".into())].into_iter().collect(),
        when: When::At(vec![HOUR]),
        flaw: Some(flaw),
        ..pings(1)
    };
    scenario.commands = scenario::Flaw::ALL.iter().copied().map(restart).collect();
    let plan = plan(scenario);
    assert_eq!(run(&plan, ONCE).broken, []);
    for bug in [Planted::SignatureIgnored, Planted::ExpiryIgnored] {
        assert!(caught(&plan, bug, ONCE..=ONCE).is_some(), "{bug:?}");
    }
}
