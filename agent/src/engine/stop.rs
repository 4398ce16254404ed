//! How the engine ends: the open interval is stored, what happened is told, presence says goodbye, and only then the
//! connection is closed. Each stage has a bound, so that a dead broker can't hold up a shutdown.

use std::time::Duration;

use super::Engine;
use super::effects::Purpose;
use super::io::{Effect, StopReason, StoreOp};
use super::keyed::{RUN_KEY, write};
use super::observation::Severity;
use super::reboot::GOES_DOWN_WITHIN;
use super::record::{Class, Event, EventKind};
use super::start::Run;
use super::time::{Mono, Now};

/// How long the last events may take to reach the broker.
const TELL_MAX: Duration = Duration::from_secs(2);
/// How long the broker may take to answer the goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// How long the connection may take to close, and the store to say what it has taken.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// A stop under way.
#[derive(Debug)]
pub(super) struct Stopping {
    reason: StopReason,
    stage: Stage,
    since: Mono,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The last events are on their way.
    Tell,
    /// The goodbye is on its way.
    Goodbye,
    /// The connection is closing, and the store is to say what it has taken: the rest is counted.
    Close,
    /// The machine was told to go down.
    Reboot,
    /// Nothing is left to do.
    Over,
}

impl Stopping {
    pub(super) fn deadline(&self) -> Option<Mono> {
        match self.stage {
            Stage::Tell => Some(self.since.after(TELL_MAX)),
            Stage::Goodbye => Some(self.since.after(GOODBYE_MAX)),
            Stage::Close => Some(self.since.after(CLOSE_MAX)),
            Stage::Reboot => Some(self.since.after(GOES_DOWN_WITHIN)),
            Stage::Over => None,
        }
    }

    fn is_overdue(&self, now: Mono) -> bool {
        self.deadline().is_some_and(|at| at <= now)
    }
}

impl Engine {
    /// Begins to stop; a second request only takes back that the machine goes down.
    pub(super) fn stop(&mut self, now: Now, reason: StopReason) {
        if let Some(stopping) = &mut self.stopping {
            // Told to stop while it waits for the machine to go down: that is it.
            if stopping.stage == Stage::Reboot {
                stopping.stage = Stage::Over;
                self.effects.push(Effect::Exit);
            }
            stopping.reason = reason;
            self.leave_reboot();
            return;
        }
        let why = self.reboot_reason().filter(|_| reason == StopReason::Rebooting);
        if why.is_none() {
            // Somebody else stops the agent: a restart whose time has not come is not ordered in passing.
            self.leave_reboot();
        }
        // Not judged: the counts of an interval that was cut short clear no alarm.
        let sample = self.close_interval(now);
        self.save_cursor();
        self.store_sample(now, sample);
        let learned = self.rules.learned(now.mono);
        self.save_learned(learned);
        self.save_data_use(now, true);
        // The lines in them were read, and will not be again.
        self.incidents.close_buckets(now.mono);
        self.record_event(now, Event::new(Severity::Info, EventKind::Lifecycle, "stopping"));
        let run = Run { at: self.timeline.stamp(now.mono), clean: true, reboot: why.map(Into::into) };
        let mut entries = vec![write(RUN_KEY, &run), self.seqs.end(), self.session.subscriptions.entry()];
        let left = self.left_of_beginning();
        entries.extend(left.iter().cloned());
        let saved = self.timeline.save();
        entries.extend(self.timeline_entries(&saved));
        entries.extend(self.forget_told());
        self.effects.put(Purpose::RunMark, entries);
        // The store may refuse it again, and then the machine stay up.
        self.beginning = Some(left).filter(|left| !left.is_empty());
        self.outbox.store_held(now.mono, &mut self.effects);
        self.outbox.retry_now(now.mono);
        self.outbox.commit(&mut self.effects);
        self.session.flow.publish_due(&self.outbox);
        self.session.say_attributes_now();
        self.stopping = Some(Stopping { reason, stage: Stage::Tell, since: now.mono });
    }

    /// Goes from stage to stage as each is done, or has taken too long.
    pub(super) fn advance_stop(&mut self, now: Now) {
        let Some(mut stopping) = self.stopping.take() else { return };
        let enter = |stopping: &mut Stopping, stage: Stage| {
            stopping.stage = stage;
            stopping.since = now.mono;
        };
        let online = self.link.is_online();
        if stopping.stage == Stage::Tell {
            let drained = [Class::Results, Class::Events].iter().all(|class| self.outbox.is_drained(*class));
            let counted = self.incidents.deadline().is_none();
            let answered = !self.commands.owes_answers();
            // A broker may hang up on what exceeds its window, and then say itself that we are lost.
            let told = drained && answered && self.session.has_room(&self.link);
            if stopping.is_overdue(now.mono) || (counted && (told || !online)) {
                // Nothing else has them: what the store does not take is counted.
                self.commands.tell_answers(usize::MAX);
                self.run_steps(now);
                self.say_offline(now, stopping.reason.word());
                enter(&mut stopping, Stage::Goodbye);
            }
        }
        // In the same breath: a connection that came up meanwhile would say online, and nobody would take it back.
        if stopping.stage == Stage::Goodbye {
            let answered = self.link.inflight() == 0 || !online;
            if answered || stopping.is_overdue(now.mono) {
                self.link.disconnect(now.mono, &mut self.effects);
                self.link.hold();
                enter(&mut stopping, Stage::Close);
            }
        }
        let closed = self.link.is_idle() && self.outbox.is_settled();
        if stopping.stage == Stage::Close && (closed || stopping.is_overdue(now.mono)) {
            self.outbox.count_refused();
            self.save_dropped();
            // The runtime lets the store finish what is queued before it ends.
            self.effects.close();
            self.effects.store(Purpose::Note, StoreOp::Commit);
            // What was done in the meantime may wait for a boot, too: who stops the agent hasn't asked for one.
            if stopping.reason == StopReason::Rebooting && self.go_down() {
                enter(&mut stopping, Stage::Reboot);
            } else {
                self.leave_reboot();
                self.effects.push(Effect::Exit);
                enter(&mut stopping, Stage::Over);
            }
        }
        let still_up = stopping.stage == Stage::Reboot && stopping.is_overdue(now.mono);
        self.stopping = Some(stopping);
        if still_up {
            self.still_up(now);
        }
    }
}
