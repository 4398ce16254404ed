//! Power cuts: the store's real writes, recorded by strace, are replayed up to every point of them onto a disk that
//! keeps only what was synced, or all, or a random part of the rest torn into sectors. What is left is then opened.
//!
//! The disk promises what POSIX does and no more: a file's bytes are safe after fsync or fdatasync of it, a name after
//! fsync of its directory. sync_file_range(2), which sled uses, promises nothing. Names of one directory are lost from
//! the last one back, as a journaling file system loses them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use fieldmedic::store::Store;

use crate::work::{Confirmed, Worker, told};
use crate::{cases, child, child_dir, settings, temp};

const ROUNDS: u64 = 100;
const ROUNDS_VARIABLE: &str = "FIELDMEDIC_STORE_CUT_ROUNDS";
/// How often each point is struck with other dice.
const SEEDS: u64 = 2;
const SEEDS_VARIABLE: &str = "FIELDMEDIC_STORE_CUT_SEEDS";
const TEST: &str = "power::a_power_cut_at_any_write_loses_nothing_that_was_confirmed";
const SECTOR: usize = 512;
const THREADS: u64 = 2;
const CALLS: &str = "trace=openat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,rename,renameat,\
                     renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,lseek,fsync,fdatasync";

#[test]
fn a_power_cut_at_any_write_loses_nothing_that_was_confirmed() {
    if let Some(dir) = child_dir() {
        return work(&dir);
    }
    let dir = temp();
    let acts = record(dir.path());
    commits_come_after_their_syncs(&acts);
    sled_begins_one_segment_between_two_syncs(&acts);
    state_is_written_anew_for_each_reason(&acts);
    let cuts = acts.iter().filter(|act| !matches!(act, Act::Say(_))).count();
    println!("{} acts, {cuts} points to cut at", acts.len());
    let seeds = cases(SEEDS_VARIABLE, SEEDS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (acts, root) = (&acts, dir.path());
            scope.spawn(move || {
                let mut replay = Replay::new(root);
                for (at, act) in acts.iter().enumerate() {
                    replay.take(act);
                    if at as u64 % THREADS == thread && !matches!(act, Act::Say(_)) {
                        replay.cut_everywhere(at, &lately(&acts[..=at]), seeds);
                    }
                }
            });
        }
    });
}

fn state_is_written_anew_for_each_reason(acts: &[Act]) {
    let renamed = |act: &Act| matches!(act, Act::Rename(_, to) if to.ends_with("state.image"));
    let mut parts = acts.split(|act| matches!(act, Act::Say(line) if line.contains("say swollen")));
    assert!(parts.next().unwrap().iter().any(renamed), "not for many entries at once");
    assert!(parts.next().unwrap().iter().any(renamed), "not for a file that has grown");
}

/// Where a power cut leaves the head of a segment of sled's log and not that of the one before, sled empties the log. So
/// no two are begun between two syncs, but while a copy lies beside it that counts instead: as few dice hit that.
fn sled_begins_one_segment_between_two_syncs(acts: &[Act]) {
    const SEGMENT_BYTES: usize = 512 * 1024;
    let mut replay = Replay::new(Path::new("/"));
    let (mut begun, mut most) = (BTreeSet::new(), 0);
    for (at, act) in acts.iter().enumerate() {
        replay.take(act);
        match act {
            Act::Write { path, at, .. } if path.ends_with("state/db") => drop(begun.insert(at / SEGMENT_BYTES)),
            Act::Sync(path) if path.ends_with("state/db") => begun.clear(),
            _ => {}
        }
        let counts = |name: &Path| name.ends_with("state.image") || name.ends_with("state.kept");
        if replay.disk.safe_names.keys().any(|name| counts(name)) {
            continue;
        }
        most = most.max(begun.len());
        assert!(begun.len() <= 2, "segments {begun:?} were written since the last sync: {}", lately(&acts[..=at]));
    }
    assert!(most > 0, "the trace shows no write of sled's");
}

/// The child: a store from its making to its end, opened a second time on the way; the state is written anew, because
/// many entries are put at once, and because its file grows too large for what is in it.
fn work(dir: &Path) {
    for seed in 0..2 {
        let (store, recovered) = Store::open(&settings(dir)).expect("open");
        let mut worker = Worker::new(store, &recovered, seed);
        for _ in 0..cases(ROUNDS_VARIABLE, ROUNDS) / 2 {
            worker.round();
        }
        if seed == 0 {
            worker.swell();
            worker.overgrow();
        }
        worker.close();
    }
}

/// What the child did to its files, in the order in which it was done.
fn record(dir: &Path) -> Vec<Act> {
    let trace = dir.join("trace");
    let worker = child(TEST, dir);
    let status = Command::new("strace")
        .args(["-f", "-y", "-xx", "-s", "2000000", "-e", CALLS, "-o"])
        .arg(&trace)
        .arg(worker.get_program())
        .args(worker.get_args())
        .envs(worker.get_envs().filter_map(|(key, value)| Some((key, value?))))
        .stdout(std::process::Stdio::null())
        .status()
        .expect("strace, of Debian's package of that name");
    assert!(status.success());
    let root = settings(dir).path;
    let acts = Trace::new(&root).read(&fs::read_to_string(&trace).unwrap());
    fs::remove_dir_all(root).unwrap();
    fs::remove_file(trace).unwrap();
    acts
}

#[derive(Debug, Clone)]
enum Act {
    Make(PathBuf),
    MakeDir(PathBuf),
    Write {
        path: PathBuf,
        at: usize,
        bytes: Vec<u8>,
    },
    Cut {
        path: PathBuf,
        len: usize,
    },
    /// Room that was made ready.
    Grow {
        path: PathBuf,
        len: usize,
    },
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Sync(PathBuf),
    Say(String),
}

/// The last acts in words: threads of sled's own make another sequence each time, so that nothing else tells.
fn lately(acts: &[Act]) -> String {
    const ACTS: usize = 12;
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let told = acts.iter().rev().take(ACTS).rev().map(|act| match act {
        Act::Make(path) | Act::MakeDir(path) => format!("make {}", name(path)),
        Act::Write { path, at, bytes } => format!("write {} {at}+{}", name(path), bytes.len()),
        Act::Cut { path, len } => format!("cut {} to {len}", name(path)),
        Act::Grow { path, len } => format!("grow {} to {len}", name(path)),
        Act::Rename(from, to) => format!("rename {} to {}", name(from), name(to)),
        Act::Remove(path) => format!("remove {}", name(path)),
        Act::Sync(path) => format!("sync {}", name(path)),
        Act::Say(line) => format!("say {line}"),
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Reads strace's output.
struct Trace<'a> {
    root: &'a Path,
    /// Where the next write(2) of a descriptor goes.
    offsets: BTreeMap<String, usize>,
    /// The beginnings of calls that another thread interrupted.
    unfinished: BTreeMap<String, String>,
    exists: BTreeSet<PathBuf>,
}

impl<'a> Trace<'a> {
    fn new(root: &'a Path) -> Self {
        Self { root, offsets: BTreeMap::new(), unfinished: BTreeMap::new(), exists: BTreeSet::new() }
    }

    fn read(&mut self, text: &str) -> Vec<Act> {
        let mut acts = Vec::new();
        for line in text.lines() {
            let (pid, rest) = line.split_once(' ').expect("a process's id");
            let rest = rest.trim_start();
            if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
                self.unfinished.insert(pid.to_owned(), begun.to_owned());
            } else if let Some((_, end)) = rest.split_once(" resumed>") {
                let whole = self.unfinished.remove(pid).expect("its beginning") + end;
                acts.extend(self.call(&whole));
            } else {
                acts.extend(self.call(rest));
            }
        }
        acts
    }

    fn call(&mut self, text: &str) -> Option<Act> {
        let (name, rest) = text.split_once('(')?;
        let (args, result) = rest.rsplit_once(") = ").or_else(|| rest.rsplit_once(" = "))?;
        if result.starts_with('-') {
            return None;
        }
        let args: Vec<&str> = args.trim_end_matches([' ', ')']).split(", ").collect();
        let count = || result.split(' ').next().unwrap().parse::<usize>().unwrap();
        let path = |at: usize| -> Option<PathBuf> {
            let path = PathBuf::from(String::from_utf8(unhex(args[at])).ok()?);
            // The name of the store itself stands in the directory above it.
            (path.starts_with(self.root) || self.root.parent() == Some(&path)).then_some(path)
        };
        match name {
            "openat" => {
                let (fd, _) = result.split_once('<')?;
                self.offsets.insert(fd.to_owned(), 0);
                let path = path(1)?;
                assert!(!args[2].contains("O_APPEND"), "{text}: not replayed");
                let made = args[2].contains("O_CREAT") && self.exists.insert(path.clone());
                assert!(made || !args[2].contains("O_TRUNC"), "{text}: not replayed");
                made.then_some(Act::Make(path))
            }
            "write" if args[0].starts_with("1<") => {
                let text = String::from_utf8_lossy(&unhex(args[1])).into_owned();
                text.contains("say ").then_some(Act::Say(text))
            }
            "write" => {
                let (fd, _) = args[0].split_once('<')?;
                let offset = self.offsets.entry(fd.to_owned()).or_default();
                let at = *offset;
                *offset += count();
                Some(Act::Write { path: path(0)?, at, bytes: written(args[1], count()) })
            }
            "pwrite64" => {
                let at = args[3].parse().unwrap();
                Some(Act::Write { path: path(0)?, at, bytes: written(args[1], count()) })
            }
            "lseek" => {
                let (fd, _) = args[0].split_once('<')?;
                self.offsets.insert(fd.to_owned(), count());
                None
            }
            "fallocate" => {
                assert_eq!(args[1], "0", "{text}: not replayed");
                let end = args[2].parse::<usize>().unwrap() + args[3].parse::<usize>().unwrap();
                Some(Act::Grow { path: path(0)?, len: end })
            }
            "ftruncate" => Some(Act::Cut { path: path(0)?, len: args[1].parse().unwrap() }),
            "fsync" | "fdatasync" => path(0).map(Act::Sync),
            "mkdir" => path(0).map(Act::MakeDir),
            "unlink" => {
                let path = path(0)?;
                self.exists.remove(&path);
                Some(Act::Remove(path))
            }
            "unlinkat" => {
                // Below the directory of the descriptor, unless the name begins at the root.
                let dir = PathBuf::from(String::from_utf8(unhex(args[0])).ok()?);
                let path = dir.join(String::from_utf8(unhex(args[1])).ok()?);
                self.exists.remove(&path);
                path.starts_with(self.root).then_some(Act::Remove(path))
            }
            "rmdir" => path(0).map(Act::Remove),
            "rename" => {
                let (from, to) = (path(0)?, path(1)?);
                self.exists.remove(&from);
                self.exists.insert(to.clone());
                Some(Act::Rename(from, to))
            }
            _ => panic!("{}: not replayed", text.get(..200).unwrap_or(text)),
        }
    }
}

/// What a write wrote: strace must not have shortened it.
fn written(arg: &str, count: usize) -> Vec<u8> {
    let mut bytes = unhex(arg);
    assert!(bytes.len() >= count, "a write of {count} B is {} B in the trace", bytes.len());
    bytes.truncate(count);
    bytes
}

/// The bytes of a string, or of the path of a descriptor, as `-xx` writes them.
fn unhex(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|digits| u8::from_str_radix(&digits[..2], 16).unwrap()).collect()
}

type Node = usize;

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Cut(usize),
    Grow(usize),
}

#[derive(Debug, Clone)]
enum Naming {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

/// A directory has no bytes.
#[derive(Debug, Default, Clone)]
struct File {
    is_dir: bool,
    safe: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Default)]
struct Disk {
    files: Vec<File>,
    /// As the process sees it.
    names: BTreeMap<PathBuf, Node>,
    safe_names: BTreeMap<PathBuf, Node>,
    /// By directory.
    pending_names: BTreeMap<PathBuf, Vec<Naming>>,
}

/// What arrives of that which was not synced.
enum Luck<'a> {
    All,
    Nothing,
    Dice(&'a mut fastrand::Rng),
}

impl Disk {
    fn make(&mut self, path: &Path, is_dir: bool) {
        self.files.push(File { is_dir, ..File::default() });
        self.name(Naming::Add(path.to_owned(), self.files.len() - 1));
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        if let Naming::Rename(from, to) = &naming {
            let moved: Vec<PathBuf> = self.pending_names.keys().filter(|dir| dir.starts_with(from)).cloned().collect();
            for dir in moved {
                let pending = self.pending_names.remove(&dir).unwrap_or_default();
                let pending = pending.into_iter().map(|naming| naming.below(from, to)).collect();
                self.pending_names.insert(elsewhere(&dir, from, to), pending);
            }
        }
        let (Naming::Add(path, _) | Naming::Remove(path) | Naming::Rename(path, _)) = &naming;
        self.pending_names.entry(path.parent().unwrap().to_owned()).or_default().push(naming);
    }

    fn change(&mut self, path: &Path, change: Change) {
        // A file that was deleted while it was open is nobody's concern.
        if let Some(node) = self.names.get(path) {
            self.files[*node].pending.push(change);
        }
    }

    fn sync(&mut self, path: &Path) {
        for naming in self.pending_names.remove(path).unwrap_or_default() {
            naming.apply(&mut self.safe_names);
        }
        if let Some(node) = self.names.get(path) {
            let file = &mut self.files[*node];
            for change in std::mem::take(&mut file.pending) {
                change.apply(&mut file.safe, |_| true);
            }
        }
    }

    /// Lays out what the power cut leaves, `from` one root `to` another.
    fn lay_out(&self, from: &Path, to: &Path, mut luck: Luck<'_>) {
        for (path, node) in self.names_left(&mut luck) {
            let path = to.join(path.strip_prefix(from).unwrap());
            let file = &self.files[node];
            // A file whose directory is gone can't be reached.
            if file.is_dir {
                let _ = fs::create_dir(&path);
            } else {
                let _ = fs::write(&path, file.left(&mut luck));
            }
        }
    }

    fn names_left(&self, luck: &mut Luck<'_>) -> BTreeMap<PathBuf, Node> {
        let mut names = self.safe_names.clone();
        for namings in self.pending_names.values() {
            let arrived = match luck {
                Luck::All => namings.len(),
                Luck::Nothing => 0,
                Luck::Dice(rng) => rng.usize(..=namings.len()),
            };
            namings.iter().take(arrived).for_each(|naming| naming.apply(&mut names));
        }
        names
    }
}

impl File {
    fn left(&self, luck: &mut Luck<'_>) -> Vec<u8> {
        let mut bytes = self.safe.clone();
        for change in &self.pending {
            match luck {
                Luck::All => change.apply(&mut bytes, |_| true),
                Luck::Nothing => {}
                Luck::Dice(rng) => match rng.u8(..3) {
                    0 => {}
                    1 => change.apply(&mut bytes, |_| true),
                    _ => change.apply(&mut bytes, |_| rng.bool()),
                },
            }
        }
        bytes
    }
}

impl Change {
    /// Applies those sectors of it that arrive.
    fn apply(&self, file: &mut Vec<u8>, mut arrives: impl FnMut(&Range<usize>) -> bool) {
        match self {
            Self::Cut(len) => file.resize(*len, 0),
            Self::Grow(len) => file.resize(file.len().max(*len), 0),
            Self::Write(at, bytes) => {
                let mut start = *at;
                while start < at + bytes.len() {
                    let end = (start / SECTOR * SECTOR + SECTOR).min(at + bytes.len());
                    if arrives(&(start..end)) {
                        file.resize(file.len().max(end), 0);
                        file[start..end].copy_from_slice(&bytes[start - at..end - at]);
                    }
                    start = end;
                }
            }
        }
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Add(path, node) => drop(names.insert(path.clone(), *node)),
            Self::Remove(path) => drop(names.remove(path)),
            Self::Rename(from, to) => {
                // A directory takes along what is in it.
                let moved: Vec<PathBuf> = names.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for path in moved {
                    if let Some(node) = names.remove(&path) {
                        names.insert(elsewhere(&path, from, to), node);
                    }
                }
            }
        }
    }

    /// What it is once a directory above has another name.
    fn below(self, from: &Path, to: &Path) -> Self {
        let elsewhere = |path: PathBuf| if path.starts_with(from) { elsewhere(&path, from, to) } else { path };
        match self {
            Self::Add(path, node) => Self::Add(elsewhere(path), node),
            Self::Remove(path) => Self::Remove(elsewhere(path)),
            Self::Rename(old, new) => Self::Rename(elsewhere(old), elsewhere(new)),
        }
    }
}

/// Where a path leads once `from`, which is it or is above it, is called `to`.
fn elsewhere(path: &Path, from: &Path, to: &Path) -> PathBuf {
    let rest = path.strip_prefix(from).unwrap();
    if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) }
}

/// The disk and what was confirmed, up to some point.
struct Replay<'a> {
    root: &'a Path,
    disk: Disk,
    confirmed: Confirmed,
}

impl<'a> Replay<'a> {
    fn new(root: &'a Path) -> Self {
        Self { root, disk: Disk::default(), confirmed: Confirmed::default() }
    }

    fn take(&mut self, act: &Act) {
        match act {
            Act::Make(path) => self.disk.make(path, false),
            Act::MakeDir(path) => self.disk.make(path, true),
            Act::Write { path, at, bytes } => self.disk.change(path, Change::Write(*at, bytes.clone())),
            Act::Cut { path, len } => self.disk.change(path, Change::Cut(*len)),
            Act::Grow { path, len } => self.disk.change(path, Change::Grow(*len)),
            Act::Rename(from, to) => self.disk.name(Naming::Rename(from.clone(), to.clone())),
            Act::Remove(path) => self.disk.name(Naming::Remove(path.clone())),
            Act::Sync(path) => self.disk.sync(path),
            Act::Say(line) => drop(self.confirmed.hear(line)),
        }
    }

    fn cut_everywhere(&self, at: usize, lately: &str, seeds: u64) {
        self.cut(&format!("cut after act {at} ({lately}), all arrived"), Luck::All, false);
        self.cut(&format!("cut after act {at} ({lately}), only what was synced"), Luck::Nothing, false);
        for seed in 0..seeds {
            let mut rng = fastrand::Rng::with_seed(seed << 32 | at as u64);
            let when = format!("cut after act {at} ({lately}), dice of seed {seed}");
            self.cut(&when, Luck::Dice(&mut rng), true);
        }
    }

    /// `torn`: what was appended and not confirmed may be counted as lost, because nothing tells it from damage; where
    /// the head of a record didn't arrive a long one as several.
    fn cut(&self, when: &str, luck: Luck<'_>, torn: bool) {
        let dir = temp();
        self.disk.lay_out(self.root, dir.path(), luck);
        // After it comes another boot.
        let _ = fs::remove_file(settings(dir.path()).path.join("boot"));
        let (mut store, recovered) =
            Store::open(&settings(dir.path())).unwrap_or_else(|error| panic!("{when}: {error:?}"));
        self.confirmed.clone().check(&mut store, &recovered, when);
        assert!(!recovered.losses.iter().any(|loss| loss.state_lost), "{when}: {:?}", recovered.losses);
        assert!(torn || recovered.losses.is_empty(), "{when}: {:?}", recovered.losses);
        let guessed = recovered.losses.iter().any(|loss| loss.what.contains("known by the room alone"));
        let most = if guessed { UNCONFIRMED_BYTES_MAX / FRAME_BYTES } else { UNCONFIRMED_MAX };
        assert!(told(&recovered.losses) <= most, "{when}: {:?}", recovered.losses);
    }
}

/// What a worker appends before it commits.
const UNCONFIRMED_MAX: u64 = 12;
/// And how large that is: one long record, and others of less than 3,000 B.
const UNCONFIRMED_BYTES_MAX: u64 = 20_000 + (UNCONFIRMED_MAX - 1) * 3_000 + UNCONFIRMED_MAX * FRAME_BYTES;
/// What each takes beside its body.
const FRAME_BYTES: u64 = 25;

/// When a commit is confirmed no segment has a byte that isn't synced, nor a name; nor has the state's file after a
/// put.
fn commits_come_after_their_syncs(acts: &[Act]) {
    let mut replay = Replay::new(Path::new("/"));
    let mut commits = 0;
    for act in acts {
        replay.take(act);
        let Act::Say(line) = act else { continue };
        let suffix = if line.contains("committed") { ".seg" } else { "state/db" };
        if !line.contains("committed") && !line.contains("put") {
            continue;
        }
        commits += 1;
        for (path, node) in &replay.disk.names {
            if path.to_string_lossy().ends_with(suffix) {
                // Room that was cut off may come back.
                let writes = |change: &&Change| matches!(change, Change::Write(..));
                let unsynced = replay.disk.files[*node].pending.iter().filter(writes).count();
                assert_eq!(unsynced, 0, "{line}: {} has writes that are not synced", path.display());
                assert_eq!(replay.disk.safe_names.get(path), Some(node), "{line}: {} may vanish", path.display());
            }
        }
    }
    assert!(commits > 0, "the trace shows no commit");
}
