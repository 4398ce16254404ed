//! MQTT's outside: bytes, sockets and TLS. What a session is (packet ids, window, acknowledgements, keep-alive,
//! backoff) is the engine's and must not creep in here.

pub mod client;
pub mod codec;
mod incoming;
pub mod link;
mod outgoing;
pub mod transport;

use crate::engine::packet::Packet;

/// For whoever says -v; with -vv the packets that carry nothing, too. What is in them isn't told: there may be secrets.
pub(super) fn tell(done: &str, packet: &Packet) {
    match packet {
        Packet::Publish(publish) => tracing::debug!("broker: {done} {} ({} B)", publish.topic, publish.payload.len()),
        _ => tracing::trace!("broker: {done} {}", packet.name()),
    }
}
