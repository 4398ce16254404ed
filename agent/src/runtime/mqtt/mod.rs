//! MQTT's outside: bytes, sockets and TLS. What a session is (packet ids, window, acknowledgements, keep-alive,
//! backoff) is the engine's and must not creep in here.

pub mod client;
pub mod codec;
pub mod link;
pub mod transport;
