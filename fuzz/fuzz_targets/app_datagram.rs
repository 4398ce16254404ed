//! A datagram of an application.
#![no_main]

use fieldmedic::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::app_datagram(bytes));
