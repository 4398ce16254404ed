//! `fieldmedic simulate`: what this configuration would have done in a scenario's world, and whether the agent kept its
//! promises in it. This module finds and loads what is simulated and says what came of it; the world is in
//! [`crate::sim`].
#![expect(clippy::disallowed_types, reason = "a trace is written to a file")]

mod figures;
mod find;
mod fleet;
mod look;
mod promises;
mod replay;
mod seeds;
mod summary;
#[cfg(test)]
mod tests;
mod timeline;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Context as _;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::{Value as Json, json};

use super::{BAD_USAGE, DONE, FAILED, check, fail};
use crate::config::{self, Loaded, Problem};
use crate::helper::Policy;
use crate::sim::planted::Planted;
use crate::sim::report::{Broken, Moment, Promise, Run};
use crate::sim::scenario::{self, Scenario};
use crate::sim::{self, Plan};
use look::Look;
use replay::Replay;
use seeds::{Bad, Seeds};
use timeline::Extent;

/// Seeds in a run of the command: each keeps some hundred bytes until the end.
const SEEDS_MAX: u64 = 1_000_000;
/// Threads: more than any machine has.
const JOBS_MAX: u64 = 1_024;
/// Gateways in a fleet: one needs some kilobytes.
const FLEET_MAX: u64 = 1_000_000;
/// The device's name where the configuration gives none: not this machine's, so that a seed means the same on each.
const DEVICE: &str = "simulated";

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    fieldmedic simulate --list                                     the shipped scenarios\n  \
    fieldmedic simulate app-crash-loop                             one run, and what came of it\n  \
    fieldmedic simulate winter.toml --config agent.toml --seed 7   your world, your configuration\n  \
    fieldmedic simulate mixed-faults --seeds 1000                  many runs: percentiles\n  \
    fieldmedic simulate quiet --fleet 1000                         a fleet's return after an outage\n  \
    fieldmedic simulate winter.toml --config agent.toml --policy policy.toml   what root lets rules do\n  \
    fieldmedic simulate winter.toml --seeds 200 --json --trace failed.jsonl\n\n\
    Exit codes: 0 every promise held and every expectation met, 1 not so, 2 bad usage, config or scenario.")]
pub(super) struct SimulateArgs {
    /// The scenario: a file, or the name of a shipped one.
    #[arg(required_unless_present = "list")]
    scenario: Option<PathBuf>,
    /// Lists the shipped scenarios, and what each shows.
    #[arg(long, exclusive = true)]
    list: bool,
    /// A configuration file; may be repeated, later files override [default: the one that the scenario names].
    #[arg(long = "config", value_name = "FILE")]
    configs: Vec<PathBuf>,
    /// Root's policy (policy.toml): what it doesn't let the gateway's rules or an operator do is refused, as its helper
    /// would. Its budgets are not counted [default: nothing is refused].
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// All chance of a run comes from it: the same seed, the same run.
    #[arg(long, value_name = "N", value_parser = whole(0, u64::MAX), default_value_t = 1)]
    seed: u64,
    /// Runs so many seeds, from --seed on, and sums them up.
    #[arg(long, value_name = "N", value_parser = whole(1, SEEDS_MAX), default_value_t = 1,
        hide_default_value = true)]
    seeds: u64,
    /// Threads for --seeds [default: one a core].
    #[arg(long, value_name = "N", value_parser = whole(1, JOBS_MAX))]
    jobs: Option<u64>,
    /// Writes the timeline as JSON lines, `-` for stdout; of many seeds that of the first that went wrong, or else of
    /// the first.
    #[arg(long, value_name = "FILE", conflicts_with = "fleet")]
    trace: Option<PathBuf>,
    /// One JSON object with what came of it.
    #[arg(long)]
    json: bool,
    /// Shows every line of the timeline, and folds none.
    #[arg(long)]
    all: bool,
    /// Shows how so many gateways come back after an outage of their broker.
    #[arg(long, value_name = "N", value_parser = whole(1, FLEET_MAX).try_map(u32::try_from), conflicts_with = "seeds")]
    fleet: Option<u32>,
    /// Doesn't look for the shortest history that still breaks a promise.
    #[arg(long)]
    no_shrink: bool,
    /// Gives the agent a bug, to see that the checks find it: mixed-faults does with --seeds 40, and of never-evicts
    /// disk-filled, of no-queue-bound slow-disk.
    #[arg(long, value_name = "BUG", value_parser = bug())]
    plant: Option<Planted>,
}

/// A whole number in these bounds.
fn whole(least: u64, most: u64) -> impl TypedValueParser<Value = u64> {
    let fits = move |number: &u64| (least..=most).contains(number);
    move |text: &str| {
        let number = text.parse().ok().filter(fits);
        number.ok_or_else(|| format!("a whole number from {least} to {most} is expected"))
    }
}

/// The names of the bugs that can be planted.
fn bug() -> impl TypedValueParser<Value = Planted> {
    PossibleValuesParser::new(Planted::ALL.iter().map(|bug| bug.word()))
        .try_map(|word| Planted::parse(&word).ok_or("no such bug"))
}

/// What is simulated, and how it is shown.
struct Show<'a> {
    args: &'a SimulateArgs,
    plan: Plan,
    replay: Replay,
    /// Of the stream that the readable text goes to.
    look: Look,
}

pub(super) fn run(args: &SimulateArgs) -> u8 {
    simulate(args).unwrap_or_else(|error| fail(&error))
}

fn simulate(args: &SimulateArgs) -> anyhow::Result<u8> {
    if let Some(wrong) = misused(args) {
        eprintln!("fieldmedic: {wrong}");
        return Ok(BAD_USAGE);
    }
    let Some(named) = &args.scenario else { return list() };
    let file = match find::resolve(named) {
        Ok(file) => file,
        Err(unknown) => {
            eprintln!("fieldmedic: {unknown}");
            return Ok(BAD_USAGE);
        }
    };
    let plan = load(&file, &args.configs)?;
    let policy = match args.policy.as_deref().map(Policy::read).transpose() {
        Ok(policy) => policy,
        Err(problems) => return Ok(check::refuse(&problems, "policy", &mut io::stderr().lock())?),
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(code) => return Ok(code),
    };
    let plan = Plan { policy, planted: args.plant, ..plan };
    let program = std::env::args().next().unwrap_or_else(|| "fieldmedic".to_owned());
    let replay = Replay {
        program,
        scenario: named.clone(),
        configs: args.configs.clone(),
        policy: args.policy.clone(),
        planted: args.plant,
    };
    let look = if args.traces_to_stdout() { Look::at(&io::stderr()) } else { Look::at(&io::stdout()) };
    let show = Show { args, plan, replay, look };
    match args.fleet {
        Some(gateways) => show.fleet(gateways),
        None if args.seeds > 1 => show.many(),
        None => show.one(),
    }
}

/// What the command line's grammar can't say.
fn misused(args: &SimulateArgs) -> Option<String> {
    if args.json && args.traces_to_stdout() {
        return Some("--json and --trace - both want stdout; name a file for the trace".to_owned());
    }
    if args.seed.checked_add(args.seeds - 1).is_none() {
        return Some(format!("--seed {} leaves no room for {} seeds", args.seed, args.seeds));
    }
    None
}

fn list() -> anyhow::Result<u8> {
    let (listed, problems) = find::list();
    write_text(&mut io::stdout().lock(), &listed)?;
    if listed.is_empty() && problems.is_empty() {
        eprintln!("fieldmedic: no scenario is in {}; name one of your own by its path", find::places());
        return Ok(FAILED);
    }
    if problems.is_empty() {
        return Ok(DONE);
    }
    Ok(check::refuse(&problems, "scenario", &mut io::stderr().lock())?)
}

/// The scenario and the configuration; or the exit code, once every mistake of both was told.
fn load(file: &Path, configs: &[PathBuf]) -> io::Result<Result<Plan, u8>> {
    let err = &mut io::stderr().lock();
    let scenario = scenario::load(file);
    let files = match (configs, &scenario) {
        ([], Ok(scenario)) => configs_of(file, scenario),
        _ => configs.to_vec(),
    };
    // Without a scenario there may be no configuration to look at.
    let config = match (&scenario, files.as_slice()) {
        (Err(_), []) => None,
        (Ok(_), []) => Some(Err(vec![no_config(file)])),
        _ => Some(config::load_on_host(&files, DEVICE)),
    };
    if let Err(problems) = &scenario {
        if config::load_on_host(&[file.to_owned()], DEVICE).is_ok() {
            let file = file.display();
            writeln!(err, "fieldmedic: {file} is an agent's configuration: simulate SCENARIO --config {file}")?;
            return Ok(Err(BAD_USAGE));
        }
        check::refuse(problems, "scenario", err)?;
    }
    if let Some(Err(problems)) = &config {
        check::refuse(problems, "configuration", err)?;
    }
    let (Ok(scenario), Some(Ok(Loaded { config, warnings, .. }))) = (scenario, config) else {
        return Ok(Err(BAD_USAGE));
    };
    // The operator's is added to those that are trusted: commands are accepted here.
    let (_, warnings): (Vec<_>, Vec<_>) = warnings.into_iter().partition(|it| it.key == "commands.trusted_keys");
    check::warn(&warnings, err)?;
    Ok(Ok(Plan { scenario, config, policy: None, planted: None }))
}

/// The configuration that the scenario is made for lies beside it.
fn configs_of(file: &Path, scenario: &Scenario) -> Vec<PathBuf> {
    let beside = file.parent().unwrap_or(Path::new(""));
    scenario.config.iter().map(|config| beside.join(config)).collect()
}

fn no_config(file: &Path) -> Problem {
    let message = "config: the scenario names no configuration; set it, or name one with --config FILE".to_owned();
    Problem { file: file.to_owned(), line: 1, column: 1, key: "config".to_owned(), message }
}

impl Show<'_> {
    /// One seed: its timeline, and what came of it.
    fn one(&self) -> anyhow::Result<u8> {
        let trace = self.open_trace()?;
        let seed = self.args.seed;
        let Some(run) = seeds::attempt(&self.plan, seed) else { return Ok(self.panicked(seed)) };
        self.write_trace(trace, &run.timeline)?;
        if self.args.json {
            write_json(&self.run_as_json(&run))?;
        } else {
            self.say(&self.run_as_text(&run))?;
            for promise in promises::promises_of(&run.broken) {
                self.say_broken(seed, promise, &run.broken)?;
            }
            let replay = self.replay.command(seed);
            self.say(&summary::expectations(&self.plan.scenario.expect, &run.unmet, &replay, self.look))?;
        }
        Ok(if run.broken.is_empty() && run.unmet.is_empty() { DONE } else { FAILED })
    }

    /// Many seeds, summed up.
    fn many(&self) -> anyhow::Result<u8> {
        let trace = self.open_trace()?;
        let seeds = Seeds { first: self.args.seed, count: self.args.seeds, jobs: self.jobs()? };
        let (totals, took) = seeds::run(&self.plan, seeds).context("start a thread to simulate in")?;
        if let Some(path) = trace {
            let seed = totals.worst().unwrap_or(seeds.first);
            let run = seeds::attempt(&self.plan, seed);
            self.write_trace(Some(path), &run.map(|run| run.timeline).unwrap_or_default())?;
        }
        if self.args.json {
            write_json(&totals.json(&self.plan, seeds, took, &self.replay))?;
        } else {
            self.say(&totals.render(&self.plan, seeds, took, &self.replay, self.look))?;
            // One story is enough here; the others are told when their seeds are replayed.
            if let Some((seed, Bad::Broke(broken))) = totals.first_bad() {
                if let Some(promise) = promises::promises_of(broken).first() {
                    self.say(&format!("\nThe first of them, seed {seed}:\n\n"))?;
                    self.say_broken(seed, *promise, broken)?;
                }
            }
        }
        Ok(if totals.all_well() { DONE } else { FAILED })
    }

    /// A fleet's return.
    fn fleet(&self, gateways: u32) -> anyhow::Result<u8> {
        let came = sim::fleet(&self.plan, gateways, self.args.seed);
        if self.args.json {
            write_json(&fleet::json(&came, gateways, self.args.seed, &self.replay))?;
        } else {
            self.say(&fleet::render(&came, gateways, self.args.seed, self.look))?;
            self.say(&fleet::wrong(&came, &self.replay, self.look))?;
        }
        Ok(if came.all_well() { DONE } else { FAILED })
    }

    fn run_as_text(&self, run: &Run) -> String {
        let scenario = &self.plan.scenario;
        let (name, about) = (look::printable(&scenario.name), look::printable(&scenario.about));
        let mut text = format!("{name}: {about}\nseed {}, trace {:016x}\n\n", run.seed, run.trace_hash);
        text += &timeline::render(&run.timeline, self.args.extent(), "", self.look);
        text += &summary::not_kept(&run.summary, self.look);
        text.push('\n');
        text += &summary::figures(&run.summary, self.look);
        text += &summary::not_shown(&self.plan, self.look);
        text.push('\n');
        if run.broken.is_empty() {
            text += &promises::held(run.not_judged.len(), self.look);
        }
        text += &promises::not_judged(&run.not_judged, self.look);
        text
    }

    fn run_as_json(&self, run: &Run) -> Json {
        json!({
            "scenario": self.plan.scenario.name,
            "seed": run.seed,
            // As text: JSON's numbers are exact up to 2^53 only.
            "trace_hash": format!("{:016x}", run.trace_hash),
            "summary": run.summary,
            "broken": run.broken,
            "not_judged": run.not_judged,
            "unmet": run.unmet,
            "unmoved": sim::unmoved(&self.plan),
            "replay": self.replay.command(run.seed),
        })
    }

    fn say_broken(&self, seed: u64, promise: Promise, all: &[Broken]) -> anyhow::Result<()> {
        let replay = self.replay.command(seed);
        self.say(&promises::broken(promise, all, seed, &replay, self.look))?;
        if !self.args.no_shrink {
            // Told before it is looked for, which takes many runs.
            let shrunk = sim::shrink(&self.plan, seed, promise);
            self.say(&promises::shortest(&shrunk, self.args.extent(), self.look))?;
        }
        self.say("\n")
    }

    /// A panic has printed what it was; the seed is what it doesn't know.
    fn panicked(&self, seed: u64) -> u8 {
        eprintln!("fieldmedic: seed {seed} panicked; replay: {}", self.replay.command(seed));
        FAILED
    }

    fn jobs(&self) -> anyhow::Result<usize> {
        let jobs = self.args.jobs.map_or_else(
            || thread::available_parallelism().map_or(1, Into::into),
            |jobs| usize::try_from(jobs).unwrap_or(1),
        );
        Ok(jobs.min(usize::try_from(self.args.seeds)?))
    }

    /// Opened before the run: nobody wants to learn after an hour that it can't be written.
    fn open_trace(&self) -> anyhow::Result<Option<Box<dyn Write>>> {
        match &self.args.trace {
            None => Ok(None),
            Some(_) if self.args.traces_to_stdout() => Ok(Some(Box::new(io::stdout()))),
            Some(path) => {
                let file = File::create(path).with_context(|| format!("create the trace {}", path.display()))?;
                Ok(Some(Box::new(file)))
            }
        }
    }

    fn write_trace(&self, trace: Option<Box<dyn Write>>, timeline: &[Moment]) -> anyhow::Result<()> {
        let Some(trace) = trace else { return Ok(()) };
        let mut trace = BufWriter::new(trace);
        let written = timeline.iter().try_for_each(|moment| {
            serde_json::to_writer(&mut trace, moment)?;
            trace.write_all(b"\n")
        });
        unless_nobody_reads(written.and_then(|()| trace.flush())).context("write the trace")
    }

    /// Shows a text on stdout; on stderr where stdout carries the trace.
    fn say(&self, text: &str) -> anyhow::Result<()> {
        if self.args.traces_to_stdout() {
            write_text(&mut io::stderr().lock(), text)
        } else {
            write_text(&mut io::stdout().lock(), text)
        }
    }
}

impl SimulateArgs {
    fn traces_to_stdout(&self) -> bool {
        self.trace.as_deref() == Some(Path::new("-"))
    }

    const fn extent(&self) -> Extent {
        if self.all { Extent::All } else { Extent::Brief }
    }
}

fn write_json(value: &Json) -> anyhow::Result<()> {
    write_text(&mut io::stdout().lock(), &format!("{value}\n"))
}

fn write_text(out: &mut impl Write, text: &str) -> anyhow::Result<()> {
    unless_nobody_reads(out.write_all(text.as_bytes()).and_then(|()| out.flush())).context("write what came of it")
}

/// A reader that has seen enough (`| head`) changes nothing about what came of a run.
fn unless_nobody_reads(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
