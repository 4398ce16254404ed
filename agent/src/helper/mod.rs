//! `fieldmedic-act`: the only code that runs as root. systemd starts it by its socket, with an empty set of
//! capabilities and no network; it judges what the agent asks for by root's own policy, checks the signature of what
//! the cloud ordered again, counts it on disk, and does it with the agent's own means (`act`), most of which ask PID 1.
//! It must not take the agent's word for anything: a compromised agent can't forge or repeat a command, exceed a
//! budget, or reach what the policy doesn't name.

mod judge;
mod ledger;
mod limits;
pub(crate) mod link;
mod pace;
mod policy;
pub(crate) mod protocol;
mod serve;

use std::ffi::OsString;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::net::UnixListener;

use crate::act::link as interfaces;
use crate::act::quarantine::DEFAULT_DIR as DEFAULT_STATE;
use crate::cli::logging;
use crate::collect::clock::{self, Clock};
use crate::config::{self, ClockTrust};
use crate::engine::time::BootId;
use crate::one_thread;
use ledger::{Ledger, Moment};
pub use policy::Policy;
pub(crate) use policy::{DEFAULT_FILE as POLICY_FILE, PolicyError};
use serve::Helper;

/// The command line or the policy is wrong.
const BAD_USAGE: u8 = 2;
const FAILED: u8 = 1;

/// What `--help` says.
pub const USAGE: &str = "\
Carries out what fieldmedic may have done as root: judges it by root's own policy. Started by its socket.

Usage:
  fieldmedic-act [--policy FILE] [--state DIR] [--boot-id ID]   serve the socket that systemd hands over
  fieldmedic-act --check [FILE]   is this policy right? exit code 2 and every mistake with its line if not, 1 if it
                                  is the default one and others could write it, so that everything is refused; warns
                                  of a rollback that would be refused, and of the default one that can't go back
  fieldmedic-act --restart-link INTERFACE   takes it down and up: what it has PID 1 run, with a network
  fieldmedic-act --version | --help

Defaults: --policy /etc/fieldmedic/policy.toml, --state /var/lib/fieldmedic-act, --boot-id the kernel's";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Serve { policy: PathBuf, state: PathBuf, boot: Option<BootId> },
    Check(PathBuf),
    RestartLink(String),
    Print(&'static str),
}

/// Runs the helper.
#[must_use]
pub fn main() -> ExitCode {
    let code = match task(std::env::args_os().skip(1)) {
        Some(Task::Serve { policy, state, boot }) => {
            logging::init_as("fieldmedic-act");
            serve(&policy, &state, boot).map(|()| 0).unwrap_or_else(|error| {
                tracing::error!("{error:#}");
                FAILED
            })
        }
        Some(Task::Check(file)) => check(&file, Path::new(policy::DEFAULT_FILE)),
        Some(Task::RestartLink(interface)) => restart_link(&interface),
        Some(Task::Print(text)) => {
            println!("{text}");
            0
        }
        None => {
            eprintln!("{USAGE}");
            BAD_USAGE
        }
    };
    ExitCode::from(code)
}

/// By hand: a parser of command lines would be the largest part of this program.
fn task(mut args: impl Iterator<Item = OsString>) -> Option<Task> {
    let (mut policy, mut state) = (PathBuf::from(policy::DEFAULT_FILE), PathBuf::from(DEFAULT_STATE));
    let mut boot = None;
    while let Some(arg) = args.next() {
        match arg.to_str()? {
            "--policy" => policy = args.next()?.into(),
            "--state" => state = args.next()?.into(),
            "--boot-id" => boot = Some(BootId::parse(args.next()?.to_str()?)?),
            "--check" => {
                let file = args.next().map_or(policy, PathBuf::from);
                return args.next().is_none().then_some(Task::Check(file));
            }
            interfaces::RESTART_FLAG => {
                let interface = args.next()?.into_string().ok()?;
                return args.next().is_none().then_some(Task::RestartLink(interface));
            }
            "--version" => return Some(Task::Print(concat!("fieldmedic-act ", env!("CARGO_PKG_VERSION")))),
            "--help" | "-h" => return Some(Task::Print(USAGE)),
            _ => return None,
        }
    }
    Some(Task::Serve { policy, state, boot })
}

/// Says what is wrong with a policy. That others could write it is only a warning where it isn't the one that is in
/// force: where it is checked it need not have its owner yet.
fn check(file: &Path, in_force: &Path) -> u8 {
    match Policy::read(file) {
        Ok(policy) => {
            match policy::trusted(file) {
                Err(error) if file == in_force => {
                    eprintln!("{error}: as it is, the helper refuses everything");
                    return FAILED;
                }
                Err(error) => eprintln!("warning: {error}: as it is, the helper would refuse everything"),
                Ok(()) => {}
            }
            for doubt in policy.doubts(file == in_force) {
                eprintln!("warning: {doubt}");
            }
            let actions: Vec<&str> = policy.actions.iter().map(|action| action.word()).collect();
            println!(
                "{}: right; allows {}",
                file.display(),
                if actions.is_empty() { "nothing".into() } else { actions.join(", ") }
            );
            0
        }
        Err(problems) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            eprintln!("{}: this policy can't be used", config::counted(&problems));
            BAD_USAGE
        }
    }
}

fn restart_link(interface: &str) -> u8 {
    match interfaces::restart_as_this_process(interface) {
        Ok(true) => 0,
        Ok(false) => FAILED,
        Err(error) => {
            eprintln!("{} {interface}: {error}", interfaces::RESTART_FLAG);
            FAILED
        }
    }
}

fn serve(policy: &Path, state: &Path, boot: Option<BootId>) -> anyhow::Result<()> {
    let listener = listener().context("take over the socket")?;
    let mut clock = Clock::new(ClockTrust::Kernel, Path::new("/"));
    // A policy that is wrong is told now, and then to everybody who asks: who mends it need not restart anything.
    match Policy::load(policy) {
        Ok(policy) => clock.set_trust(policy.clock),
        Err(error) => tracing::error!("everything is refused: policy: {error}"),
    }
    // Handed over where the sandbox has no /proc/sys.
    let boot = match boot {
        Some(boot) => boot,
        None => clock::boot_id(Path::new("/")).context("read the kernel's boot id")?,
    };
    let ledger = Ledger::open(state, clock::built().0.div_euclid(1000), &Moment::of(boot, &mut clock))?;
    let helper = Helper::new(policy.to_owned(), state.to_owned(), boot, clock, ledger);
    let runtime = one_thread::runtime().context("start the runtime")?;
    let served = runtime.block_on(async {
        let listener = UnixListener::from_std(listener)?;
        // Not told is not lost: only a unit of Type=notify waits for it.
        let _ = sd_notify::notify(true, &[sd_notify::NotifyState::Ready]);
        helper.serve(listener).await
    });
    // What hangs on a disk has no bound of its own, and must not hold up a stop.
    runtime.shutdown_background();
    Ok(served?)
}

/// The one socket that systemd hands over (sd_listen_fds(3)).
fn listener() -> io::Result<StdListener> {
    let mut fds = sd_notify::listen_fds()?;
    let (Some(fd), None) = (fds.next(), fds.next()) else {
        return Err(io::Error::other("it is started by its socket, fieldmedic-act.socket, and takes exactly one"));
    };
    #[expect(unsafe_code, reason = "a descriptor that was inherited is known by its number alone")]
    // SAFETY: LISTEN_PID says that systemd opened it for this process, and nobody else has taken it: this is called
    // once, before anything else is opened by number.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let listener = StdListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn parsed(args: &[&str]) -> Option<Task> {
        task(args.iter().map(OsString::from))
    }

    #[test]
    fn a_policy_in_force_that_others_could_write_is_not_right_and_one_that_is_made_elsewhere_only_doubtful() {
        let dir = tempfile::tempdir().unwrap();
        let file = tempfile::NamedTempFile::new_in(&dir).unwrap();
        let checked = |mode, in_force: &Path| {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            check(file.path(), in_force)
        };
        let (here, elsewhere) = (file.path(), Path::new(policy::DEFAULT_FILE));
        assert_eq!([checked(0o644, here), checked(0o644, elsewhere)], [0, 0]);
        assert_eq!([checked(0o666, here), checked(0o666, elsewhere)], [FAILED, 0]);
    }

    #[test]
    fn the_command_line_is_read_and_nonsense_is_not_guessed_at() {
        let (policy, state) = (PathBuf::from(policy::DEFAULT_FILE), PathBuf::from(DEFAULT_STATE));
        assert_eq!(parsed(&[]), Some(Task::Serve { policy: policy.clone(), state, boot: None }));
        let id = "0123456789abcdef0123456789abcdef";
        let elsewhere = Task::Serve { policy: "p".into(), state: "s".into(), boot: BootId::parse(id) };
        assert_eq!(parsed(&["--policy", "p", "--state", "s", "--boot-id", id]), Some(elsewhere));
        assert_eq!(parsed(&["--check"]), Some(Task::Check(policy)));
        assert_eq!(parsed(&["--check", "p"]), Some(Task::Check("p".into())));
        for wrong in [&["--check", "p", "q"][..], &["--policy"], &["serve"], &["-x"], &["--boot-id", "1"]] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
    }
}
