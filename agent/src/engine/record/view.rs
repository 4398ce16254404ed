//! A stored sample, read where it lies: a backlog of a hundred thousand is sent without a copy of any of its readings.
//! Reads what [`Record::encode`](super::Record::encode) writes; what a newer version put behind the fields that are known
//! here is passed over.

use minicbor::decode::{Decoder, Error};

use super::{RECORD_FORMAT, RecordError, Stamp};
use crate::engine::time::{BootId, Mono};

/// The variant of [`Body`](super::Body) that a sample is.
const SAMPLE: u64 = 0;

/// A sample, and where its readings lie.
#[derive(Debug, Clone)]
pub struct SampleView<'b> {
    /// When its interval ended.
    pub at: Stamp,
    /// Length of the interval in milliseconds.
    pub interval_ms: u64,
    readings: Items<'b>,
    count: u64,
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
            Some((&RECORD_FORMAT, rest)) => Self::head(Items(rest)).ok_or_else(|| misshapen("not a sample")),
            first => Err(RecordError::Format { found: first.map(|(format, _)| *format), known: RECORD_FORMAT }),
        }
    }

    fn head(mut items: Items<'b>) -> Option<Self> {
        items.array(2)?;
        items.array(2)?;
        let boot = BootId(items.bytes()?.try_into().ok()?);
        let at = Stamp { boot, mono: Mono(items.unsigned()?) };
        items.array(2)?;
        if items.unsigned()? != SAMPLE {
            return None;
        }
        items.array(1)?;
        items.array(2)?;
        let interval_ms = items.unsigned()?;
        let count = items.array(0)?;
        Some(Self { at, interval_ms, readings: items, count })
    }

    /// Shows its readings, one after the other.
    ///
    /// # Errors
    /// One of them can't be read: those before it were shown.
    #[inline(always)]
    pub fn each(&self, mut show: impl FnMut(&ReadingView<'b>)) -> Result<(), RecordError> {
        let mut items = self.readings.clone();
        for _ in 0..self.count {
            let reading = items.reading().ok_or_else(|| misshapen("a reading of another shape"))?;
            show(&reading);
        }
        Ok(())
    }
}

fn misshapen(what: &'static str) -> RecordError {
    RecordError::Shape(Error::message(what))
}

/// What is left of the items of a record's CBOR (RFC 8949, section 3). Only those forms are read that [`minicbor`] writes:
/// there is one for each kind of value, and to look for no other is what makes this many times faster than a decoder.
#[derive(Debug, Clone)]
struct Items<'b>(&'b [u8]);

/// The first byte of an item: its kind in the upper three bits, in the others its argument, or how long that is.
const BYTES: u8 = 0x40;
const TEXT: u8 = 0x60;
const ARRAY: u8 = 0x80;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;
const DOUBLE: u8 = 0xfb;

impl<'b> Items<'b> {
    #[inline(always)]
    fn reading(&mut self) -> Option<ReadingView<'b>> {
        let there = self.array(3)?;
        let metric = u16::try_from(self.unsigned()?).ok()?;
        let label = if self.take(NULL) { None } else { Some(self.text()?) };
        let value = self.value()?;
        let range = if there > 3 && !self.take(NULL) { Some(self.range()?) } else { None };
        if there > 4 {
            self.0 = beyond(self.0, there - 4)?;
        }
        Some(ReadingView { metric, label, value, range })
    }

    #[inline(always)]
    fn value(&mut self) -> Option<ValueView<'b>> {
        self.array(2)?;
        let variant = self.unsigned()?;
        let there = self.array(1)?;
        let value = match variant {
            0 => ValueView::Float(self.double()?),
            1 => ValueView::Count(self.unsigned()?),
            2 => ValueView::Flag(self.flag()?),
            3 => ValueView::Text(self.text()?),
            _ => return None,
        };
        if there > 1 {
            self.0 = beyond(self.0, there - 1)?;
        }
        Some(value)
    }

    #[inline(always)]
    fn range(&mut self) -> Option<(f64, f64)> {
        self.array(2)?;
        Some((self.double()?, self.double()?))
    }

    /// The head of an array that has at least so many items; how many it has.
    #[inline(always)]
    fn array(&mut self, wanted: u64) -> Option<u64> {
        self.argument(ARRAY).filter(|there| *there >= wanted)
    }

    #[inline(always)]
    fn unsigned(&mut self) -> Option<u64> {
        self.argument(0)
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        self.string(BYTES)
    }

    #[inline(always)]
    fn text(&mut self) -> Option<&'b str> {
        std::str::from_utf8(self.string(TEXT)?).ok()
    }

    #[inline(always)]
    fn double(&mut self) -> Option<f64> {
        if !self.take(DOUBLE) {
            return None;
        }
        let bits;
        (bits, self.0) = self.0.split_first_chunk()?;
        Some(f64::from_be_bytes(*bits))
    }

    #[inline(always)]
    fn flag(&mut self) -> Option<bool> {
        let value = self.take(TRUE);
        (value || self.take(FALSE)).then_some(value)
    }

    #[inline(always)]
    fn string(&mut self, kind: u8) -> Option<&'b [u8]> {
        let len = usize::try_from(self.argument(kind)?).ok()?;
        let string;
        (string, self.0) = self.0.split_at_checked(len)?;
        Some(string)
    }

    /// The argument of an item of this kind: a number, or a length.
    #[inline(always)]
    fn argument(&mut self, kind: u8) -> Option<u64> {
        let (first, rest) = self.0.split_first()?;
        let (argument, rest) = match first ^ kind {
            small @ 0..24 => (u64::from(small), rest),
            24 => rest.split_first().map(|(byte, rest)| (u64::from(*byte), rest))?,
            25 => rest.split_first_chunk().map(|(bytes, rest)| (u64::from(u16::from_be_bytes(*bytes)), rest))?,
            26 => rest.split_first_chunk().map(|(bytes, rest)| (u64::from(u32::from_be_bytes(*bytes)), rest))?,
            27 => rest.split_first_chunk().map(|(bytes, rest)| (u64::from_be_bytes(*bytes), rest))?,
            _ => return None,
        };
        self.0 = rest;
        Some(argument)
    }

    /// Takes an item of one byte, if it is next.
    #[inline(always)]
    fn take(&mut self, item: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == item => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }
}

/// What lies behind so many items that a newer version wrote, of whatever kind they are.
#[cold]
fn beyond(items: &[u8], count: u64) -> Option<&[u8]> {
    let mut cbor = Decoder::new(items);
    (0..count).try_for_each(|_| cbor.skip()).ok()?;
    items.get(cbor.position()..)
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

    fn owned(reading: &ReadingView<'_>) -> Reading {
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
            let mut seen = Vec::new();
            view.each(|reading| seen.push(owned(reading))).unwrap();
            prop_assert_eq!(seen, readings);
        }

        #[test]
        fn no_bytes_make_it_panic_or_go_on_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut stored = vec![RECORD_FORMAT];
            stored.extend(&bytes);
            if let Ok(view) = SampleView::of(&stored) {
                let mut readings = 0;
                let _ = view.each(|_| readings += 1);
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
