//! How much data each interface with a budget has used in this calendar month (UTC), over restarts and reboots; told
//! once when most of the budget is gone, and once when all of it is; a budget that is raised is told of at its own
//! marks. Only counts and tells: what is to be done about it is a rule's. Bounded by the configuration. A crash costs
//! nothing, since the kernel's counters go on; a power cut costs what was counted since it was last written.

use std::collections::BTreeMap;
use std::time::Duration;

use minicbor::{Decode, Encode};

use super::keyed::{DATA_KEY, Write, write};
use super::metric::{Metric, Point, Value};
use super::observation::Severity;
use super::record::{Event, EventKind};
use super::time::{BootId, Mono, Now};
use crate::wire::date::rfc3339;

/// How often it is written: what a power cut costs of it, against the wear of the flash.
const SAVED_EVERY: Duration = Duration::from_secs(3_600);
/// A counter beyond this, 1 PiB since it began, is a driver's mistake: believed once, it would be all of the month's
/// count.
const COUNTER_MAX: u64 = 1 << 50;
/// Interfaces whose budget was taken away, and whose count of the month is kept for when it comes back.
const WITHOUT_BUDGET_MAX: usize = 32;
/// Of the budget, in percent; each is told once a month, unless another budget is behind it again.
const MARKS: [(f64, Severity); 2] = [(80.0, Severity::Warning), (100.0, Severity::Error)];

/// What was counted.
#[derive(Debug)]
pub(super) struct DataUse {
    stored: Stored,
    boot: BootId,
    saved: Mono,
    changed: bool,
    /// What must not wait for [`SAVED_EVERY`]: where counting began, and which marks were told.
    urgent: bool,
}

#[derive(Debug, Default, Encode, Decode)]
pub(super) struct Stored {
    /// Such as `2026-11`; none before the clock could be trusted.
    #[n(0)]
    month: Option<String>,
    #[n(1)]
    interfaces: BTreeMap<String, Used>,
    /// The month that was left for this one.
    #[n(2)]
    left: Option<String>,
}

#[derive(Debug, Clone, Default, Encode, Decode)]
struct Used {
    #[n(0)]
    bytes: u64,
    /// Of [`MARKS`], how many the budget is known to have passed.
    #[n(1)]
    told: u32,
    /// The kernel's counters when they were last read, and in which boot that was.
    #[n(2)]
    counters: Option<(BootId, u64, u64)>,
    /// `bytes` and `told` of the month that was left.
    #[n(3)]
    #[cbor(default)]
    left: (u64, u32),
}

/// What a round came to.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) points: Vec<Point>,
    pub(super) events: Vec<Event>,
}

impl DataUse {
    /// Goes on with what was counted before.
    pub(super) fn new(now: Mono, boot: BootId, stored: Option<Stored>) -> Self {
        Self { stored: stored.unwrap_or_default(), boot, saved: now, changed: false, urgent: false }
    }

    /// Counts what grew since the last round, for the interfaces that have a budget. What one without has used in this
    /// month is kept: a reload may have left it out by mistake.
    pub(super) fn look(&mut self, now: Now, budgets: &BTreeMap<String, u64>, points: &[Point]) -> Counted {
        let mut counted = Counted::default();
        if budgets.is_empty() && self.stored.interfaces.is_empty() {
            return counted;
        }
        self.turn_month(now, budgets);
        let mut without = 0;
        self.stored.interfaces.retain(|interface, _| {
            let has_budget = budgets.contains_key(interface);
            without += usize::from(!has_budget);
            has_budget || without <= WITHOUT_BUDGET_MAX
        });
        for (interface, budget) in budgets {
            let read = |metric| match labelled(points, metric, interface) {
                Some(Value::Count(count)) => Some(*count).filter(|count| *count <= COUNTER_MAX),
                _ => None,
            };
            let used = self.stored.interfaces.entry(interface.clone()).or_default();
            if let (Some(rx), Some(tx)) = (read(Metric::InterfaceRxBytes), read(Metric::InterfaceTxBytes)) {
                // A crash before it is written would take the next reading for the first.
                self.urgent |= used.counters.is_none();
                let growth = used.growth(self.boot, rx, tx);
                used.bytes = used.bytes.saturating_add(growth);
                self.changed |= growth > 0;
            }
            let percent = percent(used.bytes, *budget);
            counted.points.push(Point::labelled(Metric::InterfaceMonthBytes, interface, used.bytes));
            counted.points.push(Point::labelled(Metric::InterfaceBudgetUsed, interface, percent));
            counted.events.extend(used.mark(interface, *budget, percent));
        }
        self.urgent |= !counted.events.is_empty();
        counted
    }

    /// What is to be written, if it is time to; at a stop it is.
    pub(super) fn save(&mut self, now: Mono, stopping: bool) -> Option<Write> {
        let is_due = self.changed && (stopping || now.since(self.saved) >= SAVED_EVERY);
        if !is_due && !self.urgent {
            return None;
        }
        (self.saved, self.changed, self.urgent) = (now, false, false);
        Some(write(DATA_KEY, &self.stored))
    }

    /// Another month begins anew, and the one that was left goes on where it was: a clock that was wrong for a while
    /// costs no more than what was used meanwhile. Without a clock this one goes on. What has no budget by then is
    /// forgotten.
    fn turn_month(&mut self, now: Now, budgets: &BTreeMap<String, u64>) {
        let date = if now.wall.trusted { rfc3339(now.wall.unix) } else { None };
        let Some(month) = date.and_then(|date| Some(date.get(..7)?.to_owned())) else { return };
        if self.stored.month.as_ref() == Some(&month) {
            return;
        }
        let is_back = self.stored.left.as_ref() == Some(&month);
        if let Some(left) = self.stored.month.replace(month) {
            self.stored.interfaces.retain(|interface, _| budgets.contains_key(interface));
            for used in self.stored.interfaces.values_mut() {
                let before = std::mem::replace(&mut used.left, (used.bytes, used.told));
                (used.bytes, used.told) = if is_back { before } else { (0, 0) };
            }
            self.stored.left = Some(left);
        }
        self.changed = true;
    }
}

impl Used {
    /// Since the last reading. What an interface has at the first reading of a boot went over it in that boot, but for
    /// the very first: that may be from before anybody counted.
    fn growth(&mut self, boot: BootId, rx: u64, tx: u64) -> u64 {
        let (rx_before, tx_before) = match self.counters.replace((boot, rx, tx)) {
            None => (rx, tx),
            Some((known, rx_before, tx_before)) if known == boot => (rx_before, tx_before),
            Some(_) => (0, 0),
        };
        // One that fell was restarted from zero: the interface was made anew.
        let since = |before: u64, count: u64| count.checked_sub(before).unwrap_or(count);
        since(rx_before, rx).saturating_add(since(tx_before, tx))
    }

    /// The mark that was passed, the last of several. The count doesn't fall within a month: fewer marks than were told
    /// are of a budget that was raised.
    fn mark(&mut self, interface: &str, budget: u64, percent: f64) -> Option<Event> {
        let passed = MARKS.iter().filter(|(mark, _)| percent >= *mark).count();
        let told = u32::try_from(passed).unwrap_or(u32::MAX);
        if std::mem::replace(&mut self.told, told) == told {
            return None;
        }
        let (_, severity) = *MARKS.get(passed.checked_sub(1)?)?;
        let event = Event::new(severity, EventKind::Lifecycle, "data_budget").group("link");
        Some(
            event
                .with("interface", interface)
                .with("month_bytes", self.bytes)
                .with("budget_bytes", budget)
                .with("budget_used_pct", percent),
        )
    }
}

fn labelled<'a>(points: &'a [Point], metric: Metric, label: &str) -> Option<&'a Value> {
    let point = points.iter().find(|point| point.metric == metric && point.label.as_deref() == Some(label));
    point.map(|point| &point.value)
}

/// To a tenth. A budget of nothing is gone with the first byte.
#[expect(clippy::cast_precision_loss, reason = "precise to 8 PiB")]
fn percent(used: u64, budget: u64) -> f64 {
    (used as f64 / budget.max(1) as f64 * 1_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::time::{Unix, Wall};

    const NOVEMBER: i64 = 1_793_491_200_000;
    const DAY_MS: i64 = 86_400_000;

    fn at(unix: i64, trusted: bool) -> Now {
        Now { mono: Mono(1), wall: Wall { unix: Unix(unix), trusted } }
    }

    fn boot(n: u8) -> BootId {
        BootId([n; 16])
    }

    fn budgets() -> BTreeMap<String, u64> {
        [("wwan0".to_owned(), 1_000)].into()
    }

    fn counters(rx: u64, tx: u64) -> Vec<Point> {
        vec![
            Point::labelled(Metric::InterfaceRxBytes, "wwan0", rx),
            Point::labelled(Metric::InterfaceTxBytes, "wwan0", tx),
            Point::labelled(Metric::InterfaceRxBytes, "eth0", 1_000_000_u64),
        ]
    }

    fn used(counted: &Counted) -> u64 {
        match labelled(&counted.points, Metric::InterfaceMonthBytes, "wwan0") {
            Some(Value::Count(bytes)) => *bytes,
            other => panic!("{other:?}"),
        }
    }

    fn restarted(data: &mut DataUse, boot: BootId) -> DataUse {
        let (_, value) = data.save(Mono(2), true).unwrap();
        DataUse::new(Mono(0), boot, minicbor::decode(&value.unwrap()).ok())
    }

    #[test]
    fn growth_is_counted_over_restarts_and_reboots_and_not_what_was_before() {
        let mut data = DataUse::new(Mono(0), boot(1), None);
        let now = at(NOVEMBER, true);
        assert_eq!(used(&data.look(now, &budgets(), &counters(70_000, 5_000))), 0, "nobody had counted yet");
        assert_eq!(used(&data.look(now, &budgets(), &counters(70_100, 5_050))), 150);
        let mut data = restarted(&mut data, boot(1));
        assert_eq!(used(&data.look(now, &budgets(), &counters(70_200, 5_050))), 250, "also what went on meanwhile");
        let mut data = restarted(&mut data, boot(2));
        assert_eq!(used(&data.look(now, &budgets(), &counters(40, 10))), 300, "a boot counts from zero");
        assert_eq!(used(&data.look(now, &budgets(), &counters(5, 0))), 305, "an interface that was made anew, too");
        assert_eq!(used(&data.look(now, &budgets(), &[])), 305, "a round without the reading");
    }

    #[test]
    fn each_mark_is_told_once_a_month_and_a_new_month_begins_at_zero() {
        let mut data = DataUse::new(Mono(0), boot(1), None);
        let mut told = |unix: i64, trusted: bool, rx: u64| {
            let counted = data.look(at(unix, trusted), &budgets(), &counters(rx, 0));
            let events: Vec<Severity> = counted.events.iter().map(|event| event.severity).collect();
            (used(&counted), events)
        };
        assert_eq!(told(NOVEMBER, true, 0), (0, vec![]));
        assert_eq!(told(NOVEMBER, true, 799), (799, vec![]));
        assert_eq!(told(NOVEMBER, true, 800), (800, vec![Severity::Warning]));
        assert_eq!(told(NOVEMBER, true, 900), (900, vec![]));
        assert_eq!(told(NOVEMBER, true, 1_200), (1_200, vec![Severity::Error]));
        assert_eq!(told(0, false, 1_300), (1_300, vec![]), "a clock in 1970 turns no month");
        assert_eq!(told(NOVEMBER + 30 * DAY_MS, true, 1_400), (100, vec![]));
        assert_eq!(told(NOVEMBER + 30 * DAY_MS, true, 2_400), (1_100, vec![Severity::Error]), "one for both marks");
    }

    #[test]
    fn what_no_counter_can_come_to_is_passed_over() {
        let mut data = DataUse::new(Mono(0), boot(1), None);
        let now = at(NOVEMBER, true);
        for (rx, expected) in [(u64::MAX, 0), (70_000, 0), (70_100, 100), (u64::MAX, 100), (70_200, 200)] {
            let counted = data.look(now, &budgets(), &counters(rx, 0));
            assert_eq!((used(&counted), counted.events.len()), (expected, 0), "{rx}");
        }
        let mut data = restarted(&mut data, boot(2));
        assert_eq!(used(&data.look(now, &budgets(), &counters(0, u64::MAX - 7))), 200, "nor after a boot");
        assert_eq!(used(&data.look(now, &budgets(), &counters(10, 10))), 220);
    }

    #[test]
    fn a_clock_that_was_in_another_month_for_a_while_costs_this_one_nothing_else() {
        const DECEMBER: i64 = NOVEMBER + 30 * DAY_MS;
        let mut data = DataUse::new(Mono(0), boot(1), None);
        let mut rx = 0;
        let mut told = |data: &mut DataUse, unix: i64| {
            rx += 100;
            let counted = data.look(at(unix, true), &budgets(), &counters(rx, 0));
            (used(&counted), counted.events.len())
        };
        let mut last = (0, 0);
        for _ in 0..9 {
            last = told(&mut data, NOVEMBER);
        }
        assert_eq!(last, (800, 1));
        assert_eq!(told(&mut data, DECEMBER), (100, 0));
        let mut data = restarted(&mut data, boot(1));
        assert_eq!(told(&mut data, NOVEMBER), (900, 0), "where it was, and not told again");
        assert_eq!(told(&mut data, DECEMBER), (200, 0), "and so is the other one");
        assert_eq!(told(&mut data, DECEMBER + 40 * DAY_MS), (100, 0));
        assert_eq!(told(&mut data, DECEMBER + 400 * DAY_MS), (100, 0));
    }

    #[test]
    fn it_is_written_hourly_at_most_and_only_what_is_new() {
        let mut data = DataUse::new(Mono(0), boot(1), None);
        data.look(at(NOVEMBER, true), &budgets(), &counters(1, 1));
        assert!(data.save(Mono(1), false).is_some(), "where counting began");
        data.look(at(NOVEMBER, true), &budgets(), &counters(2, 1));
        assert_eq!(data.save(Mono(3_600_000), false), None);
        assert!(data.save(Mono(3_600_001), false).is_some());
        data.look(at(NOVEMBER, true), &budgets(), &counters(2, 1));
        assert_eq!(data.save(Mono(9_000_000), true), None, "nothing was used");
        data.look(at(NOVEMBER, true), &budgets(), &counters(900, 1));
        assert!(data.save(Mono(3_600_002), false).is_some(), "what was told is not told again after a crash");
        data.look(at(NOVEMBER, true), &budgets(), &counters(901, 1));
        assert_eq!(data.save(Mono(3_600_003), false), None);
    }

    #[test]
    fn a_budget_that_is_raised_is_told_of_at_its_own_marks() {
        const NONE: [Severity; 0] = [];
        let mut data = DataUse::new(Mono(0), boot(1), None);
        let told = |data: &mut DataUse, rx: u64, budget: u64| {
            let counted = data.look(at(NOVEMBER, true), &[("wwan0".to_owned(), budget)].into(), &counters(rx, 0));
            counted.events.iter().map(|event| event.severity).collect::<Vec<_>>()
        };
        assert_eq!(told(&mut data, 0, 1_000), NONE);
        assert_eq!(told(&mut data, 900, 1_000), [Severity::Warning]);
        assert_eq!(told(&mut data, 900, 1_100), NONE, "the same mark of a budget that is little more");
        assert_eq!(told(&mut data, 1_100, 1_000), [Severity::Error]);
        let mut data = restarted(&mut data, boot(1));
        assert_eq!(told(&mut data, 1_100, 4_000), NONE);
        assert_eq!(told(&mut data, 3_200, 4_000), [Severity::Warning]);
        let mut data = restarted(&mut data, boot(1));
        assert_eq!(told(&mut data, 3_200, 4_000), NONE, "once");
        assert_eq!(told(&mut data, 4_000, 4_000), [Severity::Error]);
        assert_eq!(told(&mut data, 4_000, 4_500), [Severity::Warning], "it is not gone any more, but most of it is");
        assert_eq!(told(&mut data, 4_000, 4_500), NONE);
        assert_eq!(told(&mut data, 4_000, 2_000), [Severity::Error], "a budget that is lowered");
    }

    #[test]
    fn an_interface_without_a_budget_for_a_while_goes_on_in_the_same_month_and_is_forgotten_with_it() {
        let mut data = DataUse::new(Mono(0), boot(1), None);
        let none = BTreeMap::new();
        let other = BTreeMap::from([("eth0".to_owned(), 1_000)]);
        let now = at(NOVEMBER, true);
        data.look(now, &budgets(), &counters(0, 0));
        assert_eq!(used(&data.look(now, &budgets(), &counters(100, 0))), 100);
        assert!(data.look(now, &none, &counters(200, 0)).points.is_empty(), "no budget, nothing to tell");
        data.look(now, &other, &counters(300, 0));
        let mut data = restarted(&mut data, boot(1));
        assert_eq!(used(&data.look(now, &budgets(), &counters(400, 0))), 400, "where it was, and what came meanwhile");
        for budgets in [&none, &other] {
            data.look(at(NOVEMBER + 30 * DAY_MS, true), budgets, &counters(500, 0));
            assert!(!data.stored.interfaces.contains_key("wwan0"), "of another month");
        }
    }

    #[test]
    fn what_is_kept_of_interfaces_without_a_budget_is_bounded() {
        let mut data = DataUse::new(Mono(0), boot(1), None);
        for nth in 0..100 {
            data.look(at(NOVEMBER, true), &[(format!("ppp{nth}"), 1)].into(), &[]);
        }
        data.look(at(NOVEMBER, true), &BTreeMap::new(), &[]);
        assert_eq!(data.stored.interfaces.len(), WITHOUT_BUDGET_MAX);
    }
}
