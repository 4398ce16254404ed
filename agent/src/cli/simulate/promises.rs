//! Broken promises, for a human: which, when, what was found, how to see it again, and the shortest history that still
//! breaks it. Pure: reports in, text out.

use std::fmt::Write as _;

use super::look::{Look, Tone, plural, printable};
use super::timeline::{self, Extent};
use crate::sim::Shrunk;
use crate::sim::report::{Broken, NotJudged, Promise};

/// Findings of one promise that are shown of one run: the first ones tell the story.
const FINDINGS_SHOWN: usize = 3;

/// All that is promised.
const PROMISES: [Promise; 10] = [
    Promise::NothingLost,
    Promise::AtMostOnce,
    Promise::TerminalStatus,
    Promise::NothingForbidden,
    Promise::BoundedDisk,
    Promise::BoundedMemory,
    Promise::TimeOrder,
    Promise::SpreadRetries,
    Promise::SameTrace,
    Promise::Liveness,
];

/// What is promised, in words.
pub(super) const fn words(promise: Promise) -> &'static str {
    match promise {
        Promise::NothingLost => {
            "each durable record is acknowledged by the broker, still stored, or counted as dropped"
        }
        Promise::AtMostOnce => "a command takes effect at most once",
        Promise::TerminalStatus => "each accepted command reaches one terminal status that the fleet sees",
        Promise::NothingForbidden => "nothing is done that config, budget, uptime, battery or quarantine forbid",
        Promise::BoundedDisk => "the store stays within its limits",
        Promise::BoundedMemory => "every bound in memory is kept",
        Promise::TimeOrder => "dates are right and order is kept, whatever the clock does",
        Promise::SpreadRetries => "tries to connect are spread, and never hammer",
        Promise::SameTrace => "the same seed gives the same trace",
        Promise::Liveness => "once faults end, the outbox drains, commands end, and alarms clear or stand for a reason",
    }
}

/// How many were held, in a line: all but those that could not be judged.
pub(super) fn held(not_judged: usize, look: Look) -> String {
    format!("{}\n", look.paint(Tone::Good, &format!("{} promises held", PROMISES.len().saturating_sub(not_judged))))
}

/// Those of which a run can't show whether they were held, and why; empty without any.
pub(super) fn not_judged(open: &[NotJudged], look: Look) -> String {
    let mut text = String::new();
    if !open.is_empty() {
        let title = format!("{} not judged:", plural(open.len() as u64, "promise"));
        let _ = writeln!(text, "{}", look.paint(Tone::Doubtful, &title));
    }
    for NotJudged { promise, why } in open {
        let _ = writeln!(text, "  {}: {}", words(*promise), printable(why));
    }
    text
}

/// The promises that a run broke, each once, in the order in which they are listed.
pub(super) fn promises_of(broken: &[Broken]) -> Vec<Promise> {
    PROMISES.into_iter().filter(|promise| broken.iter().any(|broken| broken.promise == *promise)).collect()
}

/// One promise that a run broke: in words, with its first findings and the command that replays it.
pub(super) fn broken(promise: Promise, all: &[Broken], seed: u64, replay: &str, look: Look) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", look.paint(Tone::Bad, &format!("BROKEN PROMISE: {}", words(promise))));
    let findings: Vec<&Broken> = all.iter().filter(|broken| broken.promise == promise).collect();
    let _ = writeln!(text, "  seed    {seed}");
    for finding in findings.iter().take(FINDINGS_SHOWN) {
        let _ = writeln!(text, "  found   {}  {}", timeline::clock(finding.at_ms, 1), printable(&finding.what));
    }
    if let Some(more) = findings.len().checked_sub(FINDINGS_SHOWN).filter(|more| *more > 0) {
        let _ = writeln!(text, "          {} {more} more", look.ellipsis());
    }
    let _ = writeln!(text, "  replay  {replay}");
    text
}

/// The shortest history that still breaks it.
pub(super) fn shortest(shrunk: &Shrunk, extent: Extent, look: Look) -> String {
    let mut text = format!(
        "  the shortest history found that still breaks it ({}):\n",
        plural(shrunk.timeline.len() as u64, "moment")
    );
    for left in &shrunk.left {
        let _ = writeln!(text, "    needs {}", printable(left));
    }
    text += &timeline::render(&shrunk.timeline, extent, "    ", look);
    text
}
