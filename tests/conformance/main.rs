//! The agent against the MQTT standards, packet by packet, in cases like those of AWS IoT Device Advisor: the test is
//! the broker, does what brokers and networks do, and looks at what comes over the wire. Each case prints PASS or FAIL
//! with its name. No byte that is not MQTT may ever come: each is read by the standard's letter. Cases of TLS stand
//! elsewhere.
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

mod aws;
mod backoff;
mod broker;
#[path = "../common/mod.rs"]
mod common;
mod connecting;
mod packet;
mod poison;
mod publishing;
mod subscribing;
