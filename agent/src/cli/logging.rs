//! Where log lines go: to journald with their fields when systemd started us, else to stderr, readable. What a script
//! reads never comes this way.

mod door;

use std::io::IsTerminal;
use std::os::fd::AsFd;

use rustix::fs::fstat;
use tracing_subscriber::filter::{LevelFilter, dynamic_filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use door::{Door, JOURNALD, Stream};

/// How much is said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loudness(i16);

impl Loudness {
    pub(super) fn from_flags(verbose: u8, quiet: u8) -> Self {
        Self(i16::from(verbose) - i16::from(quiet))
    }

    /// Only what is wrong is wanted.
    pub(super) const fn is_errors_only(self) -> bool {
        self.0 <= -2
    }

    fn level(self, normal: i16) -> LevelFilter {
        match self.0 + normal {
            ..=-2 => LevelFilter::ERROR,
            -1 => LevelFilter::WARN,
            0 => LevelFilter::INFO,
            1 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        }
    }
}

/// For the daemon.
pub(super) fn init(loudness: Loudness) {
    start("fieldmedic", loudness.level(0));
}

/// For a daemon beside it.
pub(crate) fn init_as(identifier: &str) {
    start(identifier, Loudness(0).level(0));
}

/// For a command that has a face of its own: only what is wrong.
#[cfg(feature = "demo")]
pub(super) fn init_quiet(loudness: Loudness) {
    start("fieldmedic", loudness.level(-2));
}

/// For a command that says itself what became of it: how it comes there with -v, and every packet's way with -vv.
pub(super) fn init_terse(loudness: Loudness) {
    start("fieldmedic", loudness.level(-1));
}

fn start(identifier: &str, level: LevelFilter) {
    let registry = tracing_subscriber::registry();
    // Then the fields go along.
    let stream = std::env::var_os("JOURNAL_STREAM");
    let is_journal = stream.is_some_and(|stream| is_journal(&stream.to_string_lossy(), std::io::stderr()));
    // Already to begin with it would wait where the journal takes nothing.
    let door = if is_journal { Door::to(JOURNALD, identifier).ok().filter(Door::is_open) } else { None };
    if let Some((door, Ok(journald))) = door.map(|door| (door, tracing_journald::layer())) {
        let takes = dynamic_filter_fn(move |what, _| what.is_span() || door.is_open());
        registry.with(takes).with(level).with(journald.with_syslog_identifier(identifier.to_owned())).init();
        return;
    }
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(colours);
    // It ends in the journal as well.
    let stream = Stream::default();
    let takes = dynamic_filter_fn(move |what, _| what.is_span() || !is_journal || stream.is_open(std::io::stderr()));
    registry.with(takes).with(level).with(lines).init();
}

/// Whether this is the stream to the journal whose device and inode systemd has named (systemd.exec(5)). What a service
/// starts inherits the variable, and may have a stderr of its own.
fn is_journal(stream: &str, stderr: impl AsFd) -> bool {
    fstat(stderr).is_ok_and(|found| stream == format!("{}:{}", found.st_dev, found.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_known_by_device_and_inode_and_not_by_an_inherited_variable() {
        let (stderr, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let named = |file| fstat(file).map(|found| format!("{}:{}", found.st_dev, found.st_ino)).unwrap();
        assert!(is_journal(&named(&stderr), &stderr));
        for inherited in [named(&other), "8:12345".into(), String::new()] {
            assert!(!is_journal(&inherited, &stderr), "{inherited}");
        }
    }
}
