//! PID 1 is played over a socket pair: what is tested is what it is asked for, and which end becomes which outcome.

#![expect(clippy::disallowed_types, reason = "the code that zbus makes of an interface holds a HashMap")]

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::net::UnixStream;
use zbus::connection::Builder;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::OwnedValue;

use super::*;
use crate::engine::io::ActStatus;

const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/runbook";
const LONG: Duration = Duration::from_secs(60);

/// How the imitated PID 1 ends a runbook.
#[derive(Clone, Copy)]
struct Script {
    /// `None`: not before it is stopped.
    job_result: Option<&'static str>,
    result: &'static str,
    exit_status: i32,
    /// The bus is gone before anybody gets to know that it was begun.
    is_mute: bool,
    /// The same when it is to be stopped, which it is not.
    is_mute_to_stop: bool,
}

const GOOD: Script =
    Script { job_result: Some("done"), result: "success", exit_status: 0, is_mute: false, is_mute_to_stop: false };

/// What it was asked for: calls, with the properties of the unit.
type Asked = Arc<Mutex<Vec<String>>>;
/// Where the runbook's output goes, as long as it runs.
type Said = Arc<Mutex<Option<File>>>;

struct Manager {
    script: Script,
    asked: Asked,
    said: Said,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self) {}

    fn load_unit(&self, _name: &str) -> OwnedObjectPath {
        path(UNIT_PATH)
    }

    async fn start_transient_unit(
        &self,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        name: String,
        mode: String,
        properties: Vec<(String, OwnedValue)>,
        _more: Vec<(String, Vec<(String, OwnedValue)>)>,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        assert!(name.starts_with("fieldmedic-runbook-") && name.ends_with(".service"), "{name}");
        for (key, value) in properties {
            if let Value::Fd(fd) = &*value {
                if key == "StandardOutputFileDescriptor" {
                    let mut said = File::from(fd.as_fd().try_clone_to_owned().unwrap());
                    said.write_all(b"progress 40\nsaid\n").unwrap();
                    *self.said.lock().unwrap() = self.script.job_result.is_none().then_some(said);
                }
            } else {
                self.asked.lock().unwrap().push(format!("{key}={}", *value));
            }
        }
        if self.script.is_mute {
            emitter.connection().clone().close().await?;
        }
        self.asked.lock().unwrap().push(format!("start {mode}"));
        let job = path("/org/freedesktop/systemd1/job/1");
        if let Some(result) = self.script.job_result {
            Self::job_removed(&emitter, 1, job.clone(), &name, result).await?;
        }
        Ok(job)
    }

    async fn stop_unit(
        &self,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        name: String,
        mode: String,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        self.asked.lock().unwrap().push(format!("stop {mode}"));
        if self.script.is_mute_to_stop {
            emitter.connection().clone().close().await?;
            return Ok(path("/org/freedesktop/systemd1/job/2"));
        }
        *self.said.lock().unwrap() = None;
        let (start, stop) = (path("/org/freedesktop/systemd1/job/1"), path("/org/freedesktop/systemd1/job/2"));
        Self::job_removed(&emitter, 1, start, &name, "canceled").await?;
        Self::job_removed(&emitter, 2, stop.clone(), &name, "done").await?;
        Ok(stop)
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

struct AService(Script);

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl AService {
    #[zbus(property)]
    fn result(&self) -> &str {
        self.0.result
    }

    #[zbus(property)]
    fn exec_main_status(&self) -> i32 {
        self.0.exit_status
    }
}

fn path(text: &str) -> OwnedObjectPath {
    OwnedObjectPath::try_from(text).unwrap()
}

/// Runs /opt/books/fix with one argument: its outcome, what was asked of PID 1, and the progress that was told.
async fn run_by(script: Script, within: Duration, cancel: bool) -> (ActOutcome, Vec<String>, Vec<u8>) {
    let (ran, asked, told) = run_program(script, within, cancel, false).await;
    (ran.outcome, asked, told)
}

/// The same, of a program that may outlive who wants it.
async fn run_program(script: Script, within: Duration, cancel: bool, outlives: bool) -> (Ran, Vec<String>, Vec<u8>) {
    let (_systemd, connection, asked, _) = served(script).await;
    let (sender, canceled) = oneshot::channel();
    let (mut sender, mut told) = (Some(sender), Vec::new());
    let mut progress = |percent| {
        told.push(percent);
        if let Some(sender) = sender.take_if(|_| cancel) {
            sender.send(()).unwrap();
        }
    };
    let book = PathBuf::from("/opt/books/fix");
    let args = ["-x $y".to_owned()];
    let program = Program { outlives, ..Program::new(&book, &args, &[("FIELDMEDIC_RULE", "hot")]) };
    let ran = run_over(&connection, program, within, canceled, &mut progress).await.unwrap();
    let asked = asked.lock().unwrap().clone();
    (ran, asked, told)
}

/// A bus with that PID 1 on it, and who asks it.
async fn served(script: Script) -> (Connection, Connection, Asked, Said) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (asked, said) = (Asked::default(), Said::default());
    let manager = Manager { script, asked: Arc::clone(&asked), said: Arc::clone(&said) };
    let systemd = Builder::unix_stream(theirs)
        .server(zbus::Guid::generate())
        .unwrap()
        .p2p()
        .serve_at("/org/freedesktop/systemd1", manager)
        .unwrap()
        .serve_at(UNIT_PATH, AService(script))
        .unwrap()
        .build();
    let client = Builder::unix_stream(ours).p2p().build();
    let (systemd, client) = tokio::try_join!(systemd, client).unwrap();
    (systemd, client, asked, said)
}

#[tokio::test]
async fn of_one_whose_bus_goes_away_the_end_is_told_when_it_has_come_and_what_came_of_it_can_not_be_known() {
    for is_mute in [false, true] {
        let (systemd, connection, asked, said) = served(Script { job_result: None, is_mute, ..GOOD }).await;
        let book = PathBuf::from("/opt/books/fix");
        let (_keep, canceled) = oneshot::channel();
        let mut progress = |_| ();
        let running = run_over(&connection, Program::new(&book, &[], &[]), LONG, canceled, &mut progress);
        let ends = async {
            while !asked.lock().unwrap().iter().any(|line| line == "start fail") {
                tokio::task::yield_now().await;
            }
            systemd.close().await.unwrap();
            let mut runbook = said.lock().unwrap().take().unwrap();
            runbook.write_all(b"and went on\n").unwrap();
        };
        let (outcome, ()) = tokio::join!(running, ends);
        let outcome = outcome.unwrap().outcome;
        assert_eq!(
            (outcome.status, outcome.reason.as_deref(), outcome.output.as_deref()),
            (ActStatus::Interrupted, Some("no_systemd"), Some("progress 40\nsaid\nand went on\n")),
            "{is_mute} {outcome:?}"
        );
    }
}

#[tokio::test]
async fn one_that_is_to_be_stopped_while_the_bus_goes_away_is_waited_for_no_longer() {
    let hangs = Script { job_result: None, is_mute_to_stop: true, ..GOOD };
    for (within, cancel) in [(LONG, true), (Duration::from_millis(50), false)] {
        let began = Instant::now();
        let (outcome, asked, _) = run_by(hangs, within, cancel).await;
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Interrupted, Some("no_systemd")));
        assert_eq!(asked.last().map(String::as_str), Some("stop replace"));
        assert!(began.elapsed() < LONG, "{outcome:?}");
    }
}

#[tokio::test]
async fn a_runbook_is_a_unit_with_its_argv_its_environment_and_its_deadline_that_ends_with_the_helper() {
    let (outcome, asked, told) = run_by(GOOD, LONG, false).await;
    assert_eq!((outcome.status, outcome.output.as_deref()), (ActStatus::Succeeded, Some("progress 40\nsaid\n")));
    assert_eq!(told, [40]);
    let expected = [
        "Type=\"oneshot\"",
        "ExecStart=[(\"/opt/books/fix\", [\"/opt/books/fix\", \"-x $$y\"], false)]",
        "BindsTo=[\"fieldmedic-act.service\"]",
        "StartLimitBurst=uint32 1",
        "StartLimitIntervalUSec=uint64 31536000000000",
        "start fail",
    ];
    for line in expected {
        assert!(asked.iter().any(|asked| asked == line), "{line} is not in {asked:#?}");
    }
    let environment = asked.iter().find(|asked| asked.starts_with("Environment=")).unwrap();
    assert_eq!(environment.matches('=').count(), 4, "{environment}");
    assert!(asked.iter().any(|asked| asked.contains("TimeoutStartUSec") && asked.contains("90000000")), "{asked:#?}");
}

#[tokio::test]
async fn what_must_not_be_ended_in_the_middle_does_not_end_with_the_helper() {
    let (ran, asked, _) = run_program(GOOD, LONG, false, true).await;
    assert_eq!((ran.outcome.status, ran.exit_code), (ActStatus::Succeeded, Some(0)));
    assert!(!asked.iter().any(|asked| asked.contains("BindsTo")), "{asked:#?}");
}

#[tokio::test]
async fn each_end_has_its_reason() {
    let failed = |result, exit_status| Script { job_result: Some("failed"), result, exit_status, ..GOOD };
    let cases = [
        (failed("exit-code", 75), "exit_code", "exit code 75", Some(75)),
        (failed("signal", 9), "signal", "ended by signal 9", None),
        (failed("core-dump", 11), "signal", "ended by signal 11", None),
        (failed("oom-kill", 9), "job_failed", "oom-kill", None),
        (Script { job_result: Some("dependency"), ..GOOD }, "job_failed", "ended as dependency", None),
    ];
    for (script, reason, words, code) in cases {
        let (Ran { outcome, exit_code }, ..) = run_program(script, LONG, false, false).await;
        assert_eq!(exit_code, code, "{outcome:?}");
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some(reason)), "{outcome:?}");
        assert!(outcome.detail.as_ref().unwrap().contains(words), "{outcome:?}");
    }
}

#[tokio::test]
async fn one_that_takes_too_long_or_is_canceled_is_stopped_by_pid_1() {
    let hangs = Script { job_result: None, ..GOOD };
    let (outcome, asked, _) = run_by(hangs, Duration::from_millis(50), false).await;
    assert_eq!((outcome.status, asked.last().map(String::as_str)), (ActStatus::TimedOut, Some("stop replace")));
    let (outcome, asked, _) = run_by(hangs, LONG, true).await;
    assert_eq!((outcome.status, asked.last().map(String::as_str)), (ActStatus::Canceled, Some("stop replace")));
}
