//! Promise 6: whatever the clock does, records keep their order, no number is used twice, and a date is either right or
//! not there.

use std::collections::BTreeMap;

use super::super::report::Promise;
use super::Findings;
use super::message::Dated;

/// How far a date may be off: a clock that NTP keeps drifts less, and one that is off by more is not called synchronised.
const TOLERANCE_MS: u64 = 5_000;

/// An alarm that a crash took on its way is told again by the next start, with its own time and a later number.
const RETOLD_MS: u64 = 60_000;

/// What is known of each record that the broker got.
#[derive(Debug, Default)]
pub(in crate::sim) struct Dates {
    /// By seq: boot, time since it, and whether it is an alarm's event.
    got: BTreeMap<u64, (u32, u64, bool)>,
    /// The store refused records, which were tried again later: they have a later number than their time says.
    retried: bool,
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
}

impl Dates {
    pub(in crate::sim) const fn retried(&mut self) {
        self.retried = true;
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
                    if off > TOLERANCE_MS {
                        broken(format!("seq {seq} is dated {text}, {} s off", off / 1_000));
                    }
                }
                Err(_) => broken(format!("seq {seq} is dated {text:?}, which is no date")),
            }
        }
        let this = (boot, record.mono_ms, record.is_alarm);
        match self.got.insert(seq, this) {
            Some(before) if before != this => {
                broken(format!(
                    "seq {seq} was used twice: boot {} at {} ms, and boot {boot} at {} ms",
                    before.0, before.1, record.mono_ms
                ));
            }
            _ => {}
        }
        let before = self.got.range(..seq).next_back();
        let after = self.got.range(seq + 1..).next();
        for ((low, lower), (high, higher)) in before
            .map(|(n, at)| ((*n, *at), (seq, this)))
            .into_iter()
            .chain(after.map(|(n, at)| ((seq, this), (*n, *at))))
        {
            if lower.0 > higher.0 && !higher.2 {
                broken(format!("seq {low} is of boot {}, but the later seq {high} of boot {}", lower.0, higher.0));
            } else if lower.0 == higher.0 && lower.1 > higher.1 + RETOLD_MS && !self.retried {
                broken(format!("seq {low} was made {} ms after boot, the later seq {high} {} ms", lower.1, higher.1));
            }
        }
    }
}
