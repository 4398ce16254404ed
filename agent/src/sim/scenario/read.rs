//! Reads a scenario's file with the configuration's reader: every mistake at once, each with its file and line, unknown
//! keys refused. What each key means stands in configs/scenarios/README.md, and a test holds that against this.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    After, BatteryWorld, Bounds, ClockWorld, DiskWorld, ErrorsWorld, Expectation, Fault, FaultKind, Flaw, HostWorld,
    LinkWorld, NetworkWorld, Order, Recurring, ReleaseWorld, Scenario, Subject, UnitWorld, When,
};
use crate::config::reader::{Section, duration, parsed, text_of, unfit};
use crate::config::tree::{Node, Value};
use crate::config::{Problem, Unfit, UnitName, parse_duration, read_file};
use crate::engine::metric::Metric;
use crate::engine::observation::Severity;
use crate::engine::time::Unix;
use crate::sim::report::Measure;

/// The longest run: anchors and figures are made for years, patience isn't.
const LASTS_MAX: Duration = Duration::from_secs(366 * 86_400);
/// Faults and commands of one scenario.
const LIST_MAX: usize = 256;
/// What comes at random comes not more often than this.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// Commands at once.
const BURST_MAX: u32 = 10_000;
const DAY: Duration = Duration::from_secs(86_400);
const ZERO: Duration = Duration::ZERO;

/// Reads a scenario.
///
/// # Errors
/// Every mistake, in the order of lines.
pub fn load(path: &Path) -> Result<Scenario, Vec<Problem>> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    read_file(path, |s| scenario(s, name))
}

fn scenario(s: &mut Section<'_>, name: String) -> Scenario {
    let any = |_: &Node| true;
    let lasts = s.duration("lasts", DAY, seconds(60)..=LASTS_MAX);
    let calm = s.duration("calm", seconds(7_200).min(lasts / 2), ZERO..=LASTS_MAX);
    if calm >= lasts {
        s.error("calm", "is as long as the whole run; make it shorter than lasts, for example calm = \"2h\"");
    }
    let scenario = Scenario {
        name,
        about: s.required("about", "\"what it shows\"", |node| text_if(node, any)).unwrap_or_default(),
        config: s.optional("config", |node| text_if(node, any)).map(PathBuf::from),
        lasts,
        calm,
        starts: s.optional("starts", date).unwrap_or(Unix(1_768_435_200_000)),
        clock: s.table("clock", clock),
        disk: s.table("disk", disk),
        network: s.table("network", network),
        battery: if s.has("battery") { Some(s.table("battery", battery)) } else { None },
        host: s.table("host", host),
        links: s.tables("links", link),
        units: s.tables("units", unit).into_iter().flatten().collect(),
        releases: s.named_tables("releases", release).into_iter().filter_map(named).collect(),
        errors: s.table("errors", errors),
        faults: s.tables("faults", fault).into_iter().flatten().collect(),
        commands: s.tables("commands", order).into_iter().flatten().collect(),
        expect: s.tables("expect", expectation).into_iter().flatten().collect(),
    };
    for (key, len) in [("faults", scenario.faults.len()), ("commands", scenario.commands.len())] {
        if len > LIST_MAX {
            s.error(key, format!("there are {len}, the limit is {LIST_MAX}"));
        }
    }
    let known = |name: &str| scenario.faults.iter().any(|fault| fault.name == name);
    for expectation in &scenario.expect {
        if let Some(After::Fault(name)) = expectation.bounds.after.as_ref().filter(|after| !after_is(after, &known)) {
            s.error("expect", format!("after = {name:?} is neither a time nor the name of a fault of this scenario"));
        }
    }
    scenario
}

fn clock(s: &mut Section<'_>) -> ClockWorld {
    ClockWorld {
        boots_at: s.optional("boots_at", |node| word_or(node, "true", date)).flatten(),
        set_after: s
            .optional("set_after", |node| word_or(node, "never", duration(seconds(60), ZERO..=LASTS_MAX)))
            .unwrap_or(Some(seconds(60))),
        drift_ppm: float(s, "drift_ppm", 20.0, -100_000.0..=100_000.0),
    }
}

fn disk(s: &mut Section<'_>) -> DiskWorld {
    DiskWorld {
        bytes: s.size("size", 512 << 20, 1 << 20),
        others_bytes: s.size("used", 128 << 20, 0),
        others_grow_bytes: s.size("grows_per_day", 0, 0),
        commit: range(s, "commit", (ms(5), ms(40))),
    }
}

fn network(s: &mut Section<'_>) -> NetworkWorld {
    NetworkWorld {
        latency: range(s, "latency", (ms(20), ms(80))),
        bandwidth: s.has("bandwidth").then(|| s.size("bandwidth", 16 << 10, 1)),
        session_expiry: s.duration("session_expiry", 7 * DAY, ZERO..=LASTS_MAX),
    }
}

fn battery(s: &mut Section<'_>) -> BatteryWorld {
    BatteryWorld {
        capacity_wh: float(s, "capacity_wh", 50.0, 0.1..=100_000.0),
        charge_pct: float(s, "charge_pct", 80.0, 0.0..=100.0),
        load_w: float(s, "load_w", 1.5, 0.0..=10_000.0),
        sun_w: float(s, "sun_w", 0.0, 0.0..=10_000.0),
        daylight: s.duration("daylight", seconds(12 * 3_600), ZERO..=DAY),
        sky: shares(s, "sky", (0.3, 1.0)),
        mains_w: float(s, "mains_w", 0.0, 0.0..=10_000.0),
        off_pct: float(s, "off_pct", 2.0, 0.0..=100.0),
        on_pct: float(s, "on_pct", 10.0, 0.0..=100.0),
    }
}

fn host(s: &mut Section<'_>) -> HostWorld {
    HostWorld {
        cpu_pct: float(s, "cpu_pct", 10.0, 0.0..=100.0),
        mem_used_pct: float(s, "mem_used_pct", 40.0, 0.0..=100.0),
        temperature_c: float(s, "temperature_c", 45.0, -60.0..=150.0),
        boot: s.duration("boot", seconds(25), ZERO..=seconds(3_600)),
    }
}

fn link(s: &mut Section<'_>) -> LinkWorld {
    let every = s.optional("gap_every", duration(seconds(3_600), EVERY_MIN..=LASTS_MAX));
    let lasts = range(s, "gap_lasts", (seconds(60), seconds(300)));
    if every.is_none() && s.has("gap_lasts") {
        s.error("gap_every", "is missing beside gap_lasts; set it, for example gap_every = \"1h\"");
    }
    let kinds = ["ethernet", "wifi", "cellular"];
    LinkWorld {
        interface: s.required("interface", "\"eth0\"", crate::config::read::interface).unwrap_or_default(),
        kind: s.optional("type", |node| text_in(node, &kinds)).unwrap_or_else(|| "ethernet".into()),
        rssi_dbm: s.has("rssi_dbm").then(|| float(s, "rssi_dbm", -70.0, -200.0..=0.0)),
        gaps: every.map(|every| Recurring { every, lasts }),
    }
}

fn unit(s: &mut Section<'_>) -> Option<UnitWorld> {
    Some(UnitWorld {
        fails: s.optional("fails_every", duration(seconds(3_600), EVERY_MIN..=LASTS_MAX)),
        hangs: s.flag("hangs", false),
        restart_heals: float(s, "restart_heals", 1.0, 0.0..=1.0),
        restarts_itself: s.optional("restarts_itself", duration(seconds(5), EVERY_MIN..=LASTS_MAX)),
        leaks_pct_per_hour: float(s, "leaks_pct_per_hour", 0.0, 0.0..=10_000.0),
        starts_in: s.duration("starts_in", seconds(2), ZERO..=seconds(3_600)),
        unit: s.required("unit", "\"app.service\"", parsed(UnitName::parse))?,
    })
}

fn release(s: &mut Section<'_>) -> Option<ReleaseWorld> {
    let word = |s: &mut Section<'_>, key: &str| s.required(key, "\"2.0.10\"", |node| text_if(node, |_| true));
    let update_to = s.optional("update_to", |node| text_if(node, |_| true));
    let update_at = s.optional("update_at", duration(seconds(3_600), ZERO..=LASTS_MAX));
    if update_to.is_some() != update_at.is_some() {
        s.error("update_to", "and update_at belong together; set both, for example update_at = \"2h\"");
    }
    let (running, previous) = (word(s, "running"), word(s, "previous"));
    let bad = s.list("bad", Vec::new(), "[\"2.0.11\"]", |node| text_if(node, |_| true));
    let unit = s.required("unit", "\"app.service\"", parsed(UnitName::parse));
    Some(ReleaseWorld {
        target: String::new(),
        running: running?,
        previous: previous?,
        unit: unit?,
        bad,
        update: update_to.zip(update_at),
    })
}

fn named((target, release): (String, Option<ReleaseWorld>)) -> Option<ReleaseWorld> {
    release.map(|release| ReleaseWorld { target, ..release })
}

fn errors(s: &mut Section<'_>) -> ErrorsWorld {
    ErrorsWorld { per_hour: float(s, "per_hour", 0.5, 0.0..=100_000.0), kinds: s.integer("kinds", 3, 1..=100_000) }
}

fn fault(s: &mut Section<'_>) -> Option<Fault> {
    let kind = s.required("do", "\"power_cut\"", |node| text_in(node, &FaultKind::WORDS));
    let when = when(s);
    let name = s.optional("name", |node| text_if(node, |_| true));
    let kind_name = kind.clone()?;
    let parsed = fault_kind(s, &kind_name);
    let lasts = match &parsed {
        Some(kind) if kind.is_instant() => {
            if s.has("lasts") {
                s.error("lasts", format!("{kind_name} happens in an instant: leave lasts out"));
            }
            (ZERO, ZERO)
        }
        _ => range(s, "lasts", (seconds(60), seconds(600))),
    };
    Some(Fault { name: name.unwrap_or(kind_name), kind: parsed?, when: when?, lasts })
}

/// The kind, with the keys of its own. A key of another kind is an unknown key here.
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
        "acks_lost" => FaultKind::AcksLost { probability: float(s, "probability", 0.1, 0.0..=1.0) },
        "duplicates" => FaultKind::Duplicates { probability: float(s, "probability", 0.1, 0.0..=1.0) },
        "throttle" => FaultKind::Throttle { per_second: s.integer("per_second", 10, 1..=1_000_000) },
        "disk_full" => FaultKind::DiskFull,
        "disk_errors" => FaultKind::DiskErrors { probability: float(s, "probability", 0.1, 0.0..=1.0) },
        "disk_slow" => FaultKind::DiskSlow { times: float(s, "times", 50.0, 1.0..=100_000.0) },
        "disk_damage" => FaultKind::DiskDamage { state: s.flag("state", false) },
        "clock_jump" => FaultKind::ClockJump { by_s: s.required("by", "\"-2h\"", signed_seconds)? },
        "clock_unsynced" => FaultKind::ClockUnsynced,
        "sensor_lies" => FaultKind::SensorLies {
            metric: s.required("metric", "\"battery.charge_pct\"", metric)?,
            value: float(s, "value", 0.0, f64::MIN..=f64::MAX),
        },
        "sensor_gone" => FaultKind::SensorGone { metric: s.required("metric", "\"battery.\"", metric_or_group)? },
        "unit_fails" => FaultKind::UnitFails { unit: s.required("unit", "\"app.service\"", parsed(UnitName::parse))? },
        "error_storm" => FaultKind::ErrorStorm {
            per_second: s.integer("per_second", 20, 1..=10_000),
            kinds: s.integer("kinds", 5, 1..=100_000),
            severity: s.optional("severity", severity).unwrap_or(Severity::Error),
        },
        "no_power" => FaultKind::NoPower,
        "memory_pressure" => FaultKind::MemoryPressure { pct: float(s, "pct", 40.0, 0.0..=100.0) },
        _ => FaultKind::Heat { by_c: float(s, "by_c", 30.0, -200.0..=200.0) },
    })
}

fn order(s: &mut Section<'_>) -> Option<Order> {
    let flaws: Vec<&str> = Flaw::ALL.iter().map(|flaw| flaw.word()).collect();
    let flaw = s.optional("flaw", |node| text_in(node, &flaws));
    let order = Order {
        args: s.free("args", |node| Ok::<_, Unfit>(json(node))).into_iter().collect(),
        burst: s.integer("burst", 1, 1..=BURST_MAX),
        group: s.optional("group", |node| text_if(node, |_| true)),
        expires: s.duration("expires", seconds(600), seconds(1)..=LASTS_MAX),
        nonce: s.flag("nonce", false),
        flaw: flaw.and_then(|word| Flaw::ALL.iter().copied().find(|flaw| flaw.word() == word)),
        when: When::At(Vec::new()),
        name: String::new(),
    };
    let name = s.required("name", "\"ping\"", |node| text_if(node, |_| true));
    Some(Order { when: when(s)?, name: name?, ..order })
}

/// `at`: a time, or several; or `every`: at random, so far apart on average.
fn when(s: &mut Section<'_>) -> Option<When> {
    match (s.has("at"), s.has("every")) {
        (true, false) => {
            let times = |node: &Node| match &node.value {
                Value::Array(items) => items.iter().map(|item| duration(DAY, ZERO..=LASTS_MAX)(item)).collect(),
                _ => duration(DAY, ZERO..=LASTS_MAX)(node).map(|time| vec![time]),
            };
            s.optional("at", times).map(When::At)
        }
        (false, true) => s.optional("every", duration(seconds(3_600), EVERY_MIN..=LASTS_MAX)).map(When::Every),
        _ => {
            s.error_here("needs either at or every, for example at = \"2h\"");
            None
        }
    }
}

fn expectation(s: &mut Section<'_>) -> Option<Expectation> {
    let text = |s: &mut Section<'_>, key: &str| s.optional(key, |node| text_if(node, |_| true));
    let measures: Vec<&str> = Measure::ALL.iter().map(|measure| measure.word()).collect();
    let measure = s.optional("measure", |node| text_in(node, &measures));
    let status = text(s, "status");
    let mut subjects: Vec<(&str, Option<Subject>)> = vec![
        ("alarm", text(s, "alarm").map(Subject::Alarm)),
        ("alarm_stands", text(s, "alarm_stands").map(Subject::AlarmStands)),
        ("remedy", text(s, "remedy").map(Subject::Remedy)),
        ("healed", text(s, "healed").map(Subject::Healed)),
        ("event", text(s, "event").map(Subject::Event)),
        ("command", text(s, "command").map(|name| Subject::Command { name, status: status.clone() })),
        ("measure", measure.and_then(|word| Measure::parse(&word)).map(Subject::Measure)),
    ];
    if status.is_some() && !s.has("command") {
        s.error("status", "belongs to command only");
    }
    subjects.retain(|(key, _)| s.has(key));
    let mut bounds = Bounds {
        at_least: number(s, "at_least"),
        at_most: number(s, "at_most"),
        within: s.optional("within", duration(seconds(300), ZERO..=LASTS_MAX)),
        after: s.optional("after", |node| text_if(node, |_| true)).map(|text| match parse_duration(&text) {
            Some(time) => After::Time(time),
            None => After::Fault(text),
        }),
    };
    if subjects.len() != 1 {
        s.error_here("needs exactly one of alarm, alarm_stands, remedy, healed, event, command and measure");
        return None;
    }
    let (_, of) = subjects.pop()?;
    if bounds.at_least.is_none() && bounds.at_most.is_none() {
        bounds.at_least = Some(1.0);
    }
    let of = of?;
    Some(Expectation { text: wording(&of, &bounds), of, bounds })
}

/// An expectation as a user would say it.
fn wording(of: &Subject, bounds: &Bounds) -> String {
    let what = match of {
        Subject::Alarm(rule) => format!("alarm {rule}"),
        Subject::AlarmStands(rule) => format!("alarm {rule} stands at the end"),
        Subject::Remedy(action) => format!("remedy {action}"),
        Subject::Healed(action) => format!("{action} succeeded"),
        Subject::Event(name) => format!("event {name}"),
        Subject::Command { name, status: Some(status) } => format!("command {name} ended {status}"),
        Subject::Command { name, status: None } => format!("command {name} ended"),
        Subject::Measure(measure) => measure.word().to_owned(),
    };
    let time = |duration: &Duration| humantime::format_duration(*duration).to_string();
    let parts = [
        bounds.at_least.map(|n| format!("at least {n}")),
        bounds.at_most.map(|n| format!("at most {n}")),
        bounds.within.as_ref().map(|within| format!("within {}", time(within))),
        bounds.after.as_ref().map(|after| match after {
            After::Time(at) => format!("after {}", time(at)),
            After::Fault(name) => format!("after the fault {name}"),
        }),
    ];
    format!("{what}: {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn after_is(after: &After, known: &impl Fn(&str) -> bool) -> bool {
    match after {
        After::Time(_) => true,
        After::Fault(name) => known(name),
    }
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn text_if(node: &Node, fits: impl Fn(&Node) -> bool) -> Result<String, Unfit> {
    match text_of(node) {
        Some(text) if !text.is_empty() && fits(node) => Ok(text.to_owned()),
        _ => Err(unfit(node, "a text")),
    }
}

fn text_in(node: &Node, words: &[&str]) -> Result<String, Unfit> {
    match text_of(node).filter(|text| words.contains(text)) {
        Some(text) => Ok(text.to_owned()),
        None => Err(unfit(node, format!("one of {}", words.join(", ")))),
    }
}

/// `None` for the word, else what is parsed.
fn word_or<T>(node: &Node, word: &str, parse: impl FnOnce(&Node) -> Result<T, Unfit>) -> Result<Option<T>, Unfit> {
    if text_of(node) == Some(word) { Ok(None) } else { parse(node).map(Some) }
}

fn date(node: &Node) -> Result<Unix, Unfit> {
    let parse = |text: &str| text.parse::<jiff::Timestamp>().ok();
    let date = text_of(node).and_then(parse).map(|time| Unix(time.as_millisecond()));
    date.ok_or_else(|| unfit(node, "a date as text, such as \"2026-01-15T00:00:00Z\""))
}

/// "10s..5m", or one length for both.
fn range(s: &mut Section<'_>, key: &str, default: (Duration, Duration)) -> (Duration, Duration) {
    let parse = |node: &Node| {
        let text = text_of(node)?;
        let (low, high) = text.split_once("..").unwrap_or((text, text));
        let (low, high) = (parse_duration(low.trim())?, parse_duration(high.trim())?);
        (low <= high && high <= LASTS_MAX).then_some((low, high))
    };
    s.optional(key, |node| parse(node).ok_or_else(|| unfit(node, "a duration, or a range such as \"10s..5m\"")))
        .unwrap_or(default)
}

/// Two shares from 0 to 1.
fn shares(s: &mut Section<'_>, key: &str, default: (f64, f64)) -> (f64, f64) {
    let parse = |node: &Node| match &node.value {
        Value::Array(items) => match items.as_slice() {
            [low, high] => {
                let (low, high) = (plain(low)?, plain(high)?);
                (0.0 <= low && low <= high && high <= 1.0).then_some((low, high))
            }
            _ => None,
        },
        _ => None,
    };
    s.optional(key, |node| parse(node).ok_or_else(|| unfit(node, "two shares from 0 to 1, such as [0.1, 0.9]")))
        .unwrap_or(default)
}

#[expect(clippy::cast_precision_loss, reason = "what a user writes is far below 2^53")]
fn plain(node: &Node) -> Option<f64> {
    match node.value {
        Value::Float(number) => Some(number),
        Value::Integer(number) => Some(number as f64),
        _ => None,
    }
}

fn float(s: &mut Section<'_>, key: &str, default: f64, range: RangeInclusive<f64>) -> f64 {
    let parse = |node: &Node| plain(node).filter(|number| range.contains(number));
    let expected = || format!("a number from {} to {}, such as {default}", range.start(), range.end());
    s.optional(key, |node| parse(node).ok_or_else(|| unfit(node, expected()))).unwrap_or(default)
}

fn number(s: &mut Section<'_>, key: &str) -> Option<f64> {
    s.optional(key, |node| plain(node).ok_or_else(|| unfit(node, "a number, such as 3")))
}

fn signed_seconds(node: &Node) -> Result<i64, Unfit> {
    let parse = |text: &str| {
        let (sign, length) = text.strip_prefix('-').map_or((1, text), |length| (-1, length));
        let seconds = i64::try_from(parse_duration(length)?.as_secs()).ok()?;
        Some(sign * seconds)
    };
    text_of(node).and_then(parse).ok_or_else(|| unfit(node, "a duration, such as \"2h\" or \"-2h\""))
}

fn severity(node: &Node) -> Result<Severity, Unfit> {
    text_of(node).and_then(Severity::parse).ok_or_else(|| unfit(node, "a severity, such as \"error\""))
}

fn metric(node: &Node) -> Result<String, Unfit> {
    let known = text_of(node).filter(|text| Metric::find(text).is_some());
    known.map(str::to_owned).ok_or_else(|| unfit(node, "a metric, such as \"battery.charge_pct\""))
}

fn metric_or_group(node: &Node) -> Result<String, Unfit> {
    let group = |text: &&str| text.ends_with('.') && Metric::ALL.iter().any(|metric| metric.path().starts_with(*text));
    match text_of(node).filter(group) {
        Some(group) => Ok(group.to_owned()),
        None => metric(node),
    }
}

/// An argument of a command, as JSON.
fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Text(text) | Value::Other(text) => text.as_str().into(),
        Value::Integer(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Flag(flag) => (*flag).into(),
        Value::Array(items) => items.iter().map(json).collect(),
        Value::Table(table) => {
            serde_json::Value::Object(table.iter().map(|(key, node)| (key.clone(), json(node))).collect())
        }
    }
}
