//! What happens in the demo, and when: the agent comes up, a command restarts the workload, the broker is cut off, the
//! buffer fills and drains. At the end it says what of that did not happen.

#![expect(clippy::disallowed_methods, reason = "the scenes are set by the clock")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep, timeout};

use super::super::shell::word_of_path;
use super::super::{say, send};
use super::Leave;
use super::stage::{self, Stage};
use super::viewer::{Seen, Viewer};
use crate::broker::serve::Control;
use crate::runtime::local::ask_status;
use crate::runtime::mqtt::client::Client;
use crate::runtime::mqtt::transport::Target;
use crate::runtime::{self as agent, Options};
use crate::wire::token;

/// How long the broker is away.
const OUTAGE: Duration = Duration::from_secs(4);
/// How long the demo's command is valid.
const COMMAND_LIFE: Duration = Duration::from_secs(600);
/// How long each thing may take to happen.
const PATIENCE: Duration = Duration::from_secs(6);

/// How long its goodbye may take where it was not seen to be there.
const UNSEEN: Duration = Duration::from_secs(1);

/// How it went.
pub(super) enum Verdict {
    /// All of it happened.
    All,
    /// The visitor left before all of it could, and had asked for no verdict.
    LeftEarly,
    /// There was no time for all of it, and who asked for a verdict gets it.
    TooShort,
    /// These didn't.
    Missing(Vec<&'static str>),
}

/// Plays until the time is over or it is asked to leave. Who has said how long it may take asks for a verdict; who only
/// leaves doesn't, on what was to come.
pub(super) async fn play(stage: Stage, duration: Option<Duration>, mut leave: Leave) -> anyhow::Result<Verdict> {
    let (stop_agent, stop) = watch::channel(false);
    let options = Options {
        config: stage.config.clone(),
        config_files: Vec::new(),
        key_files: Vec::new(),
        actor: Arc::clone(&stage.actor),
        battery_root: stage.battery.as_ref().map(|battery| battery.root.clone()),
        stop,
        service: None,
    };
    introduce(&stage);
    let target = Arc::new(Target::new(stage.config.mqtt.url.clone(), Some(stage.config.mqtt.tls.clone())));
    let (seen_in, seen) = watch::channel(Seen::default());
    let viewer = Viewer::new(seen_in, stage.battery.is_some());
    let begun = Instant::now();

    let mut agent_run = std::pin::pin!(agent::run(options));
    let mut show = std::pin::pin!(viewer.run(&target));
    let mut battery = std::pin::pin!(drain(stage.battery.as_ref().map(|battery| battery.supply.as_path())));
    let mut scenes = std::pin::pin!(scenes(&stage, &target, seen.clone()));
    let mut missing = None;
    loop {
        let left = duration.map(|duration| duration.saturating_sub(begun.elapsed()));
        tokio::select! {
            ended = &mut agent_run => return Err(ended.err().map_or_else(
                || anyhow::anyhow!("the agent ended by itself"), anyhow::Error::from)),
            error = &mut show => return Err(error),
            error = &mut battery => return Err(error),
            done = &mut scenes, if missing.is_none() => missing = Some(done?),
            () = async { match left { Some(left) => sleep(left).await, None => std::future::pending().await } } => break,
            () = leave.is_asked() => break,
        }
    }
    heading("The agent is told to stop: it says goodbye.");
    stop_agent.send_replace(true);
    let goodbye = async {
        tokio::select! {
            ended = &mut agent_run => ended.map_err(anyhow::Error::from),
            error = &mut show => Err(error),
        }
    };
    timeout(PATIENCE, goodbye).await.context("the agent did not stop in time")??;
    // Of an agent that nobody has seen there may be none.
    let patience = if seen.borrow().online { PATIENCE } else { UNSEEN };
    let farewell = timeout(patience, async {
        tokio::select! {
            ok = wait_for(seen.clone(), |seen| seen.offline) => ok,
            _ = &mut show => false,
        }
    });
    let said_goodbye = farewell.await.unwrap_or(false);
    let was_there = seen.borrow().online;
    if stage.broker.is_none() && was_there {
        clear(&stage, &target).await.context("take back what the broker retains of the demo")?;
    }
    end_broker(&stage).await;

    let mut missing = match missing {
        Some(missing) => missing,
        None if !was_there => return Err(unreached(&target).await),
        None if duration.is_none() => return Ok(Verdict::LeftEarly),
        None => return Ok(Verdict::TooShort),
    };
    if !said_goodbye {
        missing.push("the presence message that says goodbye");
    }
    Ok(if missing.is_empty() { Verdict::All } else { Verdict::Missing(missing) })
}

fn introduce(stage: &Stage) {
    let url = &stage.config.mqtt.url;
    let whose = if stage.broker.is_some() { "the demo's own broker, on loopback only" } else { "your broker" };
    say(format_args!("fieldmedic demo: the real agent on this machine's own /proc, /sys and journal."));
    say(format_args!("  broker   {url} ({whose})"));
    if stage.battery.is_some() {
        say(format_args!(
            "  battery  SIMULATED: this machine has none, so the agent reads files laid out like the kernel's"
        ));
    }
    say(format_args!("  watch    mosquitto_sub -h {} -p {} -t 'fieldmedic/#' -v", url.host, url.port));
    say(format_args!("  command  {}", send_line(stage)));
    say("");
}

/// A line for a second terminal.
fn send_line(stage: &Stage) -> String {
    let program = std::env::current_exe().map_or_else(|_| "fieldmedic".to_owned(), |path| word_of_path(&path));
    format!(
        "{program} send --url {} --key {} --to {} restart_unit unit={}",
        stage.config.mqtt.url,
        word_of_path(&stage.key_file),
        stage.config.device.id,
        stage::WORKLOAD
    )
}

fn heading(text: &str) {
    say(format_args!("\n== {text}"));
}

/// Each scene in turn; what doesn't happen within its time is noted, and the next begins.
async fn scenes(stage: &Stage, target: &Arc<Target>, seen: watch::Receiver<Seen>) -> anyhow::Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    let mut expect = |happened: bool, what| {
        if !happened {
            missing.push(what);
        }
    };
    let told = wait_for(seen.clone(), |seen| seen.online && seen.events > 0 && seen.samples > 1 && seen.attributes);
    expect(told.await, "presence, attributes, an event and telemetry from the agent");

    heading(&format!("A signed command restarts {} (its workload).", stage::WORKLOAD));
    let before = seen.borrow().succeeded;
    send_command(stage, target).await?;
    expect(wait_for(seen.clone(), |seen| seen.succeeded > before).await, "a command whose status goes to SUCCEEDED");
    if let Some(broker) = &stage.broker {
        let (filled, drained) = outage(stage, broker, &seen).await?;
        expect(filled, "the buffer filling while the broker was away");
        expect(drained, "the buffer draining when the broker was back, with nothing missing");
    } else {
        heading("Your broker is not cut off: only the demo's own is.");
    }
    Ok(missing)
}

async fn send_command(stage: &Stage, target: &Arc<Target>) -> anyhow::Result<()> {
    let claims = send::claims(stage.config.device.id.as_str(), "restart_unit", COMMAND_LIFE)?
        .arg("unit", stage::WORKLOAD.into());
    let token = token::sign(&claims, stage::KID, &stage.key)?;
    let mut client = Client::connect(target, "fieldmedic-demo-operator", None).await.map_err(describe)?;
    let topic = format!("{}/{}/commands", stage.config.mqtt.topic_prefix, stage.config.device.id);
    client.publish(&topic, token.into(), false).await.map_err(describe)?;
    Ok(())
}

/// Cuts the broker off, watches the buffer fill, and drain again.
async fn outage(
    stage: &Stage,
    broker: &mpsc::Sender<Control>,
    seen: &watch::Receiver<Seen>,
) -> anyhow::Result<(bool, bool)> {
    heading(&format!(
        "The broker is cut off for {} s. What is measured meanwhile waits in the store:",
        OUTAGE.as_secs()
    ));
    broker.send(Control::Cut(OUTAGE)).await.context("cut the broker off")?;
    let end = Instant::now() + OUTAGE;
    let mut most = 0;
    while Instant::now() < end {
        sleep(Duration::from_millis(800)).await;
        let waiting = waiting_records(&stage.config.local.socket).await?;
        most = most.max(waiting);
        say(format_args!("            outbox     {} {waiting} records wait", bar(waiting)));
    }
    heading("The broker is back. The agent reconnects with full jitter, and the buffer drains:");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let waiting = waiting_records(&stage.config.local.socket).await?;
        say(format_args!("            outbox     {} {waiting} records wait", bar(waiting)));
        // What is measured just now may always be on its way.
        if waiting <= 2 && seen.borrow().connections > 1 {
            break;
        }
        if Instant::now() > deadline {
            return Ok((most > 0, false));
        }
        sleep(Duration::from_millis(500)).await;
    }
    let complete = wait_for(seen.clone(), |seen| seen.missing_seconds() == 0).await;
    Ok((most > 0, complete))
}

fn bar(records: u64) -> String {
    "#".repeat(usize::try_from(records.min(40)).unwrap_or(40))
}

async fn waiting_records(socket: &Path) -> anyhow::Result<u64> {
    let answer = ask_status(socket).await.context("ask the agent for its status")?;
    let status: serde_json::Value = serde_json::from_str(&answer).context("read the agent's status")?;
    let records = status.pointer("/outbox/records").and_then(serde_json::Value::as_object);
    Ok(records.into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum())
}

/// False if it did not come true in time.
async fn wait_for(mut seen: watch::Receiver<Seen>, ready: impl FnMut(&Seen) -> bool) -> bool {
    timeout(PATIENCE, seen.wait_for(ready)).await.is_ok_and(|found| found.is_ok())
}

/// Lets the simulated battery run down; never returns but on a failure.
async fn drain(supply: Option<&Path>) -> anyhow::Error {
    let Some(supply) = supply else { return std::future::pending().await };
    let mut ticks = interval(Duration::from_secs(1));
    for seconds in 0.. {
        ticks.tick().await;
        if let Err(error) = stage::drain_battery(supply, seconds) {
            return anyhow::Error::from(error).context("write the simulated battery's files");
        }
    }
    anyhow::anyhow!("the simulated battery outlived the program")
}

/// Why nothing came of the agent.
async fn unreached(target: &Arc<Target>) -> anyhow::Error {
    match timeout(PATIENCE, Client::connect(target, "fieldmedic-demo-operator", None)).await {
        Ok(Err(fault)) => describe(fault).context("the broker could not be reached"),
        Err(_) => anyhow::anyhow!("the broker could not be reached: no answer within {} s", PATIENCE.as_secs()),
        Ok(Ok(_)) => anyhow::anyhow!("nothing came of the agent in the time that it had; {}", super::in_time()),
    }
}

/// Leaves nothing retained on a broker of somebody's: an empty message takes a retained one away (MQTT 5, 3.3.1.3).
async fn clear(stage: &Stage, target: &Arc<Target>) -> anyhow::Result<()> {
    let mut client = Client::connect(target, "fieldmedic-demo-operator", None).await.map_err(describe)?;
    for leaf in ["presence", "attributes"] {
        let topic = format!("{}/{}/{leaf}", stage.config.mqtt.topic_prefix, stage.config.device.id);
        client.publish(&topic, Bytes::new(), true).await.map_err(describe)?;
    }
    client.disconnect().await.map_err(describe)
}

async fn end_broker(stage: &Stage) {
    if let Some(broker) = &stage.broker {
        // Fails only if it has ended already.
        let _ = broker.send(Control::Stop).await;
    }
}

fn describe(fault: crate::engine::io::LinkFault) -> anyhow::Error {
    anyhow::anyhow!("{}", fault.detail)
}
