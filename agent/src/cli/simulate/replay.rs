//! The command that replays a run, as it would be typed into a shell.

use std::path::PathBuf;

use crate::cli::shell::{word, word_of_path};
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
        let mut words = vec![word(&self.program), "simulate".to_owned(), word_of_path(&self.scenario)];
        for config in &self.configs {
            words.extend(["--config".to_owned(), word_of_path(config)]);
        }
        if let Some(policy) = &self.policy {
            words.extend(["--policy".to_owned(), word_of_path(policy)]);
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
}
