//! TLS settings from files: loaded once and shared across reconnects, so that sessions resume; loaded anew when a file
//! changed, because a resumed session would keep the old identity. It must not cache a failure: the file may be mended.
#![expect(clippy::disallowed_methods, reason = "a shell: it reads the TLS files")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, Error as TlsError, RootCertStore, crypto};

use super::fault;
use crate::config::Tls;
use crate::engine::io::LinkFault;

/// The largest TLS file that is read, in bytes: a bundle of all public CAs has 230 kB.
const FILE_MAX: u64 = 4 << 20;

/// The settings in force, and the files that they came from.
#[derive(Debug)]
pub(super) struct Loaded {
    config: Arc<ClientConfig>,
    stamps: Vec<Stamp>,
}

/// Enough of a file's metadata to notice that it was replaced.
type Stamp = Option<(SystemTime, u64)>;

/// The settings for the next connection.
pub(super) fn config(tls: &Tls, loaded: &Mutex<Option<Loaded>>) -> Result<Arc<ClientConfig>, LinkFault> {
    let stamps = stamps(tls);
    let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = loaded.as_ref().filter(|known| known.stamps == stamps) {
        return Ok(Arc::clone(&known.config));
    }
    let config = Arc::new(load(tls)?);
    *loaded = Some(Loaded { config: Arc::clone(&config), stamps });
    Ok(config)
}

fn stamps(tls: &Tls) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    [&tls.ca_file, &tls.cert_file, &tls.key_file].into_iter().flatten().map(stamp).collect()
}

fn load(tls: &Tls) -> Result<ClientConfig, LinkFault> {
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| fault::tls(format!("TLS can't be set up: {error}")))?
        .with_root_certificates(roots(tls.ca_file.as_deref())?);
    let mut config = match (&tls.cert_file, &tls.key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert_file), Some(key_file)) => {
            let chain = certificates("the certificate", cert_file)?;
            let key = key(key_file)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                TlsError::InconsistentKeys(_) => fault::tls(format!(
                    "the key {} does not match the certificate {}: take both from the same pair",
                    key_file.display(),
                    cert_file.display()
                )),
                other => fault::of_file("the certificate", cert_file, &other),
            })?
        }
        (Some(file), None) => return Err(alone("cert_file", file, "key_file")),
        (None, Some(file)) => return Err(alone("key_file", file, "cert_file")),
    };
    config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect();
    Ok(config)
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, LinkFault> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        let found = rustls_native_certs::load_native_certs();
        // Old systems carry a few that can't be parsed; the others are as good as before.
        let (used, _) = roots.add_parsable_certificates(found.certs);
        if used == 0 {
            let detail = "this system has no CA certificates: install them, or set mqtt.tls.ca_file";
            return Err(fault::tls(detail.to_owned()));
        }
        return Ok(roots);
    };
    for certificate in certificates("the CA file", path)? {
        roots.add(certificate).map_err(|error| fault::of_file("the CA file", path, &error))?;
    }
    Ok(roots)
}

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, LinkFault> {
    let text = read(path).map_err(|error| fault::of_file(what, path, &error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(fault::of_file(what, path, &"it holds no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(fault::of_file(what, path, &error)),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, LinkFault> {
    let text = read(path).map_err(|error| fault::of_file("the key", path, &error))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| fault::of_file("the key", path, &error))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let len = fs::metadata(path)?.len();
    if len > FILE_MAX {
        return Err(io::Error::other(format!("it has {len} B, the limit is {FILE_MAX} B")));
    }
    fs::read(path)
}

fn alone(given: &str, file: &Path, missing: &str) -> LinkFault {
    fault::tls(format!("mqtt.tls.{given} is set ({}) but {missing} is not: set both or none", file.display()))
}
