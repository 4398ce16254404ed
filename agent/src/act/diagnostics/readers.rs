//! Runs what blocks on a thread of its own, and waits no longer than it may: a file system that hangs in the kernel
//! costs a thread, and not the agent. At most one thread for each section is left behind: what still hangs isn't tried
//! again.

#![expect(clippy::disallowed_methods, reason = "a reader has a thread and a deadline")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Read;

/// Those that read, by the names of their sections.
#[derive(Debug, Clone, Default)]
pub(super) struct Readers(Arc<Mutex<BTreeSet<&'static str>>>);

impl Readers {
    /// Reads on a thread. What goes wrong is that it takes too long, or that the section is being read already.
    pub(super) async fn read(
        &self,
        name: &'static str,
        within: Duration,
        read: Box<dyn FnOnce() -> Read + Send>,
    ) -> Read {
        let place = self.take(name).ok_or("an earlier snapshot's reader still hangs")?;
        let (done, result) = oneshot::channel();
        let run = move || {
            let result = read();
            drop(place);
            // An error means that nobody waits any more.
            let _ = done.send(result);
        };
        thread::Builder::new().name("diagnostics".into()).spawn(run).map_err(|error| format!("no thread: {error}"))?;
        match timeout(within, result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("its reader died".into()),
            Err(_) => Err(format!("no answer within {within:?}")),
        }
    }

    fn take(&self, name: &'static str) -> Option<Place> {
        let is_free = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        is_free.then(|| Place(self.clone(), name))
    }
}

/// A section's place among those that read, free again when it is dropped.
struct Place(Readers, &'static str);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(self.1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_reader_that_hangs_costs_its_section_only_and_leaves_no_second_thread_behind() {
        let readers = Readers::default();
        let (release, hung) = mpsc::sync_channel::<()>(0);
        let hangs = move || Ok(format!("{:?}", hung.recv()));
        assert_eq!(readers.read("disks", SHORT, Box::new(hangs)).await, Err("no answer within 20ms".into()));
        let again = readers.read("disks", LONG, Box::new(|| unreachable!("the first one still hangs"))).await;
        assert_eq!(again, Err("an earlier snapshot's reader still hangs".into()));
        assert_eq!(readers.read("network", LONG, Box::new(|| Ok("fine".into()))).await, Ok("fine".into()));
        drop(release);
        let free = || {
            thread::yield_now();
            readers.take("disks").is_some()
        };
        assert!((0..10_000_000).any(|_| free()), "its place is never free again");
        assert_eq!(readers.read("disks", LONG, Box::new(|| Ok("fine".into()))).await, Ok("fine".into()));
    }

    #[tokio::test]
    async fn a_reader_that_panics_costs_its_section_only_and_only_once() {
        let readers = Readers::default();
        assert_eq!(
            readers.read("disks", LONG, Box::new(|| panic!("of this test"))).await,
            Err("its reader died".into())
        );
        assert_eq!(readers.read("disks", LONG, Box::new(|| Ok("fine".into()))).await, Ok("fine".into()));
    }
}
