//! The file by which whoever works on the gateway keeps the agent's own remedies away: as long as it exists nothing is
//! done automatically. Its text is the reason. Says only whether it is there.

use std::path::Path;

use super::printable;
use super::round::Round;

/// `/run` is empty after a boot, so that nobody's inhibition outlives the machine's.
const FILE: &str = "run/fieldmedic/inhibit";
/// How much of its text is told.
const REASON_CHARS_MAX: usize = 256;

/// The same, looked at just now: collectors that hang have nothing to say of it.
pub(crate) fn inhibited(root: &Path) -> Option<String> {
    collect(&mut Round::new(root))
}

/// The reason why automatic remedies are inhibited; `None` if they aren't.
pub(super) fn collect(round: &mut Round<'_>) -> Option<String> {
    // Whoever holds off what is done here means this machine, whatever tree is measured.
    reason(round).or_else(|| reason(&mut Round::new(Path::new("/"))))
}

fn reason(round: &mut Round<'_>) -> Option<String> {
    if !round.exists(FILE) {
        return None;
    }
    // One that can't be read is there all the same.
    let text = round.text(FILE).ok().flatten().unwrap_or_default();
    let reason = printable(&text, REASON_CHARS_MAX);
    Some(if reason.is_empty() { format!("/{FILE} is there") } else { reason })
}
