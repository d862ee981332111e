//! An issuer's key set (RFC 7517 §5). A set with one strange key still serves the others; what was
//! left out is counted with its reason.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::algorithm::Algorithm;
use crate::json::{self, JsonError};
use crate::jwk::{Jwk, JwkRefused};

const MAX_BYTES: usize = Jwks::MAX_BYTES;
const MAX_KEYS: usize = Jwks::MAX_KEYS;

/// The usable public keys of one issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jwks {
    keys: Vec<Jwk>,
    dropped: Dropped,
}

/// How many keys were left out, by reason.
pub type Dropped = BTreeMap<JwkRefused, usize>;

/// Why a document is not a key set at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    #[error("the key set is {got} bytes, at most {MAX_BYTES} are read")]
    TooLarge { got: usize },
    #[error("the key set is unreadable: {0}")]
    Json(#[from] JsonError),
    #[error("the key set has no array named \"keys\"")]
    NoKeysMember,
    #[error("the key set lists {got} keys, at most {MAX_KEYS} are read")]
    TooManyKeys { got: usize },
}

/// Why no key of the set is the one that a header means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyLookup {
    /// Nothing fits: the issuer may have rotated since its keys were fetched.
    Unknown,
    /// More than one fits, and guessing is not verification.
    Ambiguous,
}

impl Jwks {
    /// The largest document that is read, in bytes.
    pub const MAX_BYTES: usize = 256 * 1024;
    /// The most keys that a set may list, used or not.
    pub const MAX_KEYS: usize = 64;

    /// Reads a key set. An empty set is a set; whether that will do is the caller's question.
    pub fn parse(document: &str) -> Result<Jwks, JwksError> {
        if document.len() > MAX_BYTES {
            return Err(JwksError::TooLarge { got: document.len() });
        }
        let map = json::object(document.as_bytes())?;
        let Some(Value::Array(listed)) = map.get("keys") else { return Err(JwksError::NoKeysMember) };
        if listed.len() > MAX_KEYS {
            return Err(JwksError::TooManyKeys { got: listed.len() });
        }
        let mut set = Jwks::default();
        for key in listed {
            let read = match key {
                Value::Object(members) => Jwk::from_map(members),
                _ => Err(JwkRefused::Malformed),
            };
            match read {
                Ok(key) => set.keys.push(key),
                Err(reason) => {
                    let count = set.dropped.entry(reason).or_default();
                    *count = count.saturating_add(1);
                }
            }
        }
        Ok(set)
    }

    /// A set of keys of our own.
    pub fn of(keys: impl IntoIterator<Item = Jwk>) -> Jwks {
        Jwks { keys: keys.into_iter().collect(), dropped: Dropped::new() }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn keys(&self) -> &[Jwk] {
        &self.keys
    }

    pub fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    /// The one key that `kid` and `alg` mean. Without `kid`, the only usable key of that algorithm.
    pub fn find(&self, kid: Option<&str>, alg: Algorithm) -> Result<&Jwk, KeyLookup> {
        let mut fitting =
            self.keys.iter().filter(|key| key.verifies(alg) && (kid.is_none() || key.kid() == kid));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(KeyLookup::Ambiguous),
            (None, _) => Err(KeyLookup::Unknown),
        }
    }

    /// The document that others fetch: usable keys only.
    pub fn to_json(&self) -> String {
        let keys: Vec<Value> = self.keys.iter().map(|key| Value::Object(key.to_json())).collect();
        json!({ "keys": keys }).to_string()
    }
}
