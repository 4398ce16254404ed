//! Commands by an independent JOSE implementation: obeyed once, refused with the right word, and never in silence.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that can't be set up fails, and it may touch the system that the agent's engine must not"
)]

#[path = "../common/mod.rs"]
mod common;
mod uplink;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fieldmedic::wire::CommandId;
use fieldmedic::wire::token::{Claims, sign};
use serde_json::{Value as Json, json};

use common::cost::cpu;
use common::operator::{Wrong, claims, wrong_tokens};
use common::{Gateway, Operator, PREFIX, Tree, World, unix_now};

/// A unit that no machine has.
const UNIT: &str = "fieldmedic-no-such-unit.service";

/// The lines that a runbook wrote into a file of the gateway.
fn lines_of(gateway: &Gateway, file: &str) -> usize {
    std::fs::read_to_string(gateway.file(file)).map_or(0, |text| text.lines().count())
}

/// A runbook that leaves a line in `acted` each time that it runs.
fn leaves_a_trace(gateway: &Gateway, name: &str, rest: &str) {
    gateway.runbook(name, &format!("echo ran >> {}\n{rest}", gateway.file("acted").display()));
}

/// The refusal of a token: by its id, or without one where the agent could not read it.
fn refusal(world: &World, mark: usize, id: &Json, reason: &str) -> Json {
    let what = format!("{id} to be rejected as {reason}");
    let message = world.fleet.wait_since(mark, &what, |message| {
        let body = &message.body;
        message.leaf() == "results"
            && body["status"] == "REJECTED"
            && (body["command_id"] == *id || body["command_id"].is_null())
    });
    assert_eq!(message.body["reason"], reason, "{message:?}");
    message.body
}

#[test]
fn a_signed_ping_is_answered_through_the_store() {
    let world = World::new();
    let gateway = world.gateway("gw-ping");
    let _agent = world.online(&gateway);

    let id = world.order("gw-ping", "ping", json!({}));
    let result = world.fleet.result(&id, "SUCCEEDED");
    assert_eq!(result["command"], "ping", "{result}");
    assert!(result["seq"].is_u64(), "{result}");
}

#[test]
fn a_command_that_came_while_the_agent_was_away_is_obeyed_when_it_is_back() {
    let world = World::new();
    let gateway = world.gateway("gw-away");
    let agent = world.online(&gateway);
    let id = world.order("gw-away", "ping", json!({}));
    world.fleet.result(&id, "SUCCEEDED");
    assert_eq!(agent.sigterm(), Some(0));

    let id = world.order("gw-away", "ping", json!({}));
    let _agent = world.online(&gateway);
    world.fleet.result(&id, "SUCCEEDED");
}

#[test]
fn a_group_is_commanded_on_its_topic() {
    let world = World::new();
    let gateway = world.gateway("gw-group").with("[device]\ngroups = [\"canary\"]");
    let _agent = world.online(&gateway);

    let claims = claims("group:canary", "ping", json!({}));
    world.broker.publish(&format!("{PREFIX}/groups/canary/commands"), world.operator.sign(&claims).as_bytes());
    world.fleet.result(claims["jti"].as_str().unwrap(), "SUCCEEDED");
}

#[test]
fn what_is_wrong_with_a_token_is_told_in_the_contracts_word() {
    let world = World::new();
    let gateway = world.gateway("gw-token");
    let _agent = world.online(&gateway);
    let ping = || claims("gw-token", "ping", json!({}));
    let mut cases = wrong_tokens(&world.operator, ping);
    let mut unheard_of = ping();
    unheard_of["cmd"] = json!({"name": "make_coffee"});
    let token = world.operator.sign(&unheard_of);
    cases.push(Wrong { reason: "unknown_command", id: unheard_of["jti"].clone(), token });

    for Wrong { reason, id, token } in cases {
        let mark = world.fleet.mark();
        world.deliver("gw-token", &token);
        refusal(&world, mark, &id, reason);
        world.fleet.wait_since(mark, "an audit event of the refusal", |message| {
            message.leaf() == "events" && message.body["type"] == "audit" && message.body["audit"]["reason"] == reason
        });
    }
}

#[test]
fn a_thousand_forged_commands_are_counted_told_rarely_and_cost_little() {
    const FORGED: usize = 1_000;
    let world = World::new();
    let gateway = world.gateway("gw-siege");
    let agent = world.online(&gateway);
    let refused = |messages: &[common::Message]| -> usize {
        let samples = messages.iter().flat_map(common::Message::samples);
        let counts = samples.filter_map(|sample| sample["agent"]["commands_refused"]["bad_signature"].as_u64());
        usize::try_from(counts.sum::<u64>()).unwrap()
    };
    // What the same number of genuine commands costs on this machine at this moment.
    let key = world.operator.signing_key();
    let genuine = |n: usize| {
        let id = CommandId::parse(&format!("genuine-{n}")).unwrap();
        let claims = Claims::new("gw-siege", &id, "ping", unix_now(), unix_now() + 600);
        sign(&claims, "ops-1", &key).unwrap() + "\n"
    };
    let topic = format!("{PREFIX}/gw-siege/commands");
    let before = cpu(agent.pid());
    world.broker.publish_lines(&topic, &(0..FORGED).map(genuine).collect::<String>());
    world.fleet.wait_all(common::SOON * 4, "an answer to each that is genuine", |messages| {
        let ends = messages.iter().filter(|message| message.body["status"] == "SUCCEEDED");
        let ids: BTreeSet<&str> = ends.filter_map(|message| message.body["command_id"].as_str()).collect();
        (ids.len() >= FORGED).then_some(())
    });
    let genuine = cpu(agent.pid()) - before;

    let token = Operator::new("ops-1").sign(&claims("gw-siege", "reboot", json!({})));
    let before = cpu(agent.pid());
    world.broker.publish_lines(&topic, &format!("{token}\n").repeat(FORGED));
    world
        .fleet
        .wait_all(common::SOON, "all of them to be counted", |messages| (refused(messages) >= FORGED).then_some(()));
    let forged = cpu(agent.pid()) - before;
    let each = |cost: Duration| cost.as_micros() / FORGED as u128;
    println!("of the agent's CPU {} us for a forged command, {} us for a genuine one", each(forged), each(genuine));
    // Nothing of it is journaled, and little of it is answered.
    assert!(forged * 2 < genuine, "{FORGED} forged commands took {forged:?}, as many genuine ones {genuine:?}");
    let told = world.fleet.so_far().iter().filter(|message| message.body["audit"]["reason"] == "bad_signature").count();
    assert!((1..FORGED / 10).contains(&told), "{told} events for {FORGED} forgeries");
    let id = world.order("gw-siege", "ping", json!({}));
    world.fleet.result(&id, "SUCCEEDED");
}

#[test]
fn an_id_that_another_command_used_is_a_replay() {
    let world = World::new();
    let gateway = world.gateway("gw-replay");
    let _agent = world.online(&gateway);
    let first = claims("gw-replay", "ping", json!({}));
    world.deliver("gw-replay", &world.operator.sign(&first));
    world.fleet.result(first["jti"].as_str().unwrap(), "SUCCEEDED");

    let mark = world.fleet.mark();
    let mut second = claims("gw-replay", "ping", json!({"other": true}));
    second["jti"] = first["jti"].clone();
    world.deliver("gw-replay", &world.operator.sign(&second));
    refusal(&world, mark, &first["jti"], "replayed");
}

#[test]
fn what_the_config_does_not_allow_is_refused_and_nothing_runs() {
    let world = World::new();
    let gateway = world.gateway("gw-deny").with("[remediation]\nallow = [\"restart_unit\"]");
    leaves_a_trace(&gateway, "touch", "");
    let _agent = world.online(&gateway);

    for (name, args) in [("restart_unit", json!({"unit": UNIT})), ("run", json!({"runbook": "touch"}))] {
        let id = world.order("gw-deny", name, args);
        assert_eq!(world.fleet.result(&id, "REJECTED")["reason"], "not_allowed", "{name}");
    }
    assert_eq!(lines_of(&gateway, "acted"), 0);
}

#[test]
fn a_spent_budget_is_a_refusal_and_nothing_runs() {
    let world = World::new();
    let gateway = world.gateway("gw-budget").with("[remediation.budget]\nrun = \"1/1h\"");
    leaves_a_trace(&gateway, "touch", "");
    let _agent = world.online(&gateway);

    let id = world.order("gw-budget", "run", json!({"runbook": "touch"}));
    world.fleet.result(&id, "SUCCEEDED");
    let id = world.order("gw-budget", "run", json!({"runbook": "touch"}));
    assert_eq!(world.fleet.result(&id, "REJECTED")["reason"], "budget_spent");
    assert_eq!(lines_of(&gateway, "acted"), 1);
}

#[test]
fn a_dry_run_says_what_it_would_have_done_and_does_nothing() {
    let world = World::new();
    let gateway = world.gateway("gw-dry").with("[remediation]\ndry_run = true");
    leaves_a_trace(&gateway, "touch", "");
    let _agent = world.online(&gateway);

    let id = world.order("gw-dry", "run", json!({"runbook": "touch"}));
    assert_eq!(world.fleet.result(&id, "REJECTED")["reason"], "dry_run");
    assert_eq!(lines_of(&gateway, "acted"), 0);
}

#[test]
fn without_a_clock_a_disruptive_command_needs_the_nonce_of_this_start() {
    let (world, tree) = (World::new(), Tree::new());
    let gateway = world
        .gateway("gw-clock")
        .measuring(&tree)
        .with(&format!("[clock]\ntrust = \"kernel\"\n[remediation]\nunits = [\"{UNIT}\"]"));
    let _agent = world.online(&gateway);
    let sample = world.fleet.sample_since(0, "gw-clock", "a sample", |sample| sample["host"].is_object());
    let restart = || claims("gw-clock", "restart_unit", json!({"unit": UNIT}));

    let id = world.order("gw-clock", "ping", json!({}));
    world.fleet.result(&id, "SUCCEEDED");

    let order = restart();
    world.deliver("gw-clock", &world.operator.sign(&order));
    let id = order["jti"].as_str().unwrap();
    if sample["host"]["clock_synced"] == true {
        // A machine whose kernel vouches for its clock needs no nonce; its unit fails for not being there.
        world.fleet.result(id, "FAILED");
    } else {
        assert_eq!(world.fleet.result(id, "REJECTED")["reason"], "clock_untrusted");
    }

    let mut fresh = restart();
    fresh["nonce"] = world.fleet.presence(0, "gw-clock", true).body["nonce"].clone();
    world.deliver("gw-clock", &world.operator.sign(&fresh));
    world.fleet.result(fresh["jti"].as_str().unwrap(), "FAILED");
}

#[test]
fn the_same_command_twice_acts_once_and_is_answered_twice() {
    let world = World::new();
    let gateway = world.gateway("gw-twice");
    leaves_a_trace(&gateway, "touch", "");
    let _agent = world.online(&gateway);

    let order = claims("gw-twice", "run", json!({"runbook": "touch"}));
    let (token, id) = (world.operator.sign(&order), order["jti"].as_str().unwrap());
    world.deliver("gw-twice", &token);
    world.fleet.result(id, "SUCCEEDED");
    world.deliver("gw-twice", &token);
    let answers = world.fleet.results(id, "SUCCEEDED", 2);
    assert_ne!(answers[0]["seq"], answers[1]["seq"]);
    assert_eq!(lines_of(&gateway, "acted"), 1);
}

#[test]
fn a_command_that_is_delivered_again_after_a_kill_is_not_run_again() {
    let world = World::new();
    let gateway = world.gateway("gw-again");
    leaves_a_trace(&gateway, "touch", "");
    let agent = world.online(&gateway);
    let order = claims("gw-again", "run", json!({"runbook": "touch"}));
    let (token, id) = (world.operator.sign(&order), order["jti"].as_str().unwrap());
    world.deliver("gw-again", &token);
    world.fleet.result(id, "SUCCEEDED");

    agent.kill9();
    let _agent = world.online(&gateway);
    world.deliver("gw-again", &token);
    world.fleet.results(id, "SUCCEEDED", 2);
    assert_eq!(lines_of(&gateway, "acted"), 1);
}

#[test]
fn a_command_that_a_kill_interrupted_is_reported_so_and_not_run_again() {
    let world = World::new();
    let gateway = world.gateway("gw-cut");
    leaves_a_trace(&gateway, "hang", "exec sleep 600");
    let agent = world.online(&gateway);
    let order = claims("gw-cut", "run", json!({"runbook": "hang"}));
    let (token, id) = (world.operator.sign(&order), order["jti"].as_str().unwrap());
    world.deliver("gw-cut", &token);
    world.fleet.result(id, "IN_PROGRESS");
    wait_for_the_act(&gateway);

    agent.kill9();
    let _agent = world.online(&gateway);
    world.fleet.result(id, "INTERRUPTED");
    world.deliver("gw-cut", &token);
    world.fleet.results(id, "INTERRUPTED", 2);
    assert_eq!(lines_of(&gateway, "acted"), 1);
}

/// Until the runbook has left its trace.
fn wait_for_the_act(gateway: &Gateway) {
    gateway.wait_for_status("the runbook to run", |_| lines_of(gateway, "acted") > 0);
}

#[test]
fn a_runbook_reports_its_progress_its_output_and_its_end() {
    let world = World::new();
    let gateway = world.gateway("gw-run");
    gateway.runbook("work", "echo working on $1\necho progress 40\necho done; echo to stderr >&2");
    gateway.runbook("fail", "echo no luck; exit 3");
    let _agent = world.online(&gateway);

    let id = world.order("gw-run", "run", json!({"runbook": "work", "args": ["disk 1"]}));
    let result = world.fleet.result(&id, "SUCCEEDED");
    let output = result["output"].as_str().unwrap_or_default();
    assert!(output.contains("working on disk 1") && output.contains("to stderr"), "{result}");
    world
        .fleet
        .wait_for("its progress", |message| message.body["command_id"] == *id && message.body["progress_pct"] == 40);

    let id = world.order("gw-run", "run", json!({"runbook": "fail"}));
    let result = world.fleet.result(&id, "FAILED");
    assert_eq!(result["reason"], "exit_code", "{result}");
    assert!(result.to_string().contains('3') && result["output"].as_str().unwrap().contains("no luck"), "{result}");

    let id = world.order("gw-run", "run", json!({"runbook": "absent"}));
    world.fleet.result(&id, "FAILED");
    let id = world.order("gw-run", "run", json!({"runbook": "../agent.sock"}));
    assert_eq!(world.fleet.result(&id, "REJECTED")["reason"], "malformed");
}

#[test]
fn a_runbook_that_takes_too_long_is_ended_with_all_that_it_started() {
    let world = World::new();
    let gateway = world.gateway("gw-slow");
    // The file is held by the child of the child: it is unlocked when both are gone.
    let lock = gateway.file("lock");
    gateway.runbook("hang", &format!("exec 9>{}; flock 9; sleep 600 & sleep 600", lock.display()));
    let _agent = world.online(&gateway);

    let mut order = claims("gw-slow", "run", json!({"runbook": "hang"}));
    order["cmd"]["timeout_s"] = json!(1);
    world.deliver("gw-slow", &world.operator.sign(&order));
    let result = world.fleet.result(order["jti"].as_str().unwrap(), "TIMED_OUT");
    assert_eq!(result["reason"], "timeout", "{result}");
    let freed = common::tool("flock").arg("--timeout=20").arg(&lock).arg("true").status().unwrap();
    assert!(freed.success(), "a process of the runbook is still there: {freed}");
}

#[test]
fn a_slow_runbook_holds_up_neither_a_ping_nor_the_telemetry_and_can_be_canceled() {
    let world = World::new();
    let gateway = world.gateway("gw-cancel");
    leaves_a_trace(&gateway, "hang", "exec sleep 600");
    let _agent = world.online(&gateway);
    let slow = world.order("gw-cancel", "run", json!({"runbook": "hang"}));
    world.fleet.result(&slow, "IN_PROGRESS");

    let id = world.order("gw-cancel", "ping", json!({}));
    world.fleet.result(&id, "SUCCEEDED");
    let mark = world.fleet.mark();
    world.fleet.sample_since(mark, "gw-cancel", "telemetry to go on", |_| true);

    let id = world.order("gw-cancel", "cancel", json!({"command_id": slow}));
    world.fleet.result(&id, "SUCCEEDED");
    world.fleet.result(&slow, "CANCELED");
}

#[test]
fn of_a_burst_of_a_thousand_commands_each_has_exactly_one_end_and_what_ran_ran_once() {
    const COMMANDS: usize = 1_000;
    let world = World::new();
    let gateway = world.gateway("gw-burst").with("[remediation.budget]\nrun = \"100/1h\"");
    leaves_a_trace(&gateway, "touch", "");
    let agent = world.online(&gateway);
    let key = world.operator.signing_key();
    let id = |n: usize| format!("burst-{n}");
    let token = |n: usize| {
        let (name, runbook) = [("ping", ""), ("run", "touch"), ("run", "absent"), ("dance", "")][n % 4];
        let claims = Claims::new("gw-burst", &CommandId::parse(&id(n)).unwrap(), name, unix_now(), unix_now() + 600);
        let claims = if runbook.is_empty() { claims } else { claims.arg("runbook", runbook.into()) };
        sign(&claims, "ops-1", &key).unwrap() + "\n"
    };
    let began = Instant::now();
    world.broker.publish_lines(&format!("{PREFIX}/gw-burst/commands"), &(0..COMMANDS).map(token).collect::<String>());
    let ends = |messages: &[common::Message]| {
        let mut ends: BTreeMap<String, BTreeSet<(u64, String)>> = BTreeMap::new();
        for message in messages.iter().filter(|message| message.leaf() == "results") {
            let word = |key: &str| message.body[key].as_str().unwrap_or_default().to_owned();
            if !matches!(word("status").as_str(), "QUEUED" | "IN_PROGRESS") {
                let seq = message.body["seq"].as_u64().unwrap();
                ends.entry(word("command_id")).or_default().insert((seq, word("status")));
            }
        }
        ends
    };
    world.fleet.wait_all(common::SOON * 4, "an end of each", |messages| {
        let ends = ends(messages);
        (0..COMMANDS).all(|n| ends.contains_key(&id(n))).then_some(())
    });
    println!("{COMMANDS} commands have ended in {:.1} s", began.elapsed().as_secs_f64());
    // Whatever it has still to say, it has said.
    assert_eq!(agent.sigterm(), Some(0));
    world.fence();
    let ends = ends(&world.fleet.so_far());
    let twice: Vec<_> = ends.iter().filter(|(_, ends)| ends.len() != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let ran = (0..COMMANDS).filter(|n| n % 4 == 1 && ends[&id(*n)].iter().any(|(_, status)| status == "SUCCEEDED"));
    let ran = ran.count();
    assert!(ran > 0, "nothing of it ran");
    assert_eq!(lines_of(&gateway, "acted"), ran);
    assert!((0..COMMANDS).step_by(4).all(|n| ends[&id(n)].iter().all(|(_, status)| status == "SUCCEEDED")));
}

#[test]
fn a_full_queue_says_busy_and_the_red_button_empties_it() {
    /// More than one that runs and those that may wait for it.
    const ORDERS: usize = 1 + 64 + 1;
    let world = World::new();
    let gateway = world.gateway("gw-queue");
    leaves_a_trace(&gateway, "hang", "exec sleep 600");
    let _agent = world.online(&gateway);

    let ids: Vec<String> = (0..ORDERS).map(|_| world.order("gw-queue", "run", json!({"runbook": "hang"}))).collect();
    assert_eq!(world.fleet.result(&ids[ORDERS - 1], "REJECTED")["reason"], "busy");
    world.fleet.result(&ids[1], "QUEUED");

    let id = world.order("gw-queue", "cancel_all", json!({}));
    world.fleet.result(&id, "SUCCEEDED");
    world.fleet.wait_all(Duration::from_secs(60), "every command to be canceled", |messages| {
        let canceled = |id: &String| {
            messages.iter().any(|message| message.body["command_id"] == **id && message.body["status"] == "CANCELED")
        };
        ids[..ORDERS - 1].iter().all(canceled).then_some(())
    });
    assert_eq!(lines_of(&gateway, "acted"), 1);
}

#[test]
fn what_takes_back_reaches_only_what_was_sent_before_it_where_all_of_it_waits_at_the_broker() {
    let world = World::new();
    let gateway = world.gateway("gw-order");
    leaves_a_trace(&gateway, "hang", "exec sleep 600");
    leaves_a_trace(&gateway, "mark", "");
    let agent = world.online(&gateway);
    assert_eq!(agent.sigterm(), Some(0));

    let order = |name, args| world.order("gw-order", name, args);
    let running = order("run", json!({"runbook": "hang"}));
    let waiting = order("run", json!({"runbook": "hang"}));
    let button = order("cancel_all", json!({}));
    let last = claims("gw-order", "run", json!({"runbook": "mark"}));
    let cancel = order("cancel", json!({"command_id": last["jti"]}));
    world.deliver("gw-order", &world.operator.sign(&last));

    let _agent = world.online(&gateway);
    world.fleet.result(last["jti"].as_str().unwrap(), "SUCCEEDED");
    world.fleet.result(&running, "CANCELED");
    world.fleet.result(&waiting, "CANCELED");
    world.fleet.result(&button, "SUCCEEDED");
    assert_eq!(world.fleet.result(&cancel, "FAILED")["reason"], "not_found");
}

/// Releases of an application: 2.0 runs, 1.0 ran before it.
fn releases(gateway: &Gateway) -> std::path::PathBuf {
    let dir = gateway.file("app");
    common::releases(&dir, &["1.0", "2.0"]);
    dir
}

#[test]
fn a_rollback_switches_releases_and_there_is_no_second_one_without_a_name() {
    let world = World::new();
    let gateway = world.gateway("gw-back");
    let dir = releases(&gateway);
    let slots = format!("[rollback.app]\nkind = \"slots\"\ndir = {dir:?}\n[remediation.budget]\nrollback = \"9/1h\"");
    let gateway = gateway.with(&slots);
    let _agent = world.online(&gateway);
    let current = || std::fs::read_link(dir.join("current")).unwrap();

    let id = world.order("gw-back", "rollback", json!({"target": "app"}));
    let result = world.fleet.result(&id, "SUCCEEDED");
    assert_eq!(result["detail"], "1.0 takes the place of 2.0");
    assert_eq!(current().to_str(), Some("releases/1.0"));

    let id = world.order("gw-back", "rollback", json!({"target": "app"}));
    assert_eq!(world.fleet.result(&id, "FAILED")["reason"], "no_other_release");
    let id = world.order("gw-back", "rollback", json!({"target": "app", "to": "../../etc"}));
    assert_eq!(world.fleet.result(&id, "REJECTED")["reason"], "malformed");
    let id = world.order("gw-back", "rollback", json!({"target": "app", "to": "3.0"}));
    assert_eq!(world.fleet.result(&id, "FAILED")["reason"], "no_such_release");
    let id = world.order("gw-back", "rollback", json!({"target": "app", "to": "2.0"}));
    world.fleet.result(&id, "SUCCEEDED");
    let id = world.order("gw-back", "mark_good", json!({"target": "app"}));
    assert_eq!(world.fleet.result(&id, "SUCCEEDED")["detail"], "2.0 is good");
    assert_eq!(current().to_str(), Some("releases/2.0"));
}

#[test]
fn a_snapshot_comes_in_parts_that_make_one_text_without_secrets() {
    let world = World::new();
    let gateway = world.gateway("gw-snapshot").with("[device.attributes]\nsite_token = \"hunter2\"");
    let _agent = world.online(&gateway);
    let id = world.order("gw-snapshot", "collect_diagnostics", json!({}));
    world.fleet.result(&id, "SUCCEEDED");
    let text = world.fleet.snapshot(&id);
    for section in ["== gateway", "== processes", "== sockets", "id = \"gw-snapshot\"", "== journal"] {
        assert!(text.contains(section), "no {section} in {text}");
    }
    assert!(text.contains("site_token = \"***\"") && !text.contains("hunter2"), "{text}");
}

#[test]
fn an_update_that_raises_a_critical_alarm_is_left_again_by_the_agent_itself() {
    const ALARM: &str =
        "[[rules]]\nname = \"new-is-bad\"\nmetric = \"battery.temperature_c\"\nabove = 60\nseverity = \"critical\"";
    let world = World::new();
    let tree = Tree::new();
    let gateway = world.gateway("gw-trial").measuring(&tree).with(ALARM);
    let dir = releases(&gateway);
    let slots = format!("[rollback.app]\nkind = \"slots\"\ndir = {dir:?}\nsettle = \"1s\"\ntrial = \"4s\"");
    let gateway = gateway.with(&slots);
    let _agent = world.online(&gateway);
    world.fleet.sample_since(0, "gw-trial", "a first look", |sample| sample["agent"].is_object());
    let told = |name: &str, release: &str| {
        world.fleet.wait_for(&format!("{name} of {release}"), |message| {
            message.body["name"] == name && message.body["release"]["name"] == release
        })
    };
    let update = |release: &str| {
        std::fs::create_dir_all(dir.join("releases").join(release)).unwrap();
        for (link, to) in [
            ("previous", std::fs::read_link(dir.join("current")).unwrap()),
            ("current", format!("releases/{release}").into()),
        ] {
            let new = dir.join("new");
            std::os::unix::fs::symlink(to, &new).unwrap();
            std::fs::rename(new, dir.join(link)).unwrap();
        }
    };

    update("3.0");
    told("release_good", "3.0");
    tree.write(&format!("{}/temp", common::tree::BATTERY), "750");
    update("4.0");
    told("release_bad", "4.0");
    told("release_back", "3.0");
    assert_eq!(std::fs::read_link(dir.join("current")).unwrap().to_str(), Some("releases/3.0"));
}
