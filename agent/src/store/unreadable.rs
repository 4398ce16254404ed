//! What the disk refuses to read (EIO). A bus that hiccups, a card that resets, an array that is being rebuilt refuse
//! everything for a while, and all of it is there again afterwards; a dead flash block refuses its own bytes for good.
//! So one file with a hole in it is damage, and a file of which not a byte can be read, or several with holes, are a
//! disk that is to be waited for; what is still refused after a long wait is written down, and is damage from then on.
//! This module must not change a file of the store.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::buffer::Buffer;
use rustix::io::Errno;

use super::{OUTBOX_DIR, disk, segment, state};
use crate::collect::clock;
use crate::engine::io::StoreLoss;
use crate::gather::gather;
use crate::plain_file;

/// Where it is written down, a path a line, below the store's directory.
const NOTE_FILE: &str = "unreadable";
/// In which boot the store was open last, below the store's directory.
const BOOT_FILE: &str = "boot";
/// Neither of them is longer than this.
const NOTE_BYTES_MAX: u64 = 1024 * 1024;
/// More aren't written down: a disk with so many is one to replace.
const NOTED_MAX: usize = 1_000;
const CHUNK_BYTES: usize = 16 * 1024;
const PAGE_BYTES: usize = 4096;
/// Pages that are tried of a file that can't be read from its beginning: each may take the disk seconds.
const PAGES_TRIED: u64 = 8;

/// What opening the store finds out, and what it may give up for dead.
#[derive(Debug, Default)]
pub(super) struct Opening {
    pub(super) losses: Vec<StoreLoss>,
    dead: BTreeSet<PathBuf>,
    /// The store was open before in this boot of the system: no power cut has struck it since.
    pub(super) same_boot: bool,
}

impl Opening {
    /// One that knows what was written down about the store below `root`.
    pub(super) fn of(root: &Path) -> Self {
        let read = |name| String::from_utf8(plain_file::read(&root.join(name), NOTE_BYTES_MAX).ok()?).ok();
        let noted = read(NOTE_FILE).unwrap_or_default();
        let dead = gather(noted.lines().take(NOTED_MAX).map(|line| root.join(line)));
        let before = read(BOOT_FILE);
        Self { losses: Vec::new(), dead, same_boot: before.is_some() && before == this_boot() }
    }

    /// Writes down in which boot the store was open.
    pub(super) fn note_boot(&self, root: &Path) {
        if let (false, Some(boot)) = (self.same_boot, this_boot()) {
            // Without it damage passes for what a power cut left, as it would after one.
            let _ = disk::replace_file(&root.join(BOOT_FILE), boot.as_bytes());
        }
    }

    /// Whether a segment whose data ends here, with a frame that is cut, may end so without damage. A power cut leaves
    /// any part of what was written and never committed; a kill interrupts a write(2) at the end of a page, the zeros
    /// before which may belong to the head of a frame, and else all that was written is in the page cache or on disk.
    pub(super) fn may_be_unfinished(&self, data_end: u64) -> bool {
        !self.same_boot || data_end.next_multiple_of(PAGE_BYTES as u64) - data_end < segment::HEAD_LEN as u64
    }

    /// Whether what can't be read of it is gone for good.
    pub(super) fn is_dead(&self, path: &Path) -> bool {
        self.dead.contains(path)
    }

    /// The same of anything in a directory.
    pub(super) fn is_dead_below(&self, dir: &Path) -> bool {
        self.dead.iter().any(|dead| dead.starts_with(dir))
    }

    /// Whether a file is to be left as it is for an error: see [`disk::is_passing`].
    pub(super) fn is_passing(&self, path: &Path, error: &io::Error) -> bool {
        disk::is_passing(error) || (is_refusal(error) && !self.is_dead(path))
    }

    /// Looks at the whole store after it didn't open. False: so much of it is refused that the disk is to be waited
    /// for. True: it is worth another try, in which a single hole counts as dead.
    pub(super) fn look_again(&mut self, root: &Path) -> bool {
        let refused: Vec<_> = scan(root).into_iter().filter(|(path, _)| !self.is_dead(path)).collect();
        if refused.len() > 1 || refused.iter().any(|(_, extent)| *extent == Extent::Whole) {
            return false;
        }
        self.dead.extend(refused.into_iter().map(|(path, _)| path));
        true
    }

    /// Forgets the losses that were found a second time.
    pub(super) fn tell_once(&mut self) {
        let mut told = BTreeSet::new();
        self.losses.retain(|loss| told.insert(loss.what.clone()));
    }

    /// Forgets what was written down and can be read again, or isn't there any more.
    pub(super) fn tidy(&self, root: &Path) {
        let note = root.join(NOTE_FILE);
        if !note.exists() {
            return;
        }
        let still: Vec<_> = self.dead.iter().filter(|path| extent(path).is_some()).collect();
        // What is noted too long costs nothing but the wait the next time.
        let _ = if still.is_empty() { disk::remove(&note) } else { write_note(root, still.into_iter()) };
    }
}

/// Writes down what can't be read of the store now: the next opening takes it for dead. Gives whether there is any.
pub(super) fn give_up(root: &Path) -> bool {
    let refused = scan(root);
    !refused.is_empty() && write_note(root, refused.iter().map(|(path, _)| path)).is_ok()
}

fn write_note<'a>(root: &Path, paths: impl Iterator<Item = &'a PathBuf>) -> io::Result<()> {
    let names = paths.filter_map(|path| path.strip_prefix(root).ok()?.to_str());
    let text: String = names.take(NOTED_MAX).map(|name| format!("{name}\n")).collect();
    disk::replace_file(&root.join(NOTE_FILE), text.as_bytes()).map(drop)
}

fn this_boot() -> Option<String> {
    clock::boot_id(Path::new("/")).ok().map(|id| id.to_string())
}

/// Whether an error says that the disk couldn't read, or write.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::IO)
}

/// Reads what is there at an offset (pread(2)).
pub(super) fn read_at<B: Buffer<u8>>(file: &File, room: B, at: u64) -> rustix::io::Result<B::Output> {
    #[cfg(test)]
    testing::refuse(file, at)?;
    rustix::io::pread(file, room, at)
}

/// Reads the files of a directory, and fails where a byte of them is refused: who reads them next finds them in the
/// page cache.
pub(super) fn check_all_in(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if extent(&path).is_some() {
            return Err(Errno::IO.into());
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Some bytes of it are refused.
    Hole,
    /// Nothing of it could be read.
    Whole,
}

/// Whether nothing of a file can be read.
pub(super) fn is_whole(path: &Path) -> bool {
    extent(path) == Some(Extent::Whole)
}

/// What of the store's files is refused. What was set aside and what is never read is left out.
fn scan(root: &Path) -> Vec<(PathBuf, Extent)> {
    let mut found = Vec::new();
    for name in [OUTBOX_DIR, state::DIR, state::IMAGE_FILE, state::GENERATION_FILE] {
        walk(&root.join(name), disk::DEPTH_MAX, &mut found);
    }
    found
}

fn walk(path: &Path, depth: u32, found: &mut Vec<(PathBuf, Extent)>) {
    if disk::is_aside(path) {
        return;
    }
    found.extend(extent(path).map(|extent| (path.to_owned(), extent)));
    if path.is_dir() && depth > 0 {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            walk(&entry.path(), depth - 1, found);
        }
    }
}

/// How much of a file, or of a directory's own list, is refused; `None` where nothing is.
fn extent(path: &Path) -> Option<Extent> {
    match read_all(path) {
        Err(error) if is_refusal(&error) => Some(Extent::Whole),
        other => other.ok().flatten(),
    }
}

fn read_all(path: &Path) -> io::Result<Option<Extent>> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        return fs::read_dir(path).map(|_| None);
    }
    if !metadata.is_file() {
        return Ok(None);
    }
    let (file, len) = (File::open(path)?, metadata.len());
    // What the page cache has says nothing of the disk. Not to be had where it isn't clean: then it was just written.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    let mut room = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < len {
        match read_at(&file, room.as_mut_slice(), at) {
            Ok(0) => break,
            Ok(count) => at += count as u64,
            Err(Errno::IO) if at > 0 => return Ok(Some(Extent::Hole)),
            Err(Errno::IO) => return Ok(Some(extent_of_refused(&file, len))),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Of a file that can't be read from its beginning: tries pages all over it.
fn extent_of_refused(file: &File, len: u64) -> Extent {
    let mut room = [0; PAGE_BYTES];
    let mut pages = (0..PAGES_TRIED).map(|nth| len / PAGES_TRIED * nth);
    if pages.any(|at| matches!(read_at(file, room.as_mut_slice(), at), Ok(1..))) { Extent::Hole } else { Extent::Whole }
}

/// A disk that refuses what a test wants it to.
#[cfg(test)]
pub(super) mod testing {
    use std::cell::RefCell;
    use std::os::fd::AsRawFd;

    use super::*;

    type Refusal = Box<dyn Fn(&Path, u64) -> bool>;

    thread_local! {
        static REFUSAL: RefCell<Option<Refusal>> = const { RefCell::new(None) };
    }

    /// From now on this thread's reads are refused where this holds, of the file's path and the offset.
    pub(in crate::store) fn refuse_where(refusal: impl Fn(&Path, u64) -> bool + 'static) {
        REFUSAL.with_borrow_mut(|slot| *slot = Some(Box::new(refusal)));
    }

    /// The disk reads again.
    pub(in crate::store) fn heal() {
        REFUSAL.with_borrow_mut(|slot| *slot = None);
    }

    pub(super) fn refuse(file: &File, at: u64) -> rustix::io::Result<()> {
        REFUSAL.with_borrow(|slot| {
            let Some(refusal) = slot else { return Ok(()) };
            let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("an open file has a path");
            if refusal(&path, at) { Err(Errno::IO) } else { Ok(()) }
        })
    }
}
