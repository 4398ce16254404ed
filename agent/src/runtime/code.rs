//! Lets the system have back what the agent holds of programs that are on the disk.

use std::fs;
use std::ops::Range;
use std::time::Duration;

use rustix::mm::{Advice, madvise};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

const MAPPINGS: &str = "/proc/self/smaps";
/// What a start alone needs has been used by then.
const AFTER_START: Duration = Duration::from_secs(3);
/// And what happens seldom, as a reload or a look at the gateway as a whole, was since then.
const EVERY: Duration = Duration::from_secs(300);

/// When to [`let_go`].
pub(super) fn interval() -> Interval {
    let mut interval = interval_at(Instant::now() + AFTER_START, EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Unmaps the code of the program and of its libraries. What still runs is mapped again as it is run, sixteen pages at
/// a time, out of the page cache. What a start has used (to read the configuration, to open the store, a first
/// handshake) would else be held for good: where memory is short the kernel takes pages that are mapped later than
/// others.
pub(super) fn let_go() {
    let mappings = match fs::read_to_string(MAPPINGS) {
        Ok(mappings) => mappings,
        // A kernel may be built without it.
        Err(error) => return tracing::debug!("read {MAPPINGS}: {error}"),
    };
    for code in code(&mappings) {
        #[expect(unsafe_code, reason = "madvise(2) takes addresses")]
        // SAFETY: it is a file's, can't be written to, and no page of it was: each is as it was when it is used again.
        let unmapped =
            unsafe { madvise(std::ptr::with_exposed_provenance_mut(code.start), code.len(), Advice::LinuxDontNeed) };
        if let Err(error) = unmapped {
            tracing::debug!("madvise: {error}");
        }
    }
}

/// The mappings of files that are code, can't be written to, and have no page of their own, as a debugger or a loader
/// of old makes them (proc_pid_smaps(5)).
fn code(mappings: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut last = None;
    for line in mappings.lines() {
        if let Some(range) = range(line) {
            let mut words = line.split_ascii_whitespace().skip(1);
            let is_code = words.next() == Some("r-xp") && words.nth(2).is_some_and(|inode| inode != "0");
            last = is_code.then_some(range);
        } else if line.strip_prefix("Anonymous:").is_some_and(|size| size.trim_start() == "0 kB") {
            found.extend(last.take());
        }
    }
    found
}

/// The addresses that a line about a mapping begins with.
fn range(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// KiB of code that are mapped now.
    fn mapped_kib() -> usize {
        let mappings = fs::read_to_string(MAPPINGS).unwrap();
        let blocks = code(&mappings).into_iter().map(|code| {
            let block = mappings.split_once(&format!("{:x}-{:x} ", code.start, code.end)).unwrap().1;
            let rss = block.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
            rss.trim_end_matches("kB").trim().parse::<usize>().unwrap()
        });
        blocks.sum()
    }

    #[test]
    fn code_that_is_let_go_is_mapped_no_more_and_runs_all_the_same() {
        let before = mapped_kib();
        let_go();
        let after = mapped_kib();
        assert!(after < before, "{after} KiB of {before}");
    }

    #[test]
    fn nothing_but_a_files_code_that_is_as_it_is_on_the_disk_is_let_go() {
        let mapping = |range: &str, mode: &str, inode: &str, anonymous: &str| {
            format!("{range} {mode} 00100000 fd:00 {inode} /x\nRss: 8 kB\nAnonymous: {anonymous}\nVmFlags: rd ex\n")
        };
        let all = [
            mapping("1000-2000", "r--p", "7", "0 kB"),
            mapping("2000-3000", "r-xp", "7", "       0 kB"),
            mapping("3000-4000", "r-xp", "7", "4 kB"),
            mapping("4000-5000", "rwxp", "7", "0 kB"),
            mapping("5000-6000", "r-xp", "0", "0 kB"),
            mapping("6000-8000", "r-xp", "8", "0 kB"),
        ];
        assert_eq!(code(&all.concat()), [0x2000..0x3000, 0x6000..0x8000]);
        assert_eq!(code("no-such r-xp\n\nAnonymous: 0 kB"), []);
    }
}
