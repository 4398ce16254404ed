//! Finds out who this agent is and on what it runs: boot id, nonce, and the static attributes that the gateway
//! tells of itself.

#![expect(clippy::disallowed_methods, reason = "randomness comes in here")]

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use ring::rand::{SecureRandom, SystemRandom};

use super::{RunError, service};
use crate::act::{Able, Actor};
use crate::collect::{self, clock, printable, reboot};
use crate::config::{AttributeValue, CheckedConfig};
use crate::engine::Identity;
use crate::gather::gather;

/// The agent's version, as it is said in payloads.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Of a static attribute that the gateway tells of itself.
const FACT_CHARS_MAX: usize = 256;
/// What stands in DMI where nothing was filled in.
const PLACEHOLDERS: [&str; 9] = [
    "To be filled by O.E.M.",
    "Default string",
    "System Serial Number",
    "System Product Name",
    "Not Specified",
    "Not Applicable",
    "None",
    "0",
    "0123456789",
];

/// Reads all that is known at the start.
pub(super) fn discover(config: &CheckedConfig, actor: &Actor) -> Result<Identity, RunError> {
    let root = &config.collect.root;
    let release = os_release(root);
    let Able { actions, withheld, quarantine } = actor.able();
    Ok(Identity {
        boot: clock::this_boot(root).map_err(RunError::BootId)?,
        version: VERSION.to_owned(),
        build_time: clock::built(),
        end_signs: reboot::signs(root),
        ended_as: service::ended_as(),
        nonce: nonce()?,
        facts: facts(root, &release),
        able: actions,
        withheld,
        quarantine,
        releases: collect::releases(&config.rollback, root),
        firmware: ["IMAGE_VERSION", "VERSION_ID"].iter().find_map(|key| release.get(*key).cloned()),
    })
}

fn nonce() -> Result<String, RunError> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| RunError::System {
        what: "read random numbers",
        source: io::Error::other("the kernel gives none"),
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn facts(root: &Path, release: &BTreeMap<String, String>) -> BTreeMap<String, AttributeValue> {
    let uname = rustix::system::uname();
    let read = |path: &str| fact(&fs::read_to_string(root.join(path)).ok()?);
    // The device tree names a board, DMI a PC (Documentation/ABI/testing/sysfs-firmware-ofw, sysfs-class-dmi-id).
    let model = read("proc/device-tree/model").or_else(|| read("sys/class/dmi/id/product_name"));
    // DMI's is root's alone to read.
    let serial = read("proc/device-tree/serial-number").or_else(|| read("sys/class/dmi/id/product_serial"));
    let command_line = fs::read_to_string(root.join("proc/cmdline")).unwrap_or_default();
    // RAUC's bootloader scripts say which slot was booted.
    let slot = collect::booted_slot(&command_line).and_then(fact);
    let known = [
        ("arch", Some(uname.machine().to_string_lossy().into_owned())),
        ("kernel", Some(uname.release().to_string_lossy().into_owned())),
        ("os", release.get("PRETTY_NAME").cloned()),
        ("model", model),
        ("serial", serial),
        ("firmware_slot", slot),
    ];
    gather(known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), AttributeValue::Text(value?)))))
}

/// A fact as a file tells it: bounded, printable, and not what a maker leaves in who has nothing to say.
fn fact(text: &str) -> Option<String> {
    let text = printable(text, FACT_CHARS_MAX);
    let text = text.trim();
    let is_said = !text.is_empty() && !PLACEHOLDERS.iter().any(|known| known.eq_ignore_ascii_case(text));
    is_said.then(|| text.to_owned())
}

/// os-release(5): `KEY=value`, perhaps quoted.
fn os_release(root: &Path) -> BTreeMap<String, String> {
    let text =
        ["etc/os-release", "usr/lib/os-release"].iter().find_map(|path| fs::read_to_string(root.join(path)).ok());
    let entry = |line: &str| {
        let (key, value) = line.split_once('=')?;
        Some((key.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
    };
    gather(text.unwrap_or_default().lines().filter_map(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts_of(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let told = facts(root.path(), &os_release(root.path()));
        let told = told.into_iter().filter(|(key, _)| key != "arch" && key != "kernel");
        let text = |value| if let AttributeValue::Text(text) = value { text } else { panic!("{value:?}") };
        told.map(|(key, value)| (key, text(value))).collect()
    }

    #[test]
    fn a_board_is_told_by_its_device_tree_and_its_slot_by_the_kernels_command_line() {
        let told = facts_of(&[
            ("etc/os-release", "PRETTY_NAME=\"Field OS 2\"\nVERSION_ID=2.0.10\n"),
            ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
            ("proc/device-tree/serial-number", "10000000abcdef01\0"),
            ("proc/cmdline", "console=ttyS0 root=/dev/mmcblk0p2 rauc.slot=A quiet\n"),
            ("sys/class/dmi/id/product_name", "not asked"),
        ]);
        let expected = [
            ("firmware_slot", "A"),
            ("model", "Raspberry Pi 4 Model B Rev 1.4"),
            ("os", "Field OS 2"),
            ("serial", "10000000abcdef01"),
        ];
        assert_eq!(told, expected.map(|(key, text)| (key.to_owned(), text.to_owned())));
    }

    #[test]
    fn what_a_maker_did_not_fill_in_is_left_out() {
        let told = facts_of(&[
            ("sys/class/dmi/id/product_name", "To Be Filled By O.E.M.\n"),
            ("sys/class/dmi/id/product_serial", " \n"),
            ("proc/cmdline", "quiet rauc.slot=\n"),
        ]);
        assert_eq!(told, []);
    }
}
