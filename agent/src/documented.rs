//! Holds docs/ against the code: a word that goes over the wire and that the contract doesn't name is one that nobody
//! can rely on. What is an enum is asked for its words; of what is a literal in the sources every word is looked at
//! that has two parts, or stands where an event's name, a reason or a status does.
#![expect(clippy::disallowed_methods, reason = "a test reads the sources and the documents")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;

use crate::config::{Action, Anomaly, QuarantineLevel};
use crate::engine::command::Name;
use crate::engine::incidents::{Incidents, Settings};
use crate::engine::io::{Ending, LinkFaultKind};
use crate::engine::kernel::KernelClass;
use crate::engine::metric::{Metric, Rollup, Value};
use crate::engine::observation::{ErrorBatch, ErrorKind, ErrorLine, ErrorSource, Refusal, Severity};
use crate::engine::record::{Class, EventKind, Field, Stamp, Status};
use crate::engine::time::{BootId, Mono};
use crate::wire::Reason;

/// What says words to others: events, results, outcomes, findings.
const SPEAKING: [&str; 6] = ["engine", "act", "helper", "wire", "audit", "runtime/dispatch"];

/// Words that stay inside: keys of files that are documented elsewhere, what is said to the kernel and to other
/// programs, and what the agent and its helper say to each other.
const INSIDE: [&str; 23] = [
    "access_key",
    "agent_uid",
    "allow_hosts",
    "api_key",
    "broker_ports",
    "careful_since",
    "data_use",
    "is_zero",
    "keep_addr_on_down",
    "max_clock_skew",
    "private_key",
    "refresh_quarantine",
    "snake_case",
    "stop_units",
    "taken_back",
    "trusted_keys",
    "CARGO_PKG_VERSION",
    "CONNACK",
    "CREDENTIALS_DIRECTORY",
    "FIELDMEDIC_BUILD_EPOCH_S",
    "PUBACK",
    "SUBACK",
    "WATCHDOG_USEC",
];
/// The names of MQTT's packets are MQTT's.
const SPEAKS_MQTT: &str = "packet.rs";

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Sources of these modules, without their tests.
fn sources() -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut left: Vec<PathBuf> = SPEAKING.iter().map(|module| src.join(module)).collect();
    let mut sources = Vec::new();
    while let Some(path) = left.pop() {
        let file = path.with_extension("rs");
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let is_part = |name: &str| path.components().any(|part| part.as_os_str() == name);
        if file.is_file() && !["tests", "tests.rs", SPEAKS_MQTT].into_iter().any(is_part) {
            let text = fs::read_to_string(&file).unwrap();
            sources.push(text.split("mod tests {").next().unwrap_or_default().to_owned());
        }
    }
    sources
}

/// The plain words between quotes, each with what stands before it on its line. What has a space, an escape or a brace
/// in it is a sentence.
fn literals(source: &str) -> Vec<(String, String)> {
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let words = |line: &str| {
        let parts: Vec<&str> = line.split('"').collect();
        let nth = |n: usize| (parts[..n].join("\""), parts[n].to_owned());
        (1..parts.len()).step_by(2).map(nth).collect::<Vec<_>>()
    };
    lines.flat_map(words).collect()
}

fn has_two_parts(word: &str) -> bool {
    word.contains('_')
        && word.split('_').all(|part| !part.is_empty())
        && word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// A status, or a variable of a program's environment.
fn is_capital(word: &str) -> bool {
    word.len() > 4 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// Whether what stands before a word makes it an event's name, a check of the audit, or a reason why a record was
/// dropped.
fn is_said_after(before: &str) -> bool {
    const CALLS: [&str; 3] = ["count_dropped(", ".with(\"state\", ", "told("];
    const AFTER_A_CLASS: [&str; 2] = ["lose(class, ", "set_aside(class, "];
    let follows_a = |name: &str| {
        let rest = before.rsplit_once(name).and_then(|(_, rest)| rest.strip_suffix(", "));
        rest.is_some_and(|rest| rest.chars().all(char::is_alphanumeric))
    };
    CALLS.iter().any(|call| before.ends_with(call))
        || follows_a("EventKind::")
        || follows_a("Severity::")
        || (before.ends_with(", ") && AFTER_A_CLASS.iter().any(|call| before.contains(call)))
}

/// What isn't in the document, as it would stand there.
fn missing<'w>(document: &str, words: impl IntoIterator<Item = &'w str>) -> BTreeSet<&'w str> {
    words.into_iter().filter(|word| !document.contains(&format!("`{word}`"))).collect()
}

#[test]
fn the_contract_names_every_word_of_the_codes_tables() {
    let contract = document("contract.md");
    let mut words: Vec<&str> = Reason::ALL.iter().map(|reason| reason.word()).collect();
    words.extend(Ending::ALL.iter().map(|it| it.word()).filter(|word| !INSIDE.contains(word)));
    words.extend(Status::ALL.iter().map(|it| it.word()));
    words.extend(EventKind::ALL.iter().map(|it| it.word()));
    words.extend(LinkFaultKind::ALL.iter().map(|it| it.word()));
    words.extend(ErrorSource::ALL.iter().map(|it| it.word()));
    words.extend(Refusal::ALL.iter().map(|it| it.word()));
    words.extend(Severity::ALL.map(Severity::word));
    words.extend(Class::ALL.map(Class::word));
    words.extend(KernelClass::ALL.iter().map(|class| class.word()));
    words.extend(Anomaly::ALL.iter().map(|kind| kind.word()));
    words.extend(QuarantineLevel::ALL.iter().map(|level| level.word()));
    words.extend(Action::ALL.iter().map(|action| action.word()));
    assert_eq!(missing(&contract, words), BTreeSet::new());
}

#[test]
fn the_contract_names_every_word_that_the_code_says() {
    let contract = document("contract.md");
    let literals: Vec<(String, String)> = sources().iter().flat_map(|source| literals(source)).collect();
    let is_word = |word: &str| word.len() > 2 && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let said = literals
        .iter()
        .filter(|(before, word)| has_two_parts(word) || is_capital(word) || (is_word(word) && is_said_after(before)));
    let said: BTreeSet<&str> = said.map(|(_, word)| word.as_str()).filter(|word| !INSIDE.contains(word)).collect();
    // So that a change of how the code is written doesn't make this test look at nothing.
    for known in ["started", "disconnected", "healed", "poison", "quota", "route_changed", "EXHAUSTED", "disk_full"] {
        assert!(said.contains(known), "{known} is not found in the sources: {said:?}");
    }
    assert_eq!(missing(&contract, said), BTreeSet::new());
}

#[test]
fn the_contract_names_every_command() {
    let contract = document("contract.md");
    for name in Name::ALL {
        assert!(contract.contains(&format!("\n| `{name}` |")), "{name} has no row in the table of commands");
    }
}

#[test]
fn the_table_of_metrics_is_the_codes() {
    let document = document("metrics.md");
    let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
    for (metric, row) in Metric::ALL.iter().zip(&rows) {
        let rollup = match metric.rollup() {
            Rollup::Gauge => "gauge",
            Rollup::Last => "last",
            Rollup::Counter => "counter",
            Rollup::Sum => "sum",
        };
        let source = metric.source().replace('*', "\\*");
        let expected = format!("| `{metric}` | {} | {rollup} | {source} |", metric.unit());
        assert!(row.starts_with(&expected), "expected {expected}\nfound    {row}");
    }
    assert_eq!(rows.len(), Metric::ALL.len());
}

#[test]
fn the_cluster_that_is_read_at_night_is_one_that_the_engine_makes_of_its_line() {
    let document = document("operations.md");
    let (_, section) = document.split_once("\n## Reading an error cluster\n").unwrap();
    let example = section.lines().skip_while(|line| !line.starts_with("    {")).take_while(|line| !line.is_empty());
    let event: Json = serde_json::from_str(&example.collect::<String>()).unwrap();
    let text = |key: &str| event["error"][key].as_str().unwrap().to_owned();
    let line = ErrorLine {
        severity: Severity::Error,
        source: ErrorSource::Journal,
        kind: ErrorKind::Plain,
        message: text("exemplar"),
        unit: Some(text("unit")),
        identifier: None,
        exe: None,
        signal: None,
        boot: None,
        mono: None,
        wall: None,
    };
    let bucket = Duration::from_secs(event["error"]["bucket_s"].as_u64().unwrap());
    let mut incidents = Incidents::new(Settings { max_clusters: 8, min_severity: Severity::Error, bucket });
    let now = Stamp { boot: BootId([1; 16]), mono: Mono(0) };
    let told = incidents.take(now, ErrorBatch { lines: vec![line], ..ErrorBatch::default() });
    for key in ["fingerprint", "template", "exemplar", "source", "unit"] {
        let expected = Field::Value(Value::Text(text(key).into()));
        assert_eq!(told[0].field(key), Some(&expected), "{key}");
    }
    assert_eq!(event["name"], *told[0].name);
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let in_docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let beside = ["README.md", "SECURITY.md", "CHANGELOG.md"].map(|name| root.join(name));
    let mut looked_at = 0;
    for file in in_docs.chain(beside) {
        let text = fs::read_to_string(&file).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            assert!(to.exists(), "{}: {target} leads nowhere", file.display());
            if !anchor.is_empty() {
                let text = fs::read_to_string(&to).unwrap();
                assert!(anchors(&text).contains(anchor), "{}: {target}: no such heading", file.display());
            }
            looked_at += 1;
        }
    }
    assert!(looked_at > 20, "{looked_at}");
}

/// The headings of a document as its readers' programs make links of them.
fn anchors(text: &str) -> BTreeSet<String> {
    let heading = |line: &str| line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim().to_lowercase());
    let plain = |heading: String| -> String {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    text.lines().filter_map(heading).map(plain).collect()
}
