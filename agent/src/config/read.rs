//! Reads the sections of a configuration: which keys there are, their defaults and their bounds, and what must hold
//! between them. Each function reads one section, in the order of the contract. What may be done to the gateway is read
//! by [`super::policy`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::{Section, absolute_path, number, parsed, path_of, text, text_of, unfit};
use super::tree::{Node, Value};
use super::types::{
    CheckedConfig, Clock, Collect, CollectBattery, CollectErrors, CollectHost, CollectLink, Commands, Device, Drain,
    Local, Mqtt, Reconnect, Runbooks, Store, Telemetry, Tls,
};
use super::values::{
    self, AttributeValue, BrokerLimits, BrokerUrl, ClockTrust, DeviceId, Encoding, MqttVersion, TrustedKey, Unfit,
    UnitName,
};
use super::{DEFAULT_SOCKET, DEFAULT_STORE, doubts, files, policy};
use crate::engine::observation::Severity;
use crate::gather::gather;

/// MQTT brokers of the cloud refuse longer topics (AWS IoT Core: 256 bytes, 7 slashes; the contract: 7 levels).
const TOPIC_LEN_MAX: usize = 256;
/// What [`is_topic_prefix`] asks for.
pub(crate) const TOPIC_PREFIX: &str =
    "a topic without wildcards, control characters, empty levels or a leading $, such as \"fieldmedic\"";
const INTERFACE: &str = "an interface's name of 1 to 15 bytes, such as \"wwan0\"";
const USERNAME: &str = "a text of at most 65535 bytes, without NUL; empty for none";
const TOPIC_LEVELS_MAX: usize = 7;
/// The topics on which commands come are kept as one value of the store's state, which takes 5 KiB with the lengths.
pub(crate) const COMMAND_TOPICS_BYTES_MAX: usize = 4 * 1024;
/// What AWS IoT Core allows a connection.
const AWS_SUBSCRIPTIONS_MAX: usize = 50;
/// Room for a store's logs and its keyed state.
const STORE_BYTES_MIN: u64 = 1 << 20;
/// `sockaddr_un.sun_path` is 108 bytes with its NUL (`unix(7)`).
const SOCKET_PATH_LEN_MAX: usize = 107;

pub(super) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
pub(super) const fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}
pub(super) const fn hours(h: u64) -> Duration {
    Duration::from_secs(h * 3600)
}

/// Reads everything. `hostname` is what the kernel calls this machine.
pub(super) fn config(s: &mut Section<'_>, hostname: &str) -> CheckedConfig {
    if s.has("allow") {
        s.error_of_file("allow", "this is root's policy (policy.toml), not the agent's configuration (agent.toml)");
    }
    let device = s.table("device", |s| device(s, hostname));
    let mqtt = s.table("mqtt", |s| mqtt(s, &device));
    let store = s.table("store", store);
    let telemetry = s.table("telemetry", telemetry);
    let clock = s.table("clock", clock);
    let local = s.table("local", local);
    let collect = s.table("collect", |s| collect(s, &local));
    // Ladders are held against what is allowed, and rules against the ladders that there are.
    let remediation = s.table("remediation", policy::remediation);
    let rollback = s.named_tables("rollback", policy::rollback);
    let mut ladders = policy::ladders(s, &remediation, &rollback);
    let rules = policy::rules(s, &mut ladders, &collect);
    let config = CheckedConfig {
        device,
        mqtt,
        store,
        telemetry,
        clock,
        collect,
        rules,
        ladders,
        remediation,
        rollback: gather(rollback.into_iter().filter_map(|(name, target)| Some((name, target?)))),
        quarantine: s.table("quarantine", policy::quarantine),
        runbooks: s.table("runbooks", |s| Runbooks { dir: s.absolute_path("dir", "/etc/fieldmedic/runbooks") }),
        commands: s.table("commands", commands),
        local,
    };
    doubts::warn_of_trials(s, &config);
    config
}

fn device(s: &mut Section<'_>, hostname: &str) -> Device {
    Device { id: device_id(s, hostname), groups: groups(s), attributes: s.free("attributes", attribute) }
}

fn groups(s: &mut Section<'_>) -> Vec<String> {
    let mut groups: Vec<String> = Vec::new();
    for group in s.list("groups", vec![], "[\"canary\"]", group) {
        if groups.contains(&group) {
            s.warn("groups", format!("names {group:?} twice: once is enough"));
        } else {
            groups.push(group);
        }
    }
    groups
}

pub(crate) fn device_id(s: &mut Section<'_>, hostname: &str) -> DeviceId {
    if let Some(id) = s.optional("id", parsed(DeviceId::parse)) {
        return id;
    }
    DeviceId::from_hostname(hostname).unwrap_or_else(|| {
        if !s.has("id") {
            let why = "is not set and the host has no name of its own; two gateways with one id evict each other";
            s.warn("id", format!("{why} (the hostname is {hostname:?})"));
        }
        DeviceId::fallback()
    })
}

/// The name of a group, safe as one level of a topic.
pub(crate) fn group(node: &Node) -> Result<String, Unfit> {
    parsed(values::group)(node)
}

/// A scalar of TOML. An attribute is sent as JSON, which has neither dates nor infinities.
pub(super) fn attribute(node: &Node) -> Result<AttributeValue, Unfit> {
    match &node.value {
        Value::Text(text) => Ok(AttributeValue::Text(text.clone())),
        Value::Integer(number) => Ok(AttributeValue::Integer(*number)),
        Value::Float(number) if number.is_finite() => Ok(AttributeValue::Float(*number)),
        Value::Flag(flag) => Ok(AttributeValue::Flag(*flag)),
        _ => Err(unfit(node, "a text, a number, or true or false, such as \"plant-7\"")),
    }
}

fn mqtt(s: &mut Section<'_>, device: &Device) -> Mqtt {
    let url = s.required("url", "\"mqtt://127.0.0.1:1883\"", parsed(BrokerUrl::parse));
    let mqtt = Mqtt {
        topic_prefix: topic_prefix(s, device),
        version: s.word("version", MqttVersion::Auto, MqttVersion::ALL),
        limits: s.word("limits", BrokerLimits::None, BrokerLimits::ALL),
        // In CONNECT it is a 16-bit number of seconds; below some seconds it costs more than it tells.
        keep_alive: s.duration("keep_alive", seconds(30), seconds(5)..=hours(18)),
        inflight_max: s.integer("inflight_max", 64, 1..=u16::MAX),
        username: s.optional("username", text(is_username, USERNAME)).unwrap_or_default(),
        password_file: s.optional_path("password_file", "/etc/fieldmedic/mqtt.password"),
        tls: s.table("tls", |s| tls(s, url.as_ref())),
        reconnect: s.table("reconnect", reconnect),
        drain: s.table("drain", |s| Drain { publishes_per_second: s.integer("publishes_per_second", 80, 1..=100_000) }),
        url: url.unwrap_or(BrokerUrl { tls: false, host: String::new(), port: 1883 }),
    };
    if mqtt.limits == BrokerLimits::AwsIot {
        aws_iot(s, device, &mqtt);
    }
    if mqtt.password_file.is_some() && mqtt.username.is_empty() && !s.is_wrong("username") {
        s.error("password_file", "is set, but mqtt.username is not: MQTT 3.1.1 knows no password without a user name");
    }
    mqtt
}

/// What AWS IoT Core would refuse or cut at run time ("AWS IoT Core message broker and protocol limits and quotas").
fn aws_iot(s: &mut Section<'_>, device: &Device, mqtt: &Mqtt) {
    let keep_alive = seconds(30)..=seconds(1200);
    if !keep_alive.contains(&mqtt.keep_alive) {
        s.error("keep_alive", "is not within AWS IoT's 30s to 20m (mqtt.limits)");
    }
    if mqtt.reconnect.min < seconds(1) {
        s.error("limits", "allows one CONNECT a second for a client id: mqtt.reconnect.min must be 1s or more");
    }
    let subscriptions = device.groups.len() + 1;
    if subscriptions > AWS_SUBSCRIPTIONS_MAX {
        let text = format!("allows {AWS_SUBSCRIPTIONS_MAX} subscriptions: device.groups makes {subscriptions}");
        s.error("limits", text);
    }
    // A proxy on the gateway may speak TLS for it, and a bench has another broker.
    if !mqtt.url.tls {
        s.warn("url", "is not mqtts://, the only way into AWS IoT (mqtt.limits)");
    }
}

fn topic_prefix(s: &mut Section<'_>, device: &Device) -> String {
    let prefix = s.optional("topic_prefix", text(is_topic_prefix, TOPIC_PREFIX));
    let prefix = prefix.unwrap_or_else(|| "fieldmedic".to_owned());
    // The deepest topic is that of a group, whether this device is in one now or will be.
    let levels = prefix.split('/').count() + "groups/G/commands".split('/').count();
    if levels > TOPIC_LEVELS_MAX {
        s.error("topic_prefix", format!("makes topics of {levels} levels, at most {TOPIC_LEVELS_MAX} are allowed"));
    }
    let of_group = |group: &String| format!("{prefix}/groups/{group}/commands");
    let of_device = format!("{prefix}/{}/attributes", device.id);
    let longest = device.groups.iter().map(of_group).chain([of_device]).map(|topic| topic.len()).max();
    if let Some(len) = longest.filter(|len| *len > TOPIC_LEN_MAX) {
        s.error("topic_prefix", format!("makes topics of {len} bytes, at most {TOPIC_LEN_MAX} are allowed"));
    }
    let of_commands = format!("{prefix}/{}/commands", device.id).len();
    let all = device.groups.iter().map(|group| of_group(group).len()).sum::<usize>() + of_commands;
    if all > COMMAND_TOPICS_BYTES_MAX {
        let groups = device.groups.len();
        let why = format!(
            "makes {all} bytes of command topics with the {groups} device.groups, at most {COMMAND_TOPICS_BYTES_MAX} are \
             allowed: shorter names, or fewer groups"
        );
        s.error("topic_prefix", why);
    }
    prefix
}

pub(crate) fn is_topic_prefix(text: &str) -> bool {
    // Brokers may close the connection over what MQTT advises against (5.0, section 1.5.4).
    let is_refused = |c: char| c.is_control() || is_noncharacter(c) || c == '+' || c == '#';
    let is_level = |level: &str| !level.is_empty() && !level.contains(is_refused);
    !text.starts_with('$') && text.split('/').all(is_level)
}

/// U+FFFE, U+FFFF and their like, which Unicode gives to nobody (section 23.7).
fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

/// A UTF-8 string of MQTT has no NUL and a length of two bytes (5.0, section 1.5.4).
fn is_username(text: &str) -> bool {
    !text.contains('\0') && u16::try_from(text.len()).is_ok()
}

fn tls(s: &mut Section<'_>, url: Option<&BrokerUrl>) -> Tls {
    let tls = Tls {
        ca_file: s.optional_path("ca_file", "/etc/fieldmedic/ca.pem"),
        cert_file: s.optional_path("cert_file", "/etc/fieldmedic/device.pem"),
        key_file: s.optional_path("key_file", "/etc/fieldmedic/device.key"),
        // A protocol's name has 1 to 255 bytes (RFC 7301, section 3.1).
        alpn: s.list("alpn", vec![], "[\"x-amzn-mqtt-ca\"]", |node| {
            text(|name| (1..=255).contains(&name.len()), "a protocol's name, such as \"x-amzn-mqtt-ca\"")(node)
        }),
    };
    match (&tls.cert_file, &tls.key_file) {
        (Some(_), None) if !s.is_wrong("key_file") => {
            s.error("cert_file", "is set, but key_file is not: a certificate needs its private key");
        }
        (None, Some(_)) if !s.is_wrong("cert_file") => {
            s.error("key_file", "is set, but cert_file is not: a private key needs its certificate");
        }
        _ => {}
    }
    let used = [
        ("ca_file", tls.ca_file.is_some()),
        ("cert_file", tls.cert_file.is_some()),
        ("key_file", tls.key_file.is_some()),
        ("alpn", !tls.alpn.is_empty()),
    ];
    let first_used = used.iter().find(|(_, is_used)| *is_used);
    if let (Some(url), Some((key, _))) = (url.filter(|url| !url.tls), first_used) {
        s.error(key, format!("is set, but mqtt.url is {url}, which is not encrypted; write mqtts:// to use TLS"));
    }
    tls
}

fn reconnect(s: &mut Section<'_>) -> Reconnect {
    let reconnect = Reconnect {
        min: s.duration("min", seconds(1), ms(10)..=hours(1)),
        max: s.duration("max", seconds(300), ms(10)..=hours(24)),
        stable_after: s.duration("stable_after", seconds(60), ms(0)..=hours(24)),
    };
    in_order(s, [("min", reconnect.min), ("max", reconnect.max)]);
    reconnect
}

fn store(s: &mut Section<'_>) -> Store {
    let path = s.path("path", DEFAULT_STORE);
    if path == Path::new("/") {
        s.error(
            "path",
            format!(
                "is the root of the file system; the store needs a directory of its own, such as {DEFAULT_STORE:?}"
            ),
        );
    }
    Store {
        path,
        max_bytes: s.size("max_bytes", 64 << 20, STORE_BYTES_MIN),
        min_free_bytes: s.size("min_free_bytes", 32 << 20, 0),
        commit_interval: s.duration("commit_interval", seconds(1), ms(10)..=hours(1)),
    }
}

fn telemetry(s: &mut Section<'_>) -> Telemetry {
    let telemetry = Telemetry {
        sample_interval: s.duration("sample_interval", seconds(10), ms(100)..=hours(1)),
        report_interval: s.duration("report_interval", seconds(60), ms(100)..=hours(24)),
        publish_interval: s.duration("publish_interval", seconds(60), ms(100)..=hours(7 * 24)),
        encoding: encoding(s),
    };
    in_order(s, [("sample_interval", telemetry.sample_interval), ("report_interval", telemetry.report_interval)]);
    in_order(s, [("report_interval", telemetry.report_interval), ("publish_interval", telemetry.publish_interval)]);
    telemetry
}

fn encoding(s: &mut Section<'_>) -> Encoding {
    let encoding = s.word("encoding", Encoding::Json, Encoding::ALL);
    if encoding == Encoding::JsonZstd && cfg!(not(feature = "zstd")) {
        s.error("encoding", "is \"json+zstd\", but this build has no zstd (cargo's feature `zstd`); write \"json\"");
    }
    encoding
}

/// Reports a pair that is out of order, at the one that was set.
fn in_order(s: &mut Section<'_>, [(low_key, low), (high_key, high)]: [(&str, Duration); 2]) {
    if low <= high || s.is_wrong(low_key) || s.is_wrong(high_key) {
        return;
    }
    let (low, high) = (humantime::format_duration(low), humantime::format_duration(high));
    if s.has(high_key) {
        s.error(high_key, format!("is {high}, shorter than {low_key} = {low}"));
    } else {
        s.error(low_key, format!("is {low}, longer than {high_key} = {high}, which is the default"));
    }
}

fn clock(s: &mut Section<'_>) -> Clock {
    Clock { trust: s.word("trust", ClockTrust::Kernel, ClockTrust::ALL) }
}

fn collect(s: &mut Section<'_>, local: &Local) -> Collect {
    Collect {
        root: s.absolute_path("root", "/"),
        battery: s.table("battery", |s| CollectBattery {
            enabled: s.flag("enabled", true),
            supply: s
                .optional("supply", text(is_supply, "a name below power_supply, such as \"BAT0\""))
                .unwrap_or_default(),
        }),
        link: s.table("link", |s| CollectLink {
            enabled: s.flag("enabled", true),
            interfaces: s.list("interfaces", vec![], "[\"wwan0\"]", interface),
            monthly_budget: monthly_budget(s),
        }),
        errors: s.table("errors", |s| CollectErrors {
            enabled: s.flag("enabled", true),
            min_severity: severity(s, "min_severity", Severity::Error),
            units: s.list("units", vec![], "[\"app.service\"]", parsed(UnitName::parse)),
            max_clusters: s.integer("max_clusters", 512, 1..=65_536),
            bucket: s.duration("bucket", seconds(60), seconds(1)..=hours(24)),
            app_socket: app_socket(s, &local.socket),
        }),
        host: s.table("host", |s| CollectHost {
            enabled: s.flag("enabled", true),
            mounts: s.list("mounts", vec![PathBuf::from("/")], "[\"/\", \"/data\"]", mount),
        }),
    }
}

/// By interface, how much it may use in a month.
fn monthly_budget(s: &mut Section<'_>) -> BTreeMap<String, u64> {
    let budget = s.free("monthly_budget", |node| {
        let size = text_of(node).and_then(values::size).filter(|size| *size > 0);
        size.ok_or_else(|| unfit(node, "a size from 1B to 1PiB, such as \"500MiB\""))
    });
    for name in budget.keys().filter(|name| !values::is_interface_name(name)) {
        s.error("monthly_budget", format!("found {name:?}, expected {INTERFACE}"));
    }
    budget
}

/// As the kernel writes it, and rules name it: `/mnt` for `/mnt/`.
fn mount(node: &Node) -> Result<PathBuf, Unfit> {
    Ok(absolute_path(node, "/data")?.components().collect())
}

/// By default beside the agent's own socket, so that two agents on one machine need two directories and nothing else.
fn app_socket(s: &mut Section<'_>, own: &Path) -> Option<PathBuf> {
    let default = own.with_file_name("errors.sock");
    let parse = |node: &Node| {
        let expected = "a path, such as \"/run/fieldmedic/errors.sock\"; empty for none";
        path_of(node).ok_or_else(|| unfit(node, expected))
    };
    let socket = s.optional("app_socket", parse).unwrap_or(default);
    if socket.as_os_str().is_empty() {
        return None;
    }
    if socket == own {
        s.error("app_socket", "is local.socket too; each needs a path of its own");
    }
    Some(socket_path(s, "app_socket", socket))
}

/// A socket's path, if the kernel takes it.
fn socket_path(s: &mut Section<'_>, key: &str, socket: PathBuf) -> PathBuf {
    let len = socket.as_os_str().len();
    if len > SOCKET_PATH_LEN_MAX {
        s.error(key, format!("is {len} bytes long, the kernel takes at most {SOCKET_PATH_LEN_MAX}"));
    }
    socket
}

fn is_supply(text: &str) -> bool {
    !text.contains('/') && text != ".." && text != "."
}

/// An interface's name, as the kernel's `dev_valid_name` takes it.
pub(crate) fn interface(node: &Node) -> Result<String, Unfit> {
    text(values::is_interface_name, INTERFACE)(node)
}

pub(super) fn severity(s: &mut Section<'_>, key: &str, default: Severity) -> Severity {
    let parse = |node: &Node| text_of(node).and_then(Severity::parse);
    let expected =
        || format!("one of {}, such as \"{}\"", Severity::ALL.map(Severity::word).join(", "), default.word());
    s.optional(key, |node| parse(node).ok_or_else(|| unfit(node, expected()))).unwrap_or(default)
}

fn commands(s: &mut Section<'_>) -> Commands {
    let directory = s.directory_of("trusted_keys");
    let example = "[\"ops-1:BASE64URL\"] or [\"ops-1.pub\"]";
    let commands = Commands {
        trusted_keys: s.list("trusted_keys", vec![], example, |node| trusted_key(node, &directory)),
        require_signature: s.flag("require_signature", true),
        max_clock_skew: s.duration("max_clock_skew", seconds(300), ms(0)..=hours(24)),
    };
    s.note_files("trusted_keys", |node| key_file(node, &directory));
    refuse_equal_kids(s, &commands.trusted_keys);
    if !commands.require_signature {
        let what =
            "is false: whoever may publish on a command topic commands this gateway, but for what root's helper does";
        s.warn("require_signature", what);
    } else if commands.trusted_keys.is_empty() {
        s.warn("trusted_keys", "is empty: no command will be accepted; `fieldmedic keygen` makes a key pair");
    }
    commands
}

/// The file that stands in the place of a key.
fn key_file(node: &Node, directory: &Path) -> Option<PathBuf> {
    text_of(node).filter(|text| text.ends_with(".pub")).map(|name| directory.join(name))
}

pub(crate) fn trusted_key(node: &Node, directory: &Path) -> Result<TrustedKey, Unfit> {
    let Some(path) = key_file(node, directory) else { return parsed(TrustedKey::parse)(node) };
    let text = files::read(&path).map_err(|error| Unfit {
        found: format!("nothing usable ({error})"),
        expected: "a file that can be read, with the public key that `fieldmedic keygen` writes".to_owned(),
    })?;
    let kid = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    TrustedKey::from_pem(kid, &text)
        .map_err(|Unfit { found, expected }| Unfit { found: format!("{found} in {}", path.display()), expected })
}

pub(crate) fn refuse_equal_kids(s: &mut Section<'_>, keys: &[TrustedKey]) {
    for (index, key) in keys.iter().enumerate() {
        if keys.iter().take(index).any(|earlier| earlier.kid == key.kid) {
            s.error("trusted_keys", format!("names the kid {:?} twice; each key needs a kid of its own", key.kid));
        }
    }
}

fn local(s: &mut Section<'_>) -> Local {
    let socket = s.path("socket", DEFAULT_SOCKET);
    Local { socket: socket_path(s, "socket", socket) }
}

/// A threshold.
pub(super) fn threshold(node: &Node) -> Result<f64, Unfit> {
    number("10 or 0.5")(node)
}
