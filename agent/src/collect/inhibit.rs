//! The file by which whoever works on the gateway keeps the agent's own remedies away: as long as it exists nothing is
//! done automatically. Its text is the reason. Says only whether it is there.

use std::path::Path;

use super::printable;
use crate::plain_file;

/// `/run` is empty after a boot, so that nobody's inhibition outlives the machine's.
pub(crate) const FILE: &str = "run/fieldmedic/inhibit";
/// The longest that is read, and how much of it is told.
const FILE_BYTES_MAX: u64 = 64 << 10;
const REASON_CHARS_MAX: usize = 256;

/// The reason why automatic remedies are inhibited; `None` if they aren't. It waits for nothing: whoever is about to
/// act looks as well as the collectors do.
pub(crate) fn inhibited(root: &Path) -> Option<String> {
    // Whoever holds off what is done here means this machine, whatever tree is measured.
    reason(root).or_else(|| reason(Path::new("/")))
}

fn reason(root: &Path) -> Option<String> {
    let file = root.join(FILE);
    if !file.exists() {
        return None;
    }
    // One that can't be read is there all the same.
    let text = plain_file::read(&file, FILE_BYTES_MAX).unwrap_or_default();
    let one_line = String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ");
    let reason = printable(&one_line, REASON_CHARS_MAX);
    Some(if reason.is_empty() { format!("/{FILE} is there") } else { reason })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the inhibitor is a file")]
mod tests {
    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn the_lines_of_a_reason_are_told_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "Kim works\r\nhere\n\n\tuntil noon\u{1b}\n").unwrap();
        assert_eq!(inhibited(dir.path()).as_deref(), Some("Kim works here until noon"));
    }

    #[test]
    fn one_that_is_no_file_inhibits_and_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        mkfifoat(CWD, &file, Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(inhibited(dir.path()).as_deref(), Some("/run/fieldmedic/inhibit is there"));
    }
}
