//! The contract's `telemetry` message, put together from stored samples: the one payload of which there are many. Of a
//! sample it writes only what isn't known until it is sent, its date; the readings are stored as they are sent. Knows
//! nothing of limits: who builds a message looks at its length and takes the last sample back.

use std::io::{self, Write as _};

use itoa::Integer;

use super::date::shown;
use super::payload::Speaker;
use crate::engine::record::{RecordError, SampleView};
use crate::engine::time::{Anchor, BootId};

/// Room for a message of many samples.
const MESSAGE_BYTES: usize = 17 * 1024;
/// What ends a message.
const END: &[u8] = b"]}";

/// A telemetry message in the making.
#[derive(Debug)]
pub struct TelemetryMessage<'a> {
    speaker: Speaker<'a>,
    /// Each sample is followed by a comma.
    json: Vec<u8>,
    /// Of which boot its samples are, and what dates them.
    boot: Option<(BootId, Option<Anchor>)>,
    /// Where the last sample begins, so that it can be taken back.
    last: usize,
}

impl<'a> TelemetryMessage<'a> {
    /// A message without a sample yet.
    #[must_use]
    pub const fn new(speaker: Speaker<'a>) -> Self {
        Self { speaker, json: Vec::new(), boot: None, last: 0 }
    }

    /// Adds a sample in its stored form. `false`: it is of another boot than those before it, and needs a message of
    /// its own.
    ///
    /// # Errors
    /// It can't be read; the message is as it was.
    pub fn push(&mut self, seq: u64, stored: &[u8]) -> Result<bool, RecordError> {
        let sample = SampleView::of(stored)?;
        let anchor = match self.boot {
            Some((boot, anchor)) if boot == sample.at.boot => anchor,
            Some(_) => return Ok(false),
            None => {
                self.json.reserve(MESSAGE_BYTES);
                self.json.extend_from_slice(&self.speaker.message_with(seq, sample.at, "samples"));
                let anchor = self.speaker.timeline.anchor(sample.at.boot);
                self.boot = Some((sample.at.boot, anchor));
                anchor
            }
        };
        self.last = self.json.len();
        // Memory takes what is written.
        let written = self.sample(seq, &sample, anchor);
        debug_assert!(written.is_ok(), "write a sample: {written:?}");
        Ok(true)
    }

    /// Takes the last sample back: one of several.
    pub fn pop(&mut self) {
        self.json.truncate(self.last);
    }

    /// Its length when it is finished now, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        // The last sample's comma goes.
        (self.json.len() + END.len()).saturating_sub(1)
    }

    /// The message.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.boot.is_some() {
            self.json.pop();
            self.json.extend_from_slice(END);
        }
        self.json
    }

    fn sample(&mut self, seq: u64, sample: &SampleView<'_>, anchor: Option<Anchor>) -> io::Result<()> {
        let json = &mut self.json;
        json.extend_from_slice(b"{\"seq\":");
        number(json, seq);
        match anchor.map(|anchor| anchor.date(sample.at.mono)).and_then(shown) {
            Some(time) => write!(json, ",\"time\":\"{time}\",\"mono_ms\":")?,
            None => json.extend_from_slice(b",\"time\":null,\"mono_ms\":"),
        }
        number(json, sample.at.mono.0);
        let (whole_s, ms) = (sample.interval_ms / 1_000, sample.interval_ms % 1_000);
        json.extend_from_slice(b",\"interval_s\":");
        number(json, whole_s);
        match ms {
            0 => json.extend_from_slice(b".0"),
            ms => write!(json, ".{ms:03}")?,
        }
        if !sample.readings.is_empty() {
            json.push(b',');
            json.extend_from_slice(sample.readings);
        }
        json.extend_from_slice(b"},");
        Ok(())
    }
}

fn number(json: &mut Vec<u8>, number: impl Integer) {
    json.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value as Json, json};

    use super::*;
    use crate::engine::metric::{Metric, Value};
    use crate::engine::record::{Body, Reading, Record, Sample, Stamp};
    use crate::engine::time::{Mono, Unix};
    use crate::engine::timeline::Timeline;
    use crate::wire::date::rfc3339;

    const BOOT: BootId = BootId([0xab; 16]);

    fn timeline() -> Timeline {
        let anchors = BTreeMap::from([(BOOT, Anchor(Unix(1_795_000_000_000)))]);
        Timeline::new(BOOT, anchors, None, Unix(0))
    }

    fn reading(metric: Metric, value: impl Into<Value>) -> Reading {
        Reading { metric, label: None, value: value.into(), range: None }
    }

    fn stored(boot: BootId, readings: Vec<Reading>) -> bytes::Bytes {
        let at = Stamp { boot, mono: Mono(1_500) };
        Record { at, body: Body::Sample(Sample { interval_ms: 60_000, readings }) }.encode()
    }

    #[test]
    fn a_message_is_the_same_to_the_byte() {
        let timeline = timeline();
        let mut message = TelemetryMessage::new(Speaker { device: "gw-1", timeline: &timeline });
        message.push(7, &stored(BOOT, vec![reading(Metric::LinkUp, true)])).unwrap();
        message.push(1_000, &stored(BOOT, vec![])).unwrap();
        let expected_bytes = message.bytes();
        let expected = concat!(
            r#"{"v":1,"device":"gw-1","boot":"abababab-abab-abab-abab-abababababab","seq":7,"#,
            r#""time":"2026-11-18T11:06:41.500Z","mono_ms":1500,"samples":["#,
            r#"{"seq":7,"time":"2026-11-18T11:06:41.500Z","mono_ms":1500,"interval_s":60.0,"link":{"up":true}},"#,
            r#"{"seq":1000,"time":"2026-11-18T11:06:41.500Z","mono_ms":1500,"interval_s":60.0}]}"#,
        );
        assert_eq!(String::from_utf8(message.finish()).unwrap(), expected);
        assert_eq!(expected.len(), expected_bytes);
    }

    #[test]
    fn a_sample_without_a_date_says_so() {
        let timeline = Timeline::new(BOOT, BTreeMap::new(), None, Unix(0));
        let mut message = TelemetryMessage::new(Speaker { device: "gw-1", timeline: &timeline });
        message.push(7, &stored(BOOT, vec![])).unwrap();
        let json: Json = serde_json::from_slice(&message.finish()).unwrap();
        assert_eq!(json["samples"][0], json!({"seq": 7, "time": null, "mono_ms": 1500, "interval_s": 60.0}));
    }

    #[test]
    fn the_last_sample_can_be_taken_back_and_another_boot_is_left_for_the_next_message() {
        let timeline = timeline();
        let mut message = TelemetryMessage::new(Speaker { device: "gw-1", timeline: &timeline });
        let one = stored(BOOT, vec![reading(Metric::LinkUp, true)]);
        assert!(message.push(1, &one).unwrap() && message.push(2, &one).unwrap());
        assert!(!message.push(3, &stored(BootId([1; 16]), vec![])).unwrap());
        message.pop();
        let json: Json = serde_json::from_slice(&message.finish()).unwrap();
        assert_eq!((json["samples"].as_array().map(Vec::len), &json["seq"]), (Some(1), &json!(1)));
    }

    #[test]
    fn a_sample_that_cannot_be_read_leaves_the_message_as_it_was() {
        let timeline = timeline();
        let mut message = TelemetryMessage::new(Speaker { device: "gw-1", timeline: &timeline });
        let good = stored(BOOT, vec![reading(Metric::LinkUp, true)]);
        let cut = &good[..good.len() - 2];
        assert!(message.push(1, cut).is_err());
        assert!(message.push(2, &good[..1]).is_err());
        assert!(message.push(3, &good).unwrap());
        assert!(message.push(4, cut).is_err());
        let json: Json = serde_json::from_slice(&message.finish()).unwrap();
        assert_eq!((&json["seq"], json["samples"].as_array().map(Vec::len)), (&json!(3), Some(1)));
    }

    #[test]
    fn a_message_grows_as_long_as_it_is_filled_and_dates_follow_its_samples() {
        let timeline = timeline();
        let mut message = TelemetryMessage::new(Speaker { device: "gw-1", timeline: &timeline });
        let hour = |n: u64| Record {
            at: Stamp { boot: BOOT, mono: Mono(n * 3_600_000) },
            body: Body::Sample(Sample {
                interval_ms: 1,
                readings: vec![reading(Metric::BatteryState, "x".repeat(997).as_str())],
            }),
        };
        for n in 0..50 {
            assert!(message.push(n, &hour(n).encode()).unwrap());
        }
        let json: Json = serde_json::from_slice(&message.finish()).unwrap();
        let samples = json["samples"].as_array().unwrap();
        for (n, sample) in (0..).zip(samples) {
            let date = rfc3339(timeline.date(hour(n).at).unwrap()).unwrap();
            assert_eq!((&sample["seq"], sample["time"].as_str()), (&json!(n), Some(date.as_str())));
            assert_eq!(sample["battery"]["state"].as_str().map(str::len), Some(997));
        }
        assert_eq!(samples.len(), 50);
    }
}
