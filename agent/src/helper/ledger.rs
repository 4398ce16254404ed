//! What was done already, on disk: the ids of commands, so that none is carried out twice, and what was spent of each
//! budget. It is written and synced before anything is done, so neither a kill nor a power cut refills a budget or
//! forgets a command; the file is replaced as a whole, never changed in place. A damaged one is set aside and the new
//! one is careful: what was issued before that moment is refused, and every budget counts as spent for one window.

#![expect(clippy::disallowed_types, reason = "this is the helper's own file")]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat, renameat_with};
use serde::{Deserialize, Serialize};

use super::protocol::Refusal;
use crate::config::{Action, Budget};
use crate::engine::commands::{MAY_HAVE_RUN, Oldest, oldest};
use crate::engine::time::{BootId, Mono, Now};
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
    /// The present can't be earlier (seconds since 1970): the build, the newest `iat` by a trusted clock, and the
    /// newest `exp` that was forgotten.
    floor_s: i64,
    /// The newest `iat` that no clock could judge: it says so, too, until a trusted clock disproves it.
    #[serde(default)]
    claimed_s: i64,
    /// What was issued before (seconds since 1970) is refused unless it is remembered: it may have been forgotten.
    #[serde(default)]
    before_s: i64,
    /// By id.
    commands: BTreeMap<String, Validity>,
    /// By the word of the action, oldest first.
    spent: BTreeMap<String, Vec<Stamp>>,
    /// When it was found that the ledger before this one is damaged.
    careful_since: Option<Stamp>,
}

/// From when until when a command is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written")]
struct Validity {
    iat: i64,
    exp: i64,
}

/// A ledger of an older version says of a command only until when it is valid.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Both { iat: i64, exp: i64 },
    Exp(i64),
}

impl From<Written> for Validity {
    fn from(written: Written) -> Self {
        match written {
            Written::Both { iat, exp } => Self { iat, exp },
            // Issued no later than that.
            Written::Exp(exp) => Self { iat: exp, exp },
        }
    }
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
    /// In milliseconds since 1970, where the clock can be trusted.
    fn trusted_ms(&self) -> Option<i64> {
        self.now.wall.trusted.then_some(self.now.wall.unix.0)
    }

    fn stamp(&self) -> Stamp {
        Stamp { boot: self.boot.to_string(), mono_ms: self.now.mono.0, unix_ms: self.trusted_ms() }
    }
}

impl Stamp {
    /// How long ago it was, at least: after a reboot without a clock no more is certain than how long this boot is up.
    fn age(&self, moment: &Moment) -> Duration {
        let up = moment.now.mono;
        if self.boot == moment.boot.to_string() {
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
        let mut state = match text.as_deref().map(parse) {
            None => State::default(),
            Some(Some(state)) => state,
            Some(None) => {
                tracing::error!("{} is damaged: commands issued before now are refused", path.display());
                fs::rename(&path, dir.join(DAMAGED_FILE)).map_err(fail("set aside", &path))?;
                State { careful_since: Some(moment.stamp()), ..State::default() }
            }
        };
        state.floor_s = state.floor_s.max(floor_s);
        let ledger = Self { dir: dir.to_owned(), state };
        // Whether it can be written is found out now, and not when something has to be healed.
        ledger.write(&ledger.state).map_err(fail("write", &path))?;
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
        let mut next = self.state.clone();
        next.claimed_s = next.claimed_s(moment);
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

    /// Gives back what was spent at that moment, by an act that was not done: somebody inhibits it. Where that can't be
    /// written it stays spent.
    pub(super) fn give_back(&mut self, action: Action, spent_at: &Moment) {
        let mut next = self.state.clone();
        let (spent, stamp) = (next.spent.entry(action.word().to_owned()).or_default(), spent_at.stamp());
        let Some(place) = spent.iter().rposition(|known| *known == stamp) else { return };
        spent.remove(place);
        match self.write(&next) {
            Ok(()) => self.state = next,
            Err(error) => tracing::warn!("write {}: {error}", self.dir.join(FILE).display()),
        }
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

    /// The time, at least, for one whose clock may differ by `skew`: in seconds since 1970.
    fn present_s(&self, skew: Duration, moment: &Moment) -> i64 {
        self.proven_s(skew, moment).max(self.claimed_s(moment))
    }

    /// The same, without what was only claimed.
    fn proven_s(&self, skew: Duration, moment: &Moment) -> i64 {
        let skew = i64::try_from(skew.as_secs()).unwrap_or(i64::MAX);
        let by_clock = moment.trusted_ms().map_or(i64::MIN, |ms| (ms / 1000).saturating_sub(skew));
        self.floor_s.max(by_clock)
    }

    fn claimed_s(&self, moment: &Moment) -> i64 {
        let is_wrong = moment.trusted_ms().is_some_and(|ms| self.claimed_s.saturating_sub(ms / 1000) > CLAIM_AHEAD_S);
        if is_wrong { 0 } else { self.claimed_s }
    }

    fn judge_time(&self, command: &VerifiedCommand, skew: Duration, moment: &Moment) -> Result<(), Refusal> {
        // What others' commands say of the time doesn't count against one with a nonce, and without a clock there is no
        // other: one signer's wrong clock would lock out all.
        let is_by_clock = moment.trusted_ms().is_some();
        let present_s = if is_by_clock { self.present_s(skew, moment) } else { self.proven_s(skew, moment) };
        if command.expires_at <= present_s {
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
        if command.issued_at < self.before_s {
            return Err(Refusal::because(Reason::Replayed, MAY_HAVE_RUN));
        }
        let Some(since) = &mut self.careful_since else { return Ok(()) };
        let Some(ms) = since.unix_ms.or(moment.trusted_ms()) else {
            let detail = "the ledger was lost, and without a clock it can't be told what was issued after that";
            return Err(Refusal::because(Reason::ClockUntrusted, detail));
        };
        since.unix_ms = Some(ms);
        if command.issued_at.saturating_mul(1000) > ms {
            return Ok(());
        }
        let detail = "issued before the ledger was lost: whether it was carried out can't be known";
        Err(Refusal::because(Reason::Replayed, detail))
    }

    /// Forgets what can't be valid any more, and if that isn't enough what was issued before all else. False if the
    /// ledger is full all the same.
    fn make_room(&mut self, newcomer: &VerifiedCommand, skew: Duration, moment: &Moment) -> bool {
        // Only what has expired for certain: the floor rises with it, and one signer's wrong clock would lock out all.
        self.forget_expired(self.proven_s(skew, moment));
        let present_s = self.present_s(skew, moment);
        let surplus = (self.commands.len() + 1).saturating_sub(COMMANDS_MAX);
        let remembered = self.commands.iter().map(|(id, validity)| (validity.iat, id.clone()));
        if let Some(Oldest { ids, before_s }) = oldest(remembered, surplus, newcomer.issued_at, present_s) {
            self.commands.retain(|id, _| !ids.contains(id));
            self.before_s = self.before_s.max(before_s);
        }
        self.commands.len() < COMMANDS_MAX
    }

    /// The floor rises with them: they stay expired, whatever the clock says later.
    fn forget_expired(&mut self, present_s: i64) {
        let passed = self.commands.values().map(|validity| validity.exp).filter(|exp| *exp <= present_s).max();
        self.commands.retain(|_, validity| validity.exp > present_s);
        self.floor_s = self.floor_s.max(passed.unwrap_or(self.floor_s));
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

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test damages the file")]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::engine::time::{Unix, Wall};
    use crate::wire::CommandId;

    const SKEW: Duration = Duration::from_secs(300);
    const HOURLY: Budget = Budget { count: 2, window: Duration::from_secs(3600) };
    const HOUR_S: u64 = 3600;

    /// Up for so long, in boot number so-and-so, at 1_000_000 s plus that by a clock that is trusted or not.
    fn at(boot: u8, up_s: u64, trusted: bool) -> Moment {
        let unix = Unix((1_000_000 + i64::try_from(up_s).unwrap()) * 1000);
        let now = Now { mono: Mono(up_s * 1000), wall: Wall { unix, trusted } };
        Moment { boot: BootId([boot; 16]), now }
    }

    fn command(id: &str, iat: i64, exp: i64, nonce: Option<&str>) -> VerifiedCommand {
        VerifiedCommand {
            message: Box::default(),
            id: CommandId::parse(id).unwrap(),
            kid: Some("ops-1".into()),
            group: None,
            issued_at: iat,
            expires_at: exp,
            not_before: None,
            nonce: nonce.map(str::to_owned),
            name: "reboot".into(),
            args: serde_json::Map::new(),
            timeout_s: None,
            digest: [0; 32],
        }
    }

    struct World(tempfile::TempDir, Ledger);

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let ledger = Ledger::open(dir.path(), 0, &at(1, 0, true)).unwrap();
            Self(dir, ledger)
        }

        /// As after a kill: what is in memory is gone.
        fn reopen(&mut self, moment: &Moment) {
            self.1 = Ledger::open(self.0.path(), 0, moment).unwrap();
        }

        fn order(&mut self, command: &VerifiedCommand, moment: &Moment) -> Result<(), &'static str> {
            self.1.count(Action::Reboot, None, Some((command, SKEW)), moment).map_err(|refusal| refusal.reason)
        }

        fn spend(&mut self, moment: &Moment) -> Result<(), &'static str> {
            self.1.count(Action::Reboot, Some(&HOURLY), None, moment).map_err(|refusal| refusal.reason)
        }
    }

    #[test]
    fn a_command_is_carried_out_once_over_kills_and_reboots() {
        let mut world = World::new();
        let order = command("c-1", 1_000_000, 1_000_600, Some("n"));
        assert_eq!(world.order(&order, &at(1, 1, true)), Ok(()));
        assert_eq!(world.order(&order, &at(1, 2, true)), Err("replayed"));
        for (boot, trusted) in [(1, true), (2, true), (3, false)] {
            world.reopen(&at(boot, 5, trusted));
            assert_eq!(world.order(&order, &at(boot, 5, trusted)), Err("replayed"), "boot {boot}");
        }
    }

    #[test]
    fn a_command_that_was_forgotten_stays_expired_when_the_clock_goes_back() {
        let mut world = World::new();
        let old = command("old", 1_000_000, 1_000_600, Some("n"));
        assert_eq!(world.order(&old, &at(1, 1, true)), Ok(()));
        // Its exp has passed: the next command pushes it out.
        let next = command("next", 1_000_400, 1_009_000, None);
        assert_eq!(world.order(&next, &at(1, 2_000, true)), Ok(()));
        assert!(!world.1.state.commands.contains_key("old"));
        world.reopen(&at(2, 5, false));
        assert_eq!(world.order(&old, &at(2, 5, false)), Err("expired"));
    }

    #[test]
    fn an_iat_that_no_clock_could_judge_counts_until_one_disproves_it_and_what_ran_is_not_repeated() {
        let mut world = World::new();
        let done = command("done", 1_000_000, 1_000_900, Some("n"));
        assert_eq!(world.order(&done, &at(1, 1, false)), Ok(()));
        let wrong = command("wrong", 9_000_000, 9_000_600, Some("n"));
        assert_eq!(world.order(&wrong, &at(1, 2, false)), Ok(()));
        let right = command("right", 1_000_010, 1_001_000, Some("n"));
        assert_eq!(world.order(&right, &at(1, 10, false)), Ok(()), "one wrong clock locks nobody out");
        assert_eq!(world.1.state.claimed_s, 9_000_000);
        let bare = command("bare", 1_000_010, 1_001_000, None);
        assert_eq!(world.order(&bare, &at(1, 10, false)), Err("clock_untrusted"));
        assert_eq!(world.order(&bare, &at(1, 10, true)), Ok(()));
        assert_eq!(world.order(&command("next", 1_000_011, 1_001_000, Some("n")), &at(2, 11, false)), Ok(()));
        for order in [&done, &wrong, &right] {
            assert!(world.order(order, &at(2, 12, true)).is_err(), "{}", order.id);
        }
        // More of them raise no floor.
        for n in 1..4 {
            let wrong = command(&format!("wrong-{n}"), 9_000_000 + 700 * n, 9_000_600 + 700 * n, Some("n"));
            assert_eq!(world.order(&wrong, &at(3, 1, false)), Ok(()));
        }
        assert_eq!(world.order(&command("right-2", 1_000_020, 1_001_000, Some("n")), &at(3, 20, true)), Ok(()));
        assert_eq!(world.1.state.claimed_s, 0, "and it is gone for good");
        assert_eq!(world.order(&done, &at(2, 12, true)), Err("replayed"));
    }

    #[test]
    fn time_is_judged_by_a_clock_that_can_be_trusted_and_else_by_what_was_seen() {
        let mut world = World::new();
        let cases = [
            (command("a", 998_000, 999_600, None), true, Err("expired")),
            (command("b", 1_000_400, 1_009_000, None), true, Err("not_yet_valid")),
            (command("c", 1_000_000, 1_009_000, None), false, Err("clock_untrusted")),
            (command("d", 1_000_000, 1_009_000, Some("n")), false, Ok(())),
            // Issued before d was, and over before that: by d's signer alone.
            (command("e", 998_000, 999_900, Some("n")), false, Ok(())),
            (command("f", 999_999, 1_000_100, Some("n")), true, Ok(())),
            // By a clock that was trusted, too.
            (command("g", 998_000, 999_999, Some("n")), false, Err("expired")),
        ];
        for (order, trusted, expected) in cases {
            assert_eq!(world.order(&order, &at(1, 1, trusted)), expected, "{}", order.id);
        }
    }

    const FOR_EVER: i64 = 253_402_300_799;

    /// As many commands as are remembered, each issued a second after the other, and all valid until then.
    fn full(exp: i64) -> World {
        let mut world = World::new();
        let commands = (0..COMMANDS_MAX).zip(990_000..);
        world.1.state.commands = commands.map(|(n, iat)| (format!("c-{n}"), Validity { iat, exp })).collect();
        world
    }

    #[test]
    fn a_full_ledger_takes_new_commands_and_what_it_forgets_for_them_is_not_carried_out_again() {
        let mut world = full(FOR_EVER);
        for n in 0..10 {
            let newcomer = command(&format!("new-{n}"), 1_000_000, FOR_EVER, Some("n"));
            assert_eq!(world.order(&newcomer, &at(1, 1, n % 2 == 0)), Ok(()), "{n}");
        }
        // What was issued in the same second as one that was forgotten can't be told from it; of the eleventh it is
        // still known that it ran.
        let [first, tenth, eleventh] = [0, 9, 10].map(|n| command(&format!("c-{n}"), 990_000 + n, FOR_EVER, Some("n")));
        let twin = command("twin", 990_009, FOR_EVER, Some("n"));
        for trusted in [true, false] {
            for again in [&first, &tenth, &twin, &eleventh] {
                assert_eq!(world.order(again, &at(2, 5, trusted)), Err("replayed"), "{}", again.id);
            }
            world.reopen(&at(2, 5, trusted));
        }
        let no_younger = command("no-younger", 990_010, FOR_EVER, None);
        assert_eq!(world.order(&no_younger, &at(2, 6, true)), Err("busy"));
        assert_eq!(world.1.state.commands.len(), COMMANDS_MAX);
    }

    #[test]
    fn a_full_ledger_forgets_first_what_has_expired() {
        let mut world = full(1_009_000);
        let later = command("later", 1_009_200, 1_010_000, None);
        assert_eq!(world.order(&later, &at(1, 9_400, true)), Ok(()));
        assert_eq!((world.1.state.commands.len(), world.1.state.before_s), (1, 0));
    }

    #[test]
    fn what_a_wrong_clock_dated_ahead_does_not_keep_a_full_ledger_from_being_used() {
        let mut world = full(FOR_EVER);
        let ahead = Validity { iat: 9_000_000, exp: FOR_EVER };
        world.1.state.commands.insert("ahead".into(), ahead);
        world.1.state.commands.remove("c-0");
        for n in 0..3 {
            assert_eq!(world.order(&command(&format!("new-{n}"), 1_000_000, FOR_EVER, None), &at(1, 1, true)), Ok(()));
        }
        assert!(world.1.state.commands.contains_key("ahead"));
    }

    #[test]
    fn a_budget_is_refilled_by_its_window_and_by_nothing_else() {
        let mut world = World::new();
        assert_eq!(world.spend(&at(1, 1, false)), Ok(()));
        assert_eq!(world.spend(&at(1, 2, false)), Ok(()));
        assert_eq!(world.spend(&at(1, 3, false)), Err("budget_spent"));
        world.reopen(&at(2, 60, false));
        assert_eq!(world.spend(&at(2, 60, false)), Err("budget_spent"), "a reboot refills nothing");
        // By a clock that can be trusted, then and now, it is known better than by the time since boot.
        let mut world = World::new();
        assert_eq!(world.spend(&at(1, 1, true)), Ok(()));
        assert_eq!(world.spend(&at(1, 2, true)), Ok(()));
        let an_hour_up = Moment { now: Now { mono: Mono(HOUR_S * 1000), ..at(2, 9, true).now }, ..at(2, 9, true) };
        assert_eq!(world.spend(&an_hour_up), Err("budget_spent"));
    }

    #[test]
    fn without_a_clock_a_budget_is_refilled_after_a_reboot_when_that_boot_is_up_for_the_window() {
        let mut world = World::new();
        assert_eq!(world.spend(&at(1, 1, false)), Ok(()));
        assert_eq!(world.spend(&at(1, 2, false)), Ok(()));
        assert_eq!(world.spend(&at(2, HOUR_S - 1, false)), Err("budget_spent"));
        assert_eq!(world.spend(&at(2, HOUR_S, false)), Ok(()));
    }

    #[test]
    fn what_an_act_that_was_not_done_has_spent_is_given_back_once() {
        let mut world = World::new();
        assert_eq!(world.spend(&at(1, 1, true)), Ok(()));
        assert_eq!(world.spend(&at(1, 2, true)), Ok(()));
        for _ in 0..2 {
            world.1.give_back(Action::Reboot, &at(1, 1, true));
            world.reopen(&at(1, 3, true));
        }
        assert_eq!(world.spend(&at(1, 4, true)), Ok(()));
        assert_eq!(world.spend(&at(1, 5, true)), Err("budget_spent"));
    }

    #[test]
    fn nothing_counts_of_what_was_refused() {
        let mut world = World::new();
        let order = command("c-1", 1_000_000, 1_009_000, None);
        let none = Budget { count: 0, window: HOURLY.window };
        let refused = world.1.count(Action::Reboot, Some(&none), Some((&order, SKEW)), &at(1, 1, true));
        assert_eq!(refused.unwrap_err().reason, "budget_spent");
        assert_eq!(world.order(&order, &at(1, 2, true)), Ok(()));
    }

    #[test]
    fn a_damaged_ledger_makes_the_next_one_careful() {
        let mut world = World::new();
        let before = command("before", 1_000_000, 1_009_000, None);
        assert_eq!(world.order(&before, &at(1, 1, true)), Ok(()));
        let path = world.0.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        let at_byte = bytes.len() - 30;
        bytes[at_byte] ^= 1;
        fs::write(&path, bytes).unwrap();

        world.reopen(&at(1, 10, true));
        assert!(world.0.path().join(DAMAGED_FILE).exists());
        assert_eq!(world.order(&before, &at(1, 11, true)), Err("replayed"));
        assert_eq!(world.spend(&at(1, 12, true)), Err("budget_spent"));
        let after = command("after", 1_000_011, 1_009_000, None);
        assert_eq!(world.order(&after, &at(1, 13, true)), Ok(()));
        assert_eq!(world.spend(&at(1, 10 + HOUR_S, true)), Ok(()));
    }

    #[test]
    fn a_ledger_of_an_older_version_is_not_damaged() {
        let mut world = World::new();
        let json = r#"{"floor_s":0,"commands":{"c-1":1009000},"spent":{},"careful_since":null}"#;
        let text = format!("{:08x}\n{json}", crc32c::crc32c(json.as_bytes()));
        fs::write(world.0.path().join(FILE), text).unwrap();
        world.reopen(&at(1, 1, true));
        assert_eq!(world.order(&command("c-1", 1_000_000, 1_009_000, None), &at(1, 2, true)), Err("replayed"));
        assert_eq!(world.order(&command("c-2", 1_000_000, 1_009_000, None), &at(1, 2, true)), Ok(()));
        assert_eq!(world.spend(&at(1, 3, true)), Ok(()));
    }

    #[test]
    fn what_can_not_be_written_is_not_done() {
        let mut world = World::new();
        let new = world.0.path().join(NEW_FILE);
        fs::create_dir(&new).unwrap();
        assert_eq!(world.spend(&at(1, 1, true)), Err("store_failed"));
        fs::remove_dir(&new).unwrap();
        assert_eq!(world.spend(&at(1, 2, true)), Ok(()));
    }

    #[test]
    fn two_files_take_turns_so_that_a_full_disk_has_room_for_the_next_ledger() {
        let mut world = World::new();
        let inodes =
            |world: &World| [FILE, NEW_FILE].map(|name| fs::metadata(world.0.path().join(name)).unwrap().ino());
        assert_eq!(world.spend(&at(1, 1, true)), Ok(()));
        let [one, other] = inodes(&world);
        assert_eq!(world.spend(&at(1, 2, true)), Ok(()));
        assert_eq!(inodes(&world), [other, one]);
        world.reopen(&at(1, 3, true));
        assert_eq!(world.spend(&at(1, 4, true)), Err("budget_spent"));
    }
}
