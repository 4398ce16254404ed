//! Reads the files of a configuration, whole and bounded. It doesn't know what is in them.
#![expect(clippy::disallowed_types, reason = "a configuration is files")]

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::agent_user::{AGENT_USER, agent_user};

/// What the caller has opened itself has a name in there, such as a shell's `<(…)`: in the first with bash, in the
/// other with zsh.
const OPEN_ALREADY: [&str; 2] = ["/dev", "/proc/self/fd"];
/// The longest file that is read: a path that names a device must not fill the memory.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("reading {}: {error}{}", .path.display(), as_whom(error))]
    Io { path: PathBuf, error: io::Error },
    #[error("reading {}: it is not a regular file", .path.display())]
    NotAFile { path: PathBuf },
    #[error("reading {}: it is longer than {FILE_BYTES_MAX} B", .path.display())]
    TooLong { path: PathBuf },
    #[error("reading {}: line {line} is not UTF-8", .path.display())]
    NotUtf8 { path: PathBuf, line: usize },
}

impl ReadError {
    /// The line that is at fault, from 1.
    pub(super) fn line(&self) -> usize {
        match self {
            Self::NotUtf8 { line, .. } => *line,
            Self::Io { .. } | Self::NotAFile { .. } | Self::TooLong { .. } => 1,
        }
    }
}

/// Root, who looks for the reason, can read it.
fn as_whom(error: &io::Error) -> String {
    let is_agent = || agent_user().is_some_and(|user| user.uid == rustix::process::geteuid().as_raw());
    let tell = error.kind() == io::ErrorKind::PermissionDenied && is_agent();
    if tell { format!(", as user {AGENT_USER}") } else { String::new() }
}

/// Reads a text.
pub(super) fn read(path: &Path) -> Result<String, ReadError> {
    let path = path.to_owned();
    let mut bytes = Vec::new();
    // To open a pipe waits for somebody to write, perhaps for ever; one that is open has somebody.
    let is_open = OPEN_ALREADY.iter().any(|dir| path.starts_with(dir));
    match fs::metadata(&path) {
        Ok(found) if !found.is_file() && !is_open => return Err(ReadError::NotAFile { path }),
        Ok(_) => {}
        Err(error) => return Err(ReadError::Io { path, error }),
    }
    let file = File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match file {
        Err(error) => return Err(ReadError::Io { path, error }),
        Ok(len) if len as u64 > FILE_BYTES_MAX => return Err(ReadError::TooLong { path }),
        Ok(_) => {}
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        ReadError::NotUtf8 { path, line: good.iter().filter(|byte| **byte == b'\n').count() + 1 }
    })
}
