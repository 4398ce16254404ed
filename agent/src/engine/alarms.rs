//! Carries out what the rules decided: alarms are stored, told, and shown in the attributes. Judges nothing.

use bytes::Bytes;

use super::Engine;
use super::effects::Purpose;
use super::keyed::Write;
use super::outbox::Haste;
use super::record::{Body, Event, Record};
use super::rules::{self, Change, Leftovers, Round};
use super::time::Now;

impl Engine {
    /// Puts in order what a restart left behind, but for what is to be told again, and shows the alarms that stand.
    pub(super) fn begin_alarms(&mut self, now: Now, leftovers: Leftovers) {
        if !leftovers.forget.is_empty() {
            let entries = leftovers.forget.into_iter().map(|key| (key, None)).collect();
            self.effects.put(Purpose::Note, entries);
        }
        for (seq, record) in &leftovers.told {
            self.outbox.hurry(*seq, record);
        }
        self.tell_alarms(now, leftovers.cleared);
        self.show_alarms();
    }

    pub(super) fn judge(&mut self, now: Now, round: Round<'_>) {
        let (observed, reported) = self.pace.spacing(&self.config.telemetry);
        let interval = if matches!(round, Round::Observed(_)) { observed } else { reported };
        let stamp = self.timeline.stamp(now.mono);
        let counted_over = self.config.telemetry.report_interval;
        let changes = self.rules.judge(stamp, self.timeline.date(stamp), interval, counted_over, round);
        self.take_changes(now, changes);
    }

    /// Tells what had to wait for the bound on an alarm's events.
    pub(super) fn poll_alarms(&mut self, now: Now) {
        let events = self.rules.poll(now.mono);
        if events.is_empty() {
            return;
        }
        self.tell_alarms(now, events);
        self.show_alarms();
    }

    pub(super) fn reconfigure_rules(&mut self, now: Now) {
        let changes = self.rules.reconfigure(self.config.rules_in_force(), self.timeline.stamp(now.mono));
        self.take_changes(now, changes);
        // Also where no alarm changed: a severity may have.
        self.show_alarms();
    }

    fn take_changes(&mut self, now: Now, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        self.take_remedies(now, &changes);
        self.tell_alarms(now, changes.into_iter().filter_map(|change| change.event).collect());
        self.show_alarms();
    }

    fn tell_alarms(&mut self, now: Now, events: Vec<Event>) {
        let at = self.timeline.stamp(now.mono);
        self.tell_alarm_records(now, events.into_iter().map(|event| Record { at, body: Body::Event(event) }).collect());
    }

    /// State first, then the event, in the store's order: a crash between them leaves a number that the log never came
    /// to, by which the next start knows that the event has to be told again. The other way round a crash would leave
    /// an event without state, and the alarm would be raised twice.
    ///
    /// An alarm that can't be stored is told all the same, and written again with the next report. Where the log
    /// refuses the event, and a later one passes it, and a crash comes before it is tried again, it is lost all the
    /// same: the attributes still name the alarm.
    pub(super) fn tell_alarm_records(&mut self, now: Now, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        for record in records {
            let Body::Event(event) = &record.body else { continue };
            let seq = self.seqs.next();
            let (key, value) = rules::entry(&event.name, seq, &record);
            self.put_alarm(key, value);
            self.outbox.append_ahead(now.mono, seq, Haste::Alarm, &record, &mut self.effects);
        }
        self.outbox.commit(&mut self.effects);
    }

    /// An alarm was written, or could not be.
    pub(super) fn alarm_stored(&mut self, key: String, value: Bytes, stored: bool) {
        if stored {
            self.unsaved_alarms.remove(&key);
        } else {
            self.unsaved_alarms.insert(key, value);
        }
    }

    /// Writes again what could not be written: after a restart an alarm that is not stored would not be cleared.
    pub(super) fn save_alarms(&mut self) {
        for (key, value) in std::mem::take(&mut self.unsaved_alarms) {
            self.put_alarm(key, value);
        }
    }

    /// What detectors have learned outlives the agent.
    pub(super) fn save_learned(&mut self, learned: Vec<Write>) {
        if !learned.is_empty() {
            self.effects.put(Purpose::Note, learned);
        }
    }

    fn put_alarm(&mut self, key: String, value: Bytes) {
        let entry = (key.clone(), Some(value.clone()));
        self.effects.put(Purpose::Alarm { key, value }, vec![entry]);
    }

    fn show_alarms(&mut self) {
        self.attributes.set_alarms(self.rules.raised());
    }
}
