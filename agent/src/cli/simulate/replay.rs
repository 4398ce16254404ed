//! The command that replays a run, as it would be typed into a shell.

use std::path::{Path, PathBuf};

use crate::sim::planted::Planted;

/// What a run is replayed by, but for its seed.
#[derive(Debug, Clone)]
pub(super) struct Replay {
    /// The program, as it was called.
    pub(super) program: String,
    /// The scenario, as it was named.
    pub(super) scenario: PathBuf,
    /// The configurations, as they were named.
    pub(super) configs: Vec<PathBuf>,
    /// Root's policy, where one was named.
    pub(super) policy: Option<PathBuf>,
    /// The bug that was planted.
    pub(super) planted: Option<Planted>,
}

impl Replay {
    /// One line for a POSIX shell.
    pub(super) fn command(&self, seed: u64) -> String {
        let mut words = vec![quoted(&self.program), "simulate".to_owned(), quoted_path(&self.scenario)];
        for config in &self.configs {
            words.extend(["--config".to_owned(), quoted_path(config)]);
        }
        if let Some(policy) = &self.policy {
            words.extend(["--policy".to_owned(), quoted_path(policy)]);
        }
        words.extend(["--seed".to_owned(), seed.to_string()]);
        if let Some(bug) = self.planted {
            words.extend(["--plant".to_owned(), bug.word().to_owned()]);
        }
        words.join(" ")
    }

    /// The same for one gateway of a fleet.
    pub(super) fn fleet_of_one(&self, seed: u64) -> String {
        self.command(seed) + " --fleet 1"
    }
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A word that a POSIX shell takes as it is (XCU 2.2): quoted where it has to be.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_is_what_would_be_typed() {
        let replay = Replay {
            program: "fieldmedic".into(),
            scenario: "my scenarios/it's cold.toml".into(),
            configs: vec!["base.toml".into(), "$SITE.toml".into()],
            policy: Some("policy.toml".into()),
            planted: Some(Planted::NoJitter),
        };
        assert_eq!(
            replay.command(17),
            r"fieldmedic simulate 'my scenarios/it'\''s cold.toml' --config base.toml --config '$SITE.toml' --policy policy.toml --seed 17 --plant no-jitter"
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a shell is asked what it makes of the words")]
    fn a_shell_gives_back_every_word_as_it_was() {
        for word in ["", "plain-1.toml", "two words", "it's", "$(reboot)", "a\\b", "~/x", "*", "a\nb", "\"", "#x", "ü"]
        {
            let script = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word, "{script}");
        }
    }
}
