//! Passes bytes between a client and a port on 127.0.0.1, and reads the headers of the TLS records that the port sends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::relay::{Way, plainly, relay};

/// Content type, version and length of a record (RFC 8446, section 5.1).
const HEADER_BYTES: usize = 5;

pub(crate) struct Tap {
    port: u16,
    largest: Arc<AtomicUsize>,
}

impl Tap {
    pub(crate) fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, largest) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&largest);
        relay(listener, upstream, move |way, from, to| match way {
            Way::There => plainly(way, from, to),
            Way::Back => loop {
                pass_record(from, to, &seen)?;
            },
        });
        Self { port, largest }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// In bytes, without its header.
    pub(crate) fn largest_record(&self) -> usize {
        self.largest.load(Ordering::Relaxed)
    }
}

fn pass_record(mut from: &TcpStream, mut to: &TcpStream, largest: &AtomicUsize) -> std::io::Result<()> {
    let mut record = vec![0; HEADER_BYTES];
    from.read_exact(&mut record)?;
    let len = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(HEADER_BYTES + len, 0);
    from.read_exact(&mut record[HEADER_BYTES..])?;
    largest.fetch_max(len, Ordering::Relaxed);
    to.write_all(&record)
}
