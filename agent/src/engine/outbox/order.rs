//! Record numbers in order, of which most come behind the last and leave from the front: a backlog comes and goes so.
//! There each step costs the same however many there are; anywhere else a search, and a shift of what follows. That is
//! bounded by what a window and a read-ahead hold.

use std::collections::VecDeque;
use std::collections::vec_deque;

/// Where a record is among others, or else where it belongs.
pub(super) fn place<T>(queue: &VecDeque<T>, seq: u64, seq_of: impl Fn(&T) -> u64) -> Result<usize, usize> {
    match (queue.front(), queue.back()) {
        (Some(first), _) if seq_of(first) == seq => Ok(0),
        (_, Some(last)) if seq_of(last) < seq => Err(queue.len()),
        _ => queue.binary_search_by_key(&seq, seq_of),
    }
}

/// Puts a record where [`place`] says that it belongs.
pub(super) fn put<T>(queue: &mut VecDeque<T>, at: usize, item: T) {
    if at == queue.len() { queue.push_back(item) } else { queue.insert(at, item) }
}

/// The numbers of the records that are on their way.
#[derive(Debug, Default)]
pub(super) struct Inflight(VecDeque<u64>);

impl Inflight {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.place(seq).is_ok()
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.0.front().copied()
    }

    pub(super) fn iter(&self) -> vec_deque::Iter<'_, u64> {
        self.0.iter()
    }

    pub(super) fn insert(&mut self, seq: u64) {
        if let Err(at) = self.place(seq) {
            put(&mut self.0, at, seq);
        }
    }

    /// Whether it was one of them.
    pub(super) fn remove(&mut self, seq: u64) -> bool {
        self.place(seq).is_ok_and(|at| self.0.remove(at).is_some())
    }

    /// Takes out this one and all above it.
    pub(super) fn split_off(&mut self, seq: u64) -> VecDeque<u64> {
        self.0.split_off(self.0.partition_point(|other| *other < seq))
    }

    fn place(&self, seq: u64) -> Result<usize, usize> {
        place(&self.0, seq, |other| *other)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few numbers, so that most of them meet one that is there.
        #[test]
        fn they_are_a_set_in_order_whichever_come_and_go(
            steps in proptest::collection::vec((0_u8..5, 0_u64..40), 0..200),
        ) {
            let (mut inflight, mut known) = (Inflight::default(), BTreeSet::new());
            for (step, seq) in steps {
                match step {
                    0 => prop_assert_eq!(inflight.remove(seq), known.remove(&seq)),
                    1 => prop_assert!(inflight.split_off(seq).into_iter().eq(known.split_off(&seq))),
                    _ => {
                        inflight.insert(seq);
                        known.insert(seq);
                    }
                }
                prop_assert_eq!(inflight.contains(seq), known.contains(&seq));
                prop_assert_eq!((inflight.first(), inflight.is_empty()), (known.first().copied(), known.is_empty()));
            }
            prop_assert!(inflight.iter().eq(&known));
        }
    }
}
