//! What all end-to-end tests share: a real broker, a made gateway, the built agent, an operator with a key, and the
//! fleet that watches. Everything is on 127.0.0.1 and in directories of its own. Nothing here judges the agent, and
//! nothing sleeps: each wait is for a condition, with a bound, and says what it saw when the bound is reached.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::disallowed_types, reason = "the bans keep the agent pure; tests are outside of it")]

pub mod agent;
pub mod backlog;
pub mod broker;
pub mod bus;
pub mod case;
pub mod chance;
pub mod cost;
pub mod fleet;
pub mod front;
pub mod hung;
pub mod network;
pub mod operator;
pub mod pki;
pub mod process;
pub mod relay;
pub mod software;
pub mod tiny_disk;
pub mod tree;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use agent::{Agent, Gateway};
pub use broker::{Access, Broker};
pub use bus::Bus;
pub use case::Case;
pub use chance::Chance;
pub use fleet::{Fleet, Message};
pub use front::Front;
pub use hung::HungDisk;
pub use network::Namespace;
pub use operator::{Operator, unix_now};
pub use pki::{Authority, Key, Pair};
pub use process::tool;
pub use software::Software;
pub use tiny_disk::TinyDisk;
pub use tree::Tree;

/// How long anything may take that should come soon. Long, so that a busy machine fails no test.
pub const SOON: Duration = Duration::from_secs(60);

/// Waits until something holds that doesn't announce itself.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    const LOOK_EVERY: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {SOON:?} for {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Lays out releases of an application: the last of them runs, and ran after the first.
pub fn releases(dir: &Path, names: &[&str]) {
    for name in names {
        std::fs::create_dir_all(dir.join("releases").join(name)).unwrap();
    }
    let link = |name: &str, to: &str| symlink(format!("releases/{to}"), dir.join(name)).unwrap();
    link("previous", names[0]);
    link("current", names[names.len() - 1]);
}

/// A configuration that makes records as fast as they can be had, and sends so many messages of a backlog a second.
pub fn fast(publishes_per_second: u32) -> String {
    format!(
        r#"
    [mqtt.drain]
    publishes_per_second = {publishes_per_second}
    [telemetry]
    sample_interval = "100ms"
    report_interval = "100ms"
    publish_interval = "100ms"
    [store]
    commit_interval = "10ms"
"#
    )
}

/// The prefix of all topics, as by default.
pub const PREFIX: &str = "fieldmedic";

/// A broker, a fleet that watches it, and an operator: what most tests begin with.
pub struct World {
    pub broker: Broker,
    pub fleet: Fleet,
    pub operator: Operator,
}

impl World {
    pub fn new() -> Self {
        Self::around(Broker::start(Access::Open))
    }

    pub fn around(broker: Broker) -> Self {
        let fleet = Fleet::watch(&broker);
        Self { broker, fleet, operator: Operator::new("ops-1") }
    }

    /// A gateway that knows this broker and trusts this operator.
    pub fn gateway(&self, device: &str) -> Gateway {
        Gateway::new(device, &self.broker.url()).trusting(&self.operator)
    }

    /// Starts the gateway's agent, and waits until it is online.
    pub fn online(&self, gateway: &Gateway) -> Agent {
        self.announced(gateway).0
    }

    /// The same, with what it says of itself then.
    pub fn announced(&self, gateway: &Gateway) -> (Agent, Message) {
        let mark = self.fleet.mark();
        let agent = gateway.start();
        let presence = self.fleet.presence(mark, gateway.device(), true);
        (agent, presence)
    }

    /// Publishes a token on the device's command topic.
    pub fn deliver(&self, device: &str, token: &str) {
        self.broker.publish(&format!("{PREFIX}/{device}/commands"), token.as_bytes());
    }

    /// Waits until the fleet has what the broker was given before this: what hasn't come by then was not sent.
    pub fn fence(&self) {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let fence = serde_json::json!({"fence": NEXT.fetch_add(1, Ordering::Relaxed)});
        self.broker.publish(&format!("{PREFIX}/fence"), fence.to_string().as_bytes());
        self.fleet.wait_for("the fence", |message| message.body == fence);
    }

    /// Signs a command for the device and publishes it; its id.
    pub fn order(&self, device: &str, name: &str, args: serde_json::Value) -> String {
        let claims = operator::claims(device, name, args);
        self.deliver(device, &self.operator.sign(&claims));
        claims["jti"].as_str().unwrap().to_owned()
    }
}
