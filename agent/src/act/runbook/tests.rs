#![expect(clippy::disallowed_methods, reason = "runbooks are files, and their ends are waited for")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::super::program::{OUTPUT_MAX, Program, Progress};
use super::super::transient::run_where;
use super::*;
use crate::engine::io::{ActStatus, Ending};

const LONG: Duration = Duration::from_secs(60);

/// A directory of runbooks.
struct Dir(tempfile::TempDir);

const ENV: &[(&str, &str)] = &[("FIELDMEDIC_COMMAND_ID", "c-1")];

impl Dir {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        chmod(dir.path(), 0o755);
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A script for sh.
    fn script(&self, name: &str, text: &str) {
        fs::write(self.path(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        chmod(&self.path(name), 0o755);
    }

    async fn run_until(
        &self,
        name: &str,
        args: &[String],
        within: Duration,
        canceled: oneshot::Receiver<()>,
        progress: Progress<'_>,
    ) -> ActOutcome {
        match resolve(self.0.path(), name, within).await {
            Ok(path) => {
                let program = Program::new(&path, args, ENV);
                run_where(false, program, name, Ending::RunbookRefused, within, canceled, progress).await.outcome
            }
            Err(refusal) => refusal,
        }
    }

    /// The outcome, and the percentages that were told.
    async fn run(&self, name: &str, args: &[&str], within: Duration) -> (ActOutcome, Vec<u8>) {
        let (_cancel, canceled) = oneshot::channel();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut told = Vec::new();
        let outcome = self.run_until(name, &args, within, canceled, &mut |percent| told.push(percent)).await;
        (outcome, told)
    }

    /// Cancels the run as soon as it tells of any progress.
    async fn cancel_at_progress(&self, name: &str) -> ActOutcome {
        let (cancel, canceled) = oneshot::channel();
        let mut cancel = Some(cancel);
        let mut progress = |_| {
            if let Some(cancel) = cancel.take() {
                cancel.send(()).unwrap();
            }
        };
        self.run_until(name, &[], LONG, canceled, &mut progress).await
    }

    /// What a script wrote with `echo $$ > "$0.group"`.
    fn group(&self, name: &str) -> u32 {
        fs::read_to_string(self.path(&format!("{name}.group"))).unwrap().trim().parse().unwrap()
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Waits until nobody of a process group lives: a signal takes a moment to be felt.
async fn until_gone(group: u32) {
    let gone = async {
        while !living(group).is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(LONG, gone).await;
    assert!(waited.is_ok(), "still alive in group {group}: {:?}", living(group));
}

/// The command lines of a group's processes; zombies are dead (proc_pid_stat(5)).
fn living(group: u32) -> Vec<String> {
    let stats = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        Some((fs::read_to_string(path.join("stat")).ok()?, fs::read_to_string(path.join("cmdline")).ok()?))
    });
    let members = stats.filter(|(stat, _)| {
        let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
        let fields: Vec<&str> = rest.split(' ').collect();
        fields[0] != "Z" && fields[0] != "X" && fields[2] == group.to_string()
    });
    members.map(|(_, cmdline)| cmdline).collect()
}

#[tokio::test]
async fn its_output_its_exit_code_and_its_progress_are_told() {
    let dir = Dir::new();
    dir.script("fix", "echo \"progress 40\"; echo \"got $1 and $2\"; echo oops >&2; echo last; exit 3");
    let (outcome, told) = dir.run("fix", &["a b", "$(id)"], LONG).await;
    assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some("exit_code")));
    assert_eq!(outcome.detail.as_deref(), Some("exit code 3"));
    assert_eq!(outcome.output.as_deref(), Some("progress 40\ngot a b and $(id)\noops\nlast\n"));
    assert_eq!(told, [40]);
}

#[tokio::test]
async fn progress_only_goes_forwards_and_not_beyond_the_end() {
    let dir = Dir::new();
    dir.script("fix", "for p in 10 10% 5 x 300 -1 20 250 101; do echo \"progress $p\"; done");
    let (outcome, told) = dir.run("fix", &[], LONG).await;
    assert_eq!((outcome.status, outcome.detail.as_deref()), (ActStatus::Succeeded, Some("exit code 0")));
    assert_eq!(told, [10, 20]);
}

#[tokio::test]
async fn a_runbook_that_a_signal_ends_says_which() {
    let dir = Dir::new();
    dir.script("abort", "kill -ABRT $$");
    let (outcome, _) = dir.run("abort", &[], LONG).await;
    assert_eq!((outcome.reason.as_deref(), outcome.detail.as_deref()), (Some("signal"), Some("ended by signal 6")));
    assert_eq!(outcome.output, None);
}

#[tokio::test]
async fn the_environment_is_clean_but_for_who_wants_it() {
    let dir = Dir::new();
    dir.script("env", "env; pwd; cat; exec 2>/dev/null; ls -l /proc/$$/fd | grep -c socket:");
    let output = dir.run("env", &[], LONG).await.0.output.unwrap();
    assert!(!output.contains("CARGO") && !output.contains("HOME="), "{output}");
    assert!(output.contains("FIELDMEDIC_COMMAND_ID=c-1\n") && output.contains("FIELDMEDIC_RUN="), "{output}");
    assert!(output.ends_with("/\n0\n"), "{output}");
}

#[tokio::test]
async fn only_the_end_of_a_long_output_is_kept() {
    let dir = Dir::new();
    dir.script("long", "i=0; while [ $i -lt 5000 ]; do echo \"line $i\"; i=$((i+1)); done");
    let output = dir.run("long", &[], LONG).await.0.output.unwrap();
    let whole: usize = (0..5000).map(|line| format!("line {line}\n").len()).sum();
    let (left_out, kept) = output.split_once('\n').unwrap();
    assert_eq!(left_out, format!("… {} B before this", whole - kept.len()));
    assert!(
        kept.ends_with("line 4999\n") && (OUTPUT_MAX - 64..=OUTPUT_MAX).contains(&output.len()),
        "{}",
        output.len()
    );
}

#[tokio::test]
async fn an_output_that_is_no_text_is_no_longer_than_one_that_is() {
    let dir = Dir::new();
    dir.script("bytes", "head -c 16000 /dev/zero | tr '\\0' '\\377'; echo; echo done");
    let output = dir.run("bytes", &[], LONG).await.0.output.unwrap();
    let (left_out, kept) = output.split_once('\n').unwrap();
    let whole = kept.strip_suffix("\ndone\n").unwrap();
    assert_eq!(whole.trim_matches('\u{fffd}'), "");
    let whole = 16_000 - whole.chars().count();
    assert_eq!(left_out, format!("… {whole} B before this"), "what it said is counted, not what is shown for it");
    assert!((OUTPUT_MAX - 64..=OUTPUT_MAX).contains(&output.len()), "{}", output.len());
}

#[tokio::test]
async fn bytes_that_are_no_text_are_told_as_well_as_they_can_be() {
    let dir = Dir::new();
    dir.script("binary", "printf 'a\\377b'");
    assert_eq!(dir.run("binary", &[], LONG).await.0.output.as_deref(), Some("a\u{fffd}b"));
}

#[tokio::test]
async fn at_its_deadline_it_is_stopped() {
    let dir = Dir::new();
    dir.script("slow", "exec sleep 3600");
    let (outcome, _) = dir.run("slow", &[], Duration::from_millis(50)).await;
    assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::TimedOut, Some("timeout")));
    assert_eq!(outcome.detail.as_deref(), Some("slow was stopped after 50ms"));
}

#[tokio::test]
async fn one_that_listens_to_sigterm_may_clean_up() {
    let dir = Dir::new();
    dir.script("tidy", "trap 'echo tidied; exit 0' TERM; echo progress 1; while :; do sleep 0.02; done");
    let outcome = dir.cancel_at_progress("tidy").await;
    assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Canceled, Some("canceled")));
    assert!(outcome.output.as_ref().unwrap().ends_with("tidied\n"), "{outcome:?}");
}

#[tokio::test]
async fn one_that_is_deaf_to_sigterm_is_killed_with_its_children() {
    let dir = Dir::new();
    dir.script("deaf", "trap '' TERM; echo $$ > \"$0.group\"; sleep 3600 & echo progress 1; sleep 3600");
    assert_eq!(dir.cancel_at_progress("deaf").await.status, ActStatus::Canceled);
    until_gone(dir.group("deaf")).await;
}

#[tokio::test]
async fn what_it_leaves_in_its_group_is_killed_with_its_end() {
    let dir = Dir::new();
    dir.script("leaver", "echo $$ > \"$0.group\"; sleep 3600 & echo done");
    let (outcome, _) = dir.run("leaver", &[], LONG).await;
    assert_eq!((outcome.status, outcome.output.as_deref()), (ActStatus::Succeeded, Some("done\n")));
    until_gone(dir.group("leaver")).await;
}

#[tokio::test]
async fn a_run_that_is_given_up_leaves_nobody_behind() {
    let dir = Dir::new();
    dir.script("slow", "echo $$ > \"$0.group\"; sleep 3600 & echo progress 1; sleep 3600");
    let (begun, seen) = oneshot::channel();
    let mut begun = Some(begun);
    let (_cancel, canceled) = oneshot::channel();
    let mut progress = |_| begun.take().unwrap().send(()).unwrap();
    // As when the agent stops: the run's future is dropped in the middle.
    tokio::select! {
        outcome = dir.run_until("slow", &[], LONG, canceled, &mut progress) => panic!("it ended: {outcome:?}"),
        begun = seen => begun.unwrap(),
    }
    until_gone(dir.group("slow")).await;
}

#[tokio::test]
async fn what_has_left_its_group_ends_with_it_however_it_ends() {
    let dir = Dir::new();
    let leaves = "setsid sh -c 'echo $$ > \"$0.group\"; exec sleep 3600' \"$0\" & \
        until [ -s \"$0.group\" ]; do sleep 0.01; done; echo progress 1";
    dir.script("ends", leaves);
    dir.script("hangs", &format!("{leaves}; sleep 3600"));
    dir.script("late", &format!("{leaves}; sleep 3600"));
    assert_eq!(dir.run("ends", &[], LONG).await.0.status, ActStatus::Succeeded);
    assert_eq!(dir.cancel_at_progress("hangs").await.status, ActStatus::Canceled);
    let (outcome, told) = dir.run("late", &[], Duration::from_secs(3)).await;
    assert_eq!((outcome.status, told), (ActStatus::TimedOut, vec![1]));
    for name in ["ends", "hangs", "late"] {
        until_gone(dir.group(name)).await;
    }
}

#[tokio::test]
async fn a_daemon_that_holds_the_pipe_does_not_hold_up_the_outcome() {
    let dir = Dir::new();
    // Out of the group, without the environment, and gone when the test is: it looks for its runbook.
    dir.script("starter", "env -i setsid sh -c 'while [ -e \"$0\" ]; do sleep 0.1; done' \"$0\" & echo started");
    let (outcome, _) = timeout(LONG, dir.run("starter", &[], LONG)).await.unwrap();
    assert_eq!((outcome.status, outcome.output.as_deref()), (ActStatus::Succeeded, Some("started\n")));
}

#[tokio::test]
async fn what_is_no_runbook_is_not_run() {
    let dir = Dir::new();
    dir.script("good", "echo run");
    dir.script("open", "echo run");
    chmod(&dir.path("open"), 0o775);
    dir.script("text", "echo run");
    chmod(&dir.path("text"), 0o644);
    dir.script(".hidden", "echo run");
    symlink(dir.path("good"), dir.path("link")).unwrap();
    fs::create_dir(dir.path("folder")).unwrap();
    dir.script("folder/inner", "echo run");
    let beyond = format!("../{}/good", dir.0.path().file_name().unwrap().to_str().unwrap());
    let whole = dir.path("good").display().to_string();
    for (name, reason, words) in [
        ("open", "runbook_refused", "has mode 775"),
        ("text", "runbook_refused", "is not executable"),
        ("link", "runbook_refused", "is no plain file"),
        ("folder", "runbook_refused", "is no plain file"),
        ("folder/inner", "runbook_refused", "no plain file name"),
        (".hidden", "runbook_refused", "no plain file name"),
        ("..", "runbook_refused", "no plain file name"),
        ("", "runbook_refused", "no plain file name"),
        ("good/", "runbook_refused", "no plain file name"),
        (beyond.as_str(), "runbook_refused", "no plain file name"),
        (whole.as_str(), "runbook_refused", "no plain file name"),
        ("nul\0", "runbook_refused", "look at"),
        ("none", "no_such_runbook", "there is no"),
    ] {
        let (outcome, _) = dir.run(name, &[], LONG).await;
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some(reason)), "{name:?}");
        assert!(outcome.detail.as_ref().unwrap().contains(words), "{name:?}: {outcome:?}");
        assert_eq!(outcome.output, None, "{name:?}");
    }
}

#[tokio::test]
async fn nothing_is_run_from_a_directory_that_others_may_write_to() {
    let dir = Dir::new();
    dir.script("good", "echo run");
    assert_eq!(dir.run("good", &[], LONG).await.0.status, ActStatus::Succeeded);
    chmod(dir.0.path(), 0o777);
    let (outcome, _) = dir.run("good", &[], LONG).await;
    assert!(outcome.detail.as_ref().unwrap().contains("has mode 777"), "{outcome:?}");
}

#[tokio::test]
async fn a_runbook_that_can_not_be_started_says_why() {
    let dir = Dir::new();
    for text in ["#!/no/such/interpreter\n", "#!/bin/sh\r\nexit 0\r\n"] {
        fs::write(dir.path("broken"), text).unwrap();
        chmod(&dir.path("broken"), 0o755);
        let (outcome, _) = dir.run("broken", &[], LONG).await;
        assert_eq!(outcome.reason.as_deref(), Some("runbook_refused"));
        let detail = outcome.detail.as_deref().unwrap();
        assert!(detail.contains("No such file") && detail.contains("CRLF"), "{text:?}: {detail}");
    }
}
