//! Whether what a scenario's author expects came true: counted as moments happen, since a timeline keeps only so many
//! of them, and judged on the counts and the figures. It knows nothing of the world, and a run that could not show what
//! was asked (a fault that never came) is no failure.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::network::millis;
use super::report::{Measure, Summary, Unmet, What};
use super::scenario::{After, Bounds, Expectation, Scenario, Subject};
use crate::config::reader::nearest;
use crate::config::{Action, Rule};
use crate::engine::record::Status;

/// What a ladder says of a step after which the alarm was gone.
pub(super) const HEALED: &str = "HEALED";
/// What a ladder says when it has run out, and the name of that event.
const EXHAUSTED: &str = "EXHAUSTED";
pub(super) const LADDER_EXHAUSTED: &str = "ladder_exhausted";

/// How an act ends that root's policy doesn't let pass: it was not begun.
pub(super) const REJECTED: &str = "rejected";

/// Commands that are known to have ended: a long run must not fill the memory. One more than that counts each time that
/// it is answered.
const ENDED_MAX: usize = 100_000;

/// Commands that have ended, by their id.
#[derive(Debug, Default)]
pub(super) struct Ended(BTreeSet<String>);

impl Ended {
    /// A command has ended. Whether that is new: one that comes twice is answered twice, with one result. What has no
    /// id is always another.
    pub(super) fn is_new(&mut self, id: Option<&str>) -> bool {
        let Some(id) = id else { return true };
        if self.0.contains(id) {
            return false;
        }
        if self.0.len() < ENDED_MAX {
            self.0.insert(id.to_owned());
        }
        true
    }
}

/// What has come of each expectation so far.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    all: Vec<Tally>,
    /// Those of the configuration.
    rules: Vec<String>,
}

#[derive(Debug)]
struct Tally {
    expectation: Expectation,
    /// From when on something counts; `None`: after a fault that has not come yet.
    from: Option<u64>,
    ended: Ended,
    times: u64,
    in_time: u64,
    first: Option<u64>,
}

impl Tallies {
    pub(super) fn new(scenario: &Scenario, rules: &[Rule]) -> Self {
        let rules = rules.iter().map(|rule| rule.name.clone()).collect();
        Self { all: scenario.expect.iter().cloned().map(Tally::new).collect(), rules }
    }

    /// Something happened.
    pub(super) fn saw(&mut self, at_ms: u64, what: &What) {
        self.all.iter_mut().for_each(|tally| tally.saw(at_ms, what));
    }

    /// The expectations that were not met.
    pub(super) fn judge(self, summary: &Summary) -> Vec<Unmet> {
        let Self { all, rules } = self;
        let unmet = |tally: Tally| {
            let mut found = tally.found(summary)?;
            if tally.first.is_none() {
                found.push_str(&unknown(&tally.expectation.of, &rules).unwrap_or_default());
            }
            Some(Unmet { expectation: tally.expectation.text, found })
        };
        all.into_iter().filter_map(unmet).collect()
    }
}

/// Of an alarm that no rule can raise. Some scenarios are for one configuration alone.
fn unknown(of: &Subject, rules: &[String]) -> Option<String> {
    let (Subject::Alarm(wanted) | Subject::AlarmStands(wanted)) = of else { return None };
    if rules.contains(wanted) {
        return None;
    }
    let nearest = nearest(wanted, rules.iter().map(String::as_str));
    let hint = nearest.map(|rule| format!(": did you mean {rule:?}?")).unwrap_or_default();
    Some(format!("; the configuration has no rule named {wanted:?}{hint}"))
}

impl Tally {
    fn new(expectation: Expectation) -> Self {
        let from = match &expectation.bounds.after {
            None => Some(0),
            Some(After::Time(time)) => Some(millis(*time)),
            Some(After::Fault(_)) => None,
        };
        Self { expectation, from, ended: Ended::default(), times: 0, in_time: 0, first: None }
    }

    fn saw(&mut self, at: u64, what: &What) {
        let bounds = &self.expectation.bounds;
        if let (None, Some(After::Fault(fault)), What::FaultBegan { name, .. }) = (self.from, &bounds.after, what) {
            self.from = (name == fault).then_some(at);
        }
        if !is(&self.expectation.of, what) {
            return;
        }
        if let What::Result { id, .. } = what {
            if !self.ended.is_new(id.as_deref()) {
                return;
            }
        }
        let Some(from) = self.from.filter(|from| at >= *from) else { return };
        self.times += 1;
        self.first.get_or_insert(at);
        self.in_time += u64::from(bounds.within.is_none_or(|within| at <= from.saturating_add(millis(within))));
    }

    /// What was found instead; `None`: it was met.
    fn found(&self, summary: &Summary) -> Option<String> {
        let bounds = &self.expectation.bounds;
        match &self.expectation.of {
            Subject::Measure(measure) => figure(*measure, bounds, summary),
            Subject::AlarmStands(rule) => stands(rule, bounds, summary),
            happening => self.counted(happening, bounds),
        }
    }

    /// How often something happened in the time that counts.
    fn counted(&self, happening: &Subject, bounds: &Bounds) -> Option<String> {
        // Nothing is said of what comes after a fault that never came.
        let from = self.from?;
        #[expect(clippy::cast_precision_loss, reason = "moments of a run")]
        if holds(self.in_time as f64, bounds) {
            return None;
        }
        let expected = format!("{} expected{}", wanted(bounds), window(bounds));
        let verb = verb(happening);
        let Some(first) = self.first else { return Some(format!("never {verb}; {expected}")) };
        let since = match bounds.after {
            None => format!("after {}", human(first)),
            Some(_) => format!("{} later", human(first.saturating_sub(from))),
        };
        let in_time =
            if self.in_time == self.times { String::new() } else { format!(", {} of them in time", self.in_time) };
        Some(format!("{verb} {}, the first {since}{in_time}; {expected}", often(self.times)))
    }
}

fn figure(measure: Measure, bounds: &Bounds, summary: &Summary) -> Option<String> {
    let Some(value) = measure.value(summary) else {
        return Some(format!("there is no {} in this run", measure.word()));
    };
    if holds(value, bounds) {
        return None;
    }
    // Three decimals: enough to see by how much it was missed, and no more.
    Some(format!("is {}; {} expected", (value * 1_000.0).round() / 1_000.0, wanted(bounds)))
}

fn stands(rule: &str, bounds: &Bounds, summary: &Summary) -> Option<String> {
    let stands = summary.standing.iter().any(|standing| standing == rule);
    if holds(f64::from(u8::from(stands)), bounds) {
        return None;
    }
    let raised = summary.alarms.get(rule).copied().unwrap_or_default();
    let word = if stands { "stands" } else { "doesn't stand" };
    Some(format!("{word} at the end, raised {} in all", often(raised)))
}

/// Whether this is what an expectation counts.
fn is(happening: &Subject, what: &What) -> bool {
    match (happening, what) {
        (Subject::Alarm(wanted), What::Alarm { rule, raised: true, .. }) => rule == wanted,
        (Subject::Remedy(wanted), What::Acted { action, status, .. }) => action == wanted && *status != REJECTED,
        // It is the agent's own, and no act on the gateway.
        (Subject::Remedy(wanted), What::Remedy { action, status, .. }) => {
            action == wanted && action == Action::SavePower.word() && status == Status::Succeeded.word()
        }
        (Subject::Healed(wanted), What::Remedy { action, status, .. }) => action == wanted && status == HEALED,
        (Subject::Event(wanted), What::Event { name, .. }) => name == wanted,
        (Subject::Event(wanted), What::Remedy { status, .. }) => wanted == LADDER_EXHAUSTED && status == EXHAUSTED,
        (Subject::Command { name, status: wanted }, What::Result { command: Some(command), status, .. }) => {
            let under_way = [Status::Queued, Status::InProgress].iter().any(|it| it.word() == *status);
            name == command && wanted.as_ref().map_or(!under_way, |wanted| wanted == status)
        }
        _ => false,
    }
}

fn verb(happening: &Subject) -> String {
    match happening {
        Subject::Alarm(_) | Subject::AlarmStands(_) => "raised".to_owned(),
        Subject::Remedy(_) => "tried".to_owned(),
        Subject::Healed(_) => "helped".to_owned(),
        Subject::Event(_) | Subject::Measure(_) => "recorded".to_owned(),
        Subject::Command { status: None, .. } => "ended".to_owned(),
        Subject::Command { status: Some(status), .. } => format!("ended {status}"),
    }
}

fn holds(value: f64, bounds: &Bounds) -> bool {
    let range: RangeInclusive<f64> = bounds.at_least.unwrap_or(f64::MIN)..=bounds.at_most.unwrap_or(f64::MAX);
    range.contains(&value)
}

fn wanted(bounds: &Bounds) -> String {
    match (bounds.at_least, bounds.at_most) {
        (Some(least), Some(most)) if least >= most => format!("exactly {least}"),
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("at least {least}"),
        (None, Some(most)) => format!("at most {most}"),
        (None, None) => "anything".to_owned(),
    }
}

/// The time that counts, in words that follow `expected`.
fn window(bounds: &Bounds) -> String {
    let within = bounds.within.map(|within| format!(" within {}", human(millis(within)))).unwrap_or_default();
    let after = match &bounds.after {
        None => String::new(),
        Some(After::Time(time)) => format!(" after {}", human(millis(*time))),
        Some(After::Fault(name)) => format!(" after {name}"),
    };
    within + &after
}

fn often(times: u64) -> String {
    if times == 1 { "once".to_owned() } else { format!("{times} times") }
}

fn human(ms: u64) -> String {
    humantime::format_duration(Duration::from_secs(ms / 1_000)).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::report::Moment;
    use super::*;

    fn at(at_s: u64, what: What) -> Moment {
        Moment { at_ms: at_s * 1_000, boot: 1, what }
    }

    fn hot(raised: bool) -> What {
        What::Alarm { rule: "hot".into(), raised, severity: "warning", value: None, threshold: None }
    }

    fn ping(id: &str, status: &'static str) -> What {
        What::Result { id: Some(id.into()), command: Some("ping".into()), status, reason: None }
    }

    fn remedy(status: &str) -> What {
        let (id, trigger, action) = ("r1".into(), "rule:hot".into(), "restart_unit".into());
        What::Remedy { id, trigger, action, status: status.into(), reason: None }
    }

    /// A day with a hot hour: raised a minute in, then the fault, then raised 5 and 65 minutes later.
    fn timeline() -> Vec<Moment> {
        vec![
            at(60, hot(true)),
            at(90, hot(false)),
            at(100, What::FaultBegan { name: "sun".into(), detail: "heat for 1h".into() }),
            at(400, hot(true)),
            at(401, remedy("SUCCEEDED")),
            at(500, remedy(HEALED)),
            at(900, remedy(EXHAUSTED)),
            at(4_000, hot(true)),
            at(5_000, ping("c1", "IN_PROGRESS")),
            at(5_001, ping("c1", "SUCCEEDED")),
            at(5_002, ping("c2", "REJECTED")),
            at(6_000, ping("c1", "SUCCEEDED")),
        ]
    }

    fn judged(of: Subject, bounds: Bounds) -> Option<String> {
        let summary = Summary {
            uptime_pct: 99.123_456,
            standing: vec!["hot".into()],
            alarms: [("hot".to_owned(), 3)].into(),
            ..Summary::default()
        };
        let mut tally = Tally::new(Expectation { of, bounds, text: String::new() });
        timeline().iter().for_each(|moment| tally.saw(moment.at_ms, &moment.what));
        tally.found(&summary)
    }

    fn bounds(at_least: Option<f64>, at_most: Option<f64>) -> Bounds {
        Bounds { at_least, at_most, ..Bounds::default() }
    }

    fn alarm() -> Subject {
        Subject::Alarm("hot".into())
    }

    fn after_sun(at_least: Option<f64>, at_most: Option<f64>, within_s: u64) -> Bounds {
        let (within, after) = (Some(Duration::from_secs(within_s)), Some(After::Fault("sun".into())));
        Bounds { at_least, at_most, within, after }
    }

    #[test]
    fn counts_are_held_against_both_bounds_and_told_with_their_numbers() {
        assert_eq!(judged(alarm(), bounds(Some(3.0), Some(3.0))), None);
        let found = judged(alarm(), bounds(None, Some(2.0)));
        assert_eq!(found.unwrap(), "raised 3 times, the first after 1m; at most 2 expected");
        let found = judged(alarm(), bounds(Some(4.0), Some(5.0)));
        assert_eq!(found.unwrap(), "raised 3 times, the first after 1m; 4 to 5 expected");
        let found = judged(Subject::Alarm("cold".into()), bounds(Some(1.0), None));
        assert_eq!(found.unwrap(), "never raised; at least 1 expected");
    }

    #[test]
    fn an_alarm_that_no_rule_of_the_configuration_can_raise_is_told_as_that() {
        let rules = ["app-crashes".to_owned(), "hot".to_owned()];
        let told = |of: Subject| unknown(&of, &rules);
        assert_eq!((told(alarm()), told(Subject::Healed("reboot".into()))), (None, None));
        let expected = "; the configuration has no rule named \"app-crashs\": did you mean \"app-crashes\"?";
        assert_eq!(told(Subject::Alarm("app-crashs".into())).unwrap(), expected);
        let expected = "; the configuration has no rule named \"cold\"";
        assert_eq!(told(Subject::AlarmStands("cold".into())).unwrap(), expected);
    }

    #[test]
    fn only_what_comes_within_the_time_after_the_fault_counts() {
        assert_eq!(judged(alarm(), after_sun(Some(1.0), Some(1.0), 300)), None);
        let found = judged(alarm(), after_sun(Some(1.0), None, 299));
        assert_eq!(
            found.unwrap(),
            "raised 2 times, the first 5m later, 0 of them in time; at least 1 expected within 4m 59s after sun"
        );
        assert_eq!(judged(alarm(), after_sun(None, Some(0.0), 299)), None, "a silence can be expected too");
        assert!(judged(alarm(), after_sun(None, Some(0.0), 300)).is_some());
        let late = Bounds { after: Some(After::Time(Duration::from_secs(4_001))), ..bounds(Some(1.0), None) };
        assert_eq!(judged(alarm(), late).unwrap(), "never raised; at least 1 expected after 1h 6m 41s");
    }

    #[test]
    fn nothing_is_held_against_a_run_in_which_the_fault_never_came() {
        let after = Bounds { after: Some(After::Fault("snow".into())), ..bounds(Some(1.0), None) };
        assert_eq!(judged(alarm(), after), None);
    }

    #[test]
    fn a_command_counts_once_when_it_has_ended_and_a_remedy_helped_when_it_was_found_so() {
        let ping = |status: Option<&str>| Subject::Command { name: "ping".into(), status: status.map(Into::into) };
        assert_eq!(judged(ping(None), bounds(Some(2.0), Some(2.0))), None);
        assert_eq!(judged(ping(Some("SUCCEEDED")), bounds(Some(1.0), Some(1.0))), None);
        let found = judged(ping(Some("SUCCEEDED")), bounds(Some(2.0), None));
        assert_eq!(found.unwrap(), "ended SUCCEEDED once, the first after 1h 23m 21s; at least 2 expected");
        let late = Bounds { after: Some(After::Time(Duration::from_secs(5_500))), ..bounds(None, Some(0.0)) };
        assert_eq!(judged(ping(None), late), None, "the answer that is repeated is no other command");
        assert_eq!(judged(Subject::Healed("restart_unit".into()), bounds(Some(1.0), Some(1.0))), None);
        assert_eq!(judged(Subject::Event(LADDER_EXHAUSTED.into()), bounds(Some(1.0), Some(1.0))), None);
    }

    #[test]
    fn what_was_only_refused_was_not_tried_and_power_that_was_saved_was() {
        let acted = |status| {
            let [action, target, trigger] = ["restart_unit", "unit:app.service", "rule:hot"].map(str::to_owned);
            What::Acted { action, target, trigger, status }
        };
        let saves = |status: Status| {
            let (id, trigger, action) = ("low-1".into(), "rule:low".into(), "save_power".into());
            What::Remedy { id, trigger, action, status: status.word().into(), reason: None }
        };
        let tried = |action: &str, seen: &[What]| {
            let of = Subject::Remedy(action.into());
            let mut tally = Tally::new(Expectation { of, bounds: bounds(None, None), text: String::new() });
            seen.iter().for_each(|what| tally.saw(1_000, what));
            tally.times
        };
        assert_eq!(tried("restart_unit", &[acted(REJECTED), acted("failed"), acted("succeeded")]), 2);
        let of_power = [Status::Rejected, Status::InProgress, Status::Succeeded].map(saves);
        assert_eq!(tried("save_power", &of_power), 1);
    }

    #[test]
    fn a_run_of_very_many_commands_forgets_none_that_it_knows_and_remembers_no_more() {
        let mut ended = Ended::default();
        assert!((0..=ENDED_MAX).all(|n| ended.is_new(Some(&n.to_string()))));
        assert!(!ended.is_new(Some("0")));
        assert!(ended.is_new(Some(&ENDED_MAX.to_string())), "there was no room for it");
        assert_eq!(ended.0.len(), ENDED_MAX);
    }

    #[test]
    fn figures_and_what_stands_at_the_end_are_judged_as_they_are() {
        let uptime = |least| judged(Subject::Measure(Measure::UptimePct), bounds(Some(least), None));
        assert_eq!(uptime(99.0), None);
        assert_eq!(uptime(99.5).unwrap(), "is 99.123; at least 99.5 expected");
        let charge = judged(Subject::Measure(Measure::ChargeMinPct), bounds(Some(1.0), None));
        assert_eq!(charge.unwrap(), "there is no charge_min_pct in this run");
        let stands = judged(Subject::AlarmStands("hot".into()), bounds(None, Some(0.0)));
        assert_eq!(stands.unwrap(), "stands at the end, raised 3 times in all");
        assert_eq!(judged(Subject::AlarmStands("cold".into()), bounds(None, Some(0.0))), None);
    }
}
