//! `fieldmedic status`: asks the running daemon over its socket.

mod screen;

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::Value as Json;

use super::{ConfigArgs, DONE, NO_DAEMON, fail, runtime, unusable};
use crate::config::{DEFAULT_SOCKET, Problem};
use crate::runtime::local::ask_status;

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
    /// Again every two seconds, until Ctrl-C, also while no daemon answers any more.
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
    /// # Errors
    /// Everything that is wrong with the configuration that was named.
    pub(super) fn find(self) -> Result<PathBuf, Vec<Problem>> {
        if let Some(socket) = self.socket {
            return Ok(socket);
        }
        self.config.path_of(|config| config.local.socket, DEFAULT_SOCKET, "--socket")
    }
}

pub(super) fn run(args: StatusArgs) -> u8 {
    let socket = match args.at.find() {
        Ok(socket) => socket,
        Err(problems) => return unusable(&problems, "name the socket with --socket, or a configuration with --config"),
    };
    let rt = match runtime() {
        Ok(rt) => rt,
        Err(error) => return fail(&error),
    };
    let width = std::io::stdout().is_terminal().then_some(screen::WIDTH);
    let console = screen::Console { unicode: is_utf8(), width };
    let mut was_answered = false;
    loop {
        let shown = match rt.block_on(ask(&socket)) {
            Ok(answer) => {
                was_answered = true;
                let text = if args.json { answer } else { screen::render(&answer, console) };
                show(&text, args.watch && !args.json)
            }
            Err(why) if was_answered && !args.json => show(&why, true),
            Err(why) => {
                eprintln!("fieldmedic: {why}");
                Ok(())
            }
        };
        if !was_answered {
            return NO_DAEMON;
        }
        match shown {
            // Who watched has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return DONE,
            Err(error) => return fail(&anyhow::Error::from(error).context("write to stdout")),
            Ok(()) => {}
        }
        if !args.watch {
            return DONE;
        }
        rt.block_on(pause());
    }
}

/// The status, or why there is none.
async fn ask(socket: &Path) -> Result<String, String> {
    let why = match ask_status(socket).await {
        Ok(answer) if serde_json::from_str::<Json>(&answer).is_ok_and(|status| status.is_object()) => {
            return Ok(answer);
        }
        Ok(answer) if !answer.is_empty() => "what answers is no daemon: is it the right socket?".to_owned(),
        Ok(_) => "it closed the connection, as it is busy: try again".to_owned(),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            format!("{error}; ask as root, or as a member of the socket's group")
        }
        Err(error) => format!("{error}; is fieldmedic.service running?"),
    };
    Err(format!("no daemon answers on {}: {why}", socket.display()))
}

#[expect(clippy::disallowed_methods, reason = "a console that refreshes itself waits for its next turn")]
async fn pause() {
    tokio::time::sleep(WATCH_EVERY).await;
}

/// Whether the console shows more than ASCII (locale(7)).
#[expect(clippy::disallowed_methods, reason = "the console's locale is in the environment")]
fn is_utf8() -> bool {
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|it| !it.is_empty()));
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.ends_with("utf-8") || locale.ends_with("utf8")
    })
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
