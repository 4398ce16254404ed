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
    /// An alarm's event: it may be told again by the start after the one that stored the alarm.
    pub(in crate::sim) is_alarm: bool,
    /// What it is besides: type, command and status.
    pub(in crate::sim) kind: [Option<&'a str>; 3],
}

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
            is_alarm: self.kind.as_deref() == Some("alarm"),
            kind: [self.kind.as_deref(), self.command_id.as_deref(), self.status.as_deref()],
        });
        let samples = self.samples.iter().map(|head| Dated {
            boot: head.boot.as_deref().unwrap_or(&self.boot),
            seq: head.seq,
            time: head.time.as_deref(),
            mono_ms: head.mono_ms,
            is_alarm: false,
            kind: [Some("sample"), None, None],
        });
        own.into_iter().chain(samples)
    }
}
