//! kill -9.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fieldmedic::store::Store;

use crate::work::{Confirmed, Worker};
use crate::{cases, child, child_dir, settings, temp};

const KILLS: u64 = 1000;
const KILLS_VARIABLE: &str = "FIELDMEDIC_STORE_KILLS";
const TEST: &str = "kill::a_kill_at_any_instant_loses_nothing_that_was_confirmed";
/// How much may be said before the kill.
const LINES_MAX: u64 = 40;

#[test]
fn a_kill_at_any_instant_loses_nothing_that_was_confirmed() {
    if let Some(dir) = child_dir() {
        work(&dir);
    }
    let dir = temp();
    let mut confirmed = Confirmed::default();
    let mut rng = fastrand::Rng::with_seed(9);
    for kill in 0..cases(KILLS_VARIABLE, KILLS) {
        work_and_kill(dir.path(), &mut confirmed, &mut rng);
        let (mut store, recovered) = Store::open(&settings(dir.path())).expect("it opens after any kill");
        assert_eq!(recovered.losses, [], "kill {kill}");
        confirmed.check(&mut store, &recovered, &format!("kill {kill}"));
    }
    assert!(!confirmed.is_empty(), "no worker ever came to a commit");
}

/// Never ends by itself.
fn work(dir: &Path) -> ! {
    let (store, recovered) = Store::open(&settings(dir)).expect("open");
    let seed = recovered.logs.iter().map(|log| log.last).sum();
    let mut worker = Worker::new(store, &recovered, seed);
    loop {
        worker.round();
    }
}

/// Lets a worker begin, or say something, and kills it a random moment later; what it said until then is taken in.
fn work_and_kill(dir: &Path, confirmed: &mut Confirmed, rng: &mut fastrand::Rng) {
    let mut worker = child(TEST, dir).stdout(Stdio::piped()).spawn().expect("start a worker");
    let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    // Every fourth is struck while it opens the store.
    let patience = if rng.u8(..4) == 0 { 0 } else { rng.u64(1..LINES_MAX) };
    let mut said = 0;
    while said < patience {
        let line = lines.next().expect("a worker works until it is killed").unwrap();
        said += u64::from(confirmed.hear(&line));
    }
    let moment = if patience == 0 { 30_000 } else { 3_000 };
    std::thread::sleep(Duration::from_micros(rng.u64(..moment)));
    worker.kill().expect("kill");
    // What it said between the last line read and its death counts too.
    for line in lines.map_while(Result::ok) {
        confirmed.hear(&line);
    }
    worker.wait().expect("reap");
}
