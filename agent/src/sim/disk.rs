//! stand-in
use super::dice::Dice;
use super::scenario::DiskWorld;
use crate::engine::io::*;
use crate::engine::record::Class;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
pub enum Crash {
    Clean,
    Process,
    Power,
}
pub struct Disk {
    logs: [BTreeMap<u64, Bytes>; 3],
    volatile: [BTreeSet<u64>; 3],
    last: [u64; 3],
    state: BTreeMap<String, Bytes>,
    newly: Vec<(Class, u64)>,
    dice: Dice,
    world: DiskWorld,
    written: u64,
    bytes: u64,
}
impl Disk {
    pub fn new(world: &DiskWorld, _max: u64, dice: Dice) -> Self {
        Self {
            logs: Default::default(),
            volatile: Default::default(),
            last: [0; 3],
            state: BTreeMap::new(),
            newly: vec![],
            dice,
            world: world.clone(),
            written: 0,
            bytes: 0,
        }
    }
    pub fn apply(&mut self, op: StoreOp) -> (Result<StoreReply, StoreFault>, StoreStats) {
        let r = match op {
            StoreOp::Append { class, seq, bytes } => {
                let c = class as usize;
                self.written += bytes.len() as u64 + 20;
                self.bytes += bytes.len() as u64 + 20;
                self.last[c] = seq;
                self.logs[c].insert(seq, bytes);
                self.volatile[c].insert(seq);
                StoreReply::Appended
            }
            StoreOp::Commit => {
                for class in Class::ALL {
                    for seq in std::mem::take(&mut self.volatile[class as usize]) {
                        self.newly.push((class, seq));
                    }
                }
                StoreReply::Committed
            }
            StoreOp::Read { class, from, records_max, .. } => StoreReply::Page {
                records: self.logs[class as usize]
                    .range(from..)
                    .take(records_max)
                    .map(|(s, b)| (*s, b.clone()))
                    .collect(),
                damaged: 0,
            },
            StoreOp::Trim { class, upto } => {
                let log = &mut self.logs[class as usize];
                let rest = log.split_off(&(upto + 1));
                let gone = std::mem::replace(log, rest);
                self.bytes -= gone.values().map(|b| b.len() as u64 + 20).sum::<u64>();
                StoreReply::Trimmed
            }
            StoreOp::Evict { class } => {
                let c = class as usize;
                let gone: Vec<u64> = self.logs[c].keys().take(50).copied().collect();
                for s in &gone {
                    let b = self.logs[c].remove(s).unwrap();
                    self.bytes -= b.len() as u64 + 20;
                }
                StoreReply::Evicted {
                    records: gone.len() as u64,
                    first: gone.first().copied().unwrap_or(0),
                    last: gone.last().copied().unwrap_or(0),
                }
            }
            StoreOp::Put { entries } => {
                for (k, v) in entries {
                    match v {
                        Some(v) => {
                            self.written += v.len() as u64;
                            self.state.insert(k, v);
                        }
                        None => {
                            self.state.remove(&k);
                        }
                    }
                }
                StoreReply::Put
            }
        };
        (Ok(r), self.stats())
    }
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            outbox_bytes: self.bytes,
            free_bytes: self.world.bytes.saturating_sub(self.world.others_bytes + self.bytes),
            written_bytes: self.written,
            records: std::array::from_fn(|n| self.logs[n].len() as u64),
            ..StoreStats::default()
        }
    }
    pub fn commit_takes(&mut self) -> Duration {
        let (a, b) = self.world.commit;
        self.dice.between(a, b)
    }
    pub fn take_newly_durable(&mut self) -> Vec<(Class, u64)> {
        std::mem::take(&mut self.newly)
    }
    pub fn crash(&mut self, kind: Crash) -> Recovered {
        for c in 0..3 {
            let keep = matches!(kind, Crash::Clean | Crash::Process);
            for s in std::mem::take(&mut self.volatile[c]) {
                if keep {
                    self.newly.push((Class::ALL[c], s));
                } else {
                    self.logs[c].remove(&s);
                }
            }
            self.last[c] = self.logs[c].keys().last().copied().unwrap_or(0).max(if keep { self.last[c] } else { 0 });
        }
        Recovered {
            logs: std::array::from_fn(|n| LogRange {
                first: self.logs[n].keys().next().copied().unwrap_or(0),
                last: self.last[n],
                records: self.logs[n].len() as u64,
            }),
            state: self.state.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            losses: vec![],
            stats: self.stats(),
        }
    }
    pub fn holds(&self, class: Class, seq: u64) -> bool {
        self.logs[class as usize].contains_key(&seq)
    }
    pub fn records(&self) -> u64 {
        self.logs.iter().map(|l| l.len() as u64).sum()
    }
    pub fn written_bytes(&self) -> u64 {
        self.written
    }
    pub fn others_use(&mut self, n: u64) {
        self.world.others_bytes = n;
    }
    pub fn set_full(&mut self, _: bool) {}
    pub fn set_errors(&mut self, _: f64) {}
    pub fn set_slow(&mut self, _: f64) {}
    pub fn damage(&mut self, _: bool) {}
}
