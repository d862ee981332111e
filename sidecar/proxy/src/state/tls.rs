//! Who we are and whom we believe.

use std::sync::Arc;

use signet_identity::{Generation, RevocationSet};

/// The TLS snapshot. The generation's own number is this snapshot's generation; revocations change
/// without one.
#[derive(Clone)]
pub struct Tls {
    /// Roots and own SVID, and the configs built under them.
    pub generation: Arc<Generation>,
    /// Who is revoked, checked after every handshake and on live connections.
    pub revoked: Arc<RevocationSet>,
}

impl Tls {
    /// The same revocations under a new generation.
    #[must_use]
    pub fn with_generation(&self, generation: Arc<Generation>) -> Self {
        Tls { generation, revoked: self.revoked.clone() }
    }

    /// The same generation with news of revocation.
    #[must_use]
    pub fn with_revoked(&self, revoked: Arc<RevocationSet>) -> Self {
        Tls { generation: self.generation.clone(), revoked }
    }
}
