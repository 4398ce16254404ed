//! What the engine keeps of its parts in the store, beside the journal and the alarms: the timeline, the totals of data
//! and of what was given up. What the store refuses is said once, and saved again with the next report.

use super::effects::Purpose;
use super::io::{LogLevel, StoreFault};
use super::keyed::{ACCOUNTED_KEY, DROPPED_KEY, LOST_KEY, Write, write};
use super::time::Now;
use super::timeline::Saved;
use super::{Engine, start};

impl Engine {
    pub(super) fn save_timeline(&mut self, saved: &Saved) {
        let mut entries = self.timeline_entries(saved);
        entries.extend(self.commands.date_budgets(&self.timeline));
        entries.extend(self.forget_told());
        self.effects.put(Purpose::Note, entries);
        if let Some(set_back) = saved.set_back {
            let s = set_back.as_secs();
            let text =
                format!("clock: it was ahead by {s} s, and was set back: what was told by it may have wrong dates");
            self.effects.log(LogLevel::Warn, text);
        }
        self.date_careful();
    }

    pub(super) fn timeline_entries(&self, saved: &Saved) -> Vec<Write> {
        let mut entries = Vec::from(start::floors(saved));
        if let Some(anchor) = saved.anchor {
            entries.push(write(start::anchor_key(self.timeline.boot()), &anchor));
        }
        entries.extend(saved.forget.iter().map(|boot| (start::anchor_key(*boot), None)));
        entries
    }

    /// What was counted of data outlives the agent.
    pub(super) fn save_data_use(&mut self, now: Now, stopping: bool) {
        if let Some(entry) = self.data_use.save(now.mono, stopping) {
            self.effects.put(Purpose::Note, vec![entry]);
        }
    }

    pub(super) fn save_dropped(&mut self) {
        if let Some((dropped, accounted)) = self.outbox.dropped_to_save() {
            let mut entries = vec![write(DROPPED_KEY, dropped), write(ACCOUNTED_KEY, &accounted)];
            entries.push(self.untold_entry());
            self.effects.put(Purpose::Note, entries);
        }
    }

    /// What of it is yet to be told.
    pub(super) fn untold_entry(&self) -> Write {
        write(LOST_KEY, &self.outbox.untold())
    }

    /// One line when this begins to fail, and when it fails otherwise: a store that stays broken is tried for ever.
    pub(super) fn log_fault(&mut self, what: &'static str, fault: Option<&StoreFault>) {
        match fault {
            None => drop(self.store_faults.remove(what)),
            Some(fault) if self.store_faults.get(what) == Some(fault) => {}
            Some(fault) => {
                self.effects.log(LogLevel::Error, format!("store: {what}: {fault}"));
                self.store_faults.insert(what, fault.clone());
            }
        }
    }
}
