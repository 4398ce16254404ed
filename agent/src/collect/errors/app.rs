//! What applications say of their own errors: lines of JSON in datagrams on a Unix socket that any of them may write
//! to. It never holds one up: it is always read, and what is over a bound (a line's size, a sender's rate, the batches
//! that wait) is dropped and counted, by why. The kernel says who a sender is; who sends too much, or what nobody can
//! read, is told as an error of its own. A datagram has no connection: nothing to keep open, nothing to leave hanging.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "collectors read sockets and files")]

mod limits;
pub(crate) mod line;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg, sockopt};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{cut, is_full, monotonic, next_or_quiet};
use crate::engine::observation::{ErrorBatch, ErrorKind, ErrorLine, ErrorSource, Refusal, Severity};
use crate::gather::gather;
use crate::socket_file::SocketFile;
use limits::{Limits, Sender, Verdict};

/// Bytes of a datagram, and so of a line; of a longer one the rest is cut off by the kernel.
const DATAGRAM_BYTES_MAX: usize = 8 * 1024;
/// Datagrams that are read before others have their turn.
const DATAGRAMS_AT_ONCE: usize = 64;
/// Bytes of /proc/PID/cgroup.
const CGROUP_BYTES_MAX: u64 = 4096;

/// The socket; gone when this is dropped.
#[derive(Debug)]
pub(crate) struct AppSocket {
    task: AbortHandle,
    _file: SocketFile,
}

impl Drop for AppSocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads from a socket at `path` into `batches`. `root` is where /proc is looked up. An agent whose socket can't be
/// opened still does its work, and says so. Must be called within a tokio runtime.
pub(crate) fn serve(path: &Path, root: &Path, batches: mpsc::Sender<ErrorBatch>) -> Option<AppSocket> {
    match bind(path) {
        Ok((socket, file)) => {
            let reader = Reader {
                name: path.display().to_string(),
                root: root.to_owned(),
                limits: Limits::default(),
                batch: ErrorBatch::default(),
                batches,
            };
            let task = tokio::spawn(reader.read(socket)).abort_handle();
            Some(AppSocket { task, _file: file })
        }
        Err(error) => {
            tracing::warn!("collect.errors.app_socket {}: {error}; applications can't report errors", path.display());
            None
        }
    }
}

fn bind(path: &Path) -> io::Result<(UnixDatagram, SocketFile)> {
    // Whoever has an error may say so; what that can cost is bounded here.
    const MODE: u32 = 0o666;
    let connect = |path: &Path| std::os::unix::net::UnixDatagram::unbound()?.connect(path);
    let bind = |path: &Path| {
        let socket = UnixDatagram::bind(path)?;
        sockopt::set_socket_passcred(&socket, true)?;
        Ok(socket)
    };
    SocketFile::make(path, MODE, connect, bind)
}

struct Reader {
    name: String,
    root: PathBuf,
    limits: Limits,
    batch: ErrorBatch,
    batches: mpsc::Sender<ErrorBatch>,
}

impl Reader {
    /// Reads until nobody takes the batches any more.
    async fn read(mut self, socket: UnixDatagram) {
        let began = monotonic();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            match next_or_quiet(&self.batch, socket.readable()).await {
                Some(Err(error)) => return tracing::warn!("collect.errors.app_socket {}: {error}", self.name),
                Some(Ok(())) => self.drain(&socket, &mut buffer, began),
                None => {}
            }
            if !self.hand_over() {
                return;
            }
            // A flood must not keep the agent from its other work.
            tokio::task::yield_now().await;
        }
    }

    /// Reads what is there, at most [`DATAGRAMS_AT_ONCE`].
    fn drain(&mut self, socket: &UnixDatagram, buffer: &mut [u8], began: Instant) {
        for _ in 0..DATAGRAMS_AT_ONCE {
            let received = socket.try_io(Interest::READABLE, || Ok(receive(socket, buffer)?));
            let Ok((len, is_cut, sender)) = received else { return };
            let text = buffer.get(..len).unwrap_or_default();
            self.datagram(text, is_cut, sender, began.elapsed());
            if is_full(&self.batch) && !self.hand_over() {
                return;
            }
        }
    }

    fn datagram(&mut self, text: &[u8], is_cut: bool, sender: Sender, now: std::time::Duration) {
        let mut lines = text.split(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            let is_last = lines.peek().is_none();
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match self.limits.judge(sender, now) {
                Verdict::Take if is_cut && is_last => {
                    let what = format!("it is longer than {DATAGRAM_BYTES_MAX} B");
                    self.refuse(Refusal::TooLong, sender, &what);
                }
                Verdict::Take => match line::parse(line) {
                    Ok(said) => {
                        let unit = self.unit_of(sender).or(said.unit);
                        self.batch.lines.push(error_line(said.severity, said.message, unit, said.app));
                    }
                    Err(why) => self.refuse(Refusal::Malformed, sender, &why),
                },
                Verdict::FirstOverRate => self.refuse(Refusal::Rate, sender, "it and more came too fast"),
                Verdict::OverRate => self.batch.refused.count(Refusal::Rate, 1),
            }
        }
    }

    /// Counts a line that is not taken, and tells of it as an error of its own, or whoever wrote it would look in vain.
    fn refuse(&mut self, refusal: Refusal, sender: Sender, why: &str) {
        self.batch.refused.count(refusal, 1);
        let message = format!("an error line on {} was refused ({}): {why}", self.name, refusal.word());
        let unit = self.unit_of(sender);
        let line = error_line(Severity::Error, message, unit, None);
        self.batch.lines.push(ErrorLine { kind: ErrorKind::Refusal, ..line });
    }

    /// Gives the batch away; what finds no room is counted. `false`: nobody takes batches any more.
    fn hand_over(&mut self) -> bool {
        if super::is_empty(&self.batch) {
            return !self.batches.is_closed();
        }
        match self.batches.try_send(std::mem::take(&mut self.batch)) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(batch)) => {
                self.batch.refused = batch.refused;
                self.batch.refused.count(Refusal::Busy, batch.lines.len() as u64);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    /// The systemd unit that a process belongs to, where the agent may see it (`ProtectProc=` hides other users').
    fn unit_of(&self, sender: Sender) -> Option<String> {
        let file = self.root.join(format!("proc/{}/cgroup", sender.process));
        let mut text = String::new();
        File::open(file).ok()?.take(CGROUP_BYTES_MAX).read_to_string(&mut text).ok()?;
        unit_in(&text)
    }
}

/// One datagram: its length, whether it was longer, and who sent it.
fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> rustix::io::Result<(usize, bool, Sender)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    // Descriptors that a sender attaches find no room, and are closed by the kernel.
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)?;
    let mut sender = Sender { user: u32::MAX, process: 0 };
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmCredentials(credentials) = message {
            sender = Sender { user: credentials.uid.as_raw(), process: credentials.pid.as_raw_nonzero().get() };
        }
    }
    Ok((received.bytes, received.flags.contains(ReturnFlags::TRUNC), sender))
}

fn error_line(severity: Severity, message: String, unit: Option<String>, app: Option<String>) -> ErrorLine {
    ErrorLine {
        severity,
        source: ErrorSource::App,
        kind: ErrorKind::Plain,
        message: cut(message),
        unit,
        identifier: None,
        exe: app,
        signal: None,
        boot: None,
        mono: None,
        wall: None,
    }
}

/// What is made of a datagram's lines as long as nobody limits them; for [`super::parsers`].
pub(super) fn lines_of(datagram: &[u8]) -> Vec<ErrorLine> {
    let lines = datagram.split(|byte| *byte == b'\n').filter_map(|line| line::parse(line).ok());
    lines.map(|said| error_line(said.severity, said.message, said.unit, said.app)).collect()
}

/// The unit in the text of /proc/PID/cgroup (cgroups(7)): `0::/system.slice/app.service`, or systemd's own hierarchy.
/// The outermost, as the journal has it: below it a user's own units may have any name.
fn unit_in(text: &str) -> Option<String> {
    let by_hierarchy: BTreeMap<&str, &str> =
        gather(text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':')));
    let path = by_hierarchy.get("name=systemd").or_else(|| by_hierarchy.get(""))?;
    path.split('/').find(|part| part.ends_with(".service")).map(str::to_owned)
}

#[cfg(test)]
mod tests;
