//! The format of a segment file, and how one is read. A segment is a header and then frames, one a record; it is only
//! ever appended to. Reading never fails for damage (but for what the disk refuses to read, until that is known to be
//! gone for good): a frame that doesn't check is passed over up to the next one that does, and what was passed over is
//! said. This module must not write, delete or decide anything.
//!
//! ```text
//! header  magic 8 | version u32 | nth of the first record u32 | crc32c u32 of what stands before it
//! frame   marker 4 | body length u32 | seq u64 | nth u32 | crc32c u32 | body | last u8
//! ```
//!
//! Little-endian. `nth` counts the records of one log across its segments and wraps: because seqs are shared among the
//! classes a gap in them means nothing, but a gap in `nth` is exactly the number of records that damage took. A frame's
//! crc32c covers the segment's first seq, then length, seq, nth and body: a block of another segment that the file
//! system lets shine through after a power cut is not taken for one of this. The last byte of a frame isn't zero: zeros
//! at the end of the file are room that was made ready for more, or what never arrived there.

use std::fs::File;
use std::io;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::unreadable;

/// Longest body of a record.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;
pub(crate) const HEADER_BYTES: u64 = HEADER_LEN as u64;
/// What a frame takes beside its body.
pub(crate) const FRAME_BYTES: usize = HEAD_LEN + 1;

/// What stands before the body.
pub(super) const HEAD_LEN: usize = 24;
pub(super) const HEADER_LEN: usize = 20;
/// The part of the header that its checksum covers.
const HEADER_COVERED: usize = 16;
const MAGIC: [u8; 8] = *b"fmedseg\n";
const VERSION: u32 = 1;
/// Not UTF-8 (0xFE and 0xFF never are): text in a damaged body is not taken for the start of a frame.
const MARKER: [u8; 4] = [0xF1, 0xFF, 0xE0, 0xFE];
/// What stands behind the body: no zero, by which the end of the data is told from room.
const LAST: u8 = 0xFD;
/// Where the checksum stands in a frame.
const CRC_AT: usize = 20;
/// How much of a damaged end is searched for the heads of frames: a segment.
const RUINS_BYTES_MAX: usize = 1024 * 1024;
/// How much is read from the file at once.
const READ_CHUNK_BYTES: usize = 16 * 1024;
/// What is given up around a byte that the disk can't read: the page of the page cache.
const UNREADABLE_BYTES: u64 = UNREADABLE_LEN as u64;
const UNREADABLE_LEN: usize = 4096;

/// What the header of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// This version; the nth of its first record.
    Known { nth: u32 },
    /// Written by a newer agent.
    Newer { version: u32 },
    /// Missing or damaged.
    Damaged,
}

pub(super) fn encode_header(nth: u32) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&nth.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn decode_header(bytes: &[u8]) -> Header {
    let Some((covered, crc)) = bytes.split_at_checked(HEADER_COVERED) else { return Header::Damaged };
    let mut fields = Fields(covered);
    let (Some(magic), Some(version), Some(nth)) = (fields.array(), fields.u32(), fields.u32()) else {
        return Header::Damaged;
    };
    if magic != MAGIC || Fields(crc).u32() != Some(crc32c::crc32c(covered)) {
        return Header::Damaged;
    }
    if version > VERSION { Header::Newer { version } } else { Header::Known { nth } }
}

/// Appends a frame to `out`. The caller has checked the length of `body` against [`RECORD_BYTES_MAX`].
pub(super) fn encode_frame(out: &mut Vec<u8>, segment: u64, seq: u64, nth: u32, body: &[u8]) {
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let start = out.len();
    for field in [&MARKER[..], &len.to_le_bytes(), &seq.to_le_bytes(), &nth.to_le_bytes()] {
        out.extend_from_slice(field);
    }
    let crc = checksum(seed(segment), out.get(start..).unwrap_or_default(), body);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(body);
    out.push(LAST);
}

/// What each checksum of a segment begins with.
fn seed(segment: u64) -> u32 {
    crc32c::crc32c(&segment.to_le_bytes())
}

/// Of a frame, from what stands before its checksum and its body. In as few pieces as can be: each costs as much as
/// hundreds of bytes.
fn checksum(seed: u32, head: &[u8], body: &[u8]) -> u32 {
    let fields = head.get(MARKER.len()..CRC_AT).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c_append(seed, fields), body)
}

/// Where the data in a segment's file ends: behind its last byte that isn't zero. What the disk refuses to read may be
/// data; it fails, unless it is `dead`.
pub(super) fn data_end(file: &File, dead: bool) -> io::Result<u64> {
    let mut page = [0; UNREADABLE_LEN];
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = (end - 1) / UNREADABLE_BYTES * UNREADABLE_BYTES;
        let count = match unreadable::read_at(file, page.as_mut_slice(), start) {
            Err(Errno::IO) if dead => return Ok(end),
            other => other?,
        };
        let read = page.get(..count).unwrap_or_default();
        if let Some(last) = read.iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// The bytes of one segment: those in the file, then those not yet written to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) file: &'a File,
    /// How much of the file counts.
    pub(super) written: u64,
    /// What comes after it.
    pub(super) tail: &'a [u8],
    /// Whether what the disk refuses to read is gone for good: it reads as zeros, which never make a frame, and costs
    /// its records, not the log. Else it fails.
    pub(super) dead: bool,
}

impl Source<'_> {
    pub(super) fn len(&self) -> u64 {
        self.written + self.tail.len() as u64
    }

    pub(super) fn header(&self) -> io::Result<Header> {
        let mut bytes = Vec::new();
        while bytes.len() < HEADER_LEN {
            let missing = HEADER_LEN - bytes.len();
            if self.read(bytes.len() as u64, &mut bytes, missing)? == 0 {
                break;
            }
        }
        Ok(decode_header(&bytes))
    }

    /// Adds up to `max` bytes from offset `at` to `out`; gives how many, zero at the end.
    fn read(&self, at: u64, out: &mut Vec<u8>, max: usize) -> io::Result<usize> {
        if at >= self.written {
            let from = usize::try_from(at - self.written).unwrap_or(usize::MAX);
            let bytes = self.tail.get(from..).unwrap_or_default();
            let bytes = bytes.get(..max).unwrap_or(bytes);
            out.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        let max = usize::try_from(self.written - at).unwrap_or(usize::MAX).min(max);
        let start = out.len();
        out.reserve_exact(max);
        // Into room that nobody has filled with zeros before: to do so takes longer than to read.
        let count = match unreadable::read_at(self.file, spare_capacity(out), at) {
            // Shorter than it was when it was opened: the rest is damage like any other.
            Ok(0) => max,
            Ok(count) => count.min(max),
            Err(Errno::IO) if self.dead => {
                let page_end = usize::try_from(UNREADABLE_BYTES - at % UNREADABLE_BYTES).unwrap_or(usize::MAX);
                page_end.min(max)
            }
            Err(error) => return Err(error.into()),
        };
        out.resize(start + count, 0);
        Ok(count)
    }
}

/// One step through the frames.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A record that checks. Its body shares the memory of what was read at once.
    Record { seq: u64, nth: u32, body: Bytes },
    /// Bytes that are no frame, up to the next one or to the end.
    Damaged { at: u64, bytes: u64 },
    /// A frame begins at `at`, and the end of the bytes cuts it: an append that never finished.
    Torn { at: u64, bytes: u64 },
    /// No more bytes.
    End,
}

enum Parsed {
    Frame {
        seq: u64,
        nth: u32,
        len: usize,
    },
    /// At least so many bytes are needed to tell.
    Short(usize),
    No,
}

/// Walks the frames of a segment, a bounded window of it in memory.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    source: Source<'a>,
    /// See [`seed`].
    seed: u32,
    /// seqs must rise: what does not is a leftover, not a record.
    above: u64,
    window: Bytes,
    /// Offset of the next frame, where `used` points into the window.
    at: u64,
    used: usize,
}

impl<'a> Frames<'a> {
    /// From offset `at`, which is the start of a frame; only seqs greater than `above` count.
    pub(super) fn new(source: Source<'a>, segment: u64, at: u64, above: u64) -> Self {
        Self { source, seed: seed(segment), above, window: Bytes::new(), at: at.max(HEADER_BYTES), used: 0 }
    }

    /// Where the next frame begins.
    pub(super) fn offset(&self) -> u64 {
        self.at
    }

    pub(super) fn step(&mut self) -> io::Result<Step> {
        if self.at >= self.source.len() {
            return Ok(Step::End);
        }
        let start = self.at;
        if let Some((seq, nth, len)) = self.frame()? {
            return Ok(self.take(seq, nth, len));
        }
        // A damaged length can point beyond the end too: only where nothing good follows is a frame a torn one.
        let cut = matches!(parse(self.rest(), self.seed), Parsed::Short(_));
        self.seek()?;
        let bytes = self.at - start;
        if cut && self.at >= self.source.len() {
            return Ok(Step::Torn { at: start, bytes });
        }
        Ok(Step::Damaged { at: start, bytes })
    }

    fn take(&mut self, seq: u64, nth: u32, len: usize) -> Step {
        let body = self.window.slice_ref(self.rest().get(HEAD_LEN..HEAD_LEN + len).unwrap_or_default());
        self.above = seq;
        self.at += (FRAME_BYTES + len) as u64;
        self.used += FRAME_BYTES + len;
        Step::Record { seq, nth, body }
    }

    /// The frame at the current offset, if one checks there.
    fn frame(&mut self) -> io::Result<Option<(u64, u32, usize)>> {
        let mut want = HEAD_LEN;
        loop {
            self.fill(want)?;
            match parse(self.rest(), self.seed) {
                Parsed::Frame { seq, nth, len } => return Ok((seq > self.above).then_some((seq, nth, len))),
                Parsed::Short(need) if need > want && self.rest().len() >= want => want = need,
                Parsed::Short(_) | Parsed::No => return Ok(None),
            }
        }
    }

    /// Moves on to the next offset at which a frame checks, or to the end.
    fn seek(&mut self) -> io::Result<()> {
        self.skip(1);
        while self.at < self.source.len() {
            self.fill(MARKER.len())?;
            let rest = self.rest();
            let searched = rest.len();
            let next = rest.windows(MARKER.len()).position(|window| window == MARKER);
            match next {
                Some(0) if self.frame()?.is_some() => return Ok(()),
                Some(0) => self.skip(1),
                Some(ahead) => self.skip(ahead),
                // The marker may begin in the last bytes of the window.
                None => self.skip(searched.saturating_sub(MARKER.len() - 1).max(1)),
            }
        }
        Ok(())
    }

    fn skip(&mut self, bytes: usize) {
        self.at = (self.at + bytes as u64).min(self.source.len());
        self.used = (self.used + bytes).min(self.window.len());
    }

    fn rest(&self) -> &[u8] {
        self.window.get(self.used..).unwrap_or_default()
    }

    /// Sees to it that `want` bytes from the current offset are in the window, or all that there are.
    fn fill(&mut self, want: usize) -> io::Result<()> {
        if self.rest().len() >= want {
            return Ok(());
        }
        // A new one, because records that were found in the old one may be in use.
        let rest = self.rest();
        let mut window = Vec::with_capacity(rest.len() + READ_CHUNK_BYTES);
        window.extend_from_slice(rest);
        while window.len() < want {
            let at = self.at + window.len() as u64;
            if self.source.read(at, &mut window, READ_CHUNK_BYTES)? == 0 {
                break;
            }
        }
        self.window = window.into();
        self.used = 0;
        Ok(())
    }
}

fn parse(bytes: &[u8], seed: u32) -> Parsed {
    let Some((head, rest)) = bytes.split_at_checked(HEAD_LEN) else {
        let may_begin_one = MARKER.iter().zip(bytes).all(|(marker, byte)| marker == byte);
        return if may_begin_one { Parsed::Short(HEAD_LEN) } else { Parsed::No };
    };
    let mut fields = Fields(head);
    let (Some(MARKER), Some(len), Some(seq), Some(nth), Some(crc)) =
        (fields.array(), fields.u32(), fields.u64(), fields.u32(), fields.u32())
    else {
        return Parsed::No;
    };
    let body_len = usize::try_from(len).unwrap_or(usize::MAX);
    if body_len > RECORD_BYTES_MAX {
        return Parsed::No;
    }
    let Some((body, [last, ..])) = rest.split_at_checked(body_len) else {
        return Parsed::Short(FRAME_BYTES + body_len);
    };
    if *last != LAST || checksum(seed, head, body) != crc {
        return Parsed::No;
    }
    Parsed::Frame { seq, nth, len: body_len }
}

/// Reads fixed-size fields from the front of a slice.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, len: u32) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(first)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// What a whole segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Survey {
    pub(super) header: Header,
    /// Records that check.
    pub(super) records: u64,
    /// Of these, how many up to and including `acked`.
    pub(super) trimmed: u64,
    /// The first record above `acked`: its seq and where it lies.
    pub(super) first_live: Option<(u64, u64)>,
    /// seq of the last record that checks.
    pub(super) last: Option<u64>,
    /// Bytes of the frames of records that check.
    pub(super) good_bytes: u64,
    /// Where the last of them ends.
    pub(super) good_end: u64,
    /// The nth that the next record would have; `None` if nothing tells.
    pub(super) next_nth: Option<u32>,
    /// Records above `acked` that are missing.
    pub(super) lost: u64,
    /// Bytes that are no frame, a torn tail not counted.
    pub(super) damaged_bytes: u64,
    /// The last frame was never finished.
    pub(super) torn: bool,
    /// What lies behind the last record that checks.
    pub(super) ruins: Ruins,
}

/// Records that don't check, and that no good one follows whose nth would tell how many they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ruins {
    /// As many as can be known by the heads of their frames that are still legible; bytes without one are one record.
    pub(super) records: u32,
    /// Where the last frame ends whose head is legible. What lies behind it held records too, and nothing says how
    /// many.
    pub(super) end: u64,
}

/// Reads a whole segment. `expected` is the nth that its first record should have, where the segment before it tells.
pub(super) fn survey(source: Source<'_>, segment: u64, acked: u64, expected: Option<u32>) -> io::Result<Survey> {
    let header = source.header()?;
    let mut found = Survey {
        header,
        records: 0,
        trimmed: 0,
        first_live: None,
        last: None,
        good_bytes: 0,
        good_end: HEADER_BYTES.min(source.len()),
        next_nth: expected,
        lost: 0,
        damaged_bytes: 0,
        torn: false,
        ruins: Ruins::default(),
    };
    match header {
        Header::Known { nth } => found.expect(nth, segment > acked),
        Header::Newer { .. } => return Ok(found),
        // A segment that had just begun when the power went.
        Header::Damaged if source.len() < HEADER_BYTES => {
            found.torn = true;
            found.good_end = 0;
        }
        Header::Damaged => found.damaged_bytes += HEADER_BYTES,
    }
    let mut frames = Frames::new(source, segment, HEADER_BYTES, segment.saturating_sub(1));
    loop {
        let at = frames.offset();
        match frames.step()? {
            Step::Record { seq, nth, .. } => {
                found.count(seq, nth, at, acked);
                found.good_end = frames.offset();
                found.good_bytes += found.good_end - at;
            }
            Step::Damaged { bytes, .. } => found.damaged_bytes += bytes,
            Step::Torn { .. } => found.torn = true,
            Step::End => break,
        }
    }
    found.look_at_ruins(source)?;
    Ok(found)
}

/// How many records went on from the `next` one, as far as the heads of their frames are legible in `bytes`, and where
/// the last of these ends, if it ends in them.
fn ruins(bytes: &[u8], next: u32) -> (u32, usize) {
    let most = u32::try_from(bytes.len() / FRAME_BYTES).unwrap_or(u32::MAX).max(1);
    let (mut count, mut end) = (0, 0);
    for (at, head) in bytes.windows(HEAD_LEN).enumerate().filter(|(_, head)| head.starts_with(&MARKER)) {
        let mut fields = Fields(head);
        let (Some(_marker), Some(len), Some(_seq), Some(nth)) =
            (fields.u32(), fields.u32(), fields.u64(), fields.u32())
        else {
            continue;
        };
        let ahead = nth.wrapping_sub(next);
        if ahead >= count && ahead < most {
            count = ahead + 1;
            end = (at + FRAME_BYTES).saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(bytes.len());
        }
    }
    (count, end)
}

/// How far `nth` lies ahead of `other`, which wraps; 0 if it doesn't.
pub(super) fn nth_after(nth: u32, other: u32) -> u32 {
    let ahead = nth.wrapping_sub(other);
    if ahead > u32::MAX / 2 { 0 } else { ahead }
}

/// Shows the records of a segment, as far as they check.
pub(super) fn visit(source: Source<'_>, segment: u64, mut show: impl FnMut(u64, &[u8])) -> io::Result<()> {
    // Behind a damaged one the records are what they were.
    if let Header::Newer { .. } = source.header()? {
        return Ok(());
    }
    let mut frames = Frames::new(source, segment, HEADER_BYTES, segment.saturating_sub(1));
    loop {
        match frames.step()? {
            Step::Record { seq, body, .. } => show(seq, &body),
            Step::Damaged { .. } | Step::Torn { .. } => {}
            Step::End => return Ok(()),
        }
    }
}

impl Survey {
    fn count(&mut self, seq: u64, nth: u32, at: u64, acked: u64) {
        let live = seq > acked;
        self.expect(nth, live);
        self.next_nth = Some(nth.wrapping_add(1));
        self.records += 1;
        self.last = Some(seq);
        if !live {
            self.trimmed += 1;
        } else if self.first_live.is_none() {
            self.first_live = Some((seq, at));
        }
    }

    /// Counts the records behind the last good one by the frames whose beginning can still be made out. An append that
    /// never finished is none of them, until it is known to be damage.
    fn look_at_ruins(&mut self, source: Source<'_>) -> io::Result<()> {
        self.ruins.end = self.good_end;
        let Some(next) = self.next_nth.filter(|_| self.good_end < source.len()) else { return Ok(()) };
        let mut bytes = Vec::new();
        while bytes.len() < RUINS_BYTES_MAX
            && source.read(self.good_end + bytes.len() as u64, &mut bytes, READ_CHUNK_BYTES)? > 0
        {}
        let (records, end) = ruins(&bytes, next);
        self.ruins = Ruins { records: records.max(1), end: self.good_end + end as u64 };
        if !self.torn {
            self.count_ruins();
        }
        Ok(())
    }

    fn count_ruins(&mut self) {
        self.lost += u64::from(self.ruins.records);
        self.next_nth = self.next_nth.map(|next| next.wrapping_add(self.ruins.records));
    }

    /// The last frame is damaged and not unfinished.
    pub(super) fn take_torn_for_damaged(&mut self) {
        if std::mem::take(&mut self.torn) {
            self.count_ruins();
        }
    }

    /// The same of so many more, behind which the nth is at least `floor`.
    pub(super) fn count_behind(&mut self, floor: u32, records: u32) {
        let next = self.next_nth.map_or(floor, |next| next.wrapping_add(nth_after(floor, next)));
        self.lost += u64::from(records);
        self.next_nth = Some(next.wrapping_add(records));
    }

    /// Counts what is missing before the `nth` record. What lies before a record that was acknowledged was so too.
    fn expect(&mut self, nth: u32, live: bool) {
        let missing = nth_after(nth, self.next_nth.unwrap_or(nth));
        if live {
            self.lost += u64::from(missing);
        }
        self.next_nth = Some(nth);
    }
}
