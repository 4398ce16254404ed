//! Reads what may be done to the gateway: rules, ladders, what they are allowed, and where a rollback finds its way
//! back. Everything that a rule or a ladder names is looked up here, so that a remedy is not found to be impossible at
//! night.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::doubts;
use super::network::Network;
use super::read::{attribute, hours, interface, ms, seconds, severity, threshold};
use super::reader::{
    Section, absolute_path, did_you_mean, duration, nearest, number, parsed, text, text_of, unfit, word,
};
use super::tree::{Choice, Node};
use super::types::{Collect, Quarantine, Remediation, Remedy, Rollback, RollbackKind, Rule, RuleTest, Slowness, Step};
use super::values::{
    Action, Anomaly, Budget, QuarantineLevel, RUNBOOK_NAME, Share, Unfit, UnitName, is_host_name, is_runbook_name,
    is_topic_word,
};
use crate::engine::metric::{Metric, Rollup};
use crate::engine::observation::Severity;
use crate::gather::gather;

/// The longest ladder: each step costs a settling time, and the last ends in an alarm anyway.
const STEPS_MAX: usize = 16;
/// The ladder that need not be written down.
const SAVE_POWER: &str = "save-power";
/// What `save_power` does unless its step says otherwise.
const SLOWNESS: Slowness =
    Slowness { sample: Duration::from_secs(60), report: Duration::from_secs(300), publish: Duration::from_secs(900) };
/// The tests of a rule, of which it has one.
const TESTS: [&str; 7] = ["below", "above", "equals", "missing_for", "rate_above", "rate_below", "anomaly"];
/// What a later file that chooses otherwise takes away of what an earlier one says.
pub(super) const CHOICES: [Choice; 3] = [
    Choice { within: "rules", of: &TESTS, with_it: &["clear_above", "clear_below", "clear_for", "of_last"] },
    Choice { within: "rules", of: &["for", "of_last"], with_it: &[] },
    Choice { within: "rollback", of: &["kind"], with_it: &["dir", "argv", "units"] },
];
const ISOLATE: Remedy = Remedy::Quarantine { level: QuarantineLevel::Isolate };

pub(super) fn remediation(s: &mut Section<'_>) -> Remediation {
    let allow = s.list("allow", all_that_need_leave(), "[\"restart_unit\"]", action_that_needs_leave);
    for action in allow.iter().filter(|action| !action.needs_leave()) {
        s.warn("allow", format!("{action} needs no leave: it is done whether or not it stands here"));
    }
    Remediation {
        dry_run: s.flag("dry_run", false),
        allow,
        units: s.list("units", vec![], "[\"app.service\"]", parsed(UnitName::parse)),
        min_uptime: s.duration("min_uptime", seconds(600), ms(0)..=hours(7 * 24)),
        min_battery_pct: percent(s, "min_battery_pct", 15.0),
        group_spread: s.duration("group_spread", seconds(600), ms(0)..=hours(24)),
        budget: s.table("budget", budget),
    }
}

/// One that has to be allowed; the others are taken too, and mean nothing.
pub(crate) fn action_that_needs_leave(node: &Node) -> Result<Action, Unfit> {
    word(Action::ALL)(node).or_else(|_| word(&all_that_need_leave())(node))
}

/// What may be done where the config doesn't say.
fn all_that_need_leave() -> Vec<Action> {
    Action::ALL.iter().copied().filter(|action| action.needs_leave()).collect()
}

fn percent(s: &mut Section<'_>, key: &str, default: f64) -> f64 {
    let parse = |node: &Node| number("15")(node).ok().filter(|percent| (0.0..=100.0).contains(percent));
    s.optional(key, |node| parse(node).ok_or_else(|| unfit(node, "a number from 0 to 100, such as 15")))
        .unwrap_or(default)
}

pub(crate) fn budget(s: &mut Section<'_>) -> BTreeMap<Action, Budget> {
    let default = |action: Action| match action {
        Action::RestartUnit => Some(Budget { count: 5, window: hours(1) }),
        Action::Reboot => Some(Budget { count: 3, window: hours(24) }),
        Action::Rollback => Some(Budget { count: 1, window: hours(24) }),
        Action::RestartLink | Action::Quarantine | Action::Run | Action::CollectDiagnostics | Action::SavePower => None,
    };
    let read = |action: &Action| {
        let budget = s.optional(action.word(), parsed(Budget::parse)).or(default(*action));
        Some((*action, budget?))
    };
    // Saving power costs nothing.
    gather(Action::ALL.iter().filter(|action| **action != Action::SavePower).filter_map(read))
}

/// Reads one `[rollback.NAME]`. `None` is an error that was reported.
pub(crate) fn rollback(s: &mut Section<'_>) -> Option<Rollback> {
    let kind = s.required("kind", "\"slots\"", word(&["rauc", "slots", "command"]));
    let dir = s.optional("dir", |node| absolute_path(node, "/opt/app"));
    let has_argv = s.has("argv");
    let argv = s.list("argv", vec![], "[\"/usr/bin/back\", \"--now\"]", argument);
    if kind.is_some_and(|kind| kind != "slots") && s.has("dir") {
        s.error("dir", "is for kind = \"slots\" only");
    }
    if kind.is_some_and(|kind| kind != "command") && has_argv {
        s.error("argv", "is for kind = \"command\" only");
    }
    let has_units = s.has("units");
    let units = s.list("units", vec![], "[\"app.service\"]", parsed(UnitName::parse));
    if kind.is_some_and(|kind| kind != "slots") && has_units {
        s.error("units", "is for kind = \"slots\" only: elsewhere a boot, or the program, restarts them");
    }
    let settle = s.duration("settle", seconds(600), ms(100)..=hours(24));
    let trial = s.duration("trial", seconds(1800), ms(100)..=hours(7 * 24));
    if settle >= trial && !s.is_wrong("settle") && !s.is_wrong("trial") {
        s.error("trial", "is over before settle: no release could ever be good");
    }
    let kind = match kind? {
        "rauc" => RollbackKind::Rauc,
        "slots" => {
            if !s.has("dir") {
                s.error("dir", "is missing; kind = \"slots\" needs it, for example dir = \"/opt/app\"");
            }
            RollbackKind::Slots { dir: dir? }
        }
        _ => {
            if !argv.first().is_some_and(|program| program.starts_with('/')) && !s.is_wrong("argv") {
                s.error("argv", "needs the absolute path of a program first, for example argv = [\"/usr/bin/back\"]");
            }
            RollbackKind::Command { argv }
        }
    };
    Some(Rollback { kind, units, settle, trial })
}

fn argument(node: &Node) -> Result<String, Unfit> {
    text(|text| !text.contains('\0'), "a text without NUL, such as \"--now\"")(node)
}

pub(super) fn quarantine(s: &mut Section<'_>) -> Quarantine {
    let keep_units = UnitName::parse("ssh.service").into_iter().collect();
    let quarantine = Quarantine {
        keep_units: s.list("keep_units", keep_units, "[\"ssh.service\"]", parsed(UnitName::parse)),
        stop_units: s.list("stop_units", vec![], "[\"app.service\"]", parsed(UnitName::parse)),
        allow_hosts: s.list("allow_hosts", vec![], "[\"192.0.2.1\"]", host),
        lockout_after: s.duration("lockout_after", hours(1), seconds(60)..=hours(7 * 24)),
        sample_interval: s.duration("sample_interval", seconds(2), ms(100)..=hours(24)),
    };
    let written = quarantine.allow_hosts.iter().filter(|host| host.parse::<Network>().is_ok()).count();
    let most = Quarantine::HOSTS_MAX;
    if written > most {
        s.error("allow_hosts", format!("has {written} addresses and networks; at most {most} stay in reach"));
    }
    doubts::warn_of_stopped(s, &quarantine);
    doubts::warn_of_open(s, &quarantine);
    quarantine
}

/// A name, an address or a network. It goes into a set of nftables, so nothing else may be in it.
fn host(node: &Node) -> Result<String, Unfit> {
    let fits = |text: &str| text.parse::<Network>().is_ok() || is_host_name(text);
    text(fits, "a host's name, an address or a network, such as \"192.0.2.0/24\"")(node)
}

/// Reads all `[[ladders]]`, and holds each step against what is allowed.
pub(super) fn ladders(
    s: &mut Section<'_>,
    remediation: &Remediation,
    rollback: &BTreeMap<String, Option<Rollback>>,
) -> BTreeMap<String, Vec<Step>> {
    let mut names = Names::default();
    let ladders = s.tables("ladders", |s| {
        let name = names.read(s);
        let steps = s.tables("steps", |s| step(s, remediation, rollback));
        if (steps.is_empty() || steps.len() > STEPS_MAX) && !s.is_wrong("steps") {
            let count = steps.len();
            s.error(
                "steps",
                format!("found {count} steps, expected 1 to {STEPS_MAX}, such as [ {{ do = \"reboot\" }} ]"),
            );
        }
        Some((name?, steps.into_iter().flatten().collect()))
    });
    gather(ladders.into_iter().flatten())
}

fn step(s: &mut Section<'_>, remediation: &Remediation, rollback: &BTreeMap<String, Option<Rollback>>) -> Option<Step> {
    let action = s.required("do", "\"restart_unit\"", word(Action::ALL));
    let settle = s.duration("settle", seconds(60), ms(100)..=hours(24));
    let unit = s.optional("unit", parsed(UnitName::parse));
    let interface = s.optional("interface", interface);
    let target = s.optional("target", text(|text| !text.is_empty(), "a target's name, such as \"firmware\""));
    let level = s.optional("level", word(QuarantineLevel::ALL));
    let runbook = s.optional("runbook", runbook_name);
    let args = s.list("args", vec![], "[\"--all\"]", argument);
    let slowness = slowness(s);
    let action = action?;
    if action.needs_leave() && !remediation.allow.contains(&action) && !s.is_path_wrong("remediation.allow") {
        s.error("do", format!("\"{action}\" is not in remediation.allow"));
    }
    check_arguments(s, action);
    let remedy = match action {
        Action::RestartUnit => Remedy::RestartUnit { unit: unit? },
        Action::RestartLink => Remedy::RestartLink { interface: interface? },
        Action::Reboot => Remedy::Reboot,
        Action::Rollback => Remedy::Rollback { target: target? },
        Action::Quarantine => Remedy::Quarantine { level: level? },
        Action::CollectDiagnostics => Remedy::CollectDiagnostics,
        Action::SavePower => Remedy::SavePower(slowness),
        Action::Run => Remedy::Run { runbook: runbook?, args },
    };
    match &remedy {
        Remedy::RestartUnit { unit } if !remediation.units.contains(unit) && !s.is_path_wrong("remediation.units") => {
            s.error("unit", format!("\"{unit}\" is not in remediation.units"));
        }
        Remedy::Rollback { target } if !rollback.contains_key(target) => {
            s.error("target", format!("there is no [rollback.{target}]"));
        }
        _ => {}
    }
    Some(Step { remedy, settle })
}

/// How slow a step makes the agent.
fn slowness(s: &mut Section<'_>) -> Slowness {
    let Slowness { sample, report, publish } = SLOWNESS;
    let sample = s.duration("sample", sample, ms(100)..=hours(1));
    let report = s.duration("report", report.max(sample), ms(100)..=hours(24));
    let publish = s.duration("publish", publish.max(report), ms(100)..=hours(7 * 24));
    for (longer, shorter, wrong) in [("report", "sample", report < sample), ("publish", "report", publish < report)] {
        if wrong && !s.is_wrong(longer) && !s.is_wrong(shorter) {
            s.error(longer, format!("is shorter than {shorter}"));
        }
    }
    Slowness { sample, report, publish }
}

/// Reports an argument that a step needs and lacks, and those that it has and doesn't need.
fn check_arguments(s: &mut Section<'_>, action: Action) {
    const ARGUMENTS: [(&str, Action, &str); 9] = [
        ("unit", Action::RestartUnit, "\"app.service\""),
        ("interface", Action::RestartLink, "\"wwan0\""),
        ("target", Action::Rollback, "\"firmware\""),
        ("level", Action::Quarantine, "\"restrict\""),
        ("runbook", Action::Run, "\"free-space\""),
        ("args", Action::Run, ""),
        ("sample", Action::SavePower, ""),
        ("report", Action::SavePower, ""),
        ("publish", Action::SavePower, ""),
    ];
    for (key, owner, example) in ARGUMENTS {
        if owner != action && s.has(key) {
            s.error(key, format!("is for do = \"{owner}\" only"));
        }
        if owner == action && !example.is_empty() && !s.has(key) {
            s.error(key, format!("is missing; do = \"{action}\" needs it, for example {key} = {example}"));
        }
    }
}

/// A runbook's name, as a command takes it, too.
pub(crate) fn runbook_name(node: &Node) -> Result<String, Unfit> {
    text(is_runbook_name, RUNBOOK_NAME)(node)
}

/// Reads all `[[rules]]`, and looks up the metrics and ladders that they name. The ladder `save-power` is there for
/// whoever names it, unless one of that name is.
pub(super) fn rules(s: &mut Section<'_>, ladders: &mut BTreeMap<String, Vec<Step>>, collected: &Collect) -> Vec<Rule> {
    let mut names = Names::default();
    let rules = s.tables("rules", |s| {
        let rule = rule(s, &mut names, ladders)?;
        doubts::warn_of_rule(s, &rule, collected);
        Some(rule)
    });
    let rules: Vec<Rule> = rules.into_iter().flatten().collect();
    if rules.iter().any(|rule| rule.remedy.as_deref() == Some(SAVE_POWER)) {
        ladders
            .entry(SAVE_POWER.to_owned())
            .or_insert_with(|| vec![Step { remedy: Remedy::SavePower(SLOWNESS), settle: hours(24) }]);
    }
    rules
}

fn rule(s: &mut Section<'_>, names: &mut Names, ladders: &BTreeMap<String, Vec<Step>>) -> Option<Rule> {
    let name = names.read(s);
    let test = rule_test(s);
    let metric = watched(s, test.as_ref());
    let clear_above = s.optional("clear_above", threshold);
    let clear_below = s.optional("clear_below", threshold);
    let hold = s.duration("for", Duration::ZERO, ms(0)..=hours(7 * 24));
    let share = s.optional("of_last", parsed(Share::parse));
    if share.is_some() && hold > Duration::ZERO {
        s.error("of_last", "and for are two ways to wait: choose one");
    }
    if share.is_some() && matches!(test, Some(RuleTest::MissingFor(_))) {
        s.error("of_last", "is for tests of a reading, such as above = 85");
    }
    let clear_for = s.optional("clear_for", duration(seconds(60), ms(0)..=hours(7 * 24)));
    let severity = severity(s, "severity", Severity::Warning);
    let remedy = s.optional("remedy", text(|_| true, "the name of a ladder; leave it out, or empty, to alarm only"));
    let remedy = remedy.filter(|remedy| !remedy.is_empty());
    if let Some(remedy) = remedy.as_deref().filter(|remedy| *remedy != SAVE_POWER && !ladders.contains_key(*remedy)) {
        let hint = did_you_mean(remedy, ladders.keys().map(String::as_str));
        if !s.is_path_wrong(&format!("ladders.{remedy}.name")) {
            s.error("remedy", format!("there is no ladder named {remedy:?}{hint}"));
        }
    }
    let test = test?;
    check_hysteresis(s, &test, clear_above, clear_below);
    let steps = remedy.as_ref().and_then(|remedy| ladders.get(remedy)).map(Vec::as_slice).unwrap_or_default();
    if matches!(test, RuleTest::Anomaly(_)) && steps.iter().any(|step| step.remedy == ISOLATE) {
        // What a detector finds odd may be an odd day: it must not cut a gateway off.
        s.error("remedy", "isolates the gateway, which a rule with a limit may do, but not a detector of anomalies");
    }
    Some(Rule {
        name: name?,
        metric: metric?,
        test,
        hold,
        share,
        clear_above,
        clear_below,
        clear_for,
        severity,
        remedy,
    })
}

/// Reads what a rule watches; two of the detectors watch something of their own. `None` is an error that was reported.
fn watched(s: &mut Section<'_>, test: Option<&RuleTest>) -> Option<String> {
    let Some(RuleTest::Anomaly(kind)) = test else {
        if s.is_wrong("anomaly") {
            // Some watch something of their own.
            return s.optional("metric", metric);
        }
        return s.required("metric", "\"battery.charge_pct\"", metric);
    };
    let own = match kind {
        Anomaly::NewListener => Metric::HostListeners,
        Anomaly::NewPeer => Metric::HostPeers,
        Anomaly::Spike | Anomaly::Drift | Anomaly::Surge | Anomaly::Seasonal => {
            let watched = s.required("metric", "\"host.load1\"", metric)?;
            let (found, _) = Metric::find(&watched)?;
            let is_counted = matches!(found.rollup(), Rollup::Sum | Rollup::Counter);
            if *kind == Anomaly::Surge && !is_counted {
                s.error(
                    "metric",
                    format!("{watched} isn't counted, as a surge is: watch errors.count, or use \"spike\""),
                );
            }
            return Some(watched);
        }
    };
    if s.optional("metric", metric).is_some_and(|watched| watched != own.path()) {
        s.error("metric", format!("{kind} watches {}: leave metric out", own.path()));
    }
    Some(own.path().to_owned())
}

fn metric(node: &Node) -> Result<String, Unfit> {
    let Some(path) = text_of(node) else { return Err(unfit(node, "a metric, such as \"battery.charge_pct\"")) };
    if Metric::find(path).is_some() {
        return Ok(path.to_owned());
    }
    let names = || Metric::ALL.iter().map(|metric| metric.path());
    // Of a name without its unit the similarity says little: host.cpu.
    let begins_so = || names().find(|name| !path.is_empty() && name.starts_with(path));
    let nearest = nearest(path, names()).or_else(begins_so).unwrap_or("battery.charge_pct");
    Err(unfit(node, format!("a metric (docs/metrics.md), such as {nearest:?}")))
}

/// Reads the one test of a rule. `None` is an error that was reported.
fn rule_test(s: &mut Section<'_>) -> Option<RuleTest> {
    let missing = duration(seconds(300), seconds(1)..=hours(7 * 24));
    let tests = [
        s.optional("below", threshold).map(RuleTest::Below),
        s.optional("above", threshold).map(RuleTest::Above),
        s.optional("equals", attribute).map(RuleTest::Equals),
        s.optional("missing_for", missing).map(RuleTest::MissingFor),
        s.optional("rate_above", threshold).map(RuleTest::RateAbove),
        s.optional("rate_below", threshold).map(RuleTest::RateBelow),
        s.optional("anomaly", word(Anomaly::ALL)).map(RuleTest::Anomaly),
    ];
    let set: Vec<&str> = TESTS.into_iter().filter(|key| s.has(key)).collect();
    match set.as_slice() {
        [] => s.error_here(format!("has no test, expected exactly one of {}", TESTS.join(", "))),
        [_] => {}
        [_, second, ..] => {
            s.error(second, format!("is one test too many: found {}, expected exactly one", set.join(" and ")));
            // Which of them the rest goes with can't be told.
            return None;
        }
    }
    tests.into_iter().flatten().next()
}

/// An alarm clears on the other side of the threshold that raised it, never before it.
fn check_hysteresis(s: &mut Section<'_>, test: &RuleTest, clear_above: Option<f64>, clear_below: Option<f64>) {
    let (low, high) = match test {
        RuleTest::Below(limit) | RuleTest::RateBelow(limit) => (Some(*limit), None),
        RuleTest::Above(limit) | RuleTest::RateAbove(limit) => (None, Some(*limit)),
        _ => (None, None),
    };
    match (clear_above, low) {
        (Some(_), None) => s.error("clear_above", "goes with below or rate_below only"),
        (Some(clear), Some(limit)) if clear < limit => {
            s.error(
                "clear_above",
                format!("is {clear}, expected at least the {limit} below which the alarm is raised"),
            );
        }
        _ => {}
    }
    match (clear_below, high) {
        (Some(_), None) => s.error("clear_below", "goes with above or rate_above only"),
        (Some(clear), Some(limit)) if clear > limit => {
            s.error("clear_below", format!("is {clear}, expected at most the {limit} above which the alarm is raised"));
        }
        _ => {}
    }
}

/// The names of rules, or of ladders, that were read.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    /// Reads the `name` of an element. `None` is an error that was reported.
    fn read(&mut self, s: &mut Section<'_>) -> Option<String> {
        let expected = "1 to 128 letters, digits and . _ : -, such as \"battery-critical\"";
        let name = s.required("name", "\"battery-critical\"", text(is_topic_word, expected))?;
        if !self.0.insert(name.clone()) {
            s.error("name", format!("{name:?} stands twice; each needs a name of its own"));
        }
        Some(name)
    }
}
