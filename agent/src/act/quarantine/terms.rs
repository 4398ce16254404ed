//! The terms of a quarantine: who stays in reach, and what is stopped. Made by the agent, which has a network and can ask
//! for names; handed to whoever acts, who may cut them down, and never adds to them. Addresses, networks and ports are
//! parsed here, so that nothing that goes into a firewall's rules is text.

#![expect(clippy::disallowed_methods, reason = "a name server has a deadline")]

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::config::{CheckedConfig, Quarantine, UnitName};

/// Addresses that a name may have, and that are kept of it: those found first go first.
pub const ADDRESSES_MAX: usize = 64;
/// How long a name server may take for one name.
const LOOKUP_MAX: Duration = Duration::from_secs(5);

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
    /// Units that are stopped.
    #[serde(default)]
    pub stop: Vec<UnitName>,
}

/// A network, in the notation of RFC 4632; an address is one of a single host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

/// A text that is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor a network, such as \"192.0.2.0/24\"")]
pub struct NoNetwork(String);

impl Network {
    /// The addresses from `base` on that share its first `bits`; what is behind them in `base` is cut off.
    fn new(base: IpAddr, bits: u8) -> Option<Self> {
        let base = match base {
            IpAddr::V4(base) => {
                let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits.into())?).unwrap_or(0);
                IpAddr::V4((base.to_bits() & mask).into())
            }
            IpAddr::V6(base) => {
                let mask = u128::MAX.checked_shl(128_u32.checked_sub(bits.into())?).unwrap_or(0);
                IpAddr::V6((base.to_bits() & mask).into())
            }
        };
        Some(Self { base, bits })
    }

    /// Whether it is one of IPv4.
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.base.is_ipv4()
    }

    /// Whether all of another one lies in it.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        self.is_v4() == other.is_v4()
            && self.bits <= other.bits
            && Self::new(other.base, self.bits).is_some_and(|cut| cut.base == self.base)
    }
}

impl From<IpAddr> for Network {
    fn from(base: IpAddr) -> Self {
        Self { base, bits: if base.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let parse = || match text.split_once('/') {
            None => text.parse::<IpAddr>().ok().map(Self::from),
            Some((base, bits)) => Self::new(base.parse().ok()?, bits.parse().ok()?),
        };
        parse().ok_or_else(|| NoNetwork(text.to_owned()))
    }
}

impl TryFrom<String> for Network {
    type Error = NoNetwork;

    fn try_from(text: String) -> Result<Self, NoNetwork> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
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
    /// As configured. What is to be kept is not stopped, and neither is the agent itself.
    #[must_use]
    pub fn of(config: &CheckedConfig) -> Self {
        let Quarantine { keep_units, stop_units, allow_hosts, .. } = &config.quarantine;
        let is_own = |unit: &UnitName| unit.as_str().starts_with("fieldmedic");
        let stop = stop_units.iter().filter(|unit| !keep_units.contains(unit) && !is_own(unit));
        let url = &config.mqtt.url;
        Self { host: url.host.clone(), port: url.port, allow_hosts: allow_hosts.clone(), stop: stop.cloned().collect() }
    }

    /// Asks for all names, now: what is not found, or not in time, is left out, and is logged; and which of `allow_hosts` that
    /// are.
    pub async fn terms(&self) -> (Terms, Vec<String>) {
        let broker = addresses(&self.host).await;
        let (mut hosts, mut missing) = (Vec::new(), Vec::new());
        for host in &self.allow_hosts {
            match host.parse() {
                Ok(network) => hosts.push(network),
                Err(NoNetwork(name)) => {
                    let found = addresses(&name).await;
                    missing.extend(found.is_empty().then_some(name));
                    hosts.extend(found.into_iter().map(Network::from));
                }
            }
        }
        let broker = broker.into_iter().map(|address| SocketAddr::new(address, self.port)).collect();
        (Terms { broker, port: self.port, hosts, stop: self.stop.clone() }, missing)
    }
}

async fn addresses(host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return vec![address];
    }
    match timeout(LOOKUP_MAX, lookup_host((host, 0))).await {
        Ok(Ok(found)) => found.take(ADDRESSES_MAX).map(|found| found.ip()).collect(),
        Ok(Err(error)) => {
            tracing::warn!("quarantine: look {host} up: {error}");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!("quarantine: look {host} up: no answer within {LOOKUP_MAX:?}");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_is_read_and_written_and_loses_what_is_behind_its_bits() {
        let cases = [
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("2001:db8:1::1/32", "2001:db8::/32"),
        ];
        for (text, expected) in cases {
            assert_eq!(network(text).to_string(), expected);
        }
        for wrong in ["", "host", "192.0.2.7/33", "2001:db8::/129", "192.0.2.0/-1", "192.0.2.0/24; drop", "::1/"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_network_holds_what_lies_in_it_and_nothing_else() {
        let outer = network("10.0.0.0/8");
        for inner in ["10.1.2.3", "10.1.0.0/16", "10.0.0.0/8"] {
            assert!(outer.holds(&network(inner)), "{inner}");
        }
        for other in ["11.0.0.1", "0.0.0.0/0", "10.0.0.0/7", "a00::/8"] {
            assert!(!outer.holds(&network(other)), "{other}");
        }
    }

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
        assert_eq!((terms.hosts, missing), (vec![network("192.0.2.0/24")], vec!["no-such-name.invalid".to_owned()]));
    }
}
