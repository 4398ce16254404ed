//! Takes out what a program says to a terminal and not to a reader: colours, and the like (ECMA-48). Only what is such a
//! sequence from beginning to end, and short: no text may hide in one. Anything else stays, and is masked as it is.

use std::borrow::Cow;

const ESC: char = '\u{1b}';
/// `ESC [` as one character.
const CSI: char = '\u{9b}';
/// `38;2;255;255;255` is a colour.
const PARAMETER_BYTES_MAX: usize = 32;

/// `text` without such sequences.
pub(super) fn without(text: &str) -> Cow<'_, str> {
    let begins = |c: char| matches!(c, ESC | CSI);
    if !text.contains(begins) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, sequence)) = rest.find(begins).and_then(|at| rest.split_at_checked(at)) {
        plain.push_str(before);
        rest = behind(sequence).unwrap_or_else(|| {
            let mut chars = sequence.chars();
            plain.extend(chars.next());
            chars.as_str()
        });
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// What follows the sequence that `text` begins with; `None` if that is none.
fn behind(text: &str) -> Option<&str> {
    let Some(control) = text.strip_prefix("\u{1b}[").or_else(|| text.strip_prefix(CSI)) else {
        // `tput sgr0` ends a colour, and chooses ASCII by `ESC ( B`.
        let set = text.strip_prefix("\u{1b}(").or_else(|| text.strip_prefix("\u{1b})"))?;
        return set.strip_prefix(|c: char| c.is_ascii_alphanumeric());
    };
    let end = control.trim_start_matches(|c| matches!(c, '0'..='?'));
    let is_short = control.len() - end.len() <= PARAMETER_BYTES_MAX;
    end.strip_prefix(|c| matches!(c, '@'..='~')).filter(|_| is_short)
}
