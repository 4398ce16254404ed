//! The thread that runs the collectors. A read of sysfs can hang for as long as its driver does; then this thread
//! hangs, further requests are refused, and nobody else waits: another worker goes on without what hangs
//! ([`Worker::hung`]). Ends when the worker is dropped or nobody takes its answers.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, ThreadId};

use tokio::sync::mpsc;

use super::clock::ClockReading;
use super::{Collectors, hung};
use crate::engine::io::{EffectId, Input};
use crate::engine::observation::Observation;
use crate::engine::time::Mono;

/// Rounds that may wait behind the one that is running. More would only be read late and all at once.
const REQUESTS_MAX: usize = 1;

/// Why a round was not taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// An earlier round is still running, and another waits behind it.
    #[error("the collectors are busy: a round is running and {REQUESTS_MAX} waits")]
    Busy,
    /// The thread has ended.
    #[error("the collectors' thread has ended")]
    Ended,
}

/// A handle to the collectors' thread.
#[derive(Debug)]
pub struct Worker {
    requests: SyncSender<(EffectId, ClockReading)>,
    thread: ThreadId,
    /// The round that was taken on last.
    last: Option<EffectId>,
}

impl Worker {
    /// Starts the thread, which makes the collectors. Each round that is taken on is answered by one
    /// [`Input::Observed`] to `inputs`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn spawn(
        collectors: impl FnOnce() -> Collectors + Send + 'static,
        inputs: mpsc::Sender<Input>,
    ) -> io::Result<Self> {
        let (requests, queue) = sync_channel(REQUESTS_MAX);
        // The handle is dropped on purpose: who joins a thread that hangs in a driver hangs with it.
        let work = move || {
            let mut collectors = collectors();
            run(|clock| collectors.observe(clock), &queue, &inputs);
        };
        let thread = thread::Builder::new().name("collect".to_owned()).spawn(work)?.thread().id();
        Ok(Self { requests, thread, last: None })
    }

    /// Asks for a round.
    ///
    /// # Errors
    /// The round is refused; there will be no answer.
    pub fn request(&mut self, id: EffectId, clock: ClockReading) -> Result<(), RequestError> {
        self.requests.try_send((id, clock)).map_err(|error| match error {
            TrySendError::Full(_) => RequestError::Busy,
            TrySendError::Disconnected(_) => RequestError::Ended,
        })?;
        self.last = Some(id);
        Ok(())
    }

    /// The round that hangs, once: another worker would come to its end, without what this one hangs in.
    pub fn hung(&mut self, now: Mono) -> Option<EffectId> {
        self.last.take_if(|_| hung::give_up(self.thread, now))
    }
}

fn run(
    mut observe: impl FnMut(ClockReading) -> Observation,
    requests: &Receiver<(EffectId, ClockReading)>,
    inputs: &mpsc::Sender<Input>,
) {
    while let Ok((id, clock)) = requests.recv() {
        // Without an answer the engine would wait for this round for ever, and the gateway be blind. What a collector
        // keeps from round to round are counters: one that panicked halfway reports a wrong growth once.
        let result = catch_unwind(AssertUnwindSafe(|| observe(clock)));
        let result = result.map_err(|_| "a collector panicked: its words are on stderr".to_owned());
        if inputs.blocking_send(Input::Observed { id, result }).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::time::{Mono, Now, Unix, Wall};

    #[test]
    fn a_round_that_panics_is_answered_and_the_next_is_run() {
        let (requests, queue) = sync_channel(2);
        let clock =
            ClockReading { now: Now { mono: Mono(1), wall: Wall { unix: Unix(0), trusted: false } }, synced: false };
        requests.send((EffectId(1), clock)).unwrap();
        requests.send((EffectId(2), clock)).unwrap();
        drop(requests);
        let mut rounds = 0;
        let observe = |_| {
            rounds += 1;
            assert!(rounds > 1, "the first round");
            Observation::default()
        };
        let (inputs, mut answers) = mpsc::channel(2);
        run(observe, &queue, &inputs);
        assert!(matches!(answers.try_recv(), Ok(Input::Observed { id: EffectId(1), result: Err(_) })));
        assert!(matches!(answers.try_recv(), Ok(Input::Observed { id: EffectId(2), result: Ok(_) })));
    }
}
