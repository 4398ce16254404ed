//! What goes into the outbox, with its time and its number: events, results, samples, and what the outbox itself gave
//! up; and what goes with a change of other state, which goes before it, as that of alarms does, in `alarms`. Sends
//! nothing.

use std::collections::BTreeMap;

use super::effects::Purpose;
use super::io::{LogRange, Own, Trigger};
use super::keyed::{QUARANTINE_KEY, TELLING_KEY, Write, write};
use super::observation::Severity;
use super::outbox::{Haste, Lost, Untold};
use super::record::{Body, Class, CommandResult, Event, EventKind, Record, Sample, Told};
use super::start::State;
use super::time::Now;
use super::{Engine, quarantine};

/// What was told with a change of the state is told again at so many starts, where the log takes it at none: each of
/// them may have sent it from memory. So is a snapshot taken that the agent does not outlive.
const AGAIN_MAX: u8 = 3;

/// Of a text of what is told with a change of the state: that holds no values of any length, and none that is too long
/// would be written at all.
const TEXT_MAX: usize = 2_048;

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

    /// Changes the state, and tells what goes with that, once each: the state first, in the store's order, as of
    /// alarms. A crash between them leaves numbers that the log never came to. The other way round it would leave what
    /// was told without what it tells of, and the next start would tell another end of it.
    pub(super) fn record_with(&mut self, now: Now, entry: Write, events: Vec<Event>) {
        if events.is_empty() {
            return self.effects.put(Purpose::Note, vec![entry]);
        }
        let at = self.timeline.stamp(now.mono);
        let records = events.into_iter().map(|event| Record { at, body: Body::Event(event.briefly(TEXT_MAX)) });
        let told = records.map(|record| Told { seq: self.seqs.next(), record, again: 0 }).collect();
        let key = format!("{TELLING_KEY}{}", entry.0);
        self.tell_all(now, key, vec![entry], Vec::new(), told);
    }

    /// `kept`: what was told by an earlier run, and stays with that.
    fn tell_all(&mut self, now: Now, key: String, mut entries: Vec<Write>, kept: Vec<Told>, told: Vec<Told>) {
        let all = [kept, told.clone()].concat();
        entries.push(write(&*key, &all));
        self.telling.remove(&key);
        entries.extend(self.forget_told());
        self.telling.insert(key, all.iter().map(|told| (told.record.class(), told.seq)).collect());
        self.effects.put(Purpose::Note, entries);
        for Told { seq, record, .. } in &told {
            self.append_as(now, *seq, record);
        }
        self.outbox.commit(&mut self.effects);
    }

    /// What is told, and needn't stand in the state any longer: to be written with what is written anyway. Of a
    /// quarantine that was entered a snapshot is due, too.
    pub(super) fn forget_told(&mut self) -> Vec<Write> {
        let told = std::mem::take(&mut self.telling);
        let (over, telling): (BTreeMap<_, _>, _) = told.into_iter().partition(|(key, told)| self.is_told(key, told));
        self.telling = telling;
        over.into_keys().map(|key| (key, None)).collect()
    }

    /// The same at once where it is the change of a quarantine, and its snapshot has come to an end: a start after this
    /// takes none.
    pub(super) fn forget_quarantine(&mut self) {
        if self.telling.iter().any(|(key, told)| is_of_quarantine(key) && self.is_told(key, told)) {
            let entries = self.forget_told();
            self.effects.put(Purpose::Note, entries);
        }
    }

    fn is_told(&self, key: &str, told: &[(Class, u64)]) -> bool {
        let owes_snapshot = is_of_quarantine(key) && !self.snapshots.is_empty();
        !owes_snapshot && told.iter().all(|(class, seq)| self.outbox.is_told(*class, *seq))
    }

    /// Tells again what the log never came to when the run before told it, and takes the snapshot of a quarantine that
    /// was entered. What it came to is forgotten, with what can't be read, and what was tried so often already.
    pub(super) fn tell_again(&mut self, now: Now, state: &State<'_>, logs: &[LogRange; Class::COUNT]) {
        let mut done = Vec::new();
        for (key, value) in state.entries.iter().filter(|(key, _)| key.starts_with(TELLING_KEY)) {
            let told = minicbor::decode::<Vec<Told>>(value).unwrap_or_default();
            let (arrived, lost): (Vec<Told>, Vec<Told>) =
                told.into_iter().partition(|told| told.arrived(told.record.class().of(logs).last));
            let is_inside = self.quarantine.level().is_some();
            let owes_snapshot = |told: &Told| is_inside && quarantine::is_entered(&told.record.body);
            let again = |told: Told| (told.again < AGAIN_MAX).then(|| Told { again: told.again + 1, ..told });
            let was_lost = lost.len();
            let kept: Vec<Told> = arrived.into_iter().filter(owes_snapshot).filter_map(again).collect();
            let mut lost: Vec<Told> = lost.into_iter().filter_map(again).collect();
            self.outbox.count_dropped("store_failed", (was_lost - lost.len()) as u64);
            if kept.is_empty() && lost.is_empty() {
                done.push(((*key).to_owned(), None));
                continue;
            }
            lost.iter_mut().for_each(|told| told.seq = self.seqs.next());
            let is_due = kept.iter().chain(&lost).any(owes_snapshot);
            self.tell_all(now, (*key).to_owned(), Vec::new(), kept, lost);
            if is_due {
                let because = format!("{}: late, by the next start of the agent", self.quarantine.by());
                self.take_snapshot(now, Trigger::Own(Own::Quarantine), because);
            }
        }
        if !done.is_empty() {
            self.effects.put(Purpose::Note, done);
        }
    }

    fn append(&mut self, now: Now, body: Body) -> u64 {
        let record = Record { at: self.timeline.stamp(now.mono), body };
        let seq = self.seqs.next();
        self.append_as(now, seq, &record);
        seq
    }

    fn append_as(&mut self, now: Now, seq: u64, record: &Record) {
        self.recent.note(record.at, &record.body);
        if self.link.is_online() && self.session.flow.overtakes(record.class(), &self.outbox) {
            self.outbox.append_ahead(now.mono, seq, Haste::Live, record, &mut self.effects);
        } else {
            self.outbox.append(now.mono, seq, record, &mut self.effects);
        }
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
        let thinned = if online { self.outbox.take_thinned() } else { Untold::new() };
        let lost = self.outbox.take_lost(now.mono, online);
        let event = |((class, reason), lost): ((Class, String), Lost)| {
            Event::new(Severity::Warning, EventKind::Audit, "records_dropped")
                .with("reason", reason.as_str())
                .with("class", class.word())
                .with("records", lost.records)
                .with("first_seq", lost.first)
                .with("last_seq", lost.last)
        };
        let events: Vec<Event> = lost.into_iter().chain(thinned).map(event).collect();
        if !events.is_empty() {
            self.record_with(now, self.untold_entry(), events);
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

fn is_of_quarantine(key: &str) -> bool {
    key.strip_prefix(TELLING_KEY) == Some(QUARANTINE_KEY)
}
