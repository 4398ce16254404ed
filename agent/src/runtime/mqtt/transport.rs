//! Opens the way to the broker: name, TCP, TLS. It has no state but the TLS settings that it shares across reconnects.
//! It decides nothing: it tries once, within bounds, and says in one plain sentence what is wrong and what to do. It
//! must not retry; that is the engine's to decide.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a shell: it opens sockets, waits with bounds and reads the TLS files"
)]

mod fault;
mod files;
mod password;
mod tls;
mod witness;
mod x509;

#[cfg(test)]
pub(super) mod tests;

use std::io::{self, IoSlice};
use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::collect::clock;
use crate::config::{BrokerUrl, Tls};
use crate::engine::io::{LinkFault, LinkFaultKind};
use crate::lookup;
pub use files::{Doubt, examine, examine_files};
pub(crate) use files::{is_handed_over, named_by, named_otherwise, unreadable};
pub use password::{Password, password_in};

/// How long one address gets to answer.
pub const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long name, TCP and TLS get together.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long TLS gets once TCP stands. A modem at its slowest needs some seconds for a chain of certificates.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long all addresses of a name get together: TLS needs the rest.
const ADDRESSES_TIMEOUT: Duration = Duration::from_secs(20);
/// How many addresses of a name are tried.
const ADDRESSES_MAX: usize = 8;
/// What TLS may hold of what is written before the socket has taken it: one record.
const TLS_BUFFER_BYTES: usize = 16 * 1024;

/// Where to connect to and how; kept over reconnects, so that TLS sessions resume.
#[derive(Debug)]
pub struct Target {
    url: BrokerUrl,
    tls: tls::Keeper,
    handshake_timeout: Duration,
    /// How long the resolver took for the last connection.
    lookup: Mutex<Option<Duration>>,
}

impl Target {
    /// A target. `tls` is looked at for `mqtts://` only; `None` means the system's roots and no client certificate.
    #[must_use]
    pub fn new(url: BrokerUrl, tls: Option<Tls>) -> Self {
        let none = || Tls { ca_file: None, cert_file: None, key_file: None, alpn: Vec::new() };
        let tls = tls::Keeper::new(tls.unwrap_or_else(none));
        Self { url, tls, handshake_timeout: HANDSHAKE_TIMEOUT, lookup: Mutex::default() }
    }

    /// Where it is.
    #[must_use]
    pub const fn url(&self) -> &BrokerUrl {
        &self.url
    }

    /// How long the broker's name took to resolve for the last connection; nothing where its address is given.
    #[must_use]
    pub fn take_lookup(&self) -> Option<Duration> {
        self.lookup.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Looks at the TLS files now, as each connection does, and at the roots of the system, which are otherwise read
    /// once. What can be used is used from the next connection on; what can't is logged, and the old stays in use.
    pub fn reload(&self) {
        if self.url.tls {
            self.tls.look(clock::realtime());
        }
    }

    /// What an I/O error on an open stream means: the broker went, or a TLS alert came (a rejected client certificate
    /// shows up only here, after the handshake). `heard`: something came in before.
    #[must_use]
    pub fn fault_of(&self, error: &io::Error, heard: bool) -> LinkFault {
        match error.kind() {
            // The manner of going doesn't matter: a TLS peer that vanishes without close_notify is one that vanished,
            // and one that closes with our bytes unread resets.
            io::ErrorKind::UnexpectedEof => self.closed(heard),
            io::ErrorKind::ConnectionReset if !heard => self.closed(heard),
            _ => fault::of_stream(&self.url, self.tls.tls(), self.tls.own().as_ref(), error),
        }
    }

    /// What the end of the stream means where no error came with it.
    #[must_use]
    pub fn closed(&self, heard: bool) -> LinkFault {
        if heard { fault::closed(&self.url) } else { fault::closed_unheard(&self.url, self.tls.tls()) }
    }

    /// What is wrong where the first bytes that come in are none of MQTT's but those of TLS on a plain connection.
    #[must_use]
    pub fn misdirected(&self, first: &[u8]) -> Option<LinkFault> {
        fault::of_first_bytes(&self.url, first)
    }
}

/// A connection to the broker on which nothing was said yet.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over it.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Opens a connection.
///
/// # Errors
/// A fault of kind `Dns`, `Tcp` or `Tls`. TLS files that can't be loaded are a `Tls` fault too: they may be mended
/// while the agent runs.
pub async fn open(target: &Target) -> Result<Stream, LinkFault> {
    match timeout(OPEN_TIMEOUT, open_now(target)).await {
        Ok(opened) => opened,
        Err(_) => Err(fault::open_timeout(&target.url, OPEN_TIMEOUT)),
    }
}

async fn open_now(target: &Target) -> Result<Stream, LinkFault> {
    let url = &target.url;
    if !url.tls {
        return Ok(Stream::Plain(connect(target).await?));
    }
    // Before the socket: a file that can't be read is not worth a connection.
    let settings = target.tls.settings(clock::realtime())?;
    let name = ServerName::try_from(url.host.clone()).map_err(|_| {
        let detail = format!("{} is not a name that a certificate can carry: correct mqtt.url", url.host);
        LinkFault::new(LinkFaultKind::Tls, detail)
    })?;
    let tcp = connect(target).await?;
    let shaken = timeout(target.handshake_timeout, TlsConnector::from(Arc::clone(&settings.client)).connect(name, tcp));
    match shaken.await {
        Ok(Ok(mut stream)) => {
            // What it takes counts as progress of a slow link: it must not take a whole window at once.
            stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
            Ok(Stream::Tls(Box::new(stream)))
        }
        Ok(Err(error)) => {
            let tls = target.tls.tls();
            let attempt = fault::Attempt { url, tls, roots: &settings.roots, own: settings.own() };
            Err(fault::of_handshake(&attempt, settings.witness.take_refused().as_ref(), &error))
        }
        Err(_) => Err(fault::handshake_timeout(url, target.handshake_timeout)),
    }
}

async fn connect(target: &Target) -> Result<TcpStream, LinkFault> {
    let url = &target.url;
    let asked = Instant::now();
    let mut addresses = match lookup::addresses(&url.host).await.as_ref() {
        Ok(found) => in_turn(found.iter().copied()),
        Err(error) => return Err(fault::of_lookup(url, error)),
    };
    addresses.iter_mut().for_each(|address| address.set_port(url.port));
    let is_name = url.host.parse::<IpAddr>().is_err();
    *target.lookup.lock().unwrap_or_else(PoisonError::into_inner) = is_name.then(|| asked.elapsed());
    let mut last = fault::no_address(url);
    let began = Instant::now();
    for (nth, address) in (0_u32..).zip(&addresses) {
        let left = u32::try_from(addresses.len()).unwrap_or(u32::MAX).saturating_sub(nth).max(1);
        let share = ADDRESS_TIMEOUT.min(ADDRESSES_TIMEOUT.saturating_sub(began.elapsed()) / left);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A PUBACK must not wait for more to send. Where this fails it costs latency, not the connection.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = fault::of_connect(url, *address, &error),
            Err(_) => last = fault::connect_timeout(url, *address, share),
        }
    }
    Err(last)
}

/// Those of the two families by turns (RFC 8305, section 4), so that a dead uplink of one of them does not hide the
/// other.
fn in_turn(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let found: Vec<SocketAddr> = found.collect();
    let Some(preferred) = found.first().map(SocketAddr::is_ipv6) else { return found };
    let (first, second): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| address.is_ipv6() == preferred);
    let mut second = second.into_iter();
    let mut addresses: Vec<SocketAddr> =
        first.into_iter().flat_map(|address| iter::once(address).chain(second.next())).collect();
    addresses.extend(second);
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
