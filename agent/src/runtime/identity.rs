//! Finds out who this agent is and on what it runs: boot id, nonce, password, and the static attributes that the gateway
//! tells of itself.

#![expect(clippy::disallowed_methods, reason = "randomness comes in here")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};

use super::RunError;
use crate::act::Actor;
use crate::collect::{clock, reboot};
use crate::config::{AttributeValue, CheckedConfig};
use crate::engine::Identity;
use crate::engine::time::Unix;

/// The agent's version, as it is said in payloads.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Reads all that is known at the start.
pub(super) fn discover(config: &CheckedConfig, actor: &Actor) -> Result<Identity, RunError> {
    let root = &config.collect.root;
    let release = os_release(root);
    Ok(Identity {
        // A tree that stands in for /sys and /proc need not have one: the kernel that runs has.
        boot: clock::boot_id(root).or_else(|_| clock::boot_id(Path::new("/"))).map_err(RunError::BootId)?,
        version: VERSION.to_owned(),
        build_time: build_time(),
        end_signs: reboot::signs(root),
        nonce: nonce()?,
        password: password(config)?,
        facts: facts(root, &release),
        able: actor.able(),
        firmware: ["IMAGE_VERSION", "VERSION_ID"].iter().find_map(|key| release.get(*key).cloned()),
    })
}

fn build_time() -> Unix {
    let seconds: i64 = env!("FIELDMEDIC_BUILD_EPOCH_S").parse().unwrap_or(0);
    Unix(seconds.saturating_mul(1000))
}

fn nonce() -> Result<String, RunError> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| RunError::System {
        what: "read random numbers",
        source: std::io::Error::other("the kernel gives none"),
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The first line of the password file.
fn password(config: &CheckedConfig) -> Result<Option<String>, RunError> {
    let Some(path) = &config.mqtt.password_file else { return Ok(None) };
    let text = fs::read_to_string(path).map_err(|source| RunError::Password { path: path.clone(), source })?;
    Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
}

fn facts(root: &Path, release: &BTreeMap<String, String>) -> BTreeMap<String, AttributeValue> {
    let uname = rustix::system::uname();
    let read = |path: &str| {
        let text = fs::read_to_string(root.join(path)).ok()?;
        let text = text.trim_end_matches(['\0', '\n']).trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    // The device tree names a board, DMI a PC (Documentation/ABI/testing/sysfs-firmware-ofw, sysfs-class-dmi-id).
    let model = read("proc/device-tree/model").or_else(|| read("sys/class/dmi/id/product_name"));
    let known = [
        ("arch", Some(uname.machine().to_string_lossy().into_owned())),
        ("kernel", Some(uname.release().to_string_lossy().into_owned())),
        ("os", release.get("PRETTY_NAME").cloned()),
        ("model", model),
    ];
    known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), AttributeValue::Text(value?)))).collect()
}

/// os-release(5): `KEY=value`, perhaps quoted.
fn os_release(root: &Path) -> BTreeMap<String, String> {
    let text =
        ["etc/os-release", "usr/lib/os-release"].iter().find_map(|path| fs::read_to_string(root.join(path)).ok());
    text.unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            Some((key.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
        })
        .collect()
}
