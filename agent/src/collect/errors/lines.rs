//! Lines of a stream, each at most so long. A longer one is read past and reported as such, so that it costs itself and
//! not the memory. Cancel-safe: a call that is dropped loses nothing.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// A line of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Without its end.
    Whole(Vec<u8>),
    /// Longer than the limit; read past.
    TooLong,
}

/// Reads lines from `stream`.
pub(super) struct Lines<R> {
    stream: R,
    bytes_max: usize,
    line: Vec<u8>,
    too_long: bool,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn new(stream: R, bytes_max: usize) -> Self {
        Self { stream, bytes_max, line: Vec::new(), too_long: false }
    }

    /// The next line that has an end; `None` at the end of the stream. A last line without an end was cut off: nothing.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let chunk = self.stream.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
            if self.too_long || self.line.len() + part.len() > self.bytes_max {
                self.too_long = true;
                self.line.clear();
            } else {
                self.line.extend_from_slice(part);
            }
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.stream.consume(used);
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                let too_long = std::mem::take(&mut self.too_long);
                return Ok(Some(if too_long { Line::TooLong } else { Line::Whole(line) }));
            }
        }
    }
}
