//! sled's pool: seven threads, each of which wakes once a second to see that there is nothing to do. None of that can
//! be set. But a thread inherits from the one that starts it by how much the kernel may let its timers be late
//! (`prctl(2)`, PR_SET_TIMERSLACK), and there the kernel wakes those together that are due. Work wakes them at once, as
//! ever.
//!
//! sled starts them with the first work that it has for them, and never again. Where the system gives none at that
//! moment the work waits for ever, and whoever flushes with it; one thread is enough. So it is tried before whether
//! there are some.

use std::io;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use rustix::thread::set_current_timer_slack;

use crate::own_thread;

/// More than the one that sled can't do without: others may take one in between.
const THREADS_TRIED: usize = 2;

/// The pool of this process.
pub(super) static POOL: Pool = Pool(AtomicBool::new(false));

/// Whether its threads run.
pub(super) struct Pool(AtomicBool);

impl Pool {
    /// Looks whether the threads can be had, as long as they don't run.
    ///
    /// # Errors
    /// The system gives none.
    pub(super) fn prepare(&self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut waiting = Vec::new();
        for _ in 0..THREADS_TRIED {
            let (end, told) = sync_channel::<()>(0);
            let thread = own_thread::builder().name("sled-probe".to_owned()).spawn(move || told.recv())?;
            waiting.push((end, thread));
        }
        for (end, thread) in waiting {
            drop(end);
            // Its room is free again.
            let _ = thread.join();
        }
        Ok(())
    }

    /// A flush came back, so they do.
    pub(super) fn is_up(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// As long as can be asked back, in whole seconds: prctl answers with an int.
const SLACK_NS: u64 = 2_000_000_000;

/// As long as this lives, threads that the current one starts are in no hurry.
#[derive(Debug)]
pub(super) struct Calm(());

impl Calm {
    pub(super) fn begin() -> Self {
        // Where the kernel doesn't take it, the threads wake as often as they did.
        let _ = set_current_timer_slack(NonZeroU64::new(SLACK_NS));
        Self(())
    }
}

impl Drop for Calm {
    fn drop(&mut self) {
        // Back to what this thread began with.
        let _ = set_current_timer_slack(None);
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::current_timer_slack;

    use super::*;
    use crate::own_thread::tests::NoThreads;

    #[test]
    fn where_there_are_no_threads_for_sled_it_is_not_asked_until_they_run() {
        let pool = Pool(AtomicBool::new(false));
        pool.prepare().unwrap();
        let _none = NoThreads::begin();
        assert!(pool.prepare().is_err());
        pool.is_up();
        pool.prepare().unwrap();
    }

    #[test]
    fn threads_that_sled_starts_are_in_no_hurry_and_those_of_others_are_as_before() {
        let before = current_timer_slack().unwrap();
        assert!(before < SLACK_NS, "{before}");
        let inherited = {
            let _calm = Calm::begin();
            std::thread::spawn(|| current_timer_slack().unwrap()).join().unwrap()
        };
        assert_eq!(inherited, SLACK_NS);
        assert_eq!(current_timer_slack().unwrap(), before);
    }
}
