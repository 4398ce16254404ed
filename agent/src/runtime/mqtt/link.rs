//! One connection to the broker, as a task: `Up` once it is open, a `Packet` for each that comes in, and `Down`
//! exactly once, last. Reading and writing don't wait for each other: a write that stalls never stops reads, and an
//! engine that is slow to take packets never stops writes. It must not interpret a packet, keep one for the next
//! connection, or retry.
#![expect(clippy::disallowed_methods, reason = "a shell: it spawns the task and waits with bounds")]

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::codec::CodecError;
use super::incoming::Incoming;
use super::outgoing::Outgoing;
use super::transport::{self, Target};
use crate::engine::io::{EffectId, LinkFault, LinkFaultKind};
use crate::engine::packet::{PACKET_MAX, Packet, Version};

/// Packets that may wait to be written.
pub const LINK_QUEUE_MAX: usize = 256;
/// Bytes that go into one write: a whole window of a quick broker's, of which nothing is copied for it.
const WRITE_BATCH_BYTES: usize = 256 * 1024;

/// How long the parts of a connection's end may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A write that makes no progress for that long is a stalled link.
    pub stall: Duration,
    /// What is queued at [`LinkHandle::close`] gets this long to be written.
    pub close: Duration,
    /// After a failed write, how long to read on for the reason that the broker may have sent before it closed.
    pub last_words: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { stall: Duration::from_secs(30), close: Duration::from_secs(2), last_words: Duration::from_secs(1) }
    }
}

/// What a connection reports.
#[derive(Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// TCP, and TLS where it is used, stand.
    Up {
        /// The connection.
        id: EffectId,
        /// How long the resolver took, where there was a name to resolve.
        lookup: Option<Duration>,
    },
    /// A packet came in.
    Packet {
        /// The connection.
        id: EffectId,
        /// The packet.
        packet: Packet,
    },
    /// It ended, or never came about. Nothing follows.
    Down {
        /// The connection.
        id: EffectId,
        /// Why.
        fault: LinkFault,
    },
}

/// The queue of a connection is full ([`LINK_QUEUE_MAX`]): the packet was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection does not take packets as fast as they are sent, {LINK_QUEUE_MAX} wait already")]
pub struct Stalled;

/// A running connection. Dropping it aborts the connection without a further event.
#[derive(Debug)]
pub struct LinkHandle {
    queue: mpsc::Sender<Packet>,
    close: Option<oneshot::Sender<()>>,
    task: AbortHandle,
}

impl LinkHandle {
    /// Queues a packet to be written. One for a connection that has ended goes nowhere: its `Down`, which is on its
    /// way, says why it ended.
    ///
    /// # Errors
    /// [`Stalled`]: it was not queued.
    pub fn send(&self, packet: Packet) -> Result<(), Stalled> {
        match self.queue.try_send(packet) {
            Err(TrySendError::Full(_)) => Err(Stalled),
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Writes what is queued, within a bound, and closes. The connection's `Down` says `Local`. Keep the handle until
    /// then.
    pub fn close(&mut self) {
        if let Some(close) = self.close.take() {
            // Where the task has ended already there is nothing to close.
            let _ = close.send(());
        }
    }
}

impl Drop for LinkHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens a connection in a task of its own.
#[must_use]
pub fn spawn(id: EffectId, version: Version, target: Arc<Target>, events: mpsc::Sender<LinkEvent>) -> LinkHandle {
    spawn_with(id, version, target, events, Limits::default())
}

/// As [`spawn`], with limits of one's own.
#[must_use]
pub fn spawn_with(
    id: EffectId,
    version: Version,
    target: Arc<Target>,
    events: mpsc::Sender<LinkEvent>,
    limits: Limits,
) -> LinkHandle {
    let (queue, queued) = mpsc::channel(LINK_QUEUE_MAX);
    let (close, closing) = oneshot::channel();
    let link = Link { id, version, target, events, limits };
    let task = tokio::spawn(link.run(queued, closing)).abort_handle();
    LinkHandle { queue, close: Some(close), task }
}

struct Link {
    id: EffectId,
    version: Version,
    target: Arc<Target>,
    events: mpsc::Sender<LinkEvent>,
    limits: Limits,
}

impl Link {
    async fn run(self, queued: mpsc::Receiver<Packet>, mut closing: oneshot::Receiver<()>) {
        let opened = tokio::select! {
            opened = transport::open(&self.target) => opened,
            _ = &mut closing => Err(local()),
        };
        let fault = match opened {
            Ok(stream) => self.talk(stream, queued, closing).await,
            Err(fault) => fault,
        };
        // A runtime that is gone needs no news.
        let _ = self.events.send(LinkEvent::Down { id: self.id, fault }).await;
    }

    async fn talk(
        &self,
        stream: transport::Stream,
        queued: mpsc::Receiver<Packet>,
        closing: oneshot::Receiver<()>,
    ) -> LinkFault {
        if self.events.send(LinkEvent::Up { id: self.id, lookup: self.target.take_lookup() }).await.is_err() {
            return local();
        }
        let (input, output) = tokio::io::split(stream);
        let mut writer = Writer { output, queued, pending: Outgoing::new(self.version), stall: self.limits.stall };
        let mut reading = std::pin::pin!(self.read(input));
        let ended = tokio::select! {
            fault = &mut reading => return fault,
            ended = writer.write_queued() => ended,
            _ = closing => {
                // Bounded, because a peer that doesn't read must not keep the agent from stopping.
                let _ = timeout(self.limits.close, writer.finish()).await;
                return local();
            }
        };
        match ended {
            End::Closed => local(),
            End::Stalled => stalled(self.limits.stall),
            End::Codec(error) => error.into(),
            // A broker that rejects us says why and closes; our write may fail before that was read.
            End::Io(error) => match timeout(self.limits.last_words, reading).await {
                Ok(fault) => fault,
                Err(_) => self.target.fault_of(&error, true),
            },
        }
    }

    async fn read(&self, mut input: impl AsyncRead + Unpin) -> LinkFault {
        let mut incoming = Incoming::new(&self.target, self.version, PACKET_MAX as usize);
        loop {
            let packet = match incoming.next(&mut input).await {
                Ok(packet) => packet,
                Err(fault) => return fault,
            };
            if self.events.send(LinkEvent::Packet { id: self.id, packet }).await.is_err() {
                return local();
            }
        }
    }
}

/// The writing half. What was taken from the queue stays in `pending` until it is written, so that its futures may be
/// dropped at any point and called again.
struct Writer<W> {
    output: W,
    queued: mpsc::Receiver<Packet>,
    pending: Outgoing,
    stall: Duration,
}

/// How writing ended.
enum End {
    Closed,
    Stalled,
    Codec(CodecError),
    Io(io::Error),
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes what is queued and what will be, many packets to one write, until there can be no more.
    async fn write_queued(&mut self) -> End {
        loop {
            if let Err(end) = self.write_pending().await {
                return end;
            }
            let mut next = self.queued.recv().await;
            if next.is_none() {
                return End::Closed;
            }
            while let Some(packet) = next {
                if let Err(error) = self.pending.push(packet) {
                    return End::Codec(error);
                }
                next = if self.pending.remaining() < WRITE_BATCH_BYTES { self.queued.try_recv().ok() } else { None };
            }
        }
    }

    /// Writes what is queued, takes no more, and says goodbye to the transport.
    async fn finish(&mut self) {
        self.queued.close();
        if let End::Closed = self.write_queued().await {
            // Closing anyway: there is nobody left to tell.
            let _ = self.output.shutdown().await;
        }
    }

    async fn write_pending(&mut self) -> Result<(), End> {
        while self.pending.has_remaining() {
            match timeout(self.stall, self.output.write_buf(&mut self.pending)).await {
                Ok(Ok(0)) => return Err(End::Io(io::ErrorKind::WriteZero.into())),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(End::Io(error)),
                Err(_) => return Err(End::Stalled),
            }
        }
        // Under TLS a write may only have filled a buffer.
        match timeout(self.stall, self.output.flush()).await {
            Ok(flushed) => flushed.map_err(End::Io),
            Err(_) => Err(End::Stalled),
        }
    }
}

fn stalled(limit: Duration) -> LinkFault {
    let detail =
        format!("the broker took nothing of what is sent to it for {limit:?}: the way there is dead or jammed");
    LinkFault::new(LinkFaultKind::Stalled, detail)
}

fn local() -> LinkFault {
    LinkFault::new(LinkFaultKind::Local, "closed by this side")
}
