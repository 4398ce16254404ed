//! The values that only scenarios have: ranges, shares, dates, and numbers within bounds.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::reader::{Section, number, text, text_of, unfit};
use crate::config::tree::{Node, Value};
use crate::config::{Unfit, parse_duration};
use crate::engine::time::Unix;

pub(super) const ZERO: Duration = Duration::ZERO;
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
/// The largest size: no gateway has such a disk, and years of growth by it stay far below 2^64.
const SIZE_MAX: u64 = 1 << 44;

pub(super) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Takes a text that isn't empty.
pub(super) fn nonempty(expected: &'static str) -> impl Fn(&Node) -> Result<String, Unfit> {
    text(|text| !text.trim().is_empty(), expected)
}

/// Takes a word that stands for nothing at all, or else what `parse` takes.
pub(super) fn unless<T>(
    word: &'static str,
    parse: impl Fn(&Node) -> Result<T, Unfit>,
) -> impl Fn(&Node) -> Result<Option<T>, Unfit> {
    move |node| {
        if text_of(node) == Some(word) {
            return Ok(None);
        }
        parse(node).map(Some).map_err(|error| Unfit { expected: format!("{}, or \"{word}\"", error.expected), ..error })
    }
}

/// Takes a date with its offset (RFC 3339).
pub(super) fn date(node: &Node) -> Result<Unix, Unfit> {
    let date = text_of(node).and_then(|text| text.parse::<jiff::Timestamp>().ok());
    date.map(|date| Unix(date.as_millisecond()))
        .ok_or_else(|| unfit(node, "a date as a text, such as \"2026-01-15T00:00:00Z\""))
}

/// Reads `"10s..5m"`, or one length that is both ends.
pub(super) fn range(
    s: &mut Section<'_>,
    key: &str,
    default: (Duration, Duration),
    bounds: RangeInclusive<Duration>,
) -> (Duration, Duration) {
    let parse = |node: &Node| {
        let text = text_of(node)?;
        let (low, high) = text.split_once("..").unwrap_or((text, text));
        let (low, high) = (parse_duration(low.trim())?, parse_duration(high.trim())?);
        (low <= high && bounds.contains(&low) && bounds.contains(&high)).then_some((low, high))
    };
    let human = humantime::format_duration;
    let expected = || {
        let (min, max) = (human(*bounds.start()), human(*bounds.end()));
        let example = format!("{}..{}", human(default.0), human(default.1));
        format!("a duration from {min} to {max}, or a range of two, such as \"{example}\"")
    };
    s.optional(key, |node| parse(node).ok_or_else(|| unfit(node, expected()))).unwrap_or(default)
}

/// Reads two shares of one, the lower first.
pub(super) fn shares(s: &mut Section<'_>, key: &str, default: (f64, f64)) -> (f64, f64) {
    let parse = |node: &Node| {
        let Value::Array(items) = &node.value else { return None };
        let [low, high] = items.as_slice() else { return None };
        let (low, high) = (plain(low)?, plain(high)?);
        (0.0 <= low && low <= high && high <= 1.0).then_some((low, high))
    };
    let expected = "two shares from 0 to 1, the lower first, such as [0.1, 0.9]";
    s.optional(key, |node| parse(node).ok_or_else(|| unfit(node, expected))).unwrap_or(default)
}

/// Reads a number within bounds.
pub(super) fn float(s: &mut Section<'_>, key: &str, default: f64, bounds: RangeInclusive<f64>) -> f64 {
    let expected = || format!("a number from {} to {}, such as {default}", bounds.start(), bounds.end());
    let parse = |node: &Node| plain(node).filter(|number| bounds.contains(number));
    s.optional(key, |node| parse(node).ok_or_else(|| unfit(node, expected()))).unwrap_or(default)
}

/// Reads a size in bytes.
pub(super) fn size(s: &mut Section<'_>, key: &str, default: u64, min: u64) -> u64 {
    let size = s.size(key, default, min);
    if size > SIZE_MAX {
        s.error(key, "is more than 16TiB, which no gateway has");
        return default;
    }
    size
}

fn plain(node: &Node) -> Option<f64> {
    number("1")(node).ok()
}
