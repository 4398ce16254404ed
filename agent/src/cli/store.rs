//! `fieldmedic store`: looks into a store without changing it, also while the daemon runs.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::{ConfigArgs, DONE, FAILED, WhileRead, fail, unusable};
use crate::config::{self, CheckedConfig, Problem};
use crate::engine::anchors;
use crate::engine::record::{Class, Record};
use crate::engine::time::{BootId, Unix};
use crate::engine::timeline::Timeline;
use crate::store::{self, LogSummary};
use crate::wire::payload::Speaker;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  fieldmedic store stat\n  fieldmedic store export --path /var/lib/fieldmedic/store | jq -c .seq"
)]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    what: What,
    /// The store's directory, instead of the one that the configuration names.
    #[arg(long, value_name = "DIR", global = true)]
    path: Option<PathBuf>,
    /// A configuration file; may be repeated.
    #[arg(long = "config", value_name = "FILE", global = true)]
    files: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// How many records wait in each log, how many damage took, and how much space they take: one JSON object a log.
    #[command(after_help = "Example:\n  fieldmedic store stat --path /var/lib/fieldmedic/store")]
    Stat,
    /// All records that wait, as JSON lines: what was written but not yet committed is in it too. Dated where the clock
    /// was known; with `device` unless --path alone names the store: then add the gateway's own --config.
    #[command(
        after_help = "Example:\n  fieldmedic store export | jq -c 'select(.type)'   # events, audit events among them"
    )]
    Export,
}

pub(super) fn run(args: &StoreArgs) -> u8 {
    let (path, device) = match find(args) {
        Ok(found) => found,
        Err(problems) if args.path.is_some() => {
            return unusable(&problems, "correct it, or leave --config out: then no record has its `device`");
        }
        Err(problems) => return unusable(&problems, "name the store with --path, or a configuration with --config"),
    };
    let is_default = || args.path.is_none() && ConfigArgs { files: args.files.clone() }.files().is_empty();
    if let Err(error) = check(&path, is_default) {
        return fail(&error);
    }
    let (mut out, mut err) = (BufWriter::new(WhileRead(io::stdout().lock())), io::stderr().lock());
    let looked = match args.what {
        What::Stat => stat(&path, &mut out, &mut err),
        What::Export => export(&path, device.as_deref(), &mut out, &mut err),
    };
    let looked = looked.and_then(|code| out.flush().context("write to stdout").map(|()| code));
    drop(err);
    looked.unwrap_or_else(|error| fail(&error))
}

/// The store, and whose records they are, where that can be told: of one that was only named by its path it can't, and
/// what names no device has this machine's name.
fn find(args: &StoreArgs) -> Result<(PathBuf, Option<String>), Vec<Problem>> {
    let mut device = None;
    let Some(path) = &args.path else {
        let of = |config: CheckedConfig| {
            device = Some(config.device.id.to_string());
            config.store.path
        };
        let path = ConfigArgs { files: args.files.clone() }.path_of(of, config::DEFAULT_STORE, "--path")?;
        return Ok((path, device));
    };
    if !args.files.is_empty() {
        // By a name that is no device's, so that this machine's isn't taken for it.
        let loaded = config::load_on_host(&args.files, "localhost")?;
        let is_named = loaded.warnings.iter().all(|warning| warning.key != "device.id");
        device = is_named.then(|| loaded.config.device.id.to_string());
    }
    Ok((path.clone(), device))
}

/// Whether there is a store that may be read; else what to do. The path `is_default` where nothing names one.
fn check(path: &Path, is_default: impl FnOnce() -> bool) -> anyhow::Result<()> {
    let Err(error) = store::look_at(path) else { return Ok(()) };
    let mut advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "its owner and root may read it: run this with sudo".to_owned(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => match store_near(path) {
            Some(store) => format!("the store is {}", store.display()),
            None if path.is_dir() => "there is no outbox in it".to_owned(),
            None => "there is no store".to_owned(),
        },
        _ => return Err(error).with_context(|| format!("read the store at {}", path.display())),
    };
    if is_default() {
        advice.push_str("; no configuration was found, so this is the default: --path or --config names another");
    }
    Err(error).with_context(|| format!("read the store at {} ({advice})", path.display()))
}

/// A store that a path lies in, or that lies in it.
fn store_near(path: &Path) -> Option<PathBuf> {
    let below = path.join("store");
    let named = |path: &Path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() };
    path.ancestors().map(named).chain([below]).find(|path| store::look_at(path).is_ok())
}

/// Gives the exit code. A log that can't be read is told on `err`, and doesn't hide the others.
fn stat(path: &Path, out: &mut impl Write, err: &mut impl Write) -> anyhow::Result<u8> {
    let mut code = DONE;
    for (class, summary) in store::inspect(path)? {
        let summary = match summary {
            Ok(summary) => summary,
            Err(fault) => {
                writeln!(err, "fieldmedic: {fault}").context("write to stderr")?;
                code = FAILED;
                continue;
            }
        };
        tell_illegible(class, &summary, err)?;
        let line = json!({
            "log": class.word(),
            "records": summary.range.records,
            "damaged": summary.damaged,
            "bytes": summary.bytes,
            "first_seq": summary.range.first,
            "last_seq": summary.range.last,
        });
        writeln!(out, "{line}").context("write to stdout")?;
    }
    Ok(code)
}

/// The same; what damage took is told on `err`, as there is no record of it.
fn export(path: &Path, device: Option<&str>, out: &mut impl Write, err: &mut impl Write) -> anyhow::Result<u8> {
    let mut code = DONE;
    let mut written = Ok(());
    let known = Known::read(path, device, err)?;
    let logs = store::export(path, |class, seq, bytes| {
        if written.is_ok() {
            written = writeln!(out, "{}", known.line(class, seq, bytes));
        }
    })?;
    written.context("write to stdout")?;
    for (class, summary) in logs {
        let told = match summary {
            Ok(summary) => {
                tell_illegible(class, &summary, err)?;
                if summary.damaged == 0 {
                    continue;
                }
                let are = if summary.damaged == 1 { "record is" } else { "records are" };
                format!("{}: {} {are} damaged, and left out", class.word(), summary.damaged)
            }
            Err(fault) => {
                code = FAILED;
                fault.to_string()
            }
        };
        writeln!(err, "fieldmedic: {told}").context("write to stderr")?;
    }
    Ok(code)
}

/// What of a log can't be read at all.
fn tell_illegible(class: Class, summary: &LogSummary, err: &mut impl Write) -> anyhow::Result<()> {
    let log = class.word();
    if summary.illegible > 0 {
        let (illegible, segments) = (summary.illegible, summary.segments);
        writeln!(
            err,
            "fieldmedic: {log}: {illegible} of {segments} segments can't be read at all, and each is counted as one damaged \
             record at least"
        )
        .context("write to stderr")?;
    }
    if summary.cursor_lost {
        let what = "the cursor can't be read: what was acknowledged already is shown as waiting";
        writeln!(err, "fieldmedic: {log}: {what}").context("write to stderr")?;
    }
    Ok(())
}

/// What of a gateway is known where its records are shown.
struct Known<'a> {
    device: Option<&'a str>,
    /// The boots in which the clock was trusted.
    timeline: Timeline,
    /// And those are all of them.
    is_whole: bool,
}

impl<'a> Known<'a> {
    /// What of the state below `path` can't be read is told on `err`.
    fn read(path: &Path, device: Option<&'a str>, err: &mut impl Write) -> anyhow::Result<Self> {
        let (state, lost) = match store::peek_state(path) {
            Ok((state, losses)) => (state, losses.into_iter().map(|loss| loss.what).collect()),
            Err(fault) => (Vec::new(), vec![fault.to_string()]),
        };
        for what in &lost {
            writeln!(err, "fieldmedic: {what}; a date that the state doesn't give is left out")
                .context("write to stderr")?;
        }
        let anchors = anchors(state.iter().map(|(key, value)| (key.as_str(), value)));
        // Dates stamps of any boot, whichever runs.
        let timeline = Timeline::new(BootId([0; 16]), anchors, None, Unix(0));
        Ok(Self { device, timeline, is_whole: lost.is_empty() })
    }

    /// A record as its payload; without a device or a date where nobody knows them.
    fn line(&self, class: Class, seq: u64, bytes: &[u8]) -> Json {
        let (mut line, is_dated) = match Record::decode(bytes) {
            Ok(record) => {
                let speaker = Speaker { device: self.device.unwrap_or_default(), timeline: &self.timeline };
                let line = serde_json::from_slice(&speaker.record(seq, &record)).unwrap_or_else(|_| json!({}));
                (line, self.is_whole || self.timeline.anchor(record.at.boot).is_some())
            }
            Err(error) => (json!({"seq": seq, "unreadable": error.to_string()}), true),
        };
        if let Some(fields) = line.as_object_mut() {
            if self.device.is_none() {
                fields.remove("device");
            }
            // Null would say that the clock was never trusted: here nobody could ask.
            if !is_dated {
                fields.remove("time");
                let samples = fields.get_mut("samples").and_then(Json::as_array_mut).into_iter().flatten();
                samples.filter_map(Json::as_object_mut).for_each(|sample| drop(sample.remove("time")));
            }
            fields.insert("log".into(), class.word().into());
        }
        line
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test damages the files of a store")]
mod tests {
    use std::fs;

    use bytes::Bytes;

    use super::*;
    use crate::engine::io::StoreOp;
    use crate::engine::record::{Body, Sample, Stamp};
    use crate::engine::time::{Anchor, Mono};
    use crate::store::{Store, StoreSettings};

    /// A store with ten records each in telemetry and in events.
    fn filled(path: &Path) {
        let settings = StoreSettings { path: path.to_owned(), max_bytes: 1 << 20 };
        let (mut store, _) = Store::open(&settings).unwrap();
        for seq in 1..=20 {
            let class = if seq % 2 == 0 { Class::Telemetry } else { Class::Events };
            store.apply(StoreOp::Append { class, seq, bytes: Bytes::from(vec![b'x'; 50]) }).unwrap();
        }
        store.close().unwrap();
    }

    fn exported(path: &Path, out: &mut Vec<u8>, err: &mut Vec<u8>) -> anyhow::Result<u8> {
        export(path, None, out, err)
    }

    type Looking = fn(&Path, &mut Vec<u8>, &mut Vec<u8>) -> anyhow::Result<u8>;

    fn look(looking: Looking, path: &Path) -> (u8, Vec<Json>, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = looking(path, &mut out, &mut err).unwrap();
        let lines = out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        (code, lines.map(|line| serde_json::from_slice(line).unwrap()).collect(), String::from_utf8(err).unwrap())
    }

    fn of(lines: &[Json], log: &str) -> Vec<Json> {
        lines.iter().filter(|line| line["log"] == log).cloned().collect()
    }

    /// A store with a sample of a boot in which the clock was trusted, and one of a boot in which it never was.
    fn dated(path: &Path) -> Store {
        let settings = StoreSettings { path: path.to_owned(), max_bytes: 1 << 20 };
        let (mut store, _) = Store::open(&settings).unwrap();
        let boots = [BootId([3; 16]), BootId([4; 16])];
        let anchor = Anchor(Unix(1_795_000_000_000));
        let key = format!("anchor/{}", boots[0]);
        store.apply(StoreOp::Put { entries: vec![(key, Some(minicbor::to_vec(anchor).unwrap().into()))] }).unwrap();
        for (seq, boot) in (1..).zip(boots) {
            let sample = Sample { interval_ms: 60_000, readings: Vec::new() };
            let at = Stamp { boot, mono: Mono(70) };
            let bytes = Record { at, body: Body::Sample(sample) }.encode();
            store.apply(StoreOp::Append { class: Class::Telemetry, seq, bytes }).unwrap();
        }
        store.apply(StoreOp::Commit).unwrap();
        store
    }

    /// Of each record, and of its sample.
    fn dates(lines: &[Json]) -> Vec<(Option<&Json>, Option<&Json>)> {
        lines.iter().map(|line| (line.get("time"), line["samples"][0].get("time"))).collect()
    }

    #[test]
    fn an_exported_record_has_its_device_and_its_date_where_they_are_known() {
        let dir = tempfile::tempdir().unwrap();
        // It is still in use.
        let store = dated(dir.path());
        let (code, lines, err) = look(|path, out, err| export(path, Some("gw-1"), out, err), dir.path());
        assert_eq!((code, lines.len(), err.as_str()), (DONE, 2, ""));
        let date = json!("2026-11-18T11:06:40.070Z");
        assert!(lines.iter().all(|line| line["device"] == "gw-1"), "{lines:?}");
        assert_eq!(dates(&lines), [(Some(&date), Some(&date)), (Some(&Json::Null), Some(&Json::Null))]);
        store.close().unwrap();
    }

    #[test]
    fn what_of_a_state_is_lost_is_told_and_a_record_says_nothing_of_a_date_that_nobody_knows() {
        let dir = tempfile::tempdir().unwrap();
        dated(dir.path()).close().unwrap();
        fs::write(dir.path().join("state/db"), [0x5A; 4096]).unwrap();
        let (code, lines, err) = look(exported, dir.path());
        assert_eq!((code, dates(&lines)), (DONE, vec![(None, None); 2]), "{err}");
        assert!(err.contains("state") && err.contains("a date that the state doesn't give is left out"), "{err}");
        let sample = json!({"seq": 1, "mono_ms": 70, "interval_s": 60.0});
        assert_eq!(lines[0]["samples"], json!([sample]), "its stamp stays");
    }

    #[test]
    fn of_a_store_that_a_cut_struck_while_it_was_opened_the_copy_is_read() {
        let dir = tempfile::tempdir().unwrap();
        dated(dir.path()).close().unwrap();
        let state = dir.path().join("state");
        fs::rename(&state, dir.path().join("state.kept")).unwrap();
        fs::create_dir(&state).unwrap();
        fs::write(state.join("db"), [0x5A; 4096]).unwrap();
        let (code, lines, err) = look(exported, dir.path());
        assert_eq!((code, err.as_str()), (DONE, ""));
        assert!(lines[0]["time"].is_string(), "{lines:?}");
        assert!(dir.path().join("state.kept").exists(), "the store is left as it is");
    }

    #[test]
    fn a_path_that_is_no_store_is_told_with_the_store_that_was_meant() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        filled(&path);
        assert!(check(&path, || true).is_ok());
        let said = |path: PathBuf, is_default| format!("{:#}", check(&path, || is_default).unwrap_err());
        let meant = format!("(the store is {})", path.display());
        for near in [dir.path().to_owned(), path.join("outbox"), path.join("outbox/events")] {
            assert!(said(near.clone(), false).contains(&meant), "{}", said(near, false));
        }
        let said = said(dir.path().join("elsewhere/store"), true);
        assert!(said.contains("there is no store; no configuration was found, so this is the default"), "{said}");
    }

    #[test]
    fn what_has_vanished_from_a_store_does_not_hide_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        fs::remove_dir_all(dir.path().join("outbox/thinned")).unwrap();
        fs::remove_file(dir.path().join("outbox/events/cursor")).unwrap();
        let (code, lines, err) = look(stat, dir.path());
        assert_eq!((code, lines.len(), err.as_str()), (DONE, Class::COUNT, ""));
        assert_eq!(of(&lines, "telemetry")[0]["records"], 10);
        let (code, lines, err) = look(exported, dir.path());
        assert_eq!((code, of(&lines, "events").len(), of(&lines, "telemetry").len()), (DONE, 10, 10), "{err}");
    }

    #[test]
    fn a_log_that_cannot_be_read_is_told_and_does_not_hide_the_others() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let events = dir.path().join("outbox/events");
        fs::remove_dir_all(&events).unwrap();
        fs::write(&events, "no directory").unwrap();
        for looking in [stat, exported] as [Looking; 2] {
            let (code, lines, err) = look(looking, dir.path());
            assert_eq!((code, of(&lines, "telemetry").is_empty()), (FAILED, false), "{err}");
            assert!(err.contains("outbox/events"), "{err}");
        }
    }

    fn segment_of(store: &Path, log: &str) -> PathBuf {
        let mut files = fs::read_dir(store.join("outbox").join(log)).unwrap().map(|entry| entry.unwrap().path());
        files.find(|path| path.extension().is_some_and(|suffix| suffix == "seg")).unwrap()
    }

    #[test]
    fn a_log_of_which_nothing_is_legible_is_told_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let noise: Vec<u8> = (0..4096_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        fs::write(segment_of(dir.path(), "telemetry"), &noise).unwrap();
        fs::write(dir.path().join("outbox/events/cursor"), &noise).unwrap();
        let segment = "fieldmedic: telemetry: 1 of 1 segments can't be read at all";
        let cursor = "fieldmedic: events: the cursor can't be read";
        let (code, lines, err) = look(stat, dir.path());
        assert_eq!((code, &of(&lines, "telemetry")[0]["damaged"]), (DONE, &json!(1)), "{err}");
        assert!(err.contains(segment) && err.contains(cursor), "{err}");
        let (code, lines, err) = look(exported, dir.path());
        assert_eq!((code, of(&lines, "telemetry").len(), of(&lines, "events").len()), (DONE, 0, 10), "{err}");
        assert!(err.contains(segment) && err.contains(cursor) && err.contains("telemetry: 1 record is"), "{err}");
    }

    #[test]
    fn records_behind_a_damaged_header_are_exported() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let segment = segment_of(dir.path(), "telemetry");
        let mut bytes = fs::read(&segment).unwrap();
        bytes[0] ^= 1;
        fs::write(&segment, bytes).unwrap();
        let (_, stat, _) = look(stat, dir.path());
        let (_, lines, err) = look(exported, dir.path());
        let telemetry = of(&lines, "telemetry").len();
        assert_eq!((&of(&stat, "telemetry")[0]["records"], telemetry), (&json!(10), 10), "{err}");
    }

    #[test]
    fn a_record_that_damage_took_is_counted_and_told() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let segment = segment_of(dir.path(), "telemetry");
        let mut bytes = fs::read(&segment).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&segment, bytes).unwrap();
        let (code, lines, _) = look(stat, dir.path());
        let telemetry = &of(&lines, "telemetry")[0];
        assert_eq!((code, &telemetry["records"], &telemetry["damaged"]), (DONE, &json!(9), &json!(1)));
        let (code, lines, err) = look(exported, dir.path());
        assert_eq!((code, of(&lines, "telemetry").len()), (DONE, 9));
        assert_eq!(err, "fieldmedic: telemetry: 1 record is damaged, and left out\n");
    }
}
