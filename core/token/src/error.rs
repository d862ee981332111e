//! Why an access token is not believed. One enum, because the edge answers by it: everything is
//! `invalid_token` to the caller, and the reason goes to the log and a counter only.

use crate::algorithm::Algorithm;
use crate::claims::ClaimError;
use crate::jws::JoseError;
use crate::revoked::UserRevokedBy;

/// Why an access token was refused, or could not be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error(transparent)]
    Jose(#[from] JoseError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("no configured issuer has the token's iss")]
    UnknownIssuer,
    #[error("several issuers ({aliases}) are configured with the token's iss")]
    AmbiguousIssuer { aliases: String },
    #[error("issuer {alias} is not accepted here")]
    IssuerNotAccepted { alias: String },
    #[error("issuer {alias} does not sign with {algorithm}")]
    AlgorithmNotAllowed { alias: String, algorithm: Algorithm },
    #[error("the keys of issuer {alias} were never fetched")]
    KeysUnavailable { alias: String },
    #[error("the keys of issuer {alias} are {age} s old, at most {max} s are accepted")]
    KeysStale { alias: String, age: u64, max: u64 },
    #[error("issuer {alias} has no {algorithm} key of the token's kid")]
    UnknownKey { alias: String, algorithm: Algorithm },
    #[error("issuer {alias} has more than one {algorithm} key that fits the token's header")]
    AmbiguousKey { alias: String, algorithm: Algorithm },
    #[error("the token's typ is not one that issuer {alias} is configured for")]
    WrongType { alias: String },
    #[error("an ID token is no access token ({sign})")]
    IdToken { sign: &'static str },
    #[error("no configured audience of issuer {alias} is in the token's aud")]
    WrongAudience { alias: String },
    #[error("expired {ago} s ago")]
    Expired { ago: u64 },
    #[error("not valid before {within} s from now")]
    NotYetValid { within: u64 },
    #[error("issued {ahead} s in the future")]
    IssuedInFuture { ahead: u64 },
    #[error("lives {lifetime} s, issuer {alias} may grant {max} s")]
    TooLongLived { alias: String, lifetime: u64, max: u64 },
    #[error("bound to a key (cnf) whose possession was not proven")]
    Unproven,
    #[error("no logout token: {what}")]
    NotLogout { what: &'static str },
    #[error("revoked: {}", .0.label())]
    Revoked(UserRevokedBy),
}

impl TokenError {
    /// A short name for counters and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            TokenError::Jose(e) => e.label(),
            TokenError::Claim(e) => e.label(),
            TokenError::UnknownIssuer => "unknown_issuer",
            TokenError::AmbiguousIssuer { .. } => "ambiguous_issuer",
            TokenError::IssuerNotAccepted { .. } => "issuer_not_accepted",
            TokenError::AlgorithmNotAllowed { .. } => "algorithm_not_allowed",
            TokenError::KeysUnavailable { .. } => "keys_unavailable",
            TokenError::KeysStale { .. } => "keys_stale",
            TokenError::UnknownKey { .. } => "unknown_key",
            TokenError::AmbiguousKey { .. } => "ambiguous_key",
            TokenError::WrongType { .. } => "wrong_type",
            TokenError::IdToken { .. } => "id_token",
            TokenError::WrongAudience { .. } => "wrong_audience",
            TokenError::Expired { .. } => "expired",
            TokenError::NotYetValid { .. } => "not_yet_valid",
            TokenError::IssuedInFuture { .. } => "issued_in_future",
            TokenError::TooLongLived { .. } => "too_long_lived",
            TokenError::Unproven => "unproven_cnf",
            TokenError::NotLogout { .. } => "not_logout",
            TokenError::Revoked(by) => by.label(),
        }
    }

    /// The fault is ours, not the token's: answer 503 and let the caller try again, never 401, or
    /// clients would throw good tokens away.
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, TokenError::KeysUnavailable { .. } | TokenError::KeysStale { .. })
    }
}
