//! Work that may hang, as on a disk or a resolver, on a thread of its own. That the system gives none for now is an
//! error like any other: tokio's `spawn_blocking` panics then, and takes the task with it that asked.

use std::io;
use std::thread::Builder;

use tokio::sync::oneshot;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotDone {
    /// It was not begun.
    #[error("the system gives no thread: {0}")]
    NoThread(io::Error),
    /// Its words are on stderr.
    #[error("the thread that was at it has panicked")]
    Panicked,
}

impl From<NotDone> for io::Error {
    fn from(error: NotDone) -> Self {
        Self::other(error)
    }
}

/// What `work` gives. It has begun when this returns, and goes on if nobody waits for it.
///
/// # Errors
/// It was not begun, or it panicked.
pub(crate) fn on_own_thread<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
    name: &str,
    work: W,
) -> impl Future<Output = Result<T, NotDone>> + Send + use<T, W> {
    let (done_in, done) = oneshot::channel();
    let run = move || {
        let _ = done_in.send(work());
    };
    let begun = builder().name(name.to_owned()).spawn(run);
    async {
        begun.map_err(NotDone::NoThread)?;
        done.await.map_err(|_| NotDone::Panicked)
    }
}

/// Of threads, also of those that are joined.
#[cfg(not(test))]
pub(crate) fn builder() -> Builder {
    Builder::new()
}

#[cfg(test)]
pub(crate) use tests::builder;

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::one_thread::runtime;

    thread_local! {
        static REFUSED: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// While this lives the test's own thread gets no other.
    pub(crate) struct NoThreads(());

    impl NoThreads {
        pub(crate) fn begin() -> Self {
            REFUSED.set(Some(0));
            Self(())
        }

        /// How many were asked for.
        #[expect(clippy::unused_self, reason = "only while it lives")]
        pub(crate) fn refused(&self) -> u32 {
            REFUSED.get().unwrap_or_default()
        }
    }

    impl Drop for NoThreads {
        fn drop(&mut self) {
            REFUSED.set(None);
        }
    }

    pub(crate) fn builder() -> Builder {
        let Some(refused) = REFUSED.get() else { return Builder::new() };
        REFUSED.set(Some(refused + 1));
        // The system has no room for such a stack.
        Builder::new().stack_size(1 << 60)
    }

    #[test]
    fn that_there_is_no_thread_or_that_it_panicked_is_an_error_and_the_next_is_done() {
        runtime().unwrap().block_on(async {
            let none = NoThreads::begin();
            assert!(matches!(on_own_thread("test", || 1).await, Err(NotDone::NoThread(_))));
            drop(none);
            let panics = || -> u8 { panic!("a disk that was never there") };
            assert!(matches!(on_own_thread("test", panics).await, Err(NotDone::Panicked)));
            assert_eq!(on_own_thread("test", || 2).await.unwrap(), 2);
        });
    }
}
