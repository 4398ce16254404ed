//! The account of what was given up: how many records since the store was made, by reason, and of those that the store
//! evicted how many are in it; and, by class, what of it is yet to be told. A total is never taken back, and what of it
//! is not saved is known. Gives nothing up itself, and tells nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::RangeInclusive;
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::engine::metric::DROPPED;
use crate::engine::record::Class;
use crate::engine::time::Mono;

/// What was given up is told at most this often.
const LOST_PAUSE: Duration = Duration::from_secs(60);

/// The word under which what is thinned out is counted.
pub const THINNED: &str = "thinned";

/// Records of one class that were given up for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Lost {
    /// How many.
    #[n(0)]
    pub records: u64,
    /// The lowest seq among them.
    #[n(1)]
    pub first: u64,
    /// The highest; not all between them need be lost.
    #[n(2)]
    pub last: u64,
}

impl Lost {
    /// None yet, from this seq on.
    pub(super) const fn none(first: u64) -> Self {
        Self { records: 0, first, last: first }
    }

    /// So many more, of this range.
    pub(super) fn add(&mut self, records: u64, range: RangeInclusive<u64>) {
        self.records += records;
        self.first = self.first.min(*range.start());
        self.last = self.last.max(*range.end());
    }
}

/// What was given up and is yet to be told, by class and reason.
pub type Untold = BTreeMap<(Class, String), Lost>;

fn of_thinned() -> (Class, String) {
    (Class::Telemetry, THINNED.to_owned())
}

/// So much more is yet to be told.
pub fn add_untold(to: &mut Untold, more: Untold) {
    for (of, more) in more {
        to.entry(of).or_insert_with(|| Lost::none(more.first)).add(more.records, more.first..=more.last);
    }
}

/// Results that were given up: all of a range, but for those that have arrived or may still.
#[derive(Debug)]
pub struct Gone {
    range: RangeInclusive<u64>,
    but: BTreeSet<u64>,
}

impl Gone {
    /// All of a range.
    #[must_use]
    pub const fn all(range: RangeInclusive<u64>) -> Self {
        Self { range, but: BTreeSet::new() }
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn holds(&self, seq: u64) -> bool {
        self.range.contains(&seq) && !self.but.contains(&seq)
    }
}

/// What was given up.
#[derive(Debug)]
pub(super) struct Losses {
    /// By reason, since the store was made: a total, because the sample that carries it may be given up too.
    dropped: BTreeMap<String, u64>,
    /// Of the records that the store ever evicted, per class: how many are counted as dropped, or were acknowledged
    /// after all. The rest are still on their way, from memory alone.
    accounted: [u64; Class::COUNT],
    dropped_saved: bool,
    /// What was given up since it was last told, by class and reason.
    lost: Untold,
    /// What of a long outage was thinned out since that was last told: it is told when the outage is over.
    thinned: Option<Lost>,
    /// When it may be told again.
    lost_at: Mono,
    /// Results that were given up since it was last asked.
    gone: Vec<Gone>,
}

impl Losses {
    /// Goes on from what was saved, with what the store evicted in all. What it evicted beyond that, a crash kept from
    /// being counted: it is counted now.
    pub(super) fn new(
        evicted: [u64; Class::COUNT],
        dropped: BTreeMap<String, u64>,
        accounted: [u64; Class::COUNT],
    ) -> Self {
        let uncounted = evicted.iter().zip(accounted).map(|(evicted, counted)| evicted.saturating_sub(counted)).sum();
        let mut losses = Self {
            dropped,
            // Also where it is less: the cursor of a log was lost, and it counts from zero again.
            accounted: evicted,
            dropped_saved: evicted == accounted,
            lost: Untold::new(),
            thinned: None,
            lost_at: Mono(0),
            gone: Vec::new(),
        };
        losses.count("quota", uncounted);
        losses
    }

    /// Counts records that were given up.
    pub(super) fn count(&mut self, reason: &'static str, records: u64) {
        debug_assert!(DROPPED.contains(&reason), "a rule on {reason} would be left out");
        if records > 0 {
            *self.dropped.entry(reason.to_owned()).or_default() += records;
            self.dropped_saved = false;
        }
    }

    /// Counts records that were given up, and remembers which to tell.
    pub(super) fn lose(&mut self, class: Class, reason: &'static str, records: u64, range: RangeInclusive<u64>) {
        if records == 0 {
            return;
        }
        self.count(reason, records);
        let lost = self.lost.entry((class, reason.to_owned())).or_insert_with(|| Lost::none(*range.start()));
        lost.add(records, range);
    }

    /// Counts samples that others stand for now, and remembers which to tell.
    pub(super) fn thin(&mut self, records: u64, range: RangeInclusive<u64>) {
        self.count(THINNED, records);
        self.thinned.get_or_insert_with(|| Lost::none(*range.start())).add(records, range);
    }

    /// Begins with what the run before could not tell.
    pub(super) fn owe(&mut self, mut untold: Untold) {
        self.thinned = untold.remove(&of_thinned());
        add_untold(&mut self.lost, untold);
    }

    /// Which of a range were given up, all `but` these: of results somebody has to know.
    pub(super) fn name(&mut self, class: Class, range: RangeInclusive<u64>, but: BTreeSet<u64>) {
        if class == Class::Results {
            self.gone.push(Gone { range, but });
        }
    }

    /// The results that were given up since this was last asked.
    pub(super) fn take_gone(&mut self) -> Vec<Gone> {
        mem::take(&mut self.gone)
    }

    /// Of what the store evicted, so many are counted now, or have arrived.
    pub(super) fn account(&mut self, class: Class, records: u64) {
        *class.of_mut(&mut self.accounted) += records;
    }

    /// The totals, by reason.
    pub(super) const fn dropped(&self) -> &BTreeMap<String, u64> {
        &self.dropped
    }

    /// The same, and how much of what the store evicted is in it, if something changed since it was last asked: to be
    /// saved together.
    pub(super) fn dropped_to_save(&mut self) -> Option<(&BTreeMap<String, u64>, [u64; Class::COUNT])> {
        (!mem::replace(&mut self.dropped_saved, true)).then_some((&self.dropped, self.accounted))
    }

    /// Of what the store evicted, how much is in the totals.
    pub(super) const fn accounted(&self) -> [u64; Class::COUNT] {
        self.accounted
    }

    /// They are not saved as they are now.
    pub(super) const fn save_again(&mut self) {
        self.dropped_saved = false;
    }

    /// Whether it is time to tell what was given up; if so, the next time is after a pause.
    pub(super) fn begin_telling(&mut self, now: Mono) -> bool {
        let due = !self.lost.is_empty() && now >= self.lost_at;
        if due {
            self.lost_at = now.after(LOST_PAUSE);
        }
        due
    }

    /// What was given up since this was last asked, by class and reason.
    pub(super) fn take_lost(&mut self) -> Untold {
        mem::take(&mut self.lost)
    }

    /// What was thinned out since this was last asked.
    pub(super) fn take_thinned(&mut self) -> Untold {
        self.thinned.take().map(|lost| (of_thinned(), lost)).into_iter().collect()
    }

    /// Both, to be saved.
    pub(super) fn untold(&self) -> Untold {
        self.lost.clone().into_iter().chain(self.thinned.map(|lost| (of_thinned(), lost))).collect()
    }

    /// When there is something to tell.
    pub(super) fn deadline(&self) -> Option<Mono> {
        (!self.lost.is_empty()).then_some(self.lost_at)
    }
}
