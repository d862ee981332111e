//! A JWT access token as bearer (RFC 9068): verified by `signet-token`, remembered, and described.

use std::sync::Arc;

use signet_model::Label;
use signet_token::txn::Rctx;
use signet_token::{AccessToken, JoseError, TokenError, sha256};
use signet_wire::RequestView;

use super::{Caller, Evidence, Failure, bearer};

pub(crate) const METHOD: &str = "jwt";

/// Verifies the bearer token of this request against the issuers that the route takes.
pub(crate) fn verify(
    request: RequestView<'_>,
    issuers: &[Label],
    evidence: &Evidence<'_>,
) -> Result<Caller, Failure> {
    let token = bearer::token(request)?;
    let accepts = |alias: &str| issuers.iter().any(|issuer| issuer.as_str() == alias);
    let verified = genuine(token, &accepts, evidence).map_err(|error| match error {
        TokenError::Jose(JoseError::TooLarge { .. }) => Failure::TooLarge,
        error if error.is_unavailable() => Failure::Unavailable(error),
        error => Failure::Refused(error),
    })?;
    if let Some(by) = evidence.keys.revoked_users.revokes(&verified.revocable) {
        return Err(Failure::Refused(TokenError::Revoked(by)));
    }
    let rctx = describe(&verified, token);
    Ok(Caller { token: verified, rctx })
}

fn genuine(
    token: &str,
    accepts: &dyn Fn(&str) -> bool,
    evidence: &Evidence<'_>,
) -> Result<Arc<AccessToken>, TokenError> {
    let Evidence { keys, tokens, now } = *evidence;
    let known =
        if token.len() <= AccessToken::MAX_BYTES { tokens.get(keys.generation, token, now) } else { None };
    if let Some(known) = known {
        // That it is genuine was found out on some route; whether it is welcome is this route's question.
        return match accepts(&known.alias) {
            true => Ok(known),
            false => Err(TokenError::IssuerNotAccepted { alias: known.alias.to_string() }),
        };
    }
    let verified = Arc::new(keys.issuers.verify_from(token, now, accepts)?);
    tokens.insert(keys.generation, token, verified.clone(), verified.good_until());
    Ok(verified)
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
