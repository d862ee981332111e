//! Who we are and whom we believe, now: one own SVID, the bundles, the revocations, and the TLS generation
//! that is built from them.
//!
//! Two sources write here (renewal: a new SVID; delivery: bundles and revocations), and each change becomes
//! a new [`Generation`] only after it verified our own certificate as a peer would. What does not build is
//! not published: the generation before goes on. Readers take the current [`Tls`] or watch for the next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::pki_types::{CertificateDer, UnixTime};
use signet_identity::{
    BundleError, Bundles, Expected, Generation, GenerationError, GenerationOptions, HandshakeFailure, KeyId,
    Own, OwnSvid, RevocationSet, SpiffeId, Svid, TrustBundle, TrustDomain,
};
use signet_proxy::state::{State, Tls};
use signet_token::Jwks;
use tokio::sync::watch;

use crate::control::refused::{Refusals, Told};

/// Why a change was not published.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The bundles cannot be used together.
    #[error("the trust bundles cannot be used: {0}")]
    Bundles(#[from] BundleError),
    /// Our own SVID and the bundles do not fit.
    #[error("no TLS generation can be built: {0}")]
    Generation(#[from] GenerationError),
}

/// A trust bundle as it came, and how new it is.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// The roots.
    pub bundle: TrustBundle,
    /// Grows with each change of this trust domain's roots.
    pub sequence: u64,
    /// Whose private key may be in other hands: SHA-256 of a root's certificate or an issuer's public key.
    pub tainted: Vec<KeyId>,
    /// The keys that sign its JWT-SVIDs; none of ours depends on them.
    pub jwt_keys: Jwks,
}

/// See the module's story.
pub struct Credentials {
    domain: TrustDomain,
    options: GenerationOptions,
    parts: Mutex<Parts>,
    current: watch::Sender<Option<Tls>>,
    /// Handshakes with the control plane that failed.
    pub refusals: Refusals,
    /// Where the data plane reads; attached once there is something to read.
    state: OnceLock<Arc<State>>,
}

struct Parts {
    number: u64,
    own: Option<OwnSvid>,
    bundles: BTreeMap<TrustDomain, Delivered>,
    revoked: Arc<RevocationSet>,
}

impl Credentials {
    /// Nobody yet, in this trust domain.
    pub fn new(domain: TrustDomain, options: GenerationOptions) -> Arc<Self> {
        let parts = Parts {
            number: 0,
            own: None,
            bundles: BTreeMap::new(),
            revoked: Arc::new(RevocationSet::new(0)),
        };
        let (current, _) = watch::channel(None);
        Arc::new(Self {
            domain,
            options,
            parts: Mutex::new(parts),
            current,
            refusals: Refusals::default(),
            state: OnceLock::new(),
        })
    }

    /// Our trust domain.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// A certificate was issued, with the roots of our trust domain as the authority sees them.
    pub fn issued(
        &self,
        own: OwnSvid,
        bundle: Option<Delivered>,
    ) -> Result<Arc<Generation>, CredentialsError> {
        let mut parts = self.parts();
        let mut next = parts.bundles.clone();
        if let Some(delivered) = bundle {
            take(&mut next, delivered);
        }
        let generation = self.build(parts.number.saturating_add(1), own.clone(), &next)?;
        parts.number = generation.number();
        parts.own = Some(own);
        parts.bundles = next;
        self.publish(&parts, generation.clone());
        Ok(generation)
    }

    /// The roots as delivered: every trust domain that is trusted. Our own is never removed, and no bundle
    /// is replaced by an older one. True if a new generation was published.
    pub fn trust(&self, delivered: impl IntoIterator<Item = Delivered>) -> Result<bool, CredentialsError> {
        let mut parts = self.parts();
        let mut next: BTreeMap<_, _> = parts
            .bundles
            .iter()
            .filter(|(domain, _)| **domain == self.domain)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        for one in delivered {
            if let Some(held) = parts.bundles.get(one.bundle.trust_domain()) {
                next.insert(one.bundle.trust_domain().clone(), held.clone());
            }
            take(&mut next, one);
        }
        let unchanged = next.len() == parts.bundles.len()
            && next.iter().all(|(domain, one)| parts.bundles.get(domain).is_some_and(|held| same(held, one)));
        if unchanged {
            return Ok(false);
        }
        // Remembered even if it does not build with the SVID that we have: the next SVID must fit it.
        parts.bundles = next;
        let Some(own) = parts.own.clone() else { return Ok(false) };
        let generation = self.build(parts.number.saturating_add(1), own, &parts.bundles)?;
        parts.number = generation.number();
        self.publish(&parts, generation);
        Ok(true)
    }

    /// Whether our own certificate is under a root or issuer whose key may be in other hands: it is to be renewed at
    /// once.
    pub fn is_tainted(&self) -> bool {
        let Some(tls) = self.current() else { return false };
        let parts = self.parts();
        let Some(own) = parts.bundles.get(&self.domain) else { return false };
        let svid = tls.generation.own().svid();
        let issuers = svid.issuers.iter().map(|issuer| issuer.key);
        issuers.chain([tls.generation.own_root()]).any(|key| own.tainted.contains(&key))
    }

    /// Whether one of this certificate's issuers is such a one.
    pub fn taints(&self, svid: &Svid) -> bool {
        let parts = self.parts();
        let own = parts.bundles.get(&self.domain);
        own.is_some_and(|own| svid.issuers.iter().any(|issuer| own.tainted.contains(&issuer.key)))
    }

    /// News of revocation. An older set than the one held is ignored.
    pub fn revoke(&self, revoked: Arc<RevocationSet>) {
        let mut parts = self.parts();
        if revoked.sequence < parts.revoked.sequence {
            return;
        }
        parts.revoked = revoked;
        let generation = self.current.borrow().as_ref().map(|tls| tls.generation.clone());
        if let Some(generation) = generation {
            self.publish(&parts, generation);
        }
    }

    /// From now on the data plane sees every change. Called once.
    pub fn attach(&self, state: Arc<State>) {
        let _parts = self.parts();
        if let Some(tls) = self.current() {
            state.update_tls(|_| tls.clone());
        }
        // A second call would be a second data plane, of which there is none.
        let _ = self.state.set(state);
    }

    /// What is in force.
    pub fn current(&self) -> Option<Tls> {
        self.current.borrow().clone()
    }

    /// The number of our own trust domain's roots.
    pub fn bundle_sequence(&self) -> u64 {
        self.parts().bundles.get(&self.domain).map_or(0, |held| held.sequence)
    }

    /// Told of every change.
    pub fn watch(&self) -> watch::Receiver<Option<Tls>> {
        self.current.subscribe()
    }

    /// Whether our own certificate is within its dates and not revoked.
    pub fn is_valid(&self, now: i64) -> bool {
        self.current().is_some_and(|tls| {
            let svid = tls.generation.own().svid();
            svid.not_before <= now && now <= svid.not_after && tls.revoked.revokes(svid).is_none()
        })
    }

    /// For whoever dials the control plane: keeps what fails, with who we are by then.
    pub fn told(self: &Arc<Self>) -> Told {
        let credentials = self.clone();
        Arc::new(move |failure, remote| {
            let tls = credentials.current();
            let own = tls.map(|tls| Own::of(&tls.generation, &tls.revoked));
            credentials.refusals.note(failure, remote, own);
        })
    }

    /// Checks the certificates of a control plane that we dialled.
    pub fn check_control_plane(
        &self,
        certificates: Option<&[CertificateDer<'static>]>,
        expected: &SpiffeId,
    ) -> Result<(), HandshakeFailure> {
        let Some(tls) = self.current() else { return Err(HandshakeFailure::NoCertificate) };
        let expected = Expected::ControlPlane(expected);
        tls.generation.check(certificates, &expected, &tls.revoked, UnixTime::now()).map(drop)
    }

    fn build(
        &self,
        number: u64,
        own: OwnSvid,
        bundles: &BTreeMap<TrustDomain, Delivered>,
    ) -> Result<Arc<Generation>, CredentialsError> {
        let bundles = Bundles::new(bundles.values().map(|delivered| delivered.bundle.clone()))?;
        Ok(Generation::build(number, own, Arc::new(bundles), self.options.clone())?)
    }

    fn publish(&self, parts: &Parts, generation: Arc<Generation>) {
        generation.learn(&parts.revoked);
        let tls = Tls { generation, revoked: parts.revoked.clone() };
        if let Some(state) = self.state.get() {
            state.update_tls(|_| tls.clone());
        }
        self.current.send_replace(Some(tls));
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Parts> {
        // Every change is made whole before it is stored, so a poisoned lock holds nothing broken.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a bundle unless a newer one of its domain is held.
fn take(bundles: &mut BTreeMap<TrustDomain, Delivered>, one: Delivered) {
    let domain = one.bundle.trust_domain().clone();
    if bundles.get(&domain).is_none_or(|held| held.sequence <= one.sequence) {
        bundles.insert(domain, one);
    }
}

/// Whether two bundles have the same roots; a greater number alone is no change.
fn same(one: &Delivered, other: &Delivered) -> bool {
    one.bundle.digests().eq(other.bundle.digests())
}

#[cfg(test)]
mod tests;
