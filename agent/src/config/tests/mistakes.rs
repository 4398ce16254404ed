//! How mistakes are told: all at once, each once and nothing that only follows from it, with file and line.

use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

use super::*;

#[test]
fn ten_mistakes_are_ten_errors_each_with_its_line() {
    let errors = errors(include_str!("mistakes.toml"));

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
    assert_eq!(errors[2], "5: not TOML: url stands twice, first in line 2");
}

#[test]
fn a_table_that_stands_twice_is_one_error_with_the_line_of_the_first() {
    let first = "[mqtt]\nurl = \"mqtt://a\"\n[remediation]\n# Units.\nunits = []\n[commands]\n";
    let steps = "[[ladders]]\nname = \"heal\"\nsteps = [{ do = \"restart_unit\", unit = \"app.service\" }]\n";
    let text = format!("{first}{steps}[remediation] # Again.\nunits = [\"app.service\"]\n");
    let expected = "10: not TOML: [remediation] stands twice, first in line 3: put what is below it there";
    assert_eq!(error(&text), expected);
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
fn roots_policy_is_told_from_a_configuration_with_mistakes() {
    let told = error("[allow]\nactions = [\"reboot\"]\nbudget = 1\n[commands]\nmode = 3\n");
    assert_eq!(told, "1: this is root's policy (policy.toml), not the agent's configuration (agent.toml)");
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
