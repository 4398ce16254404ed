//! The samples of a made gateway: battery, one cellular link, a host with one disk, and the agent itself, as the
//! collectors deliver them at the defaults. Values wander, because what never changes would compress too well.

use std::path::Path;

use bytes::Bytes;
use fieldmedic::engine::io::StoreOp;
use fieldmedic::engine::metric::{Metric, Value};
use fieldmedic::engine::record::{Body, Class, Reading, Record, Sample, Stamp};
use fieldmedic::engine::time::{BootId, Mono};
use fieldmedic::store::{Store, StoreSettings};

/// Records between two commits.
pub const COMMIT_EACH: u64 = 256;
/// What a store of a benchmark may take.
pub const MAX_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// The nth minute of the gateway's life.
pub fn record(n: u64) -> Record {
    let mut dice = Dice(fastrand::Rng::with_seed(n));
    Record {
        at: Stamp { boot: BootId([7; 16]), mono: Mono(n * 60_000) },
        body: Body::Sample(Sample { interval_ms: 60_000, readings: readings(n, &mut dice) }),
    }
}

fn readings(n: u64, dice: &mut Dice) -> Vec<Reading> {
    let (rx, tx) = (dice.within(20_000.0, 0.0, 90_000.0), dice.within(9_000.0, 0.0, 40_000.0));
    vec![
        just(Metric::BatteryPresent, true),
        gauge(Metric::BatteryChargePct, dice.within(60.0, 1.0, 40.0), dice),
        just(Metric::BatteryState, "discharging"),
        gauge(Metric::BatteryVoltage, dice.within(11.4, 0.001, 1.6), dice),
        gauge(Metric::BatteryCurrent, dice.within(-1.2, 0.001, 0.9), dice),
        gauge(Metric::BatteryTemperature, dice.within(18.0, 0.1, 25.0), dice),
        just(Metric::BatteryExternalPower, false),
        just(Metric::BatteryDischarged, dice.within(0.0, 1.0, 2.0)),
        just(Metric::LinkType, "cellular"),
        just(Metric::LinkInterface, "wwan0"),
        just(Metric::LinkUp, true),
        gauge(Metric::LinkRsrp, dice.within(-108.0, 1.0, 30.0), dice),
        gauge(Metric::LinkRsrq, dice.within(-14.0, 1.0, 8.0), dice),
        just(Metric::LinkRxBytes, count(rx)),
        just(Metric::LinkTxBytes, count(tx)),
        just(Metric::LinkRxErrors, 0_u64),
        just(Metric::LinkTxErrors, 0_u64),
        just(Metric::LinkBrokerRtt, dice.within(60.0, 1.0, 400.0)),
        just(Metric::LinkConnected, 60.0),
        just(Metric::LinkExpected, 60.0),
        just(Metric::ErrorsCount, n % 3),
        gauge(Metric::HostCpu, dice.within(4.0, 0.001, 30.0), dice),
        just(Metric::HostLoad1, dice.within(0.1, 0.01, 2.0)),
        gauge(Metric::HostMemUsed, dice.within(40.0, 0.001, 20.0), dice),
        just(Metric::HostMemAvailable, count(dice.within(3e8, 4096.0, 2e8))),
        labelled(Metric::HostDiskUsed, "/", dice.within(55.0, 0.001, 5.0)),
        labelled(Metric::HostDiskFree, "/", count(dice.within(9e8, 4096.0, 1e8))),
        just(Metric::HostTemperature, dice.within(38.0, 0.1, 12.0)),
        just(Metric::HostUptime, (n * 60) as f64),
        just(Metric::HostClockSynced, true),
        just(Metric::AgentVersion, "0.1.0"),
        just(Metric::AgentRss, count(dice.within(7e6, 4096.0, 1e6))),
        just(Metric::AgentCpu, dice.within(0.01, 0.001, 0.2)),
        just(Metric::AgentOutboxRecords, n % 5_000),
        just(Metric::AgentOutboxBytes, (n % 5_000) * 420),
        just(Metric::AgentStoreWritten, count(dice.within(2_000.0, 1.0, 3_000.0))),
    ]
}

fn just(metric: Metric, value: impl Into<Value>) -> Reading {
    Reading { metric, label: None, value: value.into(), range: None }
}

fn labelled(metric: Metric, label: &str, value: impl Into<Value>) -> Reading {
    Reading { label: Some(label.into()), ..just(metric, value) }
}

/// One that moved within the interval, as every third does.
fn gauge(metric: Metric, value: f64, dice: &mut Dice) -> Reading {
    let moved = dice.0.u8(..3) == 0;
    let step = (value.abs() * 0.01).max(0.001);
    Reading { range: moved.then_some((value - step, value + step)), ..just(metric, value) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a made amount is small and positive")]
fn count(amount: f64) -> u64 {
    amount as u64
}

/// The same sample has the same values in every run.
struct Dice(fastrand::Rng);

impl Dice {
    /// From `low`, at most `span` above it, in steps of `step` (0: of one).
    fn within(&mut self, low: f64, step: f64, span: f64) -> f64 {
        let step = if step == 0.0 { 1.0 } else { step };
        let share = self.0.f64();
        ((low + share * span) / step).round() * step
    }
}

/// Encoded samples, of which a store takes as many as it is asked to.
pub fn encoded(kinds: u64) -> Vec<Bytes> {
    (0..kinds).map(|n| record(n).encode()).collect()
}

/// Puts samples into the store of an agent that is yet to start.
pub fn fill(path: &Path, records: u64) {
    let settings = StoreSettings { path: path.to_owned(), max_bytes: MAX_BYTES };
    let (mut store, _) = Store::open(&settings).unwrap();
    for n in 1..=records {
        let bytes = record(n).encode();
        store.apply(StoreOp::Append { class: Class::Telemetry, seq: n, bytes }).unwrap();
        if n % COMMIT_EACH == 0 {
            store.apply(StoreOp::Commit).unwrap();
        }
    }
    store.apply(StoreOp::Commit).unwrap();
}
