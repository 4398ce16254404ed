//! A disk that is full, of bytes or of inodes.

use super::*;

#[path = "../../../../tests/common/tiny_disk.rs"]
mod tiny_disk;

use self::tiny_disk::TinyDisk;

#[test]
fn on_a_full_disk_appends_fail_cleanly_and_trim_and_evict_give_room() {
    let Some(disk) = TinyDisk::mount(16) else { return };
    let (mut store, _) = open(disk.path());
    let class = Class::Telemetry;
    for seq in 1..=400 {
        store.apply(append(class, seq, 1000)).expect("append");
    }
    store.apply(StoreOp::Commit).expect("commit");
    disk.fill();
    let mut last = 400;
    let fault = loop {
        match store.apply(append(class, last + 1, 1000)) {
            Ok(_) => last += 1,
            Err(fault) => break fault,
        }
        assert!(last < 2000, "a full disk takes no more");
    };
    assert!(matches!(&fault, StoreFault::NoSpace { what } if what.contains("append record")), "{fault}");
    assert!(matches!(store.apply(StoreOp::Commit), Err(StoreFault::NoSpace { .. })));
    let readable: Vec<u64> = read_all(&mut store, class).into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(readable, (1..=last).collect::<Vec<_>>(), "what was taken is kept, in memory if need be");

    store.apply(StoreOp::Trim { class, upto: 100 }).expect("trim works on a full disk");
    let evicted = store.apply(StoreOp::Evict { class }).expect("evict works on a full disk");
    assert!(matches!(evicted, StoreReply::Evicted { records: 1.., first: 101, .. }), "{evicted:?}");
    store.apply(StoreOp::Commit).expect("there is room again");
    store.apply(append(class, last + 1, 1000)).expect("append");
    store.apply(StoreOp::Commit).expect("commit");
    let before = read_all(&mut store, class);
    drop(store);
    let (mut store, recovered) = open(disk.path());
    assert_eq!(recovered.losses, []);
    assert_eq!(read_all(&mut store, class), before);
}

#[test]
fn on_a_full_disk_the_state_goes_on_with_the_room_that_was_held_back() {
    let Some(disk) = TinyDisk::mount(16) else { return };
    let (mut store, _) = open(disk.path());
    let put = |index: u64| StoreOp::Put { entries: vec![(format!("cmd/{index}"), Some(body(index, 300)))] };
    store.apply(put(0)).expect("put");
    disk.fill();
    for index in 1..200 {
        store.apply(put(index)).expect("the reserve is for this");
    }
    let reserve = fs::metadata(settings(disk.path()).path.join("reserve")).expect("some is left").len();
    assert!(reserve < 2 << 20, "the disk was not full enough to prove anything");
    drop(store);
    let (_store, recovered) = open(disk.path());
    assert_eq!((recovered.state.len(), recovered.losses.len()), (200, 0));
}

#[test]
fn on_a_disk_that_others_keep_full_every_restart_finds_the_state_and_can_write_it() {
    for mib in [6, 12] {
        let Some(disk) = TinyDisk::mount(mib) else { return };
        let put = |index: u64| StoreOp::Put { entries: vec![(format!("cmd/{}", index % 50), Some(body(index, 300)))] };
        let (mut store, _) = open(disk.path());
        for restart in 1..=20 {
            for index in 0..20 {
                disk.fill();
                store.apply(put(restart * 20 + index)).unwrap_or_else(|fault| panic!("{mib} MiB, {restart}: {fault}"));
            }
            drop(store);
            disk.fill();
            let (opened, recovered) = open(disk.path());
            assert_eq!(recovered.losses, [], "{mib} MiB, {restart}");
            store = opened;
        }
    }
}

#[test]
fn on_a_disk_whose_inodes_others_keep_taking_every_restart_finds_the_state_and_can_write_it() {
    let Some(disk) = TinyDisk::mount_with("size=32m,nr_inodes=64") else { return };
    let put = |index: u64| StoreOp::Put { entries: vec![(format!("cmd/{}", index % 50), Some(body(index, 300)))] };
    let (mut store, _) = open(disk.path());
    for restart in 1..=20 {
        for index in 0..20 {
            disk.fill_inodes(restart);
            store.apply(put(u64::from(restart) * 20 + index)).unwrap_or_else(|fault| panic!("{restart}: {fault}"));
        }
        drop(store);
        disk.fill_inodes(restart);
        let (opened, recovered) = open(disk.path());
        assert_eq!(recovered.losses, [], "{restart}");
        store = opened;
    }
}
