//! Command lines that are printed for whoever will type them.

use std::path::Path;

/// A word that a POSIX shell takes as it is (XCU 2.2): quoted where it has to be.
pub(super) fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

pub(super) fn word_of_path(path: &Path) -> String {
    word(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a shell is asked what it makes of the words")]
    fn a_shell_gives_back_every_word_as_it_was() {
        for text in ["", "plain-1.toml", "two words", "it's", "$(reboot)", "a\\b", "~/x", "*", "a\nb", "\"", "#x", "ü"]
        {
            let script = format!("printf %s {}", word(text));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text, "{script}");
        }
    }
}
