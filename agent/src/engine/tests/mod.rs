//! The engine run with no runtime at all: a clock that is a number, a store that is a map, a broker that is a list.

mod alarms;
mod commanding;
mod flood;
mod healing;
mod held_back;
mod invariants;
mod judged_again;
mod looking;
mod numbers;
mod owed;
mod quarantine;
mod rebooting;
mod refusing;
mod reloading;
mod room;
mod saving_power;
mod sending;
mod session;
mod set_back;
mod starting;
mod store;
mod thinning;
mod times;
mod trial;
mod trouble;
mod world;
