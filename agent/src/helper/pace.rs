//! How fast the helper is asked, and how much it says of what it refused. Pure: time comes in by argument.

use std::collections::BTreeMap;
use std::time::Duration;

use super::protocol::Refusal;
use crate::bucket::Bucket;
use crate::engine::io::Ending;
use crate::engine::time::Mono;

/// Requests that may come at once, and after how long then the next one.
const BURST: u32 = 40;
const REFILL: Duration = Duration::from_millis(100);
/// Strangers who are told apart at a time, by their uids.
const STRANGERS_MAX: usize = 64;
/// Refusals of one reason that are told to the log within [`LINES_WINDOW`].
const LINES_MAX: u32 = 10;
const LINES_WINDOW: Duration = Duration::from_secs(60);

/// What lets so many requests through.
pub(super) const fn requests() -> Bucket {
    Bucket::new(BURST, REFILL)
}

/// What is said to who asks more often.
pub(super) fn too_often() -> Refusal {
    Refusal::new(Ending::RateLimited, "more than 40 requests at once, or 10 a second")
}

/// What those may ask whom the policy didn't name when it was read last, each for themselves: one who asks without an
/// end keeps nobody out whom it names by now.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<u32, Bucket>);

impl Strangers {
    /// Whether this one may ask now. Of more than are told apart nobody new may, until one of them has long been
    /// silent.
    pub(super) fn take(&mut self, uid: u32, now: Mono) -> bool {
        self.0.retain(|_, bucket| !bucket.is_full(now));
        let is_known = self.0.contains_key(&uid);
        (is_known || self.0.len() < STRANGERS_MAX) && self.0.entry(uid).or_insert_with(requests).take(now)
    }
}

/// Lines of the log, by their reasons, which are a few fixed words.
#[derive(Debug, Default)]
pub(super) struct Lines(BTreeMap<&'static str, Window>);

#[derive(Debug, Default)]
struct Window {
    since: Mono,
    count: u32,
}

/// Whether to tell it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Yes, and that so many before were not told.
    Yes {
        /// Not told.
        left_out: u32,
    },
    /// No: there were enough of this reason.
    No,
}

impl Lines {
    /// Counts one of this reason. A flood of one reason doesn't hide another.
    pub(super) fn tell(&mut self, reason: &'static str, now: Mono) -> Told {
        let window = self.0.entry(reason).or_default();
        let mut left_out = 0;
        if window.count == 0 || now.since(window.since) >= LINES_WINDOW {
            left_out = window.count.saturating_sub(LINES_MAX);
            *window = Window { since: now, count: 0 };
        }
        window.count = window.count.saturating_add(1);
        if window.count <= LINES_MAX { Told::Yes { left_out } } else { Told::No }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_ten_a_second() {
        let mut bucket = requests();
        let passed = |bucket: &mut Bucket, ms| (0..1000).filter(|_| bucket.take(Mono(ms))).count();
        assert_eq!(passed(&mut bucket, 50_000), 40);
        assert_eq!(passed(&mut bucket, 51_000), 10);
        assert_eq!(passed(&mut bucket, 500_000), 40);
    }

    #[test]
    fn a_stranger_who_asks_without_an_end_keeps_no_other_out_and_as_many_as_are_told_apart_do_for_a_while() {
        let mut strangers = Strangers::default();
        assert_eq!((0..1000).filter(|_| strangers.take(7, Mono(50_000))).count(), 40);
        assert!(strangers.take(8, Mono(50_000)), "another one");
        let passed = (100..1100).filter(|uid| strangers.take(*uid, Mono(50_000))).count();
        assert_eq!((passed, strangers.0.len()), (STRANGERS_MAX - 2, STRANGERS_MAX));
        assert!(strangers.take(9, Mono(50_100)), "those who asked once are forgotten");
        assert!(strangers.0.len() < STRANGERS_MAX, "{}", strangers.0.len());
    }

    #[test]
    fn a_flood_of_one_reason_is_cut_short_counted_and_hides_no_other() {
        let mut lines = Lines::default();
        let told = (0..1000).filter(|_| lines.tell("replayed", Mono(5)) == Told::Yes { left_out: 0 }).count();
        assert_eq!(told, 10);
        assert_eq!(lines.tell("expired", Mono(6)), Told::Yes { left_out: 0 });
        assert_eq!(lines.tell("replayed", Mono(60_005)), Told::Yes { left_out: 990 });
    }
}
