//! What the checkers read of a message that the broker got: as little as they need, without building a tree of it.

use std::borrow::Cow;

use serde::Deserialize;

/// The head of any message of the contract.
#[derive(Debug, Deserialize)]
pub(in crate::sim) struct Message<'a> {
    #[serde(borrow)]
    pub(in crate::sim) boot: Cow<'a, str>,
    pub(in crate::sim) seq: u64,
    #[serde(borrow, default)]
    pub(in crate::sim) time: Option<Cow<'a, str>>,
    pub(in crate::sim) mono_ms: u64,
    #[serde(borrow, default)]
    pub(in crate::sim) samples: Vec<Head<'a>>,
    #[serde(borrow, default)]
    pub(in crate::sim) command_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(in crate::sim) status: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(in crate::sim) nonce: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
}

/// The head of a sample.
#[derive(Debug, Deserialize)]
pub(in crate::sim) struct Head<'a> {
    #[serde(borrow, default)]
    boot: Option<Cow<'a, str>>,
    seq: u64,
    #[serde(borrow, default)]
    time: Option<Cow<'a, str>>,
    mono_ms: u64,
}

/// A record, as its message dates it.
#[derive(Debug, Clone, Copy)]
pub(in crate::sim) struct Dated<'a> {
    pub(in crate::sim) boot: &'a str,
    pub(in crate::sim) seq: u64,
    pub(in crate::sim) time: Option<&'a str>,
    pub(in crate::sim) mono_ms: u64,
    /// An event that goes with a change of the agent's state: where a crash took it on its way, the next start tells it
    /// again.
    pub(in crate::sim) may_be_told_again: bool,
    /// What it is besides: type, command and status.
    pub(in crate::sim) kind: [Option<&'a str>; 3],
}

/// Types of the events that go with a change of state.
const TOLD_WITH_STATE: [&str; 3] = ["alarm", "audit", "remediation"];

/// The magic number of a zstd frame (RFC 8878, section 3.1.1).
#[cfg(feature = "zstd")]
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The JSON of a payload, whatever `telemetry.encoding` is.
pub(in crate::sim) fn json(payload: &[u8]) -> Cow<'_, [u8]> {
    #[cfg(feature = "zstd")]
    if payload.starts_with(&ZSTD_MAGIC) {
        return zstd::decode_all(payload).map_or(Cow::Borrowed(payload), Cow::Owned);
    }
    Cow::Borrowed(payload)
}

impl<'a> Message<'a> {
    /// Reads it; `None` if it isn't one.
    pub(in crate::sim) fn parse(json: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// The records in it.
    pub(in crate::sim) fn records(&'a self) -> impl Iterator<Item = Dated<'a>> {
        let own = self.samples.is_empty().then(|| Dated {
            boot: &self.boot,
            seq: self.seq,
            time: self.time.as_deref(),
            mono_ms: self.mono_ms,
            may_be_told_again: self.kind.as_deref().is_some_and(|kind| TOLD_WITH_STATE.contains(&kind)),
            kind: [self.kind.as_deref(), self.command_id.as_deref(), self.status.as_deref()],
        });
        let samples = self.samples.iter().map(|head| Dated {
            boot: head.boot.as_deref().unwrap_or(&self.boot),
            seq: head.seq,
            time: head.time.as_deref(),
            mono_ms: head.mono_ms,
            may_be_told_again: false,
            kind: [Some("sample"), None, None],
        });
        own.into_iter().chain(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_with_a_change_of_state_may_be_told_again() {
        let again = |kind: &str| {
            let json = format!(r#"{{"boot": "b", "seq": 1, "mono_ms": 1, "type": "{kind}"}}"#);
            let message = Message::parse(json.as_bytes()).unwrap();
            message.records().any(|record| record.may_be_told_again)
        };
        let kinds = ["alarm", "audit", "remediation", "lifecycle", "error"];
        assert_eq!(kinds.map(again), [true, true, true, false, false]);
        let sampled = br#"{"boot": "b", "seq": 1, "mono_ms": 1, "samples": [{"seq": 1, "mono_ms": 1}]}"#;
        assert!(Message::parse(sampled).unwrap().records().all(|record| !record.may_be_told_again));
    }
}
