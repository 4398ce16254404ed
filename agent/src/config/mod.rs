//! The configuration: from TOML files to a [`CheckedConfig`], with every mistake reported at once, each with its file
//! and line. Whatever holds a `CheckedConfig` need not ask again whether a value makes sense. Reading the environment
//! or the network is not this module's business.

mod doubts;
mod effective;
mod files;
mod network;
pub(crate) mod policy;
pub(crate) mod read;
pub(crate) mod reader;
#[cfg(test)]
mod tests;
pub(crate) mod tree;
mod types;
mod values;

use std::path::{Path, PathBuf};

use reader::{Report, Section};
use tree::{At, Merging, Table};

pub use effective::changes;
pub(crate) use effective::{array, quoted};
pub use network::{Network, NoNetwork};
#[cfg(test)]
pub(crate) use read::COMMAND_TOPICS_BYTES_MAX;
pub(crate) use read::{TOPIC_PREFIX, is_topic_prefix};
pub use reader::Problem;
pub use types::*;
pub use values::{
    Action, Anomaly, AttributeValue, BrokerLimits, BrokerUrl, Budget, ClockTrust, DeviceId, Encoding, MqttVersion,
    QuarantineLevel, Share, TrustedKey, Unfit, UnitName,
};
pub(crate) use values::{
    RUNBOOK_NAME, duration as parse_duration, group as parse_group, human, is_interface_name, is_runbook_name,
};

/// Where the configuration is looked for when none is named, the first that exists.
pub const DEFAULT_FILES: [&str; 2] = ["/etc/fieldmedic/agent.toml", "./configs/agent.toml"];

/// Where the store is unless a configuration says otherwise.
pub const DEFAULT_STORE: &str = "/var/lib/fieldmedic/store";
/// Where a daemon listens for `status` and the like.
pub const DEFAULT_SOCKET: &str = "/run/fieldmedic/agent.sock";

/// How several files are laid over each other.
const MERGING: Merging = Merging { by_name: &["rules", "ladders"], choices: &policy::CHOICES };

/// A configuration that may be used, and what is doubtful about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: CheckedConfig,
    /// In the order of files and lines.
    pub warnings: Vec<Problem>,
    /// The files that stand in the place of keys in `commands.trusted_keys`.
    pub key_files: Vec<PathBuf>,
    named_files: Vec<Problem>,
}

impl Loaded {
    /// Something doubtful about the file that a key such as `mqtt.tls.ca_file` names, at the place of that key. `None`
    /// where no file of the configuration gives the key.
    #[must_use]
    pub fn doubt(&self, key: &str, message: &str) -> Option<Problem> {
        let place = self.named_files.iter().find(|place| place.key == key)?;
        Some(Problem { message: format!("{key}: {message}"), ..place.clone() })
    }
}

/// How many mistakes there are: `1 error`, `2 errors`.
pub(crate) fn counted(problems: &[Problem]) -> String {
    format!("{} error{}", problems.len(), if problems.len() == 1 { "" } else { "s" })
}

/// The first of [`DEFAULT_FILES`] that exists, or may exist; empty if none does, which [`load`] reports.
#[must_use]
pub fn default_files() -> Vec<PathBuf> {
    // One that can't be looked at is taken, and then fails to load, rather than passed over for another.
    let may_exist = |file: &PathBuf| file.try_exists().unwrap_or(true);
    DEFAULT_FILES.iter().map(PathBuf::from).find(may_exist).into_iter().collect()
}

/// Loads a configuration. Later files override earlier ones key by key: tables merge, rules and ladders merge by name,
/// arrays are replaced, and what belongs to another test, or another kind of rollback, than the later file chooses
/// goes. A path of a `*.pub` file is looked up beside the file that names it.
///
/// # Errors
/// Every mistake, in the order of files and lines.
pub fn load(files: &[PathBuf]) -> Result<Loaded, Vec<Problem>> {
    let uname = rustix::system::uname();
    load_on_host(files, &uname.nodename().to_string_lossy())
}

/// What a text would be as such a file, before it is written. What is wrong is told as of that file.
///
/// # Errors
/// As [`load`].
pub(crate) fn check_text(file: &Path, text: &str) -> Result<Loaded, Vec<Problem>> {
    let (uname, mut report) = (rustix::system::uname(), Report::new(&[file.to_owned()]));
    let hostname = uname.nodename().to_string_lossy();
    let root = parse_text(0, text, &mut report);
    let config =
        root.map(|root| Section::read_root(&mut report, &root, At::start_of(0), |s| read::config(s, &hostname)));
    finish(config, report)
}

/// The same, as on a machine of this name: it is the device's where no file gives one.
pub(crate) fn load_on_host(files: &[PathBuf], hostname: &str) -> Result<Loaded, Vec<Problem>> {
    if files.is_empty() {
        return Err(vec![no_file()]);
    }
    let mut report = Report::new(files);
    let config = read_all(files, hostname, &mut report);
    finish(config, report)
}

fn finish(config: Option<CheckedConfig>, mut report: Report) -> Result<Loaded, Vec<Problem>> {
    let (named_files, key_files) = (report.named_files(), report.take_key_files());
    let (errors, warnings) = report.into_problems();
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded { config, warnings, key_files, named_files }),
        _ => Err(errors),
    }
}

/// `None` where no file could be told what it says; the errors of each that couldn't were reported.
fn read_all(files: &[PathBuf], hostname: &str, report: &mut Report) -> Option<CheckedConfig> {
    let last = files.len().checked_sub(1)?;
    // All files are parsed, so that the mistakes of each are told at once.
    let tables: Vec<Option<Table>> =
        files.iter().enumerate().map(|(index, file)| parse_file(index, file, report)).collect();
    if tables.iter().all(Option::is_none) {
        return None;
    }
    if tables.iter().any(Option::is_none) {
        report.set_partial();
    }
    let mut root = Table::new();
    for table in tables.into_iter().flatten() {
        tree::merge(&mut root, table, &MERGING);
    }
    Some(Section::read_root(report, &root, At::start_of(last), |s| read::config(s, hostname)))
}

/// Reads another file of ours in the way of a configuration: every mistake at once, unknown keys refused.
pub(crate) fn read_file<T>(file: &Path, read: impl FnOnce(&mut Section<'_>) -> T) -> Result<T, Vec<Problem>> {
    let mut report = Report::new(&[file.to_owned()]);
    let table = parse_file(0, file, &mut report);
    finish_file(table, report, read)
}

/// Reads a text as such a file, before it is written.
pub(crate) fn read_file_text<T>(
    file: &Path,
    text: &str,
    read: impl FnOnce(&mut Section<'_>) -> T,
) -> Result<T, Vec<Problem>> {
    let mut report = Report::new(&[file.to_owned()]);
    let table = parse_text(0, text, &mut report);
    finish_file(table, report, read)
}

fn finish_file<T>(
    table: Option<Table>,
    mut report: Report,
    read: impl FnOnce(&mut Section<'_>) -> T,
) -> Result<T, Vec<Problem>> {
    let value = table.map(|table| Section::read_root(&mut report, &table, At::start_of(0), read));
    let (errors, _) = report.into_problems();
    match value {
        Some(value) if errors.is_empty() => Ok(value),
        _ => Err(errors),
    }
}

/// Reads another text, whole and bounded.
pub(crate) fn read_text(file: &Path) -> Result<String, impl std::error::Error + use<>> {
    files::read(file)
}

/// Reads such a file, and lists the keys that were asked for: `faults.*.do`.
#[cfg(test)]
pub(crate) fn keys_read<T>(
    file: &Path,
    read: impl FnOnce(&mut Section<'_>) -> T,
) -> (Result<T, Vec<Problem>>, Vec<String>) {
    let mut report = Report::new(&[file.to_owned()]);
    let table = parse_file(0, file, &mut report);
    let value = table.map(|table| Section::read_root(&mut report, &table, At::start_of(0), read));
    let known =
        report.known().iter().flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")));
    let known = known.map(|key| key.trim_start_matches('.').to_owned()).collect();
    let (errors, _) = report.into_problems();
    (value.filter(|_| errors.is_empty()).ok_or(errors), known)
}

fn parse_file(index: usize, file: &Path, report: &mut Report) -> Option<Table> {
    let text = match files::read(file) {
        Ok(text) => text,
        Err(error) => {
            report.error(At { line: error.line(), ..At::start_of(index) }, "", error.to_string());
            return None;
        }
    };
    parse_text(index, &text, report)
}

fn parse_text(index: usize, text: &str, report: &mut Report) -> Option<Table> {
    let parsed = tree::parse(index, text);
    for error in parsed.errors {
        report.syntax_error(error.at, format!("not TOML: {}", error.message));
    }
    parsed.root
}

fn no_file() -> Problem {
    let [system, local] = DEFAULT_FILES;
    let message = format!("there is neither this file nor {local}; name one with --config FILE");
    Problem { file: system.into(), line: 1, column: 1, key: String::new(), message }
}
