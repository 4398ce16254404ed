use std::fs;
use std::path::PathBuf;
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

use super::*;

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
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { certificate: params.self_signed(&key).unwrap(), key }
    }

    pub(in crate::runtime::mqtt) fn issue(&self, name: &str) -> Identity {
        self.issue_for(name, 2020, 2090)
    }

    fn issue_for(&self, name: &str, from_year: i32, to_year: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(from_year, 1, 1);
        params.not_after = date_time_ymd(to_year, 1, 1);
        Identity { certificate: params.signed_by(&key, &self.certificate, &self.key).unwrap(), key }
    }
}

/// The gateway's TLS files.
pub(in crate::runtime::mqtt) struct Files(TempDir);

impl Files {
    pub(in crate::runtime::mqtt) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
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
    stream.read_u8().await.map_err(|error| target.fault_of(&error))?;
    stream.write_all(b"!").await.map_err(|error| target.fault_of(&error))
}

async fn fault(server: &Identity, clients: Option<&Ca>, tls: Tls) -> String {
    let (port, served) = serve(acceptor(server, clients), 1).await;
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
        "localhost's certificate is not signed by a CA of {}: set mqtt.tls.ca_file to the CA of this broker",
        ca.display()
    );
    assert_eq!(detail, expected);
}

#[tokio::test]
async fn a_ca_that_was_made_anew_under_its_old_name_is_recognised() {
    let files = Files::new();
    let detail = fault(&Ca::new("ours").issue("localhost"), None, files.trusting(&Ca::new("ours"))).await;
    assert!(detail.contains("has the name but not the key of one of /"), "{detail}");
}

#[tokio::test]
async fn an_expired_certificate_says_since_when() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let detail = fault(&ca.issue_for("localhost", 2020, 2021), None, files.trusting(&ca)).await;
    assert_eq!(detail, "localhost's certificate expired on 2021-01-01: renew it on the broker");
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
    assert!(detail.ends_with(": is it signed by a CA that the broker trusts?"), "{detail}");
}

#[tokio::test]
async fn an_expired_client_certificate_is_said_to_be_expired() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let tls = files.with(&ca.issue_for("gw-1", 2020, 2021), files.trusting(&ca));
    let detail = fault(&ca.issue("localhost"), Some(&ca), tls).await;
    assert!(detail.ends_with("it has expired (CertificateExpired), renew it"), "{detail}");
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
            format!("the CA file {} can't be used: it holds no certificate in PEM", empty.display()),
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
            format!("mqtt.tls.cert_file is set ({}) but key_file is not: set both or none", at("gw.crt").display()),
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
