//! The life of a command: known already? → time → what it asks → may it → journaled → acted → journaled → reported. A
//! command takes effect at most once: its id is on disk before anything happens, and what was under way when the agent
//! stopped is reported INTERRUPTED and never run again. Verifies no signature and runs nothing itself.

mod budgets;
mod entry;
mod judge;
mod oldest;
mod queue;
mod refusals;
mod reports;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::Identity;
use super::admission::Power;
use super::budget::{Ledger as Budgets, Spent};
use super::command::{Command, Intervals, Name};
use super::effects::Purpose;
use super::io::{Act, ActOutcome, ActStatus, EffectId, LogLevel, Trigger};
use super::keyed::{BUDGET_KEY, CLAIM_KEY, COMMAND_KEY, FORGOTTEN_KEY, Write, write};
use super::quarantine;
use super::reboot::left_by;
use super::record::{CommandResult, Event, Stamp, Status};
use super::time::{Mono, Now, Unix};
use super::timeline::Timeline;
use super::trial::Releases;
use crate::config::{Action, CheckedConfig, QuarantineLevel};
use crate::wire::{CommandId, Reason, Refusal, VerifiedCommand};
use entry::{Entry, Origin, Stored, key, put};
use judge::{has_expired, is_fresh, lifetime, present_s, spread};
pub(crate) use oldest::{Forgotten, MAY_HAVE_RUN, oldest};
use refusals::Refusals;
use reports::{Owed, Unwritten};

/// Commands remembered. One falls out when its `exp` has passed for certain; if none has, that of the lowest `iat`
/// does, and what was issued no later is refused from then on.
pub const LEDGER_MAX: usize = 2_048;
/// Where so many of them are dated ahead of the present, another such one that is refused is answered, and not
/// remembered: they fall out last of all, so that more of them would leave no place to one that is obeyed.
pub const AHEAD_MAX: usize = LEDGER_MAX / 4;
/// Commands that wait for their target.
pub const QUEUE_MAX: usize = 64;
/// Acts that run side by side.
pub const ACTS_MAX: usize = 8;
/// So many of them are runbooks, which may be slow: there is always a hand for what heals.
pub const RUNBOOKS_MAX: usize = ACTS_MAX - 2;
/// Beside all of them, one change of the quarantine and one snapshot: they are what helps where all hands are full.
pub const UNCOUNTED_MAX: usize = 2;

/// Something that the engine is to do for a command.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Put what is remembered of a command into the outbox.
    Report(CommandResult),
    /// The same of an answer to what is not remembered. Its id may be that of a command that is: it is not its end.
    Answer(CommandResult),
    /// Put an event into the outbox.
    Tell(Event),
    /// The message was dealt with: acknowledge it.
    Acknowledge(u16),
    /// Write to the journal, and come back when it is durable.
    Journal(Purpose, Vec<Write>),
    /// Act on the gateway, as the token orders.
    Act(CommandId, Act, Option<Box<str>>, Duration),
    /// Restart the machine, as the token orders.
    Reboot {
        /// The command.
        id: CommandId,
        /// How it was signed, where it was.
        token: Option<Box<str>>,
        /// After so long.
        delay: Duration,
        /// How long the order may then take, where the command says so.
        within: Option<Duration>,
    },
    /// Look at the gateway anew.
    Look,
    /// Stop an action.
    Stop(EffectId),
    /// Stop what the gateway does by itself.
    StopLadders,
    /// Change the rates.
    Intervals(CommandId, Intervals),
    /// Tell the console.
    Log(LogLevel, String),
}

/// What decisions are made from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The present.
    pub now: Now,
    /// What is allowed.
    pub config: &'a CheckedConfig,
    /// How late it is at least.
    pub timeline: &'a Timeline,
    /// The nonce of the current presence message.
    pub nonce: &'a str,
    /// What this gateway has means for.
    pub able: &'a BTreeSet<Action>,
    /// And for what there are means, but not root's leave.
    pub withheld: &'a BTreeSet<Action>,
    /// The power supply.
    pub power: Power,
    /// How far apart rounds of collection are at present.
    pub sampled_every: Duration,
    /// Who keeps the machine up, where somebody does.
    pub blocked: Option<&'a str>,
    /// The quarantine in force.
    pub quarantine: Option<QuarantineLevel>,
    /// What is being done to the gateway that no command wants.
    pub busy: &'a [Act],
    /// A reboot was ordered, and its time has not come.
    pub reboot_waits: bool,
    /// The agent is about to end: nothing begins.
    pub stopping: bool,
    /// The releases that run.
    pub(super) releases: &'a Releases,
}

/// All commands that are known.
#[derive(Debug, Default)]
pub struct Commands {
    ledger: BTreeMap<CommandId, Entry>,
    queue: VecDeque<CommandId>,
    running: BTreeMap<EffectId, CommandId>,
    budgets: Budgets,
    careful: Careful,
    forgotten: Forgotten,
    /// There is no store: what became of a command can't be known, nor written.
    is_unstored: bool,
    steps: VecDeque<Step>,
    refusals: Refusals,
    /// Outcomes that the journal could not take: nothing is told of them before it has.
    unwritten: Unwritten,
    owed: Owed,
    /// `iat` of the last command whose time was found right: it can't be earlier than that. Of others it proves nothing
    /// but that a signer's clock is wrong.
    issued_at: Option<Unix>,
}

/// The journal was lost: what was issued before what it holds can't be known, and is not obeyed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Careful {
    /// What was issued before it may have run.
    pub before: Option<Unix>,
    /// When it was lost, where no clock could be trusted: `before` is the least that it can have been.
    pub since: Option<Stamp>,
}

impl Commands {
    /// Starts with what the journal holds. What was under way is interrupted; what wasn't reported is reported now.
    #[must_use]
    pub fn new(state: &[(String, Bytes)], careful: Careful, identity: &Identity) -> Self {
        let mut commands = Self { careful, ..Self::default() };
        for (key, value) in state {
            if let Some(id) = key.strip_prefix(COMMAND_KEY).and_then(CommandId::parse) {
                commands.restore(id, value, identity);
            } else if let Some(action) = key.strip_prefix(BUDGET_KEY).and_then(Action::parse) {
                match minicbor::decode::<Spent>(value) {
                    Ok(spent) => commands.budgets.restore(action, spent),
                    Err(error) => commands.log(LogLevel::Error, format!("journal: {key} can't be read: {error}")),
                }
            } else if key == FORGOTTEN_KEY {
                match minicbor::decode(value) {
                    Ok(forgotten) => commands.forgotten = forgotten,
                    // `careful` stands for it.
                    Err(error) => commands.log(LogLevel::Error, format!("journal: {key} can't be read: {error}")),
                }
            }
        }
        commands
    }

    /// The same where the store could not be opened.
    #[must_use]
    pub fn with_no_store(self, is_unstored: bool) -> Self {
        Self { is_unstored, ..self }
    }

    /// What is to be done next.
    pub fn poll_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// A message on a command topic; `pkid` is what to acknowledge (0: nothing).
    pub fn receive(&mut self, facts: Facts<'_>, message: Result<VerifiedCommand, Refusal>, pkid: u16) {
        let pkid = (pkid != 0).then_some(pkid);
        match message {
            Err(refusal) => {
                self.refuse(facts.now.mono, &refusal);
                self.acknowledge(pkid);
            }
            Ok(command) => self.verified(facts, &command, pkid),
        }
    }

    /// The connection is gone: what was to be acknowledged on it will be delivered again.
    pub fn forget_packets(&mut self) {
        for entry in self.ledger.values_mut() {
            entry.pkids.clear();
        }
    }

    /// A journal entry is durable, or could not be written.
    pub fn journaled(&mut self, facts: Facts<'_>, purpose: &Purpose, written: bool) {
        match purpose {
            Purpose::Accepted(id) if written => self.accepted(facts, id),
            Purpose::Accepted(id) => {
                self.not_journaled(id);
                self.begin_queued(facts);
            }
            Purpose::Begun(id) if written => self.act(facts, id),
            Purpose::Begun(id) => {
                self.unspend(id);
                // It may have been canceled while this was under way.
                if self.ledger.get(id).is_some_and(|entry| !entry.stored.status.is_terminal()) {
                    self.finish(id, Status::Failed, Some(Reason::StoreFailed.word()), None);
                }
                self.begin_queued(facts);
            }
            Purpose::Outcome(id) if written => {
                if let Some(entry) = self.ledger.get_mut(id) {
                    entry.durable = true;
                    entry.ending = false;
                }
                self.acknowledge_all(id);
                if self.is_untold(id) {
                    self.report(id);
                }
            }
            // Told now, it might be told otherwise after a crash: what stands on the disk may be that it runs.
            Purpose::Outcome(id) => {
                self.unwritten.insert(facts.now.mono, id.clone());
            }
            _ => {}
        }
    }

    /// An act was handed to the runtime under this id.
    pub fn acting(&mut self, effect: EffectId, id: CommandId) {
        self.running.insert(effect, id);
    }

    /// An act ended.
    pub fn acted(&mut self, facts: Facts<'_>, effect: EffectId, outcome: ActOutcome) {
        let Some(id) = self.running.remove(&effect) else {
            // Nobody ordered it, but somebody may have waited for it.
            return self.begin_queued(facts);
        };
        let fallback = match outcome.status {
            ActStatus::Succeeded | ActStatus::Failed | ActStatus::Rejected => None,
            ActStatus::TimedOut => Some(Reason::Timeout.word()),
            ActStatus::Canceled => Some(Reason::Canceled.word()),
            ActStatus::Interrupted => Some(Reason::Interrupted.word()),
        };
        let reason = outcome.reason.as_deref().or(fallback);
        if outcome.status == ActStatus::Rejected {
            self.note_refusal_of(
                facts.now.mono,
                &id,
                reason.unwrap_or_default(),
                outcome.detail.as_deref().unwrap_or_default(),
            );
        }
        if let Some(entry) = self.ledger.get_mut(&id) {
            entry.end(outcome.status.status(), reason, outcome.detail.as_deref());
            entry.keep_output(outcome.output);
            self.journal_end(&id);
        }
        self.begin_queued(facts);
    }

    /// What a command's act did is completed by a boot, which is the end of this other act. False: it is not one of a
    /// command's. `running`: which release of a target runs until then.
    pub fn awaits_boot<'a>(
        &mut self,
        act: EffectId,
        reboot: EffectId,
        running: impl FnOnce(&str) -> Option<&'a str>,
    ) -> bool {
        let Some(id) = self.running.remove(&act) else { return false };
        if let Some(entry) = self.ledger.get_mut(&id) {
            entry.stored.reason = Some(Reason::NeedsReboot.word().into());
            entry.stored.leaves = entry.stored.target.as_deref().and_then(running).map(Into::into);
            entry.spending = None;
            let entries = vec![put(&id, &entry.stored)];
            self.steps.push_back(Step::Journal(Purpose::Note, entries));
        }
        self.running.insert(reboot, id);
        true
    }

    /// What commands are doing.
    pub fn acts(&self) -> impl Iterator<Item = &Act> {
        self.ledger.values().filter(|entry| entry.stored.status == Status::InProgress).filter_map(Entry::act)
    }

    /// Which command wanted an act.
    #[must_use]
    pub fn of_act(&self, effect: EffectId) -> Option<&CommandId> {
        self.running.get(&effect)
    }

    /// Whether with its end the journal has to say what the gateway is quarantined by: it was named there, begun or
    /// not, or it has ended that.
    #[must_use]
    pub fn changes_quarantine(&self, id: &CommandId) -> bool {
        self.ledger.get(id).is_some_and(|entry| matches!(entry.stored.name(), Some(Name::Quarantine | Name::Release)))
    }

    /// Tries again what the journal could not take, and begins what has waited for its turn.
    pub fn poll(&mut self, facts: Facts<'_>) {
        let now = facts.now.mono;
        if self.turns().any(|at| at <= now) {
            self.begin_queued(facts);
        }
        self.journal_again(now);
    }

    /// When [`Commands::poll`] has something to do.
    #[must_use]
    pub fn deadline(&self, stopping: bool) -> Option<Mono> {
        let turn = self.turns().min().filter(|_| !stopping);
        self.unwritten.retry_at().into_iter().chain(turn).min()
    }

    /// The `iat` of a command whose time was found right since it was last asked.
    pub const fn take_issued_at(&mut self) -> Option<Unix> {
        self.issued_at.take()
    }

    /// Since when commands are obeyed, if what was issued before isn't known.
    #[must_use]
    pub const fn careful(&self) -> Careful {
        self.careful
    }

    /// Gives the moment at which the journal was lost its date, once the clock can be trusted. Some: what is to be
    /// saved.
    pub fn date_careful(&mut self, timeline: &Timeline) -> Option<Careful> {
        let since = self.careful.since?;
        // A boot that never knew the time was over before this one began.
        let date = timeline.date(since).or_else(|| timeline.date(timeline.booted()))?;
        self.careful = Careful { before: self.careful.before.max(Some(date)), since: None };
        Some(self.careful)
    }

    /// What it holds in memory: a name, how much, and the bound.
    #[must_use]
    pub fn bounds(&self) -> [(&'static str, usize, usize); 4] {
        let (answers, answers_max) = self.owed.bound();
        [
            ("answers that wait for the outbox", answers, answers_max),
            ("commands remembered", self.ledger.len(), LEDGER_MAX),
            ("commands queued", self.queue.len(), QUEUE_MAX),
            ("acts under way", self.running.len(), ACTS_MAX + UNCOUNTED_MAX),
        ]
    }

    /// How many are queued or under way.
    #[must_use]
    pub fn open(&self) -> usize {
        self.queue.len() + self.running.len()
    }

    /// What was refused since it was last asked, by reason.
    pub fn take_refused(&mut self) -> BTreeMap<Reason, u64> {
        self.refusals.take_counts()
    }

    fn restore(&mut self, id: CommandId, value: &Bytes, identity: &Identity) {
        let stored: Stored = match minicbor::decode(value) {
            Ok(stored) => stored,
            Err(error) => {
                self.log(LogLevel::Error, format!("journal: command {id} can't be read: {error}"));
                // It may have run: whatever comes under its id is refused as replayed.
                Stored::unreadable()
            }
        };
        let (end, reported, report_seq) = (stored.end_of_cut_off(identity), stored.reported, stored.seq);
        let entry = Entry { durable: true, report_seq, ..Entry::new(stored) };
        self.ledger.insert(id.clone(), entry);
        match end {
            Some((status, reason, detail)) => self.finish(&id, status, reason, Some(&detail)),
            None if !reported => self.report(&id),
            None => {}
        }
    }

    fn verified(&mut self, facts: Facts<'_>, command: &VerifiedCommand, pkid: Option<u16>) {
        if self.is_unstored {
            // Not acknowledged, so that the broker brings it again when the store is back, which knows of it if it has
            // run. Whatever was said of it now would be taken for its end, and it would be sent anew.
            if self.refusals.verified.take(facts.now.mono) {
                self.log(LogLevel::Warn, format!("command {} waits at the broker: there is no store", command.id));
            }
            return;
        }
        if let Some(entry) = self.ledger.get_mut(&command.id) {
            if entry.stored.digest != command.digest {
                let detail = "the id was used by another command before".into();
                return self.refuse_verified(facts, command, Reason::Replayed, detail, pkid, false);
            }
            if !entry.durable {
                entry.pkids.extend(pkid);
                return;
            }
            if entry.ending {
                return self.acknowledge(pkid);
            }
            let result = entry.stored.result(&command.id);
            // Each answer is a write: one old token sent over and over must not wear the flash.
            if self.refusals.verified.take(facts.now.mono) {
                self.steps.push_back(Step::Report(result));
            }
            return self.acknowledge(pkid);
        }
        let parsed = match self.judge(facts, command) {
            Ok(parsed) => parsed,
            Err((reason, detail)) => {
                // Where it is remembered that is before it is acknowledged, or nobody would hear of it after a crash;
                // and it stays refused when the clock is put right and the same message comes again.
                let keep = self.may_remember(facts, command) && self.make_room(facts, command);
                return self.refuse_verified(facts, command, reason, detail, pkid, keep);
            }
        };
        self.issued_at = Some(Unix::of_seconds(command.issued_at));
        if !self.make_room(facts, command) {
            let detail = format!("{LEDGER_MAX} commands are remembered, and none of them can be forgotten yet");
            return self.refuse_verified(facts, command, Reason::Busy, detail, pkid, false);
        }
        self.accept(facts, command, parsed, pkid);
    }

    /// Whether one that is refused may be remembered: not if it is one more of too many that are dated ahead.
    fn may_remember(&self, facts: Facts<'_>, command: &VerifiedCommand) -> bool {
        let present_s = present_s(facts, false);
        let ahead = || self.ledger.values().filter(|entry| entry.stored.issued_at > present_s).count();
        command.issued_at <= present_s || ahead() < AHEAD_MAX
    }

    /// Forgets what can't be valid any more, and if that isn't enough what was issued before all else. False if the
    /// ledger is full all the same.
    fn make_room(&mut self, facts: Facts<'_>, newcomer: &VerifiedCommand) -> bool {
        if self.ledger.len() >= LEDGER_MAX {
            self.forget_expired(facts);
        }
        if self.ledger.len() >= LEDGER_MAX {
            self.forget_oldest(facts, newcomer);
        }
        self.ledger.len() < LEDGER_MAX
    }

    /// Only what has expired for certain.
    fn forget_expired(&mut self, facts: Facts<'_>) {
        let is_past = |entry: &Entry| entry.stored.reported && has_expired(facts, entry.stored.expires_at, true);
        let expired = self.ledger.iter().filter(|(_, entry)| is_past(entry)).map(|(id, _)| id.clone()).collect();
        self.forget(expired);
    }

    fn forget_oldest(&mut self, facts: Facts<'_>, newcomer: &VerifiedCommand) {
        let over = self.ledger.iter().filter(|(_, entry)| entry.is_over());
        let dated = over.map(|(id, entry)| (entry.stored.issued_at, id.clone()));
        let surplus = (self.ledger.len() + 1).saturating_sub(LEDGER_MAX);
        self.forget(oldest(dated, surplus, newcomer.issued_at, present_s(facts, false)));
    }

    /// What is forgotten must not run again, whatever the clock says later: what is refused from now on stands in the
    /// same write.
    fn forget(&mut self, ids: Vec<CommandId>) {
        if ids.is_empty() {
            return;
        }
        for entry in ids.iter().filter_map(|id| self.ledger.remove(id)) {
            self.forgotten.add(entry.stored.issued_at, entry.stored.expires_at);
        }
        let mut entries = vec![write(FORGOTTEN_KEY, &self.forgotten)];
        entries.extend(ids.iter().map(|id| (key(id), None)));
        self.steps.push_back(Step::Journal(Purpose::Note, entries));
    }

    fn accept(&mut self, facts: Facts<'_>, command: &VerifiedCommand, parsed: Command, pkid: Option<u16>) {
        let spread = spread(facts, command, &parsed);
        let begins_at = spread.map(|wait| facts.now.mono.after(wait));
        let waits = begins_at.is_some() || parsed.act().is_some_and(|act| self.must_wait(facts, act));
        let status = if waits { Status::Queued } else { Status::InProgress };
        let detail =
            spread.map(|wait| format!("one of a group: begins in {} s, args.now says at once", wait.as_secs()).into());
        let target = parsed.act().map(|act| act.target().into());
        let stored = Stored {
            boot: Some(facts.timeline.boot()),
            target,
            detail,
            unannounced: matches!(parsed, Command::Reboot { .. }),
            leaves: parsed.act().filter(|_| !waits).and_then(|act| left_by(facts.releases, act)),
            ..Stored::new(command, status)
        };
        let mut entries = vec![put(&command.id, &stored)];
        // With the command: an agent that is killed must not take one that had expired for a fresh one.
        let claimed = self.issued_at.filter(|issued_at| *issued_at > facts.timeline.floor());
        entries.extend(claimed.map(|claimed| write(CLAIM_KEY, &claimed)));
        let mut spending = None;
        if let (false, Some(act)) = (waits, parsed.act()) {
            let (spent, spends) = self.spend(facts, act).unzip();
            spending = spends;
            entries.extend(spent);
            entries.extend(intent(facts, &command.id, act));
        }
        let timeout = command.timeout_s.map(Duration::from_secs);
        let entry = Entry {
            command: Some(parsed),
            origin: Some(Origin::of(command)),
            fresh_until: is_fresh(facts, command).then(|| facts.now.mono.after(lifetime(command))),
            begins_at,
            pkids: pkid.into_iter().collect(),
            timeout,
            spending,
            ..Entry::new(stored)
        };
        self.ledger.insert(command.id.clone(), entry);
        if waits {
            self.queue.push_back(command.id.clone());
        }
        self.steps.push_back(Step::Journal(Purpose::Accepted(command.id.clone()), entries));
    }

    /// The command is on disk: now it may be acknowledged, told and begun.
    fn accepted(&mut self, facts: Facts<'_>, id: &CommandId) {
        let Some(entry) = self.ledger.get_mut(id) else { return };
        entry.durable = true;
        let status = entry.stored.status;
        self.acknowledge_all(id);
        match status {
            Status::Queued => {
                self.report(id);
                self.begin_queued(facts);
            }
            Status::InProgress => self.act(facts, id),
            _ => self.report(id),
        }
    }

    /// Nothing was begun. What was to be journaled may stand on the disk all the same, so the refusal is journaled over
    /// it before anybody is told.
    fn not_journaled(&mut self, id: &CommandId) {
        self.unspend(id);
        self.queue.retain(|queued| queued != id);
        let Some(entry) = self.ledger.get(id) else { return };
        if entry.stored.status.is_terminal() {
            return self.journal_end(id);
        }
        let detail = "the journal could not be written; it was not begun";
        self.finish(id, Status::Rejected, Some(Reason::StoreFailed.word()), Some(detail));
    }

    fn act(&mut self, facts: Facts<'_>, id: &CommandId) {
        let Some(entry) = self.ledger.get(id) else { return };
        let Some(command) = entry.command.clone() else { return };
        match command {
            Command::Ping => self.finish(id, Status::Succeeded, None, Some("pong")),
            Command::Act(_) | Command::Reboot { .. } if facts.stopping => {
                self.unspend(id);
                let detail = "the agent stopped before it began";
                self.finish(id, Status::Canceled, Some(Reason::Interrupted.word()), Some(detail));
            }
            Command::Act(act) => {
                self.report(id);
                let timeout = self.timeout(id, &act);
                let token = self.take_token(id);
                self.steps.push_back(Step::Act(id.clone(), act, token, timeout));
            }
            Command::Reboot { delay } => {
                self.report(id);
                // The token stays: by that it is judged again when the delay is over.
                let entry = self.ledger.get(id);
                let token = entry.and_then(|entry| entry.origin.as_ref()?.token()).map(Into::into);
                let within = entry.and_then(|entry| entry.timeout);
                self.steps.push_back(Step::Reboot { id: id.clone(), token, delay, within });
            }
            Command::Cancel(other) => {
                let found = self.cancel(&other);
                let detail = if found {
                    format!("{other} is being canceled")
                } else {
                    format!("{other} is neither queued nor under way")
                };
                let (status, reason) =
                    if found { (Status::Succeeded, None) } else { (Status::Failed, Some("not_found")) };
                self.finish(id, status, reason, Some(&detail));
                self.begin_queued(facts);
            }
            Command::CancelAll => {
                let acts = self.ledger.iter().filter(|(_, entry)| entry.act().is_some());
                let open: Vec<CommandId> = acts.map(|(id, _)| id.clone()).collect();
                let canceled = open.iter().filter(|other| self.cancel(other)).count();
                self.steps.push_back(Step::StopLadders);
                let detail = format!("{canceled} commands canceled, and all that the gateway does by its own rules");
                self.finish(id, Status::Succeeded, None, Some(&detail));
            }
            Command::SetIntervals(intervals) => self.steps.push_back(Step::Intervals(id.clone(), intervals)),
        }
    }

    /// Other intervals are in force, and are told: those, too, that followed.
    pub fn intervals_set(&mut self, id: &CommandId, detail: &str) {
        self.finish(id, Status::Succeeded, None, Some(detail));
    }

    fn take_token(&mut self, id: &CommandId) -> Option<Box<str>> {
        self.ledger.get_mut(id)?.origin.take()?.token().map(Into::into)
    }

    fn timeout(&self, id: &CommandId, act: &Act) -> Duration {
        self.ledger.get(id).and_then(|entry| entry.timeout).unwrap_or_else(|| act.default_timeout())
    }

    fn acknowledge(&mut self, pkid: Option<u16>) {
        if let Some(pkid) = pkid {
            self.steps.push_back(Step::Acknowledge(pkid));
        }
    }

    fn acknowledge_all(&mut self, id: &CommandId) {
        let Some(entry) = self.ledger.get_mut(id) else { return };
        self.steps.extend(std::mem::take(&mut entry.pkids).into_iter().map(Step::Acknowledge));
    }

    fn log(&mut self, level: LogLevel, text: String) {
        self.steps.push_back(Step::Log(level, text));
    }
}

/// What is journaled with the beginning of an act beside the command.
fn intent(facts: Facts<'_>, id: &CommandId, act: &Act) -> Option<Write> {
    let at = facts.timeline.stamp(facts.now.mono);
    quarantine::intent(act, &Trigger::Command(id.clone()), at, facts.quarantine)
}
