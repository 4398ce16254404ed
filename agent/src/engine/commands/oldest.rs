//! What a full ledger of commands forgets: the agent's, and that of root's helper. Nothing that is forgotten may run
//! again, whatever a clock says later: whatever was issued at the same time, and is valid no longer, is refused from
//! then on unless it is remembered.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Why a command is refused that may have been forgotten.
pub(crate) const MAY_HAVE_RUN: &str =
    "issued before all that is remembered, so that it may have run: send it anew, with a new id";

/// How exactly it is known when what was forgotten was issued. The closest are taken together, so that what is far from
/// all else stays apart.
const SPANS_MAX: usize = 16;

/// When what was forgotten was issued: spans in order, and apart. A single bound would not do: a clock that was a year
/// ahead while something was forgotten would have all refused for a year.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(transparent)]
#[serde(transparent)]
pub(crate) struct Forgotten(#[n(0)] Vec<Span>);

/// All in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
struct Span {
    /// The lowest `iat`,
    #[n(0)]
    from: i64,
    /// the highest,
    #[n(1)]
    to: i64,
    /// and the highest `exp`.
    #[n(2)]
    exp: i64,
}

impl Forgotten {
    /// One is forgotten.
    pub(crate) fn add(&mut self, iat: i64, exp: i64) {
        let place = self.0.partition_point(|known| known.from < iat);
        self.0.insert(place, Span { from: iat, to: iat, exp });
        while let Some(first) = self.closest() {
            let next = self.0.remove(first + 1);
            if let Some(span) = self.0.get_mut(first) {
                (span.to, span.exp) = (span.to.max(next.to), span.exp.max(next.exp));
            }
        }
    }

    /// Whether a command that isn't remembered may be one of them.
    pub(crate) fn covers(&self, iat: i64, exp: i64) -> bool {
        self.0.iter().any(|span| span.from <= iat && iat <= span.to && exp <= span.exp)
    }

    /// The first of the two that are to be one: they touch, or there are too many.
    fn closest(&self) -> Option<usize> {
        let gap = |pair: &[Span]| match pair {
            [span, next] => next.from.saturating_sub(span.to),
            _ => i64::MAX,
        };
        let (gap, first) = self.0.windows(2).zip(0..).map(|(pair, first)| (gap(pair), first)).min()?;
        (gap <= 1 || self.0.len() > SPANS_MAX).then_some(first)
    }
}

/// Of what is remembered (`iat` and id), the oldest of which there are `surplus` too many. A newcomer has to be younger
/// than each of them, or its like would be refused as it is taken; and what a wrong clock dated ahead of the present
/// stays, or nothing would be obeyed until that date.
pub(crate) fn oldest<Id: Ord>(
    remembered: impl Iterator<Item = (i64, Id)>,
    surplus: usize,
    newcomer_s: i64,
    present_s: i64,
) -> Vec<Id> {
    let mut old: Vec<(i64, Id)> = remembered.filter(|(iat, _)| *iat < newcomer_s && *iat <= present_s).collect();
    old.sort_unstable();
    old.truncate(surplus);
    old.into_iter().map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: i64 = 365 * 86_400;

    #[test]
    fn what_was_forgotten_by_a_clock_that_was_ahead_leaves_the_present_open() {
        let mut forgotten = Forgotten::default();
        let now = 1_795_000_000;
        let each_hour = |from: i64| (0..100).map(move |hour| from + hour * 3_600);
        for iat in each_hour(now - 100 * 3_600).chain(each_hour(now + YEAR)) {
            forgotten.add(iat, iat + 600);
        }
        assert_eq!(forgotten.0.len(), SPANS_MAX);
        for iat in each_hour(now - 100 * 3_600).chain(each_hour(now + YEAR)) {
            assert!(forgotten.covers(iat, iat + 600), "{iat}");
        }
        for iat in each_hour(now) {
            assert!(!forgotten.covers(iat, iat + 600), "{iat}");
        }
        assert!(!forgotten.covers(now - 50 * 3_600, now + YEAR * 2), "what is valid for longer is none of them");
    }

    #[test]
    fn what_touches_is_one_and_a_bound_holds() {
        let mut forgotten = Forgotten::default();
        for iat in [7, 5, 6, 6, 9] {
            forgotten.add(iat, 100 + iat);
        }
        assert_eq!(forgotten.0, [Span { from: 5, to: 7, exp: 107 }, Span { from: 9, to: 9, exp: 109 }]);
        forgotten.add(8, 100);
        assert_eq!(forgotten.0, [Span { from: 5, to: 9, exp: 109 }]);
        assert!(forgotten.covers(8, 100) && !forgotten.covers(4, 100) && !forgotten.covers(9, 110));
    }
}
