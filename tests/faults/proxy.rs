//! A TCP proxy that breaks every connection in some way. The ways come round after round, each round in an order of its
//! own; how far a connection gets before it breaks is chance, too. One seed gives the same ways in the same order.
//! Its threads end with their connections, or with the test's process.
#![allow(unreachable_pub, reason = "each test binary is its own crate")]
#![allow(clippy::disallowed_types, reason = "the bans keep the agent pure; tests are outside of it")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::Chance;
use crate::common::broker::free_port;

/// How a connection fares. Each but `Refuse` and `HalfOpen` is closed on both sides when its bytes are used up,
/// wherever in a packet that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Closed in the middle of what the gateway says.
    Cut,
    /// Closed in the middle of what the broker says: of an acknowledgement, mostly.
    CutAnswers,
    /// From then on nothing is passed on either way, and nobody is told.
    HalfOpen,
    /// Each piece is passed on late.
    Delay,
    /// Passed on one byte at a time.
    Dribble,
    /// 30 % of the time nothing gets through: how loss in bursts shows above TCP, which sends again.
    Bursts,
    /// Nobody listens for a while.
    Refuse,
}

impl Fault {
    pub const ALL: [Self; 7] =
        [Self::Cut, Self::CutAnswers, Self::HalfOpen, Self::Delay, Self::Dribble, Self::Bursts, Self::Refuse];

    /// How many bytes a connection lasts: towards the broker, or with `CutAnswers` from it.
    fn bytes(self, chance: &mut Chance) -> u64 {
        match self {
            // A CONNACK and a handful of PUBACKs of four bytes.
            Self::CutAnswers => 5 + chance.below(120),
            Self::Dribble => 1_000 + chance.below(30_000),
            _ => 1_000 + chance.below(60_000),
        }
    }

    /// How often it comes in a round: silence takes a gateway seconds to notice, the others a moment.
    const fn times(self) -> usize {
        if matches!(self, Self::HalfOpen) { 1 } else { 3 }
    }
}

/// How much is passed on in one piece.
const PIECE_BYTES: usize = 4 * 1024;
const DELAY: Duration = Duration::from_millis(20);
/// How long nobody listens.
const REFUSED_FOR: Duration = Duration::from_millis(300);
const BURST_EVERY: Duration = Duration::from_millis(200);
/// 30 % of it.
const BURST: Duration = Duration::from_millis(60);
/// How long the port may take to be free again.
const BIND_BOUND: Duration = Duration::from_secs(5);

/// What is there for the test to see.
#[derive(Default)]
struct Seen {
    connections: u64,
    ends: BTreeMap<Fault, u64>,
}

pub struct Proxy {
    port: u16,
    seen: Arc<Mutex<Seen>>,
}

impl Proxy {
    /// Listens on a port of its own, and passes on to `broker_port`.
    pub fn start(broker_port: u16, chance: Chance) -> Self {
        let proxy = Self { port: free_port(), seen: Arc::default() };
        let acceptor =
            Acceptor { port: proxy.port, broker_port, seen: Arc::clone(&proxy.seen), chance, held: Vec::new() };
        // Before anybody connects.
        let listener = listen(proxy.port);
        thread::spawn(move || acceptor.run(listener));
        proxy
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Connections that were taken so far.
    pub fn connections(&self) -> u64 {
        self.seen.lock().unwrap().connections
    }

    /// How many connections came to which end.
    pub fn ends(&self) -> BTreeMap<Fault, u64> {
        self.seen.lock().unwrap().ends.clone()
    }
}

struct Acceptor {
    port: u16,
    broker_port: u16,
    seen: Arc<Mutex<Seen>>,
    chance: Chance,
    /// The sockets of half-open connections: closing them would tell.
    held: Vec<Arc<Connection>>,
}

impl Acceptor {
    fn run(mut self, mut listener: TcpListener) {
        loop {
            let mut round: Vec<Fault> =
                Fault::ALL.into_iter().flat_map(|fault| std::iter::repeat_n(fault, fault.times())).collect();
            self.chance.shuffle(&mut round);
            for fault in round {
                if fault == Fault::Refuse {
                    drop(listener);
                    thread::sleep(REFUSED_FOR);
                    self.count(fault);
                    listener = listen(self.port);
                    continue;
                }
                let (gateway, _) = listener.accept().unwrap();
                self.pass(gateway, fault);
            }
        }
    }

    fn pass(&mut self, gateway: TcpStream, fault: Fault) {
        let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.broker_port)) else { return };
        self.seen.lock().unwrap().connections += 1;
        let left = AtomicU64::new(fault.bytes(&mut self.chance));
        let connection =
            Arc::new(Connection { gateway, broker, fault, left, began: Instant::now(), over: AtomicBool::new(false) });
        for side in [&connection.gateway, &connection.broker] {
            side.set_nodelay(true).unwrap();
        }
        if fault == Fault::HalfOpen {
            self.held.push(Arc::clone(&connection));
        }
        for to_broker in [true, false] {
            let (connection, seen) = (Arc::clone(&connection), Arc::clone(&self.seen));
            thread::spawn(move || {
                if connection.forward(to_broker) {
                    *seen.lock().unwrap().ends.entry(connection.fault).or_default() += 1;
                }
            });
        }
    }

    fn count(&self, fault: Fault) {
        *self.seen.lock().unwrap().ends.entry(fault).or_default() += 1;
    }
}

/// One connection and its two sockets.
struct Connection {
    gateway: TcpStream,
    broker: TcpStream,
    fault: Fault,
    /// Bytes until it breaks.
    left: AtomicU64,
    began: Instant,
    /// It has broken: nothing more is passed on.
    over: AtomicBool,
}

impl Connection {
    /// Passes on in one direction until the connection is over; true if it was this that broke it.
    fn forward(&self, to_broker: bool) -> bool {
        let (mut from, mut to) = if to_broker { (&self.gateway, &self.broker) } else { (&self.broker, &self.gateway) };
        let counts = to_broker != (self.fault == Fault::CutAnswers);
        let mut piece = [0; PIECE_BYTES];
        loop {
            let len = match from.read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(len @ 1..) => len,
                _ => break,
            };
            let left = usize::try_from(self.left.load(Ordering::Relaxed)).unwrap();
            let len = if counts { len.min(left) } else { len };
            self.hold_up();
            if self.over.load(Ordering::Relaxed) || self.write(&mut to, &piece[..len]).is_err() {
                break;
            }
            if counts && len == left {
                self.break_off();
                return true;
            }
            if counts {
                self.left.fetch_sub(len as u64, Ordering::Relaxed);
            }
        }
        // One side has closed, or it is over.
        if !self.is_silent() {
            self.close();
        }
        false
    }

    fn write(&self, to: &mut &TcpStream, piece: &[u8]) -> std::io::Result<()> {
        let step = if self.fault == Fault::Dribble { 1 } else { PIECE_BYTES };
        piece.chunks(step).try_for_each(|bytes| to.write_all(bytes))
    }

    fn hold_up(&self) {
        match self.fault {
            Fault::Delay => thread::sleep(DELAY),
            Fault::Bursts => {
                let into = Duration::from_nanos(
                    u64::try_from(self.began.elapsed().as_nanos() % BURST_EVERY.as_nanos()).unwrap(),
                );
                thread::sleep(BURST.saturating_sub(into));
            }
            _ => {}
        }
    }

    fn break_off(&self) {
        self.over.store(true, Ordering::Relaxed);
        if self.fault != Fault::HalfOpen {
            self.close();
        }
    }

    /// Half-open already: the sockets stay as they are.
    fn is_silent(&self) -> bool {
        self.fault == Fault::HalfOpen && self.over.load(Ordering::Relaxed)
    }

    fn close(&self) {
        for side in [&self.gateway, &self.broker] {
            // It may be closed already.
            let _ = side.shutdown(Shutdown::Both);
        }
    }
}

fn listen(port: u16) -> TcpListener {
    let deadline = Instant::now() + BIND_BOUND;
    loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "listen on {port} again: {error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}
