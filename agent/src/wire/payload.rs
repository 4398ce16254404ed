//! The contract's outgoing payloads: records become JSON here, at sending, so that a date that was learned late is in
//! it. What a gateway doesn't have is left out, never zero; `time` alone is null where no date is known. What others
//! have said is told without the control characters that a database refuses (NUL) and a terminal obeys (ESC).

use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::ser::{CompactFormatter, Compound};
use serde_json::{Map, Value as Json};

use super::date::rfc3339;
use super::printable;
use super::readings::to_parts;
use super::telemetry::TelemetryMessage;
use crate::config::AttributeValue;
use crate::engine::metric::Value;
use crate::engine::record::{Body, CommandResult, Event, Field, Record, Stamp};
use crate::engine::timeline::Timeline;
use crate::gather::gather;

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

/// zstd at the level where telemetry is a quarter of its size for the least work. A frame of its own a message.
#[cfg(feature = "zstd")]
#[must_use]
pub fn compress(json: Vec<u8>) -> Vec<u8> {
    const LEVEL: i32 = 1;
    // Fails only without memory for its window, which is no larger than the text; the reader tells the two apart by
    // zstd's magic number.
    zstd::bulk::compress(&json, LEVEL).unwrap_or(json)
}

/// A build without zstd compresses nothing: its configuration can't ask for it, and its snapshots are shorter.
#[cfg(not(feature = "zstd"))]
#[must_use]
pub fn compress(json: Vec<u8>) -> Vec<u8> {
    json
}

impl Speaker<'_> {
    /// One record that makes a message of its own. A sample becomes a telemetry message with one sample.
    #[must_use]
    pub fn record(&self, seq: u64, record: &Record) -> Vec<u8> {
        match &record.body {
            Body::Sample(_) => self.telemetry(seq, &record.encode()),
            Body::Event(event) => self.message(seq, record.at, |message| self.event(event, message)),
            Body::Result(result) => self.message(seq, record.at, |message| command_result(result, message)),
        }
    }

    /// A message of one sample, from its stored form; empty if that can't be read.
    #[must_use]
    pub fn telemetry(&self, seq: u64, stored: &[u8]) -> Vec<u8> {
        let mut message = TelemetryMessage::new(*self);
        // A record that was made here can be read, and the caller read it before.
        let pushed = message.push(seq, stored);
        debug_assert!(matches!(pushed, Ok(true)), "write a sample: {pushed:?}");
        message.finish()
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
        let fixed: BTreeMap<&String, &AttributeValue> = gather(fixed);
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

    /// The envelope with an array that is left open under `key`.
    pub(super) fn message_with(&self, seq: u64, at: Stamp, key: &str) -> Vec<u8> {
        let mut bytes = self.message(seq, at, |message| message.serialize_entry(key, &[(); 0]));
        // The array and the object are closed by whoever fills it.
        bytes.truncate(bytes.len().saturating_sub(2));
        bytes
    }

    /// When that was, in the words of the payloads; `None` where it isn't known.
    pub(super) fn date(&self, at: Stamp) -> Option<String> {
        self.timeline.date(at).and_then(rfc3339)
    }

    fn event(&self, event: &Event, message: &mut MapWriter<'_>) -> Written {
        message.serialize_entry("severity", event.severity.word())?;
        message.serialize_entry("type", event.kind.word())?;
        message.serialize_entry("name", &printable(&event.name))?;
        if event.fields.is_empty() {
            return Ok(());
        }
        message.serialize_entry(&event.group, &Fields(self, &event.fields))
    }
}

/// How the parts of an attachment are written: zstd (RFC 8878) where this build has it, then base64 (RFC 4648, section
/// 4).
const PART_ENCODING: &str = if cfg!(feature = "zstd") { "zstd+base64" } else { "base64" };

type MapWriter<'a> = Compound<'a, &'a mut Vec<u8>, CompactFormatter>;
type Written = serde_json::Result<()>;

fn command_result(result: &CommandResult, message: &mut MapWriter<'_>) -> Written {
    message.serialize_entry("command_id", &result.command_id)?;
    // Also of whoever has no key: a refusal says what was asked for.
    message.serialize_entry("command", &result.command.as_deref().map(printable))?;
    message.serialize_entry("status", result.status.word())?;
    for (key, text) in [("reason", &result.reason), ("detail", &result.detail), ("output", &result.output)] {
        if let Some(text) = text {
            message.serialize_entry(key, &printable(text))?;
        }
    }
    if let Some(percent) = result.progress_pct {
        message.serialize_entry("progress_pct", &percent)?;
    }
    let Some(part) = result.part else { return Ok(()) };
    message.serialize_entry("encoding", PART_ENCODING)?;
    message.serialize_entry("part", &part.number)?;
    message.serialize_entry("parts", &part.of)
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
                Field::Stamp(stamp) => {
                    if let Some(date) = speaker.date(*stamp) {
                        map.serialize_entry(key, &date)?;
                    }
                }
                Field::List(words) => {
                    map.serialize_entry(key, &words.iter().map(|word| printable(word)).collect::<Vec<_>>())?;
                }
                Field::Passed { from, to, or } => {
                    let date = |stamp: &Stamp| speaker.timeline.date(*stamp);
                    let since = |to: &Stamp| u64::try_from(date(to)?.0.saturating_sub(date(from)?.0)).ok();
                    if let Some(ms) = since(to).or_else(|| since(or.as_ref()?)) {
                        map.serialize_entry(key, &(ms / 1_000))?;
                    }
                }
            }
        }
        map.end()
    }
}

/// Writes a value under its key; what JSON has no number for is left out.
fn entry<M: SerializeMap>(map: &mut M, key: &str, value: &Value) -> Result<(), M::Error> {
    match value {
        Value::Float(value) if value.is_finite() => map.serialize_entry(key, &rounded(*value)),
        Value::Float(_) => Ok(()),
        Value::Count(value) => map.serialize_entry(key, value),
        Value::Flag(value) => map.serialize_entry(key, value),
        Value::Text(value) => map.serialize_entry(key, &printable(value)),
    }
}

/// To a millionth, as in a sample; what is less than one, such as a rate per second, to six digits.
fn rounded(value: f64) -> f64 {
    if value.abs() < 1.0 {
        // Minus zero plus zero is zero: nobody is to read `-0.0`.
        return format!("{value:.5e}").parse().unwrap_or(value) + 0.0;
    }
    to_parts(value, 1e6)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::metric::Metric;
    use crate::engine::observation::Severity;
    use crate::engine::record::{EventKind, Reading, Sample, Status};
    use crate::engine::time::{Anchor, BootId, Mono, Unix};

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
    fn an_instant_of_an_event_without_a_date_is_left_out() {
        let timeline = timeline(false);
        let event = Event::new(Severity::Error, EventKind::Alarm, "hot").with("rule", "hot");
        let message = said(&timeline, Body::Event(event.with("since", timeline.stamp(Mono(0)))));
        assert_eq!(message["alarm"], json!({"rule": "hot"}));
    }

    #[test]
    fn an_events_fields_stand_under_their_group_with_their_dates() {
        let timeline = timeline(true);
        let event = Event::new(Severity::Error, EventKind::Error, "unit failed")
            .with("count", 4_u64)
            .with("first", timeline.stamp(Mono(0)))
            .with_some("signal", None::<&str>);
        let message = said(&timeline, Body::Event(event));
        assert_eq!(message["error"], json!({"count":4,"first":"2026-11-18T11:06:40.000Z"}));
    }

    #[test]
    fn an_events_numbers_have_the_digits_that_are_worth_writing() {
        let long = [9.475_999_999_999_999, -0.060_012_002_400_480_07, 0.000_011_574_074_074, 0.0, 1.5e300];
        let short = [9.476, -0.060_012, 0.000_011_574_1, 0.0, 1.5e300];
        for (long, short) in long.into_iter().zip(short) {
            let event = Event::new(Severity::Info, EventKind::Lifecycle, "e").group("g").with("n", long);
            assert_eq!(said(&timeline(true), Body::Event(event))["g"]["n"].to_string(), json!(short).to_string());
        }
    }

    #[test]
    fn a_result_leaves_out_what_it_does_not_have() {
        let result = CommandResult::bare("c-1", "ping", Status::Succeeded);
        let message = said(&timeline(true), Body::Result(result));
        let keys: Vec<&String> = message.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["boot", "command", "command_id", "device", "mono_ms", "seq", "status", "time", "v"]);
    }

    #[test]
    fn a_line_ends_with_one_character_whatever_it_ended_with() {
        for (end, shown) in [("\n", "\n"), ("\r\n", "\n"), ("\r", "\u{fffd}"), ("\r\r\n", "\u{fffd}\n")] {
            let lines = format!("+CSQ: 17,99{end}OK{end}");
            let event = Event::new(Severity::Error, EventKind::Error, "at");
            let message = said(&timeline(true), Body::Event(event.with("exemplar", lines.as_str())));
            assert_eq!(message["error"]["exemplar"], format!("+CSQ: 17,99{shown}OK{shown}"), "{end:?}");
        }
    }

    #[test]
    fn what_a_database_refuses_and_a_terminal_obeys_is_told_by_neither_events_nor_results() {
        let odd = "b\0\u{1b}[31mx\u{9b}\r\t\n\u{e4}";
        let shown = json!("b\u{fffd}\u{fffd}[31mx\u{fffd}\u{fffd}\t\n\u{e4}");
        let event = Event::new(Severity::Error, EventKind::Error, odd).with("exemplar", odd);
        let message = said(&timeline(true), Body::Event(event.with("words", vec![Box::<str>::from(odd)])));
        assert_eq!(message["error"], json!({"exemplar": shown, "words": [shown]}));
        assert_eq!(message["name"], shown);
        let result = CommandResult {
            detail: Some(odd.into()),
            output: Some(odd.into()),
            ..CommandResult::bare("c-1", odd, Status::Failed)
        };
        let message = said(&timeline(true), Body::Result(result));
        assert_eq!(["command", "detail", "output"].map(|key| &message[key]), [&shown; 3]);
    }

    #[test]
    fn a_stored_record_is_read_back_as_it_was() {
        let record = Record {
            at: timeline(false).stamp(Mono(5)),
            body: Body::Sample(Sample {
                interval_ms: 1,
                readings: vec![Reading {
                    metric: Metric::HostDiskUsed,
                    label: Some("/".into()),
                    value: Value::Float(12.5),
                    range: None,
                }],
            }),
        };
        assert_eq!(Record::decode(&record.encode()).unwrap(), record);
        assert!(Record::decode(b"\x07garbage").is_err());
    }
}
