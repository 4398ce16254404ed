//! TLS in front of a real broker's plain listener: terminates connections under settings that mosquitto doesn't offer,
//! and says how each handshake went. It looks at no MQTT.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection};

use super::pki::Pair;
use super::process::Stream;

/// What is piped at once: more than a TLS record takes.
const PIPE_BYTES: usize = 64 * 1024;

pub struct Front {
    port: u16,
    log: Stream<String>,
    _stop: oneshot::Sender<()>,
}

impl Front {
    /// `upstream` is a port on 127.0.0.1.
    pub fn start(config: ServerConfig, upstream: u16) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (stop, stopped) = oneshot::channel();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(TcpListener::from_std(listener).unwrap(), acceptor, upstream, theirs) => {}
                    // The other half is dropped with the front.
                    _ = stopped => {}
                }
            });
        });
        Self { port, log: Stream::read("the TLS front", ours, str::to_owned), _stop: stop }
    }

    /// By a name, so that it can be told apart and is sent as SNI.
    pub fn url(&self) -> String {
        format!("mqtts://localhost:{}", self.port)
    }

    /// A line for each handshake: `agreed …` with version, suite, SNI and ALPN, or `failed: …`.
    pub fn log(&self) -> &Stream<String> {
        &self.log
    }

    /// The first handshake that is told with this text.
    pub fn wait_for(&self, text: &str) -> String {
        let find = |lines: &[String]| lines.iter().find(|line| line.contains(text)).cloned();
        self.log.wait_since(0, &format!("a handshake with {text:?}"), find)
    }
}

/// Settings with all that ring can do, and this certificate; `chain` goes with it.
pub fn settings(pair: &Pair, chain: &str) -> ServerConfig {
    settings_with(ring::default_provider(), pair, chain)
}

pub fn settings_with(provider: CryptoProvider, pair: &Pair, chain: &str) -> ServerConfig {
    let pem = std::fs::read_to_string(&pair.cert).unwrap() + chain;
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    let has = |tls13| provider.cipher_suites.iter().any(|suite| suite.tls13().is_some() == tls13);
    let versions: Vec<_> =
        [(has(true), &tokio_rustls::rustls::version::TLS13), (has(false), &tokio_rustls::rustls::version::TLS12)]
            .into_iter()
            .filter_map(|(has, version)| has.then_some(version))
            .collect();
    let builder = ServerConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&versions).unwrap();
    builder.with_no_client_auth().with_single_cert(chain, key).unwrap()
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, upstream: u16, mut log: UnixStream) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let accepted = acceptor.accept(tcp).await;
        let line = match &accepted {
            Ok(stream) => agreed(stream.get_ref().1),
            Err(error) => format!("failed: {error}"),
        };
        writeln!(log, "{line}").unwrap();
        let Ok(mut outside) = accepted else { continue };
        tokio::spawn(async move {
            // A broker that is away is one that hangs up; so is either side that goes.
            let Ok(mut inside) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
            let _ = tokio::io::copy_bidirectional_with_sizes(&mut outside, &mut inside, PIPE_BYTES, PIPE_BYTES).await;
        });
    }
}

fn agreed(connection: &ServerConnection) -> String {
    let alpn = connection.alpn_protocol().map(String::from_utf8_lossy);
    format!(
        "agreed {:?} {:?} sni={} alpn={}",
        connection.protocol_version().unwrap(),
        connection.negotiated_cipher_suite().unwrap().suite(),
        connection.server_name().unwrap_or("none"),
        alpn.as_deref().unwrap_or("none")
    )
}
