//! The terms of a quarantine: who stays in reach, and what is stopped. Made by the agent, which has a network and can
//! ask for names; handed to whoever acts, who may cut them down, and never adds to them. Addresses, networks and ports
//! are parsed, so that nothing that goes into a firewall's rules is text.

#![expect(clippy::disallowed_methods, reason = "a name server has a deadline")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::config::{CheckedConfig, Network, Quarantine, UnitName};
use crate::lookup;

/// Addresses that a name may have, and that are kept of it: those found first go first.
pub const ADDRESSES_MAX: usize = 64;
/// How long a name server may take for one name.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// Names that are asked for side by side: where the name server is dead, nothing is cut off before all were waited for.
const LOOKUPS_AT_ONCE: usize = 32;

/// Who stays in reach, and what is stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// The broker, as far as it could be found.
    #[serde(default)]
    pub broker: Vec<SocketAddr>,
    /// The broker's port, for a quarantine that is widened.
    pub port: u16,
    /// Others that stay in reach.
    #[serde(default)]
    pub hosts: Vec<Network>,
    /// Names of such others were not found: who stayed in reach before still does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hosts_missing: bool,
    /// Units that are stopped.
    #[serde(default)]
    pub stop: Vec<UnitName>,
}

impl Terms {
    /// The same, and where names were not found with the hosts that were in reach before: those that were found now go
    /// first. Asked again it adds nothing.
    #[must_use]
    pub fn with_older_hosts(mut self, before: &Self) -> Self {
        if std::mem::take(&mut self.hosts_missing) {
            let room = Quarantine::HOSTS_MAX.saturating_sub(self.hosts.len());
            let older: Vec<_> =
                before.hosts.iter().filter(|old| !self.hosts.contains(old)).take(room).copied().collect();
            self.hosts.extend(older);
        }
        self
    }
}

/// What a gateway's terms are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The broker's name or address.
    pub host: String,
    /// And its port.
    pub port: u16,
    /// Names, addresses and networks that stay in reach.
    pub allow_hosts: Vec<String>,
    /// Units that are stopped.
    pub stop: Vec<UnitName>,
}

impl Source {
    /// As configured.
    #[must_use]
    pub fn of(config: &CheckedConfig) -> Self {
        let (url, quarantine) = (&config.mqtt.url, &config.quarantine);
        let (allow_hosts, stop) = (quarantine.allow_hosts.clone(), quarantine.stopped().cloned().collect());
        Self { host: url.host.clone(), port: url.port, allow_hosts, stop }
    }

    /// Asks for all names, now: what is not found, or not in time, is left out, and is logged; and which of
    /// `allow_hosts` that are. What is written as an address or a network goes first: no name that stands for many
    /// takes its place.
    pub async fn terms(&self) -> (Terms, Vec<String>) {
        self.terms_by(addresses).await
    }

    async fn terms_by<F>(&self, ask: impl Fn(String) -> F) -> (Terms, Vec<String>)
    where
        F: Future<Output = Vec<IpAddr>> + Send + 'static,
    {
        let names: Vec<&String> = self.allow_hosts.iter().filter(|host| host.parse::<Network>().is_err()).collect();
        let names: Vec<&String> = std::iter::once(&self.host).chain(names).collect();
        let mut found = BTreeMap::new();
        for names in names.chunks(LOOKUPS_AT_ONCE) {
            let asked: Vec<_> = names.iter().map(|name| (*name, tokio::spawn(ask((*name).clone())))).collect();
            for (name, asked) in asked {
                found.insert(name, asked.await.unwrap_or_default());
            }
        }
        let (mut hosts, mut of_names, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for host in &self.allow_hosts {
            match (host.parse::<Network>(), found.get(host)) {
                (Ok(network), _) => hosts.push(network),
                (_, Some(addresses)) if !addresses.is_empty() => {
                    of_names.extend(addresses.iter().copied().map(Network::from));
                }
                _ => missing.push(host.clone()),
            }
        }
        hosts.append(&mut of_names);
        let broker = found.get(&self.host).into_iter().flatten();
        let broker = broker.map(|address| SocketAddr::new(*address, self.port)).collect();
        let hosts_missing = !missing.is_empty();
        (Terms { broker, port: self.port, hosts, hosts_missing, stop: self.stop.clone() }, missing)
    }
}

async fn addresses(host: String) -> Vec<IpAddr> {
    match timeout(LOOKUP_MAX, lookup::addresses(&host)).await {
        Ok(answer) => match answer.as_ref() {
            Ok(found) => found.iter().take(ADDRESSES_MAX).map(SocketAddr::ip).collect(),
            Err(error) => {
                tracing::warn!("quarantine: look {host} up: {error}");
                Vec::new()
            }
        },
        Err(_) => {
            tracing::warn!("quarantine: look {host} up: no answer within {LOOKUP_MAX:?}");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_is_not_found_costs_only_itself() {
        let source = Source {
            host: "localhost".into(),
            port: 1883,
            allow_hosts: vec!["no-such-name.invalid".into(), "192.0.2.0/24".into()],
            stop: vec![],
        };
        let (terms, missing) = source.terms().await;
        assert!(terms.broker.contains(&"127.0.0.1:1883".parse().unwrap()), "{terms:?}");
        let network = "192.0.2.0/24".parse().unwrap();
        assert_eq!(missing, ["no-such-name.invalid"]);
        let before: Vec<Network> = ["198.51.100.7", "192.0.2.0/24"].map(|host| host.parse().unwrap()).into();
        let before = Terms { hosts: before, ..Terms::default() };
        assert_eq!(terms.hosts, [network]);
        let terms = terms.with_older_hosts(&before);
        assert_eq!(terms.hosts, [network, before.hosts[0]]);
        let found = Terms { hosts: vec![network], hosts_missing: false, ..terms };
        assert_eq!(found.with_older_hosts(&before).hosts, [network], "what was found is all there is");
    }

    #[tokio::test]
    async fn names_are_asked_for_side_by_side() {
        let hosts = ["a.example", "192.0.2.0/24", "b.example", "c.example"];
        let source = Source {
            host: "broker.example".into(),
            port: 1883,
            allow_hosts: hosts.map(str::to_owned).into(),
            stop: vec![],
        };
        let all_asked = std::sync::Arc::new(tokio::sync::Barrier::new(4));
        let ask = |name: String| {
            let all_asked = std::sync::Arc::clone(&all_asked);
            async move {
                // One after the other would wait for ever.
                all_asked.wait().await;
                if name == "b.example" { vec![] } else { vec![IpAddr::from([192, 0, 2, name.as_bytes()[0]])] }
            }
        };
        let (terms, missing) = timeout(LOOKUP_MAX, source.terms_by(ask)).await.unwrap();
        assert_eq!(terms.broker, ["192.0.2.98:1883".parse().unwrap()]);
        assert_eq!(terms.hosts, ["192.0.2.0/24", "192.0.2.97", "192.0.2.99"].map(|host| host.parse().unwrap()));
        assert_eq!(missing, ["b.example"]);
    }
}
