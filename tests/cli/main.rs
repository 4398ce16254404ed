//! The command line: its words, where they go, and its exit codes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test that can't be set up fails, and it may touch the system that the agent's engine must not"
)]

#[path = "../common/mod.rs"]
mod common;
mod init;

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use common::agent::{export, program};
use common::broker::free_port;
use common::process::{Process, Stream};
use common::{Gateway, SOON, World, until};

fn fieldmedic(args: &[&str]) -> Output {
    Command::new(program()).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_release_that_does_not_say_where_changes_nothing_and_names_both_ways_out() {
    let output = fieldmedic(&["release"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("release --local") && said.contains("fieldmedic send … release"), "{said}");
}

const TEN_MISTAKES: &str = include_str!("../../agent/src/config/tests/mistakes.toml");
/// The lines of it that are wrong.
const MISTAKEN_LINES: [u32; 10] = [2, 4, 5, 6, 8, 10, 12, 13, 17, 19];

#[test]
fn a_config_with_ten_mistakes_lists_ten_each_with_its_line() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, TEN_MISTAKES).unwrap();
    let file = file.display().to_string();

    for subcommand in ["check", "run"] {
        let output = fieldmedic(&[subcommand, "--config", &file]);
        assert_eq!(output.status.code(), Some(2), "{subcommand}: {output:?}");
        assert!(output.stdout.is_empty(), "{subcommand}: {output:?}");
        let errors = text(&output.stderr);
        let lines: Vec<u32> = errors
            .lines()
            .filter_map(|line| line.strip_prefix(&file)?.strip_prefix(':')?.split(':').next()?.parse().ok())
            .collect();
        assert_eq!(lines, MISTAKEN_LINES, "{subcommand}:\n{errors}");
    }
}

#[test]
fn a_config_that_is_right_is_printed_as_it_takes_effect() {
    let gateway = Gateway::new("gw-check", "mqtt://127.0.0.1:1883");
    let output = gateway.command("check").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let effective = text(&output.stdout);
    assert!(effective.contains("id = \"gw-check\"") && effective.contains("keep_alive = \"30s\""), "{effective}");

    let dir = TempDir::new().unwrap();
    let file = dir.path().join("effective.toml");
    std::fs::write(&file, &effective).unwrap();
    let again = fieldmedic(&["check", "--config", &file.display().to_string()]);
    assert_eq!(text(&again.stdout), effective, "what check prints means the same");
}

#[test]
fn status_without_a_daemon_exits_with_three() {
    let gateway = Gateway::new("gw-nobody", "mqtt://127.0.0.1:1883");
    let output = gateway.status();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(text(&output.stderr).contains("agent.sock"), "{output:?}");
}

#[test]
fn what_answers_on_the_socket_without_being_a_daemon_is_no_status() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 64]).and_then(|_| stream.write_all(b"220 hello\n"));
        }
    });
    for format in [&[][..], &["--json"]] {
        let socket = socket.display().to_string();
        let asked = fieldmedic(&[&["status", "--socket", &socket][..], format].concat());
        assert_eq!(asked.status.code(), Some(3), "{asked:?}");
        assert!(asked.stdout.is_empty() && text(&asked.stderr).contains("is no daemon"), "{asked:?}");
    }
}

#[test]
fn a_default_config_that_is_broken_keeps_nobody_from_asking_and_one_that_was_named_does() {
    for installed in ["/etc/fieldmedic/agent.toml", "/run/fieldmedic/agent.sock"] {
        if Path::new(installed).exists() {
            eprintln!("SKIPPED: {installed} is there, and comes before what the test has made");
            return;
        }
    }
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("configs")).unwrap();
    std::fs::write(dir.path().join("configs/agent.toml"), "[mqtt\n").unwrap();
    let ask = |args: &[&str]| Command::new(program()).args(args).current_dir(dir.path()).output().unwrap();
    for (args, code) in [(&["status"][..], 3), (&["status", "--config", "configs/agent.toml"][..], 2)] {
        let asked = ask(args);
        assert_eq!(asked.status.code(), Some(code), "{args:?}: {asked:?}");
        let told = text(&asked.stderr);
        assert!(told.contains("configs/agent.toml:1: not TOML"), "{args:?}: {told}");
    }
    let told = text(&ask(&["store", "stat"]).stderr);
    assert!(told.contains("going on with the default, /var/lib/fieldmedic/store; --path names another"), "{told}");
}

#[test]
fn status_tells_how_the_running_daemon_is() {
    let world = World::new();
    let gateway = world.gateway("gw-status");
    let agent = gateway.start();
    let status = gateway.wait_for_status("it to be online", |status| status["broker"]["online"] == true);
    assert_eq!(status["device"], "gw-status", "{status:#}");
    assert_eq!(status["agent"], env!("CARGO_PKG_VERSION"), "{status:#}");
    assert!(status["outbox"]["records"]["telemetry"].is_u64(), "{status:#}");

    let full = File::create("/dev/full").unwrap();
    let unsaid = gateway.command("status").stdout(full).output().unwrap();
    assert_eq!(unsaid.status.code(), Some(1), "{unsaid:?}");
    assert!(text(&unsaid.stderr).contains("write to stdout: No space left"), "{unsaid:?}");

    let readable = gateway.command("status").output().unwrap();
    assert_eq!(readable.status.code(), Some(0), "{readable:?}");
    assert!(text(&readable.stdout).contains("gw-status"), "{readable:?}");

    assert_eq!(agent.sigterm(), Some(0));
    assert_eq!(gateway.status().status.code(), Some(3), "the socket of a stopped daemon answers nobody");
}

#[test]
fn a_status_that_is_watched_goes_on_over_a_restart_of_the_daemon() {
    // Nobody listens there, whatever this machine has on the usual port.
    let gateway = Gateway::new("gw-watched", &format!("mqtt://127.0.0.1:{}", free_port()));
    let agent = gateway.start();
    gateway.wait_for_status("an answer", |_| true);
    let mut watching = Process::start("status", gateway.command("status").arg("--watch").stdout(Stdio::piped()));
    let screen = Stream::read("screen", watching.stdout(), str::to_owned);
    let shows = |mark: usize, text: &str| {
        screen.wait_since(mark, text, |lines| lines.iter().any(|line| line.contains(text)).then_some(()));
    };
    shows(0, "gw-watched");
    assert_eq!(agent.sigterm(), Some(0));
    shows(0, "no daemon answers");
    let mark = screen.mark();
    let _agent = gateway.start();
    shows(mark, "gw-watched");
}

#[test]
fn a_second_agent_on_the_same_store_exits_and_says_who_has_it() {
    let world = World::new();
    let gateway = world.gateway("gw-second");
    let first = world.online(&gateway);

    let (code, log) = gateway.start().wait();
    assert_eq!(code, Some(1), "{log:#?}");
    let line = log.last().map(String::as_str).unwrap_or_default();
    assert!(line.contains(&first.pid().to_string()) && line.contains("store"), "{log:#?}");
    let id = world.order("gw-second", "ping", json!({}));
    world.fleet.result(&id, "SUCCEEDED");
    assert_eq!(gateway.status().status.code(), Some(0), "the first one still has its socket");
}

#[test]
fn a_reload_takes_over_what_it_can_and_keeps_the_running_config_if_the_new_one_is_wrong() {
    let world = World::new();
    let gateway = world.gateway("gw-reload").with("[device.attributes]\nsite = \"old\"");
    let agent = world.online(&gateway);

    let overlay = gateway.file("02.toml");
    assert!(std::fs::read_to_string(&overlay).unwrap().contains("old"), "the last overlay is the one to change");
    std::fs::write(&overlay, "[device.attributes]\nsite = \"new\"").unwrap();
    agent.hangup();
    let attributes = |site: &'static str| {
        move |message: &common::Message| message.leaf() == "attributes" && message.body["static"]["site"] == site
    };
    world.fleet.wait_for("the new attributes", attributes("new"));
    world.fleet.wait_for("the event", |message| message.body["name"] == "config_changed");

    std::fs::write(&overlay, "[device.attributes]\nsite = \"broken").unwrap();
    agent.hangup();
    agent.wait_for_log("02.toml:2");
    let id = world.order("gw-reload", "ping", json!({}));
    world.fleet.result(&id, "SUCCEEDED");
}

#[test]
fn a_reload_says_what_is_doubtful_as_a_start_does() {
    let world = World::new();
    let gateway = world.gateway("gw-doubtful").with("");
    let agent = world.online(&gateway);
    let off = "is false: whoever may publish on a command topic commands this gateway";
    assert!(!agent.log().so_far().iter().any(|line| line.contains(off)));

    std::fs::write(gateway.file("02.toml"), "[commands]\nrequire_signature = false\n").unwrap();
    agent.hangup();
    let told = agent.wait_for_log(off);
    assert!(told.contains("WARN") && told.contains("02.toml:2"), "{told}");
    agent.wait_for_log("require_signature is off: whoever may publish to the broker commands this gateway");
}

#[test]
fn a_reload_that_is_asked_for_while_it_starts_is_done_when_it_runs() {
    let gateway = Gateway::new("gw-early", &format!("mqtt://127.0.0.1:{}", free_port()));
    let agent = gateway.start();
    let deadline = Instant::now() + SOON;
    // Signals that are caught, as a bit mask (proc_pid_status(5)).
    let catches_hangup = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
        u64::from_str_radix(&caught, 16).unwrap() & 1 == 1
    };
    loop {
        let is_opened = gateway.store().exists();
        if catches_hangup() {
            break;
        }
        assert!(!is_opened, "it opens its store, and a SIGHUP would end it");
        assert!(Instant::now() < deadline, "it never catches SIGHUP: {:#?}", agent.log().so_far());
    }
    agent.hangup();
    agent.wait_for_log("configuration read again");
    assert_eq!(agent.sigterm(), Some(0));
}

#[test]
fn applications_are_heard_from_the_reload_on_that_turns_errors_on() {
    let world = World::new();
    let gateway = world.gateway("gw-apps");
    let socket = gateway.file("errors.sock");
    let errors =
        |enabled: bool| format!("[collect.errors]\nenabled = {enabled}\napp_socket = \"{}\"\n", socket.display());
    let gateway = gateway.with(&errors(false));
    let agent = world.online(&gateway);
    assert!(!socket.exists());

    std::fs::write(gateway.file("02.toml"), errors(true)).unwrap();
    agent.hangup();
    world.fleet.wait_for("the event", |message| message.body["name"] == "config_changed");
    let app = std::os::unix::net::UnixDatagram::unbound().unwrap();
    app.send_to(br#"{"message":"pump 3 is stuck","severity":"crit"}"#, &socket).unwrap();
    world.fleet.wait_for("the application's error", |message| message.body["error"]["source"] == "app");

    std::fs::write(gateway.file("02.toml"), errors(false)).unwrap();
    let mark = world.fleet.mark();
    agent.hangup();
    world.fleet.wait_since(mark, "the second event", |message| message.body["name"] == "config_changed");
    assert!(!socket.exists());
}

#[test]
fn keygen_makes_a_pair_that_openssl_reads_and_overwrites_nothing() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().display().to_string();
    let made = fieldmedic(&["keygen", "--out", &out, "--kid", "ops-7"]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let key = dir.path().join("ops-7.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);

    let derived = common::tool("openssl").args(["pkey", "-pubout", "-in"]).arg(&key).output().unwrap();
    let public = std::fs::read_to_string(dir.path().join("ops-7.pub")).unwrap();
    assert_eq!(text(&derived.stdout).trim(), public.trim(), "{derived:?}");

    let before = std::fs::read(&key).unwrap();
    let again = fieldmedic(&["keygen", "--out", &out, "--kid", "ops-7"]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert_eq!(std::fs::read(&key).unwrap(), before);
}

#[test]
fn send_signs_waits_and_exits_by_what_came_of_it() {
    let world = World::new();
    let gateway = world.gateway("gw-send");
    gateway.runbook("fail", "exit 3");
    let _agent = world.online(&gateway);
    let url = world.broker.url();
    let key = world.operator.private_key().display().to_string();
    let send = |to: &str, command: &[&str]| {
        fieldmedic(&[&["send", "--url", &url, "--key", &key, "--to", to, "--wait", "20s", "--json"], command].concat())
    };

    let pong = send("gw-send", &["ping"]);
    assert_eq!(pong.status.code(), Some(0), "{pong:?}");
    let last = text(&pong.stdout).lines().last().map(str::to_owned).unwrap_or_default();
    let result: Json = serde_json::from_str(&last).unwrap();
    assert_eq!((&result["status"], &result["device"]), (&json!("SUCCEEDED"), &json!("gw-send")));

    let failed = send("gw-send", &["run", "runbook=fail"]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let bad_usage = fieldmedic(&["send", "--to", "gw-send", "ping"]);
    assert_eq!(bad_usage.status.code(), Some(2), "{bad_usage:?}");
}

#[test]
fn an_export_is_one_json_object_a_record() {
    let mut world = World::new();
    let gateway = world.gateway("gw-export");
    let agent = world.online(&gateway);
    world.broker.stop();
    gateway.wait_for_status("a record", |status| {
        status["outbox"]["records"]["telemetry"].as_u64().is_some_and(|records| records > 0)
    });
    assert_eq!(agent.sigterm(), Some(0));

    let records = export(&gateway.store());
    assert!(records.iter().any(|record| record["samples"].is_array()), "{records:#?}");
    // What `head` leaves unread is no failure.
    let mut unread = Command::new(program());
    unread.args(["store", "export", "--path"]).arg(gateway.store()).stdout(unread_pipe(&gateway.file("pipe")));
    let unread = unread.output().unwrap();
    assert_eq!((unread.status.code(), text(&unread.stderr).as_str()), (Some(0), ""));
    let stat = Command::new(program()).args(["store", "stat", "--path"]).arg(gateway.store()).output().unwrap();
    assert_eq!(stat.status.code(), Some(0), "{stat:?}");
}

#[test]
fn usage_mistakes_exit_with_two_and_help_with_zero() {
    // But for the one mistake, each of these would run: the scenario, its configuration and the key are there.
    let dir = TempDir::new().unwrap();
    let winter = scenario(&dir, QUIET, GATEWAY);
    let out = dir.path().display().to_string();
    assert_eq!(fieldmedic(&["keygen", "--out", &out, "--kid", "k"]).status.code(), Some(0));
    let key = dir.path().join("k.key").display().to_string();
    let send = |key: &str, wrong: [&str; 2]| {
        ["send", "--url", "mqtt://127.0.0.1:1", "--key", key, "--to", "gw", wrong[0], wrong[1], "ping"]
            .map(str::to_owned)
    };
    let words = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    for (args, code, said) in [
        (words(&["--version"]), 0, ""),
        (words(&["--help"]), 0, ""),
        (words(&["run", "--help"]), 0, ""),
        (words(&["make-coffee"]), 2, "'make-coffee'"),
        (words(&["run", "--config"]), 2, "a value is required for '--config"),
        (words(&["check", "--config", "/nonexistent/agent.toml"]), 2, "/nonexistent/agent.toml:1: "),
        (words(&["simulate"]), 2, "<SCENARIO>"),
        (words(&["simulate", "no-such-scenario"]), 2, "no scenario \"no-such-scenario\""),
        (words(&["simulate", "/nonexistent/winter.toml"]), 2, "/nonexistent/winter.toml:1: "),
        (words(&["simulate", &winter, "--seeds", "0"]), 2, "'--seeds <N>': a whole number from 1 to"),
        (words(&["simulate", &winter, "--fleet", "10", "--seeds", "10"]), 2, "cannot be used with '--seeds"),
        (words(&["simulate", &winter, "--json", "--trace", "-"]), 2, "both want stdout"),
        (
            words(&["simulate", &winter, "--seed", &u64::MAX.to_string(), "--seeds", "2"]),
            2,
            "leaves no room for 2 seeds",
        ),
        (
            words(&["simulate", "/nonexistent/winter.toml", "--policy", "/nonexistent/policy.toml"]),
            2,
            "/nonexistent/policy.toml:1: ",
        ),
        (
            words(&["simulate", "/nonexistent/winter.toml", "--policy", "/nonexistent/policy.toml"]),
            2,
            "/nonexistent/winter.toml:1: ",
        ),
        (words(&["demo", "--for", "0s"]), 2, "a duration of 1s or more is expected"),
        (words(&["keygen", "--out", &out, "--kid", "../evil"]), 2, "'--kid <NAME>': 1 to 64 letters"),
        (send(&key, ["--topic-prefix", "a/#"]).into(), 2, "'--topic-prefix <PREFIX>': a topic without wildcards"),
        (send(&key, ["--wait", "banana"]).into(), 2, "'--wait <DURATION>': a duration is expected"),
        (send(&key, ["--kid", "x y"]).into(), 2, "'--kid <NAME>': 1 to 64 letters"),
        (send("/nonexistent/ops-1.key", ["--wait", "1s"]).into(), 2, "--key: reading /nonexistent/ops-1.key"),
        (send("/dev/zero", ["--wait", "1s"]).into(), 2, "--key: reading /dev/zero: it is longer than 1048576 B"),
        (
            send(&key, ["--ca-file", "/nonexistent/ca"]).into(),
            2,
            "--ca-file: the CA file /nonexistent/ca can't be used",
        ),
        (
            send(&key, ["--username=u", "--password-file=/nonexistent/pw"]).into(),
            2,
            "--password-file: the password /nonexistent/pw can't be used",
        ),
        ([&send(&key, ["--wait", "1s"])[..], &words(&["unit=a", "unit=b"])].concat(), 2, "\"unit\" stands twice"),
        (words(&["store", "stat", "--config", "/nonexistent/agent.toml"]), 2, "/nonexistent/agent.toml:1: "),
        (
            words(&["store", "export", "--path", "/nonexistent/store", "--config", "/nonexistent/agent.toml"]),
            2,
            "leave --config out: then no record has its `device`",
        ),
        (words(&["store", "stat", "--path", "/nonexistent/store"]), 1, "/nonexistent/store"),
    ] {
        let output = Command::new(program()).args(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(text(&output.stderr).contains(said), "{said:?} is not said: {args:?}: {output:?}");
    }
    assert!(!dir.path().join("../evil.key").exists());
    assert!(text(&fieldmedic(&["--version"]).stdout).contains(env!("CARGO_PKG_VERSION")));
}

/// What says something on stdout that must not get lost.
fn speakers(dir: &TempDir) -> [Vec<String>; 2] {
    [&["completions", "bash"][..], &["keygen", "--out", &dir.path().display().to_string()]]
        .map(|args| args.iter().map(|arg| (*arg).to_owned()).collect())
}

#[test]
fn a_full_stdout_is_an_error_and_no_panic() {
    let dir = TempDir::new().unwrap();
    for args in speakers(&dir) {
        let full = File::create("/dev/full").unwrap();
        let output = Command::new(program()).args(&args).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        assert!(text(&output.stderr).contains("write to stdout: No space left"), "{args:?}: {output:?}");
    }
}

/// The end to write to of a pipe whose reader has gone.
fn unread_pipe(path: &Path) -> File {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    // Both ends: neither can be opened without the other.
    let reader = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let writer = OpenOptions::new().write(true).open(path).unwrap();
    drop(reader);
    writer
}

#[test]
fn a_reader_who_has_gone_is_an_error_and_no_panic() {
    let dir = TempDir::new().unwrap();
    for (number, args) in speakers(&dir).iter().enumerate() {
        let writer = unread_pipe(&dir.path().join(format!("pipe-{number}")));
        let output = Command::new(program()).args(args).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        assert!(text(&output.stderr).contains("write to stdout: Broken pipe"), "{args:?}: {output:?}");
    }
}

#[test]
fn a_demo_that_is_too_short_for_all_of_it_ends_in_time_and_says_so() {
    let output = fieldmedic(&["demo", "--for", "3s"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("all of its scenes in the time that it had; it takes 15 s"), "{output:?}");
}

#[test]
fn a_demo_whose_broker_is_not_there_blames_the_broker_and_not_the_time() {
    let url = format!("mqtt://127.0.0.1:{}", free_port());
    let output = fieldmedic(&["demo", "--for", "2s", "--url", &url]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("the broker could not be reached") && said.contains("refused the connection"), "{said}");
}

#[test]
fn a_demo_leaves_nothing_retained_on_a_broker_of_somebodys() {
    let world = World::new();
    let output = fieldmedic(&["demo", "--for", "5s", "--url", &world.broker.url()]);
    assert!(!text(&output.stderr).contains("broker"), "{output:?}");
    world.fence();
    for leaf in ["presence", "attributes"] {
        let messages = world.fleet.so_far();
        let of_demo = messages.iter().filter(|message| message.topic == format!("fieldmedic/demo-gateway/{leaf}"));
        let bodies: Vec<&Json> = of_demo.map(|message| &message.body).collect();
        assert!(bodies.len() > 1 && bodies.last().is_some_and(|last| last.is_null()), "{leaf}: {bodies:?}");
    }
}

#[test]
fn a_demo_that_is_ended_from_outside_leaves_nothing_behind() {
    for (signal, code) in [(Signal::TERM, Some(0)), (Signal::HUP, Some(0)), (Signal::KILL, None)] {
        let dir = TempDir::new().unwrap();
        let mut command = Command::new(program());
        command.arg("demo").env("TMPDIR", dir.path()).stdout(Stdio::piped());
        let mut demo = Process::start("demo", &mut command);
        let shown = Stream::read("shown", demo.stdout(), str::to_owned);
        shown.wait_since(0, "its beginning", |lines| lines.iter().any(|line| line.contains("presence")).then_some(()));
        assert!(works_below(&dir), "the workload runs");
        demo.signal(signal);
        assert_eq!(demo.wait().code(), code, "{signal:?}");
        until(&format!("the workload to end after {signal:?}"), || !works_below(&dir));
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, usize::from(signal == Signal::KILL), "{signal:?}");
    }
}

/// Whether a demo's workload runs that has this directory for its temporary files.
fn works_below(dir: &TempDir) -> bool {
    let tmpdir = format!("TMPDIR={}", dir.path().display());
    let is_it = |process: std::fs::DirEntry| {
        let read = |file: &str| text(&std::fs::read(process.path().join(file)).unwrap_or_default());
        read("cmdline").contains("demo-workload") && read("environ").split('\0').any(|variable| variable == tmpdir)
    };
    std::fs::read_dir("/proc").unwrap().flatten().any(is_it)
}

#[test]
fn how_an_agent_comes_to_its_broker_is_told_to_whoever_asks_for_more() {
    let world = World::new();
    let gateway = world.gateway("gw-verbose");
    let agent = Process::start("gw-verbose", gateway.command("run").arg("-vv"));
    let said =
        |text: &str| agent.log.wait_since(0, text, |lines| lines.iter().any(|line| line.contains(text)).then_some(()));
    said("broker: connecting to");
    said("broker: sent fieldmedic/gw-verbose/presence");
    said("broker: received CONNACK");
}

#[test]
fn every_subcommand_shows_in_its_help_how_it_is_used() {
    let words = |help: &str| -> Vec<String> {
        let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let word =
            |line: &str| line.strip_prefix("  ")?.split(' ').next().filter(|word| !word.is_empty()).map(str::to_owned);
        list.filter_map(word).filter(|word| word != "help").collect()
    };
    let mut looked_at = 0;
    let mut left = vec![Vec::new()];
    while let Some(command) = left.pop() {
        let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = text(&fieldmedic(&args).stdout);
        assert!(help.contains("Example"), "{command:?}: {help}");
        looked_at += 1;
        left.extend(words(&help).into_iter().map(|word| [command.clone(), vec![word]].concat()));
    }
    assert!(looked_at > 10, "{looked_at}");
}

/// A scenario of a quiet day, with the configuration that it names beside it.
fn scenario(dir: &TempDir, scenario: &str, config: &str) -> String {
    let file = dir.path().join("winter.toml");
    std::fs::write(&file, scenario).unwrap();
    std::fs::write(dir.path().join("gateway.toml"), config).unwrap();
    file.display().to_string()
}

const QUIET: &str = "about = \"nothing happens\"\nconfig = \"gateway.toml\"\nlasts = \"4h\"\n";
const GATEWAY: &str = "[mqtt]\nurl = \"mqtt://broker\"\n";

#[test]
fn the_mistakes_of_a_scenario_are_told_each_with_its_file_and_line() {
    let dir = TempDir::new().unwrap();
    let file = scenario(&dir, &format!("{QUIET}wether = \"bad\"\nsnow = 3\n"), GATEWAY);
    let output = fieldmedic(&["simulate", &file]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let errors = text(&output.stderr);
    for line in [4, 5] {
        assert!(errors.contains(&format!("{file}:{line}: ")), "{errors}");
    }
}

#[test]
fn the_mistakes_of_a_simulated_config_are_told_beside_those_of_the_scenario() {
    let dir = TempDir::new().unwrap();
    let file = scenario(&dir, QUIET, "[mqtt]\nurl = \"mqtt://broker\"\nkeep_alife = \"30s\"\n");
    let output = fieldmedic(&["simulate", &file]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let beside = dir.path().join("gateway.toml").display().to_string();
    assert!(text(&output.stderr).contains(&format!("{beside}:3: ")), "{output:?}");

    let file = scenario(&dir, "wether = \"bad\"\n", "");
    let output = fieldmedic(&["simulate", &file, "--config", &beside]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let errors = text(&output.stderr);
    assert!(errors.contains(&format!("{file}:1: ")) && errors.contains(&format!("{beside}:1: ")), "{errors}");
}

#[test]
fn a_seed_gives_the_same_json_again_and_its_replay_is_a_command_that_a_shell_runs() {
    let dir = TempDir::new().unwrap();
    let file = scenario(&dir, QUIET, GATEWAY);
    let output = fieldmedic(&["simulate", &file, "--seed", "7", "--json"]);
    let run: Json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(run["seed"], 7, "{run:#}");
    assert_eq!(run["scenario"], "winter", "{run:#}");
    assert_eq!(fieldmedic(&["simulate", &file, "--seed", "7", "--json"]).stdout, output.stdout);

    let replay = run["replay"].as_str().unwrap();
    let again = Command::new("sh").args(["-c", &format!("{replay} --json")]).output().unwrap();
    assert_eq!(again.stdout, output.stdout, "{replay}: {again:?}");
}

#[test]
fn a_trace_is_json_lines_and_leaves_stdout_to_them() {
    let dir = TempDir::new().unwrap();
    let file = scenario(&dir, QUIET, GATEWAY);
    let trace = dir.path().join("trace.jsonl");
    let output = fieldmedic(&["simulate", &file, "--trace", &trace.display().to_string()]);
    assert!(text(&output.stdout).contains("winter: nothing happens"), "{output:?}");
    let lines = std::fs::read_to_string(&trace).unwrap();
    assert!(!lines.is_empty(), "nothing is in the trace");
    assert!(lines.lines().all(|line| serde_json::from_str::<Json>(line).unwrap()["at_ms"].is_u64()), "{lines}");

    let output = fieldmedic(&["simulate", &file, "--trace", "-"]);
    assert_eq!(text(&output.stdout), lines);
    assert!(text(&output.stderr).contains("winter: nothing happens"), "{output:?}");

    let output = fieldmedic(&["simulate", &file, "--trace", "/nonexistent/trace.jsonl"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn many_seeds_give_percentiles_and_show_no_progress_on_a_stderr_that_is_no_terminal() {
    let dir = TempDir::new().unwrap();
    let file = scenario(&dir, QUIET, GATEWAY);
    let args = ["simulate", &file, "--seeds", "8", "--jobs", "3"];
    let output = fieldmedic(&args);
    let table = text(&output.stdout);
    assert!(table.starts_with("winter: 8 seeds (1 to 8)") && table.contains("median"), "{output:?}");
    let json = fieldmedic(&[&args[..], &["--json"]].concat());
    for output in [&output, &json] {
        // What it warns of, the configuration has deserved.
        assert!(text(&output.stderr).lines().all(|line| line.contains(": warning: ")), "{output:?}");
    }
    let output = json;
    let json: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["seeds"], 8, "{json:#}");
    assert!(json["figures"]["messages"]["p95"].is_number(), "{json:#}");
}
