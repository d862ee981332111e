//! The error contract of the edge (RFC 6750 §3, RFC 9449 §7.1, RFC 9470 §3, RFC 9110 §11.6.1). A caller learns which of
//! seven things is wrong and never why: details would tell an attacker which guess was closer.

use signet_model::{AcrValue, BoundTokens, JwtAuth, RouteAuth, Scope};
use signet_proxy::answer::{Reason, Refusal};
use signet_token::{MintError, dpop};

use crate::auth::authorization::Scheme;
use crate::auth::{Failure, Unproven};

/// Seconds after which a caller may try again when keys or the delegation are missing: they are fetched within
/// a few.
const RETRY_AFTER: u32 = 5;

const LOG_IN_AGAIN: &str = "another way of logging in, or a more recent one, is needed";
/// One text for every reason.
const INVALID_TOKEN: &str = "the access token is not valid here";

/// What a failed authentication on a route with this `auth` is answered with. `realm` is the trust domain, which needs no
/// quoting.
pub(crate) fn unauthenticated(failure: &Failure, scheme: Scheme, auth: &RouteAuth, realm: &str) -> Refusal {
    match failure {
        // No `error`: the caller has done nothing wrong yet.
        Failure::Missing => missing(auth.jwt.as_ref(), realm),
        Failure::Unproven(Unproven { error, why, .. }) => Refusal::new(Reason::Unauthenticated)
            .challenge(proof_wanted(realm, &format!(", error=\"{error}\"")))
            .detail(why),
        Failure::Refused(error) if scheme == Scheme::Dpop => Refusal::new(Reason::Unauthenticated)
            .challenge(proof_wanted(realm, ", error=\"invalid_token\""))
            .detail(error),
        Failure::StepUp(what) => step_up(auth.jwt.as_ref(), realm)
            .detail(format_args!("the user did not log in as the route asks: {what}")),
        Failure::Overloaded(what) => {
            unavailable().detail(format_args!("more than can be remembered: {what}"))
        }
        Failure::Malformed(label) => Refusal::new(Reason::BadRequest(label))
            .challenge(format!("Bearer realm=\"{realm}\", error=\"invalid_request\"")),
        Failure::TooLarge => Refusal::new(Reason::HeadTooLarge),
        Failure::Refused(error) => invalid_token(realm).detail(error),
        Failure::Unavailable(error) => unavailable().detail(error),
    }
}

/// One challenge for each scheme that would do.
fn missing(jwt: Option<&JwtAuth>, realm: &str) -> Refusal {
    let refusal = Refusal::new(Reason::Unauthenticated);
    let refusal = match jwt.map(|jwt| jwt.bound) {
        Some(BoundTokens::Required) => refusal,
        _ => refusal.challenge(format!("Bearer realm=\"{realm}\"")),
    };
    refusal.challenge(proof_wanted(realm, ""))
}

fn proof_wanted(realm: &str, error: &str) -> String {
    format!("DPoP realm=\"{realm}\"{error}, algs=\"{}\"", dpop::algorithms())
}

/// The user is to log in as the route asks, and the client to come back with what they get then.
fn step_up(jwt: Option<&JwtAuth>, realm: &str) -> Refusal {
    let mut challenge = format!(
        "Bearer realm=\"{realm}\", error=\"insufficient_user_authentication\", error_description=\"{LOG_IN_AGAIN}\""
    );
    if let Some(jwt) = jwt {
        if !jwt.acr_values.is_empty() {
            let values: Vec<&str> = jwt.acr_values.iter().map(AcrValue::as_str).collect();
            challenge.push_str(&format!(", acr_values=\"{}\"", values.join(" ")));
        }
        if let Some(age) = jwt.max_age {
            challenge.push_str(&format!(", max_age=\"{}\"", age.seconds()));
        }
    }
    Refusal::new(Reason::Unauthenticated).challenge(challenge)
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
