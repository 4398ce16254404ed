//! How things look: what the terminal can show, and numbers in words. It writes nothing by itself.
#![expect(clippy::disallowed_methods, reason = "what a terminal can show stands in the environment")]

use std::io::IsTerminal;
use std::os::fd::AsFd;

/// Where nobody says how wide it is.
const WIDTH_DEFAULT: usize = 100;
/// Narrower, nothing would be readable.
const WIDTH_MIN: usize = 40;
/// Wider, no eye follows a line.
const WIDTH_MAX: usize = 160;

/// What the reader's screen can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Whether it obeys ECMA-48's colours.
    pub(super) colours: bool,
    /// Whether the locale is UTF-8.
    pub(super) unicode: bool,
    /// In characters.
    pub(super) width: usize,
}

/// By what a line is to be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing to notice.
    Plain,
    /// Of no weight.
    Faint,
    /// Something got well.
    Good,
    /// Something wants attention.
    Doubtful,
    /// Something went wrong.
    Bad,
    /// Something was done to the gateway.
    Deed,
}

impl Look {
    /// What is written there.
    pub(super) fn at(stream: &(impl IsTerminal + AsFd)) -> Self {
        let terminal = stream.is_terminal();
        let columns = rustix::termios::tcgetwinsize(stream).map_or(0, |size| usize::from(size.ws_col));
        Self {
            // https://no-color.org: set, and not empty.
            colours: terminal && variable("NO_COLOR").is_none(),
            unicode: is_utf8(["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable).as_deref()),
            width: if columns == 0 { WIDTH_DEFAULT } else { columns.clamp(WIDTH_MIN, WIDTH_MAX) },
        }
    }

    /// A text in its colour.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Faint => 2,
            Tone::Good => 32,
            Tone::Doubtful => 33,
            Tone::Bad => 31,
            Tone::Deed => 36,
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What stands for something left out.
    pub(super) const fn ellipsis(self) -> &'static str {
        if self.unicode { "…" } else { "..." }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a locale's name (`locale(7)`) says that its characters are UTF-8's.
fn is_utf8(locale: Option<&str>) -> bool {
    let name = locale.unwrap_or_default().to_ascii_lowercase();
    name.contains("utf-8") || name.contains("utf8")
}

/// `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 reboot`, `2 reboots`.
pub(super) fn plural(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `3 d 4 h`: the two largest units.
pub(super) fn span(seconds: u64) -> String {
    let parts = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut rest = seconds;
    let mut words = Vec::new();
    for (size, unit) in parts {
        if rest >= size && words.len() < 2 {
            words.push(format!("{} {unit}", rest / size));
        }
        rest %= size;
    }
    if words.is_empty() { "0 s".to_owned() } else { words.join(" ") }
}

/// Without what a terminal would obey: names come from files that somebody else may have written.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A label, and items after it that are broken into lines between items.
pub(super) fn labelled(label: &str, items: &[String], width: usize) -> String {
    let mut text = String::new();
    let mut line = format!("{label:<LABEL_WIDTH$}");
    for (index, item) in items.iter().enumerate() {
        let item = if index + 1 < items.len() { format!("{item}, ") } else { item.clone() };
        if line.chars().count() + item.trim_end().chars().count() > width && line.len() > LABEL_WIDTH {
            text.push_str(line.trim_end());
            text.push('\n');
            line = " ".repeat(LABEL_WIDTH);
        }
        line.push_str(&item);
    }
    text.push_str(line.trim_end());
    text.push('\n');
    text
}

/// The width of a label and the space behind it.
const LABEL_WIDTH: usize = 13;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_spans_keep_their_two_largest_units() {
        assert_eq!(["0", "999", "1,000", "1,234,567"], [0, 999, 1_000, 1_234_567].map(count).each_ref().map(|s| &**s));
        let spans = [0, 59, 61, 3_600, 90_061].map(span);
        assert_eq!(spans, ["0 s", "59 s", "1 min 1 s", "1 h", "1 d 1 h"]);
    }

    #[test]
    fn a_locale_is_utf_8_only_if_its_name_says_so() {
        assert!(is_utf8(Some("en_US.UTF-8")) && is_utf8(Some("C.utf8")));
        assert!(!is_utf8(Some("C")) && !is_utf8(Some("de_DE@euro")) && !is_utf8(None));
    }

    #[test]
    fn a_long_list_is_broken_between_its_items() {
        let items = ["alpha 1", "beta 22", "gamma 3"].map(str::to_owned);
        assert_eq!(labelled("alarms", &items, 32), "alarms       alpha 1, beta 22,\n             gamma 3\n");
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
