//! When to sample, report and publish. Ticks stay on their grid, so that intervals don't creep; after a long sleep one
//! tick makes up for all that were missed. Where a round of collection begins as an interval ends, its readings are the
//! interval's last: the report waits for them, for a time.

use std::time::Duration;

use super::command::Intervals;
use super::time::Mono;
use crate::config::{Slowness, Telemetry, human};

/// How long a report waits for a round of collection that is under way, and what is published at its time with it. One
/// that takes longer, because a modem or a disk hangs, is part of the next interval.
const ROUND_AWAITED: Duration = Duration::from_secs(1);

/// When each of the three is due next, and which intervals hold until when.
#[derive(Debug)]
pub(super) struct Pace {
    observe_at: Mono,
    report_at: Mono,
    publish_at: Mono,
    /// When it last reported and published, or began to wait for that.
    reported: Mono,
    published: Mono,
    /// When the round of collection began that is under way.
    observing: Option<Mono>,
    /// What commands have set instead of sample, report and publish, and until when.
    held: [Option<Held>; 3],
    /// Sampled at least so often.
    hasty: Option<Duration>,
    /// Power is short.
    slow: Option<Slowness>,
}

/// An interval that holds instead of the configuration's, and until when.
pub(super) type Held = (Duration, Mono);

/// What is due.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) observe: bool,
    /// The round before is not over yet.
    pub(super) observe_overdue: bool,
    pub(super) report: bool,
    pub(super) publish: bool,
}

impl Pace {
    pub(super) fn new(now: Mono, telemetry: &Telemetry) -> Self {
        Self {
            observe_at: now,
            report_at: now.after(telemetry.report_interval),
            publish_at: now.after(telemetry.publish_interval),
            reported: now,
            published: now,
            observing: None,
            held: [None; 3],
            hasty: None,
            slow: None,
        }
    }

    pub(super) fn poll(&mut self, now: Mono, telemetry: &Telemetry) -> Due {
        let is_over = |held: &Option<Held>| held.is_some_and(|(_, until)| until <= now);
        if self.held.iter().any(is_over) {
            self.held.iter_mut().filter(|held| is_over(held)).for_each(|held| *held = None);
            self.retime(now, telemetry);
        }
        let (sample, report, publish) = self.intervals(telemetry);
        let mut due = Due::default();
        if self.observe_at <= now {
            self.observe_at = next(self.observe_at, now, sample);
            due.observe = self.observing.is_none();
            due.observe_overdue = self.observing.is_some();
            self.observing.get_or_insert(now);
        }
        let (report_from, publish_from) = self.not_before();
        if report_from <= now {
            (self.report_at, self.reported) = (next(self.report_at, now, report), now);
            due.report = true;
        }
        if publish_from <= now {
            (self.publish_at, self.published) = (next(self.publish_at, now, publish), now);
            due.publish = true;
        }
        due
    }

    /// When to report and to publish, as long as the round that is under way goes on.
    fn not_before(&self) -> (Mono, Mono) {
        let Some(since) = self.observing else { return (self.report_at, self.publish_at) };
        let report = self.report_at.max(since.min(self.report_at).after(ROUND_AWAITED));
        // What is published at the time of a report has that report in it.
        let publish = if self.report_at <= self.publish_at { self.publish_at.max(report) } else { self.publish_at };
        (report, publish)
    }

    /// The round of collection is over.
    pub(super) fn observed(&mut self) {
        self.observing = None;
    }

    /// A round of collection is due now, unless one is under way.
    pub(super) fn look_now(&mut self, now: Mono) {
        if self.observing.is_none() {
            self.observe_at = self.observe_at.min(now);
        }
    }

    /// The round that is under way will not end: another one begins. False: there is none.
    pub(super) fn look_again(&mut self, now: Mono) -> bool {
        let was_observing = self.observing.take().is_some();
        if was_observing {
            self.look_now(now);
        }
        was_observing
    }

    /// Other intervals for a while. One that this command doesn't name, and another one did, keeps its own end, unless
    /// it is out of order beside those of this one.
    pub(super) fn override_until(&mut self, now: Mono, intervals: Intervals, telemetry: &Telemetry) {
        let until = now.after(intervals.hold);
        let named = [intervals.sample, intervals.report, intervals.publish];
        for (place, (held, wanted)) in self.held.iter_mut().zip(named).enumerate() {
            let fits = |(interval, _): &Held| {
                let (shorter, longer) = named.split_at(place);
                shorter.iter().flatten().all(|it| it <= interval) && longer.iter().flatten().all(|it| it >= interval)
            };
            *held = wanted.map(|interval| (interval, until)).or(held.filter(fits));
        }
        self.retime(now, telemetry);
    }

    /// All that are in force since a command has set some of them for so long.
    pub(super) fn told(&self, telemetry: &Telemetry, hold: Duration) -> String {
        let (sample, report, publish) = self.intervals(telemetry);
        let [sample, report, publish, hold] = [sample, report, publish, hold].map(human);
        format!("sample {sample}, report {report}, publish {publish}, for {hold}")
    }

    /// The intervals of sample, report and publish that hold instead of the configuration's, each with its end.
    pub(super) const fn held(&self) -> [Option<Held>; 3] {
        self.held
    }

    /// Samples at least so often from now on; `None`: as the config says.
    pub(super) fn hasten(&mut self, now: Mono, sample: Option<Duration>) {
        if self.hasty != sample {
            self.hasty = sample;
            self.observe_at = self.observe_at.min(now);
        }
    }

    /// Samples, reports and publishes at most so often from now on, but for a command's other intervals; `None`: as the
    /// config says.
    pub(super) fn slow_down(&mut self, now: Mono, slow: Option<Slowness>, telemetry: &Telemetry) {
        if self.slow != slow {
            self.slow = slow;
            self.retime(now, telemetry);
        }
    }

    /// The intervals may have changed. What is due comes no later for it, however often they do: a report that was put
    /// off each time would never come.
    pub(super) fn retime(&mut self, now: Mono, telemetry: &Telemetry) {
        let (_, report, publish) = self.intervals(telemetry);
        self.observe_at = now;
        self.report_at = self.report_at.min(self.reported.after(report).max(now));
        self.publish_at = self.publish_at.min(self.published.after(publish).max(now));
    }

    /// Begins the grid anew: the interval was closed.
    pub(super) fn restart(&mut self, now: Mono, telemetry: &Telemetry) {
        let (_, report, publish) = self.intervals(telemetry);
        self.observe_at = now;
        (self.report_at, self.publish_at) = (now.after(report), now.after(publish));
        (self.reported, self.published) = (now, now);
    }

    /// How far apart rounds of collection and reports are at most, whether their intervals are the config's or others
    /// for a while.
    pub(super) fn spacing(&self, telemetry: &Telemetry) -> (Duration, Duration) {
        let (sample, report, _) = self.intervals(telemetry);
        (sample.max(telemetry.sample_interval), report.max(telemetry.report_interval))
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        let untils = self.held.iter().flatten().map(|(_, until)| *until);
        let (report, publish) = self.not_before();
        [self.observe_at, report, publish].into_iter().chain(untils).min()
    }

    /// Of sample, report and publish, as they are in force.
    pub(super) fn intervals(&self, telemetry: &Telemetry) -> (Duration, Duration, Duration) {
        let Telemetry { sample_interval, report_interval, publish_interval, .. } = *telemetry;
        let [sample, report, publish] = self.held.map(|held| held.map(|(interval, _)| interval));
        let others = Intervals { sample, report, publish, hold: Duration::ZERO };
        let is_held = self.held.iter().any(Option::is_some);
        let (sample, report, publish) = match self.slow {
            _ if is_held => others.beside(telemetry),
            Some(slow) => {
                (sample_interval.max(slow.sample), report_interval.max(slow.report), publish_interval.max(slow.publish))
            }
            None => (sample_interval, report_interval, publish_interval),
        };
        (self.hasty.map_or(sample, |hasty| hasty.min(sample)), report, publish)
    }
}

/// The next tick of a grid after `now`.
fn next(at: Mono, now: Mono, interval: Duration) -> Mono {
    let step = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
    let missed = now.0.saturating_sub(at.0) / step;
    Mono(at.0.saturating_add(step.saturating_mul(missed.saturating_add(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Encoding;

    fn telemetry() -> Telemetry {
        Telemetry {
            sample_interval: Duration::from_secs(10),
            report_interval: Duration::from_secs(60),
            publish_interval: Duration::from_secs(120),
            encoding: Encoding::Json,
        }
    }

    #[test]
    fn a_late_wake_keeps_the_grid_and_makes_up_once() {
        let mut pace = Pace::new(Mono(0), &telemetry());
        assert_eq!(pace.poll(Mono(0), &telemetry()), Due { observe: true, ..Due::default() });
        pace.observed();
        let due = pace.poll(Mono(65_000), &telemetry());
        assert_eq!(due, Due { observe: true, report: true, ..Due::default() });
        assert_eq!(pace.deadline(), Some(Mono(70_000)));
    }

    #[test]
    fn a_round_that_hangs_is_counted_and_not_doubled() {
        let mut pace = Pace::new(Mono(0), &telemetry());
        pace.poll(Mono(0), &telemetry());
        let due = pace.poll(Mono(10_000), &telemetry());
        assert_eq!((due.observe, due.observe_overdue), (false, true));
    }

    #[test]
    fn a_report_waits_for_the_round_at_its_end_and_a_publish_for_the_report() {
        let mut pace = Pace::new(Mono(0), &telemetry());
        for tick in 0..12 {
            assert!(pace.poll(Mono(tick * 10_000), &telemetry()).observe);
            pace.observed();
            pace.poll(Mono(tick * 10_000), &telemetry());
        }
        let round = Due { observe: true, ..Due::default() };
        assert_eq!((pace.poll(Mono(120_000), &telemetry()), pace.deadline()), (round, Some(Mono(121_000))));
        assert_eq!(pace.poll(Mono(120_040), &telemetry()), Due::default());
        pace.observed();
        let both = Due { report: true, publish: true, ..Due::default() };
        assert_eq!((pace.deadline(), pace.poll(Mono(120_040), &telemetry())), (Some(Mono(120_000)), both));
        assert_eq!(pace.deadline(), Some(Mono(130_000)), "the grid stays");
    }

    #[test]
    fn a_report_does_not_wait_for_a_round_that_hangs() {
        let mut pace = Pace::new(Mono(0), &telemetry());
        pace.poll(Mono(0), &telemetry());
        let report = Due { observe_overdue: true, report: true, ..Due::default() };
        assert_eq!(pace.poll(Mono(60_000), &telemetry()), report, "it began a minute ago");
        pace.observed();
        pace.poll(Mono(120_000), &telemetry());
        assert_eq!(pace.poll(Mono(121_000), &telemetry()), Due { report: true, publish: true, ..Due::default() });
    }

    #[test]
    fn other_intervals_end_by_themselves() {
        let mut pace = Pace::new(Mono(0), &telemetry());
        pace.poll(Mono(0), &telemetry());
        let second = Some(Duration::from_secs(1));
        let fast = Intervals { sample: second, report: second, publish: second, hold: Duration::from_secs(5) };
        pace.override_until(Mono(0), fast, &telemetry());
        pace.observed();
        pace.poll(Mono(1_000), &telemetry());
        pace.observed();
        assert!(pace.poll(Mono(1_000), &telemetry()).report);
        pace.poll(Mono(5_000), &telemetry());
        pace.observed();
        assert_eq!(pace.deadline(), Some(Mono(15_000)), "back on the config's grid");
    }

    #[test]
    fn no_report_is_put_off_by_other_intervals_however_often_they_come() {
        let secs = |secs| Some(Duration::from_secs(secs));
        let none = Intervals { sample: None, report: None, publish: None, hold: Duration::from_secs(600) };
        for again in [
            Intervals { sample: secs(2), ..none },
            Intervals { report: secs(60), ..none },
            Intervals { report: secs(90), publish: secs(600), ..none },
        ] {
            let mut pace = Pace::new(Mono(0), &telemetry());
            let reports = (0..12).filter(|n| {
                pace.override_until(Mono(n * 20_000), again, &telemetry());
                pace.observed();
                pace.poll(Mono(n * 20_000), &telemetry());
                pace.observed();
                let is_due = pace.poll(Mono(n * 20_000), &telemetry()).report;
                is_due || (pace.reported == Mono(n * 20_000) && *n > 0)
            });
            let at: Vec<u64> = reports.map(|n| n * 20).collect();
            let slow = again.report == secs(90);
            assert_eq!(at, if slow { vec![60, 160] } else { vec![60, 120, 180] }, "{again:?}");
        }
    }

    #[test]
    fn a_shorter_interval_ends_as_long_after_its_beginning() {
        let mut pace = Pace::new(Mono(0), &telemetry());
        let secs = |secs| Some(Duration::from_secs(secs));
        let fast = Intervals { sample: secs(10), report: secs(30), publish: secs(30), hold: Duration::from_secs(600) };
        pace.override_until(Mono(20_000), fast, &telemetry());
        assert_eq!((pace.report_at, pace.publish_at), (Mono(30_000), Mono(30_000)));
        let mut pace = Pace::new(Mono(0), &telemetry());
        pace.override_until(Mono(50_000), fast, &telemetry());
        assert_eq!(pace.report_at, Mono(50_000), "it is over by now");
        pace.poll(Mono(50_000), &telemetry());
        pace.observed();
        let due = pace.poll(Mono(50_000), &telemetry());
        assert!(due.report && due.publish, "{due:?}");
        let faster = Intervals { report: secs(20), publish: secs(20), ..fast };
        pace.override_until(Mono(60_000), faster, &telemetry());
        assert_eq!((pace.report_at, pace.publish_at), (Mono(70_000), Mono(70_000)));
        pace.restart(Mono(65_000), &telemetry());
        pace.override_until(Mono(66_000), faster, &telemetry());
        assert_eq!((pace.report_at, pace.publish_at), (Mono(85_000), Mono(85_000)), "it was closed at 65 s");
    }

    #[test]
    fn no_report_is_put_off_as_other_intervals_end_or_as_power_is_saved_and_no_longer() {
        let secs = Duration::from_secs;
        let mut pace = Pace::new(Mono(0), &telemetry());
        let fast = Intervals { sample: Some(secs(2)), report: None, publish: None, hold: secs(30) };
        pace.override_until(Mono(20_000), fast, &telemetry());
        pace.poll(Mono(50_000), &telemetry());
        assert_eq!((pace.report_at, pace.publish_at), (Mono(60_000), Mono(120_000)));
        let slow = Slowness { sample: secs(60), report: secs(600), publish: secs(600) };
        for (at, slow) in [(52_000, Some(slow)), (54_000, None)] {
            pace.slow_down(Mono(at), slow, &telemetry());
            assert_eq!((pace.report_at, pace.publish_at), (Mono(60_000), Mono(120_000)));
        }
    }

    #[test]
    fn what_a_second_command_does_not_name_keeps_its_own_end_unless_it_is_out_of_order_beside_it() {
        let mut pace = Pace::new(Mono(0), &telemetry());
        let secs = |secs| Some(Duration::from_secs(secs));
        let none = Intervals { sample: None, report: None, publish: None, hold: Duration::from_secs(100) };
        pace.override_until(Mono(0), Intervals { publish: secs(600), ..none }, &telemetry());
        pace.override_until(Mono(50_000), Intervals { sample: secs(2), ..none }, &telemetry());
        let spans = |pace: &Pace| pace.intervals(&telemetry());
        let in_secs = |sample, report, publish| {
            let [sample, report, publish] = [sample, report, publish].map(Duration::from_secs);
            (sample, report, publish)
        };
        assert_eq!(spans(&pace), in_secs(2, 60, 600));
        pace.poll(Mono(100_000), &telemetry());
        assert_eq!(spans(&pace), in_secs(2, 60, 120), "the first has ended");
        pace.poll(Mono(150_000), &telemetry());
        assert_eq!(spans(&pace), in_secs(10, 60, 120));

        pace.override_until(Mono(150_000), Intervals { publish: secs(5), ..none }, &telemetry());
        pace.override_until(Mono(150_000), Intervals { report: secs(30), ..none }, &telemetry());
        assert_eq!(pace.held(), [None, Some((Duration::from_secs(30), Mono(250_000))), None]);
        assert_eq!(spans(&pace), in_secs(10, 30, 120));
    }
}
