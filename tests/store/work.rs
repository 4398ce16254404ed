//! The load that the faults strike, and what must be true of a store after them.

use std::collections::BTreeMap;

use bytes::Bytes;
use fieldmedic::engine::io::{Recovered, StoreLoss, StoreOp, StoreReply};
use fieldmedic::engine::record::Class;
use fieldmedic::store::Store;

/// Journal entries that are kept: older ones are written over.
const JOURNAL: u64 = 40;
/// Entries that make the state grow, how many are put at once, and how large they are.
const SWOLLEN: u64 = 96;
const SWOLLEN_AT_ONCE: usize = 48;
const SWOLLEN_BYTES: usize = 5_000;
/// How often few such are put, one over the other.
const OVERGROWN: u64 = 45;
/// Records of one class that are kept when it is trimmed.
const KEPT: u64 = 40;

pub(crate) fn class_of(seq: u64) -> Class {
    Class::ALL[(seq % Class::COUNT as u64) as usize]
}

/// What a record of this seq holds, whoever wrote it.
pub(crate) fn body(seq: u64) -> Bytes {
    let len = if seq % 29 == 0 { 20_000 } else { seq * 37 % 3000 };
    seq.to_le_bytes().into_iter().cycle().take(len as usize).collect()
}

/// Every record of a class that the store gives, each of them checked.
pub(crate) fn records(store: &mut Store, class: Class) -> Vec<u64> {
    let op = StoreOp::Read { class, from: 0, records_max: usize::MAX, bytes_max: usize::MAX };
    let StoreReply::Page { records, .. } = store.apply(op).expect("read") else { panic!("a page") };
    for (seq, bytes) in &records {
        assert_eq!(class_of(*seq), class, "record {seq} came up in the log of {class:?}");
        assert!(*bytes == body(*seq), "record {seq} came back as another value");
    }
    let seqs: Vec<u64> = records.into_iter().map(|(seq, _)| seq).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "out of order: {seqs:?}");
    seqs
}

/// Works on a store as an agent would, and says on stdout what is confirmed to it.
pub(crate) struct Worker {
    store: Store,
    seq: u64,
    journal: u64,
    rng: fastrand::Rng,
}

impl Worker {
    pub(crate) fn new(store: Store, recovered: &Recovered, seed: u64) -> Self {
        let seq = recovered.logs.iter().map(|log| log.last).max().unwrap_or(0);
        let journal = state_number(recovered, "last").unwrap_or(0);
        Self { store, seq, journal, rng: fastrand::Rng::with_seed(seed) }
    }

    pub(crate) fn round(&mut self) {
        self.append();
        if self.rng.u8(..4) == 0 {
            self.trim();
        }
        self.put();
        if self.rng.u8(..16) == 0 {
            self.evict();
        }
    }

    /// Fills the state by many entries at once, and empties it again.
    pub(crate) fn swell(&mut self) {
        let key = |number: u64| format!("swollen/{number}");
        for numbers in (0..SWOLLEN).step_by(SWOLLEN_AT_ONCE).map(|from| from..from + SWOLLEN_AT_ONCE as u64) {
            let entries = numbers.map(|number| (key(number), Some(Bytes::from(vec![7; SWOLLEN_BYTES])))).collect();
            self.store.apply(StoreOp::Put { entries }).expect("put");
        }
        let entries = (0..SWOLLEN).map(|number| (key(number), None)).collect();
        self.store.apply(StoreOp::Put { entries }).expect("put");
        println!("say swollen");
    }

    /// Lets the state's file outgrow what is in it.
    pub(crate) fn overgrow(&mut self) {
        for round in 0..OVERGROWN {
            let entries =
                (0..3).map(|number| (format!("over/{number}"), Some(Bytes::from(vec![round as u8; SWOLLEN_BYTES]))));
            self.store.apply(StoreOp::Put { entries: entries.collect() }).expect("put");
        }
    }

    /// Ends as an agent does that is told to.
    pub(crate) fn close(self) {
        self.store.close().expect("close");
    }

    fn append(&mut self) {
        let from = self.seq + 1;
        for _ in 0..self.rng.u64(1..=12) {
            self.seq += 1;
            let op = StoreOp::Append { class: class_of(self.seq), seq: self.seq, bytes: body(self.seq) };
            self.store.apply(op).expect("append");
        }
        self.store.apply(StoreOp::Commit).expect("commit");
        println!("say committed {from} {}", self.seq);
    }

    fn trim(&mut self) {
        let class = class_of(self.rng.u64(..Class::COUNT as u64));
        let upto = self.seq.saturating_sub(self.rng.u64(..3 * KEPT));
        println!("say trimming {} {upto}", class as usize);
        self.store.apply(StoreOp::Trim { class, upto }).expect("trim");
    }

    fn evict(&mut self) {
        let class = class_of(self.rng.u64(..Class::COUNT as u64));
        println!("say evicting {}", class as usize);
        let StoreReply::Evicted { last, .. } = self.store.apply(StoreOp::Evict { class }).expect("evict") else {
            panic!("an eviction")
        };
        println!("say evicted {} {last}", class as usize);
    }

    fn put(&mut self) {
        self.journal += 1;
        let number = Bytes::copy_from_slice(&self.journal.to_le_bytes());
        let padded = [&number[..], &[7; 300]].concat();
        let entries = vec![
            (format!("journal/{}", self.journal % JOURNAL), Some(Bytes::from(padded))),
            ("last".to_owned(), Some(number)),
            ("odd".to_owned(), (self.journal % 2 == 1).then(Bytes::new)),
        ];
        self.store.apply(StoreOp::Put { entries }).expect("put");
        println!("say put {}", self.journal);
    }
}

fn state_number(recovered: &Recovered, key: &str) -> Option<u64> {
    let value = &recovered.state.iter().find(|(found, _)| found == key)?.1;
    Some(u64::from_le_bytes(value.get(..8)?.try_into().ok()?))
}

/// What a worker was told is safe.
#[derive(Debug, Default, Clone)]
pub(crate) struct Confirmed {
    committed: Vec<(u64, u64)>,
    /// Per class: up to here it was given up.
    floor: [u64; Class::COUNT],
    /// An eviction was begun, and how far it went was never said.
    evicting: [bool; Class::COUNT],
    put: u64,
}

impl Confirmed {
    /// Takes in one line of a worker's output; `false` if it says nothing.
    pub(crate) fn hear(&mut self, line: &str) -> bool {
        let Some((_, said)) = line.split_once("say ") else { return false };
        let words: Vec<&str> = said.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        match (words.first(), number(1), number(2)) {
            (Some(&"committed"), Some(from), Some(upto)) => self.committed.push((from, upto)),
            (Some(&"trimming"), Some(class), Some(upto)) => self.give_up(class as usize, upto),
            (Some(&"evicting"), Some(class), None) => self.evicting[class as usize] = true,
            (Some(&"evicted"), Some(class), Some(last)) => {
                self.evicting[class as usize] = false;
                self.give_up(class as usize, last);
            }
            (Some(&"put"), Some(number), None) => self.put = number,
            // The kill cut the line.
            _ => return false,
        }
        true
    }

    /// Whether anything was said at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.committed.is_empty()
    }

    fn give_up(&mut self, class: usize, upto: u64) {
        self.floor[class] = self.floor[class].max(upto);
    }

    /// Holds a store that was just opened against what was confirmed.
    pub(crate) fn check(&mut self, store: &mut Store, recovered: &Recovered, when: &str) {
        for class in Class::ALL {
            self.check_log(store, recovered, class, when);
        }
        let lowest = self.floor.iter().copied().min().unwrap_or(0);
        self.committed.retain(|(_, upto)| *upto > lowest);
        self.check_state(recovered, when);
    }

    fn check_log(&mut self, store: &mut Store, recovered: &Recovered, class: Class, when: &str) {
        let at = class as usize;
        let found = records(store, class);
        assert_eq!(found.len() as u64, recovered.logs[at].records, "{when}: the count of {class:?}");
        if std::mem::take(&mut self.evicting[at]) && recovered.logs[at].evicted > 0 {
            self.give_up(at, found.first().map_or(recovered.logs[at].last, |first| first - 1));
        }
        let wanted = self.committed.iter().flat_map(|(from, upto)| *from..=*upto);
        let missing: Vec<u64> = wanted
            .filter(|seq| class_of(*seq) == class && *seq > self.floor[at] && found.binary_search(seq).is_err())
            .collect();
        assert!(missing.is_empty(), "{when}: {class:?} lost {missing:?}, losses {:?}", recovered.losses);
    }

    /// The state is that of the last put confirmed or of the one after it, whole.
    fn check_state(&mut self, recovered: &Recovered, when: &str) {
        let last = state_number(recovered, "last").unwrap_or(0);
        assert!(
            (self.put..=self.put + 1).contains(&last),
            "{when}: put {last} is there, {} was confirmed; losses {:?}",
            self.put,
            recovered.losses
        );
        let state: BTreeMap<&str, &Bytes> = recovered.state.iter().map(|(key, value)| (key.as_str(), value)).collect();
        for number in last.saturating_sub(JOURNAL - 1).max(1)..=last {
            let key = format!("journal/{}", number % JOURNAL);
            assert_eq!(state_number(recovered, &key), Some(number), "{when}: {key}");
        }
        assert_eq!(state.contains_key("odd"), last % 2 == 1, "{when}: what was deleted is gone");
        self.put = last;
    }
}

/// Records that a store said were lost.
pub(crate) fn told(losses: &[StoreLoss]) -> u64 {
    losses.iter().map(|loss| loss.records).sum()
}
