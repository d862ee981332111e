//! A delegated key with its delegation: what a gateway holds to mint with. Published by the process
//! that renews delegations, read by the requests; a new one replaces it whole.

use std::sync::Arc;

use crate::delegation::{self, Delegation, DelegationError};
use crate::key::SigningKey;
use crate::txn::{self, MintError, Request, TxnClaims};

/// Mints transaction tokens under one delegation.
#[derive(Debug, Clone)]
pub struct DelegatedMinter {
    key: Arc<SigningKey>,
    delegation: Arc<str>,
    /// The name (`kid`) of the root under which it was signed.
    root: Arc<str>,
    terms: Arc<Delegation>,
    issuer: Arc<str>,
}

/// A token, to be sent and never logged, and what it says.
#[derive(Clone)]
pub struct Minted {
    pub token: String,
    pub claims: TxnClaims,
}

impl std::fmt::Debug for Minted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minted").field("txn", &self.claims.txn).finish_non_exhaustive()
    }
}

impl DelegatedMinter {
    /// `delegation` as the control plane returned it for this key; `issuer` is the `iss` of the mesh's
    /// tokens. Refused when it names another key.
    pub fn new(
        key: Arc<SigningKey>,
        delegation: &str,
        issuer: &str,
    ) -> Result<DelegatedMinter, DelegationError> {
        let terms = delegation::peek(delegation)?;
        if terms.thumbprint() != key.thumbprint() {
            return Err(DelegationError::WrongKey);
        }
        Ok(DelegatedMinter {
            key,
            root: delegation::root_of(delegation)?.into(),
            delegation: delegation.into(),
            terms: Arc::new(terms),
            issuer: issuer.into(),
        })
    }

    pub fn terms(&self) -> &Delegation {
        &self.terms
    }

    /// Names the token root behind the delegation: whoever does not believe that one believes no token of ours.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The `iss` that its tokens carry.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn mint(&self, mut request: Request, now: u64) -> Result<Minted, MintError> {
        request.issuer = self.issuer.to_string();
        let (token, claims) = txn::mint(&self.key, &self.delegation, &self.terms, request, now)?;
        Ok(Minted { token, claims })
    }
}
