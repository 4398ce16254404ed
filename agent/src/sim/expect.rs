//! Whether what a scenario's author expects came true: judged on the timeline and the figures, as a user could.

use std::time::Duration;

use super::network::millis;
use super::report::{Moment, Summary, Unmet, What};
use super::scenario::{After, Expectation, Scenario, Subject};

/// The expectations that were not met.
pub(super) fn judge(scenario: &Scenario, timeline: &[Moment], summary: &Summary) -> Vec<Unmet> {
    let unmet = |expectation: &Expectation| {
        let found = found(expectation, timeline, summary)?;
        Some(Unmet { expectation: expectation.text.clone(), found })
    };
    scenario.expect.iter().filter_map(unmet).collect()
}

/// What was found instead; `None`: it was met.
fn found(expectation: &Expectation, timeline: &[Moment], summary: &Summary) -> Option<String> {
    let bounds = &expectation.bounds;
    if let Subject::Measure(measure) = expectation.of {
        let Some(value) = measure.value(summary) else { return Some("there is no such figure in this run".into()) };
        let fits =
            bounds.at_least.is_none_or(|least| value >= least) && bounds.at_most.is_none_or(|most| value <= most);
        return (!fits).then(|| format!("it is {value:.1}"));
    }
    if let Subject::AlarmStands(rule) = &expectation.of {
        let stands = f64::from(u8::from(summary.standing.contains(rule)));
        let fits =
            bounds.at_least.is_none_or(|least| stands >= least) && bounds.at_most.is_none_or(|most| stands <= most);
        return (!fits).then(|| if stands > 0.0 { "it stands".to_owned() } else { "it doesn't stand".to_owned() });
    }
    let from = match &bounds.after {
        None => 0,
        Some(After::Time(time)) => millis(*time),
        Some(After::Fault(name)) => match first_fault(timeline, name) {
            Some(at) => at,
            None => return Some(format!("the fault {name} never came")),
        },
    };
    let times: Vec<u64> = timeline
        .iter()
        .filter(|moment| moment.at_ms >= from && is(&expectation.of, &moment.what))
        .map(|moment| moment.at_ms)
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "moments of a run")]
    let count = times.len() as f64;
    let first = times.first().map(|at| at.saturating_sub(from));
    let enough = bounds.at_least.is_none_or(|least| count >= least);
    let few_enough = bounds.at_most.is_none_or(|most| count <= most);
    let in_time = bounds
        .within
        .is_none_or(|within| bounds.at_least.is_none() || first.is_some_and(|first| first <= millis(within)));
    if enough && few_enough && in_time {
        return None;
    }
    let time = |ms: u64| humantime::format_duration(Duration::from_secs(ms / 1_000)).to_string();
    Some(match first {
        None => "it never happened".to_owned(),
        Some(first) => format!("it happened {} times, first after {}", times.len(), time(first)),
    })
}

fn first_fault(timeline: &[Moment], wanted: &str) -> Option<u64> {
    timeline.iter().find_map(|moment| match &moment.what {
        What::FaultBegan { name, .. } if name == wanted => Some(moment.at_ms),
        _ => None,
    })
}

/// Whether this is what an expectation counts.
fn is(of: &Subject, what: &What) -> bool {
    match (of, what) {
        (Subject::Alarm(wanted), What::Alarm { rule, raised: true, .. }) => rule == wanted,
        (Subject::Remedy(wanted), What::Acted { action, .. }) => action == wanted,
        (Subject::Healed(wanted), What::Acted { action, status: "succeeded", .. }) => action == wanted,
        (Subject::Event(wanted), What::Event { name, .. }) => name == wanted,
        (Subject::Command { name, status: wanted }, What::Result { command: Some(command), status, .. }) => {
            let terminal = !matches!(*status, "QUEUED" | "IN_PROGRESS");
            name == command && terminal && wanted.as_ref().is_none_or(|wanted| wanted == status)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::report::Measure;
    use crate::sim::scenario::Bounds;

    fn moment(at_s: u64, what: What) -> Moment {
        Moment { at_ms: at_s * 1_000, boot: 1, what }
    }

    fn raised(at_s: u64) -> Moment {
        let alarm = What::Alarm { rule: "hot".into(), raised: true, severity: "warning", value: None, threshold: None };
        moment(at_s, alarm)
    }

    fn judged(of: Subject, bounds: Bounds) -> Option<String> {
        let began = What::FaultBegan { name: "heat".into(), detail: String::new() };
        let timeline = [raised(60), moment(100, began), raised(400), raised(4_000)];
        let summary = Summary { uptime_pct: 99.0, standing: vec!["hot".into()], ..Summary::default() };
        found(&Expectation { of, bounds, text: String::new() }, &timeline, &summary)
    }

    #[test]
    fn counts_are_held_against_both_bounds() {
        let bounds = |least, most| Bounds { at_least: least, at_most: most, ..Bounds::default() };
        let hot = || Subject::Alarm("hot".into());
        assert_eq!(judged(hot(), bounds(Some(3.0), Some(3.0))), None);
        assert_eq!(judged(hot(), bounds(None, Some(2.0))).unwrap(), "it happened 3 times, first after 1m");
        assert_eq!(judged(Subject::Alarm("cold".into()), bounds(Some(1.0), None)).unwrap(), "it never happened");
    }

    #[test]
    fn within_counts_from_the_fault_that_is_named() {
        let bounds = |within_s| Bounds {
            at_least: Some(1.0),
            within: Some(Duration::from_secs(within_s)),
            after: Some(After::Fault("heat".into())),
            ..Bounds::default()
        };
        assert_eq!(judged(Subject::Alarm("hot".into()), bounds(300)), None);
        assert_eq!(judged(Subject::Alarm("hot".into()), bounds(299)).unwrap(), "it happened 2 times, first after 5m");
    }

    #[test]
    fn figures_and_what_stands_at_the_end_are_judged_as_they_are() {
        let least = |n| Bounds { at_least: Some(n), ..Bounds::default() };
        let never = Bounds { at_most: Some(0.0), ..Bounds::default() };
        assert_eq!(judged(Subject::Measure(Measure::UptimePct), least(99.0)), None);
        assert_eq!(judged(Subject::Measure(Measure::UptimePct), least(99.5)).unwrap(), "it is 99.0");
        assert!(judged(Subject::Measure(Measure::ChargeMinPct), least(1.0)).is_some());
        assert_eq!(judged(Subject::AlarmStands("hot".into()), never).unwrap(), "it stands");
    }
}
