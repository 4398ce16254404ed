//! A hash over all that passes the engine's boundary: two runs that have the same did the same. The standard library's
//! own hasher differs between machines of 32 and of 64 bits, and may between versions of Rust.

use crate::engine::hash::Fnv;
use crate::engine::io::{Effect, Input, StoreOp};
use crate::engine::packet::Packet;

/// The hash so far.
#[derive(Debug, Default)]
pub(super) struct Trace(Fnv);

impl Trace {
    pub(super) fn hash(&self) -> u64 {
        self.0.0
    }

    pub(super) fn input(&mut self, at: u64, input: &Input) {
        self.number(at);
        match input {
            Input::Packet { packet, .. } => {
                self.number(1);
                self.packet(packet);
            }
            Input::LinkDown { retry_in, .. } => {
                self.number(2);
                self.number(u64::try_from(retry_in.as_nanos()).unwrap_or(u64::MAX));
            }
            Input::Observed { result: Ok(observation), .. } => {
                self.number(3);
                for point in &observation.points {
                    self.number(point.metric.number().into());
                    self.number(point.value.number().unwrap_or(0.0).to_bits());
                }
            }
            Input::Audited { result: Ok(audited), .. } => {
                self.number(7);
                self.number(audited.findings.len() as u64);
            }
            Input::Errors(batch) => {
                self.number(4);
                self.number(batch.lines.len() as u64);
            }
            Input::Store { result, .. } => self.number(5 + u64::from(result.is_err())),
            _ => self.number(0),
        }
    }

    pub(super) fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Send { packet, .. } => self.packet(packet),
            Effect::Store { op: StoreOp::Append { seq, bytes, .. }, .. } => {
                self.number(*seq);
                self.0.write(bytes);
            }
            Effect::Store { op: StoreOp::Put { entries }, .. } => {
                for (key, value) in entries {
                    self.0.write(key.as_bytes());
                    self.0.write(value.as_deref().unwrap_or_default());
                }
            }
            Effect::Act { act, .. } => self.0.write(act.target().as_bytes()),
            Effect::Connect { .. } => self.number(1),
            _ => self.number(0),
        }
    }

    fn number(&mut self, number: u64) {
        self.0.write(&number.to_le_bytes());
    }

    fn packet(&mut self, packet: &Packet) {
        match packet {
            Packet::Publish(publish) => {
                self.0.write(publish.topic.as_bytes());
                self.0.write(&publish.payload);
                self.number(publish.pkid.into());
            }
            Packet::PubAck { pkid, .. } => self.number((*pkid).into()),
            other => self.0.write(other.name().as_bytes()),
        }
    }
}
