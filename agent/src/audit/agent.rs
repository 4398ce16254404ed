//! The agent itself: what it was told to let pass, and whether it is what its files say.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{BROKER_REFUSES, Running, finding};
use crate::act::client;
use crate::config::CheckedConfig;
use crate::engine::GRANTED_LESS;
use crate::engine::observation::{Finding, Severity};

/// Root's helper, as the package installs it.
const PROGRAM: &str = "/usr/libexec/fieldmedic-act";

pub(super) fn judge(config: &CheckedConfig, refused: &[String], found: &mut Vec<Finding>) {
    if !config.commands.require_signature {
        let what = "commands without a signature are obeyed, but for what root's helper does: whoever may publish to \
                    this gateway's topics commands it";
        let advice = "set commands.require_signature = true, and give it trusted_keys (fieldmedic keygen)";
        found.push(finding(Severity::Warning, "unsigned_commands", "commands", what.to_owned(), advice));
    }
    let url = &config.mqtt.url;
    if !refused.is_empty() {
        let what = format!("the broker {url} takes the connection, but {}", refused.join("; "));
        let (severity, advice) = if refused.iter().all(|fault| fault.starts_with(GRANTED_LESS)) {
            (Severity::Warning, "let the broker grant QoS 1 there; until then a command may have to be sent again")
        } else {
            let advice = "put it right at the broker; what it refuses for good is lost (dropped in fieldmedic status)";
            (Severity::Error, advice)
        };
        found.push(finding(severity, BROKER_REFUSES, url.to_string(), what, advice));
    }
    if !url.tls && !is_here(&url.host) {
        let what = format!("telemetry, commands and passwords go to {} in the clear", url.host);
        found.push(finding(Severity::Warning, "plain_mqtt", url.host.as_str(), what, "set mqtt.url to mqtts://"));
    }
}

/// When a file was written; nothing where it can't be seen.
pub(super) fn written(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

pub(super) fn look(files: &[PathBuf], running: &Running, found: &mut Vec<Finding>) {
    for (file, read) in files.iter().zip(&running.written) {
        if written(file) != *read {
            let what = format!("{} was changed after the agent had read it", file.display());
            let advice = "fieldmedic check it, then systemctl reload fieldmedic";
            found.push(finding(Severity::Notice, "config_not_in_force", file.display().to_string(), what, advice));
        }
    }
    if running.is_root {
        let what = "the agent runs as root: whoever gets into it has the gateway".to_owned();
        let advice = "run it as the user fieldmedic, with fieldmedic-act.socket for what needs root";
        found.push(finding(Severity::Notice, "runs_as_root", "agent", what, advice));
    }
    if !running.is_watched {
        let what = "nobody restarts the agent if it hangs".to_owned();
        let advice = "set WatchdogSec= in its unit, as the unit does that is shipped";
        found.push(finding(Severity::Notice, "watchdog_off", "agent", what, advice));
    }
}

/// What there is of root's helper.
#[derive(Debug, Clone, Copy)]
pub(super) struct Helper {
    pub(super) is_installed: bool,
    pub(super) listens: bool,
}

impl Helper {
    pub(super) fn find() -> Self {
        let there = |path: &str| Path::new(path).exists();
        Self { is_installed: there(PROGRAM), listens: there(client::DEFAULT_SOCKET) }
    }
}

/// Whether it is to do anything but collect.
pub(super) fn acts(config: &CheckedConfig) -> bool {
    !config.remediation.allow.is_empty() && !config.remediation.dry_run
}

/// An agent without privileges restarts nothing by itself.
pub(super) fn look_for_helper(config: &CheckedConfig, helper: Helper, is_needed: bool, found: &mut Vec<Finding>) {
    if acts(config) && !helper.listens && (is_needed || helper.is_installed) {
        let what =
            format!("nothing that takes root can be done: root's helper doesn't listen on {}", client::DEFAULT_SOCKET);
        let advice = "systemctl enable --now fieldmedic-act.socket, then systemctl restart fieldmedic";
        found.push(finding(Severity::Warning, "no_helper", "fieldmedic-act.socket", what, advice));
    }
}

/// Whether a host is this one.
fn is_here(host: &str) -> bool {
    let address: Option<std::net::IpAddr> = host.parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}
