//! The error contract of the edge (RFC 6750 §3, RFC 9110 §11.6.1). A caller learns which of five things is
//! wrong and never why: details would tell an attacker which guess was closer.

use signet_model::Scope;
use signet_proxy::answer::{Reason, Refusal};
use signet_token::MintError;

use crate::auth::Failure;

/// Seconds after which a caller may try again when keys or the delegation are missing: they are fetched within
/// a few.
const RETRY_AFTER: u32 = 5;

/// One text for every reason.
const INVALID_TOKEN: &str = "the access token is not valid here";

/// What a failed authentication is answered with. `realm` is the trust domain, which needs no quoting.
pub(crate) fn unauthenticated(failure: &Failure, realm: &str) -> Refusal {
    match failure {
        // No `error`: the caller has done nothing wrong yet.
        Failure::Missing => {
            Refusal::new(Reason::Unauthenticated).challenge(format!("Bearer realm=\"{realm}\""))
        }
        Failure::Malformed(label) => Refusal::new(Reason::BadRequest(label))
            .challenge(format!("Bearer realm=\"{realm}\", error=\"invalid_request\"")),
        Failure::TooLarge => Refusal::new(Reason::HeadTooLarge),
        Failure::Refused(error) => invalid_token(realm).detail(error),
        Failure::Unavailable(error) => unavailable().detail(error),
    }
}

/// The credential is good, and does not allow this.
pub(crate) fn insufficient_scope(scopes: &[Scope], realm: &str) -> Refusal {
    let scopes: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
    let scopes = scopes.join(" ");
    Refusal::new(Reason::Forbidden)
        .challenge(format!("Bearer realm=\"{realm}\", error=\"insufficient_scope\", scope=\"{scopes}\""))
        .detail(format_args!("the credential lacks one of the route's scopes: {scopes}"))
}

/// The caller is known, and no transaction token could be made.
pub(crate) fn unminted(error: &MintError, realm: &str) -> Refusal {
    match error {
        // Between its end and the end of the skew that we allow, a credential is accepted and mints nothing.
        MintError::SourceEnded { .. } => invalid_token(realm),
        MintError::TooLarge { .. } => Refusal::new(Reason::Forbidden),
        // What is left is the gateway's: no delegation, or one that does not cover what its routes take.
        _ => unavailable(),
    }
    .detail(error)
}

fn invalid_token(realm: &str) -> Refusal {
    Refusal::new(Reason::Unauthenticated).challenge(format!(
        "Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{INVALID_TOKEN}\""
    ))
}

fn unavailable() -> Refusal {
    Refusal::new(Reason::AuthUnavailable).retry_after(RETRY_AFTER)
}
