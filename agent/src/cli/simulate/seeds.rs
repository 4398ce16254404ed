//! Many seeds of one scenario: run side by side, and summed up. What is summed up doesn't depend on how many threads
//! there were, nor on which of them was faster; only the speed does.
#![expect(clippy::disallowed_methods, reason = "how fast it was is told, so a clock is read")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::figures::{self, FIXED, Unit, real};
use super::look::{Look, Tone, count, plural, printable, span};
use super::promises;
use super::replay::Replay;
use super::summary;
use crate::sim::report::{Broken, Promise, Run};
use crate::sim::{self, Plan};

/// Runs that wait to be summed up, a thread.
const RUNS_WAITING_PER_JOB: usize = 2;
/// Seeds with a broken promise that are listed, the lowest ones: one is enough to begin with.
const BAD_SEEDS_KEPT: usize = 20;
/// The percentiles that are shown, with their names.
const PERCENTILES: [(&str, f64); 5] = [("min", 0.0), ("p5", 5.0), ("median", 50.0), ("p95", 95.0), ("max", 100.0)];
/// The width of a table's label, and of a column.
const LABEL_WIDTH: usize = 24;
/// See [`LABEL_WIDTH`].
const COLUMN_WIDTH: usize = 11;
/// How often the line that tells how far it is is written anew.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Back to the line's beginning, and erases it (ECMA-48, EL).
const CLEAR_LINE: &str = "\r\x1b[K";

/// Which seeds, and how many at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seeds {
    /// The first.
    pub(super) first: u64,
    /// How many; at least one, and the last one exists.
    pub(super) count: u64,
    /// Threads; at least one.
    pub(super) jobs: usize,
}

/// What came of many runs.
#[derive(Debug, Default)]
pub(super) struct Totals {
    runs: u64,
    simulated_s: u64,
    /// By the place in [`FIXED`].
    fixed: Vec<Vec<f64>>,
    /// By key and label; runs without one are zero, and not in it.
    named: BTreeMap<(String, String), Vec<f64>>,
    /// By the expectation's text.
    unmet: BTreeMap<String, Missed>,
    /// By the promise that some seeds could not show to be held.
    not_judged: BTreeMap<Promise, Missed>,
    /// In how many seeds each promise was broken.
    promises: BTreeMap<Promise, u64>,
    /// The first [`BAD_SEEDS_KEPT`] seeds that broke a promise.
    bad: BTreeMap<u64, Bad>,
    bad_count: u64,
}

/// An expectation that some seeds did not meet, or a promise that they could not show.
#[derive(Debug, Default)]
struct Missed {
    seeds: u64,
    first: u64,
    found: String,
}

/// What a seed did wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bad {
    /// The simulated agent, or its world, panicked.
    Panicked,
    /// It broke these.
    Broke(Vec<Broken>),
}

/// Runs one seed; `None` if it panicked, which was then printed: the seed must not get lost with it.
pub(super) fn attempt(plan: &Plan, seed: u64) -> Option<Run> {
    panic::catch_unwind(|| sim::run(plan, seed)).ok()
}

/// Runs all seeds, and says how long it took. How far it is is said on stderr if that is a terminal.
///
/// # Errors
/// A thread could not be started.
pub(super) fn run(plan: &Plan, seeds: Seeds) -> io::Result<(Totals, Duration)> {
    let began = Instant::now();
    let mut stderr = io::stderr();
    let shows_progress = stderr.is_terminal();
    let mut shown = began;
    let next = AtomicU64::new(0);
    let mut totals = Totals::default();
    thread::scope(|scope| {
        let (tell, told) = mpsc::sync_channel(seeds.jobs * RUNS_WAITING_PER_JOB);
        for _ in 0..seeds.jobs {
            let (tell, next) = (tell.clone(), &next);
            thread::Builder::new().spawn_scoped(scope, move || run_some(plan, seeds, next, &tell))?;
        }
        // Theirs are left: what they tell ends when they end.
        drop(tell);
        for (seed, run) in told {
            totals.add(seed, run);
            if shows_progress && shown.elapsed() >= PROGRESS_EVERY {
                shown = Instant::now();
                let text = progress(totals.runs, seeds.count, began.elapsed());
                // Who has closed the terminal still gets the result.
                let _ = write!(stderr, "{CLEAR_LINE}{text}");
            }
        }
        io::Result::Ok(())
    })?;
    if shows_progress {
        let _ = write!(stderr, "{CLEAR_LINE}");
    }
    Ok((totals, began.elapsed()))
}

/// Runs the next seed that nobody has begun, until there is none, or nobody listens any more.
fn run_some(plan: &Plan, seeds: Seeds, next: &AtomicU64, tell: &mpsc::SyncSender<(u64, Option<Run>)>) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= seeds.count {
            return;
        }
        let seed = seeds.first.saturating_add(index);
        let Ok(()) = tell.send((seed, attempt(plan, seed))) else { return };
    }
}

/// `12 of 100 seeds, 1 min 3 s left`, at the pace of those that are done.
fn progress(done: u64, seeds: u64, took: Duration) -> String {
    let left = u128::from(seeds - done) * took.as_millis() / u128::from(done.max(1)) / 1_000;
    format!("{} of {}, {} left", count(done), plural(seeds, "seed"), span(u64::try_from(left).unwrap_or(u64::MAX)))
}

impl Totals {
    /// Counts a run in.
    pub(super) fn add(&mut self, seed: u64, run: Option<Run>) {
        self.runs += 1;
        let Some(run) = run else { return self.add_bad(seed, Bad::Panicked) };
        self.simulated_s += run.summary.lasted_s;
        self.fixed.resize(FIXED.len(), Vec::new());
        for (values, figure) in self.fixed.iter_mut().zip(&FIXED) {
            values.extend((figure.read)(&run.summary));
        }
        for (name, times) in figures::named(&run.summary) {
            self.named.entry(name).or_default().push(real(times));
        }
        // By its text: one that is written twice in the scenario counts once a seed.
        let unmet: BTreeMap<String, String> =
            run.unmet.into_iter().map(|unmet| (unmet.expectation, unmet.found)).collect();
        for (expectation, found) in unmet {
            self.unmet.entry(expectation).or_default().add(seed, found);
        }
        for open in run.not_judged {
            self.not_judged.entry(open.promise).or_default().add(seed, open.why);
        }
        for promise in promises::promises_of(&run.broken) {
            *self.promises.entry(promise).or_default() += 1;
        }
        if !run.broken.is_empty() {
            self.add_bad(seed, Bad::Broke(run.broken));
        }
    }

    fn add_bad(&mut self, seed: u64, bad: Bad) {
        self.bad_count += 1;
        self.bad.insert(seed, bad);
        if self.bad.len() > BAD_SEEDS_KEPT {
            self.bad.pop_last();
        }
    }

    /// Whether every promise was held and every expectation met.
    pub(super) fn all_well(&self) -> bool {
        self.bad_count == 0 && self.unmet.is_empty()
    }

    /// The lowest seed that broke a promise, and what it broke.
    pub(super) fn first_bad(&self) -> Option<(u64, &Bad)> {
        self.bad.first_key_value().map(|(seed, bad)| (*seed, bad))
    }

    /// The seed that is worth a look first: that broke a promise, or that did not meet an expectation.
    pub(super) fn worst(&self) -> Option<u64> {
        self.first_bad().map(|(seed, _)| seed).or_else(|| self.unmet.values().map(|missed| missed.first).min())
    }

    /// How many days of a gateway were simulated in a second.
    fn days_per_second(&self, took: Duration) -> f64 {
        real(self.simulated_s) / 86_400.0 / took.as_secs_f64().max(f64::EPSILON)
    }

    /// Key, label, unit and percentiles of each figure.
    fn rows(&self) -> Vec<(String, String, Unit, [f64; PERCENTILES.len()])> {
        let fixed = FIXED.iter().zip(&self.fixed).filter(|(_, values)| !values.is_empty()).map(|(figure, values)| {
            (figure.key.to_owned(), figure.label.to_owned(), figure.unit, spread(values.clone()))
        });
        let ran = self.fixed.first().map_or(0, Vec::len);
        let named = self.named.iter().map(|((key, label), values)| {
            let mut values = values.clone();
            values.resize(ran.max(values.len()), 0.0);
            (key.clone(), label.clone(), Unit::Count, spread(values))
        });
        fixed.chain(named).collect()
    }

    /// What came of it, for a human.
    pub(super) fn render(&self, plan: &Plan, seeds: Seeds, took: Duration, replay: &Replay, look: Look) -> String {
        let mut text = self.head(plan, seeds, took);
        text += &self.table();
        text += &summary::not_shown(plan, look);
        text.push('\n');
        if self.bad_count == 0 {
            let never = self.not_judged.values().filter(|open| open.seeds == self.runs).count();
            text += &promises::held(never, look);
        } else {
            text += &self.broken(replay, look);
        }
        for (promise, open) in &self.not_judged {
            let times = format!("not judged in {} of {}", count(open.seeds), plural(self.runs, "seed"));
            let (times, words) = (look.paint(Tone::Doubtful, &times), promises::words(*promise));
            let _ = writeln!(text, "{times}: {words}\n  seed {}: {}", open.first, printable(&open.found));
        }
        text.push('\n');
        text += &self.expectations(plan, replay, look);
        text
    }

    fn head(&self, plan: &Plan, seeds: Seeds, took: Duration) -> String {
        let name = printable(&plan.scenario.name);
        let (last, each) = (seeds.first.saturating_add(seeds.count - 1), span(plan.scenario.lasts.as_secs()));
        let speed = count(figures::whole(self.days_per_second(took)));
        let jobs = plural(seeds.jobs as u64, "thread");
        format!(
            "{name}: {} ({} to {last}), {each} each, in {:.1} s: {speed} device-days per second on {jobs}\n\n",
            plural(self.runs, "seed"),
            seeds.first,
            took.as_secs_f64()
        )
    }

    fn table(&self) -> String {
        let mut text = " ".repeat(LABEL_WIDTH);
        for (name, _) in PERCENTILES {
            let _ = write!(text, " {name:>COLUMN_WIDTH$}");
        }
        text.push('\n');
        for (_, label, unit, spread) in self.rows() {
            let _ = write!(text, "{:<LABEL_WIDTH$}", printable(&label));
            for value in spread {
                let _ = write!(text, " {:>COLUMN_WIDTH$}", figures::words(unit, value));
            }
            text.push('\n');
        }
        text
    }

    fn broken(&self, replay: &Replay, look: Look) -> String {
        let mut text = String::new();
        let title = format!("BROKEN PROMISES in {} of {}", count(self.bad_count), plural(self.runs, "seed"));
        let _ = writeln!(text, "{}", look.paint(Tone::Bad, &title));
        for (promise, seeds) in &self.promises {
            let _ = writeln!(text, "  in {:<12} {}", plural(*seeds, "seed"), promises::words(*promise));
        }
        for (seed, bad) in &self.bad {
            let what = match bad {
                Bad::Panicked => "panicked".to_owned(),
                Bad::Broke(broken) => broken.first().map_or(String::new(), |first| printable(&first.what)),
            };
            let _ = writeln!(text, "  seed {seed}: {what}\n    replay  {}", replay.command(*seed));
        }
        let more = self.bad_count.saturating_sub(self.bad.len() as u64);
        if more > 0 {
            let _ = writeln!(text, "  {} and {} more", look.ellipsis(), plural(more, "seed"));
        }
        text
    }

    fn expectations(&self, plan: &Plan, replay: &Replay, look: Look) -> String {
        let mut text = String::new();
        for expectation in &plan.scenario.expect {
            let missed = self.unmet.get(&expectation.text);
            let met = self.runs - missed.map_or(0, |missed| missed.seeds);
            let tone = if missed.is_none() { Tone::Good } else { Tone::Bad };
            let times = look.paint(tone, &format!("met by {} of {}", count(met), plural(self.runs, "seed")));
            let _ = writeln!(text, "{times}: {}", printable(&expectation.text));
            if let Some(missed) = missed {
                let _ = writeln!(text, "  seed {}: found {}", missed.first, printable(&missed.found));
                let _ = writeln!(text, "    replay  {}", replay.command(missed.first));
            }
        }
        text
    }

    /// What came of it, for a program.
    pub(super) fn json(&self, plan: &Plan, seeds: Seeds, took: Duration, replay: &Replay) -> Json {
        let spread = |values: [f64; PERCENTILES.len()]| -> Json {
            PERCENTILES.into_iter().zip(values).map(|((name, _), value)| (name.to_owned(), json!(value))).collect()
        };
        let figures: serde_json::Map<String, Json> =
            self.rows().into_iter().map(|(key, _, _, values)| (key, spread(values))).collect();
        let bad: Vec<Json> = self.bad.iter().map(|(seed, bad)| bad.json(*seed, replay)).collect();
        let open = |(promise, open): (&Promise, &Missed)| {
            let first = json!({ "seed": open.first, "why": open.found });
            json!({ "promise": promise, "seeds": open.seeds, "first": first })
        };
        let not_judged: Vec<Json> = self.not_judged.iter().map(open).collect();
        let expectations: Vec<Json> = plan
            .scenario
            .expect
            .iter()
            .map(|expectation| {
                let missed = self.unmet.get(&expectation.text);
                json!({
                    "expectation": expectation.text,
                    "met": self.runs - missed.map_or(0, |missed| missed.seeds),
                    "first_unmet": missed.map(|missed| json!({
                        "seed": missed.first, "found": missed.found, "replay": replay.command(missed.first),
                    })),
                })
            })
            .collect();
        json!({
            "scenario": plan.scenario.name,
            "first_seed": seeds.first,
            "seeds": self.runs,
            "device_days_per_second": self.days_per_second(took),
            "figures": figures,
            "broken_seeds": self.bad_count,
            "broken": bad,
            "not_judged": not_judged,
            "unmoved": sim::unmoved(plan),
            "expectations": expectations,
        })
    }
}

impl Missed {
    fn add(&mut self, seed: u64, found: String) {
        if self.seeds == 0 || seed < self.first {
            (self.first, self.found) = (seed, found);
        }
        self.seeds += 1;
    }
}

impl Bad {
    fn json(&self, seed: u64, replay: &Replay) -> Json {
        let broken = match self {
            Self::Panicked => json!([]),
            Self::Broke(broken) => json!(broken),
        };
        json!({ "seed": seed, "panicked": *self == Self::Panicked, "broken": broken, "replay": replay.command(seed) })
    }
}

/// The percentiles by nearest rank: each is a value that a run had.
fn spread(mut values: Vec<f64>) -> [f64; PERCENTILES.len()] {
    values.sort_by(f64::total_cmp);
    PERCENTILES.map(|(_, percent)| {
        let rank = figures::whole((real(values.len() as u64) * percent / 100.0).ceil()).max(1);
        usize::try_from(rank - 1).ok().and_then(|index| values.get(index)).copied().unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_tells_what_is_left_at_the_pace_so_far() {
        assert_eq!(progress(0, 1, Duration::ZERO), "0 of 1 seed, 0 s left");
        assert_eq!(progress(250, 1_000, Duration::from_secs(30)), "250 of 1,000 seeds, 1 min 30 s left");
    }
}
