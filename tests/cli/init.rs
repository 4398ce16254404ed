//! `fieldmedic init` against a real mosquitto: what it makes runs, and what keeps the broker out of reach is said.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use tempfile::TempDir;

use super::{fieldmedic, text};
use crate::common::agent::{helper, program};
use crate::common::broker::free_port;
use crate::common::process::Process;
use crate::common::{Access, Authority, Broker, Fleet, Key, SOON, World};

struct Made(TempDir);

impl Made {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("made")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// With stdin closed, as in a script.
    fn init(&self, flags: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.args(["init", "--out"]).arg(self.dir()).args(flags);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// What it says of the broker, after it has failed and has written its files all the same.
    fn keeps_out(&self, flags: &[&str]) -> String {
        let output = self.init(flags);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(self.file("agent.toml").exists(), "{output:?}");
        text(&output.stderr)
    }

    fn password(&self, password: &str) -> String {
        let file = self.0.path().join("password");
        fs::write(&file, password).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        file.display().to_string()
    }
}

fn assert_says(told: &str, words: &[&str]) {
    for word in words {
        assert!(told.contains(word), "{word:?} is not in:\n{told}");
    }
}

#[test]
fn what_it_makes_is_checked_runs_as_it_is_and_obeys_the_key_that_it_made() {
    let world = World::new();
    let made = Made::new();
    let url = world.broker.url();
    let flags = ["--yes", "--bench", "--url", &url, "--id", "gw-made", "--new-key", "ops-7", "--group", "canary"];
    let output = made.init(&flags);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_says(&text(&output.stderr), &["takes this gateway", "MQTT 5"]);
    let config = made.file("agent.toml").display().to_string();
    assert_eq!(fieldmedic(&["check", "--config", &config]).status.code(), Some(0));

    let mut daemon = Command::new(program());
    daemon.args(["run", "--config", &config]).stdin(Stdio::null()).stdout(Stdio::null());
    daemon.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET");
    let _agent = Process::start("gw-made", &mut daemon);
    world.fleet.presence(0, "gw-made", true);
    let key = made.file("ops-7.key").display().to_string();
    let pong = fieldmedic(&["send", "--url", &url, "--key", &key, "--to", "gw-made", "--wait", "20s", "ping"]);
    assert_eq!(pong.status.code(), Some(0), "{pong:?}");

    // It has a name of its own, and no session: the agent that runs is not thrown out.
    let mark = world.fleet.mark();
    let again = made.init(&flags);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    let pong = fieldmedic(&["send", "--url", &url, "--key", &key, "--to", "gw-made", "--wait", "20s", "ping"]);
    assert_eq!(pong.status.code(), Some(0), "{pong:?}");
    assert_eq!(world.broker.accepted("gw-made"), 1, "{:#?}", world.broker.log().so_far());
    assert!(world.fleet.so_far()[mark..].iter().all(|message| message.leaf() != "presence"), "nothing was published");
}

#[test]
fn the_policy_that_it_makes_is_right_for_the_root_helper() {
    let made = Made::new();
    let flags = ["--url", "mqtt://b:1900", "--unit", "app.service", "--new-key", "ops-1", "--no-check"];
    let output = made.init(&flags);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let judged = Command::new(helper()).arg("--check").arg(made.file("policy.toml")).output().unwrap();
    assert_eq!(judged.status.code(), Some(0), "{judged:?}");
    assert!(text(&judged.stdout).contains("allows restart_unit"), "{judged:?}");
}

#[test]
fn tls_and_a_password_are_tried_as_the_agent_would_and_each_mistake_is_told_with_what_to_do() {
    let broker = Broker::start(Access::TlsPassword);
    let _fleet = Fleet::watch(&broker);
    let url = broker.url();
    let ca = broker.file("ca.pem").display().to_string();
    let of = |made: &Made, password: &str| made.password(password);

    let made = Made::new();
    let password = of(&made, "right\n");
    let right = made.init(&["--url", &url, "--ca", &ca, "--username", "gateway", "--password-file", &password]);
    assert_eq!(right.status.code(), Some(0), "{right:?}");

    let made = Made::new();
    let password = of(&made, "wrong\n");
    let told = made.keeps_out(&["--url", &url, "--ca", &ca, "--username", "gateway", "--password-file", &password]);
    assert_says(&told, &["out of reach (refused)", "user"]);

    let made = Made::new();
    let told = made.keeps_out(&["--url", &url, "--ca", &ca]);
    assert_says(&told, &["out of reach (refused)", "no mqtt.username is set"]);

    let made = Made::new();
    let other = made.0.path().join("other.pem");
    fs::write(&other, Authority::new("somebody else's CA").pem()).unwrap();
    let told = made.keeps_out(&["--url", &url, "--ca", &other.display().to_string()]);
    assert_says(&told, &["out of reach (tls)", "CN=somebody else's CA", "CN=CA of the broker", "mqtt.tls.ca_file"]);

    let made = Made::new();
    let told = made.keeps_out(&["--url", &url.replace("mqtts", "mqtt")]);
    assert_says(&told, &["mqtts://"]);

    let made = Made::new();
    let told = made.keeps_out(&["--url", &url, "--ca", "/nonexistent/ca.pem"]);
    assert_says(&told, &["/nonexistent/ca.pem", "was not tried"]);
}

#[test]
fn a_key_that_systemd_hands_over_at_the_start_is_no_failure_of_what_comes_before_it() {
    let broker = Broker::start(Access::MutualTls);
    let url = broker.url();
    let [ca, cert] = ["ca.pem", "client.pem"].map(|name| broker.file(name).display().to_string());
    let flags = |key| ["--url", &url, "--ca", &ca, "--cert", &cert, "--key", key].map(str::to_owned);
    let made = Made::new();
    let handed_over = flags("/run/credentials/no-such.service/tls.key");
    let output = made.init(&handed_over.each_ref().map(String::as_str));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_says(&err, &["note: mqtt.tls.key_file: ", "systemd hands it over", "was not tried, and nothing is wrong"]);
    assert!(!err.contains("warning: mqtt") && !out.contains("mend"), "{out}{err}");
    assert_says(&out, &["fieldmedic status"]);
    assert_says(&fs::read_to_string(made.file("agent.toml")).unwrap(), &[&handed_over[7]]);

    // What nobody hands over is a failure.
    let made = Made::new();
    let told = made.keeps_out(&flags("/nonexistent/tls.key").each_ref().map(String::as_str));
    assert_says(&told, &["warning: mqtt.tls.key_file: ", "was not tried: a file that it takes can't be used"]);
}

#[test]
fn whoever_sends_a_first_command_is_not_told_to_connect_as_the_gateway_and_a_certificate_of_another_id_is_told() {
    let made = Made::new();
    let authority = Authority::new("CA");
    authority.issue(made.0.path(), "client", &["gateway"], Key::Ec);
    let [cert, key] = ["client.pem", "client.key"].map(|name| made.0.path().join(name).display().to_string());
    let flags = ["--url", "mqtts://b", "--cert", &cert, "--key", &key, "--new-key", "ops-1", "--no-check", "--force"];
    for (id, is_told) in [(&["--id", "gateway"][..], false), (&["--id", "gw-7"], true), (&[], false)] {
        let output = made.init(&[&flags[..], id].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_says(
            &out,
            &["an account of your own", "send --url mqtts://b:8883 --username YOU --password-file FILE --key"],
        );
        assert!(!out.contains(&cert) && !out.contains(&key), "{out}");
        assert_eq!(err.contains("is that of CN=gateway, and this gateway's id is gw-7"), is_told, "{id:?}: {err}");
    }
}

#[test]
fn a_broker_that_is_not_there_is_told_apart_from_a_name_that_is_not_there() {
    let port = free_port();
    let told = Made::new().keeps_out(&["--url", &format!("mqtt://127.0.0.1:{port}")]);
    assert_says(&told, &["out of reach (tcp)", "is the broker running"]);
    let told = Made::new().keeps_out(&["--url", "mqtt://no-such-host.invalid"]);
    assert_says(&told, &["out of reach (dns)", "no-such-host.invalid", "DNS"]);
}

#[test]
fn files_that_are_there_stay_unless_they_are_to_be_replaced() {
    let made = Made::new();
    fs::create_dir(made.dir()).unwrap();
    fs::write(made.file("agent.toml"), "# mine\n").unwrap();
    let flags = ["--url", "mqtt://b", "--new-key", "ops-1", "--no-check"];
    let refused = made.init(&flags);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_says(&text(&refused.stderr), &["agent.toml", "--force"]);
    assert_eq!(fs::read_to_string(made.file("agent.toml")).unwrap(), "# mine\n");
    assert_eq!(fs::read_dir(made.dir()).unwrap().count(), 1, "nothing else was written");

    let forced = made.init(&[&flags[..], &["--force"]].concat());
    assert_eq!(forced.status.code(), Some(0), "{forced:?}");
    assert!(fs::read_to_string(made.file("agent.toml")).unwrap().contains("mqtt://b:1883"));
}

#[test]
fn bad_flags_and_a_missing_url_exit_with_two_and_write_nothing() {
    let made = Made::new();
    for flags in
        [&["--no-check"][..], &["--url", "http://b"], &["--url", "mqtt://b", "--unit", "app"], &["--cert", "c.pem"]]
    {
        let output = made.init(flags);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {output:?}");
        assert!(text(&output.stderr).contains("--"), "{output:?}");
    }
    assert!(!made.dir().exists());
}

/// A terminal with somebody at it, and a program that runs there.
struct Terminal {
    keyboard: File,
    /// What it shows, as it comes.
    screen: Receiver<Vec<u8>>,
    seen: String,
    program: Child,
}

impl Terminal {
    fn run(command: &mut Command) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let stdio = || Stdio::from(theirs.try_clone().unwrap());
        let program = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        // It keeps copies of the terminal's other end, by which the screen would never go dark.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let keyboard = File::from(ours);
        let (mut shown, (send, screen)) = (keyboard.try_clone().unwrap(), sync_channel(1_024));
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            // Ends with an error when nobody is at the other end any more.
            while let Ok(len @ 1..) = shown.read(&mut buffer) {
                if send.send(buffer[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { keyboard, screen, seen: String::new(), program }
    }

    /// Waits until it shows this, and types the answer.
    fn answer(&mut self, question: &str, answer: &str) {
        self.wait_for(question);
        writeln!(self.keyboard, "{answer}").unwrap();
    }

    fn wait_for(&mut self, question: &str) {
        let from = self.seen.len();
        while !self.seen[from..].contains(question) {
            let shown = self.screen.recv_timeout(SOON);
            let shown = shown.unwrap_or_else(|error| panic!("{error}: waited for {question:?} after:\n{}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&shown));
        }
    }

    /// Waits until the program has ended; everything that was shown.
    fn end(mut self) -> (ExitStatus, String) {
        while let Ok(shown) = self.screen.recv_timeout(SOON) {
            self.seen.push_str(&String::from_utf8_lossy(&shown));
        }
        (self.program.wait().unwrap(), self.seen)
    }
}

#[test]
fn a_strict_umask_keeps_the_agents_user_from_nothing_that_it_has_to_read() {
    let made = Made::new();
    fs::set_permissions(made.0.path(), Permissions::from_mode(0o755)).unwrap();
    let strictly = |flags: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(program()).args(flags).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let mode = |name: &str| fs::metadata(made.file(name)).unwrap().permissions().mode() & 0o777;
    let out = made.file("etc").display().to_string();
    strictly(&["init", "--no-check", "--url", "mqtt://b", "--new-key", "ops-1", "--out", &out]);
    strictly(&["keygen", "--kid", "ops-2", "--out", &out]);
    let seen = ["", "etc", "etc/agent.toml", "etc/ops-1.pub", "etc/ops-2.pub", "etc/ops-2.key"].map(mode);
    assert_eq!(seen, [0o755, 0o755, 0o644, 0o644, 0o644, 0o600]);
    let bench = made.file("bench").display().to_string();
    strictly(&["init", "--bench", "--no-check", "--url", "mqtt://b", "--out", &bench]);
    assert_eq!(mode("bench"), 0o700, "there it runs as whoever has made it");
}

#[test]
fn ctrl_c_at_the_password_leaves_the_terminal_with_its_echo() {
    for key in [b"\x03", b"\x1c"] {
        let made = Made::new();
        let mut command = Command::new(program());
        command.args(["init", "--no-check", "--url", "mqtt://b", "--id", "gw", "--username", "gw", "--out"]);
        let mut terminal = Terminal::run(command.arg(made.dir()));
        terminal.wait_for("Its password (not shown)");
        let keyboard = terminal.keyboard.try_clone().unwrap();
        let echoes = || tcgetattr(&keyboard).unwrap().local_modes.contains(LocalModes::ECHO | LocalModes::ISIG);
        assert!(!echoes());
        (&keyboard).write_all(b"hush").and_then(|()| (&keyboard).write_all(key)).unwrap();
        let (status, screen) = terminal.end();
        assert_eq!(status.code(), Some(1), "{screen}");
        assert!(echoes() && screen.contains("canceled") && !screen.contains("hush"), "{screen}");
        assert!(!made.dir().exists());
    }
}

#[test]
fn on_a_terminal_it_asks_and_does_not_show_the_password() {
    let made = Made::new();
    let mut command = Command::new(program());
    command.args(["init", "--no-check", "--out"]).arg(made.dir());
    let mut terminal = Terminal::run(&mut command);
    for (question, answer) in [
        ("Broker (mqtt:// or mqtts://): ", "http://b"),
        ("Broker (mqtt:// or mqtts://): ", "mqtt://b"),
        ("This gateway's id", "gw-asked"),
        ("User name at the broker; empty: none: ", "gateway"),
        ("Its password (not shown); empty: none: ", "hush-hush"),
        ("Groups, by which", ""),
        ("Units that may be restarted", "app.service"),
        ("Who may command it", "new"),
    ] {
        terminal.answer(question, answer);
    }
    let (status, screen) = terminal.end();
    assert!(status.success(), "{screen}");
    assert_says(&screen, &["found \"http://b\"", "ops-1.key", "systemctl enable"]);
    assert!(!screen.contains("hush-hush"), "{screen}");
    let config = fs::read_to_string(made.file("agent.toml")).unwrap();
    assert_says(&config, &["gw-asked", "mqtt.password", "app.service", "ops-1:"]);
    let password = made.file("secrets/mqtt.password");
    assert_eq!(fs::read_to_string(&password).unwrap(), "hush-hush\n");
    assert_eq!(fs::metadata(&password).unwrap().permissions().mode() & 0o007, 0);
}
