//! The body of ModemManager's answer over D-Bus.
#![no_main]

use fieldmedic::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::modem_answer(bytes));
