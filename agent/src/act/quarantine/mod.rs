//! Puts a quarantine in force: the firewall's rules, and the units that are stopped. Free → Saved → In force → Free.
//! What is to hold is saved before it is loaded, so that the boot unit loads it again before there is a network, agent
//! or no agent; on the way out the saved rules go once those in force have gone, and what is known of it last: cut off
//! in between it is still in force, and known to be. Decides nothing, and what it was told to keep it keeps until it is
//! told otherwise.
//!
//! Where the rules can't be loaded (no nft, no nf_tables in the kernel) only the units are stopped, and the outcome
//! says `degraded`: what the level forbids the agent holds all the same. Where there is no unit to be stopped, either,
//! or none could be, nothing is in force: that has failed, and all is as it was.

#![expect(clippy::disallowed_methods, reason = "the saved state is a file")]

pub mod ruleset;
pub mod terms;
mod turn;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, oneshot};

use self::ruleset::{BRIDGE_TABLE, TABLE};
use self::terms::{ADDRESSES_MAX, Terms};
use super::jobs::{self, Job};
use super::program::{self, Program};
use crate::config::{QuarantineLevel, Rollback, UnitName};
use crate::engine::io::{Act, ActOutcome, ActStatus, Ending};
use crate::store::disk;
use crate::text::named;
use crate::wire::Reason;

/// Where the state lies, as all that root's helper keeps (StateDirectory= of its unit): the boot unit looks there
/// (systemd/fieldmedic-quarantine.service).
pub const DEFAULT_DIR: &str = "/var/lib/fieldmedic-act";
/// What the boot unit loads.
const RULES_FILE: &str = "quarantine.nft";
/// What it loads after that, where the kernel can.
const BRIDGE_FILE: &str = "quarantine-bridge.nft";
/// Where the kernel's interfaces are.
const INTERFACES: &str = "/sys/class/net";
/// What is in force, and what was done for it.
const STATE_FILE: &str = "quarantine.json";
/// The unit that loads the rules, at boot and for a helper without rights of its own.
pub const BOOT_UNIT: &str = "fieldmedic-quarantine.service";
/// Where nft(8) is.
const NFT: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];
/// A gateway with more interfaces has containers, which hang on one of the first.
const INTERFACES_MAX: usize = 1_024;
/// What is said where there is none.
const NO_NFT: &str = "there is no nft here: install nftables";
/// How long nft may take: a transaction of a few dozen rules.
const NFT_MAX: Duration = Duration::from_secs(10);
/// The level of a quarantine that root has ended on the console, and what is told of it.
const ENDED: &str = "none";
const ENDED_BY_HAND: &str = "it was ended on the console: fieldmedic release --local";
/// And of one that was left with units that would not start.
const LEFT: &str = "left";
const LEFT_IN_PART: &str = "it was left, and not all that was stopped for it could be started";

/// Who loads the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loader {
    /// nft(8), which is here.
    Nft(PathBuf),
    /// PID 1, by the boot unit: for who has neither the network nor the right.
    BootUnit,
    /// There is none.
    None,
}

impl Loader {
    /// nft(8), where it is installed.
    #[must_use]
    pub fn find() -> Self {
        NFT.iter().map(Path::new).find(|path| path.exists()).map_or(Self::None, |path| Self::Nft(path.to_owned()))
    }
}

/// Puts quarantines in force, and takes them back.
#[derive(Debug)]
pub struct Quarantine {
    dir: PathBuf,
    loader: Loader,
    /// Who reaches the broker.
    uid: u32,
    /// Where the kernel shows bridges.
    interfaces: PathBuf,
    /// One at a time.
    turn: Arc<Mutex<()>>,
}

/// What is in force, as it is saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    /// observe, restrict or isolate, or a mark: [`ENDED`] or [`LEFT`].
    level: String,
    wide: bool,
    terms: Terms,
    /// Units that ran before: they are started again, those of one that was ended, too, which would not start then.
    stopped: Vec<UnitName>,
    /// Why there are no rules, or not those of now.
    degraded: Option<String>,
    /// Why bridges go on forwarding what the level forbids.
    bridging: Option<String>,
    /// Rules were loaded since it was entered: they are in force, and can be loaded by a boot.
    loaded: bool,
    /// Units that were stopped for it, or did not run: those of them that run were started since.
    held: Vec<UnitName>,
}

impl Saved {
    fn level(&self) -> Option<QuarantineLevel> {
        QuarantineLevel::parse(&self.level)
    }

    /// Units that are to stay stopped.
    fn keeps_stopped(&self) -> &[UnitName] {
        if self.level() > Some(QuarantineLevel::Observe) { &self.terms.stop } else { &[] }
    }
}

/// A step that failed, in words.
type Failed = String;

/// What came of the units that are to be stopped.
#[derive(Debug, Default)]
struct Stopping {
    /// Those that ran.
    stopped: Vec<UnitName>,
    error: Option<Failed>,
}

impl Quarantine {
    /// Keeps its state in `dir`; `uid` is who talks to the broker.
    #[must_use]
    pub fn new(dir: PathBuf, loader: Loader, uid: u32) -> Self {
        Self { dir, loader, uid, interfaces: INTERFACES.into(), turn: Arc::default() }
    }

    /// The same, one at a time with all that have the same turn.
    #[must_use]
    pub fn in_turn(self, turn: Arc<Mutex<()>>) -> Self {
        Self { turn, ..self }
    }

    /// The level in force; one that can't be read counts as the one whose rules are saved, or as `restrict`.
    #[must_use]
    pub fn in_force(&self) -> Option<QuarantineLevel> {
        self.saved()?.level()
    }

    /// Waits until this process changes nothing about it. Cancel-safe: a change itself is not.
    pub async fn turn_comes(&self) {
        drop(self.turn.lock().await);
    }

    /// Units that were stopped for what is in force, and are to stay so.
    #[must_use]
    pub fn keeps_stopped(&self) -> Vec<UnitName> {
        keeps_stopped(&self.dir)
    }

    /// Why this isn't done as long as what is in force is: it would start a unit that is to stay stopped, also one that
    /// nobody would stop any more.
    #[must_use]
    pub fn keeps_from(&self, act: &Act, rollback: &BTreeMap<String, Rollback>) -> Option<String> {
        let started = act.restarts(rollback);
        // What starts nothing needs no look at a file.
        let stopped = if started.is_empty() { Vec::new() } else { self.keeps_stopped() };
        let unit = started.iter().find(|unit| stopped.contains(unit))?;
        Some(format!("{unit} stays stopped until the quarantine is left"))
    }

    /// Terms with the hosts that are in reach now, where names were not found: for who cuts down what comes of that.
    #[must_use]
    pub fn with_older_hosts(&self, terms: Terms) -> Terms {
        if !terms.hosts_missing {
            return terms;
        }
        terms.with_older_hosts(&self.saved().unwrap_or_default().terms)
    }

    /// Enters a level, or tightens the one in force: less than that is not entered, whoever asks, as only leaving
    /// loosens. What goes wrong is `store_failed`, or `nft_failed` where nothing of it would hold. However it ends, it
    /// names the level that is in force then.
    pub async fn enter(&self, wanted: QuarantineLevel, terms: Terms) -> ActOutcome {
        if let Err(error) = self.make_dir() {
            return self.naming_level(failed(&error));
        }
        let _turn = turn::take(&self.turn, &self.dir).await;
        let level = self.in_force().map_or(wanted, |now| now.max(wanted));
        let (mut outcome, _) = self.apply(level, false, terms, self.saved().unwrap_or_default()).await;
        if level != wanted {
            let detail = outcome.detail.unwrap_or_default();
            outcome.detail = Some(format!("{level} is in force, which is more than {wanted}, and stays: {detail}"));
        }
        self.naming_level(outcome)
    }

    /// Puts what is in force in force again, with the broker's addresses of now, and stops what was started since:
    /// `stopped_again`. Rules that root took away on the console stay away: `not_in_force`. However it ends, it names
    /// the level that is in force then.
    pub async fn refresh(&self, level: QuarantineLevel, wide: bool, terms: Terms) -> ActOutcome {
        let _turn = turn::take(&self.turn, &self.dir).await;
        let before = self.saved();
        if before.as_ref().is_some_and(|saved| saved.level().is_none()) {
            return ActOutcome::failed(Ending::NotInForce, self.why_none());
        }
        // There is none where a crash came between the order and the act.
        let before = before.unwrap_or_default();
        // Never less than what is in force: only leaving loosens.
        let level = before.level().map_or(level, |now| now.max(level));
        let held = before.held.clone();
        let (outcome, mut stopped) = self.apply(level, wide, terms, before).await;
        stopped.retain(|unit| held.contains(unit));
        let stops_again = !stopped.is_empty() && outcome.status == ActStatus::Succeeded;
        self.naming_level(if stops_again { stopped_again(outcome, &stopped) } else { outcome })
    }

    /// Stops what is to stay stopped and runs all the same, as after a boot: nobody need ask for it.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn stop_again(&self) -> Result<Vec<UnitName>, String> {
        // Most of the time there is none, and nobody's turn to be waited for.
        if self.keeps_stopped().is_empty() {
            return Ok(Vec::new());
        }
        let _turn = turn::take(&self.turn, &self.dir).await;
        let mut saved = self.saved().unwrap_or_default();
        if saved.keeps_stopped().is_empty() { Ok(Vec::new()) } else { self.stop(&mut saved).await }
    }

    fn naming_level(&self, outcome: ActOutcome) -> ActOutcome {
        let saved = self.saved().unwrap_or_default();
        ActOutcome { quarantine: saved.level(), keeps_stopped: !saved.keeps_stopped().is_empty(), ..outcome }
    }

    /// Ends it, and starts what was stopped for it: what doesn't start is `unit_failed` beside the success, and started
    /// when it is ended once more. Ending what isn't in force succeeds.
    pub async fn leave(&self) -> ActOutcome {
        let _turn = turn::take(&self.turn, &self.dir).await;
        self.end(None).await
    }

    /// The same for root on the console: whoever asks later is told so, once.
    pub async fn leave_by_hand(&self) -> ActOutcome {
        let _turn = turn::take(&self.turn, &self.dir).await;
        self.end(Some(mark(ENDED))).await
    }

    /// How it ended, and which units it has stopped.
    async fn apply(&self, level: QuarantineLevel, wide: bool, terms: Terms, was: Saved) -> (ActOutcome, Vec<UnitName>) {
        let was_free = was.level().is_none();
        // What was amiss before is so until it is known better: where it stays so nothing is written.
        let mut now = Saved { level: level.word().into(), wide, terms: with_older(terms, &was), ..was.clone() };
        if was_free {
            // Of an earlier one that was ended: what this one doesn't stop is not this one's to start.
            now.stopped.retain(|unit| now.terms.stop.contains(unit));
        }
        if let Err(error) = self.save(&now) {
            return (failed(&error), Vec::new());
        }
        self.load_into(&mut now, level).await;
        let Stopping { stopped, error } = self.stop_into(&mut now, level).await;
        if self.has_ended() {
            let ended = self.end_of(Some(now), Some(mark(ENDED))).await;
            let over = || ActOutcome::failed(Ending::NotInForce, ENDED_BY_HAND);
            return (if ended.status == ActStatus::Succeeded { over() } else { ended }, Vec::new());
        }
        let holds_units = !now.terms.stop.is_empty() && (error.is_none() || !now.stopped.is_empty());
        let holds_nothing = now.degraded.is_some() && !was.loaded && !holds_units;
        let outcome = match self.save(&now) {
            Ok(()) => outcome(level, &now, error),
            Err(error) => failed(&error),
        };
        let outcome = if holds_nothing { nothing_holds(outcome) } else { outcome };
        if outcome.status != ActStatus::Succeeded {
            // Half a quarantine is none: what is told as failed must not hold.
            if was_free {
                self.end(None).await;
            } else if holds_nothing {
                self.take_back(&was).await;
            }
        }
        (outcome, stopped)
    }

    /// Loads its rules, if the level has any, and notes what of them is not in force.
    async fn load_into(&self, now: &mut Saved, level: QuarantineLevel) {
        (now.degraded, now.bridging) = (None, None);
        let Some(rules) = ruleset::render(level, now.wide, &now.terms, self.uid) else { return };
        match self.load(&rules, &ruleset::render_bridge(level)).await {
            Ok(bridging) => {
                now.loaded = true;
                now.bridging = bridging.filter(|_| level == QuarantineLevel::Isolate);
            }
            Err(error) => now.degraded = Some(error),
        }
    }

    /// Stops its units, if the level does, and notes that they are held.
    async fn stop_into(&self, now: &mut Saved, level: QuarantineLevel) -> Stopping {
        if level == QuarantineLevel::Observe {
            return Stopping::default();
        }
        match self.stop(now).await {
            Ok(stopped) => {
                now.held.clone_from(&now.terms.stop);
                Stopping { stopped, error: None }
            }
            Err(error) => Stopping { stopped: Vec::new(), error: Some(error) },
        }
    }

    /// What was in force before, without rules, is what is in force: also where some were loaded after all, by a job
    /// that nobody waited for any more.
    async fn take_back(&self, was: &Saved) {
        let removed = self.remove(RULES_FILE).and_then(|()| self.remove(BRIDGE_FILE));
        // Without nft nothing was loaded.
        let unloaded = if matches!(self.loader, Loader::None) { Ok(()) } else { self.unload(false).await };
        let taken_back = removed.and_then(|()| self.save(was)).map_err(|error| error.to_string()).and(unloaded);
        if let Err(error) = taken_back {
            tracing::error!("quarantine: take back what could not be put in force: {error}");
        }
    }

    /// Writes the rules where the boot unit finds them, and loads them; why those for bridges are not in force, if
    /// there are bridges. What was loaded before stays in force if that fails. Those that can't be loaded stay where a
    /// boot finds them, which may know more: to delete them and write them again at each try wears out the flash.
    async fn load(&self, rules: &str, bridge: &str) -> Result<Option<Failed>, Failed> {
        let (file, bridge_file) = (self.dir.join(RULES_FILE), self.dir.join(BRIDGE_FILE));
        for (file, text) in [(&file, rules), (&bridge_file, bridge)] {
            replace(file, text.as_bytes()).map_err(|error| format!("write {}: {error}", file.display()))?;
        }
        match &self.loader {
            Loader::Nft(nft) => run(nft, &loading(&file)).await?,
            Loader::BootUnit => {
                let wrong = jobs::each(Job::ReloadOrRestart, [BOOT_UNIT]).await?;
                if !wrong.is_empty() {
                    return Err(format!("{}: journalctl -u {BOOT_UNIT}", wrong.join("; ")));
                }
            }
            Loader::None => return Err(NO_NFT.into()),
        }
        // A transaction of its own: a kernel may know no rules for bridges.
        let bridge = match &self.loader {
            Loader::Nft(nft) => run(nft, &loading(&bridge_file)).await.err().filter(|_| self.has_bridge()),
            // It has seen whether there are bridges.
            Loader::BootUnit => jobs::said_no(BOOT_UNIT, BRIDGE_FILE).await,
            Loader::None => None,
        };
        Ok(bridge)
    }

    fn has_bridge(&self) -> bool {
        let interfaces = fs::read_dir(&self.interfaces).into_iter().flatten().flatten();
        interfaces.take(INTERFACES_MAX).any(|interface| interface.path().join("bridge").exists())
    }

    /// Stops what is to be stopped and runs, and remembers it before it is done.
    async fn stop(&self, now: &mut Saved) -> Result<Vec<UnitName>, Failed> {
        if now.terms.stop.is_empty() {
            return Ok(Vec::new());
        }
        let running = jobs::running(&now.terms.stop).await?;
        if self.has_ended() {
            return Ok(Vec::new());
        }
        now.stopped.extend(running.iter().filter(|unit| !now.stopped.contains(unit)).cloned().collect::<Vec<_>>());
        self.save(now).map_err(|error| error.to_string())?;
        jobs::run(Job::Stop, running.iter().map(UnitName::as_str)).await.map(|()| running)
    }

    /// Why there is none in force.
    pub(crate) fn why_none(&self) -> &'static str {
        match self.saved() {
            Some(saved) if saved.level == ENDED => ENDED_BY_HAND,
            Some(saved) if saved.level == LEFT => LEFT_IN_PART,
            _ => "there is no quarantine to be put in force again",
        }
    }

    /// Root, who waits for nobody's turn without end, has ended on the console what is being put in force here.
    fn has_ended(&self) -> bool {
        self.saved().is_some_and(|saved| saved.level().is_none())
    }

    async fn end(&self, mark: Option<Saved>) -> ActOutcome {
        self.end_of(self.saved(), mark).await
    }

    /// Ends what was saved so, and leaves this mark of it.
    async fn end_of(&self, saved: Option<Saved>, mark: Option<Saved>) -> ActOutcome {
        let before = saved.unwrap_or_default();
        let rules = match self.unload(before.loaded).await {
            Ok(()) => "no rules are in force".to_owned(),
            Err(detail) if before.loaded => return ActOutcome::failed(Ending::NftFailed, detail),
            // Whatever keeps rules from being taken away here has kept them from being loaded, too: it is no reason to
            // stay.
            Err(detail) => format!("no rules were loaded ({detail})"),
        };
        // Not before they are out of force: what stays shut has to be so after a boot, too.
        if let Err(error) = self.remove(RULES_FILE).and_then(|()| self.remove(BRIDGE_FILE)) {
            return ActOutcome::failed(Reason::StoreFailed, format!("delete the saved rules: {error}"));
        }
        let started = match before.stopped.as_slice() {
            [] => Ok(()),
            stopped => jobs::run(Job::Start, stopped.iter().map(UnitName::as_str)).await,
        };
        // What could not be started is remembered, for who lets it out once more. What is up all the same, or still
        // comes up, is not: once its owner has stopped it for good, nobody would have it started.
        let down = if started.is_ok() { Vec::new() } else { not_running(&before.stopped).await };
        let mark = if down.is_empty() {
            mark
        } else {
            Some(Saved { stopped: down.clone(), ..mark.unwrap_or_else(|| self::mark(LEFT)) })
        };
        let forgotten = match mark {
            Some(mark) => self.save(&mark),
            // Back after a power cut, it would shut a gateway whose journal says that it was let out.
            None => self.remove(STATE_FILE),
        };
        if let Err(error) = forgotten {
            return failed(&error);
        }
        let names = named(&before.stopped);
        match started {
            Ok(()) if names.is_empty() => ActOutcome::succeeded(rules),
            Ok(()) => ActOutcome::succeeded(format!("{rules}; started {names}")),
            Err(error) => {
                let what = if down.is_empty() {
                    format!("{names} may still be coming up")
                } else {
                    format!("{} could not be started", named(&down))
                };
                ActOutcome::succeeded(format!("{rules}; {what}: {error}")).but(Ending::UnitFailed)
            }
        }
    }

    /// Takes the rules away; `loaded`: some may be there, whatever has become of who loaded them.
    async fn unload(&self, loaded: bool) -> Result<(), Failed> {
        match &self.loader {
            // Adding it first makes deleting it right where it isn't.
            Loader::Nft(nft) => {
                let bridge = run(nft, &[format!("add table {BRIDGE_TABLE}; delete table {BRIDGE_TABLE}")]).await;
                // What a kernel doesn't know isn't there.
                if bridge.is_err() && run(nft, &[format!("list table {BRIDGE_TABLE}")]).await.is_ok() {
                    return bridge;
                }
                run(nft, &[format!("add table {TABLE}; delete table {TABLE}")]).await
            }
            Loader::BootUnit => {
                // One that has failed takes nothing away when it is stopped: what is loaded anew, it does.
                if loaded && jobs::has_failed(BOOT_UNIT).await {
                    jobs::each(Job::ReloadOrRestart, [BOOT_UNIT]).await?;
                }
                jobs::run(Job::Stop, [BOOT_UNIT]).await?;
                jobs::failed_to_stop(BOOT_UNIT).await.map_or(Ok(()), Err)
            }
            // One that is gone has left its rules where they are.
            Loader::None => Err(NO_NFT.into()),
        }
    }

    fn saved(&self) -> Option<Saved> {
        saved(&self.dir)
    }

    /// Deletes a file of ours, for good.
    fn remove(&self, name: &str) -> io::Result<()> {
        disk::remove(&self.dir.join(name)).and_then(|()| match disk::sync_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
    }

    /// As systemd makes it: what is in there is nobody else's business.
    fn make_dir(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)
    }

    fn save(&self, saved: &Saved) -> io::Result<()> {
        self.make_dir()?;
        let file = self.dir.join(STATE_FILE);
        let text = serde_json::to_vec(saved)?;
        replace(&file, &text)
            .map_err(|error| io::Error::new(error.kind(), format!("write {}: {error}", file.display())))
    }
}

/// Units that were stopped for what is in force by this directory, and are to stay so.
#[must_use]
pub fn keeps_stopped(dir: &Path) -> Vec<UnitName> {
    saved(dir).unwrap_or_default().keeps_stopped().to_vec()
}

/// What is saved. What can't be read is in force with rules, which stay until somebody says otherwise; what was stopped
/// for it can't be known.
fn saved(dir: &Path) -> Option<Saved> {
    let file = dir.join(STATE_FILE);
    let read = fs::read(&file).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
    match read {
        Ok(saved) => Some(saved),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!("quarantine: {}: {error}", file.display());
            let rules = fs::read_to_string(dir.join(RULES_FILE)).unwrap_or_default();
            let level = ruleset::level_of(&rules).unwrap_or(QuarantineLevel::Restrict);
            Some(Saved { level: level.word().into(), loaded: true, ..Saved::default() })
        }
    }
}

/// What is looked at every minute is not written every minute.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(file).is_ok_and(|known| known == bytes) {
        return Ok(());
    }
    disk::replace_file(file, bytes).map(drop)
}

/// The addresses that were found now, and behind them those that were known: a name that stands for many gives others
/// each time, and one that isn't answered gives none. Units that are to stay stopped still are, whoever wants fewer.
fn with_older(terms: Terms, saved: &Saved) -> Terms {
    let before = &saved.terms;
    let mut terms = terms.with_older_hosts(before);
    let older: Vec<_> = before.broker.iter().filter(|old| !terms.broker.contains(old)).copied().collect();
    terms.broker.extend(older.into_iter().filter(|old| old.port() == terms.port));
    terms.broker.truncate(ADDRESSES_MAX);
    for unit in std::mem::replace(&mut terms.stop, saved.keeps_stopped().to_vec()) {
        if !terms.stop.contains(&unit) {
            terms.stop.push(unit);
        }
    }
    keep_order(&mut terms.broker, &before.broker);
    keep_order(&mut terms.hosts, &before.hosts);
    terms
}

/// A name server that gives the same in another order each time has nothing written.
fn keep_order<T: PartialEq + Clone>(found: &mut Vec<T>, before: &[T]) {
    if found.iter().all(|one| before.contains(one)) && before.iter().all(|one| found.contains(one)) {
        *found = before.to_vec();
    }
}

fn outcome(level: QuarantineLevel, now: &Saved, not_stopped: Option<Failed>) -> ActOutcome {
    let (stopped, trouble) = match not_stopped {
        None if now.stopped.is_empty() && now.degraded.is_some() => ("; no unit was stopped".into(), String::new()),
        None if now.stopped.is_empty() => (String::new(), String::new()),
        None => (format!("; stopped: {}", named(&now.stopped)), String::new()),
        Some(error) => (String::new(), format!("; units could not be stopped: {error}")),
    };
    // Some that a boot could not load again, or that root has flushed, are not told apart from those that hold.
    let network = if now.loaded { "the rules of before, if they are loaded, stay" } else { "the network is as it was" };
    match &now.degraded {
        Some(why) => ActOutcome::succeeded(format!("{network}: {why}{stopped}{trouble}")).but(Ending::Degraded),
        None if level == QuarantineLevel::Observe => ActOutcome::succeeded("nothing is cut off"),
        None => {
            let bridging = now.bridging.as_ref().map(|why| format!("; what bridges forward goes on: {why}"));
            let trouble = bridging.unwrap_or_default() + &trouble;
            let outcome = ActOutcome::succeeded(format!("{}{stopped}{trouble}", in_reach(now)));
            if trouble.is_empty() { outcome } else { outcome.but(Ending::Degraded) }
        }
    }
}

/// No rules, and no unit that would be stopped.
fn nothing_holds(outcome: ActOutcome) -> ActOutcome {
    let detail = outcome.detail.unwrap_or_default();
    ActOutcome::failed(Ending::NftFailed, format!("nothing of it is in force: {detail}"))
}

/// What stays of one that is over.
fn mark(level: &str) -> Saved {
    Saved { level: level.into(), ..Saved::default() }
}

/// What a refresh is that has stopped units. What else it is, it stays: `degraded`, where there is no firewall.
fn stopped_again(outcome: ActOutcome, stopped: &[UnitName]) -> ActOutcome {
    let detail = outcome.detail.unwrap_or_default();
    let detail = format!("{detail}; started meanwhile and stopped again: {}", named(stopped));
    ActOutcome { stopped_again: true, detail: Some(detail), ..outcome }
}

fn in_reach(now: &Saved) -> String {
    if now.wide {
        return format!("any address at port {} is in reach", now.terms.port);
    }
    let broker: Vec<String> = now.terms.broker.iter().map(ToString::to_string).collect();
    let broker = if broker.is_empty() { "no known address".into() } else { broker.join(", ") };
    format!("the broker is in reach at {broker}")
}

/// Those that don't run; all where that can't be known.
async fn not_running(units: &[UnitName]) -> Vec<UnitName> {
    let running = jobs::running(units).await.unwrap_or_default();
    units.iter().filter(|unit| !running.contains(unit)).cloned().collect()
}

fn failed(error: &io::Error) -> ActOutcome {
    ActOutcome::failed(Reason::StoreFailed, format!("quarantine: {error}"))
}

fn loading(file: &Path) -> [String; 2] {
    ["-f".into(), file.to_string_lossy().into_owned()]
}

async fn run(nft: &Path, args: &[String]) -> Result<(), Failed> {
    let (_keep, canceled) = oneshot::channel();
    let finished = program::run(Program::new(nft, args, &[]), NFT_MAX, canceled, &mut |_| ()).await;
    let outcome = finished.map_err(|error| format!("start {}: {error}", nft.display()))?.outcome("nft");
    if outcome.status == ActStatus::Succeeded {
        return Ok(());
    }
    let said = outcome.output.unwrap_or_default();
    Err(format!("nft: {}: {}", outcome.detail.unwrap_or_default(), said.lines().next().unwrap_or_default()))
}

#[cfg(test)]
mod tests;
