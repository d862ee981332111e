//! IP addresses that can belong to one host.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{Invalid, serde_as_text};

/// An IPv4 or IPv6 address of one host: not unspecified, multicast or broadcast, and not an IPv4 address
/// in IPv6 clothes, which would be a second spelling of the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAddress(IpAddr);

const ADDRESS: &str = "an IPv4 or IPv6 address of one host, as in `10.96.0.7` (not a name, a range, unspecified, multicast or IPv4-mapped)";

impl HostAddress {
    pub fn get(self) -> IpAddr {
        self.0
    }
}

impl FromStr for HostAddress {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<HostAddress, Invalid> {
        let address: IpAddr = text.parse().map_err(|_| Invalid::new(ADDRESS, text))?;
        let unfit = match address {
            IpAddr::V4(v4) => v4.is_broadcast(),
            IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
        };
        if unfit || address.is_unspecified() || address.is_multicast() {
            return Err(Invalid::new(ADDRESS, text));
        }
        Ok(HostAddress(address))
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
serde_as_text!(HostAddress, ADDRESS);
