//! How fast records become durable, through the engine's own way of storing them (encoded, framed, checked, committed
//! by the store's thread in batches); beside it a bare log in this file: the same bytes in frames with a CRC32C, and
//! fdatasync. Both on the same disk, in turns.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use fieldmedic::engine::io::{EffectId, Input, StoreOp, StoreReply};
use fieldmedic::engine::record::Class;
use fieldmedic::store::{STORE_QUEUE_MAX, Store, StoreHandle, StoreSettings};
use tempfile::TempDir;

use crate::report::{Goal, Report};
use crate::sample::{self, COMMIT_EACH};

const RECORDS: u64 = 100_000;
/// Rounds in turns, of which the best counts: a disk that others use is never faster than it is.
const ROUNDS: usize = 5;

pub fn run(report: &mut Report) {
    let records = sample::encoded(10_000);
    let (mut ours, mut bare) = (0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        ours = ours.max(rate(|dir| through_the_store(dir, &records)));
        bare = bare.max(rate(|dir| bare_log(dir, &records)));
    }
    let what = format!("durable append, commit each {COMMIT_EACH}");
    report.ratio(&what, ours, ("bare log", bare), "records/s", Some(Goal::AtLeast(0.5)));
}

fn rate(write: impl FnOnce(&Path)) -> f64 {
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let began = Instant::now();
    write(dir.path());
    RECORDS as f64 / began.elapsed().as_secs_f64()
}

/// As the runtime does it: operations into the store's queue, and the answers that are there out of it.
fn through_the_store(dir: &Path, records: &[Bytes]) {
    let settings = StoreSettings { path: dir.join("store"), max_bytes: sample::MAX_BYTES };
    let (store, _) = Store::open(&settings).unwrap();
    let (replies, mut answers) = tokio::sync::mpsc::channel(STORE_QUEUE_MAX);
    let handle = StoreHandle::spawn(store, replies).unwrap();
    let (mut submitted, mut answered) = (0_u64, 0_u64);
    let mut submit = |op: StoreOp| {
        let mut next = if submitted - answered < STORE_QUEUE_MAX as u64 { None } else { answers.blocking_recv() };
        while let Some(answer) = next {
            let Input::Store { result, .. } = answer else { panic!("{answer:?}") };
            assert!(matches!(result, Ok(StoreReply::Appended | StoreReply::Committed)), "{result:?}");
            answered += 1;
            next = answers.try_recv().ok();
        }
        submitted += 1;
        handle.submit(EffectId(submitted), op).unwrap();
    };
    for (seq, bytes) in (1..=RECORDS).zip(records.iter().cycle()) {
        submit(StoreOp::Append { class: Class::Telemetry, seq, bytes: bytes.clone() });
        if seq % COMMIT_EACH == 0 || seq == RECORDS {
            submit(StoreOp::Commit);
        }
    }
    while answered < submitted {
        answers.blocking_recv().expect("an answer");
        answered += 1;
    }
    handle.close();
}

fn bare_log(dir: &Path, records: &[Bytes]) {
    let mut file: File = OpenOptions::new().create_new(true).append(true).open(dir.join("log")).unwrap();
    let mut buffer = Vec::new();
    for (seq, bytes) in (1..=RECORDS).zip(records.iter().cycle()) {
        buffer.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
        buffer.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
        buffer.extend_from_slice(bytes);
        if seq % COMMIT_EACH == 0 || seq == RECORDS {
            file.write_all(&buffer).unwrap();
            file.sync_data().unwrap();
            buffer.clear();
        }
    }
}
