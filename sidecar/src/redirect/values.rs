//! The values of the options: ports, ids and ranges of addresses that exist only when they can be meant.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use super::plan::Family;

/// A port to redirect to, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener(pub Option<u16>);

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Listener(None));
        }
        port(text).map(|port| Listener(Some(port))).map_err(|_| expected("a port (1-65535) or `none`", text))
    }
}

fn expected(what: &str, got: &str) -> String {
    format!("expected {what}, got {got:?}")
}

fn port(text: &str) -> Result<u16, ()> {
    match number(text) {
        Some(number) => u16::try_from(number).ok().filter(|port| *port != 0).ok_or(()),
        None => Err(()),
    }
}

/// Digits only: no sign, no space.
fn number(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Ports from first to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl Ports {
    /// Where names are asked for.
    pub const DNS: Ports = Ports { first: 53, last: 53 };
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (port(first), port(last)) {
            (Ok(first), Ok(last)) if first <= last => Ok(Ports { first, last }),
            _ => Err(expected("a port (1-65535) or ports such as 9000-9010", text)),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Users or groups from first to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ids {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

/// What the kernel means by no user.
pub(super) const NOBODY: u32 = u32::MAX;

impl Ids {
    /// One of them.
    pub fn one(id: u32) -> Self {
        Ids { first: id, last: id }
    }
}

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last && last != NOBODY => Ok(Ids { first, last }),
            _ => Err(expected("a numeric id or ids such as 100-199", text)),
        }
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Addresses with a common beginning; there are no bits after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    ip: IpAddr,
    length: u8,
}

impl Cidr {
    /// `127.0.0.0/8`
    pub const LOOPBACK_V4: Cidr = Cidr { ip: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), length: 8 };

    /// One address.
    pub fn host(ip: IpAddr) -> Self {
        Cidr { ip, length: bits(ip) }
    }

    /// The first address.
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// Bits in common.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether it is one address.
    pub fn is_host(self) -> bool {
        self.length == bits(self.ip)
    }

    /// Its family.
    pub fn family(self) -> Family {
        Family::of(self.ip)
    }

    /// Whether the address is in it.
    pub fn contains(self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                first_of(ip, self.length) == self.ip
            }
            _ => false,
        }
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

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let what = "addresses such as 10.1.0.0/16 or fd00::/8";
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let ip: IpAddr = address.parse().map_err(|_| expected(what, text))?;
        let length = match length {
            None => bits(ip),
            Some(length) => number(length)
                .and_then(|length| u8::try_from(length).ok())
                .filter(|length| *length <= bits(ip))
                .ok_or_else(|| expected(what, text))?,
        };
        let first = first_of(ip, length);
        if first != ip {
            return Err(expected(&format!("{first}/{length}, or {ip}/{} for one address", bits(ip)), text));
        }
        Ok(Cidr { ip, length })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.length)
    }
}
