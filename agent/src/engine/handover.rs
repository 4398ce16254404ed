//! What a run that has no store leaves to the next one, for the store that is found as it ends: the numbers that it has
//! used, what it gave up, and what was lost with the store that it had. It must not make less of what the store knows.

use std::collections::BTreeMap;

use super::Engine;
use super::io::{Recovered, StoreLoss};
use super::keyed::{ACCOUNTED_KEY, DROPPED_KEY, LOSSES_KEY, RUN_KEY, SEQ_KEY, UNTOLD_KEY, Write, write};
use super::start::State;

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
        let untold = self.untold(found, &state);
        if !untold.is_empty() {
            entries.push(write(UNTOLD_KEY, &untold));
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

    /// What the opening of the store has found lost. Those that count records first: the others are words.
    fn untold(&self, found: &Recovered, state: &State<'_>) -> Vec<Untold> {
        let told: Vec<String> = state.read(LOSSES_KEY).unwrap_or_default();
        let losses = found.losses.iter().filter(|loss| !told.contains(&loss.what));
        let mut untold: Vec<Untold> = losses.map(|loss| (loss.what.clone(), loss.records, loss.state_lost)).collect();
        let state_is_told = untold.iter().any(|(_, _, state_lost)| *state_lost);
        if !self.is_unstored && !state_is_told && !state.entries.contains_key(RUN_KEY) {
            // To the store it is one that was never used.
            untold.push(("the keyed state was taken away while it was in use".to_owned(), 0, true));
        }
        untold.sort_by_key(|(_, records, state_lost)| (*records == 0, !state_lost));
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
    let untold: Vec<Untold> = State::of(&recovered).read(UNTOLD_KEY).unwrap_or_default();
    for (what, records, state_lost) in untold {
        if recovered.losses.iter().all(|loss| loss.what != what) {
            recovered.losses.push(StoreLoss { what, records, state_lost });
        }
    }
    recovered
}
