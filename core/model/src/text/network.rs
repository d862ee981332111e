//! Ranges of IP addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use super::{Invalid, serde_as_text};

/// A range of addresses in CIDR notation (RFC 4632, section 3.1), named by its first address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    ip: IpAddr,
    length: u8,
}

const NETWORK: &str = "addresses such as 10.1.0.0/16 or fd00::/8";

impl Network {
    /// 127.0.0.0/8.
    pub const LOOPBACK_V4: Network = Network { ip: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), length: 8 };

    /// This address alone.
    pub fn host(ip: IpAddr) -> Network {
        Network { ip, length: bits(ip) }
    }

    /// The first address.
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// Whether it is one address.
    pub fn is_host(self) -> bool {
        self.length == bits(self.ip)
    }

    /// How many leading bits all of it has in common.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether the address is in the range. An IPv4 address is in no IPv6 range.
    pub fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4() && first_of(ip, self.length) == self.ip
    }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The first address that has so many bits in common with this one.
fn first_of(ip: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

impl FromStr for Network {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Network, Invalid> {
        let wrong = || Invalid::new(NETWORK, text);
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let ip: IpAddr = address.parse().map_err(|_| wrong())?;
        let length = match length {
            None => bits(ip),
            Some(length) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().ok().filter(|length| *length <= bits(ip)).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        let first = first_of(ip, length);
        if first != ip {
            let meant = format!("{first}/{length}, or {ip}/{} for one address", bits(ip));
            return Err(Invalid::new(meant, text));
        }
        Ok(Network { ip, length })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.length)
    }
}
serde_as_text!(Network, NETWORK);
