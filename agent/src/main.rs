//! The fieldmedic binary: parse, load, call; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    fieldmedic::cli::main()
}
