//! Reads the keyed state of a store from the outside, for a human: also of one in use, and of a card that can only be
//! read. sled writes to what it opens, so what is opened is a copy, in a directory that is made for it and is gone
//! afterwards. It must not touch the store. What its owner writes meanwhile may be missing in the copy.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::disk::{self, Attempt};
use super::state::{self, Entries, State};
use super::unreadable::Opening;
use crate::engine::io::{StoreFault, StoreLoss};

/// What the copy may take, and what is held back of that.
const COPY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// All entries of the state below `root` that can be read, and what of it is lost.
pub(super) fn entries(root: &Path) -> Result<(Entries, Vec<StoreLoss>), StoreFault> {
    let scratch = Scratch::make()?;
    copy(root, &scratch.0).attempt(|| format!("copy the state in {} to {}", root.display(), scratch.0.display()))?;
    let mut opening = Opening::default();
    let entries = State::read_copy(&scratch.0, COPY_BYTES_MAX, &mut opening)?;
    Ok((entries, opening.losses))
}

fn copy(root: &Path, to: &Path) -> io::Result<()> {
    let kept = root.join(state::KEPT_DIR).exists();
    let dir = if kept { state::KEPT_DIR } else { state::DIR };
    let parts = [dir, state::GENERATION_FILE, state::IMAGE_FILE];
    let files: Vec<_> = parts.iter().flat_map(|part| disk::files_below(&root.join(part), disk::DEPTH_MAX)).collect();
    if files.is_empty() {
        fs::read_dir(root.join(dir))?;
        return Err(io::Error::other("there is nothing in it"));
    }
    let bytes = files.iter().map(|(_, bytes)| bytes).sum::<u64>();
    if bytes > COPY_BYTES_MAX {
        return Err(io::Error::other(format!("it takes {bytes} B, and no more than {COPY_BYTES_MAX} B are copied")));
    }
    for (file, _) in files {
        let Ok(name) = file.strip_prefix(root) else { continue };
        let copied = to.join(name);
        fs::create_dir_all(disk::parent(&copied))?;
        match fs::copy(&file, &copied) {
            // Its owner has deleted it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => drop(other?),
        }
    }
    if kept { fs::rename(to.join(dir), to.join(state::DIR)) } else { Ok(()) }
}

/// A directory of our own; gone when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self, StoreFault> {
        let path = std::env::temp_dir().join(format!("fieldmedic-state-{:016x}", fastrand::u64(..)));
        // One that is there already is somebody else's.
        DirBuilder::new().mode(0o700).create(&path).attempt(|| format!("make directory {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays of a copy is no harm.
        let _ = disk::remove_all(&self.0);
    }
}
