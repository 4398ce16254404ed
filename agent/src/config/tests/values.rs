//! What a value must be: by itself, beside another key, and for what MQTT, the kernel or the gateway would take.

use super::*;

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
fn more_addresses_than_a_quarantine_leaves_in_reach_are_refused() {
    let with = |addresses: usize| {
        let hosts: Vec<String> = (0..addresses).map(|n| format!("10.0.0.{n}")).chain(["broker".into()]).collect();
        format!("{URL}[quarantine]\nallow_hosts = {hosts:?}\n")
    };
    assert_eq!(config(&with(64)).quarantine.allow_hosts.len(), 65);
    let told = "4: quarantine.allow_hosts: has 65 addresses and networks; at most 64 stay in reach";
    assert_eq!(error(&with(65)), told);
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
fn what_aws_would_refuse_or_cut_is_refused_where_its_limits_are_kept_to() {
    let with = |more: &str| format!("[mqtt]\nurl = \"mqtts://a\"\nlimits = \"aws-iot\"\n{more}");
    let groups = |count: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("\"g{number}\"")).collect();
        with(&format!("[device]\ngroups = [{}]\n", names.join(",")))
    };
    let keep_alive = |time: &str| with(&format!("keep_alive = \"{time}\"\n"));
    let cases = [
        (keep_alive("29s"), "4: mqtt.keep_alive: is not within AWS IoT's 30s to 20m (mqtt.limits)"),
        (keep_alive("1201s"), "4: mqtt.keep_alive: is not within AWS IoT's 30s to 20m (mqtt.limits)"),
        (
            with("[mqtt.reconnect]\nmin = \"999ms\"\n"),
            "3: mqtt.limits: allows one CONNECT a second for a client id: mqtt.reconnect.min must be 1s or more",
        ),
        (groups(50), "3: mqtt.limits: allows 50 subscriptions: device.groups makes 51"),
    ];
    for (text, expected) in cases {
        assert_eq!(error(&text), expected);
        config(&text.replace("limits = \"aws-iot\"\n", ""));
    }
    for text in [keep_alive("30s"), keep_alive("20m"), with("[mqtt.reconnect]\nmin = \"1s\"\n"), groups(49)] {
        config(&text);
    }
    let plain =
        load_texts(&[&with("").replace("mqtts", "mqtt")]).unwrap_or_else(|errors| panic!("{}", listed(&errors)));
    assert!(plain.warnings.iter().any(|warning| warning.key == "mqtt.url"), "{}", listed(&plain.warnings));
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
    let groups: Vec<String> = (0..127).map(|n| format!("\"g{n:013}\"")).collect();
    let all = |extra: &str| {
        let groups = format!("{}{extra}", groups.join(","));
        format!("[device]\nid = \"gw-00001\"\ngroups = [{groups}]\n[mqtt]\nurl = \"mqtt://a\"\ntopic_prefix = \"p\"\n")
    };
    // 127 of 32 bytes, and p/gw-00001/commands.
    assert_eq!(config(&all("")).device.groups.len(), 127);
    let over = error(&all(",\"g\""));
    assert!(over.starts_with("6: mqtt.topic_prefix: makes 4102 bytes of command topics with the 128 device"), "{over}");
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
            r#"9: ladders.heal.steps.1.runbook: found "../a", expected a file's name of letters, digits and . _ - with a letter or digit first, such as "free-space""#,
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
            r#"8: rules.a.metric: found "battery.charge", expected a metric (docs/metrics.md), such as "battery.charge_pct""#,
        ),
        (
            "name = \"a\"\nmetric = \"host.cpu\"\nabove = 1",
            r#"8: rules.a.metric: found "host.cpu", expected a metric (docs/metrics.md), such as "host.cpu_pct""#,
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

#[test]
fn what_names_no_unit_no_interface_or_no_directory_of_its_own_is_refused() {
    for unit in ["app", "a/b.service", ""] {
        let told = error(&format!("{URL}[collect.errors]\nunits = [{unit:?}]\n"));
        assert!(told.contains("a systemd unit's name with its suffix"), "{told}");
    }
    let told = error(&format!("{URL}[collect.link.monthly_budget]\n\"a/b\" = \"5MiB\"\n"));
    assert!(told.contains("found \"a/b\", expected an interface's name"), "{told}");
    let told = error(&format!("{URL}[store]\npath = \"/\"\n"));
    assert!(told.contains("store.path: is the root of the file system"), "{told}");
}
