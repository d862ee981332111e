//! What user context is verified with and, at the edge, minted with.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use signet_token::{DelegatedMinter, Issuers, RevokedUsers, TokenRoots};

/// The key of a gateway and the delegation under which it mints.
pub type Minter = Arc<DelegatedMinter>;

/// The keys snapshot.
#[derive(Clone, Default)]
pub struct Keys {
    /// Grows with each change. Verified tokens are remembered under it, so a change forgets them.
    pub generation: u64,
    /// The trust domain, the audience of transaction tokens.
    pub trust_domain: Arc<str>,
    /// The `iss` of the mesh's transaction tokens.
    pub token_issuer: Arc<str>,
    /// The keys under which delegations are believed.
    pub roots: Arc<TokenRoots>,
    /// Names of those whose private half may be in other hands: believed while they last, and nothing begins under one.
    pub tainted_roots: Arc<BTreeSet<String>>,
    /// Outside issuers with the keys that the control plane fetched.
    pub issuers: Arc<Issuers>,
    /// Thumbprints of delegated keys that are revoked.
    pub revoked_delegations: Arc<HashSet<String>>,
    /// Users, sessions and tokens that are revoked. Asked for each request, also of one whose token is remembered.
    pub revoked_users: Arc<RevokedUsers>,
    /// Why nobody's user context is believed now: something is revoked that this version cannot tell from others.
    pub refuse_users: Option<Arc<str>>,
    /// At the edge: what transaction tokens are minted with.
    pub minter: Option<Minter>,
}

impl Keys {
    /// A copy with the next generation number, to be changed and published.
    #[must_use]
    pub fn next(&self) -> Self {
        Keys { generation: self.generation + 1, ..self.clone() }
    }
}
