//! What the parts of the store share when they touch files: faults that say what was attempted on what, and the
//! directory entries that a power cut would lose. It holds no state and knows nothing of records.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::io::Errno;

use crate::engine::io::StoreFault;

/// Turns a system error into a fault that names the attempt.
pub(super) trait Attempt<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, StoreFault>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, StoreFault> {
        self.map_err(|error| fault(what(), &error))
    }
}

impl<T> Attempt<T> for rustix::io::Result<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, StoreFault> {
        self.map_err(|errno| fault(what(), &errno.into()))
    }
}

/// A full disk is told apart: it is the one failure that the engine can end by giving something up.
pub(super) fn fault(what: String, error: &io::Error) -> StoreFault {
    if is_no_space(error) { StoreFault::NoSpace { what } } else { StoreFault::Io { what: format!("{what}: {error}") } }
}

pub(super) fn is_no_space(error: &io::Error) -> bool {
    // The kinds too: sled hands its errors on as copies, without the number.
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        || matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT))
}

/// Makes the directory and those above it, for the owner alone, each of them lasting through a power cut.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path);
    make_dir(parent)?;
    DirBuilder::new().mode(0o700).create(path)?;
    sync_dir(parent)
}

/// The directory that holds `path`; "." for a bare name.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// A file that was made, renamed or deleted is so for good only once its directory is on disk (fsync(2)).
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Deletes a file; that it was gone already is as good.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Bytes of the files in `path`, two levels deep (sled keeps one directory in its own). What vanishes meanwhile counts
/// as nothing.
pub(super) fn tree_bytes(path: &Path) -> u64 {
    files_in(path).map(|entry| if entry.path().is_dir() { dir_bytes(&entry.path()) } else { file_bytes(&entry) }).sum()
}

fn dir_bytes(path: &Path) -> u64 {
    files_in(path).map(|entry| file_bytes(&entry)).sum()
}

fn files_in(path: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(path).into_iter().flatten().flatten()
}

fn file_bytes(entry: &fs::DirEntry) -> u64 {
    entry.metadata().map_or(0, |metadata| metadata.len())
}
