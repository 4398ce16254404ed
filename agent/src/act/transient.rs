//! Runs a program where it is to run: as a child, or as a unit of its own, by PID 1 (StartTransientUnit,
//! org.freedesktop.systemd1(5)): the helper's sandbox keeps out of the way what a runbook is for. Same checks, same
//! clean environment, same deadline and same output as a runbook that is run as a child; the unit ends with the helper,
//! and is forgotten once its end is known. Where the bus is lost it goes on: that it has ended is told when it has, and
//! how it ended can't be known.

#![expect(clippy::disallowed_methods, reason = "a runbook has a deadline")]

use std::io;
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use zbus::Connection;
use zbus::zvariant::{Fd, OwnedObjectPath, Value};

use super::program::{self, DRAIN_MAX, ENVIRONMENT, Output, Program, Progress, TERM_GRACE};
use super::systemd::{Jobs, Systemd, connect, lost, refused, service_at};
use crate::engine::io::{ActOutcome, Ending};

/// The unit that is to be stopped with the runbook's: the helper's own.
const HELPER_UNIT: &str = "fieldmedic-act.service";
/// How much longer than its time PID 1 gives it: only who lost sight of it leaves it to that.
const DEADLINE_GRACE: Duration = Duration::from_secs(30);
/// PID 1 hands a restart of the helper on to what is bound to it: a runbook that this ends is not begun again by that.
/// Longer than any of them may take.
const ONCE_WITHIN: Duration = Duration::from_secs(365 * 86_400);
/// How long stopping it may take, with SIGTERM, TERM_GRACE and SIGKILL.
const STOP_MAX: Duration = Duration::from_secs(8);

/// How a program ended.
#[derive(Debug)]
pub struct Ran {
    /// In the words of an act.
    pub outcome: ActOutcome,
    /// Its exit code, where it ended by itself and that is known.
    pub exit_code: Option<i32>,
}

impl From<ActOutcome> for Ran {
    fn from(outcome: ActOutcome) -> Self {
        Self { outcome, exit_code: None }
    }
}

/// Runs a program to its end, by PID 1 where it is to run `apart`: whether it is fit to be run is the caller's to know.
/// What goes wrong is `exit_code`, `signal`, `timeout`, `canceled` or this `refusal`, where it can't be started as a
/// child, or has the words of [`super::systemd::restart`].
pub async fn run_where(
    apart: bool,
    program: Program<'_>,
    name: &str,
    refusal: Ending,
    within: Duration,
    canceled: oneshot::Receiver<()>,
    progress: Progress<'_>,
) -> Ran {
    if !apart {
        return match program::run(program, within, canceled, progress).await {
            Ok(finished) => Ran { exit_code: finished.exit_code(), outcome: finished.outcome(name) },
            Err(error) => {
                let detail = format!("start {}: {error}{}", program.path.display(), hint(&error));
                ActOutcome::failed(refusal, detail).into()
            }
        };
    }
    let running = async {
        let connection = connect().await?;
        run_over(&connection, program, within, canceled, progress).await
    };
    running.await.unwrap_or_else(|error| refused(&format!("run {} as a unit", program.path.display()), &error).into())
}

/// The file itself was there a moment ago.
fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::NotFound {
        "; it is there, but not the interpreter that its first line names (which is another one where that line ends \
         with CRLF), or the loader of a program"
    } else {
        ""
    }
}

/// How it ended.
enum End {
    /// With this result of its job.
    Over(String),
    TimedOut,
    Canceled,
}

async fn run_over(
    connection: &Connection,
    program: Program<'_>,
    within: Duration,
    mut canceled: oneshot::Receiver<()>,
    progress: Progress<'_>,
) -> zbus::Result<Ran> {
    let began = Instant::now();
    let systemd = Systemd::new(connection);
    // Before the job is queued: it may be over before the answer is here.
    let mut jobs = Jobs::watch(connection, &systemd).await?;
    let unit = format!("fieldmedic-runbook-{:016x}.service", fastrand::u64(..));
    let (into, mut said) = pipe::pipe()?;
    let job = {
        let stdout = into.into_blocking_fd()?;
        let properties = properties(program, within, &stdout);
        systemd.start_transient_unit(&unit, "fail", properties).await
    };
    let mut output = Output::new(program.tail_max, progress);
    let mut is_to_stop = false;
    let end = match job {
        Ok(job) => {
            let ending = ending(&systemd, &mut jobs, &unit, &job, within, &mut canceled, &mut is_to_stop);
            let mut ending = std::pin::pin!(ending);
            tokio::select! {
                end = &mut ending => end,
                () = output.read(&mut said) => ending.await,
            }
        }
        // Unanswered, it may be begun all the same.
        Err(error) => Err(error),
    };
    let end = match end {
        Ok(end) => end,
        Err(error) => {
            let outcome = lost(&unit, error)?;
            // A pipe that nobody reads would end it in the middle, and it works on its target for as long as it runs.
            let left = if is_to_stop { Duration::ZERO } else { within.saturating_sub(began.elapsed()) };
            // One that has said all it can must not be asked again.
            let cancelable = !canceled.is_terminated();
            let cut_short = tokio::select! {
                () = output.read(&mut said) => false,
                () = sleep(left) => true,
                Ok(()) = &mut canceled, if cancelable => true,
            };
            if cut_short {
                // Where there is no bus again, its own deadline ends it.
                let _ = timeout(STOP_MAX, stop_anew(&unit)).await;
            }
            return Ok(ActOutcome { output: output.into_text(), ..outcome }.into());
        }
    };
    // Who was started by it and left its unit may hold the pipe for ever.
    let _ = timeout(DRAIN_MAX, output.read(&mut said)).await;
    let Ran { outcome, exit_code } = match end {
        End::Over(result) if result == "done" => {
            Ran { outcome: ActOutcome::succeeded("exit code 0"), exit_code: Some(0) }
        }
        End::Over(result) => failure(connection, &systemd, &unit, &result).await?,
        End::TimedOut => {
            ActOutcome::timed_out(format!("{unit} was stopped after {}", humantime::format_duration(within))).into()
        }
        End::Canceled => ActOutcome::canceled(format!("{unit} was stopped")).into(),
    };
    Ok(Ran { outcome: ActOutcome { output: output.into_text(), ..outcome }, exit_code })
}

/// systemd.service(5), systemd.unit(5), in the words of D-Bus. A oneshot's start is over when its process has ended.
fn properties<'a>(
    program: Program<'_>,
    within: Duration,
    stdout: &'a impl std::os::fd::AsFd,
) -> Vec<(&'static str, Value<'a>)> {
    let path = program.path.to_string_lossy().into_owned();
    // systemd.service(5): a dollar sign begins a variable also in what comes by D-Bus, and two of them are one.
    let args = program.args.iter().map(|arg| arg.replace('$', "$$"));
    let argv: Vec<String> = std::iter::once(path.clone()).chain(args).collect();
    let environment = ENVIRONMENT.iter().chain(program.env);
    let environment: Vec<String> = environment.map(|(key, value)| format!("{key}={value}")).collect();
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let mut properties = vec![
        ("Description", Value::from(format!("fieldmedic runbook {path}"))),
        ("Type", Value::from("oneshot")),
        ("ExecStart", Value::from(vec![(path, argv, false)])),
        ("Environment", Value::from(environment)),
        ("StandardOutputFileDescriptor", Value::Fd(Fd::from(stdout.as_fd()))),
        ("StandardErrorFileDescriptor", Value::Fd(Fd::from(stdout.as_fd()))),
        ("TimeoutStartUSec", Value::from(us(within.saturating_add(DEADLINE_GRACE)))),
        ("TimeoutStopUSec", Value::from(us(TERM_GRACE))),
        ("CollectMode", Value::from("inactive-or-failed")),
        // Kept for as long as this connection lives, so that its end can be asked for.
        ("AddRef", Value::from(true)),
    ];
    if !program.outlives {
        properties.push(("BindsTo", Value::from(vec![HELPER_UNIT])));
        properties.push(("StartLimitBurst", Value::from(1_u32)));
        properties.push(("StartLimitIntervalUSec", Value::from(us(ONCE_WITHIN))));
    }
    properties
}

/// Waits for the end, and brings it about where it is due: then `is_to_stop` says so, also if that fails.
async fn ending(
    systemd: &Systemd,
    jobs: &mut Jobs,
    unit: &str,
    job: &OwnedObjectPath,
    within: Duration,
    canceled: &mut oneshot::Receiver<()>,
    is_to_stop: &mut bool,
) -> zbus::Result<End> {
    let end = tokio::select! {
        result = jobs.end_of(job) => return result.map(End::Over),
        () = sleep(within) => End::TimedOut,
        // An error means that nobody can cancel any more.
        Ok(()) = canceled => End::Canceled,
    };
    *is_to_stop = true;
    let stop = systemd.queue("StopUnit", unit, "replace").await?;
    // Whether it is gone by then or not, what follows is the same.
    let _ = timeout(STOP_MAX, jobs.end_of(&stop)).await;
    Ok(end)
}

/// Has it stopped over a connection of its own.
async fn stop_anew(unit: &str) -> zbus::Result<()> {
    Systemd::new(&connect().await?).queue("StopUnit", unit, "replace").await.map(drop)
}

/// In the words of a runbook that was run as a child.
async fn failure(connection: &Connection, systemd: &Systemd, unit: &str, job_result: &str) -> zbus::Result<Ran> {
    let path = systemd.load_unit(unit).await?;
    let service = service_at(connection, path);
    let (result, status): (String, i32) = (service.get("Result").await?, service.get("ExecMainStatus").await?);
    Ok(match result.as_str() {
        "exit-code" => Ran {
            outcome: ActOutcome::failed(Ending::ExitCode, format!("exit code {status}")),
            exit_code: Some(status),
        },
        "signal" | "core-dump" => ActOutcome::failed(Ending::Signal, format!("ended by signal {status}")).into(),
        _ => ActOutcome::failed(Ending::JobFailed, format!("systemd's job for {unit} ended as {job_result}: {result}"))
            .into(),
    })
}

#[cfg(test)]
mod tests;
