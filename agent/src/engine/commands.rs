//! The life of a command: known already? → time → what it asks → may it → journaled → acted → journaled → reported. A
//! command takes effect at most once: its id is on disk before anything happens, and what was under way when the agent
//! stopped is reported INTERRUPTED and never run again. Verifies no signature and runs nothing itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::admission::{self, Circumstances, Power};
use super::budget::{Ledger as Budgets, Spent};
use super::command::{Command, Intervals};
use super::effects::Purpose;
use super::hash::hash;
use super::io::{Act, ActOutcome, ActStatus, EffectId, LogLevel, StoreFault, Trigger};
use super::keyed::{BUDGET_KEY, CLAIM_KEY, COMMAND_KEY, FLOOR_KEY, Write, write};
use super::observation::Severity;
use super::quarantine;
use super::record::{CommandResult, Event, EventKind, Stamp, Status};
use super::time::{BootId, Mono, Now, Unix};
use super::timeline::Timeline;
use crate::config::{Action, CheckedConfig, QuarantineLevel};
use crate::wire::{CommandId, Reason, Refusal, VerifiedCommand};

/// Commands remembered. One falls out only when its `exp` has passed for certain; until then new ones are `busy`.
pub const LEDGER_MAX: usize = 2_048;
/// Commands that wait for their target.
pub const QUEUE_MAX: usize = 64;
/// Acts that run side by side.
pub const ACTS_MAX: usize = 8;
/// Refusals that are told one by one: so many at once, then one a second. The rest is counted.
const REFUSALS_BURST: u32 = 60;
/// Keeps an entry of the ledger well under the keyed store's limit on a value.
const KEPT_TEXT_MAX: usize = 2_048;
/// Progress is told in steps of at least this.
const PROGRESS_STEP_PCT: u8 = 5;

/// Commands that act on the gateway: they are told as remedies, too.
const ACTING: [&str; 8] =
    ["restart_unit", "restart_link", "reboot", "rollback", "mark_good", "quarantine", "release", "run"];

/// Something that the engine is to do for a command.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Put a result into the outbox.
    Report(CommandResult),
    /// Put an event into the outbox.
    Tell(Event),
    /// The message was dealt with: acknowledge it.
    Acknowledge(u16),
    /// Write to the journal, and come back when it is durable.
    Journal(Purpose, Vec<Write>),
    /// Act on the gateway, as the token orders.
    Act(CommandId, Act, Option<Box<str>>, Duration),
    /// Restart the machine after a while.
    Reboot(CommandId, Option<Box<str>>, Duration),
    /// Stop an action.
    Stop(EffectId),
    /// Stop what the gateway does by itself.
    StopLadders,
    /// Change the rates.
    Intervals(Intervals),
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
    /// The agent is about to end: nothing begins.
    pub stopping: bool,
}

/// All commands that are known.
#[derive(Debug, Default)]
pub struct Commands {
    ledger: BTreeMap<CommandId, Entry>,
    queue: VecDeque<CommandId>,
    running: BTreeMap<EffectId, CommandId>,
    budgets: Budgets,
    careful: Careful,
    steps: VecDeque<Step>,
    refusals: Bucket,
    refused: BTreeMap<Reason, u64>,
    /// Outcomes that the journal could not take: nothing is told of them before it has.
    unwritten: BTreeSet<CommandId>,
    retry_at: Option<Mono>,
    /// `iat` of the last command whose time was found right: it can't be earlier than that. Of others it proves nothing but
    /// that a signer's clock is wrong.
    issued_at: Option<Unix>,
    /// The newest `exp` that was forgotten as passed since it was last asked.
    passed: Option<Unix>,
}

/// The journal was lost: what was issued before that can't be known, and is not obeyed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Careful {
    /// What was issued before it may have run.
    pub before: Option<Unix>,
    /// When it was lost, where no clock could be trusted: `before` is the least that it can have been.
    pub since: Option<Stamp>,
}

/// A command in the ledger.
#[derive(Debug)]
struct Entry {
    stored: Stored,
    /// What it asks; `None` for one that came from the disk and won't run again.
    command: Option<Command>,
    /// How it was signed, until it has begun.
    token: Option<Box<str>>,
    /// What it works on.
    target: Option<Box<str>>,
    /// One of a group's waits for its own turn until then.
    begins_at: Option<Mono>,
    /// The messages to acknowledge once this is durable: it may have come more than once until then.
    pkids: Vec<u16>,
    durable: bool,
    timeout: Option<Duration>,
    /// All that is kept of what it printed, until that was reported; the journal keeps the end of it.
    output: Option<Box<str>>,
    progress_pct: u8,
    /// The seq under which its terminal status was put into the outbox.
    report_seq: Option<u64>,
    /// How it ended is on its way to the disk: it is told from there.
    ending: bool,
}

impl Entry {
    fn new(stored: Stored) -> Self {
        Self {
            stored,
            command: None,
            token: None,
            target: None,
            begins_at: None,
            pkids: Vec::new(),
            durable: false,
            timeout: None,
            output: None,
            progress_pct: 0,
            report_seq: None,
            ending: false,
        }
    }
}

/// A command as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Stored {
    #[n(0)]
    name: Box<str>,
    #[cbor(n(1), with = "minicbor::bytes")]
    digest: [u8; 32],
    #[n(2)]
    expires_at: i64,
    #[n(3)]
    status: Status,
    #[n(4)]
    reason: Option<Box<str>>,
    #[n(5)]
    detail: Option<Box<str>>,
    #[n(6)]
    output: Option<Box<str>>,
    /// The terminal status reached the outbox.
    #[n(7)]
    reported: bool,
    /// The boot in which it began: a reboot is judged by it.
    #[n(8)]
    boot: Option<BootId>,
}

#[derive(Debug, Default)]
struct Bucket {
    used: u32,
    since: Mono,
}

impl Commands {
    /// Starts with what the journal holds. What was under way is interrupted; what wasn't reported is reported now.
    #[must_use]
    pub fn new(state: &[(String, Bytes)], careful: Careful, boot: BootId) -> Self {
        let mut commands = Self { careful, ..Self::default() };
        for (key, value) in state {
            if let Some(id) = key.strip_prefix(COMMAND_KEY).and_then(CommandId::parse) {
                commands.restore(id, value, boot);
            } else if let Some(action) = key.strip_prefix(BUDGET_KEY).and_then(Action::parse) {
                match minicbor::decode::<Spent>(value) {
                    Ok(spent) => commands.budgets.restore(action, spent),
                    Err(error) => commands.log(LogLevel::Error, format!("journal: {key} can't be read: {error}")),
                }
            }
        }
        commands
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
                self.finish(id, Status::Failed, Some(Reason::StoreFailed.word()), None, None);
                self.begin_queued(facts);
            }
            Purpose::Outcome(id) if written => {
                if let Some(entry) = self.ledger.get_mut(id) {
                    entry.durable = true;
                    entry.ending = false;
                }
                self.acknowledge_all(id);
                self.report(id);
            }
            // Told now, it might be told otherwise after a crash: what stands on the disk may be that it runs.
            Purpose::Outcome(id) => {
                self.unwritten.insert(id.clone());
                self.retry_at.get_or_insert(facts.now.mono.after(StoreFault::RETRY_AFTER));
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
            ActStatus::Succeeded | ActStatus::Failed => None,
            ActStatus::TimedOut => Some(Reason::Timeout.word()),
            ActStatus::Canceled => Some(Reason::Canceled.word()),
            ActStatus::Interrupted => Some(Reason::Interrupted.word()),
        };
        let reason = outcome.reason.as_deref().or(fallback);
        self.finish(&id, outcome.status.status(), reason, outcome.detail, outcome.output);
        self.begin_queued(facts);
    }

    /// What a command's act did is completed by a boot, which is the end of this other act. False: it is not one of a
    /// command's.
    pub fn awaits_boot(&mut self, act: EffectId, reboot: EffectId) -> bool {
        let Some(id) = self.running.remove(&act) else { return false };
        if let Some(entry) = self.ledger.get_mut(&id) {
            entry.stored.reason = Some(Reason::NeedsReboot.word().into());
            let entries = vec![put(&id, &entry.stored)];
            self.steps.push_back(Step::Journal(Purpose::Bookkeeping, entries));
        }
        self.running.insert(reboot, id);
        true
    }

    /// Since when commands are obeyed, if the journal was lost.
    #[must_use]
    pub const fn careful(&self) -> Careful {
        self.careful
    }

    /// Gives the moment at which the journal was lost its date, once the clock can be trusted. Some: what is to be saved.
    pub fn date_careful(&mut self, timeline: &Timeline) -> Option<Careful> {
        let since = self.careful.since?;
        // A boot that never knew the time was over before this one began.
        let this_boot = Stamp { boot: timeline.boot(), mono: Mono(0) };
        let date = timeline.date(since).or_else(|| timeline.date(this_boot))?;
        self.careful = Careful { before: self.careful.before.max(Some(date)), since: None };
        Some(self.careful)
    }

    /// Whether the journal names it as what the gateway is quarantined by, begun or not.
    #[must_use]
    pub fn enters_quarantine(&self, id: &CommandId) -> bool {
        self.ledger.get(id).is_some_and(|entry| &*entry.stored.name == Action::Quarantine.word())
    }

    /// Which command wanted an act.
    #[must_use]
    pub fn of_act(&self, effect: EffectId) -> Option<&CommandId> {
        self.running.get(&effect)
    }

    /// An act says how far it is.
    pub fn progressed(&mut self, effect: EffectId, percent: u8) {
        let Some(id) = self.running.get(&effect).cloned() else { return };
        let Some(entry) = self.ledger.get_mut(&id) else { return };
        let percent = percent.min(100);
        if percent < entry.progress_pct.saturating_add(PROGRESS_STEP_PCT)
            && (percent != 100 || entry.progress_pct == 100)
        {
            return;
        }
        entry.progress_pct = percent;
        let mut result = result_of(&id, &entry.stored);
        result.progress_pct = Some(percent);
        self.steps.push_back(Step::Report(result));
    }

    /// A report was given this seq: once that is safe, the report needn't be made again after a crash.
    pub fn reported_as(&mut self, id: &str, seq: u64) {
        let Some(id) = CommandId::parse(id) else { return };
        if let Some(entry) = self.ledger.get_mut(&id) {
            if entry.stored.status.is_terminal() {
                entry.report_seq = Some(seq);
            }
        }
    }

    /// A report was stored under another seq after the store had refused it.
    pub fn renumbered(&mut self, old: u64, new: u64) {
        if let Some(entry) = self.ledger.values_mut().find(|entry| entry.report_seq == Some(old)) {
            entry.report_seq = Some(new);
        }
    }

    /// More of the outbox's results are where a crash can't take them.
    pub fn results_safe(&mut self, is_safe: impl Fn(u64) -> bool) {
        let mut entries = Vec::new();
        for (id, entry) in &mut self.ledger {
            if entry.report_seq.is_some_and(&is_safe) {
                entry.report_seq = None;
                if !entry.stored.reported {
                    entry.stored.reported = true;
                    entries.push(put(id, &entry.stored));
                }
            }
        }
        if !entries.is_empty() {
            self.steps.push_back(Step::Journal(Purpose::Bookkeeping, entries));
        }
    }

    /// What it holds in memory: a name, how much, and the bound.
    #[must_use]
    pub fn bounds(&self) -> [(&'static str, usize, usize); 3] {
        [
            ("commands remembered", self.ledger.len(), LEDGER_MAX),
            ("commands queued", self.queue.len(), QUEUE_MAX),
            ("acts under way", self.running.len(), ACTS_MAX),
        ]
    }

    /// How many are queued or under way.
    #[must_use]
    pub fn open(&self) -> usize {
        self.queue.len() + self.running.len()
    }

    /// What was refused since it was last asked, by reason.
    pub fn take_refused(&mut self) -> BTreeMap<Reason, u64> {
        std::mem::take(&mut self.refused)
    }

    fn restore(&mut self, id: CommandId, value: &Bytes, boot: BootId) {
        let stored: Stored = match minicbor::decode(value) {
            Ok(stored) => stored,
            Err(error) => {
                self.log(LogLevel::Error, format!("journal: command {id} can't be read: {error}"));
                // It may have run: whatever comes under its id is refused as replayed.
                Stored::unreadable()
            }
        };
        let awaits_boot = &*stored.name == "reboot" || stored.reason.as_deref() == Some(Reason::NeedsReboot.word());
        let rebooted = awaits_boot.then(|| stored.boot.is_some_and(|began| began != boot));
        let (status, reported) = (stored.status, stored.reported);
        let entry = Entry { durable: true, ..Entry::new(stored) };
        self.ledger.insert(id.clone(), entry);
        let reason = Some(Reason::Interrupted.word());
        match status {
            Status::Queued => {
                let detail = "the agent stopped before it began".to_owned();
                self.finish(&id, Status::Canceled, reason, Some(detail), None);
            }
            Status::InProgress if rebooted == Some(true) => {
                self.finish(&id, Status::Succeeded, None, Some("this is another boot".into()), None);
            }
            Status::InProgress if rebooted == Some(false) => {
                let detail = "the agent was started again in the same boot".to_owned();
                self.finish(&id, Status::Failed, Some(Reason::SameBoot.word()), Some(detail), None);
            }
            Status::InProgress => {
                let detail = "the agent stopped while it was under way; what came of it can't be known".to_owned();
                self.finish(&id, Status::Interrupted, reason, Some(detail), None);
            }
            _ if !reported => self.report(&id),
            _ => {}
        }
    }

    fn verified(&mut self, facts: Facts<'_>, command: &VerifiedCommand, pkid: Option<u16>) {
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
            let result = result_of(&command.id, &entry.stored);
            // Each answer is a write: one old token sent over and over must not wear the flash.
            if self.refusals.take(facts.now.mono) {
                self.steps.push_back(Step::Report(result));
            }
            return self.acknowledge(pkid);
        }
        let parsed = match self.judge(facts, command) {
            Ok(parsed) => parsed,
            Err((reason, detail)) => {
                // Remembered before it is acknowledged, or nobody would hear of it after a crash; and so that it stays refused
                // when the clock is put right and the same message comes again.
                let keep = self.make_room(facts);
                return self.refuse_verified(facts, command, reason, detail, pkid, keep);
            }
        };
        self.issued_at = Some(Unix::of_seconds(command.issued_at));
        if !self.make_room(facts) {
            let detail = format!("{LEDGER_MAX} unexpired commands are remembered already");
            return self.refuse_verified(facts, command, Reason::Busy, detail, pkid, false);
        }
        self.accept(facts, command, parsed, pkid);
    }

    /// Whether a command that proved genuine is to be obeyed now. What never changes is asked first.
    fn judge(&self, facts: Facts<'_>, command: &VerifiedCommand) -> Result<Command, (Reason, String)> {
        let fresh = command.nonce.as_deref() == Some(facts.nonce);
        judge_time(facts, command, fresh)?;
        if self.careful.before.is_some_and(|before| Unix::of_seconds(command.issued_at) < before) {
            return Err((Reason::Replayed, "issued before the journal was lost: whether it ran can't be known".into()));
        }
        let parsed = Command::parse(command)?;
        if !matches!(parsed, Command::Ping) {
            quarantine::forbids(facts.quarantine, parsed.act())?;
        }
        if let Some(act) = parsed.act() {
            admission::permitted(self.circumstances(facts), act)?;
        }
        if parsed.is_disruptive() && !facts.now.wall.trusted && !fresh {
            let detail = "the clock isn't synchronised: put the nonce of the presence message into the command";
            return Err((Reason::ClockUntrusted, detail.into()));
        }
        if let Some(act) = parsed.act() {
            admission::affordable(self.circumstances(facts), act)?;
            admission::rehearsed(self.circumstances(facts), act)?;
            let waits = spread(facts, command, &parsed).is_some() || self.target_is_taken(facts, act);
            if waits && self.queue.len() >= QUEUE_MAX {
                return Err((Reason::Busy, format!("{QUEUE_MAX} commands are queued already")));
            }
        }
        Ok(parsed)
    }

    fn circumstances<'f>(&'f self, facts: Facts<'f>) -> Circumstances<'f> {
        let Facts { now, config, timeline, able, power, sampled_every, blocked, .. } = facts;
        Circumstances { now, config, timeline, budgets: &self.budgets, able, power, sampled_every, blocked }
    }

    /// Whether a ladder may do this now, by the same policy; and what holds for what is automatic only.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, facts: Facts<'_>, act: &Act) -> Result<(), admission::Refusal> {
        let circumstances = self.circumstances(facts);
        quarantine::forbids(facts.quarantine, Some(act))?;
        admission::permitted(circumstances, act)?;
        if self.target_is_taken(facts, act) {
            return Err((Reason::Busy, format!("something works on {} already", act.target())));
        }
        admission::settled(circumstances, act)?;
        admission::affordable(circumstances, act)?;
        admission::rehearsed(circumstances, act)
    }

    fn accept(&mut self, facts: Facts<'_>, command: &VerifiedCommand, parsed: Command, pkid: Option<u16>) {
        let spread = spread(facts, command, &parsed);
        let begins_at = spread.map(|wait| facts.now.mono.after(wait));
        let waits = begins_at.is_some() || parsed.act().is_some_and(|act| self.target_is_taken(facts, act));
        let status = if waits { Status::Queued } else { Status::InProgress };
        let detail =
            spread.map(|wait| format!("one of a group: begins in {} s, args.now says at once", wait.as_secs()).into());
        let stored = Stored { boot: Some(facts.timeline.boot()), detail, ..Stored::new(command, status) };
        let target = parsed.act().map(|act| act.target().into());
        let mut entries = vec![put(&command.id, &stored)];
        // With the command: an agent that is killed must not take one that had expired for a fresh one.
        let claimed = self.issued_at.filter(|issued_at| *issued_at > facts.timeline.floor());
        entries.extend(claimed.map(|claimed| write(CLAIM_KEY, &claimed)));
        if let (false, Some(act)) = (waits, parsed.act()) {
            entries.extend(self.spend(facts, act));
            entries.extend(intent(facts, &command.id, act));
        }
        let timeout = command.timeout_s.map(Duration::from_secs);
        let entry = Entry {
            command: Some(parsed),
            token: command.token.clone(),
            target,
            begins_at,
            pkids: pkid.into_iter().collect(),
            timeout,
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
        let (status, ending) = (entry.stored.status, entry.ending);
        self.acknowledge_all(id);
        match status {
            // It was canceled while this was under way.
            _ if ending => {}
            Status::Queued => {
                self.report(id);
                self.begin_queued(facts);
            }
            Status::InProgress => self.act(facts, id),
            _ => self.report(id),
        }
    }

    /// Since it was last asked: the `iat` of a command whose time was found right, and the newest `exp` of those that were
    /// forgotten.
    pub const fn take_times(&mut self) -> (Option<Unix>, Option<Unix>) {
        (self.issued_at.take(), self.passed.take())
    }

    /// Nothing was begun. What was to be journaled may stand on the disk all the same, so the refusal is journaled over it
    /// before anybody is told.
    fn not_journaled(&mut self, id: &CommandId) {
        self.queue.retain(|queued| queued != id);
        let Some(entry) = self.ledger.get(id) else { return };
        if entry.ending {
            return;
        }
        if entry.stored.status.is_terminal() {
            return self.journal_end(id);
        }
        let detail = "the journal could not be written; it was not begun".to_owned();
        self.finish(id, Status::Rejected, Some(Reason::StoreFailed.word()), Some(detail), None);
    }

    /// Tries again what the journal could not take, and begins what has waited for its turn.
    pub fn poll(&mut self, facts: Facts<'_>) {
        let now = facts.now.mono;
        if self.turns().any(|at| at <= now) {
            self.begin_queued(facts);
        }
        if self.retry_at.is_none_or(|at| at > now) {
            return;
        }
        self.retry_at = None;
        for id in std::mem::take(&mut self.unwritten) {
            let Some(entry) = self.ledger.get(&id) else { continue };
            let entries = vec![put(&id, &entry.stored)];
            self.steps.push_back(Step::Journal(Purpose::Outcome(id), entries));
        }
    }

    /// When [`Commands::poll`] has something to do.
    #[must_use]
    pub fn deadline(&self, stopping: bool) -> Option<Mono> {
        let turn = self.turns().min().filter(|_| !stopping);
        self.retry_at.into_iter().chain(turn).min()
    }

    /// When those that wait for their own turn begin.
    fn turns(&self) -> impl Iterator<Item = Mono> + '_ {
        self.queue.iter().filter_map(|id| self.ledger.get(id)?.begins_at)
    }

    /// The outbox has given up the result with this seq: it is reported again.
    pub fn report_lost(&mut self, now: Mono, seq: u64) {
        for (id, entry) in self.ledger.iter_mut().filter(|(_, entry)| entry.report_seq == Some(seq)) {
            entry.report_seq = None;
            self.unwritten.insert(id.clone());
            self.retry_at.get_or_insert(now.after(StoreFault::RETRY_AFTER));
        }
    }

    fn act(&mut self, facts: Facts<'_>, id: &CommandId) {
        let Some(entry) = self.ledger.get(id) else { return };
        let Some(command) = entry.command.clone() else { return };
        match command {
            Command::Ping => self.finish(id, Status::Succeeded, None, Some("pong".into()), None),
            Command::Act(act) => {
                self.report(id);
                let timeout = self.timeout(id, &act);
                let token = self.take_token(id);
                self.steps.push_back(Step::Act(id.clone(), act, token, timeout));
            }
            Command::Reboot { delay } => {
                self.report(id);
                let token = self.take_token(id);
                self.steps.push_back(Step::Reboot(id.clone(), token, delay));
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
                self.finish(id, status, reason, Some(detail), None);
                self.begin_queued(facts);
            }
            Command::CancelAll => {
                let acts = |entry: &Entry| entry.command.as_ref().and_then(Command::act).is_some();
                let open: Vec<CommandId> =
                    self.ledger.iter().filter(|(_, entry)| acts(entry)).map(|(id, _)| id.clone()).collect();
                let canceled = open.iter().filter(|other| self.cancel(other)).count();
                self.steps.push_back(Step::StopLadders);
                let detail = format!("{canceled} commands canceled, and all that the gateway does by its own rules");
                self.finish(id, Status::Succeeded, None, Some(detail), None);
            }
            Command::SetIntervals(intervals) => {
                self.steps.push_back(Step::Intervals(intervals));
                self.finish(id, Status::Succeeded, None, None, None);
            }
        }
    }

    /// What waits, and whose target is free now, begins. What has expired meanwhile, or can't be afforded, ends.
    pub fn begin_queued(&mut self, facts: Facts<'_>) {
        if facts.stopping {
            return;
        }
        for id in std::mem::take(&mut self.queue) {
            let Some(entry) = self.ledger.get_mut(&id) else { continue };
            let Some(act) = entry.command.as_ref().and_then(Command::act).cloned() else { continue };
            entry.begins_at.take_if(|at| *at <= facts.now.mono);
            let Some(entry) = self.ledger.get(&id) else { continue };
            if !entry.durable || entry.begins_at.is_some() || self.target_is_taken(facts, &act) {
                self.queue.push_back(id);
            } else if has_expired(facts, entry.stored.expires_at) {
                self.finish(
                    &id,
                    Status::TimedOut,
                    Some(Reason::Expired.word()),
                    Some("expired while it was queued".into()),
                    None,
                );
            } else if let Err((reason, detail)) = self.admit_queued(facts, &act) {
                self.finish(&id, Status::Rejected, Some(reason.word()), Some(detail), None);
            } else {
                self.begin(facts, &id, &act);
            }
        }
    }

    /// What was allowed when it came may not be any more: the config has changed, the battery has run down.
    fn admit_queued(&self, facts: Facts<'_>, act: &Act) -> Result<(), admission::Refusal> {
        let circumstances = self.circumstances(facts);
        quarantine::forbids(facts.quarantine, Some(act))?;
        admission::permitted(circumstances, act)?;
        admission::affordable(circumstances, act)?;
        admission::rehearsed(circumstances, act)
    }

    fn begin(&mut self, facts: Facts<'_>, id: &CommandId, act: &Act) {
        let spent = self.spend(facts, act);
        let Some(entry) = self.ledger.get_mut(id) else { return };
        entry.stored.status = Status::InProgress;
        entry.stored.detail = None;
        entry.stored.boot = Some(facts.timeline.boot());
        let mut entries = vec![put(id, &entry.stored)];
        entries.extend(spent);
        entries.extend(intent(facts, id, act));
        self.steps.push_back(Step::Journal(Purpose::Begun(id.clone()), entries));
    }

    /// Spends the budget of an act; what is returned is to be journaled with it.
    pub fn spend(&mut self, facts: Facts<'_>, act: &Act) -> Option<Write> {
        if !act.spends() {
            return None;
        }
        let action = act.action();
        let budget = facts.config.remediation.budget.get(&action);
        let spent = self.budgets.spend(action, budget, facts.timeline, facts.now)?;
        Some(write(format!("{BUDGET_KEY}{}", action.word()), &spent))
    }

    /// Counts every budget as spent; what is returned is to be stored.
    pub fn exhaust_budgets(&mut self, facts: Facts<'_>) -> Vec<Write> {
        let spend = |(action, budget): (&Action, &crate::config::Budget)| {
            let spent = self.budgets.exhaust(*action, budget, facts.timeline, facts.now);
            write(format!("{BUDGET_KEY}{}", action.word()), &spent)
        };
        facts.config.remediation.budget.iter().map(spend).collect()
    }

    /// True if it was queued or under way.
    fn cancel(&mut self, id: &CommandId) -> bool {
        if let Some(place) = self.queue.iter().position(|queued| queued == id) {
            self.queue.remove(place);
            self.finish(
                id,
                Status::Canceled,
                Some(Reason::Canceled.word()),
                Some("canceled before it began".into()),
                None,
            );
            return true;
        }
        let Some(effect) = self.running.iter().find(|(_, running)| *running == id).map(|(effect, _)| *effect) else {
            return self.cancel_unbegun(id);
        };
        self.steps.push_back(Step::Stop(effect));
        true
    }

    /// It is on its way into the journal: it is not begun once that is done.
    fn cancel_unbegun(&mut self, id: &CommandId) -> bool {
        let waits = |entry: &Entry| entry.command.as_ref().and_then(Command::act).is_some();
        if !self.ledger.get(id).is_some_and(waits) {
            return false;
        }
        let detail = "canceled before it began".to_owned();
        self.finish(id, Status::Canceled, Some(Reason::Canceled.word()), Some(detail), None);
        true
    }

    /// The outcome is known: journal it, then report it.
    fn finish(
        &mut self,
        id: &CommandId,
        status: Status,
        reason: Option<&str>,
        detail: Option<String>,
        output: Option<String>,
    ) {
        let Some(entry) = self.ledger.get_mut(id) else { return };
        entry.command = None;
        entry.token = None;
        entry.stored.status = status;
        entry.stored.reason = reason.map(Into::into);
        entry.stored.detail = detail.as_deref().map(|text| tail(text).into());
        entry.stored.output = output.as_deref().map(|text| kept(text).into());
        entry.output = output.map(Into::into);
        self.journal_end(id);
    }

    /// It is told once this is on the disk.
    fn journal_end(&mut self, id: &CommandId) {
        let Some(entry) = self.ledger.get_mut(id) else { return };
        entry.ending = true;
        let entries = vec![put(id, &entry.stored)];
        self.steps.push_back(Step::Journal(Purpose::Outcome(id.clone()), entries));
    }

    fn report(&mut self, id: &CommandId) {
        let Some(entry) = self.ledger.get_mut(id) else { return };
        let mut result = result_of(id, &entry.stored);
        if let Some(output) = entry.output.take() {
            result.output = Some(output);
        }
        let remedy = remediation(id, entry);
        self.steps.push_back(Step::Report(result));
        self.steps.extend(remedy.map(Step::Tell));
    }

    /// A message that is no command to obey, from nobody knows whom.
    fn refuse(&mut self, now: Mono, refusal: &Refusal) {
        *self.refused.entry(refusal.reason).or_default() += 1;
        if !self.refusals.take(now) {
            return;
        }
        // A forged message must not speak for a command that is known.
        let known = refusal.claimed_id.as_ref().is_some_and(|id| self.ledger.contains_key(id));
        if !known {
            self.steps.push_back(Step::Report(CommandResult {
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
        self.audit(refusal.claimed_id.as_ref(), refusal.claimed_name.as_deref(), refusal.reason, &refusal.detail);
    }

    /// A genuine command that is not obeyed. `keep`: remember that it was refused, so that it stays refused.
    fn refuse_verified(
        &mut self,
        facts: Facts<'_>,
        command: &VerifiedCommand,
        reason: Reason,
        detail: String,
        pkid: Option<u16>,
        keep: bool,
    ) {
        *self.refused.entry(reason).or_default() += 1;
        let told = self.refusals.take(facts.now.mono);
        if told {
            self.audit(Some(&command.id), Some(&command.name), reason, &detail);
        }
        let mut stored = Stored::new(command, Status::Rejected);
        stored.reason = Some(reason.word().into());
        stored.detail = Some(tail(&detail).into());
        if !keep {
            // Nothing keeps it from coming over and over.
            if told {
                self.steps.push_back(Step::Report(result_of(&command.id, &stored)));
            }
            return self.acknowledge(pkid);
        }
        let entries = vec![put(&command.id, &stored)];
        let entry = Entry { pkids: pkid.into_iter().collect(), ..Entry::new(stored) };
        self.ledger.insert(command.id.clone(), entry);
        self.steps.push_back(Step::Journal(Purpose::Accepted(command.id.clone()), entries));
    }

    fn audit(&mut self, id: Option<&CommandId>, name: Option<&str>, reason: Reason, detail: &str) {
        let event = Event::new(Severity::Warning, EventKind::Audit, "command_refused")
            .group("audit")
            .with("reason", reason.word())
            .with("detail", tail(detail))
            .with_some("command_id", id.map(CommandId::as_str))
            .with_some("command", name.map(tail));
        self.steps.push_back(Step::Tell(event));
        let id = id.map_or("?", CommandId::as_str);
        self.log(LogLevel::Warn, format!("command {id} refused: {}: {detail}", reason.word()));
    }

    /// Forgets what can't be valid any more. False if the ledger is full all the same.
    fn make_room(&mut self, facts: Facts<'_>) -> bool {
        if self.ledger.len() < LEDGER_MAX {
            return true;
        }
        let forgotten: Vec<CommandId> = self
            .ledger
            .iter()
            .filter(|(_, entry)| entry.stored.reported && has_expired(facts, entry.stored.expires_at))
            .map(|(id, _)| id.clone())
            .collect();
        let gone = forgotten.iter().filter_map(|id| self.ledger.remove(id));
        let passed = gone.map(|entry| Unix::of_seconds(entry.stored.expires_at)).max();
        if let Some(passed) = passed {
            let floor = facts.timeline.proven().max(passed);
            self.passed = self.passed.max(Some(floor));
            let mut entries: Vec<_> = forgotten.iter().map(|id| (key(id), None)).collect();
            entries.push(write(FLOOR_KEY, &floor));
            self.steps.push_back(Step::Journal(Purpose::Bookkeeping, entries));
        }
        self.ledger.len() < LEDGER_MAX
    }

    /// Whether something works on the same target, or all hands are full.
    fn target_is_taken(&self, facts: Facts<'_>, act: &Act) -> bool {
        let under_way: Vec<&Act> = self
            .ledger
            .values()
            .filter(|entry| entry.stored.status == Status::InProgress)
            .filter_map(|entry| entry.command.as_ref().and_then(Command::act))
            .collect();
        let target = act.target();
        let clashes = |other: &Act| other.target() == target || (act.is_grave() && other.is_grave());
        under_way.len() >= ACTS_MAX || under_way.into_iter().any(clashes) || facts.busy.iter().any(clashes)
    }

    fn take_token(&mut self, id: &CommandId) -> Option<Box<str>> {
        self.ledger.get_mut(id)?.token.take()
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

impl Stored {
    /// In the place of an entry that can't be read.
    fn unreadable() -> Self {
        Self {
            name: "?".into(),
            digest: [0; 32],
            expires_at: i64::MAX,
            status: Status::Interrupted,
            reason: None,
            detail: None,
            output: None,
            reported: true,
            boot: None,
        }
    }

    fn new(command: &VerifiedCommand, status: Status) -> Self {
        Self {
            name: command.name.as_str().into(),
            digest: command.digest,
            expires_at: command.expires_at,
            status,
            reason: None,
            detail: None,
            output: None,
            reported: false,
            boot: None,
        }
    }
}

impl Bucket {
    /// Takes one if there is one left.
    fn take(&mut self, now: Mono) -> bool {
        let refill = u32::try_from(now.since(self.since).as_secs()).unwrap_or(u32::MAX);
        if refill > 0 {
            self.used = self.used.saturating_sub(refill);
            self.since = now;
        }
        let left = self.used < REFUSALS_BURST;
        self.used += u32::from(left);
        left
    }
}

/// What is journaled with the beginning of an act beside the command.
fn intent(facts: Facts<'_>, id: &CommandId, act: &Act) -> Option<Write> {
    quarantine::intent(act, &Trigger::Command(id.clone()), facts.timeline.stamp(facts.now.mono))
}

/// The lowest that the present can be: the trusted clock, or what is known without one.
fn lower_bound(facts: Facts<'_>) -> Unix {
    let floor = facts.timeline.floor();
    if facts.now.wall.trusted { floor.max(facts.now.wall.unix) } else { floor }
}

/// Whether it can't be valid any more, whatever the clock says.
fn has_expired(facts: Facts<'_>, expires_at: i64) -> bool {
    Unix::of_seconds(expires_at) < lower_bound(facts)
}

/// How long one of a group waits for its turn; `None`: it doesn't. Each gateway has another turn, and another one for each
/// command. Half of the time that the command is still valid is left for what it waits for then.
fn spread(facts: Facts<'_>, command: &VerifiedCommand, parsed: &Command) -> Option<Duration> {
    command.group.as_ref().filter(|_| parsed.is_spread(&command.args))?;
    let valid_ms = Unix::of_seconds(command.expires_at).0.saturating_sub(lower_bound(facts).0);
    let valid_ms = u64::try_from(valid_ms).unwrap_or(0);
    let most_ms = u64::try_from(facts.config.remediation.group_spread.as_millis()).unwrap_or(u64::MAX);
    let drawn = hash([facts.config.device.id.as_str(), "\0", command.id.as_str()]);
    drawn.checked_rem(most_ms.min(valid_ms / 2)).map(Duration::from_millis)
}

/// Expiry is judged by a trusted clock. Without one, a reading that isn't provably wrong still counts against a command
/// (refusing is the safe side), unless the nonce proves that it was made after this agent started.
fn judge_time(facts: Facts<'_>, command: &VerifiedCommand, fresh: bool) -> Result<(), (Reason, String)> {
    let wall = facts.now.wall;
    let plausible = wall.unix >= facts.timeline.floor();
    let skew = i64::try_from(facts.config.commands.max_clock_skew.as_millis()).unwrap_or(i64::MAX);
    let horizon = Unix(wall.unix.0.saturating_add(skew));

    let expires = Unix::of_seconds(command.expires_at);
    if expires < lower_bound(facts) || (!wall.trusted && plausible && !fresh && expires < wall.unix) {
        return Err((Reason::Expired, format!("exp {} has passed", command.expires_at)));
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

/// The contract's `remediation` event of a command that acts on the gateway: as of a ladder's step. One that was refused
/// is told of as such, but for what a dry run would have done.
fn remediation(id: &CommandId, entry: &Entry) -> Option<Event> {
    let Stored { name, status, reason, boot, .. } = &entry.stored;
    let is_dry = reason.as_deref() == Some(Reason::DryRun.word());
    if !ACTING.contains(&&**name) || *status == Status::Queued || (boot.is_none() && !is_dry) {
        return None;
    }
    let severity = if status.is_well() { Severity::Notice } else { Severity::Warning };
    let event = Event::new(severity, EventKind::Remediation, name)
        .group("remediation")
        .with("id", id.as_str())
        .with("trigger", Trigger::Command(id.clone()).to_string().as_str())
        .with("action", &**name)
        .with_some("target", entry.target.as_deref())
        .with("status", status.word())
        .with_some("reason", reason.as_deref());
    Some(event.with_some("detail", entry.stored.detail.as_deref().filter(|_| is_dry)))
}

fn result_of(id: &CommandId, stored: &Stored) -> CommandResult {
    CommandResult {
        command_id: Some(id.as_str().into()),
        command: Some(stored.name.clone()),
        status: stored.status,
        reason: stored.reason.clone(),
        detail: stored.detail.clone(),
        output: stored.output.clone(),
        progress_pct: None,
        part: None,
    }
}

fn key(id: &CommandId) -> String {
    format!("{COMMAND_KEY}{id}")
}

fn put(id: &CommandId, stored: &Stored) -> Write {
    write(key(id), stored)
}

/// What of an output is kept for whoever asks again, and that it is not all.
fn kept(output: &str) -> String {
    let end = tail(output);
    match output.len() - end.len() {
        0 => end.to_owned(),
        left_out => format!("… {left_out} B before this were told once and are not kept\n{end}"),
    }
}

/// The end of a text: what a program says last is what matters.
fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(KEPT_TEXT_MAX);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text.get(from..).unwrap_or_default()
}
