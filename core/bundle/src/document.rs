//! The document as a whole: reading somebody's, and writing our own.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use signet_identity::{TrustBundle, TrustDomain};
use signet_token::{Jwks, json};

use crate::entry::{self, Entry, JWT, X509};
use crate::error::DocumentError;
use crate::members;

/// Bundles of real trust domains are a few kilobytes.
pub const MAX_BYTES: usize = 256 * 1024;
/// Roots and token keys, used or not. A rotation holds two of each.
pub const MAX_KEYS: usize = 64;

const SEQUENCE: &str = "spiffe_sequence";
const REFRESH_HINT: &str = "spiffe_refresh_hint";

/// A bundle document that was read.
#[derive(Debug, Clone)]
pub struct Document {
    domain: TrustDomain,
    sequence: Option<u64>,
    refresh_hint: Option<Duration>,
    roots: Option<TrustBundle>,
    jwt: Jwks,
    ignored: usize,
}

impl Document {
    /// Reads the document of this trust domain.
    ///
    /// # Errors
    /// [`DocumentError`]: nothing of it is to be used.
    pub fn parse(domain: &TrustDomain, text: &[u8]) -> Result<Document, DocumentError> {
        if text.len() > MAX_BYTES {
            return Err(DocumentError::TooLarge { got: text.len() });
        }
        let map = json::object(text)?;
        let Some(Value::Array(keys)) = map.get("keys") else {
            return Err(match map.contains_key("trust_domains") {
                true => DocumentError::BundleMap,
                false => DocumentError::NoKeys,
            });
        };
        if keys.len() > MAX_KEYS {
            return Err(DocumentError::TooManyKeys { got: keys.len() });
        }
        let sequence = integer(&map, SEQUENCE)?;
        let refresh_hint = integer(&map, REFRESH_HINT)?.map(Duration::from_secs);
        let (mut roots, mut jwt, mut ignored) = (Vec::new(), Vec::new(), 0_usize);
        for (index, key) in keys.iter().enumerate() {
            match entry::read(key).map_err(|reason| DocumentError::Entry { index, reason })? {
                Entry::Root(root) => roots.push(root),
                Entry::Jwt(key) => jwt.push(key),
                Entry::Ignored => ignored = ignored.saturating_add(1),
            }
        }
        let mut kids = BTreeSet::new();
        if let Some(twice) = jwt.iter().filter_map(|key| key.kid()).find(|kid| !kids.insert(*kid)) {
            return Err(DocumentError::DuplicateKid(twice.to_owned()));
        }
        let roots = match roots.is_empty() {
            true => None,
            false => Some(TrustBundle::new(domain.clone(), roots)?),
        };
        Ok(Document { domain: domain.clone(), sequence, refresh_hint, roots, jwt: Jwks::of(jwt), ignored })
    }

    /// Whose it is, as the reader said.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Grows with each change; some publishers leave it out.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// How often the publisher would like to be asked.
    #[must_use]
    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }

    /// The roots; none where no certificate of this trust domain is to be believed.
    #[must_use]
    pub fn roots(&self) -> Option<&TrustBundle> {
        self.roots.as_ref()
    }

    /// The keys that sign JWT-SVIDs.
    #[must_use]
    pub fn jwt_keys(&self) -> &Jwks {
        &self.jwt
    }

    /// Entries of a use, key type or algorithm that this version does not know.
    #[must_use]
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// Whether the two say the same of whom to believe.
    #[must_use]
    pub fn has_the_keys_of(&self, other: &Document) -> bool {
        let roots = |document: &Document| {
            document.roots.iter().flat_map(TrustBundle::digests).collect::<BTreeSet<_>>()
        };
        roots(self) == roots(other) && self.jwt.keys() == other.jwt.keys()
    }
}

fn integer(map: &Map<String, Value>, member: &'static str) -> Result<Option<u64>, DocumentError> {
    match map.get(member) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(DocumentError::NotAnInteger { member }),
    }
}

/// The document of these roots and of these keys for JWT-SVIDs, each of which has a `kid`; those that have none
/// are left out, since nobody could find them. Equal content gives equal text.
#[must_use]
pub fn write(roots: &TrustBundle, jwt: &Jwks, sequence: u64, refresh_hint: Duration) -> String {
    let x509 = roots.roots().map(|der| {
        let mut entry = members::of_certificate(der).unwrap_or_default();
        entry.insert("use".into(), X509.into());
        entry.insert("x5c".into(), json!([STANDARD.encode(der)]));
        Value::Object(entry)
    });
    let jwt = jwt.keys().iter().filter(|key| key.kid().is_some()).map(|key| {
        let mut entry = key.to_json();
        entry.insert("use".into(), JWT.into());
        Value::Object(entry)
    });
    let keys: Vec<Value> = x509.chain(jwt).collect();
    json!({ SEQUENCE: sequence, REFRESH_HINT: refresh_hint.as_secs(), "keys": keys }).to_string()
}
