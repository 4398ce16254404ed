//! Says of a rule that it can't be raised as the configuration stands, or always is: it watches what nobody collects,
//! or asks for what its metric never, or always, is; of one that its alarm stays once it is raised; of a quarantine that
//! it won't stop what it names; and of releases on trial that no rule can find to be bad. Only warns: all else of the
//! configuration works without. The engine leaves out a rule that can't be raised, as nothing would clear an alarm of
//! it; one that always is stays in force. Says nothing of what depends on the gateway, such as whether it has a battery.

use std::fmt;

use super::reader::Section;
use super::types::{CheckedConfig, Collect, Quarantine, RollbackKind, Rule, RuleTest};
use super::values::{Anomaly, AttributeValue};
use crate::engine::kernel::KernelClass;
use crate::engine::metric::{BOUNDS, Content, DROPPED, Metric};
use crate::engine::observation::{Refusal, Severity};
use crate::wire::Reason;

/// Without these there is no way to systemd, and so none to stop a unit or to start it again.
const BUS_UNITS: [&str; 3] = ["dbus.service", "dbus-broker.service", "dbus.socket"];

/// Warns at the key of the rule that `s` reads.
pub(super) fn warn_of_rule(s: &mut Section<'_>, rule: &Rule, collect: &Collect) {
    let always = || unread(rule, collect).map(|why| ("metric", why)).or_else(|| certain(rule));
    if let Some((key, why)) = never_raised(rule, collect) {
        s.warn(key, format!("{why}: the rule is never raised"));
    } else if let Some((key, why)) = always() {
        s.warn(key, format!("{why}: the rule is always raised"));
    } else if let Some((key, why)) = never_cleared(rule) {
        s.warn(key, format!("{why}: the alarm is never cleared"));
    }
}

/// Warns of hosts that leave nothing for the quarantine that `s` reads to keep out.
pub(super) fn warn_of_open(s: &mut Section<'_>, quarantine: &Quarantine) {
    for host in quarantine.allow_hosts.iter().filter(|host| host.ends_with("/0")) {
        s.warn("allow_hosts", format!("{host} is every address: such a quarantine keeps nobody out"));
    }
}

/// Warns of releases that are tried, and that no rule can find to be bad.
pub(super) fn warn_of_trials(s: &mut Section<'_>, config: &CheckedConfig) {
    let leaves = |rule: &Rule, target: &str| config.rolled_back_by(rule).any(|left| left == target);
    for (target, rollback) in &config.rollback {
        let is_tried = matches!(rollback.kind, RollbackKind::Slots { .. } | RollbackKind::Rauc);
        let judges = |rule: &Rule| rule.severity <= Severity::Critical || leaves(rule, target);
        if is_tried && !config.rules_in_force().any(judges) {
            let why = "no rule finds a release bad: none has severity = \"critical\", nor a ladder that goes back; what \
                       reaches the broker is marked good";
            s.warn("rollback", format!("{target}: {why}"));
        }
    }
}

/// Warns of units that the quarantine that `s` reads doesn't stop though it names them, or had better not.
pub(super) fn warn_of_stopped(s: &mut Section<'_>, quarantine: &Quarantine) {
    for unit in &quarantine.stop_units {
        let why = if Quarantine::is_own(unit) {
            "is a part of the agent, and is not stopped"
        } else if quarantine.keep_units.contains(unit) {
            "is in keep_units, too, and is not stopped"
        } else if BUS_UNITS.contains(&unit.as_str()) {
            "is the way to systemd: without it no other unit can be stopped, or started again"
        } else {
            continue;
        };
        s.warn("stop_units", format!("{unit} {why}"));
    }
}

/// The key by which the rule is never raised, and why.
pub(super) fn never_raised(rule: &Rule, collect: &Collect) -> Option<(&'static str, String)> {
    if let RuleTest::MissingFor(_) = rule.test {
        return None;
    }
    let (metric, _) = Metric::find(&rule.metric)?;
    unread(rule, collect).map(|why| ("metric", why)).or_else(|| impossible(metric, &rule.test))
}

/// Why nobody reads what the rule watches.
fn unread(rule: &Rule, collect: &Collect) -> Option<String> {
    let (metric, label) = Metric::find(&rule.metric)?;
    uncollected(metric, label, collect)
}

/// Why nobody reads it.
fn uncollected(metric: Metric, label: Option<&str>, collect: &Collect) -> Option<String> {
    let path = metric.path();
    let collectors = [
        ("battery", collect.battery.enabled),
        ("link", collect.link.enabled),
        ("errors", collect.errors.enabled),
        // Sockets are looked at for the rules that ask for them alone.
        ("host", collect.host.enabled || matches!(metric, Metric::HostListeners | Metric::HostPeers)),
    ];
    let group = path.split('.').next()?;
    if let Some((off, _)) = collectors.iter().find(|(name, enabled)| *name == group && !enabled) {
        return Some(format!("collect.{off}.enabled is false"));
    }
    let label = label?;
    if label == "*" {
        return Some(format!("the * of {path} stands for one name: write a rule for each"));
    }
    let needs_budget = matches!(metric, Metric::InterfaceMonthBytes | Metric::InterfaceBudgetUsed);
    if needs_budget && !collect.link.monthly_budget.contains_key(label) {
        return Some(format!("{label:?} is not in collect.link.monthly_budget"));
    }
    let unless_one_of =
        |words: &[&str]| (!words.contains(&label)).then(|| format!("there is no {label:?}, but {}", words.join(", ")));
    match path.split_once('*')?.0 {
        "host.disk." if !collect.host.mounts.iter().any(|mount| mount.as_os_str() == label) => {
            Some(format!("{label:?} is not in collect.host.mounts"))
        }
        "link.interfaces." => {
            let named = &collect.link.interfaces;
            let is_told = named.is_empty() || named.iter().any(|interface| interface == label);
            (!is_told).then(|| format!("{label:?} is not in collect.link.interfaces"))
        }
        "errors.by_severity." => unless_one_of(&Severity::ALL.map(Severity::word)),
        "agent.commands_refused." => unless_one_of(&Reason::ALL.iter().map(|reason| reason.word()).collect::<Vec<_>>()),
        "agent.dropped." => unless_one_of(&DROPPED),
        "agent.refused." => unless_one_of(&BOUNDS),
        "errors.app_refused." => unless_one_of(&Refusal::ALL.iter().map(|refusal| refusal.word()).collect::<Vec<_>>()),
        "errors.kernel_by_class." => {
            unless_one_of(&KernelClass::ALL.iter().map(|class| class.word()).collect::<Vec<_>>())
        }
        _ => None,
    }
}

/// The key that asks for what the metric never is, and why.
fn impossible(metric: Metric, test: &RuleTest) -> Option<(&'static str, String)> {
    if let RuleTest::Equals(wanted) = test {
        return never_equal(metric, test, wanted).map(|why| ("equals", why));
    }
    let key = match test {
        RuleTest::Below(_) => "below",
        RuleTest::Above(_) => "above",
        RuleTest::RateBelow(_) => "rate_below",
        RuleTest::RateAbove(_) => "rate_above",
        RuleTest::Anomaly(Anomaly::NewListener | Anomaly::NewPeer) | RuleTest::MissingFor(_) | RuleTest::Equals(_) => {
            return None;
        }
        RuleTest::Anomaly(_) => "anomaly",
    };
    if let Content::Text | Content::Words(_) = metric.content() {
        return Some((key, format!("{metric} is a word, not a number; use equals or missing_for")));
    }
    let range = judged(metric, test)?;
    let why = match test {
        RuleTest::Below(limit) | RuleTest::RateBelow(limit) => range.never_below(*limit),
        RuleTest::Above(limit) | RuleTest::RateAbove(limit) => range.never_above(*limit),
        _ => None,
    };
    Some((key, why?))
}

/// The key that asks for what the metric always is, and why.
fn certain(rule: &Rule) -> Option<(&'static str, String)> {
    let (metric, _) = Metric::find(&rule.metric)?;
    let range = judged(metric, &rule.test)?;
    let (key, word, limit) = match rule.test {
        RuleTest::Below(limit) if limit > range.high => ("below", "below", limit),
        RuleTest::RateBelow(limit) if limit > range.high => ("rate_below", "below", limit),
        RuleTest::Above(limit) if limit < range.low => ("above", "above", limit),
        RuleTest::RateAbove(limit) if limit < range.low => ("rate_above", "above", limit),
        _ => return None,
    };
    Some((key, format!("{range}, always {word} {limit}")))
}

/// The key that asks, before the alarm is cleared, for what the metric never is, and why.
fn never_cleared(rule: &Rule) -> Option<(&'static str, String)> {
    let (metric, _) = Metric::find(&rule.metric)?;
    let range = judged(metric, &rule.test)?;
    let above = || Some(("clear_above", range.never_above(rule.clear_above?)?));
    let below = || Some(("clear_below", range.never_below(rule.clear_below?)?));
    above().or_else(below)
}

/// What a test's number is held against, and the least and the most that it can be.
struct Range {
    what: String,
    low: f64,
    high: f64,
}

impl Range {
    fn never_below(&self, limit: f64) -> Option<String> {
        (limit <= self.low).then(|| format!("{self}, never below {limit}"))
    }

    fn never_above(&self, limit: f64) -> Option<String> {
        (limit >= self.high).then(|| format!("{self}, never above {limit}"))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, low, high } = self;
        if high.is_finite() {
            write!(f, "{what} is from {low} to {high}")
        } else {
            write!(f, "{what} is {low} or more")
        }
    }
}

/// That of a reading, in which what is true or false is compared as 1 and 0; of a rate only where what is counted can't
/// fall.
fn judged(metric: Metric, test: &RuleTest) -> Option<Range> {
    let is_rate = matches!(test, RuleTest::RateBelow(_) | RuleTest::RateAbove(_));
    let (low, high) = match metric.content() {
        _ if is_rate => metric.range().filter(|_| metric.is_counted())?,
        Content::Flag => (0.0, 1.0),
        _ => metric.range()?,
    };
    let what = if is_rate { format!("the rate of {metric}") } else { metric.to_string() };
    Some(Range { what, low, high })
}

fn never_equal(metric: Metric, test: &RuleTest, wanted: &AttributeValue) -> Option<String> {
    let number = match wanted {
        AttributeValue::Text(text) => {
            return match metric.content() {
                Content::Text => None,
                Content::Words(words) if words.contains(&text.as_str()) => None,
                Content::Words(words) => Some(format!("{metric} is never {text:?}, but {}", words.join(", "))),
                Content::Flag => Some(format!("{metric} is true or false, without quotes")),
                Content::Number => Some(format!("{metric} is a number, without quotes")),
            };
        }
        AttributeValue::Flag(flag) => f64::from(u8::from(*flag)),
        // Words and ranges of whole numbers; what lies beyond 2^53 lies beyond them.
        #[expect(clippy::cast_precision_loss, reason = "only compared with small numbers")]
        AttributeValue::Integer(number) => *number as f64,
        AttributeValue::Float(number) => *number,
    };
    match metric.content() {
        Content::Text | Content::Words(_) => return Some(format!("{metric} is a word, such as \"unknown\"")),
        Content::Flag if number == 0.0 || number == 1.0 => return None,
        Content::Flag => return Some(format!("{metric} is true or false")),
        Content::Number => {}
    }
    let range = judged(metric, test)?;
    (number < range.low || number > range.high).then(|| range.to_string())
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{URL, load_texts};

    /// The warnings of a rule, as `LINE: message`.
    fn warned(before: &str, rule: &str) -> Vec<String> {
        let text = format!("{URL}{before}[[rules]]\nname = \"a\"\n{rule}\n");
        let warnings = load_texts(&[&text]).unwrap().warnings;
        let of_rules = warnings.iter().filter(|warning| warning.key.starts_with("rules."));
        of_rules.map(|warning| format!("{}: {}", warning.line, warning.message)).collect()
    }

    #[test]
    fn a_rule_that_asks_for_what_its_metric_never_is_is_warned_of() {
        let cases = [
            (
                "metric = \"battery.state\"\nequals = \"low\"",
                "6: rules.a.equals: battery.state is never \"low\", but charging, discharging, full, not_charging, unknown",
            ),
            (
                "metric = \"link.type\"\nbelow = 1",
                "6: rules.a.below: link.type is a word, not a number; use equals or missing_for",
            ),
            (
                "metric = \"link.type\"\nanomaly = \"spike\"",
                "6: rules.a.anomaly: link.type is a word, not a number; use equals or missing_for",
            ),
            (
                "metric = \"battery.charge_pct\"\nabove = 120",
                "6: rules.a.above: battery.charge_pct is from 0 to 100, never above 120",
            ),
            (
                "metric = \"battery.charge_pct\"\nbelow = -3",
                "6: rules.a.below: battery.charge_pct is from 0 to 100, never below -3",
            ),
            (
                "metric = \"battery.present\"\nabove = 1",
                "6: rules.a.above: battery.present is from 0 to 1, never above 1",
            ),
            ("metric = \"errors.count\"\nbelow = 0", "6: rules.a.below: errors.count is 0 or more, never below 0"),
            ("metric = \"errors.count\"\nequals = -1", "6: rules.a.equals: errors.count is 0 or more"),
            (
                "metric = \"link.rx_bytes\"\nrate_below = 0",
                "6: rules.a.rate_below: the rate of link.rx_bytes is 0 or more, never below 0",
            ),
            ("metric = \"host.psi.io\"\nequals = 101", "6: rules.a.equals: host.psi.io is from 0 to 100"),
            ("metric = \"link.up\"\nequals = \"false\"", "6: rules.a.equals: link.up is true or false, without quotes"),
            ("metric = \"link.up\"\nequals = 2", "6: rules.a.equals: link.up is true or false"),
            ("metric = \"host.load1\"\nequals = \"1\"", "6: rules.a.equals: host.load1 is a number, without quotes"),
            ("metric = \"link.rat\"\nequals = 4", "6: rules.a.equals: link.rat is a word, such as \"unknown\""),
            (
                "metric = \"errors.by_severity.warn\"\nabove = 1",
                "5: rules.a.metric: there is no \"warn\", but emergency, alert, critical, error, warning, notice, info, \
                 debug",
            ),
        ];
        for (rule, expected) in cases {
            assert_eq!(warned("", rule), [format!("{expected}: the rule is never raised")]);
        }
    }

    #[test]
    fn an_alarm_that_would_clear_only_at_what_its_metric_never_is_is_warned_of() {
        for (rule, expected) in [
            ("battery.charge_pct\"\nbelow = 20\nclear_above = 100", "clear_above: battery.charge_pct is from 0 to 100"),
            ("battery.charge_pct\"\nbelow = 20\nclear_above = 120", "clear_above: battery.charge_pct is from 0 to 100"),
            ("host.cpu_pct\"\nabove = 90\nclear_below = -5", "clear_below: host.cpu_pct is from 0 to 100"),
            ("host.mem_used_pct\"\nabove = 90\nclear_below = 0", "clear_below: host.mem_used_pct is from 0 to 100"),
            ("errors.count\"\nabove = 0\nclear_below = 0", "clear_below: errors.count is 0 or more"),
            ("errors.unit_failures\"\nabove = 2\nclear_below = 0", "clear_below: errors.unit_failures is 0 or more"),
            ("host.load1\"\nabove = 9\nclear_below = 0", "clear_below: host.load1 is 0 or more"),
            (
                "link.rx_errors\"\nrate_above = 2\nclear_below = 0",
                "clear_below: the rate of link.rx_errors is 0 or more",
            ),
            ("link.up\"\nbelow = 1\nclear_above = 1", "clear_above: link.up is from 0 to 1"),
        ] {
            let warned = warned("", &format!("metric = \"{rule}"));
            let [one] = warned.as_slice() else { panic!("{rule}: {warned:?}") };
            assert!(one.starts_with(&format!("7: rules.a.{expected}, never ")), "{one}");
            assert!(one.ends_with(": the alarm is never cleared"), "{one}");
        }
    }

    #[test]
    fn a_rule_on_what_nobody_collects_is_warned_of() {
        let off = "[collect.battery]\nenabled = false\n";
        for (before, rule, expected) in [
            (
                "[collect.link]\nenabled = false\n",
                "metric = \"link.broker_rtt_ms\"\nabove = 500",
                "collect.link.enabled is false: the rule is never",
            ),
            (
                "[collect.errors]\nenabled = false\n",
                "metric = \"errors.unit_failures\"\nabove = 2",
                "collect.errors.enabled is false: the rule is never",
            ),
            (
                "[collect.host]\nenabled = false\n",
                "metric = \"host.disk./.used_pct\"\nabove = 90",
                "collect.host.enabled is false: the rule is never",
            ),
            (
                "[collect.link.monthly_budget]\neth0 = \"1GiB\"\n",
                "metric = \"link.interfaces.wwan0.budget_used_pct\"\nabove = 90",
                "\"wwan0\" is not in collect.link.monthly_budget: the rule is never",
            ),
            (off, "metric = \"battery.charge_pct\"\nbelow = 10", "collect.battery.enabled is false: the rule is never"),
            (
                off,
                "metric = \"battery.state\"\nmissing_for = \"1m\"",
                "collect.battery.enabled is false: the rule is always",
            ),
            (
                "",
                "metric = \"host.disk./data.used_pct\"\nabove = 90",
                "\"/data\" is not in collect.host.mounts: the rule is never",
            ),
            (
                "[collect.host]\nmounts = [\"/data/\"]\n",
                "metric = \"host.disk./data/.used_pct\"\nabove = 90",
                "\"/data/\" is not in collect.host.mounts: the rule is never",
            ),
            (
                "",
                "metric = \"agent.commands_refused.bad_sig\"\nabove = 0",
                "there is no \"bad_sig\", but bad_signature, ",
            ),
            ("", "metric = \"agent.dropped.poisoned\"\nabove = 0", "there is no \"poisoned\", but thinned, quota, "),
            ("", "metric = \"agent.refused.series\"\nabove = 0", "there is no \"series\", but series_max, "),
            ("", "metric = \"errors.app_refused.full\"\nabove = 0", "there is no \"full\", but malformed, "),
            (
                "",
                "metric = \"link.interfaces.*.up\"\nequals = false",
                "stands for one name: write a rule for each: the rule is never",
            ),
            (
                "[collect.link]\ninterfaces = [\"eth0\"]\n",
                "metric = \"link.interfaces.wwan0.up\"\nequals = false",
                "\"wwan0\" is not in collect.link.interfaces: the rule is never",
            ),
        ] {
            let warned = warned(before, rule);
            assert!(matches!(warned.as_slice(), [one] if one.contains(expected)), "{rule}: {warned:?}");
        }
    }

    #[test]
    fn a_rule_that_asks_for_what_its_metric_always_is_is_warned_of() {
        for (test, expected) in [("below = 200", "always below 200"), ("above = -1", "always above -1")] {
            let key = test.split(' ').next().unwrap();
            let expected =
                format!("6: rules.a.{key}: battery.charge_pct is from 0 to 100, {expected}: the rule is always raised");
            assert_eq!(warned("", &format!("metric = \"battery.charge_pct\"\n{test}")), [expected]);
        }
    }

    /// All warnings of a configuration at keys that begin so.
    fn warned_at(key: &str, text: &str) -> Vec<String> {
        let warnings = load_texts(&[&format!("{URL}{text}")]).unwrap().warnings;
        warnings.into_iter().filter(|warning| warning.key.starts_with(key)).map(|warning| warning.message).collect()
    }

    #[test]
    fn a_unit_that_a_quarantine_names_and_will_not_or_had_better_not_stop_is_warned_of() {
        let stop = "stop_units = [\"fieldmedic-act.service\", \"dbus.service\", \"ssh.service\", \"app.service\"]";
        let warned = warned_at("quarantine", &format!("[quarantine]\n{stop}\n"));
        let expected =
            ["fieldmedic-act.service is a part of", "dbus.service is the way", "ssh.service is in keep_units"];
        assert_eq!(warned.len(), expected.len(), "{warned:?}");
        assert!(warned.iter().zip(expected).all(|(warned, expected)| warned.contains(expected)), "{warned:?}");
    }

    #[test]
    fn a_release_that_no_rule_can_find_bad_is_warned_of() {
        let warned = |target: &str, rule: &str| {
            let text = format!(
                "[rollback.app]\n{target}\n[[ladders]]\nname = \"back\"\nsteps = [{{ do = \"rollback\", target = \
                 \"app\" }}]\n[[ladders]]\nname = \"heal\"\nsteps = [{{ do = \"reboot\" }}]\n[[rules]]\nname = \
                 \"crashes\"\nmetric = \"errors.unit_failures\"\nabove = 2\n{rule}\n"
            );
            warned_at("rollback", &text)
        };
        let slots = "kind = \"slots\"\ndir = \"/opt/app\"";
        let never = "[[rules]]\nname = \"hot\"\nmetric = \"battery.charge_pct\"\nabove = 120\nseverity = \"critical\"";
        for rule in ["", "remedy = \"heal\"", "severity = \"error\"", never] {
            let warned = warned(slots, rule);
            assert!(matches!(warned.as_slice(), [one] if one.contains("app: no rule finds")), "{rule}: {warned:?}");
        }
        for rule in ["remedy = \"back\"", "severity = \"critical\""] {
            assert_eq!(warned(slots, rule), [""; 0], "{rule}");
        }
        assert_eq!(warned("kind = \"command\"\nargv = [\"/bin/back\"]", ""), [""; 0], "it has no trial");
    }

    #[test]
    fn an_action_that_needs_no_leave_is_taken_and_warned_of_and_a_wrong_one_is_told_which_need_one() {
        let allowed = |action: &str| format!("[remediation]\nallow = [\"reboot\", \"{action}\"]\n");
        for action in ["collect_diagnostics", "save_power"] {
            let warned = warned_at("remediation", &allowed(action));
            assert!(
                matches!(warned.as_slice(), [one] if one.contains(&format!("{action} needs no leave"))),
                "{warned:?}"
            );
        }
        let errors = load_texts(&[&format!("{URL}{}", allowed("format"))]).unwrap_err();
        let told = &errors[0].message;
        assert!(told.contains("restart_unit") && !told.contains("save_power"), "{told}");
    }

    #[test]
    fn a_network_of_all_addresses_that_a_quarantine_lets_through_is_warned_of() {
        let warned = warned_at("quarantine", "[quarantine]\nallow_hosts = [\"10.0.0.0/8\", \"::/0\", \"host\"]\n");
        assert_eq!(warned, ["quarantine.allow_hosts: ::/0 is every address: such a quarantine keeps nobody out"]);
    }

    #[test]
    fn a_rule_that_can_be_raised_is_not() {
        for rule in [
            "metric = \"battery.state\"\nequals = \"not_charging\"",
            "metric = \"battery.charge_pct\"\nbelow = 10",
            "metric = \"battery.charge_pct\"\nbelow = 20\nclear_above = 99.9",
            "metric = \"battery.charge_pct\"\nbelow = 100",
            "metric = \"battery.charge_pct\"\nrate_below = -3",
            "metric = \"battery.charge_pct\"\nrate_below = -3\nclear_above = 0",
            "metric = \"battery.temperature_c\"\nabove = 5\nclear_below = 0",
            "metric = \"errors.count\"\nabove = 0",
            "metric = \"errors.count\"\nabove = 2\nclear_below = 1",
            "metric = \"errors.count\"\nequals = 0",
            "metric = \"battery.external_power\"\nequals = false",
            "metric = \"link.up\"\nequals = 0",
            "metric = \"link.up\"\nbelow = 1",
            "metric = \"link.operator\"\nequals = \"Vodafone\"",
            "metric = \"link.type\"\nmissing_for = \"5m\"",
            "metric = \"link.interfaces.wwan0.type\"\nequals = \"cellular\"",
            "metric = \"host.disk./.used_pct\"\nabove = 90",
            "metric = \"host.temperature_c\"\nabove = 120",
            "metric = \"agent.cpu_pct\"\nabove = 150",
            "metric = \"errors.by_severity.warning\"\nabove = 1",
            "metric = \"errors.kernel_by_class.oom\"\nabove = 1",
            "metric = \"errors.app_refused.rate\"\nabove = 1",
            "metric = \"agent.dropped.too_large\"\nabove = 1",
            "metric = \"agent.refused.change_events_max\"\nabove = 1",
            "anomaly = \"new_listener\"",
        ] {
            assert_eq!(warned("", rule), [""; 0], "{rule}");
        }
        let before = "[collect.host]\nenabled = false\nmounts = [\"//\", \"/mnt/\"]\n";
        assert_eq!(warned(before, "anomaly = \"new_peer\""), [""; 0]);
        let before = before.replace("false", "true");
        for mount in ["/", "/mnt"] {
            let rule = format!("metric = \"host.disk.{mount}.used_pct\"\nabove = 90");
            assert_eq!(warned(&before, &rule), [""; 0], "{rule}");
        }
        let before = "[collect.link.monthly_budget]\nwwan0 = \"1GiB\"\n";
        assert_eq!(warned(before, "metric = \"link.interfaces.wwan0.budget_used_pct\"\nabove = 90"), [""; 0]);
    }
}
