//! A stored sample, read where it lies: a backlog of a hundred thousand is sent without a look at any of its readings.
//! Reads what [`Record::encode`](super::Record::encode) writes.

use minicbor::Decode;

use super::{RecordError, Stamp, body_of};
use crate::wire::readings;

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
        let RecordView { at, body: BodyView::Sample(Stored { interval_ms, readings }) } =
            minicbor::decode(body_of(stored)?)?;
        Ok(Self { at, interval_ms, readings })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::metric::Metric;
    use crate::engine::observation::Severity;
    use crate::engine::record::{Body, Event, EventKind, RECORD_FORMAT, Reading, Record, Sample};
    use crate::engine::time::{BootId, Mono};

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

    #[test]
    fn an_event_is_no_sample() {
        let event = Event::new(Severity::Info, EventKind::Lifecycle, "connected");
        assert!(SampleView::of(&Record { at: AT, body: Body::Event(event) }.encode()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut stored = vec![RECORD_FORMAT];
            stored.extend(&bytes);
            let _ = SampleView::of(&stored);
        }
    }
}
