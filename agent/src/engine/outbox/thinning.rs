//! Thins out what a long outage has piled up, before anything of it has to be given up: of the oldest samples ten are
//! made one, and of the oldest of those one for each hour, so that a month offline leaves a month's picture. One step
//! at a time: Reading a page → Storing what was made of it → Committing it → the samples that it stands for are done
//! with. What was made takes the seq of the last sample in it. What was sent already, and may have arrived, stays as
//! it is under its own seq: made one with others it would be counted twice.
//!
//! A crash within a step leaves both, and the next step begins by recognising what is there already. While the link
//! stands nothing is begun: what is on its way can't be thinned.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::Outbox;
use crate::engine::effects::{Effects, Purpose};
use crate::engine::io::{LogLevel, StoreFault, StoreOp, StoreReply};
use crate::engine::record::{Body, Class, Merged, Record, Sample, Stamp};
use crate::engine::time::Mono;

/// Samples made one in the first pass.
const SAMPLES_MERGED: u64 = 10;
/// What a merged sample spans at most, and in the second pass at least.
const SPAN: Duration = Duration::from_secs(3_600);
/// Samples looked at in one step.
const PAGE_RECORDS_MAX: usize = 256;
/// Bytes of samples looked at in one step.
const PAGE_BYTES_MAX: usize = 256 * 1024;
/// Where thinning begins: the share of the room for the outbox that is taken, in quarters.
const FULL_QUARTERS: u64 = 3;
/// What is thinned, the finest first.
const THINNED: [Class; 2] = [Class::Telemetry, Class::Thinned];

/// What is being thinned.
#[derive(Debug, Default)]
pub(super) struct Thinning {
    step: Option<Step>,
    /// Where there was nothing to be won: not tried again before there is more. From which seq, up to which.
    useless: BTreeMap<Class, (u64, u64)>,
}

#[derive(Debug)]
struct Step {
    from: Class,
    into: Class,
    /// The last seq of what is replaced; none before it was read.
    upto: Option<u64>,
    /// How many records go.
    fewer: u64,
    /// What is yet to be stored of what takes their place.
    queue: VecDeque<(u64, Bytes)>,
}

impl Step {
    /// Up to where it replaces what is there, once that is stored, and being made durable.
    fn commits(&self) -> Option<u64> {
        self.upto.filter(|_| self.queue.is_empty())
    }
}

/// What is to be stored in place of a page.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    records: u64,
    upto: u64,
    /// How many of them stay as they are because they were sent.
    sent: u64,
    merged: VecDeque<(u64, Bytes)>,
}

impl Thinning {
    pub(super) const fn is_busy(&self) -> bool {
        self.step.is_some()
    }

    /// Whether records of this class are being replaced just now.
    pub(super) fn holds(&self, class: Class) -> bool {
        self.step.as_ref().is_some_and(|step| step.from == class)
    }

    /// What was made could not be made durable. The step ends, or nothing could be given up for the room that is
    /// missing; the next one finds what it has stored.
    pub(super) fn commit_failed(&mut self) {
        self.step.take_if(|step| step.commits().is_some());
    }
}

impl Outbox {
    /// Begins a step if it is time for one.
    pub(super) fn thin(&mut self, effects: &mut Effects) {
        if self.evicting || self.rest_until.is_some() || self.thinning.is_busy() {
            return;
        }
        let Some(from) = self.to_thin() else { return };
        let Some(into) = thinned_into(from) else { return };
        self.thinning.step = Some(Step { from, into, upto: None, fewer: 0, queue: VecDeque::new() });
        let first = self.lane(from).next_read;
        let op = StoreOp::Read { class: from, from: first, records_max: PAGE_RECORDS_MAX, bytes_max: PAGE_BYTES_MAX };
        effects.store(Purpose::ThinRead, op);
    }

    /// Whether a crash left samples beside what was made of them: they are not sent before that is mended.
    pub(super) fn is_half_thinned(&self, class: Class) -> bool {
        let Some(into) = thinned_into(class) else { return false };
        let lane = class.of(&self.lanes);
        lane.has_unread() && lane.next_read <= into.of(&self.lanes).made
    }

    /// The oldest samples were read.
    pub fn thin_page(&mut self, now: Mono, result: Result<StoreReply, StoreFault>, effects: &mut Effects) {
        let Some((from, into)) = self.thinning.step.as_ref().map(|step| (step.from, step.into)) else { return };
        let (records, damaged) = match result {
            Ok(StoreReply::Page { records, damaged }) => (records, damaged),
            Ok(_) => return self.thinning.step = None,
            Err(fault) => return self.thinning_failed(now, &fault, effects),
        };
        let first = from.of(&self.lanes).next_read;
        let (committed, stored_upto) = (from.of(&self.lanes).committed, into.of(&self.lanes).made);
        self.losses.lose(from, "corrupt", damaged, first..=records.last().map_or(first, |(seq, _)| *seq));
        let half_thinned = self.is_half_thinned(from);
        let plan = if half_thinned {
            known(&records, stored_upto)
        } else {
            let durable = records.partition_point(|(seq, _)| *seq <= committed);
            plan(from, records.get(..durable).unwrap_or_default(), &from.of(&self.lanes).again)
        };
        let kept = plan.merged.len() as u64;
        if !half_thinned && (kept == 0 || (kept - plan.sent) * 2 > plan.records - plan.sent) {
            self.thinning.useless.insert(from, (first, committed));
            self.thinning.step = None;
            return;
        }
        if let Some(step) = &mut self.thinning.step {
            step.upto = Some(plan.upto);
            step.fewer = plan.records - kept;
            step.queue = plan.merged;
        }
        self.thin_on(effects);
    }

    /// A merged sample was stored, or could not be. In order and one by one: the log takes no older one after it.
    pub fn thin_stored(&mut self, now: Mono, seq: u64, fault: Option<&StoreFault>, effects: &mut Effects) {
        let Some(step) = &mut self.thinning.step else { return };
        if let Some(fault) = fault {
            return self.thinning_failed(now, fault, effects);
        }
        step.queue.pop_front();
        let into = step.into;
        let lane = self.lane(into);
        lane.made = seq;
        lane.appended = seq;
        self.thin_on(effects);
    }

    /// A commit has ended: what is durable takes the place of what it was made of.
    pub(super) fn thin_committed(&mut self, effects: &mut Effects) {
        let Some(step) = &self.thinning.step else { return };
        let Some(upto) = step.commits() else { return };
        let lane = step.into.of(&self.lanes);
        if lane.committed >= lane.appended {
            self.replace(upto, effects);
        }
    }

    /// Stores what comes next, and makes it durable when it is all there.
    fn thin_on(&mut self, effects: &mut Effects) {
        let Some(step) = &mut self.thinning.step else { return };
        let class = step.into;
        if let Some((seq, bytes)) = step.queue.front().cloned() {
            effects.store(Purpose::ThinAppend { seq }, StoreOp::Append { class, seq, bytes });
            return;
        }
        let lane = class.of(&self.lanes);
        if lane.committed < lane.appended {
            return self.commit(effects);
        }
        self.thin_committed(effects);
    }

    fn replace(&mut self, upto: u64, effects: &mut Effects) {
        let Some(step) = self.thinning.step.take() else { return };
        let lane = self.lane(step.from);
        let first = lane.next_read;
        let sent = lane.replaced(upto);
        self.lane(step.into).again.extend(sent);
        if step.fewer == 0 {
            return;
        }
        self.losses.thin(step.fewer, first..=upto);
        let text =
            format!("store: {} {} records of seq {first} to {upto} are thinned out", step.fewer, step.from.word());
        effects.log(LogLevel::Info, text);
    }

    /// Nothing is lost: the next step finds what was stored so far.
    fn thinning_failed(&mut self, now: Mono, fault: &StoreFault, effects: &mut Effects) {
        self.thinning.step = None;
        self.report(fault, effects);
        self.rest_until = Some(now.after(StoreFault::RETRY_AFTER));
    }

    /// Whose oldest records are to be thinned, if any.
    fn to_thin(&self) -> Option<Class> {
        // One that waits for a commit which fails would only be begun and given up in a circle.
        let half =
            |class: &Class| !self.commit_failed && self.is_half_thinned(*class) && class.of(&self.lanes).is_at_rest();
        let half = THINNED.into_iter().find(half);
        if half.is_some() {
            return half;
        }
        let is_full = self.stats.outbox_bytes > self.room() / 4 * FULL_QUARTERS;
        if !is_full || self.online || self.last_fault.is_some() || self.is_short_of_space() {
            return None;
        }
        let segments = |class: Class| *class.of(&self.stats.segments);
        if segments(Class::Hourly) > segments(Class::Thinned) + segments(Class::Telemetry) {
            // Finer ones that are newer are worth more: the oldest hours go when there is no room.
            return None;
        }
        let mut order = THINNED;
        if segments(Class::Thinned) * 2 > segments(Class::Telemetry) {
            order.reverse();
        }
        order.into_iter().find(|class| {
            let lane = class.of(&self.lanes);
            let useless = self.thinning.useless.get(class) == Some(&(lane.next_read, lane.committed));
            // Of a single segment nothing is given back.
            segments(*class) > 1 && lane.is_at_rest() && !useless
        })
    }
}

/// Where the samples of a class go when they are thinned.
const fn thinned_into(class: Class) -> Option<Class> {
    match class {
        Class::Telemetry => Some(Class::Thinned),
        Class::Thinned => Some(Class::Hourly),
        Class::Results | Class::Events | Class::Hourly => None,
    }
}

/// What a crash left beside its replacement: it goes, and nothing takes its place. How many of them the replacement
/// stands for isn't known, so that all are counted: better twice than not at all.
fn known(records: &[(u64, Bytes)], stored_upto: u64) -> Plan {
    let known = records.iter().take_while(|(seq, _)| *seq <= stored_upto);
    Plan { records: known.count() as u64, upto: stored_upto, ..Plan::default() }
}

/// Which of these samples are to be made one, and what comes of them: none of those that were `sent`.
fn plan(from: Class, records: &[(u64, Bytes)], sent: &BTreeSet<u64>) -> Plan {
    let is_full = records.len() >= PAGE_RECORDS_MAX || bytes_of(records) >= PAGE_BYTES_MAX / 2;
    let mut plan = Plan::default();
    let mut open: Option<Open> = None;
    for (seq, bytes) in records {
        let was_sent = sent.contains(seq);
        plan.sent += u64::from(was_sent);
        let (false, Ok(Record { at, body: Body::Sample(sample) })) = (was_sent, Record::decode(bytes)) else {
            // Sent, or of a newer version, which may be able to read it: it stays as it is.
            plan.close(open.take());
            plan.keep(*seq, bytes.clone());
            continue;
        };
        match &mut open {
            Some(group) if group.goes_on_with(at, sample.interval_ms) => group.push(*seq, at, sample),
            _ => plan.close(open.replace(Open { merged: Merged::new(at, sample), seq: *seq, records: 1 })),
        }
        plan.close(open.take_if(|group| group.is_whole(from)));
    }
    // The rest of a group may be on the next page; one that fills a page is as whole as it gets.
    if is_full && plan.records == 0 {
        plan.close(open);
    }
    plan
}

fn bytes_of(records: &[(u64, Bytes)]) -> usize {
    records.iter().map(|(_, bytes)| bytes.len()).sum()
}

/// Samples being made one.
struct Open {
    merged: Merged,
    seq: u64,
    records: u64,
}

impl Open {
    /// Whether a sample follows the others without a gap, as far as its own length tells.
    fn goes_on_with(&self, at: Stamp, interval_ms: u64) -> bool {
        let gap = at.mono.since(self.merged.at.mono);
        at.boot == self.merged.at.boot && gap <= Duration::from_millis(interval_ms.saturating_mul(2))
    }

    fn push(&mut self, seq: u64, at: Stamp, sample: Sample) {
        self.merged.push(at, sample);
        self.seq = seq;
        self.records += 1;
    }

    fn is_whole(&self, from: Class) -> bool {
        let most = if from == Class::Telemetry { SAMPLES_MERGED } else { u64::MAX };
        // An hour, or as near to it as whole samples come.
        let half = self.merged.interval_ms / self.records.max(1) / 2;
        self.records >= most || Duration::from_millis(self.merged.interval_ms + half) >= SPAN
    }
}

impl Plan {
    fn close(&mut self, group: Option<Open>) {
        if let Some(group) = group {
            self.records += group.records - 1;
            self.keep(group.seq, group.merged.finish().encode());
        }
    }

    fn keep(&mut self, seq: u64, bytes: Bytes) {
        self.records += 1;
        self.upto = seq;
        self.merged.push_back((seq, bytes));
    }
}
