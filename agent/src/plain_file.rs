//! Reads files that others may have replaced by anything: a path that names a device must not fill the memory, and one
//! that names a pipe not wait for ever for somebody to write; nor must a terminal become the one of who opens it.

#![expect(clippy::disallowed_types, reason = "it is about files")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Opens a regular file to read it.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// All that a regular file holds, which must not be more than this many bytes.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it is longer than {bytes_max} B")));
    }
    Ok(bytes)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "it is about files")]
mod tests {
    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn what_is_no_regular_file_of_that_length_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "12345").unwrap();
        let said = |path: &Path, max| read(path, max).map_err(|error| error.to_string());
        assert_eq!(said(&pipe, 5), Err("it is not a regular file".to_owned()));
        assert_eq!(said(Path::new("/dev/zero"), 5), Err("it is not a regular file".to_owned()));
        assert_eq!(said(&file, 4), Err("it is longer than 4 B".to_owned()));
        assert_eq!(said(&file, 5), Ok(b"12345".to_vec()));
    }
}
