//! The least supervisor there can be, for `fieldmedic demo`, which wants no systemd: one process under a unit's name,
//! started, restarted on request, and killed when the demo ends. Not for production.

#![expect(clippy::disallowed_types, reason = "the workload is a process")]

use std::io;

use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::config::UnitName;
use crate::engine::io::{ActOutcome, Ending};

/// A process and the name it goes by.
#[derive(Debug)]
pub struct Supervisor {
    unit: UnitName,
    argv: Vec<String>,
    child: Mutex<Child>,
}

impl Supervisor {
    /// Starts the process.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(unit: UnitName, argv: &[String]) -> io::Result<Self> {
        let child = Mutex::new(spawn(argv)?);
        Ok(Self { unit, argv: argv.to_vec(), child })
    }

    /// Kills the process, starts it again, and looks whether it lives.
    pub async fn restart(&self, unit: &UnitName) -> ActOutcome {
        if *unit != self.unit {
            return ActOutcome::failed(Ending::NoSuchUnit, format!("the demo supervises {} only", self.unit));
        }
        let mut child = self.child.lock().await;
        let before = child.id();
        // One that has ended by itself, and was seen to, can't be killed any more.
        if matches!(child.try_wait(), Ok(None)) {
            if let Err(error) = child.kill().await {
                return ActOutcome::failed(Ending::UnitFailed, format!("stop {unit}: {error}"));
            }
        }
        match spawn(&self.argv) {
            Ok(next) => *child = next,
            Err(error) => return ActOutcome::failed(Ending::UnitFailed, format!("start {unit}: {error}")),
        }
        match child.try_wait() {
            Ok(None) => {
                let pid = |pid: Option<u32>| pid.map_or_else(|| "none".to_owned(), |pid| pid.to_string());
                ActOutcome::succeeded(format!("{unit} runs: pid {} before, {} now", pid(before), pid(child.id())))
            }
            other => ActOutcome::failed(Ending::UnitFailed, format!("{unit} ended at once: {other:?}")),
        }
    }
}

fn spawn(argv: &[String]) -> io::Result<Child> {
    let Some((program, args)) = argv.split_first() else { return Err(io::ErrorKind::InvalidInput.into()) };
    Command::new(program).args(args).kill_on_drop(true).spawn()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::ActStatus;

    #[tokio::test]
    async fn a_restart_gives_the_workload_another_pid() {
        let unit = UnitName::parse("demo.service").unwrap();
        let supervisor = Supervisor::start(unit.clone(), &["sleep".into(), "60".into()]).unwrap();
        let before = supervisor.child.lock().await.id();
        assert_eq!(supervisor.restart(&unit).await.status, ActStatus::Succeeded);
        assert_ne!(supervisor.child.lock().await.id(), before);
    }

    #[tokio::test]
    async fn a_workload_that_ended_by_itself_can_be_started_again() {
        let unit = UnitName::parse("demo.service").unwrap();
        let supervisor = Supervisor::start(unit.clone(), &["sleep".into(), "60".into()]).unwrap();
        let mut child = supervisor.child.lock().await;
        child.kill().await.unwrap();
        drop(child);
        assert_eq!(supervisor.restart(&unit).await.status, ActStatus::Succeeded);
    }

    #[tokio::test]
    async fn another_unit_is_not_known() {
        let unit = UnitName::parse("demo.service").unwrap();
        let supervisor = Supervisor::start(unit, &["sleep".into(), "60".into()]).unwrap();
        let other = UnitName::parse("other.service").unwrap();
        assert_eq!(supervisor.restart(&other).await.reason.as_deref(), Some("no_such_unit"));
    }
}
