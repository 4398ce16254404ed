//! What the state knows of the logs: with each put goes, in the same write, how many records wait in each of them. So
//! that a log that vanished with its cursor can be counted, or one that lost its end, and is told in the same words
//! until it holds later records: whoever counts it may be gone before that is saved. Of a log that knows of as much
//! itself, nothing is asked here.

use bytes::Bytes;

use super::log::Log;
use super::segment::Fields;
use super::state::Entries;
use crate::engine::record::Class;

/// Not a key that the engine would use.
const KEY: &str = "\0outbox";
/// What goes with each put: two numbers of each log.
#[cfg(feature = "simulate")]
pub(crate) const ENTRY_BYTES: usize = KEY.len() + 2 * size_of::<u64>() * Class::COUNT;

/// What is durable of one log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Records not yet trimmed.
    pub(super) records: u64,
    /// The highest seq that it ever held; 0 if it never held any.
    pub(super) last: u64,
}

/// What is known of the logs: of one that has held less than was `known` of it at the start, that.
pub(super) fn of(logs: &[Log; Class::COUNT], known: &[Waiting; Class::COUNT]) -> [Waiting; Class::COUNT] {
    Class::ALL.map(|class| {
        let (now, known) = (class.of(logs).waiting(), *class.of(known));
        if now.last >= known.last { now } else { known }
    })
}

/// The entry for the state.
pub(super) fn entry(waiting: &[Waiting; Class::COUNT]) -> (String, Option<Bytes>) {
    let fields = waiting.iter().flat_map(|waiting| [waiting.records, waiting.last]);
    (KEY.to_owned(), Some(fields.flat_map(u64::to_le_bytes).collect()))
}

/// Takes it out of what the state held; `None` if there was none.
pub(super) fn take(entries: &mut Entries) -> Option<[Waiting; Class::COUNT]> {
    let value = entries.remove(KEY)?;
    let mut fields = Fields(&value);
    let mut waiting = [Waiting::default(); Class::COUNT];
    for of_log in &mut waiting {
        *of_log = Waiting { records: fields.u64()?, last: fields.u64()? };
    }
    Some(waiting)
}
