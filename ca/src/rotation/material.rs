//! What belongs to a slot beside its phase: certificates and public keys. Nothing in here is secret.

use rustls_pki_types::CertificateDer;
use signet_identity::KeyId;

use super::machine::{Kind, Slot};
use crate::external::chain::Chain;
use crate::hierarchy::{CaCertificate, HierarchyError};
use crate::profile::Validity;

/// A slot with its public material, as one row of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) slot: Slot,
    /// A root: the anchor that verifiers hold, or the request for it, DER. An issuer: its certificate, or the request for it. A key: its
    /// public JWK, JSON.
    pub(crate) public: Vec<u8>,
    /// A root whose key is an intermediate under a root kept elsewhere: that intermediate's certificate, DER.
    pub(crate) intermediate: Option<Vec<u8>>,
    /// A root: its key certified by the root before it, DER, for those who know only that one.
    pub(crate) cross: Option<Vec<u8>>,
}

impl Entry {
    pub(crate) fn new(slot: Slot, public: Vec<u8>) -> Entry {
        Entry { slot, public, intermediate: None, cross: None }
    }

    /// The certificate of the key that signs: an issuer's own, a root's own or its intermediate.
    pub(crate) fn signing_certificate(&self) -> Result<CaCertificate, HierarchyError> {
        Ok(CaCertificate::read(self.intermediate.as_deref().unwrap_or(&self.public))?)
    }

    /// A root that was signed or given from outside.
    pub(crate) fn take(&mut self, chain: &Chain) {
        let Validity { not_before, not_after } = chain.validity();
        (self.slot.not_before, self.slot.not_after) = (not_before, not_after);
        self.public = chain.anchor.der.to_vec();
        self.intermediate = chain.intermediate.as_ref().map(|one| one.der.to_vec());
    }

    pub(crate) fn anchor(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.public.clone())
    }

    /// SHA-256 of a root's anchor: how join bundles and sidecars name it.
    pub(crate) fn anchor_sha256(&self) -> KeyId {
        KeyId::of(&self.public)
    }

    pub(crate) fn is(&self, kind: Kind) -> bool {
        self.slot.kind == kind
    }
}
