//! The gateway: its clock, disks, flash, units, watchdog, and who may talk to it.
#![expect(clippy::disallowed_methods, reason = "it looks at files")]

use std::fs;
use std::path::Path;

use super::{FAILED_UNIT, finding};
use crate::collect::host::FLASH_LIFE;
use crate::collect::inhibit;
use crate::config::{CheckedConfig, ClockTrust};
use crate::engine::metric::{Metric, Value, find};
use crate::engine::observation::{Finding, Observation, Severity, Unseen};
use crate::text::size;

/// Of a file system.
const DISK_USED_PCT: f64 = 90.0;
/// The store begins to give up telemetry at its floor; below twice of it there is no headroom.
const FLOORS_OF_HEADROOM: u64 = 2;
/// Of the flash's life as it estimates it itself (JEDEC JESD84-B51, DEVICE_LIFE_TIME_EST), in steps of ten.
const FLASH_WORN_PCT: f64 = 80.0;
const FLASH_DEAD_PCT: f64 = 100.0;
/// Services whose passwords go over the wire as they are: ftp, telnet, rexec, rlogin, rsh.
const CLEAR_TEXT: [u16; 5] = [21, 23, 512, 513, 514];
/// The most that is named in one finding.
const NAMED_MAX: usize = 10;
const WATCHDOGS: &str = "sys/class/watchdog";
const REBOOT_REQUIRED: &str = "run/reboot-required";
pub(super) const STORE_NO_ROOM: &str = "store_no_room";
/// Of each file system that is collected.
const DISK_FULL: &str = "disk_full";
const DISK_HEADROOM: &str = "disk_headroom";
const FLASH_WORN: &str = "flash_worn";
const LISTENS: &str = "listens";
const CLEAR_TEXT_SERVICE: &str = "clear_text_service";

pub(super) fn judge(
    config: &CheckedConfig,
    seen: &Observation,
    failed: &Result<Vec<String>, String>,
    found: &mut Vec<Finding>,
) {
    clock(config, seen, found);
    disks(config, seen, found);
    if let Some(why) = &seen.inhibited {
        let file = format!("/{}", inhibit::FILE);
        let what = format!("no ladder acts, for as long as {file} is there: {why}");
        let advice = format!("rm {file} once that is over");
        found.push(finding(Severity::Info, "inhibited", file, what, &advice));
    }
    listeners(seen, found);
    // Each by itself: another one that fails is news.
    for line in failed.iter().flatten() {
        let unit = line.split(' ').next().unwrap_or(line);
        let advice = format!("systemctl status {unit}; systemctl reset-failed {unit} once it is settled");
        found.push(finding(Severity::Warning, FAILED_UNIT, unit, format!("systemd says: {line}"), &advice));
    }
}

/// What a round of collection has no readings of, as a disk that doesn't answer: what was found of it is neither gone
/// nor news.
pub(super) fn unseen(config: &CheckedConfig, seen: &Observation, unseen: &mut Vec<Unseen>) {
    if seen.sockets.is_none() {
        unseen.extend([LISTENS, CLEAR_TEXT_SERVICE].map(Unseen::all));
    }
    let host = &config.collect.host;
    if !host.enabled {
        return;
    }
    let has = |metric, label: Option<&str>| {
        seen.points.iter().any(|point| point.metric == metric && point.label.as_deref() == label)
    };
    for mount in host.mounts.iter().map(|mount| mount.to_string_lossy()) {
        if !has(Metric::HostDiskUsed, Some(&mount)) {
            unseen.extend([DISK_FULL, DISK_HEADROOM].map(|check| Unseen::one(check, mount.as_ref())));
        }
    }
    // One that can't be worn has no such file.
    let failed = seen.faults.iter().any(|fault| fault.source.ends_with(FLASH_LIFE));
    if failed && !has(Metric::HostFlashLife, None) {
        unseen.push(Unseen::all(FLASH_WORN));
    }
}

pub(super) fn look(root: &Path, found: &mut Vec<Finding>) {
    if is_watchdog_idle(&root.join(WATCHDOGS)) {
        let what = "the hardware watchdog isn't armed: a kernel that hangs stays so".to_owned();
        let advice = "set RuntimeWatchdogSec= in /etc/systemd/system.conf";
        found.push(finding(Severity::Notice, "watchdog_off", "kernel", what, advice));
    }
    if root.join(REBOOT_REQUIRED).exists() {
        let what = "updates wait for a reboot (/run/reboot-required)".to_owned();
        found.push(finding(Severity::Notice, "reboot_required", "gateway", what, "order a reboot at a quiet time"));
    }
}

/// The store's own disk, which need not be among those that are collected. `free` is in bytes.
pub(super) fn store_disk(config: &CheckedConfig, free: Option<u64>, found: &mut Vec<Finding>) {
    let (path, floor) = (config.store.path.display(), config.store.min_free_bytes);
    let Some(free) = free.filter(|free| *free < floor) else { return };
    let (free, floor) = (size(free), size(floor));
    let what = format!(
        "the store's disk has no room: {free} free at {path}, {floor} are to stay free (store.min_free_bytes): \
         telemetry is given up"
    );
    let advice = "make room on it; where it is as small as that, lower store.min_free_bytes";
    found.push(finding(Severity::Error, STORE_NO_ROOM, path.to_string(), what, advice));
}

fn clock(config: &CheckedConfig, seen: &Observation, found: &mut Vec<Finding>) {
    if config.clock.trust == ClockTrust::Always {
        return;
    }
    if find(&seen.points, Metric::HostClockSynced) == Some(&Value::Flag(false)) {
        let what = "the clock is not synchronised: commands need a nonce, and certificates are judged by a guess";
        let advice =
            "let systemd-timesyncd or chrony reach an NTP server; or [clock] trust = \"always\" if a GPS sets it";
        found.push(finding(Severity::Warning, "clock_not_synced", "clock", what.to_owned(), advice));
    }
}

fn disks(config: &CheckedConfig, seen: &Observation, found: &mut Vec<Finding>) {
    for point in &seen.points {
        let (Some(number), label) = (point.value.number(), point.label.as_deref().unwrap_or_default()) else {
            continue;
        };
        match point.metric {
            Metric::HostDiskUsed if number > DISK_USED_PCT => {
                let what = format!("{label} is {number:.0} % full");
                found.push(finding(Severity::Warning, DISK_FULL, label, what, "make room, or give it a larger one"));
            }
            Metric::HostDiskFree if number < floor(config) => {
                let what = format!("{label} has {:.0} MiB left", number / f64::from(1 << 20));
                let advice = "make room, or lower store.max_bytes: below store.min_free_bytes telemetry is given up";
                found.push(finding(Severity::Warning, DISK_HEADROOM, label, what, advice));
            }
            Metric::HostFlashLife if number >= FLASH_WORN_PCT => {
                let severity = if number >= FLASH_DEAD_PCT { Severity::Critical } else { Severity::Warning };
                let what = format!("{number:.0} % of the flash's life is used, by its own estimate");
                let advice = "plan to replace it; longer sample and report intervals wear it less";
                found.push(finding(severity, FLASH_WORN, "flash", what, advice));
            }
            _ => {}
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a size")]
fn floor(config: &CheckedConfig) -> f64 {
    config.store.min_free_bytes.saturating_mul(FLOORS_OF_HEADROOM) as f64
}

fn listeners(seen: &Observation, found: &mut Vec<Finding>) {
    let Some(sockets) = &seen.sockets else { return };
    let open: Vec<&String> = sockets.listeners.iter().filter(|name| !is_loopback(name)).collect();
    if open.is_empty() {
        return;
    }
    let what = format!("others can reach {}: {}", count(open.len(), "port"), some(&open));
    let advice = "close what nobody needs, and what is left to a firewall";
    found.push(finding(Severity::Info, LISTENS, "ports", what, advice));
    let clear: Vec<&String> = open.into_iter().filter(|name| is_clear_text(name)).collect();
    if !clear.is_empty() {
        let what = format!("passwords go over the wire as they are: {}", some(&clear));
        found.push(finding(
            Severity::Error,
            CLEAR_TEXT_SERVICE,
            "ports",
            what,
            "use ssh, or an update client with TLS",
        ));
    }
}

/// A listener's name is a protocol and an address with a port.
fn is_loopback(name: &str) -> bool {
    let address = name.split_once(' ').and_then(|(_, address)| address.parse::<std::net::SocketAddr>().ok());
    address.is_some_and(|address| address.ip().to_canonical().is_loopback())
}

fn is_clear_text(name: &str) -> bool {
    let port = name.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    name.starts_with("tcp ") && port.is_some_and(|port| CLEAR_TEXT.contains(&port))
}

/// Whether there is a watchdog and nobody feeds any (Documentation/ABI/testing/sysfs-class-watchdog).
fn is_watchdog_idle(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    let states: Vec<String> =
        entries.flatten().filter_map(|entry| fs::read_to_string(entry.path().join("state")).ok()).collect();
    !states.is_empty() && states.iter().all(|state| state.trim() == "inactive")
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn some<T: AsRef<str>>(names: &[T]) -> String {
    let mut text = names.iter().take(NAMED_MAX).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
