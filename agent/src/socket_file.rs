//! The file that a Unix socket has: made where at most a socket is in the way that nobody answers on any more, and
//! taken away only as long as it is ours. It must never remove what is no socket, nor the socket of another program.

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::config;

/// A socket's file; gone when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode: another program may have put its own in this place.
    id: (u64, u64),
}

impl SocketFile {
    /// Binds a socket at `path`, and gives its file this mode. `connect` tries whether somebody has one there.
    ///
    /// # Errors
    /// Somebody has one there, or there is a file that is no socket; or none can be made.
    pub(crate) fn make<S>(
        path: &Path,
        mode: u32,
        connect: impl FnOnce(&Path) -> io::Result<()>,
        bind: impl FnOnce(&Path) -> io::Result<S>,
    ) -> io::Result<(S, Self)> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
            }
            Ok(_) => remove_stale(path, connect(path))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let socket = bind(path)?;
        let file = Self { path: path.to_owned(), id: id(&fs::symlink_metadata(path)?) };
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok((socket, file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| id(&found) == self.id) {
            // One that stays behind is replaced by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn id(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Removes a socket whose program was killed.
fn remove_stale(path: &Path, connected: io::Result<()>) -> io::Result<()> {
    match connected {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // As that of an agent of root's: the directory decides who may take it away.
        Err(error) if error.kind() == ErrorKind::PermissionDenied && !is_bound(path) => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(()) => {
            Err(io::Error::new(ErrorKind::AddrInUse, "another program has its own there: give each its own path"))
        }
    }
}

/// Whether a program has its socket there, or may have (`/proc/net/unix`: the name by which it was bound comes last).
fn is_bound(path: &Path) -> bool {
    let Ok(sockets) = config::read_text(Path::new("/proc/net/unix")) else { return true };
    let real = fs::canonicalize(path).ok();
    let is_it = |bound: &Path| {
        let is_other = bound.is_absolute() && fs::canonicalize(bound).ok() != real;
        bound.file_name() == path.file_name() && !is_other
    };
    let is_cut = path.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_whitespace);
    is_cut || sockets.lines().filter_map(|line| line.split_ascii_whitespace().nth(7)).any(|name| is_it(Path::new(name)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_that_may_not_be_opened_is_replaced_only_if_nobody_listens_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let make = || {
            let denied = |_: &Path| Err(ErrorKind::PermissionDenied.into());
            SocketFile::make(&path, 0o600, denied, |path| UnixListener::bind(path))
        };
        drop(UnixListener::bind(&path).unwrap());
        let (listener, _file) = make().unwrap();
        assert_eq!(make().map(|_| ()).unwrap_err().kind(), ErrorKind::PermissionDenied);
        drop(listener);
        make().unwrap();
    }
}
