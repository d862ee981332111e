//! Why a document is not a SPIFFE bundle of the trust domain that it should be of.

use signet_identity::BundleError;
use signet_token::{JwkRefused, json::JsonError};

use crate::document::{MAX_BYTES, MAX_KEYS};

/// The document is refused whole; what was held before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("the document is {got} bytes, at most {MAX_BYTES} are read")]
    TooLarge { got: usize },
    #[error("the document is unreadable: {0}")]
    Json(#[from] JsonError),
    #[error(
        "expected the bundle of one trust domain, got a map of several: use the URL that serves this one's alone"
    )]
    BundleMap,
    #[error("the document has no array named \"keys\"; one that trusts nothing says \"keys\": []")]
    NoKeys,
    #[error("the document lists {got} keys, at most {MAX_KEYS} are read")]
    TooManyKeys { got: usize },
    #[error("{member} is not an integer from 0 to 2^64 - 1")]
    NotAnInteger { member: &'static str },
    #[error("keys[{index}]: {reason}")]
    Entry { index: usize, reason: EntryError },
    #[error(transparent)]
    Roots(#[from] BundleError),
    #[error("two jwt-svid keys have the kid {0:?}: which one signs is then a guess")]
    DuplicateKid(String),
}

/// What is wrong with one entry of `keys`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("not a JSON object")]
    NotAnObject,
    #[error("{0} is missing or not a text")]
    Member(&'static str),
    #[error("x5c of an x509-svid key holds exactly one certificate, this one holds {0}")]
    X5c(usize),
    #[error("x5c is not base64 of a certificate")]
    Certificate,
    #[error("the certificate's key is not the one that the entry describes")]
    OtherKey,
    #[error("a jwt-svid key needs a kid")]
    NoKid,
    #[error("the jwt-svid key: {0}")]
    Jwk(#[from] JwkRefused),
}
