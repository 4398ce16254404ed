//! TOML text as a tree in which every value knows its file and line, and the merging of several such trees. It knows
//! TOML, not our keys. A mistake in the syntax is reported beside the tree: where it stands within one value, the rest
//! of the file can still be judged.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::values::shown;
use crate::gather::gather;

/// A place in a file; line and column count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    /// Index in the list of files.
    pub(crate) file: usize,
    pub(crate) line: usize,
    /// In characters.
    pub(crate) column: usize,
}

impl At {
    /// A file as a whole.
    pub(super) const fn start_of(file: usize) -> Self {
        Self { file, line: 1, column: 1 }
    }
}

/// A value and where it stands: for a table's entry the place of its key.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: At,
    pub(crate) value: Value,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
    Array(Vec<Node>),
    Table(Table),
    /// A date, or a number that fits no type. No key takes one.
    Other(String),
}

pub(crate) type Table = BTreeMap<String, Node>;

impl Node {
    /// What stands here, for a message: short, on one line.
    pub(crate) fn found(&self) -> String {
        match &self.value {
            Value::Text(text) => shown(text),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => format!("{number:?}"),
            Value::Flag(flag) => flag.to_string(),
            Value::Array(items) => format!("an array of {}", items.len()),
            Value::Table(_) => "a table".to_owned(),
            Value::Other(text) => text.clone(),
        }
    }
}

/// A mistake in TOML's own syntax.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(crate) at: At,
    pub(super) message: String,
}

/// What a text turned out to be.
#[derive(Debug)]
pub(super) struct Parsed {
    /// `None`: what was meant can't be told, so judging it would only pile up consequences of the first mistake.
    pub(super) root: Option<Table>,
    pub(super) errors: Vec<SyntaxError>,
}

/// As the parser calls a key, or a table, that stands twice.
const DUPLICATE: &str = "duplicate key";

/// Parses the text of the file with index `file`.
pub(super) fn parse(file: usize, text: &str) -> Parsed {
    let source = Source::new(file, text);
    let (root, found) = DeTable::parse_recoverable(text);
    let mut parsed = Parsed { root: Some(source.table(root.get_ref())), errors: Vec::new() };
    let (mut tables, mut keys) = (Vec::new(), Vec::new());
    for error in &found {
        let offset = error.span().map_or(text.len(), |span| span.start);
        let (at, mut message) = (source.at(offset), error.message().to_owned());
        if message != DUPLICATE {
            if !source.is_within_value(offset) {
                parsed.root = None;
            }
            parsed.errors.push(SyntaxError { at, message });
            continue;
        }
        let twice = source.twice(at.line);
        let is_table = twice.is_some_and(|(name, _)| name.starts_with('['));
        if let Some((name, first)) = twice {
            let what = if is_table { ": put what is below it there" } else { "" };
            message = format!("{name} stands twice, first in line {first}{what}");
        }
        if is_table { &mut tables } else { &mut keys }.push(SyntaxError { at, message });
    }
    // What is below the second one is not in the tree: that it is missed elsewhere, or its keys stand twice, follows.
    if tables.is_empty() {
        parsed.errors.append(&mut keys);
    } else {
        parsed.root = None;
        parsed.errors.append(&mut tables);
    }
    parsed.errors.sort_by_key(|error| error.at);
    // Further errors on a line are consequences of its first.
    parsed.errors.dedup_by_key(|error| error.at.line);
    parsed
}

struct Source<'a> {
    file: usize,
    text: &'a str,
    /// Byte offsets at which lines start.
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    fn new(file: usize, text: &'a str) -> Self {
        let starts = text.match_indices('\n').map(|(newline, _)| newline + 1);
        Self { file, text, lines: std::iter::once(0).chain(starts).collect() }
    }

    /// What a line begins with, a table's name in its brackets or a key, and the line where that stood before.
    fn twice(&self, line: usize) -> Option<(&'a str, usize)> {
        let name = self.name(line)?;
        let is_table = |line: &usize| self.name(*line).is_some_and(|name| name.starts_with('['));
        let from = if is_table(&line) { 1 } else { (1..line).rev().find(is_table).unwrap_or(1) };
        let first = (from..line).find(|line| self.name(*line) == Some(name))?;
        Some((name, first))
    }

    fn name(&self, line: usize) -> Option<&'a str> {
        let start = *self.lines.get(line.checked_sub(1)?)?;
        let text = self.text.get(start..)?.lines().next()?.trim();
        let end = if text.starts_with('[') { text.find(']').map(|end| end + 1) } else { text.find('=') };
        Some(text.get(..end?)?.trim())
    }

    fn at(&self, offset: usize) -> At {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        At { file: self.file, line, column: before.chars().count() + 1 }
    }

    /// Whether a mistake at this place lies behind the `=` of its line, and so leaves keys and tables what they are.
    fn is_within_value(&self, offset: usize) -> bool {
        let before = self.text.get(..offset).unwrap_or(self.text);
        before.rsplit('\n').next().is_some_and(|line| line.contains('='))
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let key: &Spanned<std::borrow::Cow<'_, str>> = key;
            (key.get_ref().to_string(), Node { at: self.at(key.span().start), value: self.value(value.get_ref()) })
        };
        gather(table.iter().map(entry))
    }

    fn value(&self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
                .map_or_else(|_| Value::Other(digits.to_string()), Value::Integer),
            DeValue::Float(digits) => {
                digits.as_str().parse().map_or_else(|_| Value::Other(digits.to_string()), Value::Float)
            }
            DeValue::Boolean(flag) => Value::Flag(*flag),
            DeValue::Datetime(date) => Value::Other(date.to_string()),
            DeValue::Table(table) => Value::Table(self.table(table)),
            DeValue::Array(items) => Value::Array(
                items
                    .iter()
                    .map(|item| Node { at: self.at(item.span().start), value: self.value(item.get_ref()) })
                    .collect(),
            ),
        }
    }
}

/// How files are laid over each other.
pub(super) struct Merging {
    /// Arrays of tables at the root whose elements merge by their `name`.
    pub(super) by_name: &'static [&'static str],
    pub(super) choices: &'static [Choice],
}

/// Keys of which one stands for all: where a later file chooses another one, what the earlier file chose must go, as it
/// has no way to unset a key.
pub(super) struct Choice {
    /// The array by name, or the table of tables, at the root in whose elements they stand.
    pub(super) within: &'static str,
    /// The keys of which one is chosen; of a single key its value is what is chosen.
    pub(super) of: &'static [&'static str],
    /// Keys that mean something beside what was chosen only.
    pub(super) with_it: &'static [&'static str],
}

impl Choice {
    /// What a table chooses.
    fn made<'t>(&self, table: &'t Table) -> Option<(&'t str, Option<String>)> {
        let (key, node) = table.iter().find(|(key, _)| self.of.contains(&key.as_str()))?;
        Some((key, (self.of.len() == 1).then(|| node.found())))
    }

    fn settle(&self, below: &mut Table, above: &Table) {
        let (old, new) = (self.made(below), self.made(above));
        if old.is_some() && new.is_some() && old != new {
            below.retain(|key, _| !self.of.contains(&key.as_str()) && !self.with_it.contains(&key.as_str()));
        }
    }
}

/// Lays a later file over an earlier one: tables merge, and so do the elements of arrays by name; anything else is
/// replaced.
pub(super) fn merge(base: &mut Table, over: Table, merging: &Merging) {
    for (key, node) in over {
        let choices: Vec<&Choice> = merging.choices.iter().filter(|choice| choice.within == key).collect();
        match (base.get_mut(&key), node.value) {
            (Some(Node { value: Value::Array(below), .. }), Value::Array(above))
                if merging.by_name.contains(&key.as_str()) =>
            {
                merge_by_name(below, above, &choices);
            }
            (Some(Node { value: Value::Table(below), at }), Value::Table(above)) => {
                *at = node.at;
                merge_tables(below, above, &choices);
            }
            (Some(below), value) => *below = Node { at: node.at, value },
            (None, value) => {
                base.insert(key, Node { at: node.at, value });
            }
        }
    }
}

/// `choices` are those within the tables of these tables.
fn merge_tables(below: &mut Table, above: Table, choices: &[&Choice]) {
    for (key, node) in above {
        match below.get_mut(&key) {
            Some(below) => merge_node(below, node, choices),
            None => {
                below.insert(key, node);
            }
        }
    }
}

fn merge_node(below: &mut Node, above: Node, choices: &[&Choice]) {
    below.at = above.at;
    match (&mut below.value, above.value) {
        (Value::Table(below), Value::Table(above)) => {
            choices.iter().for_each(|choice| choice.settle(below, &above));
            merge_tables(below, above, &[]);
        }
        (below, above) => *below = above,
    }
}

fn merge_by_name(below: &mut Vec<Node>, above: Vec<Node>, choices: &[&Choice]) {
    // Only what the earlier files said is a target: a name that stands twice in one file is a mistake to be seen.
    let known = below.len();
    let mut merged = vec![false; known];
    for node in above {
        let same = |old: &Node| name_of(old).is_some() && name_of(old) == name_of(&node);
        let target = below.iter_mut().take(known).zip(&mut merged).find(|(old, done)| !**done && same(old));
        match target {
            Some((old, done)) => {
                *done = true;
                merge_node(old, node, choices);
            }
            None => below.push(node),
        }
    }
}

/// The `name` of an element of an array of tables.
pub(super) fn name_of(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Table(table) => match &table.get("name")?.value {
            Value::Text(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}
