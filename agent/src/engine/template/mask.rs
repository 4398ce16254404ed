//! Masks within one word: addresses, ids, times and numbers, alone or as a part of it. What it makes of a word depends
//! on that word alone.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What words are split at to find the parts that are masked: first what separates, then what joins.
const SEPARATORS: [&[char]; 2] = [
    &['=', ',', ';', '|', '(', ')', '[', ']', '{', '}', '<', '>', '"', '\'', '`'],
    &['/', ':', '@', '#', '&', '?', '*', '+', '!', '$', '~', '^'],
];
/// Letters of a unit behind a number: ms, MiB, rpm, mAh.
const UNIT_CHARS_MAX: usize = 4;
/// Digits and letters that are an id rather than a count: shorter ones are words such as "cafe".
const HEX_DIGITS_MIN: usize = 8;
/// A word with more groups of digits is an id.
const DIGIT_GROUPS_MAX: usize = 3;
/// Of a UUID, and before its first hyphen.
const UUID_BYTES: usize = 36;
const UUID_HEAD: usize = 8;
/// `{"` in base64url: so a JSON Web Token begins (RFC 7519), and each of its parts that is JSON.
const TOKEN_HEAD: &str = "eyJ";
/// `{"a":1}`, the least that one has to say.
const TOKEN_PART_BYTES_MIN: usize = 10;
/// Digits of the id that systemd-run gives a unit, behind an `r`: `run-r0e401fa4….service`.
const RUN_ID_DIGITS: usize = 32;
/// As asctime(3), HTTP, syslog and access logs write them, and in full.
#[rustfmt::skip]
const MONTHS: [&str; 24] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "January", "February", "March",
    "April", "June", "July", "August", "Sept", "September", "October", "November", "December",
];
#[rustfmt::skip]
const WEEKDAYS: [&str; 14] = [
    "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday",
    "Sunday",
];
/// Of a clock of twelve hours.
const HALVES: [&str; 6] = ["AM", "PM", "am", "pm", "a.m", "p.m"];

/// `word`, with what differs from one time to the next masked.
pub(super) fn mask(word: &str) -> String {
    let mut masked = String::with_capacity(word.len());
    split_and_mask(word, &SEPARATORS, &mut masked);
    masked
}

/// Whether the whole of `word` is one of the things that are masked.
pub(super) fn is_only_masked(word: &str) -> bool {
    whole(word).is_some()
}

/// The name of a unit without the ids in it: it has others each time.
pub(in crate::engine) fn without_ids(name: &str) -> Cow<'_, str> {
    match id_within(name) {
        Some((before, _, after)) => Cow::Owned(format!("{}#{}", without_ids(before), without_ids(after))),
        None => Cow::Borrowed(name),
    }
}

fn split_and_mask(word: &str, separators: &[&[char]], masked: &mut String) {
    let (before, body, after) = trimmed(word);
    masked.push_str(before);
    if let Some(name) = whole(body) {
        masked.push_str(name);
    } else if let Some((first, rest)) = separators.split_first() {
        for part in body.split_inclusive(*first) {
            let end = part.char_indices().next_back().filter(|(_, c)| first.contains(c));
            let (part, separator) = part.split_at(end.map_or(part.len(), |(at, _)| at));
            split_and_mask(part, rest, masked);
            masked.push_str(separator);
        }
    } else {
        atom(body, masked);
    }
    masked.push_str(after);
}

/// A word without the punctuation around it: "10.0.0.7," and "(0x7f)". A sign, and what paths and addresses begin with,
/// is part of it.
pub(super) fn trimmed(word: &str) -> (&str, &str, &str) {
    let is_bracketed = word.contains("]:");
    let opens = |c: char| {
        c.is_ascii_punctuation() && !matches!(c, '/' | '-' | '+' | '.' | '~' | ':') && !(c == '[' && is_bracketed)
    };
    let tail = word.trim_start_matches(opens);
    let has_token = || tail.split(['=', ':', '"', '\'']).any(|part| part.starts_with(TOKEN_HEAD));
    // The last letter of a token may be one of these.
    let closes = |c: char| c.is_ascii_punctuation() && c != '/' && !(matches!(c, '-' | '_') && has_token());
    let body = tail.trim_end_matches(closes);
    let (before, _) = word.split_at(word.len() - tail.len());
    let (_, after) = tail.split_at(body.len());
    (before, body, after)
}

/// The name of what `word` is, if it is one thing.
fn whole(word: &str) -> Option<&'static str> {
    let has_digit = word.bytes().any(|b| b.is_ascii_digit());
    if is_url(word) {
        Some("<url>")
    } else if is_path(word) {
        Some("<path>")
    } else if is_mac(word) {
        Some("<mac>")
    } else if is_uuid(word) {
        Some("<uuid>")
    } else if is_token(word) {
        Some("<id>")
    } else if !has_digit {
        None
    } else if is_time(word) {
        Some("<time>")
    } else if is_address(word) {
        Some("<ip>")
    } else if is_number(word) || is_duration(word) {
        Some("<n>")
    } else if is_hex(word) {
        Some("<hex>")
    } else {
        None
    }
}

/// `scheme://…` (RFC 3986, section 3.1).
fn is_url(word: &str) -> bool {
    let scheme = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    };
    word.split_once("://").is_some_and(|(name, rest)| scheme(name) && !rest.is_empty())
}

fn is_path(word: &str) -> bool {
    let begins = ["/", "./", "../", "~/"].iter().any(|start| word.starts_with(start));
    begins && word.bytes().any(|b| b.is_ascii_alphanumeric())
}

/// Six bytes, two digits each.
fn is_mac(word: &str) -> bool {
    [':', '-'].iter().any(|separator| {
        let mut bytes = 0;
        word.split(*separator).all(|byte| {
            bytes += 1;
            byte.len() == 2 && is_hex_digits(byte)
        }) && bytes == 6
    })
}

/// 8-4-4-4-12 digits (RFC 9562, section 4).
fn is_uuid(word: &str) -> bool {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let word = word.strip_prefix('{').and_then(|word| word.strip_suffix('}')).unwrap_or(word);
    let mut groups = word.split('-');
    GROUPS.iter().all(|len| groups.next().is_some_and(|group| group.len() == *len && is_hex_digits(group)))
        && groups.next().is_none()
}

/// A header in base64url, and what else there is behind points.
fn is_token(word: &str) -> bool {
    let is_letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let header = word.split_once('.').map(|(header, _)| header);
    header.is_some_and(|header| header.starts_with(TOKEN_HEAD) && header.len() >= TOKEN_PART_BYTES_MIN)
        && word.bytes().all(is_letter)
}

/// An address of version 4 or 6, alone, in brackets, with a port, a prefix's length or a zone.
fn is_address(word: &str) -> bool {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if word.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let inner = match word.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inner, port)) if port.is_empty() || port.strip_prefix(':').is_some_and(is_digits) => inner,
        Some(_) => return false,
        None => word,
    };
    let inner = inner.rsplit_once('/').filter(|(_, len)| is_digits(len)).map_or(inner, |(address, _)| address);
    match inner.split_once('%') {
        Some((address, _)) => address.parse::<Ipv6Addr>().is_ok(),
        None => inner.parse::<IpAddr>().is_ok(),
    }
}

/// A date, a time of day, or both (RFC 3339 and what looks like it).
fn is_time(word: &str) -> bool {
    let is_both = |(date, time): (&str, &str)| is_date(date) && is_time_of_day(time);
    // `30/Nov/2026:12:00:01`: an access log.
    let in_log = || word.split_once(':').is_some_and(|(date, time)| has_month(date) && is_time_of_day(time));
    is_date(word) || is_time_of_day(word) || word.split_once(['T', 't', '_']).is_some_and(is_both) || in_log()
}

/// Whether it is a date, alone or with a time of day.
pub(super) fn has_date(word: &str) -> bool {
    is_time(word) && !is_time_of_day(word)
}

fn is_date(text: &str) -> bool {
    let is_plain = ['-', '/', '.'].iter().any(|separator| {
        let parts: Vec<usize> = text.split(*separator).map(digits_only).collect();
        // `1/9/2026`, of which there are others each month; with points or hyphens it may be a version.
        let is_short = || *separator == '/' && matches!(parts.as_slice(), [4, 1 | 2, 1 | 2] | [1 | 2, 1 | 2, 4]);
        matches!(parts.as_slice(), [4, 2, 2] | [2, 2, 4]) || is_short()
    });
    is_plain || has_month(text)
}

/// `30/Nov/2026`, `30-Nov-26`, `2026-Nov-30`.
fn has_month(date: &str) -> bool {
    ['-', '/'].iter().any(|separator| {
        let parts: Vec<&str> = date.split(*separator).collect();
        let [first, month, last] = parts.as_slice() else { return false };
        is_month(month) && matches!((digits_only(first), digits_only(last)), (1 | 2, 2 | 4) | (4, 1 | 2))
    })
}

pub(super) fn is_month(word: &str) -> bool {
    MONTHS.contains(&word)
}

pub(super) fn is_weekday(word: &str) -> bool {
    WEEKDAYS.contains(&word)
}

/// Whether it says which half of the day a time is in.
pub(super) fn is_half(word: &str) -> bool {
    HALVES.contains(&word)
}

/// `9:05`, which is a time where a half of the day follows, and may be a ratio elsewhere.
pub(super) fn is_short_time(text: &str) -> bool {
    let digits = text.split_once(':').map(|(hour, minute)| (digits_only(hour), digits_only(minute)));
    matches!(digits, Some((1 | 2, 2)))
}

pub(super) fn is_time_of_day(text: &str) -> bool {
    let text = text.trim_end_matches(['Z', 'z']);
    // An offset: it has a sign, and the time none.
    let text = text.split_once(['+', '-']).map_or(text, |(time, _)| time);
    let clock = text.split_once(['.', ',']).filter(|(_, part)| digits_only(part) > 0).map_or(text, |(clock, _)| clock);
    let parts: Vec<usize> = clock.split(':').map(digits_only).collect();
    matches!(parts.as_slice(), [2, 2] | [1 | 2, 2, 2])
}

/// How many digits it has; 0 if anything else too.
pub(super) fn digits_only(text: &str) -> usize {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.len() } else { 0 }
}

/// A number with its sign, point, exponent and unit.
fn is_number(word: &str) -> bool {
    let digits = word.trim_start_matches(['-', '+']);
    let end = digits.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ',' | '_'))).unwrap_or(digits.len());
    let (number, unit) = digits.split_at(end);
    let unit = unit.strip_prefix(['e', 'E']).map_or(unit, |exponent| {
        let power = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        let behind = power.trim_start_matches(|c: char| c.is_ascii_digit());
        if behind.len() < power.len() { behind } else { unit }
    });
    let is_unit = |c: char| c.is_alphabetic() || matches!(c, '°' | '/');
    number.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && number.bytes().any(|b| b.is_ascii_digit())
        && unit.chars().count() <= UNIT_CHARS_MAX
        && unit.chars().all(is_unit)
}

/// As Go writes one: `1h0m1s`, `1m0.5s`, where it is `59.2s` at another time.
fn is_duration(word: &str) -> bool {
    let mut rest = word;
    while !rest.is_empty() {
        let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let begins_with_digit = rest.starts_with(|c: char| c.is_ascii_digit());
        // The longer ones first: "ms" is no minute.
        let behind = ["ms", "h", "m", "s"].iter().find_map(|known| unit.strip_prefix(known));
        let Some(behind) = behind.filter(|_| begins_with_digit) else { return false };
        rest = behind;
    }
    !word.is_empty()
}

fn is_hex(word: &str) -> bool {
    match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(digits) => is_hex_digits(digits),
        None => word.len() >= HEX_DIGITS_MIN && is_hex_digits(word),
    }
}

pub(super) fn is_hex_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// An id that is a part of a name, with what is before and behind it: `book-b1ea2e3eaa4c0d5f.service`. Digits alone are
/// a number.
fn id_within(name: &str) -> Option<(&str, &'static str, &str)> {
    let uuid = name.match_indices('-').find_map(|(at, _)| {
        let (before, rest) = name.split_at_checked(at.checked_sub(UUID_HEAD)?)?;
        let (id, after) = rest.split_at_checked(UUID_BYTES)?;
        is_uuid(id).then_some((before, "<uuid>", after))
    });
    let mut start = 0;
    let mut parts = name.split_inclusive(['-', '_', '.']).map(|part| {
        start += part.len();
        (start - part.len(), part.trim_end_matches(['-', '_', '.']))
    });
    let is_of_run =
        |part: &str| part.strip_prefix('r').is_some_and(|id| id.len() == RUN_ID_DIGITS && is_hex_digits(id));
    let hex = || {
        let (start, part) = parts.find(|(_, part)| {
            let has = |is: fn(&u8) -> bool| part.bytes().any(|b| is(&b));
            let has_both = has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic);
            is_of_run(part) || (part.len() >= HEX_DIGITS_MIN && is_hex_digits(part) && has_both)
        })?;
        Some((name.get(..start)?, "<hex>", name.get(start + part.len()..)?))
    };
    uuid.or_else(hex)
}

/// A name with numbers in it keeps its letters: eth0, libfoo.so.6, mmcblk0p1. Where digits and letters alternate, it is
/// an id.
fn atom(word: &str, masked: &mut String) {
    if let Some((before, id, after)) = id_within(word) {
        atom(before, masked);
        masked.push_str(id);
        return atom(after, masked);
    }
    let is_digit = |c: char| c.is_ascii_digit();
    let groups = word.split(|c| !is_digit(c)).filter(|group| !group.is_empty()).count();
    let has_both_cases = word.bytes().any(|b| b.is_ascii_lowercase()) && word.bytes().any(|b| b.is_ascii_uppercase());
    let is_mixed = groups > 0 && has_both_cases && word.len() >= HEX_DIGITS_MIN && !word.contains(['.', '-', '_']);
    let is_id = groups > DIGIT_GROUPS_MAX && !word.contains('.');
    if is_mixed || is_id {
        masked.push_str("<id>");
        return;
    }
    let mut rest = word;
    while let Some(start) = rest.find(is_digit) {
        let (plain, digits) = rest.split_at(start);
        masked.push_str(plain);
        masked.push_str("<n>");
        rest = digits.trim_start_matches(is_digit);
        // A point between digits is part of the number: "v2.0.1".
        while let Some(fraction) = rest.strip_prefix('.').filter(|fraction| fraction.starts_with(is_digit)) {
            rest = fraction.trim_start_matches(is_digit);
        }
    }
    masked.push_str(rest);
}
