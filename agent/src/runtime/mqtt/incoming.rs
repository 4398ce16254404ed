//! What comes in on one connection, packet by packet, and what it means that nothing more does. Whoever reads decides
//! what goes out meanwhile and how long to wait; it must not write, set a bound of its own, or interpret a packet.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::codec::Codec;
use super::transport::Target;
use crate::engine::io::LinkFault;
use crate::engine::packet::{Packet, Version};

/// Room for one read, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// The reading side of a connection, without its stream.
#[derive(Debug)]
pub(super) struct Incoming {
    target: Arc<Target>,
    codec: Codec,
    bytes: BytesMut,
    /// Something came in on this connection.
    heard: bool,
}

impl Incoming {
    pub(super) fn new(target: &Arc<Target>, version: Version, packet_max: usize) -> Self {
        let codec = Codec::new(version, packet_max);
        Self { target: Arc::clone(target), codec, bytes: BytesMut::new(), heard: false }
    }

    /// The next packet. Its future may be dropped at any point: all progress is in `self`.
    pub(super) async fn next(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<Packet, LinkFault> {
        loop {
            if let Some(packet) = self.codec.decode(&mut self.bytes)? {
                return Ok(packet);
            }
            self.bytes.reserve(READ_BYTES);
            match stream.read_buf(&mut self.bytes).await {
                Ok(0) => return Err(self.target.closed(self.heard)),
                Ok(_) => {}
                Err(error) => return Err(self.fault_of(&error)),
            }
            if let Some(fault) = self.target.misdirected(&self.bytes).filter(|_| !self.heard) {
                return Err(fault);
            }
            self.heard = true;
        }
    }

    /// What an I/O error on this connection means, whichever way the bytes went.
    pub(super) fn fault_of(&self, error: &io::Error) -> LinkFault {
        self.target.fault_of(error, self.heard)
    }
}
