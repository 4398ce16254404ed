//! The small types of a configuration, right by construction: each has one way in, `parse`, and one text form,
//! `Display`, which `parse` accepts again. They know nothing of files, lines and keys.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};

use crate::wire::keys::SPKI_HEAD;
use crate::words::words;

/// A text that is not what it should be. Says what was found and what was expected, not where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found {found}, expected {expected}")]
pub struct Unfit {
    /// The text, quoted; or what stands in its place where it may hold a secret.
    pub found: String,
    /// What would do, with an example.
    pub expected: String,
}

impl Unfit {
    fn new(found: &str, expected: &str) -> Self {
        Self { found: shown(found), expected: expected.to_owned() }
    }
}

/// A text for a message: quoted, and cut where it is long.
pub(super) fn shown(text: &str) -> String {
    const TEXT_CHARS_MAX: usize = 60;
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// A device id: letters, digits and `. _ : -`, 1 to 128 bytes. Safe as one level of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceId(String);

impl DeviceId {
    /// The most bytes in an id (AWS IoT's limit on client ids and thing names).
    pub const LEN_MAX: usize = 128;

    /// How a group is addressed, where a device could be: no id begins so.
    pub(crate) const GROUP: &str = "group:";

    /// Takes a text that has the form of an id.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        if !is_topic_word(text) {
            return Err(Unfit::new(text, "1 to 128 letters, digits and . _ : -, such as \"gw-0001\""));
        }
        if text.starts_with(Self::GROUP) {
            return Err(Unfit::new(text, "an id that does not begin with \"group:\", as the address of a group does"));
        }
        Ok(Self(text.to_owned()))
    }

    /// An id made of a host's name, with `-` for each character that an id can't have. `None` for a name that makes no
    /// id, and for one that many hosts bear, which would have them evict each other from the broker.
    #[must_use]
    pub fn from_hostname(hostname: &str) -> Option<Self> {
        const NO_NAMES: [&str; 4] = ["", "(none)", "localhost", "localhost.localdomain"];
        if NO_NAMES.contains(&hostname) {
            return None;
        }
        let id = hostname.chars().map(|c| if is_topic_char(c) { c } else { '-' });
        Self::parse(&id.take(Self::LEN_MAX).collect::<String>()).ok()
    }

    /// The id of a host without a name.
    pub(super) fn fallback() -> Self {
        Self("localhost".to_owned())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Takes the name of a group.
pub(crate) fn group(text: &str) -> Result<String, Unfit> {
    let fits = is_topic_word(text).then(|| text.to_owned());
    fits.ok_or_else(|| Unfit::new(text, "1 to 128 letters, digits and . _ : -, such as \"canary\""))
}

/// Whether a text is safe as one level of a topic: what device ids and names of groups are made of.
pub(super) fn is_topic_word(text: &str) -> bool {
    (1..=DeviceId::LEN_MAX).contains(&text.len()) && text.chars().all(is_topic_char)
}

fn is_topic_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-')
}

/// A systemd unit's name with its suffix, as `systemd.unit(5)` allows it: never a path, never an option.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct UnitName(String);

impl TryFrom<String> for UnitName {
    type Error = Unfit;

    fn try_from(text: String) -> Result<Self, Unfit> {
        Self::parse(&text)
    }
}

impl UnitName {
    /// The most bytes in a name (`systemd.unit(5)`).
    pub const LEN_MAX: usize = 255;
    const SUFFIXES: [&str; 11] =
        ["service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope"];

    /// Takes a text that has the form of a unit's name.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        let is_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
        let fits = text.len() <= Self::LEN_MAX
            && !text.starts_with(['-', '.', '@'])
            && text.chars().all(is_char)
            && text.rsplit_once('.').is_some_and(|(_, suffix)| Self::SUFFIXES.contains(&suffix));
        if fits {
            return Ok(Self(text.to_owned()));
        }
        Err(Unfit::new(text, "a systemd unit's name with its suffix, such as \"app.service\""))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A static attribute's value.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "TOML's scalar types")]
pub enum AttributeValue {
    Text(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
}

/// `mqtt://HOST[:PORT]` or `mqtts://HOST[:PORT]`; ports 1883 and 8883 where none is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// mqtts.
    pub tls: bool,
    /// Name or address (an IPv6 address without its brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl BrokerUrl {
    /// Takes a broker's URL. A user name or password in it is refused and not repeated in the error.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        let expected = "mqtt://HOST[:PORT] or mqtts://HOST[:PORT], such as \"mqtt://127.0.0.1:1883\"";
        if text.contains('@') {
            return Err(Unfit {
                found: "a URL with a user name or password in it".to_owned(),
                expected: format!("{expected}, with mqtt.username and mqtt.password_file beside it"),
            });
        }
        Self::split(text).ok_or_else(|| Unfit::new(text, expected))
    }

    fn split(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (tls, port_default) = match scheme {
            "mqtt" => (false, "1883"),
            "mqtts" => (true, "8883"),
            _ => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, if port.is_empty() { port_default } else { port.strip_prefix(':')? })
            }
            None => {
                let (host, port) = rest.split_once(':').unwrap_or((rest, port_default));
                let is_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
                (!host.is_empty() && host.chars().all(is_char)).then_some((host, port))?
            }
        };
        // Rust's parser takes a sign too.
        let digits = port.chars().all(|c| c.is_ascii_digit()).then_some(port)?;
        let port = digits.parse().ok().filter(|port| *port != 0)?;
        Some(Self { tls, host: host.to_owned(), port })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            return write!(f, "{scheme}://[{}]:{}", self.host, self.port);
        }
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

words! {
    /// Which protocol version to speak.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    MqttVersion {
        /// 5, and 3.1.1 where the broker doesn't know 5.
        Auto "auto",
        /// 5 only.
        V5 "5",
        /// 3.1.1 only.
        V311 "3.1.1",
    }
}

words! {
    /// Whose limits to stay within, beside those that the broker announces.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    BrokerLimits {
        /// Only what the broker announces.
        None "none",
        /// AWS IoT Core's quotas for a connection, which it doesn't announce all.
        AwsIot "aws-iot",
    }
}

words! {
    /// How telemetry is put on the wire.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    Encoding {
        /// UTF-8 JSON.
        Json "json",
        /// The same, compressed with zstd.
        JsonZstd "json+zstd",
    }
}

words! {
    /// When the wall clock may be believed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    ClockTrust {
        /// When the kernel says that it is synchronised (adjtimex).
        Kernel "kernel",
        /// Always: for machines whose host or GPS receiver keeps the time without telling the kernel.
        Always "always",
    }
}

words! {
    /// What a rule may find odd, of what a detector has learned to be usual.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    Anomaly {
        /// A reading far from the latest ones.
        Spike "spike",
        /// A level that creeps away from where it was for a day.
        Drift "drift",
        /// A count far above its own rate.
        Surge "surge",
        /// A port that is listened on for the first time.
        NewListener "new_listener",
        /// An address that is connected for the first time.
        NewPeer "new_peer",
        /// A level that is odd for the hour of the week.
        Seasonal "seasonal",
    }
}

words! {
    /// How tight a quarantine is; a later one is tighter.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    QuarantineLevel {
        /// Looks closer, refuses nothing.
        Observe "observe",
        /// Drops all traffic but to the broker and what is named.
        Restrict "restrict",
        /// And takes no command but ping, collect_diagnostics and release.
        Isolate "isolate",
    }
}

words! {
    /// An action that can be allowed and budgeted: the command of the same name, but for `save_power`, a ladder's
    /// alone.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    #[expect(missing_docs, reason = "the commands of the same names")]
    Action {
        RestartUnit "restart_unit",
        RestartLink "restart_link",
        Reboot "reboot",
        Rollback "rollback",
        Quarantine "quarantine",
        Run "run",
        CollectDiagnostics "collect_diagnostics",
        SavePower "save_power",
    }
}

impl Action {
    /// Whether a config has to allow it: the others do nothing to the gateway.
    #[must_use]
    pub const fn needs_leave(self) -> bool {
        !matches!(self, Self::CollectDiagnostics | Self::SavePower)
    }
}

/// At most `count` within any `window`: "5/1h".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the notation says it")]
pub struct Budget {
    pub count: u32,
    pub window: Duration,
}

impl Budget {
    /// The longest window: what it counts has to be kept as long.
    pub const WINDOW_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

    /// The largest count: each is remembered for its window.
    pub const COUNT_MAX: u32 = 128;

    /// Takes `COUNT/WINDOW`, with a count of 1 to 128 and a window of 1 s to 30 days.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        Self::split(text).ok_or_else(|| {
            Unfit::new(text, "COUNT/WINDOW with a count of 1 to 128 and a window of 1s to 30days, such as \"5/1h\"")
        })
    }

    fn split(text: &str) -> Option<Self> {
        let (count, window) = text.split_once('/')?;
        let count = count.parse().ok().filter(|count| (1..=Self::COUNT_MAX).contains(count))?;
        let window = duration(window)?;
        (Duration::from_secs(1)..=Self::WINDOW_MAX).contains(&window).then_some(Self { count, window })
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, human(self.window))
    }
}

/// So many of the last readings: "3/5".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the notation says it")]
pub struct Share {
    pub of: usize,
    pub readings: usize,
}

impl Share {
    /// The most readings that are looked back at: each is remembered.
    pub const READINGS_MAX: usize = 100;

    /// Takes `N/M`, with 1 <= N <= M <= 100 and M of 2 at least.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        let split = || {
            let (of, readings) = text.split_once('/')?;
            let (of, readings) = (of.parse().ok()?, readings.parse().ok()?);
            ((2..=Self::READINGS_MAX).contains(&readings) && (1..=readings).contains(&of))
                .then_some(Self { of, readings })
        };
        split().ok_or_else(|| Unfit::new(text, "N/M, N of the last M readings, M of 2 to 100, such as \"3/5\""))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.of, self.readings)
    }
}

/// A key that may sign commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// Key id, as in the token's header: 1 to 64 letters, digits and `. _ -`.
    pub kid: String,
    /// Raw Ed25519 public key (RFC 8032).
    pub public_key: [u8; 32],
}

impl TrustedKey {
    /// The most bytes in a key id.
    pub const KID_LEN_MAX: usize = 64;

    /// Takes `KID:KEY`, with the raw key in base64url (RFC 4648, section 5), padded or not.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        let (kid, key) = Self::split(text).ok_or_else(|| {
            // The private half of this one was thrown away, lest somebody copies it.
            let expected = "KID:KEY with the 32 bytes of an Ed25519 public key in base64url, or the path of a *.pub \
                            file, such as \"ops-1:70yOi4G9X52nLd1xevV0yo6GT8yjXJgXHPPGhVb6BUM\"";
            Unfit { found: Self::described(text), expected: expected.to_owned() }
        })?;
        Self::of(kid, key)
    }

    /// What stands in the place of a key, without repeating it: it may be the private half, and errors reach the fleet.
    fn described(text: &str) -> String {
        // 32 bytes take 43 characters of base64url: a kid as long may be the key, the two having been swapped.
        const KID_SHOWN_MAX: usize = 32;
        let kid = text.split_once(':').filter(|(kid, _)| kid.len() <= KID_SHOWN_MAX && Self::is_kid(kid));
        match kid {
            Some((kid, key)) => format!("\"{kid}:\" and {} characters that are no public key", key.chars().count()),
            None => format!("{} characters that are no kid with a public key", text.chars().count()),
        }
    }

    fn split(text: &str) -> Option<(&str, [u8; 32])> {
        let (kid, key) = text.split_once(':').filter(|(kid, _)| Self::is_kid(kid))?;
        let key = URL_SAFE_NO_PAD.decode(key).or_else(|_| URL_SAFE.decode(key)).ok()?;
        Some((kid, key.try_into().ok()?))
    }

    /// Takes the PEM of an Ed25519 SubjectPublicKeyInfo, as `fieldmedic keygen` and `openssl pkey -pubout` write it.
    /// `kid` is the name of its file.
    pub fn from_pem(kid: &str, text: &str) -> Result<Self, Unfit> {
        let unfit = |found: &str| {
            let expected =
                "the PEM of one Ed25519 public key, as `fieldmedic keygen` writes it, its kid being the file's name";
            Unfit { found: found.to_owned(), expected: expected.to_owned() }
        };
        let key = match pem::parse_many(text).unwrap_or_default().as_slice() {
            [pem] if pem.tag() == "PUBLIC KEY" => pem.contents().strip_prefix(&SPKI_HEAD).map(<[u8; 32]>::try_from),
            // Which of them was meant can't be told.
            [_, _, ..] => return Err(unfit("more than one key")),
            _ => None,
        };
        match key {
            Some(Ok(key)) if Self::is_kid(kid) => Self::of(kid, key),
            _ => Err(unfit("something else")),
        }
    }

    fn of(kid: &str, public_key: [u8; 32]) -> Result<Self, Unfit> {
        if is_forgeable(public_key) {
            let found = format!("\"{kid}:\" and a placeholder for a key: anybody could sign with it");
            return Err(Unfit {
                found,
                expected: "the public half of a key that `fieldmedic keygen` makes".to_owned(),
            });
        }
        Ok(Self { kid: kid.to_owned(), public_key })
    }

    /// Whether a key may be called so.
    #[must_use]
    pub fn is_kid(text: &str) -> bool {
        let is_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        (1..=Self::KID_LEN_MAX).contains(&text.len()) && text.chars().all(is_char)
    }

    /// What a key may be called.
    #[must_use]
    pub fn kid_expected() -> String {
        format!("1 to {} letters, digits and . _ - are expected", Self::KID_LEN_MAX)
    }
}

impl fmt::Display for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kid, URL_SAFE_NO_PAD.encode(self.public_key))
    }
}

/// Whether these bytes are no key that somebody made: no canonical encoding of a point (RFC 8032, section 5.1.3), or
/// one of the few points of small order, such as zeros, for which a signature holds that needs no private key. ring
/// takes both.
fn is_forgeable(mut key: [u8; 32]) -> bool {
    // As libsodium's `ge25519_has_small_order` lists them: of order 4, 1, 8, 8 and 2.
    const SMALL_ORDER: [[u8; 32]; 5] = [
        [0; 32],
        with_ends(0x01, 0x00, 0x00),
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
            0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
            0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
        with_ends(0xec, 0xff, 0x7f),
    ];
    // The order of the field, 2^255 - 19: a coordinate is less.
    const ORDER: [u8; 32] = with_ends(0xed, 0xff, 0x7f);
    // The sign of x.
    key[31] &= 0x7f;
    SMALL_ORDER.contains(&key) || key.iter().rev().ge(ORDER.iter().rev())
}

const fn with_ends(first: u8, between: u8, last: u8) -> [u8; 32] {
    let mut bytes = [between; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

/// A duration as humans write it: `30s`, `1h 30m`, `250ms`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    // humantime 2.4 panics where seconds and milliseconds add up to just over 2^64 s: keep far below.
    const TEXT_LEN_MAX: usize = 64;
    const DIGITS_MAX: usize = 9;
    let short = text.len() <= TEXT_LEN_MAX
        && text.split(|c: char| !c.is_ascii_digit()).all(|digits| digits.len() <= DIGITS_MAX);
    short.then(|| humantime::parse_duration(text).ok()).flatten()
}

/// A duration in the way that configurations are written: `90s`, `10m`, `24h`; what is no whole number of one of these,
/// as [`duration`] takes it, too.
pub(crate) fn human(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_nanos()) {
        (seconds, 0) if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        (seconds, 0) if seconds > 60 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        (seconds @ ..120, 0) => format!("{seconds}s"),
        _ => humantime::format_duration(duration).to_string(),
    }
}

/// What the kernel takes for the name of a network interface (`dev_valid_name`), but for what a terminal would obey.
pub(crate) fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

/// What may name a runbook: a plain file's name that can't leave its directory, nor be hidden or an option.
pub(crate) fn is_runbook_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// What such a name is.
pub(crate) const RUNBOOK_NAME: &str =
    "a file's name of letters, digits and . _ - with a letter or digit first, such as \"free-space\"";

/// The largest size that can be meant, 1 PiB: what doesn't fit into a number is read as the largest that does.
pub(super) const SIZE_MAX: u64 = 1 << 50;

/// A host's name (RFC 1123, section 2.1). Its last label is no number: else it is an address, or meant to be one.
pub(super) fn is_host_name(text: &str) -> bool {
    const NAME_LEN_MAX: usize = 253;
    const LABEL_LEN_MAX: usize = 63;
    let is_label = |label: &str| {
        (1..=LABEL_LEN_MAX).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_numbered = name.rsplit('.').next().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
    name.len() <= NAME_LEN_MAX && name.split('.').all(is_label) && !is_numbered
}

/// A size as humans write it: `64MiB`, `1GB`, `512`; at most [`SIZE_MAX`].
pub(super) fn size(text: &str) -> Option<u64> {
    text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64()).filter(|size| *size <= SIZE_MAX)
}

/// A size so that [`size`] reads back the same number, in the largest binary unit that divides it.
pub(super) fn format_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 5] =
        [(SIZE_MAX, "PiB"), (1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = UNITS.iter().find(|(factor, _)| bytes != 0 && bytes % factor == 0);
    unit.map_or_else(|| format!("{bytes}B"), |(factor, name)| format!("{}{name}", bytes / factor))
}
