//! A JWT access token (RFC 9068): verified by `signet-token`, remembered, proven to be its caller's where it is bound, and
//! described.

use std::sync::Arc;

use signet_model::{JwtAuth, Period};
use signet_token::txn::Rctx;
use signet_token::{AccessToken, JoseError, TokenError, sha256};
use signet_wire::RequestView;

use super::{Caller, Evidence, Failure, authorization, possession};

pub(crate) const METHOD: &str = "jwt";

/// Verifies the token of this request against the issuers that the route takes, and what else it asks for.
pub(crate) fn verify(
    request: RequestView<'_>,
    asks: &JwtAuth,
    evidence: &Evidence<'_>,
) -> Result<Caller, Failure> {
    let (scheme, token) = authorization::token(request)?;
    let accepts = |alias: &str| asks.issuers.iter().any(|issuer| issuer.as_str() == alias);
    let verified = genuine(token, &accepts, evidence).map_err(|error| match error {
        TokenError::Jose(JoseError::TooLarge { .. }) => Failure::TooLarge,
        error if error.is_unavailable() => Failure::Unavailable(error),
        error => Failure::Refused(error),
    })?;
    possession::check((scheme, token), &verified, asks.bound, request, evidence)?;
    if let Some(by) = evidence.keys.revoked_users.revokes(&verified.revocable) {
        return Err(Failure::Refused(TokenError::Revoked(by)));
    }
    logged_in(&verified, asks, evidence.now)?;
    let rctx = describe(&verified, token);
    Ok(Caller { token: verified, rctx })
}

fn genuine(
    token: &str,
    accepts: &dyn Fn(&str) -> bool,
    evidence: &Evidence<'_>,
) -> Result<Arc<AccessToken>, TokenError> {
    let Evidence { keys, tokens, now, .. } = *evidence;
    let known =
        if token.len() <= AccessToken::MAX_BYTES { tokens.get(keys.generation, token, now) } else { None };
    if let Some(known) = known {
        // That it is genuine was found out on some route; whether it is welcome is this route's question.
        return match accepts(&known.alias) {
            true => Ok(known),
            false => Err(TokenError::IssuerNotAccepted { alias: known.alias.to_string() }),
        };
    }
    let verified = Arc::new(keys.issuers.verify_bound(token, now, accepts)?);
    tokens.insert(keys.generation, token, verified.clone(), verified.good_until());
    Ok(verified)
}

/// The user logged in as the route asks, and not too long ago (RFC 9470 §3).
fn logged_in(verified: &AccessToken, asks: &JwtAuth, now: u64) -> Result<(), Failure> {
    let is_one = |acr: &str| asks.acr_values.iter().any(|value| value.as_str() == acr);
    if !asks.acr_values.is_empty() && !verified.acr.as_deref().is_some_and(is_one) {
        return Err(Failure::StepUp("acr"));
    }
    let latest = |age: Period| now.saturating_sub(age.seconds().saturating_add(verified.skew));
    match asks.max_age {
        Some(age) if verified.auth_time.is_none_or(|at| at < latest(age)) => Err(Failure::StepUp("max_age")),
        _ => Ok(()),
    }
}

fn describe(verified: &AccessToken, token: &str) -> Rctx {
    Rctx {
        cred: METHOD.to_owned(),
        cred_id: Some(format!("sha256:{}", crate::events::short_hex(&sha256(token.as_bytes())))),
        issuer: Some(verified.issuer.clone()),
        client_id: verified.client_id.clone(),
        src_exp: Some(verified.expires_at),
        src_iat: Some(verified.revocable.issued_at),
        src_jti: verified.revocable.token.clone(),
        acr: verified.acr.clone(),
        amr: verified.amr.clone(),
        auth_time: verified.auth_time,
        session_id: verified.revocable.session.clone(),
        ..Rctx::default()
    }
}
