//! A record of /dev/kmsg.
#![no_main]

use fieldmedic::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::kernel_record(bytes));
