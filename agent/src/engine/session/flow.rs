//! What may go out now, and when more may: samples up to the last publish tick, a backlog of events and samples by its
//! ration, all of it as fast as the broker allows, and nothing on a topic that waits. Knows how a backlog of samples
//! goes. Sends nothing.

use std::time::Duration;

use super::topics::Topics;
use crate::config::Mqtt;
use crate::engine::outbox::Outbox;
use crate::engine::ration::{Allowance, Ration};
use crate::engine::record::Class;
use crate::engine::time::Mono;

/// A backlog that is being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Drain {
    /// Samples that waited when the connection came up.
    pub(in crate::engine) of: u64,
    /// When it did.
    pub(in crate::engine) since: Mono,
    /// When the fleet was told last how it goes.
    told: Mono,
}

impl Drain {
    /// A smaller one is gone before anybody could look.
    const WORTH_TELLING: u64 = 60;
    /// How often the fleet is told how it goes.
    const TOLD_EVERY: Duration = Duration::from_secs(60);

    const fn is_worth_telling(&self) -> bool {
        self.of >= Self::WORTH_TELLING
    }
}

/// How fast, and how far.
#[derive(Debug, Default)]
pub(in crate::engine) struct Flow {
    /// Telemetry up to here may be sent: up to the last publish tick, or to what waited when the connection came up.
    telemetry_upto: u64,
    /// Telemetry up to here is a backlog, and is rationed.
    backlog_upto: u64,
    /// The same of events.
    events_backlog_upto: u64,
    /// That takes more than a second: what comes meanwhile goes before it.
    is_overtaken: bool,
    /// How the backlog of this connection goes; `None` once it is sent.
    drain: Option<Drain>,
    /// A publish tick has come: telemetry up to here goes out once it may be sent.
    publish_due: Option<u64>,
    ration: Ration,
    /// What the broker allows this connection, where it is known to allow only so much.
    allowance: Option<Allowance>,
    /// It allows nothing before that.
    throttled_until: Option<Mono>,
    pub(super) topics: Topics,
}

impl Flow {
    /// A publish tick has come: what was made before it may go out when the outbox opens it. A tick before that is over
    /// changes nothing: with a store slower than the ticks, none would ever be over.
    pub(in crate::engine) fn publish_due(&mut self, outbox: &Outbox) {
        self.publish_due.get_or_insert(outbox.made_upto(Class::Telemetry));
    }

    /// A commit has ended, or what is due needs none. It may have been an earlier one: what is due waits for its own.
    pub(in crate::engine) fn committed(&mut self, outbox: &Outbox) {
        let sendable = outbox.sendable(Class::Telemetry);
        if self.publish_due.take_if(|upto| *upto <= sendable).is_some() {
            self.telemetry_upto = sendable;
        }
    }

    /// What a backlog may use, from now on.
    pub(in crate::engine) fn set_ration(&mut self, per_second: u32) {
        self.ration.set_rate(per_second);
    }

    pub(in crate::engine) const fn drain(&self) -> Option<Drain> {
        self.drain
    }

    pub(in crate::engine) fn drain_remaining(&self, outbox: &Outbox) -> u64 {
        let is_behind = |class: Class| outbox.is_behind(class, outbox.made_upto(class).min(self.backlog_upto));
        if !Class::SAMPLES.into_iter().any(is_behind) {
            return 0;
        }
        Class::SAMPLES.iter().map(|class| class.of(&outbox.store_stats().records)).sum()
    }

    /// The connection is up: what waits now is a backlog.
    pub(super) fn connected(&mut self, now: Mono, mqtt: &Mqtt, outbox: &Outbox) {
        self.topics.connected();
        self.telemetry_upto = outbox.sendable(Class::Telemetry);
        self.backlog_upto = self.telemetry_upto;
        self.events_backlog_upto = outbox.sendable(Class::Events);
        let events = *Class::Events.of(&outbox.store_stats().records);
        self.is_overtaken = events > mqtt.drain.publishes_per_second.into();
        let waiting = self.drain_remaining(outbox);
        self.drain = (waiting > 0).then_some(Drain { of: waiting, since: now, told: now });
        self.ration = Ration::new(now, mqtt.drain.publishes_per_second);
        self.allowance = Allowance::new(mqtt.limits, now);
    }

    /// The connection is gone, and with it the course of its backlog.
    pub(super) const fn disconnected(&mut self) {
        self.drain = None;
    }

    /// The backlog, with what is left of it, where that is to be told: now and then, and once when it is sent.
    pub(super) fn take_told(&mut self, now: Mono, outbox: &Outbox) -> Option<(Drain, u64)> {
        self.drain?;
        let remaining = self.drain_remaining(outbox);
        let told = if remaining == 0 {
            self.drain.take()
        } else {
            let goes_on = self.topics.is_open("telemetry");
            let due = self.drain.as_mut().filter(|drain| goes_on && now.since(drain.told) >= Drain::TOLD_EVERY);
            due.map(|drain| {
                drain.told = now;
                *drain
            })
        };
        Some((told.filter(Drain::is_worth_telling)?, remaining))
    }

    /// Until when nothing at all may be sent.
    pub(super) const fn throttled_until(&self) -> Option<Mono> {
        self.throttled_until
    }

    /// When a record may go out that waits for nothing but time.
    pub(super) fn next_at(&self, outbox: &Outbox) -> Option<Mono> {
        let (class, upto) = self.samples_next(outbox);
        let first = outbox.ready(class, upto).next().map(|(seq, _)| seq);
        // What waits for a page is tried again when the page comes.
        let waits = !self.topics.is_open("telemetry") || outbox.is_filling(class, upto);
        let samples = !waits && first.is_some_and(|seq| self.is_backlog(class, seq));
        let event = outbox.next(Class::Events).filter(|_| self.topics.is_open("events"));
        let rationed = samples || event.is_some_and(|(seq, _)| self.is_backlog(Class::Events, seq));
        let ration = rationed.then(|| self.ration.next_at());
        ration.into_iter().chain(self.topics.deadline()).min()
    }

    /// Whose samples come next, and up to which seq they may go out: the oldest first.
    pub(super) fn samples_next(&self, outbox: &Outbox) -> (Class, u64) {
        let class = Class::SAMPLES.into_iter().find(|class| outbox.has_unsent(*class)).unwrap_or(Class::Telemetry);
        (class, if class == Class::Telemetry { self.telemetry_upto } else { outbox.sendable(class) })
    }

    /// Whether the broker allows another publish now.
    pub(super) fn is_allowed(&mut self, now: Mono) -> bool {
        self.throttled_until =
            self.allowance.as_mut().and_then(|allowance| (!allowance.is_open(now)).then(|| allowance.next_at()));
        self.throttled_until.is_none()
    }

    /// Whether the message that begins with this record may go out: then it has taken its part of the ration.
    pub(super) fn take_ration(&mut self, now: Mono, class: Class, first: u64) -> bool {
        !self.is_backlog(class, first) || self.ration.take(now)
    }

    /// It did not go out after all.
    pub(super) fn give_back(&mut self, class: Class, first: u64) {
        if self.is_backlog(class, first) {
            self.ration.give_back();
        }
    }

    /// Whether a record waited when the connection came up. Results are never held up: whoever gave the command waits.
    const fn is_backlog(&self, class: Class, seq: u64) -> bool {
        match class {
            Class::Results => false,
            Class::Events => seq <= self.events_backlog_upto,
            Class::Telemetry | Class::Thinned | Class::Hourly => seq <= self.backlog_upto,
        }
    }

    /// Whether a record that is made while the connection stands goes before a backlog of its class.
    pub(in crate::engine) fn overtakes(&self, class: Class, outbox: &Outbox) -> bool {
        matches!(class, Class::Events) && self.is_overtaken && outbox.is_behind(class, self.events_backlog_upto)
    }

    /// So many bytes are published.
    pub(super) fn spend(&mut self, bytes: usize) {
        if let Some(allowance) = &mut self.allowance {
            allowance.spend(bytes);
        }
    }
}
