//! Who commands the fleet: a key pair made by `fieldmedic keygen`, and tokens signed with it by OpenSSL, which knows
//! nothing of the agent's own JOSE code.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fieldmedic::wire::keys::SigningKey;
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

    /// For many commands, which the agent's own code signs: OpenSSL would take longer for them than the agent does.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_pem(&std::fs::read_to_string(self.private_key()).unwrap()).unwrap()
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

/// A token that is refused, and the contract's word for why.
pub struct Wrong {
    pub reason: &'static str,
    /// The id of the command that it is about, where it can be read.
    pub id: Json,
    pub token: String,
}

/// What is wrong with a token whatever the command in it, made of the claims of one that `operator` may send.
pub fn wrong_tokens(operator: &Operator, claims: impl Fn() -> Json) -> Vec<Wrong> {
    let now = unix_now();
    let encode = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
    let unsigned =
        |alg: &str, claims: &Json| format!("{}.{}", encode(&json!({"alg": alg, "kid": operator.kid})), encode(claims));
    // The public key, which everybody has, as the secret of an HMAC.
    let by_public_key = |claims: &Json| {
        let input = unsigned("HS256", claims);
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &std::fs::read(operator.public_key()).unwrap());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, input.as_bytes())))
    };
    let without_signature = |claims: &Json| {
        let token = operator.sign(claims);
        token[..=token.rfind('.').unwrap()].to_owned()
    };
    let stranger = Operator::new("stranger");
    let changes = [
        ("expired", json!({"iat": now - 7_200, "exp": now - 3_600})),
        ("not_yet_valid", json!({"nbf": now + 3_600, "exp": now + 7_200})),
        ("not_yet_valid", json!({"iat": now + 3_600, "exp": now + 7_200})),
        ("wrong_audience", json!({"aud": "another-gateway"})),
        ("wrong_audience", json!({"aud": "group:other"})),
        ("malformed", json!({"exp": "soon"})),
        ("malformed", json!({"cmd": "ping"})),
        // serde would take it for the command's fields, in their order.
        ("malformed", json!({"cmd": ["ping"]})),
        ("too_large", json!({"padding": "x".repeat(33 * 1024)})),
    ];
    let wrong = |reason, claims: Json, sign: &dyn Fn(&Json) -> String| {
        let token = sign(&claims);
        Wrong { reason, id: claims["jti"].clone(), token }
    };
    let mut all = vec![
        wrong("bad_signature", claims(), &|claims| stranger.sign_as(&operator.kid, claims)),
        wrong("bad_signature", claims(), &|claims| unsigned("none", claims) + "."),
        wrong("bad_signature", claims(), &by_public_key),
        wrong("bad_signature", claims(), &without_signature),
        wrong("unknown_key", claims(), &|claims| stranger.sign(claims)),
        wrong("malformed", claims(), &Json::to_string),
    ];
    for (reason, changes) in changes {
        let mut claims = claims();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        all.push(wrong(reason, claims, &|claims| operator.sign(claims)));
    }
    all
}
