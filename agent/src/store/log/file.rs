//! The file of the newest segment, as it is written. It goes into room that was made ready ahead (fallocate(2)): to grow
//! a file with each commit costs a journaling file system several blocks of its own each time. And where it is little it
//! goes past the page cache (`O_DIRECT`, open(2)), which writes the sectors that it takes and not whole pages. Neither
//! can be had on every file system, and without them it is written all the same. Room reads as zeros, in which no data
//! ends. It must not know what the bytes mean.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// Room is made for this part of a segment at once: a log has that much on the disk beyond what it counts. The engine
/// leaves it to the logs, with what else files take beside what is in them.
const STEPS_PER_SEGMENT: u64 = 16;
/// What file systems mostly allocate in.
const BLOCK_BYTES: u64 = 4096;
/// What most disks write at least. Past the page cache the offset, the length and the memory are multiples of it; where
/// the disk's sectors are larger the kernel refuses.
const SECTOR_BYTES: usize = 512;
/// What is more fills pages of its own, and is soon read again: it stays in the page cache.
const DIRECT_BYTES_MAX: usize = 16 * 1024;

/// The open file.
#[derive(Debug)]
pub(super) struct SegmentFile {
    file: File,
    /// Where the data ends.
    written: u64,
    /// Where the room ends.
    len: u64,
    /// Most that a segment is meant to take.
    segment_bytes: u64,
    /// The file system makes room ahead.
    makes_room: bool,
    /// It writes past the page cache.
    is_direct: bool,
    /// The data in the last sector, if that isn't full: it is written again with what follows.
    begun: Vec<u8>,
}

impl SegmentFile {
    /// Makes the file.
    pub(super) fn create(path: &Path, segment_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self::new(file, 0, segment_bytes))
    }

    /// Goes on behind the first `written` bytes of a file. What follows them is room, or is cut off if it is not.
    pub(super) fn resume(file: File, written: u64, data_end: u64, segment_bytes: u64) -> io::Result<Self> {
        let mut resumed = Self::new(file, written, segment_bytes);
        let len = resumed.file.metadata()?.len();
        // More room than it makes itself is none of its making, and would be looked through at each start.
        if written < data_end || len > resumed.room_for(written) {
            resumed.file.set_len(written)?;
            resumed.file.sync_data()?;
        } else {
            resumed.len = len;
        }
        resumed.begun.resize(sector_part(written), 0);
        resumed.file.read_exact_at(&mut resumed.begun, written - sector_part(written) as u64)?;
        Ok(resumed)
    }

    fn new(file: File, written: u64, segment_bytes: u64) -> Self {
        Self { file, written, len: written, segment_bytes, makes_room: true, is_direct: true, begun: Vec::new() }
    }

    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Writes behind what is there; fails as a whole.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.written + bytes.len() as u64;
        self.make_room(end);
        if let Err(error) = self.write(bytes) {
            // What was written of it only takes room. If even this fails the next write goes over it.
            self.give_room_back();
            return Err(error);
        }
        let part = sector_part(end);
        if let Some(rest) = bytes.len().checked_sub(part) {
            self.begun.clear();
            self.begun.extend_from_slice(bytes.get(rest..).unwrap_or_default());
        } else {
            self.begun.extend_from_slice(bytes);
        }
        self.written = end;
        self.len = self.len.max(end);
        Ok(())
    }

    /// Cuts the room off: nothing more will be written.
    pub(super) fn give_room_back(&mut self) {
        // What stays takes a little of the disk, and is no damage.
        if self.file.set_len(self.written).is_ok() {
            self.len = self.written;
        }
    }

    /// Sees to it that there is room up to `end`, where the file system can. Else the write finds out.
    fn make_room(&mut self, end: u64) {
        if !self.makes_room || end <= self.len {
            return;
        }
        let len = self.room_for(end);
        match fallocate(&self.file, FallocateFlags::empty(), self.len, len - self.len) {
            Ok(()) => self.len = len,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.makes_room = false,
            Err(_) => {}
        }
    }

    /// Where room ends that is made for data up to `end`.
    fn room_for(&self, end: u64) -> u64 {
        let step = (self.segment_bytes / STEPS_PER_SEGMENT).max(1).next_multiple_of(BLOCK_BYTES);
        let most = self.segment_bytes.max(end).next_multiple_of(BLOCK_BYTES);
        end.next_multiple_of(step).min(most)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_direct && bytes.len() <= DIRECT_BYTES_MAX {
            match self.write_direct(bytes) {
                Err(error) if is_unsupported(&error) => self.is_direct = false,
                other => return other,
            }
        }
        self.file.write_all_at(bytes, self.written)
    }

    /// Writes whole sectors: the one that is begun, the new bytes, and zeros.
    fn write_direct(&self, bytes: &[u8]) -> io::Result<()> {
        let len = (self.begun.len() + bytes.len()).next_multiple_of(SECTOR_BYTES);
        let mut memory = Vec::<u8>::with_capacity(SECTOR_BYTES + len);
        let aligned = memory.as_ptr().align_offset(SECTOR_BYTES).min(SECTOR_BYTES);
        memory.resize(aligned, 0);
        memory.extend_from_slice(&self.begun);
        memory.extend_from_slice(bytes);
        memory.resize(aligned + len, 0);
        let sectors = memory.get(aligned..).unwrap_or_default();
        let at = self.written - self.begun.len() as u64;
        let flags = fcntl_getfl(&self.file)?;
        fcntl_setfl(&self.file, flags | OFlags::DIRECT)?;
        let written = self.file.write_all_at(sectors, at);
        // Who reads through the same descriptor has no aligned memory.
        fcntl_setfl(&self.file, flags)?;
        written
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::OPNOTSUPP))
}

/// How much of the last sector is in use; 0 if that is full.
fn sector_part(end: u64) -> usize {
    usize::try_from(end % SECTOR_BYTES as u64).unwrap_or_default()
}
