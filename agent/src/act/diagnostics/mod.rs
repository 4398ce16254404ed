//! A snapshot for whoever has to find out from afar what a gateway is up to: plain text in sections, what matters most
//! first, without secrets, compressed, and never larger than a bound. What can't be read says so in its place. It
//! reads; it changes nothing.

mod files;
mod mask;
mod network;
mod readers;
mod sections;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;

use self::mask::masked;
use self::readers::Readers;
use crate::engine::io::ActOutcome;
use crate::text::head;
use crate::wire::payload::compress;
use crate::wire::printable;

/// Bytes of a compressed snapshot.
const SNAPSHOT_MAX: usize = 256 * 1024;
/// Bytes of a line.
const LINE_MAX: usize = 4 * 1024;
/// A section never loses more lines at a time than this share of them.
const CUT: usize = 2;

/// What was read, or in words why it could not be.
type Read = Result<String, String>;

/// Takes snapshots.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    /// Where /proc, /sys and /etc are.
    root: PathBuf,
    /// The effective configuration.
    config: String,
    readers: Readers,
}

/// What a section is called, and what it may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    name: &'static str,
    /// Bytes, of which the last are kept.
    bytes: usize,
    within: Duration,
}

/// A part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Section {
    name: &'static str,
    text: String,
    /// Its first lines are the older ones: they go first.
    left_out: usize,
}

impl Diagnostics {
    /// Reads below `root`, and says what is configured.
    #[must_use]
    pub fn new(root: PathBuf, config: String) -> Self {
        Self { root, config, readers: Readers::default() }
    }

    /// Takes a snapshot. Sections that are not done within the time are left out, and say so. What goes wrong is
    /// `canceled`.
    pub async fn take(&self, within: Duration, canceled: oneshot::Receiver<()>) -> ActOutcome {
        let sections = tokio::select! {
            biased;
            // An error means that nobody can cancel any more.
            Ok(()) = canceled => return ActOutcome::canceled("no snapshot was taken"),
            sections = sections::collect(self, within) => sections,
        };
        let sections = sections.into_iter().map(|(bound, result)| Section::new(bound, result)).collect();
        let (compressed, text_bytes) = fit(sections);
        let how = if cfg!(feature = "zstd") { "compressed with zstd" } else { "kept: this build has no zstd" };
        let detail = format!("{text_bytes} B of text, {} B {how}", compressed.len());
        ActOutcome { attachment: Some(compressed), ..ActOutcome::succeeded(detail) }
    }
}

impl Section {
    fn new(bound: Bound, result: Read) -> Self {
        let text = result.unwrap_or_else(|why| format!("(not read: {why})"));
        // Masked before it is cut: half a secret is not told as one.
        let lines = masked(&text);
        let lines = lines.iter().map(|line| printable(head(line, LINE_MAX)));
        let mut section = Self { name: bound.name, text: lines.collect::<Vec<_>>().join("\n"), left_out: 0 };
        while section.text.len() > bound.bytes {
            section.shorten();
        }
        section
    }

    /// Leaves its older half out.
    fn shorten(&mut self) {
        let lines: Vec<&str> = self.text.lines().collect();
        let gone = lines.len().div_ceil(CUT);
        self.left_out += gone;
        self.text = lines.get(gone..).unwrap_or_default().join("\n");
    }

    fn write(&self, text: &mut String) {
        text.push_str(&format!("== {}\n", self.name));
        if self.left_out > 0 {
            text.push_str(&format!("({} lines before this are left out)\n", self.left_out));
        }
        text.push_str(&self.text);
        text.push_str("\n\n");
    }
}

/// Compresses the sections; as long as they are too much, the largest loses its older half.
fn fit(mut sections: Vec<Section>) -> (Box<[u8]>, usize) {
    loop {
        let mut text = String::new();
        sections.iter().for_each(|section| section.write(&mut text));
        let bytes = text.len();
        let compressed = compress(text.into_bytes());
        let largest = sections.iter_mut().max_by_key(|section| section.text.len());
        match largest {
            Some(largest) if compressed.len() > SNAPSHOT_MAX && !largest.text.is_empty() => largest.shorten(),
            _ => return (compressed.into(), bytes),
        }
    }
}

#[cfg(test)]
mod tests;
