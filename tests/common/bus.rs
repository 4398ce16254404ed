//! A system bus of the test's own, by dbus-daemon.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use tempfile::TempDir;

use super::process::{Process, tool};

/// Everybody may do everything: it is nobody's bus but ours.
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=DIR/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>"#;

pub struct Bus {
    address: String,
    _daemon: Process,
    _dir: TempDir,
}

impl Bus {
    pub fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let config = dir.path().join("bus.conf");
        std::fs::write(&config, CONFIG.replace("DIR", &dir.path().display().to_string())).unwrap();
        let mut daemon = tool("dbus-daemon");
        daemon.args(["--nofork", "--nopidfile", "--print-address", "--config-file"]).arg(config);
        let mut daemon = Process::start("dbus-daemon", daemon.stdout(Stdio::piped()));
        // It is said when it listens.
        let mut address = String::new();
        BufReader::new(daemon.stdout()).read_line(&mut address).unwrap();
        Self { address: address.trim().to_owned(), _daemon: daemon, _dir: dir }
    }

    /// For `DBUS_SYSTEM_BUS_ADDRESS`.
    pub fn address(&self) -> &str {
        &self.address
    }
}
