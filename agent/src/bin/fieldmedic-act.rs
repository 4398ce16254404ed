//! The root helper's binary: parse, load, call; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    fieldmedic::helper::main()
}
