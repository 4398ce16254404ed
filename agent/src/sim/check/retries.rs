//! A fleet must not come back all at once, nor hammer a broker: intervals between tries are spread over the whole range
//! below a ceiling that grows.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::report::Promise;
use super::Findings;
use crate::config::Reconnect;

/// So many intervals are judged together: their mean is then within 0.2 of the middle but for one case in a billion.
const DRAWS: usize = 100;
/// Around the middle of the range, as a fraction of the ceiling.
const MEAN: std::ops::Range<f64> = 0.3..0.7;
/// In any ten minutes there are not more tries than this: the ceiling grows from a second to minutes in a few of them.
const TRIES_MAX: usize = 60;
const WINDOW: Duration = Duration::from_secs(600);

/// Watches the tries to connect.
#[derive(Debug)]
pub(in crate::sim) struct Retries {
    min_ms: f64,
    max_ms: f64,
    ceiling_ms: f64,
    draws: Vec<f64>,
    tries: VecDeque<u64>,
}

impl Retries {
    pub(in crate::sim) fn new(reconnect: &Reconnect) -> Self {
        let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
        let (min_ms, max_ms) = (ms(reconnect.min), ms(reconnect.max));
        Self { min_ms, max_ms, ceiling_ms: min_ms, draws: Vec::new(), tries: VecDeque::new() }
    }

    /// The backoff began anew.
    pub(in crate::sim) const fn reset(&mut self) {
        self.ceiling_ms = self.min_ms;
    }

    /// A connection ended: the agent was told to wait so long.
    pub(in crate::sim) fn waits(&mut self, at: u64, retry_in: Duration, findings: &mut Findings) {
        self.draws.push(retry_in.as_secs_f64() * 1_000.0 / self.ceiling_ms);
        self.ceiling_ms = (self.ceiling_ms * 2.0).min(self.max_ms);
        if self.draws.len() < DRAWS {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a hundred")]
        let mean = self.draws.iter().sum::<f64>() / DRAWS as f64;
        self.draws.clear();
        if !MEAN.contains(&mean) {
            let what = format!("{DRAWS} intervals lie at {mean:.2} of their ceilings on average: they are not spread");
            findings.note(Promise::SpreadRetries, at, what);
        }
    }

    /// A try begins.
    pub(in crate::sim) fn tried(&mut self, at: u64, findings: &mut Findings) {
        let since = at.saturating_sub(u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX));
        while self.tries.front().is_some_and(|then| *then <= since) {
            self.tries.pop_front();
        }
        self.tries.push_back(at);
        if self.tries.len() > TRIES_MAX {
            let what = format!("{} tries to connect within {} s", self.tries.len(), WINDOW.as_secs());
            findings.note(Promise::SpreadRetries, at, what);
        }
    }
}
