//! What the parts of the store share when they touch files: faults that say what was attempted on what, the directory
//! entries that a power cut would lose, and how what is in the way is set aside. It holds no state and knows nothing of
//! records.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::Access;
use rustix::io::Errno;

use super::unreadable::Opening;
use crate::engine::io::{StoreFault, StoreLoss};
use crate::engine::time::Unix;

/// Names that are tried for what is set aside: what belongs to another user can keep one occupied for good.
const ASIDE_NAMES_MAX: u32 = 3;
/// What the names of what is set aside have in them.
const ASIDE_SUFFIXES: [&str; 2] = [".damaged", ".newer"];
/// How deep the store's directories lie in one another.
pub(super) const DEPTH_MAX: u32 = 4;
/// How much is read back at once to be written again.
const REWRITE_BYTES: usize = 64 * 1024;
const RIGHTS_FILE: u32 = 0o600;
const RIGHTS_DIR: u32 = 0o700;

/// A file or a directory that is known by more than its name.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Place {
    pub(super) fn of(path: PathBuf) -> Option<Self> {
        let found = fs::metadata(&path).ok()?;
        Some(Self { path, device: found.dev(), inode: found.ino() })
    }

    /// What can't be looked at, and isn't gone, may be there all the same.
    pub(super) fn is_there(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(found) => (found.dev(), found.ino()) == (self.device, self.inode),
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }
}

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

/// A full disk is told apart, and a limit of files' sizes (RLIMIT_FSIZE) with it: it is the one failure that the engine
/// can end by giving something up.
pub(super) fn fault(what: String, error: &io::Error) -> StoreFault {
    if is_no_space(error) { StoreFault::NoSpace { what } } else { StoreFault::Io { what: format!("{what}: {error}") } }
}

pub(super) fn is_no_space(error: &io::Error) -> bool {
    // The kinds too: sled hands its errors on as copies, without the number.
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
        || matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG))
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

/// Whether an error tells of the system's state and not of the file's: it may pass, and nothing is to be given up for
/// it.
pub(super) fn is_passing(error: &io::Error) -> bool {
    is_no_space(error)
        || matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::OutOfMemory)
        || matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR))
}

/// Makes a directory of the store's; what is there and can't be used as one is set aside, which is told.
pub(super) fn claim_dir(path: &Path, aside_bytes_max: u64, opening: &mut Opening) -> io::Result<()> {
    let usable = || -> io::Result<()> {
        fs::read_dir(path)?;
        Ok(rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)?)
    };
    match usable() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if !opening.is_passing(path, &error) => {
            opening.losses.push(set_aside(path, aside_bytes_max, &error.to_string())?);
        }
        other => return other,
    }
    make_dir(path)
}

/// Renames what can't be used to NAME.damaged, in place of what was called so before, and cuts it to `bytes_max`.
pub(super) fn set_aside(path: &Path, bytes_max: u64, why: &str) -> io::Result<StoreLoss> {
    let mut nth = 1;
    let aside = loop {
        let aside = aside_name(path, nth);
        match remove_all(&aside).and_then(|()| fs::rename(path, &aside)) {
            Ok(()) => break aside,
            Err(error) if nth == ASIDE_NAMES_MAX => return Err(error),
            Err(_) => nth += 1,
        }
    };
    sync_dir(parent(path))?;
    shorten(&aside, bytes_max);
    let what = format!("{}: {why}; set aside as {}", path.display(), aside.display());
    Ok(StoreLoss { what, records: 0, state_lost: false })
}

/// Bytes of what was set aside in place of `path`.
pub(super) fn aside_bytes(path: &Path) -> u64 {
    (1..=ASIDE_NAMES_MAX).map(|nth| tree_bytes(&aside_name(path, nth))).sum()
}

/// Deletes what was set aside below a directory, the oldest first and what a newer agent wrote last, until the rest
/// takes no more than `bytes_max`. Evidence that is a second name of a segment counts in full: it takes no room yet,
/// and does so as soon as the segment is sent, long before the next start looks.
pub(super) fn bound_aside(root: &Path, bytes_max: u64) {
    let mut aside = Vec::new();
    find_aside(root, DEPTH_MAX, &mut aside);
    let mut taken: u64 = aside.iter().map(|(_, _, bytes)| bytes).sum();
    aside.sort_unstable_by_key(|(path, changed, _)| (is_newer(path), *changed));
    for (path, _, bytes) in aside {
        // What belongs to another user may not let itself be deleted.
        if taken > bytes_max && remove_all(&path).is_ok() {
            taken = taken.saturating_sub(bytes);
        }
    }
}

/// What was set aside, when it was last changed, and its bytes.
fn find_aside(dir: &Path, depth: u32, found: &mut Vec<(PathBuf, SystemTime, u64)>) {
    for path in files_in(dir).map(|entry| entry.path()) {
        if is_aside(&path) {
            let changed = fs::symlink_metadata(&path).and_then(|metadata| metadata.modified());
            let bytes = tree_bytes(&path);
            found.push((path, changed.unwrap_or(SystemTime::UNIX_EPOCH), bytes));
        } else if depth > 0 && path.is_dir() {
            find_aside(&path, depth - 1, found);
        }
    }
}

fn is_newer(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "newer")
}

/// Whether it is what was set aside, or lies beside a log for a newer agent.
pub(super) fn is_aside(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ASIDE_SUFFIXES.iter().any(|suffix| name.contains(suffix))
}

fn aside_name(path: &Path, nth: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    if nth > 1 {
        name.push(format!(".{nth}"));
    }
    PathBuf::from(name)
}

/// Cuts a file, or the files in a directory in the order of their names, so that all take no more than `bytes_max`.
/// What can't be cut is left: it belongs to another user.
fn shorten(path: &Path, bytes_max: u64) {
    let mut left = bytes_max;
    for (file, len) in files_below(path, DEPTH_MAX) {
        let keep = len.min(left);
        left -= keep;
        if keep < len {
            let _ = OpenOptions::new().write(true).open(file).and_then(|file| file.set_len(keep));
        }
    }
}

/// The files of a tree and their sizes, or the one file that `path` is.
pub(super) fn files_below(path: &Path, depth: u32) -> Vec<(PathBuf, u64)> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => vec![(path.to_owned(), metadata.len())],
        Ok(metadata) if metadata.is_dir() && depth > 0 => {
            let mut paths: Vec<_> = files_in(path).map(|entry| entry.path()).collect();
            paths.sort_unstable();
            paths.iter().flat_map(|path| files_below(path, depth - 1)).collect()
        }
        _ => Vec::new(),
    }
}

/// When any of a tree's files was last written, by the clock of then.
pub(super) fn last_written(path: &Path) -> Option<Unix> {
    let modified = |(file, _): (PathBuf, u64)| {
        let metadata = fs::symlink_metadata(file).ok()?;
        Some(Unix(metadata.mtime() * 1_000 + metadata.mtime_nsec() / 1_000_000))
    };
    files_below(path, DEPTH_MAX).into_iter().filter_map(modified).max()
}

/// Gives the owner back the rights that the store's files are made with, where we are the owner.
pub(super) fn mend_rights(path: &Path) {
    mend_below(path, rustix::process::geteuid().as_raw(), DEPTH_MAX);
}

fn mend_below(path: &Path, uid: u32, depth: u32) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    let needed = if metadata.is_dir() { RIGHTS_DIR } else { RIGHTS_FILE };
    let mode = metadata.mode();
    if metadata.uid() == uid && !metadata.is_symlink() && mode & needed != needed {
        // If it can't be mended it will be met, and told of, by whoever opens it.
        let _ = fs::set_permissions(path, Permissions::from_mode(mode | needed));
    }
    if metadata.is_dir() && depth > 0 {
        for entry in files_in(path) {
            mend_below(&entry.path(), uid, depth - 1);
        }
    }
}

/// Makes a file with these bytes, for the owner alone; a power cut leaves all of it or none, so that a file which is
/// there and can't be read was damaged. What is in its place, whatever it is, goes first.
pub(super) fn make_file(path: &Path, bytes: &[u8]) -> io::Result<File> {
    remove_all(path)?;
    replace_file(path, bytes)
}

/// The same over a file that is there: a power cut leaves the old one or the new one.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<File> {
    // Behind the whole name: two files that differ only in what comes last are written apart.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    remove_all(&new)?;
    let file = write_new(&new, bytes).and_then(|file| fs::rename(&new, path).map(|()| file));
    if file.is_err() {
        // On a full disk half of it would only take room.
        let _ = remove(&new);
    }
    sync_dir(parent(path))?;
    file
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(RIGHTS_FILE).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// Reads bytes back and writes them where they are, so that the next sync takes them up again.
pub(super) fn rewrite(file: &File, from: u64, to: u64) -> io::Result<()> {
    let mut chunk = vec![0; REWRITE_BYTES];
    let mut at = from;
    while at < to {
        let len = usize::try_from(to - at).map_or(chunk.len(), |left| left.min(chunk.len()));
        let bytes = chunk.get_mut(..len).unwrap_or_default();
        file.read_exact_at(bytes, at)?;
        file.write_all_at(bytes, at)?;
        at += len as u64;
    }
    Ok(())
}

/// The directory that holds `path`; "." for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// A file that was made, renamed or deleted is so for good only once its directory is on disk (fsync(2)).
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Deletes a file; that it was gone already is as good.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Deletes a file or a whole directory; that it was gone already is as good.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether a file has a second name (link(2)): to delete one frees nothing.
pub(super) fn has_other_names(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() > 1)
}

/// Bytes of the files below `path`. What vanishes meanwhile counts as nothing.
pub(super) fn tree_bytes(path: &Path) -> u64 {
    files_below(path, DEPTH_MAX).iter().map(|(_, len)| len).sum()
}

pub(super) fn files_in(path: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(path).into_iter().flatten().flatten()
}
