//! Goes back to an earlier release, and marks the one that runs as good: by release directories, by RAUC, or by a
//! program of the integrator's. Does what it is told, once; whether a release is good is decided elsewhere. Where the
//! release is only in force after a boot, the outcome says `needs_reboot`, and reboots nothing. Where release
//! directories were switched and their units not restarted, as after a kill, the next start restarts them, or a look an
//! hour later.
//!
//! It goes together with boot counting: the bootloader (U-Boot's `bootcount`, systemd-boot's counters, RAUC's own
//! attempts) catches a release that doesn't come up far enough to run an agent, and this one that comes up and is no
//! good. For that, `mark_good` has to be the only one that says so: a `rauc-mark-good.service` that does it at boot,
//! unasked, is disabled, and a program of kind "command" resets the bootloader's counter when it is called for
//! `mark_good`.

#![expect(clippy::disallowed_methods, reason = "a rollback has a deadline")]

mod rauc;
mod slots;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep, timeout};

use self::slots::{Due, SlotError, Slots, Switched};
use super::program::{self, Program};
use super::systemd;
use super::transient::{self, Ran};
use crate::config::{Rollback, RollbackKind, UnitName};
use crate::engine::io::{ActOutcome, ActStatus, Ending};
use crate::engine::time::BootId;
use crate::own_thread::on_own_thread;
use crate::wire::Reason;

/// EX_TEMPFAIL of sysexits.h: done, and the next boot completes it.
const EXIT_NEEDS_REBOOT: i32 = 75;

/// How often in a row is tried to restart what is due, how long that may take each time, and the pause in between.
const DUE_TRIES: u32 = 3;
const DUE_MAX: Duration = Duration::from_secs(120);
const DUE_AGAIN: Duration = Duration::from_secs(10);
/// When to look again for what is due.
const DUE_EVERY: Duration = Duration::from_secs(3600);
/// How long a look at a directory of releases may take.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// One switch of release directories at a time, with its restarts: what is due is read and written in between.
static TURN: Mutex<()> = Mutex::const_new(());
/// And one work at a time in each directory of releases.
static AT_WORK: std::sync::Mutex<BTreeMap<PathBuf, Arc<Mutex<()>>>> = std::sync::Mutex::new(BTreeMap::new());

/// What can be rolled back, and how.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rollbacks {
    targets: BTreeMap<String, Rollback>,
    /// Programs are run by PID 1.
    apart: bool,
    /// The boot that this is, where it is known.
    boot: Option<BootId>,
}

/// What is done to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb<'a> {
    Rollback { to: Option<&'a str> },
    MarkGood,
}

impl Rollbacks {
    /// These targets; `apart`: their programs are run by PID 1, outside of what confines this process.
    #[must_use]
    pub const fn new(targets: BTreeMap<String, Rollback>, apart: bool, boot: Option<BootId>) -> Self {
        Self { targets, apart, boot }
    }

    /// There is nothing to roll back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// What can be rolled back, by its name.
    #[must_use]
    pub const fn targets(&self) -> &BTreeMap<String, Rollback> {
        &self.targets
    }

    /// Goes back to the previous release, or to a named one. What goes wrong is `no_such_target`, `no_current_release`,
    /// `no_other_release`, `no_such_release`, `not_supported`, `rollback_failed`, `unit_failed` (it has gone back, and
    /// a unit doesn't start), or as a program's end. What a quarantine `keeps_stopped` by the time that its turn comes
    /// is left so: whoever starts it starts it from where `current` leads.
    pub async fn rollback(
        &self,
        target: &str,
        to: Option<&str>,
        within: Duration,
        keeps_stopped: impl Fn() -> Vec<UnitName>,
        canceled: oneshot::Receiver<()>,
    ) -> ActOutcome {
        self.perform(target, Verb::Rollback { to }, within, keeps_stopped, canceled).await
    }

    /// Marks the release that runs as good. What goes wrong is as above.
    pub async fn mark_good(&self, target: &str, within: Duration, canceled: oneshot::Receiver<()>) -> ActOutcome {
        self.perform(target, Verb::MarkGood, within, Vec::new, canceled).await
    }

    /// What keeps releases from being gone back from by this process, by target, as far as that can be seen before.
    pub async fn unfit(&self) -> Vec<(&str, String)> {
        let mut unfit = Vec::new();
        for (target, rollback) in &self.targets {
            let RollbackKind::Slots { dir } = &rollback.kind else { continue };
            let looked = on_disk(dir, LOOK_MAX, |dir| Slots::new(dir).fit()?.writable()).await;
            unfit.extend(looked.err().map(|outcome| (target.as_str(), outcome.detail.unwrap_or_default())));
        }
        unfit
    }

    async fn complete(&self, keeps_stopped: &impl Fn() -> Vec<UnitName>, again: Duration) {
        for left in (0..DUE_TRIES).rev() {
            let mut is_due = false;
            for (target, Rollback { kind, units, .. }) in &self.targets {
                if let RollbackKind::Slots { dir } = kind {
                    let completing = complete(target, dir, units, self.restarting(units), keeps_stopped);
                    // What is hardly ever due takes no room for good.
                    is_due |= !Box::pin(completing).await;
                }
            }
            if !is_due || left == 0 {
                return;
            }
            sleep(again).await;
        }
    }

    /// The boot, where units are restarted in it.
    fn restarting(&self, units: &[UnitName]) -> Option<BootId> {
        self.boot.filter(|_| !units.is_empty())
    }

    async fn perform(
        &self,
        name: &str,
        verb: Verb<'_>,
        within: Duration,
        keeps_stopped: impl Fn() -> Vec<UnitName>,
        canceled: oneshot::Receiver<()>,
    ) -> ActOutcome {
        let Some(Rollback { kind, units, .. }) = self.targets.get(name) else {
            let known: Vec<&str> = self.targets.keys().map(String::as_str).collect();
            return ActOutcome::failed(Ending::NoSuchTarget, format!("{name:?} is none of {}", known.join(", ")));
        };
        match (kind, verb) {
            (RollbackKind::Slots { dir }, Verb::Rollback { to }) => {
                let until = Instant::now() + within;
                let Ok(_turn) = timeout(within, TURN.lock()).await else {
                    return ActOutcome::timed_out("another rollback is still restarting units: nothing was done");
                };
                let left = until.saturating_duration_since(Instant::now());
                switch(dir, to, units, self.restarting(units), left, keeps_stopped).await
            }
            (RollbackKind::Slots { dir }, Verb::MarkGood) => mark_good(dir, self.restarting(units), within).await,
            (RollbackKind::Rauc, Verb::Rollback { to }) => answered(within, rauc::rollback(to)).await,
            (RollbackKind::Rauc, Verb::MarkGood) => answered(within, rauc::mark_good()).await,
            (RollbackKind::Command { argv }, verb) => self.run(name, argv, verb, within, canceled).await,
        }
    }

    async fn run(
        &self,
        target: &str,
        argv: &[String],
        verb: Verb<'_>,
        within: Duration,
        canceled: oneshot::Receiver<()>,
    ) -> ActOutcome {
        let Some((path, args)) = argv.split_first() else {
            return ActOutcome::failed(Ending::RollbackFailed, "argv is empty");
        };
        let path = Path::new(path);
        match program::look_at(path, program::unfit_by_links, within).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(wrong))) => return ActOutcome::failed(Ending::RollbackFailed, wrong),
            Ok(Err(error)) => {
                return ActOutcome::failed(Ending::RollbackFailed, format!("look at {}: {error}", path.display()));
            }
            Err(hangs) => return hangs,
        }
        let (action, to) = match verb {
            Verb::Rollback { to } => ("rollback", to),
            Verb::MarkGood => ("mark_good", None),
        };
        let mut env = vec![("FIELDMEDIC_ACTION", action), ("FIELDMEDIC_TARGET", target)];
        env.extend(to.map(|to| ("FIELDMEDIC_TO", to)));
        let program = Program::new(path, args, &env);
        let refusal = Ending::RollbackFailed;
        let ran = transient::run_where(self.apart, program, target, refusal, within, canceled, &mut |_| ()).await;
        let Ran { outcome, exit_code } = ran;
        if matches!(verb, Verb::Rollback { .. }) && exit_code == Some(EXIT_NEEDS_REBOOT) {
            return outcome.but(Reason::NeedsReboot);
        }
        outcome
    }
}

/// Restarts the units for which a rollback did not come to that, in this boot: another one starts them from where
/// `current` leads, and so does whoever starts what a quarantine `keeps_stopped`. What can't be restarted stays due,
/// for an order that names that release or the next time: this looks at once and each hour, without an end.
pub async fn complete_due(rollbacks: impl Fn() -> Rollbacks, keeps_stopped: impl Fn() -> Vec<UnitName>) -> Infallible {
    complete_each(rollbacks, keeps_stopped, [DUE_AGAIN, DUE_EVERY]).await
}

async fn complete_each(
    rollbacks: impl Fn() -> Rollbacks,
    keeps_stopped: impl Fn() -> Vec<UnitName>,
    [again, every]: [Duration; 2],
) -> Infallible {
    loop {
        rollbacks().complete(&keeps_stopped, again).await;
        sleep(every).await;
    }
}

/// What keeps the releases of a directory from being gone back from, as far as that can be seen before.
pub(crate) fn unfit_slots(dir: &Path) -> Option<String> {
    Slots::new(dir).fit().err().map(|error| error.detail)
}

/// The release that runs from a directory of releases, in this boot: where a rollback has yet to restart units, the one
/// that they run. `None` where the links say nothing.
#[must_use]
pub fn running_slot(dir: &Path, boot: Option<BootId>) -> Option<String> {
    Slots::new(dir).restarting_in(boot).running()
}

/// Switches releases, and restarts what runs from them: also where a rollback was cut off before it came to that.
async fn switch(
    dir: &Path,
    to: Option<&str>,
    units: &[UnitName],
    boot: Option<BootId>,
    within: Duration,
    keeps_stopped: impl Fn() -> Vec<UnitName>,
) -> ActOutcome {
    let until = Instant::now() + within;
    let wanted = to.map(str::to_owned);
    let switched = on_disk(dir, within, move |dir| {
        let slots = Slots::new(dir).restarting_in(boot);
        let due = slots.due();
        Ok((slots.rollback(wanted.as_deref())?, due))
    });
    let (detail, since_us) = match switched.await {
        Ok((Some(Switched { from, to, trouble }), _)) => {
            (with(format!("{to} takes the place of {from}"), trouble), None)
        }
        Ok((None, due)) => (format!("{} runs already", to.unwrap_or_default()), due.map(|due| due.since_us)),
        Err(outcome) => return outcome,
    };
    let left = until.saturating_duration_since(Instant::now());
    let (mut said, restarted) = restart_all(units, since_us, left, keeps_stopped, systemd::restart).await;
    if restarted != Restarted::Due {
        said.extend(forget_due(dir, until.saturating_duration_since(Instant::now())).await);
    }
    let detail = with(detail, said);
    if restarted == Restarted::Run {
        ActOutcome::succeeded(detail)
    } else {
        ActOutcome::failed(Ending::UnitFailed, detail)
    }
}

/// Restarts what is due of one target; whether nothing is any more.
async fn complete(
    target: &str,
    dir: &Path,
    units: &[UnitName],
    boot: Option<BootId>,
    keeps_stopped: impl Fn() -> Vec<UnitName>,
) -> bool {
    let _turn = TURN.lock().await;
    let due = match on_disk(dir, LOOK_MAX, move |dir| Slots::new(dir).restarting_in(boot).take_up()).await {
        Ok(Some(due)) => due,
        Ok(None) => return true,
        Err(ActOutcome { detail, .. }) => {
            tracing::error!("rollback of {target}: {}", detail.unwrap_or_default());
            return false;
        }
    };
    let Due { from, to, since_us } = due;
    tracing::warn!("rollback of {target} was cut off: {to} took the place of {from}, and units are to be restarted");
    let (mut said, restarted) = restart_all(units, Some(since_us), DUE_MAX, keeps_stopped, systemd::restart).await;
    let is_due = restarted == Restarted::Due;
    if is_due {
        tracing::error!("rollback of {target}: {}", with(format!("{from} still runs"), said));
    } else {
        said.extend(forget_due(dir, LOOK_MAX).await);
        tracing::warn!("rollback of {target}: {}", with(format!("{to} runs"), said));
    }
    !is_due
}

/// What went wrong, if it isn't forgotten.
async fn forget_due(dir: &Path, within: Duration) -> Option<String> {
    on_disk(dir, within, |dir| Slots::new(dir).clear_due()).await.err()?.detail
}

async fn mark_good(dir: &Path, boot: Option<BootId>, within: Duration) -> ActOutcome {
    match on_disk(dir, within, move |dir| Slots::new(dir).restarting_in(boot).mark_good()).await {
        Ok((release, trouble)) => {
            let outcome = ActOutcome::succeeded(with(format!("{release} is good"), trouble));
            ActOutcome { release: Some(release.into()), ..outcome }
        }
        Err(outcome) => outcome,
    }
}

/// Works on a directory of releases, on a thread that may hang with the disk that it is on: nobody else does, and what
/// heals that may be ordered next. What is told as over is not begun any more when the disk answers; what had been
/// begun goes on, and whoever is next in that directory waits for it.
async fn on_disk<T: Send + 'static>(
    dir: &Path,
    within: Duration,
    work: impl FnOnce(&Path) -> Result<T, SlotError> + Send + 'static,
) -> Result<T, ActOutcome> {
    let (at, until) = (dir.to_owned(), Instant::now() + within);
    let turn = turn_in(dir);
    let begin = async {
        let turn = turn.lock_owned().await;
        let work = move || {
            // Here it hangs, if it does.
            let _ = fs::metadata(&at);
            let done = (Instant::now() < until).then(|| work(&at));
            drop(turn);
            done
        };
        on_own_thread("rollback", work).await
    };
    match timeout(within, begin).await {
        Ok(Ok(Some(done))) => done.map_err(SlotError::outcome),
        Ok(Err(error)) => Err(ActOutcome::failed(Ending::RollbackFailed, error.to_string())),
        Ok(Ok(None)) | Err(_) => {
            let (dir, within) = (dir.display(), humantime::format_duration(within));
            let detail =
                format!("{dir} does not answer after {within}; only what was begun there is done when it does");
            Err(ActOutcome::timed_out(detail))
        }
    }
}

/// Whose turn it is in a directory of releases.
fn turn_in(dir: &Path) -> Arc<Mutex<()>> {
    let mut turns = AT_WORK.lock().unwrap_or_else(PoisonError::into_inner);
    // What nobody works in, or waits for, needs none.
    turns.retain(|_, turn| Arc::strong_count(turn) > 1);
    Arc::clone(turns.entry(dir.to_owned()).or_default())
}

/// What came of the restarts of all units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restarted {
    /// All run.
    Run,
    /// One doesn't, and that is the release that was wanted: whether it is good is decided elsewhere.
    Fail,
    /// One may still be what it was.
    Due,
}

/// What is said of each, up to the first that is not restarted; one that was started later than `since_us` has been.
/// The time is for all of them: whoever waits for it waits no longer. That is long enough for a quarantine to be entered
/// between two of them.
async fn restart_all(
    units: &[UnitName],
    since_us: Option<u64>,
    within: Duration,
    keeps_stopped: impl Fn() -> Vec<UnitName>,
    restart: impl AsyncFn(&UnitName, Option<u64>) -> ActOutcome,
) -> (Vec<String>, Restarted) {
    // `since_us` is only handed on: of a closure that held it rustc can't tell that its future is Send.
    let until = Instant::now() + within;
    let (mut said, mut all) = (Vec::new(), Restarted::Run);
    for unit in units {
        if keeps_stopped().contains(unit) {
            said.push(format!("{unit} stays stopped until the quarantine is left"));
            continue;
        }
        let left = until.saturating_duration_since(Instant::now());
        let outcome = answered(left, restart(unit, since_us)).await;
        let ending = outcome.ending();
        said.extend(outcome.detail);
        match ending {
            _ if outcome.status == ActStatus::Succeeded => {}
            Some(Ending::UnitFailed | Ending::NoSuchUnit | Ending::UnitNotLoaded) => all = Restarted::Fail,
            _ => return (said, Restarted::Due),
        }
    }
    (said, all)
}

async fn answered(within: Duration, act: impl Future<Output = ActOutcome>) -> ActOutcome {
    let late = |_| ActOutcome::timed_out(format!("not over after {}", humantime::format_duration(within)));
    timeout(within, act).await.unwrap_or_else(late)
}

/// What was done, and what went wrong beside it.
fn with(done: String, trouble: Vec<String>) -> String {
    [vec![done], trouble].concat().join("; ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "releases are directories, and programs are files")]

    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::own_thread::tests::NoThreads;

    fn target(kind: RollbackKind) -> Rollbacks {
        let rollback = Rollback { kind, units: vec![], settle: Duration::ZERO, trial: Duration::ZERO };
        Rollbacks::new(BTreeMap::from([("app".to_owned(), rollback)]), false, None)
    }

    async fn rollback(rollbacks: &Rollbacks, name: &str, to: Option<&str>) -> ActOutcome {
        let (_keep, canceled) = oneshot::channel();
        rollbacks.rollback(name, to, Duration::from_secs(20), Vec::new, canceled).await
    }

    #[tokio::test]
    async fn slots_are_switched_and_the_outcome_says_from_where_to_where() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["1.0", "2.0"] {
            fs::create_dir_all(dir.path().join("releases").join(name)).unwrap();
        }
        symlink("releases/2.0", dir.path().join("current")).unwrap();
        symlink("releases/1.0", dir.path().join("previous")).unwrap();
        let rollbacks = target(RollbackKind::Slots { dir: dir.path().to_owned() });
        let outcome = rollback(&rollbacks, "app", None).await;
        assert_eq!(outcome, ActOutcome::succeeded("1.0 takes the place of 2.0"));
        assert_eq!(rollback(&rollbacks, "app", Some("1.0")).await, ActOutcome::succeeded("1.0 runs already"));
        assert_eq!(rollback(&rollbacks, "app", None).await.reason.as_deref(), Some("no_other_release"));
        assert_eq!(rollback(&rollbacks, "modem", None).await.reason.as_deref(), Some("no_such_target"));
    }

    #[tokio::test]
    async fn what_is_over_before_the_disk_answers_is_not_begun() {
        let (begun, is_begun) = std::sync::mpsc::sync_channel(1);
        let dir = tempfile::tempdir().unwrap();
        let work = move |_: &Path| Ok(begun.send(()));
        let outcome = on_disk(dir.path(), Duration::ZERO, work).await.unwrap_err();
        assert_eq!(outcome.status, ActStatus::TimedOut);
        assert!(is_begun.recv().is_err(), "it was dropped");
    }

    #[tokio::test]
    async fn where_there_is_no_thread_to_look_at_a_disk_the_rollback_fails_with_that() {
        let dir = tempfile::tempdir().unwrap();
        let none = NoThreads::begin();
        let outcome = on_disk(dir.path(), Duration::from_secs(60), |_| Ok(())).await.unwrap_err();
        drop(none);
        assert_eq!(outcome.status, ActStatus::Failed);
        assert!(outcome.detail.as_ref().unwrap().starts_with("the system gives no thread: "), "{outcome:?}");
        on_disk(dir.path(), Duration::from_secs(60), |_| Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_nobody_who_asks_for_something_else() {
        let (disk, hangs) = std::sync::mpsc::sync_channel::<()>(0);
        let dir = tempfile::tempdir().unwrap();
        let work = move |_: &Path| Ok(hangs.recv());
        let outcome = on_disk(dir.path(), Duration::from_millis(50), work).await.unwrap_err();
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::TimedOut, Some("timeout")));
        assert!(outcome.detail.as_ref().unwrap().contains("does not answer after 50ms"), "{outcome:?}");
        drop(disk);
    }

    #[tokio::test]
    async fn what_goes_on_after_its_time_is_waited_for_in_its_directory_and_nowhere_else() {
        let (disk, hangs) = std::sync::mpsc::sync_channel::<()>(0);
        let dir = tempfile::tempdir().unwrap();
        let (begun, has_begun) = oneshot::channel();
        let (short, long) = (Duration::from_millis(50), Duration::from_secs(20));
        let work = move |_: &Path| {
            begun.send(()).unwrap();
            Ok(hangs.recv())
        };
        tokio::select! {
            _ = on_disk(dir.path(), long, work) => panic!("it hangs"),
            begun = has_begun => begun.unwrap(),
        }
        let mark = async |dir: &Path, within| mark_good(dir, None, within).await.reason.unwrap();
        assert_eq!(mark(dir.path(), short).await, "timeout");
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(mark(elsewhere.path(), long).await, "no_current_release");
        drop(disk);
        assert_eq!(mark(dir.path(), long).await, "no_current_release");
    }

    #[tokio::test]
    async fn the_time_of_a_rollback_is_for_all_its_units_together() {
        let units: Vec<UnitName> =
            ["a.service", "b.service", "c.service"].map(|unit| UnitName::try_from(unit.to_owned()).unwrap()).into();
        let begun = std::sync::Mutex::new(Vec::new());
        let slow = async |unit: &UnitName, _| {
            begun.lock().unwrap().push(unit.to_string());
            // Each by itself would be in time.
            sleep(Duration::from_millis(150)).await;
            ActOutcome::succeeded(unit.to_string())
        };
        let (said, all) = restart_all(&units, None, Duration::from_millis(200), Vec::new, slow).await;
        let begun = begun.into_inner().unwrap();
        assert_eq!((begun, all), (vec!["a.service".into(), "b.service".to_owned()], Restarted::Due));
        assert_eq!(said[0], "a.service");
    }

    #[tokio::test]
    async fn a_unit_that_fails_was_restarted_and_keeps_none_after_it_from_that() {
        let units: Vec<UnitName> = ["fails.service", "runs.service", "stays.service", "last.service"]
            .map(|unit| UnitName::try_from(unit.to_owned()).unwrap())
            .into();
        let restart = async |unit: &UnitName, _| match unit.as_str() {
            "fails.service" => ActOutcome::failed(Ending::UnitFailed, "fails"),
            "stays.service" => ActOutcome::failed(Ending::NoSystemd, "stays"),
            other => ActOutcome::succeeded(other),
        };
        let all = async |units: &[UnitName]| restart_all(units, None, Duration::from_secs(20), Vec::new, restart).await;
        assert_eq!(all(&units[..2]).await, (vec!["fails".into(), "runs.service".into()], Restarted::Fail));
        assert_eq!(all(&units[2..]).await, (vec!["stays".into()], Restarted::Due));
    }

    #[tokio::test]
    async fn a_unit_that_a_quarantine_stops_meanwhile_is_not_started_when_its_turn_comes() {
        let units: Vec<UnitName> = ["slow.service", "app.service", "last.service"]
            .map(|unit| UnitName::try_from(unit.to_owned()).unwrap())
            .into();
        let stopped = std::sync::Mutex::new(Vec::new());
        let keeps_stopped = || stopped.lock().unwrap().clone();
        let restart = async |unit: &UnitName, _| {
            // It is entered while the first of them comes up.
            *stopped.lock().unwrap() = units[1..2].to_vec();
            ActOutcome::succeeded(unit.to_string())
        };
        let (said, all) = restart_all(&units, None, Duration::from_secs(20), keeps_stopped, restart).await;
        let kept = "app.service stays stopped until the quarantine is left";
        assert_eq!((said, all), (["slow.service", kept, "last.service"].map(str::to_owned).into(), Restarted::Run));
    }

    #[tokio::test]
    async fn what_stays_due_is_taken_up_again_without_another_start() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["1.0", "2.0"] {
            fs::create_dir_all(dir.path().join("releases").join(name)).unwrap();
        }
        symlink("releases/2.0", dir.path().join("current")).unwrap();
        let boot = BootId([7; 16]);
        Slots::new(dir.path()).restarting_in(Some(boot)).rollback(Some("1.0")).unwrap().unwrap();
        let units = vec![UnitName::try_from("fieldmedic-is-no-such.service".to_owned()).unwrap()];
        let kind = RollbackKind::Slots { dir: dir.path().to_owned() };
        let rollback = Rollback { kind, units: units.clone(), settle: Duration::ZERO, trial: Duration::ZERO };
        let targets = BTreeMap::from([("app".to_owned(), rollback)]);
        // What is due can't be taken up at the first look, as often as that tries; nor is the unit to be started then.
        let (due, note) = (dir.path().join(".fieldmedic.due"), dir.path().join("note"));
        fs::rename(&due, &note).unwrap();
        fs::create_dir(&due).unwrap();
        let looks = std::cell::Cell::new(0);
        let rollbacks = || {
            looks.set(looks.get() + 1);
            if looks.get() == 2 {
                fs::remove_dir(&due).unwrap();
                fs::rename(&note, &due).unwrap();
            }
            Rollbacks::new(targets.clone(), false, Some(boot))
        };
        let completing = complete_each(rollbacks, || units.clone(), [Duration::from_millis(1); 2]);
        let over = async {
            while fs::symlink_metadata(&due).is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            never = completing => match never {},
            over = timeout(Duration::from_secs(20), over) => over.unwrap(),
        }
        assert!(looks.get() >= 2, "{}", looks.get());
        assert_eq!(running_slot(dir.path(), Some(boot)).as_deref(), Some("1.0"));
    }

    fn program(text: &str) -> (tempfile::TempDir, Rollbacks) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("back");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let argv = vec![path.to_str().unwrap().to_owned(), "--now".into()];
        (dir, target(RollbackKind::Command { argv }))
    }

    #[tokio::test]
    async fn a_program_is_told_what_to_do_and_says_when_a_boot_completes_it() {
        let (_dir, rollbacks) = program("echo $1 $FIELDMEDIC_ACTION $FIELDMEDIC_TARGET $FIELDMEDIC_TO; exit 75");
        let outcome = rollback(&rollbacks, "app", Some("1.0; reboot")).await;
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Succeeded, Some("needs_reboot")));
        assert_eq!(outcome.output.as_deref(), Some("--now rollback app 1.0; reboot\n"));
        let (_keep, canceled) = oneshot::channel();
        let outcome = rollbacks.mark_good("app", Duration::from_secs(20), canceled).await;
        assert_eq!(outcome.output.as_deref(), Some("--now mark_good app\n"));
        assert_eq!(outcome.status, ActStatus::Failed, "no boot makes a release good");
    }

    #[tokio::test]
    async fn a_program_that_fails_or_that_others_could_have_written_is_no_rollback() {
        let (dir, rollbacks) = program("exit 3");
        let outcome = rollback(&rollbacks, "app", None).await;
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some("exit_code")));
        // As busybox is found.
        fs::rename(dir.path().join("back"), dir.path().join("box")).unwrap();
        symlink("box", dir.path().join("back")).unwrap();
        let outcome = rollback(&rollbacks, "app", None).await;
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some("exit_code")));
        fs::set_permissions(dir.path().join("back"), fs::Permissions::from_mode(0o777)).unwrap();
        let outcome = rollback(&rollbacks, "app", None).await;
        assert!(outcome.detail.as_ref().unwrap().contains("others may write to it"), "{outcome:?}");
    }
}
