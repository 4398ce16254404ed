//! TLS between the real agent and a real mosquitto: every kind of key, files that are replaced while it runs, what
//! Device Advisor asks of a device (each case prints `PASS` and its name), and a log line for each fault that says what
//! to do. Where mosquitto can't do it, a TLS front of our own stands before its plain listener.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test that can't be set up fails, and it may touch the system that the agent's engine must not"
)]

#[path = "../common/mod.rs"]
mod common;

mod tap;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

use common::agent::export;
use common::fleet::records;
use common::front::{settings, settings_with};
use common::operator::claims;
use common::{Access, Agent, Authority, Broker, Case, Fleet, Front, Gateway, Key, Operator, PREFIX, Pair, SOON};
use tap::Tap;

/// The largest record of TLS, as it is on the wire without its expansion (RFC 8446, section 5.1).
const FRAGMENT_MAX: usize = 1 << 14;
/// AWS IoT's protocol name for MQTT on port 443.
const AWS_ALPN: &str = "x-amzn-mqtt-ca";

fn trusting(gateway: Gateway, ca: &Path) -> Gateway {
    gateway.with(&format!("[mqtt.tls]\nca_file = \"{}\"", ca.display()))
}

fn identified(gateway: Gateway, pair: &Pair) -> Gateway {
    let (cert, key) = (pair.cert.display(), pair.key.display());
    gateway.with(&format!("[mqtt.tls]\ncert_file = \"{cert}\"\nkey_file = \"{key}\""))
}

fn write(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

/// A broker that is open behind a front, the fleet that watches it, and a CA for the front.
struct Fronted {
    broker: Broker,
    fleet: Fleet,
    authority: Authority,
    dir: TempDir,
}

impl Fronted {
    fn new() -> Self {
        let broker = Broker::start(Access::Open);
        let fleet = Fleet::watch(&broker);
        Self { broker, fleet, authority: Authority::new("CA of the front"), dir: TempDir::new().unwrap() }
    }

    fn pair(&self, key: Key) -> Pair {
        self.authority.issue(self.dir.path(), "server", &["localhost"], key)
    }

    fn front(&self, config: tokio_rustls::rustls::ServerConfig) -> Front {
        Front::start(config, self.broker.port())
    }

    /// A gateway that knows the CA.
    fn gateway(&self, device: &str, front: &Front) -> Gateway {
        trusting(Gateway::new(device, &front.url()), &write(&self.dir, "ca.pem", &self.authority.pem()))
    }
}

/// The user that mosquitto took a client's certificate for.
fn user_of(broker: &Broker, device: &str) -> String {
    let needle = format!(" as {device} (");
    broker.log().wait_since(0, &format!("{device} to be let in"), |lines| {
        let line = lines.iter().find(|line| line.contains("New client connected") && line.contains(&needle))?;
        Some(line.split("u'").nth(1)?.split('\'').next()?.to_owned())
    })
}

/// Neither end of a refused handshake has said a word of MQTT.
fn assert_silent(broker: &Broker, device: &str) {
    assert_eq!(broker.accepted(device), 0, "{:#?}", broker.log().so_far());
}

fn count(agent: &Agent, text: &str) -> usize {
    agent.log().so_far().iter().filter(|line| line.contains(text)).count()
}

#[test]
fn every_kind_of_key_serves_on_both_sides_and_in_every_encoding() {
    let mut broker = Broker::start(Access::MutualTls);
    let fleet = Fleet::watch(&broker);
    let dir = TempDir::new().unwrap();
    for key in Key::ALL {
        let _case = Case::new(format!("tls: mutual, {key:?} on both sides"));
        let device = format!("gw-{key:?}").to_lowercase();
        broker.stop();
        broker.authority().issue(broker.file("").as_path(), "server", &["127.0.0.1"], key);
        broker.resume();
        let pair = broker.authority().issue(dir.path(), &device, &[&device], key);
        let gateway = identified(trusting(Gateway::new(&device, &broker.url()), &broker.file("ca.pem")), &pair);
        let agent = gateway.start();
        fleet.presence(0, &device, true);
        assert_eq!(user_of(&broker, &device), device);
        assert_eq!(agent.sigterm(), Some(0));
    }
}

#[test]
fn user_name_and_password_go_over_tls() {
    let broker = Broker::start(Access::TlsPassword);
    let fleet = Fleet::watch(&broker);
    let gateway = trusting(Gateway::new("gw-user", &broker.url()), &broker.file("ca.pem"));
    let password = gateway.file("password");
    fs::write(&password, "right\n").unwrap();
    let gateway = gateway.with(&format!("[mqtt]\nusername = \"gateway\"\npassword_file = \"{}\"", password.display()));
    let _agent = gateway.start();
    fleet.presence(0, "gw-user", true);
    assert_eq!(user_of(&broker, "gw-user"), "gateway");
}

#[test]
fn the_roots_of_the_system_serve_where_no_ca_file_is_named() {
    let broker = Broker::start(Access::TlsPassword);
    let fleet = Fleet::watch(&broker);
    let gateway = Gateway::new("gw-roots", &broker.url());
    let password = gateway.file("password");
    fs::write(&password, "right\n").unwrap();
    let gateway = gateway.with(&format!("[mqtt]\nusername = \"gateway\"\npassword_file = \"{}\"", password.display()));
    // Where OpenSSL and rustls-native-certs look before anywhere else.
    let agent = gateway.start_in(&[("SSL_CERT_FILE", &broker.file("ca.pem"))]);
    fleet.presence(0, "gw-roots", true);
    assert_eq!(agent.sigterm(), Some(0));

    let other = TempDir::new().unwrap();
    let other_ca = write(&other, "ca.pem", &Authority::new("CA of nobody").pem());
    let agent = gateway.start_in(&[("SSL_CERT_FILE", &other_ca)]);
    let line = agent.wait_for_log("not signed by a CA of this system");
    assert!(line.contains("but by CN=CA of the broker: set mqtt.tls.ca_file"), "{line}");
}

#[test]
fn a_pair_that_is_replaced_at_run_time_is_taken_up_when_it_is_whole_and_nothing_is_lost() {
    let mut broker = Broker::start(Access::MutualTls);
    let fleet = Fleet::watch(&broker);
    let gateway = Gateway::new("gw-rotate", &broker.url());
    let (here, elsewhere) = (gateway.file("identity"), TempDir::new().unwrap());
    fs::create_dir(&here).unwrap();
    let pair = broker.authority().issue(&here, "gw", &["gw-old"], Key::Ec);
    let fresh = broker.authority().issue(elsewhere.path(), "gw", &["gw-new"], Key::Ed25519);
    let gateway = identified(trusting(gateway, &broker.file("ca.pem")), &pair);
    let agent = gateway.start();
    fleet.presence(0, "gw-rotate", true);
    assert_eq!(user_of(&broker, "gw-rotate"), "gw-old");

    // Half of it: the connection stands, the log says what is wrong, and a reconnect has the old pair.
    fs::copy(&fresh.cert, &pair.cert).unwrap();
    agent.hangup();
    let line = agent.wait_for_log("does not match the certificate");
    assert!(line.contains("what was read before stays in use"), "{line}");
    agent.wait_for_log("configuration read again");
    assert_eq!(broker.accepted("gw-rotate"), 1, "the connection was cut");
    broker.stop();
    broker.resume();
    assert_eq!(user_of(&broker, "gw-rotate"), "gw-old");
    assert_eq!(count(&agent, "does not match the certificate"), 1, "told once");

    // All of it, and no word to the agent: it looks by itself when it connects.
    fs::copy(&fresh.key, &pair.key).unwrap();
    broker.stop();
    gateway.wait_for_status("a backlog", |status| {
        status["broker"]["online"] == false
            && status["outbox"]["records"]["telemetry"].as_u64().is_some_and(|records| records >= 3)
    });
    let stored: Vec<u64> = export(&gateway.store()).iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert!(stored.len() >= 3, "{stored:?}");
    broker.resume();
    assert_eq!(user_of(&broker, "gw-rotate"), "gw-new");
    agent.wait_for_log("the TLS files were read again, valid until 2090-01-01");

    fleet.wait_all(SOON, &format!("records {stored:?}"), |messages| {
        let came = records(messages);
        stored.iter().all(|seq| came.contains_key(seq)).then_some(())
    });
}

#[test]
fn a_ca_that_the_broker_changes_is_taken_up_without_a_restart() {
    let mut broker = Broker::start(Access::TlsPassword);
    let fleet = Fleet::watch(&broker);
    let gateway = Gateway::new("gw-new-ca", &broker.url());
    let (ca, password) = (gateway.file("ca.pem"), gateway.file("password"));
    fs::copy(broker.file("ca.pem"), &ca).unwrap();
    fs::write(&password, "right\n").unwrap();
    let gateway = trusting(gateway, &ca)
        .with(&format!("[mqtt]\nusername = \"gateway\"\npassword_file = \"{}\"", password.display()));
    let agent = gateway.start();
    fleet.presence(0, "gw-new-ca", true);

    broker.stop();
    let successor = Authority::new("CA of next year");
    successor.issue(broker.file("").as_path(), "server", &["127.0.0.1"], Key::Ec);
    broker.resume();
    let line = agent.wait_for_log("but by CN=CA of next year");
    assert!(line.contains("ca.pem (CN=CA of the broker)"), "{line}");

    let mark = fleet.mark();
    // As a careful tool does it: written beside, and renamed.
    fs::write(gateway.file("ca.new"), successor.pem()).unwrap();
    fs::rename(gateway.file("ca.new"), &ca).unwrap();
    fleet.presence(mark, "gw-new-ca", true);
}

#[test]
fn advisor_connect_with_sni_and_the_protocol_that_aws_asks_for_on_port_443() {
    let connects = Case::new("tls: connect");
    let world = Fronted::new();
    let mut config = settings(&world.pair(Key::Ec), "");
    config.alpn_protocols = vec![AWS_ALPN.into()];
    let front = world.front(config);
    let asking = |protocol: &str| format!("[mqtt.tls]\nalpn = [\"{protocol}\"]");
    let _agent = world.gateway("gw-alpn", &front).with(&asking(AWS_ALPN)).start();
    world.fleet.presence(0, "gw-alpn", true);
    let line = front.wait_for("agreed");
    assert!(line.contains("sni=localhost") && line.contains(&format!("alpn={AWS_ALPN}")), "{line}");
    drop(connects);

    let _case = Case::new("tls: ALPN that the broker doesn't offer (closes)");
    let agent = world.gateway("gw-no-alpn", &front).with(&asking("mqtt")).start();
    let line = agent.wait_for_log("takes none of mqtt.tls.alpn");
    assert!(line.contains("[\"mqtt\"]"), "{line}");
    assert_silent(&world.broker, "gw-no-alpn");
}

#[test]
fn advisor_cipher_suites_of_tls_1_2_and_1_3() {
    let world = Fronted::new();
    let all = ring::default_provider();
    for suite in all.cipher_suites.clone() {
        let name = format!("{:?}", suite.suite());
        let _case = Case::new(format!("tls: cipher suite {name}"));
        let key = if name.contains("_RSA_") { Key::Rsa } else { Key::Ec };
        let only = CryptoProvider { cipher_suites: vec![suite], ..all.clone() };
        let front = world.front(settings_with(only, &world.pair(key), ""));
        let device = format!("gw-{}", name.to_lowercase());
        let agent = world.gateway(&device, &front).start();
        world.fleet.presence(0, &device, true);
        front.wait_for(&name);
        assert_eq!(agent.sigterm(), Some(0));
    }
}

#[test]
fn advisor_maximum_size_fragments() {
    const COMMAND_BYTES: usize = 20_000;
    let _case = Case::new("tls: receive maximum-size fragments");
    let broker = Broker::start(Access::MutualTls);
    let fleet = Fleet::watch(&broker);
    let operator = Operator::new("ops-1");
    let tap = Tap::start(broker.port());
    let client = Pair { cert: broker.file("client.pem"), key: broker.file("client.key") };
    let gateway = Gateway::new("gw-fragments", &format!("mqtts://127.0.0.1:{}", tap.port())).trusting(&operator);
    let _agent = identified(trusting(gateway, &broker.file("ca.pem")), &client).start();
    fleet.presence(0, "gw-fragments", true);

    let mut claims = claims("gw-fragments", "ping", json!({}));
    claims["padding"] = json!("x".repeat(COMMAND_BYTES));
    broker.publish(&format!("{PREFIX}/gw-fragments/commands"), operator.sign(&claims).as_bytes());
    fleet.result(claims["jti"].as_str().unwrap(), "SUCCEEDED");
    let largest = tap.largest_record();
    assert!(largest >= FRAGMENT_MAX, "the largest record had {largest} B");
}

#[test]
fn advisor_large_server_certificate_chain() {
    const NAMES: usize = 700;
    let _case = Case::new("tls: large server certificate chain");
    let world = Fronted::new();
    let first = world.authority.delegate("CA of a department, between the root and the next");
    let second = first.delegate("CA of a group in that department");
    let third = second.delegate("CA of the broker of that group");
    let names: Vec<String> = (0..NAMES).map(|n| format!("broker-{n:04}.plant-{n:04}.region.example.com")).collect();
    let names: Vec<&str> = std::iter::once("localhost").chain(names.iter().map(String::as_str)).collect();
    let pair = third.issue(world.dir.path(), "large", &names, Key::Rsa);
    let chain = [&third, &second, &first].map(Authority::pem).concat();
    let len = fs::read(&pair.cert).unwrap().len() + chain.len();
    assert!(len > 2 * FRAGMENT_MAX, "{len} B of PEM");

    let front = world.front(settings(&pair, &chain));
    let _agent = world.gateway("gw-chain", &front).start();
    world.fleet.presence(0, "gw-chain", true);
}

#[test]
fn advisor_a_broker_of_an_unknown_ca_is_left_with_an_alert() {
    let _case = Case::new("tls: unknown CA (closes)");
    let world = Fronted::new();
    let stranger = Authority::new("CA of a stranger").issue(world.dir.path(), "stranger", &["localhost"], Key::Ec);
    let front = world.front(settings(&stranger, ""));
    let agent = world.gateway("gw-ca", &front).start();
    let line = agent.wait_for_log("not signed by a CA of ");
    for part in ["ca.pem (CN=CA of the front)", "but by CN=CA of a stranger", "mqtt.tls.ca_file"] {
        assert!(line.contains(part), "{line} lacks {part}");
    }
    front.wait_for("failed: received fatal alert: UnknownCA");
    assert_silent(&world.broker, "gw-ca");
}

#[test]
fn advisor_a_broker_of_another_name_is_left_with_an_alert() {
    let _case = Case::new("tls: wrong name (closes)");
    let world = Fronted::new();
    let pair = world.authority.issue(world.dir.path(), "other", &["broker.example", "other.example"], Key::Ec);
    let front = world.front(settings(&pair, ""));
    let agent = world.gateway("gw-name", &front).start();
    let line = agent.wait_for_log("the certificate is not for localhost but for broker.example, other.example");
    assert!(line.contains("correct the name in mqtt.url"), "{line}");
    front.wait_for("failed: received fatal alert: ");
    assert_silent(&world.broker, "gw-name");
}

#[test]
fn advisor_an_expired_certificate_is_refused_with_an_alert() {
    let _case = Case::new("tls: expired certificate (refuses with an alert)");
    let world = Fronted::new();
    let pair = world.authority.issue_until(world.dir.path(), "old", &["localhost"], Key::Ec, 2026);
    let front = world.front(settings(&pair, ""));
    let agent = world.gateway("gw-expired", &front).start();
    let line = agent.wait_for_log("certificate expired on 2026-01-01: renew it on the broker");
    assert!(line.contains("or check this gateway's clock (it says "), "{line}");
    front.wait_for("failed: received fatal alert: CertificateExpired");
    assert_silent(&world.broker, "gw-expired");
}

#[test]
fn a_client_certificate_that_the_broker_rejects_is_told_with_its_owner_its_signer_and_its_date() {
    let broker = Broker::start(Access::MutualTls);
    let dir = TempDir::new().unwrap();
    let trusted = |device: &str| trusting(Gateway::new(device, &broker.url()), &broker.file("ca.pem"));

    let stranger = Authority::new("CA of a stranger").issue(dir.path(), "stranger", &["gw-stranger"], Key::Ec);
    let agent = identified(trusted("gw-stranger"), &stranger).start();
    let line = agent.wait_for_log("rejected this gateway's certificate");
    assert!(line.contains("(CN=gw-stranger, signed by CN=CA of a stranger)"), "{line}");
    assert_eq!(agent.sigterm(), Some(0));

    let old = broker.authority().issue_until(dir.path(), "old", &["gw-old"], Key::Ec, 2026);
    let agent = identified(trusted("gw-old"), &old).start();
    let line = agent.wait_for_log("(CN=gw-old) expired on 2026-01-01: renew it, or check this gateway's clock");
    assert!(line.contains("WARN"), "{line}");
    agent.wait_for_log("valid until 2026-01-01 (CertificateExpired), renew it");
    assert_eq!(count(&agent, "(CN=gw-old) expired on"), 1, "told once");
    assert_eq!(agent.sigterm(), Some(0));
}

#[test]
fn tls_on_a_plain_port_and_plain_mqtt_on_a_tls_port_are_told_apart_from_a_broker_that_is_away() {
    let broker = Broker::start(Access::MutualTls);
    let to_plain = format!("mqtts://127.0.0.1:{}", broker.fleet_port());
    let agent = trusting(Gateway::new("gw-tls-to-plain", &to_plain), &broker.file("ca.pem")).start();
    agent.wait_for_log("is it a TLS port?");
    assert_eq!(agent.sigterm(), Some(0));

    let to_tls = format!("mqtt://127.0.0.1:{}", broker.port());
    let agent = Gateway::new("gw-plain-to-tls", &to_tls).start();
    let line = agent.wait_for_log("mqtts:// in mqtt.url");
    assert!(line.contains(&broker.port().to_string()), "{line}");
    assert_eq!(agent.sigterm(), Some(0));
}

#[test]
fn a_key_file_that_others_can_read_is_warned_of_once_and_used_as_it_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let broker = Broker::start(Access::MutualTls);
    let fleet = Fleet::watch(&broker);
    let pair = Pair { cert: broker.file("client.pem"), key: broker.file("client.key") };
    fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o444)).unwrap();
    let before = fs::read(&pair.key).unwrap();
    let agent = identified(trusting(Gateway::new("gw-mode", &broker.url()), &broker.file("ca.pem")), &pair).start();
    fleet.presence(0, "gw-mode", true);
    let line = agent.wait_for_log("client.key is open to every user of this machine (mode 0444)");
    assert!(line.contains("chmod 0640"), "{line}");
    agent.hangup();
    agent.wait_for_log("configuration read again");
    assert_eq!(count(&agent, "is open to every user"), 1);
    assert_eq!(fs::read(&pair.key).unwrap(), before);
}
