//! The end of a report interval: what the agent knows of itself joins the readings, the counts are judged, and the
//! sample is stored; what could not be saved before is saved again. Collects nothing, and doesn't decide when an
//! interval ends.

use super::Engine;
use super::metric::{BOUNDS, Metric, Point};
use super::record::Sample;
use super::rules::Round;
use super::time::Now;

/// What is told in the next sample.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) collect_faults: u64,
    pub(super) observe_busy: u64,
    pub(super) publishes: u64,
    pub(super) duplicates: u64,
    pub(super) reconnects: u64,
    pub(super) store_busy: u64,
}

/// Bytes that the store has handed to the disk.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Since it was opened.
    pub(super) total: u64,
    told: u64,
}

impl Engine {
    /// Closes the interval, judges its counts, and stores its sample.
    pub(super) fn report(&mut self, now: Now) {
        let sample = self.close_interval(now);
        self.save_cursor_in_time(now);
        self.judge(now, Round::Reported(&sample));
        let learned = self.rules.learned_due(now.mono);
        self.save_learned(learned);
        self.save_data_use(now, false);
        self.store_sample(now, sample);
    }

    pub(super) fn close_interval(&mut self, now: Now) -> Sample {
        for point in self.agent_points(now) {
            self.vitals.take(point);
        }
        if std::mem::take(&mut self.unsaved) {
            self.cursor.save_again();
            self.outbox.save_dropped_again();
            if !self.told_losses.is_empty() {
                self.save_told_losses(true);
            }
            self.begin_again();
            let saved = self.timeline.save();
            self.save_timeline(&saved);
            self.note_healing_again();
        }
        self.save_alarms();
        self.vitals.report(now.mono)
    }

    /// What the agent knows of itself.
    pub(super) fn agent_points(&mut self, now: Now) -> Vec<Point> {
        let counters = std::mem::take(&mut self.counters);
        let stats = self.outbox.store_stats();
        let mut points = vec![
            Point::new(Metric::AgentVersion, self.identity.version.as_str()),
            Point::new(Metric::AgentOutboxRecords, self.outbox.records()),
            Point::new(Metric::AgentOutboxBytes, stats.outbox_bytes),
            Point::new(Metric::AgentCollectFaults, counters.collect_faults),
            Point::new(Metric::AgentPublishes, counters.publishes),
            Point::new(Metric::AgentDuplicates, counters.duplicates),
            Point::new(Metric::AgentDrainRemaining, self.session.flow.drain_remaining(&self.outbox)),
        ];
        let written = self.written.tell();
        // The kernel counts what reached the disk, overhead of file system pages included: it knows better.
        if self.vitals.last(Metric::AgentStoreWritten).is_none() {
            points.push(Point::new(Metric::AgentStoreWritten, written));
        }
        let left_out = self.battery.take_left_out();
        if left_out > 0 {
            points.push(Point::new(Metric::AgentImplausible, left_out));
        }
        if self.config.collect.errors.enabled {
            points.extend(self.incidents.report());
        }
        if self.config.collect.link.enabled {
            points.extend(self.session.link_points(now.mono, &mut self.link, counters.reconnects));
        }
        for (reason, records) in self.outbox.dropped() {
            points.push(Point::labelled(Metric::AgentDropped, reason, *records));
        }
        for (reason, commands) in self.commands.take_refused() {
            points.push(Point::labelled(Metric::AgentCommandsRefused, reason.word(), commands));
        }
        let refused = [
            self.vitals.take_refused(),
            counters.observe_busy,
            counters.store_busy,
            self.rules.take_untold(),
            self.changes.take_untold(),
        ];
        for (bound, times) in BOUNDS.into_iter().zip(refused) {
            if times > 0 {
                points.push(Point::labelled(Metric::AgentRefused, bound, times));
            }
        }
        points
    }
}

impl Written {
    /// What is not told yet: it is now.
    const fn tell(&mut self) -> u64 {
        let before = std::mem::replace(&mut self.told, self.total);
        self.total.saturating_sub(before)
    }
}
