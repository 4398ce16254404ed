//! The newest segment's file while it is appended to. A frame is in the buffer, then in the file, then on disk; what a
//! failed sync leaves in doubt is written again before the next one. It must not give up what does not fit on the disk,
//! and knows nothing of the log's other segments.

use std::fs::File;
use std::io;
use std::path::Path;

use super::WRITE_BUFFER_BYTES;
use super::file::SegmentFile;
use crate::store::disk;
use crate::store::segment::{self, HEADER_LEN, Source};

/// The newest segment's file while it is appended to.
#[derive(Debug)]
pub(super) struct Writer {
    file: SegmentFile,
    /// Frames that are not in the file yet.
    pub(super) buffer: Vec<u8>,
    /// How much of the file is on disk for certain.
    synced: u64,
    /// A sync failed: the kernel may take pages for clean that never reached the disk.
    pub(super) suspect: bool,
    /// The directory doesn't hold the file for certain.
    unlisted: bool,
}

impl Writer {
    /// Makes the file of a new segment, whose first record will be the nth of the log.
    pub(super) fn create(path: &Path, nth: u32, segment_bytes: u64) -> io::Result<Self> {
        let file = SegmentFile::create(path, segment_bytes)?;
        let buffer = segment::encode_header(nth);
        Ok(Self { file, buffer, synced: 0, suspect: false, unlisted: true })
    }

    /// Goes on appending to a segment, after what of its data is good: in place of an append that never finished.
    pub(super) fn resume(file: File, data_end: u64, good_end: u64, segment_bytes: u64) -> io::Result<Self> {
        let file = SegmentFile::resume(file, good_end, data_end, segment_bytes)?;
        Ok(Self { file, buffer: Vec::new(), synced: good_end, suspect: false, unlisted: false })
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
        self.file.append(&self.buffer)?;
        let flushed = self.buffer.len() as u64;
        self.buffer.clear();
        Ok(flushed)
    }

    /// Sees to it that what is in the file is on disk. False: it was.
    pub(super) fn sync_data(&mut self) -> io::Result<bool> {
        if self.synced >= self.file.written() {
            return Ok(false);
        }
        if self.suspect {
            disk::rewrite(self.file.file(), self.synced, self.file.written())?;
        }
        self.suspect = true;
        self.file.file().sync_data()?;
        self.suspect = false;
        self.synced = self.file.written();
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

    /// Cuts off what was made ready for more.
    pub(super) fn give_room_back(&mut self) {
        self.file.give_room_back();
    }

    /// Whether nothing of it is in the file yet.
    pub(super) const fn is_unwritten(&self) -> bool {
        self.file.written() == 0
    }

    /// All that was appended, wherever it is.
    pub(super) fn source(&self, dead: bool) -> Source<'_> {
        Source { file: self.file.file(), written: self.file.written(), tail: &self.buffer, dead }
    }
}
