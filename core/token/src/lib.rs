//! JOSE for a mesh: access tokens of outside issuers, transaction tokens of our own, and the
//! delegations under which gateways mint them.
//!
//! What it promises: a token is believed only after its size, its three base64url parts, its JSON
//! (no duplicate member, bounded depth), its algorithm, its issuer, its key, its signature and each
//! claim's type were checked, in that order (RFC 7515 §5.2, RFC 7519 §7.2, RFC 8725, RFC 9068 §4).
//! What it never does: look at a clock, open a socket, fetch a key, follow `jku`, `x5u`, `jwk` or
//! `x5c`, know `none` or an `HS*` algorithm, or fall back to another key.
//!
//! Every function is pure: keys, revocations and `now` (seconds since the epoch) are passed in.
//!
//! - [`jws`]: compact serialisation and signatures; [`json`]: the strict parser under it
//! - [`Jwks`], [`Jwk`]: an issuer's public keys; [`SigningKey`]: ES256 keys of our own
//! - [`Issuers`]: outside issuers by exact `iss`, yielding an [`AccessToken`]
//! - [`RelyingParty`]: ID tokens of a provider for one client, yielding an [`IdToken`]
//! - [`delegation`], [`TokenRoots`]: who may mint; [`txn`], [`DelegatedMinter`]: what is minted
//! - [`hop`]: by whom, to whom and with which token one call is made
//! - [`jwt_svid`]: workloads' identities as tokens, ours and those of federated trust domains
//! - [`RevokedUsers`]: who is not believed any more
//! - [`TokenCache`]: verified tokens by SHA-256, bounded, dropped when what they rest on changes
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod access;
mod algorithm;
mod b64;
mod cache;
mod claims;
pub mod delegation;
pub mod dpop;
mod error;
pub mod hop;
mod id_token;
mod issuer;
pub mod json;
mod jwk;
mod jwks;
pub mod jws;
pub mod jwt_svid;
mod key;
mod logout;
mod minter;
mod revoked;
mod secret;
pub mod txn;

pub use access::{AccessToken, Confirmation};
pub use algorithm::{Algorithm, UnknownAlgorithm};
pub use b64::sha256;
pub use cache::TokenCache;
pub use claims::ClaimError;
pub use delegation::{Delegation, DelegationError, ScopeCeiling, TokenRoots};
pub use error::TokenError;
pub use id_token::{
    IdToken, IdTokenError, MAX_GROUPS, MAX_ID_TOKEN, MAX_ID_TOKEN_AGE, RelyingParty, unverified_issuer,
};
pub use issuer::{
    DEFAULT_SKEW, IssuerConfigError, IssuerKeys, IssuerSettings, Issuers, KEYS_STALE_AFTER, MAX_SKEW,
};
pub use jwk::{Jwk, JwkRefused};
pub use jwks::{Dropped, Jwks, JwksError, KeyLookup};
pub use jws::JoseError;
pub use key::{KeyError, SigningKey};
pub use logout::{Logout, MAX_AGE as MAX_LOGOUT_AGE};
pub use minter::{DelegatedMinter, Minted};
pub use revoked::{RevokedUsers, Subject, UserRevokedBy};
pub use secret::Secret;
pub use txn::{MintError, TxnClaims, TxnError};
