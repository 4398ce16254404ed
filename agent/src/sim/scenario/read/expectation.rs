//! Reads `expect`: what the user expects of a run. Names are looked up where the scenario has them, because an
//! expectation about a misspelt name would hold for ever.

use std::collections::BTreeSet;

use super::super::{After, Bounds, Expectation, Subject};
use super::values::{MINUTE, SECOND, nonempty};
use super::{LASTS_MAX, Span};
use crate::config::reader::{Section, did_you_mean, duration, nearest, number, unfit, word};
use crate::config::tree::Node;
use crate::config::{Action, Unfit, parse_duration};
use crate::engine::record::Status;
use crate::sim::expect::LADDER_EXHAUSTED;
use crate::sim::report::Measure;

/// What an expectation can be about: exactly one of them.
const SUBJECTS: [&str; 7] = ["alarm", "alarm_stands", "remedy", "healed", "command", "event", "measure"];
const BOUNDS: [&str; 4] = ["at_least", "at_most", "within", "after"];
/// Events of a lifecycle and of an audit, as docs/contract.md names them, and of a ladder that has run out: what
/// `event` can count. Left out is what no simulated gateway comes to: its configuration is never read anew, and its
/// battery goes by no name, without which any charge of it is believed.
pub(super) const EVENTS: [&str; 28] = [
    "audit_finding",
    "boot_loop",
    "budget_spent",
    "command_refused",
    "connected",
    "data_budget",
    "disconnected",
    "drained",
    "draining",
    "external_power_back",
    "external_power_lost",
    LADDER_EXHAUSTED,
    "quarantine_entered",
    "quarantine_left",
    "quarantine_narrowed",
    "quarantine_widened",
    "rebooted",
    "records_dropped",
    "release_back",
    "release_bad",
    "release_good",
    "release_kept",
    "release_on_trial",
    "route_changed",
    "self_audit",
    "started",
    "stopping",
    "store_damaged",
];
/// In which a command ends.
const STATUSES: [Status; 6] =
    [Status::Succeeded, Status::Failed, Status::Rejected, Status::TimedOut, Status::Canceled, Status::Interrupted];

/// Reads one expectation. `None` is an error that was reported.
pub(super) fn read(
    s: &mut Section<'_>,
    span: Span,
    faults: &BTreeSet<String>,
    commands: &BTreeSet<String>,
) -> Option<Expectation> {
    let of = subject(s, commands);
    let after = after(s, span, faults);
    let within = s.optional("within", duration(5 * MINUTE, SECOND..=LASTS_MAX));
    let (at_least, at_most) = (s.optional("at_least", number("1")), s.optional("at_most", number("3")));
    let of = of?;
    check(s, &of, at_least, at_most);
    let open = !s.has("at_least") && !s.has("at_most");
    let at_least = if open { Some(1.0) } else { at_least };
    let bounds = Bounds { at_least, at_most, within, after };
    Some(Expectation { of, bounds, text: written(s) })
}

/// Reads the one subject. `None` is an error that was reported.
fn subject(s: &mut Section<'_>, commands: &BTreeSet<String>) -> Option<Subject> {
    let rule = || nonempty("a rule's name, such as \"battery-low\"");
    let action = || word(Action::ALL);
    let measures: Vec<&'static str> = Measure::ALL.iter().map(|measure| measure.word()).collect();
    let status = s.optional("status", word(&STATUSES.map(Status::word)));
    let subjects = [
        s.optional("alarm", rule()).map(Subject::Alarm),
        s.optional("alarm_stands", rule()).map(Subject::AlarmStands),
        s.optional("remedy", action()).map(|action| Subject::Remedy(action.word().to_owned())),
        s.optional("healed", action()).map(|action| Subject::Healed(action.word().to_owned())),
        s.optional("command", |node| command(node, commands))
            .map(|name| Subject::Command { name, status: status.map(str::to_owned) }),
        s.optional("event", event).map(Subject::Event),
        s.optional("measure", word(&measures)).and_then(Measure::parse).map(Subject::Measure),
    ];
    if s.has("status") && !s.has("command") {
        s.error("status", "goes with command only");
    }
    let written: Vec<&str> = SUBJECTS.into_iter().filter(|key| s.has(key)).collect();
    match written.as_slice() {
        [] => s.error_here(format!("is about nothing, expected exactly one of {}", SUBJECTS.join(", "))),
        [_] => {}
        [_, second, ..] => {
            s.error(second, format!("is one too many: found {}, expected exactly one", written.join(" and ")));
        }
    }
    subjects.into_iter().flatten().next()
}

/// What is said where it isn't one names the key that counts it, where there is one.
fn event(node: &Node) -> Result<String, Unfit> {
    let name = nonempty("an event's name, such as \"rebooted\"")(node)?;
    if EVENTS.contains(&name.as_str()) {
        return Ok(name);
    }
    let is_action = Action::ALL.iter().any(|action| action.word() == name);
    let expected = match nearest(&name, EVENTS.into_iter()) {
        _ if name == "healed" => {
            "a lifecycle or audit event: that a step helped is counted by healed = ACTION".to_owned()
        }
        _ if is_action => format!("a lifecycle or audit event: what was tried is counted by remedy = {name:?}"),
        Some(known) => format!("a lifecycle or audit event; did you mean {known:?}?"),
        None => "a lifecycle or audit event, such as \"rebooted\"; an alarm is counted by alarm = RULE, and errors \
                 by that of a rule on errors.count or another of errors.*"
            .to_owned(),
    };
    Err(unfit(node, expected))
}

fn command(node: &Node, commands: &BTreeSet<String>) -> Result<String, Unfit> {
    let name = nonempty("a command's name, such as \"ping\"")(node)?;
    if commands.contains(&name) {
        return Ok(name);
    }
    let known: Vec<&str> = commands.iter().map(String::as_str).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(unfit(node, format!("a command that this scenario sends ({known})")))
}

/// Reads `after`: a time, or the name of a fault.
fn after(s: &mut Section<'_>, span: Span, faults: &BTreeSet<String>) -> Option<After> {
    let text = s.optional("after", nonempty("a time, or the name of a fault, such as \"power_cut\""))?;
    if faults.contains(&text) {
        return Some(After::Fault(text));
    }
    if let Some(time) = parse_duration(&text) {
        if time >= span.end {
            s.error("after", format!("{text} is too late: the run is over then"));
        }
        return Some(After::Time(time));
    }
    let hint = did_you_mean(&text, faults.iter().map(String::as_str));
    s.error("after", format!("{text:?} is neither a time nor the name of a fault of this scenario{hint}"));
    None
}

/// Reports bounds that don't fit the subject, or each other.
fn check(s: &mut Section<'_>, of: &Subject, at_least: Option<f64>, at_most: Option<f64>) {
    if let (Some(least), Some(most)) = (at_least, at_most) {
        if least > most {
            s.error("at_least", format!("is {least}, more than at_most = {most}: nothing is both"));
        }
    }
    let at_the_end = matches!(of, Subject::Measure(_) | Subject::AlarmStands(_));
    for key in ["within", "after"].into_iter().filter(|_| at_the_end) {
        if s.has(key) {
            s.error(key, "is for what happens, not for what is looked at when the run ends");
        }
    }
    if matches!(of, Subject::Measure(_)) {
        if at_least.is_none() && at_most.is_none() && !s.has("at_least") && !s.has("at_most") {
            s.error("measure", "needs at_least or at_most: a figure is not a count");
        }
        return;
    }
    for (key, count) in [("at_least", at_least), ("at_most", at_most)] {
        if count.is_some_and(|count| count < 0.0 || count.fract() != 0.0) {
            s.error(key, "is a count here, expected a whole number that is not less than 0");
        }
    }
}

/// As it stands in the file, on one line and in our order of keys.
fn written(s: &mut Section<'_>) -> String {
    let keys = SUBJECTS.into_iter().chain(["status"]).chain(BOUNDS);
    let parts = keys.filter_map(|key| s.optional(key, |node| Ok(format!("{key} = {}", node.found()))));
    parts.collect::<Vec<_>>().join(", ")
}
