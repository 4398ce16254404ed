//! The conversation with the broker: how it begins, in which version, what is subscribed to, and how it ends.

use std::time::Duration;

use serde_json::json;

use super::world::{Got, World, config, outcome, puts};
use crate::engine::io::{ActStatus, Input, LinkFaultKind, StopReason, StoreFault, StoreOp};
use crate::engine::metric::Metric;
use crate::engine::packet::{AckReason, SubscribeRefusal, Version};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn a_connection_that_falls_silent_as_its_link_goes_down_is_told_so() {
    let mut world = World::new();
    let mut reason = |before: Option<bool>, after: Option<bool>, kind: LinkFaultKind| {
        for up in [before, after] {
            world.set(Metric::LinkUp, up);
            let rounds = world.rounds;
            assert!(world.advance_until(60 * SECOND, |world| world.rounds > rounds));
        }
        world.drop_connection(kind);
        world.advance(5 * SECOND);
        let last = world.got.iter().rev().find(|got| got.body["name"] == "disconnected").unwrap();
        last.body["link"]["reason"].as_str().unwrap().to_owned()
    };
    let (up, down) = (Some(true), Some(false));
    assert_eq!(reason(up, down, LinkFaultKind::KeepAlive), "link_down");
    assert_eq!(reason(up, up, LinkFaultKind::KeepAlive), "keep_alive");
    assert_eq!(reason(up, down, LinkFaultKind::Server), "server", "what spoke was there");
    assert_eq!(reason(down, down, LinkFaultKind::Stalled), "stalled", "it never went over that link");
    assert_eq!(reason(None, None, LinkFaultKind::KeepAlive), "keep_alive");
}

#[test]
fn an_hour_of_suspend_is_no_hour_of_connection() {
    // It is found to be silent, or breaks as the gateway wakes.
    for breaks in [false, true] {
        let mut world = World::new();
        world.advance(130 * SECOND);
        world.now.mono = world.now.mono.after(3600 * SECOND);
        world.now.wall.unix.0 += 3_600_000;
        if breaks {
            world.drop_connection(LinkFaultKind::Server);
        }
        world.advance(130 * SECOND);
        let seconds = |field: &str| {
            let samples = world.got.iter().filter_map(|got| got.body["samples"].as_array()).flatten();
            samples.filter_map(|sample| sample["link"][field].as_f64()).sum::<f64>()
        };
        let (connected, expected) = (seconds("connected_s"), seconds("expected_s"));
        assert!(expected > 3_700.0 && connected > 150.0 && connected < 310.0, "{connected} s of {expected} s");
        let said = |name: &str| &world.got.iter().rfind(|got| got.body["name"] == name).expect(name).body["link"];
        let stood = said("disconnected")["duration_s"].as_f64().unwrap();
        assert!((130.0..=180.0).contains(&stood), "{}", said("disconnected"));
        let away = said("connected")["offline_s"].as_f64().unwrap();
        assert!(away > 3_500.0, "{}", said("connected"));
    }
}

#[test]
fn a_connection_after_an_outage_tells_what_had_kept_it_away() {
    let mut world = World::new();
    world.advance(SECOND);
    world.broker_up = false;
    world.drop_connection(LinkFaultKind::Server);
    world.advance(10 * SECOND);
    world.broker_up = true;
    world.advance(10 * SECOND);
    let told: Vec<&serde_json::Value> =
        world.got.iter().filter(|got| got.body["name"] == "connected").map(|got| &got.body["link"]).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0]["offline_reason"], serde_json::Value::Null, "nothing had");
    assert_eq!(told[1]["offline_reason"], "tcp", "the connection was lost otherwise: {told:?}");
}

#[test]
fn how_long_the_brokers_name_took_is_told_once_for_each_connection() {
    let mut world = World::new();
    world.advance(SECOND);
    world.lookup = Some(Duration::from_millis(250));
    world.drop_connection(LinkFaultKind::Server);
    world.advance(Duration::from_secs(130));
    let told: Vec<&serde_json::Value> = world
        .got
        .iter()
        .filter_map(|got| got.body["samples"].as_array())
        .flatten()
        .map(|sample| &sample["link"]["dns_ms"])
        .filter(|told| !told.is_null())
        .collect();
    assert_eq!(told, [&serde_json::json!(250.0)]);
}

#[test]
fn a_connection_without_puback_is_given_up_and_its_records_are_sent_again() {
    let mut world = World::new();
    world.advance(SECOND);
    world.withhold_acks = true;
    world.advance(40 * SECOND);
    assert!(world.connects >= 2, "{} connects", world.connects);
}

/// The one looks like the other, but for what comes in between.
#[test]
fn a_broker_that_is_restarted_twice_is_not_taken_for_one_whose_client_has_a_twin() {
    for restarted in [false, true] {
        let mut world = World::new();
        for _ in 0..3 {
            world.broker_up = !restarted;
            world.advance(5 * SECOND);
            world.broker_up = true;
            world.advance(5 * SECOND);
            world.drop_connection(LinkFaultKind::Server);
        }
        world.advance(5 * SECOND);
        let said = |got: &Got| got.body["link"]["detail"].as_str().is_some_and(|detail| detail.contains("device.id"));
        assert_eq!(world.got.iter().any(said), !restarted);
    }
}

#[test]
fn backoff_is_reset_by_a_stable_connection_only() {
    let mut world = World::new();
    world.advance(50 * SECOND);
    assert_eq!(world.backoff_resets, 0);
    world.drop_connection(LinkFaultKind::Server);
    world.advance(50 * SECOND);
    assert_eq!(world.backoff_resets, 0, "50 s twice is not 60 s once");
    world.advance(20 * SECOND);
    assert_eq!(world.backoff_resets, 1);
}

#[test]
fn a_session_that_the_broker_kept_is_not_subscribed_to_again() {
    let mut world = World::new();
    world.advance(SECOND);
    world.drop_connection(LinkFaultKind::Server);
    world.advance(5 * SECOND);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(20 * SECOND);
    world.crash();
    world.advance(5 * SECOND);
    assert_eq!(world.subscribes, 1);
    assert_eq!(world.connects, 3);
}

#[test]
fn an_agent_that_was_cut_off_as_the_broker_had_forgotten_it_is_not_deaf_in_the_session_that_it_left() {
    let mut world = World::new();
    world.advance(SECOND);
    world.forget_session();
    world.lose_subscribes(true);
    world.refuse(|op| matches!(op, StoreOp::Put { .. }), StoreFault::Busy);
    world.drop_connection(LinkFaultKind::Server);
    world.advance(5 * SECOND);
    assert!(world.is_connected());
    world.refuse_nothing();
    world.lose_subscribes(false);
    world.crash();
    world.advance(5 * SECOND);
    assert_eq!(world.subscribes, 2);
}

#[test]
fn an_agent_that_found_the_disk_full_as_the_broker_had_forgotten_it_is_not_deaf_after_a_stop() {
    let mut world = World::new();
    world.advance(SECOND);
    world.forget_session();
    world.lose_subscribes(true);
    world.refuse(|op| puts(op, "subscribed"), StoreFault::NoSpace { what: "state".into() });
    world.drop_connection(LinkFaultKind::Server);
    world.advance(5 * SECOND);
    assert!(world.is_connected());
    world.refuse_nothing();
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(20 * SECOND);
    assert!(world.exited);
    world.lose_subscribes(false);
    world.crash();
    world.advance(5 * SECOND);
    assert_eq!(world.subscribes, 2);
}

#[test]
fn a_new_session_whose_subscription_was_lost_is_subscribed_to_when_it_was_kept() {
    for restart in [false, true] {
        let mut world = World::new();
        world.advance(SECOND);
        world.forget_session();
        world.lose_subscribes(true);
        world.drop_connection(LinkFaultKind::Server);
        world.advance(5 * SECOND);
        assert!(world.is_connected());
        world.lose_subscribes(false);
        if restart {
            world.crash();
        } else {
            world.drop_connection(LinkFaultKind::Server);
        }
        world.advance(5 * SECOND);
        assert_eq!(world.subscribes, 2, "deaf; restarted: {restart}");
    }
}

#[test]
fn topics_that_the_broker_refused_are_asked_for_again_at_the_next_connection() {
    let mut world = World::new();
    world.advance(SECOND);
    world.forget_session();
    world.grant(Some(Err(SubscribeRefusal::Unspecified)));
    for asked in 2..4 {
        world.drop_connection(LinkFaultKind::Server);
        world.advance(5 * SECOND);
        assert_eq!(world.subscribes, asked);
    }
    world.grant(None);
    for _ in 0..2 {
        world.drop_connection(LinkFaultKind::Server);
        world.advance(5 * SECOND);
    }
    assert_eq!(world.subscribes, 4, "granted at last, and kept");
}

#[test]
fn a_gateway_that_the_broker_lets_hear_no_command_says_so_until_it_does() {
    for (grants, expected) in [
        (Err(SubscribeRefusal::Unspecified), "it refuses 2 of our command topics: check its ACL"),
        (Ok(0), "it grants 2 of our command topics at QoS 0: what comes there may be lost on the way"),
    ] {
        let mut config = config();
        config.device.groups = vec!["canary".into()];
        let mut world = World::with(config);
        world.advance(SECOND);
        world.forget_session();
        world.grant(Some(grants));
        let told = |world: &World| -> Vec<(String, String)> {
            let names = world.got.iter().filter(|got| got.body["type"] == "audit");
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            names.map(|got| (text(&got.body["name"]), text(&got.body["audit"]["detail"]))).collect()
        };
        let withheld = ("subscription_withheld".to_owned(), expected.to_owned());
        for restart in [false, false, true, false] {
            if restart {
                world.crash();
            } else {
                world.drop_connection(LinkFaultKind::Server);
            }
            world.advance(5 * SECOND);
            assert_eq!(world.engine.status(world.now).broker.fault.as_deref(), Some(expected));
            assert_eq!(told(&world), std::slice::from_ref(&withheld), "once, not at each connection; {restart}");
        }
        world.grant(None);
        world.crash();
        world.advance(5 * SECOND);
        assert_eq!(world.engine.status(world.now).broker.fault, None);
        assert_eq!(told(&world), [withheld, ("subscription_granted".to_owned(), String::new())]);
    }
}

#[test]
fn a_broker_that_takes_no_publish_is_not_called_well_and_the_log_says_of_which_topic_and_what_to_do() {
    for (reason, why, advice) in [
        (AckReason::NotAuthorized, "not authorized", "check its ACL for our topics"),
        (AckReason::QuotaExceeded, "quota exceeded", "raise its quota, or publish less often"),
        (AckReason::Other(0x80), "reason code 0x80", "it doesn't say why: see its log"),
        (AckReason::Other(0x83), "reason code 0x83", "it doesn't say why: see its log"),
        (AckReason::TopicNameInvalid, "topic name invalid", "check mqtt.topic_prefix"),
    ] {
        let mut world = World::new();
        world.ack_reason = reason;
        world.drop_connection(LinkFaultKind::Server);
        world.advance(20 * SECOND);
        let status = world.engine.status(world.now);
        let fault = status.broker.fault.unwrap_or_default();
        let expected = format!("it refuses our attributes, events, presence, telemetry ({why}): {advice}");
        assert!(status.broker.online && fault.starts_with(&expected), "{fault}");
        assert!(status.outbox.dropped.is_empty(), "{reason:?}: {:?}", status.outbox.dropped);
        let logged: Vec<&String> =
            world.log.iter().map(|(_, line)| line).filter(|line| line.contains("refuses a publish")).collect();
        let [line] = logged.as_slice() else { panic!("{logged:?}") };
        assert!(line.contains(&format!("on fieldmedic/gw-1/presence ({why}): {advice}")), "{line}");
        world.ack_reason = AckReason::Success;
        world.advance(20 * SECOND);
        assert_eq!(world.engine.status(world.now).broker.fault, None, "{reason:?}");
    }
}

#[test]
fn a_refusal_of_what_is_seldom_sent_is_not_told_over_a_later_connection() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    world.ack_reason = AckReason::NotAuthorized;
    world.command("p-1", "ping", json!({}), 1);
    world.settle();
    world.ack_reason = AckReason::Success;
    let fault = world.engine.status(world.now).broker.fault.unwrap_or_default();
    assert!(fault.starts_with("it refuses our results ("), "{fault}");
    world.drop_connection(LinkFaultKind::Server);
    world.advance(20 * SECOND);
    let broker = world.engine.status(world.now).broker;
    assert_eq!((broker.online, broker.fault), (true, None));
}

#[test]
fn what_the_broker_keeps_of_us_is_said_again_once_its_acl_was_put_right() {
    let mut world = World::new();
    world.ack_reason = AckReason::NotAuthorized;
    world.drop_connection(LinkFaultKind::Server);
    world.advance(5 * SECOND);
    world.ack_reason = AckReason::Success;
    world.got.clear();
    world.advance(15 * SECOND);
    for leaf in ["/presence", "/attributes"] {
        assert_eq!(world.got.iter().filter(|got| got.topic.ends_with(leaf)).count(), 1, "{leaf}");
    }
}

#[test]
fn a_broker_that_refuses_a_publish_and_hangs_up_is_not_taken_for_another_client_of_that_name() {
    let mut world = World::new();
    let refuse_and_hang_up = |world: &mut World| {
        world.withhold_acks = true;
        world.advance(3 * SECOND);
        assert!(world.unanswered() > 0);
        world.answer_nth(0);
        world.drop_connection(LinkFaultKind::Server);
        world.engine.status(world.now).broker.fault.unwrap()
    };
    world.ack_reason = AckReason::NotAuthorized;
    for _ in 0..4 {
        assert_eq!(
            refuse_and_hang_up(&mut world),
            "the broker refused a publish (not authorized) and closed the connection: check its ACL for our topics, and \
             that it goes by the id in them: it may go by the user name or the certificate's CN instead"
        );
    }
    world.ack_reason = AckReason::Success;
    refuse_and_hang_up(&mut world);
    let fault = refuse_and_hang_up(&mut world);
    assert!(fault.ends_with("does another client use this device.id?"), "{fault}");
}

#[test]
fn groups_that_come_and_go_before_the_broker_has_answered_are_asked_for_again() {
    let mut world = World::new();
    world.advance(SECOND);
    world.lose_subscribes(true);
    let before = world.config.clone();
    let mut other = before.clone();
    other.device.groups = vec!["other".into()];
    world.input(Input::Reconfigure(Box::new(other)));
    world.lose_subscribes(false);
    world.input(Input::Reconfigure(Box::new(before)));
    assert_eq!(world.subscribes, 2);
}

#[test]
fn a_stop_tells_goodbye_and_exits_even_without_a_broker() {
    let mut world = World::new();
    world.advance(3 * SECOND);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(SECOND);
    assert!(world.exited);
    let last = world.got.last().unwrap();
    assert_eq!((&last.body["online"], &last.body["reason"]), (&false.into(), &"stopped".into()));

    let mut alone = World::new();
    alone.cut();
    alone.input(Input::Stop { reason: StopReason::Stopped });
    alone.advance(10 * SECOND);
    assert!(alone.exited);
}

#[test]
fn an_agent_that_has_said_goodbye_does_not_connect_again() {
    let mut world = World::new();
    // Until a new block of numbers is wanted, which the store answers late.
    world.stall_store_at(|op| puts(op, "seq"));
    while !world.store_is_late() {
        world.advance(10 * SECOND);
    }
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(10 * SECOND);
    let connects = world.connects;
    world.store_answers();
    world.advance(10 * SECOND);
    assert_eq!(world.connects, connects);
}

#[test]
fn a_goodbye_is_the_last_word_also_where_the_dice_say_to_connect_at_once() {
    let mut world = World::new();
    world.retry_in = Duration::ZERO;
    world.advance(3 * SECOND);
    let connects = world.connects;
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(SECOND);
    assert_eq!((world.exited, world.connects), (true, connects));
}

#[test]
fn a_stop_that_waits_for_the_broker_sleeps_meanwhile() {
    let mut world = World::new();
    world.advance(SECOND);
    world.withhold_acks = true;
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.advance(1_500 * MILLISECOND);
    assert!(!world.exited, "it still waits");
    assert!(world.engine.poll_deadline() > Some(world.now.mono), "{:?}", world.engine.poll_deadline());
}

#[test]
fn a_stop_in_which_a_quarantine_is_entered_sleeps_too_though_presence_was_once_refused() {
    let mut world = World::new();
    world.drop_connection(LinkFaultKind::Server);
    world.ack_reason = AckReason::QuotaExceeded;
    world.advance(2 * SECOND);
    world.ack_reason = AckReason::Success;
    world.advance(360 * SECOND);
    world.acts_succeed = false;
    world.command("q-1", "quarantine", json!({"level": "restrict"}), 1);
    world.settle();
    let (id, _) = world.acts.pop().unwrap();
    world.withhold_acks = true;
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.input(Input::ActDone { id, outcome: outcome(ActStatus::Succeeded) });
    let wakes_at = world.engine.poll_deadline();
    assert!(!world.exited && wakes_at > Some(world.now.mono), "{wakes_at:?} at {:?}", world.now.mono);
}

#[test]
fn a_stop_while_the_broker_greets_leaves_no_presence_that_says_online() {
    let mut world = World::new();
    world.cut();
    world.got.clear();
    world.hold_connack();
    world.broker_up = true;
    world.advance(1_500 * MILLISECOND);
    world.stall_store_at(|_| true);
    world.input(Input::Stop { reason: StopReason::Stopped });
    world.give_connack();
    world.store_answers();
    world.advance(10 * SECOND);
    assert!(world.exited);
    let last = world.got.iter().rfind(|got| got.topic.ends_with("presence"));
    assert!(last.is_none_or(|got| got.body["online"] == false), "{last:?}");
}

#[test]
fn a_broker_that_takes_only_version_5_is_found_again_after_its_balancer_hung_up() {
    let mut world = World::new();
    world.hang_up_on(&[Version::V5, Version::V311]);
    world.crash();
    world.advance(20 * SECOND);
    assert!(!world.is_connected());
    world.hang_up_on(&[Version::V311]);
    world.advance(20 * SECOND);
    assert!(world.is_connected(), "{} connects", world.connects);

    let before = world.connects;
    world.hang_up_on(&[Version::V5, Version::V311]);
    world.crash();
    world.advance(60 * SECOND);
    assert!(world.connects - before < 100, "{} connects in a minute with a pause of 1 s", world.connects - before);
}

#[test]
fn a_broker_that_takes_only_version_3_1_1_is_found() {
    let mut world = World::new();
    world.hang_up_on(&[Version::V5]);
    world.crash();
    world.advance(5 * SECOND);
    assert!(world.is_connected());
}

#[test]
fn version_5_is_tried_again_after_a_connection_in_the_older_one_that_was_only_guessed_at() {
    let mut world = World::new();
    world.hang_up_on(&[Version::V5]);
    world.crash();
    world.advance(5 * SECOND);
    assert_eq!((world.is_connected(), world.engine.link.version()), (true, Version::V311));
    world.hang_up_on(&[]);
    world.drop_connection(LinkFaultKind::Server);
    world.advance(5 * SECOND);
    assert_eq!((world.is_connected(), world.engine.link.version()), (true, Version::V5));
}

#[test]
fn a_broker_that_is_replaced_by_one_of_version_3_1_1_is_found_while_the_agent_runs() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    world.hang_up_on(&[Version::V5]);
    world.drop_connection(LinkFaultKind::Server);
    world.advance(60 * SECOND);
    assert_eq!((world.is_connected(), world.engine.link.version()), (true, Version::V311));
}

/// They wait behind the commands in the connection, and those are read as fast as the disk takes them.
#[test]
fn answers_that_are_late_behind_commands_cost_no_connection_unless_they_never_come() {
    let greetings = |world: &World| world.got.iter().filter(|got| got.topic.ends_with("/presence")).count();
    for (commands, lost) in [(20, false), (40, true)] {
        let mut world = World::new();
        world.advance(5 * SECOND);
        world.withhold_acks = true;
        let before = greetings(&world);
        for n in 0..commands {
            world.command(&format!("c-{n}"), "ping", json!({}), n + 1);
            world.advance(10 * SECOND);
        }
        assert_eq!(greetings(&world) > before, lost, "after {commands} commands");
        let before = greetings(&world);
        world.advance(40 * SECOND);
        assert!(greetings(&world) > before, "nothing comes any more: the broker is dead");
    }
}

#[test]
fn the_events_of_a_start_come_in_the_order_in_which_they_were_made() {
    let mut world = World::new();
    world.advance(5 * SECOND);
    world.crash();
    world.advance(20 * SECOND);
    let events = || world.got.iter().filter(|got| got.topic.ends_with("/events"));
    let names: Vec<&str> = events().filter_map(|got| got.body["name"].as_str()).collect();
    assert!(names.starts_with(&["started", "connected"]) && names.ends_with(&["started", "connected"]), "{names:?}");
    assert!(events().is_sorted_by_key(|got| got.body["seq"].as_u64()), "{names:?}");
}
