//! Reads sections of a merged tree, key by key, and collects every mistake with its place instead of stopping at the
//! first. Each read names its key, and so the keys that were read are the table of known keys: what else stands in a
//! section is refused. A read that fails gives its default, so that the reading goes on; a configuration that was read
//! with errors must not be used.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tree::{At, Node, Table, Value, name_of};
use super::values::{self, Unfit};

/// Characters of a message: names and paths may be as long as a file, and what is wrong is logged and told to the
/// fleet.
const MESSAGE_CHARS_MAX: usize = 1000;

/// Something wrong, or doubtful, at a place in a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {message}", .file.display())]
pub struct Problem {
    /// The file, as it was named.
    pub file: PathBuf,
    /// From 1; 1 also where the file as a whole is meant.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The key, such as `mqtt.keep_alive` or `rules.hot.below`; empty where the file as a whole is meant.
    pub key: String,
    /// What was found, what is expected, and an example.
    pub message: String,
}

/// What was wrong and what was known, so far.
#[derive(Debug)]
pub(crate) struct Report {
    files: Vec<PathBuf>,
    errors: Vec<(At, Problem)>,
    warnings: Vec<(At, Problem)>,
    /// File and line of mistakes in the syntax: what is wrong with the values there is a consequence, and not told.
    broken: BTreeSet<(usize, usize)>,
    /// Files that aren't what they are taken for: what else is wrong with them follows from that, and is not told.
    foreign: BTreeSet<usize>,
    /// Keys whose own value is wrong: what they would mean beside others can't be told.
    wrong: BTreeSet<String>,
    /// A file is missing from the tree, and nobody knows what it says.
    is_partial: bool,
    /// Keys that were read, by section; `*` stands for a name that is free, as in `rollback.*`.
    known: BTreeMap<String, BTreeSet<String>>,
    /// Where keys stand that name a file which may be left out.
    named_files: BTreeMap<String, At>,
    /// Files that an array of keys names.
    key_files: Vec<PathBuf>,
}

impl Report {
    pub(crate) fn new(files: &[PathBuf]) -> Self {
        Self {
            files: files.to_vec(),
            errors: Vec::new(),
            warnings: Vec::new(),
            broken: BTreeSet::new(),
            foreign: BTreeSet::new(),
            wrong: BTreeSet::new(),
            is_partial: false,
            known: BTreeMap::new(),
            named_files: BTreeMap::new(),
            key_files: Vec::new(),
        }
    }

    pub(crate) fn syntax_error(&mut self, at: At, message: String) {
        self.error(at, "", message);
        self.broken.insert((at.file, at.line));
    }

    pub(crate) fn error(&mut self, at: At, key: &str, message: String) {
        if self.broken.contains(&(at.file, at.line)) || self.foreign.contains(&at.file) {
            return;
        }
        self.errors.push((at, self.problem(at, key, message)));
    }

    /// Reports a value that is wrong whatever stands beside it.
    fn refuse(&mut self, at: At, key: &str, message: String) {
        self.wrong.insert(key.to_owned());
        self.error(at, key, message);
    }

    /// From here on only what each file says by itself is told, and not what is missing or contradicts another key.
    pub(crate) fn set_partial(&mut self) {
        self.is_partial = true;
    }

    fn warn(&mut self, at: At, key: &str, message: String) {
        self.warnings.push((at, self.problem(at, key, message)));
    }

    /// A problem without a message for each key that names a file, to be filled in by whoever looks at that file.
    pub(crate) fn named_files(&self) -> Vec<Problem> {
        self.named_files.iter().map(|(key, at)| self.problem(*at, key, String::new())).collect()
    }

    pub(crate) fn take_key_files(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.key_files)
    }

    fn problem(&self, at: At, key: &str, mut message: String) -> Problem {
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS_MAX) {
            message.truncate(end);
            message.push('…');
        }
        let file = self.files.get(at.file).cloned().unwrap_or_default();
        Problem { file, line: at.line, column: at.column, key: key.to_owned(), message }
    }

    #[cfg(test)]
    pub(crate) fn known(&self) -> &BTreeMap<String, BTreeSet<String>> {
        &self.known
    }

    /// Errors and warnings, in the order of files and lines.
    pub(crate) fn into_problems(self) -> (Vec<Problem>, Vec<Problem>) {
        let in_order = |found: Vec<(At, Problem)>| {
            let mut found: Vec<_> = found.into_iter().enumerate().collect();
            found.sort_unstable_by_key(|(nth, (at, _))| (*at, *nth));
            found.into_iter().map(|(_, (_, problem))| problem).collect()
        };
        (in_order(self.errors), in_order(self.warnings))
    }
}

/// One table of the configuration, or its absence.
pub(crate) struct Section<'a> {
    report: &'a mut Report,
    table: Option<&'a Table>,
    /// As messages name it: `rules.hot`; empty for the root.
    path: String,
    /// As the table of known keys names it: `rules.*`.
    schema: String,
    /// The table's header; where there is none, that of the table above.
    at: At,
}

impl<'a> Section<'a> {
    /// Reads the root of a tree. `at` is the place of what is missing altogether.
    pub(crate) fn read_root<T>(
        report: &'a mut Report,
        root: &'a Table,
        at: At,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        let root = Section { report, table: Some(root), path: String::new(), schema: String::new(), at };
        root.read_with(read)
    }

    /// Reads a table.
    pub(crate) fn table<T>(&mut self, key: &str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        self.below(key).read_with(read)
    }

    fn below(&mut self, key: &str) -> Section<'_> {
        let node = self.node(key);
        let table = node.and_then(|node| self.as_table(key, node));
        let at = node.map_or(self.at, |node| node.at);
        let (path, schema) = (join(&self.path, key), join(&self.schema, key));
        Section { report: &mut *self.report, table, path, schema, at }
    }

    /// Reads a table of tables with free names.
    pub(crate) fn named_tables<T>(
        &mut self,
        key: &str,
        mut read: impl FnMut(&mut Section<'_>) -> T,
    ) -> BTreeMap<String, T> {
        let Some(table) = self.node(key).and_then(|node| self.as_table(key, node)) else { return BTreeMap::new() };
        let mut all = BTreeMap::new();
        for (name, node) in table {
            if let Some(item) = self.item(key, name, node) {
                all.insert(name.clone(), item.read_with(&mut read));
            }
        }
        all
    }

    /// Reads an array of tables.
    pub(crate) fn tables<T>(&mut self, key: &str, mut read: impl FnMut(&mut Section<'_>) -> T) -> Vec<T> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let Value::Array(items) = &node.value else {
            self.refuse(key, format!("found {}, expected an array of tables, such as [[{key}]]", node.found()));
            return Vec::new();
        };
        let mut all = Vec::new();
        for (index, node) in items.iter().enumerate() {
            let name = name_of(node).map_or_else(|| (index + 1).to_string(), str::to_owned);
            all.extend(self.item(key, &name, node).map(|item| item.read_with(&mut read)));
        }
        all
    }

    /// One of the tables below `key`. `None` is an error that was reported.
    fn item(&mut self, key: &str, name: &str, node: &'a Node) -> Option<Section<'_>> {
        let path = join(&join(&self.path, key), name);
        let Value::Table(table) = &node.value else {
            self.report.refuse(node.at, &path, format!("{path}: found {}, expected a table", node.found()));
            return None;
        };
        let schema = join(&join(&self.schema, key), "*");
        Some(Section { report: &mut *self.report, table: Some(table), path, schema, at: node.at })
    }

    /// Reads every entry of a table whose keys are free.
    pub(crate) fn free<T>(&mut self, key: &str, parse: impl Fn(&Node) -> Result<T, Unfit>) -> BTreeMap<String, T> {
        let Some(table) = self.node(key).and_then(|node| self.as_table(key, node)) else { return BTreeMap::new() };
        let mut all = BTreeMap::new();
        for (name, node) in table {
            match parse(node) {
                Ok(value) => {
                    all.insert(name.clone(), value);
                }
                Err(unfit) => self.refuse_at(node.at, &join(key, name), unfit),
            }
        }
        all
    }

    /// Reads a value that may be left out.
    pub(crate) fn optional<T>(&mut self, key: &str, parse: impl FnOnce(&Node) -> Result<T, Unfit>) -> Option<T> {
        let node = self.node(key)?;
        match parse(node) {
            Ok(value) => Some(value),
            Err(unfit) => {
                self.refuse(key, unfit);
                None
            }
        }
    }

    /// Reads a value that must be there. `None` is an error that was reported.
    pub(crate) fn required<T>(
        &mut self,
        key: &str,
        example: &str,
        parse: impl FnOnce(&Node) -> Result<T, Unfit>,
    ) -> Option<T> {
        if !self.has(key) {
            self.error(key, format!("is missing and has no default; set it, for example {key} = {example}"));
        }
        self.optional(key, parse)
    }

    /// Reads an array, element by element, each with its own errors.
    pub(crate) fn list<T>(
        &mut self,
        key: &str,
        default: Vec<T>,
        example: &str,
        parse: impl Fn(&Node) -> Result<T, Unfit>,
    ) -> Vec<T> {
        let Some(items) = self.array(key, example) else { return default };
        let mut all = Vec::new();
        for item in items {
            match parse(item) {
                Ok(value) => all.push(value),
                Err(unfit) => self.refuse_at(item.at, key, unfit),
            }
        }
        all
    }

    /// `None` is an absence, or an error that was reported.
    fn array(&mut self, key: &str, example: &str) -> Option<&'a [Node]> {
        let node = self.node(key)?;
        if let Value::Array(items) = &node.value {
            return Some(items);
        }
        // A text is not repeated: it may be a key without its brackets, and the private half of one.
        let found = text_of(node).map_or_else(|| node.found(), |_| "a text".to_owned());
        self.refuse(key, format!("found {found}, expected an array, such as {example}"));
        None
    }

    /// Reads `true` or `false`.
    pub(crate) fn flag(&mut self, key: &str, default: bool) -> bool {
        let parse = |node: &Node| match node.value {
            Value::Flag(flag) => Ok(flag),
            _ => Err(unfit(node, format!("true or false, such as {default}"))),
        };
        self.optional(key, parse).unwrap_or(default)
    }

    /// Reads a whole number.
    pub(crate) fn integer<T>(&mut self, key: &str, default: T, range: RangeInclusive<T>) -> T
    where
        T: TryFrom<i64> + PartialOrd + fmt::Display,
    {
        let parse = |node: &Node| match node.value {
            Value::Integer(number) => T::try_from(number).ok().filter(|number| range.contains(number)),
            _ => None,
        };
        let expected = || format!("a whole number from {} to {}, such as {default}", range.start(), range.end());
        self.optional(key, |node| parse(node).ok_or_else(|| unfit(node, expected()))).unwrap_or(default)
    }

    /// Reads a duration.
    pub(crate) fn duration(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        self.optional(key, duration(default, range)).unwrap_or(default)
    }

    /// Reads a size in bytes.
    pub(crate) fn size(&mut self, key: &str, default: u64, min: u64) -> u64 {
        let parse = |node: &Node| text_of(node).and_then(values::size).filter(|size| *size >= min);
        let bounds = [min, values::SIZE_MAX].map(values::format_size).join(" to ");
        let expected = || format!("a size from {bounds}, such as {:?}", values::format_size(default));
        self.optional(key, |node| parse(node).ok_or_else(|| unfit(node, expected()))).unwrap_or(default)
    }

    /// Reads one word of a few.
    pub(crate) fn word<T: Copy + fmt::Display>(&mut self, key: &str, default: T, all: &[T]) -> T {
        self.optional(key, word(all)).unwrap_or(default)
    }

    /// Reads a path; an empty text is `None`.
    pub(crate) fn optional_path(&mut self, key: &str, example: &str) -> Option<PathBuf> {
        let parse = |node: &Node| match path_of(node) {
            Some(path) => Ok((!path.as_os_str().is_empty()).then_some(path)),
            None => Err(unfit(node, format!("a path, such as {example:?}; empty for none"))),
        };
        let path = self.optional(key, parse).flatten();
        if path.is_some() {
            self.note_file(key);
        }
        path
    }

    /// Notes the files that elements of an array name.
    pub(crate) fn note_files(&mut self, key: &str, file: impl Fn(&Node) -> Option<PathBuf>) {
        self.note_file(key);
        if let Some(Value::Array(items)) = self.node(key).map(|node| &node.value) {
            self.report.key_files.extend(items.iter().filter_map(file));
        }
    }

    /// What the file is that a key names, where one does, is looked at by whoever checks.
    fn note_file(&mut self, key: &str) {
        if self.has(key) {
            self.report.named_files.insert(join(&self.path, key), self.at(key));
        }
    }

    /// Reads a path that can't be empty.
    pub(crate) fn path(&mut self, key: &str, default: &str) -> PathBuf {
        let parse = |node: &Node| match path_of(node) {
            Some(path) if !path.as_os_str().is_empty() => Ok(path),
            _ => Err(unfit(node, format!("a path, such as {default:?}"))),
        };
        self.note_file(key);
        self.optional(key, parse).unwrap_or_else(|| PathBuf::from(default))
    }

    /// Reads an absolute path.
    pub(crate) fn absolute_path(&mut self, key: &str, default: &str) -> PathBuf {
        self.note_file(key);
        self.optional(key, |node| absolute_path(node, default)).unwrap_or_else(|| PathBuf::from(default))
    }

    /// Whether a key stands in this section.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Takes a key for known, whatever its value, and says whether it stands here.
    #[cfg(feature = "simulate")]
    pub(crate) fn knows(&mut self, key: &str) -> bool {
        self.node(key).is_some()
    }

    /// Where a key stands, or the section that it is missing from.
    pub(crate) fn at(&self, key: &str) -> At {
        self.table.and_then(|table| table.get(key)).map_or(self.at, |node| node.at)
    }

    /// The directory of the file in which a node stands.
    pub(crate) fn directory_of(&self, key: &str) -> PathBuf {
        let file = self.report.files.get(self.at(key).file);
        file.and_then(|file| file.parent()).unwrap_or_else(|| Path::new("")).to_owned()
    }

    /// Whether a key was read whose own value is wrong, so that a default stands in its place.
    pub(crate) fn is_wrong(&self, key: &str) -> bool {
        self.is_path_wrong(&join(&self.path, key))
    }

    /// The same for a key of another section: `remediation.units`.
    pub(crate) fn is_path_wrong(&self, path: &str) -> bool {
        self.report.wrong.contains(path)
    }

    /// Reports a mistake at a key, of what must hold beside its own value. The message says what is wrong with it,
    /// without naming it.
    pub(crate) fn error(&mut self, key: &str, message: impl fmt::Display) {
        if !self.report.is_partial {
            let path = join(&self.path, key);
            self.report.error(self.at(key), &path, format!("{path}: {message}"));
        }
    }

    /// Reports a mistake of the section as a whole.
    pub(crate) fn error_here(&mut self, message: impl fmt::Display) {
        if !self.report.is_partial {
            let path = self.path.clone();
            self.report.error(self.at, &path, format!("{path}: {message}"));
        }
    }

    /// Reports that a file isn't what it is taken for, as a key in it shows.
    pub(crate) fn error_of_file(&mut self, key: &str, message: &str) {
        let at = At::start_of(self.at(key).file);
        self.report.error(at, "", message.to_owned());
        self.report.foreign.insert(at.file);
        self.report.set_partial();
    }

    fn refuse(&mut self, key: &str, message: impl fmt::Display) {
        self.refuse_at(self.at(key), key, message);
    }

    fn refuse_at(&mut self, at: At, key: &str, message: impl fmt::Display) {
        let path = join(&self.path, key);
        self.report.refuse(at, &path, format!("{path}: {message}"));
    }

    /// Reports something doubtful at a key.
    pub(crate) fn warn(&mut self, key: &str, message: impl fmt::Display) {
        let path = join(&self.path, key);
        self.report.warn(self.at(key), &path, format!("{path}: {message}"));
    }

    fn read_with<T>(mut self, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let value = read(&mut self);
        self.refuse_unknown_keys();
        value
    }

    fn node(&mut self, key: &str) -> Option<&'a Node> {
        let known = self.report.known.entry(self.schema.clone()).or_default();
        if !known.contains(key) {
            known.insert(key.to_owned());
        }
        self.table?.get(key)
    }

    fn as_table(&mut self, key: &str, node: &'a Node) -> Option<&'a Table> {
        if let Value::Table(table) = &node.value {
            return Some(table);
        }
        let path = join(&self.path, key);
        self.refuse(key, format!("found {}, expected a table, such as [{path}]", node.found()));
        None
    }

    fn refuse_unknown_keys(&mut self) {
        let Some(table) = self.table else { return };
        let Some(known) = self.report.known.get(&self.schema).cloned() else { return };
        for (key, node) in table.iter().filter(|(key, _)| !known.contains(*key)) {
            let path = join(&self.path, key);
            let hint = did_you_mean(key, known.iter().map(String::as_str));
            self.report.error(node.at, &path, format!("unknown key {path:?}{hint}"));
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The name that is most like this one, if any is.
pub(crate) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // Below it, what is proposed has little to do with what was written.
    const SIMILARITY_MIN: f64 = 0.7;
    names
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

/// The end of what says that there is no such name: the one that is most like it, if any is.
pub(crate) fn did_you_mean<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> String {
    nearest(name, names).map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

pub(crate) fn unfit(node: &Node, expected: impl Into<String>) -> Unfit {
    Unfit { found: node.found(), expected: expected.into() }
}

pub(crate) fn text_of(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// Takes a text that `parse` takes, which must not be empty.
pub(crate) fn parsed<T>(parse: impl Fn(&str) -> Result<T, Unfit>) -> impl Fn(&Node) -> Result<T, Unfit> {
    // What is no text is shown to `parse` as an empty one: nobody else knows what it expects.
    move |node| match text_of(node) {
        Some(text) => parse(text),
        None => parse("").map_err(|error| unfit(node, error.expected)),
    }
}

/// Takes a text that `fits`.
pub(crate) fn text(fits: impl Fn(&str) -> bool, expected: &'static str) -> impl Fn(&Node) -> Result<String, Unfit> {
    move |node| match text_of(node).filter(|text| fits(text)) {
        Some(text) => Ok(text.to_owned()),
        None => Err(unfit(node, expected)),
    }
}

/// Takes one word of a few.
pub(crate) fn word<T: Copy + fmt::Display>(all: &[T]) -> impl Fn(&Node) -> Result<T, Unfit> {
    move |node| {
        let words: Vec<String> = all.iter().map(ToString::to_string).collect();
        let mut named = all.iter().zip(&words);
        let found = named.find(|(_, word)| text_of(node) == Some(word.as_str())).map(|(it, _)| *it);
        found.ok_or_else(|| unfit(node, format!("one of \"{}\"", words.join("\", \""))))
    }
}

/// Takes a duration within bounds.
pub(crate) fn duration(
    example: Duration,
    range: RangeInclusive<Duration>,
) -> impl Fn(&Node) -> Result<Duration, Unfit> {
    move |node| {
        let human = humantime::format_duration;
        let duration = text_of(node).and_then(values::duration).filter(|duration| range.contains(duration));
        duration.ok_or_else(|| {
            let (min, max) = (human(*range.start()), human(*range.end()));
            unfit(node, format!("a duration from {min} to {max}, such as \"{}\"", human(example)))
        })
    }
}

/// Takes a finite number.
pub(crate) fn number(example: &'static str) -> impl Fn(&Node) -> Result<f64, Unfit> {
    move |node| match node.value {
        Value::Float(number) if number.is_finite() => Ok(number),
        #[expect(
            clippy::cast_precision_loss,
            reason = "thresholds are small; beyond 2^53 the last digits don't matter"
        )]
        Value::Integer(number) => Ok(number as f64),
        _ => Err(unfit(node, format!("a number, such as {example}"))),
    }
}

/// A text that can be a path: the kernel takes none with a NUL in it.
pub(crate) fn path_of(node: &Node) -> Option<PathBuf> {
    text_of(node).filter(|text| !text.contains('\0')).map(PathBuf::from)
}

/// Takes an absolute path.
pub(crate) fn absolute_path(node: &Node, example: &str) -> Result<PathBuf, Unfit> {
    let path = path_of(node).filter(|path| path.is_absolute());
    path.ok_or_else(|| unfit(node, format!("an absolute path, such as {example:?}")))
}
