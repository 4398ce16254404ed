//! A compromised agent against the real root helper, which the test starts as systemd does: with a socket in hand.
//! Whatever such an agent sends is refused, with the reason in the answer and in the helper's log, and what root allows
//! is done.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    unreachable_pub,
    reason = "a test that can't be set up fails, and it may touch the system that the agent's engine must not"
)]

#[path = "../common/mod.rs"]
mod common;
mod pid1;
mod releases;
mod world;

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fieldmedic::act::units::Manager;
use fieldmedic::act::{Actor, Order};
use fieldmedic::config::Action;
use fieldmedic::engine::io::{Act, ActStatus, Trigger};
use fieldmedic::wire::CommandId;
use rustix::process::Signal;
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use common::operator::{Wrong, claims, wrong_tokens};
use common::process::output_of;
use common::unix_now;
use pid1::Pid1;
use world::{DEVICE, World, commanded, ordered_by_rule};

/// Orders a runbook that leaves a trace.
fn touch(order: &Json, token: &str) -> Json {
    commanded("run", &json!({"runbook": "touch"}), order["jti"].as_str().unwrap(), token)
}

fn touch_claims() -> Json {
    claims(DEVICE, "run", json!({"runbook": "touch"}))
}

#[test]
fn what_was_signed_is_done_once_and_never_again_also_after_a_kill() {
    let world = World::new();
    let helper = world.start();
    let order = touch_claims();
    let request = touch(&order, &world.operator.sign(&order));

    let end = world.ask(&request);
    assert_eq!(end["status"], "SUCCEEDED", "{end}");
    assert_eq!(end["output"], "touched\n", "{end}");
    world.refused(&helper, &request, "replayed");
    drop(helper);
    world.refused(&world.start(), &request, "replayed");
    assert_eq!(world.traces(), 1);
}

#[test]
fn a_command_that_was_not_signed_for_this_is_refused() {
    let world = World::new();
    let helper = world.start();
    let cases = [
        ("run", json!({"runbook": "progress"})),
        ("run", json!({"runbook": "touch", "args": ["more"]})),
        ("ping", json!({})),
    ];
    for (name, args) in cases {
        let mut order = touch_claims();
        order["cmd"] = json!({"name": name, "args": args});
        world.refused(&helper, &touch(&order, &world.operator.sign(&order)), "wrong_act");
    }
    // Signed, but under another id than the one that is asked for.
    let (order, other) = (touch_claims(), touch_claims());
    world.refused(&helper, &touch(&order, &world.operator.sign(&other)), "wrong_act");
    assert_eq!(world.traces(), 0);

    let mut group = touch_claims();
    group["aud"] = json!("group:canary");
    assert_eq!(world.ask(&touch(&group, &world.operator.sign(&group)))["status"], "SUCCEEDED");
}

#[test]
fn a_wrong_token_is_refused_in_the_contracts_word() {
    let world = World::new();
    let helper = world.start();
    for Wrong { reason, id, token } in wrong_tokens(&world.operator, touch_claims) {
        let end = world.refused(&helper, &touch(&json!({"jti": id}), &token), reason);
        // The agent has a list of keys, too.
        let is_roots = end["detail"].as_str().unwrap().starts_with("root's policy.toml: ");
        assert_eq!(is_roots, reason == "unknown_key", "{end}");
    }
    let order = touch_claims();
    for (reason, token) in [("malformed", "hello".to_owned()), ("too_large", "x".repeat(40_000))] {
        world.refused(&helper, &touch(&order, &token), reason);
    }
    let mut tokenless = touch(&order, "");
    tokenless.as_object_mut().unwrap().remove("token");
    let refusal = world.refused(&helper, &tokenless, "bad_signature");
    assert!(refusal["detail"].as_str().unwrap().contains("signed commands only"), "{refusal}");
    assert_eq!(world.traces(), 0);
}

#[test]
fn no_refresh_takes_a_quarantine_to_another_level_than_was_ordered() {
    let world = World::new();
    world.allow("[allow]\nactions = [\"quarantine\"]\n");
    world.in_quarantine("observe", &[]);
    let _helper = world.start();
    let end = world.ask(&ordered_by_rule("refresh", &json!({"level": "isolate", "wide": true})));
    assert_eq!((&end["status"], &end["detail"]), (&json!("SUCCEEDED"), &json!("nothing is cut off")), "{end}");
    assert_eq!(end["quarantine"], "observe", "who asked for more is told: {end}");
    let now: Json = serde_json::from_slice(&std::fs::read(world.state("quarantine.json")).unwrap()).unwrap();
    assert_eq!((&now["level"], world.state("quarantine.nft").exists()), (&json!("observe"), false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_was_started_meanwhile_only_where_the_quarantine_had_stopped_it() {
    let world = World::new();
    world.allow("[allow]\nactions = [\"quarantine\"]\n[quarantine]\nstop_units = [\"app.service\"]\n");
    // As where the helper was killed before it had stopped any.
    world.in_quarantine("restrict", &["app.service"]);
    let pid1 = Pid1::start().await;
    let _helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", pid1.address())]);
    let mut refresh = ordered_by_rule("refresh", &json!({"level": "restrict", "wide": false}));
    refresh["terms"] = json!({"port": 1883, "stop": ["app.service"]});
    // There everything runs at each look.
    for stopped_again in [Json::Null, json!(true)] {
        let end = world.ask(&refresh);
        assert_eq!((&end["status"], &end["stopped_again"]), (&json!("SUCCEEDED"), &stopped_again), "{end}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_a_unit_that_had_failed_are_not_taken_away_by_stopping_it_unless_it_never_loaded_them() {
    let world = World::new();
    world.allow("[allow]\nactions = [\"quarantine\"]\n[local]\nactions = [\"quarantine\"]\n");
    // Loaded before, as in another boot: it doesn't say that they were not.
    world.in_quarantine("restrict", &[]);
    let pid1 = Pid1::start().await;
    let _helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", pid1.address())]);
    for (active_us, ended, stays) in [(7, ("FAILED", json!("nft_failed")), true), (0, ("SUCCEEDED", Json::Null), false)]
    {
        pid1.fail(active_us);
        let release = claims(DEVICE, "release", json!({}));
        let (jti, token) = (release["jti"].as_str().unwrap(), world.operator.sign(&release));
        let end = world.ask(&commanded("release", &json!({}), jti, &token));
        assert_eq!((&end["status"], &end["reason"]), (&json!(ended.0), &ended.1), "{end}");
        assert_eq!(world.state("quarantine.json").exists(), stays, "{end}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_that_runs_though_its_start_took_too_long_is_not_started_by_a_later_release() {
    let world = World::new();
    world.allow("[allow]\nactions = [\"quarantine\"]\n");
    let pid1 = Pid1::start().await;
    let _helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", pid1.address())]);
    pid1.start_late();
    let saved = world.state("quarantine.json");
    for is_down in [false, true] {
        world.in_quarantine("restrict", &["app.service"]);
        let mut stopped: Json = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
        stopped["stopped"] = json!(["app.service"]);
        std::fs::write(&saved, stopped.to_string()).unwrap();
        if is_down {
            pid1.fail(0);
        }
        let release = claims(DEVICE, "release", json!({}));
        let (jti, token) = (release["jti"].as_str().unwrap(), world.operator.sign(&release));
        let end = world.ask(&commanded("release", &json!({}), jti, &token));
        assert_eq!((&end["status"], &end["reason"]), (&json!("SUCCEEDED"), &json!("unit_failed")), "{end}");
        assert!(end["detail"].as_str().unwrap().ends_with("app.service: its job ended as timeout"), "{end}");
        assert_eq!(saved.exists(), is_down, "what is remembered is started again: {end}");
    }
}

#[test]
fn a_quarantine_that_would_keep_the_agent_from_the_broker_is_refused_before_anything_is_done() {
    let world = World::new();
    let allow = |ports: &str| {
        world.allow(&format!(
            "[allow]\nactions = [\"quarantine\"]\n[local]\nactions = [\"quarantine\"]\n[budget]\nquarantine = \
             \"1/1h\"\n[quarantine]\nbroker_ports = [{ports}]\n"
        ));
    };
    let helper = world.start();
    let request = |name: &str, level: &str, port: u16| {
        let args = if name == "refresh" { json!({"level": level, "wide": true}) } else { json!({"level": level}) };
        let mut request = ordered_by_rule(name, &args);
        request["terms"] = json!({"broker": [format!("192.0.2.1:{port}")], "port": port});
        request
    };
    allow("1883");
    for (name, level) in [("quarantine", "restrict"), ("quarantine", "isolate")] {
        let end = world.refused(&helper, &request(name, level, 8883), "not_allowed");
        let told = "the broker's port 8883 is not in quarantine.broker_ports: add it to policy.toml";
        assert!(end["detail"].as_str().unwrap().contains(told), "{end}");
        assert!(!world.state("quarantine.json").exists());
    }
    // Nothing of it was spent, and what cuts nothing off needs no port.
    let end = world.ask(&request("quarantine", "observe", 8883));
    assert_eq!(end["status"], "SUCCEEDED", "{end}");
    // More was in force when root took the port away: it stays as it was.
    world.in_quarantine("restrict", &[]);
    let before = std::fs::read(world.state("quarantine.json")).unwrap();
    world.refused(&helper, &request("refresh", "restrict", 8883), "not_allowed");
    assert_eq!(std::fs::read(world.state("quarantine.json")).unwrap(), before);
    allow("8883");
    let end = world.ask(&request("refresh", "restrict", 8883));
    assert_eq!(end["quarantine"], "restrict", "{end}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_roots_policy_leaves_out_of_a_quarantine_is_named_in_its_end() {
    let world = World::new();
    world.allow(
        "[allow]\nactions = [\"quarantine\"]\n[local]\nactions = [\"quarantine\"]\n[quarantine]\nstop_units = \
         [\"app.service\"]\n",
    );
    let pid1 = Pid1::start().await;
    let _helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", pid1.address())]);
    for (name, args) in
        [("quarantine", json!({"level": "restrict"})), ("refresh", json!({"level": "restrict", "wide": false}))]
    {
        let mut request = ordered_by_rule(name, &args);
        request["terms"] =
            json!({"port": 1883, "hosts": ["198.51.100.7/32"], "stop": ["app.service", "other.service"]});
        let end = world.ask(&request);
        assert_eq!((&end["status"], &end["reason"]), (&json!("SUCCEEDED"), &json!("degraded")), "{end}");
        let told = "198.51.100.7/32 (quarantine.allow_hosts), other.service (quarantine.stop_units)";
        assert!(end["detail"].as_str().unwrap().ends_with(told), "{end}");
    }
}

#[test]
fn a_host_whose_name_is_not_found_stays_in_a_quarantines_reach_for_as_long_as_root_allows_it() {
    let world = World::new();
    let allow = |hosts: &str| {
        world.allow(&format!("[allow]\nactions = [\"quarantine\"]\n[quarantine]\nallow_hosts = [{hosts}]\n"));
    };
    world.in_quarantine("observe", &[]);
    let _helper = world.start();
    let hosts_after = |found: &[&str], hosts_missing: bool| {
        let mut refresh = ordered_by_rule("refresh", &json!({"level": "observe", "wide": false}));
        refresh["terms"] = json!({"port": 1883, "hosts": found, "hosts_missing": hosts_missing});
        let end = world.ask(&refresh);
        assert_eq!(end["status"], "SUCCEEDED", "{end}");
        let saved: Json = serde_json::from_slice(&std::fs::read(world.state("quarantine.json")).unwrap()).unwrap();
        saved["terms"]["hosts"].clone()
    };
    allow("\"192.0.2.0/24\", \"198.51.100.0/24\"");
    let both = ["192.0.2.7/32", "198.51.100.7/32"];
    assert_eq!(hosts_after(&both, false), json!(both));
    assert_eq!(hosts_after(&both[1..], true), json!(both));
    allow("\"198.51.100.0/24\"");
    assert_eq!(hosts_after(&[], true), json!([both[1]]));
    assert_eq!(hosts_after(&[], false), json!([]));
}

#[test]
fn a_quarantine_that_root_does_not_allow_any_more_is_left_and_kept_up_and_not_entered() {
    let world = World::new();
    world.in_quarantine("observe", &[]);
    let helper = world.start();
    let signed = |name: &str, args: Json| {
        let order = claims(DEVICE, name, args.clone());
        commanded(name, &args, order["jti"].as_str().unwrap(), &world.operator.sign(&order))
    };
    let hello = world.hello();
    assert!(hello["withheld"].as_array().unwrap().contains(&json!("quarantine")), "{hello}");
    world.refused(&helper, &signed("quarantine", json!({"level": "isolate"})), "not_allowed");
    world.refused(&helper, &ordered_by_rule("release", &json!({})), "not_allowed");
    let end = world.ask(&ordered_by_rule("refresh", &json!({"level": "observe", "wide": false})));
    assert_eq!(end["status"], "SUCCEEDED", "{end}");
    // Without PID 1 the rules can't be taken away, of which there are none.
    let end = world.ask(&signed("release", json!({})));
    assert_eq!((&end["status"], world.state("quarantine.json").exists()), (&json!("SUCCEEDED"), false), "{end}");
}

/// What is running, and an order of a rule to leave it.
fn released(world: &World) -> (impl Fn() -> String, Json) {
    let dir = world.releases(&["1", "2"], &[]);
    let current = move || std::fs::read_link(dir.join("current")).unwrap().to_str().unwrap().to_owned();
    assert_eq!(current(), "releases/2");
    (current, ordered_by_rule("rollback", &json!({"target": "app", "to": null})))
}

#[test]
fn what_nobody_waits_for_any_more_is_not_done_by_a_helper_that_comes_round() {
    let world = World::new();
    let (current, order) = released(&world);
    let helper = world.start();
    world.hello();
    let mark = helper.log.mark();
    helper.signal(Signal::STOP);
    drop(world.send(&order));
    helper.signal(Signal::CONT);
    helper.log.wait_since(mark, "that it does not begin", |lines| {
        lines.iter().any(|line| line.contains("canceled before it was begun")).then_some(())
    });
    assert_eq!(current(), "releases/2");
    // Nothing was spent for it.
    let end = world.ask(&order);
    assert_eq!((&end["status"], current().as_str()), (&json!("SUCCEEDED"), "releases/1"), "{end}");
}

#[test]
fn what_was_asked_for_too_long_ago_is_not_done() {
    let world = World::new();
    let (current, mut order) = released(&world);
    let _helper = world.start();
    order["asked_ms"] = json!(0);
    order["timeout_s"] = json!(1);
    let end = world.ask(&order);
    assert_eq!((&end["status"], &end["reason"]), (&json!("TIMED_OUT"), &json!("no_helper")), "{end}");
    assert_eq!(current(), "releases/2");
}

#[tokio::test]
async fn a_helper_that_hangs_costs_an_act_no_more_than_its_time_and_has_not_done_it() {
    let world = World::new();
    let helper = world.start();
    let actor = Actor::new(Manager::Systemd, "/nonexistent".into()).behind(&world.socket());
    assert!(actor.able_by_helper().is_some());
    helper.signal(Signal::STOP);
    let (_keep, never) = oneshot::channel();
    let order = Order { timeout: Duration::from_secs(1), ..order("touch", None, Trigger::Rule("hot".into())) };
    let outcome = tokio::time::timeout(Duration::from_secs(8), actor.perform(order, never, |_| ())).await.unwrap();
    assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::TimedOut, Some("no_helper")), "{outcome:?}");
    helper.signal(Signal::CONT);
    // Canceled, or by its age: a program that is just being started beside this test has the connection open, too.
    world.wait_for_log(&helper, "begun");
    assert_eq!(world.traces(), 0);
}

#[test]
fn a_unit_that_a_quarantine_keeps_stopped_is_not_restarted_nor_what_runs_from_another_release() {
    let world = World::new();
    world.in_quarantine("restrict", &["app.service"]);
    let helper = world.start();
    let mut refresh = ordered_by_rule("refresh", &json!({"level": "restrict", "wide": false}));
    refresh["terms"] = json!({"port": 1883, "stop": []});
    let end = world.ask(&refresh);
    assert_eq!((&end["status"], &end["quarantine"]), (&json!("SUCCEEDED"), &json!("restrict")), "{end}");
    world.refused(&helper, &ordered_by_rule("restart_unit", &json!({"unit": "app.service"})), "quarantined");
    let dir = world.releases(&["1", "2"], &["other.service", "app.service"]);
    world.refused(&helper, &ordered_by_rule("rollback", &json!({"target": "app", "to": null})), "quarantined");
    assert_eq!(std::fs::read_link(dir.join("current")).unwrap(), Path::new("releases/2"));
}

#[test]
fn what_is_not_in_roots_policy_is_refused_whoever_wants_it() {
    let world = World::new();
    let helper = world.start();
    let acts = [
        ("restart_unit", json!({"unit": "ssh.service"}), "ssh.service is not in allow.units"),
        ("run", json!({"runbook": "secret"}), "is not in allow.runbooks"),
        ("run", json!({"runbook": "../policy.toml"}), "is not in allow.runbooks"),
        ("reboot", json!({}), "reboot is not in allow.actions"),
    ];
    for (name, args, detail) in acts {
        let order = claims(DEVICE, name, args.clone());
        let token = world.operator.sign(&order);
        let signed = commanded(name, &args, order["jti"].as_str().unwrap(), &token);
        for request in [ordered_by_rule(name, &args), signed] {
            let end = world.refused(&helper, &request, "not_allowed");
            assert!(end["detail"].as_str().unwrap().contains(detail), "{end}");
        }
    }
    // Allowed to who signs it, but not to a rule.
    world.allow("[allow]\nactions = [\"run\"]\nrunbooks = [\"touch\"]");
    world.refused(&helper, &ordered_by_rule("run", &json!({"runbook": "touch"})), "not_allowed");
    assert_eq!(world.traces(), 0);
}

#[test]
fn a_runbook_that_others_could_have_written_is_not_run() {
    let world = World::new();
    let helper = world.start();
    world.chmod("runbooks/touch", 0o757);
    let end = world.ask(&ordered_by_rule("run", &json!({"runbook": "touch"})));
    assert_eq!((&end["status"], &end["reason"]), (&json!("FAILED"), &json!("runbook_refused")), "{end}");
    helper.log.wait_since(0, "the reason", |lines| {
        lines.iter().any(|line| line.contains("ended: FAILED (runbook_refused)")).then_some(())
    });
    assert_eq!(world.traces(), 0);
}

#[test]
fn a_spent_budget_stays_spent_also_after_a_kill() {
    let world = World::new();
    let request = ordered_by_rule("run", &json!({"runbook": "touch"}));
    let helper = world.start();
    assert_eq!(world.ask(&request)["status"], "SUCCEEDED");
    assert_eq!(world.ask(&request)["status"], "SUCCEEDED");
    // Killed in the middle of the third, which is spent all the same.
    let hanging = world.send(&ordered_by_rule("run", &json!({"runbook": "hang"})));
    world.wait_for_trace(3);
    drop(helper);
    drop(hanging);

    let helper = world.start();
    world.refused(&helper, &request, "budget_spent");
    // Signed or not: a command can't buy what root has not given.
    let order = touch_claims();
    world.refused(&helper, &touch(&order, &world.operator.sign(&order)), "budget_spent");
    assert_eq!(world.traces(), 3);
}

#[test]
fn a_thousand_requests_are_cut_short_and_then_it_serves_again() {
    let world = World::new();
    let helper = world.start();
    let hello = json!({"v": 1, "hello": true});
    let answers: Vec<Json> = (0..1_000).map(|_| world.ask_once(hello.to_string().as_bytes())).collect();
    let limited = answers.iter().filter(|answer| answer["reason"] == "rate_limited").count();
    assert!(answers[0]["able"].is_array(), "{}", answers[0]);
    assert!(limited > 0, "none of 1,000 requests was refused");
    let lines = helper.log.so_far().iter().filter(|line| line.contains("refused: rate_limited")).count();
    assert!((1..=20).contains(&lines), "{lines} lines in the log for {limited} refusals");
    assert_eq!(world.ask(&ordered_by_rule("run", &json!({"runbook": "touch"})))["status"], "SUCCEEDED");
}

#[test]
fn connections_beyond_the_bound_are_refused_and_those_that_say_nothing_are_closed() {
    let world = World::new();
    let helper = world.start();
    let silent: Vec<_> = (0..16).map(|_| world.connect()).collect();
    let answer = world.ask_once(b"{}");
    assert_eq!(answer["reason"], "busy", "{answer}");
    world.wait_for_log(&helper, "refused: busy");
    drop(silent);
    world.hello();
}

#[test]
fn huge_and_malformed_datagrams_are_refused_and_harm_nothing() {
    let world = World::new();
    let helper = world.start();
    let datagrams: [(&[u8], &str); 6] = [
        (&[b'x'; 65_537], "too_large"),
        (&[0xff; 1_000], "malformed"),
        (b"{\"v\":1,\"hello\":true", "malformed"),
        (&[b'['; 65_536], "malformed"),
        (b"{\"v\":1,\"act\":{\"name\":\"restart_unit\",\"args\":{\"unit\":\"-x\"}},\"timeout_s\":5,\"trigger\":\"rule:a\"}", "malformed"),
        (b"{\"v\":1,\"act\":{\"name\":\"reboot\",\"args\":{}},\"timeout_s\":5,\"trigger\":\"root\"}", "malformed"),
    ];
    for (datagram, reason) in datagrams {
        let answer = world.ask_once(datagram);
        assert_eq!((&answer["status"], &answer["reason"]), (&json!("REJECTED"), &json!(reason)), "{answer}");
        world.wait_for_log(&helper, &format!("refused: {reason}"));
    }
    assert_eq!(world.ask(&ordered_by_rule("run", &json!({"runbook": "touch"})))["status"], "SUCCEEDED");
}

#[test]
fn another_user_is_refused() {
    const NOBODY: u32 = 65_534;
    const HELLO: &str = r#"{"v":1,"hello":true}"#;
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be somebody else");
        return;
    }
    let world = World::new();
    let helper = world.start();
    world.open_to_all();
    // Connects so often, and says something on the last of these, if anything.
    let script = "for (1..$ARGV[1]) { socket($s, AF_UNIX, SOCK_SEQPACKET, 0) or die; \
                  connect($s, sockaddr_un($ARGV[0])) or die $!; push @all, $s; undef $s } \
                  send($all[-1], $ARGV[2], 0) if $ARGV[2]; recv($all[-1], $said, 65536, 0); \
                  recv($all[-1], $said, 65536, 0) if !$said; print $said";
    let asked = |connections: u32, request: &str| -> Json {
        let mut perl = common::tool("perl");
        perl.args(["-MSocket", "-e", script]).arg(world.socket()).arg(connections.to_string()).arg(request);
        serde_json::from_slice(&output_of(perl.uid(NOBODY).gid(NOBODY))).unwrap()
    };
    let answer = asked(1, HELLO);
    assert_eq!(answer["reason"], "peer_refused", "{answer}");
    world.wait_for_log(&helper, "refused: peer_refused");
    // However often it connects and says nothing, it takes no place, and none of the agent's requests.
    let answer = asked(20, "");
    assert_eq!(answer["reason"], "peer_refused", "{answer}");
    let answer = asked(200, "");
    assert!(matches!(answer["reason"].as_str(), Some("peer_refused" | "rate_limited")), "{answer}");
    let answer = world.ask_once(HELLO.as_bytes());
    assert!(answer["able"].is_array(), "{answer}");
    // Unless root says that this is the agent's user.
    world.allow(&format!("agent_uid = {NOBODY}"));
    common::until("it to be let in", || asked(1, HELLO)["able"] == json!([]));
}

#[test]
fn a_policy_that_is_wrong_allows_nothing_until_root_has_mended_it() {
    let world = World::new();
    let request = ordered_by_rule("run", &json!({"runbook": "touch"}));
    world.chmod("policy.toml", 0o666);
    let helper = world.start();
    world.wait_for_log(&helper, "everything is refused: policy: ");
    world.refused(&helper, &request, "policy_untrusted");
    world.chmod("policy.toml", 0o600);
    let good = world.allow("[allow]\naction = []");
    world.refused(&helper, &request, "policy_wrong");
    world.write_policy(&good);
    assert_eq!(world.ask(&request)["status"], "SUCCEEDED");
}

#[test]
fn check_tells_every_mistake_with_its_line() {
    let world = World::new();
    assert_eq!(world.check().0, Some(0));
    world.allow("[allow]\nactions = [\"fly\"]\nunit = []");
    let (code, said) = world.check();
    assert_eq!(code, Some(2));
    let at = |line: u32| said.iter().any(|said| said.contains(&format!("policy.toml:{line}: ")));
    assert!(at(2) && at(3) && said.iter().any(|line| line.contains("2 errors")), "{said:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_is_restarted_by_pid_1_over_the_system_bus() {
    let world = World::new();
    let pid1 = Pid1::start().await;
    let _helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", pid1.address())]);
    let args = json!({"unit": "app.service"});
    let order = claims(DEVICE, "restart_unit", args.clone());
    let token = world.operator.sign(&order);
    let end = world.ask(&commanded("restart_unit", &args, order["jti"].as_str().unwrap(), &token));
    assert_eq!(
        (&end["status"], &end["detail"]),
        (&json!("SUCCEEDED"), &json!("app.service is active (running), pid 7"))
    );
    assert_eq!(pid1.restarted(), ["app.service"]);
}

#[test]
fn a_name_that_is_not_there_leaves_the_budget_for_the_right_one() {
    let world = World::new();
    world.releases(&["1", "2"], &[]);
    let _helper = world.start();
    let rollback = |to: &str| {
        let args = json!({"target": "app", "to": to});
        let order = claims(DEVICE, "rollback", args.clone());
        commanded("rollback", &args, order["jti"].as_str().unwrap(), &world.operator.sign(&order))
    };
    let ends = ["l", "1", "2"].map(|to| world.ask(&rollback(to)));
    let reasons = ends.each_ref().map(|end| end["reason"].as_str().unwrap_or_default());
    assert_eq!(reasons, ["no_such_release", "", "budget_spent"], "{ends:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_that_was_allowed_may_have_the_boot_that_completes_it_and_no_other() {
    let world = World::new();
    // No rule may reboot.
    world.allow("[allow]\nactions = [\"rollback\", \"reboot\"]\n[rollback.firmware]\nkind = \"rauc\"\n");
    let pid1 = Pid1::start().await;
    let helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", pid1.address())]);
    let reboot = ordered_by_rule("reboot", &json!({}));
    world.refused(&helper, &reboot, "not_allowed");

    let args = json!({"target": "firmware"});
    let order = claims(DEVICE, "rollback", args.clone());
    let rollback = commanded("rollback", &args, order["jti"].as_str().unwrap(), &world.operator.sign(&order));
    // It would be done by halves, so it is neither begun nor counted.
    let both = world.allow("[allow]\nactions = [\"rollback\"]\n[rollback.firmware]\nkind = \"rauc\"\n");
    let end = world.refused(&helper, &rollback, "not_allowed");
    assert!(end["detail"].as_str().unwrap().contains("reboot is not in allow.actions"), "{end}");
    world.write_policy(&both);
    let end = world.ask(&rollback);
    assert_eq!((&end["status"], &end["reason"]), (&json!("SUCCEEDED"), &json!("needs_reboot")), "{end}");
    // What keeps it from being done doesn't use it up.
    pid1.inhibit(true);
    let end = world.ask(&reboot);
    assert_eq!((&end["status"], &end["reason"]), (&json!("FAILED"), &json!("inhibited")), "{end}");
    pid1.inhibit(false);
    let before = world.allow("[allow]\nactions = [\"rollback\"]\n[rollback.firmware]\nkind = \"rauc\"\n");
    world.refused(&helper, &reboot, "not_allowed");
    world.write_policy(&before);
    // Nor does a kill, nor one that was ordered and does not come.
    drop(helper);
    let helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", pid1.address())]);
    for _ in 0..2 {
        let end = world.ask(&reboot);
        assert_eq!(end["status"], "SUCCEEDED", "{end}");
    }
    assert_eq!(pid1.restarted(), ["reboot.target", "reboot.target"]);
    drop(helper);
    let another = [("DBUS_SYSTEM_BUS_ADDRESS", pid1.address()), ("FIELDMEDIC_BOOT_ID", &"7".repeat(32))];
    let helper = world.start_in(&another);
    world.refused(&helper, &reboot, "not_allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reboot_that_was_signed_for_later_is_done_later() {
    let world = World::new();
    world.allow("[allow]\nactions = [\"reboot\"]\n");
    let pid1 = Pid1::start().await;
    let helper = world.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", pid1.address())]);
    let ordered = |delay_s: i64| {
        let mut order = claims(DEVICE, "reboot", json!({"delay_s": delay_s}));
        (order["iat"], order["exp"]) = (json!(unix_now() - 3_500), json!(unix_now() - 3_000));
        commanded("reboot", &json!({}), order["jti"].as_str().unwrap(), &world.operator.sign(&order))
    };
    world.refused(&helper, &ordered(600), "expired");
    let late = ordered(3_600);
    assert_eq!(world.ask(&late)["status"], "SUCCEEDED");
    assert_eq!(pid1.restarted(), ["reboot.target"]);
    world.refused(&helper, &late, "replayed");
}

fn order(name: &str, token: Option<String>, trigger: Trigger) -> Order {
    let act = Act::Run { runbook: name.into(), args: vec![] };
    Order::new(act, trigger, token, Duration::from_secs(60))
}

#[tokio::test]
async fn the_agent_acts_by_the_helper_where_there_is_one() {
    let world = World::new();
    let _helper = world.start();
    let actor = Actor::new(Manager::Systemd, "/nonexistent".into()).behind(&world.socket());
    assert_eq!(actor.able().actions, [Action::RestartUnit, Action::Run].into());

    let signed = claims(DEVICE, "run", json!({"runbook": "progress"}));
    let id = CommandId::parse(signed["jti"].as_str().unwrap()).unwrap();
    let (told, (_keep, never)) = (Arc::new(Mutex::new(Vec::new())), oneshot::channel());
    let order_it = || order("progress", Some(world.operator.sign(&signed)), Trigger::Command(id.clone()));
    let outcome = actor.perform(order_it(), never, |percent| told.lock().unwrap().push(percent)).await;
    assert_eq!(outcome.status, ActStatus::Succeeded, "{outcome:?}");
    assert_eq!(*told.lock().unwrap(), [40]);

    let (_keep, never) = oneshot::channel();
    let outcome = actor.perform(order_it(), never, |_| ()).await;
    assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Rejected, Some("replayed")), "{outcome:?}");
}

#[tokio::test]
async fn what_is_canceled_or_whose_agent_is_gone_ends() {
    let world = World::new();
    let helper = world.start();
    let actor = Actor::new(Manager::Systemd, "/nonexistent".into()).behind(&world.socket());
    let (cancel, canceled) = oneshot::channel();
    let mut cancel = Some(cancel);
    let outcome = actor
        .perform(order("hang", None, Trigger::Rule("hot".into())), canceled, |_| {
            cancel.take().into_iter().for_each(|cancel| cancel.send(()).unwrap());
        })
        .await;
    assert_eq!(outcome.status, ActStatus::Canceled, "{outcome:?}");

    let connection = world.send(&ordered_by_rule("run", &json!({"runbook": "hang"})));
    world.wait_for_trace(2);
    let mark = helper.log.mark();
    drop(connection);
    helper.log.wait_since(mark, "the end of it", |lines| {
        lines.iter().any(|line| line.contains("ended: CANCELED")).then_some(())
    });
}

#[tokio::test]
async fn a_helper_that_dies_in_the_middle_is_told_as_lost_and_not_asked_again() {
    let world = World::new();
    let helper = Mutex::new(Some(world.start()));
    let actor = Actor::new(Manager::Systemd, "/nonexistent".into()).behind(&world.socket());
    let (_keep, never) = oneshot::channel();
    let outcome = actor
        .perform(order("hang", None, Trigger::Rule("hot".into())), never, |_| drop(helper.lock().unwrap().take()))
        .await;
    assert_eq!(
        (outcome.status, outcome.reason.as_deref()),
        (ActStatus::Interrupted, Some("helper_lost")),
        "{outcome:?}"
    );
    assert_eq!(world.traces(), 1);
}
