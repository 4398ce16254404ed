//! The copy of sled's files, by what a crash leaves of an opening.

use super::super::kept::Kept;
use super::*;

const LEFT: [&str; 3] = ["state.copying", "state.kept", "state.outdated"];

/// Entries of a state that is large enough to be copied.
const ENTRIES: usize = 200;

fn large(root: &TempDir) -> PathBuf {
    let (mut state, _, _) = open(root);
    let value = "x".repeat(4_000);
    let entries: Vec<_> = (0..ENTRIES).map(|index| entry(&format!("cmd/{index}"), &value)).collect();
    entries.chunks(20).for_each(|entries| state.put(entries).expect("put"));
    drop(state);
    assert!(db_bytes(root) > rewrite::SLED_SEGMENT_BYTES);
    root.path().join(DIR)
}

/// What lies beside the state of its copies.
fn left(root: &TempDir) -> Vec<&'static str> {
    LEFT.into_iter().filter(|name| root.path().join(name).exists()).collect()
}

/// Opens it; it is as it was, and nothing of a copy is left.
fn opens_whole(root: &TempDir, what: &str) {
    let (state, entries, losses) = open(root);
    drop(state);
    assert_eq!((entries.len(), losses, left(root)), (ENTRIES, vec![], vec![]), "{what}");
}

#[test]
fn the_copy_is_of_all_files_and_gone_when_it_is_forgotten() {
    let root = root();
    let dir = large(&root);
    let kept = Kept::make(&dir, 0).expect("no error").expect("it is made");
    assert_eq!(left(&root), ["state.kept"]);
    for (path, len) in disk::files_below(&dir, disk::DEPTH_MAX) {
        let copy = root.path().join("state.kept").join(path.strip_prefix(&dir).expect("below"));
        assert_eq!(fs::read(&copy).expect("copied"), fs::read(&path).expect("read"), "{len} B of {}", path.display());
    }
    kept.forget().expect("forgotten");
    assert_eq!(left(&root), [""; 0]);
    opens_whole(&root, "as it was");
}

#[test]
fn no_copy_is_made_of_a_state_of_one_segment_nor_where_the_disk_has_no_room_for_it() {
    let small = root();
    filled(&small, 3);
    assert!(Kept::make(&small.path().join(DIR), 0).expect("no error").is_none());
    let root = root();
    let dir = large(&root);
    assert!(Kept::make(&dir, u64::MAX).expect("no error").is_none());
    assert_eq!((left(&small), left(&root)), (vec![], vec![]));
    opens_whole(&root, "without a copy");
}

#[test]
fn the_copy_is_the_state_where_an_opening_was_cut_off() {
    let crashes: [(&str, Crash); 4] = [
        ("before sled did anything", |_| {}),
        ("sled has written over its log", |dir| damage(&dir.join(DB_FILE), |bytes| bytes.fill(b'?'))),
        ("half is deleted for the copy", |dir| fs::remove_file(dir.join(DB_FILE)).expect("remove")),
        ("all is deleted for the copy", |dir| fs::remove_dir_all(dir).expect("remove")),
    ];
    for (what, crash) in crashes {
        let root = root();
        let dir = large(&root);
        Kept::make(&dir, 0).expect("no error").expect("it is made");
        crash(&dir);
        opens_whole(&root, what);
        opens_whole(&root, what);
    }
}

#[test]
fn what_was_not_copied_to_its_end_or_counts_no_more_takes_the_place_of_nothing() {
    for name in ["state.copying", "state.outdated"] {
        let root = root();
        let dir = large(&root);
        Kept::make(&dir, 0).expect("no error").expect("it is made");
        let copy = root.path().join(name);
        fs::rename(root.path().join("state.kept"), &copy).expect("rename");
        damage(&copy.join(DB_FILE), |bytes| bytes.truncate(1_000));
        opens_whole(&root, name);
    }
}

#[test]
fn what_is_put_after_an_opening_is_not_undone_by_its_copy() {
    let root = root();
    large(&root);
    let (mut state, _, _) = open(&root);
    assert_eq!(left(&root), [""; 0], "nothing is put before it is gone");
    state.put(&[entry("after", "1")]).expect("put");
    drop(state);
    assert!(open(&root).1.contains_key("after"));
}

#[test]
fn a_copy_that_can_not_be_made_is_none_and_nothing_of_it_is_left() {
    let root = root();
    let dir = large(&root);
    // Where the copy is to lie, something lies that no directory can replace.
    fs::write(root.path().join("state.kept"), "x").expect("write");
    assert!(Kept::make(&dir, 0).expect("no error").is_none());
    assert_eq!(left(&root), [""; 0]);
    opens_whole(&root, "as it was");
}
