//! The collectors: one round reads the battery, the links, the host and the agent itself, and hands over what was read,
//! with nothing decided. A file that is missing or says nonsense costs its own field and is reported as a fault; the
//! rest of the round goes on. Everything here blocks, so it runs on a thread of its own ([`worker`]); error lines come
//! from tasks of their own ([`errors`]). What a value means is the engine's business, never this module's.

mod asked;
pub mod battery;
pub mod clock;
pub mod errors;
pub mod host;
mod hung;
pub(crate) mod inhibit;
pub mod link;
mod modem;
pub(crate) mod mounts;
mod own;
pub mod reboot;
mod releases;
mod round;
mod shutdown;
pub(crate) mod sockets;
pub mod worker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config;
use crate::engine::metric::Metric;
use crate::engine::observation::{Observation, Release};
use clock::ClockReading;
use host::Host;
use modem::Modems;
use own::Own;
pub(crate) use releases::booted_slot;
use round::Round;
use shutdown::Blockers;

/// The collectors of one configuration, with what they keep from one round to the next.
pub struct Collectors {
    config: config::Collect,
    battery_root: PathBuf,
    host: Host,
    /// `None`: somebody else counts what the agent itself uses.
    own: Option<Own>,
    modems: Modems,
    blockers: Blockers,
    targets: BTreeMap<String, config::Rollback>,
    sockets: bool,
}

impl Collectors {
    /// Collectors below `config.root`. Nothing is read yet.
    #[must_use]
    pub fn new(config: &config::Collect) -> Self {
        Self {
            config: config.clone(),
            battery_root: config.root.clone(),
            host: Host::default(),
            own: Some(Own::default()),
            modems: Modems::default(),
            blockers: Blockers::default(),
            targets: BTreeMap::new(),
            sockets: false,
        }
    }

    /// The same, and they say which releases of these run.
    #[must_use]
    pub fn with_releases_of(self, targets: BTreeMap<String, config::Rollback>) -> Self {
        Self { targets, ..self }
    }

    /// The same, and they say who listens and who is connected, if one of these rules wants to know.
    #[must_use]
    pub fn with_sockets_for(self, rules: &[config::Rule]) -> Self {
        let wanted = [Metric::HostListeners, Metric::HostPeers].map(Metric::path);
        Self { sockets: rules.iter().any(|rule| wanted.contains(&rule.metric.as_str())), ..self }
    }

    /// The same, but they count nothing of the agent itself: what is told of it is told once.
    #[must_use]
    pub fn without_own(self) -> Self {
        Self { own: None, ..self }
    }

    /// The same, and they say so in any case.
    #[must_use]
    pub fn with_sockets(self) -> Self {
        Self { sockets: true, ..self }
    }

    /// The same, but with the batteries below another root: `fieldmedic demo` imitates one in the kernel's own format.
    #[must_use]
    pub fn with_batteries_below(self, root: PathBuf) -> Self {
        Self { battery_root: root, ..self }
    }

    /// One round of every collector that is enabled. Blocks as long as the kernel does.
    pub fn observe(&mut self, clock: ClockReading) -> Observation {
        let mut batteries = Round::new(&self.battery_root);
        if self.config.battery.enabled {
            battery::collect(&self.config.battery, &mut batteries);
        }
        let mut observation = batteries.finish();
        let mut round = Round::new(&self.config.root);
        if self.config.link.enabled {
            if let Some(interface) = link::collect(&self.config.link, &mut round) {
                self.modems.collect(clock.now.mono, &interface, &mut round);
            }
        }
        if self.config.host.enabled {
            self.host.collect(&self.config.host, &mut round);
            round.point(Metric::HostClockSynced, clock.synced);
        }
        if let Some(own) = &mut self.own {
            own.collect(&mut round);
        }
        observation.inhibited = inhibit::inhibited(&self.config.root);
        observation.blocked = self.blockers.collect(clock.now.mono, &mut round);
        if self.sockets {
            observation.sockets = sockets::collect(&mut round);
        }
        observation.releases = releases::collect(&self.targets, &mut round);
        let rest = round.finish();
        observation.points.extend(rest.points);
        observation.faults.extend(rest.faults);
        observation
    }
}

pub(crate) use modem::of_answer as of_modem_answer;

/// The releases that run of these targets, as far as that can be told.
pub(crate) fn releases(targets: &BTreeMap<String, config::Rollback>, root: &Path) -> Vec<Release> {
    releases::collect(targets, &mut Round::new(root))
}

/// Text from outside, bounded, and without what a terminal would obey.
pub(crate) fn printable(text: &str, chars_max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(chars_max).collect()
}

#[cfg(test)]
pub(crate) mod tests;
