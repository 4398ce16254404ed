//! The contract's outgoing payloads: records become JSON here, at sending, so that a date that was learned late is in
//! it. What a gateway doesn't have is left out, never zero; `time` alone is null where no date is known.

use serde_json::{Map, Value as Json, json};

use crate::config::AttributeValue;
use crate::engine::metric::{Metric, Value};
use crate::engine::record::{Body, CommandResult, Event, Field, Reading, Record, Sample, Stamp};
use crate::engine::time::Unix;
use crate::engine::timeline::Timeline;

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
        let mut message = self.envelope(seq, record.at);
        match &record.body {
            Body::Sample(_) => return self.telemetry(&[(seq, record.clone())]),
            Body::Event(event) => self.event(event, &mut message),
            Body::Result(result) => command_result(result, &mut message),
        }
        bytes(message)
    }

    /// Samples of one boot in one message; its `seq`, `time` and `mono_ms` are those of the first. Records that are no
    /// samples are passed over.
    #[must_use]
    pub fn telemetry(&self, records: &[(u64, Record)]) -> Vec<u8> {
        let Some((first_seq, first)) = records.first() else { return Vec::new() };
        let mut message = self.envelope(*first_seq, first.at);
        let samples: Vec<Json> = records
            .iter()
            .filter_map(|(seq, record)| match &record.body {
                Body::Sample(sample) => Some(self.sample(*seq, record.at, sample)),
                Body::Event(_) | Body::Result(_) => None,
            })
            .collect();
        message.insert("samples".into(), Json::Array(samples));
        bytes(message)
    }

    /// The presence message, or the will.
    #[must_use]
    pub fn presence(&self, seq: u64, at: Stamp, presence: Presence<'_>) -> Vec<u8> {
        let mut message = self.envelope(seq, at);
        message.insert("online".into(), presence.offline.is_none().into());
        if let Some(reason) = presence.offline {
            message.insert("reason".into(), reason.into());
        }
        message.insert("agent".into(), presence.agent.into());
        message.insert("nonce".into(), presence.nonce.into());
        message.insert("quarantine".into(), presence.quarantine.into());
        bytes(message)
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
        let mut message = self.envelope(seq, at);
        let fixed: Map<String, Json> = fixed.map(|(key, value)| (key.clone(), json!(value))).collect();
        message.insert("static".into(), fixed.into());
        message.insert("dynamic".into(), dynamic.into());
        message.insert("groups".into(), json!(groups));
        bytes(message)
    }

    fn envelope(&self, seq: u64, at: Stamp) -> Map<String, Json> {
        let mut message = Map::new();
        message.insert("v".into(), PAYLOAD_VERSION.into());
        message.insert("device".into(), self.device.into());
        message.insert("boot".into(), at.boot.to_string().into());
        message.insert("seq".into(), seq.into());
        message.insert("time".into(), self.date(at));
        message.insert("mono_ms".into(), at.mono.0.into());
        message
    }

    fn date(&self, at: Stamp) -> Json {
        self.timeline.date(at).and_then(rfc3339).map_or(Json::Null, Json::String)
    }

    fn sample(&self, seq: u64, at: Stamp, sample: &Sample) -> Json {
        let mut message = Map::new();
        message.insert("seq".into(), seq.into());
        message.insert("time".into(), self.date(at));
        message.insert("mono_ms".into(), at.mono.0.into());
        #[expect(clippy::cast_precision_loss, reason = "an interval of milliseconds is far below 2^53")]
        message.insert("interval_s".into(), (sample.interval_ms as f64 / 1000.0).into());
        for reading in &sample.readings {
            place(&mut message, reading);
        }
        message.into()
    }

    fn event(&self, event: &Event, message: &mut Map<String, Json>) {
        message.insert("severity".into(), event.severity.word().into());
        message.insert("type".into(), event.kind.word().into());
        message.insert("name".into(), (*event.name).into());
        if event.fields.is_empty() {
            return;
        }
        let fields: Map<String, Json> =
            event.fields.iter().filter_map(|(key, field)| Some((key.to_string(), self.field(field)?))).collect();
        message.insert(event.group.to_string(), fields.into());
    }

    fn field(&self, field: &Field) -> Option<Json> {
        match field {
            Field::Value(value) => plain(value),
            Field::Stamp(stamp) => Some(self.date(*stamp)),
            Field::List(words) => Some(json!(words)),
        }
    }
}

fn command_result(result: &CommandResult, message: &mut Map<String, Json>) {
    message.insert("command_id".into(), json!(result.command_id));
    message.insert("command".into(), json!(result.command));
    message.insert("status".into(), result.status.word().into());
    for (key, text) in [("reason", &result.reason), ("detail", &result.detail), ("output", &result.output)] {
        if let Some(text) = text {
            message.insert(key.into(), (**text).into());
        }
    }
    if let Some(percent) = result.progress_pct {
        message.insert("progress_pct".into(), percent.into());
    }
}

/// Puts a reading where its metric's path says; `host.disk.*.used_pct` and `/data` become `host: {disk: {"/data": …}}`.
fn place(sample: &mut Map<String, Json>, reading: &Reading) {
    let Some(metric) = Metric::from_number(reading.metric) else { return };
    let Some(value) = plain(&rounded(metric, &reading.value)) else { return };
    let mut steps: Vec<&str> = metric.path().split('.').collect();
    let Some(field) = steps.pop() else { return };
    let label = reading.label.as_deref().unwrap_or("*");
    let mut place = sample;
    for step in steps {
        let key = if step == "*" { label } else { step };
        let Some(next) = place.entry(key).or_insert_with(|| Map::new().into()).as_object_mut() else { return };
        place = next;
    }
    let field = if field == "*" { label } else { field };
    if let Some((low, high)) = reading.range {
        for (end, value) in [("min", low), ("max", high)] {
            let value = match reading.value {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a count before")]
                Value::Count(_) => Value::Count(value as u64),
                _ => Value::Float(value),
            };
            if let Some(value) = plain(&rounded(metric, &value)) {
                place.insert(format!("{field}_{end}"), value);
            }
        }
    }
    place.insert(field.into(), value);
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

/// `None` for what JSON has no number for.
fn plain(value: &Value) -> Option<Json> {
    match value {
        Value::Float(value) => serde_json::Number::from_f64(*value).map(Json::Number),
        Value::Count(value) => Some((*value).into()),
        Value::Flag(value) => Some((*value).into()),
        Value::Text(value) => Some((**value).into()),
    }
}

fn bytes(message: Map<String, Json>) -> Vec<u8> {
    Json::Object(message).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
