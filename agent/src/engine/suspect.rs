//! The record that a broker hangs up on. A broker that dislikes a publish may just close the connection, and would do
//! so for ever: then nothing behind that record would ever arrive. So when it closes twice over the same record, what
//! was under way with it is sent one record after the other; the one over which it closes again and again, alone, while
//! it answers for others, is set aside. A broker that dies or is cut off proves nothing: it answers for nobody.
//!
//! Presence and attributes come first on every connection, so what is proof there is less: they are left out for a
//! while, and tried again.

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
pub(super) struct Suspects {
    record: Option<Suspicion>,
    /// How often the broker has closed over presence alone; `None`: it took it last time, as far as is known.
    presence: Option<u8>,
    /// The same of attributes.
    attributes: Option<u8>,
}

impl Suspects {
    /// Whether messages are to be sent one by one.
    pub(super) fn is_careful(&self) -> bool {
        let retained = [self.presence, self.attributes].into_iter().flatten().any(|strikes| strikes < STRIKES_MAX);
        retained || self.record.is_some_and(|suspicion| suspicion.confirmed)
    }

    /// Whether the broker hangs up over this message, which it is to keep, each time.
    pub(super) fn is_left_out(&self, retained: &Cargo) -> bool {
        self.strikes(retained).is_some_and(|strikes| strikes >= STRIKES_MAX)
    }

    /// The broker closed the connection over a message that it is to keep, if it is one. True if that is left out now.
    pub(super) fn closed_over_retained(&mut self, unanswered: &Unanswered) -> bool {
        let Some(strikes) = self.strikes_mut(&unanswered.cargo) else { return false };
        let before = strikes.unwrap_or(0);
        *strikes = Some(before.saturating_add(u8::from(unanswered.alone)).min(STRIKES_MAX));
        self.is_left_out(&unanswered.cargo)
    }

    /// The broker answered a message that it is to keep.
    pub(super) fn answered_retained(&mut self, retained: &Cargo) {
        if let Some(strikes) = self.strikes_mut(retained) {
            *strikes = None;
        }
    }

    /// The broker said of one that it does not take it. It may have hung up as well, and would each time.
    pub(super) fn refused_retained(&mut self, retained: &Cargo) {
        if let Some(strikes) = self.strikes_mut(retained) {
            *strikes = Some(STRIKES_MAX);
        }
    }

    const fn strikes(&self, retained: &Cargo) -> Option<u8> {
        match retained {
            Cargo::Presence => self.presence,
            Cargo::Attributes => self.attributes,
            Cargo::Records { .. } => None,
        }
    }

    const fn strikes_mut(&mut self, retained: &Cargo) -> Option<&mut Option<u8>> {
        match retained {
            Cargo::Presence => Some(&mut self.presence),
            Cargo::Attributes => Some(&mut self.attributes),
            Cargo::Records { .. } => None,
        }
    }

    /// The broker closed the connection over this. A record to be set aside, if it is certain now.
    pub(super) fn closed_over(&mut self, unanswered: &Unanswered) -> Option<(Class, u64)> {
        let Cargo::Records { class, seqs, .. } = &unanswered.cargo else { return None };
        let (class, record, last) = (*class, *seqs.first()?, *seqs.last()?);
        let proof = unanswered.alone && unanswered.others_answered && seqs.len() == 1;
        let before = self.record.filter(|before| before.class == class);
        let again = before.filter(|before| before.record == record);
        let strikes = again.map_or(0, |before| before.strikes) + u8::from(proof);
        let confirmed = again.is_some() || before.is_some_and(|before| before.confirmed && record <= before.upto);
        let upto = before.filter(|_| confirmed).map_or(last, |before| before.upto.max(last));
        if strikes < STRIKES_MAX {
            self.record = Some(Suspicion { class, record, upto, confirmed, strikes });
            return None;
        }
        // The others of its message are still sent alone: the next may be like it.
        self.record = (record < upto).then_some(Suspicion { class, record: record + 1, upto, confirmed, strikes: 0 });
        Some((class, record))
    }

    /// The broker took over a record, which may have `passed` older ones: of those that says nothing.
    pub(super) fn answered(&mut self, class: Class, seq: u64, passed: bool) {
        self.record.take_if(|suspicion| {
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
        Unanswered { cargo: Cargo::Records { leaf: "telemetry", class: CLASS, seqs }, alone: true, others_answered }
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
