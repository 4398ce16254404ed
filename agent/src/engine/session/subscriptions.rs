//! Which command topics the broker's session has, and which it is asked for. What it is known to have is saved, so that
//! after another start nothing is asked for twice; it counts as complete only when the broker has said so. What comes
//! on the topics is read elsewhere.

use minicbor::{Decode, Encode};

use crate::engine::Engine;
use crate::engine::effects::Purpose;
use crate::engine::io::LogLevel;
use crate::engine::keyed::{SUBSCRIBED_KEY, Write, write};
use crate::engine::link::Withheld;
use crate::engine::observation::Severity;
use crate::engine::record::{Event, EventKind};
use crate::engine::time::Now;

/// Command topics asked for in one packet: AWS IoT Core takes no more.
const FILTERS_PER_SUBSCRIBE_MAX: usize = 8;

/// How the fault begins of a broker that refuses nothing, and promises less than it was asked to.
pub(crate) const GRANTED_LESS: &str = "it grants";

/// What is known of the filters that the broker's session has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(in crate::engine) struct Subscribed {
    /// No others than these.
    #[n(0)]
    filters: Vec<String>,
    /// All of them. Not while an answer is awaited: a link that breaks meanwhile leaves a session that is kept, and
    /// deaf.
    #[n(1)]
    all: bool,
    /// What the broker withheld of them when it answered last, as the fleet knows.
    #[n(2)]
    #[cbor(default)]
    withheld: Withheld,
}

/// What is asked of the broker, and what it has.
#[derive(Debug, Default)]
pub(in crate::engine) struct Subscriptions {
    /// Filters that are yet to be subscribed to, and what the broker withheld of those before.
    unsubscribed: Vec<(String, u8)>,
    withheld: Withheld,
    /// The filters that were asked for last.
    wanted: Vec<String>,
    subscribed: Subscribed,
}

impl Subscriptions {
    /// Begins with the filters that the broker's session had when they were last saved. A run that was cut off may have
    /// found that the broker has forgotten it, and died before that was saved: the session that it left then is kept,
    /// and deaf. So only after a goodbye (`exact`) is it known to have them all.
    pub(super) fn new(mut subscribed: Subscribed, exact: bool) -> Self {
        subscribed.all &= exact;
        Self { subscribed, ..Self::default() }
    }

    /// What is to be saved of it: at the latest with the goodbye that makes the next start believe it.
    pub(in crate::engine) fn entry(&self) -> Write {
        write(SUBSCRIBED_KEY, &self.subscribed)
    }

    /// These are to be asked for, from the first on.
    fn want(&mut self, filters: Vec<String>) {
        self.unsubscribed = filters.iter().map(|filter| (filter.clone(), 1)).collect();
        self.wanted = filters;
        self.withheld = Withheld::default();
    }

    /// Why commands don't come, or not all.
    pub(super) fn fault(&self) -> Option<String> {
        match self.subscribed.withheld {
            Withheld { refused: 0, qos_0: 0 } => None,
            Withheld { refused: 0, qos_0 } => Some(format!(
                "{GRANTED_LESS} {qos_0} of our command topics at QoS 0: what comes there may be lost on the way"
            )),
            Withheld { refused, .. } => Some(format!("it refuses {refused} of our command topics: check its ACL")),
        }
    }

    /// What the next packet asks for.
    fn next(&mut self) -> Vec<(String, u8)> {
        let rest = self.unsubscribed.len().min(FILTERS_PER_SUBSCRIBE_MAX);
        self.unsubscribed.drain(..rest).collect()
    }
}

impl Engine {
    /// Subscribes, unless the broker kept a session that is known to have all our filters: there it would only cost.
    pub(in crate::engine) fn subscribe(&mut self, now: Now, session_present: bool) {
        let filters = self.filters();
        let subscriptions = &mut self.session.subscriptions;
        let known = std::mem::take(&mut subscriptions.subscribed);
        if session_present && known.all && known.filters == filters {
            subscriptions.subscribed = known;
            return;
        }
        let mut stale = if session_present { known.filters } else { Vec::new() };
        stale.retain(|old| !filters.contains(old));
        if !stale.is_empty() {
            self.link.unsubscribe(now.mono, stale.clone(), &mut self.effects);
        }
        let all = [filters.clone(), stale].concat();
        self.save_subscribed(Subscribed { filters: all, all: false, withheld: known.withheld });
        self.session.subscriptions.want(filters);
        self.subscribe_next(now);
    }

    /// The broker answered for some of our filters.
    pub(super) fn granted(&mut self, now: Now, withheld: Withheld) {
        let subscriptions = &mut self.session.subscriptions;
        subscriptions.withheld.refused += withheld.refused;
        subscriptions.withheld.qos_0 += withheld.qos_0;
        if !subscriptions.unsubscribed.is_empty() {
            return self.subscribe_next(now);
        }
        let (withheld, told) = (subscriptions.withheld, subscriptions.subscribed.withheld);
        // What is withheld is asked for again at the next connection; what was left is left.
        let filters = std::mem::take(&mut subscriptions.wanted);
        self.save_subscribed(Subscribed { filters, all: withheld == Withheld::default(), withheld });
        if withheld != told {
            self.tell_granted(now, withheld);
        }
    }

    fn tell_granted(&mut self, now: Now, withheld: Withheld) {
        let fault = self.session.subscriptions.fault();
        let (severity, name) = match &fault {
            Some(fault) => {
                self.effects.log(LogLevel::Error, format!("broker: {fault}"));
                (Severity::Error, "subscription_withheld")
            }
            None => (Severity::Notice, "subscription_granted"),
        };
        let event = Event::new(severity, EventKind::Audit, name)
            .with("refused", u64::from(withheld.refused))
            .with("qos_0", u64::from(withheld.qos_0))
            .with_some("detail", fault.as_deref());
        self.record_event(now, event);
    }

    /// The group that a command topic belongs to; `None` for the device's own.
    pub(super) fn group_of<'t>(&self, topic: &'t str) -> Option<&'t str> {
        topic.strip_prefix(&*self.config.mqtt.topic_prefix)?.strip_prefix("/groups/")?.strip_suffix("/commands")
    }

    fn filters(&self) -> Vec<String> {
        let prefix = &self.config.mqtt.topic_prefix;
        let groups = self.config.device.groups.iter().map(|group| format!("{prefix}/groups/{group}/commands"));
        std::iter::once(self.topic("commands")).chain(groups).collect()
    }

    fn subscribe_next(&mut self, now: Now) {
        let filters = self.session.subscriptions.next();
        self.link.subscribe(now.mono, filters, &mut self.effects);
    }

    fn save_subscribed(&mut self, subscribed: Subscribed) {
        self.session.subscriptions.subscribed = subscribed;
        self.effects.put(Purpose::Note, vec![self.session.subscriptions.entry()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::COMMAND_TOPICS_BYTES_MAX;
    use crate::engine::keyed::encode;
    use crate::store::STATE_VALUE_BYTES_MAX;

    #[test]
    fn all_topics_that_a_configuration_may_have_fit_into_a_value_of_the_state() {
        for len in ["p/d/commands".len(), "p/groups/g/commands".len(), 24, 255, 256] {
            let filters = vec!["t".repeat(len); COMMAND_TOPICS_BYTES_MAX / len];
            let kept =
                encode(&Subscribed { filters, all: true, withheld: Withheld { refused: u32::MAX, qos_0: u32::MAX } })
                    .len();
            assert!(kept <= STATE_VALUE_BYTES_MAX, "{kept} B of topics of {len} B");
        }
    }
}
