//! Who commands the fleet: a key pair made by `fieldmedic keygen`, and tokens signed with it by OpenSSL, which knows
//! nothing of the agent's own JOSE code.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::agent::program;
use super::process::{output_of, tool};

/// How long a command is valid where a test doesn't say.
const VALID_FOR_S: i64 = 600;

pub struct Operator {
    dir: TempDir,
    kid: String,
}

impl Operator {
    pub fn new(kid: &str) -> Self {
        let dir = TempDir::new().unwrap();
        output_of(Command::new(program()).args(["keygen", "--kid", kid, "--out"]).arg(dir.path()));
        Self { dir, kid: kid.to_owned() }
    }

    pub fn private_key(&self) -> PathBuf {
        self.dir.path().join(format!("{}.key", self.kid))
    }

    pub fn public_key(&self) -> PathBuf {
        self.dir.path().join(format!("{}.pub", self.kid))
    }

    /// A JWT (RFC 7519) over the claims, signed with EdDSA (RFC 8037).
    pub fn sign(&self, claims: &Json) -> String {
        self.sign_as(&self.kid, claims)
    }

    /// The same, under a key id that may be somebody else's.
    pub fn sign_as(&self, kid: &str, claims: &Json) -> String {
        let encode = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
        let input = format!("{}.{}", encode(&json!({"alg": "EdDSA", "typ": "JWT", "kid": kid})), encode(claims));
        // OpenSSL signs with Ed25519 in one go, which it does from a file only.
        let file = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        std::fs::write(file.path(), &input).unwrap();
        let mut openssl = tool("openssl");
        openssl.args(["pkeyutl", "-sign", "-rawin", "-inkey"]).arg(self.private_key()).arg("-in").arg(file.path());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(output_of(&mut openssl)))
    }
}

/// The claims of a command that is valid now, under an id of its own.
#[allow(clippy::needless_pass_by_value, reason = "callers write `json!({…})` there")]
pub fn claims(audience: &str, name: &str, args: Json) -> Json {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let now = unix_now();
    json!({
        "aud": audience,
        "jti": format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        "iat": now,
        "exp": now + VALID_FOR_S,
        "cmd": {"name": name, "args": args},
    })
}

/// Seconds since 1970 by this machine's clock.
pub fn unix_now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}
