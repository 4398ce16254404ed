//! A machine with a real systemd: Debian's, booted by systemd-nspawn in a network namespace of the test's own, in about
//! a second. A reboot is a boot with another boot id; a crash is PID 1 killed. What it can't show is what a container's
//! kernel doesn't do: enforce memory limits, lose the page cache.

use std::fs::{self, OpenOptions};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::Namespace;
use crate::common::relay::{plainly, relay};

/// How long a boot may take; it takes one second.
const BOOT_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// nspawn's exit code where the machine wants to be booted again.
const WANTS_REBOOT: i32 = 133;
const PACKAGES: &str = "systemd,systemd-sysv,dbus,libnss-systemd,nftables,iproute2,procps";
/// What a minimal machine has no use for.
const MASKED: [&str; 5] =
    ["apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "console-getty.service"];
/// Ours, and the machine's, on a bridge between them.
pub(crate) const HERE: &str = "10.77.0.1";
pub(crate) const THERE: &str = "10.77.0.2";

/// A network of its own that this thread, and all that it starts, is in.
pub(crate) struct Network {
    _namespace: Namespace,
}

impl Network {
    /// `None`, loudly, where there can be none.
    pub(crate) fn enter() -> Option<Self> {
        let namespace = Namespace::new("a machine with systemd")?;
        for line in [
            "link set dev lo up",
            "link add lab0 type bridge",
            &format!("address add {HERE}/24 dev lab0"),
            "link set dev lab0 up",
        ] {
            namespace.ip(line);
        }
        namespace.enter();
        Some(Self { _namespace: namespace })
    }

    /// Lets the machine reach what listens on loopback here.
    pub(crate) fn forward(&self, port: u16) {
        relay(TcpListener::bind((HERE, port)).unwrap(), port, plainly);
    }

    /// Whether the machine takes a connection at that port.
    pub(crate) fn reaches(&self, port: u16) -> bool {
        let address: SocketAddr = format!("{THERE}:{port}").parse().unwrap();
        TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
    }
}

/// A machine; ended when it is dropped.
pub(crate) struct Machine {
    name: String,
    dir: TempDir,
    shared: Arc<Shared>,
    boots: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    boots: AtomicU32,
    /// PID 1 of the present boot, as it is called from here.
    leader: Mutex<Option<u32>>,
    /// Boot again, however it ended.
    again: AtomicBool,
    over: AtomicBool,
    /// What it cost to find out that it can't boot.
    ended: Mutex<Option<String>>,
}

impl Machine {
    /// Makes the disk that all machines begin with. Before this thread enters a [`Network`]: what is on it is
    /// downloaded, and from in there nothing can be. `None`, loudly, where there can be no machine: this isn't root's,
    /// or tools are missing.
    pub(crate) fn prepare() -> Option<()> {
        let missing = ["systemd-nspawn", "mmdebstrap", "ip", "tar"].into_iter().find(|tool| !is_there(tool));
        if let Some(reason) = missing.or((!rustix::process::geteuid().is_root()).then_some("root")) {
            eprintln!("SKIPPED: a machine with systemd takes {reason}");
            return None;
        }
        if let Err(why) = disk() {
            eprintln!("SKIPPED: no disk for a machine with systemd: {why}");
            return None;
        }
        Some(())
    }

    /// A machine that is not booted yet; its disk is there to be written to. `None`, loudly, where a machine with
    /// nothing of ours in it doesn't boot either.
    pub(crate) fn new() -> Option<Self> {
        static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
        let tried = TRIED.get_or_init(|| {
            let mut bare = Self::unpack();
            bare.start(&[]);
            bare.booted(0)
        });
        if let Err(why) = tried {
            eprintln!("SKIPPED: no machine with systemd boots here: {why}");
            return None;
        }
        Some(Self::unpack())
    }

    fn unpack() -> Self {
        static MACHINES: AtomicU32 = AtomicU32::new(0);
        let dir = TempDir::new().unwrap();
        let name = format!("fmlab-{}-{}", std::process::id(), MACHINES.fetch_add(1, Ordering::Relaxed));
        let machine = Self { name, dir, shared: Arc::default(), boots: None };
        fs::create_dir(machine.root()).unwrap();
        let unpack =
            Command::new("tar").arg("-xf").arg(disk().unwrap()).arg("-C").arg(machine.root()).output().unwrap();
        assert!(unpack.status.success(), "{}", String::from_utf8_lossy(&unpack.stderr));
        machine
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A file of the machine.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.file(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Has a unit started at boot.
    pub(crate) fn enable(&self, unit: &str, target: &str) {
        let wants = self.file(&format!("/etc/systemd/system/{target}.wants"));
        fs::create_dir_all(&wants).unwrap();
        symlink(format!("/etc/systemd/system/{unit}"), wants.join(unit)).unwrap();
    }

    /// Boots it, and again whenever it wants to reboot, with these programs of ours in it.
    pub(crate) fn boot(&mut self, binaries: &[(&str, &str)]) {
        self.start(binaries);
        self.wait_for_boot(0);
    }

    fn start(&mut self, binaries: &[(&str, &str)]) {
        let mut args: Vec<String> = ["--quiet", "--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off"]
            .into_iter()
            .chain(["--link-journal=no", "--console=pipe", "--network-bridge=lab0"])
            .map(str::to_owned)
            .collect();
        args.push(format!("--machine={}", self.name));
        args.push(format!("--directory={}", self.root().display()));
        args.extend(binaries.iter().map(|(ours, theirs)| format!("--bind-ro={ours}:{theirs}")));
        args.push("--boot".into());
        let (shared, name) = (Arc::clone(&self.shared), self.name.clone());
        let console = self.dir.path().join("console");
        // A thread is in the namespaces of the one that starts it.
        self.boots = Some(thread::spawn(move || {
            while !shared.over.load(Ordering::SeqCst) {
                let code = boot_once(&args, &name, &console, &shared);
                let again = shared.again.swap(false, Ordering::SeqCst) || code == Some(WANTS_REBOOT);
                if !again {
                    *shared.ended.lock().unwrap() = Some(format!("nspawn ended with {code:?}"));
                    return;
                }
            }
        }));
    }

    /// Waits until it has booted more often than that, and is up.
    pub(crate) fn wait_for_boot(&self, before: u32) {
        self.booted(before).unwrap();
    }

    fn booted(&self, before: u32) -> Result<(), String> {
        let until = Instant::now() + BOOT_MAX;
        loop {
            let ended = self.shared.ended.lock().unwrap().clone();
            if let Some(ended) = ended {
                return Err(format!("{ended}: {}", self.console()));
            }
            if self.boots() > before && self.leader().is_some() {
                let state = self.run(&["systemctl", "is-system-running"]);
                if matches!(String::from_utf8_lossy(&state.stdout).trim(), "running" | "degraded") {
                    return Ok(());
                }
            }
            if Instant::now() >= until {
                return Err(format!("it did not boot: {}", self.console()));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// How often it was booted.
    pub(crate) fn boots(&self) -> u32 {
        self.shared.boots.load(Ordering::SeqCst)
    }

    /// Ends it as a power cut does, and boots it again.
    pub(crate) fn crash(&self) {
        let before = self.boots();
        self.shared.again.store(true, Ordering::SeqCst);
        match self.leader() {
            Some(leader) => {
                kill(leader);
                self.wait_for_boot(before);
            }
            // Between two boots there is nothing to end, and the one that comes may be counted already.
            None => self.wait_for_boot(before.saturating_sub(1)),
        }
    }

    /// Runs a program in it.
    pub(crate) fn run(&self, argv: &[&str]) -> Output {
        let leader = self.leader().unwrap_or(0).to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &leader, "-m", "-u", "-i", "-n", "-p", "-C", "--"]).args(argv).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// A thread, by its name, of a process in the machine; as it is called from here.
    pub(crate) fn thread(&self, pid: &str, name: &str) -> String {
        let namespace = |pid: &Path| fs::read_link(pid.join("ns/pid")).ok();
        let ours = namespace(&Path::new("/proc").join(self.leader().unwrap().to_string()));
        let inside = |process: &PathBuf| {
            let status = fs::read_to_string(process.join("status")).unwrap_or_default();
            let called = status.lines().find(|line| line.starts_with("NSpid:")).unwrap_or_default();
            called.ends_with(&format!("\t{pid}")) && namespace(process) == ours
        };
        let mut processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let process = processes.find(inside).unwrap_or_else(|| panic!("no process {pid} in {}", self.name));
        let mut threads = fs::read_dir(process.join("task")).unwrap().map(|entry| entry.unwrap().path());
        let thread = threads.find(|thread| fs::read_to_string(thread.join("comm")).unwrap().trim() == name);
        thread.unwrap().file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// Runs a program in it; what it says, and it has to succeed.
    pub(crate) fn say(&self, argv: &[&str]) -> String {
        let output = self.run(argv);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {said}", argv.join(" "));
        said.trim().to_owned()
    }

    /// A property of a unit.
    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        self.say(&["systemctl", "show", "--value", "--property", property, unit])
    }

    /// What a unit has logged.
    pub(crate) fn journal(&self, unit: &str) -> String {
        self.say(&["journalctl", "--no-pager", "--output=cat", "--unit", unit])
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
    }

    fn leader(&self) -> Option<u32> {
        *self.shared.leader.lock().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            let units = [
                "fieldmedic.service",
                "fieldmedic-act.service",
                "fieldmedic-quarantine.service",
                "fieldmedic-rescue.*",
            ];
            for unit in units.into_iter().filter(|_| self.leader().is_some()) {
                let log = self.run(&["journalctl", "--no-pager", "--output=short-monotonic", "--unit", unit]);
                eprintln!("== {unit}\n{}", String::from_utf8_lossy(&log.stdout));
            }
        }
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(leader) = self.leader() {
            kill(leader);
        }
        if let Some(boots) = self.boots.take() {
            let _ = boots.join();
        }
        for group in groups(&self.name) {
            remove_group(&group);
        }
    }
}

fn kill(pid: u32) {
    if let Some(pid) = Pid::from_raw(i32::try_from(pid).unwrap()) {
        // Gone already is as good.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// One boot, to its end; its exit code.
fn boot_once(args: &[String], name: &str, console: &Path, shared: &Shared) -> Option<i32> {
    let log = OpenOptions::new().create(true).append(true).open(console).unwrap();
    // In control groups of its own: --keep-unit has nspawn stay below the one that it is started in.
    let mut script = String::new();
    for group in groups(name) {
        fs::create_dir_all(&group).unwrap();
        script += &format!("echo $$ > {}/cgroup.procs; ", group.display());
    }
    let mut child = Command::new("sh")
        .args(["-c", &format!("{script}exec systemd-nspawn \"$@\""), "nspawn"])
        .args(args)
        .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    shared.boots.fetch_add(1, Ordering::SeqCst);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let mut leader = shared.leader.lock().unwrap();
        if leader.is_none() {
            *leader = leader_of(child.id());
        }
        drop(leader);
        thread::sleep(LOOK_EVERY);
    };
    *shared.leader.lock().unwrap() = None;
    status.code()
}

/// The child of nspawn that is PID 1 inside.
fn leader_of(nspawn: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
    children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()).find(|pid| {
        let read = |leaf: &str| fs::read_to_string(format!("/proc/{pid}/{leaf}")).unwrap_or_default();
        let inside = read("status").lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"));
        inside && read("comm").trim() == "systemd"
    })
}

fn groups(name: &str) -> Vec<PathBuf> {
    let roots = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let usable = roots.iter().map(Path::new).filter(|root| root.join("cgroup.procs").exists());
    usable.map(|root| root.join(name)).collect()
}

fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    // One that is still in use is left to the next reboot.
    let _ = fs::remove_dir(group);
}

fn is_there(tool: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|dir| Path::new(dir).join(tool).exists())
}

/// A packed disk with a minimal Debian of this machine's release, so that what was built here runs there. Made once.
fn disk() -> Result<PathBuf, String> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MADE.get_or_init(make_disk).clone()
}

fn make_disk() -> Result<PathBuf, String> {
    let packed = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lab.tar");
    if packed.exists() {
        return Ok(packed);
    }
    let release = fs::read_to_string("/etc/os-release").unwrap();
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("stable").to_owned();
    let masks = MASKED.map(|unit| format!("ln -sf /dev/null \"$1/etc/systemd/system/{unit}\""));
    let new = packed.with_extension("new.tar");
    let output = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--aptopt=APT::Install-Recommends \"false\""])
        .args(["doc", "man", "locale"].map(|dir| format!("--dpkgopt=path-exclude=/usr/share/{dir}/*")))
        .arg(format!("--include={PACKAGES}"))
        .arg(format!("--customize-hook={}", masks.join("; ")))
        .arg("--customize-hook=ln -sf /lib/systemd/system/multi-user.target \"$1/etc/systemd/system/default.target\"")
        .arg("--customize-hook=echo lab > \"$1/etc/hostname\"; : > \"$1/etc/machine-id\"; rm -f \"$1/etc/resolv.conf\"")
        .arg(suite)
        .arg(&new)
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(format!("mmdebstrap: {}", String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(&new, &packed).unwrap();
    Ok(packed)
}
