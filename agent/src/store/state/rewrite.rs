//! Writes the state anew where sled's file has grown far beyond what is in it: sled gives hardly any room back. First
//! all of it goes into one plain file, the image; then the database is deleted and made from it; then the image goes.
//! While the image is there and whole it is the state, and what lies in the database counts for nothing: so wherever a
//! crash breaks this off, [`finish`] goes on. It must not take what can't be read for what was deleted: a state that is
//! too large is better than one that lacks something.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::{
    DB_FILE, DIR, Db, State, TALLY_KEY, Tally, Trouble, checksum, decode, guarded, held_through, open_file, open_sled,
    sync_names,
};
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
        let image = image_of(self.db.as_ref()?).ok()?;
        let grown = GROWTH * image.len() as u64 + SLED_SEGMENT_BYTES;
        // For a moment there are both.
        if file_bytes <= grown || self.free_bytes() <= self.reserve.bytes_max() + grown {
            return None;
        }
        let image_bytes = image.len() as u64;
        let written = disk::replace_file(&self.root.join(IMAGE_FILE), &image);
        drop(image);
        // Also where that failed: the image may be there, and what is put beside it would be lost to it.
        self.close();
        written.ok()?;
        self.db = Some(self.open_db().ok()?.db);
        let anew_bytes = fs::metadata(self.dir().join(DB_FILE)).ok()?.len();
        self.written_bytes += image_bytes + anew_bytes;
        Some(anew_bytes)
    }
}

/// All entries, the tally among them: of each the lengths of its key and of what is stored, then both.
pub(super) fn image_of(db: &Db) -> Result<Vec<u8>, Trouble> {
    let mut image = Vec::new();
    guarded(|| {
        for item in db.db.iter() {
            let (key, stored) = item?;
            for bytes in [&key, &stored] {
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                image.extend_from_slice(&len.to_le_bytes());
            }
            image.extend_from_slice(&key);
            image.extend_from_slice(&stored);
        }
        Ok(())
    })?;
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
