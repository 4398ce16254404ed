//! Damage of every kind to every file of the store. The store is damaged as root where the test runs as root, and
//! opened by an ordinary user, as on a gateway.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use bytes::Bytes;
use fieldmedic::engine::io::{Recovered, StoreOp};
use fieldmedic::engine::keyed::STATE_LOST_KEY;
use fieldmedic::engine::record::Class;
use fieldmedic::store::Store;

use crate::work::{body, class_of, records, told};
use crate::{cases, child, child_dir, settings, temp};

const CASES: u64 = 1000;
const CASES_VARIABLE: &str = "FIELDMEDIC_STORE_DAMAGES";
const TEST: &str = "damage::whatever_is_damaged_the_store_opens_and_what_is_lost_is_counted";
/// Who opens the store, where the test has the right to say so: nobody.
const USER: u32 = 65534;
/// Who owns what has the wrong owner.
const STRANGER: u32 = 12345;
const RECORDS: u64 = 240;
const KEYS: u64 = 120;
/// Up to here the logs are trimmed.
const TRIMMED: u64 = 31;
/// Where the next record goes in, after the damage.
const NEXT: u64 = 10_000;
const DAMAGES_MAX: usize = 3;
/// What may be kept aside, in all: the state, and in each log two segments, a cursor and the log itself.
const ASIDE_BYTES_MAX: u64 = 256 * 1024 + 3 * 5 * 90 * 1024;

#[test]
fn whatever_is_damaged_the_store_opens_and_what_is_lost_is_counted() {
    if child_dir().is_some() {
        return open_what_is_named();
    }
    let as_root = rustix::process::geteuid().is_root();
    let master = temp();
    make(master.path());
    let mut opener = Opener::start(as_root);
    let mut tally = [0_u64; 3];
    let mut failures = Vec::new();
    for case in 0..cases(CASES_VARIABLE, CASES) {
        let dir = temp();
        copy(&master.path().join("store"), &dir.path().join("store"));
        let mut rng = fastrand::Rng::with_seed(case);
        if as_root {
            own(dir.path(), USER);
        }
        let damages: Vec<String> = (0..rng.usize(1..=DAMAGES_MAX))
            .filter_map(|_| damage(&dir.path().join("store"), as_root, &mut rng))
            .collect();
        let answer = opener.ask(dir.path());
        if !answer.starts_with("fine") {
            failures.push(format!("case {case}, {damages:#?}:\n{answer}"));
            continue;
        }
        for (sum, word) in tally.iter_mut().zip(answer.split_whitespace().skip(1)) {
            *sum += word.parse::<u64>().unwrap();
        }
    }
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
    println!("{} of the records lost, and {} told; the state was lost {} times", tally[0], tally[1], tally[2]);
    assert!(tally[0] > 0 && tally[2] > 0, "the damage did no harm, so this proves nothing");
}

fn make(dir: &Path) {
    let (mut store, _) = Store::open(&settings(dir)).expect("open");
    for seq in 1..=RECORDS {
        store.apply(StoreOp::Append { class: class_of(seq), seq, bytes: body(seq) }).expect("append");
    }
    store.apply(StoreOp::Commit).expect("commit");
    for class in Class::ALL {
        store.apply(StoreOp::Trim { class, upto: TRIMMED }).expect("trim");
    }
    for key in 0..KEYS {
        store.apply(StoreOp::Put { entries: vec![(format!("key/{key}"), Some(value(key)))] }).expect("put");
    }
    store.close().expect("close");
}

fn value(key: u64) -> Bytes {
    Bytes::from(format!("value of {key} ").repeat(12))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

fn own(path: &Path, uid: u32) {
    chown(path, Some(uid), None).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().flatten().for_each(|entry| own(&entry.path(), uid));
    }
}

/// All that lies below `dir`, in the order of its names.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        paths.push(entry.path());
        if entry.path().is_dir() {
            paths.extend(tree(&entry.path()));
        }
    }
    paths.sort();
    paths
}

/// Does some damage to something below `root`, and says what; nothing if it doesn't apply.
fn damage(root: &Path, as_root: bool, rng: &mut fastrand::Rng) -> Option<String> {
    let paths = tree(root);
    let path = paths[rng.usize(..paths.len())].clone();
    let what = match (rng.u8(..9), path.is_dir()) {
        (0, _) => {
            remove(&path);
            "removed".to_owned()
        }
        (1, _) if as_root => {
            own(&path, STRANGER);
            "given to a stranger".to_owned()
        }
        (2, is_dir) => {
            remove(&path);
            if is_dir {
                fs::write(&path, b"not a directory").unwrap();
            } else {
                fs::create_dir(&path).unwrap();
            }
            if as_root {
                own(&path, USER);
            }
            "made what it was not".to_owned()
        }
        (3, _) => {
            let mode = if rng.bool() { 0 } else { 0o200 };
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            format!("made mode {mode:03o}")
        }
        (_, true) => return None,
        (4, false) => make_newer(&path)?,
        (kind, false) => scramble(&path, kind, rng)?,
    };
    Some(format!("{}: {what}", path.display()))
}

fn remove(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

/// The form of a segment or of sled's files that a later version would write.
fn make_newer(path: &Path) -> Option<String> {
    let mut bytes = fs::read(path).unwrap();
    if path.extension().is_some_and(|extension| extension == "seg") && bytes.len() >= 20 {
        bytes[8] += 1;
        let crc = crc32c::crc32c(&bytes[..16]);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    } else if path.file_name().is_some_and(|name| name == "conf") {
        let text = String::from_utf8(bytes).ok()?;
        bytes = text.replace("0.34", "0.99").into_bytes();
    } else {
        return None;
    }
    fs::write(path, bytes).unwrap();
    Some("made a newer version".to_owned())
}

fn scramble(path: &Path, kind: u8, rng: &mut fastrand::Rng) -> Option<String> {
    let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
    let len = file.metadata().unwrap().len();
    if len == 0 {
        return None;
    }
    let at = rng.u64(..len);
    Some(match kind {
        5 => {
            file.set_len(at).unwrap();
            format!("cut to {at} of {len} B")
        }
        6 => {
            let at = at / 4096 * 4096;
            file.write_all_at(&vec![0; (len - at).min(4096) as usize], at).unwrap();
            format!("page at {at} of {len} B zeroed")
        }
        7 => {
            let bytes: Vec<u8> = (0..(len - at).min(512)).map(|_| rng.u8(..)).collect();
            file.write_all_at(&bytes, at).unwrap();
            format!("{} B at {at} of {len} B scribbled over", bytes.len())
        }
        _ => {
            for _ in 0..rng.u8(1..=8) {
                let at = rng.u64(..len);
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1 << rng.u8(..8)], at).unwrap();
            }
            format!("bits of {len} B flipped")
        }
    })
}

/// A child that opens stores as an ordinary user.
struct Opener {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Opener {
    fn start(as_root: bool) -> Self {
        let mut command = child(TEST, Path::new("/"));
        if as_root {
            command.uid(USER);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start the opener");
        let (questions, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, questions, answers }
    }

    fn ask(&mut self, dir: &Path) -> String {
        writeln!(self.questions, "{}", dir.display()).unwrap();
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the opener died: {:?}", self.child.wait());
            if let Some((_, last)) = line.split_once("answer ") {
                return format!("{}\n{answer}", last.trim_end());
            }
            answer += &line;
        }
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child.
fn open_what_is_named() {
    for dir in std::io::stdin().lines() {
        let dir = PathBuf::from(dir.unwrap());
        match catch_unwind(AssertUnwindSafe(|| check(&dir))) {
            Ok(fine) => println!("answer fine {fine}"),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                println!("{}\nanswer failed", text.unwrap_or_else(|| "panicked".to_owned()));
            }
        }
    }
}

fn open(dir: &Path) -> (Store, Recovered) {
    Store::open(&settings(dir)).unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)))
}

/// Opens a damaged store, uses it and opens it again; gives how many records are missing, how many of them were told
/// of, and whether the state was lost.
fn check(dir: &Path) -> String {
    let (mut store, first) = open(dir);
    let missing = check_records(&mut store, &first);
    check_state(&first);
    let aside = aside_bytes(dir);
    assert!(aside <= ASIDE_BYTES_MAX, "{aside} B are kept aside");
    let before = Class::ALL.map(|class| records(&mut store, class));
    drop(store);

    // The agent remembers the words of what it was told of.
    let (mut store, second) = open(dir);
    let again = second.losses.iter().filter(|loss| first.losses.iter().all(|told| told.what != loss.what));
    assert!(!again.clone().any(|loss| loss.records > 0 || loss.state_lost), "{first:?}, then {:?}", second.losses);
    assert_eq!(Class::ALL.map(|class| records(&mut store, class)), before, "they stay as they were found");
    for class in Class::ALL {
        let seq = NEXT + class as u64 + 2;
        let op = StoreOp::Append { class: class_of(seq), seq, bytes: body(seq) };
        store.apply(op).expect("append goes on");
    }
    store.apply(StoreOp::Commit).expect("commit");
    // With what the agent says when it has taken note of a loss.
    let entries = vec![("after".to_owned(), Some(Bytes::new())), (STATE_LOST_KEY.to_owned(), None)];
    store.apply(StoreOp::Put { entries }).expect("put goes on");
    store.close().expect("close");

    let (mut store, third) = open(dir);
    assert_eq!(told(&third.losses), 0, "{first:?}, then {:?}", third.losses);
    assert!(!third.losses.iter().any(|loss| loss.state_lost), "{:?}", third.losses);
    for (class, before) in Class::ALL.into_iter().zip(before) {
        assert_eq!(records(&mut store, class).len(), before.len() + 1);
    }
    let state_lost = u8::from(first.losses.iter().any(|loss| loss.state_lost));
    format!("{missing} {} {state_lost}", told(&first.losses))
}

/// What is missing is told: to the record where the log's cursor is whole, and said to be lost in any case.
fn check_records(store: &mut Store, recovered: &Recovered) -> u64 {
    let mut all_missing = 0;
    for class in Class::ALL {
        let found = records(store, class);
        let of_it = |seq: &u64| class_of(*seq) == class;
        assert!(
            found.iter().all(|seq| (1..=RECORDS).contains(seq)),
            "{class:?} holds what was never written: {found:?}"
        );
        let wanted: Vec<u64> = (TRIMMED + 1..=RECORDS).filter(of_it).collect();
        let missing = wanted.iter().filter(|seq| found.binary_search(seq).is_err()).count() as u64;
        let again = found.iter().filter(|seq| **seq <= TRIMMED).count();
        // By its directory: each log tells of itself.
        let log = format!("/outbox/{}", class.word());
        let of_log = recovered.losses.iter().filter(|loss| loss.what.contains(&log) || loss.what.contains("/outbox:"));
        let told: u64 = of_log.clone().map(|loss| loss.records).sum();
        let unknown = of_log.clone().any(|loss| {
            ["cursor: ", "/outbox: ", "vanished", "No such file", "set aside as"]
                .iter()
                .any(|word| loss.what.contains(word))
        });
        if missing > 0 {
            assert!(of_log.clone().next().is_some(), "{class:?}: {missing} missing and not a word");
        }
        assert!(unknown || told == missing, "{class:?}: {missing} missing, {told} told: {:?}", recovered.losses);
        assert!(unknown || again == 0, "{class:?}: {again} come again");
        all_missing += missing;
    }
    all_missing
}

fn check_state(recovered: &Recovered) {
    let whole = (0..KEYS).all(|key| recovered.state.iter().any(|(found, _)| *found == format!("key/{key}")));
    let state_lost = recovered.losses.iter().any(|loss| loss.state_lost);
    assert!(whole || state_lost, "{} entries, and not a word", recovered.state.len());
    for (key, found) in &recovered.state {
        let number = key.strip_prefix("key/").and_then(|number| number.parse().ok()).expect("a key that was put");
        assert!(*found == value(number), "{key} came back as another value");
    }
}

fn aside_bytes(dir: &Path) -> u64 {
    let aside =
        |path: &&PathBuf| path.to_string_lossy().contains(".damaged") || path.to_string_lossy().contains(".newer");
    let paths = tree(dir);
    paths.iter().filter(aside).filter(|path| path.is_file()).map(|path| fs::metadata(path).unwrap().len()).sum()
}
