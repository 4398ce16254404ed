//! Reads what befalls the gateway and what it is told: `[[faults]]` and `[[commands]]`, and when they come.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value as Json;

use super::super::{Fault, FaultKind, Flaw, Order, When};
use super::values::{HOUR, MINUTE, SECOND, ZERO, float, nonempty, range};
use super::{EVERY_MIN, LASTS_MAX, LIST_MAX, Span, World};
use crate::config::reader::{Section, duration, nearest, number, parsed, text, text_of, unfit, word};
use crate::config::tree::{Node, Value};
use crate::config::{Unfit, UnitName, parse_duration, read};
use crate::engine::metric::Metric;
use crate::engine::observation::Severity;

/// The most commands at once.
const BURST_MAX: u32 = 1_000;
/// The longest name of a command.
const NAME_LEN_MAX: usize = 48;
/// The farthest that a wall clock jumps: from 1970 to now, and as far again.
const JUMP_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Keys that only some kinds of faults have, with those kinds. The key `lasts` belongs to all that last.
pub(super) const KEYS_OF_KINDS: [(&str, &[&str]); 12] = [
    ("times", &["slow", "disk_slow"]),
    ("probability", &["acks_lost", "duplicates", "disk_errors"]),
    ("per_second", &["throttle", "error_storm"]),
    ("kinds", &["error_storm"]),
    ("severity", &["error_storm"]),
    ("state", &["disk_damage"]),
    ("by", &["clock_jump"]),
    ("by_c", &["heat"]),
    ("metric", &["sensor_lies", "sensor_gone"]),
    ("value", &["sensor_lies"]),
    ("unit", &["unit_fails"]),
    ("pct", &["memory_pressure"]),
];

/// Reads one of `[[faults]]`. Its name goes to `names`, also where something else is wrong with it.
pub(super) fn fault(s: &mut Section<'_>, world: World<'_>, names: &mut BTreeSet<String>) -> Option<Fault> {
    let kind = s.required("do", "\"power_cut\"", word(&FaultKind::WORDS));
    let name = s.optional("name", nonempty("a name, such as \"no-sun\""));
    let when = when(s, world.span.calm_at, "the calm begins, in which no fault does");
    let lasts = range(s, "lasts", (MINUTE, 10 * MINUTE), SECOND..=LASTS_MAX);
    refuse_keys_of_other_kinds(s, kind);
    let name = name.or_else(|| kind.map(str::to_owned))?;
    if !names.insert(name.clone()) {
        let key = if s.has("name") { "name" } else { "do" };
        s.error(key, format!("there is a fault {name:?} already; give this one a name of its own"));
    }
    let kind = fault_kind(s, kind?)?;
    if kind.is_instant() && s.has("lasts") {
        s.error("lasts", format!("\"{}\" happens in an instant; leave it out", kind.word()));
    }
    refuse_impossible(s, &kind, world);
    let lasts = if kind.is_instant() { (ZERO, ZERO) } else { lasts };
    Some(Fault { name, kind, when: when?, lasts })
}

/// Reports a fault of a part that this world lacks.
fn refuse_impossible(s: &mut Section<'_>, kind: &FaultKind, world: World<'_>) {
    match kind {
        FaultKind::NoPower if !world.battery => {
            s.error("do", "\"no_power\" needs a [battery]: this gateway has a mains supply that never fails");
        }
        FaultKind::UnitFails { unit } if !world.units.iter().any(|known| known.unit == *unit) => {
            s.error("unit", format!("there is no [[units]] with unit = \"{unit}\""));
        }
        _ => {}
    }
}

/// Reports keys that this kind doesn't have, and says whose they are. Nothing is said of them where there is no kind.
fn refuse_keys_of_other_kinds(s: &mut Section<'_>, kind: Option<&str>) {
    for (key, owners) in KEYS_OF_KINDS {
        let stands = s.knows(key);
        if stands && kind.is_some_and(|kind| !owners.contains(&kind)) {
            s.error(key, format!("is for do = {} only", quoted(owners)));
        }
    }
}

/// Reads the keys of one kind. `None` is an error that was reported.
fn fault_kind(s: &mut Section<'_>, kind: &str) -> Option<FaultKind> {
    Some(match kind {
        "crash" => FaultKind::Crash,
        "restart" => FaultKind::Restart,
        "power_cut" => FaultKind::PowerCut,
        "reboot" => FaultKind::Reboot,
        "cut" => FaultKind::Cut,
        "half_open" => FaultKind::HalfOpen,
        "slow" => FaultKind::Slow { times: float(s, "times", 10.0, 1.0..=10_000.0) },
        "broker_down" => FaultKind::BrokerDown,
        "broker_forgets" => FaultKind::BrokerForgets,
        "broker_refuses" => FaultKind::BrokerRefuses,
        "acks_lost" => FaultKind::AcksLost { probability: probability(s) },
        "duplicates" => FaultKind::Duplicates { probability: probability(s) },
        "throttle" => FaultKind::Throttle { per_second: s.integer("per_second", 10, 1..=100_000) },
        "disk_full" => FaultKind::DiskFull,
        "disk_errors" => FaultKind::DiskErrors { probability: probability(s) },
        "disk_slow" => FaultKind::DiskSlow { times: float(s, "times", 10.0, 1.0..=10_000.0) },
        "disk_damage" => FaultKind::DiskDamage { state: s.flag("state", false) },
        "clock_jump" => FaultKind::ClockJump { by_s: s.required("by", "\"-2h\"", signed_seconds)? },
        "clock_unsynced" => FaultKind::ClockUnsynced,
        "sensor_lies" => {
            let metric = s.required("metric", "\"battery.charge_pct\"", metric);
            let value = s.required("value", "3", number("3 or -40.5"));
            FaultKind::SensorLies { metric: metric?, value: value? }
        }
        "sensor_gone" => FaultKind::SensorGone { metric: s.required("metric", "\"battery.\"", metric_or_group)? },
        "unit_fails" => FaultKind::UnitFails { unit: s.required("unit", "\"app.service\"", parsed(UnitName::parse))? },
        "error_storm" => FaultKind::ErrorStorm {
            per_second: s.integer("per_second", 20, 1..=10_000),
            kinds: s.integer("kinds", 5, 1..=100_000),
            severity: s.optional("severity", severity).unwrap_or(Severity::Error),
        },
        "no_power" => FaultKind::NoPower,
        "memory_pressure" => FaultKind::MemoryPressure { pct: float(s, "pct", 40.0, 0.0..=100.0) },
        "heat" => FaultKind::Heat { by_c: float(s, "by_c", 30.0, -100.0..=100.0) },
        _ => return None,
    })
}

fn probability(s: &mut Section<'_>) -> f64 {
    float(s, "probability", 0.1, 0.0..=1.0)
}

/// Reads one of `[[commands]]`. Its name goes to `names`, also where something else is wrong with it.
pub(super) fn order(s: &mut Section<'_>, span: Span, names: &mut BTreeSet<String>) -> Option<Order> {
    let name = s.required("name", "\"ping\"", text(is_name, "a command's name, such as \"ping\""));
    names.extend(name.clone());
    let args = s.free("args", json).into_iter().collect();
    let when = when(s, span.end, "the run ends");
    let burst = s.integer("burst", 1, 1..=BURST_MAX);
    let group = s.optional("group", read::group);
    let expires = s.duration("expires", 10 * MINUTE, SECOND..=LASTS_MAX);
    let nonce = s.flag("nonce", false);
    let flaws: Vec<&'static str> = Flaw::ALL.iter().map(|flaw| flaw.word()).collect();
    let flaw = s.optional("flaw", word(&flaws)).and_then(Flaw::parse);
    Some(Order { name: name?, args, when: when?, burst, group, expires, nonce, flaw })
}

/// What the agent could know as a command or not: what it refuses is worth a try too.
fn is_name(text: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// Reads `at`, one time or several, all before `until`; or `every`. `None` is an error that was reported.
fn when(s: &mut Section<'_>, until: Duration, then: &str) -> Option<When> {
    let at = s.optional("at", times);
    let every = s.optional("every", duration(6 * HOUR, EVERY_MIN..=LASTS_MAX));
    match (s.has("at"), s.has("every")) {
        (false, false) => s.error_here("comes never; set when, for example at = \"2h\", or at random every = \"6h\""),
        (true, true) => s.error("every", "is one too many beside at; set one of them"),
        _ => {}
    }
    let Some(times) = at else { return every.map(When::Every) };
    if let Some(late) = times.iter().find(|time| **time >= until) {
        let (late, until) = (humantime::format_duration(*late), humantime::format_duration(until));
        s.error("at", format!("{late} is too late: at {until} {then}"));
    }
    Some(When::At(times))
}

fn times(node: &Node) -> Result<Vec<Duration>, Unfit> {
    let time = duration(2 * HOUR, ZERO..=LASTS_MAX);
    match &node.value {
        Value::Array(items) if (1..=LIST_MAX).contains(&items.len()) => items.iter().map(time).collect(),
        Value::Array(_) => Err(unfit(node, format!("1 to {LIST_MAX} times, such as [\"2h\", \"5h\"]"))),
        _ => time(node).map(|time| vec![time]),
    }
}

/// A duration that may be less than zero: `"-2h"`.
fn signed_seconds(node: &Node) -> Result<i64, Unfit> {
    let parse = |text: &str| {
        let (sign, length) = text.strip_prefix('-').map_or((1, text), |length| (-1, length));
        let length = parse_duration(length).filter(|length| *length <= JUMP_MAX)?;
        Some(sign * i64::try_from(length.as_secs()).ok()?)
    };
    let seconds = text_of(node).and_then(parse).filter(|seconds| *seconds != 0);
    seconds.ok_or_else(|| unfit(node, "a duration of at least a second, back or ahead, such as \"-2h\" or \"3h\""))
}

fn severity(node: &Node) -> Result<Severity, Unfit> {
    text_of(node)
        .and_then(Severity::parse)
        .ok_or_else(|| unfit(node, format!("one of {}", quoted(&Severity::ALL.map(Severity::word)))))
}

/// A metric that needs no label: of those with one, sensors of a gateway don't lie one by one.
fn metric(node: &Node) -> Result<String, Unfit> {
    let paths = || Metric::ALL.iter().filter(|metric| !metric.has_label()).map(|metric| metric.path());
    let path = text_of(node).unwrap_or_default();
    if paths().any(|known| known == path) {
        return Ok(path.to_owned());
    }
    let example = nearest(path, paths()).unwrap_or("battery.charge_pct");
    Err(unfit(node, format!("a metric without a label, such as {example:?}")))
}

/// A metric, or all of a group: `battery.`
fn metric_or_group(node: &Node) -> Result<String, Unfit> {
    let is_group = |text: &&str| text.ends_with('.') && Metric::ALL.iter().any(|it| it.path().starts_with(*text));
    match text_of(node).filter(is_group) {
        Some(group) => Ok(group.to_owned()),
        None => metric(node).map_err(|error| Unfit {
            expected: format!("{}, or a group, such as \"battery.\"", error.expected),
            ..error
        }),
    }
}

/// An argument of a command. JSON has neither dates nor infinities.
fn json(node: &Node) -> Result<Json, Unfit> {
    match &node.value {
        Value::Text(text) => Ok(text.as_str().into()),
        Value::Integer(number) => Ok((*number).into()),
        Value::Float(number) if number.is_finite() => Ok((*number).into()),
        Value::Flag(flag) => Ok((*flag).into()),
        Value::Array(items) => items.iter().map(json).collect(),
        Value::Table(table) => {
            let fields: Result<_, Unfit> = table.iter().map(|(key, node)| Ok((key.clone(), json(node)?))).collect();
            fields.map(Json::Object)
        }
        Value::Float(_) | Value::Other(_) => {
            Err(unfit(node, "a text, a finite number, true or false, or a list of them"))
        }
    }
}

/// Words as a message lists them.
fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}
