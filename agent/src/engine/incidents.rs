//! Turns error lines into events that a responder can read at night: lines of the same shape are one cluster; its first
//! goes out at once, and so does one that is worse than what was told of it last; what else follows within the bucket
//! goes out as one count, as bad as the worst of it. Bounded in clusters and in events a minute; what is over a bound
//! is counted, never dropped in silence. What is counted and not told yet is saved with the journal's cursor: of the
//! largest clusters under their names, of the others as suppressed. Doesn't judge what is to be done.

#[cfg(test)]
mod tests;
mod unsaid;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

pub use self::unsaid::Unsaid;
use super::hash::hash;
use super::kernel::KernelClass;
use super::metric::{Metric, Point};
use super::observation::{ErrorBatch, ErrorKind, ErrorLine, ErrorSource, Refused, Severity};
use super::record::{Event, EventKind, Stamp};
use super::surge::Baseline;
use super::template::{TEXT_MAX, Template, cut, has_word, without_ids};
use super::time::{BootId, Mono};

/// Lines that may be told at once within a minute; a storm of unlike lines becomes a count after that. The kernel has
/// as many of its own, so has what systemd says of units, and so have applications at the socket: what any local
/// program may say, under whatever name, must not hide that memory ran out, that a unit failed, or what a service logs.
const TOLD_AT_ONCE_PER_MINUTE: u32 = 60;
/// Of one unit or program: it must not hide what the others say.
const TOLD_AT_ONCE_OF_ONE: u32 = 30;

/// The clusters of errors.
#[derive(Debug)]
pub struct Incidents {
    settings: Settings,
    clusters: BTreeMap<u64, Cluster>,
    counts: Counts,
    /// There is a source of errors: something came from it, were it only that it is read.
    is_read: bool,
    /// Applications have said something, were it to an agent before this one: it is known where there is nothing else
    /// to read, too, that they say nothing now.
    is_heard: bool,
    /// What was written before, or in another boot, is told, and of no interval of this run.
    counted_from: Mono,
    minutes: Minutes,
}

/// What may be told at once, by who says it.
#[derive(Debug, Default)]
struct Minutes {
    kernel: Minute,
    systemd: Minute,
    journal: Shared,
    apps: Shared,
}

/// What many share.
#[derive(Debug, Default)]
struct Shared {
    minute: Minute,
    /// How much of it is of each unit or program.
    by_origin: BTreeMap<u64, u32>,
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
    /// The worst of them.
    worst: Severity,
    /// Lines of the bucket that were told at once.
    told: u64,
    /// The severity of the event that was the last to tell of it.
    told_as: Severity,
    /// Buckets without a line before this one.
    empty: u64,
    baseline: Baseline,
    first: Stamp,
    last: Stamp,
    seen: Mono,
    /// Its line is what an agent before this one kept of it, and may be cut: the next is taken in its place.
    is_kept: bool,
}

/// The lines that an event tells of.
struct Lines {
    count: u64,
    worst: Severity,
    first: Stamp,
    last: Stamp,
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
            is_heard: false,
            counted_from: Mono(0),
            minutes: Minutes::default(),
        }
    }

    /// The same, and counts for samples what was written from then on. The journal is read on from where the run before
    /// ended: what a machine says as it goes down, or a week without an agent, is not of one interval.
    #[must_use]
    pub fn counting_from(self, counted_from: Mono) -> Self {
        Self { counted_from, ..self }
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
            let Some(least) =
                self.least(Mono(u64::MAX), ErrorSource::Kernel).or_else(|| self.clusters.keys().next().copied())
            else {
                return;
            };
            self.remove(least);
        }
    }

    /// Counts lines that nobody will read.
    pub const fn miss(&mut self, lines: u64) {
        self.counts.suppressed += lines;
    }

    /// Takes a batch; what is to be told at once comes back.
    pub fn take(&mut self, now: Stamp, batch: ErrorBatch) -> Vec<Event> {
        self.is_read = !batch.is_unread;
        self.is_heard |= !batch.refused.is_empty() || batch.lines.iter().any(|line| line.source == ErrorSource::App);
        self.counts.suppressed += batch.missed;
        self.counts.refused.add(&batch.refused);
        // Of the journal what is asked for comes; an application says what it likes. A line without a word is no error:
        // what prints a trace has empty ones in it, and numbers.
        let min_severity = self.settings.min_severity;
        let wanted = |line: &ErrorLine| {
            (line.source != ErrorSource::App || line.severity <= min_severity) && has_word(&line.message)
        };
        batch.lines.into_iter().filter(wanted).filter_map(|line| self.line(now, line)).collect()
    }

    /// The counts of the buckets that have ended, at most so many; the rest is still due.
    pub fn poll(&mut self, now: Mono, events_max: usize) -> Vec<Event> {
        let bucket = self.settings.bucket;
        let ended = self.clusters.iter_mut().filter(|(_, cluster)| cluster.repeats > 0 && cluster.bucket_ends <= now);
        let tell = |(fingerprint, cluster): (&u64, &mut Cluster)| {
            let usual = cluster.baseline.per_bucket();
            let surge = cluster.end_bucket(now, bucket);
            let told = event(*fingerprint, cluster, &cluster.counted(), bucket);
            cluster.told_as = cluster.worst;
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
        if !self.is_read && !self.is_heard {
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
        let at = stamp(now, &line);
        if at.boot == now.boot && at.mono >= self.counted_from {
            self.count(&line);
        }
        if line.kind == ErrorKind::UnitRestart {
            return None;
        }
        let bucket = self.settings.bucket;
        let mut template = Template::of(&line.message);
        let mut baseline = Baseline::default();
        let mut empty = 0;
        let fingerprint = fingerprint(&line, &template.stable_part());
        if let Some(cluster) = self.clusters.get_mut(&fingerprint) {
            cluster.seen = now.mono;
            if std::mem::take(&mut cluster.is_kept) {
                (cluster.template, cluster.line) = (template.clone(), shortened(line.clone()));
            }
            cluster.template.merge(&template);
            if cluster.repeats > 0 || now.mono < cluster.bucket_ends {
                if line.severity < cluster.told_as && self.minutes.take(&line, now.mono) {
                    (cluster.told, cluster.told_as) = (cluster.told + 1, line.severity);
                    cluster.line = shortened(line);
                    return Some(event(fingerprint, cluster, &Lines::one(cluster.told_as, at), bucket));
                }
                cluster.count(line, at);
                return None;
            }
            // A bucket that ended without anything to tell, and perhaps more after it.
            cluster.end_bucket(cluster.bucket_ends, bucket);
            empty = buckets_in(now.mono.since(cluster.bucket_ends), bucket);
            baseline = cluster.baseline;
            template = cluster.template.clone();
        }
        if !self.make_room(now.mono, &line, fingerprint) {
            match self.clusters.get_mut(&fingerprint) {
                // Too much was told within this minute: its first is told with the others of its bucket.
                Some(cluster) => {
                    cluster.begin_bucket(now.mono, bucket);
                    cluster.empty = empty;
                    cluster.count(line, at);
                }
                None => self.counts.suppressed += u64::from(line.kind != ErrorKind::Refusal),
            }
            return None;
        }
        let severity = line.severity;
        let cluster = Cluster {
            line: shortened(line),
            template,
            bucket_began: now.mono,
            bucket_ends: now.mono.after(bucket),
            repeats: 0,
            worst: severity,
            told: 1,
            told_as: severity,
            empty,
            baseline,
            first: at,
            last: at,
            seen: now.mono,
            is_kept: false,
        };
        let first = event(fingerprint, &cluster, &Lines::one(severity, at), bucket);
        self.clusters.insert(fingerprint, cluster);
        Some(first)
    }

    fn count(&mut self, line: &ErrorLine) {
        match line.kind {
            ErrorKind::Refusal => return,
            ErrorKind::UnitRestart => {
                self.counts.unit_restarts += 1;
                return;
            }
            ErrorKind::Plain => {}
            ErrorKind::UnitFailure => self.counts.unit_failures += 1,
            ErrorKind::OomKill => self.counts.oom_kills += 1,
            ErrorKind::Coredump => self.counts.coredumps += 1,
        }
        self.counts.lines += 1;
        *self.counts.by_severity.entry(line.severity).or_default() += 1;
        self.counts.kernel += u64::from(line.source == ErrorSource::Kernel);
        if let Some(class) = class(line) {
            *self.counts.kernel_by_class.entry(class).or_default() += 1;
        }
    }

    /// Whether a cluster may be told at once and remembered.
    fn make_room(&mut self, now: Mono, line: &ErrorLine, fingerprint: u64) -> bool {
        let crowded = !self.clusters.contains_key(&fingerprint) && self.clusters.len() >= self.settings.max_clusters;
        let least = if crowded { self.least(now, line.source) } else { None };
        if crowded && least.is_none() {
            return false;
        }
        let is_room = self.minutes.take(line, now);
        if let Some(least) = least.filter(|_| is_room) {
            self.remove(least);
        }
        is_room
    }

    fn remove(&mut self, fingerprint: u64) {
        let removed = self.clusters.remove(&fingerprint);
        self.counts.suppressed += removed.map_or(0, |cluster| cluster.repeats);
    }

    /// The cluster that makes place: the one unseen for longest of those whose bucket has ended and that have no count
    /// to tell. In its bucket it stays, or its next line would be a first again. Where all do, the smallest of those
    /// that are believed least, if that is less than `source` is.
    fn least(&self, now: Mono, source: ErrorSource) -> Option<u64> {
        let idle = self.clusters.iter().filter(|(_, cluster)| cluster.repeats == 0 && cluster.bucket_ends <= now);
        let oldest = idle.min_by_key(|(_, cluster)| cluster.seen);
        let of = |cluster: &Cluster| belief(cluster.line.source);
        let others = self.clusters.iter().filter(|(_, cluster)| of(cluster) < belief(source));
        let smallest = || others.min_by_key(|(_, cluster)| (of(cluster), cluster.repeats));
        oldest.or_else(smallest).map(|(fingerprint, _)| *fingerprint)
    }
}

impl Minutes {
    /// Whether this line may be told at once.
    fn take(&mut self, line: &ErrorLine, now: Mono) -> bool {
        match (line.source, line.kind) {
            (ErrorSource::Kernel, _) => self.kernel.take(now),
            (ErrorSource::App, _) => self.apps.take(line, now),
            (_, ErrorKind::UnitFailure | ErrorKind::OomKill | ErrorKind::Coredump) => self.systemd.take(now),
            (_, ErrorKind::Plain | ErrorKind::UnitRestart | ErrorKind::Refusal) => self.journal.take(line, now),
        }
    }
}

impl Shared {
    /// Whether this line may be told at once.
    fn take(&mut self, line: &ErrorLine, now: Mono) -> bool {
        if self.minute.is_over(now) {
            self.by_origin.clear();
        }
        let origin = hash([&*origin(line)]);
        let told = self.by_origin.get(&origin).copied().unwrap_or_default();
        let is_room = told < TOLD_AT_ONCE_OF_ONE && self.minute.take(now);
        if is_room {
            self.by_origin.insert(origin, told + 1);
        }
        is_room
    }
}

impl Minute {
    fn is_over(&self, now: Mono) -> bool {
        now.since(self.since) >= Duration::from_secs(60) || self.told == 0
    }

    /// Whether one more line may be told at once.
    fn take(&mut self, now: Mono) -> bool {
        if self.is_over(now) {
            *self = Self { since: now, told: 0 };
        }
        let is_room = self.told < TOLD_AT_ONCE_PER_MINUTE;
        self.told += u32::from(is_room);
        is_room
    }
}

impl Lines {
    const fn one(worst: Severity, at: Stamp) -> Self {
        Self { count: 1, worst, first: at, last: at }
    }
}

impl Cluster {
    /// One more line that is still to be told. The first of the worst of them stands for all.
    fn count(&mut self, line: ErrorLine, at: Stamp) {
        if self.repeats == 0 {
            self.first = at;
        }
        if self.repeats == 0 || line.severity < self.worst {
            self.worst = line.severity;
            self.line = shortened(line);
        }
        self.repeats += 1;
        self.last = at;
    }

    /// What is still to be told.
    const fn counted(&self) -> Lines {
        Lines { count: self.repeats, worst: self.worst, first: self.first, last: self.last }
    }

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

/// How much a line of this source is believed, against others: what is the kernel's nobody else can say, the journal
/// knows whose line it has, and an application says of itself what it likes.
const fn belief(source: ErrorSource) -> u8 {
    match source {
        ErrorSource::Kernel => 2,
        ErrorSource::Journal | ErrorSource::Coredump => 1,
        ErrorSource::App => 0,
    }
}

/// How many whole buckets a time holds.
fn buckets_in(time: Duration, bucket: Duration) -> u64 {
    u64::try_from(time.as_millis() / bucket.as_millis().max(1)).unwrap_or(u64::MAX)
}

/// The line as a cluster keeps it: no text longer than an event may say.
fn shortened(mut line: ErrorLine) -> ErrorLine {
    let names = [&mut line.unit, &mut line.identifier, &mut line.exe, &mut line.signal];
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

fn event(fingerprint: u64, cluster: &Cluster, told: &Lines, bucket: Duration) -> Event {
    let line = &cluster.line;
    let template = cluster.template.text();
    Event::new(told.worst, EventKind::Error, &template)
        .with("fingerprint", &*format!("{fingerprint:016x}"))
        .with("template", &*template)
        .with("exemplar", &*line.message)
        .with("count", told.count)
        .with("first", told.first)
        .with("last", told.last)
        .with("bucket_s", bucket.as_secs())
        .with("source", line.source.word())
        .with_some("class", class(line).map(KernelClass::word))
        .with_some("unit", line.unit.as_deref())
        .with_some("identifier", line.identifier.as_deref())
        .with_some("exe", line.exe.as_deref())
        .with_some("signal", line.signal.as_deref())
}

/// Over what makes a cluster: the same on every device and after every restart.
fn fingerprint(line: &ErrorLine, stable_part: &str) -> u64 {
    hash([line.source.word(), "\0", &origin(line), "\0", stable_part])
}

/// The unit or program that a line is of. Of a program without a unit its own name for itself goes before its
/// executable: that one is unknown of some that have ended.
fn origin(line: &ErrorLine) -> Cow<'_, str> {
    let program = line.identifier.as_deref().or(line.exe.as_deref());
    line.unit.as_deref().map(without_instance).or(program.map(Cow::Borrowed)).unwrap_or_default()
}

/// A unit's name without what systemd or a container engine numbers: `sshd@12-10.0.0.1:22-10.0.0.9:5210.service`,
/// `session-37.scope`, `run-u123.service`, `libpod-3f2a….scope`; and without an id as any other may have:
/// `fieldmedic-runbook-b1ea2e3eaa4c0d5f.service`.
fn without_instance(unit: &str) -> Cow<'_, str> {
    let (name, instance) = match unit.split_once('@') {
        Some(parts) => parts,
        None if unit.ends_with(".scope") || unit.starts_with("run-") => ("", unit),
        None if unit.ends_with(".service") => return without_ids(unit),
        // A disk's id is the same each time: `mnt-<uuid>.mount`.
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
