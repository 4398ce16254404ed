//! Puts a snapshot (`collect_diagnostics`) together from the results that its parts come in. They come from a gateway
//! that may have been broken into: what is kept of them is bounded.

use std::collections::BTreeMap;
#[cfg(feature = "zstd")]
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

/// Of one snapshot. A gateway sends at most some dozens, of 12 KiB each, which are 16 KiB of text.
const PARTS_MAX: u64 = 256;
const PART_BYTES_MAX: usize = 16 * 1024;
/// Whose parts are kept at a time.
const DEVICES_MAX: usize = 64;
/// Of its text.
#[cfg(feature = "zstd")]
const TEXT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The parts that have come, by device.
#[derive(Debug, Default)]
pub(super) struct Snapshots(BTreeMap<String, BTreeMap<u64, String>>);

/// What a result is of a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// One part of so many.
    Part(u64, u64),
    /// The last that was missing, and the text of all.
    Whole(String),
    /// The last that was missing, and why the whole can't be read here.
    Unreadable(String),
}

impl Snapshots {
    /// Takes a result. `None`: it is no part of a snapshot.
    pub(super) fn take(&mut self, result: &Json) -> Option<Piece> {
        let (part, parts) = (result["part"].as_u64()?, result["parts"].as_u64()?);
        if parts > PARTS_MAX || !(1..=parts).contains(&part) {
            return None;
        }
        let device = result["device"].as_str().unwrap_or_default();
        let output = result["output"].as_str().filter(|output| output.len() <= PART_BYTES_MAX)?;
        if self.0.len() >= DEVICES_MAX && !self.0.contains_key(device) {
            return None;
        }
        let known = self.0.entry(device.to_owned()).or_default();
        known.insert(part, output.to_owned());
        if known.len() as u64 != parts {
            return Some(Piece::Part(part, parts));
        }
        let text: String = std::mem::take(known).into_values().collect();
        let decoded = STANDARD.decode(text).map_err(|error| format!("it is no base64: {error}"));
        let read = decoded.and_then(|bytes| match result["encoding"].as_str() {
            Some("base64") => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Some("zstd+base64") => unpacked(&bytes),
            other => Err(format!("its encoding is {other:?}")),
        });
        Some(read.map_or_else(Piece::Unreadable, Piece::Whole))
    }
}

#[cfg(feature = "zstd")]
fn unpacked(bytes: &[u8]) -> Result<String, String> {
    let mut text = Vec::new();
    let read = zstd::Decoder::new(bytes).and_then(|frame| frame.take(TEXT_BYTES_MAX).read_to_end(&mut text));
    read.map(|_| String::from_utf8_lossy(&text).into_owned()).map_err(|error| format!("it is no zstd frame: {error}"))
}

#[cfg(not(feature = "zstd"))]
fn unpacked(_: &[u8]) -> Result<String, String> {
    Err("this build can't unpack zstd: --json has its parts".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn part(number: u64, of: u64, encoding: &str, output: &str) -> Json {
        json!({"device": "gw-1", "part": number, "parts": of, "encoding": encoding, "output": output})
    }

    #[test]
    fn parts_are_joined_in_their_order_whatever_they_come_in() {
        let text = STANDARD.encode("disks: full\nunits: failed\n");
        let (first, second) = text.split_at(12);
        let mut snapshots = Snapshots::default();
        assert_eq!(snapshots.take(&part(2, 2, "base64", second)), Some(Piece::Part(2, 2)));
        assert_eq!(snapshots.take(&part(2, 2, "base64", second)), Some(Piece::Part(2, 2)), "twice");
        let whole = Piece::Whole("disks: full\nunits: failed\n".to_owned());
        assert_eq!(snapshots.take(&part(1, 2, "base64", first)), Some(whole));
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn a_compressed_one_is_unpacked_and_one_that_is_hostile_is_not_believed() {
        let mut snapshots = Snapshots::default();
        let packed = |text: &[u8]| STANDARD.encode(zstd::encode_all(text, 1).unwrap());
        let whole = Piece::Whole("all of it".to_owned());
        assert_eq!(snapshots.take(&part(1, 1, "zstd+base64", &packed(b"all of it"))), Some(whole));
        let Some(Piece::Whole(bomb)) = snapshots.take(&part(1, 1, "zstd+base64", &packed(&vec![b' '; 32 << 20])))
        else {
            panic!("a frame is a frame");
        };
        assert_eq!(bomb.len() as u64, TEXT_BYTES_MAX);
        for (number, of, encoding, output) in
            [(1, 1, "zstd+base64", "AAAA"), (1, 1, "rot13", "AAAA"), (1, 1, "base64", "no base64!")]
        {
            let taken = snapshots.take(&part(number, of, encoding, output));
            assert!(matches!(taken, Some(Piece::Unreadable(_))), "{output}: {taken:?}");
        }
        for (number, of) in [(0, 1), (2, 1), (1, u64::MAX), (1, 0)] {
            assert_eq!(snapshots.take(&part(number, of, "base64", "AAAA")), None, "{number} of {of}");
        }
    }
}
