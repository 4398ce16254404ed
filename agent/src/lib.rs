//! fieldmedic: the agent that runs on an embedded Linux gateway, as a library. See the repository's README for the map.

pub mod act;
mod agent_user;
pub mod audit;
#[cfg(any(feature = "demo", feature = "simulate"))]
pub mod broker;
mod bucket;
pub mod cli;
pub mod collect;
pub mod config;
#[cfg(test)]
mod documented;
pub mod engine;
#[doc(hidden)]
pub mod fuzzing;
mod gather;
pub mod helper;
mod lookup;
mod one_thread;
mod own_thread;
mod plain_file;
pub mod runtime;
#[cfg(feature = "simulate")]
pub mod sim;
mod socket_file;
pub mod store;
mod text;
pub mod wire;
mod words;
