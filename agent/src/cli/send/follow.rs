//! Follows a command that was sent: shows the results that come, until its end or until nobody waits any longer, and says
//! by them how `fieldmedic send` ends.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::Value as Json;
use tokio::time::{Instant, sleep, timeout_at};

use super::snapshot::{Piece, Snapshots};
use super::{SendArgs, To, connect, describe};
use crate::cli::{DONE, FAILED};
use crate::runtime::mqtt::client::Client;
use crate::wire::{CommandId, printable};

/// Between two tries to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// What came of the waiting.
pub(super) struct Followed {
    /// By device.
    answers: BTreeMap<String, Answer>,
    /// The connection broke meanwhile: an answer that came just then is missed.
    has_gap: bool,
}

/// Shows the results of this command as they come, until its end; of a group, until nobody needs to be waited for any
/// longer. A connection that breaks is made again: what was sent is not sent again.
pub(super) async fn follow(
    args: &SendArgs,
    mut client: Client,
    id: &CommandId,
    until: Instant,
    out: &mut impl Write,
    err: &mut impl Write,
) -> anyhow::Result<Followed> {
    let (mut answers, mut snapshots) = (BTreeMap::new(), Snapshots::default());
    let mut has_gap = false;
    while !is_over(args, &answers) {
        let Ok(message) = timeout_at(until, client.next_message()).await else { break };
        let message = match message {
            Ok(message) => message,
            Err(fault) => {
                let why = fault.detail;
                writeln!(err, "fieldmedic: {why}; the command is sent as {id}: connecting again")?;
                has_gap = true;
                match listen_again(args, until).await {
                    Ok(again) => client = again,
                    Err(why) => {
                        writeln!(err, "fieldmedic: could not connect again: {why:#}")?;
                        return Ok(Followed { answers, has_gap });
                    }
                }
                continue;
            }
        };
        if !message.topic.ends_with("/results") {
            continue;
        }
        let Ok(result) = serde_json::from_slice::<Json>(&message.payload) else { continue };
        if result["command_id"] == id.as_str() && is_news(&mut answers, &result) {
            let line = if args.json { result.to_string() } else { in_words(result, &mut snapshots) };
            writeln!(out, "{line}").and_then(|()| out.flush()).context("show a result")?;
        }
    }
    // So that the broker needn't find out by itself. What was wanted is done, however this ends.
    let _ = client.disconnect().await;
    Ok(Followed { answers, has_gap })
}

/// The exit code, with the reason on stderr where the results don't tell it.
pub(super) fn judge(
    args: &SendArgs,
    known: &str,
    Followed { answers, has_gap }: &Followed,
    err: &mut impl Write,
) -> anyhow::Result<u8> {
    if args.wait.is_zero() {
        return Ok(DONE);
    }
    let waited = humantime::format_duration(args.wait);
    if *has_gap && !is_over(args, answers) {
        writeln!(
            err,
            "fieldmedic: what came while there was no connection was missed: the results of the fleet have it"
        )?;
    }
    if answers.is_empty() {
        writeln!(err, "fieldmedic: no answer within {waited}: {known}")?;
        return Ok(FAILED);
    }
    for (device, answer) in answers.iter().filter(|(_, answer)| !answer.is_last()) {
        let (device, status) = (printable(device), printable(&answer.status));
        writeln!(err, "fieldmedic: {device} is still at {status} after {waited}; its end will come as a result")?;
    }
    let all = answers.values().all(|answer| answer.status == "SUCCEEDED");
    Ok(if all { DONE } else { FAILED })
}

/// The last word of a device on the command.
struct Answer {
    seq: Option<u64>,
    status: String,
}

impl Answer {
    fn is_last(&self) -> bool {
        !matches!(self.status.as_str(), "QUEUED" | "IN_PROGRESS")
    }
}

/// Connects and subscribes again; why not, if that takes longer than there is time.
async fn listen_again(args: &SendArgs, until: Instant) -> anyhow::Result<Client> {
    let listen = async || {
        let mut client = connect(args).await?;
        client.subscribe(&[&args.results_topic()]).await.map_err(describe)?;
        anyhow::Ok(client)
    };
    let mut last = anyhow!("there was no time");
    loop {
        match timeout_at(until, listen()).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(why)) => last = why,
            Err(_) => return Err(last),
        }
        if timeout_at(until, sleep(RECONNECT_PAUSE)).await.is_err() {
            return Err(last);
        }
    }
}

/// How many of a group will answer is not known, so only the clock ends that.
fn is_over(args: &SendArgs, answers: &BTreeMap<String, Answer>) -> bool {
    args.wait.is_zero() || (matches!(args.to, To::Device(_)) && answers.values().any(Answer::is_last))
}

/// Notes a result. False for one that came twice: `seq` only rises (MQTT gives QoS 1 messages at least once).
fn is_news(answers: &mut BTreeMap<String, Answer>, result: &Json) -> bool {
    let word = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
    let (device, answer) = (word("device"), Answer { seq: result["seq"].as_u64(), status: word("status") });
    let known = answers.get(&device).is_some_and(|last| answer.seq.is_some() && answer.seq <= last.seq);
    if !known {
        answers.insert(device, answer);
    }
    !known
}

fn in_words(mut result: Json, snapshots: &mut Snapshots) -> String {
    if let Some(piece) = snapshots.take(&result) {
        let (detail, output) = match piece {
            Piece::Part(part, parts) => (format!("part {part} of {parts} of a snapshot"), None),
            Piece::Whole(text) => ("a snapshot:".to_owned(), Some(text)),
            Piece::Unreadable(why) => (format!("a snapshot that can't be shown: {why}"), None),
        };
        result["detail"] = detail.into();
        result["output"] = output.into();
    }
    let word = |key: &str| result[key].as_str().unwrap_or_default();
    let progress = result["progress_pct"].as_u64().map(|percent| format!("{percent} %"));
    let parts =
        [word("device"), word("status"), progress.as_deref().unwrap_or_default(), word("reason"), word("detail")];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let mut text = parts.join(" ");
    if let Some(output) = result["output"].as_str() {
        text = format!("{text}\n{}", output.trim_end());
    }
    // Without what a terminal would obey: it comes from a gateway, and perhaps from one that was broken into.
    printable(&text).into_owned()
}
