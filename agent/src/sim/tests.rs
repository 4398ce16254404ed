//! Whole runs.

use std::path::PathBuf;
use std::time::Duration;

use super::planted::Planted;
use super::scenario::*;
use super::*;
use crate::config;
use crate::engine::time::Unix;

pub(super) fn quiet() -> Scenario {
    let ms = Duration::from_millis;
    Scenario {
        name: "quiet".into(),
        about: String::new(),
        config: None,
        lasts: Duration::from_secs(86_400),
        calm: Duration::from_secs(7_200),
        starts: Unix(1_768_435_200_000),
        clock: ClockWorld { boots_at: None, set_after: Some(Duration::from_secs(60)), drift_ppm: 10.0 },
        disk: DiskWorld { bytes: 1 << 30, others_bytes: 100 << 20, others_grow_bytes: 0, commit: (ms(5), ms(40)) },
        network: NetworkWorld {
            latency: (ms(20), ms(80)),
            bandwidth: None,
            session_expiry: Duration::from_secs(86_400),
        },
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
    let text = r#"
        [device]
        id = "gw-1"
        groups = ["canary"]
        [mqtt]
        url = "mqtt://127.0.0.1"
        [remediation]
        units = ["app.service", "other.service"]
    "#;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file.as_file(), text.as_bytes()).unwrap();
    let config = config::load(&[PathBuf::from(file.path())]).unwrap().config;
    Plan { scenario, config, planted: None }
}

#[test]
fn probe() {
    let begun = std::time::SystemTime::now();
    let mut s = quiet();
    let kinds = [
        FaultKind::Crash,
        FaultKind::Cut,
        FaultKind::PowerCut,
        FaultKind::HalfOpen,
        FaultKind::BrokerDown,
        FaultKind::AcksLost { probability: 0.3 },
    ];
    for kind in kinds {
        let lasts = if kind == FaultKind::Crash { Duration::ZERO } else { Duration::from_secs(300) };
        s.faults.push(Fault {
            name: kind.word().into(),
            kind,
            when: When::Every(Duration::from_secs(3 * 3600)),
            lasts: (lasts / 10, lasts),
        });
    }
    s.commands.push(Order {
        name: "restart_unit".into(),
        args: serde_json::json!({"unit": "app.service"}).as_object().unwrap().clone(),
        when: When::Every(Duration::from_secs(3600)),
        burst: 1,
        group: None,
        expires: Duration::from_secs(600),
        nonce: false,
        flaw: None,
    });
    let mut p = plan(s);
    p.planted = std::env::var("PLANT").ok().and_then(|w| Planted::ALL.iter().copied().find(|p| p.word() == w));
    let n: u64 = std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for seed in 1..=n {
        let run = run(&p, seed);
        if n == 1 {
            for m in run.timeline.iter().take(60) {
                println!("{:>8} {:?}", m.at_ms / 1000, m.what);
            }
            println!("{:#?}", run.summary);
        }
        if !run.broken.is_empty() {
            println!("seed {seed}: {:?}", run.broken);
        }
    }
    println!("{:?}", begun.elapsed());
}

#[test]
fn speed() {
    let mut s = quiet();
    let days: u64 = std::env::var("DAYS").ok().and_then(|n| n.parse().ok()).unwrap_or(30);
    s.lasts = Duration::from_secs(86_400 * days);
    let p = plan(s);
    let begun = std::time::SystemTime::now();
    let run = run(&p, 1);
    let took = begun.elapsed().unwrap().as_secs_f64();
    println!("{:.0} days/s, {} records {:?}", days as f64 / took, run.summary.records, run.broken);
}
