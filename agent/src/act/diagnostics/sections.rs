//! The sections of a snapshot, each of which reads one kind of thing and says in words why it can't.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "sections have deadlines, and read files")]

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::act::jobs;
use crate::act::program::{self, Program};

/// How long what asks others may take: PID 1, journalctl.
const ASK_MAX: Duration = Duration::from_secs(10);
/// Bytes of a file that are read.
const FILE_MAX: u64 = 1024 * 1024;
/// Lines of the journal.
const JOURNAL_LINES: &str = "400";
/// Bytes of the journal that are kept.
const JOURNAL_MAX: usize = 192 * 1024;
/// Processes in each of the two lists.
const PROCESSES_MAX: usize = 15;
/// Listening sockets that are named.
const LISTENERS_MAX: usize = 100;
/// Mounted file systems that are looked at.
const MOUNTS_MAX: usize = 64;
/// File systems that are on this machine: asking another one may take for ever.
const LOCAL_FS: [&str; 13] =
    ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat", "ubifs", "jffs2", "squashfs", "overlay", "tmpfs", "zfs"];
const JOURNALCTL: [&str; 2] = ["/usr/bin/journalctl", "/bin/journalctl"];
/// Where a gateway without a journal keeps its log.
const LOGS: [&str; 2] = ["var/log/messages", "var/log/syslog"];

type Read = Result<String, String>;

/// All sections, in the order of what a responder asks first.
pub(super) async fn collect(root: &Path, config: &str, within: Duration) -> Vec<(&'static str, Read)> {
    let deadline = tokio::time::Instant::now() + within;
    let within = || deadline.saturating_duration_since(tokio::time::Instant::now()).min(ASK_MAX);
    vec![
        ("gateway", gateway(root)),
        ("failed units", asked(within(), failed_units()).await),
        ("memory", files(root, &["proc/meminfo", "proc/loadavg", "proc/pressure/memory", "proc/pressure/io"])),
        ("services", services(root)),
        ("processes", Ok(processes())),
        ("disks", disks(root)),
        ("network", network(root)),
        ("sockets", sockets(root)),
        ("configuration at the agent's start", Ok(config.to_owned())),
        ("journal", asked(within(), journal(root)).await),
    ]
}

async fn asked(within: Duration, ask: impl Future<Output = Read>) -> Read {
    timeout(within, ask).await.unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
}

fn gateway(root: &Path) -> Read {
    let names = rustix::system::uname();
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    let mut lines = vec![
        format!("agent {}", env!("CARGO_PKG_VERSION")),
        format!("host {}", text(names.nodename())),
        format!("kernel {} {} {}", text(names.release()), text(names.version()), text(names.machine())),
        format!("time {}", jiff::Timestamp::now()),
    ];
    for (what, path) in [
        ("up, idle (s)", "proc/uptime"),
        ("boot", "proc/sys/kernel/random/boot_id"),
        ("command line", "proc/cmdline"),
        ("system", "etc/os-release"),
    ] {
        lines.push(format!("{what}: {}", file(root, path).unwrap_or_else(|why| format!("({why})")).trim_end()));
    }
    Ok(lines.join("\n"))
}

async fn failed_units() -> Read {
    let failed = jobs::failed().await?;
    Ok(if failed.is_empty() { "none".into() } else { failed.join("\n") })
}

fn files(root: &Path, paths: &[&str]) -> Read {
    let texts = paths.iter().map(|path| match file(root, path) {
        Ok(text) => format!("-- /{path}\n{}", text.trim_end()),
        Err(why) => format!("-- /{path} ({why})"),
    });
    Ok(texts.collect::<Vec<_>>().join("\n"))
}

/// What systemd's services take, by their cgroups (Documentation/admin-guide/cgroup-v2.rst): seen also where the processes of
/// others are hidden.
fn services(root: &Path) -> Read {
    let dir = root.join("sys/fs/cgroup/system.slice");
    let entries = fs::read_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut services: Vec<(u64, u64, String)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let look = |leaf: &str| file(root, &format!("sys/fs/cgroup/system.slice/{name}/{leaf}")).ok();
            let bytes = look("memory.current")?.trim().parse().ok()?;
            let usage = look("cpu.stat").and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
            Some((bytes, usage.unwrap_or_default() / 1_000_000, name))
        })
        .collect();
    services.sort_by(|a, b| b.cmp(a));
    let line = |(bytes, cpu_s, name): &(u64, u64, String)| format!("{:>10} KiB {cpu_s:>8} s {name}", bytes / 1024);
    Ok(services.iter().take(PROCESSES_MAX).map(line).collect::<Vec<_>>().join("\n"))
}

/// Names only: arguments may be secrets. The kernel hides those of others where it is told to.
fn processes() -> String {
    let mut system = System::new();
    let kind = ProcessRefreshKind::nothing().with_memory().with_cpu().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, kind);
    let mut processes: Vec<_> = system.processes().values().collect();
    let list = |processes: &[&sysinfo::Process]| {
        let lines = processes.iter().take(PROCESSES_MAX).map(|process| {
            let (kib, cpu_s) = (process.memory() / 1024, process.accumulated_cpu_time() / 1000);
            let name = process.name().to_string_lossy();
            format!("{:>8} {kib:>10} KiB {cpu_s:>8} s {:>4?} {name}", process.pid().as_u32(), process.status())
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    processes.sort_by_key(|process| std::cmp::Reverse(process.memory()));
    let by_memory = list(&processes);
    processes.sort_by_key(|process| std::cmp::Reverse(process.accumulated_cpu_time()));
    format!("{} in all\n-- by memory\n{by_memory}\n-- by CPU time\n{}", processes.len(), list(&processes))
}

/// /proc/self/mounts (proc_pid_mounts(5)) and statvfs(3).
fn disks(root: &Path) -> Read {
    let mounts = file(root, "proc/self/mounts")?;
    let mut lines = Vec::new();
    for line in mounts.lines().take(MOUNTS_MAX) {
        let mut words = line.split(' ');
        let (Some(device), Some(at), Some(kind), Some(options)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let access = if options.split(',').any(|option| option == "ro") { "ro" } else { "rw" };
        if !LOCAL_FS.contains(&kind) {
            continue;
        }
        // Blanks are written in octal.
        let at = at.replace("\\040", " ");
        lines.push(match rustix::fs::statvfs(at.as_str()) {
            Ok(stat) => {
                let mib = |blocks: u64| blocks.saturating_mul(stat.f_frsize) >> 20;
                let (free, all) = (mib(stat.f_bavail), mib(stat.f_blocks));
                format!(
                    "{at} {device} {kind} {access}: {free} of {all} MiB free, {} of {} inodes",
                    stat.f_favail, stat.f_files
                )
            }
            Err(error) => format!("{at} {device} {kind} {access}: {error}"),
        });
    }
    lines.push("(file systems of the kernel's own and of other machines are not looked at)".into());
    Ok(lines.join("\n"))
}

fn network(root: &Path) -> Read {
    let dir = root.join("sys/class/net");
    let entries = fs::read_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let mut lines = Vec::new();
    for name in names {
        let look = |leaf: &str| {
            let text = file(root, &format!("sys/class/net/{name}/{leaf}"));
            text.map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned())
        };
        lines.push(format!(
            "{name}: {}, mtu {}, {} B in with {} errors, {} B out with {} errors",
            look("operstate"),
            look("mtu"),
            look("statistics/rx_bytes"),
            look("statistics/rx_errors"),
            look("statistics/tx_bytes"),
            look("statistics/tx_errors"),
        ));
    }
    lines.push(format!("addresses: {}", addresses(root).join(", ")));
    for (what, path) in [("routes", "proc/net/route"), ("name servers", "etc/resolv.conf")] {
        lines.push(format!("-- {what}\n{}", file(root, path).unwrap_or_else(|why| format!("({why})")).trim_end()));
    }
    Ok(lines.join("\n"))
}

/// Of this machine: /proc/net/fib_trie, where a local address stands above its `/32 host LOCAL`, and /proc/net/if_inet6.
fn addresses(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut last = "";
    let trie = file(root, "proc/net/fib_trie").unwrap_or_default();
    for line in trie.lines() {
        if let Some(address) = line.trim().strip_prefix("|-- ") {
            last = address;
        } else if line.contains("/32 host LOCAL") && !found.iter().any(|known| known == last) {
            found.push(last.to_owned());
        }
    }
    let inet6 = file(root, "proc/net/if_inet6").unwrap_or_default();
    let of_line = |line: &str| {
        let address = u128::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
        Some(Ipv6Addr::from(address).to_string())
    };
    found.extend(inet6.lines().filter_map(of_line));
    found
}

/// proc_net(5): how many sockets are in which state, and which listen.
fn sockets(root: &Path) -> Read {
    const LISTEN: &str = "0A";
    let mut lines = Vec::new();
    for (table, listens) in [("tcp", LISTEN), ("tcp6", LISTEN), ("udp", "07"), ("udp6", "07")] {
        let text = match file(root, &format!("proc/net/{table}")) {
            Ok(text) => text,
            Err(why) => {
                lines.push(format!("{table}: ({why})"));
                continue;
            }
        };
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        let mut listeners = Vec::new();
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace().skip(1);
            let (Some(local), Some(_), Some(state)) = (words.next(), words.next(), words.next()) else { continue };
            *states.entry(state).or_default() += 1;
            if state == listens && listeners.len() < LISTENERS_MAX {
                listeners.push(address(local).unwrap_or_else(|| local.to_owned()));
            }
        }
        let states = states.into_iter().map(|(state, count)| format!("{count} {}", state_word(state)));
        lines.push(format!("{table}: {}", states.collect::<Vec<_>>().join(", ")));
        lines.extend((!listeners.is_empty()).then(|| format!("{table} listens: {}", listeners.join(", "))));
    }
    Ok(lines.join("\n"))
}

/// The kernel's include/net/tcp_states.h.
fn state_word(state: &str) -> &str {
    const WORDS: [(&str, &str); 11] = [
        ("01", "established"),
        ("02", "syn-sent"),
        ("03", "syn-recv"),
        ("04", "fin-wait-1"),
        ("05", "fin-wait-2"),
        ("06", "time-wait"),
        ("07", "close"),
        ("08", "close-wait"),
        ("09", "last-ack"),
        ("0A", "listen"),
        ("0B", "closing"),
    ];
    WORDS.iter().find(|(code, _)| *code == state).map_or(state, |(_, word)| word)
}

/// An address as those tables write it: words of 32 bits, each in this machine's order.
fn address(text: &str) -> Option<String> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match address.len() {
        8 => Some(format!("{}:{port}", Ipv4Addr::from(word(0)?))),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            let address: [u8; 16] = bytes.try_into().ok()?;
            Some(format!("[{}]:{port}", Ipv6Addr::from(address)))
        }
        _ => None,
    }
}

async fn journal(root: &Path) -> Read {
    let Some(path) = JOURNALCTL.iter().map(Path::new).find(|path| path.exists()) else {
        let log =
            LOGS.iter().find(|log| root.join(log).is_file()).ok_or("there is no journalctl and no log file here")?;
        return file(root, log);
    };
    let args = ["--output=short-iso", "--no-pager", "--quiet", "--lines", JOURNAL_LINES].map(str::to_owned);
    let program = Program { path, args: &args, env: &[], tail_max: JOURNAL_MAX };
    let (_keep, canceled) = oneshot::channel();
    let run = program::run(program, ASK_MAX, canceled, |_| ()).await;
    let outcome = run.map_err(|error| format!("start {}: {error}", path.display()))?.outcome("journalctl");
    match outcome.output {
        Some(output) => Ok(output),
        None => Err(format!("journalctl said nothing: {}", outcome.detail.unwrap_or_default())),
    }
}

/// The end of a plain file: whatever else stands in its place may never end.
fn file(root: &Path, path: &str) -> Read {
    let path = root.join(path);
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let metadata = fs::metadata(&path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{} is no plain file", path.display()));
    }
    let mut file = File::open(&path).map_err(failed)?;
    if metadata.len() > FILE_MAX {
        file.seek(SeekFrom::Start(metadata.len() - FILE_MAX)).map_err(failed)?;
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
