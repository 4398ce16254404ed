//! Which of our topics the broker takes no publish on, by its last answer for each on this connection. It is only told:
//! what becomes of what was refused is decided where it is answered.

use std::collections::BTreeMap;

use crate::engine::link::{Cargo, advice};
use crate::engine::packet::AckReason;

/// Why it refused the last publish of this connection on each of our topics, by their last words.
#[derive(Debug, Default)]
pub(super) struct Denied(BTreeMap<&'static str, AckReason>);

impl Denied {
    /// A connection begins: what is refused on it shows. Some of our topics have nothing to send for days, and what was
    /// put right meanwhile would stand as refused for as long.
    pub(super) fn connected(&mut self) {
        self.0.clear();
    }

    /// The broker answered a publish on that topic. Gives what it keeps of us that is to be said again: it takes now
    /// what it refused before, and nobody else would say that.
    pub(super) fn answered(&mut self, leaf: &'static str, reason: AckReason) -> Vec<Cargo> {
        match reason {
            _ if reason.is_taken() => self.0.remove(leaf).map_or_else(Vec::new, |was| self.forget(was)),
            // That is of one message, as long as shorter ones are tried.
            AckReason::TooLarge => Vec::new(),
            _ => {
                self.0.insert(leaf, reason);
                Vec::new()
            }
        }
    }

    /// What is to go on that topic is too large, and can't be made shorter.
    pub(super) fn too_large(&mut self, leaf: &'static str) {
        self.0.insert(leaf, AckReason::TooLarge);
    }

    /// What was wrong was put right: whether it is so for the other topics, too, their next publish shows, and that may
    /// be days away.
    fn forget(&mut self, was: AckReason) -> Vec<Cargo> {
        let mut again = Vec::new();
        self.0.retain(|leaf, reason| {
            match *leaf {
                // What goes on another topic may be longer.
                _ if *reason != was || was == AckReason::TooLarge => return true,
                "presence" => again.push(Cargo::Presence),
                "attributes" => again.push(Cargo::Attributes),
                _ => {}
            }
            false
        });
        // What is refused for now is said again anyway.
        if was.is_for_now() { Vec::new() } else { again }
    }

    /// In words, with what to do about it.
    pub(super) fn fault(&self) -> Option<String> {
        let mut reasons: Vec<AckReason> = Vec::new();
        for reason in self.0.values() {
            if !reasons.contains(reason) {
                reasons.push(*reason);
            }
        }
        let line = |reason: &AckReason| {
            let leaves: Vec<&str> = self.0.iter().filter(|(_, why)| *why == reason).map(|(leaf, _)| *leaf).collect();
            format!("it refuses our {} ({reason}): {}", leaves.join(", "), advice(*reason))
        };
        (!reasons.is_empty()).then(|| reasons.iter().map(line).collect::<Vec<_>>().join("; "))
    }
}
