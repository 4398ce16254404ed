//! The tokio shell: it owns the outside world and has no opinions. Every decision is the engine's.

pub mod mqtt;
