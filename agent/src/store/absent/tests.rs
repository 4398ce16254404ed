use std::fs;
use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::store::tests::{append, open, settings, stored, temp};
use crate::store::{Backing, OUTBOX_DIR, state};

#[test]
fn a_store_that_takes_long_to_be_looked_for_holds_up_no_sign_of_life() {
    let dir = temp();
    stored(dir.path());
    // It is waited for, as a disk that hangs is.
    let held = open(dir.path());
    let (mut absent, _) = Absent::new(settings(dir.path()), &OpenError::TakenAway { path: dir.path().to_owned() });
    let (back, is_back) = std::sync::mpsc::sync_channel(2);
    for _ in 0..2 {
        let back = back.clone();
        absent.look(move |_| back.send(()).expect("it is waited for")).expect("a thread");
    }
    assert_eq!(Backing::from(absent).apply(StoreOp::Probe), Ok(StoreReply::Probed));
    drop(held);
    drop(back);
    assert_eq!(is_back.iter().count(), 1, "two looks at a time");
}

#[test]
fn a_store_that_is_taken_away_is_a_fault_and_the_next_start_takes_up_what_is_there_then() {
    type TakeAway = fn(&Path);
    // And what is told then, by whoever finds it and by each that comes after.
    let away: TakeAway = |path| fs::rename(path, path.with_extension("old")).expect("rename");
    let replaced: TakeAway = |path| {
        fs::rename(path, path.with_extension("old")).expect("rename");
        drop(Store::open(&settings(path.parent().expect("parent"))).expect("another"));
    };
    let vanished = "outbox/events: vanished; 1 records";
    let taken_away: [(TakeAway, &str); 5] = [
        (|path| fs::remove_dir_all(path).expect("remove"), vanished),
        (away, vanished),
        (replaced, vanished),
        (|path| fs::remove_dir_all(path.join(OUTBOX_DIR)).expect("remove"), vanished),
        (|path| fs::remove_dir_all(path.join(state::DIR)).expect("remove"), "state: it has fallen back"),
    ];
    let put = || StoreOp::Put { entries: vec![("k".into(), Some(Bytes::from("v")))] };
    for (take_away, told) in taken_away {
        for op in [StoreOp::Commit, put(), StoreOp::Probe] {
            let dir = temp();
            let (store, _) = open(dir.path());
            let mut backing: Backing = store.into();
            let event = StoreOp::Append { class: Class::Events, seq: 1, bytes: Bytes::from("e") };
            for op in [event, StoreOp::Commit, put()] {
                backing.apply(op).expect("a store that works");
            }
            take_away(&settings(dir.path()).path);
            let is_alive = op == StoreOp::Probe;
            let answer = backing.apply(op);
            assert_eq!(answer.is_ok(), is_alive, "{answer:?}: nothing is vouched for, and the agent lives");
            assert!(matches!(backing, Backing::Absent(_)));
            let fault = backing.apply(put()).expect_err("there is no store").to_string();
            assert!(fault.contains("was taken away while it was in use"), "{fault}");
            let Backing::Absent(mut absent) = backing else { panic!("what stands in for it looks for it") };
            let (store, found) = absent.next_look().find().expect("there is one");
            drop(store);
            for losses in [found.losses, open(dir.path()).1.losses] {
                assert_eq!(losses.len(), 1, "{losses:?}");
                assert!(losses.iter().all(|loss| loss.what.contains(told)), "{losses:?}");
            }
        }
    }
}

#[test]
fn a_store_in_whose_place_a_file_lies_was_taken_away() {
    let dir = temp();
    let (store, _) = open(dir.path());
    assert!(store.is_in_place());
    let path = settings(dir.path()).path;
    fs::rename(&path, path.with_extension("old")).expect("rename");
    fs::write(&path, "").expect("write");
    assert!(!store.is_in_place());
}

/// A store in which twelve samples wait that its state doesn't know of.
fn offline(dir: &Path) -> Backing {
    let mut backing: Backing = open(dir).0.into();
    backing.apply(StoreOp::Put { entries: vec![("k".into(), Some(Bytes::from("v")))] }).expect("put");
    for seq in 1..=12 {
        backing.apply(append(Class::Telemetry, seq, 10)).expect("append");
    }
    backing.apply(StoreOp::Commit).expect("commit");
    backing
}

fn lost(found: &Recovered) -> u64 {
    found.losses.iter().map(|loss| loss.records).sum()
}

#[test]
fn what_waited_in_a_log_that_is_taken_away_is_counted_whoever_opens_the_store_next() {
    for gone in ["outbox/telemetry", "outbox", ""] {
        for is_looked_for in [true, false] {
            let dir = temp();
            let mut backing = offline(dir.path());
            fs::remove_dir_all(settings(dir.path()).path.join(gone)).expect("take it away");
            backing.apply(append(Class::Telemetry, 13, 10)).expect("into a buffer");
            backing.apply(StoreOp::Commit).expect_err("it is nowhere");
            let Backing::Absent(mut absent) = backing else { panic!("it is gone") };
            if is_looked_for {
                let (_, found) = absent.next_look().find().expect("it is made anew");
                assert_eq!(lost(&found), 12, "{gone:?}: {:?}", found.losses);
            }
            let found = open(dir.path()).1;
            // Where nothing is left, and nobody looked, nobody knows.
            let known = if is_looked_for || !gone.is_empty() { 12 } else { 0 };
            assert_eq!(lost(&found), known, "{gone:?}, looked for: {is_looked_for}: {:?}", found.losses);
        }
    }
}

#[test]
fn a_store_that_was_away_and_comes_back_has_lost_nothing() {
    let dir = temp();
    let mut backing = offline(dir.path());
    let (path, away) = (settings(dir.path()).path, dir.path().join("away"));
    fs::rename(&path, &away).expect("move it away");
    backing.apply(StoreOp::Commit).expect_err("it is elsewhere");
    fs::rename(&away, &path).expect("move it back");
    let Backing::Absent(mut absent) = backing else { panic!("it was gone") };
    let (_, found) = absent.next_look().find().expect("it is there");
    assert_eq!((found.losses, found.stats.records[Class::Telemetry as usize]), (Vec::new(), 12));
}

#[test]
fn of_a_store_that_can_not_be_opened_nothing_is_said_to_be_lost() {
    let dir = temp();
    fs::write(settings(dir.path()).path, "in the way").expect("write");
    let error = Store::open(&settings(dir.path())).expect_err("it is a file");
    let (_, recovered) = Absent::new(settings(dir.path()), &error);
    assert!(recovered.absent && recovered.losses.iter().all(|loss| !loss.state_lost), "{recovered:?}");
}
