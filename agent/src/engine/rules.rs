//! Judges the gateway by the rules of its config: a reading beyond its limit for long enough raises an alarm, one that
//! is well again for long enough clears it. What is missing is never read as zero: it raises only `missing_for`, and
//! leaves every other alarm as it stands. Readings are judged as they come; what is counted over a report interval, and
//! what the agent knows of itself, when the interval closes. Decides nothing of remedies, and writes nothing: it says
//! what changed and what the fleet is to be told.
//!
//! An alarm has two faces. `raised` is what the readings say, for those who act on it. `told` is what the fleet was
//! last told and what is stored: it follows `raised` within the bound on events, and stays at raised while an alarm
//! flaps.

mod detector;
mod round;
mod saved;
#[cfg(test)]
mod tests;
mod verdict;
mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

#[cfg(test)]
pub(super) use self::round::OWN_GAUGES;
pub use self::round::Round;
use self::saved::Saved;
pub use self::saved::entry;
use self::verdict::Verdict;
pub use self::watch::EVENTS_PER_HOUR_MAX;
use self::watch::{Moment, Watch};
use super::keyed::{ALARM_KEY, LEARNED_KEY, Write};
use super::observation::Severity;
use super::record::{Event, Record, Stamp};
use super::time::{Mono, Unix};
use crate::config::Rule;
use crate::gather::gather;

/// How often what was learned is written: what a power cut costs of it, against the wear of the flash.
const SAVED_EVERY: Duration = Duration::from_secs(6 * 3600);
/// The same while the alarm stands: how long it has stood is to come to an end also where power fails every few hours.
const SAVED_EVERY_STANDING: Duration = Duration::from_secs(3600);
/// Of what lies more than so many rounds back nothing is known to have held since: `for` and `clear_for` begin anew.
pub(super) const GAP_ROUNDS_MAX: u32 = 3;
/// Rounds are not apart to the millisecond: one that comes early by less than this part of their interval has waited
/// for the whole of `for`, `clear_for` and `missing_for`. It would be late by an interval otherwise.
const EARLY_PART: u32 = 4;

/// The rules, and how their alarms stand.
#[derive(Debug, Default)]
pub struct Rules {
    watches: BTreeMap<String, Watch>,
    untold: u64,
    /// When what was learned was last written, all of it and that of alarms that stand.
    saved: Mono,
    saved_standing: Mono,
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
    /// It is raised, but the next rounds may say otherwise: none was judged since, or its readings have begun to be
    /// well.
    Unsure,
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
    pub fn new<'a>(
        rules: impl IntoIterator<Item = &'a Rule>,
        now: Stamp,
        state: &[(String, Bytes)],
        events_last: u64,
    ) -> (Self, Leftovers) {
        let mut watches = watches(rules, now);
        let mut leftovers = Leftovers::default();
        for (key, value) in state {
            if let Some(name) = key.strip_prefix(LEARNED_KEY) {
                if !watches.get_mut(name).is_some_and(|watch| watch.recall(value)) {
                    leftovers.forget.push(key.clone());
                }
            }
            let Some(name) = key.strip_prefix(ALARM_KEY) else { continue };
            match Saved::read(value, events_last) {
                Some(saved) => saved.restore(key, watches.get_mut(name), &mut leftovers),
                None => leftovers.forget.push(key.clone()),
            }
        }
        (Self { watches, untold: 0, saved: now.mono, saved_standing: now.mono }, leftovers)
    }

    /// Takes over other rules. Those that still watch the same metric keep how they stand; the alarms of the others
    /// end.
    pub fn reconfigure<'a>(&mut self, rules: impl IntoIterator<Item = &'a Rule>, now: Stamp) -> Vec<Change> {
        let before = std::mem::replace(&mut self.watches, watches(rules, now));
        let mut changes = Vec::new();
        for (name, watch) in before {
            match self.watches.get_mut(&name).filter(|heir| heir.rule().metric == watch.rule().metric) {
                Some(heir) => {
                    let severity = watch.rule().severity;
                    heir.inherit(watch);
                    if let Some(event) = heir.tell_severity(now.mono, severity) {
                        changes.push(heir.change(Some(event)));
                    }
                }
                None => changes.extend(watch.removed()),
            }
        }
        changes
    }

    /// Judges a round. `wall` is there if the clock is trusted; `interval` is how far apart the rounds of this kind
    /// are; what is counted is judged over `counted_over`, however long an interval of reports is for a while.
    pub fn judge(
        &mut self,
        now: Stamp,
        wall: Option<Unix>,
        interval: Duration,
        counted_over: Duration,
        round: Round<'_>,
    ) -> Vec<Change> {
        let (gap, early) = (interval.saturating_mul(GAP_ROUNDS_MAX), interval / EARLY_PART);
        let moment = Moment { now, wall, gap, interval, early, counted_over };
        let mut changes = Vec::new();
        for watch in self.watches.values_mut().filter(|watch| watch.is_judged_in(round)) {
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
        if now.since(self.saved) >= SAVED_EVERY {
            return self.learned(now);
        }
        if now.since(self.saved_standing) < SAVED_EVERY_STANDING {
            return Vec::new();
        }
        self.saved_standing = now;
        self.learned_of(now, Watch::is_raised)
    }

    /// What detectors have learned.
    pub fn learned(&mut self, now: Mono) -> Vec<Write> {
        (self.saved, self.saved_standing) = (now, now);
        self.learned_of(now, |_| true)
    }

    fn learned_of(&self, now: Mono, which: impl Fn(&Watch) -> bool) -> Vec<Write> {
        let learned = |watch: &Watch| {
            let learned = watch.learned(now)?;
            Some((format!("{LEARNED_KEY}{}", watch.rule().name), Some(learned)))
        };
        self.watches.values().filter(|watch| which(watch)).filter_map(learned).collect()
    }

    /// What could not be told when it changed, and can be now.
    pub fn poll(&mut self, now: Mono) -> Vec<Event> {
        self.watches.values_mut().filter(|watch| watch.is_untold()).filter_map(|watch| watch.tell(now)).collect()
    }

    /// When [`Rules::poll`] has something to tell.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let waiting = self.watches.values().filter(|watch| watch.is_untold());
        waiting.filter_map(Watch::may_tell_at).min()
    }

    /// Whether the readings say that a rule's alarm is raised.
    #[must_use]
    pub fn is_raised(&self, rule: &str) -> bool {
        self.watches.get(rule).is_some_and(Watch::is_raised)
    }

    /// Whether a rule's alarm stands, by what was read later than `after`. Where there are no readings, or they say
    /// nothing, it stands as it did: that is waited for for a while, and no longer.
    #[must_use]
    pub fn look(&self, now: Mono, rule: &str, after: Option<Mono>) -> Look {
        self.watches.get(rule).map_or(Look::Well, |watch| watch.look(now, after))
    }

    /// The alarms that stand as far as the fleet was told, by name.
    pub fn raised(&self) -> impl Iterator<Item = Alarm<'_>> {
        self.watches.values().filter_map(Watch::alarm)
    }

    /// Alarms that were raised or cleared without an event, since it was last asked.
    pub fn take_untold(&mut self) -> u64 {
        std::mem::take(&mut self.untold)
    }
}

fn watches<'a>(rules: impl IntoIterator<Item = &'a Rule>, now: Stamp) -> BTreeMap<String, Watch> {
    gather(rules.into_iter().filter_map(|rule| Some((rule.name.clone(), Watch::new(rule, now)?))))
}
