//! The daily look at the gateway and the agent themselves: when it is due, and what is told of what was found. A
//! finding is told when it is new, when it has got worse and when it is gone, not every day; that the look was taken,
//! and how much stands, is. It must not decide what is wrong: that is the auditor's (`crate::audit`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::keyed::encode;
use super::observation::{Audited, Finding, Severity, Unseen};
use super::record::{Event, EventKind};
use super::time::Mono;
use crate::gather::gather;
use crate::text::head;

/// A gateway that has just booted has other things to do.
const FIRST_AFTER: Duration = Duration::from_secs(5 * 60);
const EVERY: Duration = Duration::from_secs(24 * 3_600);
/// Findings that are told; the rest is a number.
const FINDINGS_MAX: usize = 64;
/// What one value of the store takes, and a little less.
const SAVED_BYTES_MAX: usize = 4_096;
/// Of a finding's text, in bytes.
const TEXT_MAX: usize = 512;

/// What a finding is known by, its check and its subject; and how bad it was.
type Known = BTreeMap<(String, String), Severity>;

/// When the next look is due, and what the last one found.
#[derive(Debug)]
pub(super) struct SelfAudit {
    due: Mono,
    under_way: bool,
    known: Known,
}

/// What is to be done about a look.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) events: Vec<Event>,
    /// The new value of [`super::keyed::AUDIT_KEY`], where it is another.
    pub(super) saved: Option<Option<Bytes>>,
}

impl SelfAudit {
    /// An agent begins; `known` was told by the one before.
    pub(super) fn new(now: Mono, known: Option<Known>) -> Self {
        Self { due: now.after(FIRST_AFTER), under_way: false, known: known.unwrap_or_default() }
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        (!self.under_way).then_some(self.due)
    }

    /// Whether to look now. One that hangs is the last until the agent starts again.
    pub(super) fn poll(&mut self, now: Mono) -> bool {
        if self.under_way || now < self.due {
            return false;
        }
        self.under_way = true;
        self.due = now.after(EVERY);
        true
    }

    /// Nobody could look.
    pub(super) const fn failed(&mut self) {
        self.under_way = false;
    }

    /// Somebody has looked.
    pub(super) fn audited(&mut self, Audited { findings, unseen }: &Audited) -> Told {
        self.under_way = false;
        let told: Vec<&Finding> = findings.iter().take(FINDINGS_MAX).collect();
        let mut known = Known::new();
        for finding in &told {
            // The worst comes first.
            known.entry(name_of(finding)).or_insert(finding.severity);
        }
        // What worse ones have pushed out of those that are told is there still.
        let pushed_out: BTreeSet<_> = gather(findings.iter().skip(FINDINGS_MAX).map(name_of));
        let hides = |Unseen { check, subject }: &Unseen, name: &(String, String)| {
            *check == name.0 && subject.as_deref().is_none_or(|subject| cut(subject) == name.1)
        };
        let stands =
            |name: &(String, String)| unseen.iter().any(|unseen| hides(unseen, name)) || pushed_out.contains(name);
        let standing = self.known.iter().filter(|(name, _)| !known.contains_key(*name) && stands(name));
        let standing: Vec<_> = standing.map(|(name, severity)| (name.clone(), *severity)).collect();
        known.extend(standing);
        let gone = self.known.keys().filter(|name| !known.contains_key(*name)).map(|(check, subject)| {
            let event = Event::new(Severity::Notice, EventKind::Audit, "audit_finding");
            event.with("state", "gone").with("check", check.as_str()).with("subject", subject.as_str())
        });
        let is_news =
            |finding: &&&Finding| self.known.get(&name_of(finding)).is_none_or(|before| finding.severity < *before);
        let new = told.iter().filter(is_news).map(|finding| {
            let event = Event::new(finding.severity, EventKind::Audit, "audit_finding");
            event
                .with("state", "found")
                .with("check", finding.check)
                .with("subject", cut(&finding.subject))
                .with("what", cut(&finding.what))
                .with("advice", cut(&finding.advice))
        });
        let events = gone.chain(new).chain([summary(findings)]).collect();
        let saved = (known != self.known).then(|| (!known.is_empty()).then(|| saved(&known)));
        self.known = known;
        Told { events, saved }
    }
}

/// As many as one value of the store takes, the worst first: of others the next agent tells again.
fn saved(known: &Known) -> Bytes {
    let mut known = known.clone();
    loop {
        let bytes = encode(&known);
        if bytes.len() <= SAVED_BYTES_MAX {
            return bytes;
        }
        let mildest = known.iter().max_by_key(|(_, severity)| **severity).map(|(name, _)| name.clone());
        mildest.and_then(|name| known.remove(&name));
    }
}

fn summary(findings: &[Finding]) -> Event {
    let worst = findings.iter().map(|finding| finding.severity).min();
    let left_out = findings.len().saturating_sub(FINDINGS_MAX) as u64;
    Event::new(Severity::Info, EventKind::Audit, "self_audit")
        .with("findings", findings.len() as u64)
        .with_some("worst", worst.map(Severity::word))
        .with_some("not_told", (left_out > 0).then_some(left_out))
}

fn name_of(finding: &Finding) -> (String, String) {
    (finding.check.to_owned(), cut(&finding.subject).to_owned())
}

/// A path may be long, and all of them are stored.
fn cut(text: &str) -> &str {
    head(text, TEXT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(check: &'static str, subject: &str, severity: Severity) -> Finding {
        let (what, advice) = ("it is so".to_owned(), "mend it".to_owned());
        Finding { check, subject: subject.to_owned(), severity, what, advice }
    }

    fn seen(findings: &[Finding]) -> Audited {
        Audited { findings: findings.to_vec(), unseen: Vec::new() }
    }

    fn names(told: &Told) -> Vec<(&str, Severity)> {
        told.events.iter().map(|event| (&*event.name, event.severity)).collect()
    }

    #[test]
    fn a_finding_is_told_when_it_is_new_and_when_it_is_gone_and_each_look_in_short() {
        let mut audit = SelfAudit::new(Mono(0), None);
        let full = finding("disk_full", "/var", Severity::Warning);
        let first = audit.audited(&seen(std::slice::from_ref(&full)));
        assert_eq!(names(&first), [("audit_finding", Severity::Warning), ("self_audit", Severity::Info)]);
        let again = audit.audited(&seen(std::slice::from_ref(&full)));
        assert_eq!(names(&again), [("self_audit", Severity::Info)]);
        assert_eq!(again.saved, None, "no write without news");
        let gone = audit.audited(&seen(&[]));
        assert_eq!(names(&gone), [("audit_finding", Severity::Notice), ("self_audit", Severity::Info)]);
        assert_eq!(gone.saved, Some(None), "nothing is kept of what is gone");
    }

    #[test]
    fn a_finding_that_gets_worse_is_told_again_and_one_that_gets_better_is_not() {
        let mut audit = SelfAudit::new(Mono(0), None);
        let mut told = |severity| {
            let told = audit.audited(&seen(&[finding("tls_files", "mqtt.tls.cert_file", severity)]));
            let findings = told.events.iter().filter(|event| &*event.name == "audit_finding");
            findings.map(|event| event.severity).collect::<Vec<_>>()
        };
        assert_eq!(told(Severity::Warning), [Severity::Warning], "it expires soon");
        assert_eq!(told(Severity::Error), [Severity::Error], "it has expired");
        assert_eq!(told(Severity::Error), []);
        assert_eq!(told(Severity::Notice), []);
        assert_eq!(told(Severity::Warning), [Severity::Warning]);
    }

    #[test]
    fn what_nobody_could_look_at_is_neither_gone_nor_news_the_next_day() {
        let mut audit = SelfAudit::new(Mono(0), None);
        let all = [("disk_full", "/var"), ("disk_full", "/data"), ("failed_unit", "app.service")]
            .map(|(check, subject)| finding(check, subject, Severity::Warning));
        audit.audited(&seen(&all));
        let unseen = vec![Unseen::all("failed_unit"), Unseen::one("disk_full", "/data")];
        let blind = audit.audited(&Audited { unseen, ..Audited::default() });
        let gone = blind.events.first().and_then(|event| event.field("subject")).cloned();
        assert_eq!((blind.events.len(), gone), (2, Some("/var".into())));
        assert_eq!(names(&audit.audited(&seen(&all[1..]))), [("self_audit", Severity::Info)]);
        assert_eq!(audit.audited(&seen(&[])).events.len(), 3, "gone when somebody has seen it");
    }

    #[test]
    fn what_was_told_before_a_restart_is_not_told_again() {
        let mut before = SelfAudit::new(Mono(0), None);
        let full = finding("disk_full", "/var", Severity::Warning);
        let saved = before.audited(&seen(std::slice::from_ref(&full))).saved.flatten().unwrap();
        let mut after = SelfAudit::new(Mono(0), minicbor::decode(&saved).ok());
        assert_eq!(names(&after.audited(&seen(&[full]))), [("self_audit", Severity::Info)]);
    }

    #[test]
    fn the_first_look_comes_after_a_while_then_daily_and_never_two_at_once() {
        let mut audit = SelfAudit::new(Mono(0), None);
        assert!(!audit.poll(Mono(299_999)));
        assert!(audit.poll(Mono(300_000)));
        assert_eq!(audit.deadline(), None);
        assert!(!audit.poll(Mono(90_000_000)), "the first hangs");
        audit.audited(&seen(&[]));
        assert!(audit.poll(Mono(90_000_000)));
    }

    #[test]
    fn what_is_too_much_is_a_number() {
        let findings: Vec<Finding> = (0..100)
            .map(|n| finding("writable_by_others", &format!("/etc/{n}/{}", "x".repeat(5_000)), Severity::Critical))
            .collect();
        let mut audit = SelfAudit::new(Mono(0), None);
        let told = audit.audited(&seen(&findings));
        assert_eq!(told.events.len(), FINDINGS_MAX + 1);
        let summary = told.events.last().unwrap();
        assert!(summary.fields.contains(&("not_told".into(), 36_u64.into())), "{summary:?}");
        assert_eq!(audit.known.len(), FINDINGS_MAX);
        assert!(audit.known.keys().all(|(_, subject)| subject.len() <= TEXT_MAX));
    }

    #[test]
    fn what_worse_findings_push_out_is_not_gone_and_what_is_kept_fits_into_the_store() {
        let mut audit = SelfAudit::new(Mono(0), None);
        let many = |check, severity| (0..60).map(move |n| finding(check, &format!("/data/{n:0>80}"), severity));
        let mild: Vec<Finding> = many("mild", Severity::Warning).collect();
        let told = audit.audited(&seen(&mild));
        assert!(told.saved.is_some_and(|saved| saved.is_some_and(|bytes| bytes.len() <= SAVED_BYTES_MAX)));
        let both: Vec<Finding> = many("bad", Severity::Error).chain(mild).collect();
        let told = audit.audited(&seen(&both));
        let is_gone = |event: &&Event| event.field("state") == Some(&"gone".into());
        assert_eq!(told.events.iter().filter(is_gone).count(), 0);
        let told = audit.audited(&seen(&[]));
        assert_eq!(told.events.iter().filter(is_gone).count(), 120);
    }
}
