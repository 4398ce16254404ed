//! Quarantine: the level in force, who wanted it, and that it stays so over crashes and reboots. Free → Entering →
//! Inside → Leaving → Free. That it is to be entered is journaled before anything is done, that it was left only when
//! it is done: after a crash in between the next start puts the rules in force again. Root's helper refuses that where
//! none were in force, because nobody's order stands behind it: then the gateway is told not to have been shut. Where
//! less was, it keeps to that and says so, and so does what is said here. Knows nothing of firewalls; decides when
//! their rules are to be loaded again, because the broker's addresses change or something may have started what is to
//! be stopped, and when they are to be widened, because they may be what keeps the broker out of reach.

use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::io::{Act, ActOutcome, ActStatus, EffectId, Ending, Own, Trigger};
use super::keyed::{QUARANTINE_KEY, Write, encode, write};
use super::observation::Severity;
use super::record::{Body, Event, EventKind, Stamp};
use super::remedies::refusal;
use super::time::{Mono, Now};
use crate::config::{CheckedConfig, QuarantineLevel};
use crate::wire::Reason;

/// What is told of it in more than one place.
const ENTERED: &str = "quarantine_entered";
const NARROWED: &str = "quarantine_narrowed";
/// What presence, attributes and status say outside of it.
const NONE: &str = "none";
/// How often the rules are loaded again while the broker is there.
const REFRESH_EVERY: Duration = Duration::from_secs(600);
/// And while it is out of reach: it may have moved. Or where units are to stay stopped: a timer or a dependency starts
/// them. Or where less may be in force than the journal says.
const REFRESH_SOON: Duration = Duration::from_secs(60);
/// That units were stopped again is told so often at most, with how many times.
const STOPPED_TOLD_EVERY: Duration = Duration::from_secs(3_600);
/// What is in force in part is tried again after this, then after twice as long, up to [`REFRESH_SOON`].
const MEND_FIRST: Duration = Duration::from_secs(5);

/// The level as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Stored {
    #[n(0)]
    level: Box<str>,
    #[n(1)]
    since: Stamp,
    #[n(2)]
    by: Box<str>,
    /// It is not known to have been in force since it was ordered.
    #[n(3)]
    #[cbor(default)]
    unseen: bool,
    /// That it was entered was told.
    #[n(4)]
    #[cbor(default)]
    told: bool,
}

/// Quarantine.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    inside: Option<Inside>,
    /// What is being done, and for whom.
    under_way: Option<(EffectId, Change)>,
    refresh_at: Option<Mono>,
    /// Since when the broker has been out of reach; `None`: it is there.
    alone_since: Option<Mono>,
    /// The rules let the agent reach any address on the broker's port.
    wide: bool,
    /// It is in force in part: how often it was found to be again, and what of it is.
    degraded: Option<(u32, Option<String>)>,
    /// How often units were stopped again, which is to be told, and when that was told last.
    stopped_again: u64,
    stopped_told: Option<Mono>,
    /// Units are to stay stopped, whatever the configuration says by now: whoever keeps it up has said so last.
    keeps_stopped: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inside {
    level: QuarantineLevel,
    stored: Stored,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Enter { level: QuarantineLevel, stored: Stored },
    Leave { by: String },
    Refresh { level: QuarantineLevel, wide: bool },
}

/// What follows from the end of an act.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Aftermath {
    /// To be told.
    pub(super) event: Option<Event>,
    /// What stands in the journal from now on, if that changes.
    pub(super) entry: Option<Write>,
    /// A level was entered: a snapshot is due.
    pub(super) entered: bool,
}

/// What is journaled before an act, where it enters a level that is not in force.
pub(super) fn intent(act: &Act, by: &Trigger, at: Stamp, in_force: Option<QuarantineLevel>) -> Option<Write> {
    let Act::Quarantine { level: Some(level) } = act else { return None };
    (in_force < Some(*level)).then(|| write(QUARANTINE_KEY, &Stored::new(*level, by, at)))
}

impl Stored {
    /// As it is ordered.
    fn new(level: QuarantineLevel, by: &Trigger, since: Stamp) -> Self {
        Self { level: level.word().into(), since, by: by.to_string().into(), unseen: true, told: false }
    }

    /// It is in force.
    fn seen(self) -> Self {
        Self { unseen: false, ..self }
    }

    /// It is in force, or may be, and nobody was told; who asks tells it.
    fn is_news(&mut self) -> bool {
        self.unseen && !std::mem::replace(&mut self.told, true)
    }
}

impl Inside {
    fn read(value: &[u8]) -> Option<Self> {
        let stored: Stored = minicbor::decode(value).ok()?;
        Some(Self { level: QuarantineLevel::parse(&stored.level)?, stored })
    }

    fn unreadable(since: Stamp) -> Self {
        let level = QuarantineLevel::Restrict;
        let by = "a journal that can't be read".into();
        Self { level, stored: Stored { level: level.word().into(), since, by, unseen: false, told: true } }
    }
}

impl Quarantine {
    /// Begins with what the journal says, or what is in force where that is known to be another level: more, as where
    /// the journal was lost, or less, as where a crash came between the order of more and the act. Its rules are put in
    /// force again at once. An entry that can't be read, as one of a newer version, says that there is one.
    pub(super) fn restore(
        now: Now,
        at: Stamp,
        state: &[(String, Bytes)],
        in_force: Option<QuarantineLevel>,
    ) -> (Self, Aftermath) {
        let entry = state.iter().find(|(key, _)| key == QUARANTINE_KEY);
        let inside = entry.map(|(_, value)| Inside::read(value).unwrap_or_else(|| Inside::unreadable(at)));
        let mut quarantine = Self { inside, alone_since: Some(now.mono), ..Self::default() };
        let found = in_force.and_then(|level| quarantine.find(level, at));
        quarantine.refresh_at = quarantine.inside.is_some().then_some(now.mono);
        let entry = found.is_some().then(|| quarantine.entry());
        (quarantine, Aftermath { event: found, entry, entered: false })
    }

    /// What is being done: nothing else is done to a quarantine meanwhile.
    pub(super) fn acts(&self) -> impl Iterator<Item = Act> + '_ {
        self.under_way.iter().map(|(_, change)| match change {
            Change::Enter { level, .. } => Act::Quarantine { level: Some(*level) },
            Change::Leave { .. } => Act::Quarantine { level: None },
            Change::Refresh { level, wide } => Act::Refresh { level: *level, wide: *wide },
        })
    }

    /// The level in force.
    pub(super) fn level(&self) -> Option<QuarantineLevel> {
        self.inside.as_ref().map(|inside| inside.level)
    }

    /// The contract's word for it.
    pub(super) fn word(&self) -> &'static str {
        self.level().map_or(NONE, QuarantineLevel::word)
    }

    /// It is in force in part.
    pub(super) const fn is_degraded(&self) -> bool {
        self.degraded.is_some()
    }

    /// What of it is in force, and what isn't, where it is in part.
    pub(super) fn degraded_detail(&self) -> Option<&str> {
        self.degraded.as_ref()?.1.as_deref()
    }

    /// Who wanted it, as it was told when it was entered.
    pub(super) fn by(&self) -> &str {
        self.inside.as_ref().map_or(NONE, |inside| &inside.stored.by)
    }

    /// An act was handed to the runtime; those of quarantine are followed.
    pub(super) fn begun(&mut self, id: EffectId, act: &Act, by: &Trigger, at: Stamp) {
        let change = match act {
            Act::Quarantine { level: Some(level) } => {
                Change::Enter { level: *level, stored: Stored::new(*level, by, at) }
            }
            Act::Quarantine { level: None } => Change::Leave { by: by.to_string() },
            Act::Refresh { level, wide } => Change::Refresh { level: *level, wide: *wide },
            _ => return,
        };
        self.under_way = Some((id, change));
    }

    /// What was in force when root's helper was asked. More than is known counts as in force until a look at the rules
    /// says otherwise, which is due where it is less, too: what was said may be older than a release. What is being
    /// entered or left may show in it already, and be taken back yet: of that the end of the act tells, and the look
    /// that is due then.
    pub(super) fn heard(&mut self, now: Mono, at: Stamp, in_force: Option<QuarantineLevel>) {
        let known = self.level();
        let changes = matches!(self.under_way, Some((_, Change::Enter { .. } | Change::Leave { .. })));
        if let Some(level) = in_force.filter(|_| in_force > known && !changes) {
            let stored = Stored::new(level, &Trigger::Own(Own::Quarantine), at);
            self.inside = Some(Inside { level, stored });
            self.refresh_at = Some(now);
        } else if in_force != known {
            self.bring_forward(now);
        }
    }

    /// An act ended; nothing follows if it isn't the one of quarantine.
    pub(super) fn ended(&mut self, now: Mono, at: Stamp, id: EffectId, outcome: &ActOutcome) -> Aftermath {
        let Some((_, change)) = self.under_way.take_if(|(ours, _)| *ours == id) else { return Aftermath::default() };
        let detail = outcome.detail.as_deref();
        if outcome.quarantine.is_some() {
            self.keeps_stopped = outcome.keeps_stopped;
        }
        let has_entered = matches!(change, Change::Enter { .. }) && outcome.status == ActStatus::Succeeded;
        // Also where what was to be entered has failed, and could not be taken back: one that nobody knows of would be
        // kept up, widened and left by nobody.
        let named = outcome.quarantine.filter(|_| !has_entered);
        if let Some(event) = named.and_then(|level| self.find(level, at)) {
            self.stopped_again += u64::from(outcome.stopped_again);
            // The next look tells the rest.
            self.refresh_at = Some(now);
            return Aftermath { event: Some(event), entry: Some(self.entry()), entered: false };
        }
        match change {
            Change::Enter { level, stored } if outcome.status == ActStatus::Succeeded => {
                // What was in force may have been more than is known here, and stays.
                let level = outcome.quarantine.map_or(level, |in_force| in_force.max(level));
                let stored = Stored { level: level.word().into(), ..stored };
                let aftermath = self.entered(level, stored, detail);
                self.see();
                self.refresh_at = Some(now.after(REFRESH_SOON));
                self.degraded = None;
                self.note_degraded(now, outcome);
                Aftermath { entry: Some(self.entry()), ..aftermath }
            }
            // It may be in force, and counts as that until the next look at the rules says otherwise: one that nobody
            // knows of would be widened and left by nobody.
            Change::Enter { level, stored }
                if matches!(outcome.status, ActStatus::TimedOut | ActStatus::Interrupted)
                    && refusal(outcome).is_none() =>
            {
                let aftermath = self.entered(level, stored, detail);
                self.refresh_at = Some(now);
                Aftermath { entry: Some(self.entry()), ..aftermath }
            }
            // What was meant to be is not: the journal says again what is.
            Change::Enter { .. } => Aftermath { entry: Some(self.entry()), ..Aftermath::default() },
            Change::Leave { by } if outcome.status == ActStatus::Succeeded => {
                self.leave("quarantine_left", &by, detail)
            }
            Change::Refresh { .. } if outcome.ending() == Some(Ending::NotInForce) => {
                let unseen = self.inside.as_ref().filter(|inside| inside.stored.unseen);
                match unseen.map(|inside| inside.stored.by.clone()) {
                    Some(by) => self.leave("quarantine_not_entered", &by, detail),
                    None => self.leave("quarantine_left", "console", detail),
                }
            }
            Change::Refresh { wide, .. } if outcome.status == ActStatus::Succeeded => {
                self.note_degraded(now, outcome);
                self.stopped_again += u64::from(outcome.stopped_again);
                if self.keeps_stopped {
                    self.bring_forward(now.after(REFRESH_SOON));
                }
                let name = match (wide, std::mem::replace(&mut self.wide, wide)) {
                    (true, false) => Some("quarantine_widened"),
                    (false, true) => Some(NARROWED),
                    _ => None,
                };
                let Aftermath { event, entry, entered } = self.confirmed(detail);
                let event = event.or_else(|| name.map(|name| told(name, self.word(), self.by(), detail)));
                Aftermath { event: event.or_else(|| self.tell_stopped(now, detail)), entry, entered }
            }
            // The rules may be gone, or go with the next boot: they are as the journal says again, or it as they are.
            Change::Leave { .. } => {
                self.bring_forward(now);
                Aftermath::default()
            }
            Change::Refresh { .. } => {
                self.bring_forward(now.after(REFRESH_SOON));
                // Another level was found above. That its rules could not be loaded again doesn't take it away.
                if named.is_some() { self.confirmed(detail) } else { Aftermath::default() }
            }
        }
    }

    /// The level that counts is in force. It may not have been known to be, nor told, as where a crash came between
    /// the act and the word of it.
    fn confirmed(&mut self, detail: Option<&str>) -> Aftermath {
        let entered = self.inside.as_mut().is_some_and(|inside| inside.stored.is_news());
        let event = entered.then(|| told(ENTERED, self.word(), self.by(), detail));
        Aftermath { event, entry: self.see().then(|| self.entry()), entered }
    }

    /// A level is in force, or may be, as ordered. Where as much was before, who ordered that stays, and it is not
    /// entered anew.
    fn entered(&mut self, level: QuarantineLevel, stored: Stored, detail: Option<&str>) -> Aftermath {
        let before = self.inside.take().filter(|inside| inside.level == level);
        let entered = self.inside.insert(before.unwrap_or(Inside { level, stored })).stored.is_news();
        let was_wide = std::mem::take(&mut self.wide);
        let name = if entered { Some(ENTERED) } else { was_wide.then_some(NARROWED) };
        Aftermath { event: name.map(|name| told(name, self.word(), self.by(), detail)), entry: None, entered }
    }

    /// This level is in force; what is to be told where another one counts.
    fn find(&mut self, level: QuarantineLevel, at: Stamp) -> Option<Event> {
        let event = found(level, self.inside.as_ref())?;
        let stored = Stored::new(level, &Trigger::Own(Own::Quarantine), at).seen();
        self.inside = Some(Inside { level, stored });
        Some(event)
    }

    /// It is known to be in force; whether it was not before.
    fn see(&mut self) -> bool {
        self.inside.as_mut().is_some_and(|inside| std::mem::take(&mut inside.stored.unseen))
    }

    /// What may be mended in a moment, as where systemd's bus did not answer, is soon tried again.
    fn note_degraded(&mut self, now: Mono, outcome: &ActOutcome) {
        if outcome.ending() != Some(Ending::Degraded) {
            self.degraded = None;
            return;
        }
        let tries = self.degraded.as_ref().map_or(0, |(tries, _)| tries.saturating_add(1));
        self.degraded = Some((tries, outcome.detail.clone()));
        let wait = MEND_FIRST.saturating_mul(2_u32.saturating_pow(tries));
        if wait < REFRESH_SOON {
            self.bring_forward(now.after(wait));
        }
    }

    fn tell_stopped(&mut self, now: Mono, detail: Option<&str>) -> Option<Event> {
        let is_due = self.stopped_told.is_none_or(|at| now.since(at) >= STOPPED_TOLD_EVERY);
        if self.stopped_again == 0 || !is_due {
            return None;
        }
        self.stopped_told = Some(now);
        let count = std::mem::take(&mut self.stopped_again);
        let event = told("quarantine_units_stopped", self.word(), self.by(), detail);
        Some(event.with("count", count))
    }

    /// The broker is there, or is not any more.
    pub(super) fn connected(&mut self, now: Mono, connected: bool) {
        if connected {
            self.alone_since = None;
        } else if self.alone_since.is_none() {
            self.alone_since = Some(now);
            self.bring_forward(now.after(REFRESH_SOON));
        }
    }

    /// Root may have taken the rules away: they are looked at now.
    pub(super) fn look_again(&mut self, now: Mono) {
        self.bring_forward(now);
    }

    /// What is to be done about the rules, if it is time. `stops`: there are units that are to stay stopped.
    pub(super) fn upkeep(&mut self, now: Mono, lockout_after: Duration, stops: bool) -> Option<Act> {
        let level = self.level()?;
        if self.under_way.is_some() || self.refresh_at.is_none_or(|at| at > now) {
            return None;
        }
        let stops = self.keeps_stopped || (stops && level > QuarantineLevel::Observe);
        let is_soon = self.alone_since.is_some() || stops;
        let every = if is_soon { REFRESH_SOON } else { REFRESH_EVERY };
        self.refresh_at = Some(now.after(every));
        let wide = self.alone_since.is_some_and(|since| now.since(since) >= lockout_after);
        Some(Act::Refresh { level, wide })
    }

    /// When that will be.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.refresh_at.filter(|_| self.inside.is_some() && self.under_way.is_none())
    }

    fn bring_forward(&mut self, at: Mono) {
        self.refresh_at = self.refresh_at.map(|before| before.min(at));
    }

    fn leave(&mut self, name: &str, by: &str, detail: Option<&str>) -> Aftermath {
        let left = self.inside.take();
        self.refresh_at = None;
        self.wide = false;
        self.degraded = None;
        (self.stopped_again, self.stopped_told, self.keeps_stopped) = (0, None, false);
        let event = left.map(|left| told(name, left.level.word(), by, detail));
        Aftermath { event, entry: Some(self.entry()), entered: false }
    }

    /// What stands in the journal of it.
    pub(super) fn entry(&self) -> Write {
        (QUARANTINE_KEY.to_owned(), self.inside.as_ref().map(|inside| encode(&inside.stored)))
    }
}

/// What is to be told where another level is in force than the journal says.
fn found(level: QuarantineLevel, journaled: Option<&Inside>) -> Option<Event> {
    let detail = match journaled {
        Some(known) if known.level == level => return None,
        Some(ordered) if ordered.level > level && ordered.stored.unseen => {
            let detail = format!("who was to put it in force was gone before it was; {level} is in force, as before");
            return Some(told("quarantine_not_entered", ordered.level.word(), &ordered.stored.by, Some(&detail)));
        }
        Some(known) if known.level > level => format!("it is in force, and {} is not any more", known.level),
        _ => "it was found in force, and the journal knew of less".to_owned(),
    };
    Some(told(ENTERED, level.word(), &Trigger::Own(Own::Quarantine).to_string(), Some(&detail)))
}

/// Whether this tells that one was entered.
pub(super) fn is_entered(body: &Body) -> bool {
    matches!(body, Body::Event(event) if &*event.name == ENTERED)
}

/// What isolation leaves of the commands, and what nothing does to a quarantine.
///
/// # Errors
/// Why not.
pub(super) fn forbids(
    level: Option<QuarantineLevel>,
    config: &CheckedConfig,
    act: Option<&Act>,
) -> Result<(), (Reason, String)> {
    let Some(level) = level else { return Ok(()) };
    let helps = act.is_some_and(|act| !act.needs_leave());
    if level == QuarantineLevel::Isolate && !helps {
        return Err((Reason::Quarantined, "isolated: ping, collect_diagnostics and release are taken".into()));
    }
    if let Some(Act::Quarantine { level: Some(wanted) }) = act {
        if *wanted < level {
            return Err((Reason::Quarantined, format!("{level} is in force, which is more: only release leaves it")));
        }
    }
    let restarted = act.map_or(&[][..], |act| act.restarts(&config.rollback));
    let kept = config.quarantine.stopped().find(|unit| restarted.contains(unit));
    match kept.filter(|_| level > QuarantineLevel::Observe) {
        Some(unit) => {
            Err((Reason::Quarantined, format!("{unit} is in quarantine.stop_units: nothing starts it before release")))
        }
        None => Ok(()),
    }
}

fn told(name: &str, level: &str, by: &str, detail: Option<&str>) -> Event {
    Event::new(Severity::Warning, EventKind::Audit, name)
        .with("level", level)
        .with("trigger", by)
        .with_some("detail", detail)
}
