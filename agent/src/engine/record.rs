//! What is stored: records in classes, each encoded as CBOR with numbered fields, so that an older or newer agent reads
//! what it knows and skips the rest. The readings of a sample are the one thing that is stored as it is sent, as JSON:
//! of samples there are many, and what they say doesn't depend on when it is said. Wall-clock time is not stored but
//! worked out at sending ([`super::time`]).

/// The outbox's logs. Their numbers are stored: a new one goes to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
#[repr(usize)]
pub enum Class {
    /// Status of commands, and audit events.
    #[n(0)]
    Results = 0,
    /// Alarms, errors, lifecycle and remediation.
    #[n(1)]
    Events = 1,
    /// Samples.
    #[n(2)]
    Telemetry = 2,
    /// Samples of which several were made one, because the outage is long.
    #[n(3)]
    Thinned = 3,
    /// Samples of an hour, made of those, because it is longer still.
    #[n(4)]
    Hourly = 4,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 5;
    /// All, what is given up last first.
    pub const ALL: [Self; Self::COUNT] = [Self::Results, Self::Events, Self::Telemetry, Self::Thinned, Self::Hourly];
    /// Those that hold samples, the oldest first: all of one lie before all of the next.
    pub const SAMPLES: [Self; 3] = [Self::Hourly, Self::Thinned, Self::Telemetry];

    /// Whether it holds samples.
    #[must_use]
    pub const fn has_samples(self) -> bool {
        matches!(self, Self::Telemetry | Self::Thinned | Self::Hourly)
    }

    /// What of these is this class's, where there is one for each.
    #[must_use]
    pub const fn of<T>(self, [results, events, telemetry, thinned, hourly]: &[T; Self::COUNT]) -> &T {
        match self {
            Self::Results => results,
            Self::Events => events,
            Self::Telemetry => telemetry,
            Self::Thinned => thinned,
            Self::Hourly => hourly,
        }
    }

    /// The same, to be changed.
    #[must_use]
    pub const fn of_mut<T>(self, [results, events, telemetry, thinned, hourly]: &mut [T; Self::COUNT]) -> &mut T {
        match self {
            Self::Results => results,
            Self::Events => events,
            Self::Telemetry => telemetry,
            Self::Thinned => thinned,
            Self::Hourly => hourly,
        }
    }

    /// The name of its directory in the store, and its word in the agent's own telemetry.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Results => "results",
            Self::Events => "events",
            Self::Telemetry => "telemetry",
            Self::Thinned => "thinned",
            Self::Hourly => "hourly",
        }
    }
}

mod merge;
mod view;

use std::cmp::Ordering;

use bytes::Bytes;
use minicbor::{Decode, Encode};

pub use merge::Merged;
pub use view::SampleView;

use super::metric::{Metric, Value};
use super::observation::Severity;
use super::time::{BootId, Mono};
use crate::text::head;
use crate::wire::readings;
use crate::words::words;

/// An instant that can be dated later: the boot, and the time since it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Stamp {
    /// Which boot.
    #[n(0)]
    pub boot: BootId,
    /// How long after it.
    #[n(1)]
    pub mono: Mono,
}

/// What is stored. Its sequence number stands in the store's frame, not here.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Record {
    /// When it was made.
    #[n(0)]
    pub at: Stamp,
    /// What it says.
    #[n(1)]
    pub body: Body,
}

/// An event that the fleet is told with a change of the keyed state, and its number in the log. It stands in the state
/// before it is in the log: a number that the log never came to says that it was lost, and has to be told again.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Told {
    /// Its number.
    #[n(0)]
    pub seq: u64,
    /// The event, with its time.
    #[n(1)]
    pub record: Record,
    /// How many starts have told it again.
    #[n(2)]
    #[cbor(default)]
    pub again: u8,
}

impl Told {
    /// Whether it came into its log, which ever held numbers up to `last`.
    #[must_use]
    pub const fn arrived(&self, last: u64) -> bool {
        self.seq <= last
    }
}

/// The kinds of record.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Body {
    /// A rolled-up sample: topic `telemetry`.
    #[n(0)]
    Sample(#[n(0)] Sample),
    /// Topic `events`.
    #[n(1)]
    Event(#[n(0)] Event),
    /// Topic `results`.
    #[n(2)]
    Result(#[n(0)] CommandResult),
}

impl Body {
    /// The last word of its topic.
    #[must_use]
    pub const fn leaf(&self) -> &'static str {
        match self {
            Self::Sample(_) => "telemetry",
            Self::Event(_) => "events",
            Self::Result(_) => "results",
        }
    }
}

/// What was measured in one report interval.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Sample {
    /// Length of the interval in milliseconds.
    #[n(0)]
    pub interval_ms: u64,
    /// In the order of the metric table; stored as their text.
    #[cbor(n(1), with = "readings::stored")]
    pub readings: Vec<Reading>,
}

/// One metric's value in a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Which metric.
    pub metric: Metric,
    /// Fills the `*` of its path.
    pub label: Option<Box<str>>,
    /// The last value, the growth or the sum.
    pub value: Value,
    /// Lowest and highest of a gauge, where they differ.
    pub range: Option<(f64, f64)>,
}

impl Reading {
    /// The order in which a sample has them: that of the table, and of the labels.
    pub fn in_order(a: &Self, b: &Self) -> Ordering {
        (a.metric, &a.label).cmp(&(b.metric, &b.label))
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Event {
    /// How bad, as the number of RFC 5424.
    #[n(0)]
    pub severity: Severity,
    /// The contract's `type`.
    #[n(1)]
    pub kind: EventKind,
    /// The contract's `name`.
    #[n(2)]
    pub name: Box<str>,
    /// The key under which the fields stand in the payload, where there are any.
    #[n(3)]
    pub group: Box<str>,
    /// What else is to be said, in the order of saying.
    #[n(4)]
    pub fields: Vec<(Box<str>, Field)>,
}

impl Event {
    /// An event without fields: those that it is given stand under the word of its kind.
    pub fn new(severity: Severity, kind: EventKind, name: &str) -> Self {
        Self { severity, kind, name: name.into(), group: kind.word().into(), fields: Vec::new() }
    }

    /// The contract's `remediation` event, of the remedy with this id and by whom it is wanted.
    pub fn remediation(severity: Severity, name: &str, id: &str, trigger: &str) -> Self {
        Self::new(severity, EventKind::Remediation, name).with("id", id).with("trigger", trigger)
    }

    /// The same, with another key under which its fields stand than the word of its kind.
    #[must_use]
    pub fn group(mut self, key: &str) -> Self {
        self.group = key.into();
        self
    }

    /// The same, with one more field.
    #[must_use]
    pub fn with(mut self, key: &str, field: impl Into<Field>) -> Self {
        self.fields.push((key.into(), field.into()));
        self
    }

    /// The same, with one more field if there is a value for it.
    #[must_use]
    pub fn with_some(self, key: &str, field: Option<impl Into<Field>>) -> Self {
        match field {
            Some(field) => self.with(key, field),
            None => self,
        }
    }

    /// The same, with no text of more than so many bytes: such a one is cut at its end.
    #[must_use]
    pub(super) fn briefly(mut self, bytes_max: usize) -> Self {
        for (_, field) in &mut self.fields {
            match field {
                Field::Value(Value::Text(text)) if text.len() > bytes_max => *text = head(text, bytes_max).into(),
                _ => {}
            }
        }
        self
    }

    /// The field of this key.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&Field> {
        self.fields.iter().find(|(known, _)| &**known == key).map(|(_, field)| field)
    }
}

words! {
    /// The contract's event types.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
    #[cbor(index_only)]
    #[expect(missing_docs, reason = "the contract's words")]
    EventKind {
        #[n(0)]
        Error "error",
        #[n(1)]
        Alarm "alarm",
        #[n(2)]
        Lifecycle "lifecycle",
        #[n(3)]
        Remediation "remediation",
        #[n(4)]
        Audit "audit",
    }
}

/// A field of an event.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Field {
    /// A value.
    #[n(0)]
    Value(#[n(0)] Value),
    /// An instant: becomes a date at sending, and is left out where that boot's clock was never trusted.
    #[n(1)]
    Stamp(#[n(0)] Stamp),
    /// Several words.
    #[n(2)]
    List(#[n(0)] Vec<Box<str>>),
    /// Whole seconds from one instant to another: left out where one of them has no date.
    #[n(3)]
    Passed {
        /// The first.
        #[n(0)]
        from: Stamp,
        /// The second.
        #[n(1)]
        to: Stamp,
        /// What counts as the second where that lies before the first; without it there is no time then.
        #[n(2)]
        or: Option<Stamp>,
    },
}

impl From<Stamp> for Field {
    fn from(stamp: Stamp) -> Self {
        Self::Stamp(stamp)
    }
}
impl From<Vec<Box<str>>> for Field {
    fn from(words: Vec<Box<str>>) -> Self {
        Self::List(words)
    }
}
impl<T: Into<Value>> From<T> for Field {
    fn from(value: T) -> Self {
        Self::Value(value.into())
    }
}

/// The status of a command: the contract's `results`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CommandResult {
    /// `None` where the message was no command with a readable id.
    #[n(0)]
    pub command_id: Option<Box<str>>,
    /// Its name, where it could be read.
    #[n(1)]
    pub command: Option<Box<str>>,
    /// In the words of AWS IoT Jobs.
    #[n(2)]
    pub status: Status,
    /// A fixed word.
    #[n(3)]
    pub reason: Option<Box<str>>,
    /// For a human.
    #[n(4)]
    pub detail: Option<Box<str>>,
    /// The tail of what it printed.
    #[n(5)]
    pub output: Option<Box<str>>,
    /// 0 to 100.
    #[n(6)]
    pub progress_pct: Option<u8>,
    /// The output is one part of something longer.
    #[n(7)]
    pub part: Option<Part>,
}

/// What the line that says how much was left out may take.
const LEFT_OUT_BYTES: usize = 80;

impl CommandResult {
    /// One that says no more than that.
    #[cfg(test)]
    pub(crate) fn bare(id: &str, command: &str, status: Status) -> Self {
        Self {
            command_id: Some(id.into()),
            command: Some(command.into()),
            status,
            reason: None,
            detail: None,
            output: None,
            progress_pct: None,
            part: None,
        }
    }

    /// Takes at least so many bytes of JSON off what it says beside its status, as long as there are any: of the output
    /// from its beginning, because what a program says last is what matters; of the detail from its end.
    pub(super) fn shorten(&mut self, surplus: usize) {
        let Some(output) = self.output.take() else {
            self.detail = self.detail.take().map(|detail| head(&detail, detail.len().saturating_sub(surplus)).into());
            return;
        };
        let mut freed = 0;
        let kept = output.char_indices().find(|(at, character)| {
            let is_enough = freed >= surplus + LEFT_OUT_BYTES;
            // Of such a line end the first half isn't told, so nothing is freed with it.
            let is_told = output.get(*at..).is_none_or(|rest| !rest.starts_with("\r\n"));
            freed += if is_told { json_len(*character) } else { 0 };
            is_enough
        });
        match kept.and_then(|(at, _)| Some((at, output.get(at..)?))) {
            Some((at, rest)) => {
                self.output = Some(format!("… {at} B before this are more than the broker takes\n{rest}").into());
            }
            None if self.detail.is_none() => self.detail = Some("its output is more than the broker takes".into()),
            None => {}
        }
    }
}

/// How many bytes JSON takes for a character in a string (RFC 8259, section 7), written as serde_json does. Of a
/// control character it holds U+FFFD.
const fn json_len(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\t' => 2,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' => '\u{fffd}'.len_utf8(),
        other => other.len_utf8(),
    }
}

/// Which part of something longer: the base64 texts of all of them, one after the other, are what was compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Part {
    /// From 1.
    #[n(0)]
    pub number: u32,
    /// How many there are.
    #[n(1)]
    pub of: u32,
}

words! {
    /// A command's status, in the words of AWS IoT Jobs and INTERRUPTED.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
    #[cbor(index_only)]
    #[expect(missing_docs, reason = "the contract's words")]
    Status {
        #[n(0)]
        Queued "QUEUED",
        #[n(1)]
        InProgress "IN_PROGRESS",
        #[n(2)]
        Succeeded "SUCCEEDED",
        #[n(3)]
        Failed "FAILED",
        #[n(4)]
        Rejected "REJECTED",
        #[n(5)]
        TimedOut "TIMED_OUT",
        #[n(6)]
        Canceled "CANCELED",
        #[n(7)]
        Interrupted "INTERRUPTED",
    }
}

impl Status {
    /// Whether nothing more will come for this command.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::InProgress)
    }

    /// Whether an act of which it is told goes on or went as it was to go.
    #[must_use]
    pub const fn is_well(self) -> bool {
        matches!(self, Self::InProgress | Self::Succeeded)
    }

    /// The severity of the event that tells a remedy's status.
    #[must_use]
    pub const fn severity(self) -> Severity {
        if self.is_well() { Severity::Notice } else { Severity::Warning }
    }
}

/// Room for an ordinary sample.
const ENCODED_BYTES: usize = 1_024;
/// The first byte of every encoded record: the form that the rest has.
const RECORD_FORMAT: u8 = 2;

impl Record {
    /// The log it belongs to.
    #[must_use]
    pub const fn class(&self) -> Class {
        match &self.body {
            Body::Sample(_) => Class::Telemetry,
            Body::Event(event) if matches!(event.kind, EventKind::Audit) => Class::Results,
            Body::Event(_) => Class::Events,
            Body::Result(_) => Class::Results,
        }
    }

    /// Its stored form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(ENCODED_BYTES);
        bytes.push(RECORD_FORMAT);
        // Writing into a Vec has no failure; an empty record would be counted as unreadable, not lost in silence.
        if minicbor::encode(self, &mut bytes).is_err() {
            bytes.clear();
        }
        bytes.into()
    }

    /// What [`Body::leaf`] says of a stored record, without reading more of it; `None`: it can't be read.
    #[must_use]
    pub fn leaf_of(stored: &[u8]) -> Option<&'static str> {
        let mut fields = minicbor::Decoder::new(body_of(stored).ok()?);
        fields.array().ok()?;
        fields.skip().ok()?;
        fields.array().ok()?;
        match fields.u32().ok()? {
            0 => Some("telemetry"),
            1 => Some("events"),
            2 => Some("results"),
            _ => None,
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// If it was written in a form that this version doesn't know, or isn't a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        Ok(minicbor::decode(body_of(bytes)?)?)
    }
}

/// What follows the form in an encoded record, if the form is known here.
fn body_of(stored: &[u8]) -> Result<&[u8], RecordError> {
    match stored.split_first() {
        Some((&RECORD_FORMAT, body)) => Ok(body),
        first => Err(RecordError::Format { found: first.map(|(format, _)| *format), known: RECORD_FORMAT }),
    }
}

/// Why stored bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Written by another version.
    #[error("read a record: its format is {found:?}, this version reads {known}")]
    Format {
        /// The first byte.
        found: Option<u8>,
        /// What is read here.
        known: u8,
    },
    /// Not CBOR of the shape expected.
    #[error("read a record of format {RECORD_FORMAT}")]
    Shape(#[from] minicbor::decode::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::time::{BootId, Mono};

    #[test]
    fn the_topic_of_a_stored_record_is_that_of_its_body() {
        let bodies = [
            Body::Sample(Sample { interval_ms: 60_000, readings: Vec::new() }),
            Body::Event(Event::new(Severity::Info, EventKind::Audit, "e")),
            Body::Result(CommandResult::bare("c-1", "ping", Status::Succeeded)),
        ];
        for body in bodies {
            let record = Record { at: Stamp { boot: BootId([3; 16]), mono: Mono(70) }, body };
            assert_eq!(Record::leaf_of(&record.encode()), Some(record.body.leaf()));
        }
        assert_eq!(Record::leaf_of(b"nonsense"), None);
    }
}
