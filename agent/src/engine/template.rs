//! What lines have in common: what differs from one time to the next is masked (numbers, addresses, ids, paths), and a
//! word that stands where a name does is a slot, shown as itself until a second word comes and as `<*>` from then on.
//!
//! Which line belongs to which cluster is a function of that line alone, its skeleton, and so is the fingerprint: it is
//! the same in whichever order lines come, after every restart, on every device and whatever was forgotten meanwhile. A
//! miner that learns where lines differ (Drain, Spell) can't promise that: what the first line is told under depends on
//! lines that are still to come. And nothing that joins any two lines with one word of difference could tell lines of
//! one length apart at all, since a chain of such steps leads from each to every other. So a word may differ only at a
//! place that the words around it mark: behind one that introduces a name ("user", "host", "to"), or within quotes.
//! What is learned is only how the slot is shown. Doesn't judge, and keeps no lines.

mod dates;
mod escapes;
mod mask;

pub(super) use mask::without_ids;
use mask::{is_hex_digits, is_only_masked, mask, trimmed};

use crate::text::head;

/// Bytes of a line that are looked at; what tells errors apart stands at their beginning. Also those of a template.
pub(super) const TEXT_MAX: usize = 512;
/// Names in one line. The words behind them tell lines apart.
const NAMES_MAX: usize = 2;
/// Quoted texts in one line.
const QUOTES_MAX: usize = 4;
/// A quotation that is longer is not one, but has a quotation mark in it.
const QUOTE_BYTES_MAX: usize = 128;
/// Stands in a skeleton for a slot. No line has it: control characters are replaced.
const SLOT: char = '\u{1}';
const WILDCARD: &str = "<*>";

/// A line's skeleton, and what stood in its slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    skeleton: Box<str>,
    /// `None`: more than one text.
    slots: Vec<Option<Box<str>>>,
}

impl Template {
    /// That of a line.
    pub(super) fn of(message: &str) -> Self {
        let text: String =
            cut(&escapes::without(message)).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut words: Vec<Word> = words(&text).into_iter().map(Word::new).collect();
        dates::mask(&mut words);
        mask_segfault(&mut words);
        mark_names(&mut words);

        let mut skeleton = String::with_capacity(text.len());
        let mut slots = Vec::new();
        for word in words {
            if !skeleton.is_empty() {
                skeleton.push(' ');
            }
            skeleton.push_str(word.before);
            if word.is_slot {
                skeleton.push(SLOT);
                slots.push(Some(word.masked.into()));
            } else {
                skeleton.push_str(&word.masked);
            }
            skeleton.push_str(word.after);
        }
        Self { skeleton: cut(&skeleton).into(), slots }
    }

    /// What a fingerprint is made of: the skeleton, all its slots open.
    pub(super) fn stable_part(&self) -> String {
        self.skeleton.replace(SLOT, WILDCARD)
    }

    /// Learns from another line of the same skeleton.
    pub(super) fn merge(&mut self, other: &Self) {
        for (slot, seen) in self.slots.iter_mut().zip(&other.slots) {
            if slot != seen {
                *slot = None;
            }
        }
    }

    /// For the reader: each slot as its only text so far, or as `<*>`.
    pub(super) fn text(&self) -> String {
        let mut slots = self.slots.iter();
        let mut text = String::with_capacity(self.skeleton.len());
        for c in self.skeleton.chars() {
            if c == SLOT {
                text.push_str(slots.next().and_then(Option::as_deref).unwrap_or(WILDCARD));
            } else {
                text.push(c);
            }
        }
        cut(&text).to_owned()
    }
}

/// Whether a line says anything.
pub(super) fn has_word(message: &str) -> bool {
    escapes::without(message).contains(char::is_alphabetic)
}

/// `text` cut at [`TEXT_MAX`], between two characters.
pub(super) fn cut(text: &str) -> &str {
    head(text, TEXT_MAX)
}

/// A word of a line, or a quotation, with its punctuation.
struct Word<'a> {
    before: &'a str,
    body: &'a str,
    after: &'a str,
    masked: String,
    is_quote: bool,
    is_slot: bool,
    is_date: bool,
}

impl<'a> Word<'a> {
    fn new(Piece { text, is_quote }: Piece<'a>) -> Self {
        let (before, body, after) = if is_quote { quotation(text) } else { trimmed(text) };
        // `user=alice`: the key introduces the name.
        let name = body.split_once('=').filter(|(key, name)| is_introducer(key) && is_name(name));
        let (before, body) = match name {
            Some((_, name)) => (text.get(..text.len() - after.len() - name.len()).unwrap_or(before), name),
            None => (before, body),
        };
        Self { before, body, after, masked: mask(body), is_quote, is_slot: name.is_some(), is_date: false }
    }

    /// A word of the language, not something that differs each time.
    fn is_stable(&self) -> bool {
        !self.is_quote && !self.is_slot && self.masked == self.body && self.body.chars().any(char::is_alphabetic)
    }
}

/// The addresses of the kernel's `segfault at 1c8 ip 00007f12ab34cd56 sp 00007ffd12345678`: it writes them without 0x.
fn mask_segfault(words: &mut [Word<'_>]) {
    const NAMES: [(usize, &str); 4] = [(0, "segfault"), (1, "at"), (3, "ip"), (5, "sp")];
    const ADDRESSES: [usize; 3] = [2, 4, 6];
    const WORDS: usize = 7;
    let is_one = |words: &[Word<'_>]| {
        let body = |at: usize| words.get(at).map_or("", |word| word.body);
        NAMES.iter().all(|(at, name)| body(*at) == *name) && ADDRESSES.iter().all(|at| is_hex_digits(body(*at)))
    };
    let Some(start) = words.windows(WORDS).position(is_one) else { return };
    for at in ADDRESSES {
        if let Some(word) = words.get_mut(start + at) {
            "<hex>".clone_into(&mut word.masked);
        }
    }
}

/// Decides which words are slots. At least one word more than there are slots must be left, or unlike lines would be
/// one.
fn mark_names(words: &mut [Word<'_>]) {
    let mut introduced = false;
    let mut infinitive = false;
    let mut names = 0;
    let mut quotes = 0;
    // A line of JSON quotes everything, what it says too.
    let is_json = words.first().is_some_and(|word| word.before.starts_with('{') || word.body.starts_with('{'));
    for word in &mut *words {
        if word.is_quote {
            quotes += 1;
            word.is_slot = !is_json && quotes <= QUOTES_MAX;
        } else {
            let fits = word.is_slot || (introduced && !word.is_date && is_name(word.body));
            word.is_slot = fits && !is_json && names < NAMES_MAX && !is_only_masked(word.body);
            names += usize::from(word.is_slot);
        }
        // "failed to open": what follows is no name.
        introduced = !word.is_slot && is_introducer(word.body) && !(infinitive && word.body.eq_ignore_ascii_case("to"));
        introduced &= word.after.is_empty() || word.after == ":";
        infinitive = TAKES_INFINITIVE.iter().any(|known| known.eq_ignore_ascii_case(word.body));
    }
    let slots = words.iter().filter(|word| word.is_slot).count();
    if words.iter().filter(|word| word.is_stable()).count() <= slots {
        words.iter_mut().for_each(|word| word.is_slot = false);
    }
}

fn is_introducer(word: &str) -> bool {
    INTRODUCES.iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// Whether a word that stands where a name does can be one.
fn is_name(word: &str) -> bool {
    let has_form = word.starts_with(char::is_alphanumeric)
        && word.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@'));
    let known = |words: &[&str]| words.iter().any(|known| known.eq_ignore_ascii_case(word));
    has_form && !known(&INTRODUCES) && !known(&NO_NAMES) && !known(&TAKES_INFINITIVE)
}

/// Words that a name follows. A word that is often followed by what tells errors apart ("of memory", "by signal") is
/// none.
#[rustfmt::skip]
const INTRODUCES: [&str; 56] = [
    "to", "from", "for", "on", "in", "via", "named", "called", "user", "username", "account", "group", "host",
    "hostname", "server", "broker", "peer", "client", "node", "gateway", "device", "interface", "sensor",
    "actuator", "meter", "unit", "service", "module", "driver", "plugin", "process", "program", "worker", "thread",
    "task", "job", "handler", "topic", "queue", "channel", "session", "file", "directory", "table", "database",
    "key", "tag", "container", "image", "volume", "port", "bus", "domain", "zone", "site", "section",
];
/// Words that no name is: what tells errors apart, and the glue between.
#[rustfmt::skip]
const NO_NAMES: [&str; 138] = [
    "a", "an", "the", "this", "that", "these", "those", "its", "it", "is", "are", "was", "were", "be", "been",
    "being", "not", "no", "none", "any", "all", "and", "or", "but", "has", "have", "had", "do", "does", "did",
    "will", "would", "can", "cannot", "could", "may", "might", "must", "should", "of", "by", "with", "without",
    "at", "as", "into", "out", "after", "before", "while", "during", "because", "since", "until", "than", "too",
    "more", "less", "error", "errors", "failure", "fails", "timeout", "timed", "denied", "missing", "found",
    "invalid", "unknown", "unavailable", "unreachable", "closed", "lost", "down", "up", "started", "stopped",
    "starting", "stopping", "exited", "killed", "crashed", "dropped", "expired", "rejected", "aborted", "reset",
    "busy", "full", "empty", "memory", "disk", "space", "use", "range", "data", "boot", "shutdown", "startup",
    "open", "read", "write", "send", "receive", "connect", "bind", "listen", "load", "parse", "start", "stop",
    "create", "delete", "remove", "allocate", "resolve", "mount", "unmount", "execute", "run", "get", "set", "find",
    "acquire", "lock", "update", "initialize", "initialise", "init", "register", "reply", "answer", "response",
    "request", "connection", "respond", "close", "exit",
];
/// Words after which "to" is followed by what was attempted.
#[rustfmt::skip]
const TAKES_INFINITIVE: [&str; 17] = [
    "failed", "failing", "unable", "able", "trying", "tried", "try", "attempt", "attempted", "attempting",
    "refused", "refusing", "need", "needs", "going", "about", "how",
];

struct Piece<'a> {
    text: &'a str,
    is_quote: bool,
}

/// Words, and quotations with what clings to them.
fn words(text: &str) -> Vec<Piece<'_>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let space = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let quoted = quotation_end(rest);
        let (text, behind) = rest.split_at(quoted.unwrap_or(space));
        words.push(Piece { text, is_quote: quoted.is_some() });
        rest = behind.trim_start();
    }
    words
}

/// Where a word that begins with a quotation ends: at the first space behind the closing mark.
fn quotation_end(text: &str) -> Option<usize> {
    let start = text.find(|c| !matches!(c, '(' | '[' | '<'))?;
    let mark = text.get(start..)?.chars().next().filter(|c| matches!(c, '\'' | '"' | '`'))?;
    let inner = text.get(start + 1..)?;
    let len = inner.find(mark).filter(|len| (1..=QUOTE_BYTES_MAX).contains(len))?;
    let behind = inner.get(len + 1..)?;
    let clings = behind.find(char::is_whitespace).unwrap_or(behind.len());
    // Nothing but punctuation: "'s" within a word closes no quotation.
    let is_end = behind.get(..clings)?.chars().all(|c| c.is_ascii_punctuation() && c != mark);
    is_end.then_some(start + 1 + len + 1 + clings)
}

/// What stands before, within and behind the marks.
fn quotation(text: &str) -> (&str, &str, &str) {
    let is_mark = |c: char| matches!(c, '\'' | '"' | '`');
    match (text.find(is_mark), text.rfind(is_mark)) {
        (Some(start), Some(end)) if start < end => {
            let (before, rest) = text.split_at(start + 1);
            let (body, after) = rest.split_at(end - start - 1);
            (before, body, after)
        }
        _ => trimmed(text),
    }
}

#[cfg(test)]
mod tests;
