use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{HandshakeKind, RootCertStore, ServerConfig, crypto};

use super::clock::realtime as now;
use super::*;
use crate::own_thread::tests::NoThreads;

/// A certificate authority.
pub(in crate::runtime::mqtt) struct Ca {
    certificate: Certificate,
    key: KeyPair,
}

pub(in crate::runtime::mqtt) struct Identity {
    certificate: Certificate,
    key: KeyPair,
}

impl Ca {
    pub(in crate::runtime::mqtt) fn new(name: &str) -> Self {
        let (key, params) = (KeyPair::generate().unwrap(), Self::params(name, &[]));
        Self { certificate: params.self_signed(&key).unwrap(), key }
    }

    /// As `openssl req -x509` makes it: a CA that a broker is then given as its own certificate.
    fn for_host(name: &str) -> Self {
        let (key, params) = (KeyPair::generate().unwrap(), Self::params(name, &[name.to_owned()]));
        Self { certificate: params.self_signed(&key).unwrap(), key }
    }

    pub(super) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A CA below this one.
    fn delegate(&self, name: &str, to_year: i32) -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), Self::params(name, &[]));
        params.not_after = date_time_ymd(to_year, 1, 1);
        Self { certificate: params.signed_by(&key, &self.certificate, &self.key).unwrap(), key }
    }

    fn params(name: &str, hosts: &[String]) -> CertificateParams {
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    pub(in crate::runtime::mqtt) fn issue(&self, name: &str) -> Identity {
        self.issue_for(name, 2020, 2090)
    }

    pub(super) fn issue_for(&self, name: &str, from_year: i32, to_year: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(from_year, 1, 1);
        params.not_after = date_time_ymd(to_year, 1, 1);
        Identity { certificate: params.signed_by(&key, &self.certificate, &self.key).unwrap(), key }
    }
}

impl Identity {
    pub(super) fn der(&self) -> &[u8] {
        self.certificate.der()
    }
}

/// The gateway's TLS files.
pub(in crate::runtime::mqtt) struct Files(TempDir);

impl Files {
    pub(in crate::runtime::mqtt) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub(in crate::runtime::mqtt) fn trusting(&self, ca: &Ca) -> Tls {
        let ca_file = Some(self.write("ca.pem", &ca.certificate.pem()));
        Tls { ca_file, cert_file: None, key_file: None, alpn: Vec::new() }
    }

    pub(in crate::runtime::mqtt) fn with(&self, identity: &Identity, tls: Tls) -> Tls {
        Tls {
            cert_file: Some(self.write("gw.crt", &identity.certificate.pem())),
            key_file: Some(self.write("gw.key", &identity.key.serialize_pem())),
            ..tls
        }
    }
}

/// A broker's TLS settings; with `clients`, only who has a certificate of that CA is let in.
pub(in crate::runtime::mqtt) fn acceptor(server: &Identity, clients: Option<&Ca>) -> TlsAcceptor {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(ca.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::try_from(server.key.serialize_der()).unwrap();
    let config = builder.with_single_cert(vec![server.certificate.der().clone()], key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// The same for a broker that sends these CAs with its certificate.
fn acceptor_of(server: &Identity, between: &[&Ca]) -> TlsAcceptor {
    let builder = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let own = iter::once(&server.certificate).chain(between.iter().map(|ca| &ca.certificate));
    let chain = own.map(|certificate| certificate.der().clone()).collect();
    let key = PrivateKeyDer::try_from(server.key.serialize_der()).unwrap();
    TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
}

pub(in crate::runtime::mqtt) fn url(tls: bool, host: &str, port: u16) -> BrokerUrl {
    BrokerUrl { tls, host: host.to_owned(), port }
}

/// Accepts `connections` one after the other; how each handshake went.
async fn serve(acceptor: TlsAcceptor, connections: usize) -> (u16, JoinHandle<Vec<Option<HandshakeKind>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut kinds = Vec::new();
        for _ in 0..connections {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(tcp).await else {
                kinds.push(None);
                continue;
            };
            kinds.push(stream.get_ref().1.handshake_kind());
            // One byte each way, so that the client has read its session tickets; its end may come instead.
            let _ = stream.write_all(b"!").await;
            let _ = stream.read_u8().await;
        }
        kinds
    });
    (port, task)
}

/// Opens, and reads one byte as the link would.
async fn talk(target: &Target) -> Result<(), LinkFault> {
    let mut stream = open(target).await?;
    stream.read_u8().await.map_err(|error| target.fault_of(&error, false))?;
    stream.write_all(b"!").await.map_err(|error| target.fault_of(&error, false))
}

async fn fault(server: &Identity, clients: Option<&Ca>, tls: Tls) -> String {
    fault_with(acceptor(server, clients), tls).await
}

async fn fault_with(acceptor: TlsAcceptor, tls: Tls) -> String {
    let (port, served) = serve(acceptor, 1).await;
    let fault = talk(&Target::new(url(true, "localhost", port), Some(tls))).await.unwrap_err();
    assert_eq!(fault.kind, LinkFaultKind::Tls, "{}", fault.detail);
    served.await.unwrap();
    fault.detail
}

#[tokio::test]
async fn a_ca_that_is_not_ours_is_named_with_the_file_that_was_looked_at() {
    let files = Files::new();
    let detail = fault(&Ca::new("theirs").issue("localhost"), None, files.trusting(&Ca::new("ours"))).await;
    let ca = files.0.path().join("ca.pem");
    let expected = format!(
        "localhost's certificate is not signed by a CA of {} (CN=ours), but by CN=theirs: \
         set mqtt.tls.ca_file to the CA of this broker",
        ca.display()
    );
    assert_eq!(detail, expected);
}

#[tokio::test]
async fn a_ca_that_was_made_anew_under_its_old_name_is_recognised() {
    let files = Files::new();
    let detail = fault(&Ca::new("ours").issue("localhost"), None, files.trusting(&Ca::new("ours"))).await;
    assert!(detail.contains("has the name (CN=ours) but not the key of one of /"), "{detail}");
}

#[tokio::test]
async fn an_expired_certificate_says_since_when() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let detail = fault(&ca.issue_for("localhost", 2020, 2021), None, files.trusting(&ca)).await;
    let expected = "localhost's certificate expired on 2021-01-01: \
                    renew it on the broker, or check this gateway's clock (it says ";
    assert!(detail.starts_with(expected), "{detail}");
}

#[tokio::test]
async fn a_certificate_from_the_future_points_at_the_gateway_s_clock() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let detail = fault(&ca.issue_for("localhost", 2089, 2090), None, files.trusting(&ca)).await;
    assert!(detail.starts_with("localhost's certificate is valid from 2089-01-01 on"), "{detail}");
    assert!(detail.ends_with(": set the clock"), "{detail}");
}

#[tokio::test]
async fn a_certificate_for_another_name_says_for_which() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let detail = fault(&ca.issue("other.example"), None, files.trusting(&ca)).await;
    let expected = "the certificate is not for localhost but for other.example: \
                    correct the name in mqtt.url or the certificate";
    assert_eq!(detail, expected);
}

#[tokio::test]
async fn a_rejected_client_certificate_is_said_plainly_although_the_handshake_went_well() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let stranger = Ca::new("stranger").issue("gw-1");
    let tls = files.with(&stranger, files.trusting(&ca));
    let detail = fault(&ca.issue("localhost"), Some(&ca), tls).await;
    assert!(detail.starts_with("the broker rejected this gateway's certificate /"), "{detail}");
    assert!(detail.contains(" (CN=gw-1, signed by CN=stranger): is it signed by a CA that the broker"), "{detail}");
}

#[tokio::test]
async fn an_expired_client_certificate_is_said_to_be_expired() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let tls = files.with(&ca.issue_for("gw-1", 2020, 2021), files.trusting(&ca));
    let detail = fault(&ca.issue("localhost"), Some(&ca), tls).await;
    assert!(detail.contains("valid until 2021-01-01 (CertificateExpired), renew it"), "{detail}");
}

#[tokio::test]
async fn a_broker_that_wants_a_client_certificate_is_understood() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let detail = fault(&ca.issue("localhost"), Some(&ca), files.trusting(&ca)).await;
    assert!(detail.contains("it asks for a client certificate, so set mqtt.tls.cert_file and key_file"), "{detail}");
}

#[tokio::test]
async fn files_that_can_not_be_used_are_a_fault_that_names_them_and_needs_no_broker() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let good = || files.with(&ca.issue("gw-1"), files.trusting(&ca));
    let at = |name: &str| files.0.path().join(name);
    let empty = files.write("empty.pem", "");
    let other_key = files.write("other.key", &KeyPair::generate().unwrap().serialize_pem());
    let cases = [
        (
            Tls { ca_file: Some(at("no.pem")), ..good() },
            format!("the CA file {} can't be used: No such file or directory (os error 2)", at("no.pem").display()),
        ),
        (
            Tls { ca_file: Some(empty.clone()), ..good() },
            format!("the CA file {} can't be used: it is empty", empty.display()),
        ),
        (
            Tls { key_file: Some(other_key.clone()), ..good() },
            format!(
                "the key {} does not match the certificate {}: take both from the same pair",
                other_key.display(),
                at("gw.crt").display()
            ),
        ),
        (
            Tls { key_file: None, ..good() },
            format!(
                "mqtt.tls.cert_file is set ({}) but mqtt.tls.key_file is not: set both or none",
                at("gw.crt").display()
            ),
        ),
    ];
    for (tls, expected) in cases {
        // Port 1 is not asked: the files come first.
        let fault = open(&Target::new(url(true, "localhost", 1), Some(tls))).await.unwrap_err();
        assert_eq!((fault.kind, fault.detail), (LinkFaultKind::Tls, expected));
    }
}

#[tokio::test]
async fn reconnects_resume_until_a_file_changes_and_then_carry_the_new_identity() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let tls = files.with(&ca.issue("gw-1"), files.trusting(&ca));
    let (port, served) = serve(acceptor(&ca.issue("localhost"), Some(&ca)), 3).await;
    let target = Target::new(url(true, "localhost", port), Some(tls.clone()));
    talk(&target).await.unwrap();
    talk(&target).await.unwrap();
    files.with(&ca.issue("gw-1-renewed"), tls);
    talk(&target).await.unwrap();

    let kinds = served.await.unwrap();
    let [first, second, third] = kinds[..] else { panic!("{kinds:?}") };
    assert_eq!(second, Some(HandshakeKind::Resumed));
    assert_eq!((first, third), (Some(HandshakeKind::Full), Some(HandshakeKind::Full)));
}

#[tokio::test]
async fn a_pair_that_is_half_replaced_leaves_the_last_good_one_in_use_until_it_is_whole() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let (old, new) = (ca.issue("gw-old"), ca.issue("gw-new"));
    let tls = files.with(&old, files.trusting(&ca));
    let (port, served) = serve(acceptor(&ca.issue("localhost"), Some(&ca)), 5).await;
    let target = Target::new(url(true, "localhost", port), Some(tls));
    let whole_key = new.key.serialize_pem();
    let steps = [
        ("gw.crt", old.certificate.pem(), "CN=gw-old"),
        ("gw.crt", new.certificate.pem(), "CN=gw-old"),
        ("gw.key", String::new(), "CN=gw-old"),
        ("gw.key", whole_key[..whole_key.len() / 2].to_owned(), "CN=gw-old"),
        ("gw.key", whole_key, "CN=gw-new"),
    ];
    for (step, (file, text, own)) in steps.into_iter().enumerate() {
        files.write(file, &text);
        talk(&target).await.unwrap();
        assert_eq!(target.tls.own().unwrap().subject, own, "step {step}");
    }

    let kinds = served.await.unwrap();
    let resumed = Some(HandshakeKind::Resumed);
    assert_eq!(kinds, [Some(HandshakeKind::Full), resumed, resumed, resumed, Some(HandshakeKind::Full)]);
}

#[tokio::test]
async fn a_file_that_was_replaced_by_one_of_its_size_and_time_is_noticed() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let tls = files.with(&ca.issue("gw-1"), files.trusting(&ca));
    let path = tls.ca_file.clone().unwrap();
    let before = fs::metadata(&path).unwrap();
    let target = Target::new(url(true, "localhost", 1), Some(tls));
    target.tls.settings(now()).unwrap();
    files.write("ca.pem", &Ca::new("rous").certificate.pem());
    fs::File::options().append(true).open(&path).unwrap().set_modified(before.modified().unwrap()).unwrap();

    let settings = target.tls.settings(now()).unwrap();
    assert_eq!(&*settings.roots, "CN=rous");
}

#[tokio::test]
async fn a_hangup_looks_at_the_files_and_breaks_nothing() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let target = Target::new(url(true, "localhost", 1), Some(files.trusting(&ca)));
    target.reload();
    let before = target.tls.settings(now()).unwrap().client;
    target.reload();
    let after = target.tls.settings(now()).unwrap().client;
    assert!(!Arc::ptr_eq(&before, &after), "the roots of the system would not be read again");
    fs::remove_file(files.0.path().join("ca.pem")).unwrap();
    target.reload();
    let kept = target.tls.settings(now()).unwrap().client;
    assert!(Arc::ptr_eq(&after, &kept));
}

#[tokio::test]
async fn a_broker_that_takes_the_connection_and_never_shakes_hands_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let files = Files::new();
    let mut target = Target::new(url(true, "localhost", port), Some(files.trusting(&Ca::new("ours"))));
    target.handshake_timeout = Duration::from_millis(20);
    let fault = open(&target).await.unwrap_err();
    assert_eq!(fault.kind, LinkFaultKind::Tls);
    assert!(fault.detail.contains("did not finish the TLS handshake within 20ms"), "{}", fault.detail);
}

#[tokio::test]
async fn a_broker_that_shows_the_certificate_of_its_ca_is_told_to_get_one_of_its_own() {
    let (ca, files) = (Ca::for_host("localhost"), Files::new());
    let tls = files.trusting(&ca);
    let server = Identity { certificate: ca.certificate, key: ca.key };
    let detail = fault(&server, None, tls).await;
    assert!(detail.ends_with("it is that of a CA: give the broker one of its own, signed by that CA"), "{detail}");
}

#[tokio::test]
async fn an_expired_ca_between_the_broker_and_the_root_is_not_taken_for_the_broker_s_certificate() {
    let (root, files) = (Ca::new("root"), Files::new());
    let between = root.delegate("between", 2021);
    let server = between.issue("localhost");
    let detail = fault_with(acceptor_of(&server, &[&between]), files.trusting(&root)).await;
    let expected = "a CA certificate that localhost sent with its own expired on 2021-01-01: ";
    assert!(detail.starts_with(expected), "{detail}");
}

#[tokio::test]
async fn a_broker_that_hangs_up_before_its_first_word_is_told_with_what_it_may_have_missed() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let bare = || files.trusting(&ca);
    let cases = [
        (url(false, "broker", 1883), bare(), "is it a TLS port (mqtts:// in mqtt.url)?"),
        (url(true, "broker", 8883), bare(), "does it ask for a client certificate (mqtt.tls.cert_file)?"),
        (url(true, "broker", 8883), files.with(&ca.issue("gw-1"), bare()), "gw.crt and allow device.id?"),
    ];
    for (url, tls, hint) in cases {
        let target = Target::new(url, Some(tls));
        let fault = target.closed(false);
        assert_eq!(fault.kind, LinkFaultKind::Server);
        assert!(fault.detail.ends_with(hint), "{}", fault.detail);
        assert_eq!(target.fault_of(&io::ErrorKind::ConnectionReset.into(), false), fault);
        assert!(!target.closed(true).detail.contains(hint), "{}", target.closed(true).detail);
    }
}

#[tokio::test]
async fn a_plain_connection_to_a_tls_port_is_recognised_by_what_comes_back() {
    let target = Target::new(url(false, "localhost", 8883), None);
    // A fatal alert, protocol_version, as OpenSSL answers a CONNECT.
    let fault = target.misdirected(&[0x15, 3, 1, 0, 2, 2, 70]).unwrap();
    assert_eq!(
        fault.detail,
        "what answers on localhost:8883 speaks TLS: write mqtts:// in mqtt.url, or use its plain port"
    );
    assert_eq!(target.misdirected(&[0x20, 2, 0, 0]), None, "a CONNACK");
}

#[tokio::test]
async fn a_port_that_does_not_speak_tls_is_recognised() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 plain text\r\n").await.unwrap();
        let mut rest = Vec::new();
        // The client goes away in its own manner.
        let _ = stream.read_to_end(&mut rest).await;
    });
    let files = Files::new();
    let target = Target::new(url(true, "localhost", port), Some(files.trusting(&Ca::new("ours"))));
    let fault = open(&target).await.unwrap_err();
    assert_eq!(fault.kind, LinkFaultKind::Tls);
    let expected =
        format!("what answers on localhost:{port} does not speak TLS: use its TLS port, or mqtt:// in mqtt.url");
    assert_eq!(fault.detail, expected);
    plain.await.unwrap();
}

#[tokio::test]
async fn a_port_where_nobody_listens_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let fault = open(&Target::new(url(false, "127.0.0.1", address.port()), None)).await.unwrap_err();
    let expected =
        format!("127.0.0.1 ({address}) refused the connection: is the broker running, and is the port right?");
    assert_eq!((fault.kind, fault.detail), (LinkFaultKind::Tcp, expected));
}

#[tokio::test]
async fn a_name_without_an_address_is_a_matter_of_dns() {
    // A label of more than 63 bytes (RFC 1035, 2.3.4): no resolver needs to be asked.
    let host = format!("{}.example", "x".repeat(64));
    let fault = open(&Target::new(url(false, &host, 1883), None)).await.unwrap_err();
    assert_eq!(fault.kind, LinkFaultKind::Dns);
    assert!(fault.detail.starts_with(&format!("{host} was not found (")), "{}", fault.detail);
    assert!(fault.detail.ends_with("): check the name in mqtt.url and the gateway's DNS"), "{}", fault.detail);
}

#[tokio::test]
async fn where_there_is_no_thread_to_look_a_name_up_the_name_is_not_blamed() {
    let none = NoThreads::begin();
    let fault = open(&Target::new(url(false, "broker-1.example", 1883), None)).await.unwrap_err();
    drop(none);
    assert_eq!(fault.kind, LinkFaultKind::Dns);
    let expected = "broker-1.example could not be looked up: the system gives no thread: ";
    assert!(fault.detail.starts_with(expected), "{}", fault.detail);
}

#[test]
fn addresses_of_both_families_are_tried_by_turns() {
    let parse = |text: &str| -> SocketAddr { text.parse().unwrap() };
    let six: Vec<SocketAddr> = (1..=9).map(|n| parse(&format!("[2001:db8::{n}]:1883"))).collect();
    let four = [parse("192.0.2.1:1883"), parse("192.0.2.2:1883")];
    let tried = in_turn(six.iter().chain(&four).copied());
    assert_eq!(tried, [six[0], four[0], six[1], four[1], six[2], six[3], six[4], six[5]]);
    assert_eq!(in_turn(four.iter().chain(&six[..1]).copied()), [four[0], six[0], four[1]]);
    assert_eq!(in_turn(iter::empty()), []);
}
