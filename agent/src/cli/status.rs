//! `fieldmedic status`: asks the running daemon over its socket.

mod screen;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

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
    let unicode = is_utf8();
    loop {
        let answer = match rt.block_on(ask_status(&socket)) {
            Ok(answer) if !answer.is_empty() => answer,
            Ok(_) => return no_daemon(&socket, "it closed the connection: it is busy"),
            Err(error) => return no_daemon(&socket, &error.to_string()),
        };
        let text = if args.json { answer } else { screen::render(&answer, unicode) };
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
