//! The newest segment's file while it is appended to. A frame is in the buffer, then in the file, then on disk; what a
//! failed sync leaves in doubt is written again before the next one. It must not give up what does not fit on the disk,
//! and knows nothing of the log's other segments.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::WRITE_BUFFER_BYTES;
use crate::store::disk;
use crate::store::segment::{self, HEADER_LEN, Source};

/// The newest segment's file while it is appended to.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    /// Frames that are not in the file yet.
    pub(super) buffer: Vec<u8>,
    /// How much is in the file.
    written: u64,
    /// How much of that is on disk for certain.
    synced: u64,
    /// A sync failed: the kernel may take pages for clean that never reached the disk.
    pub(super) suspect: bool,
    /// The directory doesn't hold the file for certain.
    unlisted: bool,
}

impl Writer {
    /// Makes the file of a new segment, whose first record will be the nth of the log.
    pub(super) fn create(path: &Path, nth: u32) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let buffer = segment::encode_header(nth);
        Ok(Self { file, buffer, written: 0, synced: 0, suspect: false, unlisted: true })
    }

    /// Goes on appending to a segment, after what of it is good: behind an append that never finished.
    pub(super) fn resume(file: File, len: u64, good_end: u64) -> io::Result<Self> {
        if good_end < len {
            file.set_len(good_end)?;
            file.sync_data()?;
        }
        Ok(Self { file, buffer: Vec::new(), written: good_end, synced: good_end, suspect: false, unlisted: false })
    }

    /// Whether what is in the buffer has to be written before a frame comes to it.
    pub(super) fn is_full_for(&self, frame_bytes: usize) -> bool {
        let buffered = self.buffer.len();
        // The first frame of a segment stays in the buffer in any case: a segment always holds the record that names
        // it.
        buffered > HEADER_LEN && buffered + frame_bytes > WRITE_BUFFER_BYTES
    }

    /// Adds the frame of a record to the buffer.
    pub(super) fn push(&mut self, segment: u64, seq: u64, nth: u32, body: &[u8]) {
        segment::encode_frame(&mut self.buffer, segment, seq, nth, body);
    }

    /// Writes the buffer to the file, and gives how many bytes that were. What doesn't fit on the disk stays in the
    /// buffer, so that nothing is lost once there is room again.
    pub(super) fn flush(&mut self) -> io::Result<u64> {
        if self.buffer.is_empty() {
            return Ok(0);
        }
        if let Err(error) = self.file.write_all_at(&self.buffer, self.written) {
            // Half a frame only takes room. If even this fails the next write goes over it.
            let _ = self.file.set_len(self.written);
            return Err(error);
        }
        let flushed = self.buffer.len() as u64;
        self.written += flushed;
        self.buffer.clear();
        Ok(flushed)
    }

    /// Sees to it that what is in the file is on disk. False: it was.
    pub(super) fn sync_data(&mut self) -> io::Result<bool> {
        if self.synced >= self.written {
            return Ok(false);
        }
        if self.suspect {
            disk::rewrite(&self.file, self.synced, self.written)?;
        }
        self.suspect = true;
        self.file.sync_data()?;
        self.suspect = false;
        self.synced = self.written;
        Ok(true)
    }

    /// Sees to it that the directory holds the file for certain.
    pub(super) fn list_in(&mut self, dir: &Path) -> io::Result<()> {
        if self.unlisted {
            disk::sync_dir(dir)?;
            self.unlisted = false;
        }
        Ok(())
    }

    /// Whether nothing of it is in the file yet.
    pub(super) const fn is_unwritten(&self) -> bool {
        self.written == 0
    }

    /// All that was appended, wherever it is.
    pub(super) fn source(&self, dead: bool) -> Source<'_> {
        Source { file: &self.file, written: self.written, tail: &self.buffer, dead }
    }
}
