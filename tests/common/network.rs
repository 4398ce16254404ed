//! A network namespace of a test's own: what is done to links, addresses and routes in it, this machine doesn't notice.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Gone when it is dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// `None`, loudly, where there can be none: this isn't root's, or ip is missing. `what` is what takes one.
    pub fn new(what: &str) -> Option<Self> {
        static NAMESPACES: AtomicU32 = AtomicU32::new(0);
        let name = format!("fmt-{}-{}", std::process::id(), NAMESPACES.fetch_add(1, Ordering::Relaxed));
        let why = match Command::new("ip").args(["netns", "add", &name]).output() {
            Ok(added) if added.status.success() => return Some(Self { name }),
            Ok(added) => String::from_utf8_lossy(&added.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        eprintln!("SKIPPED: {what} takes a network namespace, which only root can make, with ip: {why}");
        None
    }

    /// Moves this thread into it, and with it all that it starts.
    pub fn enter(&self) {
        let namespace = File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Runs `ip` on it, which has to succeed; what it says.
    pub fn ip(&self, line: &str) -> String {
        let output = Command::new("ip").args(["-n", &self.name]).args(line.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same program with the same arguments, run in it.
    pub fn command(&self, outside: &Command) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(outside.get_program()).args(outside.get_args());
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // One that can't be taken away is left behind: a test that is ending can do nothing about it.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}
