//! The command line: one file a subcommand. Exit codes: 0 done, 1 failed, 2 bad usage or config, 3 no daemon. Errors go
//! to stderr; what a script reads goes to stdout.

mod audit;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod init;
mod keygen;
pub(crate) mod logging;
mod release;
mod run;
mod send;
mod shell;
#[cfg(feature = "simulate")]
mod simulate;
mod status;
mod store;

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, CommandFactory, Parser, Subcommand};
use tokio::runtime::LocalRuntime;

use crate::act::link::{self, RESTART_FLAG};
use crate::config::{self, CheckedConfig, Problem};
use crate::one_thread;

/// Done.
const DONE: u8 = 0;
/// It failed.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
const BAD_USAGE: u8 = 2;
/// No daemon answers.
const NO_DAEMON: u8 = 3;

/// In a subcommand's help what each of them takes comes after what is its own.
const LAST: usize = 900;

/// The agent for embedded Linux gateways: measures, buffers, publishes over MQTT, and heals.
#[derive(Debug, Parser)]
#[command(
    name = "fieldmedic",
    version,
    after_help = examples()
)]
struct Cli {
    /// Says more (-vv: everything).
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = LAST)]
    verbose: u8,
    /// Says less (-qq: errors only).
    #[arg(short, long, global = true, display_order = LAST + 1, conflicts_with = "verbose",
        action = clap::ArgAction::Count)]
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
    /// Checks a configuration: prints the effective one, or every error with its file and line (exit code 2). Warnings
    /// are told once there is no error.
    #[command(after_help = "Example:\n  fieldmedic check --config configs/agent.toml")]
    Check(ConfigArgs),
    /// Says what is wrong with this gateway and its configuration, and what to do about it (exit code 1: a warning or
    /// worse).
    Audit(audit::AuditArgs),
    /// Asks the running daemon how it is; exit code 3 if none answers.
    Status(status::StatusArgs),
    /// Ends a quarantine, by root on the console, whether or not the daemon runs.
    Release(release::ReleaseArgs),
    /// Shows it all on this machine: a broker, the agent on the real system, a command, an outage.
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    /// Not in this build.
    #[cfg(not(feature = "demo"))]
    #[command(hide = true)]
    Demo(LeftOut),
    /// Makes a key pair for signing commands.
    Keygen(keygen::KeygenArgs),
    /// Sends a signed command to a gateway, or to a group, and waits for its status.
    Send(Box<send::SendArgs>),
    /// Simulates a gateway with a configuration in a scenario's world: what would have happened, and whether that was
    /// right.
    #[cfg(feature = "simulate")]
    Simulate(Box<simulate::SimulateArgs>),
    /// Not in this build.
    #[cfg(not(feature = "simulate"))]
    #[command(hide = true)]
    Simulate(LeftOut),
    /// Looks into a store: how much is in it, or all of it as JSON lines.
    Store(store::StoreArgs),
    /// Prints a completion script for a shell.
    #[cfg(feature = "completions")]
    #[command(after_help = "Example:\n  fieldmedic completions bash > /etc/bash_completion.d/fieldmedic")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Not in this build.
    #[cfg(not(feature = "completions"))]
    #[command(hide = true)]
    Completions(LeftOut),
}

/// Of what this build has.
fn examples() -> String {
    let mut examples = vec![
        ("init", "a first configuration for a broker of your own"),
        ("check --config agent.toml", "is this configuration right?"),
        ("run --config agent.toml", "the daemon"),
        ("send --url mqtt://127.0.0.1 --key keys/ops-1.key --to gw-1 ping", ""),
    ];
    if cfg!(feature = "demo") {
        examples.insert(0, ("demo --for 30s", "everything on this machine, nothing to install"));
    }
    if cfg!(feature = "simulate") {
        examples.insert(examples.len() - 1, ("simulate app-crash-loop", "what a configuration would have done"));
    }
    let lines: String = examples.iter().map(|(line, what)| format!("  fieldmedic {line:<35} {what}\n")).collect();
    format!("Examples:\n{lines}\nExit codes: 0 done, 1 failed, 2 bad usage or config, 3 no daemon.")
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

    /// A path that the configuration names, or its default where there is no configuration. One that nobody named must
    /// not keep anybody from looking: what is wrong with it is told, and the default holds.
    ///
    /// # Errors
    /// Everything that is wrong with the one that was named.
    fn path_of(
        self,
        of: impl FnOnce(CheckedConfig) -> PathBuf,
        default: &str,
        flag: &str,
    ) -> Result<PathBuf, Vec<Problem>> {
        let is_named = !self.files.is_empty();
        let files = self.files();
        if files.is_empty() {
            return Ok(default.into());
        }
        match config::load(&files) {
            Ok(loaded) => Ok(of(loaded.config)),
            Err(problems) if is_named => Err(problems),
            Err(problems) => {
                unusable(&problems, &format!("going on with the default, {default}; {flag} names another"));
                Ok(default.into())
            }
        }
    }
}

/// The command line as it is defined: man pages and completions are made of it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// What a subcommand takes that this build was made without: anything, to be told so.
#[cfg(not(all(feature = "completions", feature = "demo", feature = "simulate")))]
#[derive(Debug, Args)]
struct LeftOut {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _args: Vec<std::ffi::OsString>,
}

/// Runs the program that the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    // What the agent runs itself as: nobody types it, and nothing else of the command line goes with it.
    let mut args = std::env::args_os().skip(1);
    if let (Some(flag), Some(interface)) = (args.next(), args.next()) {
        if flag == RESTART_FLAG {
            return ExitCode::from(restart_link(&interface.to_string_lossy()));
        }
    }
    let cli = Cli::parse();
    let loudness = logging::Loudness::from_flags(cli.verbose, cli.quiet);
    let code = match cli.command {
        Command::Run(args) => {
            logging::init(loudness);
            run::run(&args.files())
        }
        Command::Init(args) => init::run(*args),
        Command::Check(args) => check::run(&args.files(), loudness),
        Command::Audit(args) => audit::run(args),
        Command::Status(args) => status::run(args),
        Command::Release(args) => release::run(args),
        #[cfg(not(feature = "demo"))]
        Command::Demo(_) => left_out("demo"),
        #[cfg(feature = "demo")]
        Command::Demo(args) => {
            logging::init_quiet(loudness);
            demo::run(args)
        }
        Command::Keygen(args) => exit_code(keygen::run(&args)),
        Command::Send(args) => {
            logging::init_terse(loudness);
            send::run(&args)
        }
        #[cfg(not(feature = "simulate"))]
        Command::Simulate(_) => left_out("simulate"),
        #[cfg(feature = "simulate")]
        Command::Simulate(args) => simulate::run(&args),
        Command::Store(args) => store::run(&args),
        #[cfg(not(feature = "completions"))]
        Command::Completions(_) => left_out("completions"),
        #[cfg(feature = "completions")]
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "fieldmedic", &mut script);
            exit_code(io::stdout().lock().write_all(&script).context("write to stdout"))
        }
    };
    ExitCode::from(code)
}

fn restart_link(interface: &str) -> u8 {
    match link::restart_as_this_process(interface) {
        Ok(true) => DONE,
        Ok(false) => FAILED,
        Err(error) => fail(&error.into()),
    }
}

/// Prints an error with its causes.
fn exit_code(result: anyhow::Result<()>) -> u8 {
    match result {
        Ok(()) => DONE,
        Err(error) => fail(&error),
    }
}

/// Says what is wrong with a configuration that only told where to look, and what to do about that.
fn unusable(problems: &[Problem], what_to_do: &str) -> u8 {
    for problem in problems {
        eprintln!("{problem}");
    }
    eprintln!("fieldmedic: {what_to_do}");
    BAD_USAGE
}

/// A duration as configurations have it.
fn parse_duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).ok_or_else(|| "a duration is expected, such as 30s or 10m".to_owned())
}

/// Stdout, for as long as somebody reads there. A reader who has seen enough (`| head`) changes nothing about what is
/// done.
struct WhileRead<W>(W);

impl<W: io::Write> io::Write for WhileRead<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

/// Says it on stdout, to whoever still reads there.
fn say(text: impl fmt::Display) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

fn fail(error: &anyhow::Error) -> u8 {
    eprintln!("fieldmedic: {error:#}");
    FAILED
}

#[cfg(not(all(feature = "completions", feature = "demo", feature = "simulate")))]
fn left_out(subcommand: &str) -> u8 {
    eprintln!(
        "fieldmedic: this build has no `{subcommand}`, as a gateway has no use for it; `cargo run -- {subcommand}` has, and any \
         build with cargo's feature `{subcommand}`"
    );
    BAD_USAGE
}

/// Runs it to its end. What hangs on a thread then, as a name that is being looked up or a disk that is being read, has
/// no bound of its own, and must not hold it up.
fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let rt = runtime()?;
    let done = rt.block_on(work);
    rt.shutdown_background();
    Ok(done)
}

fn runtime() -> anyhow::Result<LocalRuntime> {
    one_thread::runtime().context("start the async runtime")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_still_hangs_on_a_thread_does_not_hold_up_a_command_that_is_done() {
        let (resolver, hangs) = mpsc::sync_channel::<()>(0);
        let asked = async { drop(tokio::task::spawn_blocking(move || hangs.recv())) };
        block_on(asked).unwrap();
        drop(resolver);
    }
}
