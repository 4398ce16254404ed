//! Starts and stops units by PID 1, several at a time, and waits for their jobs (org.freedesktop.systemd1(5)), and looks
//! at how they stand. For what is no remedy of its own: a quarantine's units, the unit that loads its rules, and what
//! the audit and a snapshot tell of units that have failed. Says what failed in words.

#![expect(clippy::disallowed_methods, reason = "a job has a deadline")]

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;
use zbus::Connection;
use zbus::zvariant::OwnedObjectPath;

use super::object::Object;
use super::systemd::{Executed, Jobs, ListedUnit, Systemd, connect, forget_starts, service_at, unit_at};
use crate::config::UnitName;

/// How long all jobs together may take: longer than the 90 s that systemd gives one unit to start or to stop by default
/// (systemd-system.conf(5), DefaultTimeoutStartSec=), after which it ends the job by itself and says how.
const JOBS_MAX: Duration = Duration::from_secs(100);

/// What is asked of PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Starts what doesn't run.
    Start,
    /// Stops what runs.
    Stop,
    /// Has what runs take its configuration up again, and starts what doesn't run.
    ReloadOrRestart,
}

/// Those that run, of these: what systemd doesn't know doesn't run.
///
/// # Errors
/// What went wrong, in words.
pub async fn running(units: &[UnitName]) -> Result<Vec<UnitName>, String> {
    let ask = async {
        let connection = connect().await?;
        let systemd = Systemd::new(&connection);
        let mut running = Vec::new();
        for unit in units {
            let state = state_of(&connection, &systemd, unit.as_str()).await?;
            if matches!(state.as_str(), "active" | "activating" | "reloading") {
                running.push(unit.clone());
            }
        }
        zbus::Result::Ok(running)
    };
    within(ask).await
}

/// Units that have failed: name, state and what they are for, a line each.
///
/// # Errors
/// What went wrong, in words.
pub async fn failed() -> Result<Vec<String>, String> {
    let ask = async {
        let units = Systemd::new(&connect().await?).list_units_filtered("failed").await?;
        let line = |unit: ListedUnit| format!("{} {} ({}): {}", unit.0, unit.3, unit.4, unit.1);
        zbus::Result::Ok(units.into_iter().map(line).collect())
    };
    within(ask).await
}

/// Has a job done for each of these, and waits for all of them.
///
/// # Errors
/// What went wrong with which, in words.
pub async fn run<'a>(job: Job, units: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    let wrong = each(job, units).await?;
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// The same; what went wrong with which.
///
/// # Errors
/// systemd could not be asked, or did not answer.
pub async fn each<'a>(job: Job, units: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, String> {
    let units: Vec<&str> = units.into_iter().collect();
    within(run_over(job, &units)).await
}

/// Why the last of a service's commands with this word in an argument ended badly, in words; `None`: it did well. Of
/// one whose failure the unit passes over.
pub async fn said_no(service: &str, word: &str) -> Option<String> {
    let ask = async {
        let (_, service) = find(service).await?;
        let commands: [Vec<Executed>; 2] = [service.get("ExecStart").await?, service.get("ExecReload").await?];
        zbus::Result::Ok(commands.concat())
    };
    let commands = match within(ask).await {
        Ok(commands) => commands,
        Err(error) => return Some(error),
    };
    let with_word = commands.iter().filter(|(_, argv, ..)| argv.iter().any(|arg| arg.contains(word)));
    // By when they ended, since boot.
    match with_word.max_by_key(|(_, _, _, _, _, _, ended, ..)| *ended) {
        Some((.., 0)) => None,
        Some((.., status)) => Some(ended_badly(service, *status)),
        None => Some(format!("{service} here has no command for {word}")),
    }
}

/// Whether it has failed; not where that can't be known.
pub async fn has_failed(unit: &str) -> bool {
    let ask = async {
        let connection = connect().await?;
        state_of(&connection, &Systemd::new(&connection), unit).await
    };
    within(ask).await.is_ok_and(|state| state == "failed")
}

/// Why what stops a service that was told to stop ended badly, or was not done, in words; `None`: it did well, or there
/// was nothing to stop. To systemd it is stopped all the same.
pub async fn failed_to_stop(service: &str) -> Option<String> {
    let ask = async {
        let (unit, service) = find(service).await?;
        let has_failed = unit.get::<String>("ActiveState").await? == "failed";
        let was_active = unit.get::<u64>("ActiveEnterTimestampMonotonic").await? > 0;
        let commands: Vec<Executed> = service.get("ExecStop").await?;
        zbus::Result::Ok((commands, has_failed && was_active))
    };
    let (commands, has_failed) = match within(ask).await {
        Ok(answers) => answers,
        Err(error) => return Some(error),
    };
    let wrong = commands.into_iter().find_map(|(_, _, is_passed_over, .., status)| {
        (!is_passed_over && status != 0).then(|| ended_badly(service, status))
    });
    // One that has failed runs none of them, and a start that failed has made their status that of commands that were
    // never run. Where it was active in this boot, what it did then may be as it was.
    wrong.or_else(|| has_failed.then(|| format!("{service} had failed, and was not stopped: journalctl -u {service}")))
}

fn ended_badly(service: &str, status: i32) -> String {
    format!("exit code {status}: journalctl -u {service}")
}

/// What it is as any unit, and as a service.
async fn find(service: &str) -> zbus::Result<(Object, Object)> {
    let connection = connect().await?;
    let path = Systemd::new(&connection).load_unit(service).await?;
    Ok((unit_at(&connection, path.clone()), service_at(&connection, path)))
}

async fn within<T>(work: impl Future<Output = zbus::Result<T>>) -> Result<T, String> {
    match timeout(JOBS_MAX, work).await {
        Ok(result) => result.map_err(|error| format!("systemd: {error}")),
        Err(_) => Err(format!("systemd was not ready after {JOBS_MAX:?}")),
    }
}

async fn run_over(job: Job, units: &[&str]) -> zbus::Result<Vec<String>> {
    let connection = connect().await?;
    let systemd = Systemd::new(&connection);
    // Before the jobs are queued: they may be over before the answer is here.
    let mut jobs = Jobs::watch(&connection, &systemd).await?;
    let (mut waiting, mut wrong) = (BTreeMap::new(), Vec::new());
    for unit in units {
        match queue(&systemd, job, unit).await {
            Ok(path) => drop(waiting.insert(path.to_string(), *unit)),
            Err(error) => wrong.push(format!("{unit}: {error}")),
        }
    }
    while !waiting.is_empty() {
        let (ended, result) = jobs.next().await?;
        if let Some(unit) = waiting.remove(ended.as_str()) {
            if result != "done" {
                wrong.push(format!("{unit}: its job ended as {result}"));
            } else if job == Job::ReloadOrRestart {
                // A condition that doesn't hold ends a job well, too.
                let state = state_of(&connection, &systemd, unit).await?;
                if state != "active" {
                    wrong.push(format!("{unit} is {state}"));
                }
            }
        }
    }
    Ok(wrong)
}

async fn queue(systemd: &Systemd, job: Job, unit: &str) -> zbus::Result<OwnedObjectPath> {
    match job {
        Job::Start => {
            forget_starts(systemd, unit).await;
            systemd.queue("StartUnit", unit, "replace").await
        }
        Job::Stop => systemd.queue("StopUnit", unit, "replace").await,
        Job::ReloadOrRestart => systemd.queue("ReloadOrRestartUnit", unit, "replace").await,
    }
}

async fn state_of(connection: &Connection, systemd: &Systemd, unit: &str) -> zbus::Result<String> {
    let path = systemd.load_unit(unit).await?;
    unit_at(connection, path).get("ActiveState").await
}
