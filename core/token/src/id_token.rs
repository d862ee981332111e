//! ID tokens (OpenID Connect Core 1.0 §2, §3.1.3.7): who just logged in, for the one client that asked.
//!
//! A profile of its own, because an ID token is not an access token: its audience is the client, its `nonce`
//! ties it to one login, and it is judged once, soon after it was made. It is believed only with every
//! one of `iss`, `sub`, `aud`, `exp`, `iat` and `nonce`; `azp` must be the client wherever it stands, and must
//! stand where the audience is more than the client; a `typ` of any other kind of token is refused. What the
//! `nonce` must be is the caller's to compare: it is handed out, never ignored.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::algorithm::{Algorithm, UnknownAlgorithm};
use crate::claims::{ClaimError, Claims, kind};
use crate::issuer::{DEFAULT_SKEW, KEYS_STALE_AFTER};
use crate::jwks::{Jwks, KeyLookup};
use crate::jws::{Compact, JoseError};

/// The largest that is read, in bytes: people are in many groups.
pub const MAX_ID_TOKEN: usize = 32 * 1024;
/// How long after it was issued it may still begin something, in seconds: a login is over in a moment.
pub const MAX_ID_TOKEN_AGE: u64 = 600;
/// Groups of one person that are read; a token with more is refused, since leaving some out could hide one.
pub const MAX_GROUPS: usize = 1024;

/// What one provider's ID tokens for one client must be.
#[derive(Debug, Clone)]
pub struct RelyingParty {
    /// The exact `iss`.
    pub issuer: String,
    /// The `aud`, and the `azp` where there is one.
    pub client_id: String,
    /// Which algorithms it may sign with; never empty.
    algorithms: BTreeSet<Algorithm>,
    /// The claim that names a person to configuration: `email`, `preferred_username`, `sub`.
    pub username_claim: String,
    /// The claim that lists a person's groups, where groups are used.
    pub groups_claim: Option<String>,
}

/// What a verified ID token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdToken {
    pub subject: String,
    /// The value of the username claim; for `email` only where the provider says that it was verified.
    pub username: Option<String>,
    pub groups: BTreeSet<String>,
    /// `name`, for people to read.
    pub name: Option<String>,
    /// Never empty.
    pub nonce: String,
    /// Seconds since the epoch.
    pub issued_at: u64,
    pub expires_at: u64,
}

/// Why an ID token was refused, or could not be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenError {
    #[error(transparent)]
    Jose(#[from] JoseError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("claim {claim} is {found}, expected {expected}")]
    NamedClaim { claim: String, expected: &'static str, found: &'static str },
    #[error("its typ is that of another kind of token, expected JWT or none")]
    WrongType,
    #[error("its iss is not the provider that was configured")]
    WrongIssuer,
    #[error("its alg is {algorithm}, which is not one that the provider was configured with")]
    AlgorithmNotAllowed { algorithm: Algorithm },
    #[error("the provider's keys were never fetched")]
    KeysUnavailable,
    #[error("the provider's keys are {age} s old, at most {KEYS_STALE_AFTER} s are accepted")]
    KeysStale { age: u64 },
    #[error("the provider has no {algorithm} key of the token's kid")]
    UnknownKey { algorithm: Algorithm },
    #[error("the provider has more than one {algorithm} key that fits the token's header")]
    AmbiguousKey { algorithm: Algorithm },
    #[error("its aud does not name the configured client")]
    WrongAudience,
    #[error("its azp is not the configured client, or is missing beside several audiences")]
    WrongParty,
    #[error("it expired {ago} s ago")]
    Expired { ago: u64 },
    #[error("it is not valid before {within} s from now")]
    NotYetValid { within: u64 },
    #[error("it was issued {ahead} s in the future")]
    IssuedInFuture { ahead: u64 },
    #[error("it was issued {age} s ago, at most {MAX_ID_TOKEN_AGE} s are accepted: log in again")]
    TooOld { age: u64 },
    #[error("it lists {got} groups, at most {MAX_GROUPS} are read: have the provider send fewer")]
    TooManyGroups { got: usize },
}

impl IdTokenError {
    /// A short name for counters and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            IdTokenError::Jose(e) => e.label(),
            IdTokenError::Claim(e) => e.label(),
            IdTokenError::NamedClaim { .. } => "claim_type",
            IdTokenError::WrongType => "wrong_type",
            IdTokenError::WrongIssuer => "unknown_issuer",
            IdTokenError::AlgorithmNotAllowed { .. } => "algorithm_not_allowed",
            IdTokenError::KeysUnavailable => "keys_unavailable",
            IdTokenError::KeysStale { .. } => "keys_stale",
            IdTokenError::UnknownKey { .. } => "unknown_key",
            IdTokenError::AmbiguousKey { .. } => "ambiguous_key",
            IdTokenError::WrongAudience => "wrong_audience",
            IdTokenError::WrongParty => "wrong_azp",
            IdTokenError::Expired { .. } => "expired",
            IdTokenError::NotYetValid { .. } => "not_yet_valid",
            IdTokenError::IssuedInFuture { .. } => "issued_in_future",
            IdTokenError::TooOld { .. } => "too_old",
            IdTokenError::TooManyGroups { .. } => "too_many_groups",
        }
    }

    /// The fault is ours or the provider's, not the token's: the same login may succeed later.
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, IdTokenError::KeysUnavailable | IdTokenError::KeysStale { .. })
    }
}

/// The `iss` of a token that nobody has verified, to choose whose keys to try. Nothing else of it is believed.
pub fn unverified_issuer(token: &str) -> Result<String, IdTokenError> {
    let claims = Compact::parse(token, MAX_ID_TOKEN)?.claims()?;
    Ok(Claims(&claims).required_text("iss")?.to_owned())
}

impl RelyingParty {
    /// The profile of one client at one provider; without algorithms, RS256, which every provider signs with
    /// unless told otherwise.
    pub fn new(
        issuer: String,
        client_id: String,
        algorithms: &[String],
        username_claim: String,
        groups_claim: Option<String>,
    ) -> Result<RelyingParty, UnknownAlgorithm> {
        let mut pinned = algorithms.iter().map(|name| name.parse()).collect::<Result<BTreeSet<_>, _>>()?;
        if pinned.is_empty() {
            pinned.insert(Algorithm::Rs256);
        }
        Ok(RelyingParty { issuer, client_id, algorithms: pinned, username_claim, groups_claim })
    }

    /// Verifies against the provider's keys and when those were confirmed, seconds since the epoch.
    pub fn verify(
        &self,
        token: &str,
        keys: Option<(&Arc<Jwks>, u64)>,
        now: u64,
    ) -> Result<IdToken, IdTokenError> {
        let compact = Compact::parse(token, MAX_ID_TOKEN)?;
        let payload = compact.claims()?;
        let claims = Claims(&payload);
        if claims.required_text("iss")? != self.issuer {
            return Err(IdTokenError::WrongIssuer);
        }
        // Absent or `JWT` (§2 has none of its own). Everything else names another kind of token.
        if compact.media_type().is_some_and(|typ| typ != "jwt") || !compact.typ_is_text() {
            return Err(IdTokenError::WrongType);
        }
        self.verify_signature(&compact, keys, now)?;
        self.check_parties(claims)?;
        self.read(claims, now)
    }

    fn verify_signature(
        &self,
        compact: &Compact<'_>,
        keys: Option<(&Arc<Jwks>, u64)>,
        now: u64,
    ) -> Result<(), IdTokenError> {
        let algorithm = compact.algorithm();
        if !self.algorithms.contains(&algorithm) {
            return Err(IdTokenError::AlgorithmNotAllowed { algorithm });
        }
        let (jwks, at) = keys.filter(|(jwks, _)| !jwks.is_empty()).ok_or(IdTokenError::KeysUnavailable)?;
        let age = now.saturating_sub(at);
        if age > KEYS_STALE_AFTER {
            return Err(IdTokenError::KeysStale { age });
        }
        let key = jwks.find(compact.kid(), algorithm).map_err(|why| match why {
            KeyLookup::Unknown => IdTokenError::UnknownKey { algorithm },
            KeyLookup::Ambiguous => IdTokenError::AmbiguousKey { algorithm },
        })?;
        Ok(compact.verify(key)?)
    }

    /// §3.1.3.7, 3 to 5.
    fn check_parties(&self, claims: Claims<'_>) -> Result<(), IdTokenError> {
        let audience = claims.one_or_more("aud")?;
        if !audience.contains(&self.client_id.as_str()) {
            return Err(IdTokenError::WrongAudience);
        }
        match claims.text("azp")? {
            Some(party) if party == self.client_id => Ok(()),
            None if audience.len() == 1 => Ok(()),
            _ => Err(IdTokenError::WrongParty),
        }
    }

    fn read(&self, claims: Claims<'_>, now: u64) -> Result<IdToken, IdTokenError> {
        let subject = claims.required_text("sub")?;
        let expires_at = claims.required_date("exp")?;
        let issued_at = claims.required_date("iat")?;
        let nonce = claims.required_text("nonce")?;
        if now >= expires_at.saturating_add(DEFAULT_SKEW) {
            return Err(IdTokenError::Expired { ago: now.saturating_sub(expires_at) });
        }
        let latest = now.saturating_add(DEFAULT_SKEW);
        if issued_at > latest {
            return Err(IdTokenError::IssuedInFuture { ahead: issued_at.saturating_sub(now) });
        }
        if let Some(not_before) = claims.date("nbf")?
            && not_before > latest
        {
            return Err(IdTokenError::NotYetValid { within: not_before.saturating_sub(now) });
        }
        let age = now.saturating_sub(issued_at);
        if age > MAX_ID_TOKEN_AGE {
            return Err(IdTokenError::TooOld { age });
        }
        Ok(IdToken {
            subject: subject.to_owned(),
            username: self.username(claims)?,
            groups: self.groups(claims)?,
            name: claims.text("name")?.map(str::to_owned),
            nonce: nonce.to_owned(),
            issued_at,
            expires_at,
        })
    }

    fn username(&self, claims: Claims<'_>) -> Result<Option<String>, IdTokenError> {
        // Whoever may type an address into their profile must not thereby become its owner.
        if self.username_claim == "email" && claims.0.get("email_verified") != Some(&Value::Bool(true)) {
            return Ok(None);
        }
        match claims.0.get(&self.username_claim) {
            None => Ok(None),
            Some(Value::String(text)) if crate::claims::is_plain(text) => Ok(Some(text.clone())),
            Some(other) => Err(IdTokenError::NamedClaim {
                claim: self.username_claim.clone(),
                expected: "a string of 1 to 1024 bytes without control characters",
                found: kind(other),
            }),
        }
    }

    fn groups(&self, claims: Claims<'_>) -> Result<BTreeSet<String>, IdTokenError> {
        let Some(name) = &self.groups_claim else { return Ok(BTreeSet::new()) };
        let wrong = |value: &Value| IdTokenError::NamedClaim {
            claim: name.clone(),
            expected: "an array of strings",
            found: kind(value),
        };
        match claims.0.get(name) {
            None => Ok(BTreeSet::new()),
            Some(Value::Array(items)) if items.len() > MAX_GROUPS => {
                Err(IdTokenError::TooManyGroups { got: items.len() })
            }
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| match item {
                    Value::String(text) if crate::claims::is_plain(text) => Ok(text.clone()),
                    other => Err(wrong(other)),
                })
                .collect(),
            Some(other) => Err(wrong(other)),
        }
    }
}
