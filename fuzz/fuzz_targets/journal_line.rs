//! A line of `journalctl --output=json`.
#![no_main]

use fieldmedic::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::journal_line(bytes));
