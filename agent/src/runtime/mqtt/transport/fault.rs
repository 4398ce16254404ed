//! What went wrong, for a human on a gateway's console: one sentence with what is wrong, on what, and what to do about
//! it. Pure translation of errors; it opens and reads nothing.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as TlsError};

use crate::config::{BrokerUrl, Tls};
use crate::engine::io::{LinkFault, LinkFaultKind};

pub(super) fn of_lookup(url: &BrokerUrl, error: &io::Error) -> LinkFault {
    let detail = format!("{} was not found ({error}): check the name in mqtt.url and the gateway's DNS", url.host);
    LinkFault { kind: LinkFaultKind::Dns, detail }
}

pub(super) fn no_address(url: &BrokerUrl) -> LinkFault {
    let detail = format!("{} has no address: check the name in mqtt.url and the gateway's DNS", url.host);
    LinkFault { kind: LinkFaultKind::Dns, detail }
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

pub(super) fn of_handshake(url: &BrokerUrl, tls: &Tls, error: &io::Error) -> LinkFault {
    let BrokerUrl { host, port, .. } = url;
    self::tls(match tls_error(error) {
        Some(TlsError::InvalidCertificate(reason)) => bad_certificate(url, tls, reason),
        Some(TlsError::AlertReceived(alert)) => alerted(tls, *alert),
        Some(TlsError::InvalidMessage(_)) => {
            format!("what answers on {host}:{port} does not speak TLS: use its TLS port, or mqtt:// in mqtt.url")
        }
        Some(other) => format!("TLS with {host}:{port} failed: {other}"),
        None => format!("{host}:{port} closed the connection during the TLS handshake ({error}): is it a TLS port?"),
    })
}

pub(super) fn of_stream(url: &BrokerUrl, tls: &Tls, error: &io::Error) -> LinkFault {
    let BrokerUrl { host, port, .. } = url;
    match tls_error(error) {
        Some(TlsError::AlertReceived(alert)) => self::tls(alerted(tls, *alert)),
        Some(other) => self::tls(format!("TLS with {host}:{port} broke: {other}")),
        // A TLS peer that vanishes without close_notify is one that vanished: no more can be said of it.
        None if error.kind() == ErrorKind::UnexpectedEof => closed(url),
        None => LinkFault {
            kind: LinkFaultKind::Server,
            detail: format!("the connection to {host}:{port} was lost: {error}"),
        },
    }
}

pub(super) fn closed(url: &BrokerUrl) -> LinkFault {
    let detail = format!("{}:{} closed the connection without a reason", url.host, url.port);
    LinkFault { kind: LinkFaultKind::Server, detail }
}

pub(super) fn of_file(what: &str, path: &Path, error: &dyn std::fmt::Display) -> LinkFault {
    tls(format!("{what} {} can't be used: {error}", path.display()))
}

pub(super) fn tls(detail: String) -> LinkFault {
    LinkFault { kind: LinkFaultKind::Tls, detail }
}

fn tcp(detail: String) -> LinkFault {
    LinkFault { kind: LinkFaultKind::Tcp, detail }
}

fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

fn bad_certificate(url: &BrokerUrl, tls: &Tls, reason: &CertificateError) -> String {
    let host = &url.host;
    match reason {
        CertificateError::UnknownIssuer => format!(
            "{host}'s certificate is not signed by a CA of {}: set mqtt.tls.ca_file to the CA of this broker",
            roots(tls.ca_file.as_ref()),
        ),
        CertificateError::BadSignature => format!(
            "{host}'s certificate is signed by a CA that has the name but not the key of one of {}: was the CA made anew?",
            roots(tls.ca_file.as_ref()),
        ),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("{host}'s certificate expired on {}: renew it on the broker", date(not_after))
        }
        CertificateError::Expired => format!("{host}'s certificate has expired: renew it on the broker"),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "{host}'s certificate is valid from {} on, and this gateway's clock says {}: set the clock",
            date(not_before),
            date(time),
        ),
        CertificateError::NotValidYet => {
            format!("{host}'s certificate is not valid yet by this gateway's clock: set the clock")
        }
        CertificateError::NotValidForNameContext { presented, .. } => format!(
            "the certificate is not for {host} but for {}: correct the name in mqtt.url or the certificate",
            names(presented),
        ),
        CertificateError::NotValidForName => {
            format!("the certificate is not for {host}: correct the name in mqtt.url or the certificate")
        }
        other => format!("{host}'s certificate is not acceptable: {other}"),
    }
}

/// An alert means that the broker refused us.
fn alerted(tls: &Tls, alert: AlertDescription) -> String {
    let Some(cert) = &tls.cert_file else {
        return match alert {
            AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure => format!(
                "the broker refused the connection ({alert:?}): it asks for a client certificate, so set mqtt.tls.cert_file and key_file"
            ),
            _ => format!("the broker refused the connection with the TLS alert {alert:?}"),
        };
    };
    let cert = cert.display();
    match alert {
        AlertDescription::CertificateExpired => {
            format!(
                "the broker rejected this gateway's certificate {cert}: it has expired (CertificateExpired), renew it"
            )
        }
        AlertDescription::CertificateRevoked => {
            format!("the broker rejected this gateway's certificate {cert}: it is revoked (CertificateRevoked)")
        }
        AlertDescription::UnknownCA
        | AlertDescription::DecryptError
        | AlertDescription::CertificateUnknown
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRequired
        | AlertDescription::AccessDenied => format!(
            "the broker rejected this gateway's certificate {cert} ({alert:?}): is it signed by a CA that the broker trusts?"
        ),
        AlertDescription::NoApplicationProtocol => {
            format!("the broker takes none of mqtt.tls.alpn = {:?}", tls.alpn)
        }
        _ => format!("the broker refused the connection with the TLS alert {alert:?}"),
    }
}

fn roots(ca_file: Option<&PathBuf>) -> String {
    ca_file.map_or_else(|| "this system".to_owned(), |path| path.display().to_string())
}

/// rustls gives names in webpki's debug notation, `DnsName("a.example")`: only the name is of interest.
fn names(presented: &[String]) -> String {
    let plain = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
    match presented {
        [] => "no name at all".to_owned(),
        names => names.iter().map(plain).collect::<Vec<_>>().join(", "),
    }
}

fn date(time: &UnixTime) -> String {
    let known = i64::try_from(time.as_secs()).ok().and_then(|secs| Timestamp::from_second(secs).ok());
    known.map_or_else(|| format!("second {}", time.as_secs()), |date| date.strftime("%Y-%m-%d").to_string())
}
