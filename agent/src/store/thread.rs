//! The thread that owns the store, so that a slow disk holds up nothing else. Operations come through a bounded queue
//! and are answered in order, each exactly once. It decides nothing but one thing: appends and commits that wait in the
//! queue behind one another are done together, and share one fdatasync.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::absent::Found;
use super::waiting::Waiting;
use super::{Absent, Store};
use crate::engine::io::{EffectId, Input, StopReason, StoreFault, StoreOp, StoreReply, StoreStats};
use crate::engine::record::Class;

/// Operations that may wait for the store; one more is refused as [`StoreFault::Busy`].
pub const STORE_QUEUE_MAX: usize = 256;

/// How long the thread may take for what waits when it is to end. A slow card needs some seconds; beside the engine's
/// own bounds there is room for it within what the unit gives a stop (TimeoutStopSec=).
const END_MAX: Duration = Duration::from_secs(12);

type Job = (EffectId, StoreOp);
type Answer = (EffectId, Result<StoreReply, StoreFault>);

/// What the thread works with.
#[derive(Debug)]
pub enum Backing {
    /// A store.
    Store(Box<Store>),
    /// What stands in for one.
    Absent(Absent),
}

impl Backing {
    pub(super) fn apply(&mut self, op: StoreOp) -> Result<StoreReply, StoreFault> {
        let is_vouching = matches!(op, StoreOp::Commit | StoreOp::Put { .. } | StoreOp::Probe);
        match self {
            // Not looked at for each record: none is vouched for before the commit.
            Self::Store(store) if is_vouching => {
                // Before the commit, which may be one of files that are deleted: those records are refused.
                let waited = store.waiting();
                let answer = store.apply(op);
                self.check_place(waited);
                match self {
                    Self::Absent(absent) if answer != Ok(StoreReply::Probed) => absent.refuse(),
                    _ => answer,
                }
            }
            Self::Store(store) => store.apply(op),
            // An agent that has no store is alive all the same: to be started again would not bring it back.
            Self::Absent(_) if op == StoreOp::Probe => Ok(StoreReply::Probed),
            Self::Absent(absent) => absent.refuse(),
        }
    }

    /// Goes on without a store where it was taken away: what is written to it would be lost with its files.
    fn check_place(&mut self, waited: [Waiting; Class::COUNT]) {
        let Self::Store(store) = self else { return };
        if !store.is_in_place() {
            *self = Self::Absent(store.stand_in(waited));
        }
    }

    fn close(self) -> Result<(), StoreFault> {
        match self {
            Self::Store(store) => store.close(),
            Self::Absent(_) => Ok(()),
        }
    }

    fn stats(&self) -> StoreStats {
        match self {
            Self::Store(store) => store.stats(),
            Self::Absent(_) => StoreStats::default(),
        }
    }
}

impl From<Store> for Backing {
    fn from(store: Store) -> Self {
        Self::Store(Box::new(store))
    }
}

impl From<Absent> for Backing {
    fn from(absent: Absent) -> Self {
        Self::Absent(absent)
    }
}

/// The way to a store that runs in its own thread.
#[derive(Debug)]
pub struct StoreHandle {
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Is closed when the thread has done all.
    ended: Receiver<()>,
    back: Back,
}

/// A store that was absent and was found again, for whoever ends this run.
#[derive(Debug, Clone, Default)]
struct Back(Arc<Mutex<Option<Found>>>);

impl Back {
    fn is_found(&self) -> bool {
        self.found().is_some()
    }

    fn found(&self) -> MutexGuard<'_, Option<Found>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreHandle {
    /// Hands the store to a thread that answers each operation with an [`Input::Store`]. If what stood in for a store
    /// finds that there is one again, it asks for a stop: the next start takes it up.
    ///
    /// # Errors
    /// The system can't start a thread.
    pub fn spawn(store: impl Into<Backing>, replies: Sender<Input>) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(STORE_QUEUE_MAX);
        let (store, back) = (store.into(), Back::default());
        let noted = back.clone();
        let (ending, ended) = sync_channel(0);
        let work = move || {
            let _ending: SyncSender<()> = ending;
            run(store, &jobs, &replies, &noted);
        };
        let thread = Builder::new().name("store".to_owned()).spawn(work)?;
        Ok(Self { queue: Some(queue), thread: Some(thread), ended, back })
    }

    /// Queues an operation. Never blocks: the thread may itself be waiting for room among the engine's inputs, and two
    /// that wait for each other never wake.
    ///
    /// # Errors
    /// [`StoreFault::Busy`] if the queue is full, [`StoreFault::Io`] if the thread is gone. No answer follows then.
    pub fn submit(&self, id: EffectId, op: StoreOp) -> Result<(), StoreFault> {
        let gone = || StoreFault::Io { what: "hand an operation to the store: its thread is gone".to_owned() };
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        queue.try_send((id, op)).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => StoreFault::Busy,
            mpsc::TrySendError::Disconnected(_) => gone(),
        })
    }

    /// Ends the thread after it has done all that was submitted, and committed it, or leaves it behind where it hangs.
    /// The receiver of the replies must be read on or dropped meanwhile: the last answers wait for room in it. Gives the
    /// store that was absent, if it was found again.
    pub fn close(mut self) -> Option<Found> {
        self.end(END_MAX);
        self.back.found().take()
    }

    fn end(&mut self, within: Duration) {
        self.queue = None;
        let Some(thread) = self.thread.take() else { return };
        if self.ended.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
            return tracing::error!("store: its thread hangs: what it has not written by now is lost");
        }
        // A panic in it was printed when it happened, and there is nothing left to save here.
        let _ = thread.join();
    }
}

impl Drop for StoreHandle {
    fn drop(&mut self) {
        self.end(END_MAX);
    }
}

fn run(mut store: Backing, jobs: &Receiver<Job>, replies: &Sender<Input>, back: &Back) {
    let mut next = next_job(&mut store, jobs, replies, back);
    while let Some(job) = next {
        let (answers, following) = work_together(&mut store, job, jobs);
        reply(answers, store.stats(), replies);
        next = following.or_else(|| next_job(&mut store, jobs, replies, back));
    }
    // What came without a commit of its own is worth one now; there is no one left to be told of a failure.
    let _ = store.close();
}

/// Waits for something to do; without a store the store is looked for meanwhile.
fn next_job(store: &mut Backing, jobs: &Receiver<Job>, replies: &Sender<Input>, back: &Back) -> Option<Job> {
    while let (Backing::Absent(absent), false) = (&mut *store, back.is_found()) {
        match jobs.recv_timeout(absent.try_in()) {
            Ok(job) => return Some(job),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {
                let (replies, back) = (replies.clone(), back.clone());
                let tell = move |found| {
                    *back.found() = Some(found);
                    let _ = replies.blocking_send(Input::Stop { reason: StopReason::Stopped });
                };
                if let Err(error) = absent.look(tell) {
                    tracing::warn!("look for the store: start a thread: {error}");
                }
            }
        }
    }
    jobs.recv().ok()
}

/// Does a job, and if that is an append or a commit the appends and commits that wait behind it, with one commit for
/// all: a burst of events that each want to be durable costs one fdatasync, and a burst of samples wakes the engine
/// once. Gives the answers in order, and the job that ended the run.
pub(super) fn work_together(store: &mut Backing, first: Job, jobs: &Receiver<Job>) -> (Vec<Answer>, Option<Job>) {
    let mut answers = Vec::new();
    let mut next = Some(first);
    let mut commits = false;
    while let Some((id, op)) = next.take() {
        let answer = match op {
            StoreOp::Commit => {
                commits = true;
                Ok(StoreReply::Committed)
            }
            op @ StoreOp::Append { .. } => store.apply(op),
            op if answers.is_empty() => return (vec![(id, store.apply(op))], None),
            op => {
                next = Some((id, op));
                break;
            }
        };
        answers.push((id, answer));
        next = if answers.len() < STORE_QUEUE_MAX { jobs.try_recv().ok() } else { None };
    }
    if let Some(fault) = commits.then(|| store.apply(StoreOp::Commit)).and_then(Result::err) {
        for (_, answer) in &mut answers {
            if *answer == Ok(StoreReply::Committed) {
                *answer = Err(fault.clone());
            }
        }
    }
    (answers, next)
}

fn reply(answers: Vec<Answer>, stats: StoreStats, replies: &Sender<Input>) {
    for (id, result) in answers {
        // Whoever dropped the receiver wants no answers; the work is done all the same. To ask for room first is
        // cheaper than to be ready to wait for it.
        if let Err(TrySendError::Full(answer)) = replies.try_send(Input::Store { id, result, stats }) {
            let _ = replies.blocking_send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreSettings;

    #[test]
    fn a_thread_that_hangs_does_not_hold_up_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let settings = StoreSettings { path: dir.path().join("store"), max_bytes: 16 * 1024 * 1024 };
        let (store, _) = Store::open(&settings).unwrap();
        // Nobody takes its answers.
        let (replies, mut taken) = tokio::sync::mpsc::channel(1);
        let mut handle = StoreHandle::spawn(store, replies).unwrap();
        for id in 1..=3 {
            handle.submit(EffectId(id), StoreOp::Probe).unwrap();
        }
        handle.end(Duration::from_millis(50));
        assert!(handle.thread.is_none(), "it is left behind");
        let answers = std::iter::from_fn(|| taken.blocking_recv()).count();
        assert_eq!(answers, 3, "it goes on where it can, and has ended then");
    }
}
