//! The timeline of a run, for a human: a line a moment, what repeats folded, and what is too much left out from the
//! middle. Pure: moments in, text out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::look::{Look, Tone, count, plural, printable, span};
use crate::sim::report::{Moment, What};

/// Lines of a kind that are shown before the rest is folded: one could be chance, two show the gap between them.
const ALIKE_SHOWN: usize = 2;
/// After this long without one of its kind, a line is news again.
const ALIKE_WITHIN_MS: u64 = 6 * 3_600_000;
/// Lines shown of a long timeline's begin.
const HEAD_LINES: usize = 120;
/// Lines shown of its end.
const TAIL_LINES: usize = 60;
/// How wide the column of the kinds is.
const KIND_WIDTH: usize = 9;

/// How much of it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// What a human reads.
    Brief,
    /// Each moment, a line.
    All,
}

/// The timeline as text, each line with `indent` before it.
pub(super) fn render(moments: &[Moment], extent: Extent, indent: &str, look: Look) -> String {
    let days = moments.last().map_or(1, |last| (last.at_ms / 86_400_000).to_string().len());
    let lines = match extent {
        Extent::Brief => folded(moments),
        Extent::All => moments.iter().map(Line::new).collect(),
    };
    let left_out = match extent {
        Extent::Brief if lines.len() > HEAD_LINES + TAIL_LINES => HEAD_LINES..lines.len() - TAIL_LINES,
        _ => 0..0,
    };
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        if index == left_out.start && !left_out.is_empty() {
            let dots = look.ellipsis();
            let words = format!("{dots} {} left out here; --all shows them", plural(left_out.len() as u64, "line"));
            let _ = writeln!(text, "{indent}{}", look.paint(Tone::Faint, &words));
        }
        if !left_out.contains(&index) {
            line.write(&mut text, days, indent, look);
        }
    }
    text
}

/// `day 3 04:05:06` since the begin; days count from zero, as the times in a scenario do.
pub(super) fn clock(at_ms: u64, day_digits: usize) -> String {
    let s = at_ms / 1_000;
    format!("day {:>day_digits$} {:02}:{:02}:{:02}", s / 86_400, s / 3_600 % 24, s / 60 % 60, s % 60)
}

/// A moment as it is shown.
struct Line {
    at_ms: u64,
    kind: &'static str,
    tone: Tone,
    text: String,
    /// What followed it and looked the same: how many, and when the last of them was.
    more: Option<(u64, u64)>,
}

/// Where a kind of line was shown, so that the next of it can be folded into that.
struct Seen {
    shown: usize,
    last_index: usize,
    last_ms: u64,
}

/// What repeats need not be in a row: sessions that begin and end by turns are two kinds of line.
fn folded(moments: &[Moment]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    for moment in moments {
        let next = lines.len();
        let kind = seen.entry(alike(&moment.what)).or_insert(Seen { shown: 0, last_index: next, last_ms: 0 });
        if moment.at_ms.saturating_sub(kind.last_ms) > ALIKE_WITHIN_MS {
            kind.shown = 0;
        }
        kind.last_ms = moment.at_ms;
        if kind.shown >= ALIKE_SHOWN {
            if let Some(line) = lines.get_mut(kind.last_index) {
                let (more, _) = line.more.unwrap_or_default();
                line.more = Some((more + 1, moment.at_ms));
                continue;
            }
        }
        kind.shown += 1;
        kind.last_index = next;
        lines.push(Line::new(moment));
    }
    lines
}

impl Line {
    fn new(moment: &Moment) -> Self {
        let (kind, tone, text) = words(moment);
        Self { at_ms: moment.at_ms, kind, tone, text: printable(&text), more: None }
    }

    fn write(&self, text: &mut String, days: usize, indent: &str, look: Look) {
        let kind = look.paint(self.tone, &format!("{:<KIND_WIDTH$}", self.kind));
        let _ = writeln!(text, "{indent}{}  {kind}{}", clock(self.at_ms, days), self.text);
        let Some((more, until_ms)) = self.more else { return };
        let column = clock(0, days).len() + 2 + KIND_WIDTH;
        let words = format!("{} {} more like this until {}", look.ellipsis(), count(more), clock(until_ms, 1));
        let _ = writeln!(text, "{indent}{:column$}{}", "", look.paint(Tone::Faint, &words));
    }
}

/// Kind, tone and text of a line.
fn words(moment: &Moment) -> (&'static str, Tone, String) {
    match &moment.what {
        What::Booted { boot_id } => {
            ("boot", Tone::Plain, format!("the machine is up, boot {} ({boot_id})", moment.boot))
        }
        What::Started { after } => ("agent", Tone::Plain, format!("started after: {after}")),
        What::Ended { how } => ("agent", Tone::Bad, format!("ended: {how}")),
        What::FaultBegan { name, detail } => ("fault", Tone::Doubtful, with(&format!("{name} begins"), detail)),
        What::FaultEnded { name } => ("fault", Tone::Good, format!("{name} is over")),
        What::Battery { charge_pct, state } => ("battery", Tone::Plain, format!("{charge_pct:.0} %, {state}")),
        What::Connected { session_present, after_s } => ("link", Tone::Good, connected(*session_present, *after_s)),
        What::Disconnected { reason, lasted_s, sent } => {
            let text = format!("connection lost after {}, {} sent: {reason}", span(*lasted_s), count(*sent));
            ("link", Tone::Doubtful, text)
        }
        What::Alarm { rule, raised, severity, value, threshold } => {
            let tone = if *raised { Tone::Bad } else { Tone::Good };
            ("alarm", tone, alarm(rule, *raised, severity, value.as_deref(), threshold.as_deref()))
        }
        What::Remedy { id, trigger, action, status, reason } => {
            let text = with(&format!("{action} {status}"), reason.as_deref().unwrap_or_default());
            ("remedy", Tone::Deed, format!("{text}, for {trigger} ({id})"))
        }
        What::Ordered { id, command, flaw } => {
            let flaw = flaw.map_or(String::new(), |flaw| format!(", {flaw}"));
            ("operator", Tone::Plain, format!("orders {command} ({id}){flaw}"))
        }
        What::Result { id, command, status, reason } => {
            let text = format!("{} {status}", command.as_deref().unwrap_or("a command"));
            let id = id.as_ref().map_or(String::new(), |id| format!(" ({id})"));
            ("result", Tone::Plain, with(&text, reason.as_deref().unwrap_or_default()) + &id)
        }
        What::Acted { action, target, trigger, status } => {
            ("done", Tone::Deed, format!("{action} {target} {status}, for {trigger}"))
        }
        What::Event { kind, name, severity, detail } => {
            ("event", Tone::Plain, with(&format!("{kind} {name} ({severity})"), detail))
        }
        What::Dropped { reason, records } => {
            ("dropped", Tone::Bad, format!("{} given up: {reason}", plural(*records, "record")))
        }
    }
}

fn connected(session_present: bool, after_s: Option<u64>) -> String {
    let session = if session_present { "the session goes on" } else { "a new session" };
    after_s.map_or_else(
        || format!("connected, {session}"),
        |after_s| format!("connected after {}, {session}", span(after_s)),
    )
}

fn alarm(rule: &str, raised: bool, severity: &str, value: Option<&str>, threshold: Option<&str>) -> String {
    let text = if raised { format!("{rule} raised ({severity})") } else { format!("{rule} cleared") };
    let value = value.map_or(String::new(), |value| format!("at {value}"));
    let threshold = threshold.map_or(String::new(), |threshold| format!(" (threshold {threshold})"));
    with(&text, &(value + &threshold))
}

/// `text: more`, or only the text where there is no more.
fn with(text: &str, more: &str) -> String {
    let more = more.trim();
    if more.is_empty() { text.to_owned() } else { format!("{text}: {more}") }
}

/// What lines that look the same to a reader have in common: not their numbers and ids.
fn alike(what: &What) -> String {
    match what {
        What::Booted { .. } => "boot".to_owned(),
        What::Started { after } => format!("started {after}"),
        What::Ended { how } => format!("ended {how}"),
        What::FaultBegan { name, .. } => format!("fault begins {name}"),
        What::FaultEnded { name } => format!("fault ends {name}"),
        What::Battery { state, .. } => format!("battery {state}"),
        What::Connected { session_present, .. } => format!("connected {session_present}"),
        What::Disconnected { reason, .. } => format!("disconnected {reason}"),
        What::Alarm { rule, raised, .. } => format!("alarm {rule} {raised}"),
        What::Remedy { trigger, action, status, reason, .. } => {
            format!("remedy {} {action} {status} {reason:?}", cause(trigger))
        }
        What::Ordered { command, flaw, .. } => format!("ordered {command} {flaw:?}"),
        What::Result { command, status, reason, .. } => format!("result {command:?} {status} {reason:?}"),
        What::Acted { action, target, trigger, status } => {
            format!("acted {action} {target} {} {status}", cause(trigger))
        }
        What::Event { kind, name, severity, .. } => format!("event {kind} {name} {severity}"),
        What::Dropped { reason, .. } => format!("dropped {reason}"),
    }
}

/// A trigger without the command's id, which is another each time: `rule:NAME`, `command`.
fn cause(trigger: &str) -> &str {
    if trigger.starts_with("command:") { "command" } else { trigger }
}
