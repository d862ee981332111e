//! The values of the options: ports, ids and ranges of addresses that exist only when they can be meant.

use std::fmt;
use std::str::FromStr;

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
