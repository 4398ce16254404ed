//! What goes out on one connection: packets that are encoded, and the payloads of long publishes where they lie, so
//! that a backlog isn't copied once more before the kernel takes it. Whoever writes decides when, and how long that may
//! take; it must not write, set a bound of its own, or interpret a packet.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use super::codec::{Codec, CodecError};
use crate::engine::packet::{PACKET_MAX, Packet, Version};

/// A payload shorter than that is copied behind its head: as a piece of its own it would cost more.
const PIECE_BYTES_MIN: usize = 1024;

/// The writing side of a connection, without its stream: what is yet to be written, as the bytes of a [`Buf`].
#[derive(Debug)]
pub(super) struct Outgoing {
    codec: Codec,
    /// Of packets: each piece is followed by the next one.
    pieces: VecDeque<Bytes>,
    /// What follows the last piece.
    rest: BytesMut,
}

impl Outgoing {
    pub(super) fn new(version: Version) -> Self {
        Self { codec: Codec::new(version, PACKET_MAX as usize), pieces: VecDeque::new(), rest: BytesMut::new() }
    }

    /// Adds a packet, or nothing of it where that fails.
    pub(super) fn push(&mut self, packet: Packet) -> Result<(), CodecError> {
        match packet {
            Packet::Publish(publish) if publish.payload.len() >= PIECE_BYTES_MIN => {
                let payload = publish.payload.clone();
                self.codec.encode_head(&Packet::Publish(publish), &mut self.rest)?;
                self.pieces.extend([self.rest.split().freeze(), payload]);
                Ok(())
            }
            packet => self.codec.encode(&packet, &mut self.rest),
        }
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum::<usize>() + self.rest.len()
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&self.rest, |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let rest = (!self.rest.is_empty()).then_some(self.rest.as_ref());
        let pieces = self.pieces.iter().map(Bytes::as_ref).chain(rest);
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    fn advance(&mut self, count: usize) {
        let mut left = count;
        while let Some(piece) = self.pieces.front_mut() {
            if left < piece.len() {
                return piece.advance(left);
            }
            left -= piece.len();
            self.pieces.pop_front();
        }
        self.rest.advance(left);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::packet::{AckReason, Publish};

    fn any_packet() -> impl Strategy<Value = Packet> {
        let payload =
            prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), PIECE_BYTES_MIN - 2..PIECE_BYTES_MIN + 200)];
        let publish = (1_u16.., "[a-z/]{1,20}", payload).prop_map(|(pkid, topic, payload)| {
            let payload = payload.into();
            Packet::Publish(Publish { topic, payload, qos: 1, retain: false, dup: false, pkid, properties: None })
        });
        let ack = (1_u16..).prop_map(|pkid| Packet::PubAck { pkid, reason: AckReason::Success });
        prop_oneof![publish, ack]
    }

    proptest! {
        #[test]
        fn what_goes_out_is_what_is_encoded_however_much_of_it_is_taken_at_once(
            packets in vec(any_packet(), 0..12), v5 in any::<bool>(), slices in 1_usize..8, taken in 1_usize..3_000,
        ) {
            let version = if v5 { Version::V5 } else { Version::V311 };
            let (codec, mut outgoing) = (Codec::new(version, PACKET_MAX as usize), Outgoing::new(version));
            let (mut encoded, mut went_out) = (BytesMut::new(), Vec::new());
            for packet in packets {
                codec.encode(&packet, &mut encoded).unwrap();
                outgoing.push(packet).unwrap();
                prop_assert_eq!(went_out.len() + outgoing.remaining(), encoded.len());
                let mut room = vec![IoSlice::new(&[]); slices];
                let count = outgoing.chunks_vectored(&mut room);
                prop_assert!(room[..count].iter().all(|piece| !piece.is_empty()));
                let bytes = room[..count].iter().map(|piece| &**piece).collect::<Vec<_>>().concat();
                prop_assert!(bytes.starts_with(outgoing.chunk()));
                let taken = taken.min(bytes.len());
                went_out.extend_from_slice(&bytes[..taken]);
                outgoing.advance(taken);
            }
            went_out.extend(outgoing.copy_to_bytes(outgoing.remaining()));
            prop_assert_eq!(went_out, encoded);
        }
    }
}
