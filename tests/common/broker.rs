//! A real broker on ports of its own, with a listener for gateways, whose access the test chooses, and an open one for
//! the fleet. Unless a test wants another it is a mosquitto that keeps its sessions and queues over a restart, so that
//! what it took over is its own to deliver.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::Signal;
use tempfile::TempDir;

use super::PREFIX;
use super::pki::{Authority, Key};
use super::process::{Process, Stream, output_of, tool};
use super::software::{Ports, Software};

/// What a message may have with [`Access::OpenToShortMessages`].
pub const SHORT_BYTES: usize = 1_200;

/// The last words of all topics that gateways publish on.
pub const LEAVES: [&str; 5] = ["presence", "attributes", "events", "results", "telemetry"];

/// Who may connect to the listener for gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Everybody, but nothing is retained.
    OpenWithoutRetain,
    /// Everybody, but no message of more than [`SHORT_BYTES`], which it tells nobody.
    OpenToShortMessages,
    /// Everybody, to publish what [`Broker::allow`] says.
    ByAcl,
    /// User `gateway` with the password `right`.
    Password,
    /// TLS with a certificate of the broker's own CA on both sides; the client's name is taken from it.
    MutualTls,
    /// TLS, and user `gateway` with the password `right`.
    TlsPassword,
}

pub struct Broker {
    dir: TempDir,
    software: Software,
    access: Access,
    ports: Ports,
    authority: Option<Authority>,
    process: Option<Process>,
    /// What it needs beside it, for as long as it is there.
    _aid: Option<Process>,
}

impl Broker {
    pub fn start(access: Access) -> Self {
        Self::launch(Software::Mosquitto, access)
    }

    /// A broker of this kind, open to everybody.
    pub fn of(software: Software) -> Self {
        Self::launch(software, Access::Open)
    }

    fn launch(software: Software, access: Access) -> Self {
        let (dir, ports) = (TempDir::new().unwrap(), software.ports());
        let (access_config, authority) = prepare(access, dir.path());
        software.configure(dir.path(), &ports, &access_config);
        let aid = software.start_aid(&ports);
        let mut broker = Self { dir, software, access, ports, authority, process: None, _aid: aid };
        broker.resume();
        broker
    }

    /// Its program.
    pub fn name(&self) -> &'static str {
        self.software.name()
    }

    /// The gateways' URL.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "mqtts" } else { "mqtt" };
        format!("{scheme}://127.0.0.1:{}", self.ports.gateways)
    }

    /// The gateways' port.
    pub fn port(&self) -> u16 {
        self.ports.gateways
    }

    /// The port that is open to everybody.
    pub fn fleet_port(&self) -> u16 {
        self.ports.fleet
    }

    /// A file of its own: `ca.pem`, and for gateways `client.pem` and `client.key`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The CA of its certificate and of those that it takes, where it speaks TLS.
    pub fn authority(&self) -> &Authority {
        self.authority.as_ref().unwrap()
    }

    /// Its log since it was last started.
    pub fn log(&self) -> &Stream<String> {
        &self.process.as_ref().unwrap().log
    }

    /// Whether a watcher that is to see all of it needs no session with it, and quiet while it ends.
    pub fn loses_over_its_end(&self) -> bool {
        self.software.loses_over_its_end()
    }

    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Takes it away; one that keeps its sessions has them written down.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.signal(self.software.stop_signal());
            let status = process.wait();
            assert!(status.success(), "{}: {status}", self.name());
        }
    }

    /// Brings it back on the same ports.
    pub fn resume(&mut self) {
        self.process = Some(self.software.start(self.dir.path(), &self.ports));
    }

    /// From now on gateways may publish on these topics of theirs, with [`Access::ByAcl`].
    pub fn allow(&self, leaves: &[&str]) {
        std::fs::write(self.file("acl"), acl(leaves)).unwrap();
        self.process.as_ref().unwrap().signal(Signal::HUP);
    }

    /// Publishes at QoS 1, and returns when the broker has it.
    pub fn publish(&self, topic: &str, payload: &[u8]) {
        let file = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        std::fs::write(file.path(), payload).unwrap();
        let port = self.ports.fleet.to_string();
        let mut command = tool("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-f"]).arg(file.path());
        output_of(&mut command);
    }

    /// Publishes each line as a message of its own, over one connection.
    pub fn publish_lines(&self, topic: &str, lines: &str) {
        let file = self.file("lines");
        std::fs::write(&file, lines).unwrap();
        let port = self.ports.fleet.to_string();
        let mut command = tool("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-l"]);
        output_of(command.stdin(std::fs::File::open(&file).unwrap()));
    }

    /// How often a client with this id was let in since the broker was last started.
    pub fn accepted(&self, client: &str) -> usize {
        accepted_in(&self.log().so_far(), client)
    }
}

/// Makes what this access needs; the lines about it in mosquitto's configuration, and who signed its certificates.
fn prepare(access: Access, dir: &Path) -> (String, Option<Authority>) {
    let tls = matches!(access, Access::MutualTls | Access::TlsPassword);
    let authority = tls.then(|| make_certificates("CA of the broker", dir));
    if matches!(access, Access::Password | Access::TlsPassword) {
        let mut command = tool("mosquitto_passwd");
        output_of(command.args(["-b", "-c"]).arg(dir.join("passwords")).args(["gateway", "right"]));
    }
    let path = dir.display();
    let password = format!("allow_anonymous false\npassword_file {path}/passwords");
    let tls = format!("cafile {path}/ca.pem\ncertfile {path}/server.pem\nkeyfile {path}/server.key");
    let config = match access {
        Access::Open => "allow_anonymous true".to_owned(),
        Access::OpenWithoutRetain => "allow_anonymous true\nretain_available false".to_owned(),
        Access::OpenToShortMessages => format!("allow_anonymous true\nmessage_size_limit {SHORT_BYTES}"),
        Access::ByAcl => {
            std::fs::write(dir.join("acl"), acl(&LEAVES)).unwrap();
            format!("allow_anonymous true\nacl_file {path}/acl")
        }
        Access::Password => password,
        Access::MutualTls => format!("require_certificate true\nuse_identity_as_username true\n{tls}"),
        Access::TlsPassword => format!("{password}\n{tls}"),
    };
    (config, authority)
}

fn acl(leaves: &[&str]) -> String {
    let writes: String = leaves.iter().map(|leaf| format!("topic write {PREFIX}/+/{leaf}\n")).collect();
    format!("{writes}topic read #\n")
}

/// How often a client with this id was let in, by mosquitto's log.
pub fn accepted_in(log: &[String], client: &str) -> usize {
    let needle = format!(" as {client} (");
    log.iter().filter(|line| line.contains("New client connected") && line.contains(&needle)).count()
}

/// Below the range from which the kernel takes ports for outgoing connections: a client that keeps trying a port of
/// that range, while nobody listens, ends up connected to itself.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const PORTS: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries that run side by side begin at different places.
    let start = u16::try_from(std::process::id() * 97 % u32::from(PORTS)).unwrap();
    (0..PORTS)
        .map(|_| FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS) % PORTS)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port on 127.0.0.1")
}

/// A CA of this name, and certificates by it for a broker on 127.0.0.1 and for a client.
pub fn make_certificates(ca_name: &str, dir: &Path) -> Authority {
    let authority = Authority::new(ca_name);
    std::fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
    authority.issue(dir, "server", &["127.0.0.1", "localhost"], Key::Ec);
    authority.issue(dir, "client", &["gateway"], Key::Ec);
    authority
}
