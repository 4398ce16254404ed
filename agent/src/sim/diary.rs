//! What a run has to tell: the timeline, and the figures. Written by the world as things happen; decides nothing.

use std::collections::BTreeMap;

use super::check::NOT_THERE;
use super::expect::{Ended, HEALED, REJECTED, Tallies};
use super::report::{Moment, Summary, Unmet, What};
use super::scenario::Scenario;
use crate::config::Rule;
use crate::engine::io::ActStatus;
use crate::engine::metric::Value;
use crate::engine::record::{Body, Event, EventKind, Field, Record, Status};
use crate::text::head;

/// Moments kept of one run: a storm must not fill the memory. What comes after is only counted, in the figures and for
/// the expectations.
const MOMENTS_MAX: usize = 200_000;
/// How long a text of the timeline may be.
const TEXT_MAX: usize = 200;

/// The diary.
#[derive(Debug, Default)]
pub(super) struct Diary {
    moments: Vec<Moment>,
    tallies: Tallies,
    pub(super) summary: Summary,
    boot: u32,
    ended: Ended,
    /// The steps of ladders that were told of last, and those that were done last, by the rule: which action.
    tried: BTreeMap<String, String>,
    done: BTreeMap<String, String>,
    standing: BTreeMap<String, bool>,
    /// What the agent had counted as dropped when it was last looked at.
    totals: BTreeMap<String, u64>,
    charge_tenth: Option<(i64, String)>,
}

impl Diary {
    /// An empty one, that counts what this scenario expects.
    pub(super) fn new(scenario: &Scenario, rules: &[Rule]) -> Self {
        Self { tallies: Tallies::new(scenario, rules), ..Self::default() }
    }

    /// Another boot begins: 1 is the first.
    pub(super) const fn boot(&mut self, boot: u32) {
        self.boot = boot;
    }

    pub(super) fn note(&mut self, at_ms: u64, what: What) {
        self.tallies.saw(at_ms, &what);
        if self.moments.len() < MOMENTS_MAX {
            self.moments.push(Moment { at_ms, boot: self.boot, what });
        } else {
            self.summary.moments_not_kept += 1;
        }
    }

    /// The battery as it is: noted when its charge passes a tenth, or its state changes.
    pub(super) fn battery(&mut self, at_ms: u64, charge_pct: f64, state: &str) {
        let lowest = self.summary.charge_min_pct.map_or(charge_pct, |min| min.min(charge_pct));
        self.summary.charge_min_pct = Some(lowest);
        #[expect(clippy::cast_possible_truncation, reason = "0 to 10")]
        let tenth = (charge_pct / 10.0).round() as i64;
        let passed = self.charge_tenth.as_ref().is_none_or(|(before, word)| {
            word != state || (*before != tenth && (charge_pct / 10.0 - tenth as f64).abs() < 0.3)
        });
        if passed {
            self.charge_tenth = Some((tenth, state.to_owned()));
            self.note(at_ms, What::Battery { charge_pct, state: state.to_owned() });
        }
    }

    /// The agent made a record.
    pub(super) fn record(&mut self, at_ms: u64, record: &Record) {
        match &record.body {
            Body::Sample(_) => {}
            Body::Event(event) => self.event(at_ms, event),
            Body::Result(result) => {
                let (id, command) = (result.command_id.as_deref(), result.command.as_deref());
                if result.status.is_terminal() && self.ended.is_new(id) {
                    let name = command.unwrap_or("?").to_owned();
                    let ended = self.summary.commands.entry(name).or_default();
                    *ended.entry(result.status.word().to_owned()).or_default() += 1;
                }
                self.note(
                    at_ms,
                    What::Result {
                        id: id.map(str::to_owned),
                        command: command.map(str::to_owned),
                        status: result.status.word(),
                        reason: result.reason.as_deref().map(str::to_owned),
                    },
                );
            }
        }
    }

    /// Something was done to the gateway.
    pub(super) fn acted(&mut self, at_ms: u64, action: &str, target: &str, trigger: &str, status: ActStatus) {
        let status = match status {
            ActStatus::Succeeded => "succeeded",
            ActStatus::Failed => "failed",
            ActStatus::Rejected => REJECTED,
            ActStatus::TimedOut => "timed out",
            ActStatus::Canceled => "canceled",
            ActStatus::Interrupted => "interrupted",
        };
        let ended = self.summary.remedies.entry(action.to_owned()).or_default();
        *ended.entry(status.to_owned()).or_default() += 1;
        let [action, target, trigger] = [action, target, trigger].map(str::to_owned);
        self.note(at_ms, What::Acted { action, target, trigger, status });
    }

    /// Records were given up: the agent's totals by reason. They begin anew where its state was lost: what it told
    /// before that stays told.
    pub(super) fn dropped(&mut self, at_ms: u64, totals: &BTreeMap<String, u64>) {
        if *totals == self.totals {
            return;
        }
        for (reason, total) in totals {
            let before = self.totals.get(reason).copied().unwrap_or(0);
            if *total > before {
                *self.summary.dropped.entry(reason.clone()).or_default() += total - before;
                self.note(at_ms, What::Dropped { reason: reason.clone(), records: total - before });
            }
        }
        self.totals.clone_from(totals);
    }

    /// Timeline, figures, and the expectations that were not met.
    pub(super) fn into_parts(mut self) -> (Vec<Moment>, Summary, Vec<Unmet>) {
        self.summary.standing = self.standing.into_iter().filter(|(_, stands)| *stands).map(|(rule, _)| rule).collect();
        let unmet = self.tallies.judge(&self.summary);
        (self.moments, self.summary, unmet)
    }

    fn event(&mut self, at_ms: u64, event: &Event) {
        *self.summary.events.entry(event.name.to_string()).or_default() += 1;
        let what = match event.kind {
            EventKind::Alarm => self.alarm(event),
            EventKind::Remediation => self.remedy(event),
            EventKind::Lifecycle | EventKind::Audit | EventKind::Error => What::Event {
                kind: event.kind.word(),
                name: event.name.to_string(),
                severity: event.severity.word(),
                detail: detail(event),
            },
        };
        self.note(at_ms, what);
    }

    fn alarm(&mut self, event: &Event) -> What {
        let rule = field(event, "rule").unwrap_or_else(|| event.name.to_string());
        let raised = field(event, "state").as_deref() == Some("raised");
        self.standing.insert(rule.clone(), raised);
        *self.summary.alarms.entry(rule.clone()).or_default() += u64::from(raised);
        let severity = event.severity.word();
        What::Alarm { rule, raised, severity, value: field(event, "value"), threshold: field(event, "threshold") }
    }

    fn remedy(&mut self, event: &Event) -> What {
        let text = |key| field(event, key).unwrap_or_default();
        let (trigger, status, reason) = (text("trigger"), text("status"), field(event, "reason"));
        let action = match field(event, "action") {
            None if status == HEALED => self.done.get(&trigger).cloned().unwrap_or_default(),
            None => self.tried.get(&trigger).cloned().unwrap_or_default(),
            // A rule climbs one ladder at a time.
            Some(action) if event.field("ladder").is_some() => {
                self.tried.insert(trigger.clone(), action.clone());
                if was_done(&status, reason.as_deref()) {
                    self.done.insert(trigger.clone(), action.clone());
                }
                action
            }
            Some(action) => action,
        };
        What::Remedy { id: text("id"), trigger, action, status, reason }
    }
}

/// Whether a step that is told so was done, and may have helped: see the contract's `HEALED`.
fn was_done(status: &str, reason: Option<&str>) -> bool {
    let is = |it: Status| status == it.word();
    let had_nothing = is(Status::Failed) && reason.is_some_and(|reason| NOT_THERE.contains(&reason));
    !is(Status::InProgress) && !is(Status::Rejected) && !had_nothing
}

/// A field of an event, as text.
fn field(event: &Event, key: &str) -> Option<String> {
    event.field(key).and_then(text)
}

fn text(field: &Field) -> Option<String> {
    Some(match field {
        // A rate is small.
        Field::Value(Value::Float(value)) if value.abs() < 1.0 => format!("{:?}", (value * 1_000.0).round() / 1_000.0),
        Field::Value(Value::Float(value)) => format!("{value:.1}"),
        Field::Value(Value::Count(value)) => value.to_string(),
        Field::Value(Value::Flag(value)) => value.to_string(),
        Field::Value(Value::Text(value)) => value.to_string(),
        Field::Stamp(_) | Field::Passed { .. } => return None,
        Field::List(words) => words.join(", "),
    })
}

/// All fields on a line.
fn detail(event: &Event) -> String {
    let mut line = String::new();
    for (key, field) in &event.fields {
        let Some(value) = text(field) else { continue };
        let gap = if line.is_empty() { "" } else { ", " };
        line.push_str(&format!("{gap}{key} {value}"));
    }
    if line.len() > TEXT_MAX {
        line.truncate(head(&line, TEXT_MAX).len());
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::super::scenario::{Bounds, Expectation, Subject};
    use super::super::tests::quiet;
    use super::*;
    use crate::engine::record::{CommandResult, Stamp};
    use crate::engine::time::{BootId, Mono};

    #[test]
    fn what_the_timeline_has_no_room_for_counts_all_the_same() {
        let mut scenario = quiet();
        let bounds = Bounds { at_most: Some(0.0), ..Bounds::default() };
        scenario.expect = vec![Expectation { of: Subject::Alarm("hot".into()), bounds, text: "no heat".into() }];
        let mut diary = Diary::new(&scenario, &[]);
        for n in 0..MOMENTS_MAX as u64 {
            diary.note(n, What::FaultEnded { name: "storm".into() });
        }
        let (rule, severity) = ("hot".into(), "warning");
        diary.note(1_000_000, What::Alarm { rule, raised: true, severity, value: None, threshold: None });
        let (moments, summary, unmet) = diary.into_parts();
        assert_eq!((moments.len(), summary.moments_not_kept), (MOMENTS_MAX, 1));
        assert_eq!(unmet[0].found, "raised once, the first after 16m 40s; at most 0 expected");
    }

    #[test]
    fn a_command_that_is_answered_again_has_ended_once() {
        let mut diary = Diary::new(&quiet(), &[]);
        let at = Stamp { boot: BootId([1; 16]), mono: Mono(0) };
        for (id, status) in [
            ("c1", Status::InProgress),
            ("c1", Status::Succeeded),
            ("c1", Status::Succeeded),
            ("c2", Status::Succeeded),
        ] {
            let (command_id, command) = (Some(id.into()), Some("ping".into()));
            let (reason, detail, output, progress_pct, part) = (None, None, None, None, None);
            let result = CommandResult { command_id, command, status, reason, detail, output, progress_pct, part };
            diary.record(1_000, &Record { at, body: Body::Result(result) });
        }
        assert_eq!(diary.into_parts().1.commands["ping"], [("SUCCEEDED".to_owned(), 2)].into());
    }
}
