//! Certificate authorities, and certificates by them with keys of every kind that a gateway or a broker may have. Keys
//! are made by OpenSSL in the encodings in which people have them.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};

use super::process::{output_of, tool};

/// A kind of key and its encoding in PEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// ECDSA P-256, PKCS#8.
    Ec,
    /// ECDSA P-256, SEC1 (RFC 5915).
    EcSec1,
    /// RSA 2048, PKCS#8.
    Rsa,
    /// RSA 2048, PKCS#1 (RFC 8017).
    RsaPkcs1,
    /// Ed25519, PKCS#8 (RFC 8410).
    Ed25519,
}

impl Key {
    pub const ALL: [Self; 5] = [Self::Ec, Self::EcSec1, Self::Rsa, Self::RsaPkcs1, Self::Ed25519];

    /// Makes one in `file`; the same as rcgen takes it.
    fn make(self, file: &Path) -> KeyPair {
        let kind: &[&str] = match self {
            Self::Ec | Self::EcSec1 => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Self::Rsa | Self::RsaPkcs1 => &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            Self::Ed25519 => &["ED25519"],
        };
        let pem = output_of(tool("openssl").args(["genpkey", "-quiet", "-algorithm"]).args(kind));
        std::fs::write(file, &pem).unwrap();
        let key = KeyPair::from_pem(std::str::from_utf8(&pem).unwrap()).unwrap();
        let label = match self {
            Self::EcSec1 => "-----BEGIN EC PRIVATE KEY-----",
            Self::RsaPkcs1 => "-----BEGIN RSA PRIVATE KEY-----",
            _ => return key,
        };
        let old = output_of(tool("openssl").args(["pkey", "-traditional", "-in"]).arg(file));
        assert!(old.starts_with(label.as_bytes()), "{self:?}: {}", String::from_utf8_lossy(&old));
        std::fs::write(file, old).unwrap();
        key
    }
}

/// A certificate and its key, in files.
#[derive(Debug, Clone)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A certificate authority.
pub struct Authority {
    certificate: Certificate,
    key: KeyPair,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { certificate: Self::params(name).self_signed(&key).unwrap(), key }
    }

    /// One below this one.
    pub fn delegate(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { certificate: Self::params(name).signed_by(&key, &self.certificate, &self.key).unwrap(), key }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Writes `STEM.pem` and `STEM.key`, valid from 2020 to 2090.
    pub fn issue(&self, dir: &Path, stem: &str, names: &[&str], key: Key) -> Pair {
        self.issue_until(dir, stem, names, key, 2090)
    }

    /// The same, valid until the first of January.
    pub fn issue_until(&self, dir: &Path, stem: &str, names: &[&str], key: Key, year: i32) -> Pair {
        let pair = Pair { cert: dir.join(format!("{stem}.pem")), key: dir.join(format!("{stem}.key")) };
        let key = key.make(&pair.key);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let subject = names[0].clone();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, subject);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.certificate, &self.key).unwrap();
        std::fs::write(&pair.cert, certificate.pem()).unwrap();
        pair
    }
}
