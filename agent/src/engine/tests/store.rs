//! A store that is a map, for the engine's world: it keeps over a crash what was committed, and counts what it is
//! asked.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::engine::io::{LogRange, Recovered, StoreFault, StoreOp, StoreReply, StoreStats};
use crate::engine::record::Class;
use crate::engine::time::Unix;
use crate::store::STATE_VALUE_BYTES_MAX;

/// What a segment of the store holds.
const SEGMENT_RECORDS: usize = 10;

/// A store in memory: what was not committed is gone after a crash.
#[derive(Debug, Default)]
pub(super) struct MemStore {
    pub(super) logs: [BTreeMap<u64, Bytes>; Class::COUNT],
    volatile: [BTreeSet<u64>; Class::COUNT],
    last: [u64; Class::COUNT],
    pub(super) evicted: [u64; Class::COUNT],
    durable_last: [u64; Class::COUNT],
    /// Every record that was ever on the disk, whatever became of it.
    pub(super) durable: BTreeSet<u64>,
    /// Those that were evicted.
    pub(super) given_up: BTreeSet<u64>,
    pub(super) commits: u64,
    /// Records that were ever appended.
    pub(super) appended: [u64; Class::COUNT],
    pub(super) state: BTreeMap<String, Bytes>,
    /// How often each key was written.
    pub(super) written: BTreeMap<String, u64>,
    pub(super) fault: Option<StoreFault>,
    pub(super) free_bytes: u64,
    pub(super) state_bytes: u64,
    pub(super) written_at: Option<Unix>,
}

impl MemStore {
    /// Empty, on a disk without an end.
    pub(super) fn roomy() -> Self {
        Self { free_bytes: u64::MAX, ..Self::default() }
    }

    pub(super) fn apply(&mut self, op: StoreOp) -> Result<StoreReply, StoreFault> {
        if let Some(fault) = self.fault.as_ref().filter(|_| op != StoreOp::Probe) {
            return Err(fault.clone());
        }
        Ok(match op {
            StoreOp::Append { class, seq, bytes } => {
                let class = class as usize;
                assert!(seq > self.last[class], "seq {seq} after {} in class {class}", self.last[class]);
                self.last[class] = seq;
                self.appended[class] += 1;
                self.logs[class].insert(seq, bytes);
                self.volatile[class].insert(seq);
                StoreReply::Appended
            }
            StoreOp::Commit => {
                self.commits += 1;
                for volatile in &mut self.volatile {
                    self.durable.append(volatile);
                }
                self.durable_last = self.last;
                StoreReply::Committed
            }
            StoreOp::Read { class, from, records_max, .. } => {
                let records = self.logs[class as usize].range(from..).take(records_max);
                StoreReply::Page { records: records.map(|(seq, bytes)| (*seq, bytes.clone())).collect(), damaged: 0 }
            }
            StoreOp::Trim { class, upto } => {
                self.logs[class as usize].retain(|seq, _| *seq > upto);
                StoreReply::Trimmed
            }
            StoreOp::Evict { class } => {
                let gone: Vec<u64> = self.logs[class as usize].keys().take(SEGMENT_RECORDS).copied().collect();
                self.logs[class as usize].retain(|seq, _| !gone.contains(seq));
                self.evicted[class as usize] += gone.len() as u64;
                self.given_up.extend(&gone);
                let (first, last) = (gone.first().copied().unwrap_or(0), gone.last().copied().unwrap_or(0));
                StoreReply::Evicted { records: gone.len() as u64, first, last }
            }
            StoreOp::Put { entries } => {
                for (key, value) in entries {
                    let len = value.as_ref().map_or(0, Bytes::len);
                    assert!(len <= STATE_VALUE_BYTES_MAX, "{key}: a value of {len} B, which no store takes");
                    *self.written.entry(key.clone()).or_default() += 1;
                    match value {
                        Some(value) => self.state.insert(key, value),
                        None => self.state.remove(&key),
                    };
                }
                StoreReply::Put
            }
            StoreOp::Probe => StoreReply::Probed,
        })
    }

    /// What the logs take.
    pub(super) fn bytes(&self) -> u64 {
        self.logs.iter().flat_map(BTreeMap::values).map(|bytes| bytes.len() as u64 + 20).sum()
    }

    pub(super) fn stats(&self) -> StoreStats {
        StoreStats {
            outbox_bytes: self.bytes(),
            free_bytes: self.free_bytes,
            state_bytes: self.state_bytes,
            records: std::array::from_fn(|n| self.logs[n].len() as u64),
            segments: std::array::from_fn(|n| u32::try_from(self.logs[n].len().div_ceil(SEGMENT_RECORDS)).unwrap()),
            ..StoreStats::default()
        }
    }

    pub(super) fn crash(&mut self) -> Recovered {
        for (log, volatile) in self.logs.iter_mut().zip(&mut self.volatile) {
            log.retain(|seq, _| !volatile.contains(seq));
            volatile.clear();
        }
        self.last = self.durable_last;
        Recovered {
            logs: std::array::from_fn(|n| LogRange {
                first: self.logs[n].keys().next().copied().unwrap_or(0),
                last: self.last[n],
                records: self.logs[n].len() as u64,
                evicted: self.evicted[n],
            }),
            state: self.state.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            losses: Vec::new(),
            stats: self.stats(),
            written_at: self.written_at,
            absent: false,
        }
    }
}
