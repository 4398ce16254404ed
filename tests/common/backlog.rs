//! Samples that an agent would have stored in an earlier boot, put into its store while it isn't running.

use std::collections::BTreeSet;
use std::path::Path;

use fieldmedic::engine::io::StoreOp;
use fieldmedic::engine::metric::{Metric, Value};
use fieldmedic::engine::record::{Body, Class, Reading, Record, Sample, Stamp};
use fieldmedic::engine::time::{BootId, Mono};
use fieldmedic::store::{Store, StoreSettings};

/// Beyond every number that an agent has used by then.
const FIRST_SEQ: u64 = 1 << 40;
const INTERVAL_MS: u64 = 60_000;
/// As by default.
const STORE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Stores so many, once in a store's life; their numbers.
pub fn fill(store: &Path, samples: u64) -> BTreeSet<u64> {
    let boot = BootId::parse("11111111-2222-3333-4444-555555555555").unwrap();
    let settings = StoreSettings { path: store.to_owned(), max_bytes: STORE_BYTES_MAX };
    let (mut store, _) = Store::open(&settings).unwrap();
    let seqs = FIRST_SEQ..FIRST_SEQ + samples;
    for (minute, seq) in (1..).zip(seqs.clone()) {
        let at = Stamp { boot, mono: Mono(minute * INTERVAL_MS) };
        let body = Body::Sample(Sample { interval_ms: INTERVAL_MS, readings: readings(minute) });
        let bytes = Record { at, body }.encode();
        store.apply(StoreOp::Append { class: Class::Telemetry, seq, bytes }).unwrap();
    }
    store.apply(StoreOp::Commit).unwrap();
    seqs.collect()
}

fn readings(minute: u64) -> Vec<Reading> {
    let reading = |metric: Metric, value: Value| Reading { metric, label: None, value, range: None };
    vec![
        reading(Metric::BatteryChargePct, Value::Count(minute % 101)),
        reading(Metric::BatteryState, Value::Text("discharging".into())),
        reading(Metric::BatteryVoltage, Value::Float(12.5)),
        reading(Metric::LinkConnected, Value::Count(INTERVAL_MS / 1000)),
        reading(Metric::HostLoad1, Value::Float(0.25)),
    ]
}
