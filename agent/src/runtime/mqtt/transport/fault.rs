//! What went wrong, for a human on a gateway's console: one sentence with what is wrong, on what, and what to do about
//! it. Pure translation of errors; it opens and reads nothing.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as TlsError, OtherError};

use super::x509::Facts;
use crate::collect::clock;
use crate::config::{BrokerUrl, Tls};
use crate::engine::io::{LinkFault, LinkFaultKind};
use crate::engine::time::Unix;
use crate::lookup::LookupError;
use crate::wire::date;

/// How much is told of a text that was no packet.
const FIRST_LINE_MAX: usize = 32;
/// So many bytes of text at the beginning are no packet.
const FIRST_TEXT_MIN: usize = 4;

/// Who was asked, and with what.
pub(super) struct Attempt<'a> {
    pub(super) url: &'a BrokerUrl,
    pub(super) tls: &'a Tls,
    /// Whose certificates the broker's was held against.
    pub(super) roots: &'a str,
    /// What this gateway's own certificate says.
    pub(super) own: Option<&'a Facts>,
}

pub(super) fn of_lookup(url: &BrokerUrl, error: &LookupError) -> LinkFault {
    let host = &url.host;
    let detail = match error {
        LookupError::Resolver(error) => {
            format!("{host} was not found ({error}): check the name in mqtt.url and the gateway's DNS")
        }
        LookupError::NotAsked(error) => {
            format!("{host} could not be looked up: {error}: is a limit of tasks (TasksMax=, pids.max) reached?")
        }
    };
    LinkFault::new(LinkFaultKind::Dns, detail)
}

pub(super) fn no_address(url: &BrokerUrl) -> LinkFault {
    let detail = format!("{} has no address: check the name in mqtt.url and the gateway's DNS", url.host);
    LinkFault::new(LinkFaultKind::Dns, detail)
}

pub(super) fn of_connect(url: &BrokerUrl, address: SocketAddr, error: &io::Error) -> LinkFault {
    let host = &url.host;
    tcp(match error.kind() {
        ErrorKind::ConnectionRefused => {
            format!("{host} ({address}) refused the connection: is the broker running, and is the port right?")
        }
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
            format!("there is no route to {host} ({address}): is the uplink up, and is there a gateway?")
        }
        // Of a router's refusal IPv4 makes the same as of a missing route.
        ErrorKind::PermissionDenied => {
            format!("a firewall, here or on the way, forbids the connection to {host} ({address}): {error}")
        }
        ErrorKind::TimedOut => no_answer(url, address),
        _ => format!("no connection to {host} ({address}): {error}"),
    })
}

pub(super) fn connect_timeout(url: &BrokerUrl, address: SocketAddr, limit: Duration) -> LinkFault {
    tcp(format!("{} within {limit:?}", no_answer(url, address)))
}

pub(super) fn open_timeout(url: &BrokerUrl, limit: Duration) -> LinkFault {
    let BrokerUrl { host, port, .. } = url;
    tcp(format!(
        "no connection to {host}:{port} within {limit:?}: the way there loses packets, or what answers is no broker"
    ))
}

fn no_answer(url: &BrokerUrl, address: SocketAddr) -> String {
    format!("{} ({address}) does not answer, perhaps a firewall drops it: no connection", url.host)
}

/// What a handshake that failed meant. `refused` is the certificate that the broker showed, if it was refused.
pub(super) fn of_handshake(at: &Attempt<'_>, refused: Option<&Facts>, error: &io::Error) -> LinkFault {
    let BrokerUrl { host, port, .. } = at.url;
    tls(match tls_error(error) {
        Some(TlsError::InvalidCertificate(reason)) => bad_certificate(at, refused, reason),
        Some(TlsError::AlertReceived(alert)) => alerted(at.tls, at.own, *alert),
        Some(TlsError::NoApplicationProtocol) => no_protocol(at.tls),
        Some(TlsError::InvalidMessage(_)) => {
            format!("what answers on {host}:{port} does not speak TLS: use its TLS port, or mqtt:// in mqtt.url")
        }
        Some(other) => format!("TLS with {host}:{port} failed: {other}"),
        None => format!("{host}:{port} closed the connection during the TLS handshake ({error}): is it a TLS port?"),
    })
}

pub(super) fn handshake_timeout(url: &BrokerUrl, limit: Duration) -> LinkFault {
    let BrokerUrl { host, port, .. } = url;
    tls(format!(
        "{host}:{port} took the connection but did not finish the TLS handshake within {limit:?}: is it a TLS port, \
         and does the way there pass large packets (MTU)?"
    ))
}

pub(super) fn of_stream(url: &BrokerUrl, tls: &Tls, own: Option<&Facts>, error: &io::Error) -> LinkFault {
    let BrokerUrl { host, port, .. } = url;
    match tls_error(error) {
        Some(TlsError::AlertReceived(alert)) => self::tls(alerted(tls, own, *alert)),
        Some(other) => self::tls(format!("TLS with {host}:{port} broke: {other}")),
        None => LinkFault::new(LinkFaultKind::Server, format!("the connection to {host}:{port} was lost: {error}")),
    }
}

pub(super) fn closed(url: &BrokerUrl) -> LinkFault {
    let detail = format!("{}:{} closed the connection without a reason", url.host, url.port);
    LinkFault::new(LinkFaultKind::Server, detail)
}

/// A broker that hangs up before its first word wanted something else than what it was told.
pub(super) fn closed_unheard(url: &BrokerUrl, tls: &Tls) -> LinkFault {
    let BrokerUrl { host, port, .. } = url;
    let hint = match &tls.cert_file {
        _ if !url.tls => "is it a TLS port (mqtts:// in mqtt.url)?".to_owned(),
        Some(cert) => format!("does it know this gateway's certificate {} and allow device.id?", cert.display()),
        None => "does it ask for a client certificate (mqtt.tls.cert_file)?".to_owned(),
    };
    let detail = format!("{host}:{port} closed the connection without a word: {hint}");
    LinkFault::new(LinkFaultKind::Server, detail)
}

/// The first bytes of a TLS record, alert or handshake (RFC 8446, section 5.1), are no packet that a broker may send;
/// nor is text, as what answers of HTTP, SSH or SMTP begins with: of a packet the second byte or the third is too low.
pub(super) fn of_first_bytes(url: &BrokerUrl, bytes: &[u8]) -> Option<LinkFault> {
    let BrokerUrl { host, port, .. } = url;
    if !url.tls && matches!(bytes, [0x15 | 0x16, 0x03, ..]) {
        let detail =
            format!("what answers on {host}:{port} speaks TLS: write mqtts:// in mqtt.url, or use its plain port");
        return Some(tls(detail));
    }
    let line = bytes.iter().take(FIRST_LINE_MAX).take_while(|byte| matches!(byte, b' '..=b'~'));
    let line: String = line.map(|byte| char::from(*byte)).collect();
    (line.len() >= FIRST_TEXT_MIN).then(|| {
        let detail = format!(
            "what answers on {host}:{port} speaks something else than MQTT ({}): is the port right?",
            line.trim_end()
        );
        LinkFault::new(LinkFaultKind::Protocol, detail)
    })
}

pub(super) fn tls(detail: String) -> LinkFault {
    LinkFault::new(LinkFaultKind::Tls, detail)
}

fn tcp(detail: String) -> LinkFault {
    LinkFault::new(LinkFaultKind::Tcp, detail)
}

fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

fn bad_certificate(at: &Attempt<'_>, refused: Option<&Facts>, reason: &CertificateError) -> String {
    let host = &at.url.host;
    let issuer = refused.map_or("an unnamed CA", |facts| facts.issuer.as_str());
    match reason {
        CertificateError::UnknownIssuer => format!(
            "{host}'s certificate is not signed by a CA of {}, but by {issuer}: set mqtt.tls.ca_file to the CA of this broker",
            roots(at),
        ),
        CertificateError::BadSignature => format!(
            "{host}'s certificate is signed by a CA that has the name ({issuer}) but not the key of one of {}: was the CA made anew?",
            roots(at),
        ),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "{} expired on {}: renew it on the broker, or check this gateway's clock (it says {})",
            dated(host, refused, |facts| facts.not_after, not_after),
            date_of(not_after),
            date_of(time),
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "{} is valid from {} on, and this gateway's clock says {}{}: set the clock",
            dated(host, refused, |facts| facts.not_before, not_before),
            date_of(not_before),
            date_of(time),
            if instant(time) < clock::built() { ", which can't be: it is before this agent was built" } else { "" },
        ),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => format!(
            "{host}'s certificate names no host: it has no subjectAltName, and its CN is not looked at; make it anew with one"
        ),
        CertificateError::NotValidForNameContext { presented, .. } => format!(
            "the certificate is not for {host} but for {}: correct the name in mqtt.url or the certificate",
            names(presented),
        ),
        CertificateError::Other(other) => {
            format!("{host}'s certificate is not acceptable: {}", peculiar(&format!("{other:?}"), other))
        }
        other => format!("{host}'s certificate is not acceptable: {other}"),
    }
}

/// What brokers that were set up by hand get wrong. rustls passes these on from its verifier without a variant of its
/// own.
fn peculiar(debug: &str, other: &OtherError) -> String {
    let known = [
        ("CaUsedAsEndEntity", "it is that of a CA: give the broker one of its own, signed by that CA"),
        (
            "UnsupportedCertVersion",
            "it is of X.509 version 1: make it anew with a subjectAltName, which needs version 3",
        ),
    ];
    known.iter().find(|(name, _)| debug.contains(name)).map_or_else(|| other.to_string(), |(_, say)| (*say).to_owned())
}

/// Whose date it was: also a CA on the way to the root has one.
fn dated(host: &str, refused: Option<&Facts>, of: impl Fn(&Facts) -> Unix, date: &UnixTime) -> String {
    match refused {
        Some(facts) if of(facts) != instant(date) => {
            format!("a CA certificate that {host} sent with its own")
        }
        _ => format!("{host}'s certificate"),
    }
}

/// An alert means that the broker refused us.
fn alerted(tls: &Tls, own: Option<&Facts>, alert: AlertDescription) -> String {
    match (&tls.cert_file, alert) {
        (_, AlertDescription::NoApplicationProtocol) => no_protocol(tls),
        (_, AlertDescription::ProtocolVersion) => {
            "the broker speaks neither TLS 1.3 nor 1.2 (ProtocolVersion): older versions are not safe".to_owned()
        }
        (_, AlertDescription::UnrecognisedName) => {
            "the broker does not know the name that mqtt.url asks it for (UnrecognisedName): correct it".to_owned()
        }
        (None, AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure) => format!(
            "the broker refused the connection ({alert:?}): it asks for a client certificate, so set mqtt.tls.cert_file and key_file"
        ),
        (Some(path), _) if is_about_certificate(alert) => {
            let owner = own.map_or_else(String::new, |own| format!(" ({}, signed by {})", own.subject, own.issuer));
            let why = rejection(own, alert);
            format!("the broker rejected this gateway's certificate {}{owner}: {why}", path.display())
        }
        _ => format!("the broker refused the connection with the TLS alert {alert:?}"),
    }
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRequired
            | AlertDescription::AccessDenied
    )
}

fn rejection(own: Option<&Facts>, alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateExpired => {
            let since =
                own.map_or_else(|| "it has expired".to_owned(), |own| format!("valid until {}", day(own.not_after)));
            format!("{since} (CertificateExpired), renew it or check the broker's clock")
        }
        AlertDescription::CertificateRevoked => "it is revoked (CertificateRevoked), issue another".to_owned(),
        _ => format!("is it signed by a CA that the broker trusts ({alert:?})?"),
    }
}

fn no_protocol(tls: &Tls) -> String {
    format!("the broker takes none of mqtt.tls.alpn = {:?}: ask for what it offers, or leave it empty", tls.alpn)
}

fn roots(at: &Attempt<'_>) -> String {
    match &at.tls.ca_file {
        Some(path) => format!("{} ({})", path.display(), at.roots),
        None => format!("this system ({})", at.roots),
    }
}

/// rustls gives names in webpki's debug notation, `DnsName("a.example")`: only the name is of interest.
fn names(presented: &[String]) -> String {
    let plain = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
    presented.iter().map(plain).collect::<Vec<_>>().join(", ")
}

fn date_of(time: &UnixTime) -> String {
    day(instant(time))
}

fn instant(time: &UnixTime) -> Unix {
    Unix(i64::try_from(time.as_secs().saturating_mul(1_000)).unwrap_or(i64::MAX))
}

/// The date only: a time of day would make each repeat of a fault a new one.
pub(super) fn day(time: Unix) -> String {
    date::day(time).unwrap_or_else(|| format!("second {}", time.0.div_euclid(1_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reason: CertificateError) -> String {
        let url = BrokerUrl { tls: true, host: "broker".to_owned(), port: 8883 };
        let tls = Tls { ca_file: None, cert_file: None, key_file: None, alpn: Vec::new() };
        let attempt = Attempt { url: &url, tls: &tls, roots: "CN=ours", own: None };
        let error = io::Error::other(TlsError::InvalidCertificate(reason));
        of_handshake(&attempt, None, &error).detail
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn a_gateway_that_woke_up_in_1970_hears_that_its_clock_is_at_fault_and_not_the_broker() {
        let detail = told(CertificateError::NotValidYetContext { time: at(12), not_before: at(1_767_225_600) });
        let expected = "broker's certificate is valid from 2026-01-01 on, and this gateway's clock says 1970-01-01, \
                        which can't be: it is before this agent was built: set the clock";
        assert_eq!(detail, expected);
    }

    #[test]
    fn a_clock_that_may_be_right_is_told_and_not_accused() {
        let (now, soon) = (4_000_000_000, 4_100_000_000);
        let detail = told(CertificateError::NotValidYetContext { time: at(now), not_before: at(soon) });
        assert!(detail.contains("clock says 2096-10-02: set the clock"), "{detail}");
    }

    #[test]
    fn a_firewall_that_says_so_is_told_from_a_way_that_is_not_there() {
        let url = BrokerUrl { tls: false, host: "broker".to_owned(), port: 1883 };
        let address = SocketAddr::from(([192, 0, 2, 1], 1883));
        let told = |errno| of_connect(&url, address, &io::Error::from_raw_os_error(errno)).detail;
        for (errno, expected) in
            [(libc::EACCES, "firewall"), (libc::EPERM, "firewall"), (libc::EHOSTUNREACH, "no route")]
        {
            assert!(told(errno).contains(expected), "{}", told(errno));
        }
    }

    #[test]
    fn what_answers_with_text_is_shown_and_no_packet_is_taken_for_text() {
        let url = BrokerUrl { tls: false, host: "broker".to_owned(), port: 80 };
        let told = |bytes: &[u8]| of_first_bytes(&url, bytes).map(|fault| fault.detail);
        let expected = "what answers on broker:80 speaks something else than MQTT (HTTP/1.1 400 Bad Request): is the port \
                        right?";
        assert_eq!(told(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n").as_deref(), Some(expected));
        assert!(told(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n").is_some_and(|told| told.contains("SSH-2.0")));
        for packet in [&[0x20, 3, 0, 0, 0][..], b"\x32\x24\0\x20topic", b"\x40\x02\x20\x20", b"\xe0\x20\x20\x20", b" "]
        {
            assert_eq!(told(packet), None, "{packet:x?}");
        }
    }

    #[test]
    fn a_certificate_that_has_its_name_only_where_nobody_looks_is_told_from_one_with_another_name() {
        let unnamed = |presented: &[&str]| {
            let expected = tokio_rustls::rustls::pki_types::ServerName::try_from("broker").unwrap();
            let presented = presented.iter().map(|name| (*name).to_owned()).collect();
            told(CertificateError::NotValidForNameContext { expected, presented })
        };
        assert!(unnamed(&[]).contains("no subjectAltName"), "{}", unnamed(&[]));
        assert!(unnamed(&["DnsName(\"other\")"]).contains("for broker but for other:"), "{}", unnamed(&["other"]));
    }

    #[test]
    fn a_fault_that_repeats_within_a_day_is_the_same_fault() {
        let (morning, evening) = (at(1_767_250_000), at(1_767_290_000));
        let expired = |time| told(CertificateError::ExpiredContext { time, not_after: at(1_700_000_000) });
        assert_eq!(expired(morning), expired(evening));
    }
}
