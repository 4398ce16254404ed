//! Takes connections and passes each on to a port of 127.0.0.1, on two threads that end with it. How bytes are passed
//! is the test's: plainly, counted, looked at.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the port.
    There,
    /// From it.
    Back,
}

/// Passes on what the listener takes, as long as the test's process runs: a listener has no other end. `pass` returns
/// where its side has closed, or fails.
pub fn relay(
    listener: TcpListener,
    upstream: u16,
    pass: impl Fn(Way, &TcpStream, &TcpStream) -> io::Result<()> + Send + Sync + 'static,
) {
    let pass = Arc::new(pass);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else { continue };
            for (way, from, to) in [(Way::There, &client, &server), (Way::Back, &server, &client)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let pass = Arc::clone(&pass);
                thread::spawn(move || close(pass(way, &from, &to), &from, &to));
            }
        }
    });
}

/// All bytes as they are.
pub fn plainly(_: Way, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    io::copy(&mut from, &mut to).map(drop)
}

/// Either side may go at any time: one that has closed may still be listening, one that has failed is gone.
fn close(passed: io::Result<()>, from: &TcpStream, to: &TcpStream) {
    let _ = to.shutdown(if passed.is_ok() { Shutdown::Write } else { Shutdown::Both });
    if passed.is_err() {
        let _ = from.shutdown(Shutdown::Both);
    }
}
