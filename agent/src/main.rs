//! The fieldmedic binary: parse, load, call; nothing else.

fn main() {}
