//! What was done already, on disk: the ids of commands, so that none is carried out twice, and what was spent of each
//! budget. It is written and synced before anything is done, so neither a kill nor a power cut refills a budget or
//! forgets a command; the file is replaced as a whole, never changed in place. A damaged one is set aside and the new
//! one is careful: what was issued before that moment is refused, and every budget counts as spent for one window.

#![expect(clippy::disallowed_types, reason = "this is the helper's own file")]

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat, renameat_with};
use serde::{Deserialize, Serialize};

use super::protocol::Refusal;
use crate::collect::clock::{self, Clock};
use crate::config::{Action, Budget};
use crate::engine::commands::{Forgotten, MAY_HAVE_RUN, oldest};
use crate::engine::time::{Anchor, BootId, Mono, Now};
use crate::engine::timeline::CLAIM_AHEAD_S;
use crate::wire::{Reason, VerifiedCommand};

/// The file, below the state directory.
const FILE: &str = "ledger";
/// What it is called until it is whole, and after it was replaced.
const NEW_FILE: &str = "ledger.new";
/// Where a damaged one goes. One is kept: the second would tell no more.
const DAMAGED_FILE: &str = "ledger.damaged";
/// A ledger that is longer than this is none of ours.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Commands that are remembered at a time; each until its `exp`. Where none of them has passed, that of the lowest
/// `iat` makes room, and what was issued no later is refused from then on.
const COMMANDS_MAX: usize = 1024;

/// One instant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// The boot that it belongs to.
    pub(super) boot: BootId,
    /// Time since boot, and the wall clock.
    pub(super) now: Now,
}

/// What was done, and where that is written.
#[derive(Debug)]
pub(super) struct Ledger {
    dir: PathBuf,
    state: State,
}

/// Why a ledger can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", .path.display())]
pub(super) struct LedgerError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// As it is written: JSON, behind a line with its CRC32C.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// The present can't be earlier where no clock can be trusted (seconds since 1970): the build, and the newest `iat`
    /// by one that was, until one that is disproves it.
    floor_s: i64,
    /// The newest `iat` that no clock could judge: it says so, too, until a trusted clock disproves it.
    claimed_s: i64,
    /// What may be of what was forgotten is refused unless it is remembered.
    forgotten: Forgotten,
    /// By id.
    commands: BTreeMap<String, Validity>,
    /// By the word of the action, oldest first.
    spent: BTreeMap<String, Vec<Stamp>>,
    /// When it was found that the ledger before this one is damaged.
    careful_since: Option<Stamp>,
    /// The boot in which a rollback was done that a reboot completes: nothing is due in another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owes_boot: Option<String>,
}

/// From when until when a command is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Validity {
    iat: i64,
    exp: i64,
}

/// When something was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stamp {
    boot: String,
    mono_ms: u64,
    /// Only of a clock that could be trusted.
    unix_ms: Option<i64>,
}

impl Moment {
    /// What the clock says now. One that reads a time before this program was built can't be trusted.
    pub(super) fn of(boot: BootId, clock: &mut Clock) -> Self {
        Self { boot, now: clock.now().doubted_before(clock::built()) }
    }

    /// When this boot began, where the clock can be trusted.
    fn boot_ms(&self) -> Option<i64> {
        Anchor::of(self.now).map(|Anchor(began)| began.0)
    }

    /// In milliseconds since 1970, where the clock can be trusted.
    fn trusted_ms(&self) -> Option<i64> {
        self.now.wall.trusted.then_some(self.now.wall.unix.0)
    }

    fn stamp(&self) -> Stamp {
        Stamp { boot: self.boot.to_string(), mono_ms: self.now.mono.0, unix_ms: self.trusted_ms() }
    }
}

impl Stamp {
    /// Its date. Where none is known, or the clock was ahead when it was known and is trusted again: by that clock, or
    /// that it was before this boot began.
    fn date_ms(&self, moment: &Moment) -> Option<i64> {
        let Some((now_ms, boot_ms)) = moment.trusted_ms().zip(moment.boot_ms()) else { return self.unix_ms };
        let by_boot = || if self.is_of(moment) { boot_ms.saturating_add_unsigned(self.mono_ms) } else { boot_ms };
        Some(self.unix_ms.filter(|ms| *ms <= now_ms).unwrap_or_else(by_boot))
    }

    /// Gives it a date, by a clock that can be trusted, by which its age can be told at the next boot. One of another
    /// boot that has none, or one that lies ahead, was before this boot: no more is known.
    fn settle(&mut self, moment: &Moment) {
        const STEP_MS: u64 = 1_000;
        let Some((now_ms, boot_ms)) = moment.trusted_ms().zip(moment.boot_ms()) else { return };
        if self.is_of(moment) {
            let date = boot_ms.saturating_add_unsigned(self.mono_ms);
            let is_off = |ms: &i64| ms.abs_diff(date) >= STEP_MS;
            self.unix_ms = Some(self.unix_ms.filter(|ms| !is_off(ms)).unwrap_or(date));
        } else if self.unix_ms.is_none_or(|ms| ms > now_ms) {
            *self = Self { boot: moment.boot.to_string(), mono_ms: 0, unix_ms: Some(boot_ms) };
        }
    }

    fn is_of(&self, moment: &Moment) -> bool {
        self.boot == moment.boot.to_string()
    }

    /// How long ago it was, at least: after a reboot without a clock no more is certain than how long this boot is up.
    fn age(&self, moment: &Moment) -> Duration {
        let up = moment.now.mono;
        if self.is_of(moment) {
            return up.since(Mono(self.mono_ms));
        }
        // Negative where the clock was wrong, then or now.
        let by_clock =
            moment.trusted_ms().zip(self.unix_ms).and_then(|(now, then)| u64::try_from(now.saturating_sub(then)).ok());
        Duration::from_millis(by_clock.unwrap_or(up.0))
    }
}

impl Ledger {
    /// Opens the ledger of a state directory. The present can't be earlier than `floor_s` (seconds since 1970).
    ///
    /// # Errors
    /// It can't be read or replaced. A damaged one is no error.
    pub(super) fn open(dir: &Path, floor_s: i64, moment: &Moment) -> Result<Self, LedgerError> {
        let path = dir.join(FILE);
        let fail = |what, path: &Path| {
            let path = path.to_owned();
            move |source| LedgerError { what, path, source }
        };
        let text = match read(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(fail("read", &path)(source)),
        };
        let read = text.as_deref().map(parse);
        let is_damaged = read == Some(None);
        let mut state = read.flatten().unwrap_or_default();
        if is_damaged {
            tracing::error!("{} is damaged: commands issued before now are refused", path.display());
            state.careful_since = Some(moment.stamp());
        }
        state.floor_s = state.floor_s.max(floor_s);
        state.owes_boot.take_if(|boot| *boot != moment.boot.to_string());
        let ledger = Self { dir: dir.to_owned(), state };
        // Whether it can be written is found out now, and not when something has to be healed.
        ledger.write(&ledger.state).map_err(fail("write", &path))?;
        if is_damaged {
            // Not before the careful one is on disk: where there is none, nothing was ever done. The two have changed
            // places; where the file system can't do that, the damaged one is gone.
            if let Err(error) = fs::rename(dir.join(NEW_FILE), dir.join(DAMAGED_FILE)) {
                tracing::warn!("keep the damaged ledger as {}: {error}", dir.join(DAMAGED_FILE).display());
            }
        }
        Ok(ledger)
    }

    /// Counts an act, and the command that wants it, before it is done. When this has returned it is on disk.
    ///
    /// # Errors
    /// Why it must not be done: `expired`, `not_yet_valid`, `clock_untrusted`, `replayed`, `busy`, `budget_spent`, or
    /// `store_failed`. Then nothing was counted.
    pub(super) fn count(
        &mut self,
        action: Action,
        budget: Option<&Budget>,
        command: Option<(&VerifiedCommand, Duration)>,
        moment: &Moment,
    ) -> Result<(), Refusal> {
        self.date_budgets(moment);
        let mut next = self.state.clone();
        (next.floor_s, next.claimed_s) = (next.floor_s(moment), next.claimed_s(moment));
        if let Some((command, skew)) = command {
            next.remember(command, skew, moment)?;
        }
        if let Some(budget) = budget {
            next.spend(action, budget, moment)?;
        }
        self.write(&next).map_err(|error| {
            Refusal::because(Reason::StoreFailed, format!("write {}: {error}", self.dir.join(FILE).display()))
        })?;
        self.state = next;
        Ok(())
    }

    /// What was spent gets dates by which its age can be told, now that the clock can be trusted: also where what asks
    /// now is refused because of it.
    fn date_budgets(&mut self, moment: &Moment) {
        let mut next = self.state.clone();
        next.spent.values_mut().flatten().for_each(|stamp| stamp.settle(moment));
        if next == self.state {
            return;
        }
        if self.could_write(&next) {
            self.state = next;
        }
    }

    /// Gives back what was spent at that moment, by an act that was not done: somebody inhibits it, or what it names
    /// isn't there. Where that can't be written it stays spent.
    pub(super) fn give_back(&mut self, action: Action, spent_at: &Moment) {
        let mut next = self.state.clone();
        let spent = next.spent.entry(action.word().to_owned()).or_default();
        // The clock may have been set since.
        let is_it = |known: &Stamp| known.is_of(spent_at) && known.mono_ms == spent_at.now.mono.0;
        let Some(place) = spent.iter().rposition(is_it) else { return };
        spent.remove(place);
        if self.could_write(&next) {
            self.state = next;
        }
    }

    /// A rollback was done that a reboot of this boot completes. Where that can't be written it is known until this
    /// process ends.
    pub(super) fn owe_boot(&mut self, boot: BootId) {
        self.state.owes_boot = Some(boot.to_string());
        self.could_write(&self.state);
    }

    /// Writes it, for who goes on also where that can't be done, of which the log tells.
    fn could_write(&self, state: &State) -> bool {
        let written = self.write(state);
        written.inspect_err(|error| tracing::warn!("write {}: {error}", self.dir.join(FILE).display())).is_ok()
    }

    /// Whether a reboot is still to complete what was done in this boot. One that comes ends it.
    pub(super) fn owes_boot(&self, boot: BootId) -> bool {
        self.state.owes_boot.as_ref().is_some_and(|owing| *owing == boot.to_string())
    }

    /// Replaces the file: whole and on disk before it has the name, and the name is on disk before this returns. The
    /// one that was replaced is written over the next time: on a full disk, too, the runbook that makes room is
    /// counted.
    fn write(&self, state: &State) -> io::Result<()> {
        let json = serde_json::to_vec(state)?;
        let text = [format!("{:08x}\n", crc32c::crc32c(&json)).as_bytes(), &json].concat();
        let (new, path) = (self.dir.join(NEW_FILE), self.dir.join(FILE));
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.set_len(text.len() as u64)?;
        file.sync_all()?;
        // Not every file system can, and at first there is nothing to exchange it with.
        renameat_with(CWD, &new, CWD, &path, RenameFlags::EXCHANGE).or_else(|_| renameat(CWD, &new, CWD, &path))?;
        File::open(&self.dir)?.sync_all()
    }
}

impl State {
    fn remember(&mut self, command: &VerifiedCommand, skew: Duration, moment: &Moment) -> Result<(), Refusal> {
        self.judge_time(command, skew, moment)?;
        let id = command.id.as_str();
        if self.commands.contains_key(id) {
            return Err(Refusal::because(Reason::Replayed, format!("{id} was carried out already")));
        }
        self.judge_care(command, moment)?;
        if !self.make_room(command, skew, moment) {
            let detail = format!("{COMMANDS_MAX} commands are remembered, and none of them can be forgotten yet");
            return Err(Refusal::because(Reason::Busy, detail));
        }
        self.commands.insert(id.to_owned(), Validity { iat: command.issued_at, exp: command.expires_at });
        // A clock that is trusted has agreed to it.
        let newest = if moment.trusted_ms().is_some() { &mut self.floor_s } else { &mut self.claimed_s };
        *newest = command.issued_at.max(*newest);
        Ok(())
    }

    /// The time, at least, for one whose clock may differ by `skew`: in seconds since 1970. By a clock that can be
    /// trusted, whatever was known before, or by what is known without one.
    fn present_s(&self, skew: Duration, moment: &Moment) -> i64 {
        self.proven_s(skew, moment).max(if moment.trusted_ms().is_some() { i64::MIN } else { self.claimed_s })
    }

    /// The same, without what was only claimed.
    fn proven_s(&self, skew: Duration, moment: &Moment) -> i64 {
        let skew = i64::try_from(skew.as_secs()).unwrap_or(i64::MAX);
        moment.trusted_ms().map_or(self.floor_s, |ms| (ms / 1000).saturating_sub(skew))
    }

    /// What a trusted clock disproves is forgotten.
    fn claimed_s(&self, moment: &Moment) -> i64 {
        if is_ahead(self.claimed_s, moment) { 0 } else { self.claimed_s }
    }

    /// The same: then it is what that clock says.
    fn floor_s(&self, moment: &Moment) -> i64 {
        let by_clock = moment.trusted_ms().filter(|_| is_ahead(self.floor_s, moment));
        by_clock.map_or(self.floor_s, |ms| ms / 1000)
    }

    fn judge_time(&self, command: &VerifiedCommand, skew: Duration, moment: &Moment) -> Result<(), Refusal> {
        // What others' commands say of the time doesn't count against one with a nonce, and without a clock there is no
        // other: one signer's wrong clock would lock out all.
        if command.expires_at <= self.proven_s(skew, moment) {
            return Err(Refusal::because(Reason::Expired, format!("exp {} has passed", command.expires_at)));
        }
        let Some(now_ms) = moment.trusted_ms() else {
            // Only the agent knows its nonce. One that lies can have a signed command carried out late, but not twice.
            let named = command.nonce.is_some();
            let detail = "the clock isn't synchronised, and the command has no nonce";
            return if named { Ok(()) } else { Err(Refusal::because(Reason::ClockUntrusted, detail)) };
        };
        let horizon = now_ms.saturating_add(i64::try_from(skew.as_millis()).unwrap_or(i64::MAX));
        let begins = command.not_before.unwrap_or(command.issued_at).max(command.issued_at);
        if begins.saturating_mul(1000) > horizon {
            return Err(Refusal::because(Reason::NotYetValid, format!("{begins} lies ahead of the clock")));
        }
        Ok(())
    }

    /// What was issued before a ledger was lost, or was full, may have been carried out then.
    fn judge_care(&mut self, command: &VerifiedCommand, moment: &Moment) -> Result<(), Refusal> {
        if self.forgotten.covers(command.issued_at, command.expires_at) {
            return Err(Refusal::because(Reason::Replayed, MAY_HAVE_RUN));
        }
        let Some(since) = &mut self.careful_since else { return Ok(()) };
        let Some(ms) = since.date_ms(moment) else {
            let detail = "the ledger was lost, and without a clock it can't be told what was issued after that";
            return Err(Refusal::because(Reason::ClockUntrusted, detail));
        };
        since.unix_ms = since.unix_ms.or(Some(ms));
        if command.issued_at.saturating_mul(1000) > ms {
            return Ok(());
        }
        let detail = "issued before the ledger was lost: whether it was carried out can't be known";
        Err(Refusal::because(Reason::Replayed, detail))
    }

    /// Forgets what can't be valid any more, and if that isn't enough what was issued before all else. False if the
    /// ledger is full all the same.
    fn make_room(&mut self, newcomer: &VerifiedCommand, skew: Duration, moment: &Moment) -> bool {
        // Only what has expired for certain.
        let present_s = self.proven_s(skew, moment);
        let expired = self.commands.iter().filter(|(_, validity)| validity.exp <= present_s);
        self.forget(expired.map(|(id, _)| id.clone()).collect());
        let present_s = self.present_s(skew, moment);
        let surplus = (self.commands.len() + 1).saturating_sub(COMMANDS_MAX);
        let remembered = self.commands.iter().map(|(id, validity)| (validity.iat, id.clone()));
        self.forget(oldest(remembered, surplus, newcomer.issued_at, present_s));
        self.commands.len() < COMMANDS_MAX
    }

    /// They stay refused, whatever the clock says later.
    fn forget(&mut self, ids: Vec<String>) {
        for Validity { iat, exp } in ids.iter().filter_map(|id| self.commands.remove(id)) {
            self.forgotten.add(iat, exp);
        }
    }

    fn spend(&mut self, action: Action, budget: &Budget, moment: &Moment) -> Result<(), Refusal> {
        let spent = self.spent.entry(action.word().to_owned()).or_default();
        spent.retain(|stamp| stamp.age(moment) < budget.window);
        let careful = self.careful_since.as_ref().is_some_and(|since| since.age(moment) < budget.window);
        if careful || spent.len() >= usize::try_from(budget.count).unwrap_or(usize::MAX) {
            return Err(Refusal::because(Reason::BudgetSpent, format!("root's policy: {budget} for {action}")));
        }
        spent.push(moment.stamp());
        Ok(())
    }
}

/// Whether a trusted clock says that a time which a signer's clock told can't be right.
fn is_ahead(told_s: i64, moment: &Moment) -> bool {
    moment.trusted_ms().is_some_and(|ms| told_s.saturating_sub(ms / 1000) > CLAIM_AHEAD_S)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `None` for a ledger that is not as it was written.
fn parse(bytes: &[u8]) -> Option<State> {
    let (sum, json) = bytes.split_at_checked(8)?;
    let json = json.strip_prefix(b"\n")?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (crc32c::crc32c(json) == sum).then(|| serde_json::from_slice(json).ok()).flatten()
}
