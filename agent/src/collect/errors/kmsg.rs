//! The kernel's log, `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg), for gateways without a journal: one record a
//! read. A tree that stands in for the kernel's may have a pipe or a file there, of which a read may give several. What
//! other programs write there comes along. A reader that is too slow is overrun: the gap in the sequence numbers says
//! by how much. Units are unknown here, so `collect.errors.units` selects nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Ended, Filter, Outlet, cut, failed, is_empty, is_full, is_wanted, kernel_kind, next_or_quiet, since_boot};
use crate::engine::observation::{ErrorBatch, ErrorKind, ErrorLine, ErrorSource, Severity};

/// Longer than any record (PRINTK_MESSAGE_MAX is 2 KiB): the kernel refuses a shorter buffer and stays where it is.
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// The most records that are passed over at a first start; a ring of 16 MiB holds fewer.
const HISTORY_RECORDS_MAX: usize = 1 << 20;

/// What each boot begins with.
const FIRST_SEQ: u64 = 0;
/// How often a file that stands in for the device is asked for more.
const FILE_EVERY: Duration = Duration::from_millis(500);

/// The kernel's log at a device.
#[derive(Debug)]
pub(super) struct Kmsg {
    device: PathBuf,
    filter: Filter,
}

impl Kmsg {
    pub(super) fn new(device: PathBuf, filter: Filter) -> Self {
        Self { device, filter }
    }

    /// Reads until the device or the receiver ends.
    pub(super) async fn read(&self, outlet: &mut Outlet) -> Result<Infallible, Ended> {
        let name = self.device.display().to_string();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let log = rustix::fs::open(&self.device, flags, Mode::empty()).map_err(|error| failed(&name, error))?;
        let mut buffer = vec![0; RECORD_BYTES_MAX];
        let mut first_run = None;
        let mut next = match outlet.cursor.as_deref().map(|cursor| self.position(cursor)) {
            Some(Position::At(seq)) => Some(seq),
            Some(Position::Unknown) | None => {
                let newest = newest(&log, &mut buffer).map_err(|error| failed(&name, error))?;
                first_run = newest.and_then(|seq| self.cursor(seq));
                newest.map(|seq| seq.saturating_add(1))
            }
        };

        let log = Log::of(log).map_err(|error| failed(&name, error))?;
        outlet.begin(first_run).await?;
        let mut batch = ErrorBatch::default();
        loop {
            match next_or_quiet(&batch, log.next(&mut buffer)).await {
                None => outlet.send(&mut batch).await?,
                Some(Err(error)) => {
                    if !is_empty(&batch) {
                        outlet.send(&mut batch).await?;
                    }
                    return Err(failed(&name, error));
                }
                Some(Ok(len)) => {
                    for record in records(buffer.get(..len).unwrap_or_default()) {
                        self.add(record, &mut next, &mut batch);
                    }
                }
            }
            if is_full(&batch) {
                outlet.send(&mut batch).await?;
            }
        }
    }

    /// `next` is the sequence number that comes next, where that is known: what was passed over was lost.
    fn add(&self, bytes: &[u8], next: &mut Option<u64>, batch: &mut ErrorBatch) {
        let Some(record) = Record::parse(bytes) else {
            batch.missed += 1;
            return;
        };
        if let Some(next) = *next {
            if record.seq < next {
                return;
            }
            batch.missed += record.seq - next;
        }
        *next = Some(record.seq.saturating_add(1));
        batch.cursor = self.cursor(record.seq);
        let line = record.line();
        if is_wanted(&line, self.filter.min_severity) {
            batch.lines.push(line);
        }
    }

    /// `kmsg:BOOT:SEQ`; none where the boot can't be told, since sequence numbers begin anew with each.
    fn cursor(&self, seq: u64) -> Option<String> {
        self.filter.boot.map(|boot| format!("kmsg:{boot}:{seq}"))
    }

    fn position(&self, cursor: &str) -> Position {
        let parts = cursor.strip_prefix("kmsg:").and_then(|rest| rest.split_once(':'));
        let Some((boot, Ok(seq))) = parts.map(|(boot, seq)| (boot, seq.parse::<u64>())) else {
            return Position::Unknown;
        };
        match self.filter.boot {
            None => Position::Unknown,
            Some(this) if this.to_string() == boot => Position::At(seq.saturating_add(1)),
            Some(_) => Position::At(FIRST_SEQ),
        }
    }
}

/// Where a cursor points to.
enum Position {
    /// At the record with this sequence number, or where it is gone, the oldest after it.
    At(u64),
    /// It is no cursor of this log.
    Unknown,
}

/// Passes over what the ring holds; the sequence number of the newest record.
fn newest(log: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<u64>> {
    let mut newest = None;
    drain(log, buffer, &mut |record| newest = Some(record.seq))?;
    Ok(newest)
}

/// Reads what the ring holds, and waits for no more.
fn drain(log: &OwnedFd, buffer: &mut [u8], each: &mut dyn FnMut(Record)) -> io::Result<()> {
    for _ in 0..HISTORY_RECORDS_MAX {
        match rustix::io::read(log, &mut *buffer) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(len) => records(buffer.get(..len).unwrap_or_default()).filter_map(Record::parse).for_each(&mut *each),
            // Overrun: the next read gives the oldest record that is left.
            Err(Errno::PIPE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The newest `most` lines of the ring, as dmesg(1) shows them. Waits for nothing.
///
/// # Errors
/// The device can't be opened or read: `kernel.dmesg_restrict` keeps it from whoever lacks CAP_SYSLOG.
pub(crate) fn newest_lines(device: &Path, most: usize) -> io::Result<Vec<String>> {
    let log = rustix::fs::open(device, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = vec![0; RECORD_BYTES_MAX];
    let mut newest = VecDeque::new();
    drain(&log, &mut buffer, &mut |record| {
        let (seconds, us) = (record.stamp_us / 1_000_000, record.stamp_us % 1_000_000);
        newest.push_back(format!("[{seconds:>5}.{us:06}] {}", record.message));
        newest.drain(..newest.len().saturating_sub(most));
    })?;
    Ok(newest.into())
}

/// The log, opened.
enum Log {
    /// The kernel's, or a pipe: it says when there is more.
    Device(AsyncFd<OwnedFd>),
    /// A file, which has to be asked.
    File(OwnedFd),
}

impl Log {
    #[expect(
        deprecated,
        reason = "its successor is unsafe, to rule out files that change their descriptor; OwnedFd never does"
    )]
    fn of(log: OwnedFd) -> io::Result<Self> {
        if FileType::from_raw_mode(rustix::fs::fstat(&log)?.st_mode).is_file() {
            return Ok(Self::File(log));
        }
        AsyncFd::with_interest(log, Interest::READABLE).map(Self::Device)
    }

    /// Reads into `buffer`: of a device one record; the length.
    async fn next(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Device(device) => next_of_device(device, buffer).await,
            Self::File(file) => loop {
                let len = next_of_file(file, buffer)?;
                if len > 0 {
                    return Ok(len);
                }
                super::pause(FILE_EVERY).await;
            },
        }
    }
}

async fn next_of_device(log: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = log.readable().await?;
        match ready.try_io(|log| Ok(rustix::io::read(log, &mut *buffer)?)) {
            Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            // Overrun, or not ready after all; what was lost shows in the sequence numbers.
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(_) => {}
            Ok(result) => return result,
        }
    }
}

/// Whole lines; one whose end is still to be written is read again.
fn next_of_file(file: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let len = rustix::io::read(file, &mut *buffer)?;
    if len == 0 && rustix::fs::tell(file)? > u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0) {
        // It was emptied: what comes now stands at its beginning.
        rustix::fs::seek(file, SeekFrom::Start(0))?;
    }
    let is_full = len == buffer.len();
    let read = buffer.get(..len).unwrap_or_default();
    let whole = match read.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => end + 1,
        // Longer than any record: it is counted as none.
        None if is_full => len,
        None => 0,
    };
    let back = i64::try_from(len - whole).map_err(io::Error::other)?;
    rustix::fs::seek(file, SeekFrom::Current(-back))?;
    Ok(whole)
}

/// The records of what was read: each has its properties on further lines, which begin with a space.
fn records(read: &[u8]) -> impl Iterator<Item = &[u8]> {
    read.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b" "))
}

/// One record: `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS[,…];MESSAGE`, then lines of a dictionary that begin with a space.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) severity: Severity,
    /// syslog's; 0 is the kernel.
    pub(super) facility: u32,
    pub(super) seq: u64,
    pub(super) stamp_us: u64,
    pub(super) message: String,
}

impl Record {
    /// `None` if the bytes are no record.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (prefix, rest) = text.split_once(';')?;
        let mut prefix = prefix.split(',');
        let priority: u32 = prefix.next()?.parse().ok()?;
        let seq = prefix.next()?.parse().ok()?;
        let stamp_us = prefix.next()?.parse().ok()?;
        let severity = Severity::from_level(u8::try_from(priority & 7).ok()?)?;
        let message = unescape(rest.lines().next().unwrap_or_default());
        Some(Self { severity, facility: priority >> 3, seq, stamp_us, message })
    }

    pub(super) fn line(self) -> ErrorLine {
        let is_kernel = self.facility == 0;
        ErrorLine {
            severity: self.severity,
            source: if is_kernel { ErrorSource::Kernel } else { ErrorSource::Journal },
            kind: if is_kernel { kernel_kind(&self.message) } else { ErrorKind::Plain },
            message: cut(self.message),
            unit: None,
            identifier: None,
            exe: None,
            signal: None,
            boot: None,
            mono: Some(since_boot(self.stamp_us, true)),
            wall: None,
        }
    }
}

/// Undoes `\xNN`, the kernel's form of a byte that is not printable ASCII.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once("\\x") {
        bytes.extend_from_slice(plain.as_bytes());
        let digits = escaped.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(b"\\x"),
        }
        rest = escaped.get(if byte.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}
