#![expect(clippy::disallowed_methods, reason = "a gateway's files are made here")]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::engine::io::ActStatus;

const LONG: Duration = Duration::from_secs(60);

const BOUND: Bound = Bound { name: "x", bytes: 256 * 1024, within: LONG };

async fn take(root: &Path, config: &str) -> (ActOutcome, String) {
    let (_keep, canceled) = oneshot::channel();
    let outcome = Diagnostics::new(root.to_owned(), config.to_owned()).take(LONG, canceled).await;
    let compressed = outcome.attachment.clone().unwrap();
    let mut text = String::new();
    zstd::Decoder::new(compressed.as_ref()).unwrap().read_to_string(&mut text).unwrap();
    (outcome, text)
}

#[tokio::test]
async fn a_snapshot_of_this_machine_has_all_sections_and_fits() {
    let (outcome, text) = take(Path::new("/"), "[mqtt]\nurl = \"mqtt://me:secret@broker\"").await;
    assert_eq!(outcome.status, ActStatus::Succeeded);
    assert!(outcome.attachment.unwrap().len() <= SNAPSHOT_MAX);
    let mut from = 0;
    for name in
        ["gateway", "failed units", "memory", "processes", "disks", "network", "sockets", "configuration", "journal"]
    {
        from += text[from..].find(&format!("== {name}")).unwrap_or_else(|| panic!("no {name} behind {from} in {text}"));
    }
    for word in ["synchronised", "MemAvailable:", "lo: ", "127.0.0.1", "by CPU time", "MiB free", "mqtt://***@broker"] {
        assert!(text.contains(word), "no {word} in {text}");
    }
}

#[tokio::test]
async fn a_listening_socket_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (_, text) = take(Path::new("/"), "").await;
    assert!(text.contains(&listener.local_addr().unwrap().to_string()), "{text}");
}

#[tokio::test]
async fn files_that_are_missing_or_something_else_or_nonsense_cost_only_themselves() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    for dir in ["proc/net", "proc/sys/kernel/random", "proc/self", "sys/class/net/eth0", "etc", "proc/loadavg"] {
        fs::create_dir_all(path(dir)).unwrap();
    }
    // A pipe that nobody writes to would be read for ever.
    assert!(Command::new("mkfifo").arg(path("proc/meminfo")).status().unwrap().success());
    symlink("/dev/zero", path("etc/os-release")).unwrap();
    fs::write(path("proc/net/tcp"), b"header\n  0: zz:00 xx 0A\n 1: 0100007F:1F90 00000000:0000 0A \xff\xfe\n")
        .unwrap();
    fs::write(path("proc/self/mountinfo"), "only two\n22 1 0:9 / /nowhere\\040at ro - ext4 none rw\n").unwrap();
    fs::write(path("proc/net/fib_trie"), "/32 host LOCAL\n|-- 192.0.2.7\n/32 host LOCAL\n").unwrap();
    fs::write(path("etc/resolv.conf"), vec![b'x'; 3 << 20]).unwrap();
    fs::write(path("proc/uptime"), "93784.55 1.00\n").unwrap();
    fs::write(path("proc/cmdline"), "ro quiet \x1b[2J agent.token=hunter2\n").unwrap();
    let cgroup = path("sys/fs/cgroup/system.slice/app.service");
    fs::create_dir_all(&cgroup).unwrap();
    fs::write(cgroup.join("memory.current"), "4194304\n").unwrap();
    fs::write(cgroup.join("cpu.stat"), "usage_usec 7000000\nuser_usec 1\n").unwrap();
    let uncounted = path("sys/fs/cgroup/system.slice/other.service");
    fs::create_dir_all(&uncounted).unwrap();
    fs::write(uncounted.join("cpu.stat"), "usage_usec 9000000\n").unwrap();
    let (outcome, text) = take(root.path(), "").await;
    assert_eq!(outcome.status, ActStatus::Succeeded);
    for word in [
        "up: 1day 2h 3m 4s",
        "boot: (",
        "command line: ro quiet \u{fffd}[2J agent.token=***",
        "meminfo is no plain file",
        "os-release is no plain file",
        "loadavg is no plain file",
        "4096 KiB        7 s app.service",
        "? KiB        9 s other.service",
        "(of /etc/resolv.conf only the first 16384 B are read)",
        "tcp: 2 listen",
        "tcp listens: zz:00, 127.0.0.1:8080",
        "/nowhere\\040at none ext4 rw: No such file",
        "addresses: 192.0.2.7",
        "udp: (",
    ] {
        assert!(text.contains(word), "no {word:?} in {text:.4000}");
    }
}

#[tokio::test]
async fn services_are_told_under_the_first_version_of_cgroups_too() {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join("sys/fs/cgroup").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    // As systemd lays it out before it gave up on them: its own hierarchy has no figures.
    write("systemd/system.slice/app.service/cgroup.procs", "1\n");
    write("memory/system.slice/app.service/memory.usage_in_bytes", "6442450944\n");
    write("cpuacct/system.slice/app.service/cpuacct.usage", "7000000001\n");
    write("memory/system.slice/idle.service/memory.usage_in_bytes", "4096\n");
    let (_, text) = take(root.path(), "").await;
    for line in [" 6291456 KiB        7 s app.service", "       4 KiB        0 s idle.service"] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
}

#[tokio::test]
async fn what_may_never_answer_is_named_and_not_asked() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("proc/self")).unwrap();
    fs::create_dir_all(root.path().join("my disk")).unwrap();
    let mount = |at: &str, file_system: &str| format!("22 1 0:9 / {at} rw,noatime shared:1 - {file_system}\n");
    let kernels = mount("/sys/fs/cgroup", "cgroup2 cgroup rw").repeat(100);
    let remote = mount("/mnt/logs", "nfs4 nas:/logs rw,hard") + &mount("/mnt/home", "fuse.sshfs me@host:/ rw");
    let local = mount("/my\\040disk", "ext4 /dev/sda1 ro") + &mount("/none", "tmpfs none rw").repeat(100);
    fs::write(root.path().join("proc/self/mountinfo"), kernels + &remote + &local).unwrap();
    let (_, text) = take(root.path(), "").await;
    for line in [
        "/mnt/logs nas:/logs nfs4 rw: not asked, as it may never answer\n",
        "/mnt/home me@host:/ fuse.sshfs rw: not asked, as it may never answer\n",
        "/my\\040disk /dev/sda1 ext4 ro: ",
        " MiB free",
        "/none none tmpfs rw: No such file",
        "(39 more)\n",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    assert!(!text.contains("cgroup2"), "{text}");
}

#[tokio::test]
async fn what_there_was_no_time_for_says_so_and_the_rest_is_sent() {
    let (_keep, canceled) = oneshot::channel();
    let outcome = Diagnostics::new("/".into(), "id = \"gw\"".into()).take(Duration::ZERO, canceled).await;
    assert_eq!(outcome.status, ActStatus::Succeeded);
    let text = String::from_utf8(zstd::decode_all(outcome.attachment.unwrap().as_ref()).unwrap()).unwrap();
    for section in ["gateway", "failed units", "disks", "journal"] {
        let said = format!("== {section}\n(not read: the snapshot's time was over)\n");
        assert!(text.contains(&said), "no {said:?} in {text}");
    }
    assert!(text.contains("id = \"gw\""), "{text}");
}

#[tokio::test]
async fn a_journal_that_goes_on_for_ever_is_stopped_and_told_up_to_there() {
    let args = ["-c", "echo one; echo two; exec sleep 600"].map(str::to_owned);
    let said = sections::said(Path::new("/bin/sh"), &args, Duration::from_secs(2)).await;
    assert_eq!(said.unwrap(), "one\ntwo\n(journalctl was stopped after 2s)");
    let args = ["-c", "echo no such journal >&2; exit 3"].map(str::to_owned);
    let said = sections::said(Path::new("/bin/sh"), &args, LONG).await;
    assert_eq!(said.unwrap_err(), "journalctl: exit code 3: no such journal");
}

#[tokio::test]
async fn a_journal_that_says_too_much_is_told_from_the_first_whole_line_on() {
    // The first line that is left would begin within a secret.
    let args = ["-c", "printf 'password=%0300000d\\nlast\\n' 7"].map(str::to_owned);
    let said = sections::said(Path::new("/bin/sh"), &args, LONG).await.unwrap();
    let (left_out, rest) = said.split_once('\n').unwrap();
    assert!(left_out.ends_with(" B before this)"), "{left_out}");
    assert_eq!(rest, "last\n");
}

#[test]
fn of_a_log_the_last_whole_lines_are_read_and_of_other_files_the_first() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("log"), "password=abc\nsecond\nthird\n").unwrap();
    assert_eq!(files::tail(root.path(), "log", 1000).unwrap(), "password=abc\nsecond\nthird\n");
    assert_eq!(files::tail(root.path(), "log", 17).unwrap(), "(13 B of /log before this)\nsecond\nthird\n");
    assert_eq!(files::tail(root.path(), "log", 3).unwrap_err(), "/log: its last line is longer than 3 B");
    fs::write(root.path().join("long"), "line\n".repeat(4_000)).unwrap();
    let text = files::file(root.path(), "long").unwrap();
    let (whole, more) = text.rsplit_once('\n').unwrap();
    assert!(whole.lines().all(|line| line == "line"), "{whole}");
    assert_eq!(more, "(of /long only the first 16384 B are read)");
}

#[test]
fn what_does_not_fit_loses_the_older_half_of_what_is_largest_and_says_so() {
    let mut noise = fastrand::Rng::with_seed(7);
    let mut lines =
        |count: usize| (0..count).map(|at| format!("{at} {:032x}", noise.u128(..))).collect::<Vec<_>>().join("\n");
    let small = lines(10);
    let large = [lines(6_000), lines(6_000), lines(6_000), lines(6_000)];
    let newest = large.clone().map(|text| text.lines().last().unwrap().to_owned());
    let [a, b, c, d] = large;
    let sections = [("small", small.clone()), ("a", a), ("b", b), ("c", c), ("d", d)];
    let (compressed, bytes) =
        fit(sections.map(|(name, text)| Section::new(Bound { name, ..BOUND }, Ok(text))).to_vec());
    assert!(compressed.len() <= SNAPSHOT_MAX && compressed.len() * 3 > SNAPSHOT_MAX, "{}", compressed.len());
    let text = String::from_utf8(zstd::decode_all(compressed.as_ref()).unwrap()).unwrap();
    assert_eq!(text.len(), bytes);
    assert!(text.contains(&small), "the small one is whole");
    assert!(newest.iter().all(|line| text.contains(line)), "the newest lines stay");
    assert!(text.contains(" lines before this are left out)"));
}

#[test]
fn a_line_is_cut_where_a_character_ends() {
    let section = Section::new(BOUND, Ok("é".repeat(LINE_MAX)));
    assert_eq!(section.text.len(), LINE_MAX);
}

#[test]
fn a_long_line_is_masked_before_it_is_cut_and_stalls_nothing() {
    let line = format!("{}mqtt://me:hunter2{}@broker", "x".repeat(LINE_MAX - 15), "z".repeat(LINE_MAX));
    assert!(!Section::new(BOUND, Ok(line)).text.contains("hunter2"));
    // Each of these would take minutes if every telling word looked through all that follows it.
    for word in ["token", "token=\"", "-token ", "token\\", "bearer ", "://", "eyJ.", "-----END PRIVATE KEY-----\n"] {
        let section = Section::new(BOUND, Ok(word.repeat((1 << 20) / word.len())));
        assert!(section.text.lines().all(|line| line.len() <= LINE_MAX), "{word}");
    }
}

#[tokio::test]
async fn a_snapshot_that_nobody_wants_any_more_is_not_taken() {
    let (cancel, canceled) = oneshot::channel();
    cancel.send(()).unwrap();
    let outcome = Diagnostics::new("/".into(), String::new()).take(LONG, canceled).await;
    assert_eq!((outcome.status, outcome.attachment), (ActStatus::Canceled, None));
}
