//! Child processes whose output is kept line by line, bounded, and which never outlive the test that started them.

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::SOON;

/// Lines kept of one stream; a test that produces more has lost its way.
const LINES_MAX: usize = 200_000;
/// Lines shown when a wait was in vain.
const LINES_SHOWN: usize = 60;

/// A program by name, found also where Debian puts daemons.
pub fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(Stdio::null());
    command
}

/// Runs a command to its end; its standard output. Panics if it fails.
pub fn output_of(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("start {command:?}: {error}; see tests/run"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The items that a stream brought so far; more come while the test runs.
pub struct Stream<T> {
    shared: Arc<(Mutex<Seen<T>>, Condvar)>,
    name: String,
}

struct Seen<T> {
    items: Vec<T>,
    ended: bool,
}

impl<T: Clone + Debug + Send + 'static> Stream<T> {
    /// Reads lines on a thread of their own and keeps what `parse` makes of them.
    pub fn read(name: &str, stream: impl Read + Send + 'static, parse: impl Fn(&str) -> T + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Seen { items: Vec::new(), ended: false }), Condvar::new()));
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stream);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                let item = parse(String::from_utf8_lossy(&line).trim_end());
                line.clear();
                let mut seen = theirs.0.lock().unwrap();
                if seen.items.len() < LINES_MAX {
                    seen.items.push(item);
                }
                theirs.1.notify_all();
            }
            theirs.0.lock().unwrap().ended = true;
            theirs.1.notify_all();
        });
        Self { shared, name: name.to_owned() }
    }

    /// What came so far.
    pub fn so_far(&self) -> Vec<T> {
        self.shared.0.lock().unwrap().items.clone()
    }

    /// How many came so far: a mark from which [`Stream::wait_since`] looks.
    pub fn mark(&self) -> usize {
        self.shared.0.lock().unwrap().items.len()
    }

    /// Waits until `find` makes something of what has come since `mark`; panics with what it saw after [`SOON`].
    pub fn wait_since<R>(&self, mark: usize, what: &str, find: impl FnMut(&[T]) -> Option<R>) -> R {
        self.wait_within(SOON, mark, find).unwrap_or_else(|| self.give_up(mark, what, SOON))
    }

    /// The same from the beginning, with another bound.
    pub fn wait_long<R>(&self, bound: Duration, what: &str, find: impl FnMut(&[T]) -> Option<R>) -> R {
        self.wait_within(bound, 0, find).unwrap_or_else(|| self.give_up(0, what, bound))
    }

    /// Watches for something that must not come to pass, while it could.
    pub fn never_within(&self, watched: Duration, what: &str, bad: impl Fn(&[T]) -> bool) {
        if self.wait_within(watched, 0, |items| bad(items).then_some(())).is_some() {
            self.give_up(0, &format!("none of this: {what}"), watched)
        }
        assert!(!self.shared.0.lock().unwrap().ended, "{}: ended before it was watched for long enough", self.name);
    }

    /// Waits until the stream is at its end; false if it isn't within the bound.
    pub fn wait_end(&self, bound: Duration) -> bool {
        let (seen, news) = &*self.shared;
        let seen = seen.lock().unwrap();
        news.wait_timeout_while(seen, bound, |seen| !seen.ended).unwrap().0.ended
    }

    /// The same from a mark on; `None` where it was in vain.
    pub fn wait_within<R>(&self, bound: Duration, mark: usize, mut find: impl FnMut(&[T]) -> Option<R>) -> Option<R> {
        let (seen, news) = &*self.shared;
        let deadline = Instant::now() + bound;
        let mut seen = seen.lock().unwrap();
        loop {
            if let Some(found) = find(&seen.items[mark..]) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || seen.ended {
                return None;
            }
            seen = news.wait_timeout(seen, left).unwrap().0;
        }
    }

    fn give_up(&self, mark: usize, what: &str, bound: Duration) -> ! {
        let items = &self.so_far()[mark..];
        let shown: Vec<String> = items.iter().rev().take(LINES_SHOWN).rev().map(|item| format!("  {item:?}")).collect();
        panic!(
            "{}: waited {bound:?} for {what}; {} came, the last of them:\n{}",
            self.name,
            items.len(),
            shown.join("\n")
        );
    }
}

/// A child process with its standard error as lines. Killed by its own pid when it goes out of scope.
pub struct Process {
    child: Child,
    pub log: Stream<String>,
}

impl Process {
    /// Starts it, with standard output closed unless the command says otherwise.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let child = command.stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("start {command:?}: {error}; see tests/run"));
        let log = Stream::read(name, child.stderr.take().unwrap(), str::to_owned);
        Self { child, log }
    }

    pub fn stdout(&mut self) -> impl Read + Send + 'static {
        self.child.stdout.take().unwrap()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended by itself. Its standard error must end with it.
    pub fn wait(mut self) -> ExitStatus {
        assert!(self.log.wait_end(SOON), "pid {} is still there after {SOON:?}: {:#?}", self.id(), self.log.so_far());
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails where it has ended already, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
