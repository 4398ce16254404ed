//! Runs a runbook: a file of one directory that nobody but its owner could have written, with a clean environment, a
//! deadline and a bounded memory of what it says. Never a shell, never a path from outside. What it leaves behind in
//! its process group is killed with it.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is where a process is run, with a deadline"
)]

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::engine::io::{ActOutcome, ActStatus};

/// What is kept of the output: its end.
const OUTPUT_MAX: usize = 16 * 1024;
/// A line that is longer is no progress line.
const PROGRESS_LINE_MAX: usize = 64;
/// How long a runbook may take to end after SIGTERM, before SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);
/// How long to wait for the rest of the output after the end: a process that was left behind may hold the pipe for ever.
const DRAIN_MAX: Duration = Duration::from_millis(500);

/// Runs a runbook to its end.
pub async fn run(
    dir: &Path,
    name: &str,
    args: &[String],
    within: Duration,
    canceled: oneshot::Receiver<()>,
    progress: impl FnMut(u8),
) -> ActOutcome {
    let path = match resolve(dir, name) {
        Ok(path) => path,
        Err(unfit) => return ActOutcome::failed("runbook_refused", unfit),
    };
    let mut child = match spawn(&path, args) {
        Ok(child) => child,
        Err(error) => return ActOutcome::failed("runbook_refused", format!("start {}: {error}", path.display())),
    };
    let mut output = Output::new(progress);
    let mut streams = (child.stdout.take(), child.stderr.take());
    let end = {
        let mut reading = std::pin::pin!(output.read(&mut streams.0, &mut streams.1));
        let mut ending = std::pin::pin!(watch(&mut child, within, canceled));
        let end = tokio::select! {
            end = &mut ending => end,
            () = &mut reading => ending.await,
        };
        end
    };
    // The group is gone but for what escaped it; its last words are usually in the pipe by now.
    let _ = timeout(DRAIN_MAX, output.read(&mut streams.0, &mut streams.1)).await;
    outcome(name, end, within, output.into_text())
}

/// How a run ended.
enum End {
    Exited(std::io::Result<ExitStatus>),
    TimedOut,
    Canceled,
}

/// Waits for the end, and brings it about where it is due.
async fn watch(child: &mut Child, within: Duration, canceled: oneshot::Receiver<()>) -> End {
    let group = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let end = tokio::select! {
        status = child.wait() => End::Exited(status),
        () = sleep(within) => End::TimedOut,
        Ok(()) = canceled => End::Canceled,
    };
    if !matches!(end, End::Exited(_)) {
        signal(group, Signal::TERM);
        // Ended or not, what follows is the same.
        let _ = timeout(TERM_GRACE, child.wait()).await;
    }
    signal(group, Signal::KILL);
    // Reaps it: after SIGKILL this doesn't take long.
    let _ = timeout(TERM_GRACE, child.wait()).await;
    end
}

/// To the whole process group, which may be empty by now.
fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        let _ = kill_process_group(group, signal);
    }
}

fn outcome(name: &str, end: End, within: Duration, output: String) -> ActOutcome {
    let failed = |reason: &str, detail: String| ActOutcome::failed(reason, detail);
    let outcome = match end {
        End::Exited(Ok(status)) if status.success() => ActOutcome::succeeded("exit code 0"),
        End::Exited(Ok(status)) => match (status.code(), status.signal()) {
            (Some(code), _) => failed("exit_code", format!("exit code {code}")),
            (None, Some(signal)) => failed("signal", format!("ended by signal {signal}")),
            (None, None) => failed("exit_code", format!("{status}")),
        },
        End::Exited(Err(error)) => failed("exit_code", format!("wait for {name}: {error}")),
        End::TimedOut => {
            ActOutcome::timed_out(format!("{name} was stopped after {}", humantime::format_duration(within)))
        }
        End::Canceled => ActOutcome::canceled(format!("{name} was stopped")),
    };
    debug_assert!(matches!(
        outcome.status,
        ActStatus::Succeeded | ActStatus::Failed | ActStatus::TimedOut | ActStatus::Canceled
    ));
    ActOutcome { output: (!output.is_empty()).then_some(output), ..outcome }
}

/// The file that a name stands for, if nobody but root, or the one whose agent this is, could have written it.
fn resolve(dir: &Path, name: &str) -> Result<PathBuf, String> {
    let path = dir.join(name);
    // Seen without following links: a link could point anywhere, tomorrow elsewhere.
    let file = fs::symlink_metadata(&path).map_err(|error| format!("runbook {}: {error}", path.display()))?;
    if !file.is_file() {
        return Err(format!("runbook {} is no plain file", path.display()));
    }
    let folder = fs::metadata(dir).map_err(|error| format!("runbooks.dir {}: {error}", dir.display()))?;
    for (what, metadata) in [(dir, &folder), (path.as_path(), &file)] {
        trustworthy(what, metadata)?;
    }
    if file.mode() & 0o111 == 0 {
        return Err(format!("runbook {} is not executable", path.display()));
    }
    Ok(path)
}

fn trustworthy(what: &Path, metadata: &fs::Metadata) -> Result<(), String> {
    let ours = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != ours {
        return Err(format!("{} belongs to uid {}; root is expected", what.display(), metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(format!("{} is writable by others than its owner: chmod go-w", what.display()));
    }
    Ok(())
}

fn spawn(path: &Path, args: &[String]) -> std::io::Result<Child> {
    Command::new(path)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// The end of what a runbook says, and the progress that it tells on the way.
struct Output<P> {
    tail: VecDeque<u8>,
    passed: u64,
    line: Vec<u8>,
    progress: P,
}

impl<P: FnMut(u8)> Output<P> {
    fn new(progress: P) -> Self {
        Self { tail: VecDeque::new(), passed: 0, line: Vec::new(), progress }
    }

    /// Reads both until both are at their end.
    async fn read(&mut self, stdout: &mut Option<impl AsyncRead + Unpin>, stderr: &mut Option<impl AsyncRead + Unpin>) {
        let (mut from_out, mut from_err) = ([0_u8; 4096], [0_u8; 4096]);
        while stdout.is_some() || stderr.is_some() {
            tokio::select! {
                count = read_some(stdout, &mut from_out) => {
                    if !self.take(from_out.get(..count).unwrap_or_default()) { *stdout = None; }
                }
                count = read_some(stderr, &mut from_err) => {
                    if !self.take(from_err.get(..count).unwrap_or_default()) { *stderr = None; }
                }
            }
        }
    }

    /// False if there was nothing: the end.
    fn take(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_of_line();
            } else if self.line.len() <= PROGRESS_LINE_MAX {
                self.line.push(byte);
            }
        }
        self.tail.extend(bytes);
        let surplus = self.tail.len().saturating_sub(OUTPUT_MAX);
        self.tail.drain(..surplus);
        self.passed += surplus as u64;
        !bytes.is_empty()
    }

    /// `progress 40` says how far it is.
    fn end_of_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let percent = std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix("progress "));
        if let Some(percent) = percent.and_then(|percent| percent.trim().trim_end_matches('%').parse::<u8>().ok()) {
            (self.progress)(percent.min(100));
        }
    }

    fn into_text(self) -> String {
        let bytes: Vec<u8> = self.tail.into();
        let text = String::from_utf8_lossy(&bytes);
        if self.passed > 0 { format!("… {} B before this\n{text}", self.passed) } else { text.into_owned() }
    }
}

/// Bytes read; 0 at the end, or on an error, which is as good as one. Never ready for a stream that has ended.
async fn read_some(stream: &mut Option<impl AsyncRead + Unpin>, into: &mut [u8]) -> usize {
    match stream {
        Some(stream) => stream.read(into).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            Self(dir)
        }

        fn script(&self, name: &str, text: &str, mode: u32) {
            let path = self.0.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }

        async fn run(&self, name: &str, args: &[&str], within: Duration) -> (ActOutcome, Vec<u8>) {
            let (_cancel, canceled) = oneshot::channel();
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            let mut told = Vec::new();
            let outcome = run(self.0.path(), name, &args, within, canceled, |percent| told.push(percent)).await;
            (outcome, told)
        }
    }

    #[tokio::test]
    async fn its_output_its_exit_code_and_its_progress_are_told() {
        let dir = Dir::new();
        dir.script("fix", "echo \"progress 40\"; echo \"got $1 and $2\"; echo oops >&2; exit 3", 0o755);
        let (outcome, told) = dir.run("fix", &["a b", "$(id)"], LONG).await;
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some("exit_code")));
        assert_eq!(outcome.detail.as_deref(), Some("exit code 3"));
        let output = outcome.output.unwrap();
        assert!(output.contains("got a b and $(id)") && output.contains("oops"), "{output}");
        assert_eq!(told, [40]);
    }

    #[tokio::test]
    async fn the_environment_is_clean() {
        let dir = Dir::new();
        dir.script("env", "env; pwd", 0o755);
        let output = dir.run("env", &[], LONG).await.0.output.unwrap();
        assert!(!output.contains("CARGO") && !output.contains("HOME="), "{output}");
        assert!(output.ends_with("/\n"), "{output}");
    }

    #[tokio::test]
    async fn only_the_end_of_a_long_output_is_kept() {
        let dir = Dir::new();
        dir.script("long", "i=0; while [ $i -lt 5000 ]; do echo \"line $i\"; i=$((i+1)); done", 0o755);
        let output = dir.run("long", &[], LONG).await.0.output.unwrap();
        assert!(output.len() < OUTPUT_MAX + 64, "{} B", output.len());
        assert!(output.starts_with('…') && output.ends_with("line 4999\n"));
    }

    #[tokio::test]
    async fn at_its_deadline_the_whole_group_is_killed() {
        let dir = Dir::new();
        let mark = dir.0.path().join("grandchild");
        // Neither it nor its child listens to SIGTERM; the grandchild would leave a mark.
        let text = format!("trap '' TERM; (trap '' TERM; echo $$ > {m}; sleep 60) & sleep 60", m = mark.display());
        dir.script("stuck", &text, 0o755);
        let (outcome, _) = dir.run("stuck", &[], Duration::from_millis(300)).await;
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::TimedOut, Some("timeout")));
        let group: i32 = fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
        assert_eq!(alive_in_group(group), Vec::<String>::new(), "of group {group}");
    }

    /// The `stat` lines (proc(5)) of all processes of a group that are not zombies.
    fn alive_in_group(group: i32) -> Vec<String> {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
        let is_alive = |stat: &String| {
            // After the name in brackets: state, parent, group.
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
            fields[2] == group.to_string() && fields[0] != "Z"
        };
        stats.filter(is_alive).collect()
    }

    #[tokio::test]
    async fn a_process_left_behind_does_not_hold_up_the_outcome() {
        let dir = Dir::new();
        dir.script("leaver", "setsid sleep 20 & echo done", 0o755);
        let (outcome, _) = timeout(Duration::from_secs(10), dir.run("leaver", &[], LONG)).await.unwrap();
        assert_eq!((outcome.status, outcome.output.as_deref()), (ActStatus::Succeeded, Some("done\n")));
    }

    #[tokio::test]
    async fn what_others_could_have_written_is_not_run() {
        let dir = Dir::new();
        dir.script("open", "echo run", 0o777);
        dir.script("plain", "echo run", 0o644);
        dir.script("good", "echo run", 0o755);
        symlink(dir.0.path().join("good"), dir.0.path().join("link")).unwrap();
        fs::create_dir(dir.0.path().join("folder")).unwrap();
        for (name, word) in [
            ("open", "writable"),
            ("plain", "not executable"),
            ("link", "no plain file"),
            ("folder", "no plain file"),
            ("none", "No such file"),
        ] {
            let (outcome, _) = dir.run(name, &[], LONG).await;
            assert_eq!(outcome.reason.as_deref(), Some("runbook_refused"), "{name}");
            assert!(outcome.detail.as_ref().unwrap().contains(word), "{name}: {outcome:?}");
        }
        fs::set_permissions(dir.0.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(dir.run("good", &[], LONG).await.0.detail.unwrap().contains("writable"));
    }
}
