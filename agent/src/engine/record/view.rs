//! A stored sample, read where it lies: a backlog of a hundred thousand is sent without a look at any of its readings.
//! Reads what [`Record::encode`](super::Record::encode) writes: in the form of this version, which is nearly all there
//! is, by its bytes, and in any other field by field.

use minicbor::Decode;

use super::{RecordError, Stamp, body_of};
use crate::engine::time::{BootId, Mono};
use crate::wire::readings;

// Heads of CBOR items, and the major types of those that hold a number (RFC 8949, section 3.1).
const ARRAY_OF_1: u8 = 0x81;
const ARRAY_OF_2: u8 = 0x82;
const BYTES_16: u8 = 0x50;
const UNSIGNED: u8 = 0;
const BYTES: u8 = 2;

/// A sample, and the text of its readings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleView<'b> {
    /// When its interval ended.
    pub at: Stamp,
    /// Length of the interval in milliseconds.
    pub interval_ms: u64,
    /// As [`crate::wire::readings`] has them: JSON, and so UTF-8, which the store's checksum vouches for.
    pub readings: &'b [u8],
}

/// As [`Record`](super::Record).
#[derive(Decode)]
struct RecordView<'b> {
    #[n(0)]
    at: Stamp,
    #[b(1)]
    body: BodyView<'b>,
}

/// As [`Body`](super::Body), with the one kind that is asked for.
#[derive(Decode)]
enum BodyView<'b> {
    #[n(0)]
    Sample(#[b(0)] Stored<'b>),
}

/// As [`Sample`](super::Sample).
#[derive(Decode)]
struct Stored<'b> {
    #[n(0)]
    interval_ms: u64,
    #[cbor(b(1), decode_with = "readings::stored::text")]
    readings: &'b [u8],
}

impl<'b> SampleView<'b> {
    /// Reads a stored sample.
    ///
    /// # Errors
    /// If it was written in a form that this version doesn't know, or isn't a sample.
    pub fn of(stored: &'b [u8]) -> Result<Self, RecordError> {
        let body = body_of(stored)?;
        match Self::of_this_version(body) {
            Some(sample) => Ok(sample),
            None => Self::of_any(body),
        }
    }

    /// What is written now; `None` for all else. To be read field by field was a third of what it took to write a
    /// sample into its message.
    fn of_this_version(body: &'b [u8]) -> Option<Self> {
        let [ARRAY_OF_2, ARRAY_OF_2, BYTES_16, rest @ ..] = body else { return None };
        let (boot, rest) = rest.split_first_chunk()?;
        let (mono, rest) = number(UNSIGNED, rest)?;
        let [ARRAY_OF_2, 0, ARRAY_OF_1, ARRAY_OF_2, rest @ ..] = rest else { return None };
        let (interval_ms, rest) = number(UNSIGNED, rest)?;
        let (len, readings) = number(BYTES, rest)?;
        let at = Stamp { boot: BootId(*boot), mono: Mono(mono) };
        (readings.len() as u64 == len).then_some(Self { at, interval_ms, readings })
    }

    fn of_any(body: &'b [u8]) -> Result<Self, RecordError> {
        let RecordView { at, body: BodyView::Sample(Stored { interval_ms, readings }) } = minicbor::decode(body)?;
        Ok(Self { at, interval_ms, readings })
    }
}

/// The number in the head of an item of this major type, and what follows the head.
fn number(major: u8, bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first()?;
    let len = match head.checked_sub(major << 5)? {
        small @ ..=23 => return Some((small.into(), rest)),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => return None,
    };
    let (number, rest) = rest.split_at_checked(len)?;
    Some((number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::metric::Metric;
    use crate::engine::observation::Severity;
    use crate::engine::record::{Body, Event, EventKind, RECORD_FORMAT, Reading, Record, Sample};

    const AT: Stamp = Stamp { boot: BootId([3; 16]), mono: Mono(70) };

    #[test]
    fn a_view_shows_what_was_stored() {
        let readings = vec![Reading { metric: Metric::HostLoad1, label: None, value: 0.5.into(), range: None }];
        let stored = Record { at: AT, body: Body::Sample(Sample { interval_ms: 60_000, readings }) }.encode();
        let readings = br#""host":{"load1":0.5}"#;
        assert_eq!(SampleView::of(&stored).unwrap(), SampleView { at: AT, interval_ms: 60_000, readings });
    }

    /// As samples were stored once.
    mod before {
        use minicbor::Encode;

        use super::Stamp;

        #[derive(Encode)]
        pub(super) struct Record {
            #[n(0)]
            pub(super) at: Stamp,
            #[n(1)]
            pub(super) body: Body,
        }

        #[derive(Encode)]
        pub(super) enum Body {
            #[n(0)]
            Sample(#[n(0)] Sample),
        }

        #[derive(Encode)]
        pub(super) struct Sample {
            #[n(0)]
            pub(super) interval_ms: u64,
            #[n(1)]
            pub(super) readings: &'static str,
        }
    }

    #[test]
    fn readings_that_were_stored_as_a_text_are_read_too() {
        let readings = r#""host":{"load1":0.5}"#;
        let body = before::Body::Sample(before::Sample { interval_ms: 60_000, readings });
        let mut stored = vec![RECORD_FORMAT];
        minicbor::encode(before::Record { at: AT, body }, &mut stored).unwrap();
        let sample = SampleView { at: AT, interval_ms: 60_000, readings: readings.as_bytes() };
        assert_eq!(SampleView::of(&stored).unwrap(), sample);
        let reading = Reading { metric: Metric::HostLoad1, label: None, value: 0.5.into(), range: None };
        let body = Body::Sample(Sample { interval_ms: 60_000, readings: vec![reading] });
        assert_eq!(Record::decode(&stored).unwrap(), Record { at: AT, body });
    }

    /// Numbers of all lengths that CBOR has for them.
    fn any_length() -> impl Strategy<Value = u64> {
        (0_u32..64, any::<u64>()).prop_map(|(shift, number)| number >> shift)
    }

    #[test]
    fn an_event_is_no_sample() {
        let event = Event::new(Severity::Info, EventKind::Lifecycle, "connected");
        assert!(SampleView::of(&Record { at: AT, body: Body::Event(event) }.encode()).is_err());
    }

    proptest! {
        #[test]
        fn a_sample_of_this_version_is_read_by_its_bytes_as_it_is_field_by_field(
            mono in any_length(),
            interval_ms in any_length(),
            label in "[a-z]{0,300}",
        ) {
            let reading =
                Reading { metric: Metric::HostDiskFree, label: Some(label.into()), value: 1_u64.into(), range: None };
            let at = Stamp { mono: Mono(mono), ..AT };
            let stored = Record { at, body: Body::Sample(Sample { interval_ms, readings: vec![reading] }) }.encode();
            let body = body_of(&stored).unwrap();
            let view = SampleView::of_this_version(body);
            prop_assert_eq!(view, Some(SampleView::of_any(body).unwrap()));
            prop_assert_eq!(view.map(|view| (view.at, view.interval_ms)), Some((at, interval_ms)));
        }

        /// Damage gets past the store's checksum once in four billion times.
        #[test]
        fn what_is_read_by_its_bytes_is_what_is_there(at in 0_usize..60, byte in any::<u8>()) {
            let sample = Sample { interval_ms: 60_000, readings: vec![] };
            let mut stored = Record { at: AT, body: Body::Sample(sample) }.encode().to_vec();
            let at = at % stored.len();
            stored[at] = byte;
            if let Some(view) = stored.get(1..).and_then(SampleView::of_this_version) {
                prop_assert_eq!(view, SampleView::of_any(&stored[1..]).unwrap());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut stored = vec![RECORD_FORMAT];
            stored.extend(&bytes);
            let _ = SampleView::of(&stored);
        }
    }
}
