//! The files of /sys and /proc, a line of the input each. Give it a directory in memory: TMPDIR=/dev/shm.
#![no_main]

use std::sync::LazyLock;

use fieldmedic::fuzzing;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a directory for the files"));

fuzz_target!(|bytes: &[u8]| fuzzing::sysfs(DIR.path(), bytes).expect("the directory can be written to"));
