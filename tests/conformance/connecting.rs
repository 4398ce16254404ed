//! How a connection begins, is kept alive and ends.

use std::time::Duration;

use serde_json::json;

use super::broker::{Case, Heard};
use super::common::{Gateway, PREFIX, SOON};
use super::packet::{self, Packet, V5, V311};

/// Server Keep Alive, in seconds: less than what may be configured, so that a case is short, and more than a busy
/// machine dawdles.
const KEEP_ALIVE_S: u16 = 4;
/// Reports so far apart that nothing but pings is left to send.
const QUIET: &str = "[telemetry]\nreport_interval = \"1h\"\npublish_interval = \"1h\"";

#[test]
fn the_connect_asks_for_a_session_that_lasts_and_leaves_a_will() {
    let case = Case::new("MQTT connect");
    let broker = case.broker();
    let gateway = Gateway::new("gw-connect", &broker.url()).with("[mqtt]\nkeep_alive = \"45s\"\nusername = \"user\"");
    std::fs::write(gateway.file("password"), "secret\n").unwrap();
    let password = gateway.file("password").display().to_string();
    let _agent = gateway.with(&format!("[mqtt]\npassword_file = \"{password}\"")).start();

    let mut conn = broker.accept();
    let connect = conn.read_connect();
    assert_eq!((connect.level, &*connect.client_id, connect.keep_alive_s), (V5, "gw-connect", 45));
    assert_eq!((connect.username.as_deref(), connect.password.as_deref()), (Some("user"), Some(&b"secret"[..])));
    assert!(!connect.clean, "its session would be thrown away: {connect:?}");
    assert!(connect.properties[&packet::SESSION_EXPIRY] >= 3_600, "{connect:?}");
    assert!(connect.properties[&packet::PACKET_MAX] > 0, "{connect:?}");
    let will = connect.will.unwrap();
    assert_eq!((will.topic.clone(), will.qos, will.retain), (format!("{PREFIX}/gw-connect/presence"), 1, true));
    assert_eq!(will.json()["online"], json!(false));

    assert_eq!(conn.hear(Duration::from_secs(1)), Heard::Silence, "nothing may follow CONNECT before CONNACK");
    conn.send(&packet::connack(V5, false, 0, &[]));
    let presence = conn.until_publish("presence", |_| true);
    assert_eq!((presence.json()["online"].clone(), presence.qos, presence.retain), (json!(true), 1, true));
}

#[test]
fn a_broker_of_the_older_protocol_is_spoken_to_in_it() {
    let case = Case::new("MQTT connect: 3.1.1 where 5 is refused");
    let broker = case.broker();
    let _agent = Gateway::new("gw-older", &broker.url()).start();
    let mut conn = broker.accept();
    assert_eq!(conn.read_connect().level, V5);
    // Unacceptable protocol version, as a broker of 3.1.1 says it (3.2.2.3).
    conn.send(&packet::connack(V311, false, 1, &[]));
    assert!(conn.until_closed(SOON).is_empty());

    let mut conn = broker.accept();
    let connect = conn.read_connect();
    assert_eq!((connect.level, connect.clean, &*connect.client_id), (V311, false, "gw-older"));
    assert!(connect.will.is_some());
    conn.send(&packet::connack(V311, false, 0, &[]));
    conn.until_subscribe();
    conn.until_publish("presence", |presence| presence["online"] == true);
}

#[test]
fn a_broker_that_hangs_up_on_the_newer_protocol_is_spoken_to_in_the_older() {
    let case = Case::new("MQTT connect: 3.1.1 where 5 is met with silence");
    let broker = case.broker();
    let _agent = Gateway::new("gw-mute", &broker.url()).start();
    // A broker that is just restarting hangs up too: once is no reason to speak older.
    let levels: Vec<u8> = (0..3).map(|_| broker.accept().read_connect().level).collect();
    assert_eq!(levels, [V5, V5, V311]);
}

#[test]
fn a_ping_without_an_answer_ends_the_connection() {
    let case = Case::new("MQTT keep-alive: no PINGRESP");
    let broker = case.broker();
    let _agent = Gateway::new("gw-ping", &broker.url()).with(QUIET).start();
    let mut conn = broker.welcome_with(false, &packet::short(packet::SERVER_KEEP_ALIVE, KEEP_ALIVE_S));
    for _ in 0..2 {
        conn.until("PINGREQ", |packet| (*packet == Packet::PingReq).then_some(()));
    }
    conn.manners.pingresp = false;
    conn.until("PINGREQ", |packet| (*packet == Packet::PingReq).then_some(()));
    let rest = conn.until_closed(SOON);
    assert!(!rest.contains(&Packet::PingReq), "one question is asked once: {rest:?}");
    broker.welcome(true);
}

#[test]
fn a_broker_that_falls_silent_is_left() {
    let case = Case::new("MQTT keep-alive: half-open connection");
    let broker = case.broker();
    let _agent = Gateway::new("gw-half-open", &broker.url()).start();
    let mut conn = broker.welcome_with(false, &packet::short(packet::SERVER_KEEP_ALIVE, KEEP_ALIVE_S));
    conn.until_publish("telemetry", |_| true);
    conn.manners = super::broker::Manners { puback: false, suback: false, pingresp: false, ..conn.manners };
    conn.until_closed(SOON);
    broker.welcome(true).until_publish("telemetry", |_| true);
}

#[test]
fn a_disconnect_of_the_server_ends_the_connection_with_whatever_reason() {
    let case = Case::new("MQTT server DISCONNECT, with a reason and without");
    let broker = case.broker();
    let _agent = Gateway::new("gw-bye", &broker.url()).start();
    // 3.14.2: no reason, a reason alone, one with a reason string in words, one that the standard doesn't know.
    let said = [0x1f, 0, 4, b'b', b'u', b's', b'y'];
    let with_words = [&[0x89, u8::try_from(said.len()).unwrap()][..], &said].concat();
    for body in [&[][..], &[0x8b], &with_words, &[0xee]] {
        let mut conn = broker.welcome(true);
        conn.until_publish("presence", |_| true);
        conn.send(&packet::framed(0xe0, body));
        conn.until_closed(SOON);
    }
    broker.welcome(true).until_publish("presence", |_| true);
}

#[test]
fn what_is_no_mqtt_ends_the_connection_and_not_the_agent() {
    let case = Case::new("MQTT protocol errors of the server");
    let broker = case.broker();
    let _agent = Gateway::new("gw-nonsense", &broker.url()).start();
    // A length without an end; CONNECT, which no client gets; SUBACK without a body; a topic that is longer than its
    // packet.
    let nonsense: [&[u8]; 4] =
        [&[0x30, 0xff, 0xff, 0xff, 0xff, 0xff], &[0x10, 0], &[0x90, 0], &[0x32, 4, 0xff, 0xff, b'a', b'b']];
    for bytes in nonsense {
        let mut conn = broker.welcome(true);
        conn.until_publish("presence", |_| true);
        conn.send(bytes);
        conn.until_closed(SOON);
    }
    let mut conn = broker.accept();
    conn.read_connect();
    conn.send(&packet::puback(1));
    assert!(conn.until_closed(SOON).is_empty(), "CONNACK must be first");
    broker.welcome(true).until_publish("presence", |_| true);
}

#[test]
fn packets_that_come_byte_by_byte_are_packets() {
    let case = Case::new("MQTT over a link that carries one byte at a time");
    for version in ["5", "3.1.1"] {
        let broker = case.broker();
        let agent = Gateway::new("gw-bytes", &broker.url()).with(&format!("[mqtt]\nversion = \"{version}\"")).start();
        let mut conn = broker.accept();
        conn.manners.byte_by_byte = true;
        let level = conn.read_connect().level;
        conn.send(&packet::connack(level, false, 0, &[]));
        conn.until_subscribe();
        conn.deliver(9, &format!("{PREFIX}/gw-bytes/commands"), b"no command");
        conn.until("PUBACK 9", |packet| matches!(packet, Packet::PubAck { pkid: 9, .. }).then_some(()));
        conn.until_publish("telemetry", |_| true);
        drop(agent);
    }
}

#[test]
fn an_agent_that_is_stopped_says_goodbye() {
    let case = Case::new("MQTT DISCONNECT");
    let (_broker, agent, mut conn) = case.greeted("gw-stop");
    conn.until_publish("presence", |presence| presence["online"] == true);
    let stopping = std::thread::spawn(move || agent.sigterm());
    conn.until_publish("presence", |presence| presence["online"] == false);
    let rest = conn.until_closed(SOON);
    // 0: the broker then discards the will, which would say something else (3.14.2.1).
    assert_eq!(rest.last(), Some(&Packet::Disconnect { reason: 0 }), "{rest:?}");
    assert_eq!(stopping.join().unwrap(), Some(0));
}

#[test]
fn an_outage_of_two_hours_loses_nothing_and_makes_no_storm() {
    let case = Case::new("MQTT long duration: the server is away for two hours");
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("agent.toml"), "[mqtt]\nurl = \"mqtt://broker\"\n").unwrap();
    let scenario = dir.path().join("away.toml");
    // Each record comes and none is dropped: that is the simulator's own promise. Half of five minutes on average is
    // some 50 tries; one a minute would be the storm of a fleet.
    std::fs::write(
        &scenario,
        r#"
        about = "the broker is away for two hours"
        config = "agent.toml"
        lasts = "6h"
        calm = "2h"
        expect = [
          { measure = "dropped", at_most = 0 },
          { measure = "waiting", at_most = 3 },
          { measure = "tries", at_most = 120 },
          { measure = "connects", at_least = 2, at_most = 3 },
          { measure = "crashes", at_most = 0 },
        ]
        [[faults]]
        do = "broker_down"
        at = "1h"
        lasts = "2h"
        "#,
    )
    .unwrap();
    let output = std::process::Command::new(super::common::agent::program())
        .args(["simulate", "--seeds", "5"])
        .arg(&scenario)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    drop(case);
}
