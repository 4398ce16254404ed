//! A file system that hangs: a FUSE mount whose server never answers, as that of a card or a server that is gone. Who
//! looks into it waits until it is dropped.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

pub struct HungDisk {
    at: PathBuf,
    /// The server's end. Once it is closed, all that waits is refused.
    server: Option<File>,
}

impl HungDisk {
    /// Mounts one, and says so where that takes more than this user may.
    pub fn at(path: &Path) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let mounted = OpenOptions::new().read(true).write(true).open("/dev/fuse").and_then(|server| {
            let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
            mount("hung", path, "fuse", MountFlags::empty(), &*CString::new(options).unwrap())?;
            Ok(server)
        });
        match mounted {
            Ok(server) => Some(Self { at: path.to_owned(), server: Some(server) }),
            Err(error) => {
                eprintln!("SKIPPED: a disk that hangs takes root and FUSE: {error}");
                None
            }
        }
    }
}

impl Drop for HungDisk {
    fn drop(&mut self) {
        self.server = None;
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}
