//! When a command is valid: by which clock that is judged, and what is taken where there is none to trust.

use std::time::Duration;

use serde_json::json;

use super::commanding::{online, reason};
use super::world::{NONCE, outcome};
use crate::engine::io::{ActStatus, Input, StopReason};
use crate::engine::time::{Unix, Wall};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn time_is_judged_by_a_trusted_clock() {
    let mut world = online();
    let now = world.now.wall.unix.0 / 1000;
    let ping = json!({"name": "ping"});
    world.claims(json!({"jti": "old", "iat": now - 900, "exp": now - 1, "cmd": ping}), 1);
    world.claims(json!({"jti": "nbf", "nbf": now + 3_600, "exp": now + 7_200, "cmd": ping}), 2);
    world.claims(json!({"jti": "iat", "iat": now + 3_600, "exp": now + 7_200, "cmd": ping}), 3);
    world.claims(json!({"jti": "skew", "iat": now + 200, "exp": now + 7_200, "cmd": ping}), 4);
    world.settle();
    let reasons: Vec<String> = ["old", "nbf", "iat", "skew"].iter().map(|id| reason(&world, id)).collect();
    assert_eq!(reasons, ["expired", "not_yet_valid", "not_yet_valid", ""]);
}

#[test]
fn the_moment_at_which_32_bits_of_seconds_end_is_one_like_any_other() {
    let mut world = online();
    let end = i64::from(i32::MAX);
    world.now.wall.unix = Unix::of_seconds(end - 10);
    let cmd = json!({"name": "ping"});
    let ping = |id: &str, iat: i64, exp: i64| json!({"jti": id, "nonce": NONCE, "iat": iat, "exp": exp, "cmd": cmd});
    world.claims(ping("before", end - 20, end + 5), 1);
    world.settle();
    world.advance(20 * SECOND);
    world.claims(ping("late", end - 20, end + 5), 2);
    world.claims(ping("after", end + 5, end + 600), 3);
    world.claims(ping("ahead", end + 3_600, end + 7_200), 4);
    world.settle();
    let reasons: Vec<String> = ["before", "late", "after", "ahead"].iter().map(|id| reason(&world, id)).collect();
    assert_eq!(reasons, ["", "expired", "", "not_yet_valid"]);
    let times = ["before", "after"].map(|id| world.results(id)[0]["time"].as_str().unwrap().to_owned());
    assert!(times[0].starts_with("2038-01-19T03:13:5") && times[1].starts_with("2038-01-19T03:14:1"), "{times:?}");

    // What the store knows of the time is as large.
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.now.wall = Wall { unix: Unix(0), trusted: false };
    world.reboot();
    world.advance(2 * SECOND);
    world.claims(ping("known", end - 20, end + 5), 5);
    world.claims(ping("fresh", end + 10, end + 600), 6);
    world.settle();
    assert_eq!((reason(&world, "known"), world.statuses("fresh")), ("expired".into(), vec!["SUCCEEDED".to_owned()]));
}

#[test]
fn without_a_trusted_clock_only_the_nonce_lets_a_disruptive_command_in() {
    let mut world = online();
    world.now.wall.trusted = false;
    let restart = json!({"name": "restart_unit", "args": {"unit": "app.service"}});
    world.claims(json!({"jti": "bare", "cmd": restart}), 1);
    world.claims(json!({"jti": "stale", "nonce": "feedfeed", "cmd": restart}), 2);
    world.claims(json!({"jti": "fresh", "nonce": NONCE, "cmd": restart}), 3);
    world.claims(json!({"jti": "ping", "cmd": {"name": "ping"}}), 4);
    world.settle();
    let reasons: Vec<String> = ["bare", "stale", "fresh", "ping"].iter().map(|id| reason(&world, id)).collect();
    assert_eq!(reasons, ["clock_untrusted", "clock_untrusted", "", ""]);
    assert_eq!(world.acted.len(), 1);
    // Of a group each gateway has another one.
    world.claims(json!({"jti": "group", "aud": "group:canary", "cmd": restart}), 5);
    world.settle();
    let detail = |id: &str| world.results(id).last().unwrap()["detail"].as_str().unwrap().to_owned();
    assert!(detail("bare").ends_with("send it with the nonce of the presence message"), "{}", detail("bare"));
    assert!(detail("group").contains("send it to this device alone"), "{}", detail("group"));
}

#[test]
fn a_clock_that_reads_a_time_before_the_build_is_not_trusted_whoever_says_so() {
    let mut world = online();
    let saved = world.now.wall.unix.0 / 1000;
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.now.wall = Wall { unix: Unix(1_000_000), trusted: true };
    world.reboot();
    world.advance(2 * SECOND);
    let restart = json!({"name": "restart_unit", "args": {"unit": "app.service"}});
    world.claims(json!({"jti": "bare", "iat": saved, "exp": saved + 600, "cmd": restart}), 1);
    world.settle();
    assert_eq!(reason(&world, "bare"), "clock_untrusted");
    assert_eq!(world.results("bare")[0]["time"], json!(null));
}

#[test]
fn without_a_trusted_clock_what_is_valid_from_its_issue_on_is_valid() {
    let mut world = online();
    world.now.wall.trusted = false;
    let month = world.now.wall.unix.0 / 1000 + 30 * 86_400;
    let ping = |id: &str, nbf: i64| json!({"jti": id, "iat": month, "nbf": nbf, "exp": month + 7_200, "cmd": {"name": "ping"}});
    world.claims(ping("later", month + 3_600), 1);
    world.claims(ping("now", month), 2);
    world.settle();
    assert_eq!((reason(&world, "later"), reason(&world, "now")), ("not_yet_valid".into(), String::new()));
}

#[test]
fn without_a_clock_what_is_older_than_the_last_known_time_is_expired() {
    let mut world = online();
    let saved = world.now.wall.unix.0 / 1000;
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.now.wall = Wall { unix: Unix(0), trusted: false };
    world.reboot();
    world.advance(2 * SECOND);
    world.claims(
        json!({"jti": "old", "nonce": NONCE, "iat": saved - 900, "exp": saved - 60, "cmd": {"name": "ping"}}),
        1,
    );
    world.claims(json!({"jti": "bare", "iat": saved - 900, "exp": saved - 60, "cmd": {"name": "ping"}}), 3);
    world.claims(json!({"jti": "new", "iat": saved, "exp": saved + 600, "cmd": {"name": "ping"}}), 2);
    world.settle();
    assert_eq!((reason(&world, "old"), world.statuses("new")), ("expired".into(), vec!["SUCCEEDED".to_owned()]));
    for (id, wants_nonce) in [("old", false), ("bare", true)] {
        let detail = world.results(id).last().unwrap()["detail"].as_str().unwrap();
        assert!(detail.contains("last time that was known here"), "no clock says so: {detail}");
        assert_eq!(detail.contains("nonce"), wants_nonce, "{detail}");
    }
}

#[test]
fn what_a_genuine_command_says_of_the_time_outlives_a_kill_and_not_a_clock_that_knows_better() {
    let mut world = online();
    let now = world.now.wall.unix.0 / 1000;
    let ping = |id: &str, from: i64| json!({"jti": id, "iat": from, "exp": from + 600, "cmd": {"name": "ping"}});
    world.now.wall.trusted = false;
    world.claims(ping("tomorrow", now + 86_400), 1);
    world.settle();
    world.crash();
    world.advance(2 * SECOND);
    world.claims(ping("today", now), 2);
    world.settle();
    assert_eq!((world.statuses("tomorrow"), reason(&world, "today")), (vec!["SUCCEEDED".to_owned()], "expired".into()));
    world.now.wall.trusted = true;
    world.claims(ping("now", now), 3);
    world.settle();
    assert_eq!(world.statuses("now"), ["SUCCEEDED"]);
}

#[test]
fn a_signer_whose_clock_is_ahead_locks_out_nobody_who_knows_the_nonce() {
    let mut world = online();
    let now = world.now.wall.unix.0 / 1000;
    let years = 10 * 366 * 86_400;
    let restart = json!({"name": "restart_unit", "args": {"unit": "app.service"}});
    let order =
        |id: &str, nonce: &str| json!({"jti": id, "iat": now, "exp": now + 600, "nonce": nonce, "cmd": restart});
    world.now.wall.trusted = false;
    world.acts_succeed = false;
    world.claims(json!({"jti": "ahead", "iat": now + years, "exp": now + years + 600, "cmd": {"name": "ping"}}), 1);
    world.settle();
    world.crash();
    world.advance(2 * SECOND);
    world.claims(order("stale", "feedfeed"), 2);
    world.claims(order("fresh", NONCE), 3);
    world.claims(order("queued", NONCE), 4);
    world.settle();
    assert_eq!((world.statuses("ahead"), reason(&world, "stale")), (vec!["SUCCEEDED".to_owned()], "expired".into()));
    let detail = world.results("stale").last().unwrap()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(&format!("iat {}", now + years)) && detail.contains("nonce"), "{detail}");
    while let Some((id, _)) = world.acts.pop() {
        world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    }
    world.settle();
    assert_eq!(world.statuses("fresh").last().unwrap(), "SUCCEEDED");
    assert_eq!(world.statuses("queued").last().unwrap(), "SUCCEEDED");
    // What ran stays known.
    world.claims(order("fresh", NONCE), 5);
    world.settle();
    assert_eq!(world.acted.len(), 2);
}

#[test]
fn a_command_refused_by_a_clock_that_is_put_right_later_stays_refused() {
    let mut world = online();
    let now_s = world.now.wall.unix.0 / 1000;
    let claims = json!({"jti": "r-1", "iat": now_s, "exp": now_s + 600,
        "cmd": {"name": "restart_unit", "args": {"unit": "app.service"}}});
    world.now.wall.trusted = false;
    world.now.wall.unix.0 += 3 * 3_600_000;
    world.claims(claims.clone(), 1);
    world.settle();
    world.now.wall.unix.0 -= 3 * 3_600_000;
    world.now.wall.trusted = true;
    world.claims(claims, 2);
    world.settle();
    assert!(world.acted.is_empty());
    assert_eq!(world.statuses("r-1"), ["REJECTED", "REJECTED"]);
}

#[test]
fn one_command_from_the_future_does_not_make_all_others_expired() {
    let mut world = online();
    let now_s = world.now.wall.unix.0 / 1_000;
    let year = 365 * 86_400;
    world.claims(json!({"jti": "f-1", "iat": now_s + year, "exp": now_s + 2 * year, "cmd": {"name": "ping"}}), 1);
    world.settle();
    world.command("p-1", "ping", json!({}), 2);
    world.settle();
    assert_eq!(world.statuses("f-1"), ["REJECTED"]);
    assert_eq!(world.statuses("p-1"), ["SUCCEEDED"]);
}

#[test]
fn without_a_clock_a_command_with_the_nonce_waits_no_longer_than_it_was_made_for() {
    let mut world = online();
    let now = world.now.wall.unix.0 / 1000;
    world.now.wall.trusted = false;
    world.acts_succeed = false;
    let restart = json!({"name": "restart_unit", "args": {"unit": "app.service"}});
    for (pkid, (id, valid_s)) in (1..).zip([("first", 60), ("short", 60), ("long", 6_000)]) {
        world.claims(json!({"jti": id, "iat": now, "exp": now + valid_s, "nonce": NONCE, "cmd": restart}), pkid);
    }
    world.settle();
    world.advance(120 * SECOND);
    let (id, _) = world.acts.pop().unwrap();
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    world.settle();
    let short = world.results("short").pop().unwrap();
    assert_eq!((&short["status"], &short["reason"]), (&json!("REJECTED"), &json!("expired")), "{short}");
    assert_eq!(world.statuses("long").last().unwrap(), "IN_PROGRESS");
}
