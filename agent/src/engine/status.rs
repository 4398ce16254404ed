//! What `fieldmedic status` shows: the state of the running engine in one JSON object.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::Engine;
use super::io::StoreStats;
use super::pace::Held;
use super::recent::{Cluster, Done, Recent};
use super::record::Class;
use super::rules::Alarm;
use super::session::Drain;
use super::time::Now;
use crate::gather::gather;
use crate::text::head;
use crate::wire::date::rfc3339;
use crate::wire::payload::Speaker;

/// Of what a tool has said, in bytes.
const DETAIL_MAX: usize = 512;

/// The state of a running agent.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Device id.
    pub device: String,
    /// Version of the agent.
    pub agent: String,
    /// Boot id.
    pub boot: String,
    /// The contract's level of quarantine.
    pub quarantine: &'static str,
    /// It is in force in part.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub quarantine_degraded: bool,
    /// What of it is, and why not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine_detail: Option<String>,
    /// Keys of the configuration that was loaded last, and which only a restart takes over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs_restart: Vec<Box<str>>,
    /// Why no ladder acts: the text of the inhibit file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inhibited: Option<String>,
    /// The connection.
    pub broker: Broker,
    /// What waits to be sent.
    pub outbox: OutboxStatus,
    /// Commands that are queued or under way.
    pub commands_open: usize,
    /// Intervals that a command has set, for as long as they hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub intervals: Vec<IntervalStatus>,
    /// Alarms that stand, by name.
    pub alarms: Vec<AlarmStatus>,
    /// Remedies and commands of late, the newest first; those of this run of the agent.
    pub remedies: Vec<RemedyStatus>,
    /// Errors of the last two hours by cluster, the most frequent first; those of this run of the agent.
    pub error_clusters: Vec<ClusterStatus>,
    /// The last sample, as the fleet gets it.
    pub sample: Json,
}

/// An interval that holds instead of the configuration's.
#[derive(Debug, Serialize)]
pub struct IntervalStatus {
    /// `sample`, `report` or `publish`.
    pub name: &'static str,
    /// How long it is, in seconds.
    pub every_s: f64,
    /// For how long it still holds, in seconds.
    pub holds_s: u64,
}

/// A remedy, or a command.
#[derive(Debug, Serialize)]
pub struct RemedyStatus {
    /// When it was last heard of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// `rule:NAME` or `command:ID`.
    pub trigger: String,
    /// What was done.
    pub action: String,
    /// To what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// In the words of AWS IoT Jobs.
    pub status: String,
    /// Why, where it didn't succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A cluster of errors.
#[derive(Debug, Serialize)]
pub struct ClusterStatus {
    /// The same as in its events.
    pub fingerprint: String,
    /// The worst of its lines.
    pub severity: &'static str,
    /// What its lines have in common.
    pub template: String,
    /// The unit that they come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// When the last was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// Lines in all of `counts`.
    pub count: u64,
    /// Lines over time, the oldest first.
    pub counts: Vec<u64>,
    /// How long each of `counts` is, in seconds.
    pub count_s: u64,
}

/// An alarm that stands.
#[derive(Debug, Serialize)]
pub struct AlarmStatus {
    /// The rule's name.
    pub rule: String,
    /// The rule's severity.
    pub severity: &'static str,
    /// What it watches.
    pub metric: String,
    /// When its test began to hold; none where the clock was never trusted in that boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// The connection to the broker.
#[derive(Debug, Serialize)]
pub struct Broker {
    /// Where it goes.
    pub url: String,
    /// The broker has accepted us.
    pub online: bool,
    /// For how long, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub online_s: Option<u64>,
    /// When the next try is due, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in_s: Option<u64>,
    /// Why there is no connection, or what the broker refuses over one that stands: command topics, or what we publish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// How long a message of samples is at most, in bytes, where the broker refused a longer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_bytes_max: Option<usize>,
}

/// What waits to be sent.
#[derive(Debug, Serialize)]
pub struct OutboxStatus {
    /// Records per class.
    pub records: Map<String, Json>,
    /// Bytes on disk.
    pub bytes: u64,
    /// Limit of the store in bytes.
    pub max_bytes: u64,
    /// Bytes free on the file system; none before the store was open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Bytes that are to stay free there.
    pub min_free_bytes: u64,
    /// Publishes under way.
    pub inflight: usize,
    /// How the backlog of an outage goes, until it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainStatus>,
    /// Records that were given up since the store was made, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, u64>,
    /// Records that only memory holds: the store takes none, or the broker may have them before it is time to store
    /// them.
    #[serde(skip_serializing_if = "is_zero")]
    pub volatile_records: usize,
    /// Why the store doesn't work, if it doesn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// A backlog that is being sent.
#[derive(Debug, Serialize)]
pub struct DrainStatus {
    /// Samples that waited when the connection came up.
    pub of_records: u64,
    /// Of these, how many are not yet acknowledged.
    pub remaining_records: u64,
    /// How long it has been going on, in seconds.
    pub elapsed_s: u64,
    /// How long it will take at this rate, in seconds; none before there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
}

impl DrainStatus {
    pub(super) fn new(drain: Drain, remaining: u64, now: Now) -> Self {
        let elapsed = now.mono.since(drain.since);
        let done = drain.of.saturating_sub(remaining);
        let left_ms =
            u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).saturating_mul(remaining).checked_div(done);
        Self {
            of_records: drain.of,
            remaining_records: remaining.min(drain.of),
            elapsed_s: elapsed.as_secs(),
            left_s: left_ms.map(|ms| ms.div_ceil(1000)),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Engine {
    /// The present state.
    #[must_use]
    pub fn status(&self, now: Now) -> Status {
        let stats = self.outbox.store_stats();
        let records =
            gather(Class::ALL.iter().zip(stats.records).map(|(class, n)| (class.word().to_owned(), Json::from(n))));
        let seconds = |since| now.mono.since(since).as_secs();
        Status {
            device: self.config.device.id.to_string(),
            agent: self.identity.version.clone(),
            boot: self.timeline.boot().to_string(),
            quarantine: self.quarantine.word(),
            quarantine_degraded: self.quarantine.is_degraded(),
            quarantine_detail: self.quarantine.degraded_detail().map(|detail| head(detail, DETAIL_MAX).to_owned()),
            needs_restart: self.needs_restart.clone(),
            inhibited: self.inhibited.clone(),
            broker: Broker {
                url: self.config.mqtt.url.to_string(),
                online: self.link.is_online(),
                online_s: self.link.online_since().map(seconds),
                retry_in_s: self.link.retry_at().map(|at| at.since(now.mono).as_secs()),
                fault: self.session.fault(),
                message_bytes_max: self.session.message_bytes_max(),
            },
            outbox: OutboxStatus {
                records,
                bytes: stats.outbox_bytes,
                max_bytes: self.config.store.max_bytes,
                free_bytes: (*stats != StoreStats::default()).then_some(stats.free_bytes),
                min_free_bytes: self.config.store.min_free_bytes,
                inflight: self.link.inflight(),
                drain: self
                    .session
                    .flow
                    .drain()
                    .map(|drain| DrainStatus::new(drain, self.session.flow.drain_remaining(&self.outbox), now)),
                dropped: self.outbox.dropped().clone(),
                volatile_records: self.outbox.in_memory_only(),
                fault: self.outbox.fault().map(ToString::to_string),
            },
            commands_open: self.commands.open(),
            intervals: self.intervals_status(now),
            alarms: self.alarms_status(),
            remedies: self.recent.done().map(|done| self.remedy_status(done)).collect(),
            error_clusters: self
                .recent
                .clusters(now.mono)
                .into_iter()
                .map(|(cluster, counts)| self.cluster_status(cluster, counts))
                .collect(),
            sample: self.sample_json(),
        }
    }

    fn intervals_status(&self, now: Now) -> Vec<IntervalStatus> {
        let named = ["sample", "report", "publish"].into_iter().zip(self.pace.held());
        let status = |(name, held): (&'static str, Option<Held>)| {
            let (interval, until) = held?;
            Some(IntervalStatus { name, every_s: interval.as_secs_f64(), holds_s: until.since(now.mono).as_secs() })
        };
        named.filter_map(status).collect()
    }

    fn remedy_status(&self, done: &Done) -> RemedyStatus {
        RemedyStatus {
            time: self.timeline.date(done.at).and_then(rfc3339),
            trigger: done.trigger.clone(),
            action: done.action.clone(),
            target: done.target.clone(),
            status: done.status.clone(),
            reason: done.reason.clone(),
        }
    }

    fn cluster_status(&self, cluster: &Cluster, counts: Vec<u64>) -> ClusterStatus {
        ClusterStatus {
            fingerprint: cluster.fingerprint.clone(),
            severity: cluster.severity.word(),
            template: cluster.template.clone(),
            unit: cluster.unit.clone(),
            last: self.timeline.date(cluster.last).and_then(rfc3339),
            count: counts.iter().sum(),
            counts,
            count_s: Recent::slot_s(),
        }
    }

    fn alarms_status(&self) -> Vec<AlarmStatus> {
        let status = |alarm: Alarm<'_>| AlarmStatus {
            rule: alarm.rule.to_owned(),
            severity: alarm.severity.word(),
            metric: alarm.metric.to_owned(),
            since: self.timeline.date(alarm.since).and_then(rfc3339),
        };
        self.rules.raised().map(status).collect()
    }

    fn sample_json(&self) -> Json {
        let Some((seq, sample)) = &self.last_sample else { return Json::Null };
        let speaker = Speaker { device: self.config.device.id.as_str(), timeline: &self.timeline };
        let message: Json = serde_json::from_slice(&speaker.record(*seq, sample)).unwrap_or_default();
        message.pointer("/samples/0").cloned().unwrap_or_default()
    }
}
