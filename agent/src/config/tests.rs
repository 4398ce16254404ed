#![expect(clippy::disallowed_methods, reason = "tests lay out the files that are loaded")]

use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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
fn ten_mistakes_are_ten_errors_each_with_its_line() {
    let text = r#"[device]
id = "gw 1"
[mqtt]
url = "http://broker"
keep_alife = "30s"
inflight_max = 0
[mqtt.reconnect]
min = "1 fortnight"
[store]
max_bytes = "64 kilos"
[telemetry]
sample_interval = 10
encoding = "xml"
[commands]
trusted_keys = [
    "ops-1:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    "ops-2:short",
]
require_signature = "yes"
"#;
    let errors = errors(text);

    let lines: Vec<&str> = errors.iter().filter_map(|error| error.split(':').next()).collect();
    assert_eq!(lines, ["2", "4", "5", "6", "8", "10", "12", "13", "17", "19"], "{errors:#?}");
    assert_eq!(
        errors[0],
        r#"2: device.id: found "gw 1", expected 1 to 128 letters, digits and . _ : -, such as "gw-0001""#
    );
    assert_eq!(errors[2], r#"5: unknown key "mqtt.keep_alife"; did you mean "keep_alive"?"#);
    assert_eq!(errors[3], "6: mqtt.inflight_max: found 0, expected a whole number from 1 to 65535, such as 64");
    assert_eq!(
        errors[4],
        r#"8: mqtt.reconnect.min: found "1 fortnight", expected a duration from 10ms to 1h, such as "1s""#
    );
    assert_eq!(
        errors[5],
        r#"10: store.max_bytes: found "64 kilos", expected a size from 1MiB to 1PiB, such as "64MiB""#
    );
    assert_eq!(
        errors[6],
        r#"12: telemetry.sample_interval: found 10, expected a duration from 100ms to 1h, such as "10s""#
    );
    assert_eq!(errors[7], r#"13: telemetry.encoding: found "xml", expected one of "json", "json+zstd""#);
    assert_eq!(errors[9], r#"19: commands.require_signature: found "yes", expected true or false, such as true"#);
}

#[test]
fn a_missing_url_is_an_error_that_shows_one() {
    assert_eq!(
        error("[device]\nid = \"a\"\n[mqtt]\nusername = \"u\"\n"),
        r#"3: mqtt.url: is missing and has no default; set it, for example url = "mqtt://127.0.0.1:1883""#
    );
}

#[test]
fn a_mistake_in_the_syntax_of_a_value_does_not_hide_the_others() {
    let errors = errors("[mqtt]\nurl = \"mqtt://a\"\nkeep_alive = 30s\ninflight_max = 70000\nurl = \"mqtt://b\"\n");

    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert!(errors[0].starts_with("3: not TOML: string values must be quoted"), "{errors:#?}");
    assert!(errors[1].starts_with("4: mqtt.inflight_max: found 70000"), "{errors:#?}");
    assert!(errors[2].starts_with("5: not TOML: duplicate key"), "{errors:#?}");
}

#[test]
fn every_line_that_is_no_toml_is_told_once_and_in_order() {
    let text = "[mqtt]\nurl = \"mqtt://a\"\nkeep_alive = 30s\n[store]\npath /var\n[device\nid = \"a\"\nx = = 1\n";
    let lines: Vec<String> =
        errors(text).iter().filter_map(|error| Some(error.split(':').next()?.to_owned())).collect();
    assert_eq!(lines, ["3", "5", "6", "8"], "{:#?}", errors(text));
}

#[test]
fn a_file_whose_tables_cannot_be_told_is_one_error_and_no_consequences() {
    assert!(error("[device]\nid = \"a\"\n[mqtt\nurl = \"mqtt://a\"\n").starts_with("3: not TOML: unclosed table"));
    assert!(error("[mqtt]\nurl = \"mqtt://a\"\n[device]\ngroups = [\"a\",\nid = \"b\"\n").starts_with("5: not TOML:"));
}

#[test]
fn the_mistakes_of_all_files_are_told_with_their_file() {
    let errors = load_texts(&["[mqtt]\nurl = 1\n[store]\npath = \"\"\n", "\n[stor]\n", "[clock]\ntrust = \"gps\"\n"]);

    let errors = errors.expect_err("each file has a mistake");
    let places: Vec<String> = errors
        .iter()
        .map(|error| format!("{}:{} {}", error.file.file_name().unwrap().to_string_lossy(), error.line, error.key))
        .collect();
    assert_eq!(places, ["0.toml:2 mqtt.url", "0.toml:4 store.path", "1.toml:2 stor", "2.toml:2 clock.trust"]);
    assert!(errors[2].to_string().ends_with(r#"1.toml:2: unknown key "stor"; did you mean "store"?"#), "{}", errors[2]);
}

#[test]
fn a_file_that_cannot_be_told_does_not_hide_the_mistakes_of_the_others() {
    let texts = [
        "[mqtt\nurl = \"mqtt://b\"\n[[ladders]]\nname = \"heal\"\n",
        "[mqtt]\nkeep_alive = 5\ninflight = 3\n[[rules]]\nname = \"hot\"\nmetric = \"host.load1\"\nabove = \"x\"\n\
         remedy = \"heal\"\n",
    ];
    let errors = load_texts(&texts).expect_err("both have mistakes");
    let keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
    // What the first file may say isn't called missing: mqtt.url, the ladder.
    assert_eq!(keys, ["", "mqtt.keep_alive", "mqtt.inflight", "rules.hot.above"], "{}", listed(&errors));
}

#[test]
fn a_value_that_is_wrong_is_one_error_and_no_contradiction() {
    let ladder = "[[ladders]]\nname = \"heal\"\nsteps = [{ do = \"restart_unit\", unit = \"app.service\" }]\n";
    let save = "[[ladders]]\nname = \"slow\"\nsteps = [{ do = \"save_power\", report = \"1s\", sample = 5 }]\n";
    for (text, key) in [
        ("[telemetry]\nreport_interval = \"5m\"\npublish_interval = \"5\"\n".to_owned(), "telemetry.publish_interval"),
        ("[telemetry]\nsample_interval = \"5\"\nreport_interval = \"1s\"\n".to_owned(), "telemetry.sample_interval"),
        (format!("[remediation]\nunits = \"app.service\"\n{ladder}"), "remediation.units"),
        (format!("[remediation]\nunits = [\"app.service\"]\nallow = [\"restart\"]\n{ladder}"), "remediation.allow"),
        (save.to_owned(), "ladders.slow.steps.1.sample"),
        ("[[ladders]]\nname = \"heal\"\nsteps = \"reboot\"\n".to_owned(), "ladders.heal.steps"),
        ("[rollback.a]\nkind = \"slots\"\ndir = \"/a\"\ntrial = 5\nsettle = \"2h\"\n".to_owned(), "rollback.a.trial"),
        ("[rollback.a]\nkind = \"command\"\nargv = \"/bin/back\"\n".to_owned(), "rollback.a.argv"),
        ("[mqtt]\nusername = 5\npassword_file = \"/p\"\n".to_owned(), "mqtt.username"),
        ("[mqtt.tls]\ncert_file = \"/c\"\nkey_file = 5\n".to_owned(), "mqtt.tls.key_file"),
    ] {
        let errors = load_texts(&["[mqtt]\nurl = \"mqtts://b\"\n", &text]).expect_err("it has a mistake");
        let keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
        assert_eq!(keys, [key], "{text}{}", listed(&errors));
    }
}

#[test]
fn what_has_no_good_name_or_action_hides_no_other_mistake_and_makes_none_up() {
    let cases: [(&str, &[&str]); 5] = [
        (
            "[[ladders]]\nsteps = [{ do = \"dance\" }, { do = \"reboot\", settle = 5 }]\n",
            &["ladders.1.name", "ladders.1.steps.1.do", "ladders.1.steps.2.settle"],
        ),
        (
            "[[ladders]]\nname = \"heal app\"\nsteps = []\n\
             [[rules]]\nname = \"a\"\nmetric = \"host.load1\"\nabove = 1\nremedy = \"heal app\"\n",
            &["ladders.heal app.name", "ladders.heal app.steps"],
        ),
        (
            "[[ladders]]\nname = \"a\"\nsteps = [{ do = \"save\", sample = \"5s\", report = 1, publish = \"1h\" }]\n",
            &["ladders.a.steps.1.do", "ladders.a.steps.1.report"],
        ),
        (
            "[[rules]]\nname = \"a b\"\nmetric = \"x\"\nabove = \"1\"\n",
            &["rules.a b.name", "rules.a b.metric", "rules.a b.above"],
        ),
        ("[[rules]]\nname = \"a\"\nanomaly = \"new_peers\"\n", &["rules.a.anomaly"]),
    ];
    for (text, expected) in cases {
        let mut errors = load_texts(&[&format!("{URL}{text}")]).expect_err(text);
        errors.sort_by_key(|error| (error.line, error.column));
        let keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
        assert_eq!(keys, expected, "{}", listed(&errors));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let errors = load_on_host(&[PathBuf::from("/nonexistent/agent.toml")], "gw").expect_err("there is no such file");
    assert_eq!(
        errors[0].to_string(),
        "/nonexistent/agent.toml:1: reading /nonexistent/agent.toml: No such file or directory (os error 2)"
    );

    let endless = load_on_host(&[PathBuf::from("/dev/zero")], "gw").expect_err("it never ends");
    assert_eq!(endless[0].message, "reading /dev/zero: it is longer than 1048576 B");

    // Nobody writes to it: to open it would never end.
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("agent.toml");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let told = load_on_host(&[pipe], "gw").expect_err("it is a pipe");
    assert!(told[0].message.ends_with("agent.toml: it is not a regular file"), "{}", told[0]);

    let none = load_on_host(&[], "gw").expect_err("no file was named");
    assert!(none[0].to_string().contains("neither this file nor ./configs/agent.toml"), "{}", none[0]);
}

#[test]
fn a_pipe_that_a_shell_has_opened_is_read_by_either_of_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, URL).unwrap();
    for names in ["/dev/fd", "/proc/self/fd"] {
        let mut cat = Command::new("cat").arg(&file).stdout(Stdio::piped()).spawn().unwrap();
        let name = Path::new(names).join(cat.stdout.as_ref().unwrap().as_raw_fd().to_string());
        let loaded = load_on_host(&[name], "gw").unwrap_or_else(|errors| panic!("{}", listed(&errors)));
        assert_eq!(loaded.config.mqtt.url.host, "127.0.0.1", "{names}");
        assert!(cat.wait().unwrap().success());
    }
}

#[test]
fn bytes_that_are_not_text_are_refused_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, b"[mqtt]\nurl = \"\xff\xfe\"\n").unwrap();

    let errors = load_on_host(&[file], "gw").expect_err("it is not UTF-8");
    assert_eq!((errors.len(), errors[0].line), (1, 2));
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
fn what_mqtt_or_the_kernel_would_never_take_is_refused() {
    let long = "u".repeat(65_536);
    for (text, key) in [
        ("[mqtt]\nurl = \"mqtt://a\"\nusername = \"a\\u0000b\"\n".to_owned(), "mqtt.username"),
        (format!("[mqtt]\nurl = \"mqtt://a\"\nusername = \"{long}\"\n"), "mqtt.username"),
        (format!("{URL}username = \"u\"\npassword_file = \"/a\\u0000\"\n"), "mqtt.password_file"),
        (format!("{URL}[store]\npath = \"/a\\u0000\"\n"), "store.path"),
        (format!("{URL}[local]\nsocket = \"/a\\u0000\"\n"), "local.socket"),
        (format!("{URL}[collect.errors]\napp_socket = \"/a\\u0000\"\n"), "collect.errors.app_socket"),
        (format!("{URL}[collect.host]\nmounts = [\"/a\\u0000\"]\n"), "collect.host.mounts"),
        (format!("{URL}[runbooks]\ndir = \"/a\\u0000\"\n"), "runbooks.dir"),
        (format!("{URL}[rollback.a]\nkind = \"slots\"\ndir = \"/a\\u0000\"\n"), "rollback.a.dir"),
    ] {
        let errors = load_texts(&[&text]).expect_err(key);
        let keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
        assert_eq!(keys, [key], "{}", listed(&errors));
    }
}

#[test]
fn a_group_that_is_named_twice_is_taken_once_and_warned_of() {
    let text = "[mqtt]\nurl = \"mqtt://a\"\n[device]\ngroups = [\"a\", \"b\", \"a\"]\n";
    let loaded = load_texts(&[text]).unwrap();
    assert_eq!(loaded.config.device.groups, ["a", "b"]);
    let told = listed(&loaded.warnings);
    assert!(told.contains("0.toml:4: device.groups: names \"a\" twice"), "{told}");
}

#[test]
fn a_host_that_stays_in_reach_can_be_one() {
    let with = |host: &str| format!("{URL}[quarantine]\nallow_hosts = [{host:?}]\n");
    let label = "a".repeat(63);
    for good in ["10.0.0.0/8", "10.0.0.1", "2001:db8::/32", "::1", "broker", "a.b-c.example.", "3com.com", &label] {
        assert_eq!(config(&with(good)).quarantine.allow_hosts, [good]);
    }
    let (long, longest) = (format!("{label}a"), format!("{label}.{label}.{label}.{label}"));
    for bad in [
        "10.0.0.0/33",
        "2001:db8::/129",
        "a/b",
        ":",
        "",
        ".",
        "10.0.0.1-10.0.0.9",
        "10.0.0",
        "10.0.0.256",
        "1234",
        "a..b",
        "-a",
        "a-",
        "a_b",
        "[::1]",
        "broker:8883",
        &long,
        &longest,
    ] {
        let told = error(&with(bad));
        assert!(told.starts_with("4: quarantine.allow_hosts: found "), "{bad:?}: {told}");
        assert!(told.ends_with("expected a host's name, an address or a network, such as \"192.0.2.0/24\""), "{told}");
    }
}

#[test]
fn an_unknown_key_is_refused_in_every_table() {
    let [text, allowed] = everything();
    let tree = tree::parse(0, &text).root.unwrap();
    let mut headers: Vec<String> =
        tree.keys().filter(|key| !["rules", "ladders", "rollback"].contains(&key.as_str())).cloned().collect();
    headers
        .extend(["mqtt.tls", "mqtt.reconnect", "mqtt.drain", "remediation.budget", "rollback.app"].map(str::to_owned));
    headers.extend(["collect.battery", "collect.link", "collect.errors", "collect.host"].map(str::to_owned));
    for header in headers {
        let over = format!("[{header}]\nzzz = 1\n");
        let errors = load_texts(&[&text, &allowed, &over]).expect_err(&header);
        assert_eq!(errors.len(), 1, "{}", listed(&errors));
        assert_eq!(errors[0].message, format!("unknown key {:?}", format!("{header}.zzz")));
    }
    let rule = format!("{URL}[[rules]]\nname = \"a\"\nmetric = \"host.load1\"\nabove = 1\nzzz = 1\n");
    assert_eq!(error(&rule), r#"7: unknown key "rules.a.zzz""#);
    let step = format!("{URL}[[ladders]]\nname = \"a\"\nsteps = [{{ do = \"reboot\", zzz = 1 }}]\n");
    assert_eq!(error(&step), r#"5: unknown key "ladders.a.steps.1.zzz""#);
    assert_eq!(error(&format!("zzz = 1\n{URL}")), r#"1: unknown key "zzz""#);
}

#[test]
fn what_contradicts_another_key_is_refused() {
    let cases = [
        (
            "[telemetry]\nreport_interval = \"5s\"",
            "4: telemetry.report_interval: is 5s, shorter than sample_interval = 10s",
        ),
        (
            "[telemetry]\nreport_interval = \"2m\"",
            "4: telemetry.report_interval: is 2m, longer than publish_interval = 1m, which is the default",
        ),
        (
            "[mqtt.reconnect]\nmin = \"10m\"",
            "4: mqtt.reconnect.min: is 10m, longer than max = 5m, which is the default",
        ),
        (
            "[mqtt.tls]\ncert_file = \"a\"\nkey_file = \"b\"",
            "4: mqtt.tls.cert_file: is set, but mqtt.url is mqtt://127.0.0.1:1883, which is not encrypted; write mqtts:// to use TLS",
        ),
        (
            "[mqtt]\npassword_file = \"/p\"\nurl = \"mqtt://a\"",
            "2: mqtt.password_file: is set, but mqtt.username is not: MQTT 3.1.1 knows no password without a user name",
        ),
        (
            "[mqtt]\nurl = \"mqtts://a\"\ntls.cert_file = \"a\"",
            "3: mqtt.tls.cert_file: is set, but key_file is not: a certificate needs its private key",
        ),
        (
            "[mqtt]\nurl = \"mqtts://a\"\ntls.key_file = \"a\"",
            "3: mqtt.tls.key_file: is set, but cert_file is not: a private key needs its certificate",
        ),
        (
            "[mqtt]\nurl = \"mqtt://a\"\ntopic_prefix = \"a/b/c/d/e\"",
            "3: mqtt.topic_prefix: makes topics of 8 levels, at most 7 are allowed",
        ),
    ];
    for (text, expected) in cases {
        let text = if text.starts_with("[mqtt]") { text.to_owned() } else { format!("{URL}{text}") };
        assert_eq!(error(&text), expected);
    }
}

#[test]
fn topics_are_held_to_seven_levels_and_256_bytes() {
    let with = |prefix: &str, group: &str| {
        format!("[device]\ngroups = [{group:?}]\n[mqtt]\nurl = \"mqtt://a\"\ntopic_prefix = {prefix:?}\n")
    };
    let group = "g".repeat(128);
    // P/groups/G/commands is 7 + 128 + 9 bytes and two slashes around G beyond P.
    let longest = "p".repeat(256 - "/groups//commands".len() - 128);

    assert_eq!(config(&with("a/b/c/d", "g")).mqtt.topic_prefix, "a/b/c/d");
    assert_eq!(config(&with(&longest, &group)).mqtt.topic_prefix, longest);
    let over = error(&with(&format!("{longest}p"), &group));
    assert_eq!(over, "5: mqtt.topic_prefix: makes topics of 257 bytes, at most 256 are allowed");
    for bad in ["", "/a", "a/", "a//b", "a/+/b", "#", "$SYS/a", "a\u{85}", "a\u{fffe}", "\u{1ffff}"] {
        let quoted = quoted(bad);
        let text = format!("[mqtt]\nurl = \"mqtt://a\"\ntopic_prefix = {quoted}\n");
        assert!(error(&text).starts_with("3: mqtt.topic_prefix: found "), "{bad:?}");
    }
}

#[test]
fn what_a_ladder_does_must_be_allowed_and_possible() {
    let with = |steps: &str| {
        format!(
            "{URL}[remediation]\nallow = [\"restart_unit\", \"rollback\", \"run\"]\nunits = [\"app.service\"]\n\
             [[ladders]]\nname = \"heal\"\nsteps = [\n{steps},\n]\n"
        )
    };
    let cases = [
        (r#"{ do = "reboot" }"#, r#"9: ladders.heal.steps.1.do: "reboot" is not in remediation.allow"#),
        (
            r#"{ do = "restart_unit", unit = "db.service" }"#,
            r#"9: ladders.heal.steps.1.unit: "db.service" is not in remediation.units"#,
        ),
        (
            r#"{ do = "restart_unit" }"#,
            r#"9: ladders.heal.steps.1.unit: is missing; do = "restart_unit" needs it, for example unit = "app.service""#,
        ),
        (
            r#"{ do = "rollback", target = "firmware" }"#,
            "9: ladders.heal.steps.1.target: there is no [rollback.firmware]",
        ),
        (
            r#"{ do = "run", runbook = "a", level = "isolate" }"#,
            r#"9: ladders.heal.steps.1.level: is for do = "quarantine" only"#,
        ),
        (
            r#"{ do = "save_power", sample = "10m", report = "5m" }"#,
            "9: ladders.heal.steps.1.report: is shorter than sample",
        ),
        (
            r#"{ do = "run", runbook = "../a" }"#,
            r#"9: ladders.heal.steps.1.runbook: found "../a", expected the name of a file in runbooks.dir, such as "free-space""#,
        ),
    ];
    for (steps, expected) in cases {
        assert_eq!(error(&with(steps)), expected);
    }
    let second = with("{ do = \"restart_unit\", unit = \"app.service\" },\n{ do = \"dance\" }");
    assert!(
        error(&second).starts_with(r#"10: ladders.heal.steps.2.do: found "dance", expected one of "restart_unit""#)
    );
}

#[test]
fn a_rule_has_a_known_metric_a_ladder_that_exists_and_exactly_one_test() {
    let with =
        |rule: &str| format!("{URL}[[ladders]]\nname = \"heal\"\nsteps = [{{ do = \"reboot\" }}]\n[[rules]]\n{rule}\n");
    let cases = [
        (
            "name = \"a\"\nmetric = \"battery.charge\"\nbelow = 1",
            r#"8: rules.a.metric: found "battery.charge", expected a metric, such as "battery.charge_pct""#,
        ),
        (
            "name = \"a\"\nmetric = \"host.load1\"",
            "6: rules.a: has no test, expected exactly one of below, above, equals, missing_for, rate_above, rate_below, anomaly",
        ),
        (
            "name = \"a\"\nmetric = \"host.load1\"\nabove = 2\nbelow = 1",
            "9: rules.a.above: is one test too many: found below and above, expected exactly one",
        ),
        (
            "name = \"a\"\nmetric = \"host.load1\"\nabove = 2\nremedy = \"heel\"",
            r#"10: rules.a.remedy: there is no ladder named "heel"; did you mean "heal"?"#,
        ),
        (
            "name = \"a\"\nmetric = \"battery.charge_pct\"\nbelow = 10\nclear_above = 5",
            "10: rules.a.clear_above: is 5, expected at least the 10 below which the alarm is raised",
        ),
        (
            "name = \"a\"\nmetric = \"host.load1\"\nabove = 1\nfor = \"1m\"\nof_last = \"3/5\"",
            "11: rules.a.of_last: and for are two ways to wait: choose one",
        ),
        (
            "name = \"a\"\nmetric = \"host.load1\"\nabove = 1\nof_last = \"6/5\"",
            r#"10: rules.a.of_last: found "6/5", expected N/M, N of the last M readings, M of 2 to 100, such as "3/5""#,
        ),
        (
            "name = \"a\"\nmetric = \"host.load1\"\nmissing_for = \"5m\"\nof_last = \"3/5\"",
            "10: rules.a.of_last: is for tests of a reading, such as above = 85",
        ),
        (
            "name = \"a\"\nmetric = \"host.load1\"\nabove = nan",
            "9: rules.a.above: found NaN, expected a number, such as 10 or 0.5",
        ),
        (
            "name = \"a\"\nmetric = \"host.load1\"\nabove = 1\n[[rules]]\nname = \"a\"\nmetric = \"host.load1\"\nabove = 2",
            r#"11: rules.a.name: "a" stands twice; each needs a name of its own"#,
        ),
    ];
    for (rule, expected) in cases {
        assert_eq!(error(&with(rule)), expected);
    }
}

#[test]
fn a_detector_of_anomalies_may_not_isolate_a_gateway_but_a_limit_may() {
    let with = |test: &str| {
        format!(
            "{URL}[[ladders]]\nname = \"cut\"\nsteps = [{{ do = \"quarantine\", level = \"isolate\" }}]\n\
             [[rules]]\nname = \"a\"\nmetric = \"host.load1\"\n{test}\nremedy = \"cut\"\n"
        )
    };
    assert_eq!(config(&with("above = 9")).rules.len(), 1);
    assert!(error(&with("anomaly = \"spike\"")).starts_with("10: rules.a.remedy: isolates the gateway"));
}

#[test]
fn a_rollback_target_has_what_its_kind_needs_and_nothing_else() {
    let cases = [
        (
            "kind = \"slots\"",
            "3: rollback.fw.dir: is missing; kind = \"slots\" needs it, for example dir = \"/opt/app\"",
        ),
        ("kind = \"rauc\"\ndir = \"/opt\"", "5: rollback.fw.dir: is for kind = \"slots\" only"),
        (
            "kind = \"command\"\nargv = [\"back\"]",
            "5: rollback.fw.argv: needs the absolute path of a program first, for example argv = [\"/usr/bin/back\"]",
        ),
        (
            "kind = \"ostree\"",
            "4: rollback.fw.kind: found \"ostree\", expected one of \"rauc\", \"slots\", \"command\"",
        ),
    ];
    for (target, expected) in cases {
        assert_eq!(error(&format!("{URL}[rollback.fw]\n{target}\n")), expected);
    }
}

#[test]
fn a_broken_rollback_target_is_not_reported_a_second_time_by_the_ladder_that_names_it() {
    let ladder = "[[ladders]]\nname = \"a\"\nsteps = [{ do = \"rollback\", target = \"fw\" }]\n";
    assert!(error(&format!("{URL}{ladder}[rollback.fw]\nkind = \"x\"\n")).starts_with("7: rollback.fw.kind"));
}

#[test]
fn a_key_is_taken_in_base64url_padded_or_not_or_from_a_file_beside_the_config() {
    for key in [format!("ops-1:{KEY}"), format!("ops-1:{KEY}="), "ops-1.pub".to_owned()] {
        let keys = config(&format!("{URL}[commands]\ntrusted_keys = [{key:?}]\n")).commands.trusted_keys;
        assert_eq!(keys.len(), 1, "{key}");
        assert_eq!(keys[0].to_string(), format!("ops-1:{KEY}"));
    }
}

#[test]
fn a_key_that_is_missing_wrong_or_named_twice_is_refused() {
    let with = |keys: &str| error(&format!("{URL}[commands]\ntrusted_keys = [{keys}]\n"));

    let missing = with("\"gone.pub\"");
    assert!(missing.contains("gone.pub: No such file or directory"), "{missing}");
    let wrong = with("\"other.pub\"");
    assert!(wrong.starts_with("4: commands.trusted_keys: found something else in "), "{wrong}");
    assert!(wrong.contains("expected the PEM of one Ed25519 public key"), "{wrong}");
    let two = with("\"two.pub\"");
    assert!(two.starts_with("4: commands.trusted_keys: found more than one key in "), "{two}");
    let short = with("\"ops-1:AAAA\"");
    assert!(short.contains("expected KID:KEY with the 32 bytes of an Ed25519 public key"), "{short}");
    let twice = with(&format!("\"ops-1.pub\", \"ops-1:{KEY}\""));
    assert!(twice.contains("names the kid \"ops-1\" twice"), "{twice}");
}

#[test]
fn a_key_that_anybody_could_sign_with_is_refused() {
    use crate::wire::keys::{SigningKey, public_pem};

    let ends = |first: u8, between: u8, last: u8| {
        let mut key = [between; 32];
        (key[0], key[31]) = (first, last);
        key
    };
    let hex = |text: &str| -> [u8; 32] {
        let digits = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
        std::array::from_fn(digits)
    };
    // Of small order, with either sign of x; and what is no coordinate of the field, p and more.
    for key in [
        [0; 32],
        ends(0, 0, 0x80),
        ends(1, 0, 0),
        ends(1, 0, 0x80),
        hex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        hex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
        hex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
        hex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
        ends(0xec, 0xff, 0x7f),
        ends(0xed, 0xff, 0x7f),
        ends(0xee, 0xff, 0x7f),
        [0xff; 32],
    ] {
        let text = TrustedKey { kid: "ops-1".into(), public_key: key }.to_string();
        let told = error(&format!("{URL}[commands]\ntrusted_keys = [{text:?}]\n"));
        assert!(told.contains("\"ops-1:\" and a placeholder for a key: anybody could sign with it"), "{told}");
        assert!(told.contains("`fieldmedic keygen`"), "{told}");
        assert!(TrustedKey::from_pem("ops-1", &public_pem(key)).is_err(), "{key:02x?}");
    }
    for key in [ends(0xeb, 0xff, 0x7f), ends(0xed, 0xff, 0x7e), SigningKey::from_seed([7; 32]).unwrap().public()] {
        assert!(TrustedKey::from_pem("ops-1", &public_pem(key)).is_ok(), "{key:02x?}");
    }
}

#[test]
fn a_private_key_in_the_place_of_a_public_one_is_not_repeated() {
    let private = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v_VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{private}\n-----END PRIVATE KEY-----\n");
    let seed = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    let texts = [private.to_owned(), pem, format!("ops-1:{private}"), format!("{seed}:ops-1"), format!("ops 1:{seed}")];
    for text in &texts {
        for keys in [format!("[{text:?}]"), format!("{text:?}")] {
            let error = error(&format!("{URL}[commands]\ntrusted_keys = {keys}\n"));
            assert!(!error.contains("MC4CAQ") && !error.contains("nWGxne"), "{error}");
        }
    }
    let error = error(&format!("{URL}[commands]\ntrusted_keys = [\"ops-1:{private}\"]\n"));
    assert!(error.contains("found \"ops-1:\" and 64 characters that are no public key, expected KID:KEY"), "{error}");
}

#[test]
fn what_is_wrong_is_told_in_a_bounded_message() {
    const MESSAGE_BYTES_MAX: usize = 1100;
    let long = "x".repeat(450_000);
    let texts = [
        format!("{URL}[device]\nid = \"{long}\"\n"),
        format!("{URL}{long} = 1\n"),
        format!("{URL}keep_alive = 1{}\n", "0".repeat(450_000)),
        format!("{URL}[commands]\ntrusted_keys = [\"{long}.pub\"]\n"),
    ];
    for text in texts {
        let error = error(&text);
        assert!(error.len() < MESSAGE_BYTES_MAX, "{} B: {:.200}", error.len(), error);
    }
}

#[test]
fn no_id_is_the_address_of_a_group() {
    let error = error(&format!("{URL}[device]\nid = \"group:canary\"\n"));
    assert!(error.contains("found \"group:canary\", expected an id that does not begin with \"group:\""), "{error}");
    assert_eq!(DeviceId::parse("gw:group:1").unwrap().as_str(), "gw:group:1");
    assert_eq!(DeviceId::from_hostname("group:canary"), None);
}

#[test]
fn a_password_in_the_url_is_refused_and_not_repeated() {
    let error = error("[mqtt]\nurl = \"mqtt://bob:hunter2@broker\"\n");
    assert!(error.starts_with("2: mqtt.url: found a URL with a user name or password in it"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_broker_url_has_a_host_and_a_port_and_nothing_else() {
    let shown = |text: &str| BrokerUrl::parse(text).map(|url| url.to_string());
    assert_eq!(shown("mqtts://broker.example.org").unwrap(), "mqtts://broker.example.org:8883");
    assert_eq!(shown("mqtt://[::1]:1884").unwrap(), "mqtt://[::1]:1884");
    assert_eq!(shown("mqtt://127.0.0.1/").unwrap(), "mqtt://127.0.0.1:1883");
    for bad in
        ["broker", "mqtt://", "mqtt://a:0", "mqtt://a:70000", "mqtt://a/b", "mqtt://[a]", "mqtt://a b", "tcp://a"]
    {
        assert!(shown(bad).is_err(), "{bad}");
    }
    for bad in ["mqtt://a:+1883", "mqtts://[::1]:+8883", "mqtt://a:"] {
        assert!(shown(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_unit_name_is_never_a_path_and_never_an_option() {
    for good in ["app.service", "getty@tty1.service", "dev-sda1.device", "a\\x2db.mount"] {
        assert_eq!(UnitName::parse(good).unwrap().as_str(), good);
    }
    for bad in ["app", "../app.service", "--force.service", ".service", "app.exe", "a b.service", "*.service", ""] {
        assert!(UnitName::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_hostname_becomes_an_id_and_a_name_that_many_hosts_bear_is_warned_of() {
    assert_eq!(DeviceId::from_hostname("gw_7.plant/ü").unwrap().as_str(), "gw_7.plant--");
    assert_eq!(DeviceId::from_hostname(&"x".repeat(200)).unwrap().as_str().len(), DeviceId::LEN_MAX);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), URL).unwrap();
    let loaded = load_on_host(&[file.path().to_owned()], "localhost").unwrap();
    assert_eq!(loaded.config.device.id.as_str(), "localhost");
    assert_eq!(loaded.warnings[0].key, "device.id");
    assert!(loaded.warnings[0].message.contains("evict each other"), "{}", loaded.warnings[0]);
}

#[test]
fn unsigned_commands_are_warned_of_at_their_line() {
    let loaded = load_texts(&[&format!("{URL}[commands]\nrequire_signature = false\n")]).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert_eq!((loaded.warnings[0].line, loaded.warnings[0].key.as_str()), (4, "commands.require_signature"));
}

#[test]
fn a_size_or_duration_too_big_to_be_meant_is_refused_and_does_not_panic() {
    let duration = format!("{URL}[telemetry]\nsample_interval = \"18446744073709551615s 1000ms\"\n");
    assert!(error(&duration).starts_with("4: telemetry.sample_interval: found"));
    for size in ["99999999999TiB", "1025TiB", "18446744073709551615"] {
        let told = error(&format!("{URL}[store]\nmax_bytes = {size:?}\n"));
        let expected = "expected a size from 1MiB to 1PiB, such as \"64MiB\"";
        assert_eq!(told, format!("4: store.max_bytes: found {size:?}, {expected}"));
        let told = error(&format!("{URL}[collect.link.monthly_budget]\nwwan0 = {size:?}\n"));
        assert!(told.contains("expected a size from 1B to 1PiB"), "{told}");
    }
    assert_eq!(config(&format!("{URL}[store]\nmax_bytes = \"1PiB\"\n")).store.max_bytes, 1 << 50);
    let number = "[mqtt]\nurl = \"mqtt://a\"\ninflight_max = 99999999999999999999\n";
    assert!(error(number).starts_with("3: mqtt.inflight_max: found 99999999999999999999"));
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
fn changes_are_named_with_whether_they_need_a_restart() {
    let old = config(URL);
    let new = config(
        "[mqtt]\nurl = \"mqtt://b\"\ninflight_max = 10\nreconnect.max = \"10m\"\nkeep_alive = \"60s\"\n\
         [device]\ngroups = [\"g\"]\nattributes.a = 1\n[collect]\nroot = \"/tmp\"\nhost.enabled = false\n\
         [store]\npath = \"/s\"\n[remediation]\nbudget.reboot = \"1/1h\"\n\
         [[rules]]\nname = \"hot\"\nmetric = \"host.temperature_c\"\nabove = 80\n",
    );

    let changes = changes(&old, &new);
    let live: Vec<&str> = changes.iter().filter(|change| change.live).map(|change| change.key.as_str()).collect();
    let restart: Vec<&str> = changes.iter().filter(|change| !change.live).map(|change| change.key.as_str()).collect();
    assert_eq!(
        live,
        [
            "collect.host.enabled",
            "device.attributes.a",
            "device.groups",
            "mqtt.inflight_max",
            "mqtt.reconnect.max",
            "remediation.budget.reboot",
            "rules.hot",
        ]
    );
    assert_eq!(restart, ["collect.root", "mqtt.keep_alive", "mqtt.url", "store.path"]);
    assert!(super::changes(&new, &new).is_empty());
}

#[test]
fn applications_report_beside_the_agents_own_socket_unless_told_otherwise() {
    let base = "[mqtt]\nurl = \"mqtt://a\"\n";
    let socket = |text: &str| config(&format!("{base}{text}")).collect.errors.app_socket;
    assert_eq!(socket(""), Some(PathBuf::from("/run/fieldmedic/errors.sock")));
    assert_eq!(socket("[local]\nsocket = \"here/agent.sock\"\n"), Some(PathBuf::from("here/errors.sock")));
    assert_eq!(socket("[collect.errors]\napp_socket = \"/run/e.sock\"\n"), Some(PathBuf::from("/run/e.sock")));
    assert_eq!(socket("[collect.errors]\napp_socket = \"\"\n"), None);

    let twice = error(&format!("{base}[collect.errors]\napp_socket = \"/run/fieldmedic/agent.sock\"\n"));
    assert_eq!(twice, "4: collect.errors.app_socket: is local.socket too; each needs a path of its own");
    let long = error(&format!("{base}[collect.errors]\napp_socket = \"/{}\"\n", "x".repeat(107)));
    assert_eq!(long, "4: collect.errors.app_socket: is 108 bytes long, the kernel takes at most 107");
    assert!(error(&format!("{base}[collect.errors]\napp_socket = 7\n")).contains("found 7, expected a path"));
}
