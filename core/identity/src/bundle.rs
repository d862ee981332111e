//! Trust bundles: the roots of one trust domain, and the set of them.
//!
//! Roots of different trust domains are never merged. A verifier takes the trust domain out of the leaf
//! first and then looks at that domain's roots alone; otherwise every federated authority could make
//! certificates for every domain.

use std::{collections::BTreeMap, sync::Arc};

use rustls::pki_types::{CertificateDer, TrustAnchor};

use crate::{
    key_id::KeyId,
    svid::{IssuerFacts, SvidError, parse_signer},
    trust_domain::TrustDomain,
};

/// Why some certificates are not a trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("the trust bundle of {0} has no root")]
    Empty(TrustDomain),
    #[error("root {index} of the trust bundle of {domain}: {reason}")]
    Root { domain: TrustDomain, index: usize, reason: SvidError },
    #[error("root {index} of the trust bundle of {domain} cannot be a trust anchor: {reason}")]
    Anchor { domain: TrustDomain, index: usize, reason: String },
    #[error("trust domain {0} has two bundles")]
    Twice(TrustDomain),
}

/// One root: its certificate, and what a verifier needs of it.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) digest: KeyId,
    pub(crate) facts: IssuerFacts,
}

/// The roots of one trust domain; at least one.
#[derive(Debug, Clone)]
pub struct TrustBundle {
    domain: TrustDomain,
    roots: Vec<Root>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl TrustBundle {
    /// Takes root certificates in DER. A root that names a trust domain names this one; the same root twice
    /// counts once.
    pub fn new<'a>(
        domain: TrustDomain,
        roots: impl IntoIterator<Item = CertificateDer<'a>>,
    ) -> Result<Self, BundleError> {
        let mut bundle = Self { domain, roots: Vec::new(), anchors: Vec::new() };
        for (index, der) in roots.into_iter().enumerate() {
            bundle.add(index, der.into_owned())?;
        }
        if bundle.roots.is_empty() {
            return Err(BundleError::Empty(bundle.domain));
        }
        Ok(bundle)
    }

    fn add(&mut self, index: usize, der: CertificateDer<'static>) -> Result<(), BundleError> {
        let domain = self.domain.clone();
        let (facts, named) = parse_signer(&der).map_err(|reason| BundleError::Root {
            domain: domain.clone(),
            index,
            reason,
        })?;
        if let Some(signer) = named.filter(|named| *named != self.domain) {
            let reason = SvidError::SignerTrustDomain { signer, leaf: domain.clone() };
            return Err(BundleError::Root { domain, index, reason });
        }
        let digest = KeyId::of(&der);
        if self.roots.iter().any(|root| root.digest == digest) {
            return Ok(());
        }
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|error| BundleError::Anchor { domain, index, reason: error.to_string() })?
            .to_owned();
        self.anchors.push(anchor);
        self.roots.push(Root { der, digest, facts });
        Ok(())
    }

    /// Whose roots these are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The root certificates in DER, in the order they came.
    pub fn roots(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|root| &root.der)
    }

    /// The SHA-256 of each root certificate.
    pub fn digests(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.roots.iter().map(|root| root.digest)
    }

    /// Whether a root with this SHA-256 is in it.
    pub fn contains(&self, root: &KeyId) -> bool {
        self.roots.iter().any(|known| known.digest == *root)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The roots that stand behind a trust anchor: more than one where a root was issued again for its key.
    pub(crate) fn roots_of<'a>(&'a self, anchor: &'a TrustAnchor<'_>) -> impl Iterator<Item = &'a Root> {
        let same = |known: &TrustAnchor<'_>| {
            known.subject == anchor.subject && known.subject_public_key_info == anchor.subject_public_key_info
        };
        self.anchors.iter().zip(&self.roots).filter(move |(known, _)| same(known)).map(|(_, root)| root)
    }
}

/// The bundles of every trust domain that is trusted, each for itself.
#[derive(Debug, Clone, Default)]
pub struct Bundles(BTreeMap<TrustDomain, Arc<TrustBundle>>);

impl Bundles {
    /// Takes one bundle per trust domain.
    pub fn new(bundles: impl IntoIterator<Item = TrustBundle>) -> Result<Self, BundleError> {
        let mut all = BTreeMap::new();
        for bundle in bundles {
            if let Some(twice) = all.insert(bundle.domain.clone(), Arc::new(bundle)) {
                return Err(BundleError::Twice(twice.domain.clone()));
            }
        }
        Ok(Self(all))
    }

    /// The bundle of this trust domain.
    pub fn get(&self, domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.0.get(domain)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        self.0.values()
    }
}

impl From<TrustBundle> for Bundles {
    fn from(bundle: TrustBundle) -> Self {
        Self(BTreeMap::from([(bundle.domain.clone(), Arc::new(bundle))]))
    }
}
