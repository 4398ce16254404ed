//! `fieldmedic send`: signs a command, publishes it, and shows each status that comes back. It judges nothing itself:
//! what a gateway refuses, the gateway says.

#![expect(clippy::disallowed_methods, reason = "a command is dated by the sender's clock, and waited for")]
#![expect(clippy::indexing_slicing, reason = "a JSON value gives null for a key that it doesn't have")]

mod follow;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use serde_json::Value as Json;
use tokio::time::{Instant, timeout};

use super::{BAD_USAGE, DONE, WhileRead, block_on, fail, keygen, parse_duration};
use crate::config::{self, BrokerUrl, DeviceId, Tls, TrustedKey};
use crate::engine::io::LinkFault;
use crate::engine::observation::Severity;
use crate::engine::packet::AckReason;
use crate::runtime::mqtt::client::{Client, Credentials};
use crate::runtime::mqtt::transport::{self, Target};
use crate::wire::keys::SigningKey;
use crate::wire::token::{self, COMMAND_LEN_MAX, Claims};
use crate::wire::{CommandId, printable};
use follow::{follow, judge};

/// How long to wait for the retained presence message.
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
    #[arg(long, value_name = "NAME", value_parser = keygen::parse_kid)]
    kid: Option<String>,
    /// Who shall obey: a device id, or group:NAME.
    #[arg(long, value_name = "DEVICE|group:NAME", value_parser = parse_to)]
    to: To,
    /// For how long the command is valid.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_life)]
    expires: Duration,
    /// For how long to wait for its end; for a group, for all answers. 0s: not at all.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    wait: Duration,
    /// How long the command may take on the gateway; a plain number is seconds [default: the gateway's].
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout_s)]
    timeout: Option<u64>,
    /// The command's id [default: a random one].
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    id: Option<CommandId>,
    /// One JSON object a line: the results as they come. The command's id is told on stderr.
    #[arg(long)]
    json: bool,
    /// Prints the signed command instead of sending it.
    #[arg(long)]
    print: bool,
    /// The topic prefix of the fleet.
    #[arg(long, value_name = "PREFIX", default_value = "fieldmedic", value_parser = parse_topic_prefix)]
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
    /// ping, restart_unit, restart_link, reboot, rollback, mark_good, quarantine, release, run, collect_diagnostics,
    /// set_intervals, cancel or cancel_all (docs/contract.md).
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

pub(super) fn run(args: &SendArgs) -> u8 {
    let command_args = match token::parse_args(&args.args) {
        Ok(command_args) => command_args,
        Err(error) => {
            eprintln!("fieldmedic: {error}");
            return BAD_USAGE;
        }
    };
    let signer = match Signer::of(args) {
        Ok(signer) => signer,
        Err(error) => {
            eprintln!("fieldmedic: --key: {error:#}");
            return BAD_USAGE;
        }
    };
    let unfit = args.unfit_files();
    if !unfit.is_empty() {
        unfit.iter().for_each(|wrong| eprintln!("fieldmedic: {wrong}"));
        return BAD_USAGE;
    }
    let (mut out, mut err) = (WhileRead(io::stdout().lock()), io::stderr().lock());
    let sent = block_on(send(args, &signer, command_args, &mut out, &mut err)).and_then(|sent| sent);
    drop((out, err));
    sent.unwrap_or_else(|error| fail(&error))
}

/// Gives the exit code.
async fn send(
    args: &SendArgs,
    signer: &Signer,
    command_args: BTreeMap<String, Json>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> anyhow::Result<u8> {
    let id = match &args.id {
        Some(id) => id.clone(),
        None => random_id()?,
    };
    let mut claims = claims_for(&args.to.audience(), &id, &args.command, args.expires)?.timeout_s(args.timeout);
    for (name, value) in command_args {
        claims = claims.arg(&name, value);
    }
    if args.print {
        writeln!(out, "{}", signer.sign(&claims)?)?;
        return Ok(DONE);
    }
    let mut client = connect(args).await?;
    let until = Instant::now() + args.wait;
    let presence = presence(args, &mut client).await?;
    if presence.is_worrying {
        writeln!(err, "fieldmedic: {}", presence.words)?;
    }
    let token = signer.sign(&claims.nonce(presence.nonce.clone()))?;
    client.subscribe(&[&args.results_topic()]).await.map_err(describe)?;
    let published = publish(args, &mut client, token).await;
    let lost = published.with_context(|| format!("send {} as {id}", args.command))?;
    if let Some(lost) = &lost {
        writeln!(err, "fieldmedic: {lost}")?;
    }
    let sent = format!("sent {} as {id} to {}", args.command, args.command_topic());
    if args.json {
        writeln!(err, "fieldmedic: {sent}")?;
    } else {
        writeln!(out, "{sent}")?;
    }
    let followed = follow(args, client, &id, until, out, err).await?;
    judge(args, &lost.unwrap_or(presence.words), &followed, err)
}

/// Who commands.
struct Signer {
    key: SigningKey,
    kid: String,
}

impl Signer {
    /// Reads the key, and finds its id.
    fn of(args: &SendArgs) -> anyhow::Result<Self> {
        let file = args.key.display();
        let text = config::read_text(&args.key)?;
        let key = SigningKey::from_pem(&text).with_context(|| file.to_string())?;
        let stem = || args.key.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let kid = args.kid.clone().unwrap_or_else(stem);
        if !TrustedKey::is_kid(&kid) {
            bail!("the name of {file} is no key's id: {}; say it with --kid", TrustedKey::kid_expected());
        }
        Ok(Self { key, kid })
    }

    /// Signed, and no longer than a gateway takes.
    fn sign(&self, claims: &Claims) -> anyhow::Result<String> {
        let token = token::sign(claims, &self.kid, &self.key)?;
        let len = token.len();
        if len > COMMAND_LEN_MAX {
            bail!("the command is {len} B long with its signature; gateways take at most {COMMAND_LEN_MAX} B");
        }
        Ok(token)
    }
}

/// Gives the broker a command; why it has nobody to keep it for, if it says so.
async fn publish(args: &SendArgs, client: &mut Client, token: String) -> anyhow::Result<Option<String>> {
    let topic = args.command_topic();
    match client.publish(&topic, token.into(), false).await.map_err(describe)? {
        AckReason::Success => Ok(None),
        AckReason::NoMatchingSubscribers => {
            let advice = "the broker has not kept the command: send it again once the gateway is online";
            Ok(Some(format!("nobody is subscribed to {topic}: {advice}")))
        }
        refused => bail!("the broker refuses to take a command on {topic} ({refused}): check its ACL"),
    }
}

/// Claims for a command that begins now.
#[cfg(any(test, feature = "demo"))]
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

async fn connect(args: &SendArgs) -> anyhow::Result<Client> {
    let target = Arc::new(Target::new(args.url.clone(), Some(args.tls())));
    let password = match &args.password_file {
        Some(file) => transport::password_in(file).with_context(|| format!("the password in {}", file.display()))?,
        None => String::new(),
    };
    let credentials = args.username.clone().map(|username| Credentials { username, password });
    let client_id = format!("fieldmedic-send-{}", random_id()?);
    Client::connect(&target, &client_id, credentials.as_ref()).await.map_err(describe)
}

/// What the device last said of itself.
struct Presence {
    /// Proves to a gateway without a clock that a command is fresh.
    nonce: Option<String>,
    /// For the one who waits.
    words: String,
    /// It is not online.
    is_worrying: bool,
}

/// The broker has it retained, and sends it at once.
async fn presence(args: &SendArgs, client: &mut Client) -> anyhow::Result<Presence> {
    let To::Device(device) = &args.to else {
        let words = "is anybody of this group online?".to_owned();
        return Ok(Presence { nonce: None, words, is_worrying: false });
    };
    let topic = format!("{}/{device}/presence", args.topic_prefix);
    client.subscribe(&[&topic]).await.map_err(describe)?;
    let retained = async {
        loop {
            let message = client.next_message().await.map_err(describe)?;
            if message.topic == topic {
                return anyhow::Ok(serde_json::from_slice::<Json>(&message.payload).unwrap_or_default());
            }
        }
    };
    // It is part of the wait, of which something is to be left for the answer. Also what is not waited for needs a
    // nonce.
    let most = if args.wait.is_zero() { PRESENCE_MAX } else { PRESENCE_MAX.min(args.wait / 2) };
    let Ok(message) = timeout(most, retained).await else {
        let words = format!("{device} has never said that it is there: is the name right?");
        return Ok(Presence { nonce: None, words, is_worrying: true });
    };
    Ok(presence_of(device, &message?))
}

fn presence_of(device: &str, message: &Json) -> Presence {
    let nonce = message["nonce"].as_str().map(str::to_owned);
    if message["online"] == true {
        let words = format!("{device} was online when the command was sent");
        return Presence { nonce, words, is_worrying: false };
    }
    let reason = printable(message["reason"].as_str().unwrap_or("no reason given"));
    let words = format!("{device} is offline ({reason}): a broker that has its session still keeps the command");
    Presence { nonce, words, is_worrying: true }
}

impl SendArgs {
    fn tls(&self) -> Tls {
        Tls {
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            alpn: Vec::new(),
        }
    }

    /// What is wrong with the files that it names, each with its flag.
    fn unfit_files(&self) -> Vec<String> {
        let doubts = transport::examine_files(&self.tls(), self.password_file.as_deref(), None);
        let unfit = doubts.iter().filter(|doubt| doubt.severity <= Severity::Error);
        unfit.map(|doubt| in_flags(&format!("{}: {}", doubt.key, doubt.detail))).collect()
    }

    fn command_topic(&self) -> String {
        match &self.to {
            To::Device(device) => format!("{}/{device}/commands", self.topic_prefix),
            To::Group(group) => format!("{}/groups/{group}/commands", self.topic_prefix),
        }
    }

    fn results_topic(&self) -> String {
        match &self.to {
            To::Device(device) => format!("{}/{device}/results", self.topic_prefix),
            To::Group(_) => format!("{}/+/results", self.topic_prefix),
        }
    }
}

impl To {
    fn audience(&self) -> String {
        match self {
            Self::Device(device) => device.clone(),
            Self::Group(group) => format!("{}{group}", DeviceId::GROUP),
        }
    }
}

fn parse_to(text: &str) -> Result<To, String> {
    let (name, group) = text.strip_prefix(DeviceId::GROUP).map_or((text, false), |name| (name, true));
    // A group's name is one level of a topic, as a device id is.
    DeviceId::parse(name).map_err(|unfit| unfit.to_string())?;
    Ok(if group { To::Group(name.to_owned()) } else { To::Device(name.to_owned()) })
}

fn parse_url(text: &str) -> Result<BrokerUrl, String> {
    BrokerUrl::parse(text).map_err(|unfit| unfit.to_string())
}

fn parse_topic_prefix(text: &str) -> Result<String, String> {
    if config::is_topic_prefix(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("{} is expected", config::TOPIC_PREFIX))
    }
}

fn parse_life(text: &str) -> Result<Duration, String> {
    let life = parse_duration(text)?;
    if life.is_zero() {
        Err("a command that is never valid would not be obeyed: more than 0s is expected".into())
    } else {
        Ok(life)
    }
}

/// Whole seconds.
fn parse_timeout_s(text: &str) -> Result<u64, String> {
    let duration = || config::parse_duration(text).filter(|duration| duration.subsec_nanos() == 0);
    let seconds = text.parse().ok().or_else(|| Some(duration()?.as_secs()));
    let most = token::TIMEOUT_MAX_S;
    seconds
        .filter(|seconds| (1..=most).contains(seconds))
        .ok_or_else(|| format!("1 to {most} whole seconds are expected, such as 90 or 90s"))
}

fn parse_id(text: &str) -> Result<CommandId, String> {
    CommandId::parse(text).ok_or_else(|| format!("1 to {} of A-Z a-z 0-9 _ - are expected", CommandId::LEN_MAX))
}

fn describe(fault: LinkFault) -> anyhow::Error {
    anyhow::anyhow!("{}", in_flags(&fault.detail))
}

/// With the flags of this command in the place of the keys of a configuration, which it has none of.
fn in_flags(text: &str) -> String {
    const FLAGS: [(&str, &str); 7] = [
        ("mqtt.tls.cert_file and key_file", "--cert-file and --key-file"),
        ("mqtt.tls.ca_file", "--ca-file"),
        ("mqtt.tls.cert_file", "--cert-file"),
        ("mqtt.tls.key_file", "--key-file"),
        ("mqtt.password_file", "--password-file"),
        ("mqtt.username", "--username"),
        ("mqtt.url", "--url"),
    ];
    FLAGS.iter().fold(text.to_owned(), |text, (key, flag)| text.replace(key, flag))
}
