//! The contract's outgoing payloads: records become JSON here, at sending, so that a date that was learned late is in
//! it. What a gateway doesn't have is left out, never zero; `time` alone is null where no date is known.

use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::ser::{CompactFormatter, Compound};
use serde_json::{Map, Value as Json};

use crate::config::AttributeValue;
use crate::engine::metric::{Metric, Value};
use crate::engine::record::{Body, CommandResult, Event, Field, Reading, Record, Sample, Stamp};
use crate::engine::time::Unix;
use crate::engine::timeline::Timeline;

/// Room for a message of one sample.
const MESSAGE_BYTES: usize = 1_024;

/// The version of the payloads, their `v`.
pub const PAYLOAD_VERSION: u8 = 1;

/// Who speaks, and how stamps become dates.
#[derive(Debug, Clone, Copy)]
pub struct Speaker<'a> {
    /// Device id.
    pub device: &'a str,
    /// Dates.
    pub timeline: &'a Timeline,
}

/// The state that the retained presence message tells.
#[derive(Debug, Clone, Copy)]
pub struct Presence<'a> {
    /// `None`: online. Else why not: `lost`, `stopped`, `rebooting`.
    pub offline: Option<&'a str>,
    /// The agent's version.
    pub agent: &'a str,
    /// 128 random bits in hexadecimal, new at each start.
    pub nonce: &'a str,
    /// none, observe, restrict, isolate.
    pub quarantine: &'a str,
}

/// RFC 3339 in UTC with milliseconds; `None` outside the years that it can write.
#[must_use]
pub fn rfc3339(unix: Unix) -> Option<String> {
    jiff::Timestamp::from_millisecond(unix.0).ok().map(|time| format!("{time:.3}"))
}

/// zstd at the level where telemetry is a quarter of its size for the least work. A frame of its own a message.
#[must_use]
pub fn compress(json: Vec<u8>) -> Vec<u8> {
    const LEVEL: i32 = 1;
    // Fails only without memory for its window; the reader tells the two apart by zstd's magic number.
    zstd::encode_all(json.as_slice(), LEVEL).unwrap_or(json)
}

impl Speaker<'_> {
    /// One record that makes a message of its own. A sample becomes a telemetry message with one sample.
    #[must_use]
    pub fn record(&self, seq: u64, record: &Record) -> Vec<u8> {
        match &record.body {
            Body::Sample(_) => self.telemetry(&[(seq, record.clone())]),
            Body::Event(event) => self.message(seq, record.at, |message| self.event(event, message)),
            Body::Result(result) => self.message(seq, record.at, |message| command_result(result, message)),
        }
    }

    /// Samples of one boot in one message; its `seq`, `time` and `mono_ms` are those of the first. Records that are no
    /// samples are passed over.
    #[must_use]
    pub fn telemetry(&self, records: &[(u64, Record)]) -> Vec<u8> {
        let Some((first_seq, first)) = records.first() else { return Vec::new() };
        self.message(*first_seq, first.at, |message| message.serialize_entry("samples", &Samples(self, records)))
    }

    /// The presence message, or the will.
    #[must_use]
    pub fn presence(&self, seq: u64, at: Stamp, presence: Presence<'_>) -> Vec<u8> {
        self.message(seq, at, |message| {
            message.serialize_entry("online", &presence.offline.is_none())?;
            if let Some(reason) = presence.offline {
                message.serialize_entry("reason", reason)?;
            }
            message.serialize_entry("agent", presence.agent)?;
            message.serialize_entry("nonce", presence.nonce)?;
            message.serialize_entry("quarantine", presence.quarantine)
        })
    }

    /// The attributes message.
    #[must_use]
    pub fn attributes<'m>(
        &self,
        seq: u64,
        at: Stamp,
        fixed: impl Iterator<Item = (&'m String, &'m AttributeValue)>,
        dynamic: Map<String, Json>,
        groups: &[String],
    ) -> Vec<u8> {
        let fixed: BTreeMap<&String, &AttributeValue> = fixed.collect();
        self.message(seq, at, |message| {
            message.serialize_entry("static", &fixed)?;
            message.serialize_entry("dynamic", &dynamic)?;
            message.serialize_entry("groups", groups)
        })
    }

    /// The envelope, and what is said in it.
    fn message(&self, seq: u64, at: Stamp, say: impl FnOnce(&mut MapWriter<'_>) -> Written) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MESSAGE_BYTES);
        let mut writer = serde_json::Serializer::new(&mut bytes);
        let written = writer.serialize_map(None).and_then(|mut message| {
            message.serialize_entry("v", &PAYLOAD_VERSION)?;
            message.serialize_entry("device", self.device)?;
            message.serialize_entry("boot", &at.boot.to_string())?;
            message.serialize_entry("seq", &seq)?;
            message.serialize_entry("time", &self.date(at))?;
            message.serialize_entry("mono_ms", &at.mono.0)?;
            say(&mut message)?;
            message.end()
        });
        // Memory takes what is written, and every key is a string: there is nothing that could fail.
        debug_assert!(written.is_ok(), "write a message: {written:?}");
        bytes
    }

    fn date(&self, at: Stamp) -> Option<String> {
        self.timeline.date(at).and_then(rfc3339)
    }

    fn event(&self, event: &Event, message: &mut MapWriter<'_>) -> Written {
        message.serialize_entry("severity", event.severity.word())?;
        message.serialize_entry("type", event.kind.word())?;
        message.serialize_entry("name", &event.name)?;
        if event.fields.is_empty() {
            return Ok(());
        }
        message.serialize_entry(&event.group, &Fields(self, &event.fields))
    }
}

type MapWriter<'a> = Compound<'a, &'a mut Vec<u8>, CompactFormatter>;
type Written = serde_json::Result<()>;

fn command_result(result: &CommandResult, message: &mut MapWriter<'_>) -> Written {
    message.serialize_entry("command_id", &result.command_id)?;
    message.serialize_entry("command", &result.command)?;
    message.serialize_entry("status", result.status.word())?;
    for (key, text) in [("reason", &result.reason), ("detail", &result.detail), ("output", &result.output)] {
        if let Some(text) = text {
            message.serialize_entry(key, text)?;
        }
    }
    match result.progress_pct {
        Some(percent) => message.serialize_entry("progress_pct", &percent),
        None => Ok(()),
    }
}

/// The fields of an event.
struct Fields<'a>(&'a Speaker<'a>, &'a [(Box<str>, Field)]);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(speaker, fields) = self;
        let mut map = serializer.serialize_map(None)?;
        for (key, field) in *fields {
            match field {
                Field::Value(value) => entry(&mut map, key, value)?,
                Field::Stamp(stamp) => map.serialize_entry(key, &speaker.date(*stamp))?,
                Field::List(words) => map.serialize_entry(key, words)?,
            }
        }
        map.end()
    }
}

/// The samples of a message.
struct Samples<'a>(&'a Speaker<'a>, &'a [(u64, Record)]);

impl Serialize for Samples<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(speaker, records) = self;
        serializer.collect_seq(records.iter().filter_map(|(seq, record)| match &record.body {
            Body::Sample(sample) => Some(SampleOf { speaker, seq: *seq, at: record.at, sample }),
            Body::Event(_) | Body::Result(_) => None,
        }))
    }
}

/// One sample: each reading where its metric's path says.
struct SampleOf<'a> {
    speaker: &'a Speaker<'a>,
    seq: u64,
    at: Stamp,
    sample: &'a Sample,
}

impl Serialize for SampleOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("seq", &self.seq)?;
        map.serialize_entry("time", &self.speaker.date(self.at))?;
        map.serialize_entry("mono_ms", &self.at.mono.0)?;
        #[expect(clippy::cast_precision_loss, reason = "an interval of milliseconds is far below 2^53")]
        map.serialize_entry("interval_s", &(self.sample.interval_ms as f64 / 1000.0))?;
        let mut placed: Vec<Placed<'_>> = self.sample.readings.iter().filter_map(Placed::new).collect();
        together(&mut placed);
        entries(&mut map, &placed, 0)?;
        map.end()
    }
}

/// A reading and its place: `host.disk.*.used_pct` of `/data` is `used_pct` in the groups `host`, `disk` and `/data`.
#[derive(Clone, Copy)]
struct Placed<'a> {
    groups: [&'a str; GROUPS_MAX],
    field: &'a str,
    metric: Metric,
    reading: &'a Reading,
}

/// The deepest path of the metric table has so many groups above its field.
const GROUPS_MAX: usize = 3;

impl<'a> Placed<'a> {
    /// `None` for a metric that a newer agent wrote.
    fn new(reading: &'a Reading) -> Option<Self> {
        let metric = Metric::from_number(reading.metric)?;
        let label = reading.label.as_deref().unwrap_or("*");
        let mut groups = [""; GROUPS_MAX];
        let (above, field) = metric.path().rsplit_once('.')?;
        for (group, step) in groups.iter_mut().zip(above.split('.')) {
            *group = if step == "*" { label } else { step };
        }
        Some(Self { groups, field: if field == "*" { label } else { field }, metric, reading })
    }

    /// Its groups from this depth on are none: it is a field here.
    fn group(&self, depth: usize) -> &'a str {
        self.groups.get(depth).copied().unwrap_or_default()
    }

    fn entries<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        entry(map, self.field, &rounded(self.metric, &self.reading.value))?;
        let Some((low, high)) = self.reading.range else { return Ok(()) };
        for (end, value) in [("min", low), ("max", high)] {
            let value = match self.reading.value {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a count before")]
                Value::Count(_) => Value::Count(value as u64),
                _ => Value::Float(value),
            };
            entry(map, &format!("{}_{end}", self.field), &rounded(self.metric, &value))?;
        }
        Ok(())
    }
}

/// Brings the outermost groups together, in the order in which they come first. Mostly they are: comparing all names to
/// sort them costs more than the writing.
fn together(placed: &mut [Placed<'_>]) {
    let mut tops: Vec<&str> = Vec::new();
    let mut rank_of = |top| {
        tops.iter().position(|known| *known == top).unwrap_or_else(|| {
            tops.push(top);
            tops.len() - 1
        })
    };
    let ranks: Vec<usize> = placed.iter().map(|placed| rank_of(placed.group(0))).collect();
    if !ranks.is_sorted() {
        placed.sort_by_key(|placed| tops.iter().position(|top| *top == placed.group(0)));
    }
}

/// Writes readings: neighbours that share their group at this depth become one object.
fn entries<M: SerializeMap>(map: &mut M, placed: &[Placed<'_>], depth: usize) -> Result<(), M::Error> {
    for group in placed.chunk_by(|a, b| a.group(depth) == b.group(depth)) {
        let Some(first) = group.first() else { continue };
        match first.group(depth) {
            "" => group.iter().try_for_each(|placed| placed.entries(map))?,
            name => map.serialize_entry(name, &Group { placed: group, depth: depth + 1 })?,
        }
    }
    Ok(())
}

/// The readings of one group.
struct Group<'a> {
    placed: &'a [Placed<'a>],
    depth: usize,
}

impl Serialize for Group<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let fields = self.placed.iter().filter(|placed| placed.group(self.depth).is_empty());
        fields.into_iter().try_for_each(|placed| placed.entries(&mut map))?;
        // Below here labels take turns: what belongs together is brought together.
        let mut deeper: Vec<Placed<'_>> =
            self.placed.iter().filter(|placed| !placed.group(self.depth).is_empty()).copied().collect();
        deeper.sort_by_key(|placed| placed.groups);
        entries(&mut map, &deeper, self.depth)?;
        map.end()
    }
}

/// Writes a value under its key; what JSON has no number for is left out.
fn entry<M: SerializeMap>(map: &mut M, key: &str, value: &Value) -> Result<(), M::Error> {
    match value {
        Value::Float(value) if value.is_finite() => map.serialize_entry(key, value),
        Value::Float(_) => Ok(()),
        Value::Count(value) => map.serialize_entry(key, value),
        Value::Flag(value) => map.serialize_entry(key, value),
        Value::Text(value) => map.serialize_entry(key, value),
    }
}

/// What no sensor resolves costs bytes on a metered link: a thousandth of a percent, a millionth of anything else (the
/// kernel's own µV, µA and µW) is enough.
fn rounded(metric: Metric, value: &Value) -> Value {
    let scale = if metric.unit() == "%" { 1e3 } else { 1e6 };
    match value {
        Value::Float(value) => Value::Float((value * scale).round() / scale),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::observation::Severity;
    use crate::engine::record::{EventKind, Status};
    use crate::engine::time::{Anchor, BootId, Mono};

    fn timeline(anchored: bool) -> Timeline {
        let boot = BootId([0xab; 16]);
        let anchors =
            if anchored { BTreeMap::from([(boot, Anchor(Unix(1_795_000_000_000)))]) } else { BTreeMap::new() };
        Timeline::new(boot, anchors, None, Unix(0))
    }

    fn said(timeline: &Timeline, body: Body) -> Json {
        let speaker = Speaker { device: "gw-1", timeline };
        let record = Record { at: timeline.stamp(Mono(1_500)), body };
        serde_json::from_slice(&speaker.record(7, &record)).unwrap()
    }

    fn reading(metric: Metric, label: Option<&str>, value: impl Into<Value>, range: Option<(f64, f64)>) -> Reading {
        Reading { metric: metric.number(), label: label.map(Into::into), value: value.into(), range }
    }

    #[test]
    fn a_sample_becomes_the_contracts_nested_groups() {
        let readings = vec![
            reading(Metric::BatteryVoltage, None, 12.1, Some((11.9, 12.3))),
            reading(Metric::HostDiskFree, Some("/data"), 77_u64, None),
            reading(Metric::AgentDropped, Some("quota"), 3_u64, None),
            reading(Metric::HostLoad1, None, f64::NAN, None),
            Reading { metric: 9_999, label: None, value: Value::Flag(true), range: None },
        ];
        let message = said(&timeline(true), Body::Sample(Sample { interval_ms: 60_000, readings }));
        assert_eq!(
            message,
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
        let readings = ["eth0", "wlan0"].into_iter().flat_map(|name| {
            [Metric::InterfaceUp, Metric::InterfaceRxBytes].map(|metric| reading(metric, Some(name), 1_u64, None))
        });
        let mut readings: Vec<Reading> = readings.chain([reading(Metric::LinkUp, None, true, None)]).collect();
        readings.sort_by_key(|reading| reading.metric);
        let message = said(&timeline(true), Body::Sample(Sample { interval_ms: 1, readings }));
        let one = json!({"up": 1, "rx_bytes": 1});
        assert_eq!(message["samples"][0]["link"], json!({"up": true, "interfaces": {"eth0": one, "wlan0": one}}));

        let deepest = Metric::ALL.iter().map(|metric| metric.path().split('.').count() - 1).max();
        assert_eq!(deepest, Some(GROUPS_MAX));
    }

    #[test]
    fn time_is_null_where_the_clock_was_never_trusted() {
        let message = said(&timeline(false), Body::Event(Event::new(Severity::Info, EventKind::Lifecycle, "started")));
        assert_eq!(message["time"], Json::Null);
        assert_eq!(
            (&message["severity"], &message["type"], &message["name"]),
            (&json!("info"), &json!("lifecycle"), &json!("started"))
        );
    }

    #[test]
    fn an_events_fields_stand_under_their_group_with_their_dates() {
        let timeline = timeline(true);
        let event = Event::new(Severity::Error, EventKind::Error, "unit failed")
            .group("error")
            .with("count", 4_u64)
            .with("first", timeline.stamp(Mono(0)))
            .with_some("signal", None::<&str>);
        let message = said(&timeline, Body::Event(event));
        assert_eq!(message["error"], json!({"count":4,"first":"2026-11-18T11:06:40.000Z"}));
    }

    #[test]
    fn a_result_leaves_out_what_it_does_not_have() {
        let result = CommandResult {
            command_id: Some("c-1".into()),
            command: Some("ping".into()),
            status: Status::Succeeded,
            reason: None,
            detail: None,
            output: None,
            progress_pct: None,
        };
        let message = said(&timeline(true), Body::Result(result));
        let keys: Vec<&String> = message.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["boot", "command", "command_id", "device", "mono_ms", "seq", "status", "time", "v"]);
    }

    #[test]
    fn a_stored_record_is_read_back_as_it_was() {
        let record = Record {
            at: timeline(false).stamp(Mono(5)),
            body: Body::Sample(Sample {
                interval_ms: 1,
                readings: vec![reading(Metric::HostDiskUsed, Some("/"), 12.5, None)],
            }),
        };
        assert_eq!(Record::decode(&record.encode()).unwrap(), record);
        assert!(Record::decode(b"\x07garbage").is_err());
    }
}
