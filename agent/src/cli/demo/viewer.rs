//! The fleet's side of the demo: a client of the broker that prints each message in a line, and keeps count of what was
//! seen.

#![expect(clippy::disallowed_methods, reason = "a viewer that lost its broker waits before it tries again")]

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::sync::watch;

use super::super::say;
use crate::runtime::mqtt::client::Client;
use crate::runtime::mqtt::transport::Target;

/// How long to wait before connecting again.
const RETRY: Duration = Duration::from_millis(300);
/// How long the broker keeps what the viewer misses: the agent may be back before it.
const KEEP: Duration = Duration::from_secs(60);
/// A message in a line is cut to this many characters.
const LINE_MAX: usize = 150;

/// What came from the agent so far.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) online: bool,
    pub(super) offline: bool,
    pub(super) attributes: bool,
    pub(super) events: u64,
    pub(super) samples: u64,
    pub(super) succeeded: u64,
    /// `connected` events.
    pub(super) connections: u64,
    /// Full seconds of which there is a sample.
    seconds: BTreeSet<u64>,
}

impl Seen {
    /// Seconds between the first sample and the last of which there is none: what an outage would have cost.
    pub(super) fn missing_seconds(&self) -> u64 {
        let (Some(first), Some(last)) = (self.seconds.first(), self.seconds.last()) else { return 0 };
        (last - first + 1).saturating_sub(self.seconds.len() as u64)
    }
}

/// Prints and counts.
pub(super) struct Viewer {
    seen: watch::Sender<Seen>,
    simulated: bool,
    colours: bool,
}

impl Viewer {
    pub(super) fn new(seen: watch::Sender<Seen>, simulated: bool) -> Self {
        Self { seen, simulated, colours: std::io::stdout().is_terminal() }
    }

    /// Shows what comes, and connects again whenever the broker is away. Returns only if it can't connect at all.
    pub(super) async fn run(&self, target: &Arc<Target>) -> anyhow::Error {
        loop {
            if let Ok(mut client) = Client::resume(target, "fieldmedic-demo-viewer", None, KEEP).await {
                if client.subscribe(&["fieldmedic/demo-gateway/#"]).await.is_ok() {
                    while let Ok(message) = client.next_message().await {
                        let Ok(body) = serde_json::from_slice(&message.payload) else { continue };
                        let leaf = message.topic.rsplit('/').next().unwrap_or_default();
                        self.show(leaf, &body, message.retain);
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn show(&self, leaf: &str, body: &Json, retained: bool) {
        if leaf == "commands" {
            return;
        }
        self.count(leaf, body, retained);
        let text = match leaf {
            "telemetry" => self.telemetry(body),
            "events" => event(body),
            "results" => result(body),
            "presence" => presence(body),
            _ => body["dynamic"].to_string(),
        };
        let time = body["time"].as_str().and_then(|time| time.get(11..19)).unwrap_or("--:--:--");
        let text: String = text.chars().take(LINE_MAX).collect();
        let (on, off) = if self.colours { (colour(leaf), "\x1b[0m") } else { ("", "") };
        say(format_args!("{time}    {on}{leaf:<11}{off}{text}"));
    }

    fn count(&self, leaf: &str, body: &Json, retained: bool) {
        self.seen.send_modify(|seen| match leaf {
            "telemetry" => {
                for sample in body["samples"].as_array().into_iter().flatten() {
                    seen.samples += 1;
                    // Reports stand on a grid of one second since the agent's start; halves round to their own second.
                    seen.seconds.extend(sample["mono_ms"].as_u64().map(|ms| ms / 1000));
                }
            }
            "events" => {
                seen.events += 1;
                seen.connections += u64::from(body["name"] == "connected");
            }
            "results" => seen.succeeded += u64::from(body["status"] == "SUCCEEDED"),
            "presence" if !retained || body["online"] == true => {
                seen.online |= body["online"] == true;
                seen.offline = body["online"] == false;
            }
            "attributes" => seen.attributes = true,
            _ => {}
        });
    }

    fn telemetry(&self, body: &Json) -> String {
        let samples = body["samples"].as_array().map_or(0, Vec::len);
        let Some(sample) = body["samples"].as_array().and_then(|samples| samples.last()) else { return String::new() };
        let number = |pointer: &str, unit: &str| {
            sample.pointer(pointer).and_then(Json::as_f64).map(|value| format!("{value:.1}{unit}"))
        };
        let count = |pointer: &str, unit: &str| {
            sample.pointer(pointer).and_then(Json::as_u64).map(|count| format!("{count}{unit}"))
        };
        let simulated = if self.simulated { " (simulated)" } else { "" };
        let parts = [
            Some(if samples == 1 { "1 sample:".to_owned() } else { format!("{samples} samples, the last:") }),
            number("/battery/charge_pct", "%").map(|charge| format!("battery {charge}{simulated}")),
            sample.pointer("/link/interface").and_then(Json::as_str).map(|name| format!("via {name}")),
            count("/link/tx_bytes", " B").map(|bytes| format!("sent {bytes}")),
            number("/host/cpu_pct", "%").map(|cpu| format!("cpu {cpu}")),
            number("/host/mem_used_pct", "%").map(|memory| format!("memory {memory}")),
            count("/errors/count", "").map(|errors| format!("errors {errors}")),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
    }
}

fn event(body: &Json) -> String {
    let word = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    let envelope = ["v", "device", "boot", "seq", "time", "mono_ms", "severity", "type", "name"];
    let rest: Vec<String> = body
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !envelope.contains(&key.as_str()))
        .map(|(_, fields)| fields.to_string())
        .collect();
    format!("{} {}: {} {}", word("severity"), word("type"), word("name"), rest.join(" "))
}

fn result(body: &Json) -> String {
    let word = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    format!("{} {} {} {}", word("command"), word("status"), word("reason"), word("detail"))
}

fn presence(body: &Json) -> String {
    match body["reason"].as_str() {
        Some(reason) => format!("offline ({reason})"),
        None => format!("online, fieldmedic {}", body["agent"].as_str().unwrap_or_default()),
    }
}

/// SGR colours of ECMA-48.
fn colour(leaf: &str) -> &'static str {
    match leaf {
        "telemetry" => "\x1b[36m",
        "events" => "\x1b[33m",
        "results" => "\x1b[32m",
        _ => "\x1b[35m",
    }
}
