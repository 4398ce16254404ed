//! One change of a quarantine at a time, in this process and beside others: root on the console may end one while the
//! helper, in the middle of putting its rules in force again, would bring them back. Changes nothing itself.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::sleep;

/// What is locked (flock(2)), beside the state. It is never deleted: then two could hold it.
const LOCK_FILE: &str = "quarantine.lock";
/// How often it is tried, and how far apart: longer than most changes take. One that takes longer, by PID 1, must not
/// keep root from ending it; it sees that it was ended before it saves again.
const TRIES_MAX: u32 = 1_500;
const PAUSE: Duration = Duration::from_millis(100);

/// Held for as long as a change takes.
pub(super) struct Turn<'a> {
    _here: MutexGuard<'a, ()>,
    beside: Option<OwnedFd>,
}

/// Waits for it. Where there is no directory, or none that can be written to, there is nobody to wait for, or nothing
/// to be done.
pub(super) async fn take<'a>(here: &'a Mutex<()>, dir: &Path) -> Turn<'a> {
    let here = here.lock().await;
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let Ok(file) = open(dir.join(LOCK_FILE), flags, Mode::RUSR | Mode::WUSR) else {
        return Turn { _here: here, beside: None };
    };
    for _ in 0..TRIES_MAX {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK | Errno::INTR) => sleep(PAUSE).await,
            _ => break,
        }
    }
    Turn { _here: here, beside: Some(file) }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Closing is not enough: a process forked at this moment holds it until it becomes another program.
        let _ = self.beside.as_ref().map(|file| flock(file, FlockOperation::Unlock));
    }
}
