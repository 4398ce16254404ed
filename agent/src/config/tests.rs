#![expect(clippy::disallowed_methods, reason = "tests lay out the files that are loaded")]

mod mistakes;
mod values;

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

pub(super) const URL: &str = "[mqtt]\nurl = \"mqtt://127.0.0.1\"\n";
/// The key of RFC 8037, appendix A.2, raw and as `openssl pkey -pubout` writes it.
const KEY: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const KEY_PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

/// Loads texts as the files `0.toml`, `1.toml` and so on.
pub(super) fn load_texts(texts: &[&str]) -> Result<Loaded, Vec<Problem>> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ops-1.pub"), KEY_PEM).unwrap();
    std::fs::write(dir.path().join("other.pub"), "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
        .unwrap();
    std::fs::write(dir.path().join("two.pub"), KEY_PEM.repeat(2)).unwrap();
    let files: Vec<PathBuf> = (0..texts.len()).map(|index| dir.path().join(format!("{index}.toml"))).collect();
    for (file, text) in files.iter().zip(texts) {
        std::fs::write(file, text).unwrap();
    }
    load_on_host(&files, "gw-test")
}

fn config(text: &str) -> CheckedConfig {
    load_texts(&[text]).unwrap_or_else(|errors| panic!("{}", listed(&errors))).config
}

/// The errors of a text that must have some, as `LINE: message`.
fn errors(text: &str) -> Vec<String> {
    let errors = load_texts(&[text]).expect_err("it has a mistake");
    errors.iter().map(|error| format!("{}: {}", error.line, error.message)).collect()
}

fn error(text: &str) -> String {
    let errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.into_iter().next().unwrap()
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn agent_toml() -> String {
    std::fs::read_to_string(configs().join("agent.toml")).unwrap()
}

/// `configs/agent.toml` with its examples, and what they need to be allowed.
fn everything() -> [String; 2] {
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(example) if !example.starts_with(' ') || example.trim_start().starts_with("{ do") => example.to_owned(),
        _ => line.to_owned(),
    };
    let text = agent_toml().lines().map(|line| uncommented(line) + "\n").collect();
    let allowed = format!(
        "[remediation]\nunits = [\"app.service\"]\n[commands]\ntrusted_keys = [\"ops-1.pub\", \"ops-2:{KEY}\"]\n\
         [device]\ngroups = [\"canary\"]\n[device.attributes]\n\"odd \\\" key\" = \"line\\nbreak\"\nload = 0.5\nbig = 9007199254740993\nspare = false\n"
    );
    [text, allowed]
}

#[test]
fn a_url_is_all_that_a_config_needs() {
    let config = config(URL);

    assert_eq!(config.mqtt.url.to_string(), "mqtt://127.0.0.1:1883");
    assert_eq!(config.device.id.as_str(), "gw-test");
    assert_eq!(config.mqtt.keep_alive, Duration::from_secs(30));
    assert_eq!(config.store.max_bytes, 64 << 20);
    assert_eq!(config.remediation.budget.len(), 3);
    assert_eq!(config.commands.max_clock_skew, Duration::from_secs(300));
}

/// The example that the contract shows, one key a line where it puts several on one; the key is a real one.
const CONTRACT: &str = r#"
[device]
id = "gw-0001"
groups = ["canary"]
[device.attributes]
site = "plant-7"

[mqtt]
url = "mqtt://127.0.0.1:1883"
topic_prefix = "fieldmedic"
keep_alive = "30s"
inflight_max = 64
username = ""
[mqtt.tls]
ca_file = ""
cert_file = ""
key_file = ""
alpn = []
[mqtt.reconnect]
min = "1s"
max = "5m"
stable_after = "60s"
[mqtt.drain]
publishes_per_second = 80

[store]
path = "/var/lib/fieldmedic/store"
max_bytes = "64MiB"
min_free_bytes = "32MiB"
commit_interval = "1s"

[telemetry]
sample_interval = "10s"
report_interval = "60s"
publish_interval = "60s"
encoding = "json"

[collect.battery]
enabled = true
supply = ""
[collect.link]
enabled = true
interfaces = []
[collect.errors]
enabled = true
min_severity = "err"
units = []
max_clusters = 512
bucket = "60s"
[collect.host]
enabled = true
mounts = ["/"]
[collect]
root = "/"

[[rules]]
name = "battery-critical"
metric = "battery.charge_pct"
below = 10
for = "2m"
clear_above = 15
severity = "critical"
remedy = "save-power"

[[ladders]]
name = "heal-app"
steps = [ { do = "restart_unit", unit = "app.service", settle = "60s" },
          { do = "reboot", settle = "5m" },
          { do = "rollback", target = "firmware", settle = "10m" },
          { do = "quarantine", level = "restrict" } ]

[remediation]
dry_run = false
allow = ["restart_unit", "restart_link", "reboot", "rollback", "quarantine", "run"]
units = ["app.service"]
min_uptime = "10m"
min_battery_pct = 15
[remediation.budget]
restart_unit = "5/1h"
reboot = "3/24h"
rollback = "1/24h"

[rollback.firmware]
kind = "slots"
dir = "/opt/app"

[quarantine]
keep_units = ["ssh.service"]
stop_units = []
allow_hosts = []

[runbooks]
dir = "/etc/fieldmedic/runbooks"

[commands]
trusted_keys = ["ops-1:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"]
require_signature = true
max_clock_skew = "5m"

[local]
socket = "/run/fieldmedic/agent.sock"
"#;

#[test]
fn the_contracts_example_is_taken_as_it_stands_and_without_a_warning() {
    let loaded = load_texts(&[CONTRACT]).unwrap_or_else(|errors| panic!("{}", listed(&errors)));

    assert!(loaded.warnings.is_empty(), "{}", listed(&loaded.warnings));
    // What it shows are the defaults, but for what a gateway has of its own.
    let defaults = config(URL);
    let shown = CheckedConfig {
        device: defaults.device.clone(),
        rules: vec![],
        ladders: Default::default(),
        remediation: Remediation { units: vec![], ..loaded.config.remediation.clone() },
        rollback: Default::default(),
        commands: Commands { trusted_keys: vec![], ..loaded.config.commands.clone() },
        ..loaded.config
    };
    assert_eq!(shown.to_toml(), defaults.to_toml());
}

#[test]
fn later_files_override_earlier_ones_key_by_key_and_rules_by_name() {
    let base = r#"
[mqtt]
url = "mqtt://base"
username = "u"
[mqtt.tls]
alpn = []
[device]
groups = ["a", "b"]
[[rules]]
name = "hot"
metric = "host.temperature_c"
above = 80
[[rules]]
name = "full"
metric = "host.disk./.used_pct"
above = 90
"#;
    let over = r#"
mqtt.url = "mqtt://over"
device.groups = ["c"]
[[rules]]
name = "full"
above = 95
[[rules]]
name = "old"
metric = "battery.cycle_count"
above = 1000
"#;
    let config = load_texts(&[base, over]).unwrap().config;

    assert_eq!(config.mqtt.url.host, "over");
    assert_eq!(config.mqtt.username, "u");
    assert_eq!(config.device.groups, ["c"]);
    let rules: Vec<_> = config.rules.iter().map(|rule| (rule.name.as_str(), &rule.test)).collect();
    let expected =
        [("hot", &RuleTest::Above(80.0)), ("full", &RuleTest::Above(95.0)), ("old", &RuleTest::Above(1000.0))];
    assert_eq!(rules, expected);
}

#[test]
fn a_later_file_that_chooses_another_test_or_kind_takes_away_what_belonged_to_the_earlier_one() {
    let base = r#"
[mqtt]
url = "mqtt://base"
[[rules]]
name = "full"
metric = "host.disk./.used_pct"
above = 90
for = "2m"
clear_below = 80
clear_for = "5m"
remedy = "save-power"
[rollback.fw]
kind = "slots"
dir = "/opt/fw"
units = ["fw.service"]
settle = "2m"
"#;
    let laid = |over: &str| load_texts(&[base, over]).unwrap_or_else(|errors| panic!("{}", listed(&errors))).config;
    let rule = |over: &str| laid(&format!("[[rules]]\nname = \"full\"\n{over}\n")).rules.remove(0);

    let missing = rule("missing_for = \"10m\"");
    assert_eq!((missing.test, missing.clear_below), (RuleTest::MissingFor(Duration::from_secs(600)), None));
    assert_eq!((missing.clear_for, missing.hold), (None, Duration::from_secs(120)));
    let higher = rule("above = 95");
    assert_eq!((higher.test, higher.clear_below), (RuleTest::Above(95.0), Some(80.0)), "what is the same stays");
    let share = rule("of_last = \"3/5\"");
    assert_eq!((share.hold, share.share.map(|share| share.of)), (Duration::ZERO, Some(3)));
    assert_eq!((rule("remedy = \"\"").remedy, rule("for = \"1m\"").remedy.as_deref()), (None, Some("save-power")));

    let target = |over: &str| laid(&format!("[rollback.fw]\n{over}\n")).rollback.remove("fw").unwrap();
    let rauc = target("kind = \"rauc\"");
    assert_eq!((rauc.kind, rauc.units.len(), rauc.settle), (RollbackKind::Rauc, 0, Duration::from_secs(120)));
    let slots = target("kind = \"slots\"\nsettle = \"3m\"");
    assert_eq!((slots.kind, slots.units.len()), (RollbackKind::Slots { dir: "/opt/fw".into() }, 1));

    let twice = load_texts(&[base, "[[rules]]\nname = \"full\"\nabove = 1\nbelow = 2\n"]).expect_err("two tests");
    let told = listed(&twice);
    assert!(twice.len() == 1 && told.contains("/1.toml:3: rules.full.above: is one test too many"), "{told}");
}

#[test]
fn agent_toml_holds_the_defaults_and_warns_only_of_missing_keys() {
    let loaded = load_texts(&[&agent_toml()]).unwrap_or_else(|errors| panic!("{}", listed(&errors)));

    let warned: Vec<&str> = loaded.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(warned, ["commands.trusted_keys"]);
    assert_eq!(loaded.config.to_toml(), config(URL).to_toml());
}

#[test]
fn agent_toml_names_every_key_that_is_read() {
    let [text, allowed] = everything();
    let mut present = std::collections::BTreeSet::new();
    keys_of(&tree::parse(0, &text).root.unwrap(), "", &mut present);

    let mut report = Report::new(&[]);
    let mut root = tree::parse(0, &text).root.unwrap();
    tree::merge(&mut root, tree::parse(1, &allowed).root.unwrap(), &MERGING);
    Section::read_root(&mut report, &root, At::start_of(0), |s| read::config(s, "gw"));

    let known =
        report.known().iter().flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")));
    let missing: Vec<String> =
        known.map(|key| key.trim_start_matches('.').to_owned()).filter(|key| !present.contains(key)).collect();
    assert!(missing.is_empty(), "read, but not in configs/agent.toml: {missing:?}");
    assert!(present.len() > 80, "only {} keys were seen", present.len());
}

/// Collects the keys of a tree, with `*` for the names that are free.
fn keys_of(table: &Table, path: &str, keys: &mut std::collections::BTreeSet<String>) {
    for (key, node) in table {
        let key = if path == "rollback" { "*" } else { key };
        let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match &node.value {
            tree::Value::Table(below) => keys_of(below, &path, keys),
            tree::Value::Array(items) => {
                for item in items {
                    if let tree::Value::Table(below) = &item.value {
                        keys_of(below, &format!("{path}.*"), keys);
                    }
                }
            }
            _ => {}
        }
        keys.insert(path);
    }
}

#[test]
fn the_examples_load_and_warn_only_of_missing_keys() {
    let mut seen = 0;
    for entry in std::fs::read_dir(configs().join("examples")).unwrap() {
        let file = entry.unwrap().path();
        let loaded = load_on_host(&[file], "gw-test").unwrap_or_else(|errors| panic!("{}", listed(&errors)));
        let warned: Vec<&str> = loaded.warnings.iter().map(|warning| warning.key.as_str()).collect();
        assert_eq!(warned, ["commands.trusted_keys"], "{}", listed(&loaded.warnings));
        seen += 1;
    }
    assert!(seen >= 2, "found {seen} examples");
}

#[test]
fn the_effective_config_loads_as_the_same_config() {
    let [text, allowed] = everything();
    let solar = std::fs::read_to_string(configs().join("examples/solar-lte.toml")).unwrap();
    let aws = std::fs::read_to_string(configs().join("examples/aws-iot.toml")).unwrap();
    for texts in [vec![URL], vec![text.as_str(), &allowed], vec![&solar], vec![&aws], vec![&aws, &solar]] {
        let first = load_texts(&texts).unwrap_or_else(|errors| panic!("{}", listed(&errors))).config;
        assert_eq!(config(&first.to_toml()), first, "{}", first.to_toml());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_value_survives_being_printed_and_read_again(
        key in any::<String>(),
        text in any::<String>(),
        float in proptest::num::f64::NORMAL | proptest::num::f64::ZERO,
        integer in any::<i64>(),
        bytes in (1_u64 << 20)..=(1 << 50),
        nanos in 100_000_000..=3_600_000_000_000_u64,
    ) {
        let mut first = config(URL);
        first.device.attributes.insert(key.clone(), AttributeValue::Text(text.clone()));
        first.device.attributes.insert(format!("{key}f"), AttributeValue::Float(float));
        first.device.attributes.insert(format!("{key}i"), AttributeValue::Integer(integer));
        first.mqtt.username = text.replace('\0', "");
        first.store.max_bytes = bytes;
        first.telemetry.sample_interval = Duration::from_nanos(nanos);
        first.telemetry.report_interval = Duration::from_nanos(nanos * 2);
        first.telemetry.publish_interval = Duration::from_nanos(nanos * 3);
        prop_assert_eq!(config(&first.to_toml()), first);
    }
}

#[test]
fn changes_are_named_by_their_keys() {
    let old = config(URL);
    let new = config(
        "[mqtt]\nurl = \"mqtt://b\"\nreconnect.max = \"10m\"\n[device]\nattributes.a = 1\n\
         [collect]\nroot = \"/tmp\"\n[remediation]\nbudget.reboot = \"1/1h\"\n\
         [[rules]]\nname = \"hot\"\nmetric = \"host.temperature_c\"\nabove = 80\n",
    );
    let keys = [
        "collect.root",
        "device.attributes.a",
        "mqtt.reconnect.max",
        "mqtt.url",
        "remediation.budget.reboot",
        "rules.hot",
    ];
    assert_eq!(changes(&old, &new), keys.map(Box::from));
    assert_eq!(changes(&new, &old), keys.map(Box::from));
    assert!(changes(&new, &new).is_empty());
}
