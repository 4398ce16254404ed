//! Turns error lines into events that a responder can read at night: lines of the same shape are one cluster; its first
//! goes out at once, what follows within the bucket goes out as one count. Bounded in clusters and in events a minute;
//! what is over a bound is counted, never dropped in silence. What is counted and not told yet is saved with the journal's
//! cursor: of the largest clusters under their names, of the others as suppressed. Doesn't judge what is to be done.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::hash::hash;
use super::kernel::KernelClass;
use super::keyed::encode;
use super::metric::{Metric, Point};
use super::observation::{ErrorBatch, ErrorKind, ErrorLine, ErrorSource, Refused, Severity};
use super::record::{Event, EventKind, Stamp};
use super::surge::Baseline;
use super::template::{TEXT_MAX, Template, cut, cut_at};
use super::time::{BootId, Mono};

/// New clusters that may be told at once within a minute; a storm of unlike lines becomes a count after that. The kernel has
/// as many of its own: what any local program may say must not hide that memory ran out.
const NEW_CLUSTERS_PER_MINUTE: u32 = 60;

/// Clusters whose counts are saved: those with the highest.
const OPEN_MAX: usize = 16;
/// Of each text in what is saved, and of all of it: it has to fit into one value of the store.
const OPEN_TEXT_MAX: usize = 160;
const OPEN_BYTES_MAX: usize = 4 * 1024;

/// What is counted and still to be told.
#[derive(Debug, Clone, Default, Encode, Decode)]
pub struct Unsaid {
    #[n(0)]
    open: Vec<Open>,
    /// Lines of clusters beyond these: what a restart makes of them is a number.
    #[n(1)]
    others: u64,
}

/// The count of one cluster.
#[derive(Debug, Clone, Encode, Decode)]
struct Open {
    #[n(0)]
    fingerprint: u64,
    #[n(1)]
    severity: Severity,
    #[n(2)]
    source: ErrorSource,
    #[n(3)]
    message: String,
    #[n(4)]
    unit: Option<String>,
    #[n(5)]
    exe: Option<String>,
    #[n(6)]
    signal: Option<String>,
    #[n(7)]
    repeats: u64,
    #[n(8)]
    first: Stamp,
    #[n(9)]
    last: Stamp,
}

/// The clusters of errors.
#[derive(Debug)]
pub struct Incidents {
    settings: Settings,
    clusters: BTreeMap<u64, Cluster>,
    counts: Counts,
    /// There is a source of errors: something came from it, were it only that it is read.
    is_read: bool,
    kernel_minute: Minute,
    others_minute: Minute,
}

/// What was told at once since a minute began.
#[derive(Debug, Default)]
struct Minute {
    since: Mono,
    told: u32,
}

/// What the config says about errors.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Clusters remembered.
    pub max_clusters: usize,
    /// What applications say below it is left out.
    pub min_severity: Severity,
    /// How long repeats are gathered into one count.
    pub bucket: Duration,
}

#[derive(Debug)]
struct Cluster {
    line: ErrorLine,
    template: Template,
    bucket_began: Mono,
    bucket_ends: Mono,
    /// Lines of the bucket that are still to be told.
    repeats: u64,
    /// Its first line was told already.
    told: u64,
    /// Buckets without a line before this one.
    empty: u64,
    baseline: Baseline,
    first: Stamp,
    last: Stamp,
    seen: Mono,
    /// Its line is what an agent before this one kept of it, and may be cut: the next is taken in its place.
    is_kept: bool,
}

#[derive(Debug, Default)]
struct Counts {
    lines: u64,
    by_severity: BTreeMap<Severity, u64>,
    unit_failures: u64,
    unit_restarts: u64,
    oom_kills: u64,
    coredumps: u64,
    kernel: u64,
    kernel_by_class: BTreeMap<KernelClass, u64>,
    suppressed: u64,
    refused: Refused,
}

impl Incidents {
    /// No clusters yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            clusters: BTreeMap::new(),
            counts: Counts::default(),
            is_read: false,
            kernel_minute: Minute::default(),
            others_minute: Minute::default(),
        }
    }

    /// The same, with what an agent that died had counted and not told; the bucket goes on.
    #[must_use]
    pub fn restore(settings: Settings, now: Mono, unsaid: Unsaid) -> Self {
        let mut incidents = Self::new(settings);
        incidents.counts.suppressed = unsaid.others;
        for it in unsaid.open {
            if incidents.clusters.len() >= settings.max_clusters {
                incidents.counts.suppressed += it.repeats;
                continue;
            }
            let line = ErrorLine {
                severity: it.severity,
                source: it.source,
                kind: ErrorKind::Plain,
                message: it.message,
                unit: it.unit,
                exe: it.exe,
                signal: it.signal,
                boot: Some(it.last.boot),
                mono: Some(it.last.mono),
                wall: None,
            };
            let cluster = Cluster {
                template: Template::of(&line.message),
                line,
                bucket_began: now,
                bucket_ends: now.after(settings.bucket),
                repeats: it.repeats,
                told: 1,
                empty: 0,
                baseline: Baseline::default(),
                first: it.first,
                last: it.last,
                seen: now,
                is_kept: true,
            };
            incidents.clusters.insert(it.fingerprint, cluster);
        }
        incidents
    }

    /// What was counted and is still to be told, encoded; `None`: nothing.
    #[must_use]
    pub fn unsaid(&self) -> Option<Bytes> {
        let cut = |text: &String| cut_at(text, OPEN_TEXT_MAX).to_owned();
        let mut counting: Vec<_> = self.clusters.iter().filter(|(_, cluster)| cluster.repeats > 0).collect();
        counting.sort_unstable_by_key(|(_, cluster)| Reverse(cluster.repeats));
        let open = counting.iter().take(OPEN_MAX).map(|(fingerprint, cluster)| Open {
            fingerprint: **fingerprint,
            severity: cluster.line.severity,
            source: cluster.line.source,
            message: cut(&cluster.line.message),
            unit: cluster.line.unit.as_ref().map(cut),
            exe: cluster.line.exe.as_ref().map(cut),
            signal: cluster.line.signal.as_ref().map(cut),
            repeats: cluster.repeats,
            first: cluster.first,
            last: cluster.last,
        });
        let others = counting.iter().skip(OPEN_MAX).map(|(_, cluster)| cluster.repeats).sum();
        let mut unsaid = Unsaid { open: open.collect(), others };
        loop {
            let bytes = encode(&unsaid);
            if bytes.len() <= OPEN_BYTES_MAX {
                return (!unsaid.open.is_empty()).then_some(bytes);
            }
            unsaid.others += unsaid.open.pop().map_or(0, |it| it.repeats);
        }
    }

    /// How many clusters there are.
    #[must_use]
    pub fn clusters(&self) -> usize {
        self.clusters.len()
    }

    /// Takes over new settings.
    pub fn set_settings(&mut self, settings: Settings) {
        if settings.bucket != self.settings.bucket {
            for cluster in self.clusters.values_mut() {
                // What is usual in an hour says nothing about a minute.
                cluster.baseline = Baseline::default();
                cluster.bucket_ends = cluster.bucket_ends.min(cluster.bucket_began.after(settings.bucket));
            }
        }
        self.settings = settings;
        while self.clusters.len() > settings.max_clusters {
            let Some(least) = self.least(true).or_else(|| self.clusters.keys().next().copied()) else { return };
            self.remove(least);
        }
    }

    /// Counts lines that nobody will read.
    pub const fn miss(&mut self, lines: u64) {
        self.counts.suppressed += lines;
    }

    /// Takes a batch; what is to be told at once comes back.
    pub fn take(&mut self, now: Stamp, batch: ErrorBatch) -> Vec<Event> {
        self.is_read = true;
        self.counts.suppressed += batch.missed;
        self.counts.refused.add(&batch.refused);
        // Of the journal what is asked for comes; an application says what it likes.
        let min_severity = self.settings.min_severity;
        let wanted = |line: &ErrorLine| line.source != ErrorSource::App || line.severity <= min_severity;
        batch.lines.into_iter().filter(wanted).filter_map(|line| self.line(now, line)).collect()
    }

    /// The counts of the buckets that have ended, at most so many; the rest is still due.
    pub fn poll(&mut self, now: Mono, events_max: usize) -> Vec<Event> {
        let bucket = self.settings.bucket;
        let ended = self.clusters.iter_mut().filter(|(_, cluster)| cluster.repeats > 0 && cluster.bucket_ends <= now);
        let tell = |(fingerprint, cluster): (&u64, &mut Cluster)| {
            let usual = cluster.baseline.per_bucket();
            let surge = cluster.end_bucket(now, bucket);
            let told = event(*fingerprint, cluster, cluster.repeats, bucket);
            cluster.begin_bucket(now, bucket);
            if surge { told.with("surge", true).with("usual_count", usual) } else { told }
        };
        ended.take(events_max).map(tell).collect()
    }

    /// Ends all buckets: what they counted is due now.
    pub fn close_buckets(&mut self, now: Mono) {
        for cluster in self.clusters.values_mut() {
            cluster.bucket_ends = cluster.bucket_ends.min(now);
        }
    }

    /// When [`Incidents::poll`] has something to tell.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.clusters.values().filter(|cluster| cluster.repeats > 0).map(|cluster| cluster.bucket_ends).min()
    }

    /// The interval's counts, zeros included: no errors is an answer, where somebody looks.
    pub fn report(&mut self) -> Vec<Point> {
        if !self.is_read {
            return Vec::new();
        }
        let counts = std::mem::take(&mut self.counts);
        let mut points = vec![
            Point::new(Metric::ErrorsCount, counts.lines),
            Point::new(Metric::ErrorsUnitFailures, counts.unit_failures),
            Point::new(Metric::ErrorsUnitRestarts, counts.unit_restarts),
            Point::new(Metric::ErrorsOomKills, counts.oom_kills),
            Point::new(Metric::ErrorsCoredumps, counts.coredumps),
            Point::new(Metric::ErrorsKernel, counts.kernel),
            Point::new(Metric::ErrorsSuppressed, counts.suppressed),
        ];
        points.extend(
            counts
                .by_severity
                .iter()
                .map(|(severity, n)| Point::labelled(Metric::ErrorsBySeverity, severity.word(), *n)),
        );
        let classes = counts.kernel_by_class.iter();
        points.extend(classes.map(|(class, n)| Point::labelled(Metric::ErrorsKernelClass, class.word(), *n)));
        let refused = counts.refused.iter();
        points.extend(refused.map(|(refusal, lines)| Point::labelled(Metric::ErrorsAppRefused, refusal.word(), lines)));
        points
    }

    fn line(&mut self, now: Stamp, line: ErrorLine) -> Option<Event> {
        if line.kind == ErrorKind::UnitRestart {
            self.counts.unit_restarts += 1;
            return None;
        }
        self.count(&line);
        let bucket = self.settings.bucket;
        let mut template = Template::of(&line.message);
        let mut baseline = Baseline::default();
        let mut empty = 0;
        let fingerprint = fingerprint(&line, &template.stable_part());
        let at = stamp(now, &line);
        if let Some(cluster) = self.clusters.get_mut(&fingerprint) {
            cluster.seen = now.mono;
            if std::mem::take(&mut cluster.is_kept) {
                (cluster.template, cluster.line) = (template.clone(), shortened(line.clone()));
            }
            cluster.template.merge(&template);
            if cluster.repeats > 0 || now.mono < cluster.bucket_ends {
                cluster.repeats += 1;
                if cluster.repeats == 1 {
                    cluster.first = at;
                }
                cluster.last = at;
                return None;
            }
            // A bucket that ended without anything to tell, and perhaps more after it.
            cluster.end_bucket(cluster.bucket_ends, bucket);
            empty = buckets_in(now.mono.since(cluster.bucket_ends), bucket);
            baseline = cluster.baseline;
            template = cluster.template.clone();
        }
        if !self.make_room(now.mono, line.source, fingerprint) {
            match self.clusters.get_mut(&fingerprint) {
                // Too much was told within this minute: its first is told with the others of its bucket.
                Some(cluster) => {
                    cluster.begin_bucket(now.mono, bucket);
                    (cluster.repeats, cluster.empty, cluster.first, cluster.last) = (1, empty, at, at);
                }
                None => self.counts.suppressed += 1,
            }
            return None;
        }
        let cluster = Cluster {
            line: shortened(line),
            template,
            bucket_began: now.mono,
            bucket_ends: now.mono.after(bucket),
            repeats: 0,
            told: 1,
            empty,
            baseline,
            first: at,
            last: at,
            seen: now.mono,
            is_kept: false,
        };
        let first = event(fingerprint, &cluster, 1, bucket);
        self.clusters.insert(fingerprint, cluster);
        Some(first)
    }

    fn count(&mut self, line: &ErrorLine) {
        self.counts.lines += 1;
        *self.counts.by_severity.entry(line.severity).or_default() += 1;
        match line.kind {
            ErrorKind::Plain | ErrorKind::UnitRestart => {}
            ErrorKind::UnitFailure => self.counts.unit_failures += 1,
            ErrorKind::OomKill => self.counts.oom_kills += 1,
            ErrorKind::Coredump => self.counts.coredumps += 1,
        }
        self.counts.kernel += u64::from(line.source == ErrorSource::Kernel);
        if let Some(class) = class(line) {
            *self.counts.kernel_by_class.entry(class).or_default() += 1;
        }
    }

    /// Whether a cluster may be told at once and remembered.
    fn make_room(&mut self, now: Mono, source: ErrorSource, fingerprint: u64) -> bool {
        let is_kernel = source == ErrorSource::Kernel;
        let crowded = !self.clusters.contains_key(&fingerprint) && self.clusters.len() >= self.settings.max_clusters;
        let least = if crowded { self.least(is_kernel) } else { None };
        if crowded && least.is_none() {
            return false;
        }
        let minute = if is_kernel { &mut self.kernel_minute } else { &mut self.others_minute };
        if now.since(minute.since) >= Duration::from_secs(60) || minute.told == 0 {
            *minute = Minute { since: now, told: 0 };
        }
        if minute.told >= NEW_CLUSTERS_PER_MINUTE {
            return false;
        }
        minute.told += 1;
        if let Some(least) = least {
            self.remove(least);
        }
        true
    }

    fn remove(&mut self, fingerprint: u64) {
        let removed = self.clusters.remove(&fingerprint);
        self.counts.suppressed += removed.map_or(0, |cluster| cluster.repeats);
    }

    /// The cluster that makes place: the one unseen for longest of those without a count that is still to be told. Where all
    /// have one, the smallest that isn't the kernel's, but only for the kernel.
    fn least(&self, for_kernel: bool) -> Option<u64> {
        let idle = self.clusters.iter().filter(|(_, cluster)| cluster.repeats == 0);
        let oldest = idle.min_by_key(|(_, cluster)| cluster.seen);
        let others =
            self.clusters.iter().filter(|(_, cluster)| for_kernel && cluster.line.source != ErrorSource::Kernel);
        let smallest = || others.min_by_key(|(_, cluster)| cluster.repeats);
        oldest.or_else(smallest).map(|(fingerprint, _)| *fingerprint)
    }
}

impl Cluster {
    /// Holds the bucket against what is usual; whether a surge begins with it.
    fn end_bucket(&mut self, now: Mono, bucket: Duration) -> bool {
        // One that could not be told in time was a longer one.
        let lengths = buckets_in(now.since(self.bucket_began), bucket).max(1);
        self.baseline.take(self.empty, (self.told + self.repeats) / lengths)
    }

    fn begin_bucket(&mut self, now: Mono, bucket: Duration) {
        self.bucket_began = now;
        self.bucket_ends = now.after(bucket);
        self.repeats = 0;
        self.told = 0;
        self.empty = 0;
    }
}

/// How many whole buckets a time holds.
fn buckets_in(time: Duration, bucket: Duration) -> u64 {
    u64::try_from(time.as_millis() / bucket.as_millis().max(1)).unwrap_or(u64::MAX)
}

/// The line as a cluster keeps it: no text longer than an event may say.
fn shortened(mut line: ErrorLine) -> ErrorLine {
    let names = [&mut line.unit, &mut line.exe, &mut line.signal];
    for text in names.into_iter().flatten().chain([&mut line.message]) {
        if text.len() > TEXT_MAX {
            *text = cut(text).to_owned();
        }
    }
    line
}

/// What the kernel speaks of, where it was the kernel.
fn class(line: &ErrorLine) -> Option<KernelClass> {
    if line.source == ErrorSource::Kernel { KernelClass::of(&line.message) } else { None }
}

/// When a line was written: by its own boot and monotonic time where it has them.
fn stamp(now: Stamp, line: &ErrorLine) -> Stamp {
    let boot: BootId = line.boot.unwrap_or(now.boot);
    match line.mono {
        Some(mono) => Stamp { boot, mono },
        None => now,
    }
}

fn event(fingerprint: u64, cluster: &Cluster, count: u64, bucket: Duration) -> Event {
    let line = &cluster.line;
    let template = cluster.template.text();
    Event::new(line.severity, EventKind::Error, &template)
        .group("error")
        .with("fingerprint", &*format!("{fingerprint:016x}"))
        .with("template", &*template)
        .with("exemplar", &*line.message)
        .with("count", count)
        .with("first", cluster.first)
        .with("last", cluster.last)
        .with("bucket_s", bucket.as_secs())
        .with("source", line.source.word())
        .with_some("class", class(line).map(KernelClass::word))
        .with_some("unit", line.unit.as_deref())
        .with_some("exe", line.exe.as_deref())
        .with_some("signal", line.signal.as_deref())
}

/// Over what makes a cluster: the same on every device and after every restart.
fn fingerprint(line: &ErrorLine, stable_part: &str) -> u64 {
    let origin =
        line.unit.as_deref().map(without_instance).or(line.exe.as_deref().map(Cow::Borrowed)).unwrap_or_default();
    hash([line.source.word(), "\0", &origin, "\0", stable_part])
}

/// A unit's name without what systemd or a container engine numbers: `sshd@12-10.0.0.1:22-10.0.0.9:5210.service`,
/// `session-37.scope`, `run-u123.service`, `libpod-3f2a….scope`.
fn without_instance(unit: &str) -> Cow<'_, str> {
    let (name, instance) = match unit.split_once('@') {
        Some(parts) => parts,
        None if unit.ends_with(".scope") || unit.starts_with("run-") => ("", unit),
        None => return Cow::Borrowed(unit),
    };
    let is_of_number = |c: char| c.is_ascii_hexdigit() || matches!(c, '-' | '.' | ':' | '[' | ']');
    let mut masked = format!("{name}@");
    let mut rest = instance;
    while !rest.is_empty() {
        let word = rest.find(is_of_number).unwrap_or(rest.len());
        let (plain, tail) = rest.split_at(word);
        let (number, tail) = tail.split_at(tail.find(|c| !is_of_number(c)).unwrap_or(tail.len()));
        masked.push_str(plain);
        masked.push_str(if number.contains(|c: char| c.is_ascii_digit()) { "#" } else { number });
        rest = tail;
    }
    Cow::Owned(masked)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::engine::metric::Value;
    use crate::engine::observation::Refusal;
    use crate::engine::record::Field;

    const BUCKET: Duration = Duration::from_secs(60);

    fn incidents(max_clusters: usize) -> Incidents {
        Incidents::new(Settings { max_clusters, min_severity: Severity::Error, bucket: BUCKET })
    }

    fn at(ms: u64) -> Stamp {
        Stamp { boot: BootId([1; 16]), mono: Mono(ms) }
    }

    fn batch(messages: &[&str]) -> ErrorBatch {
        let lines = messages.iter().map(|message| ErrorLine {
            severity: Severity::Error,
            source: ErrorSource::Journal,
            kind: ErrorKind::Plain,
            message: (*message).to_owned(),
            unit: Some("app.service".into()),
            exe: None,
            signal: None,
            boot: None,
            mono: None,
            wall: None,
        });
        ErrorBatch { lines: lines.collect(), ..ErrorBatch::default() }
    }

    fn count(event: &Event) -> Option<&Field> {
        event.field("count")
    }

    #[test]
    fn the_first_goes_out_at_once_and_repeats_as_one_count_at_the_end_of_the_bucket() {
        let mut incidents = incidents(8);
        assert_eq!(incidents.take(at(0), batch(&["timeout after 30 ms to 10.0.0.7:80"])).len(), 1);
        let repeats = batch(&["timeout after 31 ms to 10.0.0.9:80", "timeout after 7 ms to 10.1.0.1:81"]);
        assert!(incidents.take(at(1_000), repeats).is_empty());
        assert_eq!(incidents.deadline(), Some(Mono(60_000)));
        assert!(incidents.poll(Mono(59_999), 8).is_empty());
        let told = incidents.poll(Mono(60_000), 8);
        assert_eq!(told.len(), 1);
        assert_eq!(count(&told[0]), Some(&Field::Value(Value::Count(2))));
        assert_eq!(&*told[0].name, "timeout after <n> ms to <ip>");
        assert!(incidents.poll(Mono(200_000), 8).is_empty(), "nothing more to tell");
    }

    #[test]
    fn after_a_quiet_bucket_the_next_one_goes_out_at_once_again() {
        let mut incidents = incidents(8);
        assert_eq!(incidents.take(at(0), batch(&["boom"])).len(), 1);
        assert_eq!(incidents.take(at(60_000), batch(&["boom"])).len(), 1);
    }

    #[test]
    fn of_more_clusters_than_can_be_saved_the_smallest_are_a_number_after_a_crash() {
        let mut before = incidents(64);
        let name = |n: u8| format!("{} {}", "x".repeat(400), "abcdefghijklmnopqrstuvwxyz".split_at(usize::from(n)).1);
        for n in 0..20 {
            let name = name(n);
            before.take(at(0), batch(&[name.as_str()]));
            for _ in 0..=n {
                before.take(at(1), batch(&[name.as_str()]));
            }
        }
        let unsaid = before.unsaid().unwrap();
        assert!(unsaid.len() <= OPEN_BYTES_MAX, "{} B", unsaid.len());
        let mut after = Incidents::restore(before.settings, Mono(2), minicbor::decode(&unsaid).unwrap());
        assert!(after.clusters() <= OPEN_MAX && after.clusters() >= 8, "{}", after.clusters());
        let told: u64 = after.clusters.values().map(|cluster| cluster.repeats).sum();
        let suppressed = std::mem::take(&mut after.counts).suppressed;
        assert_eq!(told + suppressed, (1..=20).sum::<u64>());
        assert!(after.clusters.values().all(|cluster| cluster.repeats > 4), "the largest have their names");
    }

    #[test]
    fn a_unit_that_has_a_number_in_its_name_is_the_same_unit_with_another_number() {
        let same = [
            ["sshd@12-10.0.0.1:22-10.0.0.9:52100.service", "sshd@7-10.1.0.1:22-192.168.7.9:40.service"],
            ["session-37.scope", "session-4.scope"],
            ["run-u123.service", "run-u4.service"],
            ["libpod-conmon-3f2a99c0d1.scope", "libpod-conmon-ab12.scope"],
            ["user@1000.service", "user@0.service"],
        ];
        for [one, other] in same {
            assert_eq!(without_instance(one), without_instance(other));
        }
        let others = ["app.service", "app-2.service", "worker@eu.service", "worker@us.service", "session.scope"];
        let names: BTreeSet<_> = others.into_iter().chain(same.map(|[one, _]| one)).map(without_instance).collect();
        assert_eq!(names.len(), others.len() + same.len(), "{names:?}");
    }

    #[test]
    fn settings_that_shrink_take_hold_at_once_and_lose_no_count() {
        let mut incidents = incidents(8);
        for word in ["apple", "banana", "cherry"] {
            let message = format!("{word} has gone");
            incidents.take(at(0), batch(&[&message, &message, &message]));
        }
        let bucket = Duration::from_secs(10);
        incidents.set_settings(Settings { max_clusters: 1, min_severity: Severity::Error, bucket });
        assert_eq!(incidents.clusters(), 1);
        assert_eq!(incidents.deadline(), Some(Mono(10_000)));
        let told = incidents.poll(Mono(10_000), 8);
        assert_eq!(told.iter().filter_map(count).collect::<Vec<_>>(), [&Field::Value(Value::Count(2))]);
        let suppressed = incidents.report().into_iter().find(|point| point.metric == Metric::ErrorsSuppressed);
        assert_eq!(suppressed.map(|point| point.value), Some(Value::Count(4)));
    }

    #[test]
    fn in_a_storm_a_known_error_is_counted_in_its_cluster() {
        let mut incidents = incidents(512);
        incidents.take(at(0), batch(&["the disk is on fire"]));
        let storm: Vec<String> = (0..100).map(|n| format!("trouble {}", "x".repeat(n + 1))).collect();
        let told = incidents.take(at(120_000), batch(&storm.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!(told.len(), NEW_CLUSTERS_PER_MINUTE as usize);
        assert!(incidents.take(at(121_000), batch(&["the disk is on fire", "the disk is on fire"])).is_empty());
        let told = incidents.poll(Mono(121_000 + 60_000), 600);
        let fire = told.iter().find(|event| &*event.name == "the disk is on fire").unwrap();
        assert_eq!(count(fire), Some(&Field::Value(Value::Count(2))));
    }

    #[test]
    fn after_a_crash_an_error_has_its_whole_text_again_with_its_next_line() {
        let text = format!("{} has failed", "word ".repeat(60).trim_end());
        let mut before = incidents(8);
        before.take(at(0), batch(&[&text, &text]));
        let unsaid = minicbor::decode(&before.unsaid().unwrap()).unwrap();
        let mut after = Incidents::restore(before.settings, Mono(0), unsaid);
        after.take(at(1_000), batch(&[&text]));
        let told = after.poll(Mono(60_000), 8);
        assert_eq!((told.len(), count(&told[0])), (1, Some(&Field::Value(Value::Count(2)))));
        assert!(told[0].field("template").is_some_and(|template| format!("{template:?}").contains("has failed")));
    }

    #[test]
    fn a_fingerprint_is_the_same_on_every_device() {
        let line = &batch(&["disk /dev/sda1 failed with 5"]).lines[0];
        let stable_part = Template::of(&line.message).stable_part();
        assert_eq!(stable_part, "disk <path> failed with <n>");
        assert_eq!(format!("{:016x}", fingerprint(line, &stable_part)), "0363b58ad074be45");
    }

    #[test]
    fn lines_that_differ_in_a_name_are_one_cluster_with_one_fingerprint_in_any_order() {
        let told = |lines: [&str; 2]| {
            let mut incidents = incidents(8);
            let first = incidents.take(at(0), batch(&lines));
            let counts = incidents.poll(Mono(60_000), 8);
            assert_eq!((first.len(), counts.len()), (1, 1), "{lines:?}");
            assert_eq!(first[0].field("fingerprint"), counts[0].field("fingerprint"));
            assert_eq!(&*first[0].name, lines[0], "what is known of one line is that line");
            assert_eq!(&*counts[0].name, "connection to <*> refused by peer");
            counts[0].field("fingerprint").cloned()
        };
        let lines = ["connection to alpha refused by peer", "connection to beta refused by peer"];
        assert_eq!(told(lines), told([lines[1], lines[0]]));
    }

    #[test]
    fn clusters_are_bounded_the_oldest_idle_one_goes_first() {
        let mut incidents = incidents(2);
        for (ms, word) in [(0, "alpha"), (1, "beta"), (2, "gamma")] {
            assert_eq!(incidents.take(at(ms), batch(&[word])).len(), 1, "{word}");
        }
        assert_eq!(incidents.clusters.len(), 2);
        assert_eq!(incidents.take(at(3), batch(&["alpha"])).len(), 1, "alpha was forgotten, so it is new");
    }

    #[test]
    fn a_storm_of_unlike_lines_becomes_a_count() {
        let mut incidents = incidents(512);
        let words: Vec<String> =
            (0..100_u8).map(|n| format!("w{}{}", char::from(b'a' + n / 10), char::from(b'a' + n % 10))).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let told = incidents.take(at(0), batch(&words)).len();
        assert_eq!(told, NEW_CLUSTERS_PER_MINUTE as usize);
        let points = incidents.report();
        assert!(points.contains(&Point::new(Metric::ErrorsCount, 100_u64)), "{points:?}");
        assert!(points.contains(&Point::new(Metric::ErrorsSuppressed, 40_u64)), "{points:?}");
        let mut panic = batch(&["Out of memory: Killed process 100 (app)"]);
        panic.lines[0].source = ErrorSource::Kernel;
        assert_eq!(incidents.take(at(1), panic).len(), 1, "what applications say must not hide what the kernel does");
    }

    #[test]
    fn where_every_cluster_has_a_count_to_tell_only_the_kernel_takes_the_place_of_the_smallest() {
        let mut incidents = incidents(2);
        incidents.take(at(0), batch(&["alpha", "alpha", "alpha", "beta", "beta"]));
        assert!(incidents.take(at(1), batch(&["gamma"])).is_empty());
        let mut oom = batch(&["Out of memory: Killed process 100 (app)"; 2]);
        oom.lines.iter_mut().for_each(|line| line.source = ErrorSource::Kernel);
        assert_eq!(incidents.take(at(2), oom.clone()).len(), 1);
        assert!(incidents.report().contains(&Point::new(Metric::ErrorsSuppressed, 2_u64)), "gamma, and beta's count");
        oom.lines.iter_mut().for_each(|line| line.message = "EXT4-fs error (device mmcblk0p2)".into());
        assert_eq!(incidents.take(at(3), oom).len(), 1);
        let last = batch(&["delta"]);
        assert!(incidents.take(at(4), last).is_empty(), "the kernel's counts stay");
        let counts: Vec<_> = incidents.poll(Mono(120_000), 9).iter().filter_map(count).cloned().collect();
        assert_eq!(counts, [1_u64, 1].map(Field::from), "of both that the kernel has now");
    }

    #[test]
    fn an_application_is_heard_from_the_severity_on_and_what_was_refused_is_counted() {
        let mut incidents = incidents(8);
        let mut batch = batch(&["pump stuck", "pump slow"]);
        batch.lines.iter_mut().for_each(|line| line.source = ErrorSource::App);
        batch.lines[1].severity = Severity::Warning;
        batch.refused.count(Refusal::Rate, 7);
        let told = incidents.take(at(0), batch);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(&*told[0].name, "pump stuck");
        let points = incidents.report();
        assert!(points.contains(&Point::new(Metric::ErrorsCount, 1_u64)), "{points:?}");
        assert!(points.contains(&Point::labelled(Metric::ErrorsAppRefused, "rate", 7_u64)), "{points:?}");
        assert!(!incidents.report().iter().any(|point| point.metric == Metric::ErrorsAppRefused), "counted once");
    }

    #[test]
    fn what_the_kernel_speaks_of_is_told_and_counted_and_of_a_restart_only_the_count() {
        let mut incidents = incidents(8);
        let mut batch =
            batch(&["usb 1-1: USB disconnect, device number 7", "usb 1-1: USB disconnect", "app: Scheduled restart"]);
        batch.lines[0].source = ErrorSource::Kernel;
        batch.lines[2].kind = ErrorKind::UnitRestart;
        let told = incidents.take(at(0), batch);
        let classes: Vec<_> = told.iter().map(|event| event.fields.iter().find(|(key, _)| &**key == "class")).collect();
        let class = (Box::from("class"), Field::Value(Value::from("usb_disconnect")));
        assert_eq!(
            classes,
            [Some(&class), None],
            "an application's words are not the kernel's, and a restart is no event"
        );
        let points = incidents.report();
        for point in [
            Point::new(Metric::ErrorsUnitRestarts, 1_u64),
            Point::new(Metric::ErrorsCount, 2_u64),
            Point::labelled(Metric::ErrorsKernelClass, "usb_disconnect", 1_u64),
        ] {
            assert!(points.contains(&point), "{point:?} is not in {points:?}");
        }
    }

    /// Minutes with so many lines each; in which of them a surge was told.
    fn surges(incidents: &mut Incidents, from: usize, minutes: &[usize]) -> Vec<usize> {
        let mut surges = Vec::new();
        for (minute, lines) in (from..).zip(minutes) {
            let begin = minute as u64 * 60_000;
            let mut told = Vec::new();
            for line in 0..*lines {
                let now = begin + line as u64;
                told.extend(incidents.poll(Mono(now), 8));
                told.extend(incidents.take(at(now), batch(&["request failed"])));
            }
            told.extend(incidents.poll(Mono(begin + 59_999), 8));
            let surge = (Box::from("surge"), Field::Value(Value::Flag(true)));
            surges.extend(told.iter().filter(|event| event.fields.contains(&surge)).map(|_| minute));
        }
        surges
    }

    #[test]
    fn a_surge_is_flagged_once_in_its_count_and_steady_noise_never() {
        let mut incidents = incidents(8);
        let noise: Vec<usize> = (0..240).map(|minute| [3, 0, 5, 1, 2, 0, 4][minute % 7]).collect();
        assert_eq!(surges(&mut incidents, 0, &noise), [0_usize; 0]);
        let told = surges(&mut incidents, 240, &[200, 220, 180, 3, 0, 2]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!((240..=242).contains(&told[0]), "{told:?}");
        assert_eq!(surges(&mut incidents, 246, &noise), [0_usize; 0]);
    }
}
