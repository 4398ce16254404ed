//! The gateway and its agent as an auditor sees them: what lies open, runs out, or was forgotten. Each finding says
//! what is wrong and what to do about it. Reads only what the agent's own user may read, and changes nothing; whom it
//! is told, and how often, is the engine's business.

mod agent;
mod files;
mod gateway;
mod policy;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::agent_user::agent_user_for_root;
use crate::collect::Collectors;
use crate::collect::clock::ClockReading;
use crate::config::CheckedConfig;
use crate::engine::observation::{Audited, Finding, Observation, Severity, Unseen};
use crate::helper::POLICY_FILE;
use crate::store;

/// The check that asks systemd.
const FAILED_UNIT: &str = "failed_unit";
const BROKER_REFUSES: &str = "broker_refuses";

/// What is audited.
#[derive(Debug, Clone)]
pub struct Audit {
    config: CheckedConfig,
    files: Vec<PathBuf>,
    running: Option<Running>,
}

/// What is known of the agent that runs, by itself.
#[derive(Debug, Clone)]
struct Running {
    /// When each of its files had been written as it read them. Not when it read them: a gateway without a battery for
    /// its clock boots years before its files were written.
    written: Vec<Option<SystemTime>>,
    /// systemd waits for its sign of life.
    is_watched: bool,
    /// Its user may do everything.
    is_root: bool,
}

impl Audit {
    /// Of this configuration, which these files make, and those that it was read with.
    #[must_use]
    pub const fn new(config: CheckedConfig, files: Vec<PathBuf>) -> Self {
        Self { config, files, running: None }
    }

    /// The same, by the agent that runs on this configuration from now on.
    #[must_use]
    pub fn of_the_agent(self) -> Self {
        let running = Running {
            written: self.files.iter().map(|file| agent::written(file)).collect(),
            // sd_watchdog_enabled(3).
            is_watched: std::env::var_os("WATCHDOG_USEC").is_some(),
            is_root: rustix::process::geteuid().is_root(),
        };
        Self { running: Some(running), ..self }
    }

    /// All findings. `failed` are the units that have failed, each with what it is for; an error where nobody could
    /// say; `refused` is what the broker refuses of the agent, in its words, where there is a connection. Blocks as
    /// long as the kernel does.
    #[must_use]
    pub fn look(
        &self,
        clock: ClockReading,
        failed: &Result<Vec<String>, String>,
        refused: Option<&[String]>,
    ) -> Audited {
        let mut collect = self.config.collect.clone();
        // Nothing is judged of these, and nobody goes on without a look that hangs in their drivers.
        (collect.battery.enabled, collect.link.enabled) = (false, false);
        let seen = Collectors::new(&collect).with_sockets().without_own().observe(clock);
        let Audited { findings: mut found, mut unseen } = judge(&self.config, &seen, failed, refused);
        let wall = clock.now.wall;
        let agent = agent_user_for_root().filter(|_| self.running.is_none());
        let is_barred = |file: &Path| self.running.is_none() && files::bars_a_stranger(file);
        files::tls_files(&self.config, wall.trusted.then_some(wall.unix), agent, is_barred, &mut found);
        files::look(&self.config, &self.files, agent, &mut found);
        gateway::look(&self.config.collect.root, &mut found);
        let free = store::free_bytes_at(&self.config.store.path).ok();
        gateway::store_disk(&self.config, free, &mut found);
        let is_unprivileged = self.running.as_ref().is_some_and(|running| !running.is_root);
        let helper = agent::Helper::find();
        agent::look_for_helper(&self.config, helper, is_unprivileged, &mut found);
        if helper.is_installed || helper.listens {
            let hidden = policy::look(&self.config, Path::new(POLICY_FILE), &mut found);
            unseen.extend(hidden.iter().copied().map(Unseen::all));
        }
        if let Some(running) = &self.running {
            agent::look(&self.files, running, &mut found);
        }
        sort(&mut found);
        unseen.extend(free.is_none().then_some(Unseen::all(gateway::STORE_NO_ROOM)));
        unseen.extend((!wall.trusted).then_some(Unseen::all(files::TLS_FILES)));
        Audited { findings: found, unseen }
    }
}

/// What a configuration and a round of collection say without a look at any file: also in the simulator.
#[must_use]
pub fn judge(
    config: &CheckedConfig,
    seen: &Observation,
    failed: &Result<Vec<String>, String>,
    refused: Option<&[String]>,
) -> Audited {
    let mut found = Vec::new();
    agent::judge(config, refused.unwrap_or_default(), &mut found);
    gateway::judge(config, seen, failed, &mut found);
    sort(&mut found);
    let unseen = [(failed.is_err(), FAILED_UNIT), (refused.is_none(), BROKER_REFUSES)];
    let mut unseen: Vec<_> = unseen.iter().filter(|(is, _)| *is).map(|(_, check)| Unseen::all(check)).collect();
    gateway::unseen(config, seen, &mut unseen);
    Audited { findings: found, unseen }
}

fn sort(found: &mut [Finding]) {
    found.sort_unstable_by(|a, b| {
        (a.severity, a.check, &a.subject, &a.what).cmp(&(b.severity, b.check, &b.subject, &b.what))
    });
}

fn finding(severity: Severity, check: &'static str, subject: impl Into<String>, what: String, advice: &str) -> Finding {
    Finding { check, subject: subject.into(), severity, what, advice: advice.to_owned() }
}

#[cfg(test)]
mod tests;
