//! Whether a command is to be obeyed: when it was issued and expires, what it asks, what it is allowed to, whether
//! something works on the same target, and when the turn of one of a group comes. Judges a ladder's act by the same
//! policy. Changes nothing: what it costs is spent when it begins.

use std::time::Duration;

use super::entry::Entry;
use super::{ACTS_MAX, Commands, Facts, MAY_HAVE_RUN, QUEUE_MAX, RUNBOOKS_MAX};
use crate::engine::admission;
use crate::engine::command::Command;
use crate::engine::hash::hash;
use crate::engine::io::Act;
use crate::engine::quarantine;
use crate::engine::time::Unix;
use crate::wire::{Reason, VerifiedCommand};

impl Commands {
    /// Whether a ladder may do this now, by the same policy; and what holds for what is automatic only.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, facts: Facts<'_>, act: &Act) -> Result<(), admission::Refusal> {
        quarantine::forbids(facts.quarantine, facts.config, Some(act))?;
        admission::permitted(facts, act)?;
        self.waited_for(facts, act)?;
        admission::settled(facts, act)?;
        self.affordable(facts, act)?;
        admission::rehearsed(facts, act)
    }

    /// The same of a reboot that completes what was let pass, and has paid for it: of that is only asked what forbids
    /// any reboot by now, who is in its way, and whether the power is too low.
    ///
    /// # Errors
    /// Why not.
    pub fn admit_completion(&self, facts: Facts<'_>) -> Result<(), admission::Refusal> {
        let act = &Act::Reboot;
        quarantine::forbids(facts.quarantine, facts.config, Some(act))?;
        self.waited_for(facts, act)?;
        admission::unhindered(facts, act)?;
        admission::rehearsed(facts, act)
    }

    /// Whether what is under way has to end first, for what is automatic.
    fn waited_for(&self, facts: Facts<'_>, act: &Act) -> Result<(), admission::Refusal> {
        if let Some(why) = self.taken_by(facts, act) {
            return Err((Reason::Busy, why));
        }
        // It would be ended in the middle, and what a rule wants can wait.
        let takes_down = matches!(act, Act::Reboot | Act::Rollback { .. });
        match self.acts().chain(facts.busy).find(|other| takes_down && other.changes()) {
            Some(other) => Err((Reason::Busy, format!("{} is under way", other.target()))),
            None => Ok(()),
        }
    }

    /// Whether a command that proved genuine is to be obeyed now. What never changes is asked first.
    pub(super) fn judge(&self, facts: Facts<'_>, command: &VerifiedCommand) -> Result<Command, (Reason, String)> {
        let fresh = is_fresh(facts, command);
        judge_time(facts, command, fresh)?;
        let is_older = |before| Unix::of_seconds(command.issued_at) < before;
        let may_be_lost = !fresh && self.lost_before(facts).is_some_and(is_older);
        if may_be_lost || self.forgotten.covers(command.issued_at, command.expires_at) {
            return Err((Reason::Replayed, MAY_HAVE_RUN.into()));
        }
        let parsed = Command::parse(command)?;
        if !matches!(parsed, Command::Ping) {
            quarantine::forbids(facts.quarantine, facts.config, parsed.act())?;
        }
        if let Some(act) = parsed.act() {
            admission::permitted(facts, act)?;
        }
        if parsed.is_disruptive() && !facts.now.wall.trusted && !fresh {
            return Err((Reason::ClockUntrusted, format!("the clock isn't synchronised: {}", make_fresh(command))));
        }
        if let Some(act) = parsed.act() {
            // Who kept the machine up at the last round of collection may have given that up: there is a new look.
            self.affordable(Facts { blocked: None, ..facts }, act)?;
            rehearsed(facts, act)?;
            let waits = spread(facts, command, &parsed).is_some() || self.must_wait(facts, act);
            if waits && self.queue.len() >= QUEUE_MAX {
                return Err((Reason::Busy, format!("{QUEUE_MAX} commands are queued already")));
            }
        }
        Ok(parsed)
    }

    /// What was issued before may have run: the journal was lost. By a clock that was ahead, where it is trusted again
    /// and says otherwise: then it was lost before this run began, whenever that was.
    fn lost_before(&self, facts: Facts<'_>) -> Option<Unix> {
        let before = self.careful.before?;
        let is_ahead = facts.now.wall.trusted && before > facts.now.wall.unix;
        if is_ahead { facts.timeline.began() } else { Some(before) }
    }

    /// What was genuine and allowed when it came may not be any more: the config has changed, the battery has run down.
    pub(super) fn admit_waiting(&self, facts: Facts<'_>, entry: &Entry) -> Result<(), admission::Refusal> {
        entry.origin.as_ref().map_or(Ok(()), |origin| origin.verify(facts.config))?;
        let Some(act) = entry.act() else { return Ok(()) };
        quarantine::forbids(facts.quarantine, facts.config, Some(act))?;
        admission::permitted(facts, act)?;
        if entry.spending.is_some() {
            admission::unhindered(facts, act)?;
        } else {
            self.affordable(facts, act)?;
        }
        rehearsed(facts, act)
    }

    /// Whether something has to end first: a new look at the gateway, or what works on the same target.
    pub(super) fn must_wait(&self, facts: Facts<'_>, act: &Act) -> bool {
        needs_look(facts, act) || self.target_is_taken(facts, act)
    }

    /// Whether something works on the same target, or all hands are full.
    pub(super) fn target_is_taken(&self, facts: Facts<'_>, act: &Act) -> bool {
        self.taken_by(facts, act).is_some()
    }

    /// What is in its way.
    fn taken_by(&self, facts: Facts<'_>, act: &Act) -> Option<String> {
        let target = act.target();
        // A reboot that waits for its time begins only when what shuts the gateway, or opens it, is done.
        let may_precede = |other: &Act| facts.reboot_waits && *other == Act::Reboot && act.shuts();
        let clashes =
            |other: &Act| other.target() == target || (act.is_grave() && other.is_grave() && !may_precede(other));
        let under_way: Vec<&Act> = self.acts().collect();
        if hands_are_full(&under_way, act) {
            return Some(format!("{} acts are under way, no more like it go side by side", under_way.len()));
        }
        let other = under_way.into_iter().chain(facts.busy).find(|other| clashes(other))?;
        Some(if other.target() == target {
            format!("something works on {target} already")
        } else {
            format!("{} of {} is under way, which {} can't go beside", other.word(), other.target(), act.word())
        })
    }

    fn affordable(&self, facts: Facts<'_>, act: &Act) -> Result<(), admission::Refusal> {
        admission::affordable(facts, &self.budgets, self.careful, act)
    }
}

/// Whether a command is only said. One that needs no leave is obeyed in a dry run, too: it lets out, or looks. Of a
/// ladder nothing is done: a step that was would make a climb of the rehearsal.
fn rehearsed(facts: Facts<'_>, act: &Act) -> Result<(), admission::Refusal> {
    if act.needs_leave() { admission::rehearsed(facts, act) } else { Ok(()) }
}

/// Whether it was made after this agent started: it carries the nonce of the present presence message.
pub(super) fn is_fresh(facts: Facts<'_>, command: &VerifiedCommand) -> bool {
    command.nonce.as_deref() == Some(facts.nonce)
}

/// For how long it is valid, as whoever signed it meant it.
pub(super) fn lifetime(command: &VerifiedCommand) -> Duration {
    let lifetime_s = command.expires_at.saturating_sub(command.issued_at);
    Duration::from_secs(u64::try_from(lifetime_s).unwrap_or(0))
}

/// Whether it can't be valid any more, whatever the clock says.
pub(super) fn has_expired(facts: Facts<'_>, expires_at: i64, fresh: bool) -> bool {
    Unix::of_seconds(expires_at) < lower_bound(facts, fresh)
}

/// How long one of a group waits for its turn; `None`: it doesn't. Each gateway has another turn, and another one for
/// each command. Half of the time that the command is still valid is left for what it waits for then.
pub(super) fn spread(facts: Facts<'_>, command: &VerifiedCommand, parsed: &Command) -> Option<Duration> {
    command.group.as_ref().filter(|_| parsed.is_spread(&command.args))?;
    let from = lower_bound(facts, is_fresh(facts, command));
    let valid_ms = Unix::of_seconds(command.expires_at).0.saturating_sub(from.0);
    let valid_ms = u64::try_from(valid_ms).unwrap_or(0);
    let most_ms = u64::try_from(facts.config.remediation.group_spread.as_millis()).unwrap_or(u64::MAX);
    let drawn = hash([facts.config.device.id.as_str(), "\0", command.id.as_str()]);
    drawn.checked_rem(most_ms.min(valid_ms / 2)).map(Duration::from_millis)
}

/// Whether somebody kept the machine up at the last round of collection, and that is in the way.
pub(super) fn needs_look(facts: Facts<'_>, act: &Act) -> bool {
    facts.blocked.is_some() && admission::takes_a_boot(facts.config, act)
}

/// Expiry is judged by a trusted clock, and by nothing else where there is one. Without one, a reading that isn't
/// provably wrong still counts against a command (refusing is the safe side), unless the nonce proves that it was made
/// after this agent started.
fn judge_time(facts: Facts<'_>, command: &VerifiedCommand, fresh: bool) -> Result<(), (Reason, String)> {
    let wall = facts.now.wall;
    let plausible = wall.unix >= facts.timeline.floor();
    let skew = i64::try_from(facts.config.commands.max_clock_skew.as_millis()).unwrap_or(i64::MAX);
    let horizon = Unix(wall.unix.0.saturating_add(skew));

    let expires = Unix::of_seconds(command.expires_at);
    let expired = |detail: String| Err((Reason::Expired, detail));
    if (wall.trusted || (plausible && !fresh)) && expires < wall.unix {
        let clock = wall.unix.0.div_euclid(1000);
        return expired(format!("exp {} has passed: the gateway's clock says {clock}", command.expires_at));
    }
    if expires < lower_bound(facts, fresh) {
        return expired(predates(facts, command, fresh));
    }
    let ahead = |at: i64| Unix::of_seconds(at) > horizon;
    // It is genuine, so by the clock of whoever signed it the present is no earlier than its `iat`.
    let is_issued_later = |nbf: i64| wall.trusted || nbf > command.issued_at;
    let not_yet = match command.not_before {
        Some(nbf) if (wall.trusted || plausible) && is_issued_later(nbf) && ahead(nbf) => Some(("nbf", nbf)),
        _ if wall.trusted && ahead(command.issued_at) => Some(("iat", command.issued_at)),
        _ => None,
    };
    match not_yet {
        Some((claim, at)) => Err((Reason::NotYetValid, format!("{claim} {at} lies ahead of the clock"))),
        None => Ok(()),
    }
}

fn hands_are_full(under_way: &[&Act], act: &Act) -> bool {
    let is_runbook = |act: &Act| matches!(act, Act::Run { .. });
    let runbooks = under_way.iter().filter(|other| is_runbook(other)).count();
    let counted = under_way.iter().filter(|other| other.takes_a_hand()).count();
    act.takes_a_hand() && (counted >= ACTS_MAX || (is_runbook(act) && runbooks >= RUNBOOKS_MAX))
}

/// The lowest that the present can be, in seconds since 1970.
pub(super) fn present_s(facts: Facts<'_>, fresh: bool) -> i64 {
    lower_bound(facts, fresh).0.div_euclid(1000)
}

/// Why a command has expired that only what is remembered of the time speaks against.
fn predates(facts: Facts<'_>, command: &VerifiedCommand, fresh: bool) -> String {
    let floor = present_s(facts, fresh);
    let (what, clocks) = if !fresh && facts.timeline.is_claimed() {
        (format!("iat {floor}, the newest that was verified here"), "the clocks of those who sign")
    } else {
        (format!("{floor}, the last time that was known here"), "its clock")
    };
    let nonce = if fresh { String::new() } else { format!("{}, and ", make_fresh(command)) };
    let exp = command.expires_at;
    format!("exp {exp} lies before {what}, and the clock isn't synchronised: {nonce}check {clocks}")
}

/// What whoever sent it can do where no clock proves that it is fresh.
const fn make_fresh(command: &VerifiedCommand) -> &'static str {
    if command.group.is_some() {
        "send it to this device alone, with the nonce of its presence message: a group has none"
    } else {
        "send it with the nonce of the presence message"
    }
}

/// The lowest that the present can be: the trusted clock, whatever was known before, or what is known without one. What
/// others' commands say of it doesn't count against one that is fresh: one signer's wrong clock would lock out all.
pub(super) fn lower_bound(facts: Facts<'_>, fresh: bool) -> Unix {
    let Facts { now, timeline, .. } = facts;
    match (now.wall.trusted, fresh) {
        (true, _) => now.wall.unix,
        (false, true) => timeline.proven(now),
        (false, false) => timeline.floor(),
    }
}
