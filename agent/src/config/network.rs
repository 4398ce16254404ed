//! A network, as a configuration names one and a firewall takes it. Only the notation: nobody is asked for a name.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
}
