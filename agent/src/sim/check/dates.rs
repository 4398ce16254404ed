//! Promise 6: whatever the clock does, records keep their order, no number is used twice, and a date is either right or
//! not there.

use std::collections::{BTreeMap, BTreeSet};

use super::super::report::Promise;
use super::Findings;
use super::message::Dated;

/// How far a date may be off: a clock that NTP keeps drifts less, and one that is off by more is not called
/// synchronised.
const TOLERANCE_MS: u64 = 5_000;

/// What goes with a change of state, and a crash took on its way, is told again by the next start, with its own time
/// and a later number.
const RETOLD_MS: u64 = 60_000;

/// A record that the store refused is tried again, with a later number, after the refusal and not later than this.
const TRIED_AGAIN_WITHIN_MS: u64 = 30 * 60_000;

/// What is known of each record that the broker got.
#[derive(Debug, Default)]
pub(in crate::sim) struct Dates {
    /// By seq.
    got: BTreeMap<u64, Got>,
    /// When the store refused something, in true time: records have a later number than their time says.
    refused: BTreeSet<u64>,
    /// A date was wrong because the configuration has a wrong clock believed.
    misled: bool,
}

/// A record: the same number must not name another one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Got {
    boot: u32,
    mono_ms: u64,
    may_be_told_again: bool,
    kind: [Option<String>; 3],
}

/// The truth about a record.
#[derive(Debug, Clone, Copy)]
pub(in crate::sim) struct Truth {
    /// Which boot it names: 1 is the first; `None`: no such boot was.
    pub(in crate::sim) boot: Option<u32>,
    /// When it was made, in milliseconds since 1970.
    pub(in crate::sim) unix_ms: i64,
    /// The present, in milliseconds since 1970.
    pub(in crate::sim) now_ms: i64,
    /// When it was made, since the begin.
    pub(in crate::sim) made_at: u64,
    /// The configuration has the agent believe a clock that nobody has set.
    pub(in crate::sim) trusts_any_clock: bool,
    /// The agent that runs has had a trusted clock since then; `None`: not yet.
    pub(in crate::sim) clock_known_since: Option<u64>,
}

impl Dates {
    pub(in crate::sim) fn refused(&mut self, at: u64) {
        self.refused.insert(at);
    }

    /// What can only be judged at the end.
    pub(in crate::sim) fn judge(&self, findings: &mut Findings) {
        if self.misled {
            let why = "clock.trust = \"always\" has the agent believe a clock that is wrong in this world";
            findings.leave_open(Promise::TimeOrder, why.to_owned());
        }
    }

    /// The broker got a record.
    pub(in crate::sim) fn got(&mut self, at: u64, record: Dated<'_>, truth: Truth, findings: &mut Findings) {
        let seq = record.seq;
        let mut broken = |what: String| findings.note(Promise::TimeOrder, at, what);
        let Some(boot) = truth.boot else {
            return broken(format!("seq {seq} names boot {}, which never was", record.boot));
        };
        if truth.unix_ms > truth.now_ms {
            broken(format!("seq {seq} was made {} s from now", (truth.unix_ms - truth.now_ms) / 1_000));
        }
        if let Some(text) = record.time {
            match text.parse::<jiff::Timestamp>() {
                Ok(time) => {
                    let off = time.as_millisecond().abs_diff(truth.unix_ms);
                    if off > TOLERANCE_MS && truth.trusts_any_clock {
                        self.misled = true;
                    } else if off > TOLERANCE_MS {
                        broken(format!("seq {seq} is dated {text}, {} s off", off / 1_000));
                    }
                }
                Err(_) => broken(format!("seq {seq} is dated {text:?}, which is no date")),
            }
        } else if let Some(since) = truth.clock_known_since.filter(|since| truth.made_at > *since) {
            let later_s = (truth.made_at - since) / 1_000;
            broken(format!("seq {seq} has no date, {later_s} s after the clock could be trusted"));
        }
        let kind = record.kind.map(|word| word.map(str::to_owned));
        let this = Got { boot, mono_ms: record.mono_ms, may_be_told_again: record.may_be_told_again, kind };
        match self.got.insert(seq, this.clone()) {
            Some(before) if before != this => broken(format!("seq {seq} was used twice: {before:?}, and {this:?}")),
            _ => {}
        }
        let before = self.got.range(..seq).next_back().map(|(low, lower)| (*low, lower, seq, &this));
        let after = self.got.range(seq + 1..).next().map(|(high, higher)| (seq, &this, *high, higher));
        for (low, lower, high, higher) in before.into_iter().chain(after) {
            if lower.boot > higher.boot {
                broken(format!(
                    "seq {low} is of boot {}, but the later seq {high} of boot {}",
                    lower.boot, higher.boot
                ));
            }
            let back_ms =
                lower.mono_ms.saturating_sub(higher.mono_ms + if higher.may_be_told_again { RETOLD_MS } else { 0 });
            if lower.boot != higher.boot || back_ms == 0 {
                continue;
            }
            // When the later number was made, by its distance to the record at hand.
            let made_at = (truth.made_at + higher.mono_ms).saturating_sub(record.mono_ms);
            let again = made_at..=made_at + (lower.mono_ms - higher.mono_ms) + TRIED_AGAIN_WITHIN_MS;
            if self.refused.range(again).next().is_none() {
                broken(format!(
                    "seq {low} was made {} ms after boot, the later seq {high} {} ms",
                    lower.mono_ms, higher.mono_ms
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_768_478_400_000;

    /// Records of the first boot, made so many milliseconds after its begin, with their numbers.
    fn told(dates: &mut Dates, records: &[(u64, u64)], change: impl Fn(&mut Dated<'_>, &mut Truth)) -> usize {
        let mut findings = Findings::default();
        for (seq, mono_ms) in records.iter().copied() {
            let kind = [Some("sample"), None, None];
            let mut record = Dated { boot: "b", seq, time: None, mono_ms, may_be_told_again: false, kind };
            let unix_ms = NOON + i64::try_from(mono_ms).unwrap();
            let (now_ms, made_at, clock_known_since) = (unix_ms + 5_000, mono_ms, None);
            let trusts_any_clock = false;
            let mut truth = Truth { boot: Some(1), unix_ms, now_ms, made_at, trusts_any_clock, clock_known_since };
            change(&mut record, &mut truth);
            dates.got(mono_ms, record, truth, &mut findings);
        }
        findings.into_parts().0.len()
    }

    #[test]
    fn only_a_refusal_at_that_time_excuses_a_record_out_of_order() {
        let hour = 3_600_000;
        let swapped = [(1, 10 * hour), (2, 10 * hour - 2_000)];
        let nothing = |_: &mut Dated<'_>, _: &mut Truth| ();
        assert_eq!(told(&mut Dates::default(), &swapped, nothing), 1);
        let mut long_ago = Dates::default();
        long_ago.refused(hour);
        assert_eq!(told(&mut long_ago, &swapped, nothing), 1);
        let mut then = Dates::default();
        then.refused(10 * hour - 1_000);
        assert_eq!(told(&mut then, &swapped, nothing), 0);
        let with_state = |record: &mut Dated<'_>, _: &mut Truth| record.may_be_told_again = true;
        assert_eq!(told(&mut Dates::default(), &swapped, with_state), 0, "it may be told again");
    }

    #[test]
    fn one_number_for_two_records_of_one_time_is_found() {
        let mut dates = Dates::default();
        assert_eq!(told(&mut dates, &[(1, 1_000), (1, 1_000)], |_, _| ()), 0, "the same once more");
        assert_eq!(told(&mut dates, &[(1, 1_000)], |record, _| record.kind = [Some("error"), None, None]), 1);
    }

    #[test]
    fn a_record_without_a_date_is_found_where_the_clock_was_known() {
        let known_at = |at| move |_: &mut Dated<'_>, truth: &mut Truth| truth.clock_known_since = Some(at);
        assert_eq!(told(&mut Dates::default(), &[(1, 60_000)], known_at(60_000)), 0);
        assert_eq!(told(&mut Dates::default(), &[(1, 61_000)], known_at(60_000)), 1);
    }
}
