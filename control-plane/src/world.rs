//! One consistent view of everything that sidecars are told: registry, issuers' keys, federated bundles, authority.
//!
//! Each of them has an owner and a watch channel; whenever one changes, a new [`World`] is made of the
//! latest of all and swapped in. Streams wait for that one channel.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use signet_ca::{Authority, Crls, Published, Revocations};
use signet_identity::{KeyId, TrustDomain};
use signet_model::Registry;
use tokio::sync::watch;

use crate::delivery::catalog::Catalog;
use crate::delivery::spread::Spread;
use crate::federation::{Federated, Federation};
use crate::issuers::fetch::Source;
use crate::issuers::{Issuers, Keys};
use crate::registry;

/// What the authority has to say to everybody.
#[derive(Debug, Clone)]
pub struct AuthorityState {
    pub trust_domain: TrustDomain,
    pub roots: Vec<CertificateDer<'static>>,
    /// SHA-256 of what among roots and issuers may be in other hands.
    pub tainted: Vec<KeyId>,
    pub bundle_sequence: u64,
    pub revocations: Arc<Revocations>,
    /// A JWK set as JSON.
    pub token_roots: String,
    /// Which of them may be in other hands, by `kid`.
    pub tainted_token_roots: Vec<String>,
    /// The keys that sign JWT-SVIDs, a JWK set as JSON.
    pub jwt_keys: String,
    /// The revocation lists of this control plane's issuers.
    pub crls: Crls,
}

impl AuthorityState {
    /// What `authority` says, with these revocations.
    #[must_use]
    pub fn of(authority: &Authority, revocations: Arc<Revocations>) -> Self {
        let published = authority.published().borrow().clone();
        Self {
            trust_domain: authority.control_plane_id().trust_domain().clone(),
            roots: published.roots.clone(),
            tainted: published.tainted.clone(),
            bundle_sequence: published.sequence,
            revocations,
            token_roots: published.token_keys.clone(),
            tainted_token_roots: published.tainted_token_keys.clone(),
            jwt_keys: published.jwt_keys.clone(),
            crls: authority.crls().borrow().clone(),
        }
    }
}

/// A moment of the mesh.
#[derive(Debug)]
pub struct World {
    /// Number of the bundle of roots and keys in it.
    pub bundle: u64,
    /// Number of the set of revocations in it.
    pub revocations: u64,
    pub registry: Arc<Registry>,
    pub catalog: Catalog,
}

/// Where worlds come from.
pub struct Sources {
    pub dev: bool,
    pub authority: Authority,
    pub published: watch::Receiver<Arc<Published>>,
    pub revocations: watch::Receiver<Arc<Revocations>>,
    pub crls: watch::Receiver<Crls>,
    pub registry: watch::Receiver<registry::State>,
    pub keys: watch::Receiver<Keys>,
    pub federated: watch::Receiver<Federated>,
    /// Providers with which operators log in: followed beside the registry's issuers.
    pub providers: BTreeMap<String, Source>,
}

impl Sources {
    /// The world as it is now; what is seen here counts as seen.
    pub fn now(&mut self) -> Arc<World> {
        let registry = Arc::clone(&self.registry.borrow_and_update().registry);
        let keys = Arc::clone(&self.keys.borrow_and_update());
        let federated = Arc::clone(&self.federated.borrow_and_update());
        let revocations = Arc::clone(&self.revocations.borrow_and_update());
        self.published.mark_unchanged();
        self.crls.mark_unchanged();
        let authority = AuthorityState::of(&self.authority, revocations);
        let catalog = Catalog::build(self.dev, &registry, &keys, &federated, &authority);
        let (bundle, revocations) = (authority.bundle_sequence, authority.revocations.set.sequence);
        Arc::new(World { bundle, revocations, registry, catalog })
    }

    /// Keeps `world` current until a source is gone.
    pub async fn follow(
        mut self,
        world: watch::Sender<Arc<World>>,
        issuers: Arc<Issuers>,
        federation: Arc<Federation>,
        spread: Arc<Spread>,
    ) {
        loop {
            let changed = tokio::select! {
                changed = self.registry.changed() => changed,
                changed = self.keys.changed() => changed,
                changed = self.federated.changed() => changed,
                changed = self.revocations.changed() => changed,
                changed = self.published.changed() => changed,
                changed = self.crls.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            let now = self.now();
            issuers.follow(&self.key_sources(&now.registry));
            federation.follow(&now.registry);
            spread.begins(now.revocations);
            world.send_replace(now);
        }
    }
}

impl Sources {
    /// Whose keys are to be fetched, by alias.
    #[must_use]
    pub fn key_sources(&self, registry: &Registry) -> BTreeMap<String, Source> {
        let mut sources = key_sources(registry);
        sources.extend(self.providers.clone());
        sources
    }
}

/// Of the registry's issuers.
#[must_use]
fn key_sources(registry: &Registry) -> BTreeMap<String, Source> {
    let source = |issuer: &signet_model::Issuer| Source {
        issuer: issuer.spec.issuer.to_string(),
        jwks_uri: issuer.spec.jwks_uri.as_ref().map(ToString::to_string),
    };
    registry.issuers().map(|issuer| (issuer.name.to_string(), source(issuer))).collect()
}
