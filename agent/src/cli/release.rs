//! `fieldmedic release --local`: root ends a quarantine on the console, whatever the agent or the cloud says, and also
//! where the agent doesn't run: it is told afterwards.

use std::path::PathBuf;

use clap::Args;

use super::status::SocketArgs;
use super::{BAD_USAGE, DONE, FAILED, block_on, fail, say, unusable};
use crate::act::jobs::{self, Job};
use crate::act::quarantine::{BOOT_UNIT, DEFAULT_DIR, Loader, Quarantine};
use crate::config::DEFAULT_SOCKET;
use crate::engine::io::{ActOutcome, ActStatus};
use crate::runtime::local::tell_released;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sudo fieldmedic release --local")]
pub(super) struct ReleaseArgs {
    /// Here, and now. A signed command `release` is the way from afar.
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    at: SocketArgs,
}

pub(super) fn run(args: ReleaseArgs) -> u8 {
    if !args.local {
        eprintln!("fieldmedic: here, as root: sudo fieldmedic release --local; from afar: fieldmedic send … release");
        return BAD_USAGE;
    }
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        eprintln!("fieldmedic: only root ends a quarantine here; from afar: fieldmedic send … release");
        return FAILED;
    }
    // Whoever is locked out has more to mend than a configuration.
    let socket = args.at.find().unwrap_or_else(|problems| {
        unusable(&problems, &format!("going on; the agent is told on {DEFAULT_SOCKET}, unless --socket names another"));
        PathBuf::from(DEFAULT_SOCKET)
    });
    let quarantine = Quarantine::new(PathBuf::from(DEFAULT_DIR), Loader::find(), uid.as_raw());
    let done = block_on(async {
        let was_in_force = quarantine.in_force().is_some();
        let ActOutcome { status, reason, detail, .. } = quarantine.leave_by_hand().await;
        let detail = detail.unwrap_or_default();
        if status != ActStatus::Succeeded {
            eprintln!("fieldmedic: {}: {detail}", reason.unwrap_or_default());
            return FAILED;
        }
        let what = if was_in_force { "released" } else { "there was no quarantine" };
        say(format_args!("{what}: {detail}"));
        // The rules are gone by now: this is for its state alone, and there may be no systemd.
        let _ = jobs::run(Job::Stop, [BOOT_UNIT]).await;
        if let Err(error) = tell_released(&socket).await {
            let socket = socket.display();
            eprintln!("fieldmedic: the agent was not told ({socket}: {error}): it finds out when it looks");
        }
        DONE
    });
    done.unwrap_or_else(|error| fail(&error))
}
