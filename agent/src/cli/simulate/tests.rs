//! What is shown, held against runs that were made by hand.
#![expect(clippy::disallowed_methods, reason = "tests lay out the files that are read")]

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Parser as _;

use super::look::Look;
use super::replay::Replay;
use super::seeds::{Bad, Seeds, Totals};
use super::timeline::{self, Extent};
use super::*;
use crate::sim::report::{Broken, NotJudged, Promise, Summary, Unmet, What};
use crate::sim::scenario::{Bounds, Expectation, Subject};
use crate::sim::{Return, Shrunk};

/// The subcommand without the others.
#[derive(Debug, clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    args: SimulateArgs,
}

#[test]
fn what_is_no_number_is_told_with_what_is() {
    let parse = |flag: &str, number: &str| {
        let line = ["simulate", "winter.toml", flag, number];
        CommandLine::try_parse_from(line).map(|line| line.args).map_err(|error| error.to_string())
    };
    for (flag, number, bounds) in [
        ("--seed", "x", "from 0 to 18446744073709551615"),
        ("--seeds", "0", "from 1 to 1000000"),
        ("--jobs", "1.5", "from 1 to 1024"),
        ("--fleet", "many", "from 1 to 1000000"),
    ] {
        let error = parse(flag, number).unwrap_err();
        assert!(error.contains(&format!("a whole number {bounds} is expected")), "{error}");
    }
    let args = parse("--fleet", "7").unwrap();
    assert_eq!((args.seed, args.seeds, args.fleet), (1, 1, Some(7)));
}

const PLAIN: Look = Look { colours: false, unicode: true, width: 80 };
const ASCII: Look = Look { unicode: false, ..PLAIN };
const HOUR_MS: u64 = 3_600_000;

fn at(at_ms: u64, what: What) -> Moment {
    Moment { at_ms, boot: 1, what }
}

fn connected(at_ms: u64) -> Moment {
    at(at_ms, What::Connected { session_present: true, after_s: Some(90) })
}

fn disconnected(at_ms: u64) -> Moment {
    at(at_ms, What::Disconnected { reason: "no answer".into(), lasted_s: 3_600, sent: 1_234 })
}

fn shown(moments: &[Moment]) -> String {
    timeline::render(moments, Extent::Brief, "", PLAIN)
}

fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|(name, times)| ((*name).to_owned(), *times)).collect()
}

fn replay() -> Replay {
    Replay {
        program: "fieldmedic".into(),
        scenario: "winter.toml".into(),
        configs: Vec::new(),
        policy: None,
        planted: None,
    }
}

fn expectation(text: &str) -> Expectation {
    Expectation { of: Subject::Alarm("x".into()), bounds: Bounds::default(), text: text.into() }
}

/// A scenario of a day with two expectations.
fn plan() -> Plan {
    plan_in("")
}

/// The same, in a world with these tables.
fn plan_in(tables: &str) -> Plan {
    let dir = tempfile::tempdir().unwrap();
    let (scenario, config) = (dir.path().join("winter.toml"), dir.path().join("agent.toml"));
    std::fs::write(&scenario, format!("about = \"a dark week\"\n{tables}")).unwrap();
    std::fs::write(&config, "[mqtt]\nurl = \"mqtt://broker\"\n").unwrap();
    let mut scenario = scenario::load(&scenario).unwrap();
    scenario.lasts = Duration::from_secs(86_400);
    scenario.expect = vec![expectation("alarm = \"dark\""), expectation("remedy = \"reboot\", at_most = 0")];
    Plan { scenario, config: config::load_on_host(&[config], DEVICE).unwrap().config, policy: None, planted: None }
}

fn run_of(seed: u64, reboots: u64) -> Run {
    let summary = Summary { lasted_s: 86_400, reboots, sent_bytes: reboots * 1024, ..Summary::default() };
    let timeline = Vec::new();
    Run { seed, trace_hash: seed, timeline, summary, broken: Vec::new(), not_judged: Vec::new(), unmet: Vec::new() }
}

fn broken(promise: Promise, what: &str) -> Broken {
    Broken { promise, at_ms: 27 * HOUR_MS, what: what.into() }
}

fn totals_of(runs: impl IntoIterator<Item = Run>) -> Totals {
    let mut totals = Totals::default();
    for run in runs {
        totals.add(run.seed, Some(run));
    }
    totals
}

#[test]
fn a_timeline_has_a_line_a_moment_in_aligned_columns() {
    let alarm = |raised| What::Alarm {
        rule: "battery-low".into(),
        raised,
        severity: "warning",
        value: Some("19.5".into()),
        threshold: raised.then(|| "below 20".into()),
    };
    let moments = [
        at(0, What::Booted { boot_id: "3f2a".into() }),
        at(4_000, What::Started { after: "boot" }),
        at(61_000, What::FaultBegan { name: "no-sun".into(), detail: "for 3 d".into() }),
        at(26 * HOUR_MS, alarm(true)),
        at(
            26 * HOUR_MS + 1,
            What::Remedy {
                id: "r1".into(),
                trigger: "rule:battery-low".into(),
                action: "save-power".into(),
                status: "refused".into(),
                reason: Some("budget_spent".into()),
            },
        ),
        at(27 * HOUR_MS, What::Ordered { id: "c1".into(), command: "ping".into(), flaw: Some("forged") }),
        at(
            27 * HOUR_MS,
            What::Result {
                id: Some("c1".into()),
                command: None,
                status: "REJECTED",
                reason: Some("bad_signature".into()),
            },
        ),
        at(30 * HOUR_MS, What::Dropped { reason: "thinned".into(), records: 1_200 }),
        at(245 * HOUR_MS, alarm(false)),
    ];
    assert_eq!(
        shown(&moments),
        "\
day  0 00:00:00  boot     the machine is up, boot 1 (3f2a)
day  0 00:00:04  agent    started after: boot
day  0 00:01:01  fault    no-sun begins: for 3 d
day  1 02:00:00  alarm    battery-low raised (warning): at 19.5 (threshold below 20)
day  1 02:00:00  remedy   save-power refused: budget_spent, for rule:battery-low (r1)
day  1 03:00:00  operator orders ping (c1), forged
day  1 03:00:00  result   a command REJECTED: bad_signature (c1)
day  1 06:00:00  dropped  1,200 records given up: thinned
day 10 05:00:00  alarm    battery-low cleared: at 19.5
"
    );
}

#[test]
fn sessions_that_come_and_go_by_turns_are_folded_until_they_rest() {
    let mut moments: Vec<Moment> =
        (0..16).flat_map(|h| [connected(h * HOUR_MS), disconnected(h * HOUR_MS + 1)]).collect();
    moments.push(connected(40 * HOUR_MS));
    assert_eq!(
        shown(&moments),
        "\
day 0 00:00:00  link     connected after 1 min 30 s, the session goes on
day 0 00:00:00  link     connection lost after 1 h, 1,234 sent: no answer
day 0 01:00:00  link     connected after 1 min 30 s, the session goes on
                         … 14 more like this until day 0 15:00:00
day 0 01:00:00  link     connection lost after 1 h, 1,234 sent: no answer
                         … 14 more like this until day 0 15:00:00
day 1 16:00:00  link     connected after 1 min 30 s, the session goes on
"
    );
    assert_eq!(timeline::render(&moments, Extent::All, "", PLAIN).lines().count(), moments.len());
}

#[test]
fn commands_are_alike_though_each_has_its_own_id() {
    let acted = |number: u64| {
        let (action, target) = ("restart_unit".into(), "app.service".into());
        at(number, What::Acted { action, target, trigger: format!("command:c{number}"), status: "succeeded" })
    };
    let text = shown(&(0..50).map(acted).collect::<Vec<_>>());
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.ends_with("… 48 more like this until day 0 00:00:00\n"), "{text}");
}

#[test]
fn a_long_timeline_keeps_its_begin_and_its_end_and_says_what_is_left_out() {
    let fault = |n: u64| at(n * 1_000, What::FaultEnded { name: format!("fault-{n}") });
    let moments: Vec<Moment> = (0..1_500).map(fault).collect();
    let text = timeline::render(&moments, Extent::Brief, "", ASCII);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 181);
    assert!(lines[119].ends_with("fault-119 is over") && lines[121].ends_with("fault-1440 is over"), "{text}");
    assert_eq!(lines[120], "... 1,320 lines left out here; --all shows them");
    assert_eq!(timeline::render(&moments, Extent::All, "", ASCII).lines().count(), 1_500);
}

#[test]
fn colours_are_shown_only_where_they_are_wanted() {
    let colours = Look { colours: true, ..PLAIN };
    let ended = [at(0, What::Ended { how: "crash" })];
    assert!(timeline::render(&ended, Extent::Brief, "", colours).contains("\x1b[31magent    \x1b[0mended: crash"));
    assert!(!shown(&ended).contains('\x1b'));
}

#[test]
fn a_name_in_a_scenario_moves_no_cursor() {
    let text = shown(&[at(0, What::FaultEnded { name: "\x1b[2J".into() })]);
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn a_summary_says_what_was_done_and_what_was_given_up() {
    let summary = Summary {
        lasted_s: 7 * 86_400,
        powered_pct: 99.5,
        uptime_pct: 99.98,
        connected_pct: 87.654,
        charge_min_pct: Some(12.34),
        reboots: 1,
        crashes: 2,
        connects: 14,
        tries: 61,
        alarms: counts(&[("battery-low", 2), ("offline", 1)]),
        standing: vec!["offline".into()],
        remedies: [("restart_unit".to_owned(), counts(&[("SUCCEEDED", 3), ("FAILED", 1)]))].into(),
        commands: BTreeMap::new(),
        events: counts(&[("connected", 14), ("started", 3)]),
        messages: 10_080,
        sent_bytes: 7 * 1024 * 1024,
        duplicates: 4,
        records: 12_000,
        dropped: counts(&[("thinned", 12)]),
        waiting: 3,
        flash_bytes: 14 * 1024,
        store_max_bytes: 2048,
        moments_not_kept: 0,
    };
    assert_eq!(summary::not_kept(&summary, PLAIN), "");
    let cut_off = Summary { moments_not_kept: 1_200, ..Summary::default() };
    assert_eq!(summary::not_kept(&cut_off, PLAIN), "… 1,200 later moments not in the timeline, but counted\n");
    assert_eq!(
        summary::figures(&summary, PLAIN),
        "\
lasted       7 d
uptime       machine on power 99.50 % of the time, agent up 99.98 % of that,
             1 reboot, 2 crashes
connected    87.65 % of the agent's time, 14 sessions in 61 tries
battery      lowest charge 12.3 %
alarms       battery-low 2, offline 1, standing at the end: offline
remedies     restart_unit: FAILED 1 SUCCEEDED 3
commands     none
events       connected 14, started 3
sent         7.0 MiB, 1.0 MiB a day, 10,080 messages
records      12,000 stored, 3 wait, 4 duplicates
dropped      thinned 12
flash        14.0 KiB written, 2.0 KiB a day, store at most 2.0 KiB
"
    );
}

#[test]
fn each_expectation_is_told_with_what_was_found_instead() {
    let unmet = [Unmet { expectation: "alarm = \"dark\"".into(), found: "never raised".into() }];
    assert_eq!(
        summary::expectations(&plan().scenario.expect, &unmet, &replay().command(7), PLAIN),
        "\
1 of 2 expectations met:
  NOT MET alarm = \"dark\"
          found: never raised
  met     remedy = \"reboot\", at_most = 0
  replay  fieldmedic simulate winter.toml --seed 7
"
    );
}

#[test]
fn what_a_simulation_can_not_show_of_its_configuration_is_told() {
    let with = |config: &str, policy: Option<&str>| {
        let dir = tempfile::tempdir().unwrap();
        let (file, root) = (dir.path().join("agent.toml"), dir.path().join("policy.toml"));
        std::fs::write(&file, format!("[mqtt]\nurl = \"mqtt://broker\"\n{config}")).unwrap();
        let policy = policy.map(|policy| {
            std::fs::write(&root, policy).unwrap();
            Policy::read(&root).unwrap()
        });
        Plan { config: config::load_on_host(&[file], DEVICE).unwrap().config, policy, ..plan() }
    };
    assert_eq!(summary::not_shown(&with("", None), PLAIN), "");
    let rule = "[[rules]]\nname = \"flaky\"\nmetric = \"link.rx_errors\"\nabove = 3\nremedy = \"heal\"\n";
    let ladder = "[[ladders]]\nname = \"heal\"\nsteps = [{ do = \"reboot\" }]\n";
    let text = summary::not_shown(&with(&format!("{rule}{ladder}"), None), PLAIN);
    assert!(text.contains("doesn't move what they watch:\n             flaky (link.rx_errors)\n"), "{text}");
    assert!(text.contains("Root's policy (/etc/fieldmedic/policy.toml) is no part of this"), "{text}");
    let text = summary::not_shown(&with(ladder, Some("[allow]\nactions = [\"reboot\"]\n")), PLAIN);
    assert_eq!(text, "", "it is part of this");
    let named = with("[collect.battery]\nsupply = \"bq27441-0\"\n", None);
    assert_eq!(summary::not_shown(&named, PLAIN), "", "there is no battery to be taken for it");
    let powered = Plan { config: named.config, ..plan_in("[battery]\n") };
    let text = summary::not_shown(&powered, PLAIN);
    assert!(text.contains("taken for bq27441-0 (collect.battery.supply)"), "{text}");
}

#[test]
fn a_broken_promise_comes_with_its_words_its_seed_its_replay_and_its_shortest_history() {
    let all: Vec<Broken> = (0..5).map(|n| broken(Promise::AtMostOnce, &format!("c{n} ran twice"))).collect();
    let text = promises::broken(Promise::AtMostOnce, &all, 17, &replay().command(17), PLAIN);
    let shrunk = Shrunk { left: vec!["fault crash at 2h".into()], timeline: vec![connected(0), disconnected(1_000)] };
    assert_eq!(
        text + &promises::shortest(&shrunk, Extent::Brief, PLAIN),
        "\
BROKEN PROMISE: a command takes effect at most once
  seed    17
  found   day 1 03:00:00  c0 ran twice
  found   day 1 03:00:00  c1 ran twice
  found   day 1 03:00:00  c2 ran twice
          … 2 more
  replay  fieldmedic simulate winter.toml --seed 17
  the shortest history found that still breaks it (2 moments):
    needs fault crash at 2h
    day 0 00:00:00  link     connected after 1 min 30 s, the session goes on
    day 0 00:00:01  link     connection lost after 1 h, 1,234 sent: no answer
"
    );
}

#[test]
fn many_seeds_are_summed_up_by_percentiles_that_some_run_had() {
    let totals = totals_of((1..=100).map(|seed| {
        let mut run = run_of(seed, seed);
        if seed > 98 {
            run.summary.alarms = counts(&[("dark", seed)]);
        }
        run
    }));
    let seeds = Seeds { first: 1, count: 100, jobs: 2 };
    let text = totals.render(&plan(), seeds, Duration::from_secs(2), &replay(), PLAIN);
    let row = |label: &str| {
        let row = text.lines().find(|line| line.starts_with(label)).unwrap_or_else(|| panic!("no {label}: {text}"));
        row[label.len()..].split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(
        text.starts_with("winter: 100 seeds (1 to 100), 1 d each, in 2.0 s: 50 device-days per second on 2 threads\n"),
        "{text}"
    );
    assert_eq!(row("reboots"), ["1", "5", "50", "95", "100"]);
    assert_eq!(row("sent a day")[..2], ["1.0", "KiB"]);
    assert_eq!(row("alarm dark"), ["0", "0", "0", "0", "100"], "runs without it count as zero");
    assert!(!text.contains("lowest charge"), "no run had a battery: {text}");
    assert!(text.contains("\n10 promises held\n\nmet by 100 of 100 seeds: alarm = \"dark\"\n"), "{text}");
    assert!(totals.all_well() && totals.worst().is_none());
}

#[test]
fn what_is_summed_up_does_not_depend_on_which_thread_was_faster() {
    let runs = || {
        (1..=60).map(|seed| {
            let mut run = run_of(seed, seed % 7);
            if seed % 2 == 0 {
                run.broken = vec![broken(Promise::Liveness, &format!("{seed} records wait"))];
            }
            if seed % 5 == 0 {
                // Twice, as if it were written twice.
                let unmet = Unmet { expectation: "alarm = \"dark\"".into(), found: format!("{seed} times") };
                run.unmet = vec![unmet.clone(), unmet];
            }
            run
        })
    };
    let (plan, seeds, took) = (plan(), Seeds { first: 1, count: 60, jobs: 3 }, Duration::from_secs(1));
    let shown = |totals: Totals| {
        (totals.render(&plan, seeds, took, &replay(), PLAIN), totals.json(&plan, seeds, took, &replay()))
    };
    let (text, json) = shown(totals_of(runs()));
    assert_eq!(shown(totals_of(runs().collect::<Vec<_>>().into_iter().rev())), (text.clone(), json.clone()));

    assert!(text.contains("BROKEN PROMISES in 30 of 60 seeds\n  in 30 seeds     once faults end"), "{text}");
    assert!(
        text.contains("  seed 2: 2 records wait\n    replay  fieldmedic simulate winter.toml --seed 2\n"),
        "{text}"
    );
    assert!(text.contains("  … and 10 seeds more\n"), "{text}");
    assert!(text.contains("met by 48 of 60 seeds: alarm = \"dark\"\n  seed 5: found 5 times\n"), "{text}");
    assert_eq!(json["broken_seeds"], 30);
    assert_eq!(json["broken"][0]["replay"], "fieldmedic simulate winter.toml --seed 2");
    assert_eq!(json["figures"]["reboots"]["max"], 6.0);
    assert_eq!(json["expectations"][0]["first_unmet"]["seed"], 5);
    assert_eq!(json["expectations"][1]["first_unmet"], Json::Null);
}

#[test]
fn a_seed_that_panicked_is_listed_and_not_well() {
    let mut totals = totals_of([run_of(1, 0)]);
    totals.add(2, None);
    assert!(!totals.all_well());
    assert_eq!(totals.first_bad(), Some((2, &Bad::Panicked)));
    let seeds = Seeds { first: 1, count: 2, jobs: 1 };
    let text = totals.render(&plan(), seeds, Duration::from_secs(1), &replay(), PLAIN);
    assert!(text.contains("  seed 2: panicked\n    replay  fieldmedic simulate winter.toml --seed 2\n"), "{text}");
}

#[test]
fn every_seed_runs_once_on_however_many_threads() {
    let mut plan = plan();
    (plan.scenario.lasts, plan.scenario.calm) = (Duration::from_secs(600), Duration::from_secs(60));
    for jobs in [1, 3, 8] {
        let seeds = Seeds { first: u64::MAX - 40, count: 41, jobs };
        let (totals, took) = seeds::run(&plan, seeds).unwrap();
        assert_eq!(totals.json(&plan, seeds, took, &replay())["seeds"], 41, "{jobs} threads");
    }
}

#[test]
fn a_fleets_return_is_plotted_with_its_axes_its_peak_and_its_mean() {
    let came = Return {
        back_at_s: 4,
        tries: vec![0, 2, 2, 2, 16, 8, 4, 2],
        sessions: vec![0, 0, 0, 0, 4, 8, 4, 0],
        ..Return::default()
    };
    let narrow = Look { width: 40, ..PLAIN };
    let text = fleet::render(&came, 20, 1, narrow);
    assert_eq!(
        text,
        "\
20 gateways come back after a broker's outage of 4 s (seed 1)

tries to connect per second: peak 16, mean 4.5
     16 │    █
        │    █
        │    █
        │    █
      8 │    ██
        │    ██
        │    ███
        │ ███████
      0 └────────
         0 s ▲ broker back at 4 s
         a column is a second

sessions begun per second: peak 8, mean 2.0
      8 │     █
        │     █
        │     █
        │     █
      4 │    ███
        │    ███
        │    ███
        │    ███
      0 └────────
         0 s ▲ broker back at 4 s
         a column is a second

full jitter: at most 16 tries per second once the broker was back; all at once it would have been 20
16 sessions began, the last one 2 s after the broker was back
"
    );
}

#[test]
fn without_utf_8_a_plot_is_ascii() {
    let came = Return { back_at_s: 10, tries: (0..100).collect(), sessions: vec![1; 100], ..Return::default() };
    assert!(fleet::render(&came, 100, 1, ASCII).is_ascii());
    assert!(!fleet::render(&came, 100, 1, PLAIN).is_ascii());
}

#[test]
fn a_plot_fits_its_width_and_shows_the_busiest_second_of_each_column() {
    let mut tries = vec![1; 10_000];
    tries[7_777] = 900;
    let came = Return { back_at_s: 5_000, tries, sessions: Vec::new(), ..Return::default() };
    let text = fleet::render(&came, 1_000, 1, PLAIN);
    assert!(text.lines().take(14).all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("peak 900"), "{text}");
    let top = text.lines().find(|line| line.contains("900 │")).unwrap();
    assert_eq!(top.chars().filter(|c| *c == '█').count(), 1, "{text}");
}

#[test]
fn a_fleet_that_never_tries_is_said_to_and_divides_nothing_by_zero() {
    let came = Return { back_at_s: 0, tries: Vec::new(), sessions: Vec::new(), ..Return::default() };
    assert!(fleet::render(&came, 10, 1, PLAIN).ends_with("no gateway tried to connect after the broker was back\n"));
    assert_eq!(fleet::json(&came, 10, 1, &replay())["all_back_after_s"], Json::Null);
}

#[test]
fn what_was_not_judged_is_told_and_not_counted_as_held() {
    let open = NotJudged { promise: Promise::Liveness, why: "the machine has no power".into() };
    assert_eq!(promises::held(1, PLAIN), "9 promises held\n");
    let text = promises::not_judged(std::slice::from_ref(&open), PLAIN);
    assert!(text.starts_with("1 promise not judged:\n  once faults end"), "{text}");
    assert!(text.ends_with("for a reason: the machine has no power\n"), "{text}");

    let totals = totals_of((1..=4).map(|seed| {
        let not_judged = if seed > 2 { vec![open.clone()] } else { Vec::new() };
        Run { not_judged, ..run_of(seed, 0) }
    }));
    let (plan, seeds, took) = (plan(), Seeds { first: 1, count: 4, jobs: 1 }, Duration::from_secs(1));
    let text = totals.render(&plan, seeds, took, &replay(), PLAIN);
    assert!(text.contains("\n10 promises held\nnot judged in 2 of 4 seeds: once faults end"), "{text}");
    assert!(text.contains("\n  seed 3: the machine has no power\n"), "{text}");
    assert_eq!(totals.json(&plan, seeds, took, &replay())["not_judged"][0]["first"]["seed"], 3);
    assert!(totals.all_well(), "it is no failure");
}

#[test]
fn what_went_wrong_with_a_fleet_is_told_with_its_seed_and_how_to_see_it_again() {
    let well = Return::default();
    assert_eq!(fleet::wrong(&well, &replay(), PLAIN), "");
    let came = Return {
        missing: vec![7, 9],
        broken: vec![(8, broken(Promise::AtMostOnce, "c1 ran twice"))],
        ..Return::default()
    };
    assert!(well.all_well() && !came.all_well());
    assert_eq!(
        fleet::wrong(&came, &replay(), PLAIN),
        "\
2 gateways did not come back, the first of seed 7
  replay  fieldmedic simulate winter.toml --seed 7 --fleet 1
BROKEN PROMISES, 1 in all; the first:
  a command takes effect at most once
  found   c1 ran twice
  replay  fieldmedic simulate winter.toml --seed 8 --fleet 1
"
    );
    assert_eq!(fleet::json(&came, 10, 1, &replay())["broken"][0]["seed"], 8);
}
