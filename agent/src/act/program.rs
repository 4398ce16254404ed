//! Runs a program that is nobody else's to write, to its end: a clean environment, no shell, a deadline and a bounded
//! memory of what it says. What it leaves behind is killed with it, also when the agent stops meanwhile: its process
//! group, and of a run that somebody wanted also who has left that group, known by the environment. Which program, and
//! what its end means, is for the caller to say.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is where a process is run, with a deadline"
)]

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::engine::io::{ActOutcome, Ending};
use crate::own_thread::on_own_thread;
use crate::text::tail;

/// What is kept of the output, as text: its last bytes, behind what says that they are not all.
pub(super) const OUTPUT_MAX: usize = 16 * 1024;
/// The longest that may say so.
const LEFT_OUT_BYTES: usize = "… 18446744073709551615 B before this\n".len();
/// A line that is longer is no progress line.
const PROGRESS_LINE_MAX: usize = 64;
/// How long a program may take to end after SIGTERM, before SIGKILL.
pub(super) const TERM_GRACE: Duration = Duration::from_secs(5);
/// How long SIGKILL may take: a process that hangs in the kernel is not waited for any longer.
const KILL_GRACE: Duration = Duration::from_secs(1);
/// How long to wait for the rest of the output after the end: a process that was left behind may hold the pipe for
/// ever.
pub(super) const DRAIN_MAX: Duration = Duration::from_millis(500);

/// The variable by which all that a run has started is known, wherever it has gone.
const RUN_MARK: &str = "FIELDMEDIC_RUN";
/// How often is looked for what is left: it may start more while it is looked for.
const SWEEPS_MAX: usize = 8;
/// How long that may take: to read of a process that hangs in the kernel may hang.
const SWEEP_MAX: Duration = Duration::from_secs(2);

/// As many links as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// The environment of whatever is run, but for what its caller adds.
pub(super) const ENVIRONMENT: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LANG", "C.UTF-8")];

/// Who is told how far a run is, in percent. One type for all: each type would have a run of its own in the program.
pub type Progress<'a> = &'a mut (dyn FnMut(u8) + Send);

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// The file, absolute.
    pub path: &'a Path,
    /// Arguments, handed over as they are.
    pub args: &'a [String],
    /// What is added to the environment.
    pub env: &'a [(&'a str, &'a str)],
    /// Bytes of what it says that are kept: the last.
    pub tail_max: usize,
    /// It goes on where whoever wants it is gone.
    pub outlives: bool,
}

impl<'a> Program<'a> {
    /// A program that says what a human reads.
    #[must_use]
    pub const fn new(path: &'a Path, args: &'a [String], env: &'a [(&'a str, &'a str)]) -> Self {
        Self { path, args, env, tail_max: OUTPUT_MAX, outlives: false }
    }

    /// The same, where ending it in the middle would be worse than letting it go on: it ends neither with whoever wants
    /// it nor when its time is over, after which it is only not waited for any longer.
    #[must_use]
    pub const fn outliving(self) -> Self {
        Self { outlives: true, ..self }
    }
}

/// Runs it to its end.
///
/// # Errors
/// It could not be started.
pub async fn run(
    program: Program<'_>,
    within: Duration,
    canceled: oneshot::Receiver<()>,
    progress: Progress<'_>,
) -> io::Result<Finished> {
    // What has no environment of its own is a tool that starts nothing.
    let mark = (!program.env.is_empty() && !program.outlives).then(|| format!("{:016x}", fastrand::u64(..)));
    let (mut child, mut said) = spawn(program, mark.as_deref())?;
    let mut group = Group::of(&child, program.outlives, mark);
    let mut output = Output::new(program.tail_max, progress);
    let end = {
        let mut ending = std::pin::pin!(ending(&mut child, &group, within, canceled));
        tokio::select! {
            end = &mut ending => end,
            () = output.read(&mut said) => ending.await,
        }
    };
    let mark = group.mark.take();
    drop(group);
    if let Some(mark) = mark {
        // Whoever hangs is left to the kernel.
        let _ = timeout(SWEEP_MAX, on_own_thread("sweep", move || sweep(&mark))).await;
    }
    // What is left in the pipe. Who escaped from the group may hold it open for ever.
    let _ = timeout(DRAIN_MAX, output.read(&mut said)).await;
    Ok(Finished { end, within, output: output.into_text() })
}

/// Looks at a file to be run, by [`unfit`] or its like, on a thread that may hang with the disk that it is on: nobody
/// else does, and what heals that may be ordered next.
///
/// # Errors
/// `timeout`: the disk doesn't answer.
pub(super) async fn look_at(
    path: &Path,
    look: fn(&Path) -> io::Result<Option<String>>,
    within: Duration,
) -> Result<io::Result<Option<String>>, ActOutcome> {
    let at = path.to_owned();
    let looked = timeout(within, on_own_thread("look", move || look(&at))).await.map_err(|_| {
        let (path, within) = (path.display(), humantime::format_duration(within));
        ActOutcome::timed_out(format!("{path} does not answer after {within}: nothing was done"))
    })?;
    Ok(looked.unwrap_or_else(|error| Err(error.into())))
}

/// What makes a file one that is not to be run: others could have written it, or it is no plain executable file. A link
/// is none either: it could point anywhere, tomorrow elsewhere.
///
/// # Errors
/// It could not be looked at.
pub fn unfit(path: &Path) -> io::Result<Option<String>> {
    if fs::symlink_metadata(path)?.is_symlink() {
        return Ok(Some(format!("{} is no plain file", path.display())));
    }
    unfit_by_links(path)
}

/// The same of a program that a configuration names by its path, which may be a link, as those of busybox are. Nobody
/// else may change where it leads to.
///
/// # Errors
/// It could not be looked at.
pub fn unfit_by_links(path: &Path) -> io::Result<Option<String>> {
    let file = fs::metadata(path)?;
    if !file.is_file() {
        return Ok(Some(format!("{} is no plain file", path.display())));
    }
    if let Some((what, wrong)) = who_else_writes(path)? {
        return Ok(Some(format!("{} {wrong}", what.display())));
    }
    Ok((file.mode() & 0o111 == 0).then(|| format!("{} is not executable", path.display())))
}

/// Of a file and all directories above it, the one that others than root, or who runs this, could put something else in
/// the place of; and what is wrong with it. By whatever links the file is found: whoever can change one of them chooses
/// the file.
///
/// # Errors
/// It could not be looked at.
pub(crate) fn who_else_writes(file: &Path) -> io::Result<Option<(PathBuf, String)>> {
    let ours = rustix::process::geteuid().as_raw();
    // Component by component, as the kernel does: a link may lead to another, in a directory that no path names.
    let parts = |path: &Path| path.components().rev().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>();
    let (mut at, mut left) = (PathBuf::new(), parts(&std::path::absolute(file)?));
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let path = at.join(part);
        let found = fs::symlink_metadata(&path)?;
        // A link has no mode of its own, and whose it is counts where others may put theirs, as in /tmp.
        let (is_link, mode) = (found.is_symlink(), if found.is_symlink() { 0 } else { found.mode() });
        let is_judged = !is_link || fs::metadata(&at)?.mode() & 0o022 != 0;
        if let Some(wrong) = distrust(found.uid(), mode, found.is_dir(), ours).filter(|_| is_judged) {
            return Ok(Some((path, wrong)));
        }
        if !is_link {
            at = path;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        left.extend(parts(&fs::read_link(&path)?));
    }
    Ok(None)
}

/// What makes a file or directory one that others could have written. In a sticky directory, as /tmp, nobody can
/// replace what is another's.
fn distrust(owner: u32, mode: u32, is_dir: bool, ours: u32) -> Option<String> {
    if owner != 0 && owner != ours {
        return Some(format!("belongs to uid {owner}; root is expected: chown root"));
    }
    let sticky = is_dir && mode & 0o1000 != 0;
    (mode & 0o022 != 0 && !sticky).then(|| format!("has mode {:o}, others may write to it: chmod go-w", mode & 0o7777))
}

/// A run that is over.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub end: End,
    within: Duration,
    output: Option<String>,
}

impl Finished {
    /// The exit code, if it ended by itself.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        match &self.end {
            End::Exited(Ok(status)) => status.code(),
            _ => None,
        }
    }

    /// As an outcome, where exit code 0 is success. What goes wrong is `exit_code`, `signal`, `timeout` or `canceled`.
    #[must_use]
    pub fn outcome(self, name: &str) -> ActOutcome {
        ActOutcome { output: self.output, ..outcome(name, self.end, self.within) }
    }
}

/// How a run ended.
#[derive(Debug)]
pub enum End {
    /// By itself, or by a signal from elsewhere.
    Exited(io::Result<ExitStatus>),
    /// It was stopped when its time was over.
    TimedOut,
    /// It was stopped because somebody wished so.
    Canceled,
}

/// Waits for the end, and brings it about where it is due.
async fn ending(child: &mut Child, group: &Group, within: Duration, canceled: oneshot::Receiver<()>) -> End {
    let end = tokio::select! {
        status = child.wait() => return End::Exited(status),
        () = sleep(within) => End::TimedOut,
        // An error means that nobody can cancel any more.
        Ok(()) = canceled => End::Canceled,
    };
    group.signal(Signal::TERM);
    // Whether it obeyed or not, what follows is the same.
    let _ = timeout(TERM_GRACE, child.wait()).await;
    group.signal(Signal::KILL);
    let _ = timeout(KILL_GRACE, child.wait()).await;
    end
}

/// The process group of a program, and the mark of who has left it. Killed when it is dropped: nothing outlives the run
/// that it belongs to, but for what takes the mark out of its environment.
struct Group {
    leader: Option<Pid>,
    mark: Option<String>,
}

impl Group {
    /// The child leads its group, so the group's id is its own. One that outlives whoever wants it is left alone.
    fn of(child: &Child, outlives: bool, mark: Option<String>) -> Self {
        let leader = child.id().filter(|_| !outlives).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        Self { leader, mark }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.leader {
            // An error means that nobody is left in it.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mark) = &self.mark {
            sweep(mark);
        }
    }
}

/// Kills all that a run has started and that lives on outside of its group.
fn sweep(mark: &str) {
    let mark = format!("{RUN_MARK}={mark}");
    for _ in 0..SWEEPS_MAX {
        let Ok(entries) = fs::read_dir("/proc") else { return };
        let pids = entries.filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?));
        if pids.filter(|pid| kill_marked(*pid, mark.as_bytes())).count() == 0 {
            return;
        }
    }
}

fn kill_marked(pid: Pid, mark: &[u8]) -> bool {
    let environ = PathBuf::from(format!("/proc/{}/environ", pid.as_raw_nonzero()));
    let is_marked = || fs::read(&environ).is_ok_and(|bytes| bytes.split(|byte| *byte == 0).any(|entry| entry == mark));
    if !is_marked() {
        return false;
    }
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    // Looked at once more: a number that is another's by now is no business of ours.
    is_marked() && pidfd_send_signal(&process, Signal::KILL).is_ok()
}

fn outcome(name: &str, end: End, within: Duration) -> ActOutcome {
    let status = match end {
        End::Exited(Ok(status)) => status,
        End::Exited(Err(error)) => return ActOutcome::failed(Ending::ExitCode, format!("wait for {name}: {error}")),
        End::TimedOut => {
            let within = humantime::format_duration(within);
            return ActOutcome::timed_out(format!("{name} was stopped after {within}"));
        }
        End::Canceled => return ActOutcome::canceled(format!("{name} was stopped")),
    };
    match (status.code(), status.signal()) {
        (Some(0), _) => ActOutcome::succeeded("exit code 0"),
        (Some(code), _) => ActOutcome::failed(Ending::ExitCode, format!("exit code {code}")),
        (None, Some(signal)) => ActOutcome::failed(Ending::Signal, format!("ended by signal {signal}")),
        (None, None) => ActOutcome::failed(Ending::ExitCode, status.to_string()),
    }
}

/// Starts it, with one pipe for all that it says, so that output and errors stay in order.
fn spawn(program: Program<'_>, mark: Option<&str>) -> io::Result<(Child, pipe::Receiver)> {
    let (into, said) = pipe::pipe()?;
    let stdout = into.into_blocking_fd()?;
    let stderr = stdout.try_clone()?;
    let mut command = Command::new(program.path);
    command
        .args(program.args)
        .env_clear()
        .envs(ENVIRONMENT)
        .envs(program.env.iter().copied())
        .envs(mark.map(|mark| (RUN_MARK, mark)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    if !program.outlives {
        command.process_group(0).kill_on_drop(true);
    }
    Ok((command.spawn()?, said))
}

/// The end of what a program says, and the progress that it tells on the way.
pub(super) struct Output<'a> {
    tail: VecDeque<u8>,
    tail_max: usize,
    passed: u64,
    line: Vec<u8>,
    reached: Option<u8>,
    progress: Progress<'a>,
}

impl<'a> Output<'a> {
    pub(super) const fn new(tail_max: usize, progress: Progress<'a>) -> Self {
        Self { tail: VecDeque::new(), tail_max, passed: 0, line: Vec::new(), reached: None, progress }
    }

    /// Reads to the end. An error is as good as one: nothing more will come.
    pub(super) async fn read(&mut self, said: &mut pipe::Receiver) {
        let mut bytes = [0_u8; 4096];
        while let Ok(count @ 1..) = said.read(&mut bytes).await {
            self.take(bytes.get(..count).unwrap_or_default());
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_of_line();
            } else if self.line.len() <= PROGRESS_LINE_MAX {
                self.line.push(byte);
            }
        }
        self.tail.extend(bytes);
        let surplus = self.tail.len().saturating_sub(self.tail_max);
        self.tail.drain(..surplus);
        self.passed += surplus as u64;
    }

    /// `progress 40` says how far it is. Only forwards: so there are at most 101 reports, however much it says.
    fn end_of_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let said = std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix("progress "));
        let Some(percent) = said.and_then(|said| said.trim().trim_end_matches('%').parse::<u8>().ok()) else { return };
        // What is beyond the end says nothing of how far it is.
        if percent <= 100 && self.reached.is_none_or(|reached| percent > reached) {
            self.reached = Some(percent);
            (self.progress)(percent);
        }
    }

    pub(super) fn into_text(self) -> Option<String> {
        let mut bytes: Vec<u8> = self.tail.into();
        // What is left of a character that was cut in two (RFC 3629: at most three bytes that continue one).
        let continues = |byte: &&u8| self.passed > 0 && **byte & 0xc0 == 0x80;
        let cut = bytes.iter().take(3).take_while(continues).count();
        bytes.drain(..cut);
        // Where it isn't UTF-8 it has grown by that.
        let text = String::from_utf8_lossy(&bytes);
        if self.passed == 0 && text.len() <= self.tail_max {
            return Some(text.into_owned()).filter(|text| !text.is_empty());
        }
        let surplus = (text.len() + LEFT_OUT_BYTES).saturating_sub(self.tail_max);
        let (left_out, end) = bytes.split_at(source_of(&bytes, surplus));
        let left_out = self.passed + (cut + left_out.len()) as u64;
        Some(format!("… {left_out} B before this\n{}", String::from_utf8_lossy(end)))
    }
}

/// How many bytes come before what is left where at least `surplus` bytes of their text are left out: what was said
/// counts, not what is shown for it.
fn source_of(bytes: &[u8], mut surplus: usize) -> usize {
    let mut source = 0;
    for chunk in bytes.utf8_chunks() {
        let (text, replaced) = (chunk.valid(), chunk.invalid());
        if let Some(room) = text.len().checked_sub(surplus) {
            return source + text.len() - tail(text, room).len();
        }
        source += text.len() + replaced.len();
        surplus = surplus.saturating_sub(text.len() + char::REPLACEMENT_CHARACTER.len_utf8());
    }
    source
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::engine::io::ActStatus;
    use crate::own_thread::tests::NoThreads;

    #[test]
    fn only_roots_files_and_our_own_are_trusted() {
        const OURS: u32 = 1000;
        let of_file = |owner, mode, ours| distrust(owner, mode, false, ours);
        assert_eq!(of_file(0, 0o100_755, OURS), None);
        assert_eq!(of_file(OURS, 0o100_700, OURS), None);
        assert!(of_file(1001, 0o100_755, OURS).unwrap().contains("belongs to uid 1001"));
        // An agent that runs as root trusts root alone.
        assert!(of_file(OURS, 0o100_755, 0).unwrap().contains("belongs to uid 1000"));
        assert!(of_file(0, 0o100_775, OURS).unwrap().contains("has mode 775"));
        assert!(of_file(0, 0o101_757, OURS).unwrap().contains("has mode 1757"));
        assert_eq!(distrust(0, 0o041_777, true, OURS), None, "nobody can replace what is another's");
        assert!(distrust(0, 0o040_777, true, OURS).is_some());
    }

    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_nobody_who_wants_something_else_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fix");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        // Nobody writes to it: it hangs as a disk does.
        let hangs = |path: &Path| fs::read(path).map(|_| None);
        let outcome = look_at(&path, hangs, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::TimedOut, Some("timeout")));
        assert!(outcome.detail.as_ref().unwrap().contains("does not answer after 50ms"), "{outcome:?}");
        drop(fs::File::options().write(true).open(&path).unwrap());
    }

    #[tokio::test]
    async fn where_there_is_no_thread_to_look_at_a_file_that_is_an_error() {
        let none = NoThreads::begin();
        let looked = look_at(Path::new("/"), |_| Ok(None), Duration::from_secs(60)).await.unwrap();
        assert!(looked.unwrap_err().to_string().starts_with("the system gives no thread: "));
        drop(none);
    }

    #[test]
    fn whoever_can_change_a_directory_or_a_link_on_the_way_to_a_file_chooses_the_file() {
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for dir in ["real/books", "links", "more"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        fs::write(at("real/books/fix"), "").unwrap();
        symlink("../real/books/fix", at("more/fix")).unwrap();
        symlink(at("more/fix"), at("links/fix")).unwrap();
        let found = || who_else_writes(&at("links/fix")).unwrap().map(|(path, _)| path);
        assert_eq!(found(), None);
        for dir in ["real", "real/books", "links", "more"] {
            chmod(&at(dir), 0o777);
            assert!(found().is_some_and(|path| path.ends_with(dir)), "{dir}: {:?}", found());
            chmod(&at(dir), 0o755);
        }
        // Also where a directory on the way is a link to a link.
        fs::create_dir(at("between")).unwrap();
        symlink(at("real/books"), at("between/books")).unwrap();
        symlink("between/books", at("books")).unwrap();
        let found = || who_else_writes(&at("books/../books/fix")).unwrap().map(|(path, _)| path);
        assert_eq!(found(), None);
        chmod(&at("between"), 0o777);
        assert_eq!(found(), Some(at("between")));
        chmod(&at("between"), 0o755);
        symlink("loop", at("loop")).unwrap();
        assert_eq!(who_else_writes(&at("loop")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        // The same for what is run, which is never a link itself.
        chmod(&at("real/books/fix"), 0o755);
        assert_eq!(unfit(&at("real/books/fix")).unwrap(), None);
        chmod(&at("real"), 0o775);
        assert!(unfit(&at("real/books/fix")).unwrap().unwrap().contains("others may write to it"));
    }
}
