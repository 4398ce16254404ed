//! The number of the state's last durable write, in a file beside sled's, by which a state that has fallen back to an
//! older one is noticed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::DIR;
use crate::store::disk;
use crate::store::segment::Fields;
use crate::store::unreadable;

pub(in crate::store) const GENERATION_FILE: &str = "state.generation";
/// The number and its CRC32C.
const GENERATION_BYTES: usize = 12;

/// The number of the last write that was durable, in its file. It is written after the write and synced
/// never: it may lag behind, and what it does say is certain.
#[derive(Debug)]
pub(super) struct Generation {
    file: Option<File>,
    pub(super) last: Last,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Known(u64),
    /// There is no file: as before the first write.
    Missing,
    Damaged,
}

impl Generation {
    /// Reads the file or makes it. It is a guard and no more: where it can't be had, the state does without.
    pub(super) fn open(path: &Path, dead: bool) -> io::Result<Self> {
        let make = || disk::make_file(path, &Self::encode(0)).ok();
        Ok(match Self::read(path) {
            Ok((file, Some(last))) => Self { file: Some(file), last: Last::Known(last) },
            Err(error) if unreadable::is_refusal(&error) && !dead => return Err(error),
            Err(error) if disk::is_passing(&error) => Self { file: None, last: Last::Known(0) },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self { file: make(), last: Last::Missing },
            Ok((_, None)) | Err(_) => Self { file: make(), last: Last::Damaged },
        })
    }

    fn read(path: &Path) -> io::Result<(File, Option<u64>)> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut bytes = [0; GENERATION_BYTES];
        let read = unreadable::read_at(&file, bytes.as_mut_slice(), 0)?;
        let mut fields = Fields(&bytes);
        let last = match (read, fields.u64(), fields.u32()) {
            (GENERATION_BYTES, Some(last), Some(crc)) if crc == crc32c::crc32c(&last.to_le_bytes()) => Some(last),
            _ => None,
        };
        Ok((file, last))
    }

    pub(super) fn put(&mut self, last: u64) {
        self.last = Last::Known(last);
        if let Some(file) = &self.file {
            // The write that it stands for is done; without this a loss of it would only go unnoticed.
            let _ = file.write_all_at(&Self::encode(last), 0);
        }
    }

    fn encode(last: u64) -> Vec<u8> {
        let last = last.to_le_bytes();
        [&last[..], &crc32c::crc32c(&last).to_le_bytes()].concat()
    }
}

/// Whether anything was ever written to the state below `root`, and so to the store.
pub(in crate::store) fn was_used(root: &Path) -> bool {
    match Generation::read(&root.join(GENERATION_FILE)) {
        Ok((_, last)) => last != Some(0),
        // It is made after all else: where the state is without it, it was taken away.
        Err(error) => error.kind() != io::ErrorKind::NotFound || root.join(DIR).exists(),
    }
}
