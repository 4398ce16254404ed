//! Releases on trial. One that is new here is good once for `settle` there stood no critical alarm, and none whose
//! ladder would leave it, and the broker was in reach after the first half of `settle`; one that isn't when its trial
//! is over is left again, once: Good → On trial → Good, or → Left → the one before, on trial with its last chance. That
//! it is to be left is journaled before it is done. The first release that is ever seen counts as good: there is none
//! to go back to. Knows no slots and no links. A trial's time counts within a boot, because what happens over boots is
//! the bootloader's to count, and only while somebody watches: it stands still while the gateway is suspended or the
//! agent is down. What doesn't let the agent live for so long is known by its crashes.

mod acting;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::again::Again;
use super::budget::Spending;
use super::io::{Act, EffectId, Ending, Own, Trigger};
use super::keyed::{RELEASE_KEY, Write, write};
use super::observation::{RELEASE, Release, Severity};
use super::reboot::{not_left, waits_for_boot};
use super::record::{Event, EventKind, Stamp, Status};
use super::time::Mono;
use crate::config::{CheckedConfig, Rollback};
use crate::gather::gather;
use crate::wire::Reason;

/// So often a boot that doesn't come is tried: each time takes the agent off the air. The next boot completes what was
/// done, whoever orders it.
const BOOTS_MAX: u32 = 5;
/// What crashes the agent or the machine so often in its trial is not waited for to prove good: the agent may never
/// live for `settle`. systemd gives an agent up only after more starts.
const CRASHES_MAX: u32 = 5;
/// So often in its time it is noted that what is on trial is watched: a store that has nothing else to keep is written
/// once an hour, and of a crash it is known only that somebody watched until then.
const NOTES_A_TRIAL: u32 = 40;
/// When to try again what has failed.
const AGAIN: Duration = Duration::from_secs(600);
/// Targets that are followed; a configuration with more has its first ones followed.
const TARGETS_MAX: usize = 16;

/// What is remembered of a target.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Stored {
    #[n(0)]
    good: Box<str>,
    #[n(1)]
    trial: Option<Trial>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Trial {
    #[n(0)]
    release: Box<str>,
    #[n(1)]
    begun: Stamp,
    /// It was left already, or came in the place of one that was: it is not left again.
    #[n(2)]
    last_chance: bool,
    /// It was left, and the next boot is to complete that.
    #[n(3)]
    #[cbor(default)]
    awaits_boot: bool,
    /// So many boots that were to do so were ordered in this one.
    #[n(4)]
    #[cbor(default)]
    boots: u32,
    /// So often a run ended in it as none should.
    #[n(5)]
    #[cbor(default)]
    crashes: u32,
    /// No boot is ordered any more for what was left: a command took that back, or it was told that enough were.
    #[n(6)]
    #[cbor(default)]
    given_up: bool,
}

impl Trial {
    const fn new(release: Box<str>, begun: Stamp, last_chance: bool) -> Self {
        Self { release, begun, last_chance, awaits_boot: false, boots: 0, crashes: 0, given_up: false }
    }

    /// Whether another boot may be ordered for what was left.
    const fn may_boot(&self) -> bool {
        !self.given_up && self.boots < BOOTS_MAX
    }
}

impl Stored {
    /// The release that runs, as it was last read.
    fn running(&self) -> &str {
        self.trial.as_ref().map_or(&self.good, |trial| &trial.release)
    }
}

#[derive(Debug)]
struct Target {
    stored: Stored,
    /// Since when it was read, in this run.
    seen: Option<Mono>,
    /// A release that was marked as good before it was seen here.
    marked: Option<Box<str>>,
    /// Since when nothing speaks against the release.
    healthy_since: Option<Mono>,
    /// The broker was in reach, and that late enough in the trial.
    is_reached: bool,
    course: Course,
    /// When something may be tried again.
    again: Again,
    /// What was told of which wish, not to be told again: why it was refused; `None`: what else there is to say of it.
    told: BTreeSet<(Wish, Option<Reason>)>,
}

/// What is being done about a release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Course {
    /// Nothing: it is watched.
    #[default]
    Watched,
    /// It is being marked as good, whoever wants that.
    Marking { act: EffectId },
    /// That it is to be left is on its way into the journal, and what that spends.
    Journaling { spending: Option<Spending> },
    /// It is being left, for what was spent.
    Leaving { act: EffectId, spending: Option<Spending> },
    /// It was left, and this reboot is to complete that.
    Booting { reboot: EffectId },
}

/// What is to be done about a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    MarkGood,
    Leave,
    /// It was left, and the machine has to be restarted for that.
    Boot,
    /// Nothing can be done: it is told.
    Mourn,
}

/// All targets.
#[derive(Debug, Default)]
pub(super) struct Releases {
    targets: BTreeMap<String, Target>,
    /// None is judged for now.
    held: bool,
    /// Until when somebody watched.
    watched: Mono,
    /// Until when that is noted.
    noted: Mono,
}

impl Target {
    const fn new(stored: Stored) -> Self {
        Self {
            stored,
            seen: None,
            marked: None,
            healthy_since: None,
            is_reached: false,
            course: Course::Watched,
            again: Again::new(),
            told: BTreeSet::new(),
        }
    }

    /// Its trial. Where it can't be read that may have begun in another boot.
    fn trial(&self) -> Option<&Trial> {
        self.stored.trial.as_ref().filter(|_| self.seen.is_some())
    }

    /// It was left, and the boot that is to complete that has not come.
    fn awaits_boot(&self) -> bool {
        self.trial().is_some_and(|trial| trial.awaits_boot)
    }

    /// Whether anything may be due while none is judged: of what was left the boot is.
    fn is_looked_at(&self, held: bool) -> bool {
        !held || self.awaits_boot()
    }

    /// What is due.
    fn wish(&mut self, now: Mono, name: &str, rollback: &Rollback, speaks: &Speaks) -> Option<Wish> {
        let trial = self.trial()?;
        if trial.awaits_boot {
            let is_due = self.course == Course::Watched && trial.may_boot() && self.again.is_due(now);
            return is_due.then_some(Wish::Boot);
        }
        let (begun, last_chance) = (trial.begun.mono, trial.last_chance);
        // An updater switches releases first, and restarts after that what may cut the gateway off.
        self.is_reached |= speaks.reached.is_some_and(|at| at >= begun.after(rollback.settle / 2));
        if speaks.against(name) {
            self.healthy_since = None;
        } else if self.healthy_since.is_none() {
            self.healthy_since = Some(now);
        }
        if self.course != Course::Watched || !self.again.is_due(now) {
            return None;
        }
        if self.is_reached && self.healthy_since.is_some_and(|since| now.since(since) >= rollback.settle) {
            return Some(Wish::MarkGood);
        }
        if self.over_at(rollback)? > now {
            return None;
        }
        Some(if last_chance { Wish::Mourn } else { Wish::Leave })
    }

    /// When the trial is over.
    fn over_at(&self, rollback: &Rollback) -> Option<Mono> {
        let Trial { begun, crashes, .. } = self.trial()?;
        if *crashes >= CRASHES_MAX {
            return self.seen;
        }
        // After a start it is to prove good anew, and needs the time for that.
        Some(begun.mono.after(rollback.trial).max(self.seen?.after(rollback.settle)))
    }

    fn deadline(&self, rollback: &Rollback) -> Option<Mono> {
        let trial = self.trial().filter(|_| self.course == Course::Watched)?;
        if trial.awaits_boot {
            return trial.may_boot().then(|| self.again.earliest(Mono(0)));
        }
        let good = self.healthy_since.filter(|_| self.is_reached).map(|since| since.after(rollback.settle));
        let over = self.over_at(rollback).filter(|_| !self.told.contains(&MOURNED));
        let at = [good, over].into_iter().flatten().min()?;
        Some(self.again.earliest(at))
    }

    /// Between these two nobody watched: it counts neither for nor against the release.
    fn skip(&mut self, from: Mono, to: Mono) {
        let begun = self.stored.trial.iter_mut().map(|trial| &mut trial.begun.mono);
        for at in begun.chain(&mut self.healthy_since).chain(&mut self.seen) {
            *at = at.after(to.since(from.max(*at)));
        }
    }

    /// Whether it is not left any more, if it is as bad as before.
    fn set_last_chance(&mut self, is_last: bool) {
        self.stored.trial.iter_mut().for_each(|trial| trial.last_chance = is_last);
    }

    /// It is not to be left any more: what isn't begun isn't, and no boot out of it is tried again. The course before,
    /// and whether there was such a boot to be tried.
    fn stay(&mut self) -> (Course, bool) {
        let before = self.course;
        if matches!(before, Course::Journaling { .. } | Course::Booting { .. }) {
            self.course = Course::Watched;
        }
        let boots = self.stored.trial.as_mut().filter(|trial| trial.awaits_boot && !trial.given_up);
        (before, boots.map(|trial| trial.given_up = true).is_some())
    }
}

impl Course {
    /// The act under way, of what isn't a boot.
    const fn act(&self) -> Option<EffectId> {
        match self {
            Self::Marking { act } | Self::Leaving { act, .. } => Some(*act),
            _ => None,
        }
    }
}

/// What is known that speaks for releases, and against them.
struct Speaks {
    /// Until when the connection stood that there is.
    reached: Option<Mono>,
    /// A critical one speaks against all.
    critical: bool,
    /// Those that a ladder would leave, if what it tries before doesn't help.
    targets: Vec<String>,
}

impl Speaks {
    fn against(&self, target: &str) -> bool {
        self.critical || self.targets.iter().any(|it| it == target)
    }
}

/// What follows from a look at the release that runs.
#[derive(Debug, Default)]
struct Seen {
    /// What is remembered is another.
    changed: bool,
    /// What was being done about the one before.
    before: Course,
    /// To be told.
    event: Option<Event>,
}

/// The event of a release that is bad and stays.
const KEPT: &str = "release_kept";
/// That it was told.
const MOURNED: (Wish, Option<Reason>) = (Wish::Mourn, None);

impl Releases {
    pub(super) fn restore(state: &[(String, Bytes)], now: Stamp) -> Self {
        let stored = |(key, value): &(String, Bytes)| {
            Some((key.strip_prefix(RELEASE_KEY)?.to_owned(), Target::new(minicbor::decode(value).ok()?)))
        };
        let mut targets: BTreeMap<_, Target> = gather(state.iter().filter_map(stored).take(TARGETS_MAX));
        for target in targets.values_mut() {
            if target.stored.trial.as_ref().is_some_and(|trial| trial.awaits_boot && trial.begun.boot == now.boot) {
                target.again.put_off(now.mono.after(AGAIN));
            }
        }
        Self { targets, held: false, watched: now.mono, noted: now.mono }
    }

    fn entry(&self, target: &str) -> Option<Write> {
        Some(write(format!("{RELEASE_KEY}{target}"), &self.targets.get(target)?.stored))
    }

    /// What the journal is to say of all of them.
    pub(super) fn entries(&self) -> Vec<Write> {
        self.targets.keys().filter_map(|target| self.entry(target)).collect()
    }

    /// The release that runs of what an act works on, if that was read since the agent started.
    pub(super) fn running(&self, act_target: &str) -> Option<&str> {
        self.targets
            .get(act_target.strip_prefix(RELEASE)?)
            .filter(|known| known.seen.is_some())
            .map(|known| known.stored.running())
    }

    /// A release was seen.
    fn observe(&mut self, at: Stamp, Release { target, name }: &Release) -> Seen {
        let Some(known) = self.targets.get_mut(target) else {
            if self.targets.len() < TARGETS_MAX {
                let stored = Stored { good: name.as_str().into(), trial: None };
                self.targets.insert(target.clone(), Target { seen: Some(at.mono), ..Target::new(stored) });
            }
            return Seen { changed: true, ..Seen::default() };
        };
        known.seen.get_or_insert(at.mono);
        let Stored { good, trial } = &mut known.stored;
        if **good == **name {
            let changed = trial.take().is_some();
            let event = changed.then(|| told("release_back", target, name));
            return Seen { changed, before: known.stay().0, event };
        }
        match trial {
            Some(trial) if *trial.release == **name => {
                let mut changed = trial.begun.boot != at.boot;
                let mut event = None;
                let is_watched = known.course == Course::Watched && known.again.is_due(at.mono);
                if !changed && trial.awaits_boot && !trial.may_boot() && !trial.given_up && is_watched {
                    // The run that ordered the last boot ended in that, and the boot did not come.
                    (trial.given_up, changed) = (true, true);
                    event = Some(given_up(target, trial.boots));
                } else if changed {
                    (trial.begun, trial.boots, trial.given_up) = (at, 0, false);
                    known.is_reached = false;
                    let is_back = std::mem::take(&mut trial.awaits_boot);
                    if is_back {
                        trial.crashes = 0;
                    }
                    event = is_back.then(|| {
                        let event =
                            tried(&leave(target), target, Status::Failed).with("reason", Ending::RollbackFailed.word());
                        event.with("detail", not_left(name).as_str())
                    });
                }
                Seen { changed, event, ..Seen::default() }
            }
            other => {
                if known.marked.take().as_deref() == Some(name) {
                    // Whoever marked it has looked at it.
                    *other = None;
                    *good = name.as_str().into();
                    let event = Some(told("release_good", target, name));
                    return Seen { changed: true, before: known.stay().0, event };
                }
                let last_chance = other.as_ref().is_some_and(|before| before.last_chance);
                *other = Some(Trial::new(name.as_str().into(), at, last_chance));
                (known.healthy_since, known.is_reached) = (None, false);
                known.again = Again::new();
                known.told.clear();
                Seen { changed: true, before: known.stay().0, event: Some(told("release_on_trial", target, name)) }
            }
        }
    }

    /// What a quarantine cuts off or stops says nothing of a release: none is judged while it does, and each trial
    /// begins anew after it. Those that do.
    fn hold(&mut self, at: Stamp, held: bool) -> Vec<String> {
        let was_held = std::mem::replace(&mut self.held, held);
        let anew = self.targets.iter_mut().filter(|(_, target)| was_held && !held && target.seen.is_some());
        let begin = |(name, target): (&String, &mut Target)| {
            let trial = target.stored.trial.as_mut()?;
            (trial.begun, trial.crashes) = (at, 0);
            (target.healthy_since, target.is_reached) = (None, false);
            Some(name.clone())
        };
        anew.filter_map(begin).collect()
    }

    /// The agent is started again; it watched until `watched`. The targets of which other is remembered by that.
    fn go_on(&mut self, now: Stamp, watched: Mono, crashed: bool) -> Vec<String> {
        let go_on = |(name, target): (&String, &mut Target)| {
            let trial = target.stored.trial.as_mut()?;
            // It was left already, and who is killed in the goodbye before a boot didn't crash.
            let crashed = crashed && !trial.awaits_boot;
            trial.crashes = trial.crashes.saturating_add(crashed.into());
            let is_same_boot = trial.begun.boot == now.boot;
            if is_same_boot {
                target.skip(watched, now.mono);
            }
            (crashed || is_same_boot).then(|| name.clone())
        };
        self.targets.iter_mut().filter_map(go_on).collect()
    }

    /// Somebody watches now; if that is more than `gap` after the last time, nobody did meanwhile. The targets of which
    /// something is to be noted by that.
    fn watch(&mut self, now: Mono, gap: Duration, config: &CheckedConfig) -> Vec<String> {
        let from = std::mem::replace(&mut self.watched, now);
        if now.since(from) <= gap {
            let since = now.since(self.noted);
            let is_due = |name: &str, target: &Target| {
                let Some(rollback) = config.rollback.get(name).filter(|_| !target.awaits_boot()) else { return false };
                since >= rollback.trial / NOTES_A_TRIAL && target.over_at(rollback).is_some_and(|at| at > now)
            };
            // One is enough: it is for the time of the store's last write.
            let due = self.targets.iter().find(|(name, target)| is_due(name, target)).map(|(name, _)| name.clone());
            if due.is_some() {
                self.noted = now;
            }
            return due.into_iter().collect();
        }
        let skip = |(name, target): (&String, &mut Target)| {
            target.stored.trial.as_ref()?;
            target.skip(from, now);
            Some(name.clone())
        };
        self.targets.iter_mut().filter_map(skip).collect()
    }

    fn wish(&mut self, now: Mono, config: &CheckedConfig, speaks: &Speaks) -> Option<(String, Wish)> {
        let held = self.held;
        self.targets.iter_mut().filter(|(_, target)| target.is_looked_at(held)).find_map(|(name, target)| {
            let wish = target.wish(now, name, config.rollback.get(name)?, speaks)?;
            (wish != Wish::Mourn || target.told.insert(MOURNED)).then(|| (name.clone(), wish))
        })
    }

    pub(super) fn deadline(&self, config: &CheckedConfig) -> Option<Mono> {
        let looked_at = self.targets.iter().filter(|(_, target)| target.is_looked_at(self.held));
        looked_at.filter_map(|(name, target)| target.deadline(config.rollback.get(name)?)).min()
    }

    /// What is being done, or is about to be.
    pub(super) fn acts(&self) -> impl Iterator<Item = Act> + '_ {
        self.targets.iter().filter_map(|(name, target)| match target.course {
            Course::Marking { .. } => Some(Act::MarkGood { target: name.clone() }),
            Course::Journaling { .. } | Course::Leaving { .. } => Some(leave(name)),
            Course::Watched | Course::Booting { .. } => None,
        })
    }

    /// Acts under way that leave a release by the agent's own will, and boots that complete that.
    pub(super) fn leaving(&self) -> impl Iterator<Item = EffectId> + '_ {
        self.targets.values().filter_map(|target| match target.course {
            Course::Leaving { act: id, .. } | Course::Booting { reboot: id } => Some(id),
            _ => None,
        })
    }

    /// That a release was left is completed by this reboot.
    fn awaits_boot(&mut self, target: &str, reboot: EffectId) {
        if let Some(known) = self.targets.get_mut(target) {
            if let Some(trial) = &mut known.stored.trial {
                (trial.awaits_boot, trial.boots) = (true, trial.boots.saturating_add(1));
            }
            known.course = Course::Booting { reboot };
        }
    }

    /// What an act has spent that was not done.
    pub(super) fn take_spending_of(&mut self, act: EffectId) -> Option<Spending> {
        self.targets.values_mut().find_map(|target| match &mut target.course {
            Course::Leaving { act: id, spending } if *id == act => spending.take(),
            _ => None,
        })
    }

    /// What was refused for this reason is not any more: it is tried now.
    pub(super) fn is_over(&mut self, now: Mono, reason: Reason) {
        for target in self.targets.values_mut().filter(|target| target.again.why() == Some(reason)) {
            target.again.possible_at(now);
        }
    }

    /// An act was handed to the runtime; what marks a release is followed, whoever wants it.
    pub(super) fn begun(&mut self, id: EffectId, act: &Act) {
        if let Act::MarkGood { target } = act {
            if let Some(target) = self.targets.get_mut(target) {
                target.course = Course::Marking { act: id };
            }
        }
    }
}

fn leave(target: &str) -> Act {
    Act::Rollback { target: target.to_owned(), to: None }
}

/// The contract's `remediation` event.
fn tried(act: &Act, target: &str, status: Status) -> Event {
    let (id, trigger) = (format!("{}-{target}", Own::Trial.word()), Trigger::Own(Own::Trial).to_string());
    Event::remediation(status.severity(), act.word(), &id, &trigger)
        .with("action", act.word())
        .with("target", act.target().as_str())
        .with("status", status.word())
}

/// So many boots that were to complete leaving a release did not come.
fn given_up(target: &str, boots: u32) -> Event {
    let detail = format!("tried {boots} times, and not again: {}", waits_for_boot(None));
    tried(&Act::Reboot, target, Status::Failed).with("detail", detail.as_str())
}

fn told(name: &'static str, target: &str, release: &str) -> Event {
    let severity = if matches!(name, "release_bad" | KEPT) { Severity::Error } else { Severity::Notice };
    Event::new(severity, EventKind::Lifecycle, name).group("release").with("target", target).with("name", release)
}
