//! What a run that has no store leaves to the next one, for the store that is found as it ends: the numbers that it has
//! used, what it gave up, and what was lost with the store that it had. It must not make less of what the store knows.

use std::collections::BTreeMap;

use super::Engine;
use super::io::{Recovered, StoreLoss};
use super::keyed::{ACCOUNTED_KEY, DROPPED_KEY, LOSSES_KEY, LOST_KEY, RUN_KEY, SEQ_KEY, UNTOLD_KEY, Write, write};
use super::outbox::add_untold;
use super::start::{State, remembered};

/// What the texts of losses may come to, in one value of the store.
const UNTOLD_BYTES_MAX: usize = 4 * 1024;

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
        let known = remembered(found.losses.iter().filter(|loss| untold.iter().all(|untold| untold.what != loss.what)));
        if known != told {
            entries.push(write(LOSSES_KEY, &known));
        }
        entries
    }

    /// What was given up in all, and what of it is to be told: a run that began without a store has counted only its own.
    fn dropped_over(&self, state: &State<'_>) -> Vec<Write> {
        let mut dropped = self.outbox.dropped().clone();
        for (reason, known) in state.read::<BTreeMap<String, u64>>(DROPPED_KEY).unwrap_or_default() {
            let ours = dropped.entry(reason).or_default();
            *ours = if self.is_unstored { ours.saturating_add(known) } else { known.max(*ours) };
        }
        let mut untold = self.outbox.untold();
        if self.is_unstored {
            add_untold(&mut untold, state.read(LOST_KEY).unwrap_or_default());
        }
        let mut entries = vec![write(DROPPED_KEY, &dropped), write(LOST_KEY, &untold)];
        if !self.is_unstored {
            entries.push(write(ACCOUNTED_KEY, &self.outbox.accounted()));
        }
        entries
    }

    /// What the opening of the store has found lost, and what was left in it that no start has `told` yet. What makes
    /// the next start careful comes first, then what counts records: the others are words.
    fn untold(&self, found: &Recovered, state: &State<'_>, told: &[String]) -> Vec<StoreLoss> {
        // This run has counted what it told; whether it has become careful over it stands in the store alone.
        let is_told =
            |loss: &StoreLoss| told.contains(&loss.what) || (!loss.state_lost && self.told_losses.contains(&loss.what));
        let mut untold = with_left(&found.losses, state);
        untold.retain(|loss| !is_told(loss));
        let state_is_told = untold.iter().any(|loss| loss.state_lost);
        if !self.is_unstored && !state_is_told && !state.entries.contains_key(RUN_KEY) {
            // To the store it is one that was never used.
            let what = "the keyed state was taken away while it was in use".to_owned();
            untold.push(StoreLoss { what, records: 0, state_lost: true });
        }
        untold.sort_by_key(|loss| (!loss.state_lost, loss.records == 0));
        let mut bytes = 0;
        untold.retain(|loss| {
            bytes += loss.what.len();
            bytes <= UNTOLD_BYTES_MAX
        });
        untold
    }
}

/// With what the run before has found, and could not tell.
pub(super) fn with_untold(recovered: Recovered) -> Recovered {
    Recovered { losses: with_left(&recovered.losses, &State::of(&recovered)), ..recovered }
}

/// These losses, and those that were left in the store for a start to tell.
fn with_left(losses: &[StoreLoss], state: &State<'_>) -> Vec<StoreLoss> {
    let left: Vec<StoreLoss> = state.read(UNTOLD_KEY).unwrap_or_default();
    let left = left.into_iter().filter(|left| losses.iter().all(|loss| loss.what != left.what));
    losses.iter().cloned().chain(left).collect()
}
