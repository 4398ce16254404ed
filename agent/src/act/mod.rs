//! Acts on the gateway: restarts units, runs runbooks. It does what it is told, once, within its time, and says how it
//! ended; whether it may is decided before (the engine). Several acts run side by side; how many is the engine's bound.
//! It acts itself, or has root's helper act, which decides again; never both.

pub mod client;
pub mod program;
pub mod runbook;
pub mod supervisor;
pub mod systemd;
pub mod transient;
pub mod units;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::Action;
use crate::engine::io::{Act, ActOutcome, ActStatus, Trigger};
use client::Client;
use units::Manager;

/// Something to do, and on whose word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub act: Act,
    /// Who wants it.
    pub trigger: Trigger,
    /// The command as it was received, where a command wants it: whoever acts may check it again.
    pub token: Option<String>,
    /// When to give up.
    pub timeout: Duration,
}

/// What acts on this gateway.
#[derive(Debug)]
pub struct Actor {
    units: Manager,
    runbooks: PathBuf,
    /// Runbooks are run by PID 1, outside of what confines this process.
    apart: bool,
    /// Where there is one, nothing is done here: everything goes by it.
    helper: Option<Client>,
}

impl Actor {
    /// Restarts units by this manager, and runs runbooks of this directory.
    #[must_use]
    pub const fn new(units: Manager, runbooks: PathBuf) -> Self {
        Self { units, runbooks, apart: false, helper: None }
    }

    /// The same, with runbooks as units of their own.
    #[must_use]
    pub const fn running_apart(mut self, apart: bool) -> Self {
        self.apart = apart;
        self
    }

    /// The same, but all by root's helper where there is one that listens on `socket`.
    #[must_use]
    pub fn behind(self, socket: &Path) -> Self {
        Self { helper: Client::find(socket), ..self }
    }

    /// What can be done here at all: the engine refuses the rest before it is tried.
    #[must_use]
    pub fn able(&self) -> BTreeSet<Action> {
        let mut able = self.units.able();
        able.insert(Action::Run);
        match &self.helper {
            Some(helper) => helper.able().unwrap_or(able),
            None => able,
        }
    }

    /// Does it, within the timeout, unless it is canceled; `progress` gets percentages on the way.
    pub async fn perform(&self, order: Order, canceled: oneshot::Receiver<()>, progress: impl FnMut(u8)) -> ActOutcome {
        match &self.helper {
            // What the agent may see, and no more: a snapshot is no reason to ask root.
            Some(helper) if order.act != Act::CollectDiagnostics => helper.perform(order, canceled, progress).await,
            _ => self.perform_here(order.act, order.timeout, canceled, progress).await,
        }
    }

    async fn perform_here(
        &self,
        act: Act,
        timeout: Duration,
        canceled: oneshot::Receiver<()>,
        progress: impl FnMut(u8),
    ) -> ActOutcome {
        match act {
            Act::RestartUnit { unit } => self.units.restart(&unit, timeout, canceled).await,
            Act::Run { runbook, args } if self.apart => {
                transient::run(&self.runbooks, &runbook, &args, timeout, canceled, progress).await
            }
            Act::Run { runbook, args } => {
                runbook::run(&self.runbooks, &runbook, &args, timeout, canceled, progress).await
            }
            Act::Reboot => self.units.reboot(timeout).await,
            // Not among what `able` names, so the engine does not ask for it.
            Act::RestartLink { .. }
            | Act::Rollback { .. }
            | Act::MarkGood { .. }
            | Act::Quarantine { .. }
            | Act::Refresh { .. }
            | Act::CollectDiagnostics => {
                ActOutcome::failed("not_supported", format!("this gateway has no means to {}", act.action()))
            }
        }
    }
}

impl ActOutcome {
    /// It worked.
    #[must_use]
    pub fn succeeded(detail: impl Into<String>) -> Self {
        Self { status: ActStatus::Succeeded, reason: None, detail: Some(detail.into()), output: None, attachment: None }
    }

    /// It did not, for a reason in a fixed word.
    #[must_use]
    pub fn failed(reason: &str, detail: impl Into<String>) -> Self {
        Self {
            status: ActStatus::Failed,
            reason: Some(reason.to_owned()),
            detail: Some(detail.into()),
            output: None,
            attachment: None,
        }
    }

    /// It took too long.
    #[must_use]
    pub fn timed_out(detail: impl Into<String>) -> Self {
        Self {
            status: ActStatus::TimedOut,
            reason: Some("timeout".into()),
            detail: Some(detail.into()),
            output: None,
            attachment: None,
        }
    }

    /// It was stopped by a command.
    #[must_use]
    pub fn canceled(detail: impl Into<String>) -> Self {
        Self {
            status: ActStatus::Canceled,
            reason: Some("canceled".into()),
            detail: Some(detail.into()),
            output: None,
            attachment: None,
        }
    }
}
