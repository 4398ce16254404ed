//! The promises, checked from outside while a world runs: each checker sees what passes the engine's boundary, what the
//! disk holds and what the broker got, and knows the truth that the agent can't know. None of them looks into the
//! engine, but for the sizes of its queues. A checker only notes what is broken; it changes nothing.

mod acts;
mod commands;
mod dates;
mod limits;
mod message;
mod records;
mod retries;

pub(super) use acts::{Acts, Moment as ActMoment, NOT_THERE};
pub(super) use commands::Commands;
pub(super) use dates::{Dates, Truth};
pub(super) use limits::Limits;
pub(super) use message::{Message, json};
pub(super) use records::Records;
pub(super) use retries::Retries;

use super::report::{Broken, NotJudged, Promise};

/// Of one promise so many breaches are told: the first is what matters.
const BROKEN_MAX: usize = 3;

/// What was found broken.
#[derive(Debug, Default)]
pub(super) struct Findings {
    broken: Vec<Broken>,
    not_judged: Vec<NotJudged>,
}

impl Findings {
    /// Notes a breach.
    pub(super) fn note(&mut self, promise: Promise, at_ms: u64, what: String) {
        let told = self.broken.iter().filter(|broken| broken.promise == promise).count();
        if told < BROKEN_MAX {
            self.broken.push(Broken { promise, at_ms, what });
        }
    }

    /// Notes that a promise can't be judged.
    pub(super) fn leave_open(&mut self, promise: Promise, why: String) {
        if self.not_judged.iter().all(|open| open.promise != promise) {
            self.not_judged.push(NotJudged { promise, why });
        }
    }

    pub(super) fn into_parts(self) -> (Vec<Broken>, Vec<NotJudged>) {
        (self.broken, self.not_judged)
    }
}
