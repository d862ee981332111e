//! That an access token is its caller's (RFC 9449 §7, RFC 8705 §3): a token that is bound to a key is taken with a proof by
//! that key and in no other way.

use signet_model::BoundTokens;
use signet_token::dpop::{self, DpopError, Expected};
use signet_token::{AccessToken, Confirmation, TokenError};
use signet_wire::RequestView;

use super::authorization::Scheme;
use super::seen::Full;
use super::{Evidence, Failure, Unproven};

const PROOF: &str = "dpop";

/// Checks that whoever presents this token in this way may. `bound` is the route's word on tokens that anybody could present.
pub(super) fn check(
    (scheme, token): (Scheme, &str),
    verified: &AccessToken,
    bound: BoundTokens,
    request: RequestView<'_>,
    evidence: &Evidence<'_>,
) -> Result<(), Failure> {
    let unbound = |why: &str| unproven("invalid_token", "unbound_token", why);
    match (&verified.confirmation, scheme) {
        (None, Scheme::Bearer) if bound == BoundTokens::Optional => Ok(()),
        (None, Scheme::Bearer) => Err(unbound("the route takes tokens that are bound to a key only")),
        // It is bound to no key, so a proof says nothing of whose it is.
        (None | Some(Confirmation::Certificate(_)), Scheme::Dpop) => {
            Err(unbound("a token that is bound to no key came with the scheme DPoP"))
        }
        // RFC 9449 §7.2; and no certificate is asked for at the edge.
        (Some(_), Scheme::Bearer) => Err(Failure::Refused(TokenError::Unproven)),
        (Some(Confirmation::Key(key)), Scheme::Dpop) => proven(token, key, request, evidence),
    }
}

/// The request has one proof, made for it and this token by this key just now, and never seen.
fn proven(token: &str, key: &str, request: RequestView<'_>, evidence: &Evidence<'_>) -> Result<(), Failure> {
    let mut lines = request.get_all(PROOF);
    let proof = match (lines.next(), lines.next()) {
        (Some(proof), None) => proof,
        (None, _) => return Err(no_proof("dpop_missing", "the scheme is DPoP, and there is no proof")),
        (Some(_), Some(_)) => return Err(Failure::Malformed("two_proofs")),
    };
    let Ok(proof) = std::str::from_utf8(proof) else {
        return Err(no_proof("dpop_malformed", "the proof is no text"));
    };
    let authority = request.authority().map(ToString::to_string).unwrap_or_default();
    let expected = Expected {
        method: request.method(),
        scheme: if evidence.tls { "https" } else { "http" },
        authority: &authority,
        path: request.path(),
        token,
    };
    let refused = |error: DpopError| no_proof(error.label(), &error.to_string());
    let proof = dpop::verify(proof, &expected, evidence.now).map_err(refused)?;
    if proof.thumbprint != key {
        return Err(no_proof("dpop_key", "the proof is by another key than the token is bound to"));
    }
    match evidence.proofs.first_time(&proof, evidence.now) {
        Ok(true) => Ok(()),
        Ok(false) => Err(no_proof("dpop_replayed", "this proof came before")),
        Err(Full::OfKey) => Err(Failure::Overloaded("dpop_key_full")),
        Err(Full::OfAll) => Err(Failure::Overloaded("dpop_full")),
    }
}

fn no_proof(label: &'static str, why: &str) -> Failure {
    unproven("invalid_dpop_proof", label, why)
}

fn unproven(error: &'static str, label: &'static str, why: &str) -> Failure {
    Failure::Unproven(Unproven { error, label, why: why.into() })
}
