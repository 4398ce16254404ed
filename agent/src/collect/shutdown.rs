//! Who keeps the machine from being shut down: logind's block inhibitors (systemd-inhibit(1)). logind is asked only
//! when its directory of inhibitors has changed, so that a gateway on which nobody wishes anything costs one look at a
//! directory a round. What it means for a remedy is the engine's business.
#![expect(clippy::disallowed_methods, reason = "another daemon's answer has a deadline")]

use std::time::Duration;

use tokio::time::timeout;

use super::printable;
use super::round::Round;
use crate::act::systemd;
use crate::engine::time::Mono;
use crate::one_thread;

/// A file for each inhibitor: that it is there is all that is read of it, the rest is logind's own.
const DIR: &str = "run/systemd/inhibit";
/// A round waits for no longer than this.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// A logind that has not answered is asked again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How much of what it says is told.
const WHO_CHARS_MAX: usize = 256;

/// What is kept from round to round.
#[derive(Debug, Default)]
pub(super) struct Blockers {
    /// The inhibitors that there were when logind was asked.
    asked_of: Vec<String>,
    who: Option<String>,
    not_before: Option<Mono>,
}

impl Blockers {
    /// Who keeps the machine up; `None`: nobody, as far as is known.
    pub(super) fn collect(&mut self, now: Mono, round: &mut Round<'_>) -> Option<String> {
        self.collect_from(now, round, ask)
    }

    fn collect_from(
        &mut self,
        now: Mono,
        round: &mut Round<'_>,
        ask: impl FnOnce() -> Result<Option<String>, String>,
    ) -> Option<String> {
        let there = round.names(DIR);
        if there == self.asked_of || self.not_before.is_some_and(|at| now < at) {
            return self.who.clone();
        }
        self.not_before = None;
        if there.is_empty() {
            *self = Self::default();
            return None;
        }
        match ask() {
            Ok(who) => {
                self.who = who.map(|who| printable(&who, WHO_CHARS_MAX));
                self.asked_of = there;
            }
            // What it said before holds until it says something else.
            Err(why) => {
                round.fault("org.freedesktop.login1", why);
                self.not_before = Some(now.after(AGAIN_AFTER));
            }
        }
        self.who.clone()
    }
}

/// On a connection of its own: inhibitors come and go rarely.
fn ask() -> Result<Option<String>, String> {
    let runtime = one_thread::runtime().map_err(|error| error.to_string())?;
    match runtime.block_on(async { timeout(ANSWER_MAX, systemd::who_blocks_shutdown()).await }) {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {ANSWER_MAX:?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn logind_is_asked_when_its_inhibitors_have_changed_and_at_no_other_time() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join(DIR);
        let mut blockers = Blockers::default();
        let mut asked = 0;
        let mut look = |at: u64, answer: Result<Option<String>, String>| {
            let mut round = Round::new(root.path());
            let who = blockers.collect_from(Mono(at), &mut round, || {
                asked += 1;
                answer
            });
            (who, asked)
        };
        let updater = Some("updater inhibits it".to_owned());
        assert_eq!(look(0, Ok(updater.clone())), (None, 0), "there is no logind");
        fs::create_dir_all(&dir).unwrap();
        assert_eq!(look(1, Ok(updater.clone())), (None, 0), "nobody inhibits anything");
        fs::write(dir.join("1"), "").unwrap();
        assert_eq!(look(2, Ok(updater.clone())), (updater.clone(), 1));
        assert_eq!(look(3, Ok(None)), (updater.clone(), 1), "nothing has changed");
        fs::write(dir.join("2"), "").unwrap();
        assert_eq!(look(4, Err("no answer".into())), (updater.clone(), 2), "what it said holds");
        assert_eq!(look(5, Ok(None)), (updater, 2), "one that hangs is not asked each time");
        assert_eq!(look(70_000, Ok(None)), (None, 3));
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(look(70_001, Ok(Some("nobody".into()))), (None, 3));
    }
}
