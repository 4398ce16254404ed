//! The subcommands, one file each. They print and give exit codes; what they say is worked out elsewhere.

pub mod check;
