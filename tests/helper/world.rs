//! Root's side of a gateway: a policy, runbooks, a ledger, and a socket that outlives the helper, as systemd's does.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::common::agent::helper;
use super::common::process::Process;
use super::common::{Operator, SOON, releases};

pub const DEVICE: &str = "gw-1";
/// Does what systemd does: the socket is descriptor 3, and the environment says so to this process id.
const HAND_OVER: &str = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@""#;

pub struct World {
    dir: TempDir,
    listener: OwnedFd,
    pub operator: Operator,
}

impl World {
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let listener = seqpacket();
        bind(&listener, &SocketAddrUnix::new(dir.path().join("act.sock")).unwrap()).unwrap();
        listen(&listener, 128).unwrap();
        let world = Self { dir, listener, operator: Operator::new("ops-1") };
        for name in ["runbooks", "state"] {
            fs::create_dir(world.file(name)).unwrap();
            world.chmod(name, 0o755);
        }
        world.runbook("touch", "echo touched");
        world.runbook("progress", "echo progress 40");
        world.runbook("hang", "echo progress 1; exec sleep 600");
        world.runbook("secret", "");
        world.allow(
            "[allow]\nactions = [\"run\", \"restart_unit\"]\nunits = [\"app.service\"]\n\
             runbooks = [\"touch\", \"progress\", \"hang\"]\n[local]\nactions = [\"run\", \"restart_unit\"]\n\
             [budget]\nrun = \"3/1h\"",
        );
        world
    }

    /// A script that leaves a trace and then does this.
    fn runbook(&self, name: &str, script: &str) {
        let name = format!("runbooks/{name}");
        let acted = self.file("acted");
        fs::write(self.file(&name), format!("#!/bin/sh\necho here >>{}\n{script}\n", acted.display())).unwrap();
        self.chmod(&name, 0o755);
    }

    /// Releases of which the last runs, and of which a rule may leave one within the hour; these units run from them.
    /// Where they lie.
    pub fn releases(&self, names: &[&str], units: &[&str]) -> PathBuf {
        let dir = self.file("app");
        releases(&dir, names);
        self.allow(&format!(
            "[allow]\nactions = [\"rollback\"]\n[local]\nactions = [\"rollback\"]\n[budget]\nrollback = \"1/1h\"\n\
             [rollback.app]\nkind = \"slots\"\ndir = \"{}\"\nunits = {units:?}\n",
            dir.display()
        ));
        dir
    }

    /// Leaves behind what a quarantine saves that was entered, and stops these.
    pub fn in_quarantine(&self, level: &str, stop: &[&str]) {
        let terms = json!({"broker": [], "port": 1883, "hosts": [], "stop": stop});
        let saved = json!({
            "level": level, "wide": false, "terms": terms, "stopped": [], "degraded": null, "bridging": null,
            "loaded": level != "observe", "held": [],
        });
        fs::write(self.state("quarantine.json"), saved.to_string()).unwrap();
    }

    /// Allows this from now on; what was the policy before.
    pub fn allow(&self, allowed: &str) -> String {
        let before = fs::read_to_string(self.file("policy.toml")).unwrap_or_default();
        self.write_policy(&format!(
            "{allowed}\n[device]\nid = \"{DEVICE}\"\ngroups = [\"canary\"]\n[clock]\ntrust = \"always\"\n\
             [commands]\ntrusted_keys = [\"{}\"]\n[runbooks]\nconfined = true\ndir = \"{}\"\n",
            self.operator.public_key().display(),
            self.file("runbooks").display(),
        ));
        before
    }

    pub fn write_policy(&self, text: &str) {
        fs::write(self.file("policy.toml"), text).unwrap();
        self.chmod("policy.toml", 0o600);
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of the helper's own.
    pub fn state(&self, name: &str) -> PathBuf {
        self.file("state").join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.file("act.sock")
    }

    pub fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.file(name), Permissions::from_mode(mode)).unwrap();
    }

    /// Lets every user connect.
    pub fn open_to_all(&self) {
        self.chmod("", 0o755);
        self.chmod("act.sock", 0o666);
    }

    /// Starts the helper; dropping it is a kill -9.
    pub fn start(&self) -> Process {
        self.start_in(&[])
    }

    /// The same, with more in its environment.
    pub fn start_in(&self, environment: &[(&str, &str)]) -> Process {
        self.start_as("", environment)
    }

    /// The same in a name space of its own, in which this directory is one to be read only, as in the unit's sandbox.
    pub fn start_without_write_access_to(&self, dir: &Path) -> Process {
        let dir = dir.display();
        self.start_as(&format!("mount --bind {dir} {dir} && mount -o remount,ro,bind {dir} || exit\n"), &[])
    }

    fn start_as(&self, prepared: &str, environment: &[(&str, &str)]) -> Process {
        let mut command = Command::new(if prepared.is_empty() { "sh" } else { "unshare" });
        if !prepared.is_empty() {
            command.args(["--mount", "sh"]);
        }
        command
            .arg("-c")
            .arg(format!("{prepared}{HAND_OVER}"))
            .arg(helper())
            .arg("--policy")
            .arg(self.file("policy.toml"));
        command.arg("--state").arg(self.file("state")).env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET");
        command.envs(environment.iter().copied());
        command.stdin(Stdio::from(self.listener.try_clone().unwrap())).stdout(Stdio::null());
        Process::start("fieldmedic-act", &mut command)
    }

    /// `fieldmedic-act --check`: its exit code, and what it says.
    pub fn check(&self) -> (Option<i32>, Vec<String>) {
        let output = Command::new(helper()).arg("--check").arg(self.file("policy.toml")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
        (output.status.code(), said)
    }

    pub fn connect(&self) -> UnixStream {
        let socket = seqpacket();
        connect(&socket, &SocketAddrUnix::new(self.socket()).unwrap()).unwrap();
        let stream = UnixStream::from(socket);
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    pub fn send(&self, request: &Json) -> UnixStream {
        let mut stream = self.connect();
        stream.write_all(request.to_string().as_bytes()).unwrap();
        stream
    }

    /// Sends a datagram; the last of the answers.
    pub fn ask_once(&self, datagram: &[u8]) -> Json {
        let mut stream = self.connect();
        // Where it is refused before it is read, it can't be sent.
        let _ = stream.write_all(datagram);
        let mut last = Json::Null;
        let mut buffer = vec![0; 65_536];
        loop {
            match stream.read(&mut buffer) {
                Ok(len @ 1..) => last = serde_json::from_slice(&buffer[..len]).unwrap(),
                // Told once where it was refused before it was read; the answer is still to come.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                _ => return last,
            }
        }
    }

    /// The same; again while it is asked too often.
    pub fn ask(&self, request: &Json) -> Json {
        let deadline = Instant::now() + SOON;
        loop {
            let answer = self.ask_once(request.to_string().as_bytes());
            if !matches!(answer["reason"].as_str(), Some("rate_limited" | "busy")) || Instant::now() > deadline {
                return answer;
            }
        }
    }

    /// What the helper says of itself, once it is up.
    pub fn hello(&self) -> Json {
        let hello = self.ask(&json!({"v": 1, "hello": true}));
        assert!(hello["able"].is_array(), "{hello}");
        hello
    }

    /// Asks for what has to be refused: with this reason, in the answer and in a new line of the log.
    pub fn refused(&self, helper: &Process, request: &Json, reason: &str) -> Json {
        let mark = helper.log.mark();
        let end = self.ask(request);
        assert_eq!((&end["status"], &end["reason"]), (&json!("REJECTED"), &json!(reason)), "{request}: {end}");
        let line = format!("refused: {reason}");
        helper.log.wait_since(mark, &line, |lines| lines.iter().any(|said| said.contains(&line)).then_some(()));
        end
    }

    pub fn wait_for_log(&self, helper: &Process, text: &str) {
        helper.log.wait_since(0, text, |lines| lines.iter().any(|line| line.contains(text)).then_some(()));
    }

    /// How many runbooks have begun.
    pub fn traces(&self) -> usize {
        fs::read_to_string(self.file("acted")).unwrap_or_default().lines().count()
    }

    /// Until so many have.
    pub fn wait_for_trace(&self, count: usize) {
        let deadline = Instant::now() + SOON;
        while self.traces() < count {
            assert!(Instant::now() < deadline, "{} of {count} runbooks have begun", self.traces());
            std::thread::yield_now();
        }
    }
}

fn seqpacket() -> OwnedFd {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// A request as an agent makes it for a command.
pub fn commanded(name: &str, args: &Json, id: &str, token: &str) -> Json {
    let act = json!({"name": name, "args": args});
    json!({"v": 1, "act": act, "timeout_s": 60, "trigger": format!("command:{id}"), "token": token})
}

/// A request as an agent makes it for a rule.
pub fn ordered_by_rule(name: &str, args: &Json) -> Json {
    json!({"v": 1, "act": {"name": name, "args": args}, "timeout_s": 60, "trigger": "rule:hot"})
}
