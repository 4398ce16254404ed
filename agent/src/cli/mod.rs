//! The command line: one file a subcommand. Exit codes: 0 done, 1 failed, 2 bad usage or config, 3 no daemon. Errors go
//! to stderr; what a script reads goes to stdout.

mod audit;
mod check;
mod demo;
mod init;
mod keygen;
pub(crate) mod logging;
mod release;
mod run;
mod send;
mod simulate;
mod status;
mod store;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config;

/// Done.
const DONE: u8 = 0;
/// It failed.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
const BAD_USAGE: u8 = 2;
/// No daemon answers.
const NO_DAEMON: u8 = 3;

/// The agent for embedded Linux gateways: measures, buffers, publishes over MQTT, and heals.
#[derive(Debug, Parser)]
#[command(
    name = "fieldmedic",
    version,
    after_help = "Examples:\n  \
        fieldmedic demo --for 30s                      everything on this machine, nothing to install\n  \
        sudo fieldmedic init                           a first configuration for a broker of your own\n  \
        fieldmedic check --config agent.toml           is this configuration right?\n  \
        fieldmedic run --config agent.toml             the daemon\n  \
        fieldmedic simulate app-crash-loop             what a configuration would have done\n  \
        fieldmedic send --url mqtt://127.0.0.1 --key keys/ops-1.key --to gw-1 ping\n\n\
        Exit codes: 0 done, 1 failed, 2 bad usage or config, 3 no daemon."
)]
struct Cli {
    /// Says more (-vv: everything).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Says less (-qq: errors only).
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "verbose")]
    quiet: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon.
    #[command(after_help = "Example:\n  fieldmedic run --config /etc/fieldmedic/agent.toml --config site.toml")]
    Run(ConfigArgs),
    /// Makes a first configuration, and tries the broker.
    Init(Box<init::InitArgs>),
    /// Checks a configuration: prints the effective one, or every error with its file and line (exit code 2).
    #[command(after_help = "Example:\n  fieldmedic check --config configs/agent.toml")]
    Check(ConfigArgs),
    /// Says what is wrong with this gateway and its configuration, and what to do about it; exit code 1 if anything is.
    Audit(audit::AuditArgs),
    /// Asks the running daemon how it is; exit code 3 if none answers.
    Status(status::StatusArgs),
    /// Ends a quarantine, by root on the console, whether or not the daemon runs.
    Release(release::ReleaseArgs),
    /// Shows it all on this machine: a broker, the agent on the real system, a command, an outage.
    Demo(demo::DemoArgs),
    /// Makes a key pair for signing commands.
    Keygen(keygen::KeygenArgs),
    /// Sends a signed command to a gateway, or to a group, and waits for its status.
    Send(Box<send::SendArgs>),
    /// Simulates a gateway with a configuration in a scenario's world: what would have happened, and whether that was right.
    Simulate(Box<simulate::SimulateArgs>),
    /// Looks into a store: how much is in it, or all of it as JSON lines.
    Store(store::StoreArgs),
    /// Prints a completion script for a shell.
    #[command(after_help = "Example:\n  fieldmedic completions bash > /etc/bash_completion.d/fieldmedic")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Which configuration.
#[derive(Debug, Clone, Args)]
struct ConfigArgs {
    /// A configuration file; may be repeated, later files override [default: /etc/fieldmedic/agent.toml, then
    /// ./configs/agent.toml].
    #[arg(long = "config", value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl ConfigArgs {
    fn files(self) -> Vec<PathBuf> {
        if self.files.is_empty() { config::default_files() } else { self.files }
    }
}

/// The command line as it is defined: man pages and completions are made of it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program that the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let loudness = logging::Loudness::from_flags(cli.verbose, cli.quiet);
    let code = match cli.command {
        Command::Run(args) => {
            logging::init(loudness);
            run::run(&args.files())
        }
        Command::Init(args) => init::run(*args),
        Command::Check(args) => check::run(&args.files()),
        Command::Audit(args) => audit::run(args),
        Command::Status(args) => status::run(args),
        Command::Release(args) => release::run(args),
        Command::Demo(args) => {
            logging::init_quiet(loudness);
            demo::run(args)
        }
        Command::Keygen(args) => exit_code(keygen::run(&args)),
        Command::Send(args) => send::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Store(args) => exit_code(store::run(&args)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut command(), "fieldmedic", &mut io::stdout().lock());
            DONE
        }
    };
    ExitCode::from(code)
}

/// Prints an error with its causes.
fn exit_code(result: anyhow::Result<()>) -> u8 {
    match result {
        Ok(()) => DONE,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> u8 {
    eprintln!("fieldmedic: {error:#}");
    FAILED
}

/// One thread is enough for a gateway, and costs half the CPU of several.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    use anyhow::Context as _;
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the async runtime")
}
