//! What was done and what went wrong of late, for whoever stands at the console. It is fed with all that is recorded,
//! so it says what the fleet is told; only in memory, so a restart begins anew. Bounded: [`DONE_MAX`],
//! [`CLUSTERS_MAX`].

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Duration;

use super::metric::Value;
use super::observation::Severity;
use super::record::{Body, CommandResult, Event, EventKind, Field, Stamp};
use super::time::Mono;

/// Remedies and commands that are remembered.
const DONE_MAX: usize = 8;
/// Clusters of errors that are remembered.
const CLUSTERS_MAX: usize = 16;
/// Of each, so many counts,
const SLOTS: usize = 24;
/// each over so long: two hours in all.
const SLOT: Duration = Duration::from_secs(300);

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Recent {
    done: VecDeque<Done>,
    clusters: Vec<Cluster>,
}

/// A remedy, or a command.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Done {
    /// When it was last heard of.
    pub(super) at: Stamp,
    /// `rule:NAME` or `command:ID`.
    pub(super) trigger: String,
    pub(super) action: String,
    pub(super) target: Option<String>,
    pub(super) status: String,
    pub(super) reason: Option<String>,
    id: String,
}

/// A cluster of errors.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub(super) fingerprint: String,
    /// The worst of what was told of it.
    pub(super) severity: Severity,
    pub(super) template: String,
    pub(super) unit: Option<String>,
    pub(super) last: Stamp,
    counts: VecDeque<u64>,
    /// The slot of the newest count, since the boot.
    newest: u64,
}

impl Recent {
    /// Something is recorded.
    pub(super) fn note(&mut self, at: Stamp, body: &Body) {
        match body {
            Body::Event(event) if event.kind == EventKind::Remediation => self.remedy(at, event),
            Body::Event(event) if event.kind == EventKind::Error => self.error(at, event),
            Body::Result(result) => self.command(at, result),
            Body::Event(_) | Body::Sample(_) => {}
        }
    }

    /// The newest first.
    pub(super) fn done(&self) -> impl Iterator<Item = &Done> {
        self.done.iter()
    }

    /// Those with lines in the last [`SLOTS`], the most frequent first, with their counts: the oldest first.
    pub(super) fn clusters(&self, now: Mono) -> Vec<(&Cluster, Vec<u64>)> {
        let mut clusters: Vec<(&Cluster, Vec<u64>)> =
            self.clusters.iter().map(|cluster| (cluster, cluster.counts_until(slot(now)))).collect();
        clusters.retain(|(_, counts)| counts.iter().any(|count| *count > 0));
        let times = |counts: &[u64]| Reverse(counts.iter().sum::<u64>());
        clusters.sort_unstable_by(|(a, a_counts), (b, b_counts)| {
            (times(a_counts), &a.fingerprint).cmp(&(times(b_counts), &b.fingerprint))
        });
        clusters
    }

    /// How long a count is, in seconds.
    pub(super) const fn slot_s() -> u64 {
        SLOT.as_secs()
    }

    fn remedy(&mut self, at: Stamp, event: &Event) {
        let get = |key| text(event, key).map(str::to_owned);
        // A ladder that is done or exhausted is told of by its last step.
        let (Some(action), Some(status)) = (get("action"), get("status")) else { return };
        let (id, trigger) = (get("id").unwrap_or_default(), get("trigger").unwrap_or_default());
        self.push(Done { at, trigger, action, target: get("target"), status, reason: get("reason"), id });
    }

    fn command(&mut self, at: Stamp, result: &CommandResult) {
        let (Some(id), Some(command)) = (&result.command_id, &result.command) else { return };
        self.push(Done {
            at,
            trigger: format!("command:{id}"),
            action: command.to_string(),
            target: None,
            status: result.status.word().to_owned(),
            reason: result.reason.as_deref().map(str::to_owned),
            id: id.to_string(),
        });
    }

    /// What goes on is one entry, with its last status.
    fn push(&mut self, done: Done) {
        self.done.retain(|known| (&known.id, &known.action) != (&done.id, &done.action));
        self.done.push_front(done);
        self.done.truncate(DONE_MAX);
    }

    fn error(&mut self, at: Stamp, event: &Event) {
        let (Some(fingerprint), Some(template)) = (text(event, "fingerprint"), text(event, "template")) else { return };
        let count = match event.field("count") {
            Some(Field::Value(Value::Count(count))) => *count,
            _ => 1,
        };
        let known = self.clusters.iter().position(|cluster| cluster.fingerprint == fingerprint);
        let mut cluster = known.map(|at| self.clusters.remove(at)).unwrap_or_else(|| Cluster {
            fingerprint: fingerprint.to_owned(),
            severity: event.severity,
            template: String::new(),
            unit: text(event, "unit").map(str::to_owned),
            last: at,
            counts: VecDeque::new(),
            newest: slot(at.mono),
        });
        template.clone_into(&mut cluster.template);
        cluster.severity = cluster.severity.min(event.severity);
        cluster.last = at;
        cluster.add(slot(at.mono), count);
        // The one that was silent for longest makes place.
        if self.clusters.len() >= CLUSTERS_MAX {
            self.clusters.remove(0);
        }
        self.clusters.push(cluster);
    }
}

impl Cluster {
    fn add(&mut self, slot: u64, count: u64) {
        self.counts = self.counts_until(slot).into();
        self.newest = slot;
        if let Some(newest) = self.counts.back_mut() {
            *newest = newest.saturating_add(count);
        }
    }

    fn counts_until(&self, slot: u64) -> Vec<u64> {
        let empty = usize::try_from(slot.saturating_sub(self.newest)).unwrap_or(SLOTS).min(SLOTS);
        let counts: Vec<u64> = self.counts.iter().copied().chain(std::iter::repeat_n(0, empty)).collect();
        let missing = SLOTS.saturating_sub(counts.len());
        let older = counts.len().saturating_sub(SLOTS);
        std::iter::repeat_n(0, missing).chain(counts.into_iter().skip(older)).collect()
    }
}

fn slot(mono: Mono) -> u64 {
    mono.0 / u64::try_from(SLOT.as_millis()).unwrap_or(u64::MAX)
}

fn text<'a>(event: &'a Event, key: &str) -> Option<&'a str> {
    match event.field(key) {
        Some(Field::Value(Value::Text(text))) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::observation::Severity;
    use crate::engine::record::Status;
    use crate::engine::time::BootId;

    const SLOT_MS: u64 = 300_000;

    fn at(mono: u64) -> Stamp {
        Stamp { boot: BootId([1; 16]), mono: Mono(mono) }
    }

    fn error(fingerprint: &str, count: u64) -> Body {
        let event = Event::new(Severity::Error, EventKind::Error, "it broke");
        Body::Event(event.with("fingerprint", fingerprint).with("template", "it broke").with("count", count))
    }

    fn remedy(id: &str, status: &str) -> Body {
        let event = Event::new(Severity::Notice, EventKind::Remediation, "reboot");
        Body::Event(event.with("id", id).with("trigger", "rule:low").with("action", "reboot").with("status", status))
    }

    fn counts(recent: &Recent, now: u64) -> Vec<Vec<u64>> {
        recent.clusters(Mono(now)).into_iter().map(|(_, counts)| counts).collect()
    }

    #[test]
    fn errors_are_counted_over_time_and_forgotten_after_two_hours() {
        let mut recent = Recent::default();
        recent.note(at(0), &error("a", 1));
        recent.note(at(10), &error("a", 4));
        recent.note(at(2 * SLOT_MS), &error("a", 7));
        let mut expected = vec![0; SLOTS];
        expected[SLOTS - 4] = 5;
        expected[SLOTS - 2] = 7;
        assert_eq!(counts(&recent, 3 * SLOT_MS), [expected]);
        assert_eq!(counts(&recent, 40 * SLOT_MS), Vec::<Vec<u64>>::new());
        recent.note(at(40 * SLOT_MS), &error("a", 2));
        assert_eq!(counts(&recent, 40 * SLOT_MS)[0].iter().sum::<u64>(), 2);
    }

    #[test]
    fn a_cluster_is_as_bad_as_the_worst_that_was_told_of_it() {
        let mut recent = Recent::default();
        for severity in [Severity::Error, Severity::Critical, Severity::Error] {
            let event = Event::new(severity, EventKind::Error, "it broke");
            recent.note(at(0), &Body::Event(event.with("fingerprint", "a").with("template", "it broke")));
        }
        assert_eq!(recent.clusters(Mono(0))[0].0.severity, Severity::Critical);
    }

    #[test]
    fn the_most_frequent_cluster_comes_first_and_the_one_that_was_silent_longest_makes_place() {
        let mut recent = Recent::default();
        for n in 0..100_u64 {
            recent.note(at(n), &error(&format!("{n}"), if n == 90 { 50 } else { 1 }));
        }
        let clusters = recent.clusters(Mono(100));
        assert_eq!((clusters.len(), clusters[0].0.fingerprint.as_str()), (CLUSTERS_MAX, "90"));
        assert!(!clusters.iter().any(|(cluster, _)| cluster.fingerprint == "3"));
    }

    #[test]
    fn a_remedy_is_one_entry_with_its_last_status_and_a_command_too() {
        let mut recent = Recent::default();
        for (mono, status) in [(1, "IN_PROGRESS"), (2, "SUCCEEDED")] {
            recent.note(at(mono), &remedy("low-1", status));
        }
        let result = |status| Body::Result(CommandResult::bare("c-1", "ping", status));
        recent.note(at(3), &result(Status::Queued));
        recent.note(at(4), &result(Status::Succeeded));
        let told: Vec<String> =
            recent.done().map(|done| format!("{} {} {}", done.trigger, done.action, done.status)).collect();
        assert_eq!(told, ["command:c-1 ping SUCCEEDED", "rule:low reboot SUCCEEDED"]);
        for n in 0..50 {
            recent.note(at(n), &remedy(&format!("low-{n}"), "FAILED"));
        }
        assert_eq!(recent.done().count(), DONE_MAX);
    }
}
