//! `fieldmedic init`: a gateway's first configuration, root's policy beside it, and a key pair if one is wanted, from
//! flags and, on a terminal, from questions. What was entered is judged as a configuration, and the broker is tried,
//! before anything is written. It overwrites nothing unless it is told to, and never a key; told the same again it
//! changes nothing, and tries the broker again.

mod ask;
mod broker;
mod draft;
mod files;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead, IsTerminal as _, Write};
use std::path::{Path, PathBuf, absolute};

use anyhow::Context as _;
use clap::Args;

use super::shell::word_of_path;
use super::{BAD_USAGE, DONE, FAILED, fail};
use crate::agent_user::{AGENT_USER, agent_user};
use crate::config::{self, BrokerUrl, CheckedConfig, DeviceId, Loaded, Problem, UnitName};
use crate::runtime::mqtt::transport;
use ask::{Answers, Asker};
use broker::Usable;
use draft::Draft;
use files::{Planned, Written};

/// Where the units and the commands look for a configuration.
const SYSTEM_DIR: &str = "/etc/fieldmedic";
/// Is there where systemd is what was booted, sd_booted(3).
const SYSTEMD_RUNS: &str = "/run/systemd/system";

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    sudo fieldmedic init                                     asks for what it needs\n  \
    sudo fieldmedic init --yes --url mqtts://broker.example --ca /etc/fieldmedic/ca.pem\n  \
    fieldmedic init --bench --out try --url mqtt://127.0.0.1 --new-key ops-1     without root\n  \
    fieldmedic init --url mqtt://b --out rootfs/etc/fieldmedic --no-check        for an image\n\n\
    Where stdin is no terminal, nothing is asked, and --url must be there.\n\n\
    Exit codes: 0 written, and the broker takes this gateway, or can only be tried with what systemd hands over at the \
    service's start; 1 a file is there already or can't be written, or the broker doesn't take it (the files are written \
    all the same, unless whoever was asked said no); 2 bad usage, nothing was written.")]
pub(super) struct InitArgs {
    /// The broker, mqtt:// or mqtts://.
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    url: Option<BrokerUrl>,
    /// This gateway's id [default: its hostname, whatever that will be].
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    id: Option<DeviceId>,
    /// The broker's CA, PEM [default: the system's roots].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// This gateway's client certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// User name at the broker.
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// A file whose first line is the password.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// A group that the gateway is in; may be repeated.
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// A unit that may be restarted; may be repeated.
    #[arg(long = "unit", value_name = "UNIT", value_parser = parse_unit)]
    units: Vec<UnitName>,
    /// The public key of somebody who may command this gateway, its name being the key's id; may be repeated.
    #[arg(long = "trusted-key", value_name = "FILE.pub")]
    trusted_keys: Vec<PathBuf>,
    /// Makes a key pair that may command this gateway, as `fieldmedic keygen` does.
    #[arg(long, value_name = "NAME")]
    new_key: Option<String>,
    /// Where agent.toml, policy.toml and the pair go; made if it isn't there.
    #[arg(long, value_name = "DIR", default_value = SYSTEM_DIR)]
    out: PathBuf,
    /// For a try without root: store and sockets go to --out, too, and there is no policy, because there is no helper.
    #[arg(long, requires = "out")]
    bench: bool,
    /// Asks nothing: what no flag says stays at its default.
    #[arg(long)]
    yes: bool,
    /// Doesn't try the broker: for an image that is made elsewhere.
    #[arg(long)]
    no_check: bool,
    /// Replaces agent.toml, policy.toml and the password's file if they say something else; a key is never replaced.
    #[arg(long)]
    force: bool,
}

/// Why it ended before its time.
#[derive(Debug)]
enum Ended {
    /// What was entered can't be used.
    Wrong(String),
    /// It could not be done.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Ended {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

pub(super) fn run(args: InitArgs) -> u8 {
    let (mut input, stdin) = (io::stdin().lock(), io::stdin());
    // Whoever pipes answers in means them for somebody else: flags say what nobody is there to be asked for.
    let asks = !args.yes && stdin.is_terminal();
    match init(args, asks, &mut input, &mut io::stdout().lock(), &mut io::stderr().lock()) {
        Ok(code) => code,
        Err(Ended::Wrong(text)) => {
            eprintln!("{text}");
            BAD_USAGE
        }
        Err(Ended::Failed(error)) => fail(&error),
    }
}

/// Gives the exit code. `asks`: somebody is there to be asked.
fn init(
    mut args: InitArgs,
    asks: bool,
    input: &mut impl BufRead,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<u8, Ended> {
    args.out = absolute(&args.out).with_context(|| format!("find {}", args.out.display()))?;
    let mut asker = asks.then(|| Asker::new(input, &mut *err));
    if let Some(asker) = &mut asker {
        asker.say(&format!(
            "A first configuration for this gateway, in {}. Enter takes what stands in [].",
            args.out.display()
        ))?;
        if let Some(warning) = draft::in_the_way(&args) {
            asker.say(&warning)?;
        }
    }
    let answers = ask::gather(&args, asker.as_mut())?;
    let draft = Draft::of(&answers, &args);
    let loaded = draft.judge(&args.out).map_err(|problems| Ended::Wrong(in_flags(&problems)))?;
    let plan = draft.plan(&args, &answers)?;
    files::refuse_to_overwrite(&plan, args.force)?;

    let Some(reached) = try_broker(&args, &answers, &loaded, asks, input, err)? else {
        writeln!(err, "nothing was written").context("write to stderr")?;
        return Ok(FAILED);
    };
    let written = files::write(plan, args.bench)?;
    summarize(&args, &answers, &loaded, &written, reached, out).context("write to stdout")?;
    warn_of_unreadable(&args, &loaded.config, err).context("write to stderr")?;
    Ok(if reached { DONE } else { FAILED })
}

/// Whether the broker takes this gateway, or was not asked, or can't be yet; `None`: it doesn't, and nothing is to be
/// written then.
fn try_broker(
    args: &InitArgs,
    answers: &Answers,
    loaded: &Loaded,
    asks: bool,
    input: &mut impl BufRead,
    err: &mut impl Write,
) -> Result<Option<bool>, Ended> {
    for Problem { message, .. } in &loaded.warnings {
        writeln!(err, "warning: {message}").context("write to stderr")?;
    }
    let named_otherwise = || transport::named_otherwise(&loaded.config.mqtt.tls, loaded.config.device.id.as_str());
    if let Some(doubt) = is_for_here(args, answers).then(named_otherwise).flatten() {
        writeln!(err, "warning: {}: {doubt} (--id)", doubt.key).context("write to stderr")?;
    }
    let usable = broker::warn_of_files(&loaded.config, &answers.login, err).context("write to stderr")?;
    if args.no_check {
        return Ok(Some(true));
    }
    let url = &loaded.config.mqtt.url;
    let reached = match usable {
        Usable::Now => broker::reach(&loaded.config, &answers.login, err)?,
        Usable::AtItsStart => writeln!(
            err,
            "broker    {url} was not tried, and nothing is wrong with that: once the service was started, `fieldmedic \
             status` says whether it takes this gateway"
        )
        .map(|()| true)
        .context("write to stderr")?,
        Usable::Never => writeln!(err, "broker    {url} was not tried: a file that it takes can't be used")
            .map(|()| false)
            .context("write to stderr")?,
    };
    if reached || !asks {
        return Ok(Some(reached));
    }
    let wanted = Asker::new(input, err).confirm("Write it all the same?")?;
    Ok(wanted.then_some(false))
}

/// What is wrong, each with the flag that it came from.
fn in_flags(problems: &[Problem]) -> String {
    const FLAGS: [(&str, &str); 11] = [
        ("mqtt.url", "--url"),
        ("device.id", "--id"),
        ("device.groups", "--group"),
        ("mqtt.tls.ca_file", "--ca"),
        ("mqtt.tls.cert_file", "--cert"),
        ("mqtt.tls.key_file", "--key"),
        ("mqtt.username", "--username"),
        ("mqtt.password_file", "--password-file"),
        ("remediation.units", "--unit"),
        ("commands.trusted_keys", "--trusted-key, --new-key"),
        ("local.socket", "--out"),
    ];
    let line = |Problem { key, message, .. }: &Problem| match FLAGS.iter().find(|(known, _)| known == key) {
        Some((_, flag)) => format!("fieldmedic: {flag}: {message}"),
        None => format!("fieldmedic: {message}"),
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn summarize(
    args: &InitArgs,
    answers: &Answers,
    loaded: &Loaded,
    written: &[(Planned, Written)],
    reached: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    for (Planned { path, what, .. }, done) in written {
        let done = match done {
            Written::New => "wrote",
            Written::AsItWas => "is there",
        };
        writeln!(out, "{done:<9} {:<34} {what}", path.display().to_string())?;
    }
    if !args.bench {
        let units: Vec<&str> = answers.units.iter().map(UnitName::as_str).collect();
        let allowed = match units.as_slice() {
            [] => "do nothing that takes root".to_owned(),
            units => format!("restart {}", units.join(", ")),
        };
        writeln!(
            out,
            "\nSigned commands may {allowed}: more (reboot, rollback, quarantine, run …) once [allow] in policy.toml\n\
             names it, and of that the gateway's own rules what [local] names."
        )?;
    }
    writeln!(out, "\nNext:")?;
    if !reached {
        writeln!(
            out,
            "  mend what keeps the broker out of reach (above), and run the same command again: it tries again"
        )?;
    }
    let agent = args.out.join(draft::AGENT_FILE);
    if args.bench {
        writeln!(out, "  fieldmedic run --config {}", word_of_path(&agent))?;
        writeln!(out, "  fieldmedic status --config {}", word_of_path(&agent))?;
    } else {
        let is_for_elsewhere = args.out != Path::new(SYSTEM_DIR);
        if is_for_elsewhere {
            writeln!(out, "  put these files into {SYSTEM_DIR} of the gateway, as root's")?;
        }
        start(is_for_elsewhere || Path::new(SYSTEMD_RUNS).is_dir(), out)?;
    }
    if let Some((Planned { path, .. }, _)) = written.iter().find(|(planned, _)| planned.is_private_key()) {
        let path = path.display();
        writeln!(out, "  take {path} to where commands are signed, and leave no copy on the gateway")?;
    }
    let Some(kid) = answers.keys.last().map(|key| &key.kid) else { return Ok(()) };
    let mqtt = &loaded.config.mqtt;
    let ca = mqtt.tls.ca_file.as_ref().map(|ca| format!("--ca-file {} ", word_of_path(ca))).unwrap_or_default();
    // Who connects by the gateway's own name throws it out, and ends its session with the commands that wait in it.
    let is_anonymous = mqtt.tls.cert_file.is_none() && mqtt.username.is_empty();
    let account = if is_anonymous { "" } else { "--username YOU --password-file FILE " };
    if !is_anonymous {
        writeln!(
            out,
            "  command it with an account of your own at the broker (or --cert-file and --key-file of your own), at\n  \
             its door for people if it has one; never as the gateway, which would be thrown out:"
        )?;
    }
    // On a bench nobody takes it away.
    let key = args.out.join(draft::private_name(kid));
    let key = if args.bench && answers.pair.is_some() { word_of_path(&key) } else { draft::private_name(kid) };
    let device = if is_for_here(args, answers) { loaded.config.device.id.as_str() } else { "DEVICE" };
    writeln!(out, "  fieldmedic send --url {} {ca}{account}--key {key} --to {device} ping", mqtt.url)
}

/// How the agent is started, and seen to run.
fn start(by_systemd: bool, out: &mut impl Write) -> io::Result<()> {
    if by_systemd {
        // The agent looks for the socket when it starts.
        writeln!(out, "  sudo systemctl enable --now fieldmedic-act.socket fieldmedic-quarantine.service")?;
        writeln!(out, "  sudo systemctl enable --now fieldmedic.service")?;
    } else {
        writeln!(
            out,
            "  have this system's init run, as root: fieldmedic run (docs/integrating.md, Other init systems)"
        )?;
    }
    writeln!(out, "  sudo fieldmedic status")
}

/// Whether the id is known: one that is the gateway's hostname isn't that of the machine on which an image is made.
fn is_for_here(args: &InitArgs, answers: &Answers) -> bool {
    answers.id.is_some() || args.bench || args.out == Path::new(SYSTEM_DIR)
}

/// Root can read everything; the agent doesn't run as root.
fn warn_of_unreadable(args: &InitArgs, config: &CheckedConfig, err: &mut impl Write) -> io::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    if args.bench || args.out != Path::new(SYSTEM_DIR) || !is_root {
        return Ok(());
    }
    let Some(user) = agent_user() else {
        return writeln!(
            err,
            "warning: there is no user {AGENT_USER} yet, as which the agent runs: the package, or sysusers.d/fieldmedic.conf, makes it"
        );
    };
    for doubt in transport::unreadable(&config.mqtt, user) {
        writeln!(err, "warning: {}: {}", doubt.key, doubt.detail)?;
    }
    // Its directory was there, and is open to root alone.
    if let Some(why) = user.barred_from_public(&args.out.join(draft::AGENT_FILE)) {
        writeln!(err, "warning: {why}")?;
    }
    Ok(())
}

fn parse_url(text: &str) -> Result<BrokerUrl, String> {
    BrokerUrl::parse(text).map_err(|unfit| unfit.to_string())
}

fn parse_id(text: &str) -> Result<DeviceId, String> {
    DeviceId::parse(text).map_err(|unfit| unfit.to_string())
}

fn parse_group(text: &str) -> Result<String, String> {
    config::parse_group(text).map_err(|unfit| unfit.to_string())
}

fn parse_unit(text: &str) -> Result<UnitName, String> {
    UnitName::parse(text).map_err(|unfit| unfit.to_string())
}
