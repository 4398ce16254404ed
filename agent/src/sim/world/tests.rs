//! What happens to the machine and its agent, seen in the timelines of whole runs.

use std::time::Duration;

use super::super::plan::{Plan, run};
use super::super::planted::Planted;
use super::super::report::{Moment, NotJudged, Promise, Run, What};
use super::super::scenario::{BatteryWorld, ClockWorld, Fault, FaultKind, LinkWorld, Order, Recurring, Scenario, When};
use super::super::tests::{HOUR, configured, lasting, pings, plan, quiet};
use super::World;
use crate::config::QuarantineLevel;
use crate::engine::io::{Act, EffectId, Own, Trigger};
use crate::engine::time::Unix;
use crate::helper::Policy;
use crate::wire::CommandId;

/// A seed that isn't run a second time.
const ONCE: u64 = 2;

/// Two watt-hours at a load of two watts: an hour without power.
fn small_battery() -> BatteryWorld {
    BatteryWorld {
        capacity_wh: 2.0,
        charge_pct: 100.0,
        load_w: 2.0,
        sun_w: 0.0,
        daylight: 12 * HOUR,
        sky: (1.0, 1.0),
        mains_w: 5.0,
        off_pct: 5.0,
        on_pct: 20.0,
    }
}

fn named(name: &str, fault: Fault) -> Fault {
    Fault { name: name.into(), ..fault }
}

fn run_with(change: impl FnOnce(&mut Scenario)) -> Run {
    let mut scenario = quiet();
    change(&mut scenario);
    run(&plan(scenario), ONCE)
}

/// When what is looked for happened, in minutes.
fn minutes(run: &Run, is: impl Fn(&What) -> bool) -> Vec<u64> {
    let found = |moment: &Moment| is(&moment.what).then_some(moment.at_ms / 60_000);
    run.timeline.iter().filter_map(found).collect()
}

fn boots(run: &Run) -> Vec<u64> {
    minutes(run, |what| matches!(what, What::Booted { .. }))
}

#[test]
fn what_roots_policy_does_not_let_rules_do_is_refused_and_the_ladder_goes_on() {
    let mut scenario = quiet();
    scenario.faults = vec![lasting(FaultKind::Heat { by_c: 60.0 }, HOUR, 4 * HOUR)];
    let rule = "[[rules]]\nname = \"hot\"\nmetric = \"host.temperature_c\"\nabove = 80\nremedy = \"cool\"\n";
    let steps = "[{ do = \"collect_diagnostics\", settle = \"1m\" }, { do = \"reboot\", settle = \"5m\" }]";
    let config = format!("{rule}[[ladders]]\nname = \"cool\"\nsteps = {steps}\n");
    let came_of = |policy: Option<&str>| {
        let file = tempfile::NamedTempFile::new().unwrap();
        let policy = policy.map(|text| {
            std::io::Write::write_all(&mut file.as_file(), text.as_bytes()).unwrap();
            Policy::read(file.path()).unwrap()
        });
        let run = run(&Plan { policy, ..configured(scenario.clone(), &config) }, ONCE);
        assert_eq!(run.broken, []);
        let ended = |action: &str| {
            let ended = run.summary.remedies.get(action).into_iter().flatten();
            ended.map(|(how, times)| format!("{how} {times}")).collect::<Vec<_>>().join(" ")
        };
        (boots(&run).len(), ended("collect_diagnostics"), ended("reboot"))
    };
    let came = |boots, reboot: &str| (boots, "succeeded 1".to_owned(), reboot.to_owned());
    assert_eq!(came_of(None), came(2, "succeeded 1"));
    let allow = "[allow]\nactions = [\"reboot\"]\n";
    assert_eq!(came_of(Some(allow)), came(1, "rejected 1"), "only a signed command may");
    let local = format!("{allow}[local]\nactions = [\"reboot\"]\n");
    assert_eq!(came_of(Some(&local)), came(2, "succeeded 1"));
}

#[test]
fn what_roots_policy_leaves_of_a_quarantine_is_shown_before_a_gateway_has_to_be_fetched() {
    let came_of = |named: &str| {
        let mut scenario = quiet();
        let restrict = [("level".to_owned(), "restrict".into())].into_iter().collect();
        let (name, when) = ("quarantine".into(), When::At(vec![HOUR]));
        scenario.commands = vec![Order { name, when, args: restrict, ..pings(1) }];
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("[allow]\nactions = [\"quarantine\"]\n[quarantine]\n{named}\n");
        std::io::Write::write_all(&mut file.as_file(), text.as_bytes()).unwrap();
        let policy = Some(Policy::read(file.path()).unwrap());
        let stop = "[quarantine]\nstop_units = [\"app.service\"]\n";
        let run = run(&Plan { policy, ..configured(scenario, stop) }, ONCE);
        assert_eq!(run.broken, []);
        let ended = run.timeline.iter().filter_map(|moment| match &moment.what {
            What::Result { status, reason, .. } if !matches!(*status, "RECEIVED" | "IN_PROGRESS") => {
                Some(format!("{status} {}", reason.as_deref().unwrap_or_default()))
            }
            _ => None,
        });
        ended.collect::<Vec<_>>()
    };
    assert_eq!(came_of("stop_units = [\"app.service\"]"), ["SUCCEEDED "]);
    assert_eq!(came_of(""), ["SUCCEEDED degraded"]);
    assert_eq!(came_of("broker_ports = [9999]\nstop_units = [\"app.service\"]"), ["REJECTED not_allowed"]);
}

#[test]
fn what_root_does_not_find_in_force_is_not_put_in_force_again_and_is_told_as_not_entered() {
    let not_entered = (1..=4).map(|seed| {
        let mut scenario = Scenario { lasts: 3 * HOUR, calm: HOUR, ..quiet() };
        let args = [("level".to_owned(), "observe".into())].into_iter().collect();
        scenario.commands = vec![Order { name: "quarantine".into(), when: When::At(vec![HOUR]), args, ..pings(1) }];
        // Within the commit that its journal entry takes: whether that is done is chance.
        let ms = Duration::from_millis;
        scenario.disk.commit = (ms(400), ms(400));
        scenario.faults = vec![lasting(FaultKind::Crash, HOUR + ms(300), Duration::ZERO)];
        let file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file.as_file(), b"[allow]\nactions = [\"quarantine\"]\n").unwrap();
        let policy = Some(Policy::read(file.path()).unwrap());
        let run = run(&Plan { policy, ..plan(scenario) }, seed);
        assert_eq!(run.broken, [], "seed {seed}");
        run.summary.events.get("quarantine_not_entered").copied().unwrap_or_default()
    });
    let not_entered: Vec<_> = not_entered.collect();
    assert!(not_entered.contains(&1), "{not_entered:?}");
}

#[test]
fn root_keeps_up_what_is_in_force_and_no_more() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file.as_file(), b"[allow]\nactions = [\"quarantine\"]\n").unwrap();
    for policy in [None, Some(Policy::read(file.path()).unwrap())] {
        let plan = Plan { policy, ..plan(quiet()) };
        let mut world = World::new(&plan, ONCE).unwrap();
        let [observe, isolate] = [QuarantineLevel::Observe, QuarantineLevel::Isolate];
        let ordered = Trigger::Command(CommandId::parse("q-1").unwrap());
        let upkeep = (Act::Refresh { level: isolate, wide: false }, Trigger::Own(Own::Quarantine));
        for (act, trigger) in [(Act::Quarantine { level: Some(observe) }, ordered), upkeep] {
            world.act(EffectId(1), act, trigger, HOUR);
            world.act_ends(world.last_token);
        }
        let left = if plan.policy.is_some() { observe } else { isolate };
        assert_eq!(world.gateway.quarantined(), Some(left));
    }
}

#[test]
fn a_clock_is_believed_as_the_configuration_says_and_wrong_dates_that_come_of_it_are_not_judged() {
    let came_of = |boots_at: Option<Unix>, trust: &str| {
        let mut scenario = quiet();
        scenario.clock = ClockWorld { boots_at, set_after: None, ..scenario.clock };
        scenario.commands = vec![Order { name: "reboot".into(), when: When::At(vec![HOUR]), ..pings(1) }];
        let run = run(&configured(scenario, &format!("[clock]\ntrust = \"{trust}\"\n")), ONCE);
        assert_eq!(run.broken, []);
        let is_open = |promise: Promise| run.not_judged.iter().any(|open| open.promise == promise);
        (boots(&run).len(), is_open(Promise::TimeOrder))
    };
    assert_eq!(came_of(None, "kernel"), (1, false), "nobody says that it is right");
    assert_eq!(came_of(None, "always"), (2, false));
    assert_eq!(came_of(Some(Unix(0)), "always"), (1, false), "that is before the agent was built");
    assert_eq!(came_of(Some(Unix(4_000_000_000_000)), "always"), (1, true), "the command has expired by then");
}

#[test]
fn a_quarantine_outlives_the_loss_of_the_journal() {
    let run = run_with(|scenario| {
        let isolate = [("level".to_owned(), "isolate".into())].into_iter().collect();
        let order = |name: &str, at| Order { name: name.into(), when: When::At(vec![at]), ..pings(1) };
        scenario.commands = vec![Order { args: isolate, ..order("quarantine", HOUR) }, order("release", 4 * HOUR)];
        let crash = Fault { lasts: (Duration::ZERO, Duration::ZERO), ..lasting(FaultKind::Crash, 2 * HOUR, HOUR) };
        scenario.faults =
            vec![Fault { kind: FaultKind::DiskDamage { state: true }, ..named("damage", crash.clone()) }, crash];
    });
    assert_eq!(run.broken, []);
    let told = |name: &str| run.summary.events.get(name).copied();
    assert_eq!((told("quarantine_entered"), told("quarantine_left")), (Some(2), Some(1)));
}

#[test]
fn an_agent_starts_after_what_ended_the_one_before() {
    let run = run_with(|scenario| {
        scenario.faults = vec![
            Fault { lasts: (Duration::ZERO, Duration::ZERO), ..lasting(FaultKind::Crash, HOUR, HOUR) },
            lasting(FaultKind::PowerCut, 2 * HOUR, HOUR / 6),
        ];
    });
    let started = run.timeline.iter().filter_map(|moment| match &moment.what {
        What::Started { after } => Some(*after),
        _ => None,
    });
    assert_eq!(started.collect::<Vec<_>>(), ["installation", "killed", "power cut"]);
}

#[test]
fn an_empty_battery_switches_the_machine_off_however_often_it_is_observed() {
    let run = run_with(|scenario| {
        scenario.battery = Some(small_battery());
        scenario.faults = vec![lasting(FaultKind::NoPower, HOUR, 3 * HOUR)];
    });
    let ended = minutes(&run, |what| matches!(what, What::Ended { how: "battery empty" }));
    assert!(matches!(ended[..], [115..=125]), "{ended:?}");
    assert!(matches!(boots(&run)[..], [0, 240..=260]), "{:?}", boots(&run));
}

#[test]
fn a_cut_that_ends_while_the_battery_is_empty_leaves_the_machine_off_until_it_is_charged() {
    let run = run_with(|scenario| {
        scenario.battery = Some(small_battery());
        scenario.faults =
            vec![lasting(FaultKind::NoPower, HOUR, 3 * HOUR), lasting(FaultKind::PowerCut, HOUR * 3 / 2, 2 * HOUR)];
        // It draws next to nothing while it is cut off: it has to be empty before.
        scenario.battery.as_mut().unwrap().charge_pct = 6.0;
        scenario.battery.as_mut().unwrap().mains_w = 2.0;
    });
    assert!(matches!(boots(&run)[..], [0, 240..=400]), "{:?}", boots(&run));
    assert_eq!(run.broken, []);
}

#[test]
fn no_boot_ends_in_the_middle_of_a_second_cut() {
    let run = run_with(|scenario| {
        let cut = |name: &str, at, lasts| named(name, lasting(FaultKind::PowerCut, at, lasts));
        let second = Duration::from_secs(1);
        scenario.faults = vec![
            // They overlap.
            cut("first", HOUR, HOUR),
            cut("second", HOUR * 3 / 2, HOUR),
            // One begins in the boot after the other, and lasts longer than that.
            cut("third", 5 * HOUR, HOUR / 60),
            cut("fourth", 5 * HOUR + HOUR / 60 + 10 * second, 15 * second),
        ];
    });
    assert!(matches!(boots(&run)[..], [0, 150, 301..=302]), "{:?}", boots(&run));
    // An hour and a half, and a minute and a quarter, of twelve hours.
    let off = 100.0 - run.summary.powered_pct;
    assert!((12.5..12.8).contains(&off), "{off} %");
}

#[test]
fn a_cut_counts_as_time_without_power_though_it_strikes_at_a_step_of_the_agent() {
    let run = run_with(|scenario| {
        scenario.faults = (1..=9).map(|hour| lasting(FaultKind::PowerCut, hour * HOUR, HOUR / 2)).collect();
    });
    let summary = &run.summary;
    assert!((62.0..63.0).contains(&summary.powered_pct), "{}", summary.powered_pct);
    assert!((98.0..100.0).contains(&summary.uptime_pct), "{}", summary.uptime_pct);
}

#[test]
fn the_calm_charges_an_empty_battery() {
    let run = run_with(|scenario| {
        scenario.battery = Some(BatteryWorld { mains_w: 0.0, ..small_battery() });
    });
    assert!(matches!(boots(&run)[..], [0, 600]), "{:?}", boots(&run));
    assert_eq!(run.broken, []);
}

fn open(run: &Run) -> Vec<Promise> {
    run.not_judged.iter().map(|NotJudged { promise, .. }| *promise).collect()
}

#[test]
fn what_a_machine_without_power_owes_is_not_called_held() {
    let run = run_with(|scenario| {
        scenario.battery = Some(BatteryWorld { mains_w: 0.0, ..small_battery() });
        scenario.calm = Duration::ZERO;
    });
    assert_eq!(open(&run), [Promise::TerminalStatus, Promise::Liveness]);
    assert_eq!(open(&run_with(|_| ())), []);
}

#[test]
fn what_is_lost_before_the_power_goes_for_good_is_found() {
    let mut scenario = quiet();
    (scenario.lasts, scenario.calm) = (HOUR, Duration::ZERO);
    // Results that are sent while packets vanish count as acknowledged: the bug.
    scenario.commands = vec![pings(1)];
    scenario.faults = (1..=12).map(|nth| lasting(FaultKind::HalfOpen, nth * HOUR / 20, HOUR / 60)).collect();
    scenario.faults.push(lasting(FaultKind::PowerCut, HOUR * 5 / 6, HOUR / 6));
    let well = plan(scenario);
    assert_eq!(run(&well, ONCE).broken, []);
    let buggy = Plan { planted: Some(Planted::TrimBeforeAck), ..well };
    let lost = |run: Run| run.broken.iter().any(|broken| broken.promise == Promise::NothingLost);
    assert!((ONCE..=16).any(|seed| lost(run(&buggy, seed))));
}

#[test]
fn nothing_is_held_against_a_config_that_sends_seldom_and_a_calm_too_short_for_it_is_told() {
    let seldom = "[telemetry]\npublish_interval = \"1h\"\n";
    let patient = "[mqtt.reconnect]\nmax = \"2h\"\n";
    let run_of = |config: &str, calm| {
        let mut scenario = quiet();
        scenario.calm = calm;
        scenario.faults = vec![lasting(FaultKind::BrokerDown, HOUR, 9 * HOUR)];
        let run = run(&configured(scenario, config), ONCE);
        assert_eq!(run.broken, []);
        open(&run)
    };
    assert_eq!(run_of(seldom, 2 * HOUR), []);
    assert_eq!(run_of(patient, 2 * HOUR), [Promise::TerminalStatus, Promise::Liveness]);
}

#[test]
fn nothing_is_held_against_an_agent_that_sends_seldom_to_save_power_or_by_a_command() {
    let low = "[[rules]]\nname = \"low\"\nmetric = \"battery.charge_pct\"\nbelow = 40\nremedy = \"on-battery\"\n";
    let step = "{ do = \"save_power\", sample = \"5m\", report = \"1h\", publish = \"6h\", settle = \"24h\" }";
    let config = format!("{low}[[ladders]]\nname = \"on-battery\"\nsteps = [{step}]\n");
    let run_of = |change: &dyn Fn(&mut Scenario)| {
        let mut scenario = quiet();
        change(&mut scenario);
        let run = run(&configured(scenario, &config), ONCE);
        assert_eq!(run.broken, []);
        open(&run)
    };
    let seldom = |at: Duration, hold: &str| {
        let args = serde_json::json!({"sample": "5m", "report": "1h", "publish": "6h", "for": hold});
        let args = args.as_object().unwrap().clone();
        vec![Order { name: "set_intervals".into(), args, when: When::At(vec![at]), ..pings(1) }]
    };
    let too_short = [Promise::TerminalStatus, Promise::Liveness];
    let half = BatteryWorld { capacity_wh: 50.0, charge_pct: 45.0, load_w: 1.0, mains_w: 0.0, ..small_battery() };
    assert_eq!(run_of(&|scenario| scenario.battery = Some(half.clone())), too_short);
    assert_eq!(run_of(&|scenario| scenario.commands = seldom(8 * HOUR, "24h")), too_short);
    // What is over in time is asked for as ever, and so is what is not done at all.
    assert_eq!(run_of(&|scenario| scenario.commands = seldom(HOUR, "6h")), []);
    assert_eq!(run_of(&|_| ()), []);
}

#[test]
fn what_helped_is_the_last_that_was_done_and_not_what_was_only_refused_after_it() {
    let mut scenario = quiet();
    scenario.faults = vec![lasting(FaultKind::Heat { by_c: 60.0 }, HOUR, HOUR)];
    let rule = "[[rules]]\nname = \"hot\"\nmetric = \"host.temperature_c\"\nabove = 80\nremedy = \"cool\"\n";
    let steps = "[{ do = \"run\", runbook = \"fan\", settle = \"1m\" }, { do = \"restart_link\", interface = \"no0\", \
                 settle = \"1m\" }, { do = \"reboot\", settle = \"5m\" }]";
    let config = format!("{rule}[[ladders]]\nname = \"cool\"\nsteps = {steps}\n");
    let mut plan = configured(scenario, &config);
    plan.config.remediation.min_uptime = 24 * HOUR;
    let run = run(&plan, ONCE);
    let told = run.timeline.iter().filter_map(|moment| match &moment.what {
        What::Remedy { action, status, .. } if status != "IN_PROGRESS" => Some(format!("{action} {status}")),
        _ => None,
    });
    let told: Vec<String> = told.collect();
    assert_eq!(told, ["run SUCCEEDED", "restart_link FAILED", "reboot REJECTED", "run HEALED"]);
}

#[test]
fn the_broker_forgets_a_session_after_its_expiry() {
    let sessions = |session_expiry| {
        let run = run_with(|scenario| {
            scenario.network.session_expiry = session_expiry;
            scenario.faults = vec![lasting(FaultKind::Cut, HOUR, HOUR)];
        });
        assert_eq!(run.broken, []);
        let kept = |what: &What| match what {
            What::Connected { session_present, .. } => Some(*session_present),
            _ => None,
        };
        run.timeline.iter().filter_map(|moment| kept(&moment.what)).collect::<Vec<_>>()
    };
    assert_eq!(sessions(2 * HOUR), [false, true]);
    assert_eq!(sessions(HOUR / 2), [false, false]);
}

#[test]
fn a_second_link_keeps_the_agent_connected_through_the_gaps_of_the_first() {
    let connected = |links: &[LinkWorld]| {
        let run = run_with(|scenario| scenario.links.splice(.., links.iter().cloned()).for_each(drop));
        assert_eq!(run.broken, []);
        run.summary.connected_pct
    };
    let hour = Recurring { every: HOUR, lasts: (HOUR / 2, HOUR) };
    let first = LinkWorld { interface: "wwan0".into(), kind: "cellular".into(), rssi_dbm: None, gaps: Some(hour) };
    let second = LinkWorld { interface: "wwan1".into(), gaps: None, ..first.clone() };
    let [one, two] = [connected(std::slice::from_ref(&first)), connected(&[first, second])];
    assert!(one < 75.0 && two > 90.0, "{one} % with one, {two} % with two");
}
