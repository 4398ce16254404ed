//! `fieldmedic send`: signs a command, publishes it, and shows each status that comes back.

#![expect(clippy::disallowed_methods, reason = "a command is dated by the sender's clock, and waited for")]
#![expect(clippy::indexing_slicing, reason = "a JSON value gives null for a key that it doesn't have")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use serde_json::Value as Json;
use tokio::time::{Instant, timeout, timeout_at};

use super::{BAD_USAGE, DONE, FAILED, fail, keygen, runtime};
use crate::config::{BrokerUrl, DeviceId, Tls};
use crate::engine::io::LinkFault;
use crate::engine::packet::AckReason;
use crate::runtime::mqtt::client::{Client, Credentials};
use crate::runtime::mqtt::transport::Target;
use crate::wire::CommandId;
use crate::wire::keys::SigningKey;
use crate::wire::token::{self, Claims};

/// How long to wait for the retained presence message; a broker that has it sends it at once.
const PRESENCE_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    fieldmedic send --url mqtt://127.0.0.1 --key keys/ops-1.key --to gw-0001 ping\n  \
    fieldmedic send --url mqtts://b.example --key keys/ops-1.key --to gw-0001 restart_unit unit=app.service\n  \
    fieldmedic send --url mqtt://127.0.0.1 --key keys/ops-1.key --to group:canary --wait 60s run runbook=fix args='[\"now\"]'\n\n\
    Exit codes: 0 SUCCEEDED; 1 any other end, or no answer in time; 2 bad usage.")]
pub(super) struct SendArgs {
    /// The broker.
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    url: BrokerUrl,
    /// The private key to sign with, as `fieldmedic keygen` makes it.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The key's id on the gateways [default: the key file's name without its ending].
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
    /// Who shall obey: a device id, or group:NAME.
    #[arg(long, value_name = "DEVICE|group:NAME", value_parser = parse_to)]
    to: To,
    /// For how long the command is valid.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    expires: Duration,
    /// For how long to wait for its end; for a group, for all answers. 0s: not at all.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// How long the command may take on the gateway, in seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The command's id [default: a random one].
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    id: Option<CommandId>,
    /// One JSON object a line: the results as they come.
    #[arg(long)]
    json: bool,
    /// Prints the signed command instead of sending it.
    #[arg(long)]
    print: bool,
    /// The topic prefix of the fleet.
    #[arg(long, value_name = "PREFIX", default_value = "fieldmedic")]
    topic_prefix: String,
    /// The broker's CA [default: the system's roots].
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Our client certificate.
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// User name for the broker.
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// A file whose first line is the password for the broker.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// ping, restart_unit, run, set_intervals, cancel, cancel_all.
    command: String,
    /// The command's arguments.
    #[arg(value_name = "ARG=VALUE")]
    args: Vec<String>,
}

/// Who shall obey.
#[derive(Debug, Clone, PartialEq, Eq)]
enum To {
    Device(String),
    Group(String),
}

/// What came of it.
struct Outcome {
    /// The last status of each device that answered.
    statuses: BTreeMap<String, String>,
}

pub(super) fn run(args: &SendArgs) -> u8 {
    let Some(command_args) = token::parse_args(&args.args) else {
        eprintln!("fieldmedic: arguments are ARG=VALUE, such as unit=app.service");
        return BAD_USAGE;
    };
    let sent = runtime().and_then(|rt| rt.block_on(send(args, command_args)));
    match sent {
        Ok(outcome) => exit_code(args, outcome.as_ref()),
        Err(error) => fail(&error),
    }
}

async fn send(args: &SendArgs, command_args: BTreeMap<String, Json>) -> anyhow::Result<Option<Outcome>> {
    let key = read_key(args)?;
    let kid = match &args.kid {
        Some(kid) => kid.clone(),
        None => args.key.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
    };
    let id = match &args.id {
        Some(id) => id.clone(),
        None => random_id()?,
    };
    let mut claims = claims_for(&args.to.audience(), &id, &args.command, args.expires)?.timeout_s(args.timeout);
    for (name, value) in command_args {
        claims = claims.arg(&name, value);
    }
    if args.print {
        println!("{}", token::sign(&claims, &kid, &key)?);
        return Ok(None);
    }
    let mut client = connect(args).await?;
    let nonce = presence_nonce(args, &mut client).await?;
    let token = token::sign(&claims.nonce(nonce), &kid, &key)?;
    let results = match &args.to {
        To::Device(device) => format!("{}/{device}/results", args.topic_prefix),
        To::Group(_) => format!("{}/+/results", args.topic_prefix),
    };
    client.subscribe(&[&results]).await.map_err(describe)?;
    let topic = match &args.to {
        To::Device(device) => format!("{}/{device}/commands", args.topic_prefix),
        To::Group(group) => format!("{}/groups/{group}/commands", args.topic_prefix),
    };
    match client.publish(&topic, token.into(), false).await.map_err(describe)? {
        AckReason::Success => {}
        AckReason::NoMatchingSubscribers => {
            eprintln!("fieldmedic: the broker has the command, but nobody is subscribed to {topic}");
        }
        refused => bail!("the broker refuses to take a command on {topic}: {refused:?}; check its ACL"),
    }
    if !args.json {
        println!("sent {} as {id} to {topic}", args.command);
    }
    if args.wait.is_zero() {
        return Ok(None);
    }
    follow(args, &mut client, &id).await.map(Some)
}

/// Claims for a command that begins now.
pub(super) fn claims(audience: &str, command: &str, life: Duration) -> anyhow::Result<Claims> {
    claims_for(audience, &random_id()?, command, life)
}

fn claims_for(audience: &str, id: &CommandId, command: &str, life: Duration) -> anyhow::Result<Claims> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("this machine's clock is before 1970")?;
    let now = i64::try_from(now.as_secs()).context("read this machine's clock")?;
    let life = i64::try_from(life.as_secs()).context("--expires is too long")?.max(1);
    Ok(Claims::new(audience, id, command, now, now.saturating_add(life)))
}

fn random_id() -> anyhow::Result<CommandId> {
    let text = URL_SAFE_NO_PAD.encode(keygen::random::<16>()?);
    CommandId::parse(&text).context("make a command id")
}

fn read_key(args: &SendArgs) -> anyhow::Result<SigningKey> {
    let text = std::fs::read_to_string(&args.key).with_context(|| format!("read {}", args.key.display()))?;
    SigningKey::from_pem(&text).with_context(|| args.key.display().to_string())
}

async fn connect(args: &SendArgs) -> anyhow::Result<Client> {
    let tls = Tls {
        ca_file: args.ca_file.clone(),
        cert_file: args.cert_file.clone(),
        key_file: args.key_file.clone(),
        alpn: Vec::new(),
    };
    let target = Arc::new(Target::new(args.url.clone(), Some(tls)));
    let password = match &args.password_file {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            text.lines().next().unwrap_or_default().to_owned()
        }
        None => String::new(),
    };
    let credentials = args.username.clone().map(|username| Credentials { username, password });
    let client_id = format!("fieldmedic-send-{}", random_id()?);
    Client::connect(&target, &client_id, credentials.as_ref()).await.map_err(describe)
}

/// What the device's presence says: its nonce, which proves to a gateway without a clock that a command is fresh.
async fn presence_nonce(args: &SendArgs, client: &mut Client) -> anyhow::Result<Option<String>> {
    let To::Device(device) = &args.to else { return Ok(None) };
    let topic = format!("{}/{device}/presence", args.topic_prefix);
    client.subscribe(&[&topic]).await.map_err(describe)?;
    let presence = async {
        loop {
            let message = client.next_message().await.map_err(describe)?;
            if message.topic == topic {
                return anyhow::Ok(serde_json::from_slice::<Json>(&message.payload).unwrap_or_default());
            }
        }
    };
    let Ok(presence) = timeout(PRESENCE_MAX, presence).await else {
        eprintln!("fieldmedic: {device} has never said that it is there: is the name right?");
        return Ok(None);
    };
    let presence = presence?;
    if presence["online"] != true {
        let reason = presence["reason"].as_str().unwrap_or("no reason given");
        eprintln!("fieldmedic: {device} is offline ({reason}): the broker keeps the command for it");
    }
    Ok(presence["nonce"].as_str().map(str::to_owned))
}

/// Shows the results of this command as they come, until its end.
async fn follow(args: &SendArgs, client: &mut Client, id: &CommandId) -> anyhow::Result<Outcome> {
    let until = Instant::now() + args.wait;
    let mut statuses = BTreeMap::new();
    loop {
        let Ok(message) = timeout_at(until, client.next_message()).await else { return Ok(Outcome { statuses }) };
        let message = message.map_err(describe)?;
        let Ok(body) = serde_json::from_slice::<Json>(&message.payload) else { continue };
        if !message.topic.ends_with("/results") || body["command_id"] != id.as_str() {
            continue;
        }
        let word = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let (device, status) = (word("device"), word("status"));
        show(args.json, &body);
        let ended = !matches!(status.as_str(), "QUEUED" | "IN_PROGRESS");
        statuses.insert(device, status);
        if ended && matches!(args.to, To::Device(_)) {
            return Ok(Outcome { statuses });
        }
    }
}

fn show(json: bool, body: &Json) {
    if json {
        println!("{body}");
        return;
    }
    let word = |key: &str| body[key].as_str().unwrap_or_default();
    let progress = body["progress_pct"].as_u64().map_or(String::new(), |percent| format!(" {percent} %"));
    let line = format!("{} {}{progress} {} {}", word("device"), word("status"), word("reason"), word("detail"));
    println!("{}", line.trim_end());
    if let Some(output) = body["output"].as_str() {
        println!("{}", output.trim_end());
    }
}

/// `None`: nothing was waited for.
fn exit_code(args: &SendArgs, outcome: Option<&Outcome>) -> u8 {
    let Some(outcome) = outcome else { return DONE };
    if outcome.statuses.is_empty() {
        let waited = humantime::format_duration(args.wait);
        eprintln!("fieldmedic: no answer within {waited}: is the gateway online, and is its clock right?");
        return FAILED;
    }
    if outcome.statuses.values().all(|status| status == "SUCCEEDED") { DONE } else { FAILED }
}

impl To {
    fn audience(&self) -> String {
        match self {
            Self::Device(device) => device.clone(),
            Self::Group(group) => format!("group:{group}"),
        }
    }
}

fn parse_to(text: &str) -> Result<To, String> {
    let (name, group) = text.strip_prefix("group:").map_or((text, false), |name| (name, true));
    // A group's name is one level of a topic, as a device id is.
    DeviceId::parse(name).map_err(|unfit| unfit.to_string())?;
    Ok(if group { To::Group(name.to_owned()) } else { To::Device(name.to_owned()) })
}

fn parse_url(text: &str) -> Result<BrokerUrl, String> {
    BrokerUrl::parse(text).map_err(|unfit| unfit.to_string())
}

fn parse_id(text: &str) -> Result<CommandId, String> {
    CommandId::parse(text).ok_or_else(|| format!("1 to {} of A-Z a-z 0-9 _ - are expected", CommandId::LEN_MAX))
}

fn describe(fault: LinkFault) -> anyhow::Error {
    anyhow::anyhow!("{}", fault.detail)
}
