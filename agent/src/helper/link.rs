//! A SOCK_SEQPACKET connection: datagrams in order, and an end. Used by both sides. It carries bytes and knows nothing
//! of what they mean.

#![expect(clippy::disallowed_methods, reason = "a datagram is waited for, with a bound")]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::protocol::DATAGRAM_MAX;

/// How long a datagram may take to go out: who doesn't read what was asked for is given up.
const SEND_MAX: Duration = Duration::from_secs(5);

/// One connection.
#[derive(Debug)]
pub(crate) struct Link(UnixStream);

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A datagram.
    Datagram(Vec<u8>),
    /// One over [`DATAGRAM_MAX`]; the rest of it is gone.
    TooLong,
    /// The other side has closed.
    Closed,
}

impl Link {
    /// Takes over a connection that was accepted.
    #[must_use]
    pub(crate) const fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there, or this user may not, or too many wait already.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let socket = seqpacket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        UnixStream::from_std(StdStream::from(socket)).map(Self)
    }

    /// The other side's uid, as the kernel knows it (SO_PEERCRED, unix(7)).
    ///
    /// # Errors
    /// The kernel doesn't say.
    pub(crate) fn peer_uid(&self) -> io::Result<u32> {
        Ok(self.0.peer_cred()?.uid())
    }

    /// Waits for a datagram. Cancel-safe.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) async fn recv(&self) -> io::Result<Received> {
        let mut buffer = vec![0; DATAGRAM_MAX + 1];
        loop {
            self.0.readable().await?;
            // Not `read`: that takes a short read for the last, which holds for streams and not for datagrams.
            match self.0.try_read(&mut buffer) {
                // An empty datagram can't be told from the end, and means nothing either.
                Ok(0) => return Ok(Received::Closed),
                Ok(len) if len > DATAGRAM_MAX => return Ok(Received::TooLong),
                Ok(len) => {
                    buffer.truncate(len);
                    return Ok(Received::Datagram(buffer));
                }
                // Told once where the other side closed without having read all; what it sent before is still to come.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the other side has closed, or said anything more that was not received yet.
    pub(crate) fn has_more(&self) -> bool {
        recv(&self.0, &mut [0_u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT) != Err(Errno::AGAIN)
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// The connection broke, or the other side did not read for 5 s.
    pub(crate) async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let send = async {
            loop {
                self.0.writable().await?;
                match self.0.try_write(datagram) {
                    Ok(_) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        };
        timeout(SEND_MAX, send).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Sends a datagram if there is room for it now: for what may be lost.
    pub(crate) fn try_send(&self, datagram: &[u8]) {
        let _ = self.0.try_write(datagram);
    }
}

/// Connects, for one who waits: each read takes one datagram, each write makes one, and neither, nor this, takes longer
/// than `within`.
///
/// # Errors
/// Nobody listens there, or this user may not, or it took too long.
pub(crate) fn connect_blocking(path: &Path, within: Duration) -> io::Result<StdStream> {
    let socket = seqpacket(SocketFlags::CLOEXEC)?;
    set_socket_timeout(&socket, Timeout::Send, Some(within))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(within))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(StdStream::from(socket))
}

fn seqpacket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Link, Link) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let link = |fd: OwnedFd| Link(UnixStream::from_std(StdStream::from(fd)).unwrap());
        (link(one), link(other))
    }

    #[tokio::test]
    async fn what_was_said_before_the_end_is_read_also_by_one_who_was_not_heard() {
        let (ours, theirs) = pair();
        ours.send(b"a question").await.unwrap();
        theirs.send(b"busy").await.unwrap();
        drop(theirs);
        assert_eq!(ours.recv().await.unwrap(), Received::Datagram(b"busy".to_vec()));
        assert_eq!(ours.recv().await.unwrap(), Received::Closed);
    }

    #[tokio::test]
    async fn what_was_said_more_and_the_end_are_seen_and_left_to_be_received() {
        let (ours, theirs) = pair();
        assert!(!ours.has_more());
        theirs.send(b"cancel").await.unwrap();
        assert!(ours.has_more());
        assert_eq!(ours.recv().await.unwrap(), Received::Datagram(b"cancel".to_vec()));
        assert!(!ours.has_more());
        drop(theirs);
        assert!(ours.has_more());
        assert_eq!(ours.recv().await.unwrap(), Received::Closed);
    }

    #[tokio::test]
    async fn datagrams_that_wait_are_taken_one_by_one_and_then_the_end() {
        let (ours, theirs) = pair();
        theirs.send(b"one").await.unwrap();
        theirs.send(&vec![b'x'; DATAGRAM_MAX + 2]).await.unwrap();
        theirs.send(b"two").await.unwrap();
        drop(theirs);
        assert_eq!(ours.recv().await.unwrap(), Received::Datagram(b"one".to_vec()));
        assert_eq!(ours.recv().await.unwrap(), Received::TooLong);
        assert_eq!(ours.recv().await.unwrap(), Received::Datagram(b"two".to_vec()));
        assert_eq!(ours.recv().await.unwrap(), Received::Closed);
    }
}
