//! The cursor of one log: up to which seq it is done with, the highest seq it ever held, and how many records it gave up
//! to make room: counted here because the segment is unlinked only after this is on disk. It must work on a full disk, or nothing could be deleted there: the file is written in full when it is made and only ever overwritten in
//! place. Two slots take turns, and the one that was synced last is never touched, so that a torn write leaves it.
//! Moving is not durable until [`Cursor::sync`]: a power cut before it costs duplicates, never a record.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::io::Errno;

use super::disk;
use super::segment::Fields;

const MAGIC: [u8; 8] = *b"fmedcur2";
/// The form before: without `evicted`. It is read, never written.
const MAGIC_BEFORE: [u8; 8] = *b"fmedcur\n";
/// What a slot's checksum covers: magic, generation, acked, highest, evicted.
const COVERED_BYTES: usize = 40;
const COVERED_BYTES_BEFORE: usize = 32;
const CHECKSUM_BYTES: usize = 4;
/// What one move writes.
pub(crate) const CURSOR_BYTES: usize = COVERED_BYTES + CHECKSUM_BYTES;
/// A slot has a block of its own, so that one torn write can't reach both.
const SLOT_BYTES: usize = 4096;
const SLOTS: u64 = 2;

/// What a slot holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// Everything up to this seq is acknowledged or given up.
    pub(super) acked: u64,
    /// No seq above this was ever held.
    pub(super) highest: u64,
    /// Records that were evicted since the log was made, those not counted that were acknowledged before.
    pub(super) evicted: u64,
}

/// The open cursor file of one log.
#[derive(Debug)]
pub(super) struct Cursor {
    file: File,
    position: Position,
    generation: u64,
    /// The slot that is written next; the other is on disk.
    slot: u64,
    dirty: bool,
    written_bytes: u64,
}

impl Cursor {
    /// Opens the file or makes it. The flag tells that neither slot was readable: the position is then unknown and zero.
    pub(super) fn open(path: &Path) -> io::Result<(Self, bool)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let found = newest(&file)?;
        let (generation, slot, position) = found.unwrap_or_default();
        let mut cursor = Self { file, position, generation, slot, dirty: false, written_bytes: 0 };
        if found.is_some() {
            // What was read may never have been synced: keep off it until it is.
            cursor.file.sync_data()?;
            cursor.slot = 1 - slot;
            return Ok((cursor, false));
        }
        cursor.file.write_all_at(&vec![0; SLOT_BYTES * 2], 0)?;
        cursor.put(Position::default())?;
        cursor.file.sync_all()?;
        cursor.slot = 1;
        cursor.dirty = false;
        disk::sync_dir(disk::parent(path))?;
        Ok((cursor, true))
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    #[cfg(test)]
    pub(super) fn slot_offset(&self) -> usize {
        usize::try_from(self.slot).expect("0 or 1") * SLOT_BYTES
    }

    /// Moves, for this process and for the next one unless the power goes.
    pub(super) fn put(&mut self, position: Position) -> io::Result<()> {
        if position == self.position && self.generation > 0 {
            return Ok(());
        }
        let bytes = encode(self.generation + 1, position);
        self.file.write_all_at(&bytes, self.slot * SLOT_BYTES as u64)?;
        self.written_bytes += bytes.len() as u64;
        self.generation += 1;
        self.position = position;
        self.dirty = true;
        Ok(())
    }

    /// Makes the position outlast a power cut. Needed before anything is deleted because of it.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.dirty {
            // Written again because after a sync that failed the kernel takes the page for clean.
            self.file.write_all_at(&encode(self.generation, self.position), self.slot * SLOT_BYTES as u64)?;
            self.file.sync_data()?;
            self.dirty = false;
            self.slot = 1 - self.slot;
        }
        Ok(())
    }
}

/// Reads the position of a cursor file that another process may be writing.
pub(super) fn peek(path: &Path) -> io::Result<Option<Position>> {
    Ok(newest(&File::open(path)?)?.map(|(_, _, position)| position))
}

/// Generation, slot and position of the newest slot that checks.
fn newest(file: &File) -> io::Result<Option<(u64, u64, Position)>> {
    let mut newest = None;
    for slot in 0..SLOTS {
        let mut bytes = [0; CURSOR_BYTES];
        match file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64) {
            // The file was never finished, or its block is dead: the other slot may still tell.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => continue,
            other => other?,
        }
        if let Some((generation, position)) = decode(&bytes).or_else(|| decode_before(&bytes)) {
            newest = newest.max(Some((generation, slot, position)));
        }
    }
    Ok(newest)
}

fn encode(generation: u64, position: Position) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for field in [generation, position.acked, position.highest, position.evicted] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(u64, Position)> {
    let mut fields = checked(bytes, COVERED_BYTES, MAGIC)?;
    let generation = fields.u64()?;
    Some((generation, Position { acked: fields.u64()?, highest: fields.u64()?, evicted: fields.u64()? }))
}

fn decode_before(bytes: &[u8]) -> Option<(u64, Position)> {
    let mut fields = checked(bytes, COVERED_BYTES_BEFORE, MAGIC_BEFORE)?;
    let generation = fields.u64()?;
    Some((generation, Position { acked: fields.u64()?, highest: fields.u64()?, evicted: 0 }))
}

/// The fields behind the magic, if that is the one expected and the checksum behind `covered` bytes is right.
fn checked(bytes: &[u8], covered: usize, magic: [u8; 8]) -> Option<Fields<'_>> {
    let (covered, crc) = bytes.split_at_checked(covered)?;
    let mut fields = Fields(covered);
    let found: [u8; 8] = fields.array()?;
    (found == magic && Fields(crc).u32()? == crc32c::crc32c(covered)).then_some(fields)
}
