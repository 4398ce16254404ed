//! Lines of errors on their way: read from the journal or said by applications, gathered by `incidents`, told as
//! events; and with them how far the journal was read. The events go to the store before the cursor: a crash between
//! them repeats a line, and never loses one. Doesn't judge what a line says.

use bytes::Bytes;

use super::Engine;
use super::effects::Purpose;
use super::keyed::{CURSOR_KEY, OPEN_KEY};
use super::observation::ErrorBatch;
use super::time::{Mono, Now};

/// Counts of error clusters told at a time, and completions that may be outstanding when the next are: the queue to the
/// store holds some four times as many, and hundreds of buckets can end at once.
const COUNTS_AT_ONCE: usize = 64;

/// How far the journal was read.
#[derive(Debug)]
pub(super) struct Cursor {
    at: Option<String>,
    /// Since when the store does not have it as it is.
    unsaved_since: Option<Mono>,
    /// What was saved with it as counted and not told.
    open: Option<Bytes>,
}

impl Cursor {
    /// What the store holds of it.
    pub(super) const fn kept(at: Option<String>, open: Option<Bytes>) -> Self {
        Self { at, unsaved_since: None, open }
    }

    /// The store may not have it as it is.
    pub(super) fn save_again(&mut self) {
        self.unsaved_since = Some(Mono(0));
        // Unlike anything that there is to save.
        self.open = Some(Bytes::new());
    }
}

impl Engine {
    /// How far the journal was read when its events were last made durable: where reading it should begin.
    #[must_use]
    pub fn error_cursor(&self) -> Option<&str> {
        self.cursor.at.as_deref()
    }

    pub(super) fn errors(&mut self, now: Now, batch: ErrorBatch) {
        if self.stopping.is_some() || !self.config.collect.errors.enabled {
            // Its buckets would end after the agent. The cursor stays before it, and the next run reads it; what an
            // application says while the agent stops is lost, as it is until that has started again.
            if self.stopping.is_some() {
                self.passed_over += batch.missed + batch.lines.len() as u64;
            }
            return;
        }
        let is_first = self.cursor.at.is_none() && batch.cursor.is_some();
        if let Some(cursor) = &batch.cursor {
            self.cursor.at = Some(cursor.clone());
        }
        // Also where there is none: what an application has said can't be read again.
        self.cursor.unsaved_since.get_or_insert(now.mono);
        let stamp = self.timeline.stamp(now.mono);
        let events = self.incidents.take(stamp, batch);
        if events.is_empty() {
            if is_first {
                // Without one the next start begins at its own present, and passes over what came after this one.
                self.save_cursor();
            }
            return;
        }
        self.record_events(now, events);
        // After the events in the store's queue: a crash between them repeats a line, and never loses one.
        self.save_cursor();
    }

    /// Where errors are not collected, what is written is not read later either: history is not news.
    pub(super) fn forget_unread(&mut self) {
        if !self.config.collect.errors.enabled && self.cursor.at.take().is_some() {
            self.effects.put(Purpose::Note, vec![(CURSOR_KEY.to_owned(), None)]);
        }
    }

    /// Tells what error clusters counted. What the store has no room for waits for its completions.
    pub(super) fn tell_counts(&mut self, now: Now) {
        if !self.has_room_for_counts() {
            return;
        }
        let events = self.incidents.poll(now.mono, COUNTS_AT_ONCE);
        if !events.is_empty() {
            self.record_events(now, events);
            self.cursor.unsaved_since = Some(now.mono);
            self.save_cursor();
        }
    }

    pub(super) fn has_room_for_counts(&self) -> bool {
        self.effects.pending() <= COUNTS_AT_ONCE
    }

    /// Saves it at the end of an interval, unless the count of a bucket will have done so when it has been unsaved for
    /// as long as one: a gateway with an error that goes on would wear its flash for both each minute.
    pub(super) fn save_cursor_in_time(&mut self, now: Now) {
        let interval = self.config.telemetry.report_interval;
        let due = self.cursor.unsaved_since.map(|since| since.after(interval));
        let is_told_by = |due| self.incidents.deadline().is_some_and(|told| told <= due);
        if due.is_some_and(|due| due < now.mono || !is_told_by(due)) {
            self.save_cursor();
        }
    }

    pub(super) fn save_cursor(&mut self) {
        if self.cursor.unsaved_since.take().is_none() {
            return;
        }
        let bytes = |text: &String| Bytes::copy_from_slice(text.as_bytes());
        let at = self.cursor.at.as_ref().map(bytes);
        // Where errors are not collected it is deleted, also where the store refused that once.
        let is_known = at.is_some() || !self.config.collect.errors.enabled;
        let mut entries: Vec<_> = is_known.then(|| (CURSOR_KEY.to_owned(), at)).into_iter().collect();
        let open = self.incidents.unsaid();
        if open != self.cursor.open {
            entries.push((OPEN_KEY.to_owned(), open.clone()));
            self.cursor.open = open;
        }
        if !entries.is_empty() {
            self.effects.put(Purpose::Note, entries);
        }
    }
}
