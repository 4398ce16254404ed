//! The configuration in force, as text: every key with its value, in the order of the contract, so that loading the
//! text gives the same configuration again. Two configurations are compared by the same list. There are no secrets in
//! it: a password stands in a file of its own, and trusted keys are public.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::path::Path;
use std::time::Duration;

use super::types::{CheckedConfig, Remedy, Rollback, RollbackKind, Rule, RuleTest, Slowness, Step};
use super::values::{self, AttributeValue, format_size};
use crate::engine::observation::Severity;

/// The keys whose values differ between two configurations, such as `mqtt.keep_alive`; a rule, ladder or rollback
/// target is one key as a whole: `rules.hot`.
#[must_use]
pub fn changes(old: &CheckedConfig, new: &CheckedConfig) -> Vec<Box<str>> {
    let (old, new) = (flat(old), flat(new));
    let differing = old.keys().chain(new.keys()).filter(|key| old.get(*key) != new.get(*key));
    let mut keys: Vec<String> = differing.cloned().collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().map(Into::into).collect()
}

fn flat(config: &CheckedConfig) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    for table in tables(config) {
        if let Some(item) = table.item {
            flat.insert(format!("{}.{item}", table.name), format!("{:?}", table.entries));
            continue;
        }
        flat.extend(table.entries.into_iter().map(|(key, value)| (format!("{}.{key}", table.name), value)));
    }
    flat
}

impl CheckedConfig {
    /// The configuration as TOML, with every key that has a value.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for table in tables(self) {
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}{}", table.header());
            for (key, value) in &table.entries {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text
    }
}

/// One table: keys and values are TOML already.
struct Table {
    name: &'static str,
    /// The name of this one among those that share `name`.
    item: Option<String>,
    entries: Vec<(String, String)>,
}

impl Table {
    fn new(name: &'static str) -> Self {
        Self { name, item: None, entries: Vec::new() }
    }

    fn item(name: &'static str, item: &str) -> Self {
        Self { item: Some(item.to_owned()), ..Self::new(name) }
    }

    fn header(&self) -> String {
        match (&self.item, self.name) {
            (None, name) => format!("[{name}]"),
            (Some(item), "rollback") => format!("[rollback.{}]", bare_or_quoted(item)),
            (Some(_), name) => format!("[[{name}]]"),
        }
    }

    fn set(mut self, key: &str, value: impl Display) -> Self {
        self.entries.push((bare_or_quoted(key), value.to_string()));
        self
    }

    fn text(self, key: &str, value: impl Display) -> Self {
        self.set(key, quoted(&value.to_string()))
    }

    fn path(self, key: &str, value: &Path) -> Self {
        self.text(key, value.display())
    }

    fn optional_path(self, key: &str, value: Option<&Path>) -> Self {
        self.path(key, value.unwrap_or(Path::new("")))
    }

    fn duration(self, key: &str, value: Duration) -> Self {
        self.set(key, human(value))
    }

    fn list<T: Display>(self, key: &str, values: impl IntoIterator<Item = T>) -> Self {
        self.set(key, array(values.into_iter().map(|value| quoted(&value.to_string()))))
    }

    fn maybe<T: Display>(self, key: &str, value: Option<T>) -> Self {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }
}

fn tables(config: &CheckedConfig) -> Vec<Table> {
    let mut all = device_and_mqtt(config);
    all.extend(store_to_collect(config));
    all.extend(config.rules.iter().map(rule));
    all.extend(config.ladders.iter().map(|(name, steps)| ladder(name, steps)));
    all.extend(remediation(config));
    all.extend(config.rollback.iter().map(|(name, target)| rollback(name, target)));
    all.extend(quarantine_to_local(config));
    all
}

fn device_and_mqtt(CheckedConfig { device, mqtt, .. }: &CheckedConfig) -> Vec<Table> {
    let attributes = Table::new("device.attributes");
    let tls = &mqtt.tls;
    vec![
        Table::new("device").text("id", &device.id).list("groups", &device.groups),
        device.attributes.iter().fold(attributes, |table, (key, value)| table.set(key, attribute(value))),
        Table::new("mqtt")
            .text("url", &mqtt.url)
            .text("topic_prefix", &mqtt.topic_prefix)
            .text("version", mqtt.version)
            .text("limits", mqtt.limits)
            .duration("keep_alive", mqtt.keep_alive)
            .set("inflight_max", mqtt.inflight_max)
            .text("username", &mqtt.username)
            .optional_path("password_file", mqtt.password_file.as_deref()),
        Table::new("mqtt.tls")
            .optional_path("ca_file", tls.ca_file.as_deref())
            .optional_path("cert_file", tls.cert_file.as_deref())
            .optional_path("key_file", tls.key_file.as_deref())
            .list("alpn", &tls.alpn),
        Table::new("mqtt.reconnect")
            .duration("min", mqtt.reconnect.min)
            .duration("max", mqtt.reconnect.max)
            .duration("stable_after", mqtt.reconnect.stable_after),
        Table::new("mqtt.drain").set("publishes_per_second", mqtt.drain.publishes_per_second),
    ]
}

fn store_to_collect(CheckedConfig { store, telemetry, clock, collect, .. }: &CheckedConfig) -> Vec<Table> {
    let errors = &collect.errors;
    let budget = Table::new("collect.link.monthly_budget");
    vec![
        Table::new("store")
            .path("path", &store.path)
            .text("max_bytes", format_size(store.max_bytes))
            .text("min_free_bytes", format_size(store.min_free_bytes))
            .duration("commit_interval", store.commit_interval),
        Table::new("telemetry")
            .duration("sample_interval", telemetry.sample_interval)
            .duration("report_interval", telemetry.report_interval)
            .duration("publish_interval", telemetry.publish_interval)
            .text("encoding", telemetry.encoding),
        Table::new("clock").text("trust", clock.trust),
        Table::new("collect").path("root", &collect.root),
        Table::new("collect.battery").set("enabled", collect.battery.enabled).text("supply", &collect.battery.supply),
        Table::new("collect.link").set("enabled", collect.link.enabled).list("interfaces", &collect.link.interfaces),
        collect
            .link
            .monthly_budget
            .iter()
            .fold(budget, |table, (interface, bytes)| table.text(interface, format_size(*bytes))),
        Table::new("collect.errors")
            .set("enabled", errors.enabled)
            .text("min_severity", severity_word(errors.min_severity))
            .list("units", &errors.units)
            .set("max_clusters", errors.max_clusters)
            .duration("bucket", errors.bucket)
            .optional_path("app_socket", errors.app_socket.as_deref()),
        Table::new("collect.host")
            .set("enabled", collect.host.enabled)
            .list("mounts", collect.host.mounts.iter().map(|mount| mount.display())),
    ]
}

/// The word that configurations have for it, syslog's (`syslog(3)`).
fn severity_word(severity: Severity) -> &'static str {
    if severity == Severity::Error { "err" } else { severity.word() }
}

fn rule(rule: &Rule) -> Table {
    let table = Table::item("rules", &rule.name).text("name", &rule.name).text("metric", &rule.metric);
    let table = match &rule.test {
        RuleTest::Below(limit) => table.set("below", float(*limit)),
        RuleTest::Above(limit) => table.set("above", float(*limit)),
        RuleTest::Equals(value) => table.set("equals", attribute(value)),
        RuleTest::MissingFor(duration) => table.duration("missing_for", *duration),
        RuleTest::RateAbove(limit) => table.set("rate_above", float(*limit)),
        RuleTest::RateBelow(limit) => table.set("rate_below", float(*limit)),
        RuleTest::Anomaly(detector) => table.text("anomaly", detector.word()),
    };
    table
        .duration("for", rule.hold)
        .maybe("of_last", rule.share.map(|share| quoted(&share.to_string())))
        .maybe("clear_above", rule.clear_above.map(float))
        .maybe("clear_below", rule.clear_below.map(float))
        .maybe("clear_for", rule.clear_for.map(human))
        .text("severity", rule.severity.word())
        .maybe("remedy", rule.remedy.as_deref().map(quoted))
}

fn ladder(name: &str, steps: &[Step]) -> Table {
    Table::item("ladders", name).text("name", name).set("steps", array(steps.iter().map(step)))
}

fn step(Step { remedy, settle }: &Step) -> String {
    let arguments = match remedy {
        Remedy::RestartUnit { unit } => format!("unit = {}, ", quoted(unit.as_str())),
        Remedy::RestartLink { interface } => format!("interface = {}, ", quoted(interface)),
        Remedy::Reboot | Remedy::CollectDiagnostics => String::new(),
        Remedy::SavePower(Slowness { sample, report, publish }) => {
            format!("sample = {}, report = {}, publish = {}, ", human(*sample), human(*report), human(*publish))
        }
        Remedy::Rollback { target } => format!("target = {}, ", quoted(target)),
        Remedy::Quarantine { level } => format!("level = \"{level}\", "),
        Remedy::Run { runbook, args } => {
            format!("runbook = {}, args = {}, ", quoted(runbook), array(args.iter().map(|arg| quoted(arg))))
        }
    };
    format!("{{ do = \"{}\", {arguments}settle = {} }}", remedy.action(), human(*settle))
}

fn remediation(CheckedConfig { remediation, .. }: &CheckedConfig) -> Vec<Table> {
    let budgets = Table::new("remediation.budget");
    vec![
        Table::new("remediation")
            .set("dry_run", remediation.dry_run)
            .list("allow", &remediation.allow)
            .list("units", &remediation.units)
            .duration("min_uptime", remediation.min_uptime)
            .set("min_battery_pct", float(remediation.min_battery_pct))
            .duration("group_spread", remediation.group_spread),
        remediation.budget.iter().fold(budgets, |table, (action, budget)| table.text(action.word(), budget)),
    ]
}

fn rollback(name: &str, target: &Rollback) -> Table {
    let table = Table::item("rollback", name);
    let table = match &target.kind {
        RollbackKind::Rauc => table.text("kind", "rauc"),
        RollbackKind::Slots { dir } => table.text("kind", "slots").path("dir", dir).list("units", &target.units),
        RollbackKind::Command { argv } => table.text("kind", "command").list("argv", argv),
    };
    table.duration("settle", target.settle).duration("trial", target.trial)
}

fn quarantine_to_local(CheckedConfig { quarantine, runbooks, commands, local, .. }: &CheckedConfig) -> Vec<Table> {
    vec![
        Table::new("quarantine")
            .list("keep_units", &quarantine.keep_units)
            .list("stop_units", &quarantine.stop_units)
            .list("allow_hosts", &quarantine.allow_hosts)
            .duration("lockout_after", quarantine.lockout_after)
            .duration("sample_interval", quarantine.sample_interval),
        Table::new("runbooks").path("dir", &runbooks.dir),
        Table::new("commands")
            .list("trusted_keys", &commands.trusted_keys)
            .set("require_signature", commands.require_signature)
            .duration("max_clock_skew", commands.max_clock_skew),
        Table::new("local").path("socket", &local.socket),
    ]
}

fn attribute(value: &AttributeValue) -> String {
    match value {
        AttributeValue::Text(text) => quoted(text),
        AttributeValue::Integer(number) => number.to_string(),
        AttributeValue::Float(number) => float(*number),
        AttributeValue::Flag(flag) => flag.to_string(),
    }
}

/// Always with a point or an exponent, so that it is read as a float again.
fn float(number: f64) -> String {
    format!("{number:?}")
}

fn human(duration: Duration) -> String {
    format!("\"{}\"", values::human(duration))
}

/// An array of TOML, of what is TOML already.
pub(crate) fn array(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(", "))
}

fn bare_or_quoted(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !key.is_empty() && key.chars().all(is_bare) { key.to_owned() } else { quoted(key) }
}

/// A basic string of TOML.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
