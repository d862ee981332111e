//! JWT-SVIDs (SPIFFE's JWT-SVID standard): a workload's identity as a bearer token for named audiences.
//!
//! Ours say `sub`, `aud`, `exp` and `iat`, under ES256 with `typ: JWT` and a `kid`. Others' are believed after: a
//! compact JWS of at most 16 KiB; `typ` absent, `JWT` or `JOSE`; an algorithm that the standard lists and we verify
//! (ES256, ES384, RS256, PS256); a `kid`; a `sub` whose trust domain has keys here, and the signature by the one of
//! them that `kid` names; `exp`, which is mandatory, in the future; `aud`, which names who asks. The keys of one
//! trust domain vouch for no other.

use serde_json::{Map, Value};

use crate::algorithm::Algorithm;
use crate::claims::{ClaimError, Claims, MAX_TEXT};
use crate::jwks::{Jwks, KeyLookup};
use crate::jws::{Compact, JoseError};
use crate::key::{KeyError, SigningKey};

/// The longest token that is read. Ours are a few hundred bytes.
pub const MAX_BYTES: usize = 16 * 1024;
/// Clocks of one mesh may differ by so much.
pub const SKEW: u64 = 30;
/// Audiences in one token.
pub const MAX_AUDIENCES: usize = 16;

/// What a JWT-SVID of ours says.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// A SPIFFE ID.
    pub subject: &'a str,
    /// See [`are_audiences`].
    pub audiences: &'a [String],
    /// Seconds since the epoch.
    pub issued_at: u64,
    pub expires_at: u64,
}

/// A JWT-SVID that is believed.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtSvid {
    /// A SPIFFE ID, as text; its trust domain is the one whose keys verified it.
    pub subject: String,
    pub audiences: Vec<String>,
    /// Seconds since the epoch.
    pub expires_at: u64,
    /// Every claim, as it came.
    pub claims: Map<String, Value>,
}

/// Why a JWT-SVID is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtSvidError {
    #[error(transparent)]
    Jose(#[from] JoseError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("{0} is not an algorithm of JWT-SVIDs: ES256, ES384, RS256 and PS256 are")]
    Algorithm(Algorithm),
    #[error("the header's typ is neither absent nor JWT nor JOSE")]
    WrongType,
    #[error("the header has no kid")]
    NoKeyId,
    #[error("sub is not a SPIFFE ID with a path")]
    Subject,
    #[error("there are no JWT keys of the trust domain of sub")]
    UnknownDomain,
    #[error("the trust domain of sub has no such key")]
    UnknownKey,
    #[error("the trust domain of sub has more than one such key")]
    AmbiguousKey,
    #[error("aud does not name the audience asked for")]
    Audience,
    #[error("expired {ago} s ago")]
    Expired { ago: u64 },
    #[error("not valid before {within} s from now")]
    NotYetValid { within: u64 },
}

/// Whether a token may be issued for these: 1 to 16, each of 1 to 1024 bytes without control characters, none twice.
pub fn are_audiences(audiences: &[String]) -> bool {
    let plain =
        |text: &String| !text.is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
    let distinct = audiences.iter().collect::<std::collections::BTreeSet<_>>().len() == audiences.len();
    (1..=MAX_AUDIENCES).contains(&audiences.len()) && audiences.iter().all(plain) && distinct
}

/// Signs a JWT-SVID.
pub fn sign(key: &SigningKey, terms: &Terms<'_>) -> Result<String, KeyError> {
    let claims = Map::from_iter([
        ("sub".to_owned(), terms.subject.into()),
        ("aud".to_owned(), terms.audiences.into()),
        ("iat".to_owned(), terms.issued_at.into()),
        ("exp".to_owned(), terms.expires_at.into()),
    ]);
    key.sign("JWT", Map::new(), &claims)
}

/// Verifies a JWT-SVID for `audience`. `domain_of` reads a SPIFFE ID and yields its trust domain's keys: the outer
/// `None` where the text is no SPIFFE ID of a workload, the inner one where no keys of its trust domain are here.
pub fn verify<'k>(
    token: &str,
    audience: &str,
    domain_of: impl FnOnce(&str) -> Option<Option<&'k Jwks>>,
    now: u64,
) -> Result<JwtSvid, JwtSvidError> {
    let compact = Compact::parse(token, MAX_BYTES)?;
    let algorithm = compact.algorithm();
    if algorithm == Algorithm::EdDsa {
        return Err(JwtSvidError::Algorithm(algorithm));
    }
    match compact.typ()? {
        None | Some("JWT" | "JOSE") => {}
        Some(_) => return Err(JwtSvidError::WrongType),
    }
    let kid = compact.kid().filter(|kid| !kid.is_empty()).ok_or(JwtSvidError::NoKeyId)?;
    let payload = compact.claims()?;
    let claims = Claims(&payload);
    let subject = claims.required_subject()?;
    let keys = domain_of(subject).ok_or(JwtSvidError::Subject)?.ok_or(JwtSvidError::UnknownDomain)?;
    let key = keys.find(Some(kid), algorithm).map_err(|why| match why {
        KeyLookup::Unknown => JwtSvidError::UnknownKey,
        KeyLookup::Ambiguous => JwtSvidError::AmbiguousKey,
    })?;
    compact.verify(key)?;

    let audiences = claims.one_or_more("aud")?;
    let expires_at = claims.required_date("exp")?;
    let (issued_at, not_before) = (claims.date("iat")?, claims.date("nbf")?);
    if !audiences.contains(&audience) {
        return Err(JwtSvidError::Audience);
    }
    if now >= expires_at.saturating_add(SKEW) {
        return Err(JwtSvidError::Expired { ago: now.saturating_sub(expires_at) });
    }
    let latest = now.saturating_add(SKEW);
    for begins in [issued_at, not_before].into_iter().flatten() {
        if begins > latest {
            return Err(JwtSvidError::NotYetValid { within: begins.saturating_sub(now) });
        }
    }
    let (subject, audiences) = (subject.to_owned(), audiences.into_iter().map(str::to_owned).collect());
    Ok(JwtSvid { subject, audiences, expires_at, claims: payload })
}
