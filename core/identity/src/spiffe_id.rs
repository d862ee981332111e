//! SPIFFE IDs, read byte by byte.
//!
//! The rules are those of the SPIFFE-ID standard and they are checked on the raw bytes, never through a URL
//! library: a normaliser that lower-cases, decodes percent signs or drops a default port makes two different
//! names equal, and here that would be impersonation.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::trust_domain::TrustDomain;

/// The longest SPIFFE ID, SPIFFE-ID section 2.3.
const MAX_ID: usize = 2048;
const SCHEME: &[u8] = b"spiffe://";

/// Why some bytes are not a SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    #[error(
        "a SPIFFE ID starts with \"spiffe://\" in lower case; write spiffe://<trust-domain>/ns/<namespace>/sa/<name>"
    )]
    Scheme,
    #[error("a SPIFFE ID has at most 2048 bytes, this one has {0}")]
    TooLong(usize),
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    #[error("a trust domain has at most 255 bytes, this one has {0}")]
    TrustDomainTooLong(usize),
    #[error("a trust domain holds only a-z, 0-9, '.', '-' and '_' (no port, user or upper case), not '{0}'")]
    TrustDomainCharacter(String),
    #[error("a path segment is empty: no double and no trailing '/'")]
    EmptySegment,
    #[error("a path segment may not be \".\" or \"..\"")]
    DotSegment,
    #[error("a path segment holds only letters, digits, '.', '-' and '_', not '{0}'")]
    PathCharacter(String),
}

/// A valid SPIFFE ID, such as `spiffe://demo.signet/ns/shop/sa/web`. Cheap to clone; equal exactly when the
/// bytes are.
///
/// It may name a trust domain alone (an empty path), as signing certificates do; [`SpiffeId::is_root`] tells.
#[derive(Clone)]
pub struct SpiffeId {
    uri: Arc<str>,
    domain: TrustDomain,
}

impl SpiffeId {
    /// Reads an ID from bytes, such as the content of a URI SAN.
    pub fn parse(bytes: impl AsRef<[u8]>) -> Result<Self, SpiffeIdError> {
        let bytes = bytes.as_ref();
        if bytes.len() > MAX_ID {
            return Err(SpiffeIdError::TooLong(bytes.len()));
        }
        let rest = bytes.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let mut parts = rest.split(|b| *b == b'/');
        let domain = TrustDomain::parse(parts.next().unwrap_or_default())?;
        for segment in parts {
            valid_segment(segment)?;
        }
        let uri = std::str::from_utf8(bytes).map_err(|_| SpiffeIdError::Scheme)?;
        Ok(Self { uri: uri.into(), domain })
    }

    /// The ID of a workload: `spiffe://<domain>/ns/<namespace>/sa/<service-account>`.
    pub fn workload(domain: &TrustDomain, namespace: &str, account: &str) -> Result<Self, SpiffeIdError> {
        valid_segment(namespace.as_bytes())?;
        valid_segment(account.as_bytes())?;
        Self::parse(format!("spiffe://{domain}/ns/{namespace}/sa/{account}"))
    }

    /// The ID with this path (`ns/shop/sa/web`, no leading slash) in this trust domain.
    pub fn from_short(domain: &TrustDomain, short: &str) -> Result<Self, SpiffeIdError> {
        Self::parse(format!("spiffe://{domain}/{short}"))
    }

    /// The whole ID, `spiffe://...`.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Whether it belongs to this trust domain.
    pub fn is_in(&self, domain: &TrustDomain) -> bool {
        self.domain == *domain
    }

    /// The path with its leading slash, or empty for the trust domain's own ID.
    pub fn path(&self) -> &str {
        let start = SCHEME.len().saturating_add(self.domain.as_str().len());
        self.uri.get(start..).unwrap_or_default()
    }

    /// Whether it names the trust domain itself.
    pub fn is_root(&self) -> bool {
        self.path().is_empty()
    }

    /// The path without its leading slash: `ns/shop/sa/web`. What policies and tables show.
    pub fn short(&self) -> &str {
        let path = self.path();
        path.strip_prefix('/').unwrap_or(path)
    }

    /// The namespace, if the path is exactly `/ns/<namespace>/sa/<service-account>`.
    pub fn namespace(&self) -> Option<&str> {
        self.names().map(|(namespace, _)| namespace)
    }

    /// The service account, if the path is exactly `/ns/<namespace>/sa/<service-account>`.
    pub fn service_account(&self) -> Option<&str> {
        self.names().map(|(_, account)| account)
    }

    fn names(&self) -> Option<(&str, &str)> {
        let (namespace, rest) = self.path().strip_prefix("/ns/")?.split_once('/')?;
        let account = rest.strip_prefix("sa/")?;
        (!account.contains('/')).then_some((namespace, account))
    }
}

/// Checks one path segment on raw bytes.
fn valid_segment(segment: &[u8]) -> Result<(), SpiffeIdError> {
    match segment {
        b"" => return Err(SpiffeIdError::EmptySegment),
        b"." | b".." => return Err(SpiffeIdError::DotSegment),
        _ => {}
    }
    match segment.iter().find(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))) {
        Some(bad) => Err(SpiffeIdError::PathCharacter(bad.escape_ascii().to_string())),
        None => Ok(()),
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.uri, &other.uri) || self.uri == other.uri
    }
}

impl Eq for SpiffeId {}

impl std::hash::Hash for SpiffeId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uri.hash(state);
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uri.cmp(&other.uri)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.uri
    }
}

impl std::borrow::Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.uri
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.uri)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}
