//! The file by which whoever works on the gateway keeps the agent's own remedies away: as long as it exists nothing is done
//! automatically. Its text is the reason. Says only whether it is there.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::printable;
use super::round::Round;

/// `/run` is empty after a boot, so that nobody's inhibition outlives the machine's. A tree that stands in for the kernel's
/// files may have one of its own.
const FILE: &str = "run/fieldmedic/inhibit";
/// How much of its text is told.
const REASON_CHARS_MAX: usize = 256;
/// How much of it is read.
const REASON_BYTES_MAX: u64 = 4096;

/// The reason why automatic remedies are inhibited; `None` if they aren't.
pub(super) fn collect(round: &mut Round<'_>) -> Option<String> {
    // One that can't be read is there all the same.
    let text = if round.exists(FILE) { round.text(FILE).ok().flatten().unwrap_or_default() } else { of_machine()? };
    let reason = printable(&text, REASON_CHARS_MAX);
    Some(if reason.is_empty() { format!("/{FILE} is there") } else { reason })
}

/// Whoever holds off what is done here means this machine, whatever tree is measured.
fn of_machine() -> Option<String> {
    let path = Path::new("/").join(FILE);
    if !path.exists() {
        return None;
    }
    let mut text = Vec::new();
    // As above.
    let _ = File::open(path).and_then(|file| file.take(REASON_BYTES_MAX).read_to_end(&mut text));
    Some(String::from_utf8_lossy(&text).into_owned())
}
