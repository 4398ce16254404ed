//! The TLS files: reads them, makes of them what rustls takes, and says of each what is wrong with it, under the key
//! that names it. It must not decide what to do about a bad one: the link keeps what it had, `fieldmedic check` only
//! warns.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{self, SHA256, SHA256_OUTPUT_LEN};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::fault::day;
use super::x509::{self, Facts};
use crate::agent_user::{User, agent_user};
use crate::config::{Mqtt, Tls};
use crate::engine::observation::Severity;
use crate::engine::time::Unix;
use crate::plain_file;

/// The largest file that is read, in bytes: a bundle of all public CAs has 230 kB.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// CAs whose names a message gives.
const NAMES_SHOWN: usize = 3;
/// What expires within this is to be renewed now: somebody has to hear of it, and to come round to it.
const EXPIRES_SOON_MS: i64 = 30 * 24 * 3_600_000;
/// Access of anybody but the owner and the group, stat(2).
const MODE_OTHERS: u32 = 0o007;

/// Copies that systemd makes when it starts a service, and takes away with it.
const HANDED_OVER: &str = "/run/credentials/";

const ENCRYPTED: &str = "its key is encrypted, and nobody is there to type the passphrase: decrypt it (openssl pkey)";
const CA_FILE: &str = "mqtt.tls.ca_file";
const CERT_FILE: &str = "mqtt.tls.cert_file";
const KEY_FILE: &str = "mqtt.tls.key_file";
pub(super) const PASSWORD_FILE: &str = "mqtt.password_file";

/// Something wrong, or doubtful, about the file that a key names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Doubt {
    /// The key, such as `mqtt.tls.ca_file`.
    pub key: &'static str,
    /// An error where the file can't be used.
    pub severity: Severity,
    /// What is wrong with which file, and what to do about it.
    pub detail: String,
}

impl Doubt {
    const fn error(key: &'static str, detail: String) -> Self {
        Self { key, severity: Severity::Error, detail }
    }

    const fn warning(key: &'static str, detail: String) -> Self {
        Self { key, severity: Severity::Warning, detail }
    }
}

/// The certificates that a broker's is held against.
#[derive(Debug)]
pub(super) struct Roots {
    pub(super) store: RootCertStore,
    /// Whose they are, for messages: `CN=Plant 7 root`, or `this system`.
    pub(super) names: String,
    /// When the last of them expires; of the system's it is not asked.
    last_expiry: Option<Unix>,
}

/// This gateway's own certificate with its key.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) certified: Arc<CertifiedKey>,
    /// `None` where the certificate can be used and not be read: messages say less.
    pub(super) facts: Option<Facts>,
}

/// All files as they were at one moment.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) roots: Roots,
    pub(super) identity: Option<Identity>,
}

/// A digest over the content of all files, which tells whether one was replaced. Times and sizes don't: a deployment
/// tool may keep both. `None` where a file can't be read.
pub(super) fn fingerprint(tls: &Tls) -> Option<[u8; SHA256_OUTPUT_LEN]> {
    let mut all = digest::Context::new(&SHA256);
    for path in [&tls.ca_file, &tls.cert_file, &tls.key_file].into_iter().flatten() {
        let bytes = read(path).ok()?;
        all.update(&bytes.len().to_le_bytes());
        all.update(&bytes);
    }
    all.finish().as_ref().try_into().ok()
}

/// Reads all files.
///
/// # Errors
/// Everything that stands in the way of using them, at least one.
pub(super) fn load(tls: &Tls, provider: &CryptoProvider) -> Result<Material, Vec<Doubt>> {
    let roots = match &tls.ca_file {
        Some(path) => roots_of(path),
        None => roots_of_system(),
    };
    match (roots, identity(tls, provider)) {
        (Ok(roots), Ok(identity)) => Ok(Material { roots, identity }),
        (roots, identity) => Err(roots.err().into_iter().chain(identity.err().unwrap_or_default()).collect()),
    }
}

/// What is wrong or doubtful about the files that a configuration names, for who checks it before it is used. The roots
/// of the system are not looked at: they are the gateway's, not those of the machine that checks. Without a `now` to go
/// by no date is judged.
#[must_use]
pub fn examine(mqtt: &Mqtt, now: Option<Unix>) -> Vec<Doubt> {
    examine_files(&mqtt.tls, mqtt.password_file.as_deref(), now)
}

/// The same, for who has no configuration.
#[must_use]
pub fn examine_files(tls: &Tls, password_file: Option<&Path>, now: Option<Unix>) -> Vec<Doubt> {
    let of_ca = |path: &PathBuf| match roots_of(path) {
        Ok(roots) => now.and_then(|now| out_of_date_ca(path, &roots, now)),
        Err(wrong) => Some(wrong),
    };
    let mut doubts: Vec<Doubt> = tls.ca_file.iter().filter_map(of_ca).collect();
    match identity(tls, &super::tls::provider()) {
        Ok(identity) => doubts.extend(identity.zip(now).and_then(|(identity, now)| out_of_date(tls, &identity, now))),
        Err(wrong) => doubts.extend(wrong),
    }
    doubts.extend(open_to_others(KEY_FILE, tls.key_file.as_deref()));
    doubts.extend(password_file.and_then(password));
    doubts.extend(open_to_others(PASSWORD_FILE, password_file));
    doubts
}

/// Says where the certificate names another than this id. Brokers can be told to go by either, so it may be meant so.
pub(crate) fn named_otherwise(tls: &Tls, id: &str) -> Option<Doubt> {
    let path = tls.cert_file.as_ref()?;
    let name = x509::common_name(certificates(path).ok()?.first()?)?;
    (name != id).then(|| {
        let detail = format!(
            "the certificate {} is that of CN={name}, and this gateway's id is {id}: a broker that goes by the CN, as \
             that of configs/fleet does, lets it in and discards all that it says; give it the id that stands in the \
             certificate",
            path.display()
        );
        Doubt::warning(CERT_FILE, detail)
    })
}

/// Files that are there and that the agent's user can't read: to be asked as somebody who can, and isn't the agent.
pub(crate) fn unreadable(mqtt: &Mqtt, user: User) -> Vec<Doubt> {
    named(mqtt).filter_map(|(key, file)| Some(Doubt::error(key, user.barred_from(file)?))).collect()
}

/// The file that a key names of which there is a [`Doubt`].
pub(crate) fn named_by<'a>(mqtt: &'a Mqtt, key: &str) -> Option<&'a Path> {
    named(mqtt).find(|(named, _)| *named == key).map(|(_, file)| file)
}

/// Whether a file is a copy that systemd hands over: who looks before the service was started finds none, or that of an
/// earlier start.
pub(crate) fn is_handed_over(file: &Path) -> bool {
    file.starts_with(HANDED_OVER)
}

fn named(mqtt: &Mqtt) -> impl Iterator<Item = (&'static str, &Path)> {
    let Mqtt { tls: Tls { ca_file, cert_file, key_file, .. }, password_file, .. } = mqtt;
    let named = [(CA_FILE, ca_file), (CERT_FILE, cert_file), (KEY_FILE, key_file), (PASSWORD_FILE, password_file)];
    named.into_iter().filter_map(|(key, file)| Some((key, file.as_deref()?)))
}

/// What is doubtful about files that can be used.
pub(super) fn doubts(tls: &Tls, identity: Option<&Identity>, now: Unix) -> Vec<Doubt> {
    let out_of_date = identity.and_then(|identity| out_of_date(tls, identity, now));
    out_of_date.into_iter().chain(open_to_others(KEY_FILE, tls.key_file.as_deref())).collect()
}

/// The broker will say so too, but perhaps in no words at all.
fn out_of_date(tls: &Tls, identity: &Identity, now: Unix) -> Option<Doubt> {
    let (facts, path) = (identity.facts.as_ref()?, tls.cert_file.as_ref()?.display());
    let (subject, today) = (&facts.subject, day(now));
    let wrong = if now > facts.not_after {
        format!("expired on {}: renew it, or check this gateway's clock (it says {today})", day(facts.not_after))
    } else if now < facts.not_before {
        format!("is valid from {} on: check this gateway's clock (it says {today})", day(facts.not_before))
    } else if left_ms(facts.not_after, now) < EXPIRES_SOON_MS {
        let detail = format!("this gateway's certificate {path} ({subject}) {}", expires(facts.not_after));
        return Some(Doubt::warning(CERT_FILE, detail));
    } else {
        return None;
    };
    Some(Doubt::error(CERT_FILE, format!("this gateway's certificate {path} ({subject}) {wrong}")))
}

fn left_ms(end: Unix, now: Unix) -> i64 {
    end.0.saturating_sub(now.0)
}

fn expires(not_after: Unix) -> String {
    format!("expires on {}: renew it before", day(not_after))
}

/// The last of the CAs to expire: of a bundle some always have.
fn out_of_date_ca(path: &Path, roots: &Roots, now: Unix) -> Option<Doubt> {
    let last = roots.last_expiry.filter(|last| left_ms(*last, now) < EXPIRES_SOON_MS)?;
    let of = format!("the CA file {} ({})", path.display(), roots.names);
    Some(if last < now {
        Doubt::error(CA_FILE, format!("{of} expired on {}: get the new one from who runs the broker", day(last)))
    } else {
        Doubt::warning(CA_FILE, format!("{of} {}", expires(last)))
    })
}

fn open_to_others(key: &'static str, path: Option<&Path>) -> Option<Doubt> {
    let path = path?;
    // One that can't be looked at was told of already.
    let found = std::fs::metadata(path).ok()?;
    let mode = found.mode();
    if mode & MODE_OTHERS == 0 {
        return None;
    }
    let shown = path.display();
    let advice = agent_user().map_or_else(|| format!("chmod 0640 {shown}"), |user| user.to_keep_private(&found, path));
    let detail = format!("{shown} is open to every user of this machine (mode {:04o}): {advice}", mode & 0o7777);
    Some(Doubt::warning(key, detail))
}

fn password(path: &Path) -> Option<Doubt> {
    let wrong = super::password_in(path).err()?;
    Some(unfit(PASSWORD_FILE, "the password", path, &wrong))
}

fn roots_of(path: &Path) -> Result<Roots, Doubt> {
    let unfit = |error: &dyn std::fmt::Display| unfit(CA_FILE, "the CA file", path, error);
    let mut store = RootCertStore::empty();
    let (mut names, mut last_expiry) = (Vec::new(), None);
    for certificate in certificates(path).map_err(|error| unfit(&error))? {
        if let Some(facts) = Facts::of(&certificate) {
            names.push(facts.subject);
            last_expiry = last_expiry.max(Some(facts.not_after));
        }
        store.add(certificate).map_err(|error| unfit(&error))?;
    }
    let others = names.len().saturating_sub(NAMES_SHOWN);
    names.truncate(NAMES_SHOWN);
    let others = if others > 0 { format!(" and {others} more") } else { String::new() };
    Ok(Roots { store, names: names.join("; ") + &others, last_expiry })
}

fn roots_of_system() -> Result<Roots, Doubt> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // Old systems carry a few that can't be parsed; the others are as good as before.
    let (used, _) = store.add_parsable_certificates(found.certs);
    if used == 0 {
        let detail = "this system has no CA certificates: install them, or set mqtt.tls.ca_file".to_owned();
        return Err(Doubt::error(CA_FILE, detail));
    }
    Ok(Roots { store, names: format!("{used} public CAs"), last_expiry: None })
}

fn identity(tls: &Tls, provider: &CryptoProvider) -> Result<Option<Identity>, Vec<Doubt>> {
    let (cert_file, key_file) = match (&tls.cert_file, &tls.key_file) {
        (None, None) => return Ok(None),
        (Some(cert_file), Some(key_file)) => (cert_file, key_file),
        (Some(file), None) => return Err(vec![alone(CERT_FILE, file, KEY_FILE)]),
        (None, Some(file)) => return Err(vec![alone(KEY_FILE, file, CERT_FILE)]),
    };
    let chain = certificates(cert_file).map_err(|error| unfit(CERT_FILE, "the certificate", cert_file, &error));
    let (chain, key) = match (chain, key(key_file)) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
    };
    let facts = chain.first().and_then(|own| Facts::of(own));
    let key = provider.key_provider.load_private_key(key).map_err(|_| {
        let kinds = "it is none of RSA from 2048 bits, ECDSA P-256 or P-384, and Ed25519";
        vec![unfit(KEY_FILE, "the key", key_file, &kinds)]
    })?;
    let certified = CertifiedKey::new(chain, key);
    if !is_pair(&certified) {
        let detail = format!(
            "the key {} does not match the certificate {}: take both from the same pair",
            key_file.display(),
            cert_file.display()
        );
        return Err(vec![Doubt::error(KEY_FILE, detail)]);
    }
    Ok(Some(Identity { certified: Arc::new(certified), facts }))
}

/// Whether the key is the one that the certificate speaks of, as far as can be told. rustls's own check refuses
/// certificates of X.509 version 1, which brokers take, and whether one is taken is the broker's to say.
fn is_pair(certified: &CertifiedKey) -> bool {
    let of_certificate = certified.cert.first().and_then(|own| x509::public_key(own));
    match (of_certificate, certified.key.public_key()) {
        (Some(of_certificate), Some(own)) => of_certificate == own.as_ref(),
        _ => true,
    }
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path).map_err(|error| error.to_string())?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(missing("certificate", &text)),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("it is broken PEM ({error}): was it copied whole?")),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Doubt> {
    let unfit = |error: &dyn std::fmt::Display| unfit(KEY_FILE, "the key", path, error);
    let text = read(path).map_err(|error| unfit(&error))?;
    match PrivateKeyDer::pem_slice_iter(&text).next() {
        Some(Ok(key)) => Ok(key),
        // RFC 1421, 4.6.1.1, as `openssl ec -aes256` writes it.
        Some(Err(_)) if holds(&text, "Proc-Type: 4,ENCRYPTED") => Err(unfit(&ENCRYPTED)),
        Some(Err(error)) => Err(unfit(&format!("it is broken PEM ({error}): was it copied whole?"))),
        None => Err(unfit(&missing("private key", &text))),
    }
}

fn holds(text: &[u8], label: &str) -> bool {
    text.windows(label.len()).any(|bytes| bytes == label.as_bytes())
}

/// Why a file gives nothing of what is wanted.
fn missing(wanted: &str, text: &[u8]) -> String {
    let holds = |label: &str| holds(text, label);
    let swapped = "are cert_file and key_file the wrong way round?";
    if text.is_empty() {
        "it is empty".to_owned()
    } else if holds("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        ENCRYPTED.to_owned()
    } else if holds("-----BEGIN CERTIFICATE-----") {
        format!("it holds a certificate and no {wanted}: {swapped}")
    } else if holds("PRIVATE KEY-----") {
        format!("it holds a private key and no {wanted}: {swapped}")
    } else {
        format!("it holds no {wanted} in PEM")
    }
}

pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    plain_file::read(path, FILE_BYTES_MAX).map_err(|error| with_advice(error, path))
}

/// What the agent itself may not read, somebody has to let it.
fn with_advice(error: io::Error, path: &Path) -> io::Error {
    let denied = (error.kind() == io::ErrorKind::PermissionDenied).then(agent_user).flatten();
    let us = denied.filter(|user| user.uid == rustix::process::geteuid().as_raw());
    match us.and_then(|user| user.barred_from(path)) {
        Some(why) => io::Error::new(error.kind(), format!("{error}: {why}")),
        None => error,
    }
}

pub(super) fn unfit(key: &'static str, what: &str, path: &Path, error: &dyn std::fmt::Display) -> Doubt {
    Doubt::error(key, format!("{what} {} can't be used: {error}", path.display()))
}

fn alone(given: &'static str, file: &Path, missing: &str) -> Doubt {
    Doubt::error(given, format!("{given} is set ({}) but {missing} is not: set both or none", file.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::tests::{Ca, Files};
    use super::*;
    use crate::config;

    fn told(files: &Files, tls: Tls) -> Vec<(&'static str, String)> {
        told_of(files, tls, None)
    }

    fn told_of(files: &Files, tls: Tls, password_file: Option<&Path>) -> Vec<(&'static str, String)> {
        let file = files.write("agent.toml", "[mqtt]\nurl = \"mqtts://broker\"\n");
        let mut mqtt = config::load(&[file]).unwrap().config.mqtt;
        (mqtt.tls, mqtt.password_file) = (tls, password_file.map(Path::to_owned));
        let here = format!("{}/", files.path().display());
        // 2026-06-01.
        examine(&mqtt, Some(Unix(1_780_272_000_000)))
            .into_iter()
            .map(|doubt| (doubt.key, doubt.detail.replace(&here, "")))
            .collect()
    }

    fn private(path: &Path) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    }

    fn pair(files: &Files, ca: &Ca, to_year: i32) -> Tls {
        let tls = files.with(&ca.issue_for("gw-1", 2020, to_year), files.trusting(ca));
        private(tls.key_file.as_deref().unwrap());
        tls
    }

    #[test]
    fn good_files_are_not_spoken_of() {
        let (files, ca) = (Files::new(), Ca::new("ours"));
        assert_eq!(told(&files, pair(&files, &ca, 2090)), []);
    }

    #[test]
    fn a_certificate_of_another_name_than_the_id_is_told() {
        let (files, ca) = (Files::new(), Ca::new("ours"));
        let tls = pair(&files, &ca, 2090);
        assert_eq!(named_otherwise(&tls, "gw-1"), None);
        let doubt = named_otherwise(&tls, "gw-2").unwrap();
        assert!(doubt.detail.contains("is that of CN=gw-1, and this gateway's id is gw-2"), "{doubt}");
        assert_eq!(named_otherwise(&files.trusting(&ca), "gw-2"), None, "there is none");
    }

    #[test]
    fn an_expired_certificate_says_since_when_and_whose_it_is() {
        let (files, ca) = (Files::new(), Ca::new("ours"));
        let detail = "this gateway's certificate gw.crt (CN=gw-1) expired on 2021-01-01: \
                      renew it, or check this gateway's clock (it says 2026-06-01)";
        assert_eq!(told(&files, pair(&files, &ca, 2021)), [(CERT_FILE, detail.to_owned())]);
    }

    #[test]
    fn what_runs_out_within_a_month_is_warned_of_and_a_ca_too() {
        let (files, ca) = (Files::new(), Ca::new("ours"));
        let tls = pair(&files, &ca, 2026);
        let file = files.write("agent.toml", "[mqtt]\nurl = \"mqtts://broker\"\n");
        let mut mqtt = config::load(&[file]).unwrap().config.mqtt;
        mqtt.tls = tls;
        let severity = |now: Unix| {
            examine(&mqtt, Some(now)).into_iter().map(|doubt| (doubt.key, doubt.severity)).collect::<Vec<_>>()
        };
        let (last, ca_last) = {
            let ends = |path: &Path| Facts::of(&certificates(path).unwrap()[0]).unwrap().not_after;
            (ends(mqtt.tls.cert_file.as_deref().unwrap()), ends(mqtt.tls.ca_file.as_deref().unwrap()))
        };
        let before = |end: Unix, days: i64| Unix(end.0 - days * 24 * 3_600_000);
        assert_eq!(severity(before(last, 31)), []);
        assert_eq!(severity(before(last, 29)), [(CERT_FILE, Severity::Warning)]);
        assert_eq!(severity(before(last, -1)), [(CERT_FILE, Severity::Error)]);
        let of_ca = severity(before(ca_last, 29));
        assert!(of_ca.contains(&(CA_FILE, Severity::Warning)), "{of_ca:?}");
        let of_ca = severity(before(ca_last, -1));
        assert!(of_ca.contains(&(CA_FILE, Severity::Error)), "{of_ca:?}");
    }

    #[test]
    fn a_key_that_everybody_can_read_is_warned_of() {
        let (files, ca) = (Files::new(), Ca::new("ours"));
        let tls = pair(&files, &ca, 2090);
        fs::set_permissions(tls.key_file.as_deref().unwrap(), fs::Permissions::from_mode(0o644)).unwrap();
        let detail = "gw.key is open to every user of this machine (mode 0644): chmod 0640 gw.key";
        assert_eq!(told(&files, tls), [(KEY_FILE, detail.to_owned())]);
    }

    #[test]
    fn files_that_the_agents_user_can_not_read_are_told_to_root_who_can() {
        let (files, ca) = (Files::new(), Ca::new("ours"));
        let file = files.write("agent.toml", "[mqtt]\nurl = \"mqtts://broker\"\n");
        let mut mqtt = config::load(&[file]).unwrap().config.mqtt;
        mqtt.tls = pair(&files, &ca, 2090);
        fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let agent = User { uid: 4_000_000, gid: 4_000_001 };
        let told = unreadable(&mqtt, agent);
        let [Doubt { key: KEY_FILE, severity: Severity::Error, detail }] = told.as_slice() else { panic!("{told:?}") };
        assert!(detail.starts_with("the agent, as user fieldmedic, can't read /"), "{detail}");
        fs::set_permissions(mqtt.tls.key_file.as_deref().unwrap(), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(unreadable(&mqtt, agent), []);
    }

    #[test]
    fn files_that_hold_something_else_say_what_they_hold() {
        let (files, ca) = (Files::new(), Ca::new("ours"));
        let good = || pair(&files, &ca, 2090);
        let (cert, key) = (good().cert_file, good().key_file);
        let text = files.write("notes.txt", "not PEM at all\n");
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let encrypted = files.write("locked.key", encrypted);
        let sec1 = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIB\n\
                    -----END EC PRIVATE KEY-----\n";
        let sec1 = files.write("sec1.key", sec1);
        let odd = files.write("odd.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        [&text, &encrypted, &sec1, &odd].into_iter().for_each(|path| private(path));
        let swapped = "are cert_file and key_file the wrong way round?";
        let cases = [
            (
                Tls { cert_file: key.clone(), key_file: cert.clone(), ..good() },
                vec![
                    (
                        CERT_FILE,
                        format!(
                            "the certificate gw.key can't be used: it holds a private key and no certificate: {swapped}"
                        ),
                    ),
                    (
                        KEY_FILE,
                        format!("the key gw.crt can't be used: it holds a certificate and no private key: {swapped}"),
                    ),
                    (
                        KEY_FILE,
                        "gw.crt is open to every user of this machine (mode 0644): chmod 0640 gw.crt".to_owned(),
                    ),
                ],
            ),
            (
                Tls { key_file: Some(encrypted), ..good() },
                vec![(
                    KEY_FILE,
                    "the key locked.key can't be used: its key is encrypted, and nobody is there to type the \
                                 passphrase: decrypt it (openssl pkey)"
                        .to_owned(),
                )],
            ),
            (
                Tls { key_file: Some(sec1), ..good() },
                vec![(KEY_FILE, format!("the key sec1.key can't be used: {ENCRYPTED}"))],
            ),
            (
                Tls { key_file: Some(odd), ..good() },
                vec![(
                    KEY_FILE,
                    "the key odd.key can't be used: it is none of RSA from 2048 bits, ECDSA P-256 or \
                                 P-384, and Ed25519"
                        .to_owned(),
                )],
            ),
            (
                Tls { ca_file: Some(text), ..good() },
                vec![(CA_FILE, "the CA file notes.txt can't be used: it holds no certificate in PEM".to_owned())],
            ),
        ];
        for (tls, expected) in cases {
            assert_eq!(told(&files, tls), expected);
        }
    }

    /// As `openssl x509 -req` makes them without an extension: X.509 version 1.
    const V1_CERT: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBGzCBwwIUEGOJAGQEPOD9qy+2gAq18FJAoYswCgYIKoZIzj0EAwIwEDEOMAwG\n\
        A1UEAwwFZ3ctdjEwIBcNMjYxMTI5MTg0OTUzWhgPMjEyNjExMDUxODQ5NTNaMBAx\n\
        DjAMBgNVBAMMBWd3LXYxMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAELXxEU+1i\n\
        2cIUkM22rXQJHddNAFo1/hmfbbQrrLWHayXn9iRlwCSTMBO3favNZaOLlQhHswvz\n\
        HJ78Sk8L08M9sDAKBggqhkjOPQQDAgNHADBEAiBV0HIum6E8dY8dFCCvMEV/w9fd\n\
        SIYODvwW3KFj+Xc/pgIgJbO14f5oItjyMchzfByThcc3Kfg9xQNR0WUvG4QNTI4=\n\
        -----END CERTIFICATE-----\n";
    const V1_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgYk+D1xoXjC6zZIcc\n\
        ePTL9rj18bQ5YTGKjlpDb95WbrehRANCAAQtfERT7WLZwhSQzbatdAkd100AWjX+\n\
        GZ9ttCustYdrJef2JGXAJJMwE7d9q81lo4uVCEezC/McnvxKTwvTwz2w\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn a_certificate_of_version_1_is_used_if_the_key_is_its_own() {
        let (files, ca) = (Files::new(), Ca::new("ours"));
        let other = pair(&files, &ca, 2090);
        let (cert_file, key_file) = (files.write("v1.crt", V1_CERT), files.write("v1.key", V1_KEY));
        let tls = Tls { cert_file: Some(cert_file), key_file: Some(key_file), ..other.clone() };
        let own = identity(&tls, &super::super::tls::provider()).unwrap().unwrap();
        assert_eq!(own.facts.map(|facts| facts.subject).as_deref(), Some("CN=gw-v1"));
        let detail = "the key gw.key does not match the certificate v1.crt: take both from the same pair".to_owned();
        assert_eq!(told(&files, Tls { key_file: other.key_file, ..tls }), [(KEY_FILE, detail)]);
    }

    #[test]
    fn a_password_file_without_a_password_is_warned_of() {
        let files = Files::new();
        let none = Tls { ca_file: None, cert_file: None, key_file: None, alpn: Vec::new() };
        let path = files.write("password", "\nsecret\n");
        private(&path);
        let detail = "the password password can't be used: its first line is empty".to_owned();
        assert_eq!(told_of(&files, none.clone(), Some(&path)), [(PASSWORD_FILE, detail)]);
        fs::write(&path, "secret\n").unwrap();
        assert_eq!(told_of(&files, none, Some(&path)), []);
    }

    #[test]
    fn only_the_first_names_of_a_bundle_are_shown() {
        let files = Files::new();
        let bundle: String = (0..5).map(|n| Ca::new(&format!("CA {n}")).pem()).collect();
        let roots = roots_of(&files.write("bundle.pem", &bundle)).unwrap();
        assert_eq!((roots.names.as_str(), roots.store.len()), ("CN=CA 0; CN=CA 1; CN=CA 2 and 2 more", 5));
    }
}
