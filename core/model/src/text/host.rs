//! Names of hosts that come from outside, and addresses of servers that are asked.

use std::fmt;
use std::str::FromStr;

use super::name::is_subdomain;
use super::{Invalid, checked_text, serde_as_text};

/// Which `Host` or `:authority` (without its port) a route takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// `*`
    Any,
    /// `*.example.com`: one or more labels before the suffix, never the suffix alone.
    Suffix(Box<str>),
    /// `api.example.com`
    Exact(Box<str>),
}

const HOST: &str = "a host name in lower case, `*.` and a host name, or `*`";

impl HostPattern {
    /// `host` without port; ASCII case is ignored, as in DNS.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Exact(name) => name.eq_ignore_ascii_case(host),
            HostPattern::Suffix(suffix) => {
                host.len().checked_sub(suffix.len()).and_then(|at| host.split_at_checked(at)).is_some_and(
                    |(front, end)| {
                        end.eq_ignore_ascii_case(suffix) && front.len() > 1 && front.ends_with('.')
                    },
                )
            }
        }
    }

    /// Whether any host is of both.
    pub fn meets(&self, other: &HostPattern) -> bool {
        match (self, other) {
            (HostPattern::Any, _) | (_, HostPattern::Any) => true,
            (HostPattern::Exact(name), pattern) | (pattern, HostPattern::Exact(name)) => {
                pattern.matches(name)
            }
            (HostPattern::Suffix(one), HostPattern::Suffix(two)) => {
                let (long, short) = if one.len() >= two.len() { (one, two) } else { (two, one) };
                long == short || HostPattern::Suffix(short.clone()).matches(long)
            }
        }
    }

    /// Higher is more specific.
    pub fn rank(&self) -> (u8, usize) {
        match self {
            HostPattern::Any => (0, 0),
            HostPattern::Suffix(suffix) => (1, suffix.len()),
            HostPattern::Exact(_) => (2, 0),
        }
    }
}

impl FromStr for HostPattern {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<HostPattern, Invalid> {
        match text.strip_prefix("*.") {
            _ if text == "*" => Ok(HostPattern::Any),
            Some(suffix) if is_subdomain(suffix) => Ok(HostPattern::Suffix(suffix.into())),
            None if is_subdomain(text) => Ok(HostPattern::Exact(text.into())),
            _ => Err(Invalid::new(HOST, text)),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => f.write_str("*"),
            HostPattern::Suffix(suffix) => write!(f, "*.{suffix}"),
            HostPattern::Exact(name) => f.write_str(name),
        }
    }
}
serde_as_text!(HostPattern, HOST);

checked_text!(
    /// An absolute `https` or `http` URL without user, fragment, blanks or control characters. Whether
    /// plain `http` may be asked is the control plane's decision, not the resource's.
    HttpUrl, "an absolute https:// URL (http:// only in a mesh that only develops), without user or fragment", is_http_url
);

impl HttpUrl {
    pub fn is_https(&self) -> bool {
        self.as_str().starts_with("https://")
    }
}

fn is_http_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    text.len() <= 2048
        && !authority.is_empty()
        && !authority.starts_with(':')
        && !authority.contains('@')
        && text.bytes().all(|b| b.is_ascii_graphic())
        && !text.contains(['#', '\\', '"', '<', '>'])
}
