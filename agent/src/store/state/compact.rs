//! Writes the state anew where sled's file has grown far beyond what is in it: sled gives no room back. The new one is
//! written beside the old one, checked, and on disk before it takes its place by name; the old one goes last. So at
//! every step one of the two is whole, and both hold the same: [`settle`] goes on from wherever a crash has left it. It
//! must not give up what it can't write anew: a state that is too large is better than none.

use std::fs;
use std::io;
use std::path::Path;

use super::{DB_FILE, DIR, Entries, State, Trouble, encode, guarded, load, open_file, open_sled, sync_names};
use crate::store::disk;

/// Where the new one is written, and where the old one is for a moment.
const NEW_DIR: &str = "state.new";
const OLD_DIR: &str = "state.old";
/// The file is left alone up to this part of what the store may take,
const SHARE: u64 = 8;
/// and up to so many times what is in it, and a segment of sled's more.
const GROWTH: u64 = 2;
const SLED_SEGMENT_BYTES: u64 = 512 * 1024;
/// One batch.
const ENTRIES_AT_ONCE: usize = 64;

/// From this size of sled's file on it is looked whether it is to be written anew.
pub(super) const fn worth_a_look_bytes(max_bytes: u64) -> u64 {
    max_bytes / SHARE
}

/// Puts the names right after a crash between any two steps.
pub(super) fn settle(root: &Path) -> io::Result<()> {
    let (dir, old, new) = (root.join(DIR), root.join(OLD_DIR), root.join(NEW_DIR));
    if old.exists() {
        if !dir.exists() {
            fs::rename(&old, &dir)?;
        }
        // Before what may be the only one that the disk has by this name is deleted.
        disk::sync_dir(root)?;
    }
    // What doesn't go takes room, and the next opening tries again.
    let _ = disk::remove_all(&old).and(disk::remove_all(&new));
    Ok(())
}

impl State {
    /// Writes the state anew if its file has grown too large. A failure leaves it as it was.
    pub(super) fn compact_if_overgrown(&mut self) {
        let Some(db) = &self.db else { return };
        let Ok(file_bytes) = db.file.metadata().map(|metadata| metadata.len()) else { return };
        if file_bytes < self.look_at_bytes || db.suspect {
            return;
        }
        let Ok((entries, 0)) = guarded(|| Ok(load::all(&db.db))) else { return };
        let live: usize = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        let grown = GROWTH * live as u64 + SLED_SEGMENT_BYTES;
        // For a moment there are both.
        if file_bytes > grown && self.free_bytes() > self.reserve_bytes + grown {
            self.close();
            // The database is opened anew, whichever it is, by the next call.
            if self.swap_for(&entries).is_err() {
                let _ = disk::remove_all(&self.root.join(NEW_DIR));
            }
        }
        let file_bytes = fs::metadata(self.dir().join(DB_FILE)).map_or(file_bytes, |metadata| metadata.len());
        // Where that was of no use it is not tried again before the file has grown by as much.
        self.look_at_bytes = worth_a_look_bytes(self.max_bytes).max(GROWTH * file_bytes);
    }

    fn swap_for(&mut self, entries: &Entries) -> Result<(), Trouble> {
        let (dir, new) = (self.dir(), self.root.join(NEW_DIR));
        let old = self.root.join(OLD_DIR);
        disk::remove_all(&new)?;
        self.written_bytes += write_anew(&new, entries)?;
        fs::rename(&dir, &old)?;
        if let Err(error) = fs::rename(&new, &dir) {
            fs::rename(&old, &dir)?;
            return Err(error.into());
        }
        disk::sync_dir(&self.root)?;
        Ok(disk::remove_all(&old)?)
    }
}

/// Makes a database with these entries, the tally among them; gives how many bytes that took.
fn write_anew(dir: &Path, entries: &Entries) -> Result<u64, Trouble> {
    disk::make_dir(dir)?;
    let db = open_sled(dir)?;
    let wanted: Vec<_> = entries.iter().collect();
    let written = guarded(|| {
        for some in wanted.chunks(ENTRIES_AT_ONCE) {
            let mut batch = sled::Batch::default();
            some.iter().for_each(|(key, value)| batch.insert(key.as_bytes(), encode(key, value)));
            db.apply_batch(batch)?;
        }
        db.flush()?;
        Ok(load::all(&db))
    });
    let written = written.and_then(|written| {
        let file = open_file(dir)?;
        file.sync_data()?;
        sync_names(dir)?;
        Ok((written, file.metadata()?.len()))
    });
    guarded(move || {
        drop(db);
        Ok(())
    })?;
    let ((found, unreadable), bytes) = written?;
    if unreadable > 0 || found != *entries {
        return Err(Trouble::Unreadable(unreadable.max(1)));
    }
    Ok(bytes)
}
