#![expect(clippy::disallowed_methods, reason = "a gateway's files are made here")]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::engine::io::ActStatus;

const LONG: Duration = Duration::from_secs(60);

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
    for word in ["MemAvailable:", "lo: ", "127.0.0.1", "by CPU time", "MiB free", "mqtt://***@broker"] {
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
    fs::write(path("proc/self/mounts"), "only two\nnone /nowhere\\040at ext4 rw 0 0\n").unwrap();
    fs::write(path("proc/net/fib_trie"), "/32 host LOCAL\n|-- 192.0.2.7\n/32 host LOCAL\n").unwrap();
    fs::write(path("etc/resolv.conf"), vec![b'x'; 3 << 20]).unwrap();
    let cgroup = path("sys/fs/cgroup/system.slice/app.service");
    fs::create_dir_all(&cgroup).unwrap();
    fs::write(cgroup.join("memory.current"), "4194304\n").unwrap();
    fs::write(cgroup.join("cpu.stat"), "usage_usec 7000000\nuser_usec 1\n").unwrap();
    let (outcome, text) = take(root.path(), "").await;
    assert_eq!(outcome.status, ActStatus::Succeeded);
    for word in [
        "meminfo is no plain file",
        "os-release is no plain file",
        "loadavg is no plain file",
        "4096 KiB        7 s app.service",
        "tcp: 2 listen",
        "tcp listens: zz:00, 127.0.0.1:8080",
        "/nowhere at",
        "addresses: , 192.0.2.7",
        "udp: (",
    ] {
        assert!(text.contains(word), "no {word:?} in {text:.4000}");
    }
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
    let (compressed, bytes) = fit(sections.map(|(name, text)| Section::new(name, Ok(text))).to_vec());
    assert!(compressed.len() <= SNAPSHOT_MAX && compressed.len() * 3 > SNAPSHOT_MAX, "{}", compressed.len());
    let text = String::from_utf8(zstd::decode_all(compressed.as_ref()).unwrap()).unwrap();
    assert_eq!(text.len(), bytes);
    assert!(text.contains(&small), "the small one is whole");
    assert!(newest.iter().all(|line| text.contains(line)), "the newest lines stay");
    assert!(text.contains(" lines before this are left out)"));
}

#[test]
fn a_line_is_cut_where_a_character_ends() {
    assert_eq!(cut("aé", 2), "a");
    assert_eq!(cut("aé", 3), "aé");
    let section = Section::new("x", Ok("é".repeat(LINE_MAX)));
    assert_eq!(section.text.len(), LINE_MAX);
}

#[test]
fn a_long_line_is_masked_before_it_is_cut_and_stalls_nothing() {
    let line = format!("{}mqtt://me:hunter2{}@broker", "x".repeat(LINE_MAX - 15), "z".repeat(LINE_MAX));
    assert!(!Section::new("x", Ok(line)).text.contains("hunter2"));
    // Each of these would take minutes if every telling word looked through all that follows it.
    for word in ["token", "token=\"", "-token ", "token\\", "bearer ", "://", "eyJ.", "-----END PRIVATE KEY-----\n"] {
        let section = Section::new("x", Ok(word.repeat((1 << 20) / word.len())));
        assert!(section.text.lines().all(|line| line.len() <= LINE_MAX), "{word}");
    }
}

#[tokio::test]
async fn a_snapshot_that_nobody_wants_any_more_is_not_taken() {
    let (cancel, canceled) = oneshot::channel();
    cancel.send(()).unwrap();
    let outcome = Diagnostics::new("/".into(), String::new()).take(LONG, canceled).await;
    assert!(matches!(outcome.status, ActStatus::Canceled | ActStatus::Succeeded), "{outcome:?}");
}
