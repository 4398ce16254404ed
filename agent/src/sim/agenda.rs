//! What is to come in a simulated world, in order of time; of what comes at the same time, what was entered first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A time-ordered queue.
#[derive(Debug)]
pub(super) struct Agenda<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    entered: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: u64,
    order: u64,
    what: T,
}

impl<T> Agenda<T> {
    pub(super) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), entered: 0 }
    }

    /// Enters something that happens at a time, in milliseconds since the begin.
    pub(super) fn enter(&mut self, at: u64, what: T) {
        self.entered += 1;
        self.heap.push(Reverse(Entry { at, order: self.entered, what }));
    }

    /// When the next is due.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// The next, if it is due.
    pub(super) fn take_due(&mut self, now: u64) -> Option<T> {
        if self.next_at()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry.what)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_in_order_of_time_and_then_of_entry() {
        let mut agenda = Agenda::new();
        for (at, what) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b'), (9, 'e')] {
            agenda.enter(at, what);
        }
        let due: String = std::iter::from_fn(|| agenda.take_due(5)).collect();
        assert_eq!((due.as_str(), agenda.next_at()), ("abcd", Some(9)));
    }
}
