//! The sections of a snapshot, each of which reads one kind of thing and says in words why it can't. One that hangs or
//! fails costs itself and no other.

#![expect(clippy::disallowed_methods, reason = "sections have deadlines, and read directories")]

use std::cmp::Reverse;
use std::fs;
use std::path::Path;
use std::time::Duration;

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::files::{file, table, tail};
use super::network::{network, sockets};
use super::readers::Readers;
use super::{Bound, Diagnostics, Read};
use crate::act::jobs;
use crate::act::program::{self, Program};
use crate::collect::clock::{self, Clock};
use crate::collect::errors::{kmsg, on_path};
use crate::collect::mounts::{MOUNTINFO, Mount, unescape};
use crate::config::ClockTrust;
use crate::engine::io::{ActOutcome, ActStatus};
use crate::wire::date::rfc3339;

const GATEWAY: Bound = bound("gateway", 64, 3);
const FAILED_UNITS: Bound = bound("failed units", 32, 10);
const MEMORY: Bound = bound("memory", 64, 3);
const SERVICES: Bound = bound("services", 16, 3);
const PROCESSES: Bound = bound("processes", 16, 5);
const DISKS: Bound = bound("disks", 32, 5);
const NETWORK: Bound = bound("network", 64, 3);
const SOCKETS: Bound = bound("sockets", 64, 5);
const CONFIGURATION: Bound = bound("configuration at the agent's start", 64, 0);
const JOURNAL: Bound = bound("journal", 192, 10);

/// Lines of the journal.
const JOURNAL_LINES: &str = "400";
/// Lines of the kernel's log, where there is nothing else.
const KERNEL_LINES_MAX: usize = 400;
/// Services and processes that are named, in each of the lists.
const NAMED_MAX: usize = 15;
/// Services that are looked at.
const SERVICES_MAX: usize = 512;
/// Mounted file systems that are named.
const MOUNTS_MAX: usize = 64;
/// File systems that are on this machine.
const LOCAL_FS: [&str; 16] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat", "exfat", "ubifs", "jffs2", "nilfs2", "squashfs", "erofs",
    "overlay", "tmpfs", "zfs",
];
/// How those begin that are on another machine, or in a process: asking these may take for ever.
const REMOTE_FS: [&str; 9] = ["nfs", "cifs", "smb", "9p", "ceph", "fuse", "afs", "glusterfs", "davfs"];
/// What /proc/meminfo has for whoever asks where the memory went.
const MEMINFO: [&str; 13] = [
    "MemTotal",
    "MemFree",
    "MemAvailable",
    "Buffers",
    "Cached",
    "SwapTotal",
    "SwapFree",
    "Dirty",
    "Writeback",
    "Shmem",
    "Slab",
    "SUnreclaim",
    "Committed_AS",
];
/// Where a gateway without a journal keeps its log.
const LOGS: [&str; 2] = ["var/log/messages", "var/log/syslog"];
const KMSG: &str = "dev/kmsg";

const fn bound(name: &'static str, kib: usize, seconds: u64) -> Bound {
    Bound { name, bytes: kib * 1024, within: Duration::from_secs(seconds) }
}

/// All sections, in the order of what a responder asks first. Those whose turn comes after `within` are not read.
pub(super) async fn collect(of: &Diagnostics, within: Duration) -> Vec<(Bound, Read)> {
    let mut round = Round { readers: &of.readers, root: &of.root, until: Instant::now() + within, read: Vec::new() };
    round.read(GATEWAY, gateway).await;
    round.ask(FAILED_UNITS, failed_units()).await;
    round.read(MEMORY, memory).await;
    round.read(SERVICES, services).await;
    round.read(PROCESSES, |_| Ok(processes())).await;
    round.read(DISKS, disks).await;
    round.read(NETWORK, network).await;
    round.read(SOCKETS, sockets).await;
    round.read.push((CONFIGURATION, Ok(of.config.clone())));
    round.journal().await;
    round.read
}

/// What was read so far, and what it is read with.
struct Round<'a> {
    readers: &'a Readers,
    root: &'a Path,
    until: Instant,
    read: Vec<(Bound, Read)>,
}

impl Round<'_> {
    /// How long this may take.
    fn left(&self, bound: Bound) -> Result<Duration, String> {
        let left = self.until.saturating_duration_since(Instant::now()).min(bound.within);
        if left.is_zero() { Err("the snapshot's time was over".into()) } else { Ok(left) }
    }

    /// What blocks.
    fn read(&mut self, bound: Bound, read: impl FnOnce(&Path) -> Read + Send + 'static) -> impl Future<Output = ()> {
        let root = self.root.to_owned();
        self.read_on_a_thread(bound, Box::new(move || read(&root)))
    }

    async fn read_on_a_thread(&mut self, bound: Bound, read: Box<dyn FnOnce() -> Read + Send>) {
        let result = match self.left(bound) {
            Ok(within) => self.readers.read(bound.name, within, read).await,
            Err(over) => Err(over),
        };
        self.read.push((bound, result));
    }

    /// What others answer.
    async fn ask(&mut self, bound: Bound, ask: impl Future<Output = Read>) {
        let result = match self.left(bound) {
            Ok(within) => timeout(within, ask).await.unwrap_or_else(|_| Err(format!("no answer within {within:?}"))),
            Err(over) => Err(over),
        };
        self.read.push((bound, result));
    }

    /// The journal, or what takes its place.
    async fn journal(&mut self) {
        let said = match self.left(JOURNAL) {
            Ok(within) => journalctl(within).await,
            Err(over) => return self.read.push((JOURNAL, Err(over))),
        };
        match said {
            Ok(text) => self.read.push((JOURNAL, Ok(text))),
            Err(why) => self.read(JOURNAL, move |root| Ok(format!("({why})\n{}", logs(root)))).await,
        }
    }
}

fn gateway(root: &Path) -> Read {
    let names = rustix::system::uname();
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    let or_why = |read: Read| read.unwrap_or_else(|why| format!("({why})")).trim_end().to_owned();
    let synced = Clock::new(ClockTrust::Kernel, root).read().synced;
    let boot = clock::boot_id(root).map(|id| id.to_string()).map_err(|error| error.to_string());
    let lines = [
        format!("agent {}", env!("CARGO_PKG_VERSION")),
        format!("host {}", text(names.nodename())),
        format!("kernel {} {} {}", text(names.release()), text(names.version()), text(names.machine())),
        format!(
            "time {}, {}",
            rfc3339(clock::realtime()).unwrap_or_default(),
            if synced { "synchronised" } else { "not synchronised" }
        ),
        format!("up: {}", or_why(file(root, "proc/uptime").and_then(|text| uptime(&text)))),
        format!("boot: {}", or_why(boot)),
        format!("command line: {}", or_why(file(root, "proc/cmdline"))),
        format!("system: {}", or_why(file(root, "etc/os-release"))),
    ];
    Ok(lines.join("\n"))
}

/// /proc/uptime (proc(5)).
fn uptime(text: &str) -> Read {
    let seconds = text.split(['.', ' ']).next().and_then(|seconds| seconds.trim().parse().ok());
    let seconds = seconds.ok_or_else(|| format!("/proc/uptime says {text:?}"))?;
    Ok(humantime::format_duration(Duration::from_secs(seconds)).to_string())
}

async fn failed_units() -> Read {
    let failed = jobs::failed().await?;
    Ok(if failed.is_empty() { "none".into() } else { failed.join("\n") })
}

fn memory(root: &Path) -> Read {
    let matters = |line: &&str| line.split_once(':').is_some_and(|(key, _)| MEMINFO.contains(&key));
    let meminfo = file(root, "proc/meminfo").map(|text| text.lines().filter(matters).collect::<Vec<_>>().join("\n"));
    let mut lines = vec![meminfo.unwrap_or_else(|why| format!("({why})"))];
    for path in ["proc/loadavg", "proc/pressure/cpu", "proc/pressure/memory", "proc/pressure/io"] {
        lines.push(match file(root, path) {
            Ok(text) => format!("-- /{path}\n{}", text.trim_end()),
            Err(why) => format!("-- /{path} ({why})"),
        });
    }
    Ok(lines.join("\n"))
}

/// What systemd's services take, by their cgroups: seen also where the processes of others are hidden.
fn services(root: &Path) -> Read {
    let (slice, usage): (_, Usage) =
        if root.join(CGROUPS_V1).is_dir() { (CGROUPS_V1, usage_v1) } else { ("sys/fs/cgroup/system.slice", usage_v2) };
    let dir = root.join(slice);
    let entries = fs::read_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut services: Vec<(Option<u64>, u64, String)> = entries
        .flatten()
        .take(SERVICES_MAX)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (bytes, cpu_s) = usage(root, &name)?;
            Some((bytes, cpu_s, name))
        })
        .collect();
    if services.is_empty() {
        return Err(format!("/{slice}: no service has figures"));
    }
    services.sort_unstable_by(|a, b| b.cmp(a));
    let line = |(bytes, cpu_s, name): &(Option<u64>, u64, String)| {
        let kib = bytes.map_or_else(|| "?".to_owned(), |bytes| (bytes / 1024).to_string());
        format!("{kib:>10} KiB {cpu_s:>8} s {name}")
    };
    Ok(services.iter().take(NAMED_MAX).map(line).collect::<Vec<_>>().join("\n"))
}

/// Where the services are under the first version of cgroups.
const CGROUPS_V1: &str = "sys/fs/cgroup/memory/system.slice";

/// Bytes, where the kernel counts them, and CPU seconds of a service.
type Usage = fn(&Path, &str) -> Option<(Option<u64>, u64)>;

/// Documentation/admin-guide/cgroup-v2.rst: time is counted without any controller, memory only by its own.
fn usage_v2(root: &Path, name: &str) -> Option<(Option<u64>, u64)> {
    let look = |leaf: &str| file(root, &format!("sys/fs/cgroup/system.slice/{name}/{leaf}")).ok();
    let bytes = look("memory.current").and_then(|text| text.trim().parse().ok());
    let usage_us = look("cpu.stat")?.split_whitespace().nth(1)?.parse::<u64>().ok()?;
    Some((bytes, usage_us / 1_000_000))
}

/// Documentation/admin-guide/cgroup-v1: a hierarchy for each controller.
fn usage_v1(root: &Path, name: &str) -> Option<(Option<u64>, u64)> {
    let look = |path: String| file(root, &path).ok()?.trim().parse::<u64>().ok();
    let bytes = look(format!("{CGROUPS_V1}/{name}/memory.usage_in_bytes"))?;
    let usage_ns = look(format!("sys/fs/cgroup/cpuacct/system.slice/{name}/cpuacct.usage"));
    Some((Some(bytes), usage_ns.unwrap_or_default() / 1_000_000_000))
}

/// Names only: arguments may be secrets. The kernel hides those of others where it is told to.
fn processes() -> String {
    let mut system = System::new();
    let kind = ProcessRefreshKind::nothing().with_memory().with_cpu().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, kind);
    let mut processes: Vec<_> = system.processes().values().collect();
    let list = |processes: &[&sysinfo::Process]| {
        let lines = processes.iter().take(NAMED_MAX).map(|process| {
            let (kib, cpu_s) = (process.memory() / 1024, process.accumulated_cpu_time() / 1000);
            // A process names itself; it is not to look like lines of others.
            let name = process.name().to_string_lossy().replace(char::is_control, "\u{fffd}");
            format!("{:>8} {kib:>10} KiB {cpu_s:>8} s {:>4?} {name}", process.pid().as_u32(), process.status())
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let mut by = |measure: fn(&sysinfo::Process) -> u64| {
        processes.sort_unstable_by_key(|process| (Reverse(measure(process)), process.pid()));
        list(&processes)
    };
    let (by_memory, by_time) = (by(sysinfo::Process::memory), by(sysinfo::Process::accumulated_cpu_time));
    format!("{} in all\n-- by memory\n{by_memory}\n-- by CPU time\n{by_time}", processes.len())
}

/// /proc/self/mountinfo (proc_pid_mountinfo(5)) and statvfs(3).
fn disks(root: &Path) -> Read {
    let mounts = table(root, MOUNTINFO)?;
    let mut lines: Vec<String> = Vec::new();
    let mut more = 0;
    for line in mounts.text.lines() {
        let Some(mount) = Mount::parse(line) else { continue };
        let Mount { at, kind, source, .. } = mount;
        let is_local = LOCAL_FS.contains(&kind);
        if !is_local && !REMOTE_FS.iter().any(|remote| kind.starts_with(remote)) {
            continue;
        }
        if lines.len() == MOUNTS_MAX {
            more += 1;
            continue;
        }
        let access = if mount.is_read_only() { "ro" } else { "rw" };
        let room = if is_local { room(root, at) } else { "not asked, as it may never answer".into() };
        lines.push(format!("{at} {source} {kind} {access}: {room}"));
    }
    lines.extend((more > 0).then(|| format!("({more} more)")));
    lines.extend(mounts.more);
    Ok(lines.join("\n"))
}

fn room(root: &Path, at: &str) -> String {
    let stat = match rustix::fs::statvfs(root.join(unescape(at).trim_start_matches('/'))) {
        Ok(stat) => stat,
        Err(error) => return error.to_string(),
    };
    let mib = |blocks: u64| blocks.saturating_mul(stat.f_frsize) >> 20;
    let (free, all) = (mib(stat.f_bavail), mib(stat.f_blocks));
    format!("{free} of {all} MiB free, {} of {} inodes", stat.f_favail, stat.f_files)
}

/// The journal's end, or what there is to tell of one that can't be read or has nothing.
async fn journalctl(within: Duration) -> Read {
    let path = on_path("journalctl").ok_or("there is no journalctl")?;
    let args = ["--output=short-iso", "--no-pager", "--quiet", "--lines", JOURNAL_LINES].map(str::to_owned);
    said(&path, &args, within).await
}

/// What a program says. One that has to be stopped is heard out up to there.
pub(super) async fn said(path: &Path, args: &[String], within: Duration) -> Read {
    let program = Program { tail_max: JOURNAL.bytes, ..Program::new(path, args, &[]) };
    let (_keep, canceled) = oneshot::channel();
    let run = program::run(program, within, canceled, &mut |_| ()).await;
    let outcome = run.map_err(|error| format!("start {}: {error}", path.display()))?.outcome("journalctl");
    let ActOutcome { status, detail, output, .. } = outcome;
    let detail = detail.unwrap_or_default();
    match (status, output.as_deref().map(whole_lines)) {
        (ActStatus::Succeeded, Some(said)) => Ok(said),
        (ActStatus::TimedOut, Some(said)) => Ok(format!("{}\n({detail})", said.trim_end())),
        (_, Some(said)) => Err(format!("journalctl: {detail}: {}", said.trim_end())),
        (_, None) => Err(format!("journalctl said nothing: {detail}")),
    }
}

/// Without the first line of an output whose beginning is left out: it is the end of one, maybe of a secret.
fn whole_lines(output: &str) -> String {
    match output.split_once('\n') {
        Some((left_out, rest)) if left_out.starts_with("… ") => {
            let whole = rest.split_once('\n').map_or("", |(_, whole)| whole);
            format!("({left_out})\n{whole}")
        }
        _ => output.to_owned(),
    }
}

/// The log of a gateway without a journal, or at least what its kernel has to say.
fn logs(root: &Path) -> String {
    if let Some(log) = LOGS.iter().find(|log| root.join(log).is_file()) {
        return tail(root, log, JOURNAL.bytes).unwrap_or_else(|why| format!("({why})"));
    }
    match kmsg::newest_lines(&root.join(KMSG), KERNEL_LINES_MAX) {
        Ok(lines) => format!("-- /{KMSG}\n{}", lines.join("\n")),
        Err(error) => format!("(/{KMSG}: {error})"),
    }
}
