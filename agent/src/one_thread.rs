//! What async code runs on.

use std::io;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

/// A runtime of one thread, which is enough for a gateway and costs half the CPU of several. A local one: `build` links
/// tokio's scheduler of many threads, too, as zbus asks for it, though nobody uses it.
///
/// # Errors
/// The system has no descriptors left for it.
pub(crate) fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}
