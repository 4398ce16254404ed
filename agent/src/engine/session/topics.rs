//! Which of our topics wait, because the broker refused what was sent there last, and for how long: it may be put right
//! any minute, so what it refused is tried again, and a broker that goes on refusing is asked less and less often. Says
//! nothing of the records that wait: they stay where they are.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::link::WINDOW_MAX;
use crate::engine::packet::AckReason;
use crate::engine::time::Mono;

/// How long a topic waits after the first refusal.
const WAIT_FIRST: Duration = Duration::from_secs(10);
/// And after many, at most.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// With so many messages a topic is tried on which something is too long: what goes out beside it goes once more each
/// time, or is too long as well.
const BESIDE_LONG: usize = 8;

/// The topics that the broker did not take the last message on, by their last words. Those of records only.
#[derive(Debug, Default)]
pub(super) struct Topics(BTreeMap<&'static str, Waiting>);

#[derive(Debug)]
struct Waiting {
    /// How long it was waited last.
    wait: Duration,
    /// Nothing goes out there before; `None`: it is being tried.
    until: Option<Mono>,
    /// That is for what was not sent: what was, and is refused, makes it longer.
    withheld: bool,
    /// So many messages it is tried with, until the broker answers one.
    tries: usize,
}

impl Topics {
    /// Whether something may go out on a topic now.
    pub(super) fn is_open(&self, leaf: &str) -> bool {
        self.0.get(leaf).is_none_or(|waiting| waiting.until.is_none() && waiting.tries > 0)
    }

    /// Something did.
    pub(super) fn sent(&mut self, leaf: &str) {
        if let Some(waiting) = self.0.get_mut(leaf) {
            waiting.tries = waiting.tries.saturating_sub(1);
        }
    }

    /// The broker refused what was sent there.
    pub(super) fn refused(&mut self, now: Mono, leaf: &'static str, reason: AckReason) {
        let waiting = self.waiting(leaf);
        // Nothing went out since the last refusal: this one is of the same window.
        if waiting.until.is_some() && !std::mem::take(&mut waiting.withheld) {
            return;
        }
        waiting.wait = waiting.wait.saturating_mul(2).clamp(WAIT_FIRST, WAIT_MAX);
        waiting.until = Some(now.after(waiting.wait));
        // Where one record may be to blame it is seen by the others whether it is.
        waiting.tries = match reason {
            AckReason::TooLarge => BESIDE_LONG,
            _ if reason.is_of_the_record() => WINDOW_MAX,
            _ => 1,
        };
    }

    /// What was to be sent there is too long, and was not. To find that again costs no traffic.
    pub(super) fn withheld(&mut self, now: Mono, leaf: &'static str) {
        let waiting = self.waiting(leaf);
        if waiting.until.is_none() {
            waiting.until = Some(now.after(WAIT_FIRST));
            waiting.withheld = true;
        }
        waiting.tries = BESIDE_LONG;
    }

    fn waiting(&mut self, leaf: &'static str) -> &mut Waiting {
        self.0.entry(leaf).or_insert(Waiting { wait: Duration::ZERO, until: None, withheld: false, tries: 0 })
    }

    /// It refused what was sent there as too large, and that goes there once more, shorter.
    pub(super) fn shortened(&mut self, leaf: &str) {
        if let Some(waiting) = self.0.get_mut(leaf) {
            waiting.tries = waiting.tries.max(1);
        }
    }

    /// The broker has nothing against the topic: it took what was sent there.
    pub(super) fn taken(&mut self, leaf: &str) {
        match self.0.get_mut(leaf) {
            // It was sent before what was refused: that still waits, but from now on no longer than at first.
            Some(Waiting { wait, until: Some(_), .. }) => *wait = Duration::ZERO,
            _ => drop(self.0.remove(leaf)),
        }
    }

    /// Another connection: what a topic was tried with on the last one is answered no more. What waits goes on waiting,
    /// because a broker may hang up over what it refuses, and there would be connections for nothing else.
    pub(super) fn connected(&mut self) {
        for waiting in self.0.values_mut() {
            waiting.tries = waiting.tries.max(1);
        }
    }

    /// Perhaps somebody has put it right: all is tried at once. Not as if nothing had been refused.
    pub(super) fn try_again(&mut self) {
        for waiting in self.0.values_mut() {
            waiting.until = None;
        }
        self.connected();
    }

    /// Ends the waits that are over.
    pub(super) fn poll(&mut self, now: Mono) {
        for waiting in self.0.values_mut() {
            waiting.until.take_if(|until| *until <= now);
        }
    }

    /// When the first of them is.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.0.values().filter_map(|waiting| waiting.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENIED: AckReason = AckReason::NotAuthorized;

    /// Refuses what goes out as soon as it may, so often: how long each was waited for, in seconds.
    fn waits(topics: &mut Topics, times: usize) -> Vec<u64> {
        let refuse = |_| {
            topics.refused(Mono::default(), "events", DENIED);
            let at = topics.deadline().unwrap();
            topics.poll(at);
            at.since(Mono::default()).as_secs()
        };
        (0..times).map(refuse).collect()
    }

    #[test]
    fn a_topic_that_is_refused_again_and_again_waits_longer_and_not_for_ever() {
        let mut topics = Topics::default();
        assert_eq!(waits(&mut topics, 8), [10, 20, 40, 80, 160, 300, 300, 300]);
        assert!(topics.is_open("telemetry"), "another one does not wait");
        topics.taken("events");
        assert_eq!(waits(&mut topics, 2), [10, 20]);
        topics.withheld(Mono::default(), "events");
        assert_eq!(topics.deadline(), Some(Mono::default().after(WAIT_FIRST)), "what isn't sent costs nothing");
        topics.poll(Mono::default().after(WAIT_FIRST));
        assert_eq!(waits(&mut topics, 1), [40]);
    }

    #[test]
    fn a_topic_is_tried_with_one_message_and_one_record_by_what_goes_with_it() {
        for (reason, opens) in [(DENIED, false), (AckReason::Other(0x80), true)] {
            let mut topics = Topics::default();
            topics.refused(Mono::default(), "events", reason);
            assert!(!topics.is_open("events"));
            topics.poll(Mono::default().after(WAIT_FIRST));
            assert!(topics.is_open("events"));
            topics.sent("events");
            assert_eq!(topics.is_open("events"), opens, "{reason}");
            topics.connected();
            assert!(topics.is_open("events"), "its answer was lost with the connection");
            topics.refused(Mono::default(), "events", reason);
            topics.connected();
            assert!(!topics.is_open("events"), "the broker may have hung up over it");
            topics.try_again();
            topics.taken("events");
            topics.sent("events");
            assert!(topics.is_open("events"));
        }
    }

    #[test]
    fn what_is_refused_or_taken_of_one_window_makes_one_wait() {
        let mut topics = Topics::default();
        for _ in 0..9 {
            topics.refused(Mono::default(), "events", DENIED);
        }
        topics.taken("events");
        assert!(!topics.is_open("events"), "it was sent before that");
        assert_eq!(topics.deadline(), Some(Mono::default().after(WAIT_FIRST)));
    }
}
