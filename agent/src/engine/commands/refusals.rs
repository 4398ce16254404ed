//! What is not obeyed: counted always, told and audited one by one only as fast as anybody may make this gateway write.
//! A genuine command is remembered as refused where it must stay so; what nobody vouches for never changes what is
//! known of another. Why something is refused is decided elsewhere.

use std::collections::BTreeMap;

use super::entry::{Entry, Stored, put, tail};
use super::{Commands, Facts, Step};
use crate::engine::effects::Purpose;
use crate::engine::io::LogLevel;
use crate::engine::observation::Severity;
use crate::engine::record::{CommandResult, Event, EventKind, Status};
use crate::engine::time::Mono;
use crate::wire::{CommandId, Reason, Refusal, VerifiedCommand};

/// What is told one by one: so much at once, then one a second. The rest is counted.
const TOLD_BURST: u32 = 60;
/// Of those for which there is no room: as many as a ledger holds.
const BUSY_BURST: u32 = 2_048;

/// How many were refused, and how many more may be told at once. What anybody can send leaves what is told of genuine
/// commands alone.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    unverified: Bucket,
    /// Also the answers to commands that came before.
    pub(super) verified: Bucket,
    busy: Bucket,
    counts: BTreeMap<Reason, u64>,
}

/// What may be told, and when it was last filled up.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    used: u32,
    since: Mono,
}

impl Refusals {
    /// What was counted since it was last asked, by reason.
    pub(super) fn take_counts(&mut self) -> BTreeMap<Reason, u64> {
        std::mem::take(&mut self.counts)
    }

    fn count(&mut self, reason: Reason) {
        *self.counts.entry(reason).or_default() += 1;
    }
}

impl Bucket {
    /// Takes one if there is one left.
    pub(super) fn take(&mut self, now: Mono) -> bool {
        self.take_of(now, TOLD_BURST)
    }

    /// The same where there are so many at once.
    fn take_of(&mut self, now: Mono, burst: u32) -> bool {
        let refill = u32::try_from(now.since(self.since).as_secs()).unwrap_or(u32::MAX);
        if refill > 0 {
            self.used = self.used.saturating_sub(refill);
            self.since = now;
        }
        let left = self.used < burst;
        self.used += u32::from(left);
        left
    }
}

impl Commands {
    /// A message that is no command to obey, from nobody knows whom.
    pub(super) fn refuse(&mut self, now: Mono, refusal: &Refusal) {
        self.refusals.count(refusal.reason);
        if !self.refusals.unverified.take(now) {
            return;
        }
        // A forged message must not speak for a command that is known.
        let known = refusal.claimed_id.as_ref().is_some_and(|id| self.ledger.contains_key(id));
        if !known {
            self.steps.push_back(Step::Answer(CommandResult {
                command_id: refusal.claimed_id.as_ref().map(|id| id.as_str().into()),
                command: refusal.claimed_name.as_deref().map(|name| tail(name).into()),
                status: Status::Rejected,
                reason: Some(refusal.reason.word().into()),
                detail: Some(tail(&refusal.detail).into()),
                output: None,
                progress_pct: None,
                part: None,
            }));
        }
        self.audit(
            refusal.claimed_id.as_ref(),
            refusal.claimed_name.as_deref(),
            refusal.reason.word(),
            &refusal.detail,
        );
    }

    /// A genuine command that is not obeyed. `keep`: remember that it was refused, so that it stays refused.
    pub(super) fn refuse_verified(
        &mut self,
        facts: Facts<'_>,
        command: &VerifiedCommand,
        reason: Reason,
        detail: String,
        pkid: Option<u16>,
        keep: bool,
    ) {
        let now = facts.now.mono;
        let told = self.note_refusal(now, &command.id, &command.name, reason.word(), &detail);
        let mut stored = Stored::new(command, Status::Rejected);
        stored.reason = Some(reason.word().into());
        stored.detail = Some(tail(&detail).into());
        if !keep {
            // Nothing keeps it from coming over and over. But whoever finds all hands full has to know that he is to
            // try again.
            let is_busy = reason == Reason::Busy;
            let is_told = if is_busy { self.refusals.busy.take_of(now, BUSY_BURST) } else { told };
            let answer = is_told.then(|| stored.result(&command.id));
            // With a burst of them on a full disk the outbox would lose some, and nothing else has them: it is given
            // no more than it can hold in any case.
            let at_once = if is_busy { answer.and_then(|answer| self.owed.hold(answer)) } else { answer };
            self.steps.extend(at_once.map(Step::Answer));
            return self.acknowledge(pkid);
        }
        let entries = vec![put(&command.id, &stored)];
        let entry = Entry { pkids: pkid.into_iter().collect(), ..Entry::new(stored) };
        self.ledger.insert(command.id.clone(), entry);
        self.steps.push_back(Step::Journal(Purpose::Accepted(command.id.clone()), entries));
    }

    /// The same of one that is remembered, in the words of who doesn't obey: root's helper has some of its own, which
    /// count as `not_allowed`.
    pub(super) fn note_refusal_of(&mut self, now: Mono, id: &CommandId, reason: &str, detail: &str) {
        let Some(name) = self.ledger.get(id).map(|entry| entry.stored.name.clone()) else { return };
        self.note_refusal(now, id, &name, reason, detail);
    }

    /// Counts that a genuine command is not obeyed, and tells it if there is room for that: whether it was told.
    fn note_refusal(&mut self, now: Mono, id: &CommandId, name: &str, reason: &str, detail: &str) -> bool {
        self.refusals.count(Reason::parse(reason).unwrap_or(Reason::NotAllowed));
        let told = self.refusals.verified.take(now);
        if told {
            self.audit(Some(id), Some(name), reason, detail);
        }
        told
    }

    fn audit(&mut self, id: Option<&CommandId>, name: Option<&str>, reason: &str, detail: &str) {
        let event = Event::new(Severity::Warning, EventKind::Audit, "command_refused")
            .with("reason", reason)
            .with("detail", tail(detail))
            .with_some("command_id", id.map(CommandId::as_str))
            .with_some("command", name.map(tail));
        self.steps.push_back(Step::Tell(event));
        let id = id.map_or("?", CommandId::as_str);
        self.log(LogLevel::Warn, format!("command {id} refused: {reason}: {detail}"));
    }
}
