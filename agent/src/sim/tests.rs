//! Whole runs: the promises under every fault, each planted bug, the shipped scenarios, and the seeds in which a bug was
//! found once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::planted::Planted;
use super::report::{Promise, What};
use super::scenario::{
    ClockWorld, DiskWorld, ErrorsWorld, Fault, FaultKind, HostWorld, LinkWorld, NetworkWorld, Scenario, When,
};
use super::*;
use crate::config;
use crate::engine::observation::Severity;
use crate::engine::time::Unix;

const HOUR: Duration = Duration::from_secs(3_600);

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
fn configured(scenario: Scenario, more: &str) -> Plan {
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
    Plan { scenario, config, planted: None }
}

/// A scenario of the repository, with the configuration beside it.
fn shipped(name: &str) -> Plan {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/scenarios");
    let scenario = scenario::load(&dir.join(format!("{name}.toml"))).unwrap();
    let config = config::load(&[dir.join("gateway.toml")]).unwrap().config;
    Plan { scenario, config, planted: None }
}

fn lasting(kind: FaultKind, at: Duration, lasts: Duration) -> Fault {
    Fault { name: kind.word().into(), kind, when: When::At(vec![at]), lasts: (lasts, lasts) }
}

/// The first seed in which a bug is found, with the promises that it broke.
fn caught(plan: &Plan, bug: Planted, most: u64) -> Option<(u64, Vec<Promise>)> {
    let plan = Plan { planted: Some(bug), ..plan.clone() };
    (1..=most).find_map(|seed| {
        let promises: Vec<Promise> = run(&plan, seed).broken.into_iter().map(|broken| broken.promise).collect();
        promises.iter().any(|promise| bug.breaks().contains(promise)).then_some((seed, promises))
    })
}

#[test]
fn every_promise_is_held_under_mixed_faults() {
    let plan = shipped("mixed-faults");
    // The program as it is built for release runs 200 (tests/run), and ten thousand at night (tests/nightly).
    for seed in 1..=4 {
        let run = run(&plan, seed);
        assert_eq!(run.broken, [], "fieldmedic simulate mixed-faults --seed {seed}");
    }
}

/// Seeds in which a bug was found, and what it was.
#[test]
fn what_was_found_once_stays_mended() {
    for (seed, story) in [
        (3, "a command whose journaling failed was told REJECTED, and INTERRUPTED after the next crash"),
        (16, "the same with a restart"),
        (67, "the same with one that was queued, CANCELED after the crash"),
        (161, "the total of what was dropped was forgotten with the journal"),
        (614, "an agent that died before it had written that its journal was lost found its budgets full"),
        (3936, "an expired command was acknowledged before its refusal was on the disk, and a crash took that"),
        (1246, "a command refused as expired by a clock that ran ahead came again once it was right, and ran"),
        (10, "a record that only memory held was answered, and what was stored before it and not yet read was deleted"),
        (124, "a sample that was held passed over one that was still on its way into a slow store"),
        (6458, "an alarm that a power cut took was told by the next boot, with its own date and a later number"),
        (515, "the agent's backoff began anew at its start, the checker's did not"),
    ] {
        let run = run(&shipped("mixed-faults"), seed);
        assert_eq!(run.broken, [], "seed {seed}: {story}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_gives_another() {
    let plan = shipped("mixed-faults");
    let [one, again, other] = [7, 7, 8].map(|seed| run(&plan, seed));
    assert_eq!(one, again);
    assert_ne!(one.trace_hash, other.trace_hash);
}

#[test]
fn each_bug_that_mixed_faults_can_show_is_caught() {
    let plan = shipped("mixed-faults");
    for bug in [
        Planted::AckBeforeCommit,
        Planted::DedupeForgotten,
        Planted::BudgetInMemory,
        Planted::TrimBeforeAck,
        Planted::WallClockAge,
        Planted::NoJitter,
        Planted::OutcomeLost,
        Planted::AllowsAll,
        Planted::WildDice,
    ] {
        let found = caught(&plan, bug, 1_000);
        assert!(found.is_some(), "{} was not found within 1,000 seeds", bug.word());
    }
}

#[test]
fn a_store_that_is_never_evicted_is_caught() {
    let mut scenario = quiet();
    (scenario.lasts, scenario.calm) = (12 * HOUR, HOUR);
    scenario.faults.push(lasting(FaultKind::BrokerDown, HOUR, 10 * HOUR));
    // Others have filled the disk: then nothing is thinned, for which there would have to be room.
    scenario.disk.others_bytes = scenario.disk.bytes - (8 << 20);
    let faster = "[store]\nmin_free_bytes = \"32MiB\"\n[telemetry]\nreport_interval = \"10s\"";
    let plan = configured(scenario, faster);
    assert_eq!(run(&plan, 1).broken, []);
    assert!(caught(&plan, Planted::NeverEvicts, 1).is_some());
}

#[test]
fn a_queue_to_the_store_without_a_bound_is_caught() {
    let mut scenario = quiet();
    (scenario.lasts, scenario.calm) = (HOUR, HOUR / 4);
    scenario.faults.push(lasting(FaultKind::DiskSlow { times: 50_000.0 }, HOUR / 6, HOUR / 3));
    let storm = FaultKind::ErrorStorm { per_second: 100, kinds: 500, severity: Severity::Error };
    scenario.faults.push(lasting(storm, HOUR / 6, HOUR / 6));
    scenario.commands.push(scenario::Order {
        name: "ping".into(),
        args: serde_json::Map::new(),
        when: When::Every(Duration::from_secs(20)),
        burst: 20,
        group: None,
        expires: HOUR,
        nonce: false,
        flaw: None,
    });
    let plan = plan(scenario);
    assert_eq!(run(&plan, 1).broken, []);
    assert!(caught(&plan, Planted::NoQueueBound, 5).is_some());
}

#[test]
fn the_shortest_history_keeps_only_what_is_needed() {
    let mut plan = shipped("mixed-faults");
    plan.planted = Some(Planted::TrimBeforeAck);
    let seed = caught(&plan, Planted::TrimBeforeAck, 100).unwrap().0;
    let began = |timeline: &[report::Moment]| {
        timeline.iter().filter(|moment| matches!(moment.what, What::FaultBegan { .. })).count()
    };
    let whole = began(&run(&plan, seed).timeline);
    let shrunk = shrink(&plan, seed, Promise::NothingLost);
    let left = began(&shrunk.timeline);
    assert!(left * 4 < whole, "{left} of {whole} faults are left: {:?}", shrunk.left);
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
}
