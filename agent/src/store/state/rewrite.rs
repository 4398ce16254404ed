//! Writes the state anew. First all of it goes into one plain file, the image; then the database is deleted and made
//! from it; then the image goes. While the image is there and whole it is the state, and what lies in the database
//! counts for nothing: so wherever a crash breaks this off, [`finish`] goes on. It must not take what can't be read for
//! what was deleted: a state that is too large is better than one that lacks something.
//!
//! That is done where sled's file has grown far beyond what is in it, as sled gives hardly any room back; and for
//! changes that are many or long at once. Those make sled begin several segments of its log before its file is synced,
//! and where a power cut leaves the head of the last of them and not that of the one before, sled takes its whole log
//! for torn, and empties it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::db::{Change, DB_FILE, Db, Trouble, guarded, held_through, open_file, open_sled, sync_names};
use super::tally::{TALLY_KEY, Tally, checksum, decode};
use super::{DIR, State};
use crate::plain_file;
use crate::store::disk;
use crate::store::segment::Fields;
use crate::store::unreadable::is_refusal;

/// Beside the database.
pub(in crate::store) const IMAGE_FILE: &str = "state.image";
/// The database is left alone up to this part of what the store may take,
const SHARE: u64 = 8;
/// and up to so many times what is in it, and a segment of sled's more.
const GROWTH: u64 = 2;
/// By how much sled lets its file grow at a time.
pub(super) const SLED_SEGMENT_BYTES: u64 = 512 * 1024;
/// One batch.
const ENTRIES_AT_ONCE: usize = 32;
/// Changes of more entries than that, or of more bytes, are many at once. Sled writes up to a whole node of 16 entries
/// for one: 24 of 5,000 B each came to 544,100 B, 240 such that were deleted to 1,185,253 B. The engine puts up to 8,
/// of some 500 B together.
const FEW_ENTRIES: usize = 16;
const FEW_BYTES: usize = 16 * 1024;

/// From this size of sled's file on it is looked whether the state is to be written anew.
pub(super) const fn worth_a_look_bytes(max_bytes: u64) -> u64 {
    max_bytes / SHARE
}

/// Whether the writing anew was begun and broken off.
pub(super) fn is_unfinished(root: &Path) -> bool {
    root.join(IMAGE_FILE).exists()
}

/// Makes the database from the image, if there is one, and gives it: opened once more it might still be locked.
///
/// An image that isn't whole (which takes damage: it gets its name when all of it is on disk) leaves the database as it
/// is, to be judged by what is in it. `dead`: what the disk refuses to read of the image is gone for good.
pub(super) fn finish(root: &Path, dead: bool) -> Result<Option<sled::Db>, Trouble> {
    let path = root.join(IMAGE_FILE);
    let image = match plain_file::read(&path, u64::MAX - 1) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if disk::is_passing(&error) || (is_refusal(&error) && !dead) => return Err(error.into()),
        other => other.unwrap_or_default(),
    };
    // On disk before anything else is put: an image that a power cut brings back would take its place.
    let remove = || Ok(disk::remove_all(&path).and_then(|()| disk::sync_dir(root))?);
    if !is_whole(&image) {
        return remove().map(|()| None);
    }
    let db = make_anew(&root.join(DIR), &image)?;
    held_through(db, |_| remove()).map(|(db, ())| Some(db))
}

impl State {
    /// Writes the state anew if its file has grown too large. What fails is tried again when it has grown further, or
    /// goes on when the database is opened the next time.
    pub(super) fn rewrite_if_overgrown(&mut self) {
        let Some(db) = &self.db else { return };
        let Ok(file_bytes) = db.file.metadata().map(|metadata| metadata.len()) else { return };
        if file_bytes < self.look_at_bytes || db.suspect {
            return;
        }
        self.look_at_bytes = match self.try_rewrite(file_bytes) {
            Some(anew_bytes) => worth_a_look_bytes(self.max_bytes).max(GROWTH * anew_bytes),
            None => file_bytes + SLED_SEGMENT_BYTES,
        };
    }

    /// Gives the size that the file has then; `None` where it was left as it is.
    fn try_rewrite(&mut self, file_bytes: u64) -> Option<u64> {
        let image = image_of(self.db.as_ref()?, &[]).ok()?;
        if file_bytes <= grown_bytes(&image) || !self.has_room_for(&image) {
            return None;
        }
        self.write_anew(&image).ok()?;
        Some(self.db.as_ref()?.file.metadata().ok()?.len())
    }

    /// Writes all changes or none, durably, by way of the image. `false`: nothing was done, because there is no room for
    /// it, or not all that is there can be read.
    pub(super) fn commit_anew(&mut self, changes: &[Change]) -> Result<bool, Trouble> {
        let image = self.db.as_ref().and_then(|db| image_of(db, changes).ok());
        let Some(image) = image.filter(|image| self.has_room_for(image)) else { return Ok(false) };
        self.write_anew(&image)?;
        Ok(true)
    }

    /// Makes an image the state. Done once the image is on disk: where the database can't be made from it the next
    /// opening goes on.
    fn write_anew(&mut self, image: &[u8]) -> Result<(), Trouble> {
        let written = disk::replace_file(&self.root.join(IMAGE_FILE), image);
        // Also where that failed: the image may be there, and what is put beside it would be lost to it.
        self.close();
        written?;
        self.written_bytes += image.len() as u64;
        self.db = self.open_db().ok().map(|opened| opened.db);
        self.written_bytes += fs::metadata(self.dir().join(DB_FILE)).map_or(0, |file| file.len());
        Ok(())
    }

    /// For a moment there are both, the image and the database.
    fn has_room_for(&self, image: &[u8]) -> bool {
        self.free_bytes() > self.reserve.bytes_max() + grown_bytes(image)
    }
}

/// Up to this size a database of what is in the image is left alone.
const fn grown_bytes(image: &[u8]) -> u64 {
    GROWTH * image.len() as u64 + SLED_SEGMENT_BYTES
}

/// Whether that is more than sled may be given at once.
pub(super) fn are_many(changes: &[Change]) -> bool {
    let bytes = |(key, stored): &Change| key.len() + stored.as_ref().map_or(0, Vec::len);
    changes.len() > FEW_ENTRIES || changes.iter().map(bytes).sum::<usize>() > FEW_BYTES
}

/// All entries with the changes in them, the tally among them: of each the lengths of its key and of what is stored,
/// then both.
pub(super) fn image_of(db: &Db, changes: &[Change]) -> Result<Vec<u8>, Trouble> {
    let mut all = BTreeMap::new();
    guarded(|| {
        for item in db.db.iter() {
            let (key, stored) = item?;
            all.insert(key, stored);
        }
        Ok(())
    })?;
    for (key, stored) in changes {
        match stored {
            Some(stored) => drop(all.insert(key.as_str().into(), stored.as_slice().into())),
            None => drop(all.remove(key.as_bytes())),
        }
    }
    let mut image = Vec::new();
    for (key, stored) in &all {
        for bytes in [key, stored] {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            image.extend_from_slice(&len.to_le_bytes());
        }
        image.extend_from_slice(key);
        image.extend_from_slice(stored);
    }
    if is_whole(&image) { Ok(image) } else { Err(Trouble::Unreadable(1)) }
}

/// An image's entries, as they are stored. It ends where the bytes make no sense.
struct Image<'a>(Fields<'a>);

impl<'a> Iterator for Image<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [key_len, stored_len] = [self.0.u32()?, self.0.u32()?];
        Some((self.0.bytes(key_len)?, self.0.bytes(stored_len)?))
    }
}

/// Whether it holds all that its tally says.
fn is_whole(image: &[u8]) -> bool {
    let (mut told, mut checksums) = (None, BTreeMap::new());
    for (key, stored) in Image(Fields(image)) {
        let Some((key, value)) = decode(key, stored) else { return false };
        if key == TALLY_KEY {
            told = Tally::decode(&value);
        } else {
            let checksum = checksum(key.as_bytes(), &value);
            checksums.insert(key, checksum);
        }
    }
    told.is_some_and(|told| told == Tally::of(&checksums, told.generation))
}

/// A database of an image's entries, on disk.
fn make_anew(dir: &Path, image: &[u8]) -> Result<sled::Db, Trouble> {
    disk::remove_all(dir)?;
    disk::make_dir(dir)?;
    let fill = |db: &sled::Db| {
        let mut entries = Image(Fields(image)).peekable();
        while entries.peek().is_some() {
            let mut batch = sled::Batch::default();
            entries.by_ref().take(ENTRIES_AT_ONCE).for_each(|(key, stored)| batch.insert(key, stored));
            db.apply_batch(batch)?;
        }
        db.flush()?;
        Ok(())
    };
    let (db, ()) = held_through(open_sled(dir)?, |db| {
        guarded(|| fill(db))?;
        open_file(dir)?.sync_data()?;
        Ok(sync_names(dir)?)
    })?;
    Ok(db)
}
