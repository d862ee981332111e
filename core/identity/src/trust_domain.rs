//! The name of a trust domain: the host part of a SPIFFE ID, and the unit in which roots are trusted.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::spiffe_id::SpiffeIdError;

/// The longest trust domain name, SPIFFE-ID section 2.3.
const MAX_TRUST_DOMAIN: usize = 255;

/// A valid trust domain name: 1 to 255 bytes of `[a-z0-9.-_]`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a bare name such as `prod.example.org`. Upper case, a port, or a scheme are refused: nothing is
    /// normalised, so that two names are equal exactly when their bytes are.
    pub fn parse(name: impl AsRef<[u8]>) -> Result<Self, SpiffeIdError> {
        Ok(Self(valid_name(name.as_ref())?.into()))
    }

    /// The name itself, without scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks the rules for a trust domain on raw bytes.
fn valid_name(name: &[u8]) -> Result<&str, SpiffeIdError> {
    if name.is_empty() {
        return Err(SpiffeIdError::EmptyTrustDomain);
    }
    if name.len() > MAX_TRUST_DOMAIN {
        return Err(SpiffeIdError::TrustDomainTooLong(name.len()));
    }
    if let Some(bad) = name.iter().find(|b| !matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')) {
        return Err(SpiffeIdError::TrustDomainCharacter(bad.escape_ascii().to_string()));
    }
    std::str::from_utf8(name).map_err(|_| SpiffeIdError::EmptyTrustDomain)
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}
