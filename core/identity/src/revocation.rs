//! What has been revoked, for the check after every handshake and for live connections.

use std::collections::HashSet;

use crate::{key_id::KeyId, serial::Serial, spiffe_id::SpiffeId, svid::Svid};

/// A versioned set of revocations. An empty one revokes nothing and costs nothing to ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationSet {
    /// The version; a larger one replaces a smaller one.
    pub sequence: u64,
    /// Serials of leaves, and of issuers that are tainted.
    pub serials: HashSet<Serial>,
    /// Identities that may neither get a certificate nor connect.
    pub identities: HashSet<SpiffeId>,
    /// Keys of leaves, and of issuers that are tainted.
    pub keys: HashSet<KeyId>,
}

/// What it was that revoked a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevokedBy {
    #[error("its serial {0}")]
    Serial(Serial),
    #[error("its identity")]
    Identity,
    #[error("its key {0}")]
    Key(KeyId),
    #[error("its issuer's serial {0}")]
    IssuerSerial(Serial),
    #[error("its issuer's key {0}")]
    IssuerKey(KeyId),
}

impl RevocationSet {
    /// Nothing is revoked yet.
    pub fn new(sequence: u64) -> Self {
        Self { sequence, ..Self::default() }
    }

    /// Whether both revoke the same, whatever their versions.
    pub(crate) fn names_the_same(&self, other: &Self) -> bool {
        self.serials == other.serials && self.identities == other.identities && self.keys == other.keys
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty() && self.identities.is_empty() && self.keys.is_empty()
    }

    /// What revokes this certificate, if anything does: its identity, serial or key, or those of an issuer
    /// in its chain.
    pub fn revokes(&self, svid: &Svid) -> Option<RevokedBy> {
        if self.is_empty() {
            return None;
        }
        if self.identities.contains(&svid.id) {
            return Some(RevokedBy::Identity);
        }
        if self.serials.contains(&svid.serial) {
            return Some(RevokedBy::Serial(svid.serial));
        }
        if self.keys.contains(&svid.key) {
            return Some(RevokedBy::Key(svid.key));
        }
        svid.issuers.iter().find_map(|issuer| {
            if self.serials.contains(&issuer.serial) {
                Some(RevokedBy::IssuerSerial(issuer.serial))
            } else {
                self.keys.contains(&issuer.key).then_some(RevokedBy::IssuerKey(issuer.key))
            }
        })
    }
}
