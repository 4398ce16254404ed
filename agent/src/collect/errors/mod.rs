//! Error lines, from the journal or, where there is none, from the kernel's log: read as they come, in batches, each
//! with the cursor up to which the source was read. Back-pressure is right here: the source is the buffer, so a batch
//! waits for its receiver. A source that ends is begun again with a growing delay, after the last batch that was taken
//! over. Decides nothing about what an error means, and never reads the agent's own lines: one error would feed the
//! next.

pub(crate) mod app;
mod journal;
pub(crate) mod kmsg;
mod lines;

use std::convert::Infallible;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::CollectErrors;
use crate::engine::kernel::KernelClass;
use crate::engine::observation::{ErrorBatch, ErrorKind, ErrorLine, ErrorSource, Severity};
use crate::engine::time::{BootId, Mono};
use crate::own_thread::{NotDone, on_own_thread};
use crate::text::head;

/// The most lines of one batch.
const BATCH_LINES_MAX: usize = 64;
/// A batch is sent when nothing came for so long.
const BATCH_QUIET: Duration = Duration::from_millis(5);
/// A message is cut at this length. Stack traces are longer; what tells errors apart stands at their beginning.
pub(crate) const MESSAGE_BYTES_MAX: usize = 2048;
/// Delay before a source that failed is tried again, growing from the first to the second.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// A source that ran for so long was well: its next failure starts the delays from their beginning.
const RAN_WELL: Duration = Duration::from_secs(60);

/// Where the lines come from.
#[derive(Debug)]
enum Source {
    Journal(journal::Journal),
    Kmsg(kmsg::Kmsg),
}

/// Why reading ended, other than on request.
#[derive(Debug)]
enum Ended {
    /// Nobody takes the batches any more, or there is nothing to read.
    Over,
    /// The source failed.
    Failed(String),
    /// It is no fault: it was told to stop, as systemd tells it together with the agent, or is to be begun again.
    Stopped(String),
}

/// Where the batches go, and how far they have come.
struct Outlet {
    batches: mpsc::Sender<ErrorBatch>,
    /// After the last batch that was taken over: where a new run begins.
    cursor: Option<String>,
}

impl Outlet {
    /// Hands over `batch` and leaves it empty.
    async fn send(&mut self, batch: &mut ErrorBatch) -> Result<(), Ended> {
        let batch = std::mem::take(batch);
        let cursor = batch.cursor.clone();
        self.batches.send(batch).await.map_err(|_| Ended::Over)?;
        self.cursor = cursor.or(self.cursor.take());
        Ok(())
    }

    /// Without lines: the source is read. Where a first run began is kept, so that a restart before the first line
    /// misses nothing.
    async fn begin(&mut self, cursor: Option<String>) -> Result<(), Ended> {
        self.send(&mut ErrorBatch { cursor, ..ErrorBatch::default() }).await
    }

    /// The source can't be read for now: that there are no errors is not known.
    async fn is_unread(&mut self) -> Result<(), Ended> {
        self.send(&mut ErrorBatch { is_unread: true, ..ErrorBatch::default() }).await
    }
}

/// What every source needs to know to judge a line.
#[derive(Debug, Clone)]
struct Filter {
    min_severity: Severity,
    units: Vec<String>,
    /// This boot; `None` where it can't be told.
    boot: Option<BootId>,
}

/// Reads error lines into `batches` until `shutdown` turns true or is dropped, or `batches` is closed. `cursor` is that
/// of the last batch that was stored; without one, reading begins at the present: history is not news.
///
/// The journal is read if `journalctl` exists and there are journal files below `root`; else `/dev/kmsg` below `root`,
/// if it exists; else this is logged, once, and the task ends. Must be called within a tokio runtime.
#[must_use]
pub fn spawn(
    config: &CollectErrors,
    root: &Path,
    cursor: Option<String>,
    batches: mpsc::Sender<ErrorBatch>,
    shutdown: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let filter = Filter {
        min_severity: config.min_severity,
        units: config.units.iter().map(ToString::to_string).collect(),
        boot: super::clock::this_boot(root).ok(),
    };
    let outlet = Outlet { batches, cursor };
    let (enabled, root) = (config.enabled, root.to_owned());
    // The journal's directory may be on a disk that hangs: whoever looks there hangs alone.
    let choose = move || {
        let (filter, root) = (filter.clone(), root.clone());
        on_own_thread("find-journal", move || if enabled { choose(filter, &root) } else { None })
    };
    #[expect(clippy::disallowed_methods, reason = "a collector is part of the shell")]
    tokio::spawn(read_until(choose, outlet, shutdown))
}

async fn read_until<C: Choice>(choose: impl FnMut() -> C, outlet: Outlet, mut shutdown: watch::Receiver<bool>) {
    tokio::select! {
        () = keep_reading(choose, outlet) => {}
        // An error means that the sender is gone, which is a shutdown too.
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
}

/// What to read, if there is anything and it could be looked for.
trait Choice: Future<Output = Result<Option<Source>, NotDone>> {}

impl<F: Future<Output = Result<Option<Source>, NotDone>>> Choice for F {}

fn choose(filter: Filter, root: &Path) -> Option<Source> {
    if let Some(journal) = journal::Journal::find(&filter, root) {
        return Some(Source::Journal(journal));
    }
    let device = root.join("dev/kmsg");
    if device.exists() {
        tracing::info!("there is no journal: errors are read from {}", device.display());
        return Some(Source::Kmsg(kmsg::Kmsg::new(device, filter)));
    }
    tracing::warn!("neither a journal nor {} exists: errors are not collected", device.display());
    None
}

async fn keep_reading<C: Choice>(mut choose: impl FnMut() -> C, mut outlet: Outlet) {
    let mut backoff = ExponentialBackoff {
        current_interval: RETRY_MIN,
        initial_interval: RETRY_MIN,
        max_interval: RETRY_MAX,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    let mut failures = 0_u32;
    let mut source = None;
    loop {
        let began = monotonic();
        let Err(ended) = read(&mut source, &mut choose, &mut outlet).await;
        let (why, is_fault) = match ended {
            Ended::Over => return,
            Ended::Failed(why) => (why, true),
            Ended::Stopped(why) => (why, false),
        };
        if began.elapsed() >= RAN_WELL {
            backoff.reset();
            failures = 0;
        }
        failures = failures.saturating_add(is_fault.into());
        // One that only died is read again at once.
        if failures > 1 && outlet.is_unread().await.is_err() {
            return;
        }
        let delay = backoff.next_backoff().unwrap_or(RETRY_MAX);
        let text = format!("error lines: {why}; trying again in {:.1} s", delay.as_secs_f64());
        if is_fault {
            tracing::warn!("{text}");
        } else {
            tracing::info!("{text}");
        }
        pause(delay).await;
    }
}

/// Reads from the source; from what is chosen, where it could not be looked for one before.
async fn read<C: Choice>(
    source: &mut Option<Source>,
    choose: impl FnOnce() -> C,
    outlet: &mut Outlet,
) -> Result<Infallible, Ended> {
    if source.is_none() {
        *source = choose().await.map_err(|error| failed("look for the journal", error))?;
    }
    match source {
        Some(Source::Journal(journal)) => journal.read(outlet).await,
        Some(Source::Kmsg(kmsg)) => kmsg.read(outlet).await,
        None => Err(Ended::Over),
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a source ran; nothing that the engine sees")]
fn monotonic() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the delay between two runs of a source")]
async fn pause(delay: Duration) {
    tokio::time::sleep(delay).await;
}

/// Awaits `next`, but no longer than [`BATCH_QUIET`] if a batch is waiting; `None` says that it is time to send it.
async fn next_or_quiet<T>(batch: &ErrorBatch, next: impl Future<Output = T>) -> Option<T> {
    if is_empty(batch) {
        return Some(next.await);
    }
    #[expect(clippy::disallowed_methods, reason = "gathers what comes at once into one batch")]
    tokio::time::timeout(BATCH_QUIET, next).await.ok()
}

fn is_full(batch: &ErrorBatch) -> bool {
    batch.lines.len() >= BATCH_LINES_MAX
}

/// A batch that only moves the cursor can wait for lines: what it would save is passed over again in no time.
fn is_empty(batch: &ErrorBatch) -> bool {
    batch.lines.is_empty() && batch.missed == 0 && batch.refused.is_empty()
}

/// Whether a line of the journal, or of the kernel's log, is collected: below the severity it is chatter, unless it is
/// counted apart.
pub(crate) fn is_wanted(line: &ErrorLine, min_severity: Severity) -> bool {
    let is_kernels = line.source == ErrorSource::Kernel;
    line.kind != ErrorKind::Plain || line.severity <= min_severity || (is_kernels && is_wanted_anyway(&line.message))
}

/// Whether a line that the kernel wrote is wanted although it lies below the severity that is collected.
fn is_wanted_anyway(message: &str) -> bool {
    KernelClass::of(message).is_some_and(KernelClass::is_wanted_at_any_severity)
}

/// The kind of a line that the kernel wrote. The line `oom-kill:constraint=…` comes before each of these: to count it
/// too would count a kill twice.
fn kernel_kind(message: &str) -> ErrorKind {
    // "Kill process" before Linux 5.1, "Killed process" since. With vm.oom_kill_allocating_task its name stands between.
    let begins = |text: &&str| message.starts_with(text);
    let is_kill = ["Out of memory", "Memory cgroup out of memory"].iter().any(begins) && message.contains(": Kill");
    if is_kill { ErrorKind::OomKill } else { ErrorKind::Plain }
}

/// `message` cut at [`MESSAGE_BYTES_MAX`], between two characters.
fn cut(mut message: String) -> String {
    message.truncate(head(&message, MESSAGE_BYTES_MAX).len());
    message
}

/// A stamp of CLOCK_MONOTONIC in microseconds, as time since boot. Only of this boot is known how long it was
/// suspended.
fn since_boot(microseconds: u64, this_boot: bool) -> Mono {
    let stamp = Mono(microseconds / 1_000);
    if this_boot { stamp.after(super::clock::suspended()) } else { stamp }
}

fn failed(what: &str, why: impl Display) -> Ended {
    Ended::Failed(format!("{what}: {why}"))
}

/// The first directory on PATH that holds `program`.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// The parsers of what comes from outside, one input each, for [`crate::fuzzing`].
pub(crate) mod parsers {
    use super::{Filter, app, journal, kmsg};
    use crate::engine::observation::{ErrorLine, Severity};
    use crate::engine::time::BootId;

    /// What is made of a line of `journalctl --output=json`.
    pub(crate) fn journal_line(line: &[u8]) -> Option<ErrorLine> {
        let boot = Some(BootId([1; 16]));
        let filter = Filter { min_severity: Severity::Debug, units: Vec::new(), boot };
        journal::Entry::parse(line)?.line(&filter)
    }

    /// What is made of a record of /dev/kmsg.
    pub(crate) fn kernel_record(record: &[u8]) -> Option<ErrorLine> {
        kmsg::Record::parse(record).map(kmsg::Record::line)
    }

    /// What is made of a datagram of an application.
    pub(crate) fn app_datagram(datagram: &[u8]) -> Vec<ErrorLine> {
        app::lines_of(datagram)
    }
}

#[cfg(test)]
mod tests;
