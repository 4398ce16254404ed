//! Judges the gateway by the rules of its config: a reading beyond its limit for long enough raises an alarm, one that is
//! well again for long enough clears it. What is missing is never read as zero: it raises only `missing_for`, and leaves
//! every other alarm as it stands. Readings are judged as they come; what is counted over a report interval, and what the
//! agent knows of itself, when the interval closes. Decides nothing of remedies, and writes nothing: it says what changed
//! and what the fleet is to be told.
//!
//! An alarm has two faces. `raised` is what the readings say, for those who act on it. `told` is what the fleet was last
//! told and what is stored: it follows `raised` within the bound on events, and stays at raised while an alarm flaps.

mod detector;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::keyed::{ALARM_KEY, LEARNED_KEY, Write, encode};
use super::metric::{Metric, Rollup, Value};
use super::observation::{Observation, Severity};
use super::record::{Body, Event, EventKind, Field, Record, Sample, Stamp};
use super::time::{Mono, Unix};
use crate::config::{Anomaly, AttributeValue, Rule, RuleTest, Share};
use detector::{Detector, Seen};

/// How often what was learned is written: what a power cut costs of it, against the wear of the flash.
const SAVED_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Events that one rule may make within an hour: after that an alarm that flaps is told as raised until it is quiet.
pub const EVENTS_PER_HOUR_MAX: usize = 12;
const HOUR: Duration = Duration::from_secs(3600);
/// Of what lies more than so many rounds back nothing is known to have held since: `for` and `clear_for` begin anew.
const GAP_ROUNDS_MAX: u32 = 3;
/// How long a verdict is waited for where there are readings: two means of a detector.
const VERDICT_AWAITED: Duration = Duration::from_secs(600);
/// Readings over which the rate of a gauge is taken: five minutes at the default interval.
const RATE_READINGS_MAX: usize = 30;
/// With fewer there is no rate: five in each third, so that two wrong ones decide nothing.
const RATE_READINGS_MIN: usize = 15;
/// The severity of a cleared alarm: normal, but what ends a raised one must not be filtered away with the chatter.
const CLEARED: Severity = Severity::Notice;
/// What the agent adds to a sample when its interval closes, beside counts: no round of collection holds these.
pub(super) const OWN_GAUGES: [Metric; 7] = [
    Metric::AgentVersion,
    Metric::AgentOutboxRecords,
    Metric::AgentOutboxBytes,
    Metric::AgentDropped,
    Metric::AgentDrainRemaining,
    Metric::LinkBrokerRtt,
    Metric::LinkDns,
];

/// The rules, and how their alarms stand.
#[derive(Debug, Default)]
pub struct Rules {
    watches: BTreeMap<String, Watch>,
    untold: u64,
    /// When what was learned was last written.
    saved: Mono,
}

/// An alarm was raised or cleared.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The rule's name.
    pub rule: String,
    /// The rule's severity, also where the alarm is cleared.
    pub severity: Severity,
    /// The ladder that the rule names.
    pub remedy: Option<String>,
    /// Raised, else cleared.
    pub raised: bool,
    /// What the fleet is told; `None`: it was told enough of this alarm within the hour.
    pub event: Option<Event>,
}

/// An alarm that stands, as the fleet was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm<'a> {
    /// The rule's name.
    pub rule: &'a str,
    /// The rule's severity.
    pub severity: Severity,
    /// What it watches, as the config names it.
    pub metric: &'a str,
    /// When its test began to hold.
    pub since: Stamp,
}

/// How a rule's alarm looks to whoever is about to act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It is not raised.
    Well,
    /// It is raised, and that was judged since, or nothing says otherwise for long enough.
    Bad,
    /// It is raised, but the next rounds may say otherwise: none was judged since, or its readings have begun to be well.
    Unsure,
}

/// What there is to judge.
#[derive(Debug, Clone, Copy)]
pub enum Round<'a> {
    /// A round of collection; `None` if it brought no readings.
    Observed(Option<&'a Observation>),
    /// A report interval that ran its whole length; `None` if nothing was observed in it.
    Reported(Option<&'a Sample>),
}

/// What the store holds of an alarm: the event that the fleet was told last, and its number in the log. It is written
/// before the event is: a number that the log never came to says that the event was lost, and has to be told again.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
struct Told {
    #[n(0)]
    seq: u64,
    #[n(1)]
    record: Record,
}

/// What is to be put in order after a restart.
#[derive(Debug, Default, PartialEq)]
pub struct Leftovers {
    /// Events that came into the log, and their numbers there.
    pub told: Vec<(u64, Record)>,
    /// Events that a crash took on their way to the log.
    pub again: Vec<Record>,
    /// Alarms whose rule is gone.
    pub cleared: Vec<Event>,
    /// Keys in the store that are of no more use.
    pub forget: Vec<String>,
}

impl Rules {
    /// Begins with the alarms that stood when the agent ended. `events_last` is the highest number that the log of
    /// events ever held.
    #[must_use]
    pub fn new(rules: &[Rule], now: Stamp, state: &[(String, Bytes)], events_last: u64) -> (Self, Leftovers) {
        let mut watches = watches(rules, now);
        let mut leftovers = Leftovers::default();
        for (key, value) in state {
            if let Some(name) = key.strip_prefix(LEARNED_KEY) {
                if !watches.get_mut(name).is_some_and(|watch| watch.recall(value)) {
                    leftovers.forget.push(key.clone());
                }
            }
            let Some(name) = key.strip_prefix(ALARM_KEY) else { continue };
            match minicbor::decode::<Told>(value).ok().and_then(|told| Saved::read(told, events_last)) {
                Some(saved) => saved.restore(key, name, watches.get_mut(name), &mut leftovers),
                None => leftovers.forget.push(key.clone()),
            }
        }
        (Self { watches, untold: 0, saved: now.mono }, leftovers)
    }

    /// Takes over other rules. Those that still watch the same metric keep how they stand; the alarms of the others end.
    pub fn reconfigure(&mut self, rules: &[Rule], now: Stamp) -> Vec<Change> {
        let before = std::mem::replace(&mut self.watches, watches(rules, now));
        let mut changes = Vec::new();
        for (name, watch) in before {
            match self.watches.get_mut(&name).filter(|heir| heir.rule.metric == watch.rule.metric) {
                Some(heir) => heir.inherit(watch),
                None => changes.extend(watch.removed()),
            }
        }
        changes
    }

    /// Judges a round. `interval` is how far apart the rounds of this kind are; `wall` is there if the clock is trusted.
    pub fn judge(&mut self, now: Stamp, wall: Option<Unix>, interval: Duration, round: Round<'_>) -> Vec<Change> {
        let moment = Moment { now, wall, gap: interval.saturating_mul(GAP_ROUNDS_MAX) };
        let mut changes = Vec::new();
        for watch in self.watches.values_mut().filter(|watch| round.holds(watch.metric)) {
            if watch.judge(moment, round) {
                let event = watch.tell(now.mono);
                self.untold += u64::from(event.is_none());
                changes.push(watch.change(event));
            }
        }
        changes
    }

    /// What detectors have learned, if it is time to write it.
    pub fn learned_due(&mut self, now: Mono) -> Vec<Write> {
        if now.since(self.saved) < SAVED_EVERY { Vec::new() } else { self.learned(now) }
    }

    /// What detectors have learned.
    pub fn learned(&mut self, now: Mono) -> Vec<Write> {
        self.saved = now;
        let learned = |watch: &Watch| {
            let learned = watch.detector.as_ref()?.save();
            Some((format!("{LEARNED_KEY}{}", watch.rule.name), Some(learned)))
        };
        self.watches.values().filter_map(learned).collect()
    }

    /// What could not be told when it changed, and can be now.
    pub fn poll(&mut self, now: Mono) -> Vec<Event> {
        self.watches
            .values_mut()
            .filter(|watch| watch.told != watch.raised)
            .filter_map(|watch| watch.tell(now))
            .collect()
    }

    /// When [`Rules::poll`] has something to tell.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let waiting = self.watches.values().filter(|watch| watch.told != watch.raised);
        waiting.filter_map(Watch::may_tell_at).min()
    }

    /// Whether the readings say that a rule's alarm is raised.
    #[must_use]
    pub fn is_raised(&self, rule: &str) -> bool {
        self.watches.get(rule).is_some_and(|watch| watch.raised)
    }

    /// Whether a rule's alarm stands, by what was read later than `after`. Where there are no readings, or they say nothing,
    /// it stands as it did: that is waited for for a while, and no longer.
    #[must_use]
    pub fn look(&self, now: Mono, rule: &str, after: Option<Mono>) -> Look {
        let Some(watch) = self.watches.get(rule).filter(|watch| watch.raised) else { return Look::Well };
        let is_later = |at: Mono| after.is_none_or(|after| at > after);
        let Some((_, gap)) = watch.round.filter(|(at, gap)| is_later(*at) && now.since(*at) <= *gap) else {
            return Look::Unsure;
        };
        let says_nothing = after.is_some_and(|after| now.since(after) > gap.max(VERDICT_AWAITED));
        let is_known = match watch.test {
            // What was read before it makes a rate, too.
            Test::Rate(_) if !is_counted(watch.metric) => {
                watch.window.len() >= RATE_READINGS_MIN && watch.window.iter().all(|(at, _)| is_later(*at))
            }
            _ => watch.judged.is_some_and(is_later) || says_nothing,
        };
        if (is_known && watch.holding.is_none()) || watch.silent >= GAP_ROUNDS_MAX { Look::Bad } else { Look::Unsure }
    }

    /// The alarms that stand as far as the fleet was told, by name.
    pub fn raised(&self) -> impl Iterator<Item = Alarm<'_>> {
        self.watches.values().filter(|watch| watch.told).map(|watch| Alarm {
            rule: &watch.rule.name,
            severity: watch.rule.severity,
            metric: &watch.rule.metric,
            since: watch.since,
        })
    }

    /// Alarms that were raised or cleared without an event, since it was last asked.
    pub fn take_untold(&mut self) -> u64 {
        std::mem::take(&mut self.untold)
    }
}

/// What is to be stored when an alarm's event goes out under this number.
#[must_use]
pub fn entry(rule: &str, seq: u64, record: &Record) -> (String, Bytes) {
    let told = Told { seq, record: record.clone() };
    (format!("{ALARM_KEY}{rule}"), encode(&told))
}

fn watches(rules: &[Rule], now: Stamp) -> BTreeMap<String, Watch> {
    rules.iter().filter_map(|rule| Some((rule.name.clone(), Watch::new(rule, now)?))).collect()
}

impl Round<'_> {
    /// Whether this kind of round is where the metric is judged.
    fn holds(&self, metric: Metric) -> bool {
        let at_report = is_counted(metric) || OWN_GAUGES.contains(&metric);
        at_report == matches!(self, Self::Reported(_))
    }

    /// The reading; `None` if there is none, or it is no number where it should be one.
    fn find(&self, metric: Metric, label: Option<&str>) -> Option<Value> {
        let value = match self {
            Self::Observed(observation) => (*observation)?
                .points
                .iter()
                .rfind(|point| point.metric == metric && point.label.as_deref() == label)
                .map(|point| point.value.clone()),
            Self::Reported(sample) => reported((*sample)?, metric, label),
        };
        value.filter(|value| value.number().is_none_or(f64::is_finite))
    }

    /// What a detector judges. What is counted, is counted a minute, so that an interval that was cut short is no lull.
    fn seen(&self, kind: Anomaly, metric: Metric, label: Option<&str>) -> Option<Seen<'_>> {
        match (kind, self) {
            (Anomaly::NewListener, Self::Observed(seen)) => Some(Seen::Names(&(*seen)?.sockets.as_ref()?.listeners)),
            (Anomaly::NewPeer, Self::Observed(seen)) => Some(Seen::Names(&(*seen)?.sockets.as_ref()?.peers)),
            (Anomaly::NewListener | Anomaly::NewPeer, Self::Reported(_)) => None,
            _ => {
                let number = self.find(metric, label)?.number()?;
                if is_counted(metric) {
                    return Some(Seen::PerMinute(number * 60.0 / self.interval_s()?));
                }
                Some(Seen::Number(number))
            }
        }
    }

    /// How long the interval was, in seconds.
    fn interval_s(&self) -> Option<f64> {
        let Self::Reported(Some(sample)) = self else { return None };
        let interval = Duration::from_millis(sample.interval_ms).as_secs_f64();
        (interval > 0.0).then_some(interval)
    }
}

fn is_counted(metric: Metric) -> bool {
    matches!(metric.rollup(), Rollup::Sum | Rollup::Counter)
}

fn reported(sample: &Sample, metric: Metric, label: Option<&str>) -> Option<Value> {
    let find = |metric: Metric, label: Option<&str>| {
        let mut readings = sample.readings.iter();
        readings.find(|reading| reading.metric == metric && reading.label.as_deref() == label)
    };
    if let Some(reading) = find(metric, label) {
        return Some(reading.value.clone());
    }
    // The agent counts these itself, and leaves out what didn't happen: that none was counted is known, not missing.
    let is_known = match metric {
        Metric::AgentDropped | Metric::AgentRefused | Metric::AgentCommandsRefused | Metric::AgentImplausible => true,
        Metric::ErrorsBySeverity | Metric::ErrorsKernelClass | Metric::ErrorsAppRefused => {
            find(Metric::ErrorsCount, None).is_some()
        }
        _ => false,
    };
    is_known.then_some(Value::Count(0))
}

/// One rule and how it stands.
#[derive(Debug)]
struct Watch {
    rule: Rule,
    metric: Metric,
    label: Option<Box<str>>,
    test: Test,
    /// What finds anomalies, for a rule that asks for that.
    detector: Option<Detector>,
    raised: bool,
    told: bool,
    /// When the test began to hold, for the alarm that is raised or was the last to be.
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
    /// When there was last a reading, for `missing_for`.
    read: Mono,
    /// The latest readings, for the rate of a gauge.
    window: VecDeque<(Mono, f64)>,
    /// The latest readings, and which of them were bad, for a rule that looks back at so many.
    recent: VecDeque<(Mono, bool)>,
    /// When events were made, within the last hour.
    events: VecDeque<Mono>,
}

/// What a rule compares.
#[derive(Debug, Clone, PartialEq)]
enum Test {
    Limit(Limit),
    Rate(Limit),
    Equals(Value),
    Missing(Duration),
    Anomaly(Anomaly),
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Limit {
    side: Side,
    raise: f64,
    clear: Option<f64>,
}

/// On which side of the limit it is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Below,
    Above,
}

/// When a round is judged.
#[derive(Debug, Clone, Copy)]
struct Moment {
    now: Stamp,
    /// `None` while the clock isn't to be trusted.
    wall: Option<Unix>,
    /// After so long a time without anything to judge by, what held before counts no more.
    gap: Duration,
}

/// What a round says about a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The test holds.
    Bad,
    /// It holds no longer, and what clears the alarm does not hold yet.
    Between,
    /// What clears the alarm holds.
    Good,
}

impl Watch {
    /// `None` for a metric that there isn't.
    fn new(rule: &Rule, now: Stamp) -> Option<Self> {
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
            read: now.mono,
            window: VecDeque::new(),
            recent: VecDeque::new(),
            events: VecDeque::new(),
        })
    }

    /// Takes over how an earlier rule of this name stood; its clocks only where they measured the same.
    fn inherit(&mut self, before: Self) {
        if before.test == self.test {
            *self = Self { rule: self.rule.clone(), ..before };
        } else {
            (self.raised, self.told, self.since) = (before.raised, before.told, before.since);
            self.events = before.events;
        }
    }

    /// Goes on with what its detector learned before a restart. False if that is of no use to it.
    fn recall(&mut self, learned: &[u8]) -> bool {
        self.detector.as_mut().is_some_and(|detector| detector.restore(learned))
    }

    /// Whether the alarm was raised or cleared by this round.
    fn judge(&mut self, moment: Moment, round: Round<'_>) -> bool {
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
        if now.mono.since(since) < patience {
            return false;
        }
        self.holding = None;
        self.raised = !self.raised;
        if self.raised {
            self.since = Stamp { boot: now.boot, mono: since };
        }
        true
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
        let Moment { now: Stamp { mono: now, .. }, wall, gap } = moment;
        let value = round.find(self.metric, self.label.as_deref());
        match self.test {
            Test::Anomaly(kind) => {
                let seen = round.seen(kind, self.metric, self.label.as_deref())?;
                self.hear(now, gap);
                let at = detector::Moment { mono: now, wall, stands: self.raised };
                let finding = self.detector.as_mut()?.judge(kind, seen, at)?;
                (self.value, self.limit) = (Some(finding.value), Some(finding.threshold));
                Some(finding.verdict)
            }
            Test::Missing(limit) => self.absence(now, gap, limit, value),
            Test::Equals(ref wanted) => {
                let is_equal = is_same(value.as_ref()?, wanted);
                self.hear(now, gap);
                self.value = value;
                Some(if is_equal { Verdict::Bad } else { Verdict::Good })
            }
            Test::Limit(limit) => {
                let number = value.as_ref()?.number()?;
                self.hear(now, gap);
                self.value = value;
                Some(limit.verdict(number))
            }
            Test::Rate(limit) => {
                let number = value?.number()?;
                self.hear(now, gap);
                let rate =
                    if is_counted(self.metric) { number / round.interval_s()? } else { self.slope(now, number)? };
                self.value = Some(Value::Float(rate));
                Some(limit.verdict(rate))
            }
        }
    }

    fn absence(&mut self, now: Mono, gap: Duration, limit: Duration, value: Option<Value>) -> Option<Verdict> {
        // That there was no reading while nobody looked says nothing of the sensor.
        if self.hear(now, gap) || value.is_some() {
            self.read = now;
        }
        self.value = value;
        if self.value.is_some() {
            return Some(Verdict::Good);
        }
        // Not for long enough is no reading either: it leaves an alarm that was raised before a restart as it stands.
        (now.since(self.read) >= limit).then_some(Verdict::Bad)
    }

    /// There is something to judge by. True after a gap: what held before it may not have held throughout.
    fn hear(&mut self, now: Mono, gap: Duration) -> bool {
        let is_late = now.since(self.heard) > gap;
        if is_late {
            self.holding = None;
            self.window.clear();
            self.recent.clear();
        }
        (self.heard, self.silent) = (now, 0);
        is_late
    }

    /// The rise a second over the latest readings: from the median of the oldest third to the median of the newest
    /// (Tukey's resistant line), so that neither noise between neighbours nor a wrong reading makes a rate.
    fn slope(&mut self, now: Mono, number: f64) -> Option<f64> {
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

    /// Makes the event that brings the fleet up to date, if there is one to be made and the bound allows it.
    fn tell(&mut self, now: Mono) -> Option<Event> {
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
    fn may_tell_at(&self) -> Option<Mono> {
        let room = if self.raised { 1 } else { 2 };
        let surplus = (self.events.len() + room).checked_sub(EVENTS_PER_HOUR_MAX + 1)?;
        self.events.get(surplus).map(|at| at.after(HOUR))
    }

    fn change(&self, event: Option<Event>) -> Change {
        Change {
            rule: self.rule.name.clone(),
            severity: self.rule.severity,
            remedy: self.rule.remedy.clone(),
            raised: self.raised,
            event,
        }
    }

    /// The rule is gone, and with it the alarm.
    fn removed(mut self) -> Option<Change> {
        if !self.raised && !self.told {
            return None;
        }
        self.raised = false;
        let event = self.told.then(|| removed(&self.rule.name, &self.rule.metric, self.since));
        Some(self.change(event))
    }

    fn event(&self) -> Event {
        let severity = if self.raised { self.rule.severity } else { CLEARED };
        alarm(severity, &self.rule.name, self.raised, &self.rule.metric)
            .with_some("value", self.value.clone())
            .with_some("threshold", self.test.threshold(self.raised).or_else(|| self.limit.clone()))
            .with("since", self.since)
            .with("detector", self.test.detector())
    }
}

impl Test {
    fn of(rule: &Rule) -> Self {
        let below = |raise| Limit { side: Side::Below, raise, clear: rule.clear_above };
        let above = |raise| Limit { side: Side::Above, raise, clear: rule.clear_below };
        match &rule.test {
            RuleTest::Below(limit) => Self::Limit(below(*limit)),
            RuleTest::Above(limit) => Self::Limit(above(*limit)),
            RuleTest::RateBelow(limit) => Self::Rate(below(*limit)),
            RuleTest::RateAbove(limit) => Self::Rate(above(*limit)),
            RuleTest::Equals(value) => Self::Equals(value_of(value)),
            RuleTest::MissingFor(limit) => Self::Missing(*limit),
            RuleTest::Anomaly(kind) => Self::Anomaly(*kind),
        }
    }

    /// What was crossed; `None` where the detector says.
    fn threshold(&self, raised: bool) -> Option<Value> {
        Some(match self {
            Self::Limit(limit) | Self::Rate(limit) => {
                Value::Float(limit.clear.filter(|_| !raised).unwrap_or(limit.raise))
            }
            Self::Equals(value) => value.clone(),
            Self::Missing(limit) => Value::Float(limit.as_secs_f64()),
            Self::Anomaly(_) => return None,
        })
    }

    const fn detector(&self) -> &'static str {
        match self {
            Self::Limit(_) | Self::Equals(_) => "threshold",
            Self::Rate(_) => "rate",
            Self::Missing(_) => "missing",
            Self::Anomaly(kind) => kind.word(),
        }
    }
}

impl Limit {
    fn verdict(&self, number: f64) -> Verdict {
        let (is_bad, is_beyond) = match self.side {
            Side::Below => (number < self.raise, self.clear.is_none_or(|clear| number > clear)),
            Side::Above => (number > self.raise, self.clear.is_none_or(|clear| number < clear)),
        };
        match (is_bad, is_beyond) {
            (true, _) => Verdict::Bad,
            (false, true) => Verdict::Good,
            (false, false) => Verdict::Between,
        }
    }
}

/// A stored alarm, read.
struct Saved {
    seq: u64,
    record: Record,
    raised: bool,
    metric: Box<str>,
    since: Stamp,
    /// Its event came into the log.
    arrived: bool,
}

impl Saved {
    fn read(told: Told, events_last: u64) -> Option<Self> {
        let Body::Event(event) = &told.record.body else { return None };
        let (Field::Value(Value::Text(state)), Field::Value(Value::Text(metric)), Field::Stamp(since)) =
            (event.field("state")?, event.field("metric")?, event.field("since")?)
        else {
            return None;
        };
        let (raised, metric, since) = (&**state == "raised", metric.clone(), *since);
        Some(Self { seq: told.seq, raised, metric, since, arrived: told.seq <= events_last, record: told.record })
    }

    fn restore(self, key: &str, name: &str, watch: Option<&mut Watch>, leftovers: &mut Leftovers) {
        let stands = match watch.filter(|watch| self.raised && watch.rule.metric == *self.metric) {
            Some(watch) => {
                (watch.raised, watch.told, watch.since) = (true, true, self.since);
                true
            }
            None => false,
        };
        if self.arrived {
            leftovers.told.push((self.seq, self.record.clone()));
        }
        match (self.raised, self.arrived) {
            (true, true) if stands => {}
            (true, true) => leftovers.cleared.push(removed(name, &self.metric, self.since)),
            (true, false) if stands => leftovers.again.push(self.record),
            (false, false) => leftovers.again.push(self.record),
            // Cleared and told, or raised and never heard of.
            (false, true) | (true, false) => leftovers.forget.push(key.to_owned()),
        }
    }
}

fn alarm(severity: Severity, rule: &str, raised: bool, metric: &str) -> Event {
    Event::new(severity, EventKind::Alarm, rule)
        .group("alarm")
        .with("rule", rule)
        .with("state", if raised { "raised" } else { "cleared" })
        .with("metric", metric)
}

/// The end of an alarm whose rule is no longer in the config, or watches something else.
fn removed(rule: &str, metric: &str, since: Stamp) -> Event {
    alarm(CLEARED, rule, false, metric).with("since", since).with("reason", "rule_removed")
}

fn value_of(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::Text(text) => text.as_str().into(),
        AttributeValue::Flag(flag) => (*flag).into(),
        AttributeValue::Float(number) => (*number).into(),
        AttributeValue::Integer(number) => match u64::try_from(*number) {
            Ok(count) => count.into(),
            #[expect(clippy::cast_precision_loss, reason = "precise enough for any threshold")]
            Err(_) => (*number as f64).into(),
        },
    }
}

/// Words as they are; everything else as numbers, so that 1 is also 1.0 and true.
fn is_same(left: &Value, right: &Value) -> bool {
    match (left.number(), right.number()) {
        #[expect(clippy::float_cmp, reason = "the config asks for exactly this value")]
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

/// The median of the times and of the readings.
fn middle<'a>(readings: impl Iterator<Item = &'a (Mono, f64)>) -> Option<(Mono, f64)> {
    let (mut times, mut numbers): (Vec<Mono>, Vec<f64>) = readings.copied().unzip();
    times.sort_unstable();
    numbers.sort_by(f64::total_cmp);
    Some((*times.get(times.len() / 2)?, *numbers.get(numbers.len() / 2)?))
}
