//! What a run that has no store leaves to the next one, for the store that is found as it ends: the numbers that it has
//! used, what it gave up, and what was lost with the store that it had. It must not make less of what the store knows.

use std::collections::BTreeMap;

use super::Engine;
use super::io::{Recovered, StoreLoss};
use super::keyed::{ACCOUNTED_KEY, DROPPED_KEY, LOSSES_KEY, RUN_KEY, SEQ_KEY, UNTOLD_KEY, Write, write};
use super::start::{LOSSES_MAX, State};

/// What the texts of losses may come to, in one value of the store.
const UNTOLD_BYTES_MAX: usize = 4 * 1024;

/// A loss: what, how many records, and whether the keyed state went.
type Untold = (String, u64, bool);

impl Engine {
    /// Entries for the store in which this was `found`.
    #[must_use]
    pub fn hand_over(&self, found: &Recovered) -> Vec<Write> {
        let state = State::of(found);
        // It knows of more where the clock was behind this time.
        let seq = self.seqs.last().max(state.read(SEQ_KEY).unwrap_or(0));
        let mut entries = vec![write(SEQ_KEY, &seq)];
        entries.extend(self.dropped_over(&state));
        let told: Vec<String> = state.read(LOSSES_KEY).unwrap_or_default();
        let untold = self.untold(found, &state, &told);
        if !untold.is_empty() {
            entries.push(write(UNTOLD_KEY, &untold));
        } else if state.entries.contains_key(UNTOLD_KEY) {
            entries.push((UNTOLD_KEY.to_owned(), None));
        }
        // What waits damaged is found again: by the next start, which knows what this one has counted from here alone.
        let known = found.losses.iter().map(|loss| &loss.what);
        let known = known.filter(|what| untold.iter().all(|(untold, _, _)| untold != *what));
        let known: Vec<&String> = known.take(LOSSES_MAX).collect();
        if !known.iter().copied().eq(&told) {
            entries.push(write(LOSSES_KEY, &known));
        }
        entries
    }

    /// What was given up in all: a run that began without a store has counted only its own.
    fn dropped_over(&self, state: &State<'_>) -> Vec<Write> {
        let mut dropped = self.outbox.dropped().clone();
        for (reason, known) in state.read::<BTreeMap<String, u64>>(DROPPED_KEY).unwrap_or_default() {
            let ours = dropped.entry(reason).or_default();
            *ours = if self.is_unstored { ours.saturating_add(known) } else { known.max(*ours) };
        }
        let mut entries = vec![write(DROPPED_KEY, &dropped)];
        if !self.is_unstored {
            entries.push(write(ACCOUNTED_KEY, &self.outbox.accounted()));
        }
        entries
    }

    /// What the opening of the store has found lost, and what was left in it that no start has `told` yet. What makes
    /// the next start careful comes first, then what counts records: the others are words.
    fn untold(&self, found: &Recovered, state: &State<'_>, told: &[String]) -> Vec<Untold> {
        let left = left_in(state).into_iter();
        let left = left.filter(|(what, _, _)| found.losses.iter().all(|loss| loss.what != *what));
        let losses = found.losses.iter().map(|loss| (loss.what.clone(), loss.records, loss.state_lost));
        // This run has counted what it told; whether it has become careful over it stands in the store alone.
        let is_told =
            |(what, _, state_lost): &Untold| told.contains(what) || (!state_lost && self.told_losses.contains(what));
        let mut untold: Vec<Untold> = losses.chain(left).filter(|loss| !is_told(loss)).collect();
        let state_is_told = untold.iter().any(|(_, _, state_lost)| *state_lost);
        if !self.is_unstored && !state_is_told && !state.entries.contains_key(RUN_KEY) {
            // To the store it is one that was never used.
            untold.push(("the keyed state was taken away while it was in use".to_owned(), 0, true));
        }
        untold.sort_by_key(|(_, records, state_lost)| (!state_lost, *records == 0));
        let mut bytes = 0;
        untold.retain(|(what, _, _)| {
            bytes += what.len();
            bytes <= UNTOLD_BYTES_MAX
        });
        untold
    }
}

/// With what the run before has found, and could not tell.
pub(super) fn with_untold(mut recovered: Recovered) -> Recovered {
    let left = left_in(&State::of(&recovered));
    for (what, records, state_lost) in left {
        if recovered.losses.iter().all(|loss| loss.what != what) {
            recovered.losses.push(StoreLoss { what, records, state_lost });
        }
    }
    recovered
}

fn left_in(state: &State<'_>) -> Vec<Untold> {
    state.read(UNTOLD_KEY).unwrap_or_default()
}
