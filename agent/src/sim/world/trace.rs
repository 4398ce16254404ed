//! A hash over all that passes the engine's boundary: two runs that have the same did the same.

use std::hash::{DefaultHasher, Hasher as _};

use crate::engine::io::{Effect, Input, StoreOp};
use crate::engine::packet::Packet;

/// The hash so far.
#[derive(Debug, Default)]
pub(super) struct Trace(DefaultHasher);

impl Trace {
    pub(super) fn hash(&self) -> u64 {
        self.0.finish()
    }

    pub(super) fn input(&mut self, at: u64, input: &Input) {
        self.0.write_u64(at);
        match input {
            Input::Packet { packet, .. } => {
                self.0.write_u8(1);
                self.packet(packet);
            }
            Input::LinkDown { retry_in, .. } => {
                self.0.write_u8(2);
                self.0.write_u128(retry_in.as_nanos());
            }
            Input::Observed { result: Ok(observation), .. } => {
                self.0.write_u8(3);
                for point in &observation.points {
                    self.0.write_u16(point.metric.number());
                    self.0.write_u64(point.value.number().unwrap_or(0.0).to_bits());
                }
            }
            Input::Audited { result: Ok(findings), .. } => {
                self.0.write_u8(7);
                self.0.write_usize(findings.len());
            }
            Input::Errors(batch) => {
                self.0.write_u8(4);
                self.0.write_usize(batch.lines.len());
            }
            Input::Store { result, .. } => self.0.write_u8(5 + u8::from(result.is_err())),
            _ => self.0.write_u8(0),
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
            Effect::Connect { .. } => self.0.write_u8(1),
            _ => self.0.write_u8(0),
        }
    }

    fn packet(&mut self, packet: &Packet) {
        match packet {
            Packet::Publish(publish) => {
                self.0.write(publish.topic.as_bytes());
                self.0.write(&publish.payload);
                self.0.write_u16(publish.pkid);
            }
            Packet::PubAck { pkid, .. } => self.0.write_u16(*pkid),
            other => self.0.write(other.name().as_bytes()),
        }
    }
}
