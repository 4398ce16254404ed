//! The shortest history that still breaks a promise: what happened at random is written down as it happened, and then
//! faults, commands and time are taken away for as long as the same promise is still broken.

use std::time::Duration;

use super::report::{Moment, Promise, Run};
use super::scenario::{Fault, Order, Scenario, When};
use super::world::History;
use super::{Plan, run, run_in_full};

/// Runs that a search may cost.
const RUNS_MAX: u32 = 400;

/// The shortest history found that still breaks a promise.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// What of the scenario is left: faults and commands that are needed, and how long it has to last.
    pub left: Vec<String>,
    /// The timeline of the shortest run.
    pub timeline: Vec<Moment>,
}

/// A search.
struct Search<'a> {
    plan: &'a Plan,
    seed: u64,
    promise: Promise,
    runs: u32,
}

/// Takes away faults, commands and time for as long as the same promise is still broken.
#[must_use]
pub fn shrink(plan: &Plan, seed: u64, promise: Promise) -> Shrunk {
    let mut search = Search { plan, seed, promise, runs: 0 };
    let (first, history) = run_in_full(plan, seed);
    let written = written_down(&plan.scenario, &history);
    let (mut best, mut run) = match search.breaks(&written) {
        Some(run) => (written, run),
        // What the dice did besides mattered: the scenario stays as it is.
        None => (plan.scenario.clone(), first),
    };
    search.without(&mut best, &mut run, |scenario| &mut scenario.faults);
    search.without(&mut best, &mut run, |scenario| &mut scenario.commands);
    search.shorter(&mut best, &mut run);
    Shrunk { left: describe(&best), timeline: run.timeline }
}

impl Search<'_> {
    /// The run, if the promise is still broken in this world.
    fn breaks(&mut self, scenario: &Scenario) -> Option<Run> {
        self.runs += 1;
        let plan = Plan { scenario: scenario.clone(), ..self.plan.clone() };
        let run =
            if self.promise == Promise::SameTrace { run(&plan, self.seed) } else { run_in_full(&plan, self.seed).0 };
        run.broken.iter().any(|broken| broken.promise == self.promise).then_some(run)
    }

    /// Takes away what is not needed of a list: halves first, then quarters, down to one by one.
    fn without<T>(&mut self, best: &mut Scenario, run: &mut Run, list: fn(&mut Scenario) -> &mut Vec<T>) {
        let mut chunk = list(best).len();
        while chunk > 0 && self.runs < RUNS_MAX {
            let mut from = 0;
            while from < list(best).len() && self.runs < RUNS_MAX {
                let mut less = best.clone();
                let until = (from + chunk).min(list(&mut less).len());
                list(&mut less).drain(from..until);
                match self.breaks(&less) {
                    Some(still) => (*best, *run) = (less, still),
                    None => from += chunk,
                }
            }
            chunk /= 2;
        }
    }

    /// Ends earlier: halves what can still be taken off, until that is less than a minute.
    fn shorter(&mut self, best: &mut Scenario, run: &mut Run) {
        let mut step = best.lasts / 2;
        while step > Duration::from_secs(60) && self.runs < RUNS_MAX {
            let mut less = best.clone();
            less.lasts = less.lasts.saturating_sub(step);
            let fits = less.lasts > less.calm;
            match self.breaks(&less).filter(|_| fits) {
                Some(still) => (*best, *run) = (less, still),
                None => step /= 2,
            }
        }
    }
}

/// The scenario with each fault and each order at the time when it came.
fn written_down(scenario: &Scenario, history: &History) -> Scenario {
    let at = |ms: u64| When::At(vec![Duration::from_millis(ms)]);
    let fault = |&(index, when, lasts): &(usize, u64, u64)| {
        let fault = scenario.faults.get(index)?;
        let lasts = Duration::from_millis(lasts);
        Some(Fault { when: at(when), lasts: (lasts, lasts), ..fault.clone() })
    };
    let order = |&(index, when): &(usize, u64)| {
        let order = scenario.commands.get(index)?;
        Some(Order { when: at(when), ..order.clone() })
    };
    Scenario {
        faults: history.faults.iter().filter_map(fault).collect(),
        commands: history.orders.iter().filter_map(order).collect(),
        ..scenario.clone()
    }
}

/// What is left, in lines.
fn describe(scenario: &Scenario) -> Vec<String> {
    let time = |duration: Duration| humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    let when = |when: &When| match when {
        When::At(times) => format!("at {}", times.iter().map(|at| time(*at)).collect::<Vec<_>>().join(", ")),
        When::Every(mean) => format!("every {}", time(*mean)),
    };
    let faults = scenario.faults.iter().map(|fault| {
        let lasts = if fault.lasts.1.is_zero() { String::new() } else { format!(" for {}", time(fault.lasts.1)) };
        format!("fault {} {}{lasts}", fault.name, when(&fault.when))
    });
    let orders = scenario.commands.iter().map(|order| format!("command {} {}", order.name, when(&order.when)));
    faults.chain(orders).chain([format!("lasts {}", time(scenario.lasts))]).collect()
}
