//! The cursor of one log: up to which seq it is done with, the highest seq it ever held, how many records it gave up to
//! make room (counted here because the segment is unlinked only after this is on disk), and how many it should hold. It
//! must work on a full disk, or nothing could be deleted there: the file is written in full when it is made and only
//! ever overwritten in place. Two slots take turns, and the one that was synced last is never touched, so that a torn
//! write leaves it. Moving is not durable until [`Cursor::sync`]: a power cut before it costs duplicates, never a
//! record.

use std::cmp::Ordering;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;

use super::disk;
use super::segment::Fields;
use super::unreadable;
use crate::plain_file;

const MAGIC: [u8; 8] = *b"fmedcur4";
/// What a slot's checksum covers: magic, generation, acked, highest, evicted, the mark's live, nth, segment and end.
const COVERED_BYTES: usize = 68;
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
    /// What must be found when the log is opened again; `None` if that isn't known.
    pub(super) mark: Option<Mark>,
}

/// A count of what was durable. Records that are missing later are known by it, wherever they lay and whatever took
/// them: the end of the newest segment leaves no other trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    /// Durable records above `acked`.
    pub(super) live: u64,
    /// The nth that follows the last of them.
    pub(super) nth: u32,
    /// The first seq of the segment in which that would lie, and how much of it was durable: what lies behind this is
    /// not in the count.
    pub(super) segment: u64,
    pub(super) end: u64,
}

impl Mark {
    /// How much of a segment it counts.
    pub(super) fn end_in(&self, segment: u64) -> u64 {
        match self.segment.cmp(&segment) {
            Ordering::Less => 0,
            Ordering::Equal => self.end,
            Ordering::Greater => u64::MAX,
        }
    }
}

/// What of a cursor there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Whole,
    /// One slot, and it may be the older one.
    Half,
    Nothing,
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
    /// Opens the file or makes it, with the position to `begin` with. `dead` is for [`newest`].
    pub(super) fn open(path: &Path, begin: Position, dead: bool) -> io::Result<(Self, Found)> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Self::make(path, begin)?, Found::Nothing));
            }
            other => other?,
        };
        let Some(newest) = newest(&file, dead)? else { return Ok((Self::make(path, begin)?, Found::Nothing)) };
        let Newest { generation, slot, position, alone } = newest;
        // What was read may never have been synced: keep off it until it is. A disk that refuses even that, where it is
        // to be waited for no more, leaves no cursor to go on with.
        let synced = file.sync_data();
        if dead { synced.map_err(io::Error::other) } else { synced }?;
        let mut cursor = Self { file, position, generation, slot: 1 - slot, dirty: false, written_bytes: 0 };
        if alone {
            // The slot that is lost may have been the newer one, and what was acknowledged since would pass for
            // missing.
            cursor.position.mark = None;
            cursor.dirty = true;
            cursor.generation += 1;
            cursor.sync()?;
        }
        Ok((cursor, if alone { Found::Half } else { Found::Whole }))
    }

    fn make(path: &Path, begin: Position) -> io::Result<Self> {
        // Both slots hold something from the beginning: one that holds nothing is damaged.
        let mut bytes = encode(1, begin);
        bytes.resize(SLOT_BYTES, 0);
        bytes.extend(encode(0, begin));
        bytes.resize(SLOT_BYTES * 2, 0);
        let file = disk::make_file(path, &bytes)?;
        let written_bytes = CURSOR_BYTES as u64;
        Ok(Self { file, position: begin, generation: 1, slot: 1, dirty: false, written_bytes })
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
        if position == self.position {
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

/// Reads the position of a cursor file that another process may be writing; `None` where there is none that checks.
pub(super) fn peek(path: &Path) -> io::Result<Option<Position>> {
    match plain_file::open(path) {
        Err(_) if fs::metadata(path).is_ok_and(|found| !found.is_file()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => Ok(newest(&other?, true)?.map(|newest| newest.position)),
    }
}

/// The newest slot that checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Newest {
    generation: u64,
    slot: u64,
    position: Position,
    /// The other one doesn't check.
    alone: bool,
}

/// What the disk refuses to read fails, or is damage if it is known to be `dead`.
fn newest(file: &File, dead: bool) -> io::Result<Option<Newest>> {
    let mut newest = None;
    let mut damaged = false;
    for slot in 0..SLOTS {
        let mut bytes = [0; CURSOR_BYTES];
        match unreadable::read_at(file, bytes.as_mut_slice(), slot * SLOT_BYTES as u64) {
            Ok(CURSOR_BYTES) => {}
            // The file was cut, or its block is dead: the other slot may still tell.
            Ok(_) => damaged = true,
            Err(Errno::IO) if dead => damaged = true,
            Err(error) => return Err(error.into()),
        }
        match decode(&bytes) {
            Some((generation, position)) => {
                newest = newest.max(Some(Newest { generation, slot, position, alone: false }));
            }
            None => damaged = true,
        }
    }
    Ok(newest.map(|newest| Newest { alone: damaged, ..newest }))
}

fn encode(generation: u64, position: Position) -> Vec<u8> {
    let mark = position.mark.unwrap_or(NO_MARK);
    let mut bytes = MAGIC.to_vec();
    for field in [generation, position.acked, position.highest, position.evicted, mark.live] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(&mark.nth.to_le_bytes());
    for field in [mark.segment, mark.end] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// Written where there is no mark.
const NO_MARK: Mark = Mark { live: u64::MAX, nth: 0, segment: u64::MAX, end: 0 };

/// What a slot holds, if its magic is the one expected and its checksum is right.
fn decode(bytes: &[u8]) -> Option<(u64, Position)> {
    let (covered, crc) = bytes.split_at_checked(COVERED_BYTES)?;
    let mut fields = Fields(covered);
    let magic: [u8; 8] = fields.array()?;
    if magic != MAGIC || Fields(crc).u32()? != crc32c::crc32c(covered) {
        return None;
    }
    let generation = fields.u64()?;
    let (acked, highest, evicted) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let mark = Mark { live: fields.u64()?, nth: fields.u32()?, segment: fields.u64()?, end: fields.u64()? };
    Some((generation, Position { acked, highest, evicted, mark: (mark != NO_MARK).then_some(mark) }))
}
