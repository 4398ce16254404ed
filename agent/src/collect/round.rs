//! One round of reading: small text files of the kernel below a root, and the observation that grows from them. Each
//! read ends in a value, in nothing (the gateway doesn't have it) or in a fault that is noted once and costs its field.
//! Knows nothing about what the files mean.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "collectors read files")]

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::io::Errno;

use super::battery::SUPPLIES;
use super::clock::boottime;
use super::hung;
use crate::engine::metric::{Metric, Point, Value};
use crate::engine::observation::{Fault, Observation};

/// The longest file that is read. sysfs gives at most a page; a routing table of 8,000 lines still fits.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The most entries of one directory that are looked at; more is a fault. A chip that watches a board has some hundreds.
const ENTRIES_MAX: usize = 1024;
/// How much of a nonsensical text a fault quotes.
const QUOTE_CHARS_MAX: usize = 40;
/// A device that takes so long to fail isn't asked again in this round: a bus that is dead takes a second or more to
/// give up, for each of a gauge's dozen files.
const SLOW_TO_FAIL: Duration = Duration::from_millis(500);

/// Why there is no value although there should be one: the fault stands in the observation already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Faulted;

/// A value, `None` where the gateway doesn't have it, or a fault that was noted.
pub(super) type Reading<T> = Result<Option<T>, Faulted>;

/// The observation of one round while it is being made.
pub(super) struct Round<'a> {
    root: &'a Path,
    observation: Observation,
    /// The devices that were slow to fail.
    failing: Vec<String>,
}

impl<'a> Round<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root, observation: Observation::default(), failing: Vec::new() }
    }

    pub(super) fn finish(self) -> Observation {
        self.observation
    }

    /// `file` below the root. A leading slash is no way out of the root.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file.trim_start_matches('/'))
    }

    pub(super) fn exists(&self, file: &str) -> bool {
        self.path(file).exists()
    }

    /// The text of `file` without the space around it.
    pub(super) fn text(&mut self, file: &str) -> Reading<String> {
        if self.failing.iter().any(|device| device == hung::device(file)) {
            return Err(Faulted);
        }
        let began = boottime();
        let text = match hung::begin(self.root, file) {
            Ok(_reading) => read(&self.path(file)),
            Err(hung) => return Err(self.hangs(hung)),
        };
        match text {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if is_absence(file, &error) => Ok(None),
            Err(error) => Err(self.failed(file, &error, boottime().since(began))),
        }
    }

    fn failed(&mut self, file: &str, error: &io::Error, after: Duration) -> Faulted {
        if after >= SLOW_TO_FAIL {
            self.failing.push(hung::device(file).to_owned());
        }
        self.fault(file, error.to_string())
    }

    /// The text of a `file` that must be there.
    pub(super) fn required(&mut self, file: &str) -> Result<String, Faulted> {
        self.text(file)?.ok_or_else(|| self.fault(file, "missing"))
    }

    /// The number that `file` holds; a fault unless it is within `plausible`.
    pub(super) fn number<T>(&mut self, file: &str, plausible: RangeInclusive<T>) -> Reading<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(file)? else { return Ok(None) };
        self.parse(file, &text, plausible).map(Some)
    }

    /// `text`, which `file` said, as a number within `plausible`.
    pub(super) fn parse<T>(&mut self, file: &str, text: &str, plausible: RangeInclusive<T>) -> Result<T, Faulted>
    where
        T: FromStr + PartialOrd + Display,
    {
        match text.parse() {
            Ok(number) if plausible.contains(&number) => Ok(number),
            _ => {
                let wanted = format!("a number from {} to {}", plausible.start(), plausible.end());
                Err(self.nonsense(file, text, &wanted))
            }
        }
    }

    /// The names in a directory, sorted; none where it doesn't exist.
    pub(super) fn names(&mut self, dir: &str) -> Vec<String> {
        let entries = match fs::read_dir(self.path(dir)) {
            Ok(entries) => entries,
            Err(error) if is_absence(dir, &error) => return Vec::new(),
            Err(error) => {
                self.fault(dir, error.to_string());
                return Vec::new();
            }
        };
        let mut names: Vec<String> =
            entries.flatten().take(ENTRIES_MAX + 1).filter_map(|entry| entry.file_name().into_string().ok()).collect();
        if names.len() > ENTRIES_MAX {
            self.fault(dir, format!("more than {ENTRIES_MAX} entries: the rest is not looked at"));
            names.truncate(ENTRIES_MAX);
        }
        names.sort_unstable();
        names
    }

    pub(super) fn point(&mut self, metric: Metric, value: impl Into<Value>) {
        self.observation.points.push(Point::new(metric, value));
    }

    pub(super) fn labelled(&mut self, metric: Metric, label: &str, value: impl Into<Value>) {
        self.observation.points.push(Point::labelled(metric, label, value));
    }

    /// Adds a point if the reading is a value.
    pub(super) fn reading(&mut self, metric: Metric, reading: Reading<impl Into<Value>>) {
        if let Ok(Some(value)) = reading {
            self.point(metric, value);
        }
    }

    /// Notes that `file` said `text` where it should have said something like `wanted`.
    pub(super) fn nonsense(&mut self, file: &str, text: &str, wanted: &str) -> Faulted {
        let quote: String = text.chars().take(QUOTE_CHARS_MAX).collect();
        self.fault(file, format!("says {quote:?}, which is not {wanted}"))
    }

    /// How many faults were noted.
    pub(super) fn faults(&self) -> usize {
        self.observation.faults.len()
    }

    /// Notes what is wrong with `file`; once a round, however many fields are read from it.
    pub(super) fn fault(&mut self, file: &str, what: impl Into<String>) -> Faulted {
        let fault = Fault { source: format!("/{}", file.trim_start_matches('/')), what: what.into() };
        if !self.observation.faults.contains(&fault) {
            self.observation.faults.push(fault);
        }
        Faulted
    }

    /// Notes what hangs; once a round, as it does so for ever longer.
    fn hangs(&mut self, hung: Fault) -> Faulted {
        if self.observation.faults.iter().all(|fault| fault.source != hung.source) {
            self.observation.faults.push(hung);
        }
        Faulted
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("longer than {FILE_BYTES_MAX} B")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a failed read means that the gateway doesn't have the value. Drivers say ENODATA for a property that they
/// can't give now, or EAGAIN (a thermal zone of a block that is switched off, or of a sensor that is not connected),
/// and the kernel EOPNOTSUPP for what was switched off at boot (PSI). ENODEV is none of these: the device went away
/// after it was listed; but of a battery ACPI says so, too, of what the firmware doesn't know (drivers/acpi/battery.c).
/// Nor is EINVAL, EIO or ETIMEDOUT: the driver has failed.
fn is_absence(file: &str, error: &io::Error) -> bool {
    match Errno::from_io_error(error) {
        Some(Errno::NODATA | Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOTDIR) => true,
        Some(Errno::NODEV) => file.starts_with(SUPPLIES),
        _ => error.kind() == ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::tests::write_tree;

    #[test]
    fn a_device_that_is_slow_to_fail_is_not_asked_again_in_a_round() {
        const CHIPS: [&str; 2] = ["sys/class/hwmon/hwmon0/temp1_input", "sys/class/hwmon/hwmon1/temp1_input"];
        let dir = tempfile::tempdir().unwrap();
        write_tree(dir.path(), &CHIPS.map(|file| (file, "51000\n")));
        let mut round = Round::new(dir.path());
        let mut fails = |after| {
            round.failed("sys/class/hwmon/hwmon0/temp2_input", &Errno::TIMEDOUT.into(), after);
            CHIPS.map(|file| round.text(file).is_ok())
        };
        assert_eq!(fails(SLOW_TO_FAIL / 2), [true, true], "an error that comes at once costs no time");
        assert_eq!(fails(SLOW_TO_FAIL), [false, true]);
        assert_eq!(round.finish().faults.len(), 1, "and is told once");
        assert!(Round::new(dir.path()).text(CHIPS[0]).is_ok());
    }

    #[test]
    fn of_a_directory_with_some_hundreds_of_files_all_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<String> = (0..400).map(|number| format!("sys/class/hwmon/hwmon0/pwm{number}")).collect();
        files.iter().for_each(|file| write_tree(dir.path(), &[(file.as_str(), "1\n")]));
        let mut round = Round::new(dir.path());
        assert_eq!(round.names("sys/class/hwmon/hwmon0").len(), 400);
        assert_eq!(round.finish().faults, []);
    }

    #[test]
    fn a_driver_that_has_nothing_to_say_is_no_fault_and_one_that_fails_is() {
        let is_absent = |errno: Errno| is_absence("sys/class/hwmon/hwmon0/temp1_input", &errno.into());
        for errno in [Errno::NOENT, Errno::NOTDIR, Errno::NODATA, Errno::AGAIN, Errno::OPNOTSUPP] {
            assert!(is_absent(errno), "{errno}");
        }
        for errno in [Errno::INVAL, Errno::IO, Errno::TIMEDOUT, Errno::NODEV, Errno::NXIO, Errno::ACCESS] {
            assert!(!is_absent(errno), "{errno}");
        }
        assert!(is_absence("sys/class/power_supply/BAT0/current_now", &Errno::NODEV.into()));
    }
}
