//! What a certificate says of itself: whose it is, who signed it, how long it is valid and which key is its own (RFC
//! 5280). Nothing here decides whether a certificate is to be trusted, and what a stranger wrote into one is bounded
//! and made printable before anybody reads it.

use std::time::Duration;

use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::name::Name;

use crate::engine::time::Unix;

/// The longest name that is shown, in characters: a name may be as long as its certificate.
const NAME_CHARS_MAX: usize = 120;

/// What a message may need of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whose it is, as RFC 4514 writes it: `CN=gw-0001,O=Plant 7`.
    pub(super) subject: String,
    /// Who signed it.
    pub(super) issuer: String,
    /// The first instant at which it is valid.
    pub(super) not_before: Unix,
    /// The last.
    pub(super) not_after: Unix,
}

impl Facts {
    /// Reads them from DER. `None` for what is no certificate by RFC 5280: the message then says less.
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let content = certificate.tbs_certificate();
        let validity = content.validity();
        Some(Self {
            subject: shown(content.subject()),
            issuer: shown(content.issuer()),
            not_before: instant(validity.not_before.to_unix_duration())?,
            not_after: instant(validity.not_after.to_unix_duration())?,
        })
    }
}

/// The public key that it speaks of, as the DER of a SubjectPublicKeyInfo.
pub(super) fn public_key(der: &[u8]) -> Option<Vec<u8>> {
    Certificate::from_der(der).ok()?.tbs_certificate().subject_public_key_info().to_der().ok()
}

/// The name that a broker may go by (X.520, commonName); the first, where there are more.
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    let certificate = Certificate::from_der(der).ok()?;
    let name = certificate.tbs_certificate().subject().common_name().ok()??;
    Some(printable(&name.value()))
}

fn instant(since_1970: Duration) -> Option<Unix> {
    i64::try_from(since_1970.as_millis()).ok().map(Unix)
}

/// A control character in a name must not make a line of its own in the log, nor colour it.
fn shown(name: &Name) -> String {
    let text = name.to_string();
    if text.is_empty() {
        return "nobody by name".to_owned();
    }
    printable(&text)
}

fn printable(text: &str) -> String {
    text.chars().take(NAME_CHARS_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::Ca;
    use super::*;
    use crate::wire::date::rfc3339;

    #[test]
    fn a_certificate_says_whose_it_is_who_signed_it_and_how_long_it_is_valid() {
        let identity = Ca::new("Plant 7 root").issue_for("gw-1", 2020, 2090);
        let facts = Facts::of(identity.der()).unwrap();
        assert_eq!((facts.subject.as_str(), facts.issuer.as_str()), ("CN=gw-1", "CN=Plant 7 root"));
        assert_eq!(rfc3339(facts.not_before).as_deref(), Some("2020-01-01T00:00:00.000Z"));
        assert_eq!(rfc3339(facts.not_after).as_deref(), Some("2090-01-01T00:00:00.000Z"));
    }

    #[test]
    fn a_name_can_neither_fill_the_log_nor_write_lines_of_its_own() {
        let identity = Ca::new(&format!("evil\nERROR all is lost {}", "x".repeat(100_000))).issue("gw-1");
        let issuer = Facts::of(identity.der()).unwrap().issuer;
        assert!(issuer.chars().count() <= NAME_CHARS_MAX, "{} characters", issuer.chars().count());
        assert!(!issuer.contains('\n'), "{issuer:?}");
    }

    #[test]
    fn what_is_cut_short_or_changed_is_read_or_not_but_never_more() {
        let identity = Ca::new("ours").issue("gw-1");
        let der = identity.der();
        for end in 0..der.len() {
            assert_eq!(Facts::of(&der[..end]), None, "cut at {end}");
        }
        for index in 0..der.len() {
            let mut bent = der.to_vec();
            bent[index] ^= 0xff;
            // Whatever it says now: it must say it, or nothing, and not panic.
            let names = Facts::of(&bent).map_or(0, |facts| facts.subject.len() + facts.issuer.len());
            assert!(names <= 8 * NAME_CHARS_MAX, "{names} B of names, bent at {index}");
        }
    }
}
