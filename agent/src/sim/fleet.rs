//! The return of a fleet: what a broker sees when it comes back after an outage. Each gateway lives in a world of its
//! own with the same outage in it; what is looked at is when they try, which doesn't depend on one another while the
//! broker takes all who come.

use std::time::Duration;

use super::network::millis;
use super::report::Broken;
use super::scenario::{Fault, FaultKind, Scenario, When};
use super::{Plan, run_in_full};

/// When the broker goes.
const GOES_AT: Duration = Duration::from_secs(600);
/// How long it stays away: until waiting times have grown to their ceiling.
const OUTAGE: Duration = Duration::from_secs(3_600);
/// How long the return is looked at, beside the longest wait that the config allows.
const LOOK: Duration = Duration::from_secs(600);

/// A fleet's return after an outage of its broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Return {
    /// When the broker came back, in seconds since the begin of the outage.
    pub back_at_s: u64,
    /// Tries to connect in each second since the begin of the outage.
    pub tries: Vec<u32>,
    /// Sessions that came about in each second.
    pub sessions: Vec<u32>,
    /// Seeds of the gateways that had no session after the broker came back.
    pub missing: Vec<u64>,
    /// Promises that were broken, with the seeds of those that broke them.
    pub broken: Vec<(u64, Broken)>,
}

impl Return {
    /// Whether all came back, and kept every promise.
    #[must_use]
    pub fn all_well(&self) -> bool {
        self.missing.is_empty() && self.broken.is_empty()
    }
}

/// Runs a fleet of gateways through an outage of their broker. Of the plan's scenario the network, the clock and the
/// machine are taken, not its faults.
#[must_use]
pub fn fleet(plan: &Plan, gateways: u32, seed: u64) -> Return {
    let look = LOOK + plan.config.mqtt.reconnect.max;
    let plan = Plan { scenario: outage(&plan.scenario, look), ..plan.clone() };
    let seconds = (OUTAGE + look).as_secs();
    let empty = vec![0; usize::try_from(seconds).unwrap_or(0)];
    let mut seen = Return { back_at_s: OUTAGE.as_secs(), tries: empty.clone(), sessions: empty, ..Return::default() };
    let back_at = millis(GOES_AT + OUTAGE);
    for gateway in 0..gateways {
        let seed = seed.wrapping_add(u64::from(gateway));
        let (run, history) = run_in_full(&plan, seed);
        seen.broken.extend(run.broken.into_iter().map(|broken| (seed, broken)));
        // Nobody has a session through the outage: one that is had begins after it.
        if history.sessions.last().is_none_or(|at| *at < back_at) {
            seen.missing.push(seed);
        }
        count(&history.tries, &mut seen.tries);
        count(&history.sessions, &mut seen.sessions);
    }
    seen
}

fn outage(scenario: &Scenario, look: Duration) -> Scenario {
    let down = Fault {
        name: "outage".into(),
        kind: FaultKind::BrokerDown,
        when: When::At(vec![GOES_AT]),
        lasts: (OUTAGE, OUTAGE),
    };
    Scenario {
        lasts: GOES_AT + OUTAGE + look,
        calm: Duration::ZERO,
        faults: vec![down],
        commands: Vec::new(),
        expect: Vec::new(),
        ..scenario.clone()
    }
}

fn count(times: &[u64], seconds: &mut [u32]) {
    for at in times.iter().filter_map(|at| at.checked_sub(millis(GOES_AT))) {
        let second = usize::try_from(at / 1_000).unwrap_or(usize::MAX);
        if let Some(count) = seconds.get_mut(second) {
            *count += 1;
        }
    }
}
