//! The return of a fleet after an outage of its broker, as a plot for the terminal. Pure: counts in, text out.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::figures::real;
use super::look::{Look, Tone, count, plural, printable, span};
use super::promises;
use super::replay::Replay;
use crate::sim::Return;
use crate::sim::report::Broken;

/// How high a plot is, in lines.
const HEIGHT: usize = 8;
/// The width of the numbers at the left of it, with the axis.
const MARGIN: usize = 9;
/// Parts of a full cell, from empty to full.
const UNICODE_LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same in ASCII: empty, half or more, full.
const ASCII_LEVELS: [char; 3] = [' ', '.', '#'];

/// The plots of tries and sessions, and what full jitter did.
pub(super) fn render(came: &Return, gateways: u32, seed: u64, look: Look) -> String {
    let mut text = format!(
        "{} gateways come back after a broker's outage of {} (seed {seed})\n\n",
        count(gateways.into()),
        span(came.back_at_s)
    );
    text += &plot("tries to connect per second", &came.tries, came.back_at_s, look);
    text.push('\n');
    text += &plot("sessions begun per second", &came.sessions, came.back_at_s, look);
    text.push('\n');
    text += &verdict(came, gateways);
    text
}

/// Gateways that did not come back, and promises that were broken on the way; empty where all is well.
pub(super) fn wrong(came: &Return, replay: &Replay, look: Look) -> String {
    let mut text = String::new();
    if let Some(first) = came.missing.first() {
        let missing = plural(came.missing.len() as u64, "gateway");
        let title = format!("{missing} did not come back, the first of seed {first}");
        let _ = writeln!(text, "{}\n  replay  {}", look.paint(Tone::Bad, &title), replay.fleet_of_one(*first));
    }
    if let Some((seed, first)) = came.broken.first() {
        let title = format!("BROKEN PROMISES, {} in all; the first:", came.broken.len());
        let _ = writeln!(text, "{}\n  {}", look.paint(Tone::Bad, &title), promises::words(first.promise));
        let _ = writeln!(text, "  found   {}\n  replay  {}", printable(&first.what), replay.fleet_of_one(*seed));
    }
    text
}

/// The same for a program.
pub(super) fn json(came: &Return, gateways: u32, seed: u64, replay: &Replay) -> Json {
    let broken = |(seed, broken): &(u64, Broken)| {
        let replay = replay.fleet_of_one(*seed);
        json!({ "seed": seed, "broken": broken, "replay": replay })
    };
    json!({
        "gateways": gateways,
        "seed": seed,
        "back_at_s": came.back_at_s,
        "all_back_after_s": all_back_after(came),
        "peak_tries_per_s": peak(&came.tries),
        "peak_tries_per_s_after": peak(after(came, &came.tries)),
        "peak_sessions_per_s": peak(&came.sessions),
        "tries_per_s": came.tries,
        "sessions_per_s": came.sessions,
        "missing": came.missing,
        "broken": came.broken.iter().map(broken).collect::<Vec<_>>(),
    })
}

/// What the jitter did: had all tried at once, the broker would have seen each gateway in one second.
fn verdict(came: &Return, gateways: u32) -> String {
    let peak = peak(after(came, &came.tries));
    if peak == 0 {
        return "no gateway tried to connect after the broker was back\n".to_owned();
    }
    let mut text = format!(
        "full jitter: at most {} tries per second once the broker was back; all at once it would have been {}\n",
        count(peak.into()),
        count(gateways.into()),
    );
    if let Some(seconds) = all_back_after(came) {
        let began = after(came, &came.sessions).iter().copied().map(u64::from).sum();
        let sessions = plural(began, "session");
        let _ = writeln!(text, "{sessions} began, the last one {} after the broker was back", span(seconds));
    }
    text
}

/// The seconds since the broker came back.
fn after<'a>(came: &Return, seconds: &'a [u32]) -> &'a [u32] {
    usize::try_from(came.back_at_s).ok().and_then(|from| seconds.get(from..)).unwrap_or_default()
}

/// How long after the broker's return the last session began.
fn all_back_after(came: &Return) -> Option<u64> {
    after(came, &came.sessions).iter().rposition(|sessions| *sessions > 0).map(|second| second as u64)
}

fn peak(seconds: &[u32]) -> u32 {
    seconds.iter().copied().max().unwrap_or_default()
}

fn mean(seconds: &[u32]) -> f64 {
    let sum: u64 = seconds.iter().copied().map(u64::from).sum();
    real(sum) / real(seconds.len().max(1) as u64)
}

/// A column stands for one second or more, and shows the busiest of them: that is the one which a broker has to bear.
fn plot(title: &str, seconds: &[u32], back_at_s: u64, look: Look) -> String {
    let peak = peak(seconds);
    let mut text = format!("{title}: peak {}, mean {:.1}\n", count(peak.into()), mean(seconds));
    if seconds.is_empty() {
        return text;
    }
    let per_column = seconds.len().div_ceil(look.width.saturating_sub(MARGIN).max(1));
    let columns: Vec<u32> = seconds.chunks(per_column).map(|chunk| chunk.iter().copied().max().unwrap_or(0)).collect();
    let (side, corner, floor) = if look.unicode { ('│', '└', '─') } else { ('|', '+', '-') };
    for row in (0..HEIGHT).rev() {
        let label = match row + 1 {
            HEIGHT => count(peak.into()),
            half if half == HEIGHT / 2 && peak > 1 => format!("{}", peak / 2),
            _ => String::new(),
        };
        let cells: String = columns.iter().map(|value| cell(*value, peak, row, look.unicode)).collect();
        let _ = writeln!(text, "{label:>width$} {side}{}", cells.trim_end(), width = MARGIN - 2);
    }
    let _ = writeln!(text, "{:>width$} {corner}{}", 0, floor.to_string().repeat(columns.len()), width = MARGIN - 2);
    text += &time_axis(columns.len(), per_column, back_at_s, look);
    text
}

/// The part of a bar that lies in a row, the lowest being 0.
fn cell(value: u32, peak: u32, row: usize, unicode: bool) -> char {
    let levels: &[char] = if unicode { &UNICODE_LEVELS } else { &ASCII_LEVELS };
    let full = levels.len() - 1;
    let parts = u64::from(value) * (HEIGHT * full) as u64;
    // Rounded up: a single try among thousands is still to be seen.
    let parts = usize::try_from(parts.div_ceil(u64::from(peak.max(1)))).unwrap_or(usize::MAX);
    let level = parts.saturating_sub(row * full).min(full);
    levels.get(level).copied().unwrap_or(' ')
}

/// The begin, the broker's return and the end, below their columns; what would overlap gives way to the return.
fn time_axis(columns: usize, per_column: usize, back_at_s: u64, look: Look) -> String {
    let mut line = vec![' '; columns];
    let arrow = if look.unicode { '▲' } else { '^' };
    let end = span((columns * per_column) as u64);
    let back = format!("{arrow} broker back at {}", span(back_at_s));
    let back_column = usize::try_from(back_at_s).unwrap_or(usize::MAX) / per_column;
    put(&mut line, columns.saturating_sub(end.chars().count()), &end);
    put(&mut line, 0, "0 s ");
    put(&mut line, back_column.min(columns.saturating_sub(1)), &back);
    let line: String = line.into_iter().collect();
    format!("{:MARGIN$}{}\n{:MARGIN$}a column is {}\n", "", line.trim_end(), "", busiest(per_column))
}

fn busiest(per_column: usize) -> String {
    if per_column == 1 { "a second".to_owned() } else { format!("the busiest second of {per_column}") }
}

/// Writes over what stands there; the line grows where it has to.
fn put(line: &mut Vec<char>, column: usize, text: &str) {
    let end = column + text.chars().count();
    if line.len() < end {
        line.resize(end, ' ');
    }
    line.splice(column..end, text.chars());
}
