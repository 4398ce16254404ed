#![expect(clippy::disallowed_methods, reason = "tests lay out the files that are loaded")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::happening::KEYS_OF_KINDS;
use super::*;
use crate::config;
use crate::sim::report::Measure;
use crate::sim::scenario::{After, Bounds, FaultKind, Flaw, Subject, When};

const ABOUT: &str = "about = \"a test\"\n";

fn load_text(text: &str) -> Result<Scenario, Vec<Problem>> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("winter.toml");
    std::fs::write(&file, text).unwrap();
    load(&file)
}

fn scenario(text: &str) -> Scenario {
    load_text(&format!("{ABOUT}{text}")).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// The errors of a text that must have some, as `LINE: message`.
fn errors(text: &str) -> Vec<String> {
    let errors = load_text(text).expect_err("it has a mistake");
    errors.iter().map(|error| format!("{}: {}", error.line, error.message)).collect()
}

/// The one error of a text behind [`ABOUT`], which is line 1.
fn error(text: &str) -> String {
    let errors = errors(&format!("{ABOUT}{text}"));
    assert_eq!(errors.len(), 1, "{text}\n{errors:#?}");
    errors.into_iter().next().unwrap()
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/scenarios")
}

fn readme() -> String {
    std::fs::read_to_string(directory().join("README.md")).unwrap()
}

/// The keys of a kind, with values that fit.
fn own_keys(kind: &str) -> String {
    let line = |key: &str| match key {
        "severity" => "severity = \"critical\"\n".to_owned(),
        "state" => "state = true\n".to_owned(),
        "by" => "by = \"-2h\"\n".to_owned(),
        "metric" => "metric = \"battery.charge_pct\"\n".to_owned(),
        "unit" => "unit = \"app.service\"\n".to_owned(),
        key => format!("{key} = 1\n"),
    };
    KEYS_OF_KINDS.into_iter().filter(|(_, owners)| owners.contains(&kind)).map(|(key, _)| line(key)).collect()
}

/// A world in which every fault is possible.
const WORLD: &str = "[battery]\n[[units]]\nunit = \"app.service\"\n";

#[test]
fn a_line_about_it_is_all_that_a_scenario_needs() {
    let scenario = scenario("");
    assert_eq!((scenario.name.as_str(), scenario.about.as_str()), ("winter", "a test"));
    assert_eq!((scenario.lasts, scenario.calm), (DAY, 2 * HOUR));
    assert_eq!(scenario.starts, Unix(1_768_435_200_000));
    assert_eq!(scenario.clock, ClockWorld { boots_at: None, set_after: Some(MINUTE), drift_ppm: 20.0 });
    assert_eq!(scenario.battery, None);
    assert_eq!(scenario.links.len(), 1, "a cable");
    assert_eq!(errors("lasts = \"1d\"\n").len(), 1, "about is missing");
}

#[test]
fn every_mistake_is_told_at_once_with_its_line() {
    let text = r#"about = "a test"
lasts = "2 fortnights"
wether = "bad"
[clock]
boots_at = "1970"
[disk]
commit = "40ms..5ms"
[battery]
sky = [0.9, 0.1]
off_pct = 20
[[links]]
interface = "wwan0"
type = "lte"
[[faults]]
do = "powercut"
at = "1h"
[[faults]]
do = "cut"
every = "1s"
[[commands]]
name = "ping"
at = "1h"
every = "1h"
flaw = "evil"
"#;
    let errors = errors(text);
    let lines: Vec<&str> = errors.iter().filter_map(|error| error.split(':').next()).collect();
    assert_eq!(lines, ["2", "3", "5", "7", "9", "10", "13", "15", "19", "23", "24"], "{errors:#?}");
    assert_eq!(
        errors[2],
        "5: clock.boots_at: found \"1970\", expected a date as a text, such as \"2026-01-15T00:00:00Z\", or \"true\""
    );
    assert_eq!(
        errors[3],
        "7: disk.commit: found \"40ms..5ms\", expected a duration from 0s to 1m, or a range of two, such as \"5ms..40ms\""
    );
    assert!(
        errors[10].ends_with("expected one of \"forged\", \"expired\", \"replayed\", \"garbage\", \"misaddressed\"")
    );
}

#[test]
fn each_kind_of_fault_is_read_as_itself_with_its_keys() {
    for word in FaultKind::WORDS {
        let text = format!("{WORLD}[[faults]]\ndo = \"{word}\"\nat = \"1h\"\n{}", own_keys(word));
        let scenario = scenario(&text);
        let fault = &scenario.faults[0];
        assert_eq!((fault.kind.word(), fault.name.as_str()), (word, word));
        assert_eq!(fault.when, When::At(vec![HOUR]));
        assert_eq!(fault.lasts == (ZERO, ZERO), fault.kind.is_instant(), "{word}");
    }
}

#[test]
fn a_key_of_another_kind_is_refused_and_told_whose_it_is() {
    let mut refused = 0;
    for word in FaultKind::WORDS {
        // Behind a fault that has the key by right: it is known, and must still be refused.
        for (key, owners) in KEYS_OF_KINDS.into_iter().filter(|(_, owners)| !owners.contains(&word)) {
            let right =
                format!("[[faults]]\nname = \"right\"\ndo = \"{0}\"\nat = \"1h\"\n{1}", owners[0], own_keys(owners[0]));
            let wrong =
                format!("[[faults]]\nname = \"wrong\"\ndo = \"{word}\"\nat = \"1h\"\n{}{key} = 1\n", own_keys(word));
            let error = error(&format!("{WORLD}{right}{wrong}"));
            assert!(error.contains(&format!("faults.wrong.{key}: is for do = \"{}\"", owners[0])), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 200, "{refused}");
    let error = error("[[faults]]\ndo = \"slow\"\nat = \"1h\"\nper_second = 3\n");
    assert_eq!(error, "5: faults.1.per_second: is for do = \"throttle\", \"error_storm\" only");
}

#[test]
fn what_could_never_happen_is_refused() {
    let cases = [
        ("lasts = \"1h\"\ncalm = \"1h\"\n", "3: calm: is 1h, but the whole run lasts only 1h"),
        ("[[faults]]\ndo = \"cut\"\nat = \"22h\"\n", "4: faults.1.at: 22h is too late: at 22h the calm begins"),
        (
            "[[commands]]\nname = \"ping\"\nat = [\"1h\", \"1d\"]\n",
            "4: commands.ping.at: 1day is too late: at 1day the run ends",
        ),
        ("[[faults]]\ndo = \"cut\"\n", "2: faults.1: comes never"),
        (
            "[[faults]]\ndo = \"crash\"\nat = \"1h\"\nlasts = \"1m\"\n",
            "5: faults.1.lasts: \"crash\" happens in an instant",
        ),
        ("[[faults]]\ndo = \"no_power\"\nat = \"1h\"\n", "3: faults.1.do: \"no_power\" needs a [battery]"),
        (
            "[[faults]]\ndo = \"unit_fails\"\nat = \"1h\"\nunit = \"a.service\"\n",
            "5: faults.1.unit: there is no [[units]]",
        ),
        (
            "[[faults]]\ndo = \"cut\"\nat = \"1h\"\n[[faults]]\ndo = \"cut\"\nat = \"2h\"\n",
            "6: faults.2.do: there is a fault",
        ),
        ("[[faults]]\ndo = \"clock_jump\"\nat = \"1h\"\nby = \"0s\"\n", "5: faults.1.by: found \"0s\""),
        (
            "[[faults]]\ndo = \"sensor_gone\"\nat = \"1h\"\nmetric = \"host.disk./.used_pct\"\n",
            "5: faults.1.metric: found \"host.disk./.used_pct\", expected a metric without a label",
        ),
        ("[disk]\nused = \"1GiB\"\n", "3: disk.used: leaves no room"),
        ("[[links]]\ninterface = \"eth0\"\ngap_lasts = \"1m\"\n", "4: links.1.gap_lasts: says how long"),
        (
            "[releases.a]\nrunning = \"2\"\nprevious = \"1\"\nunit = \"a.service\"\n",
            "5: releases.a.unit: there is no [[units]]",
        ),
    ];
    for (text, begins) in cases {
        let error = error(text);
        assert!(error.starts_with(begins), "{text}\n{error}");
    }
}

#[test]
fn no_list_is_longer_than_its_bound_and_nothing_comes_by_chance_without_pause() {
    let many: String =
        (0..=LIST_MAX).map(|n| format!("[[faults]]\nname = \"{n}\"\ndo = \"cut\"\nat = \"1h\"\n")).collect();
    assert!(error(&many).contains("has 257 entries, at most 256 are allowed"));
    let often = error("[[commands]]\nname = \"ping\"\nevery = \"9s\"\n");
    assert!(often.contains("expected a duration from 10s to 1year"), "{often}");
    assert!(error("[[commands]]\nname = \"ping\"\nat = \"1h\"\nburst = 1001\n").contains("from 1 to 1000"));
    assert!(error("lasts = \"367d\"\n").starts_with("2: lasts: found \"367d\""));
}

#[test]
fn an_expectation_keeps_its_text_and_expects_once_where_it_bounds_nothing() {
    let text = "expect = [{ within = \"5m\", alarm = \"hot\", after = \"sun\" }, { command = \"ping\", status = \"FAILED\", \
                at_most = 0 }]\n[[faults]]\nname = \"sun\"\ndo = \"heat\"\nat = \"1h\"\n[[commands]]\nname = \"ping\"\nat = \"1h\"\n";
    let scenario = scenario(text);
    assert_eq!(scenario.expect[0].of, Subject::Alarm("hot".into()));
    assert_eq!(
        scenario.expect[0].bounds,
        Bounds {
            at_least: Some(1.0),
            at_most: None,
            within: Some(5 * MINUTE),
            after: Some(After::Fault("sun".into()))
        }
    );
    let texts: Vec<&str> = scenario.expect.iter().map(|expectation| expectation.text.as_str()).collect();
    assert_eq!(
        texts,
        ["alarm = \"hot\", within = \"5m\", after = \"sun\"", "command = \"ping\", status = \"FAILED\", at_most = 0"]
    );
    assert_eq!(scenario.expect[1].bounds, Bounds { at_most: Some(0.0), ..Bounds::default() });
}

#[test]
fn an_expectation_that_would_hold_whatever_happens_is_refused() {
    let cases = [
        ("{ at_least = 1 }", "expect.1: is about nothing, expected exactly one of alarm, alarm_stands"),
        ("{ alarm = \"a\", remedy = \"reboot\" }", "expect.1.remedy: is one too many: found alarm and remedy"),
        ("{ remedy = \"restart\" }", "expect.1.remedy: found \"restart\", expected one of \"restart_unit\""),
        (
            "{ command = \"ping\" }",
            "expect.1.command: found \"ping\", expected a command that this scenario sends (reboot)",
        ),
        (
            "{ command = \"reboot\", status = \"DONE\" }",
            "expect.1.status: found \"DONE\", expected one of \"SUCCEEDED\"",
        ),
        ("{ alarm = \"a\", status = \"FAILED\" }", "expect.1.status: goes with command only"),
        (
            "{ event = \"reboted\", at_most = 0 }",
            "expect.1.event: found \"reboted\", expected a lifecycle or audit event; did you mean \"rebooted\"?",
        ),
        (
            "{ event = \"battery-low\", at_most = 0 }",
            "expect.1.event: found \"battery-low\", expected a lifecycle or audit event, such as \"rebooted\"; an alarm is \
             counted by alarm = RULE, and errors by that of a rule on errors.count or another of errors.*",
        ),
        (
            "{ event = \"reboot\", at_most = 0 }",
            "expect.1.event: found \"reboot\", expected a lifecycle or audit event: what was tried is counted by remedy",
        ),
        (
            "{ event = \"healed\", at_most = 0 }",
            "expect.1.event: found \"healed\", expected a lifecycle or audit event: that",
        ),
        (
            "{ event = \"config_changed\", at_most = 0 }",
            "expect.1.event: found \"config_changed\", expected a lifecycle",
        ),
        (
            "{ measure = \"uptime\", at_least = 1 }",
            "expect.1.measure: found \"uptime\", expected one of \"powered_pct\"",
        ),
        ("{ measure = \"uptime_pct\" }", "expect.1.measure: needs at_least or at_most"),
        ("{ measure = \"tries\", at_most = 1, within = \"1h\" }", "expect.1.within: is for what happens"),
        ("{ alarm = \"a\", after = \"snov\" }", "expect.1.after: \"snov\" is neither a time nor the name of a fault"),
        ("{ alarm = \"a\", after = \"2d\" }", "expect.1.after: 2d is too late"),
        ("{ alarm = \"a\", at_least = 3, at_most = 2 }", "expect.1.at_least: is 3, more than at_most = 2"),
        ("{ alarm = \"a\", at_most = 0.5 }", "expect.1.at_most: is a count here"),
        ("{ alarm = \"a\", at_most = \"3\" }", "expect.1.at_most: found \"3\", expected a number"),
    ];
    let rest = "[[faults]]\nname = \"snow\"\ndo = \"cut\"\nat = \"1h\"\n[[commands]]\nname = \"reboot\"\nat = \"1h\"\n";
    for (expectation, begins) in cases {
        let error = error(&format!("expect = [\n  {expectation},\n]\n{rest}"));
        assert!(error.starts_with(&format!("3: {begins}")), "{expectation}\n{error}");
    }
}

#[test]
fn the_events_that_can_be_expected_are_the_contracts_but_for_those_that_never_come() {
    let contract = std::fs::read_to_string(directory().join("../../docs/contract.md")).unwrap();
    let names_of = |heading: &str| -> BTreeSet<String> {
        let (_, section) = contract.split_once(heading).unwrap();
        let (section, _) = section.split_once("\n#").unwrap();
        let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('|').next());
        cells
            .flat_map(|cell| cell.split('`').step_by(2))
            .map(str::to_owned)
            .filter(|name| !name.trim().is_empty())
            .collect()
    };
    let mut names = names_of("### type `lifecycle`");
    names.extend(names_of("### type `audit`"));
    for never in [
        "config_changed",
        "config_refused",
        "battery_implausible",
        "quarantine_not_entered",
        "quarantine_units_stopped",
        "subscription_granted",
        "subscription_withheld",
    ] {
        assert!(names.remove(never), "{never}");
    }
    names.insert("ladder_exhausted".to_owned());
    let known: BTreeSet<String> = expectation::EVENTS.into_iter().map(str::to_owned).collect();
    assert_eq!(known, names);
}

/// The TOML of the README.
fn reference() -> String {
    let readme = readme();
    let (_, rest) = readme.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// The lines of the README that say something of a key, as `key = value`, with `required` and `example` left out.
fn defaults_of_reference() -> String {
    let stated = |line: &&str| {
        let comment = line.split_once('#').map(|(_, comment)| comment).unwrap_or_default();
        !comment.contains("example") && !comment.contains("required")
    };
    // What has a required key next to it, or none of its own, says nothing of defaults.
    reference().lines().filter(stated).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_readme_has_every_key_that_is_read_and_reads_without_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("reference.toml");
    std::fs::write(&file, reference()).unwrap();
    let (read, known) = config::keys_read(&file, |s| super::scenario(s, "reference".into()));
    read.unwrap_or_else(|errors| panic!("{errors:#?}"));

    let mut present = BTreeSet::new();
    keys_of(&reference().parse().unwrap(), "", &mut present);
    let of_kinds = KEYS_OF_KINDS.map(|(key, _)| format!("faults.*.{key}"));
    let missing: Vec<&String> =
        known.iter().filter(|key| !present.contains(*key) && !of_kinds.contains(*key)).collect();
    assert!(missing.is_empty(), "read, but not in configs/scenarios/README.md: {missing:?}");
    assert!(present.len() > 80, "only {} keys were seen", present.len());
}

/// Collects the keys of a tree, with `*` for elements and for names that are free.
fn keys_of(table: &toml::Table, path: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in table {
        let key = if path == "releases" { "*" } else { key };
        let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match value {
            toml::Value::Table(below) => keys_of(below, &path, keys),
            toml::Value::Array(items) => {
                for below in items.iter().filter_map(toml::Value::as_table) {
                    keys_of(below, &format!("{path}.*"), keys);
                }
            }
            _ => {}
        }
        keys.insert(path);
    }
}

#[test]
fn the_readme_states_the_defaults_as_they_are() {
    let text = defaults_of_reference();
    let tables = ["[clock]", "[disk]", "[network]", "[battery]", "[host]", "[errors]"];
    let mut stated = String::from(ABOUT);
    let mut keep = true;
    for line in text.lines() {
        if line.starts_with('[') {
            keep = tables.iter().any(|table| line.starts_with(table));
        }
        let in_list = line.starts_with("expect") || line.starts_with("  {") || line.starts_with(']');
        if keep && !in_list {
            stated.push_str(line);
            stated.push('\n');
        }
    }
    assert!(stated.lines().filter(|line| line.contains(" = ")).count() > 25, "{stated}");
    let stated = load_text(&stated).unwrap_or_else(|errors| panic!("{errors:#?}"));
    assert_eq!(stated, scenario("[battery]\n"));
}

#[test]
fn the_readme_has_every_kind_of_fault_with_its_keys_and_defaults_and_every_word() {
    let readme = readme();
    let rows: BTreeMap<&str, &str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(word, rest)| (word, rest.split('|').nth(1).unwrap_or_default()))
        .collect();
    for word in FaultKind::WORDS {
        let row = rows.get(word).unwrap_or_else(|| panic!("{word} is not in the table"));
        for (key, owners) in KEYS_OF_KINDS {
            assert_eq!(row.contains(&format!("`{key}`")), owners.contains(&word), "{key} in the row of {word}");
        }
    }
    for word in FaultKind::WORDS {
        // `key` (default), and without a default where the key is required.
        let cells: Vec<(&str, Option<&str>)> = rows[word]
            .split(',')
            .filter_map(|cell| cell.trim().strip_prefix('`')?.split_once('`'))
            .map(|(key, rest)| (key, rest.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')'))))
            .collect();
        let is_required = |line: &&str| cells.iter().any(|(key, default)| default.is_none() && line.starts_with(key));
        let required: String = own_keys(word).split_inclusive('\n').filter(is_required).collect();
        let stated = |(key, default): &(&str, Option<&str>)| {
            Some(format!("{key} = {}\n", default.map(|it| it.trim_matches('`'))?))
        };
        let stated: String = cells.iter().filter_map(stated).collect();
        let fault = |keys: &str| scenario(&format!("{WORLD}[[faults]]\ndo = \"{word}\"\nat = \"1h\"\n{keys}")).faults;
        assert_eq!(fault(&required), fault(&format!("{required}{stated}")), "{word}");
    }
    let words = Measure::ALL.iter().map(|measure| measure.word()).chain(Flaw::ALL.iter().map(|flaw| flaw.word()));
    for word in words {
        assert!(readme.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn every_shipped_scenario_loads_and_expects_only_of_rules_and_releases_that_its_config_has() {
    const CONFIGS: [&str; 2] = ["gateway.toml", "last-resort.toml"];
    let mut seen = 0;
    for entry in std::fs::read_dir(directory()).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|end| end != "toml") || CONFIGS.iter().any(|config| file.ends_with(config)) {
            continue;
        }
        let scenario = load(&file).unwrap_or_else(|errors| panic!("{errors:#?}"));
        let name = &scenario.name;
        let of = scenario.config.as_deref().unwrap_or_else(|| panic!("{name} names no config"));
        assert!(CONFIGS.iter().any(|config| of == Path::new(config)), "{name}: {}", of.display());
        let gateway =
            config::load_on_host(&[directory().join(of)], "gw").unwrap_or_else(|errors| panic!("{errors:#?}"));
        assert!(gateway.warnings.is_empty(), "{:#?}", gateway.warnings);
        assert!(!scenario.expect.is_empty(), "{name} expects nothing");
        for expectation in &scenario.expect {
            let (Subject::Alarm(rule) | Subject::AlarmStands(rule)) = &expectation.of else { continue };
            assert!(gateway.config.rules.iter().any(|it| it.name == *rule), "{name}: no rule {rule}");
        }
        for release in &scenario.releases {
            assert!(gateway.config.rollback.contains_key(&release.target), "{name}: no [rollback.{}]", release.target);
        }
        seen += 1;
    }
    assert!(seen >= 14, "found {seen} scenarios");
}
