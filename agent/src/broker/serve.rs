//! The broker model behind a socket: one task owns the [`Broker`], each guest has a task that moves bytes. It serves
//! stock clients of MQTT 3.1.1 and 5. It has no opinions beside its bounds: a guest that doesn't read what it is sent
//! is cut off. It listens only where its caller bound it, and must never be bound to more than loopback: it authorises
//! nothing.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a shell: it reads the clock, waits and owns sockets"
)]

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::{Broker, BrokerOutput, ConnId, Counts, Settings};
use crate::engine::packet::Packet;
use crate::engine::time::Mono;
use crate::runtime::mqtt::codec::Codec;

/// Guests at a time; one more is turned away.
pub const CONNECTIONS_MAX: usize = 64;
/// Packets that may wait for one guest; it is cut off when there are more.
pub const GUEST_QUEUE_MAX: usize = 2048;
/// Bytes that may wait for one guest; it is cut off when there are more.
pub const GUEST_QUEUE_BYTES_MAX: usize = 8 << 20;
/// Packets of all guests that may wait for the broker; the guests wait then.
const INBOUND_MAX: usize = 256;
/// Packets that go into one write.
const WRITE_BATCH: usize = 64;
/// How long one write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait before accepting again when it failed.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Room for one read, in bytes.
const READ_BYTES: usize = 16 * 1024;
/// The longest wait where the broker has no deadline.
const IDLE: Duration = Duration::from_secs(3600);

/// What the owner of a running broker can ask of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Drop all connections and every new one for that long; sessions are kept, as when the uplink fails.
    Cut(Duration),
    /// End. Dropping the sender does the same.
    Stop,
}

/// Serves until told to stop; what happened in that time.
///
/// # Errors
/// The listener can never accept again. A failure that passes, such as too many open files, is waited out.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    mut control: mpsc::Receiver<Control>,
) -> io::Result<Counts> {
    let (inbound, mut arrivals) = mpsc::channel(INBOUND_MAX);
    let mut server = Server::new(settings, inbound);
    let mut accepts_from = server.started;
    loop {
        let wake = server.next_wake();
        tokio::select! {
            accepted = accept(&listener, accepts_from) => match accepted {
                Ok(stream) => server.welcome(stream),
                Err(error) => accepts_from = Instant::now() + pause_after(error)?,
            },
            Some((conn, arrival)) = arrivals.recv() => server.arrived(conn, arrival),
            order = control.recv() => match order {
                Some(Control::Cut(duration)) => server.cut(duration),
                Some(Control::Stop) | None => return Ok(server.broker.counts()),
            },
            () = sleep_until(wake) => {}
        }
        server.settle();
    }
}

async fn accept(listener: &TcpListener, from: Instant) -> io::Result<TcpStream> {
    sleep_until(from).await;
    listener.accept().await.map(|(stream, _)| stream)
}

/// How long to wait after a failed accept. Out of file descriptors, the next would fail in the same instant; the guests
/// that are there are served meanwhile.
fn pause_after(error: io::Error) -> io::Result<Duration> {
    match Errno::from_io_error(&error) {
        // The guest was gone before it was let in.
        Some(Errno::CONNABORTED) => Ok(Duration::ZERO),
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP) => Err(error),
        _ => {
            tracing::warn!("broker: accept: {error}; the next try is in {ACCEPT_PAUSE:?}");
            Ok(ACCEPT_PAUSE)
        }
    }
}

/// What a guest's task tells the owner.
enum Arrival {
    Packet(Packet),
    /// It hung up, or spoke nonsense.
    Gone,
}

struct Server {
    broker: Broker,
    packet_max: usize,
    started: Instant,
    guests: BTreeMap<ConnId, Guest>,
    tasks: JoinSet<()>,
    inbound: mpsc::Sender<(ConnId, Arrival)>,
    last_conn: u64,
    deaf_until: Instant,
}

struct Guest {
    /// Known from its CONNECT on.
    codec: Option<Codec>,
    queue: mpsc::Sender<Bytes>,
    /// Bytes in the queue and in the write that is under way.
    waiting: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Server {
    fn new(settings: Settings, inbound: mpsc::Sender<(ConnId, Arrival)>) -> Self {
        let started = Instant::now();
        Self {
            packet_max: usize::try_from(settings.packet_max).unwrap_or(usize::MAX),
            broker: Broker::new(settings),
            started,
            guests: BTreeMap::new(),
            tasks: JoinSet::new(),
            inbound,
            last_conn: 0,
            deaf_until: started,
        }
    }

    fn now(&self) -> Mono {
        Mono(0).after(self.started.elapsed())
    }

    fn next_wake(&self) -> Instant {
        match self.broker.poll_deadline() {
            Some(Mono(at_ms)) => self.started + Duration::from_millis(at_ms),
            None => Instant::now() + IDLE,
        }
    }

    fn welcome(&mut self, stream: TcpStream) {
        if Instant::now() < self.deaf_until || self.tasks.len() >= CONNECTIONS_MAX {
            return;
        }
        // Where this fails it costs latency, not the connection.
        let _ = stream.set_nodelay(true);
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        let (queue, queued) = mpsc::channel(GUEST_QUEUE_MAX);
        let waiting = Arc::new(AtomicUsize::new(0));
        let outbound = Outbound { queued, waiting: Arc::clone(&waiting) };
        let task = self.tasks.spawn(attend(conn, stream, self.packet_max, self.inbound.clone(), outbound));
        self.guests.insert(conn, Guest { codec: None, queue, waiting, task });
        self.broker.connected(self.now(), conn);
    }

    fn arrived(&mut self, conn: ConnId, arrival: Arrival) {
        let now = self.now();
        let packet = match arrival {
            Arrival::Packet(packet) => packet,
            Arrival::Gone => {
                self.guests.remove(&conn);
                return self.broker.disconnected(now, conn, false);
            }
        };
        if let (Packet::Connect(connect), Some(guest)) = (&packet, self.guests.get_mut(&conn)) {
            guest.codec.get_or_insert_with(|| Codec::new(connect.version, self.packet_max));
        }
        self.broker.receive(now, conn, packet);
    }

    fn cut(&mut self, duration: Duration) {
        let now = self.now();
        self.deaf_until = Instant::now() + duration;
        self.tasks.abort_all();
        for conn in std::mem::take(&mut self.guests).into_keys() {
            self.broker.disconnected(now, conn, false);
        }
    }

    /// Lets time pass for the broker, and sends what it has to say.
    fn settle(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.broker.wake(self.now());
        while let Some((conn, output)) = self.broker.poll_output() {
            match output {
                BrokerOutput::Packet(packet) => self.send(conn, &packet),
                // The task writes what is queued, and ends when the queue does.
                BrokerOutput::Close => drop(self.guests.remove(&conn)),
            }
        }
    }

    fn send(&mut self, conn: ConnId, packet: &Packet) {
        let Some(guest) = self.guests.get(&conn) else { return };
        if guest.take(packet) {
            return;
        }
        if let Some(slow) = self.guests.remove(&conn) {
            slow.task.abort();
        }
        self.broker.disconnected(self.now(), conn, false);
    }
}

impl Guest {
    /// Queues a packet; false where this guest is too slow for it.
    fn take(&self, packet: &Packet) -> bool {
        let mut bytes = BytesMut::new();
        let Some(Ok(())) = self.codec.as_ref().map(|codec| codec.encode(packet, &mut bytes)) else { return false };
        let waiting = self.waiting.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        waiting <= GUEST_QUEUE_BYTES_MAX && self.queue.try_send(bytes.freeze()).is_ok()
    }
}

/// What is to be written to a guest.
struct Outbound {
    queued: mpsc::Receiver<Bytes>,
    waiting: Arc<AtomicUsize>,
}

async fn attend(
    conn: ConnId,
    stream: TcpStream,
    packet_max: usize,
    inbound: mpsc::Sender<(ConnId, Arrival)>,
    outbound: Outbound,
) {
    let (input, output) = stream.into_split();
    tokio::select! {
        () = listen(conn, input, packet_max, &inbound) => {}
        () = speak(output, outbound) => {}
    }
    // Where the broker itself has ended nobody needs to know.
    let _ = inbound.send((conn, Arrival::Gone)).await;
}

/// Reads until the guest hangs up or speaks nonsense.
async fn listen(conn: ConnId, mut input: OwnedReadHalf, packet_max: usize, inbound: &mpsc::Sender<(ConnId, Arrival)>) {
    let mut bytes = BytesMut::new();
    let mut codec: Option<Codec> = None;
    loop {
        bytes.reserve(READ_BYTES);
        let Ok(1..) = input.read_buf(&mut bytes).await else { return };
        if codec.is_none() {
            let Ok(version) = Codec::for_connect(&bytes) else { return };
            codec = version.map(|version| Codec::new(version, packet_max));
        }
        let Some(codec) = &mut codec else { continue };
        loop {
            match codec.decode(&mut bytes) {
                Ok(Some(packet)) => {
                    if inbound.send((conn, Arrival::Packet(packet))).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Writes until the queue ends or the guest stops taking.
async fn speak(mut output: OwnedWriteHalf, Outbound { mut queued, waiting }: Outbound) {
    let mut batch = Vec::with_capacity(WRITE_BATCH);
    while queued.recv_many(&mut batch, WRITE_BATCH).await > 0 {
        let bytes = batch.concat();
        batch.clear();
        let Ok(Ok(())) = timeout(WRITE_TIMEOUT, output.write_all(&bytes)).await else { return };
        waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
    }
    // The guest may be gone: there is nothing to do about it.
    let _ = output.shutdown().await;
}
