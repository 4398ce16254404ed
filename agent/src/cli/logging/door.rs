//! Whether the journal takes one more line. A journald that hangs, as on a dead disk, reads nothing any more; once its
//! queue is full, who writes to it waits for as long as it hangs, and the agent has one thread for all that it does. So
//! it is asked before each line: what finds no room is left out and counted, which is told when there is room again.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Where journald takes lines with their fields (systemd-journald.service(8)).
pub(super) const JOURNALD: &str = "/run/systemd/journal/socket";
/// How long a line waits for one that has taken all before it: it may just be busy.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const NONE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The way to the journal.
#[derive(Debug)]
pub(super) struct Door {
    journald: PathBuf,
    socket: UnixDatagram,
    identifier: String,
    /// Lines that it didn't take, and of which it wasn't told yet.
    missing: AtomicU64,
}

impl Door {
    /// To the one at `journald`, for lines of this identifier.
    ///
    /// # Errors
    /// The system gives no socket.
    pub(super) fn to(journald: impl Into<PathBuf>, identifier: &str) -> std::io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let (journald, identifier) = (journald.into(), identifier.to_owned());
        Ok(Self { journald, socket, identifier, missing: AtomicU64::new(0) })
    }

    /// Whether there is room for a line; counts one for which there is none.
    pub(super) fn is_open(&self) -> bool {
        // Each time: it may have been started anew. Where it isn't there at all nobody would wait.
        if self.socket.connect(&self.journald).is_err() {
            return true;
        }
        // Taken, so that of several threads one tells of them.
        let missing = self.missing.swap(0, Ordering::Relaxed);
        let is_told = missing == 0 || self.socket.send(self.gap(missing).as_bytes()).is_ok();
        let patience = if missing == 0 { PATIENCE } else { NONE };
        let is_open = is_told && has_room(&self.socket, patience);
        let untold = if is_told { 0 } else { missing };
        self.missing.fetch_add(untold + u64::from(!is_open), Ordering::Relaxed);
        is_open
    }

    /// In journald's own protocol: a line for each field.
    fn gap(&self, missing: u64) -> String {
        let identifier = &self.identifier;
        format!("PRIORITY=4\nSYSLOG_IDENTIFIER={identifier}\nMESSAGE={}\n", are_missing(missing))
    }
}

fn are_missing(lines: u64) -> String {
    format!("{lines} lines are missing before this one: the journal took no more")
}

/// The same of standard error, where that is the only way to it.
#[derive(Debug, Default)]
pub(super) struct Stream {
    missing: AtomicU64,
}

impl Stream {
    /// Whether there is room for a line in it; counts one for which there is none.
    pub(super) fn is_open(&self, mut stream: impl AsFd + Write) -> bool {
        if !has_room(&stream, NONE) {
            self.missing.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let missing = self.missing.swap(0, Ordering::Relaxed);
        // Who can't write there finds out with the line itself.
        missing == 0 || writeln!(stream, "{}", are_missing(missing)).is_ok()
    }
}

fn has_room(sink: impl AsFd, patience: Timespec) -> bool {
    poll(&mut [PollFd::new(&sink, PollFlags::OUT)], Some(&patience)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn a_journal_that_hangs_holds_nobody_up_and_is_told_what_is_missing_when_it_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let door = Door::to(&path, "fieldmedic").unwrap();
        let line = UnixDatagram::unbound().unwrap();
        let mut taken = 0;
        while door.is_open() {
            line.send_to(b"MESSAGE=a line\n", &path).unwrap();
            taken += 1;
        }
        assert!(!door.is_open());

        let mut buffer = [0; 256];
        journald.set_nonblocking(true).unwrap();
        let mut read = || journald.recv(&mut buffer).map(|len| String::from_utf8_lossy(&buffer[..len]).into_owned());
        for _ in 0..taken {
            assert_eq!(read().unwrap(), "MESSAGE=a line\n");
        }
        assert!(door.is_open());
        let told = read().unwrap();
        assert!(told.ends_with("MESSAGE=2 lines are missing before this one: the journal took no more\n"), "{told}");
        assert!(door.is_open());
        assert!(read().is_err(), "it is told once");
    }

    #[test]
    fn what_a_stream_to_the_journal_did_not_take_is_told_when_it_goes_on() {
        let (ours, mut journald) = UnixStream::pair().unwrap();
        let (stream, mut taken) = (Stream::default(), 0);
        while stream.is_open(&ours) {
            taken += (&ours).write(&[b'x'; 1024]).unwrap();
        }
        assert!(!stream.is_open(&ours));
        journald.read_exact(&mut vec![0; taken]).unwrap();
        assert!(stream.is_open(&ours) && stream.is_open(&ours));
        drop(ours);
        let mut told = String::new();
        journald.read_to_string(&mut told).unwrap();
        assert_eq!(told, "2 lines are missing before this one: the journal took no more\n");
    }

    #[test]
    fn of_threads_that_find_it_open_again_together_one_tells_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        journald.set_nonblocking(true).unwrap();
        let (door, both) = (Door::to(&path, "fieldmedic").unwrap(), Barrier::new(2));
        let mut buffer = [0; 256];
        for round in 0..1_000 {
            door.missing.store(5, Ordering::Relaxed);
            let asks = || {
                both.wait();
                assert!(door.is_open());
            };
            thread::scope(|scope| [(); 2].map(|()| scope.spawn(asks)).map(|asked| asked.join().unwrap()));
            let mut told = 0;
            while let Ok(len) = journald.recv(&mut buffer) {
                let line = String::from_utf8_lossy(&buffer[..len]);
                assert!(line.contains("MESSAGE=5 lines are missing"), "{line}");
                told += 1;
            }
            assert_eq!((told, door.missing.load(Ordering::Relaxed)), (1, 0), "in round {round}");
        }
    }

    #[test]
    fn a_journal_that_is_not_there_or_was_started_anew_is_no_closed_door() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let door = Door::to(&path, "fieldmedic").unwrap();
        assert!(door.is_open(), "who writes finds out");
        let hangs = UnixDatagram::bind(&path).unwrap();
        let line = UnixDatagram::unbound().unwrap();
        while door.is_open() {
            line.send_to(b"MESSAGE=a line\n", &path).unwrap();
        }
        drop(hangs);
        std::fs::remove_file(&path).unwrap();
        let _anew = UnixDatagram::bind(&path).unwrap();
        assert!(door.is_open());
    }
}
