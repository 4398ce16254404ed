//! What the agent itself uses, from the real `/proc` whatever the collectors' root is: a made tree has no process of
//! ours.
#![expect(clippy::disallowed_methods, reason = "collectors read files")]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::round::Round;
use crate::engine::metric::Metric;

const STATUS: &str = "/proc/self/status";
/// Only a kernel with CONFIG_TASK_IO_ACCOUNTING has it.
const IO: &str = "/proc/self/io";

/// What of this process's writes was told: a reload makes other collectors, and the process goes on.
static TOLD_BYTES: AtomicU64 = AtomicU64::new(0);

/// The agent's own process, as sysinfo keeps it between rounds.
#[derive(Default)]
pub(super) struct Own {
    system: System,
    /// The share of a processor needs two readings.
    seen: bool,
}

impl Own {
    pub(super) fn collect(&mut self, round: &mut Round<'_>) {
        self.process(round);
        match threads() {
            Ok(threads) => round.point(Metric::AgentThreads, threads),
            Err(what) => {
                round.fault(STATUS, what);
            }
        }
    }

    fn process(&mut self, round: &mut Round<'_>) {
        let pid = Pid::from_u32(std::process::id());
        // Not `with_tasks`: sysinfo then walks the threads of every process there is, to count ours.
        let what = ProcessRefreshKind::nothing().with_memory().with_cpu().with_disk_usage();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
        let Some(process) = self.system.process(pid) else {
            round.fault("/proc/self", "sysinfo can't read it");
            return;
        };
        round.point(Metric::AgentRss, process.memory());
        // What reached the storage layer (write_bytes), not what was written into memory: the flash wears by this. The
        // agent writes nothing but its store.
        if Path::new(IO).exists() {
            let written = process.disk_usage().total_written_bytes;
            let told = TOLD_BYTES.swap(written, Ordering::Relaxed);
            round.point(Metric::AgentStoreWritten, written.saturating_sub(told));
        }
        if self.seen {
            round.point(Metric::AgentCpu, f64::from(process.cpu_usage()));
        }
        self.seen = true;
    }
}

fn threads() -> Result<u64, String> {
    let status = fs::read_to_string(STATUS).map_err(|error| error.to_string())?;
    let count = status.lines().find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok());
    count.ok_or_else(|| "has no number of threads".to_owned())
}
