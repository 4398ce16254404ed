//! `fieldmedic status`: asks the running daemon over its socket.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value as Json;

use super::{BAD_USAGE, ConfigArgs, DONE, FAILED, NO_DAEMON, fail, runtime};
use crate::config;
use crate::runtime::local::ask_status;

/// The default of `local.socket`.
const DEFAULT_SOCKET: &str = "/run/fieldmedic/agent.sock";
/// How often `--watch` asks.
const WATCH_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  fieldmedic status\n  fieldmedic status --json | jq .outbox\n  fieldmedic status --watch"
)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    at: SocketArgs,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Again every two seconds, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

/// Where the daemon listens.
#[derive(Debug, Args)]
pub(super) struct SocketArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The daemon's socket, instead of the one that the configuration names.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl SocketArgs {
    /// `None` where the configuration is wrong, which was said.
    pub(super) fn find(self) -> Option<PathBuf> {
        if self.socket.is_some() {
            return self.socket;
        }
        let files = self.config.files();
        if files.is_empty() {
            // No configuration to be found: where the daemon listens unless one says otherwise.
            return Some(PathBuf::from(DEFAULT_SOCKET));
        }
        match config::load(&files) {
            Ok(loaded) => Some(loaded.config.local.socket),
            Err(problems) => {
                for problem in &problems {
                    eprintln!("{problem}");
                }
                eprintln!("fieldmedic: name the socket with --socket, or a configuration with --config");
                None
            }
        }
    }
}

pub(super) fn run(args: StatusArgs) -> u8 {
    let Some(socket) = args.at.find() else { return BAD_USAGE };
    let rt = match runtime() {
        Ok(rt) => rt,
        Err(error) => return fail(&error),
    };
    loop {
        let answer = match rt.block_on(ask_status(&socket)) {
            Ok(answer) if !answer.is_empty() => answer,
            Ok(_) => return no_daemon(&socket, "it closed the connection: it is busy"),
            Err(error) => return no_daemon(&socket, &error.to_string()),
        };
        let text = if args.json { answer } else { readable(&answer) };
        if show(&text, args.watch && !args.json).is_err() {
            return FAILED;
        }
        if !args.watch {
            return DONE;
        }
        rt.block_on(pause());
    }
}

#[expect(clippy::disallowed_methods, reason = "a console that refreshes itself waits for its next turn")]
async fn pause() {
    tokio::time::sleep(WATCH_EVERY).await;
}

fn no_daemon(socket: &std::path::Path, why: &str) -> u8 {
    eprintln!("fieldmedic: no daemon answers on {}: {why}; is fieldmedic.service running?", socket.display());
    NO_DAEMON
}

fn show(text: &str, clear: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if clear && out.is_terminal() {
        // Home, and clear what follows (ECMA-48).
        write!(out, "\x1b[H\x1b[J")?;
    }
    writeln!(out, "{}", text.trim_end())?;
    out.flush()
}

/// The status for a human: what is well in a line each, and what isn't with its reason.
fn readable(answer: &str) -> String {
    let Ok(status) = serde_json::from_str::<Json>(answer) else { return answer.to_owned() };
    let text = |pointer: &str| status.pointer(pointer).map(plain).unwrap_or_default();
    let broker = if status.pointer("/broker/online") == Some(&Json::Bool(true)) {
        format!("online for {} s", text("/broker/online_s"))
    } else {
        let fault = status.pointer("/broker/fault").map_or("not connected yet".to_owned(), plain);
        let retry = status.pointer("/broker/retry_in_s").map_or(String::new(), |s| format!("; next try in {s} s"));
        format!("OFFLINE: {fault}{retry}")
    };
    let store =
        status.pointer("/outbox/fault").map_or_else(|| "ok".to_owned(), |fault| format!("FAILS: {}", plain(fault)));
    let mut lines = vec![
        format!("device      {} (fieldmedic {}, boot {})", text("/device"), text("/agent"), text("/boot")),
        format!("broker      {} {broker}", text("/broker/url")),
        format!(
            "outbox      {} results, {} events, {} samples wait; {} of {} used; {} publishes under way",
            text("/outbox/records/results"),
            text("/outbox/records/events"),
            text("/outbox/records/telemetry"),
            bytes(status.pointer("/outbox/bytes")),
            bytes(status.pointer("/outbox/max_bytes")),
            text("/outbox/inflight"),
        ),
        format!("store       {store}; {} free on its disk", bytes(status.pointer("/outbox/free_bytes"))),
        format!("commands    {} queued or under way", text("/commands_open")),
        format!("quarantine  {}", text("/quarantine")),
    ];
    lines.extend(drain(&status));
    lines.extend(alarms(&status));
    for group in ["battery", "link", "errors", "host"] {
        if let Some(fields) = status.pointer(&format!("/sample/{group}")).and_then(Json::as_object) {
            let fields: Vec<String> = fields
                .iter()
                .filter(|(key, value)| !value.is_object() && !key.ends_with("_min") && !key.ends_with("_max"))
                .map(|(key, value)| format!("{key} {}", plain(value)))
                .collect();
            lines.push(format!("{group:<11} {}", fields.join(", ")));
        }
    }
    lines.join("\n")
}

/// How the backlog of an outage goes, while there is one.
fn drain(status: &Json) -> Option<String> {
    let drain = status.pointer("/outbox/drain")?;
    let count = |key: &str| drain.get(key).and_then(Json::as_u64);
    let (of, remaining) = (count("of_records")?, count("remaining_records")?);
    let left = count("left_s").map_or(String::new(), |left_s| {
        format!(", {} to go at this rate", humantime::format_duration(Duration::from_secs(left_s)))
    });
    let done_pct = of.saturating_sub(remaining).saturating_mul(100) / of.max(1);
    Some(format!(
        "draining    {remaining} of {of} samples of the outage are still to be sent ({done_pct} % done){left}"
    ))
}

/// A line for each alarm that stands.
fn alarms(status: &Json) -> Vec<String> {
    let alarms = status.pointer("/alarms").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    if alarms.is_empty() {
        return vec!["alarms      none".to_owned()];
    }
    let line = |alarm: &Json| {
        let text = |key: &str| alarm.get(key).map(plain).unwrap_or_default();
        let since = alarm.get("since").map_or(String::new(), |since| format!(" since {}", plain(since)));
        format!("ALARM       {} ({}): {}{since}", text("rule"), text("severity"), text("metric"))
    };
    alarms.iter().map(line).collect()
}

fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Number(number) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

fn bytes(value: Option<&Json>) -> String {
    bytesize::ByteSize(value.and_then(Json::as_u64).unwrap_or(0)).to_string()
}
