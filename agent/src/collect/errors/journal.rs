//! The systemd journal, read through `journalctl --follow --output=json`: its files' format is its own business, and a
//! child that hangs or dies takes nothing with it. A run begins after the last cursor that was taken over; a first run
//! begins at the newest entry. Where the cursor is of an earlier boot, what came after it then is read first, and then
//! this boot from its beginning: across boots journalctl goes by the date, and passes over what a clock in 1970 wrote.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "collectors read files and start journalctl")]

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use super::lines::{Line, Lines};
use super::{
    Ended, Filter, MESSAGE_BYTES_MAX, Outlet, cut, failed, is_empty, is_full, is_wanted, kernel_kind, next_or_quiet,
    pause, since_boot,
};
use crate::bucket::Bucket;
use crate::collect::clock::boottime;
use crate::engine::observation::{ErrorBatch, ErrorKind, ErrorLine, ErrorSource, Severity};
use crate::engine::time::{BootId, Unix};
use crate::own_thread::{NotDone, on_own_thread};

/// Where journald keeps its files, below a root.
const DIRS: [&str; 2] = ["run/log/journal", "var/log/journal"];
/// How often those are looked at. journalctl watches the ones that were there when it began: what journald writes to
/// one that came later (`journalctl --flush` where persistent storage is new), it never sees, and says nothing.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(60);
/// What that look is called where it fails.
const LOOK_AT_DIRS: &str = "look at the journal's directories";
/// The longest line of journalctl's output. It cuts fields at 4 KiB, and asked for are some twenty.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// How long it may take for one entry, which it finds without reading all: it may hang in a file that is damaged.
const NEWEST_MAX: Duration = Duration::from_secs(120);
/// Messages of more than 4 KiB whose beginning is asked for at once, and then one in so long: each time journalctl is
/// started.
const BEGINNINGS_AT_ONCE: u32 = 10;
const BEGINNING_EVERY: Duration = Duration::from_secs(6);
/// How long it may take for one, and how much memory: it reads all of the message, and anybody may write one of 700
/// MiB.
const BEGINNING_MAX: Duration = Duration::from_secs(10);
const BEGINNING_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What stands for one that wasn't asked for, or not found.
const NO_BEGINNING: &str = "(a message of more than 4 KiB)";
/// The longest complaint of journalctl that is kept for the log.
const COMPLAINT_BYTES_MAX: usize = 512;

// systemd/sd-messages.h.
/// "Failed with result …": once for each time that a unit fails. UNIT_FAILED (be02cf68…) is not counted: it tells of a
/// start job, and stands beside this one where the start failed.
const UNIT_FAILURE_RESULT: &str = "d9b373ed55a64feb8242e02dbe79a49c";
/// "Scheduled restart job …": systemd restarts the unit by itself.
const UNIT_RESTART: &str = "5eb03494b6584870a536b337290809b3";
const COREDUMP: &str = "fc2e22bc6ee647b6b90729ab34a250b1";
/// systemd's word that the kernel killed a process of a unit. The kernel tells of the same kill.
const UNIT_OUT_OF_MEMORY: &str = "fe6faa94e7774663a0da52717891d8ef";
/// systemd-oomd killed a unit's processes; of this the kernel says nothing.
const UNIT_OOMD_KILL: &str = "d989611b15e44c9dbf31e3c81256e4ed";

const FIELDS: [&str; 19] = [
    "MESSAGE",
    "MESSAGE_ID",
    "PRIORITY",
    "SYSLOG_IDENTIFIER",
    "UNIT",
    "_BOOT_ID",
    "_COMM",
    "_EXE",
    "_PID",
    "_SYSTEMD_UNIT",
    "_TRANSPORT",
    "COREDUMP_COMM",
    "COREDUMP_EXE",
    "COREDUMP_SIGNAL",
    "COREDUMP_SIGNAL_NAME",
    "COREDUMP_UNIT",
    "__CURSOR",
    "__MONOTONIC_TIMESTAMP",
    "__REALTIME_TIMESTAMP",
];

/// How this process names itself to syslog and the journal, and what it is called there by the kernel (`comm`).
const OWN_NAME: &str = env!("CARGO_PKG_NAME");

/// The journal below a root.
#[derive(Debug)]
pub(super) struct Journal {
    program: PathBuf,
    /// `None`: this system's own.
    root: Option<PathBuf>,
    /// Other machines' journals may lie beside this one's (systemd-journal-remote).
    machine: Option<String>,
    filter: Filter,
    look_every: Duration,
}

/// The journal's directories, as far as they are there: by device and inode, and when they were made, because the next
/// directory may get the same inode.
type Dirs = Vec<Option<(u64, u64, Option<SystemTime>)>>;

impl Journal {
    /// The journal, if there are journal files below `root` and a program to read them.
    pub(super) fn find(filter: &Filter, root: &Path) -> Option<Self> {
        let program = super::on_path("journalctl")?;
        let has_files = DIRS.iter().any(|dir| has_journal_files(&root.join(dir)));
        has_files.then(|| Self::new(program, filter.clone(), root, LOOK_EVERY))
    }

    pub(super) fn new(program: PathBuf, filter: Filter, root: &Path, look_every: Duration) -> Self {
        let machine = fs::read_to_string(root.join("etc/machine-id")).ok().map(|id| id.trim().to_owned());
        Self {
            program,
            root: (root != Path::new("/")).then(|| root.to_owned()),
            machine: machine.filter(|id| BootId::parse(id).is_some()),
            filter,
            look_every,
        }
    }

    /// Reads until the journal or the receiver ends.
    pub(super) async fn read(&self, outlet: &mut Outlet) -> Result<Infallible, Ended> {
        // The cursor of another source says nothing here.
        outlet.cursor.take_if(|cursor| !cursor.starts_with("s="));
        let newest = if outlet.cursor.is_none() { self.newest(None, NEWEST_MAX).await? } else { None };
        outlet.begin(newest).await?;
        let other_boot = outlet.cursor.as_deref().and_then(boot_of).filter(|boot| self.filter.boot != Some(*boot));
        // In a container the journal may be that of another kernel's boots.
        let this_boot = match self.filter.boot.filter(|_| other_boot.is_some()) {
            Some(boot) => self.newest(Some(boot), NEWEST_MAX).await.ok().flatten().map(|_| boot),
            None => None,
        };
        if this_boot.is_some() {
            let earlier = self.args(outlet.cursor.as_deref(), None);
            let status = self.run(earlier, this_boot, outlet).await?;
            // A cursor that the journal doesn't take says nothing of this boot.
            status.unwrap_or_else(|why| tracing::warn!("error lines of earlier boots: {why}: they are passed over"));
        }
        let cursor = outlet.cursor.clone().filter(|_| this_boot.is_none());
        let follow = ["--follow", "--no-tail"].map(OsString::from).into_iter();
        let ended = self.run(follow.chain(self.args(cursor.as_deref(), this_boot)), None, outlet).await?;
        let why = ended.err().unwrap_or_else(|| "ended".to_owned());
        if why.contains("seek to cursor") {
            tracing::warn!("the journal doesn't take the cursor {:?}: reading begins at the present", outlet.cursor);
            outlet.cursor = None;
        }
        Err(failed(&self.name(), why))
    }

    /// Runs journalctl until its end, and passes over lines of the boot `but`: whether it ended well, or how it did.
    async fn run(
        &self,
        args: impl IntoIterator<Item = OsString>,
        but: Option<BootId>,
        outlet: &mut Outlet,
    ) -> Result<Result<(), String>, Ended> {
        // Before journalctl does: what comes in between is then seen as new here.
        let dirs = self.dirs();
        let (mut child, stdout, stderr) = self.start(args)?;
        let reading = async {
            let ended = tokio::select! {
                ended = self.batches(stdout, but, outlet) => ended,
                // What was read and not handed over is read again: the cursor is that of the last batch.
                ended = self.moved(dirs) => Err(ended),
            };
            // Whatever ended the reading, the child must not outlive it: its stderr is read to the end beside this.
            child.start_kill().ok();
            ended
        };
        let (ended, complaint) = tokio::join!(reading, last_line(stderr));
        let status = child.wait().await.map_err(|error| failed(&self.name(), error))?;
        ended?;
        if status.signal() == Some(libc::SIGTERM) {
            return Err(Ended::Stopped(format!("{}: ended with {status}", self.name())));
        }
        Ok(if status.success() { Ok(()) } else { Err(format!("ended with {status}; it said {complaint:?}")) })
    }

    /// Waits until the journal is in other directories than `begun`, or nowhere.
    async fn moved(&self, begun: impl Future<Output = Result<Option<Dirs>, NotDone>>) -> Ended {
        let gone = || failed(&self.name(), format_args!("there are no journal files in {}", DIRS.join(" or ")));
        let begun = match begun.await {
            Ok(Some(begun)) => begun,
            Ok(None) => return gone(),
            Err(error) => return failed(LOOK_AT_DIRS, error),
        };
        loop {
            pause(self.look_every).await;
            match self.dirs().await {
                Ok(None) => return gone(),
                Ok(Some(dirs)) if dirs != begun => {
                    return Ended::Stopped("the journal has other directories now".to_owned());
                }
                Ok(Some(_)) => {}
                // journalctl goes on meanwhile: where there is no thread it could hardly be begun again.
                Err(error) => tracing::warn!("{LOOK_AT_DIRS}: {error}; trying again in {:?}", self.look_every),
            }
        }
    }

    /// The directories as they are, looked at from now on; `None` if there is no journal file in them. On a disk that
    /// hangs whoever looks hangs alone.
    fn dirs(&self) -> impl Future<Output = Result<Option<Dirs>, NotDone>> + use<> {
        let (root, machine) = (self.root.clone().unwrap_or_else(|| "/".into()), self.machine.clone());
        on_own_thread("find-journal", move || dirs_below(&root, machine.as_deref()))
    }

    /// Sends batches of journalctl's output until its end, without the lines of the boot `but`.
    async fn batches(
        &self,
        output: impl AsyncRead + Unpin,
        but: Option<BootId>,
        outlet: &mut Outlet,
    ) -> Result<(), Ended> {
        let begin = outlet.cursor.clone();
        let mut lines = Lines::new(BufReader::new(output), LINE_BYTES_MAX);
        let mut batch = ErrorBatch::default();
        let mut beginnings = Bucket::new(BEGINNINGS_AT_ONCE, BEGINNING_EVERY);
        loop {
            let next = next_or_quiet(&batch, lines.next()).await;
            match next.transpose().map_err(|error| failed(&self.name(), error))? {
                Some(Some(Line::Whole(line))) => {
                    let is_too_long = self.add(&line, begin.as_deref(), but, &mut batch);
                    if is_too_long && beginnings.take(boottime()) {
                        self.ask_beginning(&mut batch).await;
                    }
                }
                // Whose it is, nobody knows: the lines of this boot come once more.
                Some(Some(Line::TooLong)) => batch.missed += u64::from(but.is_none()),
                Some(None) if is_empty(&batch) => return Ok(()),
                Some(None) => return outlet.send(&mut batch).await,
                None => outlet.send(&mut batch).await?,
            }
            if is_full(&batch) {
                outlet.send(&mut batch).await?;
            }
        }
    }

    /// Takes an entry. True if it made a line whose message is too long for `--output=json`.
    fn add(&self, line: &[u8], begin: Option<&str>, but: Option<BootId>, batch: &mut ErrorBatch) -> bool {
        let Some(entry) = Entry::parse(line) else {
            batch.missed += u64::from(but.is_none());
            return false;
        };
        // `--cursor` begins with the entry that the cursor names; it was in the last batch of the run before.
        if begin.is_some_and(|begin| is_same_entry(&entry.cursor, begin)) || (but.is_some() && entry.boot() == but) {
            return false;
        }
        let is_own = entry.is_own(self.filter.boot, std::process::id());
        let line = if is_own { None } else { entry.line(&self.filter) };
        let wanted = line.filter(|line| is_wanted(line, self.filter.min_severity));
        let is_too_long = wanted.is_some() && entry.is_too_long();
        batch.lines.extend(wanted);
        batch.cursor = Some(entry.cursor);
        is_too_long
    }

    /// Gives the last line of the batch the beginning of its message, if that can be had.
    async fn ask_beginning(&self, batch: &mut ErrorBatch) {
        let (Some(line), Some(cursor)) = (batch.lines.last_mut(), &batch.cursor) else { return };
        if let Some(beginning) = self.beginning(cursor).await {
            line.message = cut(beginning);
        }
    }

    /// The beginning of an entry's message, however long that is. With `--all` each line would have all of it.
    async fn beginning(&self, cursor: &str) -> Option<String> {
        let args = ["--lines=1".to_owned(), "--output=cat".to_owned(), format!("--cursor={cursor}")];
        let mut child = self.command(args.map(OsString::from)).spawn().ok()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))?;
        let limit = Rlimit { current: Some(BEGINNING_BYTES_MAX), maximum: Some(BEGINNING_BYTES_MAX) };
        prlimit(Some(pid), Resource::Data, limit).ok()?;
        let mut text = Vec::new();
        let mut beginning = child.stdout.take()?.take(MESSAGE_BYTES_MAX as u64);
        timeout(BEGINNING_MAX, beginning.read_to_end(&mut text)).await.ok()?.ok()?;
        child.kill().await.ok();
        (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
    }

    /// The cursor of the newest entry, or of a boot's newest, whatever its priority.
    pub(super) async fn newest(&self, boot: Option<BootId>, within: Duration) -> Result<Option<String>, Ended> {
        let args = ["--lines=1", "--output-fields=__CURSOR"].into_iter().map(OsString::from);
        let matches = self.machine_match().into_iter().chain(boot.map(boot_match)).map(OsString::from);
        let first = timeout(within, self.first_line(args.chain(matches))).await;
        let line = first.map_err(|_| failed(&self.name(), format_args!("no answer within {within:?}")))??;
        Ok(Entry::parse(&line).map(|entry| entry.cursor))
    }

    /// The first line that journalctl says, and no more of it: what it has to say has no bound of its own. Empty, if it
    /// ends well without one.
    async fn first_line(&self, args: impl IntoIterator<Item = OsString>) -> Result<Vec<u8>, Ended> {
        let (mut child, stdout, stderr) = self.start(args)?;
        let reading = async {
            let line = Lines::new(BufReader::new(stdout), LINE_BYTES_MAX).next().await;
            if !matches!(line, Ok(None)) {
                child.start_kill().ok();
            }
            line
        };
        let (line, complaint) = tokio::join!(reading, last_line(stderr));
        let status = child.wait().await.map_err(|error| failed(&self.name(), error))?;
        match line.map_err(|error| failed(&self.name(), error))? {
            Some(Line::Whole(line)) => Ok(line),
            Some(Line::TooLong) => Err(failed(&self.name(), format_args!("a line of more than {LINE_BYTES_MAX} B"))),
            None if status.success() => Ok(Vec::new()),
            None => Err(failed(&self.name(), format_args!("ended with {status}; it said {complaint:?}"))),
        }
    }

    /// `--merge`, because `--follow` alone passes over what was written in earlier boots; `--no-tail`, because it shows
    /// ten lines otherwise; `--cursor`, because `--after-cursor` passes over one entry too many where the one that the
    /// cursor names no longer matches. All measured on systemd 252.
    fn args(&self, cursor: Option<&str>, boot: Option<BootId>) -> Vec<OsString> {
        let boot = boot.map(boot_match);
        let everywhere = || self.machine_match().into_iter().chain(boot.clone());
        let mut args = vec![format!("--output-fields={}", FIELDS.join(","))];
        args.extend(cursor.map(|cursor| format!("--cursor={cursor}")));
        args.extend(self.filter.units.iter().map(|unit| format!("--unit={unit}")));

        // What is counted apart is wanted at any priority: that a unit failed is only a warning.
        let mut counted = vec![UNIT_FAILURE_RESULT, UNIT_RESTART, COREDUMP, UNIT_OOMD_KILL];
        if !self.filter.units.is_empty() {
            // The kernel's own lines belong to no unit and are not read then.
            counted.push(UNIT_OUT_OF_MEMORY);
        }
        args.extend(everywhere());
        args.extend((0..=self.filter.min_severity as u8).map(|level| format!("PRIORITY={level}")));
        args.push("+".to_owned());
        args.extend(everywhere());
        args.extend(counted.into_iter().map(|id| format!("MESSAGE_ID={id}")));
        if self.filter.units.is_empty() {
            // That a device has gone is only information to the kernel: what is wanted of it, its text says.
            args.push("+".to_owned());
            args.extend(everywhere());
            args.push("_TRANSPORT=kernel".to_owned());
            args.extend(
                (self.filter.min_severity as u8 + 1..=Severity::Info as u8).map(|level| format!("PRIORITY={level}")),
            );
        }
        args.into_iter().map(OsString::from).collect()
    }

    fn machine_match(&self) -> Option<String> {
        self.machine.as_ref().map(|machine| format!("_MACHINE_ID={machine}"))
    }

    /// journalctl, with what it says and what it complains of.
    fn start(&self, args: impl IntoIterator<Item = OsString>) -> Result<(Child, ChildStdout, ChildStderr), Ended> {
        let mut child = self.command(args).spawn().map_err(|error| failed(&self.name(), error))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed(&self.name(), "started without pipes"));
        };
        Ok((child, stdout, stderr))
    }

    fn command(&self, args: impl IntoIterator<Item = OsString>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--merge", "--output=json", "--no-pager"]);
        if let Some(root) = &self.root {
            let mut option = OsString::from("--root=");
            option.push(root);
            command.arg(option);
        }
        command.args(args).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn name(&self) -> String {
        self.program.display().to_string()
    }
}

/// `DIR/MACHINE/*.journal`, as journald lays them out.
fn has_journal_files(dir: &Path) -> bool {
    let machines = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files = machines.filter_map(|machine| fs::read_dir(machine.path()).ok()).flatten().flatten();
    files.any(|file| file.path().extension().is_some_and(|extension| extension == "journal"))
}

/// `None` if no journal file is in them.
fn dirs_below(root: &Path, machine: Option<&str>) -> Option<Dirs> {
    let base = DIRS.map(|dir| root.join(dir));
    let id = |dir: PathBuf| fs::metadata(dir).ok().map(|it| (it.dev(), it.ino(), it.created().ok()));
    let of_machine = base.iter().filter_map(|dir| machine.map(|machine| dir.join(machine)));
    let dirs = base.iter().cloned().chain(of_machine).map(id).collect();
    base.iter().any(|dir| has_journal_files(dir)).then_some(dirs)
}

/// The last line that journalctl said: its reason, if it had one.
async fn last_line(stream: impl AsyncRead + Unpin) -> String {
    let mut lines = Lines::new(BufReader::new(stream), COMPLAINT_BYTES_MAX);
    let mut last = Vec::new();
    while let Ok(Some(line)) = lines.next().await {
        if let Line::Whole(line) = line {
            last = line;
        }
    }
    String::from_utf8_lossy(&last).into_owned()
}

/// One entry of the journal (systemd.journal-fields(7)).
pub(super) struct Entry {
    cursor: String,
    fields: Map<String, Value>,
}

impl Entry {
    /// Reads a line of `--output=json`; `None` if it is no entry.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let fields: Map<String, Value> = serde_json::from_slice(line).ok()?;
        let cursor = text(fields.get("__CURSOR")?)?;
        Some(Self { cursor, fields })
    }

    fn field(&self, name: &str) -> Option<String> {
        self.fields.get(name).and_then(text)
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.field(name)?.parse().ok()
    }

    fn boot(&self) -> Option<BootId> {
        self.field("_BOOT_ID").and_then(|id| BootId::parse(&id))
    }

    /// Written by this agent, in this run or another. Anybody may call himself what he likes: what journald knows of
    /// him has to agree, if it knows anything. In another boot its pid was somebody else's, and PID 1 of the journal
    /// is not that of a container.
    pub(super) fn is_own(&self, this_boot: Option<BootId>, pid: u32) -> bool {
        let by_pid = || self.number("_PID") == Some(pid) && self.boot() == this_boot && !self.is_systemd();
        let is_called = |field| self.field(field).as_deref() == Some(OWN_NAME);
        (is_called("SYSLOG_IDENTIFIER") && (is_called("_COMM") || self.field("_COMM").is_none())) || by_pid()
    }

    /// journalctl gives null for a field of more than 4 KiB.
    fn is_too_long(&self) -> bool {
        self.fields.get("MESSAGE") == Some(&Value::Null)
    }

    /// `None` if it has no message: some are but fields.
    pub(super) fn line(&self, filter: &Filter) -> Option<ErrorLine> {
        let message = if self.is_too_long() { NO_BEGINNING.to_owned() } else { self.field("MESSAGE")? };
        let kind = self.kind(&message, !filter.units.is_empty());
        let boot = self.boot().filter(|boot| Some(*boot) != filter.boot);
        let mono_us = self.number("__MONOTONIC_TIMESTAMP");
        let wall_us: Option<i64> = self.number("__REALTIME_TIMESTAMP");
        let level = self.number("PRIORITY").and_then(Severity::from_level);
        let unit = self.unit(kind);
        let source = self.source(kind);
        let names_itself = unit.is_none() && source == ErrorSource::Journal;
        Some(ErrorLine {
            // Without a priority it came in for its message id; journald's own default is "info".
            severity: level.unwrap_or(Severity::Info),
            source,
            kind,
            message: cut(message),
            unit,
            identifier: if names_itself { self.field("SYSLOG_IDENTIFIER") } else { None },
            exe: self.exe(kind),
            signal: self.field("COREDUMP_SIGNAL_NAME").or_else(|| self.field("COREDUMP_SIGNAL")),
            boot,
            mono: mono_us.map(|us| since_boot(us, boot.is_none())),
            wall: wall_us.map(|us| Unix(us / 1_000)),
        })
    }

    fn kind(&self, message: &str, units_only: bool) -> ErrorKind {
        // Any process can set these ids: who may say so, journald knows.
        match self.field("MESSAGE_ID").as_deref() {
            Some(COREDUMP) if self.is_coredump_service() => ErrorKind::Coredump,
            Some(UNIT_FAILURE_RESULT) if self.is_systemd() => ErrorKind::UnitFailure,
            Some(UNIT_RESTART) if self.is_systemd() => ErrorKind::UnitRestart,
            Some(UNIT_OOMD_KILL) if self.is_systemd() => ErrorKind::OomKill,
            Some(UNIT_OUT_OF_MEMORY) if units_only && self.is_systemd() => ErrorKind::OomKill,
            _ if self.is_kernel() => kernel_kind(message),
            _ => ErrorKind::Plain,
        }
    }

    fn source(&self, kind: ErrorKind) -> ErrorSource {
        match kind {
            ErrorKind::Coredump => ErrorSource::Coredump,
            _ if self.is_kernel() => ErrorSource::Kernel,
            _ => ErrorSource::Journal,
        }
    }

    fn is_systemd(&self) -> bool {
        self.field("_PID").as_deref() == Some("1")
    }

    /// systemd-coredump's own instance, which no user's manager can start.
    fn is_coredump_service(&self) -> bool {
        self.field("_SYSTEMD_UNIT").is_some_and(|unit| unit.starts_with("systemd-coredump@"))
    }

    fn is_kernel(&self) -> bool {
        self.field("_TRANSPORT").as_deref() == Some("kernel")
    }

    /// Whom the line is about. Only systemd itself may speak about another unit: `UNIT` is a field that any process can
    /// set.
    fn unit(&self, kind: ErrorKind) -> Option<String> {
        let about = match kind {
            ErrorKind::Coredump => self.field("COREDUMP_UNIT"),
            _ if self.is_systemd() => self.field("UNIT"),
            _ => None,
        };
        about.or_else(|| self.field("_SYSTEMD_UNIT"))
    }

    fn exe(&self, kind: ErrorKind) -> Option<String> {
        if kind == ErrorKind::Coredump {
            return self.field("COREDUMP_EXE").or_else(|| self.field("COREDUMP_COMM"));
        }
        self.field("_EXE").or_else(|| self.field("_COMM"))
    }
}

/// The journal writes boot ids without hyphens.
fn boot_match(boot: BootId) -> String {
    format!("_BOOT_ID={}", boot.to_string().replace('-', ""))
}

/// Of which boot a cursor is: `s=…;i=…;b=BOOT;m=…` (sd_journal_get_cursor(3)).
fn boot_of(cursor: &str) -> Option<BootId> {
    cursor.split(';').find_map(|part| part.strip_prefix("b=")).and_then(BootId::parse)
}

/// Whether two cursors are of one entry. In the file that journald copies it to (`journalctl --flush`) it has another
/// number; when it was written, and the sum of what it says, stay.
fn is_same_entry(a: &str, b: &str) -> bool {
    // `s=FILE;i=NUMBER;b=BOOT;m=…;t=…;x=SUM`.
    fn parts(cursor: &str) -> Option<(&str, &str)> {
        let (file, rest) = cursor.split_once(";i=")?;
        let (_, content) = rest.split_once(";b=").filter(|(_, content)| content.contains(";x="))?;
        Some((file, content))
    }
    let is_copied = || parts(a).zip(parts(b)).is_some_and(|(a, b)| a.0 != b.0 && a.1 == b.1);
    a == b || is_copied()
}

/// A field's text: a string; its bytes, where they are no UTF-8 or hold control characters; the first of several
/// values.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(values) => {
            let bytes: Option<Vec<u8>> =
                values.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect();
            match bytes {
                Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
                None => values.iter().find_map(text),
            }
        }
        _ => None,
    }
}
