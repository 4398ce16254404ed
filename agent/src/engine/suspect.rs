//! The record that a broker hangs up on. A broker that dislikes a publish may just close the connection, and would do
//! so for ever: then nothing behind that record would ever arrive. So when it closes twice over the same record, what
//! was under way with it is sent one record after the other; the one over which it closes again and again, alone, while
//! it answers for others, is set aside. A broker that dies or is cut off proves nothing: it answers for nobody.

use super::link::{Cargo, Unanswered};
use super::record::Class;

/// So often a broker has to close over one record alone before that is set aside.
const STRIKES_MAX: u8 = 3;

/// What is suspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Suspicion {
    class: Class,
    /// The record that was unanswered first.
    record: u64,
    /// Up to here each record is sent alone.
    upto: u64,
    /// It was the first twice: links break over many a record once.
    confirmed: bool,
    strikes: u8,
}

/// Looks for the record that the broker can't stand.
#[derive(Debug, Default)]
pub(super) struct Suspects(Option<Suspicion>);

impl Suspects {
    /// Whether records are to be sent one by one.
    pub(super) fn is_careful(&self) -> bool {
        self.0.is_some_and(|suspicion| suspicion.confirmed)
    }

    /// The broker closed the connection over this. A record to be set aside, if it is certain now.
    pub(super) fn closed_over(&mut self, unanswered: &Unanswered) -> Option<(Class, u64)> {
        let Cargo::Records { class, seqs } = &unanswered.cargo else { return None };
        let (class, record, last) = (*class, *seqs.first()?, *seqs.last()?);
        let proof = unanswered.alone && unanswered.others_answered && seqs.len() == 1;
        let before = self.0.filter(|before| before.class == class);
        let again = before.filter(|before| before.record == record);
        let strikes = again.map_or(0, |before| before.strikes) + u8::from(proof);
        let confirmed = again.is_some() || before.is_some_and(|before| before.confirmed && record <= before.upto);
        let upto = before.filter(|_| confirmed).map_or(last, |before| before.upto.max(last));
        if strikes < STRIKES_MAX {
            self.0 = Some(Suspicion { class, record, upto, confirmed, strikes });
            return None;
        }
        // The others of its message are still sent alone: the next may be like it.
        self.0 = (record < upto).then_some(Suspicion { class, record: record + 1, upto, confirmed, strikes: 0 });
        Some((class, record))
    }

    /// The broker took over a record, which may have `passed` older ones: of those that says nothing.
    pub(super) fn answered(&mut self, class: Class, seq: u64, passed: bool) {
        self.0.take_if(|suspicion| {
            suspicion.class == class && seq >= suspicion.upto && (!passed || seq == suspicion.record)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: Class = Class::Telemetry;

    fn over(seqs: impl IntoIterator<Item = u64>, others_answered: bool) -> Unanswered {
        let seqs: Vec<u64> = seqs.into_iter().collect();
        Unanswered { cargo: Cargo::Records { class: CLASS, seqs }, alone: true, others_answered }
    }

    #[test]
    fn the_one_record_among_many_is_found_and_the_rest_goes_on() {
        let mut suspects = Suspects::default();
        assert_eq!(suspects.closed_over(&over(1..=10, true)), None);
        assert!(!suspects.is_careful(), "it may have been the link");
        assert_eq!(suspects.closed_over(&over(1..=10, true)), None);
        assert!(suspects.is_careful());
        suspects.answered(CLASS, 1, false);
        suspects.answered(CLASS, 2, false);
        assert!(suspects.is_careful(), "3 to 10 haven't been sent alone yet");
        let found: Vec<_> = (0..3).map(|_| suspects.closed_over(&over([3], true))).collect();
        assert_eq!(found, [None, None, Some((CLASS, 3))]);
        assert!(suspects.is_careful());
        suspects.answered(CLASS, 10, false);
        assert!(!suspects.is_careful());
    }

    #[test]
    fn a_broker_that_answers_nobody_proves_nothing_against_a_record() {
        let mut suspects = Suspects::default();
        for _ in 0..20 {
            assert_eq!(suspects.closed_over(&over([3], false)), None);
        }
        suspects.answered(CLASS, 3, false);
        assert!(!suspects.is_careful());
    }

    #[test]
    fn what_went_ahead_clears_itself_and_nothing_older() {
        for (over_it, careful) in [(over(1..=3, true), true), (over([9], true), false)] {
            let mut suspects = Suspects::default();
            suspects.closed_over(&over_it);
            suspects.closed_over(&over_it);
            suspects.answered(CLASS, 9, true);
            assert_eq!(suspects.is_careful(), careful);
        }
    }

    #[test]
    fn another_record_begins_with_a_clean_slate() {
        let mut suspects = Suspects::default();
        assert_eq!(suspects.closed_over(&over([3], true)), None);
        assert_eq!(suspects.closed_over(&over([3], true)), None);
        assert_eq!(suspects.closed_over(&over([4], true)), None);
    }
}
