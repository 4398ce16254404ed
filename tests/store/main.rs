//! The store under every fault: kills at any instant, power cuts at every write, damage of every kind, a million
//! records, and what a commit costs the disk. Each test does a number of cases that takes about a minute at most; the variables named in it ask for more,
//! and `tests/nightly` does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test that can't be set up fails, and it may touch the system that the agent's engine must not"
)]

#[path = "../common/cost.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
mod cost;
mod damage;
mod kill;
mod million;
mod power;
#[path = "../common/tiny_disk.rs"]
mod tiny_disk;
mod wear;
mod work;

use std::path::{Path, PathBuf};
use std::process::Command;

use fieldmedic::store::StoreSettings;
use tempfile::TempDir;

/// Tells a child that this binary starts of itself where its store lies, and that it is one.
const CHILD_DIR: &str = "FIELDMEDIC_TEST_STORE_DIR";

/// Small, so that there are many segments.
fn settings(dir: &Path) -> StoreSettings {
    StoreSettings { path: dir.join("store"), max_bytes: 512 * 1024 }
}

/// In memory where that can be had: what is tested is the order of writes, not the disk.
fn temp() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

/// The directory of a child, if this process is one.
fn child_dir() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIR).map(PathBuf::from)
}

/// This binary again, in the named test, on this directory.
fn child(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD_DIR, dir);
    command
}

/// How many cases: as many as the variable says.
fn cases(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |cases| cases.parse().expect("a number of cases"))
}
