//! What is counted and not told yet, as it is saved: of the largest clusters under their names, of the others as a
//! number. It has to fit into one value of the store. Doesn't say when it is to be saved.

use std::cmp::Reverse;
use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::{Cluster, Incidents, Settings};
use crate::engine::keyed::encode;
use crate::engine::observation::{ErrorKind, ErrorLine, ErrorSource, Severity};
use crate::engine::record::Stamp;
use crate::engine::surge::Baseline;
use crate::engine::template::Template;
use crate::text::head;

/// Clusters whose counts are saved: those with the highest.
pub(super) const OPEN_MAX: usize = 16;
/// Of each text in what is saved, and of all of it: it has to fit into one value of the store.
const OPEN_TEXT_MAX: usize = 160;
pub(super) const OPEN_BYTES_MAX: usize = 4 * 1024;

/// What is counted and still to be told.
#[derive(Debug, Clone, Default, Encode, Decode)]
pub struct Unsaid {
    #[n(0)]
    open: Vec<Open>,
    /// Lines of clusters beyond these: what a restart makes of them is a number.
    #[n(1)]
    others: u64,
    /// Applications have said something.
    #[n(2)]
    #[cbor(default)]
    is_heard: bool,
}

impl Unsaid {
    /// The same where nobody listens to applications any more: that they say nothing is not known then.
    #[must_use]
    pub fn unheard(self) -> Self {
        Self { is_heard: false, ..self }
    }
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
    #[n(10)]
    identifier: Option<String>,
}

impl Incidents {
    /// Clusters with what an agent that died had counted and not told; the bucket goes on.
    #[must_use]
    pub fn restore(settings: Settings, now: Stamp, unsaid: Unsaid) -> Self {
        let mut incidents = Self::new(settings);
        incidents.is_heard = unsaid.is_heard;
        incidents.counts.suppressed = unsaid.others;
        for it in unsaid.open {
            if incidents.clusters.len() >= settings.max_clusters {
                incidents.counts.suppressed += it.repeats;
                continue;
            }
            incidents.clusters.insert(it.fingerprint, it.into_cluster(now, settings.bucket));
        }
        incidents
    }

    /// What was counted and is still to be told, and what is known of who says it, encoded; `None`: nothing.
    #[must_use]
    pub fn unsaid(&self) -> Option<Bytes> {
        let mut counting: Vec<_> = self.clusters.iter().filter(|(_, cluster)| cluster.repeats > 0).collect();
        counting.sort_unstable_by_key(|(_, cluster)| Reverse(cluster.repeats));
        let open = counting.iter().take(OPEN_MAX).map(|(fingerprint, cluster)| Open::of(**fingerprint, cluster));
        let others = counting.iter().skip(OPEN_MAX).map(|(_, cluster)| cluster.repeats).sum();
        let mut unsaid = Unsaid { open: open.collect(), others, is_heard: self.is_heard };
        loop {
            let bytes = encode(&unsaid);
            if bytes.len() <= OPEN_BYTES_MAX {
                return (unsaid.is_heard || !unsaid.open.is_empty()).then_some(bytes);
            }
            unsaid.others += unsaid.open.pop().map_or(0, |it| it.repeats);
        }
    }
}

impl Open {
    fn of(fingerprint: u64, cluster: &Cluster) -> Self {
        let cut = |text: &String| head(text, OPEN_TEXT_MAX).to_owned();
        Self {
            fingerprint,
            severity: cluster.worst,
            source: cluster.line.source,
            message: cut(&cluster.line.message),
            unit: cluster.line.unit.as_ref().map(cut),
            identifier: cluster.line.identifier.as_ref().map(cut),
            exe: cluster.line.exe.as_ref().map(cut),
            signal: cluster.line.signal.as_ref().map(cut),
            repeats: cluster.repeats,
            first: cluster.first,
            last: cluster.last,
        }
    }

    /// The cluster. Its bucket ends as long after the first line in it as any does, or an agent that starts more often
    /// than that would never tell of it; that of another boot is over.
    fn into_cluster(self, now: Stamp, bucket: Duration) -> Cluster {
        let is_over = self.first.boot != now.boot;
        let bucket_began = if is_over { now.mono } else { self.first.mono.min(now.mono) };
        let line = ErrorLine {
            severity: self.severity,
            source: self.source,
            kind: ErrorKind::Plain,
            message: self.message,
            unit: self.unit,
            identifier: self.identifier,
            exe: self.exe,
            signal: self.signal,
            boot: Some(self.last.boot),
            mono: Some(self.last.mono),
            wall: None,
        };
        Cluster {
            template: Template::of(&line.message),
            line,
            bucket_began,
            bucket_ends: if is_over { now.mono } else { bucket_began.after(bucket) },
            repeats: self.repeats,
            worst: self.severity,
            told: 1,
            told_as: self.severity,
            empty: 0,
            baseline: Baseline::default(),
            first: self.first,
            last: self.last,
            seen: now.mono,
            is_kept: true,
        }
    }
}
