//! The contract's `telemetry` message, written straight from stored samples: the one payload of which there are many.
//! Each reading goes where its metric's path says; what a gateway doesn't have is left out, never zero. Knows nothing of
//! limits: who builds a message looks at its length and takes the last sample back.

use std::sync::OnceLock;

use super::payload::Speaker;
use crate::engine::metric::Metric;
use crate::engine::record::{ReadingView, RecordError, SampleView, Stamp, ValueView};

/// Room for a message of many samples.
const MESSAGE_BYTES: usize = 17 * 1024;
/// The deepest path of the metric table has two groups between the outermost and the field: `host.disk.*.used_pct`.
const GROUPS_BETWEEN: usize = 2;
/// A number beyond this is written as a float with an exponent: its digits would not fit an integer.
const FIXED_MAX: f64 = 1e15;

/// A telemetry message in the making.
#[derive(Debug)]
pub struct TelemetryMessage<'a> {
    speaker: Speaker<'a>,
    json: Vec<u8>,
    first: Option<Stamp>,
    /// Where the last sample begins, so that it can be taken back.
    last: usize,
}

impl<'a> TelemetryMessage<'a> {
    /// A message without a sample yet.
    #[must_use]
    pub fn new(speaker: Speaker<'a>) -> Self {
        Self { speaker, json: Vec::with_capacity(MESSAGE_BYTES), first: None, last: 0 }
    }

    /// Adds a sample in its stored form. `false`: it is of another boot than those before it, and needs a message of
    /// its own.
    ///
    /// # Errors
    /// It can't be read; the message is as it was.
    pub fn push(&mut self, seq: u64, stored: &[u8]) -> Result<bool, RecordError> {
        let sample = SampleView::of(stored)?;
        if self.first.is_some_and(|first| first.boot != sample.at.boot) {
            return Ok(false);
        }
        let start = self.json.len();
        if self.first.is_none() {
            self.json = self.speaker.message_with(seq, sample.at, "samples", std::mem::take(&mut self.json));
        }
        let last = std::mem::replace(&mut self.last, self.json.len());
        if let Err(error) = self.sample(seq, &sample) {
            self.last = last;
            self.json.truncate(start);
            return Err(error);
        }
        self.first.get_or_insert(sample.at);
        Ok(true)
    }

    /// Takes the last sample back: one of several.
    pub fn pop(&mut self) {
        self.json.truncate(self.last);
    }

    /// Its length when it is finished now, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.json.len() + END.len()
    }

    /// The message.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.first.is_some() {
            self.json.extend_from_slice(END);
        }
        self.json
    }

    fn sample(&mut self, seq: u64, sample: &SampleView<'_>) -> Result<(), RecordError> {
        let json = &mut self.json;
        if self.first.is_some() {
            json.push(b',');
        }
        json.push(b'{');
        key(json, "seq");
        count(json, seq);
        key(json, "time");
        match self.speaker.date(sample.at) {
            Some(date) => text(json, &date),
            None => json.extend_from_slice(b"null"),
        }
        key(json, "mono_ms");
        count(json, sample.at.mono.0);
        key(json, "interval_s");
        #[expect(clippy::cast_precision_loss, reason = "an interval of milliseconds is far below 2^53")]
        float(json, sample.interval_ms as f64 / 1000.0, Decimals::Three);
        let readings = json.len();
        if !groups(json, sample.clone())? {
            // Written by a version whose table has another order: what belongs together is brought together.
            json.truncate(readings);
            let mut sorted = sample.clone().collect::<Result<Vec<_>, _>>()?;
            sorted.sort_by_key(|reading| slot(reading.metric).map(|slot| slot.rank));
            groups(json, sorted.into_iter().map(Ok))?;
        }
        json.push(b'}');
        Ok(())
    }
}

/// What ends a message.
const END: &[u8] = b"]}";

/// Where a metric's value stands in a sample.
#[derive(Debug)]
struct Slot {
    /// The outermost group, and which of them it is: numbers are compared faster than names.
    top: &'static str,
    rank: u32,
    /// The groups between it and the field, `*` for a label, "" for none.
    between: [&'static str; GROUPS_BETWEEN],
    /// The field; `*` for a label.
    field: &'static str,
    /// The field as it is written: as a key, and with `_min` and `_max`.
    keys: [String; 3],
    /// It stands right in its outermost group, and its path has no label.
    is_plain: bool,
    decimals: Decimals,
}

/// Decimals worth writing: a thousandth of a percent, a millionth of anything else (the kernel's own µV, µA and µW).
#[derive(Debug, Clone, Copy)]
enum Decimals {
    Three,
    Six,
}

impl Slot {
    fn of(metric: Metric) -> Option<Self> {
        let (above, field) = metric.path().rsplit_once('.')?;
        let (top, rest) = above.split_once('.').unwrap_or((above, ""));
        let mut between = [""; GROUPS_BETWEEN];
        for (group, step) in between.iter_mut().zip(rest.split('.')) {
            *group = step;
        }
        let decimals = if metric.unit() == "%" { Decimals::Three } else { Decimals::Six };
        let is_plain = rest.is_empty() && field != "*";
        Some(Self { top, rank: rank(top), between, field, keys: keys(field), is_plain, decimals })
    }
}

/// A name as the key of a value, of its lowest and of its highest.
fn keys(name: &str) -> [String; 3] {
    ["", "_min", "_max"].map(|end| {
        let mut json = Vec::new();
        text(&mut json, &format!("{name}{end}"));
        json.push(b':');
        String::from_utf8(json).unwrap_or_default()
    })
}

/// How many outermost groups come before this one in the metric table.
fn rank(top: &str) -> u32 {
    let mut before: Vec<&str> = Metric::ALL.iter().filter_map(|metric| metric.path().split('.').next()).collect();
    before.dedup();
    before.iter().take_while(|other| **other != top).fold(0, |rank, _| rank + 1)
}

/// The metric table by number: paths are taken apart once, not for each reading.
fn slot(number: u16) -> Option<&'static Slot> {
    static SLOTS: OnceLock<Vec<Option<Slot>>> = OnceLock::new();
    let slots = SLOTS.get_or_init(|| {
        let numbers = Metric::ALL.iter().map(|metric| metric.number()).max().map_or(0, |last| last + 1);
        (0..numbers).map(|number| Metric::from_number(number).and_then(Slot::of)).collect()
    });
    slots.get(usize::from(number))?.as_ref()
}

/// A reading that stands deeper than its outermost group.
#[derive(Debug)]
struct Deep<'b> {
    groups: [&'b str; GROUPS_BETWEEN],
    /// Where the field itself is named by the label.
    label: Option<&'b str>,
    slot: &'static Slot,
    reading: ReadingView<'b>,
}

impl<'b> Deep<'b> {
    fn new(slot: &'static Slot, reading: ReadingView<'b>) -> Self {
        let label = reading.label.unwrap_or("*");
        let groups = slot.between.map(|step| if step == "*" { label } else { step });
        Self { groups, label: (slot.field == "*").then_some(label), slot, reading }
    }
}

/// Writes the groups of a sample. `false` where an outermost group came a second time: an object has a key once.
fn groups<'b>(
    json: &mut Vec<u8>,
    readings: impl Iterator<Item = Result<ReadingView<'b>, RecordError>>,
) -> Result<bool, RecordError> {
    let mut open: Option<u32> = None;
    // A bit for each.
    let mut closed = 0_u64;
    let mut deep = Vec::new();
    for reading in readings {
        let reading = reading?;
        // One that is not known here was written by a newer agent.
        let Some(slot) = slot(reading.metric) else { continue };
        if open != Some(slot.rank) {
            if open.is_some() {
                close(json, &mut deep);
            }
            let bit = 1_u64.checked_shl(slot.rank).unwrap_or(u64::MAX);
            if closed & bit != 0 {
                return Ok(false);
            }
            closed |= bit;
            open = Some(slot.rank);
            key(json, slot.top);
            json.push(b'{');
        }
        if slot.is_plain {
            entries(json, &slot.keys, slot.decimals, &reading);
        } else {
            deep.push(Deep::new(slot, reading));
        }
    }
    if open.is_some() {
        close(json, &mut deep);
    }
    Ok(true)
}

/// Ends the open group with what stands deeper in it.
fn close(json: &mut Vec<u8>, deep: &mut Vec<Deep<'_>>) {
    deep.sort_by_key(|deep| deep.groups);
    for group in deep.chunk_by(|a, b| a.groups.first() == b.groups.first()) {
        let Some([outer, _]) = group.first().map(|first| first.groups) else { continue };
        key(json, outer);
        json.push(b'{');
        for same in group.chunk_by(|a, b| a.groups == b.groups) {
            let Some([_, inner]) = same.first().map(|first| first.groups) else { continue };
            if !inner.is_empty() {
                key(json, inner);
                json.push(b'{');
            }
            for Deep { label, slot, reading, .. } in same {
                match label {
                    Some(label) => entries(json, &keys(label), slot.decimals, reading),
                    None => entries(json, &slot.keys, slot.decimals, reading),
                }
            }
            if !inner.is_empty() {
                json.push(b'}');
            }
        }
        json.push(b'}');
    }
    deep.clear();
    json.push(b'}');
}

/// Writes a reading under its key, with its lowest and highest beside it.
fn entries(json: &mut Vec<u8>, [here, lowest, highest]: &[String; 3], decimals: Decimals, reading: &ReadingView<'_>) {
    match reading.value {
        // JSON has no number for these: they are left out.
        ValueView::Float(value) if !value.is_finite() => {}
        ValueView::Float(value) => {
            written_key(json, here);
            float(json, value, decimals);
        }
        ValueView::Count(value) => {
            written_key(json, here);
            count(json, value);
        }
        ValueView::Flag(value) => {
            written_key(json, here);
            json.extend_from_slice(if value { b"true" } else { b"false" });
        }
        ValueView::Text(value) => {
            written_key(json, here);
            text(json, value);
        }
    }
    let Some((low, high)) = reading.range else { return };
    for (key, value) in [(lowest, low), (highest, high)] {
        if !value.is_finite() {
            continue;
        }
        written_key(json, key);
        match reading.value {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a count before")]
            ValueView::Count(_) => count(json, value as u64),
            _ => float(json, value, decimals),
        }
    }
}

/// A key that was made before.
fn written_key(json: &mut Vec<u8>, key: &str) {
    if json.last() != Some(&b'{') {
        json.push(b',');
    }
    json.extend_from_slice(key.as_bytes());
}

/// A key of an object, after a comma unless it is the first.
fn key(json: &mut Vec<u8>, name: &str) {
    written_key(json, "");
    text(json, name);
    json.push(b':');
}

fn count(json: &mut Vec<u8>, value: u64) {
    json.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A finite number, rounded, with one decimal at least: a float is told from a count by it.
fn float(json: &mut Vec<u8>, value: f64, decimals: Decimals) {
    match decimals {
        Decimals::Three => fixed::<1_000>(json, value),
        Decimals::Six => fixed::<1_000_000>(json, value),
    }
}

/// A number in units of one by `SCALE`, a power of ten: constant, because dividing by a variable takes longer than the
/// rest.
fn fixed<const SCALE: u32>(json: &mut Vec<u8>, value: f64) {
    let scaled = value * f64::from(SCALE);
    if scaled.abs() >= FIXED_MAX {
        // Memory takes what is written, and every finite number has a form: there is nothing that could fail.
        let written = serde_json::to_writer(&mut *json, &value);
        debug_assert!(written.is_ok(), "write a number: {written:?}");
        return;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 10^15")]
    let scaled = (scaled + 0.5_f64.copysign(scaled)) as i64;
    if scaled < 0 {
        json.push(b'-');
    }
    let scaled = scaled.unsigned_abs();
    let scale = u64::from(SCALE);
    count(json, scaled / scale);
    // With a one before them the decimals have their zeros; it becomes the point.
    let point = json.len();
    count(json, scale + scaled % scale);
    if let Some(one) = json.get_mut(point) {
        *one = b'.';
    }
    while json.len() > point + 2 && json.last() == Some(&b'0') {
        json.pop();
    }
}

fn text(json: &mut Vec<u8>, value: &str) {
    if is_plain(value) {
        json.push(b'"');
        json.extend_from_slice(value.as_bytes());
        json.push(b'"');
    } else {
        // As above: nothing that could fail.
        let written = serde_json::to_writer(&mut *json, value);
        debug_assert!(written.is_ok(), "write a text: {written:?}");
    }
}

/// Whether a text stands in JSON as it is.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::engine::metric::Value;
    use crate::engine::record::{Body, Reading, Record, Sample};
    use crate::engine::time::{Anchor, BootId, Mono, Unix};
    use crate::engine::timeline::Timeline;

    const BOOT: BootId = BootId([0xab; 16]);

    fn timeline() -> Timeline {
        let anchors = BTreeMap::from([(BOOT, Anchor(Unix(1_795_000_000_000)))]);
        Timeline::new(BOOT, anchors, None, Unix(0))
    }

    fn reading(metric: Metric, label: Option<&str>, value: impl Into<Value>, range: Option<(f64, f64)>) -> Reading {
        Reading { metric: metric.number(), label: label.map(Into::into), value: value.into(), range }
    }

    fn stored(boot: BootId, readings: Vec<Reading>) -> bytes::Bytes {
        let at = Stamp { boot, mono: Mono(1_500) };
        Record { at, body: Body::Sample(Sample { interval_ms: 60_000, readings }) }.encode()
    }

    fn said(samples: &[(u64, bytes::Bytes)]) -> Json {
        let timeline = timeline();
        let mut message = TelemetryMessage::new(Speaker { device: "gw-1", timeline: &timeline });
        for (seq, stored) in samples {
            assert!(message.push(*seq, stored).unwrap());
        }
        let expected = message.bytes();
        let json = message.finish();
        assert_eq!(json.len(), expected);
        serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&json)))
    }

    #[test]
    fn a_sample_becomes_the_contracts_nested_groups() {
        let readings = vec![
            reading(Metric::BatteryVoltage, None, 12.1, Some((11.9, 12.3))),
            reading(Metric::HostLoad1, None, f64::NAN, None),
            reading(Metric::HostDiskFree, Some("/data"), 77_u64, None),
            reading(Metric::AgentDropped, Some("quota"), 3_u64, None),
            Reading { metric: 9_999, label: None, value: Value::Flag(true), range: None },
        ];
        assert_eq!(
            said(&[(7, stored(BOOT, readings))]),
            json!({"v":1,"device":"gw-1","boot":"abababab-abab-abab-abab-abababababab","seq":7,
                "time":"2026-11-18T11:06:41.500Z","mono_ms":1500,
                "samples":[{"seq":7,"time":"2026-11-18T11:06:41.500Z","mono_ms":1500,"interval_s":60.0,
                    "battery":{"voltage_v":12.1,"voltage_v_min":11.9,"voltage_v_max":12.3},
                    "host":{"disk":{"/data":{"free_bytes":77}}},
                    "agent":{"dropped":{"quota":3}}}]})
        );
    }

    #[test]
    fn what_shares_a_label_stands_in_one_object() {
        let readings = [Metric::LinkUp, Metric::InterfaceUp, Metric::InterfaceRxBytes].into_iter().flat_map(|metric| {
            let labels: &[_] = if metric.has_label() { &[Some("eth0"), Some("wlan0")] } else { &[None] };
            labels.iter().map(move |label| reading(metric, *label, 1_u64, None))
        });
        let message = said(&[(1, stored(BOOT, readings.collect()))]);
        let one = json!({"up": 1, "rx_bytes": 1});
        assert_eq!(message["samples"][0]["link"], json!({"up": 1, "interfaces": {"eth0": one, "wlan0": one}}));
    }

    #[test]
    fn a_label_with_quotes_stays_one_key() {
        let odd = "a \"b\"\\\n\u{e4}";
        let message = said(&[(1, stored(BOOT, vec![reading(Metric::HostDiskFree, Some(odd), 5_u64, None)]))]);
        assert_eq!(message["samples"][0]["host"]["disk"][odd]["free_bytes"], json!(5));
    }

    #[test]
    fn readings_in_another_order_make_the_same_message() {
        let mut readings = vec![
            reading(Metric::BatteryChargePct, None, 50.5, None),
            reading(Metric::LinkUp, None, true, None),
            reading(Metric::HostDiskFree, Some("/"), 1_u64, None),
            reading(Metric::BatteryState, None, "full", None),
            reading(Metric::HostLoad1, None, 0.25, None),
        ];
        let mixed = said(&[(1, stored(BOOT, readings.clone()))]);
        readings.sort_by_key(|reading| reading.metric);
        assert_eq!(mixed, said(&[(1, stored(BOOT, readings))]));
    }

    #[test]
    fn the_last_sample_can_be_taken_back_and_another_boot_is_left_for_the_next_message() {
        let timeline = timeline();
        let mut message = TelemetryMessage::new(Speaker { device: "gw-1", timeline: &timeline });
        let one = stored(BOOT, vec![reading(Metric::LinkUp, None, true, None)]);
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
        let good = stored(BOOT, vec![reading(Metric::LinkUp, None, true, None); 3]);
        let cut = &good[..good.len() - 2];
        assert!(message.push(1, cut).is_err());
        assert!(message.push(2, &good[..1]).is_err());
        assert!(message.push(3, &good).unwrap());
        assert!(message.push(4, cut).is_err());
        let json: Json = serde_json::from_slice(&message.finish()).unwrap();
        assert_eq!((&json["seq"], json["samples"].as_array().map(Vec::len)), (&json!(3), Some(1)));
    }

    #[test]
    fn no_path_of_the_table_is_deeper_than_a_slot_holds_and_outermost_groups_come_once() {
        let mut tops: Vec<&str> = Vec::new();
        for metric in Metric::ALL {
            assert!(metric.path().split('.').count() <= GROUPS_BETWEEN + 2, "{metric}");
            let top = slot(metric.number()).unwrap().top;
            if tops.last() != Some(&top) {
                tops.push(top);
            }
        }
        assert_eq!(tops.len(), tops.iter().collect::<BTreeSet<_>>().len(), "{tops:?}");
    }

    proptest! {
        #[test]
        fn a_number_is_written_to_its_decimals(value in prop_oneof![-1e6..1e6_f64, any::<f64>(), Just(-0.0), Just(1e-9)]) {
            prop_assume!(f64::is_finite(value));
            for (decimals, scale) in [(Decimals::Three, 1e3), (Decimals::Six, 1e6)] {
                let mut json = Vec::new();
                float(&mut json, value, decimals);
                let text = std::str::from_utf8(&json).unwrap();
                let read: f64 = text.parse().unwrap();
                let rounded = if value.abs() < 1e8 { (value * scale).round() / scale } else { value };
                prop_assert!((read - rounded).abs() <= value.abs() * 1e-9, "{value} as {text}");
                prop_assert!(serde_json::from_str::<Json>(text).unwrap().is_f64(), "{text} is no float");
            }
        }
    }
}
