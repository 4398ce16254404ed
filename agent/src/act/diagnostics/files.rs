//! Reads files of a gateway that may be ill: so much of each and no more, in whole lines, and never what isn't a plain
//! file.

#![expect(clippy::disallowed_types, reason = "this is where a snapshot's files are read")]

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::Read;
use crate::plain_file;

/// Bytes of a file that says one thing.
const FILE_MAX: usize = 16 * 1024;
/// Bytes of a table of the kernel's: about 7,000 sockets.
const TABLE_MAX: usize = 1024 * 1024;

/// The beginning of a small file. That it goes on is told in its last line.
pub(super) fn file(root: &Path, path: &str) -> Read {
    lines(root, path, FILE_MAX).map(Lines::into_text)
}

/// The same of a table.
pub(super) fn table(root: &Path, path: &str) -> Result<Lines, String> {
    lines(root, path, TABLE_MAX)
}

/// At most the last `most` bytes of a log. That there is more is told in its first line.
pub(super) fn tail(root: &Path, path: &str, most: usize) -> Read {
    let (mut file, len) = open(&root.join(path))?;
    let before = len.saturating_sub(most as u64);
    let text = file.seek(SeekFrom::Start(before)).and_then(|_| text(file, most));
    let text = text.map_err(|error| format!("/{path}: {error}"))?;
    match text.split_once('\n') {
        // It begins within a line, maybe within a secret.
        Some((cut, whole)) if before > 0 && !whole.is_empty() => {
            Ok(format!("({} B of /{path} before this)\n{whole}", before + cut.len() as u64 + 1))
        }
        _ if before > 0 => Err(format!("/{path}: its last line is longer than {most} B")),
        _ => Ok(text),
    }
}

/// Whole lines from a file's beginning.
#[derive(Debug)]
pub(super) struct Lines {
    /// The lines.
    pub(super) text: String,
    /// Says that the file has more.
    pub(super) more: Option<String>,
}

impl Lines {
    fn into_text(mut self) -> String {
        if let Some(more) = self.more {
            self.text.push_str(&more);
        }
        self.text
    }
}

fn lines(root: &Path, path: &str, most: usize) -> Result<Lines, String> {
    let (file, _) = open(&root.join(path))?;
    // The kernel's files don't know their length before they are read.
    let mut text = text(file, most + 1).map_err(|error| format!("/{path}: {error}"))?;
    if text.len() <= most {
        return Ok(Lines { text, more: None });
    }
    // It ends within a line, maybe within a secret that can't be told as one.
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    Ok(Lines { text, more: Some(format!("(of /{path} only the first {most} B are read)")) })
}

/// What isn't a plain file may never end, or do something when it is opened.
fn open(path: &Path) -> Result<(File, u64), String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(format!("{} is no plain file", path.display()));
    }
    // It may be another by now.
    let file = plain_file::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    Ok((file, len))
}

fn text(file: File, most: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
