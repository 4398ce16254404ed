//! The log beside a simple model of it: whatever is done, it holds what the model holds.

use super::*;

/// One step of the model test. Numbers are folded into what the log holds at that moment.
#[derive(Debug, Clone)]
enum Op {
    Append { gap: u64, len: usize },
    Commit,
    Read { from: u64, records_max: usize, bytes_max: usize },
    Trim { part: u64 },
    Evict,
    Kill,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (1..4_u64, 0..20_000_usize).prop_map(|(gap, len)| Op::Append { gap, len }),
        3 => Just(Op::Commit),
        4 => (0..200_u64, 0..20_usize, 0..60_000_usize)
            .prop_map(|(from, records_max, bytes_max)| Op::Read { from, records_max, bytes_max }),
        2 => (0..=120_u64).prop_map(|part| Op::Trim { part }),
        1 => Just(Op::Evict),
        2 => Just(Op::Kill),
    ]
}

/// What the log must hold: seq and length of body, whose bytes follow from the two.
#[derive(Debug, Default)]
struct Model {
    live: BTreeMap<u64, usize>,
    committed: u64,
    last: u64,
    evicted: u64,
}

fn bulk(seq: u64, len: usize) -> Vec<u8> {
    seq.to_le_bytes().into_iter().cycle().take(len).collect()
}

impl Model {
    fn page(&self, from: u64, records_max: usize, bytes_max: usize) -> Vec<(u64, Bytes)> {
        let mut bytes = 0;
        let mut page = Vec::new();
        for (&seq, &len) in self.live.range(from..) {
            if page.len() >= records_max || (!page.is_empty() && bytes + len > bytes_max) {
                break;
            }
            bytes += len;
            page.push((seq, Bytes::from(bulk(seq, len))));
        }
        page
    }

    fn step(&mut self, dir: &TempDir, log: &mut Log, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Append { gap, len } => {
                self.last += gap;
                log.append(self.last, &bulk(self.last, len)).expect("append");
                self.live.insert(self.last, len);
            }
            Op::Commit => {
                log.commit().expect("commit");
                self.committed = self.last;
            }
            Op::Read { from, records_max, bytes_max } => {
                let page = log.read(from, records_max, bytes_max).expect("read");
                prop_assert_eq!(page, Page { records: self.page(from, records_max, bytes_max), damaged: 0 });
            }
            Op::Trim { part } => {
                let upto = self.last * part / 100;
                log.trim(upto).expect("trim");
                self.live.retain(|seq, _| *seq > upto);
            }
            Op::Evict => {
                let evicted = log.evict().expect("evict");
                let gone: Vec<u64> = self.live.range(..=evicted.last).map(|(seq, _)| *seq).collect();
                prop_assert_eq!(gone.len() as u64, evicted.records);
                prop_assert_eq!(gone.first().copied().unwrap_or(0), evicted.first);
                prop_assert_eq!(gone.last().copied().unwrap_or(0), evicted.last);
                prop_assert!(self.live.is_empty() || self.live.len() > gone.len() || log.segments() == 0);
                self.live.retain(|seq, _| *seq > evicted.last);
                self.evicted += evicted.records;
            }
            Op::Kill => self.kill(dir, log)?,
        }
        let first = self.live.keys().next().copied().unwrap_or(0);
        let range = LogRange { first, last: self.last, records: self.live.len() as u64, evicted: self.evicted };
        prop_assert_eq!(log.range(), range);
        Ok(())
    }

    /// What was not committed may be there or not, but only from the end.
    fn kill(&mut self, dir: &TempDir, log: &mut Log) -> Result<(), TestCaseError> {
        let (reopened, losses) = open(dir);
        *log = reopened;
        prop_assert_eq!(losses, []);
        let found: Vec<u64> = log.read(0, ALL, ALL).expect("read").records.into_iter().map(|(seq, _)| seq).collect();
        let kept: Vec<u64> = self.live.keys().copied().take(found.len()).collect();
        prop_assert_eq!(&found, &kept, "only what was appended last may be missing");
        self.live.retain(|seq, _| found.contains(seq) || *seq <= self.committed);
        self.last = log.range().last;
        self.committed = self.last;
        prop_assert_eq!(log.range().evicted, self.evicted, "what was given up is counted over a kill");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_it_the_log_holds_what_a_simple_model_holds(ops in proptest::collection::vec(op(), 1..120)) {
        let dir = dir();
        let (mut log, _) = open(&dir);
        let mut model = Model::default();
        for op in ops {
            model.step(&dir, &mut log, &op)?;
        }
    }
}
