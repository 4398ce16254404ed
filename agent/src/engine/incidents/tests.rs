use std::collections::BTreeSet;

use super::unsaid::{OPEN_BYTES_MAX, OPEN_MAX};
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
        identifier: None,
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

/// The same text as often as there are severities.
fn severities(message: &str, severities: &[Severity]) -> ErrorBatch {
    let mut batch = batch(&vec![message; severities.len()]);
    batch.lines.iter_mut().zip(severities).for_each(|(line, severity)| line.severity = *severity);
    batch
}

/// Severities and counts, in the order of telling.
fn as_told(events: &[Event]) -> Vec<(Severity, Option<&Field>)> {
    events.iter().map(|event| (event.severity, count(event))).collect()
}

#[test]
fn what_stands_for_a_count_is_the_first_of_the_worst_lines_that_are_counted() {
    use Severity::{Critical, Error, Warning};
    let mut incidents = incidents(8);
    let mut lines = batch(&["valve 0 stuck", "valve 1 stuck", "valve 9 stuck", "valve 2 stuck", "valve 3 stuck"]);
    let severities = [Warning, Warning, Critical, Error, Error];
    lines.lines.iter_mut().zip(severities).for_each(|(line, severity)| line.severity = severity);
    let exemplar = |event: &Event| event.field("exemplar").cloned();
    let told = incidents.take(at(0), lines);
    let said: Vec<_> = told.iter().map(exemplar).collect();
    assert_eq!(said, [Some(Field::from("valve 0 stuck")), Some("valve 9 stuck".into())]);
    assert_eq!(incidents.poll(Mono(60_000), 8).first().and_then(exemplar), Some("valve 2 stuck".into()));
}

#[test]
fn that_a_line_was_refused_is_told_and_is_no_line_that_is_counted() {
    let mut incidents = incidents(8);
    let mut refused = batch(&["an error line was refused"]);
    refused.lines[0].kind = ErrorKind::Refusal;
    refused.refused.count(Refusal::Malformed, 1);
    assert_eq!(incidents.take(at(0), refused).len(), 1);
    let points = incidents.report();
    let of = |metric| points.iter().find(|point| point.metric == metric).map(|point| &point.value);
    assert_eq!(of(Metric::ErrorsCount), Some(&Value::Count(0)));
    assert_eq!(of(Metric::ErrorsBySeverity), None);
    assert_eq!(of(Metric::ErrorsAppRefused), Some(&Value::Count(1)));
}

#[test]
fn that_a_line_was_refused_is_no_line_that_is_suppressed_where_there_is_no_room_to_tell_it() {
    let mut incidents = incidents(1);
    incidents.take(at(0), batch(&["disk full"]));
    let mut refused = batch(&["an error line was refused"]);
    refused.lines[0].kind = ErrorKind::Refusal;
    assert_eq!(incidents.take(at(1), refused), []);
    assert!(incidents.report().contains(&Point::new(Metric::ErrorsSuppressed, 0_u64)));
}

#[test]
fn a_line_worse_than_what_was_told_goes_out_at_once_and_a_count_is_as_bad_as_its_worst() {
    use Severity::{Critical, Emergency, Error, Warning};
    let [one, two] = [1_u64, 2].map(Field::from);
    let mut incidents = incidents(8);
    let told = incidents.take(at(0), severities("motor hot", &[Error, Error, Emergency, Critical]));
    assert_eq!(as_told(&told), [(Error, Some(&one)), (Emergency, Some(&one))]);
    assert_eq!((told[1].field("first"), told[1].field("last")), (Some(&at(0).into()), Some(&at(0).into())));
    let counts = incidents.poll(Mono(60_000), 8);
    assert_eq!(as_told(&counts), [(Critical, Some(&two))], "an error and a critical one");
    let told = incidents.take(at(70_000), severities("motor hot", &[Warning, Critical, Emergency]));
    assert_eq!(as_told(&told), [(Emergency, Some(&one))], "it was last told as critical");
    let unsaid = minicbor::decode(&incidents.unsaid().unwrap()).unwrap();
    let mut after_a_crash = Incidents::restore(incidents.settings, at(70_000), unsaid);
    for incidents in [&mut incidents, &mut after_a_crash] {
        assert_eq!(as_told(&incidents.poll(Mono(130_000), 8)), [(Critical, Some(&two))]);
    }
}

#[test]
fn in_a_storm_a_worse_line_is_counted_and_its_count_says_how_bad_it_was() {
    let mut incidents = incidents(512);
    let storm: Vec<String> = (1..=100).map(|n| format!("trouble {}", "x".repeat(n))).collect();
    incidents.take(at(0), batch(&storm.iter().map(String::as_str).collect::<Vec<_>>()));
    let worse = incidents.take(at(1_000), severities(&storm[0], &[Severity::Alert, Severity::Error]));
    assert!(worse.is_empty(), "{worse:?}");
    assert_eq!(as_told(&incidents.poll(Mono(60_000), 8)), [(Severity::Alert, Some(&2_u64.into()))]);
}

#[test]
fn a_line_without_a_word_is_no_error() {
    let mut incidents = incidents(8);
    assert!(incidents.take(at(0), batch(&["", " \t ", "\0\u{1b}", "\u{1b}[0m", "12345", "-- 7 --"])).is_empty());
    assert!(incidents.report().contains(&Point::new(Metric::ErrorsCount, 0_u64)));
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
    let mut after = Incidents::restore(before.settings, at(2), minicbor::decode(&unsaid).unwrap());
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
        ["fieldmedic-runbook-b1ea2e3eaa4c0d5f.service", "fieldmedic-runbook-00ff00ff00ff00ff.service"],
    ];
    for [one, other] in same {
        assert_eq!(without_instance(one), without_instance(other));
    }
    let others = ["app.service", "app-2.service", "worker@eu.service", "worker@us.service", "session.scope"];
    let id = |digit: &str| format!("{0}{0}-{0}-4{1}-8{1}-{0}{0}{0}", digit.repeat(4), digit.repeat(3));
    let disks = ["a", "7"].map(|digit| format!("mnt-{}.mount", id(digit)));
    let others = others.into_iter().chain(disks.iter().map(String::as_str)).collect::<Vec<_>>();
    let names: BTreeSet<_> = others.iter().copied().chain(same.map(|[one, _]| one)).map(without_instance).collect();
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
fn settings_that_shrink_take_what_has_no_count_to_tell_though_its_bucket_goes_on() {
    let mut incidents = incidents(8);
    incidents.take(at(0), batch(&["apple fell", "apple fell", "cherry fell", "cherry fell"]));
    let mut kernel = batch(&["banana fell"]);
    kernel.lines[0].source = ErrorSource::Kernel;
    incidents.take(at(1), kernel);
    incidents.set_settings(Settings { max_clusters: 2, ..incidents.settings });
    let told = incidents.poll(Mono(120_000), 8);
    assert_eq!(told.iter().filter_map(count).collect::<Vec<_>>(), [&Field::Value(Value::Count(1)); 2]);
}

#[test]
fn in_a_storm_a_known_error_is_counted_in_its_cluster() {
    let mut incidents = incidents(512);
    incidents.take(at(0), batch(&["the disk is on fire"]));
    let storm: Vec<String> = (0..100).map(|n| format!("trouble {}", "x".repeat(n + 1))).collect();
    let told = incidents.take(at(120_000), batch(&storm.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(told.len(), TOLD_AT_ONCE_OF_ONE as usize);
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
    let mut after = Incidents::restore(before.settings, at(0), unsaid);
    after.take(at(1_000), batch(&[&text]));
    let told = after.poll(Mono(60_000), 8);
    assert_eq!((told.len(), count(&told[0])), (1, Some(&Field::Value(Value::Count(2)))));
    assert!(told[0].field("template").is_some_and(|template| format!("{template:?}").contains("has failed")));
}

#[test]
fn an_agent_that_starts_more_often_than_a_bucket_lasts_tells_its_counts_all_the_same() {
    let mut incidents = incidents(8);
    let mut told = incidents.take(at(0), batch(&["boom"]));
    for start in 1..=10_u64 {
        incidents.take(at(start * 9_000), batch(&["boom", "boom"]));
        let unsaid = minicbor::decode(&incidents.unsaid().unwrap()).unwrap();
        incidents = Incidents::restore(incidents.settings, at(start * 9_000 + 100), unsaid);
        told.extend(incidents.poll(Mono((start + 1) * 9_000 - 1), 8));
    }
    let counts: Vec<_> = told.iter().filter_map(count).cloned().collect();
    assert_eq!(counts, [1_u64, 14].map(Field::from), "the lines of the first minute");
}

#[test]
fn what_another_boot_counted_is_told_at_once() {
    let mut before = incidents(8);
    before.take(at(50_000), batch(&["boom", "boom", "boom"]));
    let unsaid = minicbor::decode(&before.unsaid().unwrap()).unwrap();
    let now = Stamp { boot: BootId([2; 16]), mono: Mono(900) };
    let mut after = Incidents::restore(before.settings, now, unsaid);
    let told = after.poll(now.mono, 8);
    assert_eq!(told.iter().filter_map(count).collect::<Vec<_>>(), [&Field::Value(Value::Count(2))]);
    assert_eq!(told[0].field("last"), Some(&at(50_000).into()));
}

#[test]
fn that_an_application_says_nothing_is_known_after_a_start_too_and_that_of_the_journal_only_when_it_is_read() {
    for (source, is_known) in [(ErrorSource::App, true), (ErrorSource::Journal, false)] {
        let mut before = incidents(8);
        let mut lines = batch(&["boom", "boom"]);
        lines.lines.iter_mut().for_each(|line| line.source = source);
        before.take(at(0), lines);
        let unsaid: Unsaid = minicbor::decode(&before.unsaid().unwrap()).unwrap();
        let unheard = Incidents::restore(before.settings, at(1), unsaid.clone().unheard()).report();
        assert_eq!(unheard, [], "nobody listens any more");
        let mut after = Incidents::restore(before.settings, at(1), unsaid);
        let points = after.report();
        let count = points.iter().find(|point| point.metric == Metric::ErrorsCount).map(|point| &point.value);
        assert_eq!(count, is_known.then_some(&Value::Count(0)), "{source}");
        // Also where all is told.
        after.poll(Mono(120_000), 8);
        assert_eq!(after.unsaid().is_some(), is_known, "{source}");
    }
}

#[test]
fn while_the_journal_can_not_be_read_nothing_is_said_of_it_and_what_was_counted_is_said_later() {
    let mut incidents = incidents(8);
    incidents.take(at(0), batch(&["boom"]));
    incidents.take(at(1), ErrorBatch { is_unread: true, ..ErrorBatch::default() });
    assert_eq!(incidents.report(), []);
    incidents.take(at(2), ErrorBatch::default());
    assert!(incidents.report().contains(&Point::new(Metric::ErrorsCount, 1_u64)));
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
    for (ms, word) in [(0, "alpha"), (1, "beta"), (60_001, "gamma")] {
        assert_eq!(incidents.take(at(ms), batch(&[word])).len(), 1, "{word}");
    }
    assert_eq!(incidents.clusters.len(), 2);
    assert_eq!(incidents.take(at(60_002), batch(&["alpha"])).len(), 1, "alpha was forgotten, so it is new");
}

#[test]
fn in_a_bucket_no_first_is_told_twice_and_what_finds_no_room_is_counted() {
    let mut incidents = incidents(16);
    let shapes: Vec<String> = (b'a'..=b'z').map(|letter| format!("{0}{0}{0} broke", char::from(letter))).collect();
    let lines: Vec<&str> = shapes.iter().cycle().take(40).map(String::as_str).collect();
    let told = incidents.take(at(0), batch(&lines));
    let fingerprints: BTreeSet<String> = told.iter().map(|event| format!("{:?}", event.field("fingerprint"))).collect();
    assert_eq!((told.len(), fingerprints.len()), (16, 16));
    let counted = incidents.poll(Mono(60_000), 64).len();
    assert_eq!(counted, 14, "the second lines of those that have room");
    let points = incidents.report();
    assert!(points.contains(&Point::new(Metric::ErrorsSuppressed, 10_u64)), "{points:?}");
    assert_eq!(incidents.take(at(120_000), batch(&["zzz broke"])).len(), 1, "there is room when a bucket has ended");
}

#[test]
fn a_program_without_a_unit_is_told_apart_by_what_it_calls_itself() {
    let fingerprint_of = |unit: Option<&str>, identifier: Option<&str>, exe: Option<&str>| {
        let mut line = batch(&["valve 5 jammed"]).lines.remove(0);
        line.unit = unit.map(str::to_owned);
        line.identifier = identifier.map(str::to_owned);
        line.exe = exe.map(str::to_owned);
        fingerprint(&line, "valve <n> jammed")
    };
    let valve = fingerprint_of(None, Some("valve"), Some("/usr/bin/logger"));
    for exe in [Some("logger"), None] {
        assert_eq!(fingerprint_of(None, Some("valve"), exe), valve, "{exe:?}");
    }
    assert_ne!(fingerprint_of(None, Some("pump"), Some("/usr/bin/logger")), valve);
    let of_unit = fingerprint_of(Some("app.service"), None, None);
    assert_eq!(fingerprint_of(Some("app.service"), Some("valve"), Some("/usr/bin/app")), of_unit);
    assert_ne!(fingerprint_of(None, None, Some("/usr/bin/app")), fingerprint_of(None, None, Some("/usr/bin/b")));
}

#[test]
fn what_a_program_calls_itself_is_told_with_the_count_of_its_lines_too_were_it_after_a_crash() {
    let mut before = incidents(8);
    let mut lines = batch(&["valve 5 jammed", "valve 6 jammed"]);
    lines.lines.iter_mut().for_each(|line| (line.unit, line.identifier) = (None, Some("valve".into())));
    let first = before.take(at(0), lines);
    let unsaid = minicbor::decode(&before.unsaid().unwrap()).unwrap();
    let count = Incidents::restore(before.settings, at(0), unsaid).poll(Mono(120_000), 8);
    for told in [first, count] {
        let names: Vec<_> = told.iter().map(|event| event.field("identifier").cloned()).collect();
        assert_eq!(names, [Some(Field::Value("valve".into()))], "{told:?}");
    }
}

/// Lines of app.service that are a cluster each.
fn unlike_lines(count: u8) -> ErrorBatch {
    let word = |n: u8| format!("w{}{}", char::from(b'a' + n / 10), char::from(b'a' + n % 10));
    let words: Vec<String> = (0..count).map(word).collect();
    batch(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_unit_that_says_something_else_each_time_hides_neither_another_unit_nor_what_systemd_says() {
    let mut incidents = incidents(512);
    for minute in 0..3 {
        let now = at(minute * 61_000);
        let noise = incidents.take(now, unlike_lines(100)).len();
        assert_eq!(noise, TOLD_AT_ONCE_OF_ONE as usize, "minute {minute}");
        let mut others = batch(&["database is corrupt"; 2]);
        others.lines[0].unit = Some("db.service".into());
        (others.lines[1].unit, others.lines[1].identifier) = (None, Some("kim".into()));
        assert_eq!(incidents.take(now, others).len(), 2, "minute {minute}");
    }
    // And not even all of them together the latter.
    let mut more = unlike_lines(100);
    more.lines.iter_mut().enumerate().for_each(|(n, line)| line.unit = Some(format!("u{n}.service")));
    assert!(incidents.take(at(122_000), more).len() < 30);
    for kind in [ErrorKind::UnitFailure, ErrorKind::OomKill, ErrorKind::Coredump] {
        let mut failed = batch(&["db.service: Failed with result 'exit-code'."]);
        failed.lines[0].kind = kind;
        failed.lines[0].unit = Some(format!("{kind:?}"));
        assert_eq!(incidents.take(at(122_000), failed).len(), 1, "{kind:?}");
    }
}

/// Unlike lines of applications, each of another unit, as they claim.
fn claimed(count: u8) -> ErrorBatch {
    let mut lines = unlike_lines(count);
    for (n, line) in lines.lines.iter_mut().enumerate() {
        (line.source, line.unit) = (ErrorSource::App, Some(format!("u{n}.service")));
    }
    lines
}

#[test]
fn what_applications_claim_hides_no_line_of_the_journal() {
    let mut incidents = incidents(512);
    for minute in 0..3 {
        let now = at(minute * 61_000);
        let told = incidents.take(now, claimed(200)).len();
        assert_eq!(told, TOLD_AT_ONCE_PER_MINUTE as usize, "minute {minute}");
        let own = incidents.take(now, batch(&["pump motor is on fire"]));
        assert_eq!(own.len(), 1, "minute {minute}");
    }
    // Nor under the name of one of its units.
    let mut noise = unlike_lines(100);
    noise.lines.iter_mut().for_each(|line| line.source = ErrorSource::App);
    let told = incidents.take(at(200_000), noise).len();
    assert_eq!(told, TOLD_AT_ONCE_OF_ONE as usize);
    assert_eq!(incidents.take(at(200_000), batch(&["pump motor is on fire"])).len(), 1);
}

#[test]
fn where_applications_fill_the_memory_for_clusters_the_journal_takes_the_place_of_one() {
    let mut incidents = incidents(8);
    incidents.take(at(0), batch(&["alpha", "alpha"]));
    incidents.take(at(1), claimed(20));
    incidents.take(at(2), claimed(20));
    assert_eq!(incidents.clusters(), 8);
    assert_eq!(incidents.take(at(3), batch(&["pump motor is on fire"])).len(), 1);
    assert_eq!(incidents.clusters(), 8);
    assert_eq!(incidents.take(at(4), claimed(20)), [], "and none of them that of the journal");
    let told = incidents.poll(Mono(120_000), 9);
    assert!(told.iter().any(|event| &*event.name == "alpha"), "{told:?}");
    assert_eq!(told.len(), 7, "six of applications and one of the journal");
}

#[test]
fn a_storm_of_unlike_lines_becomes_a_count() {
    let mut incidents = incidents(512);
    let mut storm = unlike_lines(100);
    storm.lines.iter_mut().step_by(2).for_each(|line| line.unit = Some("other.service".into()));
    let told = incidents.take(at(0), storm).len();
    assert_eq!(told, TOLD_AT_ONCE_PER_MINUTE as usize);
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
    assert_eq!(classes, [Some(&class), None], "an application's words are not the kernel's, and a restart is no event");
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
