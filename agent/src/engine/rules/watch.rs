//! One rule and how its alarm stands: what its readings have said so far, for how long, and what the fleet was told of
//! it. It turns from cleared to raised and back; a round that says nothing leaves it as it is. Knows no other rule.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::detector::{self, Detector, Seen};
use super::verdict::{Test, Verdict, is_same};
use super::{Alarm, Change, EARLY_PART, GAP_ROUNDS_MAX, Look, Round};
use crate::config::{Rule, RuleTest, Share};
use crate::engine::metric::{Metric, Value};
use crate::engine::observation::Severity;
use crate::engine::record::{Event, EventKind, Field, Stamp};
use crate::engine::time::{Mono, Unix};

/// Events that one rule may make within an hour: after that an alarm that flaps is told as raised until it is quiet.
pub const EVENTS_PER_HOUR_MAX: usize = 12;
const HOUR: Duration = Duration::from_secs(3600);
/// How long a verdict is waited for where there are readings: two means of a detector.
const VERDICT_AWAITED: Duration = Duration::from_secs(600);
/// Readings over which the rate of a gauge is taken: five minutes at the default interval.
pub(super) const RATE_READINGS_MAX: usize = 30;
/// With fewer there is no rate: five in each third, so that two wrong ones decide nothing.
pub(super) const RATE_READINGS_MIN: usize = 15;
/// The severity of a cleared alarm: normal, but what ends a raised one must not be filtered away with the chatter.
const CLEARED: Severity = Severity::Notice;

/// Why an alarm ends whose rule is no longer in the config, watches something else, or can't be raised any more.
const RULE_REMOVED: &str = "rule_removed";

/// One rule and how it stands.
#[derive(Debug)]
pub(super) struct Watch {
    rule: Rule,
    metric: Metric,
    label: Option<Box<str>>,
    test: Test,
    /// What finds anomalies, for a rule that asks for that.
    detector: Option<Detector>,
    raised: bool,
    told: bool,
    /// When the test began to hold, or of what is missing the last reading was, for the alarm that is raised or was the
    /// last to be.
    since: Stamp,
    /// What was judged last.
    value: Option<Value>,
    /// Where a detector has put the limit for it.
    limit: Option<Value>,
    /// Since when what would raise the alarm, or clear a raised one, has held.
    holding: Option<Mono>,
    /// When there was last something to judge by.
    heard: Mono,
    /// Rounds since then.
    silent: u32,
    /// When there was last a verdict: a detector has one only now and then.
    judged: Option<Mono>,
    /// The last round, and after how long without another one it says nothing of now.
    round: Option<(Mono, Duration)>,
    /// What was counted since it was last judged.
    counted: Counted,
    /// When there was last a reading, for `missing_for`.
    read: Mono,
    /// The latest readings, for the rate of a gauge.
    window: VecDeque<(Mono, f64)>,
    /// The latest readings, and which of them were bad, for a rule that looks back at so many.
    recent: VecDeque<(Mono, bool)>,
    /// When events were made, within the last hour.
    events: VecDeque<Mono>,
}

/// When a round is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Stamp,
    /// `None` while the clock isn't to be trusted.
    pub(super) wall: Option<Unix>,
    /// After so long a time without anything to judge by, what held before counts no more.
    pub(super) gap: Duration,
    /// How far apart rounds are, and by how much one may come too early.
    pub(super) interval: Duration,
    pub(super) early: Duration,
    /// The time for which limits of what is counted are meant.
    pub(super) counted_over: Duration,
}

/// What was counted over intervals of reports.
#[derive(Debug, Default, Clone, Copy)]
struct Counted {
    number: f64,
    over_s: f64,
}

impl Moment {
    /// Whether so long a time has passed. None has at the first round of it.
    fn is_after(&self, since: Mono, time: Duration) -> bool {
        self.now.mono.since(since) + self.early.min(time / 2) >= time
    }
}

impl Watch {
    /// `None` for a metric that there isn't.
    pub(super) fn new(rule: &Rule, now: Stamp) -> Option<Self> {
        let (metric, label) = Metric::find(&rule.metric)?;
        Some(Self {
            metric,
            label: label.map(Into::into),
            test: Test::of(rule),
            detector: if let RuleTest::Anomaly(kind) = rule.test {
                Some(Detector::new(kind, metric, &rule.metric))
            } else {
                None
            },
            rule: rule.clone(),
            raised: false,
            told: false,
            since: now,
            value: None,
            limit: None,
            holding: None,
            heard: now.mono,
            silent: 0,
            judged: None,
            round: None,
            counted: Counted::default(),
            read: now.mono,
            window: VecDeque::new(),
            recent: VecDeque::new(),
            events: VecDeque::new(),
        })
    }

    /// Takes over how an earlier rule of this name stood; its clocks only where they measured the same.
    pub(super) fn inherit(&mut self, before: Self) {
        if before.test == self.test {
            *self = Self { rule: self.rule.clone(), ..before };
        } else {
            (self.raised, self.told, self.since) = (before.raised, before.told, before.since);
            self.events = before.events;
        }
    }

    /// Tells an alarm that stands anew where its rule has another severity than the one `before`, if the bound allows
    /// it.
    pub(super) fn tell_severity(&mut self, now: Mono, before: Severity) -> Option<Event> {
        if !self.told || !self.raised || self.rule.severity == before {
            return None;
        }
        self.told = false;
        let event = self.tell(now);
        self.told = true;
        event
    }

    /// Goes on with what its detector learned before a restart. False if that is of no use to it.
    pub(super) fn recall(&mut self, learned: &[u8]) -> bool {
        self.detector.as_mut().is_some_and(|detector| detector.restore(learned))
    }

    pub(super) const fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Whether a round of this kind is where it is judged.
    pub(super) fn is_judged_in(&self, round: Round<'_>) -> bool {
        round.holds(self.metric)
    }

    /// The alarm stood when the agent ended, and the fleet was told this; anew where the rule has another severity now.
    pub(super) fn stands(&mut self, since: Stamp, told: &Event) {
        let said = |key| if let Some(Field::Value(value)) = told.field(key) { Some(value.clone()) } else { None };
        (self.value, self.limit) = (said("value"), said("threshold"));
        (self.raised, self.told, self.since) = (true, told.severity == self.rule.severity, since);
    }

    /// What its detector has learned.
    pub(super) fn learned(&self, now: Mono) -> Option<Bytes> {
        Some(self.detector.as_ref()?.save(now))
    }

    /// Whether the readings say that the alarm is raised.
    pub(super) const fn is_raised(&self) -> bool {
        self.raised
    }

    /// Whether the fleet is still to be told how the alarm stands.
    pub(super) const fn is_untold(&self) -> bool {
        self.told != self.raised
    }

    /// The alarm, if it stands as far as the fleet was told.
    pub(super) fn alarm(&self) -> Option<Alarm<'_>> {
        self.told.then_some(Alarm {
            rule: &self.rule.name,
            severity: self.rule.severity,
            metric: &self.rule.metric,
            since: self.since,
        })
    }

    /// As [`Rules::look`](super::Rules::look).
    pub(super) fn look(&self, now: Mono, after: Option<Mono>) -> Look {
        if !self.raised {
            return Look::Well;
        }
        let is_later = |at: Mono| after.is_none_or(|after| at > after);
        let Some((_, gap)) = self.round.filter(|(at, gap)| is_later(*at) && now.since(*at) <= *gap) else {
            return Look::Unsure;
        };
        let says_nothing = after.is_some_and(|after| now.since(after) > gap.max(VERDICT_AWAITED));
        let is_known = match self.test {
            // What was read before it makes a rate, too.
            Test::Rate(_) if !self.metric.is_counted() => {
                self.window.len() >= RATE_READINGS_MIN && self.window.iter().all(|(at, _)| is_later(*at))
            }
            _ => self.judged.is_some_and(is_later) || says_nothing,
        };
        if (is_known && self.holding.is_none()) || self.silent >= GAP_ROUNDS_MAX { Look::Bad } else { Look::Unsure }
    }

    /// Whether the alarm was raised or cleared by this round.
    pub(super) fn judge(&mut self, moment: Moment, round: Round<'_>) -> bool {
        self.round = Some((moment.now.mono, moment.gap));
        self.silent = self.silent.saturating_add(1);
        let Some(verdict) = self.verdict(moment, round) else { return false };
        let now = moment.now;
        self.judged = Some(now.mono);
        if let Some(share) = self.rule.share.filter(|_| !self.raised) {
            return self.tally(now, share, verdict);
        }
        let (turns, patience) = if self.raised {
            (Verdict::Good, self.rule.clear_for.unwrap_or_default())
        } else {
            (Verdict::Bad, self.rule.hold)
        };
        if verdict != turns {
            self.holding = None;
            return false;
        }
        let since = *self.holding.get_or_insert(now.mono);
        if !moment.is_after(since, patience) {
            return false;
        }
        self.holding = None;
        self.raised = !self.raised;
        if self.raised {
            let since = if matches!(self.test, Test::Missing(_)) { self.read } else { since };
            self.since = Stamp { boot: now.boot, mono: since };
        }
        true
    }

    /// Makes the event that brings the fleet up to date, if there is one to be made and the bound allows it.
    pub(super) fn tell(&mut self, now: Mono) -> Option<Event> {
        if self.told == self.raised || self.may_tell_at().is_some_and(|at| at > now) {
            return None;
        }
        self.told = self.raised;
        self.events.push_back(now);
        if self.events.len() > EVENTS_PER_HOUR_MAX {
            self.events.pop_front();
        }
        Some(self.event())
    }

    /// When the bound allows the next event; `None`: at once. An alarm is told as cleared only if there is room to tell
    /// that it was raised again: while it flaps the fleet knows it as raised, and a raise never waits.
    pub(super) fn may_tell_at(&self) -> Option<Mono> {
        let room = if self.raised { 1 } else { 2 };
        let surplus = (self.events.len() + room).checked_sub(EVENTS_PER_HOUR_MAX + 1)?;
        self.events.get(surplus).map(|at| at.after(HOUR))
    }

    pub(super) fn change(&self, event: Option<Event>) -> Change {
        Change {
            rule: self.rule.name.clone(),
            severity: self.rule.severity,
            remedy: self.rule.remedy.clone(),
            raised: self.raised,
            event,
        }
    }

    /// The rule is gone, and with it the alarm.
    pub(super) fn removed(mut self) -> Option<Change> {
        if !self.raised && !self.told {
            return None;
        }
        self.raised = false;
        let event = self.told.then(|| self.event().with("reason", RULE_REMOVED));
        Some(self.change(event))
    }

    /// Whether enough of the latest readings were bad to raise the alarm.
    fn tally(&mut self, now: Stamp, share: Share, verdict: Verdict) -> bool {
        self.recent.push_back((now.mono, verdict == Verdict::Bad));
        while self.recent.len() > share.readings {
            self.recent.pop_front();
        }
        let mut bad = self.recent.iter().filter(|(_, bad)| *bad);
        let Some((first, _)) = bad.next().copied() else { return false };
        if bad.count() + 1 < share.of {
            return false;
        }
        self.raised = true;
        self.since = Stamp { boot: now.boot, mono: first };
        self.recent.clear();
        true
    }

    /// `None` if the round says nothing: then everything stays as it is.
    fn verdict(&mut self, moment: Moment, round: Round<'_>) -> Option<Verdict> {
        let Moment { now: Stamp { mono: now, .. }, wall, gap, .. } = moment;
        let mut value = round.find(self.metric, self.label.as_deref());
        let mut a_second = None;
        if self.metric.is_counted() && !matches!(self.test, Test::Missing(_)) {
            let (counted, told) = self.count(moment, round, value?)?;
            (a_second, value) = (Some(counted.a_second()), Some(told));
        }
        match self.test {
            Test::Anomaly(kind) => {
                let seen = match a_second {
                    Some(a_second) => Seen::PerMinute(a_second * 60.0),
                    None => round.seen(kind, self.metric, self.label.as_deref())?,
                };
                self.hear(now, gap);
                let at = detector::Moment { mono: now, wall, stands: self.raised };
                let finding = self.detector.as_mut()?.judge(kind, seen, at)?;
                (self.value, self.limit) = (Some(finding.value), Some(finding.threshold));
                Some(finding.verdict)
            }
            Test::Missing(limit) => self.absence(moment, limit, value),
            Test::Equals(ref wanted) => {
                let is_equal = is_same(value.as_ref()?, wanted);
                self.hear(now, gap);
                self.value = value;
                Some(if is_equal { Verdict::Bad } else { Verdict::Good })
            }
            Test::Limit(limit) => {
                let verdict = limit.verdict(value.as_ref()?.number()?);
                self.hear(now, gap);
                self.value = value;
                Some(verdict)
            }
            Test::Rate(limit) => {
                let number = value?.number()?;
                self.hear(now, gap);
                let rate = match a_second {
                    Some(a_second) => a_second,
                    None => self.slope(moment, number)?,
                };
                self.value = Some(Value::Float(rate));
                Some(limit.verdict(rate))
            }
        }
    }

    /// What was counted, once it is enough to be judged, and the number that is held against a limit. `last`: what was
    /// counted in this round.
    fn count(&mut self, moment: Moment, round: Round<'_>, last: Value) -> Option<(Counted, Value)> {
        let (number, interval_s) = (last.number()?, round.interval_s()?);
        self.hear(moment.now.mono, moment.gap);
        let meant_for = self.test.counts_over(moment.counted_over);
        let all = self.counted.add(number, interval_s, meant_for)?;
        Some((all, all.told(last, meant_for)))
    }

    fn absence(&mut self, moment: Moment, limit: Duration, value: Option<Value>) -> Option<Verdict> {
        let now = moment.now.mono;
        // That there was no reading while nobody looked says nothing of the sensor.
        if self.hear(now, moment.gap) || value.is_some() {
            self.read = now;
        }
        self.value = value;
        if self.value.is_some() {
            return Some(Verdict::Good);
        }
        // Not for long enough is no reading either: it leaves an alarm that was raised before a restart as it stands.
        moment.is_after(self.read, limit).then_some(Verdict::Bad)
    }

    /// There is something to judge by. True after a gap: what held before it may not have held throughout.
    fn hear(&mut self, now: Mono, gap: Duration) -> bool {
        let is_late = now.since(self.heard) > gap;
        if is_late {
            self.holding = None;
            self.counted = Counted::default();
            self.window.clear();
            self.recent.clear();
        }
        (self.heard, self.silent) = (now, 0);
        is_late
    }

    /// The rise a second over the latest readings: from the median of the oldest third to the median of the newest
    /// (Tukey's resistant line), so that neither noise between neighbours nor a wrong reading makes a rate. What comes
    /// sooner than readings are apart otherwise, as in quarantine, would make one of a gauge's single step.
    fn slope(&mut self, moment: Moment, number: f64) -> Option<f64> {
        let now = moment.now.mono;
        if self.window.back().is_some_and(|(last, _)| !moment.is_after(*last, moment.interval)) {
            return None;
        }
        if self.window.len() >= RATE_READINGS_MAX {
            self.window.pop_front();
        }
        self.window.push_back((now, number));
        if self.window.len() < RATE_READINGS_MIN {
            return None;
        }
        let third = self.window.len() / 3;
        let (from, old) = middle(self.window.iter().take(third))?;
        let (to, new) = middle(self.window.iter().rev().take(third))?;
        let apart = to.since(from).as_secs_f64();
        (apart > 0.0).then(|| (new - old) / apart)
    }

    fn event(&self) -> Event {
        let severity = if self.raised { self.rule.severity } else { CLEARED };
        alarm(severity, &self.rule.name, self.raised, &self.rule.metric)
            .with_some("value", self.value.clone())
            .with_some("threshold", self.test.threshold().or_else(|| self.limit.clone()))
            .with("since", self.since)
            .with("detector", self.test.detector())
    }
}

impl Counted {
    /// Takes what was counted in an interval of reports. `None` as long as all is not yet enough to be judged by what
    /// is meant for so long a time: two in twenty seconds are not six a minute.
    fn add(&mut self, number: f64, interval_s: f64, meant_for: Duration) -> Option<Self> {
        self.number += number;
        self.over_s += interval_s;
        let enough_s = (meant_for - meant_for / EARLY_PART).as_secs_f64();
        (self.over_s >= enough_s).then(|| std::mem::take(self))
    }

    /// The number that is held against a limit: what was counted for longer is brought down to it. `last`: what was
    /// added last.
    fn told(self, last: Value, meant_for: Duration) -> Value {
        let most_s = (meant_for + meant_for / EARLY_PART).as_secs_f64();
        if self.over_s > most_s {
            return Value::Float(self.a_second() * meant_for.as_secs_f64());
        }
        let is_all = last.number().is_some_and(|number| number >= self.number);
        if is_all { last } else { Value::Float(self.number) }
    }

    fn a_second(self) -> f64 {
        self.number / self.over_s
    }
}

/// The end of an alarm whose rule, as it was when the alarm was told as `raised`, is no longer in the config.
pub(super) fn removed(raised: &Event, metric: &str, since: Stamp) -> Event {
    alarm(CLEARED, &raised.name, false, metric)
        .with_some("threshold", raised.field("threshold").cloned())
        .with("since", since)
        .with_some("detector", raised.field("detector").cloned())
        .with("reason", RULE_REMOVED)
}

fn alarm(severity: Severity, rule: &str, raised: bool, metric: &str) -> Event {
    Event::new(severity, EventKind::Alarm, rule)
        .with("rule", rule)
        .with("state", if raised { "raised" } else { "cleared" })
        .with("metric", metric)
}

/// The median of the times and of the readings.
fn middle<'a>(readings: impl Iterator<Item = &'a (Mono, f64)>) -> Option<(Mono, f64)> {
    let (mut times, mut numbers): (Vec<Mono>, Vec<f64>) = readings.copied().unzip();
    times.sort_unstable();
    numbers.sort_unstable_by(f64::total_cmp);
    Some((*times.get(times.len() / 2)?, *numbers.get(numbers.len() / 2)?))
}
