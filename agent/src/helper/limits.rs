//! How far the terms of a quarantine may go, which the agent makes: root's policy names the ports at which the broker
//! stays in reach, who else may, and what may be stopped. What goes beyond is left out, and said; what would leave the
//! broker out is refused instead, as nobody could release such a gateway from afar. Says nothing of levels.

use super::protocol::Refusal;
use crate::act::quarantine::terms::{ADDRESSES_MAX, Source, Terms};
use crate::config::{Network, Quarantine, UnitName};
use crate::text::named;
use crate::wire::Reason;

const HOSTS_MAX: usize = Quarantine::HOSTS_MAX;

/// How far the terms of a quarantine may go.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Limits {
    /// Ports at which the broker may be left in reach.
    pub(super) broker_ports: Vec<u16>,
    /// Networks in which other hosts may be.
    pub(super) allow_hosts: Vec<Network>,
    /// Units that may be stopped.
    pub(super) stop_units: Vec<UnitName>,
}

impl Limits {
    /// Takes out of the terms what goes beyond the limits, and says what that is of the hosts and units.
    pub(super) fn cut(&self, mut terms: Terms) -> (Terms, Option<String>) {
        terms.broker.retain(|address| self.broker_ports.contains(&address.port()));
        terms.broker.truncate(ADDRESSES_MAX);
        let (mut hosts, left_out): (Vec<_>, Vec<_>) = terms.hosts.into_iter().partition(|host| self.leaves(host));
        let beyond = hosts.split_off(hosts.len().min(HOSTS_MAX));
        let (stop, runs_on): (Vec<_>, Vec<_>) = terms.stop.into_iter().partition(|unit| self.lets_stop(unit));
        let beyond = (!beyond.is_empty())
            .then(|| format!("left out, as only {HOSTS_MAX} hosts stay in reach: {}", named(&beyond)));
        let told: Vec<String> = told(&named(&left_out), &named(&runs_on)).into_iter().chain(beyond).collect();
        (Terms { hosts, stop, ..terms }, (!told.is_empty()).then(|| told.join("; ")))
    }

    /// Whether the broker stays in reach at this port.
    ///
    /// # Errors
    /// `not_allowed`.
    pub(super) fn reach_broker_at(&self, port: u16) -> Result<(), Refusal> {
        if self.broker_ports.contains(&port) {
            return Ok(());
        }
        let detail = format!(
            "root's policy: the broker's port {port} is not in quarantine.broker_ports: add it to policy.toml, or the \
             quarantine would keep the agent from the broker, and no release would arrive"
        );
        Err(Refusal::because(Reason::NotAllowed, detail))
    }

    /// What is left out of terms that are made of this, as far as that is known before names are asked for.
    pub(super) fn leave_out(&self, source: &Source) -> Option<String> {
        let is_left_out = |host: &&String| {
            let network = host.parse::<Network>();
            network.map_or(self.allow_hosts.is_empty(), |network| !self.leaves(&network))
        };
        let hosts: Vec<&String> = source.allow_hosts.iter().filter(is_left_out).collect();
        let runs_on: Vec<&UnitName> = source.stop.iter().filter(|unit| !self.lets_stop(unit)).collect();
        told(&named(&hosts), &named(&runs_on))
    }

    /// Whether a quarantine may stop it.
    pub(super) fn lets_stop(&self, unit: &UnitName) -> bool {
        self.stop_units.contains(unit)
    }

    fn leaves(&self, host: &Network) -> bool {
        self.allow_hosts.iter().any(|network| network.holds(host))
    }
}

/// What was left out, in words; `None`: nothing.
fn told(hosts: &str, units: &str) -> Option<String> {
    let hosts = (!hosts.is_empty()).then(|| format!("{hosts} (quarantine.allow_hosts)"));
    let units = (!units.is_empty()).then(|| format!("{units} (quarantine.stop_units)"));
    let told: Vec<String> = hosts.into_iter().chain(units).collect();
    (!told.is_empty()).then(|| format!("left out, as root's policy.toml doesn't name it: {}", told.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(names: &[&str]) -> Vec<UnitName> {
        names.iter().map(|name| UnitName::parse(name).unwrap()).collect()
    }

    fn limits() -> Limits {
        let allow_hosts = vec!["10.0.0.0/8".parse().unwrap()];
        Limits { broker_ports: vec![8883], allow_hosts, stop_units: units(&["app.service"]) }
    }

    #[test]
    fn the_terms_of_a_quarantine_are_cut_down_to_what_root_allows_and_what_is_left_out_is_named() {
        let hosts = |hosts: &[&str]| hosts.iter().map(|host| host.parse().unwrap()).collect();
        let wished = Terms {
            broker: vec!["192.0.2.1:8883".parse().unwrap(), "192.0.2.1:22".parse().unwrap()],
            port: 8883,
            hosts: hosts(&["10.1.0.0/16", "0.0.0.0/0"]),
            hosts_missing: false,
            stop: units(&["app.service", "ssh.service"]),
        };
        let left = Terms {
            broker: vec!["192.0.2.1:8883".parse().unwrap()],
            hosts: hosts(&["10.1.0.0/16"]),
            stop: units(&["app.service"]),
            ..wished.clone()
        };
        let told = "left out, as root's policy.toml doesn't name it: 0.0.0.0/0 (quarantine.allow_hosts), ssh.service \
                    (quarantine.stop_units)";
        assert_eq!(limits().cut(wished), (left.clone(), Some(told.to_owned())));
        assert_eq!(limits().cut(left.clone()), (left, None));
    }

    #[test]
    fn hosts_beyond_the_most_that_stay_in_reach_are_named_too_and_not_without_end() {
        let hosts = (0..=u8::MAX).map(|last| format!("10.0.0.{last}").parse().unwrap()).collect();
        let (terms, told) = limits().cut(Terms { hosts, ..Terms::default() });
        let told = told.unwrap();
        assert_eq!(terms.hosts.len(), HOSTS_MAX);
        assert!(told.contains(": 10.0.0.64") && told.contains(", 10.0.0.71") && told.contains(", 184 more"), "{told}");
        assert!(told.starts_with("left out, as only 64 hosts stay in reach: "), "root names them all: {told}");
    }

    #[test]
    fn a_broker_at_a_port_that_root_does_not_name_would_be_out_of_reach() {
        assert_eq!(limits().reach_broker_at(8883), Ok(()));
        let refusal = limits().reach_broker_at(443).unwrap_err();
        let told = "the broker's port 443 is not in quarantine.broker_ports: add it to policy.toml";
        assert!(refusal.reason == "not_allowed" && refusal.detail.contains(told), "{refusal:?}");
    }

    #[test]
    fn what_will_be_left_out_is_known_beforehand_of_addresses_and_of_names_where_root_names_nobody() {
        let allow_hosts = ["jump.example", "10.1.1.1", "192.0.2.0/24"].map(str::to_owned).into();
        let source = Source { host: "b".into(), port: 8883, allow_hosts, stop: units(&["app.service", "a.service"]) };
        let told = limits().leave_out(&source).unwrap();
        assert!(told.ends_with(": 192.0.2.0/24 (quarantine.allow_hosts), a.service (quarantine.stop_units)"), "{told}");
        let nobody = Limits { allow_hosts: vec![], ..limits() };
        let told = nobody.leave_out(&source).unwrap();
        assert!(told.contains(": jump.example, 10.1.1.1, 192.0.2.0/24 (quarantine.allow_hosts)"), "{told}");
        assert_eq!(limits().leave_out(&Source { allow_hosts: vec![], stop: vec![], ..source }), None);
    }
}
