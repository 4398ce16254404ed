//! The TLS settings in force. They are made of files, shared across reconnects so that sessions resume, and made anew
//! when a file's content changed, because a resumed session would keep the old identity. Files that can't be used, such
//! as a certificate that was replaced before its key, leave the last good settings in force, and are told once; a
//! failure is never kept, so that a mended file is taken up with the next connection. A connection that stands is not
//! touched.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::digest::SHA256_OUTPUT_LEN;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::{ClientConfig, Error as TlsError};

use super::fault;
use super::files::{self, Identity, Material};
use super::witness::Witness;
use super::x509::Facts;
use crate::config::Tls;
use crate::engine::io::LinkFault;
use crate::engine::time::Unix;

/// The settings for one connection.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) client: Arc<ClientConfig>,
    /// Saw the certificate that was refused.
    pub(super) witness: Arc<Witness>,
    /// Whose certificates the broker's is held against.
    pub(super) roots: Arc<str>,
    identity: Option<Arc<Identity>>,
}

impl Settings {
    /// What this gateway's own certificate says.
    pub(super) fn own(&self) -> Option<&Facts> {
        self.identity.as_ref()?.facts.as_ref()
    }
}

/// Keeps the settings and knows which files they came from.
#[derive(Debug)]
pub(super) struct Keeper {
    tls: Tls,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    good: Option<Settings>,
    /// Of the files that `good` came from. `None`: look at them as if they had changed.
    fingerprint: Option<[u8; SHA256_OUTPUT_LEN]>,
    /// What was said about the files when they were last looked at: it isn't said again.
    said: Vec<String>,
}

impl Keeper {
    pub(super) fn new(tls: Tls) -> Self {
        Self { tls, state: Mutex::default() }
    }

    pub(super) const fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The settings for the next connection: those of the files as they are, or else the last good ones.
    ///
    /// # Errors
    /// Where the files can't be used and never could.
    pub(super) fn settings(&self, now: Unix) -> Result<Settings, LinkFault> {
        let mut state = self.lock();
        let taken = self.take_up(&mut state);
        let (good, kept) = match (taken, &state.good) {
            (Ok(good), _) => (good, None),
            (Err(fault), Some(good)) => {
                (good.clone(), Some(format!("{}; what was read before stays in use", fault.detail)))
            }
            (Err(fault), None) => return Err(fault),
        };
        let doubts = files::doubts(&self.tls, good.identity.as_deref(), now).into_iter().map(|doubt| doubt.detail);
        let doubts: Vec<String> = kept.into_iter().chain(doubts).collect();
        for doubt in doubts.iter().filter(|doubt| !state.said.contains(doubt)) {
            tracing::warn!("broker: {doubt}");
        }
        state.said = doubts;
        Ok(good)
    }

    /// Looks at everything now, the roots of the system included, and takes up what can be used.
    pub(super) fn look(&self, now: Unix) {
        self.lock().fingerprint = None;
        // Where there never was anything to use, the next connection fails by it and says so.
        let _ = self.settings(now);
    }

    /// What this gateway's own certificate says, if it has one that could be used.
    pub(super) fn own(&self) -> Option<Facts> {
        self.lock().good.as_ref()?.own().cloned()
    }

    fn take_up(&self, state: &mut State) -> Result<Settings, LinkFault> {
        let found = files::fingerprint(&self.tls);
        if let Some(good) = state.good.as_ref().filter(|_| found.is_some() && found == state.fingerprint) {
            return Ok(good.clone());
        }
        let material = files::load(&self.tls, &provider()).map_err(|doubts| {
            let doubts: Vec<String> = doubts.into_iter().map(|doubt| doubt.detail).collect();
            fault::tls(doubts.join("; "))
        })?;
        let settings = build(&self.tls, material)
            .map_err(|error| fault::tls(format!("TLS can't be set up with these files: {error}")))?;
        if state.good.is_some() {
            let valid = settings.own().map(|own| format!(", valid until {}", fault::day(own.not_after)));
            tracing::info!("broker: the TLS files were read again{}", valid.unwrap_or_default());
        }
        state.good = Some(settings.clone());
        // Of what was there before it was read: a file that was replaced in between is read again next time.
        state.fingerprint = found;
        Ok(settings)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn provider() -> CryptoProvider {
    crypto::ring::default_provider()
}

fn build(tls: &Tls, Material { roots, identity }: Material) -> Result<Settings, TlsError> {
    let provider = Arc::new(provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots.store), Arc::clone(&provider))
        .build()
        .map_err(|error| TlsError::General(error.to_string()))?;
    let witness = Arc::new(Witness::new(verifier));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&witness) as _);
    let identity = identity.map(Arc::new);
    let mut client = match &identity {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own.certified)))),
        None => builder.with_no_client_auth(),
    };
    client.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect();
    Ok(Settings { client: Arc::new(client), witness, roots: roots.names.into(), identity })
}
