//! Ed25519 keys that sign commands, in the forms that any JOSE library and OpenSSL read: PKCS#8 version 1 and
//! SubjectPublicKeyInfo, as PEM (RFC 8410). Makes no randomness of its own: a seed comes in by argument.

use jsonwebtoken::EncodingKey;
use ring::signature::{Ed25519KeyPair, KeyPair};

/// What stands before the 32 bytes of the seed in a PKCS#8 version 1 Ed25519 key (RFC 8410, section 7).
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// What stands before the 32 bytes of the key in an Ed25519 SubjectPublicKeyInfo (RFC 8410, section 4).
pub(crate) const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why a key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not PEM at all.
    #[error("read the key: not PEM")]
    Pem(#[from] pem::PemError),
    /// PEM of something else.
    #[error("read the key: it is a {found:?}, a \"PRIVATE KEY\" (PKCS#8) is expected; `fieldmedic keygen` makes one")]
    Kind {
        /// The PEM's label.
        found: String,
    },
    /// A key of another algorithm, or a damaged one.
    #[error("read the key: it is no Ed25519 key: {why}; `fieldmedic keygen` makes one")]
    Rejected {
        /// In ring's words.
        why: String,
    },
    /// Signing failed.
    #[error("sign the command")]
    Sign,
}

/// A key that signs commands.
pub struct SigningKey {
    public: [u8; 32],
    encoding: EncodingKey,
}

impl SigningKey {
    /// From 32 random bytes.
    ///
    /// # Errors
    /// Never for 32 bytes that are random.
    pub fn from_seed(seed: [u8; 32]) -> Result<Self, KeyError> {
        Self::from_pkcs8(&pkcs8(seed))
    }

    /// From a PKCS#8 PEM, as `fieldmedic keygen` and `openssl genpkey -algorithm ed25519` write it.
    ///
    /// # Errors
    /// It isn't one.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let pem = pem::parse(text)?;
        if pem.tag() != "PRIVATE KEY" {
            return Err(KeyError::Kind { found: pem.tag().to_owned() });
        }
        Self::from_pkcs8(pem.contents())
    }

    /// The raw public key (RFC 8032).
    #[must_use]
    pub const fn public(&self) -> [u8; 32] {
        self.public
    }

    pub(super) const fn encoding(&self) -> &EncodingKey {
        &self.encoding
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        // Version 1 carries no public key to check against, which is what the name warns of.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map_err(|rejected| KeyError::Rejected { why: rejected.to_string() })?;
        let public = pair.public_key().as_ref().try_into();
        let public = public.map_err(|_| KeyError::Rejected { why: "its public key is not 32 bytes".into() })?;
        Ok(Self { public, encoding: EncodingKey::from_ed_der(der) })
    }
}

/// The PEM of a private key.
#[must_use]
pub fn private_pem(seed: [u8; 32]) -> String {
    encode("PRIVATE KEY", pkcs8(seed))
}

/// The PEM of a public key.
#[must_use]
pub fn public_pem(public: [u8; 32]) -> String {
    encode("PUBLIC KEY", [SPKI_HEAD.as_slice(), &public].concat())
}

fn pkcs8(seed: [u8; 32]) -> Vec<u8> {
    [PKCS8_HEAD.as_slice(), &seed].concat()
}

fn encode(tag: &str, der: Vec<u8>) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrustedKey;

    /// RFC 8037, appendix A: seed and public key.
    const RFC_SEED: [u8; 32] = [
        0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49,
        0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
    ];
    const RFC_PUBLIC: &str = "kid:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    #[test]
    fn the_public_key_is_that_of_rfc_8037() {
        let key = SigningKey::from_seed(RFC_SEED).unwrap();
        assert_eq!(TrustedKey::parse(RFC_PUBLIC).unwrap().public_key, key.public());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let key = SigningKey::from_pem(&private_pem([7; 32])).unwrap();
        assert_eq!(key.public(), SigningKey::from_seed([7; 32]).unwrap().public());
        assert_eq!(TrustedKey::from_pem("kid", &public_pem(key.public())).unwrap().public_key, key.public());
    }

    #[test]
    fn other_things_are_refused_in_words() {
        let refused = |text: &str| SigningKey::from_pem(text).err().unwrap().to_string();
        assert!(refused("hello").contains("not PEM"));
        assert!(refused(&public_pem([1; 32])).contains("PUBLIC KEY"));
        assert!(refused(&encode("PRIVATE KEY", vec![1, 2, 3])).contains("no Ed25519 key"));
    }
}
