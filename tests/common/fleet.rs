//! The fleet's side: a stock `mosquitto_sub` with a session of its own, whose messages are kept in the order in which
//! they came. It loses nothing while the broker is away, unless that is one that itself would.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use super::PREFIX;
use super::broker::Broker;
use super::process::{Process, Stream, output_of, tool};

/// zstd's magic number (RFC 8878, section 3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// How often it is tried whether the fleet hears, and for how long each time.
const MARKERS_MAX: usize = 60;
const MARKER_BOUND: Duration = Duration::from_secs(1);

/// One message as the fleet got it.
#[derive(Clone)]
pub struct Message {
    pub topic: String,
    pub retained: bool,
    pub compressed: bool,
    /// The payload; null if it is no JSON.
    pub body: Json,
}

impl Message {
    fn parse(line: &str) -> Self {
        let mut fields = line.splitn(3, ' ');
        let [retained, topic, hex] = [(); 3].map(|()| fields.next().unwrap_or_default());
        let bytes: Vec<u8> = hex
            .as_bytes()
            .chunks(2)
            .filter_map(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok())
            .collect();
        let compressed = bytes.starts_with(&ZSTD);
        let json = if compressed { zstd::decode_all(bytes.as_slice()).unwrap_or_default() } else { bytes };
        let body = serde_json::from_slice(&json).unwrap_or_default();
        Self { topic: topic.to_owned(), retained: retained == "1", compressed, body }
    }

    /// The last level of its topic.
    pub fn leaf(&self) -> &str {
        self.topic.rsplit('/').next().unwrap_or_default()
    }

    /// The stored records in it, if it is of a kind that is stored; a sample is a record of its own.
    pub fn records(&self) -> &[Json] {
        match self.leaf() {
            "telemetry" => self.samples(),
            "events" | "results" => std::slice::from_ref(&self.body),
            _ => &[],
        }
    }

    /// The samples of a telemetry message.
    pub fn samples(&self) -> &[Json] {
        self.body["samples"].as_array().map_or(&[], Vec::as_slice)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} {}", self.topic, if self.retained { " (retained)" } else { "" }, self.body)
    }
}

pub struct Fleet {
    _subscriber: Process,
    messages: Stream<Message>,
}

impl Fleet {
    /// Begins to watch; returns when the broker has taken the subscription.
    pub fn watch(broker: &Broker) -> Self {
        Self::watch_as(broker, "fleet")
    }

    /// A second watcher needs an id of its own.
    pub fn watch_as(broker: &Broker, id: &str) -> Self {
        let port = broker.fleet_port().to_string();
        let whom = ["-h", "127.0.0.1", "-p", &port, "-i", id];
        if !broker.loses_over_its_end() {
            return Self::subscribe(&whom);
        }
        let fleet = Self::read(tool("mosquitto_sub").args(whom).args(["-t", &format!("{PREFIX}/#")]));
        fleet.hears(broker);
        fleet
    }

    /// Waits until it hears what is published, and all that was published before.
    pub fn hears(&self, broker: &Broker) {
        let topic = format!("{PREFIX}/nobody/marker");
        let heard = (0..MARKERS_MAX).any(|_| {
            let mark = self.mark();
            broker.publish(&topic, b"{}");
            let came = |messages: &[Message]| messages.iter().any(|message| message.topic == topic).then_some(());
            self.messages.wait_within(MARKER_BOUND, mark, came).is_some()
        });
        assert!(heard, "the fleet heard none of {MARKERS_MAX} messages of its own");
    }

    /// The same where `mosquitto_sub` is told so: which broker, and as whom.
    pub fn subscribe(whom: &[&str]) -> Self {
        let topics = format!("{PREFIX}/#");
        let session = ["-c", "-q", "1", "-t", &topics];
        // Ends when the broker has acknowledged the subscription: from here on the session collects.
        output_of(tool("mosquitto_sub").args(whom).args(session).arg("-E"));
        Self::read(tool("mosquitto_sub").args(whom).args(session))
    }

    fn read(command: &mut Command) -> Self {
        let mut subscriber = Process::start("mosquitto_sub", command.args(["-F", "%r %t %x"]).stdout(Stdio::piped()));
        let messages = Stream::read("the fleet", subscriber.stdout(), Message::parse);
        Self { _subscriber: subscriber, messages }
    }

    /// A mark from which [`Fleet::wait_since`] looks.
    pub fn mark(&self) -> usize {
        self.messages.mark()
    }

    pub fn so_far(&self) -> Vec<Message> {
        self.messages.so_far()
    }

    /// The first message that fits, also among those that came already.
    pub fn wait_for(&self, what: &str, fits: impl Fn(&Message) -> bool) -> Message {
        self.wait_since(0, what, fits)
    }

    pub fn wait_since(&self, mark: usize, what: &str, fits: impl Fn(&Message) -> bool) -> Message {
        self.messages.wait_since(mark, what, |messages| messages.iter().find(|message| fits(message)).cloned())
    }

    /// Waits for a condition on everything that has come.
    pub fn wait_all<R>(&self, bound: Duration, what: &str, find: impl FnMut(&[Message]) -> Option<R>) -> R {
        self.messages.wait_long(bound, what, find)
    }

    /// Waits until every one of these records has come; how often each did that has come by then.
    pub fn wait_for_records(&self, bound: Duration, stored: &BTreeSet<u64>) -> BTreeMap<u64, usize> {
        let mut missing = stored.clone();
        let mut looked_at = 0;
        let came = self.messages.wait_within(bound, 0, |messages| {
            for message in &messages[looked_at..] {
                for seq in message.records().iter().filter_map(|record| record["seq"].as_u64()) {
                    missing.remove(&seq);
                }
            }
            looked_at = messages.len();
            missing.is_empty().then(|| records(messages))
        });
        came.unwrap_or_else(|| {
            let (lost, all) = (missing.len(), stored.len());
            panic!("{lost} of {all} stored records have not come within {bound:?}: {:?}", ranges(&missing))
        })
    }

    /// The first telemetry sample that fits, since the mark.
    pub fn sample_since(&self, mark: usize, device: &str, what: &str, fits: impl Fn(&Json) -> bool) -> Json {
        let topic = format!("{PREFIX}/{device}/telemetry");
        self.messages.wait_since(mark, what, |messages| {
            let samples = messages.iter().filter(|message| message.topic == topic).flat_map(Message::samples);
            samples.into_iter().find(|sample| fits(sample)).cloned()
        })
    }

    /// The first result of a command with this status.
    pub fn result(&self, command_id: &str, status: &str) -> Json {
        self.results(command_id, status, 1).remove(0)
    }

    /// The first so many results of a command with this status.
    pub fn results(&self, command_id: &str, status: &str, count: usize) -> Vec<Json> {
        let what = format!("{count} x {status} of command {command_id}");
        self.messages.wait_since(0, &what, |messages| {
            let results = messages.iter().filter(|message| message.leaf() == "results").map(|message| &message.body);
            let fits = |result: &&Json| result["command_id"] == command_id && result["status"] == status;
            let found: Vec<Json> = results.filter(fits).take(count).cloned().collect();
            (found.len() == count).then_some(found)
        })
    }

    /// The text of the snapshot that a command brought home, from all of its parts.
    pub fn snapshot(&self, command_id: &str) -> String {
        let mut parts: Vec<Json> = self.so_far().into_iter().map(|message| message.body).collect();
        parts.retain(|body| body["command_id"] == command_id && body["part"].is_number());
        parts.sort_by_key(|part| part["part"].as_u64());
        parts.dedup_by_key(|part| part["part"].as_u64());
        assert!(parts.iter().all(|part| part["encoding"] == "zstd+base64" && part["status"] == "IN_PROGRESS"));
        let numbers: Vec<u64> = parts.iter().filter_map(|part| part["part"].as_u64()).collect();
        assert_eq!(numbers, (1..=parts[0]["parts"].as_u64().unwrap()).collect::<Vec<_>>(), "all parts came");
        let text: String = parts.iter().filter_map(|part| part["output"].as_str()).collect();
        let compressed = STANDARD.decode(text).unwrap();
        String::from_utf8(zstd::decode_all(compressed.as_slice()).unwrap()).unwrap()
    }

    /// The next presence message of a device since the mark that says what is wanted.
    pub fn presence(&self, mark: usize, device: &str, online: bool) -> Message {
        let topic = format!("{PREFIX}/{device}/presence");
        let what = format!("{device} to be {}", if online { "online" } else { "offline" });
        self.wait_since(mark, &what, |message| message.topic == topic && message.body["online"] == online)
    }
}

/// Every record of a device that came, by seq, with how often; a sample is a record of its own. Panics if one seq stood
/// for two different records.
pub fn records(messages: &[Message]) -> BTreeMap<u64, usize> {
    let mut seen: BTreeMap<u64, (String, Json, usize)> = BTreeMap::new();
    for message in messages {
        for record in message.records() {
            let Some(seq) = record["seq"].as_u64() else { panic!("no seq in {message:?}") };
            let at = &record["mono_ms"];
            let entry = seen.entry(seq).or_insert_with(|| (message.topic.clone(), at.clone(), 0));
            assert_eq!((&entry.0, &entry.1), (&message.topic, at), "seq {seq} stands for two records: {message:?}");
            entry.2 += 1;
        }
    }
    seen.into_iter().map(|(seq, (_, _, count))| (seq, count)).collect()
}

/// Numbers without a gap between them, as ranges.
fn ranges(seqs: &BTreeSet<u64>) -> Vec<RangeInclusive<u64>> {
    let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
    for &seq in seqs {
        match ranges.last_mut() {
            Some(range) if *range.end() + 1 == seq => *range = *range.start()..=seq,
            _ => ranges.push(seq..=seq),
        }
    }
    ranges
}
