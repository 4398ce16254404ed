//! Masks of weekdays, months and halves of a day: a date that is told in several words, and what of it would otherwise
//! make another template each day. A name of one is that only beside the rest of a date: "May", "Sun" and "am" are other
//! words, too.

use super::Word;
use super::mask::{digits_only, has_date, is_half, is_month, is_short_time, is_time_of_day, is_weekday};

/// Masks the names of the dates in a line: `Mon Nov 30 12:00:01 2026` (asctime), `Sat, 28 Nov 2026` (HTTP),
/// `Nov 30 12:00:01` (syslog), `Mon 2026-11-30` (systemd), `Nov 30, 2026 1:05:09 PM` (java.util.logging).
pub(super) fn mask(words: &mut [Word<'_>]) {
    for at in 1..words.len() {
        mask_half(words, at);
    }
    for at in 0..words.len() {
        if is_month_of_a_date(words, at) {
            put(words, at, "<month>");
        }
    }
    // From behind: a weekday is known by the date that follows it.
    for at in (0..words.len()).rev() {
        if is_weekday(name(words, at)) && is_alone(words, at) && begins_date(words, at + 1) {
            put(words, at, "<weekday>");
        }
    }
}

/// Which half of the day the time before it is in goes with that time.
fn mask_half(words: &mut [Word<'_>], at: usize) {
    let Some([time, half]) = words.get_mut(at - 1..=at) else { return };
    let is_clock = is_time_of_day(time.body) || is_short_time(time.body);
    if is_clock && time.after.is_empty() && half.before.is_empty() && is_half(half.body) {
        "<time>".clone_into(&mut time.masked);
        "<time>".clone_into(&mut half.masked);
        (half.is_slot, half.is_date) = (false, true);
    }
}

/// A day beside it, and then a year or a time.
fn is_month_of_a_date(words: &[Word<'_>], at: usize) -> bool {
    let is_day_first = || at > 0 && is_day(words, at - 1) && ends_date(words, at + 1);
    let is_day_next = || is_day(words, at + 1) && ends_date(words, at + 2);
    is_month(name(words, at)) && is_alone(words, at) && (is_day_next() || is_day_first())
}

fn begins_date(words: &[Word<'_>], at: usize) -> bool {
    let Some(word) = words.get(at) else { return false };
    let is_masked = |at: usize| words.get(at).is_some_and(|word| word.masked.ends_with("<month>"));
    has_date(word.body) || is_masked(at) || (is_day(words, at) && is_masked(at + 1))
}

/// A day of a month, a comma behind it or not.
fn is_day(words: &[Word<'_>], at: usize) -> bool {
    matches!(digits_only(body(words, at)), 1 | 2) && is_alone(words, at)
}

/// A year, or a time of day.
fn ends_date(words: &[Word<'_>], at: usize) -> bool {
    let word = body(words, at);
    digits_only(word) == 4 || is_time_of_day(word)
}

/// The last letters of a word, behind what clings to them (`since="Mon`), unless they are masked with it.
fn name<'a>(words: &[Word<'a>], at: usize) -> &'a str {
    let Some(word) = words.get(at) else { return "" };
    let name = word.body.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    if word.masked.ends_with(name) { name } else { "" }
}

fn body<'a>(words: &[Word<'a>], at: usize) -> &'a str {
    words.get(at).map_or("", |word| word.body)
}

fn is_alone(words: &[Word<'_>], at: usize) -> bool {
    words.get(at).is_some_and(|word| !word.is_quote && matches!(word.after, "" | ","))
}

fn put(words: &mut [Word<'_>], at: usize, mask: &str) {
    let letters = name(words, at).len();
    let Some(word) = words.get_mut(at) else { return };
    word.masked.truncate(word.masked.len().saturating_sub(letters));
    word.masked.push_str(mask);
    (word.is_slot, word.is_date) = (false, true);
}
