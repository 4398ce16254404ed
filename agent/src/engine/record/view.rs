//! A stored sample, read where it lies: a backlog of a hundred thousand is sent without a copy of any of its readings.
//! Reads what [`Record::encode`](super::Record::encode) writes; what a newer version put behind the fields that are known
//! here is passed over.

use minicbor::data::Type;
use minicbor::decode::{Decoder, Error};

use super::{RECORD_FORMAT, RecordError, Stamp};

/// The variant of [`Body`](super::Body) that a sample is.
const SAMPLE: u32 = 0;

/// A sample and its readings, which are read as they are asked for.
#[derive(Debug, Clone)]
pub struct SampleView<'b> {
    /// When its interval ended.
    pub at: Stamp,
    /// Length of the interval in milliseconds.
    pub interval_ms: u64,
    readings: Decoder<'b>,
    left: u64,
}

/// One metric's value, as [`Reading`](super::Reading).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadingView<'b> {
    /// The metric's number.
    pub metric: u16,
    /// Fills the `*` of its path.
    pub label: Option<&'b str>,
    /// The value.
    pub value: ValueView<'b>,
    /// Lowest and highest, where they differ.
    pub range: Option<(f64, f64)>,
}

/// A value, as [`Value`](super::super::metric::Value).
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the variants of the value that it shows")]
pub enum ValueView<'b> {
    Float(f64),
    Count(u64),
    Flag(bool),
    Text(&'b str),
}

impl<'b> SampleView<'b> {
    /// Reads the head of a stored sample.
    ///
    /// # Errors
    /// If it was written in a form that this version doesn't know, or isn't a sample.
    pub fn of(stored: &'b [u8]) -> Result<Self, RecordError> {
        match stored.split_first() {
            Some((&RECORD_FORMAT, rest)) => Ok(Self::head(rest)?),
            first => Err(RecordError::Format { found: first.map(|(format, _)| *format), known: RECORD_FORMAT }),
        }
    }

    fn head(bytes: &'b [u8]) -> Result<Self, Error> {
        let mut cbor = Decoder::new(bytes);
        fields(&mut cbor, 2)?;
        let at = cbor.decode()?;
        fields(&mut cbor, 2)?;
        if cbor.u32()? != SAMPLE {
            return Err(Error::message("not a sample"));
        }
        fields(&mut cbor, 1)?;
        fields(&mut cbor, 2)?;
        let interval_ms = cbor.u64()?;
        let left = fields(&mut cbor, 0)?;
        Ok(Self { at, interval_ms, readings: cbor, left })
    }

    fn reading(&mut self) -> Result<ReadingView<'b>, Error> {
        let cbor = &mut self.readings;
        let there = fields(cbor, 3)?;
        let metric = cbor.u16()?;
        let label = if absent(cbor)? { None } else { Some(cbor.str()?) };
        let value = value(cbor)?;
        let range = if there > 3 && !absent(cbor)? { Some(range(cbor)?) } else { None };
        skip(cbor, there.saturating_sub(4))?;
        Ok(ReadingView { metric, label, value, range })
    }
}

impl<'b> Iterator for SampleView<'b> {
    type Item = Result<ReadingView<'b>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let reading = self.reading();
        if reading.is_err() {
            self.left = 0;
        }
        Some(reading.map_err(RecordError::from))
    }
}

fn value<'b>(cbor: &mut Decoder<'b>) -> Result<ValueView<'b>, Error> {
    fields(cbor, 2)?;
    let variant = cbor.u32()?;
    let there = fields(cbor, 1)?;
    let value = match variant {
        0 => ValueView::Float(cbor.f64()?),
        1 => ValueView::Count(cbor.u64()?),
        2 => ValueView::Flag(cbor.bool()?),
        3 => ValueView::Text(cbor.str()?),
        unknown => return Err(Error::unknown_variant(i64::from(unknown))),
    };
    skip(cbor, there - 1)?;
    Ok(value)
}

fn range(cbor: &mut Decoder<'_>) -> Result<(f64, f64), Error> {
    fields(cbor, 2)?;
    Ok((cbor.f64()?, cbor.f64()?))
}

/// The head of an array that has at least so many elements; how many it has.
fn fields(cbor: &mut Decoder<'_>, wanted: u64) -> Result<u64, Error> {
    match cbor.array()? {
        Some(there) if there >= wanted => Ok(there),
        _ => Err(Error::message("fewer fields than there must be")),
    }
}

/// Takes a null, if one is next.
fn absent(cbor: &mut Decoder<'_>) -> Result<bool, Error> {
    let absent = cbor.datatype()? == Type::Null;
    if absent {
        cbor.null()?;
    }
    Ok(absent)
}

fn skip(cbor: &mut Decoder<'_>, values: u64) -> Result<(), Error> {
    (0..values).try_for_each(|_| cbor.skip())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::metric::Value;
    use crate::engine::record::{Body, Reading, Record, Sample};
    use crate::engine::time::{BootId, Mono};

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<f64>().prop_filter("comparable", |value| !value.is_nan()).prop_map(Value::Float),
            any::<u64>().prop_map(Value::Count),
            any::<bool>().prop_map(Value::Flag),
            "[ -~\u{e4}\n]{0,12}".prop_map(|text| Value::Text(text.into())),
        ]
    }

    fn any_reading() -> impl Strategy<Value = Reading> {
        let label = proptest::option::of("[a-z/0-9]{0,8}");
        let range = proptest::option::of((-1e9..1e9, -1e9..1e9));
        (any::<u16>(), label, any_value(), range).prop_map(|(metric, label, value, range)| Reading {
            metric,
            label: label.map(Into::into),
            value,
            range,
        })
    }

    fn owned(reading: ReadingView<'_>) -> Reading {
        let value = match reading.value {
            ValueView::Float(value) => Value::Float(value),
            ValueView::Count(value) => Value::Count(value),
            ValueView::Flag(value) => Value::Flag(value),
            ValueView::Text(value) => Value::Text(value.into()),
        };
        Reading { metric: reading.metric, label: reading.label.map(Into::into), value, range: reading.range }
    }

    proptest! {
        #[test]
        fn a_view_shows_what_was_stored(
            interval_ms: u64,
            mono: u64,
            readings in proptest::collection::vec(any_reading(), 0..40),
        ) {
            let at = Stamp { boot: BootId([3; 16]), mono: Mono(mono) };
            let stored = Record { at, body: Body::Sample(Sample { interval_ms, readings: readings.clone() }) }.encode();
            let view = SampleView::of(&stored).unwrap();
            prop_assert_eq!((view.at, view.interval_ms), (at, interval_ms));
            let seen: Vec<Reading> = view.map(|reading| owned(reading.unwrap())).collect();
            prop_assert_eq!(seen, readings);
        }

        #[test]
        fn no_bytes_make_it_panic_or_go_on_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut stored = vec![RECORD_FORMAT];
            stored.extend(&bytes);
            if let Ok(view) = SampleView::of(&stored) {
                let readings = view.take(1_000).filter(Result::is_ok).count();
                prop_assert!(readings <= bytes.len(), "{readings} readings in {} bytes", bytes.len());
            }
        }
    }

    #[test]
    fn an_event_is_no_sample() {
        use crate::engine::observation::Severity;
        use crate::engine::record::{Event, EventKind};
        let at = Stamp { boot: BootId([3; 16]), mono: Mono(1) };
        let event = Body::Event(Event::new(Severity::Info, EventKind::Audit, "x"));
        assert!(SampleView::of(&Record { at, body: event }.encode()).is_err());
    }
}
