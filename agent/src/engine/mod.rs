//! The pure engine: every decision of the agent, and nothing else. No async, no I/O, no clock, no dice of its own.

pub mod io;
pub mod metric;
pub mod observation;
pub mod packet;
pub mod record;
pub mod time;
