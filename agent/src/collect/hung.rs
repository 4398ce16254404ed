//! Files of the kernel that hang on reading: the driver behind one (a fuel gauge on a dead bus, a modem's interface)
//! may answer never, and whoever reads it hangs as long. What hangs is left out by all who read, with whatever else the
//! same device says, so that it costs its own readings and one thread; once it has answered it is read again.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::clock::boottime;
use crate::engine::observation::Fault;
use crate::engine::time::Mono;

/// A bus takes seconds to try again and again. Less than the default `sample_interval`, at which somebody looks.
const HUNG_AFTER: Duration = Duration::from_secs(8);
/// No thread is given up to more than that: then it is the kernel that hangs, and not a device.
const HUNG_MAX: usize = 8;

/// What is being read just now: one file by each thread that reads.
static READS: Mutex<Vec<Read>> = Mutex::new(Vec::new());

struct Read {
    reader: ThreadId,
    root: PathBuf,
    file: String,
    since: Mono,
    /// Nobody waits for it any more.
    hangs: bool,
}

/// This thread reads, for as long as this lasts.
pub(super) struct Reading(());

/// Says that this thread reads `file` below `root` from now on, unless its device hangs: then the fault is that.
pub(super) fn begin(root: &Path, file: &str) -> Result<Reading, Fault> {
    let (file, now) = (file.trim_start_matches('/'), boottime());
    let mut reads = reads();
    let is_same = |read: &&Read| read.hangs && device(&read.file) == device(file) && read.root == root;
    if let Some(read) = reads.iter().find(is_same) {
        return Err(Fault { source: format!("/{}", read.file), what: read.what(now) });
    }
    let reader = thread::current().id();
    reads.push(Read { reader, root: root.to_owned(), file: file.to_owned(), since: now, hangs: false });
    Ok(Reading(()))
}

/// Gives up what this thread reads, if that takes too long; whether another thread is to go on without it.
pub(super) fn give_up(reader: ThreadId, now: Mono) -> bool {
    let mut reads = reads();
    let Some(read) = late(&mut reads, reader, now) else { return false };
    read.hangs = true;
    tracing::warn!("collect: /{} {}", read.file, read.what(now));
    true
}

fn late(reads: &mut [Read], reader: ThreadId, now: Mono) -> Option<&mut Read> {
    let hung = reads.iter().filter(|read| read.hangs).count();
    let is_late = |read: &&mut Read| read.reader == reader && !read.hangs && now.since(read.since) >= HUNG_AFTER;
    reads.iter_mut().find(is_late).filter(|_| hung < HUNG_MAX)
}

impl Read {
    fn what(&self, now: Mono) -> String {
        let seconds = now.since(self.since).as_secs();
        format!("hangs, for {seconds} s by now: nothing of /{} is read until it answers", device(&self.file))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let reader = thread::current().id();
        reads().retain(|read| {
            if read.reader == reader && read.hangs {
                let seconds = boottime().since(read.since).as_secs();
                tracing::warn!("collect: /{} has answered after {seconds} s", read.file);
            }
            read.reader != reader
        });
    }
}

/// The device that has to answer for a file below /sys (`sys/class/CLASS/DEVICE/…`, `sys/block/DEVICE/…`). Any other
/// file stands for itself, and so does `type`: the kernel says it without the driver.
pub(super) fn device(file: &str) -> &str {
    let depth = match file.strip_prefix("sys/") {
        Some(rest) if rest.ends_with("/type") => return file,
        Some(rest) if rest.starts_with("class/") => 4,
        Some(_) => 3,
        None => return file,
    };
    let end = file.match_indices('/').nth(depth - 1).map_or(file.len(), |(at, _)| at);
    file.get(..end).unwrap_or(file)
}

/// Whether somebody is in the midst of reading it.
#[cfg(test)]
pub(super) fn is_read(root: &Path, file: &str) -> bool {
    reads().iter().any(|read| read.root == root && read.file == file)
}

fn reads() -> MutexGuard<'static, Vec<Read>> {
    READS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "another thread reads beside the test's")]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_device_hang_together_and_those_of_others_do_not() {
        for (file, of) in [
            ("sys/class/power_supply/BAT0/capacity", "sys/class/power_supply/BAT0"),
            ("sys/class/net/wwan0/statistics/rx_bytes", "sys/class/net/wwan0"),
            ("sys/block/mmcblk0/device/life_time", "sys/block/mmcblk0"),
            ("sys/class/power_supply/BAT0/type", "sys/class/power_supply/BAT0/type"),
            ("sys/class/power_supply", "sys/class/power_supply"),
            ("proc/net/wireless", "proc/net/wireless"),
        ] {
            assert_eq!(device(file), of);
        }
    }

    /// What another thread than the test's comes to.
    fn read(root: &'static str, file: &'static str) -> Result<(), String> {
        let read = move || begin(Path::new(root), file).map(drop).map_err(|fault| fault.source);
        thread::spawn(read).join().unwrap()
    }

    #[test]
    fn what_is_read_for_too_long_is_left_out_by_all_until_it_is_over() {
        const ROOT: &str = "/a/root/of/its/own";
        const HWMON0: [&str; 2] = ["sys/class/hwmon/hwmon0/temp1_input", "sys/class/hwmon/hwmon0/temp2_input"];
        let me = thread::current().id();
        let hangs = begin(Path::new(ROOT), HWMON0[0]).unwrap();
        assert!(!give_up(me, boottime()), "it may take its time");
        assert_eq!(read(ROOT, HWMON0[1]), Ok(()), "and others theirs");
        let late = boottime().after(HUNG_AFTER);
        assert_eq!([give_up(me, late), give_up(me, late)], [true, false], "once");
        assert_eq!(read(ROOT, HWMON0[1]), Err(format!("/{}", HWMON0[0])));
        assert_eq!(read(ROOT, "sys/class/hwmon/hwmon1/temp1_input"), Ok(()));
        assert_eq!(read("/another/root", HWMON0[0]), Ok(()), "it is another gateway's");
        drop(hangs);
        assert!(!give_up(me, late));
        assert_eq!(read(ROOT, HWMON0[1]), Ok(()));
    }

    #[test]
    fn no_more_threads_are_given_up_than_the_bound() {
        let read = |n| Read {
            reader: thread::current().id(),
            root: PathBuf::from("/hung/for/good"),
            file: format!("sys/class/hwmon/hwmon{n}/temp1_input"),
            since: Mono(0),
            hangs: true,
        };
        let now = Mono(0).after(HUNG_AFTER);
        let mut reads: Vec<Read> = (0..HUNG_MAX).map(read).collect();
        reads.push(Read { hangs: false, ..read(HUNG_MAX) });
        assert!(late(&mut reads, thread::current().id(), now).is_none(), "it is the kernel that hangs");
        reads.remove(0);
        assert!(late(&mut reads, thread::current().id(), now).is_some());
    }
}
