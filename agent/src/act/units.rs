//! Who restarts units: systemd, or, for the demo, a supervisor of our own.

#![expect(clippy::disallowed_methods, reason = "an act has a deadline of its own")]

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::supervisor::Supervisor;
use super::systemd;
use crate::config::{Action, UnitName};
use crate::engine::io::ActOutcome;
use crate::gather::gather;
use crate::wire::Reason;

/// A manager of units.
#[derive(Debug)]
pub enum Manager {
    /// PID 1, over the system bus.
    Systemd,
    /// The demo's.
    Supervised(Box<Supervisor>),
}

impl Manager {
    /// What it has means for.
    #[must_use]
    pub fn able(&self) -> BTreeSet<Action> {
        match self {
            Self::Systemd => gather([Action::RestartUnit, Action::Reboot]),
            Self::Supervised(_) => gather([Action::RestartUnit]),
        }
    }

    /// Restarts the machine.
    pub async fn reboot(&self, within: Duration) -> ActOutcome {
        match self {
            Self::Systemd => timeout(within, systemd::reboot())
                .await
                .unwrap_or_else(|_| ActOutcome::timed_out("the order to reboot was not answered")),
            Self::Supervised(_) => ActOutcome::failed(Reason::NotSupported, "the demo doesn't reboot this machine"),
        }
    }

    /// Restarts a unit, and waits until it is active or failed.
    pub async fn restart(&self, unit: &UnitName, within: Duration, canceled: oneshot::Receiver<()>) -> ActOutcome {
        let restart = async {
            match self {
                Self::Systemd => systemd::restart(unit, None).await,
                Self::Supervised(supervisor) => supervisor.restart(unit).await,
            }
        };
        tokio::select! {
            outcome = timeout(within, restart) => outcome.unwrap_or_else(|_| {
                let waited = humantime::format_duration(within);
                ActOutcome::timed_out(format!("{unit} was neither active nor failed after {waited}"))
            }),
            // The sender goes with the completion, so an error here means that nobody can cancel any more.
            Ok(()) = canceled => {
                ActOutcome::canceled(format!("stopped waiting for {unit}; a restart that has begun goes on in systemd"))
            }
        }
    }
}
