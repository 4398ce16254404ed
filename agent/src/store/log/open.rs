//! Opens a log as a crash, or a damaged disk, has left it: takes in each segment as far as it can be read, goes on with
//! the newest one where that is whole, and takes what is of no use out of the way, where it can be looked into. What is
//! not there any more is counted by what the cursor says there should be. It must not delete a record that can be read
//! and was not trimmed, nor give the same nth to two records.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::writer::Writer;
use super::{Log, SUFFIX, Segment, names_with};
use crate::engine::io::StoreLoss;
use crate::plain_file;
use crate::store::cursor::{Cursor, Found, Mark, Position};
use crate::store::disk;
use crate::store::segment::{self, Header, Ruins, Source, Survey};
use crate::store::unreadable::Opening;

/// Segments that are kept beside the log, of each kind; older ones go.
const SET_ASIDE_MAX: usize = 2;
/// Written by a newer agent.
pub(super) const SUFFIX_NEWER: &str = "newer";
pub(super) const SUFFIX_DAMAGED: &str = "damaged";

impl Log {
    pub(super) fn recover(&mut self, opening: &mut Opening) -> io::Result<()> {
        let mut expected = None;
        let (mut gaps, mut unseen, mut guessed) = (0, 0, 0);
        let mark = self.cursor.position().mark;
        let names = names_with(&self.dir, SUFFIX)?;
        for (index, first) in names.iter().copied().enumerate() {
            let newest = index + 1 == names.len();
            let Some((mut found, len)) = self.take_in(first, expected, newest, opening)? else {
                unseen += 1;
                continue;
            };
            if expected.is_some() {
                // How many those before it held is known by the nth of its first record.
                unseen = 0;
            }
            if newest {
                guessed = self.guess_end(first, &mut found, len, mark);
            }
            if found.next_nth.is_none() && found.damaged_bytes > 0 {
                unseen += 1;
            }
            expected = found.next_nth;
            gaps += found.lost;
        }
        self.bound_set_aside()?;
        self.count_set_aside()?;
        self.next_nth = expected.or(mark.map(|mark| mark.nth)).unwrap_or(0);
        if let Some(mark) = mark {
            // What was durable had its nth, and nothing else may ever have the same.
            self.next_nth = self.next_nth.wrapping_add(segment::nth_after(mark.nth, self.next_nth));
        }
        self.all_durable();
        self.delete_done()?;
        self.count_again(0)?;
        // What was found damaged here is in `losses`; what the count found short was acknowledged before.
        self.damaged = 0;
        let lost = mark.map_or(gaps, |mark| self.missing_since(mark));
        self.missing = lost;
        if lost > 0 {
            // In words that stay the same until the mark moves, and no longer: a loss that is found again is told once.
            let since = mark.map(|mark| format!(" since record {} of this log", mark.nth)).unwrap_or_default();
            let what = format!("{}: {lost} records lost to damage{since}", self.dir.display());
            opening.losses.push(StoreLoss { what, records: lost, state_lost: false });
        }
        if lost > 0 && guessed > 0 {
            let what = format!("{}: of these {guessed} are known by the room alone that they took", self.dir.display());
            opening.losses.push(StoreLoss { what, records: 0, state_lost: false });
        }
        if unseen > 0 && mark.is_none() {
            let what = format!("{}: how many records the segments set aside held is not known", self.dir.display());
            opening.losses.push(StoreLoss { what, records: unseen, state_lost: false });
        }
        Ok(())
    }

    /// How many of the durable records are not there: those above the cursor when it was marked, and those that
    /// followed.
    fn missing_since(&self, mark: Mark) -> u64 {
        let followed = segment::nth_after(self.next_nth, mark.nth);
        (mark.live + u64::from(followed)).saturating_sub(self.records())
    }

    /// Counts what the damaged end of the newest segment held, where neither a frame's head nor the mark tells: all
    /// that is in the file was appended, and is taken for records as large as the others. Gives how many are guessed
    /// so.
    ///
    /// What remains untold, of a log that isn't marked with every commit: records that were cut off with the length of
    /// the file, or that read as the zeros of room, at the end of a frame or where a power cut or a kill may have cut.
    /// Not a byte is left of them, and to write down elsewhere that they were there would wear one more page with each
    /// commit. It is what the last [`mark_commits`](super::mark_commits) commits held, and only what followed the
    /// broker's last acknowledgment.
    fn guess_end(&self, first: u64, found: &mut Survey, len: u64, mark: Option<Mark>) -> u64 {
        if found.torn || found.good_end >= len {
            return 0;
        }
        let Ruins { records, end } = found.ruins;
        let marked = mark.map_or(0, |mark| mark.end_in(first));
        let unclear = len.saturating_sub(marked.max(end));
        // That there is one at least is counted already.
        let counted = if end > found.good_end || marked > end { 0 } else { records };
        let likely = u32::try_from(unclear.div_ceil(self.frame_bytes(found))).unwrap_or(u32::MAX);
        let guessed = likely.saturating_sub(counted);
        if let Some(floor) = mark.map(|mark| mark.nth).or(found.next_nth) {
            found.count_behind(floor, guessed);
        }
        guessed.into()
    }

    /// What a record takes, on the average of the segment, or else of the log.
    fn frame_bytes(&self, found: &Survey) -> u64 {
        let (bytes, records) = match found.records {
            0 => self.segments.iter().fold((0, 0), |(bytes, records), one| (bytes + one.bytes, records + one.records)),
            records => (found.good_bytes, records),
        };
        bytes.checked_div(records).unwrap_or(u64::MAX)
    }

    /// Takes in a segment, as far as it can be read; `None` if nothing of it can.
    fn take_in(
        &mut self,
        first: u64,
        expected: Option<u32>,
        newest: bool,
        opening: &mut Opening,
    ) -> io::Result<Option<(Survey, u64)>> {
        let path = self.path(first);
        if opening.is_dead(&path) {
            self.dead.insert(first);
        }
        let dead = self.dead.contains(&first);
        let read = open_segment(&path).and_then(|(file, writable)| {
            let len = segment::data_end(&file, dead)?;
            let source = Source { file: &file, written: len, tail: &[], dead };
            let found = segment::survey(source, first, self.acked(), expected)?;
            Ok((file, writable, len, found))
        });
        let (file, writable, len, mut found) = match read {
            Ok(read) => read,
            Err(error) if opening.is_passing(&path, &error) => return Err(error),
            Err(error) => {
                opening.losses.push(self.set_aside(first, SUFFIX_DAMAGED, &format!("can't be read ({error})"))?);
                return Ok(None);
            }
        };
        if let Header::Newer { version } = found.header {
            let why = format!("written by a newer agent (format {version})");
            opening.losses.push(self.set_aside(first, SUFFIX_NEWER, &why)?);
            return Ok(None);
        }
        let cut = found.torn && newest && (found.damaged_bytes > 0 || !opening.may_be_unfinished(len));
        if cut {
            found.take_torn_for_damaged();
        }
        let damaged = found.damaged_bytes > 0 || cut || (found.torn && !newest);
        if found.records == 0 {
            if damaged {
                opening.losses.push(self.set_aside(first, SUFFIX_DAMAGED, "damaged, no record in it can be read")?);
            } else {
                disk::remove(&path)?;
            }
            return Ok(Some((found, len)));
        }
        if damaged {
            opening.losses.extend(self.keep_evidence(first, found.damaged_bytes.max(len - found.good_end)));
        }
        let resumed = newest && writable && !damaged;
        self.adopt(first, &found, if resumed { found.good_end } else { len });
        if newest {
            // What was read may be in the page cache only; from here on it counts as stored.
            file.sync_data()?;
            disk::sync_dir(&self.dir)?;
        }
        if resumed {
            self.writer = Some(Writer::resume(file, len, found.good_end, self.segment_bytes)?);
        }
        Ok(Some((found, len)))
    }

    fn adopt(&mut self, first: u64, found: &Survey, bytes: u64) {
        let last = found.last.unwrap_or(first);
        self.segments.push_back(Segment { first, last, records: found.records, bytes });
        self.last = self.last.max(last);
    }

    /// Takes a segment that is of no use out of the way.
    fn set_aside(&self, first: u64, suffix: &str, why: &str) -> io::Result<StoreLoss> {
        let (from, to) = (self.path(first), self.aside(first, suffix));
        disk::remove_all(&to)?;
        fs::rename(&from, &to)?;
        let what = format!("{}: {why}, set aside", to.display());
        Ok(StoreLoss { what, records: 0, state_lost: false })
    }

    /// Sees to it that a damaged segment can be looked into after the good records in it were sent. It is told of when
    /// that is done first, or each time where the file system knows no second name for a file.
    fn keep_evidence(&self, first: u64, damaged_bytes: u64) -> Option<StoreLoss> {
        let (from, to) = (self.path(first), self.aside(first, SUFFIX_DAMAGED));
        if fs::hard_link(&from, &to).is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            return None;
        }
        let what = format!("{}: {damaged_bytes} B damaged and passed over", from.display());
        Some(StoreLoss { what, records: 0, state_lost: false })
    }

    /// Deletes the oldest of what is set aside, beyond [`SET_ASIDE_MAX`] of a kind.
    fn bound_set_aside(&self) -> io::Result<()> {
        for suffix in [SUFFIX_NEWER, SUFFIX_DAMAGED] {
            let names = names_with(&self.dir, suffix)?;
            let surplus = names.len().saturating_sub(SET_ASIDE_MAX);
            for (index, first) in names.into_iter().enumerate() {
                let path = self.aside(first, suffix);
                // What belongs to another user may not let itself be deleted: it does no harm but for its size.
                if index < surplus {
                    let _ = disk::remove_all(&path);
                }
            }
        }
        Ok(())
    }

    /// Counts what lies beside the log. Evidence that is a second name of a segment takes no room of its own, until the
    /// segment is deleted.
    pub(in crate::store) fn count_set_aside(&mut self) -> io::Result<()> {
        self.set_aside_bytes = 0;
        for suffix in [SUFFIX_NEWER, SUFFIX_DAMAGED] {
            for first in names_with(&self.dir, suffix)? {
                let path = self.aside(first, suffix);
                if !disk::has_other_names(&path) {
                    self.set_aside_bytes += disk::tree_bytes(&path);
                }
            }
        }
        Ok(())
    }

    pub(super) fn aside(&self, first: u64, suffix: &str) -> PathBuf {
        self.dir.join(format!("{first:020}.{suffix}"))
    }
}

/// Opens the cursor; what can't be one is taken out of the way.
pub(super) fn open_cursor(
    path: &Path,
    existed: bool,
    aside_bytes_max: u64,
    opening: &mut Opening,
) -> io::Result<(Cursor, Found)> {
    // Only of a log that is made now is it certain that there is nothing.
    let is_new = !existed && names_with(disk::parent(path), SUFFIX)?.is_empty();
    let begin = Position { mark: is_new.then(Mark::default), ..Position::default() };
    let dead = opening.is_dead(path);
    match Cursor::open(path, begin, dead) {
        Err(error) if !opening.is_passing(path, &error) => {
            opening.losses.push(disk::set_aside(path, aside_bytes_max, &error.to_string())?);
            Cursor::open(path, begin, dead)
        }
        other => other,
    }
}

/// Opens a segment to append to it, or else to read it at least; the flag tells which.
fn open_segment(path: &Path) -> io::Result<(File, bool)> {
    let (file, writable) = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => (file, true),
        Err(_) => (plain_file::open(path)?, false),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    Ok((file, writable))
}
