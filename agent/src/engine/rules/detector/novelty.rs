//! A name that was never there before: a port that is listened on, a remote address. A set of what is known, by hash,
//! that forgets what was not seen for longest.

use minicbor::{Decode, Encode};

use super::{Finding, Moment};
use crate::engine::rules::Verdict;
use crate::engine::time::Mono;

/// Names that are remembered. A gateway that knows more peers than this at once is no gateway: nothing is said of it.
const KNOWN_MAX: usize = 256;
/// What is there in this time belongs to it, in milliseconds.
const LEARNING_MS: u64 = 3_600_000;
/// What is further apart than this was not looked at in between, in milliseconds.
const ROUND_MAX_MS: u64 = 600_000;
/// What was not seen in so many milliseconds in which somebody looked is new again: thirty days.
const FORGOTTEN_MS: u64 = 30 * 86_400_000;
/// The most names that are told.
const TOLD_MAX: usize = 5;

#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
pub(super) struct Novelty {
    #[n(0)]
    known: Vec<Known>,
    /// For how long somebody has looked.
    #[n(1)]
    looked_ms: u64,
    #[cbor(skip)]
    last: Option<Mono>,
}

#[derive(Debug, Clone, Copy, PartialEq, Encode, Decode)]
#[cbor(array)]
struct Known {
    #[n(0)]
    hash: u32,
    /// By [`Novelty::looked_ms`].
    #[n(1)]
    seen_ms: u64,
}

impl Novelty {
    pub(super) fn judge(&mut self, names: &[String], at: Moment) -> Option<Finding> {
        if names.len() > KNOWN_MAX {
            return None;
        }
        let apart = self.last.replace(at.mono).map_or(0, |last| at.mono.0.saturating_sub(last.0));
        self.looked_ms += apart.min(ROUND_MAX_MS);
        let now_ms = self.looked_ms;
        self.known.retain(|known| now_ms - known.seen_ms.min(now_ms) < FORGOTTEN_MS);
        let is_learning = now_ms < LEARNING_MS;
        let mut new: Vec<&str> = Vec::new();
        for name in names {
            let hash = crc32c::crc32c(name.as_bytes());
            match self.known.iter_mut().find(|known| known.hash == hash) {
                Some(known) => known.seen_ms = now_ms,
                None if is_learning => self.learn(hash),
                None => new.push(name),
            }
        }
        if is_learning {
            return None;
        }
        let verdict = if new.is_empty() { Verdict::Good } else { Verdict::Bad };
        let value = if new.is_empty() { "nothing new".to_owned() } else { told(&new) };
        let threshold = format!("{} known", self.known.len());
        Some(Finding { verdict, value: value.as_str().into(), threshold: threshold.as_str().into() })
    }

    fn learn(&mut self, hash: u32) {
        if self.known.len() >= KNOWN_MAX {
            let oldest = (0..).zip(&self.known).min_by_key(|(_, known)| known.seen_ms).map(|(index, _)| index);
            oldest.map(|index: usize| self.known.swap_remove(index));
        }
        self.known.push(Known { hash, seen_ms: self.looked_ms });
    }

    pub(super) fn is_sound(&self) -> bool {
        self.known.len() <= KNOWN_MAX
    }
}

fn told(new: &[&str]) -> String {
    let mut told = new.iter().take(TOLD_MAX).copied().collect::<Vec<_>>().join(", ");
    let more = new.len().saturating_sub(TOLD_MAX);
    if more > 0 {
        told.push_str(&format!(" and {more} more"));
    }
    told
}
