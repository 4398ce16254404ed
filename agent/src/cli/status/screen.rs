//! The status for a human: what is well in a line each, and what isn't with its reason. Pure. What came from a log or
//! the network is stripped of what a terminal would obey.

use std::time::Duration;

use serde_json::Value as Json;

use crate::collect::inhibit;
use crate::engine::observation::Severity;
use crate::text::size;

/// As wide as a serial console; what has no end of its own is cut there.
pub(super) const WIDTH: usize = 79;
/// As high as one, with the prompt.
const LINES_MAX: usize = 23;
/// Alarms, remedies and clusters that are shown, so that all fits 24 lines; `--json` has the rest.
const ALARMS_MAX: usize = 4;
const REMEDIES_MAX: usize = 3;
const CLUSTERS_MAX: usize = 4;
/// From nothing to the most.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII: [char; 9] = [' ', '.', ':', '-', '=', '+', '*', '%', '#'];

/// What is shown of a group of the sample: the key, and the words around its value.
type Shown = &'static [(&'static str, &'static str, &'static str)];
const BATTERY: Shown = &[
    ("charge_pct", "", " %"),
    ("state", "", ""),
    ("time_to_empty_s", "empty in ", ""),
    ("voltage_v", "", " V"),
    ("current_a", "", " A"),
    ("temperature_c", "", " C"),
    ("health_pct", "health ", " %"),
];
const LINK: Shown = &[
    ("type", "", ""),
    ("interface", "", ""),
    ("rat", "", ""),
    ("operator", "", ""),
    ("registration", "", ""),
    ("rsrp_dbm", "RSRP ", " dBm"),
    ("rssi_dbm", "RSSI ", " dBm"),
    ("signal_quality_pct", "signal ", " %"),
    ("broker_rtt_ms", "broker in ", " ms"),
];
const ERRORS: Shown = &[
    ("count", "", " lines"),
    ("unit_failures", "units failed ", ""),
    ("oom_kills", "killed for memory ", ""),
    ("coredumps", "core dumps ", ""),
    ("kernel_errors", "of the kernel ", ""),
];
const HOST: Shown = &[
    ("uptime_s", "up ", ""),
    ("cpu_pct", "cpu ", " %"),
    ("load1", "load ", ""),
    ("mem_used_pct", "memory ", " %"),
    ("temperature_c", "", " C"),
    ("flash_life_used_pct", "flash used up ", " %"),
];

/// How the lines are to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Console {
    /// It shows more than ASCII.
    pub(super) unicode: bool,
    /// Where what is longer is cut; `None`: it isn't.
    pub(super) width: Option<usize>,
}

/// The daemon's answer as lines.
pub(super) fn render(answer: &str, console: Console) -> String {
    let Ok(status) = serde_json::from_str::<Json>(answer) else { return clean(answer) };
    let text = |pointer: &str| status.pointer(pointer).map(plain).unwrap_or_default();
    let mut lines = vec![
        format!("device      {} (fieldmedic {}, boot {})", text("/device"), text("/agent"), text("/boot")),
        broker(&status),
        format!(
            "outbox      {} results, {} events, {} samples wait; {} of {} used; {} publishes under way",
            text("/outbox/records/results"),
            text("/outbox/records/events"),
            text("/outbox/records/telemetry"),
            bytes(status.pointer("/outbox/bytes")),
            bytes(status.pointer("/outbox/max_bytes")),
            text("/outbox/inflight"),
        ),
        store(&status),
        format!("commands    {} queued or under way", text("/commands_open")),
    ];
    lines.extend(dropped(&status, console));
    lines.extend(quarantine(&status, console));
    lines.extend(needs_restart(&status, console));
    lines.extend(inhibited(&status, console));
    lines.extend(intervals(&status));
    lines.extend(drain(&status));
    lines.extend(alarms(&status));
    for (group, shown) in [("battery", BATTERY), ("link", LINK), ("host", HOST), ("errors", ERRORS)] {
        lines.extend(status.pointer(&format!("/sample/{group}")).and_then(|fields| sample(group, fields, shown)));
    }
    lines.extend(remedies(&status, console));
    // The last of them says what the marks are.
    let left = LINES_MAX.saturating_sub(lines.len() + 1);
    lines.extend(clusters(&status, console, left.min(CLUSTERS_MAX)));
    lines.join("\n")
}

/// And what of it is in force, where that isn't all: it may be nothing but units that were stopped.
fn quarantine(status: &Json, console: Console) -> Vec<String> {
    let level = status.pointer("/quarantine").map(plain).unwrap_or_default();
    if status.pointer("/quarantine_degraded").and_then(Json::as_bool) != Some(true) {
        return vec![format!("quarantine  {level}")];
    }
    let first = format!("quarantine  {level} (DEGRADED: not all of it is in force)");
    let detail =
        status.pointer("/quarantine_detail").map(|detail| console.cut(&format!("{:<11} {}", "", plain(detail))));
    [Some(first), detail].into_iter().flatten().collect()
}

/// What of the configuration that was loaded last isn't in force.
fn needs_restart(status: &Json, console: Console) -> Option<String> {
    let keys: Vec<String> = list(status, "/needs_restart").iter().map(plain).collect();
    (!keys.is_empty()).then(|| console.cut(&format!("restart     not in force before one: {}", keys.join(", "))))
}

fn inhibited(status: &Json, console: Console) -> Option<String> {
    let why = plain(status.pointer("/inhibited")?);
    Some(console.cut(&format!("inhibited   no ladder acts while /{} is there: {why}", inhibit::FILE)))
}

fn broker(status: &Json) -> String {
    let url = status.pointer("/broker/url").map(plain).unwrap_or_default();
    if status.pointer("/broker/online") == Some(&Json::Bool(true)) {
        let deaf = status.pointer("/broker/fault").map_or(String::new(), |fault| format!(", BUT {}", plain(fault)));
        return format!("broker      {url} online for {}{deaf}", duration(status.pointer("/broker/online_s")));
    }
    let fault = status.pointer("/broker/fault").map_or("not connected yet".to_owned(), plain);
    let retry = status.pointer("/broker/retry_in_s").map_or(String::new(), |s| format!("; next try in {s} s"));
    format!("broker      {url} OFFLINE: {fault}{retry}")
}

fn store(status: &Json) -> String {
    let fault = status.pointer("/outbox/fault");
    let [free, floor] = ["/outbox/free_bytes", "/outbox/min_free_bytes"].map(|pointer| status.pointer(pointer));
    let is_below = free.is_some_and(|free| free.as_u64() < floor.and_then(Json::as_u64));
    let state = match fault {
        Some(fault) => format!("FAILS: {}", plain(fault)),
        None if is_below => "NO ROOM".to_owned(),
        None => "ok".to_owned(),
    };
    let wanted = if is_below { format!(", {} are to stay free", bytes(floor)) } else { String::new() };
    // Of a store that was never open nobody knows.
    let room = free.map_or_else(String::new, |free| format!("; {} free on its disk{wanted}", bytes(Some(free))));
    format!("store       {state}{room}")
}

/// What was given up, the most first.
fn dropped(status: &Json, console: Console) -> Option<String> {
    let of = status.pointer("/outbox/dropped")?.as_object()?;
    let mut counts: Vec<(u64, &String)> =
        of.iter().filter_map(|(why, count)| Some((count.as_u64().filter(|count| *count > 0)?, why))).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let words: Vec<String> = counts.iter().map(|(count, why)| format!("{count} {}", clean(why))).collect();
    (!words.is_empty()).then(|| console.cut(&format!("dropped     {} since the store was made", words.join(", "))))
}

/// What a command has set instead of the configuration's intervals, while it holds.
fn intervals(status: &Json) -> Option<String> {
    let line = |held: &Json| {
        let text = |key: &str| held.get(key).map(plain).unwrap_or_default();
        format!("{} every {} s for {}", text("name"), text("every_s"), duration(held.get("holds_s")))
    };
    let lines: Vec<String> = list(status, "/intervals").iter().map(line).collect();
    (!lines.is_empty()).then(|| format!("intervals   {}", lines.join(", ")))
}

/// How the backlog of an outage goes, while there is one.
fn drain(status: &Json) -> Option<String> {
    let drain = status.pointer("/outbox/drain")?;
    let count = |key: &str| drain.get(key).and_then(Json::as_u64);
    let (of, remaining) = (count("of_records")?, count("remaining_records")?);
    let left = match drain.get("left_s") {
        Some(left_s) => format!(", {} to go at this rate", duration(Some(left_s))),
        None => String::new(),
    };
    let done_pct = of.saturating_sub(remaining).saturating_mul(100) / of.max(1);
    Some(format!(
        "draining    {remaining} of {of} samples of the outage are still to be sent ({done_pct} % done){left}"
    ))
}

/// A line for each alarm that stands, the worst first, as many as leave room for the rest.
fn alarms(status: &Json) -> Vec<String> {
    let severity = |alarm: &Json| alarm.get("severity").and_then(Json::as_str).and_then(Severity::parse);
    let mut alarms: Vec<_> = list(status, "/alarms").iter().enumerate().collect();
    alarms.sort_unstable_by_key(|(place, alarm)| (severity(alarm).unwrap_or(Severity::Debug), *place));
    if alarms.is_empty() {
        return vec!["alarms      none".to_owned()];
    }
    let line = |(_, alarm): &(usize, &Json)| {
        let text = |key: &str| alarm.get(key).map(plain).unwrap_or_default();
        let since = alarm.get("since").map_or(String::new(), |since| format!(" since {}", plain(since)));
        format!("ALARM       {} ({}): {}{since}", text("rule"), text("severity"), text("metric"))
    };
    let shown = if alarms.len() > ALARMS_MAX { ALARMS_MAX - 1 } else { alarms.len() };
    let mut lines: Vec<String> = alarms.iter().take(shown).map(line).collect();
    if shown < alarms.len() {
        lines.push(format!("ALARM       and {} more (fieldmedic status --json)", alarms.len() - shown));
    }
    lines
}

/// What is there of a group; nothing where nothing is.
fn sample(group: &str, fields: &Json, shown: Shown) -> Option<String> {
    let word = |(key, before, after): &(&str, &str, &str)| {
        let value = fields.get(key).filter(|value| !value.is_null())?;
        let value = if key.ends_with("_s") { duration(Some(value)) } else { plain(value) };
        Some(format!("{before}{value}{after}"))
    };
    let words: Vec<String> = shown.iter().filter_map(word).collect();
    (!words.is_empty()).then(|| format!("{group:<11} {}", words.join(", ")))
}

/// What was done of late; who only asked whether anybody is there has done nothing.
fn remedies(status: &Json, console: Console) -> Vec<String> {
    let line = |done: &Json| {
        let text = |key: &str| done.get(key).map(plain).filter(|text| !text.is_empty());
        // Of the date the time of day: it is one of the last.
        let time = text("time").and_then(|time| Some(time.get(11..19)?.to_owned()));
        let (action, target) = (text("action"), text("target"));
        // A quarantine's own target is a quarantine.
        let target = target.filter(|target| action.as_ref() != Some(target));
        let words = [time, action, target, text("status"), text("reason")];
        let words: Vec<String> = words.into_iter().flatten().collect();
        let trigger = text("trigger").unwrap_or_default();
        let label = if trigger.starts_with("command:") { "command" } else { "remedy" };
        console.cut(&format!("{label:<11} {} ({trigger})", words.join(" ")))
    };
    let is_ping = |done: &&Json| done.get("action").and_then(Json::as_str) == Some("ping");
    list(status, "/remedies").iter().filter(|done| !is_ping(done)).take(REMEDIES_MAX).map(line).collect()
}

/// A bar for each time, scaled to the most of its own cluster.
fn clusters(status: &Json, console: Console, most: usize) -> Vec<String> {
    let bars = if console.unicode { BLOCKS } else { ASCII };
    let line = |cluster: &Json| {
        let text = |key: &str| cluster.get(key).map(plain).unwrap_or_default();
        let counts: Vec<u64> = list(cluster, "/counts").iter().filter_map(Json::as_u64).collect();
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        let bar = |count: &u64| {
            let level = usize::try_from(count.saturating_mul(8).div_ceil(most)).unwrap_or(8);
            bars.get(level).copied().unwrap_or(' ')
        };
        let chart: String = counts.iter().map(bar).collect();
        console.cut(&format!("error       |{chart}| {}x {}: {}", text("count"), text("severity"), text("template")))
    };
    let shown = list(status, "/error_clusters");
    let mut lines: Vec<String> = shown.iter().take(most).map(line).collect();
    if let (Some(count_s), false) = (shown.first().and_then(|first| first.get("count_s")), lines.is_empty()) {
        lines.push(format!("            each mark {}, now at the right", duration(Some(count_s))));
    }
    lines
}

fn list<'a>(of: &'a Json, pointer: &str) -> &'a [Json] {
    of.pointer(pointer).and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => clean(text),
        Json::Number(number) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// Without control characters, nor those that turn the direction of writing (Unicode's Bidi_Control).
fn clean(text: &str) -> String {
    let is_bidi = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().filter(|c| !c.is_control() && !is_bidi(*c)).collect()
}

impl Console {
    /// What is too long ends in dots.
    fn cut(self, line: &str) -> String {
        let dots = if self.unicode { "…" } else { "..." };
        match self.width {
            Some(width) if line.chars().count() > width => {
                line.chars().take(width.saturating_sub(dots.chars().count())).chain(dots.chars()).collect()
            }
            _ => line.to_owned(),
        }
    }
}

fn duration(seconds: Option<&Json>) -> String {
    let seconds = seconds.and_then(Json::as_f64).unwrap_or(0.0).clamp(0.0, 1e12);
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    // Of days no seconds.
    let shown = match whole {
        0..3_600 => whole,
        3_600..86_400 => whole / 60 * 60,
        _ => whole / 3_600 * 3_600,
    };
    humantime::format_duration(Duration::from_secs(shown)).to_string()
}

fn bytes(value: Option<&Json>) -> String {
    size(value.and_then(Json::as_u64).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> Json {
        json!({
            "device": "gw-1", "agent": "0.1.0", "boot": "b", "quarantine": "none", "commands_open": 0,
            "broker": {"url": "mqtt://b:1883", "online": true, "online_s": 7_325},
            "outbox": {"records": {"results": 0, "events": 1, "telemetry": 2}, "bytes": 2048, "max_bytes": 4096,
                       "free_bytes": 1024, "inflight": 3},
            "alarms": [], "remedies": [], "error_clusters": [], "sample": null,
        })
    }

    fn shown(status: &Json, unicode: bool) -> String {
        render(&status.to_string(), Console { unicode, width: Some(WIDTH) })
    }

    #[test]
    fn a_gateway_that_is_well_is_a_few_lines() {
        let expected = "\
device      gw-1 (fieldmedic 0.1.0, boot b)
broker      mqtt://b:1883 online for 2h 2m
outbox      0 results, 1 events, 2 samples wait; 2.0 KiB of 4.0 KiB used; 3 publishes under way
store       ok; 1.0 KiB free on its disk
commands    0 queued or under way
quarantine  none
alarms      none";
        assert_eq!(shown(&status(), true), expected);
    }

    #[test]
    fn intervals_that_a_command_has_set_are_shown_as_long_as_they_hold() {
        let held =
            |name: &str, every_s: f64, holds_s: u64| json!({"name": name, "every_s": every_s, "holds_s": holds_s});
        let mut status = status();
        status["intervals"] = json!([held("sample", 2.5, 50), held("publish", 600.0, 3_600)]);
        let shown = shown(&status, true);
        assert!(shown.contains("\nintervals   sample every 2.5 s for 50s, publish every 600.0 s for 1h\n"), "{shown}");
    }

    #[test]
    fn what_a_gateway_does_not_have_is_left_out_and_never_zero() {
        let mut status = status();
        status["sample"] = json!({"battery": {"charge_pct": 79.96, "state": "discharging", "time_to_empty_s": 30_000},
            "link": {"type": "cellular", "interface": "wwan0", "rsrp_dbm": -98.0, "operator": null}, "host": {}});
        let text = shown(&status, true);
        assert!(text.contains("battery     80.0 %, discharging, empty in 8h 20m\n"), "{text}");
        assert!(text.ends_with("link        cellular, wwan0, RSRP -98.0 dBm"), "{text}");
    }

    #[test]
    fn remedies_and_errors_are_shown_with_a_chart_over_time() {
        let mut status = status();
        status["remedies"] = json!([{"time": "2026-11-23T03:08:28.000Z", "trigger": "rule:app", "action": "reboot",
            "target": "gateway", "status": "REJECTED", "reason": "min_uptime"}]);
        status["error_clusters"] = json!([{"severity": "error", "template": "it broke", "count": 13, "count_s": 300,
            "counts": [0, 1, 4, 8]}]);
        let mut entered = status.clone();
        entered["remedies"] = json!([{"trigger": "command:c", "action": "quarantine", "target": "quarantine",
            "status": "SUCCEEDED"}]);
        assert!(shown(&entered, true).contains("command     quarantine SUCCEEDED (command:c)"), "it is told once");
        let text = shown(&status, true);
        assert!(text.contains("remedy      03:08:28 reboot gateway REJECTED min_uptime (rule:app)\n"), "{text}");
        assert!(text.contains("error       | ▁▄█| 13x error: it broke\n"), "{text}");
        assert!(text.ends_with("each mark 5m, now at the right"), "{text}");
        assert!(shown(&status, false).contains("| .=#|"), "a console that knows ASCII alone");
    }

    #[test]
    fn a_connection_over_which_no_command_comes_is_not_called_well() {
        let mut status = status();
        status["broker"]["fault"] = "it refuses 1 of our command topics".into();
        let expected = "broker      mqtt://b:1883 online for 2h 2m, BUT it refuses 1 of our command topics";
        assert_eq!(broker(&status), expected);
    }

    #[test]
    fn a_quarantine_that_is_in_force_in_part_is_shown_as_that() {
        let console = Console { unicode: true, width: Some(WIDTH) };
        let shown = |status: Json| quarantine(&status, console).join("\n");
        assert_eq!(shown(json!({"quarantine": "isolate"})), "quarantine  isolate");
        let detail = "the network is as it was: nft: Operation not permitted";
        let degraded =
            shown(json!({"quarantine": "isolate", "quarantine_degraded": true, "quarantine_detail": detail}));
        let expected = "quarantine  isolate (DEGRADED: not all of it is in force)\n            the network is";
        assert!(degraded.starts_with(expected), "{degraded}");
    }

    #[test]
    fn what_was_given_up_is_shown_with_its_reason_the_most_first() {
        let mut status = status();
        status["outbox"]["dropped"] = json!({"corrupt": 0, "too_large": 9, "thinned": 12});
        let text = shown(&status, true);
        assert!(text.contains("\ndropped     12 thinned, 9 too_large since the store was made\n"), "{text}");
    }

    #[test]
    fn a_disk_without_room_is_not_called_ok() {
        let mut status = status();
        let mut told = |free: u64, fault: Option<&str>| {
            status["outbox"]["free_bytes"] = free.into();
            status["outbox"]["min_free_bytes"] = 2_048.into();
            if let Some(fault) = fault {
                status["outbox"]["fault"] = fault.into();
            }
            store(&status)
        };
        assert_eq!(told(2_048, None), "store       ok; 2.0 KiB free on its disk");
        let expected = "store       NO ROOM; 0 B free on its disk, 2.0 KiB are to stay free";
        assert_eq!(told(0, None), expected);
        assert!(
            told(0, Some("no space left")).starts_with("store       FAILS: no space left; 0 B free"),
            "it says why"
        );
        if let Some(outbox) = status["outbox"].as_object_mut() {
            outbox.remove("free_bytes");
        }
        assert_eq!(store(&status), "store       FAILS: no space left", "what isn't known is left out");
    }

    #[test]
    fn what_a_reload_could_not_take_over_is_shown_until_a_restart() {
        let mut status = status();
        status["needs_restart"] = json!(["mqtt.url", "rollback.two"]);
        let text = shown(&status, true);
        assert!(text.contains("\nrestart     not in force before one: mqtt.url, rollback.two\n"), "{text}");
    }

    #[test]
    fn whoever_keeps_ladders_from_acting_is_named() {
        let mut status = status();
        status["inhibited"] = "Kim, until noon".into();
        let expected = "\ninhibited   no ladder acts while /run/fieldmedic/inhibit is there: Kim, until noon\n";
        let text = render(&status.to_string(), Console { unicode: true, width: None });
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_is_cut_says_so_and_in_a_pipe_nothing_is() {
        let mut status = status();
        let id = format!("command:{}", "7".repeat(64));
        let done = |action: &str| json!({"action": action, "target": "gateway", "status": "SUCCEEDED", "trigger": id});
        status["remedies"] = json!([done("ping"), done("ping"), done("ping"), done("reboot")]);
        let line = |console: Console| render(&status.to_string(), console).lines().last().unwrap().to_owned();
        let cut = line(Console { unicode: true, width: Some(WIDTH) });
        assert!(cut.starts_with("command     reboot gateway") && cut.ends_with("77…"), "pings are none: {cut}");
        assert_eq!(cut.chars().count(), WIDTH);
        assert!(line(Console { unicode: false, width: Some(WIDTH) }).ends_with("77..."));
        assert!(line(Console { unicode: true, width: None }).ends_with(&format!("({id})")));
    }

    #[test]
    fn a_full_screen_fits_a_serial_console_and_obeys_nobody() {
        let mut status = status();
        let hostile = format!("\u{1b}[2J\u{202e}{}\r\n\u{7}", "x".repeat(500));
        let remedy =
            json!({"trigger": hostile, "action": "run", "target": hostile, "status": "FAILED", "reason": "exit_code"});
        let counts = vec![u64::MAX; 24];
        let cluster = json!({"severity": "error", "template": hostile, "count": 1, "count_s": 300, "counts": counts});
        let mut alarms = vec![json!({"rule": "warm", "severity": "warning", "metric": "host.temperature_c"}); 40];
        alarms.push(json!({"rule": "hot", "severity": "critical", "metric": "host.temperature_c"}));
        status["alarms"] = alarms.into();
        status["inhibited"] = hostile.as_str().into();
        status["needs_restart"] = json!([hostile]);
        (status["quarantine_degraded"], status["quarantine_detail"]) = (true.into(), hostile.as_str().into());
        status["outbox"]["dropped"] = json!({ hostile.as_str(): 1 });
        status["outbox"]["drain"] = json!({"of_records": 9, "remaining_records": 3, "left_s": 5});
        status["remedies"] = vec![remedy; 8].into();
        status["error_clusters"] = vec![cluster; 16].into();
        status["sample"] = json!({"battery": {"charge_pct": 1}, "link": {"type": "wifi"}, "host": {"load1": 0.1},
                                   "errors": {"count": 3}});
        let text = shown(&status, false);
        assert!(text.contains("ALARM       hot (critical)") && text.contains("and 38 more"), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() < 24, "{text}");
        assert!(lines.iter().skip(11).all(|line| line.chars().count() < 80), "{text}");
        assert!(text.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')), "{text:?}");
    }
}
