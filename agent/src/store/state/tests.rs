mod kept;

use std::fs::{self, File};

use rustix::io::Errno;
use tempfile::TempDir;

use super::db::{DB_FILE, guarded};
use super::reserve::RESERVE_BYTES_MAX;
use super::*;
use crate::store::tests::damage;
use crate::store::unreadable::testing::{heal, refuse_where};

const MAX_BYTES: u64 = 2 * RESERVE_BYTES_MAX;

fn root() -> TempDir {
    TempDir::new().expect("a temporary directory")
}

fn open(root: &TempDir) -> (State, Entries, Vec<StoreLoss>) {
    let mut opening = Opening::default();
    let (state, entries) = State::open(root.path(), MAX_BYTES, &mut opening).expect("the state opens");
    (state, entries, opening.losses)
}

fn entry(key: &str, value: &str) -> (String, Option<Bytes>) {
    (key.to_owned(), Some(Bytes::copy_from_slice(value.as_bytes())))
}

/// How many losses the next opening tells of, and none after it is said that they were taken note of.
fn told_until_noted(state: State, root: &TempDir) -> usize {
    drop(state);
    let (mut state, _, losses) = open(root);
    state.put(&[(STATE_LOST_KEY.to_owned(), None)]).expect("put");
    drop(state);
    assert_eq!(open(root).2, []);
    losses.len()
}

fn filled(root: &TempDir, count: usize) {
    let (mut state, _, _) = open(root);
    for index in 0..count {
        state.put(&[entry(&format!("cmd/{index:04}"), &"SUCCEEDED ".repeat(20))]).expect("put");
    }
}

#[test]
fn what_was_put_is_there_after_opening_again_and_what_was_deleted_is_not() {
    let root = root();
    let (mut state, entries, losses) = open(&root);
    assert!(entries.is_empty() && losses.is_empty());
    state.put(&[entry("a", "1"), entry("b", "2"), entry("c", "")]).expect("put");
    state.put(&[("a".to_owned(), None), entry("b", "3")]).expect("put");
    assert!(state.written_bytes() > 0);
    drop(state);
    let (_state, entries, losses) = open(&root);
    assert_eq!(losses, []);
    let expected = [("b".to_owned(), Bytes::from("3")), ("c".to_owned(), Bytes::new())];
    assert_eq!(entries.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_value_too_long_is_refused_with_its_key_and_nothing_of_the_put_is_done() {
    let root = root();
    let (mut state, _, _) = open(&root);
    let long = "x".repeat(STATE_VALUE_BYTES_MAX + 1);
    let fault = state.put(&[entry("a", "1"), entry("journal/7", &long)]).expect_err("too long");
    assert_eq!(fault.to_string(), "put journal/7 into the state: value is 5116 B, the limit is 5115 B");
    state.put(&[entry("b", &long[1..])]).expect("the longest value fits");
    drop(state);
    assert_eq!(open(&root).1.into_keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_half_written_snapshot_does_not_keep_the_state_from_opening() {
    let root = root();
    filled(&root, 20);
    fs::write(root.path().join(DIR).join("snap.00000000000000FF.generating"), b"torn").expect("write");
    let (_state, entries, losses) = open(&root);
    assert_eq!((entries.len(), losses.len()), (20, 0));
}

#[test]
fn a_state_that_does_not_open_is_set_aside_and_said_to_be_lost() {
    let root = root();
    for round in 1..=2 {
        filled(&root, 200);
        damage(&root.path().join(DIR).join("db"), |bytes| bytes.fill(b'?'));
        let (mut state, entries, losses) = open(&root);
        assert!(entries.is_empty(), "round {round}");
        assert_eq!(losses.len(), 1, "round {round}: {losses:?}");
        assert!(losses[0].state_lost);
        assert!(losses[0].what.contains("set aside as"), "{losses:?}");
        state.put(&[entry("after", "1")]).expect("the new state takes values");
        drop(state);
        // Whoever opens it next may know nothing of it, until somebody says that it was taken note of.
        let (mut state, entries, again) = open(&root);
        assert_eq!((entries.len(), again), (2, losses), "round {round}");
        state.put(&[(STATE_LOST_KEY.to_owned(), None)]).expect("put");
        drop(state);
        let (mut state, entries, losses) = open(&root);
        assert_eq!((entries.len(), losses.len()), (1, 0), "round {round}");
        state.put(&[("after".to_owned(), None)]).expect("put");
    }
    assert!(root.path().join("state.damaged").join("db").exists(), "the last damaged one is kept");
}

#[test]
fn a_damaged_configuration_of_sleds_costs_nothing() {
    let root = root();
    filled(&root, 200);
    damage(&root.path().join(DIR).join("conf"), |bytes| bytes.fill(b'?'));
    let (_state, entries, losses) = open(&root);
    assert_eq!((entries.len(), losses), (200, vec![]));
}

#[test]
fn an_entry_that_vanished_is_noticed() {
    let root = root();
    filled(&root, 3);
    let (state, _, _) = open(&root);
    state.db.as_ref().expect("open").db.remove("cmd/0001").expect("remove behind its back");
    drop(state);
    let (state, entries, losses) = open(&root);
    assert_eq!(entries.len(), 2);
    assert!(losses[0].state_lost && losses[0].what.contains("2 entries, and 3 were written"), "{losses:?}");
    assert_eq!(told_until_noted(state, &root), 1);
}

#[test]
fn an_entry_that_vanished_while_the_state_was_in_use_is_noticed_by_the_next_opening() {
    let root = root();
    filled(&root, 3);
    let (mut state, _, _) = open(&root);
    state.db.as_ref().expect("open").db.remove("cmd/0001").expect("remove behind its back");
    state.close();
    state.put(&[entry("cmd/0009", "1")]).expect("put into a database opened anew");
    drop(state);
    assert!(open(&root).2[0].state_lost);
}

#[test]
fn a_state_that_fell_back_to_what_it_was_before_is_noticed() {
    let root = root();
    filled(&root, 20);
    let before = fs::read(root.path().join(DIR).join("db")).expect("read");
    let (mut state, _, _) = open(&root);
    state.put(&[entry("journal/7", "executing")]).expect("put");
    drop(state);
    damage(&root.path().join(DIR).join("db"), |bytes| *bytes = before);
    let (_state, entries, losses) = open(&root);
    assert!(!entries.contains_key("journal/7"));
    assert!(losses[0].state_lost && losses[0].what.contains("fallen back"), "{losses:?}");
}

#[test]
fn a_state_that_fell_back_while_it_was_in_use_is_noticed_by_the_next_opening() {
    let root = root();
    filled(&root, 20);
    let before = fs::read(root.path().join(DIR).join("db")).expect("read");
    let (mut state, _, _) = open(&root);
    state.put(&[entry("journal/7", "executing")]).expect("put");
    state.close();
    damage(&root.path().join(DIR).join("db"), |bytes| *bytes = before);
    state.put(&[entry("journal/8", "executing")]).expect("put into a database opened anew");
    drop(state);
    let (state, entries, losses) = open(&root);
    assert!(!entries.contains_key("journal/7") && entries.contains_key("journal/8"));
    assert!(losses[0].state_lost, "{losses:?}");
    assert_eq!(told_until_noted(state, &root), 1);
}

#[test]
fn a_state_set_aside_takes_a_small_part_of_the_store() {
    let root = root();
    fs::write(root.path().join(DIR), vec![7; 100_000]).expect("write");
    State::open(root.path(), 16 * 4096, &mut Opening::default()).expect("the state opens");
    assert_eq!(fs::metadata(root.path().join("state.damaged")).expect("kept").len(), 4096);
}

#[test]
fn a_file_in_place_of_the_state_is_set_aside_too() {
    let root = root();
    fs::write(root.path().join(DIR), b"not a directory").expect("write");
    let (_state, entries, losses) = open(&root);
    assert!(entries.is_empty());
    assert!(losses[0].state_lost, "{losses:?}");
}

#[test]
fn a_truncated_or_scribbled_file_gives_no_wrong_value_and_always_opens() {
    let master = root();
    filled(&master, 300);
    let whole = fs::read(master.path().join(DIR).join("db")).expect("read");
    for step in 0..24 {
        let root = root();
        filled(&root, 1);
        let at = whole.len() / 24 * step;
        damage(&root.path().join(DIR).join("db"), |bytes| {
            bytes.clone_from(&whole);
            if step % 2 == 0 { bytes.truncate(at) } else { bytes[at..at + 512].fill(0xA5) }
        });
        let (_state, entries, _losses) = open(&root);
        for (key, value) in entries {
            assert_eq!(value, "SUCCEEDED ".repeat(20), "step {step}: {key}");
        }
    }
}

#[test]
fn a_value_whose_checksum_fails_costs_itself_and_tells_that_the_state_is_incomplete() {
    let root = root();
    let (mut state, _, _) = open(&root);
    state.put(&[entry("good", "1"), entry("bad", "2")]).expect("put");
    let db = state.db.as_ref().expect("open");
    db.db.insert("bad", b"\0\0\0\0wrong".as_slice()).expect("insert behind its back");
    drop(state);
    let (state, entries, losses) = open(&root);
    assert_eq!(entries.into_keys().collect::<Vec<_>>(), ["good"]);
    assert_eq!(losses.len(), 1);
    assert!(losses[0].state_lost, "which command it was can't be known");
    assert_eq!(told_until_noted(state, &root), 1);
    assert_eq!(open(&root).1.len(), 1, "the good value is kept");
}

#[test]
fn after_a_sync_that_failed_the_file_is_written_again_and_the_put_is_made_again() {
    let root = root();
    let (mut state, _, _) = open(&root);
    state.put(&[entry("a", "1")]).expect("put");
    // A descriptor that can't be synced makes the commit fail as a dying disk would.
    state.db.as_mut().expect("open").file = File::open("/dev/null").expect("open");
    state.put(&[entry("b", "2")]).expect("the second attempt goes to a fresh descriptor");
    drop(state);
    assert_eq!(open(&root).1.into_keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn while_a_sync_fails_the_database_is_not_closed() {
    let root = root();
    let (mut state, _, _) = open(&root);
    state.put(&[entry("a", "1")]).expect("put");
    state.db.as_mut().expect("open").file = File::open("/dev/null").expect("open");
    let (db, away) = (root.path().join(DIR).join(DB_FILE), root.path().join("away"));
    fs::rename(&db, &away).expect("rename");
    let reserve = reserve::path_in(root.path());
    fs::remove_file(&reserve).expect("it was given");
    for _ in 0..3 {
        state.put(&[entry("b", "2")]).expect_err("it can't be synced");
        assert!(state.db.as_ref().is_some_and(|db| db.suspect), "sled panics as it closes where a sync fails");
    }
    assert!(reserve.exists(), "it is tried again, and needs room then");
    fs::rename(&away, &db).expect("rename");
    state.put(&[entry("b", "2")]).expect("the disk is back");
    drop(state);
    let (_, entries, losses) = open(&root);
    assert_eq!((entries.into_keys().collect::<Vec<_>>(), losses), (vec!["a".to_owned(), "b".to_owned()], vec![]));
}

#[test]
fn a_state_that_the_disk_refuses_to_read_is_not_given_up() {
    let root = root();
    filled(&root, 20);
    for name in [DB_FILE, GENERATION_FILE] {
        let reserve = reserve::path_in(root.path());
        fs::remove_file(&reserve).expect("it was given");
        refuse_where(move |path, _| path.ends_with(name));
        let fault = State::open(root.path(), MAX_BYTES, &mut Opening::default()).expect_err(name);
        heal();
        assert!(reserve.exists() || name != DB_FILE, "it is tried again, and needs room then");
        assert!(fault.to_string().contains("Input/output error"), "{fault}");
        let (_, entries, losses) = open(&root);
        assert_eq!((entries.len(), losses), (20, vec![]), "{name}");
    }
}

#[test]
fn a_panic_inside_sled_is_an_error_with_its_words() {
    let trouble = guarded::<()>(|| panic!("index out of bounds")).expect_err("an error");
    assert_eq!(trouble.to_string(), "sled panicked: index out of bounds");
}

#[test]
fn that_there_is_no_space_is_known_by_the_error_whoever_tells_of_it() {
    for (errno, expected) in [(Errno::NOSPC, true), (Errno::DQUOT, true), (Errno::FBIG, true), (Errno::IO, false)] {
        let error = || io::Error::from(errno);
        // As sled clones it.
        let copy = sled::Error::Io(io::Error::new(error().kind(), format!("{:?}", error())));
        let panicked = guarded::<()>(|| panic!("called `Result::unwrap()` on an `Err` value: {copy:?}"));
        let troubles = [Trouble::Io(error()), panicked.expect_err("an error"), Trouble::Sled(copy)];
        for trouble in troubles {
            assert_eq!(trouble.is_no_space(), expected, "{trouble:?}");
        }
    }
}

#[test]
fn the_reserve_is_real_bytes_and_counted() {
    let root = root();
    let (state, _, _) = open(&root);
    let reserve = fs::read(reserve::path_in(root.path())).expect("the reserve is there");
    assert_eq!(reserve.len() as u64, RESERVE_BYTES_MAX);
    assert!(reserve.chunks(4096).all(|page| page.iter().any(|byte| *byte != 0)));
    assert!(state.bytes() >= RESERVE_BYTES_MAX);
}

#[test]
fn a_state_that_another_holds_is_left_alone() {
    let root = root();
    filled(&root, 3);
    let other = File::open(root.path().join(DIR).join("db")).expect("open");
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    let mut opening = Opening::default();
    let fault = State::open(root.path(), MAX_BYTES, &mut opening).expect_err("it is held");
    assert!(fault.to_string().contains("could not acquire lock"), "{fault}");
    drop(other);
    let (_state, entries, losses) = open(&root);
    assert_eq!((entries.len(), losses.len()), (3, 0));
}

/// Twenty entries, so few at a time that sled is given them.
fn put_in_parts(state: &mut State, entry: impl Fn(usize) -> (String, Option<Bytes>)) {
    let entries: Vec<_> = (0..20).map(entry).collect();
    entries.chunks(3).for_each(|part| state.put(part).expect("put"));
}

/// A journal that was once long.
fn overgrown(root: &TempDir) -> u64 {
    let (mut state, _, _) = open(root);
    state.look_at_bytes = u64::MAX;
    let value = "x".repeat(4_000);
    for round in 0..40 {
        put_in_parts(&mut state, |index| entry(&format!("cmd/{round}/{index}"), &value));
    }
    for round in 1..40 {
        put_in_parts(&mut state, |index| (format!("cmd/{round}/{index}"), None));
    }
    drop(state);
    db_bytes(root)
}

fn db_bytes(root: &TempDir) -> u64 {
    fs::metadata(root.path().join(DIR).join(DB_FILE)).expect("it is there").len()
}

#[test]
fn a_file_that_has_outgrown_what_is_in_it_is_written_anew_when_it_is_opened() {
    let root = root();
    let before = overgrown(&root);
    let (state, entries, losses) = open(&root);
    let after = db_bytes(&root);
    assert!(before > MAX_BYTES / 4 && after < before / 3, "{before} B, then {after} B");
    assert_eq!((entries.len(), losses), (20, vec![]));
    let segment = rewrite::SLED_SEGMENT_BYTES;
    assert!(state.bytes() < RESERVE_BYTES_MAX + after.max(segment) + 100_000, "{} B", state.bytes());
    drop(state);
    let (mut state, entries, losses) = open(&root);
    assert_eq!((entries.len(), losses), (20, vec![]));
    state.put(&[entry("after", "1")]).expect("put");
}

#[test]
fn a_file_that_outgrows_what_is_in_it_while_it_is_in_use_is_written_anew() {
    let root = root();
    overgrown(&root);
    let (mut state, _, _) = open(&root);
    let mut most = 0;
    for round in 0..100 {
        let value = "x".repeat(4_000 + round);
        put_in_parts(&mut state, |index| entry(&format!("cmd/0/{index}"), &value));
        state.put(&[entry(&format!("other/{round}"), &value)]).expect("put");
        state.put(&[(format!("other/{round}"), None)]).expect("put");
        most = most.max(db_bytes(&root));
    }
    drop(state);
    let (_, entries, losses) = open(&root);
    assert_eq!((entries.len(), losses), (20, vec![]));
    assert!(most <= MAX_BYTES / 2, "{most} B");
}

/// That many, of 1,000 B each.
fn many(count: usize) -> Vec<(String, Option<Bytes>)> {
    (0..count).map(|index| entry(&format!("many/{index}"), &"x".repeat(1_000))).collect()
}

#[test]
fn many_changes_at_once_are_all_made_and_the_file_has_no_more_than_the_state() {
    let root = root();
    let (mut state, _, _) = open(&root);
    state.put(&[entry("a", "1"), entry("many/0", "else")]).expect("put");
    state.put(&many(300)).expect("put");
    state.put(&[entry("b", "2")]).expect("put");
    let gone: Vec<_> = (10..300).map(|index| (format!("many/{index}"), None)).collect();
    state.put(&gone).expect("put");
    assert!(db_bytes(&root) < rewrite::SLED_SEGMENT_BYTES, "{} B", db_bytes(&root));
    assert!(state.written_bytes() > 600_000, "{} B", state.written_bytes());
    drop(state);
    let (_, entries, losses) = open(&root);
    assert_eq!(losses, []);
    let expected: Entries = [entry("a", "1"), entry("b", "2")]
        .into_iter()
        .chain(many(10))
        .map(|(key, value)| (key, value.unwrap()))
        .collect();
    assert_eq!(entries, expected);
}

#[test]
fn many_changes_at_once_to_a_state_that_fell_back_do_not_hide_that() {
    let root = root();
    let (mut state, _, _) = open(&root);
    state.put(&[entry("a", "1")]).expect("put");
    state.generation.put(7);
    state.close();
    state.put(&many(100)).expect("put");
    assert_eq!(told_until_noted(state, &root), 1);
    let (_, entries, _) = open(&root);
    assert_eq!(entries.len(), 101);
}

/// The image of a state of 20 entries, lying beside it as a crash leaves it.
fn unfinished(root: &TempDir) -> PathBuf {
    filled(root, 20);
    let (state, _, _) = open(root);
    let image = rewrite::image_of(state.db.as_ref().expect("it is open"), &[]).expect("its image");
    let path = root.path().join(IMAGE_FILE);
    fs::write(&path, image).expect("write");
    path
}

/// What a crash leaves of the database.
type Crash = fn(&Path);

#[test]
fn wherever_a_crash_breaks_the_writing_anew_off_the_state_is_whole() {
    let gone = |dir: &Path| fs::remove_dir_all(dir).expect("remove");
    let half_gone = |dir: &Path| fs::remove_file(dir.join(DB_FILE)).expect("remove");
    let half_made = |dir: &Path| damage(&dir.join(DB_FILE), |bytes| bytes.truncate(1000));
    let untouched = |_: &Path| {};
    let steps: [(&str, Crash); 4] =
        [("untouched", untouched), ("half gone", half_gone), ("gone", gone), ("half made", half_made)];
    for (step, crash) in steps {
        let root = root();
        let image = unfinished(&root);
        crash(&root.path().join(DIR));
        let (mut state, entries, losses) = open(&root);
        assert_eq!((entries.len(), losses), (20, vec![]), "{step}");
        assert!(!image.exists(), "{step}");
        state.put(&[entry("after", "1")]).expect("put");
        drop(state);
        let (_, entries, losses) = open(&root);
        assert_eq!((entries.len(), losses), (21, vec![]), "{step}");
    }
}

#[test]
fn an_image_that_is_damaged_leaves_the_database_as_it_is() {
    let root = root();
    let image = unfinished(&root);
    damage(&image, |bytes| bytes[500] ^= 1);
    let (_, entries, losses) = open(&root);
    assert_eq!((entries.len(), losses), (20, vec![]));
    assert!(!image.exists());
}

#[test]
fn what_lies_where_the_image_would_and_is_none_is_removed() {
    let root = root();
    filled(&root, 20);
    let image = root.path().join(IMAGE_FILE);
    fs::create_dir(&image).expect("make");
    fs::write(image.join("something"), "else").expect("write");
    let (_, entries, losses) = open(&root);
    assert_eq!((entries.len(), losses), (20, vec![]));
    assert!(!image.exists());
}
