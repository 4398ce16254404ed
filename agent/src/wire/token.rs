//! Commands as tokens: a JWT in JWS compact form, signed with Ed25519 (RFC 7519, 7515, 8037). Checks everything that
//! doesn't change with time: form, signature, audience. Whether the time is right is judged by the engine.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value as Json};

use super::keys::{KeyError, SigningKey};
use super::{CommandId, Reason, Refusal, VerifiedCommand};
use crate::config;

/// The most bytes in a command.
pub const COMMAND_LEN_MAX: usize = 32 * 1024;
/// What the one kind of signature that is taken may be called: as RFC 8037 has it, and as RFC 9864 does.
const ALGORITHMS: [&str; 2] = ["EdDSA", "Ed25519"];
/// The most bytes in a nonce.
const NONCE_LEN_MAX: usize = 64;
/// The most bytes in a command's name.
const NAME_LEN_MAX: usize = 64;
/// The longest that a command may ask to take, in seconds: a day.
pub const TIMEOUT_MAX_S: u64 = 86_400;
/// Up to here a double tells whole numbers from each other (2^53).
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
/// Arguments of commands that are text, whatever they look like (docs/contract.md).
const TEXT_ARGS: [&str; 7] = ["command_id", "interface", "level", "runbook", "target", "to", "unit"];

/// Whom commands may be addressed to here.
#[derive(Debug, Clone, Copy)]
pub struct Audience<'a> {
    /// The device's id.
    pub device: &'a str,
    /// Its groups.
    pub groups: &'a [String],
}

impl<'a> Audience<'a> {
    /// As configured.
    #[must_use]
    pub fn of(device: &'a config::Device) -> Self {
        Self { device: device.id.as_str(), groups: &device.groups }
    }
}

/// What a token claims. `Serialize` is for those who sign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// A device id, or `group:NAME`.
    aud: Aud,
    jti: String,
    iat: Number,
    exp: Number,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
    #[serde(deserialize_with = "object")]
    cmd: Cmd,
}

/// A JSON object: serde would also take a list for a struct, by the order of its fields.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }

        json.deserialize_map(Members(PhantomData)).map(Self)
    }
}

fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(json: D) -> Result<T, D::Error> {
    Object::deserialize(json).map(|Object(value)| value)
}

/// RFC 7519, section 4.1.3: one, or several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "aud: a device id or group:NAME, or a list of these, is expected")]
enum Aud {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Cmd {
    name: String,
    #[serde(default, deserialize_with = "args")]
    args: Map<String, Json>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "duration")]
    timeout_s: Option<u64>,
}

/// Whoever leaves a member out may also write null. Which of two was meant can't be told; what is within an argument is
/// nobody's name, and of two there the last counts.
fn args<'de, D: Deserializer<'de>>(args: D) -> Result<Map<String, Json>, D::Error> {
    struct Members;

    impl<'de> Visitor<'de> for Members {
        type Value = Map<String, Json>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Map::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            let mut args = Map::new();
            while let Some(name) = members.next_key::<String>()? {
                if args.contains_key(&name) {
                    return Err(A::Error::custom(format!("args.{name} stands twice")));
                }
                args.insert(name, members.next_value()?);
            }
            Ok(args)
        }
    }

    args.deserialize_any(Members)
}

fn duration<'de, D: Deserializer<'de>>(seconds: D) -> Result<Option<u64>, D::Error> {
    let Some(seconds) = Option::<Number>::deserialize(seconds)? else { return Ok(None) };
    whole(&seconds).map(Some).ok_or_else(|| D::Error::custom(format!("{seconds} is no number of whole seconds")))
}

/// A whole number that isn't negative, also as 30.0: some senders know no other numbers (RFC 8259, section 6).
pub(crate) fn whole(number: &Number) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is whole, and within what is exact"
    )]
    let from_float = |value: f64| ((0.0..=EXACT_MAX).contains(&value) && value.fract() == 0.0).then_some(value as u64);
    number.as_u64().or_else(|| number.as_f64().and_then(from_float))
}

/// The token's header. Unknown members are ignored, but for `crit`, which says that they must not be.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Whether it is there, whatever it says.
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

fn present<'de, D: Deserializer<'de>>(json: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(json).map(|_| true)
}

impl Claims {
    /// Claims of a command that is valid from `iat` to `exp` (seconds since 1970).
    #[must_use]
    pub fn new(audience: &str, id: &CommandId, name: &str, iat: i64, exp: i64) -> Self {
        let cmd = Cmd { name: name.to_owned(), args: Map::new(), timeout_s: None };
        let aud = Aud::One(audience.to_owned());
        Self { aud, jti: id.as_str().to_owned(), iat: iat.into(), exp: exp.into(), nbf: None, nonce: None, cmd }
    }

    /// The same, with an argument.
    #[must_use]
    pub fn arg(mut self, key: &str, value: Json) -> Self {
        self.cmd.args.insert(key.to_owned(), value);
        self
    }

    /// The same, with the nonce of the device's presence message.
    #[must_use]
    pub fn nonce(mut self, nonce: Option<String>) -> Self {
        self.nonce = nonce;
        self
    }

    /// The same, with a limit on how long it may take.
    #[must_use]
    pub fn timeout_s(mut self, timeout_s: Option<u64>) -> Self {
        self.cmd.timeout_s = timeout_s;
        self
    }
}

/// Signs claims: the text to publish on a command topic.
///
/// # Errors
/// The key can't sign.
pub fn sign(claims: &Claims, kid: &str, key: &SigningKey) -> Result<String, KeyError> {
    let header = serde_json::json!({"alg": "EdDSA", "kid": kid, "typ": "JWT"});
    let claims = serde_json::to_vec(claims).map_err(|_| KeyError::Sign)?;
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
    let signature = crypto::sign(message.as_bytes(), key.encoding(), Algorithm::EdDSA).map_err(|_| KeyError::Sign)?;
    Ok(format!("{message}.{signature}"))
}

/// Checks a message from a command topic. `topic_group`: the group that the topic belongs to, if it isn't the device's
/// own.
///
/// # Errors
/// [`Refusal`], with the id and the name that it claims, as far as they can be read.
pub fn verify(
    payload: &[u8],
    audience: &Audience<'_>,
    topic_group: Option<&str>,
    commands: &config::Commands,
) -> Result<VerifiedCommand, Refusal> {
    checked(payload, audience, topic_group, commands).map_err(|(reason, detail)| {
        let (claimed_id, claimed_name) = claimed(payload);
        Refusal { reason, claimed_id, claimed_name, detail }
    })
}

type Refused = (Reason, String);

fn checked(
    payload: &[u8],
    audience: &Audience<'_>,
    topic_group: Option<&str>,
    commands: &config::Commands,
) -> Result<VerifiedCommand, Refused> {
    if payload.len() > COMMAND_LEN_MAX {
        return Err((Reason::TooLarge, format!("{} B; a command has at most {COMMAND_LEN_MAX} B", payload.len())));
    }
    let text = std::str::from_utf8(payload).map_err(|_| malformed("not UTF-8"))?.trim();
    let (kid, claims) = if text.starts_with('{') && !commands.require_signature {
        (None, text.as_bytes().to_vec())
    } else {
        let (kid, claims) = signed(text, &commands.trusted_keys)?;
        (Some(kid), claims)
    };
    let Object(claims): Object<Claims> =
        serde_json::from_slice(&claims).map_err(|error| malformed(&format!("claims: {error}")))?;
    addressed(&claims.aud, audience, topic_group)?;
    let command = command(claims, kid, topic_group)?;
    Ok(VerifiedCommand { message: text.into(), ..command })
}

/// Of what is to be done alone: whoever asks again under the same id may have to sign anew, with other dates.
fn digest(cmd: &Cmd) -> Result<[u8; 32], Refused> {
    let text = serde_json::to_vec(cmd).map_err(|error| malformed(&format!("cmd: {error}")))?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &text);
    digest.as_ref().try_into().map_err(|_| malformed("no digest"))
}

/// The key id and the claims of a token whose signature is right.
fn signed(text: &str, keys: &[config::TrustedKey]) -> Result<(String, Vec<u8>), Refused> {
    let parts: Vec<&str> = text.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else {
        return Err(malformed("not a signed token: three parts with dots between them are expected (JWS compact)"));
    };
    let decode = |part: &str, what: &str| {
        URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed(&format!("{what}: not base64url without padding")))
    };
    let Object(header): Object<Header> =
        serde_json::from_slice(&decode(header, "header")?).map_err(|error| malformed(&format!("header: {error}")))?;
    let claims = decode(claims, "claims")?;
    // Before the key is looked at: a public key must never be taken for an HMAC's secret, nor "none" for a signature.
    if !ALGORITHMS.contains(&header.alg.as_str()) {
        return Err((Reason::BadSignature, format!("alg is {:?}; only EdDSA and Ed25519 are taken", header.alg)));
    }
    if header.crit {
        return Err(malformed("header: crit names extensions that are not known here"));
    }
    let kid = header.kid.ok_or_else(|| (Reason::UnknownKey, "the header has no kid".to_owned()))?;
    let key = keys
        .iter()
        .find(|key| key.kid == kid)
        .ok_or_else(|| (Reason::UnknownKey, format!("commands.trusted_keys has no key with the kid {kid:?}")))?;
    let message = text.rsplit_once('.').map_or("", |(message, _)| message);
    let right =
        crypto::verify(signature, message.as_bytes(), &DecodingKey::from_ed_der(&key.public_key), Algorithm::EdDSA);
    if !matches!(right, Ok(true)) {
        return Err((Reason::BadSignature, format!("not signed by the key {kid:?}")));
    }
    Ok((kid, claims))
}

/// A message on a group's topic must be for that group; on the device's own, for the device.
fn addressed(aud: &Aud, audience: &Audience<'_>, topic_group: Option<&str>) -> Result<(), Refused> {
    let wanted = match topic_group {
        Some(group) if audience.groups.iter().any(|ours| ours == group) => format!("group:{group}"),
        Some(group) => return Err((Reason::WrongAudience, format!("this device is not in the group {group:?}"))),
        None => audience.device.to_owned(),
    };
    let named = match aud {
        Aud::One(one) => *one == wanted,
        Aud::Several(several) => several.contains(&wanted),
    };
    if named { Ok(()) } else { Err((Reason::WrongAudience, format!("aud is not {wanted:?}"))) }
}

fn command(claims: Claims, kid: Option<String>, group: Option<&str>) -> Result<VerifiedCommand, Refused> {
    let id = CommandId::parse(&claims.jti)
        .ok_or_else(|| malformed(&format!("jti: 1 to {} of A-Z a-z 0-9 _ - are expected", CommandId::LEN_MAX)))?;
    let (issued_at, expires_at) = (seconds("iat", &claims.iat)?, seconds("exp", &claims.exp)?);
    // The present is no earlier than `iat`.
    if expires_at <= issued_at {
        return Err((Reason::Expired, format!("exp {expires_at} is not after iat {issued_at}")));
    }
    let not_before = claims.nbf.as_ref().map(|nbf| seconds("nbf", nbf)).transpose()?;
    if claims.nonce.as_ref().is_some_and(|nonce| nonce.len() > NONCE_LEN_MAX) {
        return Err(malformed(&format!("nonce: at most {NONCE_LEN_MAX} B")));
    }
    let digest = digest(&claims.cmd)?;
    let Cmd { name, args, timeout_s } = claims.cmd;
    // A name that can be shown is one: that there is no such command is for others to say, and in another word.
    if !(1..=NAME_LEN_MAX).contains(&name.len()) || name.contains(char::is_control) {
        return Err(malformed(&format!("cmd.name: 1 to {NAME_LEN_MAX} B that can be shown are expected")));
    }
    if timeout_s.is_some_and(|timeout| !(1..=TIMEOUT_MAX_S).contains(&timeout)) {
        return Err(malformed(&format!("cmd.timeout_s: 1 to {TIMEOUT_MAX_S} is expected")));
    }
    let (nonce, group) = (claims.nonce, group.map(str::to_owned));
    Ok(VerifiedCommand {
        id,
        kid,
        group,
        issued_at,
        expires_at,
        not_before,
        nonce,
        name,
        args,
        timeout_s,
        digest,
        message: Box::default(),
    })
}

/// A NumericDate (RFC 7519, section 2): seconds since 1970, perhaps with a fraction, which is cut off.
fn seconds(claim: &str, date: &Number) -> Result<i64, Refused> {
    // The year 9999: beyond it no date can be written, and sums with it could overflow.
    const LATEST_S: f64 = 253_402_300_799.0;
    let seconds = date.as_f64().filter(|seconds| (0.0..=LATEST_S).contains(seconds));
    let seconds = seconds.ok_or_else(|| malformed(&format!("{claim}: {date} is no date in seconds since 1970")))?;
    #[expect(clippy::cast_possible_truncation, reason = "within 0 to the year 9999")]
    Ok(seconds.floor() as i64)
}

fn malformed(detail: &str) -> Refused {
    (Reason::Malformed, detail.to_owned())
}

/// The id and the name that a message claims, for the one who has to find out what went wrong. Proves nothing.
fn claimed(payload: &[u8]) -> (Option<CommandId>, Option<String>) {
    /// Only what is looked for, so that any other nonsense in the claims doesn't hide it.
    #[derive(Deserialize)]
    struct Peek {
        jti: Option<Json>,
        cmd: Option<Json>,
    }
    let middle = payload.split(|byte| *byte == b'.').nth(1);
    let decoded = middle.and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
    let Ok(peek) = serde_json::from_slice::<Peek>(decoded.as_deref().unwrap_or(payload)) else { return (None, None) };
    let id = peek.jti.as_ref().and_then(Json::as_str).and_then(CommandId::parse);
    let name = peek.cmd.as_ref().and_then(|cmd| cmd.get("name")).and_then(Json::as_str);
    (id, name.filter(|name| name.len() <= NAME_LEN_MAX).map(str::to_owned))
}

/// Arguments as a human types them: `KEY=VALUE`. What the contract has as text stays as it was typed, release `1.10`
/// too; another value is JSON if it reads as a number, a flag, a list or an object, and else text.
///
/// # Errors
/// One is no `KEY=VALUE`, or a key stands twice.
pub fn parse_args(words: &[String]) -> Result<BTreeMap<String, Json>, ArgError> {
    let mut args = BTreeMap::new();
    for word in words {
        let split = word.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) = split.ok_or_else(|| ArgError::NoPair { word: word.clone() })?;
        let is_json = |json: &Json| match key {
            // A runbook's arguments: a list of words, or one.
            "args" => json.is_array(),
            _ => !TEXT_ARGS.contains(&key) && !json.is_string() && !json.is_null(),
        };
        let json = serde_json::from_str::<Json>(value).ok().filter(is_json);
        let value = json.unwrap_or_else(|| Json::String(value.to_owned()));
        if args.insert(key.to_owned(), value).is_some() {
            return Err(ArgError::Twice { key: key.to_owned() });
        }
    }
    Ok(args)
}

/// Why typed arguments are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgError {
    /// It has no name, or no `=`.
    #[error("found {word:?}: arguments are ARG=VALUE, such as unit=app.service")]
    NoPair {
        /// As it was typed.
        word: String,
    },
    /// Which of the two was meant can't be told.
    #[error("the argument {key:?} stands twice: give it once")]
    Twice {
        /// Its name.
        key: String,
    },
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config::TrustedKey;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed([seed; 32]).unwrap()
    }

    fn commands(require_signature: bool) -> config::Commands {
        let trusted = TrustedKey { kid: "ops-1".into(), public_key: key(1).public() };
        config::Commands { trusted_keys: vec![trusted], require_signature, max_clock_skew: Duration::from_secs(300) }
    }

    fn check(payload: &[u8], group: Option<&str>) -> Result<VerifiedCommand, Reason> {
        let groups = ["canary".to_owned()];
        let audience = Audience { device: "gw-1", groups: &groups };
        verify(payload, &audience, group, &commands(true)).map_err(|refusal| refusal.reason)
    }

    fn claims() -> Json {
        json!({"aud": "gw-1", "jti": "c-1", "iat": 1_000, "exp": 2_000, "cmd": {"name": "ping"}})
    }

    fn with(changes: Json) -> Json {
        let mut claims = claims();
        for (key, value) in changes.as_object().unwrap() {
            match value {
                Json::Null => claims.as_object_mut().unwrap().remove(key),
                value => claims.as_object_mut().unwrap().insert(key.clone(), value.clone()),
            };
        }
        claims
    }

    fn token(header: &Json, claims: &str, key: &SigningKey) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
        let signature = crypto::sign(message.as_bytes(), key.encoding(), Algorithm::EdDSA).unwrap();
        format!("{message}.{signature}")
    }

    fn good_header() -> Json {
        json!({"alg": "EdDSA", "kid": "ops-1"})
    }

    #[test]
    fn a_token_made_here_is_verified_here() {
        let id = CommandId::parse("c-9").unwrap();
        let claims = Claims::new("gw-1", &id, "run", 10, 20).arg("runbook", "fix".into()).timeout_s(Some(5));
        let command = check(sign(&claims, "ops-1", &key(1)).unwrap().as_bytes(), None).unwrap();
        assert_eq!((command.id.as_str(), command.name.as_str(), command.timeout_s), ("c-9", "run", Some(5)));
        assert_eq!((command.kid.as_deref(), command.issued_at, command.expires_at), (Some("ops-1"), 10, 20));
        assert_eq!(command.args["runbook"], "fix");
    }

    #[test]
    fn a_signature_is_taken_by_either_name_of_its_algorithm() {
        for (alg, refused) in [("EdDSA", None), ("Ed25519", None), ("Ed448", Some(Reason::BadSignature))] {
            let token = token(&json!({"alg": alg, "kid": "ops-1"}), &claims().to_string(), &key(1));
            assert_eq!(check(token.as_bytes(), None).err(), refused, "{alg}");
        }
        let others = token(&json!({"alg": "Ed25519", "kid": "ops-1"}), &claims().to_string(), &key(2));
        assert_eq!(check(others.as_bytes(), None).err(), Some(Reason::BadSignature));
    }

    #[test]
    fn each_way_of_being_wrong_has_its_reason() {
        let ours = key(1);
        let good = token(&good_header(), &claims().to_string(), &ours);
        let (head, tail) = good.split_at(good.len() - 10);
        let flipped = format!("{head}{}", tail.replace(|c: char| c.is_ascii_lowercase(), "A"));
        let unsigned = format!("{}.", good.rsplit_once('.').unwrap().0);
        let header = |header: Json| token(&header, &claims().to_string(), &ours);
        let claim = |changes: Json| token(&good_header(), &with(changes).to_string(), &ours);
        let cases: Vec<(&str, String, Reason)> = vec![
            ("another key's signature", token(&good_header(), &claims().to_string(), &key(2)), Reason::BadSignature),
            ("a changed signature", flipped, Reason::BadSignature),
            ("no signature", unsigned, Reason::BadSignature),
            ("alg none", header(json!({"alg": "none", "kid": "ops-1"})), Reason::BadSignature),
            ("alg HS256", header(json!({"alg": "HS256", "kid": "ops-1"})), Reason::BadSignature),
            ("an unknown kid", header(json!({"alg": "EdDSA", "kid": "ops-2"})), Reason::UnknownKey),
            ("no kid", header(json!({"alg": "EdDSA"})), Reason::UnknownKey),
            (
                "critical extensions",
                header(json!({"alg": "EdDSA", "kid": "ops-1", "crit": ["b64"]})),
                Reason::Malformed,
            ),
            ("a crit of null", header(json!({"alg": "EdDSA", "kid": "ops-1", "crit": null})), Reason::Malformed),
            ("another device", claim(json!({"aud": "gw-2"})), Reason::WrongAudience),
            ("a group on the device's topic", claim(json!({"aud": "group:canary"})), Reason::WrongAudience),
            ("no jti", claim(json!({"jti": null})), Reason::Malformed),
            ("a jti with a slash", claim(json!({"jti": "a/b"})), Reason::Malformed),
            ("a jti that is too long", claim(json!({"jti": "x".repeat(65)})), Reason::Malformed),
            ("exp before iat", claim(json!({"exp": 999})), Reason::Expired),
            ("exp as text", claim(json!({"exp": "2000"})), Reason::Malformed),
            ("exp beyond time", claim(json!({"exp": 1e300})), Reason::Malformed),
            ("no name", claim(json!({"cmd": {"name": ""}})), Reason::Malformed),
            ("a name that can't be shown", claim(json!({"cmd": {"name": "pi\ng"}})), Reason::Malformed),
            ("an audience as a number", claim(json!({"aud": 5})), Reason::Malformed),
            ("args as a list", claim(json!({"cmd": {"name": "ping", "args": []}})), Reason::Malformed),
            ("a command as a list", claim(json!({"cmd": ["ping"]})), Reason::Malformed),
            ("no timeout at all", claim(json!({"cmd": {"name": "ping", "timeout_s": 0}})), Reason::Malformed),
            ("plain JSON where signatures are required", claims().to_string(), Reason::Malformed),
            ("too long", claim(json!({"pad": "x".repeat(COMMAND_LEN_MAX)})), Reason::TooLarge),
            (
                "a claim that stands twice",
                token(&good_header(), &claims().to_string().replace("\"aud\"", "\"aud\":\"gw-2\",\"aud\""), &ours),
                Reason::Malformed,
            ),
            (
                "an argument that stands twice",
                token(
                    &good_header(),
                    &claims().to_string().replace("\"ping\"", r#""run","args":{"runbook":"a","runbook":"b"}"#),
                    &ours,
                ),
                Reason::Malformed,
            ),
            ("nested without end", token(&good_header(), &"[".repeat(5_000), &ours), Reason::Malformed),
            ("nothing", String::new(), Reason::Malformed),
        ];
        for (what, token, reason) in cases {
            assert_eq!(check(token.as_bytes(), None).err(), Some(reason), "{what}");
        }
    }

    #[test]
    fn whole_numbers_and_what_is_left_out_may_be_written_as_lua_does() {
        let cmd = |cmd: Json| token(&good_header(), &with(json!({"cmd": cmd, "nbf": null})).to_string(), &key(1));
        let timeout_s = |written: &str| {
            let written: Json = serde_json::from_str(written).unwrap();
            let token = cmd(json!({"name": "ping", "args": null, "timeout_s": written}));
            check(token.as_bytes(), None).map(|command| (command.args.len(), command.timeout_s))
        };
        assert_eq!(timeout_s("30.0"), Ok((0, Some(30))));
        assert_eq!(timeout_s("3e1"), Ok((0, Some(30))));
        assert_eq!(timeout_s("null"), Ok((0, None)));
        for odd in ["30.5", "-30.0", "1e300", "\"30\"", "true"] {
            assert_eq!(timeout_s(odd), Err(Reason::Malformed), "{odd}");
        }
    }

    #[test]
    fn a_refusal_says_whose_command_it_claims_to_be() {
        let groups = [];
        let audience = Audience { device: "gw-1", groups: &groups };
        let long = token(&good_header(), &with(json!({"pad": "x".repeat(COMMAND_LEN_MAX)})).to_string(), &key(1));
        let refusal = verify(long.as_bytes(), &audience, None, &commands(true)).unwrap_err();
        assert_eq!(refusal.claimed_id.unwrap().as_str(), "c-1");
        assert_eq!(refusal.claimed_name.as_deref(), Some("ping"));
    }

    #[test]
    fn a_groups_topic_takes_only_what_is_for_that_group() {
        let for_group = token(&good_header(), &with(json!({"aud": "group:canary"})).to_string(), &key(1));
        assert_eq!(check(for_group.as_bytes(), Some("canary")).unwrap().group.as_deref(), Some("canary"));
        assert_eq!(check(for_group.as_bytes(), Some("other")).err(), Some(Reason::WrongAudience));
        let for_device = token(&good_header(), &claims().to_string(), &key(1));
        assert_eq!(check(for_device.as_bytes(), Some("canary")).err(), Some(Reason::WrongAudience));
        let for_both = token(&good_header(), &with(json!({"aud": ["gw-7", "gw-1"]})).to_string(), &key(1));
        assert!(check(for_both.as_bytes(), None).is_ok());
    }

    #[test]
    fn fractions_of_seconds_are_cut_off() {
        let fraction = token(&good_header(), &with(json!({"iat": 1_000.9, "nbf": 999.5})).to_string(), &key(1));
        let command = check(fraction.as_bytes(), None).unwrap();
        assert_eq!((command.issued_at, command.not_before), (1_000, Some(999)));
    }

    #[test]
    fn plain_json_is_taken_only_where_signatures_are_not_required() {
        let groups = [];
        let audience = Audience { device: "gw-1", groups: &groups };
        let plain = verify(claims().to_string().as_bytes(), &audience, None, &commands(false)).unwrap();
        assert_eq!((plain.id.as_str(), plain.kid), ("c-1", None));
        let forged = token(&good_header(), &claims().to_string(), &key(2));
        assert!(verify(forged.as_bytes(), &audience, None, &commands(false)).is_err());
    }

    #[test]
    fn typed_arguments_are_json_where_they_read_as_it_and_are_not_text_by_the_contract() {
        let parsed = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            json!(parse_args(&words).unwrap())
        };
        assert_eq!(
            parsed(&["delay_s=5", "now=true", "args=[1,\"b\"]", "for=10m", "more=\"5\"", "empty="]),
            json!({"delay_s": 5, "now": true, "args": [1, "b"], "for": "10m", "more": "\"5\"", "empty": ""})
        );
        assert_eq!(
            parsed(&["to=1.10", "target=2", "unit=app.service", "runbook=true", "command_id=123", "args=1.10"]),
            json!({"to": "1.10", "target": "2", "unit": "app.service", "runbook": "true", "command_id": "123", "args": "1.10"})
        );
        let refused = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            parse_args(&words).unwrap_err().to_string()
        };
        assert_eq!(refused(&["unit"]), "found \"unit\": arguments are ARG=VALUE, such as unit=app.service");
        assert_eq!(refused(&["unit=a", "unit=b"]), "the argument \"unit\" stands twice: give it once");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_pass(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(check(&bytes, None).is_err());
        }

        #[test]
        fn no_three_parts_make_it_panic_or_pass(text in "[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}") {
            prop_assert!(check(text.as_bytes(), None).is_err());
        }
    }
}
