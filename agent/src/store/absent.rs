//! What stands in for a store that can't be opened: on read-only or broken flash, on a disk so full that not even its
//! files can be made, where another user's files are in the way. It refuses everything, and looks now and then whether
//! the store can be opened after all. An agent without a store measures, alarms and sends; it obeys nothing, because
//! nothing of it could be journaled.

#[cfg(test)]
mod tests;

use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::waiting::Waiting;
use super::{OpenError, Store, StoreSettings, unreadable};
use crate::engine::io::{Recovered, StoreFault, StoreLoss, StoreOp, StoreReply};
use crate::engine::record::Class;

/// How often to look.
const TRY_EVERY: Duration = Duration::from_secs(10);
/// After each so many looks what the disk still refuses to read is taken for dead, and the rest of the store taken up.
const TRIES_MAX: u32 = 30;

/// A store that was found, and what lies in it.
pub type Found = (Box<Store>, Recovered);

/// No store, and why.
#[derive(Debug)]
pub struct Absent {
    settings: StoreSettings,
    fault: StoreFault,
    /// What was durable of each log of the store that there was.
    waited: Option<[Waiting; Class::COUNT]>,
    tried: Instant,
    tries: u32,
    looking: Option<JoinHandle<()>>,
}

/// One look for the store.
#[derive(Debug)]
pub(super) struct Look {
    settings: StoreSettings,
    waited: Option<[Waiting; Class::COUNT]>,
    /// What the disk has refused to read for so long is given up.
    is_last: bool,
}

impl Absent {
    /// Stands in after `error`; the engine begins from what this gives: nothing, and why. What lies in the store may be
    /// whole.
    #[must_use]
    pub fn new(settings: StoreSettings, error: &OpenError) -> (Self, Recovered) {
        let what = match error {
            OpenError::Fault(fault) => format!("{error}: {fault}"),
            other => other.to_string(),
        };
        let loss = StoreLoss { what: what.clone(), records: 0, state_lost: false };
        let recovered = Recovered { losses: vec![loss], absent: true, ..Recovered::default() };
        (Self::standing_in(settings, what, None), recovered)
    }

    /// Stands in for a store that was taken away, where so much `waited` in it.
    pub(super) fn after(settings: StoreSettings, waited: [Waiting; Class::COUNT]) -> Self {
        let what = OpenError::TakenAway { path: settings.path.clone() }.to_string();
        Self::standing_in(settings, what, Some(waited))
    }

    fn standing_in(settings: StoreSettings, what: String, waited: Option<[Waiting; Class::COUNT]>) -> Self {
        Self { settings, fault: StoreFault::Io { what }, waited, tried: Instant::now(), tries: 0, looking: None }
    }

    pub(super) fn refuse(&self) -> Result<StoreReply, StoreFault> {
        Err(self.fault.clone())
    }

    /// How long to wait before the next look.
    pub(super) fn try_in(&self) -> Duration {
        TRY_EVERY.saturating_sub(self.tried.elapsed())
    }

    /// Looks on a thread of its own, and hands over there the store that it finds: on a disk that fails it may take
    /// minutes to find out, and whoever asks for a sign of life waits for none of them. One look at a time.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn look(&mut self, is_back: impl FnOnce(Found) + Send + 'static) -> io::Result<()> {
        self.tried = Instant::now();
        if self.looking.as_ref().is_some_and(|looking| !looking.is_finished()) {
            return Ok(());
        }
        let look = self.next_look();
        let run = move || {
            if let Some(found) = look.find() {
                is_back(found);
            }
        };
        self.looking = Some(Builder::new().name("store-look".to_owned()).spawn(run)?);
        Ok(())
    }

    pub(super) fn next_look(&mut self) -> Look {
        self.tries = self.tries.saturating_add(1);
        Look { settings: self.settings.clone(), waited: self.waited, is_last: self.tries % TRIES_MAX == 0 }
    }
}

impl Look {
    /// The store, if it can be opened now, or can without what the disk has refused to read for too long. Opening it
    /// may have made parts of it anew: what it tells of that nobody will find again.
    pub(super) fn find(&self) -> Option<Found> {
        self.open().or_else(|| {
            let gives_up = self.is_last && unreadable::give_up(&self.settings.path);
            gives_up.then(|| self.open()).flatten()
        })
    }

    fn open(&self) -> Option<Found> {
        let (mut store, found) = Store::open_knowing(&self.settings, self.waited).ok()?;
        if self.waited.is_some() {
            // Durable at once: the logs that are gone were made anew.
            let _ = store.apply(StoreOp::Put { entries: Vec::new() });
        }
        Some((Box::new(store), found))
    }
}
