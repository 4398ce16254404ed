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
/// In any ten minutes there may be so many tries: the ceiling grows from a second to minutes in a few of them.
const TRIES_MAX: f64 = 60.0;
const WINDOW: Duration = Duration::from_secs(600);
/// Room above the tries to be expected where draws average half the ceiling: chance alone must not break the promise.
const MARGIN: f64 = 1.5;

/// Watches the tries to connect.
#[derive(Debug)]
pub(in crate::sim) struct Retries {
    min_ms: f64,
    max_ms: f64,
    ceiling_ms: f64,
    /// Tries that the config allows in [`WINDOW`].
    tries_max: usize,
    draws: Vec<f64>,
    tries: VecDeque<u64>,
    /// Starts of the agent, after each of which the backoff begins anew.
    starts: VecDeque<u64>,
    /// At once, and while the ceiling grows.
    tries_per_start: usize,
}

impl Retries {
    pub(in crate::sim) fn new(reconnect: &Reconnect) -> Self {
        let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
        let (min_ms, max_ms) = (ms(reconnect.min), ms(reconnect.max));
        let tries_max = tries_max(reconnect);
        Self {
            min_ms,
            max_ms,
            ceiling_ms: min_ms,
            tries_max,
            draws: Vec::new(),
            tries: VecDeque::new(),
            starts: VecDeque::new(),
            tries_per_start: 1 + usize::from(growing(reconnect)),
        }
    }

    /// The agent was started: what keeps one that falls over and over from hammering is how often it is started.
    pub(in crate::sim) fn started(&mut self, at: u64) {
        self.starts.push_back(at);
        self.reset();
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
        for times in [&mut self.tries, &mut self.starts] {
            while times.front().is_some_and(|then| *then <= since) {
                times.pop_front();
            }
        }
        self.tries.push_back(at);
        let (tries, most) = (self.tries.len(), self.tries_max + self.starts.len() * self.tries_per_start);
        if tries > most {
            let what = format!("{tries} tries to connect within {} s, at most {most} fit", WINDOW.as_secs());
            findings.note(Promise::SpreadRetries, at, what);
        }
    }
}

/// What draws between nothing and the ceiling come to at the very most: while it grows, once it has grown, and each
/// time that a session was stable and it begins anew.
fn tries_max(reconnect: &Reconnect) -> usize {
    let seconds = |duration: Duration| duration.as_secs_f64().max(0.001);
    let (min, max, window) = (seconds(reconnect.min), seconds(reconnect.max), WINDOW.as_secs_f64());
    let grows = f64::from(growing(reconnect));
    let steady = window / (max / 2.0);
    let anew = window / (reconnect.stable_after.as_secs_f64() + min / 2.0);
    let most = (MARGIN * steady + anew + grows).max(TRIES_MAX).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count; the cast saturates")]
    let most = most as usize;
    most
}

/// How many tries the ceiling takes to grow from its least to its most.
fn growing(reconnect: &Reconnect) -> u16 {
    let mut ceiling = reconnect.min.max(Duration::from_millis(1));
    let mut tries = 0;
    while ceiling < reconnect.max {
        ceiling *= 2;
        tries += 1;
    }
    tries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reconnect(min_s: u64, max_s: u64, stable_after_s: u64) -> Reconnect {
        let [min, max, stable_after] = [min_s, max_s, stable_after_s].map(Duration::from_secs);
        Reconnect { min, max, stable_after }
    }

    #[test]
    fn as_many_tries_are_taken_for_hammering_as_the_config_does_not_explain() {
        assert_eq!(tries_max(&reconnect(1, 300, 60)), 60, "the defaults");
        // Two and a half seconds on average: 240 in ten minutes.
        let often = tries_max(&reconnect(1, 5, 60));
        assert!((300..400).contains(&often), "{often}");
        let mut findings = Findings::default();
        let mut retries = Retries::new(&reconnect(1, 5, 60));
        (0..1_000).for_each(|n| retries.tried(n * 2_500, &mut findings));
        assert_eq!(findings.into_parts().0, []);
        let mut findings = Findings::default();
        (0..1_000).for_each(|n| retries.tried(3_000_000 + n * 1_000, &mut findings));
        assert!(!findings.into_parts().0.is_empty(), "a try a second is too much for it all the same");
    }

    #[test]
    fn an_agent_that_is_started_over_and_over_may_try_anew_after_each_start_and_not_hammer() {
        let often = |tries_per_start: u64| {
            let mut findings = Findings::default();
            let mut retries = Retries::new(&reconnect(1, 300, 60));
            for start in (0..3_600_000).step_by(60_000) {
                retries.started(start);
                (0..tries_per_start).for_each(|n| retries.tried(start + n * 1_000, &mut findings));
            }
            findings.into_parts().0
        };
        assert_eq!(often(8), []);
        assert!(!often(40).is_empty(), "a try a second is hammering after a start, too");
    }
}
