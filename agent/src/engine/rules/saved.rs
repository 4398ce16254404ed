//! What the store holds of alarms, and what a restart makes of it: an alarm stands again, is told again, or is cleared,
//! because its rule is gone. Writes nothing.

use bytes::Bytes;

use super::Leftovers;
use super::watch::{Watch, removed};
use crate::engine::keyed::{ALARM_KEY, encode};
use crate::engine::metric::Value;
use crate::engine::record::{Body, Event, Field, Record, Stamp, Told};

/// What is to be stored when an alarm's event goes out under this number.
#[must_use]
pub fn entry(rule: &str, seq: u64, record: &Record) -> (String, Bytes) {
    let told = Told { seq, record: record.clone(), again: 0 };
    (format!("{ALARM_KEY}{rule}"), encode(&told))
}

/// A stored alarm, read.
pub(super) struct Saved {
    seq: u64,
    record: Record,
    raised: bool,
    metric: Box<str>,
    since: Stamp,
    /// What is told of it if its rule is gone.
    removed: Event,
    /// Its event came into the log.
    arrived: bool,
}

impl Saved {
    /// `None` for what is damaged. `events_last` is the highest number that the log of events ever held.
    pub(super) fn read(value: &[u8], events_last: u64) -> Option<Self> {
        let told: Told = minicbor::decode(value).ok()?;
        let Body::Event(event) = &told.record.body else { return None };
        let (Field::Value(Value::Text(state)), Field::Value(Value::Text(metric)), Field::Stamp(since)) =
            (event.field("state")?, event.field("metric")?, event.field("since")?)
        else {
            return None;
        };
        let (raised, metric, since) = (&**state == "raised", metric.clone(), *since);
        let removed = removed(event, &metric, since);
        Some(Self {
            seq: told.seq,
            raised,
            metric,
            since,
            removed,
            arrived: told.arrived(events_last),
            record: told.record,
        })
    }

    pub(super) fn restore(self, key: &str, watch: Option<&mut Watch>, leftovers: &mut Leftovers) {
        let stands = match (watch.filter(|watch| self.raised && watch.rule().metric == *self.metric), &self.record.body)
        {
            (Some(watch), Body::Event(told)) => {
                watch.stands(self.since, told);
                true
            }
            _ => false,
        };
        if self.arrived {
            leftovers.told.push((self.seq, self.record.clone()));
        }
        match (self.raised, self.arrived) {
            (true, true) if stands => {}
            (true, true) => leftovers.cleared.push(self.removed),
            (true, false) if stands => leftovers.again.push(self.record),
            (false, false) => leftovers.again.push(self.record),
            // Cleared and told, or raised and never heard of.
            (false, true) | (true, false) => leftovers.forget.push(key.to_owned()),
        }
    }
}
