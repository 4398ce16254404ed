//! What goes into the outbox, with its time and its number: events, results, samples, and what the outbox itself gave
//! up. Only alarms have another way, in `alarms`: their state goes before them. Sends nothing.

use std::collections::BTreeMap;

use super::Engine;
use super::observation::Severity;
use super::outbox::{self, Haste, Lost};
use super::record::{Body, Class, CommandResult, Event, EventKind, Record, Sample};
use super::time::Now;

impl Engine {
    /// Puts an event into the outbox.
    pub(super) fn record_event(&mut self, now: Now, event: Event) {
        self.record(now, Body::Event(event));
    }

    fn record(&mut self, now: Now, body: Body) -> u64 {
        let seq = self.append(now, body);
        self.outbox.commit(&mut self.effects);
        seq
    }

    /// Puts events into the outbox, with one commit for all.
    pub(super) fn record_events(&mut self, now: Now, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        for event in events {
            self.append(now, Body::Event(event));
        }
        self.outbox.commit(&mut self.effects);
    }

    fn append(&mut self, now: Now, body: Body) -> u64 {
        let record = Record { at: self.timeline.stamp(now.mono), body };
        self.recent.note(record.at, &record.body);
        let seq = self.seqs.next();
        if self.link.is_online() && self.session.flow.overtakes(record.class(), &self.outbox) {
            self.outbox.append_ahead(now.mono, seq, Haste::Live, &record, &mut self.effects);
        } else {
            self.outbox.append(now.mono, seq, &record, &mut self.effects);
        }
        seq
    }

    /// Puts an answer, or a part of what an act has brought home, into the outbox.
    pub(super) fn record_result(&mut self, now: Now, result: CommandResult) {
        self.record(now, Body::Result(result));
    }

    /// Puts what is remembered of a command into the outbox.
    pub(super) fn record_report(&mut self, now: Now, result: CommandResult) {
        let ended = result.command_id.clone().filter(|_| result.status.is_terminal());
        let seq = self.record(now, Body::Result(result));
        if let Some(id) = ended {
            self.commands.reported_as(&id, seq);
        }
    }

    /// One event for each class and reason of what was given up: the samples of these numbers will not come. What a
    /// long outage thinned out is told when it is over.
    pub(super) fn tell_lost(&mut self, now: Now) {
        let online = self.link.is_online();
        let thinned = online.then(|| self.outbox.take_thinned()).flatten();
        let lost = self.outbox.take_lost(now.mono, online);
        self.record_lost(now, lost, thinned);
    }

    /// The same before the end, if the store takes it.
    pub(super) fn tell_all_lost(&mut self, now: Now) {
        let thinned = self.outbox.take_thinned();
        let lost = self.outbox.take_all_lost(self.link.is_online());
        self.record_lost(now, lost, thinned);
    }

    fn record_lost(&mut self, now: Now, lost: BTreeMap<(Class, &'static str), Lost>, thinned: Option<Lost>) {
        let thinned = thinned.map(|lost| ((Class::Telemetry, outbox::THINNED), lost));
        for ((class, reason), lost) in lost.into_iter().chain(thinned) {
            let event = Event::new(Severity::Warning, EventKind::Audit, "records_dropped")
                .with("reason", reason)
                .with("class", class.word())
                .with("records", lost.records)
                .with("first_seq", lost.first)
                .with("last_seq", lost.last);
            self.record_event(now, event);
        }
    }

    pub(super) fn store_sample(&mut self, now: Now, sample: Sample) {
        let record = Record { at: self.timeline.stamp(now.mono), body: Body::Sample(sample) };
        let seq = self.seqs.next();
        if self.link.is_online() {
            self.outbox.append_live(now.mono, seq, &record, &mut self.effects);
        } else {
            self.outbox.append(now.mono, seq, &record, &mut self.effects);
        }
        self.last_sample = Some((seq, record));
    }
}
