//! The contract's `telemetry` message, written straight from stored samples: the one payload of which there are many.
//! Each reading goes where its metric's path says; what a gateway doesn't have is left out, never zero. Knows nothing of
//! limits: who builds a message looks at its length and takes the last sample back.

use std::sync::OnceLock;

use super::date::rfc3339;
use super::json::{Decimals, Piece, Text};
use super::payload::Speaker;
use crate::engine::metric::Metric;
use crate::engine::record::{ReadingView, RecordError, SampleView, Stamp, ValueView};
use crate::engine::time::Unix;

/// Room for a message of many samples.
const MESSAGE_BYTES: usize = 17 * 1024;
/// The deepest path of the metric table has two groups between the outermost and the field: `host.disk.*.used_pct`.
const GROUPS_BETWEEN: usize = 2;

/// A telemetry message in the making.
#[derive(Debug)]
pub struct TelemetryMessage<'a> {
    speaker: Speaker<'a>,
    json: Text,
    first: Option<Stamp>,
    /// Where the last sample begins, so that it can be taken back.
    last: usize,
    day: Option<Day>,
}

impl<'a> TelemetryMessage<'a> {
    /// A message without a sample yet.
    #[must_use]
    pub fn new(speaker: Speaker<'a>) -> Self {
        Self { speaker, json: Text::default(), first: None, last: 0, day: None }
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
            self.json = Text::with_capacity(MESSAGE_BYTES);
            self.json.raw(&self.speaker.message_with(seq, sample.at, "samples"));
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
        // The last sample's comma goes.
        (self.json.len() + END.len()).saturating_sub(1)
    }

    /// The message.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.first.is_some() {
            self.json.truncate(self.json.len().saturating_sub(1));
            self.json.raw(END);
        }
        self.json.finish()
    }

    fn sample(&mut self, seq: u64, sample: &SampleView<'_>) -> Result<(), RecordError> {
        self.json.raw(b"{\"seq\":");
        self.json.count(seq);
        self.json.raw(b"\"time\":");
        self.time(sample.at);
        self.json.raw(b"\"mono_ms\":");
        self.json.count(sample.at.mono.0);
        self.json.raw(b"\"interval_s\":");
        #[expect(clippy::cast_precision_loss, reason = "an interval of milliseconds is far below 2^53")]
        self.json.float(sample.interval_ms as f64 / 1000.0, Decimals::Three);
        let readings = self.json.len();
        let mut groups = Groups::new(&mut self.json);
        sample.each(|reading| groups.add(reading))?;
        if !groups.finish() {
            // Written by a version whose table has another order: what belongs together is brought together.
            self.json.truncate(readings);
            let mut sorted = Vec::new();
            sample.each(|reading| sorted.push(*reading))?;
            sorted.sort_by_key(|reading| slot(reading.metric).map(|slot| slot.rank));
            let mut groups = Groups::new(&mut self.json);
            sorted.iter().for_each(|reading| groups.add(reading));
            groups.finish();
        }
        self.json.close();
        Ok(())
    }

    /// The date, as [`Speaker::date`] has it.
    fn time(&mut self, at: Stamp) {
        let unix = self.speaker.timeline.date(at);
        let is_of = |day: &Day, unix: Unix| day.number == unix.0.div_euclid(DAY_MS);
        if self.day.as_ref().zip(unix).is_none_or(|(day, unix)| !is_of(day, unix)) {
            self.day = unix.and_then(Day::of);
        }
        match self.day.as_ref().zip(unix) {
            Some((day, unix)) => self.json.instant(&day.date, unix.0.rem_euclid(DAY_MS).unsigned_abs()),
            None => self.json.null(),
        }
    }
}

/// What ends a message.
const END: &[u8] = b"]}";
const DAY_MS: i64 = 24 * 3_600_000;

/// A day as dates begin with it: to find it takes as long as the half of a sample.
#[derive(Debug)]
struct Day {
    /// Since 1970.
    number: i64,
    date: String,
}

impl Day {
    fn of(unix: Unix) -> Option<Self> {
        let text = rfc3339(unix)?;
        let (date, _) = text.split_once('T')?;
        Some(Self { number: unix.0.div_euclid(DAY_MS), date: date.to_owned() })
    }
}

/// Where a metric's value stands in a sample.
#[derive(Debug)]
struct Slot {
    /// The outermost group as it is opened, and which of them it is: numbers are compared faster than names.
    top: Piece,
    rank: u32,
    /// The groups between it and the field, `*` for a label, "" for none.
    between: [&'static str; GROUPS_BETWEEN],
    /// The field; `*` for a label.
    field: &'static str,
    /// The field as it is written: as a key, and with `_min` and `_max`.
    keys: [Piece; 3],
    /// It stands right in its outermost group, and its path has no label.
    is_plain: bool,
    decimals: Decimals,
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
        Some(Self { top: Piece::group(top), rank: rank(top), between, field, keys: keys(field), is_plain, decimals })
    }
}

/// A name as the key of a value, of its lowest and of its highest.
fn keys(name: &str) -> [Piece; 3] {
    ["", "_min", "_max"].map(|end| Piece::key(&format!("{name}{end}")))
}

/// How many outermost groups come before this one in the metric table.
fn rank(top: &str) -> u32 {
    let mut before: Vec<&str> = Metric::ALL.iter().filter_map(|metric| metric.path().split('.').next()).collect();
    before.dedup();
    before.iter().take_while(|other| **other != top).fold(0, |rank, _| rank + 1)
}

/// The metric table by number: paths are taken apart once, not for each reading.
fn slots() -> &'static [Option<Slot>] {
    static SLOTS: OnceLock<Vec<Option<Slot>>> = OnceLock::new();
    SLOTS.get_or_init(|| {
        let numbers = Metric::ALL.iter().map(|metric| metric.number()).max().map_or(0, |last| last + 1);
        (0..numbers).map(|number| Metric::from_number(number).and_then(Slot::of)).collect()
    })
}

/// A metric's place; `None` for one that is not known here: a newer agent wrote it.
fn slot(number: u16) -> Option<&'static Slot> {
    slots().get(usize::from(number))?.as_ref()
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
    fn new(slot: &'static Slot, reading: &ReadingView<'b>) -> Self {
        let label = reading.label.unwrap_or("*");
        let groups = slot.between.map(|step| if step == "*" { label } else { step });
        Self { groups, label: (slot.field == "*").then_some(label), slot, reading: *reading }
    }
}

/// The groups of a sample in the making.
struct Groups<'j, 'b> {
    json: &'j mut Text,
    slots: &'static [Option<Slot>],
    /// The outermost group that is open.
    open: Option<u32>,
    /// Those that were opened, a bit for each.
    opened: u64,
    /// One came a second time: an object has a key once.
    repeated: bool,
    /// What stands deeper in the open group.
    deep: Vec<Deep<'b>>,
}

impl<'j, 'b> Groups<'j, 'b> {
    fn new(json: &'j mut Text) -> Self {
        Self { json, slots: slots(), open: None, opened: 0, repeated: false, deep: Vec::new() }
    }

    fn add(&mut self, reading: &ReadingView<'b>) {
        // One that is not known here was written by a newer agent.
        let Some(Some(slot)) = self.slots.get(usize::from(reading.metric)) else { return };
        if self.open != Some(slot.rank) {
            self.close();
            let bit = 1_u64.checked_shl(slot.rank).unwrap_or(u64::MAX);
            self.repeated |= self.opened & bit != 0;
            self.opened |= bit;
            self.open = Some(slot.rank);
            self.json.piece(&slot.top);
        }
        if slot.is_plain {
            entries(self.json, &slot.keys, slot.decimals, reading);
        } else {
            self.deep.push(Deep::new(slot, reading));
        }
    }

    /// `false` where an outermost group came a second time.
    fn finish(mut self) -> bool {
        self.close();
        !self.repeated
    }

    /// Ends the open group with what stands deeper in it.
    fn close(&mut self) {
        if self.open.take().is_none() {
            return;
        }
        let json = &mut *self.json;
        self.deep.sort_by_key(|deep| deep.groups);
        for group in self.deep.chunk_by(|a, b| a.groups.first() == b.groups.first()) {
            let Some([outer, _]) = group.first().map(|first| first.groups) else { continue };
            json.open(outer);
            for same in group.chunk_by(|a, b| a.groups == b.groups) {
                let Some([_, inner]) = same.first().map(|first| first.groups) else { continue };
                if !inner.is_empty() {
                    json.open(inner);
                }
                for Deep { label, slot, reading, .. } in same {
                    match label {
                        Some(label) => entries(json, &keys(label), slot.decimals, reading),
                        None => entries(json, &slot.keys, slot.decimals, reading),
                    }
                }
                if !inner.is_empty() {
                    json.close();
                }
            }
            json.close();
        }
        self.deep.clear();
        json.close();
    }
}

/// Writes a reading under its key, with its lowest and highest beside it.
fn entries(json: &mut Text, [here, lowest, highest]: &[Piece; 3], decimals: Decimals, reading: &ReadingView<'_>) {
    match reading.value {
        // JSON has no number for these: they are left out.
        ValueView::Float(value) if !value.is_finite() => {}
        ValueView::Float(value) => {
            json.piece(here);
            json.float(value, decimals);
        }
        ValueView::Count(value) => {
            json.piece(here);
            json.count(value);
        }
        ValueView::Flag(value) => {
            json.piece(here);
            json.flag(value);
        }
        ValueView::Text(value) => {
            json.piece(here);
            json.string(value);
        }
    }
    let Some((low, high)) = reading.range else { return };
    for (key, value) in [(lowest, low), (highest, high)] {
        if !value.is_finite() {
            continue;
        }
        json.piece(key);
        match reading.value {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a count before")]
            ValueView::Count(_) => json.count(value as u64),
            _ => json.float(value, decimals),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

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
            let top = metric.path().split('.').next().unwrap();
            if tops.last() != Some(&top) {
                tops.push(top);
            }
        }
        assert_eq!(tops.len(), tops.iter().collect::<BTreeSet<_>>().len(), "{tops:?}");
    }

    /// What readers have seen so far they go on seeing: order, digits and all.
    #[test]
    fn a_message_is_the_same_to_the_byte() {
        let long = "a".repeat(40);
        let readings = |label: &str| {
            vec![
                reading(Metric::BatteryPresent, None, true, None),
                reading(Metric::BatteryChargePct, None, 55.0 / 3.0, Some((18.0, 99.9996))),
                reading(Metric::BatteryState, None, "dis\"charging", None),
                reading(Metric::BatteryVoltage, None, 12.345_678_9, Some((-0.000_000_4, f64::INFINITY))),
                reading(Metric::BatteryCurrent, None, -1.204, Some((-1_234_567.05, 1e300))),
                reading(Metric::LinkUp, None, false, None),
                reading(Metric::LinkRxBytes, None, 1_000_070_u64, None),
                reading(Metric::LinkTxBytes, None, u64::MAX, Some((0.0, 12.9))),
                reading(Metric::InterfaceUp, Some(label), true, None),
                reading(Metric::ErrorsBySeverity, Some(label), 3_u64, None),
                reading(Metric::HostLoad1, None, f64::NAN, None),
            ]
        };
        let timeline = timeline();
        let mut message = TelemetryMessage::new(Speaker { device: "gw-1", timeline: &timeline });
        message.push(7, &stored(BOOT, readings("eth0"))).unwrap();
        message.push(1_000, &stored(BOOT, readings(&long))).unwrap();
        let sample = |seq: &str, label: &str| {
            format!(
                r#"{{"seq":{seq},"time":"2026-11-18T11:06:41.500Z","mono_ms":1500,"interval_s":60.0,"battery":{{"present":true,"charge_pct":18.333,"charge_pct_min":18.0,"charge_pct_max":100.0,"state":"dis\"charging","voltage_v":12.345679,"voltage_v_min":0.0,"current_a":-1.204,"current_a_min":-1234567.05,"current_a_max":1e+300}},"link":{{"up":false,"rx_bytes":1000070,"tx_bytes":18446744073709551615,"tx_bytes_min":0,"tx_bytes_max":12,"interfaces":{{"{label}":{{"up":true}}}}}},"errors":{{"by_severity":{{"{label}":3}}}},"host":{{}}}}"#
            )
        };
        let head = r#"{"v":1,"device":"gw-1","boot":"abababab-abab-abab-abab-abababababab","seq":7,"time":"2026-11-18T11:06:41.500Z","mono_ms":1500,"samples":["#;
        let expected = format!("{head}{},{}]}}", sample("7", "eth0"), sample("1000", &long));
        assert_eq!(String::from_utf8(message.finish()).unwrap(), expected);
    }

    #[test]
    fn a_message_grows_as_long_as_it_is_filled_and_dates_follow_its_samples() {
        let timeline = timeline();
        let mut message = TelemetryMessage::new(Speaker { device: "gw-1", timeline: &timeline });
        let hour = |n: u64| Record {
            at: Stamp { boot: BOOT, mono: Mono(n * 3_600_000) },
            body: Body::Sample(Sample {
                interval_ms: 1,
                readings: vec![reading(Metric::BatteryState, None, "x".repeat(997).as_str(), None)],
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
