//! systemd is played over a socket pair: what is tested is which answer becomes which outcome.

#![expect(clippy::disallowed_types, reason = "the code that zbus makes of an interface holds a HashMap")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UnixStream;
use zbus::connection::Builder;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::ObjectPath;

use super::*;
use crate::engine::io::ActStatus;

/// When the unit was started.
const STARTED_US: u64 = 1_000;
const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/app_2eservice";

/// How the imitated systemd answers.
#[derive(Clone, Copy)]
struct Script {
    load_state: &'static str,
    /// The error that `RestartUnit` ends in.
    refusal: Option<fn(String) -> zbus::fdo::Error>,
    /// It was started as often as its limit lets it.
    is_limited: bool,
    /// Who asks may reset that.
    may_reset: bool,
    is_transient: bool,
    job_result: &'static str,
    /// `ActiveState` and `SubState`, one look after the other; the last one stays.
    states: &'static [(&'static str, &'static str)],
    /// Another process at each look.
    is_flapping: bool,
    /// How many jobs of other units are over before the restart is.
    others: u32,
    /// And between the looks at its unit.
    later: u32,
    kind: &'static str,
    result: &'static str,
    exit_status: i32,
    /// One that was started later is left as it is.
    since_us: Option<u64>,
}

const GOOD: Script = Script {
    load_state: "loaded",
    refusal: None,
    is_limited: false,
    may_reset: true,
    is_transient: false,
    job_result: "done",
    states: &[("active", "running")],
    is_flapping: false,
    others: 1,
    later: 0,
    kind: "simple",
    result: "success",
    exit_status: 0,
    since_us: None,
};

struct Manager(Script, AtomicBool);

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self) {}

    fn load_unit(&self, name: &str) -> OwnedObjectPath {
        assert_eq!(name, "app.service");
        path(UNIT_PATH)
    }

    fn reset_failed_unit(&self, name: &str) -> zbus::fdo::Result<()> {
        assert_eq!(name, "app.service");
        if !self.0.may_reset {
            return Err(zbus::fdo::Error::AccessDenied("no".into()));
        }
        self.1.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// All jobs are over before the answer is sent, those of others first.
    async fn restart_unit(
        &self,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        name: String,
        mode: String,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        assert_eq!((name.as_str(), mode.as_str()), ("app.service", "replace"));
        if let Some(refusal) = self.0.refusal {
            return Err(refusal("no".into()));
        }
        let (other, ours) = (path("/org/freedesktop/systemd1/job/1"), path("/org/freedesktop/systemd1/job/2"));
        for _ in 0..self.0.others {
            Self::job_removed(&emitter, 1, other.clone(), "other.service", "canceled").await?;
        }
        let result = if self.1.load(Ordering::SeqCst) { "start-limit-hit" } else { self.0.job_result };
        Self::job_removed(&emitter, 2, ours.clone(), "app.service", result).await?;
        Ok(ours)
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

struct Unit {
    load_state: &'static str,
    is_transient: bool,
    states: Mutex<VecDeque<(&'static str, &'static str)>>,
    later: AtomicU32,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn load_state(&self) -> &str {
        self.load_state
    }

    #[zbus(property)]
    fn transient(&self) -> bool {
        self.is_transient
    }

    #[zbus(property)]
    fn inactive_exit_timestamp_monotonic(&self) -> u64 {
        STARTED_US
    }

    #[zbus(property)]
    fn active_state(&self) -> &str {
        let mut states = self.states.lock().unwrap();
        let state = states[0].0;
        if states.len() > 1 {
            states.pop_front();
        }
        state
    }

    #[zbus(property)]
    async fn sub_state(&self, #[zbus(connection)] connection: &Connection) -> &str {
        let manager = SignalEmitter::new(connection, "/org/freedesktop/systemd1").unwrap();
        for _ in 0..self.later.swap(0, Ordering::SeqCst) {
            let other = path("/org/freedesktop/systemd1/job/1");
            Manager::job_removed(&manager, 1, other, "other.service", "done").await.unwrap();
        }
        self.states.lock().unwrap()[0].1
    }
}

struct AService {
    script: Script,
    restarts: AtomicU32,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl AService {
    #[zbus(property, name = "Type")]
    fn kind(&self) -> &str {
        self.script.kind
    }

    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> u32 {
        if self.script.states.last().unwrap().0 == "active" { 123 } else { 0 }
    }

    #[zbus(property)]
    fn result(&self) -> &str {
        self.script.result
    }

    #[zbus(property)]
    fn exec_main_status(&self) -> i32 {
        self.script.exit_status
    }

    #[zbus(property, name = "NRestarts")]
    fn n_restarts(&self) -> u32 {
        if self.script.is_flapping { self.restarts.fetch_add(1, Ordering::Relaxed) } else { 3 }
    }
}

fn path(text: &str) -> OwnedObjectPath {
    ObjectPath::try_from(text.to_owned()).unwrap().into()
}

async fn outcome(script: Script) -> ActOutcome {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let unit = Unit {
        load_state: script.load_state,
        is_transient: script.is_transient,
        states: Mutex::new(script.states.iter().copied().collect()),
        later: script.later.into(),
    };
    let systemd = Builder::unix_stream(theirs)
        .server(zbus::Guid::generate())
        .unwrap()
        .p2p()
        .serve_at("/org/freedesktop/systemd1", Manager(script, script.is_limited.into()))
        .unwrap()
        .serve_at(UNIT_PATH, unit)
        .unwrap()
        .serve_at(UNIT_PATH, AService { script, restarts: AtomicU32::new(3) })
        .unwrap()
        .build();
    let client = Builder::unix_stream(ours).p2p().method_timeout(ANSWER_MAX).build();
    let (_systemd, connection) = tokio::try_join!(systemd, client).unwrap();
    let unit = UnitName::parse("app.service").unwrap();
    restart_over(&connection, &unit, script.since_us)
        .await
        .unwrap_or_else(|error| refused(&format!("restart {unit}"), &error))
}

#[tokio::test]
async fn a_unit_that_was_started_since_is_not_restarted_again() {
    let refusal: Option<fn(String) -> zbus::fdo::Error> = Some(zbus::fdo::Error::AccessDenied);
    for (since_us, is_left) in [(0, true), (STARTED_US - 1, true), (STARTED_US, false), (u64::MAX, false)] {
        let outcome = outcome(Script { since_us: Some(since_us), refusal, ..GOOD }).await;
        let is_asked = outcome.reason.as_deref() == Some("permission_denied");
        assert_eq!((outcome.status == ActStatus::Succeeded, is_asked), (is_left, !is_left), "{since_us}: {outcome:?}");
    }
}

#[tokio::test]
async fn nobody_on_the_bus_is_waited_for_without_end_nor_the_bus_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mute = dir.path().join("bus");
    let _listens = tokio::net::UnixListener::bind(&mute).unwrap();
    let bus = Builder::address(format!("unix:path={}", mute.display()).as_str()).unwrap();
    let refused = open(bus, Duration::from_millis(1)).await.unwrap_err();
    assert!(refused.to_string().contains("has not let us in"), "{refused}");

    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Builder::unix_stream(theirs).server(zbus::Guid::generate()).unwrap().p2p().build();
    let client = open(Builder::unix_stream(ours).p2p(), Duration::from_secs(60));
    let (_server, client) = tokio::try_join!(server, client).unwrap();
    assert_eq!(client.method_timeout(), Some(ANSWER_MAX));
}

#[tokio::test]
async fn a_unit_is_restarted_however_often_it_was_started_where_the_limit_on_that_may_be_reset() {
    for (is_limited, may_reset, status) in
        [(true, true, ActStatus::Succeeded), (true, false, ActStatus::Failed), (false, false, ActStatus::Succeeded)]
    {
        let outcome = outcome(Script { is_limited, may_reset, ..GOOD }).await;
        assert_eq!(outcome.status, status, "{is_limited} {may_reset}: {outcome:?}");
    }
}

#[tokio::test]
async fn of_a_unit_that_was_made_for_a_time_nothing_is_reset_as_that_would_be_the_end_of_it() {
    let outcome = outcome(Script { is_limited: true, is_transient: true, ..GOOD }).await;
    assert_eq!(outcome.status, ActStatus::Failed, "{outcome:?}");
}

#[tokio::test]
async fn a_unit_that_comes_up_is_told_with_its_pid() {
    let outcome = outcome(Script { states: &[("activating", "start"), ("active", "running")], ..GOOD }).await;
    assert_eq!(outcome.status, ActStatus::Succeeded);
    let detail = "app.service is active (running), pid 123, was restarted 3 times";
    assert_eq!((outcome.detail.as_deref(), outcome.reason), (Some(detail), None));
}

#[tokio::test]
async fn a_unit_that_fails_is_told_with_its_result() {
    let script = Script {
        job_result: "failed",
        states: &[("activating", "auto-restart"), ("failed", "failed")],
        result: "exit-code",
        exit_status: 203,
        ..GOOD
    };
    let outcome = outcome(script).await;
    assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some("unit_failed")));
    let detail = "app.service is failed (failed), was restarted 3 times, result exit-code, exit status 203";
    assert_eq!(outcome.detail.as_deref(), Some(detail));
}

#[tokio::test]
async fn a_unit_that_fails_as_soon_as_it_runs_has_failed() {
    // Between the looks at the two states of the first pair it fails.
    let script = Script { states: &[("active", "running"), ("failed", "failed")], exit_status: 1, ..GOOD };
    let outcome = outcome(script).await;
    assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some("unit_failed")), "{outcome:?}");
    assert!(outcome.detail.as_ref().unwrap().starts_with("app.service is failed (failed)"), "{outcome:?}");
}

#[tokio::test]
async fn a_unit_that_is_active_at_one_look_may_have_failed_by_the_next() {
    let script = Script { states: &[("active", "running"), ("active", "running"), ("failed", "failed")], ..GOOD };
    let outcome = outcome(script).await;
    assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some("unit_failed")), "{outcome:?}");
}

#[tokio::test]
async fn both_states_of_a_unit_are_of_one_moment() {
    let states = &[("inactive", "dead"), ("activating", "start"), ("active", "running")];
    let outcome = outcome(Script { states, ..GOOD }).await;
    assert_eq!(outcome.status, ActStatus::Succeeded, "{outcome:?}");
    assert!(outcome.detail.as_ref().unwrap().starts_with("app.service is active (running)"), "{outcome:?}");
}

#[tokio::test]
async fn a_unit_that_goes_on_coming_and_going_has_failed_and_one_that_came_at_the_second_try_has_not() {
    const UP: (&str, &str) = ("active", "running");
    const DOWN: (&str, &str) = ("activating", "auto-restart");
    // Each look asks for the first state two times.
    let states = &[UP, UP, DOWN, DOWN, UP];
    let restarted = outcome(Script { states, ..GOOD }).await;
    let detail = "app.service is active (running), pid 123, was restarted 3 times";
    assert_eq!((restarted.status, restarted.detail.as_deref()), (ActStatus::Succeeded, Some(detail)));
    let fails = outcome(Script { states, is_flapping: true, ..GOOD }).await;
    assert_eq!((fails.status, fails.reason.as_deref()), (ActStatus::Failed, Some("unit_failed")), "{fails:?}");
    assert!(fails.detail.as_ref().unwrap().ends_with("10 times: it comes up and does not stay up"), "{fails:?}");
}

#[tokio::test]
async fn the_answer_is_not_held_up_by_what_else_systemd_does() {
    // Before the end of the job that is waited for, and while the unit is looked at.
    for script in [Script { others: 500, ..GOOD }, Script { later: 1_500, ..GOOD }] {
        let outcome = outcome(script).await;
        assert_eq!(outcome.status, ActStatus::Succeeded, "{outcome:?}");
    }
}

#[tokio::test]
async fn a_oneshot_that_has_done_its_work_has_succeeded_and_a_daemon_that_is_gone_has_not() {
    let states = &[("inactive", "dead")];
    assert_eq!(outcome(Script { states, kind: "oneshot", ..GOOD }).await.status, ActStatus::Succeeded);
    let gone = outcome(Script { states, ..GOOD }).await;
    assert_eq!((gone.status, gone.reason.as_deref()), (ActStatus::Failed, Some("unit_failed")));
    assert!(gone.detail.as_ref().unwrap().ends_with("result success, exit status 0"), "{gone:?}");
}

#[tokio::test]
async fn each_refusal_has_its_reason() {
    let cases: &[(Script, &str, &str)] = &[
        (Script { load_state: "not-found", ..GOOD }, "no_such_unit", "systemd knows no unit app.service"),
        (Script { load_state: "masked", ..GOOD }, "unit_not_loaded", "app.service is masked"),
        (Script { load_state: "bad-setting", ..GOOD }, "unit_not_loaded", "app.service is bad-setting"),
        (Script { job_result: "dependency", ..GOOD }, "job_failed", "ended as dependency"),
        (Script { job_result: "canceled", ..GOOD }, "job_failed", "ended as canceled"),
        (Script { refusal: Some(zbus::fdo::Error::AccessDenied), ..GOOD }, "permission_denied", "only root"),
        (
            Script { refusal: Some(zbus::fdo::Error::InteractiveAuthorizationRequired), ..GOOD },
            "permission_denied",
            "only root",
        ),
        (Script { refusal: Some(zbus::fdo::Error::ServiceUnknown), ..GOOD }, "no_systemd", "no systemd on it"),
        (Script { refusal: Some(zbus::fdo::Error::NotSupported), ..GOOD }, "systemd_refused", "restart app.service"),
    ];
    for (script, reason, words) in cases {
        let outcome = outcome(*script).await;
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some(*reason)), "{outcome:?}");
        assert!(outcome.detail.as_ref().unwrap().contains(words), "{outcome:?}");
    }
}

#[test]
fn an_agent_that_may_not_act_itself_says_that_there_is_no_helper() {
    assert!(!whose_leave(true).contains("helper"));
    assert!(whose_leave(false).contains("only root") && whose_leave(false).contains("there was no helper"));
}

#[tokio::test]
async fn what_systemd_did_not_live_to_answer_may_have_been_begun() {
    let outcome = outcome(Script { refusal: Some(zbus::fdo::Error::NoReply), ..GOOD }).await;
    assert_eq!(
        (outcome.status, outcome.reason.as_deref()),
        (ActStatus::Interrupted, Some("no_systemd")),
        "{outcome:?}"
    );
}

#[test]
fn a_unit_that_is_no_service_is_judged_by_its_state_alone() {
    let timer = UnitName::parse("backup.timer").unwrap();
    let waiting = verdict(&timer, "active", "waiting", None, true);
    assert_eq!(waiting.detail.as_deref(), Some("backup.timer is active (waiting)"));
    assert_eq!(waiting.status, ActStatus::Succeeded);
    assert_eq!(verdict(&timer, "failed", "failed", None, false).reason.as_deref(), Some("unit_failed"));
}

/// systemd, with a job.
struct Busy(&'static str, &'static str);

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Busy {
    fn list_jobs(&self) -> Vec<ListedJob> {
        let job =
            |unit: &str, kind: &str| (7, unit.into(), kind.into(), "waiting".into(), path("/job"), path(UNIT_PATH));
        vec![job("app.service", "stop"), job(self.0, self.1)]
    }
}

#[tokio::test]
async fn a_machine_that_reboots_or_only_goes_down_is_known_by_its_job_for_that() {
    for (unit, kind, reboots, ends) in [
        ("reboot.target", "start", true, true),
        ("kexec.target", "start", true, true),
        ("reboot.target", "stop", false, false),
        ("poweroff.target", "start", false, true),
        ("halt.target", "start", false, true),
        ("soft-reboot.target", "start", false, false),
    ] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = Builder::unix_stream(theirs).server(zbus::Guid::generate()).unwrap().p2p();
        let server = server.serve_at("/org/freedesktop/systemd1", Busy(unit, kind)).unwrap().build();
        let client = Builder::unix_stream(ours).p2p().build();
        let (_systemd, connection) = tokio::try_join!(server, client).unwrap();
        let is_reboot = is_starting_over(&connection, |unit| REBOOTS.contains(&unit)).await.unwrap();
        let is_down = is_starting_over(&connection, goes_down).await.unwrap();
        assert_eq!((is_reboot, is_down), (reboots, ends), "{kind} of {unit}");
    }
}

/// logind, with one inhibitor.
struct Login {
    what: &'static str,
    mode: &'static str,
    /// Instead of saying who inhibits what.
    silence: Option<fn(String) -> zbus::fdo::Error>,
    reboots: Arc<AtomicU32>,
    answer: fn() -> zbus::fdo::Result<()>,
}

impl Login {
    /// Asks it over a bus of its own for a reboot.
    async fn reboot_by(self) -> zbus::Result<Option<String>> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = Builder::unix_stream(theirs).server(zbus::Guid::generate()).unwrap().p2p();
        let server = server.serve_at("/org/freedesktop/login1", self).unwrap().build();
        let client = Builder::unix_stream(ours).p2p().build();
        let (_login, connection) = tokio::try_join!(server, client).unwrap();
        reboot_over(&connection).await
    }
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Login {
    fn list_inhibitors(&self) -> zbus::fdo::Result<Vec<Inhibitor>> {
        let inhibitor = (self.what.into(), "updater".into(), "writing the flash".into(), self.mode.into(), 0, 1);
        self.silence.map_or_else(|| Ok(vec![inhibitor]), |error| Err(error("no".into())))
    }

    fn reboot(&self, interactive: bool) -> zbus::fdo::Result<()> {
        assert!(!interactive);
        self.reboots.fetch_add(1, Ordering::SeqCst);
        (self.answer)()
    }
}

#[tokio::test]
async fn a_reboot_waits_for_nobody_but_who_blocks_it() {
    let blocked = Some("updater inhibits it: writing the flash".to_owned());
    let cases =
        [("shutdown:sleep", "block", blocked, 0), ("shutdown", "delay", None, 1), ("sleep:idle", "block", None, 1)];
    for (what, mode, expected, reboots) in cases {
        let asked = Arc::new(AtomicU32::new(0));
        let login = Login { what, mode, silence: None, reboots: Arc::clone(&asked), answer: || Ok(()) };
        assert_eq!(login.reboot_by().await.unwrap(), expected);
        assert_eq!(asked.load(Ordering::SeqCst), reboots, "{what} {mode}");
    }
}

#[tokio::test]
async fn a_machine_is_not_rebooted_while_it_is_not_known_who_inhibits_that() {
    for (silence, reboots) in [
        (zbus::fdo::Error::NoReply as fn(String) -> zbus::fdo::Error, 0),
        (zbus::fdo::Error::TimedOut, 0),
        (zbus::fdo::Error::ServiceUnknown, 1),
    ] {
        let (asked, silence) = (Arc::new(AtomicU32::new(0)), Some(silence));
        let login = Login { what: "", mode: "", silence, reboots: Arc::clone(&asked), answer: || Ok(()) };
        let outcome = login.reboot_by().await;
        assert_eq!((outcome.is_ok(), asked.load(Ordering::SeqCst)), (reboots == 1, reboots), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_reboot_that_logind_does_not_live_to_answer_may_come_all_the_same() {
    let no_reply = || Err(zbus::fdo::Error::NoReply("recipient disconnected from message bus without replying".into()));
    let refused = || Err(zbus::fdo::Error::AccessDenied("not you".into()));
    for (answer, taken) in [(no_reply as fn() -> zbus::fdo::Result<()>, true), (refused, false)] {
        let login = Login { what: "sleep", mode: "delay", silence: None, reboots: Arc::default(), answer };
        assert_eq!(login.reboot_by().await.is_ok(), taken);
    }
}
