//! Notices what changes between two rounds and is news in itself: external power that goes and comes back, and the
//! default route that moves to another interface. What is missing from a round is no change. Bounded: so many events of
//! a kind an hour, the rest is counted.

use std::time::Duration;

use super::metric::{Metric, Point, Value, find};
use super::observation::Severity;
use super::record::{Event, EventKind};
use super::time::Mono;

/// A loose plug or a flapping link must not fill the store.
const EVENTS_AN_HOUR: u32 = 12;
const HOUR: Duration = Duration::from_secs(3_600);
/// What stands for an interface where there is no default route.
const NO_ROUTE: &str = "none";

/// What the last rounds said.
#[derive(Debug, Default)]
pub(super) struct Changes {
    external: Watched<bool>,
    route: Watched<Box<str>>,
    untold: u64,
    is_up: Option<bool>,
    /// The link was up at some time of the present connection.
    was_up: bool,
}

/// The last value, and when which number of its changes was told.
#[derive(Debug)]
struct Watched<T> {
    last: Option<T>,
    hour: Option<(Mono, u32)>,
}

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Self { last: None, hour: None }
    }
}

impl<T: PartialEq> Watched<T> {
    /// The value before, where this one is another.
    fn change(&mut self, value: T) -> Option<T> {
        if self.last.as_ref() == Some(&value) {
            return None;
        }
        self.last.replace(value)
    }

    /// Whether one more may be told.
    fn may_tell(&mut self, now: Mono) -> bool {
        let (since, told) = self.hour.filter(|(since, _)| now.since(*since) < HOUR).unwrap_or((now, 0));
        self.hour = Some((since, told.saturating_add(1)));
        told < EVENTS_AN_HOUR
    }
}

impl Changes {
    /// What is to be told of a round.
    pub(super) fn look(&mut self, now: Mono, points: &[Point]) -> Vec<Event> {
        if let Some(up) = find(points, Metric::LinkUp).and_then(Value::flag) {
            self.is_up = Some(up);
            self.was_up |= up;
        }
        let events = [self.power(now, points), self.route(now, points)];
        events.into_iter().flatten().collect()
    }

    /// A connection to the broker begins.
    pub(super) fn connected(&mut self) {
        self.was_up = self.is_up == Some(true);
    }

    /// Whether the link was up since the connection began, and is down now: without a default route from the beginning
    /// it goes another way.
    pub(super) fn is_link_lost(&self) -> bool {
        self.was_up && self.is_up == Some(false)
    }

    /// Changes that were not told since it was last asked.
    pub(super) fn take_untold(&mut self) -> u64 {
        std::mem::take(&mut self.untold)
    }

    fn power(&mut self, now: Mono, points: &[Point]) -> Option<Event> {
        let external = find(points, Metric::BatteryExternalPower)?.flag()?;
        self.external.change(external)?;
        if !self.external.may_tell(now) {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        let (severity, name) = if external {
            (Severity::Notice, "external_power_back")
        } else {
            (Severity::Warning, "external_power_lost")
        };
        let charge = find(points, Metric::BatteryChargePct).and_then(Value::number);
        Some(Event::new(severity, EventKind::Lifecycle, name).group("battery").with_some("charge_pct", charge))
    }

    fn route(&mut self, now: Mono, points: &[Point]) -> Option<Event> {
        let text = |metric| find(points, metric).and_then(Value::text);
        let kind = text(Metric::LinkType);
        let interface = match text(Metric::LinkInterface) {
            Some(interface) => interface,
            None if kind == Some(NO_ROUTE) => NO_ROUTE,
            None => return None,
        };
        let before = self.route.change(interface.into())?;
        if !self.route.may_tell(now) {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        let severity = if interface == NO_ROUTE { Severity::Warning } else { Severity::Notice };
        let event = Event::new(severity, EventKind::Lifecycle, "route_changed").group("link");
        Some(event.with("from", &*before).with("interface", interface).with_some("type", kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn power(external: bool) -> Vec<Point> {
        vec![Point::new(Metric::BatteryExternalPower, external), Point::new(Metric::BatteryChargePct, 64.0)]
    }

    fn route(interface: &str) -> Vec<Point> {
        vec![Point::new(Metric::LinkInterface, interface), Point::new(Metric::LinkType, "ethernet")]
    }

    fn names(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| &*event.name).collect()
    }

    #[test]
    fn external_power_is_told_when_it_goes_and_when_it_is_back_and_not_at_the_first_look() {
        let mut changes = Changes::default();
        assert_eq!(changes.look(Mono(0), &power(true)), []);
        assert_eq!(changes.look(Mono(1), &power(true)), []);
        let lost = changes.look(Mono(2), &power(false));
        assert_eq!((names(&lost), lost[0].severity), (vec!["external_power_lost"], Severity::Warning));
        assert_eq!(lost[0].fields, [("charge_pct".into(), 64.0.into())]);
        assert_eq!(changes.look(Mono(3), &[]), [], "a round without the reading is no change");
        assert_eq!(names(&changes.look(Mono(4), &power(true))), ["external_power_back"]);
    }

    #[test]
    fn a_default_route_that_moves_or_goes_is_told_with_where_it_came_from() {
        let mut changes = Changes::default();
        assert_eq!(changes.look(Mono(0), &route("eth0")), []);
        let moved = changes.look(Mono(1), &route("wwan0"));
        assert_eq!(names(&moved), ["route_changed"]);
        let fields = [("from", "eth0"), ("interface", "wwan0"), ("type", "ethernet")];
        assert_eq!(moved[0].fields, fields.map(|(key, text)| (key.into(), text.into())));
        assert_eq!(changes.look(Mono(2), &[Point::new(Metric::LinkUp, true)]), [], "the tables could not be read");
        let gone = changes.look(Mono(3), &[Point::new(Metric::LinkType, "none")]);
        assert_eq!((names(&gone), gone[0].severity), (vec!["route_changed"], Severity::Warning));
    }

    #[test]
    fn a_loose_plug_makes_so_many_events_an_hour_and_the_rest_is_counted() {
        let mut changes = Changes::default();
        changes.look(Mono(0), &power(true));
        let told: usize = (1..=100_u64).map(|n| changes.look(Mono(n * 1_000), &power(n % 2 == 0)).len()).sum();
        assert_eq!((told, changes.take_untold()), (12, 88));
        assert_eq!(changes.look(Mono(4_000_000), &power(false)).len(), 1, "the next hour has events of its own");
    }
}
