//! Commands: the subscription that brings them is asked for until it is granted, and no more than that; each message is
//! acknowledged once, in the order in which they came.

use std::collections::BTreeSet;

use serde_json::json;

use super::broker::{Case, Conn};
use super::common::operator::claims;
use super::common::{Agent, Gateway, Operator, PREFIX, SOON};
use super::packet::{self, Packet, V5};

/// Larger than what the agent announces to take.
const OVERSIZE: usize = 70_000;

fn commands(device: &str) -> String {
    format!("{PREFIX}/{device}/commands")
}

/// Answers until so many PUBACKs have come; their packet ids.
fn pubacks(conn: &mut Conn, count: usize) -> Vec<u16> {
    let mut seen = Vec::new();
    conn.until(&format!("{count} PUBACKs"), |packet| {
        if let Packet::PubAck { pkid, reason } = packet {
            assert_eq!(*reason, 0, "refused for good: the broker would drop it");
            seen.push(*pkid);
        }
        (seen.len() == count).then_some(())
    });
    seen
}

/// A gateway whose broker has its subscription, and the connection over which that came about.
fn subscribed(broker: &super::broker::Broker, gateway: &Gateway) -> (Agent, Conn) {
    let agent = gateway.start();
    let mut conn = broker.welcome(false);
    conn.until_subscribe();
    // What was granted is known over a restart, and so it is on the disk before this result is said.
    conn.until_publish("telemetry", |_| true);
    (agent, conn)
}

#[test]
fn commands_are_acknowledged_in_the_order_of_receipt() {
    let case = Case::new("MQTT QoS 1 PUBACK");
    let broker = case.broker();
    let operator = Operator::new("ops-1");
    let gateway = Gateway::new("gw-puback", &broker.url()).trusting(&operator);
    let (_agent, mut conn) = subscribed(&broker, &gateway);
    // Genuine ones are journaled first, others are not: still none may overtake.
    let ids: [u16; 8] = [7, 3, 65_535, 1, 12, 11, 500, 2];
    let tokens: Vec<String> = (0..ids.len())
        .map(|n| if n % 2 == 0 { operator.sign(&claims("gw-puback", "ping", json!({}))) } else { "no command".into() })
        .collect();
    for (pkid, token) in ids.iter().zip(&tokens) {
        conn.deliver(*pkid, &commands("gw-puback"), token.as_bytes());
    }
    assert_eq!(pubacks(&mut conn, ids.len()), ids);
}

#[test]
fn a_burst_of_messages_is_acknowledged_to_the_last_in_order() {
    // Several times what any queue on the way holds.
    const BURST: u16 = 1_000;
    let case = Case::new("MQTT QoS 1 PUBACK: burst");
    let broker = case.broker();
    let gateway = Gateway::new("gw-burst", &broker.url());
    let (_agent, mut conn) = subscribed(&broker, &gateway);
    let burst: Vec<u8> =
        (1..=BURST).flat_map(|pkid| packet::message(V5, pkid, false, &commands("gw-burst"), b"no command")).collect();
    conn.send(&burst);
    assert_eq!(pubacks(&mut conn, BURST.into()), (1..=BURST).collect::<Vec<_>>());
}

#[test]
fn a_command_that_is_delivered_twice_is_acknowledged_twice_and_done_once() {
    let case = Case::new("MQTT QoS 1 PUBACK: duplicate delivery");
    let broker = case.broker();
    let operator = Operator::new("ops-1");
    let gateway = Gateway::new("gw-twice", &broker.url()).trusting(&operator);
    let acted = gateway.file("acted");
    gateway.runbook("touch", &format!("echo ran >> {}", acted.display()));
    let (_agent, mut conn) = subscribed(&broker, &gateway);
    let token = || operator.sign(&claims("gw-twice", "run", json!({"runbook": "touch"})));
    let (first, second) = (token(), token());
    // Again with DUP, as after a lost PUBACK, and again as a message of its own, as a bridge may make of it.
    for (pkid, dup, token) in [(5, false, &first), (5, true, &first), (6, false, &first), (7, false, &second)] {
        conn.send(&packet::message(conn.level, pkid, dup, &commands("gw-twice"), token.as_bytes()));
    }
    let (mut acks, mut done) = (BTreeSet::new(), BTreeSet::new());
    conn.until("each PUBACK and both results", |packet| {
        match packet {
            Packet::PubAck { pkid, .. } => drop(acks.insert(*pkid)),
            Packet::Publish(publish) if publish.leaf() == "results" => {
                let result = publish.json();
                if result["status"] == "SUCCEEDED" {
                    done.insert(result["command_id"].to_string());
                }
            }
            _ => {}
        }
        (done.len() == 2 && acks == BTreeSet::from([5, 6, 7])).then_some(())
    });
    assert_eq!(std::fs::read_to_string(acted).unwrap(), "ran\nran\n", "once for each of two commands");
}

#[test]
fn a_message_that_is_too_large_is_acknowledged_and_refused_and_costs_nothing_else() {
    let case = Case::new("MQTT large payload");
    let broker = case.broker();
    for version in ["5", "3.1.1"] {
        let operator = Operator::new("ops-1");
        let gateway = Gateway::new("gw-large", &broker.url()).trusting(&operator);
        let (agent, mut conn) = subscribed(&broker, &gateway.with(&format!("[mqtt]\nversion = \"{version}\"")));
        conn.deliver(21, &commands("gw-large"), &vec![b'x'; OVERSIZE]);
        conn.deliver(20, &format!("a\r\nforged {}", "b".repeat(OVERSIZE / 2)), &vec![b'x'; OVERSIZE]);
        let token = operator.sign(&claims("gw-large", "ping", json!({})));
        conn.deliver(22, &commands("gw-large"), token.as_bytes());
        assert_eq!(pubacks(&mut conn, 3), [21, 20, 22]);
        conn.until_publish("results", |result| result["status"] == "SUCCEEDED");
        let lines = agent.log().so_far();
        let refused: Vec<&String> = lines.iter().filter(|line| line.contains("a message of")).collect();
        assert_eq!(refused.len(), 2, "{lines:?}");
        assert!(refused.iter().all(|line| line.len() < 500), "{refused:?}");
        assert!(!lines.iter().any(|line| line.starts_with("forged")), "{lines:?}");
    }
}

#[test]
fn the_subscription_is_to_the_device_and_its_groups_at_qos_1() {
    let case = Case::new("MQTT subscribe");
    let broker = case.broker();
    let _agent = Gateway::new("gw-sub", &broker.url()).with("[device]\ngroups = [\"canary\", \"plant-7\"]").start();
    let filters = broker.welcome(false).until_subscribe();
    let groups = ["canary", "plant-7"].map(|group| (format!("{PREFIX}/groups/{group}/commands"), 1));
    let wanted: Vec<(String, u8)> = std::iter::once((commands("gw-sub"), 1)).chain(groups).collect();
    assert_eq!(filters, wanted);
}

#[test]
fn without_a_suback_it_is_subscribed_again_also_in_a_session_that_was_kept() {
    let case = Case::new("MQTT subscribe retry: no SUBACK");
    let (broker, _agent, mut conn) = case.greeted("gw-no-suback");
    conn.manners.suback = false;
    conn.until_subscribe();
    conn.until_closed(SOON);
    // What wasn't acknowledged may not have been done, whatever session the broker kept.
    broker.welcome(true).until_subscribe();
}

#[test]
fn a_subscription_that_is_refused_stops_nothing_and_is_asked_for_again() {
    // Not authorized (3.9.3).
    const REFUSED: u8 = 0x87;
    let case = Case::new("MQTT subscribe: SUBACK refuses");
    let (broker, agent, mut conn) = case.greeted("gw-denied");
    conn.manners.suback = false;
    let pkid = conn.until("SUBSCRIBE", |packet| match packet {
        Packet::Subscribe { pkid, .. } => Some(*pkid),
        _ => None,
    });
    conn.send(&packet::suback(V5, pkid, &[REFUSED]));
    agent.wait_for_log("command topics");
    conn.until_publish("telemetry", |_| true);
    conn.close();
    broker.welcome(true).until_subscribe();
}

#[test]
fn in_a_session_that_was_kept_nothing_is_subscribed_again_and_what_was_stored_is_acknowledged() {
    let case = Case::new("MQTT persistent session");
    let broker = case.broker();
    let operator = Operator::new("ops-1");
    let gateway = Gateway::new("gw-kept", &broker.url()).trusting(&operator);
    let (agent, conn) = subscribed(&broker, &gateway);
    conn.close();
    let stored = |conn: &mut Conn| {
        let token = operator.sign(&claims("gw-kept", "ping", json!({})));
        conn.deliver(31, &commands("gw-kept"), token.as_bytes());
        let mut acked = false;
        conn.until("PUBACK and telemetry", |packet| {
            assert!(!matches!(packet, Packet::Subscribe { .. }), "subscribed again: {packet:?}");
            acked |= matches!(packet, Packet::PubAck { pkid: 31, .. });
            (acked && matches!(packet, Packet::Publish(publish) if publish.leaf() == "telemetry")).then_some(())
        });
    };
    let mut conn = broker.welcome(true);
    stored(&mut conn);
    // The same after a restart of the agent: its session is its client id's.
    agent.sigterm();
    conn.until_closed(SOON);
    let _agent = gateway.start();
    stored(&mut broker.welcome(true));
}

/// It can't know whether its last connection had found the session forgotten.
#[test]
fn an_agent_that_was_cut_off_subscribes_again_in_a_session_that_was_kept() {
    let case = Case::new("MQTT persistent session: after a kill");
    let broker = case.broker();
    let gateway = Gateway::new("gw-cut-off", &broker.url());
    let (agent, mut conn) = subscribed(&broker, &gateway);
    agent.kill9();
    conn.until_closed(SOON);
    let _agent = gateway.start();
    broker.welcome(true).until_subscribe();
}

#[test]
fn in_a_session_that_expired_everything_is_subscribed_again() {
    let case = Case::new("MQTT persistent session: expired");
    let broker = case.broker();
    let gateway = Gateway::new("gw-expired", &broker.url());
    let (_agent, conn) = subscribed(&broker, &gateway);
    conn.close();
    let filters = broker.welcome(false).until_subscribe();
    assert_eq!(filters, [(commands("gw-expired"), 1)]);
}
