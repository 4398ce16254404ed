//! What is wrong with the connection is said once, in words that help, and no gateway storms its broker.
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

use std::time::Duration;

use serde_json::json;

use common::broker::{accepted_in, free_port, make_certificates};
use common::{Access, Agent, Broker, Fleet, Gateway};

/// Tries that show that a fault is repeated, and its line is not.
const TRIES: usize = 4;
/// How long two gateways with one id are watched.
const WATCHED: Duration = Duration::from_secs(8);
/// A storm is hundreds a second. With full jitter up to five seconds it is a handful.
const STORM: usize = 40;

/// Waits until so many lines of the broker's log say this.
fn broker_says(broker: &Broker, text: &str, times: usize) {
    let what = format!("{times} x {text:?} in mosquitto's log");
    broker
        .log()
        .wait_since(0, &what, |lines| (lines.iter().filter(|line| line.contains(text)).count() >= times).then_some(()));
}

/// The lines at WARN or ERROR that speak of the broker.
fn complaints(agent: &Agent) -> Vec<String> {
    let loud = |line: &String| line.contains(" WARN ") || line.contains("ERROR ");
    agent.log().so_far().into_iter().filter(|line| loud(line) && line.contains("broker")).collect()
}

fn assert_said_once(agent: &Agent, words: &[&str]) {
    let said = complaints(agent);
    assert_eq!(said.len(), 1, "one line for one fault: {said:#?}");
    assert!(words.iter().all(|word| said[0].contains(word)), "{said:#?} lacks one of {words:?}");
}

#[test]
fn a_wrong_password_is_said_once_and_tried_with_patience_until_its_file_has_the_right_one() {
    let broker = Broker::start(Access::Password);
    let gateway = Gateway::new("gw-password", &broker.url()).with("[mqtt]\nusername = \"gateway\"");
    let password = gateway.file("password");
    std::fs::write(&password, "wrong\n").unwrap();
    let gateway = gateway.with(&format!("[mqtt]\npassword_file = \"{}\"", password.display()));
    let agent = gateway.start();

    broker_says(&broker, "Sending CONNACK to 127.0.0.1 (0, 135)", TRIES);
    assert_said_once(&agent, &["mqtt.username", "mqtt.password_file"]);

    std::fs::write(&password, "right\n").unwrap();
    let fleet = Fleet::watch(&broker);
    fleet.presence(0, "gw-password", true);
}

#[test]
fn an_agent_whose_password_is_not_there_yet_works_and_logs_in_once_it_is() {
    let broker = Broker::start(Access::Password);
    let gateway = Gateway::new("gw-late", &broker.url()).with("[mqtt]\nusername = \"gateway\"");
    let password = gateway.file("password");
    let gateway = gateway.with(&format!("[mqtt]\npassword_file = \"{}\"", password.display()));
    let agent = gateway.start();
    agent.wait_for_log("the password");
    agent.wait_for_log("can't be used: No such file");
    agent.wait_for_log("retrying with backoff");
    let asked = broker.log().so_far().into_iter().find(|line| line.contains("New connection from"));
    assert_eq!(asked, None, "nobody is asked before there is a password");

    std::fs::write(&password, "right\n").unwrap();
    let fleet = Fleet::watch(&broker);
    fleet.presence(0, "gw-late", true);
}

#[test]
fn a_certificate_of_an_unknown_ca_is_said_once_and_nothing_is_told_to_that_broker() {
    let broker = Broker::start(Access::MutualTls);
    let gateway = Gateway::new("gw-ca", &broker.url());
    make_certificates("CA of another", &gateway.file(""));
    let ca = gateway.file("ca.pem");
    let gateway = gateway.with(&format!("[mqtt.tls]\nca_file = \"{}\"", ca.display()));
    let agent = gateway.start();

    broker_says(&broker, "New connection from 127.0.0.1:", TRIES);
    agent.wait_for_log("not signed by a CA");
    assert_said_once(&agent, &["not signed by a CA", "ca.pem", "mqtt.tls.ca_file"]);
    assert_eq!(broker.accepted("gw-ca"), 0);
}

#[test]
fn a_broker_that_wants_a_certificate_gets_it_or_the_lack_is_said_once() {
    let broker = Broker::start(Access::MutualTls);
    let fleet = Fleet::watch(&broker);
    let trusting =
        |gateway: Gateway| gateway.with(&format!("[mqtt.tls]\nca_file = \"{}\"", broker.file("ca.pem").display()));
    let agent = trusting(Gateway::new("gw-bare", &broker.url())).start();
    agent.wait_for_log("mqtt.tls.cert_file");
    assert_eq!(agent.sigterm(), Some(0));

    let [certificate, key] = ["client.pem", "client.key"].map(|name| broker.file(name));
    let _agent = trusting(Gateway::new("gw-tls", &broker.url()))
        .with(&format!("[mqtt.tls]\ncert_file = \"{}\"\nkey_file = \"{}\"", certificate.display(), key.display()))
        .start();
    fleet.presence(0, "gw-tls", true);
    assert_eq!(broker.accepted("gw-bare"), 0);
}

#[test]
fn an_unreachable_broker_is_said_once_and_tried_until_it_is_there() {
    let port = free_port();
    let gateway = Gateway::new("gw-refused", &format!("mqtt://127.0.0.1:{port}"));
    let agent = gateway.start();
    agent.wait_for_log("refused the connection");
    agent.log().never_within(Duration::from_secs(3), "a second line on the same fault", |lines| {
        lines.iter().filter(|line| line.contains("refused the connection")).count() > 1
    });
    assert_said_once(&agent, &["127.0.0.1", &port.to_string()]);
    assert_eq!(agent.sigterm(), Some(0));
}

#[test]
fn a_name_without_an_address_is_said_once() {
    // RFC 6761: never resolves.
    let agent = Gateway::new("gw-dns", "mqtt://broker.invalid").start();
    agent.wait_for_log("broker.invalid");
    agent.log().never_within(Duration::from_secs(3), "a second line on the same fault", |lines| {
        lines.iter().filter(|line| line.contains("broker.invalid") && line.contains(" WARN ")).count() > 1
    });
    assert_eq!(agent.sigterm(), Some(0));
}

#[test]
fn two_gateways_with_one_id_say_so_once_each_and_make_no_storm() {
    let broker = Broker::start(Access::Open);
    let twin = || {
        Gateway::new("gw-twin", &broker.url())
            .with("[mqtt.reconnect]\nmin = \"500ms\"\nmax = \"5s\"\nstable_after = \"60s\"")
    };
    let twins = [twin(), twin()];
    let agents = [twins[0].start(), twins[1].start()];

    broker_says(&broker, "already connected, closing old connection", TRIES);
    broker.log().never_within(WATCHED, "a storm of connections", |lines| accepted_in(lines, "gw-twin") > STORM);
    for agent in agents {
        // Not every broker says why it closes a connection: the first time may pass for anything.
        let loud = complaints(&agent);
        assert!(loud.len() <= 2, "{loud:#?}");
        let said = agent.log().so_far();
        assert_eq!(said.iter().filter(|line| line.contains("device.id")).count(), 1, "{said:#?}");
        assert_eq!(agent.sigterm(), Some(0));
    }
}

#[test]
fn a_broker_that_speaks_only_the_older_protocol_is_spoken_to() {
    let world = common::World::new();
    let _agent = world.online(&world.gateway("gw-311").with("[mqtt]\nversion = \"3.1.1\""));
    let id = world.order("gw-311", "ping", json!({}));
    world.fleet.result(&id, "SUCCEEDED");
    broker_says(&world.broker, "as gw-311 (p2, c0", 1);
}

#[test]
fn the_session_outlives_the_connection() {
    let mut world = common::World::new();
    let gateway = world.gateway("gw-session");
    let _agent = world.online(&gateway);
    let id = world.order("gw-session", "ping", json!({}));
    world.fleet.result(&id, "SUCCEEDED");

    world.broker.stop();
    gateway.wait_for_status("the loss of the broker", |status| status["broker"]["online"] == false);
    world.broker.resume();
    let id = world.order("gw-session", "ping", json!({}));
    world.fleet.result(&id, "SUCCEEDED");
    let log = world.broker.log().so_far();
    assert!(!log.iter().any(|line| line.contains("Received SUBSCRIBE from gw-session")), "subscribed again: {log:#?}");
}
