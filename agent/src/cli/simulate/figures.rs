//! The figures of a run one by one, each with its name and its unit, so that those of many runs can be put side by
//! side.

use std::collections::BTreeMap;

use super::look::count;
use crate::sim::report::Summary;
use crate::text::size;

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Of a hundred.
    Percent,
    /// Times.
    Count,
    /// Bytes.
    Bytes,
}

/// A figure that every summary has, or lacks as a whole.
pub(super) struct Fixed {
    /// As in the JSON: the summary's field.
    pub(super) key: &'static str,
    /// For a human.
    pub(super) label: &'static str,
    /// What it counts.
    pub(super) unit: Unit,
    /// Reads it; `None` where there is no such thing, such as a battery.
    pub(super) read: fn(&Summary) -> Option<f64>,
}

/// In the order in which they are shown.
pub(super) const FIXED: [Fixed; 20] = [
    fixed("powered_pct", "machine has power", Unit::Percent, |s| Some(s.powered_pct)),
    fixed("uptime_pct", "agent runs", Unit::Percent, |s| Some(s.uptime_pct)),
    fixed("connected_pct", "connected", Unit::Percent, |s| Some(s.connected_pct)),
    fixed("charge_min_pct", "lowest charge", Unit::Percent, |s| s.charge_min_pct),
    fixed("reboots", "reboots", Unit::Count, |s| Some(real(s.reboots))),
    fixed("crashes", "crashes", Unit::Count, |s| Some(real(s.crashes))),
    fixed("tries", "tries to connect", Unit::Count, |s| Some(real(s.tries))),
    fixed("connects", "sessions", Unit::Count, |s| Some(real(s.connects))),
    fixed("messages", "messages", Unit::Count, |s| Some(real(s.messages))),
    fixed("sent_bytes", "sent", Unit::Bytes, |s| Some(real(s.sent_bytes))),
    fixed("sent_bytes_per_day", "sent a day", Unit::Bytes, |s| Some(a_day(s, s.sent_bytes))),
    fixed("records", "records stored", Unit::Count, |s| Some(real(s.records))),
    fixed("dropped", "records dropped", Unit::Count, |s| Some(real(s.dropped.values().sum()))),
    fixed("waiting", "records waiting", Unit::Count, |s| Some(real(s.waiting))),
    fixed("duplicates", "duplicates", Unit::Count, |s| Some(real(s.duplicates))),
    fixed("flash_bytes", "flash written", Unit::Bytes, |s| Some(real(s.flash_bytes))),
    fixed("flash_bytes_per_day", "flash written a day", Unit::Bytes, |s| Some(a_day(s, s.flash_bytes))),
    fixed("store_max_bytes", "store at most", Unit::Bytes, |s| Some(real(s.store_max_bytes))),
    fixed("standing_alarms", "alarms at the end", Unit::Count, |s| Some(real(s.standing.len() as u64))),
    fixed("commands_ended", "commands ended", Unit::Count, |s| {
        Some(real(s.commands.values().flat_map(BTreeMap::values).sum()))
    }),
];

const fn fixed(key: &'static str, label: &'static str, unit: Unit, read: fn(&Summary) -> Option<f64>) -> Fixed {
    Fixed { key, label, unit, read }
}

/// The counts of what goes by a name, which a run may lack: those are zero there. Key and label.
pub(super) fn named(summary: &Summary) -> Vec<((String, String), u64)> {
    let mut figures = Vec::new();
    for (rule, times) in &summary.alarms {
        figures.push(((format!("alarms.{rule}"), format!("alarm {rule}")), *times));
    }
    for (group, word, by_name) in
        [("remedies", "remedy", &summary.remedies), ("commands", "command", &summary.commands)]
    {
        for (name, endings) in by_name {
            for (status, times) in endings {
                figures.push(((format!("{group}.{name}.{status}"), format!("{word} {name} {status}")), *times));
            }
        }
    }
    for (reason, records) in &summary.dropped {
        figures.push(((format!("dropped.{reason}"), format!("dropped: {reason}")), *records));
    }
    figures
}

/// A figure's value in words.
pub(super) fn words(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Percent => format!("{value:.2} %"),
        Unit::Count => count(whole(value)),
        Unit::Bytes => size(whole(value)),
    }
}

/// What comes together in a day, from what came together in a run.
pub(super) fn a_day(summary: &Summary, total: u64) -> f64 {
    real(total) * 86_400.0 / real(summary.lasted_s.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "no run counts to 2^53")]
pub(super) const fn real(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count; the cast saturates")]
pub(super) fn whole(number: f64) -> u64 {
    number.round() as u64
}
