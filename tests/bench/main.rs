//! The figures that the agent is held to, each measured beside its baseline in the same run: what the machine gives at
//! the moment is in both. `tests/bench/run` builds and starts it.
#![allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::cast_precision_loss,
    reason = "a benchmark that can't be set up ends, and it may touch the system that the agent's engine must not"
)]

#[path = "../common/mod.rs"]
mod common;

mod append;
mod drain;
mod odd;
mod report;
mod sample;
mod wear;
mod wire;

use report::Report;

/// Not reached, and known not to be: a commit of each sample writes a page of the file system or two, and one has room
/// for three. For how many hours a day the broker may be away until that matters is printed beside it.
const KNOWN_MISSES: [&str; 1] = [wear::BROKER_AWAY];

type Bench = fn(&mut Report);

/// A benchmark's name, and what measures it.
const BENCHES: [(&str, Bench); 6] = [
    ("append", append::run),
    ("drain", drain::run),
    ("memory", drain::memory),
    ("odd", odd::run),
    ("wear", wear::run),
    ("wire", wire::run),
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let known = |name: &String| BENCHES.iter().any(|(known, _)| known == name);
    if let Some(stranger) = wanted.iter().find(|name| !known(name)) {
        let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        eprintln!("no benchmark is called {stranger}; there are: {}", names.join(" "));
        std::process::exit(2);
    }
    let mut report = Report::default();
    for (name, bench) in BENCHES {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            bench(&mut report);
        }
    }
    report.print();
    let missed: Vec<&String> = report.missed().iter().filter(|what| !KNOWN_MISSES.contains(&what.as_str())).collect();
    if !missed.is_empty() {
        eprintln!("not reached: {missed:?}");
        std::process::exit(1);
    }
}
