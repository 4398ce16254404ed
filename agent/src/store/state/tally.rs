//! How an entry is stored in the database, and what all of them come to: each with a checksum of its own, and beside
//! them a tally. What doesn't check or isn't all there is damage, never an empty state.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::store::segment::Fields;

pub(super) const CHECKSUM_BYTES: usize = 4;
/// Not a key that the engine would use.
pub(super) const TALLY_KEY: &str = "\0tally";

/// What the entries come to. It is carried from write to write and never counted anew: an entry that vanishes while the
/// state is in use leaves it wrong, and the next opening notices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// The number of the write.
    pub(super) generation: u64,
    pub(super) entries: u64,
    /// Of the entries' checksums, wrapping.
    pub(super) sum: u64,
}

impl Tally {
    pub(super) fn of(checksums: &BTreeMap<String, u32>, generation: u64) -> Self {
        let sum = checksums.values().fold(0_u64, |sum, checksum| sum.wrapping_add(u64::from(*checksum)));
        Self { generation, entries: checksums.len() as u64, sum }
    }

    pub(super) fn encode(self) -> Vec<u8> {
        [self.generation, self.entries, self.sum].iter().flat_map(|field| field.to_le_bytes()).collect()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        Some(Self { generation: fields.u64()?, entries: fields.u64()?, sum: fields.u64()? })
    }
}

pub(super) fn encode(key: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = checksum(key.as_bytes(), value).to_le_bytes().to_vec();
    bytes.extend_from_slice(value);
    bytes
}

pub(super) fn decode(key: &[u8], stored: &[u8]) -> Option<(String, Bytes)> {
    let (crc, value) = stored.split_first_chunk::<CHECKSUM_BYTES>()?;
    let key = std::str::from_utf8(key).ok()?;
    (u32::from_le_bytes(*crc) == checksum(key.as_bytes(), value))
        .then(|| (key.to_owned(), Bytes::copy_from_slice(value)))
}

/// The key is covered too: a value that turns up under another one is damage.
pub(super) fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}
