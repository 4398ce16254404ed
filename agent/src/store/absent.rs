//! What stands in for a store that can't be opened: on read-only or broken flash, on a disk so full that not even its
//! files can be made, where another user's files are in the way. It refuses everything, and looks now and then whether
//! the store can be opened after all. An agent without a store measures, alarms and sends; it obeys nothing, because
//! nothing of it could be journaled.

use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::{OpenError, Store, StoreSettings, unreadable};
use crate::engine::io::{Recovered, StoreFault, StoreLoss, StoreReply};

/// How often to look.
const TRY_EVERY: Duration = Duration::from_secs(10);
/// After each so many looks what the disk still refuses to read is taken for dead, and the rest of the store taken up.
const TRIES_MAX: u32 = 30;

/// No store, and why.
#[derive(Debug)]
pub struct Absent {
    settings: StoreSettings,
    fault: StoreFault,
    tried: Instant,
    tries: u32,
    looking: Option<JoinHandle<()>>,
}

/// One look for the store.
#[derive(Debug)]
pub(super) struct Look {
    settings: StoreSettings,
    /// What the disk has refused to read for so long is given up.
    is_last: bool,
}

impl Absent {
    /// Stands in after `error`; the engine begins from what this gives: nothing, and the loss of it.
    #[must_use]
    pub fn new(settings: StoreSettings, error: &OpenError) -> (Self, Recovered) {
        let what = match error {
            OpenError::Fault(fault) => format!("{error}: {fault}"),
            other => other.to_string(),
        };
        let loss = StoreLoss { what: what.clone(), records: 0, state_lost: true };
        let recovered = Recovered { losses: vec![loss], absent: true, ..Recovered::default() };
        (Self { settings, fault: StoreFault::Io { what }, tried: Instant::now(), tries: 0, looking: None }, recovered)
    }

    pub(super) fn refuse(&self) -> Result<StoreReply, StoreFault> {
        Err(self.fault.clone())
    }

    /// How long to wait before the next look.
    pub(super) fn try_in(&self) -> Duration {
        TRY_EVERY.saturating_sub(self.tried.elapsed())
    }

    /// Looks on a thread of its own, and tells there that the store is back: on a disk that fails it may take minutes
    /// to find out, and whoever asks for a sign of life waits for none of them. One look at a time.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn look(&mut self, is_back: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.tried = Instant::now();
        if self.looking.as_ref().is_some_and(|looking| !looking.is_finished()) {
            return Ok(());
        }
        let look = self.next_look();
        let run = move || {
            if look.is_back() {
                is_back();
            }
        };
        self.looking = Some(Builder::new().name("store-look".to_owned()).spawn(run)?);
        Ok(())
    }

    pub(super) fn next_look(&mut self) -> Look {
        self.tries = self.tries.saturating_add(1);
        Look { settings: self.settings.clone(), is_last: self.tries % TRIES_MAX == 0 }
    }
}

impl Look {
    /// Whether the store can be opened now, or is to be without what the disk has refused to read for too long.
    pub(super) fn is_back(&self) -> bool {
        Store::open(&self.settings).is_ok() || (self.is_last && unreadable::give_up(&self.settings.path))
    }
}
