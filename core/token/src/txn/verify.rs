//! Believing a transaction token: the delegation inside it must hang from our token roots, and the
//! token must stay inside what that delegation allows.

use std::sync::Arc;

use super::claims::{Actor, TxnClaims};
use super::{LEEWAY, MAX_BYTES, MAX_TTL, TYPE};
use crate::access::is_scope;
use crate::cache::TokenCache;
use crate::claims::{ClaimError, Claims};
use crate::delegation::{self, Delegation, DelegationError, TokenRoots};
use crate::jws::{Compact, JoseError};

/// What a receiver believes tokens by.
pub struct Trust<'a> {
    pub trust_domain: &'a str,
    /// The `iss` of the mesh's tokens.
    pub issuer: &'a str,
    pub roots: &'a TokenRoots,
    /// Whether the delegation of this key thumbprint is revoked. Asked for each token.
    pub revoked: &'a dyn Fn(&str) -> bool,
    /// Delegations that were verified before. Every token of a gateway carries the same one, so with this a
    /// new token costs one signature and not two.
    pub remembered: Option<Remembered<'a>>,
}

/// Verified delegations, and what they were verified under.
#[derive(Clone, Copy)]
pub struct Remembered<'a> {
    pub cache: &'a TokenCache<Delegation>,
    /// Must grow whenever [`Trust::roots`] or [`Trust::trust_domain`] change.
    pub generation: u64,
}

impl Trust<'_> {
    fn grant(&self, compact: &str, now: u64) -> Result<Arc<Delegation>, DelegationError> {
        if let Some(Remembered { cache, generation }) = self.remembered
            && compact.len() <= delegation::MAX_BYTES
            && let Some(known) = cache.get(generation, compact, now)
            && known.is_valid_at(now)
        {
            return Ok(known);
        }
        let grant = Arc::new(delegation::verify(compact, self.roots, self.trust_domain, now)?);
        if let Some(Remembered { cache, generation }) = self.remembered {
            cache.insert(generation, compact, grant.clone(), grant.good_until());
        }
        Ok(grant)
    }
}

/// Why a transaction token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TxnError {
    #[error("transaction token: {0}")]
    Jose(#[from] JoseError),
    #[error("transaction token: {0}")]
    Claim(#[from] ClaimError),
    #[error("transaction token: typ is not {TYPE}")]
    WrongType,
    #[error("transaction token: {0}")]
    Delegation(#[from] DelegationError),
    #[error("transaction token: its delegation is revoked")]
    Revoked,
    #[error("transaction token: kid is not the thumbprint of the delegated key")]
    WrongKey,
    #[error("transaction token: req_wl is not the workload that the delegation names")]
    WrongRequester,
    #[error("transaction token: valid outside its delegation")]
    OutsideDelegation,
    #[error("transaction token: scope is above the delegation's ceiling")]
    ScopeAboveCeiling,
    #[error("transaction token: scope is not a list of scopes")]
    BadScope,
    #[error("transaction token: the delegation does not cover the subject's issuer alias")]
    AliasNotDelegated,
    #[error("transaction token: the delegation does not cover its kind of credential")]
    CredentialNotDelegated,
    #[error("transaction token: aud is not this trust domain")]
    WrongAudience,
    #[error("transaction token: iss is not this mesh's token service")]
    WrongIssuer,
    #[error("transaction token: expired {ago} s ago")]
    Expired { ago: u64 },
    #[error("transaction token: issued {ahead} s in the future")]
    IssuedInFuture { ahead: u64 },
    #[error("transaction token: lives {lifetime} s, at most {MAX_TTL} s are allowed")]
    TooLongLived { lifetime: u64 },
    #[error("transaction token: outlives the credential that it was minted from")]
    OutlivesSource,
}

impl TxnError {
    /// A short name for counters, logs and `signet-deny-reason`.
    pub const fn label(&self) -> &'static str {
        match self {
            TxnError::Jose(JoseError::TooLarge { .. }) => "txn_too_large",
            TxnError::Jose(JoseError::Signature) => "txn_bad_signature",
            TxnError::Jose(_) => "txn_malformed",
            TxnError::Claim(_) => "txn_bad_claims",
            TxnError::WrongType => "txn_wrong_type",
            TxnError::Delegation(DelegationError::NoRoots) => "txn_no_roots",
            TxnError::Delegation(DelegationError::UnknownRoot) => "txn_key_unknown",
            TxnError::Delegation(DelegationError::NotValidNow { .. }) => "txn_delegation_ended",
            TxnError::Delegation(_) => "txn_bad_delegation",
            TxnError::Revoked => "txn_delegation_revoked",
            TxnError::WrongKey => "txn_wrong_key",
            TxnError::WrongRequester => "txn_wrong_requester",
            TxnError::OutsideDelegation => "txn_outside_delegation",
            TxnError::ScopeAboveCeiling => "txn_scope_ceiling",
            TxnError::BadScope => "txn_bad_scope",
            TxnError::AliasNotDelegated => "txn_alias_not_delegated",
            TxnError::CredentialNotDelegated => "txn_credential_not_delegated",
            TxnError::WrongAudience => "txn_wrong_audience",
            TxnError::WrongIssuer => "txn_wrong_issuer",
            TxnError::Expired { .. } => "txn_expired",
            TxnError::IssuedInFuture { .. } => "txn_issued_in_future",
            TxnError::TooLongLived { .. } => "txn_too_long_lived",
            TxnError::OutlivesSource => "txn_outlives_source",
        }
    }

    /// The receiver has no token roots yet: not the token's fault.
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, TxnError::Delegation(DelegationError::NoRoots))
    }
}

/// Verifies a token under the delegation that it carries.
pub fn verify(token: &str, trust: &Trust<'_>, now: u64) -> Result<TxnClaims, TxnError> {
    verify_with_grant(token, trust, now).map(|(claims, _)| claims)
}

/// The same, with that delegation: its key is what others verify the token by.
pub fn verify_with_grant(
    token: &str,
    trust: &Trust<'_>,
    now: u64,
) -> Result<(TxnClaims, Arc<Delegation>), TxnError> {
    let compact = Compact::parse(token, MAX_BYTES)?;
    if compact.header_text("typ")? != TYPE {
        return Err(TxnError::WrongType);
    }
    let grant = trust.grant(compact.header_text("dlg")?, now)?;
    if (trust.revoked)(grant.thumbprint()) {
        return Err(TxnError::Revoked);
    }
    if compact.kid() != Some(grant.thumbprint()) {
        return Err(TxnError::WrongKey);
    }
    compact.verify(&grant.key)?;

    let payload = compact.claims()?;
    let claims = TxnClaims::read(Claims(&payload))?;
    if claims.req_wl != grant.subject {
        return Err(TxnError::WrongRequester);
    }
    if claims.issued_at.saturating_add(LEEWAY) < grant.issued_at || claims.expires_at > grant.expires_at {
        return Err(TxnError::OutsideDelegation);
    }
    if !claims.scopes().all(is_scope) {
        return Err(TxnError::BadScope);
    }
    if !claims.scopes().all(|scope| grant.scope_ceiling.allows(scope)) {
        return Err(TxnError::ScopeAboveCeiling);
    }
    let actor = claims.actor.as_ref().map(Actor::alias);
    if !actor.into_iter().chain([claims.alias()]).all(|alias| grant.aliases.contains(alias)) {
        return Err(TxnError::AliasNotDelegated);
    }
    if !grant.credentials.contains(&claims.rctx.cred) {
        return Err(TxnError::CredentialNotDelegated);
    }
    if claims.audience != trust.trust_domain {
        return Err(TxnError::WrongAudience);
    }
    if claims.issuer != trust.issuer {
        return Err(TxnError::WrongIssuer);
    }
    check_time(&claims, now)?;
    Ok((claims, grant))
}

fn check_time(claims: &TxnClaims, now: u64) -> Result<(), TxnError> {
    if now >= claims.good_until() {
        return Err(TxnError::Expired { ago: now.saturating_sub(claims.expires_at) });
    }
    if claims.issued_at > now.saturating_add(LEEWAY) {
        return Err(TxnError::IssuedInFuture { ahead: claims.issued_at.saturating_sub(now) });
    }
    let lifetime = claims.expires_at.saturating_sub(claims.issued_at);
    if lifetime > MAX_TTL {
        return Err(TxnError::TooLongLived { lifetime });
    }
    if claims.rctx.src_exp.is_some_and(|source| claims.expires_at > source) {
        return Err(TxnError::OutlivesSource);
    }
    Ok(())
}
