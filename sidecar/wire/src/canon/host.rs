//! The authority of a request: lower case, no trailing dot, port apart, and valid.

use std::{fmt, net::Ipv6Addr};

use bytes::Bytes;

/// Longest name of the DNS, and longest label (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Why an authority is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("it is empty")]
    Empty,
    #[error("user information (`@`) does not belong into it")]
    UserInfo,
    #[error("the port must be 1 to 65535")]
    Port,
    #[error("the name must be letters, digits, `-`, `_` and dots, with labels of 1 to 63")]
    Name,
    #[error("the bracketed part is not an IPv6 address")]
    Ipv6,
}

/// A canonical authority.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    name: Bytes,
    port: Option<u16>,
}

impl Host {
    /// Parses `name[:port]`. When the name is canonical already it shares the memory of `raw`.
    pub fn new(raw: &Bytes) -> Result<Host, HostError> {
        if raw.is_empty() {
            return Err(HostError::Empty);
        }
        if raw.contains(&b'@') {
            return Err(HostError::UserInfo);
        }
        if raw.first() == Some(&b'[') {
            return Host::ipv6(raw);
        }
        let (len, port) = match raw.iter().position(|b| *b == b':') {
            Some(colon) => (colon, Some(parse_port(raw.get(colon.saturating_add(1)..).unwrap_or(&[]))?)),
            None => (raw.len(), None),
        };
        let name = raw.slice(..len);
        let name = match name.split_last() {
            Some((b'.', before)) => name.slice(..before.len()),
            _ => name,
        };
        if name.len() > MAX_NAME || !is_name(&name) {
            return Err(HostError::Name);
        }
        let name = if name.iter().any(u8::is_ascii_uppercase) {
            Bytes::from(name.to_ascii_lowercase())
        } else {
            name
        };
        Ok(Host { name, port })
    }

    fn ipv6(raw: &Bytes) -> Result<Host, HostError> {
        let close = raw.iter().position(|b| *b == b']').ok_or(HostError::Ipv6)?;
        let inside = raw.get(1..close).and_then(|b| std::str::from_utf8(b).ok()).ok_or(HostError::Ipv6)?;
        let address: Ipv6Addr = inside.parse().map_err(|_| HostError::Ipv6)?;
        let port = match raw.get(close.saturating_add(1)..).unwrap_or(&[]).split_first() {
            None => None,
            Some((b':', digits)) => Some(parse_port(digits)?),
            Some(_) => return Err(HostError::Ipv6),
        };
        Ok(Host { name: Bytes::from(format!("[{address}]")), port })
    }

    /// The host without port; IPv6 addresses in brackets.
    pub fn name(&self) -> &str {
        std::str::from_utf8(&self.name).unwrap_or_default()
    }

    /// The port, if one was named.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether both mean the same place, a missing port being the default one.
    pub fn agrees_with(&self, other: &Host, default_port: u16) -> bool {
        self.name == other.name && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }

    /// Whether `raw` spells this authority exactly as [`fmt::Display`] does.
    pub(crate) fn is_spelled(&self, raw: &[u8]) -> bool {
        match raw.strip_prefix(&*self.name) {
            Some(rest) if self.port.is_none() => rest.is_empty(),
            // A port may have leading zeros; compare the shape and not only the value.
            Some(rest) => rest.first() == Some(&b':') && rest.get(1) != Some(&b'0'),
            None => false,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Labels of letters, digits, `-` and `_`, with dots between them. One pass: every request has one.
fn is_name(name: &[u8]) -> bool {
    let mut label = 0usize;
    for byte in name {
        label = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' if label < MAX_LABEL => {
                label.saturating_add(1)
            }
            b'.' if label > 0 => 0,
            _ => return false,
        };
    }
    label > 0
}

fn parse_port(digits: &[u8]) -> Result<u16, HostError> {
    if !(1..=5).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(HostError::Port);
    }
    let port = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
    port.filter(|port| *port != 0).ok_or(HostError::Port)
}
