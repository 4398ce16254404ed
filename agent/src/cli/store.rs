//! `fieldmedic store`: looks into a store without changing it, also while the daemon runs.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::{ConfigArgs, exit_code, unusable};
use crate::config::{self, Problem};
use crate::engine::record::{Class, Record};
use crate::engine::time::Unix;
use crate::engine::timeline::Timeline;
use crate::store;
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
    /// How many records wait in each log, and how much space they take: one JSON object a log.
    #[command(after_help = "Example:\n  fieldmedic store stat --path /var/lib/fieldmedic/store")]
    Stat,
    /// All records that wait, as JSON lines: what was written but not yet committed is in it too.
    #[command(after_help = "Example:\n  fieldmedic store export | jq -c 'select(.log == \"events\")'")]
    Export,
}

pub(super) fn run(args: &StoreArgs) -> u8 {
    let path = match find(args) {
        Ok(path) => path,
        Err(problems) => return unusable(&problems, "name the store with --path, or a configuration with --config"),
    };
    exit_code(look(&args.what, &path))
}

fn find(args: &StoreArgs) -> Result<PathBuf, Vec<Problem>> {
    if let Some(path) = &args.path {
        return Ok(path.clone());
    }
    let config = ConfigArgs { files: args.files.clone() }.load()?;
    Ok(config.map_or_else(|| PathBuf::from(config::DEFAULT_STORE), |config| config.store.path))
}

fn look(what: &What, path: &Path) -> anyhow::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    match what {
        What::Stat => stat(path, &mut out)?,
        What::Export => export(path, &mut out)?,
    }
    out.flush().context("write to stdout")
}

fn stat(path: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    for (class, summary) in store::inspect(path)? {
        let line = json!({
            "log": class.word(),
            "records": summary.range.records,
            "bytes": summary.bytes,
            "first_seq": summary.range.first,
            "last_seq": summary.range.last,
        });
        writeln!(out, "{line}").context("write to stdout")?;
    }
    Ok(())
}

fn export(path: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let mut written = Ok(());
    store::export(path, |class, seq, bytes| {
        if written.is_ok() {
            written = writeln!(out, "{}", line(class, seq, bytes));
        }
    })?;
    written.context("write to stdout")
}

/// A record as its payload, but without a device, and without a date: those are made at sending.
fn line(class: Class, seq: u64, bytes: &[u8]) -> Json {
    let mut line = match Record::decode(bytes) {
        Ok(record) => {
            let timeline = Timeline::new(record.at.boot, std::collections::BTreeMap::new(), None, Unix(0));
            let speaker = Speaker { device: "", timeline: &timeline };
            serde_json::from_slice(&speaker.record(seq, &record)).unwrap_or_else(|_| json!({}))
        }
        Err(error) => json!({"seq": seq, "unreadable": error.to_string()}),
    };
    if let Some(fields) = line.as_object_mut() {
        fields.remove("device");
        fields.remove("time");
        fields.insert("log".into(), class.word().into());
    }
    line
}
