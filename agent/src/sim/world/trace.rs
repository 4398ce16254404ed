//! A hash over all that passes the engine's boundary: two runs that have the same did the same. The standard library's
//! own hasher differs between machines of 32 and of 64 bits, and may between versions of Rust.

use crate::engine::io::{Effect, Input, StoreOp};
use crate::engine::packet::Packet;

/// The hash so far.
#[derive(Debug, Default)]
pub(super) struct Trace(Fnv);

/// FNV-1a, 64 bits.
#[derive(Debug)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn write(&mut self, bytes: &[u8]) {
        const PRIME: u64 = 0x100_0000_01b3;
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    }

    fn write_u64(&mut self, number: u64) {
        self.write(&number.to_le_bytes());
    }
}

impl Trace {
    pub(super) fn hash(&self) -> u64 {
        self.0.0
    }

    pub(super) fn input(&mut self, at: u64, input: &Input) {
        self.0.write_u64(at);
        match input {
            Input::Packet { packet, .. } => {
                self.0.write_u64(1);
                self.packet(packet);
            }
            Input::LinkDown { retry_in, .. } => {
                self.0.write_u64(2);
                self.0.write_u64(u64::try_from(retry_in.as_nanos()).unwrap_or(u64::MAX));
            }
            Input::Observed { result: Ok(observation), .. } => {
                self.0.write_u64(3);
                for point in &observation.points {
                    self.0.write_u64(point.metric.number().into());
                    self.0.write_u64(point.value.number().unwrap_or(0.0).to_bits());
                }
            }
            Input::Audited { result: Ok(audited), .. } => {
                self.0.write_u64(7);
                self.0.write_u64(audited.findings.len() as u64);
            }
            Input::Errors(batch) => {
                self.0.write_u64(4);
                self.0.write_u64(batch.lines.len() as u64);
            }
            Input::Store { result, .. } => self.0.write_u64(5 + u64::from(result.is_err())),
            _ => self.0.write_u64(0),
        }
    }

    pub(super) fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Send { packet, .. } => self.packet(packet),
            Effect::Store { op: StoreOp::Append { seq, bytes, .. }, .. } => {
                self.0.write_u64(*seq);
                self.0.write(bytes);
            }
            Effect::Store { op: StoreOp::Put { entries }, .. } => {
                for (key, value) in entries {
                    self.0.write(key.as_bytes());
                    self.0.write(value.as_deref().unwrap_or_default());
                }
            }
            Effect::Act { act, .. } => self.0.write(act.target().as_bytes()),
            Effect::Connect { .. } => self.0.write_u64(1),
            _ => self.0.write_u64(0),
        }
    }

    fn packet(&mut self, packet: &Packet) {
        match packet {
            Packet::Publish(publish) => {
                self.0.write(publish.topic.as_bytes());
                self.0.write(&publish.payload);
                self.0.write_u64(publish.pkid.into());
            }
            Packet::PubAck { pkid, .. } => self.0.write_u64((*pkid).into()),
            other => self.0.write(other.name().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_every_machine() {
        let mut hash = Fnv::default();
        hash.write(b"foobar");
        assert_eq!(hash.0, 0x8594_4171_f739_67e8);
    }
}
