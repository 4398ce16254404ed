//! A copy of sled's files for as long as it opens them. When sled is opened it takes its log's segments that are free
//! by then, and overwrites them; what was in them is only in the snapshot that it has just written, whose name it
//! doesn't sync. After a power cut in between neither may be there, and sled can't read what is left. Where that
//! happened, the copy is the state. One segment is never free: of a small database none is made.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::db::DB_FILE;
use super::rewrite::SLED_SEGMENT_BYTES;
use super::room;
use crate::store::disk;

/// What the copy is called while it is made, while it counts, and while it is deleted.
const NAMES: [&str; 3] = ["state.copying", KEPT_DIR, "state.outdated"];
/// Where it is, it is the state.
pub(in crate::store) const KEPT_DIR: &str = "state.kept";

/// So much is copied at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// The copy, and what it is of.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    dir: &'a Path,
}

impl<'a> Kept<'a> {
    /// Puts the copy in the place of what a power cut has left of an earlier opening.
    pub(super) fn restore(dir: &'a Path) -> io::Result<()> {
        let [copying, kept, outdated] = paths(dir);
        if kept.exists() {
            disk::remove_all(dir)?;
            fs::rename(&kept, dir)?;
            disk::sync_dir(disk::parent(dir))?;
        }
        disk::remove_all(&copying)?;
        disk::remove_all(&outdated)
    }

    /// Makes the copy durable; `None` where there is no need of it, or no room for it, or it can't be made.
    pub(super) fn make(dir: &'a Path, spare_bytes: u64) -> io::Result<Option<Self>> {
        let bytes = fs::metadata(dir.join(DB_FILE)).map_or(0, |file| file.len());
        let free = room(dir).map_or(0, |room| room.free);
        if bytes <= SLED_SEGMENT_BYTES || free < spare_bytes.saturating_add(disk::tree_bytes(dir)) {
            return Ok(None);
        }
        let [copying, kept, _] = paths(dir);
        let copied = copy(dir, &copying).and_then(|()| fs::rename(&copying, &kept));
        if copied.and_then(|()| disk::sync_dir(disk::parent(dir))).is_err() {
            // It must not count for the next opening, which would find what is put after this one gone.
            disk::remove_all(&kept)?;
            disk::remove_all(&copying)?;
            return Ok(None);
        }
        Ok(Some(Self { dir }))
    }

    /// Sled's files are as they should be, and on disk.
    pub(super) fn forget(self) -> io::Result<()> {
        let [_, kept, outdated] = paths(self.dir);
        fs::rename(kept, &outdated)?;
        disk::sync_dir(disk::parent(self.dir))?;
        disk::remove_all(&outdated)
    }
}

fn paths(dir: &Path) -> [PathBuf; 3] {
    NAMES.map(|name| disk::parent(dir).join(name))
}

/// Copies files, and directories of files.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    disk::make_dir(to)?;
    for entry in fs::read_dir(from)? {
        let (from, to) = (entry?.path(), to.to_owned());
        let Some(name) = from.file_name() else { continue };
        let to = to.join(name);
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            copy_file(&File::open(&from)?, &File::create(&to)?)?;
        }
    }
    disk::sync_dir(to)
}

/// By plain writes, whatever file system it is, and however large.
fn copy_file(mut from: &File, mut to: &File) -> io::Result<()> {
    let mut bytes = vec![0; PIECE_BYTES];
    loop {
        let read = from.read(&mut bytes)?;
        if read == 0 {
            return to.sync_all();
        }
        to.write_all(bytes.get(..read).unwrap_or_default())?;
    }
}
